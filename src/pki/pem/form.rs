//! What was found instead of what is wanted, and the command that converts it.

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose};
use zeroize::Zeroizing;

use super::super::der::{self, Extent, Kind};
use super::super::validate::{Fault, FaultKind, Field, Part, Remedy};

/// What a block, or a text without blocks, turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pki) enum Form {
    Certificate,
    Key,
    EncryptedKey,
    LegacyEncryptedKey,
    TrustedCertificate,
    PublicKey,
    Request,
    Crl,
    Pkcs7,
    Pkcs12,
    OpenSsh,
    SshPublic,
    Putty,
    Pgp,
    DsaKey,
    DhParameters,
    DsaParameters,
    EcParameters,
    JavaKeystore,
    /// A block whose label nobody here knows.
    Unknown,
    /// Base64 around a PEM.
    EncodedPem,
    Empty,
    Garbage,
    NoBegin,
    NoEnd,
    BadArmour,
    BadBase64,
    BadContent,
    Truncated,
}

/// How it was wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pki) enum Wrapping {
    /// Between armour lines.
    Pem,
    /// The bytes themselves, as far as JSON let them live.
    Binary,
    /// Base64 of the bytes, without armour lines.
    Base64,
}

/// The labels in use (RFC 7468, OpenSSL's and OpenSSH's own).
const LABELS: [(&str, Form); 22] = [
    ("CERTIFICATE", Form::Certificate),
    ("X509 CERTIFICATE", Form::Certificate),
    ("TRUSTED CERTIFICATE", Form::TrustedCertificate),
    ("PRIVATE KEY", Form::Key),
    ("RSA PRIVATE KEY", Form::Key),
    ("EC PRIVATE KEY", Form::Key),
    ("ENCRYPTED PRIVATE KEY", Form::EncryptedKey),
    ("PUBLIC KEY", Form::PublicKey),
    ("RSA PUBLIC KEY", Form::PublicKey),
    ("CERTIFICATE REQUEST", Form::Request),
    ("NEW CERTIFICATE REQUEST", Form::Request),
    ("X509 CRL", Form::Crl),
    ("PKCS7", Form::Pkcs7),
    ("PKCS #7 SIGNED DATA", Form::Pkcs7),
    ("CMS", Form::Pkcs7),
    ("PKCS12", Form::Pkcs12),
    ("OPENSSH PRIVATE KEY", Form::OpenSsh),
    ("DSA PRIVATE KEY", Form::DsaKey),
    ("DH PARAMETERS", Form::DhParameters),
    ("X9.42 DH PARAMETERS", Form::DhParameters),
    ("DSA PARAMETERS", Form::DsaParameters),
    ("EC PARAMETERS", Form::EcParameters),
];

/// A label of the table, with what it says. One that is not in there is never repeated: it is the caller's text.
fn known(label: &str) -> Option<(&'static str, Form)> {
    LABELS.into_iter().find(|(known, _)| *known == label.trim())
}

/// What a label says. Never trusted further than a choice of words: the content is looked at as well.
pub(in crate::pki) fn of_label(label: &str) -> Form {
    match known(label) {
        Some((_, form)) => form,
        None if label.trim().starts_with("PGP ") => Form::Pgp,
        None => Form::Unknown,
    }
}

/// The fault for a block that does not belong into `field`. It names the block, so that it is found in a long file.
pub(super) fn misplaced(field: Field, form: Form, label: &str) -> Fault {
    let mut fault = fault(field, form, Wrapping::Pem);
    if let Some((label, _)) = known(label)
        && !fault.what.contains(label)
    {
        fault.what.push_str(&format!(" (the block BEGIN {label})"));
    }
    fault
}

pub(in crate::pki) fn of_kind(kind: Kind) -> Form {
    match kind {
        Kind::Certificate => Form::Certificate,
        Kind::Request => Form::Request,
        Kind::Crl => Form::Crl,
        Kind::Pkcs1Key | Kind::Pkcs8Key | Kind::Sec1Key => Form::Key,
        Kind::EncryptedKey => Form::EncryptedKey,
        Kind::DsaKey => Form::DsaKey,
        Kind::PublicKey => Form::PublicKey,
        Kind::Pkcs7 => Form::Pkcs7,
        Kind::Pkcs12 => Form::Pkcs12,
    }
}

/// The fault of a text without a single armour line.
pub(in crate::pki) fn without_armour(field: Field, text: &str) -> Fault {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return fault(field, Form::Empty, Wrapping::Pem);
    }
    if trimmed.starts_with("PuTTY-User-Key-File") {
        return fault(field, Form::Putty, Wrapping::Pem);
    }
    if ["ssh-rsa ", "ssh-ed25519 ", "ecdsa-sha2-", "---- BEGIN SSH2"].iter().any(|p| trimmed.starts_with(p)) {
        return fault(field, Form::SshPublic, Wrapping::Pem);
    }
    if trimmed.contains("BEGIN ") && trimmed.contains("END ") {
        return fault(field, Form::BadArmour, Wrapping::Pem);
    }
    // It may be a key all the same, so no copy of it is left behind by growing.
    let mut compact = Zeroizing::new(String::with_capacity(trimmed.len()));
    compact.extend(trimmed.chars().filter(|c| !c.is_whitespace() && !matches!(c, '"' | '\'')));
    if let Some(bytes) = decoded(&compact) {
        if bytes.starts_with(b"-----BEGIN ") || bytes.starts_with(b"\xef\xbb\xbf-----BEGIN ") {
            return fault(field, Form::EncodedPem, Wrapping::Base64);
        }
        if bytes.starts_with(&[0xfe, 0xed, 0xfe, 0xed]) {
            return fault(field, Form::JavaKeystore, Wrapping::Base64);
        }
        if der::extent(&bytes) == Extent::Short && compact.len() > 16 {
            return fault(field, Form::Truncated, Wrapping::Base64);
        }
        if let Some(kind) = der::kind(&bytes) {
            return fault(field, of_kind(kind), Wrapping::Base64);
        }
    }
    let binary = trimmed.chars().any(|c| (c.is_control() && !c.is_whitespace()) || c == '\u{fffd}');
    if !binary {
        return fault(field, Form::Garbage, Wrapping::Pem);
    }
    // What is left of bytes that were forced into a string: those above 0x7f are U+FFFD, or Latin-1.
    let start: Vec<char> = text.trim_start_matches(['\n', ' ']).chars().take(16).collect();
    if start.windows(4).any(|w| w == ['\u{2}', '\u{1}', '\u{3}', '0']) {
        return fault(field, Form::Pkcs12, Wrapping::Binary);
    }
    if start.first() == Some(&'0') {
        let form = if field == Field::Key { Form::Key } else { Form::Certificate };
        return fault(field, form, Wrapping::Binary);
    }
    fault(field, Form::Garbage, Wrapping::Binary)
}

fn decoded(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT);
    let decoded = engine.decode(text).or_else(|_| general_purpose::URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')));
    decoded.ok().map(Zeroizing::new)
}

/// More certificates than anyone sends.
pub(super) fn too_many(field: Field, most: usize) -> Fault {
    let remedy = match field {
        Field::Cert => "send the client certificate and its intermediates alone",
        _ => "send the CA certificates that are needed alone, not a whole bundle of roots",
    };
    Fault::new(field, FaultKind::Chain, format!("there are more than {most} certificates"), remedy)
}

/// Which of them is meant cannot be known.
pub(in crate::pki) fn two_keys(count: usize) -> Fault {
    Fault::new(
        Field::Key,
        FaultKind::KeyInvalid,
        format!("there are {count} private keys instead of one"),
        "keep the one that belongs to the certificate; this keeps the first: openssl pkey -in key.pem -out one-key.pem",
    )
}

/// The fault for `form` in `field`, with the command that converts it.
pub(in crate::pki) fn fault(field: Field, form: Form, wrapping: Wrapping) -> Fault {
    let kind = if field == Field::Key { FaultKind::KeyInvalid } else { FaultKind::Unparsable };
    Fault::new(field, kind, what(form, wrapping), remedy(field, form, wrapping))
}

/// What mends `form` in `field`.
fn remedy(field: Field, form: Form, wrapping: Wrapping) -> Remedy {
    // Of the file in a command; what the field is called is another matter.
    let name = field.as_str();
    match (form, wrapping) {
        (Form::Pkcs12, wrapping) => {
            let decode = if wrapping == Wrapping::Base64 { "base64 -d client.txt > client.p12; " } else { "" };
            let select = match field {
                Field::Cert => "-clcerts -nokeys",
                Field::Key => "-nocerts -nodes",
                Field::Ca => "-cacerts -nokeys",
            };
            Remedy::from([
                Part::Command("let egret certs upload --p12 read it, or "),
                format!("take it apart: {decode}openssl pkcs12 -in client.p12 {select} -out {name}.pem").into(),
            ])
        }
        (Form::Pkcs7, wrapping) => {
            let inform = if wrapping == Wrapping::Pem { "" } else { "-inform DER " };
            format!(
                "unpack it: {}openssl pkcs7 {inform}-in certs.p7b -print_certs -out {name}.pem",
                undo(wrapping, "certs.p7b")
            )
            .into()
        }
        (Form::EncryptedKey | Form::LegacyEncryptedKey, wrapping) => {
            let inform = if wrapping == Wrapping::Pem { "" } else { "-inform DER " };
            let command =
                format!("decrypt it: {}openssl pkey {inform}-in encrypted.key -out key.pem", undo(wrapping, "encrypted.key"));
            match (field, form) {
                (Field::Key, Form::EncryptedKey) => {
                    Remedy::from([Part::Command("let egret certs upload read it, or "), command.into()])
                }
                (Field::Key, _) => command.into(),
                _ => Remedy::from([
                    "it does not belong here; send it as ".into(),
                    Part::Name(Field::Key),
                    format!(", but first {command}").into(),
                ]),
            }
        }
        (Form::Certificate, Wrapping::Binary | Wrapping::Base64) => {
            format!("convert it: {}openssl x509 -inform DER -in cert.der -out cert.pem", undo(wrapping, "cert.der"))
                .into()
        }
        (Form::Key, Wrapping::Binary | Wrapping::Base64) => {
            format!("convert it: {}openssl pkey -inform DER -in key.der -out key.pem", undo(wrapping, "key.der"))
                .into()
        }
        (Form::Certificate, Wrapping::Pem) => Remedy::from([
            "send the private key alone here, and certificates as ".into(),
            Part::Certificates,
            ": openssl pkey -in bundle.pem -out key.pem".into(),
        ]),
        (Form::Key, Wrapping::Pem) => Remedy::from([
            "send the private key as ".into(),
            Part::Name(Field::Key),
            format!(
                ", and certificates alone here: openssl crl2pkcs7 -nocrl -certfile bundle.pem | openssl pkcs7 -print_certs \
                 -out {name}.pem"
            )
            .into(),
        ]),
        (Form::TrustedCertificate, _) => "convert it: openssl x509 -in trusted.pem -out cert.pem".into(),
        (Form::PublicKey, _) if field == Field::Key => {
            "send the private key that it was made from; this succeeds for a private key alone: openssl pkey -in \
             key.pem -noout"
                .into()
        }
        (Form::PublicKey, _) => {
            "send the certificate that the CA issued; this succeeds for a certificate alone: openssl x509 -in cert.pem \
             -noout -subject"
                .into()
        }
        (Form::Request, _) => {
            "send the certificate that the CA made of it; a CA of your own makes one with: openssl x509 -req -in \
             client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 -out cert.pem"
                .into()
        }
        (Form::Crl, _) => format!(
            "leave it out: openssl crl2pkcs7 -nocrl -certfile bundle.pem | openssl pkcs7 -print_certs -out {name}.pem"
        )
        .into(),
        (Form::OpenSsh, _) => {
            "if the certificate was made for this key, convert a copy of it in place: ssh-keygen -p -N '' -m PKCS8 -f \
             key.pem"
                .into()
        }
        (Form::Putty, _) => {
            "export it: puttygen key.ppk -O private-openssh-new -o key, then ssh-keygen -p -N '' -m PKCS8 -f key"
                .into()
        }
        (Form::SshPublic, _) => Remedy::from([
            "an SSH key is no part of TLS; send PEM, as openssl pkey or openssl x509 write it, as ".into(),
            Part::Name(field),
        ]),
        (Form::Pgp, _) => Remedy::from([
            "PGP is no part of TLS; send PEM, as openssl pkey or openssl x509 write it, as ".into(),
            Part::Name(field),
        ]),
        (Form::DsaKey, _) => NEW_KEY.into(),
        (Form::DhParameters | Form::DsaParameters | Form::EcParameters, _) => match field {
            Field::Key => {
                "send the private key; from a file that has both: openssl pkey -in bundle.pem -out key.pem".into()
            }
            Field::Cert | Field::Ca => format!(
                "send certificates alone: openssl crl2pkcs7 -nocrl -certfile bundle.pem | openssl pkcs7 -print_certs -out \
                 {name}.pem"
            )
            .into(),
        },
        (Form::JavaKeystore, _) => format!(
            "convert it: base64 -d client.txt > client.jks; keytool -importkeystore -srckeystore client.jks -destkeystore \
             client.p12 -deststoretype PKCS12, then openssl pkcs12 -in client.p12 {} -out {name}.pem",
            if field == Field::Key { "-nocerts -nodes" } else { "-nokeys" }
        )
        .into(),
        (Form::EncodedPem, _) => format!("decode it once: base64 -d {name}.txt > {name}.pem").into(),
        (Form::Truncated | Form::NoBegin | Form::NoEnd | Form::BadArmour | Form::BadBase64 | Form::BadContent, _) => {
            let check = if field == Field::Key {
                "openssl pkey -in key.pem -noout"
            } else {
                "openssl x509 -noout -subject -in"
            };
            let file = if field == Field::Key { String::new() } else { format!(" {name}.pem") };
            format!(
                "copy the whole file again, from -----BEGIN to the end of the -----END line; this must succeed: {check}{file}"
            )
            .into()
        }
        (Form::Empty | Form::Garbage | Form::Unknown, _) => match field {
            Field::Key => {
                "send the content of the PEM file, not its name; this shows it: openssl pkey -in key.pem".into()
            }
            Field::Cert | Field::Ca => {
                format!("send the content of the PEM file, not its name; this shows it: openssl x509 -in {name}.pem").into()
            }
        },
    }
}

pub(in crate::pki) const NEW_KEY: &str = "make a new key and have a certificate issued for it: openssl genpkey -algorithm EC \
     -pkeyopt ec_paramgen_curve:P-256 -out key.pem";

/// The step in front of a command when the file is base64 without armour.
fn undo(wrapping: Wrapping, file: &str) -> String {
    if wrapping == Wrapping::Base64 { format!("base64 -d in.txt > {file}; ") } else { String::new() }
}

fn what(form: Form, wrapping: Wrapping) -> &'static str {
    match (form, wrapping) {
        (Form::Certificate, Wrapping::Pem) => "this is a certificate, not a private key",
        (Form::Certificate, Wrapping::Binary) => "this is binary, likely a certificate in DER",
        (Form::Certificate, Wrapping::Base64) => "this is a certificate in DER, base64 without armour lines",
        (Form::Key, Wrapping::Pem) => "there is a private key among the certificates",
        (Form::Key, Wrapping::Binary) => "this is binary, likely a private key in DER",
        (Form::Key, Wrapping::Base64) => "this is a private key in DER, base64 without armour lines",
        (Form::EncryptedKey, _) => {
            "this is an encrypted private key (ENCRYPTED PRIVATE KEY), and no passphrase is taken here"
        }
        (Form::LegacyEncryptedKey, _) => {
            "this is an encrypted private key (Proc-Type: 4,ENCRYPTED), and no passphrase is taken here"
        }
        (Form::TrustedCertificate, _) => "this is a TRUSTED CERTIFICATE, OpenSSL's own form",
        (Form::PublicKey, _) => "this is a public key",
        (Form::Request, _) => "this is a certificate request (CSR)",
        (Form::Crl, _) => "this is a revocation list (CRL)",
        (Form::Pkcs7, _) => "this is a PKCS#7 bundle",
        (Form::Pkcs12, Wrapping::Base64) => "this is a PKCS#12 file (.p12, .pfx) in base64",
        (Form::Pkcs12, _) => "this is a PKCS#12 file (.p12, .pfx)",
        (Form::OpenSsh, _) => "this is a private key in OpenSSH's own form",
        (Form::SshPublic, _) => "this is an SSH public key",
        (Form::Putty, _) => "this is a private key of PuTTY (.ppk)",
        (Form::Pgp, _) => "this is PGP material",
        (Form::DsaKey, _) => "this is a DSA key, which TLS no longer takes",
        (Form::DhParameters, _) => "there are DH parameters here",
        (Form::DsaParameters, _) => "there are DSA parameters here",
        (Form::EcParameters, _) => "there is nothing here but EC parameters",
        (Form::JavaKeystore, _) => "this is a Java keystore (.jks) in base64",
        (Form::Unknown, _) => "there is a PEM block of a kind that does not belong here",
        (Form::EncodedPem, _) => "this is base64 of a PEM file",
        (Form::Empty, _) => "nothing is here",
        (Form::Garbage, Wrapping::Binary) => "this is binary, not PEM",
        (Form::Garbage, _) => "this is not PEM",
        (Form::NoBegin, _) => "a PEM block has no -----BEGIN line",
        (Form::NoEnd, _) => "a PEM block has no matching -----END line; the text may be cut off",
        (Form::BadArmour, _) => {
            "the armour lines of the PEM are damaged (five dashes, BEGIN or END, a label, five dashes)"
        }
        (Form::BadBase64, _) => "a PEM block holds something that is not base64",
        (Form::BadContent, _) => "a PEM block is damaged: its content is not what its label says",
        (Form::Truncated, Wrapping::Pem) => "a PEM block is cut off: its content announces more than is there",
        (Form::Truncated, _) => "this is DER in base64, without armour lines, and cut off",
    }
}
