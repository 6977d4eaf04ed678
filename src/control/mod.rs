//! Floor 4: the only writers.
use std::sync::Arc;
use zeroize::Zeroizing;

use crate::backend::Backend;
use crate::config::Settings;
use crate::domain::{CertificateId, Pattern, ProjectInfo};
use crate::identity::TlsFactory;
use crate::pki::anchors::SharedAnchors;
use crate::pki::seal::Sealer;
use crate::pki::validate::Fault;
use crate::registry::{Certificate, Project, Registry};

/// An upload, dialect-free. Wiped when dropped.
pub struct Upload {
    /// Client chain, PEM.
    pub cert: Zeroizing<String>,
    /// Private key, PEM.
    pub key: Zeroizing<String>,
    /// CA bundle, PEM.
    pub ca: Zeroizing<String>,
    /// Where it is presented.
    pub pattern: Pattern,
    /// Leaves out chain, dates and EKU.
    pub skip_validation: bool,
}

/// What became of an upload.
#[derive(Debug)]
pub struct Uploaded {
    /// The slot was occupied.
    pub updated: bool,
    /// Where it is presented.
    pub pattern: Pattern,
    /// The certificate (the old one if the material was identical).
    pub certificate: Arc<Certificate>,
}

/// How long what runs under a retired certificate may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// `limits.replace_grace` or `limits.delete_grace`.
    Grace,
    /// `?drain=now`.
    Now,
}

/// Why a change was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Faults in the material.
    #[error("{}", faults_text(.0))]
    Invalid(Vec<Fault>),
    /// Another field is wrong: which, and what to do.
    #[error("{field}: {what}")]
    Field {
        /// JSON name.
        field: &'static str,
        /// What is wrong and what to do.
        what: String,
    },
    /// The slot or certificate is declared in this file.
    #[error("{0} is declared in {1}; change it there")]
    Declared(String, String),
    /// No such certificate, binding or project.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// A project of this name, id, account or zone exists.
    #[error("{0}")]
    Exists(String),
    /// The project is being transferred.
    #[error("the project is being transferred; its certificates cannot be changed until that has ended")]
    Transferring,
    /// The project is blocked.
    #[error("the project is blocked; uploads are not taken")]
    Blocked,
    /// The private key could not be encrypted.
    #[error("the private key could not be encrypted; nothing was changed")]
    Encrypting,
    /// It could not be stored; nothing was changed.
    #[error("the change could not be stored; nothing was changed: {0}")]
    Storing(String),
}

fn faults_text(faults: &[Fault]) -> String {
    faults.iter().map(|f| format!("{:?}: {}; {}", f.field, f.what, f.remedy)).collect::<Vec<_>>().join(" | ")
}

/// The only writer of registry and store.
pub struct Control {
    _p: (),
}

/// What [`Control::load`] found.
#[derive(Debug, Default, Clone)]
pub struct LoadReport {
    /// Records that could not be opened; each a sentence that names the record.
    pub quarantined: Vec<String>,
    /// Declared certificates that could not be loaded; each a sentence that names file and fault.
    pub unloaded: Vec<String>,
}

impl Control {
    /// Loads store and declared certificates, publishes every project, and is then ready for changes.
    ///
    /// # Errors
    /// Only what makes starting senseless: a store that cannot be read at all, a key-encryption key that opens nothing.
    pub async fn load(
        _settings: &Settings,
        _registry: Arc<Registry>,
        _backend: Arc<dyn Backend>,
        _sealer: Arc<Sealer>,
        _factory: Arc<TlsFactory>,
        _anchors: Arc<SharedAnchors>,
    ) -> anyhow::Result<Self> {
        todo!()
    }
    /// What load found, and what is still so.
    #[must_use]
    pub fn report(&self) -> LoadReport {
        todo!()
    }
    /// Uploads a certificate and binds it.
    pub async fn upload(
        &self,
        _project: &Arc<Project>,
        _upload: Upload,
        _drain: Drain,
    ) -> Result<Uploaded, ControlError> {
        todo!()
    }
    /// Deletes a certificate and all its bindings; gives back the patterns (by order of [`crate::registry::Snapshot::bindings`]).
    pub async fn delete(
        &self,
        _project: &Arc<Project>,
        _id: &CertificateId,
        _drain: Drain,
    ) -> Result<Vec<Pattern>, ControlError> {
        todo!()
    }
    /// Binds an existing certificate, or *none*, to a pattern. True if the slot was occupied.
    pub async fn bind(
        &self,
        _project: &Arc<Project>,
        _pattern: Pattern,
        _certificate: Option<&CertificateId>,
    ) -> Result<bool, ControlError> {
        todo!()
    }
    /// Removes a binding (the certificate stays).
    pub async fn unbind(&self, _project: &Arc<Project>, _pattern: &Pattern) -> Result<(), ControlError> {
        todo!()
    }
    /// Makes a project.
    pub async fn create_project(&self, _info: ProjectInfo) -> Result<Arc<Project>, ControlError> {
        todo!()
    }
    /// Deletes a project with everything in it.
    pub async fn delete_project(&self, _project: &Arc<Project>) -> Result<(), ControlError> {
        todo!()
    }
    /// Reads a small record that belongs to no project (the interception CA), or stores it once.
    pub async fn local_ca(
        &self,
        _make: impl FnOnce() -> anyhow::Result<Zeroizing<Vec<u8>>> + Send,
    ) -> Result<Zeroizing<Vec<u8>>, ControlError> {
        todo!()
    }
}
