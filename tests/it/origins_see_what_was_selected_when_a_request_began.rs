//! Random uploads, replacements, deletes, bindings and requests against a model of a few lines: the certificate that an
//! origin sees is the one that the model selects when the request begins, and nothing fails that the model does not
//! predict. Two projects, two origins (one with HTTP/2, one without), every kind of pattern, every way in; connections
//! stay open from one change to the next, and downloads run across them.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::json;

use crate::harness::certificates::Pair;
use crate::harness::doors::{Door, How, Refused, Target, Told, What};
use crate::harness::egret::{Egret, Setup};
use crate::harness::recorder::Recorder;
use crate::harness::wire::client_config;
use crate::harness::world::World;

/// No new case is begun after this.
const BUDGET: Duration = Duration::from_secs(20);
const CASES: u32 = 200;
const STEPS: usize = 40;

const PROJECTS: [&str; 2] = ["default", "second"];
const NAMES: [&str; 3] = ["x.model.test", "y.model.test", "z.other.test"];

/// What can be bound: a name or a wildcard, at one origin's port or at any; or everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Exact(usize, Option<usize>),
    /// `*.model.test`
    Wildcard(Option<usize>),
    Default,
}

#[derive(Debug, Clone)]
enum Step {
    Upload(usize, Slot),
    /// The material that is there already, once more.
    Again(usize, Slot),
    /// The certificate is picked out of those that there are.
    Delete(usize, usize),
    Bind(usize, Slot, usize),
    BindNone(usize, Slot),
    Unbind(usize, Slot),
    Request {
        project: usize,
        how: How,
        name: usize,
        origin: usize,
        what: What,
    },
}

fn slot() -> impl Strategy<Value = Slot> {
    let port = || proptest::option::of(0..2_usize);
    prop_oneof![
        4 => (0..NAMES.len(), port()).prop_map(|(name, port)| Slot::Exact(name, port)),
        2 => port().prop_map(Slot::Wildcard),
        3 => Just(Slot::Default),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let project = || 0..PROJECTS.len();
    let what =
        prop_oneof![4 => Just(What::Get), 1 => Just(What::Post), 1 => Just(What::Close), 2 => Just(What::Download)];
    let request = (project(), prop::sample::select(How::ALL.to_vec()), 0..NAMES.len(), 0..2_usize, what);
    prop_oneof![
        9 => (project(), slot()).prop_map(|(p, s)| Step::Upload(p, s)),
        1 => (project(), slot()).prop_map(|(p, s)| Step::Again(p, s)),
        1 => (project(), 0..8_usize).prop_map(|(p, n)| Step::Delete(p, n)),
        2 => (project(), slot(), 0..8_usize).prop_map(|(p, s, n)| Step::Bind(p, s, n)),
        1 => (project(), slot()).prop_map(|(p, s)| Step::BindNone(p, s)),
        1 => (project(), slot()).prop_map(|(p, s)| Step::Unbind(p, s)),
        20 => request.prop_map(|(project, how, name, origin, what)| Step::Request { project, how, name, origin, what }),
    ]
}

/// What a project should mean: product section 2 in the plainest words.
#[derive(Default)]
struct Model {
    /// Certificates by id, with what was uploaded.
    certificates: BTreeMap<String, Pair>,
    /// `None` = nothing is presented there.
    bindings: BTreeMap<Slot, Option<String>>,
}

impl Model {
    fn select(&self, name: usize, origin: usize) -> Option<&str> {
        let mut order = vec![Slot::Exact(name, Some(origin)), Slot::Exact(name, None)];
        if NAMES[name].ends_with(".model.test") {
            order.extend([Slot::Wildcard(Some(origin)), Slot::Wildcard(None)]);
        }
        order.push(Slot::Default);
        let first = order.iter().find_map(|slot| self.bindings.get(slot))?;
        first.as_ref().map(|id| self.certificates[id].name.as_str())
    }

    fn upload(&mut self, slot: Slot, id: String, pair: Pair) {
        if let Some(Some(old)) = self.bindings.insert(slot, Some(id.clone()))
            && !self.bindings.values().flatten().any(|other| *other == old)
        {
            self.certificates.remove(&old);
        }
        self.certificates.insert(id, pair);
    }

    fn delete(&mut self, id: &str) {
        self.certificates.remove(id);
        self.bindings.retain(|_, bound| bound.as_deref() != Some(id));
    }

    fn pick(&self, n: usize) -> Option<String> {
        self.certificates.keys().nth(n % self.certificates.len().max(1)).cloned()
    }
}

/// The running thing, and what there should be in it.
struct Scene<'a> {
    egret: &'a Egret,
    world: &'a World,
    origins: &'a [Recorder; 2],
    targets: &'a HashMap<(usize, usize, usize), Target>,
    serial: u32,
    models: [Model; 2],
    doors: HashMap<(usize, How, usize, usize), Door>,
    downloads: Vec<Told>,
    /// Requests that carried a certificate, and those that had none.
    presented: usize,
    bare: usize,
}

type Checked = Result<(), TestCaseError>;

impl Scene<'_> {
    fn pattern(&self, slot: Slot) -> String {
        let port = |at: Option<usize>| at.map_or("*".to_owned(), |at| self.origins[at].port().to_string());
        match slot {
            Slot::Exact(name, at) => format!("https://{}:{}", NAMES[name], port(at)),
            Slot::Wildcard(at) => format!("https://*.model.test:{}", port(at)),
            Slot::Default => "*".to_owned(),
        }
    }

    fn bindings(&self, project: usize, method: &str, slot: Slot, certificate: Option<&str>) -> Checked {
        let pattern = self.pattern(slot);
        let path = format!("/v1/projects/{}/bindings", PROJECTS[project]);
        let (status, answer) = match method {
            "PUT" => self.egret.api(method, &path, Some(&json!({ "origin": pattern, "certId": certificate }))),
            _ => self.egret.api(method, &format!("{path}?origin={}", encoded(&pattern)), None),
        };
        prop_assert_eq!(status, 200, "{} {}: {}", method, pattern, answer);
        Ok(())
    }

    fn upload(&self, project: usize, slot: Slot, pair: &Pair) -> String {
        let pattern = self.pattern(slot);
        self.egret.upload(PROJECTS[project], (slot != Slot::Default).then_some(pattern.as_str()), pair)
    }

    async fn run(&mut self, step: &Step) -> Checked {
        match *step {
            Step::Upload(project, slot) => {
                self.serial += 1;
                let pair = self.world.client(&format!("{}-{}", PROJECTS[project], self.serial));
                let id = self.upload(project, slot, &pair);
                self.models[project].upload(slot, id, pair);
            }
            Step::Again(project, slot) => {
                if let Some(Some(id)) = self.models[project].bindings.get(&slot) {
                    let again = self.upload(project, slot, &self.models[project].certificates[id]);
                    prop_assert_eq!(&again, id, "the same material for the same slot is the same certificate");
                }
            }
            Step::Delete(project, n) => {
                if let Some(id) = self.models[project].pick(n) {
                    self.egret.delete(PROJECTS[project], &id);
                    self.models[project].delete(&id);
                }
            }
            Step::Bind(project, slot, n) => {
                if let Some(id) = self.models[project].pick(n) {
                    self.bindings(project, "PUT", slot, Some(&id))?;
                    self.models[project].bindings.insert(slot, Some(id));
                }
            }
            Step::BindNone(project, slot) => {
                self.bindings(project, "PUT", slot, None)?;
                self.models[project].bindings.insert(slot, None);
            }
            Step::Unbind(project, slot) => {
                if self.models[project].bindings.remove(&slot).is_some() {
                    self.bindings(project, "DELETE", slot, None)?;
                }
            }
            Step::Request { project, how, name, origin, what } => {
                let expected = self.models[project].select(name, origin).map(str::to_owned);
                let key = (project, how, name, origin);
                let told = self.ask(key, what).await;
                match (expected, told) {
                    (Some(expected), Ok(told)) => {
                        prop_assert_eq!(&told.subject, &expected, "{:?}", step);
                        self.presented += 1;
                        self.finish(what, told).await?;
                    }
                    (Some(expected), Err(refused)) => {
                        return Err(TestCaseError::fail(format!("{expected} was to be presented: {refused}")));
                    }
                    (None, Ok(told)) => {
                        return Err(TestCaseError::fail(format!("{} was presented to {step:?}", told.subject)));
                    }
                    (None, Err(refused)) => {
                        // Refused by egret, or a blind tunnel to an origin that the client does not trust.
                        let blind = matches!(how, How::Intercepted | How::InterceptedH2) && refused.status.is_none();
                        let told = refused.text.contains("mtls.required_none_registered");
                        prop_assert!(blind || told, "{:?}: {}", step, refused);
                        self.doors.remove(&key);
                        self.bare += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// On the connection that is there, or on a new one.
    async fn ask(&mut self, key: (usize, How, usize, usize), what: What) -> Result<Told, Refused> {
        let (project, how, name, origin) = key;
        let door = match self.doors.entry(key) {
            std::collections::hash_map::Entry::Occupied(held) => held.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Door::open(how, &self.targets[&(project, name, origin)]).await?)
            }
        };
        let told = door.ask(what).await;
        if what == What::Download && !how.is_h2() {
            // It is busy for a while, and the next change is not to wait for it.
            self.doors.remove(&key);
        }
        told
    }

    async fn finish(&mut self, what: What, told: Told) -> Checked {
        if what == What::Download {
            self.downloads.push(told);
            return Ok(());
        }
        told.body.await.expect("reading does not panic").map_err(TestCaseError::fail)
    }

    /// What was begun under whatever certificate has come to its end, whole.
    async fn end(&mut self) -> Checked {
        for told in self.downloads.drain(..) {
            let whole = told.body.await.expect("reading does not panic");
            whole.map_err(|why| TestCaseError::fail(format!("a download under {}: {why}", told.subject)))?;
        }
        Ok(())
    }

    /// As it was before the first step.
    fn clear(&mut self) -> Checked {
        for (project, name) in PROJECTS.into_iter().enumerate() {
            for id in std::mem::take(&mut self.models[project].certificates).into_keys() {
                self.egret.delete(name, &id);
                self.models[project].delete(&id);
            }
            for slot in std::mem::take(&mut self.models[project].bindings).into_keys() {
                self.bindings(project, "DELETE", slot, None)?;
            }
        }
        Ok(())
    }
}

/// For a query.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

#[test]
fn heavy_whatever_is_changed_between_requests() {
    let world = World::new();
    let server = world.server(&NAMES);
    let origins = [true, false].map(|h2| Recorder::start(&server, &world.partner.pem(), h2, Duration::ZERO));
    let mut setup = Setup::new(&world).project("second").section("[telemetry]\naccess_log = false").hosts(&NAMES);
    let sidecar = |project: usize, name: usize, origin: usize| format!("s{project}{name}{origin}");
    let mut places = Vec::new();
    for (project, called) in PROJECTS.iter().enumerate() {
        setup = setup.listener(&format!("f{project}"), "forward", &format!("project = \"{called}\""));
        for (name, host) in NAMES.iter().enumerate() {
            for (at, origin) in origins.iter().enumerate() {
                let to = format!("project = \"{called}\"\norigin = \"{}\"", origin.origin(host));
                setup = setup.listener(&sidecar(project, name, at), "sidecar", &to);
                places.push((project, name, at));
            }
        }
    }
    let egret = setup.start();
    let trusting = client_config(&egret.ca_pem(), None);
    let targets = places.into_iter().map(|(project, name, origin)| {
        let target = Target {
            forward: egret.listener(&format!("f{project}")),
            sidecar: egret.listener(&sidecar(project, name, origin)),
            name: NAMES[name].to_owned(),
            port: origins[origin].port(),
            trusting: trusting.clone(),
        };
        ((project, name, origin), target)
    });
    let targets = targets.collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let began = Instant::now();
    let [cases, presented, bare] = [(); 3].map(|()| std::cell::Cell::new(0));
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let outcome = TestRunner::new(config).run(&proptest::collection::vec(step(), STEPS / 2..STEPS), |steps| {
        if began.elapsed() > BUDGET {
            return Ok(());
        }
        cases.set(cases.get() + 1);
        let mut scene = Scene {
            egret: &egret,
            world: &world,
            origins: &origins,
            targets: &targets,
            serial: 0,
            models: Default::default(),
            doors: HashMap::new(),
            downloads: Vec::new(),
            presented: 0,
            bare: 0,
        };
        let outcome = runtime.block_on(async {
            for step in &steps {
                scene.run(step).await?;
            }
            scene.end().await
        });
        presented.set(presented.get() + scene.presented);
        bare.set(bare.get() + scene.bare);
        scene.clear()?;
        outcome
    });
    let (cases, presented, bare) = (cases.get(), presented.get(), bare.get());
    eprintln!("{cases} cases; {presented} requests carried a certificate, {bare} had none");
    if let Err(failed) = outcome {
        panic!("{failed}");
    }
    assert!(cases > 3 && presented > 20 && bare > 5, "too little was tried");
}
