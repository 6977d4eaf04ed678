use std::sync::Arc;
use std::sync::atomic::Ordering;

use time::Duration;

use super::support::{Egret, Shelf, settings};
use crate::backend::RecordKind;
use crate::config::Settings;
use crate::control::{ControlError, NewToken};
use crate::domain::{ProjectId, ProjectInfo, Role, time as clock};
use crate::registry::{Token, TokenScope, TokenSource};

fn new(name: &str) -> NewToken {
    NewToken { name: name.to_owned(), email: None, role: Role::Proxy, projects: None, expires_at: None, maker: None }
}

/// The token of an administrator without limits.
fn administrator() -> Arc<Token> {
    Arc::new(Token::declared("root", Role::Admin, TokenScope::All, &[0; 32], "egret.toml"))
}

fn declare(egret: &Egret, name: &str, text: &str) {
    let digest: [u8; 32] = super::super::tokens::sha256(text.as_bytes());
    egret.registry.insert_token(digest, Token::declared(name, Role::Read, TokenScope::All, &digest, "/etc/egret.toml"));
}

#[tokio::test]
async fn makes_a_token_that_is_there_after_a_restart_and_gone_after_its_end() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    let end = clock::now().replace_nanosecond(0).unwrap() + Duration::hours(1);
    let asked = NewToken { email: Some("ci@example.com".to_owned()), expires_at: Some(end), ..new("ci") };
    let created = egret.control.create_token(asked).await.expect("made");
    assert!(created.text.starts_with("egret_") && created.text.len() == 6 + 43, "256 bits in base64url");
    let known = egret.registry.token(created.text.as_bytes()).expect("in force at once");
    assert_eq!((&*known, known.source.as_str()), (&created.token, "api"));
    let other = egret.control.create_token(new("other")).await.expect("made");
    assert_ne!(*created.text, *other.text);
    for record in shelf.records.lock().unwrap().values() {
        let holds = |what: &[u8]| record.sealed.windows(what.len()).any(|w| w == what);
        assert!(!holds(created.text.as_bytes()) && !holds(b"ci@example.com"), "sealed, and without the text");
    }

    let egret = Egret::start(&shelf, &settings()).await;
    assert_eq!(*egret.registry.token(created.text.as_bytes()).expect("loaded"), created.token);
    assert!(egret.registry.token(other.text.as_bytes()).is_some());
    egret.control.revoke_token("other", administrator()).await.expect("revoked");
    assert!(egret.registry.token(other.text.as_bytes()).is_none());
    egret.control.revoke_token(&created.token.id, administrator()).await.expect("by its id");
    assert!(shelf.keys(RecordKind::Token).is_empty());
    let again = egret.control.revoke_token("ci", administrator()).await;
    assert!(matches!(again, Err(ControlError::NotFound("token"))));
}

#[tokio::test]
async fn refuses_a_name_that_is_taken_and_more_than_the_limit() {
    let mut limited = settings();
    limited.limits.max_tokens = 2;
    let egret = Egret::start(&Shelf::new(), &limited).await;
    declare(&egret, "file", "text");
    egret.control.create_token(new("a")).await.expect("made");
    for taken in ["a", "file"] {
        let refused = egret.control.create_token(new(taken)).await;
        assert!(matches!(refused, Err(ControlError::Exists(_))), "{taken}");
    }
    let soon = clock::now() + Duration::hours(1);
    let b = egret.control.create_token(NewToken { expires_at: Some(soon), ..new("b") }).await.expect("made");
    let Err(ControlError::Exists(said)) = egret.control.create_token(new("c")).await else { panic!("full") };
    assert!(said.contains("limits.max_tokens allows, 2"), "{said}");
    // One that has ended makes room, and its name is free.
    let ended = Token { expires_at: Some(clock::now() - Duration::SECOND), ..b.token.clone() };
    egret.registry.insert_token(super::super::tokens::sha256(b.text.as_bytes()), ended);
    egret.control.create_token(new("b")).await.expect("made");
    assert_eq!(egret.registry.tokens().len(), 3);
}

#[tokio::test]
async fn sweeps_what_has_expired_and_nothing_else() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    declare(&egret, "file", "text");
    let now = clock::now();
    let until = |end| NewToken { expires_at: Some(end), ..new("short") };
    let short = egret.control.create_token(until(now + Duration::minutes(1))).await.expect("made");
    egret.control.create_token(new("long")).await.expect("made");
    egret.control.sweep(now).await;
    assert_eq!(shelf.keys(RecordKind::Token).len(), 2);
    shelf.broken.store(true, Ordering::Relaxed);
    egret.control.sweep(now + Duration::minutes(2)).await;
    assert_eq!(egret.registry.tokens().len(), 3, "asked again the next time");
    shelf.broken.store(false, Ordering::Relaxed);
    egret.control.sweep(now + Duration::minutes(2)).await;
    assert_eq!(shelf.keys(RecordKind::Token).len(), 1);
    assert!(egret.registry.token(short.text.as_bytes()).is_none());
    assert_eq!(egret.registry.tokens().len(), 2);
}

#[tokio::test]
async fn acknowledges_nothing_that_is_not_stored() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    let created = egret.control.create_token(new("a")).await.expect("made");
    shelf.broken.store(true, Ordering::Relaxed);
    assert!(matches!(egret.control.create_token(new("b")).await, Err(ControlError::Storing(_))));
    assert!(matches!(egret.control.revoke_token("a", administrator()).await, Err(ControlError::Storing(_))));
    assert!(egret.registry.token(created.text.as_bytes()).is_some(), "not revoked, so it is good");
    assert_eq!(egret.registry.tokens().len(), 1);
}

#[tokio::test]
async fn names_the_place_of_one_that_it_only_reads() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    declare(&egret, "ci", "text");
    let refused = egret.control.revoke_token("ci", administrator()).await;
    let Err(error @ ControlError::Declared(..)) = refused else { panic!("declared") };
    assert_eq!(error.to_string(), "token ci is declared in /etc/egret.toml; change it there");
    // The file takes the name of a stored one later: that one can be revoked all the same.
    let made = egret.control.create_token(new("deploy")).await.expect("made");
    declare(&egret, "deploy", "more text");
    egret.control.revoke_token("deploy", administrator()).await.expect("the stored one");
    assert!(egret.registry.token(made.text.as_bytes()).is_none() && egret.registry.token(b"more text").is_some());
}

/// Ids are derived from names, so a namesake would get the id of the project that is gone.
#[tokio::test]
async fn reaches_no_namesake_of_a_project_that_is_gone() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    let pay = egret.control.create_project(ProjectInfo::named("payments")).await.expect("made");
    let limited = |name: &str, ids: &[&ProjectId]| NewToken {
        projects: Some(ids.iter().map(|id| (*id).clone()).collect()),
        ..new(name)
    };
    let default = egret.project("default");
    let only = egret.control.create_token(limited("only", &[pay.id()])).await.expect("made");
    let both = egret.control.create_token(limited("both", &[pay.id(), default.id()])).await.expect("made");
    egret.control.delete_project(&pay).await.expect("deleted");
    let unknown = egret.control.create_token(limited("late", &[pay.id()])).await;
    assert!(matches!(unknown, Err(ControlError::Field { field: "projects", .. })));
    let again = egret.control.create_project(ProjectInfo::named("payments")).await.expect("made");
    assert_eq!(again.id(), pay.id());
    let check = |egret: &Egret| {
        assert!(egret.registry.token(only.text.as_bytes()).is_none(), "it reached nothing else");
        let both = egret.registry.token(both.text.as_bytes()).expect("it reaches default");
        assert_eq!(both.scope, TokenScope::Projects(vec![default.id().to_string()]));
    };
    check(&egret);
    check(&Egret::start(&shelf, &settings()).await);
}

#[tokio::test]
async fn keeps_the_place_of_a_project_that_leaves_the_file() {
    let shelf = Shelf::new();
    let declared = Settings {
        projects: vec![ProjectInfo::named("default"), ProjectInfo { declared: true, ..ProjectInfo::named("payments") }],
        ..settings()
    };
    let made = {
        let egret = Egret::start(&shelf, &declared).await;
        let projects = Some(vec![egret.project("payments").id().clone()]);
        egret.control.create_token(NewToken { projects, ..new("ci") }).await.expect("made")
    };
    let egret = Egret::start(&shelf, &settings()).await;
    let project = egret.registry.find("payments", None, None).expect("it keeps its records");
    let token = egret.registry.token(made.text.as_bytes()).expect("loaded");
    assert!(token.reaches(project.id(), "payments"));
    assert!(egret.control.create_project(ProjectInfo::named("payments")).await.is_err());
}

#[tokio::test]
async fn names_a_damaged_token_and_lets_it_be_cleared_away() {
    let shelf = Shelf::new();
    let id = {
        let egret = Egret::start(&shelf, &settings()).await;
        egret.control.create_project(ProjectInfo::named("payments")).await.expect("made");
        egret.control.create_token(new("ci")).await.expect("made").token.id
    };
    let key = shelf.keys(RecordKind::Token).pop().expect("stored");
    shelf.spoil(&key);
    let egret = Egret::start(&shelf, &settings()).await;
    assert!(egret.registry.tokens().is_empty() && egret.registry.find("payments", None, None).is_some());
    let [sentence] = &egret.control.report().quarantined[..] else { panic!("one") };
    assert!(sentence.starts_with(&format!("token {id}: ")), "{sentence}");
    let limited = TokenScope::Projects(vec!["prj_1".to_owned()]);
    let by = Arc::new(Token { scope: limited, source: TokenSource::Api, ..Token::clone(&administrator()) });
    assert!(egret.control.revoke_token(&id, by).await.is_err(), "it may have reached more than that");
    egret.control.revoke_token(&id, administrator()).await.expect("cleared away");
    assert!(shelf.keys(RecordKind::Token).is_empty() && egret.control.report().quarantined.is_empty());
}

#[tokio::test]
async fn who_was_revoked_meanwhile_makes_no_token() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    let made = egret.control.create_token(NewToken { role: Role::Admin, ..new("admin") }).await.expect("made");
    let by = |token: &Token, name| NewToken { maker: Some(Arc::new(token.clone())), ..new(name) };
    egret.control.create_token(by(&made.token, "first")).await.expect("made");
    egret.control.revoke_token("admin", administrator()).await.expect("revoked");
    // Its request was admitted before, and its body arrived late.
    let late = egret.control.create_token(by(&made.token, "second")).await;
    assert!(matches!(late, Err(ControlError::Revoked)));
    assert_eq!(egret.registry.tokens().len(), 1);
    assert_eq!(shelf.keys(RecordKind::Token).len(), 1);
}
