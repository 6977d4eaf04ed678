use std::path::PathBuf;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};

use super::super::testing::{Minted, Openssl, ca, leaf};
use super::*;
use crate::domain::time::now;

struct Files {
    folder: tempfile::TempDir,
    settings: ServerTlsSettings,
}

impl Files {
    fn new(cert: &str, key: &str, client_ca: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let settings = ServerTlsSettings {
            key_path: "listeners[0].tls".to_owned(),
            line: Some(7),
            cert: file("cert.pem", cert),
            key: file("key.pem", key),
            client_ca: client_ca.map(|text| file("clients.pem", text)),
            client_required: false,
        };
        Self { folder, settings }
    }

    fn load(&self) -> Result<(ServerTls, Vec<Complaint>), Vec<Complaint>> {
        ServerTls::load(&self.settings, Some(Path::new("/etc/egret.toml")), &[b"h2", b"http/1.1"], now())
    }

    /// `key: what` of every complaint.
    fn refused(&self) -> Vec<String> {
        let complaints = self.load().expect_err("this should be refused");
        assert!(complaints.iter().all(|c| c.line == Some(7) && c.file == Some(PathBuf::from("/etc/egret.toml"))));
        complaints.iter().map(|c| format!("{}: {}", c.key, c.what)).collect()
    }
}

fn server(issuer: Option<&Minted>, change: impl FnOnce(&mut CertificateParams)) -> Minted {
    leaf("proxy", issuer, now(), |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = vec![SanType::DnsName("proxy.corp.test".try_into().unwrap())];
        change(params);
    })
}

#[test]
fn a_chain_a_key_and_the_ca_of_clients_are_enough() {
    let root = ca("root", None, now(), |_| {});
    let own = server(Some(&root), |_| {});
    let files = Files::new(&format!("{}{}", own.pem, root.pem), &own.key_pem(), Some(&root.pem));
    let (tls, warnings) = files.load().unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(tls.config().alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert!(tls.is_for("proxy.corp.test") && !tls.is_for("other.corp.test") && !tls.is_for("127.0.0.1"));
    assert_eq!(format!("{tls:?}"), "ServerTls", "nothing of the key");
}

#[test]
fn the_leaf_is_found_wherever_it_stands() {
    let root = ca("root", None, now(), |_| {});
    let own = server(Some(&root), |_| {});
    let files = Files::new(&format!("{}{}", root.pem, own.pem), &own.key_pem(), None);
    assert!(files.load().unwrap().0.is_for("proxy.corp.test"));
}

#[test]
fn every_fault_names_its_key_and_none_echoes_the_input() {
    let own = server(None, |_| {});
    let other = KeyPair::generate().unwrap().serialize_pem();
    let refused = Files::new(&own.pem, &other, None).refused();
    assert_eq!(refused, ["listeners[0].tls.key: this private key does not belong to the certificate"]);

    let refused = Files::new(&other, &own.pem, Some("s3cret")).refused();
    assert_eq!(refused.len(), 3, "{refused:?}");
    for (said, key) in refused.iter().zip(["cert", "key", "client_ca"]) {
        assert!(said.starts_with(&format!("listeners[0].tls.{key}: ")), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
    }

    let expired = server(None, |params| params.not_after = now() - time::Duration::hours(1));
    let refused = Files::new(&expired.pem, &expired.key_pem(), None).refused();
    assert!(refused[0].starts_with("listeners[0].tls.cert: the certificate expired at "), "{refused:?}");
    let early = server(None, |params| params.not_before = now() + time::Duration::hours(1));
    let refused = Files::new(&early.pem, &early.key_pem(), None).refused();
    assert!(refused[0].starts_with("listeners[0].tls.cert: the certificate is not valid before "), "{refused:?}");

    let files = Files::new(&own.pem, &own.key_pem(), None);
    std::fs::write(&files.settings.key, [0x30, 0x80, 0xff]).unwrap();
    assert!(files.refused()[0].contains("is not text"), "{:?}", files.folder);
    std::fs::remove_file(&files.settings.cert).unwrap();
    assert!(files.refused()[0].starts_with("listeners[0].tls.cert: "));
}

#[test]
fn an_encrypted_key_is_told_with_the_command_that_decrypts_it() {
    let openssl = Openssl::new();
    openssl.run("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -passout pass:x -keyout key.pem -out cert.pem -days 2 -subj /CN=proxy");
    let files = Files::new(&openssl.text("cert.pem"), &openssl.text("key.pem"), None);
    let complaints = files.load().unwrap_err();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(complaints[0].what.contains("encrypted private key") && complaints[0].remedy.contains("openssl pkey"));
}

#[test]
fn what_clients_may_not_like_is_a_warning() {
    let words = |own: &Minted, client_ca: Option<&str>| {
        let (_, warnings) = Files::new(&own.pem, &own.key_pem(), client_ca).load().unwrap();
        warnings.iter().map(|w| format!("{}: {}", w.key, w.what)).collect::<Vec<_>>().join("\n")
    };
    let client = server(None, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    assert!(words(&client, None).contains("not for servers"));
    let nameless = server(None, |params| params.subject_alt_names = Vec::new());
    assert!(words(&nameless, None).contains("names no host"));
    let soon = server(None, |params| params.not_after = now() + time::Duration::days(3));
    assert!(words(&soon, None).contains("expires at"));
    let old = ca("old", None, now(), |params| params.not_after = now() - time::Duration::hours(1));
    let own = server(None, |_| {});
    assert!(words(&own, Some(&old.pem)).starts_with("listeners[0].tls.client_ca: "));
}
