//! Canonicalisation and selection. Selection must cost the same with 1, 1,000 and 100,000 bindings.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use egret::config::PostQuantum;
use egret::domain::{Origin, Pattern, ProjectInfo, ServerTrust, Source};
use egret::identity::{Show, TlsFactory};
use egret::pki::anchors::{SharedAnchors, Vouching};
use egret::registry::{Binding, Snapshot, Target};

fn snapshot(bindings: usize) -> Snapshot {
    let factory = TlsFactory::new(PostQuantum::Prefer);
    let anchors = SharedAnchors::load(&[], factory.provider()).unwrap();
    let anonymous = factory.make(None, Show::Always, anchors.set(ServerTrust::Ca, None, &[], &Vouching::none()), 8);
    let mut edit = Snapshot::empty(Arc::new(ProjectInfo::named("bench")), anonymous).edit();
    for i in 0..bindings {
        let pattern =
            if i % 10 == 9 { format!("https://*.w{i}.example.com") } else { format!("https://h{i}.example.com") };
        edit.bind(Binding {
            pattern: Pattern::parse(&pattern).unwrap(),
            target: Target::None,
            source: Source::Api,
            since: time::OffsetDateTime::UNIX_EPOCH,
            lift: true,
            tls13_only: false,
            previous: None,
            association: None,
            derived: false,
        });
    }
    edit.finish()
}

fn selection(c: &mut Criterion) {
    let mut group = c.benchmark_group("selection");
    for bindings in [1, 1_000, 100_000] {
        let snapshot = snapshot(bindings);
        let last = bindings - 1 - usize::from(bindings > 1) * 5;
        let exact = Origin::parse(&format!("https://h{last}.example.com")).unwrap();
        let wildcard = Origin::parse(&format!("https://x.w{}.example.com", bindings - 1)).unwrap();
        let nothing = Origin::parse("https://unknown.example.org").unwrap();
        for (what, origin) in [("exact", &exact), ("wildcard", &wildcard), ("nothing", &nothing)] {
            group.bench_with_input(BenchmarkId::new(what, bindings), origin, |b, origin| {
                b.iter(|| snapshot.select(black_box(origin)));
            });
        }
    }
    group.finish();
}

fn change(c: &mut Criterion) {
    let mut group = c.benchmark_group("one change");
    for bindings in [1, 1_000, 100_000] {
        let snapshot = snapshot(bindings);
        let pattern = Pattern::parse("https://changed.example.com").unwrap();
        group.bench_function(BenchmarkId::from_parameter(bindings), |b| {
            b.iter(|| {
                let mut edit = snapshot.edit();
                edit.bind(Binding {
                    pattern: pattern.clone(),
                    target: Target::None,
                    source: Source::Api,
                    since: time::OffsetDateTime::UNIX_EPOCH,
                    lift: true,
                    tls13_only: false,
                    previous: None,
                    association: None,
                    derived: false,
                });
                edit.finish()
            });
        });
    }
    group.finish();
}

fn canonicalisation(c: &mut Criterion) {
    let mut group = c.benchmark_group("canonicalisation");
    for (what, text) in [
        ("plain", "api.example.com"),
        ("port", "api.example.com:8443"),
        ("url", "https://API.Example.COM:443/"),
        ("idna", "https://bücher.example"),
        ("ipv6", "[2001:db8::1]:8443"),
    ] {
        group.bench_function(what, |b| b.iter(|| Origin::parse(black_box(text)).unwrap()));
    }
    group.finish();
}

criterion_group!(benches, selection, change, canonicalisation);
criterion_main!(benches);
