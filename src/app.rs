//! Placeholder of the wiring, for this branch alone: the signatures that the commands call.
use std::path::PathBuf;

use crate::config::Settings;

/// Runs until it is told to end.
///
/// # Errors
/// Always.
pub fn serve(_settings: Settings) -> anyhow::Result<()> {
    anyhow::bail!("not wired on this branch")
}

/// Runs the demonstration.
///
/// # Errors
/// Always.
pub fn demo() -> anyhow::Result<()> {
    anyhow::bail!("not wired on this branch")
}

/// The interception CA's certificate: the path of its PEM file, and the PEM.
///
/// # Errors
/// Always.
pub fn local_ca(_settings: &Settings) -> anyhow::Result<(PathBuf, String)> {
    anyhow::bail!("not wired on this branch")
}
