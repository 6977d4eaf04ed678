//! The local interception CA, and the leafs that it issues for intercepted tunnels.
//!
//! - A leaf carries exactly one name, that of the CONNECT, and is presented whatever the client's SNI says.
//! - Minting is one P-256 signature: the CA is loaded once, and all leafs share one key that never leaves the process.
//! - The cache is bounded, and of many first requests for one host one mints and the others wait for it. Its key holds
//!   the project: projects never share state, not even this.
//! - All configurations share one stateless ticketer, so resumption costs no memory per host.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moka::sync::Cache;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, version};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::pem;
use super::validate::Field;
use crate::domain::time::now;
use crate::domain::{Host, HostKind, hex};

/// How long a CA lives.
const CA_LIFE: time::Duration = time::Duration::days(3650);
/// Clients whose clock is behind must not find a certificate of the future.
const BACKDATE: time::Duration = time::Duration::hours(1);
/// From a leaf's first to its last second (security.md: at most 24 h).
const LEAF_LIFE: time::Duration = time::Duration::hours(24);
/// A leaf is minted anew this long before it ends, so that no connection begins with a leaf about to expire.
const LEAF_MARGIN: time::Duration = time::Duration::hours(1);
/// A cached leaf is minted anew after this, well before it ends.
const CACHE_TTL: Duration = Duration::from_secs(12 * 60 * 60);
/// Longest commonName (RFC 5280 appendix A.1, ub-common-name).
const MAX_COMMON_NAME: usize = 64;

/// Why the CA cannot issue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// The stored CA cannot be read, or its key is not its certificate's.
    #[error("the stored interception CA is damaged; delete it to have a new one made")]
    Damaged,
    /// The CA has ended.
    #[error("the interception CA expired at {0}; delete it to have a new one made, and install that one")]
    Expired(String),
    /// Random numbers, a key or a signature could not be made.
    #[error("the interception CA cannot {0}")]
    Crypto(&'static str),
}

/// The interception CA: mints leafs, and keeps the rustls configurations that present them.
pub struct LeafIssuer {
    issuer: Issuer<'static, CaKey>,
    ca_pem: String,
    ca_not_after: OffsetDateTime,
    /// The public half of the key of every leaf, as rcgen wants it.
    leaf_public: LeafPublicKey,
    leaf_key: Arc<dyn rustls::sign::SigningKey>,
    provider: Arc<CryptoProvider>,
    ticketer: Arc<dyn ProducesTickets>,
    cache: Cache<(Box<str>, Host), Arc<Leaf>>,
    minted: Box<dyn Fn() + Send + Sync>,
}

/// A minted leaf's configuration, and the time in which it may be presented.
struct Leaf {
    config: Arc<ServerConfig>,
    not_before: OffsetDateTime,
    fresh_until: OffsetDateTime,
}

impl Leaf {
    /// The cache measures with a clock that stands still while a laptop sleeps; certificates do not.
    fn is_fresh(&self, now: OffsetDateTime) -> bool {
        self.not_before <= now && now < self.fresh_until
    }
}

/// Makes a new CA: its certificate and its key, PEM, one after the other. Seal it before it rests anywhere.
///
/// # Errors
/// [`IssuerError::Crypto`].
pub fn generate() -> Result<Zeroizing<Vec<u8>>, IssuerError> {
    const FAILED: IssuerError = IssuerError::Crypto("be made");
    let document =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).map_err(|_| FAILED)?;
    let key = CaKey::from_pkcs8(document.as_ref()).ok_or(FAILED)?;
    // Two CAs in one trust store must be told apart by people and by name lookups alike.
    let mark: [u8; 4] = random()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("egret local CA {}", hex(&mark)));
    params.serial_number = Some(serial()?);
    params.not_before = whole_second(now()) - BACKDATE;
    params.not_after = whole_second(now()) + CA_LIFE;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(|_| FAILED)?;
    let mut out = Zeroizing::new(Vec::with_capacity(2048));
    armour(&mut out, "CERTIFICATE", certificate.der());
    armour(&mut out, "PRIVATE KEY", document.as_ref());
    Ok(out)
}

impl LeafIssuer {
    /// Loads what [`generate`] made. Keeps at most `max_leafs` leafs (`limits.max_leafs`); calls `minted` for each one
    /// that it mints.
    ///
    /// # Errors
    /// [`IssuerError::Damaged`] and [`IssuerError::Expired`] speak of `serialised`, [`IssuerError::Crypto`] of this
    /// machine.
    pub fn load(
        serialised: &[u8],
        max_leafs: usize,
        minted: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, IssuerError> {
        const FAILED: IssuerError = IssuerError::Crypto("make a key for its leafs");
        let text = std::str::from_utf8(serialised).map_err(|_| IssuerError::Damaged)?;
        let split = text.find("-----BEGIN PRIVATE KEY-----").ok_or(IssuerError::Damaged)?;
        let (certificate_pem, key_pem) = text.split_at(split);
        let certificate = pem::chain(Field::Cert, certificate_pem)
            .ok()
            .and_then(|certificates| <[CertificateDer<'static>; 1]>::try_from(certificates).ok())
            .map(|[certificate]| certificate)
            .ok_or(IssuerError::Damaged)?;
        let key = pem::key(key_pem).ok().and_then(|key| CaKey::from_pkcs8(key.der())).ok_or(IssuerError::Damaged)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(|_| IssuerError::Damaged)?;
        if *parsed.public_key().subject_public_key.data != *key.der_bytes() {
            return Err(IssuerError::Damaged);
        }
        let ca_not_after = parsed.validity().not_after.to_datetime();
        if ca_not_after <= now() {
            return Err(IssuerError::Expired(crate::domain::time::rfc3339(ca_not_after)));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| IssuerError::Damaged)?;

        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|_| FAILED)?;
        let leaf_public = LeafPublicKey(pair.public_key_raw().into());
        let der = Zeroizing::new(pair);
        let leaf_key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&PrivateKeyDer::Pkcs8(
            PrivatePkcs8KeyDer::from(der.serialized_der()),
        ))
        .map_err(|_| FAILED)?;
        Ok(Self {
            issuer,
            ca_pem: certificate_pem.to_owned(),
            ca_not_after,
            leaf_public,
            leaf_key,
            provider: Arc::new(default_provider()),
            ticketer: Ticketer::new().map_err(|_| FAILED)?,
            cache: Cache::builder()
                .max_capacity(u64::try_from(max_leafs.max(1)).unwrap_or(u64::MAX))
                .time_to_live(CACHE_TTL)
                .build(),
            minted: Box::new(minted),
        })
    }

    /// The CA's certificate in PEM, as clients install it. Never the key.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// End of the CA's validity.
    #[must_use]
    pub fn ca_not_after(&self) -> OffsetDateTime {
        self.ca_not_after
    }

    /// The configuration that presents a leaf for `host` alone, whatever the client's SNI says (also if it sends none):
    /// TLS 1.2 and 1.3, ALPN `h2` and `http/1.1`. From the cache, or minted now (one signature; at most one per project and host
    /// at a time).
    ///
    /// # Errors
    /// The CA has expired meanwhile, or signing failed.
    pub fn server_config(&self, project_id: &str, host: &Host) -> Result<Arc<ServerConfig>, IssuerError> {
        let key = (Box::from(project_id), host.clone());
        let leaf = self.leaf(key.clone())?;
        if leaf.is_fresh(now()) {
            return Ok(leaf.config.clone());
        }
        self.cache.invalidate(&key);
        Ok(self.leaf(key)?.config.clone())
    }

    fn leaf(&self, key: (Box<str>, Host)) -> Result<Arc<Leaf>, IssuerError> {
        let host = key.1.clone();
        self.cache.try_get_with(key, || self.mint(&host, now()).map(Arc::new)).map_err(|error| (*error).clone())
    }

    fn mint(&self, host: &Host, now: OffsetDateTime) -> Result<Leaf, IssuerError> {
        const FAILED: IssuerError = IssuerError::Crypto("sign a leaf");
        if self.ca_not_after <= now {
            return Err(IssuerError::Expired(crate::domain::time::rfc3339(self.ca_not_after)));
        }
        let not_before = whole_second(now) - BACKDATE;
        let not_after = (not_before + LEAF_LIFE).min(self.ca_not_after);
        let mut params = CertificateParams::default();
        let (name, common) = match host.kind() {
            HostKind::Name => {
                (SanType::DnsName(host.as_str().try_into().map_err(|_| FAILED)?), host.as_str().to_owned())
            }
            HostKind::V4(address) => (SanType::IpAddress(address.into()), address.to_string()),
            HostKind::V6(address) => (SanType::IpAddress(address.into()), address.to_string()),
        };
        params.subject_alt_names = vec![name];
        params.distinguished_name = common_name(if common.len() <= MAX_COMMON_NAME { &common } else { "egret leaf" });
        params.serial_number = Some(serial()?);
        params.not_before = not_before;
        params.not_after = not_after;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&self.leaf_public, &self.issuer).map_err(|_| FAILED)?;
        (self.minted)();
        Ok(Leaf {
            config: Arc::new(self.config(certificate.der().clone())?),
            not_before,
            fresh_until: not_after - LEAF_MARGIN.min((not_after - now) / 2),
        })
    }

    fn config(&self, leaf: CertificateDer<'static>) -> Result<ServerConfig, IssuerError> {
        // The leaf alone: whoever trusts the CA has it, and nobody else is helped by it.
        let certified = Arc::new(CertifiedKey::new(vec![leaf], self.leaf_key.clone()));
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(|_| IssuerError::Crypto("offer TLS"))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = self.ticketer.clone();
        Ok(config)
    }
}

impl fmt::Debug for LeafIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeafIssuer").field("ca_not_after", &self.ca_not_after).finish_non_exhaustive()
    }
}

/// The CA's key. rcgen's own type keeps the DER in the clear beside the parsed key for as long as it lives; this does
/// not.
struct CaKey(EcdsaKeyPair);

impl CaKey {
    fn from_pkcs8(der: &[u8]) -> Option<Self> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der).ok().map(Self)
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match self.0.sign(&SystemRandom::new(), message) {
            Ok(signature) => Ok(signature.as_ref().to_vec()),
            Err(_) => Err(rcgen::Error::RemoteKeyError),
        }
    }
}

/// The point of the key that all leafs share.
struct LeafPublicKey(Box<[u8]>);

impl PublicKeyData for LeafPublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut out = DistinguishedName::new();
    out.push(DnType::CommonName, name);
    out
}

/// 127 random bits: positive, and never a number that is used twice.
fn serial() -> Result<SerialNumber, IssuerError> {
    let mut bytes: [u8; 16] = random()?;
    // Positive and without a leading zero byte (RFC 5280 section 4.1.2.2).
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn random<const N: usize>() -> Result<[u8; N], IssuerError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| IssuerError::Crypto("get random numbers"))?;
    Ok(bytes)
}

/// X.509 knows whole seconds.
fn whole_second(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).unwrap_or(at)
}

fn armour(out: &mut Zeroizing<Vec<u8>>, label: &str, der: &[u8]) {
    let body = Zeroizing::new(STANDARD.encode(der));
    out.extend_from_slice(format!("-----BEGIN {label}-----\n").as_bytes());
    for line in body.as_bytes().chunks(64) {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
}
