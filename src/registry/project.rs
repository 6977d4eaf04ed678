//! One project: its current snapshot, its writer lock, and what is still draining.

use std::sync::{Arc, Mutex, Weak};

use arc_swap::ArcSwap;

use super::Snapshot;
use crate::domain::{CertificateId, CertificateInfo, ProjectId};
use crate::identity::UpstreamTls;

/// How many retired certificates are remembered; the oldest is forgotten first.
const MAX_RETIRED: usize = 256;

/// A certificate that was replaced or deleted and whose connections may still be finishing.
///
/// Holds no key: the objects are weak, so the key is wiped when the last connection lets go of it.
#[derive(Debug, Clone)]
pub struct Retired {
    /// Its id.
    pub id: CertificateId,
    /// Who took its place, if anyone did.
    pub superseded_by: Option<CertificateId>,
    /// The objects whose lives count the connections.
    pub tls: Vec<Weak<UpstreamTls>>,
    /// Facts for the details endpoint.
    pub info: Arc<CertificateInfo>,
    /// When what still runs is cut.
    pub deadline: time::OffsetDateTime,
}

impl Retired {
    /// Connections that are still finishing.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.tls.iter().filter_map(Weak::upgrade).map(|tls| tls.life().connections()).sum()
    }
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
        Arc::new(Self {
            id: snapshot.info().id.clone(),
            snapshot: ArcSwap::from_pointee(snapshot),
            writer: tokio::sync::Mutex::default(),
            retired: Mutex::default(),
        })
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

    /// Replaces what it means. Readers see the old or the new whole. Drops the old one on the caller's thread
    /// (unless a reader still holds it).
    pub fn publish(&self, snapshot: Snapshot) {
        drop(self.snapshot.swap(Arc::new(snapshot)));
    }

    /// Remembers a retired certificate (bounded: those without connections are forgotten, then the oldest).
    pub fn remember_retired(&self, retired: Retired) {
        let mut held = self.retired.lock().expect("nothing panics while holding it");
        held.retain(|r| r.connections() > 0);
        if held.len() >= MAX_RETIRED {
            held.remove(0);
        }
        held.push(retired);
    }

    /// Those that still have connections, oldest first.
    #[must_use]
    pub fn retired(&self) -> Vec<Retired> {
        let mut held = self.retired.lock().expect("nothing panics while holding it");
        held.retain(|r| r.connections() > 0);
        held.clone()
    }
}
