//! What accounts hold: uploads to an account, deletes from it, and which projects use what of it.
//!
//! What must stay true: nothing leaves an account while a binding of any project names it, and nothing is bound that has
//! left it. So whoever adds such a name, or looks for one to delete what it names, holds the account's lock meanwhile; a
//! reading of the files, which brings covered bindings back, holds the membership lock, as does whoever deletes.

mod adopt;
mod material;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, Weak};

use time::OffsetDateTime;
use tokio::sync::OwnedMutexGuard;
use zeroize::Zeroizing;

pub(super) use adopt::{OTHER_ACCOUNT, adopt, target};
pub(super) use material::{Opened, restored};

use self::material::{Given, Valid, validated};
use super::certificates::{new_id_of, takes_changes, takes_uploads, whole};
use super::records::AccountRecord;
use super::store::{Store, Write};
use super::{Control, ControlError, Inner};
use crate::domain::{CertificateId, Pattern, ProjectId, ServerTrust, time as clock};
use crate::observe::{Event, EventKind};
use crate::registry::{AccountCertificate, Snapshot, Target, Token};

/// How many uses a refused delete names.
const NAMED: usize = 10;

/// A certificate for an account. Wiped when dropped.
pub struct AccountUpload {
    /// A CA bundle; else a leaf, which needs its key.
    pub ca: bool,
    /// For people.
    pub name: Option<String>,
    /// PEM: a bundle, or a leaf with its chain.
    pub certificates: Zeroizing<String>,
    /// A leaf's private key, PEM. That of a bundle is neither looked at nor kept.
    pub key: Option<Zeroizing<String>>,
    /// Who uploads it.
    pub by: Arc<Token>,
    /// Who uploads it says that it may have done so before, and got no answer.
    pub retry: bool,
}

/// A place that a certificate of an account is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountUse {
    /// In which project.
    pub project: ProjectId,
    /// Where.
    pub pattern: Pattern,
    /// Whether requests are treated by it: not while another binding covers it, and of a bundle not while the project
    /// trusts the system's anchors alone.
    pub in_force: bool,
    /// Whether it cannot be used: the certificate's record is damaged, or the project carries another account now.
    pub unavailable: bool,
}

/// One lock for each account that something is being done with.
#[derive(Default)]
pub(super) struct Locks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Locks {
    /// Waits for the lock of this account.
    pub(super) async fn lock(&self, account: &str) -> OwnedMutexGuard<()> {
        self.of(account).lock_owned().await
    }

    fn of(&self, account: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().expect("nothing panics while holding it");
        if let Some(lock) = locks.get(account).and_then(Weak::upgrade) {
            return lock;
        }
        // Nobody waits for those any more: the map holds as many as there are waiters.
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(account.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

impl Control {
    /// Uploads a certificate to an account. It is presented nowhere, and vouches for nobody, before a project binds it.
    ///
    /// The same certificates again are refused, whatever their key; unless who uploads them says that this is a retry,
    /// material, name and token are the same, and `limits.create_retry_window` has not passed: then the answer is what is
    /// there.
    ///
    /// # Errors
    /// No project carries the account, or none of those takes uploads; every fault of the material at once;
    /// [`ControlError::Duplicate`], [`ControlError::Full`]; sealing and storing.
    pub async fn account_upload(
        &self,
        account: &str,
        upload: AccountUpload,
    ) -> Result<Arc<AccountCertificate>, ControlError> {
        self.inner.of_account(account, takes_uploads)?;
        let (inner, account) = (self.inner.clone(), account.to_owned());
        whole(async move {
            let (upload, valid) = validated(upload).await?;
            inner.account_upload(&account, upload, valid).await
        })
        .await
    }

    /// Deletes a certificate of an account; gives back what it was. `None`: its record was damaged, so that nobody knows.
    ///
    /// # Errors
    /// No project carries the account, or none of those takes changes; an unknown id; [`ControlError::InUse`] while a
    /// binding in any project names it, one that a declared binding covers included; storing.
    pub async fn account_delete(
        &self,
        account: &str,
        id: &CertificateId,
    ) -> Result<Option<Arc<AccountCertificate>>, ControlError> {
        let (inner, account, id) = (self.inner.clone(), account.to_owned(), id.clone());
        whole(async move { inner.account_delete(&account, &id).await }).await
    }

    /// Every binding of it in any project, by project and pattern; those that a declared binding covers included.
    #[must_use]
    pub fn account_associations(&self, id: &CertificateId) -> Vec<AccountUse> {
        self.inner.account_uses(id)
    }
}

impl Inner {
    /// Whether an account takes something: as long as one of the projects that carry it does.
    fn of_account(
        &self,
        account: &str,
        takes: impl Fn(&Snapshot) -> Result<(), ControlError>,
    ) -> Result<(), ControlError> {
        let mut refused = ControlError::NotFound("account");
        for project in self.registry.every_project() {
            let snapshot = project.load();
            if snapshot.info().account_id.as_deref() != Some(account) {
                continue;
            }
            match takes(&snapshot) {
                Ok(()) => return Ok(()),
                Err(why) => refused = why,
            }
        }
        Err(refused)
    }

    async fn account_upload(
        &self,
        account: &str,
        upload: AccountUpload,
        valid: Valid,
    ) -> Result<Arc<AccountCertificate>, ControlError> {
        let _account = self.account_locks.lock(account).await;
        self.of_account(account, takes_uploads)?;
        let held = self.accounts.list(account);
        let now = clock::now();
        let is_same = |other: &&Arc<AccountCertificate>| other.ca == upload.ca && other.chain == *valid.chain();
        if let Some(same) = held.iter().find(is_same) {
            let is_retry = upload.retry
                && same.digest == *valid.digest()
                && same.name == upload.name
                && same.by == upload.by.id
                && now - same.updated_at <= self.limits.create_retry_window();
            return if is_retry { Ok(same.clone()) } else { Err(ControlError::Duplicate(same.info.id.clone())) };
        }
        let most = self.limits.max_account_certificates();
        if self.accounts.count(account) >= most {
            self.metrics.store_limits_reached.add();
            let (limit, what) = ("max_account_certificates", "certificates in this account");
            return Err(ControlError::Full { limit, most, what });
        }
        let id = new_id_of(CertificateId::bare)?;
        let updated_at = stamp(now, held.last().map(|last| last.updated_at));
        let AccountUpload { ca, name, certificates, key, by, .. } = upload;
        let record = AccountRecord {
            ca,
            name: name.clone(),
            certificates: String::clone(&certificates),
            key: key.filter(|_| !ca),
            by: by.id.clone(),
            updated_at,
            warnings: valid.warnings().to_vec(),
        };
        let given = Given { id: id.clone(), name, pem: String::clone(&certificates), by: by.id.clone(), updated_at };
        let certificate = Arc::new(valid.certificate(given, None).map_err(|what| {
            let field = "certificates";
            ControlError::Field { field, what }
        })?);
        let writes = vec![Write::Put(Store::account_key(account, &id), record.to_bytes())];
        drop(record);
        self.store.write(writes).await?;

        self.accounts.insert(account, certificate.clone());
        tracing::info!(account, certificate = %id, ca, "account certificate uploaded");
        let words =
            if ca { "a CA bundle was uploaded to an account" } else { "a certificate was uploaded to an account" };
        self.events.emit(Event { certificate: Some(id), ..Event::new(EventKind::CertificateUploaded, words) });
        Ok(certificate)
    }

    async fn account_delete(
        &self,
        account: &str,
        id: &CertificateId,
    ) -> Result<Option<Arc<AccountCertificate>>, ControlError> {
        let _membership = self.membership.lock().await;
        let _account = self.account_locks.lock(account).await;
        self.of_account(account, takes_changes)?;
        if self.accounts.home(id).as_deref() != Some(account) {
            return Err(ControlError::NotFound("certificate"));
        }
        let held = self.accounts.get(account, id);
        let uses = self.account_uses(id);
        if !uses.is_empty() {
            let ca = held.is_some_and(|held| held.ca);
            return Err(ControlError::InUse(self.in_use(account, ca, &uses)));
        }
        self.store.write(vec![Write::Delete(Store::account_key(account, id))]).await?;

        self.accounts.remove(account, id);
        let damaged = held.is_none();
        tracing::info!(account, certificate = %id, damaged, "account certificate deleted");
        let words = "a certificate was deleted from an account";
        self.events.emit(Event { certificate: Some(id.clone()), ..Event::new(EventKind::CertificateDeleted, words) });
        Ok(held)
    }

    /// See [`Control::account_associations`].
    fn account_uses(&self, id: &CertificateId) -> Vec<AccountUse> {
        let mut uses = Vec::new();
        for project in self.registry.every_project() {
            let of_project = |pattern: &Pattern, in_force, unavailable| AccountUse {
                project: project.id().clone(),
                pattern: pattern.clone(),
                in_force,
                unavailable,
            };
            let snapshot = project.snapshot();
            for binding in snapshot.bindings_of(id) {
                let in_force = snapshot.in_force(&binding.pattern).is_some_and(|other| Arc::ptr_eq(&other, &binding));
                let unavailable = matches!(binding.target, Target::Unavailable(_));
                uses.push(of_project(&binding.pattern, in_force, unavailable));
            }
            let is_usable = || {
                let account = snapshot.info().account_id.as_deref();
                account.is_some_and(|account| self.accounts.get(account, id).is_some())
            };
            for vouch in snapshot.roster().vouching.iter().filter(|vouch| vouch.certificate == *id) {
                let in_force = snapshot.info().servers != ServerTrust::System;
                uses.push(of_project(&vouch.pattern, in_force, !is_usable()));
            }
            for pattern in self.shadowed_by(&project, id) {
                uses.push(of_project(&pattern, false, !is_usable()));
            }
        }
        uses.sort_by(|a, b| a.project.cmp(&b.project).then_with(|| a.pattern.cmp(&b.pattern)));
        uses
    }

    /// Why it cannot be deleted; `ca`: it is a bundle. Projects that carry another account now are not named: they are others' business.
    fn in_use(&self, account: &str, ca: bool, uses: &[AccountUse]) -> String {
        let mut text = "Certificate cannot be deleted while in use.".to_owned();
        let mut named = 0;
        for place in uses {
            let project = self.registry.project(&place.project).map(|project| project.snapshot());
            let own = project.filter(|project| project.info().account_id.as_deref() == Some(account));
            if let Some(project) = own.filter(|_| named < NAMED) {
                let lead = if named == 0 { " It is bound to " } else { ", " };
                let _ = write!(text, "{lead}{} in project {}", place.pattern, project.info().name);
                if !place.in_force {
                    text.push_str(if ca { " (without effect)" } else { " (covered by another binding)" });
                }
                named += 1;
            }
        }
        match (named, uses.len() - named) {
            (_, 0) => {}
            (0, more) => {
                let _ = write!(text, " It is bound to {more} origins in projects that carry another account now");
            }
            (_, more) => {
                let _ = write!(text, ", and to {more} more");
            }
        }
        let which = if ca { "&certId=" } else { "" };
        let _ = write!(text, "; remove those bindings first: DELETE /v1/projects/{{idOrName}}/bindings?origin={which}");
        text
    }
}

/// When something is added: now, whole microseconds, and later than all that is there, however the clock moves.
fn stamp(now: OffsetDateTime, last: Option<OffsetDateTime>) -> OffsetDateTime {
    let now = now.replace_nanosecond(now.microsecond() * 1000).unwrap_or(now);
    last.map_or(now, |last| now.max(last + time::Duration::microseconds(1)))
}
