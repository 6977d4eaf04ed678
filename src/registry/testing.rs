//! What the tests of this floor and of those above make snapshots of.

use std::sync::{Arc, OnceLock};

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::{Binding, Certificate, Snapshot, Target};
use crate::config::PostQuantum;
use crate::domain::{
    CertificateId, CertificateInfo, Fingerprint, Holder, KeyKind, Pattern, ProjectInfo, ServerTrust, Source,
};
use crate::identity::{ClientIdentity, Show, TlsFactory, UpstreamTls};
use crate::pki::anchors::{SharedAnchors, Vouching};

/// One factory and one set of anchors for all tests.
pub(crate) fn shared() -> (Arc<TlsFactory>, Arc<SharedAnchors>) {
    static SHARED: OnceLock<(Arc<TlsFactory>, Arc<SharedAnchors>)> = OnceLock::new();
    SHARED
        .get_or_init(|| {
            let factory = TlsFactory::new(PostQuantum::Off);
            let anchors = SharedAnchors::load(&[], factory.provider()).expect("no anchors, no fault");
            (Arc::new(factory), Arc::new(anchors))
        })
        .clone()
}

/// Ordinary TLS.
pub(crate) fn anonymous() -> Arc<UpstreamTls> {
    let (factory, anchors) = shared();
    factory.make(None, Show::Always, anchors.set(ServerTrust::SystemAndCa, None, &[], &Vouching::none()), 8)
}

/// A project without bindings.
pub(crate) fn empty(info: ProjectInfo) -> Snapshot {
    Snapshot::empty(Arc::new(info), anonymous())
}

/// A certificate with this id; all have the same key.
pub(crate) fn certificate(id: &str) -> Arc<Certificate> {
    static KEY: OnceLock<Arc<CertifiedKey>> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["client.test".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let chain: Vec<CertificateDer<'static>> = vec![made.cert.der().clone()];
        Arc::new(CertifiedKey::new(chain, any_supported_type(&key).expect("a usable key")))
    });
    let info = Arc::new(CertificateInfo {
        id: CertificateId::parse(id).expect("an id"),
        subject: "CN=client.test".to_owned(),
        issuer: "CN=client.test".to_owned(),
        serial_number: "1".to_owned(),
        signature: "ECDSAWithSHA256",
        not_before: time::OffsetDateTime::UNIX_EPOCH,
        not_after: time::OffsetDateTime::UNIX_EPOCH + time::Duration::days(36_500),
        fingerprint: Fingerprint([1; 32]),
        spki_fingerprint: Fingerprint([2; 32]),
        key: KeyKind::P256,
        chain_length: 1,
        uploaded_at: time::OffsetDateTime::UNIX_EPOCH,
        warnings: Vec::new(),
        skip_validation: false,
        source: Source::Api,
        holder: Holder::Project,
    });
    let identity = Arc::new(ClientIdentity::new(info.clone(), key.clone(), Vec::new()));
    let (factory, anchors) = shared();
    let trust = anchors.set(ServerTrust::SystemAndCa, None, &[], &Vouching::none());
    Arc::new(Certificate {
        info,
        cert_pem: String::new(),
        ca_pem: String::new(),
        digest: [0; 32],
        bound: factory.make(Some(identity.clone()), Show::Always, trust.clone(), 8),
        general: factory.make(Some(identity.clone()), Show::UnlessOthersAreNamed, trust, 8),
        tls13: super::Tls13Objects::default(),
        identity,
    })
}

/// A binding written through the API.
pub(crate) fn binding(pattern: &str, target: Target) -> Binding {
    Binding {
        pattern: Pattern::parse(pattern).expect(pattern),
        target,
        source: Source::Api,
        since: time::OffsetDateTime::UNIX_EPOCH,
        lift: true,
        tls13_only: false,
        previous: None,
        association: None,
        derived: false,
    }
}
