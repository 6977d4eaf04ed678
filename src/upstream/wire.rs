//! What lies between TLS and hyper on an upstream connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::About;
use super::frames::{Frames, Said};
use super::multi::Streams;
use crate::net::{Io, Meter};

/// Pieces of a kilobyte that are read and dropped in search of an alert.
const MAX_UNREAD: usize = 64;

/// A metered connection that remembers the first error under it, and, on HTTP/2, follows what the origin says.
///
/// The error is kept here because HTTP/2 keeps only its text, and the alert by which an origin refuses a client
/// certificate is in it.
pub(super) struct Wire<S> {
    io: Io<S>,
    about: Arc<About>,
    /// HTTP/2 only.
    follows: Option<(Frames, Arc<Streams>)>,
    /// HTTP/1.1 only: the origin takes nothing any more, and what is written is thrown away.
    deaf: bool,
    /// The error of a write, until it is known whether the origin says more.
    broken: Option<io::Error>,
}

impl<S> Wire<S> {
    pub(super) fn new(stream: S, meter: Arc<Meter>, about: Arc<About>, streams: Option<Arc<Streams>>) -> Self {
        Self {
            io: Io::new(stream, meter),
            about,
            follows: streams.map(|s| (Frames::default(), s)),
            deaf: false,
            broken: None,
        }
    }

    /// The same for either protocol; `whole`: as if everything had been taken.
    ///
    /// An origin of HTTP/1.1 that refuses an upload may answer and close at once: then a write fails before the answer was
    /// read, though it is there, and hyper would give up. So such an error ends the writing only, and reading decides:
    /// there the answer comes first, and then the same end.
    fn wrote<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>, whole: T) -> Poll<io::Result<T>>
    where
        S: AsyncRead + Unpin,
    {
        match polled {
            Poll::Ready(Err(error)) if self.follows.is_none() && is_gone(&error) => {
                let _ = self.about.note(error);
                self.deaf = true;
                Poll::Ready(Ok(whole))
            }
            other => self.sent(cx, other),
        }
    }

    /// A write that failed. Over HTTP/2 nothing would be read after it, and yet the alert that says why may be there, or
    /// on its way up: an origin that refuses a certificate closes at once, and what is written to it meanwhile is
    /// answered with a reset. So the error waits for the end of what is to be read, which such a reset brings.
    fn sent<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>>
    where
        S: AsyncRead + Unpin,
    {
        match polled {
            Poll::Ready(Err(error)) if self.follows.is_some() && self.about.fault().is_none() => {
                self.broken = Some(error);
                std::task::ready!(self.read_on(cx))?;
                Poll::Pending
            }
            other => self.noted(other),
        }
    }

    /// Fails with the error of a write once nothing is left to read.
    fn read_on(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin,
    {
        if self.broken.is_none() {
            return Poll::Ready(Ok(()));
        }
        let mut spare = [0; 1024];
        for _ in 0..MAX_UNREAD {
            let mut buf = ReadBuf::new(&mut spare);
            match std::task::ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                Ok(()) => break,
                Err(error) => {
                    self.about.note(error);
                    break;
                }
            }
        }
        Poll::Ready(self.broken.take().map_or(Ok(()), Err))
    }

    fn noted<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.about.note(error))),
            other => other,
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if let Some((frames, streams)) = &mut this.follows {
            let mut endless = false;
            frames.feed(&buf.filled()[before..], |said| match said {
                Said::Settings(limit) => streams.limited(limit),
                Said::GoAway => streams.close(),
                Said::Head => endless |= streams.too_many_heads(),
            });
            if endless {
                this.about.goes_on_without_end();
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
        }
        this.noted(polled)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        std::task::ready!(this.read_on(cx))?;
        if this.deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        this.wrote(cx, polled, buf.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        std::task::ready!(this.read_on(cx))?;
        let whole = bufs.iter().map(|b| b.len()).sum();
        if this.deaf {
            return Poll::Ready(Ok(whole));
        }
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.wrote(cx, polled, whole)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        std::task::ready!(this.read_on(cx))?;
        if this.deaf {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut this.io).poll_flush(cx);
        this.wrote(cx, polled, ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
