//! HTTP/2 connections: many requests at once, within what the origin takes.
//!
//! What must stay true:
//! - a stream is opened only with a [`Slot`] in hand, and there are never more slots than the origin's own limit; so
//!   nothing queues inside hyper, where it would be without bound and hold up all behind it;
//! - a connection whose origin said GOAWAY, that is too old, or whose identity was retired gives out no slot;
//! - a connection belongs to one bucket, so to one identity and one origin: nothing is ever coalesced.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::RequestBody;
use super::bucket::{Bucket, Dialling, Place};
use super::connection::{About, Guard, Live};
use super::send::MAX_INTERIM;
use super::wire::Wire;
use crate::config::LiveLimits;
use crate::net::{Meter, ticks};
use crate::observe::Metrics;

/// Streams that an origin is taken to accept before its SETTINGS have come. One request goes out at once; the others
/// wait for the origin's word, which comes with its first bytes.
const BEFORE_SETTINGS: usize = 1;
/// Interim ones, the answer's and the trailers.
const HEADS_PER_STREAM: u64 = MAX_INTERIM as u64 + 2;
/// What one upload may have waiting for its turn on the connection.
const MAX_SEND_BUFFER: usize = 256 * 1024;
/// Response fields; hyper's HTTP/1.1 side has a bound of the same order.
const MAX_RESPONSE_HEAD: u32 = 64 * 1024;

/// How many streams a connection has, and may have.
pub(super) struct Streams {
    /// What the origin takes, at most what we want; 0 until its SETTINGS have come.
    limit: AtomicUsize,
    most: usize,
    used: AtomicUsize,
    /// No new ones any more.
    closed: AtomicBool,
    /// Ever opened.
    opened: AtomicU64,
    /// Heads that the origin has sent, interim ones and trailers included.
    heads: AtomicU64,
    /// [`ticks`] when the last one ended.
    idle_since: AtomicU64,
    bucket: Arc<Bucket>,
    /// Until its SETTINGS have come, nobody knows for how many it is.
    dialling: Mutex<Option<Dialling>>,
}

impl Streams {
    /// The origin's SETTINGS: without a limit there is ours.
    pub(super) fn limited(&self, limit: Option<u32>) {
        let first = self.limit.load(Ordering::Relaxed) == 0;
        let Some(limit) = limit.map(|l| l as usize).or(first.then_some(self.most)) else { return };
        // Zero is allowed (RFC 9113 section 6.5.2) and would be taken for "not yet said"; then the connection is not
        // worth keeping.
        if limit == 0 {
            self.close();
        }
        let limit = limit.min(self.most);
        self.limit.store(limit, Ordering::Release);
        self.bucket.expect(limit);
        self.is_known();
    }

    /// One more head. Whether there are more than all streams together may have: then interim responses come without
    /// end, which hyper drops unseen.
    pub(super) fn too_many_heads(&self) -> bool {
        let heads = self.heads.fetch_add(1, Ordering::Relaxed) + 1;
        heads > self.opened.load(Ordering::Relaxed).saturating_mul(HEADS_PER_STREAM)
    }

    /// GOAWAY: what runs goes on, nothing new begins.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.is_known();
        self.bucket.wake_all();
    }

    /// Who waits need no longer wait for this connection.
    fn is_known(&self) {
        let dialling = self.dialling.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(dialling);
    }

    fn take(&self) -> bool {
        let limit = match self.limit.load(Ordering::Acquire) {
            0 => BEFORE_SETTINGS,
            limit => limit,
        };
        !self.closed.load(Ordering::Acquire)
            && self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |u| (u < limit).then_some(u + 1)).is_ok()
    }
}

/// An HTTP/2 connection in its bucket.
pub(super) struct Multi {
    sender: http2::SendRequest<RequestBody>,
    pub(super) about: Arc<About>,
    pub(super) meter: Arc<Meter>,
    /// [`ticks`] when it was made.
    pub(super) born: u64,
    streams: Arc<Streams>,
}

impl Multi {
    /// Room for one more stream, if there is some.
    pub(super) fn slot(self: &Arc<Self>) -> Option<Slot> {
        (!self.sender.is_closed() && self.streams.take()).then(|| {
            let earlier = self.streams.opened.fetch_add(1, Ordering::Relaxed);
            Slot { multi: self.clone(), reused: earlier > 0 }
        })
    }

    /// The first stream of a new connection. Of one that has ended meanwhile, too: who uses it learns why, which is
    /// where a refused certificate shows in TLS 1.3.
    pub(super) fn first_slot(self: &Arc<Self>) -> Option<Slot> {
        let over = || {
            self.streams.used.fetch_add(1, Ordering::AcqRel);
            Slot { multi: self.clone(), reused: false }
        };
        self.slot().or_else(|| self.sender.is_closed().then(over))
    }

    /// Takes no new stream ever again.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.streams.closed.load(Ordering::Acquire)
    }

    /// Since when ([`ticks`]) it has had no stream; `None` while it has.
    pub(super) fn idle_since(&self) -> Option<u64> {
        (self.streams.used.load(Ordering::Acquire) == 0).then(|| self.streams.idle_since.load(Ordering::Relaxed))
    }
}

/// The right to one stream. Held as long as the stream lives: by the answer and by an upload, whichever is longer.
pub(super) struct Slot {
    pub(super) multi: Arc<Multi>,
    /// The connection had a stream before this one.
    pub(super) reused: bool,
}

impl Slot {
    pub(super) fn sender(&self) -> http2::SendRequest<RequestBody> {
        self.multi.sender.clone()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let streams = &self.multi.streams;
        streams.idle_since.store(ticks(), Ordering::Relaxed);
        streams.used.fetch_sub(1, Ordering::AcqRel);
        streams.bucket.wake_one();
    }
}

/// Speaks HTTP/2 on `stream` and spawns the tasks that drive it. They end with the connection, and the bucket's
/// [`Live`] entry can end them.
pub(super) async fn start<S>(
    stream: S,
    about: Arc<About>,
    bucket: &Arc<Bucket>,
    (place, dialling): (Place, Option<Dialling>),
    limits: &LiveLimits,
    metrics: &Arc<Metrics>,
) -> hyper::Result<Arc<Multi>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let meter = Meter::new();
    let most = limits.max_streams_per_connection();
    let streams = Arc::new(Streams {
        limit: AtomicUsize::new(0),
        most,
        used: AtomicUsize::new(0),
        closed: AtomicBool::new(false),
        opened: AtomicU64::new(0),
        heads: AtomicU64::new(0),
        idle_since: AtomicU64::new(ticks()),
        bucket: bucket.clone(),
        dialling: Mutex::new(dialling),
    });
    let io = TokioIo::new(Wire::new(stream, meter.clone(), about.clone(), Some(streams.clone())));
    let live = Live::new(meter.clone());
    let guard = Guard::new(bucket, &live, None, metrics, place);
    let tasks = Tasks { first: Arc::new(Mutex::new(Some((guard, live)))) };
    let (sender, connection) = http2::Builder::new(tasks)
        .timer(TokioTimer::new())
        .initial_max_send_streams(most)
        .initial_stream_window_size(window(limits.h2_stream_window()))
        .initial_connection_window_size(window(limits.h2_connection_window()))
        .max_header_list_size(MAX_RESPONSE_HEAD)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .handshake(io)
        .await?;
    let (dispatched, ended) = (about.clone(), streams.clone());
    // Ends when every sender is gone or the connection has ended; the connection's own task is the one that is cut.
    // Only this one learns why.
    tokio::spawn(async move {
        let outcome = connection.await;
        ended.close();
        dispatched.has_ended(outcome.err());
    });
    Ok(Arc::new(Multi { sender, about, meter, born: ticks(), streams }))
}

/// Within what the configuration allows, which is less than the protocol does (RFC 9113 section 6.9.1).
fn window(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX >> 1)
}

/// Runs hyper's tasks. The first one of a connection is the connection itself, and hyper goes on with it when nobody
/// wants it any more: it carries the guard, and it is what is cut. The others end with it.
#[derive(Clone)]
struct Tasks {
    first: Arc<Mutex<Option<First>>>,
}

/// What the first task carries.
type First = (Guard, Arc<Live>);

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        match first {
            Some((guard, live)) => {
                let task = tokio::spawn(async move {
                    future.await;
                    drop(guard);
                });
                live.started(task.abort_handle());
            }
            None => {
                tokio::spawn(future);
            }
        }
    }
}
