use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::backend::{
    Backend, BackendError, BoxFuture, Changes, Expect, Loaded, Op, RecordKey, RecordKind, Revision, SealedRecord,
};
use crate::config::{
    DeclaredCertificate, EgressSettings, KeySource, Limits, ManagementSettings, PostQuantum, Profile, Settings,
    StoreBackend, StoreSettings, TelemetrySettings, TrustSettings,
};
use crate::control::{Control, ControlError, Depth, Drain, HeldUpload, Released, ReloadReport, Upload, Uploaded};
use crate::domain::{CertificateId, Holder, Origin, Pattern, ProjectId, ProjectInfo, Role, ServerTrust};
use crate::observe::Metrics;
use crate::pki::seal::Sealer;
use crate::registry::testing::shared;
use crate::registry::{Certificate, Project, Registry, Selection, Target, Token, TokenScope, TokenSource};

/// A store in memory that outlives the egret that writes it.
pub(super) struct Shelf {
    pub(super) records: Mutex<BTreeMap<RecordKey, SealedRecord>>,
    /// Given to those who load, as a backend that noticed damage itself would.
    pub(super) lost: Mutex<Vec<RecordKey>>,
    pub(super) broken: AtomicBool,
    /// One permit lets one commit through.
    pub(super) gate: Semaphore,
}

impl Shelf {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            records: Mutex::default(),
            lost: Mutex::default(),
            broken: AtomicBool::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }

    pub(super) fn keys(&self, kind: RecordKind) -> Vec<RecordKey> {
        self.records.lock().unwrap().keys().filter(|k| k.kind == kind).cloned().collect()
    }

    pub(super) fn spoil(&self, key: &RecordKey) {
        let mut records = self.records.lock().unwrap();
        let sealed = &mut records.get_mut(key).expect("there").sealed;
        *sealed.last_mut().expect("not empty") ^= 1;
    }
}

impl Backend for Shelf {
    fn load(&self) -> BoxFuture<'_, Result<Loaded, BackendError>> {
        Box::pin(async {
            let lost = self.lost.lock().unwrap().clone();
            let mut records: Vec<_> = self.records.lock().unwrap().values().cloned().collect();
            records.retain(|r| !lost.contains(&r.key));
            let damaged = lost.iter().map(|key| format!("{key} is missing or cannot be read")).collect();
            Ok(Loaded { records, damaged, lost, revision: Revision::default() })
        })
    }

    fn commit(&self, ops: Vec<Op>) -> BoxFuture<'_, Result<Revision, BackendError>> {
        Box::pin(async {
            self.gate.acquire().await.expect("never closed").forget();
            if self.broken.load(Ordering::Relaxed) {
                return Err(BackendError::Unavailable { doing: "written", cause: "no space left".to_owned() });
            }
            let mut records = self.records.lock().unwrap();
            let lost = std::mem::take(&mut *self.lost.lock().unwrap());
            let mut next = records.clone();
            next.retain(|key, _| !lost.contains(key));
            for op in ops {
                let (key, expect) = match &op {
                    Op::Put(record, expect) => (record.key.clone(), *expect),
                    Op::Rewrap(record) => (record.key.clone(), Expect::Version(record.version)),
                    Op::Delete(key, expect) => (key.clone(), *expect),
                };
                let found = next.get(&key).map(|r| r.version);
                let holds = match expect {
                    Expect::Absent => found.is_none(),
                    Expect::Version(version) => found == Some(version),
                    Expect::Any => true,
                };
                if !holds {
                    return Err(BackendError::Conflict(key));
                }
                match op {
                    Op::Put(record, _) => {
                        assert_eq!(record.version, found.unwrap_or(0) + 1);
                        next.insert(key, record)
                    }
                    Op::Rewrap(record) => next.insert(key, record),
                    Op::Delete(..) => next.remove(&key),
                };
            }
            *records = next;
            Ok(Revision(1))
        })
    }

    fn watch(&self, _after: Revision) -> Changes {
        Box::pin(futures_util::stream::pending())
    }
}

pub(super) fn settings() -> Settings {
    Settings {
        profile: Profile::Local,
        data_dir: PathBuf::new(),
        workers: 1,
        config_file: Some(PathBuf::from("egret.toml")),
        management: ManagementSettings {
            listen: "127.0.0.1:0".parse().expect("an address"),
            socket_mode: 0o600,
            tls: None,
        },
        health: None,
        degrade_before_expiry: None,
        listeners: Vec::new(),
        projects: vec![ProjectInfo::named("default")],
        certificates: Vec::new(),
        certificate_folders: Vec::new(),
        tokens: Vec::new(),
        egress: EgressSettings::default(),
        store: StoreSettings { backend: StoreBackend::Memory, key_encryption_key: KeySource::Generated },
        dns_hosts: std::collections::HashMap::new(),
        dns_servers: Vec::new(),
        dns_mixed: crate::config::DnsMixed::Drop,
        limits: Limits::default(),
        trust: TrustSettings { anchors: Vec::new(), servers: ServerTrust::SystemAndCa, post_quantum: PostQuantum::Off },
        telemetry: TelemetrySettings { access_log: false, expiry_webhook: None },
    }
}

/// One start of egret over a shelf.
pub(super) struct Egret {
    pub(super) registry: Arc<Registry>,
    pub(super) control: Arc<Control>,
    pub(super) metrics: Arc<Metrics>,
}

impl Egret {
    pub(super) async fn start(shelf: &Arc<Shelf>, settings: &Settings) -> Self {
        Self::with_key(shelf, settings, 1).await.expect("it starts")
    }

    pub(super) async fn with_key(shelf: &Arc<Shelf>, settings: &Settings, key: u8) -> anyhow::Result<Self> {
        let (factory, anchors) = shared();
        let (registry, metrics) = (Arc::new(Registry::default()), Arc::new(Metrics::default()));
        let sealer = Arc::new(Sealer::new(Zeroizing::new([key; 32])));
        let control =
            Control::load(settings, registry.clone(), shelf.clone(), sealer, factory, anchors, metrics.clone()).await?;
        Ok(Self { registry, control: Arc::new(control), metrics })
    }

    pub(super) fn project(&self, name: &str) -> Arc<Project> {
        self.registry.find(name, None, None).expect("the project exists")
    }

    pub(super) async fn upload(&self, pattern: &str, material: &Material) -> Result<Uploaded, ControlError> {
        self.control.upload(&self.project("default"), material.upload(pattern), Drain::Grace).await
    }

    pub(super) fn select(&self, origin: &str) -> Selection {
        select(&self.project("default"), origin)
    }
}

pub(super) fn select(project: &Project, origin: &str) -> Selection {
    project.load().select(&Origin::parse(origin).expect(origin))
}

pub(super) fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).expect(text)
}

/// A client certificate with its issuer.
pub(super) struct Material {
    pub(super) cert: String,
    pub(super) key: String,
    pub(super) ca: String,
}

fn long_ago() -> time::OffsetDateTime {
    time::OffsetDateTime::UNIX_EPOCH + time::Duration::days(3650)
}

impl Material {
    pub(super) fn new(name: &str) -> Self {
        Self::within(name, long_ago(), rcgen::date_time_ymd(4096, 1, 1))
    }

    /// One that ends at this time.
    pub(super) fn until(name: &str, not_after: time::OffsetDateTime) -> Self {
        Self::within(name, long_ago(), not_after)
    }

    /// One whose validity begins then.
    pub(super) fn valid_from(name: &str, from: time::OffsetDateTime) -> Self {
        Self::within(name, from, rcgen::date_time_ymd(4096, 1, 1))
    }

    fn within(name: &str, from: time::OffsetDateTime, not_after: time::OffsetDateTime) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("{name} CA"));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.not_after = not_after;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = from;
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &issuer).expect("a leaf");
        Self { cert: leaf.pem(), key: key.serialize_pem(), ca: issuer.pem() }
    }

    pub(super) fn upload(&self, at: &str) -> Upload {
        Upload {
            cert: Zeroizing::new(self.cert.clone()),
            key: Zeroizing::new(self.key.clone()),
            ca: Zeroizing::new(self.ca.clone()),
            pattern: pattern(at),
            skip_validation: false,
            tls13_only: None,
        }
    }
}

/// A token of this id that may do everything.
pub(super) fn token(id: &str) -> Arc<Token> {
    Arc::new(Token {
        id: id.to_owned(),
        name: id.to_owned(),
        email: None,
        role: Role::Admin,
        scope: TokenScope::All,
        source: TokenSource::Api,
        created_at: None,
        expires_at: None,
    })
}

impl Material {
    /// For one of a zone's lists; `by` the token of this id.
    pub(super) fn held(&self, by: &str, retry: bool) -> HeldUpload {
        HeldUpload {
            cert: Zeroizing::new(self.cert.clone()),
            key: Zeroizing::new(self.key.clone()),
            by: token(by),
            retry,
        }
    }
}

impl Egret {
    pub(super) async fn hold(&self, holder: Holder, material: &Material) -> Result<Arc<Certificate>, ControlError> {
        self.control.hold(&self.project("default"), holder, material.held("t", false)).await
    }

    /// Takes it into this list and gives back its id.
    pub(super) async fn held(&self, holder: Holder, name: &str) -> CertificateId {
        self.hold(holder, &Material::new(name)).await.expect("held").info.id.clone()
    }

    pub(super) async fn release(&self, holder: Holder, id: &CertificateId) -> Result<Released, ControlError> {
        self.control.release(&self.project("default"), holder, id).await
    }

    pub(super) async fn set_zone(&self, enabled: bool) {
        self.control.set_zone(&self.project("default"), enabled).await.expect("switched");
    }

    pub(super) async fn reload(&self, settings: &Settings) -> ReloadReport {
        let reload = self.control.reload(Arc::new(settings.clone()), Vec::new(), Depth::Everything);
        reload.await.expect("nothing stands in its way")
    }

    /// The subject that is presented to an origin; `nothing`, `none`, or `unavailable`.
    pub(super) fn presents(&self, origin: &str) -> String {
        let selection = self.select(origin);
        match (selection.tls.identity(), selection.binding.as_ref().map(|binding| &binding.target)) {
            (Some(identity), Some(Target::Certificate(_))) => {
                identity.info().subject.strip_prefix("CN=").expect("a common name").to_owned()
            }
            (None, Some(Target::Unavailable(_))) => "unavailable".to_owned(),
            (None, _) => selection.rule.as_str().to_owned(),
            (Some(_), other) => panic!("{other:?}"),
        }
    }
}

/// Settings that declare `material` at `at`, its files in `folder`.
pub(super) fn declaring(folder: &Path, at: &str, material: &Material) -> Settings {
    let path = |suffix: &str| folder.join(format!("c.{suffix}"));
    for (suffix, text) in [("crt", &material.cert), ("key", &material.key), ("ca", &material.ca)] {
        std::fs::write(path(suffix), text).expect("written");
    }
    let declared = DeclaredCertificate {
        project: ProjectId::derived("default", None),
        pattern: pattern(at),
        cert: path("crt"),
        key: path("key"),
        ca: path("ca"),
        skip_validation: false,
        lift: true,
        tls13_only: false,
    };
    Settings { certificates: vec![declared], ..settings() }
}
