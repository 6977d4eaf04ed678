//! A wall clock that can be moved while the program runs, by libfaketime; its timers run as ever.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::egret::{Egret, Setup};

impl Setup {
    /// Its wall clock can be moved with [`Egret::move_clock`].
    pub(crate) fn with_clock(mut self) -> Self {
        let path = self.folder.path().join("clock");
        set(&path, time::Duration::ZERO);
        self.clock = Some(path);
        self
    }
}

impl Egret {
    /// From now on its clock is so far ahead of ours.
    #[track_caller]
    pub(crate) fn move_clock(&self, ahead: time::Duration) {
        set(self.setup().clock.as_deref().expect("a clock that can be moved"), ahead);
    }
}

/// What a program is started with so that its clock follows this file.
pub(super) fn variables(clock: &Path) -> [(&'static str, OsString); 5] {
    [
        ("LD_PRELOAD", library().into_os_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock.as_os_str().to_owned()),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("DONT_FAKE_MONOTONIC", "1".into()),
    ]
}

/// In one step: the file is read at any moment.
fn set(path: &Path, ahead: time::Duration) {
    let next = path.with_extension("next");
    fs::write(&next, format!("{:+}s\n", ahead.whole_seconds())).expect("writable");
    fs::rename(&next, path).expect("the same folder");
}

/// The library that stands between a program and its clock, for programs with threads.
fn library() -> PathBuf {
    let name = "faketime/libfaketimeMT.so.1";
    let folders = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let below = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let all: Vec<PathBuf> = folders.iter().cloned().chain(below.map(|entry| entry.path())).collect();
    let found = all.iter().map(|folder| folder.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is missing; ./tests/run installs it (Debian: faketime)"))
}
