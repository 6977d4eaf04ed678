//! Accounts: several projects carry one, and each has of its certificates what it binds.

mod lasting;

use std::sync::Arc;

use zeroize::Zeroizing;

use super::support::{Egret, Material, Shelf, pattern, select, settings};
use crate::backend::{RecordKey, RecordKind};
use crate::config::Settings;
use crate::control::{AccountUpload, AccountUse, ControlError, Drain, Properties};
use crate::domain::{CertificateId, Holder, ProjectInfo, ProjectState, Role, Rule};
use crate::identity::Phase;
use crate::registry::{AccountCertificate, Project, Target, Token, TokenScope};

const OURS: &str = "0123456789abcdef0123456789abcdef";
const THEIRS: &str = "fedcba9876543210fedcba9876543210";

/// `default` without an account, and these with theirs.
fn with(projects: &[(&str, &str)]) -> Settings {
    let carrying = |(name, account): &(&str, &str)| ProjectInfo {
        account_id: Some((*account).to_owned()),
        ..ProjectInfo::named(name)
    };
    let projects = [ProjectInfo::named("default")].into_iter().chain(projects.iter().map(carrying)).collect();
    Settings { projects, ..settings() }
}

/// Two projects of our account, and one of another.
fn three() -> Settings {
    with(&[("one", OURS), ("two", OURS), ("third", THEIRS)])
}

fn token(name: &str) -> Arc<Token> {
    Arc::new(Token::declared(name, Role::Write, TokenScope::All, &[1; 32], "a file"))
}

fn leaf(material: &Material) -> AccountUpload {
    AccountUpload {
        ca: false,
        name: Some("for people".to_owned()),
        certificates: Zeroizing::new(material.cert.clone()),
        key: Some(Zeroizing::new(material.key.clone())),
        by: token("writer"),
        retry: false,
    }
}

fn bundle(material: &Material) -> AccountUpload {
    AccountUpload { ca: true, certificates: Zeroizing::new(material.ca.clone()), key: None, ..leaf(material) }
}

impl Egret {
    async fn give(&self, upload: AccountUpload) -> Result<Arc<AccountCertificate>, ControlError> {
        self.control.account_upload(OURS, upload).await
    }

    async fn given(&self, name: &str) -> Arc<AccountCertificate> {
        self.give(leaf(&Material::new(name))).await.expect("uploaded")
    }

    async fn bind(&self, project: &str, at: &str, id: &CertificateId) -> Result<bool, ControlError> {
        self.control.bind(&self.project(project), pattern(at), Some(id), Properties::default()).await
    }

    async fn unbind(&self, project: &str, at: &str) {
        self.control.unbind(&self.project(project), &pattern(at)).await.expect("removed");
    }

    /// Why what is bound there cannot be used.
    fn unavailable(&self, project: &str, at: &str) -> String {
        let selection = select(&self.project(project), at);
        assert!(selection.tls.identity().is_none(), "nothing is presented in its place");
        match &selection.binding.expect("bound").target {
            Target::Unavailable(unavailable) => unavailable.why.clone(),
            other => panic!("{other:?}"),
        }
    }
}

fn subject(project: &Project, at: &str) -> String {
    select(project, at).tls.identity().map_or_else(|| "nobody".to_owned(), |identity| identity.info().subject.clone())
}

fn in_use<T>(refused: Result<T, ControlError>) -> String {
    match refused {
        Err(ControlError::InUse(text)) => text,
        other => panic!("{:?}", other.err()),
    }
}

fn is_unknown<T>(result: &Result<T, ControlError>) -> bool {
    matches!(result, Err(ControlError::NotFound("certificate")))
}

fn record(shelf: &Shelf, id: &CertificateId) -> Option<RecordKey> {
    shelf.keys(RecordKind::AccountCertificate).into_iter().find(|key| key.id == id.as_str())
}

#[tokio::test]
async fn what_an_account_holds_is_there_after_a_restart_and_is_presented_nowhere() {
    let shelf = Shelf::new();
    let (client, roots) = (Material::new("client"), Material::new("roots"));
    let before = {
        let egret = Egret::start(&shelf, &three()).await;
        egret.give(leaf(&client)).await.expect("a leaf");
        egret.give(AccountUpload { name: None, ..bundle(&roots) }).await.expect("a bundle");
        egret.control.accounts().list(OURS)
    };
    let egret = Egret::start(&shelf, &three()).await;
    assert!(egret.control.report().quarantined.is_empty());
    let after = egret.control.accounts().list(OURS);
    assert_eq!((before.len(), after.len()), (2, 2));
    for (was, is) in before.iter().zip(&after) {
        assert_eq!(was.info, is.info);
        assert_eq!((&was.name, &was.pem, was.ca), (&is.name, &is.pem, is.ca));
        assert_eq!((was.digest, was.chain, &was.by, was.updated_at), (is.digest, is.chain, &is.by, is.updated_at));
        assert_eq!((was.identity.is_some(), was.certificates.len()), (is.identity.is_some(), is.certificates.len()));
        assert_eq!((is.info.holder, is.info.id.hex()), (Holder::Account, Some(is.info.id.as_str())));
        assert!(is.updated_at >= is.info.uploaded_at && egret.control.account_associations(&is.info.id).is_empty());
    }
    assert_eq!((after[0].ca, &after[0].pem, after[0].certificates.len()), (false, &client.cert, 0));
    assert_eq!((after[1].ca, &after[1].pem, after[1].certificates.len()), (true, &roots.ca, 1));
    assert_eq!((after[0].info.subject.as_str(), after[1].info.subject.as_str()), ("CN=client", "CN=roots CA"));
    assert!(egret.control.accounts().list(THEIRS).is_empty());
    for project in egret.registry.projects() {
        assert_eq!(select(&project, "a.test").rule, Rule::Nothing);
        assert!(project.snapshot().certificates().is_empty());
    }
    let homes: Vec<_> = shelf.keys(RecordKind::AccountCertificate).into_iter().map(|key| key.project).collect();
    assert_eq!(homes, [format!("account/{OURS}"), format!("account/{OURS}")]);
}

#[tokio::test]
async fn the_same_certificate_is_held_once_and_a_retry_gets_what_is_there() {
    let shelf = Shelf::new();
    let material = Material::new("a");
    let again = |retry, by| AccountUpload { retry, by: token(by), ..leaf(&material) };
    let id = {
        let egret = Egret::start(&shelf, &three()).await;
        let id = egret.give(again(true, "writer")).await.expect("the first that arrives").info.id.clone();
        assert_eq!(egret.give(again(true, "writer")).await.expect("a retry").info.id, id);
        let crlf = Zeroizing::new(material.cert.replace('\n', "\r\n"));
        let others = [
            again(false, "writer"),
            again(true, "other"),
            AccountUpload { name: Some("another".to_owned()), ..again(true, "writer") },
            AccountUpload { certificates: crlf, ..again(false, "writer") },
        ];
        for other in others {
            let refused = egret.give(other).await;
            assert!(matches!(&refused, Err(ControlError::Duplicate(there)) if *there == id), "{:?}", refused.err());
        }
        let theirs = egret.control.account_upload(THEIRS, again(false, "writer")).await.expect("another account's own");
        assert_ne!(theirs.info.id, id);
        id
    };
    assert_eq!(shelf.keys(RecordKind::AccountCertificate).len(), 2);
    let egret = Egret::start(&shelf, &three()).await;
    assert_eq!(egret.give(again(true, "writer")).await.expect("a retry after a restart").info.id, id);
    let mut impatient = three();
    impatient.limits.create_retry_window = std::time::Duration::ZERO;
    let egret = Egret::start(&shelf, &impatient).await;
    assert!(matches!(egret.give(again(true, "writer")).await, Err(ControlError::Duplicate(_))), "too late");
}

#[tokio::test]
async fn an_account_is_bounded_and_belongs_to_a_project_that_takes_it() {
    let mut settings = three();
    settings.limits.max_account_certificates = 1;
    settings.projects[2].state = ProjectState::Transferring;
    settings.projects[3].state = ProjectState::Blocked;
    let egret = Egret::start(&Shelf::new(), &settings).await;
    let first = egret.given("first").await;
    match egret.give(bundle(&Material::new("second"))).await {
        Err(ControlError::Full { limit: "max_account_certificates", most: 1, .. }) => {}
        other => panic!("{:?}", other.map(|held| held.info.id.clone())),
    }
    assert_eq!(egret.metrics.store_limits_reached.get(), 1);
    egret.control.account_delete(OURS, &first.info.id).await.expect("one of its projects takes changes");
    egret.given("second").await;

    let material = Material::new("x");
    let blocked = egret.control.account_upload(THEIRS, leaf(&material)).await;
    assert!(matches!(blocked, Err(ControlError::Blocked)));
    let nobodys = egret.control.account_upload(&"0".repeat(32), leaf(&material)).await;
    assert!(matches!(nobodys, Err(ControlError::NotFound("account"))));
}

#[tokio::test]
async fn refuses_what_is_not_what_it_is_said_to_be() {
    let egret = Egret::start(&Shelf::new(), &three()).await;
    let material = Material::new("a");
    let other = Material::new("other").key;
    let faulty = [
        AccountUpload { key: None, ..leaf(&material) },
        AccountUpload { key: Some(Zeroizing::new(other)), ..leaf(&material) },
        AccountUpload { ca: false, ..bundle(&material) },
        AccountUpload { ca: true, ..leaf(&material) },
        AccountUpload { certificates: Zeroizing::new(String::new()), ..bundle(&material) },
    ];
    for (n, upload) in faulty.into_iter().enumerate() {
        let refused = egret.give(upload).await;
        assert!(matches!(refused, Err(ControlError::Invalid(_))), "{n}");
    }
    assert!(egret.control.accounts().list(OURS).is_empty());
    let with_key = AccountUpload { key: Some(Zeroizing::new(material.key.clone())), ..bundle(&material) };
    let held = egret.give(with_key).await.expect("the key of a bundle is nobody's business");
    assert!(held.identity.is_none());
}

#[tokio::test]
async fn two_projects_that_bind_one_leaf_share_nothing() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &three()).await;
    let id = egret.given("shared").await.info.id.clone();
    for project in ["one", "two"] {
        assert!(!egret.bind(project, "a.test", &id).await.expect("bound"));
    }
    egret.bind("one", "*", &id).await.expect("a second place");
    for project in ["default", "third"] {
        assert!(is_unknown(&egret.bind(project, "a.test", &id).await), "{project}");
    }
    let of = |egret: &Egret, project: &str| egret.project(project).snapshot().certificate(&id).expect("there");
    let (one, two) = (of(&egret, "one"), of(&egret, "two"));
    assert_eq!((one.info.id.clone(), one.info.holder), (two.info.id.clone(), Holder::Account));
    for object in one.objects() {
        assert!(two.objects().all(|other| other.serial() != object.serial() && !Arc::ptr_eq(other, object)));
    }
    assert_eq!(select(&egret.project("one"), "a.test").tls.serial(), one.bound.serial());
    assert_eq!(select(&egret.project("one"), "b.test").tls.serial(), one.general.serial());
    assert_eq!((one.cert_pem.as_str(), one.ca_pem.as_str()), (two.cert_pem.as_str(), ""));

    // What one lets go of goes on in the other, and it goes with the last binding of each.
    egret.unbind("one", "*").await;
    assert!(of(&egret, "one").bound.life().is_active());
    egret.unbind("one", "a.test").await;
    assert!(egret.project("one").snapshot().certificate(&id).is_none());
    assert_eq!((one.bound.life().phase(), one.general.life().phase()), (Phase::Draining, Phase::Draining));
    assert!(two.objects().all(|tls| tls.life().is_active()));
    assert_eq!(subject(&egret.project("two"), "a.test"), "CN=shared");
    egret.bind("one", "a.test", &id).await.expect("bound anew");
    assert_ne!(select(&egret.project("one"), "a.test").tls.serial(), one.bound.serial(), "with objects of its own");

    assert_eq!(shelf.keys(RecordKind::Certificate).len(), 0, "the key rests once, with the account");
    let egret = Egret::start(&shelf, &three()).await;
    let (one, two) = (of(&egret, "one"), of(&egret, "two"));
    assert_ne!(one.bound.serial(), two.bound.serial());
    assert_eq!(subject(&egret.project("one"), "a.test"), "CN=shared");
}

#[tokio::test]
async fn whatever_takes_its_place_ends_it_in_that_project_alone() {
    let egret = Egret::start(&Shelf::new(), &three()).await;
    let project = egret.project("one");
    let id = egret.given("shared").await.info.id.clone();
    let there = || project.snapshot().certificate(&id);
    let bound = async || {
        egret.bind("one", "a.test", &id).await.expect("bound");
        there().expect("the project has it")
    };

    let first = bound().await;
    let deleted = egret.control.delete(&project, &id, Drain::Grace).await;
    assert!(matches!(deleted, Err(ControlError::OfAccount(_))), "not among the project's own");
    assert!(there().is_some_and(|still| Arc::ptr_eq(&still, &first)));

    let upload = Material::new("own").upload("a.test");
    let own = egret.control.upload(&project, upload, Drain::Grace).await.expect("uploaded over it");
    assert!(own.updated && there().is_none());
    assert_eq!(first.bound.life().phase(), Phase::Draining);
    assert_eq!(project.retired().len(), 0, "nothing ran under it");
    let back = egret.control.roll_back(&project, &pattern("a.test"), Drain::Grace).await;
    assert!(matches!(back, Err(ControlError::NoneKept)), "it is in the account, and put back by binding it");

    let second = bound().await;
    assert!(!Arc::ptr_eq(&first.bound, &second.bound));
    assert!(project.snapshot().certificate(&own.certificate.info.id).is_some(), "a binding takes nothing away");
    egret.control.bind(&project, pattern("a.test"), None, Properties::default()).await.expect("none");
    assert!(there().is_none() && second.bound.life().phase() == Phase::Draining);

    let third = bound().await;
    let other = egret.given("other").await;
    egret.bind("one", "a.test", &other.info.id).await.expect("repinned");
    assert!(there().is_none() && third.bound.life().phase() == Phase::Draining);
    assert_eq!(subject(&project, "a.test"), "CN=other");
    let strict = Properties { tls13_only: Some(true), ..Properties::default() };
    let before = select(&project, "a.test").tls;
    egret.control.bind(&project, pattern("a.test"), Some(&other.info.id), strict).await.expect("over TLS 1.3 only");
    assert_eq!(before.life().phase(), Phase::Draining);
    assert!(select(&project, "a.test").tls.life().is_active());
    assert_eq!(egret.control.accounts().list(OURS).len(), 2, "the account has what it had");
}

#[tokio::test]
async fn nothing_is_deleted_while_a_binding_names_it_and_everything_is_once_none_does() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &three()).await;
    let id = egret.given("shared").await.info.id.clone();
    egret.bind("one", "a.test", &id).await.expect("bound");
    egret.bind("two", "*.b.test", &id).await.expect("bound");
    let place = |project: &str, at: &str| AccountUse {
        project: egret.project(project).id().clone(),
        pattern: pattern(at),
        in_force: true,
        unavailable: false,
    };
    let mut expected = vec![place("one", "a.test"), place("two", "*.b.test")];
    expected.sort_by(|a, b| a.project.cmp(&b.project));
    assert_eq!(egret.control.account_associations(&id), expected);
    let records = shelf.records.lock().unwrap().clone();
    let said = in_use(egret.control.account_delete(OURS, &id).await);
    assert!(said.starts_with("Certificate cannot be deleted while in use. It is bound to "), "{said}");
    assert!(
        said.contains("https://a.test in project one") && said.contains("https://*.b.test in project two"),
        "{said}"
    );
    assert_eq!(*shelf.records.lock().unwrap(), records);

    egret.unbind("one", "a.test").await;
    assert!(!in_use(egret.control.account_delete(OURS, &id).await).contains("a.test"));
    egret.unbind("two", "*.b.test").await;
    assert!(is_unknown(&egret.control.account_delete(THEIRS, &id).await), "only in its own account");
    let deleted = egret.control.account_delete(OURS, &id).await.expect("nothing names it any more");
    assert_eq!(deleted.map(|held| held.info.id.clone()), Some(id.clone()));
    assert!(is_unknown(&egret.control.account_delete(OURS, &id).await));
    assert!(is_unknown(&egret.bind("one", "a.test", &id).await));
    assert!(record(&shelf, &id).is_none() && egret.control.account_associations(&id).is_empty());
}

#[tokio::test]
async fn a_refused_store_leaves_everything_as_it_was() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &three()).await;
    let id = egret.given("kept").await.info.id.clone();
    shelf.broken.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(egret.give(leaf(&Material::new("lost"))).await, Err(ControlError::Storing(_))));
    assert!(matches!(egret.control.account_delete(OURS, &id).await, Err(ControlError::Storing(_))));
    assert!(matches!(egret.bind("one", "a.test", &id).await, Err(ControlError::Storing(_))));
    assert_eq!(egret.control.accounts().list(OURS).len(), 1);
    assert!(egret.project("one").snapshot().certificates().is_empty());
}
