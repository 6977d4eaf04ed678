//! The connections of one identity to one destination: those that are idle, those that take more streams, those that
//! are being made, and who waits for them.

mod shelf;
/// What `shelf` is made of; the models put loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicUsize, Ordering};
    pub(super) use std::sync::{Mutex, MutexGuard};
}

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use http::HeaderValue;
use http::uri::Authority;
use rustls::pki_types::ServerName;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use shelf::{Bell, Waiters};
pub(super) use shelf::{Refused, Shelf};

use super::connect::server_name;
use super::connection::{Conn, Live};
use super::multi::Multi;
use super::pool::SPOKEN_TTL;
use super::route::Parent;
use super::{Destination, Failure};
use crate::config::LiveLimits;
use crate::domain::Code;
use crate::identity::UpstreamTls;
use crate::net::{Permit, Permits, ticks};

/// What an origin spoke last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Spoken {
    /// Nothing yet: the first connection finds out, and the others wait for it.
    Unknown,
    Http1,
    Http2,
    /// It refused a request over HTTP/2 and wants it over HTTP/1.1 (RFC 9113 section 7, HTTP_1_1_REQUIRED): some servers
    /// do so where they want to ask for a certificate after the handshake.
    Http1Only,
}

impl Spoken {
    fn from(byte: u8) -> Self {
        [Self::Unknown, Self::Http1, Self::Http2, Self::Http1Only][usize::from(byte.min(3))]
    }
}

/// Handshakes that a new identity begins with at once, where each request needs a connection. All that wait after a
/// replacement would begin together and end together; where that takes longer than it is until the next replacement,
/// none would ever end.
const FIRST_DIALS: usize = 8;

/// The connections of one key.
pub(super) struct Bucket {
    pub(super) to: Destination,
    pub(super) tls: Arc<UpstreamTls>,
    /// The parent on the way.
    pub(super) via: Option<Arc<Parent>>,
    /// The Host header of every request that goes here.
    pub(super) authority: HeaderValue,
    /// The same for HTTP/2's `:authority`.
    pub(super) uri_authority: Authority,
    /// `None` for plain http.
    pub(super) name: Option<ServerName<'static>>,
    pub(super) idle: Shelf<Idle>,
    /// HTTP/2 connections that may still take streams.
    pub(super) multis: Shelf<Arc<Multi>>,
    /// How many they are: the look at an HTTP/1.1 bucket takes no lock.
    pub(super) multi_count: AtomicUsize,
    /// A [`Spoken`].
    pub(super) spoken: AtomicU8,
    /// [`ticks`] when the origin demanded HTTP/1.1.
    pub(super) demoted: AtomicU64,
    /// Streams that a further HTTP/2 connection is expected to take.
    expected: AtomicUsize,
    /// Connections being made.
    dialling: AtomicUsize,
    /// How often one could not be made, and why the last time.
    failures: Mutex<(u64, Option<Failure>)>,
    pub(super) live: Mutex<HashMap<u64, Arc<Live>>>,
    next_id: AtomicU64,
    /// A permit per open connection.
    open: Permits,
    /// A permit per handshake.
    dials: Permits,
    /// Requests that wait for a connection to come back.
    waiters: Waiters<Notify>,
    /// A connection has ended, for those who can only use a new one.
    pub(super) room: Notify,
    pub(super) evicted: Notify,
    /// The last open connection has ended.
    emptied: Notify,
    /// Sweeps since a connection was last asked for.
    pub(super) quiet: AtomicUsize,
}

pub(super) struct Idle {
    pub(super) conn: Conn,
    /// [`ticks`] when it came back.
    pub(super) since: u64,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while holding it")
}

/// A permit for one open connection. Given up (the connection has ended, or was never made), it wakes who waits for it:
/// first the permit, then the wake, or the woken would find nothing.
pub(super) struct Place {
    permit: Option<Permit>,
    bucket: Arc<Bucket>,
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.bucket.room.notify_one();
        self.bucket.wake_one();
    }
}

/// A permit for one handshake. After the handshake it wakes one who waits: whoever had none does not queue for it.
pub(super) struct Turn {
    permit: Option<Permit>,
    bucket: Arc<Bucket>,
    begun: bool,
}

impl Turn {
    /// The handshake begins.
    pub(super) fn begin(mut self) -> Self {
        self.begun = true;
        self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.permit.take());
        // As with `Dialling`.
        if self.begun {
            self.bucket.wake_one();
        }
    }
}

/// A connection in the making. When it is made, or is not, those who waited for it look again.
pub(super) struct Dialling {
    bucket: Arc<Bucket>,
    begun: bool,
}

impl Dialling {
    /// It is being made now; others wait for it.
    pub(super) fn begin(mut self) -> Self {
        self.begun = true;
        self
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        self.bucket.dialling.fetch_sub(1, Ordering::AcqRel);
        // One that was never begun has changed nothing: who waits would only look, and wake itself again.
        if self.begun {
            self.bucket.wake_all();
        }
    }
}

impl Bell for Notify {
    fn ring_one(&self) {
        self.notify_one();
    }

    fn ring_all(&self) {
        self.notify_waiters();
    }
}

/// See [`Bucket::wait`].
pub(super) struct Waiting<'a> {
    waiters: &'a Waiters<Notify>,
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
        self.waiters.leave();
    }
}

impl Bucket {
    pub(super) fn new(
        tls: &Arc<UpstreamTls>,
        via: Option<Arc<Parent>>,
        to: &Destination,
        spoken: Spoken,
        limits: &LiveLimits,
    ) -> Result<Self, Failure> {
        let (authority, name) = match to {
            Destination::Tls(origin) => (origin.authority(), Some(server_name(origin.host())?)),
            Destination::Plain(target) => (target.authority(), None),
        };
        let unusable = || Failure::new(Code::Internal, "the authority cannot stand in a header");
        let uri_authority = Authority::try_from(authority.as_str()).map_err(|_| unusable())?;
        let authority = HeaderValue::try_from(authority).map_err(|_| unusable())?;
        Ok(Self {
            to: to.clone(),
            tls: tls.clone(),
            via,
            authority,
            uri_authority,
            name,
            idle: Shelf::default(),
            multis: Shelf::default(),
            multi_count: AtomicUsize::new(0),
            spoken: AtomicU8::new(spoken as u8),
            demoted: AtomicU64::new(ticks()),
            expected: AtomicUsize::new(limits.max_streams_per_connection()),
            dialling: AtomicUsize::new(0),
            failures: Mutex::default(),
            live: Mutex::default(),
            next_id: AtomicU64::new(0),
            open: Permits::new(limits.max_connections_per_origin()),
            dials: Permits::new(limits.max_dials_per_origin()),
            waiters: Waiters::default(),
            room: Notify::new(),
            evicted: Notify::new(),
            emptied: Notify::new(),
            quiet: AtomicUsize::new(0),
        })
    }

    /// The parent that requests of this bucket are sent to in absolute form, if there is one.
    pub(super) fn absolute(&self) -> Option<&Arc<Parent>> {
        self.via.as_ref().filter(|parent| self.name.is_none() && parent.takes_absolute_form())
    }

    pub(super) fn touch(&self) {
        self.quiet.store(0, Ordering::Relaxed);
    }

    /// Follows what `limits` say by now; what it has too many of goes as it ends.
    pub(super) fn resize(&self, limits: &LiveLimits) {
        self.dials.resize(limits.max_dials_per_origin());
        if self.open.resize(limits.max_connections_per_origin()) {
            self.room.notify_waiters();
            self.wake_all();
        }
    }

    /// A place to open one more connection in, if there is one.
    pub(super) fn try_open(self: &Arc<Self>) -> Option<Place> {
        let permit = self.open.try_take()?;
        Some(Place { permit: Some(permit), bucket: self.clone() })
    }

    /// The right to a handshake now, if it is there.
    pub(super) fn try_turn(self: &Arc<Self>) -> Option<Turn> {
        let permit = self.dials.try_take()?;
        Some(Turn { permit: Some(permit), bucket: self.clone(), begun: false })
    }

    /// The right to a handshake, as soon as it is there.
    pub(super) async fn turn(self: &Arc<Self>) -> Turn {
        let permit = self.dials.take().await;
        Turn { permit: Some(permit), bucket: self.clone(), begun: true }
    }

    /// Counts as waiting while it lives. Take this, then look once more, then await [`Waiting::freed`]: what comes back
    /// or closes after the second look is not missed.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiters.enter();
        let mut freed = Box::pin(self.waiters.bell.notified());
        freed.as_mut().enable();
        Waiting { waiters: &self.waiters, freed }
    }

    /// Resolves while no connection is open.
    pub(super) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if lock(&self.live).is_empty() {
                return;
            }
            emptied.await;
        }
    }

    pub(super) fn spoken(&self) -> Spoken {
        Spoken::from(self.spoken.load(Ordering::Acquire))
    }

    /// So many streams a connection takes: known once the origin's SETTINGS have come.
    pub(super) fn expect(&self, streams: usize) {
        self.expected.store(streams.max(1), Ordering::Release);
        self.wake_all();
    }

    /// Whether the origin wants HTTP/1.1 only, as far as is known: it is asked again now and then.
    pub(super) fn is_demoted(&self) -> bool {
        let since = ticks().saturating_sub(self.demoted.load(Ordering::Relaxed));
        self.spoken() == Spoken::Http1Only && u128::from(since) < SPOKEN_TTL.as_millis()
    }

    /// How many connections were ever made.
    fn made(&self) -> usize {
        usize::try_from(self.next_id.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// The right to make a connection, if one more is worth it: where many requests share a connection, or where
    /// that is not known yet, those that are being made may serve all who wait. With HTTP/1.1 a new identity begins with a
    /// few and has one more with every one that was made.
    pub(super) fn may_dial(self: &Arc<Self>) -> Option<Dialling> {
        let enough = match self.spoken() {
            Spoken::Http1 | Spoken::Http1Only => FIRST_DIALS.saturating_add(self.made()),
            Spoken::Unknown => 1,
            Spoken::Http2 => self.waiters.count().max(1).div_ceil(self.expected.load(Ordering::Acquire)),
        };
        let more = |d: usize| (d < enough).then_some(d + 1);
        self.dialling.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Dialling { bucket: self.clone(), begun: false })
    }

    /// Tells those who wait for a connection that it could not be made.
    pub(super) fn failed(&self, failure: &Failure) {
        let mut failures = lock(&self.failures);
        failures.0 += 1;
        failures.1 = Some(failure.clone());
    }

    /// How often making one has failed, and how often it has not.
    pub(super) fn tried(&self) -> (u64, usize) {
        (lock(&self.failures).0, self.made())
    }

    /// Why it failed since, if there is nothing else to wait for. Where each request needs a connection, that is so only if
    /// none was made since and the origin kept silent: who waits for a turn has then waited as long as those who had one,
    /// and would have to wait as long again, turn after turn.
    pub(super) fn failed_since(&self, (seen, made): (u64, usize)) -> Option<Failure> {
        if matches!(self.spoken(), Spoken::Http1 | Spoken::Http1Only) {
            let failures = lock(&self.failures);
            let silent = |failure: &Failure| failure.code == Code::NetTimeout;
            return failures.1.clone().filter(|why| failures.0 != seen && self.made() == made && silent(why));
        }
        if self.multis.lock().iter().any(|m| !m.is_closed()) {
            return None;
        }
        let failures = lock(&self.failures);
        failures.1.clone().filter(|_| failures.0 != seen)
    }

    /// Requests that wait for a connection.
    pub(super) fn waiting(&self) -> usize {
        self.waiters.count()
    }

    /// Wakes all who wait: each looks for itself.
    pub(super) fn wake_all(&self) {
        self.waiters.wake_all();
    }

    pub(super) fn wake_one(&self) {
        self.waiters.wake_one();
    }

    /// The identity was retired: all who wait must select again, whoever counted them.
    pub(super) fn dismiss(&self) {
        self.waiters.bell.ring_all();
        self.room.notify_waiters();
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
        if let Some(connection) = live.remove(&id) {
            self.tls.life().closed();
            if connection.is_upgraded() {
                self.tls.life().upgraded_closed();
            }
        }
        if live.is_empty() {
            self.emptied.notify_one();
        }
    }

    /// A connection has become something else: it is counted apart, and has a deadline of its own.
    pub(super) fn upgraded(&self, id: u64) {
        // Under the lock: one that has ended meanwhile is counted no more.
        if let Some(connection) = lock(&self.live).get(&id)
            && connection.upgraded()
        {
            self.tls.life().became_upgraded();
        }
    }

    /// Cuts those open connections that `which` picks. How many they were.
    pub(super) fn cut(&self, which: impl Fn(&Live) -> bool) -> usize {
        let live = lock(&self.live);
        live.values().filter(|connection| which(connection)).map(|connection| connection.cut()).count()
    }
}
