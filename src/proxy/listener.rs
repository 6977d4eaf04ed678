//! A way in: binds, accepts, and gives every connection its front end.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use rustls::ServerConfig;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::caller::{self, Memo};
use super::serve::{self, Answering, Protocol, serve, serve_by_preface};
use super::websocket;
use super::{Inbound, Proxy, Way, error, explicit, sidecar, target};
use crate::config::{CallerSettings, Intercept, ListenerMode, ListenerSettings};
use crate::domain::time::now;
use crate::domain::{Code, Peer};
use crate::net::listen::{Accepted, Accepting, Listening, is_of_the_connection};
use crate::net::{Io, Meter, Permit, Stream};
use crate::observe::{Exchange, Metrics};
use crate::pki::caller::CallerNames;
use crate::pki::server::ServerTls;
use crate::upstream::{Failure, ReplyBody, RequestBody};

/// What is wrong with a target that is too long (414, where too many fields are 431).
const LONG_TARGET: &str = "the request line is longer than limits.max_request_line";
/// First and longest pause after accepting failed for want of descriptors or memory.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A handshake that the end of egret has met has so long to finish: a request may be right behind it.
const HANDSHAKING: Duration = Duration::from_secs(5);

/// What is fixed of a listener.
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    pub(super) mode: ListenerMode,
    pub(super) caller: CallerSettings,
    pub(super) intercept: Intercept,
}

impl Entry {
    /// What an [`Inbound`] says before its target was looked at.
    fn way(&self) -> Way {
        match self.mode {
            ListenerMode::Forward => Way::Absolute,
            ListenerMode::Sidecar(_) => Way::Sidecar,
        }
    }
}

/// A bound way in. Connections wait in the kernel's queue until [`Listener::start`].
pub struct Listener {
    socket: Accepting,
    door: Door,
}

/// What meets whoever is accepted.
struct Door {
    tls: Option<Arc<ServerTls>>,
    entry: Arc<Entry>,
    proxy: Arc<Proxy>,
}

impl Listener {
    /// A way in on a socket that listens already. Must be called inside the data plane's runtime.
    ///
    /// # Errors
    /// The runtime does not take the socket.
    pub fn on(
        socket: Listening,
        tls: Option<Arc<ServerTls>>,
        settings: &ListenerSettings,
        proxy: Arc<Proxy>,
    ) -> io::Result<Self> {
        let entry = Entry {
            name: settings.name.as_str().into(),
            mode: settings.mode.clone(),
            caller: settings.caller.clone(),
            intercept: settings.intercept,
        };
        Ok(Self { socket: socket.accepting()?, door: Door { tls, entry: Arc::new(entry), proxy } })
    }

    /// Accepts until the proxy drains. The task that it starts, and those of its connections, belong to
    /// [`Proxy::finish`].
    pub fn start(self) {
        let tasks = self.door.proxy.tasks.clone();
        tasks.spawn(self.run());
    }

    /// See [`Listener::start`].
    async fn run(self) {
        let proxy = self.door.proxy.clone();
        let serving = &proxy.serving;
        let mut changes = serving.limits.changes();
        let resizing = async {
            loop {
                proxy.seats.resize(serving.limits.max_connections());
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            () = self.accept() => {}
            () = resizing => {}
            () = serving.drain.cancelled() => {}
        }
        // They connected before the end began, and each has one request served.
        for accepted in self.socket.close() {
            let seat = tokio::select! {
                seat = proxy.seats.take() => seat,
                () = serving.abort.cancelled() => return,
            };
            self.door.connected(accepted, seat);
        }
    }

    async fn accept(&self) {
        let proxy = &self.door.proxy;
        let mut pause = PAUSE.0;
        loop {
            // The seat comes first: at the cap, clients wait in the kernel's queue and cost nothing here.
            let seat = match proxy.seats.try_take() {
                Some(seat) => seat,
                None => {
                    proxy.serving.metrics.client_connections_full.add();
                    proxy.seats.take().await
                }
            };
            match self.socket.accept().await {
                Ok(accepted) => {
                    pause = PAUSE.0;
                    self.door.connected(accepted, seat);
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, listener = &*self.door.entry.name, "accepting failed; pausing");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }
}

impl Door {
    fn connected(&self, accepted: Accepted, permit: Permit) {
        let Accepted { stream, peer, .. } = accepted;
        // Answers are written whole; waiting for more to send with them only costs time.
        stream.set_nodelay();
        let seat = Seat::new(permit, &self.proxy.serving.metrics);
        let arrived = Arrived { proxy: self.proxy.clone(), entry: self.entry.clone(), peer, seat };
        match &self.tls {
            None => self.proxy.tasks.spawn(arrived.serve(stream, None, None)),
            Some(tls) => self.proxy.tasks.spawn(arrived.secure(stream, tls.config().clone())),
        };
    }
}

/// A client that has connected and said nothing yet.
struct Arrived {
    proxy: Arc<Proxy>,
    entry: Arc<Entry>,
    peer: Peer,
    seat: Seat,
}

impl Arrived {
    /// Serves the connection until it ends. `agreed`: what TLS agreed on; in the clear a sidecar is told by the first bytes.
    async fn serve(self, stream: Stream, agreed: Option<Protocol>, certificate: Option<Verified>) {
        let meter = Meter::new();
        let serving = self.proxy.serving.clone();
        let io = Io::new(stream, meter.clone());
        let sidecar = matches!(self.entry.mode, ListenerMode::Sidecar(_));
        let client = Arc::new(Client::new(self, certificate));
        let handle = move |request| Client::answer(client.clone(), request);
        match agreed {
            None if sidecar => serve_by_preface(io, meter, serving, handle).await,
            agreed => serve(io, agreed.unwrap_or(Protocol::Http1), meter, serving, handle).await,
        }
    }

    /// The same once TLS stands; a client that does not get so far is dropped.
    async fn secure(self, stream: Stream, tls: Arc<ServerConfig>) {
        let serving = self.proxy.serving.clone();
        let failed = |why: &dyn fmt::Display| {
            serving.metrics.client_handshakes_failed.add();
            tracing::debug!(listener = &*self.entry.name, peer = %self.peer, %why, "a client's TLS handshake failed");
        };
        // Boxed, as what follows: the TLS state is large, and this future is kept for as long as the client stays.
        let handshake = Box::pin(TlsAcceptor::from(tls).accept(stream));
        let stream = tokio::select! {
            accepted = timeout(serving.limits.handshake_timeout(), handshake) => match accepted {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return failed(&error),
                Err(_) => {
                    serving.metrics.client_timeouts.add();
                    return failed(&"limits.handshake_timeout passed");
                }
            },
            () = serving.last_call(HANDSHAKING) => return,
        };
        let (_, session) = stream.get_ref();
        let protocol = Protocol::agreed(session.alpn_protocol());
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let certificate = leaf.map(|leaf| Verified(CallerNames::of(leaf, now())));
        Box::pin(self.serve(Stream::boxed(stream), Some(protocol), certificate)).await;
    }
}

/// A client certificate that a handshake verified: what it says, unless it is not valid any more.
struct Verified(Option<CallerNames>);

/// A place among `limits.max_connections`, held as long as anything of the connection runs, tunnels included.
struct Seat {
    _permit: Permit,
    metrics: Arc<Metrics>,
}

impl Seat {
    fn new(permit: Permit, metrics: &Arc<Metrics>) -> Self {
        metrics.client_connections.add();
        Self { _permit: permit, metrics: metrics.clone() }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.metrics.client_connections.sub();
    }
}

/// One client connection.
pub(super) struct Client {
    pub(super) proxy: Arc<Proxy>,
    pub(super) entry: Arc<Entry>,
    pub(super) peer: Peer,
    /// Of a listener with a fixed project: what every request's [`Inbound`] is; `None` if the project is gone.
    fixed: Option<Inbound>,
    certificate: Option<Verified>,
    memo: Memo,
    _seat: Seat,
}

impl Client {
    fn new(arrived: Arrived, certificate: Option<Verified>) -> Self {
        let Arrived { proxy, entry, peer, seat } = arrived;
        let fixed = match &entry.caller {
            CallerSettings::Project(id) => proxy.registry.project(id).map(|project| Inbound {
                project,
                listener: entry.name.clone(),
                way: entry.way(),
                peer,
                trusted: peer.is_local() || certificate.is_some(),
                pass: None,
            }),
            CallerSettings::Token | CallerSettings::Certificate => None,
        };
        Self { proxy, entry, peer, fixed, certificate, memo: Memo::default(), _seat: seat }
    }

    /// Every request of the connection starts here.
    fn answer(client: Arc<Self>, request: Request<Incoming>) -> Answering {
        let mut request = serve::taken(request, &client.proxy.serving.limits);
        if websocket::may_upgrade(&request) {
            request.extensions_mut().insert(websocket::Held::new(client.clone()));
        }
        match client.entry.mode {
            ListenerMode::Forward => Box::pin(explicit::answer(client, request)),
            ListenerMode::Sidecar(_) => Box::pin(sidecar::answer(client, request)),
        }
    }

    /// Who sends this request. Borrowed where the listener fixes the project: then it costs nothing.
    pub(super) fn inbound(&self, request: &Request<RequestBody>) -> Result<Cow<'_, Inbound>, Failure> {
        if let Some(fixed) = &self.fixed {
            return Ok(Cow::Borrowed(fixed));
        }
        let caller::Admitted { project, pass } = match self.entry.caller {
            CallerSettings::Project(_) => {
                return Err(Failure::new(Code::CallerForbidden, "the project of this listener was deleted"));
            }
            CallerSettings::Token => {
                let Proxy { registry, throttle, .. } = &*self.proxy;
                caller::by_token(request.headers(), &self.memo, registry, throttle, self.peer).inspect_err(
                    |failure| {
                        if matches!(failure.code, Code::CallerUnauthenticated | Code::LimitAuthentication) {
                            self.proxy.serving.metrics.client_unauthenticated.add();
                        }
                    },
                )?
            }
            CallerSettings::Certificate => {
                let names = self.certificate.as_ref().and_then(|verified| verified.0.as_ref());
                caller::by_certificate(names, &self.memo, &self.proxy.registry)?
            }
        };
        Ok(Cow::Owned(Inbound {
            project,
            listener: self.entry.name.clone(),
            way: self.entry.way(),
            peer: self.peer,
            trusted: true,
            pass,
        }))
    }

    /// Whether who was let in some time ago still is: a token that opened a tunnel may have been revoked since, and a
    /// certificate that named the project may have expired, or name another one by now.
    pub(super) fn admits(&self, inbound: &Inbound) -> Result<(), Failure> {
        if matches!(self.entry.caller, CallerSettings::Certificate) {
            let names = self.certificate.as_ref().and_then(|verified| verified.0.as_ref());
            let now = caller::by_certificate(names, &self.memo, &self.proxy.registry)?;
            if now.project.id() != inbound.project.id() {
                let what = "the client certificate that opened this tunnel names another project by now";
                return Err(Failure::new(Code::CallerForbidden, what).fix("open a new tunnel"));
            }
        }
        match &inbound.pass {
            Some(pass) if !pass.holds(&self.proxy.registry, &inbound.project) => {
                let what = "the token that opened this tunnel was revoked or has expired";
                Err(Failure::new(Code::CallerForbidden, what).fix("open a new tunnel with a valid token"))
            }
            _ => Ok(()),
        }
    }

    /// The check of `limits.max_request_line`, and of what HTTP/2 leaves to us, before anything looks at the target.
    pub(super) fn check_target(&self, request: &Request<RequestBody>) -> Result<(), Failure> {
        let uri = request.uri();
        let length = uri.path_and_query().map_or(0, |p| p.as_str().len())
            + uri.authority().map_or(0, |a| a.as_str().len())
            + request.method().as_str().len();
        if length > self.proxy.serving.limits.max_request_line() {
            return Err(Failure::new(Code::LimitHead, LONG_TARGET));
        }
        target::check(request, &self.proxy.serving.limits)
    }

    /// The answer to a request that does not reach the waist, with its line in the log.
    pub(super) fn refuse(&self, failure: &Failure, refused: Refused<'_>) -> Response<ReplyBody> {
        let Refused { way, method, origin, inbound } = refused;
        let trusted = inbound.map_or(self.peer.is_local() || self.certificate.is_some(), |i| i.trusted);
        let sidecar = matches!(self.entry.mode, ListenerMode::Sidecar(_));
        let mut line = Exchange::new(&self.entry.name, way, self.peer, method);
        let id = line.request_id.to_string();
        let response = if failure.detail == LONG_TARGET {
            error::answer_with(StatusCode::URI_TOO_LONG, failure, trusted, &id)
        } else {
            error::answer(failure, trusted, sidecar, &id)
        };
        self.proxy.serving.metrics.refused(failure.code);
        line.project = inbound.map(|i| i.project.id().as_str());
        line.origin = origin.as_ref().map(|o| o as _);
        line.status = response.status().as_u16();
        line.code = Some(failure.code.as_str());
        line.reason = Some(&failure.detail);
        line.address = failure.facts.address;
        line.parent = failure.facts.parent.as_deref();
        self.proxy.forwarder.access().write(&line);
        response
    }
}

/// What is known of a request that is refused.
#[derive(Clone, Copy)]
pub(super) struct Refused<'a> {
    pub(super) way: &'a str,
    pub(super) method: &'a str,
    pub(super) origin: Option<&'a str>,
    /// Once the caller is known.
    pub(super) inbound: Option<&'a Inbound>,
}

#[cfg(test)]
mod tests;
