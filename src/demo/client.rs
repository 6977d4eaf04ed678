//! The demo's application: plain requests through the proxy, as any HTTP client would send them.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: String,
}

impl Answer {
    /// The body as JSON, `null` if it is none.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// A request to the management API.
pub(super) async fn api(
    address: SocketAddr,
    token: &str,
    method: Method,
    path: &str,
    body: Option<&serde_json::Value>,
) -> anyhow::Result<Answer> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address.to_string())
        .header(header::AUTHORIZATION, format!("Bearer {token}"));
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let bytes = body.map_or_else(Bytes::new, |b| Bytes::from(b.to_string()));
    send(TcpStream::connect(address).await?, request.body(Full::new(bytes))?).await
}

/// `GET url` in absolute form: what clients send to a proxy without a tunnel.
pub(super) async fn absolute(proxy: SocketAddr, url: &str) -> anyhow::Result<Answer> {
    let request = Request::builder()
        .uri(url)
        .header(header::HOST, url.parse::<http::Uri>()?.authority().context("a host")?.as_str());
    send(TcpStream::connect(proxy).await?, request.body(Full::default())?).await
}

/// `CONNECT`, then TLS inside, trusting the interception CA alone: what curl, Node and browsers do for `https://`.
pub(super) async fn tunnelled(proxy: SocketAddr, host: &str, port: u16, ca_pem: &str) -> anyhow::Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(TcpStream::connect(proxy).await?)).await?;
    let driver = tokio::spawn(connection.with_upgrades());
    let authority = format!("{host}:{port}");
    let connect = Request::builder().method(Method::CONNECT).uri(&authority).header(header::HOST, &authority);
    let response = sender.send_request(connect.body(Full::<Bytes>::default())?).await?;
    if response.status() != StatusCode::OK {
        bail!("CONNECT was answered with {}", response.status());
    }
    let tunnel = TokioIo::new(hyper::upgrade::on(response).await?);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned())?;
    let stream =
        TlsConnector::from(Arc::new(config)).connect(name, tunnel).await.context("TLS with the interception leaf")?;
    let request = Request::builder().uri("/").header(header::HOST, authority).body(Full::default())?;
    let answer = send(stream, request).await;
    driver.abort();
    answer
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    drop(sender);
    driver.abort();
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}
