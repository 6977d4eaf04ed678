//! Per-hostname origin pulls: which certificate each hostname of a zone presents, or that it presents none.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use axum::extract::{Request, State};
use utoipa::IntoParams;

use super::bodies::{read_config, read_hostname};
use super::codes;
use super::documents::HostnamesBody;
use super::envelope::{Answer, Enveloped, EnvelopedList, ListAnswer, Refusal};
use super::query::{Asked, PagingQuery};
use super::refused::refused;
use super::shapes::Association;
use crate::api::Management;
use crate::api::auth::{Caller, Need};
use crate::api::body;
use crate::api::openapi::ZonePath;
use crate::api::problem::Problem;
use crate::api::request::Segments;
use crate::config::LiveLimits;
use crate::control::Associated;
use crate::domain::{Holder, Host};

/// The hostname of a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documentation; handlers read `Segments`")]
pub(in crate::api) struct HostnamePath {
    /// The hostname
    #[param(min_length = 1, example = "api.example.com")]
    hostname: String,
}

/// As many entries as could mean something: all hostnames that the zone may have, ended, and as many begun.
fn most_entries(limits: &LiveLimits) -> usize {
    limits.max_zone_certificates().saturating_mul(limits.max_associations()).saturating_mul(2)
}

/// Associate hostnames with certificates
///
/// `enabled` as true: the certificate is presented to the hostname, on every port of it. As false: none is, whatever is
/// presented project-wide. As null: the association ends. All entries are taken, or none; hostnames that are not named stay
/// as they are; what is so already changes nothing.
///
/// The answer has the hostnames of the request first, in its order, then all others of the zone.
#[utoipa::path(
    put, path = "/client/v4/zones/{zone_id}/origin_tls_client_auth/hostnames", operation_id = "cloudflarePutHostnames",
    tag = "cloudflare", params(ZonePath, PagingQuery), request_body = HostnamesBody,
    responses(
        (status = 200, description = "In force from now on.", body = EnvelopedList<Association>),
        (status = 404, description = "No project carries this zone.", body = Refusal),
        (status = 500, description = "It could not be stored; nothing was changed.", body = Refusal),
    )
)]
pub(in crate::api) async fn put(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(zone): Segments<String>,
    asked: Asked,
    request: Request,
) -> ListAnswer<Association> {
    let project = caller.zone(&management.registry, &zone, Need::Write)?;
    let paging = asked.paging()?;
    let body = body::read(request, &management.limits).await?;
    caller.still_in(&management.registry)?;
    let wanted = read_config(&body, most_entries(&management.limits))?;
    let requested: Vec<Host> = wanted.iter().map(|wanted| wanted.hostname.clone()).collect();
    let associated = management.control.associate(&project, wanted).await;
    associated.map_err(|error| refused(error, Holder::Hostnames))?;

    let all = management.control.associations(&project);
    let (shown, info) = paging.cut(in_order(&requested, &all));
    Ok(EnvelopedList::of(shown, info))
}

/// The requested hostnames first, in their order and each once, then all others.
fn in_order(requested: &[Host], all: &[Associated]) -> Vec<Association> {
    let mut left: BTreeMap<&str, &Associated> = all.iter().map(|a| (a.hostname.as_str(), a)).collect();
    let mut told = HashSet::new();
    let mut shown = Vec::with_capacity(all.len());
    for hostname in requested.iter().map(Host::as_str).filter(|hostname| told.insert(*hostname)) {
        shown.push(left.remove(hostname).map_or_else(|| Association::ended(hostname), Association::of));
    }
    shown.extend(left.into_values().map(Association::of));
    shown
}

/// The association of a hostname
#[utoipa::path(
    get, path = "/client/v4/zones/{zone_id}/origin_tls_client_auth/hostnames/{hostname}",
    operation_id = "cloudflareGetHostname", tag = "cloudflare", params(ZonePath, HostnamePath),
    responses(
        (status = 200, description = "The association.", body = Enveloped<Association>),
        (status = 404, description = "No such zone, or the hostname has no association.", body = Refusal),
    )
)]
pub(in crate::api) async fn get(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments((zone, hostname)): Segments<(String, String)>,
) -> Answer<Association> {
    let project = caller.zone(&management.registry, &zone, Need::Read)?;
    let found = match asked_for(&hostname)? {
        Some(hostname) => management.control.association(&project, &hostname),
        None => None,
    };
    let found = found.ok_or_else(|| {
        Problem::missing(
            "the hostname has no association: what the zone presents project-wide, if anything, goes for it",
        )
        .numbered(codes::NO_ASSOCIATION)
    })?;
    Ok(Enveloped::of(Association::of(&found)))
}

/// The hostname of a path. Bindings of addresses in brackets are shown as well, though they are not made here.
fn asked_for(text: &str) -> Result<Option<Host>, Problem> {
    if text.starts_with('[') {
        return Ok(Host::parse(text).ok());
    }
    read_hostname(text).map(Some).map_err(|why| Problem::bad_request(format!("hostname: {why}")))
}
