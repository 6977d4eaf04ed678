//! What was acknowledged is there after a restart; what is damaged is named while the rest serves; and what needs no
//! disk asks for none.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::json;

use crate::harness::clients::{Client, Job};
use crate::harness::egret::{Egret, Setup, TOKEN, upload_body};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::wire::absolute;
use crate::harness::world::World;
use crate::harness::{command, eventually, repository, stdout_of};

const NAMES: [&str; 3] = ["one.test", "two.test", "three.test"];

fn nginx(world: &World) -> Nginx {
    Nginx::start(&[Site::demanding(&NAMES, &world.server(&NAMES), &world.partner.pem())])
}

fn subject(egret: &Egret, nginx: &Nginx, name: &str) -> String {
    absolute(egret.proxy(), "GET", &format!("{}/", nginx.origin(name))).seen("subject")
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

#[test]
fn a_restart_keeps_certificates_bindings_and_the_interception_ca() {
    let world = World::new();
    let nginx = nginx(&world);
    let egret = Setup::new(&world).hosts(&NAMES).start();
    egret.upload("default", Some(&nginx.origin("one.test")), &world.client("one"));
    egret.upload("default", None, &world.client("wide"));
    egret.bind_none("default", &nginx.origin("three.test"));
    let ca = egret.ca_pem();
    let list = egret.api("GET", "/v1/projects/default/client-cert", None);
    let bindings = egret.api("GET", "/v1/projects/default/bindings", None);
    let egret = egret.stop().start();
    assert_eq!(egret.api("GET", "/v1/projects/default/client-cert", None), list);
    assert_eq!(egret.api("GET", "/v1/projects/default/bindings", None), bindings);
    assert_eq!(egret.ca_pem(), ca);
    assert_eq!(subject(&egret, &nginx, "one.test"), "CN=one");
    assert_eq!(subject(&egret, &nginx, "two.test"), "CN=wide");
    let none = absolute(egret.proxy(), "GET", &format!("{}/", nginx.origin("three.test")));
    assert!(none.text().contains("No required SSL certificate was sent"), "{}", none.text());
}

#[test]
fn the_data_directory_is_for_its_owner_alone_and_holds_no_key_in_clear() {
    let world = World::new();
    let nginx = nginx(&world);
    let egret = Setup::new(&world).hosts(&NAMES).start();
    let pair = world.client("sealed");
    egret.upload("default", Some(&nginx.origin("one.test")), &pair);
    egret.ca_pem();
    let data_dir = egret.data_dir().clone();
    let _home = egret.stop();
    assert_eq!(mode(&data_dir), 0o700);
    let body: String = pair.key.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).expect("PEM");
    // The private scalar alone: the rest of PKCS#8 is public.
    let scalar = &der[36..68];
    for entry in std::fs::read_dir(&data_dir).expect("a folder").map(|entry| entry.expect("readable").path()) {
        let bytes = std::fs::read(&entry).expect("a file");
        let found = |what: &[u8]| crate::harness::wire::find(&bytes, what).is_some();
        assert!(!found(scalar) && !found(&pair.key.as_bytes()[30..90]), "{} holds the key", entry.display());
        assert!(!found(TOKEN.as_bytes()), "{} holds the token", entry.display());
        // The interception CA's certificate is public; its key is nowhere in clear.
        assert!(!found(b"PRIVATE KEY"), "{} holds a key", entry.display());
        if entry.extension().is_none_or(|extension| extension != "pem" && extension != "crt") {
            assert_eq!(mode(&entry), 0o600, "{}", entry.display());
        }
    }
}

#[test]
fn without_any_token_the_first_start_makes_one() {
    let world = World::new();
    let egret = Setup::new(&world).without_token().start();
    let file = egret.data_dir().join("admin.token");
    assert_eq!(mode(&file), 0o600);
    let token = std::fs::read_to_string(&file).expect("text").trim().to_owned();
    assert!(token.len() >= 32, "{} characters", token.len());
    assert!(egret.log().contains("admin.token"), "says where: {}", egret.log());
    assert!(!egret.log().contains(&token));
    assert_eq!(egret.api_as(&token, "GET", "/v1/status", None).0, 200);
    assert_eq!(egret.api_as("guess", "GET", "/v1/status", None).0, 401);
    // The command line finds it by itself, and a second start keeps it.
    stdout_of(&mut egret.cli(&["status", "--json"]));
    let egret = egret.stop().start();
    assert_eq!(egret.api_as(&token, "GET", "/v1/status", None).0, 200);
}

#[test]
fn the_memory_store_needs_nowhere_to_write() {
    let world = World::new();
    let nginx = nginx(&world);
    let setup = Setup::new(&world).hosts(&NAMES).without_disk();
    let data_dir = setup.data_dir().clone();
    let egret = setup.start();
    egret.upload("default", Some(&nginx.origin("one.test")), &world.client("fleeting"));
    assert_eq!(subject(&egret, &nginx, "one.test"), "CN=fleeting");
    assert!(!data_dir.exists());
    let egret = egret.stop().start();
    let (_, list) = egret.api("GET", "/v1/projects/default/client-cert", None);
    assert_eq!(list, json!({ "clientCerts": [] }));
}

#[test]
fn declared_certificates_serve_and_are_read_only() {
    let world = World::new();
    let nginx = nginx(&world);
    let [cert, key, ca] = world.client("declared").write(&world.path("."));
    let declared = format!(
        "[[certificates]]\nproject = \"payments\"\norigin = \"{}\"\ncert = {cert:?}\nkey = {key:?}\nca = {ca:?}",
        nginx.origin("one.test")
    );
    let egret = Setup::new(&world)
        .listener("forward", "forward", "project = \"payments\"")
        .project("payments")
        .section(&declared)
        .hosts(&NAMES)
        .start();
    assert_eq!(subject(&egret, &nginx, "one.test"), "CN=declared");
    let (_, list) = egret.api("GET", "/v1/projects/payments/client-cert", None);
    let entry = &list["clientCerts"][0];
    assert_eq!(entry["origin"], nginx.origin("one.test"));
    let id = entry["id"].as_str().expect("an id");
    let file = cert.file_name().and_then(|name| name.to_str()).expect("text");
    let (status, answer) = egret.api("DELETE", &format!("/v1/projects/payments/client-cert/{id}"), None);
    assert_eq!(status, 403, "{answer}");
    assert!(answer.to_string().contains(file) || answer.to_string().contains("egret.toml"), "names the file: {answer}");
    let body = upload_body(Some(&nginx.origin("one.test")), &world.client("intruder"));
    let (status, answer) = egret.api("POST", "/v1/projects/payments/client-cert", Some(&body));
    assert_eq!(status, 403, "{answer}");
    // Other slots of the project are free.
    egret.upload("payments", Some(&nginx.origin("two.test")), &world.client("uploaded"));
    assert_eq!(subject(&egret, &nginx, "two.test"), "CN=uploaded");
    assert_eq!(subject(&egret, &nginx, "one.test"), "CN=declared");
}

#[test]
fn a_damaged_record_is_named_while_the_rest_serves() {
    let world = World::new();
    let nginx = nginx(&world);
    let egret = Setup::new(&world).hosts(&NAMES).start();
    let ids: Vec<_> =
        NAMES.iter().map(|name| egret.upload("default", Some(&nginx.origin(name)), &world.client(name))).collect();
    let data_dir = egret.data_dir().clone();
    let home = egret.stop();
    let damage = repository("tests/clients/damage_record.py");
    let damaged = stdout_of(command("python3").arg(damage).arg(&data_dir).arg(&ids[1]));
    assert!(!damaged.trim().is_empty(), "something was damaged");
    let egret = home.start();
    assert_eq!(subject(&egret, &nginx, "one.test"), "CN=one.test");
    assert_eq!(subject(&egret, &nginx, "three.test"), "CN=three.test");
    let log = eventually("the log names it", || Some(egret.log()).filter(|log| log.contains("quarantine")));
    assert!(log.contains(&ids[1]), "{log}");
    // Its origin gets nothing, rather than something else; and the place can be filled again.
    let reply = absolute(egret.proxy(), "GET", &format!("{}/", nginx.origin("two.test")));
    assert_ne!(reply.status, 200, "{}", reply.text());
    egret.upload("default", Some(&nginx.origin("two.test")), &world.client("again"));
    assert_eq!(subject(&egret, &nginx, "two.test"), "CN=again");
    let answer = Client::Curl.send(&Job::get(nginx.origin("two.test")).through(egret.proxy()).trusting(&egret.ca()));
    assert_eq!(answer.seen("subject"), "CN=again");
}
