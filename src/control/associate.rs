//! Hostname associations: which certificate each hostname of a zone presents, all that is wanted at once.
//!
//! What must stay true: all of it happens, in one commit and one snapshot, or nothing does; and a hostname that is given
//! another certificate has one at every moment, since the old one is retired after the new one is published.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::apply::{Grace, retire};
use super::certificates::{not_declared, takes_changes, whole};
use super::held::named;
use super::layers::stamp;
use super::records::BindingRecord;
use super::store::Write;
use super::{Control, ControlError, Drain, Inner};
use crate::domain::{CertificateId, Holder, Host, Pattern, PortRule, Source};
use crate::registry::{Association, Binding, Certificate, Project, Snapshot, Target};

/// What is wanted of a hostname.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which one; it stands for every port of it.
    pub hostname: Host,
    /// The certificate that it presents, or merely remembers.
    pub certificate: Option<CertificateId>,
    /// Present it; present nothing, whatever is presented project-wide; `None`: no association, whatever `certificate` says.
    pub enabled: Option<bool>,
}

/// What is wrong with one of the associations that were wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryFault {
    /// Which one, counted from 0.
    pub index: usize,
    /// The field, as the dialect spells it.
    pub field: &'static str,
    /// What sort of fault.
    pub kind: EntryKind,
    /// What is wrong and what to do. Never a piece of what was sent.
    pub what: String,
}

/// The sorts of faults of an association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// It names no certificate.
    MissingCertificate,
    /// There is no such certificate, or it cannot be used.
    UnknownCertificate,
    /// The certificate is in another list.
    WrongList,
    /// The certificate has as many associations as it may.
    TooMany,
    /// A file declares what the hostname presents.
    Declared,
    /// The hostname stands there twice, with different wishes.
    Twice,
}

pub(super) fn faults_text(faults: &[EntryFault]) -> String {
    let text = |fault: &EntryFault| format!("config[{}].{}: {}", fault.index, fault.field, fault.what);
    faults.iter().map(text).collect::<Vec<_>>().join(" | ")
}

impl Control {
    /// Associates hostnames of the project's zone with certificates: all of them or, if one is faulty, none. Hostnames
    /// that are not named stay as they are; what is so already changes nothing.
    ///
    /// # Errors
    /// [`ControlError::Entries`] with the faults of all of them; the project's state; storing.
    pub async fn associate(&self, project: &Arc<Project>, wanted: Vec<Wanted>) -> Result<(), ControlError> {
        let (inner, project) = (self.inner.clone(), project.clone());
        whole(async move { inner.associate(&project, wanted).await }).await
    }
}

/// A place whose association changes.
struct Change {
    index: usize,
    pattern: Pattern,
    existing: Option<Arc<Binding>>,
    /// `None`: it is voided.
    next: Option<Binding>,
}

impl Inner {
    async fn associate(&self, project: &Arc<Project>, wanted: Vec<Wanted>) -> Result<(), ControlError> {
        let _writer = project.write().await;
        let snapshot = project.snapshot();
        takes_changes(&snapshot)?;
        let mut faults = Vec::new();
        let mut changes = Vec::new();
        for (index, wanted) in once_each(&wanted, &mut faults) {
            match self.association_of(&snapshot, index, wanted) {
                Ok(change) => changes.extend(change),
                Err(fault) => faults.push(fault),
            }
        }
        self.within_limit(project, &snapshot, &changes, &mut faults);
        if !faults.is_empty() {
            faults.sort_by_key(|fault| fault.index);
            return Err(ControlError::Entries(faults));
        }
        if changes.is_empty() {
            return Ok(());
        }
        let places: Vec<_> = changes.iter().map(|change| change.pattern.clone()).collect();
        let mut let_go = self.let_go(project, &snapshot, &places, &[]);
        let mut writes = std::mem::take(&mut let_go.writes);
        writes.extend(changes.iter().map(|change| {
            let key = self.store.binding_key(project.id(), &change.pattern);
            match &change.next {
                Some(binding) => Write::Put(key, BindingRecord::of(binding).to_bytes()),
                None => Write::Delete(key),
            }
        }));
        writes.extend(self.store.project_record(snapshot.info()));
        self.store.write(writes).await?;

        let mut edit = snapshot.edit();
        let_go.apply(&self.keeping, project.id(), &mut edit);
        for change in &changes {
            match &change.next {
                Some(binding) => edit.bind(binding.clone()),
                None => edit.unbind(&change.pattern),
            };
        }
        // By id: several hostnames may have left the same one.
        let mut ended: BTreeMap<CertificateId, (Arc<Certificate>, Option<CertificateId>)> = BTreeMap::new();
        for change in &changes {
            let Some(old) = change.existing.as_ref().and_then(|binding| self.loosen(&snapshot, binding, &mut edit))
            else {
                continue;
            };
            let successor = change.next.as_ref().and_then(|next| next.target.certificate_id()).cloned();
            let (_, known) = ended.entry(old.info.id.clone()).or_insert((old, None));
            *known = known.take().or(successor);
        }
        self.publish(project, &snapshot, edit, Drain::Grace);
        for (old, successor) in ended.into_values() {
            let grace =
                if successor.is_some() { Grace::of_replaced(&self.limits) } else { Grace::of_deleted(&self.limits) };
            retire(project, &old, successor.as_ref(), Drain::Grace, grace);
        }
        for Change { pattern, next, .. } in &changes {
            let certificate = next.as_ref().and_then(|next| next.target.certificate_id());
            let voided = next.is_none();
            tracing::info!(project = %project.id(), %pattern, ?certificate, voided, "hostname association written");
        }
        Ok(())
    }

    /// How many hostnames name each certificate, those that a declared binding covers included.
    fn associations(&self, project: &Project, snapshot: &Snapshot) -> HashMap<CertificateId, usize> {
        let mut counts = HashMap::new();
        let covered = self.covered(project.id()).into_values();
        for binding in snapshot.bindings().into_iter().chain(covered) {
            if let (Pattern::Host(_, PortRule::Any), Some(id)) = (&binding.pattern, named(&binding)) {
                *counts.entry(id.clone()).or_default() += 1;
            }
        }
        counts
    }

    /// Complains of every change that gives a certificate more associations than it may have.
    fn within_limit(&self, project: &Project, snapshot: &Snapshot, changes: &[Change], faults: &mut Vec<EntryFault>) {
        let most = self.limits.max_associations();
        let mut counts = self.associations(project, snapshot);
        let before = |change: &Change| change.existing.as_deref().and_then(named).cloned();
        for id in changes.iter().filter_map(before) {
            if let Some(count) = counts.get_mut(&id) {
                *count = count.saturating_sub(1);
            }
        }
        let mut is_over = false;
        for change in changes {
            let Some(id) = change.next.as_ref().and_then(named) else { continue };
            let count = counts.entry(id.clone()).or_default();
            *count += 1;
            // One that it has already, switched on or off, is no further one.
            if *count > most && before(change).as_ref() != Some(id) {
                is_over = true;
                let what = format!(
                    "the certificate has {most} associations, as many as limits.max_associations allows; upload another certificate for further hostnames, or have the limit raised"
                );
                faults.push(EntryFault { index: change.index, field: "cert_id", kind: EntryKind::TooMany, what });
            }
        }
        if is_over {
            self.metrics.store_limits_reached.add();
        }
    }
}

/// Each hostname once, where it stands first; complains of those that stand there again with other wishes.
fn once_each<'a>(wanted: &'a [Wanted], faults: &mut Vec<EntryFault>) -> Vec<(usize, &'a Wanted)> {
    let mut first: HashMap<&str, &Wanted> = HashMap::new();
    let mut all = Vec::new();
    for (index, one) in wanted.iter().enumerate() {
        match first.get(one.hostname.as_str()) {
            None => {
                first.insert(one.hostname.as_str(), one);
                all.push((index, one));
            }
            Some(other) if *other == one => {}
            Some(_) => {
                let what = "this hostname stands in the list more than once, with different wishes; leave one of them"
                    .to_owned();
                faults.push(EntryFault { index, field: "hostname", kind: EntryKind::Twice, what });
            }
        }
    }
    all
}

impl Inner {
    /// What has to change for `wanted` to be so; `None` if it is.
    fn association_of(&self, snapshot: &Snapshot, index: usize, wanted: &Wanted) -> Result<Option<Change>, EntryFault> {
        let fault = |field, kind, what: String| EntryFault { index, field, kind, what };
        let pattern = Pattern::Host(wanted.hostname.clone(), PortRule::Any);
        if let Err(ControlError::Declared(_, file)) = not_declared(snapshot, &pattern) {
            let what = format!("what this hostname presents is declared in {file}; change it there");
            return Err(fault("hostname", EntryKind::Declared, what));
        }
        let existing = snapshot.binding(&pattern);
        let Some(enabled) = wanted.enabled else {
            let is_there = existing.is_some() || snapshot.is_quarantined(&pattern);
            return Ok(is_there.then_some(Change { index, pattern, existing, next: None }));
        };
        let certificate = self.usable(snapshot, wanted).map_err(|(kind, what)| fault("cert_id", kind, what))?;
        let id = certificate.info.id.clone();
        let is_so = existing.as_deref().is_some_and(|binding| {
            let presents = !matches!(binding.target, Target::None);
            presents == enabled && named(binding) == Some(&id)
        });
        if is_so {
            return Ok(None);
        }
        let since = stamp(snapshot, &pattern);
        let created_at = existing.as_ref().map_or(since, |binding| {
            // One that was written otherwise stood for an association from its beginning.
            binding.association.as_ref().map_or(binding.since, |association| association.created_at)
        });
        let binding = Binding {
            pattern: pattern.clone(),
            target: if enabled { Target::Certificate(certificate) } else { Target::None },
            source: Source::Api,
            since,
            lift: existing.as_ref().is_none_or(|binding| binding.lift),
            // Kept also where nothing is presented: switched on again it is as strict as before.
            tls13_only: existing.as_ref().is_some_and(|binding| binding.tls13_only),
            previous: None,
            association: Some(Association { certificate: Some(id), created_at }),
            derived: false,
        };
        Ok(Some(Change { index, pattern, existing, next: Some(binding) }))
    }

    /// The certificate that is wanted, if a hostname may name it.
    fn usable(&self, snapshot: &Snapshot, wanted: &Wanted) -> Result<Arc<Certificate>, (EntryKind, String)> {
        let Some(id) = &wanted.certificate else {
            let what =
                "it is missing; name a hostname certificate of the zone (voiding alone, enabled: null, needs none)";
            return Err((EntryKind::MissingCertificate, what.to_owned()));
        };
        let unknown = |what: &str| (EntryKind::UnknownCertificate, what.to_owned());
        let none = "the zone has no hostname certificate with this id; upload one, or name one that GET …/hostnames/certificates lists";
        let id = self.known(snapshot, id).ok_or_else(|| unknown(none))?;
        let lists = self.lists(snapshot, &id);
        if !lists.contains(&Holder::Hostnames) {
            return Err(match lists.first() {
                None => unknown(none),
                Some(held) => {
                    let what = format!(
                        "this is one of {}, and hostnames name {}; upload it to /hostnames/certificates, too, and name the id that it gets there",
                        held.list(),
                        Holder::Hostnames.list()
                    );
                    (EntryKind::WrongList, what)
                }
            });
        }
        snapshot.certificate(&id).ok_or_else(|| {
            unknown(
                "the stored record of this certificate is damaged; upload it again, and name the id that it gets then",
            )
        })
    }
}
