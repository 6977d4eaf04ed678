//! Clients that keep a connection through egret open, as hyper speaks it: one request after the other in every way in.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderValue, Method, Request, StatusCode, Version, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::recorder::{PIECES, SUBJECT};

/// No single request takes longer, however slow the machine.
const LIMIT: Duration = Duration::from_secs(45);

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// A way in, and what is spoken there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum How {
    /// `GET https://…` on a forward listener.
    Absolute,
    /// CONNECT, TLS that egret terminates, HTTP/1.1 in it.
    Intercepted,
    /// The same with HTTP/2.
    InterceptedH2,
    /// A sidecar listener.
    Sidecar,
    /// The same, h2c with prior knowledge.
    SidecarH2,
}

impl How {
    pub(crate) const ALL: [Self; 5] =
        [Self::Absolute, Self::Intercepted, Self::InterceptedH2, Self::Sidecar, Self::SidecarH2];

    pub(crate) fn is_h2(self) -> bool {
        matches!(self, Self::InterceptedH2 | Self::SidecarH2)
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Get,
    /// The origin ends its connection after the answer.
    Close,
    /// With a body.
    Post,
    /// An answer that takes longer than a replacement.
    Download,
    /// A call with several messages each way, which takes as long. HTTP/2 only.
    Grpc,
}

/// Where to go, and by which ways.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) forward: SocketAddr,
    pub(crate) sidecar: SocketAddr,
    pub(crate) name: String,
    pub(crate) port: u16,
    /// For intercepted connections, without ALPN.
    pub(crate) trusting: Arc<ClientConfig>,
}

/// The head of an answer, and what became of it.
pub(crate) struct Told {
    /// The certificate that the origin saw; what egret said itself is an error.
    pub(crate) subject: String,
    /// How the body ended.
    pub(crate) body: tokio::task::JoinHandle<Result<(), String>>,
}

/// What egret answered by itself.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: Option<StatusCode>,
    pub(crate) text: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.status, self.text)
    }
}

fn broken(what: &str, error: impl fmt::Display) -> Refused {
    Refused { status: None, text: format!("{what}: {error}") }
}

enum Sender {
    One(http1::SendRequest<Body>),
    Many(http2::SendRequest<Body>),
}

/// An open connection of a client.
pub(crate) struct Door {
    sender: Sender,
    how: How,
    authority: String,
}

impl Door {
    pub(crate) async fn open(how: How, to: &Target) -> Result<Self, Refused> {
        let authority = format!("{}:{}", to.name, to.port);
        let address = if matches!(how, How::Sidecar | How::SidecarH2) { to.sidecar } else { to.forward };
        let opening = async {
            let mut stream = TcpStream::connect(address).await.map_err(|e| broken("connect", e))?;
            let _ = stream.set_nodelay(true);
            if !matches!(how, How::Intercepted | How::InterceptedH2) {
                return speak(how, stream).await;
            }
            connect(&mut stream, &authority).await?;
            let alpn = if how.is_h2() { b"h2".to_vec() } else { b"http/1.1".to_vec() };
            let mut config = ClientConfig::clone(&to.trusting);
            config.alpn_protocols = vec![alpn];
            let name = ServerName::try_from(to.name.clone()).expect("a name of the tests");
            let tls = TlsConnector::from(Arc::new(config)).connect(name, stream);
            speak(how, tls.await.map_err(|e| broken("TLS with egret", e))?).await
        };
        let sender = tokio::time::timeout(LIMIT, opening).await.map_err(|e| broken("opening", e))??;
        Ok(Self { sender, how, authority })
    }

    /// Sends, and gives the head of the answer. The body is read to its end by a task.
    pub(crate) async fn ask(&mut self, what: What) -> Result<Told, Refused> {
        let request = self.request(what);
        let sending = async {
            match &mut self.sender {
                Sender::One(one) => {
                    one.ready().await?;
                    one.send_request(request).await
                }
                Sender::Many(many) => {
                    many.ready().await?;
                    many.send_request(request).await
                }
            }
        };
        let response = tokio::time::timeout(LIMIT, sending).await.map_err(|e| broken("answer", e))?;
        let response = response.map_err(|e| broken("request", format!("{e:?}")))?;
        let (parts, body) = response.into_parts();
        let subject = parts.headers.get(SUBJECT).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let Some(subject) = subject else {
            let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
            let said = parts.headers.get("grpc-message").map(|v| v.as_bytes().to_vec()).unwrap_or_default();
            let text = format!("{} {}", String::from_utf8_lossy(&body), String::from_utf8_lossy(&said));
            return Err(Refused { status: Some(parts.status), text });
        };
        let body = tokio::spawn(async move {
            let whole = tokio::time::timeout(LIMIT, body.collect()).await.map_err(|e| e.to_string())?;
            let whole = whole.map_err(|e| format!("a truncated body: {e:?}"))?;
            let status = whole.trailers().and_then(|t| t.get("grpc-status")).cloned();
            let length = whole.to_bytes().len();
            let as_it_should = match what {
                What::Get | What::Close | What::Post => length == 4,
                What::Download => length == PIECES * 8 * 1024,
                What::Grpc => length == MESSAGES * MESSAGE.len() && status.is_some_and(|s| s == "0"),
            };
            as_it_should.then_some(()).ok_or(format!("{length} bytes of body"))
        });
        Ok(Told { subject, body })
    }

    fn request(&self, what: What) -> Request<Body> {
        let path = match what {
            What::Get | What::Post | What::Grpc => "/",
            What::Close => "/close",
            What::Download => "/slow",
        };
        let h2 = self.how.is_h2();
        let target = match self.how {
            How::Absolute | How::InterceptedH2 => format!("https://{}{path}", self.authority),
            How::SidecarH2 => format!("http://{}{path}", self.authority),
            How::Intercepted | How::Sidecar => path.to_owned(),
        };
        let full = |bytes: &'static [u8]| Full::new(Bytes::from_static(bytes)).boxed_unsync();
        let (method, body) = match what {
            What::Get | What::Close | What::Download => (Method::GET, full(b"")),
            What::Post => (Method::POST, full(&[b'p'; 4096])),
            What::Grpc => (Method::POST, StreamBody::new(messages()).boxed_unsync()),
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = target.parse().expect("a URL of the tests");
        if h2 {
            *request.version_mut() = Version::HTTP_2;
        } else {
            let host = HeaderValue::try_from(&self.authority).expect("a name of the tests");
            request.headers_mut().insert(header::HOST, host);
        }
        if what == What::Grpc {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        }
        request
    }
}

const MESSAGES: usize = 4;
/// A frame of gRPC: not compressed, two bytes.
const MESSAGE: &[u8] = &[0, 0, 0, 0, 2, 7, 7];

fn messages() -> impl futures_util::Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>> {
    stream::unfold(0, |sent| async move {
        if sent == MESSAGES {
            return None;
        }
        if sent > 0 {
            tokio::time::sleep(Duration::from_millis(90)).await;
        }
        Some((Ok(Frame::data(Bytes::from_static(MESSAGE))), sent + 1))
    })
}

async fn connect(stream: &mut TcpStream, authority: &str) -> Result<(), Refused> {
    let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.map_err(|e| broken("CONNECT", e))?;
    let mut answer = BytesMut::new();
    while !answer.ends_with(b"\r\n\r\n") {
        // Nothing follows a 200 before the client speaks.
        if stream.read_buf(&mut answer).await.map_err(|e| broken("CONNECT", e))? == 0 {
            break;
        }
    }
    let text = String::from_utf8_lossy(&answer);
    text.starts_with("HTTP/1.1 200").then_some(()).ok_or_else(|| broken("CONNECT", &text))
}

async fn speak<S>(how: How, stream: S) -> Result<Sender, Refused>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let io = TokioIo::new(stream);
    if how.is_h2() {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(|e| broken("HTTP/2", e))?;
        tokio::spawn(connection);
        return Ok(Sender::Many(sender));
    }
    let (sender, connection) = http1::handshake(io).await.map_err(|e| broken("HTTP/1.1", e))?;
    tokio::spawn(connection);
    Ok(Sender::One(sender))
}
