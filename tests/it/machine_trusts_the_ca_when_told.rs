//! `egret ca install` and `uninstall`, judged by the tools whose stores they are. The system's store is one of the test's
//! own, in a mount namespace.

use std::path::Path;
use std::process::Command;

use crate::harness::egret::{Egret, Setup, program};
use crate::harness::world::World;
use crate::harness::{PATIENCE, run_within, stdout_of};

/// What a command says on both of its streams, with its exit code.
fn said(command: &mut Command) -> (Option<i32>, String, String) {
    // update-ca-certificates reads every root, several times here.
    let output = run_within(4 * PATIENCE, command);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// `egret ca …` with this home folder.
fn ca(egret: &Egret, home: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut cli = egret.cli(&["ca"]);
    said(cli.args(arguments).env("HOME", home).env_remove("SUDO_USER").env_remove("XDG_DATA_HOME"))
}

fn listed(database: &Path) -> String {
    stdout_of(Command::new("certutil").arg("-L").arg("-d").arg(format!("sql:{}", database.display())))
}

#[test]
fn browsers_databases_get_it_and_lose_it_again() {
    let world = World::new();
    let egret = Setup::new(&world).start();
    let home = world.path("home");
    let profile = home.join(".mozilla/firefox/abc.default");
    std::fs::create_dir_all(&profile).expect("writable");
    let place = format!("sql:{}", profile.display());
    stdout_of(Command::new("certutil").args(["-N", "--empty-password", "-d", &place]));
    // Somebody else's, which stays.
    let root = world.write("root.pem", &world.root.pem());
    stdout_of(
        Command::new("certutil").args(["-A", "-d", &place, "-n", "of the house", "-t", "C,,", "-a", "-i"]).arg(&root),
    );

    let (code, out, err) = ca(&egret, &home, &["install", "--nss"]);
    assert_eq!((code, out.matches("installed  nss").count()), (Some(0), 2), "{out}{err}");
    assert!(err.contains("can pose as any server") && err.contains("SHA-256"), "what it means: {err}");
    let chromium = home.join(".pki/nssdb");
    for database in [&chromium, &profile] {
        let listed = listed(database);
        let line =
            listed.lines().find(|line| line.starts_with("egret local CA ")).unwrap_or_else(|| panic!("{listed}"));
        assert!(line.trim_end().ends_with("C,,"), "{line}");
        let name = line.split("  ").next().expect("a name");
        let stored = stdout_of(Command::new("certutil").args([
            "-L",
            "-a",
            "-n",
            name,
            "-d",
            &format!("sql:{}", database.display()),
        ]));
        assert_eq!(stored.replace("\r\n", "\n").trim(), egret.ca_pem().trim());
    }
    let (code, out, err) = ca(&egret, &home, &["install", "--nss"]);
    assert_eq!((code, out.matches("unchanged  nss").count(), err.as_str()), (Some(0), 2, ""), "twice is once: {out}");

    // Another egret's CA does not disturb it, nor is it taken away with this one.
    let other = Setup::new(&world).start();
    assert_eq!(ca(&other, &home, &["install", "--nss"]).0, Some(0));
    let (code, out, _) = ca(&egret, &home, &["uninstall", "--nss"]);
    assert_eq!((code, out.matches("removed    nss").count()), (Some(0), 2), "{out}");
    for database in [&chromium, &profile] {
        assert_eq!(listed(database).matches("egret local CA ").count(), 1);
    }
    let (code, out, _) = ca(&other, &home, &["uninstall", "--nss"]);
    assert_eq!((code, out.matches("removed    nss").count()), (Some(0), 2), "{out}");
    assert!(!listed(&chromium).contains("egret") && !listed(&profile).contains("egret"));
    assert!(listed(&profile).contains("of the house"));
    let (code, out, _) = ca(&egret, &home, &["uninstall", "--nss"]);
    assert_eq!((code, out.matches("unchanged  nss").count()), (Some(0), 2), "{out}");
}

/// Newer versions of Chromium make theirs elsewhere, and look there until the older folder is made.
#[test]
fn chromiums_newer_database_gets_it_where_it_has_made_one() {
    let world = World::new();
    let egret = Setup::new(&world).start();
    let home = world.path("home");
    let (newer, older) = (home.join(".local/share/pki/nssdb"), home.join(".pki/nssdb"));
    std::fs::create_dir_all(&newer).expect("writable");
    let nss = |wish: &str| ca(&egret, &home, &[wish, "--nss"]);
    let (code, out, _) = nss("install");
    assert_eq!((code, out), (Some(0), format!("installed  nss     {}\n", newer.display())));
    assert!(listed(&newer).contains("egret local CA ") && !older.exists(), "which Chromium would take for its own");
    std::fs::create_dir_all(&older).expect("writable");
    assert_eq!(nss("install").1, format!("installed  nss     {}\n", older.display()));
    let (code, out, _) = nss("uninstall");
    assert_eq!((code, out.matches("removed    nss").count()), (Some(0), 2), "{out}");
    assert!(![newer, older].iter().any(|database| listed(database).contains("egret")));
}

#[test]
fn the_systems_store_gets_it_and_loses_it_again() {
    // As root of a namespace of its own; both folders are copies that end with it. The second store lies in another root.
    const SCRIPT: &str = r#"
set -e
mount -t tmpfs tmpfs /usr/local/share/ca-certificates
# Without the hooks of other packages: Java's alone takes longer than all the rest.
mount -t tmpfs tmpfs /etc/ca-certificates/update.d
mkdir "$1/copy" "$1/root"
cp -RP /etc/ssl/certs/. "$1/copy"
mount --bind "$1/copy" /etc/ssl/certs
umask 077
trusted() { openssl verify -CAfile /etc/ssl/certs/ca-certificates.crt "$2" >/dev/null 2>&1 && echo "$1 yes" || echo "$1 no"; }
trusted before "$2"
"$0" ca install --system
stat -c %a /usr/local/share/ca-certificates/egret-local-ca.crt /etc/ssl/certs/ca-certificates.crt
trusted installed "$2"
"$0" ca install --system 2>&1
cp "$3" /usr/local/share/ca-certificates/other.crt
"$0" ca uninstall --system
trusted removed "$2"
ls /usr/local/share/ca-certificates
cp "$3" /usr/local/share/ca-certificates/egret-local-ca.crt
"$0" ca install --system | sed 's/-[0-9a-f]*\.crt/-HEX.crt/'
trusted beside "$2"
"$0" ca uninstall --system >/dev/null
ls /usr/local/share/ca-certificates
mount --rbind / "$1/root"
"$0" ca install --system --root "$1/root" | sed "s|$1|TMP|; s/-[0-9a-f]*\.crt/-HEX.crt/"
trusted below "$2"
"#;
    let world = World::new();
    let egret = Setup::new(&world).start();
    let [ca, other] =
        [("ca.pem", egret.ca_pem()), ("other.pem", world.root.pem())].map(|(n, pem)| world.write(n, &pem));
    std::fs::create_dir(world.path("work")).expect("writable");
    let cli = egret.cli(&[]);
    let mut namespace = Command::new("unshare");
    namespace.args(["--map-root-user", "--mount", "sh", "-c", SCRIPT]).arg(cli.get_program());
    namespace.arg(world.path("work")).arg(ca).arg(other).env_remove("SUDO_USER");
    for (name, value) in cli.get_envs() {
        value.map(|value| namespace.env(name, value));
    }
    let (code, out, err) = said(&mut namespace);
    let expected = "\
before no
installed  system  /usr/local/share/ca-certificates/egret-local-ca.crt
644
644
installed yes
unchanged  system  /usr/local/share/ca-certificates/egret-local-ca.crt
removed    system  /usr/local/share/ca-certificates/egret-local-ca.crt
removed no
other.crt
installed  system  /usr/local/share/ca-certificates/egret-local-ca-HEX.crt
beside yes
egret-local-ca.crt
other.crt
installed  system  TMP/root/usr/local/share/ca-certificates/egret-local-ca-HEX.crt
below yes
";
    assert_eq!((code, out.as_str()), (Some(0), expected), "{err}");
    let bundle = std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").expect("Debian's bundle");
    assert!(!bundle.contains(egret.ca_pem().trim()), "the machine's own store is as it was");
}

#[test]
fn what_cannot_be_done_is_said_with_the_command_that_does_it() {
    let world = World::new();
    let egret = Setup::new(&world).start();
    // A file system that this user may not write to, whoever the user is.
    let script = "mount -t tmpfs -o ro tmpfs /usr/local/share/ca-certificates && exec \"$0\" ca install --system";
    let cli = egret.cli(&[]);
    let mut namespace = Command::new("unshare");
    namespace.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(cli.get_program()).env_remove("SUDO_USER");
    for (name, value) in cli.get_envs() {
        value.map(|value| namespace.env(name, value));
    }
    let (code, out, err) = said(&mut namespace);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(
        out.starts_with("skipped    system  /usr/local/share/ca-certificates/egret-local-ca.crt cannot be written"),
        "{out}"
    );

    // Without the tools, both are skipped and say what to install.
    let home = world.path("home");
    let mut bare = egret.cli(&["ca", "install", "--nss"]);
    let (code, out, _) = said(bare.env("PATH", "/nowhere").env("HOME", &home).env_remove("SUDO_USER"));
    assert_eq!(code, Some(1));
    assert!(out.contains("install libnss3-tools"), "{out}");
    assert!(!home.exists(), "nothing is begun that cannot be finished");

    // Root's own CA is not the user's.
    let mut sudo = program();
    let (code, _, err) = said(sudo.args(["ca", "install"]).env("SUDO_USER", "someone").env("HOME", &home));
    assert_eq!(code, Some(2));
    assert!(err.contains("--data-dir"), "{err}");
    assert!(!home.exists(), "no CA was made for it");
}
