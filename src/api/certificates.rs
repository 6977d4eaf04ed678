//! egret's own: everything that may be told of one certificate. Never its key.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use time::OffsetDateTime;

use super::Management;
use super::auth::{Caller, Need};
use super::bindings::file_of;
use super::problem::{Answer, Problem};
use super::request::{Query, Segments};
use crate::domain::time::{now, rfc3339};
use crate::domain::{CertificateId, CertificateInfo};
use crate::identity::UpstreamTls;
use crate::registry::{Binding, Project, Retired, Target};

/// What is told of a certificate. An unavailable one has only the first four fields.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Details {
    id: String,
    status: Status,
    /// The patterns that lead to it.
    bindings: Vec<String>,
    /// Why it is unavailable.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(flatten)]
    facts: Option<Facts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    superseded_by: Option<String>,
    /// When what still runs under it is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    /// Open upstream connections.
    connections: usize,
    /// What it took the place of and has not ended yet.
    retired: Vec<Draining>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Active,
    Draining,
    Unavailable,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Facts {
    subject: String,
    issuer: String,
    serial_number: String,
    not_before: String,
    not_after: String,
    days_left: i64,
    fingerprint: String,
    spki_fingerprint: String,
    key_type: String,
    chain_length: usize,
    uploaded_at: String,
    warnings: Vec<String>,
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

#[derive(Debug, Serialize)]
struct Draining {
    id: String,
    connections: usize,
    deadline: String,
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
        Self { id: retired.id.to_string(), connections: retired.connections(), deadline: rfc3339(retired.deadline) }
    }
}

/// `GET /v1/projects/{p}/certificates/{id}`
pub(super) async fn details(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments((id_or_name, certificate)): Segments<(String, String)>,
    query: Query,
) -> Answer<Details> {
    let project = caller.project(&management.registry, &id_or_name, &query, Need::Read)?;
    let details = CertificateId::parse(&certificate).and_then(|id| find(&project, &id, now()));
    details.map(Json).ok_or_else(|| Problem::not_found("certificate"))
}

/// Active first, then what could not be loaded, then what is on its way out.
fn find(project: &Project, id: &CertificateId, now: OffsetDateTime) -> Option<Details> {
    let snapshot = project.snapshot();
    let all = project.retired();
    let bindings: Vec<Arc<Binding>> = {
        let mut bindings = snapshot.bindings();
        bindings.retain(|b| b.target.certificate_id() == Some(id));
        bindings
    };
    let retired = || all.iter().filter(|r| r.superseded_by.as_ref() == Some(id)).map(Draining::of).collect();
    let details = Details {
        id: id.to_string(),
        status: Status::Active,
        bindings: bindings.iter().map(|b| b.pattern.to_string()).collect(),
        reason: None,
        facts: None,
        superseded_by: None,
        deadline: None,
        connections: 0,
        retired: retired(),
    };
    if let Some(certificate) = snapshot.certificate(id) {
        let facts = Some(Facts::of(&certificate.info, now));
        let connections = connections(&[certificate.bound.clone(), certificate.general.clone()]);
        return Some(Details { facts, connections, ..details });
    }
    let why = bindings.iter().find_map(|b| match &b.target {
        Target::Unavailable(unavailable) => Some(unavailable.why.clone()),
        _ => None,
    });
    if why.is_some() {
        return Some(Details { status: Status::Unavailable, reason: why, ..details });
    }
    let own = all.iter().find(|r| r.id == *id)?;
    Some(Details {
        status: Status::Draining,
        facts: Some(Facts::of(&own.info, now)),
        superseded_by: own.superseded_by.as_ref().map(CertificateId::to_string),
        deadline: Some(rfc3339(own.deadline)),
        connections: own.connections(),
        ..details
    })
}

/// Open connections over all of `objects`, each counted once.
fn connections(objects: &[Arc<UpstreamTls>]) -> usize {
    let first = |at: usize, tls: &Arc<UpstreamTls>| !objects[..at].iter().any(|other| Arc::ptr_eq(other, tls));
    objects.iter().enumerate().filter(|(at, tls)| first(*at, tls)).map(|(_, tls)| tls.life().connections()).sum()
}
