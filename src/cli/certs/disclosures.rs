//! `egret certs disclosures`: who has seen which certificate.

use serde_json::Value;

use super::super::args::ProjectArgs;
use super::super::client::{Api, segment};
use super::super::output::{clean, print, print_json, table, text, while_waiting};
use super::project_path;

pub(super) async fn run(
    cert: Option<&str>,
    host: Option<&str>,
    project: &ProjectArgs,
    as_json: bool,
) -> anyhow::Result<()> {
    let mut api = Api::new(&project.api)?;
    let wanted = [("certificate", cert), ("host", host)];
    let wanted = wanted.iter().filter_map(|(name, value)| Some(format!("{name}={}", segment((*value)?))));
    let path = format!("{}/disclosures?{}", project_path(project), wanted.collect::<Vec<_>>().join("&"));
    let answer = while_waiting(|| "waiting for the API".to_owned(), api.get(&path)).await?;
    if as_json {
        return print_json(&answer);
    }
    print(&described(&answer, &project.project, cert.is_some() || host.is_some()))
}

fn described(answer: &Value, project: &str, limited: bool) -> String {
    let rows: Vec<[String; 8]> = answer["disclosures"].as_array().into_iter().flatten().map(row).collect();
    let mut out = if rows.is_empty() {
        let which = if limited {
            "no such certificate was shown to such an origin"
        } else {
            "no certificate was shown to any origin"
        };
        format!("{which} for project {}, as far as is known\n", clean(project))
    } else {
        table(["ORIGIN", "ADDRESS", "CERTIFICATE", "SUBJECT", "RULE", "FIRST", "LAST", "TIMES"], &rows)
    };
    if let Some(dropped) = answer["dropped"].as_u64().filter(|n| *n > 0) {
        out.push_str(&format!("{dropped} older entries made room for others (limits.max_disclosures)\n"));
    }
    out
}

fn row(entry: &Value) -> [String; 8] {
    ["origin", "address", "certificate", "subject", "rule", "first", "last", "count"]
        .map(|name| text(entry.get(name).unwrap_or(&Value::Null)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_says_who_saw_what_and_what_is_not_known_any_more() {
        let entry = json!({
            "origin": "https://a.test", "certificate": "cert_1", "subject": "CN=a", "rule": "exact",
            "first": "2026-01-01T00:00:00Z", "last": "2026-01-02T00:00:00Z", "count": 3, "fingerprint": "00",
        });
        let said = described(&json!({"disclosures": [entry], "dropped": 2}), "p", false);
        let lines: Vec<_> = said.lines().collect();
        assert!(lines[0].starts_with("ORIGIN          ADDRESS  CERTIFICATE"), "{said}");
        assert!(
            lines[1].starts_with("https://a.test  -        cert_1") && lines[1].ends_with("2026-01-02T00:00:00Z  3")
        );
        assert!(lines[2].starts_with("2 older entries"), "{said}");
        let none = described(&json!({"disclosures": [], "dropped": 0}), "p", false);
        assert_eq!(none, "no certificate was shown to any origin for project p, as far as is known\n");
    }
}
