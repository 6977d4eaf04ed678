//! Where a request's body comes from: the client, and what was kept of it in case it must be sent again.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::Upload;
use crate::upstream::explain;

/// How much of an unwanted upload is read, and for how long.
const DISCARD_TIME: Duration = Duration::from_secs(1);
const DISCARD_BYTES: usize = 256 * 1024 * 1024;
/// What is kept of a body until its stream was answered, at most.
const MAX_KEPT: usize = 64 * 1024;

/// A client's body, not yet read to its end.
pub(super) struct Source {
    /// Taken by the drop only.
    incoming: Option<Incoming>,
    upload: Arc<Upload>,
    /// Let go of when the body has ended.
    held: Option<Box<dyn Send + Sync>>,
    /// The client sends (or would send) without being asked: not polling does not keep it from it.
    flows: bool,
}

impl Source {
    pub(super) fn new(incoming: Incoming, upload: Arc<Upload>, flows: bool) -> Self {
        Self { incoming: Some(incoming), upload, held: None, flows }
    }

    pub(super) fn hold(&mut self, token: impl Send + Sync + 'static) {
        self.held = Some(Box::new(token));
    }

    /// Whether the client sends without being asked.
    pub(super) fn flows(&self) -> bool {
        self.flows
    }

    /// The next frame; the errors are the client's.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        self.flows = true;
        match std::task::ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                self.upload.took(frame.data_ref().map_or(0, Bytes::len));
                if incoming.is_end_stream() {
                    self.upload.finish();
                    self.held = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let kind = explain::io_kind(&error).unwrap_or(io::ErrorKind::Other);
                self.upload.broke(kind);
                Poll::Ready(Some(Err(io::Error::new(kind, error))))
            }
            None => {
                self.upload.finish();
                self.held = None;
                Poll::Ready(None)
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Many clients send a whole body before they look at the answer, and a connection that is closed under them
/// takes the answer with it. So what nobody wants any more is read for a moment, and thrown away.
impl Drop for Source {
    fn drop(&mut self) {
        if let (Some(incoming), false, true) = (self.incoming.take(), self.upload.is_finished(), self.flows)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // Ends by itself: after a second, at the bound, or with the client's connection.
            runtime.spawn(tokio::time::timeout(DISCARD_TIME, discard(incoming, self.held.take())));
        }
    }
}

async fn discard(mut body: Incoming, held: Option<Box<dyn Send + Sync>>) {
    let mut left = DISCARD_BYTES;
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            break;
        }
    }
    drop(held);
}

/// A body whose beginning is kept until its request was answered: an HTTP/2 origin may say, after it was sent some of
/// the body, that it has not looked at the request at all (RFC 9113 sections 6.8 and 8.7).
pub(super) struct Kept {
    state: Mutex<State>,
}

struct State {
    source: Source,
    /// Who may read: the body that was made last.
    reader: u32,
    /// All data read so far, unless that grew too long.
    data: Option<Vec<Bytes>>,
    size: usize,
    /// All fields after the data.
    trailers: Option<HeaderMap>,
    ended: bool,
}

/// A reader of a [`Kept`] body.
pub(super) struct Reader {
    kept: Arc<Kept>,
    number: u32,
    /// Chunks that it has given out.
    at: usize,
    trailers_given: bool,
}

impl Kept {
    pub(super) fn new(source: Source) -> Arc<Self> {
        let state = State { source, reader: 0, data: Some(Vec::new()), size: 0, trailers: None, ended: false };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding it")
    }

    /// A reader from the beginning; the one before reads nothing more. `None` if too much was read to keep it.
    pub(super) fn reader(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.lock();
        state.data.as_ref()?;
        state.reader += 1;
        Some(Reader { number: state.reader, kept: self.clone(), at: 0, trailers_given: false })
    }

    /// The request was answered: nothing need be kept any more.
    pub(super) fn let_go(&self) {
        self.lock().data = None;
    }
}

impl Reader {
    pub(super) fn into_kept(self) -> Arc<Kept> {
        self.kept
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut guard = self.kept.lock();
        let state = &mut *guard;
        if state.reader != self.number {
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "sent elsewhere"))));
        }
        if let Some(chunk) = state.data.as_ref().and_then(|data| data.get(self.at)) {
            self.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if state.ended {
            let trailers = state.trailers.clone().filter(|_| !std::mem::replace(&mut self.trailers_given, true));
            return Poll::Ready(trailers.map(|t| Ok(Frame::trailers(t))));
        }
        let next = std::task::ready!(state.source.poll(cx));
        match &next {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    state.size += data.len();
                    if state.size > MAX_KEPT {
                        state.data = None;
                    } else if let Some(kept) = &mut state.data {
                        kept.push(data.clone());
                        self.at += 1;
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    state.trailers = Some(trailers.clone());
                    self.trailers_given = true;
                    state.ended = true;
                }
            }
            Some(Err(_)) => {}
            None => state.ended = true,
        }
        Poll::Ready(next)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let state = self.kept.lock();
        let given = state.data.as_ref().is_none_or(|data| self.at >= data.len());
        let over = state.ended || state.source.is_end_stream();
        given && over && (state.trailers.is_none() || self.trailers_given)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let state = self.kept.lock();
        let again: usize = state.data.iter().flat_map(|data| &data[self.at.min(data.len())..]).map(Bytes::len).sum();
        let mut hint = if state.ended { SizeHint::with_exact(0) } else { state.source.size_hint() };
        let again = again as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + again);
        }
        hint.set_lower(hint.lower() + again);
        hint
    }
}
