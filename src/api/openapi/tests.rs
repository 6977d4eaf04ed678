use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::api::tests::cloudflare::{ACCOUNT, ZONE, zoned as cloudflare_world};
use crate::api::tests::{ADMIN, world};
use crate::observe::Exposition;

fn written() -> Value {
    serde_json::to_value(complete(paths::all().into_openapi())).expect("JSON")
}

/// `(path, method)` of every operation.
fn operations_of(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().expect("paths");
    let all = paths.iter().flat_map(|(path, item)| {
        item.as_object().expect("an item").keys().map(|method| (path.clone(), method.to_uppercase()))
    });
    all.collect()
}

/// The paths of a router, as its `Debug` shows them: axum has no other way to list them.
fn paths_of(shown: &str) -> BTreeSet<String> {
    let begin = shown.find("paths: {").expect("axum shows its paths");
    let list = &shown[begin..];
    let list = &list[..list.find("}, ").or_else(|| list.find("} }")).unwrap_or(list.len())];
    list.split('"').filter(|text| text.starts_with('/')).map(str::to_owned).collect()
}

#[test]
fn every_path_of_the_router_is_documented_and_the_other_way_round() {
    let (routes, _) = paths::all().split_for_parts();
    let served = paths_of(&format!("{routes:?}"));
    let documented: BTreeSet<String> = operations_of(&written()).into_iter().map(|(path, _)| path).collect();
    assert_eq!(served, documented);
    assert!(served.len() > 5, "{served:?}");
}

#[tokio::test]
async fn every_method_of_a_path_is_documented_and_the_other_way_round() {
    let world = world().await;
    let operations = operations_of(&written());
    for path in operations.iter().map(|(path, _)| path).collect::<BTreeSet<_>>() {
        let target: String = path
            .split('/')
            .map(|segment| if segment.starts_with('{') { "x" } else { segment })
            .collect::<Vec<_>>()
            .join("/");
        // No path takes PATCH so far: what it does take is in the answer.
        let reply = world.send(ADMIN, "PATCH", &target, &Value::Null).await;
        assert_eq!(reply.status, 405, "{target}");
        let allowed: BTreeSet<&str> = reply.headers["allow"].to_str().expect("ASCII").split(',').collect();
        let mut documented: BTreeSet<&str> =
            operations.iter().filter(|(p, _)| p == path).map(|(_, method)| method.as_str()).collect();
        if documented.contains("GET") {
            documented.insert("HEAD");
        }
        assert_eq!(allowed, documented, "{path}");
    }
}

#[test]
fn every_operation_says_who_may_and_how_it_refuses() {
    let document = written();
    let mut ids = BTreeSet::new();
    for (path, method) in operations_of(&document) {
        let operation = &document["paths"][&path][method.to_lowercase()];
        let responses = operation["responses"].as_object().expect("responses");
        let says = |status: &str| responses.contains_key(status);
        let open = operation["security"] == serde_json::json!([{}]);
        let either = serde_json::json!([{"bearer": []}, {"authEmail": [], "authKey": []}]);
        let ours =
            if cloudflare::is_asked(&path) { operation["security"] == either } else { operation["security"].is_null() };
        assert!(open || ours, "{method} {path}");
        let opened = ["/healthz", "/readyz", "/openapi.json"].contains(&path.as_str());
        assert_eq!(open, opened, "{path}: all but these take a token");
        assert_eq!(says("401") && says("429"), !open, "{method} {path}");
        assert_eq!(says("415") && says("413") && says("408"), !operation["requestBody"].is_null(), "{method} {path}");
        assert!(says("200") && operation["summary"].is_string() && operation["tags"].is_array(), "{method} {path}");
        assert!(ids.insert(operation["operationId"].as_str().expect("an id").to_owned()), "{method} {path}");
        // Every {parameter} of the path is described, and each only once.
        let described = operation["parameters"].as_array().cloned().unwrap_or_default();
        let in_path: Vec<_> = described.iter().filter(|p| p["in"] == "path").map(|p| p["name"].as_str()).collect();
        let written: Vec<_> =
            path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}')).map(Some).collect();
        assert_eq!(in_path, written, "{method} {path}");
    }
    let scheme = &document["components"]["securitySchemes"]["bearer"];
    assert_eq!((&scheme["type"], &scheme["scheme"]), (&"http".into(), &"bearer".into()));
}

#[tokio::test]
async fn every_operation_that_takes_a_token_refuses_a_request_without_one() {
    let world = world().await;
    let document = written();
    for (path, method) in operations_of(&document) {
        let open = document["paths"][&path][method.to_lowercase()]["security"] == serde_json::json!([{}]);
        for token in ["", "wrong"] {
            let reply = world.send(token, &method, &path.replace(['{', '}'], ""), &serde_json::json!({})).await;
            let status = reply.status.as_u16();
            // After ten in a second the answer is 429.
            assert_eq!(matches!(status, 401 | 429), !open, "{method} {path}: {status}");
            let documented = &document["paths"][&path][method.to_lowercase()]["responses"][status.to_string()];
            assert!(documented.is_object(), "{method} {path}: {status}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| walk(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let document = written();
    let mut references = Vec::new();
    walk(&document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("within the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn is_served_to_everybody_but_under_no_other_host() {
    let world = world().await;
    let served = world.get("", "/openapi.json").await;
    assert_eq!((served.status.as_u16(), &served.body), (200, &written()));
    assert_eq!(served.body["info"]["title"], "egret management API", "not that of a crate");
    assert_eq!(served.body["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(world.send_to("evil.example", "", "GET", "/openapi.json", &Value::Null).await.status, 403);
}

/// The bodies that are read by hand have the fields that their schemas have.
#[tokio::test]
async fn schemas_of_bodies_name_the_fields_that_are_read() {
    let world = world().await;
    let document = written();
    for (method, target, schema) in [
        ("POST", "/v1/projects", "ProjectWanted"),
        ("POST", "/v1/projects/default/client-cert", "ClientCertUpload"),
        ("PUT", "/v1/projects/default/bindings", "BindingWanted"),
        ("POST", "/v1/tokens", "TokenWanted"),
    ] {
        let schema = &document["components"]["schemas"][schema];
        assert_eq!(schema["additionalProperties"], false, "{target}");
        let fields: Vec<&String> = schema["properties"].as_object().expect("properties").keys().collect();
        let required: Vec<&str> =
            schema["required"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        let reply = world.send(ADMIN, method, target, &serde_json::json!({ "no_such_field": 1 })).await;
        let said = reply.message();
        let known = said.split("known: ").nth(1).expect("names them").trim_end_matches(')');
        assert_eq!(known.split(", ").collect::<BTreeSet<_>>(), fields.iter().map(|f| f.as_str()).collect(), "{said}");
        let missing = said.split_once(": ").expect("names them").1.split(';').next().expect("a part");
        assert_eq!(missing.split(", ").collect::<BTreeSet<_>>(), required.into_iter().collect(), "{said}");
    }
}

/// The same in Cloudflare's dialect, which ignores what it does not know: what its schemas require is missed, and in one
/// place of the body each.
#[tokio::test]
async fn schemas_of_cloudflares_bodies_require_what_is_missed() {
    let world = cloudflare_world().await;
    let document = written();
    for (method, target, schema) in [
        ("POST", "zones/{zone}/origin_tls_client_auth", "CloudflareCertificateUpload"),
        ("PUT", "zones/{zone}/origin_tls_client_auth/settings", "CloudflareZoneSettingsWanted"),
        ("PUT", "zones/{zone}/origin_tls_client_auth/hostnames", "CloudflareHostnamesWanted"),
        ("POST", "zones/{zone}/origin_tls_client_auth/hostnames/certificates", "CloudflareCertificateUpload"),
        ("POST", "accounts/{account}/mtls_certificates", "CloudflareMtlsUpload"),
    ] {
        let schema = &document["components"]["schemas"][schema];
        assert!(schema["properties"].is_object() && schema["additionalProperties"].is_null(), "{target}");
        let required: BTreeSet<String> = schema["required"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|name| format!("/{}", name.as_str().expect("a name")))
            .collect();
        let target = format!("/client/v4/{}", target.replace("{zone}", ZONE).replace("{account}", ACCOUNT));
        let reply = world.send(ADMIN, method, &target, &serde_json::json!({ "no_such_field": 1 })).await;
        assert_eq!(reply.status, 400, "{target}: {}", reply.body);
        let errors = reply.body["errors"].as_array().expect("a list");
        let missed: BTreeSet<String> =
            errors.iter().filter_map(|error| error["source"]["pointer"].as_str()).map(str::to_owned).collect();
        assert_eq!((missed, errors.len()), (required.clone(), required.len()), "{target}: {}", reply.body);
    }
    let entry = &document["components"]["schemas"]["CloudflareHostnameWanted"];
    assert_eq!(entry["required"], serde_json::json!(["hostname", "enabled"]));
}

/// Whatever is refused below `/client/v4` is described in the envelope of that dialect, and nothing else is.
#[test]
fn each_dialect_is_described_with_its_own_refusals() {
    let document = written();
    let resolved = |response: &Value| match response["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).expect("leads somewhere").clone(),
        None => response.clone(),
    };
    for (path, method) in operations_of(&document) {
        let responses = &document["paths"][&path][method.to_lowercase()]["responses"];
        for (status, response) in responses.as_object().expect("responses") {
            if status.starts_with('2') {
                continue;
            }
            assert!(status != "409" || !cloudflare::is_asked(&path), "{method} {path}");
            let content = &resolved(response)["content"];
            let schema = content["application/json"]["schema"]["$ref"].as_str().unwrap_or_default();
            let is_envelope = schema == "#/components/schemas/CloudflareError";
            assert_eq!(is_envelope, cloudflare::is_asked(&path), "{method} {path} {status}: {schema}");
        }
    }
}

/// What a text of Prometheus's is called, its version included, is what the document calls it.
#[test]
fn metrics_are_described_by_their_media_types() {
    let document = written();
    let content = document["paths"]["/metrics"]["get"]["responses"]["200"]["content"].as_object().expect("content");
    let described: BTreeSet<&str> = content.keys().map(String::as_str).collect();
    assert_eq!(described, [Exposition::OpenMetrics, Exposition::Text].map(Exposition::content_type).into());
}

/// Of a field that may be left out `null` is no value, and what an answer always has is required.
#[test]
fn answers_are_described_with_what_they_may_leave_out() {
    let schemas = &written()["components"]["schemas"];
    for (schema, required, optional) in [
        ("Listener", &["address", "auth", "mode", "name", "tls"][..], &["project"][..]),
        ("Token", &["id", "name", "role", "source"], &["createdAt", "email", "expiresAt", "projects"]),
        (
            "Binding",
            &["certId", "lift", "origin", "since", "source", "tls13Only"],
            &["association", "ca", "derived", "file", "inForce", "rollbackUntil"],
        ),
        ("BindingWritten", &["certId", "origin", "updated"], &["ca"]),
        ("BindingRemoved", &["origin"], &["certId"]),
        ("BindingWanted", &["certId", "origin"], &["lift", "tls13Only"]),
        (
            "Disclosure",
            &["certificate", "count", "fingerprint", "first", "last", "origin", "rule", "serialNumber", "subject"],
            &["address"],
        ),
        ("ClientCertProbed", &["origin", "status", "warnings"], &["tlsVersion"]),
        ("ProbeDiagnosis", &["code", "detail", "origin"], &["alert", "askedFor", "fix"]),
        (
            "Status",
            &[
                "certificates",
                "health",
                "listeners",
                "management",
                "pending",
                "projects",
                "reason",
                "reload",
                "startedAt",
                "state",
                "store",
                "version",
                "warnings",
            ],
            &["counters", "unloaded"],
        ),
        ("ExplainedRoute", &["resolvedByParent", "summary", "why"], &["parent", "rule"]),
    ] {
        let properties = schemas[schema]["properties"].as_object().unwrap_or_else(|| panic!("{schema}"));
        let wanted: BTreeSet<&str> =
            schemas[schema]["required"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        assert_eq!(wanted, required.iter().copied().collect(), "{schema}");
        let rest: BTreeSet<&str> =
            properties.keys().map(String::as_str).filter(|name| !wanted.contains(name)).collect();
        assert_eq!(rest, optional.iter().copied().collect(), "{schema}");
        for name in optional {
            // One that is described elsewhere has none here.
            let types = properties[*name].get("type").map(Value::to_string).unwrap_or_default();
            assert!(!types.contains("null"), "{schema}.{name}: {types}");
        }
    }
}
