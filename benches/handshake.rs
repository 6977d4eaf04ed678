//! An upstream mTLS handshake through an `UpstreamTls`, in memory: full, and resumed by its own tickets.

use std::io;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use egret::config::PostQuantum;
use egret::domain::ServerTrust;
use egret::identity::{ClientIdentity, Show, TlsFactory, UpstreamTls};
use egret::pki::anchors::{SharedAnchors, Vouching};
use egret::pki::validate::{Material, validate};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection};

struct World {
    factory: TlsFactory,
    anchors: SharedAnchors,
    identity: Arc<ClientIdentity>,
    server: Arc<ServerConfig>,
    ca: Vec<rustls::pki_types::CertificateDer<'static>>,
}

fn world() -> World {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca_params = CertificateParams::new(vec![]).unwrap();
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = ca_params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca_params, ca_key);
    let issue = |names: Vec<String>, purpose| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![purpose];
        let now = time::OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - time::Duration::hours(1), now + time::Duration::days(60));
        (params.signed_by(&key, &issuer).unwrap(), key)
    };
    let (server_cert, server_key) = issue(vec!["origin.test".into()], ExtendedKeyUsagePurpose::ServerAuth);
    let (client_cert, client_key) = issue(vec![], ExtendedKeyUsagePurpose::ClientAuth);

    let factory = TlsFactory::new(PostQuantum::Prefer);
    let provider = factory.provider().clone();
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![server_cert.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der())),
        )
        .unwrap();
    server.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();

    let valid = validate(
        Material {
            cert: &client_cert.pem(),
            key: &client_key.serialize_pem(),
            ca: Some(&ca.pem()),
            skip_validation: false,
        },
        time::OffsetDateTime::now_utc(),
    )
    .unwrap_or_else(|faults| panic!("{faults:?}"));
    let info = egret::domain::CertificateInfo {
        id: egret::domain::CertificateId::from_bits([7; 16]),
        subject: valid.subject,
        issuer: valid.issuer,
        serial_number: valid.serial_number,
        signature: valid.signature,
        not_before: valid.not_before,
        not_after: valid.not_after,
        fingerprint: valid.fingerprint,
        spki_fingerprint: valid.spki_fingerprint,
        key: valid.key,
        chain_length: valid.certified.cert.len(),
        uploaded_at: time::OffsetDateTime::now_utc(),
        warnings: valid.warnings,
        skip_validation: false,
        source: egret::domain::Source::Api,
        holder: egret::domain::Holder::Project,
    };
    let identity = Arc::new(ClientIdentity::new(Arc::new(info), valid.certified, valid.issuer_names));
    let anchors = SharedAnchors::load(&[], &provider).unwrap();
    World { factory, anchors, identity, server: Arc::new(server), ca: vec![ca.der().clone()] }
}

impl World {
    fn tls(&self) -> Arc<UpstreamTls> {
        let trust = self.anchors.set(ServerTrust::Ca, Some(&self.ca), &[], &Vouching::none());
        self.factory.make(Some(self.identity.clone()), Show::Always, trust, 8)
    }

    /// One handshake and one byte each way, so that the tickets arrive.
    fn shake(&self, tls: &Arc<UpstreamTls>) -> HandshakeKind {
        let mut client = ClientConnection::new(tls.config(), ServerName::try_from("origin.test").unwrap()).unwrap();
        let mut server = ServerConnection::new(self.server.clone()).unwrap();
        let mut wire = Vec::new();
        while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
            pump(&mut client, &mut server, &mut wire);
            pump(&mut server, &mut client, &mut wire);
        }
        client.handshake_kind().expect("the handshake is over")
    }
}

fn pump<A, B>(from: &mut rustls::ConnectionCommon<A>, to: &mut rustls::ConnectionCommon<B>, wire: &mut Vec<u8>)
where
    A: rustls::SideData,
    B: rustls::SideData,
{
    wire.clear();
    while from.wants_write() {
        from.write_tls(wire).unwrap();
    }
    let mut rest = io::Cursor::new(&wire[..]);
    while (rest.position() as usize) < wire.len() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets().unwrap();
    }
}

fn handshakes(c: &mut Criterion) {
    let world = world();
    let mut group = c.benchmark_group("handshake");
    group.bench_function("full", |b| {
        b.iter_batched(
            || world.tls(),
            |tls| assert_eq!(world.shake(&tls), HandshakeKind::Full),
            criterion::BatchSize::SmallInput,
        );
    });
    let tls = world.tls();
    world.shake(&tls);
    group.bench_function("resumed", |b| b.iter(|| assert_eq!(world.shake(&tls), HandshakeKind::Resumed)));
    group.finish();
}

criterion_group!(benches, handshakes);
criterion_main!(benches);
