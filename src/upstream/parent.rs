//! Dialling through a parent proxy: by CONNECT (RFC 9110 section 9.3.6), over TLS if the parent wants that, or by
//! SOCKS5 (RFC 1928). What comes out is a stream to the origin, on which TLS begins as on a direct one.
//!
//! The address guard: whatever is handed on as an address was judged here. A name that the parent resolves is judged by
//! its name alone, before anything is dialled; see `EgressPolicy::judge_behind` for what else changes behind a parent.

mod refusal;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Parts;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_socks::TargetAddr;
use tokio_socks::tcp::Socks5Stream;

use super::connect::Dialer;
use super::route::Parent;
use super::{Failure, RequestBody};
use crate::config::ParentProtocol;
use crate::domain::{Code, Host, ProjectId};
use crate::net::{Held, Stream};
use refusal::Refused;

/// The head of a parent's answer, bytes.
const MAX_HEAD: usize = 64 * 1024;
/// Of the addresses of one origin, so many are tried, each on a connection of its own.
const MAX_TRIES: usize = 4;

/// What a parent is asked to connect to.
#[derive(Clone, Copy)]
enum Target<'a> {
    /// It resolves the name.
    Name(&'a Host, u16),
    /// A judged address.
    Address(SocketAddr),
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(host, port) => write!(f, "{host}:{port}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Dialer {
    /// A connection to `host` and `port`, by this way: every byte on it is the origin's. With the address that was
    /// dialled, which is the parent's if there is one.
    pub(super) async fn reach(
        &self,
        project: &ProjectId,
        via: Option<&Arc<Parent>>,
        host: &Host,
        port: u16,
    ) -> Result<(Stream, SocketAddr), Failure> {
        match via {
            None => self.tcp(project, host, port).await,
            // Boxed: the state of it is large, and most ways are direct.
            Some(parent) => self.counted(parent, Box::pin(self.tunnel(project, parent, host, port))).await,
        }
    }

    /// A connection for plain http: to the origin, or to a parent that takes such requests in absolute form
    /// ([`Parent::takes_absolute_form`]).
    pub(super) async fn reach_plain(
        &self,
        project: &ProjectId,
        via: Option<&Arc<Parent>>,
        host: &Host,
        port: u16,
    ) -> Result<(Stream, SocketAddr), Failure> {
        let Some(parent) = via.filter(|parent| parent.takes_absolute_form()) else {
            return self.reach(project, via, host, port).await;
        };
        let open = async {
            let parents = self.parent_addresses(project, parent).await?;
            // Judged although the name is handed on: the Host field must be what the target says (RFC 9112 section 3.2.2).
            self.targets(project, parent, &parents, host, port).await?;
            self.open_parent(parent, parents).await
        };
        self.counted(parent, Box::pin(open)).await
    }

    async fn counted<T>(&self, parent: &Parent, open: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let outcome = open.await;
        match &outcome {
            Ok(_) => self.metrics.parent_connections.add(),
            Err(_) => self.metrics.parent_failures.add(),
        }
        outcome.map_err(|failure| named(failure, parent))
    }

    async fn tunnel(
        &self,
        project: &ProjectId,
        parent: &Parent,
        host: &Host,
        port: u16,
    ) -> Result<(Stream, SocketAddr), Failure> {
        let parents = self.parent_addresses(project, parent).await?;
        let targets = self.targets(project, parent, &parents, host, port).await?;
        let deadline = Instant::now() + self.limits.connect_timeout();
        let mut left = targets.into_iter().take(MAX_TRIES).peekable();
        loop {
            let target = left.next().expect("there is one, and no next turn without another");
            let (stream, address) = self.open_parent(parent, parents.clone()).await?;
            match self.ask_parent(stream, parent, target).await {
                Ok(stream) => return Ok((stream, address)),
                // Another address of the origin may be one that the parent reaches.
                Err(refused) if refused.elsewhere && left.peek().is_some() && Instant::now() < deadline => {}
                Err(Refused { mut failure, .. }) => {
                    failure.facts.address = Some(address);
                    return Err(failure);
                }
            }
        }
    }

    /// The parent's own addresses: the operator named it, so only egret's own listeners are refused.
    async fn parent_addresses(&self, project: &ProjectId, parent: &Parent) -> Result<Vec<SocketAddr>, Failure> {
        self.permitted(project, &parent.host, parent.port, |address| self.policy.judge_parent(address))
            .await
            .map_err(|failure| refusal::of_own_name(failure, parent))
    }

    /// What the parent is asked for: addresses wherever egret knows them, else the name.
    async fn targets<'a>(
        &self,
        project: &ProjectId,
        parent: &Parent,
        parents: &[SocketAddr],
        host: &'a Host,
        port: u16,
    ) -> Result<Vec<Target<'a>>, Failure> {
        let known = host.ip().is_some() || !self.resolver.own(host).is_empty();
        if !known && parent.protocol != ParentProtocol::Socks5 {
            return Ok(vec![Target::Name(host, port)]);
        }
        let judge = |address| self.policy.judge_behind(address, parents);
        let addresses = self.permitted(project, host, port, judge).await?;
        Ok(addresses.into_iter().map(Target::Address).collect())
    }

    /// A connection to the parent, with its TLS.
    async fn open_parent(&self, parent: &Parent, addresses: Vec<SocketAddr>) -> Result<(Stream, SocketAddr), Failure> {
        let (stream, address) = self.connect(addresses, &parent.spoken()).await.map_err(|mut failure| {
            failure
                .fix
                .get_or_insert_with(|| "check that the parent runs there, and url of [egress] parent".to_owned());
            failure
        })?;
        let Some((config, name)) = &parent.tls else { return Ok((stream, address)) };
        let handshake = TlsConnector::from(config.clone()).connect(name.clone(), stream);
        let failure = match timeout(self.limits.handshake_timeout(), handshake).await {
            Ok(Ok(stream)) => return Ok((Stream::boxed(stream), address)),
            Ok(Err(error)) => refusal::tls(&error, parent),
            Err(_) => Failure::new(
                Code::NetTimeout,
                format!(
                    "the TLS handshake with {} took longer than {:?}",
                    parent.spoken(),
                    self.limits.handshake_timeout()
                ),
            ),
        };
        Err(at(failure, address))
    }

    async fn ask_parent(&self, stream: Stream, parent: &Parent, target: Target<'_>) -> Result<Stream, Refused> {
        let asked = async {
            if parent.protocol.is_http() {
                connect(stream, parent, target).await
            } else {
                socks(stream, parent, target).await
            }
        };
        match timeout(self.limits.connect_timeout(), asked).await {
            Ok(outcome) => outcome,
            Err(_) => Err(refusal::silent(parent, target, self.limits.connect_timeout())),
        }
    }
}

impl Parent {
    /// Whether plain http goes to it in absolute form. Real parents refuse CONNECT to port 80.
    pub(super) fn takes_absolute_form(&self) -> bool {
        self.protocol.is_http()
    }

    /// As it stands in messages.
    fn spoken(&self) -> String {
        format!("the parent proxy {}", self.label)
    }

    /// Turns a request in origin form into one in absolute form for this parent (RFC 9112 section 3.2.2), with its
    /// credential. `authority` is that of the destination. Doing it again changes nothing.
    ///
    /// # Errors
    /// `OPTIONS *`, for whose target the URI type has no absolute form.
    pub(super) fn address(&self, authority: &HeaderValue, request: &mut Request<RequestBody>) -> Result<(), Failure> {
        let path = request.uri().path_and_query().cloned();
        let path = path.unwrap_or_else(|| uri::PathAndQuery::from_static("/"));
        let built = Uri::builder().scheme("http").authority(authority.as_bytes()).path_and_query(path).build();
        let uri = built.ok().filter(|uri| uri.path() != "*");
        let Some(uri) = uri else {
            return Err(Failure::new(
                Code::RequestMalformed,
                "this target cannot be sent through an HTTP parent proxy",
            ));
        };
        *request.uri_mut() = uri;
        if let Some(credential) = &self.authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, credential.clone());
        }
        Ok(())
    }

    /// What an answer on a connection in absolute form means if it is the parent's own: that it wants a credential.
    /// No other status can be told from the origin's.
    pub(super) fn refused_plain(&self, response: &Response<Incoming>) -> Option<Failure> {
        let status = response.status();
        (status == StatusCode::PROXY_AUTHENTICATION_REQUIRED)
            .then(|| named(refusal::http(self, "the request", status, response.headers()).failure, self))
    }
}

fn named(mut failure: Failure, parent: &Parent) -> Failure {
    failure.facts.parent = Some(parent.label.clone());
    failure
}

fn at(mut failure: Failure, address: SocketAddr) -> Failure {
    failure.facts.address = Some(address);
    failure
}

/// CONNECT. hyper takes a 2xx for the end of HTTP on the connection whatever its header says of a body (RFC 9110
/// section 9.3.6); what came behind the head is the origin's. Names of fields are written as curl does: some old proxies
/// compare them letter by letter.
async fn connect(stream: Stream, parent: &Parent, target: Target<'_>) -> Result<Stream, Refused> {
    let broken = |error: hyper::Error| refusal::broken(parent, target, &error);
    let authority = target.to_string();
    let host = HeaderValue::try_from(&authority).expect("hosts and addresses are visible ASCII");
    let uri = Uri::builder().authority(authority).build().expect("hosts and addresses are authorities");
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = uri;
    request.headers_mut().insert(HOST, host);
    if let Some(credential) = &parent.authorization {
        request.headers_mut().insert(PROXY_AUTHORIZATION, credential.clone());
    }
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .title_case_headers(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        if !response.status().is_success() {
            return Err(refusal::http(parent, &target.to_string(), response.status(), response.headers()));
        }
        hyper::upgrade::on(response).await.map_err(broken)
    };
    let upgraded = beside(answered, connection.with_upgrades()).await?;
    let Ok(Parts { io, read_buf, .. }) = upgraded.downcast::<TokioIo<Stream>>() else {
        return Err(refusal::internal());
    };
    let stream = io.into_inner();
    Ok(if read_buf.is_empty() { stream } else { Stream::boxed(Held::new(read_buf, stream)) })
}

/// The outcome of `wanted`, with `connection` driven beside it, whose own end says nothing that `wanted` does not.
async fn beside<T>(wanted: impl Future<Output = T>, connection: impl Future) -> T {
    let (mut wanted, connection) = (pin!(wanted), pin!(connection));
    tokio::select! {
        biased;
        outcome = &mut wanted => return outcome,
        _ = connection => {}
    }
    wanted.await
}

async fn socks(stream: Stream, parent: &Parent, target: Target<'_>) -> Result<Stream, Refused> {
    let asked = match target {
        Target::Name(host, port) => TargetAddr::Domain(host.as_str().into(), port),
        Target::Address(address) => TargetAddr::Ip(address),
    };
    let outcome = match &parent.credentials {
        None => Socks5Stream::connect_with_socket(stream, asked).await,
        Some(credentials) => {
            let (user, password) = (credentials.user(), credentials.password());
            Socks5Stream::connect_with_password_and_socket(stream, asked, user, password).await
        }
    };
    outcome.map(Socks5Stream::into_inner).map_err(|error| refusal::socks(parent, target, &error))
}
