//! What a message says when it enters egret, it says when it leaves: methods, statuses, framing, streaming, truncation.

use std::io;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use crate::harness::egret::Setup;
use crate::harness::eventually;
use crate::harness::origin::{Next, Origin, Wants};
use crate::harness::partner::{NAME, Partner, Way};
use crate::harness::wire::Wire;
use crate::harness::world::World;

#[test]
fn answers_without_a_body_have_none() {
    let partner = Partner::start(|conversation, head| match (head.method(), head.target()) {
        ("HEAD", _) => {
            conversation.write("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nX-Kind: head\r\n\r\n")?;
            Ok(Next::KeepAlive)
        }
        (_, "/204") => {
            conversation.write("HTTP/1.1 204 No Content\r\n\r\n")?;
            Ok(Next::KeepAlive)
        }
        (_, "/304") => {
            conversation.write("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 777\r\n\r\n")?;
            Ok(Next::KeepAlive)
        }
        _ => conversation.answer("200 OK", "", "body"),
    });
    for way in Way::ALL {
        let mut door = partner.open(way);
        let head = door.exchange("HEAD", "/", "");
        assert_eq!((head.status, head.header("content-length")), (200, Some("12345")), "{way:?}");
        assert_eq!(head.header("x-kind"), Some("head"), "{way:?}");
        assert_eq!(door.exchange("GET", "/204", "").status, 204, "{way:?}");
        let not_modified = door.exchange("GET", "/304", "If-None-Match: \"x\"\r\n");
        assert_eq!((not_modified.status, not_modified.header("etag")), (304, Some("\"x\"")), "{way:?}");
        // The connection is still in step.
        assert_eq!(door.exchange("GET", "/", "").text(), "body", "{way:?}");
    }
}

#[test]
fn statuses_and_repeated_fields_and_targets_cross_unchanged() {
    let partner = Partner::start(|conversation, head| {
        let target = head.target().to_owned();
        conversation.answer("418 I am a teapot", "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n", &target)
    });
    let target = "/a%2Fb/../c;d=1?q=%20+&x=%C3%A9&&=";
    for way in Way::ALL {
        let reply = partner.open(way).exchange("GET", target, "");
        assert_eq!((reply.status, reply.text()), (418, target.to_owned()), "{way:?}");
        let cookies: Vec<_> =
            reply.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, v)| v.as_str()).collect();
        assert_eq!(cookies, ["a=1", "b=2"], "{way:?}");
    }
}

#[test]
fn connections_are_kept_alive_on_both_sides() {
    let partner = Partner::start(|conversation, head| {
        let body = conversation.body(head)?;
        conversation.answer("200 OK", "", &body.len().to_string())
    });
    for way in Way::ALL {
        let mut door = partner.open(way);
        for _ in 0..10 {
            assert_eq!(door.exchange("GET", "/", "").status, 200, "{way:?}");
            door.head("POST", "/", "Content-Length: 3\r\n");
            door.wire.send("abc");
            assert_eq!(door.wire.reply("POST").text(), "3", "{way:?}");
        }
    }
    // One connection would do; a put-back may come a moment too late for the next request.
    let connections = partner.origin.seen().len();
    assert!(connections <= 8, "{connections} connections for 80 requests, one at a time");
}

#[test]
fn chunked_bodies_cross_both_ways() {
    let partner = Partner::start(|conversation, head| {
        let body = conversation.body(head)?;
        conversation.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for part in body.chunks(1000) {
            conversation.write(format!("{:x}\r\n", part.len()))?;
            conversation.write(part)?;
            conversation.write("\r\n")?;
        }
        conversation.write("0\r\n\r\n")?;
        Ok(Next::KeepAlive)
    });
    let body: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
    for way in Way::ALL {
        let mut door = partner.open(way);
        for _ in 0..2 {
            door.head("POST", "/", "Transfer-Encoding: chunked\r\n");
            for part in body.chunks(7777) {
                door.wire.send(format!("{:x}\r\n", part.len()));
                door.wire.send(part);
                door.wire.send("\r\n");
            }
            door.wire.send("0\r\n\r\n");
            let reply = door.wire.reply("POST");
            assert!(reply.whole && reply.body == body, "{way:?}: {} bytes", reply.body.len());
        }
    }
}

#[test]
fn a_body_is_passed_on_while_it_is_being_written() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let (arrived, seen) = mpsc::channel();
    let partner = Partner::start(move |conversation, head| {
        if head.method() == "POST" {
            // The first part of an unfinished upload.
            arrived.send(conversation.some()?).map_err(io::Error::other)?;
            while !conversation.some()?.ends_with(b"0\r\n\r\n") {}
            return conversation.answer("200 OK", "", "");
        }
        conversation.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")?;
        wait.lock().expect("one user").recv().map_err(io::Error::other)?;
        conversation.write("6\r\nsecond\r\n0\r\n\r\n")?;
        Ok(Next::KeepAlive)
    });
    for way in Way::ALL {
        let mut door = partner.open(way);
        door.head("GET", "/", "");
        assert_eq!(door.wire.head().expect("a head before the end").0, 200, "{way:?}");
        let first = door.wire.raw("5\r\nfirst\r\n".len());
        assert_eq!(first, b"5\r\nfirst\r\n", "{way:?}");
        go.send(()).expect("the origin waits");
        assert_eq!(door.wire.raw("6\r\nsecond\r\n0\r\n\r\n".len()), b"6\r\nsecond\r\n0\r\n\r\n", "{way:?}");

        door.head("POST", "/", "Transfer-Encoding: chunked\r\n");
        door.wire.send("5\r\nearly\r\n");
        let early = seen.recv_timeout(crate::harness::PATIENCE).expect("arrives before the upload has ended");
        assert!(String::from_utf8_lossy(&early).contains("early"), "{way:?}");
        door.wire.send("4\r\nlate\r\n0\r\n\r\n");
        assert_eq!(door.wire.reply("POST").status, 200, "{way:?}");
    }
}

#[test]
fn a_truncated_answer_arrives_truncated() {
    let partner = Partner::start(|conversation, head| {
        match head.target() {
            "/length" => {
                conversation.write(format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(500)))?
            }
            "/chunk" => {
                conversation.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhalf a chunk")?
            }
            _ => conversation.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n")?,
        }
        Ok(if head.header("x-politely").is_some() { Next::Close } else { Next::Cut })
    });
    for way in Way::ALL {
        for target in ["/length", "/chunk", "/no-last-chunk"] {
            for fields in ["", "X-Politely: yes\r\n"] {
                let mut door = partner.open(way);
                door.head("GET", target, fields);
                let reply = door.wire.reply("GET");
                assert_eq!(reply.status, 200, "{way:?} {target}");
                assert!(!reply.whole, "{way:?} {target} {fields:?} arrived as if it were whole: {reply:?}");
            }
        }
    }
}

/// To HTTP/1.0 the end of the connection is the end of the answer, so a cut must not look like an end.
#[test]
fn a_truncated_answer_looks_cut_to_http_1_0_too() {
    let partner = Partner::start(|conversation, head| {
        conversation.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")?;
        if head.target() == "/whole" {
            conversation.write("0\r\n\r\n")?;
        }
        Ok(Next::Cut)
    });
    for way in [Way::Absolute, Way::Lifted, Way::Sidecar] {
        for (path, whole) in [("/whole", true), ("/half", false)] {
            let read = partner.open(way).as_http_1_0(path);
            assert_eq!(read.is_ok(), whole, "{way:?} {path}: {read:?}");
        }
    }
}

#[test]
fn a_truncated_upload_arrives_truncated() {
    let (sender, outcome) = mpsc::channel();
    let partner = Partner::start(move |conversation, head| {
        let body = conversation.body(head);
        sender.send(body.is_ok()).map_err(io::Error::other)?;
        body?;
        conversation.answer("200 OK", "", "")
    });
    let mut requests = 0;
    for way in Way::ALL {
        for (fields, sent) in
            [("Content-Length: 1000\r\n", "half"), ("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\n")]
        {
            let mut door = partner.open(way);
            door.head("POST", "/", fields);
            door.wire.send(sent);
            // Only once the origin has the request is there something to truncate.
            requests += 1;
            eventually("the request arrives", || (partner.origin.heads().len() == requests).then_some(()));
            drop(door);
            if let Ok(whole) = outcome.recv_timeout(crate::harness::PATIENCE) {
                assert!(!whole, "{way:?} {fields:?} arrived as if it were whole");
            } else {
                panic!("{way:?} {fields:?}: the origin still waits");
            }
        }
    }
}

#[test]
fn expect_100_continue_is_the_origins_to_grant() {
    let partner = Partner::start(|conversation, head| {
        if head.target() == "/refuse" {
            conversation.answer("417 Expectation Failed", "Connection: close\r\n", "no")?;
            return Ok(Next::Close);
        }
        if head.header("expect").is_none() {
            return conversation.answer("500 Internal Server Error", "", "the expectation got lost");
        }
        conversation.write("HTTP/1.1 100 Continue\r\n\r\n")?;
        let body = conversation.body(head)?;
        conversation.answer("200 OK", "", &String::from_utf8_lossy(&body))
    });
    for way in Way::ALL {
        let mut door = partner.open(way);
        door.head("POST", "/grant", "Expect: 100-continue\r\nContent-Length: 4\r\n");
        assert_eq!(door.wire.head().expect("an interim response").0, 100, "{way:?}");
        door.wire.send("body");
        let reply = door.wire.reply("POST");
        assert_eq!((reply.status, reply.text()), (200, "body".to_owned()), "{way:?}");

        let mut door = partner.open(way);
        door.head("POST", "/refuse", "Expect: 100-continue\r\nContent-Length: 4\r\n");
        let reply = door.wire.reply("POST");
        assert_eq!((reply.status, reply.text()), (417, "no".to_owned()), "{way:?}");
        assert!(reply.interim.is_empty(), "{way:?}: egret invited a body that the origin refused");
    }
}

#[test]
fn other_interim_responses_are_dropped() {
    let partner = Partner::start(|conversation, _| {
        conversation.write("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")?;
        conversation.write("HTTP/1.1 102 Processing\r\n\r\n")?;
        conversation.answer("200 OK", "", "final")
    });
    for way in Way::ALL {
        let mut door = partner.open(way);
        for _ in 0..2 {
            let reply = door.exchange("GET", "/", "");
            assert_eq!((reply.status, reply.text(), reply.interim.len()), (200, "final".to_owned(), 0), "{way:?}");
        }
    }
}

#[test]
fn an_answer_that_comes_before_the_body_is_passed_on() {
    let partner = Partner::start(|conversation, _| {
        conversation.answer("413 Content Too Large", "Connection: close\r\n", "too large")?;
        Ok(Next::Close)
    });
    for way in Way::ALL {
        let mut door = partner.open(way);
        door.head("POST", "/", "Content-Length: 100000000\r\n");
        door.wire.send("a little");
        let reply = door.wire.reply("POST");
        assert_eq!((reply.status, reply.text()), (413, "too large".to_owned()), "{way:?}");
    }
}

#[test]
fn a_chunked_body_is_not_lost_because_of_its_method() {
    let partner = Partner::start(|conversation, head| {
        let body = conversation.body(head)?;
        conversation.answer("200 OK", "", &format!("{} {}", head.method(), String::from_utf8_lossy(&body)))
    });
    for way in Way::ALL {
        for method in ["GET", "DELETE", "OPTIONS", "QUERY"] {
            let mut door = partner.open(way);
            door.head(method, "/", "Transfer-Encoding: chunked\r\n");
            door.wire.send("5\r\nquery\r\n0\r\n\r\n");
            let reply = door.wire.reply(method);
            assert_eq!((reply.status, reply.text()), (200, format!("{method} query")), "{way:?}");
        }
    }
}

#[test]
fn nobody_is_switched_to_a_protocol_that_was_not_asked_for() {
    let partner = Partner::start(|conversation, _| {
        conversation.write(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        )?;
        Ok(Next::KeepAlive)
    });
    for way in Way::ALL {
        for fields in ["", "Connection: upgrade\r\nUpgrade: websocket\r\n"] {
            let reply = partner.open(way).exchange("GET", "/", fields);
            reply.assert_failure(502, "upstream.malformed");
        }
    }
}

#[test]
fn interim_responses_without_end_are_an_error() {
    let partner = Partner::start(|conversation, _| {
        for _ in 0..100 {
            conversation.write("HTTP/1.1 102 Processing\r\n\r\n")?;
        }
        conversation.answer("200 OK", "", "final")
    });
    for way in Way::ALL {
        partner.open(way).exchange("GET", "/", "").assert_failure(502, "upstream.malformed");
    }
}

#[test]
fn an_upload_may_take_longer_than_an_answer() {
    let limit = Duration::from_millis(400);
    let world = World::new();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::Nothing, |conversation, head| {
        let body = conversation.body(head)?;
        if head.target() == "/silent" {
            // Until egret gives up.
            conversation.some()?;
        }
        conversation.answer("200 OK", "", &body.len().to_string())
    });
    let egret = Setup::new(&world).hosts(&[NAME]).section("[limits]\nresponse_timeout = \"400ms\"").start();
    for (target, status) in [("/", 200), ("/silent", 504)] {
        let mut wire = Wire::connect(egret.proxy());
        let url = format!("{}{target}", origin.origin(NAME));
        wire.send(format!("POST {url} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 10\r\n\r\n"));
        for _ in 0..10 {
            std::thread::sleep(limit / 4);
            wire.send("x");
        }
        let reply = wire.reply("POST");
        assert_eq!(reply.status, status, "{reply:?}");
    }
}

#[test]
fn an_upload_goes_on_after_an_early_answer() {
    let (report, reported) = mpsc::channel();
    let world = World::new();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::Nothing, move |conversation, head| {
        conversation.answer("200 OK", "", "early")?;
        report.send(conversation.body(head).is_ok()).map_err(io::Error::other)?;
        Ok(Next::Close)
    });
    let egret = Setup::new(&world).hosts(&[NAME]).section("[limits]\nhead_timeout = \"200ms\"").start();
    let mut wire = Wire::connect(egret.proxy());
    let url = format!("{}/", origin.origin(NAME));
    wire.send(format!("POST {url} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 10\r\n\r\n"));
    assert_eq!(wire.reply("POST").text(), "early");
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(100));
        let _ = wire.try_send("x");
    }
    assert_eq!(reported.recv_timeout(crate::harness::PATIENCE), Ok(true), "the origin got the whole upload");
}
