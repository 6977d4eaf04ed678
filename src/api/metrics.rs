//! `/metrics`: the table of `observe`, and what is read when it is asked for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use time::OffsetDateTime;

use super::Management;
use super::auth::Caller;
use super::status::is_ready;
use crate::domain::time::now;
use crate::domain::{CertificateId, ProjectId, Threshold};
use crate::observe::{Exposition, Family, Kind};
use crate::registry::Project;

/// Where they are.
pub(super) const METRICS: &str = "/metrics";

/// How it is, in numbers
///
/// For any token that may read; one limited to projects sees the certificates of these, and not what all projects do
/// together. In the text that `Accept` prefers: Prometheus's own where that is named first, else OpenMetrics.
#[utoipa::path(
    get, path = "/metrics", operation_id = "getMetrics", tag = "egret",
    responses((status = 200, description = "Series for a Prometheus.", content(
        (String = "application/openmetrics-text; version=1.0.0; charset=utf-8", example = "# HELP egret_ready Whether /readyz answers 200\n# TYPE egret_ready gauge\negret_ready 1\n# EOF\n"),
        (String = "text/plain; version=0.0.4; charset=utf-8", example = "# HELP egret_ready Whether /readyz answers 200\n# TYPE egret_ready gauge\negret_ready 1\n"),
    )))
)]
pub(super) async fn metrics(State(management): State<Arc<Management>>, caller: Caller, headers: HeaderMap) -> Response {
    let projects = caller.projects(&management.registry);
    let families = match caller.is_unlimited() {
        true => everything(&management, &projects),
        false => limited(&management, &projects),
    };
    answer(&headers, families)
}

/// `GET /metrics` of the health listener: all of it.
pub(super) async fn open(State(management): State<Arc<Management>>, headers: HeaderMap) -> Response {
    let projects = management.registry.projects();
    answer(&headers, everything(&management, &projects))
}

fn answer(headers: &HeaderMap, families: Vec<Family>) -> Response {
    let accept: Vec<_> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let exposition = Exposition::accepted(&accept.join(","));
    let content_type = HeaderValue::from_static(exposition.content_type());
    ([(CONTENT_TYPE, content_type)], exposition.write(families)).into_response()
}

fn everything(management: &Management, projects: &[Arc<Project>]) -> Vec<Family> {
    let mut families = management.metrics.families();
    let pool = management.info.pool();
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let report = management.control.report();
    families.extend([
        Family::gauge(
            "egret_upstream_idle_connections",
            "Upstream connections that wait for a request",
            count(pool.idle),
        ),
        Family::gauge("egret_upstream_waiting_requests", "Requests that wait for a connection", count(pool.waiting)),
        Family::gauge(
            "egret_unloaded_certificates",
            "Declared certificates that could not be loaded",
            count(report.unloaded.len()),
        ),
        Family::gauge("egret_projects", "Projects", count(projects.len())),
        Family::gauge("egret_tokens", "Tokens, those in the file included", count(management.registry.tokens().len())),
        Family::gauge("egret_ready", "Whether /readyz answers 200", i64::from(is_ready(management))),
        Family::new(
            "egret_retired_forgotten",
            "Retired certificates no longer shown, at limits.max_retired, although connections of them were open",
            Kind::Counter,
        )
        .with(&[], management.registry.retired_forgotten()),
        Family::new("egret_store_info", "Where records rest", Kind::Gauge)
            .with(&[("backend", management.info.store().to_owned())], 1),
    ]);
    families.extend(limited(management, projects));
    families
}

/// What the holder of a limited token may know.
fn limited(management: &Management, projects: &[Arc<Project>]) -> Vec<Family> {
    let mut families = certificates(projects, now(), management.limits.max_metric_certificates());
    families.extend(draining(projects, now()));
    families.extend([
        Family::new("egret_build_info", "The running egret", Kind::Gauge)
            .with(&[("version", env!("CARGO_PKG_VERSION").to_owned())], 1),
        // The name that dashboards know.
        Family::gauge(
            "process_start_time_seconds",
            "When egret was started, in seconds since 1970",
            management.info.started_at().unix_timestamp(),
        ),
    ]);
    families
}

/// What was retired in these projects and has not ended yet.
pub(super) fn draining(projects: &[Arc<Project>], now: OffsetDateTime) -> [Family; 3] {
    let (mut certificates, mut exchanges, mut upgraded, mut last) = (0, 0, 0, None);
    for retired in projects.iter().flat_map(|project| project.retired()) {
        let (all, of_them) = (retired.connections() as u64, retired.upgraded() as u64);
        certificates += 1;
        exchanges += all.saturating_sub(of_them);
        upgraded += of_them;
        last = last.max(Some(retired.last_deadline()));
    }
    let state = |state: &str| [("state", state.to_owned())];
    let connections = Family::new(
        "egret_draining_connections",
        "Upstream connections of retired certificates, by what runs on them",
        Kind::Gauge,
    );
    let left = last.map_or(0, |last| (last - now).whole_seconds().max(0));
    [
        Family::gauge("egret_draining_certificates", "Retired certificates that still have connections", certificates),
        connections.with(&state("exchange"), exchanges).with(&state("upgraded"), upgraded),
        Family::gauge(
            "egret_draining_ends_in_seconds",
            "Seconds until the last connection of a retired certificate is cut; 0 if there is none",
            left,
        ),
    ]
}

/// The certificates of these projects, one by one the `most` that expire first.
pub(super) fn certificates(projects: &[Arc<Project>], now: OffsetDateTime, most: usize) -> Vec<Family> {
    // The one that expires last is on top, and goes first when there is one too many.
    let mut first: BinaryHeap<(OffsetDateTime, Reverse<ProjectId>, Reverse<CertificateId>)> = BinaryHeap::new();
    let (mut valid, mut expired, mut early) = (0, 0, 0);
    let mut near = Threshold::ALL.map(|threshold| (threshold, 0));
    for project in projects {
        let snapshot = project.snapshot();
        for certificate in snapshot.certificates() {
            let info = &certificate.info;
            if let Some(reached) = Threshold::reached(info.not_after, now).filter(|_| snapshot.is_presented(&info.id)) {
                near.iter_mut().filter(|(threshold, _)| *threshold <= reached).for_each(|(_, count)| *count += 1);
            }
            let state = match now {
                now if now > info.not_after => &mut expired,
                now if now < info.not_before => &mut early,
                _ => &mut valid,
            };
            *state += 1;
            if first.len() == most && first.peek().is_none_or(|(latest, ..)| *latest <= info.not_after) {
                continue;
            }
            first.push((info.not_after, Reverse(project.id().clone()), Reverse(info.id.clone())));
            if first.len() > most {
                first.pop();
            }
        }
    }
    let mut states = Family::new("egret_certificates", "Certificates, by their dates", Kind::Gauge);
    for (state, count) in [("valid", valid), ("expired", expired), ("not_yet_valid", early)] {
        states.push(&[("state", state.to_owned())], count);
    }
    let all = valid + expired + early;
    let not_listed = i64::try_from(all).unwrap_or(i64::MAX) - i64::try_from(first.len()).unwrap_or(i64::MAX);
    let mut left = Family::new(
        "egret_certificate_expires_in_seconds",
        "Seconds until notAfter, negative afterwards; of those that expire first",
        Kind::Gauge,
    );
    for (not_after, Reverse(project), Reverse(certificate)) in first.into_sorted_vec() {
        let labels = vec![("project", project.to_string()), ("certificate", certificate.to_string())];
        left.samples.push(crate::observe::Sample { labels, value: (not_after - now).whole_seconds() });
    }
    let rest = Family::gauge(
        "egret_certificates_not_listed",
        "Certificates beyond limits.max_metric_certificates, which expire later than those that are listed",
        not_listed,
    );
    let mut expiring = Family::new(
        "egret_certificates_expiring",
        "Certificates that a binding names and that have at most so many days left; 0: they have expired",
        Kind::Gauge,
    );
    for (threshold, count) in near {
        expiring.push(&[("days", threshold.days().to_string())], count);
    }
    vec![states, left, rest, expiring]
}
