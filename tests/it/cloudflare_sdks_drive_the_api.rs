//! npm `cloudflare` 7.3.0 and PyPI `cloudflare` 5.9.0, unchanged, run the whole life cycle of the three stores; after
//! each step a request through the proxy shows, at an nginx, the subject that should be presented.
//!
//! The scripts get a folder with `world.json` ([`Scene::describe`]) and pairs of certificate and key, `NAME.crt` and
//! `NAME.key`, whose common names are `NAME`:
//!
//! - `zone-1` to `zone-3`, `host-1`, `host-2`, `account-1`, `vercel-1`, `limit-0` to `limit-10`: clients of the partner,
//! - `distinguished`: a client with a subject of several parts, self-signed, on RSA,
//! - `root`: an authority, with its key,
//!
//! and the authorities themselves: `partner.crt`, which nginx asks for, and `private-ca.crt`, which issued the server
//! `private` and which nobody trusts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::certificates::Pair;
use crate::harness::egret::{Egret, Setup, TOKEN};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::world::World;
use crate::harness::{command, repository, run_within, stdout_of};

const ACCOUNT: &str = "023e105f4ecef8ad9ca31a8372d0c353";
const OTHER_ACCOUNT: &str = "9a7806061c88ada191ed06f989cc3dac";
/// Projects with their account and zone; the first two belong to one tenant.
const PROJECTS: [(&str, &str, &str); 3] = [
    ("shop", ACCOUNT, "372e67954025e0ba6aaa6d586b9e0b59"),
    ("billing", ACCOUNT, "699d98642c564d2e855e9661899b7252"),
    ("other", OTHER_ACCOUNT, "d41d8cd98f00b204e9800998ecf8427e"),
];
const OPERATOR: &str = "operator-of-shop-and-billing-3f0b6c1d9a";
const OPERATOR_EMAIL: &str = "Operations@shop.test";
/// Further tokens: what they are called, their text, their role and their projects.
const TOKENS: [(&str, &str, &str, &str); 3] = [
    ("stranger", "somebody-at-other-58d1c70e42", "write", r#""other""#),
    ("clerk", "of-shop-alone-7c1e9f2b60", "write", r#""shop""#),
    ("reader", "who-may-look-only-91b5d3e8a4", "read", r#""shop", "billing""#),
];
const HOSTS: [&str; 3] = ["app.shop.test", "www.shop.test", "spare.shop.test"];
const PRIVATE: &str = "private.shop.test";

/// An egret with two tenants, an origin that asks for certificates, and the folder for a script.
struct Scene {
    folder: PathBuf,
    egret: Egret,
    nginx: Nginx,
    _world: World,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let nginx = Nginx::start(&[
            Site::asking(&HOSTS, &world.server(&HOSTS), &world.partner.pem()),
            Site::open(&[PRIVATE], &world.stranger.server(&[PRIVATE])),
        ]);
        let mut setup = Setup::new(&world)
            .hosts(&HOSTS)
            .hosts(&[PRIVATE])
            .listener("shop", "forward", "project = \"shop\"")
            .listener("billing", "forward", "project = \"billing\"")
            .variable("OPERATOR_OF_THE_TEST", OPERATOR)
            .section(&format!(
                "[[tokens]]\nname = \"operator\"\nenv = \"OPERATOR_OF_THE_TEST\"\nemail = \"{OPERATOR_EMAIL}\"\nrole = \"write\"\nprojects = [\"shop\", \"billing\"]"
            ));
        for (name, text, role, projects) in TOKENS {
            let variable = format!("{}_OF_THE_TEST", name.to_uppercase());
            setup = setup.variable(&variable, text).section(&format!(
                "[[tokens]]\nname = \"{name}\"\nenv = \"{variable}\"\nrole = \"{role}\"\nprojects = [{projects}]"
            ));
        }
        for (name, account, zone) in PROJECTS {
            setup = setup
                .section(&format!("[[projects]]\nname = \"{name}\"\naccount_id = \"{account}\"\nzone_id = \"{zone}\""));
        }
        let scene = Self { folder: certificates(&world), egret: setup.start(), nginx, _world: world };
        scene.describe();
        scene
    }

    /// `world.json`: where everything is, and who may do what.
    fn describe(&self) {
        let zones: serde_json::Map<_, _> =
            PROJECTS.iter().map(|(name, _, zone)| ((*name).to_owned(), json!(zone))).collect();
        let tokens: serde_json::Map<_, _> =
            TOKENS.iter().map(|(name, text, ..)| ((*name).to_owned(), json!(text))).collect();
        let described = json!({
            "url": self.egret.management_url,
            "admin": TOKEN,
            "operator": { "token": OPERATOR, "email": OPERATOR_EMAIL },
            "tokens": tokens,
            "account": ACCOUNT,
            "otherAccount": OTHER_ACCOUNT,
            "zones": zones,
            "proxies": { "shop": self.egret.listener("shop"), "billing": self.egret.listener("billing") },
            "port": self.nginx.port(),
            "hosts": { "app": HOSTS[0], "www": HOSTS[1], "spare": HOSTS[2], "private": PRIVATE },
        });
        std::fs::write(self.folder.join("world.json"), described.to_string()).expect("writable");
    }

    /// Runs a script to its end; every line that it prints has to say that its check held.
    #[track_caller]
    fn run(&self, script: &mut Command) {
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CLOUDFLARE_")) {
            script.env_remove(name);
        }
        let output = run_within(Duration::from_secs(55), script.arg(&self.folder));
        let printed = String::from_utf8_lossy(&output.stdout);
        let held = |line: &str| serde_json::from_str::<Value>(line).is_ok_and(|line| line["ok"] == true);
        let wrong: Vec<&str> = printed.lines().filter(|line| !held(line)).collect();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && wrong.is_empty(), "{}\n{said}", wrong.join("\n"));
        assert!(printed.lines().count() > 100, "the script did something: {printed}");
        let log = self.egret.log();
        assert!(!log.contains("PRIVATE KEY") && !log.contains(OPERATOR), "the log has ids and no secrets");
    }
}

fn certificates(world: &World) -> PathBuf {
    let folder = world.path("pems");
    std::fs::create_dir(&folder).expect("writable");
    let names = ["zone-1", "zone-2", "zone-3", "host-1", "host-2", "account-1", "vercel-1"].map(str::to_owned);
    for name in names.into_iter().chain((0..=10).map(|number| format!("limit-{number}"))) {
        let client = world.client(&name);
        // Forms of one and the same that have to come back as they were sent.
        let chain = match name.as_str() {
            "zone-1" => client.chain.trim_end().to_owned(),
            "host-1" => client.chain.replace('\n', "\r\n"),
            "account-1" => format!("the payments partner's\n\n{}", client.chain),
            _ => client.chain.clone(),
        };
        Pair { chain, ..client }.write(&folder);
    }
    world.stranger.itself("root").write(&folder);
    distinguished(&folder);
    std::fs::write(folder.join("partner.crt"), world.partner.pem()).expect("writable");
    std::fs::write(folder.join("private-ca.crt"), world.stranger.pem()).expect("writable");
    folder
}

fn distinguished(folder: &Path) {
    let mut openssl = command("openssl");
    openssl.current_dir(folder).args(["req", "-x509", "-newkey", "rsa:2048", "-sha256", "-nodes", "-days", "60"]);
    openssl.args(["-subj", "/C=DE/O=Egret, Test/OU=a+b/CN=distinguished", "-addext", "extendedKeyUsage=clientAuth"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    stdout_of(openssl.args(["-keyout", "distinguished.key", "-out", "distinguished.crt"]));
}

#[test]
fn from_node() {
    Scene::new().run(command("node").arg(repository("tests/sdk/cloudflare.mjs")));
}

#[test]
fn from_python() {
    let python = repository("target/sdk-venv/bin/python3");
    assert!(python.exists(), "{} is missing; ./tests/run makes it", python.display());
    let mut python = command(python);
    python.env("PYTHONDONTWRITEBYTECODE", "1").arg(repository("tests/sdk/cloudflare_sdk.py"));
    Scene::new().run(&mut python);
}
