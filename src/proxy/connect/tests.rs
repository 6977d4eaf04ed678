use tokio::io::{AsyncWriteExt as _, duplex};

use super::first::{SILENCE, classify};
use super::*;

#[test]
fn reads_the_authority_form_and_nothing_else() {
    let got = |uri: &str| authority(&uri.parse().expect("the test writes URIs")).map_err(|f| f.code);
    assert_eq!(got("API.test:443"), Ok(Origin::parse("https://api.test").unwrap()));
    assert_eq!(got("[2001:DB8::1]:8443"), Ok(Origin::parse("https://[2001:db8::1]:8443").unwrap()));
    for bad in [
        "api.test",
        "/api.test:443",
        "*",
        "https://api.test:443",
        "https://api.test:443/",
        "user@api.test:443",
        "api.test:0",
        "0x7f.1:443",
        "127.1:443",
        "a..test:443",
    ] {
        assert_eq!(got(bad), Err(Code::RequestMalformed), "{bad}");
    }
}

#[test]
fn refuses_a_connect_that_frames_a_body_or_has_two_hosts() {
    let connect = || Request::builder().method("CONNECT").uri("api.test:443");
    assert!(target(&connect().body(()).unwrap()).is_ok());
    assert!(target(&connect().header("host", "other.test").body(()).unwrap()).is_ok());
    for bad in [
        connect().header("content-length", "0"),
        connect().header("transfer-encoding", "chunked"),
        connect().header("host", "api.test:443").header("host", "api.test:443"),
    ] {
        assert_eq!(target(&bad.body(()).unwrap()).unwrap_err().code, Code::RequestMalformed);
    }
}

#[test]
fn knows_a_protocol_by_its_first_bytes() {
    for (bytes, first) in [
        (&b""[..], None),
        (b"\x16", None),
        (b"\x16\x03", Some(First::Tls)),
        (b"\x16\x03\x01\x02\x00\x01", Some(First::Tls)),
        (b"\x16\x02", Some(First::Other)),
        (b"\x80\x2e\x01\x03\x01", Some(First::Other)),
        (b"G", None),
        (b"GET", None),
        (b"GET ", None),
        (b"GET /", Some(First::Http)),
        (b"OPTIONS *", Some(First::Http)),
        (b"GET http://a.test/", Some(First::Http)),
        (b"VERSION-CONTROL /x", Some(First::Http)),
        (b"PRI * HTTP/2.0\r\n", Some(First::Other)),
        (b"SSH-2.0-OpenSSH", Some(First::Other)),
        (b"EHLO mail.test", Some(First::Other)),
        (b"get /", Some(First::Other)),
        (b"\x00", Some(First::Other)),
        (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Some(First::Other)),
    ] {
        assert_eq!(classify(bytes), first, "{bytes:?}");
    }
}

#[tokio::test]
async fn holds_what_it_looked_at() {
    let (mut client, mut near) = duplex(64);
    client.write_all(b"\x16").await.unwrap();
    client.write_all(b"\x03\x01hello").await.unwrap();
    let mut held = BytesMut::from(&b""[..]);
    assert_eq!(peek(&mut near, &mut held).await, First::Tls);
    assert_eq!(&held[..2], b"\x16\x03");
}

#[tokio::test]
async fn looks_at_what_came_with_the_connect() {
    let (_client, mut near) = duplex(64);
    let mut held = BytesMut::from(&b"GET / HTTP/1.1\r\n"[..]);
    assert_eq!(peek(&mut near, &mut held).await, First::Http);
    assert_eq!(&held[..], b"GET / HTTP/1.1\r\n");
}

#[tokio::test]
async fn takes_silence_for_a_server_that_speaks_first() {
    let (_client, mut near) = duplex(64);
    let began = Instant::now();
    assert_eq!(peek(&mut near, &mut BytesMut::new()).await, First::Silent);
    assert!(began.elapsed() >= SILENCE);
}

#[tokio::test]
async fn sees_that_the_client_has_gone() {
    let (client, mut near) = duplex(64);
    drop(client);
    assert_eq!(peek(&mut near, &mut BytesMut::new()).await, First::Closed);
}

#[test]
fn maps_the_port_of_plain_http() {
    let of = |t: &str| lifted(&Origin::parse(t).unwrap()).to_string();
    assert_eq!(of("https://a.test:80"), "https://a.test");
    assert_eq!(of("https://a.test:8080"), "https://a.test:8080");
    assert_eq!(plain(&Origin::parse("https://[::1]:80").unwrap()).unwrap().to_string(), "http://[::1]");
}

#[tokio::test]
async fn keeps_answers_of_projects_and_ports_apart_and_forgets_failures() {
    let before = AskedBefore::new(LiveLimits::default());
    let [a, b] = ["prj_a", "prj_b"].map(|id| ProjectId::parse(id).unwrap());
    let [origin, other] = ["https://api.test", "https://api.test:8443"].map(|o| Origin::parse(o).unwrap());
    assert_eq!(before.learn(&a, &origin, async { None }).await, None);
    assert_eq!(before.get(&a, &origin), None, "an answer that could not be had is asked for again");
    assert_eq!(before.learn(&a, &origin, async { Some(None) }).await, Some(None));
    assert_eq!(before.get(&a, &origin), Some(None));
    assert_eq!(before.get(&b, &origin), None);
    assert_eq!(before.get(&a, &other), None);
    assert!(before.running.is_empty());
}

#[tokio::test]
async fn asks_once_for_all_who_come_meanwhile_also_when_the_first_goes_away() {
    let before = AskedBefore::new(LiveLimits::default());
    let (a, origin) = (ProjectId::parse("prj_a").unwrap(), Origin::parse("https://api.test").unwrap());
    let questions = std::cell::Cell::new(0);
    let answer = tokio::sync::Notify::new();
    let question = || async {
        questions.set(questions.get() + 1);
        answer.notified().await;
        Some(None)
    };
    {
        let mut gone = Box::pin(before.learn(&a, &origin, question()));
        assert!(futures_util::poll!(gone.as_mut()).is_pending());
        let mut second = Box::pin(before.learn(&a, &origin, question()));
        let mut third = Box::pin(before.learn(&a, &origin, question()));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        assert!(futures_util::poll!(third.as_mut()).is_pending());
        assert_eq!(questions.get(), 1);
        drop(gone);
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        assert_eq!(questions.get(), 2, "the second takes over");
        answer.notify_one();
        assert_eq!(second.await, Some(None));
        assert_eq!(third.await, Some(None));
        assert_eq!(questions.get(), 2);
    }
    {
        let other = Origin::parse("https://other.test").unwrap();
        let mut gone = Box::pin(before.learn(&a, &other, std::future::pending()));
        assert!(futures_util::poll!(gone.as_mut()).is_pending());
    }
    assert!(before.running.is_empty(), "nothing is left behind by those who went away");
}

#[test]
fn leaves_nothing_behind_when_all_go_at_once() {
    let before = AskedBefore::new(LiveLimits::default());
    let (a, origin) = (ProjectId::parse("prj_a").unwrap(), Origin::parse("https://api.test").unwrap());
    for round in 0..500 {
        let start = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for asking in [(); 2].map(|()| {
                let mut asking = Box::pin(before.learn(&a, &origin, std::future::pending()));
                let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                assert!(asking.as_mut().poll(&mut cx).is_pending());
                asking
            }) {
                scope.spawn(|| {
                    start.wait();
                    drop(asking);
                });
            }
        });
        assert!(before.running.is_empty(), "round {round}");
    }
}

/// A none binding speaks for its own port; plain HTTP is looked up where it is lifted to.
#[test]
fn a_none_binding_tunnels_and_does_not_hide_what_another_port_is_bound_to() {
    use crate::domain::ProjectInfo;
    use crate::registry::testing::{binding, certificate, empty};
    for none in ["*", "https://api.test:*", "https://api.test:80", "https://*.test:*"] {
        let mut edit = empty(ProjectInfo::named("test")).edit();
        edit.bind(binding(none, Target::None));
        edit.bind(binding("https://api.test", Target::Certificate(certificate("bound"))));
        let snapshot = edit.finish();
        for intercept in [Intercept::Registered, Intercept::Always] {
            let of = |text: &str| plan(intercept, &snapshot, &Origin::parse(text).unwrap(), || unreachable!());
            let lift = Some(Destination::Tls(Origin::parse("https://api.test").unwrap()));
            assert_eq!(of("https://api.test:80"), Plan::Intercept { tls: false, plain: lift }, "{none}");
            assert!(matches!(of("https://api.test"), Plan::Intercept { tls: true, .. }), "{none}");
        }
        if none == "*" {
            let of = |text: &str| plan(Intercept::Always, &snapshot, &Origin::parse(text).unwrap(), || unreachable!());
            assert!(matches!(of("https://other.test"), Plan::Tunnel(_)));
        }
    }
}

#[test]
fn a_project_that_lifts_always_serves_plain_http_and_leaves_tls_as_it_is() {
    use crate::domain::{Lift, ProjectInfo};
    use crate::registry::Binding;
    use crate::registry::testing::{binding, certificate, empty};
    let snapshot = |lift: Lift, default: bool| {
        let mut edit = empty(ProjectInfo { lift, ..ProjectInfo::named("test") }).edit();
        let bound = || Target::Certificate(certificate("c"));
        edit.bind(Binding { lift: false, ..binding("https://plain.test:80", bound()) });
        if default {
            edit.bind(binding("*", bound()));
        }
        edit.finish()
    };
    let of = |snapshot: &Snapshot, text: &str, before: Option<Option<Arc<Asked>>>| {
        plan(Intercept::Registered, snapshot, &Origin::parse(text).unwrap(), || before)
    };
    let lifted = |text: &str| Some(Destination::Tls(Origin::parse(text).unwrap()));
    let always = snapshot(Lift::Always, false);
    let plain = lifted("https://other.test");
    assert_eq!(of(&always, "https://other.test:80", None), Plan::Intercept { tls: false, plain });
    // The binding is for port 80; plain http is looked up where it is lifted to, and nothing there says no.
    let plain = lifted("https://plain.test");
    assert_eq!(of(&always, "https://plain.test:80", None), Plan::Intercept { tls: true, plain });
    let asking = snapshot(Lift::Always, true);
    let plain = || lifted("https://other.test:8443");
    assert_eq!(of(&asking, "https://other.test:8443", None), Plan::Ask { plain: plain() });
    let silent = of(&asking, "https://other.test:8443", Some(None));
    assert_eq!(silent, Plan::Intercept { tls: false, plain: plain() });
    for lift in [Lift::Registered, Lift::Never] {
        let asking = snapshot(lift, true);
        assert_eq!(of(&asking, "https://other.test:8443", None), Plan::Ask { plain: None });
        assert!(matches!(of(&asking, "https://other.test:8443", Some(None)), Plan::Tunnel(_)));
    }
}
