//! Zones: the projects that have a `zone_id`. A zone's name is its project's.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::envelope::{Answer, Enveloped, EnvelopedList, ListAnswer, Refusal};
use super::query::{Asked, NameFilter, PagingQuery};
use crate::api::Management;
use crate::api::auth::{Caller, Need};
use crate::api::openapi::ZonePath;
use crate::api::request::Segments;
use crate::domain::{ProjectInfo, ProjectState};
use crate::registry::Registry;

/// A zone. What egret knows nothing of is null or empty.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CloudflareZone)]
pub(in crate::api) struct Shown {
    /// 32 hex digits.
    #[schema(pattern = "^[0-9a-f]{32}$", example = "0123456789abcdef0123456789abcdef")]
    id: String,
    /// The name of the project.
    #[schema(min_length = 1, example = "payments")]
    name: String,
    /// Its account.
    account: ZoneAccount,
    /// `active`; `pending` while the project is being transferred, and takes no changes.
    #[schema(pattern = "^(active|pending)$")]
    status: &'static str,
    /// Whether the project is blocked, and takes no uploads.
    paused: bool,
    /// `full`.
    #[schema(pattern = "^full$")]
    r#type: &'static str,
    /// What the token may do here, in the vendor's words.
    #[schema(example = json!(["#zone:read", "#ssl:read", "#ssl:edit"]))]
    permissions: Vec<&'static str>,
    /// 0.
    development_mode: u8,
    /// Empty.
    #[schema(max_items = 0)]
    name_servers: Vec<String>,
    /// Null.
    #[schema(required)]
    original_name_servers: Option<Vec<String>>,
    /// Null.
    #[schema(required)]
    original_registrar: Option<String>,
    /// Null.
    #[schema(required)]
    original_dnshost: Option<String>,
    /// Null.
    #[schema(required)]
    activated_on: Option<String>,
    /// Null.
    #[schema(required)]
    created_on: Option<String>,
    /// Null.
    #[schema(required)]
    modified_on: Option<String>,
    /// Empty.
    owner: Nothing,
    /// Empty.
    plan: Nothing,
    /// Empty.
    meta: Nothing,
}

/// The account of a zone; empty if the project carries none.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CloudflareZoneAccount)]
struct ZoneAccount {
    /// 32 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[0-9a-f]{32}$")]
    id: Option<String>,
    /// The names of its projects, as far as the token reaches them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    name: Option<String>,
}

/// Nothing is known.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CloudflareNothing)]
struct Nothing {}

impl Shown {
    fn of(id: &str, info: &ProjectInfo, account: Option<(String, String)>, caller: &Caller) -> Self {
        let (account_id, account_name) = account.unzip();
        let mut permissions = vec!["#zone:read", "#ssl:read"];
        if caller.require(Need::Write).is_ok() {
            permissions.push("#ssl:edit");
        }
        Self {
            id: id.to_owned(),
            name: info.name.clone(),
            account: ZoneAccount { id: account_id, name: account_name },
            status: if info.state == ProjectState::Transferring { "pending" } else { "active" },
            paused: info.state == ProjectState::Blocked,
            r#type: "full",
            permissions,
            development_mode: 0,
            name_servers: Vec::new(),
            original_name_servers: None,
            original_registrar: None,
            original_dnshost: None,
            activated_on: None,
            created_on: None,
            modified_on: None,
            owner: Nothing {},
            plan: Nothing {},
            meta: Nothing {},
        }
    }

    /// Every zone within the caller's reach, by name.
    fn all(registry: &Registry, caller: &Caller) -> Vec<Self> {
        let accounts = caller.accounts(registry);
        let named = |id: &String| {
            let account = accounts.iter().find(|account| account.id == *id)?;
            Some((id.clone(), account.name()))
        };
        let projects = caller.projects(registry);
        let shown = projects.iter().filter_map(|project| {
            let snapshot = project.load();
            let info = snapshot.info();
            Some(Self::of(info.zone_id.as_deref()?, info, info.account_id.as_ref().and_then(named), caller))
        });
        shown.collect()
    }

    fn account_name(&self) -> &str {
        self.account.name.as_deref().unwrap_or_default()
    }

    fn account_id(&self) -> &str {
        self.account.id.as_deref().unwrap_or_default()
    }
}

/// Which zones are wanted, and in what order.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documentation; handlers read `Asked`")]
pub(in crate::api) struct ZonesQuery {
    /// Of this name, whatever its letter case; also with one of the vendor's operators before it: `equal:`,
    /// `not_equal:`, `starts_with:`, `ends_with:`, `contains:`, each also with `_case_sensitive`
    #[param(nullable = false, example = "payments")]
    name: Option<String>,
    /// Of this account
    #[param(rename = "account.id", nullable = false)]
    account_id: Option<String>,
    /// Of accounts of this name, with an operator or without
    #[param(rename = "account.name", nullable = false)]
    account_name: Option<String>,
    /// Of this status
    #[param(nullable = false, pattern = "^(initializing|pending|active|moved)?$")]
    status: Option<String>,
    /// Whether a zone fits `all` that is asked for, or `any` of it
    #[param(rename = "match", nullable = false, pattern = "^(any|all)?$")]
    matching: Option<String>,
    /// By what the list is ordered; `name` if left out
    #[param(nullable = false, pattern = r"^(name|status|account\.id|account\.name|plan\.id)?$")]
    order: Option<String>,
    /// `asc` or `desc`
    #[param(nullable = false, pattern = "^(asc|desc)?$")]
    direction: Option<String>,
}

/// List zones
#[utoipa::path(
    get, path = "/client/v4/zones", operation_id = "cloudflareListZones", tag = "cloudflare",
    params(ZonesQuery, PagingQuery),
    responses((status = 200, description = "The projects within the token's reach that have a zone id.", body = EnvelopedList<Shown>))
)]
pub(in crate::api) async fn list(
    State(management): State<Arc<Management>>,
    caller: Caller,
    asked: Asked,
) -> ListAnswer<Shown> {
    let paging = asked.paging()?;
    let name = asked.one("name")?.map(NameFilter::read);
    let account_name = asked.one("account.name")?.map(NameFilter::read);
    let account_id = asked.one("account.id")?;
    let status = asked.word("status", &["initializing", "pending", "active", "moved"])?;
    let any = asked.word("match", &["any", "all"])? == Some("any");
    let order = asked.word("order", &["name", "status", "account.id", "account.name", "plan.id"])?;
    let falling = asked.word("direction", &["asc", "desc"])? == Some("desc");

    let mut zones = Shown::all(&management.registry, &caller);
    zones.retain(|zone| {
        let fits = [
            name.as_ref().map(|filter| filter.takes(&zone.name)),
            account_name.as_ref().map(|filter| filter.takes(zone.account_name())),
            account_id.map(|id| zone.account_id() == id),
            status.map(|status| zone.status == status),
        ];
        let mut fits = fits.into_iter().flatten().peekable();
        fits.peek().is_none() || if any { fits.any(|fit| fit) } else { fits.all(|fit| fit) }
    });
    // They come by name, and stay so among equals.
    zones.sort_by(|a, b| match order {
        Some("status") => a.status.cmp(b.status),
        Some("account.id") => a.account_id().cmp(b.account_id()),
        Some("account.name") => a.account_name().cmp(b.account_name()),
        _ => a.name.cmp(&b.name),
    });
    if falling {
        zones.reverse();
    }
    let (zones, info) = paging.cut(zones);
    Ok(EnvelopedList::of(zones, info))
}

/// A zone
#[utoipa::path(
    get, path = "/client/v4/zones/{zone_id}", operation_id = "cloudflareGetZone", tag = "cloudflare",
    params(ZonePath),
    responses(
        (status = 200, description = "The zone.", body = Enveloped<Shown>),
        (status = 404, description = "No project carries it.", body = Refusal),
    )
)]
pub(in crate::api) async fn get(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(zone): Segments<String>,
) -> Answer<Shown> {
    let project = caller.zone(&management.registry, &zone, Need::Read)?;
    let snapshot = project.snapshot();
    let info = snapshot.info();
    let account = info.account_id.as_deref().and_then(|id| {
        let account = caller.account(&management.registry, id, Need::Read).ok()?;
        Some((id.to_owned(), account.name()))
    });
    Ok(Enveloped::of(Shown::of(&zone, info, account, &caller)))
}
