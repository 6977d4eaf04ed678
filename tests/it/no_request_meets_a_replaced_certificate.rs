//! The promise about replacing and deleting, asserted by what the origin saw while certificates changed all the time:
//!
//! - no request fails because of a change;
//! - no request that was sent after the API had answered carries an older certificate;
//! - no session is resumed under another certificate than its own, or for another name;
//! - when it is over, nothing is left.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::doors::{Door, How, Target, What};
use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::recorder::Recorder;
use crate::harness::wire::{Wire, client_config};
use crate::harness::world::World;
use crate::harness::{allow_descriptors, eventually};

const CLIENTS: usize = 64;
const STORM: Duration = Duration::from_secs(60);
/// A change this often, as far as the machine keeps up.
const INTERVAL: Duration = Duration::from_millis(100);

/// Names, each with an identity that is chosen by another rule.
const NAMES: [&str; 5] = ["exact.test", "a.wild.test", "b.wild.test", "other.test", "declared.test"];
const EXACT: usize = 0;
const WILD: usize = 1;
/// An exact binding that comes and goes; without it the wildcard applies.
const COMING: usize = 2;
const DEFAULT: usize = 3;
/// Declared in files, which cover an uploaded one and uncover it again.
const DECLARED: usize = 4;

/// Which certificate (by its common name) each name is bound to, after each change. One that has begun is in the list; up
/// to `answered` the API has answered.
#[derive(Default)]
struct History {
    begun: Mutex<Vec<[String; NAMES.len()]>>,
    answered: AtomicUsize,
}

impl History {
    fn begin(&self, change: impl FnOnce(&mut [String; NAMES.len()])) {
        let mut begun = self.begun.lock().unwrap();
        let mut next = begun.last().cloned().unwrap_or_default();
        change(&mut next);
        begun.push(next);
    }

    fn answered(&self) {
        let begun = self.begun.lock().unwrap().len();
        self.answered.store(begun - 1, Ordering::SeqCst);
    }

    /// The change that was answered last: what is sent from now on must not be older.
    fn newest(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }

    /// What was in force for a name at some time since then.
    fn since(&self, oldest: usize, name: usize) -> HashSet<String> {
        self.begun.lock().unwrap()[oldest..].iter().map(|state| state[name].clone()).collect()
    }
}

/// What clients found wrong, the first of it in words.
#[derive(Default)]
struct Complaints {
    first: Mutex<Vec<String>>,
    failed: AtomicUsize,
    stale: AtomicUsize,
}

impl Complaints {
    fn note(&self, count: &AtomicUsize, text: String) {
        count.fetch_add(1, Ordering::SeqCst);
        let mut first = self.first.lock().unwrap();
        if first.len() < 20 {
            first.push(text);
        }
    }
}

/// What a client needs.
struct Storm {
    history: History,
    /// Of what files declare, which is changed beside the rest.
    declared: History,
    complaints: Complaints,
    over: AtomicBool,
    /// Requests by way in and by what was asked.
    done: Mutex<HashMap<(How, &'static str), usize>>,
}

impl Storm {
    fn history(&self, name: usize) -> &History {
        if name == DECLARED { &self.declared } else { &self.history }
    }

    /// Sends one request after the other on one connection. The bodies of long answers are read beside that.
    /// `calls`: every other one is a call of gRPC.
    async fn client(self: Arc<Self>, how: How, name: usize, to: Target, calls: bool, number: usize) {
        let mut door = match Door::open(how, &to).await {
            Ok(door) => door,
            Err(refused) => return self.failed(how, name, What::Get, &refused.to_string()),
        };
        for turn in number.. {
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            let what = match turn % 12 {
                3 => What::Post,
                5 => What::Close,
                8 => What::Download,
                _ if calls && turn % 2 == 0 => What::Grpc,
                _ => What::Get,
            };
            let oldest = self.history(name).newest();
            let told = match door.ask(what).await {
                Ok(told) => told,
                Err(refused) => {
                    self.failed(how, name, what, &refused.to_string());
                    // hyper's connection may have ended with it.
                    match Door::open(how, &to).await {
                        Ok(next) => door = next,
                        Err(refused) => return self.failed(how, name, what, &refused.to_string()),
                    }
                    continue;
                }
            };
            let allowed = self.history(name).since(oldest, name);
            if !allowed.contains(&told.subject) {
                let text = format!(
                    "{how:?} {what:?} {}: the origin saw {}, and since the request was sent there was {allowed:?}",
                    NAMES[name], told.subject
                );
                self.complaints.note(&self.complaints.stale, text);
            }
            // Streams run side by side; on HTTP/1.1 the next request waits for the end of the answer.
            match told.body.await.expect("reading does not panic") {
                Ok(()) => {
                    let key = (how, if what == What::Grpc { "grpc" } else { "http" });
                    *self.done.lock().unwrap().entry(key).or_default() += 1;
                }
                Err(why) => self.failed(how, name, what, &why),
            }
            tokio::time::sleep(Duration::from_millis(5 + (turn as u64 * 7 + number as u64) % 20)).await;
        }
    }

    fn failed(&self, how: How, name: usize, what: What, why: &str) {
        let text = format!("{how:?} {what:?} {}: {why}", NAMES[name]);
        self.complaints.note(&self.complaints.failed, text);
    }
}

/// Changes certificates, one after the other, until `until`; how often.
fn change(storm: &Storm, egret: &Egret, world: &World, until: Instant) -> usize {
    let pattern = |name: &str| format!("https://{name}:*");
    let upload = |pattern: Option<&str>, serial: usize, names: &[usize]| {
        let pair = world.client(&format!("{}-{serial}", pattern.unwrap_or("default").replace("https://", "")));
        storm.history.begin(|state| names.iter().for_each(|name| state[*name].clone_from(&pair.name)));
        let id = egret.upload("default", pattern, &pair);
        storm.history.answered();
        id
    };
    let wild = pattern("*.wild.test");
    let (exact, coming) = (pattern(NAMES[EXACT]), pattern(NAMES[COMING]));
    let mut bound = None;
    let mut changes = 0;
    let mut next = Instant::now();
    while Instant::now() < until {
        match changes % 5 {
            _ if changes == 0 => {
                upload(Some(&exact), changes, &[EXACT]);
                upload(Some(&wild), changes, &[WILD, COMING]);
                upload(None, changes, &[DEFAULT]);
            }
            1 => drop(upload(Some(&exact), changes, &[EXACT])),
            2 if bound.is_some() => drop(upload(Some(&wild), changes, &[WILD])),
            2 => drop(upload(Some(&wild), changes, &[WILD, COMING])),
            3 => drop(upload(None, changes, &[DEFAULT])),
            4 => match bound.take() {
                None => bound = Some(upload(Some(&coming), changes, &[COMING])),
                Some(id) => {
                    storm.history.begin(|state| state[COMING] = state[WILD].clone());
                    egret.delete("default", &id);
                    storm.history.answered();
                }
            },
            _ => egret.hang_up(),
        }
        changes += 1;
        next = (next + INTERVAL).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    changes
}

/// Declares a certificate, changes its files, withdraws it, one after the other until `until`, and with it limits and
/// rules that are in force for everything else; how often. In the end nothing is declared.
fn reload(storm: &Storm, egret: &Egret, world: &World, uploaded: &str, until: Instant) -> usize {
    let path = egret.config();
    let plain = std::fs::read_to_string(&path).expect("egret's configuration");
    let home = path.parent().expect("a folder").to_owned();
    let put = |name: &str, text: &str| {
        std::fs::write(home.join("next"), text).expect("writable");
        std::fs::rename(home.join("next"), home.join(name)).expect("writable");
    };
    let origin = format!("https://{}:*", NAMES[DECLARED]);
    let in_force = || {
        let (_, answer) = egret.api("GET", "/v1/projects/default/bindings", None);
        let mut all = answer["bindings"].as_array().expect("a list").iter();
        all.find(|binding| binding["origin"] == origin.as_str()).expect("it is always bound")["certId"].clone()
    };
    let mut before = in_force();
    let mut changes = 0;
    while Instant::now() < until || changes % 4 != 0 {
        let pair = world.client(&format!("declared-{changes}"));
        let withdraw = changes % 4 == 3;
        let next = if withdraw { uploaded.to_owned() } else { pair.name.clone() };
        storm.declared.begin(|state| state[DECLARED] = next);
        // 0: declared; 1: other content; 2: other files, by another configuration, and told so; 3: withdrawn.
        let set = if changes % 4 < 2 { "a" } else { "b" };
        if !withdraw {
            // The certificate before its key: in between, the pair that was there before is in force.
            for (kind, text) in [("crt", &pair.chain), ("key", &pair.key), ("ca", &pair.ca)] {
                put(&format!("{set}.{kind}"), text);
            }
        }
        if changes % 4 != 1 {
            let minutes = 40 + changes % 7;
            let mut text = format!(
                "{plain}\n[limits]\nreplace_grace = \"{minutes}min\"\nmax_idle_per_origin = {}\n[egress]\ndeny = [\"nobody-{minutes}.test\"]\n",
                16 + minutes
            );
            if !withdraw {
                text += &format!(
                    "[[certificates]]\nproject = \"default\"\norigin = \"{origin}\"\ncert = \"{set}.crt\"\nkey = \"{set}.key\"\nca = \"{set}.ca\"\n"
                );
            }
            put("egret.toml", &text);
        }
        if changes % 4 == 2 {
            egret.hang_up();
        }
        before = eventually("the files are in force", || Some(in_force()).filter(|now| *now != before));
        storm.declared.answered();
        changes += 1;
    }
    changes
}

#[test]
fn heavy_in_a_storm_of_replacements_and_deletes_by_every_way_in() {
    allow_descriptors(8_192);
    let length = std::env::var("STORM_SECONDS").ok().and_then(|s| s.parse().ok()).map_or(STORM, Duration::from_secs);
    let world = World::new();
    // One that has HTTP/2 and one that has not, each with every name.
    let server = world.server(&NAMES);
    let origins = [true, false].map(|h2| Recorder::start(&server, &world.partner.pem(), h2, Duration::ZERO));
    let mut setup = Setup::new(&world)
        .listener("forward", "forward", "project = \"default\"")
        .section("[telemetry]\naccess_log = false")
        .hosts(&NAMES);
    for origin in &origins {
        for name in NAMES {
            let to = format!("project = \"default\"\norigin = \"{}\"", origin.origin(name));
            setup = setup.listener(&sidecar(name, origin), "sidecar", &to);
        }
    }
    let egret = setup.start();
    let trusting = client_config(&egret.ca_pem(), None);
    let storm = Arc::new(Storm {
        history: History::default(),
        declared: History::default(),
        complaints: Complaints::default(),
        over: AtomicBool::new(false),
        done: Mutex::default(),
    });
    // The first certificates, before anybody asks.
    change(&storm, &egret, &world, Instant::now() + Duration::from_millis(1));
    let uploaded = world.client("uploaded");
    storm.declared.begin(|state| state[DECLARED].clone_from(&uploaded.name));
    egret.upload("default", Some(&format!("https://{}:*", NAMES[DECLARED])), &uploaded);
    storm.declared.answered();
    let before = descriptors(&egret);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (how, rest) = (How::ALL[number % How::ALL.len()], number / How::ALL.len());
            let (name, origin) = (rest % NAMES.len(), &origins[rest / NAMES.len() % origins.len()]);
            let to = Target {
                forward: egret.listener("forward"),
                sidecar: egret.listener(&sidecar(NAMES[name], origin)),
                name: NAMES[name].to_owned(),
                port: origin.port(),
                trusting: trusting.clone(),
            };
            let calls = how.is_h2() && origin.offers_h2();
            runtime.spawn(storm.clone().client(how, name, to, calls, number))
        })
        .collect();
    let until = Instant::now() + length;
    let (changes, reloads) = std::thread::scope(|scope| {
        let reloading = scope.spawn(|| reload(&storm, &egret, &world, &uploaded.name, until));
        (change(&storm, &egret, &world, until), reloading.join().expect("files change"))
    });
    storm.over.store(true, Ordering::SeqCst);
    runtime.block_on(async {
        for client in clients {
            client.await.expect("a client's task ends");
        }
    });

    let first = storm.complaints.first.lock().unwrap().join("\n");
    let done = storm.done.lock().unwrap().clone();
    let total: usize = done.values().sum();
    let seen = origins.each_ref().map(Recorder::seen);
    let [full, resumed] = [false, true].map(|r| seen.iter().flatten().filter(|h| h.resumed == r).count());
    eprintln!(
        "{changes} changes and {reloads} reloads, {total} requests, {full} full handshakes and {resumed} resumed; {done:?}"
    );
    let failed = storm.complaints.failed.load(Ordering::SeqCst);
    assert_eq!(failed, 0, "requests failed, of {total}:\n{first}");
    let stale = storm.complaints.stale.load(Ordering::SeqCst);
    assert_eq!(stale, 0, "requests carried an older certificate, of {total}:\n{first}");
    for how in How::ALL {
        assert!(done.get(&(how, "http")).is_some_and(|n| *n > 20), "{how:?}: {done:?}");
    }
    for how in [How::InterceptedH2, How::SidecarH2] {
        assert!(done.get(&(how, "grpc")).is_some_and(|n| *n > 20), "{how:?}: {done:?}");
    }
    assert!(resumed > 0, "nothing was resumed: nothing is proven");
    seen.iter().for_each(|seen| sessions_keep_to_themselves(seen));
    assert!(seen[0].iter().all(|h| h.h2) && seen[1].iter().all(|h| !h.h2));

    // Nobody asks any more, and nothing is bound: then nothing is left.
    runtime.shutdown_background();
    let (_, list) = egret.api("GET", "/v1/projects/default/client-cert", None);
    for id in list["clientCerts"].as_array().expect("a list") {
        egret.delete("default", id["id"].as_str().expect("an id"));
    }
    eventually("every connection to the origin is closed", || {
        origins.iter().all(|origin| origin.open() == 0).then_some(())
    });
    eventually("egret has no more open files than before", || (descriptors(&egret) <= before).then_some(()));
    let metrics = egret.metrics();
    for gone in ["egret_upstream_connections 0", "egret_draining_certificates 0", "egret_client_connections 0"] {
        assert!(metrics.lines().any(|line| line == gone), "{gone} is not in\n{metrics}");
    }
}

/// A ticket is only ever taken for the certificate and the name that it was given to: all clients of the origin share
/// its store, so any other would be taken, too, and would bring the other's certificate with it.
fn sessions_keep_to_themselves(seen: &[crate::harness::recorder::Handshake]) {
    let mut full = HashSet::new();
    for handshake in seen {
        let key = (&handshake.subject, &handshake.name);
        if handshake.resumed {
            assert!(full.contains(&key), "resumed without a full handshake of its own: {handshake:?}");
        } else {
            full.insert(key);
        }
    }
}

/// The name of a listener.
fn sidecar(name: &str, origin: &Recorder) -> String {
    format!("{name}-{}", origin.port())
}

fn descriptors(egret: &Egret) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", egret.pid())).expect("the process is alive").count()
}

/// However long a handshake takes, and however often the certificate is replaced meanwhile.
#[test]
fn although_it_is_replaced_faster_than_a_connection_can_be_made() {
    let world = World::new();
    let name = NAMES[EXACT];
    let origin = Recorder::start(&world.server(&[name]), &world.partner.pem(), true, Duration::from_secs(3));
    let sidecar = format!("project = \"default\"\norigin = \"{}\"", origin.origin(name));
    let egret = Setup::new(&world).listener("partner", "sidecar", &sidecar).hosts(&[name]).start();
    egret.upload("default", Some(&origin.origin(name)), &world.client("first"));
    let proxy = egret.proxy();
    let waiting = std::thread::spawn(move || Wire::connect(proxy).request("GET", "/", "x"));
    let tried = |times: usize| {
        eventually("a handshake for the request has begun", || (origin.accepted() >= times).then_some(()));
    };
    tried(1);
    // More often than anybody would try again by counting.
    let mut last = String::new();
    for round in 2..22 {
        let pair = world.client(&format!("client-{round}"));
        egret.upload("default", Some(&origin.origin(name)), &pair);
        last = pair.name;
        tried(round);
    }
    let reply = waiting.join().expect("an answer");
    assert_eq!((reply.status, reply.header("x-subject")), (200, Some(last.as_str())), "{}", reply.text());
    let served = origin.seen().into_iter().filter(|h| h.requests > 0).collect::<Vec<_>>();
    assert_eq!(served.len(), 1, "{served:?}");
}

/// The same as nginx logs it: every certificate begins with a full handshake of its own, and is resumed after that.
#[test]
fn and_nginx_resumes_no_session_of_one() {
    let world = World::new();
    let name = NAMES[EXACT];
    let nginx = Nginx::start(&[Site::demanding(&[name], &world.server(&[name]), &world.partner.pem())]);
    let sidecar = format!("project = \"default\"\norigin = \"{}\"", nginx.origin(name));
    // Every request is a handshake.
    let egret = Setup::new(&world)
        .listener("partner", "sidecar", &sidecar)
        .section("[limits]\nmax_idle_per_origin = 0")
        .hosts(&[name])
        .start();
    for round in 0..6 {
        let pair = world.client(&format!("client-{round}"));
        egret.upload("default", Some(&nginx.origin(name)), &pair);
        for turn in 0..4 {
            let reply = Wire::connect(egret.proxy()).request("GET", "/", name);
            let reused = if turn == 0 { "." } else { "r" };
            assert_eq!(
                (reply.seen("serial"), reply.seen("reused")),
                (pair.serial.clone(), reused.to_owned()),
                "{turn}"
            );
        }
    }
}
