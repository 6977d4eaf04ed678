//! [`File`] to [`Settings`]: every value resolved and checked, every complaint collected.

mod egress;
mod health;
mod listeners;
mod telemetry;
mod tenants;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;

use super::file::{File, ProfileName};
use super::source::Source;
use super::{Complaint, file};
use super::{
    Environment, KeySource, Loaded, Overlay, Profile, Refused, Settings, StoreBackend, StoreSettings, TrustSettings,
    default_data_dir,
};
use crate::domain::{OriginError, Pattern};

/// More threads than this is a slip of the finger.
const MAX_WORKERS: usize = 1024;

/// Turns what was written into what is meant.
pub(super) fn check(
    file: &File,
    source: &Source,
    overlay: &Overlay,
    environment: Environment<'_>,
) -> Result<Loaded, Refused> {
    let mut checker = Checker {
        source,
        environment,
        complaints: source.complaints.clone(),
        warnings: Vec::new(),
        unready: Vec::new(),
        places: Vec::new(),
    };
    checker.profile(file, overlay);
    let servers = file.trust.servers.unwrap_or_default();
    let projects = checker.projects(&file.projects, servers);
    let management = checker.management(file, overlay);
    let mut settings = Settings {
        profile: Profile::Local,
        data_dir: match (&overlay.data_dir, &file.data_dir) {
            (Some(folder), _) => folder.clone(),
            (None, Some(folder)) => source.resolve(folder),
            (None, None) => default_data_dir(environment),
        },
        workers: checker.workers(file.workers),
        config_file: source.file().map(PathBuf::from),
        listeners: checker.listeners(file, overlay, &management, &projects),
        management,
        health: None,
        degrade_before_expiry: checker.degrade_before_expiry(&file.health),
        certificates: checker.certificates(&file.certificates, &projects),
        certificate_folders: checker.certificate_folders(&file.certificate_folders, &projects),
        tokens: checker.tokens(&file.tokens, &projects),
        egress: checker.egress(&file.egress),
        store: checker.store(&file.store),
        dns_hosts: checker.dns(&file.dns.hosts),
        dns_servers: checker.dns_servers(&file.dns.servers),
        dns_mixed: file.dns.mixed.unwrap_or_default(),
        limits: checker.limits(&file.limits),
        trust: TrustSettings {
            anchors: checker.anchors(file.trust.anchors.as_deref().unwrap_or_default()),
            servers,
            post_quantum: file.trust.post_quantum.unwrap_or_default(),
        },
        telemetry: checker.telemetry(&file.telemetry),
        projects: projects.into_settings(),
    };
    settings.health = checker.health(&file.health, &settings);
    let Checker { mut complaints, warnings, unready, places, .. } = checker;
    if complaints.is_empty() {
        return Ok(Loaded { settings, warnings, unready, places });
    }
    complaints.sort_by_key(|c| c.line);
    Err(Refused(complaints))
}

/// Collects complaints while the tables are walked.
struct Checker<'a> {
    source: &'a Source,
    environment: Environment<'a>,
    complaints: Vec<Complaint>,
    warnings: Vec<Complaint>,
    unready: Vec<Complaint>,
    places: Vec<(String, Option<usize>)>,
}

impl Checker<'_> {
    fn complain(&mut self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        // A key that reading refused looks missing here: it was complained of already.
        if !self.source.complained_of(key) {
            self.complaints.push(self.source.complaint(key, what, remedy));
        }
    }

    fn complain_of_flag(&mut self, flag: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.complaints.push(Complaint {
            file: None,
            line: None,
            key: flag.to_owned(),
            what: what.into(),
            remedy: remedy.into(),
        });
    }

    /// The messages of [`OriginError`] are "what; remedy", or what alone.
    fn complain_of_origin(&mut self, key: &str, error: OriginError) {
        let text = error.to_string();
        let (what, remedy) = text.split_once("; ").unwrap_or((&text, "write it as https://host or https://host:port"));
        self.complain(key, what, remedy);
    }

    fn profile(&mut self, file: &File, overlay: &Overlay) {
        const WHAT: &str =
            "the profile gateway is not available yet, and egret does not start with less than it asks for";
        const REMEDY: &str = "use the profile local";
        match (overlay.profile, file.profile) {
            (Some(ProfileName::Gateway), _) => self.complain_of_flag("--profile", WHAT, REMEDY),
            (None, Some(ProfileName::Gateway)) => self.complain("profile", WHAT, REMEDY),
            _ => {}
        }
    }

    fn workers(&mut self, written: Option<usize>) -> usize {
        match written.unwrap_or(0) {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n if n <= MAX_WORKERS => n,
            _ => {
                self.complain("workers", "more threads than any machine has cores", "write 0 to 1024; 0 = cores");
                1
            }
        }
    }

    fn address(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.complain(
                key,
                "this is not an IP address with a port",
                "write it as 127.0.0.1:8080 or [::1]:8080; port 0 = any free one",
            );
        }
        parsed
    }

    fn patterns(&mut self, key: &str, texts: &[String]) -> Vec<Pattern> {
        let mut patterns = Vec::with_capacity(texts.len());
        for (i, text) in texts.iter().enumerate() {
            match Pattern::parse(text) {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => self.complain_of_origin(&format!("{key}[{i}]"), error),
            }
        }
        patterns
    }

    fn store(&mut self, table: &file::StoreTable) -> StoreSettings {
        let key = "store.key_encryption_key";
        let key_encryption_key = match &table.key_encryption_key {
            None => KeySource::Generated,
            Some(file::KeyTable { file: Some(path), env: None }) => {
                let path = self.source.resolve(path);
                if let Err(cause) = std::fs::metadata(&path) {
                    self.complain(
                        key,
                        format!("its file cannot be read: {cause}"),
                        "make it with: openssl rand -out FILE 32 && chmod 600 FILE",
                    );
                }
                KeySource::File(path)
            }
            Some(file::KeyTable { file: None, env: Some(name) }) => {
                if (self.environment)(name).is_none() {
                    self.complain(
                        key,
                        "the environment variable that it names is not set",
                        "set it to 64 hex digits or base64 of 32 bytes, as from: openssl rand -hex 32",
                    );
                }
                KeySource::Env(name.clone())
            }
            Some(_) => {
                self.complain(key, "it has one source", "write either { file = \"…\" } or { env = \"…\" }");
                KeySource::Generated
            }
        };
        StoreSettings { backend: table.backend.unwrap_or(StoreBackend::Embedded), key_encryption_key }
    }

    fn limits(&mut self, table: &file::LimitsTable) -> super::Limits {
        let limits = table.apply(|name, range| self.complain(&format!("limits.{name}"), "is out of range", range));
        if limits.max_request_line > limits.max_head_bytes {
            self.complain(
                "limits.max_request_line",
                "the request line is part of the head",
                "keep it at or below limits.max_head_bytes",
            );
        }
        if limits.max_pem > limits.max_api_body {
            self.complain("limits.max_pem", "no upload could be that large", "keep it at or below limits.max_api_body");
        }
        limits
    }

    fn anchors(&mut self, paths: &[PathBuf]) -> Vec<PathBuf> {
        let paths: Vec<_> = paths.iter().map(|path| self.source.resolve(path)).collect();
        for (i, path) in paths.iter().enumerate() {
            if let Err(cause) = std::fs::File::open(path) {
                self.complain(
                    &format!("trust.anchors[{i}]"),
                    format!("the file cannot be read: {cause}"),
                    "name a PEM file with CA certificates",
                );
            }
        }
        paths
    }
}

const NAME_REMEDY: &str = "use 1 to 100 of the characters A-Z a-z 0-9 . _ -";

/// Names stand in logs, URLs and credentials (`project:token`), so they need no quoting anywhere.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 100
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
