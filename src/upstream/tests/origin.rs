//! A TLS origin for the tests: demands a certificate of its CA, counts what it sees, misbehaves on demand.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::script::{Connection, Script};
use crate::config::PostQuantum;
use crate::domain::{
    CertificateId, CertificateInfo, Fingerprint, Holder, KeyKind, Origin, Pattern, PortRule, ServerTrust, Source,
};
use crate::identity::{ClientIdentity, Show, TlsFactory, UpstreamTls};
use crate::pki::anchors::{Bundle, SharedAnchors, Vouching};

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Behaviour {
    pub(super) close_after_each: bool,
    /// Reads the second request of a connection and closes without a byte of response.
    pub(super) drop_second_request: bool,
    /// Sends a head and one chunk, then nothing.
    pub(super) stall_body: bool,
    /// Reads requests and never answers.
    pub(super) silent: bool,
    pub(super) tls12: bool,
    /// Serves clients without a certificate, too.
    pub(super) optional: bool,
    /// Offers HTTP/2 before HTTP/1.1.
    pub(super) h2: Option<Script>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) full: usize,
    pub(super) resumed: usize,
    pub(super) requests: usize,
    pub(super) connections: usize,
    /// Streams open at once on one connection, at most.
    pub(super) most_streams: usize,
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

pub(super) struct World {
    pub(super) origin: Origin,
    seen: Arc<Mutex<Seen>>,
    closed: watch::Receiver<usize>,
    /// What another port of the same server is made of.
    twin: (TlsAcceptor, Behaviour, watch::Sender<usize>),
    ca: Ca,
    factory: TlsFactory,
    anchors: SharedAnchors,
}

fn ca(name: &str) -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    Ca { der: certificate.der().clone(), issuer: Issuer::new(params, key) }
}

fn issue(ca: &Ca, name: &str, sans: Vec<String>) -> (CertificateDer<'static>, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(sans).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.signed_by(&key, &ca.issuer).unwrap().der().clone(), key)
}

fn key_der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

impl World {
    pub(super) async fn start(behaviour: Behaviour) -> Self {
        let authority = ca("test CA");
        let factory = TlsFactory::new(PostQuantum::Prefer);
        let provider = factory.provider().clone();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der.clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let verifier = if behaviour.optional { verifier.allow_unauthenticated() } else { verifier };
        let verifier = verifier.build().unwrap();
        let (certificate, key) = issue(
            &authority,
            "origin",
            ["origin.localhost", "twin.localhost", "origin.test"].map(str::to_owned).to_vec(),
        );
        let versions = if behaviour.tls12 { vec![&rustls::version::TLS12] } else { vec![&rustls::version::TLS13] };
        let mut config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key_der(&key))
            .unwrap();
        if behaviour.h2.is_some() {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (closing, closed) = watch::channel(0);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(accept(listener, acceptor.clone(), behaviour, seen.clone(), closing.clone()));
        Self {
            origin: Origin::parse(&format!("https://origin.localhost:{port}")).unwrap(),
            seen,
            closed,
            twin: (acceptor, behaviour, closing),
            ca: authority,
            anchors: SharedAnchors::load(&[], &provider).unwrap(),
            factory,
        }
    }

    /// Another port of the same server, with the same sessions.
    pub(super) async fn another_port(&self) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (acceptor, behaviour, closing) = self.twin.clone();
        tokio::spawn(accept(listener, acceptor, behaviour, self.seen.clone(), closing));
        Origin::new(self.origin.host().clone(), port)
    }

    /// The same under a name that is not loopback's, as a parent proxy resolves it.
    pub(super) fn abroad(&self) -> Origin {
        Origin::parse(&format!("https://origin.test:{}", self.origin.port())).unwrap()
    }

    /// A server of the same CA under another name.
    pub(super) fn acceptor(&self, name: &str) -> TlsAcceptor {
        let (certificate, key) = issue(&self.ca, name, vec![name.to_owned()]);
        let config = ServerConfig::builder_with_provider(self.factory.provider().clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key_der(&key))
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    /// The CA's certificate, PEM.
    pub(super) fn ca_pem(&self) -> String {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(&self.ca.der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    }

    /// Parents as they are written, ready.
    pub(super) fn parents(&self, settings: &[crate::config::ParentSettings]) -> crate::upstream::Parents {
        crate::upstream::Parents::load(settings, &self.anchors, &self.factory).unwrap()
    }

    pub(super) fn seen(&self) -> Seen {
        *self.seen.lock().unwrap()
    }

    /// Waits until the origin saw this many connections end.
    pub(super) async fn closed(&self, count: usize) {
        let mut closed = self.closed.clone();
        let wait = closed.wait_for(|n| *n >= count);
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("connections close").unwrap();
    }

    fn identity(&self, ca: &Ca, name: &str) -> Arc<ClientIdentity> {
        let (certificate, key) = issue(ca, name, vec![]);
        let now = time::OffsetDateTime::now_utc();
        let info = CertificateInfo {
            id: CertificateId::from_bits([0; 16]),
            subject: format!("CN={name}"),
            issuer: String::new(),
            serial_number: String::new(),
            signature: "ECDSAWithSHA256",
            not_before: now,
            not_after: now,
            fingerprint: Fingerprint([0; 32]),
            spki_fingerprint: Fingerprint([0; 32]),
            key: KeyKind::P256,
            chain_length: 1,
            uploaded_at: now,
            warnings: vec![],
            skip_validation: false,
            source: Source::Api,
            holder: Holder::Project,
        };
        let certified = CertifiedKey::from_der(vec![certificate], key_der(&key), self.factory.provider()).unwrap();
        let issuer = x509_parser::parse_x509_certificate(&ca.der).unwrap().1.subject().as_raw().to_vec();
        Arc::new(ClientIdentity::new(Arc::new(info), Arc::new(certified), vec![issuer]))
    }

    fn make(&self, identity: Option<Arc<ClientIdentity>>, show: Show, trusting: bool) -> Arc<UpstreamTls> {
        let own = [self.ca.der.clone()];
        let trust = self.anchors.set(ServerTrust::Ca, trusting.then_some(&own[..]), &[], &Vouching::none());
        self.factory.make(identity, show, trust, 8)
    }

    pub(super) fn tls(&self, name: &str) -> Arc<UpstreamTls> {
        self.make(Some(self.identity(&self.ca, name)), Show::Always, true)
    }

    pub(super) fn anonymous(&self) -> Arc<UpstreamTls> {
        self.make(None, Show::Always, true)
    }

    /// Trusts the origin for nothing but a bundle that is bound to these ports of it.
    pub(super) fn vouched_for(&self, ports: PortRule) -> Arc<UpstreamTls> {
        let bundle = Bundle {
            id: CertificateId::from_bits([0; 16]),
            pattern: Pattern::Host(self.origin.host().clone(), ports),
            certificates: vec![self.ca.der.clone()],
        };
        let trust = self.anchors.set(ServerTrust::Ca, None, &[], &self.anchors.vouching(&[bundle]));
        self.factory.make(Some(self.identity(&self.ca, "alice")), Show::Always, trust, 8)
    }

    pub(super) fn untrusting(&self) -> Arc<UpstreamTls> {
        self.make(Some(self.identity(&self.ca, "alice")), Show::Always, false)
    }

    /// An identity of another CA, shown whatever the origin accepts.
    pub(super) fn stranger(&self) -> Arc<UpstreamTls> {
        self.make(Some(self.identity(&ca("other CA"), "stranger")), Show::Always, true)
    }

    /// The same as a project default: held back, because the origin names its CAs.
    pub(super) fn default_of_stranger(&self) -> Arc<UpstreamTls> {
        self.make(Some(self.identity(&ca("other CA"), "stranger")), Show::UnlessOthersAreNamed, true)
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    behaviour: Behaviour,
    seen: Arc<Mutex<Seen>>,
    closing: watch::Sender<usize>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, seen, closing) = (acceptor.clone(), seen.clone(), closing.clone());
        tokio::spawn(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, behaviour, &seen).await;
            }
            closing.send_modify(|n| *n += 1);
        });
    }
}

async fn serve(
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    behaviour: Behaviour,
    seen: &Arc<Mutex<Seen>>,
) {
    let connection = stream.get_ref().1;
    let name = connection.peer_certificates().map(|chain| common_name(&chain[0])).unwrap_or_default();
    let number = {
        let mut seen = seen.lock().unwrap();
        match connection.handshake_kind() {
            Some(HandshakeKind::Resumed) => seen.resumed += 1,
            _ => seen.full += 1,
        }
        seen.connections += 1;
        seen.connections
    };
    if let (Some(script), Some(b"h2")) = (behaviour.h2, connection.alpn_protocol()) {
        let text = format!("{name} #{number}");
        let _ = Connection::new(stream, script, text, number == 1, seen.clone()).serve().await;
        return;
    }
    let served = Arc::new(Mutex::new(0));
    let service = service_fn(move |_: Request<Incoming>| {
        let (name, served, seen) = (name.clone(), served.clone(), seen.clone());
        async move {
            seen.lock().unwrap().requests += 1;
            if behaviour.silent {
                std::future::pending::<()>().await;
            }
            let turn = {
                let mut served = served.lock().unwrap();
                *served += 1;
                *served
            };
            if behaviour.drop_second_request && number == 1 && turn == 2 {
                return Err("dropped");
            }
            let text = Bytes::from(format!("{name} #{number}"));
            let chunk = Ok::<_, Infallible>(Frame::data(text.clone()));
            let body: BoxBody<Bytes, Infallible> = if behaviour.stall_body {
                use futures_util::StreamExt;
                BodyExt::boxed(StreamBody::new(
                    futures_util::stream::iter([chunk]).chain(futures_util::stream::pending()).boxed_sync(),
                ))
            } else {
                http_body_util::Full::new(text).boxed()
            };
            let mut response = Response::new(body);
            if behaviour.close_after_each {
                response.headers_mut().insert("connection", "close".parse().unwrap());
            }
            Ok(response)
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

trait BoxedSync: futures_util::Stream + Sized {
    fn boxed_sync(self) -> std::pin::Pin<Box<dyn futures_util::Stream<Item = Self::Item> + Send + Sync>>
    where
        Self: Send + Sync + 'static,
    {
        Box::pin(self)
    }
}

impl<S: futures_util::Stream> BoxedSync for S {}

fn common_name(der: &CertificateDer<'_>) -> String {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
    let name = certificate.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok()).unwrap_or_default();
    name.to_owned()
}
