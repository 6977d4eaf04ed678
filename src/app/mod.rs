//! Floor 7: wiring only. Settings in, a running egret out; nothing else constructs long-lived state.
//!
//! Two runtimes: the data plane has `workers` threads; store, control and the API run on the caller's.
//! A list of ten thousand certificates never delays a request.

mod ca;
mod rekey;
mod signals;
mod sockets;
mod token;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api::{self, CaCertificate, Explainer, Explanation, ListenerStatus, Management, Stage, StatusInfo, Wanted};
use crate::backend::{Backend, MemoryBackend, SqliteBackend};
use crate::config::{ADMIN_TOKEN, CallerSettings, ListenerSettings, Settings, StoreBackend, TOKEN_VARIABLE};
use crate::control::{Control, Outline, outline};
use crate::domain::{Endpoint, Role};
use crate::identity::TlsFactory;
use crate::net::listen::{Listening, Remover};
use crate::observe::{AccessLog, Format, Metrics};
use crate::pki::anchors::SharedAnchors;
use crate::pki::seal::Sealer;
use crate::pki::{kek, pem};
use crate::policy::EgressPolicy;
use crate::proxy::headers::Via;
use crate::proxy::{Forwarder, Listener, Outlook, Parts, Proxy};
use crate::registry::{Registry, Token, TokenScope};
use crate::upstream::{Destination, Parents, Prober, Upstreams, WaysOut, check_sources};
use ca::LocalCa;

pub use rekey::{NewKey, rekey};
pub use signals::Signals;
pub(crate) use sockets::checked as tls_of_listeners;

/// A way in, bound.
#[derive(Debug, Clone)]
pub struct BoundListener {
    /// Its name.
    pub name: String,
    /// `forward` or `sidecar`.
    pub mode: &'static str,
    /// Where it listens, with the port that was found for port 0.
    pub address: Endpoint,
    /// It speaks TLS.
    pub tls: bool,
}

/// A running egret. Dropping it ends everything at once; [`Bound::shut_down`] ends it well.
pub struct Bound {
    listeners: Vec<BoundListener>,
    management: BoundListener,
    /// Files of Unix sockets, in case the data plane does not get round to them.
    _sockets: Vec<Remover>,
    proxy: Arc<Proxy>,
    upstreams: Arc<Upstreams>,
    info: Arc<StatusInfo>,
    drain_delay: Duration,
    drain_timeout: Duration,
    stop_api: watch::Sender<bool>,
    api: JoinHandle<()>,
    health: Option<SocketAddr>,
    health_task: Option<JoinHandle<()>>,
    /// `Some` until dropped: a runtime must not be dropped where blocking is not allowed.
    data_plane: Option<Runtime>,
}

fn bound_listener((settings, socket): (&ListenerSettings, &Listening)) -> BoundListener {
    BoundListener {
        name: settings.name.clone(),
        mode: settings.mode.as_str(),
        address: socket.endpoint().clone(),
        tls: settings.tls.is_some(),
    }
}

/// What store and registry are made of; shared by `serve` and `egret ca path`.
struct Core {
    registry: Arc<Registry>,
    control: Arc<Control>,
    metrics: Arc<Metrics>,
    local_ca: Arc<LocalCa>,
    parents: Parents,
}

/// Starts everything that `settings` describe: when this returns, every socket is bound and the store is loaded.
///
/// # Errors
/// What makes starting senseless: a port that is taken, a store that cannot be opened, a key-encryption key that is
/// missing. Each names the thing and the remedy.
pub async fn build(settings: Settings) -> anyhow::Result<Bound> {
    let metrics: Arc<Metrics> = Arc::default();
    check_sources(settings.egress.sources).map_err(|(address, error)| {
        anyhow::anyhow!(
            "[egress] source_addresses: {address} cannot be used here: {error}; name addresses of this machine"
        )
    })?;
    let tls = sockets::tls(&settings)?;
    // Sockets first: a second egret fails here, before it touches anything.
    let sockets = sockets::bind(&settings)?;
    let listeners: Vec<BoundListener> = settings.listeners.iter().zip(&sockets.listeners).map(bound_listener).collect();
    let management = BoundListener {
        name: "management".to_owned(),
        mode: "management",
        address: sockets.management.endpoint().clone(),
        tls: tls.management.is_some(),
    };
    let health = sockets.health.as_ref().and_then(|socket| socket.endpoint().tcp());

    let info = Arc::new(StatusInfo::new(match settings.store.backend {
        StoreBackend::Embedded => "embedded",
        StoreBackend::Memory => "memory",
    }));
    info.set_management(management.url());
    if let Some(health) = health {
        info.set_health(health);
    }
    info.set_listeners(settings.listeners.iter().zip(&listeners).map(|(l, bound)| described(l, bound)).collect());

    let Core { registry, control, metrics, local_ca, parents } = core(&settings, metrics).await?;
    let ca = local_ca.clone();
    info.set_ca(move || {
        let ca = ca.clone();
        async move {
            let issuer = ca.issuer().await.map_err(|error| format!("{error:#}"))?;
            let path = ca.path().map(|p| p.display().to_string());
            Ok(CaCertificate { pem: issuer.ca_pem().to_owned(), path })
        }
    });

    let access = access_log(&settings, &metrics)?;
    let policy = Arc::new(EgressPolicy::new(&settings.egress));
    policy.set_own(listeners.iter().chain([&management]).filter_map(|l| l.address.tcp()).chain(health).collect());
    let data_plane = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.workers)
        .thread_name("egret-data")
        .enable_all()
        .build()
        .context("the data plane's threads could not be started")?;
    let via = Via::random();
    let (upstreams, proxy) = {
        let _data_plane = data_plane.enter();
        let limits = &settings.limits;
        let ways = WaysOut {
            hosts: settings.dns_hosts.clone(),
            servers: settings.dns_servers.clone(),
            mixed: settings.dns_mixed,
            parents,
            sources: settings.egress.sources,
        };
        let upstreams = Upstreams::new(ways, policy.clone(), limits, metrics.clone());
        let forwarder = Arc::new(Forwarder::new(
            upstreams.clone(),
            policy.clone(),
            metrics.clone(),
            Arc::new(access),
            via.clone(),
            limits,
        ));
        forwarder.fall_back_by(control.clone());
        let proxy = Proxy::new(Parts {
            registry: registry.clone(),
            forwarder,
            upstreams: upstreams.clone(),
            policy: policy.clone(),
            leafs: local_ca,
            limits: limits.clone(),
            metrics: metrics.clone(),
        });
        for ((settings, socket), tls) in settings.listeners.iter().zip(sockets.listeners).zip(tls.listeners) {
            Listener::on(socket, tls, settings, proxy.clone())?.start();
        }
        (upstreams, proxy)
    };

    control.set_prober(Arc::new(Prober::new(upstreams.clone(), via.value(http::Version::HTTP_11))));
    let pool = upstreams.clone();
    info.set_pool(move || pool.pool_state());
    let (stop_api, stopped) = watch::channel(false);
    let stop = || {
        let mut stopped = stopped.clone();
        async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };
    let outlook = Outlook::new(settings.listeners.clone(), policy.clone(), Some(proxy.clone()));
    let routes = upstreams.clone();
    info.set_explainer(Explainer::new(policy, Arc::new(outlook)).with_route(move |to| routes.route(to)));
    let limits = Arc::new(settings.limits.clone());
    let served = Management::new(registry, control.clone(), metrics, limits, info.clone());
    let health_task = match sockets.health {
        Some(socket) => Some(tokio::spawn(api::serve_health(socket.accepting()?, served.clone(), stop()))),
        None => None,
    };
    let serving = api::serve(sockets.management.accepting()?, tls.management, served, stop());
    let api = tokio::spawn(async move {
        tokio::select! {
            () = serving => {}
            () = control.tend() => {}
        }
    });
    info.reach(Stage::Running);
    Ok(Bound {
        listeners,
        management,
        _sockets: sockets.removers,
        proxy,
        upstreams,
        info,
        drain_delay: settings.limits.drain_delay,
        drain_timeout: settings.limits.drain_timeout,
        stop_api,
        api,
        health,
        health_task,
        data_plane: Some(data_plane),
    })
}

impl BoundListener {
    /// As `EGRET_URL` takes it: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`.
    #[must_use]
    pub fn url(&self) -> String {
        match (&self.address, self.tls) {
            (Endpoint::Unix(_), _) => self.address.to_string(),
            (Endpoint::Tcp(address), false) => format!("http://{address}"),
            (Endpoint::Tcp(address), true) => format!("https://{address}"),
        }
    }
}

impl Bound {
    /// Ways in, in file order.
    #[must_use]
    pub fn listeners(&self) -> &[BoundListener] {
        &self.listeners
    }

    /// The management API.
    #[must_use]
    pub fn management(&self) -> &BoundListener {
        &self.management
    }

    /// Where probes and metrics alone are served, if they are.
    #[must_use]
    pub fn health(&self) -> Option<SocketAddr> {
        self.health
    }

    /// Ends well: goes on accepting for `limits.drain_delay` (load balancers learn it from `/readyz`), then stops
    /// accepting, lets what runs finish for `limits.drain_timeout`, and cuts the rest.
    pub async fn shut_down(mut self) {
        self.info.reach(Stage::Draining);
        tokio::time::sleep(self.drain_delay).await;
        self.proxy.finish(self.drain_timeout).await;
        self.upstreams.cut_all();
        self.stop_api.send_replace(true);
        let _ = (&mut self.api).await;
        if let Some(health) = &mut self.health_task {
            let _ = health.await;
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.proxy.cut();
        self.api.abort();
        if let Some(health) = &self.health_task {
            health.abort();
        }
        if let Some(runtime) = self.data_plane.take() {
            runtime.shutdown_background();
        }
    }
}

/// `egret serve`: runs until a signal, then ends well; a second signal ends at once.
///
/// # Errors
/// See [`build`].
pub fn serve(settings: Settings) -> anyhow::Result<()> {
    let runtime = control_runtime()?;
    let outcome = runtime.block_on(async {
        // Before anything is started: a signal that comes early must not be missed.
        let mut signals = Signals::new()?;
        let bound = build(settings).await?;
        announce(&bound);
        signals.next().await;
        tracing::info!("ending: what runs may finish; a second signal ends at once");
        tokio::select! {
            () = bound.shut_down() => {}
            () = signals.next() => tracing::warn!("ended at once by a second signal"),
        }
        Ok(())
    });
    // A validation that still runs must not hold up the end.
    runtime.shutdown_background();
    outcome
}

/// `egret demo`: true if every step did what it should.
///
/// # Errors
/// When it could not even be set up.
pub fn demo() -> anyhow::Result<bool> {
    control_runtime()?.block_on(crate::demo::run())
}

/// The runtime of store, control and API: one thread is enough for a cold path.
fn control_runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime could not be started")
}

/// The lines that scripts wait for, after all sockets are bound.
fn announce(bound: &Bound) {
    let mut out = std::io::stdout().lock();
    for listener in bound.listeners() {
        let _ = writeln!(out, "proxy listening on {} ({}, {})", listener.address, listener.name, listener.mode);
    }
    let _ = writeln!(out, "management listening on {}", bound.management().url());
    if let Some(health) = bound.health() {
        let _ = writeln!(out, "health listening on http://{health}");
    }
    let _ = out.flush();
}

/// The interception CA without a running egret: its file and its certificate, made if need be.
///
/// # Errors
/// When the store cannot be opened; for example because an egret runs on it (ask that one).
pub fn local_ca(settings: &Settings) -> anyhow::Result<(Option<PathBuf>, String)> {
    control_runtime()?.block_on(async {
        let core = core(settings, Arc::default()).await?;
        let issuer = core.local_ca.issuer().await?;
        Ok((core.local_ca.path().map(PathBuf::from), issuer.ca_pem().to_owned()))
    })
}

/// What happens with `wanted` in `project` (id or name), without a running egret: configuration and store are read, no
/// key is opened, nothing is written. And what of the store is damaged, in words.
///
/// # Errors
/// No such project; a store that cannot be read, for example because an egret runs on it (ask that one).
pub fn explain(settings: &Settings, project: &str, wanted: &Wanted) -> anyhow::Result<(Explanation, Vec<String>)> {
    let stored = match settings.store.backend {
        StoreBackend::Embedded => SqliteBackend::read(&settings.data_dir)?,
        StoreBackend::Memory => None,
    };
    let stored = match stored {
        Some(loaded) => {
            let key = kek::existing(&settings.store.key_encryption_key, &settings.data_dir)?;
            Some((loaded, Arc::new(Sealer::new(key))))
        }
        None => None,
    };
    let Outline { snapshots, unread, mut damage } = outline(settings, stored)?;
    // As the registry finds them: by id, then by name, and of namesakes the one without a team.
    let named = || snapshots.iter().filter(|s| s.info().name == project);
    let snapshot = snapshots
        .iter()
        .find(|s| s.info().id.as_str() == project)
        .or_else(|| named().find(|s| s.info().team.is_none()))
        .or_else(|| named().next().filter(|_| named().count() == 1))
        .with_context(|| "project not found in configuration and store; `egret check` lists what is declared")?;
    let policy = Arc::new(EgressPolicy::new(&settings.egress));
    let outlook = Outlook::new(settings.listeners.clone(), policy.clone(), None);
    let mut explainer = Explainer::new(policy, Arc::new(outlook)).offline(unread);
    match parents(settings) {
        Ok(parents) => {
            let hosts = settings.dns_hosts.clone();
            let own = move |to: &Destination| parents.route(to, hosts.get(to.host()).map_or(&[], Vec::as_slice));
            explainer = explainer.with_route(own);
        }
        Err(error) => damage.push(format!("which way leads there cannot be told: {error:#}")),
    }
    Ok((explainer.explain(snapshot, wanted, crate::domain::time::now()), damage))
}

/// The parent proxies, for those who only ask for the way; nothing is dialled.
fn parents(settings: &Settings) -> anyhow::Result<Parents> {
    let factory = TlsFactory::new(settings.trust.post_quantum);
    let anchors = SharedAnchors::load(&anchor_files(&settings.trust.anchors)?, factory.provider())?;
    Ok(Parents::load(&settings.egress.parents, &anchors, &factory)?)
}

async fn core(settings: &Settings, metrics: Arc<Metrics>) -> anyhow::Result<Core> {
    let key = kek::load(&settings.store.key_encryption_key, &settings.data_dir, settings.store.backend)?;
    let (backend, data_dir): (Arc<dyn Backend>, _) = match settings.store.backend {
        StoreBackend::Embedded => (Arc::new(SqliteBackend::open(&settings.data_dir)?), Some(&*settings.data_dir)),
        StoreBackend::Memory => (Arc::new(MemoryBackend::default()), None),
    };
    let key = if settings.store.backend == StoreBackend::Embedded {
        rekey::settle(&settings.store.key_encryption_key, &settings.data_dir, &*backend, key).await?
    } else {
        key
    };
    let factory = Arc::new(TlsFactory::new(settings.trust.post_quantum));
    let anchors = Arc::new(SharedAnchors::load(&anchor_files(&settings.trust.anchors)?, factory.provider())?);
    let parents = Parents::load(&settings.egress.parents, &anchors, &factory)?;
    let registry: Arc<Registry> = Arc::default();
    for token in &settings.tokens {
        let scope = token.projects.clone().map_or(TokenScope::All, TokenScope::Projects);
        let place = match &settings.config_file {
            Some(file) if token.name != TOKEN_VARIABLE => file.display().to_string(),
            _ => format!("the environment variable {TOKEN_VARIABLE}"),
        };
        let made = Token::declared(&token.name, token.role, scope, &token.sha256, &place);
        registry.insert_token(token.sha256, Token { email: token.email.clone(), ..made });
    }
    if settings.tokens.is_empty()
        && let Some(text) = token::administrator(settings)?
    {
        let sha256 = sha256(text.as_bytes());
        let place = settings.data_dir.join(ADMIN_TOKEN).display().to_string();
        registry.insert_token(sha256, Token::declared(ADMIN_TOKEN, Role::Admin, TokenScope::All, &sha256, &place));
    }
    let sealer = Arc::new(Sealer::new(key));
    let control = Control::load(settings, registry.clone(), backend, sealer, factory, anchors, metrics.clone()).await?;
    let control = Arc::new(control);
    let local_ca = LocalCa::new(control.clone(), settings.limits.max_leafs, metrics.clone(), data_dir);
    Ok(Core { registry, control, metrics, local_ca, parents })
}

fn access_log(settings: &Settings, metrics: &Arc<Metrics>) -> anyhow::Result<AccessLog> {
    if !settings.telemetry.access_log {
        return Ok(AccessLog::off(metrics.clone()));
    }
    let format = if std::io::stderr().is_terminal() { Format::Human } else { Format::Json };
    AccessLog::new(Box::new(std::io::stderr()), format, metrics.clone()).context("the access log could not be started")
}

fn described(settings: &ListenerSettings, bound: &BoundListener) -> ListenerStatus {
    let (project, auth) = match &settings.caller {
        CallerSettings::Project(id) => (Some(id.to_string()), "none"),
        CallerSettings::Token => (None, "token"),
        CallerSettings::Certificate => (None, "mtls"),
    };
    let (name, mode) = (bound.name.clone(), bound.mode.to_owned());
    ListenerStatus { name, mode, address: bound.address.to_string(), project, auth, tls: bound.tls }
}

type AnchorFile = (PathBuf, Vec<rustls::pki_types::CertificateDer<'static>>);

fn anchor_files(paths: &[PathBuf]) -> anyhow::Result<Vec<AnchorFile>> {
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).with_context(|| format!("[trust] anchors: {}", path.display()))?;
        let certificates =
            pem::certificates(&text).map_err(|e| anyhow::anyhow!("[trust] anchors: {}: {e}", path.display()))?;
        Ok((path.clone(), certificates))
    };
    paths.iter().map(read).collect()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    out
}
