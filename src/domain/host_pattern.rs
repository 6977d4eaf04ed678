//! Which hosts a parent proxy is for, and which not: `origins` and `no_proxy` of `[egress] parent`.
//!
//! Judged on what is known without asking a resolver: the name, the port, and addresses that stand in their place.

use std::net::IpAddr;

use ipnet::IpNet;

use super::origin::{HTTP_PORT, HTTPS_PORT, parse_port, split_authority};
use super::{Host, HostKind, Origin, OriginError, Pattern};

/// One entry of `origins` or `no_proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// `*`
    Any,
    /// An origin pattern, as in `[egress] allow`.
    Origin(Pattern),
    /// Every name below `name`, at any depth, and `name` itself if `itself`; on this port, or on every one.
    Name {
        /// Without the leading dot or star.
        name: Host,
        /// Whether `name` is covered, too.
        itself: bool,
        /// The port, if one is written.
        port: Option<u16>,
    },
    /// Addresses; on this port, or on every one.
    Network(IpNet, Option<u16>),
}

impl HostPattern {
    /// An entry of `origins`: `*`; `https://…` as [`Pattern::parse`] reads it; `.example.com` (the name and all below)
    /// and `*.example.com` (all below), at any depth; an address or a network; these with a port or without. A bare
    /// `example.com[:port]` is that origin alone, as in `[egress] allow`.
    ///
    /// # Errors
    /// Says what is wrong; never repeats the text.
    pub fn parse_origin(text: &str) -> Result<Self, OriginError> {
        let text = text.trim();
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.contains("://") {
            return Pattern::parse(text).map(Self::Origin);
        }
        if text.starts_with(['.', '*']) {
            return Self::parse_suffix(text);
        }
        match parse_network(text) {
            Some((net, port)) => Ok(Self::Network(net, port)),
            None => Pattern::parse(text).map(Self::Origin),
        }
    }

    /// An entry of `no_proxy`, as curl and Go read `NO_PROXY`: `*`; `example.com` and `.example.com`, the name and all
    /// below it; `*.example.com`, all below it; an address, with or without brackets; a network (CIDR). Each with
    /// `:port` or without; letter case and a trailing dot do not matter.
    ///
    /// # Errors
    /// Says what is wrong; never repeats the text.
    pub fn parse_no_proxy(text: &str) -> Result<Self, OriginError> {
        let text = text.trim();
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.starts_with(['.', '*']) {
            return Self::parse_suffix(text);
        }
        match parse_network(text) {
            Some((net, port)) => Ok(Self::Network(net, port)),
            None => Self::parse_name(text, true),
        }
    }

    fn parse_suffix(text: &str) -> Result<Self, OriginError> {
        match text.strip_prefix("*.") {
            Some(rest) => Self::parse_name(rest, false),
            None => Self::parse_name(text.strip_prefix('.').ok_or(OriginError::Wildcard)?, true),
        }
    }

    fn parse_name(text: &str, itself: bool) -> Result<Self, OriginError> {
        let (name, port) = split_authority(text)?;
        let port = port.map(parse_port).transpose()?;
        let name = Host::parse(name)?;
        if name.kind() != HostKind::Name {
            return Err(OriginError::WildcardIp);
        }
        Ok(Self::Name { name, itself, port })
    }

    /// Whether it covers `host` and `port`. `tls` is false for plain http: an origin pattern then covers the port that
    /// the request would be lifted to as well (443 for 80). `known` are addresses that stand for a name without a
    /// resolver being asked; a network covers the name if it holds all of them.
    #[must_use]
    pub fn covers(&self, host: &Host, port: u16, tls: bool, known: &[IpAddr]) -> bool {
        match self {
            Self::Any => true,
            Self::Origin(pattern) => {
                pattern.covers(&Origin::new(host.clone(), port))
                    || (!tls && port == HTTP_PORT && pattern.covers(&Origin::new(host.clone(), HTTPS_PORT)))
            }
            Self::Name { name, itself, port: only } => {
                let below = |rest: &str| rest.ends_with('.') || (*itself && rest.is_empty());
                host.kind() == HostKind::Name
                    && only.is_none_or(|p| p == port)
                    && host.as_str().strip_suffix(name.as_str()).is_some_and(below)
            }
            Self::Network(net, only) => {
                only.is_none_or(|p| p == port)
                    && match host.ip() {
                        Some(ip) => holds(net, ip),
                        None => !known.is_empty() && known.iter().all(|ip| holds(net, *ip)),
                    }
            }
        }
    }
}

/// Whether `net` holds `ip`; an IPv4 address and its mapped form (RFC 4291 section 2.5.5.2) are the same, on both sides.
#[must_use]
pub fn holds(net: &IpNet, ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    net.contains(&ip) || matches!((net, ip), (IpNet::V6(net), IpAddr::V4(v4)) if net.contains(&v4.to_ipv6_mapped()))
}

/// `10.20.0.0/16`, an address alone, and either with a port (IPv6 then in brackets).
#[must_use]
pub fn parse_network(text: &str) -> Option<(IpNet, Option<u16>)> {
    let (network, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (network, rest) = rest.split_once(']')?;
            match rest.strip_prefix(':') {
                Some(port) => (network, Some(port)),
                None if rest.is_empty() => (network, None),
                None => return None,
            }
        }
        None => match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => (text, None),
            Some((network, port)) => (network, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        None => None,
        Some(digits) => Some(digits.parse::<u16>().ok().filter(|port| *port != 0)?),
    };
    let network = network.parse::<IpNet>().ok().or_else(|| network.parse::<IpAddr>().ok().map(IpNet::from))?;
    Some((network.trunc(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &HostPattern, target: &str) -> bool {
        let (tls, authority) = match target.strip_prefix("http://") {
            Some(authority) => (false, authority),
            None => (true, target),
        };
        let at = Origin::from_authority(authority, if tls { 443 } else { 80 }).unwrap();
        pattern.covers(at.host(), at.port(), tls, &[])
    }

    fn direct(entry: &str, target: &str) -> bool {
        covers(&HostPattern::parse_no_proxy(entry).unwrap_or_else(|e| panic!("{entry}: {e}")), target)
    }

    #[test]
    fn no_proxy_means_what_curl_and_go_mean() {
        // Entry, what it covers, what it does not.
        let table: &[(&str, &[&str], &[&str])] = &[
            ("*", &["a.test", "10.0.0.1", "[::1]:7"], &[]),
            ("example.com", &["example.com", "EXAMPLE.com.", "a.b.example.com:8443"], &["notexample.com", "com"]),
            (".Example.COM.", &["example.com", "a.example.com"], &["notexample.com", "example.com.test"]),
            ("*.example.com", &["a.example.com", "a.b.example.com"], &["example.com", "xexample.com"]),
            ("example.com:8443", &["example.com:8443", "a.example.com:8443"], &["example.com"]),
            ("example.com:80", &["http://example.com"], &["example.com"]),
            ("10.0.0.7", &["10.0.0.7", "10.0.0.7:1", "[::ffff:10.0.0.7]"], &["10.0.0.8", "10.0.0.7.example.com"]),
            ("10.0.0.7:8443", &["10.0.0.7:8443"], &["10.0.0.7"]),
            ("10.0.0.0/8", &["10.255.0.1:7"], &["11.0.0.1", "ten.example"]),
            ("fd00::1", &["[fd00::1]", "[fd00:0:0::1]:7"], &["[fd00::2]"]),
            ("[fd00::1]", &["[fd00::1]"], &["[fd00::2]"]),
            ("[FD00::1]:8443", &["[fd00::1]:8443"], &["[fd00::1]"]),
            ("fd00::/8", &["[fd12::1]"], &["[fe80::1]"]),
            ("[fd00::/8]:8443", &["[fd12::1]:8443"], &["[fd12::1]"]),
            ("::ffff:10.0.0.0/104", &["10.1.1.1"], &["11.1.1.1"]),
            ("bücher.example", &["xn--bcher-kva.example"], &["bucher.example"]),
            ("localhost", &["localhost", "a.localhost"], &["127.0.0.1"]),
        ];
        for (entry, yes, no) in table {
            for target in *yes {
                assert!(direct(entry, target), "{entry} covers {target}");
            }
            for target in *no {
                assert!(!direct(entry, target), "{entry} does not cover {target}");
            }
        }
        for bad in ["", ".", "*.", "**.a", "a.*.b", "10.0.0.0/33", "a:0", "a:x", "a:*", "https://a", "u@a", "*.1.2.3.4"]
        {
            assert!(HostPattern::parse_no_proxy(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_are_patterns_suffixes_and_networks() {
        let table: &[(&str, &[&str], &[&str])] = &[
            ("*", &["a.test", "http://a.test:8080"], &[]),
            ("https://api.example.com", &["api.example.com", "http://api.example.com"], &["api.example.com:8443"]),
            ("api.example.com", &["api.example.com"], &["api.example.com:8443", "x.api.example.com"]),
            ("https://api.example.com:*", &["api.example.com:1", "http://api.example.com:8080"], &["example.com"]),
            ("https://*.example.com", &["a.example.com"], &["a.b.example.com", "example.com", "a.example.com:1"]),
            ("*.example.com", &["a.b.example.com:8443", "http://a.example.com:8080"], &["example.com"]),
            (".example.com", &["example.com", "a.b.example.com:1"], &["xexample.com"]),
            ("*.example.com:8443", &["a.b.example.com:8443"], &["a.example.com"]),
            ("10.0.0.0/8", &["10.1.2.3:1"], &["a.test"]),
            ("10.1.2.3", &["10.1.2.3:1"], &["10.1.2.4"]),
            ("[fd00::/8]:443", &["[fd00::1]"], &["[fd00::1]:1"]),
        ];
        for (entry, yes, no) in table {
            let pattern = HostPattern::parse_origin(entry).unwrap_or_else(|e| panic!("{entry}: {e}"));
            for target in *yes {
                assert!(covers(&pattern, target), "{entry} covers {target}");
            }
            for target in *no {
                assert!(!covers(&pattern, target), "{entry} does not cover {target}");
            }
        }
        for bad in ["", "http://a", "https://*.co.uk", "a/b", "10.0.0.0/33", "*", "*x"].iter().filter(|t| **t != "*") {
            assert!(HostPattern::parse_origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_covers_a_name_whose_addresses_are_known() {
        let (net, host) = (HostPattern::parse_no_proxy("10.0.0.0/8").unwrap(), Host::parse("a.test").unwrap());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(net.covers(&host, 443, true, &[ip("10.1.1.1"), ip("10.2.2.2")]));
        assert!(!net.covers(&host, 443, true, &[ip("10.1.1.1"), ip("11.2.2.2")]));
        assert!(!net.covers(&host, 443, true, &[]));
    }
}
