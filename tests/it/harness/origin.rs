//! A TLS origin of our own, for what nginx cannot show: the bytes that arrived, how many connections there were,
//! what was resumed, and answers that no proper server gives.
//!
//! One thread per connection, blocking, so that a test's handler is straight code.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned, SupportedProtocolVersion,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::PATIENCE;
use super::certificates::Pair;
use super::wire::find;

/// What an origin wants of its clients.
pub(crate) enum Wants<'a> {
    /// No certificate.
    Nothing,
    /// A certificate of this authority (PEM); the handshake is aborted otherwise.
    CertificateOf(&'a str),
    /// The same, but a client without any is served.
    PerhapsCertificateOf(&'a str),
}

/// One connection, as the origin saw it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The subject's common name.
    pub(crate) subject: Option<String>,
    /// SHA-256 of the certificate, lower-case hex.
    pub(crate) fingerprint: Option<String>,
    /// `TLSv1_2`, `TLSv1_3`.
    pub(crate) version: Option<String>,
    /// An abbreviated handshake.
    pub(crate) resumed: bool,
    /// Every request head, as it arrived.
    pub(crate) heads: Vec<String>,
    /// Why the handshake failed.
    pub(crate) error: Option<String>,
}

/// The head of a request.
pub(crate) struct Head {
    pub(crate) text: String,
}

impl Head {
    pub(crate) fn method(&self) -> &str {
        self.text.split(' ').next().unwrap_or_default()
    }

    pub(crate) fn target(&self) -> &str {
        self.text.split(' ').nth(1).unwrap_or_default()
    }

    /// The first field of this name, in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.text, name)
    }
}

/// The first field of this name in a head, in any case.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .find_map(|(n, value)| n.eq_ignore_ascii_case(name).then(|| value.trim()))
}

/// A connection in the hands of a test's handler.
pub(crate) struct Conversation {
    stream: Box<dyn Stream>,
    unread: Vec<u8>,
    /// The certificate's common name, if one was sent.
    pub(crate) subject: Option<String>,
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// Whether a connection goes on after an exchange.
pub(crate) enum Next {
    KeepAlive,
    /// `close_notify`, then FIN.
    Close,
    /// FIN without `close_notify`, as a crashed server does.
    Cut,
}

type Handler = dyn Fn(&mut Conversation, &Head) -> io::Result<Next> + Send + Sync;

/// A running origin. It accepts until the test ends.
pub(crate) struct Origin {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Origin {
    /// TLS 1.2 and 1.3 with this certificate.
    pub(crate) fn start(
        pair: &Pair,
        wants: &Wants<'_>,
        handler: impl Fn(&mut Conversation, &Head) -> io::Result<Next> + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Some(server_config(pair, wants)), Arc::new(handler))
    }

    /// The same over these versions of TLS only.
    pub(crate) fn start_over(
        versions: &[&'static SupportedProtocolVersion],
        pair: &Pair,
        wants: &Wants<'_>,
        handler: impl Fn(&mut Conversation, &Head) -> io::Result<Next> + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Some(server_config_over(versions, pair, wants)), Arc::new(handler))
    }

    /// Demands a certificate of this authority, refuses those that `refused` names with the alert `certificate_revoked`,
    /// and resumes nothing: every connection shows its certificate.
    pub(crate) fn choosy(
        pair: &Pair,
        ca: &str,
        refused: &RefusedNames,
        handler: impl Fn(&mut Conversation, &Head) -> io::Result<Next> + Send + Sync + 'static,
    ) -> Self {
        let demanding = server_config(pair, &Wants::CertificateOf(ca));
        let inner = client_verifier(ca).build().expect("roots");
        let mut config = ServerConfig::builder_with_provider(Arc::clone(demanding.crypto_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions of the provider")
            .with_client_cert_verifier(Arc::new(Choosy { inner, refused: refused.clone() }))
            .with_cert_resolver(Arc::clone(&demanding.cert_resolver));
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Self::listen(Some(Arc::new(config)), Arc::new(handler))
    }

    /// Plain HTTP.
    pub(crate) fn plain(
        handler: impl Fn(&mut Conversation, &Head) -> io::Result<Next> + Send + Sync + 'static,
    ) -> Self {
        Self::listen(None, Arc::new(handler))
    }

    fn listen(config: Option<Arc<ServerConfig>>, handler: Arc<Handler>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (config, handler, all) = (config.clone(), Arc::clone(&handler), Arc::clone(&all));
                thread::spawn(move || serve(stream, config, &*handler, &all));
            }
        });
        Self { address, seen }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// `https://name:port`.
    pub(crate) fn origin(&self, name: &str) -> String {
        format!("https://{name}:{}", self.port())
    }

    /// Every connection so far, in the order of acceptance; those whose client went away before TLS are not counted.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no handler panics with it").clone()
    }

    /// Every request head so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.seen().into_iter().flat_map(|seen| seen.heads).collect()
    }
}

fn serve(stream: TcpStream, config: Option<Arc<ServerConfig>>, handler: &Handler, all: &Mutex<Vec<Seen>>) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let _ = stream.set_nodelay(true);
    let record = |change: &dyn Fn(&mut Seen), at: Option<usize>| {
        let mut all = all.lock().expect("no handler panics with it");
        let at = at.unwrap_or_else(|| {
            all.push(Seen::default());
            all.len() - 1
        });
        change(&mut all[at]);
        at
    };
    let Ok(raw) = stream.try_clone() else { return };
    let (stream, subject, at): (Box<dyn Stream>, _, _) = match config {
        None => (Box::new(stream), None, record(&|_| {}, None)),
        Some(config) => {
            let mut connection = ServerConnection::new(config).expect("a valid configuration");
            let mut stream = stream;
            while connection.is_handshaking() {
                if let Err(error) = connection.complete_io(&mut stream) {
                    record(&|seen| seen.error = Some(error.to_string()), None);
                    return;
                }
            }
            let subject = connection.peer_certificates().and_then(|chain| common_name(&chain[0]));
            let fingerprint = connection.peer_certificates().map(|chain| fingerprint(&chain[0]));
            let version = connection.protocol_version().map(|version| format!("{version:?}"));
            let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
            let at = record(
                &|seen| {
                    seen.subject.clone_from(&subject);
                    seen.fingerprint.clone_from(&fingerprint);
                    seen.version.clone_from(&version);
                    seen.resumed = resumed;
                },
                None,
            );
            (Box::new(Tls(StreamOwned::new(connection, stream))), subject, at)
        }
    };
    let mut conversation = Conversation { stream, unread: Vec::new(), subject };
    while let Ok(Some(head)) = conversation.next_head() {
        record(&|seen| seen.heads.push(head.text.clone()), Some(at));
        match handler(&mut conversation, &head) {
            Ok(Next::KeepAlive) => {}
            Ok(Next::Close) => break,
            Ok(Next::Cut) | Err(_) => {
                let _ = raw.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    }
}

/// Says `close_notify` when dropped.
struct Tls(StreamOwned<ServerConnection, TcpStream>);

impl Read for Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.0.conn.send_close_notify();
        let _ = self.0.flush();
    }
}

impl Conversation {
    fn next_head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                return Ok(Some(Head { text: String::from_utf8_lossy(&head).into_owned() }));
            }
            if !self.more()? {
                return Ok(None);
            }
        }
    }

    fn more(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let count = self.stream.read(&mut buffer)?;
        self.unread.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }

    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// A complete answer with a length.
    pub(crate) fn answer(&mut self, status: &str, fields: &str, body: &str) -> io::Result<Next> {
        self.write(format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()))?;
        Ok(Next::KeepAlive)
    }

    /// The next bytes of the body, as they stand on the wire: at least one, at most what is there.
    /// Empty at the end of the connection.
    pub(crate) fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.unread.is_empty() {
            self.more()?;
        }
        Ok(std::mem::take(&mut self.unread))
    }

    /// The whole body of a request, transfer coding removed; an error if the connection ends before it does.
    pub(crate) fn body(&mut self, head: &Head) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if head.header("transfer-encoding").is_some() {
            loop {
                let line = self.line()?;
                let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
                    .map_err(io::Error::other)?;
                self.exactly(size, &mut body)?;
                if size == 0 {
                    while !self.line()?.is_empty() {}
                    return Ok(body);
                }
                self.line()?;
            }
        }
        let length = head.header("content-length").map_or(Ok(0), str::parse).map_err(io::Error::other)?;
        self.exactly(length, &mut body)?;
        Ok(body)
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn exactly(&mut self, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        while self.unread.len() < length {
            if !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        into.extend(self.unread.drain(..length));
        Ok(())
    }
}

/// Common names of client certificates that [`Origin::choosy`] refuses from now on.
#[derive(Debug, Clone, Default)]
pub(crate) struct RefusedNames(Arc<Mutex<Vec<String>>>);

impl RefusedNames {
    pub(crate) fn set(&self, names: &[&str]) {
        *self.0.lock().expect("nobody panics with it") = names.iter().map(|&name| name.to_owned()).collect();
    }

    fn has(&self, certificate: &CertificateDer<'_>) -> bool {
        let name = common_name(certificate).unwrap_or_default();
        self.0.lock().expect("nobody panics with it").contains(&name)
    }
}

#[derive(Debug)]
struct Choosy {
    inner: Arc<dyn ClientCertVerifier>,
    refused: RefusedNames,
}

impl ClientCertVerifier for Choosy {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if self.refused.has(leaf) {
            return Err(rustls::CertificateError::Revoked.into());
        }
        self.inner.verify_client_cert(leaf, chain, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn client_verifier(ca: &str) -> rustls::server::ClientCertVerifierBuilder {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.expect("PEM")).expect("an authority");
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
}

pub(super) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn server_config(pair: &Pair, wants: &Wants<'_>) -> Arc<ServerConfig> {
    server_config_over(rustls::DEFAULT_VERSIONS, pair, wants)
}

fn server_config_over(
    versions: &[&'static SupportedProtocolVersion],
    pair: &Pair,
    wants: &Wants<'_>,
) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .expect("versions of the provider");
    let builder = match wants {
        Wants::Nothing => builder.with_no_client_auth(),
        Wants::CertificateOf(ca) => builder.with_client_cert_verifier(client_verifier(ca).build().expect("roots")),
        Wants::PerhapsCertificateOf(ca) => {
            builder.with_client_cert_verifier(client_verifier(ca).allow_unauthenticated().build().expect("roots"))
        }
    };
    let chain = CertificateDer::pem_slice_iter(pair.chain.as_bytes()).collect::<Result<_, _>>().expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
    let mut config = builder.with_single_cert(chain, key).expect("a key that belongs to its certificate");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().expect("random bytes");
    Arc::new(config)
}
