//! `egret store rekey`: another key-encryption key, without an instant at which no key opens the store.
//!
//! The order, and what a crash leaves behind at each step:
//!
//! 1. the store is locked, every record opened under the old key and sealed for the new one: nothing has changed;
//! 2. the new key becomes durable beside the old one: the store opens with the old key;
//! 3. one commit: the store opens with the old key before it, with the new key after it, and both are on disk;
//! 4. a key of egret's own takes the old one's place by a rename; until then the next start ([`settle`]) finds the
//!    pending key, sees which of the two opens the store, and finishes the rename or removes what was never used.
//!
//! A key of the operator's (file, environment) is never replaced or removed: the configuration is theirs to change.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

use crate::backend::{Backend, SqliteBackend};
use crate::config::{KeySource, Settings, StoreBackend};
use crate::control::rekey::{Damaged, Rekeyed, opens_any, plan};
use crate::pki::files::FileError;
use crate::pki::kek::{self, KekError};
use crate::pki::seal::Sealer;

/// Where the new key comes from, and where it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewKey {
    /// Made, and kept in the data directory in the place of the old one.
    Generated,
    /// Made, and written to this file, which must not exist.
    File(PathBuf),
    /// Taken from this environment variable.
    Env(String),
}

/// Changes the key-encryption key of the store that `settings` describe.
///
/// # Errors
/// Each says whether anything was changed, and what to do: an egret works with the store, there is no store, records
/// are damaged, the new key cannot be written.
pub fn rekey(settings: &Settings, to: &NewKey, damaged: Damaged) -> anyhow::Result<Rekeyed> {
    super::control_runtime()?.block_on(change(settings, to, damaged))
}

async fn change(settings: &Settings, to: &NewKey, damaged: Damaged) -> anyhow::Result<Rekeyed> {
    let data_dir = &settings.data_dir;
    if settings.store.backend == StoreBackend::Memory {
        bail!("the memory store ends with its egret, and its key with it; there is nothing to rekey");
    }
    // Opening would make one, and a key for it.
    let store = data_dir.join(kek::STORE_FILE);
    if !store.exists() {
        bail!("there is no store at {}; say with --data-dir or --config where it is", store.display());
    }
    let backend = SqliteBackend::open(data_dir)
        .context("the key can only be changed while no egret runs on the store (stop it, rekey, start it again)")?;
    let source = &settings.store.key_encryption_key;
    let key = kek::load(source, data_dir, StoreBackend::Embedded)?;
    let old = Sealer::new(settle(source, data_dir, &backend, key).await?);

    let (key, path) = match to {
        NewKey::Generated => (kek::random()?, Some(data_dir.join(kek::PENDING_FILE))),
        NewKey::File(path) => {
            refuse_taken(path, data_dir, &backend).await?;
            (kek::random()?, Some(path.clone()))
        }
        NewKey::Env(name) => (kek::load(&KeySource::Env(name.clone()), data_dir, StoreBackend::Embedded)?, None),
    };
    let new = Sealer::new(key.clone());
    let plan = plan(&backend, &old, &new, damaged).await?;
    if let Some(path) = &path {
        kek::write_new(path, &key).context("the new key could not be written; nothing was changed")?;
    }
    drop(key);
    let rekeyed = plan.commit(&backend, &new).await.with_context(|| match &path {
        // A commit that failed may have reached the disk all the same, so the key must stay.
        Some(path) => format!("the new key stays in {}; run the command again to see what is in force", path.display()),
        None => "run the command again to see what is in force".to_owned(),
    })?;
    if *to == NewKey::Generated {
        kek::adopt_pending(data_dir)
            .context("the store is sealed with the new key; the next start puts it in place")?;
    }
    Ok(rekeyed)
}

/// A file that is there may be the trace of an earlier run, and then it is the only key.
async fn refuse_taken(path: &Path, data_dir: &Path, backend: &SqliteBackend) -> anyhow::Result<()> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FileError::Io { path: path.to_owned(), doing: "looked at", source: error }.into()),
        Ok(_) => {}
    }
    if let Ok(key) = kek::load(&KeySource::File(path.to_owned()), data_dir, StoreBackend::Embedded)
        && opens_any(backend, &Sealer::new(key)).await?
    {
        bail!(
            "the store is sealed with the key in {} already; let the configuration name it under [store] key_encryption_key",
            path.display()
        );
    }
    bail!(
        "{} exists already, and nothing was changed; name a file that is not there, or remove that one",
        path.display()
    )
}

/// The key that the store wants, once it is open and locked: after a change that was cut short, what was begun is
/// finished, or undone.
///
/// # Errors
/// The store or a key file cannot be read, or the rename fails.
pub(super) async fn settle(
    source: &KeySource,
    data_dir: &Path,
    backend: &dyn Backend,
    key: Zeroizing<[u8; 32]>,
) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    if *source != KeySource::Generated {
        return Ok(key);
    }
    // Read again under the lock: another process may have changed it since.
    let key = kek::load(source, data_dir, StoreBackend::Embedded)?;
    let Some(pending) = kek::pending(data_dir).map_err(unusable)? else { return Ok(key) };
    if opens_any(backend, &Sealer::new(pending.clone())).await? {
        kek::adopt_pending(data_dir)?;
        tracing::info!("finished a change of the key-encryption key that had been cut short");
        return Ok(pending);
    }
    let is_empty = || async { backend.load().await.map(|loaded| loaded.records.is_empty()) };
    if opens_any(backend, &Sealer::new(key.clone())).await? || is_empty().await? {
        kek::discard_pending(data_dir)?;
        tracing::info!("removed the key of a change that had been cut short before it took effect");
    }
    // Else neither opens anything; whoever loads the store says so, and both stay.
    Ok(key)
}

fn unusable(error: KekError) -> anyhow::Error {
    anyhow::Error::from(error).context(format!("{} was left behind by `egret store rekey`", kek::PENDING_FILE))
}

#[cfg(test)]
mod tests;
