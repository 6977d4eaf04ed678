//! Certificates for both sides, minted fresh for every test.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// A certificate authority.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A chain with its key, as PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    /// The common name.
    pub(crate) name: String,
    /// Leaf first, then intermediates.
    pub(crate) chain: String,
    /// PKCS#8.
    pub(crate) key: String,
    /// The certificate of the authority that vouches for the chain.
    pub(crate) ca: String,
    /// As nginx and openssl print it: upper-case hex.
    pub(crate) serial: String,
}

impl Authority {
    /// A self-signed authority.
    pub(crate) fn root(name: &str) -> Self {
        let key = KeyPair::generate().expect("P-256");
        Self { issuer: CertifiedIssuer::self_signed(authority_params(name), key).expect("a valid authority") }
    }

    /// An authority below this one.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("P-256");
        Self {
            issuer: CertifiedIssuer::signed_by(authority_params(name), key, &self.issuer).expect("a valid authority"),
        }
    }

    /// Its certificate, PEM.
    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Its own certificate with its key: what nobody should register as a client's.
    pub(crate) fn itself(&self, name: &str) -> Pair {
        let key = self.issuer.key().serialize_pem();
        Pair { name: name.to_owned(), chain: self.pem(), key, ca: self.pem(), serial: String::new() }
    }

    /// A server certificate for these names (DNS names and addresses).
    pub(crate) fn server(&self, names: &[&str]) -> Pair {
        self.pair(names[0], names, ExtendedKeyUsagePurpose::ServerAuth, &KeyPair::generate().expect("P-256"))
    }

    /// A client certificate with this common name, on P-256.
    pub(crate) fn client(&self, name: &str) -> Pair {
        self.client_with(name, &KeyPair::generate().expect("P-256"))
    }

    /// A client certificate that ends at this time.
    pub(crate) fn client_until(&self, name: &str, not_after: OffsetDateTime) -> Pair {
        self.client_within((OffsetDateTime::now_utc() - Duration::hours(1), not_after), name)
    }

    /// A client certificate that expired an hour ago.
    pub(crate) fn expired(&self, name: &str) -> Pair {
        let now = OffsetDateTime::now_utc();
        self.client_within((now - Duration::days(2), now - Duration::hours(1)), name)
    }

    fn client_within(&self, dates: (OffsetDateTime, OffsetDateTime), name: &str) -> Pair {
        let key = KeyPair::generate().expect("P-256");
        self.issue_for(dates, name, &[], Vec::new(), ExtendedKeyUsagePurpose::ClientAuth, &key)
    }

    /// A client certificate for a given key.
    pub(crate) fn client_with(&self, name: &str, key: &KeyPair) -> Pair {
        self.pair(name, &[], ExtendedKeyUsagePurpose::ClientAuth, key)
    }

    /// A client certificate with these DNS names and URIs among its subject alternative names.
    pub(crate) fn caller(&self, name: &str, names: &[&str], uris: &[&str]) -> Pair {
        let key = KeyPair::generate().expect("P-256");
        let uris = uris.iter().map(|&uri| SanType::URI(uri.try_into().expect("a URI is ASCII")));
        self.issue(name, names, uris.collect(), ExtendedKeyUsagePurpose::ClientAuth, &key)
    }

    fn pair(&self, name: &str, names: &[&str], usage: ExtendedKeyUsagePurpose, key: &KeyPair) -> Pair {
        self.issue(name, names, Vec::new(), usage, key)
    }

    fn issue(
        &self,
        name: &str,
        names: &[&str],
        uris: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
        key: &KeyPair,
    ) -> Pair {
        let now = OffsetDateTime::now_utc();
        self.issue_for((now - Duration::hours(1), now + Duration::days(60)), name, names, uris, usage, key)
    }

    fn issue_for(
        &self,
        dates: (OffsetDateTime, OffsetDateTime),
        name: &str,
        names: &[&str],
        uris: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
        key: &KeyPair,
    ) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names of tests are valid");
        params.subject_alt_names.extend(uris);
        params.distinguished_name = common_name(name);
        params.serial_number = Some(SerialNumber::from_slice(&serial()));
        (params.not_before, params.not_after) = dates;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let serial = params.serial_number.as_ref().expect("set above").to_bytes();
        let leaf = params.signed_by(key, &self.issuer).expect("a valid leaf");
        Pair {
            name: name.to_owned(),
            chain: leaf.pem(),
            key: key.serialize_pem(),
            ca: self.pem(),
            serial: serial.iter().map(|byte| format!("{byte:02X}")).collect(),
        }
    }
}

impl Pair {
    /// With an intermediate behind the leaf, and `root` as the authority that is named in uploads.
    pub(crate) fn through(mut self, intermediate: &Authority, root: &Authority) -> Self {
        self.chain.push_str(&intermediate.pem());
        self.ca = root.pem();
        self
    }

    /// Writes `NAME.crt`, `NAME.key` and `NAME-ca.crt`; gives their paths.
    pub(crate) fn write(&self, folder: &Path) -> [PathBuf; 3] {
        let file = |suffix: &str, text: &str| {
            let path = folder.join(format!("{}{suffix}", self.name));
            std::fs::write(&path, text).expect("the test's own folder is writable");
            path
        };
        [file(".crt", &self.chain), file(".key", &self.key), file("-ca.crt", &self.ca)]
    }

    /// What nginx and openssl show as subject: `CN=name`.
    pub(crate) fn subject(&self) -> String {
        format!("CN={}", self.name)
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(365);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

/// 16 random bytes that DER and every tool print alike: positive, and no leading zero.
fn serial() -> [u8; 16] {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    bytes[0] = bytes[0] & 0x3f | 0x40;
    bytes
}
