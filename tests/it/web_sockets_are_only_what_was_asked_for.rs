//! WebSockets on every way in: the bytes pass as they are, under the identity; and nothing else is ever upgraded.

use std::io;

use crate::harness::egret::Setup;
use crate::harness::eventually;
use crate::harness::origin::{Conversation, Head, Next, Origin, Wants};
use crate::harness::partner::{NAME, Partner, Way};
use crate::harness::wire::Wire;
use crate::harness::world::World;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// Of [`KEY`], as RFC 6455 section 1.3 computes it.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const ASK: &str = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
/// No framing gate would let this pass as HTTP.
const BYTES: &[u8] = b"\x00\xff\r\n\r\nGET / HTTP/1.1\nContent-Length: 1\nContent-Length: 2\n\n\x81\x05hello";

/// Switches as it was asked, and sends back what it gets.
fn echo(conversation: &mut Conversation, head: &Head) -> io::Result<Next> {
    match head.target() {
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
        "/eager" => {
            conversation.write(format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 5\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\nhello"
            ))?;
            let some = conversation.some()?;
            conversation.write(&some)?;
            Ok(Next::Close)
        }
        "/other" => {
            conversation.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n")?;
            Ok(Next::Close)
        }
        "/wrong" => {
            conversation.write(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: HSmrc0sMlYUkAGmm5OPpG2HaGWk=\r\n\r\n",
            )?;
            Ok(Next::Close)
        }
        "/refused" => conversation.answer("403 Forbidden", "", "no socket for you"),
        _ => conversation.answer("200 OK", "", "plain"),
    }
}

#[test]
fn bytes_of_a_web_socket_pass_as_they_are_on_every_way_in() {
    let partner = Partner::start(echo);
    for way in Way::ALL {
        let mut door = partner.open(way);
        door.head("GET", "/socket", ASK);
        let (status, fields) = door.wire.head().expect("a head");
        let field = |name: &str| fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        assert_eq!(status, 101, "{way:?}");
        assert_eq!(field("sec-websocket-accept"), Some(ACCEPT), "{way:?}");
        assert!(field("upgrade").is_some_and(|v| v.eq_ignore_ascii_case("websocket")), "{way:?}");
        for _ in 0..3 {
            door.wire.send(BYTES);
            assert_eq!(door.wire.raw(BYTES.len()), BYTES, "{way:?}");
        }
        let seen = partner.origin.seen();
        let last = seen.last().expect("a request");
        assert_eq!(last.subject.as_deref(), Some("the-client"), "{way:?}");
        let head = partner.origin.heads().pop().expect("a head").to_ascii_lowercase();
        assert!(head.contains("upgrade: websocket\r\n"), "{head}");
        assert!(head.contains(&format!("sec-websocket-key: {}\r\n", KEY.to_ascii_lowercase())), "{head}");
    }
}

#[test]
fn what_an_origin_says_with_its_101_belongs_to_the_web_socket() {
    let partner = Partner::start(echo);
    for way in Way::ALL {
        let mut door = partner.open(way);
        door.head("GET", "/eager", ASK);
        let (status, fields) = door.wire.head().expect("a head");
        assert_eq!(status, 101, "{way:?}");
        assert!(!fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")), "{way:?}: {fields:?}");
        assert_eq!(door.wire.raw(5), b"hello", "{way:?}");
        door.wire.send(BYTES);
        assert_eq!(door.wire.raw(BYTES.len()), BYTES, "{way:?}");
    }
}

#[test]
fn a_client_that_does_not_wait_for_the_101_is_told_so() {
    let partner = Partner::start(echo);
    for way in Way::ALL {
        let mut door = partner.open(way);
        let early = format!("{ASK}\r\n\x01\x02 no HTTP");
        door.head("GET", "/socket", &early);
        door.wire.reply("GET").assert_failure(400, "request.malformed");
        assert!(door.wire.is_closed(), "{way:?}");
    }
}

#[test]
fn a_connection_that_becomes_something_else_than_was_asked_for_is_refused() {
    let partner = Partner::start(echo);
    for way in Way::ALL {
        let mut door = partner.open(way);
        door.exchange("GET", "/other", ASK).assert_failure(502, "upstream.malformed");
        let mut door = partner.open(way);
        door.exchange("GET", "/socket", "").assert_failure(502, "upstream.malformed");
        let mut door = partner.open(way);
        door.exchange("GET", "/wrong", ASK).assert_failure(502, "upstream.malformed");
    }
}

#[test]
fn other_upgrades_are_dropped_and_refusals_passed_on() {
    let partner = Partner::start(echo);
    for way in Way::ALL {
        let mut door = partner.open(way);
        let h2c = "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
        let reply = door.exchange("GET", "/", h2c);
        assert_eq!((reply.status, reply.text().as_str()), (200, "plain"), "{way:?}");
        let heads = partner.origin.heads().into_iter().map(|head| head.to_ascii_lowercase());
        let heads: Vec<_> = heads.filter(|head| head.starts_with("get / ")).collect();
        assert!(!heads.is_empty(), "{way:?}");
        assert!(heads.iter().all(|h| !h.contains("upgrade") && !h.contains("http2-settings")), "{way:?}: {heads:?}");
        let reply = door.exchange("GET", "/refused", ASK);
        assert_eq!((reply.status, reply.text().as_str()), (403, "no socket for you"), "{way:?}");
        // The connection is what it was: HTTP, gate and all.
        assert_eq!(door.exchange("GET", "/", "").text(), "plain", "{way:?}");
        door.wire.send("GET / HTTP/1.1\nHost: x\n\n");
        assert_eq!(door.wire.head().expect("a refusal").0, 400, "{way:?}");
    }
}

#[test]
fn a_web_socket_ends_at_the_deadline_of_its_deleted_certificate() {
    let world = World::new();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::CertificateOf(&world.partner.pem()), echo);
    let egret = Setup::new(&world)
        .listener("partner", "sidecar", &format!("project = \"default\"\norigin = \"{}\"", origin.origin(NAME)))
        .section("[limits]\ndelete_grace = \"0s\"")
        .hosts(&[NAME])
        .start();
    let id = egret.upload("default", Some(&origin.origin(NAME)), &world.client("the-client"));
    let mut wire = Wire::connect(egret.listener("partner"));
    wire.send(format!("GET /socket HTTP/1.1\r\nHost: {NAME}\r\n{ASK}\r\n"));
    assert_eq!(wire.head().expect("a head").0, 101);
    wire.send("still here");
    assert_eq!(wire.raw(10), b"still here");
    egret.delete("default", &id);
    assert!(wire.is_closed(), "the WebSocket was cut");
    eventually("the log says that it broke off", || {
        egret.log().lines().any(|l| l.contains("\"status\":101") && l.contains("\"complete\":false")).then_some(())
    });
}
