//! Every path of the management API, and nothing else: what is not here does not exist.
//!
//! A handler comes with its documentation (`#[utoipa::path]`), so a path cannot be served without standing in
//! `/openapi.json`. What every operation may answer (400, 401, 403, 429, and with a body 408, 413, 415) is added there.

use std::sync::Arc;

use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{
    Management, bindings, certificates, cloudflare, disclosures, events, explain, metrics, openapi, projects, status,
    tokens, vercel,
};

/// All of them, with their documentation.
pub(super) fn all() -> OpenApiRouter<Arc<Management>> {
    OpenApiRouter::with_openapi(openapi::ApiDoc::openapi())
        // Vercel's dialect
        .routes(routes!(vercel::list, vercel::upload))
        .routes(routes!(vercel::remove))
        // Cloudflare's
        .routes(routes!(cloudflare::verify::user))
        .routes(routes!(cloudflare::verify::account))
        .routes(routes!(cloudflare::accounts::list))
        .routes(routes!(cloudflare::accounts::get))
        .routes(routes!(cloudflare::mtls_certificates::list, cloudflare::mtls_certificates::create))
        .routes(routes!(cloudflare::mtls_certificates::get, cloudflare::mtls_certificates::remove))
        .routes(routes!(cloudflare::mtls_certificates::associations))
        .routes(routes!(cloudflare::zones::list))
        .routes(routes!(cloudflare::zones::get))
        .routes(routes!(cloudflare::zone_certificates::list, cloudflare::zone_certificates::create))
        .routes(routes!(cloudflare::zone_certificates::get, cloudflare::zone_certificates::remove))
        .routes(routes!(cloudflare::zone_certificates::settings, cloudflare::zone_certificates::set))
        .routes(routes!(cloudflare::hostnames::put))
        .routes(routes!(cloudflare::hostnames::get))
        .routes(routes!(cloudflare::hostname_certificates::list, cloudflare::hostname_certificates::create))
        .routes(routes!(cloudflare::hostname_certificates::get, cloudflare::hostname_certificates::remove))
        // egret's own
        .routes(routes!(projects::list, projects::create))
        .routes(routes!(projects::remove))
        .routes(routes!(bindings::list, bindings::put, bindings::remove))
        .routes(routes!(bindings::roll_back))
        .routes(routes!(certificates::details))
        .routes(routes!(disclosures::list))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::remove))
        .routes(routes!(explain::explain))
        .routes(routes!(status::status))
        .routes(routes!(events::events))
        .routes(routes!(status::ca))
        .routes(routes!(metrics::metrics))
        // without a token
        .routes(routes!(status::healthz))
        .routes(routes!(status::readyz))
        .routes(routes!(openapi::document))
}
