use super::super::testing::{binding, certificate, empty};
use super::super::{Project, Target};
use super::*;
use crate::domain::ProjectInfo;

struct World {
    disclosures: Disclosures,
    metrics: Arc<Metrics>,
    events: Arc<Events>,
    registry: Arc<Registry>,
}

fn world(most: usize) -> World {
    let (registry, metrics): (Arc<Registry>, Arc<Metrics>) = Default::default();
    let events = Arc::new(Events::new(8));
    let disclosures = Disclosures::new(registry.clone(), most, metrics.clone(), events.clone());
    World { disclosures, metrics, events, registry }
}

impl World {
    /// A project with a certificate for `a.test`, for all below `b.test`, and for everything.
    fn project(&self, name: &str) -> Arc<Project> {
        let mut edit = empty(ProjectInfo::named(name)).edit();
        for (id, pattern) in [("cert_a", "https://a.test"), ("cert_b", "https://*.b.test:*"), ("cert_c", "*")] {
            edit.bind(binding(pattern, Target::Certificate(certificate(id))));
        }
        let project = Project::new(edit.finish());
        self.registry.insert(project.clone());
        project
    }

    fn show(&self, project: &Arc<Project>, to: &str) {
        let origin = origin(to);
        let tls = project.load().select(&origin).tls;
        self.disclosures.sent(project.id(), &tls, &origin, None);
    }

    fn note(&self, project: &ProjectId, id: &str, to: &str, at: i64) -> bool {
        let at = OffsetDateTime::from_unix_timestamp(at).expect("a time");
        self.disclosures.note(project, &certificate(id).info, &origin(to), None, Rule::Exact, at)
    }

    fn origins(&self, project: &ProjectId) -> Vec<String> {
        self.disclosures.of(project).entries.iter().map(|d| d.origin.to_string()).collect()
    }
}

fn origin(text: &str) -> Origin {
    Origin::parse(text).expect("valid")
}

fn id(text: &str) -> ProjectId {
    ProjectId::parse(text).expect("valid")
}

#[test]
fn says_what_was_shown_to_whom_and_by_which_rule() {
    let world = world(100);
    let project = world.project("payments");
    for to in ["a.test", "x.b.test:8443", "other.test", "a.test"] {
        world.show(&project, to);
    }
    world.disclosures.sent(project.id(), project.load().anonymous(), &origin("z.test"), None);
    let page = world.disclosures.of(project.id());
    let told: Vec<_> =
        page.entries.iter().map(|d| (d.origin.to_string(), d.certificate.to_string(), d.rule, d.count)).collect();
    let of = |to: &str, id: &str, rule, count| (to.to_owned(), id.to_owned(), rule, count);
    assert_eq!(
        told,
        [
            of("https://a.test", "cert_a", Rule::Exact, 2),
            of("https://other.test", "cert_c", Rule::Default, 1),
            of("https://x.b.test:8443", "cert_b", Rule::Wildcard, 1),
        ]
    );
    assert_eq!(page.entries[0].fingerprint, Fingerprint([1; 32]));
    assert_eq!((world.metrics.first_disclosures.get(), world.metrics.disclosures.get()), (3, 3));
    let told: Vec<_> = world.events.follow(0).0.iter().map(|e| (e.kind, e.origin.clone())).collect();
    assert_eq!(told[2], (EventKind::CertificateDisclosed, Some("https://other.test".to_owned())));
    assert_eq!(told.len(), 3);
    assert!(world.disclosures.of(world.project("other").id()).entries.is_empty());
    assert_eq!(world.disclosures.origins_of(project.id(), &certificate("cert_a").info.id), 1);
}

#[test]
fn a_renewal_is_an_entry_of_its_own_and_no_new_host() {
    let (world, p) = (world(100), id("prj_p"));
    assert!(world.note(&p, "cert_1", "a.test", 10));
    assert!(!world.note(&p, "cert_2", "a.test", 20));
    assert!(!world.note(&p, "cert_1", "a.test", 5), "a clock that was set back");
    let page = world.disclosures.of(&p);
    let times: Vec<_> = page
        .entries
        .iter()
        .map(|d| (d.certificate.as_str().to_owned(), d.first.unix_timestamp(), d.last.unix_timestamp(), d.count))
        .collect();
    assert_eq!(times, [("cert_1".to_owned(), 10, 10, 2), ("cert_2".to_owned(), 20, 20, 1)]);
}

#[test]
fn forgets_what_was_shown_the_longest_ago_over_all_projects() {
    let (world, p, q) = (world(3), id("prj_p"), id("prj_q"));
    for (project, to) in [(&p, "a.test"), (&q, "b.test"), (&p, "c.test"), (&p, "a.test"), (&p, "d.test")] {
        world.note(project, "cert_1", to, 10);
    }
    assert_eq!(world.origins(&p), ["https://a.test", "https://c.test", "https://d.test"]);
    assert_eq!(world.disclosures.of(&q), Page { entries: Vec::new(), dropped: 1 });
    assert_eq!((world.metrics.disclosures.get(), world.metrics.disclosures_forgotten.get()), (3, 1));
    world.note(&q, "cert_1", "e.test", 20);
    assert_eq!(world.origins(&p), ["https://a.test", "https://d.test"]);
    assert_eq!(world.disclosures.of(&p).dropped, 1);
    world.disclosures.forget(&p);
    assert_eq!((world.disclosures.of(&p), world.metrics.disclosures.get()), (Page::default(), 1));
    for n in 0..10 {
        world.note(&q, "cert_1", &format!("h{n}.test"), 30);
        assert!(world.metrics.disclosures.get() <= 3 && world.disclosures.lock().order.len() <= 3);
    }
}

#[test]
fn comes_back_from_its_pages_in_order_and_within_the_bound() {
    let (before, p) = (world(1000), id("prj_p"));
    for n in 0..300 {
        before.note(&p, "cert_1", &format!("h{n}.test"), n);
    }
    before.note(&p, "cert_1", "h0.test", 1000);
    let pages = before.disclosures.take_due(&p, false);
    assert_eq!(pages.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    assert!(pages.values().all(|page| page.entries.len() <= PAGE));
    let after = world(250);
    for (number, page) in pages.into_iter().rev() {
        after.disclosures.restore(&p, number, page);
    }
    after.disclosures.restored();
    let page = after.disclosures.of(&p);
    assert_eq!((page.entries.len(), page.dropped), (250, 50));
    let oldest = page.entries.iter().map(|d| d.last.unix_timestamp()).min();
    assert_eq!(oldest, Some(51), "those that were shown the longest ago went");
    assert!(page.entries.iter().any(|d| d.origin == origin("h0.test") && d.count == 2));
    assert!(!after.note(&p, "cert_2", "h299.test", 2000), "known from before the restart");
}

#[test]
fn is_due_for_what_is_new_at_once_and_for_the_rest_now_and_then() {
    let (world, p) = (world(2), id("prj_p"));
    let due = |all| world.disclosures.due(all).len();
    assert_eq!(due(true), 0);
    world.note(&p, "cert_1", "a.test", 1);
    assert_eq!(due(false), 1);
    assert_eq!(world.disclosures.take_due(&p, false)[&0].entries.len(), 1);
    assert_eq!(due(true), 0);
    world.note(&p, "cert_1", "a.test", 2);
    assert_eq!((due(false), due(true)), (0, 1), "no write for each handshake");
    let taken = world.disclosures.take_due(&p, true);
    assert_eq!(taken[&0].entries[0].count, 2);
    world.disclosures.not_kept(&p, taken.into_keys());
    assert_eq!(due(false), 1, "what could not be written is due again");
    let _ = world.disclosures.take_due(&p, false);
    world.note(&p, "cert_1", "b.test", 3);
    world.note(&p, "cert_1", "c.test", 4);
    let page = &world.disclosures.take_due(&p, false)[&0];
    assert_eq!((page.entries.len(), page.dropped), (2, 1), "the forgotten one is not written");
    assert!(!page.is_blank(0) && Page::default().is_blank(0) && Page { dropped: 1, ..Page::default() }.is_blank(1));
}

#[test]
fn a_page_that_ran_empty_is_due_and_blank() {
    let (world, p, q) = (world(PAGE + 1), id("prj_p"), id("prj_q"));
    for n in 0..=PAGE {
        world.note(&p, "cert_1", &format!("h{n}.test"), 1);
    }
    let _ = world.disclosures.take_due(&p, true);
    for n in 0..=PAGE {
        world.note(&q, "cert_1", &format!("h{n}.test"), 2);
    }
    let pages = world.disclosures.take_due(&p, true);
    assert_eq!(pages.iter().map(|(n, page)| (*n, page.is_blank(*n))).collect::<Vec<_>>(), [(0, false), (1, true)]);
    assert_eq!(pages[&0], Page { entries: Vec::new(), dropped: PAGE as u64 + 1 });
}
