//! The management API against its own description, by programs that read nothing else.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::egret::{Setup, TOKEN};
use crate::harness::world::World;
use crate::harness::{command, repository, run_within};

const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";
const ZONE: &str = "fedcba9876543210fedcba9876543210";

/// A program of the environment that `./tests/run` makes.
fn tool(name: &str) -> PathBuf {
    let path = repository("target/openapi-venv/bin").join(name);
    assert!(path.exists(), "{} is missing; ./tests/run makes it", path.display());
    path
}

#[test]
fn the_description_is_valid_openapi() {
    let world = World::new();
    let egret = Setup::new(&world).start();
    let (status, document) = egret.api_as("", "GET", "/openapi.json", None);
    assert_eq!(status, 200);
    let file = world.write("openapi.json", &document.to_string());
    let output = run_within(Duration::from_secs(60), command(tool("openapi-spec-validator")).arg(&file));
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Every documented operation, with data that fits its schema and data that does not: no server error, and no answer
/// whose status, type, headers or body the description does not have.
#[test]
fn heavy_no_answer_is_undocumented() {
    let world = World::new();
    // Few tokens, so that what it makes soon fills all places: it meets that refusal as well.
    let payments = format!("[[projects]]\nname = \"payments\"\naccount_id = \"{ACCOUNT}\"\nzone_id = \"{ZONE}\"");
    let egret = Setup::new(&world).section(&payments).section("[limits]\nmax_tokens = 8").start();
    let certificate = egret.upload("payments", Some("https://api.example.com"), &world.client("one"));
    egret.upload("payments", None, &world.client("two"));
    let uploaded = |path: String, body: Value| {
        let (status, answer) = egret.api("POST", &path, Some(&body));
        assert_eq!(status, 200, "{answer}");
        answer["result"]["id"].as_str().expect("an id").to_owned()
    };
    let zone = format!("/client/v4/zones/{ZONE}/origin_tls_client_auth");
    let pair = world.client("zone");
    let of_zone = uploaded(zone.clone(), json!({"certificate": pair.chain, "private_key": pair.key}));
    let pair = world.client("hostnames");
    let of_hostnames =
        uploaded(format!("{zone}/hostnames/certificates"), json!({"certificate": pair.chain, "private_key": pair.key}));
    let pair = world.client("account");
    let of_account = uploaded(
        format!("/client/v4/accounts/{ACCOUNT}/mtls_certificates"),
        json!({"ca": false, "certificates": pair.chain, "private_key": pair.key}),
    );
    let config = json!({"config": [{"hostname": "api.example.com", "cert_id": of_hostnames, "enabled": true}]});
    assert_eq!(egret.api("PUT", &format!("{zone}/hostnames"), Some(&config)).0, 200);
    // One that it may revoke. Its own is in the environment, where nobody revokes it.
    let spare = json!({"name": "spare", "role": "read"});
    assert_eq!(egret.api("POST", "/v1/tokens", Some(&spare)).0, 200);
    let url = format!("http://{}", egret.management);
    let mut schemathesis = command(tool("schemathesis"));
    schemathesis
        .arg("--config-file")
        .arg(repository("tests/openapi/schemathesis.toml"))
        .args(["run", &format!("{url}/openapi.json"), "--header", &format!("Authorization: Bearer {TOKEN}")])
        .args(["--max-examples", "40", "--generation-deterministic", "--no-color"])
        .env("EGRET_PROJECT", "payments")
        .env("EGRET_CERTIFICATE", certificate)
        .env("EGRET_ACCOUNT", ACCOUNT)
        .env("EGRET_ZONE", ZONE)
        .env("EGRET_ZONE_CERTIFICATE", of_zone)
        .env("EGRET_HOSTNAME_CERTIFICATE", of_hostnames)
        .env("EGRET_ACCOUNT_CERTIFICATE", of_account)
        .env("EGRET_SPARE_TOKEN", "spare")
        // It writes a folder of its own into the current one.
        .current_dir(world.path("."));
    let output = run_within(Duration::from_secs(240), &mut schemathesis);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // All but the description itself, which it has read.
    let operations = document_operations(&egret.api_as("", "GET", "/openapi.json", None).1) - 1;
    assert!(said.contains(&format!("Tested: {operations}\n")), "every operation was tested: {said}");
    let (status, listed) = egret.api("GET", "/v1/tokens", None);
    assert_eq!(status, 200, "its own token is good for what it was: {listed}");
    assert!(listed["tokens"].as_array().is_some_and(|tokens| (1..=9).contains(&tokens.len())), "{listed}");
    // It saw much that was refused, and none of it in the log as a failure of egret's.
    let log = egret.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}

fn document_operations(document: &serde_json::Value) -> usize {
    let paths = document["paths"].as_object().expect("paths");
    paths.values().map(|item| item.as_object().map_or(0, serde_json::Map::len)).sum()
}
