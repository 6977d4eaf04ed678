//! Every failure that egret answers itself has its status, a stable code, a `Proxy-Status` and a problem body; inside
//! an intercepted tunnel it arrives as an HTTP response.

use crate::harness::certificates::Authority;
use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site, free_address};
use crate::harness::openssl::Server;
use crate::harness::origin::{Next, Origin, Wants};
use crate::harness::wire::{Reply, Wire, absolute};
use crate::harness::world::World;

const NAME: &str = "api.partner.test";

fn get(egret: &Egret, url: &str) -> Reply {
    absolute(egret.proxy(), "GET", url)
}

/// The same request in absolute form, and inside an intercepted tunnel.
fn both_ways(egret: &Egret, origin: &str) -> [Reply; 2] {
    let authority = origin.trim_start_matches("https://");
    let host = authority.rsplit_once(':').expect("with a port").0;
    let tunnel = Wire::tunnel(egret.proxy(), authority).expect("the tunnel itself is accepted");
    let mut tunnel = tunnel.tls(host, &egret.ca_pem()).expect("egret finishes TLS");
    [get(egret, &format!("{origin}/")), tunnel.request("GET", "/", authority)]
}

#[test]
fn a_server_that_nobody_vouches_for() {
    let world = World::new();
    let unknown = Authority::root("nobody knows it");
    let nginx = Nginx::start(&[Site::demanding(&[NAME], &unknown.server(&[NAME]), &world.partner.pem())]);
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    get(&egret, &nginx.origin(NAME)).assert_failure(502, "trust.unknown_issuer");
    egret.upload("default", Some(&nginx.origin(NAME)), &world.client("never-shown"));
    for reply in both_ways(&egret, &nginx.origin(NAME)) {
        reply.assert_failure(502, "trust.unknown_issuer");
    }
}

#[test]
fn a_server_with_another_name() {
    let world = World::new();
    let nginx = Nginx::start(&[Site::open(&["other.test"], &world.server(&["other.test"]))]);
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    egret.upload("default", Some(&nginx.origin(NAME)), &world.client("never-shown"));
    for reply in both_ways(&egret, &nginx.origin(NAME)) {
        reply.assert_failure(502, "trust.name_mismatch");
    }
}

#[test]
fn a_port_that_nobody_listens_on() {
    let world = World::new();
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let origin = format!("https://{NAME}:{}", free_address().port());
    let reply = get(&egret, &origin);
    reply.assert_failure(502, "net.refused");
    // Facts for a caller on loopback.
    let problem = reply.json();
    assert_eq!(problem["status"], 502, "{problem}");
    assert!(reply.text().contains(NAME), "names the origin: {problem}");
    egret.upload("default", Some(&origin), &world.client("never-shown"));
    for reply in both_ways(&egret, &origin) {
        reply.assert_failure(502, "net.refused");
    }
}

#[test]
fn a_refusal_is_heard_by_a_client_that_sends_its_whole_upload_first() {
    let world = World::new();
    let egret = Setup::new(&world).start();
    let size = 20_000_000;
    for target in ["https://nowhere.invalid/", "http://169.254.169.254/", "/not-for-a-proxy", "ftp://x/"] {
        let mut wire = Wire::connect(egret.proxy());
        wire.send(format!("PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"));
        wire.send(vec![b'x'; size]);
        let reply = wire.reply("PUT");
        assert!(matches!(reply.status, 400 | 403 | 502), "{target}: {reply:?}");
        assert!(reply.json()["code"].is_string(), "{target}: {reply:?}");
    }
}

#[test]
fn a_name_that_does_not_exist() {
    let world = World::new();
    let egret = Setup::new(&world).start();
    get(&egret, "https://nowhere.invalid/").assert_failure(502, "dns.not_found");
    get(&egret, "http://nowhere.invalid/").assert_failure(502, "dns.not_found");
}

#[test]
fn an_origin_that_demands_a_certificate_when_none_is_registered() {
    let world = World::new();
    let wants = world.partner.pem();
    let ours = Origin::start(&world.server(&[NAME]), &Wants::CertificateOf(&wants), |conversation, _| {
        conversation.answer("200 OK", "", "")
    });
    let openssl = Server::demanding("-tls1_3", &world.server(&[NAME]), &wants);
    let older = Server::demanding("-tls1_2", &world.server(&[NAME]), &wants);
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    // In TLS 1.3 the refusal races the request: many times.
    for _ in 0..20 {
        get(&egret, &ours.origin(NAME)).assert_failure(502, "mtls.required_none_registered");
    }
    for server in [&openssl, &older] {
        get(&egret, &server.origin(NAME)).assert_failure(502, "mtls.required_none_registered");
    }
    assert_eq!(ours.heads().len(), 0);
}

#[test]
fn an_origin_that_does_not_know_our_issuer() {
    let world = World::new();
    let wants = world.partner.pem();
    let ours = Origin::start(&world.server(&[NAME]), &Wants::CertificateOf(&wants), |conversation, _| {
        conversation.answer("200 OK", "", "")
    });
    let openssl = Server::demanding("-tls1_3", &world.server(&[NAME]), &wants);
    let older = Server::demanding("-tls1_2", &world.server(&[NAME]), &wants);
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    for origin in [ours.origin(NAME), openssl.origin(NAME), older.origin(NAME)] {
        egret.upload("default", Some(&origin), &world.stranger.client("of-a-stranger"));
        for reply in both_ways(&egret, &origin) {
            reply.assert_failure(502, "mtls.rejected_unknown_ca");
        }
    }
}

#[test]
fn a_project_wide_certificate_that_is_withheld() {
    let world = World::new();
    let wants = world.partner.pem();
    let ours = Origin::start(&world.server(&[NAME]), &Wants::CertificateOf(&wants), |conversation, _| {
        conversation.answer("200 OK", "", "")
    });
    let scoped = format!("https://{NAME}:{}", ours.port() ^ 1);
    let egret = Setup::new(&world)
        .listener("forward", "forward", "project = \"careful\"")
        .section(&format!(
            "[[projects]]\nname = \"careful\"\ndefault = {{ scope = \"listed\", origins = [\"{scoped}\"] }}"
        ))
        .hosts(&[NAME])
        .start();
    egret.upload("careful", None, &world.client("not-for-everybody"));
    let reply = get(&egret, &ours.origin(NAME));
    reply.assert_failure(403, "mtls.required_withheld");
    assert!(ours.seen().iter().all(|seen| seen.subject.is_none()), "it was not shown");
}

#[test]
fn a_certificate_is_not_shown_to_a_server_that_was_not_verified() {
    let world = World::new();
    let unknown = Authority::root("nobody knows it");
    let wants = world.partner.pem();
    let impostor = Origin::start(&unknown.server(&[NAME]), &Wants::PerhapsCertificateOf(&wants), |conversation, _| {
        conversation.answer("200 OK", "", "")
    });
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    egret.upload("default", Some(&impostor.origin(NAME)), &world.client("secret-identity"));
    for reply in both_ways(&egret, &impostor.origin(NAME)) {
        reply.assert_failure(502, "trust.unknown_issuer");
    }
    assert!(
        impostor.seen().iter().all(|seen| seen.subject.is_none() && seen.heads.is_empty()),
        "{:?}",
        impostor.seen()
    );
}

#[test]
fn an_origin_that_closes_before_it_answers() {
    let world = World::new();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::Nothing, |_, _| Ok(Next::Cut));
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    get(&egret, &origin.origin(NAME)).assert_failure(502, "net.reset");
}

#[test]
fn an_origin_that_does_not_speak_http_or_tls() {
    let world = World::new();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::Nothing, |conversation, _| {
        conversation.write("this is not HTTP\r\n\r\n")?;
        Ok(Next::Close)
    });
    let plain = Origin::plain(|conversation, _| conversation.answer("200 OK", "", ""));
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    get(&egret, &origin.origin(NAME)).assert_failure(502, "upstream.malformed");
    // A ClientHello makes a plain server wait for the end of a head that never comes, or give up.
    let reply = Wire::tunnel(egret.proxy(), &format!("{NAME}:{}", plain.port()));
    assert!(reply.is_ok(), "a blind tunnel does not judge what the origin speaks");
}

#[test]
fn an_answer_of_the_origin_is_passed_on_and_annotated() {
    let world = World::new();
    let nginx = Nginx::start(&[Site::demanding(&[NAME], &world.server(&[NAME]), &world.partner.pem())]);
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let reply = get(&egret, &nginx.origin(NAME));
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("No required SSL certificate was sent"), "nginx's own words: {}", reply.text());
    assert!(reply.header("proxy-status").is_some_and(|status| status.contains("egret")), "{reply:?}");
    egret.upload("default", Some(&nginx.origin(NAME)), &world.stranger.client("of-a-stranger"));
    let reply = get(&egret, &nginx.origin(NAME));
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("SSL certificate error"), "nginx's own words: {}", reply.text());
    assert!(reply.header("proxy-status").is_some(), "{reply:?}");
}
