//! One client connection: what HTTP it speaks, the library that speaks it, and the deadlines around that.
//!
//! What is common to HTTP/1.1 ([`h1`]) and HTTP/2 ([`h2`]) is here: limits and counters, how a request is taken,
//! and the [`Gate`] before the timers.

mod carried;
mod h1;
mod h2;
mod preface;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{Method, Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(super) use carried::carried;
pub(super) use preface::serve_by_preface;

use super::headers;
use crate::config::LiveLimits;
use crate::net::{HangUp, Meter};
use crate::observe::Metrics;
use crate::upstream::{ReplyBody, RequestBody, Upload};

/// An answer in the making. Boxed, so that an idle connection does not carry the space of a running exchange.
pub(super) type Answering<B = ReplyBody> = Pin<Box<dyn Future<Output = Response<B>> + Send>>;

/// A last word, and waiting until the client has taken it, lasts no longer.
const FAREWELL: Duration = Duration::from_secs(1);

/// When egret ends, an idle client has so long to send what is on its way: it is answered, with `Connection: close`. A
/// connection that is closed while a request travels loses that request (RFC 9112 section 9.6).
pub(super) const LAST_CALL: Duration = Duration::from_secs(1);

/// What serving a connection needs, whatever is served on it.
pub(super) struct Serving {
    /// Caps and deadlines.
    pub(super) limits: LiveLimits,
    /// Counters.
    pub(super) metrics: Arc<Metrics>,
    /// Begins the end: no new connections, and after a last call idle ones close.
    pub(super) drain: CancellationToken,
    /// Ends it: whatever still runs is cut.
    pub(super) abort: CancellationToken,
    /// Where the streams of HTTP/2 run; they end with their connection.
    tasks: TaskTracker,
}

impl Serving {
    pub(super) fn new(limits: LiveLimits, metrics: Arc<Metrics>, tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self { limits, metrics, drain: CancellationToken::new(), abort: CancellationToken::new(), tasks })
    }

    /// Resolves so long after the end has begun, and at once when everything is cut.
    pub(super) async fn last_call(&self, time: Duration) {
        self.drain.cancelled().await;
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.abort.cancelled() => {}
        }
    }
}

/// What a client speaks on its connection: by ALPN, or by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2, with or without TLS.
    Http2,
}

impl Protocol {
    /// What a TLS handshake agreed on; without ALPN it is HTTP/1.1.
    pub(super) fn agreed(alpn: Option<&[u8]>) -> Self {
        if alpn == Some(b"h2") { Self::Http2 } else { Self::Http1 }
    }
}

/// Serves one connection until it ends, is upgraded, idles too long, or the proxy ends.
pub(super) async fn serve<I, H, B>(io: I, protocol: Protocol, meter: Arc<Meter>, serving: Arc<Serving>, handle: H)
where
    I: AsyncRead + AsyncWrite + HangUp + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> Answering<B> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    match protocol {
        Protocol::Http1 => h1::serve(io, meter, 0, serving, handle).await,
        // Boxed: its state is larger, and most connections speak HTTP/1.1.
        Protocol::Http2 => Box::pin(h2::serve(io, serving, handle)).await,
    }
}

/// A request as the front ends take it: with a body that is counted, has its idle limit, and, if nobody wants it, is still
/// read for a moment, so that whatever refuses the request is heard. The [`Busy`] of a CONNECT stays among its extensions.
///
/// On HTTP/2 an unwanted body would not take the answer with it, but clients are known that treat the RST_STREAM that
/// follows the answer (RFC 9113 section 8.1) as a failure; so it is read for the same moment. And there a client that
/// expects `100 Continue` cannot be told so, because hyper sends no interim response: its body is passed on as soon as
/// it comes, which it does when the client's own patience ends. The origin still sees the expectation, and its refusal
/// is heard before that.
pub(super) fn taken(request: Request<Incoming>, limits: &LiveLimits) -> Request<RequestBody> {
    let (mut parts, body) = request.into_parts();
    let busy = if parts.method == Method::CONNECT { None } else { parts.extensions.remove::<Busy>() };
    let expects = parts.version < Version::HTTP_2 && headers::expects_continue(&parts.headers, parts.version);
    let body = RequestBody::new(body, limits.upload_idle_timeout(), expects);
    if let (Some(Busy(exchange)), Some(upload)) = (&busy, body.upload()) {
        exchange.uploads(upload);
    }
    Request::from_parts(parts, body.holding(busy))
}

/// An exchange that runs, as those who hold its [`Busy`] can touch it. On HTTP/1.1 it is its connection that is touched.
trait Exchange: Send + Sync {
    /// What moves there is a sign of life.
    fn uploads(&self, _upload: &Arc<Upload>) {}
    /// Ends it so that its client sees that it was cut.
    fn cut(&self) {}
    /// The tunnel that it became has no other end any more.
    fn let_go(&self) {}
    /// The tunnel that it became sends nothing more.
    fn shut(&self) {}
    /// What is told when the client resets the tunnel that it became; `None` where reading shows it.
    fn gone(&self) -> Option<&Notify> {
        None
    }
}

/// Marks an exchange as running while it or a clone lives. A request with a body, and a CONNECT on HTTP/2, carries one
/// among its extensions, for whoever takes the body or opens the tunnel.
#[derive(Clone)]
pub(super) struct Busy(Arc<dyn Exchange>);

impl Busy {
    /// Waits until the client of a tunnel on HTTP/2 has reset it. Reading shows CANCEL as an end like any other; without
    /// this the tunnel would stay for as long as its origin likes, while its client opens the next in its place.
    pub(super) async fn gone(this: Option<Self>) {
        match this.as_ref().and_then(|Self(exchange)| exchange.gone()) {
            Some(gone) => gone.notified().await,
            None => std::future::pending().await,
        }
    }
}

/// Lets timers and tokens be polled only when it was they who woke the task, not with every packet: their
/// polls take locks that all connections share.
pub(super) struct Gate {
    side: Arc<Side>,
    waker: Waker,
    /// The task's waker that `side` holds.
    known: Option<Waker>,
}

impl Default for Gate {
    fn default() -> Self {
        // Starts open, so that the first poll registers them.
        let side = Arc::new(Side { woken: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { waker: Waker::from(side.clone()), side, known: None }
    }
}

impl Gate {
    /// Whether they are to be polled now, with [`Gate::context`]. `cx` is the task's own.
    pub(super) fn opened(&mut self, cx: &Context<'_>) -> bool {
        if self.known.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
            self.side.task.register(cx.waker());
            self.known = Some(cx.waker().clone());
        }
        let opened = self.side.woken.load(Ordering::Relaxed) && self.side.woken.swap(false, Ordering::Acquire);
        if opened {
            // A wake takes the waker with it. Registered before the caller polls, so none is lost in between.
            self.side.task.register(cx.waker());
        }
        opened
    }

    /// What they are to be polled with.
    pub(super) fn context(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }
}

struct Side {
    /// Release-stored by a wake, acquire-swapped by the task.
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Side {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }
}
