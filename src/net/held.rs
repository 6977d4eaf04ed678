//! Bytes that were read ahead of whoever reads next.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{HangUp, Io, Meter};

/// A connection with bytes that were read ahead; they come first.
#[derive(Debug)]
pub struct Held<S> {
    held: Bytes,
    io: S,
}

impl<S> Held<S> {
    /// `held` was read from `io` already.
    pub fn new(held: Bytes, io: S) -> Self {
        Self { held, io }
    }

    /// Held bytes that nobody has read yet.
    pub fn waiting(&self) -> usize {
        self.held.len()
    }
}

impl<S> Held<Io<S>> {
    /// The connection's; of a tunnel inside HTTP/2 it is the tunnel's own.
    pub fn meter(&self) -> &Arc<Meter> {
        self.io.meter()
    }
}

impl<S: HangUp> HangUp for Held<S> {
    fn hang_up(&self) {
        self.io.hang_up();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let bytes = this.held.len().min(buf.remaining());
        buf.put_slice(&this.held[..bytes]);
        this.held.advance(bytes);
        if this.held.is_empty() {
            // Lets go of the buffer that they came in.
            this.held = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn gives_held_bytes_first() {
        let (mut far, near) = duplex(64);
        far.write_all(b"later").await.unwrap();
        drop(far);
        let mut held = Held::new(Bytes::from_static(b"first "), near);
        let mut small = [0; 3];
        held.read_exact(&mut small).await.unwrap();
        assert_eq!(&small, b"fir");
        let mut rest = String::new();
        held.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "st later");
    }
}
