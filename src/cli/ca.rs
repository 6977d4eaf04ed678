//! `egret ca …`: the certificate of the interception CA, from the running egret, else from the store.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::json;
use x509_parser::pem::parse_x509_pem;

use super::args::{ApiArgs, CaCommand, TrustArgs};
use super::client::{Api, ApiError};
use super::output::{facts, print, print_json, while_waiting};
use super::run::Inherited;
use super::trust::{self, Wish};
use crate::config::{StoreBackend, load, process_environment};
use crate::domain::{Fingerprint, hex};

/// The CA's certificate: its PEM, and the file that clients are pointed to.
struct Ca {
    pem: String,
    path: Option<PathBuf>,
}

pub(super) fn run(command: CaCommand, inherited: &Inherited) -> anyhow::Result<()> {
    let change = |wish, args: &TrustArgs| {
        trust::check(args)?;
        let ca = find(&args.api)?;
        trust::run(wish, args, &ca.pem, usable(&ca).ok(), inherited)
    };
    match command {
        CaCommand::Install(args) => change(Wish::Install, &args),
        CaCommand::Uninstall(args) => change(Wish::Uninstall, &args),
        CaCommand::Path { api } => {
            let ca = find(&api)?;
            let path = usable(&ca)?;
            print(&format!("{}\n", path.display()))
        }
        CaCommand::Show { api, json } => show(&find(&api)?, json),
    }
}

/// Asks the running egret; where none runs, opens the store (which makes the CA on first need).
fn find(args: &ApiArgs) -> anyhow::Result<Ca> {
    let mut api = Api::new(args)?;
    let local = api.is_local();
    let asked =
        super::block_on(async { Ok(while_waiting(|| "waiting for the API".to_owned(), api.get("/v1/ca")).await) })?;
    match asked {
        Ok(answer) => {
            let Some(pem) = answer["pem"].as_str() else { bail!("the API's answer holds no certificate") };
            // A path of another machine is none here.
            let path = answer["path"].as_str().filter(|_| local).map(PathBuf::from);
            Ok(Ca { pem: pem.to_owned(), path })
        }
        Err(error @ ApiError::NotListening { .. }) if local => {
            let loaded = load(&args.overlay(), &process_environment)?;
            if loaded.settings.store.backend == StoreBackend::Memory {
                // What would be made here ends with this command; whoever trusted it would trust nothing.
                return Err(
                    anyhow::Error::from(error).context("the memory store keeps no CA: each egret makes its own")
                );
            }
            let (path, pem) = crate::app::local_ca(&loaded.settings).with_context(|| {
                format!("no API answers at {}; if egret runs elsewhere, say where with --url or EGRET_URL", args.url)
            })?;
            Ok(Ca { pem, path })
        }
        Err(error) => Err(error.into()),
    }
}

/// The path, if this user finds the certificate there: a wrong `--cacert` fails in ways that nobody understands.
fn usable(ca: &Ca) -> anyhow::Result<&Path> {
    const REMEDY: &str = "save it with `egret ca show > egret-ca.pem`, and use that file";
    let Some(path) = &ca.path else {
        bail!("the CA's certificate is in no file on this machine; {REMEDY}");
    };
    let there = std::fs::read_to_string(path)
        .with_context(|| format!("the CA's certificate in {} cannot be read; {REMEDY}", path.display()))?;
    if there.trim() != ca.pem.trim() {
        bail!("{} holds another certificate than the running egret uses; {REMEDY}", path.display());
    }
    Ok(path)
}

fn show(ca: &Ca, as_json: bool) -> anyhow::Result<()> {
    let (_, pem) = parse_x509_pem(ca.pem.as_bytes()).context("the CA's certificate is not PEM")?;
    let certificate = pem.parse_x509().context("the CA's certificate cannot be parsed")?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &pem.contents);
    let fingerprint = digest.as_ref().try_into().map_or_else(|_| hex(digest.as_ref()), |d| Fingerprint(d).to_string());
    let subject = certificate.subject().to_string();
    let until = certificate.validity().not_after.to_datetime();
    let until = crate::domain::time::rfc3339(until);
    let path = ca.path.as_ref().map(|path| path.display().to_string());
    if as_json {
        return print_json(&json!({
            "path": path, "subject": subject, "notAfter": until, "fingerprint": fingerprint, "pem": ca.pem,
        }));
    }
    // Programs that read PEM skip the text in front of it (RFC 7468 section 2).
    let mut facts_of = vec![("subject", subject), ("not after", until), ("SHA-256", fingerprint)];
    facts_of.extend(path.map(|path| ("path", path)));
    let facts_of: Vec<_> = facts_of.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    print(&format!("{}{}\n", facts(&facts_of), ca.pem.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_does_not_hold_the_ca_is_not_handed_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let ca = |path: Option<&Path>| Ca { pem: "PEM\n".to_owned(), path: path.map(PathBuf::from) };
        assert!(usable(&ca(None)).is_err());
        assert!(usable(&ca(Some(&path))).is_err());
        std::fs::write(&path, "OTHER\n").unwrap();
        assert!(usable(&ca(Some(&path))).unwrap_err().to_string().contains("another certificate"));
        std::fs::write(&path, "PEM").unwrap();
        assert_eq!(usable(&ca(Some(&path))).unwrap(), path);
    }
}
