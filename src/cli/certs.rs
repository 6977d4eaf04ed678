//! `egret certs …`

mod disclosures;
mod upload;

use std::cell::Cell;
use std::collections::BTreeMap;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::args::{BindArgs, CertsCommand, ProjectArgs, UnbindArgs};
use super::client::{Api, ApiError, segment};
use super::output::{clean, facts, print, print_json, table, text, while_waiting};

pub(super) async fn run(command: CertsCommand) -> anyhow::Result<()> {
    match command {
        CertsCommand::List { project, json } => list(&project, json).await,
        CertsCommand::Upload(args) => upload::run(*args).await,
        CertsCommand::Bind(args) => bind(&args).await,
        CertsCommand::Unbind(args) => unbind(&args).await,
        CertsCommand::Show { id, project, json } => show(&id, &project, json).await,
        CertsCommand::Disclosures { cert, host, project, json } => {
            disclosures::run(cert.as_deref(), host.as_deref(), &project, json).await
        }
        CertsCommand::Rollback { origin, project, json } => {
            rollback(origin.as_deref().unwrap_or("*"), &project, json).await
        }
        CertsCommand::Delete { id, project, json } => delete(&id, &project, json).await,
    }
}

fn project_path(project: &ProjectArgs) -> String {
    format!("/v1/projects/{}", segment(&project.project))
}

async fn list(project: &ProjectArgs, as_json: bool) -> anyhow::Result<()> {
    let mut api = Api::new(&project.api)?;
    let path = project_path(project);
    let read = Cell::new(0);
    let what = || format!("reading the certificates of {} ({} so far)", project.project, read.get());
    let (rows, pending) = while_waiting(what, async {
        let answer = api.get(&format!("{path}/bindings")).await?;
        let mut details: BTreeMap<String, Value> = BTreeMap::new();
        let (mut rows, pending) = (Vec::new(), answer["pending"].clone());
        for binding in answer["bindings"].as_array().into_iter().flatten() {
            let id = binding["certId"].as_str();
            if let Some(id) = id
                && binding["ca"] != json!(true)
                && !details.contains_key(id)
            {
                details.insert(id.to_owned(), about(&mut api, &path, id).await?);
                read.set(details.len());
            }
            rows.push(row(binding, id.and_then(|id| details.get(id))));
        }
        Ok::<_, ApiError>((rows, pending))
    })
    .await?;
    if as_json {
        return print_json(&json!({ "certificates": rows, "pending": pending }));
    }
    let pending = pending.as_array().into_iter().flatten();
    let cells: Vec<[String; 5]> = rows.iter().map(cells).chain(pending.map(cells_of_pending)).collect();
    if cells.is_empty() {
        let name = clean(&project.project);
        let flag = if name == "default" { String::new() } else { format!(" --project '{name}'") };
        return print(&format!(
            "project {name} has no certificates; register one with: egret certs upload{flag} --cert FILE --key FILE --ca FILE\n"
        ));
    }
    print(&table(["ORIGIN", "ID", "SUBJECT", "DAYS LEFT", "STATUS"], &cells))
}

/// A row as a person reads it: `active` says that a certificate is in force, which is no comfort once it has expired.
fn cells(row: &Value) -> [String; 5] {
    let mut cells = ["origin", "id", "subject", "daysLeft", "status"].map(|name| text(&row[name]));
    if row["daysLeft"].as_i64().is_some_and(|days| days < 0) && cells[4] == "active" {
        cells[4] = "expired".to_owned();
    }
    if row["derived"] == true {
        cells[4].push_str(", of the zone");
    }
    if row["inForce"] == false {
        cells[4].push_str(", another one is presented in its stead");
    }
    if row["association"]["enabled"] == false {
        cells[4].push_str(", its hostname is switched off");
    }
    if row["tls13Only"] == true {
        cells[4].push_str(", TLS 1.3 only");
    }
    if let Some(until) = row["rollbackUntil"].as_str() {
        cells[4].push_str(&format!(", can be rolled back until {until}"));
    }
    cells
}

/// What is being tried out is not in force, and nobody is told more of it yet.
fn cells_of_pending(pending: &Value) -> [String; 5] {
    let [origin, id, probe] = ["origin", "certId", "probe"].map(|name| text(&pending[name]));
    [origin, id, "-".to_owned(), "-".to_owned(), format!("pending, tried out at {probe}")]
}

/// The details of a certificate; one that was deleted since the list was made has none.
async fn about(api: &mut Api, project: &str, id: &str) -> Result<Value, ApiError> {
    match api.get(&format!("{project}/certificates/{}", segment(id))).await {
        Err(ApiError::Refused { status, .. }) if status == http::StatusCode::NOT_FOUND => Ok(json!({"status": "gone"})),
        answer => answer,
    }
}

fn row(binding: &Value, details: Option<&Value>) -> Value {
    let mut row = json!({ "origin": binding["origin"], "id": binding["certId"], "source": binding["source"] });
    row["tls13Only"] = binding["tls13Only"].clone();
    if binding["ca"] == json!(true) {
        (row["ca"], row["status"]) = (json!(true), json!("vouches for servers"));
        return row;
    }
    // Only where there is something to say.
    for name in ["rollbackUntil", "derived", "inForce", "association"] {
        if let Some(value) = binding.get(name) {
            row[name] = value.clone();
        }
    }
    match details {
        // A binding to *none*: nothing is presented here.
        None => row["status"] = json!("none"),
        Some(details) => {
            for name in ["subject", "notAfter", "daysLeft", "status"] {
                row[name] = details[name].clone();
            }
        }
    }
    row
}

async fn bind(args: &BindArgs) -> anyhow::Result<()> {
    // An id never is that word: it begins with cert_, or has 32 digits.
    let id = args.id.as_deref().filter(|id| *id != "none");
    let mut api = Api::new(&args.project.api)?;
    let path = format!("{}/bindings", project_path(&args.project));
    let mut body = json!({ "origin": args.origin, "certId": id });
    if let Some(tls13_only) = tls13_only(args.tls13_only, args.no_tls13_only) {
        body["tls13Only"] = json!(tls13_only);
    }
    let answer = while_waiting(|| "binding".to_owned(), api.put(&path, &body)).await?;
    if args.json {
        return print_json(&answer);
    }
    let done = if answer["updated"] == json!(true) { "bound anew" } else { "bound" };
    let target = match &answer["certId"] {
        id if answer["ca"] == json!(true) => format!("CA bundle {} vouches for the servers there", text(id)),
        Value::Null => "nothing is presented there".to_owned(),
        id => text(id),
    };
    print(&format!("{done}: {}: {}\n", clean(&origin_text(&answer["origin"])), clean(&target)))
}

/// What two flags say of which one may be given; `None`: it stays as it is.
fn tls13_only(yes: bool, no: bool) -> Option<bool> {
    (yes || no).then_some(yes)
}

async fn unbind(args: &UnbindArgs) -> anyhow::Result<()> {
    let mut api = Api::new(&args.project.api)?;
    let mut path = format!("{}/bindings?origin={}", project_path(&args.project), segment(&args.origin));
    if let Some(id) = &args.id {
        path.push_str(&format!("&certId={}", segment(id)));
    }
    let answer = while_waiting(|| "unbinding".to_owned(), api.delete(&path)).await?;
    if args.json {
        return print_json(&answer);
    }
    if let Some(id) = answer["certId"].as_str() {
        let origin = clean(&origin_text(&answer["origin"]));
        return print(&format!("unbound: {origin}: CA bundle {} vouches for no server there any more\n", clean(id)));
    }
    print(&format!("unbound: {}; what is less specific applies there now\n", clean(&origin_text(&answer["origin"]))))
}

/// The project-wide slot in words.
fn origin_text(origin: &Value) -> String {
    match origin.as_str() {
        Some("*") => "every origin that asks".to_owned(),
        Some("") => "no origin".to_owned(),
        _ => text(origin),
    }
}

async fn show(id: &str, project: &ProjectArgs, as_json: bool) -> anyhow::Result<()> {
    let mut api = Api::new(&project.api)?;
    let path = format!("{}/certificates/{}", project_path(project), segment(id));
    let answer = while_waiting(|| "waiting for the API".to_owned(), api.get(&path)).await?;
    if as_json {
        return print_json(&answer);
    }
    print(&facts(&described(&answer)))
}

/// What matters most first, then whatever else the API tells.
fn described(answer: &Value) -> Vec<(String, String)> {
    const FIRST: [&str; 8] = ["id", "status", "bindings", "subject", "issuer", "notBefore", "notAfter", "daysLeft"];
    let Some(map) = answer.as_object() else { return Vec::new() };
    let rest = map.keys().map(String::as_str).filter(|name| !FIRST.contains(name));
    let mut facts = Vec::new();
    for name in FIRST.into_iter().filter(|name| map.contains_key(*name)).chain(rest) {
        let words = words(name);
        match &map[name] {
            // One line each: these are sentences.
            Value::Array(list) if name == "warnings" => {
                facts.extend(list.iter().map(|warning| ("warning".to_owned(), text(warning))));
            }
            Value::Array(list) if list.is_empty() => {}
            Value::Array(list) if list.iter().all(Value::is_object) => {
                facts.extend(list.iter().map(|entry| (words.clone(), text(entry))));
            }
            value => facts.push((words, text(value))),
        }
    }
    facts
}

/// `notAfter` as `not after`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}

async fn rollback(origin: &str, project: &ProjectArgs, as_json: bool) -> anyhow::Result<()> {
    let mut api = Api::new(&project.api)?;
    let path = format!("{}/bindings/rollback?origin={}", project_path(project), segment(origin));
    let answer = while_waiting(|| "rolling back".to_owned(), api.post(&path, Zeroizing::default())).await?;
    if as_json {
        return print_json(&answer);
    }
    let (id, origin) = (text(&answer["certId"]), origin_text(&answer["origin"]));
    print(&format!("rolled back: {} is in force again for {}\n", clean(&id), clean(&origin)))
}

async fn delete(id: &str, project: &ProjectArgs, as_json: bool) -> anyhow::Result<()> {
    let mut api = Api::new(&project.api)?;
    let path = format!("{}/client-cert/{}", project_path(project), segment(id));
    let answer = while_waiting(|| "deleting".to_owned(), api.delete(&path)).await?;
    if as_json {
        return print_json(&answer);
    }
    let (id, origin) = (text(&answer["certId"]), origin_text(&answer["origin"]));
    print(&format!("deleted: {}, which was presented to {}\n", clean(&id), clean(&origin)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_described_most_important_first() {
        let answer = json!({
            "chainLength": 1, "id": "cert_1", "retired": [{"id": "cert_0", "connections": 2}], "warnings": ["a b", "c"],
            "bindings": ["https://a.test"], "notAfter": "2027-01-01T00:00:00Z", "status": "active", "empty": [],
        });
        let names: Vec<String> = described(&answer).into_iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(
            names,
            [
                "id=cert_1",
                "status=active",
                "bindings=https://a.test",
                "not after=2027-01-01T00:00:00Z",
                "chain length=1",
                "retired=connections 2 id cert_0",
                "warning=a b",
                "warning=c",
            ]
        );
    }

    #[test]
    fn an_expired_certificate_is_not_called_active() {
        let row = |days: i64, status: &str| json!({"origin": "*", "id": "c", "subject": "CN=a", "daysLeft": days, "status": status});
        let status = |row: Value| cells(&row)[4].clone();
        assert_eq!(
            [status(row(0, "active")), status(row(-1, "active")), status(row(-1, "gone"))],
            ["active", "expired", "gone"]
        );
    }

    #[test]
    fn a_list_says_what_holds_for_a_place() {
        let binding = json!({
            "origin": "https://a.test", "certId": "c", "source": "api", "tls13Only": true,
            "rollbackUntil": "2026-11-28T15:25:35Z",
        });
        let details = json!({"subject": "CN=a", "notAfter": "2027", "daysLeft": 9, "status": "active"});
        let status = |binding: &Value| cells(&row(binding, Some(&details)))[4].clone();
        assert_eq!(status(&binding), "active, TLS 1.3 only, can be rolled back until 2026-11-28T15:25:35Z");
        assert_eq!(status(&json!({"origin": "*", "certId": "c", "tls13Only": false})), "active");
        let zone = json!({"origin": "*", "certId": "z", "derived": true, "inForce": false});
        assert_eq!(status(&zone), "active, of the zone, another one is presented in its stead");
        let off =
            json!({"origin": "https://h.test:*", "certId": null, "association": {"certId": "c", "enabled": false}});
        assert_eq!(cells(&row(&off, None))[4], "none, its hostname is switched off");
        let pending = json!({"origin": "https://*.b.test", "certId": "d", "probe": "https://x.b.test"});
        let wanted = ["https://*.b.test", "d", "-", "-", "pending, tried out at https://x.b.test"];
        assert_eq!(cells_of_pending(&pending), wanted);
    }
}
