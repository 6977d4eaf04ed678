use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::support::{Egret, Material, Shelf, pattern, select, settings};
use crate::backend::RecordKind;
use crate::config::{DeclaredCertificate, PostQuantum, Settings};
use crate::control::{ControlError, Depth, Drain, Properties, ReloadReport};
use crate::domain::{DefaultScope, ProjectId, ProjectInfo, ProjectState, Role, Rollback, Rule, ServerTrust, Source};
use crate::identity::{Phase, UpstreamTls};
use crate::registry::{Selection, Target, Token, TokenScope};

/// A folder with files of declared certificates.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, material: &Material) {
        for (suffix, text) in [("crt", &material.cert), ("key", &material.key), ("ca", &material.ca)] {
            fs::write(self.path(&format!("{name}.{suffix}")), text).expect("written");
        }
    }

    fn declared(&self, name: &str, at: &str) -> DeclaredCertificate {
        let path = |suffix: &str| self.path(&format!("{name}.{suffix}"));
        DeclaredCertificate {
            project: ProjectId::derived("default", None),
            pattern: pattern(at),
            cert: path("crt"),
            key: path("key"),
            ca: path("ca"),
            skip_validation: false,
            lift: true,
            tls13_only: false,
        }
    }
}

fn declaring(certificates: Vec<DeclaredCertificate>) -> Settings {
    Settings { certificates, ..settings() }
}

async fn reload(egret: &Egret, settings: &Settings) -> ReloadReport {
    let settings = Arc::new(settings.clone());
    egret.control.reload(settings, Vec::new(), Depth::Everything).await.expect("nothing stands in its way")
}

fn same(a: &Arc<UpstreamTls>, b: &Arc<UpstreamTls>) -> bool {
    Arc::ptr_eq(a, b) && a.life().is_active()
}

fn subject(selection: &Selection) -> &str {
    selection.tls.identity().map_or("nobody", |identity| &identity.info().subject)
}

#[tokio::test]
async fn what_has_not_changed_keeps_its_objects_and_what_has_is_replaced() {
    let files = Files::new();
    files.write("a", &Material::new("a1"));
    files.write("b", &Material::new("b1"));
    let with = declaring(vec![files.declared("a", "https://a.test"), files.declared("b", "https://b.test")]);
    let egret = Egret::start(&Shelf::new(), &with).await;
    let (a, b) = (egret.select("a.test").tls, egret.select("b.test").tls);
    let revision = egret.project("default").load().revision();
    assert_eq!(reload(&egret, &with).await, ReloadReport::default());
    assert_eq!(egret.project("default").load().revision(), revision, "nothing was published");

    files.write("b", &Material::new("b2"));
    let report = reload(&egret, &with).await;
    assert!(report.changes.contains(&"1 declared certificate replaced".to_owned()), "{report:?}");
    assert!(same(&a, &egret.select("a.test").tls), "connections and tickets stay");
    let after = egret.select("b.test");
    assert_eq!(subject(&after), "CN=b2");
    assert_eq!(b.life().phase(), Phase::Draining);
    let grace = b.life().deadline().expect("it ends") - tokio::time::Instant::now();
    assert!(grace > with.limits.replace_grace / 2, "{grace:?}");

    let only = declaring(vec![files.declared("a", "https://a.test")]);
    reload(&egret, &only).await;
    assert_eq!(egret.select("b.test").rule, Rule::Nothing);
    let grace = after.tls.life().deadline().expect("it ends") - tokio::time::Instant::now();
    assert!(grace <= with.limits.delete_grace, "{grace:?}");
    assert!(same(&a, &egret.select("a.test").tls));
    assert_eq!(egret.project("default").snapshot().certificates().len(), 1);
}

#[tokio::test]
async fn files_that_are_not_whole_leave_the_old_certificate_in_force() {
    let files = Files::new();
    let (old, new) = (Material::new("old"), Material::new("new"));
    files.write("a", &old);
    let with = declaring(vec![files.declared("a", "https://a.test")]);
    let egret = Egret::start(&Shelf::new(), &with).await;
    let before = egret.select("a.test").tls;
    let half = &new.cert[..new.cert.len() / 2];
    let faults: [(&str, &dyn Fn()); 5] = [
        ("does not belong", &|| fs::write(files.path("a.crt"), &new.cert).expect("written")),
        ("a.crt", &|| fs::write(files.path("a.crt"), half).expect("written")),
        ("a.crt", &|| fs::write(files.path("a.crt"), "").expect("written")),
        ("a.key: cannot be opened", &|| fs::remove_file(files.path("a.key")).expect("removed")),
        ("a.ca", &|| fs::write(files.path("a.ca"), b"\xff\xfe").expect("written")),
    ];
    for (named, harm) in faults {
        files.write("a", &old);
        harm();
        let report = reload(&egret, &with).await;
        assert!(report.kept.len() == 1 && report.kept[0].contains(named), "{report:?}");
        assert!(report.changes.is_empty() && report.unloaded.is_empty(), "{report:?}");
        assert!(same(&before, &egret.select("a.test").tls), "{named}");
        assert_eq!(egret.control.report().kept, report.kept);
        assert!(egret.control.report().unloaded.is_empty(), "it stays ready");
    }
    files.write("a", &new);
    let report = reload(&egret, &with).await;
    assert!(report.failures().is_empty() && egret.control.report().kept.is_empty(), "{report:?}");
    assert_eq!(subject(&egret.select("a.test")), "CN=new");
    assert_eq!(before.life().phase(), Phase::Draining);
}

#[tokio::test]
async fn what_only_a_covered_binding_names_carries_nothing_and_ends() {
    let files = Files::new();
    files.write("a", &Material::new("declared"));
    let egret = Egret::start(&Shelf::new(), &settings()).await;
    let stored = egret.upload("https://a.test", &Material::new("stored")).await.expect("uploaded").certificate;
    let project = egret.project("default");
    let id = stored.info.id.clone();
    egret.control.bind(&project, pattern("https://b.test"), Some(&id), Properties::default()).await.expect("bound");
    reload(&egret, &declaring(vec![files.declared("a", "https://a.test")])).await;
    let before = egret.select("b.test").tls;
    assert!(before.life().is_active() && subject(&egret.select("a.test")) == "CN=declared");
    egret.upload("https://b.test", &Material::new("next")).await.expect("uploaded");
    assert_eq!(before.life().phase(), Phase::Draining, "nothing in force uses it");
    // It comes back with its binding, as it was never used.
    reload(&egret, &settings()).await;
    let after = egret.select("a.test");
    assert!(subject(&after) == "CN=stored" && after.tls.life().is_active());
}

#[tokio::test]
async fn a_project_that_is_not_to_go_back_any_more_keeps_nothing_for_it() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    for name in ["first", "second"] {
        egret.upload("https://a.test", &Material::new(name)).await.expect("uploaded");
    }
    assert_eq!(shelf.keys(RecordKind::Certificate).len(), 2, "the first is kept");
    let off = ProjectInfo { rollback: Rollback::Off, ..ProjectInfo::named("default") };
    reload(&egret, &Settings { projects: vec![off], ..settings() }).await;
    let project = egret.project("default");
    let refused = egret.control.roll_back(&project, &pattern("https://a.test"), Drain::Grace).await;
    assert!(matches!(refused, Err(ControlError::NoneKept)), "{refused:?}");
    egret.control.let_go_of_ended(time::OffsetDateTime::now_utc()).await;
    assert_eq!(shelf.keys(RecordKind::Certificate).len(), 1, "its key is wiped");
    assert_eq!(subject(&egret.select("a.test")), "CN=second");
}

#[tokio::test]
async fn projects_may_take_each_other_s_names() {
    let named = |id: &str, name: &str| ProjectInfo {
        id: ProjectId::parse(id).expect("an id"),
        declared: true,
        ..ProjectInfo::named(name)
    };
    let with =
        |one: &str, two: &str| Settings { projects: vec![named("prj_one", one), named("prj_two", two)], ..settings() };
    let egret = Egret::start(&Shelf::new(), &with("pay", "ship")).await;
    let found = |name: &str| egret.project(name).id().to_string();
    assert_eq!([found("pay"), found("ship")], ["prj_one", "prj_two"]);
    reload(&egret, &with("ship", "pay")).await;
    assert_eq!([found("pay"), found("ship")], ["prj_two", "prj_one"]);
}

#[tokio::test]
async fn a_certificate_whose_time_has_not_come_waits() {
    let files = Files::new();
    files.write("a", &Material::new("old"));
    let with = declaring(vec![files.declared("a", "https://a.test")]);
    let egret = Egret::start(&Shelf::new(), &with).await;
    let before = egret.select("a.test").tls;
    let tomorrow = time::OffsetDateTime::now_utc() + time::Duration::days(1);
    files.write("a", &Material::valid_from("early", tomorrow));
    for _ in 0..2 {
        let report = reload(&egret, &with).await;
        assert!(report.kept.len() == 1 && report.kept[0].contains("valid from"), "{report:?}");
        assert!(same(&before, &egret.select("a.test").tls));
    }
    // Where there is nothing better it holds the slot, and says why its requests fail.
    let egret = Egret::start(&Shelf::new(), &with).await;
    assert_eq!(subject(&egret.select("a.test")), "CN=early");
    // And whoever asked for no validation gets none.
    files.write("a", &Material::new("old"));
    reload(&egret, &with).await;
    let mut lax = with.clone();
    lax.certificates[0].skip_validation = true;
    files.write("a", &Material::valid_from("early", tomorrow));
    reload(&egret, &lax).await;
    assert_eq!(subject(&egret.select("a.test")), "CN=early");
}

#[tokio::test]
async fn one_that_never_was_whole_holds_its_slot_until_it_is() {
    let files = Files::new();
    let with = declaring(vec![files.declared("a", "https://a.test")]);
    let egret = Egret::start(&Shelf::new(), &with).await;
    egret.upload("*", &Material::new("default")).await.expect("uploaded");
    let unavailable =
        |selection: &Selection| matches!(selection.binding.as_ref().expect("bound").target, Target::Unavailable(_));
    assert!(unavailable(&egret.select("a.test")), "and no fall to the default");
    assert_eq!(egret.control.report().unloaded.len(), 1);
    let report = reload(&egret, &with).await;
    assert!(report.unloaded.len() == 1 && report.changes.is_empty(), "{report:?}");
    files.write("a", &Material::new("a"));
    reload(&egret, &with).await;
    assert_eq!(subject(&egret.select("a.test")), "CN=a");
    assert!(egret.control.report().unloaded.is_empty(), "ready now");
}

#[tokio::test]
async fn a_stored_binding_stands_aside_and_comes_back() {
    let (files, shelf) = (Files::new(), Shelf::new());
    files.write("a", &Material::new("declared"));
    let egret = Egret::start(&shelf, &settings()).await;
    let project = egret.project("default");
    egret.upload("https://a.test", &Material::new("stored")).await.expect("uploaded");
    egret
        .control
        .bind(&project, pattern("https://a.test"), None, Properties { lift: Some(false), ..Properties::default() })
        .await
        .expect("bound to none");
    let id =
        egret.upload("https://a.test", &Material::new("stored")).await.expect("uploaded").certificate.info.id.clone();
    let before = egret.select("a.test");
    assert!(!before.binding.as_ref().expect("bound").lift);

    let with = declaring(vec![files.declared("a", "https://a.test")]);
    reload(&egret, &with).await;
    assert_eq!(subject(&egret.select("a.test")), "CN=declared");
    assert_eq!(before.tls.life().phase(), Phase::Draining, "nothing new under the stored one");
    let refused = egret.upload("https://a.test", &Material::new("x")).await.expect_err("declared");
    assert!(matches!(refused, ControlError::Declared(..)));

    reload(&egret, &settings()).await;
    let back = egret.select("a.test");
    let binding = back.binding.as_ref().expect("bound");
    assert_eq!((binding.target.certificate_id(), &binding.source, binding.lift), (Some(&id), &Source::Api, false));
    assert!(back.tls.life().is_active() && !Arc::ptr_eq(&back.tls, &before.tls), "with objects of its own");

    // Deleted behind the file, it does not come back.
    reload(&egret, &with).await;
    egret.control.delete(&project, &id, Drain::Grace).await.expect("deleted");
    reload(&egret, &settings()).await;
    assert_eq!(egret.select("a.test").rule, Rule::Nothing);
}

#[tokio::test]
async fn a_damaged_binding_comes_back_as_what_it_is() {
    use crate::backend::RecordKind;
    let (files, shelf) = (Files::new(), Shelf::new());
    files.write("a", &Material::new("declared"));
    {
        let egret = Egret::start(&shelf, &settings()).await;
        egret.upload("https://a.test", &Material::new("stored")).await.expect("uploaded");
    }
    shelf.spoil(&shelf.keys(RecordKind::Binding)[0]);
    let egret = Egret::start(&shelf, &declaring(vec![files.declared("a", "https://a.test")])).await;
    egret.upload("*", &Material::new("default")).await.expect("uploaded");
    assert_eq!(subject(&egret.select("a.test")), "CN=declared");
    reload(&egret, &settings()).await;
    let selection = egret.select("a.test");
    assert!(
        matches!(selection.binding.as_ref().expect("held").target, Target::Unavailable(_)),
        "no fall to the default"
    );
}

#[tokio::test]
async fn stored_bindings_follow_the_declared_certificate_that_they_name() {
    let (files, shelf) = (Files::new(), Shelf::new());
    files.write("a", &Material::new("one"));
    let with = declaring(vec![files.declared("a", "https://a.test")]);
    let egret = Egret::start(&shelf, &with).await;
    let project = egret.project("default");
    let id = |selection: Selection| selection.binding.expect("bound").target.certificate_id().expect("named").clone();
    let one = id(egret.select("a.test"));
    egret.control.bind(&project, pattern("https://b.test"), Some(&one), Properties::default()).await.expect("bound");
    files.write("a", &Material::new("two"));
    reload(&egret, &with).await;
    assert_eq!(subject(&egret.select("b.test")), "CN=two");
    assert!(egret.select("b.test").tls.life().is_active());
    let egret = Egret::start(&shelf, &with).await;
    assert_eq!(subject(&egret.select("b.test")), "CN=two", "after a restart too");
    reload(&egret, &settings()).await;
    let left = egret.select("b.test").binding.expect("still bound");
    assert!(matches!(left.target, Target::Unavailable(_)), "what it named is gone");
    reload(&egret, &with).await;
    assert_eq!(subject(&egret.select("b.test")), "CN=two", "and back");
}

#[tokio::test]
async fn another_trust_makes_everything_anew() {
    let files = Files::new();
    files.write("a", &Material::new("declared"));
    let mut with = declaring(vec![files.declared("a", "https://a.test")]);
    let egret = Egret::start(&Shelf::new(), &with).await;
    egret.upload("https://b.test", &Material::new("stored")).await.expect("uploaded");
    let all = || ["a.test", "b.test", "c.test"].map(|origin| egret.select(origin).tls);
    let before = all();
    let anchor = Material::new("root");
    fs::write(files.path("anchors.pem"), &anchor.ca).expect("written");
    with.trust.anchors = vec![files.path("anchors.pem")];
    reload(&egret, &with).await;
    let second = all();
    for (old, new) in before.iter().zip(&second) {
        assert_eq!(old.life().phase(), Phase::Draining);
        assert!(new.life().is_active() && !Arc::ptr_eq(old.trust(), new.trust()));
    }
    assert_eq!(second.each_ref().map(|tls| tls.identity().is_some()), [true, true, false]);
    assert_eq!(reload(&egret, &with).await, ReloadReport::default(), "the same anchors");

    let broken = Settings {
        trust: crate::config::TrustSettings { anchors: vec![files.path("none")], ..with.trust.clone() },
        ..with.clone()
    };
    let refused =
        egret.control.reload(Arc::new(broken), Vec::new(), Depth::Everything).await.expect_err("no such file");
    assert!(refused.contains("[trust] anchors") && second.iter().all(|tls| tls.life().is_active()), "{refused}");

    with.trust.post_quantum = PostQuantum::Prefer;
    reload(&egret, &with).await;
    assert!(second.iter().all(|tls| !tls.life().is_active()) && all().iter().all(|tls| tls.is_post_quantum()));

    // What is uploaded from now on is made the same way.
    egret.upload("https://d.test", &Material::new("later")).await.expect("uploaded");
    assert!(egret.select("d.test").tls.is_post_quantum());

    let third = all();
    with.projects[0].servers = ServerTrust::Ca;
    reload(&egret, &with).await;
    assert!(third.iter().all(|tls| !tls.life().is_active()), "the project's own word counts too");
}

#[tokio::test]
async fn projects_come_change_and_leave_the_file() {
    let shelf = Shelf::new();
    let named = |name: &str| ProjectInfo { declared: true, ..ProjectInfo::named(name) };
    let with = |projects: Vec<ProjectInfo>| Settings { projects, ..settings() };
    let egret = Egret::start(&shelf, &settings()).await;
    let generation = egret.registry.token_generation();
    reload(&egret, &with(vec![named("default"), named("pay")])).await;
    assert_ne!(egret.registry.token_generation(), generation);
    let pay = egret.project("pay");
    egret.control.upload(&pay, Material::new("own").upload("*"), Drain::Grace).await.expect("uploaded");
    let own = select(&pay, "a.test").tls;

    let blocked = ProjectInfo { state: ProjectState::Blocked, ..named("pay") };
    reload(&egret, &with(vec![named("default"), blocked.clone()])).await;
    let refused = egret.control.upload(&pay, Material::new("x").upload("*"), Drain::Grace).await.expect_err("blocked");
    assert!(matches!(refused, ControlError::Blocked));
    assert!(same(&own, &select(&pay, "a.test").tls), "its certificates are untouched");

    let hinted = ProjectInfo { default_scope: DefaultScope::Hinted, ..blocked };
    reload(&egret, &with(vec![named("default"), hinted])).await;
    let shown = select(&pay, "a.test").tls;
    assert!(!own.life().is_active() && shown.life().is_active(), "it is shown to others now");

    reload(&egret, &settings()).await;
    let left = pay.snapshot();
    assert!(!left.info().declared && left.info().state == ProjectState::Blocked);
    assert!(same(&shown, &select(&pay, "a.test").tls), "it keeps its records");
    let egret = Egret::start(&shelf, &settings()).await;
    assert_eq!(egret.project("pay").load().info().state, ProjectState::Blocked, "after a restart too");

    // A new name for an id is found under both for no longer than it takes, and then under the new one.
    let renamed = ProjectInfo { id: egret.project("pay").id().clone(), ..named("payments") };
    reload(&egret, &with(vec![named("default"), renamed])).await;
    assert!(egret.registry.find("pay", None, None).is_none());
    assert_eq!(egret.project("payments").snapshot().len(), 1);
}

#[tokio::test]
async fn a_project_keeps_its_id_while_it_runs() {
    let egret = Egret::start(&Shelf::new(), &settings()).await;
    let pay = egret.control.create_project(ProjectInfo::named("pay")).await.expect("made");
    let declared =
        ProjectInfo { id: ProjectId::parse("prj_new").expect("an id"), declared: true, ..ProjectInfo::named("pay") };
    let with = Settings { projects: vec![ProjectInfo::named("default"), declared], ..settings() };
    let report = reload(&egret, &with).await;
    assert!(report.later[0].contains(pay.id().as_str()), "{report:?}");
    assert!(pay.load().info().declared && egret.registry.projects().len() == 2);
}

#[tokio::test]
async fn tokens_that_are_declared_no_more_are_good_for_nothing() {
    let egret = Egret::start(&Shelf::new(), &settings()).await;
    let token =
        |name: &str, role, byte| ([byte; 32], Token::declared(name, role, TokenScope::All, &[byte; 32], "egret.toml"));
    let put = async |tokens| egret.control.reload(Arc::new(settings()), tokens, Depth::Changed).await.expect("fine");
    let role = |byte| egret.registry.token_by_digest(&[byte; 32], None).map(|token| token.role);
    assert_eq!(put(vec![token("a", Role::Admin, 1), token("b", Role::Read, 2)]).await.changes, ["2 tokens"]);
    let generation = egret.registry.token_generation();
    assert!(put(vec![token("a", Role::Admin, 1), token("b", Role::Read, 2)]).await.changes.is_empty());
    assert_eq!(egret.registry.token_generation(), generation, "connections need not ask again");
    put(vec![token("a", Role::Proxy, 1)]).await;
    assert_eq!([role(1), role(2)], [Some(Role::Proxy), None]);
    assert_ne!(egret.registry.token_generation(), generation);
}

#[tokio::test]
async fn two_places_for_one_slot_change_nothing() {
    let files = Files::new();
    files.write("a", &Material::new("a"));
    files.write("b", &Material::new("b"));
    let with = declaring(vec![files.declared("a", "https://a.test")]);
    let egret = Egret::start(&Shelf::new(), &with).await;
    let both = declaring(vec![files.declared("a", "https://a.test"), files.declared("b", "https://a.test")]);
    let refused = egret.control.reload(Arc::new(both), Vec::new(), Depth::Everything).await.expect_err("a conflict");
    let name = |path: &Path| path.file_name().and_then(|n| n.to_str()).expect("a name").to_owned();
    assert!(
        refused.contains(&name(&files.path("a.crt"))) && refused.contains(&name(&files.path("b.crt"))),
        "{refused}"
    );
    let mut few = declaring(vec![files.declared("a", "https://a.test"), files.declared("b", "https://b.test")]);
    few.limits.max_declared_certificates = 1;
    let refused = egret.control.reload(Arc::new(few), Vec::new(), Depth::Everything).await.expect_err("too many");
    assert!(refused.contains("limits.max_declared_certificates"), "{refused}");
    assert_eq!(subject(&egret.select("a.test")), "CN=a");
}

#[tokio::test]
async fn what_is_presented_over_tls_13_only_follows_file_and_trust_too() {
    let files = Files::new();
    files.write("a", &Material::new("a"));
    let strict = DeclaredCertificate { tls13_only: true, ..files.declared("a", "https://a.test") };
    let mut with = declaring(vec![files.declared("a", "https://a.test"), files.declared("a", "https://b.test")]);
    let egret = Egret::start(&Shelf::new(), &with).await;
    let (plain, other) = (egret.select("a.test").tls, egret.select("b.test").tls);
    with.certificates[0] = strict;
    reload(&egret, &with).await;
    let over_tls13 = egret.select("a.test").tls;
    assert!(over_tls13.is_tls13_only() && over_tls13.life().is_active());
    assert_eq!(plain.life().phase(), Phase::Draining, "what may have been agreed on over TLS 1.2 takes no request");
    assert!(same(&other, &egret.select("b.test").tls), "the other slot's certificate is another one");

    fs::write(files.path("anchors.pem"), Material::new("root").ca).expect("written");
    with.trust.anchors = vec![files.path("anchors.pem")];
    reload(&egret, &with).await;
    let anew = egret.select("a.test").tls;
    assert!(anew.is_tls13_only() && !Arc::ptr_eq(anew.trust(), over_tls13.trust()));
    assert_eq!(over_tls13.life().phase(), Phase::Draining);
}

#[tokio::test]
async fn going_back_trusts_whom_the_project_trusts_by_then() {
    let files = Files::new();
    let egret = Egret::start(&Shelf::new(), &settings()).await;
    egret.upload("https://a.test", &Material::new("old")).await.expect("uploaded");
    let before = egret.select("a.test").tls;
    egret.upload("https://a.test", &Material::new("new")).await.expect("replaced");
    fs::write(files.path("anchors.pem"), Material::new("root").ca).expect("written");
    let mut with = settings();
    with.trust.anchors = vec![files.path("anchors.pem")];
    reload(&egret, &with).await;
    let project = egret.project("default");
    egret.control.roll_back(&project, &pattern("https://a.test"), Drain::Grace).await.expect("kept");
    let back = egret.select("a.test");
    assert_eq!(subject(&back), "CN=old");
    assert!(back.tls.life().is_active() && !Arc::ptr_eq(back.tls.trust(), before.trust()));
}

#[tokio::test]
async fn a_declared_certificate_that_another_binding_used_over_tls_13_only_for_a_while_is_never_a_retired_one() {
    let files = Files::new();
    files.write("a", &Material::new("a"));
    let with =
        |tls13_only| declaring(vec![DeclaredCertificate { tls13_only, ..files.declared("a", "https://a.test") }]);
    let egret = Egret::start(&Shelf::new(), &with(false)).await;
    let project = egret.project("default");
    let id = egret.select("a.test").binding.and_then(|b| b.target.certificate_id().cloned()).expect("bound");
    for yes in [true, false] {
        let wanted = Properties { tls13_only: Some(yes), ..Properties::default() };
        egret.control.bind(&project, pattern("https://b.test"), Some(&id), wanted).await.expect("bound");
    }
    reload(&egret, &with(true)).await;
    let tls = egret.select("a.test").tls;
    assert!(tls.is_tls13_only() && tls.life().is_active(), "{:?}", tls.life().phase());
    assert!(egret.select("b.test").tls.life().is_active());
}
