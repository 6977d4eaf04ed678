//! `listeners.tls` and `[management] tls`: clients reach egret in TLS, and what they ask for inside works as ever.

use std::net::TcpStream;
use std::path::PathBuf;

use crate::harness::clients::curl_command;
use crate::harness::egret::{Egret, Setup, TOKEN, program};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::wire::Wire;
use crate::harness::world::World;
use crate::harness::{PATIENCE, command, eventually, run_within, stdout_of};

const NAME: &str = "api.partner.test";

/// The files of a `tls = { … }`, with `localhost` and 127.0.0.1 as the listener's names.
pub(crate) fn tls(world: &World, client_ca: Option<&str>) -> String {
    let own = world.server(&["localhost", "127.0.0.1"]);
    let (cert, key) = (world.write("own.crt", &own.chain), world.write("own.key", &own.key));
    let client_ca =
        client_ca.map_or(String::new(), |pem| format!(", client_ca = {:?}", world.write("callers.crt", pem)));
    format!("tls = {{ cert = {cert:?}, key = {key:?}{client_ca} }}")
}

struct Scene {
    world: World,
    nginx: Nginx,
    egret: Egret,
    /// Vouches for the listener.
    root: PathBuf,
}

fn scene(more: &str, client_ca: impl FnOnce(&World) -> Option<String>) -> Scene {
    let world = World::new();
    let nginx = Nginx::start(&[Site::demanding(&[NAME], &world.server(&[NAME]), &world.partner.pem())]);
    let tls = tls(&world, client_ca(&world).as_deref());
    let sidecar = format!("project = \"default\"\norigin = \"{}\"\n{tls}", nginx.origin(NAME));
    let egret = Setup::new(&world)
        .listener("forward", "forward", &format!("project = \"default\"\n{tls}"))
        .listener("side", "sidecar", &sidecar)
        .section(more)
        .hosts(&[NAME])
        .start();
    egret.upload("default", Some(&nginx.origin(NAME)), &world.client("the-client"));
    let root = world.write("root.crt", &world.root.pem());
    Scene { world, nginx, egret, root }
}

#[test]
fn an_https_proxy_serves_connect_absolute_form_and_blind_tunnels() {
    let Scene { world, nginx, egret, root } = scene("", |_| None);
    let proxy = format!("https://localhost:{}", egret.listener("forward").port());
    let through = || {
        let mut curl = curl_command();
        curl.args(["--fail", "--proxy", &proxy, "--proxy-cacert"]).arg(&root);
        curl
    };
    // CONNECT, intercepted: TLS inside TLS.
    let seen = stdout_of(through().arg("--cacert").arg(egret.ca()).arg(nginx.origin(NAME)));
    assert!(seen.contains("CN=the-client"), "{seen}");
    // Absolute form, lifted.
    let seen = stdout_of(through().arg(nginx.origin(NAME).replace("https://", "http://")));
    assert!(seen.contains("CN=the-client"), "{seen}");
    // A blind tunnel to an origin without a binding.
    let open = Nginx::start(&[Site::open(&["localhost"], &world.server(&["localhost"]))]);
    let seen = stdout_of(through().arg("--cacert").arg(&root).arg(open.origin("localhost")));
    assert!(seen.contains("\"verify\":\"\"") || seen.contains("\"verify\":\"NONE\""), "{seen}");
    // A proxy that the client does not trust gets nothing to see.
    let mut distrusting = curl_command();
    let refused = run_within(PATIENCE, distrusting.args(["--proxy", &proxy]).arg(nginx.origin(NAME)));
    assert!(!refused.status.success());
}

#[test]
fn a_sidecar_speaks_tls_too() {
    let Scene { world: _world, nginx, egret, root } = scene("", |_| None);
    let mut curl = curl_command();
    curl.args(["--fail", "--http1.1", "--cacert"]).arg(&root);
    let seen = stdout_of(curl.arg(format!("https://localhost:{}/v1", egret.listener("side").port())));
    assert!(seen.contains("CN=the-client") && seen.contains(&format!("{NAME}:{}", nginx.port())), "{seen}");
    let (_, status) = egret.api("GET", "/v1/status", None);
    assert_eq!((&status["listeners"][0]["tls"], &status["listeners"][1]["tls"]), (&true.into(), &true.into()));
}

#[test]
fn a_certificate_may_be_left_out_but_a_wrong_one_is_refused() {
    let Scene { world, nginx: _nginx, egret, root } = scene("", |world| Some(world.stranger.pem()));
    let url = format!("https://localhost:{}/", egret.listener("side").port());
    let get = |pair: Option<&crate::harness::certificates::Pair>| {
        let mut curl = curl_command();
        curl.args(["--fail", "--http1.1", "--cacert"]).arg(&root).arg(&url);
        if let Some(pair) = pair {
            let [cert, key, _] = pair.write(&world.path(""));
            curl.arg("--cert").arg(cert).arg("--key").arg(key);
        }
        run_within(PATIENCE, &mut curl).status.success()
    };
    assert!(get(None));
    assert!(get(Some(&world.stranger.client("one"))));
    let failed = || egret.api("GET", "/v1/status", None).1["counters"]["client_handshakes_failed"].as_u64();
    assert_eq!(failed(), Some(0));
    assert!(!get(Some(&world.partner.client("two"))), "issued by somebody else");
    eventually("the failure is counted", || (failed() == Some(1)).then_some(()));
}

#[test]
fn openssl_agrees_on_version_alpn_and_tickets() {
    let Scene { world, nginx: _nginx, egret, root } = scene("", |_| None);
    let at = format!("127.0.0.1:{}", egret.listener("side").port());
    let session = world.path("session");
    let s_client = |arguments: &[&str]| {
        let mut client = command("openssl");
        client.args(["s_client", "-connect", &at, "-servername", "localhost", "-CAfile"]).arg(&root).args(arguments);
        let output = run_within(PATIENCE, &mut client);
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let said = s_client(&["-alpn", "h2,http/1.1"]);
    assert!(said.contains("ALPN protocol: h2") && said.contains("Verify return code: 0"), "{said}");
    assert!(s_client(&["-alpn", "http/1.1"]).contains("ALPN protocol: http/1.1"));
    assert!(s_client(&["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]).contains("alert"));
    let path = session.to_str().expect("text");
    assert!(s_client(&["-tls1_2", "-sess_out", path]).contains("New, "));
    assert!(s_client(&["-tls1_2", "-sess_in", path]).contains("Reused, "));
    // Tickets of one listener are worth nothing at another.
    let other = format!("127.0.0.1:{}", egret.listener("forward").port());
    let said = s_client(&["-tls1_2", "-sess_in", path, "-connect", &other]);
    assert!(said.contains("New, "), "{said}");
}

#[test]
fn who_stalls_in_the_handshake_keeps_nobody_out_and_is_dropped() {
    let Scene { world: _world, nginx, egret, root } = scene("[limits]\nhandshake_timeout = \"1s\"", |_| None);
    let address = egret.listener("forward");
    let stalled: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(address).expect("accepted")).collect();
    let mut garbage = Wire::connect(address);
    garbage.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut curl = curl_command();
    curl.args(["--fail", "--proxy", &format!("https://localhost:{}", address.port()), "--proxy-cacert"]).arg(&root);
    let seen = stdout_of(curl.arg(nginx.origin(NAME).replace("https://", "http://")));
    assert!(seen.contains("CN=the-client"), "{seen}");
    eventually("all of them are dropped and counted", || {
        let (_, status) = egret.api("GET", "/v1/status", None);
        let count = |name: &str| status["counters"][name].as_u64();
        (count("client_handshakes_failed") == Some(51) && count("client_connections") == Some(0)).then_some(())
    });
    drop(stalled);
}

#[test]
fn the_management_api_speaks_tls() {
    let world = World::new();
    let egret = Setup::new(&world).management(&format!("listen = \"127.0.0.1:0\"\n{}", tls(&world, None))).start();
    assert!(egret.management_url.starts_with("https://127.0.0.1:"), "{}", egret.management_url);
    let root = world.write("root.crt", &world.root.pem());
    let status = stdout_of(egret.cli(&["status", "--json"]).env("SSL_CERT_FILE", &root));
    assert!(status.contains(&format!("\"{}\"", egret.management_url)), "{status}");
    // Without the CA nobody is told the token.
    let refused = run_within(PATIENCE, &mut egret.cli(&["status"]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("SSL_CERT_FILE"), "{said}");
    // Names of the certificate are taken in Host, others are not: a rebound name has no certificate.
    let ask = |host: &str| {
        let mut curl = curl_command();
        curl.args(["--cacert", root.to_str().expect("text"), "--output", "/dev/null", "--write-out", "%{http_code}"]);
        curl.args(["-H", &format!("Authorization: Bearer {TOKEN}"), "-H", &format!("Host: {host}")]);
        stdout_of(curl.arg(format!("{}/v1/status", egret.management_url)))
    };
    assert_eq!((ask("localhost").as_str(), ask("evil.example").as_str()), ("200", "403"));
}

#[test]
fn files_that_cannot_be_used_are_told_before_anything_is_opened() {
    let world = World::new();
    let (own, other) = (world.server(&["localhost"]), world.server(&["localhost"]));
    world.write("own.crt", &own.chain);
    world.write("other.key", &other.key);
    let config = world.write(
        "egret.toml",
        "data_dir = \"data\"\n[management]\nlisten = \"127.0.0.1:0\"\n[[listeners]]\nname = \"x\"\nlisten = \"127.0.0.1:0\"\n\
         tls = { cert = \"own.crt\", key = \"other.key\" }\n",
    );
    for words in [["check", "--config"], ["serve", "--config"]] {
        let refused = run_within(PATIENCE, program().args(words).arg(&config));
        let said = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{said}");
        let complaint =
            "egret.toml:7: listeners[0].tls.key: this private key does not belong to the certificate; name the key";
        assert!(said.contains(complaint), "{said}");
    }
    assert!(!world.path("data").exists(), "nothing was touched");
}
