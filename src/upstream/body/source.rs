//! Where a request's body comes from: the client, and what was kept of it in case it must be sent again.

use std::collections::VecDeque;
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
pub(super) const MAX_KEPT: usize = 64 * 1024;
/// What a piece counts for at least: one costs memory even if it is empty.
const LEAST_KEPT: usize = 64;

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
                // Nothing comes after trailers, and who has sent them on asks no more.
                if frame.is_trailers() || incoming.is_end_stream() {
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
    /// It can still be had from its beginning.
    whole: bool,
    /// While it is whole: all data read so far. After that: what the reader has yet to give out of it.
    data: VecDeque<Bytes>,
    /// Pieces of `data` that the reader has given out.
    at: usize,
    size: usize,
    /// All fields after the data.
    trailers: Option<HeaderMap>,
    trailers_given: bool,
    ended: bool,
}

impl State {
    /// What was read for an earlier reader.
    fn next(&mut self) -> Option<Bytes> {
        if !self.whole {
            return self.data.pop_front();
        }
        let piece = self.data.get(self.at)?.clone();
        self.at += 1;
        Some(piece)
    }

    /// Read just now, and given out.
    fn read(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.size += data.len().max(LEAST_KEPT);
            if self.size > MAX_KEPT {
                self.let_go();
            } else if self.whole {
                self.data.push_back(data.clone());
                self.at += 1;
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
            self.trailers_given = true;
            self.ended = true;
        }
    }

    /// What the reader has not given out stays: it may be in the middle of a second reading.
    fn let_go(&mut self) {
        if std::mem::take(&mut self.whole) {
            self.data = self.data.split_off(self.at);
            self.at = 0;
        }
    }
}

/// A reader of a [`Kept`] body.
pub(super) struct Reader {
    kept: Arc<Kept>,
    number: u32,
}

impl Kept {
    /// The first reader of what is kept of `source` from now on.
    pub(super) fn of(source: Source) -> Reader {
        let state = State {
            source,
            reader: 0,
            whole: true,
            data: VecDeque::new(),
            at: 0,
            size: 0,
            trailers: None,
            trailers_given: false,
            ended: false,
        };
        Reader { kept: Arc::new(Self { state: Mutex::new(state) }), number: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding it")
    }

    /// A reader from the beginning; the one before reads nothing more. `None` if too much was read to keep it, or if the
    /// request was answered.
    pub(super) fn reader(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.lock();
        if !state.whole {
            return None;
        }
        state.reader += 1;
        state.at = 0;
        state.trailers_given = false;
        Some(Reader { number: state.reader, kept: self.clone() })
    }

    /// The request was answered: nothing need be kept any more.
    pub(super) fn let_go(&self) {
        self.lock().let_go();
    }
}

impl Reader {
    pub(super) fn kept(&self) -> &Arc<Kept> {
        &self.kept
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut guard = self.kept.lock();
        let state = &mut *guard;
        if state.reader != self.number {
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "sent elsewhere"))));
        }
        if let Some(piece) = state.next() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if state.ended {
            let given = std::mem::replace(&mut state.trailers_given, true);
            let trailers = state.trailers.clone().filter(|_| !given);
            return Poll::Ready(trailers.map(|t| Ok(Frame::trailers(t))));
        }
        let next = std::task::ready!(state.source.poll(cx));
        match &next {
            Some(Ok(frame)) => state.read(frame),
            Some(Err(_)) => {}
            None => state.ended = true,
        }
        Poll::Ready(next)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let state = self.kept.lock();
        let over = state.ended || state.source.is_end_stream();
        state.reader == self.number
            && over
            && state.at >= state.data.len()
            && (state.trailers.is_none() || state.trailers_given)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let state = self.kept.lock();
        let again: usize = state.data.iter().skip(state.at).map(Bytes::len).sum();
        let mut hint = if state.ended { SizeHint::with_exact(0) } else { state.source.size_hint() };
        let again = again as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + again);
        }
        hint.set_lower(hint.lower() + again);
        hint
    }
}
