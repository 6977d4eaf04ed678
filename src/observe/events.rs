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
    /// A sentence for people.
    pub message: String,
}

impl Event {
    /// An event of this kind, now; [`Events::emit`] gives it its id.
    #[must_use]
    pub fn new(kind: EventKind, message: impl Into<String>) -> Self {
        Self { id: 0, at: clock::now(), kind, project: None, certificate: None, origin: None, message: message.into() }
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
}

/// The feed.
#[derive(Debug)]
pub struct Events {
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
        Self { kept: Mutex::default(), feed: broadcast::Sender::new(LAG), most }
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
    fn every_kind_has_a_word_of_its_own() {
        let mut words: Vec<_> = EventKind::ALL.iter().map(|k| k.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), EventKind::ALL.len());
    }
}
