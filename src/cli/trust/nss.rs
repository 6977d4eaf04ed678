//! NSS databases of this user, by `certutil`: Chromium's (one for all that follow it) and those of Firefox's profiles.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Ca, Outcome, Wish, tool};

/// Trusted to vouch for servers, for nothing else.
const TRUST: &str = "C,,";
/// Where Chromium looks, below the home folder; made if it is missing, because Chromium makes its own too late.
const SHARED: &str = ".pki/nssdb";
/// Where newer ones look while that folder is missing: below `XDG_DATA_HOME`, else below this folder of the home folder.
const NEWER: (&str, &str) = (".local/share", "pki/nssdb");
/// The same inside a sandboxed Chromium; only if it is there.
const SANDBOXED: [&str; 1] = ["snap/chromium/current/.pki/nssdb"];
/// Folders of Firefox's profiles.
const PROFILES: [&str; 3] =
    [".mozilla/firefox", "snap/firefox/common/.mozilla/firefox", ".var/app/org.mozilla.firefox/.mozilla/firefox"];
const PACKAGES: &str = "libnss3-tools (Debian), nss-tools (Fedora, Alpine) or nss (Arch)";

pub(super) fn run(wish: Wish, ca: &Ca<'_>) -> Vec<Outcome> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let Some(home) = home else {
        return vec![Outcome::Skipped("HOME names no folder, so there is no user whose databases they are".to_owned())];
    };
    // A look at nothing: whether the program is there at all.
    let look = Command::new("certutil").arg("-H").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if let Err(error) = look {
        return vec![Outcome::Skipped(format!("certutil cannot be run ({error}); install {PACKAGES}"))];
    }
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|data| data.is_absolute());
    let newer = data.unwrap_or_else(|| home.join(NEWER.0)).join(NEWER.1);
    if wish == Wish::Uninstall {
        let mut databases = databases(&home, &newer);
        // Chromium may have had one of them when it was installed, and have the other one now.
        databases.extend([home.join(SHARED), newer]);
        let mut seen = std::collections::HashSet::new();
        databases.retain(|path| seen.insert(path.clone()));
        let there = databases.iter().filter(|path| path.join("cert9.db").exists());
        let done: Vec<_> = there.map(|path| uninstall(ca, path)).collect();
        return if done.is_empty() { vec![Outcome::Already("there is no database".to_owned())] } else { done };
    }
    databases(&home, &newer).iter().map(|path| install(ca, path)).collect()
}

/// That of Chromium first, there or not; then what else is there.
fn databases(home: &Path, newer: &Path) -> Vec<PathBuf> {
    let has_database = |path: &PathBuf| path.join("cert9.db").exists();
    let profiles =
        PROFILES.iter().flat_map(|folder| std::fs::read_dir(home.join(folder)).into_iter().flatten().flatten());
    let mut found: Vec<PathBuf> = profiles.map(|entry| entry.path()).filter(has_database).collect();
    found.sort();
    let sandboxed = SANDBOXED.iter().map(|folder| home.join(folder)).filter(has_database);
    let older = home.join(SHARED);
    // The older folder, once it is there, is the one that every version looks at.
    let shared = if !older.is_dir() && newer.is_dir() { newer.to_owned() } else { older };
    [shared].into_iter().chain(sandboxed).chain(found).collect()
}

fn install(ca: &Ca<'_>, database: &Path) -> Outcome {
    let shown = database.display();
    let failed = |why: String| Outcome::Skipped(format!("{shown}: certutil failed: {why}"));
    if !database.join("cert9.db").exists() {
        // 0700, as Chromium makes it: this process's umask sees to that.
        if let Err(error) = std::fs::create_dir_all(database) {
            return Outcome::Skipped(format!("{shown} cannot be made: {error}"));
        }
        if let Err(why) = certutil(ca, database, &["-N", "--empty-password"], "") {
            return failed(why);
        }
    }
    let name = name(ca);
    if holds(ca, database, &name) {
        // The trust may have been taken away by hand.
        return match certutil(ca, database, &["-M", "-n", &name, "-t", TRUST], "") {
            Ok(_) => Outcome::Already(shown.to_string()),
            Err(why) => failed(why),
        };
    }
    match certutil(ca, database, &["-A", "-n", &name, "-t", TRUST, "-a"], ca.pem) {
        Err(why) => failed(why),
        Ok(_) if holds(ca, database, &name) => Outcome::Done(shown.to_string()),
        // NSS knows a certificate under one name only: someone added it before.
        Ok(_) => Outcome::Already(format!("{shown} (under a name that egret did not give)")),
    }
}

fn uninstall(ca: &Ca<'_>, database: &Path) -> Outcome {
    let (shown, name) = (database.display(), name(ca));
    if !holds(ca, database, &name) {
        return Outcome::Already(format!("{shown} does not have it from egret"));
    }
    match certutil(ca, database, &["-D", "-n", &name], "") {
        Ok(_) => Outcome::Done(shown.to_string()),
        Err(why) => Outcome::Skipped(format!("{shown}: certutil failed: {why}")),
    }
}

/// By its fingerprint: two egrets of one user do not meet.
fn name(ca: &Ca<'_>) -> String {
    format!("egret local CA {}", ca.short)
}

fn holds(ca: &Ca<'_>, database: &Path, name: &str) -> bool {
    certutil(ca, database, &["-L", "-n", name, "-a"], "").is_ok_and(|found| ca.is(&found))
}

fn certutil(ca: &Ca<'_>, database: &Path, arguments: &[&str], input: &str) -> Result<Vec<u8>, String> {
    let mut command = Command::new("certutil");
    let mut place = std::ffi::OsString::from("sql:");
    place.push(database);
    command.arg("-d").arg(place).args(arguments);
    tool(&mut command, input, ca.inherited).map(|output| output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_there_and_chromiums_always() {
        let home = tempfile::tempdir().unwrap();
        let (older, newer) = (home.path().join(SHARED), home.path().join("data/pki/nssdb"));
        let databases = |home: &Path| databases(home, &newer);
        assert_eq!(databases(home.path()), [older.as_path()], "which every version looks at once it is there");
        std::fs::create_dir_all(&newer).unwrap();
        assert_eq!(databases(home.path()), [newer.as_path()]);
        std::fs::create_dir_all(&older).unwrap();
        assert_eq!(databases(home.path()), [older]);
        for profile in ["b.default", "a.other", "no-profile"] {
            std::fs::create_dir_all(home.path().join(".mozilla/firefox").join(profile)).unwrap();
        }
        for profile in ["b.default", "a.other"] {
            std::fs::write(home.path().join(".mozilla/firefox").join(profile).join("cert9.db"), "").unwrap();
        }
        let found = databases(home.path());
        assert_eq!(found.len(), 3);
        assert!(found[1].ends_with("a.other") && found[2].ends_with("b.default"));
    }
}
