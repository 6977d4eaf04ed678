//! Certificates and bindings as the registry holds them.

use std::sync::Arc;

use super::Tls13Objects;
use super::staging::Previous;
use crate::domain::{CertificateId, CertificateInfo, Pattern, Source};
use crate::identity::{ClientIdentity, UpstreamTls};

/// Stands for the certificate of a binding whose own record is damaged: nobody knows which one it named.
pub const UNREADABLE_ID: &str = "unreadable";

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
    /// The same two for bindings that want TLS 1.3 only.
    pub tls13: Tls13Objects,
}

impl Certificate {
    /// Every object that TLS may use for it: what has to end when the certificate does.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<UpstreamTls>> {
        [&self.bound, &self.general].into_iter().chain(self.tls13.bound.get()).chain(self.tls13.general.get())
    }
}

/// Why a binding's certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    /// The certificate it names ([`UNREADABLE_ID`] if the binding's own record is damaged).
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

impl Target {
    /// The certificate it names, usable or not.
    #[must_use]
    pub fn certificate_id(&self) -> Option<&CertificateId> {
        match self {
            Self::Certificate(certificate) => Some(&certificate.info.id),
            Self::Unavailable(unavailable) => Some(&unavailable.id),
            Self::None => None,
        }
    }
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
    /// Whether plain http requests are lifted to TLS by it.
    pub lift: bool,
    /// Whether its certificate is presented over TLS 1.3 only: TLS 1.2 sends it in the clear.
    pub tls13_only: bool,
    /// What it can go back to. Never selected.
    pub previous: Option<Arc<Previous>>,
    /// The hostname association that it stands for, if one was written.
    pub association: Option<Association>,
    /// It follows from the project's lists and has no record: see [`Snapshot::zone`](super::Snapshot::zone).
    pub derived: bool,
}

/// A hostname of the zone, and the certificate that was named for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    /// Presented there, or, where the binding is *none*, merely remembered. `None`: it was deleted meanwhile.
    pub certificate: Option<CertificateId>,
    /// When the hostname was first associated, whole seconds. [`Binding::since`] is when that last changed.
    pub created_at: time::OffsetDateTime,
}

impl Binding {
    /// What stands in for the stored binding of this pattern when its record cannot be read.
    #[must_use]
    pub fn damaged(pattern: Pattern) -> Self {
        let why = "the stored record of this binding is damaged; upload its certificate again, or delete the binding";
        Self {
            pattern,
            target: Target::Unavailable(Unavailable {
                id: CertificateId::parse(UNREADABLE_ID).expect("the constant is a well-formed id"),
                why: why.to_owned(),
            }),
            source: Source::Api,
            since: time::OffsetDateTime::UNIX_EPOCH,
            // The failure is to be told, not the request sent in the clear.
            lift: true,
            tls13_only: false,
            previous: None,
            association: None,
            derived: false,
        }
    }
}
