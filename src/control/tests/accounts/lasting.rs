//! What becomes of it over restarts, readings of the files, damage, and when two want different things at once.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::backend::Backend as _;
use crate::config::{DeclaredCertificate, PostQuantum};
use crate::control::outline;
use crate::domain::ProjectId;
use crate::pki::seal::Sealer;
use crate::registry::testing::certificate;

/// A certificate that a file declares for project `one`.
fn declared(folder: &Path, material: &Material, at: &str) -> DeclaredCertificate {
    let path = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).expect("written");
        path
    };
    DeclaredCertificate {
        project: ProjectId::derived("one", None),
        pattern: pattern(at),
        cert: path("crt", &material.cert),
        key: path("key", &material.key),
        ca: path("ca", &material.ca),
        skip_validation: false,
        lift: true,
        tls13_only: false,
    }
}

#[tokio::test]
async fn a_declared_binding_covers_it_and_lets_it_go_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &three()).await;
    let id = egret.given("shared").await.info.id.clone();
    egret.bind("one", "a.test", &id).await.expect("bound");
    let own = select(&egret.project("one"), "a.test").tls;
    let covering =
        Settings { certificates: vec![declared(folder.path(), &Material::new("declared"), "a.test")], ..three() };
    egret.reload(&covering).await;
    let is_covered = async |egret: &Egret| {
        let project = egret.project("one");
        assert_eq!(subject(&project, "a.test"), "CN=declared");
        assert!(project.snapshot().certificate(&id).is_none(), "what it had of the account's went with the binding");
        let uses = egret.control.account_associations(&id);
        assert_eq!(uses.iter().map(|place| (place.in_force, place.unavailable)).collect::<Vec<_>>(), [(false, false)]);
        let said = in_use(egret.control.account_delete(OURS, &id).await);
        assert!(said.contains("https://a.test in project one (covered by another binding)"), "{said}");
    };
    is_covered(&egret).await;
    assert_eq!(own.life().phase(), Phase::Draining);
    egret.reload(&three()).await;
    let back = select(&egret.project("one"), "a.test").tls;
    assert_eq!(subject(&egret.project("one"), "a.test"), "CN=shared");
    assert!(back.life().is_active() && back.serial() != own.serial());

    let egret = Egret::start(&shelf, &covering).await;
    is_covered(&egret).await;
    egret.reload(&three()).await;
    assert_eq!(subject(&egret.project("one"), "a.test"), "CN=shared");
    egret.unbind("one", "a.test").await;
    egret.control.account_delete(OURS, &id).await.expect("nothing names it any more");
}

#[tokio::test]
async fn a_project_that_carries_another_account_loses_it_until_the_account_comes_back() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &three()).await;
    let id = egret.given("shared").await.info.id.clone();
    egret.bind("one", "a.test", &id).await.expect("bound");
    egret.bind("two", "a.test", &id).await.expect("bound");
    let own = select(&egret.project("one"), "a.test").tls;
    let elsewhere = with(&[("one", THEIRS), ("two", OURS), ("third", THEIRS)]);
    egret.reload(&elsewhere).await;
    let is_lost = async |egret: &Egret| {
        assert!(egret.unavailable("one", "a.test").contains("another account than the one that the project carries"));
        assert!(egret.project("one").snapshot().certificate(&id).is_none());
        assert!(is_unknown(&egret.bind("one", "b.test", &id).await));
        assert_eq!(subject(&egret.project("two"), "a.test"), "CN=shared");
        let unavailable = egret.control.account_associations(&id).into_iter().filter(|place| place.unavailable);
        assert_eq!(unavailable.map(|place| place.project).collect::<Vec<_>>(), [egret.project("one").id().clone()]);
        let said = in_use(egret.control.account_delete(OURS, &id).await);
        assert!(said.contains("in project two, and to 1 more") && !said.contains("project one"), "{said}");
    };
    is_lost(&egret).await;
    assert_eq!(own.life().phase(), Phase::Draining);
    is_lost(&Egret::start(&shelf, &elsewhere).await).await;

    egret.reload(&three()).await;
    let back = select(&egret.project("one"), "a.test").tls;
    assert!(back.life().is_active() && back.serial() != own.serial());
    assert_eq!(subject(&egret.project("one"), "a.test"), "CN=shared");

    // Unbound while it is lost: it stays away.
    egret.reload(&elsewhere).await;
    let gone = egret.control.delete(&egret.project("one"), &id, Drain::Grace).await;
    assert!(matches!(gone, Err(ControlError::OfAccount(_))));
    egret.unbind("one", "a.test").await;
    egret.reload(&three()).await;
    assert_eq!(select(&egret.project("one"), "a.test").rule, Rule::Nothing);
}

#[tokio::test]
async fn no_list_of_the_zone_takes_it_for_its_own_while_it_is_another_accounts() {
    let egret = Egret::start(&Shelf::new(), &three()).await;
    let id = egret.given("shared").await.info.id.clone();
    egret.bind("one", "*", &id).await.expect("bound");
    egret.bind("one", "https://a.test:*", &id).await.expect("bound");
    egret.reload(&with(&[("one", THEIRS), ("two", OURS)])).await;
    let project = egret.project("one");
    for list in [Holder::Zone, Holder::Hostnames] {
        assert!(egret.control.listed(&project, list).is_empty());
        let told = egret.control.listed_one(&project, list, &id).map(|shown| shown.id);
        assert!(matches!(told, Err(ControlError::WrongList { held: Holder::Account, .. })), "{told:?}");
        let refused = egret.control.release(&project, list, &id).await.map(|released| released.id);
        assert!(matches!(refused, Err(ControlError::WrongList { held: Holder::Account, .. })), "{refused:?}");
    }
    assert!(egret.unavailable("one", "b.test").contains("another account"), "what is bound stays bound");
}

#[tokio::test]
async fn other_trust_makes_it_anew_and_keeps_it_bound() {
    let egret = Egret::start(&Shelf::new(), &three()).await;
    let id = egret.given("shared").await.info.id.clone();
    egret.bind("one", "a.test", &id).await.expect("bound");
    let before = select(&egret.project("one"), "a.test").tls;
    let mut other = three();
    other.trust.post_quantum = PostQuantum::Prefer;
    egret.reload(&other).await;
    let after = select(&egret.project("one"), "a.test").tls;
    assert_eq!(subject(&egret.project("one"), "a.test"), "CN=shared");
    assert_eq!((before.life().phase(), after.life().is_active()), (Phase::Draining, true));
}

#[tokio::test]
async fn a_damaged_record_makes_its_bindings_fail_and_can_be_deleted_once_there_are_none() {
    let (shelf, missing) = (Shelf::new(), Shelf::new());
    for (shelf, harm) in [(&shelf, true), (&missing, false)] {
        let (id, sound) = {
            let egret = Egret::start(shelf, &three()).await;
            let (id, sound) =
                (egret.given("damaged").await.info.id.clone(), egret.given("sound").await.info.id.clone());
            for (project, at, id) in [("one", "a.test", &id), ("one", "*", &sound), ("two", "a.test", &id)] {
                egret.bind(project, at, id).await.expect("bound");
            }
            (id, sound)
        };
        let key = record(shelf, &id).expect("stored");
        if harm {
            shelf.spoil(&key);
        } else {
            shelf.lost.lock().unwrap().push(key);
        }
        let egret = Egret::start(shelf, &three()).await;
        for project in ["one", "two"] {
            let why = egret.unavailable(project, "a.test");
            assert!(why.contains("upload the certificate to the account again"), "{why}");
        }
        assert_eq!(subject(&egret.project("one"), "b.test"), "CN=sound");
        let report = egret.control.report().quarantined;
        assert!(report.len() == 1 && report[0].contains(id.as_str()) && report[0].contains(OURS), "{report:?}");
        assert!(!report[0].contains("account/"), "in words: {report:?}");
        let accounts = egret.control.accounts();
        assert_eq!(accounts.list(OURS).iter().map(|held| held.info.id.clone()).collect::<Vec<_>>(), [sound]);
        assert!(accounts.get(OURS, &id).is_none() && accounts.lost(OURS).len() == 1);
        assert!(is_unknown(&egret.bind("two", "b.test", &id).await));
        assert_eq!(egret.registry.projects().len(), 4, "its home is no project");

        in_use(egret.control.account_delete(OURS, &id).await);
        egret.unbind("one", "a.test").await;
        egret
            .control
            .upload(&egret.project("two"), Material::new("new").upload("a.test"), Drain::Grace)
            .await
            .expect("over it");
        assert!(matches!(egret.control.account_delete(OURS, &id).await, Ok(None)), "nobody knows what it was");
        assert!(record(shelf, &id).is_none(), "and its record is gone");
        assert!(is_unknown(&egret.control.account_delete(OURS, &id).await));
        assert!(egret.control.report().quarantined.is_empty() && accounts.lost(OURS).is_empty());
        let egret = Egret::start(shelf, &three()).await;
        assert!(egret.control.report().quarantined.is_empty());
        assert_eq!(subject(&egret.project("two"), "a.test"), "CN=new");
    }
}

#[tokio::test]
async fn a_record_that_means_nothing_is_set_aside() {
    let shelf = Shelf::new();
    let id = Egret::start(&shelf, &three()).await.given("moved").await.info.id.clone();
    // Sealed for our account, it opens in no other.
    {
        let mut records = shelf.records.lock().unwrap();
        let mut moved = records.remove(&RecordKey {
            kind: RecordKind::AccountCertificate,
            project: format!("account/{OURS}"),
            id: id.as_str().to_owned(),
        });
        let moved = moved.as_mut().expect("stored");
        moved.key.project = format!("account/{THEIRS}");
        records.insert(moved.key.clone(), moved.clone());
    }
    let egret = Egret::start(&shelf, &three()).await;
    let accounts = egret.control.accounts();
    assert!(accounts.list(THEIRS).is_empty() && accounts.list(OURS).is_empty());
    assert_eq!(egret.control.report().quarantined.len(), 1);
}

#[tokio::test]
async fn what_an_account_holds_outlives_its_last_project() {
    let shelf = Shelf::new();
    let only = || ProjectInfo { account_id: Some(OURS.to_owned()), ..ProjectInfo::named("only") };
    let (id, other) = {
        let egret = Egret::start(&shelf, &settings()).await;
        let project = egret.control.create_project(only()).await.expect("made");
        let (id, other) = (egret.given("shared").await.info.id.clone(), egret.given("other").await.info.id.clone());
        egret.bind("only", "a.test", &id).await.expect("bound");
        let own = select(&project, "a.test").tls;
        egret.control.delete_project(&project).await.expect("deleted");
        assert_eq!(own.life().phase(), Phase::Draining);
        assert!(matches!(egret.control.account_delete(OURS, &id).await, Err(ControlError::NotFound("account"))));
        egret.control.create_project(only()).await.expect("made again");
        egret.control.account_delete(OURS, &other).await.expect("of the account still");
        (id, other)
    };
    let egret = Egret::start(&shelf, &settings()).await;
    egret.control.delete_project(&egret.project("only")).await.expect("deleted");
    let egret = Egret::start(&shelf, &settings()).await;
    egret.control.create_project(only()).await.expect("made once more");
    let held = egret.control.accounts().list(OURS);
    assert_eq!(held.iter().map(|held| &held.info.id).collect::<Vec<_>>(), [&id]);
    assert!(egret.control.accounts().home(&other).is_none());
    egret.bind("only", "a.test", &id).await.expect("bound");
    assert_eq!(subject(&egret.project("only"), "a.test"), "CN=shared");
}

#[tokio::test]
async fn a_bundle_is_there_after_a_start_however_far_the_clock_was_ahead_before_it_was_uploaded() {
    let shelf = Shelf::new();
    let id = {
        let egret = Egret::start(&shelf, &three()).await;
        // What comes after it is dated after it, when its CA has long expired.
        let ahead = certificate("ahead");
        let ahead = AccountCertificate {
            info: ahead.info.clone(),
            ca: false,
            name: None,
            pem: String::new(),
            digest: [0; 32],
            chain: [0; 32],
            by: String::new(),
            updated_at: time::OffsetDateTime::UNIX_EPOCH + time::Duration::days(365 * 7000),
            identity: Some(ahead.identity.clone()),
            certificates: Vec::new(),
        };
        egret.control.accounts().insert(OURS, Arc::new(ahead));
        egret.give(bundle(&Material::new("ca"))).await.expect("uploaded").info.id.clone()
    };
    let egret = Egret::start(&shelf, &three()).await;
    assert_eq!(egret.control.report().quarantined, Vec::<String>::new());
    assert!(egret.control.accounts().get(OURS, &id).is_some_and(|held| held.ca));
}

/// Shuts the store; each permit lets one change through.
fn shut(shelf: &Shelf) {
    shelf.gate.forget_permits(shelf.gate.available_permits());
}

/// Waits until the account's lock is held, which only a change at the shut store goes on doing.
async fn until_locked(egret: &Egret) {
    let locked = async {
        while tokio::time::timeout(Duration::from_millis(20), egret.control.inner.account_locks.lock(OURS))
            .await
            .is_ok()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), locked).await.expect("it comes to that");
}

#[tokio::test]
async fn who_binds_and_who_deletes_wait_for_each_other() {
    for bind_first in [true, false] {
        let shelf = Shelf::new();
        let egret = Egret::start(&shelf, &three()).await;
        let id = egret.given("wanted").await.info.id.clone();
        shut(&shelf);
        let bind = async {
            if !bind_first {
                until_locked(&egret).await;
                shelf.gate.add_permits(2);
            }
            egret.bind("one", "a.test", &id).await
        };
        let delete = async {
            if bind_first {
                until_locked(&egret).await;
                shelf.gate.add_permits(2);
            }
            egret.control.account_delete(OURS, &id).await
        };
        let (bound, deleted) = tokio::join!(bind, delete);
        assert_eq!((bound.is_ok(), deleted.is_ok()), (bind_first, !bind_first));
        assert_eq!(subject(&egret.project("one"), "a.test"), if bind_first { "CN=wanted" } else { "nobody" });
        let egret = Egret::start(&shelf, &three()).await;
        assert_eq!(select(&egret.project("one"), "a.test").rule == Rule::Exact, bind_first);
        assert!(egret.control.report().quarantined.is_empty());
    }
}

#[tokio::test]
async fn without_a_running_egret_its_id_is_known_and_that_it_is_another_accounts() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &three()).await;
    let id = egret.given("shared").await.info.id.clone();
    for at in ["a.test", "*"] {
        egret.bind("one", at, &id).await.expect("bound");
    }
    for (settings, is_for) in [(three(), true), (with(&[("one", THEIRS)]), false)] {
        let loaded = shelf.load().await.expect("loaded");
        let sealer = Arc::new(Sealer::new(Zeroizing::new([1; 32])));
        let outline = outline(&settings, Some((loaded, sealer))).expect("read");
        assert!(outline.damage.is_empty(), "{:?}", outline.damage);
        assert_eq!(outline.snapshots.len(), settings.projects.len(), "the home of an account is no project");
        let one = outline.snapshots.iter().find(|project| project.info().name == "one").expect("there");
        assert_eq!(outline.unread[&id].is_for(one.info()), is_for);
        assert_eq!(one.bindings_of(&id).len(), 2);
        for binding in one.bindings_of(&id) {
            let Target::Unavailable(unavailable) = &binding.target else { panic!("{binding:?}") };
            assert_eq!(unavailable.why == "it was not read", is_for, "{unavailable:?}");
        }
    }
}
