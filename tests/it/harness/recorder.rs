//! An origin that tells each client which certificate it saw, over HTTP/1.1 and HTTP/2, and records every handshake.
//!
//! All names and all clients share one store of sessions, so that a ticket which was sent under another identity than its
//! own would be taken, and would show.
//!
//! | path | answer |
//! | --- | --- |
//! | `/` | at once, after the body was read |
//! | `/close` | the same, and the connection ends after it |
//! | `/slow` | a body that takes a while |
//! | any, `content-type: application/grpc` | the body, as it comes, then trailers |

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::HandshakeKind;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::certificates::Pair;
use super::origin::{Wants, common_name, server_config};

/// The certificate's common name, as the answer tells it.
pub(crate) const SUBJECT: &str = "x-subject";
/// Pieces of the body of `/slow`, and how far apart they are.
pub(crate) const PIECES: usize = 6;
const PIECE: Duration = Duration::from_millis(60);
/// Requests on a connection of HTTP/2 before it goes away in an orderly manner.
const GO_AWAY_AFTER: usize = 12;

/// A connection, as the origin saw it.
#[derive(Debug, Clone)]
pub(crate) struct Handshake {
    pub(crate) subject: String,
    /// What the client named in SNI.
    pub(crate) name: String,
    pub(crate) resumed: bool,
    pub(crate) h2: bool,
    pub(crate) requests: usize,
}

/// A running one, on a runtime of its own.
pub(crate) struct Recorder {
    port: u16,
    h2: bool,
    seen: Arc<Mutex<Vec<Handshake>>>,
    open: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl Recorder {
    /// It demands certificates of `clients` (PEM). `h2`: whether it offers HTTP/2. `delay`: how long it lies still before
    /// each handshake.
    pub(crate) fn start(pair: &Pair, clients: &str, h2: bool, delay: Duration) -> Self {
        let mut config = Arc::unwrap_or_clone(server_config(pair, &Wants::CertificateOf(clients)));
        if h2 {
            config.alpn_protocols.insert(0, b"h2".to_vec());
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("loopback has free ports");
        let port = listener.local_addr().expect("bound").port();
        let seen: Arc<Mutex<Vec<_>>> = Arc::default();
        let [open, accepted]: [Arc<AtomicUsize>; 2] = Default::default();
        runtime.spawn(accept(
            listener,
            TlsAcceptor::from(Arc::new(config)),
            delay,
            seen.clone(),
            [&open, &accepted].map(Arc::clone),
        ));
        Self { port, h2, seen, open, accepted, _runtime: runtime }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn offers_h2(&self) -> bool {
        self.h2
    }

    /// `https://name:port`.
    pub(crate) fn origin(&self, name: &str) -> String {
        format!("https://{name}:{}", self.port)
    }

    /// Every finished handshake so far.
    pub(crate) fn seen(&self) -> Vec<Handshake> {
        self.seen.lock().unwrap().clone()
    }

    /// Connections that were ever opened, also those that came to no handshake.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    delay: Duration,
    seen: Arc<Mutex<Vec<Handshake>>>,
    [open, accepted]: [Arc<AtomicUsize>; 2],
) {
    while let Ok((stream, _)) = listener.accept().await {
        accepted.fetch_add(1, Ordering::SeqCst);
        let (acceptor, seen, open) = (acceptor.clone(), seen.clone(), open.clone());
        tokio::spawn(async move {
            open.fetch_add(1, Ordering::SeqCst);
            let _ = stream.set_nodelay(true);
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, &seen).await;
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn serve(stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>, seen: &Arc<Mutex<Vec<Handshake>>>) {
    let tls = stream.get_ref().1;
    let subject = tls.peer_certificates().and_then(|chain| common_name(&chain[0])).expect("demanded");
    let h2 = tls.alpn_protocol() == Some(b"h2");
    let at = {
        let mut seen = seen.lock().unwrap();
        seen.push(Handshake {
            subject: subject.clone(),
            name: tls.server_name().unwrap_or_default().to_owned(),
            resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
            h2,
            requests: 0,
        });
        seen.len() - 1
    };
    let full = Arc::new(Notify::new());
    let service = {
        let (seen, full) = (seen.clone(), full.clone());
        service_fn(move |request| {
            let requests = {
                let mut seen = seen.lock().unwrap();
                seen[at].requests += 1;
                seen[at].requests
            };
            if h2 && requests == GO_AWAY_AFTER {
                full.notify_one();
            }
            answer(request, HeaderValue::try_from(&subject).expect("a common name of the tests"))
        })
    };
    let io = TokioIo::new(stream);
    if h2 {
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            () = full.notified() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
}

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

async fn answer(request: Request<Incoming>, subject: HeaderValue) -> Result<Response<Body>, hyper::Error> {
    let whole = |text: &'static str| Full::new(Bytes::from_static(text.as_bytes())).map_err(never).boxed_unsync();
    let grpc = request.headers().get(header::CONTENT_TYPE).is_some_and(|t| t == "application/grpc");
    let path = request.uri().path().to_owned();
    let mut response = if grpc {
        let trailers = async {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            Ok(Frame::trailers(trailers))
        };
        let echo = request.into_body().into_data_stream().map(|piece| piece.map(Frame::data));
        let body = StreamBody::new(echo.chain(stream::once(trailers)));
        let mut response = Response::new(body.boxed_unsync());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    } else if path == "/slow" {
        let pieces = stream::iter(0..PIECES).then(|_| async {
            tokio::time::sleep(PIECE).await;
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; 8 * 1024])))
        });
        Response::new(StreamBody::new(pieces).map_err(never).boxed_unsync())
    } else {
        request.into_body().collect().await?;
        Response::new(whole("done"))
    };
    if path == "/close" {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.headers_mut().insert(SUBJECT, subject);
    Ok(response)
}

fn never(never: Infallible) -> hyper::Error {
    match never {}
}
