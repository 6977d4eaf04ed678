//! The passphrase of a file that somebody was handed: from a file, the environment or the terminal, never from the
//! command line (which every process of the machine can read), and never sent anywhere.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use zeroize::Zeroizing;

use super::Usage;
use crate::pki::files::read_bounded;

/// Looked at when no option says where the passphrase is.
const VARIABLE: &str = "EGRET_PASSPHRASE";
/// Longer than any passphrase; a file named by mistake is not read in.
const MOST: usize = 4096;

/// Where the passphrase is to come from, and the passphrase once it was needed.
pub(super) struct Passphrase {
    source: Source,
    known: Option<Zeroizing<String>>,
}

enum Source {
    File(PathBuf),
    Variable(String),
    Terminal,
}

impl Passphrase {
    /// Reads nothing yet: most files need none.
    pub(super) fn new(file: Option<PathBuf>, variable: Option<String>, is_set: impl Fn(&str) -> bool) -> Self {
        let source = match (file, variable) {
            (Some(path), _) => Source::File(path),
            (None, Some(name)) => Source::Variable(name),
            (None, None) if is_set(VARIABLE) => Source::Variable(VARIABLE.to_owned()),
            (None, None) => Source::Terminal,
        };
        Self { source, known: None }
    }

    /// Whether a person has to be asked.
    pub(super) fn is_asked_for(&self) -> bool {
        matches!(self.source, Source::Terminal) && self.known.is_none()
    }

    /// The passphrase of `what`; read, or asked for, once.
    ///
    /// # Errors
    /// There is none where it should be, or nobody to ask ([`Usage`]).
    pub(super) fn get(&mut self, what: &str) -> anyhow::Result<Zeroizing<String>> {
        if self.known.is_none() {
            self.known = Some(match &self.source {
                Source::File(path) => from_file(path)?,
                Source::Variable(name) => from_variable(name)?,
                Source::Terminal => ask(what)?,
            });
        }
        Ok(self.known.clone().expect("set above"))
    }

    /// Where a wrong one came from.
    pub(super) fn blame(&self) -> String {
        match &self.source {
            Source::File(path) => format!("it was taken from the first line of {}", path.display()),
            Source::Variable(name) => format!("it was taken from the environment variable {name}"),
            Source::Terminal => "try again".to_owned(),
        }
    }
}

/// The first line, without its end.
fn from_file(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let unreadable = || format!("--passphrase-file: {} cannot be read", path.display());
    let file = std::fs::File::open(path).with_context(unreadable)?;
    let usage = |what| Usage(format!("--passphrase-file: {} {what}", path.display()));
    let bytes =
        read_bounded(&file, MOST).with_context(unreadable)?.ok_or_else(|| usage("is no passphrase: too long"))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| usage("is no text in UTF-8"))?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

fn from_variable(name: &str) -> anyhow::Result<Zeroizing<String>> {
    let value = std::env::var_os(name).map(|value| Zeroizing::new(value.into_encoded_bytes()));
    let value = value.ok_or_else(|| Usage(format!("--passphrase-env: the environment variable {name} is not set")))?;
    match std::str::from_utf8(&value) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(Usage(format!("the environment variable {name} holds no text in UTF-8")).into()),
    }
}

/// Asks on the terminal itself, whatever standard input and output are; nothing is shown while it is typed.
fn ask(what: &str) -> anyhow::Result<Zeroizing<String>> {
    match rpassword::prompt_password(format!("passphrase of {what}: ")) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Err(error).context("no passphrase was given"),
        Err(_) => Err(Usage(format!(
            "{what} is encrypted, and there is no terminal to ask for its passphrase; name it with --passphrase-file FILE, \
             --passphrase-env NAME or the environment variable {VARIABLE}"
        ))
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_goes_before_the_environment_and_that_before_the_terminal() {
        let with = |file: Option<&str>, variable: Option<&str>, set: bool| {
            Passphrase::new(file.map(PathBuf::from), variable.map(str::to_owned), |_| set)
        };
        assert!(with(Some("f"), None, true).blame().contains("line of f"));
        assert!(with(None, Some("MINE"), true).blame().contains("MINE"));
        assert!(with(None, None, true).blame().contains("EGRET_PASSPHRASE"));
        assert!(with(None, None, false).is_asked_for() && !with(None, None, true).is_asked_for());
    }

    #[test]
    fn a_file_gives_its_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        for (content, expected) in [("geheim\r\nmore", "geheim"), (" a b \n", " a b "), ("", "")] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(*from_file(&path).unwrap(), expected);
        }
        std::fs::write(&path, "x".repeat(MOST + 1)).unwrap();
        assert!(from_file(&path).unwrap_err().is::<Usage>());
        assert!(from_variable("EGRET_NO_SUCH_VARIABLE").unwrap_err().is::<Usage>());
    }
}
