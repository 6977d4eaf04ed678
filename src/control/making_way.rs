//! What becomes of certificates whose places others take: which of them end, and with which of their objects.

use std::sync::Arc;

use super::Inner;
use crate::domain::{CertificateId, Holder, Pattern, ProjectId, Source};
use crate::identity::UpstreamTls;
use crate::registry::{Binding, Certificate, Project, Snapshot, SnapshotEdit, Target};

impl Inner {
    /// A certificate that stays although its last binding went by what `edit` has changed: what was made under it ends, and
    /// should it be bound again, then with objects of its own. Gives back the one to retire.
    pub(super) fn loosen(
        &self,
        before: &Snapshot,
        removed: &Binding,
        edit: &mut SnapshotEdit,
    ) -> Option<Arc<Certificate>> {
        let Target::Certificate(certificate) = &removed.target else { return None };
        if edit.settled().is_bound(&certificate.info.id) {
            return None;
        }
        // The one in the snapshot has every object in use; the binding may hold one from before an exchange.
        let certificate = before.certificate(&certificate.info.id)?;
        if certificate.info.holder == Holder::Account {
            // It is the account's, and made for the project by the first binding of it.
            edit.remove_certificate(&certificate.info.id);
        } else {
            edit.put_certificate(self.maker.load_full().afresh(&certificate));
        }
        Some(certificate)
    }

    /// A binding whose certificate stays, and that uses another object of it from now on: the one that it used ends,
    /// unless another binding uses it, and a fresh one takes its place in the certificate. Gives back what is to end.
    pub(super) fn exchange(
        &self,
        before: &Snapshot,
        old: &Binding,
        new: Binding,
        edit: &mut SnapshotEdit,
    ) -> Option<(Arc<Certificate>, Arc<UpstreamTls>)> {
        let (was, is) = (old.tls()?.clone(), new.tls()?);
        if Arc::ptr_eq(&was, is) || before.is_used_beside(old, &was) {
            return None;
        }
        let certificate = before.certificate(old.target.certificate_id()?)?;
        let certificate = self.maker.load_full().without(&certificate, |tls| Arc::ptr_eq(tls, &was));
        edit.put_certificate(certificate.clone());
        // All of them: one that kept the certificate of before would bring what ends now back when it is written again.
        for other in before.bindings_of(&certificate.info.id) {
            let binding = if other.pattern == new.pattern { new.clone() } else { Binding::clone(&other) };
            edit.bind(Binding { target: Target::Certificate(certificate.clone()), ..binding });
        }
        Some((certificate, was))
    }

    /// The certificate that ends when `existing` makes way for another: no other binding names it.
    pub(super) fn displaced(
        &self,
        project: &Project,
        snapshot: &Snapshot,
        existing: Option<&Binding>,
    ) -> Option<CertificateId> {
        let id = existing?.target.certificate_id()?;
        // Declared ones stay with their file, those of a list in their list; one that a shadowed binding names comes back
        // with it.
        let is_of_place = |c: Arc<Certificate>| c.info.source == Source::Api && c.info.holder == Holder::Project;
        let ends = snapshot.bindings_of(id).len() == 1
            && snapshot.certificate(id).is_none_or(is_of_place)
            && snapshot.roster().entry(id).is_none()
            // A hostname that presents nothing may have been switched off with it, and could be switched on again.
            && self.remembered_at(project, snapshot, id).is_empty()
            && self.shadowed_by(project, id).is_empty();
        ends.then(|| id.clone())
    }

    /// Patterns whose stored binding to this certificate stands behind a declared one.
    pub(super) fn shadowed_by(&self, project: &Project, id: &CertificateId) -> Vec<Pattern> {
        self.shadowed_in(project.id(), id)
    }

    pub(super) fn shadowed_in(&self, project: &ProjectId, id: &CertificateId) -> Vec<Pattern> {
        let shadowed = self.shadowed.lock().expect("nothing panics while holding it");
        let of_project = shadowed.get(project).into_iter().flatten();
        of_project
            .filter(|(_, stored)| stored.target.certificate_id() == Some(id))
            .map(|(pattern, _)| pattern.clone())
            .collect()
    }

    pub(super) fn unshadow(&self, project: &Project, patterns: &[Pattern]) {
        let mut shadowed = self.shadowed.lock().expect("nothing panics while holding it");
        if let Some(of_project) = shadowed.get_mut(project.id()) {
            of_project.retain(|pattern, _| !patterns.contains(pattern));
        }
    }
}
