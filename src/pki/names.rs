//! How names and serial numbers of certificates are printed.

use rustls::pki_types::CertificateDer;
use x509_cert::der::Decode as _;
use x509_cert::name::Name;
use x509_parser::x509::X509Name;

/// A distinguished name in RFC 4514 form, most specific part first, special characters escaped.
///
/// A name that is not well-formed DER throughout is printed as x509-parser reads it: it is shown, never compared.
pub(super) fn rfc4514(name: &X509Name<'_>) -> String {
    match Name::from_der(name.as_raw()) {
        Ok(name) => name.to_string(),
        Err(_) => name.to_string(),
    }
}

/// The subject of a certificate, DER.
#[must_use]
pub fn subject_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.subject().as_raw().to_vec())
}

/// The issuer of a certificate, DER.
#[must_use]
pub fn issuer_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.issuer().as_raw().to_vec())
}

/// The same of a name's DER, such as an origin lists in its CertificateRequest.
#[must_use]
pub fn rfc4514_of_der(der: &[u8]) -> String {
    Name::from_der(der).map_or_else(|_| "(unreadable name)".to_owned(), |name| name.to_string())
}

/// Upper-case hex without leading zero bytes, as openssl and nginx (`$ssl_client_serial`) print it; a negative
/// number, which RFC 5280 forbids and some CAs issued, has a minus in front as there.
pub(super) fn serial(content: &[u8]) -> String {
    use std::fmt::Write as _;
    let negative = content.first().is_some_and(|b| b & 0x80 != 0);
    let mut bytes = content.to_vec();
    if negative {
        let mut carry = true;
        for byte in bytes.iter_mut().rev() {
            let (value, overflow) = (!*byte).overflowing_add(u8::from(carry));
            *byte = value;
            carry = overflow;
        }
    }
    let start = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
    let significant = &bytes[start..];
    if significant.is_empty() {
        return "00".to_owned();
    }
    significant.iter().fold(String::from(if negative { "-" } else { "" }), |mut out, b| {
        let _ = write!(out, "{b:02X}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::serial;

    #[test]
    fn prints_serials_as_openssl_does() {
        assert_eq!(serial(&[0x00, 0x8f, 0x01]), "8F01");
        assert_eq!(serial(&[0x01]), "01");
        assert_eq!(serial(&[0x0a, 0x00]), "0A00");
        assert_eq!(serial(&[0x00]), "00");
        assert_eq!(serial(&[]), "00");
        assert_eq!(serial(&[0xff]), "-01");
        assert_eq!(serial(&[0x80, 0x00]), "-8000");
        assert_eq!(serial(&[0x55; 64]).len(), 128);
    }
}
