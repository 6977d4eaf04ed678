//! Requests that are ambiguous, misdirected, or aimed at where nobody may go: refused before a byte goes upstream.

use std::io;
use std::sync::mpsc;

use crate::harness::PATIENCE;
use crate::harness::egret::Setup;
use crate::harness::origin::{Next, Origin};
use crate::harness::partner::{NAME, Partner, Way};
use crate::harness::wire::{Wire, absolute};
use crate::harness::world::World;

fn partner() -> Partner {
    Partner::start(|conversation, _| conversation.answer("200 OK", "", "reached"))
}

#[test]
fn another_authority_inside_a_tunnel_is_misdirected() {
    let partner = partner();
    for host in ["other.partner.test", "api.partner.test:1", "127.0.0.1"] {
        let mut door = partner.open(Way::Intercepted);
        door.wire.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        door.wire.reply("GET").assert_failure(421, "request.misdirected");
    }
    let mut door = partner.open(Way::Intercepted);
    door.wire.send(format!("GET https://other.test/ HTTP/1.1\r\nHost: {NAME}:{}\r\n\r\n", partner.origin.port()));
    assert!(matches!(door.wire.reply("GET").status, 400 | 421));
    assert_eq!(partner.origin.heads().len(), 0);
}

#[test]
fn origin_form_on_a_forward_listener_is_malformed() {
    let partner = partner();
    let mut wire = Wire::connect(partner.egret.listener("forward"));
    wire.request("GET", "/", "api.partner.test").assert_failure(400, "request.malformed");
}

#[test]
fn malformed_targets_are_refused() {
    let partner = partner();
    let port = partner.origin.port();
    let refused = [
        format!("https://user:password@{NAME}:{port}/"),
        format!("https://0x7f.1:{port}/"),
        format!("https://2130706433:{port}/"),
        format!("ftp://{NAME}:{port}/"),
        format!("https://{NAME}:0/"),
    ];
    for target in refused {
        let authority = format!("{NAME}:{port}");
        let reply = Wire::connect(partner.egret.listener("forward")).request("GET", &target, &authority);
        assert_eq!(reply.status, 400, "{target}: {}", reply.text());
    }
    for authority in ["api.partner.test", "api.partner.test:0", "0x7f.1:443", "https://api.partner.test:443", "a b:443"]
    {
        let reply = Wire::tunnel(partner.egret.listener("forward"), authority).err();
        assert_eq!(reply.map(|reply| reply.status), Some(400), "{authority}");
    }
    assert_eq!(partner.origin.heads().len(), 0);
}

#[test]
fn ambiguous_framing_is_refused_and_the_connection_closed() {
    let partner = partner();
    let ambiguous = [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: +4\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "X-Folded: one\r\n two\r\n",
        "X-Space : before the colon\r\n",
        "Content-Length: 4\r\nContent-Length: 4\r\n",
        "Content-Length: 4, 4\r\n",
        "Content-Length: 04\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "X-Bare: LF\nContent-Length: 4\r\n",
        "X-Bare: CR\rContent-Length: 4\r\n",
        "X-Nul: \0\r\n",
        ": no name\r\n",
        "Host: other.test\r\n",
    ];
    for way in Way::ALL {
        for fields in ambiguous {
            let mut door = partner.open(way);
            door.head("POST", "/", fields);
            let reply = door.wire.reply("POST");
            reply.assert_failure(400, "request.malformed");
            assert!(door.wire.is_closed(), "{way:?} {fields:?}: what follows would be read as a request");
        }
    }
    assert_eq!(partner.origin.heads().len(), 0);
}

#[test]
fn a_body_that_turns_out_ambiguous_is_never_completed_upstream() {
    let (arrived, arrives) = mpsc::channel();
    let partner = Partner::start(move |conversation, head| {
        let mut body = conversation.some()?;
        arrived.send(None).map_err(io::Error::other)?;
        let end = loop {
            match conversation.some() {
                Ok(more) if !more.is_empty() => body.extend(more),
                end => break end,
            }
        };
        arrived.send(Some(String::from_utf8_lossy(&body).into_owned())).map_err(io::Error::other)?;
        end.and_then(|_| conversation.answer("200 OK", "", head.method()))
    });
    for way in Way::ALL {
        for bad in ["\n4\r\nmore\r\n0\r\n\r\n", "\r\nzz\r\n", "\r\n0\r\nContent-Length: 3\r\n\r\n", "!\r\n0\r\n\r\n"] {
            let mut door = partner.open(way);
            door.head("POST", "/", "Transfer-Encoding: chunked\r\n");
            door.wire.send("4\r\nhalf");
            // Only once the origin has the request is there something to complete.
            assert_eq!(arrives.recv_timeout(PATIENCE), Ok(None));
            door.wire.send(bad);
            door.wire.reply("POST").assert_failure(400, "request.malformed");
            assert!(door.wire.is_closed(), "{way:?} {bad:?}");
            let upstream = arrives.recv_timeout(PATIENCE).expect("the upstream connection ends");
            assert_eq!(upstream.as_deref(), Some("4\r\nhalf\r\n"), "{way:?} {bad:?}");
        }
    }
}

#[test]
fn what_came_before_an_ambiguous_request_is_answered() {
    let partner = partner();
    for way in Way::ALL {
        let mut door = partner.open(way);
        door.head("GET", "/", "");
        door.wire.send("GET / HTTP/1.1\nHost: a\r\n\r\n");
        assert_eq!(door.wire.reply("GET").text(), "reached", "{way:?}");
        door.wire.reply("GET").assert_failure(400, "request.malformed");
        assert!(door.wire.is_closed(), "{way:?}");
    }
    assert_eq!(partner.origin.heads().len(), Way::ALL.len());
}

#[test]
fn a_request_that_came_through_here_already_is_a_loop() {
    let partner = partner();
    assert_eq!(partner.open(Way::Absolute).exchange("GET", "/", "").status, 200);
    let heads = partner.origin.heads();
    let via = crate::harness::origin::header(&heads[0], "via").expect("egret says that it was there").to_owned();
    for way in Way::ALL {
        let reply = partner.open(way).exchange("GET", "/", &format!("Via: 1.1 other, {via}\r\n"));
        reply.assert_failure(508, "request.loop");
    }
    assert_eq!(partner.origin.heads().len(), 1);
    // Another egret is no loop.
    let other = format!("Via: {}\r\n", "1.1 egret-of-somebody-else");
    assert_eq!(partner.open(Way::Absolute).exchange("GET", "/", &other).status, 200);
}

#[test]
fn addresses_that_nobody_may_reach() {
    let world = World::new();
    let egret = Setup::new(&world)
        .host("metadata.test", "169.254.169.254")
        .host("mapped.test", "::ffff:169.254.169.254")
        .start();
    for host in [
        "169.254.169.254",
        "[fe80::1]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[fd00:ec2::254]",
        "metadata.test",
        "mapped.test",
    ] {
        for scheme in ["http", "https"] {
            let reply = absolute(egret.proxy(), "GET", &format!("{scheme}://{host}/latest/meta-data/"));
            reply.assert_failure(403, "policy.address_denied");
        }
        let reply = Wire::tunnel(egret.proxy(), &format!("{host}:80")).err().expect("refused");
        reply.assert_failure(403, "policy.address_denied");
    }
}

#[test]
fn egrets_own_listeners_are_not_reached_through_it() {
    let world = World::new();
    let egret = Setup::new(&world).hosts(&["myself.test"]).start();
    for port in [egret.proxy().port(), egret.management.port()] {
        for host in ["127.0.0.1", "myself.test", "localhost"] {
            let reply = absolute(egret.proxy(), "GET", &format!("http://{host}:{port}/healthz"));
            reply.assert_failure(403, "policy.address_denied");
            let reply = Wire::tunnel(egret.proxy(), &format!("{host}:{port}")).err().expect("refused");
            reply.assert_failure(403, "policy.address_denied");
        }
    }
}

#[test]
fn origins_that_the_operator_denies() {
    let world = World::new();
    let plain = Origin::plain(|conversation, _| {
        conversation.answer("200 OK", "Connection: close\r\n", "reached")?;
        Ok(Next::Close)
    });
    let egret = Setup::new(&world)
        .hosts(&["allowed.test", "denied.test"])
        .section("[egress]\ndeny = [\"https://denied.test:*\"]")
        .start();
    let url = |scheme: &str, name: &str| format!("{scheme}://{name}:{}/", plain.port());
    absolute(egret.proxy(), "GET", &url("https", "denied.test")).assert_failure(403, "policy.origin_denied");
    let reply = Wire::tunnel(egret.proxy(), &format!("denied.test:{}", plain.port())).err().expect("refused");
    reply.assert_failure(403, "policy.origin_denied");
    assert_eq!(absolute(egret.proxy(), "GET", &url("http", "allowed.test")).text(), "reached");
}
