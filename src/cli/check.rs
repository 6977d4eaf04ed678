//! `egret check`

use std::process::ExitCode;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::args::CheckArgs;
use super::output::{facts, print, print_json};
use crate::app::tls_of_listeners;
use crate::config::{CallerSettings, Complaint, Loaded, Overlay, Refused, Settings, load, process_environment};
use crate::control::{examine, list};
use crate::domain::time::now;
use crate::pki::validate::{Material, validate};

/// What was found.
#[derive(Default)]
struct Verdict {
    complaints: Vec<Complaint>,
    warnings: Vec<Complaint>,
    settings: Option<Settings>,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let overlay = Overlay { config: args.config.clone(), data_dir: args.data_dir.clone(), ..Overlay::default() };
    let verdict = judge(load(&overlay, &process_environment));
    if args.json {
        print_json(&as_json(&verdict))?
    } else {
        print(&as_text(&verdict))?
    }
    Ok(ExitCode::from(if verdict.complaints.is_empty() { 0 } else { 2 }))
}

fn judge(loaded: Result<Loaded, Refused>) -> Verdict {
    match loaded {
        Err(Refused(complaints)) => Verdict { complaints, ..Verdict::default() },
        Ok(loaded) => {
            let mut verdict = Verdict { warnings: loaded.warnings, complaints: loaded.unready, settings: None };
            verdict.complaints.extend(folders(&loaded.settings, &mut verdict.warnings));
            for (certificate, (key, line)) in loaded.settings.certificates.iter().zip(&loaded.places) {
                let read = |path| std::fs::read_to_string(path).map(Zeroizing::new);
                let (Ok(cert), Ok(secret), Ok(ca)) =
                    (read(&certificate.cert), read(&certificate.key), read(&certificate.ca))
                else {
                    // A missing file is complained of already; what is left is one that is no text.
                    let told = verdict.complaints.iter().any(|c| c.key.starts_with(&format!("{key}.")));
                    if !told {
                        let (what, remedy) =
                            ("a file is not PEM", "convert it; openssl x509 and openssl pkey read -inform DER");
                        verdict.complaints.push(complaint(&loaded.settings, key.clone(), *line, what, remedy));
                    }
                    continue;
                };
                let skip_validation = certificate.skip_validation;
                let material = Material { cert: &cert, key: &secret, ca: Some(&ca), skip_validation };
                match validate(material, now()) {
                    Ok(valid) => verdict.warnings.extend(valid.warnings.iter().map(|warning| {
                        complaint(&loaded.settings, key.clone(), *line, warning, "egret uses it all the same")
                    })),
                    Err(faults) => verdict.complaints.extend(faults.into_iter().map(|fault| {
                        let key = format!("{key}.{}", fault.field);
                        complaint(&loaded.settings, key, *line, &fault.what, &fault.remedy_in_files())
                    })),
                }
            }
            let (complaints, warnings) = tls_of_listeners(&loaded.settings);
            verdict.complaints.extend(complaints);
            verdict.warnings.extend(warnings);
            verdict.settings = Some(loaded.settings);
            verdict
        }
    }
}

/// What is wrong in folders of certificates, and with all declared ones together.
fn folders(settings: &Settings, warnings: &mut Vec<Complaint>) -> Vec<Complaint> {
    const KEY: &str = "certificate_folders";
    let told = |sentence: &str| {
        let (what, remedy) = sentence.split_once("; ").unwrap_or((sentence, "mend or remove it"));
        complaint(settings, KEY.to_owned(), None, what, remedy)
    };
    let listing = match list(settings) {
        Ok(listing) => listing,
        Err(sentence) => return vec![told(&sentence)],
    };
    let mut complaints: Vec<Complaint> = listing.strays.iter().map(|stray| told(stray)).collect();
    // Those of the file stand in front, and are judged key by key.
    for entry in listing.entries.iter().skip(settings.certificates.len()).filter(|entry| !entry.is_empty()) {
        match examine(entry) {
            Ok(found) => warnings.extend(found.iter().map(|warning| {
                let what = format!("{}: {warning}", entry.place.display());
                complaint(settings, KEY.to_owned(), None, &what, "egret uses it all the same")
            })),
            Err(faults) => complaints.extend(faults.split(" | ").map(told)),
        }
    }
    complaints
}

fn complaint(settings: &Settings, key: String, line: Option<usize>, what: &str, remedy: &str) -> Complaint {
    Complaint { file: settings.config_file.clone(), line, key, what: what.to_owned(), remedy: remedy.to_owned() }
}

fn as_text(verdict: &Verdict) -> String {
    let mut out = String::new();
    for complaint in &verdict.complaints {
        out.push_str(&format!("{complaint}\n"));
    }
    for warning in &verdict.warnings {
        out.push_str(&format!("warning: {warning}\n"));
    }
    if verdict.complaints.is_empty()
        && let Some(settings) = &verdict.settings
    {
        out.push_str("ok\n");
        out.push_str(&facts(&summary(settings)));
    }
    out
}

fn summary(settings: &Settings) -> Vec<(String, String)> {
    let file = settings.config_file.as_ref().map_or("none, the defaults".to_owned(), |path| path.display().to_string());
    let name_of = |caller: &CallerSettings| match caller {
        CallerSettings::Token => "callers name their project by token".to_owned(),
        CallerSettings::Certificate => "callers name their project by certificate".to_owned(),
        CallerSettings::Project(id) => {
            let project = settings.projects.iter().find(|p| p.id == *id);
            format!("project {}", project.map_or(id.as_str(), |p| &p.name))
        }
    };
    let mut facts = vec![
        ("file".to_owned(), file),
        ("data directory".to_owned(), settings.data_dir.display().to_string()),
        ("management".to_owned(), settings.management.listen.to_string()),
    ];
    facts.extend(settings.health.map(|address| ("health".to_owned(), address.to_string())));
    facts.extend(settings.listeners.iter().map(|listener| {
        let (name, mode) = (&listener.name, listener.mode.as_str());
        let tls = if listener.tls.is_some() { ", TLS" } else { "" };
        ("listener".to_owned(), format!("{} ({name}, {mode}{tls}; {})", listener.listen, name_of(&listener.caller)))
    }));
    let names: Vec<&str> = settings.projects.iter().map(|p| p.name.as_str()).collect();
    facts.push(("projects".to_owned(), names.join(", ")));
    let declared =
        list(settings).map_or(settings.certificates.len(), |all| all.entries.iter().filter(|e| !e.is_empty()).count());
    facts.push(("certificates".to_owned(), format!("{declared} declared")));
    facts.push(("tokens".to_owned(), format!("{} declared", settings.tokens.len())));
    facts
}

fn as_json(verdict: &Verdict) -> Value {
    let list = |complaints: &[Complaint]| -> Vec<Value> {
        let one = |c: &Complaint| {
            let file = c.file.as_ref().map(|path| path.display().to_string());
            json!({ "file": file, "line": c.line, "key": c.key, "what": c.what, "remedy": c.remedy })
        };
        complaints.iter().map(one).collect()
    };
    json!({
        "ok": verdict.complaints.is_empty(),
        "complaints": list(&verdict.complaints),
        "warnings": list(&verdict.warnings),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::load_text;

    fn verdict(text: &str) -> Verdict {
        judge(load_text(text, Path::new("/etc/e.toml"), &Overlay::default(), &|_| None))
    }

    #[test]
    fn what_is_fine_is_summed_up() {
        let text = as_text(&verdict("[[listeners]]\nname = \"l\"\nlisten = \"[::1]:7\""));
        assert!(text.starts_with("ok\nfile            /etc/e.toml\n"), "{text}");
        assert!(text.contains("[::1]:7 (l, forward; project default)"), "{text}");
    }

    #[test]
    fn a_missing_certificate_file_is_a_complaint_here() {
        let verdict = verdict("[[certificates]]\ncert = \"/none/c\"\nkey = \"/none/k\"\nca = \"/none/a\"");
        assert_eq!(verdict.complaints.len(), 3);
        assert!(as_text(&verdict).starts_with("/etc/e.toml:2: certificates[0].cert: the file cannot be read"));
        assert_eq!(as_json(&verdict)["ok"], false);
        assert_eq!(as_json(&verdict)["complaints"][1]["line"], 3);
    }
}
