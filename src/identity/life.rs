//! The life of an identity: active, draining until a deadline, gone.
//!
//! Retirement travels downward by being looked at: the control floor flips [`Life`], the pool
//! observes it at every checkout and every put-back, and waits on it for idle connections.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio::sync::watch;
use tokio::time::Instant;

/// Where a life stands. Only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// New requests may use it.
    Active,
    /// No new request; what runs may finish until the deadline.
    Draining,
    /// Every connection is cut.
    Gone,
}

/// The life of one [`super::UpstreamTls`].
#[derive(Debug)]
pub struct Life {
    /// The phase as a number. Release-stored under `deadline`'s lock, acquire-loaded on the hot path.
    phase: AtomicU8,
    deadline: Mutex<Option<Instant>>,
    changed: watch::Sender<Phase>,
    connections: AtomicUsize,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            phase: AtomicU8::new(0),
            deadline: Mutex::new(None),
            changed: watch::Sender::new(Phase::Active),
            connections: AtomicUsize::new(0),
        }
    }
}

impl Life {
    /// The phase now: one atomic load.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Active,
            1 => Phase::Draining,
            _ => Phase::Gone,
        }
    }

    /// Whether a new request may use it.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.phase.load(Ordering::Acquire) == 0
    }

    /// Whether its connections must end now.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.phase.load(Ordering::Acquire) >= 2
    }

    /// Ends it for new requests at once and for running ones at `deadline`. A second call may
    /// bring the deadline nearer, never push it back. When this returns, no checkout succeeds any more.
    pub fn retire(&self, deadline: Instant) {
        let mut held = self.deadline.lock().expect("nothing panics while holding it");
        if held.is_none_or(|old| deadline < old) {
            *held = Some(deadline);
        }
        if self.phase() < Phase::Draining {
            self.phase.store(1, Ordering::Release);
        }
        drop(held);
        // Also wakes those who sleep until an older deadline.
        self.changed.send_modify(|p| *p = (*p).max(Phase::Draining));
    }

    /// Cuts everything now.
    pub fn end(&self) {
        {
            let mut held = self.deadline.lock().expect("nothing panics while holding it");
            held.get_or_insert_with(Instant::now);
            self.phase.store(2, Ordering::Release);
        }
        self.changed.send_modify(|p| *p = Phase::Gone);
    }

    /// When running exchanges are cut; `None` while active.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock().expect("nothing panics while holding it")
    }

    /// Resolves once it is retired.
    pub async fn retired(&self) {
        let mut seen = self.changed.subscribe();
        // An error means that the sender is gone, and then so are we.
        let _ = seen.wait_for(|p| *p >= Phase::Draining).await;
    }

    /// Resolves once its connections must end: the deadline has passed or [`Life::end`] was called.
    /// Whoever waits here also flips the phase, so no timer is needed elsewhere.
    pub async fn gone(&self) {
        let mut seen = self.changed.subscribe();
        loop {
            if *seen.borrow_and_update() == Phase::Gone {
                return;
            }
            match self.deadline() {
                None => {
                    if seen.changed().await.is_err() {
                        return;
                    }
                }
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => self.end(),
                    change = seen.changed() => if change.is_err() { return },
                },
            }
        }
    }

    /// Open upstream connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection; the pool calls this once per connection and [`Life::closed`] at its end.
    pub fn opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// See [`Life::opened`].
    pub fn closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
