//! `egret store …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::Overlay;

const REKEY_HELP: &str = "\
Examples:
  egret store rekey                                      a new key in the data directory, in the place of the old one
  egret store rekey --to-file /etc/egret/kek-2           for a key that the configuration names: then name the new one
  NEW_KEK=$(openssl rand -hex 32) egret store rekey --to-env NEW_KEK

Stop egret first, and start it again afterwards. All records change in one commit: cut short at any instant, the store
opens with the old key or with the new one. Backups made before need the old key, so keep it with them.";

/// `egret store …`
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Seal the store with another key-encryption key; certificates and bindings stay as they are
    #[command(after_help = REKEY_HELP)]
    Rekey(RekeyArgs),
}

/// `egret store rekey`
#[derive(Debug, Args)]
pub struct RekeyArgs {
    /// Write the new key to this file, which must not exist (64 hex digits, mode 0600)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["to_env", "generate"])]
    pub to_file: Option<PathBuf>,
    /// Take the new key from this environment variable (64 hex digits or base64 of 32 bytes)
    #[arg(long, value_name = "NAME", conflicts_with = "generate")]
    pub to_env: Option<String>,
    /// Make the new key and keep it in the data directory; the default where the old one is kept there
    #[arg(long)]
    pub generate: bool,
    /// Leave damaged records behind, unusable as they are, instead of changing nothing
    #[arg(long)]
    pub skip_damaged: bool,
    /// Configuration file (TOML) of the egret whose store this is
    #[arg(long, value_name = "FILE", env = "EGRET_CONFIG")]
    pub config: Option<PathBuf>,
    /// Its data directory [default: that of the configuration file, else ~/.local/share/egret]
    #[arg(long, value_name = "DIR", env = "EGRET_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl RekeyArgs {
    pub(in crate::cli) fn overlay(&self) -> Overlay {
        Overlay { config: self.config.clone(), data_dir: self.data_dir.clone(), ..Overlay::default() }
    }
}
