//! Projects (the tenants) and the roles of tokens.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;

use super::{Origin, Pattern};

/// A project's id, `prj_…`. Never reused for another project.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProjectId(Arc<str>);

impl ProjectId {
    /// Takes an id as written by an operator: 1 to 64 of `A-Z a-z 0-9 _ -`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let ok = !text.is_empty()
            && text.len() <= 64
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        ok.then(|| Self(text.into()))
    }

    /// The id of a project declared without one: the same name and team give the same id, on every machine.
    #[must_use]
    pub fn derived(name: &str, team: Option<&Team>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"egret project\0");
        if let Some(team) = team {
            context.update(team.id.as_deref().unwrap_or_default().as_bytes());
            context.update(b"\0");
            context.update(team.slug.as_deref().unwrap_or_default().as_bytes());
        }
        context.update(b"\0");
        context.update(name.as_bytes());
        let hash = context.finish();
        let hex: String = hash.as_ref()[..12].iter().map(|b| format!("{b:02x}")).collect();
        Self(format!("prj_{hex}").into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ProjectId {
    fn borrow(&self) -> &str {
        &self.0
    }
}
impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The team that a project may belong to (Vercel's `teamId` and `slug`).
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(min_properties = 1)]
pub struct Team {
    /// `team_…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[A-Za-z0-9._-]{1,100}$")]
    pub id: Option<String>,
    /// The URL-friendly name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[A-Za-z0-9._-]{1,100}$")]
    pub slug: Option<String>,
}

/// Whether a project takes changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProjectState {
    /// Everything is allowed.
    #[default]
    Active,
    /// Being handed over: every write answers 409.
    Transferring,
    /// Uploads answer 402; the rest works.
    Blocked,
}

/// To whom the project-wide certificate is shown (product.md section 2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DefaultScope {
    /// Every origin that asks, unless it lists acceptable CAs and none of our chain is among them.
    #[default]
    Any,
    /// Only where a non-empty list names our issuer.
    Hinted,
    /// Only the origins that these patterns cover.
    Listed(Vec<Pattern>),
}

impl DefaultScope {
    /// Whether the scope rules `origin` out before anything was asked.
    #[must_use]
    pub fn excludes(&self, origin: &Origin) -> bool {
        match self {
            Self::Any | Self::Hinted => false,
            Self::Listed(patterns) => !patterns.iter().any(|p| p.covers(origin)),
        }
    }
}

/// What happens with an identity outside its validity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExpiry {
    /// The request fails at once with `mtls.identity_expired`.
    #[default]
    Refuse,
    /// It is sent all the same.
    Send,
}

/// Which plain `http://` requests go on over TLS (product.md section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lift {
    /// Those whose https origin has an exact or wildcard binding.
    #[default]
    Registered,
    /// All, with whatever is selected for the https origin, also where that is nothing. A *none* binding never lifts.
    Always,
    /// None.
    Never,
}

impl Lift {
    /// Whether it is [`Lift::Registered`], which records and answers leave out.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        *self == Self::Registered
    }
}

/// Whether a replaced certificate is kept for a while to go back to (product.md section 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rollback {
    /// For `limits.rollback_window`; after a promotion egret goes back by itself when an origin refuses the new one.
    #[default]
    Auto,
    /// Never.
    Off,
}

impl Rollback {
    /// Whether it is [`Rollback::Auto`], which records leave out.
    #[must_use]
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// Which trust anchors vouch for servers (`[trust] servers`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub enum ServerTrust {
    /// The system's roots and `[trust] anchors`, then the binding's own `ca`.
    #[default]
    #[serde(rename = "system+ca")]
    SystemAndCa,
    /// The system's roots and `[trust] anchors` only.
    #[serde(rename = "system")]
    System,
    /// `[trust] anchors` and the binding's own `ca` only.
    #[serde(rename = "ca")]
    Ca,
}

/// What is known of a project, apart from its certificates and bindings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectInfo {
    /// Its id.
    pub id: ProjectId,
    /// Its name, unique within its team.
    pub name: String,
    /// Its team, if any.
    pub team: Option<Team>,
    /// Cloudflare account id: 32 lower-case hex digits.
    pub account_id: Option<String>,
    /// Cloudflare zone id: 32 lower-case hex digits.
    pub zone_id: Option<String>,
    /// Whether it takes changes.
    pub state: ProjectState,
    /// To whom the project-wide certificate is shown.
    pub default_scope: DefaultScope,
    /// What happens with an identity outside its validity.
    pub on_expiry: OnExpiry,
    /// Which plain http requests are lifted to TLS.
    pub lift: Lift,
    /// Whether a replaced certificate is kept to go back to.
    pub rollback: Rollback,
    /// Which trust anchors vouch for servers.
    pub servers: ServerTrust,
    /// Whether the configuration file declares it (then the API may not change it).
    pub declared: bool,
}

impl ProjectInfo {
    /// A project with this name and the defaults of profile `local`.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            id: ProjectId::derived(name, None),
            name: name.to_owned(),
            team: None,
            account_id: None,
            zone_id: None,
            state: ProjectState::Active,
            default_scope: DefaultScope::Any,
            on_expiry: OnExpiry::Refuse,
            lift: Lift::Registered,
            rollback: Rollback::Auto,
            servers: ServerTrust::SystemAndCa,
            declared: false,
        }
    }
}

/// What the holder of a token may do. Each role includes those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything, projects and tokens included.
    Admin,
    /// Changes certificates and bindings.
    Write,
    /// Reads.
    Read,
    /// Sends requests through a listener with `auth = "token"`.
    Proxy,
}

impl Role {
    /// Whether a holder may read through the API.
    #[must_use]
    pub fn may_read(self) -> bool {
        !matches!(self, Self::Proxy)
    }
    /// Whether a holder may change certificates and bindings.
    #[must_use]
    pub fn may_write(self) -> bool {
        matches!(self, Self::Admin | Self::Write)
    }
    /// Whether a holder may change projects and tokens.
    #[must_use]
    pub fn may_administer(self) -> bool {
        matches!(self, Self::Admin)
    }
    /// Whether a holder may send requests through the proxy: `proxy` or above, which is every role.
    #[must_use]
    pub fn may_proxy(self) -> bool {
        match self {
            Self::Admin | Self::Write | Self::Read | Self::Proxy => true,
        }
    }
}
