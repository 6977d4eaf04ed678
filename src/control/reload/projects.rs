//! Which projects there are once the files were read again, and what is known of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::super::load::{give_way, is_named_alike};
use super::super::plan::Covered;
use super::super::{Inner, store::Store};
use super::ReloadReport;
use crate::config::Settings;
use crate::domain::{ProjectId, ProjectInfo};
use crate::registry::{Project, Token, TokenSource};

impl Inner {
    /// A project that the file declares under another id, and that has no other namesake there, keeps its id until the
    /// next start: open connections and listeners know it by that. Gives back the new ids with the ones in use.
    pub(super) fn with_known_ids(
        &self,
        settings: Arc<Settings>,
        report: &mut ReloadReport,
    ) -> (Arc<Settings>, HashMap<ProjectId, ProjectId>) {
        let declared: HashSet<_> = settings.projects.iter().map(|info| &info.id).collect();
        let there = self.registry.projects();
        let mut known = HashMap::new();
        for info in settings.projects.iter().filter(|info| self.registry.project(&info.id).is_none()) {
            let namesake = there.iter().find(|p| !declared.contains(p.id()) && is_named_alike(p.load().info(), info));
            if let Some(project) = namesake {
                known.insert(info.id.clone(), project.id().clone());
                report.later.push(format!(
                    "project {} keeps the id {} until egret is started anew",
                    info.name,
                    project.id()
                ));
            }
        }
        if known.is_empty() {
            return (settings, known);
        }
        let mut settings = Settings::clone(&settings);
        let ids = settings.projects.iter_mut().map(|info| &mut info.id);
        let ids = ids.chain(settings.certificates.iter_mut().map(|c| &mut c.project));
        for id in ids.chain(settings.certificate_folders.iter_mut().map(|f| &mut f.project)) {
            if let Some(old) = known.get(id) {
                *id = old.clone();
            }
        }
        (Arc::new(settings), known)
    }

    /// Every project as it is to be: the declared ones, and those that are here and that no file declares (any more).
    pub(super) fn members(&self, settings: &Settings) -> Vec<(Option<Arc<Project>>, ProjectInfo)> {
        let declared = settings.projects.iter().map(|info| (self.registry.project(&info.id), info.clone()));
        let mut all: Vec<_> = declared.collect();
        for project in self.registry.projects() {
            if settings.projects.iter().any(|info| info.id == *project.id()) {
                continue;
            }
            let mut info = ProjectInfo { declared: false, ..ProjectInfo::clone(project.load().info()) };
            give_way(&mut info, all.iter().map(|(_, other)| other));
            all.push((Some(project), info));
        }
        all
    }

    pub(in crate::control) fn covered(&self, project: &ProjectId) -> Covered {
        self.shadowed.lock().expect("nothing panics while holding it").get(project).cloned().unwrap_or_default()
    }

    pub(super) fn set_covered(&self, project: &ProjectId, covered: Covered) {
        let mut shadowed = self.shadowed.lock().expect("nothing panics while holding it");
        if covered.is_empty() {
            shadowed.remove(project);
        } else {
            shadowed.insert(project.clone(), covered);
        }
    }

    /// Puts the declared tokens in force; how many came, changed or went. Under the membership lock. When this returns,
    /// those that went are good for nothing new.
    pub(super) fn redeclare(&self, tokens: Vec<([u8; 32], Token)>) -> usize {
        let wanted: BTreeMap<[u8; 32], Token> = tokens.into_iter().collect();
        let there: HashMap<[u8; 32], Arc<Token>> = self.registry.tokens().into_iter().collect();
        let mut covered = self.covered_tokens.lock().expect("nothing panics while holding it");
        let mut changed = 0;
        for (sha256, token) in &there {
            if token.source == TokenSource::Api || wanted.contains_key(sha256) {
                continue;
            }
            changed += 1;
            tracing::info!(token = token.name, id = token.id, "token is declared no more");
            // One that was made through the API with the same text was in its shadow.
            let stored = covered.remove(sha256);
            match stored.filter(|stored| self.store.version(&Store::token_key(&stored.id)).is_some()) {
                Some(stored) => self.registry.insert_token(*sha256, stored),
                None => drop(self.registry.remove_token(sha256)),
            }
        }
        for (sha256, token) in wanted {
            let before = there.get(&sha256);
            if before.is_some_and(|before| **before == token) {
                continue;
            }
            changed += 1;
            if let Some(stored) = before.filter(|before| before.source == TokenSource::Api) {
                covered.insert(sha256, Token::clone(stored));
            }
            self.registry.insert_token(sha256, token);
        }
        changed
    }
}
