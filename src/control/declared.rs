//! Certificates that files declare: which there are, and what is in their files. The files are the writer; the API only
//! shows them.
//!
//! What must stay true:
//! - what is not whole is told and never used: who has an older one in force keeps it;
//! - what has not changed is not validated again, so that ten thousand cost a reading;
//! - everything here blocks, and runs off the threads that answer requests.

mod folders;
mod stamp;

use std::collections::HashMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use self::stamp::Stamps;
use crate::config::Settings;
use crate::domain::{CertificateId, Pattern, ProjectId, time as clock};
use crate::pki::validate::{Fault, Field, Material, ValidCertificate, validate};
use crate::pki::{bundle, files};

/// Keys that may be told one by one to be readable by everyone.
const MAX_EXPOSED: usize = 10;

/// A certificate that files declare: whose, where, and which files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose.
    pub project: ProjectId,
    /// Where it is presented.
    pub pattern: Pattern,
    /// As in an upload.
    pub skip_validation: bool,
    /// Whether plain http is lifted by its binding.
    pub lift: bool,
    /// Whether it is presented over TLS 1.3 only.
    pub tls13_only: bool,
    /// What it is made of.
    pub files: Files,
    /// The file that declares it: to be changed there.
    pub place: PathBuf,
}

impl Entry {
    /// Whether it is a folder in a folder of certificates, and neither chain nor key is there: nothing is declared yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // What cannot be looked at may well be there.
        let is_gone = |path: &Path| path.try_exists().is_ok_and(|is_there| !is_there);
        match &self.files {
            Files::Apart { cert, key, .. } => self.place == *cert && is_gone(cert) && is_gone(key),
            Files::Together { .. } => false,
        }
    }
}

/// The files of a declared certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Files {
    /// One for each.
    Apart {
        /// Chain, PEM.
        cert: PathBuf,
        /// Key, PEM.
        key: PathBuf,
        /// CA bundle, PEM.
        ca: PathBuf,
    },
    /// One for all.
    Together {
        /// Key, chain and CA certificates, PEM.
        pem: PathBuf,
        /// The CA bundle for one that brings none, or whose path does not end in it.
        ca: Option<PathBuf>,
    },
}

impl Files {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        let all = match self {
            Self::Apart { cert, key, ca } => [Some(cert), Some(key), Some(ca)],
            Self::Together { pem, ca } => [Some(pem), ca.as_ref(), None],
        };
        all.into_iter().flatten().map(PathBuf::as_path)
    }

    pub(super) fn of(&self, field: Field) -> &Path {
        match (self, field) {
            (Self::Apart { cert, .. }, Field::Cert) => cert,
            (Self::Apart { key, .. }, Field::Key) => key,
            (Self::Apart { ca, .. }, Field::Ca) => ca,
            (Self::Together { ca: Some(ca), .. }, Field::Ca) => ca,
            (Self::Together { pem, .. }, _) => pem,
        }
    }
}

/// What is declared, before any of it is read.
#[derive(Debug, Default)]
pub struct Listing {
    /// Those of the configuration file in its order, then those of its folders, by name.
    pub entries: Vec<Entry>,
    /// Folders, and what lies in them, that cannot be looked at, each with a sentence that names it.
    pub unreadable: Vec<(PathBuf, String)>,
    /// What lies in a folder and can be no certificate; each a sentence that names it.
    pub strays: Vec<String>,
}

/// Finds all that `settings` declare. Blocks.
///
/// # Errors
/// Two places for one slot, both named; more than `limits.max_declared_certificates`.
pub fn list(settings: &Settings) -> Result<Listing, String> {
    let place = settings.config_file.clone().unwrap_or_else(|| PathBuf::from("the configuration file"));
    let of_file = settings.certificates.iter().map(|c| Entry {
        project: c.project.clone(),
        pattern: c.pattern.clone(),
        skip_validation: c.skip_validation,
        lift: c.lift,
        tls13_only: c.tls13_only,
        files: Files::Apart { cert: c.cert.clone(), key: c.key.clone(), ca: c.ca.clone() },
        place: place.clone(),
    });
    let mut listing = Listing { entries: of_file.collect(), ..Listing::default() };
    let most = settings.limits.max_declared_certificates;
    for folder in &settings.certificate_folders {
        folders::list(folder, most, &mut listing);
    }
    if listing.entries.len() > most {
        return Err(format!(
            "more certificates are declared than limits.max_declared_certificates allows, {most}; declare fewer, or raise the limit"
        ));
    }
    let mut slots: HashMap<(&ProjectId, &Pattern), &Entry> = HashMap::with_capacity(listing.entries.len());
    for entry in &listing.entries {
        if let Some(other) = slots.insert((&entry.project, &entry.pattern), entry) {
            return Err(format!(
                "two certificates are declared for {}: {} and {}; remove one",
                entry.pattern,
                other.files.of(Field::Cert).display(),
                entry.files.of(Field::Cert).display()
            ));
        }
    }
    Ok(listing)
}

/// Whether an entry holds a certificate that can be used; what is worth saying of it, or every fault with its file.
///
/// # Errors
/// Sentences, each with file and remedy.
pub fn examine(entry: &Entry) -> Result<Vec<String>, String> {
    let text = Text::read(&entry.files)?;
    text.validate(entry).map(|valid| valid.warnings)
}

/// The slot of an entry.
pub(super) type Slot = (ProjectId, Pattern);

/// What was read when the certificate in force in a slot was read.
#[derive(Debug, Clone)]
pub(super) struct Held {
    raw: [u8; 32],
    stamps: Option<Stamps>,
    skip_validation: bool,
}

/// How much is believed of what the file system says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// A file whose inode, size and times have not changed has not changed.
    Changed,
    /// Everything is read.
    Everything,
}

/// An entry, as it was found.
pub(super) struct Declared {
    pub(super) entry: Entry,
    pub(super) found: Found,
}

pub(super) enum Found {
    /// As it is in force.
    Same(Held),
    /// Whole, and perhaps new.
    Whole(Box<Whole>, Held),
    /// A sentence that names file and fault.
    Broken(String),
    /// A folder that is made for it, with nothing in it: nothing is declared yet, but what is in force stays.
    Empty(String),
}

/// Material with chain and `ca` as read.
pub(super) struct Whole {
    pub(super) valid: ValidCertificate,
    pub(super) cert_pem: String,
    pub(super) ca_pem: String,
}

impl Declared {
    pub(super) fn slot(&self) -> Slot {
        (self.entry.project.clone(), self.entry.pattern.clone())
    }
}

/// The id of a declared certificate: it follows from the slot and the material (zeros where it could not be read).
pub(super) fn id(entry: &Entry, digest: &[u8; 32]) -> CertificateId {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(b"egret declared certificate\0");
    hash.update(entry.project.as_str().as_bytes());
    hash.update(b"\0");
    hash.update(entry.pattern.to_string().as_bytes());
    hash.update(b"\0");
    hash.update(digest);
    let hash = hash.finish();
    let bits = hash.as_ref()[..16].try_into().expect("SHA-256 has 32 bytes");
    CertificateId::from_bits(bits)
}

/// Reads and validates entries, in their order. `known` tells what is in force. Blocks, on as many `threads`.
pub(super) fn read(
    entries: Vec<Entry>,
    known: &HashMap<Slot, Held>,
    depth: Depth,
    threads: NonZero<usize>,
) -> Vec<Declared> {
    let one = |entry: Entry| {
        let held = known.get(&(entry.project.clone(), entry.pattern.clone()));
        let (found, exposed) = find(&entry, held, depth);
        (Declared { entry, found }, exposed)
    };
    let share = entries.len().div_ceil(threads.get()).max(1);
    let all: Vec<(Declared, Option<PathBuf>)> = if threads.get() == 1 || entries.len() < 64 {
        entries.into_iter().map(one).collect()
    } else {
        let mut shares = Vec::new();
        let mut rest = entries;
        while !rest.is_empty() {
            let later = rest.split_off(share.min(rest.len()));
            shares.push(std::mem::replace(&mut rest, later));
        }
        std::thread::scope(|scope| {
            let running: Vec<_> = shares
                .into_iter()
                .map(|share| scope.spawn(move || share.into_iter().map(one).collect::<Vec<_>>()))
                .collect();
            running.into_iter().flat_map(|thread| thread.join().expect("reading does not panic")).collect()
        })
    };
    let exposed: Vec<_> = all.iter().filter_map(|(_, exposed)| exposed.as_ref()).collect();
    for path in exposed.iter().take(MAX_EXPOSED).map(|path| path.display()) {
        tracing::warn!("the private key {path} can be read by every user of this machine; run: chmod o-r {path}");
    }
    if let Some(more) = exposed.len().checked_sub(MAX_EXPOSED).filter(|more| *more > 0) {
        tracing::warn!("{more} more private keys can be read by every user of this machine");
    }
    all.into_iter().map(|(declared, _)| declared).collect()
}

/// What is found, and the file of a key that everyone may read.
fn find(entry: &Entry, held: Option<&Held>, depth: Depth) -> (Found, Option<PathBuf>) {
    let held = held.filter(|held| held.skip_validation == entry.skip_validation);
    // Taken before the files are read: what changes in between has another stamp the next time.
    let stamps = Stamps::of(entry.files.all());
    if depth == Depth::Changed
        && let Some(held) = held.filter(|held| held.stamps.is_some() && held.stamps == stamps)
    {
        return (Found::Same(held.clone()), None);
    }
    let text = match Text::read(&entry.files) {
        Ok(text) => text,
        Err(why) if entry.is_empty() => return (Found::Empty(why), None),
        Err(why) => return (Found::Broken(why), None),
    };
    let stamps = stamps.filter(|stamps| stamps.are_settled(clock::now()));
    let now = Held { raw: text.raw, stamps, skip_validation: entry.skip_validation };
    if held.is_some_and(|held| held.raw == now.raw) {
        return (Found::Same(now), None);
    }
    let key = entry.files.of(Field::Key);
    let exposed = is_exposed(key).then(|| key.to_owned());
    match text.validate(entry) {
        Ok(valid) => {
            let whole = Whole { valid, cert_pem: text.cert, ca_pem: text.ca };
            (Found::Whole(Box::new(whole), now), exposed)
        }
        Err(why) => (Found::Broken(why), exposed),
    }
}

/// What stands in the files.
struct Text {
    cert: String,
    key: Zeroizing<String>,
    ca: String,
    /// SHA-256 of the files as they are, each with its length in front.
    raw: [u8; 32],
}

impl Text {
    fn read(files: &Files) -> Result<Self, String> {
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut text = |path: &Path| {
            let text = files::mounted_text(path).map_err(|what| format!("{}: {what}", path.display()))?;
            hash.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(text.as_bytes());
            Ok::<_, String>(text)
        };
        let (cert, key, ca) = match files {
            Files::Apart { cert, key, ca } => {
                let (cert, key, ca) = (text(cert)?, text(key)?, text(ca)?);
                (String::clone(&cert), key, String::clone(&ca))
            }
            Files::Together { pem, ca } => {
                let whole = text(pem)?;
                let shared = ca.as_deref().map(&mut text).transpose()?;
                let parts = bundle::split(&whole)
                    .map_err(|fault| format!("{}: {}; {}", pem.display(), fault.what, fault.remedy))?;
                let mut own = parts.ca;
                if !parts.is_rooted
                    && let Some(shared) = shared
                {
                    own.push_str(&shared);
                }
                (parts.cert, parts.key, own)
            }
        };
        let raw = hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
        Ok(Self { cert, key, ca, raw })
    }

    fn validate(&self, entry: &Entry) -> Result<ValidCertificate, String> {
        let (skip_validation, now) = (entry.skip_validation, clock::now());
        let material = Material { cert: &self.cert, key: &self.key, ca: Some(&self.ca), skip_validation };
        validate(material, now).or_else(|faults| outlived(material, now).ok_or(faults)).map_err(|faults| {
            let sentence = |fault: &Fault| {
                let path = entry.files.of(fault.field).display();
                format!("{path}: {}; {}", fault.what, fault.remedy_in_files())
            };
            faults.iter().map(sentence).collect::<Vec<_>>().join(" | ")
        })
    }
}

/// A certificate whose only fault is that it is not valid right now is loaded all the same: its requests are then
/// refused as expired (or sent, where the project says so), which tells more than a certificate that is missing.
fn outlived(material: Material<'_>, now: OffsetDateTime) -> Option<ValidCertificate> {
    let lenient = validate(Material { skip_validation: true, ..material }, now).ok()?;
    let within = now.clamp(lenient.not_before, lenient.not_after);
    if within == now { None } else { validate(material, within).ok() }
}

#[cfg(unix)]
fn is_exposed(key: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(key).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
fn is_exposed(_key: &Path) -> bool {
    false
}
