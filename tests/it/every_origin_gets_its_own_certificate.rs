//! Origins that want different issuers, and an origin on another TLS library, each see the certificate that is meant
//! for them.

use crate::harness::clients::{Client, Job};
use crate::harness::egret::Setup;
use crate::harness::nginx::{Nginx, Site};
use crate::harness::openssl::Server;
use crate::harness::wire::absolute;
use crate::harness::world::World;

#[test]
fn two_nginx_that_want_different_issuers() {
    let world = World::new();
    let name = "api.shared.test";
    let server = world.server(&[name]);
    let partner = Nginx::start(&[Site::demanding(&[name], &server, &world.partner.pem())]);
    let stranger = Nginx::start(&[Site::demanding(&[name], &server, &world.stranger.pem()).protocols("TLSv1.2")]);
    let egret = Setup::new(&world).hosts(&[name]).start();
    let intermediate = world.stranger.intermediate("below the stranger");
    let ours = world.client("for-the-partner");
    let theirs = intermediate.client("for-the-stranger").through(&intermediate, &world.stranger);
    // One name, two ports: two origins.
    egret.upload("default", Some(&partner.origin(name)), &ours);
    egret.upload("default", Some(&stranger.origin(name)), &theirs);
    let ca = egret.ca();
    for _ in 0..3 {
        for (nginx, pair) in [(&partner, &ours), (&stranger, &theirs)] {
            let reply = absolute(egret.proxy(), "GET", &format!("{}/", nginx.origin(name)));
            assert_eq!((reply.seen("subject"), reply.seen("verify")), (pair.subject(), "SUCCESS".to_owned()));
            let answer = Client::Curl.send(&Job::get(nginx.origin(name)).through(egret.proxy()).trusting(&ca));
            assert_eq!(answer.seen("subject"), pair.subject());
        }
    }
}

#[test]
fn openssl_over_tls_1_2_and_1_3() {
    for version in ["-tls1_2", "-tls1_3"] {
        let world = World::new();
        let name = "openssl.test";
        let server = Server::demanding(version, &world.server(&[name]), &world.partner.pem());
        let egret = Setup::new(&world).hosts(&[name]).start();
        egret.upload("default", Some(&server.origin(name)), &world.client("shown-to-openssl"));
        let reply = absolute(egret.proxy(), "GET", &format!("{}/", server.origin(name)));
        assert_eq!(reply.status, 200, "{version}: {}", reply.text());
        assert!(reply.text().contains("Subject: CN=shown-to-openssl"), "{version}: {}", reply.text());
    }
}

#[test]
fn every_kind_of_key_signs() {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519};
    let world = World::new();
    let kinds = [
        ("p256", &PKCS_ECDSA_P256_SHA256),
        ("p384", &PKCS_ECDSA_P384_SHA384),
        ("p521", &PKCS_ECDSA_P521_SHA512),
        ("ed25519", &PKCS_ED25519),
    ];
    let names: Vec<String> =
        kinds.iter().map(|(kind, _)| format!("{kind}.keys.test")).chain(["rsa.keys.test".to_owned()]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let nginx = Nginx::start(&[Site::demanding(&names, &world.server(&names), &world.partner.pem())]);
    let egret = Setup::new(&world).hosts(&names).start();
    let mut pairs: Vec<_> = kinds
        .iter()
        .map(|(kind, algorithm)| world.partner.client_with(kind, &KeyPair::generate_for(algorithm).expect("a key")))
        .collect();
    // RSA, in the old form (PKCS#1), as openssl writes it.
    let rsa = crate::harness::stdout_of(crate::harness::command("openssl").args(["genrsa", "-traditional", "2048"]));
    assert!(rsa.contains("BEGIN RSA PRIVATE KEY"), "PKCS#1");
    let mut pair = world.partner.client_with("rsa", &KeyPair::from_pem(&rsa).expect("a key of openssl"));
    pair.key = rsa;
    pairs.push(pair);
    for pair in &pairs {
        let origin = nginx.origin(&format!("{}.keys.test", pair.name));
        egret.upload("default", Some(&origin), pair);
        let reply = absolute(egret.proxy(), "GET", &format!("{origin}/"));
        assert_eq!((reply.seen("subject"), reply.seen("verify")), (pair.subject(), "SUCCESS".to_owned()));
    }
}
