//! The body that goes back to a client.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::Stall;
use crate::net::Meter;

/// Told once how a response body ended.
pub trait Ended: Send + Sync {
    /// `complete`: the whole body was handed to the client's connection. `bytes`: of body.
    fn ended(self: Box<Self>, complete: bool, bytes: u64);
}

/// The body that goes back to a client.
pub struct ReplyBody {
    kind: Kind,
}

enum Kind {
    Full(Option<Bytes>),
    Stream {
        inner: Incoming,
        /// The announced length, if there was one.
        length: Option<u64>,
        bytes: u64,
        stall: Stall,
        meter: Arc<Meter>,
        ended: Option<Box<dyn Ended>>,
    },
}

impl ReplyBody {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self { kind: Kind::Full(None) }
    }

    /// These bytes.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { kind: Kind::Full((!bytes.is_empty()).then_some(bytes)) }
    }

    /// The origin's body on the connection that `meter` meters; fails once it has not moved for `idle`.
    /// `ended` is told exactly once, also when this is dropped.
    #[must_use]
    pub fn stream(inner: Incoming, meter: Arc<Meter>, idle: Duration, ended: Box<dyn Ended>) -> Self {
        // Nothing may come and yet a length have been announced (HEAD): the hint of `inner` is kept.
        let ended = if inner.is_end_stream() {
            ended.ended(true, 0);
            None
        } else {
            Some(ended)
        };
        let length = inner.size_hint().exact();
        Self { kind: Kind::Stream { inner, length, bytes: 0, stall: Stall::new(idle), meter, ended } }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let (inner, length, bytes, stall, meter, ended) = match &mut self.kind {
            Kind::Full(full) => return Poll::Ready(full.take().map(|b| Ok(Frame::data(b)))),
            Kind::Stream { inner, length, bytes, stall, meter, ended } => (inner, length, bytes, stall, meter, ended),
        };
        match Pin::new(&mut *inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                stall.moved = true;
                if let Some(data) = frame.data_ref() {
                    *bytes += data.len() as u64;
                }
                if inner.is_end_stream()
                    && let Some(ended) = ended.take()
                {
                    ended.ended(true, *bytes);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            // When a connection's task is ended from outside, or by an error while it writes, hyper lets the body end as if
            // it were whole.
            Poll::Ready(None) if ended.is_some() && (meter.is_cut() || length.is_some_and(|l| *bytes < l)) => {
                if let Some(ended) = ended.take() {
                    ended.ended(false, *bytes);
                }
                Poll::Ready(Some(Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the connection ended before the body did",
                ))))
            }
            Poll::Ready(None) => {
                if let Some(ended) = ended.take() {
                    ended.ended(true, *bytes);
                }
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                if let Some(ended) = ended.take() {
                    ended.ended(false, *bytes);
                }
                // The client's connection is cut without an end of message: truncation stays truncation.
                Poll::Ready(Some(Err(io::Error::other(error))))
            }
            Poll::Pending => {
                std::task::ready!(stall.poll(cx));
                if let Some(ended) = ended.take() {
                    ended.ended(false, *bytes);
                }
                Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, "the origin stopped sending"))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(full) => full.is_none(),
            Kind::Stream { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(full) => SizeHint::with_exact(full.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Stream { inner, .. } => inner.size_hint(),
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        if let Kind::Stream { ended, bytes, .. } = &mut self.kind
            && let Some(ended) = ended.take()
        {
            ended.ended(false, *bytes);
        }
    }
}
