//! One client certificate, its key parsed and ready to sign.

use std::fmt;
use std::sync::Arc;

use rustls::sign::CertifiedKey;

use crate::domain::CertificateInfo;

/// What the TLS layer presents: the chain and the key of one certificate.
pub struct ClientIdentity {
    info: Arc<CertificateInfo>,
    key: Arc<CertifiedKey>,
    /// DER names of the issuers of every certificate in the chain.
    issuer_names: Vec<Vec<u8>>,
}

impl ClientIdentity {
    /// An identity of material that was validated.
    #[must_use]
    pub fn new(info: Arc<CertificateInfo>, key: Arc<CertifiedKey>, issuer_names: Vec<Vec<u8>>) -> Self {
        Self { info, key, issuer_names }
    }

    /// What may be told of it.
    #[must_use]
    pub fn info(&self) -> &Arc<CertificateInfo> {
        &self.info
    }

    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// Whether one of these CA names (DER) issued a certificate of the chain.
    pub fn issued_by_any<'a>(&self, names: impl IntoIterator<Item = &'a [u8]>) -> bool {
        names.into_iter().any(|name| self.issuer_names.iter().any(|own| own == name))
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientIdentity({} {})", self.info.id, self.info.fingerprint)
    }
}
