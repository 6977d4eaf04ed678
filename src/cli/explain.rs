//! `egret explain`: from the running egret, else from configuration and store.

use anyhow::Context as _;
use serde_json::Value;

use super::Usage;
use super::args::ExplainArgs;
use super::client::{Api, ApiError, segment};
use super::output::{clean, facts, print, print_json, table, text, while_waiting};
use crate::api::Wanted;
use crate::config::{load, process_environment};

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    let wanted = Wanted::parse(&args.target).map_err(|why| Usage(format!("URL: {why}")))?;
    let answer = find(args, &wanted)?;
    if args.json { print_json(&answer) } else { print(&described(&answer)) }
}

fn find(args: &ExplainArgs, wanted: &Wanted) -> anyhow::Result<Value> {
    let project = &args.project.project;
    let mut api = Api::new(&args.project.api)?;
    let local = api.is_local();
    // Without path and query: they decide nothing, and may hold what is nobody's business.
    let url = match wanted {
        Wanted::Https(origin) => origin.to_string(),
        Wanted::Http(target) => target.to_string(),
    };
    let path = format!("/v1/explain?project={}&url={}", segment(project), segment(&url));
    let asked =
        super::block_on(async { Ok(while_waiting(|| "waiting for the API".to_owned(), api.get(&path)).await) })?;
    match asked {
        Ok(answer) => Ok(answer),
        Err(ApiError::NotListening { url }) if local => {
            let loaded = load(&args.project.api.overlay(), &process_environment)?;
            let (explanation, damage) = crate::app::explain(&loaded.settings, project, wanted)
                .with_context(|| format!("no egret answers at {url}, and without one"))?;
            eprintln!("egret: no egret answers at {url}; this is what configuration and store say");
            for sentence in damage {
                eprintln!("egret: warning: {}", clean(&sentence));
            }
            Ok(serde_json::to_value(explanation)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// The answer first, then what it means, then how it came about.
fn described(answer: &Value) -> String {
    let list = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
    let mut out = format!("{}\n", clean(&text(&answer["summary"])));
    for note in list("notes") {
        out.push_str(&format!("  - {}\n", clean(&text(&note))));
    }
    if let Some(fix) = answer["fix"].as_str() {
        out.push_str(&format!("  to change that: {}\n", clean(fix)));
    }
    out.push('\n');
    out.push_str(&facts(&known(answer)));

    out.push_str("\nHow it was chosen, the first match wins:\n");
    let mark = |step: &Value| if step["chosen"] == true { "->" } else { "" }.to_owned();
    let rows: Vec<[String; 4]> = list("trace")
        .iter()
        .map(|step| [mark(step), text(&step["place"]), text(&step["pattern"]), text(&step["why"])])
        .collect();
    out.push_str(&indented(&table(["", "PLACE", "BINDING", "FOUND"], &rows)));

    let near = list("nearMisses");
    if !near.is_empty() {
        out.push_str("\nClose, but no match:\n");
        let rows: Vec<[String; 2]> = near.iter().map(|miss| [text(&miss["pattern"]), text(&miss["why"])]).collect();
        out.push_str(&indented(&table(["BINDING", "WHY NOT"], &rows)));
    }
    let ways = list("ways");
    if !ways.is_empty() {
        out.push_str("\nWhat becomes of a request, by the way it comes:\n");
        let rows: Vec<[String; 4]> = ways
            .iter()
            .map(|way| [text(&way["listener"]), text(&way["request"]), treatment(way), text(&way["why"])])
            .collect();
        out.push_str(&indented(&table(["LISTENER", "REQUEST", "BECOMES", "WHY"], &rows)));
    }
    out
}

fn known(answer: &Value) -> Vec<(String, String)> {
    let mut known = Vec::new();
    let mut say = |name: &str, value: String| known.push((name.to_owned(), value));
    say("project", format!("{} ({})", text(&answer["project"]["name"]), text(&answer["project"]["id"])));
    if let Some(file) = answer["binding"]["file"].as_str() {
        say("declared in", file.to_owned());
    }
    if answer["binding"]["tls13Only"] == true {
        say("TLS", "1.3 only".to_owned());
    }
    let certificate = &answer["certificate"];
    if certificate.is_object() {
        let mut what = text(&certificate["status"]);
        if let Some(why) = certificate["why"].as_str() {
            what = format!("{what}: {why}");
        }
        say("certificate", format!("{}, {what}", text(certificate.get("id").unwrap_or(&Value::Null))));
        if certificate["holder"] == "account" {
            say("held by", "the account".to_owned());
        }
        for (name, key) in [("subject", "subject"), ("issuer", "issuer"), ("SHA-256", "fingerprint")] {
            if let Some(value) = certificate[key].as_str() {
                say(name, value.to_owned());
            }
        }
        if let Some(until) = certificate["notAfter"].as_str() {
            say(
                "valid",
                format!(
                    "{} to {until} ({} days left)",
                    text(&certificate["notBefore"]),
                    text(&certificate["daysLeft"])
                ),
            );
        }
    }
    let policy = &answer["policy"];
    say(
        "may be reached",
        if policy["allowed"] == true { "yes".to_owned() } else { format!("no: {}", text(&policy["why"])) },
    );
    let scope = &answer["scope"];
    if scope["applies"] == true {
        say("default.scope", format!("{}: {}", text(&scope["scope"]), text(&scope["why"])));
    }
    let memory = &answer["remembered"];
    if memory.is_object() {
        let asked = if memory["asked"] == true { "asks for a certificate" } else { "does not ask for a certificate" };
        let cas = memory["acceptableCas"].as_array().filter(|cas| !cas.is_empty());
        let cas = cas.map(|cas| format!(", of {}", text(&Value::Array(cas.clone())))).unwrap_or_default();
        say("the origin", format!("{asked}{cas}"));
    }
    let route = &answer["route"];
    // Direct for want of any parent goes without saying.
    if route["parent"].is_string() || route["rule"].is_number() {
        say("route", text(&route["summary"]));
    }
    known
}

fn treatment(way: &Value) -> String {
    match way["treatment"].as_str() {
        Some("tls") => "TLS",
        Some("lifted") => "lifted to TLS",
        Some("plain") => "plain http",
        Some("intercepted") => "intercepted",
        Some("askedFirst") => "origin asked first",
        Some("tunnelled") => "blind tunnel",
        Some("refused") => "refused",
        _ => "-",
    }
    .to_owned()
}

fn indented(table: &str) -> String {
    table.lines().map(|line| format!("  {line}\n")).collect()
}
