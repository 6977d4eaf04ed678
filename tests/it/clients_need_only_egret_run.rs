//! The client matrix: each client as its users run it, under `egret run --` and with nothing else set, against an
//! nginx that demands a certificate. One test per client, so that a failure names it; each asserts the subject that
//! nginx wrote down, with an egret that runs (no credential) and with one that `egret run` starts (which asks for one).
//! What a client needs beyond `egret run` is what its test passes, and stands in the README's table.

use std::time::Duration;

use crate::harness::laptop::{Laptop, client, python, row, said};
use crate::harness::run_within;

// --- the command line ------------------------------------------------------------------------------------------------

#[test]
fn curl() {
    row(|laptop| {
        let body = laptop.serves(&["curl", "--http1.1", "-sSf", &laptop.https("/")]);
        assert!(body.contains("CN=the-laptop"), "{body}");
        laptop.serves(&["curl", "-sSf", &laptop.http("/")]);
    });
}

#[test]
fn wget() {
    row(|laptop| {
        laptop.serves(&["wget", "-q", "-O", "-", &laptop.https("/")]);
        laptop.serves(&["wget", "-q", "-O", "-", &laptop.http("/")]);
    });
}

/// What all others here would meet: nginx refuses who comes without a certificate.
#[test]
fn without_egret_run_the_same_curl_is_refused() {
    let laptop = Laptop::start();
    let roots = laptop.world.write("servers.pem", &laptop.world.root.pem());
    let there = format!("::127.0.0.1:{}", laptop.nginx.port());
    let mut curl = laptop.bare(&["curl", "-sSf", "--connect-to", &there, "--cacert"]);
    let output = run_within(Duration::from_secs(30), curl.arg(roots).arg(laptop.https("/")));
    assert_eq!(output.status.code(), Some(22), "an HTTP error: {}", said(&output));
    let seen = laptop.nginx.seen();
    assert_eq!((seen[0].subject.as_str(), seen[0].status.as_str()), ("", "400"), "{seen:?}");
}

// --- Python ----------------------------------------------------------------------------------------------------------

fn by_python(kind: &str) {
    row(|laptop| {
        laptop.serves(&[&python(), &client("fetch.py"), kind, &laptop.https("/")]);
        laptop.serves(&[&python(), &client("fetch.py"), kind, &laptop.http("/")]);
    });
}

#[test]
fn python_urllib() {
    by_python("urllib");
}

#[test]
fn python_requests() {
    by_python("requests");
}

#[test]
fn python_httpx() {
    by_python("httpx");
}

#[test]
fn python_httpx_async() {
    by_python("httpx-async");
}

/// aiohttp reads the variables if its session is told to.
#[test]
fn python_aiohttp_needs_trust_env() {
    by_python("aiohttp");
    let laptop = Laptop::start();
    let mut plain = laptop.run(&[&python(), &client("fetch.py"), "aiohttp-plain", &laptop.https("/")]);
    assert_eq!(laptop.never_arrives(&mut plain), Some(1));
}

// --- Node ------------------------------------------------------------------------------------------------------------

fn by_node(kind: &str) {
    row(|laptop| {
        laptop.serves(&["node", &client("fetch.mjs"), kind, &laptop.https("/")]);
        laptop.serves(&["node", &client("fetch.mjs"), kind, &laptop.http("/")]);
    });
}

/// Node reads proxy variables since 22.21 and 24.5; before, it asks the system's resolver for the name and fails.
fn by_node_itself(kind: &str) {
    let reads = "process.exit(process.allowedNodeEnvironmentFlags.has('--use-env-proxy') ? 0 : 1)";
    let laptop = Laptop::start();
    let reads = run_within(Duration::from_secs(30), &mut laptop.bare(&["node", "-e", reads])).status.success();
    if reads {
        by_node(kind);
    } else {
        let mut node = laptop.run(&["node", &client("fetch.mjs"), kind, &laptop.https("/")]);
        assert_eq!(laptop.never_arrives(&mut node), Some(3), "failed, and not for want of a proxy");
    }
}

#[test]
fn node_https_needs_a_newer_node() {
    by_node_itself("https");
}

#[test]
fn node_fetch_needs_a_newer_node() {
    by_node_itself("fetch");
}

#[test]
fn node_https_with_https_proxy_agent() {
    by_node("https-agent");
}

#[test]
fn node_fetch_with_env_http_proxy_agent() {
    by_node("undici");
}

#[test]
fn node_axios() {
    by_node("axios");
}

// --- compiled languages ----------------------------------------------------------------------------------------------

#[test]
fn heavy_go() {
    row(|laptop| {
        let binary = laptop.go();
        laptop.serves(&[&binary, &laptop.https("/")]);
        laptop.serves(&[&binary, &laptop.http("/")]);
    });
}

/// Java's HttpClient takes proxy and trust store from properties, and a credential only from code.
#[test]
fn heavy_java_http_client_needs_a_listener_without_credential() {
    let laptop = Laptop::start();
    let fetch = client("Fetch.java");
    laptop.serves(&["java", &fetch, &laptop.https("/")]);
    laptop.serves(&["java", &fetch, &laptop.http("/")]);
    let laptop = laptop.stop();
    let url = laptop.https("/");
    assert_eq!(laptop.never_arrives(&mut laptop.run(&["java", &fetch, &url])), Some(1));
    laptop.serves_command(&mut laptop.run_with(&["--without-credential"], &["java", &fetch, &url]));
}

// --- a browser -------------------------------------------------------------------------------------------------------

/// Chromium reads the proxy from the environment, a credential from nowhere, and its roots from the NSS database of
/// the home.
#[test]
fn heavy_chromium_needs_its_ca_in_nss_and_a_listener_without_credential() {
    let laptop = Laptop::start();
    // An ordinary user's browser has a sandbox; root's has none.
    let sandbox = if rustix::process::geteuid().is_root() { "--no-sandbox" } else { "--disable-gpu" };
    let chromium = |laptop: &Laptop, options: &[&str], url: &str| {
        laptop.run_with(options, &["chromium", "--headless", "--disable-gpu", sandbox, "--dump-dom", url])
    };
    let by_http = laptop.serves_command(&mut chromium(&laptop, &[], &laptop.http("/")));
    assert!(by_http.contains("CN=the-laptop"), "{by_http}");
    laptop.never_arrives(&mut chromium(&laptop, &[], &laptop.https("/")));

    let install = run_within(Duration::from_secs(30), &mut laptop.egret_command(&["ca", "install", "--nss"]));
    assert!(install.status.success(), "{}", said(&install));
    let by_https = laptop.serves_command(&mut chromium(&laptop, &[], &laptop.https("/")));
    assert!(by_https.contains("CN=the-laptop"), "{by_https}");

    let laptop = laptop.stop();
    laptop.never_arrives(&mut chromium(&laptop, &[], &laptop.https("/")));
    let by_https = laptop.serves_command(&mut chromium(&laptop, &["--without-credential"], &laptop.https("/")));
    assert!(by_https.contains("CN=the-laptop"), "{by_https}");
}
