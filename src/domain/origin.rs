//! Origins: scheme, host and port in one canonical form, made by one function.
//!
//! The canonical form is used for storing, matching, policy, pooling and TLS, so two
//! spellings of one origin can never be two things: `https://API.example.com.:443/` and
//! `api.example.com` are the same bytes.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The port of `https` when none is written (RFC 9110 section 4.2.2).
pub const HTTPS_PORT: u16 = 443;
/// The port of `http` when none is written (RFC 9110 section 4.2.1).
pub const HTTP_PORT: u16 = 80;

const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
/// Longest text looked at; anything longer cannot be an origin.
const MAX_INPUT: usize = 2048;

/// Why a text is not an origin. The text itself is never repeated in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OriginError {
    /// Nothing was given.
    #[error("the origin is empty; write it as https://host or https://host:port")]
    Empty,
    /// Longer than any origin can be.
    #[error("the origin is too long")]
    TooLong,
    /// `http:`: egret never presents a certificate over plain http.
    #[error("plain http has no TLS, so no certificate can be presented; write https://")]
    PlainHttp,
    /// Another scheme than https (or wss, which is read as https).
    #[error("only https origins can be used; write https://host or https://host:port")]
    Scheme,
    /// `user@` or `user:password@`.
    #[error("an origin has no user info; remove what stands before the @")]
    UserInfo,
    /// A path other than `/`.
    #[error("an origin has no path; keep only https://host or https://host:port")]
    Path,
    /// `?query`.
    #[error("an origin has no query; remove the ? and what follows")]
    Query,
    /// `#fragment`.
    #[error("an origin has no fragment; remove the # and what follows")]
    Fragment,
    /// `%eth0` in an IPv6 literal (RFC 6874), which means nothing to another host.
    #[error("an origin has no IPv6 zone id; remove the % and what follows")]
    ZoneId,
    /// The port is not a number from 1 to 65535.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// Brackets without a valid IPv6 address inside, or an IPv6 address without brackets.
    #[error("an IPv6 address is written in brackets, as in https://[2001:db8::1]")]
    Ipv6,
    /// Octal, hexadecimal or short IPv4 (`0x7f.1`, `2130706433`): refused, because peers read them differently.
    #[error("an IPv4 address is written as four decimal numbers without leading zeros, as in https://192.0.2.1")]
    Ipv4,
    /// A character that cannot stand in a host name, or one that IDNA (UTS 46) refuses.
    #[error("the host name has a character that is not allowed there")]
    Character,
    /// An empty label, as in `a..b`.
    #[error("the host name has an empty label (two dots in a row, or a dot in front)")]
    EmptyLabel,
    /// A label of more than 63 bytes (RFC 1035 section 2.3.4).
    #[error("a label of the host name is longer than 63 characters")]
    LongLabel,
    /// A name of more than 253 bytes.
    #[error("the host name is longer than 253 characters")]
    LongName,
    /// A `*` where no pattern is allowed, or not as the whole first label.
    #[error("a wildcard stands for the whole first label only, as in https://*.example.com")]
    Wildcard,
    /// A wildcard directly above a public suffix, such as `*.co.uk`.
    #[error("a wildcard directly above a public suffix would match other people's names; name the registered domain")]
    PublicSuffix,
    /// A wildcard in front of an IP address.
    #[error("a wildcard cannot match IP addresses")]
    WildcardIp,
}

/// What kind of name a [`Host`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKind {
    /// A DNS name: lower-case A-labels, no trailing dot.
    Name,
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address.
    V6(Ipv6Addr),
}

/// A host in canonical form. Equal hosts are equal bytes.
#[derive(Clone)]
pub struct Host {
    /// As in an authority: IPv6 in brackets.
    text: Arc<str>,
    kind: HostKind,
}

impl Host {
    /// Parses a host as it stands in an authority (IPv6 in brackets).
    ///
    /// # Errors
    /// Says what is wrong; never repeats the text.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        if text.len() > MAX_INPUT {
            return Err(OriginError::TooLong);
        }
        if text.is_empty() {
            return Err(OriginError::Empty);
        }
        if let Some(rest) = text.strip_prefix('[') {
            let inner = rest.strip_suffix(']').ok_or(OriginError::Ipv6)?;
            if inner.contains('%') {
                return Err(OriginError::ZoneId);
            }
            let address: Ipv6Addr = inner.parse().map_err(|_| OriginError::Ipv6)?;
            return Ok(Self::from(IpAddr::V6(address)));
        }
        if text.contains(':') {
            return Err(OriginError::Ipv6);
        }
        // The common case costs no allocation but the final one: already canonical ASCII.
        if is_plain_name(text) {
            return Self::from_ascii(text);
        }
        if text.bytes().any(|b| b == b'%' || b.is_ascii_control() || b == b' ') {
            return Err(OriginError::Character);
        }
        let ascii =
            idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::URL).map_err(|_| OriginError::Character)?;
        match Self::from_ascii(&ascii)? {
            // Digits of another script or width, or dots of another kind: no other program reads that as this address.
            Self { kind: HostKind::V4(_), .. } => Err(OriginError::Ipv4),
            host => Ok(host),
        }
    }

    /// `ascii` is lower-case and mapped; what is left is the form of the labels.
    fn from_ascii(ascii: &str) -> Result<Self, OriginError> {
        let name = ascii.strip_suffix('.').unwrap_or(ascii);
        if name.is_empty() {
            return Err(OriginError::EmptyLabel);
        }
        if name.len() > MAX_NAME {
            return Err(OriginError::LongName);
        }
        let mut last = "";
        for label in name.split('.') {
            if label.is_empty() {
                return Err(OriginError::EmptyLabel);
            }
            if label.len() > MAX_LABEL {
                return Err(OriginError::LongLabel);
            }
            if !label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_') {
                return Err(if label.contains('*') { OriginError::Wildcard } else { OriginError::Character });
            }
            last = label;
        }
        // "Ends in a number" (WHATWG URL, host parsing): such a host is an IPv4 address or nothing.
        let numeric = last.bytes().all(|b| b.is_ascii_digit());
        let hex = last.strip_prefix("0x").is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
        if numeric || hex {
            // A trailing dot after an address is no name's root dot.
            if ascii.ends_with('.') {
                return Err(OriginError::Ipv4);
            }
            let address: Ipv4Addr = name.parse().map_err(|_| OriginError::Ipv4)?;
            return Ok(Self::from(IpAddr::V4(address)));
        }
        Ok(Self { text: name.into(), kind: HostKind::Name })
    }

    /// The canonical text, IPv6 in brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Name or address.
    #[must_use]
    pub fn kind(&self) -> HostKind {
        self.kind
    }

    /// The address, if the host is a literal.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self.kind {
            HostKind::Name => None,
            HostKind::V4(a) => Some(IpAddr::V4(a)),
            HostKind::V6(a) => Some(IpAddr::V6(a)),
        }
    }

    /// The name without its first label, if it is a DNS name of at least two labels.
    #[must_use]
    pub fn parent(&self) -> Option<&str> {
        match self.kind {
            HostKind::Name => self.text.split_once('.').map(|(_, rest)| rest),
            _ => None,
        }
    }

    /// Whether this is `localhost` or a name below it, which RFC 6761 section 6.3 makes loopback.
    #[must_use]
    pub fn is_localhost(&self) -> bool {
        &*self.text == "localhost" || (self.kind == HostKind::Name && self.text.ends_with(".localhost"))
    }
}

fn is_plain_name(text: &str) -> bool {
    // "xn--" goes the long way: IDNA checks that A-labels are valid.
    text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
        && !text.contains("xn--")
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => Self { text: a.to_string().into(), kind: HostKind::V4(a) },
            IpAddr::V6(a) => Self { text: format!("[{a}]").into(), kind: HostKind::V6(a) },
        }
    }
}

impl PartialEq for Host {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl Eq for Host {}
impl Hash for Host {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}
impl PartialOrd for Host {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Host {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}
impl Borrow<str> for Host {
    fn borrow(&self) -> &str {
        &self.text
    }
}
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An `https` origin (RFC 6454, RFC 9110 section 4.3.1), normalised once at the edge.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    host: Host,
    port: u16,
}

impl Origin {
    /// An origin of a host that is canonical already.
    #[must_use]
    pub fn new(host: Host, port: u16) -> Self {
        Self { host, port }
    }

    /// Parses what a person or a client writes: `https://host[:port][/]`, `wss://…`, or a bare `host[:port]`.
    ///
    /// # Errors
    /// Says what is wrong; never repeats the text.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let authority = strip_to_authority(text)?;
        Self::from_authority(authority, HTTPS_PORT)
    }

    /// Parses `host[:port]` (RFC 9110 section 7.2), nothing else.
    ///
    /// # Errors
    /// Says what is wrong; never repeats the text.
    pub fn from_authority(text: &str, default_port: u16) -> Result<Self, OriginError> {
        let (host, port) = split_authority(text)?;
        let port = match port {
            Some(digits) => parse_port(digits)?,
            None => default_port,
        };
        Ok(Self { host: Host::parse(host)?, port })
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host[:port]` as it stands in a Host header: the default port is left out.
    #[must_use]
    pub fn authority(&self) -> String {
        authority_text(&self.host, self.port, HTTPS_PORT)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.host)?;
        if self.port != HTTPS_PORT {
            write!(f, ":{}", self.port)?;
        }
        Ok(())
    }
}
impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A plain-http server. Another type than [`Origin`] on purpose: it can never be in a
/// binding, so it can never select a certificate.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HttpTarget {
    host: Host,
    port: u16,
}

impl HttpTarget {
    /// Parses `host[:port]`; port 80 if none is written.
    ///
    /// # Errors
    /// Says what is wrong; never repeats the text.
    pub fn from_authority(text: &str) -> Result<Self, OriginError> {
        let Origin { host, port } = Origin::from_authority(text, HTTP_PORT)?;
        Ok(Self { host, port })
    }

    /// The https origin that a lifted request goes to: port 80 becomes 443, others stay.
    #[must_use]
    pub fn lifted(&self) -> Origin {
        let port = if self.port == HTTP_PORT { HTTPS_PORT } else { self.port };
        Origin { host: self.host.clone(), port }
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host[:port]` as it stands in a Host header: port 80 is left out.
    #[must_use]
    pub fn authority(&self) -> String {
        authority_text(&self.host, self.port, HTTP_PORT)
    }
}

impl fmt::Display for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}
impl fmt::Debug for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn authority_text(host: &Host, port: u16, default_port: u16) -> String {
    if port == default_port { host.as_str().to_owned() } else { format!("{host}:{port}") }
}

/// Takes scheme and a lone trailing `/` off; what is left is `host[:port]`.
pub(super) fn strip_to_authority(text: &str) -> Result<&str, OriginError> {
    if text.len() > MAX_INPUT {
        return Err(OriginError::TooLong);
    }
    let text = text.trim_matches(' ');
    if text.is_empty() {
        return Err(OriginError::Empty);
    }
    let rest = match text.split_once("://") {
        Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
            "https" | "wss" => rest,
            "http" | "ws" => return Err(OriginError::PlainHttp),
            _ => return Err(OriginError::Scheme),
        },
        None => text,
    };
    if rest.contains('#') {
        return Err(OriginError::Fragment);
    }
    if rest.contains('?') {
        return Err(OriginError::Query);
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '\\']) {
        return Err(OriginError::Path);
    }
    if rest.contains('@') {
        return Err(OriginError::UserInfo);
    }
    if rest.is_empty() { Err(OriginError::Empty) } else { Ok(rest) }
}

/// Splits `host[:port]` at the right colon; brackets guard those of IPv6.
pub(super) fn split_authority(text: &str) -> Result<(&str, Option<&str>), OriginError> {
    if text.len() > MAX_INPUT {
        return Err(OriginError::TooLong);
    }
    if text.contains('@') {
        return Err(OriginError::UserInfo);
    }
    if text.starts_with('[') {
        let end = text.find(']').ok_or(OriginError::Ipv6)?;
        let (host, rest) = text.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(OriginError::Ipv6),
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Err(OriginError::Ipv6),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

pub(super) fn parse_port(digits: &str) -> Result<u16, OriginError> {
    if digits.is_empty() || digits.len() > 5 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(OriginError::Port);
    }
    match digits.parse::<u16>() {
        Ok(0) | Err(_) => Err(OriginError::Port),
        Ok(port) => Ok(port),
    }
}

#[cfg(test)]
mod tests;
