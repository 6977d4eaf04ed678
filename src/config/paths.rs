//! Where egret keeps its own files. The one place that knows platforms.

use std::path::{Path, PathBuf};

use super::Environment;

/// Name of the administrator token's file inside the data directory.
pub const ADMIN_TOKEN: &str = "admin.token";
/// Name of the interception CA's public certificate (PEM) inside the data directory.
pub const CA_CERTIFICATE: &str = "ca.pem";
/// Name of the key-encryption key that egret makes itself, inside the data directory.
pub const KEY_ENCRYPTION_KEY: &str = "key-encryption-key";

/// The data directory where neither a flag nor the file names one: the user's own (`$XDG_DATA_HOME/egret`,
/// else `~/.local/share/egret`; `~/Library/Application Support/egret` on macOS; `%LOCALAPPDATA%\egret` on
/// Windows), or the system's where the process has no home.
#[must_use]
pub fn default_data_dir(environment: Environment<'_>) -> PathBuf {
    user_data_home(environment).map_or_else(|| Path::new(SYSTEM_DATA_DIR).to_owned(), |home| home.join("egret"))
}

#[cfg(windows)]
const SYSTEM_DATA_DIR: &str = r"C:\ProgramData\egret";
#[cfg(not(windows))]
const SYSTEM_DATA_DIR: &str = "/var/lib/egret";

#[cfg(target_os = "macos")]
fn user_data_home(environment: Environment<'_>) -> Option<PathBuf> {
    absolute(environment, "XDG_DATA_HOME")
        .or_else(|| absolute(environment, "HOME").map(|home| home.join("Library/Application Support")))
}

#[cfg(windows)]
fn user_data_home(environment: Environment<'_>) -> Option<PathBuf> {
    absolute(environment, "LOCALAPPDATA")
}

#[cfg(not(any(target_os = "macos", windows)))]
fn user_data_home(environment: Environment<'_>) -> Option<PathBuf> {
    absolute(environment, "XDG_DATA_HOME")
        .or_else(|| absolute(environment, "HOME").map(|home| home.join(".local/share")))
}

/// The XDG base directory specification: a path that is not absolute is to be ignored.
fn absolute(environment: Environment<'_>, name: &str) -> Option<PathBuf> {
    environment(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(all(test, not(any(target_os = "macos", windows))))]
mod tests {
    use super::*;

    #[test]
    fn the_users_folder_wins_and_relative_ones_are_ignored() {
        let dir = |pairs: &'static [(&str, &str)]| {
            default_data_dir(&move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(dir(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")]), Path::new("/x/egret"));
        assert_eq!(dir(&[("XDG_DATA_HOME", "x"), ("HOME", "/h")]), Path::new("/h/.local/share/egret"));
        assert_eq!(dir(&[]), Path::new("/var/lib/egret"));
    }
}
