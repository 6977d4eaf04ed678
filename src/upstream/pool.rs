//! Pooled connections, keyed by (serial, destination) and by nothing else.
//!
//! What must stay true:
//! - a connection is only ever given to a request whose selection holds the very `UpstreamTls` that
//!   dialled it: the key holds its serial, and serials are never used twice;
//! - a retired identity gives out no connection ([`Life`](crate::identity::Life) is looked at after the
//!   checkout, and again after a handshake), its idle ones close at once, its busy ones are not put back;
//! - everything is bounded: connections and handshakes per key, idle ones per key and over all.

use std::collections::HashMap;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use dashmap::DashMap;
use http::HeaderValue;
use rustls::pki_types::ServerName;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::connect::server_name;
use super::connection::{Conn, Live};
use super::{Destination, Failure, PoolState};
use crate::config::Limits;
use crate::domain::Code;
use crate::identity::{Serial, UpstreamTls};
use crate::net::ticks;
use crate::observe::Metrics;

/// How often idle connections are looked over.
const SWEEP: Duration = Duration::from_secs(1);

/// The whole key. Compared in full; there is no list of fields to forget one of.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    serial: Serial,
    to: Destination,
}

/// All pooled connections of one egret.
pub(super) struct Pool {
    buckets: DashMap<PoolKey, Arc<Bucket>>,
    /// Idle connections over all buckets.
    idle: AtomicUsize,
    pub(super) limits: Limits,
    pub(super) metrics: Arc<Metrics>,
}

/// The connections of one key.
pub(super) struct Bucket {
    pub(super) to: Destination,
    pub(super) tls: Arc<UpstreamTls>,
    /// The Host header of every request that goes here.
    pub(super) authority: HeaderValue,
    /// `None` for plain http.
    pub(super) name: Option<ServerName<'static>>,
    idle: Mutex<Vec<Idle>>,
    live: Mutex<HashMap<u64, Arc<Live>>>,
    next_id: AtomicU64,
    /// A permit per open connection.
    open: Arc<Semaphore>,
    /// A permit per handshake.
    pub(super) dials: Semaphore,
    /// Requests that wait for a connection to come back.
    waiting: AtomicUsize,
    freed: Notify,
    evicted: Notify,
    /// The last open connection has ended.
    emptied: Notify,
    /// Sweeps since a connection was last asked for.
    quiet: AtomicUsize,
}

struct Idle {
    conn: Conn,
    /// [`ticks`] when it came back.
    since: u64,
}

/// How long ago these [`ticks`] were.
fn since(at: u64) -> Duration {
    Duration::from_millis(ticks().saturating_sub(at))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while holding it")
}

impl Pool {
    pub(super) fn new(limits: Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { buckets: DashMap::new(), idle: AtomicUsize::new(0), limits, metrics })
    }

    /// The bucket of a key; made on first use, with the task that watches over its identity's life.
    pub(super) fn bucket(self: &Arc<Self>, tls: &Arc<UpstreamTls>, to: &Destination) -> Result<Arc<Bucket>, Failure> {
        let key = PoolKey { serial: tls.serial(), to: to.clone() };
        if let Some(found) = self.buckets.get(&key).map(|b| b.value().clone()) {
            return Ok(found);
        }
        let fresh = Arc::new(Bucket::new(tls, to, &self.limits)?);
        let bucket = self.buckets.entry(key.clone()).or_insert_with(|| fresh.clone()).value().clone();
        if Arc::ptr_eq(&bucket, &fresh) {
            tokio::spawn(watch(Arc::downgrade(self), key, fresh));
        }
        Ok(bucket)
    }

    /// The connection used last, if one is ready.
    pub(super) fn pop(&self, bucket: &Bucket) -> Option<Conn> {
        let mut idle = lock(&bucket.idle);
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            if idle[at].conn.is_closed() || self.is_old(&idle[at].conn) {
                idle.remove(at);
                self.idle.fetch_sub(1, Ordering::Relaxed);
            } else if idle[at].conn.is_ready() {
                self.idle.fetch_sub(1, Ordering::Relaxed);
                return Some(idle.remove(at).conn);
            }
        }
        None
    }

    /// A connection that was given back and that hyper will have ready in a moment.
    pub(super) fn pop_unready(&self, bucket: &Bucket) -> Option<Conn> {
        let mut idle = lock(&bucket.idle);
        let at = idle.iter().rposition(|i| !i.conn.is_closed())?;
        self.idle.fetch_sub(1, Ordering::Relaxed);
        Some(idle.remove(at).conn)
    }

    /// Takes a connection back, unless its identity was retired or a bound is reached.
    pub(super) fn put_back(&self, bucket: &Bucket, conn: Conn) {
        if conn.is_closed() || self.is_old(&conn) {
            return;
        }
        {
            let mut idle = lock(&bucket.idle);
            // Under the lock: `close_idle` takes it after the life was flipped, so none can slip in behind it.
            if !bucket.tls.life().is_active() {
                return;
            }
            if idle.len() >= self.limits.max_idle_per_origin
                || self.idle.load(Ordering::Relaxed) >= self.limits.max_idle
            {
                drop(idle);
                self.metrics.upstream_idle_full.add();
                return;
            }
            idle.push(Idle { conn, since: ticks() });
            self.idle.fetch_add(1, Ordering::Relaxed);
        }
        bucket.wake_one();
    }

    pub(super) fn state(&self) -> PoolState {
        let waiting = self.buckets.iter().map(|bucket| bucket.waiting.load(Ordering::Relaxed)).sum();
        PoolState { idle: self.idle.load(Ordering::Relaxed), waiting }
    }

    fn is_old(&self, conn: &Conn) -> bool {
        since(conn.born) > self.limits.pool_max_age
    }

    fn close_idle(&self, bucket: &Bucket) {
        let closed = std::mem::take(&mut *lock(&bucket.idle));
        self.idle.fetch_sub(closed.len(), Ordering::Relaxed);
    }

    /// Closes what has been idle too long and forgets buckets that nobody uses. Ends with the pool.
    pub(super) async fn sweep(pool: Weak<Self>) {
        let mut tick = tokio::time::interval(SWEEP);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let Some(pool) = pool.upgrade() else { return };
            let mut unused = Vec::new();
            for entry in &pool.buckets {
                let mut idle = lock(&entry.idle);
                let before = idle.len();
                idle.retain(|i| !i.conn.is_closed() && since(i.since) < pool.limits.pool_idle_timeout);
                pool.idle.fetch_sub(before - idle.len(), Ordering::Relaxed);
                let quiet = entry.quiet.fetch_add(1, Ordering::Relaxed);
                if idle.is_empty() && quiet as u64 >= pool.limits.pool_idle_timeout.as_secs() {
                    unused.push(entry.key().clone());
                }
            }
            for key in unused {
                // Two owners are left: the map and the watching task. Checked under the shard's lock, so nobody can
                // get hold of the bucket meanwhile.
                let gone = pool.buckets.remove_if(&key, |_, b| {
                    Arc::strong_count(b) == 2 && lock(&b.live).is_empty() && lock(&b.idle).is_empty()
                });
                if let Some((_, bucket)) = gone {
                    bucket.evicted.notify_one();
                }
            }
        }
    }

    /// Cuts every connection: the end of egret's drain.
    pub(super) fn cut_all(&self) {
        for entry in &self.buckets {
            entry.cut();
        }
    }

    #[cfg(test)]
    pub(super) fn idle_count(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }
}

/// A permit for one open connection. Given up (the connection has ended, or was never made), it wakes who waits for it:
/// first the permit, then the wake, or the woken would find nothing.
pub(super) struct Place {
    permit: Option<OwnedSemaphorePermit>,
    bucket: Arc<Bucket>,
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.bucket.wake_one();
    }
}

/// See [`Bucket::wait`].
pub(super) struct Waiting<'a> {
    count: &'a AtomicUsize,
    freed: Pin<Box<Notified<'a>>>,
}

impl Waiting<'_> {
    /// Resolves when a connection came back, one was closed, or the identity was retired.
    pub(super) async fn freed(mut self) {
        self.freed.as_mut().await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Watches over the life of a bucket's identity. Owned by the bucket: ends when that is evicted or its identity gone.
async fn watch(pool: Weak<Pool>, key: PoolKey, bucket: Arc<Bucket>) {
    let life = bucket.tls.life();
    tokio::select! {
        () = life.retired() => {}
        () = bucket.evicted.notified() => return,
    }
    if let Some(pool) = pool.upgrade() {
        pool.close_idle(&bucket);
        pool.buckets.remove_if(&key, |_, b| Arc::ptr_eq(b, &bucket));
    }
    // Who waits for a connection must select again, all of them.
    bucket.freed.notify_waiters();
    tokio::select! {
        () = life.gone() => {}
        // Nothing is left to cut, and the key need not stay in memory until the deadline.
        () = bucket.emptied() => return,
    }
    let cut = bucket.cut();
    if cut > 0 {
        tracing::info!(to = %bucket.to, connections = cut, "connections of a retired certificate were cut at their deadline");
        if let Some(pool) = pool.upgrade() {
            for _ in 0..cut {
                pool.metrics.retired_cut.add();
            }
        }
    }
}

impl Bucket {
    fn new(tls: &Arc<UpstreamTls>, to: &Destination, limits: &Limits) -> Result<Self, Failure> {
        let (authority, name) = match to {
            Destination::Tls(origin) => (origin.authority(), Some(server_name(origin.host())?)),
            Destination::Plain(target) => (target.authority(), None),
        };
        let authority = HeaderValue::try_from(authority)
            .map_err(|_| Failure::new(Code::Internal, "the authority cannot stand in a header"))?;
        Ok(Self {
            to: to.clone(),
            tls: tls.clone(),
            authority,
            name,
            idle: Mutex::default(),
            live: Mutex::default(),
            next_id: AtomicU64::new(0),
            open: Arc::new(Semaphore::new(limits.max_connections_per_origin)),
            dials: Semaphore::new(limits.max_dials_per_origin),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
            evicted: Notify::new(),
            emptied: Notify::new(),
            quiet: AtomicUsize::new(0),
        })
    }

    pub(super) fn touch(&self) {
        self.quiet.store(0, Ordering::Relaxed);
    }

    /// A place to open one more connection in, if there is one.
    pub(super) fn try_open(self: &Arc<Self>) -> Option<Place> {
        let permit = self.open.clone().try_acquire_owned().ok()?;
        Some(Place { permit: Some(permit), bucket: self.clone() })
    }

    /// Counts as waiting while it lives. Take this, then look once more, then await [`Waiting::freed`]: what comes back
    /// or closes after the second look is not missed.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut freed = Box::pin(self.freed.notified());
        freed.as_mut().enable();
        Waiting { count: &self.waiting, freed }
    }

    /// Resolves while no connection is open.
    async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if lock(&self.live).is_empty() {
                return;
            }
            emptied.await;
        }
    }

    fn wake_one(&self) {
        // The common case has nobody waiting and costs one load.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_one();
        }
    }

    /// Registers a connection, before its task is started.
    pub(super) fn add_live(&self, connection: Arc<Live>) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        lock(&self.live).insert(id, connection);
        self.tls.life().opened();
        id
    }

    pub(super) fn remove_live(&self, id: u64) {
        let mut live = lock(&self.live);
        if live.remove(&id).is_some() {
            self.tls.life().closed();
        }
        if live.is_empty() {
            self.emptied.notify_one();
        }
    }

    fn cut(&self) -> usize {
        let live = lock(&self.live);
        for connection in live.values() {
            connection.cut();
        }
        live.len()
    }
}
