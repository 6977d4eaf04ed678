//! Parent proxies as they are meant: `[[egress.parent]]`, checked.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::domain::{Host, HostPattern};

/// One entry of `[egress] parent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentSettings {
    /// How it is spoken to.
    pub protocol: ParentProtocol,
    /// Its host.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// What it is shown; by Basic (RFC 7617), or by SOCKS user and password (RFC 1929).
    pub credentials: Option<Credentials>,
    /// What goes through it; `None` = everything.
    pub origins: Option<Vec<HostPattern>>,
    /// What of that goes direct.
    pub no_proxy: Vec<HostPattern>,
    /// PEM file with more trust anchors for its own certificate ([`ParentProtocol::Https`] only).
    pub ca: Option<PathBuf>,
}

/// How a parent proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParentProtocol {
    /// HTTP proxy, in the clear.
    Http,
    /// HTTP proxy, over TLS.
    Https,
    /// SOCKS5 (RFC 1928); egret resolves names.
    Socks5,
    /// SOCKS5; the parent resolves names.
    Socks5h,
}

impl ParentProtocol {
    /// The scheme of its URL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Socks5 => "socks5",
            Self::Socks5h => "socks5h",
        }
    }

    /// Whether it speaks HTTP.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

/// User and password for a parent proxy. Neither is ever shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: Zeroizing<String>,
    password: Zeroizing<String>,
}

impl Credentials {
    /// Both as they are sent, in UTF-8.
    #[must_use]
    pub fn new(user: Zeroizing<String>, password: Zeroizing<String>) -> Self {
        Self { user, password }
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password, empty if there is none.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}
