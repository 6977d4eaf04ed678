//! `[[certificate_folders]]`: names in a folder become entries.

use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::{Entry, Files, Listing};
use crate::config::CertificateFolder;
use crate::domain::Pattern;

/// The names that cert-manager gives the files of a Secret.
const CERT: &str = "tls.crt";
const KEY: &str = "tls.key";
const CA: &str = "ca.crt";
/// A file of this name serves all that bring no CA.
const SHARED_CA: [&str; 2] = [CA, "ca.pem"];
/// What a file with everything in it is called.
const TOGETHER: &str = ".pem";
/// The name that is project-wide.
const DEFAULT: &str = "_default";
/// Stands for a star, which is no name for a file on every system.
const WILDCARD: &str = "_wildcard.";

/// Adds what lies in `folder`, by name; no more than one beyond `most` altogether.
pub(super) fn list(folder: &CertificateFolder, most: usize, into: &mut Listing) {
    let mut found = match names(&folder.path) {
        Ok(found) => found,
        Err(error) => {
            let path = folder.path.display();
            let sentence =
                format!("{path}: the folder of certificates cannot be read: {error}; what came from it stays in force");
            into.unreadable.push((folder.path.clone(), sentence));
            return;
        }
    };
    found.sort_unstable();
    let shared = SHARED_CA.iter().map(|name| folder.path.join(name)).find(|path| has_content(path));
    for name in found {
        if into.entries.len() > most {
            return;
        }
        let path = folder.path.join(&name);
        let meta = match fs::metadata(&path) {
            Ok(meta) => meta,
            // A link to nowhere, or gone again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                let sentence =
                    format!("{}: it cannot be read: {error}; what came from it stays in force", path.display());
                into.unreadable.push((path, sentence));
                continue;
            }
        };
        match entry(folder, &name, path, &meta, shared.as_deref()) {
            Ok(entry) => into.entries.extend(entry),
            Err(stray) => into.strays.push(stray),
        }
    }
}

/// The names in the folder. Those that begin with a dot are not for us: what editors and Kubernetes leave beside it.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let name = |entry: io::Result<DirEntry>| match entry {
        Ok(entry) => entry.file_name().into_string().ok().filter(|name| !name.starts_with('.')).map(Ok),
        Err(error) => Some(Err(error)),
    };
    fs::read_dir(folder)?.filter_map(name).collect()
}

/// What stands under a name; `Ok(None)` for what is nothing to us, an error for what may have been meant to be.
fn entry(
    folder: &CertificateFolder,
    name: &str,
    path: PathBuf,
    meta: &Metadata,
    shared: Option<&Path>,
) -> Result<Option<Entry>, String> {
    let misplaced = |what: &str| Err(format!("{}: {what}", path.display()));
    let (origin, files, place) = if meta.is_dir() {
        let (cert, key, own) = (path.join(CERT), path.join(KEY), path.join(CA));
        if pattern(name).is_none() && !cert.exists() && !key.exists() {
            return Ok(None);
        }
        let ca = if has_content(&own) { own } else { shared.map_or(own, Path::to_owned) };
        (name, Files::Apart { cert: cert.clone(), key, ca }, cert)
    } else if name == CERT || name == KEY {
        return misplaced(
            "it lies in the folder itself; put it into a folder that is named as its origin, or _default",
        );
    } else if SHARED_CA.contains(&name) {
        return Ok(None);
    } else if let Some(origin) = name.strip_suffix(TOGETHER) {
        (origin, Files::Together { pem: path.clone(), ca: shared.map(Path::to_owned) }, path.clone())
    } else {
        return Ok(None);
    };
    let Some(pattern) = pattern(origin) else {
        return misplaced(
            "this is not the name of an origin; name it as api.example.com, api.example.com_8443, _wildcard.example.com or _default",
        );
    };
    let CertificateFolder { project, skip_validation, lift, tls13_only, .. } = folder;
    let (project, skip_validation, lift, tls13_only) = (project.clone(), *skip_validation, *lift, *tls13_only);
    Ok(Some(Entry { project, pattern, skip_validation, lift, tls13_only, files, place }))
}

/// The origin that a name stands for.
fn pattern(name: &str) -> Option<Pattern> {
    if name == DEFAULT {
        return Some(Pattern::Default);
    }
    let (host, port) = match name.rsplit_once('_') {
        Some((host, port)) if port == "*" || (!port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())) => {
            (host, Some(port))
        }
        _ => (name, None),
    };
    let host = host.strip_prefix(WILDCARD).map_or_else(|| host.to_owned(), |suffix| format!("*.{suffix}"));
    let text = port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
    // The star alone is written _default: a file called *.pem is more often a slip of a shell than meant.
    Pattern::parse(&text).ok().filter(|pattern| *pattern != Pattern::Default)
}

/// cert-manager leaves an empty ca.crt where an issuer tells no CA.
fn has_content(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_origins() {
        for (name, expected) in [
            ("api.partner.test", Some("https://api.partner.test")),
            ("API.partner.test", Some("https://api.partner.test")),
            ("api.partner.test_8443", Some("https://api.partner.test:8443")),
            ("api.partner.test:8443", Some("https://api.partner.test:8443")),
            ("api.partner.test_*", Some("https://api.partner.test:*")),
            ("api_internal.test", Some("https://api_internal.test")),
            ("_wildcard.partner.test", Some("https://*.partner.test")),
            ("*.partner.test", Some("https://*.partner.test")),
            ("_wildcard.partner.test_8443", Some("https://*.partner.test:8443")),
            ("[::1]_8443", Some("https://[::1]:8443")),
            ("_default", Some("*")),
            ("*", None),
            ("", None),
            ("_wildcard.com", None),
            ("a b", None),
            ("api.partner.test_99999", None),
        ] {
            assert_eq!(pattern(name).map(|p| p.to_string()).as_deref(), expected, "{name}");
        }
    }
}
