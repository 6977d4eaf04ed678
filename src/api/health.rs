//! The `[health]` listener: probes and metrics alone, for a kubelet and a Prometheus that hold no token.
//!
//! It looks at no `Host`: a kubelet probes by the address of the pod, through whatever name it has for it. What it
//! shows holds no secret, it changes nothing, and it knows three paths.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};

use super::Management;
use super::metrics::{METRICS, open};
use super::problem::Problem;
use super::shell::{HEALTHZ, READYZ};
use super::{server, status};
use crate::config::LiveLimits;
use crate::net::listen::Accepting;

/// Serves `/healthz`, `/readyz` and `/metrics` on `listener` until `shutdown` resolves; then as [`super::serve`]. At
/// most `limits.max_health_connections` at once, so that a stuck scraper takes nothing from the API.
pub async fn serve(listener: Accepting, management: Arc<Management>, shutdown: impl Future<Output = ()>) {
    let (limits, metrics) = (management.limits.clone(), management.metrics.clone());
    let bounds = (limits, LiveLimits::max_health_connections as fn(&LiveLimits) -> usize);
    server::run(listener, None, router(management), bounds, metrics, shutdown).await;
}

/// GET and HEAD; axum answers the latter with the head of the former.
pub(super) fn router(management: Arc<Management>) -> Router {
    Router::new()
        .route(HEALTHZ, get(status::healthz))
        .route(READYZ, get(status::readyz))
        .route(METRICS, get(open))
        .with_state(management)
        .fallback(|| async { Problem::not_found("path") })
        .method_not_allowed_fallback(|| async { Problem::method() })
        .layer(from_fn(around))
}

async fn around(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none".into(), |m| m.as_str().to_owned());
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // They come every few seconds, for ever.
    tracing::debug!(route, status = response.status().as_u16(), "health request");
    response
}
