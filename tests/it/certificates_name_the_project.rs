//! `auth = "mtls"`: the caller's certificate names the project, and nobody gets in without one.

use std::path::PathBuf;

use serde_json::json;

use crate::harness::certificates::{Authority, Pair};
use crate::harness::clients::curl_command;
use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::wire::{Wire, client_config};
use crate::harness::world::World;
use crate::harness::{PATIENCE, run_within};
use crate::listeners_speak_tls::tls;

const NAME: &str = "api.partner.test";

struct Scene {
    world: World,
    nginx: Nginx,
    egret: Egret,
    callers: Authority,
    root: PathBuf,
}

fn scene() -> Scene {
    let world = World::new();
    let callers = Authority::root("callers");
    let nginx = Nginx::start(&[Site::demanding(&[NAME], &world.server(&[NAME]), &world.partner.pem())]);
    let keys = format!("auth = \"mtls\"\n{}", tls(&world, Some(&callers.pem())));
    let egret = Setup::new(&world)
        .listener("forward", "forward", &keys)
        .section("[[projects]]\nname = \"alpha\"\nid = \"prj_alpha\"")
        .section("[[projects]]\nname = \"beta\"")
        .section("[[projects]]\nname = \"twice\"\nteam = { slug = \"one\" }")
        .section("[[projects]]\nname = \"twice\"\nteam = { slug = \"two\" }")
        .hosts(&[NAME])
        .start();
    for project in ["alpha", "beta", "default"] {
        egret.upload(project, Some(&nginx.origin(NAME)), &world.client(&format!("{project}-client")));
    }
    let root = world.write("root.crt", &world.root.pem());
    Scene { world, nginx, egret, callers, root }
}

impl Scene {
    /// What curl prints as a caller with this certificate: the origin's answer, or egret's.
    fn get(&self, caller: Option<&Pair>) -> Result<String, String> {
        let mut curl = curl_command();
        let proxy = format!("https://localhost:{}", self.egret.listener("forward").port());
        curl.args(["--proxy", &proxy, "--proxy-cacert"]).arg(&self.root);
        if let Some(pair) = caller {
            let [cert, key, _] = pair.write(&self.world.path(""));
            curl.arg("--proxy-cert").arg(cert).arg("--proxy-key").arg(key);
        }
        // Absolute form: lifted by the binding of the project that was named.
        let output = run_within(PATIENCE, curl.arg(self.nginx.origin(NAME).replace("https://", "http://")));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn caller(&self, common: &str, dns: &[&str], uris: &[&str]) -> Pair {
        self.callers.caller(common, dns, uris)
    }
}

#[test]
fn the_first_kind_of_name_in_the_certificate_decides() {
    let scene = scene();
    for (common, dns, uris, project) in [
        ("beta", &["beta"][..], &["urn:egret:project:alpha"][..], "alpha"),
        ("beta", &[], &["spiffe://corp/x", "urn:egret:project:prj_alpha"], "alpha"),
        ("alpha", &["beta"], &["spiffe://corp/x"], "beta"),
        ("alpha", &["nothing.corp.test", "beta"], &[], "beta"),
        ("alpha", &["prj_alpha", "alpha"], &[], "alpha"),
        ("beta", &[], &[], "beta"),
    ] {
        let seen = scene.get(Some(&scene.caller(common, dns, uris)));
        assert!(
            seen.as_ref().is_ok_and(|seen| seen.contains(&format!("CN={project}-client"))),
            "{dns:?} {uris:?} {seen:?}"
        );
    }
}

#[test]
fn exactly_one_project_must_be_meant() {
    let scene = scene();
    for (common, dns, uris) in [
        ("gamma", &[][..], &[][..]),
        ("alpha", &["gamma"], &[]),
        ("alpha", &["alpha", "beta"], &[]),
        ("twice", &[], &[]),
        ("alpha", &[], &["urn:egret:project:"]),
        ("alpha", &[], &["urn:egret:project:alpha", "urn:egret:project:beta"]),
        ("alpha", &[], &["urn:egret:project:%61%"]),
    ] {
        let said = scene.get(Some(&scene.caller(common, dns, uris))).expect("an answer of egret's");
        assert!(said.contains("\"caller.forbidden\""), "{common} {dns:?} {uris:?}: {said}");
        assert!(!said.contains("beta-client"), "{said}");
    }
}

#[test]
fn without_a_certificate_of_the_ca_there_is_no_handshake() {
    let scene = scene();
    assert!(scene.get(None).is_err());
    assert!(scene.get(Some(&scene.world.partner.client("alpha"))).is_err(), "issued by somebody else");
    assert!(scene.get(Some(&scene.world.server(&["alpha"]))).is_err(), "a server's");
    let (_, status) = scene.egret.api("GET", "/v1/status", None);
    assert_eq!(status["counters"]["client_handshakes_failed"], 3);
    assert_eq!(status["counters"]["exchanges"], 0);
}

#[test]
fn an_old_connection_does_not_outlive_its_project() {
    let scene = scene();
    let (status, answer) = scene.egret.api("POST", "/v1/projects", Some(&json!({ "name": "gone" })));
    assert_eq!(status, 200, "{answer}");
    scene.egret.upload("gone", Some(&scene.nginx.origin(NAME)), &scene.world.client("first-client"));
    let caller = scene.caller("x", &[], &["urn:egret:project:gone"]);
    let wire = Wire::connect(scene.egret.listener("forward"));
    let mut wire = wire.tls_as("localhost", &scene.world.root.pem(), &caller).expect("taken");
    let authority = format!("{NAME}:{}", scene.nginx.port());
    let mut get = || wire.request("GET", &format!("https://{authority}/"), &authority);
    assert_eq!(get().seen("subject"), "CN=first-client");
    assert_eq!(scene.egret.api("DELETE", "/v1/projects/gone", None).0, 200);
    get().assert_failure(403, "caller.forbidden");
    let (status, answer) = scene.egret.api("POST", "/v1/projects", Some(&json!({ "name": "gone", "id": "prj_again" })));
    assert_eq!(status, 200, "{answer}");
    scene.egret.upload("gone", Some(&scene.nginx.origin(NAME)), &scene.world.client("second-client"));
    assert_eq!(get().seen("subject"), "CN=second-client", "the name means another project now");
}

/// TLS inside TLS, with the identity of the project that the outer certificate names.
#[test]
fn a_tunnel_is_intercepted_for_the_project_of_its_caller() {
    let scene = scene();
    let ca = scene.egret.ca_pem();
    let authority = format!("{NAME}:{}", scene.nginx.port());
    for project in ["alpha", "beta"] {
        let wire = Wire::connect(scene.egret.listener("forward"));
        let wire = wire.tls_as("localhost", &scene.world.root.pem(), &scene.caller(project, &[], &[])).expect("taken");
        let tunnel = wire.connected(&authority).expect("accepted");
        let mut inside = tunnel.tls(NAME, &ca).expect("egret's leaf");
        assert_eq!(inside.request("GET", "/", &authority).seen("subject"), format!("CN={project}-client"));
    }
}

/// A resumed session has no certificate of its own: what the first handshake verified goes on to count.
#[test]
fn a_resumed_session_speaks_for_the_same_project() {
    let scene = scene();
    let authority = format!("{NAME}:{}", scene.nginx.port());
    let config = client_config(&scene.world.root.pem(), Some(&scene.caller("alpha", &[], &[])));
    let get = || {
        let wire = Wire::connect(scene.egret.listener("forward")).tls_with("localhost", config.clone());
        let mut wire = wire.expect("taken");
        let resumed = wire.resumed;
        (wire.request("GET", &format!("https://{authority}/"), &authority).seen("subject"), resumed)
    };
    assert_eq!(get(), ("CN=alpha-client".to_owned(), false));
    assert_eq!(get(), ("CN=alpha-client".to_owned(), true));
}
