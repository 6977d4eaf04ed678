//! What one dialect writes the other lists, where its shape allows, and the proxy obeys: each row of the table of what
//! maps to what, before and after a restart.

use serde_json::{Value, json};

use crate::harness::cloudflare::{ACCOUNT, PROJECT, failed, id_of, ids_of, succeeded};
use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::wire::absolute;
use crate::harness::world::World;

const APP: &str = "app.shop.test";
const WWW: &str = "www.shop.test";
const PORT: &str = "port.shop.test";
const WILD: &str = "a.wild.shop.test";
const BARE: &str = "bare.shop.test";
const PAID: &str = "paid.shop.test";
const PRIVATE: &str = "private.shop.test";
const NAMES: [&str; 6] = [APP, WWW, PORT, WILD, BARE, PAID];

struct Scene {
    world: World,
    nginx: Nginx,
    egret: Egret,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let nginx = Nginx::start(&[
            Site::asking(&NAMES, &world.server(&NAMES), &world.partner.pem()),
            Site::open(&[PRIVATE], &world.stranger.server(&[PRIVATE])),
        ]);
        let egret = Setup::new(&world).cloudflare().hosts(&NAMES).hosts(&[PRIVATE]).start();
        Self { world, nginx, egret }
    }

    /// The common name of the certificate that an origin is shown; empty without one.
    #[track_caller]
    fn shown_to(&self, name: &str) -> String {
        let reply = absolute(self.egret.proxy(), "GET", &format!("{}/", self.nginx.origin(name)));
        reply.seen("subject").trim_start_matches("CN=").to_owned()
    }

    /// Vercel's list as pairs of origin and id, sorted.
    #[track_caller]
    fn vercel(&self) -> Vec<(String, String)> {
        let (status, list) = self.egret.api("GET", &format!("/v1/projects/{PROJECT}/client-cert"), None);
        assert_eq!(status, 200, "{list}");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let all = list["clientCerts"].as_array().expect("a list");
        let mut all: Vec<_> = all.iter().map(|one| (text(&one["origin"]), text(&one["id"]))).collect();
        all.sort();
        all
    }

    /// egret's own bindings of one origin.
    #[track_caller]
    fn bindings(&self, origin: &str) -> Vec<Value> {
        let (status, answer) = self.egret.api("GET", &format!("/v1/projects/{PROJECT}/bindings"), None);
        assert_eq!(status, 200, "{answer}");
        let all = answer["bindings"].as_array().expect("a list");
        all.iter().filter(|binding| binding["origin"] == origin).cloned().collect()
    }

    /// egret's own details of a certificate.
    #[track_caller]
    fn details(&self, id: &str) -> Value {
        let (status, answer) = self.egret.api("GET", &format!("/v1/projects/{PROJECT}/certificates/{id}"), None);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    #[track_caller]
    fn zone_list(&self) -> Vec<String> {
        ids_of(&succeeded(self.egret.pulls("GET", "", None)))
    }

    #[track_caller]
    fn hostname_list(&self) -> Vec<String> {
        ids_of(&succeeded(self.egret.pulls("GET", "/hostnames/certificates", None)))
    }

    fn at(origin: &str, id: &str) -> (String, String) {
        (origin.to_owned(), id.to_owned())
    }

    /// Everything that both dialects and egret's own calls tell, and what every origin is shown.
    fn everything(&self) -> Value {
        let egret = &self.egret;
        let vercel = self.vercel();
        let associations: Vec<_> =
            NAMES.iter().map(|name| egret.pulls("GET", &format!("/hostnames/{name}"), None)).collect();
        let account = succeeded(egret.mtls("GET", "", None));
        let used: Vec<_> = ids_of(&account)
            .iter()
            .map(|id| succeeded(egret.mtls("GET", &format!("/{id}/associations"), None)))
            .collect();
        let details: Vec<_> = vercel.iter().map(|(_, id)| self.details(id)["bindings"].clone()).collect();
        json!({
            "vercel": vercel,
            "zone": succeeded(egret.pulls("GET", "", None)),
            "settings": succeeded(egret.pulls("GET", "/settings", None)),
            "hostnames": succeeded(egret.pulls("GET", "/hostnames/certificates", None)),
            "associations": associations,
            "account": account,
            "used": used,
            "bindings": egret.api("GET", &format!("/v1/projects/{PROJECT}/bindings"), None).1,
            "details": details,
            "shown": NAMES.map(|name| self.shown_to(name)),
        })
    }

    /// The same egret, stopped and started again, tells the same.
    #[track_caller]
    fn holds_over_a_restart(mut self) -> Self {
        let before = self.everything();
        self.egret = self.egret.stop().start();
        assert_eq!(self.everything(), before, "after a restart");
        self
    }
}

/// The 32 hex digits of an id of either dialect.
fn hex(id: &str) -> &str {
    id.trim_start_matches("cert_")
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}

#[test]
fn zone_certificates_and_project_wide_uploads() {
    let scene = Scene::new();
    let egret = &scene.egret;
    let [z1, z2, z3, v1] = ["z1", "z2", "z3", "v1"].map(|name| scene.world.client(name));
    egret.switch_zone(true);
    let first = egret.create("", &z1);
    assert_eq!(scene.vercel(), [Scene::at("*", &first)], "in force: listed under its id of 32 hex digits");
    let second = egret.create("", &z2);
    assert_eq!(scene.vercel(), [Scene::at("*", &second)], "not in force: not listed there");
    assert_eq!(scene.zone_list(), sorted(vec![first.clone(), second.clone()]));
    let [binding] = scene.bindings("*").try_into().expect("one binding at *");
    assert_eq!((&binding["certId"], &binding["derived"]), (&json!(second), &json!(true)), "{binding}");
    let waiting = scene.details(&first);
    assert_eq!((&waiting["holder"], &waiting["bindings"]), (&json!("zone"), &json!([])), "{waiting}");
    assert_eq!(succeeded(egret.pulls("GET", &format!("/{first}"), None))["status"], "active");

    let theirs = egret.upload(PROJECT, None, &v1);
    assert_eq!(scene.shown_to(BARE), "v1");
    assert_eq!(scene.vercel(), [Scene::at("*", &theirs)]);
    let all = [&first, &second, &hex(&theirs).to_owned()].map(Clone::clone).to_vec();
    assert_eq!(scene.zone_list(), sorted(all.clone()), "Vercel's is a zone certificate as well");
    let shown = succeeded(egret.pulls("GET", &format!("/{}", hex(&theirs)), None));
    assert_eq!(
        (&shown["status"], &shown["enabled"], &shown["certificate"]),
        (&json!("active"), &json!(true), &json!(v1.chain))
    );

    let third = egret.create("", &z3);
    assert_eq!(scene.shown_to(BARE), "z3");
    let both = sorted(vec![Scene::at("*", &theirs), Scene::at("*", &third)]);
    assert_eq!(scene.vercel(), both, "Vercel's is listed, also while the zone's covers it");
    assert_eq!(scene.details(&theirs)["coveredBy"]["certId"], json!(third));
    let scene = scene.holds_over_a_restart();
    let egret = &scene.egret;

    egret.switch_zone(false);
    assert_eq!(scene.shown_to(BARE), "v1", "it is in force without the zone's switch");
    assert_eq!(scene.vercel(), [Scene::at("*", &theirs)]);
    assert_eq!(scene.details(&theirs)["coveredBy"], Value::Null);
    egret.switch_zone(true);
    assert_eq!(scene.shown_to(BARE), "z3");
    egret.delete(PROJECT, &third);
    assert_eq!(scene.shown_to(BARE), "v1", "a zone certificate can be deleted through the other dialect");
    assert_eq!(scene.zone_list(), sorted(all));
    succeeded(egret.pulls("DELETE", &format!("/{}", hex(&theirs)), None));
    assert_eq!(scene.shown_to(BARE), "z2", "and the other dialect's as a zone certificate");
    assert_eq!(scene.vercel(), [Scene::at("*", &second)]);
}

#[test]
fn hostname_associations_and_uploads_for_one_origin() {
    let scene = Scene::new();
    let egret = &scene.egret;
    let [h1, v1, v2, v3] = ["h1", "v1", "v2", "v3"].map(|name| scene.world.client(name));
    let hosts = "/hostnames/certificates";
    let pinned = egret.create(hosts, &h1);
    assert_eq!(scene.vercel(), [], "a certificate that no hostname has is for no origin");
    egret.associate(APP, &pinned, Some(true));
    let at_app = format!("https://{APP}:*");
    assert_eq!(scene.vercel(), [Scene::at(&at_app, &pinned)]);
    assert_eq!(scene.shown_to(APP), "h1");
    assert_eq!(scene.details(&pinned)["holder"], json!("hostnames"));
    egret.associate(BARE, &pinned, Some(false));
    assert_eq!(scene.vercel(), [Scene::at(&at_app, &pinned)], "an association that is disabled is not listed there");
    let [none] = scene.bindings(&format!("https://{BARE}:*")).try_into().expect("one binding");
    assert_eq!(none["certId"], Value::Null, "{none}");

    // Vercel's, where a hostname association would be, and elsewhere.
    let at_www = format!("https://{WWW}:*");
    let whole = egret.upload(PROJECT, Some(&at_www), &v1);
    let port = scene.nginx.port();
    let at_port = egret.upload(PROJECT, Some(&format!("https://{PORT}:{port}")), &v2);
    egret.upload(PROJECT, Some("https://*.wild.shop.test:*"), &v3);
    let association = succeeded(egret.pulls("GET", &format!("/hostnames/{WWW}"), None));
    assert_eq!(
        (&association["cert_id"], &association["enabled"], &association["status"]),
        (&json!(hex(&whole)), &json!(true), &json!("active")),
        "{association}"
    );
    assert_eq!(scene.hostname_list(), sorted(vec![pinned.clone(), hex(&whole).to_owned()]), "the others have no shape");
    assert_eq!(failed(404, egret.pulls("GET", &format!("/hostnames/{PORT}"), None)), 1553);
    assert_eq!(failed(404, egret.pulls("GET", &format!("{hosts}/{}", hex(&at_port)), None)), 1551);
    assert_eq!(failed(400, egret.pulls("DELETE", &format!("{hosts}/{}", hex(&whole)), None)), 1433, "it is associated");
    let scene = scene.holds_over_a_restart();
    let egret = &scene.egret;
    assert_eq!(NAMES.map(|name| scene.shown_to(name)), ["h1", "v1", "v2", "v3", "", ""]);

    // What the other dialect made, this one takes away, and the other way round.
    egret.associate(WWW, &pinned, Some(true));
    assert_eq!(scene.shown_to(WWW), "h1");
    egret.associate(WWW, &pinned, None);
    assert_eq!(scene.shown_to(WWW), "");
    egret.delete(PROJECT, &pinned);
    assert_eq!(scene.shown_to(APP), "", "Vercel's delete takes it from every origin");
    assert_eq!(failed(404, egret.pulls("GET", &format!("/hostnames/{APP}"), None)), 1553);
    assert_eq!(failed(404, egret.pulls("GET", &format!("{hosts}/{pinned}"), None)), 1551);
}

#[test]
fn account_certificates_and_bundles_that_are_bound() {
    let scene = Scene::new();
    let egret = &scene.egret;
    let a1 = scene.world.client("a1");
    let leaf = json!({ "ca": false, "certificates": a1.chain, "private_key": a1.key, "name": "paid" });
    let leaf = id_of(&succeeded(egret.mtls("POST", "", Some(&leaf))));
    let bundle = json!({ "ca": true, "certificates": scene.world.stranger.pem() });
    let bundle = id_of(&succeeded(egret.mtls("POST", "", Some(&bundle))));
    assert_eq!(scene.vercel(), []);
    let at = format!("https://{PAID}:*");
    egret.bind(&at, &leaf);
    egret.bind(&format!("https://{BARE}:*"), &leaf);
    egret.bind(&format!("https://{PRIVATE}:*"), &bundle);
    let listed = sorted(vec![Scene::at(&at, &leaf), Scene::at(&format!("https://{BARE}:*"), &leaf)]);
    assert_eq!(scene.vercel(), listed, "a leaf is listed once per binding, a bundle never");
    let of = |id: &str| succeeded(egret.mtls("GET", &format!("/{id}/associations"), None));
    let used = json!({ "service": "egress", "status": "active" });
    assert_eq!((of(&leaf), of(&bundle)), (json!([used, used]), json!([used])));
    let [vouch] = scene.bindings(&format!("https://{PRIVATE}:*")).try_into().expect("one binding");
    assert_eq!((&vouch["certId"], &vouch["ca"]), (&json!(bundle), &json!(true)), "{vouch}");
    let path = format!("/v1/projects/{PROJECT}/client-cert/{leaf}");
    assert_eq!(egret.api("DELETE", &path, None).0, 403, "it belongs to the account");
    assert_eq!((scene.zone_list(), scene.hostname_list()), (vec![], vec![]), "nor is it one of the zone");
    let details = scene.details(&leaf);
    assert_eq!(details["holder"], json!("account"), "{details}");

    let scene = scene.holds_over_a_restart();
    let egret = &scene.egret;
    assert_eq!((scene.shown_to(PAID), scene.shown_to(BARE)), ("a1".to_owned(), "a1".to_owned()));
    let private = || absolute(egret.proxy(), "GET", &format!("{}/", scene.nginx.origin(PRIVATE)));
    assert_eq!(private().status, 200);
    for origin in [&at, &format!("https://{BARE}:*"), &format!("https://{PRIVATE}:*")] {
        let query = origin.replace(':', "%3A").replace('/', "%2F");
        let path = format!("/v1/projects/{PROJECT}/bindings?origin={query}");
        assert_eq!(egret.api("DELETE", &path, None).0, 200);
    }
    assert_eq!(scene.vercel(), []);
    assert_eq!((scene.shown_to(PAID), scene.shown_to(BARE)), (String::new(), String::new()));
    private().assert_failure(502, "trust.unknown_issuer");
    for id in [&leaf, &bundle] {
        succeeded(egret.mtls("DELETE", &format!("/{id}"), None));
    }
    assert_eq!(
        succeeded(egret.api("GET", &format!("/client/v4/accounts/{ACCOUNT}/mtls_certificates"), None)),
        json!([])
    );
}
