//! Dialling: resolve, judge every address, connect to judged addresses only, shake hands. Through a parent proxy: see
//! `parent`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use moka::sync::Cache;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::resolve::Resolver;
use super::route::{Parent, Parents, Route, Way};
use super::socket::Socket;
use super::{Destination, Failure, WaysOut, explain};
use crate::config::{DnsMixed, LiveLimits, SourceAddresses};
use crate::domain::{Code, Host, HostKind, Origin, ProjectId};
use crate::identity::{Asked, UpstreamTls, recorded};
use crate::net::Stream;
use crate::observe::Metrics;
use crate::pki::anchors::towards;
use crate::policy::{Denied, EgressPolicy};
use crate::registry::Disclosures;

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
    parents: Parents,
    sources: SourceAddresses,
    mixed: DnsMixed,
    pub(super) policy: Arc<EgressPolicy>,
    pub(super) limits: LiveLimits,
    pub(super) metrics: Arc<Metrics>,
    /// Where a hybrid ClientHello met reset or silence: the classical one is used for a while.
    classical: Cache<(ProjectId, Origin), ()>,
    /// Who is told when a certificate was sent. Set once.
    pub(super) disclosures: OnceLock<Arc<Disclosures>>,
}

impl Dialer {
    pub(super) fn new(ways: WaysOut, policy: Arc<EgressPolicy>, limits: LiveLimits, metrics: Arc<Metrics>) -> Self {
        let WaysOut { hosts, servers, mixed, parents, sources } = ways;
        Self {
            resolver: Resolver::new(hosts, &servers, limits.clone(), metrics.clone()),
            parents,
            sources,
            mixed,
            policy,
            limits,
            metrics,
            classical: Cache::builder().max_capacity(MAX_CLASSICAL).time_to_live(CLASSICAL_TTL).build(),
            disclosures: OnceLock::new(),
        }
    }

    /// The way to a destination; the same every time.
    pub(super) fn way(&self, host: &Host, port: u16, tls: bool) -> Way<'_> {
        let own = if self.parents.is_empty() { &[] } else { self.resolver.own(host) };
        self.parents.way(host, port, tls, own)
    }

    /// The same in words.
    pub(super) fn route(&self, to: &Destination) -> Route {
        self.parents.route(to, self.resolver.own(to.host()))
    }

    /// A TCP connection to one of the host's permitted addresses.
    pub(super) async fn tcp(
        &self,
        project: &ProjectId,
        host: &Host,
        port: u16,
    ) -> Result<(Stream, SocketAddr), Failure> {
        let allowed = self.permitted(project, host, port, |address| self.policy.judge_address(address)).await?;
        self.connect(allowed, &format!("{host}:{port}")).await
    }

    /// The addresses of a host that `judge` permits, at least one.
    pub(super) async fn permitted(
        &self,
        project: &ProjectId,
        host: &Host,
        port: u16,
        judge: impl Fn(SocketAddr) -> Result<(), Denied>,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let mut allowed = self.resolver.resolve(project, host, port).await?;
        let mut refusal = None;
        allowed.retain(|address| match judge(*address) {
            Ok(()) => true,
            Err(denied) => {
                refusal.get_or_insert(denied);
                false
            }
        });
        match refusal {
            Some(denied) if allowed.is_empty() => Err(denied.into()),
            Some(denied) if self.mixed == DnsMixed::Refuse => {
                let why = format!("one of the addresses of {host} may not be reached: {}", denied.why);
                Err(Failure::new(denied.code, why).fix("correct the name's addresses, or write [dns] mixed = \"drop\""))
            }
            None if allowed.is_empty() => Err(Failure::new(Code::DnsNotFound, format!("{host} has no address"))),
            _ => Ok(allowed),
        }
    }

    /// A TCP connection to the first of these addresses that accepts one, happy eyeballs. `to` says what they are.
    pub(super) async fn connect(&self, addresses: Vec<SocketAddr>, to: &str) -> Result<(Stream, SocketAddr), Failure> {
        let limit = self.limits.connect_timeout();
        match tokio::time::timeout(limit, race(interleave(addresses), self.sources)).await {
            Ok(Ok((stream, address))) => {
                // Answers are small and awaited: Nagle's delay buys nothing here.
                let stream = Stream::from(stream);
                stream.set_nodelay();
                Ok((stream, address))
            }
            Ok(Err((error, address))) => {
                let mut failure = explain::connect(&error, to);
                if error.kind() == io::ErrorKind::AddrNotAvailable && self.sources != SourceAddresses::default() {
                    failure.detail =
                        format!("no connection to {to} could be opened from the configured source address");
                    failure =
                        failure.fix("check that the address of [egress] source_addresses is still this machine's");
                }
                failure.facts.address = Some(address);
                Err(failure)
            }
            Err(_) => Err(Failure::new(Code::NetTimeout, format!("{to} accepted no connection within {limit:?}"))),
        }
    }

    /// A TLS connection that presents what `tls` presents. The handshake: resuming a session is cheaper, but asks nothing.
    pub(super) async fn tls(
        &self,
        project: &ProjectId,
        tls: &Arc<UpstreamTls>,
        via: Option<&Arc<Parent>>,
        origin: &Origin,
        name: &ServerName<'static>,
        (handshake, offer): (Handshake, Offer),
    ) -> Result<Secured, Failure> {
        let key = (project.clone(), origin.clone());
        let hybrid = tls.is_post_quantum() && !self.classical.contains_key(&key);
        let prepared = |classical| {
            handshake.with(if classical { tls.classical_config() } else { tls.config() }, || {
                tls.sessions(origin, via.map(|parent| parent.id), classical)
            })
        };
        let first = (tls, prepared(!hybrid && tls.is_post_quantum()));
        match self.shake(project, first, via, origin, name, offer).await {
            Ok(secured) => Ok(secured),
            Err(refused) if hybrid && refused.silent => {
                tracing::info!(%origin, "no answer to a ClientHello with a post-quantum key share; trying once without");
                let second = self.shake(project, (tls, prepared(true)), via, origin, name, offer).await;
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
        (tls, config): (&Arc<UpstreamTls>, Arc<ClientConfig>),
        via: Option<&Arc<Parent>>,
        origin: &Origin,
        name: &ServerName<'static>,
        offer: Offer,
    ) -> Result<Secured, Refused> {
        let reached = self.reach(project, via, origin.host(), origin.port()).await;
        let (stream, address) = reached.map_err(Refused::from)?;
        let connect = TlsConnector::from(config)
            .with_alpn(offer.alpn())
            .connect(name.clone(), Socket::new(stream))
            .into_fallible();
        let limit = self.limits.handshake_timeout();
        // Whatever becomes of the handshake, also if it is dropped: the origin has seen it.
        let shown = || {
            if let Some(disclosures) = self.disclosures.get() {
                disclosures.sent(project, tls, origin, via.is_none().then_some(address));
            }
        };
        // Here, and nowhere else, CA bundles learn whom they are to vouch for.
        let connect = towards(origin.clone(), tokio::time::timeout(limit, connect));
        let ((outcome, issuers), asked) = recorded(connect, shown).await;
        let with_facts = |mut failure: Failure, silent: bool| {
            self.metrics.handshakes_failed.add();
            failure.facts.address = Some(address);
            failure.facts.asked = asked.clone();
            if failure.code == Code::TrustUnknownIssuer {
                failure.facts.unknown_issuers = issuers.clone();
            }
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
                let unasked = tls.is_tls13_only() && asked.is_none();
                let failure = unasked
                    .then(|| explain::tls13_only(&error, origin))
                    .flatten()
                    .unwrap_or_else(|| explain::tls(&error, asked.as_ref(), origin));
                Err(with_facts(failure, reset && !socket.received()))
            }
            Err(_) => {
                let failure = Failure::new(
                    Code::NetTimeout,
                    format!("the TLS handshake with {origin} took longer than {limit:?}"),
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
    /// `config` with the tickets that this handshake may use: its own, those of `other`, or none.
    fn with(self, config: Arc<ClientConfig>, other: impl FnOnce() -> Option<Resumption>) -> Arc<ClientConfig> {
        let resumption = match self {
            Self::Any => other(),
            Self::Full => Some(Resumption::disabled()),
        };
        let Some(resumption) = resumption else { return config };
        let mut config = ClientConfig::clone(&config);
        config.resumption = resumption;
        Arc::new(config)
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

/// Connects from the source address of the family, if there is one.
async fn open(sources: SourceAddresses, to: SocketAddr) -> io::Result<TcpStream> {
    // An IPv4 address in its mapped form is reached over IPv4.
    let to = if sources.v4.is_some() { SocketAddr::new(to.ip().to_canonical(), to.port()) } else { to };
    let (socket, source) = match (to, sources) {
        (SocketAddr::V4(_), SourceAddresses { v4: Some(ip), .. }) => (TcpSocket::new_v4()?, IpAddr::V4(ip)),
        (SocketAddr::V6(_), SourceAddresses { v6: Some(ip), .. }) => (TcpSocket::new_v6()?, IpAddr::V6(ip)),
        _ => return TcpStream::connect(to).await,
    };
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(to).await
}

/// Happy eyeballs: the next attempt starts when the last one failed or 250 ms have passed; the first success wins.
async fn race(
    addresses: Vec<SocketAddr>,
    sources: SourceAddresses,
) -> Result<(TcpStream, SocketAddr), (io::Error, SocketAddr)> {
    let attempt = |address: SocketAddr| async move { (open(sources, address).await, address) };
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
        let (_, address) = race(vec![closed, good], SourceAddresses::default()).await.unwrap();
        assert_eq!(address, good);
    }
}
