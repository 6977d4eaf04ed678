//! How a life ends, and nothing else: which phase it is in, and until when.
//!
//! Here and in `upstream/bucket/shelf.rs` lies what the promise about replaced certificates rests on. Both files are
//! compiled once more by `tests/models.rs`, with loom's primitives in place of the standard ones, and every order in
//! which threads can meet in them is tried.

use super::sync::{AtomicU8, Mutex, Ordering};

/// Where a life stands. Only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// New requests may use it.
    Active,
    /// No new request; what runs may finish until its deadline.
    Draining,
    /// Every connection is cut.
    Gone,
}

/// When what still runs is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Until<T> {
    /// Requests and their answers.
    pub exchanges: T,
    /// Connections that became something else (WebSockets), which may never end by themselves.
    pub upgraded: T,
}

impl<T: Ord + Copy> Until<T> {
    /// The same for everything.
    pub fn all(at: T) -> Self {
        Self { exchanges: at, upgraded: at }
    }

    /// When nothing is left.
    pub fn last(self) -> T {
        self.exchanges.max(self.upgraded)
    }

    fn nearer(self, other: Self) -> Self {
        Self { exchanges: self.exchanges.min(other.exchanges), upgraded: self.upgraded.min(other.upgraded) }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Course<T> {
    /// The phase as a number. Release-stored under `until`'s lock, acquire-loaded on the hot path.
    phase: AtomicU8,
    until: Mutex<Option<Until<T>>>,
}

impl<T> Default for Course<T> {
    fn default() -> Self {
        Self { phase: AtomicU8::new(0), until: Mutex::new(None) }
    }
}

impl<T: Ord + Copy> Course<T> {
    /// The phase now: one atomic load.
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Active,
            1 => Phase::Draining,
            _ => Phase::Gone,
        }
    }

    /// Ends it for new requests. Deadlines that were set before are brought nearer or stay, one by one. When this
    /// returns, no checkout succeeds any more.
    pub(crate) fn retire(&self, until: Until<T>) {
        self.forward(until, 1);
    }

    /// Cuts everything `now`.
    pub(crate) fn end(&self, now: T) {
        self.forward(Until::all(now), 2);
    }

    fn forward(&self, until: Until<T>, phase: u8) {
        let mut held = self.until.lock().expect("nothing panics while holding it");
        *held = Some(held.map_or(until, |old| old.nearer(until)));
        // Under the lock, so that who finds a phase finds its deadline, and no slower thread takes it back.
        if self.phase.load(Ordering::Relaxed) < phase {
            self.phase.store(phase, Ordering::Release);
        }
    }

    /// The deadlines; `None` while active.
    pub(crate) fn until(&self) -> Option<Until<T>> {
        *self.until.lock().expect("nothing panics while holding it")
    }
}
