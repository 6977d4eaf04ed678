//! WebSockets of clients that speak HTTP/2 (RFC 8441), to an origin that speaks HTTP/1.1: inside an intercepted tunnel, and
//! with prior knowledge at a sidecar.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Version};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::harness::origin::{Conversation, Head, Next};
use crate::harness::partner::{NAME, Partner, Way};
use crate::harness::{PATIENCE, eventually};

const WAYS: [Way; 2] = [Way::Intercepted, Way::Sidecar];
/// No framing gate would let this pass as HTTP.
const BYTES: &[u8] = b"\x00\xff\r\n\r\nGET / HTTP/1.1\nContent-Length: 1\nContent-Length: 2\n\n\x81\x05hello";

/// Answers a question for a WebSocket as its target wants it.
fn origin(conversation: &mut Conversation, head: &Head) -> io::Result<Next> {
    let key = head.header("sec-websocket-key").unwrap_or_default().to_owned();
    let hash = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
    );
    let accept = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, hash);
    let switch = |conversation: &mut Conversation| {
        conversation.write(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        ))
    };
    match head.target() {
        "/echo" => {
            switch(conversation)?;
            loop {
                let some = conversation.some()?;
                if some.is_empty() {
                    // Its end was passed on; this direction is open still.
                    conversation.write("bye")?;
                    return Ok(Next::Close);
                }
                conversation.write(&some)?;
            }
        }
        "/holds" => {
            switch(conversation)?;
            while !conversation.some()?.is_empty() {}
            // It does not care that nothing more will come, and says nothing.
            std::thread::sleep(PATIENCE * 2);
            Ok(Next::Close)
        }
        "/leaves" => {
            switch(conversation)?;
            conversation.write("first and last")?;
            Ok(Next::Close)
        }
        "/wrong-key" => {
            conversation.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")?;
            Ok(Next::Close)
        }
        "/refused" => conversation.answer("403 Forbidden", "", "no socket for you"),
        "/empty" => conversation.answer("204 No Content", "", ""),
        "/chunked" => {
            conversation.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nplain\r\n0\r\n\r\n")?;
            Ok(Next::Close)
        }
        _ => conversation.answer("200 OK", "", "plain"),
    }
}

/// A client of HTTP/2 that has seen egret's settings.
async fn client(partner: &Partner, way: Way) -> SendRequest<Bytes> {
    match way {
        Way::Sidecar => begin(TcpStream::connect(partner.egret.listener("partner")).await.unwrap()).await,
        _ => {
            let mut tunnel = TcpStream::connect(partner.egret.listener("forward")).await.unwrap();
            let authority = format!("{NAME}:{}", partner.origin.port());
            let ask = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
            tunnel.write_all(ask.as_bytes()).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(tunnel.read_u8().await.unwrap());
            }
            assert!(head.starts_with(b"HTTP/1.1 200"), "{}", head.escape_ascii());
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(partner.ca.as_bytes()).unwrap()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = vec![b"h2".to_vec()];
            let name = ServerName::try_from(NAME).unwrap();
            begin(TlsConnector::from(Arc::new(config)).connect(name, tunnel).await.unwrap()).await
        }
    }
}

async fn begin(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let sender = sender.ready().await.unwrap();
    // RFC 8441 section 3: to be waited for.
    timeout(PATIENCE, async {
        while !sender.is_extended_connect_protocol_enabled() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("SETTINGS_ENABLE_CONNECT_PROTOCOL");
    sender
}

fn ask(sender: &mut SendRequest<Bytes>, authority: &str, path: &str) -> (ResponseFuture, SendStream<Bytes>) {
    let mut request = Request::connect(format!("https://{authority}{path}"))
        .version(Version::HTTP_2)
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .header("origin", "https://app.test")
        .body(())
        .unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    sender.send_request(request, false).unwrap()
}

async fn read(body: &mut RecvStream, count: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < count {
        let data = timeout(PATIENCE, body.data()).await.expect("data in time").expect("no end").unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        got.extend_from_slice(&data);
    }
    got
}

/// The rest of a stream, up to END_STREAM.
async fn rest(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut got = Vec::new();
    while let Some(data) = timeout(PATIENCE, body.data()).await.expect("data in time") {
        let data = data?;
        body.flow_control().release_capacity(data.len()).unwrap();
        got.extend_from_slice(&data);
    }
    Ok(got)
}

fn run(test: impl AsyncFn(&Partner, Way, &str)) {
    let partner = Partner::start(origin);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let authority = format!("{NAME}:{}", partner.origin.port());
    for way in WAYS {
        runtime.block_on(test(&partner, way, &authority));
    }
}

#[test]
fn bytes_pass_as_they_are_and_either_side_may_end() {
    run(async |partner, way, authority| {
        let mut sender = client(partner, way).await;
        let (response, mut up) = ask(&mut sender, authority, "/echo?room=1#x");
        drop((response.await, up.send_reset(Reason::CANCEL)));
        let (response, mut up) = ask(&mut sender, authority, "/echo");
        let response = timeout(PATIENCE, response).await.expect("an answer").unwrap();
        assert_eq!(response.status(), 200, "{way:?}");
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat", "{way:?}");
        for hop in ["sec-websocket-accept", "upgrade", "connection"] {
            assert!(!response.headers().contains_key(hop), "{way:?}: {hop}");
        }
        let mut down = response.into_body();
        for _ in 0..3 {
            up.send_data(Bytes::from_static(BYTES), false).unwrap();
            assert_eq!(read(&mut down, BYTES.len()).await, BYTES, "{way:?}");
        }
        up.send_data(Bytes::new(), true).unwrap();
        assert_eq!(rest(&mut down).await.expect("END_STREAM"), b"bye", "{way:?}");

        let (response, mut up) = ask(&mut sender, authority, "/leaves");
        let mut down = timeout(PATIENCE, response).await.expect("an answer").unwrap().into_body();
        assert_eq!(rest(&mut down).await.expect("END_STREAM"), b"first and last", "{way:?}");
        up.send_data(Bytes::new(), true).unwrap();

        let seen = partner.origin.seen();
        assert_eq!(seen.last().expect("a request").subject.as_deref(), Some("the-client"), "{way:?}");
        let head = partner.origin.heads().pop().expect("a head").to_ascii_lowercase();
        assert!(head.starts_with("get /leaves http/1.1\r\n"), "{head}");
        for field in [
            &format!("host: {authority}"),
            "upgrade: websocket",
            "connection: upgrade",
            "sec-websocket-version: 13",
            "sec-websocket-protocol: chat",
            "origin: https://app.test",
            "via: 2 egret-",
        ] {
            assert!(head.contains(&format!("\r\n{field}")), "{field} in {head}");
        }
        let whole = |line: &&str| {
            line.contains("\"status\":200") && line.contains("\"complete\":true") && line.contains("\"bytes_down\":14")
        };
        eventually("the log has the WebSocket that both ended", || {
            let way = if way == Way::Sidecar { "sidecar" } else { "intercepted" };
            partner.egret.log().lines().filter(|l| l.contains(way)).find(whole).map(drop)
        });
    });
}

/// A stream that is reset makes room for the next one at once, so what it led to must not stay.
#[test]
fn one_that_its_client_resets_is_let_go_of_whatever_the_origin_does() {
    run(async |partner, way, authority| {
        let mut sender = client(partner, way).await;
        for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
            let (response, mut up) = ask(&mut sender, authority, "/holds");
            let response = timeout(PATIENCE, response).await.expect("an answer").unwrap();
            assert_eq!(response.status(), 200, "{way:?}");
            up.send_reset(reason);
        }
        eventually("the log says that they broke off", || {
            let way = if way == Way::Sidecar { "\"sidecar\"" } else { "\"intercepted\"" };
            let log = partner.egret.log();
            let cut = |l: &&str| l.contains(way) && l.contains("\"status\":200") && l.contains("\"complete\":false");
            (log.lines().filter(cut).count() == 3).then_some(())
        });
    });
}

/// RFC 8441 section 5: 2xx is what opens a WebSocket there, so an answer that opened none must not be one.
#[test]
fn what_did_not_open_one_does_not_look_as_if_it_had() {
    run(async |partner, way, authority| {
        let mut sender = client(partner, way).await;
        let (response, _up) = ask(&mut sender, authority, "/refused");
        let response = timeout(PATIENCE, response).await.expect("an answer").unwrap();
        assert_eq!(response.status(), 403, "{way:?}");
        assert_eq!(rest(&mut response.into_body()).await.expect("whole"), b"no socket for you", "{way:?}");
        for path in ["/plain", "/empty", "/chunked", "/wrong-key"] {
            let (response, _up) = ask(&mut sender, authority, path);
            let response = timeout(PATIENCE, response).await.expect("an answer").unwrap();
            assert_eq!(response.status(), 502, "{way:?} {path}");
            let body = rest(&mut response.into_body()).await.expect("whole");
            let body = String::from_utf8(body).unwrap();
            assert!(body.contains("upstream.malformed"), "{way:?} {path}: {body}");
        }
        // The connection is what it was.
        let request = Request::get(format!("https://{authority}/plain")).version(Version::HTTP_2).body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        let response = timeout(PATIENCE, response).await.expect("an answer").unwrap();
        assert_eq!(rest(&mut response.into_body()).await.expect("whole"), b"plain", "{way:?}");
    });
}
