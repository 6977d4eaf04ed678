//! egret's own: everything that may be told of one certificate. Never its key.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::Management;
use super::auth::{Caller, Need};
use super::bindings::file_of;
use super::openapi::{CertificatePath, ProjectPath, TeamQuery};
use super::problem::{Answer, ErrorBody, Problem};
use super::request::{Query, Segments};
use crate::control::Warning;
use crate::domain::time::{now, rfc3339};
use crate::domain::{CertificateId, CertificateInfo, Holder};
use crate::identity::{Life, UpstreamTls};
use crate::registry::{Binding, Project, Retired, Target};

/// What is told of a certificate. An unavailable one has only the first four fields.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CertificateDetails)]
pub(super) struct Details {
    /// Its id.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "cert_0123456789abcdef0123456789abcdef")]
    id: String,
    status: Status,
    /// The patterns that lead to it.
    bindings: Vec<String>,
    /// The list that it belongs to: `project` (the place that it was uploaded to or declared at), `zone`, `hostnames` (both
    /// hold it until it is deleted, bound or not) or `account`. Left out where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^(project|zone|hostnames|account)$")]
    holder: Option<&'static str>,
    /// What is presented project-wide in its stead.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    covered_by: Option<CoveredBy>,
    /// Why it is unavailable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    #[serde(flatten)]
    facts: Option<Facts>,
    /// The certificate that took its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[A-Za-z0-9_-]{1,64}$")]
    superseded_by: Option<String>,
    /// When what still runs under it is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    deadline: Option<String>,
    /// The same for connections that became WebSockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    upgraded_deadline: Option<String>,
    /// Until when it is kept to go back to (`POST …/bindings/rollback`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    rollback_until: Option<String>,
    /// Open upstream connections.
    #[schema(minimum = 0)]
    connections: usize,
    /// Of them those that became WebSockets.
    #[schema(minimum = 0)]
    upgraded: usize,
    /// To how many origins it was ever shown, as far as the disclosure ledger goes back.
    #[schema(minimum = 0)]
    shown_to: usize,
    /// What it took the place of and has not ended yet, also what came before that; oldest first.
    retired: Vec<Draining>,
}

/// The later of two project-wide certificates, or one that a file declares, as the other one shows it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CoveredBy)]
struct CoveredBy {
    /// The certificate that is presented; `null`: a binding says that none is.
    #[schema(required, pattern = "^[A-Za-z0-9_-]{1,64}$")]
    cert_id: Option<String>,
    /// Since when.
    #[schema(format = DateTime)]
    since: String,
    /// Who wrote it: `api`, or `file`, which goes before whatever came later.
    #[schema(pattern = "^(api|file)$")]
    source: &'static str,
}

impl CoveredBy {
    fn of(binding: &Binding) -> Self {
        Self {
            cert_id: binding.target.certificate_id().map(CertificateId::to_string),
            since: rfc3339(binding.since),
            source: binding.source.as_str(),
        }
    }
}

/// What becomes of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = CertificateStatus)]
enum Status {
    /// It is loaded, and presented wherever its bindings lead to it.
    Active,
    /// It was replaced or deleted, and connections of it are finishing.
    Draining,
    /// It was replaced and nothing of it runs any more; it is kept for a while to go back to.
    Superseded,
    /// It is bound, or in a list of the zone, but cannot be loaded.
    Unavailable,
}

/// What is known of a certificate that was loaded.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CertificateFacts)]
struct Facts {
    /// RFC 4514.
    subject: String,
    /// RFC 4514.
    issuer: String,
    /// Upper-case hex, as openssl prints it.
    #[schema(pattern = "^-?[0-9A-F]+$")]
    serial_number: String,
    /// Start of validity.
    #[schema(format = DateTime)]
    not_before: String,
    /// End of validity.
    #[schema(format = DateTime)]
    not_after: String,
    /// Whole days until then; negative once it has passed.
    days_left: i64,
    /// SHA-256 of the certificate.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    fingerprint: String,
    /// SHA-256 of its public key.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    spki_fingerprint: String,
    /// `P-256`, `RSA-2048`, …
    key_type: String,
    /// How many certificates are sent.
    #[schema(minimum = 1)]
    chain_length: usize,
    /// When it was uploaded, or read from its file.
    #[schema(format = DateTime)]
    uploaded_at: String,
    /// What validation let pass; and, where a binding names it, that its end comes near or has passed.
    warnings: Vec<String>,
    /// Who wrote it: `api` or `file`.
    #[schema(pattern = "^(api|file)$")]
    source: &'static str,
    /// The configuration file that declares it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    file: Option<String>,
}

/// A certificate on its way out.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CertificateDraining)]
struct Draining {
    /// Its id.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    id: String,
    /// Open upstream connections.
    #[schema(minimum = 0)]
    connections: usize,
    /// When they are cut.
    #[schema(format = DateTime)]
    deadline: String,
    /// Of the connections those that became WebSockets.
    #[schema(minimum = 0)]
    upgraded: usize,
    /// When these are cut.
    #[schema(format = DateTime)]
    upgraded_deadline: String,
}

impl Facts {
    fn of(info: &CertificateInfo, now: OffsetDateTime) -> Self {
        Self {
            subject: info.subject.clone(),
            issuer: info.issuer.clone(),
            serial_number: info.serial_number.clone(),
            not_before: rfc3339(info.not_before),
            not_after: rfc3339(info.not_after),
            days_left: info.days_left(now),
            fingerprint: info.fingerprint.to_string(),
            spki_fingerprint: info.spki_fingerprint.to_string(),
            key_type: info.key.to_string(),
            chain_length: info.chain_length,
            uploaded_at: rfc3339(info.uploaded_at),
            warnings: info.warnings.clone(),
            source: info.source.as_str(),
            file: file_of(&info.source),
        }
    }
}

impl Draining {
    fn of(retired: &Retired) -> Self {
        Self {
            id: retired.id.to_string(),
            connections: retired.connections(),
            deadline: rfc3339(retired.deadline),
            upgraded: retired.upgraded(),
            upgraded_deadline: rfc3339(retired.upgraded_deadline),
        }
    }
}

/// Show one certificate
///
/// Everything that may be told of it; never its key.
#[utoipa::path(
    get, path = "/v1/projects/{idOrName}/certificates/{certId}", operation_id = "getCertificate", tag = "egret",
    params(ProjectPath, CertificatePath, TeamQuery),
    responses(
        (status = 200, description = "What is known of it.", body = Details),
        (status = 404, description = "No such project or certificate.", body = ErrorBody),
    )
)]
pub(super) async fn details(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments((id_or_name, certificate)): Segments<(String, String)>,
    query: Query,
) -> Answer<Details> {
    let project = caller.project(&management.registry, &id_or_name, &query, Need::Read)?;
    let find = |id: CertificateId| {
        let kept = management.control.kept_for(&project, &id);
        let shown_to = management.control.disclosures().origins_of(project.id(), &id);
        Some(Details { shown_to, ..find(&project, &id, kept.as_deref(), now())? })
    };
    let details = CertificateId::parse(&certificate).and_then(find);
    details.map(Json).ok_or_else(|| {
        let is_bundle = |id: CertificateId| management.control.is_bundle(&project, &id);
        if CertificateId::parse(&certificate).is_some_and(is_bundle) {
            let told = "certificate not found: it is a CA bundle, which is presented nowhere; GET /client/v4/accounts/{account_id}/mtls_certificates/{id} shows it";
            return Problem::missing(told.to_owned());
        }
        Problem::not_found("certificate")
    })
}

/// Active first, then what could not be loaded, then what is on its way out, then what is only kept: `kept` is the
/// binding that can go back to it.
fn find(project: &Project, id: &CertificateId, kept: Option<&Binding>, now: OffsetDateTime) -> Option<Details> {
    let snapshot = project.snapshot();
    let all = project.retired();
    let bindings: Vec<Arc<Binding>> = {
        let mut bindings = snapshot.bindings();
        bindings.retain(|b| b.target.certificate_id() == Some(id));
        bindings
    };
    let active = snapshot.certificate(id);
    // Itself, too, where it was retired and then bound anew: what was made under it before is still its past.
    let before = |r: &&Retired| r.heir.as_ref() == Some(id) || (active.is_some() && r.id == *id);
    let held = snapshot.roster().entry(id).map(|held| held.holder);
    let retired = || all.iter().filter(before).map(Draining::of).collect();
    let details = Details {
        id: id.to_string(),
        status: Status::Active,
        bindings: bindings.iter().map(|b| b.pattern.to_string()).collect(),
        holder: held.map(Holder::as_str),
        covered_by: snapshot.covering(id).map(|binding| CoveredBy::of(binding)),
        reason: None,
        facts: None,
        superseded_by: None,
        deadline: None,
        upgraded_deadline: None,
        rollback_until: kept.and_then(|b| b.previous.as_ref()).map(|previous| rfc3339(previous.until)),
        connections: 0,
        shown_to: 0,
        upgraded: 0,
        retired: retired(),
    };
    if let Some(certificate) = &active {
        let mut facts = Facts::of(&certificate.info, now);
        facts.warnings.extend(Warning::of(&snapshot, certificate, now).map(|warning| warning.text));
        let (facts, holder) = (Some(facts), Some(certificate.info.holder.as_str()));
        let objects: Vec<_> = certificate.objects().cloned().collect();
        let [connections, upgraded] = [Life::connections, Life::upgraded].map(|count| connections(&objects, count));
        return Some(Details { facts, holder, connections, upgraded, ..details });
    }
    let why = bindings.iter().find_map(|b| match &b.target {
        Target::Unavailable(unavailable) => Some(unavailable.why.clone()),
        _ => None,
    });
    let of_list = || held.map(|_| "its stored record is damaged; upload it again, then delete this one".to_owned());
    let why = why.or_else(of_list);
    if why.is_some() {
        return Some(Details { status: Status::Unavailable, reason: why, ..details });
    }
    let Some(own) = all.iter().find(|r| r.id == *id) else {
        let previous = kept?.previous.as_ref()?;
        return Some(Details {
            status: Status::Superseded,
            holder: Some(previous.certificate.info.holder.as_str()),
            facts: Some(Facts::of(&previous.certificate.info, now)),
            superseded_by: kept?.target.certificate_id().map(CertificateId::to_string),
            ..details
        });
    };
    Some(Details {
        status: Status::Draining,
        holder: Some(own.info.holder.as_str()),
        facts: Some(Facts::of(&own.info, now)),
        superseded_by: own.superseded_by.as_ref().map(CertificateId::to_string),
        deadline: Some(rfc3339(own.deadline)),
        upgraded_deadline: Some(rfc3339(own.upgraded_deadline)),
        connections: own.connections(),
        upgraded: own.upgraded(),
        ..details
    })
}

/// Open connections over all of `objects`, each counted once.
fn connections(objects: &[Arc<UpstreamTls>], count: fn(&Life) -> usize) -> usize {
    let first = |at: usize, tls: &Arc<UpstreamTls>| !objects[..at].iter().any(|other| Arc::ptr_eq(other, tls));
    objects.iter().enumerate().filter(|(at, tls)| first(*at, tls)).map(|(_, tls)| count(tls.life())).sum()
}
