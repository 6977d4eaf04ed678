//! The origins and clients of this suite, without egret between them: if these fail, the others say nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::harness::certificates::Authority;
use crate::harness::clients::{Client, Job, curl_command};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::openssl::{Server, leaf_seen_by_s_client};
use crate::harness::origin::{Next, Origin, Wants};
use crate::harness::wire::Wire;
use crate::harness::world::World;
use crate::harness::{eventually, run_within, stdout_of};

#[test]
fn nginx_shows_the_certificate_that_it_was_given() {
    let world = World::new();
    let intermediate = world.partner.intermediate("below the partner");
    let server = world.server(&["one.test"]);
    let nginx = Nginx::start(&[
        Site::demanding(&["one.test"], &server, &world.partner.pem()),
        Site::demanding(&["two.test"], &world.server(&["two.test"]), &world.stranger.pem()).protocols("TLSv1.2"),
        Site::open(&["open.test"], &world.server(&["open.test"])),
    ]);
    let root = world.write("root.pem", &world.root.pem());
    let get = |name: &str, identity: Option<&[std::path::PathBuf; 3]>| {
        let mut curl = curl_command();
        curl.arg("--cacert").arg(&root).args(["--resolve", &format!("{name}:{}:127.0.0.1", nginx.port())]);
        if let Some([crt, key, _]) = identity {
            curl.arg("--cert").arg(crt).arg("--key").arg(key);
        }
        stdout_of(curl.arg(nginx.origin(name)))
    };
    let pair = intermediate.client("through-intermediate").through(&intermediate, &world.partner);
    let files = pair.write(&world.path("."));
    let seen: serde_json::Value = serde_json::from_str(&get("one.test", Some(&files))).expect("JSON");
    assert_eq!(seen["subject"], pair.subject());
    assert_eq!(seen["serial"], pair.serial);
    assert_eq!(seen["verify"], "SUCCESS");
    assert!(get("one.test", None).contains("No required SSL certificate was sent"));
    assert!(get("two.test", Some(&files)).contains("The SSL certificate error"));
    let seen: serde_json::Value = serde_json::from_str(&get("open.test", Some(&files))).expect("JSON");
    assert_eq!(seen["subject"], "");
    assert_eq!(leaf_seen_by_s_client(None, "one.test", nginx.port()).trim(), server.chain.replace("\r\n", "\n").trim());
    // What is put can be got back, byte for byte, without the origin answering before it has all of it.
    let file = world.write("to-put", &"0123456789".repeat(100_000));
    let mut put = curl_command();
    put.arg("--cacert").arg(&root).args(["--resolve", &format!("open.test:{}:127.0.0.1", nginx.port())]);
    stdout_of(put.arg("--fail").arg("-T").arg(&file).arg(format!("{}/put/received", nginx.origin("open.test"))));
    assert!(std::fs::read(&file).expect("there") == std::fs::read(nginx.files().join("received")).expect("there"));
}

#[test]
fn s_server_demands_a_certificate_of_its_own_authority() {
    let world = World::new();
    let server = Server::demanding("-tls1_2", &world.server(&["one.test"]), &world.partner.pem());
    let root = world.write("root.pem", &world.root.pem());
    let get = |authority: &Authority, name: &str| {
        let [crt, key, _] = authority.client(name).write(&world.path("."));
        let mut curl = curl_command();
        curl.arg("--cacert").arg(&root).arg("--cert").arg(crt).arg("--key").arg(key);
        curl.args(["--resolve", &format!("one.test:{}:127.0.0.1", server.port()), &server.origin("one.test")]);
        run_within(Duration::from_secs(20), &mut curl)
    };
    let page = String::from_utf8_lossy(&get(&world.partner, "known").stdout).into_owned();
    assert!(page.contains("CN=known") && page.contains("TLSv1.2"), "{page}");
    let refused = get(&world.stranger, "unknown");
    assert!(!refused.status.success(), "{refused:?}");
}

#[test]
fn our_own_origin_records_subjects_and_heads() {
    let world = World::new();
    let origin = Origin::start(&world.server(&["one.test"]), &Wants::Nothing, |conversation, head| {
        let body = conversation.body(head)?;
        conversation.answer("200 OK", "", &format!("{} bytes", body.len()))?;
        Ok(Next::Close)
    });
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, origin.port()));
    let mut wire = Wire::connect(address).tls("one.test", &world.root.pem()).expect("TLS");
    wire.send("POST /x HTTP/1.1\r\nHost: one.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(wire.reply("POST").text(), "3 bytes");
    assert!(wire.is_closed());
    assert_eq!(origin.heads().len(), 1);
    assert!(origin.heads()[0].starts_with("POST /x HTTP/1.1\r\n"));

    let strict =
        Origin::start(&world.server(&["one.test"]), &Wants::CertificateOf(&world.partner.pem()), |conversation, _| {
            conversation.answer("200 OK", "", "")
        });
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, strict.port()));
    // TLS 1.3: the client finishes its part before it learns of the refusal.
    let mut wire = Wire::connect(address).tls("one.test", &world.root.pem()).expect("TLS");
    let _ = wire.try_send("GET / HTTP/1.1\r\nHost: one.test\r\n\r\n");
    assert!(wire.try_reply("GET").is_err());
    eventually("the origin records the refusal", || strict.seen().first()?.error.clone());
}

#[test]
fn every_client_reaches_an_origin_directly() {
    let world = World::new();
    let nginx = Nginx::start(&[Site::open(&["localhost"], &world.server(&["localhost", "127.0.0.1"]))]);
    let root = world.write("root.pem", &world.root.pem());
    for (name, mut client) in [
        ("curl", Client::Curl),
        ("urllib", Client::python("urllib")),
        ("requests", Client::python("requests")),
        ("node http", Client::node("http")),
        ("undici", Client::node("undici")),
    ] {
        let answer = client.send(&Job::get(format!("https://127.0.0.1:{}/path", nginx.port())).trusting(&root));
        assert_eq!((answer.status, answer.error.as_deref()), (200, None), "{name}");
        assert_eq!(answer.seen("uri"), "/path", "{name}");
        assert_eq!(answer.headers["content-type"], "application/json", "{name}");
        let distrusted = world.write("other.pem", &world.stranger.pem());
        let answer = client.send(&Job::get(format!("https://127.0.0.1:{}/", nginx.port())).trusting(&distrusted));
        assert!(answer.error.is_some(), "{name} verifies servers");
    }
}
