//! Floor 7: the commands.
//!
//! What must stay true: exit code 0 = done, 1 = failed, 2 = usage or configuration; results go to standard
//! output, everything else to standard error; `--json` on whatever lists or shows.

mod args;
mod ca;
mod certs;
mod check;
mod client;
mod environment;
mod events;
mod explain;
mod logging;
mod output;
mod passphrase;
mod run;
mod shell;
mod status;
mod store;
mod tokens;
mod trust;

use std::future::Future;
use std::process::ExitCode;

pub use args::{Cli, Commands};
pub use run::Inherited;

use crate::config::{Refused, load, process_environment};

/// The command line was understood, but what it asks for makes no sense: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Parses the command line, does what it says, and reports a failure on standard error. `inherited` is what a command
/// of the user's is started with, whatever this process took on for itself.
#[must_use]
pub fn run(inherited: &Inherited) -> ExitCode {
    let cli = environment::parse();
    match dispatch(cli.command, inherited) {
        Ok(code) => code,
        Err(error) => {
            if error.is::<Refused>() {
                eprintln!("egret: the configuration cannot be used\n{error}");
            } else {
                eprintln!("egret: {error:#}");
            }
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Refused>() || error.is::<Usage>() { 2 } else { 1 }
}

fn dispatch(command: Commands, inherited: &Inherited) -> anyhow::Result<ExitCode> {
    match command {
        Commands::Serve(args) => {
            logging::init(&args.log.filter)?;
            let loaded = load(&args.overlay(), &process_environment)?;
            for complaint in loaded.warnings.iter().chain(&loaded.unready) {
                tracing::warn!("{complaint}");
            }
            crate::app::serve(loaded.settings, args.overlay())?;
        }
        Commands::Demo(args) => {
            logging::init(&args.filter)?;
            if !crate::app::demo()? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Commands::Run(args) => return run::run(args, inherited),
        Commands::Env(args) => run::env(&args)?,
        Commands::Certs { command } => block_on(certs::run(command))?,
        Commands::Tokens { command } => block_on(tokens::run(command))?,
        Commands::Ca { command } => ca::run(command, inherited)?,
        Commands::Explain(args) => explain::run(&args)?,
        Commands::Check(args) => return check::run(&args),
        Commands::Status(args) => block_on(status::run(&args))?,
        Commands::Events(args) => block_on(events::run(&args))?,
        Commands::Store { command } => store::run(&command)?,
        Commands::Completions(args) => shell::completions(&args)?,
        Commands::Man(args) => shell::man(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
