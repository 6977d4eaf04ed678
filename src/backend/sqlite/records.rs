//! Reading and writing the tables. Everything here runs on the store's own thread.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;

use aws_lc_rs::digest::{SHA256, digest};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use crate::backend::{BackendError, Expect, Loaded, Op, RecordKey, RecordKind, Revision, SealedRecord};

/// The open store.
pub(super) struct Store {
    connection: Connection,
    /// What `quick_check` said at start.
    complaints: Vec<String>,
    /// Rows that are there but not served. For a commit they are absent, so that a new upload can take their place.
    quarantined: HashSet<RecordKey>,
    /// Freed after the connection is closed: fields are dropped in this order.
    _lock: Lock,
}

/// The locked `egret.lock`.
pub(super) struct Lock(pub(super) File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone is not enough: a process that is just being spawned may hold a copy of the descriptor until
        // its exec. If this fails, closing is what is left.
        let _ = self.0.unlock();
    }
}

/// Version and SHA-256 of what was committed last under a key.
type Entry = (u64, [u8; 32]);

impl Store {
    pub(super) fn new(connection: Connection, complaints: Vec<String>, lock: Lock) -> Self {
        Self { connection, complaints, quarantined: HashSet::new(), _lock: lock }
    }

    #[cfg(test)]
    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// The position, or 0 if it cannot be read: then the next commit will not succeed either.
    pub(super) fn revision(&self) -> Revision {
        revision(&self.connection).unwrap_or_default()
    }

    /// All that can be read and is what was committed; the rest by name.
    pub(super) fn load(&mut self) -> Result<Loaded, BackendError> {
        // One transaction, so one state, whatever else looks into the file.
        let transaction = self.connection.transaction().map_err(failed("read"))?;
        let mut damaged: Vec<String> =
            self.complaints.iter().map(|c| format!("the check at start says: {c}")).collect();
        let revision = revision(&transaction).unwrap_or_else(|e| {
            damaged.push(format!("the position of the store cannot be read ({e}); nothing can be written to it"));
            Revision::default()
        });
        let (found, mut lost) = match scan(&transaction) {
            Ok(all) => all,
            Err(_) => salvage(&transaction),
        };
        let (ledger, complete) = ledger(&transaction);
        if complete {
            // The ledger knows them by name.
            lost.retain(|row| row.is_foreign);
        } else {
            damaged.push(
                "the ledger of the store cannot be read in full; not all records could be compared with it".to_owned(),
            );
        }
        damaged.extend(lost.into_iter().map(|row| row.sentence));

        let compared = compare(found, ledger, complete, &mut damaged);
        self.quarantined = compared.quarantined;
        Ok(Loaded { records: compared.records, damaged, lost: compared.lost, revision })
    }

    /// All of `ops`, synced, or none.
    pub(super) fn commit(&mut self, ops: &[Op]) -> Result<Revision, BackendError> {
        if ops.is_empty() {
            return revision(&self.connection).map_err(failed("read"));
        }
        // A `?` below drops the transaction, which rolls it back.
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed("written"))?;
        let mut healed = HashSet::new();
        for op in ops {
            let (key, expect) = match op {
                Op::Put(record, expect) => (&record.key, *expect),
                Op::Rewrap(record) => (&record.key, Expect::Version(record.version)),
                Op::Delete(key, expect) => (key, *expect),
            };
            let found = version(&transaction, key).map_err(failed("written"))?;
            let found = found.filter(|_| healed.contains(key) || !self.quarantined.contains(key));
            apply(&transaction, op, expect, found)?;
            healed.insert(key);
        }
        let revision = transaction
            .query_row("UPDATE meta SET revision = revision + 1 WHERE one = 1 RETURNING revision", (), |row| {
                unsigned(row, 0)
            })
            .map_err(failed("written"))?;
        transaction.commit().map_err(failed("written"))?;
        for key in healed {
            self.quarantined.remove(key);
        }
        Ok(Revision(revision))
    }
}

fn apply(transaction: &Transaction<'_>, op: &Op, expect: Expect, found: Option<u64>) -> Result<(), BackendError> {
    let cached = |sql| -> Result<CachedStatement<'_>, BackendError> {
        transaction.prepare_cached(sql).map_err(failed("written"))
    };
    match op {
        Op::Put(SealedRecord { key, version, sealed }, _) | Op::Rewrap(SealedRecord { key, version, sealed }) => {
            // A version that does not grow would let an old envelope stand in for a new one; under another
            // key-encryption key there is no old one that opens.
            let is_put = matches!(op, Op::Put(..));
            if !expect.holds(found) || is_put && *version <= found.unwrap_or(0) {
                return Err(BackendError::Conflict(key.clone()));
            }
            let (kind, project, id) = (key.kind.as_str(), &key.project, &key.id);
            let version = i64::try_from(*version).map_err(|_| BackendError::Unavailable {
                doing: "written",
                cause: format!("the version of {key} is beyond what it can hold"),
            })?;
            cached(
                "INSERT INTO records (kind, project, id, version, sealed) VALUES (?, ?, ?, ?, ?)
                 ON CONFLICT DO UPDATE SET version = excluded.version, sealed = excluded.sealed",
            )?
            .execute(params![kind, project, id, version, sealed])
            .map_err(failed("written"))?;
            cached(
                "INSERT INTO ledger (kind, project, id, version, sha256) VALUES (?, ?, ?, ?, ?)
                 ON CONFLICT DO UPDATE SET version = excluded.version, sha256 = excluded.sha256",
            )?
            .execute(params![kind, project, id, version, sha256(sealed)])
            .map_err(failed("written"))?;
        }
        Op::Delete(key, _) => {
            if !expect.holds(found) {
                return Err(BackendError::Conflict(key.clone()));
            }
            for sql in [
                "DELETE FROM records WHERE kind = ? AND project = ? AND id = ?",
                "DELETE FROM ledger WHERE kind = ? AND project = ? AND id = ?",
            ] {
                cached(sql)?.execute(params![key.kind.as_str(), key.project, key.id]).map_err(failed("written"))?;
            }
        }
    }
    Ok(())
}

fn version(connection: &Connection, key: &RecordKey) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached("SELECT version FROM records WHERE kind = ? AND project = ? AND id = ?")?
        .query_row(params![key.kind.as_str(), key.project, key.id], |row| row.get::<_, i64>(0))
        .optional()
        // A version that cannot be is damage; the row may be replaced.
        .map(|found| found.and_then(|version| u64::try_from(version).ok()))
}

fn revision(connection: &Connection) -> rusqlite::Result<Revision> {
    connection.query_row("SELECT revision FROM meta WHERE one = 1", (), |row| unsigned(row, 0)).map(Revision)
}

/// SQLite's integers have a sign, ours do not.
fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

// === Reading what may be damaged ===

/// A row that is not a record, or cannot be read at all.
struct Lost {
    sentence: String,
    /// It can be read, but is none of ours; the ledger knows nothing of it.
    is_foreign: bool,
}

const COLUMNS: &str = "rowid, kind, project, id, version, sealed";

/// Every row of a sound table.
fn scan(connection: &Connection) -> rusqlite::Result<(Vec<SealedRecord>, Vec<Lost>)> {
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM records NOT INDEXED"))?;
    let mut rows = statement.query(())?;
    let (mut found, mut lost) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        match record(row)? {
            Ok(record) => found.push(record),
            Err(row) => lost.push(row),
        }
    }
    Ok((found, lost))
}

/// Row by row, so that a damaged page costs only the rows in it. Which rows there are is asked of the table and of its
/// index, each from both ends: one sound way to a row is enough.
fn salvage(connection: &Connection) -> (Vec<SealedRecord>, Vec<Lost>) {
    let mut ids = BTreeSet::new();
    for sql in [
        "SELECT rowid FROM records NOT INDEXED ORDER BY rowid",
        "SELECT rowid FROM records NOT INDEXED ORDER BY rowid DESC",
        "SELECT rowid FROM records ORDER BY kind, project, id",
        "SELECT rowid FROM records ORDER BY kind DESC, project DESC, id DESC",
    ] {
        let mut collect = || -> rusqlite::Result<()> {
            let mut statement = connection.prepare(sql)?;
            let mut rows = statement.query(())?;
            while let Some(row) = rows.next()? {
                ids.insert(row.get::<_, i64>(0)?);
            }
            Ok(())
        };
        // As far as it goes; the other ways go on from there.
        let _ = collect();
    }
    let (mut found, mut lost) = (Vec::new(), Vec::new());
    for id in ids {
        let read = connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM records NOT INDEXED WHERE rowid = ?"))
            .and_then(|mut statement| statement.query_row([id], record).optional());
        match read {
            Ok(Some(Ok(record))) => found.push(record),
            Ok(Some(Err(row))) => lost.push(row),
            // Named by the index, gone from the table.
            Ok(None) => lost.push(Lost { sentence: format!("row {id} of the store is missing"), is_foreign: false }),
            Err(e) => {
                lost.push(Lost { sentence: format!("row {id} of the store cannot be read: {e}"), is_foreign: false });
            }
        }
    }
    (found, lost)
}

/// The row as a record, if its columns make one.
fn record(row: &Row<'_>) -> rusqlite::Result<Result<SealedRecord, Lost>> {
    let rowid: i64 = row.get(0)?;
    let parse = || {
        let key = key(row, 1)?;
        let version = unsigned(row, 4).ok()?;
        let sealed = row.get_ref(5).ok()?.as_blob().ok()?.to_vec();
        Some(SealedRecord { key, version, sealed })
    };
    Ok(parse().ok_or_else(|| Lost { sentence: format!("row {rowid} of the store is not a record"), is_foreign: true }))
}

/// The key in three columns from `at`.
fn key(row: &Row<'_>, at: usize) -> Option<RecordKey> {
    let text = |column: usize| row.get_ref(column).ok()?.as_str().ok();
    Some(RecordKey { kind: RecordKind::parse(text(at)?)?, project: text(at + 1)?.into(), id: text(at + 2)?.into() })
}

/// What the ledger holds, and whether that is all of it.
fn ledger(connection: &Connection) -> (BTreeMap<RecordKey, Entry>, bool) {
    let mut entries = BTreeMap::new();
    let mut read = |order: &str| -> rusqlite::Result<bool> {
        let mut whole = true;
        let sql = format!(
            "SELECT kind, project, id, version, sha256 FROM ledger ORDER BY kind {order}, project {order}, id {order}"
        );
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            let digest = row.get_ref(4)?.as_blob().ok().and_then(|blob| <[u8; 32]>::try_from(blob).ok());
            match (key(row, 0), unsigned(row, 3), digest) {
                (Some(key), Ok(version), Some(digest)) => {
                    entries.insert(key, (version, digest));
                }
                _ => whole = false,
            }
        }
        Ok(whole)
    };
    let complete = read("ASC").unwrap_or(false);
    if !complete {
        // What lies behind the damage can be reached from the other end.
        let _ = read("DESC");
    }
    (entries, complete)
}

/// What was read, held against the ledger.
struct Compared {
    /// As it was committed.
    records: Vec<SealedRecord>,
    /// Rows that are there but not served.
    quarantined: HashSet<RecordKey>,
    /// Committed once, and now changed or missing.
    lost: Vec<RecordKey>,
}

/// Splits what was read into what was committed and what contradicts the ledger.
fn compare(
    found: Vec<SealedRecord>,
    ledger: BTreeMap<RecordKey, Entry>,
    complete: bool,
    damaged: &mut Vec<String>,
) -> Compared {
    let mut found: HashMap<RecordKey, SealedRecord> = found.into_iter().map(|r| (r.key.clone(), r)).collect();
    let mut records = Vec::with_capacity(found.len());
    let (mut quarantined, mut lost) = (HashSet::new(), Vec::new());
    for (key, entry) in ledger {
        match found.remove(&key) {
            Some(record) if (record.version, sha256(&record.sealed)) == entry => records.push(record),
            Some(record) => {
                damaged.push(format!("{key} is not as it was committed (damaged, or put back to an earlier state)"));
                lost.push(record.key.clone());
                quarantined.insert(record.key);
            }
            None => {
                damaged.push(format!("{key} is missing or cannot be read"));
                lost.push(key);
            }
        }
    }
    for (key, record) in found {
        if complete {
            damaged.push(format!("{key} was not committed by egret (put there, or back after its delete)"));
            quarantined.insert(key);
        } else {
            // Its envelope is what speaks for it.
            records.push(record);
        }
    }
    records.sort_by(|a, b| a.key.cmp(&b.key));
    Compared { records, quarantined, lost }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// SQLite's messages name tables, columns and pages; no value of ours is in them.
fn failed(doing: &'static str) -> impl Fn(rusqlite::Error) -> BackendError {
    move |error| BackendError::Unavailable { doing, cause: error.to_string() }
}
