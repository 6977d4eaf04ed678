//! [`File`] to [`Settings`]: every value resolved and checked, every complaint collected.

mod egress;
mod health;
mod tenants;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;

use super::file::{AuthName, File, ListenerTable, ModeName, ProfileName};
use super::source::Source;
use super::{
    CallerSettings, DEFAULT_MANAGEMENT, DEFAULT_PROJECT, DEFAULT_PROXY, Environment, Intercept, KeySource,
    ListenerMode, ListenerSettings, Loaded, Overlay, Profile, Refused, Settings, StoreBackend, StoreSettings,
    TelemetrySettings, TrustSettings, default_data_dir,
};
use super::{Complaint, file};
use crate::domain::{Origin, OriginError, Pattern};
use tenants::Projects;

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
        management,
        health: None,
        listeners: checker.listeners(file, overlay, management, &projects),
        certificates: checker.certificates(&file.certificates, &projects),
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
        telemetry: TelemetrySettings { access_log: file.telemetry.access_log.unwrap_or(true) },
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

    fn management(&mut self, file: &File, overlay: &Overlay) -> SocketAddr {
        let address = match (overlay.management, &file.management.listen) {
            (Some(address), _) => address,
            (None, Some(text)) => self.address("management.listen", text).unwrap_or(DEFAULT_MANAGEMENT),
            (None, None) => DEFAULT_MANAGEMENT,
        };
        if !is_loopback(address) {
            // It always wants a token, but the token crosses the network in clear.
            self.warnings.push(self.source.complaint(
                "management.listen",
                "the management API is reachable by other machines, over plain http",
                "listen on 127.0.0.1, or let only a trusted network reach it",
            ));
        }
        address
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

    fn listeners(
        &mut self,
        file: &File,
        overlay: &Overlay,
        management: SocketAddr,
        projects: &Projects,
    ) -> Vec<ListenerSettings> {
        let default = [ListenerTable { name: Some("default".to_owned()), ..Default::default() }];
        let tables = file.listeners.as_deref().unwrap_or(&default);
        if tables.is_empty() {
            self.complain("listeners", "there is no way in", "add a [[listeners]] table, or leave the key out");
        }
        let mut replaced = overlay.proxy;
        let mut listeners: Vec<ListenerSettings> = Vec::new();
        for (i, table) in tables.iter().enumerate() {
            let at = format!("listeners[{i}]");
            let mode = table.mode.unwrap_or_default();
            let from_flag = if mode == ModeName::Forward { replaced.take() } else { None };
            let name = self.listener_name(&at, table, &listeners);
            let listen = match (from_flag, &table.listen) {
                (Some(address), _) => Some(address),
                (None, Some(text)) => self.address(&format!("{at}.listen"), text),
                (None, None) if file.listeners.is_none() => Some(DEFAULT_PROXY),
                (None, None) => {
                    self.complain(&format!("{at}.listen"), "is missing", "write it as \"127.0.0.1:8080\"");
                    None
                }
            };
            let caller = self.caller(&at, table, projects);
            let mode = self.mode(&at, table, mode);
            let (Some(name), Some(listen), Some(caller), Some(mode)) = (name, listen, caller, mode) else { continue };
            let key = if from_flag.is_some() { "--proxy".to_owned() } else { format!("{at}.listen") };
            self.open_relay(&key, listen, &caller, table.unsafe_open.unwrap_or(false));
            let taken = listeners.iter().map(|l| l.listen).chain([management]);
            if listen.port() != 0 && taken.into_iter().any(|other| other == listen) {
                let remedy = "give each listener and the management API a port of its own";
                if from_flag.is_some() {
                    self.complain_of_flag(&key, "this address is used twice", remedy);
                } else {
                    self.complain(&key, "this address is used twice", remedy);
                }
            }
            let intercept = table.intercept.unwrap_or(Intercept::Registered);
            listeners.push(ListenerSettings { name, listen, mode, caller, intercept });
        }
        if replaced.is_some() {
            self.complain_of_flag(
                "--proxy",
                "the file has no forward listener whose address it could replace",
                "leave it out, or add a [[listeners]] table with mode = \"forward\"",
            );
        }
        listeners
    }

    fn listener_name(&mut self, at: &str, table: &ListenerTable, others: &[ListenerSettings]) -> Option<String> {
        let key = format!("{at}.name");
        let Some(name) = &table.name else {
            self.complain(&key, "is missing", "give the listener a name; logs and egret status use it");
            return None;
        };
        if !is_name(name) {
            self.complain(&key, "this is not a name", NAME_REMEDY);
            return None;
        }
        if others.iter().any(|other| other.name == *name) {
            self.complain(&key, "another listener has this name", "give each listener a name of its own");
        }
        Some(name.clone())
    }

    fn caller(&mut self, at: &str, table: &ListenerTable, projects: &Projects) -> Option<CallerSettings> {
        match (&table.project, table.auth) {
            (Some(_), Some(AuthName::Token)) => {
                self.complain(
                    &format!("{at}.auth"),
                    "the project is fixed and named by the caller's token at once",
                    "keep either project or auth = \"token\"",
                );
                None
            }
            (None, Some(AuthName::Token)) => Some(CallerSettings::Token),
            (project, None) => {
                let name = project.as_deref().unwrap_or(DEFAULT_PROJECT);
                self.project(&format!("{at}.project"), name, projects).map(CallerSettings::Project)
            }
        }
    }

    fn mode(&mut self, at: &str, table: &ListenerTable, mode: ModeName) -> Option<ListenerMode> {
        let key = format!("{at}.origin");
        match (mode, &table.origin) {
            (ModeName::Forward, None) => Some(ListenerMode::Forward),
            (ModeName::Forward, Some(_)) => {
                self.complain(
                    &key,
                    "a forward listener is told the origin by each request",
                    "remove it, or write mode = \"sidecar\"",
                );
                None
            }
            (ModeName::Sidecar, origin) => {
                if table.intercept.is_some() {
                    self.complain(&format!("{at}.intercept"), "a sidecar listener has no CONNECT", "remove it");
                }
                match origin.as_deref() {
                    None => {
                        self.complain(
                            &key,
                            "a sidecar listener needs to know where its requests go",
                            "write origin = \"https://api.example.com\", or origin = \"host\" to follow the Host header",
                        );
                        None
                    }
                    Some("host") => Some(ListenerMode::Sidecar(None)),
                    Some(text) => match Origin::parse(text) {
                        Ok(origin) => Some(ListenerMode::Sidecar(Some(origin))),
                        Err(error) => {
                            self.complain_of_origin(&key, error);
                            None
                        }
                    },
                }
            }
        }
    }

    /// Others could spend the project's identity: that has to be asked for by name.
    fn open_relay(&mut self, key: &str, listen: SocketAddr, caller: &CallerSettings, unsafe_open: bool) {
        if is_loopback(listen) || *caller == CallerSettings::Token || unsafe_open {
            return;
        }
        let what = "other machines could reach this listener and use the project's certificates without a credential";
        let remedy = "listen on 127.0.0.1, or write auth = \"token\" in its table, or unsafe_open = true if a network policy guards it";
        if key.starts_with("--") {
            self.complain_of_flag(key, what, remedy);
        } else {
            self.complain(key, what, remedy);
        }
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

/// `::ffff:127.0.0.1` is loopback as well.
fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
