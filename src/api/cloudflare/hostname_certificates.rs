//! Per-hostname origin pulls: the certificates that hostnames of a zone may be associated with.

use std::sync::Arc;

use axum::extract::{Request, State};

use super::documents::{CertificatePath, ZoneUploadBody};
use super::envelope::{Answer, Enveloped, EnvelopedList, ListAnswer, Refusal};
use super::path_id;
use super::query::{Asked, PagingQuery};
use super::refused::{not_shown, refused};
use super::retry::Retried;
use super::shapes::HostnameCertificate;
use super::zone_certificates::upload;
use crate::api::Management;
use crate::api::auth::{Caller, Need};
use crate::api::openapi::ZonePath;
use crate::api::request::Segments;
use crate::domain::Holder;

/// List hostname certificates
#[utoipa::path(
    get, path = "/client/v4/zones/{zone_id}/origin_tls_client_auth/hostnames/certificates", operation_id = "cloudflareListHostnameCertificates",
    tag = "cloudflare", params(ZonePath, PagingQuery),
    responses(
        (status = 200, description = "All of them, oldest first.", body = EnvelopedList<HostnameCertificate>),
        (status = 404, description = "No project carries this zone.", body = Refusal),
    )
)]
pub(in crate::api) async fn list(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(zone): Segments<String>,
    asked: Asked,
) -> ListAnswer<HostnameCertificate> {
    let project = caller.zone(&management.registry, &zone, Need::Read)?;
    let listed = management.control.listed(&project, Holder::Hostnames);
    let (shown, info) = asked.paging()?.cut(listed);
    Ok(EnvelopedList::of(shown.iter().map(HostnameCertificate::of).collect(), info))
}

/// Upload a hostname certificate
///
/// It is presented nowhere before a hostname is associated with it. The same certificate again is refused, unless
/// `X-Stainless-Retry-Count` says that this is a second try of what was stored moments ago.
#[utoipa::path(
    post, path = "/client/v4/zones/{zone_id}/origin_tls_client_auth/hostnames/certificates", operation_id = "cloudflareCreateHostnameCertificate",
    tag = "cloudflare", params(ZonePath), request_body = ZoneUploadBody,
    responses(
        (status = 200, description = "Stored, and ready to be associated.", body = Enveloped<HostnameCertificate>),
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
) -> Answer<HostnameCertificate> {
    let project = caller.zone(&management.registry, &zone, Need::Write)?;
    let shown = upload(&management, &caller, (&project, Holder::Hostnames), retry, request).await?;
    Ok(Enveloped::of(HostnameCertificate::of(&shown)))
}

/// A hostname certificate
///
/// After a delete it is shown as `pending_deletion` as long as connections of it are finishing.
#[utoipa::path(
    get, path = "/client/v4/zones/{zone_id}/origin_tls_client_auth/hostnames/certificates/{certificate_id}",
    operation_id = "cloudflareGetHostnameCertificate", tag = "cloudflare", params(ZonePath, CertificatePath),
    responses(
        (status = 200, description = "The certificate.", body = Enveloped<HostnameCertificate>),
        (status = 404, description = "No such zone, or no such certificate in it.", body = Refusal),
    )
)]
pub(in crate::api) async fn get(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments((zone, certificate)): Segments<(String, String)>,
) -> Answer<HostnameCertificate> {
    let project = caller.zone(&management.registry, &zone, Need::Read)?;
    let id = path_id(&certificate, Holder::Hostnames)?;
    let shown = management.control.listed_one(&project, Holder::Hostnames, &id);
    let shown = shown.map_err(|error| not_shown(error, Holder::Hostnames))?;
    Ok(Enveloped::of(HostnameCertificate::of(&shown)))
}

/// Delete a hostname certificate
///
/// Refused (400, 1433) while a hostname is associated with it, enabled or not: end the association first (`enabled` as
/// null), or give the hostname another certificate.
#[utoipa::path(
    delete, path = "/client/v4/zones/{zone_id}/origin_tls_client_auth/hostnames/certificates/{certificate_id}",
    operation_id = "cloudflareDeleteHostnameCertificate", tag = "cloudflare", params(ZonePath, CertificatePath),
    responses(
        (status = 200, description = "Deleted.", body = Enveloped<HostnameCertificate>),
        (status = 404, description = "No such zone, or no such certificate in it.", body = Refusal),
        (status = 500, description = "It could not be stored; nothing was changed.", body = Refusal),
    )
)]
pub(in crate::api) async fn remove(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments((zone, certificate)): Segments<(String, String)>,
) -> Answer<HostnameCertificate> {
    let project = caller.zone(&management.registry, &zone, Need::Write)?;
    let id = path_id(&certificate, Holder::Hostnames)?;
    let released = management.control.release(&project, Holder::Hostnames, &id).await;
    let released = released.map_err(|error| refused(error, Holder::Hostnames))?;
    Ok(Enveloped::of(HostnameCertificate::deleted(&released)))
}
