//! The exchanges of one HTTP/2 connection: the tasks that work for them, and what is known of each.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::sync::Notify;
use tokio::task;
use tokio_util::task::TaskTracker;

use super::super::Exchange;
use crate::net::ticks;
use crate::upstream::Upload;

/// Exchanges given up by the client within [`HASTE`] of their beginning. More than so many, and more than half of all,
/// and the connection takes no new ones; twice as many, and it is cut. (Envoy counts alike.)
pub(super) const GIVEN_UP: u64 = 128;
const HASTE: Duration = Duration::from_secs(1);

/// What is known of a connection's exchanges.
pub(super) struct Activity {
    /// That run: from the head until the last byte of the answer was handed on, and of the upload; tunnels until they end.
    busy: AtomicU64,
    /// That have ended.
    done: AtomicU64,
    /// Of them given up by the client as soon as they had begun.
    given_up: AtomicU64,
    /// Ticks when the last one ended, or the connection began.
    rested: AtomicU64,
    /// Between the call of the service and the start of its task, which follow each other in the connection's own task.
    pub(super) next: Mutex<Option<Arc<Running>>>,
    /// By the task that works for it. As many as streams, which are bounded.
    tasks: Mutex<HashMap<task::Id, Arc<Running>>>,
}

/// How many exchanges a client gave up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Haste {
    None,
    Much,
    TooMuch,
}

const UNBROKEN: &str = "nothing panics while holding it";

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            busy: AtomicU64::new(0),
            done: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            rested: AtomicU64::new(ticks()),
            next: Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    pub(super) fn seen(&self) -> Seen {
        Seen {
            busy: self.busy.load(Ordering::Acquire) > 0,
            fresh: self.done.load(Ordering::Relaxed) == 0,
            rested: Duration::from_millis(ticks().saturating_sub(self.rested.load(Ordering::Relaxed))),
        }
    }

    pub(super) fn haste(&self) -> Haste {
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
    pub(super) fn cut_silent(&self, limit: Duration) -> usize {
        let now = ticks();
        let tasks = self.tasks.lock().expect(UNBROKEN);
        tasks.values().filter(|running| running.is_silent(now, limit) && running.cut_now()).count()
    }
}

/// An exchange: however many hold on to it, it is counted once.
pub(super) struct Running {
    activity: Arc<Activity>,
    /// Ticks.
    began: u64,
    /// Ticks when something last happened to its stream, or its upload was seen to have moved.
    moved: AtomicU64,
    upload: OnceLock<Arc<Upload>>,
    /// Bytes of the upload at the last look.
    uploaded: AtomicU64,
    /// Its answer was handed on to the end, or broke off on the origin's side.
    pub(super) answered: AtomicBool,
    /// It became a tunnel, which has limits of its own.
    tunnel: AtomicBool,
    cut: AtomicBool,
    task: AtomicWaker,
    /// Its tunnel sends nothing more.
    shut: AtomicBool,
    /// Told when what writes into its tunnel ended before that: the client has reset it, or the connection is gone.
    gone: Notify,
}

impl Running {
    pub(super) fn begin(activity: &Arc<Activity>) -> Arc<Self> {
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
            shut: AtomicBool::new(false),
            gone: Notify::new(),
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

    fn shut(&self) {
        self.shut.store(true, Ordering::Release);
    }

    fn gone(&self) -> Option<&Notify> {
        Some(&self.gone)
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
pub(super) struct Streams {
    /// The connection's own task. It starts the exchanges; they start the tunnels.
    pub(super) home: Option<task::Id>,
    pub(super) activity: Arc<Activity>,
    pub(super) tasks: TaskTracker,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, work: F) {
        let here = task::try_id();
        let writes_tunnel = here != self.home;
        let running = if !writes_tunnel {
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
            if writes_tunnel && !running.shut.load(Ordering::Acquire) {
                running.gone.notify_one();
            }
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
pub(super) struct Counted<B> {
    body: B,
    running: Arc<Running>,
}

impl<B: Body> Counted<B> {
    pub(super) fn new(body: B, running: Arc<Running>) -> Self {
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
pub(super) struct Seen {
    pub(super) busy: bool,
    /// No exchange has ended yet.
    pub(super) fresh: bool,
    /// How long nothing has run.
    pub(super) rested: Duration,
}
