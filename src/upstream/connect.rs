//! Dialling: resolve, judge every address, connect to judged addresses only, shake hands.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use moka::sync::Cache;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::resolve::Resolver;
use super::socket::Socket;
use super::{Failure, explain};
use crate::config::Limits;
use crate::domain::{Code, Host, HostKind, Origin, ProjectId};
use crate::identity::{Asked, UpstreamTls, recorded};
use crate::net::Stream;
use crate::observe::Metrics;
use crate::policy::EgressPolicy;

/// RFC 8305 section 5, "Connection Attempt Delay".
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Hosts remembered to need a classical ClientHello, and for how long.
const MAX_CLASSICAL: u64 = 1024;
const CLASSICAL_TTL: Duration = Duration::from_secs(600);

/// A finished handshake.
pub(super) struct Secured {
    pub(super) stream: TlsStream<Socket>,
    pub(super) address: SocketAddr,
    pub(super) version: &'static str,
    pub(super) resumed: bool,
    pub(super) asked: Option<Asked>,
}

/// Dials.
pub(super) struct Dialer {
    pub(super) resolver: Resolver,
    pub(super) policy: Arc<EgressPolicy>,
    pub(super) connect_timeout: Duration,
    pub(super) handshake_timeout: Duration,
    pub(super) metrics: Arc<Metrics>,
    /// Where a hybrid ClientHello met reset or silence: the classical one is used for a while.
    classical: Cache<(ProjectId, Origin), ()>,
}

impl Dialer {
    pub(super) fn new(resolver: Resolver, policy: Arc<EgressPolicy>, limits: &Limits, metrics: Arc<Metrics>) -> Self {
        Self {
            resolver,
            policy,
            connect_timeout: limits.connect_timeout,
            handshake_timeout: limits.handshake_timeout,
            metrics,
            classical: Cache::builder().max_capacity(MAX_CLASSICAL).time_to_live(CLASSICAL_TTL).build(),
        }
    }

    /// A TCP connection to one of the host's permitted addresses.
    pub(super) async fn tcp(
        &self,
        project: &ProjectId,
        host: &Host,
        port: u16,
    ) -> Result<(Stream, SocketAddr), Failure> {
        let mut allowed = self.resolver.resolve(project, host, port).await?;
        let mut refusal = None;
        allowed.retain(|address| match self.policy.judge_address(*address) {
            Ok(()) => true,
            Err(denied) => {
                refusal.get_or_insert(denied);
                false
            }
        });
        if allowed.is_empty() {
            return Err(match refusal {
                Some(denied) => Failure::new(denied.code, denied.why),
                None => Failure::new(Code::DnsNotFound, format!("{host} has no address")),
            });
        }
        match tokio::time::timeout(self.connect_timeout, race(interleave(allowed))).await {
            Ok(Ok((stream, address))) => {
                // Answers are small and awaited: Nagle's delay buys nothing here.
                let stream = Stream::from(stream);
                stream.set_nodelay();
                Ok((stream, address))
            }
            Ok(Err((error, address))) => {
                let mut failure = explain::connect(&error, &format!("{host}:{port}"));
                failure.facts.address = Some(address);
                Err(failure)
            }
            Err(_) => Err(Failure::new(
                Code::NetTimeout,
                format!("{host}:{port} accepted no connection within {:?}", self.connect_timeout),
            )),
        }
    }

    /// A TLS connection that presents what `tls` presents. `handshake`: resuming a session is cheaper, but asks nothing.
    pub(super) async fn tls(
        &self,
        project: &ProjectId,
        tls: &Arc<UpstreamTls>,
        origin: &Origin,
        name: &ServerName<'static>,
        handshake: Handshake,
        offer: Offer,
    ) -> Result<Secured, Failure> {
        let key = (project.clone(), origin.clone());
        let hybrid = tls.is_post_quantum() && !self.classical.contains_key(&key);
        let config = if hybrid {
            tls.config()
        } else if tls.is_post_quantum() {
            tls.classical_config()
        } else {
            tls.config()
        };
        let config = handshake.with(config);
        match self.shake(project, config, origin, name, offer).await {
            Ok(secured) => Ok(secured),
            Err(refused) if hybrid && refused.silent => {
                tracing::info!(%origin, "no answer to a ClientHello with a post-quantum key share; trying once without");
                let second = self.shake(project, handshake.with(tls.classical_config()), origin, name, offer).await;
                if second.is_ok() {
                    self.classical.insert(key, ());
                }
                second.map_err(|r| r.failure)
            }
            Err(refused) => Err(refused.failure),
        }
    }

    async fn shake(
        &self,
        project: &ProjectId,
        config: Arc<ClientConfig>,
        origin: &Origin,
        name: &ServerName<'static>,
        offer: Offer,
    ) -> Result<Secured, Refused> {
        let (stream, address) = self.tcp(project, origin.host(), origin.port()).await.map_err(Refused::from)?;
        let connect = TlsConnector::from(config)
            .with_alpn(offer.alpn())
            .connect(name.clone(), Socket::new(stream))
            .into_fallible();
        let (outcome, asked) = recorded(tokio::time::timeout(self.handshake_timeout, connect)).await;
        let with_facts = |mut failure: Failure, silent: bool| {
            self.metrics.handshakes_failed.add();
            failure.facts.address = Some(address);
            failure.facts.asked = asked.clone();
            Refused { failure, silent }
        };
        match outcome {
            Ok(Ok(stream)) => {
                let (_, connection) = stream.get_ref();
                let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
                if resumed {
                    self.metrics.handshakes_resumed.add();
                } else {
                    self.metrics.handshakes_full.add();
                }
                let version = match connection.protocol_version() {
                    Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                    _ => "TLSv1.3",
                };
                Ok(Secured { stream, address, version, resumed, asked })
            }
            Ok(Err((error, socket))) => {
                let reset = explain::tls_error(&error).is_none();
                let failure = explain::tls(&error, asked.as_ref(), origin);
                Err(with_facts(failure, reset && !socket.received()))
            }
            Err(_) => {
                let failure = Failure::new(
                    Code::NetTimeout,
                    format!("the TLS handshake with {origin} took longer than {:?}", self.handshake_timeout),
                );
                Err(with_facts(failure, asked.is_none()))
            }
        }
    }
}

/// What is offered to speak (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// HTTP/2 first, then HTTP/1.1.
    Both,
    /// HTTP/1.1 only: for what will be upgraded, and where the origin demands it.
    Http1,
}

impl Offer {
    fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Both => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Self::Http1 => vec![b"http/1.1".to_vec()],
        }
    }
}

/// Whether a session may be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handshake {
    /// With a ticket, if there is one.
    Any,
    /// From the beginning, so that the origin asks for a certificate if it wants one.
    Full,
}

impl Handshake {
    fn with(self, config: Arc<ClientConfig>) -> Arc<ClientConfig> {
        match self {
            Self::Any => config,
            Self::Full => {
                let mut config = ClientConfig::clone(&config);
                config.resumption = Resumption::disabled();
                Arc::new(config)
            }
        }
    }
}

struct Refused {
    failure: Failure,
    /// The peer sent not one byte.
    silent: bool,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { failure, silent: false }
    }
}

/// The name for SNI and verification. Addresses are verified as addresses and send no SNI (RFC 6066 section 3).
pub(super) fn server_name(host: &Host) -> Result<ServerName<'static>, Failure> {
    match host.kind() {
        HostKind::Name => ServerName::try_from(host.as_str().to_owned())
            .map_err(|_| Failure::new(Code::RequestMalformed, format!("{host} cannot stand in a certificate"))),
        HostKind::V4(ip) => Ok(ServerName::IpAddress(std::net::IpAddr::V4(ip).into())),
        HostKind::V6(ip) => Ok(ServerName::IpAddress(std::net::IpAddr::V6(ip).into())),
    }
}

/// Alternates the families, the first answer's family first (RFC 8305 section 4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().copied() else { return addresses };
    let (mut a, mut b): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|x| x.is_ipv4() == first.is_ipv4());
    a.reverse();
    b.reverse();
    let mut mixed = Vec::with_capacity(a.len() + b.len());
    while let Some(next) = a.pop() {
        mixed.push(next);
        mixed.extend(b.pop());
    }
    b.reverse();
    mixed.extend(b);
    mixed
}

/// Happy eyeballs: the next attempt starts when the last one failed or 250 ms have passed; the first success wins.
async fn race(addresses: Vec<SocketAddr>) -> Result<(TcpStream, SocketAddr), (io::Error, SocketAddr)> {
    let attempt = |address: SocketAddr| async move { (TcpStream::connect(address).await, address) };
    let mut waiting = addresses.into_iter();
    let first = waiting.next().expect("the caller checked that there is one");
    let mut running = FuturesUnordered::new();
    running.push(attempt(first));
    let mut next_at = Instant::now() + ATTEMPT_DELAY;
    let mut last = None;
    loop {
        tokio::select! {
            finished = running.next() => match finished {
                Some((Ok(stream), address)) => return Ok((stream, address)),
                Some((Err(error), address)) => {
                    last = Some((error, address));
                    match waiting.next() {
                        Some(address) => running.push(attempt(address)),
                        None if running.is_empty() => return Err(last.expect("set above")),
                        None => {}
                    }
                    next_at = Instant::now() + ATTEMPT_DELAY;
                }
                None => return Err(last.expect("an attempt failed, or one would still run")),
            },
            () = tokio::time::sleep_until(next_at), if waiting.len() > 0 => {
                if let Some(address) = waiting.next() {
                    running.push(attempt(address));
                }
                next_at = Instant::now() + ATTEMPT_DELAY;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaves_families_starting_with_the_first() {
        let parse = |t: &str| t.parse::<SocketAddr>().unwrap();
        let mixed = interleave(vec![parse("[::1]:1"), parse("[::2]:1"), parse("1.1.1.1:1"), parse("[::3]:1")]);
        assert_eq!(mixed, [parse("[::1]:1"), parse("1.1.1.1:1"), parse("[::2]:1"), parse("[::3]:1")]);
    }

    #[tokio::test]
    async fn takes_the_second_address_when_the_first_refuses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (_, address) = race(vec![closed, good]).await.unwrap();
        assert_eq!(address, good);
    }
}
