//! egret's own: which certificate was ever shown to which origin.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::Management;
use super::auth::{Caller, Need};
use super::openapi::{ProjectPath, TeamQuery};
use super::problem::{Answer, ErrorBody, Problem};
use super::request::{Query, Segments};
use crate::domain::time::rfc3339;
use crate::domain::{CertificateId, Host, Origin};
use crate::registry::Disclosure;

/// What the ledger holds of a project.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Disclosures)]
pub(super) struct Listed {
    /// By origin, and the certificates of each by when it first saw them.
    disclosures: Vec<ListedDisclosure>,
    /// How many entries of the project made room for others at `limits.max_disclosures` and are not known any more.
    #[schema(minimum = 0)]
    dropped: u64,
}

/// A certificate that was sent to an origin, which had asked for one, in a TLS handshake.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Disclosure)]
struct ListedDisclosure {
    /// The certificate, which may have been replaced or deleted since.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "cert_0123456789abcdef0123456789abcdef")]
    certificate: String,
    /// SHA-256 of it.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    fingerprint: String,
    /// Upper-case hex, as openssl prints it; the first 256 characters.
    #[schema(pattern = "^-?[0-9A-F]+$")]
    serial_number: String,
    /// RFC 4514; the first 256 characters.
    subject: String,
    /// Who saw it.
    #[schema(pattern = "^https://.+$", example = "https://api.example.com")]
    origin: String,
    /// Where that was the last time: address and port. Absent where only a parent proxy knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "203.0.113.7:443")]
    address: Option<String>,
    /// The rule that chose it the last time: `exact`, `wildcard` or `default`.
    #[schema(pattern = "^(exact|wildcard|default)$")]
    rule: &'static str,
    /// The first time.
    #[schema(format = DateTime)]
    first: String,
    /// The last time that it was sent; requests on a connection that is open, and resumed sessions, send none.
    #[schema(format = DateTime)]
    last: String,
    /// How many handshakes it was sent in.
    #[schema(minimum = 1)]
    count: u64,
}

impl ListedDisclosure {
    fn of(disclosure: &Disclosure) -> Self {
        Self {
            certificate: disclosure.certificate.to_string(),
            fingerprint: disclosure.fingerprint.to_string(),
            serial_number: disclosure.serial_number.clone(),
            subject: disclosure.subject.clone(),
            origin: disclosure.origin.to_string(),
            address: disclosure.address.map(|address| address.to_string()),
            rule: disclosure.rule.as_str(),
            first: rfc3339(disclosure.first),
            last: rfc3339(disclosure.last),
            count: disclosure.count,
        }
    }
}

/// What is asked for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documentation; the handler reads `request::Query`")]
struct DisclosuresQuery {
    /// Only of this certificate
    #[param(nullable = false, pattern = "^[A-Za-z0-9_-]{1,64}$", example = "cert_0123456789abcdef0123456789abcdef")]
    certificate: Option<String>,
    /// Only to this host, on every port; or an origin: only to that
    #[param(nullable = false, min_length = 1, max_length = 2048, example = "api.example.com")]
    host: Option<String>,
}

/// List which certificate was shown to which origin
///
/// A bounded ledger that outlives restarts, and the certificates in it.
#[utoipa::path(
    get, path = "/v1/projects/{idOrName}/disclosures", operation_id = "listDisclosures", tag = "egret",
    params(ProjectPath, DisclosuresQuery, TeamQuery),
    responses(
        (status = 200, description = "What is known of the project.", body = Listed),
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
    let certificate = match query.certificate.as_deref().map(CertificateId::parse) {
        Some(None) => return Err(Problem::bad_request("certificate: this is not the id of a certificate")),
        Some(id) => id,
        None => None,
    };
    let wanted = query.host.as_deref().map(Wanted::parse).transpose()?;
    let known = management.control.disclosures().of(project.id());
    let is_wanted = |d: &&Disclosure| {
        certificate.as_ref().is_none_or(|id| d.certificate == *id) && wanted.as_ref().is_none_or(|w| w.has(&d.origin))
    };
    let disclosures = known.entries.iter().filter(is_wanted).map(ListedDisclosure::of).collect();
    Ok(Json(Listed { disclosures, dropped: known.dropped }))
}

/// Which origins `host` means.
enum Wanted {
    Host(Host),
    Origin(Origin),
}

impl Wanted {
    fn parse(text: &str) -> Result<Self, Problem> {
        if text.contains("://") {
            let origin = Origin::parse(text);
            return origin.map(Self::Origin).map_err(|why| Problem::bad_request(format!("host: {why}")));
        }
        Host::parse(text).map(Self::Host).map_err(|why| Problem::bad_request(format!("host: {why}")))
    }

    fn has(&self, origin: &Origin) -> bool {
        match self {
            Self::Host(host) => origin.host() == host,
            Self::Origin(wanted) => origin == wanted,
        }
    }
}
