//! What the project-wide place shows besides what was bound to it: see `registry::Snapshot::zone`.

use std::sync::Arc;

use time::OffsetDateTime;

use super::apply::{Grace, Maker, retire_objects};
use super::{Drain, Inner};
use crate::domain::{CertificateId, Pattern, time as clock};
use crate::identity::UpstreamTls;
use crate::registry::{Binding, Certificate, Project, Snapshot, SnapshotEdit, Target};

/// An object that was in force project-wide and is not any more, although its certificate stays.
pub(super) struct Receded {
    certificate: Arc<Certificate>,
    tls: Arc<UpstreamTls>,
    /// What is in force there now.
    successor: Option<CertificateId>,
}

/// A certificate that stays and is not in force project-wide any more gets an object that nothing was connected by in
/// the place of the one that was. Gives back what is to be retired once the next snapshot is published.
pub(super) fn recede(maker: &Maker, base: &Snapshot, edit: &mut SnapshotEdit) -> Option<Receded> {
    let was = base.in_force(&Pattern::Default)?;
    let (id, tls) = (was.target.certificate_id()?, was.tls()?.clone());
    let next = edit.settled();
    let is = next.in_force(&Pattern::Default);
    let successor = is.as_ref().and_then(|binding| binding.target.certificate_id()).cloned();
    let stays = next.certificate(id).filter(|after| after.objects().any(|other| Arc::ptr_eq(other, &tls)))?;
    if successor.as_ref() == Some(id) {
        return None;
    }
    let fresh = maker.without(&stays, |other| Arc::ptr_eq(other, &tls));
    let bindings = next.bindings_of(id);
    edit.put_certificate(fresh.clone());
    for binding in bindings {
        edit.bind(Binding { target: Target::Certificate(fresh.clone()), ..Binding::clone(&binding) });
    }
    Some(Receded { certificate: stays, tls, successor })
}

impl Inner {
    /// Publishes what `edit` makes of `base`, and retires what is covered project-wide from then on, as `drain` says. The
    /// caller holds the project's writer lock, has stored all of it, and retires whatever else ends.
    pub(super) fn publish(&self, project: &Project, base: &Snapshot, mut edit: SnapshotEdit, drain: Drain) {
        let receded = recede(&self.maker.load_full(), base, &mut edit);
        project.publish(edit.finish());
        if let Some(Receded { certificate, tls, successor }) = receded {
            let grace =
                if successor.is_some() { Grace::of_replaced(&self.limits) } else { Grace::of_deleted(&self.limits) };
            let objects = [&tls].into_iter();
            retire_objects(project, &certificate, objects, successor.as_ref(), drain, grace);
        }
    }
}

/// When something is put in a place: now, and project-wide later than whatever is there, however the clock moves.
pub(super) fn stamp(snapshot: &Snapshot, pattern: &Pattern) -> OffsetDateTime {
    let now = clock::now();
    if *pattern != Pattern::Default {
        return whole_second(now);
    }
    let now = now.replace_nanosecond(now.microsecond() * 1000).unwrap_or(now);
    let bound = snapshot.binding(pattern).map(|binding| binding.since);
    let held = snapshot.roster().held.iter().map(|held| held.since).max();
    [bound, held].into_iter().flatten().max().map_or(now, |latest| now.max(latest + time::Duration::microseconds(1)))
}

fn whole_second(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).unwrap_or(at)
}
