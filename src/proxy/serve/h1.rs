//! HTTP/1.1 on one connection: hyper, and the deadlines around it.
//!
//! hyper's `header_read_timeout` is left off on purpose: it also runs while a keep-alive connection is idle, and
//! it makes and drops a timer for every request. Instead one coarse timer per connection looks at the meter and
//! at the number of exchanges; a request costs it nothing. It may notice a slow head one `limits.head_timeout`
//! late, never early.
//!
//! Every byte passes the framing gate ([`Guarded`]) before hyper sees it. What the gate refuses is answered here,
//! once all that came before it is answered: hyper never learns of it.
//!
//! When egret ends, the next answer says `Connection: close`, and an idle connection waits for the request that may be
//! on its way, for [`LAST_CALL`].
//!
//! `half_close` is off: a client that closes while it waits has gone, and its exchange ends (an upstream
//! request is cancelled). The price is that a client that shuts down its sending side before the answer gets none.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use super::super::error;
use super::super::websocket::Switch;
use super::{Answering, Busy, Exchange, FAREWELL, Gate, LAST_CALL, Serving};
use crate::config::LiveLimits;
use crate::domain::Code;
use crate::net::{Guarded, HangUp, Meter};
use crate::upstream::Failure;

/// hyper refuses to work with less.
const LEAST_HEAD: usize = 8 * 1024;
/// hyper's own, for which it keeps the field table on the stack.
const DEFAULT_HEADERS: usize = 100;
/// What is read and thrown away after a last word, at most. Closing on unread bytes would reset the connection, and
/// the client might lose the answer.
const LINGER_BYTES: u64 = 1024 * 1024;

pub(super) fn builder(limits: &LiveLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .half_close(false)
        .keep_alive(true)
        .pipeline_flush(false)
        .max_buf_size(limits.max_head_bytes().max(LEAST_HEAD));
    if limits.max_headers() != DEFAULT_HEADERS {
        builder.max_headers(limits.max_headers());
    }
    builder
}

/// `ahead`: so many bytes that the meter has counted are still to be read from `io`.
pub(super) async fn serve<I, H, B>(io: I, meter: Arc<Meter>, ahead: usize, serving: Arc<Serving>, handle: H)
where
    I: AsyncRead + AsyncWrite + HangUp + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> Answering<B> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let activity = Arc::new(Activity::new(meter, ahead));
    let io = Guarded::new(io);
    let verdict = io.verdict();
    let service = {
        let (activity, switch) = (activity.clone(), verdict.clone());
        service_fn(move |mut request: Request<Incoming>| {
            let busy = Running::begin(&activity);
            if request.version() < Version::HTTP_11 {
                activity.http10.store(true, Ordering::Relaxed);
            }
            if request.headers().contains_key(UPGRADE) {
                request.extensions_mut().insert(Switch(switch.clone()));
            }
            if !request.body().is_end_stream() {
                // An answer may end before the upload does.
                request.extensions_mut().insert(busy.clone());
            }
            let tunnels = request.method() == Method::CONNECT;
            let (answering, activity) = (handle(request), activity.clone());
            async move {
                let mut response = answering.await;
                if activity.ending.load(Ordering::Relaxed) && !is_switch(&response, tunnels) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response.map(|body| Counted { body, _busy: busy }))
            }
        })
    };
    let mut connection = builder(&serving.limits).serve_connection(TokioIo::new(io), service).with_upgrades();
    let ended = {
        let mut watch = Watch::default();
        let mut gate = Gate::default();
        let mut sleep = pin!(tokio::time::sleep(serving.limits.head_timeout()));
        let mut drained = pin!(serving.drain.cancelled());
        let mut aborted = pin!(serving.abort.cancelled());
        std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                    return Poll::Ready(Ended::ByItself(result));
                }
                if verdict.is_due(activity.done.load(Ordering::Relaxed)) {
                    return Poll::Ready(Ended::Malformed);
                }
                if !gate.opened(cx) {
                    return Poll::Pending;
                }
                let cx = &mut gate.context();
                if aborted.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ended::Aborted);
                }
                let mut again = false;
                if watch.ending.is_none() && drained.as_mut().poll(cx).is_ready() {
                    watch.ending = Some(Instant::now());
                    activity.ending.store(true, Ordering::Relaxed);
                    sleep.as_mut().reset(Instant::now());
                }
                while sleep.as_mut().poll(cx).is_ready() {
                    match watch.look(activity.seen(), &serving.limits) {
                        Verdict::Wait(time) => sleep.as_mut().reset(Instant::now() + time),
                        Verdict::Idle if watch.closing => return Poll::Ready(Ended::TimedOut),
                        Verdict::Idle => {
                            watch.closing = true;
                            again = true;
                            Pin::new(&mut connection).graceful_shutdown();
                            sleep.as_mut().reset(Instant::now() + serving.limits.head_timeout());
                        }
                        Verdict::SlowHead => return Poll::Ready(Ended::SlowHead),
                        Verdict::Stalled => return Poll::Ready(Ended::TimedOut),
                    }
                }
                if !again {
                    return Poll::Pending;
                }
            }
        })
        .await
    };
    let refused = verdict.refused();
    // An answer that broke off must not look whole to a client that knows no chunks.
    let broke_off = match &ended {
        Ended::ByItself(result) => result.as_ref().is_err_and(hyper::Error::is_user),
        Ended::Aborted | Ended::TimedOut => activity.seen().busy,
        Ended::Malformed | Ended::SlowHead => false,
    };
    if broke_off && activity.http10.load(Ordering::Relaxed) {
        if let Some(parts) = connection.into_parts() {
            parts.io.into_inner().into_inner().hang_up();
        }
        return;
    }
    if let Some(why) = refused {
        serving.metrics.client_malformed.add();
        tracing::debug!(%why, "the framing gate refused what a client sent");
    }
    let last_word = match ended {
        Ended::ByItself(result) => {
            if let Err(error) = result {
                if refused.is_none() && error.is_parse() {
                    serving.metrics.client_malformed.add();
                }
                tracing::debug!(%error, "client connection ended");
            }
            // The exchange whose body was refused has been answered, if that was still possible.
            refused.map(|_| Vec::new())
        }
        Ended::Malformed => refused.map(|why| error::written(&Failure::new(Code::RequestMalformed, why.0))),
        Ended::SlowHead => {
            serving.metrics.client_timeouts.add();
            Some(error::written(&Failure::new(Code::LimitRequestTimeout, "the head did not arrive in time")))
        }
        Ended::TimedOut => {
            serving.metrics.client_timeouts.add();
            None
        }
        Ended::Aborted => None,
    };
    if let (Some(last_word), Some(parts)) = (last_word, connection.into_parts()) {
        let farewell = farewell(parts.io.into_inner().into_inner(), &last_word);
        tokio::select! {
            _ = tokio::time::timeout(FAREWELL, farewell) => {}
            () = serving.abort.cancelled() => {}
        }
    }
}

/// Whether the connection becomes something else with this answer.
fn is_switch<B>(response: &Response<B>, tunnels: bool) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS || (tunnels && response.status().is_success())
}

/// How serving ended.
enum Ended {
    ByItself(hyper::Result<()>),
    /// The gate refused a message before anyone acted on it, and it is its turn.
    Malformed,
    Aborted,
    TimedOut,
    SlowHead,
}

/// Says a last word that hyper has none for, and closes so that the client can hear it.
async fn farewell<I: AsyncRead + AsyncWrite + Unpin>(mut io: I, last_word: &[u8]) -> io::Result<()> {
    io.write_all(last_word).await?;
    io.shutdown().await?;
    tokio::io::copy(&mut io.take(LINGER_BYTES), &mut tokio::io::sink()).await.map(drop)
}

/// What the timer looks at.
struct Activity {
    meter: Arc<Meter>,
    /// Exchanges that run: from the head until the last byte of the answer was taken, and of the upload.
    busy: AtomicU64,
    /// The client spoke HTTP/1.0: to it, the end of the connection may be the end of an answer.
    http10: AtomicBool,
    /// The next answer is the last.
    ending: AtomicBool,
    /// Exchanges that have ended.
    done: AtomicU64,
    /// What the meter had read when the last exchange ended: more means that the next head has begun.
    mark: AtomicU64,
}

impl Activity {
    fn new(meter: Arc<Meter>, ahead: usize) -> Self {
        let mark = AtomicU64::new(meter.read().saturating_sub(ahead as u64));
        let (busy, done) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { meter, busy, http10: AtomicBool::new(false), ending: AtomicBool::new(false), done, mark }
    }

    fn seen(&self) -> Seen {
        Seen {
            busy: self.busy.load(Ordering::Relaxed) > 0,
            done: self.done.load(Ordering::Relaxed),
            head_begun: self.meter.read() > self.mark.load(Ordering::Relaxed),
            idle: self.meter.idle(),
            now: Instant::now(),
        }
    }
}

/// One exchange: however many hold on to it, it is counted once.
struct Running(Arc<Activity>);

impl Running {
    fn begin(activity: &Arc<Activity>) -> Busy {
        activity.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::new(Self(activity.clone())))
    }
}

impl Exchange for Running {}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.mark.store(self.0.meter.read(), Ordering::Relaxed);
        self.0.done.fetch_add(1, Ordering::Relaxed);
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer's body, with the mark that its exchange still runs.
struct Counted<B> {
    body: B,
    _busy: Busy,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection at one look.
#[derive(Clone, Copy)]
struct Seen {
    busy: bool,
    done: u64,
    head_begun: bool,
    idle: Duration,
    now: Instant,
}

/// What a look says.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// All is well; look again after this.
    Wait(Duration),
    /// No request came in time.
    Idle,
    /// A head began and did not end in time.
    SlowHead,
    /// An exchange runs, and nothing has moved for longer than any exchange may be silent.
    Stalled,
}

/// Remembers from one look to the next.
#[derive(Default)]
struct Watch {
    /// A head that was seen unfinished: after how many exchanges, and when first.
    head: Option<(u64, Instant)>,
    /// It was idle and hyper was told to close.
    closing: bool,
    /// Since when egret ends.
    ending: Option<Instant>,
}

impl Watch {
    fn look(&mut self, seen: Seen, limits: &LiveLimits) -> Verdict {
        let often = if self.ending.is_some() { LAST_CALL } else { limits.head_timeout() };
        if seen.busy {
            self.head = None;
            // Waiting for an answer's head and then for its bytes are limited by the waist; a client that does
            // not take what is there is limited here.
            let silent = limits.response_timeout() + limits.download_idle_timeout();
            return if seen.idle >= silent { Verdict::Stalled } else { Verdict::Wait(often) };
        }
        if seen.head_begun {
            return match self.head {
                Some((done, since)) if done == seen.done => {
                    let left = limits.head_timeout().saturating_sub(seen.now - since);
                    if left.is_zero() { Verdict::SlowHead } else { Verdict::Wait(left) }
                }
                _ => {
                    self.head = Some((seen.done, seen.now));
                    Verdict::Wait(limits.head_timeout())
                }
            };
        }
        self.head = None;
        let limit = if seen.done == 0 { limits.head_timeout() } else { limits.keep_alive_timeout() };
        let left = match self.ending {
            None => limit.saturating_sub(seen.idle),
            Some(since) => LAST_CALL.saturating_sub(seen.idle.min(seen.now - since)),
        };
        if left.is_zero() { Verdict::Idle } else { Verdict::Wait(left.min(often)) }
    }
}

#[cfg(test)]
mod tests;
