//! One upstream connection: who drives it, how it ends, what is known of it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

use super::body::RequestBody;
use super::bucket::{Bucket, Place};
use super::wire::Wire;
use crate::identity::Asked;
use crate::net::{Meter, ticks};
use crate::observe::Metrics;

/// How long a failed request waits for its connection to say why. The connection's own error is the
/// reliable one: a refused client certificate races the request's "canceled".
const PATIENCE: Duration = Duration::from_millis(250);

/// What is known of a connection.
#[derive(Debug)]
pub(super) struct About {
    pub(super) address: SocketAddr,
    pub(super) version: Option<&'static str>,
    pub(super) resumed: bool,
    /// What the origin asked for; for a resumed session, what it asked for when that began.
    pub(super) asked: Option<Asked>,
    /// The generation of the egress rules by which name and address were judged last; 0 = not yet.
    judged: AtomicU64,
    /// An answer has come over it: then the origin took the certificate, or did without.
    answered: AtomicBool,
    /// The first TLS error under it.
    fault: OnceLock<rustls::Error>,
    /// The origin sent interim responses without end.
    endless: AtomicBool,
    /// How it ended: `Some(None)` without an error.
    ended: OnceLock<Option<Arc<hyper::Error>>>,
    end: Notify,
}

impl About {
    pub(super) fn new(address: SocketAddr, version: Option<&'static str>, resumed: bool, asked: Option<Asked>) -> Self {
        Self {
            address,
            version,
            resumed,
            asked,
            judged: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            fault: OnceLock::new(),
            endless: AtomicBool::new(false),
            ended: OnceLock::new(),
            end: Notify::new(),
        }
    }

    /// By the rules of this generation it may be used.
    pub(super) fn judged(&self, generation: u64) {
        self.judged.store(generation, Ordering::Relaxed);
    }

    /// Whether the rules of this generation permit its use, as far as is known.
    pub(super) fn is_judged(&self, generation: u64) -> bool {
        self.judged.load(Ordering::Relaxed) == generation
    }

    /// Remembers a TLS error on its way up.
    pub(super) fn note(&self, error: io::Error) -> io::Error {
        if let Some(fault) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            let _ = self.fault.set(fault.clone());
        }
        error
    }

    /// The first TLS error under it, such as the alert by which a certificate is refused.
    pub(super) fn fault(&self) -> Option<&rustls::Error> {
        self.fault.get()
    }

    pub(super) fn goes_on_without_end(&self) {
        self.endless.store(true, Ordering::Release);
    }

    pub(super) fn is_endless(&self) -> bool {
        self.endless.load(Ordering::Acquire)
    }

    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    pub(super) fn has_ended(&self, error: Option<hyper::Error>) {
        let _ = self.ended.set(error.map(Arc::new));
        self.end.notify_waiters();
    }

    /// The connection's own error, waiting a moment for it.
    pub(super) async fn error(&self) -> Option<Arc<hyper::Error>> {
        let wait = async {
            loop {
                let end = self.end.notified();
                if let Some(ended) = self.ended.get() {
                    return ended.clone();
                }
                end.await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.ok().flatten()
    }
}

/// An HTTP/1.1 connection that can take a request.
pub(super) struct Conn {
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) about: Arc<About>,
    pub(super) meter: Arc<Meter>,
    /// [`ticks`] when it was made.
    pub(super) born: u64,
    /// Kept while it is to stay registered after an upgrade, with its number in the bucket.
    tie: Option<(oneshot::Sender<()>, u64)>,
}

impl Conn {
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Made for a request that was to become something else: it speaks HTTP/1.1 whatever its origin prefers, so it
    /// serves no other.
    pub(super) fn is_for_upgrade(&self) -> bool {
        self.tie.is_some()
    }

    /// The hold on an upgraded connection of `bucket`: it counts as open, and as upgraded, until this is dropped.
    pub(super) fn into_tie(self, bucket: &Bucket) -> Option<Tie> {
        let (tie, id) = self.tie?;
        bucket.upgraded(id);
        Some(Tie(tie))
    }
}

/// Keeps an upgraded connection registered, so that it is counted and can be cut.
pub struct Tie(oneshot::Sender<()>);

impl Tie {
    /// Resolves when the connection was cut: its identity's deadline has come, or egret ends.
    pub async fn cut(&mut self) {
        self.0.closed().await;
    }
}

/// The handle by which a running connection is cut.
pub(super) struct Live {
    /// Set once the task runs: it is registered before, because it may end at once.
    task: OnceLock<AbortHandle>,
    meter: Arc<Meter>,
    upgraded: AtomicBool,
}

impl Live {
    pub(super) fn new(meter: Arc<Meter>) -> Arc<Self> {
        Arc::new(Self { task: OnceLock::new(), meter, upgraded: AtomicBool::new(false) })
    }

    pub(super) fn started(&self, task: AbortHandle) {
        let _ = self.task.set(task);
        // Cut between registration and start.
        if self.meter.is_cut() {
            self.cut();
        }
    }

    /// It has become something else. Whether that is news.
    pub(super) fn upgraded(&self) -> bool {
        !self.upgraded.swap(true, Ordering::Relaxed)
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    pub(super) fn cut(&self) {
        self.meter.cut();
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// Speaks HTTP/1.1 on `stream` and spawns the task that drives it. The task ends with the connection, and
/// the bucket's [`Live`] entry can end it. `upgrades`: the connection may become something else.
pub(super) async fn start<S>(
    stream: S,
    about: Arc<About>,
    bucket: &Arc<Bucket>,
    place: Place,
    metrics: &Arc<Metrics>,
    upgrades: bool,
) -> hyper::Result<Conn>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let meter = Meter::new();
    let io = TokioIo::new(Wire::new(stream, meter.clone(), about.clone(), None));
    let (sender, connection) = http1::Builder::new().handshake(io).await?;
    let live = Live::new(meter.clone());
    let ended = about.clone();
    let guard = Guard::new(bucket, &live, Some(about.clone()), metrics, place);
    // Not under the bucket's lock: a runtime that is ending drops the future here and now, and its guard takes that lock.
    let (task, tie) = if upgrades {
        let (tie, untied) = oneshot::channel();
        let tie = (tie, guard.id);
        let task = tokio::spawn(async move {
            let outcome = connection.with_upgrades().await;
            ended.has_ended(outcome.err());
            // Resolves also when the tie is dropped.
            let _ = untied.await;
            drop(guard);
        });
        (task, Some(tie))
    } else {
        let task = tokio::spawn(async move {
            let outcome = connection.await;
            ended.has_ended(outcome.err());
            drop(guard);
        });
        (task, None)
    };
    live.started(task.abort_handle());
    Ok(Conn { sender, about, meter, born: ticks(), tie })
}

/// Accounts for the end of a connection, also when its task is aborted.
pub(super) struct Guard {
    bucket: Arc<Bucket>,
    id: u64,
    /// Where it is to say that the connection has ended, if nobody else can say how.
    about: Option<Arc<About>>,
    metrics: Arc<Metrics>,
    _place: Place,
}

impl Guard {
    pub(super) fn new(
        bucket: &Arc<Bucket>,
        live: &Arc<Live>,
        about: Option<Arc<About>>,
        metrics: &Arc<Metrics>,
        place: Place,
    ) -> Self {
        let id = bucket.add_live(live.clone());
        metrics.upstream_connections.add();
        metrics.upstream_connections_opened.add();
        Self { bucket: bucket.clone(), id, about, metrics: metrics.clone(), _place: place }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(about) = &self.about {
            about.has_ended(None);
        }
        self.metrics.upstream_connections.sub();
        self.bucket.remove_live(self.id);
    }
}
