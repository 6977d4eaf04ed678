//! Floor 6: the data plane.
//!
//! A [`Listener`] accepts, a front end (`explicit`, `sidecar`, `connect`, `intercept`) finds out where a request
//! goes and for whom, and every request ends in the one waist, [`Forwarder::forward`]. What can carry no
//! certificate ends in a blind tunnel instead, and the log says why.
//!
//! - One canonical authority per request decides identity, SNI, verification name and Host.
//! - Nothing is dialled, minted or answered with 200 before caller and name were judged.
//! - Every task belongs to [`Proxy::finish`]: it is either finished or cut when that returns.

mod caller;
mod connect;
pub mod error;
mod explicit;
mod foresight;
mod forward;
pub mod headers;
mod intercept;
mod listener;
mod serve;
mod sidecar;
mod target;
mod tunnel;
mod websocket;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use rustls::ServerConfig;
use tokio_util::task::TaskTracker;

pub use caller::Pass;
pub use foresight::Outlook;
pub use forward::{Forwarder, Inbound, Way};
pub use listener::Listener;

use crate::config::LiveLimits;
use crate::domain::Host;
use crate::net::Permits;
use crate::observe::Metrics;
use crate::policy::EgressPolicy;
use crate::registry::Registry;
use crate::upstream::{ReplyBody, Upstreams};
use caller::Throttle;
use connect::AskedBefore;
use serve::Serving;
use websocket::Bridges;

/// A leaf in the making: the CA itself may have to be read or made first.
pub type LeafFuture<'a> = Pin<Box<dyn Future<Output = Result<Arc<ServerConfig>, String>> + Send + 'a>>;

/// Gives the TLS configurations that intercepted clients are met with.
pub trait Leafs: Send + Sync {
    /// A server configuration with a leaf for exactly `host`, issued by the local CA; ALPN `h2` and `http/1.1`.
    ///
    /// # Errors
    /// Why there is none, in words.
    fn server_config<'a>(&'a self, project: &'a str, host: &'a Host) -> LeafFuture<'a>;
}

/// What a [`Proxy`] is made of.
pub struct Parts {
    /// Projects and tokens.
    pub registry: Arc<Registry>,
    /// The waist.
    pub forwarder: Arc<Forwarder>,
    /// The dialler, for tunnels and *ask first*.
    pub upstreams: Arc<Upstreams>,
    /// Which names may be reached.
    pub policy: Arc<EgressPolicy>,
    /// Leafs for intercepted clients.
    pub leafs: Arc<dyn Leafs>,
    /// Caps and deadlines.
    pub limits: LiveLimits,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// What all front ends share.
pub struct Proxy {
    registry: Arc<Registry>,
    forwarder: Arc<Forwarder>,
    upstreams: Arc<Upstreams>,
    policy: Arc<EgressPolicy>,
    leafs: Arc<dyn Leafs>,
    /// Limits, counters, and the two tokens that end everything.
    serving: Arc<Serving>,
    /// One permit per client connection, over all listeners.
    seats: Permits,
    /// What *ask first* learned.
    asked: AskedBefore,
    /// Who failed to authenticate lately.
    throttle: Throttle,
    /// Every accept loop, connection, stream of HTTP/2 and tunnel.
    tasks: TaskTracker,
}

impl Proxy {
    /// A proxy that serves nobody yet; see [`Listener`].
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { registry, forwarder, upstreams, policy, leafs, limits, metrics } = parts;
        let tasks = TaskTracker::new();
        let serving = Serving::new(limits.clone(), metrics.clone(), tasks.clone());
        forwarder.own_bridges(Bridges {
            tasks: tasks.clone(),
            abort: serving.abort.clone(),
            limits: limits.clone(),
            metrics,
        });
        Arc::new(Self {
            registry,
            forwarder,
            upstreams,
            policy,
            leafs,
            seats: Permits::new(limits.max_connections()),
            asked: AskedBefore::new(limits),
            throttle: Throttle::default(),
            serving,
            tasks,
        })
    }

    /// Whether no new work is taken any more.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.serving.drain.is_cancelled()
    }

    /// Ends gracefully: accepting stops, answers say that the connection closes, and idle ones close after a last call;
    /// exchanges and tunnels that run have `grace` to finish, then they are cut. When this returns, no task of this proxy runs. A caller that wants
    /// it quicker calls [`Proxy::cut`] meanwhile.
    pub async fn finish(&self, grace: Duration) {
        self.serving.drain.cancel();
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => return,
            () = tokio::time::sleep(grace) => self.serving.abort.cancel(),
            () = self.serving.abort.cancelled() => {}
        }
        self.tasks.wait().await;
    }

    /// Cuts every connection and tunnel now.
    pub fn cut(&self) {
        self.serving.drain.cancel();
        self.serving.abort.cancel();
    }
}

/// The 200 that opens a tunnel (RFC 9110 section 9.3.6): no framing fields, no body.
fn tunnel_opened() -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::empty());
    *response.status_mut() = StatusCode::OK;
    response
}
