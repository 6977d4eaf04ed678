//! What the lists of a zone show, and how far each of it is.

use super::support::{Egret, Material, Shelf, declaring, pattern, settings};
use crate::backend::RecordKind;
use crate::control::{Associated, ControlError, Deployment, Shown, Wanted};
use crate::domain::{CertificateId, Holder, Host};

fn ids(shown: &[Shown]) -> Vec<&CertificateId> {
    shown.iter().map(|shown| &shown.id).collect()
}

async fn associate(egret: &Egret, hostname: &str, id: &CertificateId, enabled: Option<bool>) {
    let hostname = Host::parse(hostname).expect("a host");
    let wanted = Wanted { hostname, certificate: Some(id.clone()), enabled };
    egret.control.associate(&egret.project("default"), vec![wanted]).await.expect("associated");
}

fn association(egret: &Egret, hostname: &str) -> Option<Associated> {
    egret.control.association(&egret.project("default"), &Host::parse(hostname).expect("a host"))
}

#[tokio::test]
async fn each_list_has_its_own_oldest_first_and_what_is_bound_where_it_could_have_been() {
    let egret = Egret::start(&Shelf::new(), &settings()).await;
    let project = egret.project("default");
    let (z1, h) = (egret.held(Holder::Zone, "z1").await, egret.held(Holder::Hostnames, "h").await);
    let z2 = egret.held(Holder::Zone, "z2").await;
    let of = |uploaded: crate::control::Uploaded| uploaded.certificate.info.id.clone();
    let elsewhere = of(egret.upload("https://one.test", &Material::new("one port")).await.expect("uploaded"));
    let wide = of(egret.upload("*", &Material::new("wide")).await.expect("uploaded"));
    let host = of(egret.upload("https://v.test:*", &Material::new("host")).await.expect("uploaded"));
    let (zone, hostnames) =
        (egret.control.listed(&project, Holder::Zone), egret.control.listed(&project, Holder::Hostnames));
    let mut zone_ids = ids(&zone);
    assert!(zone_ids.windows(2).any(|pair| pair == [&z1, &z2]) || zone_ids.contains(&&wide));
    zone_ids.sort();
    let mut expected = vec![&z1, &z2, &wide];
    expected.sort();
    assert_eq!(zone_ids, expected);
    assert!(zone.windows(2).all(|pair| pair[0].since <= pair[1].since));
    assert_eq!(hostnames.len(), 2);
    assert!(ids(&hostnames).contains(&&h) && ids(&hostnames).contains(&&host));
    assert!(zone.iter().chain(&hostnames).all(|shown| shown.deployment == Deployment::Active && shown.pem.is_some()));
    for list in [Holder::Zone, Holder::Hostnames] {
        let refused = egret.control.listed_one(&project, list, &elsewhere);
        assert!(matches!(refused, Err(ControlError::NotFound(_))), "no list has a shape for one port");
    }
    let bare = CertificateId::parse(wide.hex().expect("hex")).expect("an id");
    assert_eq!(egret.control.listed_one(&project, Holder::Zone, &bare).expect("found").id, wide);
    let wrong = egret.control.listed_one(&project, Holder::Zone, &h);
    assert!(matches!(wrong, Err(ControlError::WrongList { held: Holder::Hostnames, wanted: Holder::Zone })));
}

#[tokio::test]
async fn a_certificate_that_was_deleted_is_shown_until_its_last_connection_is_gone() {
    let egret = Egret::start(&Shelf::new(), &settings()).await;
    let project = egret.project("default");
    let id = egret.held(Holder::Hostnames, "h").await;
    let pem = egret.control.listed_one(&project, Holder::Hostnames, &id).expect("there").pem;
    associate(&egret, "a.test", &id, Some(true)).await;
    let tls = egret.select("a.test").tls;
    tls.life().opened();
    associate(&egret, "a.test", &id, None).await;
    egret.release(Holder::Hostnames, &id).await.expect("deleted");
    let ended = egret.control.listed_one(&project, Holder::Hostnames, &id).expect("it is on its way out");
    assert_eq!((ended.deployment, ended.pem, ended.info.is_some()), (Deployment::Ending(1), pem, true));
    assert!(egret.control.listed(&project, Holder::Hostnames).is_empty(), "no tombstones in lists");
    assert!(matches!(egret.control.listed_one(&project, Holder::Zone, &id), Err(ControlError::NotFound(_))));
    tls.life().closed();
    let gone = egret.control.listed_one(&project, Holder::Hostnames, &id);
    assert!(matches!(gone, Err(ControlError::NotFound("certificate"))));
}

#[tokio::test]
async fn what_could_not_be_loaded_is_shown_as_that() {
    let shelf = Shelf::new();
    let (id, zone) = {
        let egret = Egret::start(&shelf, &settings()).await;
        let id = egret.held(Holder::Hostnames, "h").await;
        associate(&egret, "a.test", &id, Some(true)).await;
        associate(&egret, "b.test", &id, Some(false)).await;
        (id, egret.held(Holder::Zone, "z").await)
    };
    for key in shelf.keys(RecordKind::Certificate) {
        shelf.spoil(&key);
    }
    let egret = Egret::start(&shelf, &settings()).await;
    let project = egret.project("default");
    for (list, id) in [(Holder::Hostnames, &id), (Holder::Zone, &zone)] {
        let shown = egret.control.listed(&project, list);
        assert_eq!((ids(&shown), shown[0].deployment, shown[0].info.is_none()), (vec![id], Deployment::Failed, true));
        let one = egret.control.listed_one(&project, list, id).expect("it can be deleted");
        assert_eq!(one.deployment, Deployment::Failed);
    }
    let presents = association(&egret, "a.test").expect("associated");
    assert_eq!((presents.enabled, presents.id.as_ref(), presents.deployment), (true, Some(&id), Deployment::Failed));
    let without = association(&egret, "b.test").expect("associated");
    assert_eq!((without.enabled, without.id.as_ref(), without.deployment), (false, Some(&id), Deployment::Active));
    assert!(without.certificate.is_none());

    for key in shelf.keys(RecordKind::Binding) {
        shelf.spoil(&key);
    }
    let egret = Egret::start(&shelf, &settings()).await;
    for hostname in ["a.test", "b.test"] {
        let damaged = association(&egret, hostname).expect("it goes before what the zone presents");
        assert_eq!((damaged.id, damaged.deployment), (None, Deployment::Failed));
        assert_eq!(egret.presents(hostname), "unavailable");
    }
    associate(&egret, "a.test", &id, None).await;
    assert!(association(&egret, "a.test").is_none() && association(&egret, "c.test").is_none());
}

#[tokio::test]
async fn an_association_that_a_file_covers_is_pending() {
    let shelf = Shelf::new();
    let id = {
        let egret = Egret::start(&shelf, &settings()).await;
        let id = egret.held(Holder::Hostnames, "h").await;
        associate(&egret, "a.test", &id, Some(true)).await;
        id
    };
    let folder = tempfile::tempdir().expect("a folder");
    let egret = Egret::start(&shelf, &declaring(folder.path(), "https://a.test:*", &Material::new("declared"))).await;
    assert_eq!(egret.presents("a.test"), "declared");
    let covered = association(&egret, "a.test").expect("associated");
    assert_eq!((covered.id.as_ref(), covered.deployment), (Some(&id), Deployment::Pending));
    let all = egret.control.associations(&egret.project("default"));
    assert_eq!((all.len(), all[0].id.as_ref(), all[0].deployment), (1, Some(&id), Deployment::Pending));
    egret.reload(&settings()).await;
    assert_eq!(association(&egret, "a.test").expect("associated").deployment, Deployment::Active);
    // Where nothing is covered, what the file declares is all there is.
    let egret =
        Egret::start(&Shelf::new(), &declaring(folder.path(), "https://a.test:*", &Material::new("declared"))).await;
    assert_eq!(association(&egret, "a.test").expect("shown").deployment, Deployment::Active);
    assert!(egret.project("default").snapshot().binding(&pattern("https://a.test:*")).is_some());
}
