//! Who was ever shown which certificate: a bounded ledger of what left egret in handshakes.
//!
//! Written by the dialler, at the handshake in which a certificate went out, whatever became of the exchange; a request
//! on a connection that is there costs nothing. Read by the API, and kept in the store by the control floor.
//!
//! - An entry is a certificate and an origin, of one project. It stays when the certificate has gone: that is the point.
//! - Over all projects there are `limits.max_disclosures`; the one that was shown the longest ago makes room.
//! - Entries lie on numbered pages, which is how they rest in the store. A page gets what room it has, so its number says
//!   nothing of the origins on it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use time::OffsetDateTime;
use tokio::sync::Notify;

use super::Registry;
use crate::domain::{CertificateId, CertificateInfo, Fingerprint, Origin, ProjectId, Rule, time as clock};
use crate::identity::{Show, UpstreamTls};
use crate::observe::{Event, EventKind, Events, Metrics};

/// Entries on a page: what one new entry makes the store write anew.
const PAGE: usize = 128;
/// Characters kept of a subject, and of a serial number: certificates may have any.
const LONGEST: usize = 256;

/// A certificate was shown to an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disclosure {
    /// Its id.
    pub certificate: CertificateId,
    /// SHA-256 of it.
    pub fingerprint: Fingerprint,
    /// Its serial number, upper-case hex; the first 256 characters.
    pub serial_number: String,
    /// Whose it is, RFC 4514; the first 256 characters.
    pub subject: String,
    /// Who saw it.
    pub origin: Origin,
    /// Where that was the last time; `None` where a parent proxy lay between.
    pub address: Option<SocketAddr>,
    /// The rule by which it was chosen the last time: exact, wildcard or default.
    pub rule: Rule,
    /// The first handshake in which it was sent, whole seconds.
    pub first: OffsetDateTime,
    /// The last one, whole seconds.
    pub last: OffsetDateTime,
    /// How many there were.
    pub count: u64,
}

/// What of a project rests in one record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Its entries.
    pub entries: Vec<Disclosure>,
    /// How many entries of the project have been forgotten so far.
    pub dropped: u64,
}

impl Page {
    /// Whether there is nothing in it to keep, were it page `number`.
    #[must_use]
    pub fn is_blank(&self, number: u32) -> bool {
        // The first page alone outlives its entries, for the number of those forgotten.
        self.entries.is_empty() && (number > 0 || self.dropped == 0)
    }
}

/// The ledger of one egret.
pub struct Disclosures {
    ledger: Mutex<Ledger>,
    registry: Arc<Registry>,
    most: usize,
    metrics: Arc<Metrics>,
    events: Arc<Events>,
    /// Something new is to be kept soon.
    news: Notify,
}

#[derive(Debug, Default)]
struct Ledger {
    projects: HashMap<ProjectId, Book>,
    /// The entries by when they were shown last, in turns.
    order: BTreeMap<u64, (ProjectId, Origin, CertificateId)>,
    turn: u64,
}

/// The entries of one project.
#[derive(Debug, Default)]
struct Book {
    hosts: HashMap<Origin, HashMap<CertificateId, Entry>>,
    pages: Vec<PageState>,
    dropped: u64,
}

#[derive(Debug)]
struct Entry {
    disclosure: Disclosure,
    page: u32,
    turn: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct PageState {
    len: usize,
    /// Holds an entry that the store has never seen.
    new: bool,
    /// Differs from what the store has.
    stale: bool,
}

impl Disclosures {
    /// An empty ledger for at most `most` entries. The projects of `registry` say by which rules.
    #[must_use]
    pub fn new(registry: Arc<Registry>, most: usize, metrics: Arc<Metrics>, events: Arc<Events>) -> Self {
        Self { ledger: Mutex::default(), registry, most: most.max(1), metrics, events, news: Notify::new() }
    }

    /// Notes that the certificate of `tls` was sent to `origin` just now. The first time that a project shows any
    /// certificate to an origin is logged, counted and told as an event. Costs a short mutex.
    pub fn sent(&self, project: &ProjectId, tls: &UpstreamTls, origin: &Origin, address: Option<SocketAddr>) {
        let Some(identity) = tls.identity() else { return };
        let info = identity.info();
        // With a deleted project its part of the ledger went.
        let Some(found) = self.registry.project(project) else { return };
        let rule = match tls.show() {
            // What was selected is one of two kinds; exact or wildcard is what the project says now.
            Show::Always if found.load().select(origin).rule == Rule::Wildcard => Rule::Wildcard,
            Show::Always => Rule::Exact,
            Show::UnlessOthersAreNamed | Show::OnlyIfNamed => Rule::Default,
        };
        if !self.note(project, info, origin, address, rule, clock::now()) {
            return;
        }
        self.metrics.first_disclosures.add();
        tracing::info!(
            %project, %origin, certificate = %info.id, rule = rule.as_str(),
            "a certificate was shown to this origin for the first time"
        );
        let words = match rule {
            Rule::Default => "the project-wide certificate was shown to this origin for the first time",
            _ => "a certificate was shown to this origin for the first time",
        };
        self.events.emit(Event::new(EventKind::CertificateDisclosed, words).about(project, &info.id).at_origin(origin));
    }

    /// True if no certificate of the project was known to have been shown to this origin.
    fn note(
        &self,
        project: &ProjectId,
        info: &CertificateInfo,
        origin: &Origin,
        address: Option<SocketAddr>,
        rule: Rule,
        now: OffsetDateTime,
    ) -> bool {
        let now = now.replace_nanosecond(0).unwrap_or(now);
        let mut ledger = self.lock();
        if ledger.again(project, info, origin, |known| {
            // A clock may be set back; what was known is not made younger by that.
            known.last = known.last.max(now);
            known.count = known.count.saturating_add(1);
            (known.rule, known.address) = (rule, address.or(known.address));
        }) {
            return false;
        }
        let book = ledger.projects.get(project);
        let is_first = !book.is_some_and(|book| book.hosts.contains_key(origin));
        let short = |text: &str| text.chars().take(LONGEST).collect();
        let disclosure = Disclosure {
            certificate: info.id.clone(),
            fingerprint: info.fingerprint,
            serial_number: short(&info.serial_number),
            subject: short(&info.subject),
            origin: origin.clone(),
            address,
            rule,
            first: now,
            last: now,
            count: 1,
        };
        self.make_room(&mut ledger);
        let page = ledger.add(project, disclosure, None);
        ledger.projects.entry(project.clone()).or_default().pages[page as usize].new = true;
        self.metrics.disclosures.add();
        drop(ledger);
        self.news.notify_one();
        is_first
    }

    fn make_room(&self, ledger: &mut Ledger) {
        while ledger.order.len() >= self.most && ledger.drop_oldest() {
            self.metrics.disclosures.sub();
            self.metrics.disclosures_forgotten.add();
        }
    }

    /// What is known of a project, by origin and first time, and how many entries were forgotten.
    #[must_use]
    pub fn of(&self, project: &ProjectId) -> Page {
        let mut page = {
            let ledger = self.lock();
            let Some(book) = ledger.projects.get(project) else { return Page::default() };
            Page { entries: book.entries().map(|entry| entry.disclosure.clone()).collect(), dropped: book.dropped }
        };
        page.entries.sort_by(|a, b| {
            let key = |d: &Disclosure| (d.origin.clone(), d.first, d.certificate.clone());
            key(a).cmp(&key(b))
        });
        page
    }

    /// To how many origins this certificate was shown.
    #[must_use]
    pub fn origins_of(&self, project: &ProjectId, certificate: &CertificateId) -> usize {
        let ledger = self.lock();
        let book = ledger.projects.get(project);
        book.map_or(0, |book| book.hosts.values().filter(|shown| shown.contains_key(certificate)).count())
    }

    /// Forgets a project that was deleted.
    pub fn forget(&self, project: &ProjectId) {
        let mut ledger = self.lock();
        let Some(book) = ledger.projects.remove(project) else { return };
        for entry in book.entries() {
            ledger.order.remove(&entry.turn);
            self.metrics.disclosures.sub();
        }
    }

    // === What the store keeps ===

    /// Resolves when an entry is there that the store has never seen.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Which projects have something to be kept: what is new, or (`all`) whatever differs.
    #[must_use]
    pub fn due(&self, all: bool) -> Vec<ProjectId> {
        let ledger = self.lock();
        let is_due = |book: &Book| book.pages.iter().any(|page| page.is_due(all));
        ledger.projects.iter().filter(|(_, book)| is_due(book)).map(|(id, _)| id.clone()).collect()
    }

    /// The pages of a project that are due, which from now on count as kept. Whoever cannot keep them says so with
    /// [`Disclosures::not_kept`].
    #[must_use]
    pub fn take_due(&self, project: &ProjectId, all: bool) -> BTreeMap<u32, Page> {
        let mut ledger = self.lock();
        let Some(book) = ledger.projects.get_mut(project) else { return BTreeMap::new() };
        let dropped = book.dropped;
        let mut due = BTreeMap::new();
        for (number, page) in (0_u32..).zip(&mut book.pages).filter(|(_, page)| page.is_due(all)) {
            (page.new, page.stale) = (false, false);
            due.insert(number, Page { entries: Vec::with_capacity(page.len), dropped });
        }
        for entry in book.entries() {
            if let Some(page) = due.get_mut(&entry.page) {
                page.entries.push(entry.disclosure.clone());
            }
        }
        due
    }

    /// Says that these pages are still to be kept, and are not to wait.
    pub fn not_kept(&self, project: &ProjectId, pages: impl Iterator<Item = u32>) {
        let mut ledger = self.lock();
        let Some(book) = ledger.projects.get_mut(project) else { return };
        for number in pages {
            if let Some(page) = book.pages.get_mut(number as usize) {
                page.new = true;
            }
        }
        drop(ledger);
        self.news.notify_one();
    }

    /// Takes over page `number` as it rested in the store. Where there is no room for all of it, the oldest go.
    pub fn restore(&self, project: &ProjectId, number: u32, page: Page) {
        let mut ledger = self.lock();
        let book = ledger.projects.entry(project.clone()).or_default();
        book.dropped = book.dropped.max(page.dropped);
        for disclosure in page.entries {
            // Forgotten, shown again and put on another page, of which only one could be written.
            if let Some(known) = ledger.find(project, &disclosure) {
                known.first = known.first.min(disclosure.first);
                known.last = known.last.max(disclosure.last);
                known.count = known.count.max(disclosure.count);
                continue;
            }
            ledger.add(project, disclosure, Some(number));
            self.metrics.disclosures.add();
        }
    }

    /// After all was restored: puts the entries in the order of their last time, and makes room.
    pub fn restored(&self) {
        let mut ledger = self.lock();
        let mut all: Vec<_> = std::mem::take(&mut ledger.order).into_values().collect();
        let last = |(project, origin, certificate): &(ProjectId, Origin, CertificateId)| {
            ledger.projects.get(project)?.hosts.get(origin)?.get(certificate).map(|entry| entry.disclosure.last)
        };
        all.sort_by_cached_key(last);
        for key in all {
            ledger.in_order(key);
        }
        while ledger.order.len() > self.most && ledger.drop_oldest() {
            self.metrics.disclosures.sub();
            self.metrics.disclosures_forgotten.add();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("nothing panics while holding it")
    }
}

impl Ledger {
    /// Changes an entry that is there; false if there is none.
    fn again(
        &mut self,
        project: &ProjectId,
        info: &CertificateInfo,
        origin: &Origin,
        change: impl FnOnce(&mut Disclosure),
    ) -> bool {
        let Some(book) = self.projects.get_mut(project) else { return false };
        let Some(entry) = book.hosts.get_mut(origin).and_then(|shown| shown.get_mut(&info.id)) else { return false };
        change(&mut entry.disclosure);
        self.turn += 1;
        if let Some(key) = self.order.remove(&entry.turn) {
            self.order.insert(self.turn, key);
        }
        entry.turn = self.turn;
        book.pages[entry.page as usize].stale = true;
        true
    }

    fn find(&mut self, project: &ProjectId, wanted: &Disclosure) -> Option<&mut Disclosure> {
        let shown = self.projects.get_mut(project)?.hosts.get_mut(&wanted.origin)?;
        shown.get_mut(&wanted.certificate).map(|entry| &mut entry.disclosure)
    }

    /// Adds an entry that is not there; answers its page, which is `page` or the first with room.
    fn add(&mut self, project: &ProjectId, disclosure: Disclosure, page: Option<u32>) -> u32 {
        let book = self.projects.entry(project.clone()).or_default();
        let page = page.unwrap_or_else(|| {
            let free = book.pages.iter().position(|page| page.len < PAGE).unwrap_or(book.pages.len());
            u32::try_from(free).expect("as many pages as entries, of which the configuration allows fewer")
        });
        let index = page as usize;
        if book.pages.len() <= index {
            book.pages.resize(index + 1, PageState::default());
        }
        book.pages[index].len += 1;
        let (origin, certificate) = (disclosure.origin.clone(), disclosure.certificate.clone());
        let shown = book.hosts.entry(origin.clone()).or_default();
        shown.insert(certificate.clone(), Entry { disclosure, page, turn: 0 });
        self.in_order((project.clone(), origin, certificate));
        page
    }

    /// Puts an entry behind all others.
    fn in_order(&mut self, key: (ProjectId, Origin, CertificateId)) {
        self.turn += 1;
        let entry = self.projects.get_mut(&key.0).and_then(|book| book.hosts.get_mut(&key.1)?.get_mut(&key.2));
        if let Some(entry) = entry {
            entry.turn = self.turn;
            self.order.insert(self.turn, key);
        }
    }

    /// False if there is none.
    fn drop_oldest(&mut self) -> bool {
        let Some((_, (project, origin, certificate))) = self.order.pop_first() else { return false };
        let Some(book) = self.projects.get_mut(&project) else { return true };
        let Some(shown) = book.hosts.get_mut(&origin) else { return true };
        let gone = shown.remove(&certificate);
        if shown.is_empty() {
            book.hosts.remove(&origin);
        }
        book.dropped += 1;
        if let Some(entry) = gone {
            let page = &mut book.pages[entry.page as usize];
            page.len -= 1;
            page.stale = true;
        }
        // It also says how many were forgotten.
        book.pages[0].stale = true;
        true
    }
}

impl Book {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.hosts.values().flat_map(HashMap::values)
    }
}

impl PageState {
    fn is_due(self, all: bool) -> bool {
        self.new || (all && self.stale)
    }
}

#[cfg(test)]
mod tests;
