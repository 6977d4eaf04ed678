//! The interception CA: made on first need, its key sealed in the store, its certificate in a file for clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::OnceCell;

use crate::config::CA_CERTIFICATE;
use crate::control::Control;
use crate::domain::Host;
use crate::observe::Metrics;
use crate::pki::issuer::{self, LeafIssuer};
use crate::proxy::{LeafFuture, Leafs};

/// The interception CA of one egret.
pub(crate) struct LocalCa {
    control: Arc<Control>,
    max_leafs: usize,
    metrics: Arc<Metrics>,
    /// `None` where nothing may be written (memory store).
    path: Option<PathBuf>,
    issuer: OnceCell<Arc<LeafIssuer>>,
}

impl LocalCa {
    pub(crate) fn new(
        control: Arc<Control>,
        max_leafs: usize,
        metrics: Arc<Metrics>,
        data_dir: Option<&Path>,
    ) -> Arc<Self> {
        let path = data_dir.map(|dir| dir.join(CA_CERTIFICATE));
        Arc::new(Self { control, max_leafs, metrics, path, issuer: OnceCell::new() })
    }

    /// The issuer; read from the store, or made and stored, by the first who asks. The others wait for it.
    pub(crate) async fn issuer(&self) -> anyhow::Result<Arc<LeafIssuer>> {
        self.issuer.get_or_try_init(|| self.load()).await.cloned()
    }

    async fn load(&self) -> anyhow::Result<Arc<LeafIssuer>> {
        let stored = self.control.local_ca(|| Ok(issuer::generate()?)).await.context("the interception CA")?;
        let metrics = self.metrics.clone();
        let issuer = LeafIssuer::load(&stored, self.max_leafs, move || metrics.leafs_minted.add())
            .context("the interception CA")?;
        if let Some(path) = &self.path {
            export(path, issuer.ca_pem()).with_context(|| format!("{} could not be written", path.display()))?;
        }
        Ok(Arc::new(issuer))
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

impl Leafs for LocalCa {
    fn server_config<'a>(&'a self, project: &'a str, host: &'a Host) -> LeafFuture<'a> {
        Box::pin(async move {
            let issuer = self.issuer().await.map_err(|error| format!("{error:#}"))?;
            issuer.server_config(project, host).map_err(|error| error.to_string())
        })
    }
}

/// Whole or not at all: clients may be reading the old one.
fn export(path: &Path, pem: &str) -> std::io::Result<()> {
    if std::fs::read(path).is_ok_and(|found| found == pem.as_bytes()) {
        return Ok(());
    }
    let fresh = path.with_extension("pem.new");
    std::fs::write(&fresh, pem)?;
    // A public certificate, for every client on the machine, whatever the umask of a process that holds keys.
    #[cfg(unix)]
    std::fs::set_permissions(&fresh, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    std::fs::rename(&fresh, path)
}
