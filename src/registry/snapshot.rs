//! What a project means right now. Never changed, only replaced.
use std::sync::Arc;

use crate::domain::{CertificateId, CertificateInfo, Origin, Pattern, ProjectInfo, Rule, Source};
use crate::identity::{ClientIdentity, UpstreamTls};

/// A certificate as the registry holds it.
#[derive(Debug)]
pub struct Certificate {
    /// What may be told of it.
    pub info: Arc<CertificateInfo>,
    /// Chain as uploaded, byte for byte.
    pub cert_pem: String,
    /// CA bundle as uploaded, byte for byte.
    pub ca_pem: String,
    /// SHA-256 of the DER of chain, key and `ca`: equal material, equal digest.
    pub digest: [u8; 32],
    /// What TLS presents.
    pub identity: Arc<ClientIdentity>,
    /// Used by exact and wildcard bindings: its `ca` vouches for servers.
    pub bound: Arc<UpstreamTls>,
    /// Used by the default slot: its `ca` vouches for nobody.
    pub general: Arc<UpstreamTls>,
}

/// Why a binding's certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    /// The certificate it names.
    pub id: CertificateId,
    /// Why, in words (a damaged record, a missing file).
    pub why: String,
}

/// What a binding leads to.
#[derive(Debug, Clone)]
pub enum Target {
    /// This certificate.
    Certificate(Arc<Certificate>),
    /// *none*: present nothing here, tunnel, never lift.
    None,
    /// A certificate that could not be loaded: requests fail with `mtls.identity_unavailable`.
    Unavailable(Unavailable),
}

/// Project + pattern -> certificate or *none*.
#[derive(Debug, Clone)]
pub struct Binding {
    /// Where.
    pub pattern: Pattern,
    /// What.
    pub target: Target,
    /// Who wrote it.
    pub source: Source,
    /// When it was written.
    pub since: time::OffsetDateTime,
}

/// What [`Snapshot::select`] answers.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The objects for the handshake. For *none*, nothing and withheld-by-list: the project's anonymous one.
    pub tls: Arc<UpstreamTls>,
    /// The rule that chose.
    pub rule: Rule,
    /// The binding that chose, unless it is [`Rule::Nothing`].
    pub binding: Option<Arc<Binding>>,
}

/// What a project means right now.
pub struct Snapshot {
    _info: Arc<ProjectInfo>,
}

impl Snapshot {
    /// A project without bindings. `anonymous` is used where no certificate is presented.
    #[must_use]
    pub fn empty(_info: Arc<ProjectInfo>, _anonymous: Arc<UpstreamTls>) -> Self {
        todo!()
    }
    /// Grows by one with every published change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        todo!()
    }
    /// What is known of the project.
    #[must_use]
    pub fn info(&self) -> &Arc<ProjectInfo> {
        todo!()
    }
    /// Ordinary TLS with this project's trust.
    #[must_use]
    pub fn anonymous(&self) -> &Arc<UpstreamTls> {
        todo!()
    }
    /// The first rule that matches (product.md section 2): exact host and port; exact host, port `*`; wildcard, exact
    /// port; wildcard, port `*`; default (unless its scope lists origins and this is none of them: then `Rule::Nothing`); nothing.
    #[must_use]
    pub fn select(&self, _origin: &Origin) -> Selection {
        todo!()
    }
    /// The binding of exactly this pattern.
    #[must_use]
    pub fn binding(&self, _pattern: &Pattern) -> Option<Arc<Binding>> {
        todo!()
    }
    /// All bindings, by pattern (default first).
    #[must_use]
    pub fn bindings(&self) -> Vec<Arc<Binding>> {
        todo!()
    }
    /// How many bindings there are.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// A certificate by id, bound or not.
    #[must_use]
    pub fn certificate(&self, _id: &CertificateId) -> Option<Arc<Certificate>> {
        todo!()
    }
    /// All certificates, by id.
    #[must_use]
    pub fn certificates(&self) -> Vec<Arc<Certificate>> {
        todo!()
    }
    /// Begins the next snapshot; shares every shard that is not touched.
    #[must_use]
    pub fn edit(&self) -> SnapshotEdit {
        todo!()
    }
}

/// The next snapshot in the making.
pub struct SnapshotEdit {
    _p: (),
}

impl SnapshotEdit {
    /// Sets a binding; gives back the one it displaced.
    pub fn bind(&mut self, _binding: Binding) -> Option<Arc<Binding>> {
        todo!()
    }
    /// Removes a binding.
    pub fn unbind(&mut self, _pattern: &Pattern) -> Option<Arc<Binding>> {
        todo!()
    }
    /// Adds a certificate.
    pub fn put_certificate(&mut self, _certificate: Arc<Certificate>) {
        todo!()
    }
    /// Removes a certificate (its bindings are the caller's business).
    pub fn remove_certificate(&mut self, _id: &CertificateId) -> Option<Arc<Certificate>> {
        todo!()
    }
    /// Sets what is known of the project.
    pub fn set_info(&mut self, _info: Arc<ProjectInfo>) {
        todo!()
    }
    /// The finished snapshot, one revision on.
    #[must_use]
    pub fn finish(self) -> Snapshot {
        todo!()
    }
}
