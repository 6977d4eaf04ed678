//! Another key-encryption key for the whole store: every data key is wrapped anew, in one commit.
//!
//! - A record keeps its version and its payload, byte for byte; only the wrapping of its data key changes. A binding's
//!   record is named by a hash under the key, so it moves to a new name, and is sealed anew there.
//! - Every record has been opened under the old key, and its successor under the new one, before anything is written.
//! - What does not open stops it. With [`Damaged::Keep`] such records stay as they are, which is: unusable.
//!
//! The order that makes a crash harmless is the caller's: the new key durable first, then [`Plan::commit`], and the old
//! key given up last. [`opens_any`] tells afterwards which of the two the store wants.

use std::collections::{BTreeMap, BTreeSet};

use super::records::BindingRecord;
use super::store::place;
use crate::backend::{Backend, BackendError, Expect, Op, RecordKey, RecordKind, SealedRecord};
use crate::pki::seal::{SealError, Sealer};

/// What to do about records that cannot be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damaged {
    /// Stop, and change nothing.
    Refuse,
    /// Leave them as they are.
    Keep,
}

/// Why the key was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RekeyError {
    /// The key in force is not the one that the store was written with.
    #[error(
        "the configured key-encryption key opens none of the {0} records of the store; restore the key that they were sealed with"
    )]
    OtherKey(usize),
    /// Old and new are one key.
    #[error("the new key-encryption key is the one that is in force; make another with: openssl rand -hex 32")]
    SameKey,
    /// There are damaged records.
    #[error(
        "{} records of the store are damaged, and nothing was changed; upload those certificates again, restore a backup, or leave them behind with --skip-damaged:\n  {}",
        .0.len(), .0.join("\n  ")
    )]
    Damaged(Vec<String>),
    /// A record could not be sealed.
    #[error("{0} could not be sealed under the new key: {1}; nothing was changed")]
    Sealing(RecordKey, SealError),
    /// After the commit, what was read back is not what was written.
    #[error("{0} does not open under the new key after it was written; keep both keys, and restore a backup")]
    Unverified(String),
    /// The backend said no.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Everything that the change will write; nothing is written yet.
pub struct Plan {
    ops: Vec<Op>,
    counts: BTreeMap<&'static str, usize>,
    damaged: Vec<String>,
    expected: BTreeSet<RecordKey>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rekeyed {
    /// Records under the new key, by kind.
    pub counts: BTreeMap<&'static str, usize>,
    /// Those that were left behind; each a sentence naming the record.
    pub damaged: Vec<String>,
}

/// Opens every record under `old`, and seals its successor for `new`.
///
/// # Errors
/// [`RekeyError`]; nothing was written.
pub async fn plan(backend: &dyn Backend, old: &Sealer, new: &Sealer, damaged: Damaged) -> Result<Plan, RekeyError> {
    if old.is_same_key(new) {
        return Err(RekeyError::SameKey);
    }
    let loaded = backend.load().await?;
    let mut plan =
        Plan { ops: Vec::new(), counts: BTreeMap::new(), damaged: loaded.damaged, expected: BTreeSet::new() };
    let (all, mut foreign) = (loaded.records.len(), 0);
    for record in loaded.records {
        match successor(&record, old, new) {
            Ok(ops) => plan.add(&record, ops),
            Err(Failure::Unusable(why)) => {
                foreign += usize::from(why == SealError::OtherKey.to_string());
                plan.damaged.push(format!("{}: {why}", record.key));
            }
            Err(Failure::Sealing(error)) => return Err(RekeyError::Sealing(record.key, error)),
        }
    }
    if all > 0 && foreign == all {
        return Err(RekeyError::OtherKey(all));
    }
    if damaged == Damaged::Refuse && !plan.damaged.is_empty() {
        return Err(RekeyError::Damaged(plan.damaged));
    }
    Ok(plan)
}

/// Whether any record opens under this key.
///
/// # Errors
/// The store cannot be read.
pub async fn opens_any(backend: &dyn Backend, sealer: &Sealer) -> Result<bool, BackendError> {
    let loaded = backend.load().await?;
    Ok(loaded.records.iter().any(|r| sealer.open(&r.sealed, place(&r.key, r.version)).is_ok()))
}

enum Failure {
    Unusable(String),
    Sealing(SealError),
}

/// What takes the place of a record, opened once to be sure.
fn successor(record: &SealedRecord, old: &Sealer, new: &Sealer) -> Result<Vec<Op>, Failure> {
    let here = place(&record.key, record.version);
    let plain = old.open(&record.sealed, here).map_err(|e| Failure::Unusable(e.to_string()))?;
    // Spelled out: a kind whose records are named by a keyed hash has to move, and only its author knows.
    let (successor, ops) = match record.key.kind {
        RecordKind::Project
        | RecordKind::Certificate
        | RecordKind::LocalCa
        | RecordKind::Token
        | RecordKind::Disclosures
        | RecordKind::Roster
        | RecordKind::AccountCertificate => {
            let sealed = old.rewrap(&record.sealed, here, new).map_err(Failure::Sealing)?;
            let rewrapped = SealedRecord { sealed, ..record.clone() };
            (rewrapped.clone(), vec![Op::Rewrap(rewrapped)])
        }
        RecordKind::Binding => {
            let binding = BindingRecord::parse(&plain).map_err(|e| Failure::Unusable(e.to_string()))?;
            let pattern = binding.pattern.to_string();
            if old.keyed_name(&pattern) != record.key.id {
                return Err(Failure::Unusable("the record's name is not that of its pattern".to_owned()));
            }
            let key = RecordKey { id: new.keyed_name(&pattern), ..record.key.clone() };
            let sealed = new.seal(&plain, place(&key, 1)).map_err(Failure::Sealing)?;
            let moved = SealedRecord { key, version: 1, sealed };
            let delete = Op::Delete(record.key.clone(), Expect::Version(record.version));
            (moved.clone(), vec![delete, Op::Put(moved, Expect::Absent)])
        }
    };
    let opened = new.open(&successor.sealed, place(&successor.key, successor.version)).map_err(Failure::Sealing)?;
    if *opened == *plain { Ok(ops) } else { Err(Failure::Sealing(SealError::Seal)) }
}

impl Plan {
    fn add(&mut self, record: &SealedRecord, ops: Vec<Op>) {
        *self.counts.entry(record.key.kind.as_str()).or_default() += 1;
        self.expected.extend(ops.iter().filter_map(|op| match op {
            Op::Put(record, _) | Op::Rewrap(record) => Some(record.key.clone()),
            Op::Delete(..) => None,
        }));
        self.ops.extend(ops);
    }

    /// Writes all of it or nothing, and reads it back. When this has answered, only the new key opens the store.
    ///
    /// # Errors
    /// [`RekeyError::Backend`]: nothing was written. [`RekeyError::Unverified`]: it was, but does not read back.
    pub async fn commit(self, backend: &dyn Backend, new: &Sealer) -> Result<Rekeyed, RekeyError> {
        backend.commit(self.ops).await?;
        let loaded = backend.load().await?;
        let mut missing = self.expected;
        for record in loaded.records {
            if new.open(&record.sealed, place(&record.key, record.version)).is_ok() {
                missing.remove(&record.key);
            }
        }
        match missing.first() {
            Some(key) => Err(RekeyError::Unverified(key.to_string())),
            None => Ok(Rekeyed { counts: self.counts, damaged: self.damaged }),
        }
    }
}
