//! Floor 5: the only dialler. Names to addresses, the address guard, TLS with an identity, the pool.
//!
//! [`Upstreams::send`] is the one seam: a request and the `UpstreamTls` that was selected for it go in,
//! the origin's response or a [`Failure`] that explains itself comes out.

mod body;
mod connect;
mod connection;
mod explain;
mod failure;
mod pool;
mod resolve;
mod send;
mod socket;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub use body::{Ended, ReplyBody, RequestBody, Upload};
pub use failure::{Facts, Failure};
pub use send::{Lease, Refusal, Reply};

use crate::config::Limits;
use crate::domain::{Host, HttpTarget, Origin, ProjectId};
use crate::identity::{Asked, UpstreamTls};
use crate::net::Stream;
use crate::observe::Metrics;
use crate::policy::EgressPolicy;

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
    pub fn new(
        hosts: HashMap<Host, Vec<IpAddr>>,
        policy: Arc<EgressPolicy>,
        limits: &Limits,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let resolver = resolve::Resolver::new(hosts, limits, metrics.clone());
        let pool = pool::Pool::new(limits.clone(), metrics.clone());
        tokio::spawn(pool::Pool::sweep(Arc::downgrade(&pool)));
        Arc::new(Self { dialer: connect::Dialer::new(resolver, policy, limits, metrics), pool })
    }

    /// A connection for a blind tunnel: resolved, judged by the address guard, happy eyeballs.
    ///
    /// # Errors
    /// `policy.address_denied`, `dns.*`, `net.*`.
    pub async fn dial(&self, project: &ProjectId, host: &Host, port: u16) -> Result<Stream, Failure> {
        self.dialer.tcp(project, host, port).await.map(|(stream, _)| stream)
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
        match self.dialer.tls(project, tls, origin, &name, connect::Handshake::Full).await {
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
