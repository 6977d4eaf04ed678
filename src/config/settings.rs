//! What egret means: every value resolved, checked and in its unit.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::{ParentSettings, WebhookSettings};
use crate::domain::{Endpoint, Host, Origin, Pattern, ProjectId, ProjectInfo, Role, ServerTrust};

/// Which set of defaults is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// A developer's machine or a sidecar.
    Local,
}

/// Everything that `app::build` needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Which set of defaults is in force.
    pub profile: Profile,
    /// Where the store, the key-encryption key and the admin token live.
    pub data_dir: PathBuf,
    /// Data-plane threads, at least 1.
    pub workers: usize,
    /// The file that was read, if any.
    pub config_file: Option<PathBuf>,
    /// The management API.
    pub management: ManagementSettings,
    /// Where probes and metrics alone are served, without a token; `None` = nowhere.
    pub health: Option<SocketAddr>,
    /// egret is unready while a bound certificate has less than this left; `None` = never for that reason.
    pub degrade_before_expiry: Option<Duration>,
    /// Ways in, in file order.
    pub listeners: Vec<ListenerSettings>,
    /// Declared projects; `default` is always among them.
    pub projects: Vec<ProjectInfo>,
    /// Declared certificates, in file order.
    pub certificates: Vec<DeclaredCertificate>,
    /// Folders whose files declare certificates, in file order.
    pub certificate_folders: Vec<CertificateFolder>,
    /// Declared tokens, the value of `EGRET_TOKEN` included.
    pub tokens: Vec<TokenSettings>,
    /// Who may be reached.
    pub egress: EgressSettings,
    /// Where records rest.
    pub store: StoreSettings,
    /// Names answered by egret itself: canonical host to addresses.
    pub dns_hosts: HashMap<Host, Vec<IpAddr>>,
    /// Name servers for all other names, in the order they are asked; none = the system's resolver.
    pub dns_servers: Vec<SocketAddr>,
    /// What becomes of a name of which only some addresses may be reached.
    pub dns_mixed: DnsMixed,
    /// Caps and deadlines.
    pub limits: Limits,
    /// Who vouches for servers.
    pub trust: TrustSettings,
    /// Logs.
    pub telemetry: TelemetrySettings,
}

/// One way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Unique name.
    pub name: String,
    /// Where; port 0 = any free one.
    pub listen: Endpoint,
    /// Mode of a Unix socket's file.
    pub socket_mode: u32,
    /// TLS with clients.
    pub tls: Option<ServerTlsSettings>,
    /// What clients do here.
    pub mode: ListenerMode,
    /// Who the caller is.
    pub caller: CallerSettings,
    /// Which CONNECTs are intercepted (forward mode).
    pub intercept: Intercept,
}

/// `[management]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagementSettings {
    /// Where the API listens; port 0 = any free one.
    pub listen: Endpoint,
    /// Mode of a Unix socket's file.
    pub socket_mode: u32,
    /// TLS with clients.
    pub tls: Option<ServerTlsSettings>,
}

/// What a listener of egret's own presents in TLS, and whose certificates it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTlsSettings {
    /// Its key in the file, as `listeners[0].tls`.
    pub key_path: String,
    /// Its line in the file.
    pub line: Option<usize>,
    /// Chain, PEM, the listener's own certificate first.
    pub cert: PathBuf,
    /// Key, PEM.
    pub key: PathBuf,
    /// Whose client certificates are taken, PEM. A certificate that is sent is verified.
    pub client_ca: Option<PathBuf>,
    /// Without a client certificate there is no handshake (`auth = "mtls"`).
    pub client_required: bool,
}

/// What clients do at a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerMode {
    /// Explicit proxy: absolute form and CONNECT.
    Forward,
    /// Plain HTTP to one origin, or to `https://<Host>` when none is named (`origin = "host"`).
    Sidecar(Option<Origin>),
}

impl ListenerMode {
    /// The word of the configuration.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Sidecar(_) => "sidecar",
        }
    }
}

/// How a listener knows the caller's project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerSettings {
    /// Everyone who can connect is this project.
    Project(ProjectId),
    /// `auth = "token"`: the caller's credential names the project.
    Token,
    /// `auth = "mtls"`: the caller's certificate names the project.
    Certificate,
}

/// Which CONNECTs are intercepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intercept {
    /// Those with an identity (product.md section 3).
    Registered,
    /// None.
    Never,
    /// All that speak TLS or HTTP.
    Always,
}

/// A `[[certificates]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredCertificate {
    /// Whose.
    pub project: ProjectId,
    /// Where it is presented.
    pub pattern: Pattern,
    /// Chain, PEM.
    pub cert: PathBuf,
    /// Key, PEM.
    pub key: PathBuf,
    /// CA bundle, PEM.
    pub ca: PathBuf,
    /// As in an upload.
    pub skip_validation: bool,
    /// Whether plain http is lifted by its binding.
    pub lift: bool,
    /// Whether it is presented over TLS 1.3 only.
    pub tls13_only: bool,
}

/// A `[[certificate_folders]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFolder {
    /// Where it is.
    pub path: PathBuf,
    /// Whose certificates lie there.
    pub project: ProjectId,
    /// As in an upload, for all of them.
    pub skip_validation: bool,
    /// Whether plain http is lifted by their bindings.
    pub lift: bool,
    /// Whether they are presented over TLS 1.3 only.
    pub tls13_only: bool,
}

/// A token of the file or of the environment. Only its digest is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSettings {
    /// Unique name.
    pub name: String,
    /// For `X-Auth-Email`.
    pub email: Option<String>,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
    /// What its holder may do.
    pub role: Role,
    /// Ids of declared projects, and names or ids of projects that may come later; `None` = all.
    pub projects: Option<Vec<String>>,
}

/// `[egress]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressSettings {
    /// Patterns that may be reached; [`Pattern::Default`] = any.
    pub allow: Vec<Pattern>,
    /// Patterns that may not, whatever `allow` says.
    pub deny: Vec<Pattern>,
    /// Exceptions to the address guard: network, and a port or all.
    pub allow_addresses: Vec<(IpNet, Option<u16>)>,
    /// Parent proxies; the first that is for a destination decides.
    pub parents: Vec<ParentSettings>,
    /// Where outgoing connections come from.
    pub sources: SourceAddresses,
}

impl EgressSettings {
    /// The keys of `[egress]` that differ between `self` and `new` and that only a restart changes.
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let differ = [("parent", self.parents != new.parents), ("source_addresses", self.sources != new.sources)];
        differ.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }
}

/// `[egress] source_addresses`: at most one per family; a family without one is left to the system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceAddresses {
    /// For connections over IPv4.
    pub v4: Option<Ipv4Addr>,
    /// For connections over IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// `[dns] mixed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsMixed {
    /// Addresses that may not be reached are left out; the name fails only if none is left.
    #[default]
    Drop,
    /// One such address makes the whole name fail.
    Refuse,
}

/// `[store]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSettings {
    /// Which backend.
    pub backend: StoreBackend,
    /// Where the key-encryption key comes from.
    pub key_encryption_key: KeySource,
}

/// Which backend keeps the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreBackend {
    /// SQLite in `data_dir`.
    Embedded,
    /// Nothing outlives the process, and no writable path is needed.
    Memory,
}

/// Where the key-encryption key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// `<data_dir>/key-encryption-key`, made on first start (a random one in memory for [`StoreBackend::Memory`]).
    Generated,
    /// A file: 32 bytes, raw, 64 hex or base64.
    File(PathBuf),
    /// An environment variable: 64 hex or base64.
    Env(String),
}

/// `[trust]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustSettings {
    /// PEM files with more trust anchors for servers.
    pub anchors: Vec<PathBuf>,
    /// Which anchors vouch for servers, unless a project says otherwise.
    pub servers: ServerTrust,
    /// Whether X25519MLKEM768 is offered first, offered, or not offered.
    pub post_quantum: PostQuantum,
}

/// `[trust] post_quantum`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PostQuantum {
    /// Its key share is in the first ClientHello.
    #[default]
    Prefer,
    /// Offered behind the classical groups, without a key share.
    Supported,
    /// Not offered.
    Off,
}

/// `[telemetry]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// One line per exchange.
    pub access_log: bool,
    /// Where warnings of expiry are sent.
    pub expiry_webhook: Option<WebhookSettings>,
}

/// `[limits]`. Durations and sizes with the defaults of security.md section 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Client connections open at once, over all listeners; accepting pauses at the cap.
    pub max_connections: usize,
    /// Requests and tunnels at once on one HTTP/2 connection of a client (SETTINGS_MAX_CONCURRENT_STREAMS).
    pub max_streams_per_client: usize,
    /// Head of a request, bytes (at least 8 KiB). HTTP/2 adds 32 for each field (RFC 9113 section 6.5.2).
    pub max_head_bytes: usize,
    /// Header fields of a request.
    pub max_headers: usize,
    /// Request line, bytes.
    pub max_request_line: usize,
    /// A client has this long for its first byte and then for the whole head.
    pub head_timeout: Duration,
    /// Idle keep-alive of client connections.
    pub keep_alive_timeout: Duration,
    /// TLS handshake, both sides.
    pub handshake_timeout: Duration,
    /// TCP connect, over all addresses tried.
    pub connect_timeout: Duration,
    /// Resolving a name.
    pub dns_timeout: Duration,
    /// Resolutions at once.
    pub dns_concurrency: usize,
    /// First byte of a response after the request was sent.
    pub response_timeout: Duration,
    /// An upload that does not move.
    pub upload_idle_timeout: Duration,
    /// A response that does not move.
    pub download_idle_timeout: Duration,
    /// A tunnel that does not move.
    pub tunnel_idle_timeout: Duration,
    /// What still runs after this is cut when egret ends.
    pub drain_timeout: Duration,
    /// egret goes on accepting this long after SIGTERM.
    pub drain_delay: Duration,
    /// What still uses a replaced certificate after this is cut.
    pub replace_grace: Duration,
    /// The same after a delete.
    pub delete_grace: Duration,
    /// The same for connections that became WebSockets, after a replacement; after a delete if it is shorter.
    pub upgraded_grace: Duration,
    /// Retired certificates of a project that are shown until their last connection is gone.
    pub max_retired: usize,
    /// This long before the end of its validity a certificate's connections take no new requests; at the end they
    /// are cut.
    pub expiry_drain: Duration,
    /// A replaced certificate is kept this long to go back to; zero = never.
    pub rollback_window: Duration,
    /// Trying a certificate out, from its upload to the origin's answer.
    pub probe_timeout: Duration,
    /// Certificates that are tried out at once.
    pub max_pending: usize,
    /// Upstream connections per identity and origin.
    pub max_connections_per_origin: usize,
    /// Of them idle at most.
    pub max_idle_per_origin: usize,
    /// Upstream connections idle at most over all origins.
    pub max_idle: usize,
    /// Handshakes at once per identity and origin.
    pub max_dials_per_origin: usize,
    /// Requests at once on one HTTP/2 connection to an origin; the origin's own limit counts too.
    pub max_streams_per_connection: usize,
    /// What an origin may send ahead on one HTTP/2 stream, bytes.
    pub h2_stream_window: usize,
    /// The same for all streams of a connection together.
    pub h2_connection_window: usize,
    /// An upstream connection idle this long is closed.
    pub pool_idle_timeout: Duration,
    /// An upstream connection older than this takes no new request.
    pub pool_max_age: Duration,
    /// Interception leafs kept.
    pub max_leafs: usize,
    /// Answers of *ask first* kept.
    pub max_asked: usize,
    /// How long an answer of *ask first* is believed.
    pub asked_ttl: Duration,
    /// Which certificates were shown to which origins: entries kept, over all projects.
    pub max_disclosures: usize,
    /// Body of a management request, bytes.
    pub max_api_body: usize,
    /// `cert`, `key` and `ca` each, bytes.
    pub max_pem: usize,
    /// Management connections at once.
    pub max_api_connections: usize,
    /// Certificates declared in files, those of folders included.
    pub max_declared_certificates: usize,
    /// How often the configuration and the files that it names are looked at where nothing said that they changed.
    pub reload_poll: Duration,
    /// Certificates in each of a zone's two lists (Cloudflare's dialect).
    pub max_zone_certificates: usize,
    /// Hostnames that one hostname certificate is associated with, switched on or off.
    pub max_associations: usize,
    /// Certificates and CA bundles of one account (Cloudflare's dialect), over all projects that carry it.
    pub max_account_certificates: usize,
    /// A create that a client says it sends again answers with what its first try stored, for this long.
    pub create_retry_window: Duration,
    /// CA bundles that vouch for servers of one project, each with each of its patterns.
    pub max_ca_bindings: usize,
    /// Tokens made through the API.
    pub max_tokens: usize,
    /// Certificates that `/metrics` shows one by one, those that expire first.
    pub max_metric_certificates: usize,
    /// Listeners to the events at once; of `max_api_connections`.
    pub max_event_listeners: usize,
    /// Warnings that wait to be sent to `telemetry.expiry_webhook`.
    pub max_webhook_queue: usize,
    /// Connections to the `[health]` listener at once.
    pub max_health_connections: usize,
    /// Events kept for those who ask for what happened.
    pub max_events: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const SECOND: Duration = Duration::from_secs(1);
        const MINUTE: Duration = Duration::from_secs(60);
        Self {
            max_connections: 16_384,
            max_streams_per_client: 256,
            max_head_bytes: 64 * 1024,
            max_headers: 100,
            max_request_line: 16 * 1024,
            head_timeout: 10 * SECOND,
            keep_alive_timeout: MINUTE,
            handshake_timeout: 10 * SECOND,
            connect_timeout: 10 * SECOND,
            dns_timeout: 5 * SECOND,
            dns_concurrency: 64,
            response_timeout: 15 * MINUTE,
            upload_idle_timeout: MINUTE,
            download_idle_timeout: 15 * MINUTE,
            tunnel_idle_timeout: 15 * MINUTE,
            drain_timeout: 30 * SECOND,
            drain_delay: Duration::ZERO,
            replace_grace: 60 * MINUTE,
            delete_grace: 30 * SECOND,
            upgraded_grace: 60 * MINUTE,
            max_retired: 65_536,
            expiry_drain: 30 * SECOND,
            rollback_window: 60 * MINUTE,
            probe_timeout: 30 * SECOND,
            max_pending: 16,
            max_connections_per_origin: 1024,
            max_idle_per_origin: 128,
            max_idle: 4096,
            max_dials_per_origin: 64,
            max_streams_per_connection: 100,
            h2_stream_window: 1024 * 1024,
            h2_connection_window: 64 * 1024 * 1024,
            pool_idle_timeout: MINUTE,
            pool_max_age: 60 * MINUTE,
            max_leafs: 1024,
            max_asked: 4096,
            asked_ttl: 10 * MINUTE,
            max_disclosures: 16_384,
            max_api_body: 1024 * 1024,
            max_pem: 64 * 1024,
            max_api_connections: 256,
            max_declared_certificates: 100_000,
            reload_poll: MINUTE,
            max_zone_certificates: 10,
            max_associations: 100,
            max_account_certificates: 1000,
            create_retry_window: 5 * MINUTE,
            max_ca_bindings: 100,
            max_tokens: 4096,
            max_metric_certificates: 1000,
            max_event_listeners: 64,
            max_webhook_queue: 256,
            max_health_connections: 64,
            max_events: 1024,
        }
    }
}
