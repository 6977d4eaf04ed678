//! The embedded store: one SQLite file in a folder of its own, and one thread that works with it.
//!
//! What must stay true:
//! - A commit that was acknowledged is in the file and synced (WAL, `synchronous = FULL`); one that was not changed
//!   nothing.
//! - The folder is 0700, the files are 0600, no link is followed, and `egret.lock` is locked: one egret at a time.
//! - What can be read is served. A damaged row or page costs the records in it, which are named, and nothing else.
//!
//! **What is detected, and what is not.** Content, place and version of a record are authenticated by its envelope
//! (`pki::seal`), so a changed or moved record never opens. Beside the records stands a ledger with the version and
//! SHA-256 of each: a row that vanished, was put back to an earlier state, or came back after its delete contradicts
//! it and is not served. The ledger is not keyed: whoever can write the file and changes row and ledger together, or
//! puts back the whole file, goes unseen. Keep the folder as safe as its mode says, and backups apart.
//!
//! **Watching.** The lock keeps every other egret out, so there is nobody else's change to be seen: a watcher gets
//! this backend's own commits. What a person does with `sqlite3` meanwhile is not announced.

mod open;
mod read;
mod records;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::feed::Feed;
use super::{Backend, BackendError, BoxFuture, Change, Changes, Loaded, Op, Revision};
use records::Store;

/// Commits waiting for the thread; more wait with their callers.
const QUEUE: usize = 64;

/// The embedded store. Dropping it finishes what is queued, closes the file and frees the lock, in that order.
pub struct SqliteBackend {
    /// `None` only while being dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    feed: Arc<Feed>,
}

type Reply<T> = oneshot::Sender<Result<T, BackendError>>;

enum Job {
    Load(Reply<Loaded>),
    Commit(Vec<Op>, Reply<Revision>),
    /// Lets a test break the connection as a disk would.
    #[cfg(test)]
    Run(Box<dyn FnOnce(&mut rusqlite::Connection) + Send>, Reply<()>),
}

impl SqliteBackend {
    /// Opens `<data_dir>/egret.db`, and makes both (0700, 0600) if they are not there. Blocks: not for a reactor.
    ///
    /// # Errors
    /// [`BackendError::Permissions`] if others may look in, [`BackendError::Newer`] if a newer egret wrote it,
    /// [`BackendError::Unavailable`] if another egret works with it, if it is no store of egret's, or if the file
    /// system says no.
    pub fn open(data_dir: &Path) -> Result<Self, BackendError> {
        let store = open::open(data_dir)?;
        let feed = Feed::new(store.revision());
        let (jobs, queue) = mpsc::channel(QUEUE);
        let published = feed.clone();
        // Owned by the backend: it ends when the last sender is gone, which `drop` waits for.
        let thread = std::thread::Builder::new()
            .name("egret-store".to_owned())
            .spawn(move || work(store, queue, &published))
            .map_err(|e| BackendError::Unavailable { doing: "opened", cause: format!("no thread for it: {e}") })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), feed })
    }

    /// All records of a store that no egret works with, and nothing else: not a file is made, not a byte is written.
    /// `None` if there is no store. Blocks: not for a reactor.
    ///
    /// # Errors
    /// As [`SqliteBackend::open`]; also if another egret works with it.
    pub fn read(data_dir: &Path) -> Result<Option<Loaded>, BackendError> {
        read::read(data_dir)
    }

    /// Once a job is queued it is done, whether or not the caller still waits.
    async fn ask<T>(&self, doing: &'static str, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, BackendError> {
        let gone = || BackendError::Unavailable { doing, cause: "its thread has ended".to_owned() };
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(job(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Nobody waits for an answer any more: that is their business, the work is done all the same.
fn work(mut store: Store, mut queue: mpsc::Receiver<Job>, feed: &Feed) {
    while let Some(job) = queue.blocking_recv() {
        match job {
            Job::Load(reply) => {
                let _ = reply.send(store.load());
            }
            Job::Commit(ops, reply) => {
                let done = store.commit(&ops);
                if let Ok(revision) = done
                    && !ops.is_empty()
                {
                    feed.publish(Change { revision, ops });
                }
                let _ = reply.send(done);
            }
            #[cfg(test)]
            Job::Run(body, reply) => {
                body(store.connection());
                let _ = reply.send(Ok(()));
            }
        }
    }
}

impl Drop for SqliteBackend {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic over there has been reported by the panic hook already.
            let _ = thread.join();
        }
    }
}

impl Backend for SqliteBackend {
    fn load(&self) -> BoxFuture<'_, Result<Loaded, BackendError>> {
        Box::pin(self.ask("read", Job::Load))
    }

    fn commit(&self, ops: Vec<Op>) -> BoxFuture<'_, Result<Revision, BackendError>> {
        Box::pin(self.ask("written", |reply| Job::Commit(ops, reply)))
    }

    fn watch(&self, after: Revision) -> Changes {
        self.feed.changes(after)
    }
}

#[cfg(test)]
mod tests;
