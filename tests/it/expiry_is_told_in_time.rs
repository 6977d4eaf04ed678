//! A certificate that comes to its end is told of at 30, 14, 7 and 1 days and at the end: once each, in the log, as an
//! event, in metrics, in `egret status`, and at the webhook; and `/readyz` degrades if it is told to.

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use time::{Duration as Span, OffsetDateTime};

use crate::harness::egret::{Egret, Setup};
use crate::harness::origin::{Conversation, Head, Next, Origin, Wants};
use crate::harness::world::World;
use crate::harness::{eventually, stdout_of};

const NAME: &str = "hooks.example.test";
const ORIGIN: &str = "https://api.partner.test";

/// What a receiver of warnings was sent: heads and bodies.
#[derive(Default)]
struct Received(Mutex<Vec<(String, Value)>>);

impl Received {
    /// Takes what comes with these statuses, one after the other, and with 204 after that.
    fn taking(
        self: &Arc<Self>,
        statuses: &'static [&'static str],
    ) -> impl Fn(&mut Conversation, &Head) -> io::Result<Next> + use<> {
        let received = Arc::clone(self);
        move |conversation, head| {
            let body = conversation.body(head)?;
            let mut all = received.0.lock().expect("no handler panics with it");
            all.push((head.text.clone(), serde_json::from_slice(&body).unwrap_or_default()));
            let status = statuses.get(all.len() - 1).unwrap_or(&"200 OK");
            drop(all);
            conversation.answer(status, "", "ok")
        }
    }

    fn all(&self) -> Vec<(String, Value)> {
        self.0.lock().expect("no handler panics with it").clone()
    }

    fn days(&self) -> Vec<i64> {
        self.all().iter().filter_map(|(_, body)| body["daysLeft"].as_i64()).collect()
    }
}

fn client(world: &World, days: i64) -> crate::harness::certificates::Pair {
    // Some hours more than whole days, so that no test depends on the second at which it runs.
    world.partner.client_until("the-client", OffsetDateTime::now_utc() + Span::days(days) + Span::hours(12))
}

fn metric(egret: &Egret, name: &str) -> u64 {
    let (_, status) = egret.api("GET", "/v1/status", None);
    status["counters"][name].as_u64().unwrap_or_else(|| panic!("{name}: {status:#}"))
}

fn kept(egret: &Egret) -> Vec<Value> {
    let events = stdout_of(&mut egret.cli(&["events", "--no-follow", "--json"]));
    let all = events.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    all.filter(|event| event["type"].as_str().is_some_and(|kind| kind.starts_with("certificate.expir"))).collect()
}

#[test]
fn once_per_threshold_in_every_place() {
    let world = World::new();
    let received = Arc::<Received>::default();
    let hook = Origin::start(&world.server(&[NAME]), &Wants::Nothing, received.taking(&[]));
    let token = world.write("hook.token", "token-of-the-hook\n");
    let egret = Setup::new(&world)
        .with_clock()
        .project("payments")
        .hosts(&[NAME])
        .section(&format!(
            "[telemetry]\nexpiry_webhook = \"{}/services/SECRET-PATH?x=1\"\nexpiry_webhook_token = {{ file = {token:?} }}",
            hook.origin(NAME)
        ))
        .start();
    let id = egret.upload("payments", Some(ORIGIN), &client(&world, 20));
    // One that no binding names is nobody's business.
    let loose = egret.upload("payments", Some("https://loose.test"), &client(&world, 3));
    let (status, _) = egret.api("DELETE", "/v1/projects/payments/bindings?origin=https://loose.test", None);
    assert_eq!(status, 200);
    let about = |all: Vec<Value>| all.into_iter().filter(|event| event["certificate"] == json!(id)).collect::<Vec<_>>();

    eventually("the first warning arrives", || {
        received.all().iter().any(|(_, b)| b["certificate"] == json!(id)).then_some(())
    });
    let (head, body) = received.all().into_iter().find(|(_, body)| body["certificate"] == json!(id)).expect("just now");
    assert!(head.starts_with("POST /services/SECRET-PATH?x=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.to_ascii_lowercase().contains("authorization: bearer token-of-the-hook\r\n"), "{head}");
    assert_eq!((&body["type"], &body["project"]), (&json!("certificate.expiring"), &json!("payments")), "{body}");
    assert_eq!((&body["origins"], &body["daysLeft"]), (&json!([ORIGIN]), &json!(20)), "{body}");
    assert_eq!(body["subject"], "CN=the-client", "{body}");
    let command = format!("egret certs upload --project payments --origin '{ORIGIN}' --cert FILE --key FILE --ca FILE");
    assert!(body["text"].as_str().is_some_and(|text| text.contains(&command)), "{body}");

    let events = about(kept(&egret));
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((&events[0]["daysLeft"], &events[0]["remedy"]), (&json!(20), &json!(command)), "{events:?}");
    let (_, status) = egret.api("GET", "/v1/status", None);
    assert_eq!(status["warnings"][0]["certificate"], json!(id), "{status:#}");
    assert_eq!(status["warnings"].as_array().map(Vec::len), Some(1), "{status:#}");
    let said = stdout_of(&mut egret.cli(&["status"]));
    let line = said.lines().find(|line| line.starts_with("warning")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("20 days are left") && line.contains(&command) && line.contains(&id), "{line}");
    let shown = stdout_of(&mut egret.cli(&["certs", "show", &id, "--project", "payments"]));
    assert!(shown.lines().any(|line| line.starts_with("warning") && line.contains(&command)), "{shown}");

    for (ahead, left, threshold, kind) in [
        (7, 13, "expiry_warnings_14", "certificate.expiring"),
        (14, 6, "expiry_warnings_7", "certificate.expiring"),
        (20, 0, "expiry_warnings_1", "certificate.expiring"),
        (21, -1, "expiry_warnings_0", "certificate.expired"),
    ] {
        egret.move_clock(Span::days(ahead));
        let event = eventually("the event", || about(kept(&egret)).into_iter().find(|e| e["daysLeft"] == json!(left)));
        assert_eq!(event["type"], kind, "{event}");
        eventually("the post", || received.days().contains(&left).then_some(()));
        assert_eq!(metric(&egret, threshold), 1, "{threshold}");
    }
    // A clock that goes back and forth says nothing twice.
    egret.move_clock(Span::days(2));
    eventually("it is not expired any more", || {
        (egret.api("GET", "/v1/status", None).1["warnings"][0]["daysLeft"] == json!(18)).then_some(())
    });
    egret.move_clock(Span::days(21));
    eventually("it is expired again", || {
        (egret.api("GET", "/v1/status", None).1["warnings"][0]["daysLeft"] == json!(-1)).then_some(())
    });
    assert_eq!(about(kept(&egret)).len(), 5);
    let log = egret.log();
    let warned = log.lines().filter(|line| line.contains("WARN") && line.contains(&id)).count();
    assert_eq!(warned, 5, "{log}");
    assert!(!log.contains("SECRET-PATH") && !log.contains("token-of-the-hook"), "{log}");
    let metrics = stdout_of(
        crate::harness::command("curl")
            .args(["-s", "-H"])
            .arg(format!("Authorization: Bearer {}", crate::harness::egret::TOKEN))
            .arg(format!("{}/metrics", egret.management_url)),
    );
    for line in ["egret_certificates_expiring{days=\"30\"} 1", "egret_certificates_expiring{days=\"0\"} 1"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }

    // After a restart it is said once how it stands, and not how it came to that.
    let posts = received.days().len();
    let egret = egret.stop().start();
    eventually("it is told again", || (received.days().len() > posts).then_some(()));
    let events = about(kept(&egret));
    assert_eq!(events.iter().map(|e| e["daysLeft"].clone()).collect::<Vec<_>>(), [json!(-1)], "{events:?}");
    assert!(!egret.log().contains(&loose) || !kept(&egret).iter().any(|e| e["certificate"] == json!(loose)));
}

#[test]
fn a_receiver_that_fails_at_first_is_told_again_and_never_holds_up_anybody() {
    let world = World::new();
    let received = Arc::<Received>::default();
    let hook = Origin::plain(received.taking(&["500 Internal Server Error", "429 Too Many Requests"]));
    let egret = Setup::new(&world)
        .section(&format!("[telemetry]\nexpiry_webhook = \"http://127.0.0.1:{}/hook\"", hook.port()))
        .start();
    egret.upload("default", Some(ORIGIN), &client(&world, 5));
    eventually("the third try", || (received.all().len() == 3).then_some(()));
    eventually("it counts as taken", || (metric(&egret, "webhook_delivered") == 1).then_some(()));
    assert_eq!((metric(&egret, "webhook_failed"), received.all()[0].1.clone()), (0, received.all()[2].1.clone()));
}

#[test]
fn a_receiver_that_refuses_or_that_nobody_vouches_for_is_named_in_the_log() {
    let world = World::new();
    let received = Arc::<Received>::default();
    let refusing = Origin::start(&world.server(&[NAME]), &Wants::Nothing, received.taking(&["404 Not Found"]));
    let start = |url: String| {
        let setup = Setup::new(&world).hosts(&[NAME, "other.example.test"]);
        let egret = setup.section(&format!("[telemetry]\nexpiry_webhook = \"{url}\"")).start();
        egret.upload("default", Some(ORIGIN), &client(&world, 5));
        eventually("the failure is counted", || (metric(&egret, "webhook_failed") == 1).then_some(()));
        egret.log()
    };
    let log = start(format!("{}/SECRET", refusing.origin(NAME)));
    assert!(log.contains("it answered with status 404 (tries: 1)") && !log.contains("SECRET"), "{log}");
    assert_eq!(received.all().len(), 1);
    // Its certificate is for another name: nothing is said to it, however often it is tried.
    let log = start(format!("{}/SECRET", refusing.origin("other.example.test")));
    assert!(log.contains("telemetry.expiry_webhook did not take a warning"), "{log}");
    assert!(log.contains("(tries: 1)") && !log.contains("SECRET"), "{log}");
    assert_eq!(received.all().len(), 1, "nothing more arrived");
}

#[test]
fn readyz_degrades_when_it_is_told_to() {
    let world = World::new();
    let egret = Setup::new(&world).with_clock().section("[health]\ndegrade_before_expiry = \"7days\"").start();
    let readyz = || egret.api_as("", "GET", "/readyz", None);
    assert_eq!(readyz().0, 200, "nothing is bound");
    egret.upload("default", Some(ORIGIN), &client(&world, 8));
    assert_eq!(readyz().0, 200);
    egret.move_clock(Span::days(2));
    let (_, answer) = eventually("it is unready", || Some(readyz()).filter(|(status, _)| *status == 503));
    let said = answer["error"]["message"].as_str().expect("a sentence").to_owned();
    assert!(said.contains("degrade_before_expiry") && !said.contains("cert_") && !said.contains(ORIGIN), "{said}");
    let (_, status) = egret.api("GET", "/v1/status", None);
    assert_eq!(status["state"], "unready");
    assert!(status["reason"].as_str().is_some_and(|reason| reason.contains("degrade_before_expiry")), "{status:#}");
    let said = stdout_of(&mut egret.cli(&["status"]));
    assert!(said.lines().any(|line| line.starts_with("unready")), "{said}");
    // With the next certificate all is well again.
    egret.upload("default", Some(ORIGIN), &client(&world, 50));
    eventually("it is ready", || (readyz().0 == 200).then_some(()));
}
