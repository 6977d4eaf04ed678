//! What one of egret's own listeners presents: chain and key, and the CA of its clients.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use super::super::pem;
use super::certificate::{Certificate, Purpose};
use super::{Fault, FaultKind, Field, Findings, check_leaf_key, kept, key, parse_all, position};
use crate::domain::SKEW;
use crate::domain::time::rfc3339;

/// A server certificate with fewer days left than this gets a warning.
const SOON: time::Duration = time::Duration::days(30);

/// Text of the files of `tls = { … }`.
#[derive(Clone, Copy)]
pub(in crate::pki) struct ServerMaterial<'a> {
    pub(in crate::pki) cert: &'a str,
    pub(in crate::pki) key: &'a str,
    pub(in crate::pki) client_ca: Option<&'a str>,
}

/// Material that a listener can be opened with.
pub(in crate::pki) struct ValidServer {
    /// Leaf first, then the others in their order.
    pub(in crate::pki) certified: Arc<CertifiedKey>,
    pub(in crate::pki) client_roots: Option<RootCertStore>,
    pub(in crate::pki) warnings: Vec<(Field, String)>,
}

/// Checks everything and collects every fault; [`Field::Ca`] is `client_ca`.
pub(in crate::pki) fn validate(material: ServerMaterial<'_>, now: OffsetDateTime) -> Result<ValidServer, Vec<Fault>> {
    let mut findings = Findings::default();
    let mut warnings = Vec::new();
    let chain = kept(pem::chain(Field::Cert, material.cert), &mut findings);
    let key = kept(pem::key(material.key), &mut findings);
    let loaded = key.as_ref().and_then(|key| key::load(key).map_err(|fault| findings.hard.push(fault)).ok());
    let clients = material.client_ca.and_then(|text| kept(pem::chain(Field::Ca, text), &mut findings));
    let parsed = chain.as_deref().and_then(|chain| parse_all(Field::Cert, chain, &mut findings));
    let mut leaf = 0;
    if let (Some(parsed), Some(loaded)) = (&parsed, &loaded) {
        let fits = |c: &Certificate<'_>| loaded.public_key().is_some_and(|spki| c.has_key(&spki));
        match parsed.iter().position(fits) {
            Some(at) => leaf = at,
            None => findings.hard(
                Field::Key,
                FaultKind::KeyMismatch,
                "this private key does not belong to the certificate",
                "name the key that the certificate was made for; these two must print the same: openssl x509 -in \
                 cert.pem -noout -pubkey and openssl pkey -in key.pem -pubout",
            ),
        }
    }
    if let Some(parsed) = &parsed {
        check_leaf_key(&parsed[leaf], &mut findings);
        for (place, certificate) in parsed.iter().enumerate() {
            let words = if place == leaf { "the certificate".to_owned() } else { position(place, parsed.len()) };
            dates(certificate, &words, now, &mut findings);
        }
        suits(&parsed[leaf], now, &mut warnings);
    }
    let client_roots = clients.map(|clients| roots(&clients, now, &mut findings, &mut warnings));
    let mut faults = findings.close(false);
    if !faults.is_empty() {
        faults.dedup();
        return Err(faults);
    }
    drop(parsed);
    let (Some(mut chain), Some(loaded)) = (chain, loaded) else {
        unreachable!("whatever could not be read left a fault");
    };
    chain[..=leaf].rotate_right(1);
    Ok(ValidServer { certified: Arc::new(CertifiedKey::new(chain, loaded.signing)), client_roots, warnings })
}

fn dates(certificate: &Certificate<'_>, words: &str, now: OffsetDateTime, findings: &mut Findings) {
    let (from, until) = (certificate.not_before(), certificate.not_after());
    if now.saturating_sub(SKEW) > until {
        findings.hard(
            Field::Cert,
            FaultKind::Expired,
            format!("{words} expired at {}", rfc3339(until)),
            "every client would refuse it; put a renewed one there",
        );
    } else if now.saturating_add(SKEW) < from {
        findings.hard(
            Field::Cert,
            FaultKind::NotYetValid,
            format!("{words} is not valid before {}", rfc3339(from)),
            "every client would refuse it; put one there that is valid now, or set the clock",
        );
    }
}

/// What clients may not like.
fn suits(leaf: &Certificate<'_>, now: OffsetDateTime, warnings: &mut Vec<(Field, String)>) {
    let usage = leaf.x509.extended_key_usage().ok().flatten().map(|usage| usage.value);
    if leaf.purpose != Purpose::ServerOnly && usage.is_some_and(|u| !u.any && !u.server_auth) {
        warnings.push((
            Field::Cert,
            "the certificate is not for servers (its extended key usage has no serverAuth), and clients will refuse it"
                .to_owned(),
        ));
    }
    if leaf.x509.subject_alternative_name().ok().flatten().is_none() {
        warnings.push((
            Field::Cert,
            "the certificate names no host (it has no subjectAltName), and clients will refuse it".to_owned(),
        ));
    }
    if leaf.not_after() - now < SOON {
        warnings.push((Field::Cert, format!("the certificate expires at {}", rfc3339(leaf.not_after()))));
    }
}

fn roots(
    clients: &[CertificateDer<'static>],
    now: OffsetDateTime,
    findings: &mut Findings,
    warnings: &mut Vec<(Field, String)>,
) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for (place, certificate) in clients.iter().enumerate() {
        let words = position(place, clients.len());
        if roots.add(certificate.clone()).is_err() {
            findings.hard(
                Field::Ca,
                FaultKind::Unusable,
                format!("{words} cannot be a trust anchor"),
                "name the CA that issued the client certificates; this must succeed: openssl x509 -in client_ca.pem -noout -text",
            );
        } else if Certificate::parse(certificate).is_some_and(|c| !c.is_current(now)) {
            warnings.push((
                Field::Ca,
                format!("{words} is outside its validity; it is taken as a trust anchor all the same"),
            ));
        }
    }
    roots
}
