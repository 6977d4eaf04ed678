//! Where egret has nothing to present, or the origin asks for nothing, the client talks to the origin itself: the
//! origin's own leaf arrives, and the bytes cross untouched.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

use crate::harness::clients::{Client, Job};
use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::openssl::leaf_seen_by_s_client;
use crate::harness::wire::Wire;
use crate::harness::world::World;

const OPEN: &str = "open.test";
const STRICT: &str = "strict.test";

fn scene() -> (World, Nginx, Egret) {
    let world = World::new();
    let nginx = Nginx::start(&[
        Site::open(&[OPEN], &world.server(&[OPEN])),
        Site::demanding(&[STRICT], &world.server(&[STRICT]), &world.partner.pem()),
    ]);
    let egret = Setup::new(&world).hosts(&[OPEN, STRICT, "plain.test"]).start();
    (world, nginx, egret)
}

fn normal(pem: &str) -> String {
    pem.replace("\r\n", "\n").trim().to_owned()
}

#[test]
fn an_origin_that_asks_for_nothing_keeps_its_own_leaf_beside_a_project_wide_certificate() {
    let (world, nginx, egret) = scene();
    let client = world.client("project-wide");
    egret.upload("default", None, &client);
    let own = normal(&leaf_seen_by_s_client(None, OPEN, nginx.port()));
    // Asked first, then remembered: the same both times.
    for _ in 0..2 {
        assert_eq!(normal(&leaf_seen_by_s_client(Some(egret.proxy()), OPEN, nginx.port())), own);
    }
    let servers = world.write("servers.pem", &world.root.pem());
    let answer = Client::Curl.send(&Job::get(nginx.origin(OPEN)).through(egret.proxy()).trusting(&servers));
    assert_eq!((answer.status, answer.error.as_deref()), (200, None), "{answer:?}");
    assert_eq!(answer.seen("subject"), "");
    assert!(egret.log().contains("tunnelled"), "{}", egret.log());
    // The neighbour on the same address asks, and is intercepted.
    let answer = Client::Curl.send(&Job::get(nginx.origin(STRICT)).through(egret.proxy()).trusting(&egret.ca()));
    assert_eq!(answer.seen("subject"), client.subject());
}

#[test]
fn nothing_registered_means_that_nothing_is_touched() {
    let (_world, nginx, egret) = scene();
    let own = normal(&leaf_seen_by_s_client(None, STRICT, nginx.port()));
    assert_eq!(normal(&leaf_seen_by_s_client(Some(egret.proxy()), STRICT, nginx.port())), own);
}

#[test]
fn a_none_binding_keeps_the_project_wide_certificate_away() {
    let (world, nginx, egret) = scene();
    egret.upload("default", None, &world.client("project-wide"));
    egret.bind_none("default", &nginx.origin(STRICT));
    let own = normal(&leaf_seen_by_s_client(None, STRICT, nginx.port()));
    assert_eq!(normal(&leaf_seen_by_s_client(Some(egret.proxy()), STRICT, nginx.port())), own);
}

#[test]
fn an_intercepted_client_sees_a_leaf_with_exactly_one_name() {
    let (world, nginx, egret) = scene();
    egret.upload("default", Some(&nginx.origin(STRICT)), &world.client("exact"));
    let pem = leaf_seen_by_s_client(Some(egret.proxy()), STRICT, nginx.port());
    let (_, pem) = parse_x509_pem(pem.as_bytes()).expect("PEM");
    let leaf = pem.parse_x509().expect("DER");
    let names = &leaf.subject_alternative_name().expect("well-formed").expect("present").value.general_names;
    assert!(matches!(names[..], [GeneralName::DNSName(STRICT)]), "{names:?}");
    assert!(!leaf.is_ca());
    let days = (leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp()) / 86_400;
    assert!(days <= 2, "a leaf is short-lived: {days} days");
}

#[test]
fn a_tunnel_carries_a_protocol_in_which_the_server_speaks_first() {
    let (world, _nginx, egret) = scene();
    // With a project-wide certificate egret waits for a ClientHello, but not for ever.
    egret.upload("default", None, &world.client("project-wide"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("egret connects");
        stream.write_all(b"220 at your service\r\n").expect("egret reads");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("until the client has closed");
        bytes
    });
    let mut wire = Wire::tunnel(egret.proxy(), &format!("plain.test:{port}")).expect("a tunnel");
    assert_eq!(wire.raw(21), b"220 at your service\r\n");
    wire.send(b"\x00\xffnot http, not tls\r\n");
    drop(wire);
    assert_eq!(server.join().expect("the server ends"), b"\x00\xffnot http, not tls\r\n");
}

#[test]
fn a_client_that_takes_its_time_is_intercepted_all_the_same() {
    let (world, nginx, egret) = scene();
    egret.upload("default", Some(&nginx.origin(STRICT)), &world.client("slow"));
    let authority = format!("{STRICT}:{}", nginx.port());
    let tunnel = Wire::tunnel(egret.proxy(), &authority).expect("egret accepts the tunnel");
    // Longer than a server that speaks first is waited for.
    std::thread::sleep(std::time::Duration::from_millis(900));
    let mut inside = tunnel.tls(STRICT, &egret.ca_pem()).expect("egret's leaf, not the origin's own");
    assert_eq!(inside.request("GET", "/", &authority).seen("subject"), "CN=slow");
}

#[test]
fn a_server_that_speaks_first_is_heard_although_its_origin_is_bound() {
    let world = World::new();
    let server = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let port = server.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in server.incoming().map_while(Result::ok) {
            let mut stream = stream;
            let _ = stream.write_all(b"220 at your service\r\n");
            let mut said = [0; 6];
            let _ = stream.read_exact(&mut said);
            let _ = stream.write_all(b"221 bye\r\n");
        }
    });
    let egret = Setup::new(&world).hosts(&["mail.test"]).start();
    egret.upload("default", Some(&format!("https://mail.test:{port}")), &world.client("mail"));
    let mut tunnel = Wire::tunnel(egret.proxy(), &format!("mail.test:{port}")).expect("egret accepts the tunnel");
    assert_eq!(tunnel.raw(21), b"220 at your service\r\n");
    tunnel.send("QUIT\r\n");
    assert_eq!(tunnel.raw(9), b"221 bye\r\n");
}
