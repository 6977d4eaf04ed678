//! The configuration file and every file that it names take effect when they change: what is whole within a second,
//! what is not whole never, and no request fails because of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::harness::certificates::Pair;
use crate::harness::egret::{Egret, Setup};
use crate::harness::origin::{Origin, Wants};
use crate::harness::wire::Wire;
use crate::harness::world::World;
use crate::harness::{eventually, stdout_of};

const NAME: &str = "api.partner.test";
const OTHER: &str = "other.partner.test";

fn origin(world: &World) -> Origin {
    let wants = world.partner.pem();
    Origin::start(&world.server(&[NAME, OTHER]), &Wants::PerhapsCertificateOf(&wants), |conversation, _| {
        let subject = conversation.subject.clone().unwrap_or_default();
        conversation.answer("200 OK", "", &subject)
    })
}

/// Files of a declared certificate, `tls.crt`, `tls.key` and `ca.crt` of a folder.
fn put(folder: &Path, pair: &Pair) {
    fs::create_dir_all(folder).expect("the test's own folder");
    for (name, text) in [("tls.crt", &pair.chain), ("tls.key", &pair.key), ("ca.crt", &pair.ca)] {
        fs::write(folder.join(name), text).expect("writable");
    }
}

fn table(folder: &Path, origin: &str) -> String {
    let path = |name: &str| folder.join(name);
    let (cert, key, ca) = (path("tls.crt"), path("tls.key"), path("ca.crt"));
    format!("[[certificates]]\norigin = \"{origin}\"\ncert = {cert:?}\nkey = {key:?}\nca = {ca:?}\n\n")
}

/// One request on a connection of its own; what the origin saw, or the code of the failure.
fn seen(egret: &Egret, url: &str) -> String {
    ask(&mut Wire::connect(egret.proxy()), url)
}

fn ask(wire: &mut Wire, url: &str) -> String {
    let authority = url.trim_start_matches("https://");
    wire.send(format!("GET {url}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
    let reply = wire.reply("GET");
    if reply.status == 200 { reply.text() } else { reply.json()["code"].as_str().unwrap_or_default().to_owned() }
}

fn comes(egret: &Egret, url: &str, subject: &str) {
    eventually(&format!("{subject} is in force"), || (seen(egret, url) == subject).then_some(()));
}

fn is_ok(egret: &Egret) -> bool {
    egret.reload()["state"] == "ok"
}

/// Waits until the status says that something is wrong, with these words.
fn fails(egret: &Egret, words: &str) {
    eventually(&format!("a failure that says {words}"), || {
        let reload = egret.reload();
        (reload["state"] == "failed" && reload["error"].as_str().is_some_and(|e| e.contains(words))).then_some(())
    });
}

struct Scene {
    world: World,
    origin: Origin,
    egret: Egret,
    folder: PathBuf,
}

impl Scene {
    /// A declared certificate, `first`, for the origin.
    fn new() -> Self {
        Self::with(|setup| setup)
    }

    fn with(more: impl FnOnce(Setup) -> Setup) -> Self {
        let world = World::new();
        let origin = origin(&world);
        let folder = world.path("declared");
        put(&folder, &world.client("first"));
        let setup = Setup::new(&world).section(&table(&folder, &origin.origin(NAME))).hosts(&[NAME, OTHER]);
        let egret = more(setup).start();
        let scene = Self { world, origin, egret, folder };
        assert_eq!(scene.seen(), "first");
        scene
    }

    fn url(&self) -> String {
        self.origin.origin(NAME)
    }

    fn seen(&self) -> String {
        seen(&self.egret, &self.url())
    }

    fn comes(&self, subject: &str) {
        comes(&self.egret, &self.url(), subject);
    }
}

#[test]
fn a_broken_configuration_changes_nothing_and_is_named_with_its_line() {
    let scene = Scene::new();
    let before = fs::read_to_string(scene.egret.config()).expect("there");
    assert!(is_ok(&scene.egret) && scene.egret.reload()["succeededAt"].is_string());
    for (broken, words) in [
        ("no_such_key = 1\n", "egret.toml:1: no_such_key: unknown key"),
        ("= what\n", "egret.toml:1: this is not TOML"),
        ("[[certificates]]\norigin = \"ftp://x\"\n", "certificates[0].origin"),
    ] {
        scene.egret.reconfigure(|text| format!("{broken}{text}"));
        fails(&scene.egret, words);
        assert_eq!(scene.seen(), "first");
        assert_eq!(scene.egret.counter("config_stale"), 1);
        let shown = stdout_of(&mut scene.egret.cli(&["status"]));
        assert!(shown.contains("failed: ") && shown.contains(words), "{shown}");
        // What the configuration in force names is followed all the same.
        fs::write(scene.egret.config(), &before).expect("writable");
        eventually("whole again", || is_ok(&scene.egret).then_some(()));
    }
    scene.egret.reconfigure(|_| "= what\n".to_owned());
    fails(&scene.egret, "this is not TOML");
    put(&scene.folder, &scene.world.client("second"));
    scene.comes("second");
    assert!(!is_ok(&scene.egret), "the file is as broken as before");
    let failures = scene.egret.counter("reload_failures");
    assert!(failures >= 4, "{failures}");
    let log = scene.egret.log();
    assert_eq!(log.matches("no_such_key: unknown key").count(), 1, "told once: {log}");
}

#[test]
fn files_that_are_not_whole_leave_the_old_certificate_in_force_until_they_are() {
    let scene = Scene::new();
    let Scene { world, folder, .. } = &scene;
    let mut old = world.client("first");
    put(folder, &old);
    scene.comes("first");
    for n in 0..4 {
        let new = world.client(&format!("new-{n}"));
        let (words, mend): (&str, Box<dyn Fn()>) = match n {
            // The certificate is written before its key.
            0 => {
                fs::write(folder.join("tls.crt"), &new.chain).expect("writable");
                ("does not belong", Box::new(|| fs::write(folder.join("tls.key"), &new.key).expect("writable")))
            }
            // Half of it is there.
            1 => {
                fs::write(folder.join("tls.key"), &new.key).expect("writable");
                fs::write(folder.join("tls.crt"), &new.chain[..200]).expect("writable");
                ("tls.crt", Box::new(|| fs::write(folder.join("tls.crt"), &new.chain).expect("writable")))
            }
            // Vanished.
            2 => {
                fs::remove_file(folder.join("tls.key")).expect("removed");
                ("tls.key", Box::new(|| put(folder, &new)))
            }
            // The files of another are mixed in.
            _ => {
                fs::write(folder.join("ca.crt"), world.stranger.pem()).expect("writable");
                ("declared/", Box::new(|| put(folder, &new)))
            }
        };
        fails(&scene.egret, words);
        assert_eq!(scene.seen(), old.name, "case {n}: the origin still sees the old one");
        assert_eq!(scene.egret.counter("declared_certificates_kept"), 1);
        let ready = Wire::connect(scene.egret.management);
        assert_eq!(status_of(ready, "/readyz"), 200, "and egret is as ready as before");
        mend();
        scene.comes(&new.name);
        eventually("all is well", || is_ok(&scene.egret).then_some(()));
        assert_eq!(scene.egret.counter("declared_certificates_kept"), 0);
        drop(mend);
        old = new;
    }
}

fn status_of(mut wire: Wire, path: &str) -> u16 {
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    wire.reply("GET").status
}

#[test]
fn kubernetes_and_editors_replace_files_in_their_own_ways() {
    let world = World::new();
    let origin = origin(&world);
    let mount = world.path("mount");
    let swap = |version: &str, subject: &str| {
        put(&mount.join(version), &world.client(subject));
        symlink(version, mount.join("..data_tmp")).expect("linked");
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("renamed");
    };
    swap("..2026_1", "mounted-1");
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(Path::new("..data").join(name), mount.join(name)).expect("linked");
    }
    let edited = world.path("edited");
    put(&edited, &world.client("edited-1"));
    let (one, two) = (origin.origin(NAME), origin.origin(OTHER));
    let egret =
        Setup::new(&world).section(&table(&mount, &one)).section(&table(&edited, &two)).hosts(&[NAME, OTHER]).start();
    assert_eq!((seen(&egret, &one), seen(&egret, &two)), ("mounted-1".to_owned(), "edited-1".to_owned()));

    swap("..2026_2", "mounted-2");
    fs::remove_dir_all(mount.join("..2026_1")).expect("removed");
    comes(&egret, &one, "mounted-2");
    // Once more: the watch went along.
    swap("..2026_3", "mounted-3");
    comes(&egret, &one, "mounted-3");

    for n in 2..4 {
        let pair = world.client(&format!("edited-{n}"));
        put(&world.path("aside"), &pair);
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            fs::rename(world.path("aside").join(name), edited.join(name)).expect("renamed over");
        }
        comes(&egret, &two, &pair.name);
    }
    // The folder as a whole gives way to another.
    put(&world.path("next"), &world.client("edited-4"));
    fs::rename(&edited, world.path("gone")).expect("renamed");
    fs::rename(world.path("next"), &edited).expect("renamed");
    comes(&egret, &two, "edited-4");
    put(&edited, &world.client("edited-5"));
    comes(&egret, &two, "edited-5");
    assert!(is_ok(&egret));
}

#[test]
fn what_is_not_there_at_the_start_is_waited_for() {
    let world = World::new();
    let origin = origin(&world);
    let folder = world.path("not/yet/there");
    let egret = Setup::new(&world).section(&table(&folder, &origin.origin(NAME))).hosts(&[NAME]).start();
    assert_eq!(status_of(Wire::connect(egret.management), "/readyz"), 503);
    assert_eq!(seen(&egret, &origin.origin(NAME)), "mtls.identity_unavailable");
    assert_eq!(egret.reload()["state"], "failed");
    put(&folder, &world.client("late"));
    comes(&egret, &origin.origin(NAME), "late");
    assert_eq!(status_of(Wire::connect(egret.management), "/readyz"), 200);
    assert!(is_ok(&egret));
}

/// Files that lie in no folder, so that the system never tells of them.
struct Hidden([fs::File; 3]);

impl Hidden {
    fn new(pair: &Pair) -> Self {
        let hidden = Self([(); 3].map(|()| tempfile::tempfile().expect("a file without a name")));
        hidden.put(pair);
        hidden
    }

    fn put(&self, pair: &Pair) {
        use std::os::unix::fs::FileExt as _;
        for (file, text) in self.0.iter().zip([&pair.chain, &pair.key, &pair.ca]) {
            file.set_len(0).expect("writable");
            file.write_all_at(text.as_bytes(), 0).expect("writable");
        }
    }

    fn table(&self, origin: &str) -> String {
        use std::os::fd::AsRawFd as _;
        let path = |n: usize| format!("/proc/{}/fd/{}", std::process::id(), self.0[n].as_raw_fd());
        let (cert, key, ca) = (path(0), path(1), path(2));
        format!("[[certificates]]\norigin = {origin:?}\ncert = {cert:?}\nkey = {key:?}\nca = {ca:?}\n")
    }
}

#[test]
fn sighup_and_a_look_now_and_then_find_what_the_system_does_not_tell() {
    for (poll, hang_up) in [("1h", true), ("200ms", false)] {
        let world = World::new();
        let origin = origin(&world);
        let url = origin.origin(NAME);
        let hidden = Hidden::new(&world.client("first"));
        let limits = format!("[limits]\nreload_poll = \"{poll}\"");
        let egret = Setup::new(&world).section(&hidden.table(&url)).section(&limits).hosts(&[NAME]).start();
        assert_eq!(seen(&egret, &url), "first");
        // The first look of all is not the one that counts.
        eventually("egret follows its files", || egret.log().contains("following the configuration").then_some(()));
        hidden.put(&world.client("second"));
        if hang_up {
            egret.hang_up();
        }
        comes(&egret, &url, "second");
        eventually("the reload is counted", || (egret.counter("reloads") > 0).then_some(()));
    }
    let egret = Setup::new(&World::new()).start();
    egret.hang_up();
    eventually("SIGHUP is heard", || egret.log().contains("nothing has changed").then_some(()));
    assert!(is_ok(&egret), "and egret goes on");
}

#[test]
fn a_certificate_that_leaves_the_file_uncovers_the_stored_one() {
    let world = World::new();
    let origin = origin(&world);
    let folder = world.path("declared");
    put(&folder, &world.client("declared"));
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let url = origin.origin(NAME);
    egret.upload("default", Some(&url), &world.client("stored"));
    assert_eq!(seen(&egret, &url), "stored");
    let without = fs::read_to_string(egret.config()).expect("there");
    egret.reconfigure(|text| format!("{text}\n{}", table(&folder, &url)));
    comes(&egret, &url, "declared");
    let body = crate::harness::egret::upload_body(Some(&url), &world.client("x"));
    let (status, answer) = egret.api("POST", "/v1/projects/default/client-cert", Some(&body));
    assert_eq!(status, 403, "{answer}");
    let listed = egret.api("GET", "/v1/projects/default/bindings", None).1;
    assert_eq!(listed["bindings"][0]["source"], "file", "{listed}");
    fs::write(egret.config(), without).expect("writable");
    comes(&egret, &url, "stored");
}

#[test]
fn no_request_fails_while_files_change_and_none_is_late() {
    let scene = Scene::new();
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    put(&scene.folder, &scene.world.client("0"));
    scene.comes("0");
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            let (proxy, url) = (scene.egret.proxy(), scene.url());
            std::thread::spawn(move || {
                let mut wire = Wire::connect(proxy);
                let mut served = 0;
                while !stop.load(Ordering::SeqCst) {
                    let at_least = acknowledged.load(Ordering::SeqCst);
                    let subject = ask(&mut wire, &url);
                    let number: usize = subject.parse().unwrap_or_else(|_| panic!("a failed request: {subject}"));
                    assert!(number >= at_least, "{number} after {at_least} was reported");
                    served += 1;
                }
                served
            })
        })
        .collect();
    for n in 1..=8 {
        let before = scene.egret.counter("reloads");
        let pair = scene.world.client(&n.to_string());
        if n % 3 == 0 {
            // The configuration itself changes too.
            scene
                .egret
                .reconfigure(|text| text.replace("[trust]", &format!("[[projects]]\nname = \"p{n}\"\n\n[trust]")));
        }
        put(&scene.folder, &pair);
        // Reported is what the status tells: no request has to be seen for it.
        eventually("the reload is reported", || {
            let status = scene.egret.api("GET", "/v1/projects/default/bindings", None).1;
            let id = status["bindings"][0]["certId"].as_str()?.to_owned();
            let details = scene.egret.api("GET", &format!("/v1/projects/default/certificates/{id}"), None).1;
            (details["subject"] == format!("CN={n}") && scene.egret.counter("reloads") > before).then_some(())
        });
        acknowledged.store(n, Ordering::SeqCst);
    }
    stop.store(true, Ordering::SeqCst);
    let served: usize = clients.into_iter().map(|client| client.join().expect("no request failed")).sum();
    assert!(served > 8, "{served}");
    assert!(scene.origin.seen().iter().filter(|seen| seen.resumed).all(|seen| seen.subject.is_some()));
}

#[test]
fn whom_egret_trusts_changes_with_the_anchors() {
    let world = World::new();
    let origin = origin(&world);
    let hook = "[telemetry]\nexpiry_webhook = \"https://hooks.test/x\"";
    let egret = Setup::new(&world).hosts(&[NAME]).section(hook).start();
    let url = origin.origin(NAME);
    egret.upload("default", Some(&format!("https://{OTHER}")), &world.client("unrelated"));
    let mut wire = Wire::connect(egret.proxy());
    assert_eq!(ask(&mut wire, &url), "", "nothing is presented, and the connection waits in the pool");
    let anchors = egret.config().with_file_name("servers.pem");
    fs::write(&anchors, world.stranger.pem()).expect("writable");
    eventually("the origin is trusted no more, on connections of before neither", || {
        (ask(&mut wire, &url) == "trust.unknown_issuer").then_some(())
    });
    assert_eq!(origin.heads().iter().filter(|head| head.contains("api.partner")).count(), origin.heads().len());
    eventually("what takes a restart is said", || {
        egret.log().contains("[telemetry] expiry_webhook is verified as before").then_some(())
    });
    fs::write(&anchors, "words").expect("writable");
    fails(&egret, "servers.pem");
    assert_eq!(ask(&mut wire, &url), "trust.unknown_issuer", "a broken file changes nothing");
    fs::write(&anchors, world.root.pem()).expect("writable");
    eventually("trusted again", || (ask(&mut wire, &url).is_empty()).then_some(()));
}

#[test]
fn tokens_and_projects_follow_the_file() {
    let world = World::new();
    let origin = origin(&world);
    let (first, second) = ("first-token-of-the-file-0123456789", "second-token-of-the-file-0123456789");
    let secret = world.write("app.token", first);
    let token = format!("[[tokens]]\nname = \"app\"\nfile = {secret:?}\nrole = \"proxy\"\n");
    let egret =
        Setup::new(&world).listener("many", "forward", "auth = \"token\"").section(&token).hosts(&[NAME]).start();
    let url = origin.origin(NAME);
    let authority = url.trim_start_matches("https://").to_owned();
    let ask = |wire: &mut Wire, project: &str, token: &str| {
        use base64::Engine as _;
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("{project}:{token}"));
        wire.send(format!("GET {url}/ HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: Basic {basic}\r\n\r\n"));
        wire.reply("GET").status
    };
    let mut wire = Wire::connect(egret.listener("many"));
    assert_eq!(ask(&mut wire, "default", first), 200);
    fs::write(&secret, second).expect("writable");
    eventually("the old text opens nothing, on an open connection neither", || {
        (ask(&mut wire, "default", first) == 407).then_some(())
    });
    let mut wire = Wire::connect(egret.listener("many"));
    assert_eq!(ask(&mut wire, "default", second), 200);
    assert_eq!(ask(&mut wire, "later", second), 403, "no such project yet");
    egret.reconfigure(|text| {
        text.replace("[[tokens]]", "[[projects]]\nname = \"later\"\nstate = \"blocked\"\n\n[[tokens]]")
    });
    eventually("the project is there", || (ask(&mut wire, "later", second) == 200).then_some(()));
    let body = crate::harness::egret::upload_body(None, &world.client("x"));
    let upload = || egret.api("POST", "/v1/projects/later/client-cert", Some(&body)).0;
    assert_eq!(upload(), 402);
    egret.reconfigure(|text| text.replace("state = \"blocked\"", "state = \"active\""));
    eventually("the project takes uploads", || (upload() == 200).then_some(()));
    egret.reconfigure(|text| {
        text.replace("[[projects]]\nname = \"later\"\nstate = \"active\"\n", "").replace(&token, "")
    });
    eventually("the token is gone", || (ask(&mut wire, "default", second) == 407).then_some(()));
    let (_, listed) = egret.api("GET", "/v1/projects", None);
    let later = listed["projects"].as_array().expect("a list").iter().find(|p| p["name"] == "later").cloned();
    assert_eq!(later.expect("it keeps its records")["declared"], json!(false));
}

#[test]
fn what_has_not_changed_keeps_its_connections_and_sessions() {
    let world = World::new();
    let (origin, other) = (origin(&world), origin(&world));
    let (one, two) = (world.path("one"), world.path("two"));
    put(&one, &world.client("one-1"));
    put(&two, &world.client("two-1"));
    let (first, second) = (origin.origin(NAME), other.origin(OTHER));
    let egret =
        Setup::new(&world).section(&table(&one, &first)).section(&table(&two, &second)).hosts(&[NAME, OTHER]).start();
    assert_eq!((seen(&egret, &first), seen(&egret, &second)), ("one-1".to_owned(), "two-1".to_owned()));
    for n in 2..4 {
        put(&two, &world.client(&format!("two-{n}")));
        comes(&egret, &second, &format!("two-{n}"));
        assert_eq!(seen(&egret, &first), "one-1");
    }
    // Equal content in other files is no change either.
    let pair = Pair {
        chain: fs::read_to_string(one.join("tls.crt")).expect("there"),
        key: fs::read_to_string(one.join("tls.key")).expect("there"),
        ..world.client("again")
    };
    put(&world.path("moved"), &pair);
    let before = egret.counter("reloads");
    egret.reconfigure(|text| {
        text.replace(&format!("{:?}", one.join("tls.crt")), &format!("{:?}", world.path("moved/tls.crt")))
    });
    eventually("it is read", || (egret.counter("reloads") > before).then_some(()));
    assert_eq!(seen(&egret, &first), "one-1");
    assert_eq!(origin.seen().len(), 1, "one handshake served all of it: {:?}", origin.seen());
}

#[test]
fn what_takes_a_restart_is_said_once() {
    let scene = Scene::new();
    scene
        .egret
        .reconfigure(|text| text.replace("workers = 2", "workers = 3").replace("name = \"dev\"", "name = \"renamed\""));
    let told = |what: &str| scene.egret.log().matches(what).count();
    for what in ["workers changed", "listener renamed changed", "listener dev changed"] {
        eventually(what, || (told(what) > 0).then_some(()));
    }
    put(&scene.folder, &scene.world.client("second"));
    scene.comes("second");
    assert_eq!([told("workers changed"), told("listener renamed changed")], [1, 1]);
    assert!(is_ok(&scene.egret), "nothing is wrong with it");
}
