//! Floor 7: wiring only. Settings in, a running egret out; nothing else constructs long-lived state.
//!
//! Two runtimes: the data plane has `workers` threads; store, control and the API run on the caller's.
//! A list of ten thousand certificates never delays a request.

mod ca;
mod signals;
mod token;

use std::io::{IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api::{self, CaCertificate, ListenerStatus, Management, Stage, StatusInfo};
use crate::backend::{Backend, MemoryBackend, SqliteBackend};
use crate::config::{ADMIN_TOKEN, CallerSettings, ListenerSettings, Settings, StoreBackend};
use crate::control::Control;
use crate::domain::Role;
use crate::identity::TlsFactory;
use crate::observe::{AccessLog, Format, Metrics};
use crate::pki::anchors::SharedAnchors;
use crate::pki::seal::Sealer;
use crate::pki::{kek, pem};
use crate::policy::EgressPolicy;
use crate::proxy::headers::Via;
use crate::proxy::{Forwarder, Listener, Parts, Proxy};
use crate::registry::{Registry, Token, TokenScope};
use crate::upstream::Upstreams;
use ca::LocalCa;

pub use signals::Signals;

/// A way in, bound.
#[derive(Debug, Clone)]
pub struct BoundListener {
    /// Its name.
    pub name: String,
    /// `forward` or `sidecar`.
    pub mode: &'static str,
    /// Its address, with the port that was found for port 0.
    pub address: SocketAddr,
}

/// A running egret. Dropping it ends everything at once; [`Bound::shut_down`] ends it well.
pub struct Bound {
    listeners: Vec<BoundListener>,
    management: SocketAddr,
    proxy: Arc<Proxy>,
    upstreams: Arc<Upstreams>,
    info: Arc<StatusInfo>,
    drain_delay: Duration,
    drain_timeout: Duration,
    stop_api: watch::Sender<bool>,
    api: JoinHandle<()>,
    /// `Some` until dropped: a runtime must not be dropped where blocking is not allowed.
    data_plane: Option<Runtime>,
}

/// What store and registry are made of; shared by `serve` and `egret ca path`.
struct Core {
    registry: Arc<Registry>,
    control: Arc<Control>,
    metrics: Arc<Metrics>,
    local_ca: Arc<LocalCa>,
}

/// Starts everything that `settings` describe: when this returns, every socket is bound and the store is loaded.
///
/// # Errors
/// What makes starting senseless: a port that is taken, a store that cannot be opened, a key-encryption key that is
/// missing. Each names the thing and the remedy.
pub async fn build(settings: Settings) -> anyhow::Result<Bound> {
    let metrics: Arc<Metrics> = Arc::default();
    // Sockets first: a second egret fails here, before it touches anything.
    let sockets: Vec<(ListenerSettings, TcpListener)> = settings
        .listeners
        .iter()
        .map(|l| Ok((l.clone(), bind(l.listen, &format!("listener {}", l.name))?)))
        .collect::<anyhow::Result<_>>()?;
    let management_socket = bind(settings.management, "the management API")?;
    let management = management_socket.local_addr()?;
    let listeners: Vec<BoundListener> = sockets
        .iter()
        .map(|(l, s)| Ok(BoundListener { name: l.name.clone(), mode: l.mode.as_str(), address: s.local_addr()? }))
        .collect::<anyhow::Result<_>>()?;

    let info = Arc::new(StatusInfo::new(match settings.store.backend {
        StoreBackend::Embedded => "embedded",
        StoreBackend::Memory => "memory",
    }));
    info.set_management(management);
    info.set_listeners(settings.listeners.iter().zip(&listeners).map(|(l, bound)| described(l, bound)).collect());

    let Core { registry, control, metrics, local_ca } = core(&settings, metrics).await?;
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
    policy.set_own(listeners.iter().map(|l| l.address).chain([management]).collect());
    let data_plane = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.workers)
        .thread_name("egret-data")
        .enable_all()
        .build()
        .context("the data plane's threads could not be started")?;
    let (upstreams, proxy) = {
        let _data_plane = data_plane.enter();
        let limits = &settings.limits;
        let upstreams = Upstreams::new(settings.dns_hosts.clone(), policy.clone(), limits, metrics.clone());
        let forwarder = Arc::new(Forwarder::new(
            upstreams.clone(),
            policy.clone(),
            metrics.clone(),
            Arc::new(access),
            Via::random(),
            limits,
        ));
        let proxy = Proxy::new(Parts {
            registry: registry.clone(),
            forwarder,
            upstreams: upstreams.clone(),
            policy,
            leafs: local_ca,
            limits: limits.clone(),
            metrics: metrics.clone(),
        });
        for (listener, socket) in sockets {
            let socket = tokio::net::TcpListener::from_std(socket)?;
            Listener::on(socket, &listener, proxy.clone())?.start();
        }
        (upstreams, proxy)
    };

    let (stop_api, mut stopped) = watch::channel(false);
    let limits = Arc::new(settings.limits.clone());
    let served = Management::new(registry, control, metrics, limits, info.clone());
    let socket = tokio::net::TcpListener::from_std(management_socket)?;
    let api = tokio::spawn(api::serve(socket, served, async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    }));
    info.reach(Stage::Running);
    Ok(Bound {
        listeners,
        management,
        proxy,
        upstreams,
        info,
        drain_delay: settings.limits.drain_delay,
        drain_timeout: settings.limits.drain_timeout,
        stop_api,
        api,
        data_plane: Some(data_plane),
    })
}

impl Bound {
    /// Ways in, in file order.
    #[must_use]
    pub fn listeners(&self) -> &[BoundListener] {
        &self.listeners
    }

    /// Where the management API listens.
    #[must_use]
    pub fn management(&self) -> SocketAddr {
        self.management
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
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.proxy.cut();
        self.api.abort();
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
    let _ = writeln!(out, "management listening on http://{}", bound.management());
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

async fn core(settings: &Settings, metrics: Arc<Metrics>) -> anyhow::Result<Core> {
    let key = kek::load(&settings.store.key_encryption_key, &settings.data_dir, settings.store.backend)?;
    let (backend, data_dir): (Arc<dyn Backend>, _) = match settings.store.backend {
        StoreBackend::Embedded => (Arc::new(SqliteBackend::open(&settings.data_dir)?), Some(&*settings.data_dir)),
        StoreBackend::Memory => (Arc::new(MemoryBackend::default()), None),
    };
    let factory = Arc::new(TlsFactory::new(settings.trust.post_quantum));
    let anchors = Arc::new(SharedAnchors::load(&anchor_files(&settings.trust.anchors)?, factory.provider())?);
    let registry: Arc<Registry> = Arc::default();
    for token in &settings.tokens {
        let scope = token.projects.clone().map_or(TokenScope::All, TokenScope::Projects);
        let made = Token { name: token.name.clone(), email: token.email.clone(), role: token.role, scope };
        registry.insert_token(token.sha256, made);
    }
    if settings.tokens.is_empty()
        && let Some(text) = token::administrator(settings)?
    {
        let name = ADMIN_TOKEN.to_owned();
        let made = Token { name, email: None, role: Role::Admin, scope: TokenScope::All };
        registry.insert_token(sha256(text.as_bytes()), made);
    }
    let sealer = Arc::new(Sealer::new(key));
    let control = Control::load(settings, registry.clone(), backend, sealer, factory, anchors, metrics.clone()).await?;
    let control = Arc::new(control);
    let local_ca = LocalCa::new(control.clone(), settings.limits.max_leafs, metrics.clone(), data_dir);
    Ok(Core { registry, control, metrics, local_ca })
}

fn access_log(settings: &Settings, metrics: &Arc<Metrics>) -> anyhow::Result<AccessLog> {
    if !settings.telemetry.access_log {
        return Ok(AccessLog::off(metrics.clone()));
    }
    let format = if std::io::stderr().is_terminal() { Format::Human } else { Format::Json };
    AccessLog::new(Box::new(std::io::stderr()), format, metrics.clone()).context("the access log could not be started")
}

fn bind(address: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    let family = socket2::Domain::for_address(address);
    let open = || -> std::io::Result<TcpListener> {
        let socket = socket2::Socket::new(family, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        // A restart must not wait for old connections to leave TIME_WAIT.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        Ok(socket.into())
    };
    open().with_context(|| format!("{what} cannot listen on {address}; is it taken? port 0 finds a free one"))
}

fn described(settings: &ListenerSettings, bound: &BoundListener) -> ListenerStatus {
    let (project, auth) = match &settings.caller {
        CallerSettings::Project(id) => (Some(id.to_string()), "none"),
        CallerSettings::Token => (None, "token"),
    };
    let (name, mode) = (bound.name.clone(), bound.mode.to_owned());
    ListenerStatus { name, mode, address: bound.address.to_string(), project, auth }
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
