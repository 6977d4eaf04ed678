use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{CertificateError, Error};

use super::*;
use crate::domain::{ServerTrust, time as clock};
use crate::pki::anchors::TrustAnchors;
use crate::pki::names::rfc4514_of_der;
use crate::pki::pem;
use crate::pki::testing::{Minted, ca, leaf};

fn bundle(pattern: &str, certificates: Vec<CertificateDer<'static>>) -> Bundle {
    let pattern = Pattern::parse(pattern).unwrap();
    Bundle { id: CertificateId::parse("bundle").unwrap(), pattern, certificates }
}

struct World {
    shared: SharedAnchors,
    ca: Minted,
    server: Vec<CertificateDer<'static>>,
}

fn der(minted: &Minted) -> Vec<CertificateDer<'static>> {
    pem::certificates(&minted.pem).unwrap()
}

impl World {
    fn new() -> Self {
        let now = clock::now();
        let ca = ca("private CA", None, now, |_| {});
        let server = leaf("server", Some(&ca), now, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.subject_alt_names =
                ["a.example.test", "b.example.test"].map(|name| SanType::DnsName(name.try_into().unwrap())).to_vec();
        });
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Self { shared: SharedAnchors::load(&[], &provider).unwrap(), server: der(&server), ca }
    }

    fn vouching(&self, patterns: &[&str]) -> Arc<Vouching> {
        let entry = |pattern: &&str| bundle(pattern, der(&self.ca));
        self.shared.vouching(&patterns.iter().map(entry).collect::<Vec<_>>())
    }

    fn trust(&self, patterns: &[&str]) -> Arc<TrustAnchors> {
        self.shared.set(ServerTrust::SystemAndCa, None, &[], &self.vouching(patterns))
    }

    /// As rustls does in a handshake.
    fn verify(&self, trust: &TrustAnchors, host: &str) -> Result<(), Error> {
        let name = ServerName::try_from(host.to_owned()).unwrap();
        trust.verifier().verify_server_cert(&self.server[0], &[], &name, &[], UnixTime::now()).map(|_| ())
    }

    fn at(&self, trust: &TrustAnchors, origin: &str) -> Result<(), Error> {
        let origin = Origin::parse(origin).unwrap();
        let at = Towards { origin: origin.clone(), issuers: Arc::default() };
        TOWARDS.sync_scope(at, || self.verify(trust, origin.host().as_str()))
    }
}

fn unknown() -> Result<(), Error> {
    Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
}

#[test]
fn a_bundle_vouches_for_what_its_pattern_covers_and_for_nothing_else() {
    let world = World::new();
    for (pattern, vouched, not) in [
        ("https://a.example.test", "https://a.example.test", "https://a.example.test:8443"),
        ("https://a.example.test:8443", "https://a.example.test:8443", "https://a.example.test"),
        ("https://a.example.test:*", "https://a.example.test:8443", "https://b.example.test:8443"),
        ("https://*.example.test", "https://b.example.test", "https://b.example.test:8443"),
        ("https://*.example.test:*", "https://b.example.test:1", "https://other.test"),
        ("https://*.other.test", "https://c.other.test", "https://a.example.test"),
    ] {
        let trust = world.trust(&[pattern]);
        let vouched = world.at(&trust, vouched);
        // Of another name than the certificate's: the bundle was asked, and says more than that the issuer is unknown.
        let expected = pattern.contains("other").then_some(CertificateError::NotValidForName);
        match (&vouched, expected) {
            (Ok(()), None) => {}
            (Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })), Some(_)) => {}
            other => panic!("{pattern}: {other:?}"),
        }
        assert_eq!(world.at(&trust, not), unknown(), "{pattern} does not cover {not}");
    }
    let everywhere = world.trust(&["*"]);
    for origin in ["https://a.example.test", "https://b.example.test:1"] {
        assert_eq!(world.at(&everywhere, origin), Ok(()));
    }
}

#[test]
fn a_bundle_vouches_for_nobody_outside_of_a_handshake_with_an_origin() {
    let world = World::new();
    let trust = world.trust(&["*", "https://a.example.test:*"]);
    assert_eq!(world.verify(&trust, "a.example.test"), unknown());
    assert_eq!(world.at(&trust, "https://a.example.test"), Ok(()));
}

#[tokio::test]
async fn whom_a_chain_that_nobody_vouches_for_names_is_remembered() {
    let world = World::new();
    let origin = Origin::parse("https://a.example.test").unwrap();
    for (patterns, names) in [(&["https://b.example.test"][..], vec!["CN=private CA"]), (&["*"], vec![])] {
        let trust = world.trust(patterns);
        let (outcome, issuers) = towards(origin.clone(), async { world.verify(&trust, "a.example.test") }).await;
        assert_eq!(outcome.is_ok(), names.is_empty());
        assert_eq!(issuers.iter().map(|name| rfc4514_of_der(name)).collect::<Vec<_>>(), names);
    }
}

#[test]
fn one_of_several_bundles_is_enough() {
    let world = World::new();
    let stranger = ca("another CA", None, clock::now(), |_| {});
    let at_a = |certificates| bundle("https://a.example.test", certificates);
    for entries in [vec![der(&stranger), der(&world.ca)], vec![der(&world.ca), der(&stranger)]] {
        let entries: Vec<_> = entries.into_iter().map(at_a).collect();
        let trust = world.shared.set(ServerTrust::Ca, None, &[], &world.shared.vouching(&entries));
        assert_eq!(world.at(&trust, "https://a.example.test"), Ok(()));
    }
    let trust = world.shared.set(ServerTrust::Ca, None, &[], &world.shared.vouching(&[at_a(der(&stranger))]));
    assert_eq!(world.at(&trust, "https://a.example.test"), unknown());
}

#[test]
fn where_only_the_system_is_trusted_no_bundle_vouches() {
    let world = World::new();
    let vouching = world.vouching(&["*"]);
    for (servers, expected) in
        [(ServerTrust::System, unknown()), (ServerTrust::SystemAndCa, Ok(())), (ServerTrust::Ca, Ok(()))]
    {
        let trust = world.shared.set(servers, None, &[], &vouching);
        assert_eq!(world.at(&trust, "https://a.example.test"), expected, "{servers:?}");
    }
}

#[test]
fn a_certificate_of_a_bundle_that_is_no_ca_vouches_for_nobody() {
    let world = World::new();
    let entries = [bundle("*", world.server.clone())];
    let trust = world.shared.set(ServerTrust::Ca, None, &[], &world.shared.vouching(&entries));
    assert_eq!(world.at(&trust, "https://a.example.test"), unknown());
}

#[test]
fn only_ports_that_a_bundle_is_bound_to_are_kept_apart() {
    let world = World::new();
    let vouching = world.vouching(&["*", "https://a.example.test:8443", "https://*.other.test", "https://c.test:*"]);
    let apart = |origin: &str| vouching.apart(&Origin::parse(origin).unwrap());
    assert_eq!(apart("https://a.example.test:8443"), Some(8443));
    assert_eq!(apart("https://x.other.test"), Some(443));
    for shared in ["https://a.example.test", "https://b.example.test:8443", "https://x.other.test:1", "https://c.test"]
    {
        assert_eq!(apart(shared), None, "{shared}");
    }
}

#[test]
fn the_digest_tells_bundles_and_patterns_apart_and_not_their_order() {
    let world = World::new();
    let other = World::new();
    let digest = |patterns: &[&str]| *world.vouching(patterns).digest();
    assert_eq!(digest(&["*", "https://a.test"]), digest(&["https://a.test", "*"]));
    assert_ne!(digest(&["*"]), digest(&["https://a.test"]));
    assert_ne!(digest(&["https://a.test"]), digest(&["https://a.test:*"]));
    assert_ne!(digest(&["*"]), *other.vouching(&["*"]).digest());
    assert_eq!(digest(&[]), *Vouching::none().digest());
    let vouching = world.vouching(&["*", "https://a.test", "https://b.test"]);
    let of: Vec<_> = vouching.of(&Origin::parse("https://a.test").unwrap()).map(|(_, at)| at.to_string()).collect();
    assert_eq!(of, ["*", "https://a.test"]);
    assert!(Vouching::none().is_empty() && !world.vouching(&["*"]).is_empty());
}
