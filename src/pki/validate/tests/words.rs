//! The same fault in the words of each dialect, and the names of algorithms.

use super::super::describe;
use super::*;
use crate::domain::{CertificateId, Source};

/// Every fault that these tests know how to make, of uploads with and without a CA.
fn faults() -> Vec<Fault> {
    let now = now();
    let root = ca("root", None, now, |_| {});
    let client = leaf("client", Some(&root), now, |_| {});
    let key = client.key_pem();
    let openssl = Openssl::new();
    openssl
        .write("plain.key", &key)
        .write("cert.pem", &client.pem)
        .run("pkcs8 -topk8 -in plain.key -passout pass:x -out encrypted.pem")
        .run("pkcs12 -export -in cert.pem -inkey plain.key -passout pass:x -out client.p12")
        .run("base64 -in client.p12 -out p12.txt")
        .run("pkey -in plain.key -pubout -out public.pem")
        .run("req -new -key plain.key -subj /CN=client -out client.csr")
        .run("crl2pkcs7 -nocrl -certfile cert.pem -out certs.p7b")
        .run("dsaparam -out dsaparam.pem 1024");
    let both = format!("{}{key}", client.pem);
    let texts = [
        String::new(),
        "client.pem".to_owned(),
        key.clone(),
        both,
        client.pem.clone(),
        client.pem[..300].to_owned(),
        client.pem.replace("-----", "--"),
        client.pem.lines().filter(|line| !line.contains("---")).collect(),
        key.lines().filter(|line| !line.contains("---")).collect(),
        openssl.text("encrypted.pem"),
        openssl.text("p12.txt"),
        openssl.text("public.pem"),
        openssl.text("client.csr"),
        openssl.text("certs.p7b"),
        openssl.text("dsaparam.pem"),
        "ssh-ed25519 AAAA me".to_owned(),
        "PuTTY-User-Key-File-3: ssh-rsa".to_owned(),
        "/u3+7QAAAAIAAAABAAAAAQ==".to_owned(),
        "-----BEGIN PGP MESSAGE-----\nMAA=\n-----END PGP MESSAGE-----".to_owned(),
        "-----BEGIN SECRETLABEL-----\nMAA=\n-----END SECRETLABEL-----".to_owned(),
        root.pem.repeat(40),
        client.key_pem().repeat(2),
    ];
    let expired = leaf("client", Some(&root), now, |p| p.not_after = now - Duration::hours(1));
    let next = leaf("client", Some(&root), now, |p| p.not_before = now + Duration::hours(1));
    let mut uploads: Vec<(&str, &str)> = vec![
        (&root.pem, &key),
        (&client.pem, root.key.serialize_pem().leak()),
        (&expired.pem, expired.key_pem().leak()),
        (&next.pem, next.key_pem().leak()),
    ];
    uploads.extend(texts.iter().flat_map(|text| [(text.as_str(), key.as_str()), (client.pem.as_str(), text.as_str())]));
    let mut faults = Vec::new();
    for (cert, key) in uploads {
        let material = Material { cert, key, ca: None, skip_validation: false };
        faults.extend(validate(material, now).err().unwrap_or_default());
        faults.extend(validate_bundle(cert, now).err().unwrap_or_default());
    }
    assert!(faults.len() > 50, "{}", faults.len());
    faults
}

#[test]
fn cloudflares_dialect_is_never_told_of_fields_and_switches_that_it_does_not_have() {
    for fault in faults() {
        for (words, name) in [(FieldWords::ZONE, "certificate"), (FieldWords::ACCOUNT, "certificates")] {
            let told = fault.told(&words);
            let field = if fault.field == Field::Key { "private_key" } else { name };
            assert!(told.starts_with(&format!("{field}: {}; ", fault.what)), "{told}");
            for foreign in ["skipValidation", "skip_validation", "egret certs upload", "as key", "as cert ", "or ca"] {
                assert!(!told.contains(foreign), "{foreign:?} is in {told}");
            }
            assert!(!told.contains("  ") && !told.ends_with("; ") && !told.ends_with(", "), "{told}");
        }
    }
}

#[test]
fn a_remedy_names_the_fields_and_switches_of_whoever_is_asked() {
    let now = now();
    let root = ca("root", None, now, |_| {});
    let expired = leaf("client", Some(&root), now, |p| p.not_after = now - Duration::hours(1));
    let fault = upload(&expired.pem, &expired.key_pem(), &root.pem, false).unwrap_err().remove(0);
    let told = |words: &FieldWords| fault.remedy.told(words);
    let end = " to send an expired certificate all the same";
    assert_eq!(told(&FieldWords::API), format!("send a renewed one, or set skipValidation{end}"));
    assert_eq!(told(&FieldWords::FILES), format!("send a renewed one, or write skip_validation = true{end}"));
    assert_eq!(fault.remedy_in_files(), told(&FieldWords::FILES));
    assert_eq!(told(&FieldWords::ZONE), "send a renewed one");
    assert_eq!(fault.to_string(), fault.told(&FieldWords::API));
}

#[test]
fn a_certificate_and_its_key_in_one_field_are_named_by_block_and_field() {
    let client = leaf("client", None, now(), |_| {});
    let openssl = Openssl::new();
    openssl.run("genrsa -traditional -out rsa.pem 2048");
    let told = |cert: &str, key: &str, words: &FieldWords| {
        let material = Material { cert, key, ca: None, skip_validation: false };
        let faults = validate(material, now()).unwrap_err();
        faults.iter().map(|fault| fault.told(words)).collect::<Vec<_>>()
    };
    let cert = format!("{}{}", client.pem, openssl.text("rsa.pem"));
    assert_eq!(
        told(&cert, &client.key_pem(), &FieldWords::ACCOUNT),
        [
            "certificates: there is a private key among the certificates (the block BEGIN RSA PRIVATE KEY); send the private \
          key as private_key, and certificates alone here: openssl crl2pkcs7 -nocrl -certfile bundle.pem | openssl pkcs7 \
          -print_certs -out cert.pem"
        ]
    );
    let key = format!("{}{}", client.key_pem(), client.pem);
    assert_eq!(
        told(&client.pem, &key, &FieldWords::ZONE),
        [
            "private_key: this is a certificate, not a private key (the block BEGIN CERTIFICATE); send the private key alone \
          here, and certificates as certificate: openssl pkey -in bundle.pem -out key.pem"
        ]
    );
    // A label that nobody knows is the caller's text.
    let strange = "-----BEGIN SECRETLABEL-----\nMAA=\n-----END SECRETLABEL-----";
    assert!(!told(strange, &client.key_pem(), &FieldWords::ZONE)[0].contains("SECRETLABEL"));
}

#[test]
fn signatures_are_named_as_cfssl_names_them() {
    let pss = "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:-1";
    for (new_ca, options, name) in [
        ("rsa:2048", "-sha1".to_owned(), "SHA1WithRSA"),
        ("rsa:2048", "-md5".to_owned(), "MD5WithRSA"),
        ("rsa:2048", "-sha256".to_owned(), "SHA256WithRSA"),
        ("rsa:2048", "-sha384".to_owned(), "SHA384WithRSA"),
        ("rsa:2048", "-sha512".to_owned(), "SHA512WithRSA"),
        ("rsa:2048", format!("-sha256 {pss}"), "SHA256WithRSAPSS"),
        ("rsa:2048", format!("-sha512 {pss}"), "SHA512WithRSAPSS"),
        ("rsa:2048", "-sha3-256".to_owned(), "Unknown"),
        ("ec -pkeyopt ec_paramgen_curve:P-256", "-sha1".to_owned(), "ECDSAWithSHA1"),
        ("ec -pkeyopt ec_paramgen_curve:P-256", "-sha256".to_owned(), "ECDSAWithSHA256"),
        ("ec -pkeyopt ec_paramgen_curve:P-384", "-sha384".to_owned(), "ECDSAWithSHA384"),
        ("ec -pkeyopt ec_paramgen_curve:P-521", "-sha512".to_owned(), "ECDSAWithSHA512"),
        ("ed25519", String::new(), "Ed25519"),
    ] {
        let openssl = Openssl::new();
        openssl
            .run(&format!("req -x509 -newkey {new_ca} -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=ca"))
            .run("ecparam -name prime256v1 -genkey -noout -out key.pem")
            .run("req -new -key key.pem -subj /CN=client -out client.csr")
            .run(&format!(
                "x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 90 {options} -out cert.pem"
            ));
        let cert = openssl.text("cert.pem");
        let valid = upload(&cert, &openssl.text("key.pem"), &openssl.text("ca.pem"), true).unwrap();
        assert_eq!(valid.signature, name, "{new_ca} {options}");
        let id = CertificateId::bare([1; 16]);
        assert_eq!(describe(&cert, id, false, Source::Api, now()).unwrap().signature, name);
    }
}
