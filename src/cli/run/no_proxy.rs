//! `NO_PROXY`: what a user keeps away from proxies, read as widely as any common client reads it.
//!
//! There is no standard. curl takes names with all below them, with or without a leading dot, and CIDR; Go takes a
//! port as well, and a leading dot or `*.` only for what is below; both take `*` for everything. An entry that one of
//! them would apply counts here, because the question is whether a request might miss egret.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::domain::{Host, Pattern, PortRule};

/// Entries in the order of the variable, as written.
pub(super) fn entries(value: &str) -> impl Iterator<Item = &str> {
    value.split(|c: char| c == ',' || c.is_whitespace()).filter(|entry| !entry.is_empty())
}

/// One entry, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Everything,
    Network(IpNet, Option<u16>),
    /// A name and all below it: lower case, no dots around.
    Name(String, Option<u16>),
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Everything);
        }
        let (host, port) = split_port(text);
        let bare = host.strip_prefix('[').map_or(host, |h| h.trim_end_matches(']'));
        // Some write the brackets around the address alone, some around the network.
        let network = bare.replace(']', "");
        if let Ok(network) = network.parse::<IpNet>() {
            return Some(Self::Network(network, port));
        }
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Some(Self::Network(address.to_canonical().into(), port));
        }
        let name = host.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase();
        (!name.is_empty()).then_some(Self::Name(name, port))
    }

    fn swallows(&self, pattern: &Pattern) -> bool {
        match (self, pattern) {
            (Self::Everything, _) => true,
            // Every entry keeps something from the project-wide certificate; that is what it is for.
            (_, Pattern::Default) => false,
            (Self::Network(network, port), Pattern::Host(host, rule)) => {
                host.ip().is_some_and(|ip| network.contains(&ip.to_canonical())) && meets(*port, *rule)
            }
            (Self::Network(..), Pattern::Wildcard(..)) => false,
            (Self::Name(name, port), Pattern::Host(host, rule)) => is_below(host, name) && meets(*port, *rule),
            (Self::Name(name, port), Pattern::Wildcard(suffix, rule)) => {
                let one_of_them = name.strip_suffix(&**suffix).and_then(|rest| rest.strip_suffix('.'));
                (is_or_ends_with(suffix, name) || one_of_them.is_some_and(|label| !label.contains('.')))
                    && meets(*port, *rule)
            }
        }
    }
}

/// The first entry of a `NO_PROXY` that keeps requests to this pattern, or to part of it, away from the proxy.
pub(super) fn swallower<'a>(value: &'a str, pattern: &Pattern) -> Option<&'a str> {
    entries(value).find(|text| Entry::parse(text).is_some_and(|entry| entry.swallows(pattern)))
}

/// Both spellings of the user's variable, and loopback: each entry once. An entry of our own that would keep a bound
/// origin away from egret is left out.
pub(super) fn merged(users: &[String], bound: &[Pattern]) -> String {
    const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
    let ours = LOOPBACK.into_iter().filter(|ours| !bound.iter().any(|pattern| keeps_away(ours, pattern)));
    let mut all: Vec<&str> = Vec::new();
    for entry in users.iter().flat_map(|value| entries(value)).chain(ours) {
        if !all.contains(&entry) {
            all.push(entry);
        }
    }
    all.join(",")
}

fn keeps_away(entry: &str, pattern: &Pattern) -> bool {
    swallower(entry, pattern).is_some()
}

/// The entries as `http.nonProxyHosts` of Java has them: `*` at an end, no networks, no ports; with Java's own default.
pub(super) fn for_java(merged: &str) -> String {
    let mut hosts = Vec::new();
    for entry in entries(merged).filter_map(Entry::parse) {
        match entry {
            Entry::Everything => hosts.push("*".to_owned()),
            Entry::Network(network, None) if network.prefix_len() == network.max_prefix_len() => {
                let address = network.addr();
                if address == IpAddr::from([127, 0, 0, 1]) {
                    hosts.push("127.*".to_owned());
                } else if address.is_ipv6() {
                    hosts.push(format!("[{address}]"));
                } else {
                    hosts.push(address.to_string());
                }
            }
            Entry::Name(name, None) if name == "localhost" => hosts.push(name),
            Entry::Name(name, None) => hosts.extend([format!("*.{name}"), name]),
            Entry::Network(..) | Entry::Name(..) => {}
        }
    }
    hosts.join("|")
}

/// `host:port`, `[v6]:port`; an address without brackets has no port.
fn split_port(text: &str) -> (&str, Option<u16>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (text, None),
        },
        _ => (text, None),
    }
}

fn meets(port: Option<u16>, rule: PortRule) -> bool {
    port.is_none_or(|port| rule.covers(port))
}

fn is_below(host: &Host, name: &str) -> bool {
    host.ip().is_none() && is_or_ends_with(host.as_str(), name)
}

/// Whether `host` is `name`, or below it.
fn is_or_ends_with(host: &str, name: &str) -> bool {
    host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swallows(value: &str, pattern: &str) -> bool {
        swallower(value, &Pattern::parse(pattern).unwrap()).is_some()
    }

    #[test]
    fn names_take_all_below_them() {
        for entry in ["example.com", ".example.com", "*.example.com", "EXAMPLE.com.", "x, example.com", "x example.com"]
        {
            assert!(swallows(entry, "https://api.example.com"), "{entry}");
            assert!(swallows(entry, "https://*.example.com"), "{entry}");
        }
        assert!(swallows(".example.com", "https://example.com"), "curl takes the name itself too");
        for entry in ["ample.com", "api.example.com.evil.test", "", ",", "example"] {
            assert!(!swallows(entry, "https://api.example.com"), "{entry}");
        }
        assert!(swallows("com", "https://*.example.com"));
        assert!(swallows("api.example.com", "https://*.example.com"), "one of those that the wildcard covers");
        assert!(!swallows("a.b.example.com", "https://*.example.com"), "a wildcard covers one label");
    }

    #[test]
    fn ports_narrow_an_entry() {
        assert!(swallows("api.test:8443", "https://api.test:8443"));
        assert!(swallows("api.test:8443", "https://api.test:*"));
        assert!(!swallows("api.test:8443", "https://api.test"));
        assert!(swallows("[::1]:8443", "https://[::1]:8443"));
        assert!(!swallows("[::1]:8443", "https://[::1]"));
    }

    #[test]
    fn networks_and_addresses_in_every_spelling() {
        for entry in ["10.0.0.0/8", "10.1.2.3", "10.1.2.3:443", "*"] {
            assert!(swallows(entry, "https://10.1.2.3"), "{entry}");
        }
        for entry in [
            "2001:db8::/32",
            "[2001:db8::]/32",
            "[2001:db8::/32]",
            "[2001:db8::1]",
            "2001:0db8::1",
            "[2001:db8::1]:443",
        ] {
            assert!(swallows(entry, "https://[2001:db8::1]"), "{entry}");
        }
        for entry in ["10.0.0.0/16", "11.1.2.3", "1.2.3", "10.1.2.3/99"] {
            assert!(!swallows(entry, "https://10.1.2.3"), "{entry}");
        }
        assert!(!swallows("127.0.0.0/8", "https://localhost"), "names are not resolved");
    }

    #[test]
    fn the_project_wide_slot_is_lost_to_a_star_only() {
        assert!(swallows("*", "*"));
        assert!(!swallows("example.com", "*"));
    }

    #[test]
    fn loopback_is_added_unless_something_is_bound_there() {
        let bound =
            |patterns: &[&str]| -> Vec<Pattern> { patterns.iter().map(|p| Pattern::parse(p).unwrap()).collect() };
        let users = ["a.test, b.test".to_owned(), "b.test,localhost".to_owned()];
        assert_eq!(merged(&users, &[]), "a.test,b.test,localhost,127.0.0.1,::1");
        assert_eq!(merged(&[], &bound(&["https://localhost:8443", "https://a.test"])), "127.0.0.1,::1");
        assert_eq!(merged(&[], &bound(&["https://api.localhost", "https://127.0.0.1"])), "::1");
        assert_eq!(
            merged(&users, &bound(&["https://localhost"])),
            "a.test,b.test,localhost,127.0.0.1,::1",
            "the user's own stays"
        );
    }

    #[test]
    fn java_gets_what_it_can_say() {
        assert_eq!(for_java("localhost,127.0.0.1,::1"), "localhost|127.*|[::1]");
        assert_eq!(for_java(".corp,10.0.0.0/8,10.1.1.1,a.test:80"), "*.corp|corp|10.1.1.1");
    }
}
