//! The examples of `CLOUDFLARE.md`, in each language from top to bottom, and what origins see afterwards.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::harness::certificates::Pair;
use crate::harness::cloudflare::{ACCOUNT, ZONE, ids_of, succeeded};
use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::wire::absolute;
use crate::harness::world::World;
use crate::harness::{command, repository, run_within};

const TOKEN: &str = "token-of-the-page-0b41c6f07a";
const NAMES: [&str; 4] = ["app.example.com", "public.example.com", "partner.example.com", "other.example.com"];

/// The fenced blocks of one language, one after the other.
fn examples(language: &str) -> String {
    let page = std::fs::read_to_string(repository("CLOUDFLARE.md")).expect("the page");
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1).map(|rest| rest.split("```\n").next().expect("the end of a block"));
    blocks.collect::<Vec<_>>().join("\n")
}

struct Scene {
    egret: Egret,
    nginx: Nginx,
    folder: PathBuf,
    _world: World,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let nginx = Nginx::start(&[Site::asking(&NAMES, &world.server(&NAMES), &world.partner.pem())]);
        let configured = examples("toml");
        let (tables, listener) = configured.split_once("[[listeners]]").expect("a listener comes last");
        assert!(
            listener.contains("project = \"shop\"") && tables.contains(ACCOUNT) && tables.contains(ZONE),
            "{tables}"
        );
        let setup = Setup::new(&world).hosts(&NAMES).section(tables).variable("DEPLOY_TOKEN", TOKEN);
        let egret = setup.listener("shop", "forward", "project = \"shop\"").start();
        let folder = world.path("files");
        std::fs::create_dir(&folder).expect("writable");
        for name in ["zone", "app", "app-2", "partner"] {
            // Not the common name of its issuer, which would look self-signed.
            let client = world.client(&format!("client {name}"));
            Pair { name: name.to_owned(), ..client }.write(&folder);
        }
        Self { egret, nginx, folder, _world: world }
    }

    /// Runs the examples in the folder with the certificates, as a person would.
    #[track_caller]
    fn follow(&self, script: &mut Command) {
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CLOUDFLARE_")) {
            script.env_remove(name);
        }
        script.current_dir(&self.folder).env("PYTHONDONTWRITEBYTECODE", "1");
        script.env("CLOUDFLARE_BASE_URL", format!("{}/client/v4", self.egret.management_url));
        script.env("CLOUDFLARE_API_TOKEN", TOKEN).env("ACCOUNT_ID", ACCOUNT).env("ZONE_ID", ZONE);
        let output = run_within(Duration::from_secs(40), script);
        let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{printed}\n{said}");
        let shown = NAMES.map(|name| {
            let reply = absolute(self.egret.proxy(), "GET", &format!("{}/", self.nginx.origin(name)));
            reply.seen("subject")
        });
        assert_eq!(shown, ["CN=client app-2", "", "CN=client partner", "CN=client zone"], "{printed}\n{said}");
        let left = ids_of(&succeeded(self.egret.pulls("GET", "/hostnames/certificates", None)));
        assert_eq!(left.len(), 1, "the first hostname certificate is deleted");
        assert!(printed.contains("egress"), "the association is shown: {printed}");
    }
}

#[test]
fn in_javascript() {
    let scene = Scene::new();
    let modules = repository("tests/sdk/node_modules");
    std::os::unix::fs::symlink(modules, scene.folder.join("node_modules")).expect("writable");
    let script = scene.folder.join("page.mjs");
    std::fs::write(&script, examples("js")).expect("writable");
    scene.follow(command("node").arg(script));
}

#[test]
fn in_python() {
    let scene = Scene::new();
    let script = scene.folder.join("page.py");
    std::fs::write(&script, examples("python")).expect("writable");
    scene.follow(command(repository("target/sdk-venv/bin/python3")).arg(script));
}

#[test]
fn with_curl() {
    let scene = Scene::new();
    scene.follow(command("sh").args(["-eu", "-c", &examples("sh")]));
}
