//! A byte stream whose kind is known only at run time: what clients connect by, and what origins are reached over.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::HangUp;

/// What a boxed stream can do.
pub trait Duplex: AsyncRead + AsyncWrite + HangUp + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + HangUp + Send + Unpin> Duplex for T {}

/// A connection in either direction. TCP, which nearly all are, costs no dynamic dispatch.
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
    /// Anything else: TLS over one of the former, a tunnel inside HTTP/2.
    Boxed(Box<dyn Duplex>),
}

impl Stream {
    /// Any other kind.
    pub fn boxed(inner: impl Duplex + 'static) -> Self {
        Self::Boxed(Box::new(inner))
    }

    /// Sends small writes at once, where the kernel would wait for more of them.
    pub fn set_nodelay(&self) {
        if let Self::Tcp(stream) = self {
            let _ = stream.set_nodelay(true);
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Stream::Tcp",
            #[cfg(unix)]
            Self::Unix(_) => "Stream::Unix",
            Self::Boxed(_) => "Stream::Boxed",
        })
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

#[cfg(unix)]
impl From<tokio::net::UnixStream> for Stream {
    fn from(stream: tokio::net::UnixStream) -> Self {
        Self::Unix(stream)
    }
}

impl HangUp for Stream {
    fn hang_up(&self) {
        match self {
            Self::Tcp(stream) => stream.hang_up(),
            // There is no reset on a Unix socket: closing it with unread bytes is all there is.
            #[cfg(unix)]
            Self::Unix(_) => {}
            Self::Boxed(stream) => stream.hang_up(),
        }
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $body:expr) => {
        match $self.get_mut() {
            Self::Tcp($stream) => $body,
            #[cfg(unix)]
            Self::Unix($stream) => $body,
            Self::Boxed($stream) => $body,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            #[cfg(unix)]
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Boxed(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
