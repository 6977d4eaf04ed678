//! Bodies on their way through: counted, with back-pressure, never buffered beyond what may have to be sent again.
//!
//! A body that stalls is ended by a timer that exists only while it stalls. The end of a response
//! body is where an exchange ends: there the connection goes back to its pool and the log line is written.

mod reply;
mod source;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

pub use reply::{Ended, ReplyBody};

use crate::net::ticks;
use source::{Kept, MAX_KEPT, Reader, Source};

/// After this an upload goes on although the origin has not answered `Expect: 100-continue`
/// (RFC 9110 section 10.1.1: "a client ... SHOULD NOT wait for an indefinite period").
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);

/// A timer that runs only while nothing moves.
struct Stall {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Something moved since the timer was set.
    moved: bool,
}

impl Stall {
    fn new(limit: Duration) -> Self {
        Self { limit, timer: None, moved: false }
    }

    /// Called when nothing is there; ready once that has lasted for the limit.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let limit = self.limit;
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
            if std::mem::take(&mut self.moved) {
                timer.as_mut().reset(Instant::now() + limit);
            }
            std::task::ready!(timer.as_mut().poll(cx));
            if !self.moved {
                return Poll::Ready(());
            }
        }
    }
}

/// What became of an upload; shared with the log and the pool.
#[derive(Debug, Default)]
pub struct Upload {
    bytes: AtomicU64,
    finished: AtomicBool,
    /// [`ticks`] when something of it was last taken.
    moved: AtomicU64,
    /// Why no more of it came.
    fault: OnceLock<io::ErrorKind>,
}

impl Upload {
    /// Bytes of body taken from the client.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the whole body was taken.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// How long nothing of it was taken; `None` if nothing ever was.
    pub(super) fn idle(&self) -> Option<Duration> {
        let moved = self.moved.load(Ordering::Relaxed);
        (moved > 0).then(|| Duration::from_millis(ticks().saturating_sub(moved)))
    }

    /// Why it broke off, if it did on the client's side.
    pub(super) fn fault(&self) -> Option<io::ErrorKind> {
        self.fault.get().copied()
    }

    fn broke(&self, kind: io::ErrorKind) {
        let _ = self.fault.set(kind);
    }

    fn took(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.moved.store(ticks(), Ordering::Relaxed);
    }

    fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }
}

/// Holds an upload back until the origin says `100 Continue`, answers, or stays silent for a second.
#[derive(Debug, Default)]
pub(super) struct Gate {
    open: AtomicBool,
    opened: Notify,
}

impl Gate {
    pub(super) fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.opened.notify_waiters();
    }

    async fn passed(self: Arc<Self>) {
        let wait = async {
            loop {
                let opened = self.opened.notified();
                if self.open.load(Ordering::Acquire) {
                    return;
                }
                opened.await;
            }
        };
        let _ = tokio::time::timeout(CONTINUE_PATIENCE, wait).await;
    }
}

/// A client's request body on its way to the origin.
pub struct RequestBody {
    inner: Inner,
    upload: Option<Arc<Upload>>,
    stall: Stall,
    gate: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    /// Kept until the body has ended or is dropped: the right to the stream that it is sent on.
    slot: Option<Arc<dyn Send + Sync>>,
}

enum Inner {
    Empty,
    Direct(Source),
    Kept(Reader),
}

impl RequestBody {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self { inner: Inner::Empty, upload: None, stall: Stall::new(Duration::MAX), gate: None, slot: None }
    }

    /// The client's body; fails once it has not moved for `idle`. `expects`: the client waits for `100 Continue`.
    #[must_use]
    pub fn new(incoming: Incoming, idle: Duration, expects: bool) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        let upload: Arc<Upload> = Arc::default();
        let inner = Inner::Direct(Source::new(incoming, upload.clone(), !expects));
        Self { inner, upload: Some(upload), stall: Stall::new(idle), gate: None, slot: None }
    }

    /// Keeps `token` until the body has ended or is dropped.
    #[must_use]
    pub fn holding(mut self, token: Option<impl Send + Sync + 'static>) -> Self {
        if let (Inner::Direct(source), Some(token)) = (&mut self.inner, token) {
            source.hold(token);
        }
        self
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self.inner, Inner::Empty)
    }

    /// Whether it is known to be larger than what is kept of a body.
    pub(super) fn is_too_large_to_keep(&self) -> bool {
        self.size_hint().lower() > MAX_KEPT as u64
    }

    /// What became of it; `None` for an empty body.
    #[must_use]
    pub fn upload(&self) -> Option<&Arc<Upload>> {
        self.upload.as_ref()
    }

    /// Holds the body back behind `gate`, unless its client sends without being asked.
    pub(super) fn wait_for(&mut self, gate: Arc<Gate>) {
        if matches!(&self.inner, Inner::Direct(source) if !source.flows()) {
            self.gate = Some(Box::pin(gate.passed()));
        }
    }

    /// Goes on a stream of HTTP/2, which it keeps open as long as it has not ended.
    pub(super) fn on(&mut self, slot: Arc<dyn Send + Sync>) {
        self.slot = Some(slot);
    }

    /// The same body, and the means to send it once more as long as little of it was read and no answer has come.
    pub(super) fn keep(mut self) -> (Self, Option<Spare>) {
        let reader = match std::mem::replace(&mut self.inner, Inner::Empty) {
            Inner::Empty => return (self, None),
            Inner::Direct(source) => Kept::of(source),
            // Sent for the second time: what is kept of it is shared.
            Inner::Kept(reader) => reader.kept().reader().unwrap_or(reader),
        };
        let kept = reader.kept().clone();
        self.inner = Inner::Kept(reader);
        let spare = Spare { kept, upload: self.upload.clone(), idle: self.stall.limit };
        (self, Some(spare))
    }
}

/// A body that may be sent once more.
pub(super) struct Spare {
    kept: Arc<Kept>,
    upload: Option<Arc<Upload>>,
    idle: Duration,
}

impl Spare {
    /// The body from its beginning; `None` if too much of it was read.
    pub(super) fn again(&self) -> Option<RequestBody> {
        let inner = Inner::Kept(self.kept.reader()?);
        Some(RequestBody { inner, upload: self.upload.clone(), stall: Stall::new(self.idle), gate: None, slot: None })
    }

    /// An answer has come: nothing need be kept.
    pub(super) fn let_go(&self) {
        self.kept.let_go();
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        if let Some(gate) = &mut this.gate {
            std::task::ready!(gate.as_mut().poll(cx));
            this.gate = None;
        }
        let polled = match &mut this.inner {
            Inner::Empty => return Poll::Ready(None),
            Inner::Direct(source) => source.poll(cx),
            Inner::Kept(reader) => reader.poll(cx),
        };
        match polled {
            Poll::Ready(next) => {
                this.stall.moved = true;
                if next.is_none() || this.is_end_stream() {
                    this.slot = None;
                }
                Poll::Ready(next)
            }
            Poll::Pending => {
                std::task::ready!(this.stall.poll(cx));
                if let Some(upload) = &this.upload {
                    upload.broke(io::ErrorKind::TimedOut);
                }
                Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, "the client stopped sending"))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Empty => true,
            Inner::Direct(source) => source.is_end_stream(),
            Inner::Kept(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Direct(source) => source.size_hint(),
            Inner::Kept(reader) => reader.size_hint(),
        }
    }
}
