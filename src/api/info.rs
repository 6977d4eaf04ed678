//! What the wiring knows and the API tells: where egret listens, how far it has come, its interception CA.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use time::OffsetDateTime;

use super::explain::Explainer;
use crate::domain::time::now;
use crate::upstream::PoolState;

/// How far egret has come. Only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Sockets are being bound, or the store is being read.
    Starting,
    /// Every listener is bound and the store is loaded.
    Running,
    /// It was told to end and finishes what runs.
    Draining,
}

/// A listener as `/v1/status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = Listener)]
pub struct ListenerStatus {
    /// Its name in the configuration.
    pub name: String,
    /// `forward` or `sidecar`.
    #[schema(pattern = "^(forward|sidecar)$")]
    pub mode: String,
    /// The address it is bound to, `host:port`, or `unix:PATH`.
    #[schema(example = "127.0.0.1:8080")]
    pub address: String,
    /// Id of the project that everyone who can connect is; left out where the caller's credential names it, and for
    /// readers who do not reach that project.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[A-Za-z0-9_-]{1,64}$")]
    pub project: Option<String>,
    /// How callers prove who they are: `none`, `token`, or `mtls`.
    #[schema(pattern = "^(none|token|mtls)$")]
    pub auth: &'static str,
    /// It speaks TLS.
    pub tls: bool,
}

/// The interception CA's certificate. Never its key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = InterceptionCa)]
pub struct CaCertificate {
    /// The certificate, PEM.
    pub pem: String,
    /// The file that holds it for client programs; `None` where nothing may be written.
    #[schema(required)]
    pub path: Option<String>,
}

/// Why there is no interception CA to show: a sentence for the log.
pub type CaError = String;
type CaFuture = Pin<Box<dyn Future<Output = Result<CaCertificate, CaError>> + Send>>;
type PoolSource = Box<dyn Fn() -> PoolState + Send + Sync>;
type CaSource = Box<dyn Fn() -> CaFuture + Send + Sync>;

/// How the last reading of the configuration and the files that it names went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadState {
    /// Why not all of what they say is in force; `None` if it is.
    pub failed: Option<String>,
    /// When it last was.
    pub succeeded_at: Option<OffsetDateTime>,
}

/// What the wiring knows. Filled in while egret starts, read by the API from its first request on.
pub struct StatusInfo {
    stage: AtomicU8,
    started_at: OffsetDateTime,
    store: &'static str,
    management: OnceLock<String>,
    listeners: ArcSwap<Vec<ListenerStatus>>,
    ca: OnceLock<CaSource>,
    health: OnceLock<SocketAddr>,
    degrade_before_expiry: OnceLock<Duration>,
    pool: OnceLock<PoolSource>,
    explainer: OnceLock<Arc<Explainer>>,
    reload: ArcSwap<ReloadState>,
}

impl StatusInfo {
    /// A start, now, with this store (`embedded` or `memory`).
    #[must_use]
    pub fn new(store: &'static str) -> Self {
        Self {
            stage: AtomicU8::new(0),
            started_at: now(),
            store,
            management: OnceLock::new(),
            listeners: ArcSwap::default(),
            ca: OnceLock::new(),
            health: OnceLock::new(),
            degrade_before_expiry: OnceLock::new(),
            pool: OnceLock::new(),
            explainer: OnceLock::new(),
            reload: ArcSwap::from_pointee(ReloadState { failed: None, succeeded_at: None }),
        }
    }

    /// Moves on to `stage`; never back.
    pub fn reach(&self, stage: Stage) {
        // No partner: the stage guards no other data.
        self.stage.fetch_max(stage as u8, Ordering::Relaxed);
    }

    /// How far egret has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Starting,
            1 => Stage::Running,
            _ => Stage::Draining,
        }
    }

    /// Says where the management API listens, as `EGRET_URL` takes it; the first word counts.
    pub fn set_management(&self, url: String) {
        let _ = self.management.set(url);
    }

    /// Where the management API listens: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`.
    #[must_use]
    pub fn management(&self) -> Option<&str> {
        self.management.get().map(String::as_str)
    }

    /// Says where the health listener is; the first word counts.
    pub fn set_health(&self, address: SocketAddr) {
        let _ = self.health.set(address);
    }

    /// Where the health listener is; `None` where there is none.
    #[must_use]
    pub fn health(&self) -> Option<SocketAddr> {
        self.health.get().copied()
    }

    /// Says how much time every bound certificate must have left for egret to be ready; the first word counts.
    pub fn set_degrade_before_expiry(&self, before: Duration) {
        let _ = self.degrade_before_expiry.set(before);
    }

    /// How much time every bound certificate must have left for egret to be ready; `None`: it does not matter.
    #[must_use]
    pub fn degrade_before_expiry(&self) -> Option<Duration> {
        self.degrade_before_expiry.get().copied()
    }

    /// Says whom to ask how the pool stands; the first word counts.
    pub fn set_pool(&self, source: impl Fn() -> PoolState + Send + Sync + 'static) {
        let _ = self.pool.set(Box::new(source));
    }

    /// How the pool stands right now.
    #[must_use]
    pub fn pool(&self) -> PoolState {
        self.pool.get().map(|source| source()).unwrap_or_default()
    }

    /// Says how the last reading of the configuration went.
    pub fn set_reload(&self, state: ReloadState) {
        self.reload.store(state.into());
    }

    /// How the last reading of the configuration went.
    #[must_use]
    pub fn reload(&self) -> Arc<ReloadState> {
        self.reload.load_full()
    }

    /// Says which listeners there are, in file order.
    pub fn set_listeners(&self, listeners: Vec<ListenerStatus>) {
        self.listeners.store(listeners.into());
    }

    /// The listeners, in file order.
    #[must_use]
    pub fn listeners(&self) -> Vec<ListenerStatus> {
        self.listeners.load().to_vec()
    }

    /// Says where the interception CA comes from; the first word counts. `source` may make it on its first call.
    pub fn set_ca<F>(&self, source: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<CaCertificate, CaError>> + Send + 'static,
    {
        let _ = self.ca.set(Box::new(move || Box::pin(source())));
    }

    /// The interception CA's certificate; `None` where nothing intercepts.
    ///
    /// # Errors
    /// What [`StatusInfo::set_ca`]'s source says.
    pub async fn ca(&self) -> Option<Result<CaCertificate, CaError>> {
        match self.ca.get() {
            Some(source) => Some(source().await),
            None => None,
        }
    }

    /// Says who explains; the first word counts.
    pub fn set_explainer(&self, explainer: Explainer) {
        let _ = self.explainer.set(Arc::new(explainer));
    }

    /// Who explains; `None` before everything is wired.
    #[must_use]
    pub fn explainer(&self) -> Option<Arc<Explainer>> {
        self.explainer.get().cloned()
    }

    /// When egret was started.
    #[must_use]
    pub fn started_at(&self) -> OffsetDateTime {
        self.started_at
    }

    /// `embedded` or `memory`.
    #[must_use]
    pub fn store(&self) -> &'static str {
        self.store
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ever_moves_forward() {
        let info = StatusInfo::new("memory");
        assert_eq!(info.stage(), Stage::Starting);
        info.reach(Stage::Draining);
        info.reach(Stage::Running);
        assert_eq!(info.stage(), Stage::Draining);
    }

    #[tokio::test]
    async fn asks_the_source_for_the_ca() {
        let info = StatusInfo::new("memory");
        assert!(info.ca().await.is_none());
        let ca = CaCertificate { pem: "pem".to_owned(), path: None };
        let given = ca.clone();
        info.set_ca(move || std::future::ready(Ok(given.clone())));
        assert_eq!(info.ca().await, Some(Ok(ca)));
    }
}
