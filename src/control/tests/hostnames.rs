//! Hostname certificates and associations.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::support::{Egret, Material, Shelf, declaring, pattern, settings, token};
use crate::backend::RecordKind;
use crate::control::{AccountUpload, ControlError, Drain, EntryKind, Properties, Wanted};
use crate::domain::{CertificateId, Holder, Host, ProjectInfo, ProjectState, Rule};
use crate::identity::Phase;
use crate::registry::{Association, Binding};

async fn egret() -> (Arc<Shelf>, Egret) {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    (shelf, egret)
}

fn wanted(hostname: &str, certificate: Option<&CertificateId>, enabled: Option<bool>) -> Wanted {
    Wanted { hostname: Host::parse(hostname).expect(hostname), certificate: certificate.cloned(), enabled }
}

fn on(hostname: &str, certificate: &CertificateId) -> Wanted {
    wanted(hostname, Some(certificate), Some(true))
}

fn off(hostname: &str, certificate: &CertificateId) -> Wanted {
    wanted(hostname, Some(certificate), Some(false))
}

fn void(hostname: &str) -> Wanted {
    wanted(hostname, None, None)
}

async fn associate(egret: &Egret, wanted: &[Wanted]) -> Result<(), ControlError> {
    egret.control.associate(&egret.project("default"), wanted.to_vec()).await
}

async fn associated(egret: &Egret, wanted: &[Wanted]) {
    associate(egret, wanted).await.expect("associated");
}

/// Index, sort and field of every fault.
async fn faults(egret: &Egret, wanted: &[Wanted]) -> Vec<(usize, EntryKind, &'static str)> {
    match associate(egret, wanted).await {
        Err(ControlError::Entries(faults)) => faults.into_iter().map(|f| (f.index, f.kind, f.field)).collect(),
        other => panic!("{other:?}"),
    }
}

fn slot(egret: &Egret, hostname: &str) -> Option<Arc<Binding>> {
    egret.project("default").snapshot().binding(&pattern(&format!("https://{hostname}:*")))
}

fn association(egret: &Egret, hostname: &str) -> Association {
    slot(egret, hostname).and_then(|binding| binding.association.clone()).expect("associated")
}

#[tokio::test]
async fn true_presents_false_presents_nothing_and_null_falls_back() {
    let (shelf, egret) = egret().await;
    egret.set_zone(true).await;
    egret.held(Holder::Zone, "zone").await;
    let id = egret.held(Holder::Hostnames, "h").await;
    assert_eq!(egret.presents("a.test"), "zone", "one for hostnames is presented nowhere by itself");
    associated(&egret, &[on("A.test", &id), off("b.test", &id)]).await;
    let expected =
        [("a.test", "h"), ("a.test:8443", "h"), ("b.test", "none"), ("b.test:99", "none"), ("c.test", "zone")];
    let again = Egret::start(&shelf, &settings()).await;
    for egret in [&egret, &again] {
        for (origin, presented) in expected {
            assert_eq!(egret.presents(origin), presented, "{origin}");
        }
        assert_eq!(association(egret, "b.test").certificate.as_ref(), Some(&id), "it remembers");
    }
    associated(&egret, &[void("a.test"), void("b.test"), void("never.test")]).await;
    for (origin, _) in expected {
        assert_eq!(egret.presents(origin), "zone", "{origin}");
    }
    assert!(shelf.keys(RecordKind::Binding).is_empty());
    assert!(egret.project("default").snapshot().certificate(&id).is_some(), "it stays until it is deleted");
}

#[tokio::test]
async fn the_same_again_changes_nothing() {
    let (shelf, egret) = egret().await;
    let id = egret.held(Holder::Hostnames, "h").await;
    let vercel =
        egret.upload("https://v.test:*", &Material::new("v")).await.expect("uploaded").certificate.info.id.clone();
    let all = [on("a.test", &id), off("b.test", &id), on("v.test", &vercel), void("c.test")];
    associated(&egret, &all).await;
    let (tls, records) = (egret.select("a.test").tls, shelf.records.lock().unwrap().clone());
    let revision = egret.project("default").load().revision();
    associated(&egret, &all).await;
    associated(&egret, &[all[0].clone(), all[0].clone()]).await;
    associated(&egret, &[]).await;
    assert_eq!(*shelf.records.lock().unwrap(), records);
    assert_eq!(egret.project("default").load().revision(), revision, "nothing was published");
    assert!(tls.life().is_active());
    assert!(slot(&egret, "v.test").expect("bound").association.is_none(), "it stood for one before");
}

#[tokio::test]
async fn repinning_retires_the_certificate_that_no_hostname_names_any_more() {
    let (_, egret) = egret().await;
    let project = egret.project("default");
    let (old, new) = (egret.held(Holder::Hostnames, "old").await, egret.held(Holder::Hostnames, "new").await);
    associated(&egret, &[on("a.test", &old), on("b.test", &old), on("c.test", &new)]).await;
    let created = association(&egret, "a.test").created_at;
    let (was, c) = (egret.select("a.test").tls, egret.select("c.test").tls);
    was.life().opened();
    associated(&egret, &[on("a.test", &new)]).await;
    assert_eq!((egret.presents("a.test"), was.life().phase()), ("new".to_owned(), Phase::Active), "b.test uses it");
    let refused = egret.release(Holder::Hostnames, &old).await.expect_err("in use");
    assert!(matches!(&refused, ControlError::InUse(what) if what.contains("hostname b.test;")), "{refused}");
    associated(&egret, &[on("b.test", &new)]).await;
    assert_eq!((egret.presents("b.test"), was.life().phase()), ("new".to_owned(), Phase::Draining));
    assert!(Arc::ptr_eq(&c, &egret.select("c.test").tls) && c.life().is_active());
    let retired = project.retired();
    assert_eq!((retired[0].info.holder, retired[0].superseded_by.as_ref()), (Holder::Hostnames, Some(&new)));
    assert_eq!(association(&egret, "a.test").created_at, created);
    // It is still there, and as good as new.
    associated(&egret, &[on("d.test", &old)]).await;
    assert!(egret.select("d.test").tls.life().is_active());
    associated(&egret, &[void("d.test")]).await;
    egret.release(Holder::Hostnames, &old).await.expect("nothing names it");
    assert!(matches!(egret.release(Holder::Hostnames, &old).await, Err(ControlError::Ending(..))));
}

#[tokio::test]
async fn two_hostnames_can_change_places_in_one_go() {
    let (_, egret) = egret().await;
    let (a, b) = (egret.held(Holder::Hostnames, "a").await, egret.held(Holder::Hostnames, "b").await);
    associated(&egret, &[on("a.test", &a), on("b.test", &b)]).await;
    let lives = [egret.select("a.test").tls, egret.select("b.test").tls];
    associated(&egret, &[on("a.test", &b), on("b.test", &a)]).await;
    assert_eq!([egret.presents("a.test"), egret.presents("b.test")], ["b", "a"]);
    assert!(lives.iter().all(|tls| tls.life().is_active()), "both are in use as before");
}

#[tokio::test]
async fn a_certificate_is_not_deleted_while_anything_names_it() {
    let (shelf, egret) = egret().await;
    let project = egret.project("default");
    let id = egret.held(Holder::Hostnames, "h").await;
    let refused = async |egret: &Egret| match egret.release(Holder::Hostnames, &id).await {
        Err(ControlError::InUse(what)) => what,
        other => panic!("{other:?}"),
    };
    let records = |shelf: &Shelf| shelf.records.lock().unwrap().clone();
    associated(&egret, &[off("off.test", &id)]).await;
    let before = records(&shelf);
    assert!(refused(&egret).await.contains("hostname off.test"), "one that presents nothing counts as well");
    associated(&egret, &[void("off.test")]).await;
    egret
        .control
        .bind(&project, pattern("https://x.test:8443"), Some(&id), Properties::default())
        .await
        .expect("bound");
    assert!(refused(&egret).await.contains("binding https://x.test:8443"));
    egret.control.unbind(&project, &pattern("https://x.test:8443")).await.expect("unbound");
    // Behind what a file declares there, whether it presents or remembers.
    let folder = tempfile::tempdir().expect("a folder");
    for enabled in [on("d.test", &id), off("d.test", &id)] {
        associated(&egret, &[enabled]).await;
        let with = declaring(folder.path(), "https://d.test:*", &Material::new("declared"));
        egret.reload(&with).await;
        assert_eq!(egret.presents("d.test"), "declared");
        assert!(refused(&egret).await.contains("hostname d.test"));
        assert_eq!(faults(&egret, &[void("d.test")]).await, [(0, EntryKind::Declared, "hostname")]);
        let declared = egret.project("default").snapshot().binding(&pattern("https://d.test:*")).expect("is bound");
        let declared = declared.target.certificate_id().expect("to a certificate");
        let why = egret.release(Holder::Hostnames, declared).await.expect_err("it is the file's");
        assert!(matches!(&why, ControlError::Declared(_, file) if file == "egret.toml"), "{why}");
        egret.reload(&settings()).await;
    }
    assert_eq!(egret.presents("d.test"), "none");
    associated(&egret, &[void("d.test")]).await;
    let digits = CertificateId::parse(id.hex().expect("hex")).expect("an id");
    egret.release(Holder::Hostnames, &digits).await.expect("nothing names it");
    assert_ne!(records(&shelf), before);
    assert!(shelf.keys(RecordKind::Certificate).is_empty());
}

#[tokio::test]
async fn what_a_hostname_remembers_outlives_the_other_places_that_it_had() {
    let (shelf, egret) = egret().await;
    let material = Material::new("remembered");
    let id = egret.upload("https://a.test:*", &material).await.expect("uploaded").certificate.info.id.clone();
    let again = async |at: &str, certificate: &CertificateId| {
        let (project, properties) = (egret.project("default"), Properties::default());
        egret.control.bind(&project, pattern(at), Some(certificate), properties).await.expect("bound");
    };
    again("https://x.test", &id).await;
    associated(&egret, &[off("a.test", &id)]).await;
    let later = egret.upload("https://x.test", &Material::new("later")).await.expect("uploaded").certificate;
    egret.control.roll_back(&egret.project("default"), &pattern("https://x.test"), Drain::Grace).await.expect("back");
    assert!(egret.project("default").snapshot().certificate(&later.info.id).is_none(), "nothing names or remembers it");
    egret.upload("https://x.test", &Material::new("latest")).await.expect("uploaded");
    assert_eq!((egret.presents("a.test"), egret.presents("x.test")), ("none".to_owned(), "latest".to_owned()));
    let mut egret = egret;
    for _ in 0..2 {
        associated(&egret, &[on("a.test", &id)]).await;
        assert_eq!(egret.presents("a.test"), "remembered", "it is switched on again as it was");
        associated(&egret, &[off("a.test", &id)]).await;
        egret = Egret::start(&shelf, &settings()).await;
    }
}

#[tokio::test]
async fn the_other_dialect_deletes_it_with_its_bindings_and_what_remembered_it_forgets() {
    let (shelf, egret) = egret().await;
    let project = egret.project("default");
    let id = egret.held(Holder::Hostnames, "h").await;
    associated(&egret, &[on("a.test", &id), off("b.test", &id), off("d.test", &id)]).await;
    let folder = tempfile::tempdir().expect("a folder");
    egret.reload(&declaring(folder.path(), "https://d.test:*", &Material::new("declared"))).await;
    let patterns = egret.control.delete(&project, &id, Drain::Grace).await.expect("deleted");
    assert_eq!(patterns, [pattern("https://a.test:*")]);
    egret.reload(&settings()).await;
    let again = Egret::start(&shelf, &settings()).await;
    for egret in [&egret, &again] {
        assert_eq!(egret.presents("a.test"), "nothing");
        for hostname in ["b.test", "d.test"] {
            assert_eq!((egret.presents(hostname), association(egret, hostname).certificate), ("none".to_owned(), None));
        }
        assert!(egret.project("default").snapshot().roster().is_empty());
    }
}

#[tokio::test]
async fn all_faults_are_told_at_once_and_nothing_changes() {
    let (shelf, egret) = egret().await;
    let project = egret.project("default");
    let id = egret.held(Holder::Hostnames, "h").await;
    let zone = egret.held(Holder::Zone, "z").await;
    let wide = egret.upload("*", &Material::new("w")).await.expect("uploaded").certificate.info.id.clone();
    let port =
        egret.upload("https://p.test:8443", &Material::new("p")).await.expect("uploaded").certificate.info.id.clone();
    let folder = tempfile::tempdir().expect("a folder");
    egret.reload(&declaring(folder.path(), "https://declared.test:*", &Material::new("declared"))).await;
    let (records, revision) = (shelf.records.lock().unwrap().clone(), project.load().revision());
    let nobody = CertificateId::bare([7; 16]);
    let mut entries: Vec<_> = (0..190).map(|n| on(&format!("h{n}.test"), &id)).collect();
    entries.truncate(50);
    entries.extend([
        wanted("m.test", None, Some(true)),
        wanted("n.test", None, Some(false)),
        on("o.test", &nobody),
        on("p.test", &zone),
        off("q.test", &wide),
        on("r.test", &port),
        on("declared.test", &id),
        off("h0.test", &id),
    ]);
    let (missing, unknown, wrong) =
        (EntryKind::MissingCertificate, EntryKind::UnknownCertificate, EntryKind::WrongList);
    let expected = [
        (50, missing, "cert_id"),
        (51, missing, "cert_id"),
        (52, unknown, "cert_id"),
        (53, wrong, "cert_id"),
        (54, wrong, "cert_id"),
        (55, unknown, "cert_id"),
        (56, EntryKind::Declared, "hostname"),
        (57, EntryKind::Twice, "hostname"),
    ];
    assert_eq!(faults(&egret, &entries).await, expected);
    let text = associate(&egret, &entries).await.expect_err("faulty").to_string();
    assert!(text.contains("config[53].cert_id: this is one of the zone's own certificates"), "{text}");
    assert!(text.contains("egret.toml") && !text.contains("o.test") && !text.contains(nobody.as_str()), "{text}");
    assert_eq!(*shelf.records.lock().unwrap(), records);
    assert_eq!(project.load().revision(), revision);
    assert_eq!(egret.select("h0.test").rule, Rule::Default);

    shelf.broken.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(associate(&egret, &entries[..50]).await, Err(ControlError::Storing(_))));
    assert_eq!(project.load().revision(), revision);
    shelf.broken.store(false, std::sync::atomic::Ordering::Relaxed);
    associated(&egret, &entries[..50]).await;
    assert_eq!(project.load().revision(), revision + 1, "all of it at once");
    assert_eq!(egret.presents("h49.test"), "h");
}

#[tokio::test]
async fn a_certificate_takes_as_many_associations_as_its_limit_allows() {
    let mut settings = settings();
    settings.limits.max_associations = 2;
    let egret = Egret::start(&Shelf::new(), &settings).await;
    let (id, other) = (egret.held(Holder::Hostnames, "h").await, egret.held(Holder::Hostnames, "o").await);
    associated(&egret, &[on("a.test", &id), off("b.test", &id)]).await;
    let too_many = |index| (index, EntryKind::TooMany, "cert_id");
    assert_eq!(faults(&egret, &[on("c.test", &id), off("d.test", &id)]).await, [too_many(0), too_many(1)]);
    assert_eq!(egret.metrics.store_limits_reached.get(), 1);
    associated(&egret, &[off("a.test", &id), on("b.test", &id)]).await;
    associated(&egret, &[on("c.test", &id), void("a.test")]).await;
    assert_eq!(faults(&egret, &[on("a.test", &id), on("x.test", &other)]).await, [too_many(0)]);
    assert_eq!(egret.presents("x.test"), "nothing", "all or nothing");
    associated(&egret, &[on("b.test", &other), on("a.test", &id)]).await;
    // What is beyond a limit that was lowered stays, and may be switched.
    let mut limits = egret.control.limits().now();
    limits.max_associations = 1;
    egret.control.limits().replace(limits);
    associated(&egret, &[off("a.test", &id)]).await;
}

#[tokio::test]
async fn what_the_other_dialect_bound_is_an_association_and_gives_way_to_one() {
    let (shelf, egret) = egret().await;
    let project = egret.project("default");
    let mut upload = Material::new("v").upload("https://v.test:*");
    upload.tls13_only = Some(true);
    egret.control.upload(&project, Material::new("before").upload("https://v.test:*"), Drain::Grace).await.expect("up");
    let vercel = egret.control.upload(&project, upload, Drain::Grace).await.expect("up").certificate.info.id.clone();
    let no_lift = Properties { lift: Some(false), ..Properties::default() };
    egret.control.bind(&project, pattern("https://v.test:*"), Some(&vercel), no_lift).await.expect("bound");
    let (was, since) = (egret.select("v.test").tls, slot(&egret, "v.test").expect("bound").since);
    assert!(matches!(egret.release(Holder::Hostnames, &vercel).await, Err(ControlError::InUse(_))));
    assert_eq!(shelf.keys(RecordKind::Certificate).len(), 2, "one is kept to go back to");

    let id = egret.held(Holder::Hostnames, "h").await;
    associated(&egret, &[on("v.test", &id)]).await;
    let binding = slot(&egret, "v.test").expect("bound");
    assert_eq!((egret.presents("v.test"), was.life().phase()), ("h".to_owned(), Phase::Draining));
    assert!(binding.tls13_only && !binding.lift && binding.previous.is_none(), "{binding:?}");
    assert_eq!(association(&egret, "v.test").created_at, since);
    assert_eq!(shelf.keys(RecordKind::Certificate).len(), 2, "what was kept is let go of");
    assert!(project.snapshot().certificate(&vercel).is_some_and(|c| c.objects().all(|tls| tls.life().is_active())));

    associated(&egret, &[off("v.test", &id)]).await;
    associated(&egret, &[on("v.test", &vercel)]).await;
    let tls = egret.select("v.test").tls;
    assert!(tls.is_tls13_only() && tls.life().is_active(), "as strict as before");
    associated(&egret, &[void("v.test")]).await;
    egret.release(Holder::Hostnames, &vercel).await.expect("voided, it can be deleted");
}

#[tokio::test]
async fn an_upload_of_the_other_dialect_takes_a_hostname_and_leaves_the_list() {
    let (_, egret) = egret().await;
    let id = egret.held(Holder::Hostnames, "h").await;
    associated(&egret, &[on("a.test", &id), off("b.test", &id)]).await;
    let was = egret.select("a.test").tls;
    for hostname in ["a.test", "b.test"] {
        egret.upload(&format!("https://{hostname}:*"), &Material::new("v")).await.expect("uploaded");
        assert_eq!(egret.presents(hostname), "v");
        assert!(slot(&egret, hostname).expect("bound").association.is_none());
    }
    assert_eq!(was.life().phase(), Phase::Draining);
    egret.release(Holder::Hostnames, &id).await.expect("nothing names it any more");
}

#[tokio::test]
async fn a_damaged_certificate_can_be_voided_and_deleted() {
    let (shelf, egret) = egret().await;
    egret.upload("*", &Material::new("wide")).await.expect("uploaded");
    let id = egret.held(Holder::Hostnames, "h").await;
    associated(&egret, &[on("a.test", &id)]).await;
    let key = shelf.keys(RecordKind::Certificate).into_iter().find(|key| key.id == id.as_str()).expect("stored");
    shelf.spoil(&key);
    let egret = Egret::start(&shelf, &settings()).await;
    assert_eq!(egret.presents("a.test"), "unavailable");
    assert_eq!(faults(&egret, &[on("b.test", &id)]).await, [(0, EntryKind::UnknownCertificate, "cert_id")]);
    assert!(matches!(egret.release(Holder::Hostnames, &id).await, Err(ControlError::InUse(_))));
    associated(&egret, &[void("a.test")]).await;
    assert_eq!(egret.presents("a.test"), "wide");
    assert!(egret.release(Holder::Hostnames, &id).await.expect("deleted").certificate.is_none());
    assert!(egret.control.report().quarantined.is_empty());
}

#[tokio::test]
async fn a_damaged_association_is_written_anew_or_voided() {
    for enabled in [Some(true), Some(false), None] {
        let (shelf, egret) = egret().await;
        egret.upload("*", &Material::new("wide")).await.expect("uploaded");
        let id = egret.held(Holder::Hostnames, "h").await;
        let before = shelf.keys(RecordKind::Binding);
        associated(&egret, &[on("a.test", &id)]).await;
        let key = shelf.keys(RecordKind::Binding).into_iter().find(|key| !before.contains(key)).expect("a new one");
        shelf.spoil(&key);
        let egret = Egret::start(&shelf, &settings()).await;
        assert_eq!(egret.presents("a.test"), "unavailable");
        associated(&egret, &[wanted("a.test", Some(&id), enabled)]).await;
        let presented = match enabled {
            Some(true) => "h",
            Some(false) => "none",
            None => "wide",
        };
        assert_eq!(egret.presents("a.test"), presented);
        assert!(egret.control.report().quarantined.is_empty());
    }
}

#[tokio::test]
async fn an_mtls_certificate_of_the_account_is_none_that_hostnames_name() {
    let mut settings = settings();
    settings.projects = vec![ProjectInfo { account_id: Some("0a".repeat(16)), ..ProjectInfo::named("default") }];
    let egret = Egret::start(&Shelf::new(), &settings).await;
    let material = Material::new("m");
    let upload = AccountUpload {
        ca: false,
        name: None,
        certificates: Zeroizing::new(material.cert.clone()),
        key: Some(Zeroizing::new(material.key.clone())),
        by: token("t"),
        retry: false,
    };
    let id = egret.control.account_upload(&"0a".repeat(16), upload).await.expect("uploaded").info.id.clone();
    let project = egret.project("default");
    for is_bound in [false, true] {
        if is_bound {
            let at = pattern("https://h.test:*");
            egret.control.bind(&project, at, Some(&id), Properties::default()).await.expect("bound");
        }
        assert_eq!(faults(&egret, &[on("a.test", &id)]).await, [(0, EntryKind::WrongList, "cert_id")]);
        for holder in [Holder::Hostnames, Holder::Zone] {
            let refused = egret.release(holder, &id).await.expect_err("the account's");
            assert!(matches!(refused, ControlError::WrongList { held: Holder::Account, .. }), "{refused}");
        }
    }
    let was = egret.select("h.test").tls;
    associated(&egret, &[void("h.test")]).await;
    assert_eq!((egret.presents("h.test"), was.life().phase()), ("nothing".to_owned(), Phase::Draining));
    assert!(project.snapshot().certificate(&id).is_none(), "it went with its last binding");
}

#[tokio::test]
async fn a_blocked_project_takes_no_uploads_and_one_that_is_transferred_no_changes() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    let ids = [egret.held(Holder::Hostnames, "a").await, egret.held(Holder::Hostnames, "b").await];
    associated(&egret, &[on("a.test", &ids[0])]).await;
    let records = shelf.records.lock().unwrap().clone();
    let with = |state| {
        let projects = vec![ProjectInfo { state, ..ProjectInfo::named("default") }];
        crate::config::Settings { projects, ..settings() }
    };
    egret.reload(&with(ProjectState::Transferring)).await;
    let project = egret.project("default");
    for refused in [
        egret.hold(Holder::Zone, &Material::new("z")).await.err(),
        egret.release(Holder::Hostnames, &ids[1]).await.err(),
        egret.control.set_zone(&project, true).await.err(),
        associate(&egret, &[void("a.test")]).await.err(),
    ] {
        assert!(matches!(refused, Some(ControlError::Transferring)), "{refused:?}");
    }
    assert_eq!(egret.presents("a.test"), "a");
    let mut kept = records.keys().filter(|key| key.kind != RecordKind::Project);
    assert!(kept.all(|key| shelf.records.lock().unwrap().get(key) == records.get(key)));
    egret.reload(&with(ProjectState::Blocked)).await;
    assert!(matches!(egret.hold(Holder::Zone, &Material::new("z")).await, Err(ControlError::Blocked)));
    egret.set_zone(true).await;
    associated(&egret, &[on("a.test", &ids[1])]).await;
    egret.release(Holder::Hostnames, &ids[0]).await.expect("what is there may be taken away");
}
