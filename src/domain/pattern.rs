//! Patterns: what a binding applies to. An origin, a wildcard, or the project's default slot.

use std::fmt;
use std::sync::Arc;

use super::origin::{HTTPS_PORT, parse_port, split_authority, strip_to_authority};
use super::{Host, HostKind, Origin, OriginError};

/// The port part of a [`Pattern`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortRule {
    /// This port only. Written ports and the default port alike.
    Exact(u16),
    /// `:*`, every port.
    Any,
}

impl PortRule {
    /// Whether `port` is covered.
    #[must_use]
    pub fn covers(self, port: u16) -> bool {
        match self {
            Self::Exact(p) => p == port,
            Self::Any => true,
        }
    }
}

/// What a binding applies to, in canonical form: two patterns tie only if they are equal,
/// and an equal pattern is a replacement.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// The project-wide slot, written `*`.
    Default,
    /// One host: `https://host[:port]` or `https://host:*`.
    Host(Host, PortRule),
    /// Exactly one label in place of the star: `https://*.example.com[:port]` or `:*`.
    /// Holds the suffix (`example.com`).
    Wildcard(Arc<str>, PortRule),
}

/// Which kind of pattern chose an identity; the words of the logs and of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// An exact host.
    Exact,
    /// A wildcard.
    Wildcard,
    /// The project default.
    Default,
    /// A *none* binding: present nothing here.
    None,
    /// No binding applies: ordinary TLS.
    Nothing,
}

impl Rule {
    /// The word used in logs and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Wildcard => "wildcard",
            Self::Default => "default",
            Self::None => "none",
            Self::Nothing => "nothing",
        }
    }
}

impl Pattern {
    /// Parses `*`, an origin, an origin with port `*`, or a wildcard.
    ///
    /// # Errors
    /// Those of [`Origin::parse`], and the wildcard rules of product.md section 2: one whole
    /// label, never directly above a public suffix, never for addresses.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        if text.trim_matches(' ') == "*" {
            return Ok(Self::Default);
        }
        let authority = strip_to_authority(text)?;
        if authority.starts_with("*.[") {
            return Err(OriginError::WildcardIp);
        }
        let (host, port) = split_authority(authority)?;
        let port = match port {
            None => PortRule::Exact(HTTPS_PORT),
            Some("*") => PortRule::Any,
            Some(digits) => PortRule::Exact(parse_port(digits)?),
        };
        let Some(rest) = host.strip_prefix('*') else {
            return Ok(Self::Host(Host::parse(host)?, port));
        };
        let suffix = rest.strip_prefix('.').ok_or(OriginError::Wildcard)?;
        let suffix = Host::parse(suffix)?;
        if suffix.kind() != HostKind::Name {
            return Err(OriginError::WildcardIp);
        }
        if suffix.as_str().len() + 2 > 253 {
            return Err(OriginError::LongName);
        }
        if is_public_suffix(suffix.as_str()) {
            return Err(OriginError::PublicSuffix);
        }
        Ok(Self::Wildcard(suffix.as_str().into(), port))
    }

    /// Whether the pattern covers `origin`. The default slot covers every origin.
    #[must_use]
    pub fn covers(&self, origin: &Origin) -> bool {
        match self {
            Self::Default => true,
            Self::Host(host, port) => host == origin.host() && port.covers(origin.port()),
            Self::Wildcard(suffix, port) => origin.host().parent() == Some(&**suffix) && port.covers(origin.port()),
        }
    }

    /// The rule that a selection through this pattern is said to follow.
    #[must_use]
    pub fn rule(&self) -> Rule {
        match self {
            Self::Default => Rule::Default,
            Self::Host(..) => Rule::Exact,
            Self::Wildcard(..) => Rule::Wildcard,
        }
    }
}

impl From<&Origin> for Pattern {
    fn from(origin: &Origin) -> Self {
        Self::Host(origin.host().clone(), PortRule::Exact(origin.port()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = match self {
            Self::Default => return f.write_str("*"),
            Self::Host(host, port) => {
                write!(f, "https://{host}")?;
                *port
            }
            Self::Wildcard(suffix, port) => {
                write!(f, "https://*.{suffix}")?;
                *port
            }
        };
        match port {
            PortRule::Exact(HTTPS_PORT) => Ok(()),
            PortRule::Exact(p) => write!(f, ":{p}"),
            PortRule::Any => f.write_str(":*"),
        }
    }
}

/// Whether the Public Suffix List *names* `suffix`, or every name directly below it.
/// Its implicit rule (`*`) does not count: `corp` and `internal` are nobody's registry.
fn is_public_suffix(suffix: &str) -> bool {
    let named =
        |name: &str| psl::suffix(name.as_bytes()).is_some_and(|s| s.is_known() && s.as_bytes() == name.as_bytes());
    // `*.ck` is a rule: below `ck` every name is a registry of its own.
    named(suffix) || named(&format!("egret-probe.{suffix}"))
}

#[cfg(test)]
mod tests;
