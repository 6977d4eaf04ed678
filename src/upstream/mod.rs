//! Floor 4: the only dialler.
mod failure;
pub use failure::{Facts, Failure};

use crate::domain::{Host, HttpTarget, Origin};
use crate::identity::{Asked, UpstreamTls};
use bytes::Bytes;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpStream;

/// The body that goes back to a client.
pub enum ReplyBody {
    /// stub
    Full(Option<Bytes>),
}
impl ReplyBody {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::Full(None)
    }
    /// These bytes.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Some(bytes.into()))
    }
}
impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = std::io::Error;
    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        todo!()
    }
}

/// The only dialler: resolves, judges addresses, connects, pools.
pub struct Upstreams {
    _p: (),
}
impl Upstreams {
    /// A TCP connection for a blind tunnel: resolved, judged by the address guard, happy eyeballs.
    ///
    /// # Errors
    /// `policy.*`, `dns.*`, `net.*`.
    pub async fn dial(&self, _host: &Host, _port: u16) -> Result<TcpStream, Failure> {
        todo!()
    }
    /// *Ask first*: a handshake that presents nothing. What the origin asked for; `None` if it did not ask.
    /// Also `Ok` when the server certificate did not verify but the question had come before.
    ///
    /// # Errors
    /// When no answer could be had.
    pub async fn ask(&self, _tls: &Arc<UpstreamTls>, _origin: &Origin) -> Result<Option<Asked>, Failure> {
        todo!()
    }
}
/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Over TLS.
    Tls(Origin),
    /// Plain http: never with a certificate.
    Plain(HttpTarget),
}
