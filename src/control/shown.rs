//! What the lists of a zone show, for the dialect that has lists.
//!
//! Read from what is in force: nothing here is remembered.

use std::collections::BTreeMap;
use std::sync::Arc;

use time::OffsetDateTime;

use super::held::named;
use super::{Control, ControlError};
use crate::domain::{CertificateId, CertificateInfo, Holder, Host, Pattern, PortRule};
use crate::registry::{Binding, Certificate, Project, Snapshot, Target, UNREADABLE_ID};

/// How far something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deployment {
    /// It is stored, and not in force yet: the snapshot is about to be published, or a declared binding covers it.
    Pending,
    /// Every thread of the data plane acts by it.
    Active,
    /// It could not be loaded.
    Failed,
    /// It was deleted, and so many connections of it are finishing.
    Ending(usize),
}

/// A certificate that a list shows.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Its id.
    pub id: CertificateId,
    /// What is known of it; `None` if it could not be loaded.
    pub info: Option<Arc<CertificateInfo>>,
    /// Its chain as uploaded, byte for byte.
    pub pem: Option<String>,
    /// How far it is.
    pub deployment: Deployment,
    /// Since when it is in the list.
    pub since: OffsetDateTime,
}

/// A hostname and the certificate that is named for it.
#[derive(Debug, Clone)]
pub struct Associated {
    /// Which one; it stands for every port of it.
    pub hostname: Host,
    /// Whether the certificate is presented; else none is, whatever is presented project-wide.
    pub enabled: bool,
    /// The certificate that is named, if it is known which one.
    pub id: Option<CertificateId>,
    /// The certificate, if it is loaded.
    pub certificate: Option<Arc<Certificate>>,
    /// How far it is.
    pub deployment: Deployment,
    /// When the hostname was first associated.
    pub created_at: OffsetDateTime,
    /// When that last changed.
    pub updated_at: OffsetDateTime,
}

impl From<&Certificate> for Shown {
    /// One whose upload has just been answered.
    fn from(certificate: &Certificate) -> Self {
        Self::active(certificate, certificate.info.uploaded_at)
    }
}

impl Shown {
    /// One that is in force, or may be; in its list since `since`.
    fn active(certificate: &Certificate, since: OffsetDateTime) -> Self {
        Self {
            id: certificate.info.id.clone(),
            info: Some(certificate.info.clone()),
            pem: Some(certificate.cert_pem.clone()),
            deployment: Deployment::Active,
            since,
        }
    }

    /// One that is known, loaded or not.
    fn known(snapshot: &Snapshot, id: &CertificateId) -> Self {
        let entry = snapshot.roster().entry(id).map(|held| held.since);
        if let Some(certificate) = snapshot.certificate(id) {
            let since = entry.unwrap_or(certificate.info.uploaded_at);
            return Self::active(&certificate, since);
        }
        let bound = || snapshot.bindings_of(id).first().map(|binding| binding.since);
        let since = entry.or_else(bound).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Self { id: id.clone(), info: None, pem: None, deployment: Deployment::Failed, since }
    }
}

impl Control {
    /// What one of the zone's lists shows, oldest first: what was uploaded to it, and of the project's own certificates
    /// those that are bound where the list could have bound them. Deleted ones are not among them.
    #[must_use]
    pub fn listed(&self, project: &Project, holder: Holder) -> Vec<Shown> {
        // First what is about to be published: what is not there any more by the next line is in the snapshot.
        let deploying = self.deploying(project.id());
        let snapshot = project.snapshot();
        let held = snapshot.roster().of(holder).map(|held| held.id.clone());
        let loaded = snapshot.certificates().into_iter().map(|certificate| certificate.info.id.clone());
        let unavailable = snapshot.bindings().into_iter().filter_map(|binding| match &binding.target {
            Target::Unavailable(unavailable) if unavailable.id.as_str() != UNREADABLE_ID => {
                Some(unavailable.id.clone())
            }
            _ => None,
        });
        let mut ids: Vec<_> = held.chain(loaded).chain(unavailable).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| self.inner.lists(&snapshot, id).contains(&holder));
        let mut shown: Vec<_> = ids.iter().map(|id| Shown::known(&snapshot, id)).collect();
        shown.extend(deploying.into_iter().filter(|d| d.holder == holder).filter_map(|d| {
            let is_new = ids.binary_search(&d.certificate.info.id).is_err();
            let since = d.certificate.info.uploaded_at;
            is_new.then(|| Shown { deployment: Deployment::Pending, ..Shown::active(&d.certificate, since) })
        }));
        shown.sort_by(|a, b| a.since.cmp(&b.since).then_with(|| a.id.cmp(&b.id)));
        shown
    }

    /// A certificate of one of the zone's lists, by its id or its 32 hex digits; also one that was deleted from it, as long
    /// as connections of it are finishing.
    ///
    /// # Errors
    /// An unknown id, one of another list.
    pub fn listed_one(&self, project: &Project, holder: Holder, id: &CertificateId) -> Result<Shown, ControlError> {
        let is_same = |other: &CertificateId| other == id || (id.hex().is_some() && other.hex() == id.hex());
        let deploying = self.deploying(project.id());
        let snapshot = project.snapshot();
        if let Some(id) = self.inner.known(&snapshot, id) {
            let lists = self.inner.lists(&snapshot, &id);
            return match lists.first() {
                _ if lists.contains(&holder) => Ok(Shown::known(&snapshot, &id)),
                Some(held) => Err(ControlError::WrongList { held: *held, wanted: holder }),
                None => Err(ControlError::NotFound("certificate")),
            };
        }
        if let Some(new) = deploying.into_iter().find(|d| d.holder == holder && is_same(&d.certificate.info.id)) {
            let since = new.certificate.info.uploaded_at;
            return Ok(Shown { deployment: Deployment::Pending, ..Shown::active(&new.certificate, since) });
        }
        let ended = project.retired().into_iter().rev().find(|retired| is_same(&retired.id));
        let ended = ended.filter(|retired| [holder, Holder::Project].contains(&retired.info.holder));
        let ended = ended.ok_or(ControlError::NotFound("certificate"))?;
        Ok(Shown {
            deployment: Deployment::Ending(ended.connections()),
            since: ended.info.uploaded_at,
            id: ended.id,
            info: Some(ended.info),
            pem: Some(ended.pem.to_string()),
        })
    }

    /// Every hostname association of the project's zone, by hostname: those that were written as such, and the bindings of
    /// `https://hostname:*` that were written otherwise.
    #[must_use]
    pub fn associations(&self, project: &Project) -> Vec<Associated> {
        let snapshot = project.snapshot();
        let mut all = BTreeMap::new();
        for binding in snapshot.bindings() {
            if let Pattern::Host(hostname, PortRule::Any) = &binding.pattern {
                all.insert(binding.pattern.clone(), Associated::of(&snapshot, hostname, &binding, false));
            }
        }
        for (pattern, binding) in self.inner.covered(project.id()) {
            if let Pattern::Host(hostname, PortRule::Any) = &pattern {
                let associated = Associated::of(&snapshot, hostname, &binding, true);
                all.insert(pattern, associated);
            }
        }
        all.into_values().collect()
    }

    /// The association of one hostname, as [`Control::associations`] has it.
    #[must_use]
    pub fn association(&self, project: &Project, hostname: &Host) -> Option<Associated> {
        let snapshot = project.snapshot();
        let pattern = Pattern::Host(hostname.clone(), PortRule::Any);
        if let Some(covered) = self.inner.covered(project.id()).get(&pattern) {
            return Some(Associated::of(&snapshot, hostname, covered, true));
        }
        // Of one whose record is damaged nothing is known but that it is there, and goes before what the project presents.
        let damaged = || snapshot.is_quarantined(&pattern).then(|| Arc::new(Binding::damaged(pattern.clone())));
        let binding = snapshot.binding(&pattern).or_else(damaged)?;
        Some(Associated::of(&snapshot, hostname, &binding, false))
    }
}

impl Associated {
    fn of(snapshot: &Snapshot, hostname: &Host, binding: &Binding, is_covered: bool) -> Self {
        let id = named(binding).filter(|id| id.as_str() != UNREADABLE_ID).cloned();
        let certificate = match &binding.target {
            Target::Certificate(certificate) => Some(certificate.clone()),
            Target::None => id.as_ref().and_then(|id| snapshot.certificate(id)),
            Target::Unavailable(_) => None,
        };
        let deployment = match &binding.target {
            _ if is_covered => Deployment::Pending,
            Target::Unavailable(_) => Deployment::Failed,
            Target::Certificate(_) | Target::None => Deployment::Active,
        };
        Self {
            hostname: hostname.clone(),
            enabled: !matches!(binding.target, Target::None),
            id,
            certificate,
            deployment,
            created_at: binding.association.as_ref().map_or(binding.since, |known| known.created_at),
            updated_at: binding.since,
        }
    }
}
