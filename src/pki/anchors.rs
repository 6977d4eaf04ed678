//! Who vouches for servers: the system's roots, configured anchors, a binding's own `ca`, pins, and the CA bundles that
//! a project has bound to them.
//!
//! There is no switch that turns verification off.

mod vouching;

pub use vouching::{Bundle, Vouching, towards};

use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::{files, pem};
use crate::domain::{Origin, ServerTrust};

/// A file of `[trust] anchors` with what is in it.
pub type AnchorFile = (PathBuf, Vec<CertificateDer<'static>>);

/// Reads the files of `[trust] anchors`. Blocks.
///
/// # Errors
/// The first file that cannot be read, or that holds something else than certificates.
pub fn read(paths: &[PathBuf]) -> Result<Vec<AnchorFile>, AnchorError> {
    let one = |path: &PathBuf| {
        let certificates =
            files::mounted_text(path).and_then(|text| pem::certificates(&text).map_err(|e| e.to_string()));
        match certificates {
            Ok(certificates) => Ok((path.clone(), certificates)),
            Err(what) => Err(AnchorError { path: path.clone(), what }),
        }
    };
    paths.iter().map(one).collect()
}

/// SHA-256 over all of them: equal anchors, equal digest, wherever they lie.
#[must_use]
pub fn digest_of(anchors: &[AnchorFile]) -> [u8; 32] {
    hash_all(anchors.iter().flat_map(|(_, certificates)| certificates))
}

/// SHA-256 over these certificates, in their order.
#[must_use]
pub fn hash_all<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    for certificate in certificates {
        hash.update(&u64::try_from(certificate.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(certificate);
    }
    hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Why anchors could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {what}", path = path.display())]
pub struct AnchorError {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

/// What is shared by every set: the roots of the machine and of the configuration, each with one verifier.
#[derive(Debug)]
pub struct SharedAnchors {
    /// Of the configured ones.
    digest: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
    provider: Arc<CryptoProvider>,
    /// System roots and `[trust] anchors`; `None` if there is not one root.
    system: Option<Arc<WebPkiServerVerifier>>,
    /// `[trust] anchors` alone.
    configured: Option<Arc<WebPkiServerVerifier>>,
}

impl SharedAnchors {
    /// Loads the system's roots and these certificates.
    ///
    /// # Errors
    /// A certificate of `anchors` that cannot be an anchor. An empty system store is no error: then only
    /// configured anchors and bindings' own `ca` vouch, and a warning says so.
    pub fn load(anchors: &[AnchorFile], provider: &Arc<CryptoProvider>) -> Result<Self, AnchorError> {
        let mut configured = RootCertStore::empty();
        for (path, certificates) in anchors {
            for certificate in certificates {
                configured.add(certificate.clone()).map_err(|_| AnchorError {
                    path: path.clone(),
                    what: "holds a certificate that cannot be a trust anchor".to_owned(),
                })?;
            }
        }
        let mut system = configured.clone();
        let native = rustls_native_certs::load_native_certs();
        let (added, _) = system.add_parsable_certificates(native.certs);
        if added == 0 {
            tracing::warn!(
                "no trust anchors found on this system; install ca-certificates, set SSL_CERT_FILE, or name roots with [trust] anchors"
            );
        }
        Ok(Self {
            digest: digest_of(anchors),
            algorithms: provider.signature_verification_algorithms,
            system: verifier(system, provider),
            configured: verifier(configured, provider),
            provider: provider.clone(),
        })
    }

    /// [`digest_of`] the configured ones.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The set for a project with its bundles and, for an exact or wildcard binding, its own `ca`. Where only the system
    /// is trusted, neither vouches.
    #[must_use]
    pub fn set(
        &self,
        servers: ServerTrust,
        ca: Option<&[CertificateDer<'static>]>,
        pins: &[CertificateDer<'static>],
        vouching: &Arc<Vouching>,
    ) -> Arc<TrustAnchors> {
        let shared = match servers {
            ServerTrust::SystemAndCa | ServerTrust::System => self.system.clone(),
            ServerTrust::Ca => self.configured.clone(),
        };
        let own = match servers {
            ServerTrust::System => None,
            ServerTrust::SystemAndCa | ServerTrust::Ca => ca.and_then(|certificates| {
                let mut roots = RootCertStore::empty();
                // A leaf in `ca` is a pin below, never an anchor for other names.
                roots.add_parsable_certificates(certificates.iter().filter(|c| is_ca(c)).cloned());
                verifier(roots, &self.provider)
            }),
        };
        let (pins, vouching) = match servers {
            ServerTrust::System => (Vec::new(), Vouching::none()),
            ServerTrust::SystemAndCa | ServerTrust::Ca => (pins.to_vec(), vouching.clone()),
        };
        let verifier = Verifier { algorithms: self.algorithms, shared, own, vouching, pins };
        Arc::new(TrustAnchors { verifier: Arc::new(verifier) })
    }
}

fn verifier(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Option<Arc<WebPkiServerVerifier>> {
    if roots.is_empty() {
        return None;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().ok()
}

/// Whether basicConstraints says CA (a certificate without extensions, X.509 v1, counts when it is self-issued).
fn is_ca(certificate: &CertificateDer<'_>) -> bool {
    match x509_parser::parse_x509_certificate(certificate) {
        Ok((_, parsed)) => match parsed.basic_constraints() {
            Ok(Some(constraints)) => constraints.value.ca,
            Ok(None) => parsed.version().0 == 0 && parsed.subject() == parsed.issuer(),
            Err(_) => false,
        },
        Err(_) => false,
    }
}

/// One set of trust anchors, with its verifier.
#[derive(Debug)]
pub struct TrustAnchors {
    verifier: Arc<Verifier>,
}

impl TrustAnchors {
    /// The verifier, the same object every time (rustls resumes only where it is).
    #[must_use]
    pub fn verifier(&self) -> Arc<dyn ServerCertVerifier> {
        self.verifier.clone()
    }

    /// See [`Vouching::apart`].
    #[must_use]
    pub fn apart(&self, origin: &Origin) -> Option<u16> {
        self.verifier.vouching.apart(origin)
    }
}

#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    shared: Option<Arc<WebPkiServerVerifier>>,
    own: Option<Arc<WebPkiServerVerifier>>,
    vouching: Arc<Vouching>,
    pins: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut refusal = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let bundles = self.vouching.at_hand();
        for verifier in [&self.shared, &self.own].into_iter().flatten().chain(bundles) {
            match verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
                Ok(verified) => return Ok(verified),
                // A path that the next one finds is as good; if none does, a reason that says more than this is told.
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
                Err(other) => refusal = other,
            }
        }
        if self.pins.iter().any(|pin| pin.as_ref() == end_entity.as_ref()) {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            check_dates(end_entity, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        if refusal == Error::InvalidCertificate(CertificateError::UnknownIssuer) {
            vouching::note_unknown(end_entity, intermediates);
        }
        Err(refusal)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn check_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    if now < validity.not_before.timestamp() {
        return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
    }
    if now > validity.not_after.timestamp() {
        return Err(Error::InvalidCertificate(CertificateError::Expired));
    }
    Ok(())
}
