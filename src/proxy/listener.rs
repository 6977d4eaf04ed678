//! A way in: binds, accepts, and gives every connection its front end.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::OwnedSemaphorePermit;

use super::caller::{self, Memo};
use super::serve::{self, Answering, Protocol, serve, serve_by_preface};
use super::{Inbound, Proxy, Way, error, explicit, sidecar, target};
use crate::config::{CallerSettings, Intercept, ListenerMode, ListenerSettings};
use crate::domain::Code;
use crate::net::{Io, Meter, Stream};
use crate::observe::{Exchange, Metrics};
use crate::upstream::{Failure, ReplyBody, RequestBody};

/// What is wrong with a target that is too long (414, where too many fields are 431).
const LONG_TARGET: &str = "the request line is longer than limits.max_request_line";
/// First and longest pause after accepting failed for want of descriptors or memory.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

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

/// A bound way in. Connections wait in the kernel's queue until `Listener::run`.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    entry: Arc<Entry>,
    proxy: Arc<Proxy>,
}

impl Listener {
    /// Binds what `settings` says.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(settings: &ListenerSettings, proxy: Arc<Proxy>) -> io::Result<Self> {
        Self::on(TcpListener::bind(settings.listen).await?, settings, proxy)
    }

    /// The same on a socket that listens already.
    ///
    /// # Errors
    /// The socket has no address.
    pub fn on(socket: TcpListener, settings: &ListenerSettings, proxy: Arc<Proxy>) -> io::Result<Self> {
        let entry = Entry {
            name: settings.name.as_str().into(),
            mode: settings.mode.clone(),
            caller: settings.caller.clone(),
            intercept: settings.intercept,
        };
        Ok(Self { address: socket.local_addr()?, socket, entry: Arc::new(entry), proxy })
    }

    /// Where it listens; the real port if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the proxy drains. The task that it starts, and those of its connections, belong to
    /// [`Proxy::finish`].
    pub fn start(self) {
        let tasks = self.proxy.tasks.clone();
        tasks.spawn(self.run());
    }

    /// See [`Listener::start`].
    async fn run(self) {
        let drain = self.proxy.serving.drain.clone();
        tokio::select! {
            () = self.accept() => {}
            () = drain.cancelled() => {}
        }
    }

    async fn accept(&self) {
        let mut pause = PAUSE.0;
        loop {
            // The seat comes first: at the cap, clients wait in the kernel's queue and cost nothing here.
            let seat = match self.proxy.seats.clone().try_acquire_owned() {
                Ok(seat) => seat,
                Err(_) => {
                    self.proxy.serving.metrics.client_connections_full.add();
                    let Ok(seat) = self.proxy.seats.clone().acquire_owned().await else { return };
                    seat
                }
            };
            match self.socket.accept().await {
                Ok((stream, peer)) => {
                    pause = PAUSE.0;
                    self.connected(stream.into(), peer, seat);
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, listener = &*self.entry.name, "accepting failed; pausing");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    fn connected(&self, stream: Stream, peer: SocketAddr, seat: OwnedSemaphorePermit) {
        // Answers are written whole; waiting for more to send with them only costs time.
        stream.set_nodelay();
        let meter = Meter::new();
        let client = Arc::new(Client::new(&self.proxy, &self.entry, peer.ip().to_canonical(), seat));
        let io = Io::new(stream, meter.clone());
        let serving = self.proxy.serving.clone();
        let handle = move |request| Client::answer(client.clone(), request);
        let tasks = &self.proxy.tasks;
        match self.entry.mode {
            ListenerMode::Forward => tasks.spawn(serve(io, Protocol::Http1, meter, serving, handle)),
            ListenerMode::Sidecar(_) => tasks.spawn(serve_by_preface(io, meter, serving, handle)),
        };
    }
}

/// Whether accepting failed for one connection only, so that the next may follow at once.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// A place among `limits.max_connections`, held as long as anything of the connection runs, tunnels included.
struct Seat {
    _permit: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
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
    /// IPv4-mapped addresses as IPv4.
    pub(super) peer: IpAddr,
    /// Of a listener with a fixed project: what every request's [`Inbound`] is; `None` if the project is gone.
    fixed: Option<Inbound>,
    memo: Memo,
    _seat: Seat,
}

impl Client {
    fn new(proxy: &Arc<Proxy>, entry: &Arc<Entry>, peer: IpAddr, permit: OwnedSemaphorePermit) -> Self {
        let metrics = proxy.serving.metrics.clone();
        metrics.client_connections.add();
        let fixed = match &entry.caller {
            CallerSettings::Project(id) => proxy.registry.project(id).map(|project| Inbound {
                project,
                listener: entry.name.clone(),
                way: entry.way(),
                peer,
                trusted: peer.is_loopback(),
            }),
            CallerSettings::Token => None,
        };
        Self {
            proxy: proxy.clone(),
            entry: entry.clone(),
            peer,
            fixed,
            memo: Memo::default(),
            _seat: Seat { _permit: permit, metrics },
        }
    }

    /// Every request of the connection starts here.
    fn answer(client: Arc<Self>, request: Request<Incoming>) -> Answering {
        let request = serve::taken(request, &client.proxy.serving.limits);
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
        let project = match self.entry.caller {
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
        };
        Ok(Cow::Owned(Inbound {
            project,
            listener: self.entry.name.clone(),
            way: self.entry.way(),
            peer: self.peer,
            trusted: true,
        }))
    }

    /// The check of `limits.max_request_line`, and of what HTTP/2 leaves to us, before anything looks at the target.
    pub(super) fn check_target(&self, request: &Request<RequestBody>) -> Result<(), Failure> {
        let uri = request.uri();
        let length = uri.path_and_query().map_or(0, |p| p.as_str().len())
            + uri.authority().map_or(0, |a| a.as_str().len())
            + request.method().as_str().len();
        if length > self.proxy.serving.limits.max_request_line {
            return Err(Failure::new(Code::LimitHead, LONG_TARGET));
        }
        target::check(request, &self.proxy.serving.limits)
    }

    /// The answer to a request that does not reach the waist, with its line in the log.
    pub(super) fn refuse(&self, failure: &Failure, refused: Refused<'_>) -> Response<ReplyBody> {
        let Refused { way, method, origin, inbound } = refused;
        let trusted = inbound.map_or(self.peer.is_loopback(), |i| i.trusted);
        let sidecar = matches!(self.entry.mode, ListenerMode::Sidecar(_));
        let mut line = Exchange::new(&self.entry.name, way, self.peer, method);
        let id = line.request_id.to_string();
        let response = if failure.detail == LONG_TARGET {
            error::answer_with(StatusCode::URI_TOO_LONG, failure, trusted, &id)
        } else {
            error::answer(failure, trusted, sidecar, &id)
        };
        let metrics = &self.proxy.serving.metrics;
        metrics.exchanges.add();
        metrics.exchanges_failed.add();
        line.project = inbound.map(|i| i.project.id().as_str());
        line.origin = origin.as_ref().map(|o| o as _);
        line.status = response.status().as_u16();
        line.code = Some(failure.code.as_str());
        line.reason = Some(&failure.detail);
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
