//! `egret store …`

use std::path::Path;

use serde_json::{Value, json};

use super::Usage;
use super::args::{RekeyArgs, StoreCommand};
use super::output::{clean, print, print_json};
use crate::app::NewKey;
use crate::config::{KeySource, Settings, load, process_environment};
use crate::control::rekey::{Damaged, Rekeyed};

pub(super) fn run(command: &StoreCommand) -> anyhow::Result<()> {
    match command {
        StoreCommand::Rekey(args) => rekey(args),
    }
}

fn rekey(args: &RekeyArgs) -> anyhow::Result<()> {
    let settings = load(&args.overlay(), &process_environment)?.settings;
    let to = new_key(args, &settings.store.key_encryption_key)?;
    let damaged = if args.skip_damaged { Damaged::Keep } else { Damaged::Refuse };
    let rekeyed = crate::app::rekey(&settings, &to, damaged)?;
    let line = configuration(&to);
    if args.json {
        return print_json(&as_json(&rekeyed, line.as_deref()));
    }
    print(&as_text(&rekeyed, line.as_deref(), &settings))
}

/// Where the new key goes. A key that the configuration names stays the operator's to keep.
fn new_key(args: &RekeyArgs, source: &KeySource) -> anyhow::Result<NewKey> {
    match (&args.to_file, &args.to_env, source) {
        (Some(path), _, _) => Ok(NewKey::File(std::path::absolute(path)?)),
        (None, Some(name), _) => Ok(NewKey::Env(name.clone())),
        (None, None, KeySource::Generated) => Ok(NewKey::Generated),
        (None, None, KeySource::File(_) | KeySource::Env(_)) => Err(Usage(
            "the configuration names the key-encryption key ([store] key_encryption_key), so egret keeps none of its own; \
             say with --to-file FILE or --to-env NAME where the new one is to be"
                .to_owned(),
        )
        .into()),
    }
}

/// What the configuration has to say from now on; `None` if it stays as it is.
fn configuration(to: &NewKey) -> Option<String> {
    match to {
        NewKey::Generated => None,
        NewKey::File(path) => {
            Some(format!("key_encryption_key = {{ file = {} }}", quoted(&path.display().to_string())))
        }
        NewKey::Env(name) => Some(format!("key_encryption_key = {{ env = {} }}", quoted(name))),
    }
}

/// As TOML writes text.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn as_json(rekeyed: &Rekeyed, line: Option<&str>) -> Value {
    json!({ "records": rekeyed.counts, "leftBehind": rekeyed.damaged, "configuration": line })
}

fn as_text(rekeyed: &Rekeyed, line: Option<&str>, settings: &Settings) -> String {
    let all: usize = rekeyed.counts.values().sum();
    let by_kind: Vec<String> = rekeyed.counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let kinds = if all == 0 { String::new() } else { format!(" ({})", by_kind.join(", ")) };
    let mut out = format!("rekeyed: {all} records{kinds}; only the new key opens the store now\n");
    for sentence in &rekeyed.damaged {
        out.push_str(&format!("left behind: {}\n", clean(sentence)));
    }
    if rekeyed.damaged.iter().any(|sentence| sentence.starts_with("binding ")) {
        out.push_str(
            "warning: for which origins the damaged bindings were is not known any more, so nothing holds those back: \
             what is less specific applies to them; compare `egret certs list` with what should be there\n",
        );
    }
    if let Some(line) = line {
        let file = settings.config_file.as_deref().map_or("the configuration".into(), Path::to_string_lossy);
        out.push_str(&format!("write into {file}, under [store], before egret is started again:\n  {line}\n"));
        if settings.store.key_encryption_key == KeySource::Generated {
            let old = settings.data_dir.join(crate::pki::kek::KEY_FILE);
            out.push_str(&format!("only backups made before still need {}\n", old.display()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_the_operator_is_never_replaced_by_one_of_egret() {
        let args = |text: &str| match clap::Parser::try_parse_from(text.split(' '))
            .map(|cli: super::super::Cli| cli.command)
        {
            Ok(super::super::Commands::Store { command: StoreCommand::Rekey(args) }) => args,
            other => panic!("{other:?}"),
        };
        let file = KeySource::File("k".into());
        for line in ["egret store rekey", "egret store rekey --generate"] {
            assert_eq!(new_key(&args(line), &KeySource::Generated).unwrap(), NewKey::Generated);
            assert!(new_key(&args(line), &file).unwrap_err().is::<Usage>());
        }
        assert_eq!(new_key(&args("egret store rekey --to-env N"), &file).unwrap(), NewKey::Env("N".to_owned()));
        let to = new_key(&args("egret store rekey --to-file /k\"2"), &KeySource::Generated).unwrap();
        assert_eq!(configuration(&to).unwrap(), "key_encryption_key = { file = '/k\"2' }");
    }
}
