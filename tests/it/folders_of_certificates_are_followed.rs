//! A folder of certificates: what appears in it is in force, what vanishes is retired, what is broken disturbs nobody.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::harness::certificates::Pair;
use crate::harness::egret::{Egret, Setup};
use crate::harness::origin::{Origin, Wants};
use crate::harness::wire::Wire;
use crate::harness::world::World;
use crate::harness::{PATIENCE, eventually, run_within, stdout_of};

const NAMES: [&str; 3] = ["a.partner.test", "b.partner.test", "c.partner.test"];

fn origin(world: &World) -> Origin {
    let wants = world.partner.pem();
    Origin::start(&world.server(&NAMES), &Wants::PerhapsCertificateOf(&wants), |conversation, _| {
        let subject = conversation.subject.clone().unwrap_or_default();
        conversation.answer("200 OK", "", &subject)
    })
}

fn triple(folder: &Path, pair: &Pair) {
    fs::create_dir_all(folder).expect("the test's own folder");
    for (name, text) in [("tls.key", &pair.key), ("tls.crt", &pair.chain), ("ca.crt", &pair.ca)] {
        fs::write(folder.join(name), text).expect("writable");
    }
}

fn bundle(path: &Path, pair: &Pair) {
    fs::write(path, format!("{}{}{}", pair.key, pair.chain, pair.ca)).expect("writable");
}

fn ask(wire: &mut Wire, url: &str) -> String {
    let authority = url.trim_start_matches("https://");
    wire.send(format!("GET {url}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
    let reply = wire.reply("GET");
    if reply.status == 200 { reply.text() } else { reply.json()["code"].as_str().unwrap_or_default().to_owned() }
}

fn comes(egret: &Egret, url: &str, subject: &str) {
    let what = format!("{url} sees {subject:?}");
    eventually(&what, || (ask(&mut Wire::connect(egret.proxy()), url) == subject).then_some(()));
}

fn section(folder: &Path) -> String {
    format!("[[certificate_folders]]\npath = {folder:?}\n")
}

#[test]
fn new_ones_come_into_force_and_vanished_ones_are_retired() {
    let world = World::new();
    let origin = origin(&world);
    let folder = world.path("certs");
    let at = |name: &str| folder.join(format!("{name}_{}", origin.port()));
    triple(&at(NAMES[0]), &world.client("a-1"));
    let egret = Setup::new(&world).section(&section(&folder)).hosts(&NAMES).start();
    let [a, b, c] = NAMES.map(|name| origin.origin(name));
    comes(&egret, &a, "a-1");

    triple(&at(NAMES[1]), &world.client("b-1"));
    comes(&egret, &b, "b-1");
    let file = folder.join(format!("{}:{}.pem", NAMES[2], origin.port()));
    bundle(&file, &world.client("c-1"));
    comes(&egret, &c, "c-1");
    bundle(&file, &world.client("c-2"));
    comes(&egret, &c, "c-2");

    // One is broken, and the others come and go as before.
    fs::write(at(NAMES[0]).join("tls.crt"), "half").expect("writable");
    eventually("the broken one is reported", || {
        let reload = egret.reload();
        let error = reload["error"].as_str().unwrap_or_default();
        (reload["state"] == "failed" && error.contains(at(NAMES[0]).join("tls.crt").to_str()?)).then_some(())
    });
    fs::remove_file(&file).expect("removed");
    comes(&egret, &c, "");
    comes(&egret, &a, "a-1");
    triple(&at(NAMES[0]), &world.client("a-2"));
    comes(&egret, &a, "a-2");
    eventually("all is well", || (egret.reload()["state"] == "ok").then_some(()));

    let body = crate::harness::egret::upload_body(Some(&b), &world.client("x"));
    let (status, answer) = egret.api("POST", "/v1/projects/default/client-cert", Some(&body));
    assert_eq!(status, 403, "read-only: {answer}");
    assert!(answer["error"]["message"].as_str().is_some_and(|m| m.contains("tls.crt")), "{answer}");
    fs::remove_dir_all(at(NAMES[1])).expect("removed");
    comes(&egret, &b, "");
    assert!(origin.seen().iter().all(|seen| seen.error.is_none()), "{:?}", origin.seen());
}

#[test]
fn commands_know_what_lies_in_folders() {
    let world = World::new();
    let folder = world.path("certs");
    triple(&folder.join(NAMES[0]), &world.client("a"));
    bundle(&folder.join(format!("{}.pem", NAMES[1])), &world.client("b"));
    let home = Setup::new(&world).section(&section(&folder));
    let checked = run_within(PATIENCE, &mut home.cli(&["check"]));
    let said = String::from_utf8(checked.stdout).expect("text");
    assert!(checked.status.success() && said.contains("2 declared"), "{said}");
    for (name, subject) in [(NAMES[0], "CN=a"), (NAMES[1], "CN=b")] {
        let mut explain = home.cli(&["explain", "--json", &format!("https://{name}")]);
        explain.env("EGRET_URL", "http://127.0.0.1:1");
        let told: Value = serde_json::from_str(&stdout_of(&mut explain)).expect("JSON");
        assert!(told.to_string().contains(subject), "{told}");
    }
    fs::write(folder.join(NAMES[0]).join("tls.key"), "half").expect("writable");
    fs::write(folder.join("no name.pem"), "half").expect("writable");
    let checked = run_within(PATIENCE, &mut home.cli(&["check"]));
    let said = String::from_utf8(checked.stdout).expect("text");
    assert_eq!(checked.status.code(), Some(2), "{said}");
    assert!(said.contains("tls.key") && said.contains("no name.pem"), "{said}");
}

/// Ten thousand certificates in a folder: all are in force, a change to one is, and requests go on meanwhile.
#[test]
fn heavy_ten_thousand_certificates_are_read_again_beside_requests() {
    const MANY: usize = 10_000;
    let world = World::new();
    let origin = origin(&world);
    let folder = world.path("certs");
    fs::create_dir(&folder).expect("made");
    // One certificate under ten thousand names: signing as many would take longer than all the rest.
    let pair = world.client("of-many");
    for n in 0..MANY {
        bundle(&folder.join(format!("host-{n}.many.test.pem")), &pair);
    }
    let changing = folder.join(format!("{}_{}.pem", NAMES[0], origin.port()));
    bundle(&changing, &world.client("0"));
    let egret = Setup::new(&world).section(&section(&folder)).hosts(&NAMES).start();
    let (a, b) = (origin.origin(NAMES[0]), origin.origin(NAMES[1]));
    comes(&egret, &a, "0");
    let declared = || egret.api("GET", "/v1/status", None).1["certificates"].as_array().map_or(0, Vec::len);
    assert_eq!(declared(), MANY + 1);

    let stop = Arc::new(AtomicBool::new(false));
    let client = {
        let (stop, proxy) = (stop.clone(), egret.proxy());
        std::thread::spawn(move || {
            let (mut wire, mut served) = (Wire::connect(proxy), 0);
            while !stop.load(Ordering::SeqCst) {
                assert_eq!(ask(&mut wire, &b), "", "a request failed");
                served += 1;
            }
            served
        })
    };
    for n in 1..=3 {
        bundle(&changing, &world.client(&n.to_string()));
        comes(&egret, &a, &n.to_string());
    }
    fs::remove_file(folder.join("host-77.many.test.pem")).expect("removed");
    eventually("the vanished one is gone", || (declared() == MANY).then_some(()));
    egret.hang_up();
    eventually("all are read on SIGHUP", || egret.log().contains("nothing has changed").then_some(()));
    stop.store(true, Ordering::SeqCst);
    let served = client.join().expect("no request failed");
    assert!(served > 3, "{served}");
    assert_eq!(egret.reload()["state"], "ok");
}
