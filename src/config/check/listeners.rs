//! Ways in, and the management API: where they listen, who may connect, and what they say to whom.

use std::path::{Path, PathBuf};

use super::super::file::{AuthName, File, ListenerTable, ModeName, TlsTable};
use super::super::{
    CallerSettings, DEFAULT_MANAGEMENT, DEFAULT_PROJECT, DEFAULT_PROXY, DEFAULT_SOCKET_MODE, Intercept, ListenerMode,
    ListenerSettings, ManagementSettings, Overlay, ServerTlsSettings,
};
use super::tenants::{Projects, is_world_readable};
use super::{Checker, NAME_REMEDY, is_name};
use crate::domain::{Endpoint, Origin};

impl Checker<'_> {
    pub(super) fn management(&mut self, file: &File, overlay: &Overlay) -> ManagementSettings {
        let table = &file.management;
        let from_flag = self.endpoint_of_flag("--management", overlay.management.as_ref());
        let listen = match (&from_flag, &table.listen) {
            (Some(endpoint), _) => endpoint.clone(),
            (None, Some(text)) => self.endpoint("management.listen", text).unwrap_or(DEFAULT_MANAGEMENT.into()),
            (None, None) => DEFAULT_MANAGEMENT.into(),
        };
        let socket_mode = self.socket_mode("management", table.socket_mode.as_deref(), &listen, from_flag.is_some());
        let tls = table.tls.as_ref().and_then(|tls| self.tls("management.tls", tls, false));
        if tls.is_some() && listen.tcp().is_none() {
            self.complain(
                "management.tls",
                "nobody can listen in on a Unix socket, and egret's commands speak no TLS there",
                "remove it, or listen on an address",
            );
        }
        if table.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) {
            // It would be verified and then mean nothing, while whoever wrote it counts on it.
            self.complain(
                "management.tls.client_ca",
                "the management API asks for a token always, and for no client certificate",
                "remove it",
            );
        }
        if !listen.is_local() && tls.is_none() {
            // It always wants a token, but the token crosses the network in clear.
            self.warnings.push(self.source.complaint(
                "management.listen",
                "the management API is reachable by other machines, over plain http",
                "listen on 127.0.0.1, give it tls = { cert = \"…\", key = \"…\" }, or let only a trusted network reach it",
            ));
        }
        ManagementSettings { listen, socket_mode, tls }
    }

    pub(super) fn listeners(
        &mut self,
        file: &File,
        overlay: &Overlay,
        management: &ManagementSettings,
        projects: &Projects,
    ) -> Vec<ListenerSettings> {
        let default = [ListenerTable { name: Some("default".to_owned()), ..Default::default() }];
        let tables = file.listeners.as_deref().unwrap_or(&default);
        if tables.is_empty() {
            self.complain("listeners", "there is no way in", "add a [[listeners]] table, or leave the key out");
        }
        let mut replaced = self.endpoint_of_flag("--proxy", overlay.proxy.as_ref());
        let mut listeners: Vec<ListenerSettings> = Vec::new();
        for (i, table) in tables.iter().enumerate() {
            let at = format!("listeners[{i}]");
            let mode = table.mode.unwrap_or_default();
            let from_flag = if mode == ModeName::Forward { replaced.take() } else { None };
            let name = self.listener_name(&at, table, &listeners);
            let listen = match (&from_flag, &table.listen) {
                (Some(endpoint), _) => Some(endpoint.clone()),
                (None, Some(text)) => self.endpoint(&format!("{at}.listen"), text),
                (None, None) if file.listeners.is_none() => Some(DEFAULT_PROXY.into()),
                (None, None) => {
                    self.complain(&format!("{at}.listen"), "is missing", "write it as \"127.0.0.1:8080\"");
                    None
                }
            };
            let caller = self.caller(&at, table, projects);
            let mode = self.mode(&at, table, mode);
            let by_certificate = table.auth == Some(AuthName::Mtls);
            let tls = table.tls.as_ref().and_then(|tls| self.tls(&format!("{at}.tls"), tls, by_certificate));
            if by_certificate && table.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none()) {
                self.complain(
                    &format!("{at}.auth"),
                    "nobody says whose client certificates are taken",
                    "write tls = { cert = \"…\", key = \"…\", client_ca = \"…\" } in its table",
                );
            }
            let (Some(name), Some(listen), Some(caller), Some(mode)) = (name, listen, caller, mode) else { continue };
            let socket_mode = self.socket_mode(&at, table.socket_mode.as_deref(), &listen, from_flag.is_some());
            let key = if from_flag.is_some() { "--proxy".to_owned() } else { format!("{at}.listen") };
            self.open_relay(&key, &listen, &caller, table.unsafe_open.unwrap_or(false));
            let taken = listeners.iter().map(|l| &l.listen).chain([&management.listen]).any(|other| *other == listen);
            if taken && listen.tcp().is_none_or(|address| address.port() != 0) {
                let remedy = "give each listener and the management API one of its own";
                if from_flag.is_some() {
                    self.complain_of_flag(&key, "this address is used twice", remedy);
                } else {
                    self.complain(&key, "this address is used twice", remedy);
                }
            }
            let intercept = table.intercept.unwrap_or(Intercept::Registered);
            listeners.push(ListenerSettings { name, listen, socket_mode, tls, mode, caller, intercept });
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

    /// An address, or a Unix socket whose relative path starts at the file's folder.
    fn endpoint(&mut self, key: &str, text: &str) -> Option<Endpoint> {
        if !text.starts_with("unix:") {
            return self.address(key, text).map(Endpoint::from);
        }
        let folder = self.source.resolve(Path::new(""));
        match text.parse::<Endpoint>().and_then(|endpoint| endpoint.resolved(&folder)) {
            Ok(endpoint) => Some(endpoint),
            Err(error) => {
                let text = error.to_string();
                let (what, remedy) = text.split_once("; ").unwrap_or((&text, "write it as unix:/run/egret.sock"));
                self.complain(key, what, remedy);
                None
            }
        }
    }

    /// A relative path of a flag starts where the command runs.
    fn endpoint_of_flag(&mut self, flag: &str, given: Option<&Endpoint>) -> Option<Endpoint> {
        let folder = std::env::current_dir().unwrap_or_default();
        match given?.clone().resolved(&folder) {
            Ok(endpoint) => Some(endpoint),
            Err(error) => {
                self.complain_of_flag(flag, error.to_string(), "write it as unix:/run/egret.sock");
                None
            }
        }
    }

    /// Three octal digits, a zero in front if one likes.
    fn socket_mode(&mut self, at: &str, written: Option<&str>, listen: &Endpoint, from_flag: bool) -> u32 {
        let key = format!("{at}.socket_mode");
        let Some(text) = written else { return DEFAULT_SOCKET_MODE };
        if listen.tcp().is_some() && !from_flag {
            self.complain(&key, "only a Unix socket has a mode", "remove it, or write listen = \"unix:PATH\"");
            return DEFAULT_SOCKET_MODE;
        }
        let digits = text.len() == 3 || text.len() == 4 && text.starts_with('0');
        match u32::from_str_radix(text, 8).ok().filter(|mode| digits && mode & 0o777 == *mode) {
            Some(mode) if mode & 0o600 == 0o600 => mode,
            Some(_) => {
                self.complain(&key, "not even egret's own user could connect", "write at least \"0600\"");
                DEFAULT_SOCKET_MODE
            }
            None => {
                self.complain(
                    &key,
                    "this is not a mode",
                    "write \"0600\" (only egret's user), \"0660\" (its group too) or \"0666\" (everybody)",
                );
                DEFAULT_SOCKET_MODE
            }
        }
    }

    /// Only whether the files are there: what is in them is looked at by whoever can read certificates.
    fn tls(&mut self, at: &str, table: &TlsTable, client_required: bool) -> Option<ServerTlsSettings> {
        let cert = self.tls_file(&format!("{at}.cert"), table.cert.as_deref(), false);
        let key = self.tls_file(&format!("{at}.key"), table.key.as_deref(), true);
        let client_ca = match &table.client_ca {
            Some(path) => Some(self.tls_file(&format!("{at}.client_ca"), Some(path), false)?),
            None => None,
        };
        let line = self.source.line(at);
        Some(ServerTlsSettings { key_path: at.to_owned(), line, cert: cert?, key: key?, client_ca, client_required })
    }

    fn tls_file(&mut self, key: &str, path: Option<&Path>, secret: bool) -> Option<PathBuf> {
        let Some(path) = path else {
            self.complain(key, "is missing", "name a PEM file");
            return None;
        };
        let path = self.source.resolve(path);
        match std::fs::metadata(&path) {
            Ok(metadata) if !metadata.is_file() => {
                self.complain(key, "this is not a file", "name a PEM file");
                return None;
            }
            Ok(metadata) if secret && is_world_readable(&metadata) => self.warnings.push(self.source.complaint(
                key,
                "every user of this machine may read the key",
                format!("run: chmod o-r {}", path.display()),
            )),
            Ok(_) => {}
            Err(cause) => {
                self.complain(
                    key,
                    format!("the file cannot be read: {cause}"),
                    "put it there, or name another PEM file",
                );
                return None;
            }
        }
        Some(path)
    }

    fn caller(&mut self, at: &str, table: &ListenerTable, projects: &Projects) -> Option<CallerSettings> {
        match (&table.project, table.auth) {
            (Some(_), Some(auth)) => {
                let (credential, word) = match auth {
                    AuthName::Token => ("token", "token"),
                    AuthName::Mtls => ("certificate", "mtls"),
                };
                self.complain(
                    &format!("{at}.auth"),
                    format!("the project is fixed and named by the caller's {credential} at once"),
                    format!("keep either project or auth = \"{word}\""),
                );
                None
            }
            (None, Some(AuthName::Token)) => Some(CallerSettings::Token),
            (None, Some(AuthName::Mtls)) => Some(CallerSettings::Certificate),
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

    /// Others could spend the project's identity: that has to be asked for by name. A certificate that may be left out
    /// keeps nobody away.
    fn open_relay(&mut self, key: &str, listen: &Endpoint, caller: &CallerSettings, unsafe_open: bool) {
        let open = matches!(caller, CallerSettings::Project(_));
        if listen.is_local() || !open || unsafe_open {
            return;
        }
        let what = "other machines could reach this listener and use the project's certificates without a credential";
        let remedy = "listen on 127.0.0.1, or write auth = \"token\" or auth = \"mtls\" in its table, or unsafe_open = true if a network policy guards it";
        if key.starts_with("--") {
            self.complain_of_flag(key, what, remedy);
        } else {
            self.complain(key, what, remedy);
        }
    }
}

#[cfg(all(test, unix))]
mod tests;
