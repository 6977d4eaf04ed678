//! Front end: the explicit proxy. Absolute form (RFC 9112 section 3.2.2), which in HTTP/2 is `:scheme` and `:authority`;
//! CONNECT goes on to [`super::connect`].
//!
//! Host, SNI and identity come from the target alone. A `Host` that says otherwise is replaced, as RFC 9112
//! section 3.2.2 demands; a missing, doubled or broken one is refused.

use std::sync::Arc;

use http::{Method, Request, Response, Uri, Version};

use super::headers::only_host;
use super::listener::{Client, Refused};
use super::{Inbound, Way, connect, target};
use crate::domain::{Code, HTTPS_PORT, HttpTarget, Origin, OriginError};
use crate::upstream::{Destination, Failure, ReplyBody, RequestBody};

/// What an absolute-form target names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    Https(Origin),
    Http(HttpTarget),
}

/// Answers one request of a `forward` listener.
pub(super) async fn answer(client: Arc<Client>, request: Request<RequestBody>) -> Response<ReplyBody> {
    if request.method() == Method::CONNECT {
        return connect::answer(client, request).await;
    }
    let refuse = |failure: &Failure, origin: Option<&str>, inbound: Option<&Inbound>| {
        client.refuse(failure, Refused { way: "absolute", method: request.method().as_str(), origin, inbound })
    };
    if let Err(failure) = client.check_target(&request) {
        return refuse(&failure, None, None);
    }
    let mut inbound = match client.inbound(&request) {
        Ok(inbound) => inbound,
        Err(failure) => return refuse(&failure, None, None),
    };
    let named = match named(request.uri()).and_then(|named| check_host(&request).map(|()| named)) {
        Ok(named) => named,
        Err(failure) => return refuse(&failure, None, Some(&inbound)),
    };
    let destination = match named {
        Named::Https(origin) => Destination::Tls(origin),
        Named::Http(target) => {
            let lifted = target.lifted();
            if inbound.project.load().lifts(&lifted) {
                inbound.to_mut().way = Way::Lifted;
                Destination::Tls(lifted)
            } else {
                inbound.to_mut().way = Way::Plain;
                Destination::Plain(target)
            }
        }
    };
    client.proxy.forwarder.forward(&inbound, destination, request).await
}

/// The target of a request to a proxy. http's own reading of the host is not trusted; ours is.
fn named(uri: &Uri) -> Result<Named, Failure> {
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(Failure::new(
            Code::RequestMalformed,
            "this is a forward proxy: it expects CONNECT host:port, or a target in absolute form (in \
             HTTP/2 with :scheme and :authority)",
        )
        .fix("use it as a proxy, as in: curl -x http://HOST:PORT https://api.example.com/"));
    };
    let authority = authority.as_str();
    if scheme.eq_ignore_ascii_case("https") {
        Origin::from_authority(authority, HTTPS_PORT).map(Named::Https).map_err(|e| malformed(&e))
    } else if scheme.eq_ignore_ascii_case("http") {
        HttpTarget::from_authority(authority).map(Named::Http).map_err(|e| malformed(&e))
    } else {
        Err(Failure::new(Code::RequestMalformed, "only http and https targets can be reached through this proxy"))
    }
}

pub(super) fn malformed(error: &OriginError) -> Failure {
    Failure::new(Code::RequestMalformed, format!("the request's target is not usable: {error}"))
}

/// RFC 9112 section 3.2: a request of HTTP/1.1 has exactly one valid Host, whatever its target says. In HTTP/2 it may be
/// missing, and says nothing else.
fn check_host(request: &Request<RequestBody>) -> Result<(), Failure> {
    if request.version() == Version::HTTP_2 {
        return target::authority(request).map(drop);
    }
    let target = request.uri().authority().map_or("", |a| a.as_str());
    host_is_valid(only_host(request.headers())?, target, request.version())
}

fn host_is_valid(host: Option<&str>, target: &str, version: Version) -> Result<(), Failure> {
    match host {
        // The usual case costs a comparison: the target was read already.
        Some(host) if host.eq_ignore_ascii_case(target) => Ok(()),
        Some(host) => Origin::from_authority(host, HTTPS_PORT)
            .map(drop)
            .map_err(|e| Failure::new(Code::RequestMalformed, format!("the Host field is not usable: {e}"))),
        None if version < Version::HTTP_11 => Ok(()),
        None => Err(missing_host()),
    }
}

pub(super) fn missing_host() -> Failure {
    Failure::new(Code::RequestMalformed, "the request has no Host field; HTTP/1.1 needs exactly one")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(uri: &str) -> Result<Named, Code> {
        named(&Uri::try_from(uri).expect("the test writes URIs")).map_err(|f| f.code)
    }

    #[test]
    fn reads_absolute_targets_in_canonical_form() {
        let https = |t| Ok(Named::Https(Origin::parse(t).unwrap()));
        assert_eq!(target("https://API.Example.com.:443/x?y=z"), https("https://api.example.com"));
        assert_eq!(target("HTTPS://api.example.com:8443"), https("https://api.example.com:8443"));
        assert_eq!(target("https://[2001:DB8::1]/"), https("https://[2001:db8::1]"));
        assert_eq!(target("http://a.test/"), Ok(Named::Http(HttpTarget::from_authority("a.test").unwrap())));
        assert_eq!(target("http://a.test:8080/"), Ok(Named::Http(HttpTarget::from_authority("a.test:8080").unwrap())));
    }

    #[test]
    fn refuses_what_is_no_target_of_a_proxy() {
        for bad in [
            "/path",
            "*",
            "a.test:443",
            "ftp://a.test/",
            "ws://a.test/",
            "https://user:secret@a.test/",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://127.1/",
            "https://a.test:0/",
            "https://a.test:65536/",
            "https://a..test/",
        ] {
            // What http refuses to read never gets here.
            if Uri::try_from(bad).is_ok() {
                assert_eq!(target(bad), Err(Code::RequestMalformed), "{bad}");
            }
        }
        let failure = named(&Uri::from_static("/path")).unwrap_err();
        assert!(failure.fix.unwrap().contains("curl -x"));
        let failure = named(&"https://user:secret@a.test/".parse().unwrap()).unwrap_err();
        assert!(!failure.detail.contains("secret"));
    }

    #[test]
    fn wants_one_valid_host_but_lets_the_target_decide() {
        let check = |host, version| host_is_valid(host, "a.test:8443", version).map_err(|f| f.code);
        assert_eq!(check(Some("a.test:8443"), Version::HTTP_11), Ok(()));
        assert_eq!(check(Some("other.test"), Version::HTTP_11), Ok(()));
        assert_eq!(check(None, Version::HTTP_10), Ok(()));
        assert_eq!(check(None, Version::HTTP_11), Err(Code::RequestMalformed));
        for bad in ["a b", "u@a.test", "a.test:0", "a.test/x"] {
            assert_eq!(check(Some(bad), Version::HTTP_11), Err(Code::RequestMalformed), "{bad}");
        }
    }
}
