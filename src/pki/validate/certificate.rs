//! One certificate, read once.

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::super::der;
use crate::domain::{KeyKind, SKEW};

/// A public key, as far as egret can use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PublicKey {
    /// One that rustls could sign with (RSA of any size included).
    Known(KeyKind),
    /// Another kind; its name.
    Other(&'static str),
}

/// What an extended key usage allows to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// No such extension, or clientAuth, or any.
    Client,
    /// serverAuth, not clientAuth.
    ServerOnly,
    /// Neither.
    Neither,
}

/// A certificate and what is asked of it more than once.
pub(super) struct Certificate<'a> {
    pub(super) der: &'a CertificateDer<'static>,
    pub(super) x509: X509Certificate<'a>,
    pub(super) public_key: PublicKey,
    pub(super) purpose: Purpose,
    /// basicConstraints says CA, or it is an X.509 v1 certificate, which has no way to say it, issued by itself.
    pub(super) is_ca: bool,
    /// basicConstraints says CA.
    pub(super) says_ca: bool,
    /// keyUsage is absent or has keyCertSign.
    pub(super) may_sign: bool,
    /// keyUsage is absent or has digitalSignature, which TLS clients need.
    pub(super) may_authenticate: bool,
    /// How many CAs may stand between it and the leaf.
    pub(super) path_length: Option<u32>,
}

impl<'a> Certificate<'a> {
    /// Reads a certificate; `None` if it is not one, or if one of the extensions that decide here is malformed.
    pub(super) fn parse(der: &'a CertificateDer<'static>) -> Option<Self> {
        let (rest, x509) = x509_parser::parse_x509_certificate(der).ok()?;
        if !rest.is_empty() || !names_one_algorithm(der) {
            return None;
        }
        // A malformed extension would otherwise look like an absent one, and absent means allowed.
        let malformed = |e: &ParsedExtension<'_>| matches!(e, ParsedExtension::ParseError { .. });
        let deciding = ["2.5.29.15", "2.5.29.19", "2.5.29.37"];
        if x509
            .extensions()
            .iter()
            .any(|e| malformed(e.parsed_extension()) && deciding.contains(&e.oid.to_id_string().as_str()))
        {
            return None;
        }
        let constraints = x509.basic_constraints().ok()?.map(|c| (c.value.ca, c.value.path_len_constraint));
        let usage = x509.key_usage().ok()?.map(|u| (u.value.key_cert_sign(), u.value.digital_signature()));
        let purpose = match x509.extended_key_usage().ok()?.map(|u| u.value) {
            None => Purpose::Client,
            Some(usage) if usage.any || usage.client_auth => Purpose::Client,
            Some(usage) if usage.server_auth => Purpose::ServerOnly,
            Some(_) => Purpose::Neither,
        };
        let self_issued = x509.subject().as_raw() == x509.issuer().as_raw();
        let is_ca = constraints.map_or(x509.version().0 == 0 && self_issued, |(ca, _)| ca);
        Some(Self {
            der,
            public_key: public_key(x509.public_key()),
            purpose,
            is_ca,
            says_ca: constraints.is_some_and(|(ca, _)| ca),
            may_sign: usage.is_none_or(|(sign, _)| sign),
            may_authenticate: usage.is_none_or(|(_, signature)| signature),
            path_length: constraints.and_then(|(_, length)| length),
            x509,
        })
    }

    /// DER of the subject.
    pub(super) fn subject(&self) -> &[u8] {
        self.x509.tbs_certificate.subject.as_raw()
    }

    /// DER of the issuer.
    pub(super) fn issuer(&self) -> &[u8] {
        self.x509.tbs_certificate.issuer.as_raw()
    }

    pub(super) fn not_before(&self) -> OffsetDateTime {
        self.x509.validity().not_before.to_datetime()
    }

    pub(super) fn not_after(&self) -> OffsetDateTime {
        self.x509.validity().not_after.to_datetime()
    }

    /// Within its validity, five minutes of skew forgiven at both ends.
    pub(super) fn is_current(&self, now: OffsetDateTime) -> bool {
        now.saturating_add(SKEW) >= self.not_before() && now.saturating_sub(SKEW) <= self.not_after()
    }

    /// Whether both hold the same public key.
    pub(super) fn has_key(&self, spki: &SubjectPublicKeyInfo<'_>) -> bool {
        // Not the DER: CAs leave out the NULL parameters of rsaEncryption now and then, and a curve may be spelled out.
        let own = self.x509.public_key();
        own.algorithm.algorithm == spki.algorithm.algorithm
            && own.subject_public_key.data == spki.subject_public_key.data
            && (matches!(self.public_key, PublicKey::Other(_)) || self.public_key == public_key(spki))
    }
}

/// RFC 5280 section 4.1.1.2: the signature's algorithm stands inside and outside of what is signed, and must be the
/// same byte for byte, or what is outside could be changed.
fn names_one_algorithm(certificate: &[u8]) -> bool {
    let algorithms = || {
        let (outer, _) = der::read(certificate)?;
        let values = der::children(outer.content)?;
        let signed = der::children(values.first()?.content)?;
        // The version, `[0]`, is left out in version 1.
        let inside = signed.iter().skip_while(|v| v.tag != der::INTEGER).nth(1)?;
        Some((*inside, *values.get(1)?))
    };
    algorithms().is_some_and(|(inside, outside)| inside == outside)
}

/// The kind of a public key.
pub(super) fn public_key(spki: &SubjectPublicKeyInfo<'_>) -> PublicKey {
    match spki.algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => {
            let modulus = der::read(&spki.subject_public_key.data)
                .and_then(|(sequence, _)| der::read(sequence.content))
                .filter(|(modulus, _)| modulus.tag == der::INTEGER);
            match modulus {
                Some((modulus, _)) => PublicKey::Known(KeyKind::Rsa(der::bits(modulus.content))),
                None => PublicKey::Other("malformed RSA"),
            }
        }
        "1.2.840.10045.2.1" => {
            let curve = spki.algorithm.parameters.as_ref().filter(|p| p.header.tag().0 == u32::from(der::OID));
            let curve = curve.and_then(|p| p.as_oid().ok());
            match curve {
                Some(curve) => self::curve(&curve.to_id_string()),
                None => PublicKey::Other("EC with explicit parameters"),
            }
        }
        "1.3.101.112" => PublicKey::Known(KeyKind::Ed25519),
        other => PublicKey::Other(other_key(other)),
    }
}

/// A curve by its object identifier.
pub(super) fn curve(oid: &str) -> PublicKey {
    match oid {
        "1.2.840.10045.3.1.7" => PublicKey::Known(KeyKind::P256),
        "1.3.132.0.34" => PublicKey::Known(KeyKind::P384),
        "1.3.132.0.35" => PublicKey::Known(KeyKind::P521),
        "1.3.132.0.10" => PublicKey::Other("EC on secp256k1"),
        "1.3.132.0.33" => PublicKey::Other("EC on P-224"),
        "1.2.840.10045.3.1.1" => PublicKey::Other("EC on P-192"),
        brainpool if brainpool.starts_with("1.3.36.3.3.2.8.1.1.") => PublicKey::Other("EC on a Brainpool curve"),
        _ => PublicKey::Other("EC on an unusual curve"),
    }
}

/// The name of a key algorithm that rustls cannot sign with.
pub(super) fn other_key(oid: &str) -> &'static str {
    match oid {
        "1.2.840.113549.1.1.10" => "RSA restricted to PSS",
        "1.2.840.10040.4.1" => "DSA",
        "1.2.840.113549.1.3.1" | "1.2.840.10046.2.1" => "Diffie-Hellman",
        "1.3.101.110" => "X25519",
        "1.3.101.111" => "X448",
        "1.3.101.113" => "Ed448",
        "2.16.840.1.101.3.4.3.17" | "2.16.840.1.101.3.4.3.18" | "2.16.840.1.101.3.4.3.19" => "ML-DSA",
        _ => "unknown",
    }
}
