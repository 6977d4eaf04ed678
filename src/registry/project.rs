//! One project: its current snapshot and its writer lock.
use std::sync::Arc;
use std::sync::Mutex;

use arc_swap::ArcSwap;

use super::Snapshot;
use crate::domain::{CertificateId, ProjectId};
use crate::identity::UpstreamTls;

/// A certificate that was replaced or deleted and whose connections may still be finishing.
#[derive(Debug, Clone)]
pub struct Retired {
    /// Its id.
    pub id: CertificateId,
    /// Who took its place, if anyone did.
    pub superseded_by: Option<CertificateId>,
    /// The objects whose lives count the connections.
    pub tls: Vec<Arc<UpstreamTls>>,
    /// Facts for the details endpoint.
    pub certificate: Arc<super::Certificate>,
    /// When what still runs is cut.
    pub deadline: time::OffsetDateTime,
}

/// A tenant.
pub struct Project {
    id: ProjectId,
    snapshot: ArcSwap<Snapshot>,
    /// Held by whoever builds the next snapshot.
    writer: tokio::sync::Mutex<()>,
    retired: Mutex<Vec<Retired>>,
}

impl Project {
    /// A project that means `snapshot`.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Arc<Self> {
        let _ = snapshot;
        todo!()
    }
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &ProjectId {
        &self.id
    }
    /// What it means right now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }
    /// The same for a few lines without an await: no reference count is touched.
    #[must_use]
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }
    /// The writer lock: hold it from reading the snapshot to publishing the next.
    pub async fn write(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.writer.lock().await
    }
    /// Replaces what it means. Readers see the old or the new whole. Drops the old one on the caller's thread.
    pub fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }
    /// Remembers a retired certificate (bounded: gone ones are forgotten first).
    pub fn remember_retired(&self, _retired: Retired) {
        let _ = &self.retired;
        todo!()
    }
    /// Those that still have connections (or whose deadline has not passed).
    #[must_use]
    pub fn retired(&self) -> Vec<Retired> {
        todo!()
    }
}
