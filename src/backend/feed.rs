//! What [`super::Backend::watch`] hands out, for backends that are their only writer: their own commits, in order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream;
use tokio::sync::watch;

use super::{BackendError, Change, Changes, Expect, Revision};

/// Changes kept for watchers that are behind. One that is further behind is told to load again.
const KEPT: usize = 256;

/// The last changes, and a bell for those who wait for the next.
pub(super) struct Feed {
    recent: Mutex<Recent>,
    bell: watch::Sender<Revision>,
}

struct Recent {
    /// Contiguous revisions, the last one `current`.
    changes: VecDeque<Change>,
    current: Revision,
}

enum Next {
    Change(Change),
    /// What came after the watcher's position is not kept, or never was.
    Gap(Revision),
    Nothing,
}

impl Feed {
    pub(super) fn new(current: Revision) -> Arc<Self> {
        let recent = Mutex::new(Recent { changes: VecDeque::new(), current });
        Arc::new(Self { recent, bell: watch::Sender::new(current) })
    }

    /// Revisions are published in order, each one more than the last.
    pub(super) fn publish(&self, change: Change) {
        let revision = change.revision;
        {
            let mut recent = self.recent();
            if recent.changes.len() == KEPT {
                recent.changes.pop_front();
            }
            recent.current = revision;
            recent.changes.push_back(change);
        }
        self.bell.send_replace(revision);
    }

    /// Every change after `after`. An error means that some are no longer kept: load again; the stream goes on from
    /// there. Ends once the backend is gone.
    pub(super) fn changes(self: &Arc<Self>, after: Revision) -> Changes {
        let state = (Arc::downgrade(self), self.bell.subscribe(), after);
        Box::pin(stream::unfold(state, |(feed, mut bell, after)| async move {
            loop {
                bell.mark_unchanged();
                // The feed is not held across the wait: a watcher must not keep it alive, or it would wait for ever.
                let next = feed.upgrade()?.next(after);
                match next {
                    Next::Change(change) => {
                        let at = change.revision;
                        return Some((Ok(change), (feed, bell, at)));
                    }
                    Next::Gap(current) => return Some((Err(gap(after)), (feed, bell, current))),
                    Next::Nothing => bell.changed().await.ok()?,
                }
            }
        }))
    }

    fn next(&self, after: Revision) -> Next {
        let recent = self.recent();
        if after == recent.current {
            return Next::Nothing;
        }
        match recent.changes.iter().position(|c| c.revision.0 == after.0.saturating_add(1)) {
            Some(at) => Next::Change(recent.changes[at].clone()),
            None => Next::Gap(recent.current),
        }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        // Nothing in there can panic half-way through a change.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Expect {
    /// Whether a record that is there at version `found` (or not at all) is what was expected.
    pub(super) fn holds(self, found: Option<u64>) -> bool {
        match self {
            Self::Absent => found.is_none(),
            Self::Version(wanted) => found == Some(wanted),
            Self::Any => true,
        }
    }
}

fn gap(after: Revision) -> BackendError {
    BackendError::Unavailable {
        doing: "read",
        cause: format!("the changes after revision {} are no longer kept; load everything again", after.0),
    }
}
