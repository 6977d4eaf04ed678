//! WebSocket through the waist (RFC 6455; RFC 8441 for clients that speak HTTP/2).
//!
//! Upstream it is always HTTP/1.1, on a connection of its own. Nothing else is ever upgraded: any other `Upgrade` is
//! dropped, and a 101 that was not asked for, or is for something else, is an error. From the 101 on, bytes go both ways
//! unread; one side's end is passed on and the other goes on. A connection in which nothing has moved for
//! `limits.tunnel_idle_timeout` is closed.

use std::any::Any;
use std::sync::Arc;

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::serve::{Busy, carried};
use super::tunnel;
use crate::config::LiveLimits;
use crate::domain::Code;
use crate::net::{Io, Meter, Verdict};
use crate::observe::Metrics;
use crate::upstream::{Failure, RequestBody, Tie};

/// RFC 6455 section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const WEBSOCKET: &str = "websocket";

/// What a front end leaves with a request that may be upgraded: who must not be let go of meanwhile, and the framing
/// gate that the upgraded bytes no longer concern.
#[derive(Clone)]
pub(super) struct Held {
    _client: Arc<dyn Any + Send + Sync>,
}

impl Held {
    /// Lets `client` go when the WebSocket has ended, or was not to be.
    pub(super) fn new(client: Arc<dyn Any + Send + Sync>) -> Self {
        Self { _client: client }
    }
}

/// See [`Held`].
#[derive(Clone)]
pub(super) struct Switch(pub(super) Arc<Verdict>);

/// Whether a request may ask to become something else; only then the front ends prepare for it.
pub(super) fn may_upgrade<B>(request: &Request<B>) -> bool {
    request.headers().contains_key(UPGRADE)
        || (request.method() == Method::CONNECT && request.extensions().get::<hyper::ext::Protocol>().is_some())
}

/// A request for a WebSocket, with the client's side of it.
pub(super) struct Ask {
    client: OnUpgrade,
    /// Of HTTP/2: while it lives the client's connection is not idle, and the stream can be reset.
    busy: Option<Busy>,
    seat: Option<Held>,
    switch: Option<Switch>,
    /// The key that egret made for a client of HTTP/2, which has none of its own (RFC 8441 section 5).
    made: Option<String>,
    /// What the origin must answer the key with.
    accept: String,
}

impl Ask {
    /// Takes the question out of a request, if it is one. Called before the head is cleaned.
    pub(super) fn take(request: &mut Request<RequestBody>) -> Option<Self> {
        if !may_upgrade(request) || !request.body().is_empty() {
            return None;
        }
        let extended = request
            .extensions()
            .get::<hyper::ext::Protocol>()
            .is_some_and(|p| p.as_str().eq_ignore_ascii_case(WEBSOCKET));
        let asked = if request.method() == Method::CONNECT { extended } else { asks(request) };
        if !asked {
            return None;
        }
        let made = extended.then(|| {
            let mut nonce = [0; 16];
            rand::fill(&mut nonce).expect("the system gives random numbers");
            STANDARD.encode(nonce)
        });
        let accept = made.as_ref().map_or_else(|| only_key(request.headers()), |k| Some(k.as_bytes())).map(accept)?;
        let client = hyper::upgrade::on(&mut *request);
        let extensions = request.extensions_mut();
        Some(Self {
            client,
            busy: extensions.remove(),
            seat: extensions.remove(),
            switch: extensions.remove(),
            made,
            accept,
        })
    }

    /// Makes the cleaned head the question that the origin is asked.
    pub(super) fn put(&self, parts: &mut Parts) {
        parts.method = Method::GET;
        let headers = &mut parts.headers;
        headers.remove(TE);
        headers.remove(TRANSFER_ENCODING);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
        if let Some(key) = &self.made {
            let key = HeaderValue::try_from(key.as_str()).expect("base64 is a field value");
            headers.insert(SEC_WEBSOCKET_KEY, key);
            headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
        }
    }

    /// Whether an answer is one that the client can be told: a 101 answers the question (RFC 6455 section 4.1), and the
    /// client waited for it (what it sent before, the framing gate has swallowed). To a
    /// client of HTTP/2 any 2xx means that its WebSocket is open (RFC 8441 section 5), which without a 101 it is not.
    pub(super) fn check<B>(&self, response: &Response<B>) -> Result<(), Failure> {
        let (status, headers) = (response.status(), response.headers());
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return match &self.made {
                Some(_) if status.is_success() => {
                    let detail = format!("the origin answered with {} and opened no WebSocket", status.as_u16());
                    Err(Failure::new(Code::UpstreamMalformed, detail)
                        .fix("check the URL; ask for it without a WebSocket"))
                }
                _ => Ok(()),
            };
        }
        if self.switch.as_ref().is_some_and(|switch| switch.0.refused().is_some()) {
            return Err(Failure::new(
                Code::RequestMalformed,
                "the client sent something that is no HTTP before the 101",
            )
            .fix("wait for the 101 before anything is sent on the WebSocket"));
        }
        let wrong = |why: &str| Err(Failure::new(Code::UpstreamMalformed, format!("the origin's 101 {why}")));
        if !names(headers, &UPGRADE, WEBSOCKET) || !names(headers, &CONNECTION, "upgrade") {
            return wrong("switches to a protocol that was not asked for");
        }
        // Without this, whoever can make an origin say 101 has a tunnel to it that nobody looks into.
        if headers.get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes) != Some(self.accept.as_bytes()) {
            return wrong("does not answer the WebSocket key that it was asked with");
        }
        Ok(())
    }

    /// Makes the cleaned head of the 101 what the client is told; its status.
    pub(super) fn tell(&self, headers: &mut HeaderMap) -> StatusCode {
        // RFC 9110 section 8.6: neither a 101 nor the 2xx of a CONNECT has one.
        headers.remove(CONTENT_LENGTH);
        if self.made.is_some() {
            headers.remove(SEC_WEBSOCKET_ACCEPT);
            return StatusCode::OK;
        }
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
        StatusCode::SWITCHING_PROTOCOLS
    }
}

/// An HTTP/1.1 request for a WebSocket. Whether its other fields are right is for the origin to judge.
fn asks<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && names(request.headers(), &UPGRADE, WEBSOCKET)
        && names(request.headers(), &CONNECTION, "upgrade")
}

fn names(headers: &HeaderMap, field: &http::HeaderName, word: &str) -> bool {
    let mut elements = headers.get_all(field).iter().flat_map(|v| v.as_bytes().split(|b| *b == b','));
    elements.any(|e| e.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// The key that a client of HTTP/1.1 asks with: there is exactly one.
fn only_key(headers: &HeaderMap) -> Option<&[u8]> {
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    keys.next().filter(|_| keys.next().is_none()).map(HeaderValue::as_bytes)
}

fn accept(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(GUID.as_bytes());
    STANDARD.encode(hash.finish())
}

/// Who owns the connections that became WebSockets.
pub(super) struct Bridges {
    pub(super) tasks: TaskTracker,
    pub(super) abort: CancellationToken,
    pub(super) limits: LiveLimits,
    pub(super) metrics: Arc<Metrics>,
}

impl Bridges {
    /// Joins both sides once the client was told. `ended` learns whether both sides closed in peace, and how many bytes went
    /// up and down. Belongs to the proxy's tasks; ends with either side, when it idles, when the identity's deadline has
    /// come, or with the proxy.
    pub(super) fn join(
        &self,
        ask: Ask,
        upstream: OnUpgrade,
        tie: Option<Tie>,
        ended: impl FnOnce(bool, u64, u64) + Send + 'static,
    ) {
        if let Some(switch) = &ask.switch {
            // Before the 101 is written: what the client sends after it is no HTTP.
            switch.0.switch();
        }
        let (abort, idle, metrics) = (self.abort.clone(), self.limits.tunnel_idle_timeout(), self.metrics.clone());
        self.tasks.spawn(async move {
            let Ask { client, busy, seat, .. } = ask;
            let both = async { tokio::try_join!(client, upstream) };
            let joined = tokio::select! {
                joined = both => joined,
                () = abort.cancelled() => return ended(false, 0, 0),
            };
            let Ok((client, upstream)) = joined else { return ended(false, 0, 0) };
            let open = Open::new(&metrics);
            let meter = Meter::new();
            let io = Io::new(carried(client, busy.clone()), meter.clone());
            let tied = async {
                match tie {
                    Some(mut tie) => tie.cut().await,
                    None => std::future::pending().await,
                }
            };
            let cut = async {
                tokio::select! {
                    () = tied => {}
                    () = Busy::gone(busy) => {}
                    () = abort.cancelled() => {}
                }
            };
            let whole = tunnel::copy(io, TokioIo::new(upstream), &meter, idle, cut).await == tunnel::End::Closed;
            drop(open);
            drop(seat);
            ended(whole, meter.read(), meter.written());
        });
    }
}

/// Counts an open WebSocket while it lives.
struct Open<'a>(&'a Metrics);

impl<'a> Open<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.websockets.add();
        Self(metrics)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.websockets.sub();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_the_key_as_the_standard_shows() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn knows_a_question_for_a_websocket_from_other_upgrades() {
        let asked = |method: &str, upgrade: &str, connection: &str| {
            let request = Request::builder().method(method).header("upgrade", upgrade).header("connection", connection);
            asks(&request.body(()).unwrap())
        };
        assert!(asked("GET", "websocket", "Upgrade"));
        assert!(asked("GET", "WebSocket", "keep-alive, Upgrade"));
        assert!(!asked("GET", "h2c", "Upgrade, HTTP2-Settings"));
        assert!(!asked("GET", "websocket", "keep-alive"));
        assert!(!asked("POST", "websocket", "Upgrade"));
    }
}
