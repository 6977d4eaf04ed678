//! Pooled connections, keyed by (serial, way, destination) and by nothing else.
//!
//! What must stay true:
//! - a connection is only ever given to a request whose selection holds the very `UpstreamTls` that
//!   dialled it: the key holds its serial, and serials are never used twice;
//! - a retired identity gives out no connection ([`Life`](crate::identity::Life) is looked at after the
//!   checkout, and again after a handshake), its idle ones close at once, its busy ones are not put back;
//! - everything is bounded: connections and handshakes per key, idle ones per key and over all.

use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::DashMap;
use moka::sync::Cache;

use super::bucket::{Bucket, Idle, Refused, Spoken, lock};
use super::connection::{About, Conn, Live};
use super::multi::{Multi, Slot};
use super::route::Way;
use super::{Destination, Failure, PoolState};
use crate::config::LiveLimits;
use crate::domain::ProjectId;
use crate::identity::{RouteId, Serial, UpstreamTls};
use crate::net::ticks;
use crate::observe::Metrics;
use crate::policy::EgressPolicy;

/// How often idle connections are looked over.
const SWEEP: Duration = Duration::from_secs(1);
/// Origins whose protocol is remembered, over all projects.
const MAX_SPOKEN: u64 = 16_384;
/// And for how long: an origin that learns HTTP/2 is found out again.
pub(super) const SPOKEN_TTL: Duration = Duration::from_secs(600);

/// The whole key. Compared in full; there is no list of fields to forget one of.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    serial: Serial,
    /// The parent on the way.
    via: Option<RouteId>,
    to: Destination,
}

/// All pooled connections of one egret.
pub(super) struct Pool {
    buckets: DashMap<PoolKey, Arc<Bucket>>,
    /// Idle connections over all buckets.
    idle: AtomicUsize,
    /// What origins spoke last, so that a new identity need not find out again.
    spoken: Cache<(ProjectId, Destination), Spoken>,
    pub(super) limits: LiveLimits,
    policy: Arc<EgressPolicy>,
    pub(super) metrics: Arc<Metrics>,
}

/// How long ago these [`ticks`] were.
fn since(at: u64) -> Duration {
    Duration::from_millis(ticks().saturating_sub(at))
}

impl Pool {
    pub(super) fn new(limits: LiveLimits, policy: Arc<EgressPolicy>, metrics: Arc<Metrics>) -> Arc<Self> {
        let spoken = Cache::builder().max_capacity(MAX_SPOKEN).time_to_live(SPOKEN_TTL).build();
        Arc::new(Self { buckets: DashMap::new(), idle: AtomicUsize::new(0), spoken, limits, policy, metrics })
    }

    /// The bucket of a key; made on first use, with the task that watches over its identity's life.
    pub(super) fn bucket(
        self: &Arc<Self>,
        project: &ProjectId,
        tls: &Arc<UpstreamTls>,
        way: Way<'_>,
        to: &Destination,
    ) -> Result<Arc<Bucket>, Failure> {
        let via = match way {
            Way::Direct(..) => None,
            Way::Through(parent) => Some(parent.id),
        };
        let key = PoolKey { serial: tls.serial(), via, to: to.clone() };
        if let Some(found) = self.buckets.get(&key).map(|b| b.value().clone()) {
            return Ok(found);
        }
        let spoken = match to {
            Destination::Plain(_) => Spoken::Http1,
            Destination::Tls(_) => self.spoken.get(&(project.clone(), to.clone())).unwrap_or(Spoken::Unknown),
        };
        let fresh = Arc::new(Bucket::new(tls, way.parent(), to, spoken, &self.limits)?);
        let bucket = self.buckets.entry(key.clone()).or_insert_with(|| fresh.clone()).value().clone();
        if Arc::ptr_eq(&bucket, &fresh) {
            tokio::spawn(watch(Arc::downgrade(self), key, fresh));
        }
        Ok(bucket)
    }

    /// The connection used last, if one is ready and its identity lives.
    pub(super) fn pop(&self, bucket: &Bucket) -> Option<Conn> {
        bucket.idle.take(|idle| self.pick(bucket, idle), || bucket.tls.life().is_active())
    }

    fn pick(&self, bucket: &Bucket, idle: &mut Vec<Idle>) -> Option<Conn> {
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            let conn = &idle[at].conn;
            if conn.is_closed() || self.is_old(conn) || !self.is_permitted(bucket, &conn.about) {
                idle.remove(at);
                self.idle.fetch_sub(1, Ordering::Relaxed);
            } else if idle[at].conn.is_ready() {
                self.idle.fetch_sub(1, Ordering::Relaxed);
                return Some(idle.remove(at).conn);
            }
        }
        None
    }

    /// A stream on an HTTP/2 connection, if one has room.
    pub(super) fn slot(&self, bucket: &Bucket) -> Option<Slot> {
        if bucket.multi_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        // The first that has room: the others may run empty and be closed.
        let usable = |m: &&Arc<Multi>| !self.is_aged(m.born) && self.is_permitted(bucket, &m.about);
        let slot = bucket
            .multis
            .take(|multis| multis.iter().filter(usable).find_map(Multi::slot), || bucket.tls.life().is_active());
        if slot.is_some() {
            return slot;
        }
        // What may not be used any more ends with its last stream, and others are made in its place.
        let mut multis = bucket.multis.lock();
        let gone: Vec<_> = multis.extract_if(.., |m| !self.is_permitted(bucket, &m.about)).collect();
        bucket.multi_count.store(multis.len(), Ordering::Release);
        drop(multis);
        drop(gone);
        None
    }

    /// Judges name and address of a connection by the rules in force, and answers with their generation. Of one behind a
    /// parent the name alone: what the parent was asked for was judged when it was dialled.
    pub(super) fn judge(&self, bucket: &Bucket, about: &About) -> Result<u64, Failure> {
        let dialled = bucket.via.is_none().then_some(about.address);
        let tls = matches!(bucket.to, Destination::Tls(_));
        Ok(self.policy.judge_both(bucket.to.host(), bucket.to.port(), tls, dialled)?)
    }

    /// Whether a connection may take another request, by the rules in force: one load while these do not change. One
    /// behind a parent is not judged again, but made anew.
    fn is_permitted(&self, bucket: &Bucket, about: &About) -> bool {
        if about.is_judged(self.policy.generation()) {
            return true;
        }
        if bucket.via.is_some() {
            return false;
        }
        self.judge(bucket, about).is_ok_and(|generation| {
            about.judged(generation);
            true
        })
    }

    /// A new HTTP/2 connection, with the first stream on it; the others who wait may take the rest. `None` if its
    /// identity was retired meanwhile.
    pub(super) fn add_multi(&self, bucket: &Bucket, multi: Arc<Multi>) -> Option<Slot> {
        let slot = multi.first_slot();
        bucket.multis.put(multi, || bucket.tls.life().is_active(), |_| true).ok()?;
        // Counted anew, and under the lock as everywhere: it may have been taken away again already.
        let multis = bucket.multis.lock();
        bucket.multi_count.store(multis.len(), Ordering::Release);
        drop(multis);
        bucket.wake_all();
        slot
    }

    /// The origin wants HTTP/1.1 only: no further stream, no further connection of HTTP/2.
    pub(super) fn demote(&self, project: &ProjectId, bucket: &Bucket) {
        bucket.demoted.store(ticks(), Ordering::Relaxed);
        self.speaks(project, bucket, Spoken::Http1Only);
        Self::clear_multis(bucket);
        bucket.wake_all();
    }

    /// Remembers what the origin speaks.
    pub(super) fn speaks(&self, project: &ProjectId, bucket: &Bucket, spoken: Spoken) {
        if bucket.spoken.swap(spoken as u8, Ordering::AcqRel) != spoken as u8 {
            self.spoken.insert((project.clone(), bucket.to.clone()), spoken);
        }
    }

    /// A connection that was given back and that hyper will have ready in a moment.
    pub(super) fn pop_unready(&self, bucket: &Bucket) -> Option<Conn> {
        let mut idle = bucket.idle.lock();
        let at = idle.iter().rposition(|i| !i.conn.is_closed() && self.is_permitted(bucket, &i.conn.about))?;
        self.idle.fetch_sub(1, Ordering::Relaxed);
        Some(idle.remove(at).conn)
    }

    /// Closes one idle connection, so that another can be made in its place.
    pub(super) fn make_room(&self, bucket: &Bucket) {
        if self.pop_unready(bucket).is_some() {
            return;
        }
        let mut multis = bucket.multis.lock();
        let gone = multis.iter().position(|m| m.idle_since().is_some()).map(|at| multis.remove(at));
        bucket.multi_count.store(multis.len(), Ordering::Release);
        drop(multis);
        drop(gone);
    }

    /// Takes a connection back, unless its identity was retired or a bound is reached.
    pub(super) fn put_back(&self, bucket: &Bucket, conn: Conn) {
        if conn.is_closed() || self.is_old(&conn) {
            return;
        }
        let room = |held| {
            let room =
                held < self.limits.max_idle_per_origin() && self.idle.load(Ordering::Relaxed) < self.limits.max_idle();
            if room {
                // Before it can be taken out again, which counts down.
                self.idle.fetch_add(1, Ordering::Relaxed);
            }
            room
        };
        match bucket.idle.put(Idle { conn, since: ticks() }, || bucket.tls.life().is_active(), room) {
            Ok(()) => bucket.wake_one(),
            Err((Refused::Full, _)) => self.metrics.upstream_idle_full.add(),
            Err((Refused::Retired, _)) => {}
        }
    }

    pub(super) fn state(&self) -> PoolState {
        let waiting = self.buckets.iter().map(|bucket| bucket.waiting()).sum();
        PoolState { idle: self.idle.load(Ordering::Relaxed), waiting }
    }

    fn is_old(&self, conn: &Conn) -> bool {
        self.is_aged(conn.born)
    }

    fn is_aged(&self, born: u64) -> bool {
        since(born) > self.limits.pool_max_age()
    }

    /// Lets go of all HTTP/2 connections: they take no new stream.
    fn clear_multis(bucket: &Bucket) {
        let gone = {
            let mut multis = bucket.multis.lock();
            // Under the lock: one that comes to lie there meanwhile would not be seen, nor swept, with a count of 0.
            bucket.multi_count.store(0, Ordering::Release);
            std::mem::take(&mut *multis)
        };
        drop(gone);
    }

    fn close_idle(&self, bucket: &Bucket) {
        // Streams that run hold on to their connection; with the last of them it closes.
        Self::clear_multis(bucket);
        let closed = bucket.idle.clear();
        self.idle.fetch_sub(closed.len(), Ordering::Relaxed);
    }

    /// Closes what has been idle too long and forgets buckets that nobody uses. Ends with the pool.
    pub(super) async fn sweep(pool: Weak<Self>) {
        let Some(mut changes) = pool.upgrade().map(|pool| pool.limits.changes()) else { return };
        let mut tick = tokio::time::interval(SWEEP);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                Ok(()) = changes.changed() => {}
            }
            let Some(pool) = pool.upgrade() else { return };
            let mut unused = Vec::new();
            for entry in &pool.buckets {
                entry.resize(&pool.limits);
                let mut idle = entry.idle.lock();
                let before = idle.len();
                idle.retain(|i| {
                    let live = !i.conn.is_closed() && since(i.since) < pool.limits.pool_idle_timeout();
                    live && pool.is_permitted(&entry, &i.conn.about)
                });
                let most = pool.limits.max_idle_per_origin();
                if idle.len() > most {
                    // Those used last stay.
                    let too_many = idle.len() - most;
                    idle.drain(..too_many);
                }
                pool.idle.fetch_sub(before - idle.len(), Ordering::Relaxed);
                let multis = pool.sweep_multis(&entry);
                let quiet = entry.quiet.fetch_add(1, Ordering::Relaxed);
                if idle.is_empty() && multis == 0 && quiet as u64 >= pool.limits.pool_idle_timeout().as_secs() {
                    unused.push(entry.key().clone());
                }
            }
            for key in unused {
                // Two owners are left: the map and the watching task. Checked under the shard's lock, so nobody can
                // get hold of the bucket meanwhile.
                let gone = pool.buckets.remove_if(&key, |_, b| {
                    Arc::strong_count(b) == 2 && lock(&b.live).is_empty() && b.idle.lock().is_empty()
                });
                if let Some((_, bucket)) = gone {
                    bucket.evicted.notify_one();
                }
            }
        }
    }

    /// Lets go of HTTP/2 connections that take no stream any more, or had none for too long. How many stay.
    fn sweep_multis(&self, bucket: &Bucket) -> usize {
        if bucket.multi_count.load(Ordering::Acquire) == 0 {
            return 0;
        }
        let mut multis = bucket.multis.lock();
        let mut gone = Vec::new();
        multis.retain(|multi| {
            let idle = multi.idle_since().is_some_and(|at| since(at) >= self.limits.pool_idle_timeout());
            let permitted = self.is_permitted(bucket, &multi.about);
            let keep = !multi.is_closed() && !self.is_aged(multi.born) && !idle && permitted;
            if !keep {
                gone.push(multi.clone());
            }
            keep
        });
        bucket.multi_count.store(multis.len(), Ordering::Release);
        multis.len()
    }

    /// Cuts every connection: the end of egret's drain.
    pub(super) fn cut_all(&self) {
        for entry in &self.buckets {
            entry.cut(|_| true);
        }
    }

    #[cfg(test)]
    pub(super) fn idle_count(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
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
    bucket.dismiss();
    let (mut exchanges, mut upgraded) = (true, true);
    while exchanges || upgraded {
        let which: fn(&Live) -> bool = tokio::select! {
            // All deadlines have come: what was upgraded between them goes, too.
            () = life.gone() => {
                (exchanges, upgraded) = (false, false);
                |_| true
            }
            () = life.due(|until| until.exchanges), if exchanges => {
                exchanges = false;
                |live| !live.is_upgraded()
            }
            () = life.due(|until| until.upgraded), if upgraded => {
                upgraded = false;
                Live::is_upgraded
            }
            // Nothing is left to cut, and the key need not stay in memory until the deadline.
            () = bucket.emptied() => return,
        };
        let cut = bucket.cut(which);
        if cut > 0 {
            tracing::info!(to = %bucket.to, connections = cut, "connections of a retired certificate were cut at their deadline");
            if let Some(pool) = pool.upgrade() {
                (0..cut).for_each(|_| pool.metrics.retired_cut.add());
            }
        }
    }
}
