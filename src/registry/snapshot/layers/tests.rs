use time::Duration;

use super::*;
use crate::domain::{Origin, ProjectInfo, Rule};
use crate::registry::testing::{binding, certificate, empty};

fn at(second: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::seconds(second)
}

/// A roster with these zone certificates, oldest first, and a newer one of the other list.
fn roster(zone_enabled: bool, zone: &[(&str, i64)]) -> Roster {
    let held = |id: &str, holder, second| Held {
        id: CertificateId::parse(id).unwrap(),
        holder,
        since: at(second),
        by: String::new(),
    };
    let mut list: Vec<_> = zone.iter().map(|(id, second)| held(id, Holder::Zone, *second)).collect();
    list.push(held("hostnames", Holder::Hostnames, 1000));
    Roster { zone_enabled, held: list, ..Roster::default() }
}

/// A project with certificates `own`, `a` and `b`, and what else `change` does.
fn snapshot(change: impl FnOnce(&mut SnapshotEdit)) -> Snapshot {
    let mut edit = empty(ProjectInfo::named("p")).edit();
    for id in ["own", "a", "b"] {
        edit.put_certificate(certificate(id));
    }
    change(&mut edit);
    edit.finish()
}

fn own(second: i64) -> Binding {
    Binding { since: at(second), ..binding("*", Target::Certificate(certificate("own"))) }
}

/// The certificate that is selected for an origin that nothing else is bound to.
fn selected(snapshot: &Snapshot) -> String {
    let selection = snapshot.select(&Origin::parse("https://anywhere.test").unwrap());
    let named = selection.binding.as_ref().and_then(|b| b.target.certificate_id()).map(CertificateId::to_string);
    let usable = selection.tls.identity().map(|identity| identity.info().id.to_string());
    match (named, usable) {
        (Some(named), Some(usable)) => {
            assert_eq!((&named, selection.rule), (&usable, Rule::Default));
            usable
        }
        (Some(named), None) => format!("unusable {named}"),
        (None, _) => selection.rule.as_str().to_owned(),
    }
}

#[test]
fn the_newest_zone_certificate_is_presented_while_the_zone_is_on() {
    let two = [("a", 1), ("b", 2)];
    assert_eq!(selected(&snapshot(|edit| edit.set_roster(roster(true, &two)))), "b");
    assert_eq!(selected(&snapshot(|edit| edit.set_roster(roster(true, &two[..1])))), "a");
    assert_eq!(selected(&snapshot(|edit| edit.set_roster(roster(false, &two)))), "nothing");
    assert_eq!(selected(&snapshot(|edit| edit.set_roster(roster(true, &[])))), "nothing");
}

#[test]
fn what_came_later_is_presented_and_the_other_one_is_covered() {
    for (since, winner, covered) in [(1, "b", "own"), (2, "b", "own"), (3, "own", "b")] {
        let snapshot = snapshot(|edit| {
            edit.set_roster(roster(true, &[("a", 1), ("b", 2)]));
            edit.bind(own(since));
        });
        assert_eq!(selected(&snapshot), winner);
        let aside = snapshot.covered().and_then(|b| b.target.certificate_id()).unwrap();
        assert_eq!(aside.as_str(), covered);
        let listed: Vec<_> = snapshot.bindings().iter().filter_map(|b| b.target.certificate_id().cloned()).collect();
        assert_eq!(listed.iter().map(CertificateId::as_str).collect::<Vec<_>>(), [winner, covered]);
        assert_eq!(snapshot.len(), 2);
        for id in ["own", "b"] {
            let id = CertificateId::parse(id).unwrap();
            let bindings = snapshot.bindings_of(&id);
            assert_eq!(bindings.len(), 1);
            assert_eq!(bindings[0].target.certificate_id(), Some(&id));
        }
        assert!(!snapshot.is_bound(&CertificateId::parse("a").unwrap()));
    }
}

#[test]
fn a_later_none_covers_the_zone() {
    let none = |since| Binding { since: at(since), ..binding("*", Target::None) };
    let with = |since| {
        snapshot(|edit| {
            edit.set_roster(roster(true, &[("a", 2)]));
            edit.bind(none(since));
        })
    };
    assert_eq!((selected(&with(1)), selected(&with(3))), ("a".to_owned(), "none".to_owned()));
}

#[test]
fn a_declared_binding_goes_before_whatever_the_zone_has() {
    let snapshot = snapshot(|edit| {
        edit.set_roster(roster(true, &[("a", 100)]));
        edit.bind(Binding { source: Source::File("egret.toml".into()), ..own(1) });
    });
    assert_eq!(selected(&snapshot), "own");
}

#[test]
fn a_zone_certificate_that_is_lost_is_not_stood_in_for() {
    let lost = snapshot(|edit| {
        edit.set_roster(roster(true, &[("a", 1), ("lost", 5)]));
        edit.bind(own(3));
    });
    assert_eq!(selected(&lost), "unusable lost");
    let newer = snapshot(|edit| {
        edit.set_roster(roster(true, &[("lost", 5)]));
        edit.bind(own(6));
    });
    assert_eq!(selected(&newer), "own");
}

#[test]
fn nothing_is_presented_in_place_of_what_a_damaged_record_said() {
    let damaged_roster = snapshot(|edit| {
        edit.set_roster(Roster { damaged: true, ..Roster::default() });
        edit.bind(own(3));
    });
    assert_eq!(selected(&damaged_roster), "unusable unreadable");
    let damaged_binding = snapshot(|edit| {
        edit.set_roster(roster(true, &[("a", 100)]));
        edit.bind(Binding::damaged(Pattern::Default));
    });
    assert_eq!(selected(&damaged_binding), "unusable unreadable");
    let quarantined = snapshot(|edit| {
        edit.set_roster(roster(true, &[("a", 100)]));
        edit.quarantine(["*".to_owned()].into(), Arc::new(str::to_owned));
    });
    assert_eq!(selected(&quarantined), "unusable unreadable");
}

#[test]
fn follows_every_change_of_what_it_is_made_of() {
    let id = |id: &str| CertificateId::parse(id).unwrap();
    let first = snapshot(|edit| edit.set_roster(roster(true, &[("a", 1), ("b", 2)])));

    // Written anew for a fresh certificate, as whoever renews does.
    let mut edit = first.edit();
    let fresh = certificate("b");
    edit.put_certificate(fresh.clone());
    for binding in first.bindings_of(&id("b")) {
        edit.bind(Binding { target: Target::Certificate(fresh.clone()), ..Binding::clone(&binding) });
    }
    let renewed = edit.finish();
    let tls = renewed.select(&Origin::parse("https://anywhere.test").unwrap()).tls;
    assert!(Arc::ptr_eq(&tls, &fresh.general));
    assert!(renewed.binding(&Pattern::Default).is_none(), "the zone's binding is nobody's own");

    // Bound to the very place as well: one binding, and no trace of the other.
    let mut edit = renewed.edit();
    edit.bind(Binding { since: at(9), ..binding("*", Target::Certificate(fresh.clone())) });
    let bound = edit.finish();
    assert!(bound.zone().is_none() && bound.covered().is_none());
    assert_eq!((bound.bindings_of(&id("b")).len(), bound.len()), (1, 1));
    let mut edit = bound.edit();
    edit.unbind(&Pattern::Default);
    let unbound = edit.finish();
    assert_eq!(selected(&unbound), "b");
    assert!(unbound.is_bound(&id("b")));

    // Deleted: the one before takes over.
    let mut edit = unbound.edit();
    edit.set_roster(roster(true, &[("a", 1)]));
    edit.remove_certificate(&id("b"));
    let deleted = edit.finish();
    assert_eq!(selected(&deleted), "a");
    assert!(!deleted.is_bound(&id("b")) && deleted.bindings_of(&id("b")).is_empty());

    let mut edit = deleted.edit();
    edit.set_roster(roster(false, &[("a", 1)]));
    let off = edit.finish();
    assert_eq!((selected(&off), off.len()), ("nothing".to_owned(), 0));
    assert!(!off.is_bound(&id("a")));
}
