//! Projects, declared certificates and tokens: whose is what.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use zeroize::Zeroizing;

use super::super::file::{CertificateFolderTable, CertificateTable, DefaultTable, ProjectTable, ScopeName, TokenTable};
use super::super::{CertificateFolder, DEFAULT_PROJECT, DeclaredCertificate, TOKEN_VARIABLE, TokenSettings};
use super::{Checker, NAME_REMEDY, is_name};
use crate::domain::{DefaultScope, Pattern, ProjectId, ProjectInfo, Role, ServerTrust, Team};

/// The declared projects; `default` is among them.
pub(super) struct Projects(Vec<ProjectInfo>);

impl Projects {
    pub(super) fn into_settings(self) -> Vec<ProjectInfo> {
        self.0
    }

    fn names(&self) -> String {
        self.0.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl Checker<'_> {
    pub(super) fn projects(&mut self, tables: &[ProjectTable], servers: ServerTrust) -> Projects {
        let mut projects: Vec<ProjectInfo> = Vec::new();
        for (i, table) in tables.iter().enumerate() {
            let at = format!("projects[{i}]");
            let Some(project) = self.declared_project(&at, table, servers) else { continue };
            for other in &projects {
                if other.name == project.name && other.team == project.team {
                    self.complain(
                        &format!("{at}.name"),
                        "another project has this name",
                        "names are unique within a team",
                    );
                } else if other.id == project.id {
                    self.complain(
                        &format!("{at}.id"),
                        "another project has this id",
                        "give each project an id of its own",
                    );
                } else if other.id.as_str() == project.name || project.id.as_str() == other.name {
                    // Wherever a project is named, either may be written: one word must not mean two of them.
                    self.complain(
                        &format!("{at}.name"),
                        "the name of one project is the id of another",
                        "choose another name, or another id",
                    );
                }
                // Several projects may be of one account.
                if project.zone_id.is_some() && other.zone_id == project.zone_id {
                    self.complain(
                        &format!("{at}.zone_id"),
                        "another project carries it",
                        "a zone is one project; give each a zone_id of its own",
                    );
                }
            }
            projects.push(project);
        }
        if !projects.iter().any(|p| p.name == DEFAULT_PROJECT && p.team.is_none()) {
            projects.push(ProjectInfo { servers, ..ProjectInfo::named(DEFAULT_PROJECT) });
        }
        Projects(projects)
    }

    fn declared_project(&mut self, at: &str, table: &ProjectTable, servers: ServerTrust) -> Option<ProjectInfo> {
        let key = format!("{at}.name");
        let Some(name) = &table.name else {
            self.complain(&key, "is missing", "give the project a name");
            return None;
        };
        if !is_name(name) {
            self.complain(&key, "this is not a name", NAME_REMEDY);
            return None;
        }
        let team = table.team.clone().filter(|team| *team != Team::default());
        let id = match &table.id {
            None => ProjectId::derived(name, team.as_ref()),
            Some(text) => {
                let id = ProjectId::parse(text);
                if id.is_none() {
                    self.complain(
                        &format!("{at}.id"),
                        "this is not an id",
                        "use 1 to 64 of the characters A-Z a-z 0-9 _ -, or leave it out: it is then derived from the name",
                    );
                }
                id?
            }
        };
        Some(ProjectInfo {
            id,
            name: name.clone(),
            account_id: self.hex_id(&format!("{at}.account_id"), table.account_id.as_deref()),
            zone_id: self.hex_id(&format!("{at}.zone_id"), table.zone_id.as_deref()),
            state: table.state.unwrap_or_default(),
            default_scope: self.scope(&format!("{at}.default"), table.default.as_ref()),
            on_expiry: table.on_expiry.unwrap_or_default(),
            lift: table.lift.unwrap_or_default(),
            rollback: table.rollback.unwrap_or_default(),
            servers: table.servers.unwrap_or(servers),
            team,
            declared: true,
        })
    }

    fn hex_id(&mut self, key: &str, text: Option<&str>) -> Option<String> {
        let text = text?;
        if text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Some(text.to_ascii_lowercase());
        }
        self.complain(key, "this is not an id of Cloudflare's form", "write 32 hex digits");
        None
    }

    fn scope(&mut self, key: &str, table: Option<&DefaultTable>) -> DefaultScope {
        let Some(table) = table else { return DefaultScope::Any };
        let scope = table.scope.unwrap_or_default();
        if scope != ScopeName::Listed {
            if table.origins.is_some() {
                self.complain(
                    &format!("{key}.origins"),
                    "these origins would not be looked at",
                    "write scope = \"listed\", or remove them",
                );
            }
            return if scope == ScopeName::Hinted { DefaultScope::Hinted } else { DefaultScope::Any };
        }
        let key = format!("{key}.origins");
        let patterns = self.patterns(&key, table.origins.as_deref().unwrap_or_default());
        if table.origins.as_ref().is_none_or(Vec::is_empty) {
            self.complain(&key, "scope = \"listed\" needs to know which origins", "write origins = [\"https://…\"]");
        }
        if let Some(i) = patterns.iter().position(|p| *p == Pattern::Default) {
            self.complain(&format!("{key}[{i}]"), "the star stands for every origin", "write scope = \"any\"");
        }
        DefaultScope::Listed(patterns)
    }

    /// The project that an operator means by a name or an id.
    pub(super) fn project(&mut self, key: &str, name_or_id: &str, projects: &Projects) -> Option<ProjectId> {
        if let Some(project) = projects.0.iter().find(|p| p.id.as_str() == name_or_id) {
            return Some(project.id.clone());
        }
        let mut named = projects.0.iter().filter(|p| p.name == name_or_id);
        match (named.next(), named.next()) {
            (Some(project), None) => return Some(project.id.clone()),
            (Some(_), Some(_)) => self.complain(key, "several teams have a project of this name", "write its id"),
            // A [[projects]] table that could not be read may well be the one that is meant.
            (None, _) if self.source.complained_of("projects") => {}
            (None, _) => self.complain(
                key,
                "there is no such project",
                format!("declare it with [[projects]], or write one of: {}", projects.names()),
            ),
        }
        None
    }

    pub(super) fn certificates(
        &mut self,
        tables: &[CertificateTable],
        projects: &Projects,
    ) -> Vec<DeclaredCertificate> {
        let mut certificates: Vec<DeclaredCertificate> = Vec::new();
        let mut slots = HashSet::new();
        for (i, table) in tables.iter().enumerate() {
            let at = format!("certificates[{i}]");
            let name = table.project.as_deref().unwrap_or(DEFAULT_PROJECT);
            let project = self.project(&format!("{at}.project"), name, projects);
            let pattern = match table.origin.as_deref().map(Pattern::parse) {
                None => Some(Pattern::Default),
                Some(Ok(pattern)) => Some(pattern),
                Some(Err(error)) => {
                    self.complain_of_origin(&format!("{at}.origin"), error);
                    None
                }
            };
            let cert = self.material(&format!("{at}.cert"), table.cert.as_deref(), false);
            let key = self.material(&format!("{at}.key"), table.key.as_deref(), true);
            let ca = self.material(&format!("{at}.ca"), table.ca.as_deref(), false);
            let (Some(project), Some(pattern)) = (project, pattern) else { continue };
            if !slots.insert((project.clone(), pattern.clone())) {
                self.complain(
                    &format!("{at}.origin"),
                    format!("the project has another certificate for {pattern}"),
                    "declare one certificate per project and origin",
                );
            }
            if let (Some(cert), Some(key), Some(ca)) = (cert, key, ca) {
                let skip_validation = table.skip_validation.unwrap_or(false);
                self.places.push((at.clone(), self.source.line(&at)));
                let lift = table.lift.unwrap_or(true);
                let tls13_only = table.tls13_only.unwrap_or(false);
                certificates.push(DeclaredCertificate {
                    project,
                    pattern,
                    cert,
                    key,
                    ca,
                    skip_validation,
                    lift,
                    tls13_only,
                });
            }
        }
        certificates
    }

    /// Folders of certificates. What lies in them is found out when they are read, time and again.
    pub(super) fn certificate_folders(
        &mut self,
        tables: &[CertificateFolderTable],
        projects: &Projects,
    ) -> Vec<CertificateFolder> {
        let mut folders: Vec<CertificateFolder> = Vec::new();
        for (i, table) in tables.iter().enumerate() {
            let at = format!("certificate_folders[{i}]");
            let name = table.project.as_deref().unwrap_or(DEFAULT_PROJECT);
            let project = self.project(&format!("{at}.project"), name, projects);
            let key = format!("{at}.path");
            let Some(path) = &table.path else {
                self.complain(&key, "is missing", "name a folder of certificates");
                continue;
            };
            let path = self.source.resolve(path);
            if folders.iter().any(|f| f.path == path) {
                self.complain(&key, "another table names this folder", "declare each folder once");
            }
            match std::fs::metadata(&path) {
                Ok(metadata) if !metadata.is_dir() => {
                    self.unready.push(self.source.complaint(&key, "this is not a folder", "name a folder"));
                }
                Ok(_) => {}
                Err(cause) => self.unready.push(self.source.complaint(
                    &key,
                    format!("the folder cannot be read: {cause}"),
                    "make it; egret is not ready until it is there",
                )),
            }
            let (skip_validation, lift) = (table.skip_validation.unwrap_or(false), table.lift.unwrap_or(true));
            let tls13_only = table.tls13_only.unwrap_or(false);
            folders.extend(project.map(|project| CertificateFolder {
                path,
                project,
                skip_validation,
                lift,
                tls13_only,
            }));
        }
        folders
    }

    /// A file of a declared certificate. One that is not there yet is no reason not to start.
    fn material(&mut self, key: &str, path: Option<&Path>, secret: bool) -> Option<PathBuf> {
        let Some(path) = path else {
            self.complain(key, "is missing", "name a PEM file");
            return None;
        };
        let path = self.source.resolve(path);
        match std::fs::metadata(&path) {
            Ok(metadata) if !metadata.is_file() => {
                self.unready.push(self.source.complaint(key, "this is not a file", "name a PEM file"));
            }
            Ok(metadata) if secret && is_world_readable(&metadata) => self.warnings.push(self.source.complaint(
                key,
                "every user of this machine may read the key",
                format!("run: chmod o-r {}", path.display()),
            )),
            Ok(_) => {}
            Err(cause) => self.unready.push(self.source.complaint(
                key,
                format!("the file cannot be read: {cause}"),
                "put it there; egret is not ready until it is",
            )),
        }
        Some(path)
    }

    pub(super) fn tokens(&mut self, tables: &[TokenTable], projects: &Projects) -> Vec<TokenSettings> {
        let mut tokens: Vec<TokenSettings> = Vec::new();
        for (i, table) in tables.iter().enumerate() {
            let at = format!("tokens[{i}]");
            let digest = self.token_digest(&at, table);
            let key = format!("{at}.name");
            let Some(name) = &table.name else {
                self.complain(&key, "is missing", "give the token a name; logs use it");
                continue;
            };
            if !is_name(name) {
                self.complain(&key, "this is not a name", NAME_REMEDY);
            }
            if tokens.iter().any(|t| t.name == *name) {
                self.complain(&key, "another token has this name", "give each token a name of its own");
            }
            let Some(role) = table.role else {
                self.complain(&format!("{at}.role"), "is missing", "write one of: admin, write, read, proxy");
                continue;
            };
            let Some(sha256) = digest else { continue };
            if tokens.iter().any(|t| t.sha256 == sha256) {
                self.complain(&at, "another token has the same text", "make one token per holder");
            }
            let (email, mut limit) = (table.email.clone(), table.projects.clone());
            for (n, named) in limit.iter_mut().flatten().enumerate() {
                // One that is not declared may be made through the API. One that is, is meant by its id: a later
                // namesake of another team is another project.
                if projects.0.iter().any(|p| p.name == *named || p.id.as_str() == named) {
                    let id = self.project(&format!("{at}.projects[{n}]"), named, projects);
                    *named = id.map_or_else(String::new, |id| id.as_str().to_owned());
                }
            }
            tokens.push(TokenSettings { name: name.clone(), email, sha256, role, projects: limit });
        }
        if let Some(token) = (self.environment)(TOKEN_VARIABLE).map(Zeroizing::new) {
            match digest_of(&token) {
                Some(sha256) => {
                    // The same text in the file keeps its own, perhaps narrower, role: but this one asked to be administrator.
                    tokens.retain(|t| t.sha256 != sha256);
                    let name = TOKEN_VARIABLE.to_owned();
                    tokens.push(TokenSettings { name, email: None, sha256, role: Role::Admin, projects: None });
                }
                None => self.complain_of_flag(TOKEN_VARIABLE, "the token is empty", "set it to a token, or unset it"),
            }
        }
        tokens
    }

    fn token_digest(&mut self, at: &str, table: &TokenTable) -> Option<[u8; 32]> {
        let token = match (&table.sha256, &table.env, &table.file) {
            (Some(hex), None, None) => {
                let digest = parse_sha256(hex);
                if digest.is_none() {
                    self.complain(
                        &format!("{at}.sha256"),
                        "this is not a SHA-256 digest",
                        "write 64 hex digits, as from: printf %s \"$TOKEN\" | sha256sum",
                    );
                }
                return digest;
            }
            (None, Some(name), None) => {
                let value = (self.environment)(name).map(Zeroizing::new);
                if value.is_none() {
                    let what = "the environment variable that it names is not set";
                    self.complain(&format!("{at}.env"), what, "set it to the token");
                }
                value?
            }
            (None, None, Some(path)) => match std::fs::read_to_string(self.source.resolve(path)) {
                Ok(text) => Zeroizing::new(text),
                Err(cause) => {
                    let what = format!("the file cannot be read: {cause}");
                    self.complain(&format!("{at}.file"), what, "name a file that holds the token and nothing else");
                    return None;
                }
            },
            // One of them may be there and have been refused already.
            _ if ["sha256", "env", "file"].iter().any(|k| self.source.complained_of(&format!("{at}.{k}"))) => {
                return None;
            }
            _ => {
                self.complain(at, "a token comes from one place", "write exactly one of sha256, env, file");
                return None;
            }
        };
        let digest = digest_of(&token);
        if digest.is_none() {
            self.complain(at, "the token is empty", "make one with: openssl rand -hex 32");
        }
        digest
    }
}

/// SHA-256 of a token, trailing white space trimmed; none if nothing is left.
fn digest_of(token: &str) -> Option<[u8; 32]> {
    let token = token.trim_end();
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    if token.is_empty() { None } else { digest.as_ref().try_into().ok() }
}

fn parse_sha256(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(unix)]
pub(super) fn is_world_readable(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    metadata.mode() & 0o004 != 0
}

#[cfg(not(unix))]
pub(super) fn is_world_readable(_metadata: &std::fs::Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::check::tests::{refused, settings};
    use crate::config::{Overlay, load_text};

    #[test]
    fn folders_of_certificates_have_a_project_and_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("egret.toml");
        std::fs::create_dir(folder.path().join("certs")).unwrap();
        let load = |text: &str| load_text(text, &file, &Overlay::default(), &|_| None);
        let text = "[[certificate_folders]]\npath = \"certs\"\nproject = \"pay\"\nlift = false\n\
                    [[certificate_folders]]\npath = \"later\"\n[[projects]]\nname = \"pay\"\n";
        let loaded = load(text).unwrap();
        let [first, second] = loaded.settings.certificate_folders.as_slice() else { panic!("two") };
        assert_eq!((first.path.as_path(), first.lift), (folder.path().join("certs").as_path(), false));
        assert!(second.lift && !second.skip_validation && first.project != second.project);
        assert_eq!(loaded.unready.iter().map(|c| c.key.as_str()).collect::<Vec<_>>(), ["certificate_folders[1].path"]);
        let keys = |text: &str| load(text).unwrap_err().0.into_iter().map(|c| c.key).collect::<Vec<_>>();
        assert_eq!(
            keys("[[certificate_folders]]\nproject = \"none\""),
            ["certificate_folders[0].path", "certificate_folders[0].project"]
        );
        let twice = "[[certificate_folders]]\npath = \"certs\"\n".repeat(2);
        assert_eq!(keys(&twice), ["certificate_folders[1].path"]);
        assert!(!Path::new("certs").exists(), "relative to the file");
    }

    #[test]
    fn an_account_has_several_projects_and_a_zone_is_one() {
        let id = "0123456789abcdef0123456789abcdef";
        let two =
            |key: &str| ["a", "b"].map(|name| format!("[[projects]]\nname = \"{name}\"\n{key} = \"{id}\"\n")).concat();
        let settings = settings(&two("account_id"));
        assert_eq!(settings.projects.iter().filter(|p| p.account_id.as_deref() == Some(id)).count(), 2);
        assert_eq!(refused(&two("zone_id")), ["6 projects[1].zone_id"]);
    }
}
