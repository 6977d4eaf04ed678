//! Floor 6: the management server.
//!
//! Three sets of routes over one registry and one control: Vercel's dialect (`vercel`), Cloudflare's (`cloudflare`) and
//! egret's own.
//! Reading looks at snapshots; every change goes through the control floor and is finished even if the client has
//! gone away. What must stay true:
//!
//! - nothing is looked at before the caller is known (`/healthz`, `/readyz` and `/openapi.json` excepted, which tell
//!   nothing);
//! - a private key never leaves, and every copy made of what arrives is wiped (hyper's read buffer is not ours to wipe);
//! - an answer is JSON (`/metrics` and `/v1/events` excepted), a success is 200, an error has the one shape
//!   of `problem` (below `/client/v4` that of `cloudflare::envelope`) and holds no input;
//! - no redirects: SDKs follow them with the token in hand.

mod auth;
mod bindings;
mod body;
mod certificates;
mod cloudflare;
mod disclosures;
mod events;
mod explain;
mod fields;
mod health;
mod host;
mod info;
mod metrics;
mod openapi;
mod paths;
mod problem;
mod projects;
mod request;
mod server;
mod shell;
mod status;
mod throttle;
mod tokens;
mod vercel;

use std::future::Future;
use std::sync::Arc;

use axum::Router;

use crate::config::LiveLimits;
use crate::control::Control;
use crate::net::Permits;
use crate::net::listen::Accepting;
use crate::observe::Metrics;
use crate::pki::server::ServerTls;
use crate::registry::Registry;

pub use explain::{Explainer, Explanation, Wanted};
pub use health::serve as serve_health;
pub use info::{CaCertificate, CaError, ListenerStatus, ReloadState, Stage, StatusInfo};

/// What the management server works on.
pub struct Management {
    registry: Arc<Registry>,
    control: Arc<Control>,
    metrics: Arc<Metrics>,
    limits: LiveLimits,
    info: Arc<StatusInfo>,
    throttle: throttle::Throttle,
    /// Places for those who listen to the events.
    listeners: Permits,
}

impl Management {
    /// A server over these. Of `limits` it uses those of the management API, the head limits, and the deadlines
    /// for heads, uploads, idle connections and draining.
    #[must_use]
    pub fn new(
        registry: Arc<Registry>,
        control: Arc<Control>,
        metrics: Arc<Metrics>,
        limits: LiveLimits,
        info: Arc<StatusInfo>,
    ) -> Arc<Self> {
        let listeners = Permits::new(limits.max_event_listeners());
        let throttle = throttle::Throttle::default();
        Arc::new(Self { registry, control, metrics, limits, info, throttle, listeners })
    }
}

/// Serves the API on `listener`, in TLS if `tls` says how, until `shutdown` resolves; then finishes what runs, for at
/// most `limits.drain_timeout`. Owns every task it starts: dropping the future ends them all.
pub async fn serve(
    listener: Accepting,
    tls: Option<Arc<ServerTls>>,
    management: Arc<Management>,
    shutdown: impl Future<Output = ()>,
) {
    let (limits, metrics) = (management.limits.clone(), management.metrics.clone());
    server::run(listener, tls, router(management), (limits, LiveLimits::max_api_connections), metrics, shutdown).await;
}

fn router(management: Arc<Management>) -> Router {
    let metrics = management.metrics.clone();
    let (routes, _) = paths::all().split_for_parts();
    let routes = routes.with_state(management);
    shell::dress(routes, metrics)
}

#[cfg(test)]
mod tests;
