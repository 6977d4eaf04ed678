//! Permits whose number may change while they are out.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

/// At most so many of something at once; who comes when all are out waits in line. Clones are one.
#[derive(Debug, Clone)]
pub struct Permits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Semaphore,
    size: AtomicUsize,
    /// Permits that are out and too many: they are not put back.
    owed: AtomicUsize,
    resizing: Mutex<()>,
}

/// One of them, given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<Inner>);

impl Permits {
    /// So many, at least one.
    #[must_use]
    pub fn new(size: usize) -> Self {
        let size = within(size);
        Self(Arc::new(Inner {
            free: Semaphore::new(size),
            size: AtomicUsize::new(size),
            owed: AtomicUsize::new(0),
            resizing: Mutex::default(),
        }))
    }

    /// From now on so many, at least one. With more, those who wait go on at once; with fewer, those that are out stay
    /// until they come back. Costs one load where nothing changes. Whether there are more.
    pub fn resize(&self, size: usize) -> bool {
        let (size, this) = (within(size), &*self.0);
        if this.size.load(Ordering::Relaxed) == size {
            return false;
        }
        let _resizing = this.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = this.size.swap(size, Ordering::Relaxed);
        if let Some(more) = size.checked_sub(before) {
            let mut left = more;
            let pay = |owed: usize| {
                left = more.saturating_sub(owed);
                Some(owed.saturating_sub(more))
            };
            let _ = this.owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, pay);
            this.free.add_permits(left);
            more > 0
        } else {
            let fewer = before - size;
            // One that comes back in between is taken once more, and then not put back.
            this.owed.fetch_add(fewer - this.free.forget_permits(fewer), Ordering::AcqRel);
            false
        }
    }

    /// One, if it is there and nobody waits for it.
    #[must_use]
    pub fn try_take(&self) -> Option<Permit> {
        self.0.free.try_acquire().ok()?.forget();
        Some(Permit(self.0.clone()))
    }

    /// One, as soon as there is one, in the order in which they were asked for. May be dropped while it waits.
    pub async fn take(&self) -> Permit {
        self.0.free.acquire().await.expect("the semaphore is never closed").forget();
        Permit(self.0.clone())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let this = &*self.0;
        let is_owed = this.owed.load(Ordering::Relaxed) > 0
            && this.owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, |owed| owed.checked_sub(1)).is_ok();
        if !is_owed {
            this.free.add_permits(1);
        }
    }
}

fn within(size: usize) -> usize {
    size.clamp(1, Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(permits: &Permits) -> Vec<Permit> {
        std::iter::from_fn(|| permits.try_take()).collect()
    }

    #[test]
    fn fewer_permits_come_into_force_as_those_that_are_out_come_back() {
        let permits = Permits::new(5);
        let mut out = all(&permits);
        assert_eq!(out.len(), 5);
        permits.resize(2);
        out.truncate(2);
        assert!(permits.try_take().is_none(), "three too many came back, and none may be given out again");
        out.pop();
        assert_eq!(all(&permits).len(), 1);
        drop(out);
        assert_eq!(all(&permits).len(), 2);
    }

    #[test]
    fn what_was_taken_away_and_given_again_is_counted_once() {
        let permits = Permits::new(4);
        let out = all(&permits);
        permits.resize(1);
        permits.resize(3);
        drop(out);
        assert_eq!(all(&permits).len(), 3);
        permits.resize(6);
        assert_eq!(all(&permits).len(), 6);
        permits.resize(0);
        assert_eq!(all(&permits).len(), 1);
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_there_are_more() {
        let permits = Permits::new(1);
        let _out = permits.take().await;
        let waiting = tokio::spawn({
            let permits = permits.clone();
            async move { permits.take().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        permits.resize(2);
        drop(waiting.await.unwrap());
    }
}
