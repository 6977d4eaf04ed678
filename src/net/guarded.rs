//! A client connection behind the framing gate.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::{Gate, Malformed};

/// What whoever serves a [`Guarded`] connection can see of it while the HTTP parser owns it.
#[derive(Debug)]
pub struct Verdict {
    refused: OnceLock<Stop>,
    /// Nothing that was written waits to be flushed. hyper flushes whenever its own buffer has run empty.
    flushed: AtomicBool,
    /// Set with `refused`.
    messages: AtomicU64,
    /// The connection is being upgraded: what follows is no HTTP.
    switched: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
struct Stop {
    why: Malformed,
    /// In the body of a message whose head was passed on.
    within: bool,
}

impl Verdict {
    /// What the client sends from now on is no HTTP, and passes as it is. To be called before the 101 is written: a
    /// client must not send anything but HTTP before it has read that (RFC 9110 section 7.8).
    pub fn switch(&self) {
        self.switched.store(true, Ordering::Release);
    }

    /// Why the stream was refused, if it was.
    #[must_use]
    pub fn refused(&self) -> Option<Malformed> {
        self.refused.get().map(|stop| stop.why)
    }

    /// The stream was refused, nothing of the offending message was passed on, `answered` messages were answered
    /// and these are all that came before it: it is its turn to be answered, and the parser does not know of it.
    #[must_use]
    pub fn is_due(&self, answered: u64) -> bool {
        self.refused.get().is_some_and(|stop| !stop.within)
            && answered >= self.messages.load(Ordering::Relaxed)
            && self.flushed.load(Ordering::Relaxed)
    }
}

/// Passes on what the gate lets pass.
///
/// A message that is refused before its head was passed on is never seen by the reader: reads stay pending from
/// then on, without a wake-up, so that the messages before it can be answered in peace. Whoever serves looks at
/// [`Verdict::is_due`] after each poll, and ends the connection. A body that is refused later fails the read that
/// would take it on, with `InvalidData` and the [`Malformed`] inside.
#[derive(Debug)]
pub struct Guarded<S> {
    inner: S,
    gate: Gate,
    verdict: Arc<Verdict>,
}

impl<S> Guarded<S> {
    /// Puts the gate before `inner`, which is at the beginning of a message.
    pub fn new(inner: S) -> Self {
        let verdict = Verdict {
            refused: OnceLock::new(),
            flushed: AtomicBool::new(true),
            messages: AtomicU64::new(0),
            switched: AtomicBool::new(false),
        };
        Self { inner, gate: Gate::default(), verdict: Arc::new(verdict) }
    }

    /// What is known of it; shared.
    pub fn verdict(&self) -> Arc<Verdict> {
        self.verdict.clone()
    }

    /// The connection without the gate.
    pub fn into_inner(self) -> S {
        self.inner
    }

    fn touched(&self) {
        // Only this connection's task writes, and reads.
        self.verdict.flushed.store(false, Ordering::Relaxed);
    }
}

fn stopped(stop: Stop) -> Poll<io::Result<()>> {
    if stop.within { Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, stop.why))) } else { Poll::Pending }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(stop) = this.verdict.refused.get() {
            return stopped(*stop);
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        if this.verdict.switched.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        let Err(refused) = this.gate.feed(&buf.filled()[before..]) else { return Poll::Ready(Ok(())) };
        let stop = Stop { why: refused.why, within: refused.within };
        this.verdict.messages.store(this.gate.messages(), Ordering::Relaxed);
        // Only one task comes here, once.
        let _ = this.verdict.refused.set(stop);
        buf.set_filled(before + refused.whole);
        if refused.whole > 0 { Poll::Ready(Ok(())) } else { stopped(stop) }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.touched();
        Pin::new(&mut this.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.touched();
        Pin::new(&mut this.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        this.verdict.flushed.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
