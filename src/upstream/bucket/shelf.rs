//! Where idle connections lie, and who waits for one: the other half of what `identity/life/course.rs` speaks of.
//!
//! What must stay true, whoever meets here:
//! - who takes something looks at the life afterwards, so nothing that was taken after a retirement is used;
//! - who puts something back looks at the life under the lock that [`Shelf::clear`] takes after a retirement, so nothing
//!   comes to lie here behind it;
//! - who waits counts as waiting, hears the bell, and then looks once more before sleeping; who brings something first
//!   puts it down and then looks for waiters.

use super::sync::{AtomicUsize, Mutex, MutexGuard, Ordering};

/// What lies ready.
#[derive(Debug)]
pub(crate) struct Shelf<T> {
    items: Mutex<Vec<T>>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { items: Mutex::new(Vec::new()) }
    }
}

/// Why something was not put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Its identity was retired.
    Retired,
    /// There is no room.
    Full,
}

impl<T> Shelf<T> {
    /// Everything, for a look or for sorting out.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.items.lock().expect("nothing panics while holding it")
    }

    /// Puts something back, unless it is refused; then it comes back, to be dropped without the lock.
    pub(crate) fn put(
        &self,
        item: T,
        alive: impl FnOnce() -> bool,
        room: impl FnOnce(usize) -> bool,
    ) -> Result<(), (Refused, T)> {
        let mut items = self.lock();
        if !alive() {
            return Err((Refused::Retired, item));
        }
        if !room(items.len()) {
            return Err((Refused::Full, item));
        }
        items.push(item);
        Ok(())
    }

    /// Takes what `pick` picks, if that may still be used: looking at the life afterwards is the linearisation point.
    /// Whoever passes here began before a retirement.
    pub(crate) fn take<U>(
        &self,
        pick: impl FnOnce(&mut Vec<T>) -> Option<U>,
        alive: impl FnOnce() -> bool,
    ) -> Option<U> {
        let taken = pick(&mut self.lock())?;
        alive().then_some(taken)
    }

    /// Empties it. After a retirement nothing comes to lie here any more.
    pub(crate) fn clear(&self) -> Vec<T> {
        std::mem::take(&mut *self.lock())
    }
}

/// What waiters hear.
pub(crate) trait Bell {
    /// Wakes one that waits, or the next one to come.
    fn ring_one(&self);
    /// Wakes all that wait.
    fn ring_all(&self);
}

/// Those who wait for something to be put back.
#[derive(Debug, Default)]
pub(crate) struct Waiters<B> {
    count: AtomicUsize,
    pub(crate) bell: B,
}

impl<B: Bell> Waiters<B> {
    /// One more waits. Called before listening to the bell, which is done before looking once more.
    pub(crate) fn enter(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// See [`Waiters::enter`].
    pub(crate) fn leave(&self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }

    /// How many wait.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Something was put down. The common case has nobody waiting and costs one load.
    pub(crate) fn wake_one(&self) {
        if self.count() > 0 {
            self.bell.ring_one();
        }
    }

    /// Something has changed that all may want to know.
    pub(crate) fn wake_all(&self) {
        if self.count() > 0 {
            self.bell.ring_all();
        }
    }
}
