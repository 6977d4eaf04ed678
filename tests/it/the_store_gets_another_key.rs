//! `egret store rekey`: certificates stay, the old key opens nothing any more, and there is no instant at which no key
//! opens the store.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::wire::absolute;
use crate::harness::world::World;
use crate::harness::{PATIENCE, Process, run_within, stdout_of};

const NAMES: [&str; 2] = ["one.test", "two.test"];
const KEY: &str = "key-encryption-key";

fn nginx(world: &World) -> Nginx {
    Nginx::start(&[Site::demanding(&NAMES, &world.server(&NAMES), &world.partner.pem())])
}

/// The certificate of an origin is presented, and *none* to the other.
#[track_caller]
fn works(egret: &Egret, nginx: &Nginx) {
    let get = |name: &str| absolute(egret.proxy(), "GET", &format!("{}/", nginx.origin(name)));
    assert_eq!(get("one.test").seen("subject"), "CN=one");
    assert!(get("two.test").text().contains("No required SSL certificate was sent"), "{}", get("two.test").text());
    assert!(!egret.log().contains("quarantine"), "{}", egret.log());
}

/// A store with a certificate, a binding to it, one to *none*, and the interception CA.
fn filled(world: &World, nginx: &Nginx) -> Setup {
    let egret = Setup::new(world).hosts(&NAMES).start();
    egret.upload("default", Some(&nginx.origin("one.test")), &world.client("one"));
    egret.upload("default", None, &world.client("wide"));
    egret.bind_none("default", &nginx.origin("two.test"));
    egret.ca_pem();
    works(&egret, nginx);
    egret.stop()
}

#[test]
fn after_a_rekey_everything_works_and_the_old_key_opens_nothing() {
    let world = World::new();
    let nginx = nginx(&world);
    let home = filled(&world, &nginx);
    let key = home.data_dir().join(KEY);
    let old = std::fs::read(&key).expect("a key");
    let report: Value = serde_json::from_str(&stdout_of(&mut home.cli(&["store", "rekey", "--json"]))).expect("JSON");
    assert_eq!(report["records"]["certificate"], 2, "{report}");
    assert_eq!(report["records"]["binding"], 3, "{report}");
    assert_eq!((report["leftBehind"].as_array().map(Vec::len), &report["configuration"]), (Some(0), &Value::Null));
    let new = std::fs::read(&key).expect("a key");
    assert_ne!(new, old);
    let egret = home.start();
    works(&egret, &nginx);
    let ca = egret.ca_pem();

    // While it runs, the store is its own.
    let refused = run_within(PATIENCE, &mut egret.cli(&["store", "rekey"]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("while no egret runs") && said.contains("stop it"), "{said}");
    works(&egret, &nginx);

    let home = egret.stop();
    std::fs::write(&key, &old).expect("writable");
    let config = home.write();
    let serve = run_within(PATIENCE, crate::harness::egret::program().arg("serve").arg("--config").arg(&config));
    let said = String::from_utf8_lossy(&serve.stderr).into_owned();
    assert_eq!(serve.status.code(), Some(1), "{said}");
    assert!(said.contains("not the one that the store was written with"), "{said}");
    std::fs::write(&key, &new).expect("writable");
    let egret = home.start();
    works(&egret, &nginx);
    assert_eq!(egret.ca_pem(), ca);
}

#[test]
fn a_key_that_the_configuration_names_is_written_beside_and_named_anew() {
    let world = World::new();
    let nginx = nginx(&world);
    let home = filled(&world, &nginx);
    let file = world.path("kek-2");
    let said = stdout_of(home.cli(&["store", "rekey", "--to-file"]).arg(&file));
    let line =
        said.lines().find(|line| line.contains("key_encryption_key")).expect("the line to write").trim().to_owned();
    assert!(line.contains(file.to_str().expect("text")), "{said}");
    let home = home.section(&format!("[store]\n{line}"));
    let egret = home.start();
    works(&egret, &nginx);
    let home = egret.stop();

    // From a file that the configuration names, egret does not guess where the next one goes.
    let refused = run_within(PATIENCE, &mut home.cli(&["store", "rekey"]));
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
    let variable = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let mut to_env = home.cli(&["store", "rekey", "--to-env", "NEW_KEK"]);
    let said = stdout_of(to_env.env("NEW_KEK", variable));
    assert!(said.contains("key_encryption_key = { env = \"NEW_KEK\" }") && !said.contains(variable), "{said}");
    let again = run_within(PATIENCE, to_env.env("NEW_KEK", variable));
    assert_eq!(again.status.code(), Some(1));
}

#[test]
fn heavy_twenty_rounds_of_kill_during_a_rekey() {
    let world = World::new();
    let nginx = nginx(&world);
    let mut home = filled(&world, &nginx);
    // Some weight, so that the work takes a while.
    let egret = home.start();
    for n in 0..40 {
        egret.upload("default", Some(&format!("https://n{n}.weight.test")), &world.client(&format!("w{n}")));
    }
    home = egret.stop();
    // How long one takes, undisturbed: the rounds spread over that time.
    let started = Instant::now();
    stdout_of(&mut home.cli(&["store", "rekey"]));
    let whole = started.elapsed();
    let (mut cut, mut changed) = (0, 0);
    for round in 0..20_u32 {
        let key = std::fs::read(home.data_dir().join(KEY)).expect("there always is one");
        let mut rekey = Process::spawn(
            home.cli(&["store", "rekey"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()),
        );
        if round % 2 == 0 {
            std::thread::sleep(whole * round / 16);
        } else {
            // From the moment on when the new key is on disk: around the commit, and the rename after it.
            let pending = home.data_dir().join("key-encryption-key.new");
            while !pending.exists() && rekey.ended().is_none() {}
            std::thread::sleep(Duration::from_micros(u64::from(round) * 700));
        }
        // One that has ended and was waited for has no pid any more.
        if rekey.ended().is_none() {
            rekey.signal(rustix::process::Signal::KILL);
        }
        let status = crate::harness::eventually("the command is gone", || rekey.ended());
        cut += u32::from(!status.success());
        let egret = home.start();
        works(&egret, &nginx);
        changed += u32::from(std::fs::read(egret.data_dir().join(KEY)).expect("a key") != key);
        let left = std::fs::read_dir(egret.data_dir()).expect("a folder").flatten();
        let left: Vec<_> = left.filter(|e| e.file_name() == Path::new("key-encryption-key.new")).collect();
        assert!(left.is_empty(), "round {round}: the start settled it");
        home = egret.stop();
    }
    println!("{cut} of 20 were cut short, {changed} took effect; one takes {whole:?}");
    assert!(whole < Duration::from_secs(30) && cut > 0, "{cut} of 20 were cut short, {changed} took effect");
}
