//! Floor 1: what an operator writes ([`file::File`]) and what egret means by it ([`Settings`]).
//!
//! Two types on purpose: `File` is the text of the TOML, unchecked; `Settings` comes out of
//! [`load`], so nothing above looks at a value twice.
//!
//! What must stay true:
//! - every complaint is collected, and each names file, line, key and remedy;
//! - no message repeats a value that was not understood: a token or key may stand in the wrong place;
//! - nothing is parsed and then not enforced: a key that is not built is an unknown key.

mod check;
mod complaint;
pub mod file;
mod limits;
mod parents;
mod paths;
mod settings;
mod source;
mod webhook;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use complaint::{Complaint, Refused};
pub use limits::LiveLimits;
pub use parents::{Credentials, ParentProtocol, ParentSettings};
pub use paths::{ADMIN_TOKEN, CA_CERTIFICATE, KEY_ENCRYPTION_KEY, default_data_dir};
pub use settings::*;
pub use webhook::{WebhookSettings, WebhookTarget};

use crate::domain::Endpoint;
use file::{File, ProfileName};
use source::Source;

/// The project that always exists.
pub const DEFAULT_PROJECT: &str = "default";
/// Where the forward proxy listens when no file says otherwise.
pub const DEFAULT_PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
/// Where the management API listens when no file says otherwise.
pub const DEFAULT_MANAGEMENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9090);
/// Mode of a Unix socket where no file says otherwise: whoever runs egret may connect.
pub const DEFAULT_SOCKET_MODE: u32 = 0o600;
/// The environment variable that holds an administrator token.
pub const TOKEN_VARIABLE: &str = "EGRET_TOKEN";

/// What flags and environment variables put in place of the file's values.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    /// `--config`: the file to read. None: the defaults.
    pub config: Option<PathBuf>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--proxy`: replaces the address of the first forward listener.
    pub proxy: Option<Endpoint>,
    /// `--management`.
    pub management: Option<Endpoint>,
    /// `--profile`.
    pub profile: Option<ProfileName>,
}

/// Looks up an environment variable; tests bring their own.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A configuration that egret can start with.
#[derive(Debug)]
pub struct Loaded {
    /// What is meant.
    pub settings: Settings,
    /// What is worth saying at start; egret starts all the same.
    pub warnings: Vec<Complaint>,
    /// Declared certificate files that are not there (yet): egret starts, and is not ready until they are.
    /// For `egret check` they are faults.
    pub unready: Vec<Complaint>,
    /// Where each of `settings.certificates` is declared, in the same order: its key (`certificates[0]`) and line.
    pub places: Vec<(String, Option<usize>)>,
}

/// The process environment. A variable that is empty or not UTF-8 counts as not set.
#[must_use]
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Reads the file that `overlay` names (none: the defaults), and checks everything.
///
/// # Errors
/// Every complaint, in the order of the file.
pub fn load(overlay: &Overlay, environment: Environment<'_>) -> Result<Loaded, Refused> {
    read(overlay, environment).loaded
}

/// A configuration, and what it depends on.
#[derive(Debug)]
pub struct Reading {
    /// As [`load`] has it.
    pub loaded: Result<Loaded, Refused>,
    /// The file itself and, as far as it could be understood, every file and folder that it names.
    pub files: Vec<PathBuf>,
    /// SHA-256 of the file's text; zeros without one.
    pub digest: [u8; 32],
    /// There is a file, and nothing stands in it.
    pub is_empty: bool,
}

/// As [`load`], for those who look again when something changes.
#[must_use]
pub fn read(overlay: &Overlay, environment: Environment<'_>) -> Reading {
    let Some(path) = &overlay.config else {
        let loaded = check::check(&File::default(), &Source::none(), overlay, environment);
        return Reading { loaded, files: Vec::new(), digest: [0; 32], is_empty: false };
    };
    let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(cause) => {
            let complaint = Complaint {
                file: Some(path.clone()),
                line: None,
                key: "--config".to_owned(),
                what: format!("the file cannot be read: {cause}"),
                remedy: "name a readable TOML file, or leave --config and EGRET_CONFIG out to run with the defaults"
                    .to_owned(),
            };
            let loaded = Err(Refused(vec![complaint]));
            return Reading { loaded, files: vec![path], digest: [0; 32], is_empty: false };
        }
    };
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let digest = digest.as_ref().try_into().expect("SHA-256 has 32 bytes");
    let (loaded, mut files) = match source::read(&text, &path) {
        Ok((file, source)) => (check::check(&file, &source, overlay, environment), source.named()),
        Err(refused) => (Err(refused), Vec::new()),
    };
    files.push(path);
    Reading { loaded, files, digest, is_empty: text.trim().is_empty() }
}

/// As [`load`], with the text of the file at hand. Relative paths in it start at the folder of `path`.
///
/// # Errors
/// Every complaint, in the order of the file.
pub fn load_text(text: &str, path: &Path, overlay: &Overlay, environment: Environment<'_>) -> Result<Loaded, Refused> {
    let (file, source) = source::read(text, path)?;
    check::check(&file, &source, overlay, environment)
}

/// The data directory alone, for commands that only look for the administrator token there:
/// `--data-dir`, else the file's `data_dir` whatever else is wrong with the file, else the default.
#[must_use]
pub fn data_dir(overlay: &Overlay, environment: Environment<'_>) -> PathBuf {
    if let Some(folder) = &overlay.data_dir {
        return folder.clone();
    }
    let written = overlay.config.as_deref().and_then(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        let (file, source) = source::read(&text, &std::path::absolute(path).ok()?).ok()?;
        Some(source.resolve(&file.data_dir?))
    });
    written.unwrap_or_else(|| default_data_dir(environment))
}
