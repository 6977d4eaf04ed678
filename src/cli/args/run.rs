//! The command line of `egret run` and `egret env`.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::ProjectArgs;

pub(super) const RUN: &str = "\
Runs a command with the proxy and CA variables of every common tool set, so that what it sends passes through egret, \
and returns its exit code (128+N if signal N ended it, 127 if there is no such command, 126 if it cannot be executed). \
Asks the running egret; if none answers, starts one for this command alone, with the same configuration and store.";

pub(super) const RUN_EXAMPLES: &str = "\
Examples:
  egret run -- curl https://api.example.com/
  egret run --project payments -- npm test
  egret run -- sh -c 'curl -s \"$URL\" | jq .'

The command gets a credential of its own, which is revoked when it ends. Variables it already has are respected: its
own CA files are merged with egret's CA, its NO_PROXY stays in force. EGRET_TOKEN is not handed on.
Java's HttpClient cannot send a credential that stands in variables: let the running egret have a listener with a
fixed project (the default one is), or use --without-credential.";

pub(super) const ENV: &str = "\
Prints the variables of `egret run` as commands of this shell. Where the listener asks for a credential, one is made \
that lasts for --ttl; `egret run` is the better choice wherever it can be used.";

pub(super) const ENV_EXAMPLES: &str = "\
Examples:
  eval \"$(egret env)\"                                  sh, bash, zsh
  egret env --shell fish | source
  egret env --shell powershell | Out-String | Invoke-Expression";

/// Longest life of a credential, in words for [`humantime`].
const TTL: &str = "24h";

/// `egret run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Whose certificates.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Which credential.
    #[command(flatten)]
    pub credential: CredentialArgs,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

/// `egret env`
#[derive(Debug, Args)]
pub struct EnvArgs {
    /// Whose certificates.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Which credential.
    #[command(flatten)]
    pub credential: CredentialArgs,
    /// Whose syntax [default: by the variable SHELL, else sh]
    #[arg(long, value_name = "SHELL")]
    pub shell: Option<Shell>,
}

/// How a command proves to the proxy who it is.
#[derive(Debug, Clone, Args)]
pub struct CredentialArgs {
    /// How long the credential is good for if nobody revokes it
    #[arg(long, value_name = "DURATION", default_value = TTL, value_parser = humantime::parse_duration)]
    pub ttl: Duration,
    /// Use a listener that takes no credential, for clients that cannot send one; a proxy started for this command
    /// then serves every process on this machine as long as it runs
    #[arg(long)]
    pub without_credential: bool,
}

/// A shell, by its syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// POSIX: sh, bash, dash, ksh, zsh
    #[value(alias = "bash", alias = "zsh", alias = "dash", alias = "ksh")]
    Sh,
    /// fish
    Fish,
    /// PowerShell
    #[value(alias = "pwsh")]
    Powershell,
}
