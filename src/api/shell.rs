//! What stands around every route: the Host check, a request id, one log line, and JSON for what no route takes.

use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method};
use tokio::time::Instant;

use super::auth::Signature;
use super::cloudflare::{self, envelope};
use super::host::{self, Ends};
use super::problem::Problem;
use crate::domain::hex;
use crate::observe::Metrics;

/// Whether the process runs.
pub(super) const HEALTHZ: &str = "/healthz";
/// Whether it can be sent requests.
pub(super) const READYZ: &str = "/readyz";

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Puts the shell around `routes`.
pub(super) fn dress(routes: Router, metrics: Arc<Metrics>) -> Router {
    routes
        .fallback(|| async { Problem::not_found("path") })
        .method_not_allowed_fallback(|| async { Problem::method() })
        .layer(from_fn_with_state(metrics, around))
}

async fn around(State(metrics): State<Arc<Metrics>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    metrics.api_requests.add();
    let id = request_id();
    let signature = Signature::default();
    request.extensions_mut().insert(signature.clone());
    let method = request.method().clone();
    let in_cloudflares = cloudflare::is_asked(request.uri().path());
    // The template: a path holds names of projects, a query holds origins.
    let route = request.extensions().get::<MatchedPath>().map_or("none".into(), |m| m.as_str().to_owned());
    let probe = route == HEALTHZ || route == READYZ;
    let ends = request.extensions().get::<Ends>().cloned().unwrap_or_default();
    // A kubelet probes by the address of the pod, through whatever name it has for it.
    let checked = match probe {
        true => Ok(()),
        false => host::check(request.version(), request.uri(), request.headers(), &ends),
    };
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    if in_cloudflares {
        response = envelope::around(response);
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(X_REQUEST_ID, value);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                request_id = id,
                method = word(&method),
                route,
                status = response.status().as_u16(),
                token = signature.name(),
                peer = %ends,
                duration_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
                "management request"
            )
        };
    }
    // Probes come every few seconds, for ever.
    if probe {
        line!(debug)
    } else {
        line!(info)
    }
    response
}

/// 64 random bits; where there are none, zeros: an id is for finding a line in a log, no more.
fn request_id() -> String {
    let mut bits = [0; 8];
    let _ = aws_lc_rs::rand::fill(&mut bits);
    hex(&bits)
}

/// A method of the standards; others are text of the caller's choice.
fn word(method: &Method) -> &str {
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::DELETE | Method::OPTIONS | Method::PATCH => {
            method.as_str()
        }
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    async fn ask(method: &str, target: &str, host: &str) -> (Response, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::default());
        let routes = Router::new()
            .route(HEALTHZ, get(|| async { "ok" }))
            .route("/v1/projects/{project}", get(|| async { "read" }).delete(|| async { "deleted" }));
        let request = Request::builder().method(method).uri(target).header("host", host).body(Body::empty()).unwrap();
        let response = TowerToHyperService::new(dress(routes, metrics.clone())).call(request).await.unwrap();
        (response, metrics)
    }

    async fn text(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn numbers_every_answer() {
        let (first, metrics) = ask("GET", "/v1/projects/a", "localhost").await;
        let (second, _) = ask("GET", "/nowhere", "localhost").await;
        let id = |r: &Response| r.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!(id(&first).len(), 16);
        assert_ne!(id(&first), id(&second));
        assert_eq!(first.headers()["cache-control"], "no-store");
        assert_eq!(metrics.api_requests.get(), 1);
    }

    #[tokio::test]
    async fn answers_in_json_where_no_route_is() {
        for path in ["/", "/nowhere", "/v1/projects/a/", "/v1/projects//x", "/v1/projects/../../x"] {
            let (response, _) = ask("GET", path, "localhost").await;
            assert_eq!(response.status(), 404, "{path}");
            assert_eq!(response.headers()["content-type"], "application/json");
            assert_eq!(text(response).await, r#"{"error":{"code":"not_found","message":"path not found"}}"#);
        }
    }

    #[tokio::test]
    async fn names_the_methods_that_a_path_takes() {
        for method in ["POST", "PUT", "OPTIONS", "EVIL"] {
            let (response, _) = ask(method, "/v1/projects/a", "localhost").await;
            assert_eq!(response.status(), 405);
            assert_eq!(response.headers()["allow"], "GET,HEAD,DELETE");
            assert!(text(response).await.contains(r#""code":"method_unknown""#));
        }
        let (head, _) = ask("HEAD", "/v1/projects/a", "localhost").await;
        assert_eq!(head.status(), 200);
    }

    #[tokio::test]
    async fn takes_an_encoded_slash_for_part_of_the_name() {
        let (response, _) = ask("GET", "/v1/projects/..%2F..%2Fx", "localhost").await;
        assert_eq!((response.status().as_u16(), text(response).await.as_str()), (200, "read"));
    }

    #[tokio::test]
    async fn refuses_foreign_hosts_everywhere_but_for_probes() {
        for path in ["/v1/projects/a", "/nowhere"] {
            let (response, _) = ask("GET", path, "evil.example").await;
            assert_eq!(response.status(), 403, "{path}");
        }
        let (probe, _) = ask("GET", HEALTHZ, "evil.example").await;
        assert_eq!(probe.status(), 200);
    }
}
