//! `openssl s_server` and `openssl s_client`: a second TLS implementation with its own opinions.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;

use super::certificates::Pair;
use super::{Process, command, run_within};

/// A running `openssl s_server -www`, which answers with a page that shows the client's certificate.
pub(crate) struct Server {
    _process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Server {
    /// One that demands a certificate of `client_ca` and ends the handshake with an alert otherwise.
    /// `version` is `-tls1_2` or `-tls1_3`.
    pub(crate) fn demanding(version: &str, pair: &Pair, client_ca: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("s_server-").tempdir().expect("a temporary folder");
        let [crt, key, _] = pair.write(folder.path());
        let clients = folder.path().join("clients.pem");
        std::fs::write(&clients, client_ca).expect("writable");
        let log = std::fs::File::create(folder.path().join("stderr")).expect("writable");
        let mut process = Process::spawn(
            command("openssl")
                .args(["s_server", "-accept", "127.0.0.1:0", version, "-www", "-Verify", "2", "-verify_return_error"])
                .arg("-cert")
                .arg(crt)
                .arg("-key")
                .arg(key)
                .arg("-CAfile")
                .arg(clients)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(log),
        );
        let mut lines = BufReader::new(process.0.stdout.take().expect("piped")).lines();
        let address = lines
            .find_map(|line| line.expect("text").strip_prefix("ACCEPT ")?.parse().ok())
            .expect("openssl s_server says where it listens");
        // It goes on writing; nobody may let the pipe fill.
        std::thread::spawn(move || lines.for_each(drop));
        Self { _process: process, address, _folder: folder }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// `https://name:port`.
    pub(crate) fn origin(&self, name: &str) -> String {
        format!("https://{name}:{}", self.port())
    }
}

/// The PEM of the leaf that answers for `host:port`, through a proxy's CONNECT or directly.
pub(crate) fn leaf_seen_by_s_client(proxy: Option<SocketAddr>, host: &str, port: u16) -> String {
    let mut client = command("openssl");
    client.args(["s_client", "-servername", host]);
    match proxy {
        Some(proxy) => client.args(["-proxy", &proxy.to_string(), "-connect", &format!("{host}:{port}")]),
        None => client.args(["-connect", &format!("127.0.0.1:{port}")]),
    };
    let output = run_within(Duration::from_secs(20), &mut client);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let start = text.find("-----BEGIN CERTIFICATE-----");
    let end = text.find("-----END CERTIFICATE-----");
    match (start, end) {
        (Some(start), Some(end)) => text[start..end].to_owned() + "-----END CERTIFICATE-----\n",
        _ => panic!("s_client saw no certificate: {text} {}", String::from_utf8_lossy(&output.stderr)),
    }
}
