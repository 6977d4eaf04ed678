//! The configuration file as it is written: one struct per table, every key optional.
//!
//! Whether a key is required, and what values mean, is decided when it is checked, so that a missing
//! key is one complaint among all others and not the end of reading.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::{DnsMixed, Intercept, PostQuantum, StoreBackend};
use crate::domain::{Lift, OnExpiry, ProjectState, Role, Rollback, ServerTrust, Team};

pub use super::limits::LimitsTable;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// `profile`: the set of defaults.
    pub profile: Option<ProfileName>,
    /// `data_dir`: where egret keeps its own files.
    pub data_dir: Option<PathBuf>,
    /// `workers`: data-plane threads; 0 = as many as cores.
    pub workers: Option<usize>,
    /// `[management]`
    pub management: ManagementTable,
    /// `[[listeners]]`; none written = the default one.
    pub listeners: Option<Vec<ListenerTable>>,
    /// `[[projects]]`
    pub projects: Vec<ProjectTable>,
    /// `[[certificates]]`
    pub certificates: Vec<CertificateTable>,
    /// `[[certificate_folders]]`
    pub certificate_folders: Vec<CertificateFolderTable>,
    /// `[[tokens]]`
    pub tokens: Vec<TokenTable>,
    /// `[egress]`
    pub egress: EgressTable,
    /// `[store]`
    pub store: StoreTable,
    /// `[dns]`
    pub dns: DnsTable,
    /// `[health]`
    pub health: HealthTable,
    /// `[limits]`
    pub limits: LimitsTable,
    /// `[trust]`
    pub trust: TrustTable,
    /// `[telemetry]`
    pub telemetry: TelemetryTable,
}

/// The words of `profile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProfileName {
    /// A developer's machine or a sidecar.
    Local,
    /// A proxy for many projects; not available yet, egret does not start with it.
    Gateway,
}

/// `[management]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ManagementTable {
    /// Address of the management API, or `unix:PATH`.
    pub listen: Option<String>,
    /// Mode of a Unix socket, octal.
    pub socket_mode: Option<String>,
    /// The API speaks TLS.
    pub tls: Option<TlsTable>,
}

/// `tls = { … }` of a listener.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsTable {
    /// Chain, PEM.
    pub cert: Option<PathBuf>,
    /// Key, PEM.
    pub key: Option<PathBuf>,
    /// Whose client certificates are taken, PEM.
    pub client_ca: Option<PathBuf>,
}

/// The words of `mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModeName {
    /// Explicit proxy.
    #[default]
    Forward,
    /// Plain HTTP to one origin.
    Sidecar,
}

/// The words of `auth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthName {
    /// A token in `Proxy-Authorization`.
    Token,
    /// A client certificate.
    Mtls,
}

/// A `[[listeners]]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerTable {
    /// Unique name.
    pub name: Option<String>,
    /// Address, or `unix:PATH`.
    pub listen: Option<String>,
    /// Mode of a Unix socket, octal.
    pub socket_mode: Option<String>,
    /// The listener speaks TLS.
    pub tls: Option<TlsTable>,
    /// What clients do here.
    pub mode: Option<ModeName>,
    /// Everyone who can connect is this project.
    pub project: Option<String>,
    /// The caller's credential names the project.
    pub auth: Option<AuthName>,
    /// Sidecar: the origin, or `host`.
    pub origin: Option<String>,
    /// Forward: which CONNECTs are intercepted.
    pub intercept: Option<Intercept>,
    /// Allows a listener without caller authentication on an address that others reach.
    pub unsafe_open: Option<bool>,
}

/// A `[[projects]]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProjectTable {
    /// Name, unique within its team.
    pub name: Option<String>,
    /// Id; derived from name and team if left out.
    pub id: Option<String>,
    /// Its team.
    pub team: Option<Team>,
    /// Cloudflare account id.
    pub account_id: Option<String>,
    /// Cloudflare zone id.
    pub zone_id: Option<String>,
    /// Whether it takes changes.
    pub state: Option<ProjectState>,
    /// To whom the project-wide certificate is shown.
    pub default: Option<DefaultTable>,
    /// What happens with an identity outside its validity.
    pub on_expiry: Option<OnExpiry>,
    /// Which plain http requests are lifted to TLS.
    pub lift: Option<Lift>,
    /// Whether a replaced certificate is kept to go back to.
    pub rollback: Option<Rollback>,
    /// Which anchors vouch for servers; `[trust] servers` if left out.
    pub servers: Option<ServerTrust>,
}

/// `default = { … }` of a project.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DefaultTable {
    /// Which origins.
    pub scope: Option<ScopeName>,
    /// Those of `scope = "listed"`.
    pub origins: Option<Vec<String>>,
}

/// The words of `default.scope`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScopeName {
    /// Every origin that asks.
    #[default]
    Any,
    /// Only where the origin names our issuer.
    Hinted,
    /// Only the origins of `origins`.
    Listed,
}

/// A `[[certificates]]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CertificateTable {
    /// Whose; `default` if left out.
    pub project: Option<String>,
    /// Where it is presented; project-wide if left out.
    pub origin: Option<String>,
    /// Chain, PEM.
    pub cert: Option<PathBuf>,
    /// Key, PEM.
    pub key: Option<PathBuf>,
    /// CA bundle, PEM.
    pub ca: Option<PathBuf>,
    /// Leaves out chain, dates and EKU.
    pub skip_validation: Option<bool>,
    /// Whether plain http to its origins is lifted to TLS.
    pub lift: Option<bool>,
    /// Whether it is presented over TLS 1.3 only.
    pub tls13_only: Option<bool>,
}

/// A `[[certificate_folders]]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CertificateFolderTable {
    /// The folder.
    pub path: Option<PathBuf>,
    /// Whose; `default` if left out.
    pub project: Option<String>,
    /// Leaves out chain, dates and EKU.
    pub skip_validation: Option<bool>,
    /// Whether plain http to its origins is lifted to TLS.
    pub lift: Option<bool>,
    /// Whether they are presented over TLS 1.3 only.
    pub tls13_only: Option<bool>,
}

/// A `[[tokens]]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenTable {
    /// Unique name.
    pub name: Option<String>,
    /// For `X-Auth-Email`.
    pub email: Option<String>,
    /// SHA-256 of the token, hex.
    pub sha256: Option<String>,
    /// Variable that holds the token.
    pub env: Option<String>,
    /// File that holds the token.
    pub file: Option<PathBuf>,
    /// What its holder may do.
    pub role: Option<Role>,
    /// Names or ids of projects; left out = all.
    pub projects: Option<Vec<String>>,
}

/// `[egress]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EgressTable {
    /// Patterns that may be reached.
    pub allow: Option<Vec<String>>,
    /// Patterns that may not.
    pub deny: Option<Vec<String>>,
    /// Exceptions to the address guard.
    pub allow_addresses: Option<Vec<String>>,
    /// Parent proxies; the first that is for a destination decides.
    pub parent: Vec<ParentTable>,
    /// Own addresses that outgoing connections come from.
    pub source_addresses: Vec<String>,
}

/// An entry of `[egress] parent`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParentTable {
    /// `http://user@host:port`, or with `https`, `socks5`, `socks5h`.
    pub url: Option<String>,
    /// What goes through it; left out = everything.
    pub origins: Option<Vec<String>>,
    /// What of that goes direct.
    pub no_proxy: Vec<String>,
    /// Where the password of the URL's user comes from.
    pub password: Option<PasswordTable>,
    /// PEM file that vouches for its own certificate.
    pub ca: Option<PathBuf>,
}

/// `password = { … }`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PasswordTable {
    /// An environment variable.
    pub env: Option<String>,
    /// A file.
    pub file: Option<PathBuf>,
}

/// `[store]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreTable {
    /// Which backend.
    pub backend: Option<StoreBackend>,
    /// Where the key-encryption key comes from.
    pub key_encryption_key: Option<KeyTable>,
}

/// `key_encryption_key = { … }`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyTable {
    /// A file.
    pub file: Option<PathBuf>,
    /// An environment variable.
    pub env: Option<String>,
}

/// `[dns]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsTable {
    /// Host to addresses.
    pub hosts: BTreeMap<String, Vec<String>>,
    /// Name servers; none = the system's resolver.
    pub servers: Vec<String>,
    /// What to do with a name that has addresses of which some may not be reached.
    pub mixed: Option<DnsMixed>,
}

/// `[health]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthTable {
    /// Address of the listener for probes and metrics; none without it.
    pub listen: Option<String>,
    /// `/readyz` answers 503 when a certificate has less than this left.
    pub degrade_before_expiry: Option<String>,
}

/// `[trust]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrustTable {
    /// PEM files with more anchors.
    pub anchors: Option<Vec<PathBuf>>,
    /// Which anchors vouch for servers.
    pub servers: Option<ServerTrust>,
    /// Whether X25519MLKEM768 is offered.
    pub post_quantum: Option<PostQuantum>,
}

/// `[telemetry]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryTable {
    /// One line per exchange.
    pub access_log: Option<bool>,
    /// URL that warnings of expiry are posted to.
    pub expiry_webhook: Option<String>,
    /// What it is shown.
    pub expiry_webhook_token: Option<PasswordTable>,
}
