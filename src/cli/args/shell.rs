//! `egret completions` and `egret man`

use std::path::PathBuf;

use clap::Args;

pub(super) const COMPLETIONS_HELP: &str = "\
Examples:
  egret completions bash > ~/.local/share/bash-completion/completions/egret
  egret completions zsh  > ~/.zfunc/_egret                     with fpath+=~/.zfunc before compinit in ~/.zshrc
  egret completions fish > ~/.config/fish/completions/egret.fish";

pub(super) const MAN_HELP: &str = "\
Examples:
  egret man | man -l -
  egret man --dir ~/.local/share/man/man1                      then: man egret-certs-upload";

/// `egret completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    pub shell: clap_complete::Shell,
}

/// `egret man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write egret.1, egret-serve.1 and so on into this folder, which is made if need be
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}
