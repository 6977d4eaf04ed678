//! The files that make clients trust the interception CA, and still everyone whom they trusted before.
//!
//! A variable of a client either adds to its roots (then its file holds the CA alone) or replaces them (then its file
//! holds what was there, and the CA). What was there is the file that the user's own variable names, else the system's
//! roots: a program that was told to trust one private root does not trust the whole world under egret.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry};
use rustls::pki_types::CertificateDer;

use crate::domain::hex;
use crate::pki::{files, pem};

/// The password of Java's own trust stores. It hides nothing; Java wants one.
pub(super) const TRUST_STORE_PASSWORD: &str = "changeit";
/// Work for a password that everyone knows protects nothing, and would delay every command.
const TRUST_STORE_ITERATIONS: u32 = 1;
/// More of a user's `.wgetrc` than this is none.
const MAX_WGETRC: usize = 1024 * 1024;

/// The user's environment.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Files in one folder of egret's own.
pub(super) struct Roots<'a> {
    folder: &'a Path,
    environment: Environment<'a>,
    ours: Vec<CertificateDer<'static>>,
    /// The system's roots, and those of `SSL_CERT_FILE` and `SSL_CERT_DIR` in their place if set.
    system: Vec<CertificateDer<'static>>,
    /// Written already: by what the file holds beside the CA.
    written: HashMap<(Option<PathBuf>, bool), PathBuf>,
    /// What the user should know.
    pub(super) warnings: Vec<String>,
}

impl<'a> Roots<'a> {
    /// Roots in `folder`, for a CA in PEM.
    ///
    /// # Errors
    /// When `ca` is no certificate, or the folder cannot be written.
    pub(super) fn new(folder: &'a Path, ca: &str, environment: Environment<'a>) -> anyhow::Result<Self> {
        let ours = pem::certificates(ca).context("the interception CA cannot be read")?;
        let found = rustls_native_certs::load_native_certs();
        let mut roots =
            Self { folder, environment, ours, system: found.certs, written: HashMap::new(), warnings: Vec::new() };
        if roots.system.is_empty() {
            roots.warnings.push(
                "this system has no CA certificates that could be found, so clients will trust egret's CA alone; install \
                 the package ca-certificates"
                    .to_owned(),
            );
        }
        let alone = roots.put("ca", ".pem", &as_pem(&roots.ours))?;
        roots.written.insert((None, false), alone);
        Ok(roots)
    }

    /// The CA alone.
    pub(super) fn ca(&self) -> &Path {
        &self.written[&(None, false)]
    }

    /// A file for a variable that adds to a client's roots: what the user's own adds, and the CA.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn adding(&mut self, variable: &str) -> anyhow::Result<PathBuf> {
        self.file(&[variable], false)
    }

    /// A file for a variable that replaces a client's roots: what the first of these variables that is set names, else
    /// the system's roots; and the CA.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn replacing(&mut self, variables: &[&str]) -> anyhow::Result<PathBuf> {
        self.file(variables, true)
    }

    /// A file for what replaces a client's roots by those in `path`, which the user has configured as `name`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn replacing_file(&mut self, name: &str, path: PathBuf) -> anyhow::Result<PathBuf> {
        self.file_beside(Some((name, path)), true)
    }

    /// A file with these roots of npm's, and the CA.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn npm(&mut self, own: &[CertificateDer<'static>]) -> anyhow::Result<PathBuf> {
        self.put("npm-ca", ".pem", &as_pem(&[own, &self.ours].concat()))
    }

    fn file(&mut self, variables: &[&str], replaces: bool) -> anyhow::Result<PathBuf> {
        let own = variables.iter().find_map(|name| {
            let value = (self.environment)(name).filter(|value| !value.is_empty())?;
            Some((*name, PathBuf::from(value)))
        });
        // Of these the system's roots are made already.
        self.file_beside(own.filter(|(name, _)| *name != "SSL_CERT_FILE"), replaces)
    }

    fn file_beside(&mut self, own: Option<(&str, PathBuf)>, replaces: bool) -> anyhow::Result<PathBuf> {
        let mut source = None;
        let mut certificates = if replaces { self.system.clone() } else { Vec::new() };
        if let Some((name, path)) = own {
            match certificates_in(&path) {
                Some(found) => (source, certificates) = (Some(path), found),
                None => self.warn(format!("{name} names nothing with certificates in it; it is left out of account")),
            }
        }
        if let Some(written) = self.written.get(&(source.clone(), replaces)) {
            return Ok(written.clone());
        }
        self.add_ours(&mut certificates);
        let path = self.put("bundle", ".pem", &as_pem(&certificates))?;
        self.written.insert((source, replaces), path.clone());
        Ok(path)
    }

    /// The user's start-up file of wget with the CA added: wget knows no variable for roots.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn wgetrc(&mut self) -> anyhow::Result<PathBuf> {
        let set = |name| (self.environment)(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let own = set("WGETRC").or_else(|| set("HOME").map(|home| home.join(".wgetrc")));
        let read = |path: &PathBuf| {
            let file = std::fs::File::open(path).ok()?;
            files::read_bounded(&file, MAX_WGETRC).ok().flatten()
        };
        let mut text = own.as_ref().and_then(read).unwrap_or_default();
        let mut certificates = users_of_wgetrc(&String::from_utf8_lossy(&text)).unwrap_or_default();
        self.add_ours(&mut certificates);
        let bundle = self.put("wget-ca", ".pem", &as_pem(&certificates))?;
        // Without a line end a last line of the user's would swallow ours.
        let line = format!("\nca_certificate = {}\n", bundle.display());
        // Ours already, from the shell around this one.
        if !text.ends_with(line.as_bytes()) {
            text.extend_from_slice(line.as_bytes());
        }
        self.put("wgetrc", "", &text)
    }

    /// A trust store for Java (PKCS#12), with the system's roots and the CA.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub(super) fn trust_store(&mut self) -> anyhow::Result<PathBuf> {
        let mut store = KeyStore::new();
        for (i, certificate) in self.system.iter().chain(&self.ours).enumerate() {
            // A root that the library cannot read is one that Java could not either.
            if let Ok(entry) = Certificate::from_der(certificate) {
                store.add_entry(&format!("root-{i}"), KeyStoreEntry::Certificate(entry));
            }
        }
        let writer = store.writer(TRUST_STORE_PASSWORD);
        let writer = writer.encryption_iterations(TRUST_STORE_ITERATIONS).mac_iterations(TRUST_STORE_ITERATIONS);
        let bytes = writer.write().context("the trust store for Java cannot be made")?;
        // Its salt is another one each time; the roots are what it is known by.
        let roots = as_pem(&self.system.iter().chain(&self.ours).cloned().collect::<Vec<_>>());
        self.put_as(&named("truststore", ".p12", &roots), &bytes)
    }

    /// The CA beside them, once: in a shell that has these variables already it is among them.
    fn add_ours(&self, certificates: &mut Vec<CertificateDer<'static>>) {
        certificates.retain(|certificate| !self.ours.contains(certificate));
        certificates.extend(self.ours.iter().cloned());
    }

    fn warn(&mut self, text: String) {
        if !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    /// Under a name that follows from the content: the folder of `egret env` is that of many shells, and what one of
    /// them trusts must not become what another one does.
    fn put(&self, stem: &str, extension: &str, content: &[u8]) -> anyhow::Result<PathBuf> {
        self.put_as(&named(stem, extension, content), content)
    }

    /// Whole or not at all: clients of an earlier `egret env` may be reading it.
    fn put_as(&self, name: &str, content: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        let mut suffix = [0; 8];
        let _ = aws_lc_rs::rand::fill(&mut suffix);
        let fresh = self.folder.join(format!("{name}.{}", hex(&suffix)));
        let mut file = files::create_private(&fresh)?;
        file.write_all(content)
            .and_then(|()| std::fs::rename(&fresh, &path))
            .with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(path)
    }
}

fn named(stem: &str, extension: &str, content: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content);
    format!("{stem}-{}{extension}", hex(&digest.as_ref()[..8]))
}

/// The certificates of a file or of the files of a folder; `None` if there are none.
pub(super) fn certificates_in(path: &Path) -> Option<Vec<CertificateDer<'static>>> {
    let (file, folder) = if path.is_dir() { (None, Some(path)) } else { (Some(path), None) };
    let found = rustls_native_certs::load_certs_from_paths(file, folder).certs;
    (!found.is_empty()).then_some(found)
}

/// What the last `ca_certificate` of a `.wgetrc` names (wget reads names of commands without case, `-` and `_`).
fn users_of_wgetrc(text: &str) -> Option<Vec<CertificateDer<'static>>> {
    let of = |line: &str| {
        let (name, value) = line.split_once('=')?;
        let name: String = name.trim().chars().filter(|c| !matches!(c, '-' | '_')).collect();
        name.eq_ignore_ascii_case("cacertificate").then(|| PathBuf::from(value.trim()))
    };
    certificates_in(&text.lines().rev().find_map(of)?)
}

/// RFC 7468.
fn as_pem(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    let mut out = String::new();
    for certificate in certificates {
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(certificate);
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, further) = rest.split_at(rest.len().min(64));
            out.push_str(line);
            out.push('\n');
            rest = further;
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out.into_bytes()
}

#[cfg(test)]
mod tests;
