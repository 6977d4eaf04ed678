//! What an HTTP/2 request says of its target, where that differs from HTTP/1.1 (RFC 9113 section 8.3), and what h2 lets
//! pass of a head that is no valid one; and the form in which a target goes on.

use http::header::COOKIE;
use http::{HeaderMap, Method, Request, Uri, Version};
use hyper::ext::Protocol;

use super::headers::only_host;
use crate::config::Limits;
use crate::domain::{Code, HTTP_PORT, HTTPS_PORT, Origin};
use crate::upstream::Failure;

/// Refuses what RFC 9113 calls malformed, and a head with too many fields; nothing of an HTTP/1.1 request.
///
/// # Errors
/// `request.malformed`, `limit.head`.
pub(super) fn check<B>(request: &Request<B>, limits: &Limits) -> Result<(), Failure> {
    if request.version() != Version::HTTP_2 {
        return Ok(());
    }
    let headers = request.headers();
    if fields(headers) > limits.max_headers {
        return Err(Failure::new(Code::LimitHead, "the request has more header fields than limits.max_headers"));
    }
    // RFC 9113 section 8.2.1. Whoever trims it on the way would read another value than we do.
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if headers.values().map(|v| v.as_bytes()).any(|v| blank(v.first()) || blank(v.last())) {
        return Err(malformed("a field value begins or ends with white space"));
    }
    let uri = request.uri();
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(malformed(":authority holds user information"));
    }
    if is_tunnel(request) {
        return Ok(());
    }
    let asterisk = uri.path() == "*" && request.method() == Method::OPTIONS;
    if !uri.path().starts_with('/') && !asterisk {
        return Err(malformed(":path does not begin with a slash"));
    }
    Ok(())
}

/// Header fields as HTTP/1.1 would have them: the crumbs of a cookie are one (RFC 9113 section 8.2.3).
fn fields(headers: &HeaderMap) -> usize {
    headers.len() - headers.get_all(COOKIE).iter().count().saturating_sub(1)
}

/// CONNECT as RFC 9113 section 8.5 has it: without scheme, path and protocol.
fn is_tunnel<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT && protocol(request).is_none()
}

/// `:protocol` of an extended CONNECT (RFC 8441 section 4).
pub(super) fn protocol<B>(request: &Request<B>) -> Option<&str> {
    request.extensions().get::<Protocol>().map(Protocol::as_str)
}

/// Whether the request opens a WebSocket by extended CONNECT: a CONNECT that is not for us, but for its target.
///
/// # Errors
/// `request.malformed` for every other CONNECT; `otherwise` says why there is none here.
pub(super) fn opens_websocket<B>(request: &Request<B>, otherwise: impl FnOnce() -> Failure) -> Result<bool, Failure> {
    if request.method() != Method::CONNECT {
        return Ok(false);
    }
    match protocol(request) {
        Some("websocket") => Ok(true),
        Some(_) => {
            Err(malformed("the only :protocol that an extended CONNECT can ask for here is websocket (RFC 8441)"))
        }
        None => Err(otherwise()),
    }
}

/// The authority of an HTTP/2 request: `:authority`, or `Host` without it. Both may be there if they agree (RFC 9113
/// section 8.3.1).
///
/// # Errors
/// `request.malformed` if there is none, if they name different servers, or if there are several Hosts.
pub(super) fn authority<B>(request: &Request<B>) -> Result<&str, Failure> {
    let uri = request.uri();
    let (target, host) = (uri.authority().map(|a| a.as_str()), only_host(request.headers())?);
    match (target, host) {
        (None, None) => Err(malformed("the request has neither :authority nor Host")),
        (Some(one), None) | (None, Some(one)) => Ok(one),
        // The usual case costs a comparison.
        (Some(target), Some(host)) if target.eq_ignore_ascii_case(host) => Ok(target),
        (Some(target), Some(host)) => {
            let port = if uri.scheme_str() == Some("http") { HTTP_PORT } else { HTTPS_PORT };
            let read = |text| Origin::from_authority(text, port).ok();
            match (read(target), read(host)) {
                (Some(a), Some(b)) if a == b => Ok(target),
                _ => Err(malformed(":authority and Host do not name the same server")),
            }
        }
    }
}

fn malformed(what: &str) -> Failure {
    Failure::new(Code::RequestMalformed, what)
}

/// `/path?query`, from whatever form the target came in (RFC 9112 section 3.2.1).
pub(super) fn origin_form(uri: Uri) -> Result<Uri, Failure> {
    if uri.authority().is_none() && uri.scheme().is_none() {
        return Ok(uri);
    }
    let path = uri.into_parts().path_and_query.filter(|p| !p.as_str().is_empty());
    let Some(path) = path else { return Ok(Uri::from_static("/")) };
    if path.as_str().starts_with('/') || path.as_str() == "*" {
        return Ok(Uri::from(path));
    }
    // `http://host?query`: an absolute form with an empty path, printed with the slash that it lacks.
    path.to_string().parse().map_err(|_| Failure::new(Code::RequestMalformed, "the request target is not a valid URI"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, uri: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(uri).version(Version::HTTP_2);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn the_authority_is_said_once_or_twice_alike() {
        let of = |uri: &str, hosts: &[&str]| {
            let fields: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            authority(&request("GET", uri, &fields)).map(str::to_owned).map_err(|f| f.code)
        };
        let malformed = Err(Code::RequestMalformed);
        assert_eq!(of("https://a.test/", &[]).as_deref(), Ok("a.test"));
        assert_eq!(of("/", &["a.test:1"]).as_deref(), Ok("a.test:1"));
        for alike in ["a.test", "A.TEST", "a.test:443", "a.test."] {
            assert_eq!(of("https://a.test/", &[alike]).as_deref(), Ok("a.test"), "{alike}");
        }
        assert_eq!(of("http://a.test/", &["a.test:80"]).as_deref(), Ok("a.test"));
        for other in ["b.test", "a.test:80", "u@a.test", "a.test/x"] {
            assert_eq!(of("https://a.test/", &[other]), malformed, "{other}");
        }
        assert_eq!(of("/", &[]), malformed);
        assert_eq!(of("https://a.test/", &["a.test", "a.test"]), malformed);
    }

    #[test]
    fn refuses_what_the_library_lets_pass() {
        let limits = Limits { max_headers: 3, ..Limits::default() };
        let of = |request: &Request<()>| check(request, &limits).map_err(|f| f.code);
        assert_eq!(of(&request("GET", "https://a.test/x?y", &[("accept", "a b")])), Ok(()));
        assert_eq!(of(&request("OPTIONS", "*", &[])), Ok(()));
        assert_eq!(of(&request("CONNECT", "a.test:443", &[])), Ok(()));
        for value in [" a", "a ", "\ta", "a\t"] {
            assert_eq!(of(&request("GET", "/", &[("x", value)])), Err(Code::RequestMalformed), "{value:?}");
        }
        assert_eq!(of(&request("GET", "https://u:p@a.test/", &[])), Err(Code::RequestMalformed));
        assert_eq!(of(&request("CONNECT", "u@a.test:443", &[])), Err(Code::RequestMalformed));
        assert_eq!(of(&request("GET", "*", &[])), Err(Code::RequestMalformed));
        let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3"), ("x", "1"), ("y", "2")];
        assert_eq!(of(&request("GET", "/", &crumbs)), Ok(()));
        assert_eq!(of(&request("GET", "/", &[("x", "1"); 4])), Err(Code::LimitHead));
        // HTTP/1.1 has its own judges.
        let mut old = request("GET", "/", &[("x", "1"); 4]);
        *old.version_mut() = Version::HTTP_11;
        assert_eq!(of(&old), Ok(()));
    }

    #[test]
    fn knows_a_websocket_from_a_tunnel() {
        let of = |request: &Request<()>| {
            opens_websocket(request, || Failure::new(Code::RequestMisdirected, "none")).map_err(|f| f.code)
        };
        assert_eq!(of(&request("GET", "/", &[])), Ok(false));
        assert_eq!(of(&request("CONNECT", "a.test:443", &[])), Err(Code::RequestMisdirected));
        let mut extended = request("CONNECT", "https://a.test/chat", &[]);
        extended.extensions_mut().insert(Protocol::from_static("websocket"));
        assert_eq!(of(&extended), Ok(true));
        assert_eq!(check(&extended, &Limits::default()).map_err(|f| f.code), Ok(()));
        extended.extensions_mut().insert(Protocol::from_static("connect-udp"));
        assert_eq!(of(&extended), Err(Code::RequestMalformed));
    }

    #[test]
    fn takes_scheme_and_authority_off_a_target() {
        for (from, to) in [
            ("http://a.test/x?y=1", "/x?y=1"),
            ("http://a.test", "/"),
            ("https://a.test:8443/", "/"),
            ("/x", "/x"),
            ("http://a.test?q", "/?q"),
            ("*", "*"),
        ] {
            assert_eq!(origin_form(from.parse().unwrap()).unwrap_or_else(|f| panic!("{}", f.detail)), to, "{from}");
        }
    }
}
