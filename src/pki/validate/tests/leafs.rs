//! Uploads that have no place for a CA, as Cloudflare's dialect makes them.

use super::*;

#[track_caller]
fn without_ca(cert: &str, key: &str) -> Result<ValidCertificate, Vec<Fault>> {
    let result = validate(Material { cert, key, ca: None, skip_validation: false }, now());
    if let Err(faults) = &result {
        for fault in faults {
            for words in [FieldWords::ZONE, FieldWords::ACCOUNT] {
                assert_no_echo(&fault.told(&words), &[cert, key]);
            }
        }
    }
    result
}

#[track_caller]
fn taken(cert: &str, key: &str) -> ValidCertificate {
    without_ca(cert, key).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

/// Refused with exactly this fault.
#[track_caller]
fn refused(cert: &str, key: &str, field: Field, kind: FaultKind, what: &str) -> Fault {
    let mut faults = without_ca(cert, key).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert_eq!((faults[0].field, faults[0].kind), (field, kind), "{faults:#?}");
    assert!(faults[0].what.contains(what), "{what:?} is not in {faults:#?}");
    faults.remove(0)
}

#[test]
fn a_chain_needs_no_ca_where_an_upload_has_no_place_for_one() {
    let f = family();
    let key = f.client.key_pem();
    let (leaf, issuing, middle, root) = (&f.client.pem, &f.issuing.pem, &f.intermediate.pem, &f.root.pem);
    let expected: Vec<_> = [leaf, issuing, middle].map(|p| pem::certificates(p).unwrap().remove(0)).into();
    let cases: &[(String, usize, &[&str])] = &[
        (leaf.clone(), 1, &[]),
        (format!("{leaf}{issuing}"), 2, &[]),
        (format!("{leaf}{issuing}{middle}"), 3, &[]),
        (format!("{leaf}{issuing}{middle}{root}"), 3, &["the self-signed root in the chain is not sent"]),
        (format!("{middle}{leaf}{issuing}"), 3, &["the certificates were not in order and are sent in order"]),
        (format!("{root}{leaf}"), 1, &["the self-signed root in the chain is not sent"]),
    ];
    for (cert, count, warnings) in cases {
        let valid = taken(cert, &key);
        assert_eq!(valid.certified.cert, expected[..*count], "{warnings:?}");
        assert_eq!(valid.warnings, *warnings);
        assert_eq!((valid.ca.len(), valid.issuer_names.len()), (0, *count));
        let again = restore(cert, &valid.key_der, None, now()).unwrap();
        assert_eq!((again.certified.cert.clone(), again.digest), (valid.certified.cert.clone(), valid.digest));
    }
    // The same certificate with a CA beside it is other material.
    assert_ne!(taken(leaf, &key).digest, accepted(leaf, &key, issuing).digest);
}

#[test]
fn a_chain_with_a_gap_is_refused_since_nothing_vouches_for_it() {
    let f = family();
    let gap = format!("{}{}", f.client.pem, f.intermediate.pem);
    refused(&gap, &f.client.key_pem(), Field::Cert, FaultKind::Chain, "do not form a chain");
}

#[test]
fn everything_else_is_checked_as_ever() {
    use ExtendedKeyUsagePurpose::ServerAuth;
    let now = now();
    let root = ca("root", None, now, |_| {});
    let one = |change: &dyn Fn(&mut rcgen::CertificateParams)| leaf("client", Some(&root), now, |p| change(p));
    let day = Duration::days(1);
    for (change, kind, what) in [
        (
            &(|p: &mut rcgen::CertificateParams| p.not_after = now - Duration::hours(1))
                as &dyn Fn(&mut rcgen::CertificateParams),
            FaultKind::Expired,
            "expired at ",
        ),
        (&|p| p.not_before = now + day, FaultKind::NotYetValid, "not valid before "),
        (&|p| p.extended_key_usages = vec![ServerAuth], FaultKind::Unusable, "for servers only"),
    ] {
        let client = one(change);
        let fault = refused(&client.pem, &client.key_pem(), Field::Cert, kind, what);
        assert!(!fault.told(&FieldWords::ZONE).contains("skip"), "{fault}");
    }
    let (client, other) = (one(&|_| {}), one(&|_| {}));
    refused(&client.pem, &other.key_pem(), Field::Key, FaultKind::KeyMismatch, "does not belong to the certificate");
    // The issuer is in the chain, so its key is known for what it is not.
    let chain = format!("{}{}", client.pem, ca("stranger", None, now, |_| {}).pem);
    refused(&chain, &other.key_pem(), Field::Key, FaultKind::KeyMismatch, "does not belong to the certificate");
    let faults = without_ca("", "").unwrap_err();
    let sorts: Vec<_> = faults.iter().map(|f| (f.field, f.kind)).collect();
    assert_eq!(sorts, [(Field::Cert, FaultKind::Unparsable), (Field::Key, FaultKind::KeyInvalid)]);
}

#[test]
fn weak_signatures_and_keys_are_refused_without_a_ca_too() {
    let openssl = Openssl::new();
    openssl.run("genrsa -out key.pem 2048").issue("-sha1", "extendedKeyUsage=clientAuth\n");
    let (cert, key) = (openssl.text("cert.pem"), openssl.text("key.pem"));
    refused(&cert, &key, Field::Cert, FaultKind::Unusable, "signed with SHA-1");
    let openssl = Openssl::new();
    openssl.run("genrsa -out key.pem 1024").issue("-sha256", "extendedKeyUsage=clientAuth\n");
    let faults = without_ca(&openssl.text("cert.pem"), &openssl.text("key.pem")).unwrap_err();
    let sorts: Vec<_> = faults.iter().map(|f| (f.field, f.kind)).collect();
    assert_eq!(sorts, [(Field::Cert, FaultKind::Unusable), (Field::Key, FaultKind::KeyInvalid)], "{faults:#?}");
}

#[test]
fn a_ca_certificate_is_no_leaf() {
    let f = family();
    let stranger = leaf("stranger", None, now(), |_| {});
    let (root, middle) = (&f.root.pem, &f.intermediate.pem);
    let wanted = "this is a CA certificate, and a client (leaf) certificate is wanted";
    let fault = refused(root, &f.root.key_pem(), Field::Cert, FaultKind::NoLeaf, wanted);
    for words in ["CA:FALSE", "with ca set to true"] {
        assert!(fault.remedy.to_string().contains(words), "{fault}");
    }
    // Its own key, with a leaf beside it: still the key is not the leaf's.
    let both = format!("{}{root}", f.client.pem);
    let its_own = "certificate 2 of 2 is a CA certificate, and the private key is its own";
    refused(&both, &f.root.key_pem(), Field::Cert, FaultKind::NoLeaf, its_own);
    // The leaf is missing, so that the key fits nothing is no fault of the key.
    for key in [f.client.key_pem(), stranger.key_pem()] {
        refused(root, &key, Field::Cert, FaultKind::NoLeaf, "there is no leaf in it: this is a CA certificate");
        let many = format!("{middle}{root}");
        refused(&many, &key, Field::Cert, FaultKind::NoLeaf, "there is no leaf in it: all 2 are CA certificates");
    }
    let sorts: Vec<_> = without_ca(root, "").unwrap_err().iter().map(|f| f.kind).collect();
    assert_eq!(sorts, [FaultKind::NoLeaf, FaultKind::KeyInvalid]);
    // Nothing is said of a CA certificate's dates as if it were a client's.
    let old = ca("old", None, now(), |p| p.not_after = now() - Duration::hours(1));
    refused(&old.pem, &old.key_pem(), Field::Cert, FaultKind::NoLeaf, wanted);
    // Where an upload has a place for the CA, nothing has changed.
    accepted(root, &f.root.key_pem(), root);
    // Nor is a certificate that is stored judged again.
    restore(root, &f.root.key.serialize_der(), None, now()).unwrap();
}

#[test]
fn a_self_signed_leaf_is_a_client_certificate() {
    let alone = leaf("alone", None, now(), |_| {});
    let valid = taken(&alone.pem, &alone.key_pem());
    assert_eq!((length(&valid), valid.warnings.len()), (1, 0));
    // What openssl makes of itself is a CA certificate; the remedy is its own.
    let openssl = Openssl::new();
    openssl.run("req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 90 -subj /CN=client");
    let (cert, key) = (openssl.text("cert.pem"), openssl.text("key.pem"));
    let fault = refused(&cert, &key, Field::Cert, FaultKind::NoLeaf, "this is a CA certificate");
    let option = "-addext basicConstraints=critical,CA:FALSE";
    assert!(fault.remedy.to_string().contains(option), "{fault}");
    openssl.run(&format!(
        "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 90 -subj /CN=client {option}"
    ));
    taken(&openssl.text("cert.pem"), &openssl.text("key.pem"));
    // Version 1 does not say what it is.
    openssl
        .run("req -new -key key.pem -subj /CN=client -out client.csr")
        .run("x509 -req -in client.csr -signkey key.pem -days 90 -out v1.pem");
    taken(&openssl.text("v1.pem"), &openssl.text("key.pem"));
}
