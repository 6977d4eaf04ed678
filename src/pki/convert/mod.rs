//! What people are handed (PKCS#12, encrypted keys, DER) becomes the PEM that egret takes.
//!
//! - This runs on the client's side: a passphrase never reaches the API, and the server never derives a key from one.
//! - A file may come from somebody hostile: what its key derivation costs is read and capped before it is paid.
//! - Text that needs no conversion is handed on byte for byte; what is wrong with it, the API says.
//! - A fault names the form found and the remedy, and holds nothing of the input but names of certificates.
//!
//! `p12-keystore` keeps decrypted keys in memory that it does not wipe. That is why this belongs into a command that
//! ends soon, and never into a process that stays.

mod cost;
mod pkcs12;
mod pkcs8;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

pub use self::pkcs12::{Pkcs12, pkcs12};
use super::der::{self, Kind};
use super::pem::form::{self, Form, Wrapping};
use super::pem::{Block, blocks, normalised};
use super::validate::{Fault, Field};

/// Why a file was not converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// It is encrypted, and no passphrase was given.
    #[error("it is encrypted, and its passphrase is needed")]
    PassphraseNeeded,
    /// It does not open with this one.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// It is something else, or cannot be read.
    #[error("{what}; {remedy}")]
    Refused {
        /// What was found.
        what: String,
        /// What to do.
        remedy: String,
    },
}

impl ConvertError {
    fn refused(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), remedy: remedy.into() }
    }
}

impl From<Fault> for ConvertError {
    fn from(fault: Fault) -> Self {
        Self::Refused { what: fault.what, remedy: fault.remedy.to_string() }
    }
}

/// A file of certificates, and the key that it may hold beside them.
pub struct Bundle {
    /// The certificates, PEM.
    pub certificates: String,
    /// The key, PEM, not encrypted.
    pub key: Option<Zeroizing<String>>,
}

/// CA certificates: PEM as it is, one certificate in DER as PEM.
///
/// # Errors
/// [`ConvertError::Refused`].
pub fn certificates(bytes: &[u8]) -> Result<String, ConvertError> {
    match text(bytes) {
        Some(text) => Ok(text.to_owned()),
        None => certificate(Field::Ca, bytes),
    }
}

/// A client certificate with its chain, PEM or DER, and the key that a PEM file may hold as well. The key never stays
/// among the certificates; with `with_key` it is converted and handed back, else it is left alone.
///
/// # Errors
/// [`ConvertError`]; [`ConvertError::PassphraseNeeded`] only with `with_key`.
pub fn bundle(bytes: &[u8], with_key: bool, passphrase: Option<&[u8]>) -> Result<Bundle, ConvertError> {
    let Some(text) = text(bytes) else {
        return Ok(Bundle { certificates: certificate(Field::Cert, bytes)?, key: None });
    };
    let normal = normalised(text);
    // Damaged armour is the API's to explain: it says which.
    let found = blocks(&normal).unwrap_or_default();
    if !found.iter().any(is_key) {
        return Ok(Bundle { certificates: text.to_owned(), key: None });
    }
    let others = found.iter().filter(|b| !is_key(b) && form::of_label(b.label) != Form::EcParameters);
    let certificates: String = others.map(|block| format!("{}\n", block.whole)).collect();
    if certificates.is_empty() {
        return Err(form::fault(Field::Cert, Form::Key, Wrapping::Pem).into());
    }
    let key = if with_key { Some(key_of(&found, passphrase)?) } else { None };
    Ok(Bundle { certificates, key })
}

/// A private key, PEM or DER, encrypted or not. Certificates beside it are left out.
///
/// # Errors
/// [`ConvertError`].
pub fn key(bytes: &[u8], passphrase: Option<&[u8]>) -> Result<Zeroizing<String>, ConvertError> {
    const FIELD: Field = Field::Key;
    if let Some(text) = text(bytes) {
        let normal = normalised(text);
        return match blocks(&normal) {
            Ok(found) if found.iter().any(is_key) => key_of(&found, passphrase),
            _ => Ok(Zeroizing::new(text.to_owned())),
        };
    }
    match der::kind(bytes) {
        Some(Kind::Pkcs8Key) => Ok(armoured("PRIVATE KEY", bytes)),
        Some(Kind::Pkcs1Key) => Ok(armoured("RSA PRIVATE KEY", bytes)),
        Some(Kind::Sec1Key) => Ok(armoured("EC PRIVATE KEY", bytes)),
        Some(Kind::EncryptedKey) => Ok(armoured("PRIVATE KEY", &pkcs8::decrypt(bytes, passphrase)?)),
        other => Err(unfit(FIELD, bytes, other)),
    }
}

/// What may be PEM: text. Anything else is binary, and its structure tells what it is.
fn text(bytes: &[u8]) -> Option<&str> {
    // DER of a few bytes may be text by accident, and is nothing that anybody uploads.
    std::str::from_utf8(bytes).ok().filter(|text| !text.starts_with('0') || !text.contains('\0'))
}

fn is_key(block: &Block<'_>) -> bool {
    matches!(form::of_label(block.label), Form::Key | Form::EncryptedKey)
}

/// The one key among the blocks of a file.
fn key_of(found: &[Block<'_>], passphrase: Option<&[u8]>) -> Result<Zeroizing<String>, ConvertError> {
    let keys: Vec<&Block<'_>> = found.iter().filter(|b| is_key(b)).collect();
    let &[key] = keys.as_slice() else { return Err(form::two_keys(keys.len()).into()) };
    if key.is_encrypted() {
        return Err(ConvertError::refused(
            "this private key is encrypted in OpenSSL's old form (Proc-Type: 4,ENCRYPTED), which egret does not read",
            "convert it, it stays encrypted: openssl pkcs8 -topk8 -in client.key -out client-new.key",
        ));
    }
    if form::of_label(key.label) != Form::EncryptedKey {
        let mut text = Zeroizing::new(String::with_capacity(key.whole.len() + 1));
        text.push_str(key.whole);
        text.push('\n');
        return Ok(text);
    }
    let der = key.der().map_err(|form| form::fault(Field::Key, form, Wrapping::Pem))?;
    // Labels lie; what is in there tells.
    match der::kind(&der) {
        Some(Kind::EncryptedKey) => Ok(armoured("PRIVATE KEY", &pkcs8::decrypt(&der, passphrase)?)),
        _ => Err(form::fault(Field::Key, Form::BadContent, Wrapping::Pem).into()),
    }
}

/// One certificate in DER.
fn certificate(field: Field, bytes: &[u8]) -> Result<String, ConvertError> {
    match der::kind(bytes) {
        Some(Kind::Certificate) => Ok(armoured("CERTIFICATE", bytes).to_string()),
        other => Err(unfit(field, bytes, other)),
    }
}

/// The fault of binary content that is not what was asked for.
fn unfit(field: Field, bytes: &[u8], kind: Option<Kind>) -> ConvertError {
    match kind {
        Some(Kind::Pkcs12) => ConvertError::refused(
            "this is a PKCS#12 file (.p12, .pfx)",
            "name it with --p12, in place of --cert and --key",
        ),
        Some(kind) => {
            let form = form::of_kind(kind);
            // In the words for PEM: that it is DER is not what is wrong with it.
            let as_pem = matches!(form, Form::Certificate | Form::Key);
            form::fault(field, form, if as_pem { Wrapping::Pem } else { Wrapping::Binary }).into()
        }
        None if bytes.starts_with(&[0xfe, 0xed, 0xfe, 0xed]) => java_keystore(),
        None if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) => ConvertError::refused(
            "this is text in UTF-16, as a Windows shell writes it",
            "write it again as plain text: iconv -f UTF-16 -t UTF-8 in.txt > out.pem",
        ),
        None => ConvertError::refused(
            "this is binary, and no form that egret knows (PEM, DER, PKCS#12)",
            "is it the right file? this shows what openssl makes of it: openssl asn1parse -inform DER -in FILE",
        ),
    }
}

fn java_keystore() -> ConvertError {
    ConvertError::refused(
        "this is a Java keystore in Java's own form (JKS)",
        "convert it, and name the result with --p12: keytool -importkeystore -srckeystore client.jks -destkeystore \
         client.p12 -deststoretype PKCS12",
    )
}

/// PEM with lines of 64 characters (RFC 7468 section 3). Wiped when dropped; no copy is left behind.
fn armoured(label: &str, der: &[u8]) -> Zeroizing<String> {
    const LINE: usize = 64;
    let mut encoded = Zeroizing::new(vec![0; base64::encoded_len(der.len(), true).unwrap_or_default()]);
    let length = STANDARD.encode_slice(der, &mut encoded).expect("the buffer has the length that base64 names");
    let mut out = Zeroizing::new(String::with_capacity(length + length / LINE + 2 * label.len() + 64));
    out.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in encoded[..length].chunks(LINE) {
        out.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
