//! `egret status`

use serde_json::Value;

use super::args::StatusArgs;
use super::client::Api;
use super::output::{clean, facts, print, print_json, table, text, while_waiting};

pub(super) async fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let mut api = Api::new(&args.api)?;
    let answer = while_waiting(|| "waiting for the API".to_owned(), api.get("/v1/status")).await?;
    if args.json { print_json(&answer) } else { print(&described(&answer)) }
}

fn described(status: &Value) -> String {
    let list = |name: &str| status[name].as_array().cloned().unwrap_or_default();
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let mut head = vec![
        fact("egret", format!("{}, {}", text(&status["version"]), text(&status["state"]))),
        fact("management", text(&status["management"])),
    ];
    if !status["health"].is_null() {
        head.push(fact("health", text(&status["health"])));
    }
    for listener in list("listeners") {
        let [address, name, mode] = ["address", "name", "mode"].map(|key| text(&listener[key]));
        let tls = if listener["tls"] == true { ", TLS" } else { "" };
        head.push(fact("listener", format!("{address} ({name}, {mode}{tls})")));
    }
    let projects: Vec<String> =
        list("projects").iter().map(|p| text(if p.is_object() { &p["name"] } else { p })).collect();
    head.push(fact("projects", projects.join(", ")));
    let reload = &status["reload"];
    if !reload["error"].is_null() {
        head.push(fact("reload", format!("{}: {}", text(&reload["state"]), text(&reload["error"]))));
    }
    if !reload["succeededAt"].is_null() {
        let words = if reload["error"].is_null() { "ok" } else { "last ok" };
        head.push(fact("reload", format!("{words} {}", text(&reload["succeededAt"]))));
    }
    if !status["reason"].is_null() {
        head.push(fact("unready", text(&status["reason"])));
    }
    head.extend(list("warnings").iter().map(|warning| fact("warning", text(&warning["text"]))));
    head.extend(list("unloaded").iter().map(|missing| fact("not loaded", text(missing))));
    head.extend(list("pending").iter().map(|pending| {
        let [origin, probe] = ["origin", "probe"].map(|key| text(&pending[key]));
        fact("pending", format!("{} for {origin}, tried out at {probe}", text(&pending["certId"])))
    }));
    head.extend(list("certificates").is_empty().then(|| fact("certificates", "none".to_owned())));
    let quarantined = status.pointer("/store/quarantined").and_then(Value::as_array).cloned().unwrap_or_default();
    head.extend(quarantined.iter().map(|record| fact("quarantined", text(record))));

    let mut out = facts(&head);
    // Soonest first: that is what one looks for.
    let mut certificates = list("certificates");
    certificates.sort_by_key(|c| c["daysLeft"].as_i64().unwrap_or(i64::MAX));
    let name_of = |id: &Value| {
        let named = list("projects").into_iter().find(|p| p["id"] == *id);
        clean(&text(named.as_ref().map_or(id, |p| &p["name"])))
    };
    let rows: Vec<[String; 5]> = certificates
        .iter()
        .map(|c| {
            let [days, until, origin, id] = ["daysLeft", "notAfter", "origin", "id"].map(|key| text(&c[key]));
            [days, until, name_of(&c["project"]), origin, id]
        })
        .collect();
    if !rows.is_empty() {
        out.push('\n');
        out.push_str(&table(["DAYS LEFT", "NOT AFTER", "PROJECT", "ORIGIN", "ID"], &rows));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_first_stands_first() {
        let status = serde_json::json!({
            "version": "0.1.0", "state": "unready", "management": "127.0.0.1:9090",
            "listeners": [
                {"name": "dev", "mode": "forward", "address": "127.0.0.1:8080"},
                {"name": "safe", "mode": "sidecar", "address": "unix:/s", "tls": true},
            ],
            "projects": [{"id": "prj_1", "name": "pay"}],
            "certificates": [
                {"id": "cert_b", "project": "prj_1", "origin": "*", "notAfter": "2027", "daysLeft": 300},
                {"id": "cert_a", "project": "prj_1", "origin": "https://a.test", "notAfter": "2026", "daysLeft": -1},
            ],
            "reason": "a declared certificate is not loaded",
            "warnings": [{"text": "certificate cert_a expires soon; renew it with: egret certs upload"}],
            "reload": {"state": "ok", "error": null}, "unloaded": ["x.crt cannot be read"],
            "pending": [{"origin": "https://*.b.test", "certId": "cert_c", "probe": "https://x.b.test"}],
        });
        let expected = "\
egret       0.1.0, unready
management  127.0.0.1:9090
listener    127.0.0.1:8080 (dev, forward)
listener    unix:/s (safe, sidecar, TLS)
projects    pay
unready     a declared certificate is not loaded
warning     certificate cert_a expires soon; renew it with: egret certs upload
not loaded  x.crt cannot be read
pending     cert_c for https://*.b.test, tried out at https://x.b.test

DAYS LEFT  NOT AFTER  PROJECT  ORIGIN          ID
-1         2026       pay      https://a.test  cert_a
300        2027       pay      *               cert_b
";
        assert_eq!(described(&status), expected);
    }
}
