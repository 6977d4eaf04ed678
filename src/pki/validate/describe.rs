//! What a chain says of itself, without its key.

use time::OffsetDateTime;

use super::super::{names, pem};
use super::certificate::{Certificate, PublicKey};
use super::{sha256, signature};
use crate::domain::{CertificateId, CertificateInfo, Fingerprint, Holder, Source};

/// The facts of the certificate that a chain (PEM) would be presented with: the first that is no CA, else the first.
/// Nothing is validated, and whether a key belongs to it is not known. `skip_validation` and `source` are taken over.
///
/// # Errors
/// In words: not PEM, or no certificate whose key egret could use.
pub fn describe(
    chain: &str,
    id: CertificateId,
    skip_validation: bool,
    source: Source,
    now: OffsetDateTime,
) -> Result<CertificateInfo, String> {
    let ders = pem::certificates(chain).map_err(|error| error.to_string())?;
    let read: Vec<_> = ders.iter().filter_map(Certificate::parse).collect();
    let leaf = read.iter().find(|c| !c.is_ca).or_else(|| read.first());
    let leaf = leaf.ok_or("holds no certificate that can be read")?;
    let PublicKey::Known(key) = leaf.public_key else {
        return Err("holds a certificate with a kind of key that egret cannot use".to_owned());
    };
    Ok(CertificateInfo {
        id,
        subject: names::rfc4514(leaf.x509.subject()),
        issuer: names::rfc4514(leaf.x509.issuer()),
        serial_number: names::serial(leaf.x509.raw_serial()),
        signature: signature::name(leaf),
        not_before: leaf.not_before(),
        not_after: leaf.not_after(),
        fingerprint: Fingerprint(sha256(leaf.der)),
        spki_fingerprint: Fingerprint(sha256(leaf.x509.public_key().raw)),
        key,
        chain_length: ders.len(),
        uploaded_at: now,
        warnings: Vec::new(),
        skip_validation,
        source,
        holder: Holder::Project,
    })
}
