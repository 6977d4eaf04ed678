//! Floor 3: the in-memory store. The only place where writers (control, api) and readers (proxy) meet.
mod project;
mod snapshot;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;

use crate::domain::ProjectId;

pub use project::{Project, Retired};
pub use snapshot::{Binding, Certificate, Selection, Snapshot, SnapshotEdit, Target, Unavailable};
pub use tokens::{Token, TokenScope};

/// The in-memory store: projects and tokens. Returns only owned `Arc`s, never map guards.
#[derive(Default)]
pub struct Registry {
    projects: DashMap<ProjectId, Arc<Project>>,
    tokens: DashMap<[u8; 32], Arc<Token>>,
    generation: AtomicU64,
}

impl Registry {
    /// The project with this id.
    #[must_use]
    pub fn project(&self, id: &ProjectId) -> Option<Arc<Project>> {
        self.projects.get(id).map(|p| p.value().clone())
    }
    /// By id first, then by name. `team` = the request's `teamId`, `slug`: a project of another team is not found;
    /// on a project without a team they are ignored. A name that several teams use needs them.
    #[must_use]
    pub fn find(&self, _id_or_name: &str, _team_id: Option<&str>, _slug: Option<&str>) -> Option<Arc<Project>> {
        todo!()
    }
    /// All projects, by name.
    #[must_use]
    pub fn projects(&self) -> Vec<Arc<Project>> {
        todo!()
    }
    /// Adds (or replaces) a project.
    pub fn insert(&self, _project: Arc<Project>) {
        todo!()
    }
    /// Removes it; its handle stays behind as an empty, denying project for those who hold it.
    pub fn remove(&self, _id: &ProjectId) -> Option<Arc<Project>> {
        todo!()
    }
    /// The token with this text (hashed, compared in constant time).
    #[must_use]
    pub fn token(&self, _presented: &[u8]) -> Option<Arc<Token>> {
        todo!()
    }
    /// Grows whenever a project or token is added or removed: what a connection remembers of its caller holds
    /// only while this stands still.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
    /// Adds a token by its digest.
    pub fn insert_token(&self, _sha256: [u8; 32], _token: Token) {
        let _ = &self.tokens;
        todo!()
    }
}
