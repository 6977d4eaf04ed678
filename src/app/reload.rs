//! The configuration and every file that it names, read again when they change: on the system's word, on SIGHUP, and
//! from time to time. All three lead into one function, one reading at a time, and none is lost.
//!
//! What must stay true:
//! - what is read is the truth, the word that it changed is a hint: a reading that finds nothing new does nothing;
//! - a configuration that cannot be used changes nothing; files that it named before are still followed;
//! - what could not be put in force is told once (log, event), and for as long as it is so (status, metrics).

mod later;
mod trail;
mod watch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use self::later::{fixed_digests, later, other_files};
use self::trail::Trails;
use self::watch::Watch;
use super::signals::Hangups;
use super::{systemd, token};
use crate::api::{ReloadState, StatusInfo};
use crate::config::{
    Overlay, ParentProtocol, ParentSettings, Reading, Settings, WebhookTarget, process_environment, read,
};
use crate::control::{Control, Depth, ReloadReport, TRUST, list};
use crate::domain::time::now;
use crate::observe::{Event, EventKind, Metrics};
use crate::registry::Token;

/// Files are read once nothing happened to them for this long: they are seldom written one alone.
const QUIET: Duration = Duration::from_millis(300);
/// And after this long whatever happens: what changes is in force within a second.
const AT_LAST: Duration = Duration::from_millis(600);
/// Watches that are renewed because new folders came into sight; then the next hint has to do.
const MAX_ROUNDS: usize = 8;

/// Failures that are told one by one.
const MAX_TOLD: usize = 20;

/// Called with the settings that are in force from now on.
type Hook = Box<dyn Fn(&Settings) + Send + Sync>;

/// Reads the configuration again, and puts it in force.
pub(super) struct Reloader {
    overlay: Overlay,
    control: Arc<Control>,
    info: Arc<StatusInfo>,
    metrics: Arc<Metrics>,
    /// What egret was started with, for what it cannot change.
    started: Arc<Settings>,
    started_tls: Vec<(String, [u8; 32])>,
    in_force: Arc<Settings>,
    tokens: Vec<([u8; 32], Token)>,
    hooks: Vec<Hook>,
    /// What was told already of what could not be put in force: the text of the file, and the words.
    told: Option<([u8; 32], String)>,
    /// What was told already of what takes a restart.
    told_later: BTreeSet<String>,
    /// Files that the configuration names.
    files: Vec<PathBuf>,
    /// [trust] is another than at the start.
    trust_changed: bool,
    /// The file in force has nothing in it.
    was_empty: bool,
    /// What egret was started with came through something that gives its text once.
    is_read_once: bool,
}

/// Why somebody looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Hint,
    Hangup,
    Poll,
}

impl Reloader {
    /// Reads nothing yet. `settings` and `tokens` are what is in force.
    pub(super) fn new(
        control: Arc<Control>,
        info: Arc<StatusInfo>,
        metrics: Arc<Metrics>,
        settings: Settings,
        tokens: Vec<([u8; 32], Token)>,
    ) -> Self {
        let started = Arc::new(settings);
        let file = started.config_file.as_deref();
        let is_read_once = file.is_some_and(gives_its_text_once);
        let text = file.filter(|_| !is_read_once).and_then(|file| std::fs::read_to_string(file).ok());
        let was_empty = text.is_some_and(|text| text.trim().is_empty());
        // The first reading finds all that are named, if there is another.
        let anchors = started.trust.anchors.clone();
        let found = control.report();
        let failures: Vec<_> = found.unloaded.into_iter().chain(found.faults).collect();
        let failed = in_words(&failures);
        metrics.config_stale.set(u64::from(failed.is_some()));
        let succeeded_at = failed.is_none().then(now);
        info.set_reload(ReloadState { failed: failed.clone(), succeeded_at });
        Self {
            overlay: Overlay::default(),
            control,
            info,
            metrics,
            started_tls: fixed_digests(&started),
            in_force: started.clone(),
            started,
            tokens,
            hooks: Vec::new(),
            told: failed.map(|failed| ([0; 32], failed)),
            told_later: BTreeSet::new(),
            files: anchors,
            trust_changed: false,
            was_empty,
            is_read_once,
        }
    }

    /// Calls `hook` with the settings that are in force, whenever others are: after projects and certificates, in the
    /// order in which hooks were given. It must not block.
    pub(super) fn on_change(&mut self, hook: impl Fn(&Settings) + Send + Sync + 'static) {
        self.hooks.push(Box::new(hook));
    }

    /// Follows the file that `overlay` names, for ever; flags and variables stand in for its values each time. Drop it
    /// to end it.
    pub(super) async fn follow(mut self, overlay: Overlay, mut hangups: Hangups) {
        self.overlay = overlay;
        if self.is_read_once {
            tracing::info!(
                "the configuration came through a pipe or a device, and is not read again; the certificates that it names are"
            );
        }
        let mut watch = Watch::new();
        // What changed since egret read it at the start.
        watch = self.look(watch, Reason::Hint).await;
        tracing::info!(folders = watch.len(), "following the configuration and the files that it names");
        loop {
            let poll = sleep(self.in_force.limits.reload_poll);
            let reason = tokio::select! {
                () = watch.changed() => Reason::Hint,
                () = hangups.next() => Reason::Hangup,
                () = poll => Reason::Poll,
            };
            let is_asked_for = reason == Reason::Hangup;
            if is_asked_for {
                systemd::reloading();
            }
            // Whatever the reason: a file may be in the middle of being written.
            quiet(&watch).await;
            watch = self.look(watch, reason).await;
            if is_asked_for {
                let failed = self.info.reload().failed.clone();
                systemd::reloaded(&failed.unwrap_or_else(|| "read again on SIGHUP; all of it is in force".to_owned()));
            }
        }
    }

    /// Watches what is named, reads it, and again as long as that brings new folders into sight.
    async fn look(&mut self, mut watch: Watch, reason: Reason) -> Watch {
        for round in 0..MAX_ROUNDS {
            self.reload(if round == 0 { reason } else { Reason::Hint }).await;
            let (files, settings) = (self.files.clone(), self.in_force.clone());
            let renewed = tokio::task::spawn_blocking(move || {
                let is_new = watch.renew(trails(&files, &settings));
                (watch, is_new)
            });
            let is_new;
            (watch, is_new) = match renewed.await {
                Ok(renewed) => renewed,
                Err(error) => {
                    tracing::error!(%error, "watching files ended early; they are watched anew");
                    (Watch::new(), true)
                }
            };
            if !is_new {
                break;
            }
        }
        watch
    }

    /// The one function.
    async fn reload(&mut self, reason: Reason) {
        let (overlay, in_force) = (self.overlay.clone(), self.in_force.clone());
        let reading = tokio::task::spawn_blocking(move || {
            if overlay.config.as_deref().is_some_and(gives_its_text_once) {
                return (None, fixed_digests(&in_force));
            }
            let reading = read(&overlay, &process_environment);
            let tls = reading.loaded.as_ref().map(|loaded| fixed_digests(&loaded.settings)).unwrap_or_default();
            (Some(reading), tls)
        });
        let (reading, tls) = match reading.await {
            Ok(reading) => reading,
            Err(error) => return tracing::error!(%error, "reading the configuration ended early"),
        };
        let mut failures = Vec::new();
        let digest = reading.as_ref().map_or([0; 32], |reading| reading.digest);
        let settings = self.meant(reading, &mut failures);
        let is_other = *settings != *self.in_force;
        let tokens = match self.tokens_of(&settings) {
            Ok(tokens) => tokens,
            Err(error) => return self.tell(digest, vec![format!("{error:#}")], &ReloadReport::default(), reason),
        };
        let depth = if reason == Reason::Hint { Depth::Changed } else { Depth::Everything };
        let report = match self.control.reload(settings.clone(), tokens.clone(), depth).await {
            Ok(report) => report,
            Err(sentence) => {
                failures.push(sentence);
                // What was so before still is.
                let found = self.control.report();
                failures.extend([found.faults, found.kept, found.unloaded].into_iter().flatten());
                return self.tell(digest, failures, &ReloadReport::default(), reason);
            }
        };
        failures.extend(report.failures());
        let mut report = report;
        if is_other {
            self.tokens = tokens;
            self.in_force = settings;
            self.hooks.iter().for_each(|hook| hook(&self.in_force));
            if report.changes.is_empty() {
                report.changes.push("settings".to_owned());
            }
        }
        report.later.extend(later(&self.started, &self.in_force));
        report.later.extend(self.trusted_as_before(&report));
        report.later.extend(other_files(&self.started_tls, &tls));
        for sentence in report.later.iter().filter(|sentence| !self.told_later.contains(*sentence)) {
            tracing::warn!("{sentence}");
        }
        self.told_later = report.later.iter().cloned().collect();
        self.tell(digest, failures, &report, reason);
    }

    /// What is to be in force by a reading (`None`: there is nothing that could be read again); what is wrong with it is
    /// added to `failures`, and leaves what is in force.
    fn meant(&mut self, reading: Option<Reading>, failures: &mut Vec<String>) -> Arc<Settings> {
        let file = || self.in_force.config_file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
        let Some(Reading { loaded, files, is_empty, .. }) = reading else {
            if !self.is_read_once {
                failures.push(format!("{}: this is no regular file any more; put the file back", file()));
            }
            return self.in_force.clone();
        };
        match loaded {
            // Whoever writes over a file empties it first. Nothing at all would be a configuration too, and end much.
            Ok(_) if is_empty && !self.was_empty => {
                failures.push(format!("{}: the file is empty; write a comment into it if that is meant", file()));
                self.in_force.clone()
            }
            Ok(loaded) => {
                self.files = files;
                self.was_empty = is_empty;
                Arc::new(loaded.settings)
            }
            Err(refused) => {
                failures.extend(refused.0.iter().map(ToString::to_string));
                // What could be understood of it tells where to look for its mending.
                let known: BTreeSet<PathBuf> = self.files.drain(..).chain(files).collect();
                self.files = known.into_iter().collect();
                self.in_force.clone()
            }
        }
    }

    fn tokens_of(&self, settings: &Settings) -> anyhow::Result<Vec<([u8; 32], Token)>> {
        let is_same = settings.tokens == self.in_force.tokens && settings.config_file == self.in_force.config_file;
        if is_same { Ok(self.tokens.clone()) } else { token::declared(settings) }
    }

    /// Parents and the receiver of warnings are dialled with what egret trusted at its start.
    fn trusted_as_before(&mut self, report: &ReloadReport) -> Vec<String> {
        self.trust_changed |= report.changes.iter().any(|change| change == TRUST);
        if self.trust_changed { trusted_at_start(&self.started) } else { Vec::new() }
    }

    /// Says how it went: for as long as it is so, and once.
    fn tell(&mut self, digest: [u8; 32], failures: Vec<String>, report: &ReloadReport, reason: Reason) {
        let failed = in_words(&failures);
        self.metrics.config_stale.set(u64::from(failed.is_some()));
        self.metrics.declared_certificates_kept.set(self.control.report().kept.len() as u64);
        let events = self.control.events();
        if !report.changes.is_empty() {
            let changes = report.changes.join(", ");
            self.metrics.reloads.add();
            tracing::info!("reloaded: {changes}");
            events
                .emit(Event::new(EventKind::Reloaded, format!("the configuration was read again; changed: {changes}")));
        }
        let succeeded_at = if failed.is_none() { Some(now()) } else { self.info.reload().succeeded_at };
        match &failed {
            Some(words) => {
                let told = Some((digest, words.clone()));
                // At the start the text of the file was not looked at.
                let is_known = self.told == told || self.told == Some(([0; 32], words.clone()));
                if !is_known || reason == Reason::Hangup {
                    self.metrics.reload_failures.add();
                    for sentence in failures.iter().take(MAX_TOLD) {
                        tracing::warn!("not reloaded, what was in force stays: {sentence}");
                    }
                    events.emit(Event::new(EventKind::ReloadFailed, words.clone()));
                }
                self.told = told;
            }
            None => {
                if self.told.take().is_some() && report.changes.is_empty() {
                    tracing::info!("the configuration and the files that it names are whole again");
                    let words = "the configuration and the files that it names are whole again";
                    events.emit(Event::new(EventKind::Reloaded, words));
                } else if reason == Reason::Hangup && report.changes.is_empty() {
                    tracing::info!("read again on SIGHUP: nothing has changed");
                }
            }
        }
        self.info.set_reload(ReloadState { failed, succeeded_at });
    }
}

/// Who goes on being verified as at the start although [trust] changed: a sentence each.
fn trusted_at_start(started: &Settings) -> Vec<String> {
    let in_tls = |parent: &ParentSettings| parent.protocol == ParentProtocol::Https;
    let hook = started.telemetry.expiry_webhook.as_ref().map(|hook| &hook.to);
    let who = [
        (started.egress.parents.iter().any(in_tls), "https:// parents are"),
        (matches!(hook, Some(WebhookTarget::Https(_))), "[telemetry] expiry_webhook is"),
    ];
    let told =
        |who| format!("[trust] changed, and {who} verified as before; restart egret for it to take effect there");
    who.into_iter().filter(|(is_there, _)| *is_there).map(|(_, who)| told(who)).collect()
}

/// A pipe or a device: reading it again gives nothing, or waits for whoever writes into it.
fn gives_its_text_once(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| !meta.is_file())
}

/// All failures, or the first of many.
fn in_words(failures: &[String]) -> Option<String> {
    let told = failures.iter().take(MAX_TOLD).cloned();
    let more = failures.len().checked_sub(MAX_TOLD).filter(|more| *more > 0).map(|more| format!("and {more} more"));
    (!failures.is_empty()).then(|| told.chain(more).collect::<Vec<_>>().join(" | "))
}

/// Waits until nothing happened for a while, though not for ever.
async fn quiet(watch: &Watch) {
    let at_last = Instant::now() + AT_LAST;
    loop {
        let until = (Instant::now() + QUIET).min(at_last);
        if timeout_at(until, watch.changed()).await.is_err() {
            return;
        }
        if Instant::now() >= at_last {
            return;
        }
    }
}

/// All that can change what is declared.
fn trails(files: &[PathBuf], settings: &Settings) -> Trails {
    let mut trails = Trails::default();
    files.iter().for_each(|file| trails.file(file));
    for folder in &settings.certificate_folders {
        trails.folder(&folder.path);
    }
    // Where it cannot be listed, its folders and files are watched all the same.
    for entry in list(settings).unwrap_or_default().entries {
        entry.files.all().for_each(|file| trails.file(file));
    }
    trails
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::load_text;

    #[test]
    fn who_is_verified_as_before_is_named() {
        let told = |text: &str| {
            let loaded = load_text(text, Path::new("/etc/e.toml"), &Overlay::default(), &|_| None);
            trusted_at_start(&loaded.unwrap_or_else(|refused| panic!("{refused}")).settings)
        };
        assert_eq!(told("[telemetry]\nexpiry_webhook = \"http://127.0.0.1:1/x\""), [""; 0], "it is not verified");
        let hook = told("[telemetry]\nexpiry_webhook = \"https://hooks.test/SECRET\"");
        assert!(hook.len() == 1 && hook[0].contains("expiry_webhook is verified as before"), "{hook:?}");
        let parent = told("[[egress.parent]]\nurl = \"https://proxy.test:3128\"");
        assert!(parent.len() == 1 && parent[0].contains("https:// parents are verified as before"), "{parent:?}");
    }

    #[tokio::test]
    async fn waits_for_quiet_but_not_for_ever() {
        let watch = Watch::new();
        let start = Instant::now();
        quiet(&watch).await;
        assert!(start.elapsed() >= QUIET, "{:?}", start.elapsed());
        // With hints that never end, it does.
        let start = Instant::now();
        tokio::select! {
            () = quiet(&watch) => {}
            () = async {
                loop {
                    watch.hint();
                    sleep(QUIET / 10).await;
                }
            } => {}
        }
        assert!(start.elapsed() >= AT_LAST, "{:?}", start.elapsed());
    }
}
