//! What happened that people want to hear of, as a feed: the last ones are kept, and whoever listens hears of the next.
//!
//! An event says what happened to which certificate of which project, in words and ids. Never key material, never the
//! text of an upload. Emitting costs one short mutex, and no request does it: only changes, expiries and failures do.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use time::OffsetDateTime;
use tokio::sync::broadcast;

use crate::domain::{CertificateId, ProjectId, time as clock};

/// Events that a listener may be behind before it misses some and is told so.
const LAG: usize = 256;

/// What kind of thing happened. A closed set: new kinds are added here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A certificate was uploaded, or promoted after a probe.
    CertificateUploaded,
    /// A certificate was deleted, or its last binding removed.
    CertificateDeleted,
    /// A certificate is about to expire.
    CertificateExpiring,
    /// A certificate has expired.
    CertificateExpired,
    /// A probe was refused by the origin; what was in force stays in force.
    ProbeRefused,
    /// The certificate before this one is in force again, because the origin refused this one or somebody said so.
    CertificateRolledBack,
    /// A certificate was shown to a host for the first time.
    CertificateDisclosed,
    /// Configuration and declared certificates were read again, and something changed.
    Reloaded,
    /// They could not be read; what was in force stays in force.
    ReloadFailed,
}

impl EventKind {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::CertificateUploaded,
        Self::CertificateDeleted,
        Self::CertificateExpiring,
        Self::CertificateExpired,
        Self::ProbeRefused,
        Self::CertificateRolledBack,
        Self::CertificateDisclosed,
        Self::Reloaded,
        Self::ReloadFailed,
    ];

    /// Its stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CertificateUploaded => "certificate.uploaded",
            Self::CertificateDeleted => "certificate.deleted",
            Self::CertificateExpiring => "certificate.expiring",
            Self::CertificateExpired => "certificate.expired",
            Self::ProbeRefused => "certificate.probe_refused",
            Self::CertificateRolledBack => "certificate.rolled_back",
            Self::CertificateDisclosed => "certificate.disclosed",
            Self::Reloaded => "config.reloaded",
            Self::ReloadFailed => "config.reload_failed",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Counts from 1 since egret was started.
    pub id: u64,
    /// When.
    pub at: OffsetDateTime,
    /// What.
    pub kind: EventKind,
    /// To whose certificate; `None`: to egret as a whole, for readers without limits.
    pub project: Option<ProjectId>,
    /// To which certificate.
    pub certificate: Option<CertificateId>,
    /// Where that is presented, as bindings print it (`*`: project-wide), or the host that saw it.
    pub origin: Option<String>,
    /// Where that is presented, if it is more than one place; the first of them is [`Event::origin`].
    pub origins: Vec<String>,
    /// Whole days that the certificate has left, where that is what it is about; negative once it has expired.
    pub days_left: Option<i64>,
    /// The command, or the act, that mends it.
    pub remedy: Option<String>,
    /// A sentence for people.
    pub message: String,
}

impl Event {
    /// An event of this kind, now; [`Events::emit`] gives it its id.
    #[must_use]
    pub fn new(kind: EventKind, message: impl Into<String>) -> Self {
        Self {
            id: 0,
            at: clock::now(),
            kind,
            project: None,
            certificate: None,
            origin: None,
            origins: Vec::new(),
            days_left: None,
            remedy: None,
            message: message.into(),
        }
    }

    /// The same about a certificate of a project.
    #[must_use]
    pub fn about(self, project: &ProjectId, certificate: &CertificateId) -> Self {
        Self { project: Some(project.clone()), certificate: Some(certificate.clone()), ..self }
    }

    /// The same with where it is presented, or who saw it.
    #[must_use]
    pub fn at_origin(self, origin: impl ToString) -> Self {
        Self { origin: Some(origin.to_string()), ..self }
    }

    /// The same with all places where it is presented.
    #[must_use]
    pub fn at_origins(self, origins: &[String]) -> Self {
        Self { origin: origins.first().cloned(), origins: origins.to_vec(), ..self }
    }
}

/// What a listener gets that begins to follow the feed.
#[derive(Debug)]
pub struct Followed {
    /// The kept events after the one that it knows.
    pub before: Vec<Arc<Event>>,
    /// How many there were between that and the first of them, which are kept no more.
    pub missed: u64,
    /// All that follow: none is missed in between.
    pub feed: broadcast::Receiver<Arc<Event>>,
}

/// The feed.
#[derive(Debug)]
pub struct Events {
    start: u64,
    kept: Mutex<Kept>,
    feed: broadcast::Sender<Arc<Event>>,
    most: usize,
}

#[derive(Debug, Default)]
struct Kept {
    last: u64,
    events: VecDeque<Arc<Event>>,
}

impl Events {
    /// A feed that keeps the last `most` events.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let start = clock::now().unix_timestamp_nanos() / 1_000_000;
        let start = u64::try_from(start).unwrap_or_default();
        Self { start, kept: Mutex::default(), feed: broadcast::Sender::new(LAG), most }
    }

    /// Tells this feed from that of another start: the ids of both count from 1.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Numbers the event, keeps it and tells whoever listens. Never waits.
    pub fn emit(&self, event: Event) {
        let mut kept = self.kept.lock().expect("nothing panics while holding it");
        kept.last += 1;
        let event = Arc::new(Event { id: kept.last, ..event });
        while kept.events.len() >= self.most.max(1) {
            kept.events.pop_front();
        }
        kept.events.push_back(event.clone());
        // Under the lock, so that listeners hear in the order of the ids. An error means that nobody listens.
        let _ = self.feed.send(event);
    }

    /// The kept events after `id` (0: all), and a receiver of all that follow: none is missed in between.
    #[must_use]
    pub fn follow(&self, id: u64) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.kept.lock().expect("nothing panics while holding it");
        let before = kept.events.iter().filter(|event| event.id > id).cloned().collect();
        (before, self.feed.subscribe())
    }

    /// The same for somebody who was told of `id` by the feed that began at `start`. What another start told is not
    /// known here: whoever comes from there gets all that is kept.
    #[must_use]
    pub fn resume(&self, start: u64, id: u64) -> Option<Followed> {
        let kept = self.kept.lock().expect("nothing panics while holding it");
        if start != self.start || id > kept.last {
            return None;
        }
        let before: Vec<_> = kept.events.iter().filter(|event| event.id > id).cloned().collect();
        let missed = (kept.last - id) - before.len() as u64;
        Some(Followed { before, missed, feed: self.feed.subscribe() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keeps_and_tells_in_order() {
        let events = Events::new(2);
        let (before, mut feed) = events.follow(0);
        assert!(before.is_empty());
        for message in ["a", "b", "c"] {
            events.emit(Event::new(EventKind::Reloaded, message));
        }
        let (kept, _) = events.follow(0);
        assert_eq!(kept.iter().map(|e| (e.id, &*e.message)).collect::<Vec<_>>(), [(2, "b"), (3, "c")]);
        let (kept, _) = events.follow(2);
        assert_eq!(kept.iter().map(|e| e.id).collect::<Vec<_>>(), [3]);
        let heard: Vec<_> = std::iter::from_fn(|| feed.try_recv().ok()).map(|e| e.id).collect();
        assert_eq!(heard, [1, 2, 3]);
    }

    #[test]
    fn says_how_many_were_missed_and_knows_no_other_start() {
        let events = Events::new(2);
        for message in ["a", "b", "c", "d"] {
            events.emit(Event::new(EventKind::Reloaded, message));
        }
        let resumed = |id| {
            events.resume(events.start(), id).map(|f| (f.missed, f.before.iter().map(|e| e.id).collect::<Vec<_>>()))
        };
        assert_eq!(resumed(0), Some((2, vec![3, 4])));
        assert_eq!(resumed(1), Some((1, vec![3, 4])));
        assert_eq!(resumed(2), Some((0, vec![3, 4])));
        assert_eq!(resumed(4), Some((0, vec![])));
        assert_eq!(resumed(5), None, "it was never given out");
        assert!(events.resume(events.start() + 1, 2).is_none(), "that was another start");
    }

    #[test]
    fn every_kind_has_a_word_of_its_own() {
        let mut words: Vec<_> = EventKind::ALL.iter().map(|k| k.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), EventKind::ALL.len());
    }
}
