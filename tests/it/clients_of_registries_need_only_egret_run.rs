//! The client matrix, package managers and git: they fetch from registries behind an origin that demands a
//! certificate, under `egret run --` and with nothing else set. See `clients_need_only_egret_run`.

use crate::harness::laptop::{Laptop, client, python, row};
use crate::harness::stdout_of;

/// Where the partner serves its registries.
const PATH: &str = "/files/registries";

/// A row whose partner serves registries: what the client does, with their URL.
fn registry_row(fetch: impl Fn(&Laptop, &str)) {
    row(|laptop| {
        let url = laptop.https(PATH);
        let folder = laptop.nginx.files().join("registries");
        if !folder.exists() {
            stdout_of(laptop.bare(&[&python(), &client("registries.py")]).arg(folder).arg(&url));
        }
        fetch(laptop, &url);
    });
}

/// A repository of git's among them; its URL.
fn repository(laptop: &Laptop, url: &str) -> String {
    let repository = laptop.nginx.files().join("registries/repository.git");
    if !repository.exists() {
        let script = "git init -q work && cd work && \
            git -c user.name=t -c user.email=t@t.test commit -q --allow-empty -m one && \
            git clone -q --bare . \"$1\" && cd \"$1\" && git update-server-info";
        stdout_of(laptop.bare(&["sh", "-ec", script, "sh"]).arg(&repository));
    }
    format!("{url}/repository.git")
}

#[test]
fn pip() {
    registry_row(|laptop, url| {
        let index = format!("{url}/simple/");
        laptop.serves(&[&python(), "-m", "pip", "download", "--index-url", &index, "partner-package"]);
        assert!(laptop.home().join("partner_package-1.0-py3-none-any.whl").exists());
    });
}

#[test]
fn npm() {
    registry_row(|laptop, url| {
        let registry = format!("--registry={url}/npm/");
        laptop.serves(&["npm", "ping", &registry]);
        assert_eq!(laptop.serves(&["npm", "view", &registry, "partner-package", "version"]).trim(), "1.0.0");
        laptop.serves(&["npm", "install", &registry, "--no-audit", "--no-fund", "partner-package"]);
        assert!(laptop.home().join("node_modules/partner-package/index.js").exists());
    });
}

/// Where nothing listens; what a user has configured for other days.
const ELSEWHERE: &str = "http://127.0.0.1:1";

/// What `.npmrc` says wins over the variables that are meant for every client.
#[test]
fn npm_whose_configuration_names_roots_and_a_proxy() {
    registry_row(|laptop, url| {
        let roots = laptop.world.write("roots-of-the-house.pem", &laptop.world.root.pem());
        let npmrc = format!("cafile = {}\nproxy = {ELSEWHERE}\nhttps-proxy = {ELSEWHERE}\n", roots.display());
        std::fs::write(laptop.home().join(".npmrc"), npmrc).expect("writable");
        let registry = format!("--registry={url}/npm/");
        assert_eq!(laptop.serves(&["npm", "view", &registry, "partner-package", "version"]).trim(), "1.0.0");
    });
}

/// What `.gitconfig` says wins over the variables that are meant for every client.
#[test]
fn git_whose_configuration_names_roots_and_proxies() {
    registry_row(|laptop, url| {
        let roots = laptop.world.write("roots-of-the-house.pem", &laptop.world.root.pem());
        let gitconfig = format!(
            "[http]\n\tproxy = {ELSEWHERE}\n\tproxyAuthMethod = negotiate\n\tsslCAInfo = {0}\n\
             [http \"{url}\"]\n\tproxy = {ELSEWHERE}\n\tsslCAInfo = {0}\n",
            roots.display()
        );
        std::fs::write(laptop.home().join(".gitconfig"), gitconfig).expect("writable");
        let listed = laptop.serves(&["git", "ls-remote", &repository(laptop, url)]);
        assert!(listed.contains("HEAD"), "{listed}");
    });
}

/// Over git's dumb protocol, which needs no program on the server's side.
#[test]
fn git() {
    registry_row(|laptop, url| {
        let url = repository(laptop, url);
        let listed = laptop.serves(&["git", "ls-remote", &url]);
        assert!(listed.contains("HEAD"), "{listed}");
        laptop.serves(&["git", "clone", "-q", &url, "cloned"]);
        assert_eq!(stdout_of(&mut laptop.bare(&["git", "-C", "cloned", "log", "--format=%s"])).trim(), "one");
    });
}

#[test]
fn cargo() {
    registry_row(|laptop, url| {
        let project = laptop.home().join("project");
        std::fs::create_dir_all(project.join("src")).expect("writable");
        std::fs::create_dir_all(project.join(".cargo")).expect("writable");
        let write = |name: &str, text: &str| std::fs::write(project.join(name), text).expect("writable");
        write("src/lib.rs", "");
        write(
            "Cargo.toml",
            "[package]\nname = \"project\"\nversion = \"1.0.0\"\nedition = \"2021\"\n\
             [dependencies]\npartner-package = { version = \"1\", registry = \"partner\" }\n",
        );
        write(".cargo/config.toml", &format!("[registries.partner]\nindex = \"sparse+{url}/cargo/\"\n"));
        laptop.serves_command(laptop.run(&["cargo", "fetch"]).current_dir(&project));
        let lock = std::fs::read_to_string(project.join("Cargo.lock")).expect("cargo writes it");
        assert!(lock.contains("partner-package"), "{lock}");
    });
}
