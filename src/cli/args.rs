//! The command line. Help text is written here once.

mod certs;
mod run;
mod shell;
mod store;
mod trust;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(super) use self::certs::{BindArgs, CertsCommand, UnbindArgs, UploadArgs};
pub(super) use self::shell::{CompletionsArgs, ManArgs};
pub(super) use self::store::{RekeyArgs, StoreCommand};
use crate::config::Overlay;
use crate::config::file::ProfileName;
use crate::domain::Endpoint;

pub(super) use run::{CredentialArgs, EnvArgs, RunArgs, Shell};
pub(super) use trust::TrustArgs;

const EXAMPLES: &str = "\
Examples:
  egret demo                       see it work: one origin that wants a certificate, all on this machine
  egret serve                      proxy on 127.0.0.1:8080, management API on 127.0.0.1:9090
  egret certs upload --cert client.crt --key client.key --ca ca.crt --origin https://api.example.com
  curl --proxy http://127.0.0.1:8080 --cacert \"$(egret ca path)\" https://api.example.com/

Exit codes: 0 done, 1 failed, 2 usage or configuration.";

const API_HELP: &str = "\
The token for the API is taken from the environment variable EGRET_TOKEN, else from the file admin.token in the
data directory, which the first `egret serve` writes (if the API is on this machine).";

const DEFAULT_URL: &str = "http://127.0.0.1:9090";
const EVENTS_HELP: &str = "\
Examples:
  egret events                              what is kept, and then what happens, until ctrl-c
  egret events --since 1h --no-follow       what happened in the last hour
  egret events --json | jq -c 'select(.type == \"certificate.expiring\")'

Events are kept in memory, the last 1024 unless limits.max_events says otherwise; they count from 1 with every start of
egret, and their ids say which start that was.

The token for the API is taken from the environment variable EGRET_TOKEN, else from the file admin.token in the
data directory, which the first `egret serve` writes (if the API is on this machine).";
const EXPLAIN_HELP: &str = "\
Examples:
  egret explain https://api.example.com/v1/orders
  egret explain --project payments http://api.example.com          what becomes of plain http
  egret explain --json api.example.com:8443

Asks the running egret; where none answers on this machine, reads configuration and store, opening no private key and
writing nothing. Nothing is sent to the URL, and no name is resolved. Exits with 0 whatever the answer is.

The token for the API is taken from the environment variable EGRET_TOKEN, else from the file admin.token in the
data directory, which the first `egret serve` writes (if the API is on this machine).";

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "egret",
    version,
    about = "An egress mTLS forward proxy: the right client certificate for every origin",
    long_about = "An egress mTLS forward proxy. Applications send their requests through it; it picks the client \
                  certificate that is registered for the origin, and makes the mTLS connection.",
    after_help = EXAMPLES
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Commands,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Commands {
    /// Run the proxy and its management API
    #[command(after_help = "\
Examples:
  egret serve                               a working laptop proxy, nothing to configure
  egret serve --config egret.toml
  egret serve --proxy 127.0.0.1:0           any free port; standard output tells which

Addresses go to standard output once everything listens; logs go to standard error. SIGTERM or ctrl-c lets what
runs finish, a second one ends at once. The configuration file and every file that it names are read again when they
change, and on SIGHUP; `egret status` says whether that went well. EGRET_TOKEN, if set, is an administrator token of the API.

Sockets that systemd hands over (LISTEN_FDS) are used for the listeners that they are named after, or whose address \
they have, and outlive egret; NOTIFY_SOCKET and WatchdogSec= are honoured.")]
    Serve(ServeArgs),
    /// Watch a request reach an mTLS-protected origin with the right certificate, step by step
    #[command(long_about = "Starts an origin that wants a client certificate, the proxy and the API, registers a \
                            certificate through the API, sends requests with and without it, and shows what the \
                            origin saw. Needs no network, leaves nothing behind; fails if any step did not do what \
                            it should.")]
    Demo(DemoArgs),
    /// Run a command that sends its requests through egret, and trusts it
    #[command(long_about = run::RUN, after_help = run::RUN_EXAMPLES)]
    Run(RunArgs),
    /// Print the variables of `egret run` for this shell
    #[command(long_about = run::ENV, after_help = run::ENV_EXAMPLES)]
    Env(EnvArgs),
    /// List, upload, bind, show and delete client certificates
    #[command(after_help = API_HELP)]
    Certs {
        /// What to do with them.
        #[command(subcommand)]
        command: CertsCommand,
    },
    /// List, create and revoke tokens for the API and for listeners with auth = "token"
    #[command(after_help = API_HELP)]
    Tokens {
        /// What to do with them.
        #[command(subcommand)]
        command: super::tokens::TokensCommand,
    },
    /// The local CA whose certificates clients see inside intercepted tunnels
    #[command(after_help = API_HELP)]
    Ca {
        /// What to do with it.
        #[command(subcommand)]
        command: CaCommand,
    },
    /// Why a certificate is sent to a URL, or is not: which binding, which certificate, by which rule
    #[command(after_help = EXPLAIN_HELP)]
    Explain(ExplainArgs),
    /// Validate the configuration: every complaint with file, line and remedy
    #[command(after_help = "\
Examples:
  egret check --config egret.toml
  egret check                               the defaults and the environment

Prints ok and a summary, or one line per complaint as FILE:LINE: KEY: WHAT; REMEDY, and then exits with 2.")]
    Check(CheckArgs),
    /// Health, listeners, and certificates with the days they have left
    #[command(after_help = API_HELP)]
    Status(StatusArgs),
    /// What happens: uploads, deletes, certificates that expire, reloads, as they happen
    #[command(after_help = EVENTS_HELP)]
    Events(EventsArgs),
    /// Work on the store itself, while no egret runs on it
    Store {
        /// What to do with it.
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Print the completions of a shell
    #[command(after_help = shell::COMPLETIONS_HELP)]
    Completions(CompletionsArgs),
    /// Print the manual page, or write one page per command
    #[command(after_help = shell::MAN_HELP)]
    Man(ManArgs),
}

/// `egret serve`
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Configuration file (TOML); config/egret.toml of the source shows every key
    #[arg(long, value_name = "FILE", env = "EGRET_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where egret keeps its own files [default: ~/.local/share/egret]
    #[arg(long, value_name = "DIR", env = "EGRET_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address of the first forward listener, or unix:PATH [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub proxy: Option<Endpoint>,
    /// Address of the management API, or unix:PATH [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR")]
    pub management: Option<Endpoint>,
    /// Set of defaults [default: local]
    #[arg(long, value_name = "PROFILE")]
    pub profile: Option<ProfileName>,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
}

impl ServeArgs {
    pub(super) fn overlay(&self) -> Overlay {
        Overlay {
            config: self.config.clone(),
            data_dir: self.data_dir.clone(),
            proxy: self.proxy.clone(),
            management: self.management.clone(),
            profile: self.profile,
        }
    }
}

/// `egret demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// What is logged to standard error beside the demo's own words: error, warn, info, debug, trace
    #[arg(long = "log", value_name = "FILTER", env = "EGRET_LOG", default_value = "warn")]
    pub filter: String,
}

/// What is logged.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// What is logged to standard error: error, warn, info, debug, trace, or by part as in info,egret::upstream=debug
    #[arg(long = "log", value_name = "FILTER", env = "EGRET_LOG", default_value = "info")]
    pub filter: String,
}

/// `egret check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "EGRET_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where egret keeps its own files [default: that of the configuration file, else ~/.local/share/egret]
    #[arg(long, value_name = "DIR", env = "EGRET_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Where the API is.
#[derive(Debug, Clone, Args)]
pub struct ApiArgs {
    /// Management API of the running egret: http://HOST:PORT, https://HOST:PORT or unix:PATH
    #[arg(long, value_name = "URL", env = "EGRET_URL", default_value = DEFAULT_URL)]
    pub url: String,
    /// Data directory in which admin.token is looked for [default: that of the configuration file, else
    /// ~/.local/share/egret]
    #[arg(long, value_name = "DIR", env = "EGRET_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Configuration file of the running egret
    #[arg(long, value_name = "FILE", env = "EGRET_CONFIG")]
    pub config: Option<PathBuf>,
}

impl ApiArgs {
    /// Whether nobody said where the API is.
    pub(super) fn is_default(&self) -> bool {
        self.url == DEFAULT_URL
    }

    /// Whether nobody said anything of which egret is meant.
    pub(super) fn is_silent(&self) -> bool {
        self.is_default() && self.data_dir.is_none() && self.config.is_none()
    }

    pub(super) fn overlay(&self) -> Overlay {
        Overlay { config: self.config.clone(), data_dir: self.data_dir.clone(), ..Overlay::default() }
    }
}

/// Whose certificates.
#[derive(Debug, Clone, Args)]
pub struct ProjectArgs {
    /// Name or id of the project
    #[arg(long, value_name = "PROJECT", env = "EGRET_PROJECT", default_value = "default")]
    pub project: String,
    /// Where the API is.
    #[command(flatten)]
    pub api: ApiArgs,
}

/// `egret ca …`
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Print the path of the CA's certificate (PEM), for --cacert and its like; makes the CA if need be
    #[command(after_help = "\
Examples:
  curl --proxy http://127.0.0.1:8080 --cacert \"$(egret ca path)\" https://api.example.com/
  export NODE_EXTRA_CA_CERTS=\"$(egret ca path)\"")]
    Path {
        /// Where the API is.
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Make this machine's programs trust the CA: the system's store, and this user's browsers
    #[command(long_about = trust::INSTALL, after_help = trust::INSTALL_EXAMPLES)]
    Install(TrustArgs),
    /// Take back what `egret ca install` did: this very certificate, nothing else
    Uninstall(TrustArgs),
    /// Print the CA's certificate: who it is, until when, its fingerprint, and the PEM
    Show {
        /// Where the API is.
        #[command(flatten)]
        api: ApiArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `egret explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The URL that a client requests: https:// or http:// (a bare host is https); path and query are ignored
    #[arg(value_name = "URL")]
    pub target: String,
    /// Whose bindings.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `egret events`
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Only what came after an event (its id), after a time (as 2026-11-28T12:00:00Z), or so long ago (as 1h)
    #[arg(long, value_name = "ID|TIME|AGO")]
    pub since: Option<String>,
    /// Do not wait for what is yet to happen
    #[arg(long)]
    pub no_follow: bool,
    /// Where the API is.
    #[command(flatten)]
    pub api: ApiArgs,
    /// Print JSON, one object per line
    #[arg(long)]
    pub json: bool,
}

/// `egret status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Where the API is.
    #[command(flatten)]
    pub api: ApiArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_only_what_is_built() {
        let mut help = String::new();
        let mut commands = vec![Cli::command()];
        while let Some(mut command) = commands.pop() {
            help.push_str(&command.render_long_help().to_string());
            commands.extend(command.get_subcommands().cloned());
        }
        for later in ["egret probe", "etcd", "socks5", "transparent"] {
            assert!(!help.contains(later), "the help speaks of {later}");
        }
        for variable in ["EGRET_CONFIG", "EGRET_DATA_DIR", "EGRET_TOKEN", "EGRET_URL", "EGRET_PROJECT", "EGRET_LOG"] {
            assert!(help.contains(variable), "the help does not name {variable}");
        }
    }

    #[test]
    fn an_upload_needs_its_three_files() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("egret certs upload --cert c --key k --ca a").is_ok());
        let error = parse("egret certs upload --cert c --key k").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(parse("egret serve --proxy nowhere").unwrap_err().exit_code(), 2);
        assert!(parse("egret serve --profile gateway").is_ok(), "the refusal explains itself later");
    }
}
