//! One file that holds a key, its chain and the CA, in any order: as mitmproxy and HAProxy take it.

use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::pem::form::{self, Form, Wrapping};
use super::pem::{self, blocks, normalised};
use super::validate::{Fault, Field};

/// What was found in the file, each as PEM. Whether it fits together is for validation to say.
pub struct Bundle {
    /// The chain.
    pub cert: String,
    /// Everything that is no certificate: the key, if all is well.
    pub key: Zeroizing<String>,
    /// The CA certificates and self-signed ones; empty if there is none.
    pub ca: String,
    /// Whether one of them is self-signed, so that the path ends here.
    pub is_rooted: bool,
}

/// Takes the file apart.
///
/// # Errors
/// Its armour is not whole: half written, or no PEM at all.
pub fn split(text: &str) -> Result<Bundle, Fault> {
    let text = normalised(text);
    let found = blocks(&text).map_err(|form| form::fault(Field::Cert, form, Wrapping::Pem))?;
    if found.is_empty() {
        return Err(form::without_armour(Field::Cert, &text));
    }
    // Sized before the first byte: a buffer that grows leaves copies of the key behind.
    let mut key = Zeroizing::new(String::with_capacity(text.len() + found.len()));
    let mut bundle = Bundle { cert: String::new(), key: Zeroizing::default(), ca: String::new(), is_rooted: false };
    let mut first = None;
    for block in &found {
        if form::of_label(block.label) != Form::Certificate {
            key.push_str(block.whole);
            key.push('\n');
            continue;
        }
        first.get_or_insert(block.whole);
        let (is_ca, is_self_signed) = role(block.whole);
        let list = if is_ca || is_self_signed { &mut bundle.ca } else { &mut bundle.cert };
        list.push_str(block.whole);
        list.push('\n');
        bundle.is_rooted |= is_self_signed;
    }
    if bundle.cert.is_empty()
        && let Some(own) = first
    {
        // A self-signed client certificate vouches for itself.
        bundle.cert = format!("{own}\n");
    }
    bundle.key = key;
    Ok(bundle)
}

/// Whether the certificate is a CA, and whether it is issued by itself. What cannot be read stays in the chain, where
/// validation says what is wrong with it.
fn role(armoured: &str) -> (bool, bool) {
    let Ok(certificates) = pem::certificates(armoured) else { return (false, false) };
    let Some(Ok((_, parsed))) = certificates.first().map(|der| X509Certificate::from_der(der)) else {
        return (false, false);
    };
    let is_self_issued = parsed.subject().as_raw() == parsed.issuer().as_raw();
    let is_ca = parsed.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca);
    (is_ca, is_self_issued)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params
    }

    #[test]
    fn finds_key_chain_and_ca_in_any_order() {
        let mut authority = params("root");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = params("leaf").signed_by(&key, &root).unwrap();
        let (leaf, key, root) = (leaf.pem(), key.serialize_pem(), root.pem());
        for text in [format!("{key}{leaf}{root}"), format!("{root}\r\nwords{leaf}{key}")] {
            let bundle = split(&text).unwrap();
            let lines = |text: &str| text.split_whitespace().collect::<String>();
            assert_eq!(lines(&bundle.cert), lines(&leaf));
            assert_eq!(lines(&bundle.ca), lines(&root));
            assert_eq!(lines(&bundle.key), lines(&key));
            assert!(bundle.is_rooted);
        }
        let bundle = split(&format!("{leaf}{key}")).unwrap();
        assert!(bundle.ca.is_empty() && !bundle.is_rooted);
        assert!(split(&leaf[..leaf.len() - 10]).is_err(), "half written");
        assert!(split("").is_err());
    }

    #[test]
    fn lets_a_self_signed_certificate_vouch_for_itself() {
        let key = KeyPair::generate().unwrap();
        let own = params("own").self_signed(&key).unwrap().pem();
        let bundle = split(&format!("{own}{}", key.serialize_pem())).unwrap();
        assert_eq!(bundle.cert.trim(), bundle.ca.trim());
        assert!(bundle.is_rooted && !bundle.cert.is_empty());
    }
}
