//! What only a test with its hand on the connection or the file can show; the rest is in `tests/conformance.rs`.

use std::fs;
use std::path::PathBuf;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::backend::{Expect, RecordKey, RecordKind, SealedRecord};

fn record(id: usize, version: u64) -> SealedRecord {
    let key = RecordKey { kind: RecordKind::Certificate, project: "prj_1".into(), id: format!("cert_{id:04}") };
    // Distinct, so that a test finds the page of a record; some reach over more than one page.
    let sealed = format!("<{id:04}.{version}>").repeat(if id.is_multiple_of(10) { 1000 } else { 60 }).into_bytes();
    SealedRecord { key, version, sealed }
}

fn put(id: usize, version: u64, expect: Expect) -> Op {
    Op::Put(record(id, version), expect)
}

async fn filled(count: usize) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let backend = SqliteBackend::open(&data).unwrap();
    backend.commit((0..count).map(|id| put(id, 1, Expect::Absent)).collect()).await.unwrap();
    (dir, data)
}

/// What `sqlite3` would do to the file.
fn edit(data: &Path, body: impl FnOnce(&Connection)) {
    body(&Connection::open(data.join("egret.db")).unwrap());
}

async fn load(data: &Path) -> (SqliteBackend, Loaded) {
    let backend = SqliteBackend::open(data).unwrap();
    let loaded = backend.load().await.unwrap();
    (backend, loaded)
}

async fn run(backend: &SqliteBackend, body: impl FnOnce(&mut Connection) + Send + 'static) {
    backend.ask("run", |reply| Job::Run(Box::new(body), reply)).await.unwrap();
}

#[tokio::test]
async fn works_with_the_settings_that_make_a_commit_durable() {
    let (_dir, data) = filled(1).await;
    let (backend, _) = load(&data).await;
    run(&backend, |c| {
        let text = |sql: &str| c.query_row(sql, (), |r| r.get::<_, String>(0)).unwrap();
        let number = |sql: &str| c.query_row(sql, (), |r| r.get::<_, i64>(0)).unwrap();
        assert_eq!(text("PRAGMA journal_mode"), "wal");
        assert_eq!(number("PRAGMA synchronous"), 2, "FULL");
        assert_eq!(number("PRAGMA foreign_keys"), 1);
        assert_eq!(number("PRAGMA busy_timeout"), 5000);
        assert_eq!(number("PRAGMA secure_delete"), 1);
        assert_eq!(number("PRAGMA user_version"), 1);
    })
    .await;
}

#[tokio::test]
async fn a_full_disk_is_a_clear_error_and_changes_nothing() {
    let (_dir, data) = filled(3).await;
    let (backend, before) = load(&data).await;
    run(&backend, |c| {
        let pages: i64 = c.query_row("PRAGMA page_count", (), |r| r.get(0)).unwrap();
        c.query_row(&format!("PRAGMA max_page_count = {pages}"), (), |_| Ok(())).unwrap();
    })
    .await;
    let ops = vec![put(0, 2, Expect::Version(1)), put(500, 1, Expect::Absent), put(510, 1, Expect::Absent)];
    let error = backend.commit(ops.clone()).await.unwrap_err();
    assert!(matches!(&error, BackendError::Unavailable { doing: "written", .. }), "{error:?}");
    assert!(error.to_string().contains("full"), "{error}");
    let after = backend.load().await.unwrap();
    assert_eq!((after.records, after.revision), (before.records, before.revision));

    run(&backend, |c| c.query_row("PRAGMA max_page_count = 100000", (), |_| Ok(())).unwrap()).await;
    backend.commit(ops).await.unwrap();
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_a_clear_error_and_reading_goes_on() {
    let (_dir, data) = filled(3).await;
    let (backend, _) = load(&data).await;
    run(&backend, |c| c.pragma_update(None, "query_only", true).unwrap()).await;
    let error = backend.commit(vec![put(9, 1, Expect::Absent)]).await.unwrap_err();
    assert!(matches!(error, BackendError::Unavailable { doing: "written", .. }), "{error:?}");
    assert_eq!(backend.load().await.unwrap().records.len(), 3);
}

#[tokio::test]
async fn a_commit_whose_caller_went_away_is_done_all_the_same() {
    let (_dir, data) = filled(1).await;
    let (backend, _) = load(&data).await;
    {
        let mut commit = backend.commit(vec![put(7, 1, Expect::Absent)]);
        let once = futures_util::poll!(&mut commit);
        assert!(once.is_pending() || once.is_ready());
    }
    // Queued behind it, so it has been done.
    assert_eq!(backend.load().await.unwrap().records.len(), 2);
}

#[tokio::test]
async fn a_thread_that_died_is_an_error_and_not_a_hang() {
    let (_dir, data) = filled(1).await;
    let (backend, _) = load(&data).await;
    let died = backend.ask("run", |reply| Job::Run(Box::new(|_| panic!("as a test asked")), reply)).await;
    assert!(died.is_err());
    assert!(backend.load().await.is_err() && backend.commit(vec![put(5, 1, Expect::Any)]).await.is_err());
}

#[tokio::test]
async fn a_damaged_page_costs_the_records_in_it_which_are_named() {
    const COUNT: usize = 300;
    let (_dir, data) = filled(COUNT).await;
    let path = data.join("egret.db");
    let mut file = fs::read(&path).unwrap();
    let marker = b"<0151.1><0151.1>";
    let at = file.windows(marker.len()).position(|w| w == marker).unwrap();
    let page = at / 4096 * 4096;
    file[page..page + 4096].fill(0);
    fs::write(&path, file).unwrap();

    let (backend, loaded) = load(&data).await;
    assert!(loaded.records.iter().all(|r| r == &record(r.key.id[5..].parse().unwrap(), 1)));
    let lost = COUNT - loaded.records.len();
    assert!((1..=20).contains(&lost), "{lost} of {COUNT} are lost with one page of 4096 bytes");
    assert!(loaded.damaged.iter().any(|d| d.contains("the check at start says")), "{:?}", loaded.damaged);
    for id in 0..COUNT {
        let (name, served) = (format!("cert_{id:04}"), loaded.records.iter().any(|r| r.key == record(id, 1).key));
        let named = loaded.damaged.iter().filter(|d| d.contains(&name)).count();
        assert_eq!(named, usize::from(!served), "{name}: {:?}", loaded.damaged);
    }
    // The rest can still be changed.
    backend.commit(vec![put(1, 2, Expect::Version(1))]).await.unwrap();
}

#[tokio::test]
async fn no_damaged_page_stops_the_start_or_spoils_another_record() {
    const COUNT: usize = 120;
    let (_dir, data) = filled(COUNT).await;
    let path = data.join("egret.db");
    let sound = fs::read(&path).unwrap();
    let mut seen_partial = 0;
    // The first page holds the schema: without it there is no database.
    for page in 1..sound.len() / 4096 {
        let mut file = sound.clone();
        file[page * 4096..(page + 1) * 4096].fill(0x5a);
        fs::write(&path, file).unwrap();
        let (_backend, loaded) = load(&data).await;
        assert!(loaded.records.iter().all(|r| r == &record(r.key.id[5..].parse().unwrap(), 1)), "page {page}");
        // Or it was a page that nothing uses.
        assert!(loaded.records.len() == COUNT || !loaded.damaged.is_empty(), "page {page}");
        seen_partial += usize::from((1..COUNT).contains(&loaded.records.len()));
    }
    assert!(seen_partial > 10, "{seen_partial}");
}

#[tokio::test]
async fn a_row_that_was_changed_put_back_swapped_or_brought_back_is_not_served() {
    let (_dir, data) = filled(6).await;
    {
        let (backend, _) = load(&data).await;
        let delete = Op::Delete(record(5, 1).key, Expect::Version(1));
        backend.commit(vec![put(1, 2, Expect::Version(1)), delete]).await.unwrap();
    }
    let old = [record(1, 1), record(5, 1)];
    edit(&data, |c| {
        c.execute("UPDATE records SET sealed = x'00' WHERE id = 'cert_0000'", ()).unwrap();
        c.execute("UPDATE records SET version = 1, sealed = ? WHERE id = 'cert_0001'", [&old[0].sealed]).unwrap();
        c.execute("DELETE FROM records WHERE id = 'cert_0002'", ()).unwrap();
        c.execute("INSERT INTO records VALUES ('certificate', 'prj_1', 'cert_0005', 1, ?)", [&old[1].sealed]).unwrap();
        c.execute("INSERT INTO records VALUES ('no kind', 'prj_1', 'x', 1, x'00')", ()).unwrap();
    });
    let (backend, loaded) = load(&data).await;
    assert_eq!(loaded.records, [record(3, 1), record(4, 1)]);
    for name in ["cert_0000 of", "cert_0001 of", "cert_0002 of", "cert_0005 of", "is not a record"] {
        assert_eq!(loaded.damaged.iter().filter(|d| d.contains(name)).count(), 1, "{name}: {:?}", loaded.damaged);
    }
    assert_eq!(loaded.damaged.len(), 5, "{:?}", loaded.damaged);

    // Each can be uploaded anew, or deleted.
    let mut ops: Vec<Op> = [0, 1, 2].into_iter().map(|id| put(id, 1, Expect::Absent)).collect();
    ops.push(Op::Delete(record(5, 1).key, Expect::Any));
    backend.commit(ops).await.unwrap();
    assert!(matches!(backend.commit(vec![put(0, 1, Expect::Absent)]).await, Err(BackendError::Conflict(_))));
    drop(backend);
    let (_backend, loaded) = load(&data).await;
    assert_eq!(loaded.records, [0, 1, 2, 3, 4].map(|id| record(id, 1)));
    assert_eq!(loaded.damaged.len(), 1, "what is not ours stays: {:?}", loaded.damaged);
}

#[tokio::test]
async fn a_database_of_another_program_is_left_alone() {
    let (_dir, data) = filled(0).await;
    fs::remove_file(data.join("egret.db")).unwrap();
    edit(&data, |c| c.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1);").unwrap());
    files_mode(&data);
    let before = fs::read(data.join("egret.db")).unwrap();
    let error = SqliteBackend::open(&data).err().unwrap();
    assert!(error.to_string().contains("another program"), "{error}");
    assert_eq!(fs::read(data.join("egret.db")).unwrap(), before);
}

/// Gives a file that another program made the mode that egret wants.
fn files_mode(data: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(data.join("egret.db"), fs::Permissions::from_mode(0o600)).unwrap();
}
