use std::fs;
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::support::{Egret, Material, Shelf, pattern, select, settings};
use crate::backend::{RecordKey, RecordKind};
use crate::config::{DeclaredCertificate, PostQuantum, Settings};
use crate::control::records::CertificateRecord;
use crate::control::store::Write;
use crate::control::{ControlError, Depth, Drain, Properties};
use crate::domain::{CertificateId, ProjectId, ProjectInfo, Rule, Source};
use crate::registry::{Selection, Target};

fn is_unavailable(selection: &Selection) -> bool {
    let binding = selection.binding.as_ref().expect("bound");
    matches!(binding.target, Target::Unavailable(_)) && selection.tls.identity().is_none()
}

fn certificate_of(selection: &Selection) -> CertificateId {
    match &selection.binding.as_ref().expect("bound").target {
        Target::Certificate(certificate) => certificate.info.id.clone(),
        other => panic!("{other:?}"),
    }
}

/// The name of a certificate's record.
fn certificate_key(shelf: &Shelf, id: &CertificateId) -> RecordKey {
    shelf.keys(RecordKind::Certificate).into_iter().find(|k| k.id == id.as_str()).expect("stored")
}

#[tokio::test]
async fn brings_everything_back() {
    let shelf = Shelf::new();
    let material = Material::new("a");
    let (a, loose) = {
        let egret = Egret::start(&shelf, &settings()).await;
        let project = egret.project("default");
        let mut upload = material.upload("https://a.test:8443");
        upload.skip_validation = true;
        let a = egret.control.upload(&project, upload, Drain::Grace).await.expect("uploaded").certificate;
        egret.control.bind(&project, pattern("*.example.com:*"), None, Properties::default()).await.expect("bound");
        let loose = egret.upload("*", &Material::new("l")).await.expect("uploaded").certificate.info.id.clone();
        egret.control.unbind(&project, &pattern("*")).await.expect("unbound");
        (a, loose)
    };
    let egret = Egret::start(&shelf, &settings()).await;
    assert!(egret.control.report().quarantined.is_empty());
    let snapshot = egret.project("default").snapshot();
    let back = snapshot.certificate(&a.info.id).expect("there");
    assert_eq!(back.info, a.info);
    assert_eq!((&back.cert_pem, &back.ca_pem, back.digest), (&material.cert, &material.ca, a.digest));
    assert_eq!(egret.select("a.test:8443").tls.serial(), back.bound.serial());
    assert_eq!(egret.select("x.example.com:99").rule, Rule::None);
    assert!(snapshot.certificate(&loose).is_some() && !snapshot.is_bound(&loose));
    assert_eq!(snapshot.len(), 2);
    assert!(egret.upload("https://a.test:8443", &material).await.expect("the same").updated);
    assert_eq!(shelf.keys(RecordKind::Certificate).len(), 2);
}

/// As an upload of Cloudflare's dialect is stored.
#[tokio::test]
async fn a_certificate_without_a_ca_comes_back_and_is_made_anew() {
    let shelf = Shelf::new();
    let material = Material::new("a");
    let id = {
        let egret = Egret::start(&shelf, &settings()).await;
        let uploaded = egret.upload("https://a.test", &material).await.expect("uploaded").certificate;
        let record = CertificateRecord {
            cert: material.cert.clone(),
            ca: String::new(),
            key: Zeroizing::new(material.key.clone()),
            skip_validation: false,
            uploaded_at: uploaded.info.uploaded_at,
            warnings: Vec::new(),
        };
        let store = &egret.control.inner.store;
        let key = store.certificate_key(egret.project("default").id(), &uploaded.info.id);
        store.write(vec![Write::Put(key, record.to_bytes())]).await.expect("stored");
        uploaded.info.id.clone()
    };
    let egret = Egret::start(&shelf, &settings()).await;
    assert_eq!(egret.control.report().quarantined, Vec::<String>::new());
    let before = egret.select("a.test");
    assert_eq!(certificate_of(&before), id);
    let mut other = settings();
    other.trust.post_quantum = PostQuantum::Prefer;
    egret.control.reload(Arc::new(other), Vec::new(), Depth::Everything).await.expect("nothing stands in its way");
    let after = egret.select("a.test");
    assert_eq!(certificate_of(&after), id);
    assert!(after.tls.identity().is_some() && after.tls.is_post_quantum() && !before.tls.life().is_active());
}

#[tokio::test]
async fn says_that_the_key_is_another() {
    let shelf = Shelf::new();
    Egret::start(&shelf, &settings()).await.upload("*", &Material::new("d")).await.expect("uploaded");
    let error = Egret::with_key(&shelf, &settings(), 2).await.err().expect("nothing can be opened");
    assert!(error.to_string().contains("key-encryption key is not the one"), "{error}");
    assert!(Egret::with_key(&Shelf::new(), &settings(), 2).await.is_ok(), "an empty store fits every key");
}

#[tokio::test]
async fn sets_a_damaged_certificate_aside() {
    let shelf = Shelf::new();
    let id = {
        let egret = Egret::start(&shelf, &settings()).await;
        egret.upload("*", &Material::new("d")).await.expect("uploaded");
        egret.upload("https://b.test", &Material::new("b")).await.expect("uploaded");
        egret.upload("https://a.test", &Material::new("a")).await.expect("uploaded").certificate.info.id.clone()
    };
    shelf.spoil(&certificate_key(&shelf, &id));
    let egret = Egret::start(&shelf, &settings()).await;
    assert!(is_unavailable(&egret.select("a.test")), "and no fall to the default");
    assert_eq!([egret.select("b.test").rule, egret.select("c.test").rule], [Rule::Exact, Rule::Default]);
    let report = egret.control.report();
    assert!(report.quarantined.len() == 1 && report.quarantined[0].contains(id.as_str()), "{report:?}");
    assert_eq!(egret.metrics.store_quarantined.get(), 1);

    assert!(egret.upload("https://a.test", &Material::new("new")).await.expect("mended").updated);
    assert_eq!(egret.select("a.test").rule, Rule::Exact);
    assert!(egret.control.report().quarantined.is_empty());
    assert_eq!(shelf.keys(RecordKind::Certificate).len(), 3);
}

#[tokio::test]
async fn deletes_a_damaged_certificate() {
    let shelf = Shelf::new();
    let id = {
        let egret = Egret::start(&shelf, &settings()).await;
        egret.upload("*", &Material::new("d")).await.expect("uploaded");
        egret.upload("https://a.test", &Material::new("a")).await.expect("uploaded").certificate.info.id.clone()
    };
    shelf.spoil(&certificate_key(&shelf, &id));
    let egret = Egret::start(&shelf, &settings()).await;
    let patterns = egret.control.delete(&egret.project("default"), &id, Drain::Grace).await.expect("deleted");
    assert_eq!(patterns, [pattern("https://a.test")]);
    assert_eq!(egret.select("a.test").rule, Rule::Default);
    assert!(egret.control.report().quarantined.is_empty());
}

/// Damages a binding by `harm`, then mends the slot by an upload in one start and by removing it in another.
async fn holds_the_slot_of_a_damaged_binding(harm: impl Fn(&Shelf, RecordKey)) {
    for by_upload in [true, false] {
        let shelf = Shelf::new();
        {
            let egret = Egret::start(&shelf, &settings()).await;
            egret.upload("*", &Material::new("d")).await.expect("uploaded");
            let before = shelf.keys(RecordKind::Binding);
            egret.upload("https://a.test", &Material::new("a")).await.expect("uploaded");
            let after = shelf.keys(RecordKind::Binding);
            harm(&shelf, after.into_iter().find(|k| !before.contains(k)).expect("a new one"));
        }
        let egret = Egret::start(&shelf, &settings()).await;
        assert!(is_unavailable(&egret.select("a.test")));
        assert_eq!(egret.select("b.test").rule, Rule::Default);
        assert_eq!(egret.control.report().quarantined.len(), 1);
        let project = egret.project("default");
        let expected = if by_upload {
            assert!(egret.upload("https://a.test", &Material::new("n")).await.expect("mended").updated);
            Rule::Exact
        } else {
            egret.control.unbind(&project, &pattern("https://a.test")).await.expect("removed");
            Rule::Default
        };
        assert_eq!(egret.select("a.test").rule, expected);
        assert!(egret.control.report().quarantined.is_empty());
        let egret = Egret::start(&shelf, &settings()).await;
        assert_eq!(egret.select("a.test").rule, expected);
        assert!(egret.control.report().quarantined.is_empty());
    }
}

#[tokio::test]
async fn holds_the_slot_of_a_binding_whose_record_does_not_open() {
    holds_the_slot_of_a_damaged_binding(|shelf, key| shelf.spoil(&key)).await;
}

#[tokio::test]
async fn holds_the_slot_of_a_binding_that_the_backend_knows_to_be_damaged() {
    holds_the_slot_of_a_damaged_binding(|shelf, key| shelf.lost.lock().unwrap().push(key)).await;
}

#[tokio::test]
async fn opens_no_record_in_the_place_of_another() {
    let shelf = Shelf::new();
    {
        let egret = Egret::start(&shelf, &settings()).await;
        egret.upload("https://a.test", &Material::new("a")).await.expect("uploaded");
        egret.upload("https://b.test", &Material::new("b")).await.expect("uploaded");
    }
    {
        let mut records = shelf.records.lock().unwrap();
        let keys: Vec<_> = records.keys().filter(|k| k.kind == RecordKind::Binding).cloned().collect();
        let (one, two) = (records[&keys[0]].sealed.clone(), records[&keys[1]].sealed.clone());
        records.get_mut(&keys[0]).expect("there").sealed = two;
        records.get_mut(&keys[1]).expect("there").sealed = one;
    }
    let egret = Egret::start(&shelf, &settings()).await;
    assert!(is_unavailable(&egret.select("a.test")) && is_unavailable(&egret.select("b.test")));
    assert_eq!(egret.control.report().quarantined.len(), 2);
}

fn declare(settings: &mut Settings, folder: &Path, at: &str, material: &Material) {
    fs::write(folder.join("c.crt"), &material.cert).expect("written");
    fs::write(folder.join("c.key"), &material.key).expect("written");
    fs::write(folder.join("ca.crt"), &material.ca).expect("written");
    settings.certificates.push(DeclaredCertificate {
        project: ProjectId::derived("default", None),
        pattern: pattern(at),
        cert: folder.join("c.crt"),
        key: folder.join("c.key"),
        ca: folder.join("ca.crt"),
        lift: true,
        tls13_only: false,
        skip_validation: false,
    });
}

#[tokio::test]
async fn gives_a_declared_certificate_its_slot_and_keeps_the_stored_one() {
    let shelf = Shelf::new();
    let stored = {
        let egret = Egret::start(&shelf, &settings()).await;
        egret.upload("https://a.test", &Material::new("stored")).await.expect("uploaded").certificate.info.id.clone()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut with = settings();
    declare(&mut with, folder.path(), "https://a.test", &Material::new("declared"));
    let declared = {
        let egret = Egret::start(&shelf, &with).await;
        let project = egret.project("default");
        let id = certificate_of(&egret.select("a.test"));
        assert_ne!(id, stored);
        let source = project.snapshot().certificate(&id).expect("there").info.source.clone();
        assert_eq!(source, Source::File("egret.toml".into()));
        assert!(egret.control.report().unloaded.is_empty());
        let is_declared = |e: &ControlError| matches!(e, ControlError::Declared(_, file) if file == "egret.toml");
        let refused = egret.upload("https://a.test", &Material::new("x")).await.expect_err("declared");
        assert!(is_declared(&refused));
        assert!(is_declared(&egret.control.delete(&project, &id, Drain::Grace).await.expect_err("declared")));
        assert!(is_declared(
            &egret
                .control
                .bind(&project, pattern("https://a.test"), None, Properties::default())
                .await
                .expect_err("declared")
        ));
        assert!(is_declared(&egret.control.unbind(&project, &pattern("https://a.test")).await.expect_err("declared")));
        egret
            .control
            .bind(&project, pattern("https://b.test"), Some(&id), Properties::default())
            .await
            .expect("bound to another origin too");
        id
    };
    let egret = Egret::start(&shelf, &with).await;
    assert_eq!(certificate_of(&egret.select("a.test")), declared, "the id is derived from the content");
    assert_eq!(certificate_of(&egret.select("b.test")), declared);

    let egret = Egret::start(&shelf, &settings()).await;
    assert_eq!(certificate_of(&egret.select("a.test")), stored, "back once the file lets go");
    assert!(is_unavailable(&egret.select("b.test")), "what it named is gone");

    let egret = Egret::start(&shelf, &with).await;
    egret.control.delete(&egret.project("default"), &stored, Drain::Grace).await.expect("deleted behind the file");
    let egret = Egret::start(&shelf, &settings()).await;
    assert_eq!(egret.select("a.test").rule, Rule::Nothing);
}

#[tokio::test]
async fn holds_the_slot_of_a_declared_certificate_that_cannot_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut with = settings();
    declare(&mut with, folder.path(), "https://a.test", &Material::new("a"));
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    egret.upload("*", &Material::new("d")).await.expect("uploaded");
    let faults: [(&str, &dyn Fn()); 2] = [
        ("c.key", &|| fs::remove_file(folder.path().join("c.key")).expect("removed")),
        ("c.crt", &|| fs::write(folder.path().join("c.crt"), b"\xff\xfe").expect("written")),
    ];
    for (name, harm) in faults {
        declare(&mut settings(), folder.path(), "https://a.test", &Material::new("a"));
        harm();
        let egret = Egret::start(&shelf, &with).await;
        assert!(is_unavailable(&egret.select("a.test")));
        assert_eq!(egret.select("b.test").rule, Rule::Default);
        let report = egret.control.report();
        assert!(report.unloaded.len() == 1 && report.unloaded[0].contains(name), "{report:?}");
    }
    with.certificates[0].project = ProjectId::parse("prj_gone").expect("an id");
    let egret = Egret::start(&shelf, &with).await;
    assert!(egret.control.report().unloaded[0].contains("prj_gone"));
}

/// The name of one project moves to another in the file: the certificates stay with the id that owns them.
#[tokio::test]
async fn gives_records_to_the_id_before_the_name() {
    let shelf = Shelf::new();
    let named = |id: &str, name: &str| ProjectInfo {
        id: ProjectId::parse(id).expect("an id"),
        declared: true,
        ..ProjectInfo::named(name)
    };
    let declaring = |projects: Vec<ProjectInfo>| Settings { projects, ..settings() };
    let upload = |egret: &Egret, project: &str, material: &Material| {
        let (control, project, upload) = (egret.control.clone(), egret.project(project), material.upload("*"));
        async move { control.upload(&project, upload, Drain::Grace).await.expect("uploaded").certificate.info.id.clone() }
    };
    let own = {
        let egret = Egret::start(&shelf, &declaring(vec![named("prj_1", "payments")])).await;
        upload(&egret, "payments", &Material::new("one")).await
    };
    let swapped = declaring(vec![named("prj_2", "payments"), named("prj_1", "legacy")]);
    let other = {
        let egret = Egret::start(&shelf, &swapped).await;
        assert!(egret.project("payments").snapshot().is_empty(), "it is another project");
        assert_eq!(certificate_of(&select(&egret.project("prj_1"), "a.test")), own);
        upload(&egret, "payments", &Material::new("two")).await
    };
    // Neither is declared any more by its own name: the stored namesake goes by its id, the declared one by both.
    let egret = Egret::start(&shelf, &declaring(vec![named("prj_1", "payments")])).await;
    assert_eq!(certificate_of(&select(&egret.project("payments"), "a.test")), own);
    assert_eq!(certificate_of(&select(&egret.project("prj_2"), "a.test")), other);
    assert_eq!(egret.project("prj_2").load().info().name, "prj_2");
}

#[tokio::test]
async fn a_project_wide_certificate_can_still_be_rolled_back_and_is_let_go_of_in_time() {
    let shelf = Shelf::new();
    let old = {
        let egret = Egret::start(&shelf, &settings()).await;
        let old = egret.upload("*", &Material::new("old")).await.expect("uploaded").certificate.info.id.clone();
        egret.upload("*", &Material::new("new")).await.expect("replaced");
        old
    };
    let egret = Egret::start(&shelf, &settings()).await;
    let project = egret.project("default");
    assert!(project.snapshot().certificate(&old).is_none(), "what is only kept is no certificate of the project");
    assert!(egret.control.kept_for(&project, &old).is_some());
    let later = crate::domain::time::now() + settings().limits.rollback_window + time::Duration::HOUR;
    egret.control.let_go_of_ended(later).await;
    assert_eq!(shelf.keys(RecordKind::Certificate).len(), 1, "its key is wiped");
}
