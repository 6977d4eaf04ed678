//! Inside an intercepted tunnel: the client's TLS ends here (or its plain HTTP begins), and every request goes to
//! the origin of the CONNECT, or nowhere.

use std::sync::Arc;

use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;

use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::explicit::missing_host;
use super::headers::only_host;
use super::listener::{Client, Refused};
use super::serve::{self, Answering, Protocol};
use super::websocket;
use super::{Inbound, Way, target};
use crate::domain::{Code, HTTP_PORT, HTTPS_PORT, Origin};
use crate::net::{Held, Io, Stream};
use crate::upstream::{Destination, Failure, ReplyBody, RequestBody};

/// An intercepted tunnel.
pub(super) struct Inside {
    inbound: Inbound,
    /// The authority of the CONNECT.
    origin: Origin,
    /// Where every request goes.
    destination: Destination,
    /// The client speaks TLS.
    secure: bool,
    /// The authority as clients usually write it, for a quick look.
    authority: String,
}

impl Inside {
    pub(super) fn new(inbound: Inbound, origin: Origin, destination: Destination, secure: bool) -> Self {
        let way = match (&destination, secure) {
            (_, true) => Way::Intercepted,
            (Destination::Tls(_), false) => Way::Lifted,
            (Destination::Plain(_), false) => Way::Plain,
        };
        let authority = authority(&origin, secure);
        Self { inbound: Inbound { way, ..inbound }, origin, destination, secure, authority }
    }

    async fn answer(self: Arc<Self>, client: Arc<Client>, request: Request<RequestBody>) -> Response<ReplyBody> {
        let admitted = client.admits(&self.inbound);
        let ended = admitted.is_err();
        match admitted.and_then(|()| client.check_target(&request)).and_then(|()| self.check(&request)) {
            Ok(()) => client.proxy.forwarder.forward(&self.inbound, self.destination.clone(), request).await,
            Err(failure) => {
                let origin = self.origin.to_string();
                let refused = Refused {
                    way: "intercepted",
                    method: request.method().as_str(),
                    origin: Some(&origin),
                    inbound: Some(&self.inbound),
                };
                let mut response = client.refuse(&failure, refused);
                if ended {
                    // Nothing will be answered here any more: the client is to come back with another credential.
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                response
            }
        }
    }

    /// Host, and the target's authority if it has one, name the origin of the CONNECT.
    fn check<B>(&self, request: &Request<B>) -> Result<(), Failure> {
        check(request, &self.origin, self.secure, &self.authority)
    }
}

fn authority(origin: &Origin, secure: bool) -> String {
    let default = if secure { HTTPS_PORT } else { HTTP_PORT };
    if origin.port() == default { origin.host().to_string() } else { format!("{}:{}", origin.host(), origin.port()) }
}

fn check<B>(request: &Request<B>, origin: &Origin, secure: bool, usual: &str) -> Result<(), Failure> {
    let uri = request.uri();
    target::opens_websocket(request, || Failure::new(Code::RequestMalformed, "there is no CONNECT inside a tunnel"))?;
    let asterisk = uri.path() == "*" && request.method() == Method::OPTIONS;
    if !uri.path().starts_with('/') && !asterisk {
        return Err(Failure::new(Code::RequestMalformed, "the request's target is not a path"));
    }
    if let Some(scheme) = uri.scheme_str()
        && !scheme.eq_ignore_ascii_case(if secure { "https" } else { "http" })
    {
        return Err(misdirected());
    }
    let target = uri.authority().map(|a| a.as_str());
    let host = only_host(request.headers())?;
    // RFC 9113 section 8.3.1: in HTTP/2 one of the two is enough.
    if host.is_none() && (target.is_none() || request.version() != Version::HTTP_2) {
        return Err(missing_host());
    }
    for authority in [host, target].into_iter().flatten() {
        // The usual spelling costs a comparison; any other is read and compared in canonical form.
        if authority.eq_ignore_ascii_case(usual) {
            continue;
        }
        let default = if secure { HTTPS_PORT } else { HTTP_PORT };
        let named = Origin::from_authority(authority, default)
            .map_err(|e| Failure::new(Code::RequestMalformed, format!("the request's authority is not usable: {e}")))?;
        if named != *origin {
            return Err(misdirected());
        }
    }
    Ok(())
}

fn misdirected() -> Failure {
    Failure::new(Code::RequestMisdirected, "the request names another origin than the CONNECT of its tunnel")
        .fix("open a connection of its own for every origin")
}

/// Serves the client of an intercepted tunnel until it ends.
pub(super) async fn serve(client: Arc<Client>, inside: Inside, io: Held<Io<Stream>>) {
    let serving = client.proxy.serving.clone();
    let meter = io.meter().clone();
    if !inside.secure {
        return serve::serve(io, Protocol::Http1, meter, serving, handle(client, inside)).await;
    }
    let project = inside.inbound.project.id();
    let config = match client.proxy.leafs.server_config(project.as_str(), inside.origin.host()).await {
        Ok(config) => config,
        Err(why) => {
            tracing::error!(origin = %inside.origin, %why, "no leaf for an intercepted client");
            return;
        }
    };
    let handshake = TlsAcceptor::from(config).accept(io);
    let accepted = tokio::select! {
        accepted = timeout(serving.limits.handshake_timeout(), handshake) => accepted,
        () = serving.abort.cancelled() => return,
    };
    match accepted {
        // Boxed: the TLS state is large, and this future is kept for as long as the client stays.
        Ok(Ok(stream)) => {
            let protocol = Protocol::agreed(stream.get_ref().1.alpn_protocol());
            Box::pin(serve::serve(stream, protocol, meter, serving, handle(client, inside))).await;
        }
        Ok(Err(error)) => tracing::info!(
            origin = %inside.origin, peer = %client.peer, %error,
            "an intercepted client ended its handshake; if it does not trust egret's CA, give it the file that `egret ca path` names"
        ),
        Err(_) => serving.metrics.client_timeouts.add(),
    }
}

fn handle(client: Arc<Client>, inside: Inside) -> impl Fn(Request<Incoming>) -> Answering + Send + 'static {
    let inside = Arc::new(inside);
    move |request| {
        let mut request = serve::taken(request, &client.proxy.serving.limits);
        if websocket::may_upgrade(&request) {
            request.extensions_mut().insert(websocket::Held::new(client.clone()));
        }
        Box::pin(inside.clone().answer(client.clone(), request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(connect: &str, secure: bool, method: &str, uri: &str, hosts: &[&str]) -> Result<(), Code> {
        let mut request = Request::builder().method(method).uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        let request = request.body(()).unwrap();
        let origin = Origin::parse(connect).unwrap();
        check(&request, &origin, secure, &authority(&origin, secure)).map_err(|f| f.code)
    }

    #[test]
    fn takes_every_spelling_of_the_tunnels_origin() {
        for host in ["api.test", "API.test", "api.test:443", "api.test."] {
            assert_eq!(judged("https://api.test", true, "GET", "/x", &[host]), Ok(()), "{host}");
        }
        assert_eq!(judged("https://api.test", true, "GET", "https://api.test/x", &["api.test"]), Ok(()));
        assert_eq!(judged("https://api.test:8443", true, "GET", "/", &["api.test:8443"]), Ok(()));
        assert_eq!(judged("https://api.test:80", false, "GET", "/", &["api.test"]), Ok(()));
        assert_eq!(judged("https://api.test", true, "OPTIONS", "*", &["api.test"]), Ok(()));
    }

    #[test]
    fn misdirects_what_names_another_origin() {
        let misdirected = Err(Code::RequestMisdirected);
        for host in ["other.test", "api.test:8443", "sub.api.test", "192.0.2.1"] {
            assert_eq!(judged("https://api.test", true, "GET", "/", &[host]), misdirected, "{host}");
        }
        assert_eq!(judged("https://api.test:8443", true, "GET", "/", &["api.test"]), misdirected);
        assert_eq!(judged("https://api.test", true, "GET", "https://other.test/", &["api.test"]), misdirected);
        assert_eq!(judged("https://api.test", true, "GET", "https://api.test/", &["other.test"]), misdirected);
        assert_eq!(judged("https://api.test", true, "GET", "http://api.test/", &["api.test"]), misdirected);
        assert_eq!(judged("https://api.test:80", false, "GET", "/", &["api.test:443"]), misdirected);
    }

    #[test]
    fn takes_the_authority_of_http_2_and_its_websockets() {
        let origin = Origin::parse("https://api.test").unwrap();
        let judged = |method: &str, uri: &str, host: Option<&str>, protocol: Option<&'static str>| {
            let mut request = Request::builder().method(method).uri(uri).version(Version::HTTP_2);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let mut request = request.body(()).unwrap();
            if let Some(protocol) = protocol {
                request.extensions_mut().insert(hyper::ext::Protocol::from_static(protocol));
            }
            check(&request, &origin, true, &authority(&origin, true)).map_err(|f| f.code)
        };
        assert_eq!(judged("GET", "https://api.test/x", None, None), Ok(()));
        assert_eq!(judged("GET", "/x", Some("api.test"), None), Ok(()));
        assert_eq!(judged("GET", "https://api.test/x", Some("api.test:443"), None), Ok(()));
        assert_eq!(judged("CONNECT", "https://api.test/chat", None, Some("websocket")), Ok(()));
        let misdirected = Err(Code::RequestMisdirected);
        assert_eq!(judged("GET", "https://other.test/x", None, None), misdirected);
        assert_eq!(judged("GET", "https://api.test/x", Some("other.test"), None), misdirected);
        assert_eq!(judged("GET", "http://api.test/x", None, None), misdirected);
        assert_eq!(judged("CONNECT", "https://other.test/chat", None, Some("websocket")), misdirected);
        let malformed = Err(Code::RequestMalformed);
        assert_eq!(judged("GET", "/x", None, None), malformed);
        assert_eq!(judged("CONNECT", "api.test:443", None, None), malformed);
        assert_eq!(judged("CONNECT", "https://api.test/", None, Some("connect-udp")), malformed);
    }

    #[test]
    fn refuses_what_is_ambiguous() {
        let malformed = Err(Code::RequestMalformed);
        assert_eq!(judged("https://api.test", true, "GET", "/", &[]), malformed);
        assert_eq!(judged("https://api.test", true, "GET", "/", &["api.test", "api.test"]), malformed);
        assert_eq!(judged("https://api.test", true, "GET", "/", &["u@api.test"]), malformed);
        assert_eq!(judged("https://api.test", true, "GET", "*", &["api.test"]), malformed);
        assert_eq!(judged("https://api.test", true, "CONNECT", "api.test:443", &["api.test"]), malformed);
    }
}
