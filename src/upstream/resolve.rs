//! Names to addresses: own answers first, then `[dns] servers` or the system, briefly remembered.
//!
//! A name is resolved once per dial; every address is judged by the caller and only judged addresses
//! are dialled, so nothing can change between check and use (DNS rebinding).

mod servers;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use moka::Expiry;
use moka::sync::Cache;

use super::Failure;
use servers::Servers;

use crate::config::LiveLimits;
use crate::domain::{Code, Host, HostKind, ProjectId};
use crate::net::Permits;
use crate::observe::Metrics;

/// getaddrinfo tells no TTL; these are short enough that a moved service is found again soon.
const POSITIVE: Duration = Duration::from_secs(10);
const NEGATIVE: Duration = Duration::from_secs(1);
/// Names remembered over all projects.
const MAX_NAMES: u64 = 4096;
/// Addresses looked at per name.
const MAX_ADDRESSES: usize = 32;

#[derive(Clone)]
enum Answer {
    /// And how long they hold.
    Addresses(Arc<[IpAddr]>, Duration),
    NotFound,
}

struct ByAnswer;

impl Expiry<(ProjectId, Host), Answer> for ByAnswer {
    fn expire_after_create(&self, _: &(ProjectId, Host), value: &Answer, _: std::time::Instant) -> Option<Duration> {
        Some(match value {
            Answer::Addresses(_, ttl) => *ttl,
            Answer::NotFound => NEGATIVE,
        })
    }
}

/// Resolves names.
pub(super) struct Resolver {
    hosts: HashMap<Host, Vec<IpAddr>>,
    cache: Cache<(ProjectId, Host), Answer>,
    permits: Permits,
    limits: LiveLimits,
    /// `None`: the system's resolver.
    servers: Option<Servers>,
    metrics: Arc<Metrics>,
}

impl Resolver {
    pub(super) fn new(
        hosts: HashMap<Host, Vec<IpAddr>>,
        servers: &[SocketAddr],
        limits: LiveLimits,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            hosts,
            cache: Cache::builder().max_capacity(MAX_NAMES).expire_after(ByAnswer).build(),
            permits: Permits::new(limits.dns_concurrency()),
            servers: Servers::new(servers, limits.dns_timeout()),
            limits,
            metrics,
        }
    }

    /// What `[dns] hosts` answers, without anybody being asked.
    pub(super) fn own(&self, host: &Host) -> &[IpAddr] {
        self.hosts.get(host).map_or(&[], Vec::as_slice)
    }

    /// All addresses of a host, unjudged.
    pub(super) async fn resolve(
        &self,
        project: &ProjectId,
        host: &Host,
        port: u16,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let with_port = |ips: &[IpAddr]| ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        if let Some(ip) = host.ip() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        if let Some(ips) = self.hosts.get(host) {
            return Ok(with_port(ips));
        }
        if host.is_localhost() {
            // RFC 6761 section 6.3: never asked of a resolver.
            return Ok(with_port(&[IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]));
        }
        debug_assert!(host.kind() == HostKind::Name, "addresses were answered above");
        if host.as_str() == "invalid" || host.as_str().ends_with(".invalid") {
            // RFC 6761 section 6.4.
            return Err(not_found(host));
        }
        let key = (project.clone(), host.clone());
        let answer = match self.cache.get(&key) {
            Some(answer) => answer,
            None => {
                let answer = self.ask(host).await?;
                self.cache.insert(key, answer.clone());
                answer
            }
        };
        match answer {
            Answer::Addresses(ips, _) => Ok(with_port(&ips)),
            Answer::NotFound => Err(not_found(host)),
        }
    }

    async fn ask(&self, host: &Host) -> Result<Answer, Failure> {
        self.permits.resize(self.limits.dns_concurrency());
        let limit = self.limits.dns_timeout();
        let lookup = async {
            let _permit = self.permits.take().await;
            self.metrics.dns_lookups.add();
            match &self.servers {
                Some(servers) => servers.lookup(host, limit).await,
                None => ask_system(host).await,
            }
        };
        match tokio::time::timeout(limit, lookup).await {
            Err(_) => Err(Failure::new(Code::DnsFailed, format!("resolving {host} took longer than {limit:?}"))),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(why)) => Err(Failure::new(Code::DnsFailed, format!("{host} could not be resolved: {why}"))),
        }
    }
}

async fn ask_system(host: &Host) -> Result<Answer, String> {
    match tokio::net::lookup_host((host.as_str(), 0)).await {
        Ok(found) => {
            let mut ips: Vec<IpAddr> = found.map(|a| a.ip()).take(MAX_ADDRESSES).collect();
            ips.dedup();
            Ok(if ips.is_empty() { Answer::NotFound } else { Answer::Addresses(ips.into(), POSITIVE) })
        }
        Err(error) if is_not_found(&error) => Ok(Answer::NotFound),
        Err(error) => Err(error.to_string()),
    }
}

fn not_found(host: &Host) -> Failure {
    Failure::new(Code::DnsNotFound, format!("the name {host} does not exist"))
        .fix("check the spelling, or give egret the address with [dns] hosts")
}

/// std keeps getaddrinfo's verdict only as text (EAI_NONAME, EAI_NODATA of glibc, musl and macOS).
fn is_not_found(error: &std::io::Error) -> bool {
    let text = error.to_string();
    ["not known", "No address associated", "does not resolve", "nodename nor servname"].iter().any(|t| text.contains(t))
}
