//! The certificate before the one in force is kept for a while: somebody, or after a promotion egret itself, can go back
//! to it; and when the while is over it is gone for good.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::harness::certificates::Pair;
use crate::harness::egret::{Egret, Setup, upload_body};
use crate::harness::origin::{Conversation, Head, Next, Origin, RefusedNames};
use crate::harness::wire::{Reply, Wire, absolute};
use crate::harness::world::World;
use crate::harness::{eventually, stdout_of};

const NAME: &str = "api.partner.test";
const PATH: &str = "/v1/projects/default/client-cert";

/// Every exchange on a connection of its own: whom the origin saw, and how much it was sent.
fn say_subject(conversation: &mut Conversation, head: &Head) -> io::Result<Next> {
    let length = conversation.body(head)?.len();
    let said = format!("{} {length}", conversation.subject.clone().unwrap_or_default());
    conversation.answer("200 OK", "Connection: close\r\n", &said)?;
    Ok(Next::Close)
}

struct Scene {
    world: World,
    refused: RefusedNames,
    origin: Origin,
    at: String,
}

impl Scene {
    fn new(handler: impl Fn(&mut Conversation, &Head) -> io::Result<Next> + Send + Sync + 'static) -> Self {
        let (world, refused) = (World::new(), RefusedNames::default());
        let origin = Origin::choosy(&world.server(&[NAME]), &world.partner.pem(), &refused, handler);
        let at = origin.origin(NAME);
        Self { world, refused, origin, at }
    }

    fn setup(&self) -> Setup {
        Setup::new(&self.world).hosts(&[NAME])
    }

    fn upload(&self, egret: &Egret, query: &str, name: &str) -> String {
        self.upload_pair(egret, query, &self.world.client(name))
    }

    fn upload_pair(&self, egret: &Egret, query: &str, pair: &Pair) -> String {
        let (status, answer) = egret.api("POST", &format!("{PATH}{query}"), Some(&upload_body(Some(&self.at), pair)));
        assert_eq!(status, 200, "{answer}");
        answer["certId"].as_str().expect("an id").to_owned()
    }

    fn get(&self, egret: &Egret) -> Reply {
        absolute(egret.proxy(), "GET", &format!("{}/", self.at))
    }

    #[track_caller]
    fn sees(&self, egret: &Egret, subject: &str) {
        let reply = self.get(egret);
        assert_eq!((reply.status, reply.text()), (200, format!("{subject} 0")));
    }

    fn post(&self, egret: &Egret, size: usize) -> Reply {
        let mut wire = Wire::connect(egret.proxy());
        let authority = self.at.trim_start_matches("https://");
        let head = format!("POST {}/ HTTP/1.1\r\nHost: {authority}\r\nContent-Length: {size}\r\n\r\n", self.at);
        wire.send(head);
        // The origin may be gone before all of it was read.
        let _ = wire.try_send(vec![b'x'; size]);
        wire.reply("POST")
    }

    fn roll_back(&self, egret: &Egret, query: &str) -> (u16, Value) {
        let origin = self.at.replace(':', "%3A").replace('/', "%2F");
        egret.api("POST", &format!("/v1/projects/default/bindings/rollback?origin={origin}{query}"), None)
    }

    fn refusals(&self) -> usize {
        self.origin.seen().iter().filter(|seen| seen.error.is_some()).count()
    }
}

fn counter(egret: &Egret, name: &str) -> u64 {
    egret.api("GET", "/v1/status", None).1["counters"][name].as_u64().expect(name)
}

fn details(egret: &Egret, id: &str) -> (u16, Value) {
    egret.api("GET", &format!("/v1/projects/default/certificates/{id}"), None)
}

fn in_force(egret: &Egret) -> Value {
    egret.api("GET", PATH, None).1["clientCerts"][0]["id"].clone()
}

/// Whether a name stands anywhere in the files of the store.
fn store_mentions(data_dir: &Path, name: &str) -> bool {
    ["egret.db", "egret.db-wal"].iter().any(|file| {
        let bytes = std::fs::read(data_dir.join(file)).unwrap_or_default();
        bytes.windows(name.len()).any(|window| window == name.as_bytes())
    })
}

#[test]
fn an_origin_that_refuses_a_promoted_certificate_by_alert_sees_the_one_before_in_the_same_exchange() {
    let scene = Scene::new(say_subject);
    let egret = scene.setup().start();
    let old = scene.upload(&egret, "", "old");
    for (round, size) in [(1, 0), (2, 32 * 1024)] {
        scene.refused.set(&[]);
        let new = scene.upload(&egret, "?stage=probe", "new");
        scene.sees(&egret, "new");
        scene.refused.set(&["new"]);
        let refusals = scene.refusals();
        let reply = if size == 0 { scene.get(&egret) } else { scene.post(&egret, size) };
        assert_eq!((reply.status, reply.text()), (200, format!("old {size}")), "round {round}");
        assert_eq!(scene.refusals(), refusals + 1, "one handshake found out");
        scene.sees(&egret, "old");
        assert_eq!(scene.refusals(), refusals + 1, "and no other tried");
        assert_eq!(in_force(&egret), json!(old), "under its old id");
        assert_eq!(details(&egret, &new).0, 404, "what was taken out of force is gone");
        assert_eq!(counter(&egret, "rollbacks_automatic"), round);
    }
    let log = egret.log();
    let line = log.lines().find(|line| line.contains("ROLLED BACK")).expect("an alert in the log");
    assert!(line.contains("\"level\":\"ERROR\"") && line.contains("\"alert\":44"), "{line}");
    assert_eq!(scene.roll_back(&egret, "").0, 404, "there is one step and no more");
}

#[test]
fn a_body_too_large_to_be_kept_fails_and_the_next_exchange_succeeds() {
    let scene = Scene::new(say_subject);
    let egret = scene.setup().start();
    scene.upload(&egret, "", "old");
    scene.upload(&egret, "?stage=probe", "new");
    scene.refused.set(&["new"]);
    scene.post(&egret, 1024 * 1024).assert_failure(502, "mtls.rejected_revoked");
    assert_eq!(counter(&egret, "rollbacks_automatic"), 1);
    let reply = scene.post(&egret, 1024 * 1024);
    assert_eq!((reply.status, reply.text()), (200, format!("old {}", 1024 * 1024)));
}

#[test]
fn a_connection_that_is_merely_closed_takes_nothing_back() {
    let closing: Arc<AtomicBool> = Arc::default();
    let closes = closing.clone();
    let scene = Scene::new(move |conversation, head| {
        let new = conversation.subject.as_deref() == Some("new");
        if new && closes.load(Ordering::Acquire) { Ok(Next::Cut) } else { say_subject(conversation, head) }
    });
    let egret = scene.setup().start();
    scene.upload(&egret, "", "old");
    let new = scene.upload(&egret, "?stage=probe", "new");
    closing.store(true, Ordering::Release);
    let reply = scene.get(&egret);
    assert_eq!(reply.status, 502, "{}", reply.text());
    assert_eq!((in_force(&egret), counter(&egret, "rollbacks_automatic")), (json!(new), 0));
    closing.store(false, Ordering::Release);
    scene.sees(&egret, "new");
}

#[test]
fn nothing_is_taken_back_after_a_plain_upload_nor_twice_nor_where_it_is_off() {
    let scene = Scene::new(say_subject);
    let egret = scene.setup().start();
    scene.upload(&egret, "", "old");
    let plain = scene.upload(&egret, "", "plain");
    scene.refused.set(&["plain"]);
    scene.get(&egret).assert_failure(502, "mtls.rejected_revoked");
    assert_eq!(in_force(&egret), json!(plain), "no origin sees the old one from a new request after a plain upload");

    scene.refused.set(&[]);
    scene.upload(&egret, "?stage=probe", "new");
    scene.refused.set(&["new"]);
    scene.sees(&egret, "plain");
    scene.refused.set(&["new", "plain"]);
    scene.get(&egret).assert_failure(502, "mtls.rejected_revoked");
    assert_eq!((in_force(&egret), counter(&egret, "rollbacks_automatic")), (json!(plain), 1), "once");

    scene.refused.set(&[]);
    let egret = scene.setup().section("[[projects]]\nname = \"default\"\nrollback = \"off\"").start();
    scene.upload(&egret, "", "old");
    let new = scene.upload(&egret, "?stage=probe", "new");
    scene.refused.set(&["new"]);
    scene.get(&egret).assert_failure(502, "mtls.rejected_revoked");
    assert_eq!(in_force(&egret), json!(new));
    assert_eq!(scene.roll_back(&egret, "").0, 404, "nothing is kept");
}

#[test]
fn exchanges_that_find_out_at_once_share_one_step_back() {
    let scene = Scene::new(say_subject);
    let egret = scene.setup().start();
    scene.upload(&egret, "", "old");
    scene.upload(&egret, "?stage=probe", "new");
    scene.refused.set(&["new"]);
    let replies: Vec<Reply> = thread::scope(|scope| {
        let (scene, egret) = (&scene, &egret);
        let one = |n| scope.spawn(move || if n % 2 == 0 { scene.get(egret) } else { scene.post(egret, 1000) });
        let running: Vec<_> = (0..16).map(one).collect();
        running.into_iter().map(|thread| thread.join().expect("answered")).collect()
    });
    for reply in replies {
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.text().starts_with("old "), "{}", reply.text());
    }
    assert_eq!(counter(&egret, "rollbacks_automatic"), 1);
}

#[test]
fn somebody_goes_back_by_hand_under_the_old_id_and_with_nothing_of_the_old_connections() {
    let scene = Scene::new(say_subject);
    let egret = scene.setup().start();
    assert_eq!(scene.roll_back(&egret, "").0, 404, "nothing is bound there");
    let old = scene.upload(&egret, "", "old");
    assert_eq!(scene.roll_back(&egret, "").0, 404, "there was nothing before it");
    scene.sees(&egret, "old");
    let new = scene.upload(&egret, "", "new");
    scene.sees(&egret, "new");
    assert_eq!(egret.api("DELETE", &format!("{PATH}/{old}"), None).0, 404, "it is no certificate of the API");
    let (status, shown) = details(&egret, &old);
    assert_eq!((status, &shown["status"], &shown["supersededBy"]), (200, &json!("superseded"), &json!(new)), "{shown}");
    let bindings = egret.api("GET", "/v1/projects/default/bindings", None).1;
    assert!(shown["rollbackUntil"].is_string(), "{shown}");
    assert_eq!(bindings["bindings"][0]["rollbackUntil"], shown["rollbackUntil"]);

    let (status, answer) = scene.roll_back(&egret, "");
    assert_eq!((status, answer), (200, json!({"origin": scene.at, "certId": old})));
    scene.sees(&egret, "old");
    assert_eq!(details(&egret, &new).0, 404);
    let shown = details(&egret, &old).1;
    assert_eq!((&shown["status"], shown.get("rollbackUntil")), (&json!("active"), None), "{shown}");
    assert_eq!(scene.roll_back(&egret, "").0, 404, "one step");

    scene.upload(&egret, "", "newer");
    let said = stdout_of(&mut egret.cli(&["certs", "rollback", "--origin", &scene.at]));
    assert_eq!(said, format!("rolled back: {old} is in force again for {}\n", scene.at));
    scene.sees(&egret, "old");
    assert_eq!(counter(&egret, "rollbacks_manual"), 2);
}

#[test]
fn what_was_kept_long_enough_is_in_neither_memory_nor_store() {
    let scene = Scene::new(say_subject);
    let egret = scene.setup().section("[limits]\nrollback_window = \"3s\"").start();
    let old = scene.upload(&egret, "", "old");
    let new = scene.upload(&egret, "?stage=probe", "new");
    assert_eq!(details(&egret, &old).1["status"], json!("superseded"));
    assert!(store_mentions(egret.data_dir(), &old), "it rests in the store");
    eventually("the window ends", || (details(&egret, &old).0 == 404).then_some(()));
    // Looked at once a second; after that it is gone from the store as well.
    eventually("it is let go of", || egret.log().contains("was let go of").then_some(()));
    let (status, answer) = scene.roll_back(&egret, "");
    assert_eq!(status, 404);
    assert!(
        answer["error"]["message"].as_str().is_some_and(|m| m.contains("no certificate to go back to")),
        "{answer}"
    );
    scene.refused.set(&["new"]);
    scene.get(&egret).assert_failure(502, "mtls.rejected_revoked");
    let data_dir = egret.data_dir().clone();
    let home = egret.stop();
    assert!(!store_mentions(&data_dir, &old), "its record was wiped");
    assert!(store_mentions(&data_dir, &new));
    let egret = home.start();
    assert_eq!(in_force(&egret), json!(new));
    assert_eq!(details(&egret, &old).0, 404);
}

#[test]
fn a_compromised_certificate_that_is_replaced_with_drain_now_or_deleted_is_not_kept() {
    let scene = Scene::new(say_subject);
    let egret = scene.setup().start();
    let first = scene.upload(&egret, "", "first");
    let second = scene.upload(&egret, "?drain=now", "second");
    assert_eq!(scene.roll_back(&egret, "").0, 404);
    assert_eq!(details(&egret, &first).0, 404);
    let third = scene.upload(&egret, "", "third");
    egret.delete("default", &third);
    assert_eq!(scene.roll_back(&egret, "").0, 404, "nothing is bound there any more");
    assert_eq!(details(&egret, &second).0, 404, "what was kept for it went with it");
    let data_dir = egret.data_dir().clone();
    let _home = egret.stop();
    for id in [first, second, third] {
        assert!(!store_mentions(&data_dir, &id), "{id}");
    }
}

#[test]
fn what_is_kept_survives_sigkill_and_what_was_taken_back_stays_so() {
    let scene = Scene::new(say_subject);
    let egret = scene.setup().start();
    let old = scene.upload(&egret, "", "old");
    scene.upload(&egret, "?stage=probe", "new");
    let egret = egret.kill().start();
    scene.sees(&egret, "new");
    assert_eq!(
        egret.api("DELETE", &format!("{PATH}/{old}"), None).0,
        404,
        "it is no certificate after the restart either"
    );
    scene.refused.set(&["new"]);
    scene.sees(&egret, "old");
    let egret = egret.kill().start();
    scene.sees(&egret, "old");
    assert_eq!(in_force(&egret), json!(old));

    let newer = scene.upload(&egret, "", "newer");
    let egret = egret.kill().start();
    assert_eq!(scene.roll_back(&egret, "&drain=now"), (200, json!({"origin": scene.at, "certId": old})));
    let egret = egret.kill().start();
    scene.sees(&egret, "old");
    assert_eq!(details(&egret, &newer).0, 404);
}
