//! Certificates for tests: minted with rcgen where a field matters, by the real `openssl` where a form does.

use std::path::PathBuf;
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;

/// A folder in which `openssl` runs. A missing tool fails the test.
pub(super) struct Openssl {
    folder: tempfile::TempDir,
}

impl Openssl {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a tool with arguments separated by blanks; it must succeed.
    pub(super) fn tool(&self, tool: &str, arguments: &str) -> &Self {
        // '' stands for an empty argument, as in a shell.
        let arguments = arguments.split_whitespace().map(|a| if a == "''" { "" } else { a });
        let out = Command::new(tool)
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .unwrap_or_else(|error| panic!("{tool} cannot be run: {error}"));
        assert!(out.status.success(), "{tool} failed: {}", String::from_utf8_lossy(&out.stderr));
        self
    }

    /// Runs `openssl`.
    pub(super) fn run(&self, arguments: &str) -> &Self {
        self.tool("openssl", arguments)
    }

    pub(super) fn text(&self, name: &str) -> String {
        String::from_utf8(self.bytes(name)).expect("text")
    }

    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        std::fs::write(self.path(name), content).expect("written");
        self
    }

    /// `ca.pem` with `ca.key`, and `cert.pem` for the key in `key.pem`, signed with `-DIGEST` for `extensions`.
    pub(super) fn issue(&self, digest: &str, extensions: &str) -> &Self {
        self.run("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=ca")
            .run("req -new -key key.pem -subj /CN=client -out client.csr")
            .write("ext.cnf", extensions)
            .run(&format!(
                "x509 -req -in client.csr -CA ca.pem -CAkey ca.key -set_serial 0x0A1B -days 90 {digest} -extfile ext.cnf -out cert.pem"
            ))
    }
}

/// A certificate with its key.
pub(super) struct Minted {
    pub(super) pem: String,
    pub(super) params: CertificateParams,
    pub(super) key: KeyPair,
}

impl Minted {
    pub(super) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }
}

fn params(name: &str, now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = now - time::Duration::days(1);
    params.not_after = now + time::Duration::days(365);
    params
}

/// A CA: self-signed, or signed by `issuer`.
pub(super) fn ca(
    name: &str,
    issuer: Option<&Minted>,
    now: OffsetDateTime,
    change: impl FnOnce(&mut CertificateParams),
) -> Minted {
    let mut params = params(name, now);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut params);
    sign(params, issuer, KeyPair::generate().expect("a key"))
}

/// A client certificate with clientAuth.
pub(super) fn leaf(
    name: &str,
    issuer: Option<&Minted>,
    now: OffsetDateTime,
    change: impl FnOnce(&mut CertificateParams),
) -> Minted {
    let mut params = params(name, now);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    sign(params, issuer, KeyPair::generate().expect("a key"))
}

pub(super) fn sign(params: CertificateParams, issuer: Option<&Minted>, key: KeyPair) -> Minted {
    let certificate = match issuer {
        Some(issuer) => params.signed_by(&key, &issuer.issuer()),
        None => params.self_signed(&key),
    };
    Minted { pem: certificate.expect("signed").pem(), params, key }
}

/// No eight characters in a row of any line of `inputs` may stand in `shown`, but for armour.
pub(super) fn assert_no_echo(shown: &str, inputs: &[&str]) {
    for input in inputs {
        for line in input.lines().filter(|l| !l.contains("-----") && !l.starts_with("Proc-Type")) {
            let line: Vec<char> = line.trim().chars().collect();
            for window in line.windows(8) {
                let window: String = window.iter().collect();
                assert!(!shown.contains(&window), "{window:?} of the input is in {shown:?}");
            }
        }
    }
}
