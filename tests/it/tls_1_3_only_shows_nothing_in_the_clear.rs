//! TLS 1.2 sends a client certificate in the clear. A binding with `tls13_only` never does: asserted on the bytes that
//! reached the origin, on the handshakes that it saw, and on the requests that it did not see.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};

use crate::harness::certificates::Pair;
use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::openssl::Server;
use crate::harness::origin::{Conversation, Head, Next, Origin, Wants};
use crate::harness::wire::{Reply, Wire, absolute, find};
use crate::harness::world::World;
use crate::harness::{eventually, stdout_of};

const NAME: &str = "api.partner.test";
const OTHER: &str = "other.partner.test";

/// Stands before an origin and keeps every byte that is sent to it.
struct Tap {
    address: SocketAddr,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let (address, sent) = (listener.local_addr().expect("bound"), Arc::new(Mutex::new(Vec::new())));
        let kept = Arc::clone(&sent);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(origin) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let back = (origin.try_clone().expect("a descriptor"), client.try_clone().expect("a descriptor"));
                thread::spawn(move || pass(back.0, back.1, None));
                let kept = Arc::clone(&kept);
                thread::spawn(move || pass(client, origin, Some(&kept)));
            }
        });
        Self { address, sent }
    }

    fn origin(&self, name: &str) -> String {
        format!("https://{name}:{}", self.address.port())
    }

    fn carried(&self, bytes: &[u8]) -> bool {
        find(&self.sent.lock().expect("no thread panics with it"), bytes).is_some()
    }

    fn is_silent(&self) -> bool {
        self.sent.lock().expect("no thread panics with it").is_empty()
    }

    fn forget(&self) {
        self.sent.lock().expect("no thread panics with it").clear();
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, kept: Option<&Mutex<Vec<u8>>>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if let Some(kept) = kept {
            kept.lock().expect("no thread panics with it").extend_from_slice(&buffer[..count]);
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

fn der(pair: &Pair) -> Vec<u8> {
    CertificateDer::from_pem_slice(pair.chain.as_bytes()).expect("PEM").to_vec()
}

fn get(egret: &Egret, origin: &str) -> Reply {
    absolute(egret.proxy(), "GET", &format!("{origin}/"))
}

#[track_caller]
fn bind(egret: &Egret, origin: &str, id: &str, tls13_only: Option<bool>) {
    let mut body = json!({"origin": origin, "certId": id});
    if let Some(tls13_only) = tls13_only {
        body["tls13Only"] = json!(tls13_only);
    }
    let (status, answer) = egret.api("PUT", "/v1/projects/default/bindings", Some(&body));
    assert_eq!(status, 200, "{answer}");
}

/// Runs the one command that a failure names.
#[track_caller]
fn follow(egret: &Egret, problem: &Value) {
    let fix = problem["fix"].as_str().unwrap_or_else(|| panic!("a remedy: {problem}"));
    let words: Vec<_> = fix.split(' ').map(|word| word.trim_matches('\'')).collect();
    assert_eq!(words[0], "egret", "{fix}");
    stdout_of(&mut egret.cli(&words[1..]));
}

fn says_who_it_saw(conversation: &mut Conversation, _: &Head) -> std::io::Result<Next> {
    let subject = conversation.subject.clone().unwrap_or_default();
    conversation.answer("200 OK", "", &subject)
}

fn says_so_and_closes(conversation: &mut Conversation, head: &Head) -> std::io::Result<Next> {
    says_who_it_saw(conversation, head)?;
    Ok(Next::Close)
}

#[test]
fn an_origin_with_tls_1_2_alone_gets_no_byte_of_the_certificate_and_the_remedy_is_named() {
    let world = World::new();
    let nginx = Nginx::start(&[Site::demanding(&[NAME], &world.server(&[NAME]), &world.partner.pem())
        .protocols("TLSv1.2")
        .logged()]);
    let tap = Tap::before(nginx.port());
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let client = world.client("secret-name");
    let id = egret.upload("default", Some(&tap.origin(NAME)), &client);
    assert_eq!(get(&egret, &tap.origin(NAME)).seen("subject"), "CN=secret-name");
    assert!(tap.carried(&der(&client)), "this is what TLS 1.2 does: everyone on the way could read it");

    bind(&egret, &tap.origin(NAME), &id, Some(true));
    tap.forget();
    let before = nginx.seen().len();
    let reply = get(&egret, &tap.origin(NAME));
    reply.assert_failure(502, "tls.protocol");
    let problem = reply.json();
    let detail = problem["detail"].as_str().expect("a detail");
    assert!(detail.contains("over TLS 1.3 only") && detail.contains("no certificate was sent"), "{detail}");
    assert!(!tap.is_silent() && !tap.carried(&der(&client)), "it was asked, and shown nothing");
    assert!(!tap.carried(b"secret-name"));
    assert_eq!(nginx.seen().len(), before, "and got no request");
    assert_eq!(problem["identity"]["presented"], Value::Null, "{problem}");

    follow(&egret, &problem);
    assert_eq!(get(&egret, &tap.origin(NAME)).seen("subject"), "CN=secret-name");
    assert!(tap.carried(&der(&client)));
}

#[test]
fn openssl_with_tls_1_2_alone_is_told_apart_from_openssl_with_tls_1_3() {
    let world = World::new();
    let old = Server::demanding("-tls1_2", &world.server(&[NAME]), &world.partner.pem());
    let new = Server::demanding("-tls1_3", &world.server(&[OTHER]), &world.partner.pem());
    let egret = Setup::new(&world).hosts(&[NAME, OTHER]).start();
    for (server, name) in [(&old, NAME), (&new, OTHER)] {
        let (status, answer) = egret.api(
            "POST",
            "/v1/projects/default/client-cert?tls13Only=true",
            Some(&crate::harness::egret::upload_body(Some(&server.origin(name)), &world.client(name))),
        );
        assert_eq!(status, 200, "{answer}");
    }
    get(&egret, &old.origin(NAME)).assert_failure(502, "tls.protocol");
    let reply = get(&egret, &new.origin(OTHER));
    assert_eq!(reply.status, 200);
    assert!(reply.text().contains(OTHER), "{}", reply.text());
}

fn kept_connection(http2: bool) {
    let world = World::new();
    let site = Site::demanding(&[NAME], &world.server(&[NAME]), &world.partner.pem()).protocols("TLSv1.2").logged();
    let nginx = Nginx::start(&[if http2 { site.http2() } else { site }]);
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let id = egret.upload("default", Some(&nginx.origin(NAME)), &world.client("kept"));
    let authority = format!("{NAME}:{}", nginx.port());
    let mut tunnel =
        Wire::tunnel(egret.proxy(), &authority).expect("a tunnel").tls(NAME, &egret.ca_pem()).expect("our leaf");
    let first = tunnel.request("GET", "/", &authority);
    let second = tunnel.request("GET", "/", &authority);
    assert_eq!(first.seen("connection"), second.seen("connection"), "kept alive");
    assert_eq!((second.seen("protocol").as_str(), second.seen("subject").as_str()), ("TLSv1.2", "CN=kept"));
    assert_eq!(second.seen("http"), if http2 { "HTTP/2.0" } else { "HTTP/1.1" });

    bind(&egret, &nginx.origin(NAME), &id, Some(true));
    tunnel.request("GET", "/", &authority).assert_failure(502, "tls.protocol");
    get(&egret, &nginx.origin(NAME)).assert_failure(502, "tls.protocol");
    assert_eq!(nginx.seen().len(), 2, "no request that began after the answer came over TLS 1.2");
    eventually("the idle connection is closed", || {
        let (_, details) = egret.api("GET", &format!("/v1/projects/default/certificates/{id}"), None);
        (details["retired"] == json!([]) && details["connections"] == 0).then_some(())
    });

    bind(&egret, &nginx.origin(NAME), &id, None);
    get(&egret, &nginx.origin(NAME)).assert_failure(502, "tls.protocol");
    bind(&egret, &nginx.origin(NAME), &id, Some(false));
    let again = tunnel.request("GET", "/", &authority);
    assert_eq!(again.seen("protocol"), "TLSv1.2");
    assert_ne!(again.seen("connection"), second.seen("connection"));
}

#[test]
fn a_kept_http_1_connection_over_tls_1_2_takes_no_request_after_the_answer() {
    kept_connection(false);
}

#[test]
fn a_kept_http_2_connection_over_tls_1_2_takes_no_request_after_the_answer() {
    kept_connection(true);
}

#[test]
fn a_session_of_tls_1_2_is_not_resumed_after_the_answer() {
    let world = World::new();
    let wants = world.partner.pem();
    let wants = Wants::CertificateOf(&wants);
    let origin = Origin::start_over(&[&TLS12], &world.server(&[NAME]), &wants, says_so_and_closes);
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let id = egret.upload("default", Some(&origin.origin(NAME)), &world.client("ticket"));
    for _ in 0..3 {
        assert_eq!(get(&egret, &origin.origin(NAME)).text(), "ticket");
    }
    assert!(origin.seen()[1..].iter().all(|seen| seen.resumed), "tickets are used at all: {:?}", origin.seen());

    bind(&egret, &origin.origin(NAME), &id, Some(true));
    for _ in 0..3 {
        get(&egret, &origin.origin(NAME)).assert_failure(502, "tls.protocol");
    }
    let seen = origin.seen();
    assert_eq!(seen.iter().filter(|seen| !seen.heads.is_empty()).count(), 3, "{seen:?}");
    assert!(seen[3..].iter().all(|seen| seen.error.is_some() && seen.subject.is_none()), "{seen:?}");
}

#[test]
fn over_tls_1_3_it_is_shown_and_resumed_apart_from_what_was_before() {
    let world = World::new();
    let wants = world.partner.pem();
    let wants = Wants::CertificateOf(&wants);
    let origin = Origin::start_over(&[&TLS13, &TLS12], &world.server(&[NAME]), &wants, says_so_and_closes);
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let id = egret.upload("default", Some(&origin.origin(NAME)), &world.client("modern"));
    for tls13_only in [None, Some(true), Some(false)] {
        bind(&egret, &origin.origin(NAME), &id, tls13_only);
        let before = origin.seen().len();
        for _ in 0..3 {
            assert_eq!(get(&egret, &origin.origin(NAME)).text(), "modern");
        }
        let seen = origin.seen();
        assert!(seen.iter().all(|seen| seen.version.as_deref() == Some("TLSv1_3")), "{seen:?}");
        let resumed: Vec<_> = seen[before..].iter().map(|seen| seen.resumed).collect();
        assert!(!resumed[0], "{tls13_only:?}: no ticket crosses over: {resumed:?}");
        assert!(resumed.contains(&true), "{tls13_only:?}: tickets are used at all");
    }
}

#[test]
fn two_bindings_of_one_certificate_with_different_settings_share_no_connection() {
    let world = World::new();
    let site = |name: &'static str| Site::demanding(&[name], &world.server(&[name]), &world.partner.pem());
    let old = Nginx::start(&[site(NAME).protocols("TLSv1.2")]);
    let new = Nginx::start(&[site(OTHER)]);
    let egret = Setup::new(&world).hosts(&[NAME, OTHER]).start();
    let id = egret.upload("default", Some(&old.origin(NAME)), &world.client("both"));
    bind(&egret, &new.origin(OTHER), &id, None);
    let seen = |nginx: &Nginx, name: &str| {
        let reply = get(&egret, &nginx.origin(name));
        assert_eq!(reply.seen("subject"), "CN=both");
        (reply.seen("protocol"), reply.seen("connection"))
    };
    let (plain, before) = (seen(&old, NAME), seen(&new, OTHER));
    assert_eq!((plain.0.as_str(), seen(&new, OTHER)), ("TLSv1.2", before.clone()));

    bind(&egret, &new.origin(OTHER), &id, Some(true));
    let after = seen(&new, OTHER);
    assert_ne!(after.1, before.1, "a connection of its own from the answer on");
    assert_eq!(seen(&old, NAME), plain, "the other binding goes on over the connection that it had");
    assert_eq!(seen(&new, OTHER), after);
    let (_, listed) = egret.api("GET", "/v1/projects/default/bindings", None);
    let said: Vec<_> = listed["bindings"].as_array().expect("a list").iter().map(|b| &b["tls13Only"]).collect();
    assert_eq!(said, [false, true], "{listed}");
}

#[test]
fn it_is_declared_uploaded_kept_explained_and_refused_for_none() {
    let world = World::new();
    let wants = world.partner.pem();
    let wants = Wants::CertificateOf(&wants);
    let origin = Origin::start_over(&[&TLS12], &world.server(&[NAME, OTHER]), &wants, says_who_it_saw);
    let folder = world.path("declared");
    std::fs::create_dir(&folder).expect("writable");
    let [cert, key, ca] = world.client("declared").write(&folder);
    let declared = format!(
        "[[certificates]]\norigin = \"{}\"\ncert = {cert:?}\nkey = {key:?}\nca = {ca:?}\ntls13_only = true",
        origin.origin(NAME)
    );
    let egret = Setup::new(&world).section(&declared).hosts(&[NAME, OTHER]).start();
    let reply = get(&egret, &origin.origin(NAME));
    reply.assert_failure(502, "tls.protocol");
    let fix = reply.json()["fix"].as_str().expect("a remedy").to_owned();
    assert!(fix.contains("tls13_only = false") && fix.ends_with("egret.toml"), "{fix}");
    let explained = stdout_of(&mut egret.cli(&["explain", &origin.origin(NAME)]));
    assert!(explained.contains("over TLS 1.3 only") && explained.contains(&fix), "{explained}");

    // By the command line, and for the whole project.
    let [cert, key, ca] = world.client("first").write(&folder).map(|path| path.display().to_string());
    let upload = ["certs", "upload", "--cert", &cert, "--key", &key, "--ca", &ca];
    stdout_of(egret.cli(&upload).arg("--tls13-only"));
    get(&egret, &origin.origin(OTHER)).assert_failure(502, "tls.protocol");
    let [cert, key, ca] = world.client("second").write(&folder).map(|path| path.display().to_string());
    stdout_of(&mut egret.cli(&["certs", "upload", "--cert", &cert, "--key", &key, "--ca", &ca]));
    get(&egret, &origin.origin(OTHER)).assert_failure(502, "tls.protocol");
    let egret = egret.kill().start();
    let reply = get(&egret, &origin.origin(OTHER));
    reply.assert_failure(502, "tls.protocol");
    assert!(origin.seen().iter().all(|seen| seen.subject.is_none()), "{:?}", origin.seen());
    follow(&egret, &reply.json());
    assert_eq!(get(&egret, &origin.origin(OTHER)).text(), "second");

    let none = json!({"origin": "https://none.test", "certId": null, "tls13Only": true});
    let (status, answer) = egret.api("PUT", "/v1/projects/default/bindings", Some(&none));
    assert_eq!(status, 400, "{answer}");
    assert!(answer.to_string().contains("tls13Only: nothing is presented by this binding"), "{answer}");
}
