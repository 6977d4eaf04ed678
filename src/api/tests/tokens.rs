//! `/v1/tokens`: who may do what with it.

use super::*;

const TOKENS: &str = "/v1/tokens";

impl World {
    async fn token(&self, by: &str, body: Value) -> Reply {
        self.send(by, "POST", TOKENS, &body).await
    }

    /// Makes one and gives back its text.
    async fn made(&self, body: Value) -> String {
        let reply = self.token(ADMIN, body).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.body["token"].as_str().unwrap().to_owned()
    }

    async fn names(&self, by: &str) -> Vec<String> {
        let listed = self.get(by, TOKENS).await.body;
        let tokens = listed["tokens"].as_array().unwrap();
        tokens.iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect()
    }

    fn id(&self, project: &str) -> String {
        self.management.registry.find(project, None, None).unwrap().id().to_string()
    }
}

#[tokio::test]
async fn shows_a_token_once_and_ends_it_at_once() {
    let world = world().await;
    let body = json!({"name": "ci", "role": "read", "email": "ci@example.com", "projects": ["payments"], "ttl": 3600});
    let made = world.token(ADMIN, body).await;
    assert_eq!(made.status, 200, "{}", made.body);
    assert_eq!(made.headers["cache-control"], "no-store");
    let text = made.body["token"].as_str().unwrap();
    assert!(text.starts_with("egret_"));
    let mut shown = made.body.clone();
    shown.as_object_mut().unwrap().remove("token");
    assert_eq!((&shown["name"], &shown["role"], &shown["source"]), (&json!("ci"), &json!("read"), &json!("api")));
    assert_eq!((&shown["email"], &shown["projects"]), (&json!("ci@example.com"), &json!([world.id("payments")])));
    assert!(shown["id"].as_str().unwrap().starts_with("tok_"));
    assert!(shown["createdAt"].is_string() && shown["expiresAt"].as_str() > shown["createdAt"].as_str());

    let listed = world.get(ADMIN, TOKENS).await.body;
    assert!(!listed.to_string().contains(text), "never again");
    let tokens = listed["tokens"].as_array().unwrap();
    assert!(tokens.contains(&shown));
    let reader = tokens.iter().find(|t| t["name"] == READER).unwrap();
    assert_eq!((&reader["source"], &reader["role"]), (&json!("file"), &json!("read")));
    assert!(reader.get("projects").is_none() && reader.get("createdAt").is_none() && reader.get("expiresAt").is_none());

    assert_eq!(world.get(text, "/v1/projects/payments/bindings").await.status, 200);
    assert_eq!(world.get(text, "/v1/projects/default/bindings").await.status, 403);
    let revoked = world.delete(ADMIN, "/v1/tokens/ci").await;
    assert_eq!((revoked.status.as_u16(), revoked.body), (200, json!({})));
    assert_eq!(world.get(text, "/v1/projects/payments/bindings").await.status, 401);
    assert_eq!(world.delete(ADMIN, "/v1/tokens/ci").await.status, 404);
    assert!(!world.names(ADMIN).await.contains(&"ci".to_owned()));
}

#[tokio::test]
async fn is_for_administrators() {
    let world = world().await;
    let body = json!({"name": "x", "role": "proxy"});
    for by in [PAYMENTS, READER] {
        assert_eq!(world.token(by, body.clone()).await.status, 403, "{by}");
        assert_eq!(world.get(by, TOKENS).await.status, 403, "{by}");
        assert_eq!(world.delete(by, "/v1/tokens/x").await.status, 403, "{by}");
    }
    assert_eq!(world.get("", TOKENS).await.status, 401);
    assert_eq!(world.get(PROXY, TOKENS).await.status, 403);
}

#[tokio::test]
async fn refuses_with_the_field_and_what_to_do() {
    let world = world().await;
    let unknown = world.token(ADMIN, json!({"name": "x", "role": "read", "projects": ["payments", "SECRET"]})).await;
    assert_eq!((unknown.status.as_u16(), unknown.code()), (400, "bad_request"));
    let said = unknown.message();
    assert!(said.starts_with("projects[1]: there is no project of this id") && !said.contains("SECRET"), "{said}");
    world.made(json!({"name": "x", "role": "read"})).await;
    let twice = world.token(ADMIN, json!({"name": "x", "role": "admin"})).await;
    assert_eq!((twice.status.as_u16(), twice.code()), (409, "conflict"));
    let taken = world.token(ADMIN, json!({"name": READER, "role": "read"})).await;
    assert_eq!(taken.status, 409, "a token of the file has it");
    let file = world.delete(ADMIN, &format!("/v1/tokens/{READER}")).await;
    assert_eq!((file.status.as_u16(), file.code()), (403, "forbidden"));
    assert_eq!(file.message(), format!("token {READER} is declared in egret.toml; change it there"));
    let method = world.send(ADMIN, "PUT", TOKENS, &json!({})).await;
    assert_eq!(method.status, 405);
}

#[tokio::test]
async fn nobody_gets_more_than_they_have() {
    let world = world().await;
    world.made(json!({"name": "wide", "role": "read"})).await;
    world.made(json!({"name": "other", "role": "read", "projects": ["default"]})).await;
    world.made(json!({"name": "straddling", "role": "read", "projects": ["default", "payments"]})).await;
    for (projects, status) in [
        (json!(["payments"]), 200),
        (json!(["default"]), 403),
        (json!(["payments", "default"]), 403),
        // Existing or not is not told.
        (json!(["unknown"]), 403),
        (Value::Null, 400),
    ] {
        let body = json!({"name": "new", "role": "admin", "projects": projects});
        assert_eq!(world.token(LANDLORD, body).await.status, status, "{projects}");
    }
    let unlimited = world.token(LANDLORD, json!({"name": "y", "role": "proxy"})).await;
    assert_eq!(unlimited.status, 403, "left out means all");
    assert!(unlimited.message().contains("limited to projects"));
    // Of the file, those limited to payments; of the API, the one made above.
    assert_eq!(world.names(LANDLORD).await, [LANDLORD, "new", PAYMENTS]);
    for name in ["wide", "other", "straddling", "unknown", READER] {
        let refused = world.delete(LANDLORD, &format!("/v1/tokens/{name}")).await;
        assert_eq!(
            (refused.status.as_u16(), refused.message()),
            (403, "your token does not reach this token"),
            "{name}"
        );
    }
    assert_eq!(world.delete(LANDLORD, "/v1/tokens/new").await.status, 200);
    assert_eq!(world.names(ADMIN).await.len(), 5 + 3);
}

#[tokio::test]
async fn a_token_that_expires_makes_none_that_outlives_it() {
    let world = world().await;
    let short = world.made(json!({"name": "short", "role": "admin", "ttl": 3600})).await;
    let make = |name: &str, ttl: Value| {
        let mut body = json!({"name": name, "role": "proxy", "ttl": ttl});
        if body["ttl"].is_null() {
            body.as_object_mut().unwrap().remove("ttl");
        }
        let (world, short) = (&world, short.clone());
        async move { world.token(&short, body).await }
    };
    assert_eq!(make("a", json!(60)).await.status, 200);
    assert_eq!(make("b", json!(7200)).await.status, 403);
    let never = make("c", Value::Null).await;
    assert_eq!(never.status, 403);
    assert!(never.message().contains("may outlive it"), "{}", never.message());
}

#[tokio::test]
async fn an_expired_token_is_good_for_nothing_and_not_listed() {
    let world = world().await;
    let text = world.made(json!({"name": "short", "role": "read", "ttl": 3600})).await;
    assert_eq!(world.get(&text, "/v1/status").await.status, 200);
    // An hour later.
    let registry = &world.management.registry;
    let (sha256, token) = registry.tokens().into_iter().find(|(_, t)| t.name == "short").unwrap();
    let past = Some(time::OffsetDateTime::now_utc() - time::Duration::SECOND);
    registry.insert_token(sha256, Token { expires_at: past, ..Token::clone(&token) });
    assert_eq!(world.get(&text, "/v1/status").await.status, 401);
    assert!(!world.names(ADMIN).await.contains(&"short".to_owned()));
    assert_eq!(world.token(ADMIN, json!({"name": "short", "role": "read"})).await.status, 200, "its name is free");
}

/// A body that takes its time: before it comes, something happens.
struct Late<F>(Option<(F, bytes::Bytes)>);

impl<F: FnOnce() + Unpin> hyper::body::Body for Late<F> {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        std::task::Poll::Ready(self.0.take().map(|(meanwhile, data)| {
            meanwhile();
            Ok(hyper::body::Frame::data(data))
        }))
    }
}

#[tokio::test]
async fn a_token_that_ends_while_the_body_is_on_its_way_changes_nothing() {
    let material = world().await.material("c");
    for (method, target, body) in [
        ("POST", TOKENS, json!({"name": "heir", "role": "admin"})),
        ("POST", "/v1/projects", json!({"name": "heir"})),
        ("POST", "/v1/projects/default/client-cert", material),
        ("PUT", "/v1/projects/default/bindings", json!({"origin": "https://a.test", "certId": null})),
    ] {
        let world = world().await;
        let registry = world.management.registry.clone();
        let revoke = move || {
            let admin = digest::digest(&digest::SHA256, ADMIN.as_bytes()).as_ref().try_into().unwrap();
            registry.remove_token(&admin);
        };
        let request = Request::builder().method(method).uri(target).header("host", "localhost");
        let request = request.header("authorization", format!("Bearer {ADMIN}"));
        let request = request.header("content-type", "application/json");
        let request = request.body(Body::new(Late(Some((revoke, body.to_string().into()))))).unwrap();
        let response = TowerToHyperService::new(world.router.clone()).call(request).await.unwrap();
        assert_eq!(response.status(), 401, "{method} {target}");
        let registry = &world.management.registry;
        assert!(registry.tokens().iter().all(|(_, token)| token.name != "heir"));
        assert!(registry.called("heir").is_empty());
        let default = registry.find("default", None, None).unwrap();
        assert_eq!((default.load().certificates().len(), default.load().bindings().len()), (0, 0));
    }
}
