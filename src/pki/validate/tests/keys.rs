//! Keys and signatures, as the real openssl makes them.

use rustls::pki_types::PrivateKeyDer;

use super::super::super::testing::{Openssl, leaf};
use super::*;

#[test]
fn takes_every_kind_of_key_that_rustls_signs_with() {
    let kinds = [
        ("genrsa -out key.pem 2048", KeyKind::Rsa(2048)),
        ("genrsa -out key.pem 3072", KeyKind::Rsa(3072)),
        ("genrsa -traditional -out key.pem 2048", KeyKind::Rsa(2048)),
        ("ecparam -name prime256v1 -genkey -out key.pem", KeyKind::P256),
        ("ecparam -name secp384r1 -genkey -noout -out key.pem", KeyKind::P384),
        ("ecparam -name secp521r1 -genkey -out key.pem", KeyKind::P521),
        ("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out key.pem", KeyKind::P521),
        ("genpkey -algorithm ED25519 -out key.pem", KeyKind::Ed25519),
    ];
    for (command, kind) in kinds {
        let openssl = Openssl::new();
        openssl.run(command).issue("-sha256", "extendedKeyUsage=clientAuth\n");
        let valid = accepted(&openssl.text("cert.pem"), &openssl.text("key.pem"), &openssl.text("ca.pem"));
        assert_eq!(valid.key, kind, "{command}");
        assert_eq!(valid.warnings, Vec::<String>::new(), "{command}");
        assert_eq!(length(&valid), 1);
        assert_eq!(valid.subject, "CN=client");
        assert_eq!(valid.issuer, "CN=ca");
        assert_eq!(valid.serial_number, "0A1B");
        assert!(valid.certified.keys_match().is_ok());
        // What a restart makes of it.
        let again = restore(&openssl.text("cert.pem"), &valid.key_der, Some(&openssl.text("ca.pem")), now()).unwrap();
        assert_eq!((again.digest, again.key), (valid.digest, valid.key));
        assert_eq!(again.certified.cert, valid.certified.cert);
        assert!(PrivateKeyDer::try_from(valid.key_der.as_slice()).is_ok());
    }
}

#[test]
fn weak_and_unsupported_keys_are_refused_whatever_the_caller_says() {
    let weak = [(Field::Cert, "RSA key is too weak: 1024 bits"), (Field::Key, "RSA key is too weak: 1024 bits")];
    let kind = "of a kind that egret cannot sign with (";
    let of_kind = "sign with a key of this kind (";
    let cases = [
        ("genrsa -out key.pem 1024", weak),
        ("genrsa -traditional -out key.pem 1024", weak),
        ("ecparam -name secp256k1 -genkey -out key.pem", [(Field::Cert, "secp256k1"), (Field::Key, "secp256k1")]),
        (
            "ecparam -name brainpoolP256r1 -genkey -noout -out key.pem",
            [(Field::Cert, "Brainpool"), (Field::Key, "Brainpool")],
        ),
        (
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp224r1 -out key.pem",
            [(Field::Cert, "P-224"), (Field::Key, "P-224")],
        ),
        ("genpkey -algorithm ED448 -out key.pem", [(Field::Cert, "Ed448"), (Field::Key, "Ed448")]),
        (
            "genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048 -out key.pem",
            [(Field::Cert, kind), (Field::Key, of_kind)],
        ),
        (
            "ecparam -name secp256k1 -param_enc explicit -genkey -out key.pem",
            [(Field::Cert, "explicit"), (Field::Key, "explicit")],
        ),
    ];
    for (command, expected) in cases {
        let openssl = Openssl::new();
        openssl.run(command).issue("-sha256", "extendedKeyUsage=clientAuth\n");
        hard(&openssl.text("cert.pem"), &openssl.text("key.pem"), &openssl.text("ca.pem"), &expected);
    }
    // aws-lc knows P-256 when it is spelled out; peers need not, so the certificate is refused and not the key.
    let openssl = Openssl::new();
    openssl
        .run("ecparam -name prime256v1 -param_enc explicit -genkey -out key.pem")
        .issue("-sha256", "basicConstraints=CA:FALSE\n");
    let (cert, key, ca) = (openssl.text("cert.pem"), openssl.text("key.pem"), openssl.text("ca.pem"));
    hard(&cert, &key, &ca, &[(Field::Cert, "explicit")]);
}

#[test]
fn weak_signatures_are_refused_and_warned_of() {
    for (digest, name) in [("-sha1", "SHA-1"), ("-md5", "MD5")] {
        for key in ["genrsa -out key.pem 2048", "ecparam -name prime256v1 -genkey -out key.pem"] {
            let openssl = Openssl::new();
            // The CA signs, so its key decides; MD5 exists for RSA alone.
            openssl
                .run("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=ca")
                .run(key)
                .run("req -new -key key.pem -subj /CN=client -out client.csr")
                .run(&format!(
                    "x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 90 {digest} -out cert.pem"
                ));
            let (cert, ca) = (openssl.text("cert.pem"), openssl.text("ca.pem"));
            soft(
                &cert,
                &openssl.text("key.pem"),
                &ca,
                Field::Cert,
                &format!("the client certificate is signed with {name}"),
            );
        }
    }
}

#[test]
fn checks_signatures_of_every_algorithm_in_use() {
    for (new_ca, options) in [
        ("rsa:2048", "-sha256"),
        ("rsa:2048", "-sha384"),
        ("rsa:2048", "-sha512"),
        ("rsa:2048", "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:-1"),
        ("rsa:4096", "-sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:-1"),
        ("ec -pkeyopt ec_paramgen_curve:P-256", "-sha384"),
        ("ec -pkeyopt ec_paramgen_curve:P-384", "-sha256"),
        ("ec -pkeyopt ec_paramgen_curve:P-521", "-sha512"),
        ("ed25519", ""),
    ] {
        let openssl = Openssl::new();
        openssl
            .run(&format!("req -x509 -newkey {new_ca} -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=ca"))
            .run("ecparam -name prime256v1 -genkey -out key.pem")
            .run("req -new -key key.pem -subj /CN=client -out client.csr")
            .run(&format!(
                "x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 90 {options} -out cert.pem"
            ))
            .run(&format!("req -x509 -newkey {new_ca} -nodes -keyout ca2.key -out ca2.pem -days 30 -subj /CN=ca"));
        let (cert, key) = (openssl.text("cert.pem"), openssl.text("key.pem"));
        accepted(&cert, &key, &openssl.text("ca.pem"));
        soft(&cert, &key, &openssl.text("ca2.pem"), Field::Ca, "has the name of the issuer, but did not sign");
    }
}

#[test]
fn a_version_one_certificate_and_a_huge_serial_are_taken() {
    let openssl = Openssl::new();
    // Without extensions openssl 3.0 makes version 1, the usual thing in a tutorial.
    openssl
        .run("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=ca")
        .run("genrsa -out key.pem 2048")
        .run("req -new -key key.pem -subj /CN=client -out client.csr")
        .run("x509 -req -in client.csr -CA ca.pem -CAkey ca.key -set_serial 0x00F123456789ABCDEF0123456789ABCDEF0123456789ABCDEF01 -days 90 -out cert.pem");
    let valid = accepted(&openssl.text("cert.pem"), &openssl.text("key.pem"), &openssl.text("ca.pem"));
    assert_eq!(valid.serial_number, "F123456789ABCDEF0123456789ABCDEF0123456789ABCDEF01");
    let printed = openssl.run("x509 -in cert.pem -noout -serial -out serial.txt").text("serial.txt");
    assert_eq!(printed.trim(), format!("serial={}", valid.serial_number));
}

#[test]
fn a_weak_issuer_is_a_fault() {
    let openssl = Openssl::new();
    openssl
        .run("req -x509 -newkey rsa:1024 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=ca")
        .run("genrsa -out key.pem 2048")
        .run("req -new -key key.pem -subj /CN=client -out client.csr")
        .run("x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 90 -out cert.pem");
    soft(
        &openssl.text("cert.pem"),
        &openssl.text("key.pem"),
        &openssl.text("ca.pem"),
        Field::Ca,
        "weak RSA key: 1024 bits",
    );
}

#[test]
fn a_key_that_is_not_the_leafs_is_refused() {
    let f = family();
    let stranger = leaf("stranger", None, now(), |_| {});
    let cert = format!("{}{}{}", f.client.pem, f.issuing.pem, f.intermediate.pem);
    hard(&cert, &stranger.key_pem(), &f.root.pem, &[(Field::Key, "does not belong to the certificate")]);
    hard(&cert, &f.root.key_pem(), &f.root.pem, &[(Field::Key, "key of a CA certificate")]);
    let error = restore(&cert, &stranger.key.serialize_der(), Some(&f.root.pem), now()).unwrap_err();
    assert_eq!(error[0].field, Field::Key);
    assert!(restore(&cert, b"\x30\x00", Some(&f.root.pem), now()).is_err());
}
