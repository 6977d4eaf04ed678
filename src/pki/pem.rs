//! PEM text in, DER out. The only module that knows `rustls-pemfile`.
//!
//! - What tools and people do to PEM is understood: CRLF, a BOM, a literal `\n` instead of a line end, indented
//!   lines, everything on one line, text around the blocks, `EC PARAMETERS` in front of a key.
//! - Blocks are found before the parser sees them, because it silently skips labels that it does not know: an
//!   encrypted key would look like no key.
//! - Certificates are decoded by `rustls-pemfile`. Keys are decoded here, because it leaves their text in memory.
//! - A fault names the form found and a command that converts it, and never holds a piece of the input.

pub(super) mod form;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_pemfile::Item;
use zeroize::Zeroizing;

pub(super) use self::form::NEW_KEY;
use self::form::{Form, Wrapping};
use super::der::{self, Extent, Kind};
use super::validate::{Fault, Field};

/// Certificates taken in one `cert`.
const MAX_CHAIN: usize = 32;
/// Certificates taken in one `ca`.
const MAX_CA: usize = 128;
/// Certificates taken in one file of `[trust] anchors`.
const MAX_ANCHORS: usize = 1000;

/// Why a file of certificates was not understood. Says nothing of its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct PemError {
    /// What was found.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// A private key as it came: PKCS#8, PKCS#1 or SEC1 DER.
pub(super) struct PrivateKey {
    form: KeyForm,
    der: Zeroizing<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyForm {
    Pkcs8,
    Pkcs1,
    Sec1,
}

impl PrivateKey {
    /// Takes DER whose form its structure tells.
    pub(super) fn from_der(der: Zeroizing<Vec<u8>>) -> Option<Self> {
        let form = match der::kind(&der)? {
            Kind::Pkcs8Key => KeyForm::Pkcs8,
            Kind::Pkcs1Key => KeyForm::Pkcs1,
            Kind::Sec1Key => KeyForm::Sec1,
            _ => return None,
        };
        Some(Self { form, der })
    }

    pub(super) fn form(&self) -> KeyForm {
        self.form
    }

    pub(super) fn der(&self) -> &[u8] {
        &self.der
    }

    pub(super) fn into_der(self) -> Zeroizing<Vec<u8>> {
        self.der
    }

    /// As rustls wants it, without a copy.
    pub(super) fn as_rustls(&self) -> PrivateKeyDer<'_> {
        match self.form {
            KeyForm::Pkcs8 => PrivateKeyDer::Pkcs8(self.der.as_slice().into()),
            KeyForm::Pkcs1 => PrivateKeyDer::Pkcs1(self.der.as_slice().into()),
            KeyForm::Sec1 => PrivateKeyDer::Sec1(self.der.as_slice().into()),
        }
    }
}

/// The certificates of a `[trust] anchors` file: one or more, with any text around them.
///
/// # Errors
/// The first thing in it that is no certificate, or that there is none, or that there are more than 1000.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    certificate_blocks(Field::Ca, pem, MAX_ANCHORS).map_err(|faults| match faults.into_iter().next() {
        Some(Fault { what, remedy, .. }) => PemError { what, remedy: remedy.to_string() },
        None => PemError { what: "no certificate found".to_owned(), remedy: "name a PEM file".to_owned() },
    })
}

/// The certificates of `cert` or `ca`, in their order.
///
/// # Errors
/// Everything in it that is no certificate, each once.
pub(super) fn chain(field: Field, text: &str) -> Result<Vec<CertificateDer<'static>>, Vec<Fault>> {
    certificate_blocks(field, text, if field == Field::Cert { MAX_CHAIN } else { MAX_CA })
}

fn certificate_blocks(field: Field, text: &str, most: usize) -> Result<Vec<CertificateDer<'static>>, Vec<Fault>> {
    let text = normalised(text);
    let found = blocks(&text).map_err(|form| vec![form::fault(field, form, Wrapping::Pem)])?;
    if found.is_empty() {
        return Err(vec![form::without_armour(field, &text)]);
    }
    let mut certificates = Vec::new();
    let mut faults = Vec::new();
    for block in &found {
        match form::of_label(block.label) {
            // nginx and `openssl ecparam` leave these beside certificates; they mean nothing here.
            Form::EcParameters => {}
            Form::Certificate if certificates.len() >= most => {
                push(&mut faults, form::too_many(field, most));
                break;
            }
            Form::Certificate => match block.decode() {
                Ok(Decoded::Certificate(certificate)) => certificates.push(certificate),
                Ok(Decoded::Key(_)) => push(&mut faults, form::misplaced(field, Form::Key, block.label)),
                Err(form) => push(&mut faults, form::fault(field, form, Wrapping::Pem)),
            },
            Form::Key if block.is_encrypted() => {
                push(&mut faults, form::fault(field, Form::LegacyEncryptedKey, Wrapping::Pem));
            }
            form => push(&mut faults, form::misplaced(field, form, block.label)),
        }
    }
    if certificates.is_empty() && faults.is_empty() {
        faults.push(form::fault(field, Form::EcParameters, Wrapping::Pem));
    }
    if faults.is_empty() { Ok(certificates) } else { Err(faults) }
}

/// The one key of `key`.
///
/// # Errors
/// Everything in it that is not that key, each once.
pub(super) fn key(text: &str) -> Result<PrivateKey, Vec<Fault>> {
    const FIELD: Field = Field::Key;
    let text = normalised(text);
    let found = blocks(&text).map_err(|form| vec![form::fault(FIELD, form, Wrapping::Pem)])?;
    if found.is_empty() {
        return Err(vec![form::without_armour(FIELD, &text)]);
    }
    let mut keys: Vec<PrivateKey> = Vec::new();
    let mut faults = Vec::new();
    for block in &found {
        match form::of_label(block.label) {
            Form::EcParameters => {}
            Form::Key if block.is_encrypted() => {
                push(&mut faults, form::fault(FIELD, Form::LegacyEncryptedKey, Wrapping::Pem));
            }
            Form::Key => match block.decode() {
                Ok(Decoded::Key(key)) => keys.push(key),
                Ok(Decoded::Certificate(_)) => {
                    push(&mut faults, form::misplaced(FIELD, Form::Certificate, block.label));
                }
                Err(form) => push(&mut faults, form::fault(FIELD, form, Wrapping::Pem)),
            },
            form => push(&mut faults, form::misplaced(FIELD, form, block.label)),
        }
    }
    if keys.len() > 1 {
        push(&mut faults, form::two_keys(keys.len()));
    }
    match keys.pop() {
        Some(key) if faults.is_empty() => Ok(key),
        None if faults.is_empty() => Err(vec![form::fault(FIELD, Form::EcParameters, Wrapping::Pem)]),
        _ => Err(faults),
    }
}

/// Thirty-two CSRs are one complaint, not thirty-two.
fn push(faults: &mut Vec<Fault>, fault: Fault) {
    if !faults.contains(&fault) {
        faults.push(fault);
    }
}

/// Line ends become `\n`: CRLF, a lone CR, and the two characters backslash and `n` (or `r`) that JSON and
/// environment files leave behind. A BOM goes.
pub(super) fn normalised(text: &str) -> Zeroizing<String> {
    let text = text.trim_start_matches('\u{feff}');
    // Never longer than the input, so it never moves and leaves no copy of a key behind.
    let mut out = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\r' => {
                if rest.peek() == Some(&'\n') {
                    rest.next();
                }
                out.push('\n');
            }
            '\\' => {
                while rest.peek() == Some(&'\\') {
                    rest.next();
                }
                match rest.peek() {
                    Some('n' | 'r') => {
                        rest.next();
                        out.push('\n');
                    }
                    // A shell's line continuation.
                    Some('\n' | '\r') => {}
                    _ => out.push('\\'),
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// A block between its two armour lines.
pub(super) struct Block<'a> {
    pub(super) label: &'a str,
    body: &'a str,
    /// With its armour lines.
    pub(super) whole: &'a str,
}

enum Decoded {
    Certificate(CertificateDer<'static>),
    Key(PrivateKey),
}

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// All blocks, wherever in a line they begin.
///
/// # Errors
/// The damage of the first block whose armour is not whole.
pub(super) fn blocks(text: &str) -> Result<Vec<Block<'_>>, Form> {
    /// RFC 7468 sets no limit; no label in use is half as long.
    const MAX_LABEL: usize = 64;
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let begin = rest.find(BEGIN);
        if rest.find(END).is_some_and(|end| begin.is_none_or(|begin| end < begin)) {
            return Err(Form::NoBegin);
        }
        let Some(begin) = begin else { return Ok(found) };
        let after = &rest[begin + BEGIN.len()..];
        let length = after.find(DASHES).filter(|n| *n <= MAX_LABEL).ok_or(Form::BadArmour)?;
        let label = &after[..length];
        if label.contains('\n') {
            return Err(Form::BadArmour);
        }
        let body = &after[length + DASHES.len()..];
        let end = body.find(END).ok_or(Form::NoEnd)?;
        if body.find(BEGIN).is_some_and(|next| next < end) {
            return Err(Form::NoEnd);
        }
        let closing = &body[end + END.len()..];
        let closing = closing.strip_prefix(label).ok_or(Form::NoEnd)?;
        let armoured = &rest[begin..];
        rest = closing.strip_prefix(DASHES).ok_or(Form::NoEnd)?;
        found.push(Block { label, body: &body[..end], whole: &armoured[..armoured.len() - rest.len()] });
    }
}

impl Block<'_> {
    /// RFC 1421 headers of OpenSSL's old encrypted keys.
    pub(super) fn is_encrypted(&self) -> bool {
        self.body.lines().any(|line| {
            let line = line.trim_start();
            line.starts_with("DEK-Info:") || (line.starts_with("Proc-Type:") && line.contains("ENCRYPTED"))
        })
    }

    fn decode(&self) -> Result<Decoded, Form> {
        if form::of_label(self.label) != Form::Certificate {
            return self.key();
        }
        // Canonical form for the parser: a label that it knows, and a body without headers and white space.
        let canonical = format!("{BEGIN}CERTIFICATE-----\n{}\n{END}CERTIFICATE-----\n", *self.base64());
        let certificate = match rustls_pemfile::read_one_from_slice(canonical.as_bytes()) {
            Ok(Some((Item::X509Certificate(certificate), _))) => certificate,
            Ok(Some(_)) => return Err(Form::BadContent),
            Ok(None) | Err(_) => return Err(Form::BadBase64),
        };
        whole(&certificate)?;
        match der::kind(&certificate) {
            Some(Kind::Certificate) => Ok(Decoded::Certificate(certificate)),
            Some(kind) => Err(form::of_kind(kind)),
            None => Err(Form::BadContent),
        }
    }

    /// What may be a key is decoded here: the parser gathers the base64 in a buffer that it does not wipe.
    fn key(&self) -> Result<Decoded, Form> {
        let der = self.der()?;
        // Labels lie: PKCS#1 under "PRIVATE KEY" is common. The structure tells.
        match der::kind(&der) {
            Some(Kind::Certificate) => Err(Form::Certificate),
            Some(kind @ (Kind::Pkcs8Key | Kind::Pkcs1Key | Kind::Sec1Key)) => {
                PrivateKey::from_der(der).map(Decoded::Key).ok_or(form::of_kind(kind))
            }
            Some(kind) => Err(form::of_kind(kind)),
            None => Err(Form::BadContent),
        }
    }

    /// The content, which is one whole SEQUENCE.
    pub(super) fn der(&self) -> Result<Zeroizing<Vec<u8>>, Form> {
        let text = self.base64();
        let mut der = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
        let length = STANDARD.decode_slice(text.as_bytes(), &mut der).map_err(|_| Form::BadBase64)?;
        der.truncate(length);
        whole(&der)?;
        Ok(der)
    }

    /// The body without headers and white space, in a buffer that never grows.
    fn base64(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(self.body.len()));
        for line in self.body.lines().filter(|line| !line.contains(':')) {
            text.extend(line.chars().filter(|c| !c.is_whitespace()));
        }
        text
    }
}

fn whole(der: &[u8]) -> Result<(), Form> {
    match der::extent(der) {
        Extent::Whole => Ok(()),
        Extent::Short => Err(Form::Truncated),
        Extent::Other => Err(Form::BadContent),
    }
}
