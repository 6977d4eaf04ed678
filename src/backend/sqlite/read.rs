//! Reading a store that no egret works with, without changing anything: not a file is made, not a byte written.

use std::fs::{File, TryLockError};
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::open::{APPLICATION, FILE, LOCK, MIGRATIONS, explain, unavailable};
use super::records::{Lock, Store};
use crate::backend::{BackendError, Loaded};
use crate::pki::files;

/// All records; `None` if there is no store.
///
/// # Errors
/// As opening it; and if another egret works with it, or was killed and left what only a start can put right.
pub(super) fn read(data_dir: &Path) -> Result<Option<Loaded>, BackendError> {
    let Ok(data_dir) = data_dir.canonicalize() else { return Ok(None) };
    let path = data_dir.join(FILE);
    if !path.try_exists().map_err(|e| unavailable(format!("{}: {e}", path.display())))? {
        return Ok(None);
    }
    let [wal, shm] = ["-wal", "-shm"].map(|suffix| data_dir.join(format!("{FILE}{suffix}")));
    for file in [&path, &wal, &shm] {
        files::check_private(file)?;
    }
    let lock = lock(&data_dir)?;

    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = if wal.metadata().is_ok_and(|m| m.len() > 0) {
        // Killed: the last commits are in the log, and its index tells where. Without the index SQLite would make one.
        if !shm.exists() {
            return Err(unavailable(format!(
                "{} was not closed and its -shm file is gone; start egret once, it puts that right",
                path.display()
            )));
        }
        Connection::open_with_flags(&path, flags)
    } else {
        // Closed well: everything is in the file. SQLite would make a log and an index even to read it, unless it is
        // told that nobody changes it, which the lock guarantees.
        Connection::open_with_flags(immutable(&path), flags | OpenFlags::SQLITE_OPEN_URI)
    };
    let connection = connection.map_err(|e| explain(&path, &e))?;
    check(&connection, &path)?;
    Store::new(connection, Vec::new(), lock).load().map(Some)
}

/// A shared lock: several may read, and no egret starts meanwhile (reading takes milliseconds).
fn lock(data_dir: &Path) -> Result<Lock, BackendError> {
    let path = data_dir.join(LOCK);
    let file = match files::open_private(&path, false) {
        // Somebody took it away; then the folder is as good a thing to hold.
        Err(error) if error.is_not_found() => {
            File::open(data_dir).map_err(|e| unavailable(format!("{}: {e}", data_dir.display())))?
        }
        other => other?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(unavailable(format!(
            "an egret works with {}; ask that one, with --url or EGRET_URL",
            data_dir.display()
        ))),
        Err(TryLockError::Error(e)) => Err(unavailable(format!("{} cannot be locked: {e}", path.display()))),
    }
}

/// A `file:` URI (sqlite.org/uri.html) of an absolute path.
fn immutable(path: &Path) -> String {
    use std::fmt::Write as _;
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~') {
            uri.push(char::from(*byte));
        } else {
            let _ = write!(uri, "%{byte:02x}");
        }
    }
    uri.push_str("?immutable=1");
    uri
}

fn check(connection: &Connection, path: &Path) -> Result<(), BackendError> {
    let number = |sql| connection.query_row(sql, (), |row| row.get::<_, i64>(0)).map_err(|e| explain(path, &e));
    let (found, application) = (number("PRAGMA user_version")?, number("PRAGMA application_id")?);
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if application != APPLICATION {
        return Err(unavailable(format!("{} is a database of another program", path.display())));
    }
    if found > known { Err(BackendError::Newer { found, known }) } else { Ok(()) }
}

#[cfg(all(test, unix))]
mod tests {
    use super::super::SqliteBackend;
    use super::*;
    use crate::backend::{Backend as _, Expect, Op, RecordKey, RecordKind, SealedRecord};

    fn record(id: &str) -> SealedRecord {
        let key = RecordKey { kind: RecordKind::Binding, project: "p".to_owned(), id: id.to_owned() };
        SealedRecord { key, version: 1, sealed: b"sealed".to_vec() }
    }

    #[tokio::test]
    async fn reads_what_was_committed_and_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        // A name that a URI has to encode.
        let folder = dir.path().join("a b?c#d%20");
        assert!(read(&folder).unwrap().is_none(), "no store");
        assert!(!folder.exists());
        let backend = SqliteBackend::open(&folder).unwrap();
        backend.commit(vec![Op::Put(record("one"), Expect::Absent)]).await.unwrap();
        let busy = read(&folder).unwrap_err().to_string();
        assert!(busy.contains("an egret works with"), "{busy}");
        drop(backend);

        let names = || -> Vec<_> { std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect() };
        let before = (names(), std::fs::read(folder.join(FILE)).unwrap());
        let loaded = read(&folder).unwrap().unwrap();
        assert_eq!((loaded.records, loaded.damaged), (vec![record("one")], Vec::new()));
        assert_eq!((names(), std::fs::read(folder.join(FILE)).unwrap()), before);
        // The lock is free again, with or without its file.
        std::fs::remove_file(folder.join(LOCK)).unwrap();
        assert_eq!(read(&folder).unwrap().unwrap().records.len(), 1);
        assert!(!folder.join(LOCK).exists());
        SqliteBackend::open(&folder).unwrap();
    }

    #[test]
    fn refuses_what_is_no_store_of_egrets() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("another program"));
        std::fs::write(&path, "not a database at all, but long enough to be looked at".repeat(20)).unwrap();
        assert!(read(dir.path()).is_err());
    }
}
