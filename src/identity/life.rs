//! The life of an identity: active, draining until a deadline, gone.
//!
//! Retirement travels downward by being looked at: the control floor flips [`Life`], the pool
//! observes it at every checkout and every put-back, and waits on it for idle connections.

mod course;
/// What `course` is made of; the models put loom's in their place.
mod sync {
    pub(super) use std::sync::Mutex;
    pub(super) use std::sync::atomic::{AtomicU8, Ordering};
}

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;
use tokio::time::Instant;

use course::Course;
pub use course::{Phase, Until};

/// The life of one [`super::UpstreamTls`].
#[derive(Debug)]
pub struct Life {
    course: Course<Instant>,
    changed: watch::Sender<Phase>,
    connections: AtomicUsize,
    /// Of them those that became something else.
    upgraded: AtomicUsize,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            course: Course::default(),
            changed: watch::Sender::new(Phase::Active),
            connections: AtomicUsize::new(0),
            upgraded: AtomicUsize::new(0),
        }
    }
}

impl Life {
    /// The phase now: one atomic load.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.course.phase()
    }

    /// Whether a new request may use it.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.phase() == Phase::Active
    }

    /// Whether its connections must end now.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.phase() == Phase::Gone
    }

    /// Ends it for new requests at once and for all that runs at `deadline`. A second call may
    /// bring the deadline nearer, never push it back. When this returns, no checkout succeeds any more.
    pub fn retire(&self, deadline: Instant) {
        self.retire_until(Until::all(deadline));
    }

    /// The same with a deadline of their own for connections that were upgraded.
    pub fn retire_until(&self, until: Until<Instant>) {
        self.course.retire(until);
        // Also wakes those who sleep until an older deadline.
        self.changed.send_modify(|p| *p = (*p).max(Phase::Draining));
    }

    /// Cuts everything now.
    pub fn end(&self) {
        self.course.end(Instant::now());
        self.changed.send_modify(|p| *p = Phase::Gone);
    }

    /// When running exchanges are cut; `None` while active.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.until().map(|until| until.exchanges)
    }

    /// When what runs is cut; `None` while active.
    #[must_use]
    pub fn until(&self) -> Option<Until<Instant>> {
        self.course.until()
    }

    /// Resolves once it is retired.
    pub async fn retired(&self) {
        let mut seen = self.changed.subscribe();
        // An error means that the sender is gone, and then so are we.
        let _ = seen.wait_for(|p| *p >= Phase::Draining).await;
    }

    /// Resolves once what `which` picks of its deadlines has come, also when that is brought nearer meanwhile.
    pub async fn due(&self, which: impl Fn(Until<Instant>) -> Instant) {
        let mut seen = self.changed.subscribe();
        loop {
            seen.borrow_and_update();
            match self.until().map(&which) {
                None => {
                    if seen.changed().await.is_err() {
                        return;
                    }
                }
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => return,
                    change = seen.changed() => if change.is_err() { return },
                },
            }
        }
    }

    /// Resolves once all its connections must end: the last deadline has passed or [`Life::end`] was called.
    /// Whoever waits here also flips the phase, so no timer is needed elsewhere.
    pub async fn gone(&self) {
        self.due(Until::last).await;
        self.end();
    }

    /// Open upstream connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Those of [`Life::connections`] that became something else.
    #[must_use]
    pub fn upgraded(&self) -> usize {
        self.upgraded.load(Ordering::Relaxed)
    }

    /// Counts a connection; the pool calls this once per connection and [`Life::closed`] at its end.
    pub fn opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// One of those that were counted became something else. At most once each.
    pub fn became_upgraded(&self) {
        self.upgraded.fetch_add(1, Ordering::Relaxed);
    }

    /// See [`Life::opened`].
    pub fn closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// One of those that [`Life::became_upgraded`] was called for closes.
    pub fn upgraded_closed(&self) {
        self.upgraded.fetch_sub(1, Ordering::Relaxed);
    }
}
