//! A WebSocket goes on under a replaced certificate until `limits.upgraded_grace` has passed, whatever becomes of ordinary
//! answers; it is shown and counted meanwhile. A delete ends it as it ends everything, and `?drain=now` does so at once.

use std::io;

use serde_json::{Value, json};

use crate::harness::certificates::Pair;
use crate::harness::egret::{Setup, upload_body};
use crate::harness::eventually;
use crate::harness::origin::{Conversation, Head, Next};
use crate::harness::partner::{Door, NAME, Partner, Way};

const ASK: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A WebSocket that sends back what it gets, or a body that begins and never ends.
fn endless(conversation: &mut Conversation, head: &Head) -> io::Result<Next> {
    if head.target() == "/socket" {
        conversation.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")?;
        loop {
            let some = conversation.some()?;
            if some.is_empty() {
                return Ok(Next::Close);
            }
            conversation.write(&some)?;
        }
    }
    conversation.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun")?;
    conversation.some()?;
    Ok(Next::Close)
}

fn limited(limits: &str) -> Partner {
    Partner::configured(endless, |setup: Setup| setup.section(&format!("[limits]\n{limits}")))
}

fn socket(partner: &Partner) -> Door {
    let mut door = partner.open(Way::Sidecar);
    door.head("GET", "/socket", ASK);
    assert_eq!(door.wire.head().expect("a head").0, 101);
    door
}

#[track_caller]
fn echoes(door: &mut Door) {
    door.wire.send("still here");
    assert_eq!(door.wire.raw(10), b"still here");
}

/// Its end comes, in whatever manner; that nothing comes would be an error of another kind.
#[track_caller]
fn ends(door: &mut Door) {
    if let Err(error) = door.wire.rest() {
        assert!(!matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
    }
}

impl Partner {
    /// Uploads in place of what is there; the new id.
    #[track_caller]
    fn replace(&self, pair: &Pair, query: &str) -> String {
        let body = upload_body(Some(&self.origin.origin(NAME)), pair);
        let (status, answer) = self.egret.api("POST", &format!("/v1/projects/default/client-cert{query}"), Some(&body));
        assert_eq!((status, &answer["updated"]), (200, &json!(true)), "{answer}");
        answer["certId"].as_str().expect("an id").to_owned()
    }

    fn details(&self, id: &str) -> Value {
        self.egret.api("GET", &format!("/v1/projects/default/certificates/{id}"), None).1
    }
}

#[test]
fn after_a_replacement_it_goes_on_and_is_shown() {
    let partner = limited("replace_grace = \"0s\"\nupgraded_grace = \"1h\"");
    let mut web_socket = socket(&partner);
    let mut download = partner.open(Way::Sidecar);
    download.head("GET", "/", "");
    assert_eq!(download.wire.raw(5), b"HTTP/");

    let second = partner.replace(&partner.world.client("second"), "");
    // An answer that runs is cut at replace_grace.
    ends(&mut download);
    echoes(&mut web_socket);
    let retired = eventually("only the WebSocket is left", || {
        let retired = partner.details(&second)["retired"][0].clone();
        (retired["connections"] == 1).then_some(retired)
    });
    assert_eq!(retired["upgraded"], 1, "{retired}");
    assert!(retired["upgradedDeadline"].as_str() > retired["deadline"].as_str(), "{retired}");
    let old = retired["id"].as_str().expect("an id").to_owned();
    let draining = partner.details(&old);
    assert_eq!((&draining["status"], &draining["upgraded"]), (&json!("draining"), &json!(1)), "{draining}");
    let metrics = partner.egret.metrics();
    for line in [
        "egret_draining_certificates 1",
        "egret_draining_connections{state=\"exchange\"} 0",
        "egret_draining_connections{state=\"upgraded\"} 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }

    // What is told to end now is the certificate that is replaced now; the one before keeps its hour.
    let mut other = socket(&partner);
    partner.replace(&partner.world.client("third"), "?drain=now");
    ends(&mut other);
    echoes(&mut web_socket);

    drop(web_socket);
    eventually("nothing is draining any more", || partner.details(&old)["id"].is_null().then_some(()));
}

#[test]
fn after_a_delete_it_ends_with_everything_else() {
    let partner = limited("delete_grace = \"0s\"\nupgraded_grace = \"1h\"");
    let mut web_socket = socket(&partner);
    echoes(&mut web_socket);
    let (_, list) = partner.egret.api("GET", "/v1/projects/default/client-cert", None);
    partner.egret.delete("default", list["clientCerts"][0]["id"].as_str().expect("an id"));
    ends(&mut web_socket);
}

#[test]
fn its_deadline_may_be_nearer_than_that_of_answers() {
    let partner = limited("upgraded_grace = \"0s\"");
    let mut web_socket = socket(&partner);
    let mut download = partner.open(Way::Sidecar);
    download.head("GET", "/", "");
    assert_eq!(download.wire.raw(5), b"HTTP/");
    let second = partner.replace(&partner.world.client("second"), "");
    ends(&mut web_socket);
    eventually("only the answer is left", || {
        let retired = partner.details(&second)["retired"][0].clone();
        (retired["connections"] == 1 && retired["upgraded"] == 0).then_some(())
    });
}
