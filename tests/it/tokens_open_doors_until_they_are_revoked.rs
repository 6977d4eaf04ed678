//! Tokens made through the API: shown once, in force at once, there after a restart, and good for nothing once they
//! are revoked or have expired, on connections that are already open too.

use serde_json::{Value, json};

use crate::harness::clients::curl_command;
use crate::harness::egret::{Egret, Setup};
use crate::harness::origin::{Origin, Wants};
use crate::harness::wire::{Reply, Wire};
use crate::harness::world::World;
use crate::harness::{PATIENCE, eventually, run_within, stdout_of};

const NAME: &str = "api.partner.test";

fn origin(world: &World) -> Origin {
    let wants = world.partner.pem();
    Origin::start(&world.server(&[NAME]), &Wants::CertificateOf(&wants), |conversation, _| {
        let subject = conversation.subject.clone().unwrap_or_default();
        conversation.answer("200 OK", "", &subject)
    })
}

fn setup(world: &World) -> Setup {
    Setup::new(world).listener("many", "forward", "auth = \"token\"").project("alpha").project("beta").hosts(&[NAME])
}

/// Makes one and gives back its text.
fn created(egret: &Egret, body: &Value) -> String {
    let (status, answer) = egret.api("POST", "/v1/tokens", Some(body));
    assert_eq!(status, 200, "{answer}");
    answer["token"].as_str().expect("a token").to_owned()
}

fn revoke(egret: &Egret, name: &str) {
    assert_eq!(egret.api("DELETE", &format!("/v1/tokens/{name}"), None), (200, json!({})));
}

/// A request on a connection that is kept.
fn ask(wire: &mut Wire, url: &str, token: &str) -> Reply {
    let authority = url.trim_start_matches("https://");
    wire.send(format!("GET {url}/ HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: Bearer {token}\r\n\r\n"));
    wire.reply("GET")
}

#[test]
fn by_command_from_its_making_to_its_end() {
    let world = World::new();
    let origin = origin(&world);
    let egret = setup(&world).start();
    egret.upload("alpha", Some(&origin.origin(NAME)), &world.client("alpha-client"));
    let create = ["tokens", "create", "app", "--role", "proxy", "--project", "alpha", "--ttl", "8h"];
    let made = run_within(PATIENCE, &mut egret.cli(&create));
    let (token, hint) = (String::from_utf8(made.stdout).unwrap(), String::from_utf8(made.stderr).unwrap());
    assert!(made.status.success(), "{hint}");
    let token = token.strip_suffix('\n').expect("one line").to_owned();
    assert!(token.starts_with("egret_") && !token.contains('\n'), "standard output has the token and nothing else");
    assert!(hint.contains("only time") && hint.contains("egret tokens revoke app") && !hint.contains(&token), "{hint}");

    let curl = || {
        let mut curl = curl_command();
        curl.arg("--fail").arg("--cacert").arg(egret.ca());
        curl.env("HTTPS_PROXY", format!("http://alpha:{token}@{}", egret.proxy())).arg(origin.origin(NAME));
        curl
    };
    assert_eq!(stdout_of(&mut curl()), "alpha-client");
    let listed = stdout_of(&mut egret.cli(&["tokens", "list"]));
    let row = listed.lines().find(|line| line.starts_with("app ")).expect("it is listed");
    assert!(row.contains("proxy") && row.contains("alpha") && row.contains("api"), "{listed}");
    assert!(listed.contains("EGRET_TOKEN") && !listed.contains(&token), "{listed}");
    let listed: Value = serde_json::from_str(&stdout_of(&mut egret.cli(&["tokens", "list", "--json"]))).unwrap();
    assert_eq!(listed, egret.api("GET", "/v1/tokens", None).1);

    let refused = run_within(PATIENCE, &mut egret.cli(&["tokens", "create", "app", "--role", "read"]));
    assert_eq!(refused.status.code(), Some(1), "the name is taken");
    let refused = run_within(PATIENCE, &mut egret.cli(&["tokens", "create", "b", "--role", "read", "--ttl", "soon"]));
    assert_eq!(refused.status.code(), Some(2), "usage");
    let refused = run_within(PATIENCE, &mut egret.cli(&["tokens", "revoke", "EGRET_TOKEN"]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("environment variable EGRET_TOKEN"), "{said}");

    assert_eq!(stdout_of(&mut egret.cli(&["tokens", "revoke", "app"])), "revoked: app\n");
    let after = run_within(PATIENCE, &mut curl());
    assert!(!after.status.success(), "{}", String::from_utf8_lossy(&after.stdout));
    let log = egret.log();
    assert!(log.contains("token revoked") && !log.contains(&token), "the log has names and no text");
}

#[test]
fn a_restart_keeps_them_and_their_text_rests_nowhere() {
    let world = World::new();
    let egret = setup(&world).start();
    let kept = created(&egret, &json!({"name": "kept", "role": "read", "projects": ["beta"], "email": "a@b.test"}));
    let gone = created(&egret, &json!({"name": "gone", "role": "read"}));
    revoke(&egret, "gone");
    let list = egret.api("GET", "/v1/tokens", None);
    let data_dir = egret.data_dir().clone();
    // As it was acknowledged, so it is after a kill.
    let home = egret.kill();
    for entry in std::fs::read_dir(&data_dir).expect("a folder").map(|entry| entry.expect("readable").path()) {
        let bytes = std::fs::read(&entry).expect("a file");
        let holds = |what: &str| crate::harness::wire::find(&bytes, what.as_bytes()).is_some();
        assert!(!holds(&kept) && !holds(&gone) && !holds("a@b.test"), "{}", entry.display());
    }
    let egret = home.start();
    assert_eq!(egret.api("GET", "/v1/tokens", None), list);
    assert_eq!(egret.api_as(&kept, "GET", "/v1/projects/beta/bindings", None).0, 200);
    assert_eq!(egret.api_as(&kept, "GET", "/v1/projects/alpha/bindings", None).0, 403);
    assert_eq!(egret.api_as(&gone, "GET", "/v1/status", None).0, 401);
}

#[test]
fn with_the_memory_store_they_end_with_the_process() {
    let world = World::new();
    let egret = setup(&world).without_disk().start();
    let token = created(&egret, &json!({"name": "fleeting", "role": "read"}));
    assert_eq!(egret.api_as(&token, "GET", "/v1/status", None).0, 200);
    let egret = egret.stop().start();
    assert_eq!(egret.api_as(&token, "GET", "/v1/status", None).0, 401);
}

#[test]
fn a_revoked_token_stops_on_connections_that_are_open() {
    let world = World::new();
    let origin = origin(&world);
    let url = origin.origin(NAME);
    let egret = setup(&world).start();
    egret.upload("alpha", Some(&url), &world.client("alpha-client"));
    let token = created(&egret, &json!({"name": "app", "role": "proxy", "projects": ["alpha"]}));
    let other = created(&egret, &json!({"name": "other", "role": "proxy", "projects": ["alpha"]}));
    let authority = url.trim_start_matches("https://");

    let mut kept = Wire::connect(egret.proxy());
    assert_eq!(ask(&mut kept, &url, &token).text(), "alpha-client");
    // A tunnel has no credential inside: it was opened with one.
    let tunnel = |token: &str| {
        let mut wire = Wire::connect(egret.proxy());
        wire.send(format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: Bearer {token}\r\n\r\n"
        ));
        assert_eq!(wire.reply("CONNECT").status, 200);
        wire.tls(NAME, &egret.ca_pem()).expect("egret's leaf")
    };
    let (mut inside, mut spared) = (tunnel(&token), tunnel(&other));
    assert_eq!(inside.request("GET", "/", authority).text(), "alpha-client");
    assert_eq!(spared.request("GET", "/", authority).text(), "alpha-client");
    let arrived = origin.heads().len();

    revoke(&egret, "app");
    ask(&mut kept, &url, &token).assert_failure(407, "caller.unauthenticated");
    let refused = inside.request("GET", "/", authority);
    refused.assert_failure(403, "caller.forbidden");
    assert!(refused.text().contains("revoked") && inside.is_closed(), "{}", refused.text());
    assert_eq!(origin.heads().len(), arrived, "nothing more has arrived");
    assert_eq!(spared.request("GET", "/", authority).text(), "alpha-client", "another token is untouched");
    assert_eq!(ask(&mut kept, &url, &other).text(), "alpha-client", "and the connection takes another credential");
}

#[test]
fn an_expired_token_stops_on_connections_that_are_open() {
    let world = World::new();
    let origin = origin(&world);
    let url = origin.origin(NAME);
    let egret = setup(&world).start();
    egret.upload("alpha", Some(&url), &world.client("alpha-client"));
    let token = created(&egret, &json!({"name": "brief", "role": "proxy", "projects": ["alpha"], "ttl": 1}));
    let reader = created(&egret, &json!({"name": "reader", "role": "read", "ttl": 1}));
    // On one connection all the time: what it remembers ends as well.
    let mut kept = Wire::connect(egret.proxy());
    let refused = eventually("the token expires", || Some(ask(&mut kept, &url, &token)).filter(|r| r.status != 200));
    refused.assert_failure(407, "caller.unauthenticated");
    eventually("and that of the API", || (egret.api_as(&reader, "GET", "/v1/status", None).0 == 401).then_some(()));
    let (_, listed) = egret.api("GET", "/v1/tokens", None);
    assert!(!listed.to_string().contains("brief") && !listed.to_string().contains("reader"), "{listed}");
    // Its name is free again.
    created(&egret, &json!({"name": "brief", "role": "proxy"}));
}

#[test]
fn a_token_of_the_file_means_the_declared_project_and_no_namesake() {
    const CI: &str = "token-of-the-file-limited-to-alpha-0123456789";
    let world = World::new();
    let file = world.write("ci.token", CI);
    let token = format!("[[tokens]]\nname = \"ci\"\nfile = {file:?}\nrole = \"admin\"\nprojects = [\"alpha\"]");
    let egret = setup(&world).section(&token).start();
    let team = json!({"name": "alpha", "id": "prj_other", "team": {"slug": "others"}});
    assert_eq!(egret.api_as(CI, "POST", "/v1/projects", Some(&team)).0, 403, "a namesake is another project");
    assert_eq!(egret.api("POST", "/v1/projects", Some(&team)).0, 200);
    assert_eq!(egret.api_as(CI, "GET", "/v1/projects/alpha/bindings", None).0, 200);
    assert_eq!(egret.api_as(CI, "GET", "/v1/projects/prj_other/bindings", None).0, 403);
    let (_, listed) = egret.api_as(CI, "GET", "/v1/tokens", None);
    let names: Vec<_> = listed["tokens"].as_array().unwrap().iter().map(|t| t["name"].clone()).collect();
    assert_eq!(names, ["ci"], "an administrator of one project sees no more");
}
