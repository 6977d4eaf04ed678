//! `kill -9` at any instant: what was acknowledged is there, what was deleted stays away, nothing is torn.
//!
//! The test starts itself again as a child that writes, and says over a pipe what it was told is done.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use egret::backend::{Backend, Expect, Op, RecordKey, RecordKind, SealedRecord};
use egret::pki::seal::{Place, Sealer};
use zeroize::Zeroizing;

use super::open;

const DIRECTORY: &str = "EGRET_TEST_CRASH_DIRECTORY";
const ROUND: &str = "EGRET_TEST_CRASH_ROUND";
const ROUNDS: usize = 20;
const WRITERS: usize = 4;

fn sealer() -> Sealer {
    Sealer::new(Zeroizing::new([42; 32]))
}

fn sealed(kind: RecordKind, id: &str, version: u64) -> SealedRecord {
    let place = Place { kind: kind.as_str(), project: "prj_1", id, version };
    let content = format!("{id} {version} ").repeat(100);
    let sealed = sealer().seal(content.as_bytes(), place).unwrap();
    SealedRecord { key: RecordKey { kind, project: "prj_1".into(), id: id.into() }, version, sealed }
}

/// Says it before anything else can happen to the process.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{line}").and_then(|()| out.flush()).expect("the parent reads");
}

/// Not a test of its own: the child that is killed. Every id is a certificate and a binding in one commit, is
/// replaced, and every third is deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_is_killed() {
    let (Ok(data), Ok(round)) = (std::env::var(DIRECTORY), std::env::var(ROUND)) else { return };
    let backend = Arc::new(open(&PathBuf::from(data)));
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (backend, round) = (backend.clone(), round.clone());
        tasks.spawn(async move {
            for n in 0.. {
                let id = format!("{round}-{writer}-{n}");
                let pair = |version| [RecordKind::Certificate, RecordKind::Binding].map(|k| sealed(k, &id, version));
                let ops = pair(1).map(|r| Op::Put(r, Expect::Absent)).to_vec();
                backend.commit(ops).await.unwrap();
                say(&format!("done {id} 1"));
                let ops = pair(2).map(|r| Op::Put(r, Expect::Version(1))).to_vec();
                backend.commit(ops).await.unwrap();
                say(&format!("done {id} 2"));
                if n % 3 == 0 {
                    say(&format!("deleting {id} 0"));
                    let ops = pair(2).map(|r| Op::Delete(r.key, Expect::Version(2))).to_vec();
                    backend.commit(ops).await.unwrap();
                    say(&format!("deleted {id} 0"));
                }
            }
        });
    }
    tasks.join_all().await;
}

fn start(data: &Path, round: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "durability::child_that_is_killed", "--nocapture"])
        .env(DIRECTORY, data)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the child was told, over all rounds.
#[derive(Default)]
struct Told {
    /// The highest version that was acknowledged.
    done: BTreeMap<String, u64>,
    /// May be there or not.
    deleting: BTreeSet<String>,
    /// Must not be there.
    deleted: BTreeSet<String>,
}

impl Told {
    fn hear(&mut self, line: &str) -> bool {
        // The harness prints on the same pipe; a line that the kill cut short acknowledges nothing.
        let Some((_, line)) = line.split_once('@') else { return false };
        let words: Vec<&str> = line.split(' ').collect();
        let [what, id, version] = words[..] else { return false };
        match what {
            "done" => self.done.insert(id.to_owned(), version.parse().unwrap()).is_none(),
            "deleting" => self.deleting.insert(id.to_owned()),
            "deleted" => self.deleted.insert(id.to_owned()),
            other => panic!("the child said {other}"),
        }
    }

    /// Everything acknowledged is in the store and opens, and nothing is half there.
    async fn check(&self, data: &Path) {
        let loaded = open(data).load().await.unwrap();
        assert!(loaded.damaged.is_empty(), "{:?}", loaded.damaged);
        let mut there: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for SealedRecord { key, version, sealed } in &loaded.records {
            let place = Place { kind: key.kind.as_str(), project: &key.project, id: &key.id, version: *version };
            let content = sealer().open(sealed, place).unwrap();
            assert_eq!(&**content, format!("{} {version} ", key.id).repeat(100).as_bytes());
            there.entry(&key.id).or_default().push(*version);
        }
        for (id, versions) in &there {
            assert!(matches!(versions[..], [a, b] if a == b), "{id} is torn: {versions:?}");
            assert!(!self.deleted.contains(*id), "{id} is back after its delete");
        }
        for (id, version) in &self.done {
            match there.get(id.as_str()) {
                Some(versions) => assert!(versions[0] >= *version, "{id} is back at {versions:?}"),
                None => assert!(self.deleting.contains(id), "{id} was acknowledged and is gone"),
            }
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut told = Told::default();
    for round in 0..ROUNDS {
        let mut child = start(&data, round);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n');
        // Some rounds end within the very first commit, others after many; the pause moves the kill within a commit.
        let wanted = [0, 1, 2, 5, 13, 34, 89][round % 7];
        let mut heard = 0;
        while heard < wanted {
            let line = lines.next().expect("the child must not end by itself").unwrap();
            heard += usize::from(told.hear(&String::from_utf8_lossy(&line)));
        }
        std::thread::sleep(Duration::from_micros(u64::from(rand_byte()) * 16));
        child.kill().unwrap();
        child.wait().unwrap();
        // What was in the pipe was acknowledged too. A last line without its end may be a part of one.
        let mut rest: Vec<_> = lines.map(Result::unwrap).collect();
        rest.retain(|line| line.last().is_some_and(|last| last.is_ascii_digit()));
        for line in rest {
            told.hear(&String::from_utf8_lossy(&line));
        }
        told.check(&data).await;
    }
    assert!(told.done.len() > ROUNDS, "only {} were acknowledged", told.done.len());
}

/// When to kill need not be reproducible.
fn rand_byte() -> u8 {
    let mut byte = [0];
    aws_lc_rs::rand::fill(&mut byte).unwrap();
    byte[0]
}
