use std::fs;

use tempfile::TempDir;

use super::*;
use crate::backend::{Expect, Op, RecordKey, RecordKind, SealedRecord};
use crate::config::{Overlay, load_text};
use crate::pki::seal::Place;

/// A data directory with a store of one record of each kind, sealed with the key in it.
struct Home {
    folder: TempDir,
    store: String,
}

const BINDING: &str = r#"{"pattern":"https://a.test","certificate":null,"since":0}"#;

impl Home {
    async fn new() -> Self {
        let home = Self { folder: tempfile::tempdir().unwrap(), store: String::new() };
        let backend = SqliteBackend::open(&home.data_dir()).unwrap();
        let key = kek::random().unwrap();
        kek::write_new(&home.data_dir().join(kek::KEY_FILE), &key).unwrap();
        let sealer = Sealer::new(key);
        let records = [
            (RecordKind::Project, "prj_1", "project".to_owned(), "project"),
            (RecordKind::Certificate, "prj_1", "cert_1".to_owned(), "certificate and key"),
            (RecordKind::Binding, "prj_1", sealer.keyed_name("https://a.test"), BINDING),
            (RecordKind::LocalCa, "", "ca".to_owned(), "the CA"),
            (RecordKind::AccountCertificate, "account/1", "0123".to_owned(), "leaf and key"),
        ];
        let ops = records.map(|(kind, project, id, plain)| {
            let key = RecordKey { kind, project: project.to_owned(), id };
            let sealed = sealer.seal(plain.as_bytes(), place(&key, 3)).unwrap();
            Op::Put(SealedRecord { key, version: 3, sealed }, Expect::Absent)
        });
        backend.commit(ops.to_vec()).await.unwrap();
        home
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.data_dir().join(name)
    }

    fn settings(&self) -> Settings {
        let text = format!("data_dir = {:?}\n{}", self.data_dir(), self.store);
        load_text(&text, &self.folder.path().join("egret.toml"), &Overlay::default(), &|_| None).unwrap().settings
    }

    /// The key that the next start uses, and what it opens.
    async fn start(&self) -> anyhow::Result<(Zeroizing<[u8; 32]>, Vec<String>)> {
        let settings = self.settings();
        let source = &settings.store.key_encryption_key;
        let key = kek::load(source, &settings.data_dir, StoreBackend::Embedded)?;
        let backend = SqliteBackend::open(&settings.data_dir)?;
        let key = settle(source, &settings.data_dir, &backend, key).await?;
        let opened = open_all(&backend, &Sealer::new(key.clone())).await;
        Ok((key, opened))
    }

    /// As `rekey` does it, up to and without its last steps.
    async fn cut_short(&self, committed: bool) {
        let key = kek::load(&KeySource::Generated, &self.data_dir(), StoreBackend::Embedded).unwrap();
        let fresh = kek::random().unwrap();
        let backend = SqliteBackend::open(&self.data_dir()).unwrap();
        let new = Sealer::new(fresh.clone());
        let plan = plan(&backend, &Sealer::new(key), &new, Damaged::Refuse).await.unwrap();
        kek::write_new(&self.file(kek::PENDING_FILE), &fresh).unwrap();
        if committed {
            plan.commit(&backend, &new).await.unwrap();
        }
    }
}

fn place(key: &RecordKey, version: u64) -> Place<'_> {
    Place { kind: key.kind.as_str(), project: &key.project, id: &key.id, version }
}

/// What every record says, sorted by kind; a binding has to have the name that goes with the key.
async fn open_all(backend: &SqliteBackend, sealer: &Sealer) -> Vec<String> {
    let loaded = backend.load().await.unwrap();
    assert_eq!(loaded.damaged, [""; 0], "the ledger agrees");
    let open = |r: &SealedRecord| {
        let plain = sealer.open(&r.sealed, place(&r.key, r.version)).ok()?;
        let named = r.key.kind != RecordKind::Binding || r.key.id == sealer.keyed_name("https://a.test");
        named.then(|| String::from_utf8(plain.to_vec()).unwrap())
    };
    loaded.records.iter().filter_map(open).collect()
}

const ALL: [&str; 5] = ["project", "certificate and key", BINDING, "the CA", "leaf and key"];

#[tokio::test]
async fn after_it_only_the_new_key_opens_the_store() {
    let home = Home::new().await;
    let (old, before) = home.start().await.unwrap();
    assert_eq!(before, ALL);
    let done = change(&home.settings(), &NewKey::Generated, Damaged::Refuse).await.unwrap();
    let counts: Vec<_> = done.counts.into_iter().collect();
    let one_each = ["account-certificate", "binding", "certificate", "local-ca", "project"].map(|kind| (kind, 1));
    assert_eq!(counts, one_each);
    let (new, after) = home.start().await.unwrap();
    assert_ne!(*new, *old);
    assert_eq!(after, ALL);
    let backend = SqliteBackend::open(&home.data_dir()).unwrap();
    assert_eq!(open_all(&backend, &Sealer::new(old)).await, [""; 0]);
    let versions: Vec<u64> = backend.load().await.unwrap().records.iter().map(|r| r.version).collect();
    assert_eq!(versions, [3, 3, 1, 3, 3], "rewrapped, but for the binding, which has another name now");
    assert!(!home.file(kek::PENDING_FILE).exists());
}

#[tokio::test]
async fn a_change_cut_short_before_its_commit_never_was() {
    let home = Home::new().await;
    let (old, _) = home.start().await.unwrap();
    home.cut_short(false).await;
    let (key, opened) = home.start().await.unwrap();
    assert_eq!((*key, opened), (*old, ALL.map(str::to_owned).to_vec()));
    assert!(!home.file(kek::PENDING_FILE).exists());
    change(&home.settings(), &NewKey::Generated, Damaged::Refuse).await.unwrap();
}

#[tokio::test]
async fn a_change_cut_short_after_its_commit_is_finished_by_the_next_start() {
    let home = Home::new().await;
    let (old, _) = home.start().await.unwrap();
    home.cut_short(true).await;
    let (key, opened) = home.start().await.unwrap();
    assert_ne!(*key, *old);
    assert_eq!(opened, ALL);
    assert!(!home.file(kek::PENDING_FILE).exists());
    // Or by the next change.
    home.cut_short(true).await;
    change(&home.settings(), &NewKey::Generated, Damaged::Refuse).await.unwrap();
    assert_eq!(home.start().await.unwrap().1, ALL);
}

#[tokio::test]
async fn writes_a_key_for_the_configuration_and_never_over_a_file() {
    let mut home = Home::new().await;
    let file = home.folder.path().join("kek");
    fs::write(&file, "something else").unwrap();
    let taken = change(&home.settings(), &NewKey::File(file.clone()), Damaged::Refuse).await.unwrap_err();
    assert!(taken.to_string().contains("exists already, and nothing was changed"), "{taken}");
    assert_eq!(fs::read(&file).unwrap(), b"something else");
    fs::remove_file(&file).unwrap();

    change(&home.settings(), &NewKey::File(file.clone()), Damaged::Refuse).await.unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // The configuration still names the old one; that key is left alone, and opens nothing.
    assert_eq!(home.start().await.unwrap().1, [""; 0]);
    let again = change(&home.settings(), &NewKey::File(file.clone()), Damaged::Refuse).await.unwrap_err();
    assert!(again.to_string().contains("sealed with the key in"), "{again}");
    let other = home.folder.path().join("kek-2");
    let wrong = change(&home.settings(), &NewKey::File(other.clone()), Damaged::Refuse).await.unwrap_err();
    assert!(wrong.to_string().contains("opens none of the 5 records") && !other.exists(), "{wrong}");

    home.store = format!("[store]\nkey_encryption_key = {{ file = {file:?} }}\n");
    assert_eq!(home.start().await.unwrap().1, ALL);
    let same = change(&home.settings(), &NewKey::Env("EGRET_NO_SUCH_KEY".to_owned()), Damaged::Refuse).await;
    assert!(same.unwrap_err().to_string().contains("EGRET_NO_SUCH_KEY"));
    assert_eq!(home.start().await.unwrap().1, ALL);
}

#[tokio::test]
async fn damaged_records_stop_it_unless_they_are_left_behind() {
    let home = Home::new().await;
    let (key, _) = home.start().await.unwrap();
    let sealer = Sealer::new(key.clone());
    let backend = SqliteBackend::open(&home.data_dir()).unwrap();
    let name = RecordKey { kind: RecordKind::Certificate, project: "prj_1".into(), id: "cert_2".into() };
    // Sealed for another place: it was moved.
    let sealed = sealer.seal(b"x", Place { id: "cert_9", ..place(&name, 1) }).unwrap();
    backend.commit(vec![Op::Put(SealedRecord { key: name, version: 1, sealed }, Expect::Absent)]).await.unwrap();
    drop(backend);
    let refused = change(&home.settings(), &NewKey::Generated, Damaged::Refuse).await.unwrap_err().to_string();
    assert!(refused.contains("certificate cert_2 of project prj_1") && refused.contains("--skip-damaged"), "{refused}");
    assert_eq!(*home.start().await.unwrap().0, *key, "nothing was changed");
    let done = change(&home.settings(), &NewKey::Generated, Damaged::Keep).await.unwrap();
    assert_eq!(done.damaged.len(), 1);
    let (new, opened) = home.start().await.unwrap();
    assert_eq!(opened, ALL);
    assert_ne!(*new, *key);
}

#[tokio::test]
async fn keeps_away_from_a_store_that_somebody_works_with_and_from_none() {
    let home = Home::new().await;
    let egret = SqliteBackend::open(&home.data_dir()).unwrap();
    let refused = format!("{:#}", change(&home.settings(), &NewKey::Generated, Damaged::Refuse).await.unwrap_err());
    assert!(refused.contains("stop it, rekey, start it again") && refused.contains("another egret"), "{refused}");
    drop(egret);
    fs::remove_file(home.file(kek::STORE_FILE)).unwrap();
    let refused = change(&home.settings(), &NewKey::Generated, Damaged::Refuse).await.unwrap_err();
    assert!(refused.to_string().contains("there is no store"), "{refused}");
    assert!(!home.file(kek::STORE_FILE).exists(), "and none was made");
}
