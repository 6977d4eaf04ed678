//! `/metrics` read by Prometheus's own parser: its counters move as the origin saw requests; and the listener that
//! serves it without a token serves nothing else.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::Value;

use crate::harness::egret::{Egret, Setup, program};
use crate::harness::origin::{Next, Origin, Wants};
use crate::harness::wire::{Reply, Wire, absolute};
use crate::harness::world::World;
use crate::harness::{Process, command, eventually, repository};

const NAME: &str = "api.partner.test";

/// One request on a connection of its own.
fn ask(address: SocketAddr, method: &str, path: &str, fields: &str) -> Reply {
    let mut wire = Wire::connect(address);
    wire.send(format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{fields}\r\n"));
    wire.reply(method)
}

/// Samples and types, as Prometheus's Python client reads them.
fn parsed(format: &str, text: &str) -> Value {
    let python = repository("target/test-venv/bin/python3");
    assert!(python.exists(), "{} is missing; ./tests/run makes it", python.display());
    let mut script = command(python);
    script.arg(repository("tests/clients/read_metrics.py")).arg(format);
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python starts");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads all");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the parser refuses this:\n{text}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn samples(address: SocketAddr) -> Value {
    let reply = ask(address, "GET", "/metrics", "");
    assert_eq!(reply.status, 200, "{}", reply.text());
    parsed("openmetrics", &reply.text())["samples"].take()
}

fn with_health(world: &World) -> (Egret, SocketAddr) {
    let egret = Setup::new(world).section("[health]\nlisten = \"127.0.0.1:0\"").hosts(&[NAME]).start();
    let (_, status) = egret.api("GET", "/v1/status", None);
    let health = status["health"].as_str().and_then(|url| url.strip_prefix("http://")).expect("it says where");
    let health = health.parse().expect("HOST:PORT");
    (egret, health)
}

#[test]
fn counters_move_as_the_origin_saw_requests() {
    let world = World::new();
    let wants = world.partner.pem();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::CertificateOf(&wants), |conversation, head| {
        let status = if head.target() == "/lost" { "404 Not Found" } else { "200 OK" };
        conversation.answer(status, "", "seen")?;
        // Another connection next time, so that a session is resumed.
        Ok(if head.target() == "/last" { Next::Close } else { Next::KeepAlive })
    });
    let (egret, health) = with_health(&world);
    let id = egret.upload("default", Some(&origin.origin(NAME)), &world.client("client"));
    let before = samples(health);
    for path in ["/", "/", "/lost", "/last", "/"] {
        let reply = absolute(egret.proxy(), "GET", &format!("{}{path}", origin.origin(NAME)));
        assert!(matches!(reply.status, 200 | 404), "{}", reply.text());
    }
    let nobody = crate::harness::nginx::free_address();
    assert_eq!(absolute(egret.proxy(), "GET", &format!("http://{nobody}/")).status, 502);
    assert_eq!(absolute(egret.proxy(), "GET", "http://169.254.169.254/").status, 403);
    let seen = origin.seen();
    let requests: usize = seen.iter().map(|connection| connection.heads.len()).sum();
    let resumed = seen.iter().filter(|connection| connection.resumed).count();
    assert_eq!((requests, seen.len(), resumed), (5, 2, 1), "{seen:?}");

    let after = samples(health);
    let moved = |name: &str| {
        let value = |all: &Value| all[name].as_f64().unwrap_or_else(|| panic!("{name} is not in {all:#}"));
        value(&after) - value(&before)
    };
    let answered = |class: &str| moved(&format!("egret_requests_total{{class=\"{class}\",code=\"\",side=\"origin\"}}"));
    let refused = |class: &str, code: &str| {
        moved(&format!("egret_requests_total{{class=\"{class}\",code=\"{code}\",side=\"egret\"}}"))
    };
    assert_eq!((answered("2xx"), answered("4xx"), answered("5xx")), (4.0, 1.0, 0.0));
    assert_eq!((refused("5xx", "net.refused"), refused("4xx", "policy.address_denied")), (1.0, 1.0));
    let handshakes = |result: &str| moved(&format!("egret_upstream_handshakes_total{{result=\"{result}\"}}"));
    assert_eq!((handshakes("full"), handshakes("resumed"), handshakes("failed")), (1.0, 1.0, 0.0));
    assert_eq!((moved("egret_upstream_connections_opened_total"), moved("egret_upstream_reused_total")), (2.0, 3.0));
    let (_, status) = egret.api("GET", "/v1/status", None);
    assert_eq!((&status["counters"]["exchanges"], &status["counters"]["exchanges_failed"]), (&7.into(), &2.into()));

    // What stands there now.
    eventually("the last connection waits for a request", || {
        let now = samples(health);
        (now["egret_upstream_idle_connections"] == 1.0 && now["egret_upstream_connections"] == 1.0).then_some(())
    });
    let project = egret.api("GET", "/v1/projects", None).1["projects"][0]["id"].as_str().expect("an id").to_owned();
    let left = &after[format!("egret_certificate_expires_in_seconds{{certificate=\"{id}\",project=\"{project}\"}}")];
    let days = left.as_f64().expect("a number") / 86_400.0;
    assert!((59.0..=60.1).contains(&days), "{days}");
    assert_eq!(after[format!("egret_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))], 1.0);
    assert!(after["process_start_time_seconds"].as_f64().is_some_and(|at| at > 1.7e9));
    assert!(!after.to_string().contains(NAME), "names of origins are no labels");
}

#[test]
fn both_texts_are_what_their_formats_allow() {
    let world = World::new();
    let (egret, health) = with_health(&world);
    let open = ask(health, "GET", "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n");
    assert!(open.header("content-type").is_some_and(|t| t.starts_with("application/openmetrics-text; version=1.0.0")));
    let plain = ask(health, "GET", "/metrics", "Accept: text/plain;version=0.0.4\r\n");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let (open, plain) = (parsed("openmetrics", &open.text()), parsed("text", &plain.text()));
    let names = |all: &Value| all["samples"].as_object().expect("samples").keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&open), names(&plain), "the same series");
    assert_eq!(open["types"]["egret_requests"], "counter");
    assert_eq!(open["types"]["egret_client_connections"], "gauge");
    // The management API has them too, for who may read.
    let (status, _) = egret.api("GET", "/metrics", None);
    assert_eq!(status, 200);
    assert_eq!(ask(egret.management, "GET", "/metrics", "").status, 401);
}

#[test]
fn the_health_listener_takes_no_token_and_serves_nothing_else() {
    let world = World::new();
    let (egret, health) = with_health(&world);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(ask(health, "GET", path, "").status, 200, "{path}");
        let head = ask(health, "HEAD", path, "");
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        assert_eq!(ask(health, "POST", path, "Content-Length: 0\r\n").status, 405, "{path}");
    }
    let token = format!("Authorization: Bearer {}\r\n", crate::harness::egret::TOKEN);
    for path in ["/", "/v1/status", "/v1/tokens", "/v1/projects", "/v1/ca", "/openapi.json"] {
        assert_eq!(ask(health, "GET", path, &token).status, 404, "{path}");
    }
    // A kubelet asks by the address of the pod, under any name.
    let mut wire = Wire::connect(health);
    assert_eq!(wire.request("GET", "/readyz", "egret-7d9f.pods.example").status, 200);
    // It is egret's own, and so no origin.
    let refused = absolute(egret.proxy(), "GET", &format!("http://{health}/metrics"));
    refused.assert_failure(403, "policy.address_denied");
    let log = egret.log();
    assert!(!log.contains("/readyz"), "probes come for ever, and fill no log: {log}");
}

#[test]
fn readiness_ends_before_the_listeners_do() {
    let world = World::new();
    let setup =
        Setup::new(&world).section("[health]\nlisten = \"127.0.0.1:0\"").section("[limits]\ndrain_delay = \"1h\"");
    let egret = setup.start();
    let (_, status) = egret.api("GET", "/v1/status", None);
    let health: SocketAddr = status["health"].as_str().unwrap().trim_start_matches("http://").parse().unwrap();
    assert_eq!(ask(health, "GET", "/readyz", "").status, 200);
    egret.terminate();
    eventually("it says that it drains", || (ask(health, "GET", "/readyz", "").status == 503).then_some(()));
    assert_eq!(ask(health, "GET", "/healthz", "").status, 200, "alive all the same");
    assert_eq!(samples(health)["egret_ready"], 0.0);
}

#[test]
fn standard_output_says_where_after_the_management_line() {
    let world = World::new();
    let file = world.write(
        "egret.toml",
        "[management]\nlisten = \"127.0.0.1:0\"\n[health]\nlisten = \"127.0.0.1:0\"\n[store]\nbackend = \"memory\"\n",
    );
    let mut serve = program();
    serve.args(["serve", "--proxy", "127.0.0.1:0", "--config"]).arg(file);
    let mut process = Process::spawn(serve.stdout(Stdio::piped()).stderr(Stdio::null()));
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(process.0.stdout.take().expect("piped")));
    let mut next = || lines.next().expect("a line").expect("text");
    assert!(next().starts_with("proxy listening on 127.0.0.1:"));
    assert!(next().starts_with("management listening on http://127.0.0.1:"));
    let line = next();
    let health = line.strip_prefix("health listening on http://").unwrap_or_else(|| panic!("{line}"));
    assert_eq!(ask(health.parse().expect("HOST:PORT"), "GET", "/healthz", "").status, 200);
}
