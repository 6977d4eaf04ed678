//! The start: store and files become projects. What is damaged is named and set aside; the rest serves.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use zeroize::Zeroizing;

use super::apply::{Facts, Maker};
use super::declared::{self, Depth};
use super::plan::{Covered, Ground, plan};
use super::projects::{DEFAULT, same_team};
use super::records::{self, BindingRecord, CertificateRecord, PreviousRecord, ProjectRecord, token_of};
use super::reload::{Findings, by_project, orphans};
use super::rollback::Keeping;
use super::stage::Staging;
use super::store::{Store, Write};
use super::vouching::{in_vain, vouching};
use super::{Control, Inner};
use crate::backend::{Backend, RecordKey, RecordKind, SealedRecord};
use crate::config::{LiveLimits, Settings};
use crate::domain::{CertificateId, CertificateInfo, Holder, ProjectId, ProjectInfo, Rollback, Source, time as clock};
use crate::identity::TlsFactory;
use crate::observe::{Events, Metrics};
use crate::pki::anchors::{SharedAnchors, Vouching};
use crate::pki::seal::{SealError, Sealer};
use crate::pki::validate::{Material, validate};
use crate::registry::{
    Binding, Certificate, Disclosures, Held, Previous, Project, Registry, Roster, Snapshot, SnapshotEdit, Target,
    Token, Unavailable,
};

/// The opened records of one home, by kind.
#[derive(Default)]
pub(super) struct Records {
    info: Option<ProjectInfo>,
    pub(super) roster: Roster,
    certificates: Vec<(RecordKey, Zeroizing<Vec<u8>>)>,
    bindings: Vec<(RecordKey, Zeroizing<Vec<u8>>)>,
    disclosures: Vec<(RecordKey, Zeroizing<Vec<u8>>)>,
    /// Certificates whose record is damaged.
    lost: HashMap<CertificateId, String>,
    /// Names of damaged binding records.
    quarantined: HashSet<String>,
}

/// Stored bindings that a declared one covers.
pub(super) type Shadowed = HashMap<ProjectId, Covered>;

impl Control {
    /// Loads store and declared certificates, publishes every project, and is then ready for changes.
    ///
    /// # Errors
    /// Only what makes starting senseless: a store that cannot be read at all, a key-encryption key that opens nothing.
    pub async fn load(
        settings: &Settings,
        registry: Arc<Registry>,
        backend: Arc<dyn Backend>,
        sealer: Arc<Sealer>,
        factory: Arc<TlsFactory>,
        anchors: Arc<SharedAnchors>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let store = Store::new(backend, sealer, metrics.clone());
        let limits = &settings.limits;
        let events = Arc::new(Events::new(limits.max_events));
        let (news, most) = (events.clone(), limits.max_disclosures);
        let disclosures = Disclosures::new(registry.clone(), most, metrics.clone(), news);
        let loaded = store.backend().load().await.context("the store cannot be read")?;
        for row in loaded.damaged {
            // A sentence that begins with a record's name is about that record.
            let key = loaded.lost.iter().find(|key| row.starts_with(&key.to_string()));
            store.note_damage(key.cloned(), row);
        }
        let Opened { mut homes, local_ca, tokens, mut accounts } = open(&store, loaded.records)?;
        for key in loaded.lost.iter().filter(|key| key.kind != RecordKind::LocalCa) {
            store.learn(key, 0);
            if key.kind == RecordKind::Token {
                continue;
            }
            if key.kind == RecordKind::AccountCertificate {
                accounts.push((key.clone(), Err("its record is damaged or missing".to_owned())));
                continue;
            }
            homes.entry(key.project.clone()).or_default().set_aside(key, "its record is damaged or missing");
        }
        let reading = settings.clone();
        let read = tokio::task::spawn_blocking(move || {
            let listing = declared::list(&reading)?;
            // Nobody asks for anything yet, so all cores may read.
            let threads = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
            let read = declared::read(listing.entries, &HashMap::new(), Depth::Everything, threads);
            Ok::<_, String>((read, listing.unreadable, listing.strays))
        });
        let (read, unreadable, strays) =
            read.await.context("declared certificates could not be read")?.map_err(anyhow::Error::msg)?;
        let mut declared = by_project(read);
        // Before the projects, whose bindings name what is in them.
        let accounts = super::accounts::restored(&store, accounts);

        let file = settings.config_file.clone().unwrap_or_else(|| PathBuf::from("the configuration file"));
        let maker = Maker::new(factory, anchors);
        let ground = Ground { store: &store, maker: &maker, accounts: &accounts, anew: false, unreadable: &[] };
        let keeping = Keeping::default();
        let mut shadowed = Shadowed::new();
        let mut findings = Findings { faults: strays, ..Findings::default() };
        let mut held = HashMap::new();
        for (info, mut records) in projects(settings, &store, homes) {
            let id = info.id.clone();
            refresh(&store, &info, &records).await;
            let pages = std::mem::take(&mut records.disclosures);
            super::disclosures::restore(&store, &disclosures, &id, pages);
            let (vouching, lost) = vouching(&maker, &accounts, &info, &records.roster);
            for vouch in lost {
                store.note_damage(None, in_vain(&info, vouch));
            }
            let mut edit = Snapshot::empty(Arc::new(info.clone()), maker.anonymous(&info, &vouching)).edit();
            let known = certificates(&store, &maker, (&info, &vouching), &mut records);
            edit.set_vouching(vouching);
            edit.set_roster(records.roster.clone());
            stored_bindings(&store, &info, records, &known, &mut edit);
            super::accounts::adopt(&accounts, &maker, &mut edit);
            // What is only kept to go back to is no certificate of the project.
            let kept = keeping.learn(&id, edit.settled());
            for certificate in known.into_values().filter(|certificate| !kept.contains(&certificate.info.id)) {
                edit.put_certificate(certificate);
            }
            let base = edit.finish();
            let own = declared.remove(&id).unwrap_or_default();
            let plan = plan(&ground, &base, &info, own, Covered::new());
            if !plan.covered.is_empty() {
                shadowed.insert(id, plan.covered);
            }
            held.extend(plan.held);
            findings.unloaded.extend(plan.unloaded);
            registry.insert(Project::new(plan.next.unwrap_or(base)));
        }
        disclosures.restored();
        findings.unloaded.extend(orphans(declared));
        findings.unloaded.extend(unreadable.into_iter().map(|(_, sentence)| sentence));
        let covered = super::tokens::load(&registry, tokens);
        for sentence in findings.unloaded.iter().chain(&findings.faults) {
            tracing::warn!("declared certificate not loaded: {sentence}");
        }
        registry.keep_retired(settings.limits.max_retired);
        let inner = Inner {
            registry,
            accounts: Arc::new(accounts),
            account_locks: super::accounts::Locks::default(),
            store,
            maker: ArcSwap::from_pointee(maker),
            file,
            limits: LiveLimits::new(&settings.limits),
            membership: tokio::sync::Mutex::default(),
            local_ca: Arc::new(tokio::sync::Mutex::new(local_ca)),
            shadowed: Mutex::new(shadowed),
            covered_tokens: Mutex::new(covered),
            declared: tokio::sync::Mutex::new(held),
            findings: Mutex::new(findings),
            ends: super::expiry::Ends::new(metrics.clone()),
            events,
            disclosures: Arc::new(disclosures),
            ledger: tokio::sync::Mutex::default(),
            keeping,
            staging: Staging::default(),
            deploying: super::held::Deployment::default(),
            metrics,
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

/// All that the store held, opened.
pub(super) struct Opened {
    pub(super) homes: BTreeMap<String, Records>,
    /// Stays sealed until it is asked for.
    local_ca: Option<SealedRecord>,
    tokens: Vec<([u8; 32], Token)>,
    /// What accounts hold, or why it could not be opened.
    accounts: Vec<super::accounts::Opened>,
}

/// Opens every record and sorts them by home.
pub(super) fn open(store: &Store, records: Vec<SealedRecord>) -> anyhow::Result<Opened> {
    let mut homes: BTreeMap<String, Records> = BTreeMap::new();
    let (mut local_ca, mut tokens, mut accounts) = (None, Vec::new(), Vec::new());
    let (all, mut foreign) = (records.len(), 0);
    let mut damage = Vec::new();
    for record in records {
        store.learn(&record.key, record.version);
        let opened = store.open(&record);
        foreign += usize::from(opened.as_ref().is_err_and(|e| *e == SealError::OtherKey));
        if record.key.kind == RecordKind::LocalCa {
            damage.extend(opened.err().map(|why| (record.key.clone(), why.to_string())));
            local_ca = Some(record);
            continue;
        }
        if record.key.kind == RecordKind::Token {
            let token = opened.map_err(|e| e.to_string());
            match token.and_then(|plain| token_of(&record.key.id, &plain).map_err(|e| e.to_string())) {
                Ok(token) => tokens.push(token),
                Err(why) => damage.push((record.key, why)),
            }
            continue;
        }
        if record.key.kind == RecordKind::AccountCertificate {
            let opened = opened.map_err(|e| e.to_string());
            damage.extend(opened.as_ref().err().map(|why| (record.key.clone(), why.clone())));
            accounts.push((record.key, opened));
            continue;
        }
        let home = homes.entry(record.key.project.clone()).or_default();
        let outcome = opened.map_err(|e| e.to_string()).and_then(|plain| home.take(&record.key, plain));
        if let Err(why) = outcome {
            home.set_aside(&record.key, &why);
            damage.push((record.key, why));
        }
    }
    if all > 0 && foreign == all {
        bail!(
            "the key-encryption key is not the one that the store was written with (all {all} records are sealed with another); \
             restore that key (after `egret store rekey`, name the key that it wrote under [store] key_encryption_key), or move the store away to begin with an empty one"
        );
    }
    for (key, why) in damage {
        let sentence = format!("{key}: {why}");
        store.note_damage(Some(key), sentence);
    }
    Ok(Opened { homes, local_ca, tokens, accounts })
}

impl Records {
    fn take(&mut self, key: &RecordKey, plain: Zeroizing<Vec<u8>>) -> Result<(), String> {
        match key.kind {
            RecordKind::Project => self.info = Some(ProjectRecord::parse(&plain).map_err(|e| e.to_string())?),
            RecordKind::Roster => {
                self.roster = records::roster_of(&plain).map_err(|e| e.to_string())?;
                if self.roster.damaged {
                    return Err(UNSETTLED.to_owned());
                }
            }
            RecordKind::Certificate => self.certificates.push((key.clone(), plain)),
            RecordKind::Binding => self.bindings.push((key.clone(), plain)),
            RecordKind::Disclosures => self.disclosures.push((key.clone(), plain)),
            RecordKind::LocalCa | RecordKind::Token | RecordKind::AccountCertificate => {}
        }
        Ok(())
    }

    /// Remembers whose place is taken by something damaged, so that nothing else takes it.
    pub(super) fn set_aside(&mut self, key: &RecordKey, why: &str) {
        match key.kind {
            RecordKind::Certificate => {
                self.lost.extend(CertificateId::parse(&key.id).map(|id| (id, why.to_owned())));
            }
            RecordKind::Binding => {
                self.quarantined.insert(key.id.clone());
            }
            RecordKind::Roster => self.roster.damaged = true,
            RecordKind::Project
            | RecordKind::LocalCa
            | RecordKind::Token
            | RecordKind::Disclosures
            | RecordKind::AccountCertificate => {}
        }
    }
}

/// Every project with its records: the declared ones first. A declared project takes over the records of a stored one
/// with its id or its name; a stored one that no file declares (any more) keeps its own.
pub(super) fn projects(
    settings: &Settings,
    store: &Store,
    mut homes: BTreeMap<String, Records>,
) -> Vec<(ProjectInfo, Records)> {
    let mut declared = settings.projects.clone();
    if !declared.iter().any(|p| p.name == DEFAULT && p.team.is_none()) {
        declared.push(ProjectInfo::named(DEFAULT));
    }
    // All ids before any name: a name that moved to another project in the file must not take the certificates of the
    // project that bore it, while the file still declares that one by its id.
    let by_id: Vec<_> = declared
        .iter()
        .map(|info| {
            let is_same = |other: &ProjectInfo| other.id == info.id;
            find(&homes, |_, r| r.info.as_ref().is_some_and(is_same))
                .or_else(|| find(&homes, |home, r| home == info.id.as_str() && r.info.is_none()))
                .and_then(|home| homes.remove_entry(&home))
        })
        .collect();
    let mut all: Vec<(ProjectInfo, Records)> = Vec::new();
    for (info, found) in declared.into_iter().zip(by_id) {
        let is_namesake = |other: &ProjectInfo| is_named_alike(other, &info);
        let found = found.or_else(|| {
            let home = find(&homes, |_, r| r.info.as_ref().is_some_and(is_namesake))?;
            homes.remove_entry(&home)
        });
        match found {
            Some((home, records)) => {
                store.settle(&info.id, &home);
                all.push((info, records));
            }
            None => {
                store.settle_anew(&info.id);
                all.push((info, Records::default()));
            }
        }
    }
    for (home, mut records) in homes {
        if let Some(mut info) = records.info.clone() {
            give_way(&mut info, all.iter().map(|(other, _)| other));
            store.settle(&info.id, &home);
            all.push((info, std::mem::take(&mut records)));
        } else {
            store.note_damage(
                None,
                format!(
                    "project {home}: its own record is damaged or missing, so its certificates are not served; \
                     declare it in the configuration file with id = \"{home}\""
                ),
            );
        }
    }
    all
}

/// What a project that no file declares (any more) gives up: a name stands for one project of a team, and a zone is one
/// project. What the file says goes first.
pub(super) fn give_way<'a>(info: &mut ProjectInfo, mut others: impl Iterator<Item = &'a ProjectInfo> + Clone) {
    if others.clone().any(|other| is_named_alike(other, info)) {
        tracing::warn!(
            project = %info.id,
            "another project bears this project's name now; it goes by its id until the file declares it under a new name"
        );
        info.name = info.id.as_str().to_owned();
    }
    if info.zone_id.is_some() && others.any(|other| other.zone_id == info.zone_id) {
        tracing::warn!(
            project = %info.id,
            "another project has this project's zone now; it has none until the file declares it with one"
        );
        info.zone_id = None;
    }
}

pub(super) fn is_named_alike(a: &ProjectInfo, b: &ProjectInfo) -> bool {
    a.name == b.name && same_team(a.team.as_ref(), b.team.as_ref())
}

fn find(homes: &BTreeMap<String, Records>, is_it: impl Fn(&str, &Records) -> bool) -> Option<String> {
    homes.iter().find(|(home, records)| is_it(home, records)).map(|(home, _)| home.clone())
}

/// Brings the record of a declared project up to date, so that the project is the same once it leaves the file.
/// A store that cannot be written now is no reason not to serve.
async fn refresh(store: &Store, info: &ProjectInfo, records: &Records) {
    let stale = records.info.as_ref().is_some_and(|old| ProjectRecord::of(old) != ProjectRecord::of(info));
    if stale {
        let write = Write::Put(store.project_key(&info.id), ProjectRecord::of(info).to_bytes());
        if let Err(error) = store.write(vec![write]).await {
            tracing::warn!(project = %info.id, %error, "the project's record could not be brought up to date");
        }
    }
}

pub(super) type Known = HashMap<CertificateId, Arc<Certificate>>;

/// Every stored certificate of the project that can be used. Damaged ones are added to `records.lost`.
fn certificates(store: &Store, maker: &Maker, project: (&ProjectInfo, &Arc<Vouching>), records: &mut Records) -> Known {
    let mut known = Known::new();
    for (key, plain) in std::mem::take(&mut records.certificates) {
        match stored_certificate(maker, project, &records.roster, &key, &plain) {
            Ok(certificate) => {
                known.insert(certificate.info.id.clone(), certificate);
            }
            Err(why) => {
                let sentence = format!("{key}: {why}");
                records.set_aside(&key, &why);
                store.note_damage(Some(key), sentence);
            }
        }
    }
    if records.roster.damaged {
        recover(&mut records.roster, &known);
    }
    known
}

/// What is said of lists that were damaged and whose zone nobody has switched since.
pub(super) const UNSETTLED: &str =
    "it was damaged, and nobody has said since whether the zone is on; switch it on or off";

/// Lists whose record is damaged hold what there is, see [`Roster::damaged`]; it stays so when they are written.
fn recover(roster: &mut Roster, known: &Known) {
    let is_lost = |c: &&Arc<Certificate>| c.info.holder == Holder::Hostnames && roster.entry(&c.info.id).is_none();
    let mut lost: Vec<_> = known.values().filter(is_lost).map(|certificate| certificate.info.clone()).collect();
    lost.sort_by(|a, b| a.uploaded_at.cmp(&b.uploaded_at).then_with(|| a.id.cmp(&b.id)));
    let held = |info: Arc<CertificateInfo>| Held {
        id: info.id.clone(),
        holder: info.holder,
        since: info.uploaded_at,
        by: String::new(),
    };
    // Older than whatever was uploaded since.
    roster.held.splice(0..0, lost.into_iter().map(held));
}

fn stored_certificate(
    maker: &Maker,
    (info, vouching): (&ProjectInfo, &Arc<Vouching>),
    roster: &Roster,
    key: &RecordKey,
    plain: &[u8],
) -> Result<Arc<Certificate>, String> {
    let id = CertificateId::parse(&key.id).ok_or("the record's name is no certificate id")?;
    let record = CertificateRecord::parse(plain).map_err(|e| e.to_string())?;
    // It was judged when it was uploaded; dates have passed since, and what it says of itself is what it said then.
    // An upload that has a place for a CA has a CA in it.
    let ca = (!record.ca.is_empty()).then_some(record.ca.as_str());
    let material = Material { cert: &record.cert, key: &record.key, ca, skip_validation: true };
    let valid = validate(material, clock::now()).map_err(|faults| {
        let words: Vec<_> = faults.iter().map(|f| format!("{}; {}", f.what, f.remedy)).collect();
        words.join(" | ")
    })?;
    let holder = match roster.entry(&id) {
        Some(held) => held.holder,
        // Of a list, since the other ids have a prefix; of which one is lost with the roster. In this one it is presented nowhere by itself.
        None if roster.damaged && !id.as_str().starts_with("cert_") => Holder::Hostnames,
        None => Holder::Project,
    };
    let facts = Facts {
        id,
        holder,
        cert_pem: record.cert,
        ca_pem: record.ca,
        uploaded_at: record.uploaded_at,
        skip_validation: record.skip_validation,
        warnings: Some(record.warnings),
        source: Source::Api,
    };
    Ok(maker.certificate(info, vouching, valid, facts))
}

pub(super) fn stored_bindings(
    store: &Store,
    info: &ProjectInfo,
    records: Records,
    known: &Known,
    edit: &mut SnapshotEdit,
) {
    let mut quarantined = records.quarantined;
    for (key, plain) in records.bindings {
        let parsed = BindingRecord::parse(&plain).map_err(|e| e.to_string());
        let parsed = parsed.and_then(|record| {
            // Sealed for this name, but the name is not that of its pattern: nobody but a fault makes such a record.
            let fits = store.binding_key(&info.id, &record.pattern) == key;
            if fits { Ok(record) } else { Err("the record's name is not that of its pattern".to_owned()) }
        });
        match parsed {
            Ok(record) => {
                let target = target(record.certificate, known, &records.lost);
                let BindingRecord { pattern, since, lift, tls13_only, previous, association, .. } = record;
                let previous = previous.and_then(|record| previous_of(record, info, known));
                let (source, derived) = (Source::Api, false);
                edit.bind(Binding { pattern, target, source, since, lift, tls13_only, previous, association, derived });
            }
            Err(why) => {
                quarantined.insert(key.id.clone());
                let sentence = format!("{key}: {why}");
                store.note_damage(Some(key), sentence);
            }
        }
    }
    edit.quarantine(quarantined, store.record_name());
}

/// What a binding can go back to; what has ended meanwhile is let go of by the first sweep.
fn previous_of(record: PreviousRecord, info: &ProjectInfo, known: &Known) -> Option<Arc<Previous>> {
    let PreviousRecord { certificate, until, alone, promoted } = record;
    let certificate = known.get(&certificate)?.clone();
    let until = if info.rollback == Rollback::Off { time::OffsetDateTime::UNIX_EPOCH } else { until };
    Some(Arc::new(Previous { certificate, until, alone, promoted }))
}

fn target(id: Option<CertificateId>, known: &Known, lost: &HashMap<CertificateId, String>) -> Target {
    let Some(id) = id else { return Target::None };
    if let Some(certificate) = known.get(&id) {
        return Target::Certificate(certificate.clone());
    }
    let why = lost.get(&id).map_or("there is no record of it", String::as_str);
    let why = format!("{why}; upload the certificate again");
    Target::Unavailable(Unavailable { id, why })
}
