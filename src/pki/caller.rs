//! Whom a verified client certificate speaks for (`auth = "mtls"`).
//!
//! The first kind of name that the certificate has decides, and no other is looked at: a URI
//! `urn:egret:project:NAME` (name or id of a project, percent-encoded where need be), else DNS names, else the common
//! names of the subject. So a CA that writes the URI is not second-guessed by a DNS name beside it.

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::domain::SKEW;

/// In front of the project's name or id.
const URN: &str = "urn:egret:project:";
/// Names looked at. A certificate with more of them says nothing that could be meant.
const MAX_NAMES: usize = 64;

/// The names or ids of projects that a certificate says it speaks for: exactly one project must be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerNames {
    names: Box<[Box<str>]>,
    /// `notAfter`, with the tolerance for clocks.
    until: OffsetDateTime,
}

impl CallerNames {
    /// Reads a certificate that was verified, perhaps some time ago (a session that was resumed); `None` if it is not
    /// valid any more, or cannot be read. No names: it speaks for nobody.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>, now: OffsetDateTime) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let names = names(&parsed)?;
        let names = if names.len() > MAX_NAMES { Box::default() } else { names.into() };
        let until = parsed.validity().not_after.to_datetime().saturating_add(SKEW);
        Some(Self { names, until }).filter(|names| names.is_in_time(now))
    }

    /// Whether the certificate has not expired since: a connection may outlive it.
    #[must_use]
    pub fn is_in_time(&self, now: OffsetDateTime) -> bool {
        now <= self.until
    }

    /// The names, as they stand in the certificate.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }
}

fn names(certificate: &X509Certificate<'_>) -> Option<Vec<Box<str>>> {
    let alternative = certificate.subject_alternative_name().ok()?;
    let general = || alternative.iter().flat_map(|names| &names.value.general_names);
    let urns: Vec<_> = general()
        .filter_map(|name| match name {
            // RFC 8141 section 3.1: `urn` and the namespace in any case, the rest as it is.
            GeneralName::URI(uri) => uri
                .split_at_checked(URN.len())
                .filter(|(urn, _)| urn.eq_ignore_ascii_case(URN))
                .map(|(_, project)| decoded(project)),
            _ => None,
        })
        .collect();
    if !urns.is_empty() {
        // One that cannot be read could be anybody's.
        return urns.into_iter().collect();
    }
    let dns: Vec<_> = general()
        .filter_map(|name| if let GeneralName::DNSName(name) = name { Some(Box::from(*name)) } else { None })
        .collect();
    if !dns.is_empty() {
        return Some(dns);
    }
    certificate.subject().iter_common_name().map(|name| name.as_str().ok().map(Box::from)).collect()
}

/// Percent-decoded; `None` for a broken escape or what is no UTF-8.
fn decoded(text: &str) -> Option<Box<str>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        rest = more;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, more) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = more;
    }
    String::from_utf8(bytes).ok().map(String::into_boxed_str)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;
    use crate::domain::time::now;

    fn certificate(common: &[&str], dns: &[&str], uris: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in common {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        params.subject_alt_names =
            dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())).chain(uris).collect();
        params.not_after = now() + time::Duration::days(1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn said(common: &[&str], dns: &[&str], uris: &[&str]) -> Option<Vec<String>> {
        let names = CallerNames::of(&certificate(common, dns, uris), now())?;
        Some(names.iter().map(str::to_owned).collect())
    }

    fn all(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn the_first_kind_of_name_decides() {
        let (urn, spiffe) = ("urn:egret:project:payments", "spiffe://corp/payments");
        assert_eq!(said(&["cn"], &["dns"], &[spiffe, urn]), all(&["payments"]));
        assert_eq!(said(&["cn"], &["dns"], &["URN:egret:project:prj_1", urn]), all(&["prj_1", "payments"]));
        assert_eq!(said(&["cn"], &["a", "b"], &[spiffe]), all(&["a", "b"]));
        assert_eq!(said(&["cn"], &[], &[spiffe]), all(&["cn"]));
        assert_eq!(said(&[], &[], &[]), all(&[]));
    }

    #[test]
    fn escapes_are_read_and_broken_ones_speak_for_nobody() {
        assert_eq!(said(&[], &[], &["urn:egret:project:a%20b%C3%BC"]), all(&["a bü"]));
        for broken in ["a%2", "a%zz", "a%+1", "%FF"] {
            assert_eq!(said(&["cn"], &["dns"], &[&format!("{URN}{broken}")]), None, "{broken}");
        }
    }

    #[test]
    fn what_ended_since_it_was_verified_speaks_for_nobody() {
        let certificate = certificate(&["cn"], &[], &[]);
        assert!(CallerNames::of(&certificate, now()).is_some());
        assert!(CallerNames::of(&certificate, now() + time::Duration::days(2)).is_none());
        assert!(CallerNames::of(&CertificateDer::from(vec![0x30, 0]), now()).is_none());
    }

    #[test]
    fn too_many_names_are_none() {
        let many: Vec<String> = (0..=MAX_NAMES).map(|n| format!("n{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(said(&[], &many, &[]), all(&[]));
    }
}
