use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use zeroize::Zeroizing;

use super::support::{Egret, Material, Shelf, pattern, select, settings};
use crate::backend::RecordKind;
use crate::config::Settings;
use crate::control::{ControlError, Drain, Properties};
use crate::domain::{Holder, ProjectId, ProjectInfo, ProjectState, Rule, ServerTrust, Team};
use crate::identity::Phase;

#[tokio::test]
async fn makes_projects_that_are_there_after_a_restart() {
    let shelf = Shelf::new();
    let info = ProjectInfo {
        team: Some(Team { id: Some("team_1".to_owned()), slug: Some("one".to_owned()) }),
        account_id: Some("a".repeat(32)),
        servers: ServerTrust::Ca,
        ..ProjectInfo::named("payments")
    };
    {
        let egret = Egret::start(&shelf, &settings()).await;
        let project = egret.control.create_project(info.clone()).await.expect("made");
        egret.control.upload(&project, Material::new("p").upload("*"), Drain::Grace).await.expect("uploaded");
    }
    let egret = Egret::start(&shelf, &settings()).await;
    let project = egret.project("payments");
    assert_eq!(**project.load().info(), info);
    assert_eq!(select(&project, "a.test").rule, Rule::Default);
    assert_eq!(egret.select("a.test").rule, Rule::Nothing, "projects share nothing");
}

#[tokio::test]
async fn refuses_projects_that_could_be_taken_for_another() {
    let egret = Egret::start(&Shelf::new(), &settings()).await;
    let info = ProjectInfo {
        account_id: Some("a".repeat(32)),
        zone_id: Some("b".repeat(32)),
        ..ProjectInfo::named("payments")
    };
    let first = egret.control.create_project(info.clone()).await.expect("made");
    let other_id =
        |name: &str| ProjectInfo { id: ProjectId::parse("prj_other").expect("an id"), ..ProjectInfo::named(name) };
    let clashes = [
        info.clone(),
        other_id("payments"),
        other_id(first.id().as_str()),
        ProjectInfo { id: ProjectId::parse("payments").expect("an id"), ..ProjectInfo::named("x") },
        ProjectInfo { zone_id: info.zone_id.clone(), ..ProjectInfo::named("z") },
        ProjectInfo { id: ProjectId::parse("prj_d").expect("an id"), ..ProjectInfo::named("default") },
    ];
    for clash in clashes {
        let refused = egret.control.create_project(clash.clone()).await;
        assert!(matches!(refused, Err(ControlError::Exists(_))), "{clash:?}");
    }
    let same_account = ProjectInfo { account_id: info.account_id.clone(), ..ProjectInfo::named("y") };
    egret.control.create_project(same_account).await.expect("an account has several projects");
    let team = Some(Team { id: Some("team_1".to_owned()), slug: None });
    let id = ProjectId::derived("payments", team.as_ref());
    egret
        .control
        .create_project(ProjectInfo { id, team, ..ProjectInfo::named("payments") })
        .await
        .expect("another team");
    assert_eq!(egret.registry.projects().len(), 4);
}

#[tokio::test]
async fn deletes_a_project_with_everything_in_it() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    let project = egret.control.create_project(ProjectInfo::named("payments")).await.expect("made");
    let upload = Material::new("p").upload("*");
    let certificate = egret.control.upload(&project, upload, Drain::Grace).await.expect("uploaded").certificate;
    let anonymous = project.snapshot().anonymous().clone();
    egret.control.delete_project(&project).await.expect("deleted");
    assert!(egret.registry.find("payments", None, None).is_none());
    assert!(project.load().is_removed() && project.load().is_empty());
    for tls in [&certificate.general, &certificate.bound, &anonymous] {
        assert_eq!(tls.life().phase(), Phase::Draining);
    }
    assert!(shelf.records.lock().unwrap().is_empty());
    let upload = Material::new("q").upload("*");
    let late = egret.control.upload(&project, upload, Drain::Grace).await;
    assert!(matches!(late, Err(ControlError::NotFound("project"))));
    let again = egret.control.delete_project(&project).await;
    assert!(matches!(again, Err(ControlError::NotFound("project"))));
    egret.control.create_project(ProjectInfo::named("payments")).await.expect("the name is free");
}

#[tokio::test]
async fn keeps_default_and_declared_projects() {
    let mut settings = settings();
    settings.projects.push(ProjectInfo { declared: true, ..ProjectInfo::named("payments") });
    let egret = Egret::start(&Shelf::new(), &settings).await;
    let refused = egret.control.delete_project(&egret.project("default")).await;
    assert!(matches!(refused, Err(ControlError::Field { .. })));
    let refused = egret.control.delete_project(&egret.project("payments")).await;
    assert!(matches!(refused, Err(ControlError::Declared(_, file)) if file == "egret.toml"));
}

#[tokio::test]
async fn hands_the_records_of_a_project_to_its_declaration_and_back() {
    let shelf = Shelf::new();
    let made = ProjectInfo { id: ProjectId::parse("prj_made").expect("an id"), ..ProjectInfo::named("payments") };
    {
        let egret = Egret::start(&shelf, &settings()).await;
        let project = egret.control.create_project(made).await.expect("made");
        let upload = Material::new("p").upload("https://a.test");
        egret.control.upload(&project, upload, Drain::Grace).await.expect("uploaded");
    }
    let mut with = settings();
    let state = ProjectState::Blocked;
    with.projects.push(ProjectInfo { declared: true, state, ..ProjectInfo::named("payments") });
    {
        let egret = Egret::start(&shelf, &with).await;
        let project = egret.project("payments");
        assert_eq!(*project.id(), ProjectId::derived("payments", None), "the id of the file");
        assert_eq!((project.load().info().state, project.load().info().declared), (state, true));
        assert_eq!(select(&project, "a.test").rule, Rule::Exact);
        egret.control.bind(&project, pattern("https://b.test"), None, Properties::default()).await.expect("bound");
    }
    let egret = Egret::start(&shelf, &settings()).await;
    let project = egret.project("payments");
    assert_eq!(*project.id(), ProjectId::derived("payments", None));
    assert!(!project.load().info().declared);
    assert_eq!(project.load().info().state, state, "as the file had it last");
    assert_eq!([select(&project, "a.test").rule, select(&project, "b.test").rule], [Rule::Exact, Rule::None]);
    let reborn = ProjectInfo { id: ProjectId::parse("prj_made").expect("an id"), ..ProjectInfo::named("new") };
    let reborn = egret.control.create_project(reborn).await.expect("the old id is free");
    let upload = Material::new("q").upload("https://a.test");
    egret.control.upload(&reborn, upload, Drain::Grace).await.expect("uploaded");
    let egret = Egret::start(&shelf, &settings()).await;
    let serials = ["payments", "new"].map(|name| select(&egret.project(name), "a.test").binding.expect("bound"));
    assert_ne!(serials[0].target.certificate_id(), serials[1].target.certificate_id());
}

#[tokio::test]
async fn makes_the_interception_ca_once() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    let made = Arc::new(AtomicUsize::new(0));
    let asks = (0..4).map(|_| {
        let (control, made) = (egret.control.clone(), made.clone());
        tokio::spawn(async move {
            control.local_ca(|| Ok(Zeroizing::new(vec![made.fetch_add(1, Ordering::Relaxed) as u8; 4]))).await
        })
    });
    for answer in futures_util::future::join_all(asks.collect::<Vec<_>>()).await {
        assert_eq!(*answer.expect("ran").expect("made"), [0; 4]);
    }
    assert_eq!(made.load(Ordering::Relaxed), 1);

    let egret = Egret::start(&shelf, &settings()).await;
    let never = || -> anyhow::Result<Zeroizing<Vec<u8>>> { panic!("there is one") };
    assert_eq!(*egret.control.local_ca(never).await.expect("kept"), [0; 4]);

    shelf.spoil(&shelf.keys(RecordKind::LocalCa)[0]);
    // A record that opens, so that the key is known to be the right one.
    egret.upload("*", &Material::new("d")).await.expect("uploaded");
    let egret = Egret::start(&shelf, &settings()).await;
    assert_eq!(egret.control.report().quarantined.len(), 1);
    let anew = || Ok(Zeroizing::new(vec![7]));
    assert_eq!(*egret.control.local_ca(anew).await.expect("made anew"), [7]);
    assert!(egret.control.report().quarantined.is_empty());
    let egret = Egret::start(&shelf, &settings()).await;
    assert_eq!(*egret.control.local_ca(never).await.expect("kept"), [7]);
}

#[tokio::test]
async fn stores_no_interception_ca_that_could_not_be_made() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    let failed = egret.control.local_ca(|| anyhow::bail!("no random numbers")).await;
    assert!(matches!(failed, Err(ControlError::Storing(_))));
    assert!(shelf.records.lock().unwrap().is_empty());
    egret.control.local_ca(|| Ok(Zeroizing::new(vec![1]))).await.expect("made");
}

/// As when a project is renamed in the file: the one of the old name stays, with its records.
#[tokio::test]
async fn a_zone_is_the_project_that_the_file_says() {
    let zoned = |name: &str| ProjectInfo {
        zone_id: Some("b".repeat(32)),
        account_id: Some("a".repeat(32)),
        declared: true,
        ..ProjectInfo::named(name)
    };
    let declaring = |name: &str| Settings { projects: vec![zoned(name)], ..settings() };
    let shelf = Shelf::new();
    for restarted in [false, true] {
        let (before, after) = if restarted { ("two", "three") } else { ("one", "two") };
        let mut egret = Egret::start(&shelf, &declaring(before)).await;
        let old = egret.project(before);
        egret.control.upload(&old, Material::new("p").upload("*"), Drain::Grace).await.expect("uploaded");
        if restarted {
            drop(old);
            egret = Egret::start(&shelf, &declaring(after)).await;
        } else {
            egret.reload(&declaring(after)).await;
        }
        let of = |name: &str| egret.project(name).load().info().clone();
        assert_eq!(
            (of(after).zone_id.clone(), of(before).zone_id.clone()),
            (Some("b".repeat(32)), None),
            "{restarted}"
        );
        assert_eq!(of(before).account_id, zoned(before).account_id, "an account has several");
        assert_eq!(select(&egret.project(before), "a.test").rule, Rule::Default, "its certificates stay");
    }
}

#[tokio::test]
async fn a_zone_that_moves_in_the_file_is_not_that_of_the_project_that_left_it_too() {
    let zone = Some("b".repeat(32));
    let with = |names: &[&str], of: &str| {
        let named = |name: &&str| ProjectInfo {
            declared: true,
            zone_id: zone.clone().filter(|_| *name == of),
            ..ProjectInfo::named(name)
        };
        Settings { projects: names.iter().map(named).collect(), ..settings() }
    };
    let carriers = |egret: &Egret| -> Vec<String> {
        let all = egret.registry.projects().into_iter().filter(|project| project.load().info().zone_id.is_some());
        all.map(|project| project.load().info().name.clone()).collect()
    };
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &with(&["default", "old"], "old")).await;
    let old = egret.project("old");
    egret.control.hold(&old, Holder::Zone, Material::new("z").held("t", false)).await.expect("held");
    egret.control.set_zone(&old, true).await.expect("switched");

    egret.reload(&with(&["default", "new"], "new")).await;
    assert_eq!(carriers(&egret), ["new"]);
    assert_eq!(select(&old, "a.test").rule, Rule::Default, "what it has is presented all the same");
    // Nor does it come back when nobody declares the zone, or later than that.
    egret.reload(&with(&["default", "new"], "none")).await;
    assert_eq!(carriers(&egret), [""; 0]);
    let egret = Egret::start(&shelf, &with(&["default"], "none")).await;
    assert_eq!(carriers(&egret), [""; 0]);
    assert_eq!(select(&egret.project("old"), "a.test").rule, Rule::Default);

    // Nor does it at a start that finds it moved.
    drop(Egret::start(&shelf, &with(&["default", "old"], "old")).await);
    let egret = Egret::start(&shelf, &with(&["default", "new"], "new")).await;
    assert_eq!(carriers(&egret), ["new"]);
    drop(egret);
    assert_eq!(carriers(&Egret::start(&shelf, &with(&["default", "old"], "old")).await), ["old"], "the file decides");
}
