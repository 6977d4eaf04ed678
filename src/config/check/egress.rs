//! `[egress]` and `[dns]`: who may be reached, and on which way.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use zeroize::Zeroizing;

use super::Checker;
use super::tenants::is_world_readable;
use crate::config::file::{EgressTable, ParentTable, PasswordTable};
use crate::config::{Credentials, EgressSettings, ParentProtocol, ParentSettings, SourceAddresses};
use crate::domain::{Host, HostPattern, Origin, OriginError, Pattern, parse_network};

/// Each request looks through them in order.
const MAX_PARENTS: usize = 64;
/// Entries of one `origins` or `no_proxy`.
const MAX_ENTRIES: usize = 4096;
/// More than three servers are no use to anybody (RFC 1123 section 6.1.3.3 asks for at least two).
const MAX_SERVERS: usize = 8;
const DNS_PORT: u16 = 53;
/// Bytes; user and password of SOCKS have at most 255 each (RFC 1929 section 2).
const MAX_SECRET: usize = 4096;
const MAX_SOCKS: usize = 255;

const URL_REMEDY: &str = "write it as http://proxy.example:3128, https://…, socks5://… (egret resolves names) or socks5h://… (the parent does), with user@ before the host if it wants a credential";
const ORIGIN_REMEDY: &str = "write *, an origin pattern as in [egress] allow, .example.com or *.example.com for all names below, an address or a network as 10.0.0.0/8";
const NO_PROXY_REMEDY: &str = "write *, example.com or .example.com for the name and all below it, *.example.com for all below it, an address or a network as 10.0.0.0/8; each with :port if it is meant for one port only";
const PASSWORD_REMEDY: &str = "write either { env = \"…\" } or { file = \"…\" }";

impl Checker<'_> {
    pub(super) fn egress(&mut self, table: &EgressTable) -> EgressSettings {
        let mut allow_addresses = Vec::new();
        for (i, text) in table.allow_addresses.as_deref().unwrap_or_default().iter().enumerate() {
            match parse_network(text) {
                Some(network) => allow_addresses.push(network),
                None => self.complain(
                    &format!("egress.allow_addresses[{i}]"),
                    "this is not a network",
                    "write 10.20.0.0/16, 10.20.0.7:443, fd00::/8 or [fd00::/8]:443",
                ),
            }
        }
        EgressSettings {
            allow: match &table.allow {
                Some(texts) => self.patterns("egress.allow", texts),
                None => vec![Pattern::Default],
            },
            deny: self.patterns("egress.deny", table.deny.as_deref().unwrap_or_default()),
            allow_addresses,
            parents: self.parents(&table.parent),
            sources: self.sources(&table.source_addresses),
        }
    }

    fn parents(&mut self, tables: &[ParentTable]) -> Vec<ParentSettings> {
        if tables.len() > MAX_PARENTS {
            self.complain("egress.parent", "these are too many", format!("keep at most {MAX_PARENTS}"));
        }
        let mut parents = Vec::with_capacity(tables.len());
        for (i, table) in tables.iter().enumerate() {
            let at = format!("egress.parent[{i}]");
            let origins = table.origins.as_ref().map(|texts| {
                let key = format!("{at}.origins");
                if texts.is_empty() {
                    self.complain(&key, "nothing would go through this parent", "leave the key out for everything");
                }
                self.hosts(&key, texts.iter().map(String::as_str), ORIGIN_REMEDY, HostPattern::parse_origin)
            });
            let split = table.no_proxy.iter().flat_map(|text| text.split([',', ' ', '\t', '\n', '\r']));
            let entries = split.filter(|entry| !entry.is_empty());
            let key = format!("{at}.no_proxy");
            let no_proxy = self.hosts(&key, entries, NO_PROXY_REMEDY, HostPattern::parse_no_proxy);
            let key = format!("{at}.password");
            let password = table.password.as_ref().and_then(|table| self.secret(&key, "password", table));
            let Some((protocol, user, host, port)) = self.parent_url(&at, table.url.as_ref()) else { continue };
            if table.password.is_some() && user.is_none() {
                let what = "there is a password, and no user in the url";
                self.complain(&format!("{at}.password"), what, "write the user before the host, as in http://user@…");
            }
            let credentials =
                user.map(|user| Credentials::new(user, password.unwrap_or_else(|| Zeroizing::new(String::new()))));
            if let Some(credentials) = &credentials {
                self.check_credentials(&at, protocol, credentials, table.password.is_some());
            }
            let ca = table.ca.as_ref().map(|path| self.source.resolve(path));
            if let Some(path) = &ca {
                let key = format!("{at}.ca");
                if protocol != ParentProtocol::Https {
                    self.complain(&key, "this parent is not spoken to over TLS", "remove it, or write https:// in url");
                } else if let Err(cause) = std::fs::File::open(path) {
                    let what = format!("the file cannot be read: {cause}");
                    self.complain(&key, what, "name a PEM file with CA certificates");
                }
            }
            parents.push(ParentSettings { protocol, host, port, credentials, origins, no_proxy, ca });
        }
        parents
    }

    fn hosts<'t>(
        &mut self,
        key: &str,
        entries: impl Iterator<Item = &'t str>,
        remedy: &str,
        parse: impl Fn(&str) -> Result<HostPattern, OriginError>,
    ) -> Vec<HostPattern> {
        let mut patterns = Vec::new();
        for (i, entry) in entries.enumerate() {
            if i == MAX_ENTRIES {
                self.complain(key, "these are too many", format!("keep at most {MAX_ENTRIES}"));
                break;
            }
            match parse(entry) {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => {
                    let text = error.to_string();
                    // The second half of the message is about origins.
                    let what = text.split(';').next().unwrap_or_default();
                    self.complain(&format!("{key}[{i}]"), what, remedy);
                }
            }
        }
        patterns
    }

    /// Protocol, user, host and port. A password in the URL is refused: files and process lists show it.
    fn parent_url(
        &mut self,
        at: &str,
        url: Option<&String>,
    ) -> Option<(ParentProtocol, Option<Zeroizing<String>>, Host, u16)> {
        let key = format!("{at}.url");
        let Some(url) = url else {
            self.complain(&key, "is missing", URL_REMEDY);
            return None;
        };
        let Some((scheme, rest)) = url.trim().split_once("://") else {
            self.complain(&key, "this is not the URL of a proxy", URL_REMEDY);
            return None;
        };
        let protocol = match scheme.to_ascii_lowercase().as_str() {
            "http" => ParentProtocol::Http,
            "https" => ParentProtocol::Https,
            "socks5" => ParentProtocol::Socks5,
            "socks5h" => ParentProtocol::Socks5h,
            _ => {
                self.complain(&key, "this scheme is not that of a proxy that egret can use", URL_REMEDY);
                return None;
            }
        };
        let (user, authority) = match rest.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, rest),
        };
        let user = match user {
            None => None,
            Some(user) if user.contains(':') => {
                self.complain(
                    &key,
                    "a password stands in the URL, where everybody who sees the file reads it",
                    "keep user@ there, and write password = { env = \"…\" } or { file = \"…\" }",
                );
                return None;
            }
            Some(user) => match percent_decoded(user).filter(|user| !user.is_empty() && !user.contains(':')) {
                Some(user) => Some(user),
                None => {
                    let remedy = "write it in percent-encoding (RFC 3986 section 2.1), as in http://CORP%5Cme@…";
                    self.complain(&key, "what stands before the @ is not a user", remedy);
                    return None;
                }
            },
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains(['/', '?', '#']) {
            self.complain(&key, "the URL of a proxy has no path", URL_REMEDY);
            return None;
        }
        // Port 0 is never right, so it can stand for none: curl and Go disagree on the default.
        match Origin::from_authority(authority, 0) {
            Ok(origin) if origin.port() == 0 => {
                self.complain(&key, "the port is missing", URL_REMEDY);
                None
            }
            Ok(origin) => Some((protocol, user, origin.host().clone(), origin.port())),
            Err(error) => {
                let text = error.to_string();
                self.complain(&key, text.split(';').next().unwrap_or_default(), URL_REMEDY);
                None
            }
        }
    }

    /// A secret of one line; `word` is what it is called.
    pub(super) fn secret(&mut self, key: &str, word: &str, table: &PasswordTable) -> Option<Zeroizing<String>> {
        let text = match (&table.env, &table.file) {
            (Some(name), None) => {
                let value = (self.environment)(name).map(Zeroizing::new);
                if value.is_none() {
                    let what = "the environment variable that it names is not set";
                    self.complain(&format!("{key}.env"), what, format!("set it to the {word}"));
                }
                value?
            }
            (None, Some(path)) => {
                let path = self.source.resolve(path);
                match read_secret(&path) {
                    Ok((text, metadata)) => {
                        if is_world_readable(&metadata) {
                            self.warnings.push(self.source.complaint(
                                &format!("{key}.file"),
                                format!("every user of this machine may read the {word}"),
                                format!("run: chmod o-r {}", path.display()),
                            ));
                        }
                        text
                    }
                    Err(cause) => {
                        let what = format!("the file cannot be read: {cause}");
                        let remedy = format!("name a file that holds the {word} and nothing else");
                        self.complain(&format!("{key}.file"), what, remedy);
                        return None;
                    }
                }
            }
            _ if ["env", "file"].iter().any(|k| self.source.complained_of(&format!("{key}.{k}"))) => return None,
            _ => {
                self.complain(key, "it has one source", PASSWORD_REMEDY);
                return None;
            }
        };
        // An editor's line end is not part of it; anything else may be.
        let password = text.trim_end_matches(['\r', '\n']);
        if password.is_empty() || password.contains(char::is_control) {
            let what = format!("the {word} is empty or has control characters");
            self.complain(key, what, format!("give the {word} alone, on one line"));
            return None;
        }
        Some(Zeroizing::new(password.to_owned()))
    }

    fn check_credentials(&mut self, at: &str, protocol: ParentProtocol, credentials: &Credentials, password: bool) {
        if protocol.is_http() {
            return;
        }
        if !password {
            let what = "SOCKS5 knows no user without a password";
            self.complain(&format!("{at}.password"), what, PASSWORD_REMEDY);
        }
        if credentials.user().len() > MAX_SOCKS || credentials.password().len() > MAX_SOCKS {
            self.complain(at, "user and password of SOCKS5 have at most 255 bytes each", "shorten it at the parent");
        }
    }

    fn sources(&mut self, texts: &[String]) -> SourceAddresses {
        let mut sources = SourceAddresses::default();
        for (i, text) in texts.iter().enumerate() {
            let key = format!("egress.source_addresses[{i}]");
            let twice = match text.trim_matches(['[', ']']).parse::<IpAddr>() {
                Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
                    self.complain(&key, "nothing can come from this address", "write an address of this machine");
                    continue;
                }
                Ok(IpAddr::V4(ip)) => sources.v4.replace(ip).is_some(),
                Ok(IpAddr::V6(ip)) => sources.v6.replace(ip).is_some(),
                Err(_) => {
                    self.complain(&key, "this is not an IP address", "write 10.0.0.5 or 2001:db8::5");
                    continue;
                }
            };
            if twice {
                self.complain(&key, "this family has a source address already", "keep one per family");
            }
        }
        sources
    }

    pub(super) fn dns_servers(&mut self, texts: &[String]) -> Vec<SocketAddr> {
        let mut servers = Vec::with_capacity(texts.len());
        if texts.len() > MAX_SERVERS {
            self.complain("dns.servers", "these are too many", format!("keep at most {MAX_SERVERS}"));
        }
        for (i, text) in texts.iter().enumerate() {
            let key = format!("dns.servers[{i}]");
            let alone = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text).parse::<IpAddr>();
            match alone.map(|ip| SocketAddr::new(ip, DNS_PORT)).or_else(|_| text.parse()) {
                Ok(server) if server.port() != 0 && !server.ip().is_unspecified() => {
                    if servers.contains(&server) {
                        self.complain(&key, "this server is named twice", "keep it once");
                    }
                    servers.push(server);
                }
                _ => self.complain(
                    &key,
                    "this is not the address of a name server",
                    "write 10.0.0.53, 10.0.0.53:5353, fd00::53 or [fd00::53]:5353; without a port it is 53",
                ),
            }
        }
        servers
    }

    pub(super) fn dns(&mut self, hosts: &BTreeMap<String, Vec<String>>) -> HashMap<Host, Vec<IpAddr>> {
        let mut answers = HashMap::new();
        for (name, addresses) in hosts {
            let key = format!("dns.hosts.{name}");
            let host = match Host::parse(name) {
                Ok(host) if host.ip().is_none() => host,
                Ok(_) => {
                    self.complain(&key, "an address is not looked up", "name a host");
                    continue;
                }
                Err(error) => {
                    self.complain_of_origin(&key, error);
                    continue;
                }
            };
            let mut parsed = Vec::with_capacity(addresses.len());
            for (i, address) in addresses.iter().enumerate() {
                match address.parse() {
                    Ok(address) => parsed.push(address),
                    Err(_) => {
                        self.complain(
                            &format!("{key}[{i}]"),
                            "this is not an IP address",
                            "write 10.20.0.7 or fd00::7",
                        );
                    }
                }
            }
            if addresses.is_empty() {
                self.complain(&key, "there is no address", "name at least one, or remove the host");
            }
            if answers.insert(host, parsed).is_some() {
                self.complain(&key, "this host is written twice", "put all its addresses into one array");
            }
        }
        answers
    }
}

/// The file's text, with its metadata. Bounded: a wrong path may lead to anything.
fn read_secret(path: &Path) -> std::io::Result<(Zeroizing<String>, std::fs::Metadata)> {
    let file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    // Of its final size from the start, so that no copy of it is left behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_SECRET + 1));
    file.take(MAX_SECRET as u64 + 1).read_to_string(&mut text)?;
    if text.len() > MAX_SECRET {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is longer than any password"));
    }
    Ok((text, metadata))
}

/// RFC 3986 section 2.1; `None` for what is not UTF-8 afterwards, or has control characters.
fn percent_decoded(text: &str) -> Option<Zeroizing<String>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16).and_then(|d| u8::try_from(d).ok());
                digit()? << 4 | digit()?
            }
            other => other,
        });
    }
    let text = Zeroizing::new(String::from_utf8(bytes).ok()?);
    (!text.contains(char::is_control)).then_some(text)
}
