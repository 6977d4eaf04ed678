//! One project: its current snapshot, its writer lock, and what is still draining.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use arc_swap::ArcSwap;

use super::Snapshot;
use crate::domain::{CertificateId, CertificateInfo, ProjectId};
use crate::identity::UpstreamTls;

/// How many retired certificates each project remembers, and how often that was not enough. One for all projects.
#[derive(Debug)]
pub(super) struct RetiredBound {
    pub(super) most: AtomicUsize,
    pub(super) forgotten: AtomicU64,
}

impl Default for RetiredBound {
    fn default() -> Self {
        Self { most: AtomicUsize::new(65_536), forgotten: AtomicU64::new(0) }
    }
}

/// A certificate that was replaced or deleted and whose connections may still be finishing.
///
/// Holds no key: the objects are weak, so the key is wiped when the last connection lets go of it.
#[derive(Debug, Clone)]
pub struct Retired {
    /// Its id.
    pub id: CertificateId,
    /// Who took its place, if anyone did.
    pub superseded_by: Option<CertificateId>,
    /// Who stands in that place now: the last of those that took it one after the other.
    pub heir: Option<CertificateId>,
    /// The objects whose lives count the connections.
    pub tls: Vec<Weak<UpstreamTls>>,
    /// Facts for the details endpoint.
    pub info: Arc<CertificateInfo>,
    /// Its chain as uploaded, byte for byte: a zone's lists tell it until the last connection is gone.
    pub pem: Arc<str>,
    /// When what still runs is cut.
    pub deadline: time::OffsetDateTime,
    /// The same for connections that were upgraded.
    pub upgraded_deadline: time::OffsetDateTime,
}

impl Retired {
    /// Connections that are still finishing.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.tls.iter().filter_map(Weak::upgrade).map(|tls| tls.life().connections()).sum()
    }

    /// Of them those that were upgraded.
    #[must_use]
    pub fn upgraded(&self) -> usize {
        self.tls.iter().filter_map(Weak::upgrade).map(|tls| tls.life().upgraded()).sum()
    }

    /// When its last connection is gone at the latest.
    #[must_use]
    pub fn last_deadline(&self) -> time::OffsetDateTime {
        if self.upgraded() > 0 { self.deadline.max(self.upgraded_deadline) } else { self.deadline }
    }
}

/// A tenant.
pub struct Project {
    id: ProjectId,
    snapshot: ArcSwap<Snapshot>,
    /// Held by whoever builds the next snapshot.
    writer: tokio::sync::Mutex<()>,
    retired: Mutex<VecDeque<Retired>>,
    /// The registry's, from when the project is in it: before that nobody can use what it means.
    bound: OnceLock<Arc<RetiredBound>>,
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
            bound: OnceLock::new(),
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

    /// What bounds the retired ones from now on.
    pub(super) fn bound_retired(&self, bound: &Arc<RetiredBound>) {
        let _ = self.bound.set(bound.clone());
    }

    /// Remembers a retired certificate (bounded: those without connections are forgotten, then the oldest). One that is
    /// forgotten is only shown no more: its connections end by themselves or at its deadline, as they would have.
    pub fn remember_retired(&self, retired: Retired) {
        let mut held = self.retired.lock().expect("nothing panics while holding it");
        held.retain(|r| r.connections() > 0);
        for earlier in held.iter_mut().filter(|r| r.heir.as_ref() == Some(&retired.id)) {
            earlier.heir.clone_from(&retired.superseded_by);
        }
        held.push_back(retired);
        let Some(bound) = self.bound.get() else { return };
        while held.len() > bound.most.load(Ordering::Relaxed) {
            held.pop_front();
            bound.forgotten.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Those that still have connections, oldest first.
    #[must_use]
    pub fn retired(&self) -> Vec<Retired> {
        let mut held = self.retired.lock().expect("nothing panics while holding it");
        held.retain(|r| r.connections() > 0);
        held.iter().cloned().collect()
    }
}
