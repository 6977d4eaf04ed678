//! Logs: to standard error, for a human on a terminal, as JSON otherwise.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use super::Usage;

/// Starts logging, once per process.
///
/// # Errors
/// A filter that cannot be read ([`Usage`]).
pub(super) fn init(filter: &str) -> anyhow::Result<()> {
    let filter = parse(filter)?;
    let terminal = std::io::stderr().is_terminal();
    // https://no-color.org
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    let started = if terminal {
        logs.try_init()
    } else {
        logs.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    };
    // The embedder of a library call may log already; its choice stands.
    if started.is_err() {
        tracing::debug!("logging was started by someone else");
    }
    Ok(())
}

fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::builder().parse(filter).map_err(|_| {
        Usage(
            "--log (EGRET_LOG) is not a filter; write error, warn, info, debug, trace, or info,egret::upstream=debug"
                .to_owned(),
        )
        .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_a_usage_error() {
        assert!(parse("info,egret::upstream=debug").is_ok());
        assert!(parse("egret=loud").unwrap_err().is::<Usage>());
    }
}
