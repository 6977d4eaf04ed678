//! A tunnel inside a connection of HTTP/2 (RFC 9113 section 8.5), as a connection of its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Busy;
use crate::net::{HangUp, Stream};

/// The stream that a CONNECT (or extended CONNECT) became. While it lives, its client's connection counts as busy.
/// `busy` is the request's, from its extensions; without it [`HangUp`] does nothing.
pub(in crate::proxy) fn carried(upgraded: Upgraded, busy: Option<Busy>) -> Stream {
    Stream::boxed(Carried { io: TokioIo::new(upgraded), busy })
}

struct Carried {
    io: TokioIo<Upgraded>,
    busy: Option<Busy>,
}

impl HangUp for Carried {
    /// RST_STREAM, where dropping alone would send END_STREAM.
    fn hang_up(&self) {
        if let Some(Busy(exchange)) = &self.busy {
            exchange.cut();
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        // What was written and is not taken by the client stays with hyper, and must not stay for ever.
        if let Some(Busy(exchange)) = &self.busy {
            exchange.let_go();
        }
    }
}

impl AsyncRead for Carried {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Carried {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(Busy(exchange)) = &this.busy {
            exchange.shut();
        }
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}
