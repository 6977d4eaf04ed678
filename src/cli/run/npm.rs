//! Roots that npm's own configuration names: once there are any, npm looks at no `NODE_EXTRA_CA_CERTS`. Its environment
//! wins over its files, so the same roots and the CA are named there.
//!
//! Read as npm 11 reads it, in npm's order: environment, project, user, global, built in. (Options on a command line of
//! npm's win over all of this, and are the user's business.)

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::roots::{Environment, certificates_in};
use crate::pki::{files, pem};

/// More of a file than this is no configuration of npm's.
const MAX_FILE: usize = 1024 * 1024;
const FILE: &str = ".npmrc";

/// What one place says of the roots.
#[derive(Debug, PartialEq, Eq)]
enum Says {
    /// That they are Node's own: `ca = null`.
    Nodes,
    These(Vec<CertificateDer<'static>>),
}

/// The roots that npm trusts in place of Node's when it is started in `folder`; `None`: Node's.
pub(super) fn roots(environment: Environment<'_>, folder: &Path) -> Option<Vec<CertificateDer<'static>>> {
    let npm = Npm { environment, folder };
    let variable = npm.says(&mut |name| npm.variable(name).map(|value| value.split("\n\n").map(Into::into).collect()));
    let found = variable.or_else(|| npm.files().find_map(|path| npm.file(&path)));
    match found {
        Some(Says::These(roots)) => Some(roots),
        Some(Says::Nodes) | None => None,
    }
}

struct Npm<'a> {
    environment: Environment<'a>,
    folder: &'a Path,
}

impl Npm<'_> {
    /// `npm_config_…` in the spellings that are in use (npm takes any).
    fn variable(&self, key: &str) -> Option<String> {
        let name = format!("npm_config_{}", key.replace('-', "_"));
        let read = |name: &str| (self.environment)(name)?.into_string().ok().filter(|value| !value.is_empty());
        read(&name).or_else(|| read(&name.to_ascii_uppercase()))
    }

    fn set(&self, name: &str) -> Option<PathBuf> {
        (self.environment)(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    fn home(&self) -> Option<PathBuf> {
        self.set("HOME").or_else(|| self.set("USERPROFILE"))
    }

    /// Files of npm's configuration, of which the first that says something counts.
    fn files(&self) -> impl Iterator<Item = PathBuf> {
        let built_in = self.program("npm").and_then(|npm| Some(npm.parent()?.parent()?.join("npmrc")));
        let user = self.variable("userconfig").map(|path| self.path(&path));
        let user = user.or_else(|| Some(self.home()?.join(FILE)));
        let key_of = |file: &Option<PathBuf>, key: &str| {
            let value = self.values(file.as_ref()?, key).pop()?;
            Some(self.path(&value))
        };
        let prefix = self
            .variable("prefix")
            .map(|path| self.path(&path))
            .or_else(|| key_of(&user, "prefix"))
            .or_else(|| key_of(&built_in, "prefix"))
            .or_else(|| self.set("PREFIX"))
            .or_else(|| Some(self.program("node")?.parent()?.parent()?.to_owned()));
        let global = self
            .variable("globalconfig")
            .map(|path| self.path(&path))
            .or_else(|| key_of(&user, "globalconfig"))
            .or_else(|| key_of(&built_in, "globalconfig"))
            .or_else(|| Some(prefix?.join("etc/npmrc")));
        self.projects().into_iter().chain([user, global, built_in].into_iter().flatten())
    }

    /// That of the workspaces' root if there is one, which npm reads in place of the project's own; and the latter.
    fn projects(&self) -> Vec<PathBuf> {
        let is_project = |folder: &&Path| folder.join("package.json").is_file() || folder.join("node_modules").is_dir();
        let own = self.folder.ancestors().find(is_project).unwrap_or(self.folder);
        let has_workspaces = |folder: &&Path| {
            let text = read(&folder.join("package.json")).unwrap_or_default();
            serde_json::from_slice::<serde_json::Value>(&text).is_ok_and(|package| package.get("workspaces").is_some())
        };
        let root = own.ancestors().skip(1).find(has_workspaces);
        root.into_iter().chain([own]).map(|folder| folder.join(FILE)).collect()
    }

    /// A program of the `PATH`, without symbolic links: Node and npm find their folders by it.
    fn program(&self, name: &str) -> Option<PathBuf> {
        let path = (self.environment)("PATH")?;
        let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())?;
        found.canonicalize().ok()
    }

    fn file(&self, path: &Path) -> Option<Says> {
        self.says(&mut |key| Some(self.values(path, key)).filter(|values| !values.is_empty()))
    }

    fn says(&self, values: &mut dyn FnMut(&str) -> Option<Vec<String>>) -> Option<Says> {
        let mut roots = Vec::new();
        let mut nodes = false;
        for text in values("ca").unwrap_or_default() {
            nodes |= text == "null";
            // npm takes line ends that are written out.
            roots.extend(pem::certificates(&text.replace("\\n", "\n")).unwrap_or_default());
        }
        // A file that is not there is left out of account by npm too.
        let cafile = values("cafile").and_then(|mut values| values.pop());
        roots.extend(cafile.and_then(|path| certificates_in(&self.path(&path))).unwrap_or_default());
        if !roots.is_empty() {
            return Some(Says::These(roots));
        }
        nodes.then_some(Says::Nodes)
    }

    /// What a file says of a key: one value, or those of an array.
    fn values(&self, path: &Path, wanted: &str) -> Vec<String> {
        let mut found = Vec::new();
        // Sections are of no meaning to npm, and what stands below one is the section's.
        let text = read(path).unwrap_or_default();
        let text = std::str::from_utf8(&text).unwrap_or_default();
        let lines = text.lines().map(str::trim).take_while(|line| !(line.starts_with('[') && line.ends_with(']')));
        for line in lines.filter(|line| !line.starts_with([';', '#'])) {
            let Some((key, value)) = line.split_once('=') else { continue };
            let key = unquoted(key);
            let (key, array) = key.strip_suffix("[]").map_or((key.as_str(), false), |key| (key, true));
            if key == wanted {
                if !array {
                    found.clear();
                }
                found.push(self.expanded(&unquoted(value)));
            }
        }
        found
    }

    /// `${NAME}` and `${NAME?}`; of a name that is not set the former stays as it is and the latter is nothing.
    fn expanded(&self, text: &str) -> String {
        let (mut out, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once("${") {
            let Some((name, further)) = after.split_once('}') else { break };
            let (bare, optional) = name.strip_suffix('?').map_or((name, false), |bare| (bare, true));
            out.push_str(before);
            match (self.environment)(bare) {
                Some(value) => out.push_str(&value.to_string_lossy()),
                None if optional => {}
                None => out.push_str(&format!("${{{name}}}")),
            }
            rest = further;
        }
        out + rest
    }

    fn path(&self, text: &str) -> PathBuf {
        match (text.strip_prefix("~/"), self.home()) {
            (Some(below), Some(home)) => home.join(below),
            _ => self.folder.join(text),
        }
    }
}

/// Tokens of registries stand in these files, too.
fn read(path: &Path) -> Option<Zeroizing<Vec<u8>>> {
    let file = std::fs::File::open(path).ok()?;
    files::read_bounded(&file, MAX_FILE).ok()?
}

/// A key or a value as the format has it: in quotes with JSON's escapes, or to the first `;` or `#` without a backslash.
fn unquoted(text: &str) -> String {
    let text = text.trim();
    let within = |quote: char| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    if within('"') {
        return serde_json::from_str(text).unwrap_or_else(|_| text.to_owned());
    }
    if within('\'') {
        let inner = &text[1..text.len() - 1];
        return serde_json::from_str(inner).unwrap_or_else(|_| inner.to_owned());
    }
    let (mut out, mut characters) = (String::new(), text.chars());
    while let Some(c) = characters.next() {
        match c {
            ';' | '#' => break,
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ';' | '#')) => out.push(escaped),
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            other => out.push(other),
        }
    }
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::pki::issuer;

    fn a_ca() -> String {
        let stored = issuer::generate().unwrap();
        issuer::LeafIssuer::load(&stored, 1, || {}).unwrap().ca_pem().to_owned()
    }

    fn der(text: &str) -> Option<Vec<CertificateDer<'static>>> {
        Some(pem::certificates(text).unwrap())
    }

    #[test]
    fn each_place_counts_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), text).unwrap();
        };
        let [global, user, root, variable] = [(); 4].map(|()| a_ca());
        for (name, text) in [("global.pem", &global), ("home/user.pem", &user), ("root.pem", &root)] {
            write(name, text);
        }
        let set = |more: &[(&str, &str)]| {
            let mut set = vec![("HOME".to_owned(), at("home").into_os_string())];
            set.push(("npm_config_prefix".to_owned(), at("prefix").into_os_string()));
            set.push(("ROOTS".to_owned(), at("").into_os_string()));
            set.extend(more.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))));
            set
        };
        let found = |set: &[(String, OsString)]| {
            let environment = |name: &str| set.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
            roots(&environment, &at("root/packages/one/src"))
        };
        std::fs::create_dir_all(at("root/packages/one/src")).unwrap();
        assert_eq!(found(&set(&[])), None);
        write("prefix/etc/npmrc", "cafile=${ROOTS}/global.pem ; for all\n");
        assert_eq!(found(&set(&[])), der(&global));
        write("home/.npmrc", "; cafile=x\n//registry.test/:_authToken=t\n'cafile' = \"~/user.pem\"\n[x]\ncafile=/y\n");
        assert_eq!(found(&set(&[])), der(&user));
        assert_eq!(found(&set(&[("NPM_CONFIG_USERCONFIG", "/nowhere")])), der(&global));
        write("root/packages/one/package.json", "{}");
        write("root/packages/one/.npmrc", "ca = null");
        assert_eq!(found(&set(&[])), None, "Node's own again");
        write("root/package.json", r#"{"workspaces": ["packages/*"]}"#);
        let one_line = root.trim().replace('\n', "\\n");
        write("root/.npmrc", &format!("ca[]=\"{one_line}\"\nca[]=\"{}\"\n", global.replace('\n', "\\n")));
        assert_eq!(found(&set(&[])), der(&format!("{root}{global}")), "the workspaces' root");
        write("variable.pem", &variable);
        let path = at("variable.pem").into_os_string().into_string().unwrap();
        assert_eq!(found(&set(&[("NPM_CONFIG_CAFILE", &path)])), der(&variable));
        assert_eq!(found(&set(&[("npm_config_cafile", "/nowhere")])), der(&format!("{root}{global}")), "as npm does");
    }
}
