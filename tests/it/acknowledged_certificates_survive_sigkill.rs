//! `kill -9` during uploads, twenty times on one data directory: every acknowledged change is there, usable, and
//! selected; nothing that was deleted is back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use crate::harness::PATIENCE;
use crate::harness::certificates::Pair;
use crate::harness::egret::{Egret, Setup, TOKEN, api_call, upload_body};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::wire::absolute;
use crate::harness::world::World;

const ROUNDS: usize = 20;
const WRITERS: usize = 3;
const CERTIFICATES: &str = "/v1/projects/default/client-cert";

/// What the API has acknowledged so far.
#[derive(Default)]
struct Acknowledged {
    /// Name of the origin -> id and subject.
    present: BTreeMap<String, (String, String)>,
    deleted: BTreeSet<String>,
    /// Names whose last change was not answered: either outcome is right.
    open: BTreeSet<String>,
}

#[test]
fn heavy_twenty_rounds_of_kill_during_uploads() {
    let world = World::new();
    // Few names, so that replacements and deletes meet; minted before the clock runs.
    let names: Vec<String> = (0..24).map(|n| format!("n{n}.killed.test")).collect();
    let refs: Vec<&str> = names.iter().map(String::as_str).collect();
    let nginx = Nginx::start(&[Site::demanding(&refs, &world.server(&refs), &world.partner.pem())]);
    let mut setup = Setup::new(&world).hosts(&names);
    let state = Mutex::new(Acknowledged::default());
    let mut acknowledged_in_all = 0;
    for round in 0..ROUNDS {
        let pairs: Vec<Vec<Pair>> = (0..WRITERS)
            .map(|writer| (0..40).map(|n| world.client(&format!("r{round}-w{writer}-{n}"))).collect())
            .collect();
        let egret = setup.start();
        check(&egret, &nginx, &state.lock().expect("no writer panics"), round);
        let management = egret.management;
        let (acknowledged, counter) = mpsc::channel();
        setup = std::thread::scope(|scope| {
            for (writer, pairs) in pairs.iter().enumerate() {
                let (state, names, nginx, acknowledged) = (&state, &names, &nginx, acknowledged.clone());
                scope.spawn(move || {
                    for (n, pair) in pairs.iter().enumerate() {
                        // Each writer has names of its own, so that the last answer for a name is the last change.
                        let name = &names[(n % (names.len() / WRITERS)) * WRITERS + writer];
                        if write(management, nginx, state, name, pair, n % 5 == 4).is_none() {
                            return;
                        }
                        let _ = acknowledged.send(());
                    }
                });
            }
            // At least one answer, then at another moment in every round.
            counter.recv_timeout(PATIENCE).expect("an upload is acknowledged");
            let enough = 1 + round % 7;
            for _ in 1..enough {
                let _ = counter.recv_timeout(Duration::from_secs(5));
            }
            std::thread::sleep(Duration::from_micros(round as u64 * 700));
            egret.kill()
        });
        drop(acknowledged);
        acknowledged_in_all += 1 + counter.iter().count();
    }
    let egret = setup.start();
    let state = state.into_inner().expect("no writer panics");
    check(&egret, &nginx, &state, ROUNDS);
    assert!(acknowledged_in_all >= ROUNDS, "{acknowledged_in_all}");
    assert!(!state.present.is_empty() && !state.deleted.is_empty(), "both kinds of change were made");
    assert!(!egret.log().contains("quarantine"), "{}", egret.log());
}

/// Uploads a certificate for a name, or deletes the one that is there; `None` once nobody answers.
fn write(
    management: std::net::SocketAddr,
    nginx: &Nginx,
    state: &Mutex<Acknowledged>,
    name: &str,
    pair: &Pair,
    delete: bool,
) -> Option<()> {
    let present = state.lock().expect("no writer panics").present.get(name).cloned();
    state.lock().expect("no writer panics").open.insert(name.to_owned());
    if let (true, Some((id, _))) = (delete, &present) {
        let (status, _) = api_call(management, TOKEN, "DELETE", &format!("{CERTIFICATES}/{id}"), None).ok()?;
        let mut state = state.lock().expect("no writer panics");
        // 404: the delete, or the upload that replaced it, took effect in an earlier round without being answered.
        assert!(matches!(status, 200 | 404), "{status}");
        if status == 200 {
            state.present.remove(name);
            state.deleted.insert(id.clone());
            state.open.remove(name);
        }
        return Some(());
    }
    let body = upload_body(Some(&nginx.origin(name)), pair);
    let (status, answer) = api_call(management, TOKEN, "POST", CERTIFICATES, Some(&body)).ok()?;
    assert_eq!(status, 200, "{answer}");
    let id = answer["certId"].as_str().expect("a certId").to_owned();
    let mut state = state.lock().expect("no writer panics");
    if let Some((old, _)) = state.present.insert(name.to_owned(), (id, pair.subject())) {
        state.deleted.insert(old);
    }
    state.open.remove(name);
    Some(())
}

fn check(egret: &Egret, nginx: &Nginx, state: &Acknowledged, round: usize) {
    let (status, list) = egret.api("GET", CERTIFICATES, None);
    assert_eq!(status, 200);
    let listed: BTreeSet<&str> =
        list["clientCerts"].as_array().expect("a list").iter().filter_map(|entry| entry["id"].as_str()).collect();
    for id in &state.deleted {
        assert!(!listed.contains(id.as_str()), "round {round}: {id} is back");
    }
    for (name, (id, subject)) in &state.present {
        let reply = absolute(egret.proxy(), "GET", &format!("{}/", nginx.origin(name)));
        if state.open.contains(name) {
            // An unanswered change may have taken effect; whatever stands there works.
            assert!(matches!(reply.status, 200 | 400), "round {round}, {name}: {}", reply.text());
            continue;
        }
        assert!(listed.contains(id.as_str()), "round {round}: {id} for {name} is lost");
        assert_eq!(&reply.seen("subject"), subject, "round {round}, {name}");
    }
}
