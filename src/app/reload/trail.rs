//! Where in the file system something can happen that changes what a path leads to.
//!
//! A file is watched through its folder, because editors and Kubernetes replace files and links, and what is watched by
//! inode then is the file that nobody reads any more.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

/// Links followed on one path; the system's own bound.
const MAX_LINKS: usize = 40;

/// What is of interest in one folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Interest {
    /// Every name.
    All,
    /// These.
    Names(HashSet<OsString>),
}

/// Folders, as they are called without links, with what is of interest in each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trails {
    pub(super) folders: HashMap<PathBuf, Interest>,
    /// Folders of paths that were followed already, and where they lead, if anywhere.
    led: HashMap<PathBuf, Option<PathBuf>>,
}

impl Trails {
    /// Adds whatever can change what lies at `path`: its own name, every link on the way, and the first name that is not
    /// there yet.
    pub(super) fn file(&mut self, path: &Path) {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
        let led = match self.led.get(folder) {
            Some(led) => led.clone(),
            None => {
                let led = self.follow(PathBuf::new(), names(folder));
                self.led.insert(folder.to_owned(), led.clone());
                led
            }
        };
        if let Some(real) = led {
            self.follow(real, vec![name.to_owned()]);
        }
    }

    /// The same for a folder in which every name counts.
    pub(super) fn folder(&mut self, path: &Path) {
        if let Some(real) = self.follow(PathBuf::new(), names(path)) {
            self.folders.insert(real, Interest::All);
        }
    }

    /// Whether something that happened at `path` may matter.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        if self.folders.contains_key(path) {
            return true;
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return false };
        match self.folders.get(folder) {
            Some(Interest::All) => true,
            Some(Interest::Names(names)) => names.contains(name),
            None => false,
        }
    }

    fn add(&mut self, folder: &Path, name: &OsStr) {
        let interest = self.folders.entry(folder.to_owned()).or_insert_with(|| Interest::Names(HashSet::new()));
        if let Interest::Names(names) = interest {
            names.insert(name.to_owned());
        }
    }

    /// Walks from `real`, a folder without links in its name, along `todo` (the next name last); where it leads.
    fn follow(&mut self, mut real: PathBuf, mut todo: Vec<OsString>) -> Option<PathBuf> {
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                real.pop();
                continue;
            }
            let here = real.join(&name);
            let Ok(meta) = here.symlink_metadata() else {
                self.add(&real, &name);
                return None;
            };
            if meta.is_symlink() {
                self.add(&real, &name);
                links += 1;
                let target = std::fs::read_link(&here).ok().filter(|_| links <= MAX_LINKS)?;
                if target.is_absolute() {
                    real = PathBuf::new();
                }
                todo.extend(names(&target));
                continue;
            }
            // The last name, as long as it is not that of the root.
            if todo.is_empty() && !real.as_os_str().is_empty() {
                self.add(&real, &name);
            }
            real = here;
        }
        Some(real)
    }
}

/// The names of a path, the first one last.
fn names(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::CurDir => None,
        other => Some(other.as_os_str().to_owned()),
    };
    let mut names: Vec<_> = path.components().filter_map(name).collect();
    names.reverse();
    names
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn world() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        (folder, real)
    }

    #[test]
    fn a_file_is_watched_through_its_folder() {
        let (_folder, root) = world();
        fs::create_dir(root.join("certs")).unwrap();
        fs::write(root.join("certs/tls.crt"), "").unwrap();
        let mut trails = Trails::default();
        trails.file(&root.join("certs/tls.crt"));
        assert!(trails.concerns(&root.join("certs/tls.crt")));
        assert!(trails.concerns(&root.join("certs")), "the folder may be swapped as a whole");
        assert!(!trails.concerns(&root.join("certs/other")) && !trails.concerns(&root.join("other")));
    }

    #[test]
    fn every_link_on_the_way_counts() {
        let (_folder, root) = world();
        fs::create_dir_all(root.join("mount/..2026_1")).unwrap();
        fs::write(root.join("mount/..2026_1/tls.crt"), "").unwrap();
        symlink("..2026_1", root.join("mount/..data")).unwrap();
        symlink("..data/tls.crt", root.join("mount/tls.crt")).unwrap();
        symlink(root.join("mount"), root.join("current")).unwrap();
        let mut trails = Trails::default();
        trails.file(&root.join("current/tls.crt"));
        for path in ["current", "mount/tls.crt", "mount/..data", "mount/..2026_1/tls.crt"] {
            assert!(trails.concerns(&root.join(path)), "{path}: {trails:?}");
        }
        assert!(!trails.concerns(&root.join("mount/..2026_2")), "what no link leads to yet says nothing");
    }

    #[test]
    fn what_is_not_there_yet_is_waited_for_where_it_would_appear() {
        let (_folder, root) = world();
        let mut trails = Trails::default();
        trails.file(&root.join("a/b/tls.crt"));
        assert!(trails.concerns(&root.join("a")));
        fs::create_dir_all(root.join("a/b")).unwrap();
        let mut trails = Trails::default();
        trails.file(&root.join("a/b/tls.crt"));
        trails.folder(&root.join("a"));
        assert!(trails.concerns(&root.join("a/b/tls.crt")) && trails.concerns(&root.join("a/anything")));
    }

    #[test]
    fn links_in_a_circle_end() {
        let (_folder, root) = world();
        symlink("two", root.join("one")).unwrap();
        symlink("one", root.join("two")).unwrap();
        let mut trails = Trails::default();
        trails.file(&root.join("one/x"));
        trails.file(&root.join("one"));
        assert!(trails.concerns(&root.join("two")));
    }
}
