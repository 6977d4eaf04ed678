use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::support::{Egret, Material, Shelf, settings};
use crate::config::{CertificateFolder, Settings};
use crate::control::{Depth, ReloadReport};
use crate::domain::{ProjectId, Rule, Source};
use crate::identity::Phase;

struct Folder {
    root: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { root: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("certs").join(name)
    }

    fn settings(&self) -> Settings {
        let folder = CertificateFolder {
            path: self.path(""),
            project: ProjectId::derived("default", None),
            skip_validation: false,
            lift: true,
            tls13_only: false,
        };
        Settings { certificate_folders: vec![folder], ..settings() }
    }

    /// As cert-manager writes it.
    fn triple(&self, name: &str, material: &Material) {
        fs::create_dir_all(self.path(name)).expect("made");
        for (file, text) in [("tls.crt", &material.cert), ("tls.key", &material.key), ("ca.crt", &material.ca)] {
            fs::write(self.path(name).join(file), text).expect("written");
        }
    }

    /// As mitmproxy takes it.
    fn bundle(&self, name: &str, parts: &[&String]) {
        let text: String = parts.iter().map(|part| part.as_str()).collect();
        fs::create_dir_all(self.path("")).expect("made");
        fs::write(self.path(name), text).expect("written");
    }
}

async fn reload(egret: &Egret, settings: &Settings) -> ReloadReport {
    egret.control.reload(Arc::new(settings.clone()), Vec::new(), Depth::Changed).await.expect("nothing in its way")
}

fn subject(egret: &Egret, origin: &str) -> String {
    egret.select(origin).tls.identity().map_or_else(|| "nobody".to_owned(), |i| i.info().subject.clone())
}

fn place(egret: &Egret, origin: &str) -> PathBuf {
    match &egret.select(origin).binding.expect("bound").source {
        Source::File(place) => place.clone(),
        Source::Api => panic!("not declared"),
    }
}

#[tokio::test]
async fn both_ways_to_lie_in_a_folder_are_understood() {
    let folder = Folder::new();
    let [a, b, c, d, wild] = ["a", "b", "c", "d", "wild"].map(Material::new);
    folder.triple("a.test", &a);
    folder.triple("_default", &d);
    folder.triple("_wildcard.wild.test_8443", &wild);
    folder.bundle("b.test.pem", &[&b.key, &b.ca, &b.cert]);
    folder.bundle("c.test:8443.pem", &[&c.cert, &c.key]);
    fs::write(folder.path("ca.pem"), &c.ca).expect("written");
    fs::write(folder.path(".b.test.pem.swp"), "half").expect("written");
    fs::write(folder.path("README"), "words").expect("written");
    fs::create_dir(folder.path("e.test")).expect("made");
    let egret = Egret::start(&Shelf::new(), &folder.settings()).await;
    let report = egret.control.report();
    assert!(report.unloaded.is_empty() && report.faults.is_empty(), "{report:?}");
    for (origin, expected) in [
        ("a.test", "CN=a"),
        ("b.test", "CN=b"),
        ("c.test:8443", "CN=c"),
        ("x.wild.test:8443", "CN=wild"),
        ("e.test", "CN=d"),
    ] {
        assert_eq!(subject(&egret, origin), expected, "{origin}");
    }
    assert_eq!(place(&egret, "a.test"), folder.path("a.test/tls.crt"));
    assert_eq!(place(&egret, "b.test"), folder.path("b.test.pem"));
}

#[tokio::test]
async fn new_ones_come_vanished_ones_go_and_broken_ones_stay_as_they_were() {
    let folder = Folder::new();
    folder.triple("a.test", &Material::new("a"));
    folder.triple("b.test", &Material::new("b"));
    let with = folder.settings();
    let egret = Egret::start(&Shelf::new(), &with).await;
    let (a, b) = (egret.select("a.test").tls, egret.select("b.test").tls);
    let c = Material::new("c");
    folder.bundle("c.test.pem", &[&c.cert, &c.key, &c.ca]);
    fs::write(folder.path("a.test/tls.crt"), "half").expect("written");
    let report = reload(&egret, &with).await;
    assert!(report.kept.len() == 1 && report.kept[0].contains("a.test/tls.crt"), "{report:?}");
    assert_eq!([subject(&egret, "a.test"), subject(&egret, "c.test")], ["CN=a", "CN=c"]);
    assert!(a.life().is_active() && b.life().is_active());

    fs::remove_dir_all(folder.path("b.test")).expect("removed");
    // Emptied, to be filled again: not yet gone.
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        fs::remove_file(folder.path("a.test").join(file)).expect("removed");
    }
    let report = reload(&egret, &with).await;
    assert!(report.kept.len() == 1 && report.kept[0].contains("a.test/tls.crt"), "{report:?}");
    assert_eq!(egret.select("b.test").rule, Rule::Nothing);
    assert!(b.life().phase() == Phase::Draining && a.life().is_active());
    let grace = b.life().deadline().expect("it ends") - tokio::time::Instant::now();
    assert!(grace <= with.limits.delete_grace, "{grace:?}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_read_keeps_everything() {
    let folder = Folder::new();
    let with = folder.settings();
    let egret = Egret::start(&Shelf::new(), &with).await;
    assert_eq!(egret.control.report().unloaded.len(), 1, "promised, and not there yet");
    folder.triple("a.test", &Material::new("a"));
    let report = reload(&egret, &with).await;
    assert!(report.failures().is_empty() && egret.control.report().unloaded.is_empty(), "{report:?}");
    let a = egret.select("a.test").tls;
    fs::rename(folder.path(""), folder.root.path().join("elsewhere")).expect("moved");
    let report = reload(&egret, &with).await;
    assert!(report.faults.len() == 1 && report.unloaded.is_empty(), "{report:?}");
    assert!(a.life().is_active() && subject(&egret, "a.test") == "CN=a");
    // Taken out of the file, it is no more declared.
    reload(&egret, &settings()).await;
    assert_eq!(egret.select("a.test").rule, Rule::Nothing);
}

#[tokio::test]
async fn what_cannot_be_looked_at_has_not_vanished() {
    let folder = Folder::new();
    let (a, b) = (Material::new("a"), Material::new("b"));
    folder.bundle("a.test.pem", &[&a.cert, &a.key, &a.ca]);
    folder.triple("b.test", &b);
    let with = folder.settings();
    let egret = Egret::start(&Shelf::new(), &with).await;
    // As without the right to look: a link that leads to itself is an error of another kind than "not found".
    let hide = |name: &str| {
        symlink(folder.path(name), folder.path("hidden")).expect("linked");
        fs::rename(folder.path("hidden"), folder.path(name)).expect("renamed");
    };
    hide("a.test.pem");
    let report = reload(&egret, &with).await;
    assert!(report.faults.len() == 1 && report.faults[0].contains("a.test.pem"), "{report:?}");
    assert_eq!([subject(&egret, "a.test"), subject(&egret, "b.test")], ["CN=a", "CN=b"]);
    // Nor is a folder empty whose files cannot be looked at.
    fs::create_dir(folder.path("c.test")).expect("made");
    hide("c.test/tls.crt");
    hide("c.test/tls.key");
    let report = reload(&egret, &with).await;
    assert!(report.unloaded.len() == 1 && report.unloaded[0].contains("c.test/tls.crt"), "{report:?}");
    fs::remove_file(folder.path("a.test.pem")).expect("removed");
    reload(&egret, &with).await;
    assert_eq!(egret.select("a.test").rule, Rule::Nothing, "now it has");
}

#[tokio::test]
async fn a_mounted_secret_is_swapped_at_once() {
    let folder = Folder::new();
    let write = |version: &str, material: &Material| {
        let at = folder.path("a.test").join(version);
        fs::create_dir_all(&at).expect("made");
        for (file, text) in [("tls.crt", &material.cert), ("tls.key", &material.key), ("ca.crt", &material.ca)] {
            fs::write(at.join(file), text).expect("written");
        }
        symlink(version, folder.path("a.test/..data_tmp")).expect("linked");
        fs::rename(folder.path("a.test/..data_tmp"), folder.path("a.test/..data")).expect("renamed");
    };
    write("..2026_1", &Material::new("one"));
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(Path::new("..data").join(file), folder.path("a.test").join(file)).expect("linked");
    }
    let with = folder.settings();
    let egret = Egret::start(&Shelf::new(), &with).await;
    assert_eq!(subject(&egret, "a.test"), "CN=one");
    write("..2026_2", &Material::new("two"));
    reload(&egret, &with).await;
    assert_eq!(subject(&egret, "a.test"), "CN=two");
}

#[tokio::test]
async fn one_origin_in_two_places_is_an_error_that_names_both() {
    let folder = Folder::new();
    let (one, two) = (Material::new("one"), Material::new("two"));
    folder.triple("a.test", &one);
    let with = folder.settings();
    let egret = Egret::start(&Shelf::new(), &with).await;
    folder.bundle("A.test_443.pem", &[&two.cert, &two.key, &two.ca]);
    let refused = egret.control.reload(Arc::new(with.clone()), Vec::new(), Depth::Changed).await.expect_err("two");
    assert!(refused.contains("a.test/tls.crt") && refused.contains("A.test_443.pem"), "{refused}");
    assert_eq!(subject(&egret, "a.test"), "CN=one");
    assert!(Egret::with_key(&Shelf::new(), &with, 1).await.is_err(), "nor does it start");
    fs::rename(folder.path("A.test_443.pem"), folder.path("not a name.pem")).expect("renamed");
    let report = reload(&egret, &with).await;
    assert!(report.faults.len() == 1 && report.faults[0].contains("not a name.pem"), "{report:?}");
    assert!(egret.control.report().unloaded.is_empty(), "a stray makes nobody unready");
}
