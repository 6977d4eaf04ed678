//! Zone certificates: what the zone presents project-wide, beside what is bound there.

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::support::{Egret, Material, Shelf, declaring, pattern, settings};
use crate::backend::{Backend as _, RecordKey, RecordKind};
use crate::control::expiry::Watch;
use crate::control::{ControlError, Drain, Outline, Properties, outline};
use crate::domain::{CertificateId, Holder, Rule};
use crate::identity::{Phase, UpstreamTls};
use crate::observe::EventKind;
use crate::pki::seal::Sealer;
use crate::registry::UNREADABLE_ID;

/// An origin that nothing is bound to.
const ANY: &str = "https://any.test";

async fn egret() -> (Arc<Shelf>, Egret) {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    (shelf, egret)
}

fn in_force(egret: &Egret) -> Arc<UpstreamTls> {
    egret.select(ANY).tls
}

fn record(shelf: &Shelf, kind: RecordKind, id: &str) -> RecordKey {
    shelf.keys(kind).into_iter().find(|key| key.id == id).expect("stored")
}

#[tokio::test]
async fn the_newest_is_presented_while_the_zone_is_on_and_the_next_newest_after_it() {
    let (shelf, egret) = egret().await;
    let first = egret.held(Holder::Zone, "z1").await;
    assert!(first.as_str().len() == 32 && first.hex() == Some(first.as_str()), "{first}");
    assert_eq!(egret.presents(ANY), "nothing", "the zone is off");
    egret.set_zone(true).await;
    assert_eq!(egret.presents(ANY), "z1");
    let second = egret.held(Holder::Zone, "z2").await;
    egret.held(Holder::Hostnames, "h").await;
    assert_eq!(egret.presents(ANY), "z2");
    assert_eq!(egret.select(ANY).rule, Rule::Default);
    let released = egret.release(Holder::Zone, &second).await.expect("deleted");
    assert_eq!((&released.id, released.certificate.expect("it was whole").info.id.clone()), (&second, second.clone()));
    assert_eq!(egret.presents(ANY), "z1");
    assert_eq!(shelf.keys(RecordKind::Certificate).len(), 2, "its key is in the store no more");
    egret.set_zone(false).await;
    assert_eq!(egret.presents(ANY), "nothing");
    egret.release(Holder::Zone, &first).await.expect("deleted");
    egret.set_zone(true).await;
    assert_eq!(egret.presents(ANY), "nothing");
    let kinds: Vec<_> = egret.control.events().follow(0).0.into_iter().map(|event| event.kind).collect();
    let (up, gone) = (EventKind::CertificateUploaded, EventKind::CertificateDeleted);
    assert_eq!(kinds, [up, up, up, gone, gone]);
}

#[tokio::test]
async fn what_the_zone_presents_no_more_is_retired_and_nothing_else() {
    let (_, egret) = egret().await;
    egret.set_zone(true).await;
    let z1 = egret.held(Holder::Zone, "z1").await;
    egret
        .control
        .bind(&egret.project("default"), pattern("https://a.test"), Some(&z1), Properties::default())
        .await
        .expect("bound");
    let (wide, exact) = (in_force(&egret), egret.select("a.test").tls);
    wide.life().opened();
    let z2 = egret.held(Holder::Zone, "z2").await;
    assert_eq!((wide.life().phase(), exact.life().phase()), (Phase::Draining, Phase::Active));
    assert!(Arc::ptr_eq(&exact, &egret.select("a.test").tls), "its binding elsewhere goes on with what it has");
    let retired = egret.project("default").retired();
    assert_eq!((retired.len(), &retired[0].id, retired[0].superseded_by.as_ref()), (1, &z1, Some(&z2)));
    assert!(retired[0].pem.starts_with("-----BEGIN CERTIFICATE-----"));
    let left = wide.life().deadline().expect("it ends") - tokio::time::Instant::now();
    assert!(left > egret.control.limits().delete_grace(), "as after a replacement: {left:?}");

    let second = in_force(&egret);
    egret.set_zone(true).await;
    assert!(Arc::ptr_eq(&second, &in_force(&egret)) && second.life().is_active(), "said again, it changes nothing");
    egret.set_zone(false).await;
    assert_eq!(second.life().phase(), Phase::Draining);
    let left = second.life().deadline().expect("it ends") - tokio::time::Instant::now();
    assert!(left <= egret.control.limits().delete_grace(), "as after a delete: {left:?}");
    egret.set_zone(true).await;
    assert!(in_force(&egret).life().is_active() && in_force(&egret).serial() != second.serial());
    assert!(exact.life().is_active());
}

#[tokio::test]
async fn the_later_of_the_two_dialects_is_presented_and_the_other_stays() {
    let (_, egret) = egret().await;
    let project = egret.project("default");
    egret.set_zone(true).await;
    let zone = egret.held(Holder::Zone, "zone").await;
    let before = in_force(&egret);
    let own = egret.upload("*", &Material::new("own")).await.expect("uploaded");
    assert!(own.updated, "something was presented there before");
    assert_eq!((egret.presents(ANY), before.life().phase()), ("own".to_owned(), Phase::Draining));
    assert!(project.snapshot().certificate(&zone).is_some());
    let own_tls = in_force(&egret);
    egret.held(Holder::Zone, "later").await;
    assert_eq!((egret.presents(ANY), own_tls.life().phase()), ("later".to_owned(), Phase::Draining));
    let own = own.certificate.info.id.clone();
    assert!(project.snapshot().certificate(&own).is_some() && !project.snapshot().is_presented(&own));

    egret.control.delete(&project, &own, Drain::Grace).await.expect("deleted");
    assert_eq!(egret.presents(ANY), "later");
    let later = project.snapshot().zone().expect("on").target.certificate_id().cloned().expect("a certificate");
    let patterns =
        egret.control.delete(&project, &later, Drain::Grace).await.expect("the other dialect deletes it, too");
    assert_eq!((patterns, egret.presents(ANY)), (vec![pattern("*")], "zone".to_owned()));
    assert!(matches!(egret.release(Holder::Zone, &later).await, Err(ControlError::NotFound(_))));
}

#[tokio::test]
async fn what_is_uploaded_or_bound_again_comes_into_force_again() {
    let (shelf, egret) = egret().await;
    let project = egret.project("default");
    let material = Material::new("own");
    let own = egret.upload("*", &material).await.expect("uploaded").certificate.info.id.clone();
    egret.set_zone(true).await;
    egret.held(Holder::Zone, "z1").await;
    assert_eq!(egret.presents(ANY), "z1");
    assert_eq!(egret.upload("*", &material).await.expect("the same").certificate.info.id, own);
    assert_eq!(egret.presents(ANY), "own");
    egret.held(Holder::Zone, "z2").await;
    assert!(egret.control.bind(&project, pattern("*"), Some(&own), Properties::default()).await.expect("bound"));
    assert_eq!(egret.presents(ANY), "own");
    let revision = project.load().revision();
    egret.upload("*", &material).await.expect("the same");
    assert_eq!(project.load().revision(), revision, "it is in force: nothing changes");
    // Also while the zone is off, when nothing of it is to be seen: what comes later is presented once it is on.
    egret.set_zone(false).await;
    egret.held(Holder::Zone, "z3").await;
    egret.upload("*", &material).await.expect("the same");
    egret.set_zone(true).await;
    assert_eq!(egret.presents(ANY), "own");
    egret.control.bind(&project, pattern("*"), None, Properties::default()).await.expect("bound to none");
    assert_eq!(egret.presents(ANY), "none");
    let again = Egret::start(&shelf, &settings()).await;
    assert_eq!(again.presents(ANY), "none");
    egret.control.unbind(&project, &pattern("*")).await.expect("unbound");
    assert_eq!(egret.presents(ANY), "z3");
    let error = egret.control.unbind(&project, &pattern("*")).await.expect_err("nobody wrote it");
    assert!(error.to_string().contains("switch the zone off"), "{error}");
}

#[tokio::test]
async fn drain_now_ends_what_is_covered_as_well() {
    let (_, egret) = egret().await;
    egret.set_zone(true).await;
    egret.held(Holder::Zone, "zone").await;
    let zone = in_force(&egret);
    let upload = Material::new("own").upload("*");
    egret.control.upload(&egret.project("default"), upload, Drain::Now).await.expect("uploaded");
    assert_eq!(zone.life().phase(), Phase::Gone);
}

#[tokio::test]
async fn the_same_certificate_again_is_refused_unless_it_is_a_retry_of_the_same_token() {
    let (shelf, egret) = egret().await;
    let material = Material::new("z");
    let id = egret.hold(Holder::Zone, &material).await.expect("held").info.id.clone();
    let records = shelf.records.lock().unwrap().clone();
    let again = async |egret: &Egret, holder, by, retry| {
        let done = egret.control.hold(&egret.project("default"), holder, material.held(by, retry)).await;
        done.map(|certificate| certificate.info.id.clone())
    };
    for (by, retry) in [("t", false), ("other", true)] {
        let refused = again(&egret, Holder::Zone, by, retry).await;
        assert!(matches!(refused, Err(ControlError::Duplicate(known)) if known == id), "{by}, {retry}");
    }
    let restarted = Egret::start(&shelf, &settings()).await;
    for egret in [&egret, &restarted] {
        assert_eq!(again(egret, Holder::Zone, "t", true).await.expect("the stored one"), id);
    }
    assert_eq!(*shelf.records.lock().unwrap(), records, "nothing was written");
    let mut limits = egret.control.limits().now();
    limits.create_retry_window = Duration::ZERO;
    egret.control.limits().replace(limits);
    assert!(matches!(again(&egret, Holder::Zone, "t", true).await, Err(ControlError::Duplicate(_))), "too late");
    assert_ne!(again(&egret, Holder::Hostnames, "t", false).await.expect("another list"), id);
}

#[tokio::test]
async fn a_list_takes_as_many_as_its_limit_allows() {
    let mut settings = settings();
    settings.limits.max_zone_certificates = 2;
    let egret = Egret::start(&Shelf::new(), &settings).await;
    let first = egret.held(Holder::Zone, "a").await;
    egret.held(Holder::Zone, "b").await;
    egret.held(Holder::Hostnames, "c").await;
    let full = egret.hold(Holder::Zone, &Material::new("d")).await.expect_err("full");
    assert!(matches!(full, ControlError::Full { limit: "max_zone_certificates", most: 2, .. }), "{full}");
    assert!(full.to_string().contains("2 certificates in the zone's own list"), "{full}");
    assert_eq!(egret.metrics.store_limits_reached.get(), 1);
    egret.release(Holder::Zone, &first).await.expect("deleted");
    egret.held(Holder::Zone, "d").await;
}

#[tokio::test]
async fn all_that_a_zone_holds_comes_back_in_its_order_however_quickly_it_came() {
    let (shelf, egret) = egret().await;
    egret.set_zone(true).await;
    egret.upload("*", &Material::new("own")).await.expect("uploaded");
    let mut ids = Vec::new();
    for name in ["z1", "z2", "z3"] {
        ids.push(egret.held(Holder::Zone, name).await);
    }
    let roster = egret.project("default").snapshot().roster().clone();
    let since: Vec<_> = roster.held.iter().map(|held| held.since).collect();
    assert!(since.is_sorted() && since[0] < since[1] && since[1] < since[2], "{since:?}");
    let again = Egret::start(&shelf, &settings()).await;
    assert_eq!(*again.project("default").snapshot().roster(), roster);
    for (id, left) in ids.iter().rev().zip(["z3", "z2", "z1"]) {
        assert_eq!(again.presents(ANY), left);
        again.release(Holder::Zone, id).await.expect("deleted");
    }
    assert_eq!(again.presents(ANY), "own");
}

#[tokio::test]
async fn a_file_that_declares_the_project_wide_certificate_goes_before_both_and_is_not_covered() {
    let (shelf, egret) = egret().await;
    let folder = tempfile::tempdir().expect("a folder");
    let own = egret.upload("*", &Material::new("own")).await.expect("uploaded").certificate.info.id.clone();
    egret.set_zone(true).await;
    egret.held(Holder::Zone, "zone").await;
    let zone = in_force(&egret);
    let with = declaring(folder.path(), "*", &Material::new("declared"));
    egret.reload(&with).await;
    assert_eq!((egret.presents(ANY), zone.life().phase()), ("declared".to_owned(), Phase::Draining));
    let refused = egret.hold(Holder::Zone, &Material::new("z2")).await.expect_err("declared");
    assert!(matches!(&refused, ControlError::Declared(_, file) if file == "egret.toml"), "{refused}");
    egret.held(Holder::Hostnames, "h").await;
    egret.set_zone(true).await;
    egret.set_zone(false).await;
    let refused = egret.control.set_zone(&egret.project("default"), true).await.expect_err("declared");
    assert!(matches!(refused, ControlError::Declared(..)), "{refused}");
    egret.held(Holder::Zone, "z3").await;

    let again = Egret::start(&shelf, &with).await;
    assert_eq!(again.presents(ANY), "declared");
    assert!(matches!(again.release(Holder::Hostnames, &own).await, Err(ControlError::WrongList { .. })));
    again.reload(&settings()).await;
    assert_eq!(again.presents(ANY), "own", "the zone is off");
    again.set_zone(true).await;
    assert_eq!(again.presents(ANY), "z3");
    let declared_again = in_force(&again);
    again.reload(&with).await;
    again.release(Holder::Zone, &own).await.expect("also while the file covers it");
    again.reload(&settings()).await;
    assert_eq!((again.presents(ANY), declared_again.life().phase()), ("z3".to_owned(), Phase::Draining));
    assert!(in_force(&again).life().is_active());
}

#[tokio::test]
async fn the_zones_list_deletes_the_project_wide_certificate_of_the_other_dialect() {
    let (_, egret) = egret().await;
    let project = egret.project("default");
    let own = egret.upload("*", &Material::new("own")).await.expect("uploaded").certificate.info.id.clone();
    let exact =
        egret.upload("https://a.test:8443", &Material::new("a")).await.expect("uploaded").certificate.info.id.clone();
    egret.control.bind(&project, pattern("https://h.test:*"), Some(&own), Properties::default()).await.expect("bound");
    let refused = egret.release(Holder::Zone, &own).await.expect_err("a hostname names it");
    assert!(matches!(&refused, ControlError::InUse(what) if what.contains("hostname h.test")), "{refused}");
    egret.control.unbind(&project, &pattern("https://h.test:*")).await.expect("unbound");
    let digits = CertificateId::parse(own.hex().expect("hex")).expect("an id");
    assert_eq!(egret.release(Holder::Zone, &digits).await.expect("by its digits").id, own);
    assert_eq!(egret.presents(ANY), "nothing");
    assert!(matches!(egret.release(Holder::Zone, &exact).await, Err(ControlError::NotFound(_))), "no list shows it");
    egret.control.unbind(&project, &pattern("https://a.test:8443")).await.expect("unbound");
    egret.release(Holder::Hostnames, &exact).await.expect("what nothing names is among those that hostnames may name");
    let host = egret.held(Holder::Hostnames, "h").await;
    let wrong = egret.release(Holder::Zone, &host).await.expect_err("another list");
    assert!(matches!(wrong, ControlError::WrongList { held: Holder::Hostnames, wanted: Holder::Zone }), "{wrong}");
}

#[tokio::test]
async fn what_was_deleted_and_is_finishing_is_told_apart_from_what_never_was() {
    let (_, egret) = egret().await;
    egret.set_zone(true).await;
    let id = egret.held(Holder::Zone, "z").await;
    let tls = in_force(&egret);
    tls.life().opened();
    assert_eq!(egret.release(Holder::Zone, &id).await.expect("deleted").connections, 1);
    let ending = egret.release(Holder::Zone, &id).await.expect_err("it is ending");
    assert!(matches!(&ending, ControlError::Ending(known, 1, _) if *known == id), "{ending}");
    assert!(matches!(egret.release(Holder::Hostnames, &id).await, Err(ControlError::NotFound(_))));
    tls.life().closed();
    assert!(matches!(egret.release(Holder::Zone, &id).await, Err(ControlError::NotFound(_))));
}

#[tokio::test]
async fn a_rollback_ends_with_what_it_would_go_back_from() {
    let (shelf, egret) = egret().await;
    let project = egret.project("default");
    egret.upload("*", &Material::new("old")).await.expect("uploaded");
    let new = egret.upload("*", &Material::new("new")).await.expect("replaced").certificate.info.id.clone();
    egret.set_zone(true).await;
    let zone = egret.held(Holder::Zone, "zone").await;
    egret.control.roll_back(&project, &pattern("*"), Drain::Grace).await.expect("there is one to go back to");
    assert_eq!(egret.presents(ANY), "old", "what somebody puts back is the latest");
    assert!(matches!(egret.release(Holder::Zone, &new).await, Err(ControlError::NotFound(_))));
    egret.upload("*", &Material::new("newer")).await.expect("replaced");
    let own =
        project.snapshot().binding(&pattern("*")).and_then(|b| b.target.certificate_id().cloned()).expect("bound");
    egret.release(Holder::Zone, &own).await.expect("what is kept stands in nobody's way");
    egret.release(Holder::Zone, &zone).await.expect("deleted");
    assert!(shelf.keys(RecordKind::Certificate).is_empty(), "neither key is stored any more");
}

#[tokio::test]
async fn a_damaged_zone_certificate_fails_requests_until_another_is_there_or_it_is_deleted() {
    for by_upload in [true, false] {
        let (shelf, egret) = egret().await;
        egret.upload("*", &Material::new("own")).await.expect("uploaded");
        egret.set_zone(true).await;
        egret.held(Holder::Zone, "z1").await;
        let id = egret.held(Holder::Zone, "z2").await;
        shelf.spoil(&record(&shelf, RecordKind::Certificate, id.as_str()));
        let egret = Egret::start(&shelf, &settings()).await;
        assert_eq!(egret.presents(ANY), "unavailable", "neither the next newest nor what it covers");
        let report = egret.control.report().quarantined;
        assert!(report.len() == 1 && report[0].contains(id.as_str()), "{report:?}");
        if by_upload {
            egret.held(Holder::Zone, "z3").await;
            assert_eq!(egret.presents(ANY), "z3");
        }
        let released = egret.release(Holder::Zone, &id).await.expect("deleted");
        assert!(released.certificate.is_none() && egret.control.report().quarantined.is_empty());
        assert_eq!(egret.presents(ANY), if by_upload { "z3" } else { "z1" });
    }
}

#[tokio::test]
async fn a_damaged_record_of_the_lists_fails_requests_until_somebody_says_what_is_meant() {
    for lost in [false, true] {
        let (shelf, egret) = egret().await;
        let own = egret.upload("*", &Material::new("own")).await.expect("uploaded").certificate.info.id.clone();
        egret.upload("https://a.test", &Material::new("a")).await.expect("uploaded");
        egret.set_zone(true).await;
        let material = Material::new("z1");
        let id = egret.hold(Holder::Zone, &material).await.expect("held").info.id.clone();
        let key = record(&shelf, RecordKind::Roster, "roster");
        if lost {
            shelf.lost.lock().unwrap().push(key);
        } else {
            shelf.spoil(&key);
        }
        let egret = Egret::start(&shelf, &settings()).await;
        assert_eq!((egret.presents(ANY), egret.presents("a.test")), ("unavailable".to_owned(), "a".to_owned()));
        assert_eq!(egret.control.report().quarantined.len(), 1);
        let unreadable = CertificateId::parse(UNREADABLE_ID).expect("an id");
        let refused = egret.control.delete(&egret.project("default"), &unreadable, Drain::Grace).await;
        assert!(matches!(refused, Err(ControlError::Field { .. })), "{refused:?}");
        let wrong = egret.release(Holder::Zone, &id).await.expect_err("nobody knows of which list it was");
        assert!(matches!(wrong, ControlError::WrongList { held: Holder::Hostnames, .. }), "{wrong}");

        // What is uploaded meanwhile does not say whether the zone was on; not even after a restart.
        egret.hold(Holder::Zone, &material).await.expect("held once more");
        egret.upload("*", &Material::new("newer")).await.expect("uploaded");
        assert_eq!(egret.presents(ANY), "unavailable");
        let egret = Egret::start(&shelf, &settings()).await;
        assert_eq!(egret.presents(ANY), "unavailable");
        let report = egret.control.report().quarantined;
        assert!(report.len() == 1 && report[0].contains("switch it on or off"), "{report:?}");

        egret.set_zone(true).await;
        assert!(egret.control.report().quarantined.is_empty());
        assert_eq!(egret.presents(ANY), "newer");
        let newer = egret.select(ANY).binding.and_then(|b| b.target.certificate_id().cloned()).expect("bound");
        assert_ne!(newer, own);
        egret.release(Holder::Zone, &newer).await.expect("deleted");
        assert_eq!(egret.presents(ANY), "z1");
        egret.release(Holder::Hostnames, &id).await.expect("it is in a list, and can be deleted there");
        let egret = Egret::start(&shelf, &settings()).await;
        assert_eq!(egret.presents(ANY), "z1");
        assert!(egret.control.report().quarantined.is_empty());
    }
}

#[tokio::test]
async fn a_damaged_binding_of_the_project_wide_place_is_not_covered_by_the_zone() {
    let (shelf, egret) = egret().await;
    egret.upload("*", &Material::new("own")).await.expect("uploaded");
    egret.set_zone(true).await;
    egret.held(Holder::Zone, "zone").await;
    let key = shelf.keys(RecordKind::Binding).pop().expect("one");
    shelf.spoil(&key);
    let egret = Egret::start(&shelf, &settings()).await;
    assert_eq!(egret.presents(ANY), "unavailable");
    egret.control.unbind(&egret.project("default"), &pattern("*")).await.expect("the remedy");
    assert_eq!(egret.presents(ANY), "zone");
}

#[tokio::test]
async fn connections_end_before_the_zone_certificate_does_and_nobody_warns_of_what_is_covered() {
    let (_, egret) = egret().await;
    let now = crate::domain::time::now();
    let end = now + time::Duration::days(5);
    egret.set_zone(true).await;
    egret.upload("*", &Material::until("own", end)).await.expect("uploaded");
    let zone = egret.hold(Holder::Zone, &Material::until("zone", end)).await.expect("held").info.id.clone();
    let told = crate::control::Control::warnings(&egret.project("default").snapshot(), now);
    assert_eq!(
        told.iter().map(|w| (&w.certificate.id, w.origins.join(" "))).collect::<Vec<_>>(),
        [(&zone, "*".to_owned())]
    );
    let before = in_force(&egret);
    let begun = tokio::time::Instant::now();
    let mut watch = Watch::default();
    watch.look(&egret.control.inner, now, begun).await;
    let at = end - time::Duration::seconds(10);
    watch.look(&egret.control.inner, at, begun + Duration::try_from(at - now).expect("later")).await;
    assert_eq!(before.life().phase(), Phase::Draining);
    assert_eq!(egret.presents(ANY), "zone");
    assert!(in_force(&egret).life().is_active());
}

#[tokio::test]
async fn what_is_stored_and_not_published_is_known_and_a_failed_write_changes_nothing() {
    let (shelf, egret) = egret().await;
    let project = egret.project("default");
    shelf.broken.store(true, std::sync::atomic::Ordering::Relaxed);
    for refused in
        [egret.hold(Holder::Zone, &Material::new("z")).await.err(), egret.control.set_zone(&project, true).await.err()]
    {
        assert!(matches!(refused, Some(ControlError::Storing(_))), "{refused:?}");
    }
    let snapshot = project.snapshot();
    assert!(snapshot.roster().is_empty() && snapshot.certificates().is_empty());
    assert!(egret.control.deploying(project.id()).is_empty());
    shelf.broken.store(false, std::sync::atomic::Ordering::Relaxed);
    let id = egret.held(Holder::Zone, "z").await;
    assert!(egret.control.deploying(project.id()).is_empty(), "it is published when the upload is answered");
    let certificate = project.snapshot().certificate(&id).expect("held");
    let underway = egret.control.inner.deploying.enter(project.id(), &certificate);
    let deploying = egret.control.deploying(project.id());
    assert_eq!((deploying.len(), deploying[0].holder, &deploying[0].certificate.info.id), (1, Holder::Zone, &id));
    assert!(egret.control.deploying(&crate::domain::ProjectId::derived("other", None)).is_empty());
    drop(underway);
    assert!(egret.control.deploying(project.id()).is_empty());
}

#[tokio::test]
async fn a_deleted_project_takes_its_lists_with_it() {
    let (shelf, egret) = egret().await;
    let project = egret.control.create_project(crate::domain::ProjectInfo::named("shop")).await.expect("made");
    egret.control.hold(&project, Holder::Zone, Material::new("z").held("t", false)).await.expect("held");
    egret.control.set_zone(&project, true).await.expect("on");
    let tls = super::support::select(&project, ANY).tls;
    egret.control.delete_project(&project).await.expect("deleted");
    assert_eq!(tls.life().phase(), Phase::Draining);
    assert!(shelf.records.lock().unwrap().is_empty());
    let refused = egret.control.hold(&project, Holder::Zone, Material::new("y").held("t", false)).await;
    assert!(matches!(refused, Err(ControlError::NotFound("project"))));
}

#[tokio::test]
async fn faulty_material_is_refused_with_every_fault_of_it() {
    let (_, egret) = egret().await;
    let (a, b) = (Material::new("a"), Material::until("b", crate::domain::time::now() - time::Duration::days(9)));
    let mixed = Material { cert: b.cert.clone(), key: a.key.clone(), ca: String::new() };
    let refused = egret.hold(Holder::Zone, &mixed).await.expect_err("faulty");
    assert!(matches!(&refused, ControlError::Invalid(faults) if faults.len() == 2), "{refused}");
    let root = Material { cert: a.ca.clone(), key: a.key.clone(), ca: String::new() };
    assert!(matches!(egret.hold(Holder::Hostnames, &root).await, Err(ControlError::Invalid(_))));
}

#[tokio::test]
async fn without_a_running_egret_it_is_known_which_layer_is_in_force() {
    let (shelf, egret) = egret().await;
    let own = egret.upload("*", &Material::new("own")).await.expect("uploaded").certificate.info.id.clone();
    egret.set_zone(true).await;
    let zone = egret.held(Holder::Zone, "zone").await;
    let read = async || {
        let loaded = shelf.load().await.expect("loaded");
        let sealer = Arc::new(Sealer::new(Zeroizing::new([1; 32])));
        outline(&settings(), Some((loaded, sealer))).expect("read")
    };
    let ids = |outline: &Outline| {
        let wide = outline.snapshots[0].bindings();
        wide.iter().map(|binding| binding.target.certificate_id().cloned().expect("named")).collect::<Vec<_>>()
    };
    let outlined = read().await;
    assert_eq!(ids(&outlined), [zone.clone(), own.clone()]);
    assert!(outlined.unread.contains_key(&zone), "it merely was not read");
    egret.upload("*", &Material::new("newer")).await.expect("uploaded");
    assert_eq!(ids(&read().await)[1], zone);
    shelf.spoil(&record(&shelf, RecordKind::Roster, "roster"));
    let outlined = read().await;
    assert_eq!(ids(&outlined)[0].as_str(), UNREADABLE_ID, "fails as it would in a running egret");
    assert_eq!(outlined.damage.len(), 1);
}
