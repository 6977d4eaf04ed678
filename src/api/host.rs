//! Who a request thinks it talks to: the defence against DNS rebinding.
//!
//! A web page can make a browser send requests to any address that its own name resolves to. What it
//! cannot do is change the `Host` that goes with them, or leave out `Origin`. So a name that is not this
//! machine's is refused, and so is a page of another origin. The port in `Host` does not matter: an attacker
//! cannot choose the *name*, while port forwarding (ssh, containers, clusters) changes the port honestly.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Uri, Version};

use super::problem::Problem;
use crate::domain::Peer;
use crate::pki::server::ServerTls;

/// The two ends of the connection a request came on.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    /// The client.
    pub(super) peer: Peer,
    /// Its address and the one that it reached; `None` on a Unix socket.
    pub(super) socket: Option<(SocketAddr, SocketAddr)>,
    /// What it was met with in TLS.
    pub(super) tls: Option<Arc<ServerTls>>,
}

/// Of a request that came on no connection (tests): somebody on this machine.
impl Default for Ends {
    fn default() -> Self {
        Self { peer: Peer::Unix(None), socket: None, tls: None }
    }
}

impl Ends {
    /// The address that was reached; on a Unix socket, loopback.
    fn local(&self) -> IpAddr {
        self.socket.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |(_, local)| local.ip())
    }
}

/// The client's address and port, or its user on a Unix socket.
impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.socket {
            Some((peer, _)) => peer.fmt(f),
            None => self.peer.fmt(f),
        }
    }
}

/// Checks `Host`, an absolute request target and `Origin`.
///
/// # Errors
/// 400 for none or more than one `Host`, 403 for a foreign one.
pub(super) fn check(version: Version, uri: &Uri, headers: &HeaderMap, ends: &Ends) -> Result<(), Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host.to_str().ok().and_then(|h| h.parse::<Authority>().ok()).ok_or_else(malformed)?),
        // RFC 9112 section 3.2: only HTTP/1.0 may do without.
        (None, _) if version < Version::HTTP_11 => None,
        _ => return Err(malformed()),
    };
    for authority in host.iter().chain(uri.authority()) {
        if authority.as_str().contains('@') {
            return Err(malformed());
        }
        // A browser that came in TLS under a foreign name saw a certificate that is not for it.
        let certified = ends.tls.as_ref().is_some_and(|tls| tls.is_for(authority.host()));
        if !certified && !is_ours(authority.host(), ends.local()) {
            return Err(Problem::forbidden(
                "the Host header names another host; use the address that egret listens on, localhost, or (in TLS) a \
                 name of its certificate",
            ));
        }
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => Ok(()),
        (Some(origin), None) if same_origin(origin.as_bytes(), host.as_ref(), ends.tls.is_some()) => Ok(()),
        _ => Err(Problem::forbidden("requests from pages of another origin are refused")),
    }
}

fn malformed() -> Problem {
    Problem::bad_request("send exactly one valid Host header")
}

fn is_ours(host: &str, local: IpAddr) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        let address = address.to_canonical();
        // Rebinding needs a name. On a listener that others can reach, an address is fine whichever it is:
        // behind a port mapping the client's idea of it differs from ours.
        return address.is_loopback() || address == local.to_canonical() || !local.to_canonical().is_loopback();
    }
    let name = bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase();
    // RFC 6761 section 6.3: everything under localhost is loopback.
    name == "localhost" || name.ends_with(".localhost")
}

/// `Origin: http://<Host>`, or `https`; `null` is nobody's.
fn same_origin(origin: &[u8], host: Option<&Authority>, tls: bool) -> bool {
    let Some(host) = host else { return false };
    let ours = if tls { "https://" } else { "http://" };
    origin.split_at_checked(ours.len()).is_some_and(|(scheme, rest)| {
        scheme.eq_ignore_ascii_case(ours.as_bytes()) && rest.eq_ignore_ascii_case(host.as_str().as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(local: &str) -> Ends {
        let local = SocketAddr::new(local.parse().unwrap(), 9090);
        Ends { peer: local.ip().into(), socket: Some((local, local)), tls: None }
    }

    fn asked(target: &str, headers: &[(&str, &str)], local: &str) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let checked = check(Version::HTTP_11, &target.parse().unwrap(), &map, &ends(local));
        checked.map_or_else(|p| p.status().as_u16(), |()| 200)
    }

    #[test]
    fn knows_its_own_names() {
        for host in [
            "127.0.0.1:9090",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]:9090",
            "localhost:9090",
            "LOCALHOST",
            "localhost.:9090",
            "egret.localhost:9090",
        ] {
            assert_eq!(asked("/", &[("host", host)], "127.0.0.1"), 200, "{host}");
        }
        assert_eq!(asked("/", &[("host", "10.0.0.7:9090")], "10.0.0.7"), 200);
        assert_eq!(asked("/", &[("host", "10.0.0.7:9090")], "::ffff:10.0.0.7"), 200);
        assert_eq!(asked("/", &[("host", "192.0.2.1:80")], "172.17.0.2"), 200, "an address behind a port mapping");
    }

    #[test]
    fn refuses_the_names_of_others() {
        for host in
            ["evil.example", "evil.example:9090", "localhost.evil.example", "notlocalhost", "10.0.0.7:9090", "0x7f.1"]
        {
            assert_eq!(asked("/", &[("host", host)], "127.0.0.1"), 403, "{host}");
        }
        assert_eq!(asked("/", &[("host", "evil.example")], "172.17.0.2"), 403, "a name, on any listener");
        assert_eq!(asked("http://evil.example/", &[("host", "localhost")], "127.0.0.1"), 403, "absolute form");
    }

    #[test]
    fn a_unix_socket_is_this_machine() {
        let ends = Ends { peer: Peer::Unix(Some(7)), socket: None, tls: None };
        let with = |host: &str| {
            let map = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            check(Version::HTTP_11, &Uri::from_static("/"), &map, &ends).is_ok()
        };
        assert!(with("localhost") && with("127.0.0.1"));
        assert!(!with("evil.example"));
        assert_eq!(ends.to_string(), "unix:uid=7");
    }

    #[test]
    fn wants_exactly_one_host() {
        assert_eq!(asked("/", &[], "127.0.0.1"), 400);
        assert_eq!(asked("/", &[("host", "localhost"), ("host", "localhost")], "127.0.0.1"), 400);
        assert_eq!(asked("/", &[("host", "a b")], "127.0.0.1"), 400);
        assert_eq!(asked("/", &[("host", "localhost@evil.example")], "127.0.0.1"), 400);
        let old = check(Version::HTTP_10, &Uri::from_static("/"), &HeaderMap::new(), &ends("127.0.0.1"));
        assert!(old.is_ok());
    }

    #[test]
    fn refuses_pages_of_another_origin() {
        let with = |origin| asked("/", &[("host", "localhost:9090"), ("origin", origin)], "127.0.0.1");
        assert_eq!(with("http://localhost:9090"), 200);
        for origin in ["http://localhost:3000", "https://localhost:9090", "http://evil.example", "null", "", "http://"]
        {
            assert_eq!(with(origin), 403, "{origin}");
        }
    }
}
