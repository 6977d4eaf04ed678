//! Every backend, the same suite; and what the embedded one promises beyond it.

use std::path::Path;
use std::sync::Arc;

use egret::backend::{
    Backend, BackendError, Change, Expect, MemoryBackend, Op, RecordKey, RecordKind, Revision, SealedRecord,
    SqliteBackend,
};
use futures_util::{FutureExt, StreamExt};

#[path = "conformance/durability.rs"]
mod durability;
#[path = "conformance/embedded.rs"]
mod embedded;

fn key(id: &str) -> RecordKey {
    RecordKey { kind: RecordKind::Binding, project: "prj_1".into(), id: id.into() }
}

fn record(id: &str, version: u64) -> SealedRecord {
    SealedRecord { key: key(id), version, sealed: format!("{id} at {version}").into_bytes() }
}

fn put(id: &str, version: u64, expect: Expect) -> Op {
    Op::Put(record(id, version), expect)
}

fn delete(id: &str, expect: Expect) -> Op {
    Op::Delete(key(id), expect)
}

async fn records(backend: &dyn Backend) -> Vec<SealedRecord> {
    let loaded = backend.load().await.unwrap();
    assert_eq!(loaded.damaged, [""; 0]);
    let mut records = loaded.records;
    records.sort_by(|a, b| a.key.cmp(&b.key));
    records
}

/// Must be refused as a conflict over `id`, and leave everything as it was.
async fn refused(backend: &dyn Backend, ops: Vec<Op>, id: &str) {
    let before = (records(backend).await, backend.load().await.unwrap().revision);
    match backend.commit(ops).await {
        Err(BackendError::Conflict(found)) => assert_eq!(found, key(id)),
        other => panic!("expected a conflict over {id}, got {other:?}"),
    }
    assert_eq!((records(backend).await, backend.load().await.unwrap().revision), before);
}

/// Runs every test of the suite against every backend.
macro_rules! suite {
    ($($name:ident)*) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                super::$name(std::sync::Arc::new(egret::backend::MemoryBackend::default())).await;
            })*
        }
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let backend = egret::backend::SqliteBackend::open(&dir.path().join("data")).unwrap();
                super::$name(std::sync::Arc::new(backend)).await;
            })*
        }
    };
}

suite! {
    begins_empty
    gives_back_what_was_put
    keeps_kinds_and_projects_apart
    keeps_tokens_as_tokens
    replaces_and_deletes
    refuses_what_is_not_as_expected
    refuses_a_version_that_does_not_grow
    rewraps_a_record_without_a_new_version
    does_all_of_a_commit_or_none
    sees_the_earlier_operations_of_a_commit
    counts_every_commit
    takes_what_is_odd
    lets_one_of_many_writers_win
    tells_watchers_every_commit_in_order
    tells_a_watcher_that_is_too_far_behind
}

async fn begins_empty(backend: Arc<dyn Backend>) {
    let loaded = backend.load().await.unwrap();
    assert!(loaded.records.is_empty() && loaded.damaged.is_empty());
    assert_eq!(loaded.revision, Revision(0));
}

async fn gives_back_what_was_put(backend: Arc<dyn Backend>) {
    backend.commit(vec![put("a", 1, Expect::Absent), put("b", 1, Expect::Any)]).await.unwrap();
    assert_eq!(records(&*backend).await, [record("a", 1), record("b", 1)]);
}

async fn keeps_kinds_and_projects_apart(backend: Arc<dyn Backend>) {
    let mut all = Vec::new();
    assert!(RecordKind::ALL.iter().all(|kind| RecordKind::parse(kind.as_str()) == Some(*kind)));
    for kind in RecordKind::ALL {
        for project in ["", "prj_1", "prj_2"] {
            let key = RecordKey { kind, project: project.into(), id: "same".into() };
            all.push(SealedRecord { sealed: key.to_string().into_bytes(), key, version: 1 });
        }
    }
    backend.commit(all.iter().cloned().map(|r| Op::Put(r, Expect::Absent)).collect()).await.unwrap();
    all.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(records(&*backend).await, all);
    backend.commit(vec![Op::Delete(all.remove(4).key, Expect::Version(1))]).await.unwrap();
    assert_eq!(records(&*backend).await, all);
}

/// A backend that gave a record back as another kind, or lost its kind, would turn one thing into another.
async fn keeps_tokens_as_tokens(backend: Arc<dyn Backend>) {
    let token = |id: &str, version| SealedRecord {
        key: RecordKey { kind: RecordKind::Token, project: String::new(), id: id.into() },
        version,
        sealed: format!("{id} at {version}").into_bytes(),
    };
    let ops = ["tok_1", "tok_2", "tok_3"].map(|id| Op::Put(token(id, 1), Expect::Absent));
    backend.commit(ops.into()).await.unwrap();
    // One revoked and one rewritten at once, as the end of a project does it.
    let ops = vec![
        Op::Delete(token("tok_1", 1).key, Expect::Version(1)),
        Op::Put(token("tok_2", 2), Expect::Version(1)),
        put("a", 1, Expect::Absent),
    ];
    backend.commit(ops).await.unwrap();
    assert_eq!(records(&*backend).await, [record("a", 1), token("tok_2", 2), token("tok_3", 1)]);
    let again = backend.commit(vec![Op::Delete(token("tok_1", 1).key, Expect::Version(1))]).await;
    assert!(matches!(again, Err(BackendError::Conflict(key)) if key == token("tok_1", 1).key));
}

async fn replaces_and_deletes(backend: Arc<dyn Backend>) {
    backend.commit(vec![put("a", 1, Expect::Absent), put("b", 1, Expect::Absent)]).await.unwrap();
    backend.commit(vec![put("a", 2, Expect::Version(1))]).await.unwrap();
    backend.commit(vec![put("a", 5, Expect::Any), delete("b", Expect::Version(1))]).await.unwrap();
    assert_eq!(records(&*backend).await, [record("a", 5)]);
    backend.commit(vec![delete("a", Expect::Any)]).await.unwrap();
    backend.commit(vec![delete("a", Expect::Any), delete("never", Expect::Absent)]).await.unwrap();
    assert!(records(&*backend).await.is_empty());
    backend.commit(vec![put("a", 1, Expect::Absent)]).await.unwrap();
    assert_eq!(records(&*backend).await, [record("a", 1)]);
}

async fn refuses_what_is_not_as_expected(backend: Arc<dyn Backend>) {
    backend.commit(vec![put("a", 3, Expect::Absent)]).await.unwrap();
    for op in [
        put("a", 4, Expect::Absent),
        put("a", 4, Expect::Version(2)),
        put("a", 4, Expect::Version(4)),
        delete("a", Expect::Version(2)),
        delete("a", Expect::Absent),
    ] {
        refused(&*backend, vec![op], "a").await;
    }
    refused(&*backend, vec![put("b", 1, Expect::Version(1))], "b").await;
    refused(&*backend, vec![delete("b", Expect::Version(1))], "b").await;
}

async fn refuses_a_version_that_does_not_grow(backend: Arc<dyn Backend>) {
    refused(&*backend, vec![put("a", 0, Expect::Any)], "a").await;
    backend.commit(vec![put("a", 3, Expect::Absent)]).await.unwrap();
    refused(&*backend, vec![put("a", 3, Expect::Any)], "a").await;
    refused(&*backend, vec![put("a", 2, Expect::Version(3))], "a").await;
}

async fn rewraps_a_record_without_a_new_version(backend: Arc<dyn Backend>) {
    let other = |version| SealedRecord { sealed: b"another envelope".to_vec(), ..record("a", version) };
    refused(&*backend, vec![Op::Rewrap(other(1))], "a").await;
    backend.commit(vec![put("a", 3, Expect::Absent), put("b", 1, Expect::Absent)]).await.unwrap();
    refused(&*backend, vec![Op::Rewrap(other(2))], "a").await;
    refused(&*backend, vec![Op::Rewrap(other(4))], "a").await;
    refused(&*backend, vec![Op::Rewrap(other(3)), delete("b", Expect::Version(9))], "b").await;
    backend.commit(vec![Op::Rewrap(other(3))]).await.unwrap();
    assert_eq!(records(&*backend).await, [other(3), record("b", 1)]);
    backend.commit(vec![put("a", 4, Expect::Version(3))]).await.unwrap();
    assert_eq!(records(&*backend).await, [record("a", 4), record("b", 1)]);
}

async fn does_all_of_a_commit_or_none(backend: Arc<dyn Backend>) {
    backend.commit(vec![put("a", 1, Expect::Absent), put("b", 1, Expect::Absent)]).await.unwrap();
    let ops = vec![
        put("a", 2, Expect::Version(1)),
        delete("b", Expect::Version(1)),
        put("c", 1, Expect::Absent),
        put("b", 7, Expect::Version(7)),
    ];
    refused(&*backend, ops, "b").await;
}

async fn sees_the_earlier_operations_of_a_commit(backend: Arc<dyn Backend>) {
    let ops = vec![
        put("a", 1, Expect::Absent),
        put("a", 2, Expect::Version(1)),
        delete("a", Expect::Version(2)),
        put("a", 1, Expect::Absent),
    ];
    backend.commit(ops).await.unwrap();
    assert_eq!(records(&*backend).await, [record("a", 1)]);
    refused(&*backend, vec![delete("a", Expect::Any), put("a", 2, Expect::Version(1))], "a").await;
}

async fn counts_every_commit(backend: Arc<dyn Backend>) {
    for n in 1..=5 {
        let revision = backend.commit(vec![put("a", n, Expect::Any), put("b", n, Expect::Any)]).await.unwrap();
        assert_eq!((revision, backend.load().await.unwrap().revision), (Revision(n), Revision(n)));
    }
    assert_eq!(backend.commit(Vec::new()).await.unwrap(), Revision(5), "nothing to do is no commit");
    assert!(backend.commit(vec![put("a", 1, Expect::Absent)]).await.is_err());
    assert_eq!(backend.load().await.unwrap().revision, Revision(5));
}

async fn takes_what_is_odd(backend: Arc<dyn Backend>) {
    let odd = ["", "'; DROP TABLE records; --", "\u{0}", "é\u{301}", "%", "A", "a"];
    let mut all: Vec<SealedRecord> = odd.map(|id| SealedRecord { sealed: vec![0; id.len()], ..record(id, 1) }).into();
    all.push(SealedRecord { sealed: (0..1_000_000_u32).map(|n| n as u8).collect(), ..record("large", 1) });
    backend.commit(all.iter().cloned().map(|r| Op::Put(r, Expect::Absent)).collect()).await.unwrap();
    all.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(records(&*backend).await, all);
}

async fn lets_one_of_many_writers_win(backend: Arc<dyn Backend>) {
    const WRITERS: u64 = 16;
    backend.commit(vec![put("shared", 1, Expect::Absent)]).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let backend = backend.clone();
        tasks.spawn(async move {
            let mine = put(&format!("own {writer}"), 1, Expect::Absent);
            backend.commit(vec![mine]).await.unwrap();
            // All of them want version 2; each counts what it has won.
            backend
                .commit(vec![put("shared", 2, Expect::Version(1)), put(&format!("won {writer}"), 1, Expect::Absent)])
                .await
                .is_ok()
        });
    }
    let won = tasks.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 1);
    let records = records(&*backend).await;
    assert_eq!(records.iter().filter(|r| r.key.id.starts_with("own ")).count() as u64, WRITERS);
    assert_eq!(records.iter().filter(|r| r.key.id.starts_with("won ")).count(), 1);
    assert_eq!(backend.load().await.unwrap().revision, Revision(1 + WRITERS + 1));
}

async fn tells_watchers_every_commit_in_order(backend: Arc<dyn Backend>) {
    let first = vec![put("a", 1, Expect::Absent), delete("b", Expect::Any)];
    backend.commit(first.clone()).await.unwrap();
    let mut from_start = backend.watch(Revision(0));
    let mut from_now = backend.watch(Revision(1));
    assert_eq!(from_start.next().await.unwrap().unwrap(), Change { revision: Revision(1), ops: first });
    assert!(from_start.next().now_or_never().is_none(), "nothing has happened since");
    assert!(from_now.next().now_or_never().is_none());

    let writer = backend.clone();
    let writing = tokio::spawn(async move {
        for n in 2..=50 {
            writer.commit(vec![put("a", n, Expect::Version(n - 1))]).await.unwrap();
            let _ = writer.commit(vec![put("a", 1, Expect::Absent)]).await; // a conflict is no change
        }
    });
    for n in 2..=50 {
        for watcher in [&mut from_start, &mut from_now] {
            let change = watcher.next().await.unwrap().unwrap();
            assert_eq!(change, Change { revision: Revision(n), ops: vec![put("a", n, Expect::Version(n - 1))] });
        }
    }
    writing.await.unwrap();
    assert!(from_now.next().now_or_never().is_none());
    drop(backend);
    assert!(from_now.next().await.is_none(), "one that waits ends with its backend");
    assert!(from_start.next().await.is_none(), "and one that comes later");
}

async fn tells_a_watcher_that_is_too_far_behind(backend: Arc<dyn Backend>) {
    let mut watcher = backend.watch(Revision(0));
    for n in 1..=300 {
        backend.commit(vec![put("a", n, Expect::Any)]).await.unwrap();
    }
    let error = watcher.next().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("load everything again"), "{error}");
    backend.commit(vec![put("a", 301, Expect::Any)]).await.unwrap();
    assert_eq!(watcher.next().await.unwrap().unwrap().revision, Revision(301), "it goes on from there");
    let mut ahead = backend.watch(Revision(9999));
    assert!(ahead.next().await.unwrap().is_err(), "a position of another history");
}

#[tokio::test]
async fn memory_ends_with_its_backend() {
    let backend = MemoryBackend::default();
    backend.commit(vec![put("a", 1, Expect::Absent)]).await.unwrap();
    assert!(records(&MemoryBackend::default()).await.is_empty());
}

fn open(data: &Path) -> SqliteBackend {
    SqliteBackend::open(data).unwrap()
}
