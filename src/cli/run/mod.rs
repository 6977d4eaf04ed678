//! `egret run` and `egret env`: what makes a command send its requests through egret.
//!
//! What must stay true: the command's own standard streams, arguments and exit code are left alone; the credential is
//! in its environment and nowhere else; whatever it trusted and kept away from proxies before, it does now.

mod access;
mod child;
mod git;
mod no_proxy;
mod npm;
mod private;
mod roots;
mod shell;
mod variables;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use serde_json::Value;

pub use child::Inherited;

use super::Usage;
use super::args::{EnvArgs, ProjectArgs, RunArgs, Shell};
use super::client::{Api, ApiError};
use super::output::{clean, print, while_waiting};
use crate::config::{data_dir, default_data_dir, process_environment};
use crate::domain::{Pattern, hex};
use crate::pki::files;
use access::{Access, Credential};
use child::Watch;
use private::Private;
use roots::Roots;
use variables::Configured;

/// Bound origins that a warning about `NO_PROXY` names; of more it tells the number.
const NAMED: usize = 3;

/// `egret run`
pub(super) fn run(args: RunArgs, inherited: &Inherited) -> anyhow::Result<ExitCode> {
    super::logging::init(&process_environment("EGRET_LOG").unwrap_or_else(|| "warn".to_owned()))?;
    super::block_on(wrapped(args, inherited))
}

async fn wrapped(args: RunArgs, inherited: &Inherited) -> anyhow::Result<ExitCode> {
    let mut running = Api::new(&args.project.api)?;
    let (mut access, mut private) = match status(&mut running).await {
        Ok(status) => {
            let credential = Credential::Issue(&args.credential);
            (Access::ask(&mut running, &status, &args.project.project, credential).await?, None)
        }
        Err(error) if starts_private(&error, &running, &args.project) => {
            let mut private = Private::start(&args.project, args.credential.without_credential).await?;
            if let Some(name) = variables::users_proxy(&|name| std::env::var_os(name)) {
                eprintln!(
                    "egret: warning: {name} names a proxy, and the egret started for this command goes through it only if \
                     the configuration names it as `parent` in [egress]"
                );
            }
            let asked = ask_private(&mut private, &args.project.project).await;
            (asked?, Some(private))
        }
        Err(error) => return Err(error.into()),
    };
    // From here on there is something to clean up, so a signal no longer ends this process as it comes.
    let mut watch = Watch::new()?;
    let key_variable = private.as_ref().and_then(Private::key_variable).map(str::to_owned);
    let outcome = with_access(&args, &access, inherited, &mut watch, key_variable.as_deref()).await;
    if let Some(private) = private.take() {
        // What the command left running may finish what it does, unless someone is in a hurry.
        tokio::select! {
            () = private.finish() => {}
            () = watch.end() => {}
        }
    } else if let Err(error) = access.revoke(&mut running).await {
        eprintln!("egret: warning: the command's credential could not be revoked, it ends by itself: {error}");
    }
    outcome
}

async fn with_access(
    args: &RunArgs,
    access: &Access,
    inherited: &Inherited,
    watch: &mut Watch,
    key_variable: Option<&str>,
) -> anyhow::Result<ExitCode> {
    let folder = Temporary::new()?;
    let environment = |name: &str| std::env::var_os(name);
    let mut roots = Roots::new(&folder.0, &access.ca, &environment)?;
    let variables = variables::variables(access, &mut roots, &Configured::here(&environment), &environment)?;
    warn(access, &roots.warnings, &variables::users_no_proxy(&environment));

    let (program, arguments) = args.command.split_first().context("a command is needed")?;
    if access.open.is_none() && variables::is_java(program) {
        eprintln!(
            "egret: warning: Java's HttpClient sends a credential only if the program brings an Authenticator; if it answers \
             with 407, use --without-credential"
        );
    }
    let mut command = Command::new(program);
    command.args(arguments).envs(variables).env_remove(variables::WITHHELD);
    for name in crate::net::listen::VARIABLES {
        command.env_remove(name);
    }
    if let Some(name) = key_variable {
        command.env_remove(name);
    }
    let ended = watch.run(command, inherited).await?;
    Ok(ExitCode::from(ended.0))
}

/// `egret env`
pub(super) fn env(args: &EnvArgs) -> anyhow::Result<()> {
    super::block_on(async {
        let mut api = Api::new(&args.project.api)?;
        let status = match status(&mut api).await {
            Ok(status) => status,
            Err(error @ ApiError::NotListening { .. }) => {
                return Err(anyhow::Error::from(error).context(
                    "variables outlive this command, so they need an egret that does too (`egret run` needs none)",
                ));
            }
            Err(error) => return Err(error.into()),
        };
        let access = Access::ask(&mut api, &status, &args.project.project, Credential::Issue(&args.credential)).await?;
        let folder = lasting_folder(&args.project)?;
        let environment = |name: &str| std::env::var_os(name);
        let mut roots = Roots::new(&folder, &access.ca, &environment)?;
        let variables = variables::variables(&access, &mut roots, &Configured::here(&environment), &environment)?;
        warn(&access, &roots.warnings, &variables::users_no_proxy(&environment));
        if access.has_credential() {
            let ttl = humantime::format_duration(args.credential.ttl);
            eprintln!("# these variables hold a credential for egret's proxy that is good for {ttl}");
        }
        let shell = args.shell.unwrap_or_else(|| Shell::of(environment("SHELL").as_deref()));
        let mut out = zeroize::Zeroizing::new(String::new());
        for (name, value) in variables {
            let Some(text) = value.to_str() else { bail!("{name} would hold a path that is not text") };
            out.push_str(&shell.export(&name, text));
        }
        print(&out)
    })
}

async fn status(api: &mut Api) -> Result<Value, ApiError> {
    while_waiting(|| "waiting for the API".to_owned(), api.get("/v1/status")).await
}

/// Whether there is no egret to ask. Where nobody said where it is, another program on its port is none either.
fn starts_private(error: &ApiError, api: &Api, args: &ProjectArgs) -> bool {
    match error {
        ApiError::NotListening { .. } => api.is_local(),
        ApiError::Foreign { .. } => args.api.is_default(),
        _ => false,
    }
}

async fn ask_private(private: &mut Private, project: &str) -> anyhow::Result<Access> {
    let status = status(&mut private.api).await?;
    let credential = private.credential.as_ref().map_or(Credential::Without, Credential::Known);
    Access::ask(&mut private.api, &status, project, credential).await
}

fn warn(access: &Access, warnings: &[String], no_proxy: &[String]) {
    for warning in warnings {
        eprintln!("egret: warning: {warning}");
    }
    if access.bound.is_empty() {
        eprintln!(
            "egret: warning: this project has no certificate yet, so none will be presented; `egret certs upload` \
             registers one"
        );
    }
    for text in swallowed(&access.bound, no_proxy) {
        eprintln!("egret: warning: {text}");
    }
}

/// What the user's own `NO_PROXY` keeps away from egret although a certificate is bound there.
fn swallowed(bound: &[Pattern], no_proxy: &[String]) -> Vec<String> {
    let mut by_entry: Vec<(&str, Vec<String>)> = Vec::new();
    for pattern in bound {
        let Some(entry) = no_proxy.iter().find_map(|value| no_proxy::swallower(value, pattern)) else { continue };
        let origin = match pattern {
            Pattern::Default => "every origin".to_owned(),
            other => other.to_string(),
        };
        match by_entry.iter_mut().find(|(known, _)| *known == entry) {
            Some((_, origins)) => origins.push(origin),
            None => by_entry.push((entry, vec![origin])),
        }
    }
    let sentence = |(entry, origins): (&str, Vec<String>)| {
        let more = origins.len().saturating_sub(NAMED);
        let named = origins[..origins.len() - more].join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!(
            "NO_PROXY has {}, so requests to {named}{more} do not pass egret and carry no certificate; take the entry out",
            clean(entry)
        )
    };
    by_entry.into_iter().map(sentence).collect()
}

/// A folder for one command, gone with it.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> anyhow::Result<Self> {
        let mut name = [0; 16];
        aws_lc_rs::rand::fill(&mut name).map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
        let path = std::env::temp_dir().join(format!("egret-run-{}", hex(&name)));
        files::private_folder(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Where files for a whole session lie: in the data directory if it is this user's, else in the user's own.
fn lasting_folder(args: &ProjectArgs) -> anyhow::Result<PathBuf> {
    let below = |folder: PathBuf| -> Result<PathBuf, files::FileError> {
        let folder = folder.join("env");
        files::private_folder(&folder)?;
        Ok(folder)
    };
    let own = default_data_dir(&process_environment);
    let first = data_dir(&args.api.overlay(), &process_environment);
    below(first).or_else(|first| below(own).map_err(|_| first)).map_err(|error| {
        Usage(format!("the files for the clients' roots need a folder: {error}; name one with --data-dir")).into()
    })
}
