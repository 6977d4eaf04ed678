//! PKCS#12 (RFC 7292): one certificate with its key and its CA out of what may be several.

use p12_keystore::error::Error;
use p12_keystore::{CertificateBag, Pkcs12Archive, PrivateKeyBag};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use super::super::der::{self, Kind};
use super::super::names::rfc4514;
use super::{ConvertError, armoured, cost, java_keystore};

/// What was taken out of a PKCS#12 file.
pub struct Pkcs12 {
    /// Subject of the certificate.
    pub subject: String,
    /// The certificate, then the intermediates that lead towards its root, as far as they are in the file; PEM.
    pub cert: String,
    /// Its key, PKCS#8 in PEM.
    pub key: Zeroizing<String>,
    /// The CA certificates in the file (a self-signed certificate counts as its own CA); PEM, `None` without any.
    pub ca: Option<String>,
    /// The subjects of those.
    pub ca_subjects: Vec<String>,
}

/// Opens a file and takes one certificate with its key out of it: the only one, or the one that goes by `alias`, which
/// is a friendly name or the subject.
///
/// # Errors
/// [`ConvertError`]; also if there are several and no alias says which, with their names.
pub fn pkcs12(bytes: &[u8], passphrase: &str, alias: Option<&str>) -> Result<Pkcs12, ConvertError> {
    let has_mac = look(bytes)?;
    cost::check_pkcs12(bytes)?;
    let archive = Pkcs12Archive::from_pkcs12(bytes, passphrase).map_err(|error| fault(&error, has_mac))?;
    let certificates = archive.certs.iter().map(Entry::parse).collect::<Result<Vec<_>, _>>()?;
    let chosen = choose(&archive.keys, &certificates, alias)?;

    let leaf = chosen.entry;
    let mut cert = armoured("CERTIFICATE", leaf.der).to_string();
    for intermediate in intermediates(leaf, &certificates) {
        cert.push_str(&armoured("CERTIFICATE", intermediate.der));
    }
    let mut authorities: Vec<&Entry<'_>> = Vec::new();
    for entry in certificates.iter().filter(|e| if e.der == leaf.der { e.is_self_issued() } else { e.is_ca() }) {
        if !authorities.iter().any(|a| a.der == entry.der) {
            authorities.push(entry);
        }
    }
    let ca: String = authorities.iter().map(|a| armoured("CERTIFICATE", a.der).to_string()).collect();
    Ok(Pkcs12 {
        subject: leaf.subject(),
        cert,
        key: armoured("PRIVATE KEY", chosen.key.key.as_der()),
        ca: (!ca.is_empty()).then_some(ca),
        ca_subjects: authorities.iter().map(|a| a.subject()).collect(),
    })
}

/// Whether it has a MAC; a fault if it is no PKCS#12 at all.
fn look(bytes: &[u8]) -> Result<bool, ConvertError> {
    if der::kind(bytes) == Some(Kind::Pkcs12) {
        let values = der::read(bytes).and_then(|(outer, _)| der::children(outer.content)).unwrap_or_default();
        return Ok(values.len() > 2);
    }
    if bytes.starts_with(&[0xfe, 0xed, 0xfe, 0xed]) {
        return Err(java_keystore());
    }
    // Indefinite length: PKCS#12 allows BER, and a few tools write it.
    if bytes.starts_with(&[0x30, 0x80]) {
        return Err(ConvertError::refused(
            "this PKCS#12 file is BER and not DER, which egret does not read",
            cost::PKCS12_ANEW,
        ));
    }
    if bytes.windows(11).any(|w| w == b"-----BEGIN ") {
        return Err(ConvertError::refused(
            "this is PEM and not PKCS#12",
            "name it with --cert, and its key with --key",
        ));
    }
    Err(ConvertError::refused(
        "this is not PKCS#12, or the file is cut off",
        "copy it again, as binary; this says what is wrong with it: openssl pkcs12 -in client.p12 -noout -info",
    ))
}

fn fault(error: &Error, has_mac: bool) -> ConvertError {
    match error {
        Error::MacError(_) => ConvertError::WrongPassphrase,
        // Without a MAC nothing but its content tells whether it was decrypted with the right one.
        Error::UnpadError | Error::Pkcs5Error(_) | Error::DerError(_) | Error::InvalidPrivateKey if !has_mac => {
            ConvertError::WrongPassphrase
        }
        Error::UnsupportedEncryptionScheme | Error::UnsupportedMacAlgorithm | Error::Pkcs5Error(_) => {
            ConvertError::refused("this PKCS#12 file is encrypted in a way that egret does not read", cost::PKCS12_ANEW)
        }
        Error::InvalidParameters => ConvertError::refused(
            "the key derivation inside this PKCS#12 file costs more than egret pays for (1000000 iterations)",
            cost::PKCS12_ANEW,
        ),
        _ => ConvertError::refused(
            "this PKCS#12 file is damaged, or holds something that egret does not know",
            "copy it again, as binary; this says what is wrong with it: openssl pkcs12 -in client.p12 -noout -info",
        ),
    }
}

/// A certificate of the file.
struct Entry<'a> {
    bag: &'a CertificateBag,
    der: &'a [u8],
    x509: X509Certificate<'a>,
}

impl<'a> Entry<'a> {
    fn parse(bag: &'a CertificateBag) -> Result<Self, ConvertError> {
        let der = bag.cert.as_der();
        let (_, x509) = X509Certificate::from_der(der).map_err(|_| {
            ConvertError::refused("a certificate in this PKCS#12 file is damaged", "ask whoever made it for another")
        })?;
        Ok(Self { bag, der, x509 })
    }

    fn subject(&self) -> String {
        rfc4514(self.x509.subject())
    }

    fn is_self_issued(&self) -> bool {
        self.x509.subject().as_raw() == self.x509.issuer().as_raw()
    }

    /// A CA by its own word; without one (X.509 v1), by having issued itself.
    fn is_ca(&self) -> bool {
        match self.x509.basic_constraints() {
            Ok(Some(constraints)) => constraints.value.ca,
            _ => self.is_self_issued(),
        }
    }
}

/// A key with its certificate.
struct Pair<'a> {
    key: &'a PrivateKeyBag,
    entry: &'a Entry<'a>,
}

impl Pair<'_> {
    fn goes_by(&self, name: &str) -> bool {
        let names = [&self.entry.bag.friendly_name, &self.key.friendly_name];
        names.into_iter().flatten().any(|n| n == name) || self.entry.subject() == name
    }

    fn described(&self) -> String {
        let name = self.entry.bag.friendly_name.as_ref().or(self.key.friendly_name.as_ref());
        name.map_or_else(|| self.entry.subject(), |name| format!("{name} ({})", self.entry.subject()))
    }
}

fn choose<'a>(
    keys: &'a [PrivateKeyBag],
    certificates: &'a [Entry<'a>],
    alias: Option<&str>,
) -> Result<Pair<'a>, ConvertError> {
    let mut pairs: Vec<Pair<'a>> = Vec::new();
    for key in keys {
        if let Some(entry) = certificate_of(key, certificates)
            && !pairs.iter().any(|p| p.entry.der == entry.der)
        {
            pairs.push(Pair { key, entry });
        }
    }
    if pairs.is_empty() {
        let what = match (keys.len(), certificates.len()) {
            (0, 0) => "this PKCS#12 file is empty",
            (0, _) => "this PKCS#12 file holds certificates but no private key",
            (_, 0) => "this PKCS#12 file holds a private key but no certificate",
            _ => "no certificate in this PKCS#12 file belongs to the private key in it",
        };
        return Err(ConvertError::refused(what, "ask for an export with certificate and private key"));
    }
    let all: Vec<String> = pairs.iter().map(Pair::described).collect();
    let mut fitting: Vec<Pair<'a>> = pairs.into_iter().filter(|p| alias.is_none_or(|alias| p.goes_by(alias))).collect();
    match (fitting.pop(), fitting.is_empty()) {
        (Some(pair), true) => Ok(pair),
        (None, _) => Err(ConvertError::refused(
            "nothing in this PKCS#12 file goes by the name in --p12-alias",
            format!("it holds: {}", all.join("; ")),
        )),
        (Some(_), false) => Err(ConvertError::refused(
            format!("this PKCS#12 file holds several certificates with a key: {}", all.join("; ")),
            "say which with --p12-alias, by its name or its subject (in brackets)",
        )),
    }
}

/// By the key itself; where that cannot be read (the API will say why), by the id that both carry.
fn certificate_of<'a>(key: &PrivateKeyBag, certificates: &'a [Entry<'a>]) -> Option<&'a Entry<'a>> {
    let rustls_key = PrivateKeyDer::Pkcs8(key.key.as_der().into());
    let spki = any_supported_type(&rustls_key).ok().and_then(|k| k.public_key().map(|spki| spki.to_vec()));
    if let Some(spki) = spki
        && let Some(entry) = certificates.iter().find(|e| e.x509.public_key().raw == spki)
    {
        return Some(entry);
    }
    let id = key.local_key_id.as_ref()?;
    certificates.iter().find(|e| e.bag.local_key_id.as_deref() == Some(id.as_ref()))
}

/// From the issuer of `leaf` upwards, without the root.
fn intermediates<'a>(leaf: &'a Entry<'a>, certificates: &'a [Entry<'a>]) -> Vec<&'a Entry<'a>> {
    let mut chain: Vec<&Entry<'_>> = Vec::new();
    let mut last = leaf;
    // Each certificate once: a circle of cross-signed ones ends.
    while let Some(issuer) = certificates.iter().find(|e| {
        e.x509.subject().as_raw() == last.x509.issuer().as_raw()
            && e.is_ca()
            && !e.is_self_issued()
            && e.der != leaf.der
            && !chain.iter().any(|c| c.der == e.der)
    }) {
        chain.push(issuer);
        last = issuer;
    }
    chain
}

/// The subjects of the certificates that were found for keys.
#[cfg(test)]
pub(super) fn pairs_for_tests(keys: &[PrivateKeyBag], certificates: &[CertificateBag]) -> Vec<String> {
    let entries: Vec<Entry<'_>> = certificates.iter().filter_map(|bag| Entry::parse(bag).ok()).collect();
    keys.iter().filter_map(|key| certificate_of(key, &entries)).map(Entry::subject).collect()
}
