use std::io::{Read, Write};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};

use super::*;

fn issuer_with(max_leafs: usize) -> (LeafIssuer, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let serialised = generate().unwrap();
    let issuer = LeafIssuer::load(&serialised, max_leafs, move || {
        counter.fetch_add(1, Ordering::Relaxed);
    })
    .unwrap();
    (issuer, count)
}

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

/// A handshake over memory; the client's error if it refuses.
fn handshake(
    ca_pem: &str,
    name: &str,
    sni: bool,
    versions: &[&'static rustls::SupportedProtocolVersion],
    server: Arc<ServerConfig>,
) -> Result<ClientConnection, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in pem::certificates(ca_pem).unwrap() {
        roots.add(certificate).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.enable_sni = sni;
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        wire.clear();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    server.writer().write_all(b"hello").unwrap();
    wire.clear();
    server.write_tls(&mut wire).unwrap();
    client.read_tls(&mut wire.as_slice()).unwrap();
    client.process_new_packets()?;
    let mut got = [0; 5];
    client.reader().read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    Ok(client)
}

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

#[test]
fn a_client_that_trusts_the_ca_accepts_names_and_addresses() {
    let (issuer, _) = issuer_with(16);
    for (canonical, name) in [
        ("api.example.com", "api.example.com"),
        ("a_b.example.com", "a_b.example.com"),
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[2001:db8::17]", "2001:db8::17"),
    ] {
        let config = issuer.server_config("prj_1", &host(canonical)).unwrap();
        for versions in [BOTH, &[&version::TLS12]] {
            let client = handshake(issuer.ca_pem(), name, true, versions, config.clone()).unwrap();
            assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]), "{name}");
            // The leaf alone.
            assert_eq!(client.peer_certificates().unwrap().len(), 1);
        }
    }
}

#[test]
fn a_leaf_is_presented_whatever_the_sni_and_is_good_for_its_name_alone() {
    let (issuer, _) = issuer_with(16);
    let config = issuer.server_config("prj_1", &host("api.example.com")).unwrap();
    // No SNI at all.
    handshake(issuer.ca_pem(), "api.example.com", false, BOTH, config.clone()).unwrap();
    // Another SNI: the same leaf, which the client refuses for its name.
    let refused = handshake(issuer.ca_pem(), "other.example.com", true, BOTH, config).unwrap_err();
    assert!(
        matches!(&refused, rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForNameContext { .. })),
        "{refused:?}"
    );
}

#[test]
fn another_ca_does_not_vouch() {
    let (issuer, _) = issuer_with(16);
    let (other, _) = issuer_with(16);
    assert_ne!(issuer.ca_pem(), other.ca_pem());
    let config = issuer.server_config("prj_1", &host("api.example.com")).unwrap();
    handshake(other.ca_pem(), "api.example.com", true, BOTH, config).unwrap_err();
}

#[test]
fn a_leaf_has_one_name_short_life_and_the_right_extensions() {
    let (issuer, _) = issuer_with(16);
    let long = format!("{0}.{0}.example.com", "a".repeat(60));
    for name in ["api.example.com", "192.0.2.7", long.as_str()] {
        let config = issuer.server_config("prj_1", &host(name)).unwrap();
        let trusted = name.trim_matches(['[', ']']);
        let client = handshake(issuer.ca_pem(), trusted, true, BOTH, config).unwrap();
        let der = client.peer_certificates().unwrap()[0].clone();
        let (_, leaf) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert_eq!(leaf.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
        assert!(!leaf.is_ca());
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth && !usage.any);
        let usage = leaf.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_cert_sign());
        let validity = leaf.validity();
        let (from, until) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
        assert!(until - from <= time::Duration::hours(24));
        assert!(from <= now() - time::Duration::minutes(59) && until > now() + time::Duration::hours(13));
        assert!(leaf.raw_serial().len() == 16 && leaf.raw_serial()[0] & 0x80 == 0);
        let (_, ca) = x509_parser::pem::parse_x509_pem(issuer.ca_pem().as_bytes()).unwrap();
        let ca = ca.parse_x509().unwrap();
        let find = |c: &x509_parser::certificate::X509Certificate<'_>, oid: &str| {
            c.extensions().iter().find(|e| e.oid.to_id_string() == oid).map(|e| e.value.to_vec())
        };
        let (aki, ski) = (find(&leaf, "2.5.29.35").unwrap(), find(&ca, "2.5.29.14").unwrap());
        // AKI is SEQUENCE { [0] id }, SKI is OCTET STRING id.
        assert_eq!(aki[4..], ski[2..]);
    }
}

#[test]
fn the_ca_is_one_that_openssl_takes() {
    let serialised = generate().unwrap();
    let issuer = LeafIssuer::load(&serialised, 4, || {}).unwrap();
    assert!(!issuer.ca_pem().contains("PRIVATE"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, issuer.ca_pem()).unwrap();
    let out = Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(&path).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success());
    for part in ["CN = egret local CA ", "CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "Subject Key Identifier"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let verified =
        Command::new("openssl").args(["verify", "-x509_strict", "-CAfile"]).arg(&path).arg(&path).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    assert!(issuer.ca_not_after() > now() + time::Duration::days(3640));
}

#[test]
fn a_leaf_passes_the_strict_rules_of_openssl() {
    // Python 3.13 verifies with X509_STRICT.
    let (issuer, _) = issuer_with(4);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("ca.pem"), issuer.ca_pem()).unwrap();
    for (name, option) in [("api.example.com", "-verify_hostname"), ("127.0.0.1", "-verify_ip"), ("::1", "-verify_ip")]
    {
        let canonical = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
        let config = issuer.server_config("prj_1", &host(&canonical)).unwrap();
        let client = handshake(issuer.ca_pem(), name, true, BOTH, config).unwrap();
        let mut leaf = Zeroizing::default();
        armour(&mut leaf, "CERTIFICATE", &client.peer_certificates().unwrap()[0]);
        std::fs::write(path("leaf.pem"), &*leaf).unwrap();
        let out = Command::new("openssl")
            .args(["verify", "-x509_strict", "-purpose", "sslserver", option, name, "-CAfile", "ca.pem", "leaf.pem"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn leafs_are_cached_per_project_and_host() {
    let (issuer, minted) = issuer_with(64);
    let first = issuer.server_config("prj_1", &host("api.example.com")).unwrap();
    let again = issuer.server_config("prj_1", &host("api.example.com")).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(minted.load(Ordering::Relaxed), 1);
    let other = issuer.server_config("prj_2", &host("api.example.com")).unwrap();
    assert!(!Arc::ptr_eq(&first, &other));
    issuer.server_config("prj_1", &host("127.0.0.1")).unwrap();
    assert_eq!(minted.load(Ordering::Relaxed), 3);
}

#[test]
fn many_at_once_mint_one() {
    let (issuer, minted) = issuer_with(64);
    let barrier = std::sync::Barrier::new(16);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                barrier.wait();
                issuer.server_config("prj_1", &host("api.example.com")).unwrap();
            });
        }
    });
    assert_eq!(minted.load(Ordering::Relaxed), 1);
}

#[test]
fn the_cache_is_bounded() {
    let (issuer, _) = issuer_with(8);
    for n in 0..100 {
        issuer.server_config("prj_1", &host(&format!("h{n}.example.com"))).unwrap();
    }
    issuer.cache.run_pending_tasks();
    assert!(issuer.cache.entry_count() <= 8);
}

#[test]
fn a_leaf_near_its_end_is_minted_anew() {
    let (issuer, minted) = issuer_with(8);
    let name = host("api.example.com");
    // As after a night with the lid closed: the cache's clock stood still, the leaf has ended.
    let old = issuer.mint(&name, now() - time::Duration::hours(23)).unwrap();
    assert!(!old.is_fresh(now()));
    issuer.cache.insert((Box::from("prj_1"), name.clone()), Arc::new(old));
    let config = issuer.server_config("prj_1", &name).unwrap();
    assert_eq!(minted.load(Ordering::Relaxed), 2);
    handshake(issuer.ca_pem(), "api.example.com", true, BOTH, config).unwrap();
}

#[test]
fn a_leaf_never_outlives_the_ca() {
    let (mut issuer, _) = issuer_with(8);
    issuer.ca_not_after = whole_second(now()) + time::Duration::minutes(10);
    let leaf = issuer.mint(&host("api.example.com"), now()).unwrap();
    assert!(leaf.is_fresh(now()) && leaf.fresh_until < issuer.ca_not_after);
    issuer.ca_not_after = now() - time::Duration::seconds(1);
    let error = issuer.server_config("prj_1", &host("api.example.com")).unwrap_err();
    assert!(matches!(error, IssuerError::Expired(_)), "{error:?}");
}

#[test]
fn a_damaged_ca_is_an_error() {
    let one = generate().unwrap();
    let two = generate().unwrap();
    let load = |bytes: &[u8]| LeafIssuer::load(bytes, 4, || {}).map(|_| ()).unwrap_err();
    assert_eq!(load(b""), IssuerError::Damaged);
    assert_eq!(load(&[0xff; 64]), IssuerError::Damaged);
    assert_eq!(load(&one[..one.len() - 60]), IssuerError::Damaged);
    // The certificate of one, the key of the other.
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (one, two) = (text(&one), text(&two));
    let key = two.find("-----BEGIN PRIVATE KEY").unwrap();
    let certificate = one.find("-----BEGIN PRIVATE KEY").unwrap();
    assert_eq!(load(format!("{}{}", &one[..certificate], &two[key..]).as_bytes()), IssuerError::Damaged);
}

#[test]
fn nothing_of_the_key_is_shown() {
    let (issuer, _) = issuer_with(8);
    let shown = format!("{issuer:?}");
    assert!(shown.starts_with("LeafIssuer") && !shown.contains("key"), "{shown}");
}
