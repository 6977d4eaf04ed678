//! Projects come and go; and the one record that belongs to none.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::apply::{Grace, end};
use super::certificates::{takes_changes, whole};
use super::store::Write;
use super::tokens::write_of;
use super::{Control, ControlError, Drain, Inner};
use crate::backend::{RecordKey, RecordKind};
use crate::domain::{ProjectInfo, Team};
use crate::pki::anchors::Vouching;
use crate::pki::seal::SealError;
use crate::registry::{Project, Snapshot};

/// The name of the project that always exists.
pub(super) const DEFAULT: &str = "default";

impl Control {
    /// Makes a project.
    ///
    /// # Errors
    /// Its id, name or zone is another project's; storing.
    pub async fn create_project(&self, info: ProjectInfo) -> Result<Arc<Project>, ControlError> {
        let inner = self.inner.clone();
        whole(async move { inner.create_project(info).await }).await
    }

    /// Deletes a project with everything in it. Its connections are drained as after the delete of a certificate, and
    /// whoever still holds it finds it empty and removed.
    ///
    /// # Errors
    /// `default` and declared projects stay; the project's state; storing.
    pub async fn delete_project(&self, project: &Arc<Project>) -> Result<(), ControlError> {
        let (inner, project) = (self.inner.clone(), project.clone());
        whole(async move { inner.delete_project(&project).await }).await
    }

    /// Reads a small record that belongs to no project (the interception CA), or stores it once: whoever asks first
    /// makes it, and all others wait and get the same.
    ///
    /// # Errors
    /// `make` failed; sealing and storing; a record that another key-encryption key sealed.
    pub async fn local_ca(
        &self,
        make: impl FnOnce() -> anyhow::Result<Zeroizing<Vec<u8>>> + Send,
    ) -> Result<Zeroizing<Vec<u8>>, ControlError> {
        let mut held = self.inner.local_ca.clone().lock_owned().await;
        if let Some(record) = &*held {
            match self.inner.store.open(record) {
                Ok(plain) => return Ok(plain),
                // Another key may come back; what it sealed is not written over.
                Err(error @ SealError::OtherKey) => {
                    return Err(ControlError::Storing(format!("the interception CA cannot be read: {error}")));
                }
                Err(error) => {
                    tracing::warn!(%error, "the interception CA is lost; a new one is made, and clients must trust it anew");
                }
            }
        }
        let plain = make().map_err(|error| ControlError::Storing(format!("the interception CA: {error:#}")))?;
        let copy = plain.clone();
        let inner = self.inner.clone();
        whole(async move {
            let key = RecordKey { kind: RecordKind::LocalCa, project: String::new(), id: "ca".to_owned() };
            let record = inner.store.put_and_keep(key, copy).await?;
            *held = Some(record);
            Ok(())
        })
        .await?;
        Ok(plain)
    }
}

impl Inner {
    async fn create_project(&self, info: ProjectInfo) -> Result<Arc<Project>, ControlError> {
        let info = ProjectInfo { declared: false, ..info };
        let _membership = self.membership.lock().await;
        for other in self.registry.projects() {
            unlike(&info, other.load().info())?;
        }
        self.store.settle_anew(&info.id);
        let written = self.store.write(self.store.project_record(&info).into_iter().collect()).await;
        written.inspect_err(|_| self.store.unsettle(&info.id))?;
        let anonymous = self.maker.load_full().anonymous(&info, &Vouching::none());
        let project = Project::new(Snapshot::empty(Arc::new(info), anonymous));
        self.registry.insert(project.clone());
        tracing::info!(project = %project.id(), "project created");
        Ok(project)
    }

    async fn delete_project(&self, project: &Arc<Project>) -> Result<(), ControlError> {
        let _membership = self.membership.lock().await;
        let _writer = project.write().await;
        let snapshot = project.snapshot();
        takes_changes(&snapshot)?;
        let info = snapshot.info();
        if info.declared {
            return Err(ControlError::Declared(format!("project {}", info.name), self.file.display().to_string()));
        }
        if info.name == DEFAULT && info.team.is_none() {
            let what = "the project default always exists; delete its certificates instead".to_owned();
            return Err(ControlError::Field { field: "project", what });
        }
        // A later project may have the same name, and so the same derived id: what reached this one must not reach it.
        let bereft = self.tokens_without(project.id());
        let records = self.store.keys(project.id()).into_iter().map(Write::Delete);
        let writes = records.chain(bereft.iter().map(|(sha256, token)| write_of(sha256, token))).collect();
        self.store.write(writes).await?;

        self.registry.remove(project.id());
        self.put_tokens(bereft);
        self.store.unsettle(project.id());
        self.disclosures.forget(project.id());
        self.keeping.forget_project(project.id());
        self.shadowed.lock().expect("nothing panics while holding it").remove(project.id());
        for certificate in snapshot.certificates() {
            certificate.objects().for_each(|tls| end(tls, Drain::Grace, Grace::of_deleted(&self.limits)));
        }
        end(snapshot.anonymous(), Drain::Grace, Grace::of_deleted(&self.limits));
        tracing::info!(project = %project.id(), "project deleted");
        Ok(())
    }
}

/// Whether `new` can stand beside `old`. Ids and names share one space, since `{idOrName}` may be either.
fn unlike(new: &ProjectInfo, old: &ProjectInfo) -> Result<(), ControlError> {
    let taken = |what: &str| Err(ControlError::Exists(format!("a project with this {what} exists; choose another")));
    if new.id == old.id || new.id.as_str() == old.name || new.name == old.id.as_str() {
        return taken("id");
    }
    if new.name == old.name && same_team(new.team.as_ref(), old.team.as_ref()) {
        return taken("name");
    }
    // Several projects may be of one account; a zone is one project.
    if new.zone_id.is_some() && new.zone_id == old.zone_id {
        return taken("zone id");
    }
    Ok(())
}

/// Teams are the same if their ids are, or, where one has none, their slugs.
pub(super) fn same_team(a: Option<&Team>, b: Option<&Team>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => match (&a.id, &b.id) {
            (Some(a), Some(b)) => a == b,
            _ => a.slug == b.slug,
        },
        _ => false,
    }
}
