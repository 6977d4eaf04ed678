//! The sealed side of every change: which records there are, and one commit for all that belongs together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use zeroize::Zeroizing;

use super::ControlError;
use super::records::{ProjectRecord, roster_to_bytes};
use crate::backend::{Backend, Expect, Op, RecordKey, RecordKind, SealedRecord};
use crate::domain::{CertificateId, Pattern, ProjectId, ProjectInfo};
use crate::observe::Metrics;
use crate::pki::seal::{Place, SealError, Sealer};
use crate::registry::{RecordName, Roster};

/// The id of a project's own record; certificates and bindings are of other kinds.
const PROJECT_RECORD: &str = "project";
/// The id of the record of its lists.
const ROSTER_RECORD: &str = "roster";

/// What the homes of accounts begin with. No project's id has a slash in it.
pub(super) const ACCOUNT_HOME: &str = "account/";

/// Home -> record -> version; 0 for one that the backend knows of but cannot read: for a commit it is absent.
type Versions = HashMap<String, HashMap<(RecordKind, String), u64>>;

/// One thing that a change writes.
pub(super) enum Write {
    /// This content under this key, whether there was one before or not.
    Put(RecordKey, Zeroizing<Vec<u8>>),
    /// No record under this key.
    Delete(RecordKey),
}

/// Names and versions of all records; the records themselves are with the backend.
pub(super) struct Store {
    backend: Arc<dyn Backend>,
    sealer: Arc<Sealer>,
    metrics: Arc<Metrics>,
    /// Damaged records included: whoever writes over one needs its version.
    versions: Mutex<Versions>,
    /// Projects whose records lie under another name than their id: a file declared them under a new id later.
    homes: Mutex<HashMap<ProjectId, String>>,
    /// What cannot be used, with the record that has to change for that to end.
    damaged: Mutex<Vec<(Option<RecordKey>, String)>>,
}

impl Store {
    pub(super) fn new(backend: Arc<dyn Backend>, sealer: Arc<Sealer>, metrics: Arc<Metrics>) -> Self {
        Self {
            backend,
            sealer,
            metrics,
            versions: Mutex::default(),
            homes: Mutex::default(),
            damaged: Mutex::default(),
        }
    }

    pub(super) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Remembers that this record exists.
    pub(super) fn learn(&self, key: &RecordKey, version: u64) {
        let mut versions = lock(&self.versions);
        versions.entry(key.project.clone()).or_default().insert((key.kind, key.id.clone()), version);
    }

    pub(super) fn version(&self, key: &RecordKey) -> Option<u64> {
        // A lookup by parts would need a key type of its own; changes are rare.
        lock(&self.versions).get(&key.project)?.get(&(key.kind, key.id.clone())).copied()
    }

    /// All records of a project.
    pub(super) fn keys(&self, project: &ProjectId) -> Vec<RecordKey> {
        let home = self.home(project);
        let versions = lock(&self.versions);
        let records = versions.get(&home).into_iter().flat_map(HashMap::keys);
        records.map(|(kind, id)| RecordKey { kind: *kind, project: home.clone(), id: id.clone() }).collect()
    }

    /// Says that the records of `project` lie under `home`.
    pub(super) fn settle(&self, project: &ProjectId, home: &str) {
        if project.as_str() != home {
            lock(&self.homes).insert(project.clone(), home.to_owned());
        }
    }

    /// Says that a project has no records yet. Where others lie under its id, its own get a name of their own.
    pub(super) fn settle_anew(&self, project: &ProjectId) {
        let mut home = project.as_str().to_owned();
        {
            let versions = lock(&self.versions);
            while versions.contains_key(&home) {
                home.push('_');
            }
        }
        self.settle(project, &home);
    }

    /// Forgets where the records of a deleted project lay.
    pub(super) fn unsettle(&self, project: &ProjectId) {
        lock(&self.homes).remove(project);
    }

    fn home(&self, project: &ProjectId) -> String {
        lock(&self.homes).get(project).cloned().unwrap_or_else(|| project.as_str().to_owned())
    }

    pub(super) fn project_key(&self, project: &ProjectId) -> RecordKey {
        RecordKey { kind: RecordKind::Project, project: self.home(project), id: PROJECT_RECORD.to_owned() }
    }

    pub(super) fn roster_key(&self, project: &ProjectId) -> RecordKey {
        RecordKey { kind: RecordKind::Roster, project: self.home(project), id: ROSTER_RECORD.to_owned() }
    }

    /// The write of a project's lists.
    pub(super) fn roster_write(&self, project: &ProjectId, roster: &Roster) -> Write {
        let key = self.roster_key(project);
        if roster.is_empty() { Write::Delete(key) } else { Write::Put(key, roster_to_bytes(roster)) }
    }

    pub(super) fn certificate_key(&self, project: &ProjectId, id: &CertificateId) -> RecordKey {
        RecordKey { kind: RecordKind::Certificate, project: self.home(project), id: id.as_str().to_owned() }
    }

    pub(super) fn binding_key(&self, project: &ProjectId, pattern: &Pattern) -> RecordKey {
        let id = self.sealer.keyed_name(&pattern.to_string());
        RecordKey { kind: RecordKind::Binding, project: self.home(project), id }
    }

    pub(super) fn disclosures_key(&self, project: &ProjectId, page: u32) -> RecordKey {
        RecordKey { kind: RecordKind::Disclosures, project: self.home(project), id: page.to_string() }
    }

    /// What an account holds belongs to no project: several may carry the account.
    pub(super) fn account_key(account: &str, id: &CertificateId) -> RecordKey {
        let project = format!("{ACCOUNT_HOME}{account}");
        RecordKey { kind: RecordKind::AccountCertificate, project, id: id.as_str().to_owned() }
    }

    /// Tokens belong to no project: they may reach several.
    pub(super) fn token_key(id: &str) -> RecordKey {
        RecordKey { kind: RecordKind::Token, project: String::new(), id: id.to_owned() }
    }

    /// How binding records are named, for a snapshot that has to recognise damaged ones.
    pub(super) fn record_name(&self) -> RecordName {
        let sealer = self.sealer.clone();
        Arc::new(move |pattern: &str| sealer.keyed_name(pattern))
    }

    pub(super) fn open(&self, record: &SealedRecord) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.sealer.open(&record.sealed, place(&record.key, record.version))
    }

    /// Notes that something cannot be used.
    pub(super) fn note_damage(&self, key: Option<RecordKey>, sentence: String) {
        tracing::warn!("quarantined: {sentence}; the rest serves");
        self.metrics.store_quarantined.add();
        lock(&self.damaged).push((key, sentence));
    }

    /// Says that lists which were written anew are still not what they were before the damage.
    pub(super) fn note_unsettled(&self, project: &ProjectId, roster: &Roster) {
        if roster.damaged {
            let key = self.roster_key(project);
            let sentence = format!("{key}: {}", super::load::UNSETTLED);
            lock(&self.damaged).push((Some(key), sentence));
        }
    }

    /// Says that something which no record stands for can be used, or is gone: what was noted of it in these words.
    pub(super) fn note_mended(&self, sentence: &str) {
        lock(&self.damaged).retain(|(key, noted)| key.is_some() || noted != sentence);
    }

    /// What cannot be used, and still is there.
    pub(super) fn damage(&self) -> Vec<String> {
        lock(&self.damaged).iter().map(|(_, sentence)| sentence.clone()).collect()
    }

    /// The write of a project's own record, if there is none yet: records must not be left without their project
    /// when it leaves the file.
    pub(super) fn project_record(&self, info: &ProjectInfo) -> Option<Write> {
        let key = self.project_key(&info.id);
        self.version(&key).is_none().then(|| Write::Put(key, ProjectRecord::of(info).to_bytes()))
    }

    /// Writes one record and gives it back as it rests.
    pub(super) async fn put_and_keep(
        &self,
        key: RecordKey,
        plain: Zeroizing<Vec<u8>>,
    ) -> Result<SealedRecord, ControlError> {
        let (record, expect) = self.sealed(key, &plain)?;
        let written = self.commit(vec![Op::Put(record.clone(), expect)]).await;
        written.inspect_err(|error| tracing::error!(%error, record = %record.key, "a record could not be stored"))?;
        Ok(record)
    }

    /// Does all of it or nothing. The caller holds whatever lock keeps others off these keys.
    pub(super) async fn write(&self, writes: Vec<Write>) -> Result<(), ControlError> {
        self.write_quietly(writes).await.inspect_err(|error| {
            if let ControlError::Storing(cause) = error {
                tracing::error!(error = cause, "a change could not be stored");
            }
        })
    }

    /// The same for what is written again and again until it is stored: a failure is counted, and the log is the caller's.
    pub(super) async fn write_quietly(&self, writes: Vec<Write>) -> Result<(), ControlError> {
        let mut ops = Vec::with_capacity(writes.len());
        for write in writes {
            match write {
                Write::Put(key, plain) => {
                    let (record, expect) = self.sealed(key, &plain)?;
                    ops.push(Op::Put(record, expect));
                }
                Write::Delete(key) => {
                    let expect = match self.version(&key) {
                        None => continue,
                        Some(0) => Expect::Any,
                        Some(version) => Expect::Version(version),
                    };
                    ops.push(Op::Delete(key, expect));
                }
            }
        }
        if ops.is_empty() { Ok(()) } else { self.commit(ops).await }
    }

    fn sealed(&self, key: RecordKey, plain: &[u8]) -> Result<(SealedRecord, Expect), ControlError> {
        let old = self.version(&key).filter(|version| *version > 0);
        let version = old.unwrap_or_default() + 1;
        let sealed = self.sealer.seal(plain, place(&key, version)).map_err(|error| {
            tracing::error!(record = %key, %error, "a record could not be sealed");
            ControlError::Encrypting
        })?;
        Ok((SealedRecord { key, version, sealed }, old.map_or(Expect::Absent, Expect::Version)))
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<(), ControlError> {
        let after: Vec<_> = ops
            .iter()
            .map(|op| match op {
                Op::Put(record, _) | Op::Rewrap(record) => (record.key.clone(), Some(record.version)),
                Op::Delete(key, _) => (key.clone(), None),
            })
            .collect();
        self.backend.commit(ops).await.map_err(|error| {
            self.metrics.store_failures.add();
            ControlError::Storing(error.to_string())
        })?;
        for (key, version) in after {
            // A record that was written anew, or is gone, is damaged no more.
            lock(&self.damaged).retain(|(of, _)| of.as_ref() != Some(&key));
            match version {
                Some(version) => self.learn(&key, version),
                None => self.forget(&key),
            }
        }
        Ok(())
    }

    fn forget(&self, key: &RecordKey) {
        let mut versions = lock(&self.versions);
        if let Some(records) = versions.get_mut(&key.project) {
            records.remove(&(key.kind, key.id.clone()));
            if records.is_empty() {
                versions.remove(&key.project);
            }
        }
    }
}

pub(super) fn place(key: &RecordKey, version: u64) -> Place<'_> {
    Place { kind: key.kind.as_str(), project: &key.project, id: &key.id, version }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while holding it")
}
