//! Bodies on their way through: counted, with back-pressure, never buffered.
//!
//! A body that stalls is ended by a timer that exists only while it stalls. The end of a response
//! body is where an exchange ends: there the connection goes back to its pool and the log line is written.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::explain;
use crate::net::Meter;

/// After this an upload goes on although the origin has not answered `Expect: 100-continue`
/// (RFC 9110 section 10.1.1: "a client ... SHOULD NOT wait for an indefinite period").
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);

/// How much of an unwanted upload is read, and for how long.
const DISCARD_TIME: Duration = Duration::from_secs(1);
const DISCARD_BYTES: usize = 256 * 1024 * 1024;

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
    inner: Option<Incoming>,
    upload: Option<Arc<Upload>>,
    stall: Stall,
    gate: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    /// Let go of when the body has ended.
    held: Option<Box<dyn Send + Sync>>,
    /// The client sends (or would send) without being asked: not polling does not keep it from it.
    flows: bool,
}

impl RequestBody {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self { inner: None, upload: None, stall: Stall::new(Duration::MAX), gate: None, held: None, flows: false }
    }

    /// The client's body; fails once it has not moved for `idle`. `expects`: the client waits for `100 Continue`.
    #[must_use]
    pub fn new(incoming: Incoming, idle: Duration, expects: bool) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        let (inner, upload) = (Some(incoming), Some(Arc::default()));
        Self { inner, upload, stall: Stall::new(idle), gate: None, held: None, flows: !expects }
    }

    /// Keeps `token` until the body has ended or is dropped.
    #[must_use]
    pub fn holding(mut self, token: Option<impl Send + Sync + 'static>) -> Self {
        if let (false, Some(token)) = (self.is_empty(), token) {
            self.held = Some(Box::new(token));
        }
        self
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.is_none()
    }

    /// What became of it; `None` for an empty body.
    #[must_use]
    pub fn upload(&self) -> Option<&Arc<Upload>> {
        self.upload.as_ref()
    }

    /// Holds the body back behind `gate`, unless its client sends without being asked.
    pub(super) fn wait_for(&mut self, gate: Arc<Gate>) {
        if !self.flows {
            self.gate = Some(Box::pin(gate.passed()));
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        let (Some(inner), Some(upload)) = (&mut this.inner, &this.upload) else { return Poll::Ready(None) };
        if let Some(gate) = &mut this.gate {
            std::task::ready!(gate.as_mut().poll(cx));
            this.gate = None;
        }
        this.flows = true;
        match Pin::new(&mut *inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.stall.moved = true;
                if let Some(data) = frame.data_ref() {
                    upload.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                if inner.is_end_stream() {
                    upload.finished.store(true, Ordering::Release);
                    this.held = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let kind = explain::io_kind(&error).unwrap_or(io::ErrorKind::Other);
                Poll::Ready(Some(Err(io::Error::new(kind, error))))
            }
            Poll::Ready(None) => {
                upload.finished.store(true, Ordering::Release);
                this.held = None;
                Poll::Ready(None)
            }
            Poll::Pending => {
                std::task::ready!(this.stall.poll(cx));
                Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, "the client stopped sending"))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Many clients send a whole body before they look at the answer, and a connection that is closed under them
/// takes the answer with it. So what nobody wants any more is read for a moment, and thrown away.
impl Drop for RequestBody {
    fn drop(&mut self) {
        let finished = self.upload.as_ref().is_none_or(|upload| upload.is_finished());
        if let (Some(inner), false, true) = (self.inner.take(), finished, self.flows)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // Ends by itself: after a second, at the bound, or with the client's connection.
            runtime.spawn(tokio::time::timeout(DISCARD_TIME, discard(inner, self.held.take())));
        }
    }
}

async fn discard(mut body: Incoming, held: Option<Box<dyn Send + Sync>>) {
    let mut left = DISCARD_BYTES;
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            break;
        }
    }
    drop(held);
}

/// Told once how a response body ended.
pub trait Ended: Send + Sync {
    /// `complete`: the whole body was handed to the client's connection. `bytes`: of body.
    fn ended(self: Box<Self>, complete: bool, bytes: u64);
}

/// The body that goes back to a client.
pub struct ReplyBody {
    kind: Kind,
}

enum Kind {
    Full(Option<Bytes>),
    Stream { inner: Incoming, bytes: u64, stall: Stall, meter: Arc<Meter>, ended: Option<Box<dyn Ended>> },
}

impl ReplyBody {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self { kind: Kind::Full(None) }
    }

    /// These bytes.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { kind: Kind::Full((!bytes.is_empty()).then_some(bytes)) }
    }

    /// The origin's body on the connection that `meter` meters; fails once it has not moved for `idle`.
    /// `ended` is told exactly once, also when this is dropped.
    #[must_use]
    pub fn stream(inner: Incoming, meter: Arc<Meter>, idle: Duration, ended: Box<dyn Ended>) -> Self {
        // Nothing may come and yet a length have been announced (HEAD): the hint of `inner` is kept.
        let ended = if inner.is_end_stream() {
            ended.ended(true, 0);
            None
        } else {
            Some(ended)
        };
        Self { kind: Kind::Stream { inner, bytes: 0, stall: Stall::new(idle), meter, ended } }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let (inner, bytes, stall, meter, ended) = match &mut self.kind {
            Kind::Full(full) => return Poll::Ready(full.take().map(|b| Ok(Frame::data(b)))),
            Kind::Stream { inner, bytes, stall, meter, ended } => (inner, bytes, stall, meter, ended),
        };
        match Pin::new(&mut *inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                stall.moved = true;
                if let Some(data) = frame.data_ref() {
                    *bytes += data.len() as u64;
                }
                if inner.is_end_stream()
                    && let Some(ended) = ended.take()
                {
                    ended.ended(true, *bytes);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            // When a connection's task is ended from outside, hyper lets the body end as if it were whole.
            Poll::Ready(None) if ended.is_some() && meter.is_cut() => {
                if let Some(ended) = ended.take() {
                    ended.ended(false, *bytes);
                }
                Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut by egret"))))
            }
            Poll::Ready(None) => {
                if let Some(ended) = ended.take() {
                    ended.ended(true, *bytes);
                }
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                if let Some(ended) = ended.take() {
                    ended.ended(false, *bytes);
                }
                // The client's connection is cut without an end of message: truncation stays truncation.
                Poll::Ready(Some(Err(io::Error::other(error))))
            }
            Poll::Pending => {
                std::task::ready!(stall.poll(cx));
                if let Some(ended) = ended.take() {
                    ended.ended(false, *bytes);
                }
                Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, "the origin stopped sending"))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(full) => full.is_none(),
            Kind::Stream { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(full) => SizeHint::with_exact(full.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Stream { inner, .. } => inner.size_hint(),
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        if let Kind::Stream { ended, bytes, .. } = &mut self.kind
            && let Some(ended) = ended.take()
        {
            ended.ended(false, *bytes);
        }
    }
}
