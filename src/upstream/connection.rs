//! One upstream connection: who drives it, how it ends, what is known of it.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::body::RequestBody;
use super::pool::{Bucket, Place};
use crate::identity::Asked;
use crate::net::{Io, Meter, ticks};
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
    /// How it ended: `Some(None)` without an error.
    ended: OnceLock<Option<Arc<hyper::Error>>>,
    end: Notify,
}

impl About {
    pub(super) fn new(address: SocketAddr, version: Option<&'static str>, resumed: bool, asked: Option<Asked>) -> Self {
        Self { address, version, resumed, asked, ended: OnceLock::new(), end: Notify::new() }
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

/// A connection that can take a request.
pub(super) struct Conn {
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) about: Arc<About>,
    pub(super) meter: Arc<Meter>,
    /// [`ticks`] when it was made.
    pub(super) born: u64,
    /// Exchanges it has finished.
    pub(super) exchanges: u64,
}

impl Conn {
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }
}

/// The handle by which a running connection is cut.
pub(super) struct Live {
    /// Set once the task runs: it is registered before, because it may end at once.
    task: OnceLock<AbortHandle>,
    meter: Arc<Meter>,
}

impl Live {
    fn started(&self, task: AbortHandle) {
        let _ = self.task.set(task);
        // Cut between registration and start.
        if self.meter.is_cut() {
            self.cut();
        }
    }

    pub(super) fn cut(&self) {
        self.meter.cut();
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// Speaks HTTP/1.1 on `stream` and spawns the task that drives it. The task ends with the connection, and
/// the bucket's [`Live`] entry can end it.
pub(super) async fn start<S>(
    stream: S,
    about: About,
    bucket: &Arc<Bucket>,
    place: Place,
    metrics: &Arc<Metrics>,
) -> hyper::Result<Conn>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let meter = Meter::new();
    let io = TokioIo::new(Io::new(stream, meter.clone()));
    let (sender, connection) = http1::Builder::new().handshake(io).await?;
    let about = Arc::new(about);
    let live = Arc::new(Live { task: OnceLock::new(), meter: meter.clone() });
    let id = bucket.add_live(live.clone());
    metrics.upstream_connections.add();
    metrics.upstream_connections_opened.add();
    let guard = Guard { bucket: bucket.clone(), id, about: about.clone(), metrics: metrics.clone(), _place: place };
    // Not under the bucket's lock: a runtime that is ending drops the future here and now, and its guard takes that lock.
    let task = tokio::spawn(async move {
        let outcome = connection.await;
        let _ = guard.about.ended.set(outcome.err().map(Arc::new));
        drop(guard);
    });
    live.started(task.abort_handle());
    Ok(Conn { sender, about, meter, born: ticks(), exchanges: 0 })
}

/// Accounts for the end of a connection, also when its task is aborted.
struct Guard {
    bucket: Arc<Bucket>,
    id: u64,
    about: Arc<About>,
    metrics: Arc<Metrics>,
    _place: Place,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.about.ended.set(None);
        self.about.end.notify_waiters();
        self.metrics.upstream_connections.sub();
        self.bucket.remove_live(self.id);
    }
}
