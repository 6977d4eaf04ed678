mod bundles;
mod keys;
mod leafs;
mod words;

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use time::Duration;

use super::super::testing::{Minted, Openssl, assert_no_echo, ca, leaf, sign};
use super::*;
use crate::domain::time::now;

#[track_caller]
fn upload(cert: &str, key: &str, ca: &str, skip_validation: bool) -> Result<ValidCertificate, Vec<Fault>> {
    let result = validate(Material { cert, key, ca: Some(ca), skip_validation }, now());
    let texts: Vec<String> = match &result {
        Ok(valid) => valid.warnings.clone(),
        Err(faults) => faults.iter().map(Fault::to_string).collect(),
    };
    for text in texts {
        assert_no_echo(&text, &[cert, key, ca]);
    }
    result
}

#[track_caller]
fn accepted(cert: &str, key: &str, ca: &str) -> ValidCertificate {
    upload(cert, key, ca, false).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

/// Refused with exactly one fault; with `skip_validation` a warning of the same words.
#[track_caller]
fn soft(cert: &str, key: &str, ca: &str, field: Field, what: &str) -> ValidCertificate {
    let faults = upload(cert, key, ca, false).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert_eq!(faults[0].field, field, "{faults:#?}");
    assert!(faults[0].what.contains(what), "{what:?} is not in {faults:#?}");
    let valid = upload(cert, key, ca, true).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert!(valid.warnings.iter().any(|w| w.contains(what)), "{what:?} is not in {:#?}", valid.warnings);
    valid
}

/// Refused with these faults, whether or not validation is skipped.
#[track_caller]
fn hard(cert: &str, key: &str, ca: &str, expected: &[(Field, &str)]) {
    for skip in [false, true] {
        let faults = upload(cert, key, ca, skip).unwrap_err();
        assert_eq!(faults.len(), expected.len(), "{faults:#?}");
        for (fault, (field, what)) in faults.iter().zip(expected) {
            assert_eq!(fault.field, *field, "{faults:#?}");
            assert!(fault.what.contains(what), "{what:?} is not in {faults:#?}");
            assert!(!fault.remedy.to_string().is_empty());
        }
    }
}

fn length(valid: &ValidCertificate) -> usize {
    valid.certified.cert.len()
}

struct Family {
    root: Minted,
    intermediate: Minted,
    issuing: Minted,
    client: Minted,
}

fn family() -> Family {
    let now = now();
    let root = ca("root", None, now, |_| {});
    let intermediate = ca("intermediate", Some(&root), now, |_| {});
    let issuing = ca("issuing", Some(&intermediate), now, |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let client = leaf("client", Some(&issuing), now, |_| {});
    Family { root, intermediate, issuing, client }
}

#[test]
fn names_are_printed_as_rfc_4514_says() {
    let client = leaf("x", None, now(), |p| {
        p.distinguished_name = rcgen::DistinguishedName::new();
        p.distinguished_name.push(rcgen::DnType::OrganizationName, "Acme, Inc. + Söhne");
        p.distinguished_name.push(rcgen::DnType::CommonName, "a=b \"quoted\"");
    });
    let valid = accepted(&client.pem, &client.key_pem(), &client.pem);
    assert_eq!(valid.subject, "CN=a=b \\\"quoted\\\",O=Acme\\, Inc. \\+ Söhne");
}

#[test]
fn the_chain_leads_to_ca_and_is_completed_from_it() {
    let f = family();
    let key = f.client.key_pem();
    let (leaf, issuing, middle, root) = (&f.client.pem, &f.issuing.pem, &f.intermediate.pem, &f.root.pem);
    // (cert, ca, certificates sent, warnings)
    let cases: &[(String, String, usize, &[&str])] = &[
        (format!("{leaf}{issuing}{middle}"), root.clone(), 3, &[]),
        (format!("{leaf}{issuing}"), format!("{middle}{root}"), 3, &["1 intermediate from ca"]),
        (leaf.clone(), format!("{root}{middle}{issuing}"), 3, &["2 intermediates from ca"]),
        // A partner's issuing CA alone is an anchor, too.
        (leaf.clone(), issuing.clone(), 2, &["1 intermediate from ca"]),
        (format!("{leaf}{issuing}"), middle.clone(), 3, &["1 intermediate from ca"]),
        (format!("{leaf}{issuing}"), issuing.clone(), 2, &[]),
        (format!("{leaf}{issuing}{middle}{root}"), root.clone(), 3, &["self-signed root in the chain is not sent"]),
        (format!("{issuing}{leaf}{middle}"), root.clone(), 3, &["not in order"]),
        (format!("{root}{middle}{issuing}{leaf}"), root.clone(), 3, &["self-signed root", "not in order"]),
        (format!("{leaf}{middle}{issuing}"), root.clone(), 3, &["not in order"]),
        (format!("{leaf}{leaf}{issuing}{middle}"), format!("{root}{root}"), 3, &[]),
    ];
    let expected: Vec<_> = [leaf, issuing, middle].map(|p| pem::certificates(p).unwrap().remove(0)).into();
    for (cert, ca, count, warnings) in cases {
        let valid = accepted(cert, &key, ca);
        assert_eq!(valid.certified.cert, expected[..*count], "{warnings:?}");
        assert_eq!(valid.warnings.len(), warnings.len(), "{:?}", valid.warnings);
        for (warning, part) in valid.warnings.iter().zip(*warnings) {
            assert!(warning.contains(part), "{part} is not in {warning}");
        }
        assert_eq!(valid.issuer_names.len(), *count);
        // A restart sends the same.
        let again = restore(cert, &valid.key_der, Some(ca), now()).unwrap();
        assert_eq!(again.certified.cert, valid.certified.cert);
    }
}

#[test]
fn certificates_that_belong_to_nothing_are_not_sent() {
    let f = family();
    let stranger = ca("stranger", Some(&ca("other", None, now(), |_| {})), now(), |_| {});
    let cert = format!("{}{}{}{}", f.client.pem, stranger.pem, f.issuing.pem, f.intermediate.pem);
    let valid = accepted(&cert, &f.client.key_pem(), &f.root.pem);
    assert_eq!(length(&valid), 3);
    assert_eq!(valid.warnings, ["1 certificate beside the chain did not issue anything in it and is not sent"]);
}

#[test]
fn a_chain_that_leads_nowhere_is_a_fault() {
    let f = family();
    let key = f.client.key_pem();
    let other = ca("other", None, now(), |_| {});
    let same_name = ca("issuing", None, now(), |_| {});
    let valid = soft(&f.client.pem, &key, &other.pem, Field::Ca, "nothing here issued the client certificate");
    assert_eq!(length(&valid), 1);
    soft(&f.client.pem, &key, &f.root.pem, Field::Ca, "nothing here issued the client certificate");
    soft(&f.client.pem, &key, &same_name.pem, Field::Ca, "did not sign the chain");
    soft(&f.client.pem, &key, &f.client.pem, Field::Ca, "the client certificate again");
    let whole = format!("{}{}{}{}", f.client.pem, f.issuing.pem, f.intermediate.pem, f.root.pem);
    soft(&whole, &key, &other.pem, Field::Ca, "ends at a root that is not here");
    let alone = leaf("alone", None, now(), |_| {});
    soft(&alone.pem, &alone.key_pem(), &other.pem, Field::Ca, "self-signed and is not here");
    // With a gap, what was uploaded is sent as it is.
    let gap = format!("{}{}", f.client.pem, f.intermediate.pem);
    let faults = upload(&gap, &key, &other.pem, false).unwrap_err();
    assert_eq!(faults.iter().map(|f| f.field).collect::<Vec<_>>(), [Field::Cert, Field::Ca], "{faults:#?}");
    assert_eq!(length(&upload(&gap, &key, &other.pem, true).unwrap()), 2);
}

#[test]
fn a_self_signed_client_certificate_vouches_for_itself() {
    let client = leaf("client", None, now(), |_| {});
    let valid = accepted(&client.pem, &client.key_pem(), &client.pem);
    assert_eq!((length(&valid), valid.warnings.len()), (1, 0));
    let openssl = Openssl::new();
    openssl.run("req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 90 -subj /CN=client");
    accepted(&openssl.text("cert.pem"), &openssl.text("key.pem"), &openssl.text("cert.pem"));
}

#[test]
fn an_issuer_must_be_a_ca() {
    let now = now();
    let root = ca("root", None, now, |_| {});
    let impostor = leaf("impostor", Some(&root), now, |p| p.key_usages.clear());
    let client = leaf("client", Some(&impostor), now, |_| {});
    let cert = format!("{}{}", client.pem, impostor.pem);
    soft(&cert, &client.key_pem(), &root.pem, Field::Cert, "certificate 2 of 2 issued another one, but is no CA");
    let mute = ca("mute", Some(&root), now, |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    let client = leaf("client", Some(&mute), now, |_| {});
    soft(&client.pem, &client.key_pem(), &format!("{}{}", mute.pem, root.pem), Field::Ca, "lacks keyCertSign");
    let short = ca("short", Some(&root), now, |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let below = ca("below", Some(&short), now, |_| {});
    let client = leaf("client", Some(&below), now, |_| {});
    let cert = format!("{}{}{}", client.pem, below.pem, short.pem);
    soft(&cert, &client.key_pem(), &root.pem, Field::Cert, "certificate 3 of 3 allows fewer intermediates");
}

#[test]
fn dates_are_judged_with_five_minutes_of_skew() {
    let now = now();
    let root = ca("root", None, now, |_| {});
    let with = |from: Duration, until: Duration| {
        leaf("client", Some(&root), now, |p| {
            p.not_before = now + from;
            p.not_after = now + until;
        })
    };
    let year = Duration::days(365);
    for (from, until, fault) in [
        (-year, -Duration::minutes(6), Some("expired at ")),
        (-year, -Duration::minutes(4), None),
        (Duration::minutes(4), year, None),
        (Duration::minutes(6), year, Some("not valid before ")),
    ] {
        let client = with(from, until);
        match fault {
            None => drop(accepted(&client.pem, &client.key_pem(), &root.pem)),
            Some(what) => {
                let valid = soft(&client.pem, &client.key_pem(), &root.pem, Field::Cert, what);
                let date = rfc3339_of(if from > Duration::ZERO { valid.not_before } else { valid.not_after });
                assert!(valid.warnings.iter().any(|w| w.contains(&date)), "{date} {:?}", valid.warnings);
                restore(&client.pem, &valid.key_der, Some(&root.pem), now).unwrap();
            }
        }
    }
    for (days, left) in [(29, Some("29 days left")), (1, Some("1 day left")), (31, None)] {
        let client = with(-year, Duration::days(days) + Duration::hours(1));
        let valid = accepted(&client.pem, &client.key_pem(), &root.pem);
        assert_eq!(valid.warnings.len(), usize::from(left.is_some()), "{:?}", valid.warnings);
        assert!(left.is_none_or(|left| valid.warnings[0].ends_with(left)), "{:?}", valid.warnings);
    }
    let backwards = with(year, year - Duration::days(1));
    soft(&backwards.pem, &backwards.key_pem(), &root.pem, Field::Cert, "before it begins");
}

fn rfc3339_of(at: OffsetDateTime) -> String {
    crate::domain::time::rfc3339(at)
}

#[test]
fn an_expired_intermediate_is_a_fault_and_an_expired_root_a_warning() {
    let now = now();
    let past = |p: &mut rcgen::CertificateParams| {
        p.not_before = now - Duration::days(20);
        p.not_after = now - Duration::days(10);
    };
    let root = ca("root", None, now, past);
    let middle = ca("middle", Some(&root), now, |_| {});
    let client = leaf("client", Some(&middle), now, |_| {});
    let cert = format!("{}{}", client.pem, middle.pem);
    let valid = accepted(&cert, &client.key_pem(), &root.pem);
    assert!(valid.warnings.iter().any(|w| w.contains("outside its validity")), "{:?}", valid.warnings);
    let good = ca("root", None, now, |_| {});
    let middle = ca("middle", Some(&good), now, past);
    let client = leaf("client", Some(&middle), now, |_| {});
    let cert = format!("{}{}", client.pem, middle.pem);
    soft(&cert, &client.key_pem(), &good.pem, Field::Cert, "certificate 2 of 2 expired at ");
}

#[test]
fn a_renewed_intermediate_is_preferred_to_the_expired_one() {
    let now = now();
    let root = ca("root", None, now, |_| {});
    let old = ca("middle", Some(&root), now, |p| {
        p.not_before = now - Duration::days(20);
        p.not_after = now - Duration::days(10);
    });
    let key = KeyPair::from_pem(&old.key_pem()).unwrap();
    let mut params = old.params.clone();
    params.not_after = now + Duration::days(100);
    let renewed = sign(params, Some(&root), key);
    let client = leaf("client", Some(&renewed), now, |_| {});
    let valid = accepted(&client.pem, &client.key_pem(), &format!("{}{}{}", old.pem, renewed.pem, root.pem));
    assert_eq!(valid.certified.cert[1..], pem::certificates(&renewed.pem).unwrap());
}

#[test]
fn extended_key_usage_must_allow_clients() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, ServerAuth};
    let now = now();
    let root = ca("root", None, now, |_| {});
    for (usages, fault) in [
        (vec![], None),
        (vec![ClientAuth], None),
        (vec![ServerAuth, ClientAuth], None),
        (vec![ServerAuth, Any], None),
        (vec![ServerAuth], Some("public CAs stopped issuing clientAuth in 2026")),
        (vec![CodeSigning], Some("may not authenticate a TLS client")),
    ] {
        let client = leaf("client", Some(&root), now, |p| p.extended_key_usages = usages.clone());
        match fault {
            None => assert!(accepted(&client.pem, &client.key_pem(), &root.pem).warnings.is_empty()),
            Some(what) => drop(soft(&client.pem, &client.key_pem(), &root.pem, Field::Cert, what)),
        }
    }
    let server_only = ca("middle", Some(&root), now, |p| p.extended_key_usages = vec![ServerAuth]);
    let client = leaf("client", Some(&server_only), now, |_| {});
    let cert = format!("{}{}", client.pem, server_only.pem);
    soft(&cert, &client.key_pem(), &root.pem, Field::Cert, "certificate 2 of 2 is for servers only");
}

#[test]
fn every_fault_is_collected_in_field_order() {
    let now = now();
    let root = ca("root", None, now, |_| {});
    let client = leaf("client", Some(&root), now, |p| {
        p.not_after = now - Duration::hours(1);
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let other = ca("other", None, now, |_| {});
    let faults = upload(&client.pem, &other.key_pem(), &other.pem, false).unwrap_err();
    let fields: Vec<Field> = faults.iter().map(|f| f.field).collect();
    assert_eq!(fields, [Field::Cert, Field::Cert, Field::Key, Field::Ca], "{faults:#?}");
    let faults = upload("", "", "", true).unwrap_err();
    assert_eq!(faults.iter().map(|f| f.field).collect::<Vec<_>>(), [Field::Cert, Field::Key, Field::Ca]);
    // A key that cannot be read hides nothing of the rest.
    let faults = upload(&client.pem, "", &root.pem, false).unwrap_err();
    assert_eq!(faults.len(), 3, "{faults:#?}");
    assert!(faults[0].to_string().starts_with("cert: the client certificate expired at "), "{}", faults[0]);
}

#[test]
fn malformed_certificates_are_refused() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let client = leaf("client", None, now(), |_| {});
    let der = pem::certificates(&client.pem).unwrap().remove(0).to_vec();
    let armoured =
        |der: &[u8]| format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der));
    assert_eq!(armoured(&der).replace('\n', ""), client.pem.replace('\n', ""));
    // Every byte changed once: never a panic, and never accepted as it was.
    let valid = accepted(&client.pem, &client.key_pem(), &client.pem);
    for at in 0..der.len() {
        let mut broken = der.clone();
        broken[at] ^= 0x15;
        if let Ok(other) = upload(&armoured(&broken), &client.key_pem(), &client.pem, true) {
            assert_ne!(other.fingerprint, valid.fingerprint);
            assert!(!other.warnings.is_empty(), "byte {at} changed nothing: {der:02x?}");
        }
        assert!(upload(&armoured(&broken), &client.key_pem(), &client.pem, false).is_err(), "byte {at}");
    }
}

#[test]
fn equal_material_has_an_equal_digest() {
    let f = family();
    let key = f.client.key_pem();
    let cert = format!("{}{}{}", f.client.pem, f.issuing.pem, f.intermediate.pem);
    let digest = |cert: &str, ca: &str| accepted(cert, &key, ca).digest;
    let first = digest(&cert, &f.root.pem);
    assert_eq!(first, digest(&cert.replace('\n', "\r\n"), &format!("text\n{}", f.root.pem)));
    assert_ne!(first, digest(&cert, &format!("{}{}", f.root.pem, f.issuing.pem)));
    // The same certificates, but one moved from `cert` to `ca`.
    let moved = digest(&format!("{}{}", f.client.pem, f.issuing.pem), &format!("{}{}", f.intermediate.pem, f.root.pem));
    assert_ne!(first, moved);
}

#[test]
fn a_bundle_in_which_all_issued_all_takes_no_time() {
    // The path blow-up: one name, one key, so that every certificate is signed by every other.
    let now = now();
    let first = ca("twin", None, now, |_| {});
    let mut twins = String::new();
    for _ in 0..60 {
        let mut params = first.params.clone();
        params.serial_number = None;
        let key = KeyPair::from_pem(&first.key_pem()).unwrap();
        twins.push_str(&sign(params, Some(&ca("twin", None, now, |_| {})), key).pem);
        let key = KeyPair::from_pem(&first.key_pem()).unwrap();
        let mut params = first.params.clone();
        params.not_after -= Duration::hours(i64::try_from(twins.len()).unwrap() % 97);
        twins.push_str(&sign(params, Some(&first), key).pem);
    }
    let client = leaf("client", Some(&first), now, |_| {});
    let begun = std::time::Instant::now();
    let _ = upload(&client.pem, &client.key_pem(), &twins, false);
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn nothing_of_the_key_is_shown() {
    let client = leaf("client", None, now(), |_| {});
    let valid = accepted(&client.pem, &client.key_pem(), &client.pem);
    assert_eq!(format!("{valid:?}"), format!("ValidCertificate({})", valid.fingerprint));
}
