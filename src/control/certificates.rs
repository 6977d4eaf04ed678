//! Uploads, deletes and bindings: the dialect-free half of the management API.
//!
//! Every change goes: writer lock, checks, store, publish, retire, answer. What comes after the store is not
//! interrupted by an `await`, and the whole runs in a task of its own, so a caller that goes away cannot leave
//! memory behind the store.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::apply::{Facts, Grace, retire, retire_objects};
use super::layers::stamp;
use super::quietly::judged;
use super::records::{BindingRecord, CertificateRecord};
use super::rollback::LetGo;
use super::stage::Tried;
use super::store::Write;
use super::{Control, ControlError, Drain, Inner, Properties, Upload, Uploaded};
use crate::domain::{CertificateId, Holder, Pattern, ProjectState, Source, time as clock};
use crate::observe::{Event, EventKind};
use crate::pki::validate::{Material, ValidCertificate, validate};
use crate::registry::{Binding, Certificate, Project, Snapshot, Target, UNREADABLE_ID};

impl Control {
    /// Uploads a certificate and binds it.
    ///
    /// Equal material for the same slot answers with the certificate that is there and changes nothing. A certificate
    /// that it displaces, and that no other binding names, is removed and retired.
    ///
    /// # Errors
    /// Every fault of the material at once; the project's state; a declared slot; sealing and storing.
    pub async fn upload(&self, project: &Arc<Project>, upload: Upload, drain: Drain) -> Result<Uploaded, ControlError> {
        takes_uploads(&project.load())?;
        not_declared(&project.load(), &upload.pattern)?;
        let (inner, project) = (self.inner.clone(), project.clone());
        whole(async move {
            let (upload, valid) = validated(upload).await?;
            let certificate = inner.made(&project.snapshot(), &upload, valid)?;
            inner.place(&project, upload, certificate, drain, None).await
        })
        .await
    }

    /// Deletes a certificate and all its bindings; gives back the patterns (by order of [`Snapshot::bindings`]).
    ///
    /// # Errors
    /// An unknown id, a declared certificate, the project's state, storing.
    pub async fn delete(
        &self,
        project: &Arc<Project>,
        id: &CertificateId,
        drain: Drain,
    ) -> Result<Vec<Pattern>, ControlError> {
        let (inner, project, id) = (self.inner.clone(), project.clone(), id.clone());
        whole(async move { inner.delete(&project, &id, drain).await }).await
    }

    /// Binds an existing certificate, or *none*, to a pattern. True if the slot was occupied.
    ///
    /// What of `wanted` is left out stays as it is. When this has answered, no connection that was made before a
    /// change of [`Properties::tls13_only`] takes a new request of that pattern.
    ///
    /// # Errors
    /// An unknown certificate, TLS 1.3 only for *none*, a declared slot, the project's state, storing.
    pub async fn bind(
        &self,
        project: &Arc<Project>,
        pattern: Pattern,
        certificate: Option<&CertificateId>,
        wanted: Properties,
    ) -> Result<bool, ControlError> {
        let (inner, project, certificate) = (self.inner.clone(), project.clone(), certificate.cloned());
        whole(async move {
            // What an account has must not leave it meanwhile. Nobody knows an id before the upload has answered.
            let account = certificate.as_ref().and_then(|id| inner.accounts.home(id));
            let _account = match &account {
                Some(account) => Some(inner.account_locks.lock(account).await),
                None => None,
            };
            let _writer = project.write().await;
            inner.bind(&project, pattern, certificate, wanted, Drain::Grace).await
        })
        .await
    }

    /// Removes a binding (the certificate stays).
    ///
    /// # Errors
    /// No such binding, a declared slot, the project's state, storing.
    pub async fn unbind(&self, project: &Arc<Project>, pattern: &Pattern) -> Result<(), ControlError> {
        let (inner, project, pattern) = (self.inner.clone(), project.clone(), pattern.clone());
        whole(async move { inner.unbind(&project, &pattern, None).await }).await
    }

    /// The same if it names this certificate when its turn has come: what was put there meanwhile stays.
    ///
    /// # Errors
    /// As [`Control::unbind`].
    pub async fn unbind_one(&self, at: (&Arc<Project>, &Pattern), id: &CertificateId) -> Result<(), ControlError> {
        let (inner, project, pattern, id) = (self.inner.clone(), at.0.clone(), at.1.clone(), id.clone());
        whole(async move { inner.unbind(&project, &pattern, Some(&id)).await }).await
    }
}

/// Runs a change to its end, also when the one who asked for it has gone. The task ends by itself: the store answers
/// or fails, and nothing else is waited for.
pub(super) async fn whole<T: Send + 'static>(
    change: impl Future<Output = Result<T, ControlError>> + Send + 'static,
) -> Result<T, ControlError> {
    tokio::spawn(change).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a change ended early");
        Err(ControlError::Storing("egret failed or is ending; see the log".to_owned()))
    })
}

/// An upload whose material can be used, and what it is.
pub(super) async fn validated(upload: Upload) -> Result<(Upload, ValidCertificate), ControlError> {
    judged(move || {
        let material = Material {
            cert: &upload.cert,
            key: &upload.key,
            ca: Some(&upload.ca),
            skip_validation: upload.skip_validation,
        };
        let valid = validate(material, clock::now())?;
        Ok((upload, valid))
    })
    .await
}

impl Inner {
    /// What an upload becomes. Made before anything is stored: what cannot be made must not be acknowledged.
    pub(super) fn made(
        &self,
        project: &Snapshot,
        upload: &Upload,
        valid: ValidCertificate,
    ) -> Result<Arc<Certificate>, ControlError> {
        let facts = Facts {
            id: new_id_of(CertificateId::from_bits)?,
            cert_pem: String::clone(&upload.cert),
            ca_pem: String::clone(&upload.ca),
            uploaded_at: clock::now().replace_nanosecond(0).unwrap_or_else(|_| clock::now()),
            skip_validation: upload.skip_validation,
            warnings: None,
            source: Source::Api,
            holder: Holder::Project,
        };
        Ok(self.maker.load_full().certificate(project.info(), project.vouching(), valid, facts))
    }

    /// The part of an upload that comes after validation. `tried`: where the certificate was tried out, and what the place
    /// held when that began; since then it must not have changed.
    pub(super) async fn place(
        &self,
        project: &Arc<Project>,
        upload: Upload,
        certificate: Arc<Certificate>,
        drain: Drain,
        tried: Option<Tried>,
    ) -> Result<Uploaded, ControlError> {
        let Upload { cert, key, ca, pattern, skip_validation, tls13_only } = upload;
        let id = certificate.info.id.clone();

        let _writer = project.write().await;
        let snapshot = project.snapshot();
        takes_uploads(&snapshot)?;
        not_declared(&snapshot, &pattern)?;
        if tried.as_ref().is_some_and(|tried| tried.is_overtaken(&snapshot, &pattern)) {
            let what = "the origin took the certificate, but its place was changed meanwhile, and what was put there last \
                        stays in force; look at what it is, and upload again if this one is still wanted";
            return Err(ControlError::Field { field: "stage", what: what.to_owned() });
        }
        let existing = snapshot.binding(&pattern);
        let updated = snapshot.in_force(&pattern).is_some() || snapshot.is_quarantined(&pattern);
        if let Some(Target::Certificate(same)) = existing.as_ref().map(|b| &b.target)
            && same.digest == certificate.digest
        {
            let wanted = Properties { tls13_only, ..Properties::default() };
            let id = same.info.id.clone();
            self.bind(project, pattern.clone(), Some(id), wanted, drain).await?;
            return Ok(Uploaded { updated: true, pattern, certificate: same.clone() });
        }
        // With objects of its own, made under the lock: a reload may have changed meanwhile whom the project trusts, and
        // what a probe left behind is nobody's.
        let certificate = self.maker.load_full().anew(snapshot.info(), snapshot.vouching(), &certificate, false);
        let displaced = self.displaced(project, &snapshot, existing.as_deref());
        let previous = self.keep(&snapshot, existing.as_deref(), drain, (displaced.is_some(), tried.map(Tried::at)));
        // One that is not kept here, and is in force nowhere any more, is kept nowhere.
        let ended: Vec<_> = displaced.iter().filter(|_| previous.is_none()).collect();
        let mut let_go = self.let_go(project, &snapshot, std::slice::from_ref(&pattern), &ended);

        let record = CertificateRecord {
            cert: String::clone(&cert),
            ca: String::clone(&ca),
            key: Zeroizing::new(String::clone(&key)),
            skip_validation,
            uploaded_at: certificate.info.uploaded_at,
            warnings: certificate.info.warnings.clone(),
        };
        // A certificate that is renewed changes nothing else of its binding.
        let lift = existing.as_ref().is_none_or(|b| b.lift);
        let tls13_only = tls13_only.unwrap_or_else(|| existing.as_ref().is_some_and(|b| b.tls13_only));
        let binding = Binding {
            pattern: pattern.clone(),
            target: Target::Certificate(certificate.clone()),
            source: Source::Api,
            since: stamp(&snapshot, &pattern),
            lift,
            tls13_only,
            previous,
            association: None,
            derived: false,
        };
        let mut writes = vec![
            Write::Put(self.store.certificate_key(project.id(), &id), record.to_bytes()),
            Write::Put(self.store.binding_key(project.id(), &pattern), BindingRecord::of(&binding).to_bytes()),
        ];
        drop(record);
        writes.append(&mut let_go.writes);
        writes.extend(self.store.project_record(snapshot.info()));
        writes.extend(ended.iter().map(|old| Write::Delete(self.store.certificate_key(project.id(), old))));
        self.store.write(writes).await?;

        let mut edit = snapshot.edit();
        edit.put_certificate(certificate.clone());
        let_go.apply(&self.keeping, project.id(), &mut edit);
        self.keeping.note(project.id(), &binding);
        edit.bind(binding);
        let old = match displaced {
            Some(old) => edit.remove_certificate(&old),
            // It may stay for a binding that a declared one covers, and then nothing in force names it.
            None => existing.and_then(|old| self.loosen(&snapshot, &old, &mut edit)),
        };
        self.publish(project, &snapshot, edit, drain);
        if let Some(old) = old {
            retire(project, &old, Some(&id), drain, Grace::of_replaced(&self.limits));
        }
        tracing::info!(project = %project.id(), %pattern, certificate = %id, updated, "certificate uploaded");
        let words =
            if updated { "a certificate was uploaded in place of another" } else { "a certificate was uploaded" };
        let event = Event::new(EventKind::CertificateUploaded, words).about(project.id(), &id);
        self.events.emit(event.at_origin(&pattern));
        Ok(Uploaded { updated, pattern, certificate })
    }

    async fn delete(
        &self,
        project: &Arc<Project>,
        id: &CertificateId,
        drain: Drain,
    ) -> Result<Vec<Pattern>, ControlError> {
        let _writer = project.write().await;
        self.delete_held(project, id, drain).await
    }

    /// See [`Control::delete`]. The caller holds the project's writer lock.
    pub(super) async fn delete_held(
        &self,
        project: &Arc<Project>,
        id: &CertificateId,
        drain: Drain,
    ) -> Result<Vec<Pattern>, ControlError> {
        let snapshot = project.snapshot();
        takes_changes(&snapshot)?;
        let certificate = snapshot.certificate(id);
        let bindings = snapshot.bindings_of(id);
        if (certificate.is_some() || !bindings.is_empty()) && self.accounts.home(id).is_some() {
            return Err(ControlError::OfAccount(id.clone()));
        }
        let key = self.store.certificate_key(project.id(), id);
        let listed = snapshot.roster().entry(id).is_some();
        // What is only kept to go back to is no certificate of the project.
        let unknown = || self.store.version(&key).is_none() || self.keeping.place_of(project.id(), id).is_some();
        if certificate.is_none() && bindings.is_empty() && !listed && unknown() {
            return Err(ControlError::NotFound("certificate"));
        }
        if id.as_str() == UNREADABLE_ID && bindings.iter().all(|binding| binding.derived) {
            return Err(follows("certId"));
        }
        let sources = certificate.iter().map(|c| &c.info.source).chain(bindings.iter().map(|b| &b.source));
        if let Some(file) = sources.into_iter().find_map(file_of) {
            return Err(ControlError::Declared(format!("certificate {id}"), file));
        }
        let shadowed = self.shadowed_by(project, id);
        let patterns: Vec<_> = bindings.iter().map(|b| b.pattern.clone()).collect();
        let bound: Vec<_> = bindings.iter().filter(|b| !b.derived).map(|b| b.pattern.clone()).collect();
        let places: Vec<_> = bound.iter().chain(&shadowed).cloned().collect();
        let mut let_go = self.let_go(project, &snapshot, &places, &[id]);
        let mut writes = std::mem::take(&mut let_go.writes);
        writes.push(Write::Delete(key));
        writes.extend(places.iter().map(|pattern| Write::Delete(self.store.binding_key(project.id(), pattern))));
        let unlisted = self.unlisted(project, &snapshot, id, &mut writes);
        self.store.write(writes).await?;

        self.unshadow(project, &shadowed);
        let mut edit = snapshot.edit();
        let_go.apply(&self.keeping, project.id(), &mut edit);
        for pattern in &bound {
            edit.unbind(pattern);
        }
        self.apply_unlisted(project, unlisted, &mut edit);
        edit.remove_certificate(id);
        self.publish(project, &snapshot, edit, drain);
        if let Some(old) = certificate {
            retire(project, &old, None, drain, Grace::of_deleted(&self.limits));
        }
        tracing::info!(project = %project.id(), certificate = %id, bindings = patterns.len(), "certificate deleted");
        self.events
            .emit(Event::new(EventKind::CertificateDeleted, "a certificate was deleted").about(project.id(), id));
        Ok(patterns)
    }

    /// See [`Control::bind`]. The caller holds the project's writer lock.
    async fn bind(
        &self,
        project: &Arc<Project>,
        pattern: Pattern,
        certificate: Option<CertificateId>,
        wanted: Properties,
        drain: Drain,
    ) -> Result<bool, ControlError> {
        let snapshot = project.snapshot();
        takes_changes(&snapshot)?;
        not_declared(&snapshot, &pattern)?;
        let target = match &certificate {
            None => Target::None,
            Some(id) => Target::Certificate(self.bindable(&snapshot, id)?),
        };
        let existing = snapshot.binding(&pattern);
        let in_force = snapshot.in_force(&pattern);
        let occupied = in_force.is_some() || snapshot.is_quarantined(&pattern);
        let same = existing.as_ref().is_some_and(|b| b.target.certificate_id() == certificate.as_ref());
        let lift = wanted.lift.unwrap_or_else(|| existing.as_ref().is_none_or(|b| b.lift));
        // Of *none* nothing is presented, over no version.
        let before = certificate.is_some() && existing.as_ref().is_some_and(|b| b.tls13_only);
        let tls13_only = wanted.tls13_only.unwrap_or(before);
        if tls13_only && certificate.is_none() {
            let what = "nothing is presented by this binding, so there is nothing to present over TLS 1.3 only; leave it out, or name a certificate";
            return Err(ControlError::Field { field: "tls13Only", what: what.to_owned() });
        }
        let as_it_is = existing.as_ref().is_some_and(|b| same && b.lift == lift && b.tls13_only == tls13_only);
        // One that a zone certificate came after, presented at the moment or not, is the latest again by being written again.
        let later = snapshot.roster().of(Holder::Zone).next_back().filter(|_| pattern == Pattern::Default);
        if as_it_is && later.zip(existing.as_ref()).is_none_or(|(zone, own)| own.since > zone.since) {
            return Ok(true);
        }
        let previous = existing.as_ref().filter(|_| same).and_then(|b| b.previous.clone());
        // What is said of the binding beside its certificate leaves the association that it stands for.
        let association = existing.as_ref().filter(|_| same).and_then(|b| b.association.clone());
        let binding = Binding {
            pattern: pattern.clone(),
            target,
            source: Source::Api,
            since: stamp(&snapshot, &pattern),
            lift,
            tls13_only,
            previous,
            association,
            derived: false,
        };
        let mut let_go = match same {
            true => LetGo::default(),
            false => self.let_go(project, &snapshot, std::slice::from_ref(&pattern), &[]),
        };
        let mut writes = std::mem::take(&mut let_go.writes);
        let key = self.store.binding_key(project.id(), &pattern);
        writes.push(Write::Put(key, BindingRecord::of(&binding).to_bytes()));
        writes.extend(self.store.project_record(snapshot.info()));
        self.store.write(writes).await?;

        let mut edit = snapshot.edit();
        let_go.apply(&self.keeping, project.id(), &mut edit);
        if let Target::Certificate(certificate) = &binding.target {
            // Already there, unless it is the account's and this is the project's first binding of it.
            edit.put_certificate(certificate.clone());
        }
        edit.bind(binding.clone());
        let (same, other) = existing.into_iter().partition::<Vec<_>, _>(|_| same);
        let loose = other.first().and_then(|b| self.loosen(&snapshot, b, &mut edit));
        let spent = same.first().and_then(|b| self.exchange(&snapshot, b, binding, &mut edit));
        self.publish(project, &snapshot, edit, drain);
        if let Some(old) = loose {
            retire(project, &old, certificate.as_ref(), drain, Grace::of_replaced(&self.limits));
        }
        if let Some((stays, spent)) = spent {
            // Its own heir: what still runs under it is shown as what the certificate took the place of.
            let (id, grace) = (&stays.info.id, Grace::of_replaced(&self.limits));
            retire_objects(project, &stays, [&spent].into_iter(), Some(id), drain, grace);
        }
        tracing::info!(project = %project.id(), %pattern, ?certificate, "binding written");
        Ok(occupied)
    }

    /// The certificate that a binding may name: one of the project, or a leaf of its account.
    fn bindable(&self, snapshot: &Snapshot, id: &CertificateId) -> Result<Arc<Certificate>, ControlError> {
        if let Some(certificate) = snapshot.certificate(id) {
            return Ok(certificate);
        }
        let account = snapshot.info().account_id.as_deref();
        let held = account.and_then(|account| self.accounts.get(account, id));
        let held = held.ok_or(ControlError::NotFound("certificate"))?;
        self.maker.load_full().of_account(snapshot.info(), snapshot.vouching(), &held).ok_or_else(|| {
            let what = "it is a CA bundle, which vouches for servers and cannot be presented to them; name a certificate that \
                        was uploaded with its private key";
            ControlError::Field { field: "certId", what: what.to_owned() }
        })
    }

    async fn unbind(
        &self,
        project: &Arc<Project>,
        pattern: &Pattern,
        named: Option<&CertificateId>,
    ) -> Result<(), ControlError> {
        let _writer = project.write().await;
        let snapshot = project.snapshot();
        takes_changes(&snapshot)?;
        not_declared(&snapshot, pattern)?;
        let existing = snapshot.binding(pattern);
        if named.is_some() && existing.as_ref().and_then(|binding| binding.target.certificate_id()) != named {
            return Err(ControlError::NotFound("binding"));
        }
        if existing.is_none() && !snapshot.is_quarantined(pattern) {
            return Err(match snapshot.in_force(pattern) {
                Some(_) => follows("origin"),
                None => ControlError::NotFound("binding"),
            });
        }
        let mut let_go = self.let_go(project, &snapshot, std::slice::from_ref(pattern), &[]);
        let mut writes = std::mem::take(&mut let_go.writes);
        writes.push(Write::Delete(self.store.binding_key(project.id(), pattern)));
        self.store.write(writes).await?;

        let mut edit = snapshot.edit();
        let_go.apply(&self.keeping, project.id(), &mut edit);
        edit.unbind(pattern);
        let loose = existing.and_then(|b| self.loosen(&snapshot, &b, &mut edit));
        self.publish(project, &snapshot, edit, Drain::Grace);
        if let Some(old) = loose {
            retire(project, &old, None, Drain::Grace, Grace::of_deleted(&self.limits));
        }
        tracing::info!(project = %project.id(), %pattern, "binding removed");
        Ok(())
    }
}

/// An id that there never was.
pub(super) fn new_id_of(form: impl Fn([u8; 16]) -> CertificateId) -> Result<CertificateId, ControlError> {
    let mut bits = [0; 16];
    aws_lc_rs::rand::fill(&mut bits).map_err(|_| ControlError::Encrypting)?;
    Ok(form(bits))
}

/// Whether the project takes changes at all.
pub(super) fn takes_changes(snapshot: &Snapshot) -> Result<(), ControlError> {
    if snapshot.is_removed() {
        return Err(ControlError::NotFound("project"));
    }
    match snapshot.info().state {
        ProjectState::Transferring => Err(ControlError::Transferring),
        ProjectState::Active | ProjectState::Blocked => Ok(()),
    }
}

pub(super) fn takes_uploads(snapshot: &Snapshot) -> Result<(), ControlError> {
    takes_changes(snapshot)?;
    match snapshot.info().state {
        ProjectState::Blocked => Err(ControlError::Blocked),
        ProjectState::Active | ProjectState::Transferring => Ok(()),
    }
}

pub(super) fn not_declared(snapshot: &Snapshot, pattern: &Pattern) -> Result<(), ControlError> {
    let file = snapshot.binding(pattern).and_then(|binding| file_of(&binding.source));
    match file {
        Some(file) => Err(ControlError::Declared(format!("the certificate for {pattern}"), file)),
        None => Ok(()),
    }
}

/// Of what the zone presents project-wide, which is no binding that somebody wrote.
fn follows(field: &'static str) -> ControlError {
    let what = "what is presented project-wide follows from the certificates of the zone; switch the zone off, or delete its newest certificate";
    ControlError::Field { field, what: what.to_owned() }
}

pub(super) fn file_of(source: &Source) -> Option<String> {
    match source {
        Source::Api => None,
        Source::File(path) => Some(path.display().to_string()),
    }
}
