//! Floor 5: the only dialler. Names to addresses, the address guard, TLS with an identity, the pool.
//!
//! [`Upstreams::send`] is the one seam: a request and the `UpstreamTls` that was selected for it go in,
//! the origin's response or a [`Failure`] that explains itself comes out.

mod body;
mod bucket;
mod checkout;
mod connect;
mod connection;
mod explain;
mod failure;
mod frames;
mod multi;
mod parent;
mod pool;
mod prepare;
mod probe;
mod resolve;
mod route;
mod send;
mod socket;
mod upgrade;
mod webhook;
mod wire;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

pub use body::{Ended, ReplyBody, RequestBody, Upload};
pub use connection::Tie;
pub use failure::{Facts, Failure};
pub use prepare::is_grpc;
pub use probe::Prober;
pub use route::{ParentError, Parents, Route};
pub use send::{Lease, Refusal, Reply, Spared};
pub use webhook::Webhook;

use crate::config::{DnsMixed, LiveLimits, SourceAddresses};
use crate::domain::{Host, HttpTarget, Origin, ProjectId};
use crate::identity::{Asked, UpstreamTls};
use crate::net::Stream;
use crate::observe::Metrics;
use crate::policy::EgressPolicy;
use crate::registry::Disclosures;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Over TLS.
    Tls(Origin),
    /// Plain http: never with a certificate.
    Plain(HttpTarget),
}

impl Destination {
    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        match self {
            Self::Tls(origin) => origin.host(),
            Self::Plain(target) => target.host(),
        }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Tls(origin) => origin.port(),
            Self::Plain(target) => target.port(),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(origin) => origin.fmt(f),
            Self::Plain(target) => target.fmt(f),
        }
    }
}

/// How origins are found and reached. The default: by the system's resolver, directly.
#[derive(Debug, Default)]
pub struct WaysOut {
    /// Names that egret answers itself.
    pub hosts: HashMap<Host, Vec<IpAddr>>,
    /// Name servers for all others; none = the system's resolver.
    pub servers: Vec<SocketAddr>,
    /// What becomes of a name of which only some addresses may be reached.
    pub mixed: DnsMixed,
    /// Parent proxies.
    pub parents: Parents,
    /// Where connections come from; see [`check_sources`].
    pub sources: SourceAddresses,
}

/// Whether these addresses are this machine's, as far as it can be told now.
///
/// # Errors
/// The address that is not, with what the system says. Nothing is sent to find out.
pub fn check_sources(sources: SourceAddresses) -> Result<(), (IpAddr, io::Error)> {
    let each = [sources.v4.map(IpAddr::V4), sources.v6.map(IpAddr::V6)];
    each.into_iter().flatten().try_for_each(|ip| UdpSocket::bind((ip, 0)).map(drop).map_err(|error| (ip, error)))
}

/// The only dialler: resolves, judges addresses, connects, pools.
pub struct Upstreams {
    dialer: connect::Dialer,
    pool: Arc<pool::Pool>,
}

/// How a pool stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolState {
    /// Connections that wait for a request.
    pub idle: usize,
    /// Requests that wait for a connection.
    pub waiting: usize,
}

impl Upstreams {
    /// A dialler with an empty pool. Must be called on the runtime that will use it: it spawns the task that
    /// looks over idle connections, which ends when this is dropped.
    #[must_use]
    pub fn new(ways: WaysOut, policy: Arc<EgressPolicy>, limits: LiveLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        let pool = pool::Pool::new(limits.clone(), policy.clone(), metrics.clone());
        tokio::spawn(pool::Pool::sweep(Arc::downgrade(&pool)));
        Arc::new(Self { dialer: connect::Dialer::new(ways, policy, limits, metrics), pool })
    }

    /// Says who is told of every handshake in which a certificate was sent. Without it, and a second time, nobody.
    pub fn tell(&self, disclosures: Arc<Disclosures>) {
        let _ = self.dialer.disclosures.set(disclosures);
    }

    /// The way to a destination: direct or through a parent proxy, and why.
    #[must_use]
    pub fn route(&self, to: &Destination) -> Route {
        self.dialer.route(to)
    }

    /// The parent proxy on the way to a destination, as `http://proxy.corp:3128`.
    #[must_use]
    pub fn parent(&self, to: &Destination) -> Option<Arc<str>> {
        self.way(to).parent().map(|parent| parent.label.clone())
    }

    fn way(&self, to: &Destination) -> route::Way<'_> {
        self.dialer.way(to.host(), to.port(), matches!(to, Destination::Tls(_)))
    }

    /// A connection for a blind tunnel: by its way, judged by the address guard, happy eyeballs.
    ///
    /// # Errors
    /// `policy.address_denied`, `dns.*`, `net.*`, and for an `https://` parent `trust.*` and `tls.*`.
    pub async fn dial(&self, project: &ProjectId, host: &Host, port: u16) -> Result<Stream, Failure> {
        let via = self.dialer.way(host, port, true).parent();
        let (stream, address) = self.dialer.reach(project, via.as_ref(), host, port).await?;
        // The rules may have changed since the name was judged, or the address: what is opened was permitted by the same.
        let dialled = via.is_none().then_some(address);
        self.dialer.policy.judge_both(host, port, true, dialled)?;
        Ok(stream)
    }

    /// *Ask first*: a handshake that presents nothing. What the origin asked for; `None` if it did not ask.
    /// Also `Ok` when the handshake failed after the question, whatever the reason: the exchange that
    /// follows will meet the same reason and explain it.
    ///
    /// # Errors
    /// When no answer could be had.
    pub async fn ask(
        &self,
        project: &ProjectId,
        tls: &Arc<UpstreamTls>,
        origin: &Origin,
    ) -> Result<Option<Asked>, Failure> {
        let name = connect::server_name(origin.host())?;
        self.dialer.metrics.asked.add();
        let via = self.dialer.way(origin.host(), origin.port(), true).parent();
        match self
            .dialer
            .tls(project, tls, via.as_ref(), origin, &name, (connect::Handshake::Full, connect::Offer::Both))
            .await
        {
            Ok(secured) => Ok(secured.asked),
            Err(mut failure) => match failure.facts.asked.take() {
                Some(asked) => Ok(Some(asked)),
                None => Err(failure),
            },
        }
    }

    /// How its pool stands; looks at every bucket, so it is for those who ask now and then.
    #[must_use]
    pub fn pool_state(&self) -> PoolState {
        self.pool.state()
    }

    /// Cuts every upstream connection: the end of egret's drain.
    pub fn cut_all(&self) {
        self.pool.cut_all();
    }
}

#[cfg(test)]
mod tests;
