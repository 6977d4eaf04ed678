//! The demo's partner: a TLS server that demands a client certificate and answers with what it saw.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::pki::Authority;

/// Starts the partner on a free loopback port. It lives as long as the runtime.
pub(super) async fn start(authority: &Authority, name: &str) -> anyhow::Result<SocketAddr> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate_der())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let server = authority.server(name)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![server.certificate],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server.key.to_vec())),
        )?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.context("the demo's origin could not listen")?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A refused handshake is one of the demo's steps; the client is told by the alert.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let saw = describe(stream.get_ref().1.peer_certificates());
                let service = service_fn(move |_: Request<Incoming>| {
                    let saw = saw.clone();
                    async move { Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(saw)))) }
                });
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(address)
}

fn describe(chain: Option<&[CertificateDer<'_>]>) -> String {
    let leaf = chain.and_then(<[_]>::first).and_then(|der| x509_parser::parse_x509_certificate(der).ok());
    leaf.map_or_else(|| "no certificate".to_owned(), |(_, certificate)| certificate.subject().to_string())
}
