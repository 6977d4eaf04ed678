//! The ends of certificates: connections that end before their certificate does, and warnings before that.
//!
//! What must stay true:
//! - a connection that was made with a certificate carries no request past its notAfter (a new one is made in the skew
//!   that is forgiven, and that ends with it), unless the project or the upload says that it is sent all the same;
//! - no request fails because of it: the snapshot has fresh objects before the old ones are retired;
//! - the wall clock decides, looked at every second: it may step, and machines sleep;
//! - what is looked at is the registry's snapshots, so that it does not matter who published them;
//! - each certificate is warned of once per threshold, however the clock moves.
//!
//! A project is only gone through when its snapshot changed, when the next step of one of its certificates has come, or
//! when the clock stepped or `limits.expiry_drain` is another.

mod warning;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::time::Instant;

pub use warning::Warning;

use super::apply::retire;
use super::{Control, Drain, Inner};
use crate::domain::{CertificateId, Ending, ProjectId, Threshold, time as clock};
use crate::identity::Phase;
use crate::observe::Metrics;
use crate::registry::{Binding, Project, Snapshot, Target};

/// How often the clock and the revisions of snapshots are looked at.
const TICK: Duration = Duration::from_secs(1);
/// A change that is being stored holds up the end of a certificate of the same project for no longer than this at a time.
const PATIENCE: Duration = Duration::from_millis(500);
/// Wall clock and monotonic clock may differ by this from one look to the next.
const STEP: time::Duration = time::Duration::seconds(1);

/// Who hears of warnings, beside log, events and metrics. Must not wait.
type Listener = Box<dyn Fn(&Warning) + Send + Sync>;

/// What is known of ends from outside of the task that watches them.
pub(super) struct Ends {
    /// The notAfter of the bound certificate that ends first, Unix time; `i64::MAX`: there is none.
    first: AtomicI64,
    listener: OnceLock<Listener>,
    metrics: Arc<Metrics>,
}

impl Ends {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { first: AtomicI64::new(i64::MAX), listener: OnceLock::new(), metrics }
    }
}

impl Control {
    /// Says who hears of warnings beside log, events and metrics; the first word counts. `listener` must not wait.
    pub fn on_warning(&self, listener: impl Fn(&Warning) + Send + Sync + 'static) {
        let _ = self.inner.ends.listener.set(Box::new(listener));
    }

    /// The notAfter of the bound certificate that ends first, as of a second ago; `None` if nothing is bound.
    #[must_use]
    pub fn first_end(&self) -> Option<OffsetDateTime> {
        OffsetDateTime::from_unix_timestamp(self.inner.ends.first.load(Ordering::Relaxed)).ok()
    }

    /// What is to be told at `now` of the certificates of a project, those that end first in front. Goes through all of
    /// them: for those who ask now and then.
    #[must_use]
    pub fn warnings(snapshot: &Snapshot, now: OffsetDateTime) -> Vec<Warning> {
        let mut all: Vec<_> = snapshot
            .presented_certificates()
            .filter_map(|certificate| Warning::of(snapshot, certificate, now))
            .collect();
        all.sort_by(|a, b| {
            let key = |w: &Warning| (w.certificate.not_after, w.certificate.id.clone());
            key(a).cmp(&key(b))
        });
        all
    }

    /// Ends connections before their certificates end, and warns of it, for ever. Drop it to end it.
    pub async fn watch_ends(self: Arc<Self>) {
        let mut watch = Watch::default();
        loop {
            let pause = watch.look(&self.inner, clock::now(), Instant::now()).await;
            tokio::time::sleep(pause).await;
        }
    }
}

/// What the task that watches remembers.
#[derive(Default)]
pub(super) struct Watch {
    projects: HashMap<ProjectId, Seen>,
    last: Option<(OffsetDateTime, Instant)>,
    /// By which the next steps were reckoned.
    drain: Duration,
}

/// A project as it was gone through last.
#[derive(Default)]
struct Seen {
    /// Another project may come to have the same id.
    project: Weak<Project>,
    revision: u64,
    /// When a certificate of it takes its next step; `None`: never.
    next: Option<OffsetDateTime>,
    /// The end of the bound certificate that ends first.
    first: Option<OffsetDateTime>,
    /// Certificates of which something was done or said. All others are far from their end.
    known: HashMap<CertificateId, Known>,
}

/// What was done and said of one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Known {
    /// Its objects were made at this, or later.
    ending: Ending,
    /// The last threshold that was told.
    said: Option<Threshold>,
}

/// What is to be done in a project.
#[derive(Default)]
struct Due {
    /// Certificates that need fresh objects, with where they stand.
    retire: Vec<(CertificateId, Ending)>,
    warnings: Vec<Warning>,
}

impl Watch {
    /// Does what is due at `now`; how long to wait until the next look. `at` is the same instant on the clock that
    /// never steps.
    pub(super) async fn look(&mut self, inner: &Arc<Inner>, now: OffsetDateTime, at: Instant) -> Duration {
        let stepped = self.last.replace((now, at)).is_some_and(|(wall, instant)| {
            let passed = time::Duration::try_from(at.duration_since(instant)).unwrap_or(time::Duration::MAX);
            ((now - wall) - passed).abs() > STEP
        });
        let drain = inner.limits.expiry_drain();
        let again = std::mem::replace(&mut self.drain, drain) != drain || stepped;
        let projects = inner.registry.every_project();
        self.projects.retain(|_, seen| seen.project.strong_count() > 0);
        let mut due = Vec::new();
        for project in &projects {
            let seen = self.projects.entry(project.id().clone()).or_default();
            if !std::ptr::eq(seen.project.as_ptr(), Arc::as_ptr(project)) {
                *seen = Seen { project: Arc::downgrade(project), revision: u64::MAX, ..Seen::default() };
            }
            let snapshot = project.snapshot();
            if stepped {
                cut_ended(project, &snapshot, now);
            }
            if again || seen.revision != snapshot.revision() || seen.next.is_some_and(|next| now >= next) {
                let found = seen.survey(&snapshot, now, drain);
                found.warnings.iter().for_each(|warning| inner.tell(warning));
                if !found.retire.is_empty() {
                    due.push((project.clone(), found.retire));
                }
            }
        }
        let removed: Vec<_> =
            self.projects.iter().filter(|(_, seen)| is_removed(seen)).map(|(id, _)| id.clone()).collect();
        removed.iter().for_each(|id| drop(self.projects.remove(id)));
        let renewed = join_all(due.iter().map(|(project, retire)| inner.renew(project, retire, now))).await;
        for ((project, retire), done) in due.iter().zip(renewed) {
            let Some(seen) = self.projects.get_mut(project.id()) else { continue };
            match done {
                true => retire.iter().for_each(|(id, ending)| {
                    seen.known.entry(id.clone()).or_default().ending = *ending;
                }),
                // Somebody changes the project: the next look tries again.
                false => seen.next = Some(now),
            }
        }
        let first = self.projects.values().filter_map(|seen| seen.first).min();
        inner.ends.first.store(first.map_or(i64::MAX, OffsetDateTime::unix_timestamp), Ordering::Relaxed);
        let next = self.projects.values().filter_map(|seen| seen.next).min();
        next.map_or(TICK, |next| Duration::try_from(next - now).unwrap_or_default().clamp(TICK / 20, TICK))
    }
}

fn is_removed(seen: &Seen) -> bool {
    seen.project.upgrade().is_none_or(|project| project.load().is_removed())
}

impl Seen {
    /// Goes through the certificates. What is to be told is remembered as told; what is to be retired is not yet done.
    fn survey(&mut self, snapshot: &Snapshot, now: OffsetDateTime, drain: Duration) -> Due {
        let on_expiry = snapshot.info().on_expiry;
        let (mut due, mut known) = (Due::default(), HashMap::new());
        (self.revision, self.next, self.first) = (snapshot.revision(), None, None);
        // Nearly all are beyond the first step of all, whatever it is about: they cost a comparison each.
        let beyond = Threshold::Month.reached_from(now);
        let mut first_beyond: Option<OffsetDateTime> = None;
        for certificate in snapshot.presented_certificates() {
            let info = &certificate.info;
            if info.not_after > beyond && !self.known.contains_key(&info.id) {
                first_beyond = Some(first_beyond.map_or(info.not_after, |first| first.min(info.not_after)));
                continue;
            }
            let before = self.known.get(&info.id).copied().unwrap_or_default();
            let ending = Ending::of(info, on_expiry, now, drain);
            if ending > before.ending {
                due.retire.push((info.id.clone(), ending));
            }
            let threshold = Threshold::reached(info.not_after, now);
            if threshold > before.said {
                due.warnings.extend(Warning::of(snapshot, certificate, now));
            }
            // A clock that went back makes what is new far again; what was said stays said.
            let after = Known { ending: before.ending.min(ending), said: before.said.max(threshold) };
            if after != Known::default() {
                known.insert(info.id.clone(), after);
            }
            self.first = self.first.into_iter().chain([info.not_after]).min();
            self.next = self.next.into_iter().chain(info.next_step(on_expiry, now, drain)).min();
        }
        self.first = self.first.into_iter().chain(first_beyond).min();
        self.next = self.next.into_iter().chain(first_beyond.map(|end| Threshold::Month.reached_at(end))).min();
        // What is bound to nothing for a while is not told of anew afterwards.
        for (id, before) in self.known.drain() {
            if !known.contains_key(&id) && snapshot.certificate(&id).is_some() {
                known.insert(id, before);
            }
        }
        self.known = known;
        due
    }
}

/// After the clock stepped: deadlines of what was retired earlier were set by the clock that does not.
fn cut_ended(project: &Project, snapshot: &Snapshot, now: OffsetDateTime) {
    for retired in project.retired() {
        let info = &retired.info;
        if !info.ends_by_time(snapshot.info().on_expiry) || now < info.not_after {
            continue;
        }
        // What was retired in the forgiven skew may go on to the end of that.
        if retired.deadline <= info.not_after
            || info.ends_at(snapshot.info().on_expiry, now).is_none_or(|end| now >= end)
        {
            for tls in retired.tls.iter().filter_map(Weak::upgrade) {
                if tls.life().phase() < Phase::Gone {
                    tls.life().end();
                }
            }
        }
    }
}

impl Inner {
    /// Puts fresh objects in the place of those of certificates that have come to this, and retires the old ones. False
    /// if the project was being changed all the time.
    async fn renew(&self, project: &Arc<Project>, due: &[(CertificateId, Ending)], now: OffsetDateTime) -> bool {
        let Ok(_writer) = tokio::time::timeout(PATIENCE, project.write()).await else { return false };
        let snapshot = project.snapshot();
        let mut edit = snapshot.edit();
        let mut old = Vec::new();
        for (id, ending) in due {
            // It may have been replaced meanwhile, or be sent all the same from now on.
            let Some(certificate) = snapshot.certificate(id) else { continue };
            if !certificate.info.ends_by_time(snapshot.info().on_expiry) {
                continue;
            }
            let fresh = self.maker.load_full().afresh(&certificate);
            edit.put_certificate(fresh.clone());
            for binding in snapshot.bindings_of(id) {
                if matches!(binding.target, Target::Certificate(_)) {
                    edit.bind(Binding { target: Target::Certificate(fresh.clone()), ..Binding::clone(&binding) });
                }
            }
            old.push((certificate, *ending));
        }
        if old.is_empty() {
            return true;
        }
        project.publish(edit.finish());
        for (certificate, ending) in old {
            let info = &certificate.info;
            let left = Duration::try_from(info.not_after - now).unwrap_or_default();
            let (drain, grace) =
                if ending == Ending::Near { (Drain::Grace, left) } else { (Drain::Now, Duration::ZERO) };
            // Its own successor: it is on its way out, and it is still in force.
            retire(project, &certificate, Some(&info.id), drain, grace);
            self.ends.metrics.expiry_retired.add();
            tracing::info!(
                project = %project.id(),
                certificate = %info.id,
                not_after = clock::rfc3339(info.not_after),
                "connections of a certificate end because its validity does"
            );
        }
        true
    }

    fn tell(&self, warning: &Warning) {
        let (project, id) = (&warning.project.id, &warning.certificate.id);
        tracing::warn!(%project, certificate = %id, days_left = warning.days_left, "{}", warning.text);
        let metrics = &self.ends.metrics;
        match warning.threshold {
            Threshold::Month => metrics.expiry_warnings_30.add(),
            Threshold::Fortnight => metrics.expiry_warnings_14.add(),
            Threshold::Week => metrics.expiry_warnings_7.add(),
            Threshold::Day => metrics.expiry_warnings_1.add(),
            Threshold::Expired => metrics.expiry_warnings_0.add(),
        }
        self.events.emit(warning.event());
        if let Some(listener) = self.ends.listener.get() {
            listener(warning);
        }
    }
}
