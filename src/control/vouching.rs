//! CA bundles of an account that vouch for servers of a project: bound, taken away, and loaded.
//!
//! What must stay true:
//! - every object of a snapshot was made with the bundles that its roster names, so a change makes all of them anew and
//!   retires what was: no connection and no ticket outlives the bundle that vouched for it;
//! - a bundle of another account, one that is gone, or one that cannot be read vouches for nothing.

use std::collections::HashMap;
use std::sync::Arc;

use super::apply::Maker;
use super::certificates::{takes_changes, whole};
use super::plan::{ends, renew};
use super::quietly::quietly;
use super::{Control, ControlError, Drain, Inner};
use crate::domain::{CertificateId, Pattern, ProjectInfo, time as clock};
use crate::identity::UpstreamTls;
use crate::pki::anchors::{Bundle, Vouching};
use crate::registry::{AccountCertificate, Accounts, Project, Roster, Snapshot, SnapshotEdit, Vouch};

impl Control {
    /// Lets a CA bundle of the project's account vouch for the servers that a pattern covers, beside whatever is bound to
    /// that pattern. True if it did so before; then nothing changes.
    ///
    /// # Errors
    /// No such bundle in the account, `limits.max_ca_bindings`, the project's state, storing.
    pub async fn vouch(
        &self,
        project: &Arc<Project>,
        pattern: Pattern,
        certificate: &CertificateId,
    ) -> Result<bool, ControlError> {
        let (inner, project, certificate) = (self.inner.clone(), project.clone(), certificate.clone());
        whole(async move {
            // What an account has must not leave it meanwhile. Nobody knows an id before the upload has answered.
            let account = inner.accounts.home(&certificate).ok_or(ControlError::NotFound("certificate"))?;
            let _account = inner.account_locks.lock(&account).await;
            inner.vouch(&project, pattern, certificate).await
        })
        .await
    }

    /// Takes that away again. When this has answered, no new request uses a connection or a ticket that the bundle
    /// vouched for; what runs is finished as after a replacement.
    ///
    /// # Errors
    /// The bundle is not bound to that pattern; the project's state; storing.
    pub async fn withdraw_vouch(
        &self,
        project: &Arc<Project>,
        pattern: &Pattern,
        certificate: &CertificateId,
    ) -> Result<(), ControlError> {
        let (inner, project) = (self.inner.clone(), project.clone());
        let (pattern, certificate) = (pattern.clone(), certificate.clone());
        whole(async move { inner.withdraw(&project, &pattern, &certificate).await }).await
    }

    /// Whether this is a CA bundle of the project's account.
    #[must_use]
    pub fn is_bundle(&self, project: &Project, certificate: &CertificateId) -> bool {
        let snapshot = project.load();
        bundle_of(&self.inner.accounts, snapshot.info(), certificate).is_some()
    }
}

impl Inner {
    async fn vouch(
        &self,
        project: &Arc<Project>,
        pattern: Pattern,
        certificate: CertificateId,
    ) -> Result<bool, ControlError> {
        let _writer = project.write().await;
        let snapshot = project.snapshot();
        takes_changes(&snapshot)?;
        let mut roster = legible(&snapshot)?;
        if bundle_of(&self.accounts, snapshot.info(), &certificate).is_none() {
            return Err(ControlError::NotFound("certificate"));
        }
        if roster.vouching.iter().any(|vouch| vouch.certificate == certificate && vouch.pattern == pattern) {
            return Ok(true);
        }
        let most = self.limits.max_ca_bindings();
        if roster.vouching.len() >= most {
            self.metrics.store_limits_reached.add();
            let (limit, what) = ("max_ca_bindings", "bindings of CA bundles in this project");
            return Err(ControlError::Full { limit, most, what });
        }
        roster.vouching.push(Vouch { pattern: pattern.clone(), certificate: certificate.clone(), since: now() });
        self.revouch(project, &snapshot, roster).await?;
        tracing::info!(project = %project.id(), %pattern, %certificate, "CA bundle bound");
        Ok(false)
    }

    async fn withdraw(
        &self,
        project: &Arc<Project>,
        pattern: &Pattern,
        certificate: &CertificateId,
    ) -> Result<(), ControlError> {
        let _writer = project.write().await;
        let snapshot = project.snapshot();
        takes_changes(&snapshot)?;
        let mut roster = legible(&snapshot)?;
        let is_it = |vouch: &Vouch| vouch.certificate == *certificate && vouch.pattern == *pattern;
        let at = roster.vouching.iter().position(is_it).ok_or(ControlError::NotFound("binding"))?;
        let vouch = roster.vouching.remove(at);
        self.revouch(project, &snapshot, roster).await?;
        self.store.note_mended(&in_vain(snapshot.info(), &vouch));
        tracing::info!(project = %project.id(), %pattern, %certificate, "CA bundle no longer bound");
        Ok(())
    }

    /// Stores a roster with other bundles, and publishes what follows from it. The caller holds the project's writer lock.
    async fn revouch(&self, project: &Arc<Project>, base: &Arc<Snapshot>, roster: Roster) -> Result<(), ControlError> {
        let mut writes = vec![self.store.roster_write(project.id(), &roster)];
        writes.extend(self.store.project_record(base.info()));
        let (maker, accounts, of) = (self.maker.load_full(), self.accounts.clone(), base.clone());
        // As many objects as the project has certificates, off the threads that answer requests.
        let made = quietly(move || {
            let vouching = vouching(&maker, &accounts, of.info(), &roster).0;
            let mut edit = of.edit();
            edit.set_roster(roster);
            let anonymous = revouched(&maker, of.info(), vouching, &mut edit);
            (edit, anonymous)
        });
        let (edit, anonymous) = made.await.map_err(ControlError::Storing)?;
        self.store.write(writes).await?;
        self.publish(project, base, edit, Drain::Grace);
        self.end_all(project, ends(base, &project.snapshot(), &HashMap::new()), Some(anonymous));
        Ok(())
    }
}

/// Puts other bundles in force: everything is made anew. Gives back the object for ordinary TLS that ends.
pub(super) fn revouched(
    maker: &Maker,
    info: &ProjectInfo,
    vouching: Arc<Vouching>,
    edit: &mut SnapshotEdit,
) -> Arc<UpstreamTls> {
    let anonymous = maker.anonymous(info, &vouching);
    edit.set_vouching(vouching);
    renew(maker, info, edit, false);
    edit.set_anonymous(anonymous)
}

/// What the bundles that a roster names come to, and those that vouch for nothing.
pub(super) fn vouching<'a>(
    maker: &Maker,
    accounts: &Accounts,
    info: &ProjectInfo,
    roster: &'a Roster,
) -> (Arc<Vouching>, Vec<&'a Vouch>) {
    let mut lost = Vec::new();
    let mut bundles = Vec::with_capacity(roster.vouching.len());
    for vouch in &roster.vouching {
        match bundle_of(accounts, info, &vouch.certificate) {
            Some(bundle) => bundles.push(Bundle {
                id: vouch.certificate.clone(),
                pattern: vouch.pattern.clone(),
                certificates: bundle.certificates.clone(),
            }),
            None => lost.push(vouch),
        }
    }
    (maker.vouching(&bundles), lost)
}

/// What is said of a bundle that vouches for nothing.
pub(super) fn in_vain(info: &ProjectInfo, vouch: &Vouch) -> String {
    format!(
        "CA bundle {} vouches for no server of {} in project {}: the project's account has no such bundle that can be read; bind another one, and remove this binding",
        vouch.certificate, vouch.pattern, info.name
    )
}

/// A CA bundle of the account that the project carries.
fn bundle_of(accounts: &Accounts, info: &ProjectInfo, id: &CertificateId) -> Option<Arc<AccountCertificate>> {
    accounts.get(info.account_id.as_deref()?, id).filter(|certificate| certificate.ca)
}

/// The roster, if what it says is known: nothing is written over what could not be read.
fn legible(snapshot: &Snapshot) -> Result<Roster, ControlError> {
    let roster = Roster::clone(snapshot.roster());
    if roster.damaged {
        let what = "the stored record of the project's lists is damaged, and which CA bundles were bound is not known; switch the zone on or off anew, then bind them again";
        return Err(ControlError::Field { field: "certId", what: what.to_owned() });
    }
    Ok(roster)
}

/// Whole microseconds, as it is stored.
fn now() -> time::OffsetDateTime {
    let now = clock::now();
    now.replace_nanosecond(now.microsecond() * 1000).unwrap_or(now)
}
