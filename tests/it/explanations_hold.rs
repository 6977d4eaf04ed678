//! `egret explain`: what it says is what an origin then sees, with a running egret and without.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::clients::{Client, Job};
use crate::harness::egret::{Egret, Setup, TOKEN, program};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::world::World;
use crate::harness::{PATIENCE, run_within, stdout_of};

const EXACT: &str = "exact.partner.test";
const WILD: &str = "wild.partner.test";
const OTHER: &str = "other.test";
const NONE: &str = "none.test";
const OPEN: &str = "open.test";

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = run_within(PATIENCE, command);
    (status.code(), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
}

fn explained(command: &mut Command) -> Value {
    let text = stdout_of(command.arg("--json"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Names, sizes and contents of all files of a folder.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeMap::new() };
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("the test's own folder");
        (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).expect("readable"))
    };
    entries.map(file).collect()
}

/// nginx asks for a certificate everywhere but at `OPEN`; egret has one per kind of binding.
fn scene(world: &World) -> (Nginx, Egret) {
    let mut sites: Vec<_> = [EXACT, WILD, OTHER, NONE]
        .iter()
        .map(|name| Site::asking(&[name], &world.server(&[name]), &world.partner.pem()))
        .collect();
    sites.push(Site::open(&[OPEN], &world.server(&[OPEN])));
    let nginx = Nginx::start(&sites);
    let egret = Setup::new(world).hosts(&[EXACT, WILD, OTHER, NONE, OPEN]).start();
    egret.upload("default", Some(&nginx.origin(EXACT)), &world.client("of-exact"));
    egret.upload("default", Some("https://*.partner.test:*"), &world.client("of-wildcard"));
    egret.upload("default", None, &world.client("of-project"));
    egret.bind_none("default", &nginx.origin(NONE));
    (nginx, egret)
}

#[test]
fn what_is_explained_is_what_the_origin_sees() {
    let world = World::new();
    let (nginx, egret) = scene(&world);
    let ca = egret.ca();
    for (name, rule, treatment) in [
        (EXACT, "exact", "intercepted"),
        (WILD, "wildcard", "intercepted"),
        (OTHER, "default", "askedFirst"),
        (NONE, "none", "tunnelled"),
    ] {
        let origin = nginx.origin(name);
        let told = explained(&mut egret.cli(&["explain", &format!("{origin}/path?secret=1")]));
        assert_eq!(
            (&told["rule"], &told["origin"], &told["live"]),
            (&json!(rule), &json!(origin), &json!(true)),
            "{told}"
        );
        let ways = told["ways"].as_array().expect("ways");
        let by_connect = ways.iter().find(|way| way["request"].as_str().is_some_and(|r| r.starts_with("CONNECT ")));
        assert_eq!(by_connect.expect("a forward listener")["treatment"], treatment, "{told}");
        let expected = told["certificate"]["subject"].as_str().unwrap_or("").to_owned();
        // In absolute form there is no tunnel: every selection is used. nginx prints the subject as RFC 4514 does.
        let absolute = Client::Curl.send(&Job::get(&origin).through(egret.proxy()).absolute());
        assert_eq!(absolute.seen("subject"), expected, "absolute, {told}");
        if treatment != "tunnelled" {
            let inside = Client::Curl.send(&Job::get(&origin).through(egret.proxy()).trusting(&ca));
            assert_eq!(inside.seen("subject"), expected, "CONNECT, {told}");
        }
        // Plain http to a bound origin is lifted; to one that only the default covers it is not.
        let plain = explained(&mut egret.cli(&["explain", &origin.replace("https://", "http://")]));
        let lifted = ["exact", "wildcard"].contains(&rule);
        assert_eq!(plain["outcome"] == "certificate", lifted, "{plain}");
        if lifted {
            let lifted = Client::Curl.send(&Job::get(origin.replace("https://", "http://")).through(egret.proxy()));
            assert_eq!(lifted.seen("subject"), expected, "lifted, {plain}");
        }
    }
    // Now it is known what the origins asked for.
    let told = explained(&mut egret.cli(&["explain", &nginx.origin(OTHER)]));
    assert_eq!(
        (&told["remembered"]["asked"], &told["remembered"]["presented"]),
        (&json!(true), &json!("sent")),
        "{told}"
    );
    let memory = told["remembered"]["acceptableCas"].to_string();
    assert!(memory.contains("partner"), "the CA that nginx lists: {memory}");
    let open = Client::Curl.send(
        &Job::get(nginx.origin(OPEN)).through(egret.proxy()).trusting(&world.write("root.pem", &world.root.pem())),
    );
    assert_eq!(open.seen("subject"), "");
    let told = explained(&mut egret.cli(&["explain", &nginx.origin(OPEN)]));
    assert_eq!((&told["remembered"]["asked"], &told["outcome"]), (&json!(false), &json!("certificate")), "{told}");
    let (_, said, _) = run(&mut egret.cli(&["explain", &nginx.origin(OPEN)]));
    assert!(said.contains("did not ask for a certificate"), "{said}");
    let tunnelled = told["ways"].as_array().expect("ways").iter().any(|way| way["treatment"] == "tunnelled");
    assert!(tunnelled, "no longer asked: {told}");
}

#[test]
fn a_person_is_told_in_the_first_line() {
    let world = World::new();
    let (nginx, egret) = scene(&world);
    let first = |url: &str| {
        let (code, said, _) = run(&mut egret.cli(&["explain", url]));
        assert_eq!(code, Some(0), "{said}");
        (said.lines().next().unwrap_or_default().to_owned(), said)
    };
    let origin = nginx.origin(EXACT);
    let (line, said) = first(&origin);
    assert!(line.starts_with(&format!("{origin} -> certificate cert_")), "{line}");
    assert!(line.contains(&format!("(exact binding {origin}), expires in ")) && line.ends_with(" days"), "{line}");
    assert!(said.contains("CN=of-exact") && said.contains("->  exact host and port"), "{said}");
    assert!(!said.contains("PRIVATE"), "{said}");
    let (line, _) = first(&nginx.origin(NONE));
    assert!(line.contains("no certificate: a binding says so"), "{line}");
    let (line, said) = first("http://other.test:8080/x");
    assert!(line.starts_with("http://other.test:8080 -> plain http"), "{line}");
    assert!(said.contains("request the https:// URL instead"), "{said}");
    let (code, _, said) = run(&mut egret.cli(&["explain", "https://me:hunter2@other.test"]));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("user info") && !said.contains("hunter2"), "{said}");
    let (code, _, said) = run(&mut egret.cli(&["explain", "--project", "unknown", "a.test"]));
    assert_eq!((code, said.contains("project not found")), (Some(1), true), "{said}");
    // What the command left out, the log does not have.
    first("https://other.test/secret-path?secret-query");
    assert!(!egret.log().contains("secret-"), "{}", egret.log());
}

#[test]
fn without_a_running_egret_the_store_says_the_same_and_stays_as_it_is() {
    let world = World::new();
    let (nginx, egret) = scene(&world);
    let decided = |told: &Value| {
        let of_certificate = told["certificate"]["id"].clone();
        (told["rule"].clone(), told["binding"].clone(), of_certificate, told["trace"].clone(), told["outcome"].clone())
    };
    let origins: Vec<String> = [EXACT, WILD, OTHER, NONE].iter().map(|name| nginx.origin(name)).collect();
    let ask = |egret: &Egret, url: &str| egret.cli(&["explain", url]);
    let live: Vec<Value> = origins.iter().map(|origin| explained(&mut ask(&egret, origin))).collect();
    let mut offline: Vec<Command> = origins.iter().map(|origin| ask(&egret, origin)).collect();
    let data = egret.data_dir().clone();

    // Killed: the last commits are in the log of the store, and its index is there.
    let home = egret.kill();
    let before = contents(&data);
    assert!(before.contains_key("egret.db-wal"), "{:?}", before.keys());
    for (command, live) in offline.iter_mut().zip(&live) {
        let told = explained(command);
        assert_eq!(decided(&told), decided(live), "{told}");
        assert_eq!(told["live"], false);
    }
    let after = contents(&data);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "no file comes or goes");
    for name in ["egret.db", "egret.db-wal", "key-encryption-key"] {
        assert_eq!(before[name], after[name], "{name}");
    }
    // Ended well: there is the file alone, and nothing beside it is made.
    drop(offline);
    let egret = home.start();
    let mut offline: Vec<Command> = origins.iter().map(|origin| ask(&egret, origin)).collect();
    let _home = egret.stop();
    let before = contents(&data);
    for (command, live) in offline.iter_mut().zip(&live) {
        let told = explained(command);
        assert_eq!(decided(&told), decided(live), "{told}");
        if !told["certificate"].is_null() {
            assert_eq!(told["certificate"]["status"], "sealed", "its key was not opened: {told}");
        }
    }
    assert_eq!(before, contents(&data), "not a byte is changed");
}

#[test]
fn without_egret_and_store_the_configuration_alone_says_it() {
    let world = World::new();
    let data = world.path("never");
    let pair = world.client("declared");
    let [cert, key, ca] = pair.write(&world.path("."));
    let config = world.write(
        "egret.toml",
        &format!(
            "[[certificates]]\nproject = \"default\"\norigin = \"https://declared.test\"\ncert = {cert:?}\nkey = {key:?}\nca = {ca:?}\n"
        ),
    );
    // Only the certificate is read.
    std::fs::remove_file(&key).expect("writable");
    std::fs::write(&key, "not a key, and not looked at").expect("writable");
    let cli = |url: &str| {
        let mut cli = program();
        cli.args(["explain", url, "--url", "http://127.0.0.1:9", "--config"]).arg(&config);
        cli.env("EGRET_DATA_DIR", &data).env("EGRET_TOKEN", TOKEN);
        cli
    };
    let told = explained(&mut cli("https://declared.test"));
    assert_eq!((&told["rule"], &told["outcome"]), (&json!("exact"), &json!("certificate")), "{told}");
    assert_eq!(told["binding"]["source"], "file");
    assert_eq!(told["certificate"]["subject"], pair.subject());
    assert_eq!(told["certificate"]["status"], "usable");
    assert_eq!(explained(&mut cli("https://elsewhere.test"))["outcome"], "nothing");
    let (code, said, warned) = run(&mut cli("https://declared.test"));
    assert_eq!(code, Some(0));
    assert!(said.starts_with("https://declared.test:443 -> certificate "), "{said}");
    assert!(warned.contains("no egret answers"), "{warned}");
    assert!(!data.exists(), "nothing is made");
}
