use base64::engine::general_purpose::STANDARD;

use super::super::testing::{Openssl, assert_no_echo, ca, leaf};
use super::*;
use crate::domain::time::now;
use base64::Engine as _;

fn certificate() -> String {
    leaf("client", None, now(), |_| {}).pem
}

fn one(faults: Vec<Fault>) -> Fault {
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults.into_iter().next().unwrap()
}

/// The one fault of `text` in `field`; it must name the form and the command, and hold nothing of the input.
#[track_caller]
fn refused(field: Field, text: &str, what: &str, command: &str) {
    let faults = match field {
        Field::Key => key(text).map(|_| ()).unwrap_err(),
        _ => chain(field, text).map(|_| ()).unwrap_err(),
    };
    let fault = one(faults);
    assert_eq!(fault.field, field);
    assert!(fault.what.contains(what), "{what:?} is not in {:?}", fault.what);
    assert!(fault.remedy.to_string().contains(command), "{command:?} is not in {:?}", fault.remedy);
    assert!(fault.what.starts_with(|c: char| c.is_lowercase()), "{}", fault.what);
    assert_no_echo(&fault.to_string(), &[text]);
}

#[test]
fn understands_what_tools_and_people_do_to_pem() {
    let pem = certificate();
    let expected = chain(Field::Cert, &pem).unwrap();
    assert_eq!(expected.len(), 1);
    let indented: String = pem.lines().map(|l| format!("      {l}  \n")).collect();
    for variant in [
        pem.replace('\n', "\r\n"),
        pem.replace('\n', "\r"),
        pem.replace('\n', "\\n"),
        pem.replace('\n', "\\r\\n"),
        pem.replace('\n', "\\\\n"),
        pem.replace('\n', "\n\n"),
        pem.replace('\n', " "),
        pem.replace('\n', "\\\n\n"),
        format!("\u{feff}{pem}"),
        format!("\"{}\"", pem.trim().replace('\n', "\\n")),
        format!("\n\n  \t{}\n  ", pem.trim()),
        pem.trim().to_owned(),
        indented,
        format!("Bag Attributes\n    friendlyName: client\nsubject=CN = client\n{pem}\nthe end, C:\\nowhere\n"),
        pem.replace("CERTIFICATE", "X509 CERTIFICATE"),
        format!("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{pem}"),
    ] {
        assert_eq!(chain(Field::Cert, &variant).unwrap(), expected, "{variant}");
    }
}

#[test]
fn keeps_the_order_and_bounds_the_number() {
    let (first, second) = (certificate(), certificate());
    let both = chain(Field::Ca, &format!("{first}comment\n{second}")).unwrap();
    assert_eq!(both[0], chain(Field::Ca, &first).unwrap()[0]);
    assert_eq!(both[1], chain(Field::Ca, &second).unwrap()[0]);
    assert_eq!(chain(Field::Cert, &first.repeat(MAX_CHAIN)).unwrap().len(), MAX_CHAIN);
    refused(Field::Cert, &first.repeat(MAX_CHAIN + 1), "more than 32 certificates", "alone");
    refused(Field::Ca, &first.repeat(MAX_CA + 1), "more than 128 certificates", "alone");
    assert_eq!(certificates(&first.repeat(MAX_ANCHORS)).unwrap().len(), MAX_ANCHORS);
    let error = certificates(&first.repeat(MAX_ANCHORS + 1)).unwrap_err();
    assert!(error.to_string().contains("more than 1000"), "{error}");
    assert!(certificates("nothing").unwrap_err().to_string().contains("not PEM"));
}

#[test]
fn reads_every_form_of_key() {
    let openssl = Openssl::new();
    openssl
        .run("genrsa -out rsa8.pem 2048")
        .run("rsa -in rsa8.pem -traditional -out rsa1.pem")
        .run("ecparam -name prime256v1 -genkey -out ec-params.pem")
        .run("ec -in ec-params.pem -out ec1.pem")
        .run("pkcs8 -topk8 -nocrypt -in ec1.pem -out ec8.pem")
        .run("genpkey -algorithm ED25519 -out ed.pem");
    assert!(openssl.text("ec-params.pem").contains("BEGIN EC PARAMETERS"));
    for (file, form) in [
        ("rsa8.pem", KeyForm::Pkcs8),
        ("rsa1.pem", KeyForm::Pkcs1),
        ("ec-params.pem", KeyForm::Sec1),
        ("ec1.pem", KeyForm::Sec1),
        ("ec8.pem", KeyForm::Pkcs8),
        ("ed.pem", KeyForm::Pkcs8),
    ] {
        let text = openssl.text(file);
        for variant in
            [text.clone(), text.replace('\n', "\r\n"), text.replace('\n', "\\n"), format!("\u{feff}\n {text}")]
        {
            let key = key(&variant).unwrap();
            assert_eq!(key.form(), form, "{file}");
            assert!(rustls::crypto::aws_lc_rs::sign::any_supported_type(&key.as_rustls()).is_ok(), "{file}");
        }
    }
    // Labels lie.
    let mislabelled = openssl.text("rsa1.pem").replace("RSA PRIVATE KEY", "PRIVATE KEY");
    assert_eq!(key(&mislabelled).unwrap().form(), KeyForm::Pkcs1);
    // The form that a restart sees.
    let der = key(&openssl.text("ec1.pem")).unwrap().into_der();
    assert_eq!(PrivateKey::from_der(der).unwrap().form(), KeyForm::Sec1);
}

#[test]
fn encrypted_keys_are_named_with_the_command_that_decrypts_them() {
    let openssl = Openssl::new();
    openssl
        .run("genrsa -out key.pem 2048")
        .run("pkcs8 -topk8 -in key.pem -passout pass:secret -out encrypted.pem")
        .run("rsa -in key.pem -traditional -aes256 -passout pass:secret -out legacy.pem")
        .run("ecparam -name prime256v1 -genkey -noout -out ec.pem")
        .run("ec -in ec.pem -aes128 -passout pass:secret -out legacy-ec.pem")
        .run("pkcs8 -topk8 -in key.pem -passout pass:secret -outform DER -out encrypted.der");
    let command = "openssl pkey -in encrypted.key -out key.pem";
    refused(Field::Key, &openssl.text("encrypted.pem"), "encrypted private key (ENCRYPTED PRIVATE KEY)", command);
    refused(Field::Key, &openssl.text("legacy.pem"), "encrypted private key (Proc-Type: 4,ENCRYPTED)", command);
    refused(Field::Key, &openssl.text("legacy-ec.pem"), "encrypted private key (Proc-Type: 4,ENCRYPTED)", command);
    refused(Field::Cert, &openssl.text("encrypted.pem"), "encrypted private key", command);
    let base64 = STANDARD.encode(openssl.bytes("encrypted.der"));
    refused(Field::Key, &base64, "encrypted private key", "openssl pkey -inform DER");
    // With a wrong label it is still seen.
    let mislabelled = openssl.text("encrypted.pem").replace("ENCRYPTED PRIVATE KEY", "PRIVATE KEY");
    refused(Field::Key, &mislabelled, "encrypted private key", command);
    // The command does what it says.
    openssl.write("encrypted.key", openssl.bytes("encrypted.pem"));
    openssl.run("pkey -in encrypted.key -passin pass:secret -out out.pem");
    key(&openssl.text("out.pem")).unwrap();
}

#[test]
fn swapped_and_mixed_fields_are_named() {
    let minted = leaf("client", None, now(), |_| {});
    let (cert, secret) = (minted.pem.clone(), minted.key_pem());
    refused(Field::Key, &cert, "a certificate, not a private key", "openssl pkey -in bundle.pem -out key.pem");
    refused(Field::Cert, &secret, "a private key among the certificates", "openssl pkcs7 -print_certs -out cert.pem");
    refused(Field::Ca, &format!("{cert}{secret}"), "a private key among the certificates", "-out ca.pem");
    refused(Field::Key, &format!("{secret}{cert}"), "a certificate, not", "openssl pkey -in bundle.pem");
    let other = leaf("other", None, now(), |_| {}).key_pem();
    refused(Field::Key, &format!("{secret}{other}"), "2 private keys", "openssl pkey -in key.pem -out one-key.pem");
    // All at once, each complaint once.
    let faults = key(&format!("{cert}{secret}{cert}{other}")).map(|_| ()).unwrap_err();
    assert_eq!(faults.len(), 2, "{faults:?}");
    // The commands do what they say.
    let openssl = Openssl::new();
    openssl.write("bundle.pem", format!("{cert}{secret}"));
    openssl
        .run("crl2pkcs7 -nocrl -certfile bundle.pem -out certs.p7b")
        .run("pkcs7 -in certs.p7b -print_certs -out cert.pem");
    assert_eq!(chain(Field::Cert, &openssl.text("cert.pem")).unwrap(), chain(Field::Cert, &cert).unwrap());
    openssl.run("pkey -in bundle.pem -out key.pem");
    key(&openssl.text("key.pem")).unwrap();
}

#[test]
fn other_blocks_are_named_with_the_command_that_converts_them() {
    let openssl = Openssl::new();
    openssl
        .run("ecparam -name prime256v1 -genkey -noout -out key.pem")
        .run("req -x509 -key key.pem -subj /CN=client -days 30 -out cert.pem")
        .run("x509 -in cert.pem -trustout -addtrust clientAuth -out trusted.pem")
        .run("pkey -in key.pem -pubout -out public.pem")
        .run("req -new -key key.pem -subj /CN=client -out client.csr")
        .run("crl2pkcs7 -nocrl -certfile cert.pem -out certs.p7b")
        .run("crl2pkcs7 -nocrl -certfile cert.pem -outform DER -out certs.der")
        .write("index.txt", "")
        .write("ca.cnf", "[ca]\ndefault_ca=c\n[c]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=1\n")
        .run("ca -config ca.cnf -gencrl -keyfile key.pem -cert cert.pem -out list.pem")
        .run("dsaparam -out dsaparam.pem 1024")
        .run("gendsa -out dsa8.pem dsaparam.pem")
        .run("dsa -in dsa8.pem -out dsa.pem")
        .run("ecparam -name prime256v1 -out params.pem")
        .tool("ssh-keygen", "-q -t ecdsa -b 256 -N '' -f ssh -C someone");
    assert!(openssl.text("trusted.pem").contains("TRUSTED"));
    refused(
        Field::Cert,
        &openssl.text("trusted.pem"),
        "TRUSTED CERTIFICATE",
        "openssl x509 -in trusted.pem -out cert.pem",
    );
    refused(Field::Key, &openssl.text("public.pem"), "public key", "openssl pkey -in key.pem -noout");
    refused(Field::Cert, &openssl.text("public.pem"), "public key", "openssl x509 -in cert.pem");
    refused(Field::Cert, &openssl.text("client.csr"), "certificate request", "openssl x509 -req -in client.csr");
    refused(Field::Ca, &openssl.text("certs.p7b"), "PKCS#7", "openssl pkcs7 -in certs.p7b -print_certs -out ca.pem");
    refused(Field::Cert, &STANDARD.encode(openssl.bytes("certs.der")), "PKCS#7", "openssl pkcs7 -inform DER");
    refused(Field::Ca, &openssl.text("list.pem"), "revocation list", "openssl crl2pkcs7");
    refused(Field::Key, &openssl.text("ssh"), "OpenSSH", "ssh-keygen -p -N '' -m PKCS8");
    refused(Field::Key, &openssl.text("ssh.pub"), "SSH public key", "openssl");
    refused(Field::Key, &openssl.text("params.pem"), "nothing here but EC parameters", "openssl pkey");
    refused(Field::Cert, &openssl.text("params.pem"), "nothing here but EC parameters", "openssl");
    refused(Field::Key, &openssl.text("dsaparam.pem"), "DSA parameters", "openssl pkey");
    let legacy_dsa = "-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----\n";
    refused(Field::Key, legacy_dsa, "DSA key", "openssl genpkey");
    let dh = "-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n";
    refused(Field::Key, dh, "DH parameters", "openssl pkey");
    refused(Field::Cert, &format!("{dh}{}", openssl.text("cert.pem")), "DH parameters", "openssl");
    refused(Field::Key, "PuTTY-User-Key-File-3: ssh-rsa\nEncryption: none\n", "PuTTY", "puttygen");
    refused(
        Field::Key,
        "-----BEGIN PGP PRIVATE KEY BLOCK-----\nx\n-----END PGP PRIVATE KEY BLOCK-----",
        "PGP",
        "openssl",
    );
    let unknown = "-----BEGIN SECRETLABEL-----\nAAAA\n-----END SECRETLABEL-----\n";
    refused(Field::Cert, unknown, "does not belong here", "openssl x509");
    assert!(!one(chain(Field::Cert, unknown).unwrap_err()).to_string().contains("SECRETLABEL"));
    // The commands do what they say.
    openssl.run("x509 -in trusted.pem -out plain.pem").tool("ssh-keygen", "-q -p -N '' -m PKCS8 -f ssh");
    chain(Field::Cert, &openssl.text("plain.pem")).unwrap();
    key(&openssl.text("ssh")).unwrap();
}

#[test]
fn binary_forms_are_named_raw_and_in_base64() {
    let openssl = Openssl::new();
    openssl
        .run("genrsa -out key.pem 2048")
        .run("req -x509 -key key.pem -subj /CN=client -days 30 -out cert.pem")
        .run("x509 -in cert.pem -outform DER -out cert.der")
        .run("pkey -in key.pem -outform DER -out key.der")
        .run("pkcs12 -export -inkey key.pem -in cert.pem -passout pass:secret -out client.p12");
    let lossy = |name: &str| String::from_utf8_lossy(&openssl.bytes(name)).into_owned();
    let latin1 = |name: &str| openssl.bytes(name).iter().map(|b| char::from(*b)).collect::<String>();
    let base64 = |name: &str| STANDARD.encode(openssl.bytes(name));
    let wrapped = |name: &str| {
        base64(name)
            .as_bytes()
            .chunks(76)
            .map(|c| format!("{}\r\n", std::str::from_utf8(c).unwrap()))
            .collect::<String>()
    };
    for (field, select) in [
        (Field::Cert, "-clcerts -nokeys -out cert.pem"),
        (Field::Key, "-nocerts -nodes -out key.pem"),
        (Field::Ca, "-cacerts -nokeys -out ca.pem"),
    ] {
        for text in [lossy("client.p12"), latin1("client.p12"), base64("client.p12"), wrapped("client.p12")] {
            refused(field, &text, "PKCS#12", &format!("openssl pkcs12 -in client.p12 {select}"));
        }
    }
    for text in [lossy("cert.der"), latin1("cert.der")] {
        refused(
            Field::Cert,
            &text,
            "likely a certificate in DER",
            "openssl x509 -inform DER -in cert.der -out cert.pem",
        );
    }
    for text in [base64("cert.der"), wrapped("cert.der")] {
        refused(
            Field::Cert,
            &text,
            "a certificate in DER, base64",
            "base64 -d in.txt > cert.der; openssl x509 -inform DER",
        );
    }
    for text in [base64("key.der"), wrapped("key.der"), format!("\"{}\"", base64("key.der"))] {
        refused(Field::Key, &text, "a private key in DER, base64", "openssl pkey -inform DER -in key.der -out key.pem");
    }
    refused(Field::Key, &lossy("key.der"), "likely a private key in DER", "openssl pkey -inform DER");
    refused(Field::Cert, &base64("cert.pem"), "base64 of a PEM file", "base64 -d cert.txt > cert.pem");
    refused(Field::Cert, &base64("cert.der")[..400], "cut off", "copy the whole file again");
    refused(Field::Key, "/u3+7QAAAAIAAAABAAAAAQ==", "Java keystore", "keytool -importkeystore");
}

#[test]
fn broken_text_is_named() {
    let pem = certificate();
    let lines: Vec<&str> = pem.lines().collect();
    let without = |skip: &dyn Fn(usize) -> bool| {
        lines.iter().enumerate().filter(|(n, _)| !skip(*n)).map(|(_, l)| format!("{l}\n")).collect::<String>()
    };
    let last = lines.len() - 1;
    for empty in ["", " \r\n\t", "\u{feff}", "\\n\\n"] {
        refused(Field::Cert, empty, "nothing is here", "openssl x509 -in cert.pem");
        refused(Field::Key, empty, "nothing is here", "openssl pkey -in key.pem");
    }
    for garbage in
        ["lorem ipsum dolor sit amet", "/etc/ssl/private/client-key-file.pem", "@client-file.txt", "{}", "💥"]
    {
        refused(Field::Cert, garbage, "not PEM", "openssl x509");
    }
    refused(Field::Cert, "\u{1}\u{2}\u{3}\u{4}garbage", "binary, not PEM", "openssl x509");
    let check = "openssl x509 -noout -subject -in cert.pem";
    refused(Field::Cert, &without(&|n| n == last), "no matching -----END", check);
    refused(Field::Cert, &without(&|n| n == 0), "no -----BEGIN", check);
    refused(Field::Cert, &pem[..pem.len() / 2], "no matching -----END", check);
    refused(Field::Cert, &without(&|n| n == last - 2), "cut off", check);
    refused(Field::Cert, &format!("{}{pem}", without(&|n| n == last)), "no matching -----END", check);
    refused(
        Field::Cert,
        &pem.replace("-----END CERTIFICATE-----", "-----END PRIVATE KEY-----"),
        "no matching -----END",
        check,
    );
    refused(
        Field::Cert,
        &pem.replace("-----END CERTIFICATE-----", "-----END CERTIFICATE---"),
        "no matching -----END",
        check,
    );
    refused(Field::Cert, &pem.replace("-----", "—"), "armour lines", check);
    refused(Field::Cert, &pem.replace("BEGIN CERTIFICATE-----", "BEGIN CERTIFICATE"), "armour lines", check);
    refused(Field::Cert, &pem.replacen("MII", "M*I", 1), "not base64", check);
    refused(
        Field::Key,
        "-----BEGIN PRIVATE KEY-----\n%%%%\n-----END PRIVATE KEY-----",
        "not base64",
        "openssl pkey -in key.pem -noout",
    );
    refused(
        Field::Key,
        "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----",
        "damaged",
        "openssl pkey -in key.pem -noout",
    );
    refused(Field::Cert, "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----", "damaged", check);
    refused(Field::Cert, "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----", "damaged", check);
    refused(Field::Cert, "-----BEGIN ", "armour lines", check);
    refused(Field::Cert, "-----END X-----", "no -----BEGIN", check);
}

#[test]
fn every_complaint_of_a_bundle_is_collected() {
    let root = ca("root", None, now(), |_| {});
    let csr = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
    let text = format!("{}{csr}{}{csr}", root.pem, root.key_pem());
    let faults = chain(Field::Ca, &text).unwrap_err();
    assert_eq!(faults.len(), 2, "{faults:?}");
    for fault in &faults {
        assert_no_echo(&fault.to_string(), &[&text]);
    }
}

#[test]
fn any_cut_of_a_key_is_a_fault_and_never_a_panic() {
    let pem = leaf("client", None, now(), |_| {}).key_pem();
    let trimmed = pem.trim_end();
    for end in 0..trimmed.len() {
        let faults = key(&trimmed[..end]).map(|_| ()).expect_err("cut");
        assert!(!faults.is_empty());
        for fault in faults {
            assert_no_echo(&fault.to_string(), &[&pem]);
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(-----BEGIN |-----END |CERTIFICATE|PRIVATE KEY|-----|\\\\n|\n|[A-Za-z0-9+/=]{0,8}|MIIB|\\PC){0,24}") {
        let _ = chain(Field::Cert, &text);
        let _ = key(&text);
    }
}
