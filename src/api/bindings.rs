//! egret's own: what is presented where, *none* included.

use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Management;
use super::auth::{Caller, Need};
use super::body;
use super::fields::Fields;
use super::openapi::{BoundQuery, DrainQuery, OriginQuery, ProjectPath, TeamQuery};
use super::problem::{Answer, ErrorBody, Problem};
use super::request::{Query, Segments};
use crate::control::{Control, Pending, Properties};
use crate::domain::time::{now, rfc3339};
use crate::domain::{CertificateId, Pattern, ProjectId, Source};
use crate::registry::{Binding, Snapshot, Target, Vouch};

/// What a list answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Bindings)]
pub(super) struct Listed {
    /// By pattern, the project-wide ones first: of two of these the one in front is in force; of one pattern what is presented
    /// there before the CA bundles.
    bindings: Vec<ListedBinding>,
    /// Certificates that are being tried out (`stage=probe`), and presented to nobody else yet.
    pending: Vec<PendingCertificate>,
}

/// A certificate that is being tried out at an origin.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PendingCertificate)]
pub(super) struct PendingCertificate {
    /// The id of its project.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    project: String,
    /// The pattern where it is to be presented; `*`: project-wide.
    #[schema(pattern = r"^(\*|https://.+)$", example = "https://api.example.com")]
    origin: String,
    /// The id that it has once it is in force.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "cert_0123456789abcdef0123456789abcdef")]
    cert_id: String,
    /// Where it is tried out.
    #[schema(pattern = "^https://.+$", example = "https://api.example.com")]
    probe: String,
    /// End of validity.
    #[schema(format = DateTime)]
    not_after: String,
    /// Since when.
    #[schema(format = DateTime)]
    since: String,
}

impl PendingCertificate {
    /// Those of a project, oldest first.
    pub(super) fn of(control: &Control, project: &ProjectId) -> Vec<Self> {
        let shown = |pending: Pending| Self {
            project: pending.project.to_string(),
            origin: pending.pattern.to_string(),
            cert_id: pending.info.id.to_string(),
            probe: pending.origin.to_string(),
            not_after: rfc3339(pending.info.not_after),
            since: rfc3339(pending.since),
        };
        control.pending(project).into_iter().map(shown).collect()
    }
}

/// What is presented where.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Binding)]
struct ListedBinding {
    /// The pattern; `*`: project-wide.
    #[schema(pattern = r"^(\*|https://.+)$", example = "https://api.example.com")]
    origin: String,
    /// The certificate; `null`: *none*, nothing is presented here. With `ca` a CA bundle of the project's account.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "cert_0123456789abcdef0123456789abcdef")]
    #[schema(required)]
    cert_id: Option<String>,
    /// Always true: a CA bundle, which vouches for the servers here and presents nothing. Left out of all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    ca: Option<bool>,
    /// Who wrote it: `api` or `file`.
    #[schema(pattern = "^(api|file)$")]
    source: &'static str,
    /// Whether plain http to it may be lifted to TLS; what the project's `lift` says counts as well.
    lift: bool,
    /// Whether its certificate is presented over TLS 1.3 only: TLS 1.2 sends it in the clear.
    tls13_only: bool,
    /// Since when.
    #[schema(format = DateTime)]
    since: String,
    /// The configuration file that declares it: then the API does not change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    file: Option<String>,
    /// Until when it can be rolled back to the certificate before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    rollback_until: Option<String>,
    /// It follows from the certificates of the zone, and is changed by changing these. Only if so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    derived: bool,
    /// `false` where another project-wide binding is presented in its stead: a later one, or one that a file declares.
    #[serde(skip_serializing_if = "Clone::clone")]
    #[schema(required = false)]
    in_force: bool,
    /// The hostname association that it stands for (Cloudflare's dialect).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    association: Option<ListedAssociation>,
}

/// A hostname of the zone and the certificate that was named for it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = HostnameAssociation)]
struct ListedAssociation {
    /// The certificate, also where it is switched off and merely remembered; `null`: that was deleted.
    #[schema(required, pattern = "^[A-Za-z0-9_-]{1,64}$")]
    cert_id: Option<String>,
    /// Whether it is presented; if not, nothing is.
    enabled: bool,
    /// When the hostname was first associated.
    #[schema(format = DateTime)]
    created_at: String,
}

/// What is to be presented where. Only documented here: [`read_binding`] reads it.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = BindingWanted)]
#[expect(dead_code, reason = "the schema of a body that is read by hand")]
struct BindingBody {
    /// The pattern: `https://host[:port]`, `https://host:*`, `https://*.example.com`, or `*` for the whole project.
    #[schema(min_length = 1, max_length = 2048, example = "https://api.example.com")]
    origin: String,
    /// A certificate of the project, or a leaf among its account's mTLS certificates; `null`: *none*, present nothing here. Or a
    /// CA bundle of the account: then its CAs may vouch for the servers here, beside whatever is bound here; several bundles may.
    #[schema(required, example = "cert_0123456789abcdef0123456789abcdef")]
    cert_id: Option<String>,
    /// Whether plain http to it may be lifted to TLS. Left out: as it was, and true for a new binding. Not with a CA bundle.
    #[schema(nullable = false)]
    lift: Option<bool>,
    /// Whether the certificate is presented over TLS 1.3 only, since TLS 1.2 sends it in the clear. Left out: as it was,
    /// and false for a new binding. Not with a `certId` of null or a CA bundle.
    #[schema(nullable = false)]
    tls13_only: Option<bool>,
}

/// What a change answers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BindingWritten)]
pub(super) struct Bound {
    /// Whether there was a binding of this pattern before; of a CA bundle, whether it was bound there already.
    updated: bool,
    /// The pattern.
    #[schema(pattern = r"^(\*|https://.+)$", example = "https://api.example.com")]
    origin: String,
    /// The certificate, or `null` for *none*.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "cert_0123456789abcdef0123456789abcdef")]
    #[schema(required)]
    cert_id: Option<String>,
    /// Always true: it is a CA bundle, which vouches for the servers there. Left out of all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    ca: Option<bool>,
}

/// What a removal answers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BindingRemoved)]
pub(super) struct Unbound {
    /// The pattern.
    #[schema(pattern = r"^(\*|https://.+)$", example = "https://api.example.com")]
    origin: String,
    /// The CA bundle that vouches for the servers there no more; left out where it was what is presented there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[A-Za-z0-9_-]{1,64}$", example = "0123456789abcdef0123456789abcdef")]
    cert_id: Option<String>,
}

/// What a rollback answers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BindingRolledBack)]
pub(super) struct RolledBack {
    /// The pattern.
    #[schema(pattern = r"^(\*|https://.+)$", example = "https://api.example.com")]
    origin: String,
    /// The certificate that is in force there now.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "cert_0123456789abcdef0123456789abcdef")]
    cert_id: String,
}

impl ListedBinding {
    fn of(snapshot: &Snapshot, binding: &Arc<Binding>) -> Self {
        let association = binding.association.as_ref().map(|association| ListedAssociation {
            cert_id: association.certificate.as_ref().map(CertificateId::to_string),
            enabled: !matches!(binding.target, Target::None),
            created_at: rfc3339(association.created_at),
        });
        Self {
            derived: binding.derived,
            in_force: snapshot.covered().is_none_or(|covered| !Arc::ptr_eq(covered, binding)),
            association,
            origin: binding.pattern.to_string(),
            cert_id: binding.target.certificate_id().map(CertificateId::to_string),
            ca: None,
            source: binding.source.as_str(),
            lift: binding.lift,
            tls13_only: binding.tls13_only,
            since: rfc3339(binding.since),
            file: file_of(&binding.source),
            rollback_until: binding.previous.as_ref().filter(|p| p.until > now()).map(|p| rfc3339(p.until)),
        }
    }
}

impl ListedBinding {
    fn of_bundle(vouch: &Vouch) -> Self {
        Self {
            origin: vouch.pattern.to_string(),
            cert_id: Some(vouch.certificate.to_string()),
            ca: Some(true),
            source: Source::Api.as_str(),
            lift: false,
            tls13_only: false,
            since: rfc3339(vouch.since),
            file: None,
            rollback_until: None,
            derived: false,
            in_force: true,
            association: None,
        }
    }

    /// What is presented where, and who vouches there.
    fn all(snapshot: &Snapshot) -> Vec<Self> {
        let bindings = snapshot.bindings();
        let vouching = &snapshot.roster().vouching;
        let mut all: Vec<(&Pattern, Self)> = bindings.iter().map(|b| (&b.pattern, Self::of(snapshot, b))).collect();
        all.extend(vouching.iter().map(|vouch| (&vouch.pattern, Self::of_bundle(vouch))));
        all.sort_by_key(|(pattern, _)| *pattern);
        all.into_iter().map(|(_, listed)| listed).collect()
    }
}

/// The configuration file that declares something.
pub(super) fn file_of(source: &Source) -> Option<String> {
    match source {
        Source::Api => None,
        Source::File(path) => Some(Path::display(path).to_string()),
    }
}

/// List what is presented where
#[utoipa::path(
    get, path = "/v1/projects/{idOrName}/bindings", operation_id = "listBindings", tag = "egret",
    params(ProjectPath, TeamQuery),
    responses(
        (status = 200, description = "All bindings, *none* included.", body = Listed),
        (status = 404, description = "No such project.", body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(id_or_name): Segments<String>,
    query: Query,
) -> Answer<Listed> {
    let project = caller.project(&management.registry, &id_or_name, &query, Need::Read)?;
    Ok(Json(Listed {
        bindings: ListedBinding::all(&project.snapshot()),
        pending: PendingCertificate::of(&management.control, project.id()),
    }))
}

/// Bind a certificate, a CA bundle, or none, to a pattern
#[utoipa::path(
    put, path = "/v1/projects/{idOrName}/bindings", operation_id = "putBinding", tag = "egret",
    params(ProjectPath, TeamQuery), request_body = BindingBody,
    responses(
        (status = 200, description = "Bound, and in force from now on.", body = Bound),
        (status = 403, description = "The token does not allow it, or a configuration file declares this place.", body = ErrorBody),
        (status = 404, description = "No such project or certificate.", body = ErrorBody),
        (status = 409, description = "The project is being transferred.", body = ErrorBody),
        (status = 500, description = "It could not be stored; nothing was changed.", body = ErrorBody),
    )
)]
pub(super) async fn put(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(id_or_name): Segments<String>,
    query: Query,
    request: Request,
) -> Answer<Bound> {
    let project = caller.project(&management.registry, &id_or_name, &query, Need::Write)?;
    let body = body::read(request, &management.limits).await?;
    caller.still_in(&management.registry)?;
    let Written { pattern, certificate, properties } = read_binding(&body)?;
    let bundle = certificate.as_ref().filter(|id| management.control.is_bundle(&project, id));
    let answer = Bound {
        updated: false,
        origin: pattern.to_string(),
        cert_id: certificate.as_ref().map(CertificateId::to_string),
        ca: bundle.map(|_| true),
    };
    let updated = match bundle {
        None => management.control.bind(&project, pattern, certificate.as_ref(), properties).await?,
        Some(_) if properties != Properties::default() => {
            let what = "lift and tls13Only mean nothing for a CA bundle, which is not presented; leave them out";
            return Err(Problem::bad_request(what));
        }
        Some(bundle) => management.control.vouch(&project, pattern, bundle).await?,
    };
    Ok(Json(Bound { updated, ..answer }))
}

/// Remove a binding
///
/// The certificate stays. Without `certId` it is what is presented there; where nothing is, the one CA bundle that is bound
/// there (of several `certId` says which).
#[utoipa::path(
    delete, path = "/v1/projects/{idOrName}/bindings", operation_id = "deleteBinding", tag = "egret",
    params(ProjectPath, OriginQuery, BoundQuery, TeamQuery),
    responses(
        (status = 200, description = "Removed.", body = Unbound),
        (status = 403, description = "The token does not allow it, or a configuration file declares this place.", body = ErrorBody),
        (status = 404, description = "No such project or binding.", body = ErrorBody),
        (status = 409, description = "The project is being transferred.", body = ErrorBody),
        (status = 500, description = "It could not be stored; nothing was changed.", body = ErrorBody),
    )
)]
pub(super) async fn remove(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(id_or_name): Segments<String>,
    query: Query,
) -> Answer<Unbound> {
    let project = caller.project(&management.registry, &id_or_name, &query, Need::Write)?;
    let pattern = query.origin()?;
    let origin = pattern.to_string();
    let certificate = query.cert_id.as_deref().map(|text| CertificateId::parse(text).ok_or(text)).transpose();
    let certificate = certificate.map_err(|_| Problem::not_found("binding"))?;
    let bundle = which_bundle(&project.snapshot(), &pattern, certificate.clone())?;
    match &bundle {
        None => match &certificate {
            None => management.control.unbind(&project, &pattern).await?,
            Some(own) => management.control.unbind_one((&project, &pattern), own).await?,
        },
        Some(bundle) => management.control.withdraw_vouch(&project, &pattern, bundle).await?,
    }
    Ok(Json(Unbound { origin, cert_id: bundle.map(|id| id.to_string()) }))
}

/// Which CA bundle a removal is about; `None`: it is about what is presented there.
fn which_bundle(
    snapshot: &Snapshot,
    pattern: &Pattern,
    named: Option<CertificateId>,
) -> Result<Option<CertificateId>, Problem> {
    let own = snapshot.binding(pattern);
    if let Some(id) = named {
        let is_own = own.is_some_and(|own| own.target.certificate_id() == Some(&id));
        return Ok((!is_own).then_some(id));
    }
    if own.is_some() || snapshot.is_quarantined(pattern) {
        return Ok(None);
    }
    let mut bundles = snapshot.roster().vouching.iter().filter(|vouch| vouch.pattern == *pattern);
    match (bundles.next(), bundles.next()) {
        (only, None) => Ok(only.map(|vouch| vouch.certificate.clone())),
        (_, Some(_)) => Err(Problem::bad_request("several CA bundles are bound here; say with certId which one")),
    }
}

/// Roll a binding back to the certificate before
///
/// One step: a replaced certificate is kept for `limits.rollback_window`. It is put back in force as any other
/// replacement is, under its old id; the newer one is gone then.
#[utoipa::path(
    post, path = "/v1/projects/{idOrName}/bindings/rollback", operation_id = "rollbackBinding", tag = "egret",
    params(ProjectPath, OriginQuery, TeamQuery, DrainQuery),
    responses(
        (status = 200, description = "The certificate before is in force again.", body = RolledBack),
        (status = 403, description = "The token does not allow it, or a configuration file declares this place.", body = ErrorBody),
        (status = 404, description = "No such project or binding, or no certificate to go back to.", body = ErrorBody),
        (status = 409, description = "The project is being transferred.", body = ErrorBody),
        (status = 500, description = "It could not be stored; nothing was changed.", body = ErrorBody),
    )
)]
pub(super) async fn roll_back(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(id_or_name): Segments<String>,
    query: Query,
) -> Answer<RolledBack> {
    let project = caller.project(&management.registry, &id_or_name, &query, Need::Write)?;
    let (pattern, drain) = (query.origin()?, query.drain()?);
    let certificate = management.control.roll_back(&project, &pattern, drain).await?;
    Ok(Json(RolledBack { origin: pattern.to_string(), cert_id: certificate.info.id.to_string() }))
}

/// What a binding is to be.
#[derive(Debug)]
struct Written {
    pattern: Pattern,
    /// `None`: *none*.
    certificate: Option<CertificateId>,
    properties: Properties,
}

/// `{origin, certId | null, lift?, tls13Only?}`, the first two required: *none* is a decision and not an omission.
fn read_binding(body: &[u8]) -> Result<Written, Problem> {
    let mut fields = Fields::parse(body)?;
    let origin = fields.text("origin");
    let certificate = fields.text_or_null("certId");
    let properties = Properties { lift: fields.optional_flag("lift"), tls13_only: fields.optional_flag("tls13Only") };
    fields.finish()?;
    let pattern = Pattern::parse(&origin).map_err(|why| Problem::bad_request(format!("origin: {why}")))?;
    let id = certificate.map(|text| CertificateId::parse(&text).ok_or_else(|| Problem::not_found("certificate")));
    Ok(Written { pattern, certificate: id.transpose()?, properties })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_binding_and_none() {
        let written = read_binding(br#"{"origin":"*.Example.com:*","certId":"cert_1"}"#).unwrap();
        assert_eq!(written.pattern.to_string(), "https://*.example.com:*");
        assert_eq!((written.certificate.unwrap().as_str(), written.properties), ("cert_1", Properties::default()));
        let none = read_binding(br#"{"origin":"a.test","certId":null,"lift":false}"#).unwrap();
        assert_eq!((none.certificate, none.properties.lift), (None, Some(false)));
        let strict = read_binding(br#"{"origin":"a.test","certId":"cert_1","tls13Only":true}"#).unwrap();
        assert_eq!(strict.properties, Properties { lift: None, tls13_only: Some(true) });
    }

    #[test]
    fn wants_both_fields_and_a_possible_id() {
        let refused = |body: &[u8]| read_binding(body).unwrap_err();
        assert!(format!("{:?}", refused(b"{}")).contains("missing fields: origin, certId"));
        assert!(format!("{:?}", refused(br#"{"origin":"a.test"}"#)).contains("missing field: certId"));
        assert!(
            format!("{:?}", refused(br#"{"origin":"a.test","certId":1}"#))
                .contains("certId must be a string or null, not a number")
        );
        assert!(
            format!("{:?}", refused(br#"{"origin":"a.test","certId":null,"lift":"no"}"#))
                .contains("lift must be true or false, not a string")
        );
        assert!(format!("{:?}", refused(br#"{"origin":"","certId":null}"#)).contains("origin: the origin is empty"));
        assert_eq!(refused(br#"{"origin":"a.test","certId":"../x"}"#).status(), 404);
    }
}
