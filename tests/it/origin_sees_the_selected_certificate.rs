//! For every client, in every mode, nginx is shown the certificate that the bindings select: exact, wildcard,
//! project-wide, *none*, and nothing at all.

use std::path::PathBuf;

use crate::harness::certificates::Pair;
use crate::harness::clients::{Answer, Client, Job};
use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::world::World;

const EXACT: &str = "exact.one.test";
const WILD: &str = "a.wild.test";
const OTHER: &str = "anything.else.test";
const NONE: &str = "none.one.test";
const NAMES: [&str; 4] = [EXACT, WILD, OTHER, NONE];

/// nginx demands the partner's certificates under all names; project `alpha` has three of them, project `bare` none.
struct Scene {
    nginx: Nginx,
    egret: Egret,
    exact: Pair,
    wild: Pair,
    default: Pair,
    /// Trusts egret's interception CA alone.
    intercepted: PathBuf,
    /// Trusts the servers' own authority alone.
    servers: PathBuf,
    _world: World,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let nginx = Nginx::start(&[Site::demanding(&NAMES, &world.server(&NAMES), &world.partner.pem())]);
        let sidecar = |name: &str| format!("project = \"alpha\"\norigin = \"{}\"", nginx.origin(name));
        let egret = Setup::new(&world)
            .listener("alpha", "forward", "project = \"alpha\"")
            .listener("bare", "forward", "project = \"bare\"")
            .listener(EXACT, "sidecar", &sidecar(EXACT))
            .listener(WILD, "sidecar", &sidecar(WILD))
            .listener(OTHER, "sidecar", &sidecar(OTHER))
            .listener(NONE, "sidecar", &sidecar(NONE))
            .listener("by-host", "sidecar", "project = \"alpha\"\norigin = \"host\"")
            .project("alpha")
            .project("bare")
            .hosts(&NAMES)
            .start();
        let (exact, wild, default) =
            (world.client("for-exact"), world.client("for-wildcard"), world.client("project-wide"));
        egret.upload("alpha", Some(&nginx.origin(EXACT)), &exact);
        egret.upload("alpha", Some("https://*.wild.test:*"), &wild);
        egret.upload("alpha", None, &default);
        egret.bind_none("alpha", &nginx.origin(NONE));
        let intercepted = egret.ca();
        let servers = world.write("servers.pem", &world.root.pem());
        Self { nginx, egret, exact, wild, default, intercepted, servers, _world: world }
    }

    fn http(&self, name: &str) -> String {
        format!("http://{name}:{}/", self.nginx.port())
    }

    fn https(&self, name: &str) -> String {
        format!("https://{name}:{}/", self.nginx.port())
    }

    fn selected(&self) -> [(&'static str, &Pair); 3] {
        [(EXACT, &self.exact), (WILD, &self.wild), (OTHER, &self.default)]
    }

    /// CONNECT: intercepted where there is an identity, the origin's own leaf where there is none.
    fn by_connect(&self, client: &mut Client) {
        let alpha = self.egret.listener("alpha");
        for (name, pair) in self.selected() {
            let job = Job::get(self.https(name)).through(alpha).trusting(&self.intercepted);
            assert_saw(&client.send(&job), pair, &format!("CONNECT {name}"));
        }
        let none = Job::get(self.https(NONE)).through(alpha).trusting(&self.servers);
        assert_saw_nothing(&client.send(&none), "CONNECT, none");
        let bare = Job::get(self.https(EXACT)).through(self.egret.listener("bare")).trusting(&self.servers);
        assert_saw_nothing(&client.send(&bare), "CONNECT, nothing registered");
    }

    /// `http://`: lifted to TLS by exact and wildcard bindings, and by nothing else.
    fn by_plain_url(&self, client: &mut Client) {
        let alpha = self.egret.listener("alpha");
        for (name, pair) in [(EXACT, &self.exact), (WILD, &self.wild)] {
            assert_saw(&client.send(&Job::get(self.http(name)).through(alpha)), pair, &format!("http {name}"));
        }
        for (listener, name) in [("alpha", OTHER), ("alpha", NONE), ("bare", EXACT)] {
            let answer = client.send(&Job::get(self.http(name)).through(self.egret.listener(listener)));
            assert_eq!(answer.status, 400, "{listener} {name}: {answer:?}");
            assert!(answer.body.contains("plain HTTP request was sent to HTTPS port"), "{listener} {name}: {answer:?}");
        }
    }

    /// `GET https://…` in absolute form.
    fn by_absolute_form(&self, client: &mut Client) {
        let alpha = self.egret.listener("alpha");
        for (name, pair) in self.selected() {
            let answer = client.send(&Job::get(self.https(name)).through(alpha).absolute());
            assert_saw(&answer, pair, &format!("absolute {name}"));
        }
        for (listener, name) in [("alpha", NONE), ("bare", EXACT)] {
            let job = Job::get(self.https(name)).through(self.egret.listener(listener)).absolute();
            let answer = client.send(&job);
            assert_saw_nothing(&answer, &format!("absolute, {listener}"));
            assert!(answer.headers["proxy-status"].is_string(), "says that the origin asked: {answer:?}");
        }
    }

    /// Sidecar listeners: one per origin, and one that reads the Host field.
    fn by_sidecar(&self, client: &mut Client, sets_host: bool) {
        for (name, pair) in self.selected() {
            let answer = client.send(&Job::get(format!("http://{}/", self.egret.listener(name))));
            assert_saw(&answer, pair, &format!("sidecar {name}"));
            assert_eq!(answer.seen("host"), format!("{name}:{}", self.nginx.port()), "the origin's own authority");
            if sets_host {
                let authority = format!("{name}:{}", self.nginx.port());
                let job = Job::get(format!("http://{}/", self.egret.listener("by-host"))).host(&authority);
                assert_saw(&client.send(&job), pair, &format!("sidecar by host, {name}"));
            }
        }
        let answer = client.send(&Job::get(format!("http://{}/", self.egret.listener(NONE))));
        assert_saw_nothing(&answer, "sidecar, none");
    }
}

#[track_caller]
fn assert_saw(answer: &Answer, pair: &Pair, how: &str) {
    assert_eq!((answer.status, answer.error.as_deref()), (200, None), "{how}: {answer:?}");
    assert_eq!(
        (answer.seen("subject"), answer.seen("serial"), answer.seen("verify")),
        (pair.subject(), pair.serial.clone(), "SUCCESS".to_owned()),
        "{how}"
    );
}

#[track_caller]
fn assert_saw_nothing(answer: &Answer, how: &str) {
    assert_eq!((answer.status, answer.error.as_deref()), (400, None), "{how}: {answer:?}");
    assert!(answer.body.contains("No required SSL certificate was sent"), "{how}: {answer:?}");
}

#[test]
fn through_curl() {
    let (scene, mut client) = (Scene::new(), Client::Curl);
    scene.by_connect(&mut client);
    scene.by_plain_url(&mut client);
    scene.by_absolute_form(&mut client);
    scene.by_sidecar(&mut client, true);
}

#[test]
fn through_python_urllib() {
    let (scene, mut client) = (Scene::new(), Client::python("urllib"));
    scene.by_connect(&mut client);
    scene.by_plain_url(&mut client);
    scene.by_sidecar(&mut client, true);
}

#[test]
fn through_python_requests() {
    let (scene, mut client) = (Scene::new(), Client::python("requests"));
    scene.by_connect(&mut client);
    scene.by_plain_url(&mut client);
    scene.by_sidecar(&mut client, true);
}

#[test]
fn through_python_http_client() {
    let (scene, mut client) = (Scene::new(), Client::python("http.client"));
    scene.by_plain_url(&mut client);
    scene.by_absolute_form(&mut client);
    scene.by_sidecar(&mut client, false);
}

#[test]
fn through_node_http() {
    let (scene, mut client) = (Scene::new(), Client::node("http"));
    scene.by_connect(&mut client);
    scene.by_plain_url(&mut client);
    scene.by_absolute_form(&mut client);
    scene.by_sidecar(&mut client, true);
}

/// undici's `ProxyAgent` uses CONNECT for `http://` as well. `fetch` may not set Host.
#[test]
fn through_node_fetch_with_undici() {
    let (scene, mut client) = (Scene::new(), Client::node("undici"));
    scene.by_connect(&mut client);
    scene.by_plain_url(&mut client);
    scene.by_sidecar(&mut client, false);
}
