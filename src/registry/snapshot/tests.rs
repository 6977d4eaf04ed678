use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::Outcome;
use super::super::testing::{binding, certificate, empty};
use super::*;
use crate::domain::DefaultScope;
use crate::registry::Unavailable;

fn origin(text: &str) -> Origin {
    Origin::parse(text).expect(text)
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).expect(text)
}

/// A project in which each pattern leads to a certificate of its own, called like the pattern's place in the list.
fn project(patterns: &[&str]) -> Snapshot {
    let mut edit = empty(ProjectInfo::named("test")).edit();
    for (n, text) in patterns.iter().enumerate() {
        let certificate = certificate(&n.to_string());
        edit.put_certificate(certificate.clone());
        edit.bind(binding(text, Target::Certificate(certificate)));
    }
    edit.finish()
}

fn chosen(selection: &Selection) -> Option<String> {
    selection.binding.as_ref().map(|b| b.pattern.to_string())
}

const ALL: [&str; 6] = [
    "https://a.example.com",
    "https://a.example.com:*",
    "https://*.example.com",
    "https://*.example.com:*",
    "*",
    "https://b.a.example.com",
];

#[test]
fn follows_the_order_of_the_rules() {
    let snapshot = project(&ALL);
    let table = [
        ("https://a.example.com", "https://a.example.com", Rule::Exact),
        ("https://a.example.com:8443", "https://a.example.com:*", Rule::Exact),
        ("https://b.example.com", "https://*.example.com", Rule::Wildcard),
        ("https://b.example.com:1", "https://*.example.com:*", Rule::Wildcard),
        ("https://example.com", "*", Rule::Default),
        ("https://c.a.example.com", "*", Rule::Default),
        ("https://b.a.example.com", "https://b.a.example.com", Rule::Exact),
        ("https://192.0.2.1", "*", Rule::Default),
    ];
    for (text, expected, rule) in table {
        let selection = snapshot.select(&origin(text));
        assert_eq!((chosen(&selection).as_deref(), selection.rule), (Some(expected), rule), "{text}");
    }
}

#[test]
fn uses_the_general_object_for_the_default_slot_only() {
    let certificate = certificate("cert_1");
    let mut edit = empty(ProjectInfo::named("test")).edit();
    edit.bind(binding("*", Target::Certificate(certificate.clone())));
    edit.bind(binding("https://a.test", Target::Certificate(certificate.clone())));
    let snapshot = edit.finish();
    assert_eq!(snapshot.select(&origin("a.test")).tls.serial(), certificate.bound.serial());
    assert_eq!(snapshot.select(&origin("b.test")).tls.serial(), certificate.general.serial());
    assert_eq!(snapshot.bindings_of(&certificate.info.id).len(), 2);
}

#[test]
fn presents_nothing_for_none_and_for_what_cannot_be_loaded() {
    let mut edit = project(&["*", "https://*.example.com"]).edit();
    edit.bind(binding("https://none.example.com", Target::None));
    let why = "its file is missing".to_owned();
    let id = CertificateId::parse("cert_lost").expect("an id");
    edit.bind(binding("https://lost.example.com", Target::Unavailable(Unavailable { id: id.clone(), why })));
    let snapshot = edit.finish();
    let none = snapshot.select(&origin("none.example.com"));
    assert_eq!((none.rule, none.tls.serial()), (Rule::None, snapshot.anonymous().serial()));
    let lost = snapshot.select(&origin("lost.example.com"));
    assert_eq!((lost.rule, lost.tls.serial()), (Rule::Exact, snapshot.anonymous().serial()));
    assert!(matches!(lost.binding.expect("bound").target, Target::Unavailable(_)));
    assert_eq!(snapshot.bindings_of(&id).len(), 1);
}

#[test]
fn leaves_out_the_default_where_its_scope_lists_other_origins() {
    let listed = DefaultScope::Listed(vec![pattern("https://*.example.com")]);
    let info = ProjectInfo { default_scope: listed, ..ProjectInfo::named("test") };
    let mut edit = project(&["*"]).edit();
    edit.set_info(Arc::new(info));
    let snapshot = edit.finish();
    assert_eq!(snapshot.select(&origin("a.example.com")).rule, Rule::Default);
    let withheld = snapshot.select(&origin("a.example.org"));
    assert_eq!((withheld.rule, withheld.binding.is_none()), (Rule::Nothing, true));
    assert_eq!(withheld.tls.serial(), snapshot.anonymous().serial());
}

#[test]
fn replaces_and_removes_without_touching_the_snapshot_before() {
    let before = project(&ALL);
    let mut edit = before.edit();
    let displaced = edit.bind(binding("https://A.example.com:443", Target::None)).expect("the same slot");
    assert_eq!(displaced.target.certificate_id().map(CertificateId::as_str), Some("0"));
    assert!(edit.unbind(&pattern("*.example.com")).is_some());
    assert!(edit.unbind(&pattern("*.example.com")).is_none());
    let after = edit.finish();
    assert_eq!((before.len(), after.len()), (6, 5));
    assert_eq!(after.revision(), before.revision() + 1);
    assert_eq!(before.select(&origin("a.example.com")).rule, Rule::Exact);
    assert_eq!(after.select(&origin("a.example.com")).rule, Rule::None);
    assert!(!after.is_bound(&displaced.target.certificate_id().expect("named").clone()));
    assert_eq!(after.select(&origin("b.example.com")).rule, Rule::Wildcard, "port * is left");
    let texts: Vec<_> = before.bindings().iter().map(|b| b.pattern.to_string()).collect();
    assert_eq!(texts[0], "*", "default first");
    assert_eq!(texts.len(), 6);
}

#[test]
fn copies_one_shard_for_one_change_among_many_bindings() {
    let mut edit = empty(ProjectInfo::named("test")).edit();
    for n in 0..20_000 {
        edit.bind(binding(&format!("https://h{n}.example.com"), Target::None));
    }
    let before = edit.finish();
    let mut edit = before.edit();
    edit.bind(binding("https://h77.example.com", Target::Certificate(certificate("c"))));
    let after = edit.finish();
    assert_eq!(after.exact.differing_shards(&before.exact), 1);
    assert_eq!(after.wildcard.differing_shards(&before.wildcard), 0);
}

#[test]
fn traces_every_place_in_order_and_names_what_comes_close() {
    let snapshot = project(&["https://api.example.com:8443", "https://*.example.com", "https://example.com", "*"]);
    let near = |text: &str| -> Vec<String> {
        snapshot.near_misses(&origin(text)).iter().map(|b| b.pattern.to_string()).collect()
    };
    assert_eq!(near("https://api.example.com"), ["https://api.example.com:8443", "https://example.com"]);
    assert_eq!(near("https://example.com:8443"), ["https://example.com", "https://*.example.com"]);
    assert_eq!(near("https://b.a.example.com"), ["https://*.example.com", "https://example.com"]);
    assert!(near("https://a.test").is_empty() && near("https://192.0.2.1").is_empty());

    let texts = |text: &str| -> Vec<String> {
        let told = |pattern: &Pattern| pattern.to_string();
        snapshot.trace(&origin(text)).iter().map(|s| s.pattern.as_ref().map_or("-".to_owned(), told)).collect()
    };
    assert_eq!(
        texts("https://a.example.com:1"),
        [
            "https://a.example.com:1",
            "https://a.example.com:*",
            "https://*.example.com:1",
            "https://*.example.com:*",
            "*"
        ]
    );
    // No wildcard above an address or a public suffix.
    for text in ["https://192.0.2.1:1", "https://example.com:1"] {
        assert_eq!(texts(text)[2..], ["-", "-", "*"], "{text}");
    }
    let trace = snapshot.trace(&origin("https://api.example.com:8443"));
    assert!(matches!(&trace[0].outcome, Outcome::Chosen(_)));
    assert!(matches!(&trace[4].outcome, Outcome::Overruled(_)));
}

/// Names records as a sealer would, without a key.
fn name_of() -> RecordName {
    Arc::new(|text: &str| format!("name of {text}"))
}

#[test]
fn never_falls_through_a_damaged_binding() {
    for (n, damaged) in ALL.iter().enumerate().take(5) {
        let rest: Vec<_> = ALL.iter().copied().filter(|p| p != damaged).collect();
        let mut edit = project(&rest).edit();
        edit.quarantine([format!("name of {damaged}")].into(), name_of());
        let snapshot = edit.finish();
        assert!(snapshot.is_quarantined(&pattern(damaged)));
        let probes = ["a.example.com", "a.example.com:1", "b.example.com", "b.example.com:1", "c.test"];
        for (m, probe) in probes.iter().enumerate() {
            let selection = snapshot.select(&origin(probe));
            let binding = selection.binding.clone().expect("something applies");
            if n == m {
                assert_eq!(binding.pattern, pattern(damaged));
                assert!(matches!(binding.target, Target::Unavailable(_)), "{probe}");
                assert!(selection.tls.identity().is_none());
            } else {
                assert_eq!(binding.pattern, pattern(ALL[m]), "{probe}");
                assert!(matches!(binding.target, Target::Certificate(_)), "{probe}");
            }
        }
        let mut edit = snapshot.edit();
        edit.bind(binding(damaged, Target::None));
        let mended = edit.finish();
        assert!(mended.quarantine.is_none());
        assert_eq!(mended.select(&origin(probes[n])).rule, Rule::None);
        let mut edit = snapshot.edit();
        assert!(edit.unbind(&pattern(damaged)).is_none());
        assert!(edit.finish().quarantine.is_none());
    }
}

/// Every rule of product.md section 2 as it is written, over a plain list.
fn naive<'a>(
    bindings: &'a BTreeMap<Pattern, usize>,
    scope: &DefaultScope,
    at: &Origin,
) -> Option<(&'a Pattern, usize)> {
    let first = |accept: &dyn Fn(&Pattern) -> bool| bindings.iter().find(|(p, _)| accept(p) && p.covers(at));
    first(&|p| matches!(p, Pattern::Host(_, PortRule::Exact(_))))
        .or_else(|| first(&|p| matches!(p, Pattern::Host(_, PortRule::Any))))
        .or_else(|| first(&|p| matches!(p, Pattern::Wildcard(_, PortRule::Exact(_)))))
        .or_else(|| first(&|p| matches!(p, Pattern::Wildcard(_, PortRule::Any))))
        .or_else(|| first(&|p| *p == Pattern::Default && !scope.excludes(at)))
        .map(|(p, n)| (p, *n))
}

fn any_host() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => proptest::collection::vec(prop_oneof!["a", "b", "c"], 1..4).prop_map(|l| format!("{}.test", l.join("."))),
        1 => Just("192.0.2.1".to_owned()),
        1 => Just("[2001:db8::1]".to_owned()),
    ]
}

fn any_pattern() -> impl Strategy<Value = String> {
    let port = prop_oneof![Just(""), Just(":443"), Just(":8443"), Just(":*")];
    let name = proptest::collection::vec(prop_oneof!["a", "b", "c"], 0..3)
        .prop_map(|l| l.into_iter().chain(["test".to_owned()]).collect::<Vec<_>>().join("."));
    prop_oneof![
        1 => Just("*".to_owned()),
        6 => (any_host(), port.clone()).prop_map(|(h, p)| format!("https://{h}{p}")),
        6 => (name, port).prop_map(|(s, p)| format!("https://*.{s}{p}")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn selects_as_the_rules_say(
        // (pattern, target: 0 = remove, 1 = none, 2.. = a certificate)
        steps in proptest::collection::vec((any_pattern(), 0_usize..6), 0..40),
        probes in proptest::collection::vec((any_host(), prop_oneof![Just(443_u16), Just(8443), Just(1)]), 1..20),
        listed in proptest::option::of(proptest::collection::vec(any_pattern(), 0..3)),
        damaged in proptest::collection::vec(any_pattern(), 0..3),
    ) {
        let certificates: Vec<_> = (0..6).map(|n| certificate(&n.to_string())).collect();
        let scope = listed.map_or(DefaultScope::Any, |l| DefaultScope::Listed(l.iter().map(|p| pattern(p)).collect()));
        let info = ProjectInfo { default_scope: scope.clone(), ..ProjectInfo::named("test") };
        let mut snapshot = empty(info);
        let mut model = BTreeMap::new();
        for (text, target) in &steps {
            let mut edit = snapshot.edit();
            let displaced = match target {
                0 => edit.unbind(&pattern(text)),
                1 => edit.bind(binding(text, Target::None)),
                n => edit.bind(binding(text, Target::Certificate(certificates[*n].clone()))),
            };
            let expected = if *target == 0 { model.remove(&pattern(text)) } else { model.insert(pattern(text), *target) };
            prop_assert_eq!(displaced.is_some(), expected.is_some());
            snapshot = edit.finish();
        }
        prop_assert_eq!(snapshot.len(), model.len());
        prop_assert_eq!(snapshot.bindings().iter().map(|b| b.pattern.clone()).collect::<Vec<_>>(), model.keys().cloned().collect::<Vec<_>>());
        for certificate in &certificates[2..] {
            let expected: Vec<_> = model.iter().filter(|(_, n)| certificate.info.id.as_str() == n.to_string()).map(|(p, _)| p.clone()).collect();
            let found: Vec<_> = snapshot.bindings_of(&certificate.info.id).iter().map(|b| b.pattern.clone()).collect();
            prop_assert_eq!(found, expected);
        }
        // A damaged slot stands where a healthy one would.
        let mut edit = snapshot.edit();
        edit.quarantine(damaged.iter().map(|p| format!("name of {}", pattern(p))).collect(), name_of());
        let beside = edit.finish();
        let mut with_damaged = model.clone();
        with_damaged.extend(damaged.iter().map(|p| (pattern(p), usize::MAX)));
        for (host, port) in probes {
            let at = origin(&format!("{host}:{port}"));
            for (snapshot, model) in [(&snapshot, &model), (&beside, &with_damaged)] {
                let selection = snapshot.select(&at);
                let expected = naive(model, &scope, &at);
                prop_assert_eq!(selection.binding.as_ref().map(|b| &b.pattern), expected.map(|(p, _)| p));
                // What is told of a selection is what was selected.
                let trace = snapshot.trace(&at);
                let told: Vec<_> = trace.iter().filter_map(|step| match &step.outcome {
                    Outcome::Chosen(binding) => Some((step.pattern.clone(), binding.pattern.clone())),
                    _ => None,
                }).collect();
                let selected: Vec<_> = selection.binding.iter().map(|b| (Some(b.pattern.clone()), b.pattern.clone())).collect();
                prop_assert_eq!(told, selected);
                let place = trace.iter().position(|step| matches!(step.outcome, Outcome::Chosen(_)));
                let above = &trace[..place.unwrap_or(trace.len())];
                let passed = above.iter().all(|s| matches!(s.outcome, Outcome::Unbound | Outcome::Impossible | Outcome::OutOfScope(_)));
                prop_assert!(passed, "nothing that is bound is passed over");
                prop_assert!(snapshot.near_misses(&at).iter().all(|b| !b.pattern.covers(&at)));
                let (rule, tls) = match expected {
                    None => (Rule::Nothing, snapshot.anonymous()),
                    Some((_, 1)) => (Rule::None, snapshot.anonymous()),
                    Some((p, usize::MAX)) => (p.rule(), snapshot.anonymous()),
                    Some((Pattern::Default, n)) => (Rule::Default, &certificates[n].general),
                    Some((p, n)) => (p.rule(), &certificates[n].bound),
                };
                prop_assert_eq!((selection.rule, selection.tls.serial()), (rule, tls.serial()));
            }
        }
    }
}

#[test]
fn lifts_as_project_and_binding_say() {
    use crate::domain::Lift;
    let bound = |pattern: &str, lift: bool| {
        let target = Target::Certificate(certificate(&format!("c{}", pattern.len())));
        Binding { lift, ..binding(pattern, target) }
    };
    for (lift, of_default, of_nothing) in
        [(Lift::Registered, false, false), (Lift::Always, true, true), (Lift::Never, false, false)]
    {
        let info = ProjectInfo { lift, ..ProjectInfo::named("test") };
        let mut edit = empty(info.clone()).edit();
        edit.bind(bound("https://exact.test", true));
        edit.bind(bound("https://*.wild.test:*", true));
        edit.bind(bound("https://plain.test", false));
        edit.bind(binding("https://none.test:*", Target::None));
        let snapshot = edit.finish();
        let lifts = |snapshot: &Snapshot, origin: &str| snapshot.lifts(&Origin::parse(origin).unwrap());
        for origin in ["https://exact.test", "https://a.wild.test:8080"] {
            assert_eq!(lifts(&snapshot, origin), lift != Lift::Never, "{origin} {lift:?}");
        }
        assert!(!lifts(&snapshot, "https://plain.test") && !lifts(&snapshot, "https://none.test"), "{lift:?}");
        assert_eq!(lifts(&snapshot, "https://other.test"), of_nothing, "{lift:?}");
        let mut edit = snapshot.edit();
        edit.bind(bound("*", true));
        assert_eq!(lifts(&edit.finish(), "https://other.test"), of_default, "{lift:?}");
        let mut edit = empty(info).edit();
        edit.bind(bound("*", false));
        assert!(!lifts(&edit.finish(), "https://other.test"), "{lift:?}: the default that applies says no");
    }
}
