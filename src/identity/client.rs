//! One client certificate, its key parsed and ready to sign.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::asked::record_signed;
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
        let mut key = Arc::unwrap_or_clone(key);
        key.key = Arc::new(Witnessed(key.key));
        Self { info, key: Arc::new(key), issuer_names }
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

/// A key that notes when it signs: a client signs in a handshake when its certificate goes out, and at no other time.
struct Witnessed(Arc<dyn SigningKey>);

impl SigningKey for Witnessed {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.0.choose_scheme(offered)?;
        Some(Box::new(WitnessedSigner(signer)))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl fmt::Debug for Witnessed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witnessed")
    }
}

struct WitnessedSigner(Box<dyn Signer>);

impl Signer for WitnessedSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let signature = self.0.sign(message)?;
        record_signed();
        Ok(signature)
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}

impl fmt::Debug for WitnessedSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WitnessedSigner")
    }
}
