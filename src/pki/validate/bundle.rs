//! CA certificates that are to vouch for servers: every one of them must be able to.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use super::super::{names, pem};
use super::certificate::{Certificate, PublicKey};
use super::key::{MAX_RSA, MIN_RSA};
use super::{Fault, FaultKind, Field, Findings, digest_of, finished, kept, parse_all, position, sha256, signature};
use crate::domain::time::rfc3339;
use crate::domain::{Fingerprint, KeyKind, SKEW};

/// A CA with fewer days left than this gets a warning.
const SOON: time::Duration = time::Duration::days(30);

/// CA certificates, each fit to be a trust anchor. The facts are those of the first.
#[derive(Debug, Clone)]
pub struct ValidBundle {
    /// In their order.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Subject, RFC 4514.
    pub subject: String,
    /// Issuer, RFC 4514.
    pub issuer: String,
    /// Serial, upper-case hex.
    pub serial_number: String,
    /// The algorithm of its signature, as cfssl spells it.
    pub signature: &'static str,
    /// Start of validity.
    pub not_before: OffsetDateTime,
    /// End of validity.
    pub not_after: OffsetDateTime,
    /// SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// SHA-256 of its public key.
    pub spki_fingerprint: Fingerprint,
    /// What is worth saying, of any of them.
    pub warnings: Vec<String>,
    /// SHA-256 over the DER of all: equal certificates in the same order, equal digest, and never that of a client
    /// certificate's material.
    pub digest: [u8; 32],
}

/// Checks CA certificates (PEM, one to as many as `ca` takes) and collects every fault; of certificates with the same fault
/// the first is named.
///
/// webpki does not look at an anchor's dates, so one that has expired would vouch on; it is refused here. One that is not
/// valid yet is taken, with a warning: people register the next CA before the day.
///
/// # Errors
/// All faults, of [`Field::Ca`].
pub fn validate_bundle(pem: &str, now: OffsetDateTime) -> Result<ValidBundle, Vec<Fault>> {
    let mut findings = Findings::default();
    let ders = kept(pem::chain(Field::Ca, pem), &mut findings);
    let parsed = ders.as_deref().and_then(|ders| parse_all(Field::Ca, ders, &mut findings));
    if let Some(parsed) = &parsed {
        judge(parsed, now, &mut findings);
    }
    let faults = findings.close(false);
    if !faults.is_empty() {
        return Err(faults);
    }
    let (Some(ders), Some(parsed)) = (&ders, parsed) else {
        unreachable!("whatever could not be read left a fault");
    };
    let first = parsed.first().expect("PEM without a certificate left a fault");
    let mut context = digest_of("egret bundle");
    context.add_all(ders);
    Ok(ValidBundle {
        certificates: ders.clone(),
        subject: names::rfc4514(first.x509.subject()),
        issuer: names::rfc4514(first.x509.issuer()),
        serial_number: names::serial(first.x509.raw_serial()),
        signature: signature::name(first),
        not_before: first.not_before(),
        not_after: first.not_after(),
        fingerprint: Fingerprint(sha256(first.der)),
        spki_fingerprint: Fingerprint(sha256(first.x509.public_key().raw)),
        warnings: findings.warnings,
        digest: finished(context.0),
    })
}

fn judge(parsed: &[Certificate<'_>], now: OffsetDateTime, findings: &mut Findings) {
    let expired = |c: &Certificate<'_>| now.saturating_sub(SKEW) > c.not_after();
    if let Some((place, ())) = first(parsed, |c| (!c.is_ca).then_some(())) {
        findings.hard(
            Field::Ca,
            FaultKind::CaWanted,
            format!("{place} is no CA certificate (its basic constraints lack CA:TRUE)"),
            "send the certificate of the CA that issued it, whose name is: openssl x509 -in ca.pem -noout -issuer; a client \
             certificate is uploaded with its private key, and without ca set to true",
        );
    }
    if let Some((place, until)) = first(parsed, |c| expired(c).then(|| c.not_after())) {
        findings.hard(
            Field::Ca,
            FaultKind::Expired,
            format!("{place} expired at {}", rfc3339(until)),
            "send a renewed one, or leave it out if it is not needed any more",
        );
    }
    if let Some((place, why)) = first(parsed, incapable) {
        findings.hard(
            Field::Ca,
            FaultKind::Unusable,
            format!("{place} cannot be a trust anchor: {why}"),
            "leave it out, or send the CA's certificate with another key (RSA of 2048 to 8192 bits, P-256, P-384, P-521 or \
             Ed25519); this shows what it has: openssl x509 -in ca.pem -noout -text",
        );
    }
    for (at, certificate) in parsed.iter().enumerate().filter(|(_, c)| c.is_ca && !expired(c)) {
        let place = position(at, parsed.len());
        if now.saturating_add(SKEW) < certificate.not_before() {
            let from = rfc3339(certificate.not_before());
            findings
                .warnings
                .push(format!("{place} is not valid before {from}; servers are verified by it all the same"));
        } else if certificate.not_after() - now < SOON {
            findings.warnings.push(format!("{place} expires at {}", rfc3339(certificate.not_after())));
        }
        if !certificate.may_sign {
            findings
                .warnings
                .push(format!("the key usage of {place} lacks keyCertSign; servers are verified by it all the same"));
        }
    }
}

/// Why no server could ever be verified by it.
fn incapable(certificate: &Certificate<'_>) -> Option<String> {
    match certificate.public_key {
        PublicKey::Known(KeyKind::Rsa(bits)) if !(MIN_RSA..=MAX_RSA).contains(&bits) => {
            Some(format!("egret checks no signature of an RSA key with {bits} bits"))
        }
        PublicKey::Known(_) => {
            let refused = RootCertStore::empty().add(certificate.der.clone()).is_err();
            refused.then(|| "it is not built as RFC 5280 says".to_owned())
        }
        PublicKey::Other(name) => Some(format!("egret checks no signature of a key of its kind ({name})")),
    }
}

/// The first certificate of which there is something to say: its place in words, with how many more there are, and what.
fn first<T>(parsed: &[Certificate<'_>], say: impl Fn(&Certificate<'_>) -> Option<T>) -> Option<(String, T)> {
    let mut said = parsed.iter().enumerate().filter_map(|(at, c)| say(c).map(|what| (at, what)));
    let (at, what) = said.next()?;
    let place = position(at, parsed.len());
    Some(match said.count() {
        0 => (place, what),
        more => (format!("{place} (and {more} more)"), what),
    })
}
