//! Who signed a certificate, by which algorithm, and whether that is true.

use aws_lc_rs::signature::{self as algorithms, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::x509::AlgorithmIdentifier;

use super::super::der;
use super::certificate::{Certificate, PublicKey};
use crate::domain::KeyKind;

/// A digest of a signature algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Digest {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    RsaPkcs1(Digest),
    RsaPss(Digest),
    Ecdsa(Digest),
    Ed25519,
}

/// What a certificate's signature is worth, whoever made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strength {
    Strong,
    /// The digest's name: collisions can be made for it.
    Weak(&'static str),
    /// Not known here.
    Unknown,
}

/// The algorithms in use (RFC 8017, RFC 5758, RFC 8410), one row each.
fn algorithm(identifier: &AlgorithmIdentifier<'_>) -> Option<Algorithm> {
    Some(match identifier.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.5" | "1.3.14.3.2.29" => Algorithm::RsaPkcs1(Digest::Sha1),
        "1.2.840.113549.1.1.11" => Algorithm::RsaPkcs1(Digest::Sha256),
        "1.2.840.113549.1.1.12" => Algorithm::RsaPkcs1(Digest::Sha384),
        "1.2.840.113549.1.1.13" => Algorithm::RsaPkcs1(Digest::Sha512),
        "1.2.840.113549.1.1.10" => Algorithm::RsaPss(pss_digest(identifier)?),
        "1.2.840.10045.4.1" => Algorithm::Ecdsa(Digest::Sha1),
        "1.2.840.10045.4.3.2" => Algorithm::Ecdsa(Digest::Sha256),
        "1.2.840.10045.4.3.3" => Algorithm::Ecdsa(Digest::Sha384),
        "1.2.840.10045.4.3.4" => Algorithm::Ecdsa(Digest::Sha512),
        "1.3.101.112" => Algorithm::Ed25519,
        _ => return None,
    })
}

/// RSASSA-PSS-params (RFC 4055 section 3.1): `[0]` is the digest; without it, SHA-1.
fn pss_digest(identifier: &AlgorithmIdentifier<'_>) -> Option<Digest> {
    let parameters = identifier.parameters.as_ref()?;
    let first = der::children(parameters.data)?.into_iter().next();
    let Some(tagged) = first.filter(|v| v.tag == 0xa0) else { return Some(Digest::Sha1) };
    let (sequence, _) = der::read(tagged.content)?;
    let (oid, _) = der::read(sequence.content)?;
    // 2.16.840.1.101.3.4.2.{1,2,3} and 1.3.14.3.2.26
    match oid.content {
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 1] => Some(Digest::Sha256),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 2] => Some(Digest::Sha384),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 3] => Some(Digest::Sha512),
        [0x2b, 0x0e, 0x03, 0x02, 0x1a] => Some(Digest::Sha1),
        _ => None,
    }
}

/// What the signature on `certificate` is worth.
pub(super) fn strength(certificate: &Certificate<'_>) -> Strength {
    let identifier = &certificate.x509.signature_algorithm;
    match identifier.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.2" | "1.2.840.113549.1.1.3" | "1.2.840.113549.1.1.4" => {
            return Strength::Weak("MD5 or older");
        }
        // DSA with SHA-1.
        "1.2.840.10040.4.3" => return Strength::Weak("SHA-1"),
        _ => {}
    }
    match algorithm(identifier) {
        Some(Algorithm::RsaPkcs1(Digest::Sha1) | Algorithm::RsaPss(Digest::Sha1) | Algorithm::Ecdsa(Digest::Sha1)) => {
            Strength::Weak("SHA-1")
        }
        Some(_) => Strength::Strong,
        None => Strength::Unknown,
    }
}

/// The algorithm that `certificate` is signed with, as cfssl's helpers spell it, which is how Cloudflare shows it: the names
/// of Go's constants in crypto/x509 without `x509.`. RSA-PSS, which cfssl has no words for, after the same rule.
pub(super) fn name(certificate: &Certificate<'_>) -> &'static str {
    let identifier = &certificate.x509.signature_algorithm;
    match algorithm(identifier) {
        Some(Algorithm::RsaPkcs1(Digest::Sha1)) => "SHA1WithRSA",
        Some(Algorithm::RsaPkcs1(Digest::Sha256)) => "SHA256WithRSA",
        Some(Algorithm::RsaPkcs1(Digest::Sha384)) => "SHA384WithRSA",
        Some(Algorithm::RsaPkcs1(Digest::Sha512)) => "SHA512WithRSA",
        Some(Algorithm::RsaPss(Digest::Sha1)) => "SHA1WithRSAPSS",
        Some(Algorithm::RsaPss(Digest::Sha256)) => "SHA256WithRSAPSS",
        Some(Algorithm::RsaPss(Digest::Sha384)) => "SHA384WithRSAPSS",
        Some(Algorithm::RsaPss(Digest::Sha512)) => "SHA512WithRSAPSS",
        Some(Algorithm::Ecdsa(Digest::Sha1)) => "ECDSAWithSHA1",
        Some(Algorithm::Ecdsa(Digest::Sha256)) => "ECDSAWithSHA256",
        Some(Algorithm::Ecdsa(Digest::Sha384)) => "ECDSAWithSHA384",
        Some(Algorithm::Ecdsa(Digest::Sha512)) => "ECDSAWithSHA512",
        Some(Algorithm::Ed25519) => "Ed25519",
        None => match identifier.algorithm.to_id_string().as_str() {
            "1.2.840.113549.1.1.2" => "MD2WithRSA",
            "1.2.840.113549.1.1.4" => "MD5WithRSA",
            "1.2.840.10040.4.3" => "DSAWithSHA1",
            "2.16.840.1.101.3.4.3.2" => "DSAWithSHA256",
            _ => "Unknown",
        },
    }
}

/// What came of checking a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    Good,
    Bad,
    /// Nobody here can check such a signature (MD5, curves of other countries, RSA under 1024 bits).
    Unchecked,
}

/// Checks whether `issuer`'s key signed `certificate`.
pub(super) fn check(issuer: &Certificate<'_>, certificate: &Certificate<'_>) -> Checked {
    let Some(algorithm) = algorithm(&certificate.x509.signature_algorithm) else { return Checked::Unchecked };
    let Some(verifier) = verifier(algorithm, issuer.public_key) else {
        // A signature of one family cannot have been made by a key of another.
        return match (algorithm, issuer.public_key) {
            (Algorithm::Ecdsa(_) | Algorithm::Ed25519, PublicKey::Known(KeyKind::Rsa(_)))
            | (
                Algorithm::RsaPkcs1(_) | Algorithm::RsaPss(_) | Algorithm::Ed25519,
                PublicKey::Known(KeyKind::P256 | KeyKind::P384 | KeyKind::P521),
            )
            | (
                Algorithm::RsaPkcs1(_) | Algorithm::RsaPss(_) | Algorithm::Ecdsa(_),
                PublicKey::Known(KeyKind::Ed25519),
            ) => Checked::Bad,
            _ => Checked::Unchecked,
        };
    };
    let key = issuer.x509.public_key().subject_public_key.data.as_ref();
    let message: &[u8] = certificate.x509.tbs_certificate.as_ref();
    let signature = certificate.x509.signature_value.data.as_ref();
    match UnparsedPublicKey::new(verifier, key).verify(message, signature) {
        Ok(()) => Checked::Good,
        Err(_) => Checked::Bad,
    }
}

fn verifier(algorithm: Algorithm, key: PublicKey) -> Option<&'static dyn VerificationAlgorithm> {
    let PublicKey::Known(kind) = key else { return None };
    Some(match (algorithm, kind) {
        (Algorithm::RsaPkcs1(Digest::Sha1), KeyKind::Rsa(1024..=8192)) => {
            &algorithms::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY
        }
        (Algorithm::RsaPkcs1(Digest::Sha256), KeyKind::Rsa(1024..=8192)) => {
            &algorithms::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY
        }
        (Algorithm::RsaPkcs1(Digest::Sha384), KeyKind::Rsa(2048..=8192)) => &algorithms::RSA_PKCS1_2048_8192_SHA384,
        (Algorithm::RsaPkcs1(Digest::Sha512), KeyKind::Rsa(1024..=8192)) => {
            &algorithms::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY
        }
        (Algorithm::RsaPss(Digest::Sha256), KeyKind::Rsa(2048..=8192)) => &algorithms::RSA_PSS_2048_8192_SHA256,
        (Algorithm::RsaPss(Digest::Sha384), KeyKind::Rsa(2048..=8192)) => &algorithms::RSA_PSS_2048_8192_SHA384,
        (Algorithm::RsaPss(Digest::Sha512), KeyKind::Rsa(2048..=8192)) => &algorithms::RSA_PSS_2048_8192_SHA512,
        (Algorithm::Ecdsa(Digest::Sha1), KeyKind::P256) => &algorithms::ECDSA_P256_SHA1_ASN1,
        (Algorithm::Ecdsa(Digest::Sha256), KeyKind::P256) => &algorithms::ECDSA_P256_SHA256_ASN1,
        (Algorithm::Ecdsa(Digest::Sha384), KeyKind::P256) => &algorithms::ECDSA_P256_SHA384_ASN1,
        (Algorithm::Ecdsa(Digest::Sha512), KeyKind::P256) => &algorithms::ECDSA_P256_SHA512_ASN1,
        (Algorithm::Ecdsa(Digest::Sha256), KeyKind::P384) => &algorithms::ECDSA_P384_SHA256_ASN1,
        (Algorithm::Ecdsa(Digest::Sha384), KeyKind::P384) => &algorithms::ECDSA_P384_SHA384_ASN1,
        (Algorithm::Ecdsa(Digest::Sha512), KeyKind::P384) => &algorithms::ECDSA_P384_SHA512_ASN1,
        (Algorithm::Ecdsa(Digest::Sha1), KeyKind::P521) => &algorithms::ECDSA_P521_SHA1_ASN1,
        (Algorithm::Ecdsa(Digest::Sha256), KeyKind::P521) => &algorithms::ECDSA_P521_SHA256_ASN1,
        (Algorithm::Ecdsa(Digest::Sha384), KeyKind::P521) => &algorithms::ECDSA_P521_SHA384_ASN1,
        (Algorithm::Ecdsa(Digest::Sha512), KeyKind::P521) => &algorithms::ECDSA_P521_SHA512_ASN1,
        (Algorithm::Ed25519, KeyKind::Ed25519) => &algorithms::ED25519,
        _ => return None,
    })
}
