use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;

use super::support::{Egret, Material, Shelf, select, settings};
use crate::backend::RecordKind;
use crate::control::disclosures::Pace;
use crate::control::rekey::{self, Damaged};
use crate::domain::{Origin, ProjectInfo};
use crate::pki::seal::Sealer;
use crate::registry::Project;

fn show(egret: &Egret, project: &Arc<Project>, to: &str) {
    let tls = select(project, to).tls;
    egret.control.disclosures().sent(project.id(), &tls, &Origin::parse(to).expect("valid"), None);
}

fn origins(egret: &Egret, project: &Arc<Project>) -> Vec<String> {
    egret.control.disclosures().of(project.id()).entries.iter().map(|d| d.origin.to_string()).collect()
}

/// An egret whose default project has a project-wide certificate.
async fn egret(shelf: &Arc<Shelf>) -> (Egret, Arc<Project>) {
    let egret = Egret::start(shelf, &settings()).await;
    egret.upload("*", &Material::new("a")).await.expect("uploaded");
    let project = egret.project("default");
    (egret, project)
}

/// Keeps the ledger, impatiently, until it is dropped; nothing of it is written merely because time passes.
fn keeping(egret: &Egret) -> JoinSet<()> {
    let pace = Pace {
        soon: Duration::from_millis(20),
        now_and_then: Duration::from_secs(3600),
        retry: Duration::from_millis(20),
    };
    let control = egret.control.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { control.keep_disclosures(pace).await });
    tasks
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_is_new_is_stored_soon_and_not_once_per_handshake() {
    let shelf = Shelf::new();
    let (egret, project) = egret(&shelf).await;
    let _keeping = keeping(&egret);
    let version = || {
        let key = shelf.keys(RecordKind::Disclosures).pop()?;
        Some(shelf.records.lock().unwrap()[&key].version)
    };
    show(&egret, &project, "a.test");
    show(&egret, &project, "b.test");
    assert_eq!(version(), None, "no handshake waits for the store");
    until("it is stored", || version().is_some()).await;
    assert_eq!(version(), Some(1), "both in one write");
    for _ in 0..50 {
        show(&egret, &project, "a.test");
        tokio::task::yield_now().await;
    }
    show(&egret, &project, "c.test");
    until("the next is stored", || version() > Some(1)).await;
    assert_eq!(version(), Some(2), "fifty handshakes wrote nothing by themselves");
    show(&egret, &project, "b.test");
    egret.control.store_disclosures(true).await.expect("stored");
    assert_eq!(version(), Some(3));

    let again = Egret::start(&shelf, &settings()).await;
    let page = again.control.disclosures().of(again.project("default").id());
    assert_eq!(page.entries.iter().map(|d| d.count).collect::<Vec<_>>(), [51, 2, 1]);
    assert_eq!(again.metrics.disclosures.get(), 3);
}

#[tokio::test]
async fn a_store_that_fails_delays_and_is_tried_again() {
    let shelf = Shelf::new();
    let (egret, project) = egret(&shelf).await;
    shelf.broken.store(true, Ordering::Relaxed);
    let _keeping = keeping(&egret);
    show(&egret, &project, "a.test");
    until("it was tried again", || egret.metrics.store_failures.get() >= 3).await;
    assert!(shelf.keys(RecordKind::Disclosures).is_empty());
    assert_eq!(origins(&egret, &project), ["https://a.test"]);
    shelf.broken.store(false, Ordering::Relaxed);
    until("it is stored", || !shelf.keys(RecordKind::Disclosures).is_empty()).await;
}

#[tokio::test]
async fn entries_of_certificates_that_are_gone_stay_and_those_of_a_deleted_project_go() {
    let shelf = Shelf::new();
    let (egret, default) = egret(&shelf).await;
    let other = egret.control.create_project(ProjectInfo::named("other")).await.expect("made");
    let material = Material::new("b");
    let drain = crate::control::Drain::Grace;
    egret.control.upload(&other, material.upload("*"), drain).await.expect("uploaded");
    show(&egret, &default, "a.test");
    show(&egret, &other, "b.test");
    assert_eq!(
        (origins(&egret, &default), origins(&egret, &other)),
        (vec!["https://a.test".to_owned()], vec!["https://b.test".to_owned()])
    );
    egret.control.store_disclosures(true).await.expect("stored");
    assert_eq!(shelf.keys(RecordKind::Disclosures).len(), 2);

    let certificate = default.snapshot().certificates()[0].info.id.clone();
    egret.control.delete(&default, &certificate, drain).await.expect("deleted");
    egret.control.delete_project(&other).await.expect("deleted");
    show(&egret, &other, "c.test");
    egret.control.store_disclosures(true).await.expect("stored");
    assert_eq!(shelf.keys(RecordKind::Disclosures).len(), 1);
    assert!(origins(&egret, &other).is_empty());
    let again = Egret::start(&shelf, &settings()).await;
    assert_eq!(origins(&again, &again.project("default")), ["https://a.test"]);
}

#[tokio::test]
async fn a_damaged_page_is_named_and_the_rest_is_known() {
    let shelf = Shelf::new();
    let (egret, project) = egret(&shelf).await;
    for n in 0..200 {
        show(&egret, &project, &format!("h{n}.test"));
    }
    egret.control.store_disclosures(true).await.expect("stored");
    let keys = shelf.keys(RecordKind::Disclosures);
    assert_eq!(keys.len(), 2);
    shelf.spoil(&keys[0]);
    let again = Egret::start(&shelf, &settings()).await;
    assert_eq!(again.control.report().quarantined.len(), 1, "{:?}", again.control.report());
    let project = again.project("default");
    assert_eq!(origins(&again, &project).len(), 72);
    assert_eq!(again.select("a.test").rule, crate::domain::Rule::Default, "certificates are as they were");
    show(&again, &project, "new.test");
    again.control.store_disclosures(true).await.expect("written over");
    assert!(again.control.report().quarantined.is_empty());
}

#[tokio::test]
async fn the_ledger_follows_the_store_to_another_key() {
    let shelf = Shelf::new();
    let (egret, project) = egret(&shelf).await;
    show(&egret, &project, "a.test");
    egret.control.store_disclosures(true).await.expect("stored");
    let sealer = |key: u8| Sealer::new(zeroize::Zeroizing::new([key; 32]));
    let plan = rekey::plan(&*shelf, &sealer(1), &sealer(2), Damaged::Refuse).await.expect("planned");
    let done = plan.commit(&*shelf, &sealer(2)).await.expect("rekeyed");
    assert_eq!(done.counts["disclosures"], 1);
    let again = Egret::with_key(&shelf, &settings(), 2).await.expect("it starts");
    assert_eq!(origins(&again, &again.project("default")), ["https://a.test"]);
}

#[tokio::test]
async fn a_smaller_bound_keeps_what_was_shown_last() {
    let shelf = Shelf::new();
    let (egret, project) = egret(&shelf).await;
    for n in 0..40 {
        show(&egret, &project, &format!("h{n}.test"));
    }
    egret.control.store_disclosures(true).await.expect("stored");
    let mut settings = settings();
    settings.limits.max_disclosures = 16;
    let again = Egret::start(&shelf, &settings).await;
    let page = again.control.disclosures().of(again.project("default").id());
    assert_eq!((page.entries.len(), page.dropped), (16, 24));
    assert_eq!(again.metrics.disclosures_forgotten.get(), 24);
}
