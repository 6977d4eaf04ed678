//! `[dns] servers`: names asked of these servers and of nobody else. No search domains, no hosts file, and only
//! addresses: the name that was asked for, by A and AAAA at once.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RecordType};

use super::{Answer, MAX_ADDRESSES};
use crate::domain::Host;

/// However long an answer says that it holds, and however short.
const LONGEST_TTL: Duration = Duration::from_secs(300);
const SHORTEST_TTL: Duration = Duration::from_secs(1);

/// Name servers, asked one after the other until one gives an answer.
pub(super) struct Servers {
    addresses: Vec<SocketAddr>,
    /// Made anew when the time for a name has changed.
    made: Mutex<Arc<Made>>,
}

struct Made {
    each: Vec<(SocketAddr, TokioResolver)>,
    /// What one server gets of the time for a name.
    share: Duration,
}

impl Made {
    fn new(servers: &[SocketAddr], share: Duration) -> Arc<Self> {
        let each = servers.iter().map(|server| (*server, resolver(*server, share))).collect();
        Arc::new(Self { each, share })
    }
}

impl Servers {
    /// `None` without servers. `limit` is the time for a name, as it is now.
    pub(super) fn new(servers: &[SocketAddr], limit: Duration) -> Option<Self> {
        let made = Made::new(servers, share(servers, limit)?);
        Some(Self { addresses: servers.to_owned(), made: Mutex::new(made) })
    }

    fn made(&self, limit: Duration) -> Arc<Made> {
        let mut made = self.made.lock().expect("nothing panics while holding it");
        if let Some(share) = share(&self.addresses, limit).filter(|share| *share != made.share) {
            *made = Made::new(&self.addresses, share);
        }
        made.clone()
    }

    /// Every address of `host`, IPv6 first (RFC 6724 section 2.1), with how long they hold. That there is none is an
    /// answer, too; an error is what the last server did instead of answering. `limit` is the time for the name.
    pub(super) async fn lookup(&self, host: &Host, limit: Duration) -> Result<Answer, String> {
        let mut name = Name::from_ascii(host.as_str()).map_err(|_| "the name cannot stand in DNS".to_owned())?;
        name.set_fqdn(true);
        let mut last = String::new();
        let made = self.made(limit);
        for (server, resolver) in &made.each {
            match tokio::time::timeout(made.share, both(resolver, &name)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = format!("name server {server}: {error}"),
                Err(_) => last = format!("name server {server} did not answer within {:?}", made.share),
            }
        }
        Err(last)
    }
}

/// Each server gets its share, so that one which is dead leaves time for the next.
fn share(servers: &[SocketAddr], limit: Duration) -> Option<Duration> {
    Some(limit / u32::try_from(servers.len()).ok().filter(|n| *n > 0)?)
}

fn resolver(server: SocketAddr, share: Duration) -> TokioResolver {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.into());
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Never;
    // Remembered per project, above.
    options.cache_size = 0;
    options.timeout = share;
    // A lost datagram is sent again within the time; what is left is a server that refuses UDP.
    options.attempts = 1;
    options.try_tcp_on_error = true;
    builder.build().expect("without TLS and DNSSEC there is nothing that can fail")
}

async fn both(resolver: &TokioResolver, name: &Name) -> Result<Answer, NetError> {
    let ask = |kind| resolver.lookup(name.clone(), kind);
    let (v6, v4) = futures_util::future::join(ask(RecordType::AAAA), ask(RecordType::A)).await;
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut ttl = LONGEST_TTL;
    let mut failed = None;
    for outcome in [v6, v4] {
        match outcome {
            Ok(lookup) => {
                addresses.extend(ips(&lookup));
                let shortest = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or_default();
                ttl = ttl.min(Duration::from_secs(shortest.into()));
            }
            Err(error) if error.is_no_records_found() => {}
            Err(error) => failed = Some(error),
        }
    }
    // One family is enough to go on with; without either, "none" is only true if both say so.
    match failed {
        Some(error) if addresses.is_empty() => Err(error),
        _ if addresses.is_empty() => Ok(Answer::NotFound),
        _ => Ok(Answer::Addresses(addresses.into(), ttl.max(SHORTEST_TTL))),
    }
}

fn ips(lookup: &Lookup) -> impl Iterator<Item = IpAddr> + '_ {
    // Half of the bound each: many addresses of one family do not push out the other.
    lookup.answers().iter().filter_map(|record| record.data.ip_addr()).take(MAX_ADDRESSES / 2)
}
