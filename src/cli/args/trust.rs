//! The command line of `egret ca install` and `egret ca uninstall`.

use std::path::PathBuf;

use clap::Args;

use super::ApiArgs;

pub(super) const INSTALL: &str = "\
Makes programs of this machine trust the interception CA without being told one by one: the system's store (which \
takes root), and the NSS databases of this user, which Chromium and Firefox use. `egret run` needs neither.

What it means: whoever has the CA's key can pose as any server to those programs. The key lies sealed in egret's data \
directory and never leaves it; `egret ca uninstall` takes the trust back.";

pub(super) const INSTALL_EXAMPLES: &str = "\
Examples:
  egret ca install                     both, as far as possible; says what was done, and what was not and why
  egret ca install --nss               this user's browsers
  egret ca install --system --root /mnt/image   below another root folder, with that system's own tools";

/// `egret ca install` and `egret ca uninstall`
#[derive(Debug, Args)]
pub struct TrustArgs {
    /// Only the system's store (Debian and its kin, Alpine, Fedora and its kin, SUSE, Arch)
    #[arg(long)]
    pub system: bool,
    /// Only the NSS databases of this user (Chromium, Firefox)
    #[arg(long)]
    pub nss: bool,
    /// Root folder of the system whose store is meant
    #[arg(long, value_name = "DIR", requires = "system", conflicts_with = "nss", default_value = "/")]
    pub root: PathBuf,
    /// Where the API is.
    #[command(flatten)]
    pub api: ApiArgs,
}
