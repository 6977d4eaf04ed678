//! `?stage=probe`: a certificate takes another one's place only if an origin takes it first, and until then nobody but
//! that origin has seen it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::harness::certificates::Pair;
use crate::harness::egret::{Egret, Setup, upload_body};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::openssl::Server;
use crate::harness::origin::{Conversation, Head, Next, Origin, Wants, header};
use crate::harness::wire::absolute;
use crate::harness::world::World;
use crate::harness::{PATIENCE, eventually, run_within};

const NAME: &str = "api.partner.test";
const PATH: &str = "/v1/projects/default/client-cert";

fn say_subject(conversation: &mut Conversation, _: &Head) -> std::io::Result<Next> {
    let subject = conversation.subject.clone().unwrap_or_default();
    conversation.answer("200 OK", "", &subject)
}

fn probe(egret: &Egret, query: &str, origin: &str, pair: &Pair) -> (u16, Value) {
    egret.api("POST", &format!("{PATH}?stage=probe{query}"), Some(&upload_body(Some(origin), pair)))
}

fn probe_unchecked(egret: &Egret, origin: &str, pair: &Pair) -> (u16, Value) {
    let mut body = upload_body(Some(origin), pair);
    body["skipValidation"] = json!(true);
    egret.api("POST", &format!("{PATH}?stage=probe"), Some(&body))
}

fn subject(egret: &Egret, origin: &str) -> String {
    let reply = absolute(egret.proxy(), "GET", &format!("{origin}/"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.text()
}

/// Runs `change` while requests go on, and gives its answer and who the origin saw meanwhile.
fn meanwhile<T>(egret: &Egret, origin: &str, change: impl FnOnce() -> T) -> (T, Vec<String>) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let requests = scope.spawn(|| {
            let mut seen = Vec::new();
            while !over.load(Ordering::Acquire) {
                seen.push(subject(egret, origin));
            }
            seen.push(subject(egret, origin));
            seen
        });
        let answer = change();
        over.store(true, Ordering::Release);
        (answer, requests.join().expect("requests go on"))
    })
}

/// Holds every request for `/slow` until it is let go.
#[derive(Default)]
struct Latch(Mutex<(usize, bool)>, Condvar);

impl Latch {
    fn handle(&self, conversation: &mut Conversation, head: &Head) -> std::io::Result<Next> {
        if head.target() == "/slow" {
            let mut state = self.0.lock().expect("no handler panics with it");
            state.0 += 1;
            let (state, _) = self.1.wait_timeout_while(state, PATIENCE, |s| !s.1).expect("no handler panics with it");
            drop(state);
        }
        say_subject(conversation, head)
    }

    fn waiting(&self) -> usize {
        self.0.lock().expect("no handler panics with it").0
    }

    fn open(&self) {
        self.0.lock().expect("no handler panics with it").1 = true;
        self.1.notify_all();
    }
}

#[test]
fn what_the_origin_refuses_leaves_the_old_certificate_in_force_throughout() {
    let world = World::new();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::CertificateOf(&world.partner.pem()), say_subject);
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let at = origin.origin(NAME);
    let id = egret.upload("default", Some(&at), &world.client("old"));
    let wrong_usage = world.partner.server(&["wrong-usage"]);
    for (pair, code, alert) in [
        (world.stranger.client("unknown"), "mtls.rejected_unknown_ca", 48),
        (world.partner.expired("expired"), "mtls.rejected_expired", 45),
        (wrong_usage, "mtls.rejected_bad_certificate", 43),
    ] {
        let ((status, answer), seen) = meanwhile(&egret, &at, || probe_unchecked(&egret, &at, &pair));
        assert_eq!(status, 400, "{answer}");
        let error = &answer["error"];
        assert_eq!((error["code"].as_str(), error["probe"]["code"].as_str()), (Some("bad_request"), Some(code)));
        assert_eq!((&error["probe"]["alert"], &error["probe"]["origin"]), (&json!(alert), &json!(at)), "{answer}");
        assert_eq!(error["probe"]["askedFor"], json!(["CN=partner"]), "{answer}");
        let message = error["message"].as_str().expect("a message");
        for part in [code, "what was in force stays in force", &format!("alert {alert}")] {
            assert!(message.contains(part), "{part} in {message}");
        }
        assert!(seen.iter().all(|s| s == "old"), "{seen:?}");
        assert_eq!(egret.api("GET", "/v1/projects/default/bindings", None).1["pending"], json!([]));
    }
    let seen = origin.seen();
    assert_eq!(seen.iter().filter(|s| s.error.is_some()).count(), 3, "one handshake per probe: {seen:?}");
    assert!(seen.iter().filter(|s| s.error.is_none()).all(|s| s.subject.as_deref() == Some("old")), "{seen:?}");
    let (_, list) = egret.api("GET", PATH, None);
    assert_eq!(list, json!({"clientCerts": [{"origin": at, "id": id}]}));
    let (_, status) = egret.api("GET", "/v1/status", None);
    assert_eq!(status["counters"]["probes_refused"], json!(3), "{status}");
}

#[test]
fn what_the_origin_takes_is_in_force_from_the_answer_on() {
    let world = World::new();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::CertificateOf(&world.partner.pem()), say_subject);
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let at = origin.origin(NAME);
    egret.upload("default", Some(&at), &world.client("old"));
    assert_eq!(subject(&egret, &at), "old");
    let (status, answer) = probe(&egret, "&probePath=/healthz%3Fdeep%3D1", &at, &world.client("new"));
    assert_eq!((status, &answer["updated"]), (200, &json!(true)), "{answer}");
    assert_eq!(answer["probe"], json!({"origin": at, "status": 200, "tlsVersion": "TLSv1.3", "warnings": []}));
    for _ in 0..5 {
        assert_eq!(subject(&egret, &at), "new");
    }
    let seen = origin.seen();
    let new: Vec<_> = seen.iter().filter(|s| s.subject.as_deref() == Some("new")).collect();
    let head = &new[0].heads[0];
    assert!(head.starts_with("GET /healthz?deep=1 HTTP/1.1\r\n"), "{head}");
    let agent = format!("egret/{} (certificate probe)", env!("CARGO_PKG_VERSION"));
    assert_eq!(header(head, "user-agent"), Some(&*agent));
    assert!(header(head, "via").is_some_and(|via| via.starts_with("1.1 egret-")), "{head}");
    assert_eq!(new[0].heads.len(), 1, "the probe's connection serves no request");
    assert!(!new[1].resumed, "and its session is not taken up");
    let (_, status) = egret.api("GET", "/v1/status", None);
    assert_eq!(status["counters"]["probes_accepted"], json!(1));
}

#[test]
fn an_origin_that_does_not_ask_proves_nothing() {
    let world = World::new();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::Nothing, say_subject);
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let at = origin.origin(NAME);
    let (status, answer) = probe(&egret, "", &at, &world.client("new"));
    assert_eq!((status, &answer["error"]["probe"]["code"]), (400, &json!("mtls.not_asked")), "{answer}");
    assert!(answer["error"]["message"].as_str().is_some_and(|m| m.contains("did not ask")), "{answer}");
    assert_eq!(egret.api("GET", PATH, None).1, json!({"clientCerts": []}), "it was the first for its place");
}

#[test]
fn nginx_refuses_in_http_and_an_application_may_say_403() {
    let world = World::new();
    let nginx = Nginx::start(&[Site::demanding(&[NAME], &world.server(&[NAME]), &world.partner.pem())]);
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let at = nginx.origin(NAME);
    egret.upload("default", Some(&at), &world.client("old"));
    for query in ["", "&probeMethod=HEAD"] {
        let (status, answer) = probe(&egret, query, &at, &world.stranger.client("unknown"));
        let code = &answer["error"]["probe"]["code"];
        assert_eq!((status, code), (400, &json!("mtls.rejected_bad_certificate")), "{answer}");
        // nginx names the CAs that it accepts.
        assert_eq!(answer["error"]["probe"]["askedFor"], json!(["CN=partner"]), "{answer}");
    }
    let reply = absolute(egret.proxy(), "GET", &format!("{at}/"));
    assert_eq!(reply.seen("subject"), "CN=old");
    // A folder without an index: 403 by nginx, which has taken the certificate.
    let (status, answer) = probe(&egret, "&probePath=/files/", &at, &world.client("new"));
    assert_eq!((status, &answer["probe"]["status"]), (200, &json!(403)), "{answer}");
    assert!(answer["probe"]["warnings"][0].as_str().is_some_and(|w| w.contains("HTTP 403")), "{answer}");
    let reply = absolute(egret.proxy(), "GET", &format!("{at}/"));
    assert_eq!(reply.seen("subject"), "CN=new");
}

#[test]
fn openssl_refuses_by_alert_in_both_versions_of_tls() {
    let world = World::new();
    for version in ["-tls1_2", "-tls1_3"] {
        let server = Server::demanding(version, &world.server(&[NAME]), &world.partner.pem());
        let egret = Setup::new(&world).hosts(&[NAME]).start();
        let at = server.origin(NAME);
        egret.upload("default", Some(&at), &world.client("old"));
        let (status, answer) = probe(&egret, "", &at, &world.stranger.client("unknown"));
        let probe_of = &answer["error"]["probe"];
        assert_eq!(
            (status, &probe_of["code"], &probe_of["alert"]),
            (400, &json!("mtls.rejected_unknown_ca"), &json!(48))
        );
        assert!(subject(&egret, &at).contains("CN=old") || subject(&egret, &at).contains("CN = old"), "{version}");
        let (status, answer) = probe(&egret, "", &at, &world.client("new"));
        assert_eq!(status, 200, "{version}: {answer}");
    }
}

#[test]
fn a_certificate_that_is_being_tried_out_is_shown_as_pending_and_selected_by_nothing() {
    let world = World::new();
    let latch: Arc<Latch> = Arc::default();
    let held = latch.clone();
    let wants = Wants::CertificateOf(&world.partner.pem());
    let origin = Origin::start(&world.server(&[NAME]), &wants, move |c, head| held.handle(c, head));
    let egret = Setup::new(&world).hosts(&[NAME]).section("[limits]\nmax_pending = 1").start();
    let at = origin.origin(NAME);
    egret.upload("default", Some(&at), &world.client("old"));
    thread::scope(|scope| {
        let probing = scope.spawn(|| probe(&egret, "&probePath=/slow", &at, &world.client("new")));
        eventually("the origin holds the probe", || (latch.waiting() == 1).then_some(()));
        let pending = egret.api("GET", "/v1/projects/default/bindings", None).1["pending"].clone();
        assert_eq!((&pending[0]["origin"], &pending[0]["probe"]), (&json!(at), &json!(at)), "{pending}");
        let (_, status) = egret.api("GET", "/v1/status", None);
        assert_eq!(status["pending"], pending);
        let pending_id = pending[0]["certId"].as_str().expect("an id").to_owned();
        for _ in 0..20 {
            assert_eq!(subject(&egret, &at), "old");
        }
        let details = format!("/v1/projects/default/certificates/{pending_id}");
        assert_eq!(egret.api("GET", &details, None).0, 404, "it is no certificate of the API yet");
        let (status, answer) = probe(&egret, "", &at, &world.client("one-too-many"));
        assert_eq!(status, 503, "{answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|m| m.contains("limits.max_pending")), "{answer}");
        latch.open();
        let (status, answer) = probing.join().expect("answered");
        assert_eq!((status, &answer["certId"]), (200, &json!(pending_id)), "{answer}");
    });
    assert_eq!(subject(&egret, &at), "new");
    assert_eq!(egret.api("GET", "/v1/status", None).1["pending"], json!([]));
}

#[test]
fn a_place_that_changes_while_a_certificate_is_tried_out_keeps_what_was_put_there_last() {
    let world = World::new();
    let latch: Arc<Latch> = Arc::default();
    let held = latch.clone();
    let wants = Wants::CertificateOf(&world.partner.pem());
    let origin = Origin::start(&world.server(&[NAME]), &wants, move |c, head| held.handle(c, head));
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let at = origin.origin(NAME);
    egret.upload("default", Some(&at), &world.client("old"));
    let (status, answer) = egret.api("POST", "/v1/projects", Some(&json!({"name": "short-lived"})));
    assert_eq!(status, 200, "{answer}");
    thread::scope(|scope| {
        let first = scope.spawn(|| probe(&egret, "&probePath=/slow", &at, &world.client("tried")));
        let second = scope.spawn(|| {
            let path = "/v1/projects/short-lived/client-cert?stage=probe&probePath=/slow";
            egret.api("POST", path, Some(&upload_body(Some(&at), &world.client("of-a-project-that-goes"))))
        });
        eventually("the origin holds both probes", || (latch.waiting() == 2).then_some(()));
        egret.upload("default", Some(&at), &world.client("plain"));
        assert_eq!(egret.api("DELETE", "/v1/projects/short-lived", None).0, 200);
        latch.open();
        let (status, answer) = second.join().expect("answered");
        assert_eq!((status, &answer["error"]["message"]), (404, &json!("project not found")));
        let (status, answer) = first.join().expect("answered");
        assert_eq!(status, 400, "{answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|m| m.contains("changed meanwhile")), "{answer}");
    });
    assert_eq!(subject(&egret, &at), "plain");
}

#[test]
fn a_token_that_is_revoked_while_its_certificate_is_tried_out_changes_nothing_any_more() {
    let world = World::new();
    let latch: Arc<Latch> = Arc::default();
    let held = latch.clone();
    let wants = Wants::CertificateOf(&world.partner.pem());
    let origin = Origin::start(&world.server(&[NAME]), &wants, move |c, head| held.handle(c, head));
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let at = origin.origin(NAME);
    egret.upload("default", Some(&at), &world.client("old"));
    let (status, made) = egret.api("POST", "/v1/tokens", Some(&json!({"name": "ci", "role": "write"})));
    assert_eq!(status, 200, "{made}");
    let token = made["token"].as_str().expect("its text");
    let body = upload_body(Some(&at), &world.client("new"));
    let path = format!("{PATH}?stage=probe&probePath=/slow");
    thread::scope(|scope| {
        let probing = scope.spawn(|| egret.api_as(token, "POST", &path, Some(&body)));
        eventually("the origin holds the probe", || (latch.waiting() == 1).then_some(()));
        assert_eq!(egret.api("DELETE", "/v1/tokens/ci", None).0, 200);
        latch.open();
        let (status, answer) = probing.join().expect("answered");
        assert_eq!(status, 401, "{answer}");
    });
    assert_eq!(subject(&egret, &at), "old");
}

#[test]
fn a_probe_ends_in_time_and_one_that_cannot_be_meant_does_not_begin() {
    let world = World::new();
    let latch: Arc<Latch> = Arc::default();
    let held = latch.clone();
    let wants = Wants::CertificateOf(&world.partner.pem());
    let origin = Origin::start(&world.server(&[NAME]), &wants, move |c, head| held.handle(c, head));
    let egret = Setup::new(&world)
        .hosts(&[NAME, "denied.partner.test"])
        .section("[limits]\nprobe_timeout = \"500ms\"\n\n[egress]\nallow = [\"*\"]\ndeny = [\"https://denied.partner.test:*\"]")
        .start();
    let at = origin.origin(NAME);
    let pair = world.client("new");
    let (status, answer) = probe(&egret, "&probePath=/slow", &at, &pair);
    assert_eq!((status, &answer["error"]["probe"]["code"]), (400, &json!("net.timeout")), "{answer}");
    let denied = format!("https://denied.partner.test:{}", origin.port());
    let (status, answer) = probe(&egret, "", &denied, &pair);
    assert_eq!((status, &answer["error"]["probe"]["code"]), (400, &json!("policy.origin_denied")), "{answer}");

    let wild = format!("https://*.partner.test:{}", origin.port());
    let any_port = format!("https://{NAME}:*");
    let seen = origin.seen().len();
    for (query, place, words) in [
        ("", &*wild, "probe=https://host"),
        ("", &any_port, "probe=https://host"),
        ("", "*", "probe=https://host"),
        ("&probe=https://other.test", &wild, "does not cover"),
        ("&probe=http://plain.partner.test", &wild, "probe: plain http"),
        ("&probeMethod=POST", &at, "GET, HEAD or OPTIONS"),
        ("&probePath=healthz", &at, "begin it with a slash"),
    ] {
        let (status, answer) = probe(&egret, query, place, &pair);
        assert_eq!(status, 400, "{query} {place}: {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|m| m.contains(words)), "{query} {place}: {answer}");
    }
    for query in ["?stage=later", "?probePath=/x", "?probe=https://a.test"] {
        let (status, answer) = egret.api("POST", &format!("{PATH}{query}"), Some(&upload_body(Some(&at), &pair)));
        assert_eq!(status, 400, "{query}: {answer}");
    }
    assert_eq!(origin.seen().len(), seen, "none of these was tried out");
    latch.open();
    let (status, answer) = probe(&egret, &format!("&probe={at}&probeMethod=OPTIONS"), &wild, &pair);
    assert_eq!(status, 200, "{answer}");
    assert!(origin.heads().last().is_some_and(|head| head.starts_with("OPTIONS / ")), "{:?}", origin.heads());
    assert_eq!(subject(&egret, &at), "new");
}

#[test]
fn the_command_says_what_the_origin_said() {
    let world = World::new();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::CertificateOf(&world.partner.pem()), say_subject);
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let at = origin.origin(NAME);
    let upload = |pair: &Pair| {
        let [cert, key, ca] = pair.write(world.path("").as_path());
        let [cert, key, ca] = [&cert, &key, &ca].map(|path| path.to_str().expect("text"));
        let arguments = ["certs", "upload", "--cert", cert, "--key", key, "--ca", ca, "--origin", &at];
        run_within(PATIENCE, egret.cli(&arguments).args(["--probe", "--probe-path", "/healthz"]))
    };
    let refused = upload(&world.stranger.client("unknown"));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("mtls.rejected_unknown_ca") && said.contains("alert 48"), "{said}");
    let taken = upload(&world.client("new"));
    let said = String::from_utf8_lossy(&taken.stdout);
    assert!(taken.status.success() && said.contains(&format!("{at} took it: HTTP 200")), "{said}");
    assert_eq!(subject(&egret, &at), "new");
}
