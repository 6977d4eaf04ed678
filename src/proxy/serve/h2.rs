//! HTTP/2 on one connection (RFC 9113): hyper and h2, and the deadlines around them.
//!
//! What h2 refuses by itself, with RST_STREAM or GOAWAY: names in upper case, fields of one connection, control characters, pseudo-fields
//! that are unknown, doubled or in the wrong place, a body that is not as long as it was said to be, CONNECT with a
//! path, floods of CONTINUATION, of empty frames and of streams reset before anyone saw them. The rest is judged in
//! [`super::super::target`] and by the front ends.
//!
//! - Streams run as tasks of the proxy, so that one client can use more than one core. They end with their
//!   connection: h2 tells each of them when it is dropped.
//! - One coarse timer per connection, as for HTTP/1.1. Bytes on the connection are no sign that a stream
//!   lives, so each exchange remembers when it last moved; the timer looks at all of them.
//! - A stream costs nothing once it is reset, so a client could have any number begun (CVE-2023-44487). Whoever gives up
//!   more than half of them at once is shown the door.

mod streams;

use std::convert::Infallible;
use std::error::Error as _;
use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task;
use tokio::time::Instant;

use super::{Answering, Busy, FAREWELL, Gate, Serving};
use crate::config::LiveLimits;
use streams::{Activity, Counted, Haste, Running, Seen, Streams};

/// What a client may send of one body before it was taken, and of all bodies of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What h2 takes of an answer before the client does. h2's own is 400 KiB, for each of the streams.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams reset by the client before they were looked at, at any time, and streams that broke the rules, in all:
/// beyond that h2 ends the connection.
const UNSEEN_RESETS: usize = 20;
const BROKEN_RULES: usize = 128;
/// Serves the connection; its first bytes are the client's preface.
pub(super) async fn serve<I, H, B>(io: I, serving: Arc<Serving>, handle: H)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> Answering<B> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let activity = Arc::new(Activity::new());
    let service = {
        let activity = activity.clone();
        service_fn(move |mut request: Request<Incoming>| {
            let running = Running::begin(&activity);
            if !request.body().is_end_stream() || request.method() == Method::CONNECT {
                request.extensions_mut().insert(Busy(running.clone()));
            }
            let answering = handle(request);
            async move { Ok::<_, Infallible>(answering.await.map(|body| Counted::new(body, running))) }
        })
    };
    let streams = Streams { home: task::try_id(), activity: activity.clone(), tasks: serving.tasks.clone() };
    let mut connection = builder(streams, &serving.limits).serve_connection(TokioIo::new(io), service);
    let limits = &serving.limits;
    let mut watch = Watch::default();
    let mut gate = Gate::default();
    let mut sleep = pin!(tokio::time::sleep(limits.head_timeout()));
    let mut drained = pin!(serving.drain.cancelled());
    let mut aborted = pin!(serving.abort.cancelled());
    let (mut draining, mut hasty) = (false, false);
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Ended::ByItself(result));
            }
            let mut again = false;
            match activity.haste() {
                Haste::None => {}
                Haste::Much if hasty => {}
                Haste::Much => {
                    hasty = true;
                    watch.closing = true;
                    again = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
                Haste::TooMuch => {
                    hasty = true;
                    return Poll::Ready(Ended::Aborted);
                }
            }
            if gate.opened(cx) {
                let cx = &mut gate.context();
                if aborted.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ended::Aborted);
                }
                if !draining && drained.as_mut().poll(cx).is_ready() {
                    draining = true;
                    watch.closing = true;
                    again = true;
                    Pin::new(&mut connection).graceful_shutdown();
                    sleep.as_mut().reset(Instant::now() + farewell(activity.seen(), limits));
                }
                while sleep.as_mut().poll(cx).is_ready() {
                    let verdict = watch.look(activity.seen(), limits);
                    if verdict == Verdict::Busy {
                        for _ in 0..activity.cut_silent(limits.response_timeout() + limits.download_idle_timeout()) {
                            serving.metrics.client_timeouts.add();
                        }
                    }
                    let time = match verdict {
                        Verdict::Busy => limits.head_timeout(),
                        Verdict::Wait(time) => time,
                        Verdict::Idle => {
                            again = true;
                            Pin::new(&mut connection).graceful_shutdown();
                            farewell(activity.seen(), limits)
                        }
                        Verdict::Over if draining => return Poll::Ready(Ended::Aborted),
                        Verdict::Over => return Poll::Ready(Ended::TimedOut),
                    };
                    sleep.as_mut().reset(Instant::now() + time);
                }
            }
            if !again {
                return Poll::Pending;
            }
        }
    })
    .await;
    match ended {
        Ended::ByItself(Ok(())) | Ended::Aborted => {}
        Ended::ByItself(Err(error)) => {
            if error.source().and_then(|e| e.downcast_ref()).is_some_and(h2::Error::is_library) {
                serving.metrics.client_malformed.add();
            }
            tracing::debug!(%error, "client connection ended");
        }
        Ended::TimedOut => serving.metrics.client_timeouts.add(),
    }
    if hasty {
        serving.metrics.client_rapid_resets.add();
        tracing::debug!("a client gave up too many requests as soon as they had begun");
    }
}

fn builder(streams: Streams, limits: &LiveLimits) -> http2::Builder<Streams> {
    let most = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(most(limits.max_streams_per_client()))
        .max_header_list_size(most(limits.max_head_bytes()))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(UNSEEN_RESETS)
        .max_local_error_reset_streams(BROKEN_RULES)
        // WebSocket (RFC 8441).
        .enable_connect_protocol();
    builder
}

/// How serving ended.
enum Ended {
    ByItself(hyper::Result<()>),
    Aborted,
    TimedOut,
}

/// What a look says.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Something runs; look at each of it, and again after a while.
    Busy,
    /// All is well; look again after this.
    Wait(Duration),
    /// No request came in time: say so, and give the client a moment to hear it.
    Idle,
    /// That moment is over.
    Over,
}

/// Remembers from one look to the next.
#[derive(Default)]
struct Watch {
    /// GOAWAY was sent.
    closing: bool,
}

impl Watch {
    fn look(&mut self, seen: Seen, limits: &LiveLimits) -> Verdict {
        if seen.busy {
            return Verdict::Busy;
        }
        if self.closing {
            return Verdict::Over;
        }
        let limit = if seen.fresh { limits.head_timeout() } else { limits.keep_alive_timeout() };
        let left = limit.saturating_sub(seen.rested);
        if left.is_zero() {
            self.closing = true;
            return Verdict::Idle;
        }
        Verdict::Wait(left)
    }
}

/// How long an idle client has to hear a GOAWAY. h2 may still hold the end of an answer that is taken slowly.
fn farewell(seen: Seen, limits: &LiveLimits) -> Duration {
    if seen.fresh { FAREWELL } else { limits.head_timeout() }
}

#[cfg(test)]
mod tests;
