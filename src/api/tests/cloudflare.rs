//! Cloudflare's dialect: who may what, and the envelope around everything.

use super::*;
use crate::registry::{Registry, Snapshot};

/// Of `payments`.
pub(in crate::api) const ACCOUNT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
pub(in crate::api) const ZONE: &str = "11111111111111111111111111111111";
/// Of `web`, which is of the same account.
pub(super) const WEB_ZONE: &str = "22222222222222222222222222222222";
/// No project's.
pub(super) const NOBODYS: &str = "ffffffffffffffffffffffffffffffff";
/// Role `write`, both projects of the account, with an email.
pub(super) const TENANT: &str = "tenant-token";
/// Role `write`, only `pay.example`.
pub(super) const PAY: &str = "pay-token";

/// Two projects of one account, each with a zone; `pay` is within reach of nobody who is limited to `payments`.
pub(in crate::api) async fn zoned() -> World {
    let world = world().await;
    for (name, zone) in [("pay.example", ZONE), ("web.example", WEB_ZONE)] {
        let body = json!({"name": name, "accountId": ACCOUNT, "zoneId": zone});
        assert_eq!(world.send(ADMIN, "POST", "/v1/projects", &body).await.status, 200);
    }
    let token = |text: &str, projects: &[&str], email: Option<&str>| {
        let scope = TokenScope::Projects(projects.iter().map(|p| (*p).to_owned()).collect());
        let sha256 = digest::digest(&digest::SHA256, text.as_bytes()).as_ref().try_into().unwrap();
        let token = Token::declared(text, Role::Write, scope, &sha256, "egret.toml");
        insert(&world.management.registry, sha256, Token { email: email.map(str::to_owned), ..token });
    };
    token(TENANT, &["pay.example", "web.example"], Some("CI@example.com"));
    token(PAY, &["pay.example"], None);
    world
}

fn insert(registry: &Registry, sha256: [u8; 32], token: Token) {
    registry.insert_token(sha256, token);
}

/// An error of the envelope: status, number, text.
pub(super) fn refusal(reply: &Reply) -> (u16, u64, String) {
    assert_eq!(reply.body["success"], false, "{}", reply.body);
    assert_eq!((&reply.body["messages"], &reply.body["result"]), (&json!([]), &Value::Null), "{}", reply.body);
    assert!(reply.body.get("error").is_none(), "{}", reply.body);
    let errors = reply.body["errors"].as_array().expect("a list");
    let first = errors.first().expect("one at least");
    (
        reply.status.as_u16(),
        first["code"].as_u64().expect("a number"),
        first["message"].as_str().expect("a text").to_owned(),
    )
}

/// What a success holds.
pub(super) fn result(reply: Reply) -> Value {
    assert_eq!((reply.status.as_u16(), &reply.body["success"]), (200, &json!(true)), "{}", reply.body);
    assert_eq!(reply.body["errors"], json!([]));
    assert!(reply.body["messages"].is_array());
    reply.body["result"].clone()
}

impl World {
    async fn with_headers(&self, headers: &[(&str, &str)], target: &str) -> Reply {
        let mut request = Request::builder().method("GET").uri(target).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.ask(request.body(Body::empty()).unwrap()).await
    }

    pub(super) async fn ask(&self, request: Request<Body>) -> Reply {
        let response = TowerToHyperService::new(self.router.clone()).call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        Reply { status: parts.status, headers: parts.headers, body: serde_json::from_slice(&bytes).unwrap() }
    }
}

#[tokio::test]
async fn whatever_fails_fails_in_the_envelope() {
    let world = zoned().await;
    let get = async |token, target| refusal(&world.get(token, target).await);
    let (status, number, said) = get("", "/client/v4/zones").await;
    assert_eq!((status, number), (401, 10000));
    assert!(said.contains("X-Auth-Key"), "{said}");
    assert_eq!(world.get("", "/client/v4/zones").await.headers["www-authenticate"], "Bearer");
    assert_eq!(get("wrong", "/client/v4/zones").await.0, 401);
    assert_eq!(get(PROXY, "/client/v4/zones").await.0, 403);
    for nowhere in ["/client/v4", "/client/v4/", "/client/v4/nowhere", "/client/v4/zones/", "/client/v4//zones"] {
        let (status, number, said) = get(ADMIN, nowhere).await;
        assert_eq!((status, number, said.as_str()), (404, 7003, "path not found"), "{nowhere}");
    }
    let reply = world.send(ADMIN, "PATCH", "/client/v4/zones", &Value::Null).await;
    assert_eq!((refusal(&reply).0, refusal(&reply).1), (405, 10405));
    assert_eq!(reply.headers["allow"], "GET,HEAD");
    let foreign = world.send_to("evil.example", ADMIN, "GET", "/client/v4/zones", &Value::Null).await;
    assert_eq!((refusal(&foreign).0, refusal(&foreign).1), (403, 10000));
    let hostless = world.send_to("a b", ADMIN, "GET", "/client/v4/zones", &Value::Null).await;
    assert_eq!((refusal(&hostless).0, refusal(&hostless).1), (400, 10400));
    assert_eq!(get(ADMIN, "/client/v4/zones/%FF").await.0, 400);
    assert_eq!(get(ADMIN, "/client/v4/zones?page=0").await.0, 400);
    // Elsewhere nothing has changed.
    assert_eq!(world.get("", "/v1/projects").await.code(), "unauthorized");
    assert_eq!(world.get(ADMIN, "/client/v40").await.code(), "not_found");
}

#[tokio::test]
async fn bodies_that_are_none_are_refused_in_the_envelope() {
    let world = zoned().await;
    let target = format!("/client/v4/zones/{ZONE}/origin_tls_client_auth");
    for (content_type, body, status) in [
        ("text/html", "{}", 415),
        ("text/plain", "{", 400),
        ("application/json", "{", 400),
        ("application/json", "\"x\"", 400),
    ] {
        let request = Request::builder()
            .method("POST")
            .uri(&target)
            .header("host", "localhost")
            .header("authorization", format!("Bearer {TENANT}"))
            .header("content-type", content_type)
            .body(Body::from(body))
            .unwrap();
        let reply = world.ask(request).await;
        assert_eq!((refusal(&reply).0, refusal(&reply).1), (status, 10_000 + u64::from(status)), "{content_type}");
        assert_eq!(reply.headers["content-type"], "application/json");
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up_in_the_envelope() {
    let world = zoned().await;
    let mut limits = world.management.limits.now();
    limits.upload_idle_timeout = std::time::Duration::from_millis(5);
    world.management.limits.replace(limits);
    let never = futures_util::stream::pending::<Result<axum::body::Bytes, std::io::Error>>();
    let request = Request::builder()
        .method("PUT")
        .uri(format!("/client/v4/zones/{ZONE}/origin_tls_client_auth/settings"))
        .header("host", "localhost")
        .header("authorization", format!("Bearer {TENANT}"))
        .header("content-type", "application/json")
        .body(Body::from_stream(never))
        .unwrap();
    let reply = world.ask(request).await;
    assert_eq!((refusal(&reply).0, refusal(&reply).1), (408, 10408));
}

#[tokio::test]
async fn what_could_not_be_stored_is_told_in_the_envelope() {
    let world = world_over(Arc::new(super::vercel::Full(MemoryBackend::default()))).await;
    let project = world.management.registry.find("payments", None, None).unwrap();
    let snapshot = project.snapshot();
    let info = ProjectInfo { zone_id: Some(ZONE.to_owned()), ..ProjectInfo::clone(snapshot.info()) };
    world.management.registry.republish(&project, Snapshot::empty(Arc::new(info), snapshot.anonymous().clone()));
    let target = format!("/client/v4/zones/{ZONE}/origin_tls_client_auth");
    let made = world.material("a");
    let body = json!({"certificate": made["cert"], "private_key": made["key"]});
    let (status, number, said) = refusal(&world.send(ADMIN, "POST", &target, &body).await);
    assert_eq!((status, number), (500, 10500));
    assert!(said.contains("could not be stored; nothing was changed") && !said.contains("secret"), "{said}");
    assert_eq!(result(world.get(ADMIN, &target).await), json!([]));
}

#[tokio::test]
async fn guessing_is_limited_in_the_envelope_as_well() {
    let world = zoned().await;
    // Only a machine that took more than a second for ten of them starts to count again.
    for _ in 0..200 {
        let reply =
            world.with_headers(&[("x-auth-email", "ci@example.com"), ("x-auth-key", "x")], "/client/v4/zones").await;
        if reply.status == 429 {
            assert_eq!(refusal(&reply).1, 10429);
            assert_eq!(reply.headers["retry-after"], "1");
            let right = [("x-auth-email", "ci@example.com"), ("x-auth-key", TENANT)];
            assert_eq!(world.with_headers(&right, "/client/v4/zones").await.status, 200, "a valid one always passes");
            return;
        }
        assert_eq!(refusal(&reply).0, 401);
    }
    panic!("guessing is never limited");
}

#[tokio::test]
async fn a_token_is_sent_as_bearer_or_as_a_key_with_its_email() {
    let world = zoned().await;
    let verify = "/client/v4/user/tokens/verify";
    let ask = async |headers: &[(&str, &str)]| world.with_headers(headers, verify).await;
    let bearer = format!("Bearer {TENANT}");
    let wrong = "Bearer wrong";
    let id = result(ask(&[("authorization", &bearer)]).await)["id"].clone();
    assert_eq!(id.as_str().unwrap().len(), 32);
    assert_eq!(result(ask(&[("x-auth-email", "ci@EXAMPLE.com"), ("x-auth-key", TENANT)]).await)["id"], id);
    // A bearer token goes first, right or wrong.
    let both = [("authorization", bearer.as_str()), ("x-auth-email", "x@y.z"), ("x-auth-key", "wrong")];
    assert_eq!(ask(&both).await.status, 200);
    let both = [("authorization", wrong), ("x-auth-email", "ci@example.com"), ("x-auth-key", TENANT)];
    assert_eq!(ask(&both).await.status, 401);
    // Whatever is wrong with the pair is told in the same words.
    let other_email = ask(&[("x-auth-email", "other@example.com"), ("x-auth-key", TENANT)]).await;
    let other_key = ask(&[("x-auth-email", "ci@example.com"), ("x-auth-key", "wrong")]).await;
    let without_email = ask(&[("x-auth-email", "ci@example.com"), ("x-auth-key", ADMIN)]).await;
    assert_eq!((refusal(&other_email).0, refusal(&other_email).1), (401, 10000));
    assert!(refusal(&other_email).2.contains("the one that the token was given"));
    assert_eq!((&other_email.body, &other_email.body), (&other_key.body, &without_email.body));
    for (headers, says) in [
        (&[("x-auth-key", TENANT)][..], "comes with X-Auth-Email"),
        (&[("x-auth-email", "ci@example.com")], "comes with X-Auth-Key"),
        (&[("x-auth-user-service-key", "v1.0-x")], "X-Auth-User-Service-Key is not taken"),
    ] {
        let reply = ask(headers).await;
        assert_eq!(refusal(&reply).0, 401);
        assert!(refusal(&reply).2.contains(says), "{}", reply.body);
    }
}

#[tokio::test]
async fn a_key_and_an_email_are_of_this_dialect_alone() {
    let world = zoned().await;
    let pair = [("x-auth-email", "ci@example.com"), ("x-auth-key", TENANT)];
    assert_eq!(world.with_headers(&pair, "/v1/projects").await.code(), "unauthorized");
    assert_eq!(world.with_headers(&pair, "/client/v4/zones").await.status, 200);
}

#[tokio::test]
async fn verifies_tokens() {
    let world = zoned().await;
    let reply = world.get(READER, "/client/v4/user/tokens/verify").await;
    assert_eq!(reply.body["messages"], json!([{"code": 10000, "message": "This API Token is valid and active"}]));
    let verified = result(reply);
    assert_eq!((&verified["status"], verified.get("expires_on")), (&json!("active"), None));
    let body = json!({"name": "short", "role": "read", "ttl": 3600});
    let made = world.send(ADMIN, "POST", "/v1/tokens", &body).await.body;
    let verified = result(world.get(made["token"].as_str().unwrap(), "/client/v4/user/tokens/verify").await);
    assert_eq!(verified["expires_on"], made["expiresAt"]);
    assert_eq!(format!("tok_{}", verified["id"].as_str().unwrap()), made["id"].as_str().unwrap());
    let account = format!("/client/v4/accounts/{ACCOUNT}/tokens/verify");
    assert_eq!(result(world.get(READER, &account).await)["status"], "active");
    assert_eq!(refusal(&world.get(PAYMENTS, &account).await).0, 403);
    assert_eq!(refusal(&world.get(ADMIN, &account.replace(ACCOUNT, NOBODYS)).await).0, 404);
    let revoked = world.delete(ADMIN, "/v1/tokens/short").await;
    assert_eq!(revoked.status, 200);
    assert_eq!(world.get(made["token"].as_str().unwrap(), "/client/v4/user/tokens/verify").await.status, 401);
}

#[tokio::test]
async fn accounts_and_zones_follow_the_projects_that_carry_them() {
    let world = zoned().await;
    let accounts = world.get(ADMIN, "/client/v4/accounts").await;
    assert_eq!(
        accounts.body["result_info"],
        json!({"count": 1, "page": 1, "per_page": 1, "total_count": 1, "total_pages": 1})
    );
    let account = json!({"id": ACCOUNT, "name": "pay.example, web.example", "type": "standard"});
    assert_eq!(result(accounts), json!([account]));
    assert_eq!(result(world.get(ADMIN, &format!("/client/v4/accounts/{ACCOUNT}")).await), account);
    // Nobody is told the names of projects out of reach.
    let partly = json!({"id": ACCOUNT, "name": "pay.example", "type": "standard"});
    assert_eq!(result(world.get(PAY, &format!("/client/v4/accounts/{ACCOUNT}")).await), partly);
    assert_eq!(result(world.get(PAY, "/client/v4/accounts").await), json!([partly]));
    assert_eq!(result(world.get(PAYMENTS, "/client/v4/accounts").await), json!([]), "payments carries none");

    let zones = result(world.get(ADMIN, "/client/v4/zones").await);
    let zones = zones.as_array().unwrap();
    assert_eq!(zones.iter().map(|z| z["id"].as_str().unwrap()).collect::<Vec<_>>(), [ZONE, WEB_ZONE]);
    assert_eq!(zones[0], result(world.get(ADMIN, &format!("/client/v4/zones/{ZONE}")).await));
    assert_eq!((&zones[0]["name"], &zones[0]["status"]), (&json!("pay.example"), &json!("active")));
    assert_eq!(zones[0]["account"], json!({"id": ACCOUNT, "name": "pay.example, web.example"}));
    assert_eq!(zones[0]["permissions"], json!(["#zone:read", "#ssl:read", "#ssl:edit"]));
    let seen = result(world.get(PAY, &format!("/client/v4/zones/{ZONE}")).await);
    assert_eq!(seen["account"]["name"], "pay.example");
    assert_eq!(result(world.get(PAYMENTS, "/client/v4/zones").await), json!([]));
}

#[tokio::test]
async fn finds_zones_by_what_is_known_of_them() {
    let world = zoned().await;
    let transferring = json!({"name": "moving.test", "zoneId": "3".repeat(32), "state": "transferring"});
    assert_eq!(world.send(ADMIN, "POST", "/v1/projects", &transferring).await.status, 200);
    let found = async |query: &str| {
        let zones = result(world.get(ADMIN, &format!("/client/v4/zones?{query}")).await);
        zones.as_array().unwrap().iter().map(|z| z["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let account = format!("account.id={ACCOUNT}");
    for (query, names) in [
        ("", "moving.test pay.example web.example"),
        ("name=PAY.example", "pay.example"),
        ("name=pay", ""),
        ("name=contains%3Aexample", "pay.example web.example"),
        (account.as_str(), "pay.example web.example"),
        (&format!("account.id={NOBODYS}"), ""),
        ("account.name=contains:web", "pay.example web.example"),
        ("status=active", "pay.example web.example"),
        ("status=pending", "moving.test"),
        ("status=pending&name=pay.example", ""),
        ("status=pending&name=pay.example&match=any", "moving.test pay.example"),
        ("direction=desc", "web.example pay.example moving.test"),
        ("order=status&direction=desc", "moving.test web.example pay.example"),
        ("per_page=2", "moving.test pay.example"),
        ("per_page=2&page=2", "web.example"),
        ("page=2", ""),
        ("unknown=1", "moving.test pay.example web.example"),
    ] {
        assert_eq!(found(query).await, names, "{query}");
    }
    for wrong in ["status=odd", "match=some", "order=age", "direction=up", "name=a&name=b", "per_page=0"] {
        assert_eq!(refusal(&world.get(ADMIN, &format!("/client/v4/zones?{wrong}")).await).0, 400, "{wrong}");
    }
    assert_eq!(result(world.get(ADMIN, "/client/v4/accounts?page=2").await), json!([]));
    assert_eq!(result(world.get(ADMIN, "/client/v4/accounts?name=starts_with:pay").await)[0]["id"], ACCOUNT);
    assert_eq!(result(world.get(ADMIN, "/client/v4/accounts?name=pay").await), json!([]));
}

#[tokio::test]
async fn what_is_out_of_reach_looks_like_what_does_not_exist() {
    let world = zoned().await;
    let long = "a".repeat(33);
    for what in ["zones", "accounts"] {
        let there = if what == "zones" { WEB_ZONE } else { ACCOUNT };
        let limited = world.get(PAYMENTS, &format!("/client/v4/{what}/{there}")).await;
        assert_eq!((refusal(&limited).0, refusal(&limited).1), (403, 10000));
        for id in [NOBODYS, "x", "..%2Fx", &long, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            let target = format!("/client/v4/{what}/{id}");
            assert_eq!(world.get(PAYMENTS, &target).await.body, limited.body, "{target}");
            let (status, number, said) = refusal(&world.get(ADMIN, &target).await);
            assert_eq!((status, number), (404, 7003), "{target}");
            assert!(said.contains("no project carries this id") == (id == NOBODYS), "{said}");
        }
    }
}
