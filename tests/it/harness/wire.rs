//! HTTP/1.1 with nothing in between: a test writes the bytes and reads what came back.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use super::PATIENCE;
use super::certificates::Pair;

/// A response as it stood on the wire.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The final status.
    pub(crate) status: u16,
    /// The statuses of interim responses before it.
    pub(crate) interim: Vec<u16>,
    /// Header fields in order, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// What arrived of the body, transfer coding removed.
    pub(crate) body: Vec<u8>,
    /// The body ended the way its framing says.
    pub(crate) whole: bool,
}

impl Reply {
    /// The first field of this name (lower case).
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: not JSON: {self:?}"))
    }

    /// A field of the JSON that an origin answered with.
    #[track_caller]
    pub(crate) fn seen(&self, field: &str) -> String {
        self.json()[field].as_str().unwrap_or_else(|| panic!("the origin did not answer: {self:?}")).to_owned()
    }

    /// Asserts that egret itself answered with this status and code, in the frame of product.md section 7.
    #[track_caller]
    pub(crate) fn assert_failure(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status, self.header("content-type").unwrap_or_default()),
            (status, "application/problem+json"),
            "{self:?}, {}",
            self.text()
        );
        assert_eq!(self.json()["code"], code, "{}", self.text());
        assert!(self.header("proxy-status").is_some_and(|value| value.contains("egret")), "{self:?}");
    }
}

/// One connection.
pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    unread: Vec<u8>,
    /// Of the innermost TLS: whether its session was resumed.
    pub(crate) resumed: bool,
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Wire {
    /// Plain TCP.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address, PATIENCE).expect("somebody listens")
    }

    /// Plain TCP to somebody who may be gone; reads and writes give up after `patience`.
    pub(crate) fn try_connect(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: Box::new(stream), unread: Vec::new(), resumed: false })
    }

    /// A Unix socket.
    #[track_caller]
    pub(crate) fn connect_unix(path: &std::path::Path) -> Self {
        let stream = std::os::unix::net::UnixStream::connect(path).expect("somebody listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
        Self { stream: Box::new(stream), unread: Vec::new(), resumed: false }
    }

    /// CONNECT through a proxy; the proxy's answer if it is not 200.
    pub(crate) fn tunnel(proxy: SocketAddr, authority: &str) -> Result<Self, Reply> {
        Self::connect(proxy).connected(authority)
    }

    /// The same on a connection to the proxy.
    pub(crate) fn connected(mut self, authority: &str) -> Result<Self, Reply> {
        let wire = &mut self;
        wire.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
        let reply = wire.reply("CONNECT");
        if reply.status == 200 { Ok(self) } else { Err(reply) }
    }

    /// TLS on top of this connection, verified for `host` against the authorities in `roots` (PEM).
    pub(crate) fn tls(self, host: &str, roots: &str) -> io::Result<Self> {
        self.tls_with(host, client_config(roots, None))
    }

    /// The same with a client certificate.
    pub(crate) fn tls_as(self, host: &str, roots: &str, client: &Pair) -> io::Result<Self> {
        self.tls_with(host, client_config(roots, Some(client)))
    }

    /// The same; connections with one configuration resume each other's sessions.
    pub(crate) fn tls_with(self, host: &str, config: Arc<ClientConfig>) -> io::Result<Self> {
        assert!(self.unread.is_empty(), "the peer spoke first");
        let connection = ClientConnection::new(config, ServerName::try_from(host.to_owned()).expect("a name"))
            .map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, self.stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let resumed = stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
        Ok(Self { stream: Box::new(stream), unread: Vec::new(), resumed })
    }

    /// Writes bytes as they are.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the peer takes bytes");
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// Reads the response to a request with this method.
    #[track_caller]
    pub(crate) fn reply(&mut self, method: &str) -> Reply {
        self.try_reply(method).expect("a response arrives")
    }

    /// A request with a method and a target, and the response to it.
    #[track_caller]
    pub(crate) fn request(&mut self, method: &str, target: &str, host: &str) -> Reply {
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        self.reply(method)
    }

    /// Reads the response; an error if the connection ends before its head is complete.
    pub(crate) fn try_reply(&mut self, method: &str) -> io::Result<Reply> {
        let mut interim = Vec::new();
        let (status, headers) = loop {
            let (status, headers) = self.head()?;
            if !(100..200).contains(&status) || status == 101 {
                break (status, headers);
            }
            interim.push(status);
        };
        let mut reply = Reply { status, interim, headers, body: Vec::new(), whole: true };
        if method == "HEAD" || method == "CONNECT" && status == 200 || matches!(status, 204 | 304) {
            return Ok(reply);
        }
        reply.whole = if reply.header("transfer-encoding").is_some() {
            self.chunked(&mut reply.body)
        } else if let Some(length) = reply.header("content-length") {
            let length = length.parse().expect("a number");
            self.exactly(length, &mut reply.body)
        } else {
            while self.more().is_ok_and(|more| more) {}
            reply.body = std::mem::take(&mut self.unread);
            true
        };
        Ok(reply)
    }

    /// The head of the next message: status and fields.
    pub(crate) fn head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let end = loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                break end;
            }
            if !self.more()? {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before a response was complete"));
            }
        };
        let head: Vec<u8> = self.unread.drain(..end + 4).collect();
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok((status.ok_or_else(|| io::Error::other(format!("not a status line: {head}")))?, headers))
    }

    /// Reads until `count` more bytes of whatever comes are there.
    pub(crate) fn raw(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.exactly(count, &mut bytes);
        bytes
    }

    /// True once the peer has closed, having sent nothing more.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.unread.is_empty() && !self.more().unwrap_or(false)
    }

    /// Everything until the peer's end; an error if the connection is reset instead.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.more()? {}
        Ok(std::mem::take(&mut self.unread))
    }

    fn more(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let count = self.stream.read(&mut buffer)?;
        self.unread.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }

    fn exactly(&mut self, length: usize, into: &mut Vec<u8>) -> bool {
        while self.unread.len() < length {
            if !self.more().unwrap_or(false) {
                into.append(&mut self.unread);
                return false;
            }
        }
        into.extend(self.unread.drain(..length));
        true
    }

    fn chunked(&mut self, into: &mut Vec<u8>) -> bool {
        loop {
            let end = loop {
                if let Some(end) = find(&self.unread, b"\r\n") {
                    break end;
                }
                if !self.more().unwrap_or(false) {
                    return false;
                }
            };
            let line: Vec<u8> = self.unread.drain(..end + 2).collect();
            let size = String::from_utf8_lossy(&line[..end])
                .split(';')
                .next()
                .map(|hex| usize::from_str_radix(hex.trim(), 16));
            let Some(Ok(size)) = size else { return false };
            if !self.exactly(size, into) {
                return false;
            }
            if size > 0 {
                if !self.exactly(2, &mut Vec::new()) {
                    return false;
                }
                continue;
            }
            // Trailers, up to the empty line.
            loop {
                let Some(end) = find(&self.unread, b"\r\n") else {
                    if !self.more().unwrap_or(false) {
                        return false;
                    }
                    continue;
                };
                self.unread.drain(..end + 2);
                if end == 0 {
                    return true;
                }
            }
        }
    }
}

/// Sends one request in absolute form through a forward listener, on a connection of its own.
#[track_caller]
pub(crate) fn absolute(proxy: SocketAddr, method: &str, url: &str) -> Reply {
    let authority = url.split('/').nth(2).expect("an absolute URL");
    Wire::connect(proxy).request(method, url, authority)
}

pub(crate) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// What [`Wire::tls_with`] takes.
pub(crate) fn client_config(roots: &str, client: Option<&Pair>) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(certificate.expect("PEM")).expect("an authority");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of the provider")
        .with_root_certificates(store);
    Arc::new(match client {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = CertificateDer::pem_slice_iter(pair.chain.as_bytes()).map(|one| one.expect("PEM")).collect();
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("a usable pair")
        }
    })
}
