//! The management API as the commands see it: HTTP/1.1 over TCP, TLS or a Unix socket, one connection, JSON in and out.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::Usage;
use super::args::ApiArgs;
use crate::config::{ADMIN_TOKEN, TOKEN_VARIABLE, data_dir, process_environment};
use crate::domain::Endpoint;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An upload waits for the disk; a list of ten thousand certificates for the wire.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Why the API did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// No egret there.
    #[error("nothing listens at {url}; start it with `egret serve`, or say with --url or EGRET_URL where it is")]
    NotListening { url: String },
    /// The network said no.
    #[error("{url} cannot be reached: {cause}; --url or EGRET_URL says where the API is")]
    Unreachable { url: String, cause: String },
    /// 401.
    #[error("the API at {url} did not accept the token: {token}")]
    Unauthorized { url: String, token: String },
    /// Another error of the API's own.
    #[error("the API refused (HTTP {}): {message}", status.as_u16())]
    Refused { status: StatusCode, message: String },
    /// Something that is not egret.
    #[error("what listens at {url} does not answer like egret's management API ({what}); check --url or EGRET_URL")]
    Foreign { url: String, what: String },
}

/// Where the token came from; said when it is not accepted.
#[derive(Debug)]
enum Token {
    Environment(Zeroizing<String>),
    File(Zeroizing<String>, PathBuf),
    /// Made for an egret of this very process.
    Own(Zeroizing<String>),
    Missing(PathBuf, std::io::Error),
    /// The administrator token of this machine is not shown to another one.
    Elsewhere,
}

/// A client of one API.
pub(super) struct Api {
    place: Place,
    token: Token,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Api {
    /// Finds out where the API is and which token to show it. Talks to no one yet.
    ///
    /// # Errors
    /// The URL makes no sense.
    pub(super) fn new(args: &ApiArgs) -> anyhow::Result<Self> {
        let place = parse_url(&args.url)?;
        let local = place.is_local();
        let token = match process_environment(TOKEN_VARIABLE) {
            Some(token) => {
                if !local && let Place::Http(authority) = &place {
                    eprintln!("egret: warning: the token crosses the network in clear; use a tunnel to {authority}");
                }
                Token::Environment(Zeroizing::new(token))
            }
            None if !local => Token::Elsewhere,
            None => {
                let path = data_dir(&args.overlay(), &process_environment).join(ADMIN_TOKEN);
                match std::fs::read_to_string(&path) {
                    Ok(token) => Token::File(Zeroizing::new(token), path),
                    Err(error) => Token::Missing(path, error),
                }
            }
        };
        Ok(Self { place, token, connection: None })
    }

    /// The API of an egret that this process runs itself, at `host:port`.
    pub(super) fn own(authority: String, token: Zeroizing<String>) -> Self {
        Self { place: Place::Http(authority), token: Token::Own(token), connection: None }
    }

    /// Where it is, as a URL.
    pub(super) fn url(&self) -> String {
        self.place.to_string()
    }

    /// Whether the API is on this machine, so that paths it names are paths here.
    pub(super) fn is_local(&self) -> bool {
        self.place.is_local()
    }

    /// The API's host, an IPv6 address in brackets; this machine for a Unix socket.
    pub(super) fn host(&self) -> &str {
        let authority = match &self.place {
            Place::Http(authority) | Place::Https(authority) => authority,
            Place::Unix(_) => return "127.0.0.1",
        };
        match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => authority,
        }
    }

    /// `GET`
    pub(super) async fn get(&mut self, path: &str) -> Result<Value, ApiError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// `DELETE`
    pub(super) async fn delete(&mut self, path: &str) -> Result<Value, ApiError> {
        self.call(Method::DELETE, path, Bytes::new()).await
    }

    /// `POST` of JSON that is wiped once it was sent.
    pub(super) async fn post(&mut self, path: &str, json: Zeroizing<Vec<u8>>) -> Result<Value, ApiError> {
        self.post_within(ANSWER_TIMEOUT, path, json).await
    }

    /// The same where the answer may take longer, or must not.
    pub(super) async fn post_within(
        &mut self,
        limit: Duration,
        path: &str,
        json: Zeroizing<Vec<u8>>,
    ) -> Result<Value, ApiError> {
        self.call_within(limit, Method::POST, path, Bytes::from_owner(json)).await
    }

    /// `PUT` of JSON.
    pub(super) async fn put(&mut self, path: &str, json: &Value) -> Result<Value, ApiError> {
        self.call(Method::PUT, path, Bytes::from(json.to_string())).await
    }

    async fn call(&mut self, method: Method, path: &str, body: Bytes) -> Result<Value, ApiError> {
        self.call_within(ANSWER_TIMEOUT, method, path, body).await
    }

    async fn call_within(
        &mut self,
        limit: Duration,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Value, ApiError> {
        let answer = tokio::time::timeout(limit, self.exchange(method, path, body));
        let (status, bytes) = match answer.await {
            Ok(answer) => answer?,
            Err(_) => return Err(self.unreachable(format!("no answer within {} s", limit.as_secs()))),
        };
        let value: Option<Value> = serde_json::from_slice(&bytes).ok();
        match value {
            Some(value) if status.is_success() => Ok(value),
            value => Err(self.refusal(status, value)),
        }
    }

    /// `GET` of what does not end: the body, once the API has begun to answer. The connection is its own.
    pub(super) async fn stream(&mut self, path: &str) -> Result<Incoming, ApiError> {
        let begun = async {
            let request = self.request(Method::GET, path, "text/event-stream")?;
            let request = request.body(Full::default()).expect("method, path and headers are our own and valid");
            let mut sender = self.connect().await?;
            let answer = sender.send_request(request).await.map_err(|error| self.foreign(error.to_string()))?;
            Ok::<_, ApiError>((answer, sender))
        };
        let (answer, sender) = match tokio::time::timeout(ANSWER_TIMEOUT, begun).await {
            Ok(begun) => begun?,
            Err(_) => return Err(self.unreachable(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
        };
        let status = answer.status();
        if status.is_success() {
            // The connection lives as long as somebody may send on it.
            self.connection = Some(sender);
            return Ok(answer.into_body());
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let value = body.ok().and_then(|body| serde_json::from_slice(&body.to_bytes()).ok());
        Err(self.refusal(status, value))
    }

    /// What an answer says that is no success.
    fn refusal(&self, status: StatusCode, value: Option<Value>) -> ApiError {
        let Some(value) = value else {
            return match status {
                StatusCode::UNAUTHORIZED => ApiError::Unauthorized { url: self.url(), token: self.token.blame() },
                status => self.foreign(format!("HTTP {}, and no JSON", status.as_u16())),
            };
        };
        match value.pointer("/error/message").and_then(Value::as_str) {
            _ if status == StatusCode::UNAUTHORIZED => {
                ApiError::Unauthorized { url: self.url(), token: self.token.blame() }
            }
            Some(message) => ApiError::Refused { status, message: super::output::clean(message) },
            None => self.foreign(format!("HTTP {}, and an error of another form", status.as_u16())),
        }
    }

    /// A request with all that every request has.
    fn request(&self, method: Method, path: &str, accept: &'static str) -> Result<http::request::Builder, ApiError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.place.host())
            .header(header::ACCEPT, accept)
            .header(header::USER_AGENT, concat!("egret/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = self.token.text() {
            let bearer = Zeroizing::new(format!("Bearer {}", token.trim()));
            let mut value = http::HeaderValue::from_str(&bearer).map_err(|_| ApiError::Unauthorized {
                url: self.url(),
                token: format!("it holds characters that no token has; {}", self.token.blame()),
            })?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        Ok(request)
    }

    async fn exchange(&mut self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ApiError> {
        let mut request = self.request(method, path, "application/json")?;
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).expect("method, path and headers are our own and valid");
        let mut sender = match self.connection.take() {
            Some(sender) if sender.is_ready() => sender,
            _ => self.connect().await?,
        };
        let response = sender.send_request(request).await.map_err(|error| self.foreign(error.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let bytes = body.map_err(|error| self.foreign(error.to_string()))?.to_bytes();
        // The next request waits until the connection says that it is idle.
        if sender.ready().await.is_ok() {
            self.connection = Some(sender);
        }
        Ok((status, bytes))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ApiError> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.open()).await {
            Ok(opened) => opened,
            Err(_) => Err(self.unreachable(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    async fn open(&self) -> Result<SendRequest<Full<Bytes>>, ApiError> {
        match &self.place {
            Place::Http(authority) => {
                let stream = TcpStream::connect(with_port(authority, 80)).await;
                self.speak(stream.map_err(|error| self.refused(&error))?).await
            }
            Place::Https(authority) => {
                let stream = TcpStream::connect(with_port(authority, 443)).await;
                let stream = stream.map_err(|error| self.refused(&error))?;
                let (connector, name) = tls_to(authority).map_err(|why| self.unreachable(why))?;
                let secured = connector.connect(name, stream).await;
                self.speak(secured.map_err(|error| {
                    self.unreachable(format!(
                        "{error}; SSL_CERT_FILE names the CA of a certificate that this system does not trust"
                    ))
                })?)
                .await
            }
            #[cfg(unix)]
            Place::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await;
                self.speak(stream.map_err(|error| self.refused(&error))?).await
            }
            #[cfg(not(unix))]
            Place::Unix(_) => Err(self.unreachable("this system has no Unix sockets".to_owned())),
        }
    }

    async fn speak<S>(&self, stream: S) -> Result<SendRequest<Full<Bytes>>, ApiError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| self.foreign(error.to_string()))?;
        // Ends with the sender, or with the runtime of this one command.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// Nobody is there, or the network says why not.
    fn refused(&self, error: &std::io::Error) -> ApiError {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        let gone =
            error.kind() == ConnectionRefused || error.kind() == NotFound && matches!(self.place, Place::Unix(_));
        if gone { ApiError::NotListening { url: self.url() } } else { self.unreachable(error.to_string()) }
    }

    /// An answer that egret does not give.
    pub(super) fn unlike_egret(&self, what: &str) -> ApiError {
        self.foreign(what.to_owned())
    }

    fn foreign(&self, what: String) -> ApiError {
        ApiError::Foreign { url: self.url(), what }
    }

    fn unreachable(&self, cause: String) -> ApiError {
        ApiError::Unreachable { url: self.url(), cause }
    }
}

impl Token {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Environment(token) | Self::File(token, _) | Self::Own(token) => Some(token),
            Self::Missing(..) | Self::Elsewhere => None,
        }
    }

    /// Which token was used, and what to do when it was the wrong one.
    fn blame(&self) -> String {
        match self {
            Self::Environment(_) => "it was taken from EGRET_TOKEN; set that to a token of this egret".to_owned(),
            Self::Own(_) => "it was made for this command".to_owned(),
            Self::File(_, path) => format!(
                "it was taken from {}; set EGRET_TOKEN to a token of this egret, or --data-dir to its data directory",
                path.display()
            ),
            Self::Missing(path, error) => format!(
                "there was none, EGRET_TOKEN is not set and {} cannot be read ({error}); set EGRET_TOKEN, or --data-dir \
                 to the data directory of the running egret",
                path.display()
            ),
            Self::Elsewhere => {
                "there was none; set EGRET_TOKEN (this machine's admin.token is not sent to another machine)".to_owned()
            }
        }
    }
}

/// One segment of a path, percent-encoded (RFC 3986 section 3.3, only what is unreserved stays).
pub(super) fn segment(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Where an API is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// `host[:port]`.
    Http(String),
    /// The same, in TLS.
    Https(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Place {
    /// Whether it is on this machine.
    fn is_local(&self) -> bool {
        match self {
            Self::Http(authority) | Self::Https(authority) => is_loopback(authority),
            Self::Unix(_) => true,
        }
    }

    fn host(&self) -> &str {
        match self {
            Self::Http(authority) | Self::Https(authority) => authority,
            Self::Unix(_) => "localhost",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(authority) => write!(f, "http://{authority}"),
            Self::Https(authority) => write!(f, "https://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `http://host[:port][/]`, `https://host[:port][/]` or `unix:PATH`.
fn parse_url(text: &str) -> anyhow::Result<Place> {
    let usage = |what: &str| {
        Usage(format!("--url (EGRET_URL) {what}; write it as http://127.0.0.1:9090, https://HOST:9090 or unix:PATH"))
    };
    if text.starts_with("unix:") {
        return match text.parse() {
            Ok(Endpoint::Unix(path)) => Ok(Place::Unix(path)),
            Ok(Endpoint::Tcp(_)) => Err(usage("is not a URL").into()),
            Err(error) => Err(usage(&format!("cannot be used: {error}")).into()),
        };
    }
    let uri: Uri = text.parse().map_err(|_| usage("is not a URL"))?;
    let place = match uri.scheme_str() {
        Some("http") => Place::Http,
        Some("https") => Place::Https,
        _ => return Err(usage("has to begin with http://, https:// or unix:").into()),
    };
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => Err(usage("takes no user info").into()),
        Some(authority) if matches!(uri.path(), "" | "/") && uri.query().is_none() => Ok(place(authority.to_string())),
        _ => Err(usage("takes no path").into()),
    }
}

/// `host:port`, with `default` where none is written.
fn with_port(authority: &str, default: u16) -> String {
    match authority.rsplit_once(':') {
        Some((_, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => authority.to_owned(),
        _ => format!("{}:{default}", authority.trim_end_matches(':')),
    }
}

/// TLS as this system trusts it (`SSL_CERT_FILE` and `SSL_CERT_DIR` included), and the name to verify.
fn tls_to(authority: &str) -> Result<(TlsConnector, ServerName<'static>), String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let parsed: http::uri::Authority = authority.parse().map_err(|_| "no host".to_owned())?;
    let name = ServerName::try_from(bare(parsed.host()).to_owned()).map_err(|_| "no name to verify".to_owned())?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// An IPv6 address without its brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
}

fn is_loopback(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<http::uri::Authority>() else { return false };
    let bare = bare(authority.host());
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => bare.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests;
