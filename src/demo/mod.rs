//! `egret demo`: the main job in a few seconds, with nothing but this program.
//!
//! An origin that demands a client certificate, the proxy and the API run in this process on free
//! ports, with a temporary folder and no network. Every step says what the origin saw, and the exit
//! code is 0 only if every step did what it should.

mod client;
mod origin;
mod pki;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, ensure};
use http::{Method, StatusCode};
use serde_json::json;

use crate::app;
use crate::config::{self, Overlay};
use client::Answer;

const PARTNER: &str = "api.partner.localhost";
const TOKEN: &str = "demo-token";

/// Runs the demo; true if every step did what it should.
///
/// # Errors
/// When it could not even be set up.
pub async fn run() -> anyhow::Result<bool> {
    let folder = TemporaryFolder::new()?;
    let partner = pki::Authority::new()?;
    let origin = origin::start(&partner, PARTNER).await?;
    std::fs::write(folder.path().join("partner-ca.pem"), partner.pem())?;
    // Nothing of the caller's environment may change what the demo shows.
    let environment = |name: &str| (name == config::TOKEN_VARIABLE).then(|| TOKEN.to_owned());
    let file = folder.path().join("egret.toml");
    let loaded = config::load_text(CONFIGURATION, &file, &Overlay::default(), &environment)?;
    let bound = app::build(loaded.settings).await?;
    let demo = Demo {
        url: format!("https://{PARTNER}:{}/", origin.port()),
        origin: format!("https://{PARTNER}:{}", origin.port()),
        port: origin.port(),
        proxy: bound.listeners()[0].address.tcp().context("the demo listens on TCP")?,
        api: bound.management().address.tcp().context("the demo listens on TCP")?,
        colour: std::io::stdout().is_terminal(),
    };
    let outcome = demo.steps(&partner).await;
    bound.shut_down().await;
    match outcome {
        Ok(()) => {
            demo.say("\nEvery step did what it should. Next: `egret serve`, then `egret certs upload --help`.");
            Ok(true)
        }
        Err(error) => {
            demo.say(&format!("\nThis step did not do what it should: {error:#}"));
            Ok(false)
        }
    }
}

/// The partner's CA stands for the public one that a real partner's server certificate comes from.
const CONFIGURATION: &str = r#"
data_dir = "data"
workers = 1

[management]
listen = "127.0.0.1:0"

[[listeners]]
name = "demo"
listen = "127.0.0.1:0"
mode = "forward"
project = "default"

[trust]
anchors = ["partner-ca.pem"]

[telemetry]
access_log = false
"#;

struct Demo {
    url: String,
    origin: String,
    port: u16,
    proxy: SocketAddr,
    api: SocketAddr,
    colour: bool,
}

impl Demo {
    async fn steps(&self, partner: &pki::Authority) -> anyhow::Result<()> {
        self.say(&format!(
            "egret demo: everything runs in this process, on loopback\n\n  \
             partner   {}   demands a client certificate\n  proxy     http://{}\n  API       http://{}",
            self.origin, self.proxy, self.api
        ));

        self.step(1, "a request through the proxy, with no certificate registered");
        let answer = client::absolute(self.proxy, &self.url).await?;
        let problem = answer.json();
        self.show(&answer, &format!("{} {}", problem["code"].as_str().unwrap_or("?"), answer.status));
        if let Some(fix) = problem["fix"].as_str() {
            self.note(&format!("egret says what to do: {fix}"));
        }
        ensure!(answer.status == StatusCode::BAD_GATEWAY, "the partner should have refused");
        ensure!(problem["code"] == "mtls.required_none_registered", "the reason should have been named");

        self.step(2, "register a certificate for this origin through the API");
        let first = self.upload(partner, "payments-2026").await?;
        self.note(&format!("POST /v1/projects/default/client-cert -> {first}"));

        self.step(3, "the same request again");
        self.expect("payments-2026", client::absolute(self.proxy, &self.url).await?)?;

        self.step(4, "the same as an https client does it: CONNECT, TLS inside, verified with egret's local CA");
        let ca = client::api(self.api, TOKEN, Method::GET, "/v1/ca", None).await?;
        let pem = ca.json()["pem"].as_str().context("GET /v1/ca gives a pem")?.to_owned();
        self.expect("payments-2026", client::tunnelled(self.proxy, PARTNER, self.port, &pem).await?)?;

        self.step(5, "plain http:// to the same host: lifted to TLS, because a certificate is bound to it");
        let plain = self.url.replace("https://", "http://");
        self.expect("payments-2026", client::absolute(self.proxy, &plain).await?)?;

        self.step(6, "replace the certificate: the next request carries the new one, whatever connections were open");
        let second = self.upload(partner, "payments-2027").await?;
        ensure!(second["updated"] == true, "the API should say that the slot was occupied");
        self.expect("payments-2027", client::absolute(self.proxy, &self.url).await?)?;

        self.step(7, "delete it: nothing is presented any more");
        let id = second["certId"].as_str().context("an upload answers with a certId")?;
        let path = format!("/v1/projects/default/client-cert/{id}");
        let deleted = client::api(self.api, TOKEN, Method::DELETE, &path, None).await?;
        ensure!(deleted.status == StatusCode::OK, "DELETE should have answered 200, not {}", deleted.status);
        let answer = client::absolute(self.proxy, &self.url).await?;
        self.show(&answer, &format!("{} {}", answer.json()["code"].as_str().unwrap_or("?"), answer.status));
        ensure!(answer.json()["code"] == "mtls.required_none_registered", "the partner should have refused again");
        Ok(())
    }

    async fn upload(&self, partner: &pki::Authority, name: &str) -> anyhow::Result<serde_json::Value> {
        let issued = partner.client(name)?;
        let body = json!({
            "cert": issued.certificate_pem,
            "key": *issued.key_pem,
            "ca": partner.pem(),
            "origin": self.origin,
        });
        let path = "/v1/projects/default/client-cert";
        let answer = client::api(self.api, TOKEN, Method::POST, path, Some(&body)).await?;
        ensure!(answer.status == StatusCode::OK, "the upload was answered with {}: {}", answer.status, answer.body);
        Ok(answer.json())
    }

    fn expect(&self, name: &str, answer: Answer) -> anyhow::Result<()> {
        self.show(&answer, &format!("the partner saw: {}", answer.body));
        ensure!(answer.status == StatusCode::OK, "the partner should have answered 200, not {}", answer.status);
        ensure!(answer.body == format!("CN={name}"), "the partner should have seen CN={name}");
        Ok(())
    }

    fn step(&self, number: u32, what: &str) {
        let (bold, plain) = if self.colour { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        self.say(&format!("\n{bold}{number}. {what}{plain}"));
    }

    fn show(&self, answer: &Answer, what: &str) {
        let mark = if answer.status.is_success() { "32" } else { "33" };
        let (on, off) = if self.colour { (format!("\x1b[{mark}m"), "\x1b[0m") } else { (String::new(), "") };
        self.say(&format!("   {on}{what}{off}"));
    }

    fn note(&self, what: &str) {
        self.say(&format!("   {what}"));
    }

    /// A closed standard output ends the demo's words, not the demo.
    fn say(&self, what: &str) {
        let _ = writeln!(std::io::stdout(), "{what}");
    }
}

/// A folder that only its owner can read; removed with everything in it.
struct TemporaryFolder(std::path::PathBuf);

impl TemporaryFolder {
    fn new() -> anyhow::Result<Self> {
        let mut bits = [0; 8];
        aws_lc_rs::rand::fill(&mut bits).map_err(|_| anyhow::anyhow!("no random numbers"))?;
        let path = std::env::temp_dir().join(format!("egret-demo-{:016x}", u64::from_be_bytes(bits)));
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).with_context(|| format!("{} could not be made", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
