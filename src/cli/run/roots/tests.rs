use p12_keystore::Pkcs12ImportPolicy;

use super::*;
use crate::pki::issuer;

fn a_ca() -> String {
    let stored = issuer::generate().unwrap();
    issuer::LeafIssuer::load(&stored, 1, || {}).unwrap().ca_pem().to_owned()
}

fn der(pem_text: &str) -> CertificateDer<'static> {
    pem::certificates(pem_text).unwrap().swap_remove(0)
}

fn read(path: &Path) -> Vec<CertificateDer<'static>> {
    pem::certificates(&std::fs::read_to_string(path).unwrap()).unwrap()
}

struct Case {
    folder: tempfile::TempDir,
    ca: String,
    /// A root of the user's own, in a file.
    own: String,
    file: PathBuf,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (own, file) = (a_ca(), folder.path().join("own.crt"));
        std::fs::write(&file, &own).unwrap();
        Self { folder, ca: a_ca(), own, file }
    }

    fn with<T>(&self, set: &[(&str, &Path)], check: impl FnOnce(&mut Roots<'_>) -> T) -> T {
        let environment =
            |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_os_str().to_owned());
        check(&mut Roots::new(self.folder.path(), &self.ca, &environment).unwrap())
    }
}

#[test]
fn what_adds_holds_the_ca_and_what_replaces_holds_the_systems_roots_too() {
    let case = Case::new();
    case.with(&[], |roots| {
        let added = roots.adding("NODE_EXTRA_CA_CERTS").unwrap();
        assert_eq!((added.as_path(), read(&added)), (roots.ca(), vec![der(&case.ca)]));
        let system = roots.system.clone();
        let bundle = roots.replacing(&["SSL_CERT_FILE"]).unwrap();
        let found = read(&bundle);
        assert_eq!((found.len(), found.last()), (system.len() + 1, Some(&der(&case.ca))));
        assert_eq!(roots.replacing(&["GIT_SSL_CAINFO"]).unwrap(), bundle, "written once");
    });
}

#[test]
fn what_the_user_trusted_stays_trusted_and_nothing_more() {
    let case = Case::new();
    let both = [der(&case.own), der(&case.ca)];
    let set = [("REQUESTS_CA_BUNDLE", case.file.as_path()), ("NODE_EXTRA_CA_CERTS", case.file.as_path())];
    case.with(&set, |roots| {
        assert_eq!(read(&roots.replacing(&["REQUESTS_CA_BUNDLE"]).unwrap()), both);
        assert_eq!(
            read(&roots.replacing(&["PIP_CERT", "REQUESTS_CA_BUNDLE"]).unwrap()),
            both,
            "what pip looks at next"
        );
        assert_eq!(read(&roots.adding("NODE_EXTRA_CA_CERTS").unwrap()), both);
        assert_eq!(read(&roots.replacing(&["AWS_CA_BUNDLE"]).unwrap()).len(), roots.system.len() + 1);
    });
    // A folder of files, as requests takes it.
    let folder = case.folder.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(&case.file, folder.join("a.pem")).unwrap();
    let read = case.with(&[("REQUESTS_CA_BUNDLE", folder.as_path())], |roots| {
        read(&roots.replacing(&["REQUESTS_CA_BUNDLE"]).unwrap())
    });
    assert_eq!(read, both);
}

#[test]
fn a_variable_that_names_nothing_is_said_once() {
    let case = Case::new();
    case.with(&[("PIP_CERT", Path::new("/nowhere.pem"))], |roots| {
        for _ in 0..2 {
            assert_eq!(read(&roots.replacing(&["PIP_CERT"]).unwrap()).len(), roots.system.len() + 1);
        }
        let told = roots.warnings.iter().filter(|w| w.starts_with("PIP_CERT ")).count();
        assert_eq!(told, 1, "{:?}", roots.warnings);
    });
}

#[test]
fn wget_keeps_the_users_settings() {
    let case = Case::new();
    let wgetrc = case.folder.path().join(".wgetrc");
    let text = format!("tries = 7\nCA-Certificate = {}\nuser_agent = x", case.file.display());
    std::fs::write(&wgetrc, text).unwrap();
    case.with(&[("HOME", case.folder.path())], |roots| {
        let written = std::fs::read_to_string(roots.wgetrc().unwrap()).unwrap();
        let lines: Vec<_> = written.lines().collect();
        assert_eq!((lines[0], lines[2]), ("tries = 7", "user_agent = x"));
        let bundle = lines[3].strip_prefix("ca_certificate = ").unwrap();
        assert_eq!(read(Path::new(bundle)), [der(&case.own), der(&case.ca)]);
    });
    // WGETRC stands in for the file in the home folder.
    case.with(&[("HOME", case.folder.path()), ("WGETRC", Path::new("/dev/null"))], |roots| {
        assert!(!std::fs::read_to_string(roots.wgetrc().unwrap()).unwrap().contains("tries"));
    });
}

#[test]
fn javas_trust_store_holds_every_root() {
    let case = Case::new();
    case.with(&[], |roots| {
        let bytes = std::fs::read(roots.trust_store().unwrap()).unwrap();
        // The policy that takes only what is marked as trusted, as Java does.
        let store = KeyStore::from_pkcs12(&bytes, TRUST_STORE_PASSWORD, Pkcs12ImportPolicy::Strict).unwrap();
        assert_eq!(store.entries_len(), roots.system.len() + 1);
        let ours = store
            .entries()
            .any(|(_, entry)| matches!(entry, KeyStoreEntry::Certificate(c) if c.as_der() == der(&case.ca).as_ref()));
        assert!(ours);
    });
}

#[test]
fn what_one_shell_trusts_is_not_what_another_one_does() {
    let case = Case::new();
    let set = [("CURL_CA_BUNDLE", case.file.as_path())];
    let first = case.with(&set, |roots| roots.replacing(&["CURL_CA_BUNDLE"]).unwrap());
    let both = [der(&case.own), der(&case.ca)];
    // Another shell of this user, with another root of its own, and one with another egret's CA.
    let other = Case::new();
    let theirs = [("CURL_CA_BUNDLE", other.file.as_path())];
    let second = case.with(&theirs, |roots| roots.replacing(&["CURL_CA_BUNDLE"]).unwrap());
    let environment = |_: &str| None;
    let foreign = Roots::new(case.folder.path(), &other.ca, &environment).unwrap().ca().to_owned();
    let ours = case.with(&[], |roots| roots.ca().to_owned());
    assert_ne!(ours, foreign);
    assert_eq!(read(&first), both);
    assert_eq!(read(&second), [der(&other.own), der(&case.ca)]);
    assert_eq!(read(&ours), [der(&case.ca)]);

    // In a shell that has the variables already nothing changes, however often.
    let files = || std::fs::read_dir(case.folder.path()).unwrap().count();
    let mut wgetrc = case.with(&[], |roots| roots.wgetrc().unwrap());
    let before = files();
    for _ in 0..2 {
        let set = [("CURL_CA_BUNDLE", first.as_path()), ("WGETRC", wgetrc.as_path())];
        let again = case.with(&set, |roots| (roots.replacing(&["CURL_CA_BUNDLE"]).unwrap(), roots.wgetrc().unwrap()));
        assert_eq!(again.0, first);
        wgetrc = again.1;
    }
    assert_eq!(files(), before);
}
