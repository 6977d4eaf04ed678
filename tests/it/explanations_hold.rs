//! `egret explain`: what it says is what an origin then sees, with a running egret and without.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::clients::{Client, Job};
use crate::harness::egret::{Egret, Setup, TOKEN, program};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::origin::{Origin, Wants};
use crate::harness::parents::Squid;
use crate::harness::wire::{Reply, Wire, absolute};
use crate::harness::world::World;
use crate::harness::{PATIENCE, run_within, stdout_of};
use crate::listeners_speak_tls::tls;

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

/// What is told of one request at one listener.
#[track_caller]
fn way<'a>(told: &'a Value, listener: &str, request: &str) -> &'a Value {
    let ways = told["ways"].as_array().expect("ways");
    let found = ways.iter().find(|way| {
        way["listener"] == listener && way["request"].as_str().is_some_and(|asked| asked.starts_with(request))
    });
    found.unwrap_or_else(|| panic!("no {request} at {listener}: {told:#}"))
}

#[test]
fn plain_http_is_lifted_where_it_is_said_to_be() {
    const BOUND: &str = "bound.test";
    let world = World::new();
    let partner = world.partner.pem();
    // One asks for certificates and serves without one; the other speaks no TLS at all.
    let secure = Origin::start(&world.server(&[BOUND, OTHER]), &Wants::PerhapsCertificateOf(&partner), |talk, _| {
        let subject = talk.subject.clone().unwrap_or_else(|| "nobody".to_owned());
        talk.answer("200 OK", "", &subject)
    });
    let clear = Origin::plain(|talk, _| talk.answer("200 OK", "", "in the clear"));
    let project = |name: &str, keys: &str| format!("[[projects]]\nname = \"{name}\"\n{keys}");
    let egret = Setup::new(&world)
        .listener("always", "forward", "project = \"always\"")
        .listener("never", "forward", "project = \"never\"")
        .listener("registered", "forward", "project = \"registered\"")
        .section(&project("always", "lift = \"always\""))
        .section(&project("never", "lift = \"never\""))
        .section(&project("registered", ""))
        .hosts(&[BOUND, OTHER])
        .start();
    for project in ["always", "never", "registered"] {
        let id = egret.upload(project, Some(&format!("https://{BOUND}:*")), &world.client(&format!("of-{project}")));
        // Beside it: none to the port that is in the clear, and a binding that says no to the other port.
        egret.bind_none(project, &clear.origin(BOUND));
        let no = json!({ "origin": clear.origin(OTHER), "certId": id, "lift": false });
        assert_eq!(egret.api("PUT", &format!("/v1/projects/{project}/bindings"), Some(&no)).0, 200);
    }
    let in_the_clear = "in the clear".to_owned();
    for (project, origin, host, seen) in [
        ("always", &secure, BOUND, Some("of-always")),
        ("always", &secure, OTHER, Some("nobody")),
        ("always", &clear, BOUND, None),
        ("always", &clear, OTHER, None),
        ("never", &clear, BOUND, None),
        ("never", &clear, OTHER, None),
        ("registered", &secure, BOUND, Some("of-registered")),
        ("registered", &clear, BOUND, None),
        ("registered", &clear, OTHER, None),
    ] {
        let (authority, proxy) = (format!("{host}:{}", origin.port()), egret.listener(project));
        let url = format!("http://{authority}/");
        let told = explained(&mut egret.cli(&["explain", "--project", project, &url]));
        let absolutely: Reply = absolute(proxy, "GET", &url);
        let mut tunnel = Wire::tunnel(proxy, &authority).expect("accepted");
        let inside = tunnel.request("GET", "/", &authority);
        let expected = seen.map_or_else(|| in_the_clear.clone(), str::to_owned);
        assert_eq!([absolutely.text(), inside.text()], [expected.clone(), expected], "{told:#}");
        let [by_url, by_tunnel] = match seen {
            Some(_) => ["lifted", "lifted"],
            None => ["plain", "tunnelled"],
        };
        assert_eq!(way(&told, project, "GET http://")["treatment"], by_url, "{told:#}");
        assert_eq!(way(&told, project, "CONNECT ")["treatment"], by_tunnel, "{told:#}");
        assert_eq!(told["outcome"] == "plain", seen.is_none(), "{told:#}");
    }
    // Why, in the first line.
    let first = |project: &str, url: String| {
        let (code, said, _) = run(&mut egret.cli(&["explain", "--project", project, &url]));
        assert_eq!(code, Some(0), "{said}");
        said.lines().next().unwrap_or_default().to_owned()
    };
    let line = first("never", format!("http://{BOUND}:{}", secure.port()));
    assert!(line.ends_with("the project says lift = \"never\""), "{line}");
    let line = first("registered", clear.origin(OTHER).replace("https://", "http://"));
    assert!(line.ends_with("its binding says lift = false"), "{line}");
}

#[test]
fn every_kind_of_listener_is_told_of_and_does_what_is_told() {
    let world = World::new();
    let nginx = Nginx::start(&[Site::asking(&[EXACT], &world.server(&[EXACT]), &world.partner.pem())]);
    let origin = nginx.origin(EXACT);
    let callers = crate::harness::certificates::Authority::root("callers");
    let sidecar = format!("project = \"default\"\norigin = \"{origin}\"");
    let plain_tls = tls(&world, None);
    let (root, caller) = (world.write("root.crt", &world.root.pem()), callers.caller("default", &[], &[]));
    let demanding = {
        let client_ca = world.write("own-callers.crt", &callers.pem());
        plain_tls.replace(" }", &format!(", client_ca = {client_ca:?} }}"))
    };
    let egret = Setup::new(&world)
        .listener("tls", "forward", &format!("project = \"default\"\n{plain_tls}"))
        .listener("mtls", "forward", &format!("auth = \"mtls\"\n{demanding}"))
        .listener_at("unix:forward.sock", "socket", "forward", "project = \"default\"")
        .listener_at("unix:side.sock", "side", "sidecar", &sidecar)
        .listener("elsewhere", "forward", "project = \"other\"")
        .project("other")
        .hosts(&[EXACT])
        .start();
    egret.upload("default", Some(&origin), &world.client("of-exact"));
    let told = explained(&mut egret.cli(&["explain", &origin]));
    let ways: Vec<_> = told["ways"].as_array().expect("ways").iter().map(|way| &way["listener"]).collect();
    assert_eq!(ways, ["tls", "tls", "tls", "mtls", "mtls", "mtls", "socket", "socket", "socket", "side"], "{told:#}");
    for listener in ["tls", "mtls", "socket"] {
        assert_eq!(way(&told, listener, "CONNECT ")["treatment"], "intercepted");
        assert_eq!(way(&told, listener, "GET https://")["treatment"], "tls");
        assert_eq!(way(&told, listener, "GET http://")["treatment"], "lifted");
    }
    assert_eq!(way(&told, "side", "GET / ")["treatment"], "tls");

    // And so it is: lifted, and intercepted.
    let [cert, key, _] = caller.write(&world.path(""));
    let through = |listener: &str| {
        let mut curl = crate::harness::clients::curl_command();
        let proxy = format!("https://localhost:{}", egret.listener(listener).port());
        curl.args(["--fail", "--proxy", &proxy, "--proxy-cacert"]).arg(&root);
        curl.arg("--proxy-cert").arg(&cert).arg("--proxy-key").arg(&key);
        curl
    };
    let ca = egret.ca();
    for listener in ["tls", "mtls"] {
        for url in [origin.clone(), origin.replace("https://", "http://")] {
            let seen = stdout_of(through(listener).arg("--cacert").arg(&ca).arg(&url));
            assert!(seen.contains("CN=of-exact"), "{listener} {url}: {seen}");
        }
    }
    let authority = origin.trim_start_matches("https://");
    for url in [format!("{origin}/"), format!("http://{authority}/")] {
        let reply = Wire::connect_unix(&egret.socket("socket")).request("GET", &url, authority);
        assert_eq!(reply.seen("subject"), "CN=of-exact", "{url}");
    }
    let tunnel = Wire::connect_unix(&egret.socket("socket")).connected(authority).expect("accepted");
    let mut inside = tunnel.tls(EXACT, &egret.ca_pem()).expect("egret's leaf");
    assert_eq!(inside.request("GET", "/", authority).seen("subject"), "CN=of-exact");
    let reply = Wire::connect_unix(&egret.socket("side")).request("GET", "/", "whatever");
    assert_eq!(reply.seen("subject"), "CN=of-exact");
}

#[test]
fn the_way_out_is_told_and_taken_with_a_running_egret_and_without() {
    const FAR: &str = "far.partner.test";
    const NEAR: &str = "near.partner.test";
    let world = World::new();
    let server = world.server(&[FAR, NEAR]);
    let nginx = Nginx::start(&[Site::asking(&[FAR, NEAR], &server, &world.partner.pem())]);
    let squid = Squid::start(&[FAR]);
    let (user, password) = (crate::harness::parents::USER, crate::harness::parents::PASSWORD);
    let file = world.write("proxy.password", password);
    let parent = format!("http://127.0.0.1:{}", squid.port());
    let egret = Setup::new(&world)
        .host(NEAR, "127.0.0.1")
        .section(&format!(
            "[[egress.parent]]\nurl = \"http://{user}@127.0.0.1:{}\"\npassword = {{ file = {file:?} }}\nno_proxy = [\"{NEAR}\"]",
            squid.port()
        ))
        .start();
    egret.upload("default", Some("https://*.partner.test:*"), &world.client("of-wildcard"));
    let far = json!({
        "summary": format!("through {parent} (egress.parent[0]: it is for everything)"),
        "parent": parent, "rule": 0, "resolvedByParent": true, "why": "it is for everything",
    });
    let near = json!({
        "summary": "direct (egress.parent[0]: no_proxy names it)",
        "rule": 0, "resolvedByParent": false, "why": "no_proxy names it",
    });
    let check = |live: bool, cli: &dyn Fn(&[&str]) -> Command| {
        for (name, route) in [(FAR, &far), (NEAR, &near)] {
            let words = ["explain", &nginx.origin(name)];
            let told = explained(&mut cli(&words));
            assert_eq!((&told["route"], &told["live"]), (route, &json!(live)), "{told:#}");
            let (_, said, _) = run(&mut cli(&words));
            let line = said.lines().find(|line| line.trim_start().starts_with("route")).expect("the way is shown");
            assert!(line.ends_with(route["summary"].as_str().expect("text")), "{line}");
            assert!(!said.contains(user) && !said.contains(password), "{said}");
            assert_eq!(said.contains("resolves the name"), name == FAR, "{said}");
        }
    };
    check(true, &|words| egret.cli(words));
    for name in [FAR, NEAR] {
        let reply = absolute(egret.proxy(), "GET", &format!("{}/", nginx.origin(name)));
        assert_eq!(reply.seen("subject"), "CN=of-wildcard", "{name}");
    }
    let home = egret.stop();
    // Only what was asked for went through it; explaining asked nobody.
    assert_eq!(squid.logged(1), [format!("200 CONNECT {FAR}:{} {user}", nginx.port())]);
    let nobody = format!("http://{}", crate::harness::nginx::free_address());
    check(false, &|words| {
        let mut cli = home.cli(words);
        cli.env("EGRET_URL", &nobody).env("EGRET_TOKEN", TOKEN);
        cli
    });
    assert_eq!(squid.log().len(), 1, "nothing was dialled");
}
