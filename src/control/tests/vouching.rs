use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::support::{Egret, Material, Shelf, pattern, settings};
use crate::backend::RecordKind;
use crate::config::Settings;
use crate::control::{ControlError, Depth, Properties};
use crate::domain::{CertificateId, Origin, ProjectInfo, ServerTrust};
use crate::identity::{Phase, UpstreamTls};
use crate::pki::pem;
use crate::registry::testing::certificate;
use crate::registry::{AccountCertificate, Project};

const BUNDLE: &str = "b0000000000000000000000000000001";
const OTHER: &str = "b0000000000000000000000000000002";
const LEAF: &str = "f0000000000000000000000000000001";

fn id(text: &str) -> CertificateId {
    CertificateId::parse(text).expect(text)
}

fn account(digit: &str) -> Option<String> {
    Some(digit.repeat(32))
}

/// A project `default` of account `a`.
fn of_account() -> Settings {
    Settings { projects: vec![ProjectInfo { account_id: account("a"), ..ProjectInfo::named("default") }], ..settings() }
}

/// What account `a` holds: two bundles and a leaf; and one of account `b`.
fn supply(egret: &Egret) {
    for (of, name, ca) in [("a", BUNDLE, true), ("a", OTHER, true), ("a", LEAF, false), ("b", "b2", true)] {
        let made = certificate(name);
        let held = AccountCertificate {
            info: made.info.clone(),
            ca,
            name: None,
            pem: String::new(),
            digest: [0; 32],
            chain: [0; 32],
            by: String::new(),
            updated_at: time::OffsetDateTime::UNIX_EPOCH,
            identity: None,
            certificates: pem::certificates(&Material::new(name).ca).expect("a CA"),
        };
        egret.control.accounts().insert(&of.repeat(32), Arc::new(held));
    }
}

async fn started(shelf: &Arc<Shelf>, settings: &Settings) -> (Egret, Arc<Project>) {
    let egret = Egret::start(shelf, settings).await;
    supply(&egret);
    let project = egret.project("default");
    (egret, project)
}

async fn reload(egret: &Egret, settings: &Settings) {
    let settings = Arc::new(settings.clone());
    egret.control.reload(settings, Vec::new(), Depth::Everything).await.expect("nothing stands in its way");
}

/// By pattern, what vouches for the server of an origin.
fn vouching(project: &Project, origin: &str) -> Vec<String> {
    let origin = Origin::parse(origin).expect(origin);
    project.load().vouching().of(&origin).map(|(id, pattern)| format!("{id} at {pattern}")).collect()
}

/// What is used at three places: bound, bound project-wide, and nothing.
fn objects(egret: &Egret, project: &Project) -> [Arc<UpstreamTls>; 3] {
    [egret.select("a.test").tls, egret.select("b.test").tls, project.load().anonymous().clone()]
}

#[tokio::test]
async fn whatever_was_made_without_a_bundle_or_with_it_ends_when_that_changes() {
    let (egret, project) = started(&Shelf::new(), &of_account()).await;
    let bound =
        egret.upload("https://a.test", &Material::new("a")).await.expect("uploaded").certificate.info.id.clone();
    let strict = Properties { tls13_only: Some(true), ..Properties::default() };
    egret.control.bind(&project, pattern("https://a.test"), Some(&bound), strict).await.expect("bound");
    egret.upload("*", &Material::new("b")).await.expect("uploaded");
    let (at, bundle) = (pattern("https://x.test"), id(BUNDLE));

    let before = objects(&egret, &project);
    assert!(!egret.control.vouch(&project, at.clone(), &bundle).await.expect("bound"));
    let with = objects(&egret, &project);
    assert!(before.iter().all(|tls| tls.life().phase() == Phase::Draining), "all of the old are retired");
    assert!(with.iter().all(|tls| tls.life().is_active()), "and none of the new");
    assert!(with[0].is_tls13_only() && with[0].identity().is_some() && with[1].identity().is_some());
    assert_eq!(vouching(&project, "https://x.test"), [format!("{BUNDLE} at https://x.test")]);
    assert!(vouching(&project, "https://y.test").is_empty());
    for binding in project.snapshot().bindings() {
        assert!(binding.tls().is_some_and(|tls| tls.life().is_active()));
    }
    // With what is uploaded later, too.
    egret.upload("https://c.test", &Material::new("c")).await.expect("uploaded");
    let x = Origin::parse("https://x.test").unwrap();
    assert_eq!(egret.select("c.test").tls.trust().apart(&x), Some(443));

    assert!(egret.control.vouch(&project, at.clone(), &bundle).await.expect("bound"), "it was there");
    assert!(objects(&egret, &project).iter().zip(&with).all(|(now, then)| Arc::ptr_eq(now, then)), "nothing changes");

    egret.control.withdraw_vouch(&project, &at, &bundle).await.expect("there");
    assert!(with.iter().all(|tls| tls.life().phase() == Phase::Draining));
    assert!(objects(&egret, &project).iter().all(|tls| tls.life().is_active() && tls.trust().apart(&x).is_none()));
    assert!(vouching(&project, "https://x.test").is_empty());
    let again = egret.control.withdraw_vouch(&project, &at, &bundle).await;
    assert!(matches!(again, Err(ControlError::NotFound("binding"))), "{again:?}");
}

#[tokio::test]
async fn bundles_stand_beside_each_other_and_beside_what_is_bound() {
    let (egret, project) = started(&Shelf::new(), &of_account()).await;
    egret.upload("https://a.test", &Material::new("a")).await.expect("uploaded");
    for (at, bundle) in [("https://a.test", BUNDLE), ("https://a.test", OTHER), ("*", BUNDLE)] {
        assert!(!egret.control.vouch(&project, pattern(at), &id(bundle)).await.expect("bound"));
    }
    assert_eq!(vouching(&project, "https://a.test").len(), 3);
    assert!(egret.select("a.test").tls.identity().is_some());
    egret.control.withdraw_vouch(&project, &pattern("https://a.test"), &id(OTHER)).await.expect("there");
    egret.control.unbind(&project, &pattern("https://a.test")).await.expect("there");
    let left = ["https://a.test", "*"].map(|at| format!("{BUNDLE} at {at}"));
    assert_eq!(vouching(&project, "https://a.test"), left);
}

#[tokio::test]
async fn only_a_bundle_of_the_project_s_own_account_can_be_bound() {
    let (egret, project) = started(&Shelf::new(), &of_account()).await;
    assert!(egret.control.is_bundle(&project, &id(BUNDLE)));
    for unfit in [LEAF, "b2", "none-such"] {
        assert!(!egret.control.is_bundle(&project, &id(unfit)), "{unfit}");
        let refused = egret.control.vouch(&project, pattern("*"), &id(unfit)).await;
        assert!(matches!(refused, Err(ControlError::NotFound("certificate"))), "{unfit}: {refused:?}");
    }
    let (egret, project) = started(&Shelf::new(), &settings()).await;
    let refused = egret.control.vouch(&project, pattern("*"), &id(BUNDLE)).await;
    assert!(matches!(refused, Err(ControlError::NotFound("certificate"))), "a project of no account: {refused:?}");
}

#[tokio::test]
async fn no_more_are_bound_than_the_limit_allows() {
    let mut settings = of_account();
    settings.limits.max_ca_bindings = 2;
    let (egret, project) = started(&Shelf::new(), &settings).await;
    for at in ["https://a.test", "https://b.test"] {
        egret.control.vouch(&project, pattern(at), &id(BUNDLE)).await.expect("bound");
    }
    let refused = egret.control.vouch(&project, pattern("https://c.test"), &id(BUNDLE)).await.expect_err("full");
    assert!(refused.to_string().contains("limits.max_ca_bindings"), "{refused}");
    assert!(egret.control.vouch(&project, pattern("https://a.test"), &id(BUNDLE)).await.expect("it is there"));
    egret.control.withdraw_vouch(&project, &pattern("https://a.test"), &id(BUNDLE)).await.expect("there");
    egret.control.vouch(&project, pattern("https://c.test"), &id(BUNDLE)).await.expect("there is room again");
}

#[tokio::test]
async fn what_cannot_be_stored_is_not_in_force() {
    let shelf = Shelf::new();
    let (egret, project) = started(&shelf, &of_account()).await;
    let before = objects(&egret, &project);
    shelf.broken.store(true, Ordering::Relaxed);
    let refused = egret.control.vouch(&project, pattern("*"), &id(BUNDLE)).await;
    assert!(matches!(refused, Err(ControlError::Storing(_))), "{refused:?}");
    assert!(vouching(&project, "https://a.test").is_empty() && project.load().roster().vouching.is_empty());
    assert!(before.iter().all(|tls| tls.life().is_active()));
    shelf.broken.store(false, Ordering::Relaxed);
    egret.control.vouch(&project, pattern("*"), &id(BUNDLE)).await.expect("bound");
}

#[tokio::test]
async fn a_reload_keeps_them_unless_the_project_leaves_their_account() {
    let mut settings = of_account();
    let (egret, project) = started(&Shelf::new(), &settings).await;
    egret.upload("https://a.test", &Material::new("a")).await.expect("uploaded");
    egret.control.vouch(&project, pattern("*"), &id(BUNDLE)).await.expect("bound");
    let there = [format!("{BUNDLE} at *")];

    let before = objects(&egret, &project);
    settings.projects[0].servers = ServerTrust::Ca;
    reload(&egret, &settings).await;
    assert!(before.iter().all(|tls| !tls.life().is_active()), "made anew");
    assert_eq!(vouching(&project, "https://a.test"), there);

    let before = objects(&egret, &project);
    settings.projects[0].account_id = account("b");
    reload(&egret, &settings).await;
    assert!(vouching(&project, "https://a.test").is_empty(), "it is another account's now");
    assert_eq!(project.load().roster().vouching.len(), 1, "and not forgotten");
    assert!(before.iter().all(|tls| !tls.life().is_active()));

    settings.projects[0].account_id = account("a");
    reload(&egret, &settings).await;
    assert_eq!(vouching(&project, "https://a.test"), there, "and back");
    let before = objects(&egret, &project);
    reload(&egret, &settings).await;
    assert!(before.iter().all(|tls| tls.life().is_active()), "nothing changed");
}

#[tokio::test]
async fn one_that_is_gone_vouches_for_nothing_and_is_named() {
    let shelf = Shelf::new();
    let (egret, project) = started(&shelf, &of_account()).await;
    egret.control.vouch(&project, pattern("https://a.test"), &id(BUNDLE)).await.expect("bound");
    let egret = Egret::start(&shelf, &of_account()).await;
    let project = egret.project("default");
    assert!(vouching(&project, "https://a.test").is_empty());
    let damage = egret.control.report().quarantined;
    assert!(damage.len() == 1 && damage[0].contains(BUNDLE) && damage[0].contains("https://a.test"), "{damage:?}");
    // It can be taken away all the same.
    egret.control.withdraw_vouch(&project, &pattern("https://a.test"), &id(BUNDLE)).await.expect("there");
    assert!(egret.control.report().quarantined.is_empty(), "what was asked for is done");
    assert!(Egret::start(&shelf, &of_account()).await.control.report().quarantined.is_empty());
    assert!(shelf.keys(RecordKind::Roster).is_empty());
}

#[tokio::test]
async fn nothing_is_written_over_lists_that_cannot_be_read() {
    let shelf = Shelf::new();
    let (egret, project) = started(&shelf, &of_account()).await;
    egret.control.vouch(&project, pattern("*"), &id(BUNDLE)).await.expect("bound");
    shelf.spoil(&shelf.keys(RecordKind::Roster)[0]);
    let (egret, project) = started(&shelf, &of_account()).await;
    assert!(vouching(&project, "https://a.test").is_empty());
    let refused = egret.control.vouch(&project, pattern("*"), &id(OTHER)).await.expect_err("refused");
    assert!(refused.to_string().contains("damaged"), "{refused}");
    assert!(project.load().roster().damaged);
}
