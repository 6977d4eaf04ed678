//! What is uploaded becomes a [`ValidCertificate`], or a list of every fault in it.

use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::domain::{Fingerprint, KeyKind};

/// A field of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `cert`
    Cert,
    /// `key`
    Key,
    /// `ca`
    Ca,
}

/// One thing that is wrong: where, what, and what to do. Never a piece of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The field.
    pub field: Field,
    /// What is wrong.
    pub what: String,
    /// What to do; often a command.
    pub remedy: String,
}

/// What is uploaded, as text.
#[derive(Clone, Copy)]
pub struct Material<'a> {
    /// Client chain, PEM.
    pub cert: &'a str,
    /// Private key, PEM.
    pub key: &'a str,
    /// CA bundle, PEM.
    pub ca: &'a str,
    /// Leaves out chain, dates and EKU (they become warnings).
    pub skip_validation: bool,
}

/// A certificate that can be used: its key fits and rustls can sign with it.
pub struct ValidCertificate {
    /// What is sent: leaf first, completed from `ca`, without a self-signed root.
    pub certified: Arc<CertifiedKey>,
    /// The key as PKCS#8, PKCS#1 or SEC1 DER, as it came.
    pub key_der: Zeroizing<Vec<u8>>,
    /// The CA bundle.
    pub ca: Vec<CertificateDer<'static>>,
    /// Subject, RFC 4514.
    pub subject: String,
    /// Issuer, RFC 4514.
    pub issuer: String,
    /// Serial, upper-case hex.
    pub serial_number: String,
    /// Start of validity.
    pub not_before: OffsetDateTime,
    /// End of validity.
    pub not_after: OffsetDateTime,
    /// SHA-256 of the leaf.
    pub fingerprint: Fingerprint,
    /// SHA-256 of its public key.
    pub spki_fingerprint: Fingerprint,
    /// Kind of the key.
    pub key: KeyKind,
    /// DER subject names of the issuers of every certificate in the chain that is sent, leaf's issuer first
    /// (compared with the CA names an origin lists).
    pub issuer_names: Vec<Vec<u8>>,
    /// What is worth saying.
    pub warnings: Vec<String>,
    /// SHA-256 over the DER of chain, key and `ca` as uploaded: equal material, equal digest.
    pub digest: [u8; 32],
}

/// Checks everything and collects every fault.
///
/// # Errors
/// All faults, in field order.
pub fn validate(_material: Material<'_>, _now: OffsetDateTime) -> Result<ValidCertificate, Vec<Fault>> {
    todo!()
}
