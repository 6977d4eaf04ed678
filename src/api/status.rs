//! egret's own: how it is. Health for orchestrators, status for people and scripts, the interception CA.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Management;
use super::auth::Caller;
use super::info::{CaCertificate, ListenerStatus, Stage};
use super::problem::{Answer, Problem};
use crate::domain::time::{now, rfc3339};
use crate::registry::{Certificate, Project, Target};

/// What `/healthz` and `/readyz` answer.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    state: Word,
}

/// The one word for all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    /// Not everything is bound and loaded yet.
    Starting,
    /// Everything is.
    Ready,
    /// It runs, but a declared certificate is not loaded.
    Unready,
    /// It was told to end.
    Draining,
}

/// What `/v1/status` answers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    version: &'static str,
    state: Word,
    started_at: String,
    management: Option<String>,
    listeners: Vec<ListenerStatus>,
    projects: Vec<NamedProject>,
    certificates: Vec<DatedCertificate>,
    reload: Reload,
    store: Store,
    /// Declared certificates that are not loaded. Names files of every project: not for limited tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    unloaded: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counters: Option<Map<String, Value>>,
}

#[derive(Debug, Serialize)]
struct NamedProject {
    id: String,
    name: String,
}

/// One per binding; a certificate that is bound nowhere has no origin.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DatedCertificate {
    id: String,
    project: String,
    origin: Option<String>,
    not_after: String,
    days_left: i64,
}

#[derive(Debug, Serialize)]
struct Reload {
    state: &'static str,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Store {
    backend: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantined: Option<Vec<String>>,
}

fn state(management: &Management) -> Word {
    match management.info.stage() {
        Stage::Starting => Word::Starting,
        Stage::Draining => Word::Draining,
        // A quarantined record is named and the rest serves; a declared certificate is promised.
        Stage::Running if management.control.report().unloaded.is_empty() => Word::Ready,
        Stage::Running => Word::Unready,
    }
}

/// `GET /healthz`: it runs, and answers.
pub(super) async fn healthz(State(management): State<Arc<Management>>) -> Json<Health> {
    Json(Health { state: state(&management) })
}

/// `GET /readyz`: every listener is bound, the store and every declared certificate are loaded. Says no more
/// than that: it takes no token.
pub(super) async fn readyz(State(management): State<Arc<Management>>) -> Answer<Health> {
    match state(&management) {
        Word::Ready => Ok(Json(Health { state: Word::Ready })),
        Word::Starting => Err(Problem::unavailable("starting: not everything is bound and loaded yet")),
        Word::Draining => Err(Problem::unavailable("draining: told to end")),
        Word::Unready => Err(Problem::unavailable(
            "unready: a declared certificate is not loaded; GET /v1/status with a token names it",
        )),
    }
}

/// `GET /v1/status`
pub(super) async fn status(State(management): State<Arc<Management>>, caller: Caller) -> Answer<Status> {
    let projects = caller.projects(&management.registry);
    let report = management.control.report();
    let all = caller.is_unlimited();
    // A listener is no secret, whose it is may be one.
    let reached = |l: ListenerStatus| {
        let project = l.project.filter(|id| projects.iter().any(|p| p.id().as_str() == id));
        ListenerStatus { project, ..l }
    };
    let counters = || management.metrics.all().into_iter().map(|(name, n)| (name.to_owned(), n.into())).collect();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        state: state(&management),
        started_at: rfc3339(management.info.started_at()),
        management: management.info.management().map(|at: SocketAddr| format!("http://{at}")),
        listeners: management.info.listeners().into_iter().map(reached).collect(),
        projects: projects
            .iter()
            .map(|p| NamedProject { id: p.id().to_string(), name: p.load().info().name.clone() })
            .collect(),
        certificates: projects.iter().flat_map(|p| certificates(p)).collect(),
        // What is in force is what was read at start: there is no later state that could be broken.
        reload: Reload { state: "ok", error: None },
        store: Store { backend: management.info.store(), quarantined: all.then_some(report.quarantined) },
        unloaded: all.then_some(report.unloaded),
        counters: all.then(counters),
    }))
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

/// `GET /v1/ca`: what client programs must trust to be intercepted. No secret, so any reader may have it.
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
