//! What is wrong with an upload, told in the words of whoever is asked: the same fault has a name for a field, and a
//! remedy, that differ between the dialects of the API and the configuration file.

use std::borrow::Cow;
use std::fmt;

/// A field of an upload, in the order of the wire contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// The client certificate with its chain.
    Cert,
    /// Its private key.
    Key,
    /// CA certificates.
    Ca,
}

impl Field {
    /// The name in Vercel's dialect and in configuration files: `cert`, `key` or `ca`. [`FieldWords::of`] gives others.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        FieldWords::API.of(self)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What sort of thing is wrong, for callers that give numbers. The numbers are those of Cloudflare's API that fit best
/// (it publishes none for these endpoints; they are its custom certificates').
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// No certificates can be read where they are wanted: no PEM, damaged, or something else (1408).
    Unparsable,
    /// There is no client certificate, only those of CAs (2101).
    NoLeaf,
    /// A CA certificate is wanted, and this is none (1411).
    CaWanted,
    /// The private key cannot be read, or egret cannot sign with it (2106).
    KeyInvalid,
    /// The private key is another certificate's (2200).
    KeyMismatch,
    /// The certificates do not form a chain, or do not lead where they should (2100).
    Chain,
    /// The validity has ended (1002).
    Expired,
    /// The validity has not begun (1002).
    NotYetValid,
    /// It can be read, and is not fit for its purpose: its extended key usage, its signature, its key (1002).
    Unusable,
}

/// How fields and switches are called where a fault is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldWords {
    /// Where the client certificate goes.
    pub cert: &'static str,
    /// Where its key goes.
    pub key: &'static str,
    /// Where CA certificates go; `None` if an upload has no place for them.
    pub ca: Option<&'static str>,
    /// What leaves validation out, as an order; `None` if nothing does.
    pub skip: Option<&'static str>,
    /// Whether `egret certs upload` can do the upload that is told of.
    pub command: bool,
}

impl FieldWords {
    /// Vercel's dialect.
    pub const API: Self =
        Self { cert: "cert", key: "key", ca: Some("ca"), skip: Some("set skipValidation"), command: true };
    /// Certificates that a configuration file declares.
    pub const FILES: Self = Self { skip: Some("write skip_validation = true"), ..Self::API };
    /// Cloudflare's dialect, certificates of a zone and of its hostnames.
    pub const ZONE: Self = Self { cert: "certificate", key: "private_key", ca: None, skip: None, command: false };
    /// Cloudflare's dialect, certificates and CA bundles of an account, which go into one field.
    pub const ACCOUNT: Self = Self { cert: "certificates", ca: Some("certificates"), ..Self::ZONE };

    /// The name of a field. Where there is none for CA certificates it is that of the certificate.
    #[must_use]
    pub fn of(&self, field: Field) -> &'static str {
        match field {
            Field::Cert => self.cert,
            Field::Key => self.key,
            Field::Ca => self.ca.unwrap_or(self.cert),
        }
    }
}

/// A part of a remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::pki) enum Part {
    /// The same for everybody.
    Text(Cow<'static, str>),
    /// A field's name.
    Name(Field),
    /// The fields that take certificates: "cert or ca".
    Certificates,
    /// Only where validation can be left out: this, the order that does so, and this.
    Skip(&'static str, &'static str),
    /// Only where `egret certs upload` is of use.
    Command(&'static str),
}

impl From<&'static str> for Part {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Part {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

/// What to do; often a command. As text ([`fmt::Display`]) it speaks Vercel's dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remedy(Vec<Part>);

impl Remedy {
    /// In these words.
    #[must_use]
    pub fn told(&self, words: &FieldWords) -> String {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Name(field) => out.push_str(words.of(*field)),
                Part::Certificates => {
                    out.push_str(words.cert);
                    if let Some(ca) = words.ca.filter(|ca| *ca != words.cert) {
                        out.push_str(" or ");
                        out.push_str(ca);
                    }
                }
                Part::Skip(before, after) => {
                    if let Some(skip) = words.skip {
                        out.push_str(before);
                        out.push_str(skip);
                        out.push_str(after);
                    }
                }
                Part::Command(text) => out.push_str(if words.command { text } else { "" }),
            }
        }
        out
    }
}

impl<const N: usize> From<[Part; N]> for Remedy {
    fn from(parts: [Part; N]) -> Self {
        Self(parts.into())
    }
}

impl From<&'static str> for Remedy {
    fn from(text: &'static str) -> Self {
        Self(vec![text.into()])
    }
}

impl From<String> for Remedy {
    fn from(text: String) -> Self {
        Self(vec![text.into()])
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told(&FieldWords::API))
    }
}

/// One thing that is wrong: where, what, and what to do. Never a piece of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The field.
    pub field: Field,
    /// The sort.
    pub kind: FaultKind,
    /// What is wrong. It names no field but `ca`, and that only where there is one.
    pub what: String,
    /// What to do.
    pub remedy: Remedy,
}

impl Fault {
    /// A fault.
    #[must_use]
    pub fn new(field: Field, kind: FaultKind, what: impl Into<String>, remedy: impl Into<Remedy>) -> Self {
        Self { field, kind, what: what.into(), remedy: remedy.into() }
    }

    /// `field: what; remedy` in these words.
    #[must_use]
    pub fn told(&self, words: &FieldWords) -> String {
        format!("{}: {}; {}", words.of(self.field), self.what, self.remedy.told(words))
    }

    /// The remedy for a certificate that a configuration file declares: keys are spelled otherwise there than in the API.
    #[must_use]
    pub fn remedy_in_files(&self) -> String {
        self.remedy.told(&FieldWords::FILES)
    }
}

impl fmt::Display for Fault {
    /// [`Fault::told`] in Vercel's dialect.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told(&FieldWords::API))
    }
}
