//! The two layers of the project-wide place: what was bound to it, and the newest certificate of the project's zone.
//!
//! What must stay true:
//! - what a file declares is in force; else what came later; a damaged record of either never lets the other one through;
//! - the zone's binding follows from roster and certificates, has no record of its own, and is made anew by
//!   [`SnapshotEdit::finish`]: writing it changes nothing.

use std::sync::Arc;

use time::OffsetDateTime;

use super::{Snapshot, SnapshotEdit};
use crate::domain::{CertificateId, Holder, Pattern, Source};
use crate::registry::{Binding, Held, Roster, Target, UNREADABLE_ID, Unavailable};

impl Snapshot {
    /// What the lists of the project say.
    #[must_use]
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// The binding by which the zone presents its newest certificate project-wide, in force or covered by a later one.
    #[must_use]
    pub fn zone(&self) -> Option<&Arc<Binding>> {
        self.zone.as_ref()
    }

    /// The binding of exactly this pattern that is in force: of two project-wide ones the one that is selected.
    #[must_use]
    pub fn in_force(&self, pattern: &Pattern) -> Option<Arc<Binding>> {
        if *pattern == Pattern::Default { self.wide.clone() } else { self.binding(pattern) }
    }

    /// Whether this certificate is selected anywhere: a binding names it that does not stand aside.
    #[must_use]
    pub fn is_presented(&self, id: &CertificateId) -> bool {
        let Some(patterns) = self.uses.get(id.as_str()) else { return false };
        let is_wide = || self.wide.as_ref().is_some_and(|wide| wide.target.certificate_id() == Some(id));
        patterns.iter().any(|pattern| *pattern != Pattern::Default || is_wide())
    }

    /// Where this certificate is selected, in the order of [`Snapshot::bindings`].
    #[must_use]
    pub fn presented_at(&self, id: &CertificateId) -> Vec<Pattern> {
        let in_force = |binding: &Arc<Binding>| self.covered().is_none_or(|covered| !Arc::ptr_eq(covered, binding));
        self.bindings_of(id).into_iter().filter(in_force).map(|binding| binding.pattern.clone()).collect()
    }

    /// The project-wide binding that stands aside because another one is in force.
    #[must_use]
    pub fn covered(&self) -> Option<&Arc<Binding>> {
        let wide = self.wide.as_ref()?;
        [&self.default, &self.zone].into_iter().flatten().find(|binding| !Arc::ptr_eq(binding, wide))
    }

    /// The project-wide binding that is in force in this certificate's stead: it is bound project-wide itself, or the zone
    /// would present it if nothing else came later.
    #[must_use]
    pub fn covering(&self, id: &CertificateId) -> Option<&Arc<Binding>> {
        let wide = self.wide.as_ref().filter(|wide| wide.target.certificate_id() != Some(id))?;
        let is_bound = || self.covered().is_some_and(|covered| covered.target.certificate_id() == Some(id));
        let is_zones = self.roster.zone_enabled && self.roster.of(Holder::Zone).any(|held| held.id == *id);
        (is_zones || is_bound()).then_some(wide)
    }

    /// The binding of this pattern that names this certificate.
    pub(super) fn naming(&self, pattern: &Pattern, id: &CertificateId) -> Option<Arc<Binding>> {
        let names = |binding: &Arc<Binding>| binding.target.certificate_id() == Some(id);
        match pattern {
            Pattern::Default => [&self.default, &self.zone].into_iter().flatten().find(|b| names(b)).cloned(),
            _ => self.binding(pattern),
        }
    }
}

impl SnapshotEdit {
    /// Sets what the lists of the project say.
    pub fn set_roster(&mut self, roster: Roster) {
        self.next.roster = Arc::new(roster);
    }

    /// Makes the layers what roster, certificates and bindings say by now.
    pub(super) fn settle(&mut self) {
        let wanted = self.zone_wanted();
        let next = &mut self.next;
        let unchanged = match (&next.zone, &wanted) {
            (Some(old), Some((target, since))) => old.since == *since && is_same(&old.target, target),
            (None, None) => true,
            _ => false,
        };
        if !unchanged {
            if let Some(old) = next.zone.take() {
                let id = old.target.certificate_id();
                // What was bound there may have come to name the same one.
                if next.default.as_ref().and_then(|b| b.target.certificate_id()) != id {
                    self.unuse(&old);
                }
            }
            if let Some((target, since)) = wanted {
                let binding = Arc::new(derived(target, since));
                // Made here if need be: see `Tls13Objects`.
                let _ = binding.tls();
                self.note_use(&binding);
                self.next.zone = Some(binding);
            }
        }
        let next = &mut self.next;
        next.wide = match (&next.default, &next.zone) {
            (Some(own), Some(zone)) => Some(if goes_first(own, zone) { own } else { zone }.clone()),
            (own, zone) => own.as_ref().or(zone.as_ref()).cloned(),
        };
    }

    /// What the zone presents, and since when it was uploaded.
    fn zone_wanted(&self) -> Option<(Target, OffsetDateTime)> {
        let next = &self.next;
        if next.roster.damaged {
            let why = "the stored record of the project's lists is damaged; upload the zone's certificates again, and then switch the zone on or off anew";
            return Some((unavailable(&unreadable(), why), OffsetDateTime::UNIX_EPOCH));
        }
        let Held { id, since, .. } = next.roster.newest_of_zone()?;
        if next.default.as_ref().and_then(|b| b.target.certificate_id()) == Some(id) {
            return None;
        }
        let target = match next.certificates.get(id.as_str()) {
            Some(certificate) => Target::Certificate(certificate.clone()),
            None => unavailable(
                id,
                "the stored record of this zone certificate is damaged; upload it again, then delete this one",
            ),
        };
        Some((target, *since))
    }
}

/// Whether what was bound to the project-wide place goes before what the zone presents there.
fn goes_first(own: &Binding, zone: &Binding) -> bool {
    own.source != Source::Api || is_unreadable(own) || (!is_unreadable(zone) && own.since > zone.since)
}

fn is_unreadable(binding: &Binding) -> bool {
    binding.target.certificate_id().is_some_and(|id| id.as_str() == UNREADABLE_ID)
}

fn unreadable() -> CertificateId {
    CertificateId::parse(UNREADABLE_ID).expect("the constant is a well-formed id")
}

fn unavailable(id: &CertificateId, why: &str) -> Target {
    Target::Unavailable(Unavailable { id: id.clone(), why: why.to_owned() })
}

fn is_same(a: &Target, b: &Target) -> bool {
    match (a, b) {
        (Target::Certificate(a), Target::Certificate(b)) => Arc::ptr_eq(a, b),
        (Target::Unavailable(a), Target::Unavailable(b)) => a == b,
        _ => false,
    }
}

fn derived(target: Target, since: OffsetDateTime) -> Binding {
    Binding {
        pattern: Pattern::Default,
        target,
        source: Source::Api,
        since,
        lift: true,
        tls13_only: false,
        previous: None,
        association: None,
        derived: true,
    }
}

#[cfg(test)]
mod tests;
