use std::sync::{Arc, Mutex};
use std::time::Duration;

use time::{Duration as Span, OffsetDateTime};
use tokio::time::Instant;

use super::support::{Egret, Material, Shelf, pattern, settings};
use crate::config::Limits;
use crate::control::Drain;
use crate::control::Properties;
use crate::control::expiry::Watch;
use crate::domain::{OnExpiry, ProjectInfo, SKEW};
use crate::identity::Phase;
use crate::observe::EventKind;
use crate::registry::Selection;

const ORIGIN: &str = "https://a.test";

/// Days left and origins of a warning.
type Heard = (i64, Vec<String>);

/// An egret with a certificate, and the clocks of whoever watches it.
struct Scene {
    egret: Egret,
    watch: Watch,
    end: OffsetDateTime,
    begun: Instant,
}

impl Scene {
    async fn new(on_expiry: OnExpiry, skip_validation: bool) -> Self {
        let mut settings = settings();
        settings.projects =
            vec![ProjectInfo { on_expiry, ..ProjectInfo::named("default") }, ProjectInfo::named("other")];
        let egret = Egret::start(&Shelf::new(), &settings).await;
        let end = whole(OffsetDateTime::now_utc() + Span::days(40));
        let mut upload = Material::until("a", end).upload(ORIGIN);
        upload.skip_validation = skip_validation;
        egret.control.upload(&egret.project("default"), upload, Drain::Grace).await.expect("uploaded");
        Self { egret, watch: Watch::default(), end, begun: Instant::now() }
    }

    /// Looks when so much is left; both clocks agree.
    async fn with_left(&mut self, left: Span) -> Duration {
        let passed = (self.end - left) - (self.end - Span::days(40));
        let at = self.begun + Duration::try_from(passed).unwrap_or_default();
        self.watch.look(&self.egret.control.inner, self.end - left, at).await
    }

    /// The same after the wall clock stepped.
    async fn stepped_to(&mut self, left: Span) -> Duration {
        let at = self.begun;
        self.watch.look(&self.egret.control.inner, self.end - left, at).await
    }

    fn selected(&self) -> Selection {
        self.egret.select(ORIGIN)
    }

    fn told(&self) -> Vec<(EventKind, i64)> {
        let (events, _) = self.egret.control.events().follow(0);
        events.iter().filter_map(|e| Some((e.kind, e.days_left?))).collect()
    }
}

fn whole(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).expect("zero is a nanosecond")
}

#[tokio::test]
async fn what_was_made_before_a_step_is_not_used_after_it() {
    let mut scene = Scene::new(OnExpiry::Refuse, false).await;
    let first = scene.selected();
    scene.with_left(Span::days(39)).await;
    scene.with_left(Span::seconds(31)).await;
    assert_eq!(scene.selected().tls.serial(), first.tls.serial(), "far from its end it is left alone");

    let (mut last, mut lives) = (first, Vec::new());
    for (left, phase) in
        [(Span::seconds(30), Phase::Draining), (Span::ZERO, Phase::Gone), (-Span::try_from(SKEW).unwrap(), Phase::Gone)]
    {
        let now = Instant::now();
        scene.with_left(left).await;
        let next = scene.selected();
        assert_ne!(next.tls.serial(), last.tls.serial(), "{left}");
        assert!(next.tls.life().is_active(), "{left}: requests go on");
        assert_eq!(last.tls.life().phase(), phase, "{left}");
        if phase == Phase::Draining {
            let deadline = last.tls.life().deadline().expect("it drains");
            let until = deadline.duration_since(now);
            assert!(until > Duration::from_secs(29) && until < Duration::from_secs(31), "until its end: {until:?}");
        }
        let certificate = last.binding.as_ref().expect("bound").target.certificate_id().cloned();
        assert_eq!(next.binding.as_ref().expect("bound").target.certificate_id(), certificate.as_ref(), "the same one");
        lives.push(last);
        scene.with_left(left).await;
        scene.with_left(left - Span::SECOND).await;
        assert_eq!(scene.selected().tls.serial(), next.tls.serial(), "{left}: once");
        last = next;
    }
    assert_eq!(scene.egret.metrics.expiry_retired.get(), 3);
}

#[tokio::test]
async fn what_is_sent_all_the_same_goes_on() {
    for (on_expiry, skip_validation) in [(OnExpiry::Send, false), (OnExpiry::Refuse, true)] {
        let mut scene = Scene::new(on_expiry, skip_validation).await;
        let before = scene.selected().tls.serial();
        for left in [Span::seconds(30), Span::ZERO, Span::days(-2)] {
            scene.with_left(left).await;
            assert_eq!(scene.selected().tls.serial(), before);
        }
        assert_eq!(scene.told().last(), Some(&(EventKind::CertificateExpired, 0)), "and it is told of");
    }
}

#[tokio::test]
async fn a_clock_that_went_back_passes_the_end_once_more() {
    let mut scene = Scene::new(OnExpiry::Refuse, false).await;
    scene.with_left(Span::days(40)).await;
    scene.stepped_to(Span::ZERO).await;
    let passed = scene.selected().tls;
    scene.stepped_to(Span::days(2)).await;
    assert_eq!(scene.selected().tls.serial(), passed.serial(), "going back ends nothing");
    scene.stepped_to(Span::ZERO).await;
    assert_ne!(scene.selected().tls.serial(), passed.serial());
    assert_eq!(passed.life().phase(), Phase::Gone);
    let expired = scene.told().iter().filter(|(kind, _)| *kind == EventKind::CertificateExpired).count();
    assert_eq!(expired, 1, "told once: {:?}", scene.told());
}

#[tokio::test]
async fn a_step_past_the_end_cuts_what_was_replaced_before() {
    let mut scene = Scene::new(OnExpiry::Refuse, false).await;
    scene.with_left(Span::days(40)).await;
    let old = scene.selected().tls;
    old.life().opened();
    let next = Material::until("b", scene.end + Span::days(100)).upload(ORIGIN);
    scene.egret.control.upload(&scene.egret.project("default"), next, Drain::Grace).await.expect("replaced");
    scene.stepped_to(Span::hours(1)).await;
    assert_eq!(old.life().phase(), Phase::Draining, "a step alone is no reason");
    scene.stepped_to(Span::ZERO).await;
    assert_eq!(old.life().phase(), Phase::Gone);
    assert!(scene.selected().tls.life().is_active());
}

#[tokio::test]
async fn a_replaced_certificate_has_no_grace_beyond_its_end() {
    let egret = Egret::start(&Shelf::new(), &settings()).await;
    let end = OffsetDateTime::now_utc() + Span::minutes(10);
    let old = egret.upload(ORIGIN, &Material::until("a", end)).await.expect("uploaded").certificate;
    egret.upload(ORIGIN, &Material::new("b")).await.expect("replaced");
    let left = old.bound.life().deadline().expect("it drains").duration_since(Instant::now());
    assert!(left <= Duration::from_secs(600) && left > Duration::from_secs(590), "{left:?}");
}

#[tokio::test]
async fn a_project_that_is_being_changed_holds_up_no_other() {
    let mut scene = Scene::new(OnExpiry::Refuse, false).await;
    let other = scene.egret.project("other");
    let upload = Material::until("b", scene.end).upload(ORIGIN);
    scene.egret.control.upload(&other, upload, Drain::Grace).await.expect("uploaded");
    let (ours, theirs) = (scene.selected().tls, super::support::select(&other, ORIGIN).tls);
    let project = scene.egret.project("default");
    let writer = project.write().await;
    let pause = scene.with_left(Span::ZERO).await;
    assert!(pause < Duration::from_millis(100), "it is tried again soon: {pause:?}");
    assert!(ours.life().is_active() && theirs.life().is_gone());
    drop(writer);
    scene.with_left(Span::ZERO).await;
    assert!(ours.life().is_gone());
}

#[tokio::test]
async fn each_threshold_is_told_once_to_everybody() {
    let mut scene = Scene::new(OnExpiry::Refuse, false).await;
    let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
    let hears = heard.clone();
    scene.egret.control.on_warning(move |w| hears.lock().unwrap().push((w.days_left, w.origins.clone())));
    let project = scene.egret.project("default");
    let id = scene.selected().binding.expect("bound").target.certificate_id().expect("one").clone();
    scene.egret.control.bind(&project, pattern("*"), Some(&id), Properties::default()).await.expect("bound");
    for days in [31, 30, 29, 14, 14, 7, 2, 1, 0, -1, -100] {
        scene.with_left(Span::days(days)).await;
    }
    assert_eq!(scene.told().iter().map(|(_, days)| *days).collect::<Vec<_>>(), [30, 14, 7, 1, 0]);
    let (days, origins): (Vec<_>, Vec<_>) = heard.lock().unwrap().iter().cloned().unzip();
    assert_eq!(days, [30, 14, 7, 1, 0]);
    assert_eq!(origins[0], ["*", ORIGIN]);
    let metrics = &scene.egret.metrics;
    let counts = [
        &metrics.expiry_warnings_30,
        &metrics.expiry_warnings_14,
        &metrics.expiry_warnings_7,
        &metrics.expiry_warnings_1,
        &metrics.expiry_warnings_0,
    ];
    assert_eq!(counts.map(crate::observe::Count::get), [1; 5]);
    // Another start says how it stands, and not how it came to that.
    scene.watch = Watch::default();
    scene.with_left(Span::days(-3)).await;
    scene.with_left(Span::days(-4)).await;
    assert_eq!(scene.told().last(), Some(&(EventKind::CertificateExpired, -3)));
    assert_eq!(scene.told().len(), 6);
}

#[tokio::test]
async fn what_no_binding_names_is_nobodys_business() {
    let mut scene = Scene::new(OnExpiry::Refuse, false).await;
    let project = scene.egret.project("default");
    let id = scene.selected().binding.expect("bound").target.certificate_id().expect("one").clone();
    scene.with_left(Span::days(20)).await;
    assert_eq!(scene.egret.control.first_end(), Some(scene.end));
    scene.egret.control.unbind(&project, &pattern(ORIGIN)).await.expect("unbound");
    scene.with_left(Span::days(10)).await;
    assert_eq!((scene.told().len(), scene.egret.control.first_end()), (1, None));
    // Bound again, it is told of what was not told before.
    scene.egret.control.bind(&project, pattern(ORIGIN), Some(&id), Properties::default()).await.expect("bound");
    scene.with_left(Span::days(10)).await;
    scene.egret.control.unbind(&project, &pattern(ORIGIN)).await.expect("unbound");
    scene.with_left(Span::days(9)).await;
    scene.egret.control.bind(&project, pattern(ORIGIN), Some(&id), Properties::default()).await.expect("bound");
    scene.with_left(Span::days(9)).await;
    assert_eq!(scene.told().iter().map(|(_, days)| *days).collect::<Vec<_>>(), [20, 10]);
}

#[tokio::test]
async fn it_is_said_until_when_an_expired_one_is_sent() {
    let mut scene = Scene::new(OnExpiry::Refuse, false).await;
    scene.with_left(Span::ZERO).await;
    let (events, _) = scene.egret.control.events().follow(0);
    let told = &events.last().expect("told").message;
    let until = crate::domain::time::rfc3339(scene.end + SKEW);
    assert!(told.contains(&format!("is not sent any more from {until} on")), "{told}");
    let snapshot = scene.egret.project("default").snapshot();
    let text = |at| crate::control::Control::warnings(&snapshot, at)[0].text.clone();
    assert_eq!(text(scene.end), *told);
    assert!(text(scene.end + SKEW).contains("and is not sent any more; it is presented"), "{}", text(scene.end + SKEW));
}

#[tokio::test]
async fn another_drain_counts_from_when_it_is_said() {
    let mut scene = Scene::new(OnExpiry::Refuse, false).await;
    scene.with_left(Span::minutes(31)).await;
    let first = scene.selected();
    let hour = Limits { expiry_drain: Duration::from_secs(3600), ..Limits::default() };
    scene.egret.control.limits().replace(hour);
    scene.with_left(Span::minutes(30)).await;
    assert_eq!(first.tls.life().phase(), Phase::Draining, "less than an hour is left");
    let next = scene.selected();
    assert!(next.tls.life().is_active());
    scene.with_left(Span::minutes(29)).await;
    assert_eq!(scene.selected().tls.serial(), next.tls.serial(), "once");
}
