//! The command line with the environment behind it: a variable that is set to nothing counts as not set, as it does
//! wherever else egret reads one.

use clap::{Command, CommandFactory as _, FromArgMatches as _};

use super::Cli;

/// Parses the command line; ends the process with a message and exit code 2 if it makes no sense.
pub(super) fn parse() -> Cli {
    let unset = |name: &std::ffi::OsStr| std::env::var_os(name).is_none_or(|value| value.is_empty());
    let matches = without(Cli::command(), &unset).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Lets no argument look at a variable that is `unset`; an empty one would be a value for clap, and a wrong one.
fn without(command: Command, unset: &impl Fn(&std::ffi::OsStr) -> bool) -> Command {
    let command = command.mut_args(|argument| {
        let empty = argument.get_env().is_some_and(unset);
        if empty { argument.env(None) } else { argument }
    });
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, |inner| without(inner, unset)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unset_variable_is_looked_at_nowhere() {
        fn variables(command: &Command, into: &mut Vec<String>) {
            let own = command.get_arguments().filter_map(|a| a.get_env());
            into.extend(own.map(|name| name.to_string_lossy().into_owned()));
            command.get_subcommands().for_each(|inner| variables(inner, into));
        }
        let mut all = Vec::new();
        variables(&Cli::command(), &mut all);
        assert!(all.iter().filter(|name| *name == "EGRET_CONFIG").count() > 3);
        let mut left = Vec::new();
        variables(&without(Cli::command(), &|name| name == "EGRET_CONFIG"), &mut left);
        assert!(!left.contains(&"EGRET_CONFIG".to_owned()) && left.contains(&"EGRET_URL".to_owned()));
    }
}
