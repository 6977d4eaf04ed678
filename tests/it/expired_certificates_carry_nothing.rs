//! The clock of the running program is moved past a certificate's notAfter: what was made with the certificate carries
//! nothing any more, and says why; and as long as it is valid, nothing is lost.

use std::io;
use std::time::Duration;

use time::{Duration as Span, OffsetDateTime};

use crate::harness::certificates::Pair;
use crate::harness::egret::Setup;
use crate::harness::eventually;
use crate::harness::origin::{Conversation, Head, Next, Origin, Wants};
use crate::harness::partner::{Door, NAME, Partner, Way};
use crate::harness::wire::{Wire, absolute};
use crate::harness::world::World;

const ASK: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// What the certificate lasts from the beginning of a test.
const LIFE: Span = Span::hours(1);
/// Of every download, at the beginning.
const PIECE: &str = "piece";

/// A download that goes on until it is cut, a WebSocket that sends everything back, and short answers.
fn serve(conversation: &mut Conversation, head: &Head) -> io::Result<Next> {
    match head.target() {
        "/long" => {
            conversation.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            loop {
                conversation.write(format!("{:x}\r\n{PIECE}\r\n", PIECE.len()))?;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        "/socket" => {
            conversation.write(format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
            ))?;
            loop {
                let some = conversation.some()?;
                if some.is_empty() {
                    return Ok(Next::Close);
                }
                conversation.write(&some)?;
            }
        }
        _ => conversation.answer("200 OK", "", "short"),
    }
}

fn ends_in(life: Span) -> impl FnOnce(&World) -> Pair {
    move |world| world.partner.client_until("the-client", OffsetDateTime::now_utc() + life)
}

fn partner(setup: impl FnOnce(Setup) -> Setup) -> Partner {
    Partner::among(ends_in(LIFE), |new| setup(new.with_clock()), serve)
}

fn short(door: &mut Door) {
    assert_eq!(door.exchange("GET", "/", "").text(), "short");
}

/// A download of which the first piece has come.
fn download(partner: &Partner, way: Way) -> Door {
    let mut door = partner.open(way);
    door.head("GET", "/long", "");
    assert_eq!(door.wire.head().expect("a head").0, 200, "{way:?}");
    let piece = door.wire.raw(PIECE.len() + 5);
    assert!(String::from_utf8_lossy(&piece).contains(PIECE), "{way:?}");
    door
}

fn web_socket(partner: &Partner, way: Way) -> Door {
    let mut door = partner.open(way);
    door.head("GET", "/socket", ASK);
    assert_eq!(door.wire.head().expect("a head").0, 101, "{way:?}");
    said_back(&mut door.wire);
    door
}

fn said_back(wire: &mut Wire) {
    wire.send("hello");
    assert_eq!(wire.raw(5), b"hello");
}

/// Everything until it is cut. A body that is whole would end with its last, empty chunk.
fn cut_short(mut door: Door) -> bool {
    let rest = door.wire.rest().unwrap_or_default();
    !rest.ends_with(b"\r\n0\r\n\r\n")
}

#[test]
fn after_the_clock_passed_their_end_on_connections_of_every_way_in() {
    let partner = partner(|setup| setup);
    let mut doors: Vec<_> = Way::ALL.into_iter().map(|way| (way, partner.open(way))).collect();
    for (_, door) in &mut doors {
        short(door);
        short(door);
    }
    let downloads: Vec<_> = Way::ALL.into_iter().map(|way| (way, download(&partner, way))).collect();
    let sockets: Vec<_> = Way::ALL.into_iter().map(|way| (way, web_socket(&partner, way))).collect();
    let before = partner.origin.heads().len();
    assert_eq!(before, 16, "two short ones, a download and a socket on each way in");

    partner.egret.move_clock(LIFE * 2);
    for (way, mut socket) in sockets {
        assert!(socket.wire.is_closed(), "{way:?}: the socket was cut");
    }
    for (way, door) in downloads {
        assert!(cut_short(door), "{way:?}: a truncated body arrives truncated");
    }
    for (way, door) in &mut doors {
        door.exchange("GET", "/", "").assert_failure(403, "mtls.identity_expired");
        assert_eq!(partner.origin.heads().len(), before, "{way:?}: the origin saw nothing");
    }
    let (_, status) = partner.egret.api("GET", "/v1/status", None);
    assert_eq!(status["counters"]["expiry_retired"], 1, "{status:#}");
    assert!(status["counters"]["retired_cut"].as_u64().is_some_and(|cut| cut >= 8), "{status:#}");
}

#[test]
fn after_it_passed_the_end_of_one_that_a_file_declares() {
    let world = World::new();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::CertificateOf(&world.partner.pem()), serve);
    let client = ends_in(LIFE)(&world);
    let [cert, key, ca] = client.write(world.path("").as_path());
    let egret = Setup::new(&world)
        .with_clock()
        .hosts(&[NAME])
        .section(&format!(
            "[[certificates]]\norigin = \"{}\"\ncert = {cert:?}\nkey = {key:?}\nca = {ca:?}",
            origin.origin(NAME)
        ))
        .start();
    let url = format!("{}/", origin.origin(NAME));
    assert_eq!(absolute(egret.proxy(), "GET", &url).text(), "short");
    egret.move_clock(LIFE * 2);
    absolute(egret.proxy(), "GET", &url).assert_failure(403, "mtls.identity_expired");
    assert_eq!(origin.heads().len(), 1);
    // Its idle connection is not kept either.
    eventually("the connection is closed", || {
        let (_, status) = egret.api("GET", "/v1/status", None);
        (status["counters"]["upstream_connections"] == 0).then_some(())
    });
}

/// Egret's clock may be fast: for five minutes new connections are still made, and they end with that.
#[test]
fn but_in_the_skew_that_is_forgiven_new_connections_do() {
    let partner = partner(|setup| setup);
    let old = download(&partner, Way::Absolute);
    let mut door = partner.open(Way::Absolute);
    short(&mut door);

    partner.egret.move_clock(LIFE + Span::MINUTE);
    assert!(cut_short(old), "what was made before the end is cut at the end");
    let connections = partner.origin.seen().len();
    short(&mut door);
    assert_eq!(partner.origin.seen().len(), connections + 1, "not on the connection that was there before");
    let in_skew = download(&partner, Way::Absolute);

    partner.egret.move_clock(LIFE + Span::minutes(6));
    assert!(cut_short(in_skew), "what was made in the skew is cut at the end of it");
    let before = partner.origin.heads().len();
    door.exchange("GET", "/", "").assert_failure(403, "mtls.identity_expired");
    assert_eq!(partner.origin.heads().len(), before);
}

/// Half a minute before the end nothing new goes onto old connections, and what runs may go on to the end.
#[test]
fn and_shortly_before_what_runs_may_finish() {
    let partner = partner(|setup| setup);
    let mut running = download(&partner, Way::Absolute);
    let mut socket = web_socket(&partner, Way::Absolute);
    let mut door = partner.open(Way::Absolute);
    short(&mut door);

    // Some ten seconds are left, of which starting has taken a few.
    let left = Span::seconds(10);
    partner.egret.move_clock(LIFE - left);
    let (_, list) = partner.egret.api("GET", "/v1/projects/default/client-cert", None);
    let id = list["clientCerts"][0]["id"].as_str().expect("one certificate").to_owned();
    let details = || partner.egret.api("GET", &format!("/v1/projects/default/certificates/{id}"), None).1;
    let draining = eventually("the old connections drain", || {
        let draining = details()["retired"][0].clone();
        draining.is_object().then_some(draining)
    });
    assert_eq!((&draining["id"], details()["status"].as_str()), (&id.clone().into(), Some("active")), "{draining}");
    assert_eq!(draining["deadline"], details()["notAfter"], "they have until notAfter");

    let connections = partner.origin.seen().len();
    short(&mut door);
    short(&mut door);
    assert_eq!(partner.origin.seen().len(), connections + 1, "requests go on, on a new connection");
    assert!(running.wire.raw(PIECE.len()).len() == PIECE.len(), "the download goes on");
    said_back(&mut socket.wire);
    // And the clock runs on by itself.
    assert!(cut_short(running), "until the end");
    assert!(socket.wire.is_closed());
}

#[test]
fn unless_the_project_says_that_they_are_sent_all_the_same() {
    let partner = partner(|setup| setup.section("[[projects]]\nname = \"default\"\non_expiry = \"send\""));
    let mut running = download(&partner, Way::Absolute);
    let mut door = partner.open(Way::Absolute);
    short(&mut door);
    let connections = partner.origin.seen().len();
    partner.egret.move_clock(LIFE * 2);
    // Whoever ends connections has looked at the new time by then.
    eventually("it is said that it has expired", || partner.egret.log().contains("is sent all the same").then_some(()));
    short(&mut door);
    assert_eq!(partner.origin.seen().len(), connections, "on the connection that was there before");
    assert_eq!(running.wire.raw(100).len(), 100, "the download goes on");
}

/// One that was replaced shortly before its end has no hour left.
#[test]
fn also_where_they_were_replaced_before() {
    let partner = partner(|setup| setup);
    let running = download(&partner, Way::Absolute);
    let mut door = partner.open(Way::Absolute);
    partner.egret.upload("default", Some(&partner.origin.origin(NAME)), &partner.world.client("the-next"));
    short(&mut door);
    partner.egret.move_clock(LIFE * 2);
    assert!(cut_short(running), "its grace ends with its validity");
    short(&mut door);
}
