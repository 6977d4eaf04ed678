use std::sync::Arc;

use super::support::{Egret, Material, Shelf, pattern, settings};
use crate::control::{ControlError, Properties, Upload};
use crate::identity::{Phase, UpstreamTls};
use crate::registry::Target;

fn tls13_only(yes: bool) -> Properties {
    Properties { tls13_only: Some(yes), ..Properties::default() }
}

fn used(egret: &Egret, origin: &str) -> Arc<UpstreamTls> {
    egret.select(origin).tls
}

#[tokio::test]
async fn bindings_of_one_certificate_that_differ_share_no_object() {
    let egret = Egret::start(&Shelf::new(), &settings()).await;
    let project = egret.project("default");
    let id = egret.upload("https://a.test", &Material::new("a")).await.expect("uploaded").certificate.info.id.clone();
    egret.control.bind(&project, pattern("https://b.test"), Some(&id), tls13_only(true)).await.expect("bound");
    egret.control.bind(&project, pattern("*"), Some(&id), tls13_only(true)).await.expect("bound");
    let (a, b, other) = (used(&egret, "a.test"), used(&egret, "b.test"), used(&egret, "other.test"));
    assert_eq!([&a, &b, &other].map(|tls| tls.is_tls13_only()), [false, true, true]);
    assert!(a.serial() != b.serial() && b.serial() != other.serial());
    assert_eq!(other.show(), project.snapshot().certificate(&id).expect("there").general.show());
    let objects: Vec<_> = project.snapshot().certificate(&id).expect("there").objects().cloned().collect();
    for tls in [&a, &b, &other] {
        assert!(objects.iter().any(|o| Arc::ptr_eq(o, tls)), "whatever TLS uses ends with the certificate");
    }
    assert_eq!(a.config().alpn_protocols, b.config().alpn_protocols);
    let delete = egret.control.delete(&project, &id, crate::control::Drain::Grace).await;
    delete.expect("deleted");
    assert!([a, b, other].iter().all(|tls| tls.life().phase() == Phase::Draining));
}

#[tokio::test]
async fn what_no_binding_uses_any_more_ends_and_what_another_uses_lives() {
    let egret = Egret::start(&Shelf::new(), &settings()).await;
    let project = egret.project("default");
    let id = egret.upload("https://a.test", &Material::new("a")).await.expect("uploaded").certificate.info.id.clone();
    let bind = async |origin: &str, wanted| {
        egret.control.bind(&project, pattern(origin), Some(&id), wanted).await.expect("bound")
    };
    bind("https://b.test", Properties::default()).await;
    let plain = used(&egret, "a.test");
    bind("https://a.test", tls13_only(true)).await;
    let strict = used(&egret, "a.test");
    assert!(plain.life().is_active() && Arc::ptr_eq(&plain, &used(&egret, "b.test")), "b still uses it");

    plain.life().opened();
    bind("https://b.test", tls13_only(true)).await;
    assert_eq!(plain.life().phase(), Phase::Draining);
    assert!(Arc::ptr_eq(&strict, &used(&egret, "b.test")) && strict.life().is_active());
    let retired = project.retired();
    assert_eq!((retired.len(), retired[0].superseded_by.as_ref(), retired[0].connections()), (1, Some(&id), 1));

    bind("https://b.test", tls13_only(false)).await;
    let fresh = used(&egret, "b.test");
    assert!(fresh.life().is_active() && fresh.serial() != plain.serial(), "what was retired is not used again");
    bind("https://a.test", tls13_only(false)).await;
    assert!(Arc::ptr_eq(&fresh, &used(&egret, "a.test")));
    assert_eq!(strict.life().phase(), Phase::Draining);

    // The last binding goes: all that it used ends, whichever it was made with.
    egret.control.unbind(&project, &pattern("https://b.test")).await.expect("unbound");
    assert!(fresh.life().is_active());
    egret.control.unbind(&project, &pattern("https://a.test")).await.expect("unbound");
    assert_eq!(fresh.life().phase(), Phase::Draining);
}

#[tokio::test]
async fn bindings_of_one_certificate_hold_one_and_the_same_of_it_after_each_change() {
    let egret = Egret::start(&Shelf::new(), &settings()).await;
    let project = egret.project("default");
    let id = egret.upload("https://a.test", &Material::new("a")).await.expect("uploaded").certificate.info.id.clone();
    for yes in [true, false] {
        egret.control.bind(&project, pattern("https://b.test"), Some(&id), tls13_only(yes)).await.expect("bound");
        let there = project.snapshot().certificate(&id).expect("there");
        assert!(there.objects().all(|tls| tls.life().is_active()));
        for binding in project.snapshot().bindings_of(&id) {
            // Whoever writes it again, as a reload does, must not come upon what was retired.
            assert!(matches!(&binding.target, Target::Certificate(held) if Arc::ptr_eq(held, &there)), "{yes}");
        }
    }
}

#[tokio::test]
async fn it_stays_with_the_binding_through_renewals_and_restarts() {
    let shelf = Shelf::new();
    let egret = Egret::start(&shelf, &settings()).await;
    let project = egret.project("default");
    let material = Material::new("a");
    let wanted = Upload { tls13_only: Some(true), ..material.upload("https://a.test") };
    egret.control.upload(&project, wanted, crate::control::Drain::Grace).await.expect("uploaded");
    assert!(used(&egret, "a.test").is_tls13_only(), "from the first moment");
    let done = egret.upload("https://a.test", &Material::new("b")).await.expect("renewed");
    assert!(used(&egret, "a.test").is_tls13_only());
    let id = &done.certificate.info.id;
    egret.control.bind(&project, pattern("https://a.test"), Some(id), Properties::default()).await.expect("bound");
    assert!(used(&egret, "a.test").is_tls13_only(), "left out: as it was");
    assert!(used(&Egret::start(&shelf, &settings()).await, "a.test").is_tls13_only());
}

#[tokio::test]
async fn the_same_material_again_changes_only_that() {
    let egret = Egret::start(&Shelf::new(), &settings()).await;
    let project = egret.project("default");
    let material = Material::new("a");
    let first = egret.upload("https://a.test", &material).await.expect("uploaded").certificate;
    let before = used(&egret, "a.test");
    let wanted = Upload { tls13_only: Some(true), ..material.upload("https://a.test") };
    let again = egret.control.upload(&project, wanted, crate::control::Drain::Grace).await.expect("uploaded");
    assert_eq!(again.certificate.info.id, first.info.id);
    assert!(used(&egret, "a.test").is_tls13_only());
    assert_eq!(before.life().phase(), Phase::Draining);
    egret.upload("https://a.test", &material).await.expect("uploaded");
    assert!(used(&egret, "a.test").is_tls13_only(), "left out: as it was");
}

#[tokio::test]
async fn nothing_cannot_be_presented_over_tls_13_only() {
    let egret = Egret::start(&Shelf::new(), &settings()).await;
    let project = egret.project("default");
    let a = || pattern("https://a.test");
    let refused = egret.control.bind(&project, a(), None, tls13_only(true)).await;
    assert!(matches!(refused, Err(ControlError::Field { field: "tls13Only", .. })), "{refused:?}");
    let material = Material::new("a");
    let wanted = Upload { tls13_only: Some(true), ..material.upload("https://a.test") };
    egret.control.upload(&project, wanted, crate::control::Drain::Grace).await.expect("uploaded");
    egret.control.bind(&project, a(), None, Properties::default()).await.expect("none");
    assert!(!project.snapshot().binding(&a()).expect("bound").tls13_only);
}
