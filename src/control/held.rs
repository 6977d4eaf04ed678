//! The lists of a project's zone: certificates that stay until they are deleted there, whatever names them.

use super::Inner;
use super::records::BindingRecord;
use super::store::Write;
use crate::domain::CertificateId;
use crate::registry::{Association, Binding, Project, Roster, Snapshot, SnapshotEdit, Target};

/// What changes beside its bindings when a certificate leaves its list.
#[derive(Default)]
pub(super) struct Unlisted {
    roster: Option<Roster>,
    /// Associations that merely remembered it, as they are from now on.
    bindings: Vec<Binding>,
}

impl Unlisted {
    pub(super) fn apply(self, edit: &mut SnapshotEdit) {
        if let Some(roster) = self.roster {
            edit.set_roster(roster);
        }
        for binding in self.bindings {
            edit.bind(binding);
        }
    }
}

impl Inner {
    /// Takes a certificate out of the list that holds it, if one does. Hostnames that present nothing go on doing so;
    /// that they once named it is forgotten.
    pub(super) fn unlisted(
        &self,
        project: &Project,
        snapshot: &Snapshot,
        id: &CertificateId,
        writes: &mut Vec<Write>,
    ) -> Unlisted {
        let mut unlisted = Unlisted::default();
        if snapshot.roster().entry(id).is_some() {
            let mut roster = Roster::clone(snapshot.roster());
            roster.held.retain(|held| held.id != *id);
            writes.push(self.store.roster_write(project.id(), &roster));
            unlisted.roster = Some(roster);
        }
        for binding in remembering(snapshot, id) {
            let association = binding.association.clone().map(|known| Association { certificate: None, ..known });
            let binding = Binding { association, ..binding };
            let key = self.store.binding_key(project.id(), &binding.pattern);
            writes.push(Write::Put(key, BindingRecord::of(&binding).to_bytes()));
            unlisted.bindings.push(binding);
        }
        unlisted
    }
}

/// The associations that name a certificate and present nothing.
pub(super) fn remembering(snapshot: &Snapshot, id: &CertificateId) -> Vec<Binding> {
    let names = |binding: &Binding| binding.association.as_ref().is_some_and(|a| a.certificate.as_ref() == Some(id));
    let remembers = |binding: &Binding| matches!(binding.target, Target::None) && names(binding);
    snapshot.bindings().iter().filter(|binding| remembers(binding)).map(|binding| Binding::clone(binding)).collect()
}
