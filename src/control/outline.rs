//! What the projects mean, read without starting anything: no key is opened, nothing is written.
//!
//! Bindings and projects are opened, since they say what is bound where. Certificates rest in one envelope with their
//! keys, so their envelopes stay shut: of a stored certificate only the id is known.

use std::collections::HashMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::accounts::OTHER_ACCOUNT;
use super::apply::Maker;
use super::declared::{self, Entry, Files};
use super::load::{self, Known};
use super::store::{ACCOUNT_HOME, Store};
use crate::backend::{Loaded, MemoryBackend, RecordKind};
use crate::config::{PostQuantum, Settings};
use crate::domain::{CertificateId, CertificateInfo, ProjectInfo, Source, time as clock};
use crate::identity::TlsFactory;
use crate::pki::anchors::{SharedAnchors, Vouching};
use crate::pki::seal::Sealer;
use crate::pki::validate::{Field, describe};
use crate::pki::{bundle, files};
use crate::registry::{Binding, Snapshot, SnapshotEdit, Target, Unavailable};

/// A certificate that was not loaded, because its key was not to be read.
#[derive(Debug, Clone)]
pub enum Unread {
    /// Declared in files: its certificate was read, its key was not, and so its id (which depends on both) is not known.
    Declared(Arc<CertificateInfo>),
    /// In the store, sealed together with its key: only its id is known.
    Sealed,
    /// The same, in this account: for projects that carry another one there is no such certificate.
    SealedInAccount(String),
}

impl Unread {
    /// Whether a project could use it, were it read.
    #[must_use]
    pub fn is_for(&self, project: &ProjectInfo) -> bool {
        match self {
            Self::Declared(_) | Self::Sealed => true,
            Self::SealedInAccount(account) => project.account_id.as_ref() == Some(account),
        }
    }
}

/// What the projects mean, without their keys.
pub struct Outline {
    /// One per project. Every certificate stands in them as unavailable.
    pub snapshots: Vec<Snapshot>,
    /// Those of them that merely were not read; see [`Unread::is_for`].
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
        .partition(|record| !matches!(record.key.kind, RecordKind::Project | RecordKind::Binding | RecordKind::Roster));
    let mut homes = load::open(&store, open)?.homes;
    let mut unread = HashMap::new();
    for record in shut.iter().filter(|record| record.key.kind == RecordKind::Certificate) {
        homes.entry(record.key.project.clone()).or_default().set_aside(&record.key, "it was not read");
        unread.extend(CertificateId::parse(&record.key.id).map(|id| (id, Unread::Sealed)));
    }
    for record in shut.iter().filter(|record| record.key.kind == RecordKind::AccountCertificate) {
        let account = record.key.project.strip_prefix(ACCOUNT_HOME).map(str::to_owned);
        let id = CertificateId::parse(&record.key.id);
        unread.extend(id.zip(account).map(|(id, account)| (id, Unread::SealedInAccount(account))));
    }
    for key in loaded
        .lost
        .iter()
        .filter(|key| matches!(key.kind, RecordKind::Certificate | RecordKind::Binding | RecordKind::Roster))
    {
        homes.entry(key.project.clone()).or_default().set_aside(key, "its record is damaged or missing");
    }

    let factory = Arc::new(TlsFactory::new(PostQuantum::Off));
    let anchors = Arc::new(SharedAnchors::load(&[], factory.provider())?);
    let maker = Maker::new(factory, anchors);
    let listing = declared::list(settings).map_err(anyhow::Error::msg)?;
    let entries: Vec<_> = listing.entries.into_iter().filter(|entry| !entry.is_empty()).enumerate().collect();
    let mut snapshots = Vec::new();
    for (info, records) in load::projects(settings, &store, homes) {
        let mut edit = Snapshot::empty(Arc::new(info.clone()), maker.anonymous(&info, &Vouching::none())).edit();
        edit.set_roster(records.roster.clone());
        load::stored_bindings(&store, &info, records, &Known::new(), &mut edit);
        say_of_accounts(&info, &unread, &mut edit);
        for (n, entry) in entries.iter().filter(|(_, entry)| entry.project == info.id) {
            edit.bind(declare(entry, *n, &mut unread));
        }
        snapshots.push(edit.finish());
    }
    let mut damage = store.damage();
    damage.extend(listing.unreadable.into_iter().map(|(_, sentence)| sentence).chain(listing.strays));
    Ok(Outline { snapshots, unread, damage })
}

/// Bindings that name what an account holds say so, or that it is another account than the project's.
fn say_of_accounts(info: &ProjectInfo, unread: &HashMap<CertificateId, Unread>, edit: &mut SnapshotEdit) {
    for binding in edit.settled().bindings() {
        let Target::Unavailable(Unavailable { id, .. }) = &binding.target else { continue };
        let Some(known @ Unread::SealedInAccount(_)) = unread.get(id) else { continue };
        let why = if known.is_for(info) { "it was not read" } else { OTHER_ACCOUNT };
        let target = Target::Unavailable(Unavailable { id: id.clone(), why: why.to_owned() });
        edit.bind(Binding { target, ..Binding::clone(&binding) });
    }
}

/// The binding of a declared certificate, the `n`th.
fn declare(declared: &Entry, n: usize, unread: &mut HashMap<CertificateId, Unread>) -> Binding {
    let source = Source::File(declared.place.clone());
    // Stands for the id, and is never shown.
    let id = CertificateId::parse(&format!("declared-{n}")).expect("letters, a dash and digits are an id");
    let cert = declared.files.of(Field::Cert);
    let read = chain(&declared.files)
        .and_then(|chain| describe(&chain, id.clone(), declared.skip_validation, source.clone(), clock::now()));
    let why = match read {
        Ok(info) => {
            unread.insert(id.clone(), Unread::Declared(Arc::new(info)));
            "it was not read".to_owned()
        }
        Err(why) => format!("{}: {why}", cert.display()),
    };
    let target = Target::Unavailable(Unavailable { id, why });
    let (lift, tls13_only) = (declared.lift, declared.tls13_only);
    let pattern = declared.pattern.clone();
    Binding {
        pattern,
        target,
        source,
        since: clock::now(),
        lift,
        tls13_only,
        previous: None,
        association: None,
        derived: false,
    }
}

/// The chain as it stands in its file; a key that stands beside it is wiped unread.
fn chain(declared: &Files) -> Result<String, String> {
    let text = files::mounted_text(declared.of(Field::Cert))?;
    if matches!(declared, Files::Apart { .. }) {
        return Ok(String::clone(&text));
    }
    match bundle::split(&text) {
        Ok(parts) => Ok(parts.cert),
        Err(fault) => Err(format!("{}; {}", fault.what, fault.remedy)),
    }
}
