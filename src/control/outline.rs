//! What the projects mean, read without starting anything: no key is opened, nothing is written.
//!
//! Bindings and projects are opened, since they say what is bound where. Certificates rest in one envelope with their
//! keys, so their envelopes stay shut: of a stored certificate only the id is known.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::apply::Maker;
use super::load::{self, Known};
use super::store::Store;
use crate::backend::{Loaded, MemoryBackend, RecordKind};
use crate::config::{DeclaredCertificate, PostQuantum, Settings};
use crate::domain::{CertificateId, CertificateInfo, Source, time as clock};
use crate::identity::TlsFactory;
use crate::pki::anchors::SharedAnchors;
use crate::pki::seal::Sealer;
use crate::pki::validate::describe;
use crate::registry::{Binding, Snapshot, Target, Unavailable};

/// No certificate file is larger.
const MAX_FILE: u64 = 1024 * 1024;

/// A certificate that was not loaded, because its key was not to be read.
#[derive(Debug, Clone)]
pub enum Unread {
    /// Declared in files: its certificate was read, its key was not, and so its id (which depends on both) is not known.
    Declared(Arc<CertificateInfo>),
    /// In the store, sealed together with its key: only its id is known.
    Sealed,
}

/// What the projects mean, without their keys.
pub struct Outline {
    /// One per project. Every certificate stands in them as unavailable.
    pub snapshots: Vec<Snapshot>,
    /// Those of them that merely were not read.
    pub unread: HashMap<CertificateId, Unread>,
    /// What could not be opened; each a sentence that names the record.
    pub damage: Vec<String>,
}

/// Reads the declared projects and certificates, and, if there is a store, what it holds.
///
/// # Errors
/// A key-encryption key that opens nothing.
pub fn outline(settings: &Settings, stored: Option<(Loaded, Arc<Sealer>)>) -> anyhow::Result<Outline> {
    // Without a store there is nothing to open, and the key is never used.
    let (loaded, sealer) =
        stored.unwrap_or_else(|| (Loaded::default(), Arc::new(Sealer::new(Zeroizing::new([0; 32])))));
    let store = Store::new(Arc::new(MemoryBackend::default()), sealer, Arc::default());
    for row in loaded.damaged {
        store.note_damage(None, row);
    }
    let (shut, open): (Vec<_>, Vec<_>) = loaded
        .records
        .into_iter()
        .partition(|record| !matches!(record.key.kind, RecordKind::Project | RecordKind::Binding));
    let mut homes = load::open(&store, open)?.homes;
    let mut unread = HashMap::new();
    for record in shut.iter().filter(|record| record.key.kind == RecordKind::Certificate) {
        homes.entry(record.key.project.clone()).or_default().set_aside(&record.key, "it was not read");
        unread.extend(CertificateId::parse(&record.key.id).map(|id| (id, Unread::Sealed)));
    }
    for key in loaded.lost.iter().filter(|key| matches!(key.kind, RecordKind::Certificate | RecordKind::Binding)) {
        homes.entry(key.project.clone()).or_default().set_aside(key, "its record is damaged or missing");
    }

    let factory = Arc::new(TlsFactory::new(PostQuantum::Off));
    let anchors = Arc::new(SharedAnchors::load(&[], factory.provider())?);
    let maker = Maker::new(factory, anchors);
    let file = settings.config_file.clone().unwrap_or_else(|| PathBuf::from("the configuration file"));
    let mut snapshots = Vec::new();
    for (info, records) in load::projects(settings, &store, homes) {
        let mut edit = Snapshot::empty(Arc::new(info.clone()), maker.anonymous(&info)).edit();
        load::stored_bindings(&store, &info, records, &Known::new(), &mut edit);
        for (n, declared) in settings.certificates.iter().enumerate().filter(|(_, d)| d.project == info.id) {
            edit.bind(declare(declared, n, &file, &mut unread));
        }
        snapshots.push(edit.finish());
    }
    Ok(Outline { snapshots, unread, damage: store.damage() })
}

/// The binding of a declared certificate, `n`th of the file.
fn declare(
    declared: &DeclaredCertificate,
    n: usize,
    file: &Path,
    unread: &mut HashMap<CertificateId, Unread>,
) -> Binding {
    let source = Source::File(file.to_owned());
    // Stands for the id, and is never shown.
    let id = CertificateId::parse(&format!("declared-{n}")).expect("letters, a dash and digits are an id");
    let read = text(&declared.cert)
        .and_then(|chain| describe(&chain, id.clone(), declared.skip_validation, source.clone(), clock::now()));
    let why = match read {
        Ok(info) => {
            unread.insert(id.clone(), Unread::Declared(Arc::new(info)));
            "it was not read".to_owned()
        }
        Err(why) => format!("{}: {why}", declared.cert.display()),
    };
    let target = Target::Unavailable(Unavailable { id, why });
    Binding {
        pattern: declared.pattern.clone(),
        target,
        source,
        since: clock::now(),
        lift: declared.lift,
        previous: None,
    }
}

fn text(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let mut text = String::new();
    match file.take(MAX_FILE).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(format!("cannot be read as text: {error}")),
    }
}
