//! The status words of the Cloudflare dialect mean something: a deleted certificate is `pending_deletion` while a
//! connection under it goes on, and not found once the last has ended; one that could not be loaded is
//! `deployment_timed_out`.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::cloudflare::{failed, ids_of, succeeded};
use crate::harness::egret::{Egret, Setup};
use crate::harness::origin::{Next, Origin, Wants};
use crate::harness::wire::{Wire, absolute};
use crate::harness::world::World;
use crate::harness::{PATIENCE, command, eventually, repository, stdout_of};

const NAME: &str = "app.shop.test";

/// An origin whose `/long` sends five bytes, and five more once it is told to; everything else is answered with the
/// subject that was shown.
fn origin(world: &World) -> (Origin, Sender<()>) {
    let (go_on, told) = channel();
    let told = Arc::new(Mutex::new(told));
    let wants = world.partner.pem();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::PerhapsCertificateOf(&wants), move |to, head| {
        if head.target() != "/long" {
            let subject = to.subject.clone().unwrap_or_default();
            return to.answer("200 OK", "", &subject);
        }
        to.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")?;
        let _ = told.lock().expect("nobody panics with it").recv_timeout(PATIENCE);
        to.write("after")?;
        Ok(Next::KeepAlive)
    });
    (origin, go_on)
}

/// A download of which five bytes have arrived.
fn download(egret: &Egret, url: &str) -> Wire {
    let mut wire = Wire::connect(egret.proxy());
    wire.send(format!("GET {url}/long HTTP/1.1\r\nHost: {}\r\n\r\n", url.trim_start_matches("https://")));
    assert_eq!(wire.head().expect("an answer begins").0, 200);
    assert_eq!(wire.raw(5), b"first");
    wire
}

/// What deletes say, and what is found, while a connection under the certificate goes on and after it; `list` is a
/// zone's or its hostnames'.
fn pending_until_drained(list: &str, not_found: u64) {
    let world = World::new();
    let (origin, go_on) = origin(&world);
    let egret = Setup::new(&world).cloudflare().hosts(&[NAME]).start();
    let url = origin.origin(NAME);
    egret.switch_zone(true);
    let pair = world.client("the-client");
    let id = egret.create(list, &pair);
    let one = format!("{list}/{id}");
    if !list.is_empty() {
        egret.associate(NAME, &id, Some(true));
    }
    assert_eq!(succeeded(egret.pulls("GET", &one, None))["status"], "active");
    assert_eq!(absolute(egret.proxy(), "GET", &format!("{url}/")).text(), "the-client");
    let mut running = download(&egret, &url);
    if !list.is_empty() {
        egret.associate(NAME, &id, None);
    }

    let deleted = succeeded(egret.pulls("DELETE", &one, None));
    assert_eq!((&deleted["id"], &deleted["status"]), (&json!(id), &json!("pending_deletion")));
    let shown = succeeded(egret.pulls("GET", &one, None));
    assert_eq!((&shown["status"], &shown["certificate"]), (&json!("pending_deletion"), &json!(pair.chain)));
    assert_eq!(failed(400, egret.pulls("DELETE", &one, None)), 1414);
    assert_eq!(ids_of(&succeeded(egret.pulls("GET", list, None))), Vec::<String>::new(), "lists keep no tombstones");
    assert_eq!(absolute(egret.proxy(), "GET", &format!("{url}/")).text(), "", "nobody new is shown it");

    go_on.send(()).expect("the origin waits for it");
    assert_eq!(running.raw(5), b"after", "what ran was finished");
    let code = eventually("the certificate is gone", || {
        let (status, envelope) = egret.pulls("GET", &one, None);
        (status != 200).then(|| failed(404, (status, envelope)))
    });
    assert_eq!(code, not_found);
    assert_eq!(failed(404, egret.pulls("DELETE", &one, None)), not_found);
}

#[test]
fn of_a_zone_certificate_that_a_download_still_uses() {
    pending_until_drained("", 1552);
}

#[test]
fn of_a_hostname_certificate_that_a_download_still_uses() {
    pending_until_drained("/hostnames/certificates", 1551);
}

#[test]
fn of_a_certificate_whose_connections_do_not_end_by_themselves() {
    let world = World::new();
    let (origin, _go_on) = origin(&world);
    let setup = Setup::new(&world).cloudflare().hosts(&[NAME]).section("[limits]\ndelete_grace = \"1s\"");
    let egret = setup.start();
    egret.switch_zone(true);
    let id = egret.create("", &world.client("the-client"));
    let mut running = download(&egret, &origin.origin(NAME));
    let deleted = succeeded(egret.pulls("DELETE", &format!("/{id}"), None));
    assert_eq!(deleted["status"], "pending_deletion");
    let gone = || (egret.pulls("GET", &format!("/{id}"), None).0 == 404).then_some(());
    eventually("limits.delete_grace ends it", gone);
    assert_ne!(running.rest().unwrap_or_default(), b"after", "the download was cut");
}

#[test]
fn of_certificates_that_could_not_be_loaded() {
    let world = World::new();
    let (origin, _go_on) = origin(&world);
    let egret = Setup::new(&world).cloudflare().hosts(&[NAME]).start();
    let url = format!("{}/", origin.origin(NAME));
    egret.switch_zone(true);
    let older = egret.create("", &world.client("older"));
    let newer = egret.create("", &world.client("newer"));
    let pinned = egret.create("/hostnames/certificates", &world.client("pinned"));
    egret.associate(NAME, &pinned, Some(true));
    let data_dir = egret.data_dir().clone();
    let home = egret.stop();
    for id in [&newer, &pinned] {
        let damage = repository("tests/clients/damage_record.py");
        assert_ne!(stdout_of(command("python3").arg(damage).arg(&data_dir).arg(id)), "", "something was damaged");
    }
    let egret = home.start();
    let status = |path: &str, id: &str| succeeded(egret.pulls("GET", &format!("{path}/{id}"), None))["status"].clone();
    assert_eq!([&older, &newer].map(|id| status("", id)), ["active", "deployment_timed_out"]);
    assert_eq!(status("/hostnames/certificates", &pinned), "deployment_timed_out");
    let association = succeeded(egret.pulls("GET", &format!("/hostnames/{NAME}"), None));
    assert_eq!(association["cert_status"], "deployment_timed_out", "{association}");
    assert_eq!(ids_of(&succeeded(egret.pulls("GET", "", None))).len(), 2);

    // Nobody is shown another in its place; and once it is taken away, the next in line is in force.
    absolute(egret.proxy(), "GET", &url).assert_failure(403, "mtls.identity_unavailable");
    egret.associate(NAME, &pinned, None);
    absolute(egret.proxy(), "GET", &url).assert_failure(403, "mtls.identity_unavailable");
    let gone: Value = succeeded(egret.pulls("DELETE", &format!("/{newer}"), None));
    assert_eq!(gone["id"], json!(newer));
    assert_eq!(absolute(egret.proxy(), "GET", &url).text(), "older");
    succeeded(egret.pulls("DELETE", &format!("/hostnames/certificates/{pinned}"), None));
}
