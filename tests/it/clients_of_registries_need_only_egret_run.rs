//! The client matrix, package managers and git: they fetch from registries behind an origin that demands a
//! certificate, under `egret run --` and with nothing else set. See `clients_need_only_egret_run`.

use crate::harness::laptop::{Laptop, client, python};
use crate::harness::stdout_of;

/// A laptop whose partner serves registries below the second value.
fn registries() -> (Laptop, String) {
    let laptop = Laptop::start();
    let url = laptop.https("/files");
    let files = laptop.nginx.files().to_str().expect("text").to_owned();
    stdout_of(&mut laptop.bare(&[&python(), &client("registries.py"), &files, &url]));
    (laptop, url)
}

#[test]
fn pip() {
    let (laptop, url) = registries();
    let index = format!("{url}/simple/");
    laptop.serves(&[&python(), "-m", "pip", "download", "--no-cache-dir", "--index-url", &index, "partner-package"]);
    assert!(laptop.home().join("partner_package-1.0-py3-none-any.whl").exists());
}

#[test]
fn npm() {
    let (laptop, url) = registries();
    let registry = format!("--registry={url}/npm/");
    laptop.serves(&["npm", "ping", &registry]);
    assert_eq!(laptop.serves(&["npm", "view", &registry, "partner-package", "version"]).trim(), "1.0.0");
    laptop.serves(&["npm", "install", &registry, "--no-audit", "--no-fund", "partner-package"]);
    assert!(laptop.home().join("node_modules/partner-package/index.js").exists());
}

#[test]
fn git() {
    let (laptop, url) = registries();
    let files = laptop.nginx.files();
    let script = "git init -q work && cd work && git -c user.name=t -c user.email=t@t.test commit -q --allow-empty -m one \
                  && git clone -q --bare . \"$1/repository.git\" && cd \"$1/repository.git\" && git update-server-info";
    stdout_of(laptop.bare(&["sh", "-ec", script, "sh"]).arg(files));
    let url = format!("{url}/repository.git");
    let listed = laptop.serves(&["git", "ls-remote", &url]);
    assert!(listed.contains("HEAD"), "{listed}");
    laptop.serves(&["git", "clone", "-q", &url, "cloned"]);
    assert_eq!(stdout_of(&mut laptop.bare(&["git", "-C", "cloned", "log", "--format=%s"])).trim(), "one");
}

#[test]
fn cargo() {
    let (laptop, url) = registries();
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
}
