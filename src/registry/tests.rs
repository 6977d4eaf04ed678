use std::sync::Arc;

use super::testing::{anonymous, binding, certificate, empty};
use super::*;
use crate::domain::{Origin, ProjectInfo, Role, Rule};
use crate::identity::UpstreamTls;

fn project(name: &str, team: Option<(&str, &str)>) -> Arc<Project> {
    let team = team.map(|(id, slug)| Team { id: Some(id.to_owned()), slug: Some(slug.to_owned()) });
    let id = ProjectId::derived(name, team.as_ref());
    Project::new(empty(ProjectInfo { id, team, ..ProjectInfo::named(name) }))
}

#[test]
fn finds_by_id_before_name() {
    let registry = Registry::default();
    let first = project("payments", None);
    let second = project(first.id().as_str(), None);
    registry.insert(first.clone());
    registry.insert(second);
    assert_eq!(registry.find(first.id().as_str(), None, None).expect("found").id(), first.id());
    assert_eq!(registry.find("payments", None, None).expect("found").id(), first.id());
    assert!(registry.find("Payments", None, None).is_none());
    assert!(registry.find("", None, None).is_none());
}

#[test]
fn finds_no_project_of_another_team() {
    let registry = Registry::default();
    let teamed = project("payments", Some(("team_1", "one")));
    registry.insert(teamed.clone());
    registry.insert(project("free", None));
    for key in ["payments", teamed.id().as_str()] {
        assert!(registry.find(key, None, None).is_some());
        assert!(registry.find(key, Some("team_1"), None).is_some());
        assert!(registry.find(key, None, Some("one")).is_some());
        assert!(registry.find(key, Some("team_1"), Some("one")).is_some());
        assert!(registry.find(key, Some("team_2"), None).is_none());
        assert!(registry.find(key, None, Some("two")).is_none());
        assert!(registry.find(key, Some("team_1"), Some("two")).is_none());
    }
    assert!(registry.find("free", Some("team_9"), Some("nine")).is_some(), "without a team they are ignored");
}

#[test]
fn tells_namesakes_apart_by_their_team() {
    let registry = Registry::default();
    let (one, two) = (project("p", Some(("team_1", "one"))), project("p", Some(("team_2", "two"))));
    registry.insert(one.clone());
    registry.insert(two.clone());
    assert!(registry.find("p", None, None).is_none(), "ambiguous");
    assert_eq!(registry.find("p", Some("team_1"), None).expect("found").id(), one.id());
    assert_eq!(registry.find("p", None, Some("two")).expect("found").id(), two.id());
    let free = project("p", None);
    registry.insert(free.clone());
    assert_eq!(registry.find("p", None, None).expect("found").id(), free.id());
    assert_eq!(registry.find("p", Some("team_2"), None).expect("found").id(), two.id());
}

#[test]
fn follows_a_project_whose_name_changes() {
    let registry = Registry::default();
    let old = project("old", None);
    registry.insert(old.clone());
    let info = ProjectInfo { id: old.id().clone(), ..ProjectInfo::named("new") };
    registry.insert(Project::new(empty(info)));
    assert!(registry.find("old", None, None).is_none());
    assert_eq!(registry.find("new", None, None).expect("found").id(), old.id());
    assert_eq!(registry.projects().len(), 1);
}

#[test]
fn lists_projects_by_name() {
    let registry = Registry::default();
    for name in ["b", "c", "a"] {
        registry.insert(project(name, None));
    }
    let names: Vec<_> = registry.projects().iter().map(|p| p.load().info().name.clone()).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn leaves_a_denying_project_behind() {
    let registry = Registry::default();
    let held = project("payments", None);
    let mut edit = held.load().edit();
    edit.put_certificate(certificate("cert_1"));
    edit.bind(binding("https://a.test", Target::Certificate(certificate("cert_1"))));
    held.publish(edit.finish());
    registry.insert(held.clone());
    let generation = registry.token_generation();

    assert!(registry.remove(held.id()).is_some());
    assert!(registry.remove(held.id()).is_none());
    assert!(registry.find("payments", None, None).is_none());
    assert!(registry.project(held.id()).is_none());
    let left = held.snapshot();
    assert!(left.is_removed() && left.is_empty() && left.certificates().is_empty());
    let selection = left.select(&Origin::parse("a.test").expect("valid"));
    assert_eq!(selection.rule, Rule::Nothing);
    assert!(selection.tls.identity().is_none());
    assert_ne!(registry.token_generation(), generation);
}

#[test]
fn knows_a_token_by_its_text_alone() {
    let registry = Registry::default();
    let generation = registry.token_generation();
    let sha256 = |text: &[u8]| digest::digest(&digest::SHA256, text).as_ref().try_into().expect("32 bytes");
    let token = Token::declared("ci", Role::Write, TokenScope::All, &sha256(b"secret"), "egret.toml");
    registry.insert_token(sha256(b"secret"), token);
    assert_eq!(registry.token(b"secret").expect("known").name, "ci");
    assert!(registry.token(b"Secret").is_none());
    assert!(registry.token(b"").is_none());
    assert!(registry.token(&sha256(b"secret")).is_none(), "a digest is no token");
    assert_ne!(registry.token_generation(), generation);
}

#[test]
fn ends_a_token_at_its_hour_and_by_hand() {
    let registry = Registry::default();
    let sha256: [u8; 32] = digest::digest(&digest::SHA256, b"secret").as_ref().try_into().expect("32 bytes");
    let end = time::OffsetDateTime::UNIX_EPOCH + time::Duration::days(36_500);
    let token = Token::declared("ci", Role::Write, TokenScope::All, &sha256, "egret.toml");
    registry.insert_token(sha256, Token { expires_at: Some(end), ..token });
    assert!(registry.token(b"secret").is_some());
    let second = time::Duration::seconds(1);
    assert!(registry.token_by_digest(&sha256, Some(end - second)).is_some());
    assert!(registry.token_by_digest(&sha256, Some(end)).is_none());
    assert_eq!(registry.tokens().len(), 1, "not swept yet");

    let generation = registry.token_generation();
    assert_eq!(registry.remove_token(&sha256).expect("there").name, "ci");
    assert!(registry.token(b"secret").is_none() && registry.tokens().is_empty());
    assert_ne!(registry.token_generation(), generation);
    assert!(registry.remove_token(&sha256).is_none());
}

#[test]
fn knows_which_reach_covers_which() {
    let registry = Registry::default();
    let (payments, web) = (project("payments", None), project("web", None));
    registry.insert(payments.clone());
    registry.insert(web.clone());
    let scope = |names: &[&str]| TokenScope::Projects(names.iter().map(|n| (*n).to_owned()).collect());
    let token = |scope| Token::declared("ci", Role::Admin, scope, &[0; 32], "egret.toml");
    // By name or by id: what counts is the project.
    for own in [scope(&["payments"]), scope(&[payments.id().as_str()])] {
        let own = token(own);
        assert!(registry.covers(&own, &scope(&["payments"])));
        assert!(registry.covers(&own, &scope(&[payments.id().as_str()])));
        assert!(!registry.covers(&own, &scope(&["payments", "web"])));
        assert!(!registry.covers(&own, &scope(&[web.id().as_str()])));
        assert!(!registry.covers(&own, &scope(&["unknown"])));
        assert!(!registry.covers(&own, &TokenScope::All));
    }
    assert!(registry.covers(&token(TokenScope::All), &TokenScope::All));
}

#[test]
fn forgets_a_retired_certificate_with_its_last_connection_and_holds_no_key() {
    let project = project("payments", None);
    let tls = anonymous();
    tls.life().opened();
    let retired = Retired {
        id: certificate("cert_1").info.id.clone(),
        superseded_by: None,
        heir: None,
        tls: vec![Arc::downgrade(&tls)],
        info: certificate("cert_1").info.clone(),
        pem: "".into(),
        deadline: time::OffsetDateTime::UNIX_EPOCH,
        upgraded_deadline: time::OffsetDateTime::UNIX_EPOCH,
    };
    project.remember_retired(retired.clone());
    assert_eq!(project.retired().iter().map(Retired::connections).collect::<Vec<_>>(), [1]);
    tls.life().closed();
    assert!(project.retired().is_empty());

    tls.life().opened();
    let registry = Registry::default();
    registry.insert(project.clone());
    registry.keep_retired(256);
    for _ in 0..300 {
        project.remember_retired(retired.clone());
    }
    assert_eq!((project.retired().len(), registry.retired_forgotten()), (256, 44), "bounded, and said so");
    assert_eq!(Arc::strong_count(&tls), 1);
    drop(tls);
    assert!(project.retired().is_empty());
}

#[test]
fn knows_who_stands_in_the_place_of_a_retired_certificate_however_often_that_was_taken() {
    let project = project("payments", None);
    let tls = anonymous();
    tls.life().opened();
    let idle = anonymous();
    let id = |name: &str| certificate(name).info.id.clone();
    let retire = |name: &str, by: Option<&str>, tls: &Arc<UpstreamTls>| {
        project.remember_retired(Retired {
            id: id(name),
            superseded_by: by.map(id),
            heir: by.map(id),
            tls: vec![Arc::downgrade(tls)],
            info: certificate(name).info.clone(),
            pem: "".into(),
            deadline: time::OffsetDateTime::UNIX_EPOCH,
            upgraded_deadline: time::OffsetDateTime::UNIX_EPOCH,
        });
    };
    retire("cert_1", Some("cert_2"), &tls);
    // Its successor has no connection, and is not remembered for long.
    retire("cert_2", Some("cert_3"), &idle);
    retire("cert_x", Some("cert_y"), &tls);
    let heirs = || project.retired().into_iter().map(|r| (r.id, r.superseded_by, r.heir)).collect::<Vec<_>>();
    let other = (id("cert_x"), Some(id("cert_y")), Some(id("cert_y")));
    assert_eq!(heirs(), [(id("cert_1"), Some(id("cert_2")), Some(id("cert_3"))), other.clone()]);
    retire("cert_3", None, &idle);
    assert_eq!(heirs(), [(id("cert_1"), Some(id("cert_2")), None), other]);
}
