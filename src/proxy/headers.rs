//! What of a message's head crosses egret, and what belongs to one hop only (RFC 9110 section 7.6).
//!
//! - Hop-by-hop fields and what `Connection` names never cross; `Proxy-*` credentials cross in neither direction.
//! - `Trailer` always crosses: hyper writes only the trailers that it announces.
//! - Framing is written anew from the parsed message, never copied; what is ambiguous is refused.
//!
//! Values of one name keep their order and number. Everything here is pure.

use aws_lc_rs::rand;
use http::header::{
    ALT_SVC, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, STRICT_TRANSPORT_SECURITY, TE, TRANSFER_ENCODING,
    UPGRADE, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use crate::domain::{Code, hex};
use crate::upstream::Failure;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const PROXY_AUTHENTICATE: HeaderName = http::header::PROXY_AUTHENTICATE;
const PROXY_AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("proxy-authentication-info");
const PROXY_AUTHORIZATION: HeaderName = http::header::PROXY_AUTHORIZATION;
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// egret's mark in `Via`: a pseudonym that no other instance has, so that a loop is seen exactly.
#[derive(Debug, Clone)]
pub struct Via {
    /// `egret-` and 16 hex digits, new with every start. Comments may be dropped on the way (RFC 9110
    /// section 7.6.3), so the tag is part of the pseudonym.
    pseudonym: String,
    http_10: HeaderValue,
    http_11: HeaderValue,
    http_2: HeaderValue,
}

impl Via {
    /// A mark that no other instance has.
    ///
    /// # Panics
    /// If the system gives no random numbers, without which no TLS works either.
    #[must_use]
    pub fn random() -> Self {
        let mut tag = [0; 8];
        rand::fill(&mut tag).expect("the system gives random numbers");
        Self::with_tag(tag)
    }

    fn with_tag(tag: [u8; 8]) -> Self {
        let pseudonym = format!("egret-{}", hex(&tag));
        let value = |version: &str| {
            HeaderValue::try_from(format!("{version} {pseudonym}")).expect("a version and a token are a field value")
        };
        Self { http_10: value("1.0"), http_11: value("1.1"), http_2: value("2"), pseudonym }
    }

    /// The value for a message that was received with this version.
    #[must_use]
    pub fn value(&self, version: Version) -> HeaderValue {
        match version {
            Version::HTTP_09 | Version::HTTP_10 => self.http_10.clone(),
            Version::HTTP_2 | Version::HTTP_3 => self.http_2.clone(),
            _ => self.http_11.clone(),
        }
    }

    /// Whether one of the received `Via` values bears this mark.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let mark = self.pseudonym.as_bytes();
        headers.get_all(VIA).iter().any(|v| v.as_bytes().windows(mark.len()).any(|w| w.eq_ignore_ascii_case(mark)))
    }
}

/// Which of the fields that need work are there; found in one pass over the names.
#[derive(Default)]
struct Present {
    connection: bool,
    keep_alive: bool,
    proxy: bool,
    te: bool,
    transfer_encoding: bool,
    content_length: bool,
    upgrade: bool,
    http2_settings: bool,
    via: bool,
    expect: bool,
    hsts: bool,
    alt_svc: bool,
}

impl Present {
    fn scan(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection" => found.connection = true,
                "keep-alive" => found.keep_alive = true,
                "te" => found.te = true,
                "transfer-encoding" => found.transfer_encoding = true,
                "content-length" => found.content_length = true,
                "upgrade" => found.upgrade = true,
                "http2-settings" => found.http2_settings = true,
                "via" => found.via = true,
                "expect" => found.expect = true,
                "strict-transport-security" => found.hsts = true,
                "alt-svc" => found.alt_svc = true,
                other => found.proxy |= other.starts_with("proxy-"),
            }
        }
        found
    }
}

/// Makes a received request's head fit to be sent on: hop-by-hop fields and those that `Connection` names are
/// gone, `TE` says at most `trailers`, `Via` bears our mark. `Host` is left for the waist, which replaces it.
///
/// # Errors
/// `request.malformed` for ambiguous framing or a `Connection` that names what it may not; `request.loop` if
/// our own mark is there already.
pub fn clean_request(headers: &mut HeaderMap, version: Version, via: &Via) -> Result<(), Failure> {
    let found = Present::scan(headers);
    if found.via && via.is_in(headers) {
        return Err(Failure::new(Code::RequestLoop, "the request came through this egret already")
            .fix("check that the origin's name does not lead back to the proxy"));
    }
    if found.transfer_encoding {
        check_transfer_encoding(headers, found.content_length)?;
        headers.remove(TRANSFER_ENCODING);
    }
    if found.content_length {
        check_content_length(headers)?;
    }
    if found.connection {
        remove_named(headers, Side::Request)?;
    }
    if found.keep_alive {
        headers.remove(KEEP_ALIVE);
    }
    if found.upgrade {
        headers.remove(UPGRADE);
    }
    if found.http2_settings {
        headers.remove(HTTP2_SETTINGS);
    }
    if found.proxy {
        remove_proxy_fields(headers);
    }
    if found.te {
        let trailers = headers.get_all(TE).iter().any(names_trailers);
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
            // RFC 9110 section 10.1.4: who sends TE names it in Connection.
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
    }
    if version == Version::HTTP_2 {
        join_cookies(headers);
    }
    // RFC 9110 section 10.1.1: an expectation of an HTTP/1.0 client is to be ignored.
    if found.expect && version < Version::HTTP_11 {
        headers.remove(EXPECT);
    }
    headers.append(VIA, via.value(version));
    Ok(())
}

/// Makes a received response's head fit to be handed back. `lifted`: the client asked over plain http, and must
/// not be told to go around egret by TLS (product.md section 3).
pub fn clean_response(headers: &mut HeaderMap, version: Version, via: &Via, lifted: bool) {
    let found = Present::scan(headers);
    if found.connection {
        // Nothing in an answer can make this fail: what may not be removed is kept.
        let _ = remove_named(headers, Side::Response);
    }
    if found.transfer_encoding {
        headers.remove(TRANSFER_ENCODING);
        // RFC 9112 section 6.3: beside a transfer coding a length means nothing, and must not be sent on.
        headers.remove(CONTENT_LENGTH);
    }
    if found.keep_alive {
        headers.remove(KEEP_ALIVE);
    }
    if found.upgrade {
        headers.remove(UPGRADE);
    }
    if found.te {
        headers.remove(TE);
    }
    if found.http2_settings {
        headers.remove(HTTP2_SETTINGS);
    }
    if found.proxy {
        // Proxy-Status (RFC 9209) tells of every hop, so it stays.
        for name in [PROXY_AUTHENTICATE, PROXY_AUTHENTICATION_INFO, PROXY_AUTHORIZATION, PROXY_CONNECTION] {
            headers.remove(name);
        }
    }
    if lifted {
        if found.hsts {
            headers.remove(STRICT_TRANSPORT_SECURITY);
        }
        if found.alt_svc {
            headers.remove(ALT_SVC);
        }
    }
    headers.append(VIA, via.value(version));
}

/// Whether the client waits for `100 Continue` before it sends its body (RFC 9110 section 10.1.1).
///
/// hyper's server sends the 100 when the body is first polled. Whoever forwards keeps the field, and polls the
/// body only once the origin has said 100, or after a short wait, so that an origin's refusal arrives before
/// the body was asked for.
#[must_use]
pub fn expects_continue(headers: &HeaderMap, version: Version) -> bool {
    version >= Version::HTTP_11
        && headers.get(EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The one `Host` of a request: `None` if there is none.
///
/// # Errors
/// `request.malformed` if there are several, or if it is not text (RFC 9112 section 3.2).
pub(super) fn only_host(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let mut values = headers.get_all(HOST).iter();
    let Some(host) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Failure::new(Code::RequestMalformed, "the request has several Host fields; send exactly one"));
    }
    match host.to_str() {
        Ok(text) if !text.is_empty() => Ok(Some(text)),
        _ => Err(Failure::new(Code::RequestMalformed, "the Host field is empty or not a host name")),
    }
}

/// RFC 9113 section 8.2.3: a client of HTTP/2 may send its cookies one by one; they are one field for everybody else.
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

fn check_transfer_encoding(headers: &HeaderMap, content_length: bool) -> Result<(), Failure> {
    if content_length {
        return Err(Failure::new(
            Code::RequestMalformed,
            "the request has both Content-Length and Transfer-Encoding; send one of them",
        ));
    }
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    let first = values.next();
    if values.next().is_some() || !first.is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(Failure::new(
            Code::RequestMalformed,
            "the only transfer coding that is understood is chunked, once",
        ));
    }
    Ok(())
}

fn check_content_length(headers: &HeaderMap) -> Result<(), Failure> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let first = values.next();
    let plain = first.is_some_and(|v| !v.is_empty() && v.as_bytes().iter().all(u8::is_ascii_digit));
    if values.next().is_some() || !plain {
        return Err(Failure::new(Code::RequestMalformed, "Content-Length must be one decimal number, given once"));
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

/// Removes `Connection` and what it names.
fn remove_named(headers: &mut HeaderMap, side: Side) -> Result<(), Failure> {
    // Values are cheap handles on the received bytes; they are taken out because the map changes below.
    let values: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    headers.remove(CONNECTION);
    for option in values.iter().flat_map(list) {
        if matches_any(option, &["close", "keep-alive", "te", "trailer", "upgrade"]) {
            continue;
        }
        if is_protected(option) {
            if side == Side::Response {
                continue;
            }
            return Err(Failure::new(
                Code::RequestMalformed,
                "Connection names a field that is not for one hop only, such as Host or Content-Length",
            ));
        }
        // A connection option need not be a field (RFC 9110 section 7.6.1), nor even a valid name.
        if let Ok(name) = HeaderName::from_bytes(option) {
            headers.remove(name);
        }
    }
    Ok(())
}

/// Fields without which a request means something else, or that egret relies on itself.
fn is_protected(option: &[u8]) -> bool {
    matches_any(option, &["host", "content-length", "transfer-encoding", "via", "expect"])
        || option.get(..6).is_some_and(|p| p.eq_ignore_ascii_case(b"egret-"))
        || option.get(..8).is_some_and(|p| p.eq_ignore_ascii_case(b"x-egret-"))
}

fn matches_any(option: &[u8], names: &[&str]) -> bool {
    names.iter().any(|n| option.eq_ignore_ascii_case(n.as_bytes()))
}

/// The elements of a list field, white space trimmed, empty ones left out (RFC 9110 section 5.6.1).
fn list(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|e| !e.is_empty())
}

fn names_trailers(value: &HeaderValue) -> bool {
    list(value).any(|coding| {
        let name = coding.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        name.eq_ignore_ascii_case(b"trailers")
    })
}

/// Everything that begins with `Proxy-` in a request is between the client and us.
fn remove_proxy_fields(headers: &mut HeaderMap) {
    for name in [PROXY_AUTHORIZATION, PROXY_CONNECTION] {
        headers.remove(name);
    }
    while let Some(name) = headers.keys().find(|n| n.as_str().starts_with("proxy-")).cloned() {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests;
