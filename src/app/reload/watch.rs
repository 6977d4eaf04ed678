//! The system's word that something changed. A hint: what is read afterwards is the truth, and who gets no hint looks
//! again after a while.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::trail::Trails;

/// Watches folders. Blocks for a few system calls where it says so.
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    shared: Arc<Shared>,
    watched: HashSet<PathBuf>,
    /// What was said already of folders that cannot be watched.
    complained: bool,
}

#[derive(Default)]
struct Shared {
    trails: Mutex<Arc<Trails>>,
    /// Watched folders that were moved or removed: what has their name now is another.
    lost: Mutex<HashSet<PathBuf>>,
    changed: Notify,
}

impl Watch {
    /// A watch on nothing yet. One that the system does not give is a warning, and then there are no hints.
    pub(super) fn new() -> Self {
        let shared = Arc::<Shared>::default();
        let hint = shared.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| hint.hear(event));
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(%error, "the system does not tell of changed files; they are looked at every limits.reload_poll");
        });
        Self { watcher: watcher.ok(), shared, watched: HashSet::new(), complained: false }
    }

    /// Resolves when something may have changed since it last did.
    pub(super) fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.shared.clone();
        async move { shared.changed.notified().await }
    }

    /// How many folders are watched.
    pub(super) fn len(&self) -> usize {
        self.watched.len()
    }

    /// A hint without a file.
    #[cfg(test)]
    pub(super) fn hint(&self) {
        self.shared.changed.notify_one();
    }

    /// Watches these folders and no others. True if some were not watched before: what happened there until now was
    /// not heard of. Blocks.
    pub(super) fn renew(&mut self, trails: Trails) -> bool {
        let lost = std::mem::take(&mut *self.shared.lost.lock().expect("nothing panics while holding it"));
        let wanted: HashSet<PathBuf> = trails.folders.keys().map(|folder| as_named(folder)).collect();
        *self.shared.trails.lock().expect("nothing panics while holding it") = Arc::new(trails);
        let Some(watcher) = &mut self.watcher else { return false };
        let gone: Vec<_> =
            self.watched.iter().filter(|folder| !wanted.contains(*folder) || lost.contains(*folder)).cloned().collect();
        for folder in gone {
            // An error means that the folder is gone, and the watch with it.
            let _ = watcher.unwatch(&folder);
            self.watched.remove(&folder);
        }
        let mut is_new = false;
        let mut refused = Vec::new();
        for folder in wanted.difference(&self.watched).cloned().collect::<Vec<_>>() {
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => is_new |= self.watched.insert(folder),
                Err(error) => refused.push(error),
            }
        }
        match refused.first() {
            None => self.complained = false,
            Some(_) if self.complained => {}
            Some(error) => {
                self.complained = true;
                tracing::warn!(
                    %error, folders = refused.len(),
                    "folders cannot be watched; they are looked at every limits.reload_poll (Linux: sysctl fs.inotify.max_user_watches)"
                );
            }
        }
        is_new
    }
}

/// The root has no name of its own.
fn as_named(folder: &Path) -> PathBuf {
    if folder.as_os_str().is_empty() { PathBuf::from("/") } else { folder.to_owned() }
}

impl Shared {
    fn hear(&self, event: notify::Result<Event>) {
        let Ok(event) = event else {
            // What was missed is not known.
            self.changed.notify_one();
            return;
        };
        if !is_change(event.kind) && !event.need_rescan() {
            return;
        }
        let trails = self.trails.lock().expect("nothing panics while holding it").clone();
        if matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) | EventKind::Create(_)) {
            let mut lost = self.lost.lock().expect("nothing panics while holding it");
            lost.extend(event.paths.iter().filter(|path| trails.folders.contains_key(*path)).cloned());
        }
        if event.need_rescan() || event.paths.iter().any(|path| trails.concerns(path)) {
            // One permit is kept where nobody waits: what happens during a reading leads to another.
            self.changed.notify_one();
        }
    }
}

/// Reading, ours among it, is no change.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hears_of_what_concerns_it_and_of_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let mut watch = Watch::new();
        let mut trails = Trails::default();
        trails.file(&root.join("tls.crt"));
        assert!(watch.renew(trails.clone()));
        assert!(!watch.renew(trails.clone()), "nothing new");
        std::fs::write(root.join("log"), "words").unwrap();
        std::fs::write(root.join("tls.crt"), "one").unwrap();
        watch.changed().await;
        // Reading is no change; a folder that was swapped is watched anew.
        std::fs::remove_dir_all(&root).unwrap();
        watch.changed().await;
        std::fs::create_dir(&root).unwrap();
        while !watch.renew(trails.clone()) {
            tokio::task::yield_now().await;
        }
        std::fs::write(root.join("tls.crt"), "two").unwrap();
        watch.changed().await;
    }
}
