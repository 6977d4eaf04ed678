//! Front end: the sidecar. Plain HTTP, 1.1 or 2 with prior knowledge, to a port of its own, whose one origin is fixed, or named by `Host`.
//!
//! With a fixed origin the authority that the client used means nothing: the origin's own is sent. On a listener
//! with `auth = "token"` the credential comes in `Proxy-Authorization` here too, because `Authorization` belongs
//! to the origin; a missing one is answered with 401.

use std::sync::Arc;

use http::{Method, Request, Response, Version};

use super::explicit::{malformed, missing_host};
use super::headers::only_host;
use super::listener::{Client, Refused};
use super::{Inbound, target};
use crate::config::ListenerMode;
use crate::domain::{Code, HTTPS_PORT, Origin};
use crate::upstream::{Destination, Failure, ReplyBody, RequestBody};

/// Answers one request of a `sidecar` listener.
pub(super) async fn answer(client: Arc<Client>, request: Request<RequestBody>) -> Response<ReplyBody> {
    let refuse = |failure: &Failure, inbound: Option<&Inbound>| {
        client.refuse(failure, Refused { way: "sidecar", method: request.method().as_str(), origin: None, inbound })
    };
    if let Err(failure) = client.check_target(&request) {
        return refuse(&failure, None);
    }
    let inbound = match client.inbound(&request) {
        Ok(inbound) => inbound,
        Err(failure) => return refuse(&failure, None),
    };
    let fixed = match &client.entry.mode {
        ListenerMode::Sidecar(Some(origin)) => Some(origin),
        ListenerMode::Sidecar(None) | ListenerMode::Forward => None,
    };
    match origin(&request, fixed) {
        Ok(origin) => client.proxy.forwarder.forward(&inbound, Destination::Tls(origin), request).await,
        Err(failure) => refuse(&failure, Some(&inbound)),
    }
}

/// Where the request goes.
fn origin<B>(request: &Request<B>, fixed: Option<&Origin>) -> Result<Origin, Failure> {
    target::opens_websocket(request, || {
        Failure::new(Code::RequestMalformed, "this is a sidecar for one origin, not a forward proxy")
            .fix("send plain HTTP requests to this port, or use a listener with mode = \"forward\" as the proxy")
    })?;
    let uri = request.uri();
    let asterisk = uri.path() == "*" && request.method() == Method::OPTIONS;
    if !uri.path().starts_with('/') && !asterisk {
        return Err(Failure::new(Code::RequestMalformed, "the request's target is not a path"));
    }
    if request.version() == Version::HTTP_2 {
        let authority = target::authority(request)?;
        return match fixed {
            Some(fixed) => Ok(fixed.clone()),
            None => Origin::from_authority(authority, HTTPS_PORT).map_err(|e| malformed(&e)),
        };
    }
    let host = only_host(request.headers())?;
    if host.is_none() && request.version() >= Version::HTTP_11 {
        return Err(missing_host());
    }
    if let Some(fixed) = fixed {
        return Ok(fixed.clone());
    }
    // RFC 9112 section 3.2.2: the authority of an absolute form goes before Host.
    match uri.authority().map(|a| a.as_str()).or(host) {
        Some(authority) => Origin::from_authority(authority, HTTPS_PORT).map_err(|e| malformed(&e)),
        None => Err(missing_host()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, uri: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).unwrap()
    }

    fn goes_to(request: &Request<()>, fixed: Option<&Origin>) -> Result<String, Code> {
        origin(request, fixed).map(|o| o.to_string()).map_err(|f| f.code)
    }

    #[test]
    fn ignores_the_authority_when_the_origin_is_fixed() {
        let fixed = Origin::parse("https://api.partner.example").unwrap();
        for uri in ["/x", "http://elsewhere.test/x", "https://elsewhere.test:1/x"] {
            let got = goes_to(&request("GET", uri, &["localhost:15001"]), Some(&fixed));
            assert_eq!(got.as_deref(), Ok("https://api.partner.example"), "{uri}");
        }
        assert!(goes_to(&request("OPTIONS", "*", &["a"]), Some(&fixed)).is_ok());
    }

    #[test]
    fn takes_the_origin_from_host() {
        assert_eq!(goes_to(&request("GET", "/", &["API.test"]), None).as_deref(), Ok("https://api.test"));
        assert_eq!(goes_to(&request("GET", "/", &["api.test:8443"]), None).as_deref(), Ok("https://api.test:8443"));
        let absolute = request("GET", "http://b.test/x", &["a.test"]);
        assert_eq!(goes_to(&absolute, None).as_deref(), Ok("https://b.test"));
    }

    #[test]
    fn takes_the_authority_of_http_2() {
        let fixed = Origin::parse("https://api.partner.example").unwrap();
        let h2 = |uri: &str, hosts: &[&str]| {
            let mut request = request("GET", uri, hosts);
            *request.version_mut() = Version::HTTP_2;
            request
        };
        assert_eq!(goes_to(&h2("http://b.test/x", &[]), None).as_deref(), Ok("https://b.test"));
        assert_eq!(goes_to(&h2("/x", &["b.test:8443"]), None).as_deref(), Ok("https://b.test:8443"));
        for at in [Some(&fixed), None] {
            assert!(goes_to(&h2("http://b.test/x", &["b.test"]), at).is_ok());
            for bad in [h2("http://b.test/x", &["c.test"]), h2("/x", &[]), h2("http://b.test/", &["b.test", "b.test"])]
            {
                assert_eq!(goes_to(&bad, at), Err(Code::RequestMalformed), "{bad:?}");
            }
        }
        let mut websocket = h2("http://localhost:15001/chat", &[]);
        *websocket.method_mut() = Method::CONNECT;
        assert_eq!(goes_to(&websocket, Some(&fixed)), Err(Code::RequestMalformed));
        websocket.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        assert_eq!(goes_to(&websocket, Some(&fixed)).as_deref(), Ok("https://api.partner.example"));
    }

    #[test]
    fn refuses_what_is_ambiguous() {
        let fixed = Origin::parse("https://api.partner.example").unwrap();
        for bad in [
            request("CONNECT", "a.test:443", &["a.test"]),
            request("GET", "*", &["a.test"]),
            request("GET", "/", &[]),
            request("GET", "/", &["a.test", "a.test"]),
            request("GET", "a.test:443", &["a.test"]),
        ] {
            assert_eq!(goes_to(&bad, Some(&fixed)), Err(Code::RequestMalformed), "{bad:?}");
            assert_eq!(goes_to(&bad, None), Err(Code::RequestMalformed), "{bad:?}");
        }
        assert_eq!(goes_to(&request("GET", "/", &["u@a.test"]), None), Err(Code::RequestMalformed));
    }
}
