//! `egret certs upload`: whatever form the files have, PEM goes to the API.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::Serialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::super::Usage;
use super::super::args::UploadArgs;
use super::super::client::{ANSWER_TIMEOUT, Api, segment};
use super::super::output::{clean, print, print_json, text, while_waiting};
use super::super::passphrase::Passphrase;
use super::{about, origin_text, project_path, tls13_only};
use crate::config::process_environment;
use crate::pki::convert::{self, ConvertError, Pkcs12};

/// More than any PEM that the API takes.
const MAX_FILE: usize = 1024 * 1024;
/// Longer than any honest file takes to open, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than most set limits.probe_timeout.
const PROBE_TIME: Duration = Duration::from_secs(15 * 60);

/// As the API takes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UploadBody<'a> {
    cert: &'a str,
    key: &'a str,
    ca: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    skip_validation: bool,
}

/// PEM, ready to be sent.
struct Material {
    cert: String,
    key: Zeroizing<String>,
    ca: String,
    /// What a person may want to know of what was taken out of a PKCS#12 file.
    note: Option<String>,
}

pub(super) async fn run(args: UploadArgs) -> anyhow::Result<()> {
    let material = gather(&args)?;
    // Room for every newline as two characters, so that the buffer is not moved and its copies left behind.
    let room = 2 * (material.cert.len() + material.key.len() + material.ca.len()) + 4096;
    let mut body = Zeroizing::new(Vec::with_capacity(room));
    let Material { cert, key, ca, note } = material;
    let (origin, skip_validation) = (args.origin.as_deref(), args.skip_validation);
    serde_json::to_writer(&mut *body, &UploadBody { cert: &cert, key: &key, ca: &ca, origin, skip_validation })
        .context("the upload could not be written as JSON")?;
    drop(key);

    let mut api = Api::new(&args.project.api)?;
    let project = project_path(&args.project);
    let path = format!("{project}/client-cert{}", query(&args));
    let (doing, limit) = match args.probe {
        // limits.probe_timeout is for the other side to know.
        Some(_) => ("uploading, and trying it out", PROBE_TIME),
        None => ("uploading", ANSWER_TIMEOUT),
    };
    let answer = while_waiting(|| doing.to_owned(), api.post_within(limit, &path, body)).await?;
    if args.json {
        return print_json(&answer);
    }
    let id = text(&answer["certId"]);
    let (done, origin) =
        (if answer["updated"] == json!(true) { "replaced" } else { "uploaded" }, origin_text(&answer["origin"]));
    let mut lines = format!("{done}: {} for {}\n", clean(&id), clean(&origin));
    if let Some(probe) = answer.get("probe") {
        lines.push_str(&format!("{} took it: HTTP {}\n", clean(&text(&probe["origin"])), text(&probe["status"])));
        for warning in probe["warnings"].as_array().into_iter().flatten() {
            lines.push_str(&format!("warning: {}\n", clean(&text(warning))));
        }
    }
    // It is stored; should the details fail now, that is no failure of the upload.
    if let Ok(details) = about(&mut api, &project, &id).await {
        lines.push_str(&format!("{}, {} days left\n", clean(&text(&details["subject"])), text(&details["daysLeft"])));
        lines.extend(note.map(|note| format!("{}\n", clean(&note))));
        for warning in details["warnings"].as_array().into_iter().flatten() {
            lines.push_str(&format!("warning: {}\n", clean(&text(warning))));
        }
    }
    print(&lines)
}

/// The query that asks for a probe, and for TLS 1.3 only.
fn query(args: &UploadArgs) -> String {
    let mut words = Vec::new();
    if let Some(origin) = &args.probe {
        words.push("stage=probe".to_owned());
        let given = [("probe", Some(origin).filter(|o| !o.is_empty())), ("probePath", args.probe_path.as_ref())];
        let given = given.into_iter().chain([("probeMethod", args.probe_method.as_ref())]);
        words.extend(given.filter_map(|(name, value)| Some(format!("{name}={}", segment(value?)))));
    }
    words.extend(tls13_only(args.tls13_only, args.no_tls13_only).map(|only| format!("tls13Only={only}")));
    if words.is_empty() { String::new() } else { format!("?{}", words.join("&")) }
}

/// Reads the files, and converts what is not PEM. Talks to no one but, for a passphrase, the terminal.
fn gather(args: &UploadArgs) -> anyhow::Result<Material> {
    let files = [&args.cert, &args.key, &args.p12, &args.ca];
    if files.into_iter().flatten().filter(|path| *path == Path::new("-")).count() > 1 {
        return Err(
            Usage("only one of --cert, --key, --p12 and --ca can be read from standard input".to_owned()).into()
        );
    }
    let is_set = |name: &str| process_environment(name).is_some();
    let mut passphrase = Passphrase::new(args.passphrase_file.clone(), args.passphrase_env.clone(), is_set);
    let ca = match &args.ca {
        Some(path) => {
            let file = Source::read("--ca", path)?;
            Some(convert::certificates(&file.bytes).map_err(|error| file.refused(error, &passphrase))?)
        }
        None => None,
    };
    match (&args.p12, &args.cert) {
        (Some(path), _) => from_pkcs12(Source::read("--p12", path)?, args.p12_alias.clone(), ca, &mut passphrase),
        (None, Some(cert)) => {
            let (cert, key) = from_pem(cert, args.key.as_ref(), &mut passphrase)?;
            let ca = ca.ok_or_else(|| Usage("--ca is needed".to_owned()))?;
            Ok(Material { cert, key, ca, note: None })
        }
        (None, None) => Err(Usage("--cert or --p12 is needed".to_owned()).into()),
    }
}

/// `--cert`, and `--key` or the key that `--cert` holds.
fn from_pem(
    cert: &Path,
    key: Option<&PathBuf>,
    passphrase: &mut Passphrase,
) -> anyhow::Result<(String, Zeroizing<String>)> {
    let file = Source::read("--cert", cert)?;
    let with_key = key.is_none();
    let bundle = file.convert(passphrase, move |bytes, phrase| convert::bundle(bytes, with_key, phrase))?;
    match (key, bundle.key) {
        (Some(path), _) => {
            let file = Source::read("--key", path)?;
            let key = file.convert(passphrase, convert::key)?;
            Ok((bundle.certificates, key))
        }
        (None, Some(key)) => Ok((bundle.certificates, key)),
        (None, None) => {
            Err(Usage(format!("--cert: {} holds no private key; name the key with --key", file.name)).into())
        }
    }
}

fn from_pkcs12(
    file: Source,
    alias: Option<String>,
    ca: Option<String>,
    passphrase: &mut Passphrase,
) -> anyhow::Result<Material> {
    let open = |phrase: Zeroizing<String>| {
        let (bytes, alias) = (file.bytes.clone(), alias.clone());
        patiently(move || convert::pkcs12(&bytes, &phrase, alias.as_deref()))
    };
    // Many have an empty one; nobody is asked for what is not there.
    let tried = if passphrase.is_asked_for() { Some(open(Zeroizing::default())?) } else { None };
    let opened = match tried {
        None | Some(Err(ConvertError::WrongPassphrase)) => open(passphrase.get(&file.name)?)?,
        Some(done) => done,
    };
    let Pkcs12 { subject, cert, key, ca: inside, ca_subjects } = opened.map_err(|e| file.refused(e, passphrase))?;
    match (ca, inside) {
        (Some(ca), _) => Ok(Material { cert, key, ca, note: None }),
        (None, Some(ca)) => {
            let note = format!("the CA was taken from {}: {}", file.name, ca_subjects.join("; "));
            Ok(Material { cert, key, ca, note: Some(note) })
        }
        (None, None) => Err(Usage(format!(
            "--p12: {} holds no CA certificate beside the one for {}; name the CA that issued it with --ca FILE (whoever \
             made the file has it)",
            file.name,
            clean(&subject)
        ))
        .into()),
    }
}

/// A file that was named on the command line.
struct Source {
    flag: &'static str,
    name: String,
    bytes: Zeroizing<Vec<u8>>,
}

impl Source {
    fn read(flag: &'static str, path: &Path) -> anyhow::Result<Self> {
        let from_stdin = path == Path::new("-");
        let name = if from_stdin { "standard input".to_owned() } else { path.display().to_string() };
        // One buffer of the final size: a growing one would leave copies of a key behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
        let limit = MAX_FILE as u64 + 1;
        let read = if from_stdin {
            std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
        } else {
            std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
        };
        read.with_context(|| format!("{flag}: {name} cannot be read"))?;
        if bytes.len() > MAX_FILE {
            return Err(Usage(format!("{flag}: {name} is larger than 1 MiB; is it the right file?")).into());
        }
        Ok(Self { flag, name, bytes })
    }

    /// Converts it, with the passphrase only if it needs one.
    fn convert<T: Send + 'static>(
        &self,
        passphrase: &mut Passphrase,
        work: impl Fn(&[u8], Option<&[u8]>) -> Result<T, ConvertError> + Copy + Send + 'static,
    ) -> anyhow::Result<T> {
        let done = match work(&self.bytes, None) {
            Err(ConvertError::PassphraseNeeded) => {
                let (bytes, phrase) = (self.bytes.clone(), passphrase.get(&self.name)?);
                patiently(move || work(&bytes, Some(phrase.as_bytes())))?
            }
            done => done,
        };
        done.map_err(|error| self.refused(error, passphrase))
    }

    fn refused(&self, error: ConvertError, passphrase: &Passphrase) -> anyhow::Error {
        let Self { flag, name, .. } = self;
        match error {
            ConvertError::WrongPassphrase => {
                anyhow!("{flag}: {name} does not open with this passphrase; {}", passphrase.blame())
            }
            other => anyhow!("{flag}: {name}: {}", clean(&other.to_string())),
        }
    }
}

/// Runs what a hostile file might draw out, and gives up on it: the thread ends with the command.
fn patiently<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    match result.recv_timeout(PATIENCE) {
        Ok(value) => Ok(value),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(anyhow!("the file was not opened within {} s; its key derivation costs too much", PATIENCE.as_secs()))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(anyhow!("the file could not be read: it is damaged")),
    }
}
