//! Which way leads to a destination: direct, or through one of `[egress] parent`.
//!
//! The way follows from the destination alone, without a lookup, so it is part of what a connection is:
//! pool and ticket stores hold it in their keys.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use zeroize::Zeroizing;

use super::Destination;
use super::connect::server_name;
use crate::config::{Credentials, ParentProtocol, ParentSettings};
use crate::domain::{Host, HostPattern, ServerTrust};
use crate::identity::{RouteId, TlsFactory};
use crate::pki::anchors::{SharedAnchors, Vouching};
use crate::pki::pem;

const LOOPBACK: &str = "loopback is never reached through a parent";
const NO_PARENT: &str = "no [egress] parent is for it";
const NO_PROXY: &str = "no_proxy names it";

/// Why a parent could not be made ready.
#[derive(Debug, thiserror::Error)]
#[error("egress.parent[{index}].{key}: {what}")]
pub struct ParentError {
    /// Which, in file order.
    pub index: usize,
    /// `url` or `ca`.
    pub key: &'static str,
    /// What is wrong.
    pub what: String,
}

/// Every parent, in the order in which they are tried.
#[derive(Debug, Default)]
pub struct Parents(Vec<Arc<Parent>>);

/// A parent proxy, ready to be used.
pub(super) struct Parent {
    pub(super) id: RouteId,
    /// In file order.
    index: usize,
    /// `http://proxy.corp:3128`; never with a user.
    pub(super) label: Arc<str>,
    pub(super) protocol: ParentProtocol,
    pub(super) host: Host,
    pub(super) port: u16,
    /// For SOCKS.
    pub(super) credentials: Option<Credentials>,
    /// For HTTP; sensitive, and wiped when the last copy goes.
    pub(super) authorization: Option<HeaderValue>,
    /// For `https://`.
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    origins: Option<Vec<HostPattern>>,
    no_proxy: Vec<HostPattern>,
}

impl Parents {
    /// Reads the files that they name, and makes their TLS ready: the system's roots, `[trust] anchors` and the
    /// parent's own `ca` vouch for an `https://` parent. Nothing of a client certificate is ever shown to one.
    ///
    /// # Errors
    /// A `ca` that cannot be read or holds no certificate.
    pub fn load(settings: &[ParentSettings], anchors: &SharedAnchors, tls: &TlsFactory) -> Result<Self, ParentError> {
        let each = settings.iter().enumerate();
        each.map(|(index, settings)| Parent::new(index, settings, anchors, tls).map(Arc::new))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The way to a destination, and why; nothing is dialled, and no name is looked up. `own` is what `[dns] hosts`
    /// answers for its host.
    #[must_use]
    pub fn route(&self, to: &Destination, own: &[IpAddr]) -> Route {
        let tls = matches!(to, Destination::Tls(_));
        match self.way(to.host(), to.port(), tls, own) {
            Way::Direct(why, rule) => Route { parent: None, rule, resolved_by_parent: false, why },
            Way::Through(parent) => {
                // What egret knows is handed on as an address, but for absolute form.
                let known = to.host().ip().is_some() || !own.is_empty() && (tls || !parent.takes_absolute_form());
                Route {
                    parent: Some(parent.label.clone()),
                    rule: Some(parent.index),
                    resolved_by_parent: !known && parent.protocol != ParentProtocol::Socks5,
                    why: match parent.origins {
                        Some(_) => "its origins name it",
                        None => "it is for everything",
                    },
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The way to `host` and `port`. `own` is what `[dns] hosts` answers for it; `tls` is false for plain http.
    pub(super) fn way(&self, host: &Host, port: u16, tls: bool, own: &[IpAddr]) -> Way<'_> {
        if self.is_empty() {
            return Way::Direct(NO_PARENT, None);
        }
        if host.is_localhost() || host.ip().is_some_and(|ip| ip.to_canonical().is_loopback()) {
            return Way::Direct(LOOPBACK, None);
        }
        let covered = |patterns: &[HostPattern]| patterns.iter().any(|p| p.covers(host, port, tls, own));
        for parent in &self.0 {
            if parent.origins.as_deref().is_none_or(covered) {
                return match covered(&parent.no_proxy) {
                    true => Way::Direct(NO_PROXY, Some(parent.index)),
                    false => Way::Through(parent),
                };
            }
        }
        Way::Direct(NO_PARENT, None)
    }
}

/// The way to a destination.
#[derive(Clone, Copy)]
pub(super) enum Way<'a> {
    /// Without a parent; why, and which parent's `no_proxy` said so.
    Direct(&'static str, Option<usize>),
    /// Through this one.
    Through(&'a Arc<Parent>),
}

impl Way<'_> {
    pub(super) fn parent(self) -> Option<Arc<Parent>> {
        match self {
            Self::Direct(..) => None,
            Self::Through(parent) => Some(parent.clone()),
        }
    }
}

/// The way to a destination, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// `http://proxy.corp:3128`, without a credential; `None` = direct.
    pub parent: Option<Arc<str>>,
    /// Which entry of `[egress] parent` decided, from 0.
    pub rule: Option<usize>,
    /// Whether the parent resolves the name, so that the address guard does not know what it leads to.
    pub resolved_by_parent: bool,
    /// Why this way.
    pub why: &'static str,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.parent {
            Some(parent) => write!(f, "through {parent}")?,
            None => f.write_str("direct")?,
        }
        match self.rule {
            Some(rule) => write!(f, " (egress.parent[{rule}]: {})", self.why),
            None => write!(f, " ({})", self.why),
        }
    }
}

impl Parent {
    fn new(
        index: usize,
        settings: &ParentSettings,
        anchors: &SharedAnchors,
        tls: &TlsFactory,
    ) -> Result<Self, ParentError> {
        let ParentSettings { protocol, host, port, credentials, origins, no_proxy, ca } = settings;
        let tls = match protocol {
            ParentProtocol::Https => {
                let name =
                    server_name(host).map_err(|failure| ParentError { index, key: "url", what: failure.detail })?;
                let ca = match ca {
                    Some(path) => certificates(path).map_err(|what| ParentError { index, key: "ca", what })?,
                    None => Vec::new(),
                };
                Some((tls_config(&ca, anchors, tls), name))
            }
            ParentProtocol::Http | ParentProtocol::Socks5 | ParentProtocol::Socks5h => None,
        };
        Ok(Self {
            id: RouteId::next(),
            index,
            label: format!("{}://{host}:{port}", protocol.as_str()).into(),
            protocol: *protocol,
            host: host.clone(),
            port: *port,
            authorization: credentials.as_ref().filter(|_| protocol.is_http()).map(basic),
            credentials: credentials.clone().filter(|_| !protocol.is_http()),
            tls,
            origins: origins.clone(),
            no_proxy: no_proxy.clone(),
        })
    }
}

impl fmt::Debug for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = std::fs::read_to_string(path).map_err(|cause| format!("{} cannot be read: {cause}", path.display()))?;
    let found = pem::certificates(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    if found.is_empty() {
        return Err(format!("{} holds no certificate", path.display()));
    }
    Ok(found)
}

fn tls_config(ca: &[CertificateDer<'static>], anchors: &SharedAnchors, tls: &TlsFactory) -> Arc<ClientConfig> {
    let trust = anchors.set(ServerTrust::SystemAndCa, Some(ca), ca, &Vouching::none());
    let mut config = ClientConfig::builder_with_provider(tls.provider().clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for TLS 1.2 and 1.3")
        .dangerous() // rustls's name for "a verifier of one's own"; ours only adds anchors and pins to webpki's
        .with_custom_certificate_verifier(trust.verifier())
        .with_no_client_auth();
    // What follows is HTTP/1.1 in any case; a parent that would rather speak HTTP/2 must not choose it.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// RFC 7617 section 2, in UTF-8.
fn basic(credentials: &Credentials) -> HeaderValue {
    const SCHEME: &str = "Basic ";
    let (user, password) = (credentials.user(), credentials.password());
    // Of their final size from the start, so that no copy is left behind by growing.
    let mut pair = Zeroizing::new(String::with_capacity(user.len() + 1 + password.len()));
    pair.extend([user, ":", password]);
    let mut value = Zeroizing::new(String::with_capacity(SCHEME.len() + pair.len().div_ceil(3) * 4));
    value.push_str(SCHEME);
    STANDARD.encode_string(pair.as_bytes(), &mut value);
    sensitive(value)
}

/// `scheme` (with its blank) and a secret that the configuration has checked, as the value of a field.
pub(super) fn secret_value(scheme: &str, secret: &str) -> HeaderValue {
    let mut value = Zeroizing::new(String::with_capacity(scheme.len() + secret.len()));
    value.extend([scheme, secret]);
    sensitive(value)
}

fn sensitive(mut value: Zeroizing<String>) -> HeaderValue {
    let bytes = Zeroizing::new(std::mem::take(&mut *value).into_bytes());
    let mut header = HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(bytes))).expect("it is visible ASCII");
    header.set_sensitive(true);
    header
}

/// [`Bytes::from_owner`] wants `AsRef<[u8]>`, which `Zeroizing<Vec<u8>>` has for several types.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
