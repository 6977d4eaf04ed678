//! The lists of a project's zone: certificates that stay until they are deleted there, whatever names them.
//!
//! What must stay true: the certificate's record and the list's entry come and go in one commit; what is in force
//! project-wide follows from the list (`registry::Snapshot::zone`), so nothing here says it a second time.

use std::sync::{Arc, Mutex};

use zeroize::Zeroizing;

use super::apply::Facts;
use super::certificates::{file_of, new_id_of, not_declared, takes_changes, takes_uploads, whole};
use super::layers::stamp;
use super::quietly::judged;
use super::records::{BindingRecord, CertificateRecord};
use super::store::Write;
use super::{Control, ControlError, Drain, Inner};
use crate::domain::{CertificateId, Holder, Pattern, PortRule, ProjectId, Source, time as clock};
use crate::observe::{Event, EventKind};
use crate::pki::validate::{Material, validate};
use crate::registry::{
    Association, Binding, Certificate, Held, Project, Retired, Roster, Snapshot, SnapshotEdit, Target, Token,
    UNREADABLE_ID,
};

/// A certificate for one of a zone's lists. Wiped when dropped.
pub struct HeldUpload {
    /// Client chain, PEM.
    pub cert: Zeroizing<String>,
    /// Private key, PEM.
    pub key: Zeroizing<String>,
    /// Whose upload it is.
    pub by: Arc<Token>,
    /// The client says that it tried the same before and heard no answer.
    pub retry: bool,
}

/// What was deleted.
#[derive(Debug)]
pub struct Released {
    /// Its id.
    pub id: CertificateId,
    /// The certificate; `None` if its record was damaged.
    pub certificate: Option<Arc<Certificate>>,
    /// How many connections of it are still finishing.
    pub connections: usize,
}

/// Stored and not yet published (`pending_deployment`).
#[derive(Debug, Clone)]
pub struct Deploying {
    /// Its list.
    pub holder: Holder,
    /// The certificate.
    pub certificate: Arc<Certificate>,
}

/// What is stored and not published yet: one certificate per project at most, since that has one writer at a time.
#[derive(Default)]
pub(super) struct Deployment(Mutex<Vec<(ProjectId, Deploying)>>);

impl Deployment {
    /// From now until the guard is dropped.
    pub(super) fn enter(&self, project: &ProjectId, certificate: &Arc<Certificate>) -> Underway<'_> {
        let (holder, certificate) = (certificate.info.holder, certificate.clone());
        let id = certificate.info.id.clone();
        let mut all = self.0.lock().expect("nothing panics while holding it");
        all.push((project.clone(), Deploying { holder, certificate }));
        Underway { all: self, id }
    }
}

/// Ends it.
pub(super) struct Underway<'a> {
    all: &'a Deployment,
    id: CertificateId,
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().expect("nothing panics while holding it");
        all.retain(|(_, deploying)| deploying.certificate.info.id != self.id);
    }
}

impl Control {
    /// Takes a certificate into one of the zone's lists ([`Holder::Zone`], [`Holder::Hostnames`]). A zone certificate is
    /// presented project-wide from then on, if the zone is on; one for hostnames as soon as one names it.
    ///
    /// A certificate that the client says it sends again, and that the same token stored there less than
    /// `limits.create_retry_window` ago, is answered with and nothing changes.
    ///
    /// # Errors
    /// Every fault of the material at once; the same certificate in the list; a full list; a file that declares the
    /// project-wide certificate, while the zone is on; the project's state; sealing and storing.
    pub async fn hold(
        &self,
        project: &Arc<Project>,
        holder: Holder,
        upload: HeldUpload,
    ) -> Result<Arc<Certificate>, ControlError> {
        takes_uploads(&project.load())?;
        let (inner, project) = (self.inner.clone(), project.clone());
        whole(async move { inner.hold(&project, holder, upload).await }).await
    }

    /// Deletes a certificate that one of the zone's lists shows, by its id or its 32 hex digits. With a zone
    /// certificate its bindings go, and the next newest takes over; a certificate for hostnames must not be in use.
    ///
    /// # Errors
    /// An unknown id, one that was deleted and is finishing, one of another list; what is in use; a declared certificate;
    /// the project's state; storing.
    pub async fn release(
        &self,
        project: &Arc<Project>,
        holder: Holder,
        id: &CertificateId,
    ) -> Result<Released, ControlError> {
        let (inner, project, id) = (self.inner.clone(), project.clone(), id.clone());
        whole(async move { inner.release_from(&project, holder, &id).await }).await
    }

    /// Says whether the newest zone certificate is presented project-wide. Saying it again changes nothing.
    ///
    /// # Errors
    /// Switching it on where a file declares the project-wide certificate; the project's state; storing.
    pub async fn set_zone(&self, project: &Arc<Project>, enabled: bool) -> Result<(), ControlError> {
        let (inner, project) = (self.inner.clone(), project.clone());
        whole(async move { inner.set_zone(&project, enabled).await }).await
    }

    /// What is stored in lists of this project and not published yet.
    #[must_use]
    pub fn deploying(&self, project: &ProjectId) -> Vec<Deploying> {
        let all = self.inner.deploying.0.lock().expect("nothing panics while holding it");
        all.iter().filter(|(of, _)| of == project).map(|(_, deploying)| deploying.clone()).collect()
    }
}

impl Inner {
    async fn hold(
        &self,
        project: &Arc<Project>,
        holder: Holder,
        upload: HeldUpload,
    ) -> Result<Arc<Certificate>, ControlError> {
        let (upload, valid) = judged(move || {
            let material = Material { cert: &upload.cert, key: &upload.key, ca: None, skip_validation: false };
            let valid = validate(material, clock::now())?;
            Ok((upload, valid))
        })
        .await?;
        let id = new_id_of(CertificateId::bare)?;

        let _writer = project.write().await;
        let snapshot = project.snapshot();
        takes_uploads(&snapshot)?;
        let roster = snapshot.roster();
        if let Some((held, same)) = twin(&snapshot, holder, &valid.digest) {
            let is_recent = clock::now() - held.since <= self.limits.create_retry_window();
            let is_retried = upload.retry && held.by == upload.by.id && is_recent;
            return if is_retried { Ok(same) } else { Err(ControlError::Duplicate(held.id.clone())) };
        }
        let is_presented = holder == Holder::Zone && roster.zone_enabled;
        if is_presented {
            not_declared(&snapshot, &Pattern::Default)?;
        }
        let most = self.limits.max_zone_certificates();
        if roster.of(holder).count() >= most {
            self.metrics.store_limits_reached.add();
            let what = if holder == Holder::Zone {
                "certificates in the zone's own list"
            } else {
                "hostname certificates in the zone"
            };
            return Err(ControlError::Full { limit: "max_zone_certificates", most, what });
        }
        let facts = Facts {
            id: id.clone(),
            cert_pem: String::clone(&upload.cert),
            ca_pem: String::new(),
            uploaded_at: clock::now().replace_nanosecond(0).unwrap_or_else(|_| clock::now()),
            skip_validation: false,
            warnings: None,
            source: Source::Api,
            holder,
        };
        let certificate = self.maker.load_full().certificate(snapshot.info(), snapshot.vouching(), valid, facts);
        let record = CertificateRecord {
            cert: String::clone(&upload.cert),
            ca: String::new(),
            key: Zeroizing::new(String::clone(&upload.key)),
            skip_validation: false,
            uploaded_at: certificate.info.uploaded_at,
            warnings: certificate.info.warnings.clone(),
        };
        let mut roster = Roster::clone(roster);
        let since = stamp(&snapshot, &Pattern::Default);
        roster.held.push(Held { id: id.clone(), holder, since, by: upload.by.id.clone() });
        let mut writes = vec![
            Write::Put(self.store.certificate_key(project.id(), &id), record.to_bytes()),
            self.store.roster_write(project.id(), &roster),
        ];
        drop(record);
        writes.extend(self.store.project_record(snapshot.info()));
        self.store.write(writes).await?;
        self.store.note_unsettled(project.id(), &roster);

        let underway = self.deploying.enter(project.id(), &certificate);
        let mut edit = snapshot.edit();
        edit.put_certificate(certificate.clone());
        edit.set_roster(roster);
        self.publish(project, &snapshot, edit, Drain::Grace);
        drop(underway);
        let list = holder.as_str();
        tracing::info!(project = %project.id(), list, certificate = %id, "certificate uploaded to a list of the zone");
        let words = match holder {
            Holder::Zone => "a certificate was uploaded for the zone",
            _ => "a certificate was uploaded for hostnames of the zone",
        };
        let event = Event::new(EventKind::CertificateUploaded, words).about(project.id(), &id);
        self.events.emit(if is_presented { event.at_origin(&Pattern::Default) } else { event });
        Ok(certificate)
    }

    async fn release_from(
        &self,
        project: &Arc<Project>,
        holder: Holder,
        id: &CertificateId,
    ) -> Result<Released, ControlError> {
        let _writer = project.write().await;
        let snapshot = project.snapshot();
        takes_changes(&snapshot)?;
        let Some(id) = self.known(&snapshot, id) else {
            return Err(ending(project, holder, id).unwrap_or(ControlError::NotFound("certificate")));
        };
        let lists = self.lists(&snapshot, &id);
        if !lists.contains(&holder) {
            let wrong = |held: &Holder| ControlError::WrongList { held: *held, wanted: holder };
            return Err(lists.first().map_or(ControlError::NotFound("certificate"), wrong));
        }
        let certificate = snapshot.certificate(&id);
        // What a file declares it also binds: no hostname that lets go of it would make it go.
        if let Some(file) = certificate.as_ref().and_then(|certificate| file_of(&certificate.info.source)) {
            return Err(ControlError::Declared(format!("certificate {id}"), file));
        }
        let is_zones = certificate.as_ref().map(|c| c.info.holder) == Some(Holder::Zone)
            || snapshot.roster().entry(&id).is_some_and(|held| held.holder == Holder::Zone);
        if !is_zones {
            let mut uses = self.named_at(project, &snapshot, &id);
            uses.retain(|pattern| holder != Holder::Zone || *pattern != Pattern::Default);
            if !uses.is_empty() {
                return Err(ControlError::InUse(in_use(&uses)));
            }
        }
        self.delete_held(project, &id, Drain::Grace).await?;
        // With those that were left over when hostnames let go of it, or something went before it.
        let left = project.retired().into_iter().filter(|retired| retired.id == id);
        let connections = left.map(|retired| retired.connections()).sum();
        Ok(Released { id, certificate, connections })
    }

    async fn set_zone(&self, project: &Arc<Project>, enabled: bool) -> Result<(), ControlError> {
        let _writer = project.write().await;
        let snapshot = project.snapshot();
        takes_changes(&snapshot)?;
        let roster = snapshot.roster();
        if roster.zone_enabled == enabled && !roster.damaged {
            return Ok(());
        }
        if enabled {
            not_declared(&snapshot, &Pattern::Default)?;
        }
        let roster = Roster { zone_enabled: enabled, damaged: false, ..Roster::clone(roster) };
        let mut writes = vec![self.store.roster_write(project.id(), &roster)];
        writes.extend(self.store.project_record(snapshot.info()));
        self.store.write(writes).await?;

        let mut edit = snapshot.edit();
        edit.set_roster(roster);
        self.publish(project, &snapshot, edit, Drain::Grace);
        tracing::info!(project = %project.id(), enabled, "zone certificates switched");
        Ok(())
    }

    /// The places whose bindings name a certificate or, presenting nothing, remember it; those that a declared binding
    /// covers included. What the zone presents by itself is not among them.
    pub(super) fn named_at(&self, project: &Project, snapshot: &Snapshot, id: &CertificateId) -> Vec<Pattern> {
        let bound = snapshot.bindings_of(id).into_iter().filter(|binding| !binding.derived);
        let mut places: Vec<_> = bound.map(|binding| binding.pattern.clone()).collect();
        places.extend(self.remembered_at(project, snapshot, id));
        let names = |binding: &Arc<Binding>| named(binding) == Some(id);
        places.extend(self.covered(project.id()).into_values().filter(names).map(|binding| binding.pattern.clone()));
        places.sort();
        places.dedup();
        places
    }

    /// The places that present nothing and remember a certificate, those that a declared binding covers included.
    pub(super) fn remembered_at(&self, project: &Project, snapshot: &Snapshot, id: &CertificateId) -> Vec<Pattern> {
        let covered: Vec<_> = self.covered(project.id()).into_values().collect();
        let all = [snapshot.bindings(), covered];
        all.iter().flat_map(|bindings| remembering(bindings, id)).map(|binding| binding.pattern.clone()).collect()
    }

    /// The certificate that a caller means who may have left the prefix of its id out, or written one that it does not have.
    pub(super) fn known(&self, snapshot: &Snapshot, id: &CertificateId) -> Option<CertificateId> {
        let is_known = |id: &CertificateId| {
            id.as_str() != UNREADABLE_ID
                && (snapshot.certificate(id).is_some()
                    || snapshot.roster().entry(id).is_some()
                    || snapshot.is_bound(id)
                    || self.is_of_account(snapshot, id))
        };
        if is_known(id) {
            return Some(id.clone());
        }
        let digits = id.hex()?;
        let other = if id.as_str() == digits { format!("cert_{digits}") } else { digits.to_owned() };
        CertificateId::parse(&other).filter(is_known)
    }

    /// The lists that show a certificate which the project knows. One of the project's own is shown by the place that it is
    /// bound to, so that it may be in both of a zone's; and, once nothing names it, among those that hostnames may name.
    pub(super) fn lists(&self, snapshot: &Snapshot, id: &CertificateId) -> Vec<Holder> {
        // Of whatever account: the project may carry another one since it was bound.
        if self.accounts.home(id).is_some() {
            return vec![Holder::Account];
        }
        let certificate = snapshot.certificate(id).map(|certificate| certificate.info.holder);
        let held = certificate.filter(|holder| *holder != Holder::Project);
        if let Some(holder) = held.or_else(|| snapshot.roster().entry(id).map(|held| held.holder)) {
            return vec![holder];
        }
        let bound = snapshot.bindings_of(id).into_iter().map(|binding| binding.pattern.clone());
        let places: Vec<_> = bound.chain(self.shadowed_in(&snapshot.info().id, id)).collect();
        if places.is_empty() {
            return vec![Holder::Hostnames];
        }
        let shown = |pattern: &Pattern| match pattern {
            Pattern::Default => Some(Holder::Zone),
            Pattern::Host(_, PortRule::Any) => Some(Holder::Hostnames),
            Pattern::Host(..) | Pattern::Wildcard(..) => None,
        };
        places.iter().filter_map(shown).collect()
    }

    fn is_of_account(&self, snapshot: &Snapshot, id: &CertificateId) -> bool {
        let account = snapshot.info().account_id.as_deref();
        account.is_some() && self.accounts.home(id).as_deref() == account
    }
}

/// The certificate of a list that is of the same chain and key.
fn twin<'a>(snapshot: &'a Snapshot, holder: Holder, digest: &[u8; 32]) -> Option<(&'a Held, Arc<Certificate>)> {
    let of = |held: &'a Held| Some((held, snapshot.certificate(&held.id)?));
    snapshot.roster().of(holder).filter_map(of).find(|(_, certificate)| certificate.digest == *digest)
}

/// What is said of a certificate that is not there any more and whose connections are: of all that was made under it.
fn ending(project: &Project, holder: Holder, id: &CertificateId) -> Option<ControlError> {
    let is_same = |other: &CertificateId| other == id || (id.hex().is_some() && other.hex() == id.hex());
    let of_list = |held: Holder| held == holder || held == Holder::Project;
    let mut left = project.retired();
    left.retain(|retired| is_same(&retired.id) && of_list(retired.info.holder));
    let until = left.iter().map(Retired::last_deadline).max()?;
    let connections = left.iter().map(Retired::connections).sum();
    Some(ControlError::Ending(left[0].id.clone(), connections, until))
}

/// Places that are named in one refusal at most.
const MAX_NAMED: usize = 10;

fn in_use(places: &[Pattern]) -> String {
    let name = |pattern: &Pattern| match pattern {
        Pattern::Host(host, PortRule::Any) => format!("hostname {host}"),
        other => format!("binding {other}"),
    };
    let mut named: Vec<_> = places.iter().take(MAX_NAMED).map(name).collect();
    if places.len() > MAX_NAMED {
        named.push(format!("and {} more", places.len() - MAX_NAMED));
    }
    format!(
        "the certificate is in use by {}; set enabled of its hostnames to null or give them another certificate, remove other bindings, and delete it then",
        named.join(", ")
    )
}

/// What changes beside its bindings when a certificate leaves its list.
#[derive(Default)]
pub(super) struct Unlisted {
    roster: Option<Roster>,
    /// Associations that merely remembered it, as they are from now on.
    bindings: Vec<Binding>,
    /// The same where a declared binding covers them.
    covered: Vec<Binding>,
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
        let forgetful = |binding: &Binding| {
            let association = binding.association.clone().map(|known| Association { certificate: None, ..known });
            Binding { association, ..binding.clone() }
        };
        unlisted.bindings.extend(remembering(&snapshot.bindings(), id).map(forgetful));
        let covered: Vec<_> = self.covered(project.id()).into_values().collect();
        unlisted.covered.extend(remembering(&covered, id).map(forgetful));
        for binding in unlisted.bindings.iter().chain(&unlisted.covered) {
            let key = self.store.binding_key(project.id(), &binding.pattern);
            writes.push(Write::Put(key, BindingRecord::of(binding).to_bytes()));
        }
        unlisted
    }

    /// Puts it in the next snapshot, once it is stored.
    pub(super) fn apply_unlisted(&self, project: &Project, unlisted: Unlisted, edit: &mut SnapshotEdit) {
        let Unlisted { roster, bindings, covered } = unlisted;
        if let Some(roster) = roster {
            self.store.note_unsettled(project.id(), &roster);
            edit.set_roster(roster);
        }
        for binding in bindings {
            edit.bind(binding);
        }
        let mut shadowed = self.shadowed.lock().expect("nothing panics while holding it");
        if let Some(of_project) = shadowed.get_mut(project.id()) {
            of_project.extend(covered.into_iter().map(|binding| (binding.pattern.clone(), Arc::new(binding))));
        }
    }
}

/// The certificate that a binding names, or presenting nothing remembers.
pub(super) fn named(binding: &Binding) -> Option<&CertificateId> {
    let remembered = || binding.association.as_ref()?.certificate.as_ref();
    binding.target.certificate_id().or_else(remembered)
}

/// Of these the associations that name a certificate and present nothing.
fn remembering<'a>(bindings: &'a [Arc<Binding>], id: &'a CertificateId) -> impl Iterator<Item = &'a Binding> {
    let remembers = |binding: &&Arc<Binding>| matches!(binding.target, Target::None) && named(binding) == Some(id);
    bindings.iter().filter(remembers).map(|binding| &**binding)
}
