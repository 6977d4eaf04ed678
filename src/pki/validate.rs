//! What is uploaded becomes a [`ValidCertificate`], or a list of every fault in it.
//!
//! Two sorts of faults. *Hard* ones make the identity unusable: what cannot be read, a key that is not the
//! certificate's, a key too weak or of a kind that rustls cannot sign with. *Soft* ones (chain, dates, extended key
//! usage, weak signatures) are faults too, but `skip_validation` turns them into warnings.

mod bundle;
mod certificate;
mod checks;
mod describe;
mod fault;
mod key;
mod path;
mod server;
mod signature;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use zeroize::Zeroizing;

pub use self::bundle::{ValidBundle, validate_bundle};
pub use self::describe::describe;
pub(super) use self::fault::Part;
pub use self::fault::{Fault, FaultKind, Field, FieldWords, Remedy};

use self::certificate::{Certificate, PublicKey};
use self::checks::Checks;
use self::key::{Loaded, MAX_RSA, MIN_RSA};
use self::path::Graph;
pub(super) use self::server::{ServerMaterial, validate as validate_server};
use super::names;
use super::pem::{self, PrivateKey};
use crate::domain::{Fingerprint, KeyKind};

/// What is uploaded, as text.
#[derive(Clone, Copy)]
pub struct Material<'a> {
    /// Client chain, PEM.
    pub cert: &'a str,
    /// Private key, PEM.
    pub key: &'a str,
    /// CA bundle, PEM. `None`: the upload has no place for one (Cloudflare's dialect). Then nothing need vouch for the chain,
    /// and the key must be that of a leaf: there is nowhere else for a CA certificate to be meant for.
    pub ca: Option<&'a str>,
    /// Leaves out chain, dates and EKU (they become warnings).
    pub skip_validation: bool,
}

/// A certificate that can be used: its key fits and rustls can sign with it.
pub struct ValidCertificate {
    /// What is sent: leaf first, completed from `ca`, without a self-signed root.
    pub certified: Arc<CertifiedKey>,
    /// The key as PKCS#8, PKCS#1 or SEC1 DER, as it came.
    pub key_der: Zeroizing<Vec<u8>>,
    /// The CA bundle; empty if the upload had no place for one.
    pub ca: Vec<CertificateDer<'static>>,
    /// Subject, RFC 4514.
    pub subject: String,
    /// Issuer, RFC 4514.
    pub issuer: String,
    /// Serial, upper-case hex.
    pub serial_number: String,
    /// The algorithm of the leaf's signature, as cfssl spells it ([`CertificateInfo::signature`]).
    ///
    /// [`CertificateInfo::signature`]: crate::domain::CertificateInfo::signature
    pub signature: &'static str,
    /// Start of validity.
    pub not_before: OffsetDateTime,
    /// End of validity.
    pub not_after: OffsetDateTime,
    /// SHA-256 of the leaf.
    pub fingerprint: Fingerprint,
    /// SHA-256 of its public key.
    pub spki_fingerprint: Fingerprint,
    /// Kind of the key.
    pub key: KeyKind,
    /// DER subject names of the issuers of every certificate in the chain that is sent, leaf's issuer first
    /// (compared with the CA names an origin lists).
    pub issuer_names: Vec<Vec<u8>>,
    /// What is worth saying.
    pub warnings: Vec<String>,
    /// SHA-256 over the DER of chain, key and `ca` as uploaded: equal material, equal digest.
    pub digest: [u8; 32],
}

impl fmt::Debug for ValidCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ValidCertificate({})", self.fingerprint)
    }
}

/// Checks everything and collects every fault.
///
/// # Errors
/// All faults, in field order.
pub fn validate(material: Material<'_>, now: OffsetDateTime) -> Result<ValidCertificate, Vec<Fault>> {
    let chain = pem::chain(Field::Cert, material.cert);
    let key = pem::key(material.key);
    let ca = material.ca.map(|ca| pem::chain(Field::Ca, ca));
    judge(chain, key, ca, material.skip_validation, now)
}

/// Makes a stored record usable again: as [`validate`] with `skip_validation`, so that time passing makes nothing
/// unusable. `key_der` is [`ValidCertificate::key_der`] as it was stored, `ca_pem` is `None` if there was none. The warnings of the result are those of
/// now; the record keeps its own.
///
/// # Errors
/// Only what makes the identity unusable: the record is damaged.
pub fn restore(
    cert_pem: &str,
    key_der: &[u8],
    ca_pem: Option<&str>,
    now: OffsetDateTime,
) -> Result<ValidCertificate, Vec<Fault>> {
    let key = PrivateKey::from_der(Zeroizing::new(key_der.to_vec())).ok_or_else(|| vec![key::damaged()]);
    judge(pem::chain(Field::Cert, cert_pem), key, ca_pem.map(|ca| pem::chain(Field::Ca, ca)), true, now)
}

type Read<T> = Result<T, Vec<Fault>>;

/// Faults found so far.
#[derive(Default)]
struct Findings {
    /// Whatever the caller says.
    hard: Vec<Fault>,
    /// Unless the caller skips validation.
    soft: Vec<Fault>,
    /// Worth saying in any case.
    warnings: Vec<String>,
}

impl Findings {
    fn hard(&mut self, field: Field, kind: FaultKind, what: impl Into<String>, remedy: impl Into<Remedy>) {
        self.hard.push(Fault::new(field, kind, what, remedy));
    }

    fn soft(&mut self, field: Field, kind: FaultKind, what: impl Into<String>, remedy: impl Into<Remedy>) {
        self.soft.push(Fault::new(field, kind, what, remedy));
    }

    /// The faults that stand; soft ones become warnings if validation is skipped.
    fn close(&mut self, skip_validation: bool) -> Vec<Fault> {
        let mut faults = std::mem::take(&mut self.hard);
        let soft = std::mem::take(&mut self.soft);
        if skip_validation {
            self.warnings.splice(0..0, soft.into_iter().map(|fault| format!("{}: {}", fault.field, fault.what)));
        } else {
            faults.extend(soft);
        }
        faults.sort_by_key(|fault| fault.field);
        faults
    }
}

fn judge(
    chain: Read<Vec<CertificateDer<'static>>>,
    key: Read<PrivateKey>,
    ca: Option<Read<Vec<CertificateDer<'static>>>>,
    skip_validation: bool,
    now: OffsetDateTime,
) -> Result<ValidCertificate, Vec<Fault>> {
    let mut findings = Findings::default();
    let chain = kept(chain, &mut findings);
    let key = kept(key, &mut findings);
    let takes_ca = ca.is_some();
    let ca = ca.map(|ca| kept(ca, &mut findings));
    let loaded = key.as_ref().and_then(|key| key::load(key).map_err(|fault| findings.hard.push(fault)).ok());
    let parsed = chain.as_deref().and_then(|chain| parse_all(Field::Cert, chain, &mut findings));
    let parsed_ca = ca.as_ref().and_then(Option::as_deref).and_then(|ca| parse_all(Field::Ca, ca, &mut findings));

    // From here on as far as what could be read allows, so that one answer names everything.
    let leaf = parsed
        .as_deref()
        .map(|parsed| find_leaf(parsed, parsed_ca.as_deref(), loaded.as_ref(), !takes_ca, &mut findings));
    // What else could be said of a CA certificate is not worth saying: another one has to be sent.
    let leaf = leaf.filter(|leaf| skip_validation || !leaf.is_missing);
    let mut sent = None;
    if let (Some(parsed), Some(leaf)) = (parsed, leaf) {
        check_leaf_key(&parsed[leaf.at], &mut findings);
        let has_ca = parsed_ca.is_some();
        let count = (parsed.len(), parsed_ca.as_ref().map_or(0, Vec::len));
        let leaf_der = parsed[leaf.at].der;
        let graph = Graph::new(parsed, parsed_ca.unwrap_or_default());
        let leaf = graph.nodes.iter().position(|n| n.certificate.der == leaf_der).expect("the leaf is a node");
        let path = graph.path(leaf, now);
        let checks = Checks { graph: &graph, path: &path, leaf, count, now };
        if has_ca {
            checks.anchor(&mut findings);
        }
        let chosen = checks.choose(&mut findings);
        checks.dates(&chosen, &mut findings);
        checks.purposes(&chosen, &mut findings);
        checks.signatures(&chosen, &mut findings);
        checks.issuers(&mut findings);
        sent = Some(Sent::of(&graph, &chosen));
    }

    let faults = findings.close(skip_validation);
    if !faults.is_empty() {
        return Err(faults);
    }
    let ca = ca.unwrap_or_else(|| Some(Vec::new()));
    let (Some(chain), Some(key), Some(ca), Some(loaded), Some(sent)) = (&chain, key, ca, loaded, sent) else {
        unreachable!("whatever could not be read left a fault");
    };
    let digest = material_digest(chain, &key, &ca);
    Ok(ValidCertificate {
        certified: Arc::new(CertifiedKey::new(sent.certificates, loaded.signing)),
        key_der: key.into_der(),
        ca,
        subject: sent.subject,
        issuer: sent.issuer,
        serial_number: sent.serial_number,
        signature: sent.signature,
        not_before: sent.not_before,
        not_after: sent.not_after,
        fingerprint: sent.fingerprint,
        spki_fingerprint: sent.spki_fingerprint,
        key: loaded.kind,
        issuer_names: sent.issuer_names,
        warnings: findings.warnings,
        digest,
    })
}

fn kept<T>(read: Read<T>, findings: &mut Findings) -> Option<T> {
    read.map_err(|faults| findings.hard.extend(faults)).ok()
}

fn parse_all<'a>(
    field: Field,
    certificates: &'a [CertificateDer<'static>],
    findings: &mut Findings,
) -> Option<Vec<Certificate<'a>>> {
    let mut parsed = Vec::with_capacity(certificates.len());
    for (place, certificate) in certificates.iter().enumerate() {
        match Certificate::parse(certificate) {
            Some(certificate) => parsed.push(certificate),
            None => findings.hard(
                field,
                FaultKind::Unparsable,
                format!("{} is malformed", position(place, certificates.len())),
                format!("copy the file again; this must succeed: openssl x509 -in {field}.pem -noout -text"),
            ),
        }
    }
    (parsed.len() == certificates.len()).then_some(parsed)
}

/// "certificate 2 of 3"; "the certificate" if it is the only one.
fn position(place: usize, count: usize) -> String {
    if count == 1 { "the certificate".to_owned() } else { format!("certificate {} of {count}", place + 1) }
}

/// Which certificate of `cert` is the leaf.
struct Leaf {
    /// The one that the key belongs to; the first, with a fault, if there is none.
    at: usize,
    /// There are certificates of CAs alone where only a leaf is taken.
    is_missing: bool,
}

/// Finds the leaf, and says what is wrong with the choice.
fn find_leaf(
    chain: &[Certificate<'_>],
    ca: Option<&[Certificate<'_>]>,
    key: Option<&Loaded>,
    strict: bool,
    findings: &mut Findings,
) -> Leaf {
    let fits = |c: &Certificate<'_>| key.and_then(Loaded::public_key).is_some_and(|spki| c.has_key(&spki));
    let found = chain.iter().position(fits);
    // Of version 1 nobody says that it is a CA, so it may well be a leaf that signed itself.
    if strict && found.map_or_else(|| chain.iter().all(|c| c.says_ca), |leaf| chain[leaf].says_ca) {
        let what = match (found, chain.len()) {
            (Some(_), 1) => "this is a CA certificate, and a client (leaf) certificate is wanted".to_owned(),
            (Some(leaf), count) => format!(
                "{} is a CA certificate, and the private key is its own; a client (leaf) certificate is wanted",
                position(leaf, count)
            ),
            (None, 1) => {
                "there is no leaf in it: this is a CA certificate, and a client certificate is wanted".to_owned()
            }
            (None, count) => {
                format!("there is no leaf in it: all {count} are CA certificates, and a client certificate is wanted")
            }
        };
        findings.soft(
            Field::Cert,
            FaultKind::NoLeaf,
            what,
            "send a certificate that the CA issued, with its key; one that signs itself is made without CA:TRUE: openssl req \
             -x509 -addext basicConstraints=critical,CA:FALSE; CAs that servers are verified by are uploaded to the account, \
             with ca set to true",
        );
        return Leaf { at: found.unwrap_or_default(), is_missing: true };
    }
    if found.is_none() && key.is_some() {
        let what = if ca.is_some_and(|ca| ca.iter().any(fits)) {
            "this is the private key of a CA certificate, not of the client certificate"
        } else {
            "this private key does not belong to the certificate"
        };
        findings.hard(
            Field::Key,
            FaultKind::KeyMismatch,
            what,
            "send the key that the certificate was made for; these two must print the same: openssl x509 -in cert.pem \
             -noout -pubkey and openssl pkey -in key.pem -pubout",
        );
    }
    Leaf { at: found.unwrap_or_default(), is_missing: false }
}

fn check_leaf_key(leaf: &Certificate<'_>, findings: &mut Findings) {
    match leaf.public_key {
        PublicKey::Known(KeyKind::Rsa(bits)) if bits < MIN_RSA => findings.hard(
            Field::Cert,
            FaultKind::Unusable,
            format!("the certificate's RSA key is too weak: {bits} bits; at least {MIN_RSA} are needed"),
            pem::NEW_KEY,
        ),
        PublicKey::Known(KeyKind::Rsa(bits)) if bits > MAX_RSA => findings.hard(
            Field::Cert,
            FaultKind::Unusable,
            format!("the certificate's RSA key has {bits} bits; egret takes at most {MAX_RSA}"),
            pem::NEW_KEY,
        ),
        PublicKey::Known(_) => {}
        PublicKey::Other(name) => findings.hard(
            Field::Cert,
            FaultKind::Unusable,
            format!("the certificate's key is of a kind that egret cannot sign with ({name})"),
            pem::NEW_KEY,
        ),
    }
}

/// SHA-256 over chain, key and `ca`.
fn material_digest(chain: &[CertificateDer<'static>], key: &PrivateKey, ca: &[CertificateDer<'static>]) -> [u8; 32] {
    let mut digest = digest_of("egret material");
    digest.add_all(chain);
    digest.add_all(ca);
    digest.add(key.der());
    finished(digest.0)
}

/// SHA-256 over pieces, each with its length in front, so that no bytes can move from one to the next.
struct Digest(digest::Context);

/// A digest that nothing else can have: `of` comes first.
fn digest_of(of: &str) -> Digest {
    let mut digest = Digest(digest::Context::new(&digest::SHA256));
    digest.add(of.as_bytes());
    digest
}

impl Digest {
    fn add(&mut self, bytes: &[u8]) {
        self.0.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.0.update(bytes);
    }

    /// Their number, then each.
    fn add_all(&mut self, certificates: &[CertificateDer<'static>]) {
        self.add(&certificates.len().to_be_bytes());
        certificates.iter().for_each(|certificate| self.add(certificate));
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(bytes);
    finished(context)
}

fn finished(context: digest::Context) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// What is sent, and the facts of its leaf, free of the borrow of the input.
struct Sent {
    certificates: Vec<CertificateDer<'static>>,
    subject: String,
    issuer: String,
    serial_number: String,
    signature: &'static str,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    fingerprint: Fingerprint,
    spki_fingerprint: Fingerprint,
    issuer_names: Vec<Vec<u8>>,
}

impl Sent {
    fn of(graph: &Graph<'_>, chosen: &[usize]) -> Self {
        let chosen: Vec<&Certificate<'_>> = chosen.iter().map(|n| &graph.nodes[*n].certificate).collect();
        let leaf = chosen[0];
        let mut issuer_names: Vec<Vec<u8>> = Vec::with_capacity(chosen.len());
        for certificate in &chosen {
            if !issuer_names.iter().any(|name| name == certificate.issuer()) {
                issuer_names.push(certificate.issuer().to_vec());
            }
        }
        Self {
            certificates: chosen.iter().map(|c| c.der.clone()).collect(),
            subject: names::rfc4514(leaf.x509.subject()),
            issuer: names::rfc4514(leaf.x509.issuer()),
            serial_number: names::serial(leaf.x509.raw_serial()),
            signature: signature::name(leaf),
            not_before: leaf.not_before(),
            not_after: leaf.not_after(),
            fingerprint: Fingerprint(sha256(leaf.der)),
            spki_fingerprint: Fingerprint(sha256(leaf.x509.public_key().raw)),
            issuer_names,
        }
    }
}
