//! Server-sent events and long polling: what the origin has said is there at once, and no deadline for something else ends
//! an exchange that only takes its time.

use std::io;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::harness::egret::Setup;
use crate::harness::origin::{Conversation, Head, Next, Origin, Wants};
use crate::harness::partner::{NAME, Partner, Way};
use crate::harness::wire::Wire;
use crate::harness::world::World;

#[test]
fn every_event_is_there_before_the_next_one_is_sent() {
    let (heard, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let partner = Partner::start(move |conversation: &mut Conversation, _: &Head| -> io::Result<Next> {
        conversation
            .write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for event in 0..3 {
            conversation.write(format!("9\r\ndata: {event}\n\n\r\n"))?;
            // The next one is sent only when the client has this one.
            wait.lock().expect("whole").recv_timeout(Duration::from_secs(20)).map_err(io::Error::other)?;
        }
        conversation.write("0\r\n\r\n")?;
        Ok(Next::KeepAlive)
    });
    for way in Way::ALL {
        let mut door = partner.open(way);
        door.head("GET", "/events", "Accept: text/event-stream\r\n");
        let (status, fields) = door.wire.head().expect("a head");
        assert_eq!(status, 200, "{way:?}");
        assert!(fields.iter().any(|(n, v)| n.eq_ignore_ascii_case("content-type") && v == "text/event-stream"));
        for event in 0..3 {
            let text = format!("9\r\ndata: {event}\n\n\r\n");
            assert_eq!(String::from_utf8(door.wire.raw(text.len())).expect("text"), text, "{way:?}");
            heard.send(()).expect("the origin waits for it");
        }
        assert_eq!(door.wire.raw(5), b"0\r\n\r\n", "{way:?}");
    }
}

#[test]
fn an_answer_that_takes_its_time_is_waited_for() {
    /// Many times every deadline that is not for answers.
    const LONG: Duration = Duration::from_millis(1500);
    let world = World::new();
    let ca = world.partner.pem();
    let slow = Arc::new(|conversation: &mut Conversation, _: &Head| -> io::Result<Next> {
        std::thread::sleep(LONG);
        conversation.write("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")?;
        std::thread::sleep(LONG);
        conversation.write("half")?;
        Ok(Next::KeepAlive)
    });
    let origin = Origin::start(&world.server(&[NAME]), &Wants::CertificateOf(&ca), move |c, h| slow(c, h));
    let egret = Setup::new(&world)
        .listener("partner", "sidecar", &format!("project = \"default\"\norigin = \"{}\"", origin.origin(NAME)))
        .listener("forward", "forward", "project = \"default\"")
        .section("[limits]\nhead_timeout = \"300ms\"\nkeep_alive_timeout = \"300ms\"\nhandshake_timeout = \"1s\"\nupload_idle_timeout = \"300ms\"\ntunnel_idle_timeout = \"300ms\"\npool_idle_timeout = \"300ms\"")
        .hosts(&[NAME])
        .start();
    egret.upload("default", Some(&origin.origin(NAME)), &world.client("the-client"));
    let authority = format!("{NAME}:{}", origin.port());
    let ask = |mut wire: Wire| {
        let reply = wire.request("GET", "/poll", &authority);
        assert_eq!((reply.status, reply.text().as_str()), (200, "halfhalf"));
    };
    ask(Wire::connect(egret.listener("partner")));
    let tunnel = Wire::tunnel(egret.listener("forward"), &authority).expect("egret accepts the tunnel");
    ask(tunnel.tls(NAME, &egret.ca_pem()).expect("egret's leaf is valid for the name"));
}
