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

    /// These 128 bits in hex, without a prefix: what certificates of Cloudflare's dialect are called.
    #[must_use]
    pub fn bare(bits: [u8; 16]) -> Self {
        Self(hex(&bits).into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the certificate in Cloudflare's dialect, whichever made it: the 32 lower-case hex digits of the id, its
    /// prefix left out. `None` for an id that neither dialect nor a file makes.
    #[must_use]
    pub fn hex(&self) -> Option<&str> {
        let digits = self.0.strip_prefix("cert_").unwrap_or(&self.0);
        let is_hex = digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_hex.then_some(digits)
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

/// Which list a certificate belongs to. That decides who shows it, how long it stays, and what may name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Holder {
    /// The place that it was uploaded to, or declared at (Vercel's dialect, files): it goes when nothing names that place's
    /// certificate any more.
    #[default]
    Project,
    /// The zone's origin pulls (Cloudflare's dialect): the project-wide certificate while the zone setting is on and
    /// it is the newest. It stays until it is deleted.
    Zone,
    /// The zone's per-hostname origin pulls (Cloudflare's dialect): bound by associations. It stays until it is deleted, bound
    /// or not.
    Hostnames,
    /// The account's mTLS certificates (Cloudflare's dialect): bound in any project of the account; what a project has of it
    /// goes with its last binding there.
    Account,
}

impl Holder {
    /// `project`, `zone`, `hostnames` or `account`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Zone => "zone",
            Self::Hostnames => "hostnames",
            Self::Account => "account",
        }
    }

    /// What the certificates of this list are called in a sentence.
    #[must_use]
    pub fn list(self) -> &'static str {
        match self {
            Self::Project => "the project's certificates",
            Self::Zone => "the zone's own certificates",
            Self::Hostnames => "the zone's hostname certificates",
            Self::Account => "the account's mTLS certificates",
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
    /// The algorithm that its issuer signed it with, as cfssl spells it: `SHA256WithRSA`, `ECDSAWithSHA384`, `Ed25519`, …;
    /// `Unknown` for one that egret does not know.
    pub signature: &'static str,
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
    /// The list that it belongs to.
    pub holder: Holder,
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

/// Longest serial number that is turned into decimal digits, in hex digits: three times what RFC 5280 section 4.1.2.2
/// allows. The work grows with the square.
const MAX_DECIMAL: usize = 128;

/// A serial number (hex, perhaps with a minus in front) in decimal digits.
#[must_use]
pub fn serial_decimal(serial: &str) -> String {
    use fmt::Write as _;
    const LIMB: u64 = 1_000_000_000;
    let (sign, digits) = serial.strip_prefix('-').map_or(("", serial), |digits| ("-", digits));
    if digits.len() > MAX_DECIMAL {
        return format!("{sign}0x{digits}");
    }
    // Nine decimal digits each, the least first.
    let mut limbs = vec![0_u64];
    for digit in digits.chars().filter_map(|c| c.to_digit(16)) {
        let mut carry = u64::from(digit);
        for limb in &mut limbs {
            let value = *limb * 16 + carry;
            (*limb, carry) = (value % LIMB, value / LIMB);
        }
        if carry > 0 {
            limbs.push(carry);
        }
    }
    let mut limbs = limbs.iter().rev();
    let first = limbs.next().copied().unwrap_or_default();
    limbs.fold(format!("{sign}{first}"), |mut out, limb| {
        let _ = write!(out, "{limb:09}");
        out
    })
}

impl CertificateInfo {
    /// The serial number in decimal digits, as Cloudflare's dialect gives it; a minus in front of a negative one. One that is
    /// longer than 64 bytes (RFC 5280 allows 20) stays in hex, `0x` in front.
    #[must_use]
    pub fn serial_decimal(&self) -> String {
        serial_decimal(&self.serial_number)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_known_by_its_hex_digits_whichever_dialect_made_it() {
        let bits = [0xa0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff];
        let digits = "a00102030405060708090a0b0c0d0eff";
        assert_eq!(CertificateId::bare(bits).as_str(), digits);
        assert_eq!(CertificateId::bare(bits).hex(), Some(digits));
        assert_eq!(CertificateId::from_bits(bits).as_str(), format!("cert_{digits}"));
        assert_eq!(CertificateId::from_bits(bits).hex(), Some(digits));
        assert_ne!(CertificateId::bare(bits), CertificateId::from_bits(bits));
        for other in ["cert_1", "cert_cert_0102", &digits[1..], &format!("{digits}0"), &digits.to_uppercase()] {
            assert_eq!(CertificateId::parse(other).unwrap().hex(), None, "{other}");
        }
    }

    #[test]
    fn serial_numbers_are_told_in_decimal() {
        for (hex, decimal) in [
            ("00", "0"),
            ("01", "1"),
            ("0A00", "2560"),
            ("3B9ACA00", "1000000000"),
            ("3B9AC9FF", "999999999"),
            ("2386F26FC10001", "10000000000000001"),
            // 20 bytes, as certificate authorities give them; from `bc`.
            ("7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF", "730750818665451459101842416358141509827966271487"),
            ("0DE0B6B3A76400000000", "65536000000000000000000"),
            ("-01", "-1"),
            ("-8000", "-32768"),
        ] {
            assert_eq!(serial_decimal(hex), decimal, "{hex}");
        }
        let most = "F".repeat(MAX_DECIMAL);
        assert!(serial_decimal(&most).starts_with("13407807929942597099") && serial_decimal(&most).len() == 155);
        assert_eq!(serial_decimal(&format!("-{most}F")), format!("-0x{most}F"), "work is bounded");
    }

    #[test]
    fn a_certificate_belongs_to_its_project_unless_said_otherwise() {
        assert_eq!(Holder::default().as_str(), "project");
        let words = [Holder::Zone, Holder::Hostnames, Holder::Account].map(Holder::as_str);
        assert_eq!(words, ["zone", "hostnames", "account"]);
    }
}
