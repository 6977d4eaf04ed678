//! Vercel's dialect, every status of the contract.

use super::*;
use crate::backend::{BackendError, BoxFuture, Changes, Loaded, Op, Revision};

const CERTS: &str = "/v1/projects/payments/client-cert";

#[tokio::test]
async fn uploads_lists_replaces_and_deletes() {
    let world = world().await;
    assert_eq!(world.get(ADMIN, CERTS).await.body, json!({"clientCerts": []}));
    let material = world.material("a");
    let first = world.send(ADMIN, "POST", CERTS, &material).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let id = first.body["certId"].as_str().unwrap();
    assert_eq!(first.body, json!({"updated": false, "origin": "*", "certId": id}));
    assert!(id.strip_prefix("cert_").is_some_and(|hex| hex.len() == 32));

    let again = world.send(ADMIN, "POST", CERTS, &material).await;
    assert_eq!(again.body, json!({"updated": true, "origin": "*", "certId": id}), "equal material changes nothing");

    let second = world.send(ADMIN, "POST", CERTS, &world.material("b")).await;
    let new = second.body["certId"].as_str().unwrap();
    assert_eq!(second.body["updated"], true);
    assert_ne!(new, id);
    assert_eq!(world.delete(ADMIN, &format!("{CERTS}/{id}")).await.code(), "not_found");

    let wild = world.uploaded("payments", "https://*.example.com:*").await;
    let exact = world.uploaded("payments", "HTTPS://API.example.com:443/").await;
    let by_id = world.management.registry.find("payments", None, None).unwrap().id().to_string();
    let listed = world.get(ADMIN, &format!("/v1/projects/{by_id}/client-cert")).await.body;
    let listed = listed["clientCerts"].as_array().unwrap();
    assert_eq!(listed[0], json!({"origin": "*", "id": new}));
    assert!(listed.contains(&json!({"origin": "https://*.example.com:*", "id": wild})));
    assert!(listed.contains(&json!({"origin": "https://api.example.com", "id": exact})));

    let deleted = world.delete(ADMIN, &format!("{CERTS}/{exact}")).await;
    assert_eq!(deleted.body, json!({"origin": "https://api.example.com", "certId": exact}));
    assert_eq!(world.delete(ADMIN, &format!("{CERTS}/{exact}")).await.status, 404);
}

#[tokio::test]
async fn asks_who_calls_before_anything_else() {
    let world = world().await;
    for target in [CERTS, "/v1/projects/unknown/client-cert", "/v1/projects", "/v1/status", "/v1/ca"] {
        for token in ["", "wrong"] {
            let reply = world.get(token, target).await;
            assert_eq!((reply.status.as_u16(), reply.code()), (401, "unauthorized"), "{target}");
            assert_eq!(reply.headers["www-authenticate"], "Bearer");
        }
    }
    // That was ten; only a machine that took more than a second for them starts to count again.
    for _ in 0..100 {
        let reply = world.get("wrong", CERTS).await;
        if reply.status == 429 {
            assert_eq!(reply.code(), "rate_limited");
            assert_eq!(reply.body["error"]["limit"]["total"], 10);
            assert_eq!(reply.headers["retry-after"], "1");
            return;
        }
    }
    panic!("guessing is never limited");
}

#[tokio::test]
async fn limits_tokens_to_their_role_and_projects() {
    let world = world().await;
    let status = |reply: Reply| (reply.status.as_u16(), reply.code().to_owned());
    let forbidden = (403, "forbidden".to_owned());
    // A role that is too low says nothing of what exists.
    for project in ["payments", "unknown"] {
        let target = format!("/v1/projects/{project}/client-cert");
        assert_eq!(status(world.send(READER, "POST", &target, &world.material("a")).await), forbidden);
        assert_eq!(status(world.delete(READER, &format!("{target}/cert_1")).await), forbidden);
        assert_eq!(status(world.get(PROXY, &target).await), forbidden);
    }
    assert_eq!(world.get(READER, CERTS).await.status, 200);
    // Out of reach, existing or not, in the same words.
    let there = world.get(PAYMENTS, "/v1/projects/default/client-cert").await;
    let not_there = world.get(PAYMENTS, "/v1/projects/unknown/client-cert").await;
    assert_eq!(there.body, not_there.body);
    assert_eq!(status(there), forbidden);
    // Within reach.
    assert_eq!(world.send(PAYMENTS, "POST", CERTS, &world.material("a")).await.status, 200);
    assert_eq!(world.delete(PAYMENTS, &format!("{CERTS}/cert_1")).await.status, 404);
    for unknown in ["unknown", "..%2F..%2Fx", "%00"] {
        let reply = world.get(ADMIN, &format!("/v1/projects/{unknown}/client-cert")).await;
        assert_eq!(status(reply), (404, "not_found".to_owned()));
    }
    assert_eq!(world.get(ADMIN, "/v1/projects/%FF/client-cert").await.status, 400);
}

#[tokio::test]
async fn refuses_what_cannot_be_used_and_repeats_none_of_it() {
    let world = world().await;
    let (one, other) = (world.material("a"), world.material("b"));
    let with = |field: &str, value: Value| {
        let mut body = one.clone();
        body[field] = value;
        body
    };
    let big = "x".repeat(64 * 1024 + 1);
    for (body, status, mentions) in [
        (with("key", other["key"].clone()), 400, "key: "),
        (with("key", "not a key".into()), 400, "key: "),
        (with("cert", one["key"].clone()), 400, "cert: "),
        (with("ca", "".into()), 400, "ca: "),
        (with("origin", "http://a.test".into()), 400, "origin: "),
        (with("origin", Value::Null), 400, "origin must be a string"),
        (with("extra", 1.into()), 400, "unknown field extra"),
        (json!({}), 400, "missing fields: cert, key, ca"),
        (Value::Null, 400, "the body is empty"),
        (Value::String("{".to_owned()), 400, "line 1"),
        (with("key", big.into()), 413, "key: larger than 64 KiB"),
        (Value::String(" ".repeat((1 << 20) + 1)), 413, "larger than 1 MiB"),
    ] {
        let reply = world.send(ADMIN, "POST", CERTS, &body).await;
        assert_eq!(reply.status.as_u16(), status, "{mentions}: {}", reply.body);
        assert!(reply.message().contains(mentions), "{mentions}: {}", reply.body);
        for secret in [&one["key"], &other["key"]] {
            let lines = secret.as_str().unwrap().lines().filter(|l| !l.starts_with("-----"));
            assert!(lines.into_iter().all(|line| !reply.message().contains(line)), "{}", reply.body);
        }
    }
    assert_eq!(world.send(ADMIN, "POST", &format!("{CERTS}?drain=later"), &one).await.status, 400);
    assert_eq!(world.get(ADMIN, CERTS).await.body, json!({"clientCerts": []}), "a refusal changes nothing");
}

#[tokio::test]
async fn heeds_the_state_of_the_project() {
    let world = world().await;
    for (state, upload, delete) in
        [("blocked", (402, "payment_required"), 404), ("transferring", (409, "conflict"), 409)]
    {
        let made = world.send(ADMIN, "POST", "/v1/projects", &json!({"name": state, "state": state})).await;
        assert_eq!(made.status, 200, "{}", made.body);
        let target = format!("/v1/projects/{state}/client-cert");
        let reply = world.send(ADMIN, "POST", &target, &world.material("a")).await;
        assert_eq!((reply.status.as_u16(), reply.code()), upload);
        assert_eq!(world.delete(ADMIN, &format!("{target}/cert_1")).await.status.as_u16(), delete);
        assert_eq!(world.get(ADMIN, &target).await.status, 200);
    }
}

#[tokio::test]
async fn knows_projects_by_their_team() {
    let world = world().await;
    let body = json!({"name": "web", "team": {"id": "team_1", "slug": "acme"}});
    assert_eq!(world.send(ADMIN, "POST", "/v1/projects", &body).await.status, 200);
    for (query, status) in
        [("", 200), ("?teamId=team_1", 200), ("?slug=acme", 200), ("?teamId=team_2", 404), ("?slug=x", 404)]
    {
        let reply = world.get(ADMIN, &format!("/v1/projects/web/client-cert{query}")).await;
        assert_eq!(reply.status.as_u16(), status, "{query}");
    }
    assert_eq!(world.get(ADMIN, &format!("{CERTS}?teamId=any&slug=any")).await.status, 200, "no team: ignored");
}

/// A store on a full disk.
pub(super) struct Full(pub(super) MemoryBackend);

impl Backend for Full {
    fn load(&self) -> BoxFuture<'_, Result<Loaded, BackendError>> {
        self.0.load()
    }

    fn commit(&self, _: Vec<Op>) -> BoxFuture<'_, Result<Revision, BackendError>> {
        let cause = "no space left on /secret/path".to_owned();
        Box::pin(async { Err(BackendError::Unavailable { doing: "written", cause }) })
    }

    fn watch(&self, after: Revision) -> Changes {
        self.0.watch(after)
    }
}

#[tokio::test]
async fn says_that_storing_failed_and_counts_it_once() {
    let world = world_over(Arc::new(Full(MemoryBackend::default()))).await;
    let reply = world.send(ADMIN, "POST", "/v1/projects/default/client-cert", &world.material("a")).await;
    assert_eq!(reply.status, 500);
    assert_eq!(reply.body["error"]["code"], "internal_server_error");
    let message = reply.body["error"]["message"].as_str().unwrap();
    assert!(message.contains("could not be stored; nothing was changed") && !message.contains("secret"), "{message}");
    assert_eq!(world.management.metrics.store_failures.get(), 1);
    let listed = world.get(ADMIN, "/v1/projects/default/client-cert").await;
    assert_eq!(listed.body, json!({"clientCerts": []}));
}
