//! Random calls of both dialects and of egret's own, one after the other, while requests run all the time, against a model
//! of a few lines: every answer is 200, and the origin sees the certificate of a moment between a request's begin and its
//! end. After a restart it is as it was.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::certificates::Pair;
use crate::harness::cloudflare::{PROJECT, failed, id_of, succeeded};
use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::wire::{Wire, absolute};
use crate::harness::world::World;

/// No step is begun after this.
const BUDGET: Duration = Duration::from_secs(8);
const HOSTS: [&str; 3] = ["a.model.test", "b.model.test", "c.model.test"];
/// Of each of a zone's lists, by default.
const MOST: usize = 10;
const LIST: &str = "/hostnames/certificates";

/// Numbers that are random enough; the seed is told, so that a run can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % most.max(1) as u64).expect("below a usize")
    }
}

/// What a hostname has of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Certificate(String),
    /// Nothing is presented; the certificate that the association remembers.
    Nothing(Option<String>),
}

/// What the project should mean.
#[derive(Default)]
struct Model {
    names: BTreeMap<String, String>,
    /// Zone certificates with the number of the step that made them, oldest first.
    zone: Vec<(usize, String)>,
    zone_on: bool,
    /// What was bound project-wide by the other ways, and in which step; `None` = nothing is presented.
    wide: Option<(usize, Option<String>)>,
    hosts: BTreeMap<usize, Place>,
    /// Certificates of the list for hostnames.
    held: Vec<String>,
    /// Leafs of the account.
    account: Vec<String>,
}

impl Model {
    fn shown_to(&self, host: usize) -> String {
        let name = |id: &String| format!("CN={}", self.names[id]);
        match self.hosts.get(&host) {
            Some(Place::Certificate(id)) => return name(id),
            Some(Place::Nothing(_)) => return String::new(),
            None => {}
        }
        let zone = self.zone.last().filter(|_| self.zone_on).map(|(since, id)| (*since, Some(id.clone())));
        let latest = zone.into_iter().chain(self.wide.clone()).max_by_key(|(since, _)| *since);
        latest.and_then(|(_, id)| id).map_or(String::new(), |id| name(&id))
    }

    fn shown(&self) -> [String; 3] {
        [0, 1, 2].map(|host| self.shown_to(host))
    }

    fn is_named(&self, id: &str) -> bool {
        self.hosts.values().any(|place| match place {
            Place::Certificate(named) | Place::Nothing(Some(named)) => named == id,
            Place::Nothing(None) => false,
        })
    }

    /// Taken out of everything that presents it.
    fn delete(&mut self, id: &str) {
        self.zone.retain(|(_, other)| other != id);
        self.held.retain(|other| other != id);
        if self.wide.as_ref().is_some_and(|(_, wide)| wide.as_deref() == Some(id)) {
            self.wide = None;
        }
        self.hosts.retain(|_, place| *place != Place::Certificate(id.to_owned()));
        for place in self.hosts.values_mut().filter(|place| **place == Place::Nothing(Some(id.to_owned()))) {
            *place = Place::Nothing(None);
        }
    }
}

/// What was shown after each step; the last may be under way.
#[derive(Default)]
struct History {
    shown: Vec<[String; 3]>,
    /// How many of them are answered.
    answered: usize,
    ended: bool,
    served: usize,
    fault: Option<String>,
}

/// Requests until the history ends, each judged by what it may see.
fn load(egret: std::net::SocketAddr, nginx: u16, history: &Mutex<History>) {
    let history = || history.lock().expect("nothing panics while holding it");
    let mut wire = Wire::connect(egret);
    for host in (0..HOSTS.len()).cycle() {
        let from = {
            let known = history();
            if known.ended || known.fault.is_some() {
                return;
            }
            known.answered - 1
        };
        let authority = format!("{}:{nginx}", HOSTS[host]);
        let reply = wire.request("GET", &format!("https://{authority}/"), &authority);
        let mut known = history();
        let may = known.shown[from..].iter().map(|shown| &shown[host]).collect::<Vec<_>>();
        let seen = if reply.status == 200 { reply.seen("subject") } else { reply.text() };
        if reply.status == 200 && may.contains(&&seen) {
            known.served += 1;
        } else {
            let fault = format!("{authority} answered {} {seen}, not one of {may:?}", reply.status);
            known.fault.get_or_insert(fault);
        }
    }
}

struct Scene<'a> {
    egret: &'a Egret,
    world: &'a World,
    model: Model,
    dice: Dice,
    step: usize,
    history: Arc<Mutex<History>>,
}

impl Scene<'_> {
    fn client(&mut self) -> Pair {
        self.world.client(&format!("step-{}", self.step))
    }

    /// Says what will be shown once the call has been answered, and makes the call.
    fn change<T>(&mut self, call: impl FnOnce(&Egret) -> T) -> T {
        self.history.lock().expect("free").shown.push(self.model.shown());
        let answer = call(self.egret);
        let mut history = self.history.lock().expect("free");
        history.answered = history.shown.len();
        answer
    }

    /// Makes a call whose outcome decides what is known of it, with `next` in place of the id that it will give.
    fn create(&mut self, named: &Pair, apply: impl FnOnce(&mut Model), call: impl FnOnce(&Egret) -> String) -> String {
        self.model.names.insert("next".to_owned(), named.name.clone());
        apply(&mut self.model);
        let id = self.change(call);
        self.model.names.insert(id.clone(), named.name.clone());
        let model = &mut self.model;
        let places = model.hosts.values_mut().filter_map(|place| match place {
            Place::Certificate(named) | Place::Nothing(Some(named)) => Some(named),
            Place::Nothing(None) => None,
        });
        let lists = model.zone.iter_mut().map(|(_, id)| id).chain(&mut model.held).chain(&mut model.account);
        let wide = model.wide.iter_mut().filter_map(|(_, id)| id.as_mut());
        lists.chain(wide).chain(places).filter(|known| *known == "next").for_each(|known| known.clone_from(&id));
        id
    }

    fn pick(&mut self, of: &[String]) -> Option<String> {
        let at = self.dice.below(of.len());
        of.get(at).cloned()
    }

    fn bindings(egret: &Egret, method: &str, origin: &str, certificate: Option<&str>) {
        let path = format!("/v1/projects/{PROJECT}/bindings");
        let encoded = origin.replace(':', "%3A").replace('/', "%2F");
        let (status, answer) = match method {
            "PUT" => egret.api(method, &path, Some(&json!({ "origin": origin, "certId": certificate }))),
            _ => egret.api(method, &format!("{path}?origin={encoded}"), None),
        };
        assert_eq!(status, 200, "{method} {origin}: {answer}");
    }

    /// One call; what it was.
    fn take(&mut self) -> String {
        self.step += 1;
        let step = self.step;
        let host = self.dice.below(HOSTS.len());
        let at = format!("https://{}:*", HOSTS[host]);
        match self.dice.below(16) {
            0..=2 => {
                let pair = self.client();
                if self.model.zone.len() >= MOST {
                    let body = json!({ "certificate": pair.chain, "private_key": pair.key });
                    assert_eq!(failed(400, self.egret.pulls("POST", "", Some(&body))), 2005);
                    return "a zone certificate too many".to_owned();
                }
                let zone = |model: &mut Model| model.zone.push((step, "next".to_owned()));
                let id = self.create(&pair, zone, |egret| egret.create("", &pair));
                format!("zone certificate {id}, step-{step}")
            }
            3 => {
                self.model.zone_on = !self.model.zone_on;
                let on = self.model.zone_on;
                self.change(|egret| egret.switch_zone(on));
                format!("the zone is on: {on}")
            }
            4 => {
                let zone: Vec<_> = self.model.zone.iter().rev().take(2).map(|(_, id)| id.clone()).collect();
                let Some(id) = self.pick(&zone) else { return String::new() };
                self.model.delete(&id);
                let through_the_other = self.dice.below(3) == 0;
                self.change(|egret| match through_the_other {
                    true => egret.delete(PROJECT, &id),
                    false => drop(succeeded(egret.pulls("DELETE", &format!("/{id}"), None))),
                });
                format!("delete of zone certificate {id}")
            }
            5..=6 => {
                let pair = self.client();
                let wide = |model: &mut Model| model.wide = Some((step, Some("next".to_owned())));
                let id = self.create(&pair, wide, |egret| egret.upload(PROJECT, None, &pair));
                format!("{id}, step-{step}, project-wide")
            }
            7 => {
                let Some((_, wide)) = self.model.wide.take() else {
                    self.model.wide = Some((step, None));
                    self.change(|egret| Self::bindings(egret, "PUT", "*", None));
                    return "nothing project-wide".to_owned();
                };
                let listed = wide.filter(|id| id.starts_with("cert_"));
                let as_zones = self.dice.below(2) == 0;
                self.change(|egret| match &listed {
                    Some(id) if as_zones => {
                        let path = format!("/{}", id.trim_start_matches("cert_"));
                        succeeded(egret.pulls("DELETE", &path, None));
                    }
                    Some(id) => egret.delete(PROJECT, id),
                    None => Self::bindings(egret, "DELETE", "*", None),
                });
                format!("{listed:?} project-wide is taken away")
            }
            8 => {
                let pair = self.client();
                if self.model.held.len() >= MOST {
                    return String::new();
                }
                let held = |model: &mut Model| model.held.push("next".to_owned());
                let id = self.create(&pair, held, |egret| egret.create(LIST, &pair));
                format!("hostname certificate {id}, step-{step}")
            }
            9..=10 => {
                let Some(id) = self.pick(&self.model.held.clone()) else { return String::new() };
                let enabled = self.dice.below(4) > 0;
                let place = if enabled { Place::Certificate(id.clone()) } else { Place::Nothing(Some(id.clone())) };
                self.model.hosts.insert(host, place);
                self.change(|egret| egret.associate(HOSTS[host], &id, Some(enabled)));
                format!("{} with {id}: {enabled}", HOSTS[host])
            }
            11 => {
                // Several at once: all of them, or none.
                let Some(id) = self.pick(&self.model.held.clone()) else { return String::new() };
                for host in 0..HOSTS.len() {
                    self.model.hosts.insert(host, Place::Certificate(id.clone()));
                }
                let entry = |host: &&str| json!({ "hostname": host, "cert_id": id, "enabled": true });
                let body = json!({ "config": HOSTS.iter().map(entry).collect::<Vec<Value>>() });
                self.change(|egret| succeeded(egret.pulls("PUT", "/hostnames", Some(&body))));
                format!("all with {id}")
            }
            12 => {
                self.model.hosts.remove(&host);
                self.change(|egret| egret.associate(HOSTS[host], "0123456789abcdef0123456789abcdef", None));
                format!("{} is voided", HOSTS[host])
            }
            13 => {
                let pair = self.client();
                let place = |model: &mut Model| {
                    model.hosts.insert(host, Place::Certificate("next".to_owned()));
                };
                let id = self.create(&pair, place, |egret| egret.upload(PROJECT, Some(&at), &pair));
                format!("{id}, step-{step}, at {at}")
            }
            14 => {
                let Some(id) = self.pick(&self.model.held.clone()) else { return String::new() };
                if self.dice.below(2) == 0 {
                    self.model.delete(&id);
                    self.change(|egret| egret.delete(PROJECT, &id));
                } else if self.model.is_named(&id) {
                    assert_eq!(failed(400, self.egret.pulls("DELETE", &format!("{LIST}/{id}"), None)), 1433);
                } else {
                    self.model.delete(&id);
                    self.change(|egret| succeeded(egret.pulls("DELETE", &format!("{LIST}/{id}"), None)));
                }
                format!("delete of hostname certificate {id}")
            }
            _ => {
                let Some(id) = self.pick(&self.model.account.clone()) else { return String::new() };
                if self.dice.below(2) == 0 {
                    self.model.hosts.insert(host, Place::Certificate(id.clone()));
                    self.change(|egret| Self::bindings(egret, "PUT", &at, Some(&id)));
                } else {
                    self.model.wide = Some((step, Some(id.clone())));
                    self.change(|egret| Self::bindings(egret, "PUT", "*", Some(&id)));
                }
                format!("{id} of the account is bound")
            }
        }
    }
}

#[test]
fn heavy_whatever_either_does_while_requests_run() {
    let world = World::new();
    let nginx = Nginx::start(&[Site::asking(&HOSTS, &world.server(&HOSTS), &world.partner.pem())]);
    let egret = Setup::new(&world).cloudflare().hosts(&HOSTS).start();
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs() | 1;
    let history = Arc::new(Mutex::new(History { shown: vec![Default::default()], answered: 1, ..History::default() }));
    let mut scene = Scene {
        egret: &egret,
        world: &world,
        model: Model::default(),
        dice: Dice(seed),
        step: 0,
        history: history.clone(),
    };
    for name in ["account-1", "account-2"] {
        let pair = world.client(name);
        let body = json!({ "ca": false, "certificates": pair.chain, "private_key": pair.key });
        let id = id_of(&succeeded(egret.mtls("POST", "", Some(&body))));
        scene.model.names.insert(id.clone(), pair.name);
        scene.model.account.push(id);
    }
    let mut steps = Vec::new();
    let (proxy, port) = (egret.proxy(), nginx.port());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| load(proxy, port, &history));
        }
        let began = Instant::now();
        while began.elapsed() < BUDGET && history.lock().expect("free").fault.is_none() {
            steps.push(scene.take());
        }
        history.lock().expect("free").ended = true;
    });
    let known = history.lock().expect("free");
    let last = steps[steps.len().saturating_sub(30)..].join("\n");
    assert_eq!(known.fault, None, "seed {seed}, after {} steps:\n{last}", steps.len());
    assert!(
        steps.len() > 50 && known.served > 200,
        "too little was tried: {} steps, {} requests",
        steps.len(),
        known.served
    );
    eprintln!("{} steps, {} requests", steps.len(), known.served);
    let shown = scene.model.shown();
    let egret = egret.stop().start();
    let after = HOSTS.map(|name| absolute(egret.proxy(), "GET", &format!("{}/", nginx.origin(name))).seen("subject"));
    assert_eq!(after, shown, "after a restart; seed {seed}, {} steps:\n{last}", steps.len());
}
