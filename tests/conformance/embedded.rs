//! The embedded store: files, modes, versions, damage.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use egret::backend::{Backend, BackendError, Expect, Revision, SqliteBackend};
use rusqlite::Connection;
use tempfile::TempDir;

use super::{delete, open, put, record, records};

/// A store with the records `a` and `b`, closed.
async fn store() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("some/data");
    open(&data).commit(vec![put("a", 1, Expect::Absent), put("b", 1, Expect::Absent)]).await.unwrap();
    (dir, data)
}

fn refusal(data: &Path) -> BackendError {
    SqliteBackend::open(data).err().expect("the store must not be opened")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn remembers_across_a_restart() {
    let (_dir, data) = store().await;
    {
        let backend = open(&data);
        assert_eq!(records(&backend).await, [record("a", 1), record("b", 1)]);
        backend.commit(vec![put("a", 2, Expect::Version(1)), delete("b", Expect::Version(1))]).await.unwrap();
    }
    let backend = open(&data);
    assert_eq!(records(&backend).await, [record("a", 2)]);
    assert_eq!(backend.load().await.unwrap().revision, Revision(2));
    assert_eq!(backend.commit(vec![put("c", 1, Expect::Absent)]).await.unwrap(), Revision(3));
}

#[tokio::test]
async fn keeps_its_files_to_the_owner() {
    let (_dir, data) = store().await;
    let backend = open(&data);
    backend.commit(vec![put("c", 1, Expect::Absent)]).await.unwrap();
    assert_eq!(mode(&data), 0o700);
    let mut names: Vec<_> = fs::read_dir(&data).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    let expected =
        ["egret.db", "egret.db-shm", "egret.db-wal", "egret.lock"].map(|n| data.canonicalize().unwrap().join(n));
    assert_eq!(names.iter().map(|n| n.canonicalize().unwrap()).collect::<Vec<_>>(), expected);
    for name in names {
        assert_eq!(mode(&name), 0o600, "{}", name.display());
    }
}

#[tokio::test]
async fn refuses_what_others_may_look_into() {
    let (_dir, data) = store().await;
    for (path, loose, want) in [
        (data.clone(), 0o755, 0o700),
        (data.clone(), 0o770, 0o700),
        (data.join("egret.db"), 0o644, 0o600),
        (data.join("egret.db"), 0o660, 0o600),
        (data.join("egret.lock"), 0o604, 0o600),
    ] {
        chmod(&path, loose);
        let error = refusal(&data);
        assert!(
            matches!(error, BackendError::Permissions { mode, want: w, .. } if mode == loose && w == want),
            "{error:?}"
        );
        assert!(error.to_string().contains(&format!("chmod {want:o} ")), "{error}");
        chmod(&path, want);
    }
    fs::write(data.join("egret.db-wal"), "").unwrap();
    chmod(&data.join("egret.db-wal"), 0o644);
    assert!(matches!(refusal(&data), BackendError::Permissions { .. }));
    chmod(&data.join("egret.db-wal"), 0o600);
    open(&data);
}

#[tokio::test]
async fn follows_no_link_but_that_to_its_folder() {
    let (dir, data) = store().await;
    let link = dir.path().join("link");
    symlink(&data, &link).unwrap();
    assert_eq!(records(&open(&link)).await.len(), 2);

    let elsewhere = dir.path().join("elsewhere.db");
    fs::rename(data.join("egret.db"), &elsewhere).unwrap();
    symlink(&elsewhere, data.join("egret.db")).unwrap();
    assert!(refusal(&data).to_string().contains("symbolic link"));
}

#[tokio::test]
async fn refuses_a_second_egret_until_the_first_is_gone() {
    let (_dir, data) = store().await;
    let first = open(&data);
    let error = refusal(&data).to_string();
    assert!(error.contains("another egret works with"), "{error}");
    first.commit(vec![put("c", 1, Expect::Absent)]).await.unwrap();
    drop(first);
    assert_eq!(records(&open(&data)).await.len(), 3);
}

#[tokio::test]
async fn refuses_what_a_newer_egret_wrote_and_leaves_it_alone() {
    let (_dir, data) = store().await;
    let path = data.join("egret.db");
    {
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
    }
    let before = fs::read(&path).unwrap();
    let error = refusal(&data);
    assert!(matches!(error, BackendError::Newer { found: 99, known: 1 }), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn says_so_if_the_file_is_no_database() {
    let (_dir, data) = store().await;
    let path = data.join("egret.db");
    for content in [&b"not a database, whatever its name says"[..], &[0xff; 8192]] {
        fs::write(&path, content).unwrap();
        let error = refusal(&data).to_string();
        assert!(error.contains("is no database"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), content, "nothing is overwritten");
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    chmod(&path, 0o700);
    assert!(matches!(refusal(&data), BackendError::Unavailable { doing: "opened", .. }));
}

#[tokio::test]
async fn begins_in_a_file_that_was_made_and_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    drop(open(&data));
    fs::write(data.join("egret.db"), "").unwrap();
    open(&data).commit(vec![put("a", 1, Expect::Absent)]).await.unwrap();
    assert_eq!(records(&open(&data)).await, [record("a", 1)]);
}

#[tokio::test]
async fn a_damaged_row_is_named_and_the_rest_served() {
    let (_dir, data) = store().await;
    {
        let connection = Connection::open(data.join("egret.db")).unwrap();
        connection.execute("UPDATE records SET sealed = x'ff' WHERE id = 'a'", ()).unwrap();
    }
    let backend = open(&data);
    let loaded = backend.load().await.unwrap();
    assert_eq!(loaded.records, [record("b", 1)]);
    assert_eq!(loaded.damaged.len(), 1, "{:?}", loaded.damaged);
    assert!(loaded.damaged[0].contains("binding a of project prj_1"), "{:?}", loaded.damaged);
    backend.commit(vec![put("a", 1, Expect::Absent)]).await.unwrap();
    assert_eq!(records(&backend).await, [record("a", 1), record("b", 1)]);
}
