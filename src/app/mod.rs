//! Floor 7: wiring only. Settings in, a running egret out; nothing else constructs long-lived state.
//!
//! Two runtimes: the data plane has `workers` threads; store, control and the API run on the caller's.
//! A list of ten thousand certificates never delays a request.

mod ca;
mod core;
mod rekey;
mod reload;
mod signals;
mod sockets;
pub mod systemd;
mod token;
mod webhook;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api::{self, CaCertificate, Explainer, ListenerStatus, Management, Stage, StatusInfo};
use crate::config::{CallerSettings, ListenerSettings, LiveLimits, Overlay, Settings, StoreBackend};
use crate::control::Control;
use crate::domain::Endpoint;
use crate::net::listen::{Listening, Passed, Remover};
use crate::observe::{AccessLog, Format, Metrics};
use crate::policy::EgressPolicy;
use crate::proxy::headers::Via;
use crate::proxy::{Forwarder, Listener, Outlook, Parts, Proxy};
use crate::upstream::{Prober, Upstreams, WaysOut, check_sources};
use core::{Core, core};
use reload::Reloader;
use signals::Hangups;

pub use core::{explain, local_ca};
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
    control: Arc<Control>,
    info: Arc<StatusInfo>,
    limits: LiveLimits,
    /// Until its files are followed.
    reloader: Option<Reloader>,
    following: Option<JoinHandle<()>>,
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

/// Starts everything that `settings` describe: when this returns, every socket is bound and the store is loaded.
///
/// # Errors
/// What makes starting senseless: a port that is taken, a store that cannot be opened, a key-encryption key that is
/// missing. Each names the thing and the remedy.
pub async fn build(settings: Settings) -> anyhow::Result<Bound> {
    build_on(settings, Passed::default()).await
}

/// As [`build`], on the sockets that were handed over, as far as they go.
async fn build_on(settings: Settings, passed: Passed) -> anyhow::Result<Bound> {
    let metrics: Arc<Metrics> = Arc::default();
    check_sources(settings.egress.sources).map_err(|(address, error)| {
        anyhow::anyhow!(
            "[egress] source_addresses: {address} cannot be used here: {error}; name addresses of this machine"
        )
    })?;
    let tls = sockets::tls(&settings)?;
    // Sockets first: a second egret fails here, before it touches anything.
    let sockets = sockets::bind(&settings, passed)?;
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
    if let Some(before) = settings.degrade_before_expiry {
        info.set_degrade_before_expiry(before);
    }
    info.set_listeners(settings.listeners.iter().zip(&listeners).map(|(l, bound)| described(l, bound)).collect());

    let Core { registry, control, metrics, local_ca, parents, errands, tokens } = core(&settings, metrics).await?;
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
        let limits = control.limits();
        let ways = WaysOut {
            hosts: settings.dns_hosts.clone(),
            servers: settings.dns_servers.clone(),
            mixed: settings.dns_mixed,
            parents,
            sources: settings.egress.sources,
        };
        let upstreams = Upstreams::new(ways, policy.clone(), limits.clone(), metrics.clone());
        upstreams.tell(control.disclosures().clone());
        let forwarder = Arc::new(Forwarder::new(
            upstreams.clone(),
            policy.clone(),
            metrics.clone(),
            Arc::new(access),
            via.clone(),
            limits.clone(),
        ));
        forwarder.fall_back_by(control.clone());
        forwarder.vouched_for_by(control.accounts().clone());
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

    if let Some(hook) = &settings.telemetry.expiry_webhook {
        let (upstreams, metrics) = (upstreams.clone(), metrics.clone());
        webhook::attach(&control, hook, errands, upstreams, &settings.limits, metrics, data_plane.handle());
    }
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
    info.set_explainer(Explainer::new(policy.clone(), Arc::new(outlook)).with_route(move |to| routes.route(to)));
    let limits = control.limits().clone();
    let served = Management::new(registry.clone(), control.clone(), metrics.clone(), limits.clone(), info.clone());
    let tending = control.clone();
    let health_task = match sockets.health {
        Some(socket) => Some(tokio::spawn(api::serve_health(socket.accepting()?, served.clone(), stop()))),
        None => None,
    };
    let serving = api::serve(sockets.management.accepting()?, tls.management, served, stop());
    let kept = control.clone();
    let api = tokio::spawn(async move {
        tokio::select! {
            () = serving => {}
            () = tending.clone().watch_ends() => {}
            () = tending.tend() => {}
        }
    });
    let mut reloader = Reloader::new(control, info.clone(), metrics, settings, tokens);
    reloader.on_change(move |settings| policy.replace(&settings.egress));
    info.reach(Stage::Running);
    Ok(Bound {
        listeners,
        management,
        _sockets: sockets.removers,
        proxy,
        upstreams,
        control: kept,
        info,
        limits,
        reloader: Some(reloader),
        following: None,
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

    /// Follows the configuration file and all that it names, from now on until the end: what changes there comes into
    /// force. Flags and variables of `overlay` stand in for the file's values each time.
    fn follow(&mut self, overlay: Overlay, hangups: Hangups) {
        self.following = self.reloader.take().map(|reloader| tokio::spawn(reloader.follow(overlay, hangups)));
    }

    /// Ends well: goes on accepting for `limits.drain_delay` (load balancers learn it from `/readyz`), then stops
    /// accepting, lets what runs finish for `limits.drain_timeout`, and cuts the rest.
    pub async fn shut_down(mut self) {
        if let Some(following) = &self.following {
            following.abort();
        }
        self.info.reach(Stage::Draining);
        tokio::time::sleep(self.limits.drain_delay()).await;
        self.proxy.finish(self.limits.drain_timeout()).await;
        self.upstreams.cut_all();
        // While its store is still tended: nothing is shown any more, and what was is to be known after a restart.
        if let Err(error) = self.control.store_disclosures(true).await {
            tracing::warn!(%error, "what was shown to whom lately could not be stored");
        }
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
        if let Some(following) = &self.following {
            following.abort();
        }
        if let Some(health) = &self.health_task {
            health.abort();
        }
        if let Some(runtime) = self.data_plane.take() {
            runtime.shutdown_background();
        }
    }
}

/// `egret serve`: runs until a signal, then ends well; a second signal ends at once. SIGHUP has the configuration read
/// again: the file and flags of `overlay`, which `settings` came from.
///
/// # Errors
/// See [`build`].
pub fn serve(settings: Settings, overlay: Overlay) -> anyhow::Result<()> {
    // Before there are threads: the environment is read and changed.
    let passed = Passed::take()?;
    let runtime = control_runtime()?;
    let outcome = runtime.block_on(async {
        // Before anything is started: a signal that comes early must not be missed.
        let mut signals = Signals::new()?;
        let hangups = Hangups::new()?;
        let mut bound = build_on(settings, passed).await?;
        bound.follow(overlay, hangups);
        announce(&bound);
        systemd::ready(&bound);
        let watchdog = systemd::watchdog(&bound).map(tokio::spawn);
        signals.next().await;
        systemd::stopping(&bound);
        tracing::info!("ending: what runs may finish; a second signal ends at once");
        tokio::select! {
            () = bound.shut_down() => {}
            () = signals.next() => tracing::warn!("ended at once by a second signal"),
        }
        if let Some(watchdog) = watchdog {
            watchdog.abort();
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
