//! Certificates as facts: ids, fingerprints, validity. Never keys.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use time::OffsetDateTime;

/// A certificate's id: `cert_` + 32 hex (Vercel's dialect, files) or 32 hex (Cloudflare's).
/// Every upload of new material gets a new one; none is ever used twice.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CertificateId(Arc<str>);

impl CertificateId {
    /// Takes an id as a caller writes it: 1 to 64 of `A-Z a-z 0-9 _ -`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let ok = !text.is_empty()
            && text.len() <= 64
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        ok.then(|| Self(text.into()))
    }

    /// `cert_` + these 128 bits in hex.
    #[must_use]
    pub fn from_bits(bits: [u8; 16]) -> Self {
        Self(format!("cert_{}", hex(&bits)).into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// SHA-256 of a certificate's DER; printed as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Reads what [`fmt::Display`] prints.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Lower-case hex.
#[must_use]
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// The kind of a client key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA with this many bits of modulus.
    Rsa(u32),
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// Ed25519.
    Ed25519,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "RSA-{bits}"),
            Self::P256 => f.write_str("P-256"),
            Self::P384 => f.write_str("P-384"),
            Self::P521 => f.write_str("P-521"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

/// Who wrote a certificate or a binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The management API; it lives in the store.
    Api,
    /// A `[[certificates]]` table of this configuration file: read-only for the API.
    File(PathBuf),
}

impl Source {
    /// `api` or `file`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::File(_) => "file",
        }
    }
}

/// What may be told of a client certificate. Never key material.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Its id.
    pub id: CertificateId,
    /// Subject, RFC 4514.
    pub subject: String,
    /// Issuer, RFC 4514.
    pub issuer: String,
    /// Serial number, upper-case hex without leading zero bytes, as openssl and nginx print it.
    pub serial_number: String,
    /// Start of validity.
    pub not_before: OffsetDateTime,
    /// End of validity (inclusive, RFC 5280 section 4.1.2.5).
    pub not_after: OffsetDateTime,
    /// SHA-256 of the leaf's DER.
    pub fingerprint: Fingerprint,
    /// SHA-256 of the leaf's SubjectPublicKeyInfo: the same for every certificate of one key.
    pub spki_fingerprint: Fingerprint,
    /// Kind of the key.
    pub key: KeyKind,
    /// How many certificates are sent, the leaf included.
    pub chain_length: usize,
    /// When it was uploaded, or read from its file.
    pub uploaded_at: OffsetDateTime,
    /// What validation let pass (`skipValidation`) or thinks worth saying; each a full sentence part.
    pub warnings: Vec<String>,
    /// Uploaded with `skipValidation`: it is sent also outside its validity.
    pub skip_validation: bool,
    /// Who wrote it.
    pub source: Source,
}

/// Where an identity stands in its validity, 5 minutes of clock skew forgiven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Usable now.
    Valid,
    /// Not before this time.
    NotYet(OffsetDateTime),
    /// Since this time.
    Expired(OffsetDateTime),
}

/// Clock skew that is forgiven at both ends (product.md section 2).
pub const SKEW: time::Duration = time::Duration::minutes(5);

impl CertificateInfo {
    /// Where the certificate stands at `now`.
    #[must_use]
    pub fn validity(&self, now: OffsetDateTime) -> Validity {
        if now + SKEW < self.not_before {
            Validity::NotYet(self.not_before)
        } else if now - SKEW > self.not_after {
            Validity::Expired(self.not_after)
        } else {
            Validity::Valid
        }
    }

    /// Whole days until the end of validity; negative once it has passed.
    #[must_use]
    pub fn days_left(&self, now: OffsetDateTime) -> i64 {
        (self.not_after - now).whole_seconds().div_euclid(86_400)
    }
}
