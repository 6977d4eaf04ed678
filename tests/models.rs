//! How a life ends while connections are taken, given back and waited for: every order in which threads can meet there.
//!
//! The two files that decide it are compiled here as they stand, over loom's primitives in place of the standard ones.
//! What is around them in the product is stood in for: the bell is what tokio's `Notify` promises, and the watcher does
//! what `upstream::pool::watch` does.

#![allow(dead_code, unreachable_pub, reason = "the files are written for their own places")]

#[path = "../src/identity/life/course.rs"]
mod course;
#[path = "../src/upstream/bucket/shelf.rs"]
mod shelf;

/// What both files are made of.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
    pub(crate) use loom::sync::{Mutex, MutexGuard};
}

use course::{Course, Phase, Until};
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use shelf::{Bell, Refused, Shelf, Waiters};

/// A bell that is heard by those who listen before it rings; a single ring is kept for the next one.
#[derive(Default)]
struct Notify {
    state: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Default)]
struct Rung {
    /// How often all were called.
    all: usize,
    /// Single rings that nobody has heard.
    single: usize,
}

/// Listens from when it was made.
struct Listening<'a> {
    notify: &'a Notify,
    since: usize,
}

impl Notify {
    fn listen(&self) -> Listening<'_> {
        Listening { notify: self, since: self.state.lock().unwrap().all }
    }
}

impl Listening<'_> {
    fn wait(self) {
        let mut state = self.notify.state.lock().unwrap();
        while state.all == self.since && state.single == 0 {
            state = self.notify.changed.wait(state).unwrap();
        }
        if state.all == self.since {
            state.single -= 1;
        }
    }
}

impl Bell for Notify {
    fn ring_one(&self) {
        self.state.lock().unwrap().single += 1;
        self.changed.notify_one();
    }

    fn ring_all(&self) {
        self.state.lock().unwrap().all += 1;
        self.changed.notify_all();
    }
}

/// A bucket and the life of its identity. A connection is a number.
#[derive(Default)]
struct World {
    life: Course<u32>,
    shelf: Shelf<u32>,
    waiters: Waiters<Notify>,
    /// `retire` has returned: what the answer of the API tells.
    answered: AtomicBool,
    /// What the watcher hears.
    retired: Notify,
}

impl World {
    fn with(idle: &[u32]) -> Arc<Self> {
        let world = Self::default();
        world.shelf.lock().extend(idle);
        Arc::new(world)
    }

    /// `control::apply::retire` and the answer after it.
    fn retire(&self, until: Until<u32>) {
        self.life.retire(until);
        self.retired.ring_all();
        self.answered.store(true, Ordering::Release);
    }

    /// `upstream::pool::watch`, up to where it waits for the deadline.
    fn watch(&self) {
        let heard = self.retired.listen();
        if self.life.phase() == Phase::Active {
            heard.wait();
        }
        self.shelf.clear();
        self.waiters.bell.ring_all();
    }

    /// `Upstreams::reuse`.
    fn reuse(&self) -> Option<u32> {
        let began_after = self.answered.load(Ordering::Acquire);
        let taken = self.shelf.take(Vec::pop, || self.life.phase() == Phase::Active);
        assert!(!(began_after && taken.is_some()), "a request that began after the answer got an old connection");
        taken
    }

    /// `Pool::put_back`.
    fn put_back(&self, connection: u32) -> Result<(), Refused> {
        let put = self.shelf.put(connection, || self.life.phase() == Phase::Active, |held| held < 2);
        put.map(|()| self.waiters.wake_one()).map_err(|(why, _)| why)
    }

    /// The waiting part of `Upstreams::checkout`, where no connection can be made: `None` once it was retired.
    fn checkout(&self) -> Option<u32> {
        let mut waiting = None;
        let outcome = loop {
            if let Some(connection) = self.reuse() {
                break Some(connection);
            }
            if self.life.phase() != Phase::Active {
                break None;
            }
            match waiting.take() {
                None => {
                    self.waiters.enter();
                    waiting = Some(self.waiters.bell.listen());
                }
                Some(heard) => {
                    Listening::wait(heard);
                    self.waiters.leave();
                }
            }
        };
        if waiting.is_some() {
            self.waiters.leave();
        }
        outcome
    }
}

/// Tries every order with at most so many interruptions of a thread that could go on: the rest of those that go wrong
/// go wrong with fewer, too, as a rule, and with all of them it takes minutes.
fn within(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn at(deadline: u32) -> Until<u32> {
    Until::all(deadline)
}

#[test]
fn after_the_answer_no_checkout_succeeds() {
    within(3, || {
        let world = World::with(&[1, 2]);
        let taker = {
            let world = Arc::clone(&world);
            thread::spawn(move || [world.reuse(), world.reuse()])
        };
        let watcher = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.watch())
        };
        world.retire(at(9));
        assert_eq!(world.reuse(), None);
        taker.join().unwrap();
        watcher.join().unwrap();
    });
}

#[test]
fn nothing_lies_idle_under_a_retired_identity() {
    within(4, || {
        let world = World::with(&[1]);
        let user = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.reuse().map(|connection| world.put_back(connection)))
        };
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.put_back(2))
        };
        world.retire(at(9));
        world.watch();
        user.join().unwrap();
        other.join().unwrap().ok();
        assert!(world.shelf.lock().is_empty(), "a connection lies where nobody will ever close it");
    });
}

#[test]
fn nobody_waits_for_ever_for_a_connection_that_comes_back() {
    loom::model(|| {
        let world = World::with(&[]);
        let waiter = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.checkout())
        };
        world.put_back(1).unwrap();
        // loom fails where a thread can never go on.
        assert_eq!(waiter.join().unwrap(), Some(1));
        assert_eq!(world.waiters.count(), 0);
    });
}

#[test]
fn nobody_waits_for_ever_under_an_identity_that_is_retired() {
    within(2, || {
        let world = World::with(&[]);
        let waiter = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.checkout())
        };
        let giver = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.put_back(1))
        };
        world.retire(at(9));
        world.watch();
        giver.join().unwrap().ok();
        waiter.join().unwrap();
        assert_eq!(world.waiters.count(), 0);
        assert!(world.shelf.lock().is_empty());
    });
}

#[test]
fn a_deadline_comes_only_nearer_and_a_phase_never_back() {
    loom::model(|| {
        let life = Arc::new(Course::<u32>::default());
        let retire = |until| {
            let life = Arc::clone(&life);
            thread::spawn(move || life.retire(until))
        };
        let replaced = retire(Until { exchanges: 5, upgraded: 9 });
        let deleted = retire(Until { exchanges: 7, upgraded: 7 });
        let (mut phase, mut until) = (life.phase(), life.until());
        for _ in 0..2 {
            let (later_phase, later) = (life.phase(), life.until());
            assert!(later_phase >= phase);
            if let Some(old) = until {
                let new = later.expect("a deadline never goes");
                assert!(new.exchanges <= old.exchanges && new.upgraded <= old.upgraded);
            }
            (phase, until) = (later_phase, later);
        }
        replaced.join().unwrap();
        deleted.join().unwrap();
        assert_eq!((life.phase(), life.until()), (Phase::Draining, Some(Until { exchanges: 5, upgraded: 7 })));
    });
}

#[test]
fn an_end_is_final_whoever_retires_meanwhile() {
    loom::model(|| {
        let life = Arc::new(Course::<u32>::default());
        let ended = {
            let life = Arc::clone(&life);
            thread::spawn(move || life.end(1))
        };
        life.retire(at(9));
        ended.join().unwrap();
        assert_eq!((life.phase(), life.until()), (Phase::Gone, Some(at(1))));
    });
}
