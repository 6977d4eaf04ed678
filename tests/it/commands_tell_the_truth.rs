//! The command line: what it prints, what it exits with, and what it does not offer.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::harness::clients::{Client, Job};
use crate::harness::egret::{Egret, Setup, program};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::world::World;
use crate::harness::{PATIENCE, run_within, stdout_of};

fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = run_within(PATIENCE, command);
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

fn json(command: &mut Command) -> Value {
    let text = stdout_of(command);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the test's own paths are text")
}

#[test]
fn certs_lists_uploads_shows_and_deletes() {
    let world = World::new();
    let name = "api.partner.test";
    let nginx = Nginx::start(&[Site::demanding(&[name], &world.server(&[name]), &world.partner.pem())]);
    let egret = Setup::new(&world).hosts(&[name]).start();
    let pair = world.client("by-command");
    let [cert, key, ca] = pair.write(&world.path("."));
    let origin = nginx.origin(name);
    let files = ["--cert", text(&cert), "--key", text(&key), "--ca", text(&ca)];
    let upload = [&["certs", "upload", "--project", "default", "--origin", &origin, "--json"], &files[..]].concat();
    let uploaded = json(&mut egret.cli(&upload));
    let id = uploaded["certId"].as_str().unwrap_or_else(|| panic!("a certId: {uploaded}")).to_owned();
    let answer = Client::Curl.send(&Job::get(&origin).through(egret.proxy()).trusting(&egret.ca()));
    assert_eq!(answer.seen("subject"), pair.subject());

    let listed = json(&mut egret.cli(&["certs", "list", "--json"])).to_string();
    assert!(listed.contains(&id) && listed.contains(&origin), "{listed}");
    // Without --json, for a person.
    let listed = stdout_of(&mut egret.cli(&["certs", "list"]));
    assert!(listed.contains(&id) && listed.contains(&origin), "{listed}");
    let shown = json(&mut egret.cli(&["certs", "show", &id, "--json"])).to_string();
    assert!(shown.contains("by-command") && !shown.contains("PRIVATE KEY"), "{shown}");
    stdout_of(&mut egret.cli(&["certs", "delete", &id]));
    let (status, answer) = egret.api("GET", "/v1/projects/default/client-cert", None);
    assert_eq!((status, answer["clientCerts"].as_array().map(Vec::len)), (200, Some(0)), "{answer}");
    let (code, said) = run(&mut egret.cli(&["certs", "show", &id]));
    assert_eq!(code, Some(1), "{said}");
    // A wrong file is named, with what it holds.
    let wrong = ["certs", "upload", "--cert", text(&key), "--key", text(&cert), "--ca", text(&ca)];
    let (code, said) = run(&mut egret.cli(&wrong));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("key") && !said.contains(&pair.key[40..80]), "{said}");
}

#[test]
fn certs_says_when_no_egret_answers() {
    let world = World::new();
    let egret = Setup::new(&world).start();
    let mut cli = egret.cli(&["certs", "list"]);
    let url = format!("http://{}", egret.management);
    drop(egret);
    let (code, said) = run(&mut cli);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&url), "names the address: {said}");
}

#[test]
fn ca_path_and_show_name_the_interception_ca() {
    let world = World::new();
    // Before any egret has run: the path is made when it is asked for.
    let data = world.path("fresh");
    let mut cli = program();
    cli.args(["ca", "path"]).env("EGRET_DATA_DIR", &data).env("EGRET_URL", "http://127.0.0.1:9");
    let path = stdout_of(&mut cli).trim().to_owned();
    let pem = std::fs::read_to_string(&path).expect("a file");
    assert!(pem.contains("BEGIN CERTIFICATE") && !pem.contains("PRIVATE"), "{pem}");
    let egret = Setup::new(&world).start();
    assert_eq!(egret.ca(), egret.ca(), "the same every time");
    let shown = stdout_of(&mut egret.cli(&["ca", "show"]));
    assert!(!shown.contains("PRIVATE"), "{shown}");
    assert!(json(&mut egret.cli(&["ca", "show", "--json"])).is_object());
    // A CA that ends with the command that prints it would be trusted for nothing.
    let memory = world.write("memory.toml", "[store]\nbackend = \"memory\"\n");
    let offline = ["ca", "show", "--config", text(&memory), "--url", "http://127.0.0.1:9"];
    let (code, said) = run(program().args(offline).env("EGRET_DATA_DIR", &data));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("memory store keeps no CA") && !said.contains("BEGIN CERTIFICATE"), "{said}");
}

#[test]
fn check_accepts_a_good_file_and_names_every_fault_of_a_bad_one() {
    let world = World::new();
    // Kept: its folder goes with it.
    let setup = Setup::new(&world).project("payments");
    let good = setup.write();
    let (code, said) = run(program().args(["check", "--config", text(&good)]));
    assert_eq!(code, Some(0), "{said}");
    // As the unit and images name it.
    let elsewhere = world.path("elsewhere");
    let (_, said) = run(program().args(["check", "--config", text(&good)]).env("EGRET_DATA_DIR", &elsewhere));
    assert!(said.contains(text(&elsewhere)), "{said}");
    let bad = world.write(
        "bad.toml",
        "[management]\nlisten = \"127.0.0.1:0\"\n\n[[listeners]]\nname = \"dev\"\nlisten = \"not an address\"\nmode = \"forward\"\nproject = \"default\"\n\n[egress]\ndeny = [\"http://plain.test\"]\n",
    );
    let (code, said) = run(program().args(["check", "--config", text(&bad)]));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("bad.toml:6") && said.contains("bad.toml:11"), "every complaint with file and line: {said}");
    let unknown = world.write("unknown.toml", "profile = \"local\"\nprofil = \"local\"\n");
    let (code, said) = run(program().args(["check", "--config", text(&unknown)]));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("unknown.toml:2") && said.contains("profil"), "{said}");
    let (code, said) = run(program().args(["serve", "--config", text(&unknown)]));
    assert_eq!(code, Some(2), "serve judges alike: {said}");
}

#[test]
fn the_example_configuration_is_valid() {
    let (code, said) = run(program().arg("check").arg("--config").arg(crate::harness::repository("config/egret.toml")));
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn status_shows_listeners_and_days_left() {
    let world = World::new();
    let egret = Setup::new(&world)
        .listener("first", "forward", "project = \"default\"")
        .listener("second", "sidecar", "project = \"default\"\norigin = \"https://one.test\"")
        .start();
    let id = egret.upload("default", Some("https://one.test"), &world.client("one"));
    let status = json(&mut egret.cli(&["status", "--json"]));
    assert_eq!(status["certificates"], egret.api("GET", "/v1/status", None).1["certificates"]);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"), "{status}");
    let listeners = status["listeners"].as_array().expect("listeners");
    let listed: Vec<_> = listeners.iter().map(|l| (l["name"].as_str(), l["mode"].as_str())).collect();
    assert_eq!(listed, [(Some("first"), Some("forward")), (Some("second"), Some("sidecar"))]);
    assert_eq!(listeners[0]["address"], egret.proxy().to_string());
    let certificate = &status["certificates"][0];
    assert_eq!((&certificate["id"], &certificate["origin"]), (&id.into(), &"https://one.test".into()), "{status}");
    assert!(matches!(certificate["daysLeft"].as_i64(), Some(59 | 60)), "{status}");
    let shown = stdout_of(&mut egret.cli(&["status"]));
    assert!(shown.contains("first") && shown.contains("one.test"), "{shown}");
    is_alive_and_ready(&egret);
}

fn is_alive_and_ready(egret: &Egret) {
    for path in ["/healthz", "/readyz"] {
        assert_eq!(egret.api_as("", "GET", path, None).0, 200, "{path} needs no token");
    }
}

#[test]
fn a_variable_that_is_set_to_nothing_is_not_set() {
    let world = World::new();
    let mut check = program();
    check.arg("check").env("EGRET_CONFIG", "").env("EGRET_DATA_DIR", "").env("HOME", world.path("."));
    let (code, said) = run(&mut check);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("none, the defaults"), "{said}");
    let egret = Setup::new(&world).start();
    json(egret.cli(&["certs", "list", "--json"]).env("EGRET_PROJECT", "").env("EGRET_CONFIG", ""));
    // Said by a flag, it is a mistake.
    assert_eq!(run(program().args(["check", "--config", ""])).0, Some(2));
}

#[test]
fn demo_exits_0_and_shows_what_the_origin_saw() {
    let world = World::new();
    let output = run_within(Duration::from_secs(60), program().arg("demo").current_dir(world.path(".")));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("CN="), "a subject: {said}");
    assert_eq!(std::fs::read_dir(world.path(".")).expect("a folder").count(), 0, "leaves nothing behind");
}

#[test]
fn the_gateway_profile_does_not_start_yet() {
    let world = World::new();
    let serve = ["serve", "--profile", "gateway", "--proxy", "127.0.0.1:0", "--management", "127.0.0.1:0"];
    let (code, said) = run(program().args(serve).env("EGRET_DATA_DIR", world.path("data")));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("gateway") && said.contains("not available yet"), "{said}");
    let file = world.write("gateway.toml", "profile = \"gateway\"\n");
    assert_eq!(run(program().args(["check", "--config", text(&file)])).0, Some(2));
}

#[test]
fn wrong_usage_exits_with_2_and_help_lists_only_what_exists() {
    assert_eq!(run(program().arg("serv")).0, Some(2));
    assert_eq!(run(program().args(["serve", "--no-such-flag"])).0, Some(2));
    let help = stdout_of(program().arg("--help"));
    for there in ["serve", "demo", "run", "env", "certs", "tokens", "ca", "check", "explain", "status", "store"] {
        assert!(help.contains(&format!("\n  {there} ")), "{there}: {help}");
    }
    for later in ["probe", "audit", "etcd"] {
        assert!(!help.contains(&format!("\n  {later} ")), "{later} does not exist yet: {help}");
    }
}

#[test]
fn flags_alone_make_a_working_proxy() {
    let world = World::new();
    let plain = crate::harness::origin::Origin::plain(|conversation, _| conversation.answer("200 OK", "", "reached"));
    let mut serve = program();
    serve
        .args(["serve", "--proxy", "127.0.0.1:0", "--management", "127.0.0.1:0", "--data-dir"])
        .arg(world.path("data"));
    let mut process = crate::harness::Process::spawn(
        serve.env("HOME", world.path(".")).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()),
    );
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(process.0.stdout.take().expect("piped")));
    let first = lines.next().expect("a line").expect("text");
    let address =
        first.strip_prefix("proxy listening on ").and_then(|rest| rest.split(' ').next()).expect("an address");
    assert!(lines.next().expect("a line").expect("text").starts_with("management listening on http://127.0.0.1:"));
    let reply = crate::harness::wire::absolute(
        address.parse().expect("HOST:PORT"),
        "GET",
        &format!("http://127.0.0.1:{}/", plain.port()),
    );
    assert_eq!(reply.text(), "reached");
}

#[test]
fn a_taken_port_is_named() {
    let world = World::new();
    let egret = Setup::new(&world).start();
    let taken = egret.proxy().to_string();
    let mut serve = program();
    serve.args(["serve", "--proxy", &taken, "--management", "127.0.0.1:0", "--data-dir"]).arg(world.path("data"));
    let (code, said) = run(&mut serve);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&taken), "{said}");
}
