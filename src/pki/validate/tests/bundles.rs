//! CA bundles, which are to vouch for servers.

use rustls::RootCertStore;

use super::*;

#[track_caller]
fn taken(pem: &str) -> ValidBundle {
    validate_bundle(pem, now()).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

/// Refused with exactly this fault.
#[track_caller]
fn refused(pem: &str, kind: FaultKind, what: &str) -> Fault {
    let mut faults = validate_bundle(pem, now()).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert_eq!((faults[0].field, faults[0].kind), (Field::Ca, kind), "{faults:#?}");
    assert!(faults[0].what.contains(what), "{what:?} is not in {faults:#?}");
    assert_no_echo(&faults[0].told(&FieldWords::ACCOUNT), &[pem]);
    faults.remove(0)
}

#[test]
fn a_bundle_of_ca_certificates_is_taken_in_its_order() {
    let f = family();
    let pem = format!("{}{}", f.root.pem, f.intermediate.pem);
    let bundle = taken(&pem);
    assert_eq!(bundle.certificates, pem::certificates(&pem).unwrap());
    assert_eq!((bundle.subject.as_str(), bundle.issuer.as_str()), ("CN=root", "CN=root"));
    assert_eq!((bundle.signature, bundle.warnings.len()), ("ECDSAWithSHA256", 0));
    assert_eq!(bundle.fingerprint, Fingerprint(sha256(&bundle.certificates[0])));
    assert_eq!(bundle.not_after, f.root.params.not_after.replace_nanosecond(0).unwrap());
    // Every one of them can be an anchor.
    let mut roots = RootCertStore::empty();
    assert_eq!(roots.add_parsable_certificates(bundle.certificates.clone()), (2, 0));
    let other = taken(&format!("{}{}", f.intermediate.pem, f.root.pem));
    assert_eq!(other.subject, "CN=intermediate");
    assert_ne!(other.digest, bundle.digest);
    assert_eq!(taken(&pem.replace('\n', "\r\n")).digest, bundle.digest);
    assert_ne!(taken(&f.root.pem).digest, bundle.digest);
}

#[test]
fn a_version_one_root_is_a_ca() {
    let openssl = Openssl::new();
    openssl
        .run("genrsa -out key.pem 2048")
        .run("req -new -key key.pem -subj /CN=old -out old.csr")
        .run("x509 -req -in old.csr -signkey key.pem -days 90 -out old.pem");
    let bundle = taken(&openssl.text("old.pem"));
    assert_eq!((bundle.subject.as_str(), bundle.signature), ("CN=old", "SHA256WithRSA"));
}

#[test]
fn a_leaf_in_a_bundle_is_refused_by_its_place() {
    let f = family();
    let alone = leaf("alone", None, now(), |_| {});
    let fault = refused(&f.client.pem, FaultKind::CaWanted, "the certificate is no CA certificate");
    assert!(fault.remedy.to_string().contains("-noout -issuer"), "{fault}");
    let pem = format!("{}{}{}", f.root.pem, f.client.pem, f.intermediate.pem);
    refused(&pem, FaultKind::CaWanted, "certificate 2 of 3 is no CA certificate");
    let pem = format!("{}{}{}", f.root.pem, f.client.pem, alone.pem);
    refused(&pem, FaultKind::CaWanted, "certificate 2 of 3 (and 1 more) is no CA certificate");
}

#[test]
fn an_expired_ca_is_refused_and_one_of_tomorrow_is_taken() {
    let now = now();
    let until = |name, span: Duration| ca(name, None, now, |p| p.not_after = now + span);
    let (good, old) = (until("good", Duration::days(60)), until("old", -Duration::minutes(6)));
    let date = crate::domain::time::rfc3339(old.params.not_after.replace_nanosecond(0).unwrap());
    refused(&old.pem, FaultKind::Expired, &format!("the certificate expired at {date}"));
    let pem = format!("{}{}{}", good.pem, old.pem, old.pem);
    refused(&pem, FaultKind::Expired, &format!("certificate 2 of 3 (and 1 more) expired at {date}"));
    // Five minutes of skew.
    assert!(taken(&until("skew", -Duration::minutes(4)).pem).warnings[0].contains("the certificate expires at "));
    let soon = until("soon", Duration::days(29));
    assert!(taken(&format!("{}{}", good.pem, soon.pem)).warnings[0].starts_with("certificate 2 of 2 expires at "));
    let next = ca("next", None, now, |p| p.not_before = now + Duration::days(1));
    assert!(taken(&next.pem).warnings[0].contains("is not valid before "));
    let mute = ca("mute", None, now, |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    assert!(taken(&mute.pem).warnings[0].contains("lacks keyCertSign"));
}

#[test]
fn a_ca_by_which_no_server_can_be_verified_is_refused() {
    for (command, why) in [
        (
            "req -x509 -newkey rsa:1024 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=ca",
            "RSA key with 1024 bits",
        ),
        (
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:secp256k1 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=ca",
            "secp256k1",
        ),
    ] {
        let openssl = Openssl::new();
        let good = ca("good", None, now(), |_| {});
        let pem = format!("{}{}", good.pem, openssl.run(command).text("ca.pem"));
        refused(&pem, FaultKind::Unusable, "certificate 2 of 2 cannot be a trust anchor: egret checks no signature of");
        let fault = refused(&pem, FaultKind::Unusable, why);
        assert!(fault.remedy.to_string().contains("leave it out"), "{fault}");
    }
}

#[test]
fn what_is_no_certificate_is_named_in_a_bundle_too() {
    let root = ca("root", None, now(), |_| {});
    let pem = format!("{}{}", root.pem, root.key_pem());
    let fault =
        refused(&pem, FaultKind::Unparsable, "a private key among the certificates (the block BEGIN PRIVATE KEY)");
    let told = fault.told(&FieldWords::ACCOUNT);
    assert!(told.starts_with("certificates: ") && told.contains("as private_key"), "{told}");
    refused("", FaultKind::Unparsable, "nothing is here");
    refused(&root.pem.repeat(129), FaultKind::Chain, "more than 128 certificates");
    taken(&root.pem.repeat(128));
}
