//! The private key: what it is, whether rustls can sign with it, and if not, why.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::SigningKey;
use x509_parser::asn1_rs::{Any, FromDer as _, Oid};
use x509_parser::x509::SubjectPublicKeyInfo;

use super::super::der;
use super::super::pem::{KeyForm, NEW_KEY, PrivateKey};
use super::certificate::{PublicKey, curve, other_key, public_key};
use super::{Fault, FaultKind, Field};
use crate::domain::KeyKind;

/// Least bits of an RSA modulus.
pub(super) const MIN_RSA: u32 = 2048;
/// Most bits of an RSA modulus.
pub(super) const MAX_RSA: u32 = 8192;

/// A key that rustls signs with.
pub(super) struct Loaded {
    pub(super) signing: Arc<dyn SigningKey>,
    pub(super) kind: KeyKind,
    spki: SubjectPublicKeyInfoDer<'static>,
}

impl Loaded {
    /// The public half.
    pub(super) fn public_key(&self) -> Option<SubjectPublicKeyInfo<'_>> {
        SubjectPublicKeyInfo::from_der(self.spki.as_ref()).ok().map(|(_, spki)| spki)
    }
}

/// Loads a key.
///
/// # Errors
/// Why it cannot be used: too weak, of another kind, or damaged.
pub(super) fn load(key: &PrivateKey) -> Result<Loaded, Fault> {
    let signing = any_supported_type(&key.as_rustls()).map_err(|_| diagnose(key))?;
    let spki = signing.public_key().ok_or_else(|| diagnose(key))?.into_owned();
    let (_, parsed) = SubjectPublicKeyInfo::from_der(spki.as_ref()).map_err(|_| damaged())?;
    match public_key(&parsed) {
        PublicKey::Known(KeyKind::Rsa(bits)) if !(MIN_RSA..=MAX_RSA).contains(&bits) => Err(rsa_size(bits)),
        PublicKey::Known(kind) => Ok(Loaded { signing, kind, spki }),
        PublicKey::Other(name) => Err(unsupported(name)),
    }
}

/// Why rustls did not take a key. Looks at the algorithm and sizes alone.
fn diagnose(key: &PrivateKey) -> Fault {
    let algorithm = match key.form() {
        KeyForm::Pkcs1 => return rsa(key.der()),
        KeyForm::Sec1 => return ec(sec1_curve(key.der())),
        KeyForm::Pkcs8 => pkcs8_algorithm(key.der()),
    };
    let Some((oid, parameters, inner)) = algorithm else { return damaged() };
    match oid.as_str() {
        "1.2.840.113549.1.1.1" => rsa(inner),
        "1.2.840.10045.2.1" => ec(parameters.map(|tagged| (tagged.0, oid_text(tagged.1)))),
        "1.3.101.112" => damaged(),
        other => unsupported(other_key(other)),
    }
}

type Parameters<'a> = Option<(u8, &'a [u8])>;

/// Object identifier, parameters and inner key of a PKCS#8 key (RFC 5958 section 2).
fn pkcs8_algorithm(input: &[u8]) -> Option<(String, Parameters<'_>, &[u8])> {
    let (outer, _) = der::read(input)?;
    let values = der::children(outer.content)?;
    let algorithm = der::children(values.get(1)?.content)?;
    let oid = oid_text(algorithm.first()?.content)?;
    Some((oid, algorithm.get(1).map(|p| (p.tag, p.content)), values.get(2)?.content))
}

/// Tag and object identifier of the `[0]` parameters of a SEC1 key (RFC 5915 section 3).
fn sec1_curve(input: &[u8]) -> Option<(u8, Option<String>)> {
    let (outer, _) = der::read(input)?;
    let parameters = der::children(outer.content)?.into_iter().find(|v| v.tag == 0xa0)?;
    let (inner, _) = der::read(parameters.content)?;
    Some((inner.tag, oid_text(inner.content)))
}

fn oid_text(content: &[u8]) -> Option<String> {
    let length = u8::try_from(content.len()).ok().filter(|n| *n < 0x80)?;
    let encoded: Vec<u8> = [der::OID, length].iter().chain(content).copied().collect();
    let (_, any) = Any::from_der(&encoded).ok()?;
    Oid::try_from(any).ok().map(|oid| oid.to_id_string())
}

fn rsa(pkcs1: &[u8]) -> Fault {
    let modulus = der::read(pkcs1)
        .and_then(|(outer, _)| der::children(outer.content))
        .and_then(|values| values.get(1).map(|modulus| der::bits(modulus.content)));
    match modulus {
        Some(bits) if !(MIN_RSA..=MAX_RSA).contains(&bits) => rsa_size(bits),
        _ => damaged(),
    }
}

fn ec(parameters: Option<(u8, Option<String>)>) -> Fault {
    match parameters {
        Some((der::OID, Some(oid))) => match curve(&oid) {
            PublicKey::Known(_) => damaged(),
            PublicKey::Other(name) => unsupported(name),
        },
        Some((der::SEQUENCE, _)) => unsupported("EC with explicit parameters"),
        _ => damaged(),
    }
}

fn rsa_size(bits: u32) -> Fault {
    let what = if bits > MAX_RSA {
        format!("this RSA key has {bits} bits; egret takes at most {MAX_RSA}")
    } else {
        format!("this RSA key is too weak: {bits} bits; at least {MIN_RSA} are needed")
    };
    Fault::new(Field::Key, FaultKind::KeyInvalid, what, NEW_KEY)
}

fn unsupported(name: &str) -> Fault {
    Fault::new(
        Field::Key,
        FaultKind::KeyInvalid,
        format!(
            "egret cannot sign with a key of this kind ({name}); it takes RSA from 2048 bits, P-256, P-384, P-521 and Ed25519"
        ),
        NEW_KEY,
    )
}

pub(super) fn damaged() -> Fault {
    Fault::new(
        Field::Key,
        FaultKind::KeyInvalid,
        "this private key is damaged, or its parts do not belong together",
        "copy the file again; this says what is wrong with it: openssl pkey -in key.pem -check -noout",
    )
}
