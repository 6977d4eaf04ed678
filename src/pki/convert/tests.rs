use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::super::testing::Openssl;
use super::super::validate::{Material, validate};
use super::*;

const EXTENSIONS: &str = "extendedKeyUsage=clientAuth";

/// A root, an intermediate below it, and a client certificate `cert.pem` with `key.pem` below that.
fn issued(key: &str) -> Openssl {
    let openssl = Openssl::new();
    openssl
        .write("inter.ext", "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n")
        .write("leaf.ext", EXTENSIONS)
        .run("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout root.key -out root.pem -days 30 -subj /CN=root")
        .run("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout inter.key -out inter.csr -subj /CN=inter")
        .run("x509 -req -in inter.csr -CA root.pem -CAkey root.key -CAcreateserial -days 30 -extfile inter.ext -out inter.pem")
        .run(&format!("genpkey {key} -out key.pem"))
        .run("req -new -key key.pem -subj /O=Acme/CN=client -out client.csr")
        .run("x509 -req -in client.csr -CA inter.pem -CAkey inter.key -CAcreateserial -days 30 -extfile leaf.ext -out cert.pem");
    let chain = openssl.text("inter.pem") + &openssl.text("root.pem");
    openssl.write("cas.pem", chain);
    openssl
}

const EC: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
const RSA: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";

/// What was taken out is what the API takes, for the certificate that was put in.
#[track_caller]
fn accepted(opened: &Pkcs12) {
    let ca = opened.ca.as_deref().unwrap();
    let material = Material { cert: &opened.cert, key: &opened.key, ca: Some(ca), skip_validation: false };
    let valid = validate(material, OffsetDateTime::now_utc()).unwrap_or_else(|faults| panic!("{faults:?}"));
    assert_eq!(valid.subject, opened.subject);
}

#[track_caller]
fn refused<T>(result: Result<T, ConvertError>) -> String {
    match result {
        Err(error @ ConvertError::Refused { .. }) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was taken"),
    }
}

fn kind<T>(result: Result<T, ConvertError>) -> Option<ConvertError> {
    result.err()
}

#[test]
fn opens_pkcs12_of_openssl_modern_and_legacy() {
    for key in [EC, RSA] {
        let openssl = issued(key);
        for options in [
            "",
            "-legacy",
            "-keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1",
            "-keypbe AES-128-CBC -certpbe AES-128-CBC -macalg sha512 -iter 5000",
            "-nomac",
        ] {
            openssl.run(&format!(
                "pkcs12 -export {options} -in cert.pem -inkey key.pem -certfile cas.pem -name mine -out c.p12 -passout pass:geheim"
            ));
            let opened = pkcs12(&openssl.bytes("c.p12"), "geheim", None).unwrap_or_else(|e| panic!("{options}: {e}"));
            assert_eq!(opened.subject, "CN=client,O=Acme");
            assert_eq!(opened.cert.matches("BEGIN CERT").count(), 2, "leaf and intermediate");
            assert_eq!(opened.ca_subjects.len(), 2, "{:?}", opened.ca_subjects);
            accepted(&opened);
            let wrong = kind(pkcs12(&openssl.bytes("c.p12"), "falsch", None));
            assert_eq!(wrong, Some(ConvertError::WrongPassphrase), "{options}");
            let none = kind(pkcs12(&openssl.bytes("c.p12"), "", None));
            assert_eq!(none, Some(ConvertError::WrongPassphrase), "{options}");
        }
    }
}

#[test]
fn what_it_cannot_decrypt_is_written_anew_by_the_command_it_names() {
    let openssl = issued(EC);
    openssl.run(
        "pkcs12 -export -legacy -certpbe PBE-SHA1-RC2-128 -in cert.pem -inkey key.pem -certfile cas.pem -out old.p12 \
         -passout pass:x",
    );
    let text = refused(pkcs12(&openssl.bytes("old.p12"), "x", None));
    assert!(text.contains("openssl pkcs12 -in old.p12 -legacy -nodes | openssl pkcs12 -export -out new.p12"), "{text}");
    openssl
        .run("pkcs12 -in old.p12 -legacy -nodes -passin pass:x -out between")
        .run("pkcs12 -export -in between -out new.p12 -passout pass:x");
    accepted(&pkcs12(&openssl.bytes("new.p12"), "x", None).unwrap());
    assert_eq!(kind(pkcs12(&openssl.bytes("old.p12"), "falsch", None)), Some(ConvertError::WrongPassphrase));
}

#[test]
fn opens_pkcs12_without_a_passphrase_and_with_odd_ones() {
    let openssl = issued(EC);
    let export = |options: &str, pass: &str| {
        openssl.run(&format!(
            "pkcs12 -export {options} -in cert.pem -inkey key.pem -certfile cas.pem -out c.p12 -passout {pass}"
        ));
        openssl.bytes("c.p12")
    };
    accepted(&pkcs12(&export("", "pass:"), "", None).unwrap());
    accepted(&pkcs12(&export("-legacy", "pass:"), "", None).unwrap());
    accepted(&pkcs12(&export("-keypbe NONE -certpbe NONE -nomac", "pass:"), "", None).unwrap());
    openssl.write("phrase", "pässwörd mit Leerzeichen €\n");
    for options in ["", "-legacy"] {
        accepted(&pkcs12(&export(options, "file:phrase"), "pässwörd mit Leerzeichen €", None).unwrap());
    }
}

#[test]
fn opens_pkcs12_of_java() {
    let openssl = issued(RSA);
    let store = "-storetype PKCS12 -keystore j.p12 -storepass geheim1";
    for legacy in ["", "-J-Dkeystore.pkcs12.legacy=true"] {
        let _ = std::fs::remove_file(openssl.path("j.p12"));
        openssl
            .run("pkcs12 -export -in cert.pem -inkey key.pem -certfile cas.pem -name theirs -out c.p12 -passout pass:geheim1")
            .tool(
                "keytool",
                &format!(
                    "-importkeystore -srckeystore c.p12 -srcstoretype PKCS12 -srcstorepass geheim1 -destkeystore j.p12 \
                     -deststoretype PKCS12 -deststorepass geheim1 {legacy}"
                ),
            )
            // A second key, as Java makes it itself, and a trusted certificate without a key.
            .tool("keytool", &format!("-genkeypair {store} -alias own -keyalg EC -groupname secp256r1 -dname CN=own"))
            .tool("keytool", &format!("-importcert -noprompt {store} -alias root -file root.pem"));
        let bytes = openssl.bytes("j.p12");
        let several = refused(pkcs12(&bytes, "geheim1", None));
        assert!(several.contains("theirs (CN=client,O=Acme)") && several.contains("own (CN=own)"), "{several}");
        assert!(several.contains("--p12-alias"), "{several}");
        for name in ["theirs", "CN=client,O=Acme"] {
            let opened = pkcs12(&bytes, "geheim1", Some(name)).unwrap();
            assert_eq!(opened.subject, "CN=client,O=Acme");
            accepted(&opened);
        }
        let own = pkcs12(&bytes, "geheim1", Some("own")).unwrap();
        assert_eq!((own.subject.as_str(), own.cert.matches("BEGIN CERT").count()), ("CN=own", 1));
        let none = refused(pkcs12(&bytes, "geheim1", Some("nobody")));
        assert!(none.contains("theirs") && none.contains("own"), "{none}");
        assert_eq!(kind(pkcs12(&bytes, "falsch", Some("own"))), Some(ConvertError::WrongPassphrase));
    }
}

#[test]
fn a_key_without_local_key_id_finds_its_certificate() {
    let openssl = issued(EC);
    // Without a certificate beside it openssl writes no localKeyId; the certificates come in a bag of their own.
    openssl
        .run("pkcs12 -export -nocerts -inkey key.pem -out key.p12 -passout pass:x")
        .run("pkcs12 -export -nokeys -in cert.pem -certfile cas.pem -out certs.p12 -passout pass:x");
    assert!(refused(pkcs12(&openssl.bytes("key.p12"), "x", None)).contains("no certificate"));
    assert!(refused(pkcs12(&openssl.bytes("certs.p12"), "x", None)).contains("no private key"));
    let archive = |name: &str| p12_keystore::Pkcs12Archive::from_pkcs12(&openssl.bytes(name), "x").unwrap();
    let (keys, certificates) = (archive("key.p12").keys, archive("certs.p12").certs);
    assert!(keys[0].local_key_id.is_none(), "the case that `Strict` drops");
    let found = pkcs12::pairs_for_tests(&keys, &certificates);
    assert_eq!(found, ["CN=client,O=Acme"]);
}

#[test]
fn says_when_the_ca_is_not_inside() {
    let openssl = issued(EC);
    openssl.run("pkcs12 -export -in cert.pem -inkey key.pem -out c.p12 -passout pass:x");
    let opened = pkcs12(&openssl.bytes("c.p12"), "x", None).unwrap();
    assert!(opened.ca.is_none() && opened.ca_subjects.is_empty());
    // A self-signed client certificate is its own CA.
    openssl
        .run("req -x509 -key key.pem -out self.pem -days 30 -subj /CN=self -addext extendedKeyUsage=clientAuth")
        .run("pkcs12 -export -in self.pem -inkey key.pem -out s.p12 -passout pass:x");
    let opened = pkcs12(&openssl.bytes("s.p12"), "x", None).unwrap();
    assert_eq!(opened.ca_subjects, ["CN=self"]);
    accepted(&opened);
}

#[test]
fn reads_encrypted_pkcs8_of_openssl() {
    for key_options in [EC, RSA, "-algorithm ED25519"] {
        let openssl = Openssl::new();
        openssl.run(&format!("genpkey {key_options} -out key.pem"));
        let mut all = vec!["-v2 aes256 -iter 1000"];
        if key_options == EC {
            all.extend([
                "-scrypt",
                "-scrypt -scrypt_N 1024 -scrypt_r 4 -scrypt_p 2",
                "-v2 aes-128-cbc -v2prf hmacWithSHA1",
                "-v2 aes-192-cbc -v2prf hmacWithSHA512",
                "-v2 des3",
            ]);
        }
        for options in all {
            for (form, name) in [("PEM", "enc.pem"), ("DER", "enc.der")] {
                openssl.run(&format!(
                    "pkcs8 -topk8 {options} -in key.pem -outform {form} -out {name} -passout pass:geheim"
                ));
                let bytes = openssl.bytes(name);
                let plain = key(&bytes, Some(b"geheim")).unwrap_or_else(|e| panic!("{options}: {e}"));
                assert_eq!(*plain, openssl.text("key.pem"), "{options}");
                assert_eq!(kind(key(&bytes, None)), Some(ConvertError::PassphraseNeeded));
                assert_eq!(kind(key(&bytes, Some(b"falsch"))), Some(ConvertError::WrongPassphrase), "{options}");
            }
        }
    }
}

#[test]
fn reads_what_openssl_rsa_and_ec_encrypt_or_says_how_to_convert_it() {
    let openssl = Openssl::new();
    openssl.run(&format!("genpkey {RSA} -out rsa.pem")).run(&format!("genpkey {EC} -out ec.pem"));
    openssl
        .run("rsa -in rsa.pem -aes256 -out new.pem -passout pass:geheim")
        .run("rsa -in rsa.pem -aes256 -traditional -out old.pem -passout pass:geheim")
        .run("ec -in ec.pem -aes256 -out ec-old.pem -passout pass:geheim");
    assert_eq!(*key(&openssl.bytes("new.pem"), Some(b"geheim")).unwrap(), openssl.text("rsa.pem"));
    for (name, plain) in [("old.pem", "rsa.pem"), ("ec-old.pem", "ec.pem")] {
        assert!(openssl.text(name).contains("Proc-Type: 4,ENCRYPTED"), "{name}");
        let text = refused(key(&openssl.bytes(name), Some(b"geheim")));
        assert!(text.contains("Proc-Type") && text.contains("openssl pkcs8 -topk8"), "{text}");
        // The remedy works.
        openssl.run(&format!("pkcs8 -topk8 -in {name} -out again.pem -passin pass:geheim -passout pass:geheim"));
        assert_eq!(*key(&openssl.bytes("again.pem"), Some(b"geheim")).unwrap(), openssl.text(plain));
    }
    openssl.run("pkcs8 -topk8 -v1 PBE-SHA1-3DES -in ec.pem -out v1.pem -passout pass:geheim");
    assert!(refused(key(&openssl.bytes("v1.pem"), Some(b"geheim"))).contains("openssl pkcs8 -topk8"));
}

#[test]
fn der_becomes_pem_and_pem_stays_as_it_is() {
    let openssl = issued(RSA);
    openssl
        .run("x509 -in cert.pem -outform DER -out cert.der")
        .run("pkcs8 -topk8 -nocrypt -in key.pem -outform DER -out p8.der")
        .run("rsa -in key.pem -traditional -outform DER -out p1.der")
        .run("rsa -in key.pem -traditional -out p1.pem")
        .run(&format!("genpkey {EC} -out ec.pem"))
        .run("ec -in ec.pem -outform DER -out sec1.der")
        .run("ec -in ec.pem -out sec1.pem");
    assert_eq!(certificates(&openssl.bytes("cert.der")).unwrap(), openssl.text("cert.pem"));
    assert_eq!(bundle(&openssl.bytes("cert.der"), true, None).unwrap().certificates, openssl.text("cert.pem"));
    for (der, pem) in [("p8.der", "key.pem"), ("p1.der", "p1.pem"), ("sec1.der", "sec1.pem")] {
        assert_eq!(*key(&openssl.bytes(der), None).unwrap(), openssl.text(pem), "{der}");
        assert_eq!(*key(&openssl.bytes(pem), None).unwrap(), openssl.text(pem), "{pem}");
    }
    let odd = "  text around\r\n".to_owned() + &openssl.text("cert.pem").replace('\n', "\r\n");
    assert_eq!(certificates(odd.as_bytes()).unwrap(), odd, "byte for byte");
    assert_eq!(bundle(odd.as_bytes(), true, None).unwrap().certificates, odd);
    assert_eq!(*key(b"no PEM at all", None).unwrap(), "no PEM at all", "the API says what is wrong with it");
}

#[test]
fn takes_the_key_out_of_a_file_that_holds_both() {
    let openssl = issued(EC);
    // With the bag attributes that openssl puts in front of each block.
    openssl
        .run("pkcs12 -export -in cert.pem -inkey key.pem -certfile cas.pem -name mine -out c.p12 -passout pass:x")
        .run("pkcs12 -in c.p12 -passin pass:x -nodes -out plain.pem")
        .run("pkcs12 -in c.p12 -passin pass:x -passout pass:geheim -out encrypted.pem");
    for (name, phrase) in [("plain.pem", None), ("encrypted.pem", Some(&b"geheim"[..]))] {
        let both = bundle(&openssl.bytes(name), true, phrase).unwrap();
        assert_eq!(both.certificates.matches("BEGIN CERTIFICATE").count(), 3);
        assert!(!both.certificates.contains("KEY"), "{}", both.certificates);
        assert_eq!(**both.key.as_ref().unwrap(), openssl.text("key.pem"));
        assert_eq!(*key(&openssl.bytes(name), phrase).unwrap(), openssl.text("key.pem"));
        let alone = bundle(&openssl.bytes(name), false, None).unwrap();
        assert!(alone.key.is_none() && !alone.certificates.contains("KEY"));
    }
    assert_eq!(
        kind(bundle(&openssl.bytes("encrypted.pem"), true, None).map(|_| ())),
        Some(ConvertError::PassphraseNeeded)
    );
    let two = openssl.text("key.pem") + &openssl.text("inter.key");
    assert!(refused(key(two.as_bytes(), None)).contains("2 private keys"));
}

#[test]
fn names_what_it_found_and_the_remedy() {
    let openssl = issued(EC);
    openssl
        .run("x509 -in cert.pem -outform DER -out cert.der")
        .run("pkcs8 -topk8 -nocrypt -in key.pem -outform DER -out key.der")
        .run("req -in client.csr -outform DER -out csr.der")
        .run("crl2pkcs7 -nocrl -certfile cas.pem -outform DER -out cas.p7b")
        .run("pkcs12 -export -in cert.pem -inkey key.pem -out c.p12 -passout pass:x");
    let certificate = |name: &str| refused(certificates(&openssl.bytes(name)));
    let key = |name: &str| refused(key(&openssl.bytes(name), None));
    assert!(key("cert.der").contains("certificate, not a private key"), "{}", key("cert.der"));
    assert!(certificate("key.der").contains("private key"), "{}", certificate("key.der"));
    assert!(certificate("csr.der").contains("CSR"), "{}", certificate("csr.der"));
    assert!(certificate("cas.p7b").contains("openssl pkcs7 -inform DER"), "{}", certificate("cas.p7b"));
    assert!(certificate("c.p12").contains("--p12") && key("c.p12").contains("--p12"));
    openssl.write("garbage", [0x00, 0xff, 0x80]).write("cut.p12", &openssl.bytes("c.p12")[..200]);
    assert!(certificate("garbage").contains("binary"), "{}", certificate("garbage"));
    let p12 = |name: &str| refused(pkcs12(&openssl.bytes(name), "x", None));
    assert!(p12("cert.pem").contains("--cert"), "{}", p12("cert.pem"));
    assert!(p12("cut.p12").contains("cut off") && p12("garbage").contains("not PKCS#12"));
    openssl.tool(
        "keytool",
        "-genkeypair -storetype JKS -keystore j.jks -storepass geheim1 -keypass geheim1 -alias a -keyalg RSA -dname CN=a",
    );
    assert!(p12("j.jks").contains("keytool -importkeystore") && key("j.jks").contains("keytool"));
}

#[test]
fn pays_only_so_much_for_a_key() {
    let openssl = issued(EC);
    openssl
        .run("pkcs8 -topk8 -v2 aes256 -iter 10000001 -in key.pem -outform DER -out many.der -passout pass:x")
        .run("pkcs8 -topk8 -scrypt -in key.pem -outform DER -out scrypt.der -passout pass:x")
        .run("pkcs12 -export -in cert.pem -inkey key.pem -iter 2048 -out c.p12 -passout pass:x");
    let began = Instant::now();
    assert!(refused(key(&openssl.bytes("many.der"), Some(b"x"))).contains("10000001 iterations"));
    // N = 16384, r = 8, p = 1 in a row; what openssl would not even write is patched in.
    let scrypt = |n: [u8; 2], r: u8, p: u8| {
        let from = [2, 2, 0x40, 0, 2, 1, 8, 2, 1, 1];
        replaced(&openssl.bytes("scrypt.der"), &from, &[2, 2, n[0], n[1], 2, 1, r, 2, 1, p])
    };
    let text = refused(key(&scrypt([0x7f, 0xff], 0x7f, 1), Some(b"x")));
    assert!(text.contains("scrypt (128 * N * r = 532660352 bytes"), "{text}");
    assert!(refused(key(&scrypt([0x40, 0], 8, 0x7f), Some(b"x"))).contains("p = 127"));

    let p12 = openssl.bytes("c.p12");
    assert!(cost::check_pkcs12(&p12).is_ok());
    assert!(refused(pkcs12(&more_iterations(&p12), "x", None)).contains("2147483647 iterations"));
    assert!(began.elapsed() < Duration::from_secs(20), "nothing was derived: {:?}", began.elapsed());
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|w| w == from).expect("it is there");
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

/// The MAC's count, which ends the file: `02 02 08 00` becomes `02 04 7f ff ff ff`, two bytes longer.
fn more_iterations(p12: &[u8]) -> Vec<u8> {
    let head = p12.len() - 4;
    assert_eq!(p12[head..], [2, 2, 8, 0]);
    let mut out = [&p12[..head], &[2, 4, 0x7f, 0xff, 0xff, 0xff]].concat();
    // The outermost SEQUENCE has a length of two bytes, MacData one of one byte.
    assert_eq!(out[..2], [0x30, 0x82]);
    let length = u16::from_be_bytes([out[2], out[3]]) + 2;
    out[2..4].copy_from_slice(&length.to_be_bytes());
    let mac = (0..out.len()).rev().find(|&at| out[at] == 0x30 && at + 2 + usize::from(out[at + 1]) + 2 == out.len());
    out[mac.expect("MacData") + 1] += 2;
    out
}
