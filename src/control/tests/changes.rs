use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::support::{Egret, Material, Shelf, pattern, settings};
use crate::backend::RecordKind;
use crate::control::{ControlError, Drain, Properties};
use crate::domain::{CertificateId, ProjectInfo, ProjectState, Rule};
use crate::identity::{Phase, Show};
use crate::registry::{Certificate, Target};

async fn egret() -> (Arc<Shelf>, Egret) {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    (shelf, egret)
}

#[tokio::test]
async fn uploads_and_selects() {
    let (shelf, egret) = egret().await;
    let done = egret.upload("https://A.test:443", &Material::new("a")).await.expect("uploaded");
    assert!(!done.updated);
    assert_eq!(done.pattern.to_string(), "https://a.test");
    assert!(done.certificate.info.id.as_str().starts_with("cert_"));
    let selection = egret.select("https://a.test");
    assert_eq!(selection.rule, Rule::Exact);
    assert_eq!(selection.tls.serial(), done.certificate.bound.serial());
    assert_eq!(selection.tls.show(), Show::Always);
    assert_eq!(egret.select("https://b.test").rule, Rule::Nothing);

    let general = egret.upload("*", &Material::new("d")).await.expect("uploaded");
    let selection = egret.select("https://b.test");
    assert_eq!((selection.rule, selection.tls.serial()), (Rule::Default, general.certificate.general.serial()));
    assert_eq!(selection.tls.show(), Show::UnlessOthersAreNamed);
    let kinds = [RecordKind::Certificate, RecordKind::Binding, RecordKind::Project].map(|k| shelf.keys(k).len());
    assert_eq!(kinds, [2, 2, 1]);
}

#[tokio::test]
async fn changes_nothing_for_identical_material() {
    let (shelf, egret) = egret().await;
    let material = Material::new("a");
    let first = egret.upload("https://a.test", &material).await.expect("uploaded");
    let records = shelf.records.lock().unwrap().clone();
    let revision = egret.project("default").load().revision();

    let crlf =
        Material { cert: material.cert.replace('\n', "\r\n"), key: material.key.clone(), ca: material.ca.clone() };
    let second = egret.upload("https://a.test", &crlf).await.expect("the same");
    assert!(second.updated);
    assert_eq!(second.certificate.info.id, first.certificate.info.id);
    assert_eq!(second.certificate.cert_pem, material.cert, "the first text is kept");
    assert!(first.certificate.bound.life().is_active());
    assert_eq!(egret.project("default").load().revision(), revision);
    assert_eq!(*shelf.records.lock().unwrap(), records);

    let elsewhere = egret.upload("https://b.test", &material).await.expect("another slot");
    assert_ne!(elsewhere.certificate.info.id, first.certificate.info.id);
}

#[tokio::test]
async fn retires_what_an_upload_displaces() {
    let (shelf, egret) = egret().await;
    let old = egret.upload("https://a.test", &Material::new("old")).await.expect("uploaded").certificate;
    old.bound.life().opened();
    let done = egret.upload("https://a.test", &Material::new("new")).await.expect("replaced");
    assert!(done.updated);
    assert_ne!(done.certificate.info.id, old.info.id);
    assert_eq!(egret.select("a.test").tls.serial(), done.certificate.bound.serial());
    let project = egret.project("default");
    assert!(project.snapshot().certificate(&old.info.id).is_none());
    assert_eq!(old.bound.life().phase(), Phase::Draining);
    assert_eq!(old.general.life().phase(), Phase::Draining);
    let retired = project.retired();
    assert_eq!(retired.len(), 1);
    assert_eq!((&retired[0].id, retired[0].superseded_by.as_ref()), (&old.info.id, Some(&done.certificate.info.id)));
    assert_eq!(shelf.keys(RecordKind::Certificate).len(), 2, "the old key is kept to go back to");

    let now = Material::new("newest").upload("https://a.test");
    egret.control.upload(&project, now, Drain::Now).await.expect("replaced");
    assert_eq!(done.certificate.bound.life().phase(), Phase::Gone);
    assert_eq!(shelf.keys(RecordKind::Certificate).len(), 1, "neither old key is stored any more");
}

#[tokio::test]
async fn a_grace_counts_as_it_is_when_the_change_is_made() {
    let (_shelf, egret) = egret().await;
    let mut limits = egret.control.limits().now();
    for (grace, name) in [(Duration::from_secs(3600), "b"), (Duration::from_secs(5), "c")] {
        limits.replace_grace = grace;
        egret.control.limits().replace(limits.clone());
        let old = egret.upload("https://a.test", &Material::new("a")).await.expect("uploaded").certificate;
        egret.upload("https://a.test", &Material::new(name)).await.expect("replaced");
        let left = old.bound.life().deadline().expect("it drains") - tokio::time::Instant::now();
        assert!(left <= grace && left + Duration::from_secs(60).min(grace) > grace, "{left:?} of {grace:?}");
    }
}

#[tokio::test]
async fn retires_what_trusted_other_servers_although_the_certificate_stays_the_same() {
    let (_, egret) = egret().await;
    let mut material = Material::new("same");
    let old = egret.upload("https://a.test", &material).await.expect("uploaded").certificate;
    // Its bundle vouches for one more CA: what was connected under the old trust ends.
    material.ca.push_str(&Material::new("other").ca);
    let new = egret.upload("https://a.test", &material).await.expect("replaced").certificate;
    assert_eq!(new.info.fingerprint, old.info.fingerprint);
    assert_ne!(new.info.id, old.info.id);
    assert_eq!(old.bound.life().phase(), Phase::Draining);
    assert_eq!(egret.select("a.test").tls.serial(), new.bound.serial());
}

#[tokio::test]
async fn a_replacement_and_a_delete_leave_upgraded_connections_their_time() {
    let (_, egret) = egret().await;
    let project = egret.project("default");
    let hour = Duration::from_secs(3600);
    let left = |certificate: &Certificate| {
        let until = certificate.bound.life().until().expect("retired");
        [until.exchanges, until.upgraded].map(|at| at - tokio::time::Instant::now())
    };
    let old = egret.upload("https://a.test", &Material::new("old")).await.expect("uploaded").certificate;
    let new = egret.upload("https://a.test", &Material::new("new")).await.expect("replaced").certificate;
    assert!(left(&old).iter().all(|left| *left > hour / 2), "{:?}", left(&old));
    egret.control.delete(&project, &new.info.id, Drain::Grace).await.expect("deleted");
    assert!(left(&new).iter().all(|left| *left <= Duration::from_secs(30)), "also what was upgraded: {:?}", left(&new));
}

#[tokio::test]
async fn keeps_a_displaced_certificate_that_another_binding_names() {
    let (_, egret) = egret().await;
    let project = egret.project("default");
    let old = egret.upload("https://a.test", &Material::new("old")).await.expect("uploaded").certificate;
    let id = old.info.id.clone();
    assert!(
        !egret
            .control
            .bind(&project, pattern("https://b.test"), Some(&id), Properties::default())
            .await
            .expect("bound")
    );
    egret.upload("https://a.test", &Material::new("new")).await.expect("replaced");
    assert_eq!(egret.select("b.test").tls.serial(), old.bound.serial());
    assert!(old.bound.life().is_active());
    egret.upload("https://b.test", &Material::new("newer")).await.expect("replaced");
    assert!(!old.bound.life().is_active());
    assert!(project.snapshot().certificate(&id).is_none());
}

#[tokio::test]
async fn deletes_a_certificate_with_all_its_bindings() {
    let (shelf, egret) = egret().await;
    let project = egret.project("default");
    let certificate = egret.upload("https://a.test", &Material::new("a")).await.expect("uploaded").certificate;
    let id = &certificate.info.id;
    egret.control.bind(&project, pattern("*"), Some(id), Properties::default()).await.expect("bound");
    let patterns = egret.control.delete(&project, id, Drain::Grace).await.expect("deleted");
    assert_eq!(patterns, [pattern("*"), pattern("https://a.test")]);
    assert_eq!(egret.select("a.test").rule, Rule::Nothing);
    assert_eq!(certificate.general.life().phase(), Phase::Draining);
    assert!(shelf.keys(RecordKind::Certificate).is_empty() && shelf.keys(RecordKind::Binding).is_empty());
    let again = egret.control.delete(&project, id, Drain::Grace).await;
    assert!(matches!(again, Err(ControlError::NotFound("certificate"))));
}

#[tokio::test]
async fn lifting_is_changed_without_touching_the_certificate_and_outlives_it() {
    let (shelf, egret) = egret().await;
    let project = egret.project("default");
    let certificate = egret.upload("https://a.test", &Material::new("a")).await.expect("uploaded").certificate;
    let a = || pattern("https://a.test");
    let lifts = |egret: &Egret| egret.project("default").snapshot().binding(&a()).expect("bound").lift;
    assert!(lifts(&egret));
    let id = &certificate.info.id;
    assert!(
        egret
            .control
            .bind(&project, a(), Some(id), Properties { lift: Some(false), tls13_only: None })
            .await
            .expect("changed")
    );
    assert!(!lifts(&egret));
    assert!(certificate.bound.life().is_active(), "nothing was replaced");
    egret.control.bind(&project, a(), None, Properties::default()).await.expect("none");
    assert!(!lifts(&egret), "left as it is");
    egret.upload("https://a.test", &Material::new("b")).await.expect("uploaded");
    assert!(!lifts(&egret), "a renewed certificate changes nothing else");
    assert!(!lifts(&Egret::start(&shelf, &settings()).await), "and the store keeps it");
}

#[tokio::test]
async fn binds_none_and_unbinds() {
    let (_, egret) = egret().await;
    let project = egret.project("default");
    egret.upload("*", &Material::new("d")).await.expect("uploaded");
    let certificate = egret.upload("https://a.test", &Material::new("a")).await.expect("uploaded").certificate;
    let id = &certificate.info.id;
    assert!(egret.control.bind(&project, pattern("https://a.test"), None, Properties::default()).await.expect("bound"));
    assert_eq!(egret.select("a.test").rule, Rule::None);
    assert!(!certificate.bound.life().is_active(), "nothing names it any more");
    let kept = project.snapshot().certificate(id).expect("the certificate stays");

    assert!(
        egret
            .control
            .bind(&project, pattern("https://a.test"), Some(id), Properties::default())
            .await
            .expect("bound again")
    );
    let selection = egret.select("a.test");
    assert!(selection.tls.life().is_active(), "with objects of its own");
    assert_eq!(selection.tls.serial(), kept.bound.serial());
    assert_ne!(selection.tls.serial(), certificate.bound.serial());

    let (at, other) = (pattern("https://a.test"), CertificateId::parse("another").expect("an id"));
    let refused = egret.control.unbind_one((&project, &at), &other).await;
    assert!(matches!(refused, Err(ControlError::NotFound("binding"))), "it was written anew meanwhile: {refused:?}");
    assert!(project.snapshot().binding(&at).is_some());
    egret.control.unbind(&project, &at).await.expect("unbound");
    assert_eq!(egret.select("a.test").rule, Rule::Default);
    let again = egret.control.unbind(&project, &pattern("https://a.test")).await;
    assert!(matches!(again, Err(ControlError::NotFound("binding"))));
    let unknown = CertificateId::parse("cert_unknown").expect("an id");
    let missing = egret.control.bind(&project, pattern("https://a.test"), Some(&unknown), Properties::default()).await;
    assert!(matches!(missing, Err(ControlError::NotFound("certificate"))));
}

#[tokio::test]
async fn refuses_by_the_state_of_the_project() {
    let shelf = Shelf::new();
    let material = Material::new("a");
    let first = Egret::start(&shelf, &settings()).await;
    let id = first.upload("https://a.test", &material).await.expect("uploaded").certificate.info.id.clone();
    for state in [ProjectState::Transferring, ProjectState::Blocked] {
        let mut settings = settings();
        settings.projects = vec![ProjectInfo { state, ..ProjectInfo::named("default") }];
        let egret = Egret::start(&shelf, &settings).await;
        let project = egret.project("default");
        let uploaded = egret.upload("https://b.test", &material).await;
        let bound = egret.control.bind(&project, pattern("https://c.test"), None, Properties::default()).await;
        let unbound = egret.control.unbind(&project, &pattern("https://c.test")).await;
        match state {
            ProjectState::Transferring => {
                assert!(matches!(uploaded, Err(ControlError::Transferring)));
                assert!(matches!(bound, Err(ControlError::Transferring)));
                assert!(matches!(unbound, Err(ControlError::Transferring)));
                let deleted = egret.control.delete(&project, &id, Drain::Grace).await;
                assert!(matches!(deleted, Err(ControlError::Transferring)));
            }
            _ => {
                assert!(matches!(uploaded, Err(ControlError::Blocked)));
                bound.expect("bound");
                unbound.expect("unbound");
                egret.control.delete(&project, &id, Drain::Grace).await.expect("deleted");
            }
        }
    }
}

#[tokio::test]
async fn changes_nothing_when_the_store_fails() {
    let (shelf, egret) = egret().await;
    let old = egret.upload("https://a.test", &Material::new("old")).await.expect("uploaded").certificate;
    let revision = egret.project("default").load().revision();
    shelf.broken.store(true, Ordering::Relaxed);
    let failed = egret.upload("https://a.test", &Material::new("new")).await;
    assert!(matches!(&failed, Err(ControlError::Storing(why)) if why.contains("no space left")), "{failed:?}");
    let failed = egret.control.delete(&egret.project("default"), &old.info.id, Drain::Now).await;
    assert!(matches!(failed, Err(ControlError::Storing(_))));
    assert_eq!(egret.metrics.store_failures.get(), 2);
    assert_eq!(egret.project("default").load().revision(), revision);
    assert!(old.bound.life().is_active());
    shelf.broken.store(false, Ordering::Relaxed);
    assert!(egret.upload("https://a.test", &Material::new("new")).await.expect("uploaded").updated);
}

#[tokio::test]
async fn refuses_bad_material_with_every_fault() {
    let (shelf, egret) = egret().await;
    let bad = Material { cert: "secret-in-cert".to_owned(), ..Material::new("a") };
    let refused = egret.upload("https://a.test", &bad).await.expect_err("no certificate");
    assert!(matches!(refused, ControlError::Invalid(_)));
    assert!(!refused.to_string().contains("secret-in-cert"));
    assert!(shelf.records.lock().unwrap().is_empty());
}

#[tokio::test]
async fn gives_a_new_slot_to_exactly_one_of_many() {
    let (shelf, egret) = egret().await;
    let uploads = (0..8).map(|n| {
        let material = Material::new(&n.to_string());
        let (control, project) = (egret.control.clone(), egret.project("default"));
        tokio::spawn(async move { control.upload(&project, material.upload("https://a.test"), Drain::Grace).await })
    });
    let done = futures_util::future::join_all(uploads.collect::<Vec<_>>()).await;
    let first = done.iter().filter(|d| !d.as_ref().expect("ran").as_ref().expect("uploaded").updated).count();
    assert_eq!(first, 1);
    assert_eq!(egret.project("default").load().certificates().len(), 1);
    // The last but one is kept to go back to.
    assert_eq!((shelf.keys(RecordKind::Certificate).len(), shelf.keys(RecordKind::Binding).len()), (2, 1));
}

#[tokio::test]
async fn finishes_a_change_whose_caller_has_gone() {
    let (shelf, egret) = egret().await;
    let shut = shelf.gate.available_permits();
    shelf.gate.forget_permits(shut);
    assert_eq!(shelf.gate.available_permits(), 0);
    let (control, project) = (egret.control.clone(), egret.project("default"));
    let upload = Material::new("a").upload("https://a.test");
    let mut change = Box::pin(async move { control.upload(&project, upload, Drain::Grace).await });
    // The change reaches the store and waits there; then its caller goes.
    let waiting = async {
        loop {
            tokio::task::yield_now().await;
            if egret.project("default").write().now_or_never_held() {
                break;
            }
        }
    };
    tokio::select! {
        _ = &mut change => panic!("the store is shut"),
        () = waiting => {}
    }
    drop(change);
    assert!(shelf.records.lock().unwrap().is_empty());
    shelf.gate.add_permits(1);
    // Whoever writes next waits for it.
    drop(egret.project("default").write().await);
    assert_eq!(shelf.keys(RecordKind::Certificate).len(), 1);
    let binding = egret.select("a.test").binding.expect("bound");
    assert!(matches!(binding.target, Target::Certificate(_)));
}

/// Whether a lock is held by another.
trait HeldByAnother {
    fn now_or_never_held(self) -> bool;
}

impl<F: Future> HeldByAnother for F {
    fn now_or_never_held(self) -> bool {
        futures_util::FutureExt::now_or_never(self).is_none()
    }
}
