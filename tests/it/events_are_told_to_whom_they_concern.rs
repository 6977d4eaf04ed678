//! `/v1/events` and `egret events`: what happens, as it happens, to those whose token reaches it, for as long as it does.

use serde_json::{Value, json};

use crate::harness::egret::{Egret, Setup, TOKEN};
use crate::harness::wire::Wire;
use crate::harness::world::World;
use crate::harness::{PATIENCE, Process, eventually, run_within, stdout_of};

const ORIGIN: &str = "https://api.partner.test";

/// A listener, and what it has heard so far.
struct Listener {
    wire: Wire,
    heard: String,
}

impl Listener {
    fn start(egret: &Egret, token: &str, path: &str, fields: &str) -> Self {
        let mut wire = Wire::connect(egret.management);
        wire.send(format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n{fields}\r\n",
            egret.management
        ));
        let (status, headers) = wire.head().expect("a head");
        assert_eq!(status, 200, "{headers:?}");
        assert!(headers.contains(&("content-type".to_owned(), "text/event-stream".to_owned())), "{headers:?}");
        Self { wire, heard: String::new() }
    }

    /// Reads until this was heard.
    #[track_caller]
    fn hear(&mut self, what: &str) -> String {
        while !self.heard.contains(what) {
            let byte = self.wire.raw(1);
            assert!(!byte.is_empty(), "it ended before {what:?} came: {}", self.heard);
            self.heard.push(char::from(byte[0]));
        }
        std::mem::take(&mut self.heard)
    }

    fn rest(mut self) -> String {
        self.heard + &String::from_utf8_lossy(&self.wire.rest().expect("it ends well"))
    }
}

fn token(egret: &Egret, name: &str, role: &str, projects: Option<&[&str]>) -> String {
    let mut body = json!({"name": name, "role": role});
    if let Some(projects) = projects {
        body["projects"] = json!(projects);
    }
    let (status, answer) = egret.api("POST", "/v1/tokens", Some(&body));
    assert_eq!(status, 200, "{answer}");
    answer["token"].as_str().expect("its text").to_owned()
}

#[test]
fn a_token_hears_of_the_projects_that_it_reaches_and_of_no_other() {
    let world = World::new();
    let egret = Setup::new(&world).project("payments").project("orders").start();
    let limited = token(&egret, "limited", "read", Some(&["payments"]));
    let mut all = Listener::start(&egret, TOKEN, "/v1/events", "");
    let mut payments = Listener::start(&egret, &limited, "/v1/events", "");
    let theirs = egret.upload("orders", Some(ORIGIN), &world.client("theirs"));
    let ours = egret.upload("payments", Some(ORIGIN), &world.client("ours"));
    let heard = all.hear(&ours);
    assert!(heard.contains(&theirs), "{heard}");
    let heard = payments.hear(&ours) + &payments.hear("}");
    assert!(heard.contains("event: certificate.uploaded\n") && heard.contains(ORIGIN), "{heard}");
    assert!(!heard.contains(&theirs) && !heard.contains("orders"), "{heard}");
    assert_eq!(egret.api_as("wrong", "GET", "/v1/events", None).0, 401);
    let proxy = token(&egret, "only-proxy", "proxy", None);
    assert_eq!(egret.api_as(&proxy, "GET", "/v1/events", None).0, 403);
}

#[test]
fn a_listener_goes_on_after_what_it_knows_and_learns_what_it_missed() {
    let world = World::new();
    let egret = Setup::new(&world).section("[limits]\nmax_events = 2").start();
    for name in ["a", "b", "c"] {
        egret.upload("default", Some(&format!("https://{name}.test")), &world.client(name));
    }
    let kept = Listener::start(&egret, TOKEN, "/v1/events?wait=false", "Connection: close\r\n").rest();
    assert!(!kept.contains("a.test") && kept.contains("b.test") && kept.contains("c.test"), "{kept}");
    let id = |heard: &str, n: usize| {
        let mut ids = heard.lines().filter_map(|line| line.strip_prefix("id: "));
        ids.nth(n).expect("an id").to_owned()
    };
    let (second, third) = (id(&kept, 0), id(&kept, 1));
    assert!(second.ends_with("-2") && third.ends_with("-3"), "{kept}");
    let after = |last: &str| {
        let fields = format!("Connection: close\r\nLast-Event-ID: {last}\r\n");
        Listener::start(&egret, TOKEN, "/v1/events?wait=false", &fields).rest()
    };
    assert!(!after(&second).contains("b.test") && after(&second).contains("c.test"));
    assert!(!after(&second).contains("event: missed"));
    let first = second.replace("-2", "-0");
    assert!(after(&first).contains("event: missed\ndata: {\"count\":1}\n\n"), "{}", after(&first));
    // Of another start: nobody knows how many.
    let told = after("1-3");
    assert!(told.contains("event: missed\ndata: {\"count\":null}\n\n") && told.contains("b.test"), "{told}");
    for wrong in ["since=yesterday", "since=1-x", "wait=perhaps"] {
        assert_eq!(egret.api("GET", &format!("/v1/events?{wrong}"), None).0, 400, "{wrong}");
    }
}

#[test]
fn a_listener_is_let_go_of_with_its_token_and_with_egret() {
    let world = World::new();
    let egret = Setup::new(&world).section("[limits]\nmax_event_listeners = 2").start();
    let short = token(&egret, "short", "read", None);
    let mut revoked = Listener::start(&egret, &short, "/v1/events", "");
    let mut last = Listener::start(&egret, TOKEN, "/v1/events", "");
    revoked.hear(": egret\n\n");
    last.hear(": egret\n\n");
    let (status, answer) = egret.api("GET", "/v1/events", None);
    assert_eq!(status, 503, "{answer}");
    assert!(answer["error"]["message"].as_str().is_some_and(|said| said.contains("max_event_listeners")), "{answer}");

    assert_eq!(egret.api("DELETE", "/v1/tokens/short", None).0, 200);
    egret.upload("default", Some(ORIGIN), &world.client("after"));
    let heard = revoked.hear("\n\n");
    assert!(heard.contains("event: end\ndata: {\"reason\":\"the token was revoked"), "{heard}");
    assert!(!heard.contains("certificate.uploaded"), "nothing was told after the revocation: {heard}");
    let place = eventually("its place is free", || {
        let (_, status) = egret.api("GET", "/v1/status", None);
        (status["counters"]["event_listeners"] == 1).then_some(status)
    });
    assert_eq!(place["counters"]["event_listeners_full"], 1);
    egret.terminate();
    last.hear("event: end\ndata: {\"reason\":\"egret ends\"}\n\n");
    egret.stop();
}

#[test]
fn the_command_follows_and_ends_when_it_is_told_to() {
    let world = World::new();
    let egret = Setup::new(&world).start();
    let id = egret.upload("default", Some(ORIGIN), &world.client("first"));
    let said = stdout_of(&mut egret.cli(&["events", "--no-follow"]));
    assert!(said.contains("certificate.uploaded") && said.contains(&id) && said.contains(ORIGIN), "{said}");
    let said = stdout_of(&mut egret.cli(&["events", "--no-follow", "--json", "--since", "1h"]));
    let event: Value = serde_json::from_str(said.trim()).expect("one object on one line");
    assert_eq!((&event["type"], &event["certificate"]), (&json!("certificate.uploaded"), &json!(id)));
    let since = event["id"].as_str().expect("an id");
    assert_eq!(stdout_of(&mut egret.cli(&["events", "--no-follow", "--since", since])), "");
    let refused = run_within(PATIENCE, &mut egret.cli(&["events", "--since", "yesterday"]));
    assert_eq!(refused.status.code(), Some(2));

    let out = world.path("followed");
    let file = std::fs::File::create(&out).expect("writable");
    let mut following = Process::spawn(egret.cli(&["events", "--json", "--since", since]).stdout(file));
    let second = eventually("what happens is printed", || {
        let id = egret.upload("default", Some(ORIGIN), &world.client("again"));
        std::fs::read_to_string(&out).expect("readable").contains(&id).then_some(id)
    });
    assert!(!second.is_empty());
    egret.terminate();
    let status = eventually("the command ends with egret", || following.ended());
    assert_eq!(status.code(), Some(1), "it did not end because all was told");
}
