//! Account mTLS certificates: client certificates and CA bundles, which every project of the account may bind
//! (`PUT /v1/projects/{p}/bindings`).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::bodies::AccountUpload;
use super::documents::{AccountUploadBody, CertificatePath};
use super::envelope::{Answer, Enveloped, EnvelopedList, ListAnswer, Refusal};
use super::query::{Asked, PagingQuery};
use super::refused::{no_certificate, not_shown, refused};
use super::retry::Retried;
use super::scope::Account;
use super::shapes::{Facts, Status, id_of};
use super::{codes, path_id};
use crate::api::Management;
use crate::api::auth::{Caller, Need};
use crate::api::body;
use crate::api::openapi::AccountPath;
use crate::api::problem::Problem;
use crate::api::request::Segments;
use crate::control::{self, AccountUse, ControlError};
use crate::domain::time::rfc3339;
use crate::domain::{CertificateId, Holder};
use crate::registry::AccountCertificate;

/// A client certificate or a CA bundle of an account. Of one whose record is damaged, only the id is known.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CloudflareMtlsCertificate)]
pub(in crate::api) struct MtlsCertificate {
    /// 32 hex digits.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "0123456789abcdef0123456789abcdef")]
    id: String,
    /// Whether it is a CA bundle; else a client certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    ca: Option<bool>,
    /// As uploaded, byte for byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    certificates: Option<String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    name: Option<String>,
    #[serde(flatten)]
    facts: Facts,
    /// `custom`: it was uploaded.
    #[schema(pattern = "^custom$")]
    r#type: &'static str,
    /// When it was uploaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    uploaded_on: Option<String>,
    /// The same; only in the answer to an upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    updated_at: Option<String>,
}

impl MtlsCertificate {
    fn of(certificate: &AccountCertificate) -> Self {
        Self {
            id: id_of(&certificate.info.id),
            ca: Some(certificate.ca),
            certificates: Some(certificate.pem.clone()),
            name: certificate.name.clone(),
            facts: Facts::of(&certificate.info),
            r#type: "custom",
            uploaded_on: Some(rfc3339(certificate.updated_at)),
            updated_at: None,
        }
    }

    fn lost(id: &CertificateId) -> Self {
        Self {
            id: id_of(id),
            ca: None,
            certificates: None,
            name: None,
            facts: Facts::default(),
            r#type: "custom",
            uploaded_on: None,
            updated_at: None,
        }
    }
}

/// A place that a certificate is bound to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CloudflareMtlsAssociation)]
pub(in crate::api) struct Association {
    /// `egress`: a binding of a project of the account.
    #[schema(pattern = "^egress$")]
    service: &'static str,
    status: Status,
}

impl Association {
    fn of(place: &AccountUse) -> Self {
        let status = match (place.unavailable, place.in_force) {
            (true, _) => Status::DeploymentTimedOut,
            (false, true) => Status::Active,
            (false, false) => Status::PendingDeployment,
        };
        Self { service: "egress", status }
    }
}

/// Which certificates are wanted.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documentation; handlers read `Asked`")]
pub(in crate::api) struct MtlsQuery {
    /// Of these types: `custom`, `gateway_managed`, `access_managed`; several times, or with commas between them. All
    /// that egret has are `custom`
    #[param(
        nullable = false,
        pattern = "^((custom|gateway_managed|access_managed)(,(custom|gateway_managed|access_managed))*)?$"
    )]
    r#type: Option<String>,
    /// CA bundles, or client certificates
    #[param(nullable = false, pattern = "^(true|false)?$")]
    ca: Option<String>,
    /// Of exactly this name
    #[param(nullable = false)]
    name: Option<String>,
}

/// List an account's certificates
#[utoipa::path(
    get, path = "/client/v4/accounts/{account_id}/mtls_certificates", operation_id = "cloudflareListMtlsCertificates",
    tag = "cloudflare", params(AccountPath, MtlsQuery, PagingQuery),
    responses(
        (status = 200, description = "All that is asked for, oldest first.", body = EnvelopedList<MtlsCertificate>),
        (status = 404, description = "No project carries this account.", body = Refusal),
    )
)]
pub(in crate::api) async fn list(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(account): Segments<String>,
    asked: Asked,
) -> ListAnswer<MtlsCertificate> {
    let account = caller.account(&management.registry, &account, Need::Read)?;
    let paging = asked.paging()?;
    let ca = asked.word("ca", &["true", "false"])?.map(|word| word == "true");
    let name = asked.one("name")?;
    let types: Vec<&str> = asked.several("type").collect();
    if types.iter().any(|kind| !["custom", "gateway_managed", "access_managed"].contains(kind)) {
        let message = "type: is none of custom, gateway_managed, access_managed; give one or several of them";
        return Err(Problem::bad_request(message));
    }
    let accounts = management.control.accounts();
    let mut held = accounts.list(&account.id);
    held.retain(|held| ca.is_none_or(|ca| held.ca == ca) && name.is_none_or(|name| held.name.as_deref() == Some(name)));
    let mut shown: Vec<_> = held.iter().map(|held| MtlsCertificate::of(held)).collect();
    // Of those that are damaged nobody knows what they were.
    if ca.is_none() && name.is_none() {
        shown.extend(accounts.lost(&account.id).iter().map(|lost| MtlsCertificate::lost(&lost.id)));
    }
    if !types.is_empty() && !types.contains(&"custom") {
        shown.clear();
    }
    let (shown, info) = paging.cut(shown);
    Ok(EnvelopedList::of(shown, info))
}

/// Upload a client certificate or a CA bundle to an account
///
/// It is presented nowhere, and vouches for nobody, before a project of the account binds it
/// (`PUT /v1/projects/{idOrName}/bindings`). It takes a token that reaches every project of the account. The same
/// certificates again are refused, unless `X-Stainless-Retry-Count` says that this is a second try of what was stored
/// moments ago.
#[utoipa::path(
    post, path = "/client/v4/accounts/{account_id}/mtls_certificates", operation_id = "cloudflareCreateMtlsCertificate",
    tag = "cloudflare", params(AccountPath), request_body = AccountUploadBody,
    responses(
        (status = 200, description = "Stored, and ready to be bound.", body = Enveloped<MtlsCertificate>),
        (status = 402, description = "The projects of the account are blocked.", body = Refusal),
        (status = 404, description = "No project carries this account.", body = Refusal),
        (status = 500, description = "It could not be encrypted or stored; nothing was changed.", body = Refusal),
    )
)]
pub(in crate::api) async fn create(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(account): Segments<String>,
    Retried(retry): Retried,
    request: Request,
) -> Answer<MtlsCertificate> {
    let account = caller.account(&management.registry, &account, Need::Write)?;
    let body = body::read(request, &management.limits).await?;
    caller.still_in(&management.registry)?;
    let AccountUpload { ca, certificates, name, private_key } =
        AccountUpload::read(&body, management.limits.max_pem())?;
    drop(body);
    let without_use = ca && private_key.is_some();
    let key = private_key.filter(|_| !ca);
    let upload = control::AccountUpload { ca, name, certificates, key, by: caller.token().clone(), retry };
    let held = management.control.account_upload(&account.id, upload).await;
    let held = held.map_err(|error| refused(error, Holder::Account))?;
    let shown = MtlsCertificate { updated_at: Some(rfc3339(held.updated_at)), ..MtlsCertificate::of(&held) };
    if without_use {
        return Ok(Enveloped::saying(
            shown,
            codes::NOTICE,
            "private_key: a CA bundle has no use for it; it was not kept",
        ));
    }
    Ok(Enveloped::of(shown))
}

/// A certificate of an account
#[utoipa::path(
    get, path = "/client/v4/accounts/{account_id}/mtls_certificates/{certificate_id}",
    operation_id = "cloudflareGetMtlsCertificate", tag = "cloudflare", params(AccountPath, CertificatePath),
    responses(
        (status = 200, description = "The certificate.", body = Enveloped<MtlsCertificate>),
        (status = 404, description = "No such account, or no such certificate in it.", body = Refusal),
    )
)]
pub(in crate::api) async fn get(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments((account, certificate)): Segments<(String, String)>,
) -> Answer<MtlsCertificate> {
    let account = caller.account(&management.registry, &account, Need::Read)?;
    let id = path_id(&certificate, Holder::Account)?;
    let accounts = management.control.accounts();
    if let Some(held) = accounts.get(&account.id, &id) {
        return Ok(Enveloped::of(MtlsCertificate::of(&held)));
    }
    if accounts.lost(&account.id).iter().any(|lost| lost.id == id) {
        return Ok(Enveloped::of(MtlsCertificate::lost(&id)));
    }
    Err(none(&management, &account, &id))
}

/// Delete a certificate of an account
///
/// Refused (400, 1433) while a project binds it: `associations` counts the bindings. It takes a token that reaches every
/// project of the account.
#[utoipa::path(
    delete, path = "/client/v4/accounts/{account_id}/mtls_certificates/{certificate_id}",
    operation_id = "cloudflareDeleteMtlsCertificate", tag = "cloudflare", params(AccountPath, CertificatePath),
    responses(
        (status = 200, description = "Deleted.", body = Enveloped<MtlsCertificate>),
        (status = 404, description = "No such account, or no such certificate in it.", body = Refusal),
        (status = 500, description = "It could not be stored; nothing was changed.", body = Refusal),
    )
)]
pub(in crate::api) async fn remove(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments((account, certificate)): Segments<(String, String)>,
) -> Answer<MtlsCertificate> {
    let account = caller.account(&management.registry, &account, Need::Write)?;
    let id = path_id(&certificate, Holder::Account)?;
    match management.control.account_delete(&account.id, &id).await {
        Ok(Some(deleted)) => Ok(Enveloped::of(MtlsCertificate::of(&deleted))),
        Ok(None) => Ok(Enveloped::of(MtlsCertificate::lost(&id))),
        Err(ControlError::NotFound("certificate")) => Err(none(&management, &account, &id)),
        Err(other) => Err(refused(other, Holder::Account)),
    }
}

/// List the places that a certificate of an account is bound to
///
/// One for every binding that names it, in any project of the account.
#[utoipa::path(
    get, path = "/client/v4/accounts/{account_id}/mtls_certificates/{certificate_id}/associations",
    operation_id = "cloudflareListMtlsAssociations", tag = "cloudflare", params(AccountPath, CertificatePath, PagingQuery),
    responses(
        (status = 200, description = "All of them.", body = EnvelopedList<Association>),
        (status = 404, description = "No such account, or no such certificate in it.", body = Refusal),
    )
)]
pub(in crate::api) async fn associations(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments((account, certificate)): Segments<(String, String)>,
    asked: Asked,
) -> Result<Json<EnvelopedList<Association>>, Problem> {
    let account = caller.account(&management.registry, &account, Need::Read)?;
    let paging = asked.paging()?;
    let id = path_id(&certificate, Holder::Account)?;
    if management.control.accounts().home(&id).as_deref() != Some(account.id.as_str()) {
        return Err(none(&management, &account, &id));
    }
    let uses = management.control.account_associations(&id);
    let (shown, info) = paging.cut(uses.iter().map(Association::of).collect());
    Ok(EnvelopedList::of(shown, info))
}

/// The account has no certificate with this id. Where a zone within the caller's reach has one, that is said.
fn none(management: &Management, account: &Account, id: &CertificateId) -> Problem {
    for project in &account.reached {
        for list in [Holder::Zone, Holder::Hostnames] {
            if management.control.listed_one(project, list, id).is_ok() {
                let wrong = ControlError::WrongList { held: list, wanted: Holder::Account };
                return not_shown(wrong, Holder::Account);
            }
        }
    }
    no_certificate(Holder::Account)
}
