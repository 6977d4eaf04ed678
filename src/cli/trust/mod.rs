//! `egret ca install | uninstall`: who else on this machine trusts the interception CA.
//!
//! What must stay true: done twice is done once; what is removed is this very certificate, known by all its bytes and not
//! by a name; every store is accounted for, with what was done or why nothing was.

mod nss;
mod system;

use std::fmt::Display;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, bail};
use rustls::pki_types::CertificateDer;

use super::Usage;
use super::args::TrustArgs;
use super::output::{clean, print};
use super::run::Inherited;
use crate::domain::{Fingerprint, hex};
use crate::pki::pem;

/// The CA's certificate.
struct Ca<'a> {
    pem: &'a str,
    der: CertificateDer<'static>,
    /// The first 16 hex digits of its SHA-256, for names.
    short: String,
    /// Where it lies, for commands that a person is told.
    path: Option<&'a Path>,
    inherited: &'a Inherited,
}

/// What came of one store.
enum Outcome {
    Done(String),
    /// It was so before.
    Already(String),
    /// Nothing was done; why, and what to do.
    Skipped(String),
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Install,
    Uninstall,
}

/// Refuses what would take another user's CA for this one's. Before the CA is looked for, which may make one.
///
/// # Errors
/// [`Usage`].
pub(super) fn check(args: &TrustArgs) -> anyhow::Result<()> {
    let someone_elses = std::env::var_os("SUDO_USER").is_some_and(|user| !user.is_empty() && user != "root");
    if someone_elses && args.api.is_silent() {
        return Err(Usage(
            "under sudo this would be root's own CA, and root's browsers; run it without sudo, which says what is left to \
             do as root, or name the data directory with --data-dir"
                .to_owned(),
        )
        .into());
    }
    Ok(())
}

/// Installs the CA, or takes it back; `pem` is its certificate, `path` the file where it lies.
///
/// # Errors
/// When nothing of what was asked for could be done.
pub(super) fn run(
    wish: Wish,
    args: &TrustArgs,
    pem: &str,
    path: Option<&Path>,
    inherited: &Inherited,
) -> anyhow::Result<()> {
    let der = pem::certificates(pem).context("the CA's certificate cannot be read")?.swap_remove(0);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    let short = hex(&digest.as_ref()[..8]);
    let fingerprint = digest.as_ref().try_into().map_or_else(|_| hex(digest.as_ref()), |d| Fingerprint(d).to_string());
    let ca = Ca { pem, der, short, path, inherited };
    let both = !args.system && !args.nss;
    let mut outcomes = Vec::new();
    if both || args.system {
        outcomes.push(("system", system::run(wish, &ca, &args.root)));
    }
    if both || args.nss {
        outcomes.extend(nss::run(wish, &ca).into_iter().map(|outcome| ("nss", outcome)));
    }
    let (mut told, mut skipped, mut changed) = (String::new(), 0, 0);
    for (store, outcome) in &outcomes {
        let (word, text) = match outcome {
            Outcome::Done(text) => (if wish == Wish::Install { "installed" } else { "removed" }, text),
            Outcome::Already(text) => ("unchanged", text),
            Outcome::Skipped(text) => ("skipped", text),
        };
        changed += usize::from(matches!(outcome, Outcome::Done(_)));
        skipped += usize::from(matches!(outcome, Outcome::Skipped(_)));
        told.push_str(&format!("{word:9}  {store:6}  {}\n", clean(text)));
    }
    print(&told)?;
    if wish == Wish::Install && changed > 0 {
        eprintln!(
            "egret: the programs that use these stores now trust the CA with SHA-256 {fingerprint}: whoever has its key can \
             pose as any server to them. The key is sealed in egret's data directory; `egret ca uninstall` takes it back."
        );
    }
    // What was asked for by name has to be done; of both, what is possible.
    if skipped == outcomes.len() || (!both && skipped > 0) {
        bail!("not everything that was asked for could be done, as said above");
    }
    Ok(())
}

/// Runs a tool, `input` on its standard input; what it said if it failed. With the user's umask: it may write files for
/// everyone.
fn tool(command: &mut Command, input: &str, inherited: &Inherited) -> Result<Output, String> {
    let failed = |what: &dyn Display| what.to_string();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = inherited.spawn(command).map_err(|e| failed(&e))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that reads nothing has nothing to say about it either; its exit status counts.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| failed(&e))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it did not say why").trim().to_owned();
    Err(format!("{} ({said})", output.status))
}

impl Ca<'_> {
    fn is(&self, pem: &[u8]) -> bool {
        std::str::from_utf8(pem)
            .ok()
            .and_then(|text| pem::certificates(text).ok())
            .is_some_and(|found| found.len() == 1 && found[0] == self.der)
    }

    /// For a command that a person is told.
    fn shown_path(&self) -> String {
        self.path.map_or_else(|| "CA.pem".to_owned(), |path| path.display().to_string())
    }
}
