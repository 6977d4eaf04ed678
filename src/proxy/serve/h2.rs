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

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{Method, Request};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{Answering, Busy, Exchange, FAREWELL, Gate, Serving};
use crate::config::Limits;
use crate::net::ticks;
use crate::upstream::Upload;

/// What a client may send of one body before it was taken, and of all bodies of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What h2 takes of an answer before the client does. h2's own is 400 KiB, for each of the streams.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams reset by the client before they were looked at, at any time, and streams that broke the rules, in all:
/// beyond that h2 ends the connection.
const UNSEEN_RESETS: usize = 20;
const BROKEN_RULES: usize = 128;
/// Exchanges given up by the client within [`HASTE`] of their beginning. More than so many, and more than half of all,
/// and the connection takes no new ones; twice as many, and it is cut. (Envoy counts alike.)
const GIVEN_UP: u64 = 128;
const HASTE: Duration = Duration::from_secs(1);

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
    let silent = limits.response_timeout + limits.download_idle_timeout;
    let mut watch = Watch::default();
    let mut gate = Gate::default();
    let mut sleep = pin!(tokio::time::sleep(limits.head_timeout));
    let mut drained = pin!(serving.drain.cancelled());
    let mut aborted = pin!(serving.abort.cancelled());
    let mut draining = false;
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Ended::ByItself(result));
            }
            let mut again = false;
            match activity.haste() {
                Haste::None => {}
                Haste::Much if watch.closing => {}
                Haste::Much => {
                    watch.closing = true;
                    again = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
                Haste::TooMuch => return Poll::Ready(Ended::Hasty),
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
                    sleep.as_mut().reset(Instant::now() + FAREWELL);
                }
                while sleep.as_mut().poll(cx).is_ready() {
                    let verdict = watch.look(activity.seen(), limits);
                    if verdict == Verdict::Busy {
                        for _ in 0..activity.cut_silent(silent) {
                            serving.metrics.client_timeouts.add();
                        }
                    }
                    sleep.as_mut().reset(Instant::now() + match verdict {
                        Verdict::Busy => limits.head_timeout,
                        Verdict::Wait(time) => time,
                        Verdict::Idle => {
                            again = true;
                            Pin::new(&mut connection).graceful_shutdown();
                            FAREWELL
                        }
                        Verdict::Over if draining => return Poll::Ready(Ended::Aborted),
                        Verdict::Over => return Poll::Ready(Ended::TimedOut),
                    });
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
        Ended::Hasty => {
            serving.metrics.client_rapid_resets.add();
            tracing::debug!("a client gave up too many requests as soon as they had begun");
        }
    }
}

fn builder(streams: Streams, limits: &Limits) -> http2::Builder<Streams> {
    let most = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(most(limits.max_streams_per_client))
        .max_header_list_size(most(limits.max_head_bytes))
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
    Hasty,
}

/// What is known of a connection's exchanges.
struct Activity {
    /// That run: from the head until the last byte of the answer was handed on, and of the upload; tunnels until they end.
    busy: AtomicU64,
    /// That have ended.
    done: AtomicU64,
    /// Of them given up by the client as soon as they had begun.
    given_up: AtomicU64,
    /// Ticks when the last one ended, or the connection began.
    rested: AtomicU64,
    /// Between the call of the service and the start of its task, which follow each other in the connection's own task.
    next: Mutex<Option<Arc<Running>>>,
    /// By the task that works for it. As many as streams, which are bounded.
    tasks: Mutex<HashMap<task::Id, Arc<Running>>>,
}

/// How many exchanges a client gave up.
#[derive(Debug, PartialEq, Eq)]
enum Haste {
    None,
    Much,
    TooMuch,
}

const UNBROKEN: &str = "nothing panics while holding it";

impl Activity {
    fn new() -> Self {
        Self {
            busy: AtomicU64::new(0),
            done: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            rested: AtomicU64::new(ticks()),
            next: Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    fn seen(&self) -> Seen {
        Seen {
            busy: self.busy.load(Ordering::Acquire) > 0,
            fresh: self.done.load(Ordering::Relaxed) == 0,
            rested: Duration::from_millis(ticks().saturating_sub(self.rested.load(Ordering::Relaxed))),
        }
    }

    fn haste(&self) -> Haste {
        let given_up = self.given_up.load(Ordering::Relaxed);
        if given_up <= GIVEN_UP || given_up * 2 <= self.done.load(Ordering::Relaxed) {
            Haste::None
        } else if given_up <= 2 * GIVEN_UP {
            Haste::Much
        } else {
            Haste::TooMuch
        }
    }

    /// Cuts what has not moved for so long; how many these are.
    fn cut_silent(&self, limit: Duration) -> usize {
        let now = ticks();
        let tasks = self.tasks.lock().expect(UNBROKEN);
        tasks.values().filter(|running| running.is_silent(now, limit) && running.cut_now()).count()
    }
}

/// An exchange: however many hold on to it, it is counted once.
struct Running {
    activity: Arc<Activity>,
    /// Ticks.
    began: u64,
    /// Ticks when something last happened to its stream, or its upload was seen to have moved.
    moved: AtomicU64,
    upload: OnceLock<Arc<Upload>>,
    /// Bytes of the upload at the last look.
    uploaded: AtomicU64,
    /// Its answer was handed on to the end, or broke off on the origin's side.
    answered: AtomicBool,
    /// It became a tunnel, which has limits of its own.
    tunnel: AtomicBool,
    cut: AtomicBool,
    task: AtomicWaker,
}

impl Running {
    fn begin(activity: &Arc<Activity>) -> Arc<Self> {
        activity.busy.fetch_add(1, Ordering::Relaxed);
        let now = ticks();
        let running = Arc::new(Self {
            activity: activity.clone(),
            began: now,
            moved: AtomicU64::new(now),
            upload: OnceLock::new(),
            uploaded: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            tunnel: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            task: AtomicWaker::new(),
        });
        *activity.next.lock().expect(UNBROKEN) = Some(running.clone());
        running
    }

    fn is_silent(&self, now: u64, limit: Duration) -> bool {
        if self.tunnel.load(Ordering::Relaxed) {
            return false;
        }
        // An upload is polled by whoever sends it on, and not by the stream's task.
        let uploaded = self.upload.get().map_or(0, |upload| upload.bytes());
        if self.uploaded.swap(uploaded, Ordering::Relaxed) != uploaded {
            self.moved.store(now, Ordering::Relaxed);
        }
        u128::from(now.saturating_sub(self.moved.load(Ordering::Relaxed))) >= limit.as_millis()
    }

    /// False if it was cut before.
    fn cut_now(&self) -> bool {
        let first = !self.cut.swap(true, Ordering::Release);
        if first {
            self.task.wake();
        }
        first
    }

    /// Polls what works for it, until it is cut: then that is dropped, and h2 resets the stream.
    fn poll(&self, work: Pin<&mut impl Future<Output = ()>>, cx: &mut Context<'_>) -> Poll<()> {
        self.task.register(cx.waker());
        if self.cut.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.moved.store(ticks(), Ordering::Relaxed);
        work.poll(cx)
    }
}

impl Exchange for Running {
    fn uploads(&self, upload: &Arc<Upload>) {
        let _ = self.upload.set(upload.clone());
    }

    fn cut(&self) {
        self.cut_now();
    }

    fn let_go(&self) {
        self.moved.store(ticks(), Ordering::Relaxed);
        self.tunnel.store(false, Ordering::Relaxed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let (activity, now) = (&self.activity, ticks());
        let at_once = u128::from(now.saturating_sub(self.began)) < HASTE.as_millis();
        if at_once && !*self.answered.get_mut() && !*self.cut.get_mut() {
            activity.given_up.fetch_add(1, Ordering::Relaxed);
        }
        activity.done.fetch_add(1, Ordering::Relaxed);
        activity.rested.store(now, Ordering::Relaxed);
        activity.busy.fetch_sub(1, Ordering::Release);
    }
}

/// Where hyper's work for the streams of one connection runs: a task per exchange, and one more for what is written
/// into a tunnel.
#[derive(Clone)]
struct Streams {
    /// The connection's own task. It starts the exchanges; they start the tunnels.
    home: Option<task::Id>,
    activity: Arc<Activity>,
    tasks: TaskTracker,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, work: F) {
        let here = task::try_id();
        let running = if here == self.home {
            self.activity.next.lock().expect(UNBROKEN).take()
        } else {
            let running = here.and_then(|here| self.activity.tasks.lock().expect(UNBROKEN).get(&here).cloned());
            running.inspect(|running| running.tunnel.store(true, Ordering::Relaxed))
        };
        let Some(running) = running else {
            // hyper starts nothing else; if it ever does, it runs without being watched.
            self.tasks.spawn(work);
            return;
        };
        // Held until it is listed: a task that ends at once takes itself off the list after that.
        let mut list = self.activity.tasks.lock().expect(UNBROKEN);
        let listed = running.clone();
        let spawned = self.tasks.spawn(async move {
            let _listed = Listed(running.activity.clone());
            let mut work = pin!(work);
            poll_fn(|cx| running.poll(work.as_mut(), cx)).await;
        });
        list.insert(spawned.id(), listed);
    }
}

/// Takes its task off the list when that ends.
struct Listed(Arc<Activity>);

impl Drop for Listed {
    fn drop(&mut self) {
        if let Some(id) = task::try_id() {
            let removed = self.0.tasks.lock().expect(UNBROKEN).remove(&id);
            // Outside of the lock.
            drop(removed);
        }
    }
}

/// An answer's body, with the mark that its exchange still runs.
struct Counted<B> {
    body: B,
    running: Arc<Running>,
}

impl<B: Body> Counted<B> {
    fn new(body: B, running: Arc<Running>) -> Self {
        let counted = Self { body, running };
        counted.note(false);
        counted
    }

    fn note(&self, ended: bool) {
        if ended || self.body.is_end_stream() {
            self.running.answered.store(true, Ordering::Relaxed);
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(frame) = &polled {
            this.note(!matches!(frame, Some(Ok(frame)) if frame.is_data()));
        }
        polled
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
    /// No exchange has ended yet.
    fresh: bool,
    /// How long nothing has run.
    rested: Duration,
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
    fn look(&mut self, seen: Seen, limits: &Limits) -> Verdict {
        if seen.busy {
            return Verdict::Busy;
        }
        if self.closing {
            return Verdict::Over;
        }
        let limit = if seen.fresh { limits.head_timeout } else { limits.keep_alive_timeout };
        let left = limit.saturating_sub(seen.rested);
        if left.is_zero() {
            self.closing = true;
            return Verdict::Idle;
        }
        Verdict::Wait(left)
    }
}

#[cfg(test)]
mod tests;
