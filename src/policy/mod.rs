//! Floor 2: who may be reached. The name is judged first ([`EgressPolicy::judge_origin`]), then every address that it
//! resolved to ([`EgressPolicy::judge_address`]); only a judged address is ever dialled, so what a name says later
//! changes nothing.
//!
//! - egret's own listeners are refused whatever the configuration says.
//! - The rules are replaced as one, while egret runs. Whoever keeps a connection asks again before its next request
//!   ([`EgressPolicy::generation`]), name and address by the same rules.
//! - A refusal names the category of an address, never what lies behind it.

mod address;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use ipnet::IpNet;

pub use address::Category;

use crate::config::EgressSettings;
use crate::domain::{Code, HTTP_PORT, HTTPS_PORT, Host, HostKind, Origin, Pattern, holds};

/// Why an origin or an address may not be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Denied {
    /// `policy.origin_denied` or `policy.address_denied`.
    pub code: Code,
    /// In words, with the remedy where there is one; nothing of the inside's topology.
    pub why: String,
}

/// Names under which clouds hand out credentials. The addresses behind them are refused too; the names are, because a
/// resolver of the cloud may answer with others.
const METADATA_NAMES: &[&str] = &[
    "metadata.google.internal",
    "metadata.goog",
    "metadata.azure.internal",
    "metadata.tencentyun.com",
    "instance-data",
    "instance-data.ec2.internal",
];

/// Who may be reached (`[egress]`), with the address guard of profile `local`.
#[derive(Debug)]
pub struct EgressPolicy {
    rules: ArcSwap<Rules>,
    /// That of `rules`, for those who only compare.
    generation: AtomicU64,
    /// Where egret itself listens: known only once the sockets are bound.
    own: RwLock<Vec<SocketAddr>>,
}

/// What `[egress]` says, at one time.
#[derive(Debug)]
struct Rules {
    /// Counts from 1.
    generation: u64,
    allow: Vec<Pattern>,
    deny: Vec<Pattern>,
    exceptions: Vec<(IpNet, Option<u16>)>,
}

impl Rules {
    fn new(generation: u64, settings: &EgressSettings) -> Self {
        Self {
            generation,
            allow: settings.allow.clone(),
            deny: settings.deny.clone(),
            exceptions: settings.allow_addresses.clone(),
        }
    }

    fn judge_origin(&self, host: &Host, port: u16, tls: bool) -> Result<(), Denied> {
        if is_metadata_name(host) {
            return Err(Denied {
                code: Code::PolicyAddressDenied,
                why: "the name is that of a cloud's metadata service, which hands out credentials".to_owned(),
            });
        }
        let asked = Origin::new(host.clone(), port);
        let lifted = (!tls && port == HTTP_PORT).then(|| Origin::new(host.clone(), HTTPS_PORT));
        let covers = |pattern: &Pattern| pattern.covers(&asked) || lifted.as_ref().is_some_and(|o| pattern.covers(o));
        if self.deny.iter().any(covers) {
            return Err(Denied { code: Code::PolicyOriginDenied, why: "[egress] deny names the origin".to_owned() });
        }
        if !self.allow.iter().any(covers) {
            return Err(Denied {
                code: Code::PolicyOriginDenied,
                why: "the origin is not in [egress] allow; add it there to reach it".to_owned(),
            });
        }
        Ok(())
    }

    fn is_excepted(&self, ip: IpAddr, port: u16, category: Category) -> bool {
        self.exceptions.iter().any(|(net, only)| {
            // `100.64.0.0/10` is meant for a VPN and not for the metadata service that sits in it.
            let wide = net.prefix_len() < net.max_prefix_len();
            // An exception may be written in the mapped form, too: both name the same address.
            holds(net, ip) && only.is_none_or(|p| p == port) && !(wide && category == Category::Metadata)
        })
    }

    /// Whether `settings` say the same.
    fn are(&self, settings: &EgressSettings) -> bool {
        self.allow == settings.allow && self.deny == settings.deny && self.exceptions == settings.allow_addresses
    }
}

impl EgressPolicy {
    /// A policy that follows `settings`. An empty `allow` allows nothing.
    #[must_use]
    pub fn new(settings: &EgressSettings) -> Self {
        let rules = Rules::new(1, settings);
        Self {
            generation: AtomicU64::new(rules.generation),
            rules: ArcSwap::from_pointee(rules),
            own: RwLock::default(),
        }
    }

    /// Puts the rules of `settings` (`allow`, `deny`, `allow_addresses`) in force, all together. When this returns, every
    /// request is judged by them, whatever connection it would go out on; blind tunnels and WebSockets that are open were
    /// judged when they were opened, and go on. Where egret itself listens stays refused. Rules that are equal to those in
    /// force change nothing.
    pub fn replace(&self, settings: &EgressSettings) {
        // Whoever holds it writes; the list itself does not change.
        let _writing = self.own.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let old = self.rules.load_full();
        if old.are(settings) {
            return;
        }
        let generation = old.generation + 1;
        self.rules.store(std::sync::Arc::new(Rules::new(generation, settings)));
        // After the rules: whoever sees the number finds them.
        self.generation.store(generation, Ordering::Release);
    }

    /// Counts the changes of the rules. What was judged by the rules of another generation is to be judged again.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether `host` and `port` may (still) be reached, and at `address`, where that was dialled for them: both by the
    /// same rules. Answers with the generation of these.
    ///
    /// # Errors
    /// As [`EgressPolicy::judge_origin`] and [`EgressPolicy::judge_address`].
    pub fn judge_both(&self, host: &Host, port: u16, tls: bool, address: Option<SocketAddr>) -> Result<u64, Denied> {
        let rules = self.rules.load();
        rules.judge_origin(host, port, tls)?;
        if let Some(address) = address {
            self.judge_by(&rules, address)?;
        }
        Ok(rules.generation)
    }

    /// Says where egret itself listens (proxy and management), once that is known and before anything is accepted.
    pub fn set_own(&self, listeners: Vec<SocketAddr>) {
        *self.own.write().unwrap_or_else(std::sync::PoisonError::into_inner) = listeners;
    }

    /// Whether `[egress]` lets `host` and `port` be reached. `deny` wins over `allow`. Patterns are https origins; a
    /// plain http target (`tls` = false) is compared as if it were one, on its port and on the port it would be lifted
    /// to (80 becomes 443).
    ///
    /// # Errors
    /// [`Denied`].
    pub fn judge_origin(&self, host: &Host, port: u16, tls: bool) -> Result<(), Denied> {
        self.rules.load().judge_origin(host, port, tls)
    }

    /// Whether this address may be dialled. Asked of every address, resolved or literal, directly before connecting.
    ///
    /// Refused, in this order: egret's own listeners (their port on any address of this host); whatever
    /// `[egress] allow_addresses` does not except and IANA does not call globally reachable, but for loopback, private,
    /// unique local, shared (100.64/10) and benchmarking (198.18/15) addresses, which the caller could reach without
    /// egret. An IPv4 address inside an IPv6 one is judged as well. A cloud's metadata address is excepted only by an
    /// entry for that address alone.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn judge_address(&self, address: SocketAddr) -> Result<(), Denied> {
        self.judge_by(&self.rules.load(), address)
    }

    fn judge_by(&self, rules: &Rules, address: SocketAddr) -> Result<(), Denied> {
        let ip = address.ip().to_canonical();
        if self.is_own(ip, address.port()) {
            return Err(denied("the address is a listener of egret itself"));
        }
        let category = Category::of(ip);
        if category.is_allowed_locally() || rules.is_excepted(ip, address.port(), category) {
            return Ok(());
        }
        Err(denied(&format!(
            "the address is {}, which is not reached through egret; if it must be, add it to [egress] allow_addresses",
            category.describe()
        )))
    }

    /// Whether a parent proxy may be dialled at this address. The operator named it, so its category does not matter;
    /// but never one of egret's own listeners.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn judge_parent(&self, address: SocketAddr) -> Result<(), Denied> {
        if self.is_own(address.ip().to_canonical(), address.port()) {
            return Err(denied("the address of the parent proxy is a listener of egret itself"));
        }
        Ok(())
    }

    /// Whether a parent proxy at one of `parents` may be told to connect to this address: as
    /// [`EgressPolicy::judge_address`], and besides no loopback address, which there is the parent's own and not the
    /// caller's, unless the parent runs on this host or `[egress] allow_addresses` excepts it.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn judge_behind(&self, address: SocketAddr, parents: &[SocketAddr]) -> Result<(), Denied> {
        let rules = self.rules.load();
        self.judge_by(&rules, address)?;
        let ip = address.ip().to_canonical();
        let loopback = Category::of(ip) == Category::Loopback;
        if loopback
            && !rules.is_excepted(ip, address.port(), Category::Loopback)
            && !parents.iter().all(|parent| is_of_this_host(parent.ip().to_canonical()))
        {
            return Err(denied(
                "the address is a loopback address, which behind a parent proxy is the parent's own; if it must be, add it to [egress] allow_addresses",
            ));
        }
        Ok(())
    }

    fn is_own(&self, ip: IpAddr, port: u16) -> bool {
        let ours = self.own.read().unwrap_or_else(std::sync::PoisonError::into_inner).iter().any(|l| l.port() == port);
        ours && std::iter::once(ip).chain(address::embedded(ip)).any(is_of_this_host)
    }
}

fn denied(why: &str) -> Denied {
    Denied { code: Code::PolicyAddressDenied, why: why.to_owned() }
}

fn is_metadata_name(host: &Host) -> bool {
    host.kind() == HostKind::Name
        && METADATA_NAMES
            .iter()
            .any(|name| host.as_str().strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// Whether connecting to `ip` stays on this host. The kernel is asked by binding a UDP socket (nothing is sent): it
/// knows addresses that came after the start, and no list of interfaces has to be kept.
fn is_of_this_host(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests;
