//! What is tried out first, and what can be taken back: with an origin that says what the test wants it to say, and a
//! store that breaks.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use time::OffsetDateTime;
use tokio::sync::Notify;

use super::support::{Egret, Material, Shelf, pattern, settings};
use crate::backend::RecordKind;
use crate::config::{DeclaredCertificate, Settings};
use crate::control::{ControlError, Depth, Drain, Promoted, Properties, trial_origin};
use crate::domain::{
    CertificateId, DefaultScope, Holder, Origin, Pattern, ProjectId, ProjectInfo, Rollback, time as clock,
};
use crate::identity::{Phase, UpstreamTls};
use crate::observe::EventKind;
use crate::registry::{FallBack as _, Probing, Proof, ProofFuture, Selection, Target, Trial, Unproven};

const AT: &str = "https://a.test";

/// An origin that takes what it is shown, or refuses all of it.
#[derive(Default)]
struct Judge {
    refuses: bool,
    /// Waits for this before it answers.
    gate: Option<Notify>,
    asked: Notify,
    shown: Mutex<Vec<(CertificateId, Arc<UpstreamTls>)>>,
}

impl Probing for Judge {
    fn probe<'a>(&'a self, _: &'a ProjectId, tls: &'a Arc<UpstreamTls>, _: &'a Trial) -> ProofFuture<'a> {
        Box::pin(async move {
            let id = tls.identity().expect("a certificate").info().id.clone();
            self.shown.lock().unwrap().push((id, tls.clone()));
            self.asked.notify_one();
            if let Some(gate) = &self.gate {
                gate.notified().await;
            }
            if self.refuses {
                let (code, detail) = ("mtls.rejected_unknown_ca", "no".to_owned());
                return Err(Unproven { code, detail, fix: None, alert: Some(48), asked_for: Some(Vec::new()) });
            }
            Ok(Proof { status: 200, tls_version: Some("TLSv1.3"), warnings: Vec::new() })
        })
    }
}

async fn egret(judge: Judge) -> (Arc<Shelf>, Egret, Arc<Judge>) {
    let (shelf, judge) = (Shelf::new(), Arc::new(judge));
    let egret = Egret::start(&shelf, &settings()).await;
    egret.control.set_prober(judge.clone());
    (shelf, egret, judge)
}

fn trial() -> Trial {
    Trial { origin: Origin::parse(AT).unwrap(), method: Method::GET, path: "/".parse().unwrap() }
}

async fn stage(egret: &Egret, material: &Material) -> Result<Promoted, ControlError> {
    egret.control.stage(&egret.project("default"), material.upload(AT), Drain::Grace, trial(), None).await
}

fn id_of(selection: &Selection) -> CertificateId {
    selection.tls.identity().expect("a certificate").info().id.clone()
}

/// The origin refuses what is selected; whether something else is by now.
async fn refuse(egret: &Egret) -> bool {
    let binding = egret.select(AT).binding.expect("bound");
    egret.control.fall_back(&egret.project("default"), &binding, &Origin::parse(AT).unwrap(), 44).await
}

fn certificates(shelf: &Shelf) -> Vec<String> {
    shelf.keys(RecordKind::Certificate).into_iter().map(|key| key.id).collect()
}

#[tokio::test]
async fn what_was_tried_out_leaves_nothing_behind_it() {
    let (shelf, egret, judge) = egret(Judge::default()).await;
    let promoted = stage(&egret, &Material::new("a")).await.expect("taken");
    let (id, tls) = judge.shown.lock().unwrap().pop().expect("shown");
    assert_eq!(id_of(&egret.select(AT)), id);
    assert_eq!(promoted.uploaded.certificate.info.id, id);
    assert_ne!(egret.select(AT).tls.serial(), tls.serial(), "objects of its own");
    assert_eq!((tls.life().phase(), egret.select(AT).tls.life().phase()), (Phase::Gone, Phase::Active));
    assert!(egret.control.pending(egret.project("default").id()).is_empty());
    assert_eq!(certificates(&shelf), [id.to_string()]);
}

#[tokio::test]
async fn what_was_refused_changed_nothing() {
    let (shelf, egret, judge) = egret(Judge { refuses: true, ..Judge::default() }).await;
    let old = egret.upload(AT, &Material::new("a")).await.expect("uploaded").certificate;
    let (records, revision) = (shelf.records.lock().unwrap().clone(), egret.project("default").load().revision());
    let (_, mut feed) = egret.control.events().follow(0);
    let refused = stage(&egret, &Material::new("b")).await.expect_err("refused");
    assert!(matches!(&refused, ControlError::Unproven(why) if why.why.alert == Some(48)), "{refused}");
    assert_eq!(egret.select(AT).tls.serial(), old.bound.serial());
    assert_eq!(egret.project("default").load().revision(), revision);
    assert_eq!(*shelf.records.lock().unwrap(), records);
    assert_eq!(judge.shown.lock().unwrap()[0].1.life().phase(), Phase::Gone);
    let event = feed.try_recv().expect("an event");
    assert_eq!((event.kind, event.origin.as_deref()), (EventKind::ProbeRefused, Some(AT)));
    assert_eq!((egret.metrics.probes_refused.get(), egret.metrics.probes_accepted.get()), (1, 0));
}

#[tokio::test]
async fn the_later_change_of_a_place_stands_whatever_the_origin_says() {
    let (_, egret, judge) = egret(Judge { gate: Some(Notify::new()), ..Judge::default() }).await;
    let material = Material::new("tried");
    let probing = stage(&egret, &material);
    let change = async {
        judge.asked.notified().await;
        assert_eq!(egret.control.pending(egret.project("default").id()).len(), 1);
        let done = egret.upload(AT, &Material::new("plain")).await.expect("uploaded");
        judge.gate.as_ref().expect("a gate").notify_one();
        done
    };
    let (tried, plain) = tokio::join!(probing, change);
    assert!(matches!(&tried, Err(ControlError::Field { field: "stage", .. })), "{tried:?}");
    assert_eq!(id_of(&egret.select(AT)), plain.certificate.info.id);
}

#[test]
fn a_pattern_that_names_no_single_origin_has_to_say_where() {
    let origin = |text: &str| Some(Origin::parse(text).unwrap());
    let listed = DefaultScope::Listed(vec![pattern("https://b.test")]);
    let info = ProjectInfo { default_scope: listed, ..ProjectInfo::named("default") };
    let snapshot = crate::registry::testing::empty(info);
    let at = |text: &str, named| trial_origin(&snapshot, &pattern(text), named).map(|origin| origin.to_string());
    assert_eq!(at("https://a.test:8443", None).unwrap(), "https://a.test:8443");
    assert_eq!(at("https://*.a.test:*", origin("https://x.a.test")).unwrap(), "https://x.a.test", "443 unless said");
    assert_eq!(at("*", origin("https://b.test")).unwrap(), "https://b.test");
    for (text, named) in [
        ("*", None),
        ("https://a.test:*", None),
        ("https://*.a.test", None),
        ("https://*.a.test", origin("https://a.test")),
        ("https://a.test", origin("https://a.test:8443")),
        // The scope of the project rules it out.
        ("*", origin("https://a.test")),
    ] {
        assert!(matches!(at(text, named), Err(ControlError::Field { field: "probe", .. })), "{text}");
    }
}

#[tokio::test]
async fn a_refused_promotion_is_taken_back_once_and_for_all_who_find_out() {
    let (shelf, egret, _) = egret(Judge::default()).await;
    let old = egret.upload(AT, &Material::new("a")).await.expect("uploaded").certificate;
    let new = stage(&egret, &Material::new("b")).await.expect("taken").uploaded.certificate;
    assert_eq!(certificates(&shelf).len(), 2, "both rest in the store");
    assert!(egret.project("default").load().certificate(&old.info.id).is_none(), "but one is in the project");
    let (project, origin) = (egret.project("default"), Origin::parse(AT).unwrap());
    let binding = egret.select(AT).binding.expect("bound");
    let both = (0..2).map(|_| egret.control.fall_back(&project, &binding, &origin, 44));
    assert_eq!(futures_util::future::join_all(both).await, [true, true]);
    assert_eq!(egret.metrics.rollbacks_automatic.get(), 1);
    let selection = egret.select(AT);
    assert_eq!(id_of(&selection), old.info.id);
    assert_ne!(selection.tls.serial(), old.bound.serial(), "no connection and no ticket of before comes back");
    assert_eq!(new.bound.life().phase(), Phase::Draining);
    assert_eq!(certificates(&shelf), [old.info.id.to_string()]);
    assert!(!refuse(&egret).await, "once");
}

#[tokio::test]
async fn a_store_that_fails_keeps_nothing_from_being_taken_back_and_is_told_later() {
    let (shelf, egret, _) = egret(Judge::default()).await;
    let old = egret.upload(AT, &Material::new("a")).await.expect("uploaded").certificate;
    let new = stage(&egret, &Material::new("b")).await.expect("taken").uploaded.certificate;
    shelf.broken.store(true, Ordering::Relaxed);
    assert!(refuse(&egret).await);
    assert_eq!(id_of(&egret.select(AT)), old.info.id);
    egret.control.let_go_of_ended(clock::now()).await;
    let restarted = Egret::start(&shelf, &settings()).await;
    assert_eq!(id_of(&restarted.select(AT)), new.info.id, "what the log warned of");
    shelf.broken.store(false, Ordering::Relaxed);
    egret.control.let_go_of_ended(clock::now()).await;
    let restarted = Egret::start(&shelf, &settings()).await;
    assert_eq!(id_of(&restarted.select(AT)), old.info.id);
    assert_eq!(certificates(&shelf), [old.info.id.to_string()]);
}

#[tokio::test]
async fn only_what_was_promoted_falls_back_and_only_to_what_is_valid_and_wanted() {
    let (_, egret, _) = egret(Judge::default()).await;
    egret.upload(AT, &Material::new("a")).await.expect("uploaded");
    egret.upload(AT, &Material::new("b")).await.expect("uploaded");
    assert!(!refuse(&egret).await, "a plain upload");
    let previous = egret.select(AT).binding.and_then(|b| b.previous.clone()).expect("kept for those who ask");
    assert!(previous.promoted.is_none() && previous.until > clock::now() + Duration::from_secs(3590));

    let off = ProjectInfo { rollback: Rollback::Off, ..ProjectInfo::named("default") };
    let settings = Settings { projects: vec![off], ..settings() };
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings).await;
    egret.control.set_prober(Arc::new(Judge::default()));
    egret.upload(AT, &Material::new("a")).await.expect("uploaded");
    stage(&egret, &Material::new("b")).await.expect("taken");
    assert!(!refuse(&egret).await);
    assert_eq!(certificates(&shelf).len(), 1, "nothing is kept where it is off");
}

#[tokio::test]
async fn what_is_kept_is_wiped_when_its_time_is_over_or_its_place_is_changed() {
    let forms: [&str; 5] = ["window", "unbind", "bind", "again", "delete"];
    for form in forms {
        let (shelf, egret, _) = egret(Judge::default()).await;
        let project = egret.project("default");
        let certificate = egret.upload(AT, &Material::new("a")).await.expect("uploaded").certificate;
        let (old, key) = (certificate.info.id.clone(), Arc::downgrade(&certificate.identity));
        drop(certificate);
        let new = egret.upload(AT, &Material::new("b")).await.expect("uploaded").certificate.info.id.clone();
        assert!(key.upgrade().is_some(), "{form}: kept");
        let later = clock::now() + Duration::from_secs(3601);
        match form {
            "window" => egret.control.let_go_of_ended(later).await,
            "unbind" => egret.control.unbind(&project, &pattern(AT)).await.expect("unbound"),
            "bind" => {
                egret.control.bind(&project, pattern(AT), None, Properties::default()).await.expect("bound");
            }
            "again" => drop(egret.upload(AT, &Material::new("c")).await.expect("uploaded")),
            _ => drop(egret.control.delete(&project, &new, Drain::Grace).await.expect("deleted")),
        }
        assert!(!certificates(&shelf).contains(&old.to_string()), "{form}");
        assert!(egret.control.kept_for(&project, &old).is_none(), "{form}");
        assert!(key.upgrade().is_none(), "{form}: the key is out of memory");
        // And so it is after a restart.
        let restarted = Egret::start(&shelf, &settings()).await;
        let project = restarted.project("default");
        assert!(project.load().certificate(&old).is_none() && restarted.control.kept_for(&project, &old).is_none());
        assert!(restarted.control.report().quarantined.is_empty(), "{form}");
    }
}

#[tokio::test]
async fn a_window_that_ended_while_egret_was_down_is_over_at_the_first_look() {
    let (shelf, egret, _) = egret(Judge::default()).await;
    let old = egret.upload(AT, &Material::new("a")).await.expect("uploaded").certificate.info.id.clone();
    egret.upload(AT, &Material::new("b")).await.expect("uploaded");
    let off = ProjectInfo { rollback: Rollback::Off, ..ProjectInfo::named("default") };
    let restarted = Egret::start(&shelf, &Settings { projects: vec![off], ..settings() }).await;
    let project = restarted.project("default");
    let gone = restarted.control.roll_back(&project, &pattern(AT), Drain::Grace).await;
    assert!(matches!(gone, Err(ControlError::NoneKept)), "turned off meanwhile");
    restarted.control.let_go_of_ended(clock::now()).await;
    assert!(!certificates(&shelf).contains(&old.to_string()));
}

#[tokio::test]
async fn a_certificate_in_force_elsewhere_is_gone_back_to_without_ending_there() {
    let (shelf, egret, _) = egret(Judge::default()).await;
    let project = egret.project("default");
    let shared = egret.upload(AT, &Material::new("a")).await.expect("uploaded").certificate;
    egret
        .control
        .bind(&project, pattern("https://b.test"), Some(&shared.info.id), Properties::default())
        .await
        .expect("bound");
    egret.upload(AT, &Material::new("b")).await.expect("uploaded");
    egret.control.roll_back(&project, &pattern(AT), Drain::Grace).await.expect("rolled back");
    assert_eq!(egret.select(AT).tls.serial(), egret.select("https://b.test").tls.serial());
    assert!(shared.bound.life().is_active());

    // Kept for one place and deleted in the other: it is compromised, and kept nowhere.
    egret.upload(AT, &Material::new("c")).await.expect("uploaded");
    egret.control.delete(&project, &shared.info.id, Drain::Grace).await.expect("deleted");
    assert!(egret.control.roll_back(&project, &pattern(AT), Drain::Grace).await.is_err());
    assert!(!certificates(&shelf).contains(&shared.info.id.to_string()));
    // The same where it is replaced with drain=now.
    let shared = egret.select(AT).binding.and_then(|b| b.target.certificate_id().cloned()).expect("bound");
    egret.control.bind(&project, pattern("https://b.test"), Some(&shared), Properties::default()).await.expect("bound");
    egret.upload(AT, &Material::new("d")).await.expect("uploaded");
    assert!(egret.control.kept_for(&project, &shared).is_some());
    let upload = Material::new("e").upload("https://b.test");
    egret.control.upload(&project, upload, Drain::Now).await.expect("uploaded");
    assert!(egret.control.roll_back(&project, &pattern(AT), Drain::Grace).await.is_err());
    assert!(!certificates(&shelf).contains(&shared.to_string()));
    let restarted = Egret::start(&shelf, &settings()).await;
    assert!(restarted.project("default").load().certificate(&shared).is_none());
}

#[tokio::test]
async fn a_project_that_goes_takes_what_it_kept_along() {
    let (shelf, egret, _) = egret(Judge::default()).await;
    let project = egret.control.create_project(ProjectInfo::named("other")).await.expect("made");
    for name in ["a", "b"] {
        egret.control.upload(&project, Material::new(name).upload(AT), Drain::Grace).await.expect("uploaded");
    }
    assert_eq!(certificates(&shelf).len(), 2);
    egret.control.delete_project(&project).await.expect("deleted");
    assert!(certificates(&shelf).is_empty());
    egret.control.let_go_of_ended(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(8_000_000_000)).await;
    let gone = egret.control.roll_back(&project, &Pattern::Default, Drain::Grace).await;
    assert!(matches!(gone, Err(ControlError::NotFound("project"))));
    assert!(!matches!(egret.select(AT).binding.map(|b| b.target.clone()), Some(Target::Certificate(_))));
}

#[tokio::test]
async fn of_a_project_wide_certificate_only_the_origin_where_it_was_tried_out_takes_it_back() {
    let (shelf, egret, _) = egret(Judge::default()).await;
    let project = egret.project("default");
    let old = egret.upload("*", &Material::new("a")).await.expect("uploaded").certificate.info.id.clone();
    let upload = Material::new("b").upload("*");
    egret.control.stage(&project, upload, Drain::Grace, trial(), None).await.expect("taken");
    // The project-wide certificate is shown to any origin that asks: what a stranger thinks of it says nothing.
    let stranger = Origin::parse("https://stranger.test").unwrap();
    let binding = egret.select(AT).binding.expect("bound");
    for egret in [&egret, &Egret::start(&shelf, &settings()).await] {
        assert!(!egret.control.fall_back(&egret.project("default"), &binding, &stranger, 48).await);
        assert_ne!(id_of(&egret.select(AT)), old);
        let previous = egret.select(AT).binding.and_then(|b| b.previous.clone()).expect("kept");
        assert!(previous.falls_back(&Pattern::Default, &Origin::parse(AT).unwrap(), clock::now()));
        assert!(!previous.falls_back(&Pattern::Default, &stranger, clock::now()));
    }
    assert!(refuse(&egret).await);
    assert_eq!(id_of(&egret.select(AT)), old);
}

#[tokio::test]
async fn what_a_zone_certificate_covers_meanwhile_is_neither_taken_back_nor_put_over_it() {
    let (_, egret, _) = egret(Judge::default()).await;
    let project = egret.project("default");
    egret.upload("*", &Material::new("a")).await.expect("uploaded");
    egret.control.stage(&project, Material::new("b").upload("*"), Drain::Grace, trial(), None).await.expect("taken");
    let refused = egret.select(AT).binding.expect("bound");
    egret.set_zone(true).await;
    egret.held(Holder::Zone, "zone").await;
    let origin = Origin::parse(AT).unwrap();
    assert!(egret.control.fall_back(&project, &refused, &origin, 48).await, "something else is in force by now");
    assert_eq!((egret.presents(AT), egret.metrics.rollbacks_automatic.get()), ("zone".to_owned(), 0));
    assert!(!refuse(&egret).await, "from what the zone presents there is no way back");

    let gated = Judge { gate: Some(Notify::new()), ..Judge::default() };
    let (_, egret, judge) = self::egret(gated).await;
    let project = egret.project("default");
    egret.set_zone(true).await;
    let probe = egret.control.stage(&project, Material::new("c").upload("*"), Drain::Grace, trial(), None);
    let overtaken = async {
        judge.asked.notified().await;
        egret.held(Holder::Zone, "later").await;
        judge.gate.as_ref().expect("it has one").notify_one();
    };
    let (staged, ()) = futures_util::future::join(probe, overtaken).await;
    assert!(matches!(staged, Err(ControlError::Field { field: "stage", .. })), "{staged:?}");
    assert_eq!(egret.presents(AT), "later");
}

#[tokio::test]
async fn turning_it_off_in_the_file_ends_what_is_kept() {
    let (shelf, egret, _) = egret(Judge::default()).await;
    let project = egret.project("default");
    let old = egret.upload(AT, &Material::new("a")).await.expect("uploaded").certificate.info.id.clone();
    stage(&egret, &Material::new("b")).await.expect("taken");
    let off = ProjectInfo { rollback: Rollback::Off, ..ProjectInfo::named("default") };
    let off = Settings { projects: vec![off], ..settings() };
    egret.control.reload(Arc::new(off), Vec::new(), Depth::Everything).await.expect("read");
    assert!(!refuse(&egret).await, "egret does not go back by itself");
    let back = egret.control.roll_back(&project, &pattern(AT), Drain::Grace).await;
    assert!(matches!(back, Err(ControlError::NoneKept)), "nor does anybody else");
    egret.control.let_go_of_ended(clock::now()).await;
    assert!(!certificates(&shelf).contains(&old.to_string()), "and the key is wiped");
}

/// Files declare a certificate for this place from now on, and those of `settings()` none.
async fn declare(egret: &Egret, at: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let file = Material::new("file");
    let write = |suffix: &str, text: &str| {
        let path = folder.path().join(suffix);
        std::fs::write(&path, text).expect("written");
        path
    };
    let declared = DeclaredCertificate {
        project: egret.project("default").id().clone(),
        pattern: pattern(at),
        cert: write("crt", &file.cert),
        key: write("key", &file.key),
        ca: write("ca", &file.ca),
        skip_validation: false,
        lift: true,
        tls13_only: false,
    };
    let with = Settings { certificates: vec![declared], ..settings() };
    egret.control.reload(Arc::new(with), Vec::new(), Depth::Everything).await.expect("read");
    folder
}

#[tokio::test]
async fn what_ran_under_a_certificate_that_is_only_covered_elsewhere_ends_with_its_last_place() {
    for back in [false, true] {
        let (_, egret, _) = egret(Judge::default()).await;
        let project = egret.project("default");
        if back {
            egret.upload(AT, &Material::new("before")).await.expect("uploaded");
        }
        let shared = egret.upload(AT, &Material::new("a")).await.expect("uploaded").certificate;
        let b = pattern("https://b.test");
        egret.control.bind(&project, b, Some(&shared.info.id), Properties::default()).await.expect("bound");
        let used = egret.select(AT).tls;
        let _files = declare(&egret, "https://b.test").await;
        assert!(used.life().is_active(), "it is in force here");
        if back {
            egret.control.roll_back(&project, &pattern(AT), Drain::Grace).await.expect("rolled back");
        } else {
            egret.upload(AT, &Material::new("c")).await.expect("uploaded");
        }
        assert_eq!(used.life().phase(), Phase::Draining, "back: {back}");
        egret.control.reload(Arc::new(settings()), Vec::new(), Depth::Everything).await.expect("read");
        assert_eq!(id_of(&egret.select("https://b.test")), shared.info.id);
        assert!(egret.select("https://b.test").tls.life().is_active());
    }
}

#[tokio::test]
async fn a_certificate_deleted_behind_a_declared_one_takes_the_one_before_it_along() {
    let (shelf, egret, _) = egret(Judge::default()).await;
    let project = egret.project("default");
    let old = egret.upload(AT, &Material::new("a")).await.expect("uploaded").certificate.info.id.clone();
    let new = egret.upload(AT, &Material::new("b")).await.expect("uploaded").certificate.info.id.clone();
    let _files = declare(&egret, AT).await;
    egret.control.delete(&project, &new, Drain::Grace).await.expect("deleted");
    assert!(!certificates(&shelf).contains(&old.to_string()), "wiped at once, as everywhere");
    let restarted = Egret::start(&shelf, &settings()).await;
    assert!(restarted.project("default").load().certificate(&old).is_none(), "a restart does not bring it back");
}
