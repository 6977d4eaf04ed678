//! What store, registry and control are made of, for `serve` and for the commands that need no more than that.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use super::ca::LocalCa;
use super::{control_runtime, rekey, token};
use crate::api::{Explainer, Explanation, Wanted};
use crate::backend::{Backend, MemoryBackend, SqliteBackend};
use crate::config::{Settings, StoreBackend};
use crate::control::{Control, Outline, outline};
use crate::domain::ServerTrust;
use crate::identity::{Show, TlsFactory, UpstreamTls};
use crate::observe::Metrics;
use crate::pki::anchors::{self, AnchorFile, SharedAnchors, Vouching};
use crate::pki::kek;
use crate::pki::seal::Sealer;
use crate::policy::EgressPolicy;
use crate::proxy::Outlook;
use crate::registry::{Registry, Token};
use crate::upstream::{Destination, Parents};

/// Tickets of egret's own errands.
const ERRAND_SESSIONS: usize = 8;

/// What store and registry are made of; shared by `serve` and `egret ca path`.
pub(super) struct Core {
    pub(super) registry: Arc<Registry>,
    pub(super) control: Arc<Control>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) local_ca: Arc<LocalCa>,
    pub(super) parents: Parents,
    /// Ordinary TLS for egret's own errands.
    pub(super) errands: Arc<UpstreamTls>,
    /// Those of file and environment.
    pub(super) tokens: Vec<([u8; 32], Token)>,
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
    let Outline { snapshots, mut unread, mut damage } = outline(settings, stored)?;
    // As the registry finds them: by id, then by name, and of namesakes the one without a team.
    let named = || snapshots.iter().filter(|s| s.info().name == project);
    let snapshot = snapshots
        .iter()
        .find(|s| s.info().id.as_str() == project)
        .or_else(|| named().find(|s| s.info().team.is_none()))
        .or_else(|| named().next().filter(|_| named().count() == 1))
        .with_context(|| "project not found in configuration and store; `egret check` lists what is declared")?;
    unread.retain(|_, unread| unread.is_for(snapshot.info()));
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
    let anchors = SharedAnchors::load(&anchors_of(settings)?, factory.provider())?;
    Ok(Parents::load(&settings.egress.parents, &anchors, &factory)?)
}

pub(super) async fn core(settings: &Settings, metrics: Arc<Metrics>) -> anyhow::Result<Core> {
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
    let anchors = Arc::new(SharedAnchors::load(&anchors_of(settings)?, factory.provider())?);
    let parents = Parents::load(&settings.egress.parents, &anchors, &factory)?;
    let registry: Arc<Registry> = Arc::default();
    let tokens = token::declared(settings)?;
    for (sha256, token) in &tokens {
        registry.insert_token(*sha256, token.clone());
    }
    let sealer = Arc::new(Sealer::new(key));
    let trust = anchors.set(ServerTrust::System, None, &[], &Vouching::none());
    let errands = factory.make(None, Show::Always, trust, ERRAND_SESSIONS);
    let control = Control::load(settings, registry.clone(), backend, sealer, factory, anchors, metrics.clone()).await?;
    let control = Arc::new(control);
    let local_ca = LocalCa::new(control.clone(), settings.limits.max_leafs, metrics.clone(), data_dir);
    Ok(Core { registry, control, metrics, local_ca, parents, errands, tokens })
}

fn anchors_of(settings: &Settings) -> anyhow::Result<Vec<AnchorFile>> {
    anchors::read(&settings.trust.anchors).context("[trust] anchors")
}
