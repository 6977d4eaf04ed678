//! SIGTERM: nothing new is taken, what runs is finished, then the end with exit code 0. A second signal ends at once.

use std::io;
use std::net::TcpStream;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::harness::eventually;
use crate::harness::origin::Next;
use crate::harness::partner::{Partner, Way};

/// An origin that writes the second half of its answer when the test says so.
fn partner() -> (Partner, mpsc::Sender<()>) {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let partner = Partner::start(move |conversation, head| {
        if head.target() == "/quick" {
            return conversation.answer("200 OK", "", "quick");
        }
        conversation.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")?;
        wait.lock().expect("no test panics with it").recv().map_err(io::Error::other)?;
        conversation.write("other")?;
        Ok(Next::KeepAlive)
    });
    (partner, go)
}

#[test]
fn a_running_download_finishes() {
    for way in Way::ALL {
        let (mut partner, go) = partner();
        let mut idle = partner.open(way);
        assert_eq!(idle.exchange("GET", "/quick", "").status, 200, "{way:?}");
        let mut door = partner.open(way);
        door.head("GET", "/slow", "");
        assert_eq!(door.wire.head().expect("a head").0, 200, "{way:?}");
        assert_eq!(door.wire.raw(5), b"first", "{way:?}");
        partner.egret.terminate();
        let listener = partner.egret.proxy();
        eventually("no new connections", || TcpStream::connect(listener).is_err().then_some(()));
        assert!(idle.wire.is_closed(), "{way:?}: an idle connection is closed");
        assert!(partner.egret.ended().is_none(), "{way:?}: it waits for the download");
        go.send(()).expect("the origin waits");
        assert_eq!(door.wire.raw(5), b"other", "{way:?}");
        drop(door);
        let status = eventually("egret ends", || partner.egret.ended());
        assert_eq!(status.code(), Some(0), "{way:?}");
    }
}

#[test]
fn an_open_tunnel_is_let_finish() {
    let (mut partner, _go) = partner();
    // Nothing is registered for this name: a blind tunnel to an echo of our own.
    let echo = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = echo.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        let (mut stream, _) = echo.accept().expect("egret connects");
        let mut reader = stream.try_clone().expect("a socket");
        let _ = io::copy(&mut reader, &mut stream);
    });
    let authority = format!("127.0.0.1:{port}");
    let mut tunnel = crate::harness::wire::Wire::tunnel(partner.egret.proxy(), &authority).expect("a tunnel");
    tunnel.send("before");
    assert_eq!(tunnel.raw(6), b"before");
    partner.egret.terminate();
    let listener = partner.egret.proxy();
    eventually("no new connections", || TcpStream::connect(listener).is_err().then_some(()));
    tunnel.send("after");
    assert_eq!(tunnel.raw(5), b"after");
    drop(tunnel);
    let status = eventually("egret ends", || partner.egret.ended());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let (mut partner, _go) = partner();
    let mut door = partner.open(Way::Absolute);
    door.head("GET", "/slow", "");
    assert_eq!(door.wire.head().expect("a head").0, 200);
    partner.egret.terminate();
    let listener = partner.egret.proxy();
    eventually("no new connections", || TcpStream::connect(listener).is_err().then_some(()));
    assert!(partner.egret.ended().is_none());
    let start = Instant::now();
    partner.egret.terminate();
    eventually("egret ends", || partner.egret.ended());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn with_nothing_to_finish_it_ends_at_once() {
    let (partner, _go) = partner();
    let mut door = partner.open(Way::Intercepted);
    assert_eq!(door.exchange("GET", "/quick", "").status, 200);
    let start = Instant::now();
    let _home = partner.egret.stop();
    assert!(start.elapsed() < Duration::from_secs(5), "an idle connection holds it up: {:?}", start.elapsed());
}
