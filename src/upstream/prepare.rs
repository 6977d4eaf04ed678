//! A request in the shape that its connection's protocol wants, and what is needed to send it once more.

use std::sync::Arc;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};

use super::body::{Gate, Spare};
use super::bucket::Bucket;
use super::{Failure, RequestBody};

/// HTTP/1.1: origin form (absolute form where a parent proxy is to send it on over plain http), Host, framing written out.
pub(super) fn http1(request: &mut Request<RequestBody>, bucket: &Bucket) -> Result<(), Failure> {
    if request.uri().authority().is_some() {
        // It was on its way over HTTP/2 before.
        *request.uri_mut() = Uri::from(path_of(request.uri()));
    }
    let chunked = !request.body().is_empty() && !request.headers().contains_key(header::CONTENT_LENGTH);
    let headers = request.headers_mut();
    headers.insert(header::HOST, bucket.authority.clone());
    if headers.contains_key(header::TE) {
        // RFC 9110 section 10.1.4: who sends TE names it in Connection.
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if chunked {
        // Written out, because hyper takes a GET or HEAD without it for one without a body.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    match bucket.absolute() {
        Some(parent) => parent.address(&bucket.authority, request),
        None => Ok(()),
    }
}

/// HTTP/2: the authority in the target, and no field of HTTP/1.1's connections (RFC 9113 sections 8.2.2 and 8.3.1).
pub(super) fn http2(request: &mut Request<RequestBody>, bucket: &Bucket) {
    let path = path_of(request.uri());
    let target = Uri::builder().scheme(Scheme::HTTPS).authority(bucket.uri_authority.clone()).path_and_query(path);
    // All three parts are there and valid, so nothing can be missing.
    if let Ok(target) = target.build() {
        *request.uri_mut() = target;
    }
    let headers = request.headers_mut();
    headers.remove(header::HOST);
    headers.remove(header::CONNECTION);
    headers.remove(header::TRANSFER_ENCODING);
}

fn path_of(uri: &Uri) -> PathAndQuery {
    uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
}

/// Whether a request with these fields is gRPC, which only HTTP/2 can carry: its status is in the trailers.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|v| {
        let value = v.as_bytes();
        let rest = value.strip_prefix(b"application/grpc");
        // `application/grpc-web` is made for HTTP/1.1.
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
    })
}

/// RFC 9110 section 9.2.2.
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

/// `Expect: 100-continue`: the client's body is not asked for (which is what makes egret say 100 to the
/// client) until the origin said so.
pub(super) fn hold_for_continue(request: &mut Request<RequestBody>) -> Option<Arc<Gate>> {
    let expects =
        request.headers().get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if !expects || request.body().is_empty() {
        return None;
    }
    let gate = Arc::new(Gate::default());
    request.body_mut().wait_for(gate.clone());
    Some(gate)
}

/// A request that may be sent a second time.
pub(super) struct Second {
    head: Request<RequestBody>,
    body: Option<Spare>,
}

impl Second {
    /// The head of `request`, which has no body, or whose body `body` is.
    pub(super) fn new(request: &Request<RequestBody>) -> Self {
        let mut head = Request::new(RequestBody::empty());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        Self { head, body: None }
    }

    pub(super) fn with(mut self, body: Option<Spare>) -> Self {
        self.body = body;
        self
    }

    /// The request from its beginning; `None` if too much of its body was read.
    pub(super) fn request(self) -> Option<Request<RequestBody>> {
        let mut request = self.head;
        if let Some(spare) = &self.body {
            *request.body_mut() = spare.again()?;
        }
        Some(request)
    }

    /// It was answered: nothing of its body need be kept.
    pub(super) fn let_go(self) {
        if let Some(spare) = &self.body {
            spare.let_go();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_grpc_from_what_only_sounds_like_it() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; x=y", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
    }
}
