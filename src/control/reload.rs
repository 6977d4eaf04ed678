//! Another reading of the configuration: what is declared now against what is in force.
//!
//! What must stay true:
//! - everything is read and validated before anything changes, off the threads that answer requests;
//! - each project changes at once: its bindings, what is known of it and whom it trusts, in one snapshot;
//! - what a snapshot no longer has is retired after it was published, and before this answers;
//! - one reading at a time.

mod projects;

use std::collections::HashMap;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

use super::apply::{Grace, Maker, end, retire_objects};
use super::declared::{self, Declared, Depth, Held, Slot};
use super::plan::{Counts, End, Ground, Plan, plan};
use super::quietly::quietly;
use super::{Control, Drain, Inner};
use crate::config::Settings;
use crate::domain::{ProjectId, ProjectInfo, Rollback, Source};
use crate::identity::{TlsFactory, UpstreamTls};
use crate::pki::anchors::{self, SharedAnchors, Vouching};
use crate::registry::{Project, Snapshot, Target, Token, TokenScope};

/// The word in [`ReloadReport::changes`] for trust anchors or key exchange.
pub const TRUST: &str = "trust";

/// What became of a reading.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ReloadReport {
    /// What changed, in words; empty if nothing did.
    pub changes: Vec<String>,
    /// Declared certificates whose files are not whole, so that the ones before stay in force; each a sentence that
    /// names file and fault.
    pub kept: Vec<String>,
    /// Declared certificates that never were whole.
    pub unloaded: Vec<String>,
    /// What else could not be made sense of: folders, names in them.
    pub faults: Vec<String>,
    /// What the file says and only another start brings about.
    pub later: Vec<String>,
}

impl ReloadReport {
    /// Everything because of which not all of what is declared is in force.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        [&self.faults, &self.kept, &self.unloaded].into_iter().flatten().cloned().collect()
    }
}

/// What could not be used, and what is true instead: for [`super::LoadReport`].
#[derive(Debug, Default, Clone)]
pub(super) struct Findings {
    pub(super) kept: Vec<String>,
    pub(super) unloaded: Vec<String>,
    pub(super) faults: Vec<String>,
}

/// What was read, validated and not yet put into force.
struct Prepared {
    settings: Arc<Settings>,
    declared: HashMap<ProjectId, Vec<Declared>>,
    unreadable: Vec<(PathBuf, String)>,
    strays: Vec<String>,
    /// `None` if what is in force would make the same objects.
    maker: Option<Maker>,
}

impl Control {
    /// Puts in force what `settings` declare: projects, certificates, `tokens`, trust. A certificate whose files are not
    /// whole stays as it was, and the others change. When this has answered, no new request uses what is no more
    /// declared; what runs under it is drained as after a replacement, or a delete.
    ///
    /// # Errors
    /// A sentence; nothing was changed: trust anchors that cannot be read, one slot declared twice, too many
    /// certificates.
    pub async fn reload(
        &self,
        settings: Arc<Settings>,
        tokens: Vec<([u8; 32], Token)>,
        depth: Depth,
    ) -> Result<ReloadReport, String> {
        let inner = self.inner.clone();
        // In a task of its own: half a reload would be worse than one that nobody waits for.
        tokio::spawn(async move { inner.reload(settings, tokens, depth).await }).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a reload ended early");
            Err("egret failed or is ending; see the log".to_owned())
        })
    }
}

impl Inner {
    async fn reload(
        self: Arc<Self>,
        settings: Arc<Settings>,
        tokens: Vec<([u8; 32], Token)>,
        depth: Depth,
    ) -> Result<ReloadReport, String> {
        let mut known = self.declared.lock().await;
        let mut report = ReloadReport::default();
        let (settings, renamed) = self.with_known_ids(settings, &mut report);
        let prepared = {
            let (inner, held) = (self.clone(), std::mem::take(&mut *known));
            let prepared = quietly(move || (inner.prepare(settings, &held, depth), held)).await;
            let (prepared, held) = prepared.map_err(|error| format!("reading ended early: {error}"))?;
            *known = held;
            prepared?
        };
        let Prepared { settings, mut declared, unreadable, strays, maker } = prepared;

        let _membership = self.membership.lock().await;
        // First of all: what is retired by this reading has the graces that it names.
        self.limits.replace(settings.limits.clone());
        self.registry.keep_retired(settings.limits.max_retired);
        let (anew, made_before) = (maker.is_some(), self.maker.load_full());
        if let Some(maker) = maker {
            // Before the first project: what is uploaded from now on is made with it.
            self.maker.store(Arc::new(maker));
            report.changes.push(TRUST.to_owned());
        }
        let mut held = HashMap::with_capacity(known.len());
        let mut counts = Counts::default();
        let mut changed = 0;
        let folders: Arc<[PathBuf]> = unreadable.iter().map(|(path, _)| path.clone()).collect();
        for (project, info) in self.members(&settings) {
            let own = declared.remove(&info.id).unwrap_or_default();
            let step = Step { info, declared: own, anew, unreadable: folders.clone() };
            let plan = match self.change(project, step).await {
                Ok(plan) => plan,
                Err(sentence) => {
                    // Half of it is in force: the next reading finds the other half changed, certificates and trust.
                    *known = held;
                    self.maker.store(made_before);
                    return Err(sentence);
                }
            };
            changed += usize::from(plan.is_change);
            counts += plan.counts;
            held.extend(plan.held);
            report.kept.extend(plan.kept);
            report.unloaded.extend(plan.unloaded);
        }
        *known = held;
        report.unloaded.extend(orphans(declared));
        for (folder, sentence) in unreadable {
            // One that was never read holds up readiness as a missing file does.
            let list = if self.has_from(&folder) { &mut report.faults } else { &mut report.unloaded };
            list.push(sentence);
        }
        report.faults.extend(strays);
        for (what, n) in [("added", counts.added), ("replaced", counts.replaced), ("removed", counts.removed)]
            .iter()
            .filter(|(_, n)| *n > 0)
        {
            report
                .changes
                .push(format!("{n} declared {} {what}", if *n == 1 { "certificate" } else { "certificates" }));
        }
        if changed > 0 {
            report.changes.push(format!("{changed} {}", if changed == 1 { "project" } else { "projects" }));
        }
        match self.redeclare(with_known_projects(tokens, &renamed)) {
            0 => {}
            n => report.changes.push(format!("{n} {}", if n == 1 { "token" } else { "tokens" })),
        }
        *self.findings.lock().expect("nothing panics while holding it") =
            Findings { kept: report.kept.clone(), unloaded: report.unloaded.clone(), faults: report.faults.clone() };
        Ok(report)
    }

    /// Reads and validates. Blocks.
    fn prepare(&self, settings: Arc<Settings>, known: &HashMap<Slot, Held>, depth: Depth) -> Result<Prepared, String> {
        let anchors = anchors::read(&settings.trust.anchors).map_err(|error| format!("[trust] anchors: {error}"))?;
        let (digest, post_quantum) = (anchors::digest_of(&anchors), settings.trust.post_quantum);
        let maker = if self.maker.load().is_for(&digest, post_quantum) {
            None
        } else {
            let factory = TlsFactory::new(post_quantum);
            let shared = SharedAnchors::load(&anchors, factory.provider())
                .map_err(|error| format!("[trust] anchors: {error}"))?;
            Some(Maker::new(Arc::new(factory), Arc::new(shared)))
        };
        let listing = declared::list(&settings)?;
        // One thread: requests come first.
        let read = declared::read(listing.entries, known, depth, NonZero::<usize>::MIN);
        Ok(Prepared {
            settings,
            declared: by_project(read),
            unreadable: listing.unreadable,
            strays: listing.strays,
            maker,
        })
    }

    /// Changes one project, or makes it.
    async fn change(self: &Arc<Self>, project: Option<Arc<Project>>, step: Step) -> Result<Changed, String> {
        let Some(project) = project else {
            self.store.settle_anew(&step.info.id);
            let info = Arc::new(step.info.clone());
            let base = Snapshot::empty(info, self.maker.load_full().anonymous(&step.info, &Vouching::none()));
            let (mut plan, base) = self.planned(Arc::new(base), step).await?;
            let next = plan.next.take().unwrap_or_else(|| Snapshot::clone(&base));
            self.registry.insert(Project::new(next));
            return Ok(Changed { is_change: true, ..Changed::of(plan) });
        };
        let _writer = project.write().await;
        let (mut plan, base) = self.planned(project.snapshot(), step).await?;
        let writes = std::mem::take(&mut plan.writes);
        if let Err(error) = self.store.write(writes).await {
            tracing::warn!(project = %project.id(), %error, "what changed with the files could not be stored; it is in force until the next start");
        }
        let Some(next) = plan.next.take() else { return Ok(Changed::of(plan)) };
        let (new, old) = (next.info().clone(), base.info());
        if new.rollback == Rollback::Off {
            // Those whose windows end with that.
            let kept = next.bindings().into_iter().filter(|binding| binding.previous.is_some());
            kept.for_each(|binding| self.keeping.note(project.id(), &binding));
        }
        if new.name != old.name || new.team != old.team {
            self.registry.republish(&project, next);
        } else {
            project.publish(next);
        }
        let covered = std::mem::take(&mut plan.covered);
        self.set_covered(project.id(), covered);
        self.end_all(&project, std::mem::take(&mut plan.ends), plan.anonymous.take());
        Ok(Changed { is_change: true, ..Changed::of(plan) })
    }

    /// Ends what a published snapshot has no more.
    pub(super) fn end_all(&self, project: &Project, ends: Vec<End>, anonymous: Option<Arc<UpstreamTls>>) {
        let (replaced, removed) = (Grace::of_replaced(&self.limits), Grace::of_deleted(&self.limits));
        for ended in ends {
            let grace = if ended.successor.is_some() { replaced } else { removed };
            let objects = ended.objects.iter();
            retire_objects(project, &ended.certificate, objects, ended.successor.as_ref(), Drain::Grace, grace);
        }
        if let Some(anonymous) = anonymous {
            end(&anonymous, Drain::Grace, replaced);
        }
    }

    /// Makes the plan off this thread: ten thousand certificates take their time.
    async fn planned(self: &Arc<Self>, base: Arc<Snapshot>, step: Step) -> Result<(Plan, Arc<Snapshot>), String> {
        let inner = self.clone();
        let planned = quietly(move || {
            let Step { info, declared, anew, unreadable } = step;
            let maker = inner.maker.load_full();
            let (store, accounts) = (&inner.store, &inner.accounts);
            let ground = Ground { store, maker: &maker, accounts, anew, unreadable: &unreadable };
            let covered = inner.covered(&info.id);
            let plan = plan(&ground, &base, &info, declared, covered);
            (plan, base)
        });
        planned.await.map_err(|error| format!("planning ended early: {error}"))
    }

    /// Whether anything in force was declared below this folder.
    fn has_from(&self, folder: &std::path::Path) -> bool {
        let below = |source: &Source| matches!(source, Source::File(place) if place.starts_with(folder));
        let of = |project: Arc<Project>| {
            let snapshot = project.snapshot();
            let mut bindings = snapshot.bindings().into_iter();
            bindings.any(|b| below(&b.source) && matches!(b.target, Target::Certificate(_)))
        };
        self.registry.projects().into_iter().any(of)
    }
}

/// What a project is to become.
struct Step {
    info: ProjectInfo,
    declared: Vec<Declared>,
    anew: bool,
    unreadable: Arc<[PathBuf]>,
}

/// What became of it.
struct Changed {
    is_change: bool,
    counts: Counts,
    held: Vec<(Slot, Held)>,
    kept: Vec<String>,
    unloaded: Vec<String>,
}

impl Changed {
    fn of(plan: Plan) -> Self {
        let Plan { held, kept, unloaded, counts, .. } = plan;
        Self { is_change: false, counts, held, kept, unloaded }
    }
}

pub(super) fn by_project(declared: Vec<Declared>) -> HashMap<ProjectId, Vec<Declared>> {
    let mut all: HashMap<ProjectId, Vec<Declared>> = HashMap::new();
    for one in declared {
        all.entry(one.entry.project.clone()).or_default().push(one);
    }
    all
}

/// Those of projects that there are not.
pub(super) fn orphans(declared: HashMap<ProjectId, Vec<Declared>>) -> Vec<String> {
    let of = |d: Declared| {
        let file = d.entry.files.all().next().map(|path| path.display().to_string()).unwrap_or_default();
        format!("{file}: its project {} does not exist", d.entry.project)
    };
    declared.into_values().flatten().map(of).collect()
}

/// Scopes of tokens speak of the ids that projects have here.
fn with_known_projects(
    tokens: Vec<([u8; 32], Token)>,
    renamed: &HashMap<ProjectId, ProjectId>,
) -> Vec<([u8; 32], Token)> {
    let known = |(sha256, mut token): ([u8; 32], Token)| {
        if let TokenScope::Projects(ids) = &mut token.scope {
            for id in ids {
                if let Some(known) = renamed.get(id.as_str()) {
                    known.as_str().clone_into(id);
                }
            }
        }
        (sha256, token)
    };
    tokens.into_iter().map(known).collect()
}
