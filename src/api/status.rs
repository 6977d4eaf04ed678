//! egret's own: how it is. Health for orchestrators, status for people and scripts, the interception CA.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Management;
use super::auth::Caller;
use super::bindings::PendingCertificate;
use super::info::{CaCertificate, ListenerStatus, ReloadState, Stage};
use super::problem::{Answer, ErrorBody, Problem};
use crate::control::{Control, Warning};
use crate::domain::time::{now, rfc3339};
use crate::registry::{Certificate, Project, Target};

/// What `/healthz` and `/readyz` answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    state: Word,
}

/// The one word for all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = State)]
enum Word {
    /// Not everything is bound and loaded yet.
    Starting,
    /// Everything is.
    Ready,
    /// It runs, but a declared certificate is not loaded, or the end of a certificate is nearer than
    /// `health.degrade_before_expiry`.
    Unready,
    /// It was told to end.
    Draining,
}

/// What `/v1/status` answers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    /// egret's version.
    version: &'static str,
    state: Word,
    /// Why it is unready.
    #[schema(required)]
    reason: Option<&'static str>,
    /// When it was started.
    #[schema(format = DateTime)]
    started_at: String,
    /// Where the management API listens, as `EGRET_URL` takes it: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`.
    #[schema(required, pattern = "^(https?://|unix:).+$", example = "http://127.0.0.1:9090")]
    management: Option<String>,
    /// The listener for probes and metrics; `null` where there is none.
    #[schema(required, pattern = "^http://.+$", example = "http://0.0.0.0:9091")]
    health: Option<String>,
    /// In file order.
    listeners: Vec<ListenerStatus>,
    /// Those that the token reaches, by name.
    projects: Vec<NamedProject>,
    /// One entry per binding.
    certificates: Vec<DatedCertificate>,
    /// Certificates that some binding names and that have 30 days left at most, those that end first in front.
    warnings: Vec<ExpiryWarning>,
    /// Those that are being tried out (`stage=probe`).
    pending: Vec<PendingCertificate>,
    reload: Reload,
    store: Store,
    /// Declared certificates that are not loaded. Names files of every project: not for limited tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    unloaded: Option<Vec<String>>,
    /// By name, since the start; what goes up and down among them as it stands. Not for limited tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = json!({"exchanges": 7, "exchanges_failed": 2}))]
    counters: Option<BTreeMap<&'static str, u64>>,
}

/// A project by name.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StatusProject)]
struct NamedProject {
    /// Its id.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    id: String,
    /// Its name.
    name: String,
}

/// One per binding; a certificate that is bound nowhere has no origin.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = StatusCertificate)]
struct DatedCertificate {
    /// Its id.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    id: String,
    /// The id of its project.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    project: String,
    /// Where it is presented; `*`: project-wide.
    #[schema(required, pattern = r"^(\*|https://.+)$")]
    origin: Option<String>,
    /// End of validity.
    #[schema(format = DateTime)]
    not_after: String,
    /// Whole days until then; negative once it has passed.
    days_left: i64,
}

/// A certificate whose end comes near, or has passed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = StatusWarning)]
struct ExpiryWarning {
    /// `certificate.expiring` or `certificate.expired`.
    #[serde(rename = "type")]
    #[schema(pattern = "^certificate\\.expir(ing|ed)$")]
    kind: &'static str,
    /// The id of its project.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    project: String,
    /// Its id.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    certificate: String,
    /// Where it is presented; the first eight.
    origins: Vec<String>,
    /// End of validity.
    #[schema(format = DateTime)]
    not_after: String,
    /// Whole days until then; negative once it has passed.
    days_left: i64,
    /// The command, or the act, that renews it.
    remedy: String,
    /// All of it in a sentence.
    text: String,
}

impl From<Warning> for ExpiryWarning {
    fn from(warning: Warning) -> Self {
        Self {
            kind: warning.kind().as_str(),
            project: warning.project.id.to_string(),
            certificate: warning.certificate.id.to_string(),
            origins: warning.origins,
            not_after: rfc3339(warning.certificate.not_after),
            days_left: warning.days_left,
            remedy: warning.remedy,
            text: warning.text,
        }
    }
}

/// How the last reading of the configuration, and of the files that it names, went.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = StatusReload)]
struct Reload {
    /// `ok`: all that they say is in force. `failed`: not all; what was in force before stays where they are not whole.
    #[schema(pattern = "^(ok|failed)$")]
    state: &'static str,
    /// Why not: files, faults and remedies. Limited tokens are told only that there is something.
    #[schema(required)]
    error: Option<String>,
    /// When it last was `ok`; `null` if it never was.
    #[schema(required, format = DateTime)]
    succeeded_at: Option<String>,
}

impl Reload {
    fn of(state: &ReloadState, all: bool) -> Self {
        let told = |why: &String| match all {
            true => why.clone(),
            false => {
                "not all of what the configuration says is in force; a token without limits is told why".to_owned()
            }
        };
        Self {
            state: if state.failed.is_none() { "ok" } else { "failed" },
            error: state.failed.as_ref().map(told),
            succeeded_at: state.succeeded_at.map(rfc3339),
        }
    }
}

/// Where records rest.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StatusStore)]
struct Store {
    /// `embedded` or `memory`.
    backend: &'static str,
    /// Records that could not be opened. Not for limited tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    quarantined: Option<Vec<String>>,
}

/// Whether `/readyz` answers 200.
pub(super) fn is_ready(management: &Management) -> bool {
    state(management) == Word::Ready
}

fn state(management: &Management) -> Word {
    match management.info.stage() {
        Stage::Starting => Word::Starting,
        Stage::Draining => Word::Draining,
        // A quarantined record is named and the rest serves; a declared certificate is promised.
        Stage::Running if unready(management).is_none() => Word::Ready,
        Stage::Running => Word::Unready,
    }
}

/// Why it should not be sent requests although it runs. Names nothing: probes take no token.
fn unready(management: &Management) -> Option<&'static str> {
    if !management.control.report().unloaded.is_empty() {
        return Some("a declared certificate is not loaded");
    }
    let before = management.info.degrade_before_expiry()?;
    let end = management.control.first_end()?;
    (now() >= end - before)
        .then_some("a certificate has expired, or has less time left than health.degrade_before_expiry demands")
}

/// Whether it runs
///
/// 200 as long as it answers at all.
#[utoipa::path(
    get, path = "/healthz", operation_id = "healthz", tag = "health", security(()),
    responses((status = 200, description = "It runs.", body = Health))
)]
pub(super) async fn healthz(State(management): State<Arc<Management>>) -> Json<Health> {
    Json(Health { state: state(&management) })
}

/// Whether it can be sent requests
///
/// Every listener is bound, the store and every declared certificate are loaded, and no certificate is nearer to its end
/// than `health.degrade_before_expiry` allows. Says no more than that: it takes no token.
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "health", security(()),
    responses(
        (status = 200, description = "It is ready.", body = Health),
        (status = 503, description = "It starts, ends, lacks a declared certificate, or a certificate ends too soon.", body = ErrorBody),
    )
)]
pub(super) async fn readyz(State(management): State<Arc<Management>>) -> Answer<Health> {
    match state(&management) {
        Word::Ready => Ok(Json(Health { state: Word::Ready })),
        Word::Starting => Err(Problem::unavailable("starting: not everything is bound and loaded yet")),
        Word::Draining => Err(Problem::unavailable("draining: told to end")),
        Word::Unready => {
            let why = unready(&management).unwrap_or("it was so a moment ago");
            Err(Problem::unavailable(format!("unready: {why}; GET /v1/status with a token names it")))
        }
    }
}

/// How it is
///
/// Health, listeners, and certificates with the days they have left, as far as the token reaches.
#[utoipa::path(
    get, path = "/v1/status", operation_id = "getStatus", tag = "egret",
    responses((status = 200, description = "How it is.", body = Status))
)]
pub(super) async fn status(State(management): State<Arc<Management>>, caller: Caller) -> Answer<Status> {
    let projects = caller.projects(&management.registry);
    let report = management.control.report();
    let all = caller.is_unlimited();
    // A listener is no secret, whose it is may be one.
    let reached = |l: ListenerStatus| {
        let project = l.project.filter(|id| projects.iter().any(|p| p.id().as_str() == id));
        ListenerStatus { project, ..l }
    };
    let counters = || management.metrics.all().into_iter().collect();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        state: state(&management),
        reason: unready(&management).filter(|_| management.info.stage() == Stage::Running),
        started_at: rfc3339(management.info.started_at()),
        management: management.info.management().map(str::to_owned),
        health: management.info.health().map(|at| format!("http://{at}")),
        listeners: management.info.listeners().into_iter().map(reached).collect(),
        projects: projects
            .iter()
            .map(|p| NamedProject { id: p.id().to_string(), name: p.load().info().name.clone() })
            .collect(),
        certificates: projects.iter().flat_map(|p| certificates(p)).collect(),
        warnings: warnings(&projects),
        pending: projects.iter().flat_map(|p| PendingCertificate::of(&management.control, p.id())).collect(),
        reload: Reload::of(&management.info.reload(), all),
        store: Store { backend: management.info.store(), quarantined: all.then_some(report.quarantined) },
        unloaded: all.then_some(report.unloaded),
        counters: all.then(counters),
    }))
}

fn warnings(projects: &[Arc<Project>]) -> Vec<ExpiryWarning> {
    let at = now();
    let mut all: Vec<Warning> = projects.iter().flat_map(|p| Control::warnings(&p.snapshot(), at)).collect();
    all.sort_by_key(|warning| warning.certificate.not_after);
    all.into_iter().map(ExpiryWarning::from).collect()
}

fn certificates(project: &Project) -> Vec<DatedCertificate> {
    let (snapshot, now) = (project.snapshot(), now());
    let dated = |certificate: &Certificate, origin: Option<String>| DatedCertificate {
        id: certificate.info.id.to_string(),
        project: project.id().to_string(),
        origin,
        not_after: rfc3339(certificate.info.not_after),
        days_left: certificate.info.days_left(now),
    };
    let (mut all, mut bound) = (Vec::new(), HashSet::new());
    for binding in snapshot.bindings() {
        if let Target::Certificate(certificate) = &binding.target {
            all.push(dated(certificate, Some(binding.pattern.to_string())));
            bound.insert(certificate.info.id.clone());
        }
    }
    let rest = snapshot.certificates();
    all.extend(rest.iter().filter(|c| !bound.contains(&c.info.id)).map(|c| dated(c, None)));
    all
}

/// The interception CA
///
/// What client programs must trust to be intercepted. No secret, so any reader may have it. Made on first need.
#[utoipa::path(
    get, path = "/v1/ca", operation_id = "getCa", tag = "egret",
    responses(
        (status = 200, description = "Its certificate; never its key.", body = CaCertificate),
        (status = 404, description = "Nothing intercepts.", body = ErrorBody),
        (status = 500, description = "It could not be made.", body = ErrorBody),
    )
)]
pub(super) async fn ca(State(management): State<Arc<Management>>, _: Caller) -> Answer<CaCertificate> {
    match management.info.ca().await {
        Some(Ok(ca)) => Ok(Json(ca)),
        Some(Err(why)) => {
            tracing::error!(%why, "the interception CA could not be made");
            Err(Problem::internal("the interception CA could not be made; egret's log says why"))
        }
        None => Err(Problem::not_found("interception CA")),
    }
}
