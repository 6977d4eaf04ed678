//! Records that end with the process. Needs no writable path.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::feed::Feed;
use super::{Backend, BackendError, BoxFuture, Change, Changes, Expect, Loaded, Op, RecordKey, Revision, SealedRecord};

/// Keeps records until exit. Otherwise it behaves as the embedded store does; one suite runs against both.
pub struct MemoryBackend {
    state: Mutex<State>,
    feed: Arc<Feed>,
}

#[derive(Default)]
struct State {
    records: BTreeMap<RecordKey, SealedRecord>,
    revision: Revision,
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self { state: Mutex::default(), feed: Feed::new(Revision::default()) }
    }
}

impl State {
    /// What `ops` come to, or the first of them that does not hold.
    fn plan(&self, ops: &[Op]) -> Result<HashMap<RecordKey, Option<SealedRecord>>, BackendError> {
        let mut planned: HashMap<RecordKey, Option<SealedRecord>> = HashMap::new();
        for op in ops {
            let (key, expect, next) = match op {
                Op::Put(record, expect) => (&record.key, *expect, Some(record)),
                Op::Rewrap(record) => (&record.key, Expect::Version(record.version), Some(record)),
                Op::Delete(key, expect) => (key, *expect, None),
            };
            let found = match planned.get(key) {
                Some(planned) => planned.as_ref(),
                None => self.records.get(key),
            };
            let found = found.map(|r| r.version);
            let grows = matches!(op, Op::Put(record, _) if record.version > found.unwrap_or(0));
            if !expect.holds(found) || matches!(op, Op::Put(..)) && !grows {
                return Err(BackendError::Conflict(key.clone()));
            }
            planned.insert(key.clone(), next.cloned());
        }
        Ok(planned)
    }

    fn commit(&mut self, ops: &[Op]) -> Result<Revision, BackendError> {
        let planned = self.plan(ops)?;
        for (key, next) in planned {
            match next {
                Some(record) => self.records.insert(key, record),
                None => self.records.remove(&key),
            };
        }
        self.revision.0 += 1;
        Ok(self.revision)
    }
}

impl Backend for MemoryBackend {
    fn load(&self) -> BoxFuture<'_, Result<Loaded, BackendError>> {
        Box::pin(async {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(Loaded {
                records: state.records.values().cloned().collect(),
                damaged: Vec::new(),
                lost: Vec::new(),
                revision: state.revision,
            })
        })
    }

    fn commit(&self, ops: Vec<Op>) -> BoxFuture<'_, Result<Revision, BackendError>> {
        Box::pin(async {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if ops.is_empty() {
                return Ok(state.revision);
            }
            let revision = state.commit(&ops)?;
            // With the lock held, so that changes are published in the order of their revisions.
            self.feed.publish(Change { revision, ops });
            Ok(revision)
        })
    }

    fn watch(&self, after: Revision) -> Changes {
        self.feed.changes(after)
    }
}
