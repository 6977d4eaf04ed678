//! Floor 4: the in-memory store. The only place where writers (control, api) and readers (proxy) meet.
//!
//! Invariants:
//! - what is handed out is owned (`Arc`s and copies); no guard of a map leaves this file;
//! - a project is in the map of ids exactly as long as its name is in the map of names;
//! - who may be cached by a caller changes only together with [`Registry::token_generation`].

mod accounts;
mod binding;
mod disclosures;
mod foresight;
mod lifting;
mod project;
mod roster;
mod snapshot;
mod staging;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod tls13;
mod tokens;
mod trace;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest;
use dashmap::DashMap;
use time::OffsetDateTime;

use crate::domain::{ProjectId, Team, time as clock};

pub use accounts::{AccountCertificate, Accounts, LostOfAccount};
pub use binding::{Association, Binding, Certificate, Target, UNREADABLE_ID, Unavailable};
pub use disclosures::{Disclosure, Disclosures, Page};
pub use foresight::{Foresight, Refused, Remembered, Treatment, WayIn};
pub use lifting::Lifting;
pub use project::{Project, Retired};
pub use roster::{Held, Roster, Vouch};
pub use snapshot::{RecordName, Selection, Snapshot, SnapshotEdit};
pub use staging::{FallBack, FallBackFuture, NOT_ASKED, Previous, Probing, Proof, ProofFuture, Trial, Unproven};
pub use tls13::Tls13Objects;
pub use tokens::{Token, TokenScope, TokenSource};
pub use trace::{Outcome, Place, Step};

/// The in-memory store: projects and tokens. Returns only owned `Arc`s, never map guards.
#[derive(Default)]
pub struct Registry {
    projects: DashMap<ProjectId, Arc<Project>>,
    /// Name -> the projects that bear it, at most one per team.
    names: DashMap<String, Vec<Arc<Project>>>,
    /// Held while both maps change, so that they cannot disagree for longer than that.
    membership: Mutex<()>,
    /// By SHA-256: finding one by its digest tells an attacker nothing about the text (a guess shares no prefix of its
    /// digest with the real one), so the lookup needs no constant-time comparison.
    tokens: DashMap<[u8; 32], Arc<Token>>,
    /// Grows with every project or token that comes or goes. Release-stored after the change, acquire-loaded by
    /// [`Registry::token_generation`], so that who sees the new number sees the change.
    generation: AtomicU64,
    /// Of the retired certificates of each project.
    retired: Arc<project::RetiredBound>,
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
    pub fn find(&self, id_or_name: &str, team_id: Option<&str>, slug: Option<&str>) -> Option<Arc<Project>> {
        let in_team = |p: &Arc<Project>| is_of(p.load().info().team.as_ref(), team_id, slug);
        let by_id = self.projects.get(id_or_name).map(|p| p.value().clone());
        if let Some(project) = by_id.filter(in_team) {
            return Some(project);
        }
        let namesakes = self.names.get(id_or_name).map(|list| list.value().clone())?;
        let mut found: Vec<_> = namesakes.into_iter().filter(in_team).collect();
        if found.len() > 1 {
            // Asked without a team: the one without a team is meant. Asked with one: the one of that team.
            let asked = team_id.is_some() || slug.is_some();
            found.retain(|p| p.load().info().team.is_some() == asked);
        }
        match found.len() {
            1 => found.pop(),
            _ => None,
        }
    }

    /// Every project with this id or this name, whatever its team.
    #[must_use]
    pub fn called(&self, id_or_name: &str) -> Vec<Arc<Project>> {
        let mut found = self.names.get(id_or_name).map(|list| list.value().clone()).unwrap_or_default();
        found.extend(self.projects.get(id_or_name).map(|p| p.value().clone()));
        found
    }

    /// All projects, by name (namesakes by id).
    #[must_use]
    pub fn projects(&self) -> Vec<Arc<Project>> {
        let mut all: Vec<_> = self.projects.iter().map(|p| (p.load().info().name.clone(), p.value().clone())).collect();
        all.sort_by(|(a, p), (b, q)| a.cmp(b).then_with(|| p.id().cmp(q.id())));
        all.into_iter().map(|(_, project)| project).collect()
    }

    /// All projects, in no order.
    #[must_use]
    pub fn every_project(&self) -> Vec<Arc<Project>> {
        self.projects.iter().map(|p| p.value().clone()).collect()
    }

    /// Adds (or replaces) a project.
    pub fn insert(&self, project: Arc<Project>) {
        let _membership = self.membership.lock().expect("nothing panics while holding it");
        project.bound_retired(&self.retired);
        if let Some(old) = self.projects.insert(project.id().clone(), project.clone()) {
            self.forget_name(&old);
        }
        let name = project.load().info().name.clone();
        self.names.entry(name).or_default().push(project);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// How many retired certificates each project remembers, from now on.
    pub fn keep_retired(&self, most: usize) {
        self.retired.most.store(most, Ordering::Relaxed);
    }

    /// How many were forgotten at that bound although they still had connections.
    #[must_use]
    pub fn retired_forgotten(&self) -> u64 {
        self.retired.forgotten.load(Ordering::Relaxed)
    }

    /// Publishes a snapshot in which the project may bear another name, or be of another team. It can be found all the
    /// while, under the old name or the new.
    pub fn republish(&self, project: &Arc<Project>, snapshot: Snapshot) {
        let _membership = self.membership.lock().expect("nothing panics while holding it");
        let old = project.load().info().name.clone();
        let new = snapshot.info().name.clone();
        if old != new {
            self.names.entry(new).or_default().push(project.clone());
        }
        project.publish(snapshot);
        if old != project.load().info().name {
            self.forget_under(&old, project);
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Removes it; its handle stays behind as an empty, denying project ([`Snapshot::is_removed`]) for those who hold it.
    pub fn remove(&self, id: &ProjectId) -> Option<Arc<Project>> {
        let _membership = self.membership.lock().expect("nothing panics while holding it");
        let (_, project) = self.projects.remove(id)?;
        self.forget_name(&project);
        let denying = project.load().removed();
        project.publish(denying);
        self.generation.fetch_add(1, Ordering::Release);
        Some(project)
    }

    fn forget_name(&self, project: &Arc<Project>) {
        let name = project.load().info().name.clone();
        self.forget_under(&name, project);
    }

    fn forget_under(&self, name: &str, project: &Arc<Project>) {
        if let Some(mut list) = self.names.get_mut(name) {
            list.retain(|p| !Arc::ptr_eq(p, project));
        }
        self.names.remove_if(name, |_, list| list.is_empty());
    }

    /// The token with this text, unless it has expired. Only its SHA-256 is looked at.
    #[must_use]
    pub fn token(&self, presented: &[u8]) -> Option<Arc<Token>> {
        let hash = digest::digest(&digest::SHA256, presented);
        self.token_by_digest(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"), None)
    }

    /// The token whose text has this SHA-256, unless it has expired `at` that time (`None` = now).
    #[must_use]
    pub fn token_by_digest(&self, sha256: &[u8; 32], at: Option<OffsetDateTime>) -> Option<Arc<Token>> {
        let token = self.tokens.get(sha256).map(|token| token.value().clone())?;
        // Most tokens never expire, and then no clock is asked.
        let ended = token.expires_at.is_some() && token.is_expired(at.unwrap_or_else(clock::now));
        (!ended).then_some(token)
    }

    /// All tokens with their digests, by name; those included that have expired and are not swept yet.
    #[must_use]
    pub fn tokens(&self) -> Vec<([u8; 32], Arc<Token>)> {
        let mut all: Vec<_> = self.tokens.iter().map(|t| (*t.key(), t.value().clone())).collect();
        all.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name).then_with(|| a.id.cmp(&b.id)));
        all
    }

    /// Whether this token, found some time ago, is still in force. Looks at every token: for acts that are rare.
    #[must_use]
    pub fn is_in_force(&self, token: &Token) -> bool {
        self.current(token).is_some()
    }

    /// This token, found some time ago, as it is now: it may have lost a project. `None` once it is not in force. Looks
    /// at every token: for acts that are rare.
    #[must_use]
    pub fn current(&self, token: &Token) -> Option<Arc<Token>> {
        let now = clock::now();
        self.tokens
            .iter()
            .find(|other| other.id == token.id && !other.is_expired(now))
            .map(|found| found.value().clone())
    }

    /// Whether `scope` reaches nothing that `token` does not reach.
    #[must_use]
    pub fn covers(&self, token: &Token, scope: &TokenScope) -> bool {
        let reached = |named: &String| match self.find(named, None, None) {
            Some(project) => token.reaches(project.id(), &project.load().info().name),
            None => token.reaches_name(named),
        };
        match (&token.scope, scope) {
            (TokenScope::All, _) => true,
            (TokenScope::Projects(_), TokenScope::All) => false,
            (TokenScope::Projects(_), TokenScope::Projects(list)) => list.iter().all(reached),
        }
    }

    /// Adds a token by its digest, or replaces it.
    pub fn insert_token(&self, sha256: [u8; 32], token: Token) {
        self.tokens.insert(sha256, Arc::new(token));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Removes a token. When this returns, nothing that was concluded from it holds any more
    /// ([`Registry::token_generation`]).
    pub fn remove_token(&self, sha256: &[u8; 32]) -> Option<Arc<Token>> {
        let (_, token) = self.tokens.remove(sha256)?;
        self.generation.fetch_add(1, Ordering::Release);
        Some(token)
    }

    /// A number that changes whenever a token or a project comes or goes: what was concluded from a credential holds
    /// as long as the number stays, and the token has not expired (which nothing tells but the clock).
    #[must_use]
    pub fn token_generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// Whether a project of `team` may be meant by a request that names this team.
fn is_of(team: Option<&Team>, team_id: Option<&str>, slug: Option<&str>) -> bool {
    let Some(team) = team else { return true };
    team_id.is_none_or(|id| team.id.as_deref() == Some(id)) && slug.is_none_or(|s| team.slug.as_deref() == Some(s))
}

#[cfg(test)]
mod tests;
