//! One step back: the certificate before the one in force, kept for a while.
//!
//! What must stay true: what is kept is no certificate of the API and nothing selects it; its record rests sealed where
//! it lay, and its binding's record says until when; one certificate per place, and never longer than
//! `limits.rollback_window`; when it is let go of, its key is in neither memory nor store.
//!
//! Going back is an ordinary replacement. What it takes out of force is not kept in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use time::OffsetDateTime;

use super::apply::{Grace, retire};
use super::certificates::{not_declared, takes_changes, whole};
use super::layers::stamp;
use super::records::BindingRecord;
use super::store::Write;
use super::{Control, ControlError, Drain, Inner};
use crate::domain::{
    CertificateId, Holder, OnExpiry, Origin, Pattern, ProjectId, Rollback, Source, Validity, time as clock,
};
use crate::observe::{Event, EventKind};
use crate::registry::{
    Binding, Certificate, FallBack, FallBackFuture, Previous, Project, Snapshot, SnapshotEdit, Target,
};

/// What is kept, by place. The snapshots hold the same; this says when the next is to be let go of.
#[derive(Default)]
pub(super) struct Keeping {
    index: Mutex<Index>,
    /// Places that were rolled back in memory while the store could not be written, and what was taken out of force.
    unstored: Mutex<BTreeMap<(ProjectId, Pattern), Option<CertificateId>>>,
}

/// A place of a project.
type Key = (ProjectId, Pattern);

#[derive(Default)]
struct Index {
    places: BTreeMap<Key, Entry>,
    /// The same by certificate; no id is ever used twice, not even by two projects.
    certificates: BTreeMap<CertificateId, BTreeSet<Key>>,
}

struct Entry {
    until: OffsetDateTime,
    certificate: CertificateId,
}

impl Index {
    fn insert(&mut self, key: Key, entry: Entry) {
        self.remove(&key);
        self.certificates.entry(entry.certificate.clone()).or_default().insert(key.clone());
        self.places.insert(key, entry);
    }

    fn remove(&mut self, key: &Key) {
        let Some(Entry { certificate, .. }) = self.places.remove(key) else { return };
        if let Some(keys) = self.certificates.get_mut(&certificate) {
            keys.remove(key);
            if keys.is_empty() {
                self.certificates.remove(&certificate);
            }
        }
    }

    fn places_of(&self, id: &CertificateId) -> impl Iterator<Item = &Key> {
        self.certificates.get(id).into_iter().flatten()
    }
}

impl Keeping {
    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().expect("nothing panics while holding it")
    }

    /// Remembers what `binding` can go back to, or that it can no more.
    pub(super) fn note(&self, project: &ProjectId, binding: &Binding) {
        let key = (project.clone(), binding.pattern.clone());
        match &binding.previous {
            Some(previous) => {
                let (until, certificate) = (previous.until, previous.certificate.info.id.clone());
                self.lock().insert(key, Entry { until, certificate });
            }
            None => {
                self.lock().remove(&key);
            }
        }
    }

    /// Remembers what bindings can go back to; the certificates that nothing else names.
    pub(super) fn learn(&self, project: &ProjectId, settled: &Snapshot) -> BTreeSet<CertificateId> {
        let mut kept = BTreeSet::new();
        for binding in settled.bindings() {
            let Some(previous) = &binding.previous else { continue };
            self.note(project, &binding);
            let id = &previous.certificate.info.id;
            if previous.alone && !settled.is_bound(id) {
                kept.insert(id.clone());
            }
        }
        kept
    }

    fn forget(&self, project: &ProjectId, patterns: &[Pattern]) {
        let mut index = self.lock();
        for pattern in patterns {
            index.remove(&(project.clone(), pattern.clone()));
        }
    }

    pub(super) fn forget_project(&self, project: &ProjectId) {
        let mut index = self.lock();
        // The project-wide place comes before all others.
        let from = index.places.range((project.clone(), Pattern::Default)..);
        let keys: Vec<Key> = from.map(|(key, _)| key.clone()).take_while(|(of, _)| of == project).collect();
        keys.iter().for_each(|key| index.remove(key));
    }

    /// What is kept for these places, and, wherever else in the project, of these certificates. And whether it is kept for
    /// further places, too.
    fn gone(
        &self,
        project: &ProjectId,
        places: &[Pattern],
        ids: &BTreeSet<CertificateId>,
    ) -> Vec<(Pattern, CertificateId, bool)> {
        let index = self.lock();
        let keyed = places.iter().map(|pattern| (project.clone(), pattern.clone()));
        let mut keys: BTreeSet<Key> = keyed.filter(|key| index.places.contains_key(key)).collect();
        keys.extend(ids.iter().flat_map(|id| index.places_of(id)).filter(|(of, _)| of == project).cloned());
        let entry = |key: &Key| {
            let id = index.places[key].certificate.clone();
            let stays = index.places_of(&id).any(|other| !keys.contains(other));
            (key.1.clone(), id, stays)
        };
        keys.iter().map(entry).collect()
    }

    /// The first place of the project that can go back to this certificate.
    pub(super) fn place_of(&self, project: &ProjectId, id: &CertificateId) -> Option<Pattern> {
        self.lock().places_of(id).find(|(of, _)| of == project).map(|(_, pattern)| pattern.clone())
    }

    /// The places whose time is over, or whose project is `off`.
    fn ended(&self, now: OffsetDateTime, off: impl Fn(&ProjectId) -> bool) -> Vec<Key> {
        let index = self.lock();
        let ended = |(key, entry): &(&Key, &Entry)| entry.until <= now || off(&key.0);
        index.places.iter().filter(ended).map(|(key, _)| key.clone()).collect()
    }
}

/// What else changes when certificates are let go of.
#[derive(Default)]
pub(super) struct LetGo {
    pub(super) writes: Vec<Write>,
    /// Places that keep nothing any more.
    patterns: Vec<Pattern>,
    /// Those of them that are not changed otherwise, as they are from now on.
    bindings: Vec<Binding>,
}

impl LetGo {
    pub(super) fn apply(self, keeping: &Keeping, project: &ProjectId, edit: &mut SnapshotEdit) {
        keeping.forget(project, &self.patterns);
        for binding in self.bindings {
            edit.bind(binding);
        }
    }
}

impl Control {
    /// Puts the certificate before the one in force there back in its place; gives it back.
    ///
    /// # Errors
    /// No such binding; nothing kept; a declared slot, the project's state, storing.
    pub async fn roll_back(
        &self,
        project: &Arc<Project>,
        pattern: &Pattern,
        drain: Drain,
    ) -> Result<Arc<Certificate>, ControlError> {
        let (inner, project, pattern) = (self.inner.clone(), project.clone(), pattern.clone());
        whole(async move { inner.roll_back(&project, &pattern, drain).await }).await
    }

    /// Where this certificate is kept to go back to, and what took its place there.
    #[must_use]
    pub fn kept_for(&self, project: &Project, id: &CertificateId) -> Option<Arc<Binding>> {
        let pattern = self.inner.keeping.place_of(project.id(), id)?;
        let binding = project.snapshot().binding(&pattern)?;
        binding.previous.as_ref().is_some_and(|previous| previous.until > clock::now()).then_some(binding)
    }

    /// Lets go of what was kept long enough at that time.
    pub(super) async fn let_go_of_ended(&self, now: OffsetDateTime) {
        let off = |id: &_| self.inner.registry.project(id).is_some_and(|project| keeps_nothing(&project.load()));
        for (project, pattern) in self.inner.keeping.ended(now, off) {
            let inner = self.inner.clone();
            let done = whole(async move { inner.end_of_window(&project, &pattern, now).await });
            if let Err(error) = done.await {
                tracing::warn!(%error, "a certificate that was kept to go back to could not be wiped yet");
            }
        }
        let unstored = self.inner.keeping.unstored.lock().expect("nothing panics while holding it").clone();
        for ((project, pattern), newer) in unstored {
            let inner = self.inner.clone();
            let done = whole(async move { inner.store_late(&project, &pattern, newer).await });
            if let Err(error) = done.await {
                tracing::error!(%error, "a certificate was rolled back and the store still does not know; a restart would undo it");
            }
        }
    }
}

impl FallBack for Control {
    fn fall_back<'a>(
        &'a self,
        project: &'a Arc<Project>,
        binding: &'a Binding,
        origin: &'a Origin,
        alert: u8,
    ) -> FallBackFuture<'a> {
        Box::pin(async move {
            let Some(refused) = binding.target.certificate_id().cloned() else { return false };
            let (inner, project, pattern) = (self.inner.clone(), project.clone(), binding.pattern.clone());
            let origin = origin.clone();
            let done = whole(async move { inner.fall_back(&project, &pattern, &refused, &origin, alert).await });
            done.await.unwrap_or_else(|error| {
                tracing::error!(%error, "the certificate before could not be put back in force");
                false
            })
        })
    }
}

impl Inner {
    /// What `existing` leaves behind to go back to, once another certificate has its place. `alone`: no other binding
    /// names it. `promoted`: where the other one was tried out.
    pub(super) fn keep(
        &self,
        snapshot: &Snapshot,
        existing: Option<&Binding>,
        drain: Drain,
        (alone, promoted): (bool, Option<Origin>),
    ) -> Option<Arc<Previous>> {
        let existing = existing?;
        let Target::Certificate(certificate) = &existing.target else { return None };
        // One of a list stays there, and is put back by binding it again.
        let ours = existing.source == Source::Api
            && certificate.info.source == Source::Api
            && certificate.info.holder == Holder::Project;
        if !ours || drain == Drain::Now || keeps_nothing(snapshot) {
            return None;
        }
        let now = clock::now();
        let mut until = now + self.limits.rollback_window();
        let (info, on_expiry) = (&certificate.info, snapshot.info().on_expiry);
        if !info.skip_validation && on_expiry == OnExpiry::Refuse {
            until = until.min(info.not_after);
        }
        // Objects of its own: those that were in force end as those of every replaced certificate.
        let certificate = self.maker.load_full().afresh(certificate);
        (until > now).then(|| Arc::new(Previous { certificate, until, alone, promoted }))
    }

    /// What changes when these places (whose bindings are written or deleted anyway) keep nothing any more, and when
    /// `certificates` may be kept nowhere. One that only such a place kept is wiped; where it was in force nowhere else,
    /// no place may go back to it.
    pub(super) fn let_go(
        &self,
        project: &Project,
        snapshot: &Snapshot,
        places: &[Pattern],
        certificates: &[&CertificateId],
    ) -> LetGo {
        let mut ids: BTreeSet<CertificateId> = certificates.iter().copied().cloned().collect();
        let previous = |pattern: &Pattern| snapshot.binding(pattern).and_then(|binding| binding.previous.clone());
        ids.extend(places.iter().filter_map(previous).filter(|p| p.alone).map(|p| p.certificate.info.id.clone()));
        let mut let_go = LetGo::default();
        let mut wiped = BTreeSet::new();
        for (pattern, id, stays) in self.keeping.gone(project.id(), places, &ids) {
            if !stays && snapshot.certificate(&id).is_none() {
                wiped.insert(id);
            }
            if let Some(binding) =
                snapshot.binding(&pattern).filter(|b| !places.contains(&pattern) && b.previous.is_some())
            {
                let binding = Binding { previous: None, ..Binding::clone(&binding) };
                let key = self.store.binding_key(project.id(), &pattern);
                let_go.writes.push(Write::Put(key, BindingRecord::of(&binding).to_bytes()));
                let_go.bindings.push(binding);
            }
            let_go.patterns.push(pattern);
        }
        let wipe = |id: &CertificateId| Write::Delete(self.store.certificate_key(project.id(), id));
        let_go.writes.extend(wiped.iter().map(wipe));
        let_go
    }

    async fn roll_back(
        &self,
        project: &Arc<Project>,
        pattern: &Pattern,
        drain: Drain,
    ) -> Result<Arc<Certificate>, ControlError> {
        let _writer = project.write().await;
        let snapshot = project.snapshot();
        takes_changes(&snapshot)?;
        not_declared(&snapshot, pattern)?;
        let binding = snapshot.binding(pattern).ok_or(ControlError::NotFound("binding"))?;
        let kept = |previous: &&Arc<Previous>| previous.until > clock::now() && !keeps_nothing(&snapshot);
        let previous = binding.previous.as_ref().filter(kept).ok_or(ControlError::NoneKept)?;
        let step = self.step_back(project, &snapshot, &binding, previous);
        self.store.write(step.writes).await?;
        let certificate = self.go_back(project, &snapshot, step.next, drain);
        self.metrics.rollbacks_manual.add();
        tracing::info!(project = %project.id(), %pattern, certificate = %certificate.info.id, "rolled back: the certificate before is in force again");
        let event = Event::new(EventKind::CertificateRolledBack, "somebody put the certificate before back in force");
        self.events.emit(event.about(project.id(), &certificate.info.id).at_origin(pattern));
        Ok(certificate)
    }

    /// See [`FallBack::fall_back`].
    async fn fall_back(
        &self,
        project: &Arc<Project>,
        pattern: &Pattern,
        refused: &CertificateId,
        origin: &Origin,
        alert: u8,
    ) -> Result<bool, ControlError> {
        let _writer = project.write().await;
        let snapshot = project.snapshot();
        let Some(binding) = snapshot.in_force(pattern).filter(|_| !snapshot.is_removed()) else { return Ok(false) };
        if binding.target.certificate_id() != Some(refused) {
            // Another exchange has seen to it, or somebody put something else there.
            return Ok(matches!(binding.target, Target::Certificate(_)));
        }
        let now = clock::now();
        let usable = |previous: &Previous| {
            if keeps_nothing(&snapshot) {
                return false;
            }
            let info = &previous.certificate.info;
            let sent_anyway = info.skip_validation || snapshot.info().on_expiry == OnExpiry::Send;
            sent_anyway || info.validity(now) == Validity::Valid
        };
        let Some(previous) = binding.previous.as_ref().filter(|p| p.falls_back(pattern, origin, now) && usable(p))
        else {
            return Ok(false);
        };
        let step = self.step_back(project, &snapshot, &binding, previous);
        let (stored, newer) = (self.store.write(step.writes).await, step.next.newer.clone());
        let certificate = self.go_back(project, &snapshot, step.next, Drain::Grace);
        self.metrics.rollbacks_automatic.add();
        let id = &certificate.info.id;
        tracing::error!(project = %project.id(), %pattern, %origin, %refused, certificate = %id, alert, "ROLLED BACK: an origin refuses the certificate that was promoted; the one before is in force again");
        if let Err(error) = stored {
            let mut unstored = self.keeping.unstored.lock().expect("nothing panics while holding it");
            unstored.insert((project.id().clone(), pattern.clone()), newer);
            tracing::error!(project = %project.id(), %pattern, certificate = %id, %error, "the rollback could not be stored: it is in force, and a restart before it is stored would undo it");
        }
        let words = format!(
            "{origin} refused certificate {refused} with TLS alert {alert} after it was promoted; the one before is in force again"
        );
        self.events
            .emit(Event::new(EventKind::CertificateRolledBack, words).about(project.id(), id).at_origin(pattern));
        Ok(true)
    }

    /// What going back writes, and the binding that it leads to.
    fn step_back(&self, project: &Project, snapshot: &Snapshot, binding: &Binding, previous: &Previous) -> Step {
        let id = &previous.certificate.info.id;
        // Still in force elsewhere: the same certificate. Else one that no connection and no ticket knows, and that trusts
        // whom the project trusts by now.
        let certificate = snapshot.certificate(id).unwrap_or_else(|| {
            let maker = self.maker.load_full();
            maker.anew(snapshot.info(), snapshot.vouching(), &previous.certificate, false)
        });
        let target = Target::Certificate(certificate);
        let since = stamp(snapshot, &binding.pattern);
        let next = Binding { target, since, previous: None, ..binding.clone() };
        let mut let_go = LetGo::default();
        let newer = self.displaced(project, snapshot, Some(binding));
        if let Some(newer) = &newer {
            let_go = self.let_go(project, snapshot, &[], &[newer]);
            let_go.writes.push(Write::Delete(self.store.certificate_key(project.id(), newer)));
        }
        let key = self.store.binding_key(project.id(), &next.pattern);
        let mut writes = std::mem::take(&mut let_go.writes);
        writes.push(Write::Put(key, BindingRecord::of(&next).to_bytes()));
        Step { writes, next: Next { binding: next, newer, let_go } }
    }

    /// Publishes it, and retires the newer certificate. Cannot fail, and waits for nothing.
    fn go_back(&self, project: &Project, snapshot: &Snapshot, next: Next, drain: Drain) -> Arc<Certificate> {
        let Next { binding, newer, let_go } = next;
        let Target::Certificate(certificate) = binding.target.clone() else {
            unreachable!("`step_back` makes bindings to certificates only")
        };
        let mut edit = snapshot.edit();
        let_go.apply(&self.keeping, project.id(), &mut edit);
        self.keeping.note(project.id(), &binding);
        let replaced = snapshot.binding(&binding.pattern);
        edit.put_certificate(certificate.clone());
        edit.bind(binding);
        let newer = match newer {
            Some(id) => edit.remove_certificate(&id),
            // As after an upload, which it may have to make way for.
            None => replaced.and_then(|old| self.loosen(snapshot, &old, &mut edit)),
        };
        self.publish(project, snapshot, edit, drain);
        if let Some(newer) = newer {
            retire(project, &newer, Some(&certificate.info.id), drain, Grace::of_replaced(&self.limits));
        }
        certificate
    }

    /// The window of one place is over.
    async fn end_of_window(
        &self,
        project: &ProjectId,
        pattern: &Pattern,
        now: OffsetDateTime,
    ) -> Result<(), ControlError> {
        let Some(project) = self.registry.project(project) else {
            self.keeping.forget_project(project);
            return Ok(());
        };
        let _writer = project.write().await;
        let snapshot = project.snapshot();
        let ended = |binding: &Arc<Binding>| {
            binding.previous.as_ref().is_some_and(|p| p.until <= now || keeps_nothing(&snapshot))
        };
        let binding = snapshot.binding(pattern).filter(ended);
        let mut let_go = self.let_go(&project, &snapshot, std::slice::from_ref(pattern), &[]);
        let mut writes = std::mem::take(&mut let_go.writes);
        let mut edit = snapshot.edit();
        if let Some(binding) = binding {
            let binding = Binding { previous: None, ..Binding::clone(&binding) };
            writes.push(Write::Put(
                self.store.binding_key(project.id(), pattern),
                BindingRecord::of(&binding).to_bytes(),
            ));
            edit.bind(binding);
        } else if snapshot.binding(pattern).is_some_and(|b| b.previous.is_some()) {
            // Replaced while this waited for its turn: another window.
            return Ok(());
        }
        self.store.write(writes).await?;
        let_go.apply(&self.keeping, project.id(), &mut edit);
        project.publish(edit.finish());
        tracing::info!(project = %project.id(), %pattern, "the certificate before was let go of; there is no going back any more");
        Ok(())
    }

    /// Stores what was rolled back while the store could not be written; what was put there since was stored as well.
    async fn store_late(
        &self,
        project: &ProjectId,
        pattern: &Pattern,
        newer: Option<CertificateId>,
    ) -> Result<(), ControlError> {
        if let Some(project) = self.registry.project(project) {
            let _writer = project.write().await;
            let snapshot = project.snapshot();
            let mut writes = Vec::new();
            if let Some(binding) = snapshot.binding(pattern).filter(|b| b.source == Source::Api) {
                let key = self.store.binding_key(project.id(), pattern);
                writes.push(Write::Put(key, BindingRecord::of(&binding).to_bytes()));
            }
            let newer = newer.filter(|id| snapshot.certificate(id).is_none());
            writes.extend(newer.map(|id| Write::Delete(self.store.certificate_key(project.id(), &id))));
            self.store.write(writes).await?;
        }
        let mut unstored = self.keeping.unstored.lock().expect("nothing panics while holding it");
        unstored.remove(&(project.clone(), pattern.clone()));
        Ok(())
    }
}

/// Whether the project says that there is no going back. What it kept before it said so ends, too.
fn keeps_nothing(snapshot: &Snapshot) -> bool {
    snapshot.info().rollback == Rollback::Off
}

/// A step back, ready to be stored.
struct Step {
    writes: Vec<Write>,
    next: Next,
}

/// And then to be published.
struct Next {
    binding: Binding,
    newer: Option<CertificateId>,
    let_go: LetGo,
}
