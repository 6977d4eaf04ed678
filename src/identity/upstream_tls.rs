//! Everything that a handshake towards an origin depends on.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rustls::client::{ClientConfig, ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{NamedGroup, SignatureScheme};

use super::asked::{Presented, record};
use super::{Asked, ClientIdentity, Life};
use crate::config::PostQuantum;
use crate::domain::{Host, Origin};
use crate::pki::anchors::TrustAnchors;

/// A number handed out once per process and never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Serial(u64);

impl Serial {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

/// One way that leads to origins (a parent proxy), numbered once per process: what was agreed on over one is never
/// used over another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteId(u64);

impl RouteId {
    /// A number that was never given out before.
    #[must_use]
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// When a certificate is shown to an origin that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Exact and wildcard bindings.
    Always,
    /// Scope `any`, and `listed` where it lists the origin: unless the origin lists CAs and none of our chain is among them.
    UnlessOthersAreNamed,
    /// Scope `hinted`: only if the origin names one of our issuers.
    OnlyIfNamed,
}

impl Show {
    /// Whether `identity` is shown to an origin that listed these CA names (DER).
    pub fn allows<'a>(self, identity: &ClientIdentity, hints: impl ExactSizeIterator<Item = &'a [u8]>) -> bool {
        match self {
            Self::Always => true,
            Self::UnlessOthersAreNamed => hints.len() == 0 || identity.issued_by_any(hints),
            Self::OnlyIfNamed => hints.len() > 0 && identity.issued_by_any(hints),
        }
    }
}

/// Makes [`UpstreamTls`] objects; holds what they all share.
#[derive(Debug)]
pub struct TlsFactory {
    post_quantum: PostQuantum,
    provider: Arc<CryptoProvider>,
    /// Without the hybrid groups, for networks that drop large ClientHellos.
    classical: Arc<CryptoProvider>,
}

impl TlsFactory {
    /// A factory for this choice of key exchange.
    #[must_use]
    pub fn new(post_quantum: PostQuantum) -> Self {
        let hybrid = |g: NamedGroup| matches!(g, NamedGroup::X25519MLKEM768 | NamedGroup::secp256r1MLKEM768);
        let base = aws_lc_rs::default_provider();
        let mut classical = base.clone();
        classical.kx_groups.retain(|g| !hybrid(g.name()));
        let mut chosen = base;
        match post_quantum {
            PostQuantum::Prefer => {
                chosen.kx_groups.sort_by_key(|g| g.name() != NamedGroup::X25519MLKEM768);
            }
            PostQuantum::Supported => {
                chosen.kx_groups.retain(|g| !hybrid(g.name()));
                chosen.kx_groups.push(aws_lc_rs::kx_group::X25519MLKEM768);
            }
            PostQuantum::Off => chosen = classical.clone(),
        }
        Self { post_quantum, provider: Arc::new(chosen), classical: Arc::new(classical) }
    }

    /// The choice that it was made for.
    #[must_use]
    pub fn post_quantum(&self) -> PostQuantum {
        self.post_quantum
    }

    /// The provider that handshakes use first.
    #[must_use]
    pub fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    /// A new object with a new serial. `sessions` bounds the tickets it keeps.
    #[must_use]
    pub fn make(
        &self,
        identity: Option<Arc<ClientIdentity>>,
        show: Show,
        trust: Arc<TrustAnchors>,
        sessions: usize,
    ) -> Arc<UpstreamTls> {
        let (provider, classical) = (self.provider.clone(), self.classical.clone());
        UpstreamTls::fresh(identity, show, trust, sessions, false, (provider, classical))
    }
}

/// What egret presents and whom it believes, with everything that was authenticated by it.
/// Two `UpstreamTls` are the same only if they are the same object.
pub struct UpstreamTls {
    serial: Serial,
    identity: Option<Arc<ClientIdentity>>,
    show: Show,
    trust: Arc<TrustAnchors>,
    sessions: usize,
    /// TLS 1.2 sends a client certificate in the clear (RFC 8705 section 8): it is not offered.
    tls13_only: bool,
    provider: Arc<CryptoProvider>,
    classical: Arc<CryptoProvider>,
    /// Built on the first handshake; owns its ticket store, which dies with it.
    config: OnceLock<Arc<ClientConfig>>,
    classical_config: OnceLock<Arc<ClientConfig>>,
    /// The ticket stores beside those of the configurations. As many as there are parents, and ports that bundles are
    /// bound to, both of which the configuration bounds.
    stores: Mutex<HashMap<TicketStore, Resumption>>,
    life: Life,
    /// What each host asked for in its last full handshake. Beside the tickets, and like them by name without port (but
    /// for ports that are kept apart): a resumed handshake asks nothing.
    asked: Mutex<HashMap<(Host, Option<u16>), Asked>>,
}

/// Which tickets: rustls keeps them by the name of the server, without its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct TicketStore {
    /// Over another way than the direct one.
    route: Option<RouteId>,
    /// Of a port that a bundle vouches for: see [`TrustAnchors::apart`].
    port: Option<u16>,
    /// Without hybrid groups.
    classical: bool,
}

impl UpstreamTls {
    /// Its serial.
    #[must_use]
    pub fn serial(&self) -> Serial {
        self.serial
    }

    /// What is presented; `None` for ordinary TLS.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<ClientIdentity>> {
        self.identity.as_ref()
    }

    /// When it is presented.
    #[must_use]
    pub fn show(&self) -> Show {
        self.show
    }

    /// Who vouches for servers.
    #[must_use]
    pub fn trust(&self) -> &Arc<TrustAnchors> {
        &self.trust
    }

    /// Whether it offers TLS 1.3 and nothing before it.
    #[must_use]
    pub fn is_tls13_only(&self) -> bool {
        self.tls13_only
    }

    /// The same identity, trust and bounds in an object of its own that offers TLS 1.3 only: with another serial, and so
    /// without a connection, a ticket or a life in common.
    #[must_use]
    pub fn over_tls13_only(&self) -> Arc<Self> {
        let providers = (self.provider.clone(), self.classical.clone());
        Self::fresh(self.identity.clone(), self.show, self.trust.clone(), self.sessions, true, providers)
    }

    fn fresh(
        identity: Option<Arc<ClientIdentity>>,
        show: Show,
        trust: Arc<TrustAnchors>,
        sessions: usize,
        tls13_only: bool,
        (provider, classical): (Arc<CryptoProvider>, Arc<CryptoProvider>),
    ) -> Arc<Self> {
        Arc::new(Self {
            serial: Serial::next(),
            identity,
            show,
            trust,
            sessions,
            tls13_only,
            provider,
            classical,
            config: OnceLock::new(),
            classical_config: OnceLock::new(),
            stores: Mutex::default(),
            life: Life::default(),
            asked: Mutex::default(),
        })
    }

    /// Its life.
    #[must_use]
    pub fn life(&self) -> &Life {
        &self.life
    }

    /// Whether [`UpstreamTls::config`] offers a hybrid group that [`UpstreamTls::classical_config`] does not.
    #[must_use]
    pub fn is_post_quantum(&self) -> bool {
        self.provider.kx_groups.len() != self.classical.kx_groups.len()
    }

    /// The rustls configuration: TLS 1.2 and 1.3, or the latter alone.
    #[must_use]
    pub fn config(self: &Arc<Self>) -> Arc<ClientConfig> {
        self.config.get_or_init(|| self.build(&self.provider)).clone()
    }

    /// The same without hybrid groups, with a ticket store of its own.
    #[must_use]
    pub fn classical_config(self: &Arc<Self>) -> Arc<ClientConfig> {
        self.classical_config.get_or_init(|| self.build(&self.classical)).clone()
    }

    /// The ticket store for connections with `origin` over `route` (`None` = the direct way), to stand in the configuration
    /// in place of its own; `None` if its own is the one. `classical` tells which configuration.
    #[must_use]
    pub fn sessions(&self, origin: &Origin, route: Option<RouteId>, classical: bool) -> Option<Resumption> {
        let store = TicketStore { route, port: self.trust.apart(origin), classical };
        if store.route.is_none() && store.port.is_none() {
            return None;
        }
        let mut stores = self.stores.lock().expect("nothing panics while holding it");
        let fresh = || Resumption::in_memory_sessions(self.sessions);
        Some(stores.entry(store).or_insert_with(fresh).clone())
    }

    /// What `origin` asked for when the session that is resumed now began.
    #[must_use]
    pub fn last_asked(&self, origin: &Origin) -> Option<Asked> {
        let key = (origin.host().clone(), self.trust.apart(origin));
        self.asked.lock().expect("nothing panics while holding it").get(&key).cloned()
    }

    /// Remembers the answer of a full handshake. Bounded as the tickets are: at the bound all is forgotten, and
    /// the next full handshakes fill it again.
    pub fn remember_asked(&self, origin: &Origin, asked: Option<&Asked>) {
        let key = (origin.host().clone(), self.trust.apart(origin));
        let mut held = self.asked.lock().expect("nothing panics while holding it");
        let Some(asked) = asked else {
            held.remove(&key);
            return;
        };
        if held.len() >= self.sessions && !held.contains_key(&key) {
            held.clear();
        }
        held.insert(key, asked.clone());
    }

    fn build(&self, provider: &Arc<CryptoProvider>) -> Arc<ClientConfig> {
        let resolver = Recorder { identity: self.identity.clone(), show: self.show };
        let versions: &[_] = if self.tls13_only { &[&TLS13] } else { &[&TLS13, &TLS12] };
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .expect("the provider has cipher suites for TLS 1.2 and 1.3")
            .dangerous() // rustls's name for "a verifier of one's own"; ours only adds anchors and pins to webpki's
            .with_custom_certificate_verifier(self.trust.verifier())
            .with_client_cert_resolver(Arc::new(resolver));
        config.resumption = Resumption::in_memory_sessions(self.sessions);
        // 0-RTT stays off: early data can be replayed (RFC 8446 section 8).
        config.enable_early_data = false;
        Arc::new(config)
    }
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls")
            .field("serial", &self.serial)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// The fixed resolver of one `UpstreamTls`: it notes what was asked, and never changes its answer's certificate.
#[derive(Debug)]
struct Recorder {
    identity: Option<Arc<ClientIdentity>>,
    show: Show,
}

impl Recorder {
    fn decide(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> (Presented, Option<Arc<CertifiedKey>>) {
        let Some(identity) = &self.identity else {
            return (Presented::NothingRegistered, None);
        };
        if !self.show.allows(identity, hints.iter().copied()) {
            return (Presented::Withheld, None);
        }
        let key = identity.key();
        if key.key.choose_scheme(schemes).is_none() {
            return (Presented::NoCommonScheme, None);
        }
        (Presented::Sent, Some(key.clone()))
    }
}

impl ResolvesClientCert for Recorder {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let (presented, key) = self.decide(hints, schemes);
        record(hints, presented);
        key
    }

    fn has_certs(&self) -> bool {
        // Also without a certificate we want to be asked, to know that the origin did.
        true
    }
}
