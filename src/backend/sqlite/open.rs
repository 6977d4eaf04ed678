//! From a folder to an open, checked and migrated store.

use std::fs::TryLockError;
use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::records::{Lock, Store};
use crate::backend::BackendError;
use crate::pki::files::{self, FileError};

pub(super) const FILE: &str = "egret.db";
pub(super) const LOCK: &str = "egret.lock";
/// `egrt`: tells a store of egret's from any other SQLite file.
pub(super) const APPLICATION: i64 = 0x6567_7274;
/// Complaints of `quick_check` that are kept; after so many, more say nothing new.
const MAX_COMPLAINTS: usize = 20;
/// A person's `sqlite3` may hold the file for so long before a commit fails.
const BUSY: Duration = Duration::from_secs(5);

/// Each brings the schema one version on (`user_version`). Never changed once released; only added to.
pub(super) const MIGRATIONS: &[&str] = &["
    CREATE TABLE records (
        kind    TEXT    NOT NULL,
        project TEXT    NOT NULL,
        id      TEXT    NOT NULL,
        version INTEGER NOT NULL,
        sealed  BLOB    NOT NULL,
        PRIMARY KEY (kind, project, id)
    ) STRICT;
    CREATE TABLE ledger (
        kind    TEXT    NOT NULL,
        project TEXT    NOT NULL,
        id      TEXT    NOT NULL,
        version INTEGER NOT NULL,
        sha256  BLOB    NOT NULL,
        PRIMARY KEY (kind, project, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE meta (
        one      INTEGER PRIMARY KEY CHECK (one = 1),
        revision INTEGER NOT NULL
    ) STRICT;
    INSERT INTO meta (one, revision) VALUES (1, 0);
"];

pub(super) fn open(data_dir: &Path) -> Result<Store, BackendError> {
    files::private_folder(data_dir)?;
    // SQLite's NOFOLLOW minds links anywhere in the path; where the folder lies is the operator's choice.
    let data_dir = data_dir.canonicalize().map_err(|e| unavailable(format!("{}: {e}", data_dir.display())))?;
    let lock = lock(&data_dir)?;

    let path = data_dir.join(FILE);
    for suffix in ["-wal", "-shm"] {
        files::check_private(&data_dir.join(format!("{FILE}{suffix}")))?;
    }
    // Made here, so that the mode is ours: SQLite gives its companions the mode of the file. Closed again before
    // SQLite opens it, because closing any descriptor of a file frees all POSIX locks on it.
    drop(files::open_or_create_private(&path)?);

    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags(&path, flags).map_err(|e| explain(&path, &e))?;
    let found = prepare(&mut connection, &path)?;
    files::sync_folder(&data_dir)?;

    let complaints = quick_check(&connection);
    if !complaints.is_empty() {
        tracing::error!(path = %path.display(), complaints = complaints.len(), first = complaints[0], "the store is damaged; what can be read is served");
    }
    tracing::debug!(path = %path.display(), schema = MIGRATIONS.len(), found, "store opened");
    Ok(Store::new(connection, complaints, lock))
}

/// One egret at a time. The lock ends with the process, however it ends.
fn lock(data_dir: &Path) -> Result<Lock, BackendError> {
    let file = files::open_or_create_private(&data_dir.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(unavailable(format!(
            "another egret works with {}; stop it, or give this one another data directory",
            data_dir.display()
        ))),
        Err(TryLockError::Error(e)) => {
            Err(unavailable(format!("{} cannot be locked: {e}", data_dir.join(LOCK).display())))
        }
    }
}

/// Looks before it writes: nothing is changed in a file that is not ours, or too new. Answers the schema found.
fn prepare(connection: &mut Connection, path: &Path) -> Result<i64, BackendError> {
    let failed = |e: rusqlite::Error| explain(path, &e);
    connection.busy_timeout(BUSY).map_err(failed)?;
    let number = |sql| connection.query_row(sql, (), |row| row.get::<_, i64>(0)).map_err(failed);
    let (found, application) = (number("PRAGMA user_version")?, number("PRAGMA application_id")?);
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let fresh = found == 0 && application == 0 && number("SELECT count(*) FROM sqlite_schema")? == 0;
    if found > known && (application == APPLICATION || application == 0) {
        return Err(BackendError::Newer { found, known });
    }
    if application != APPLICATION && !fresh {
        return Err(unavailable(format!("{} is a database of another program; move it away", path.display())));
    }

    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get(0)).map_err(failed)?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(unavailable(format!("{} is on a file system without shared memory", path.display())));
    }
    connection
        .execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON;
             PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA secure_delete = ON;",
        )
        .map_err(failed)?;
    migrate(connection, found).map_err(failed)?;
    Ok(found)
}

fn migrate(connection: &mut Connection, found: i64) -> rusqlite::Result<()> {
    let done = usize::try_from(found).unwrap_or(0);
    for (version, sql) in (1_i64..).zip(MIGRATIONS).skip(done) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(sql)?;
        // Both stand in the file's header, so they are part of the transaction.
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

/// What SQLite has to complain of; empty for a sound file. Speaks of pages and trees, never of content.
fn quick_check(connection: &Connection) -> Vec<String> {
    let check = || -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare(&format!("PRAGMA quick_check({MAX_COMPLAINTS})"))?;
        statement.query_map((), |row| row.get(0))?.collect()
    };
    match check() {
        Ok(lines) if lines.iter().all(|line| line == "ok") => Vec::new(),
        // One row may hold several lines.
        Ok(lines) => lines.iter().flat_map(|l| l.lines()).take(MAX_COMPLAINTS).map(str::to_owned).collect(),
        Err(e) => vec![e.to_string()],
    }
}

pub(super) fn explain(path: &Path, error: &rusqlite::Error) -> BackendError {
    let path = path.display();
    unavailable(match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            format!("{path} is no database, or its first page is damaged; put a backup in its place, or move it away")
        }
        _ => format!("{path}: {error}"),
    })
}

pub(super) fn unavailable(cause: String) -> BackendError {
    BackendError::Unavailable { doing: "opened", cause }
}

impl From<FileError> for BackendError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Permissions { path, mode, want } => {
                Self::Permissions { path: path.display().to_string(), mode, want }
            }
            FileError::Io { ref source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                unavailable(format!("{error}; make room on the disk"))
            }
            other => unavailable(other.to_string()),
        }
    }
}
