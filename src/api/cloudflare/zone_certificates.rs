//! Zone-level origin pulls: certificates of which the newest is presented project-wide, while the setting is on.

use std::sync::Arc;

use axum::extract::{Request, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::bodies::{ZoneUpload, read_settings};
use super::documents::{CertificatePath, SettingsBody, ZoneUploadBody};
use super::envelope::{Answer, Enveloped, EnvelopedList, ListAnswer, Refusal};
use super::path_id;
use super::query::{Asked, PagingQuery};
use super::refused::{not_shown, refused};
use super::retry::Retried;
use super::shapes::ZoneCertificate;
use crate::api::Management;
use crate::api::auth::{Caller, Need};
use crate::api::body;
use crate::api::openapi::ZonePath;
use crate::api::problem::Problem;
use crate::api::request::Segments;
use crate::control::{HeldUpload, Shown};
use crate::domain::Holder;
use crate::registry::Project;

fn is_on(project: &Project) -> bool {
    project.load().roster().zone_enabled
}

/// Takes what a request uploads into one of a zone's lists.
///
/// # Errors
/// Those of the body, of a token that ended while it arrived, and of [`Control::hold`](crate::control::Control::hold).
pub(super) async fn upload(
    management: &Management,
    caller: &Caller,
    (project, list): (&Arc<Project>, Holder),
    retry: bool,
    request: Request,
) -> Result<Shown, Problem> {
    let body = body::read(request, &management.limits).await?;
    caller.still_in(&management.registry)?;
    let ZoneUpload { certificate, private_key } = ZoneUpload::read(&body, management.limits.max_pem())?;
    drop(body);
    let upload = HeldUpload { cert: certificate, key: private_key, by: caller.token().clone(), retry };
    let held = management.control.hold(project, list, upload).await;
    Ok(Shown::from(&*held.map_err(|error| refused(error, list))?))
}

/// List zone certificates
#[utoipa::path(
    get, path = "/client/v4/zones/{zone_id}/origin_tls_client_auth", operation_id = "cloudflareListZoneCertificates",
    tag = "cloudflare", params(ZonePath, PagingQuery),
    responses(
        (status = 200, description = "All of them, oldest first.", body = EnvelopedList<ZoneCertificate>),
        (status = 404, description = "No project carries this zone.", body = Refusal),
    )
)]
pub(in crate::api) async fn list(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(zone): Segments<String>,
    asked: Asked,
) -> ListAnswer<ZoneCertificate> {
    let project = caller.zone(&management.registry, &zone, Need::Read)?;
    let enabled = is_on(&project);
    let listed = management.control.listed(&project, Holder::Zone);
    let (shown, info) = asked.paging()?.cut(listed);
    Ok(EnvelopedList::of(shown.iter().map(|shown| ZoneCertificate::of(shown, enabled)).collect(), info))
}

/// Upload a zone certificate
///
/// With the setting on, it is presented project-wide from this answer on. The same certificate again is refused, unless
/// `X-Stainless-Retry-Count` says that this is a second try of what was stored moments ago.
#[utoipa::path(
    post, path = "/client/v4/zones/{zone_id}/origin_tls_client_auth", operation_id = "cloudflareCreateZoneCertificate",
    tag = "cloudflare", params(ZonePath), request_body = ZoneUploadBody,
    responses(
        (status = 200, description = "Stored, and in force if the setting is on.", body = Enveloped<ZoneCertificate>),
        (status = 402, description = "The project is blocked.", body = Refusal),
        (status = 404, description = "No project carries this zone.", body = Refusal),
        (status = 500, description = "It could not be encrypted or stored; nothing was changed.", body = Refusal),
    )
)]
pub(in crate::api) async fn create(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(zone): Segments<String>,
    Retried(retry): Retried,
    request: Request,
) -> Answer<ZoneCertificate> {
    let project = caller.zone(&management.registry, &zone, Need::Write)?;
    let shown = upload(&management, &caller, (&project, Holder::Zone), retry, request).await?;
    Ok(Enveloped::of(ZoneCertificate::of(&shown, is_on(&project))))
}

/// A zone certificate
///
/// After a delete it is shown as `pending_deletion` as long as connections of it are finishing.
#[utoipa::path(
    get, path = "/client/v4/zones/{zone_id}/origin_tls_client_auth/{certificate_id}",
    operation_id = "cloudflareGetZoneCertificate", tag = "cloudflare", params(ZonePath, CertificatePath),
    responses(
        (status = 200, description = "The certificate.", body = Enveloped<ZoneCertificate>),
        (status = 404, description = "No such zone, or no such certificate in it.", body = Refusal),
    )
)]
pub(in crate::api) async fn get(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments((zone, certificate)): Segments<(String, String)>,
) -> Answer<ZoneCertificate> {
    let project = caller.zone(&management.registry, &zone, Need::Read)?;
    let id = path_id(&certificate, Holder::Zone)?;
    let shown = management.control.listed_one(&project, Holder::Zone, &id);
    let shown = shown.map_err(|error| not_shown(error, Holder::Zone))?;
    Ok(Enveloped::of(ZoneCertificate::of(&shown, is_on(&project))))
}

/// Delete a zone certificate
///
/// No request that begins after the answer uses it; the next newest takes over.
#[utoipa::path(
    delete, path = "/client/v4/zones/{zone_id}/origin_tls_client_auth/{certificate_id}",
    operation_id = "cloudflareDeleteZoneCertificate", tag = "cloudflare", params(ZonePath, CertificatePath),
    responses(
        (status = 200, description = "Deleted.", body = Enveloped<ZoneCertificate>),
        (status = 404, description = "No such zone, or no such certificate in it.", body = Refusal),
        (status = 500, description = "It could not be stored; nothing was changed.", body = Refusal),
    )
)]
pub(in crate::api) async fn remove(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments((zone, certificate)): Segments<(String, String)>,
) -> Answer<ZoneCertificate> {
    let project = caller.zone(&management.registry, &zone, Need::Write)?;
    let id = path_id(&certificate, Holder::Zone)?;
    let released = management.control.release(&project, Holder::Zone, &id).await;
    let released = released.map_err(|error| refused(error, Holder::Zone))?;
    Ok(Enveloped::of(ZoneCertificate::deleted(&released, is_on(&project))))
}

/// Whether the zone's newest certificate is presented.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CloudflareZoneSettings)]
pub(in crate::api) struct Settings {
    /// On or off.
    enabled: bool,
}

/// Whether the zone's newest certificate is presented project-wide
#[utoipa::path(
    get, path = "/client/v4/zones/{zone_id}/origin_tls_client_auth/settings", operation_id = "cloudflareGetZoneSettings",
    tag = "cloudflare", params(ZonePath),
    responses(
        (status = 200, description = "The setting; off for a new zone.", body = Enveloped<Settings>),
        (status = 404, description = "No project carries this zone.", body = Refusal),
    )
)]
pub(in crate::api) async fn settings(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(zone): Segments<String>,
) -> Answer<Settings> {
    let project = caller.zone(&management.registry, &zone, Need::Read)?;
    Ok(Enveloped::of(Settings { enabled: is_on(&project) }))
}

/// Present the zone's newest certificate project-wide, or stop doing so
///
/// Hostnames and what other ways of the API have bound are not concerned.
#[utoipa::path(
    put, path = "/client/v4/zones/{zone_id}/origin_tls_client_auth/settings", operation_id = "cloudflarePutZoneSettings",
    tag = "cloudflare", params(ZonePath), request_body = SettingsBody,
    responses(
        (status = 200, description = "In force from now on.", body = Enveloped<Settings>),
        (status = 404, description = "No project carries this zone.", body = Refusal),
        (status = 500, description = "It could not be stored; nothing was changed.", body = Refusal),
    )
)]
pub(in crate::api) async fn set(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(zone): Segments<String>,
    request: Request,
) -> Answer<Settings> {
    let project = caller.zone(&management.registry, &zone, Need::Write)?;
    let body = body::read(request, &management.limits).await?;
    caller.still_in(&management.registry)?;
    let enabled = read_settings(&body)?;
    let set = management.control.set_zone(&project, enabled).await;
    set.map_err(|error| refused(error, Holder::Zone))?;
    Ok(Enveloped::of(Settings { enabled }))
}
