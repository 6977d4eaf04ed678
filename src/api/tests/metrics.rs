//! `/metrics`, and the listener that serves nothing but it and probes.

use axum::response::Response;

use super::*;
use crate::domain::Code;
use crate::upstream::PoolState;

async fn ask(router: Router, method: &str, target: &str, fields: &[(&str, &str)]) -> (Response<()>, String) {
    let request = fields.iter().fold(Request::builder().method(method).uri(target), |r, (k, v)| r.header(*k, *v));
    let response = TowerToHyperService::new(router).call(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    (Response::from_parts(parts, ()), String::from_utf8(bytes.to_vec()).unwrap())
}

impl World {
    async fn metrics(&self, token: &str) -> (u16, String) {
        let token = format!("Bearer {token}");
        let fields = [("host", "localhost"), ("authorization", token.as_str())];
        let (head, text) = ask(self.router.clone(), "GET", "/metrics", &fields).await;
        (head.status().as_u16(), text)
    }
}

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
}

#[tokio::test]
async fn tells_readers_everything_in_numbers() {
    let world = world().await;
    let id = world.uploaded("payments", "https://a.test").await;
    world.management.info.set_pool(|| PoolState { idle: 3, waiting: 2 });
    world.management.info.reach(Stage::Running);
    let metrics = &world.management.metrics;
    metrics.answered(StatusCode::OK);
    metrics.refused(Code::NetRefused);
    metrics.handshakes_resumed.add();
    let (status, text) = world.metrics(READER).await;
    assert_eq!(status, 200);
    for line in [
        "# TYPE egret_requests counter",
        r#"egret_requests_total{side="origin",class="2xx",code=""} 1"#,
        r#"egret_requests_total{side="origin",class="5xx",code=""} 0"#,
        r#"egret_requests_total{side="egret",class="5xx",code="net.refused"} 1"#,
        r#"egret_upstream_handshakes_total{result="resumed"} 1"#,
        "egret_upstream_idle_connections 3",
        "egret_upstream_waiting_requests 2",
        r#"egret_certificates{state="valid"} 1"#,
        "egret_certificates_not_listed 0",
        "egret_projects 2",
        "egret_tokens 5",
        "egret_ready 1",
        r#"egret_store_info{backend="memory"} 1"#,
        &format!("egret_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
        "# EOF",
    ] {
        has(&text, line);
    }
    let project = world.management.registry.find("payments", None, None).unwrap().id().to_string();
    let labels = format!("egret_certificate_expires_in_seconds{{project=\"{project}\",certificate=\"{id}\"}} ");
    let left: i64 = text.lines().find_map(|l| l.strip_prefix(&labels)).expect(&labels).parse().unwrap();
    assert!((30 * 86_400..=30 * 86_400 + 3600).contains(&left), "{left}");
    for secret in ["a.test", "payments", ADMIN] {
        assert!(!text.contains(secret), "{secret} in\n{text}");
    }
    assert_eq!(world.metrics(PROXY).await.0, 403);
    assert_eq!(world.metrics("guess").await.0, 401);
}

/// The module's table is what operators read: it has every series, and no more.
#[tokio::test]
async fn shows_what_the_documentation_lists() {
    let world = world().await;
    world.uploaded("payments", "https://a.test").await;
    let (_, text) = world.metrics(READER).await;
    let source = include_str!("../../observe/metrics.rs");
    let (documentation, table) = source.split_once("use std::sync").unwrap();
    for line in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        let line_of_table = name
            .strip_prefix("egret_")
            .is_some_and(|n| table.contains(&format!("    {n};")) || table.contains(&format!("    {n}: gauge;")));
        let listed = documentation.contains(&format!("`{name}`")) || documentation.contains(&format!("`{name}_total`"));
        assert!(line_of_table || listed, "{name} is not in the table of observe/metrics.rs");
    }
    for listed in documentation.split('`').filter(|n| n.starts_with("egret_") && !n.contains("NAME")) {
        assert!(text.contains(&format!("\n{listed}")), "{listed} is listed and not shown");
    }
}

#[tokio::test]
async fn tells_limited_tokens_of_their_own_projects_only() {
    let world = world().await;
    let (theirs, other) =
        (world.uploaded("payments", "https://a.test").await, world.uploaded("default", "https://b.test").await);
    let (status, text) = world.metrics(PAYMENTS).await;
    assert_eq!(status, 200);
    assert!(text.contains(&theirs) && !text.contains(&other), "{text}");
    has(&text, r#"egret_certificates{state="valid"} 1"#);
    assert!(!text.contains("egret_requests") && !text.contains("egret_projects"), "{text}");
}

#[tokio::test]
async fn lists_those_that_expire_first_and_counts_the_rest() {
    let world = world().await;
    let ids = [world.uploaded("default", "https://a.test").await, world.uploaded("payments", "https://b.test").await];
    let projects = world.management.registry.projects();
    let now = time::OffsetDateTime::now_utc();
    for (most, listed) in [(0, 0), (1, 1), (2, 2), (1000, 2)] {
        let families = super::super::metrics::certificates(&projects, now, most);
        assert_eq!(families[1].samples.len(), listed);
        assert_eq!(families[2].samples[0].value, 2 - listed as i64);
    }
    let late = super::super::metrics::certificates(&projects, now + time::Duration::days(40), 2);
    assert_eq!(late[0].samples.iter().map(|s| s.value).collect::<Vec<_>>(), [0, 2, 0]);
    assert!(late[1].samples.iter().all(|s| s.value < 0 && ids.contains(&s.labels[1].1)));
    let order: Vec<_> = late[1].samples.iter().map(|s| s.value).collect();
    assert!(order.is_sorted());
}

#[tokio::test]
async fn counts_what_is_draining_and_says_until_when() {
    let world = world().await;
    world.uploaded("payments", "https://a.test").await;
    let project = world.management.registry.find("payments", None, None).unwrap();
    let certificate = project.snapshot().certificates().pop().unwrap();
    for life in [certificate.bound.life(), certificate.bound.life(), certificate.general.life()] {
        life.opened();
    }
    certificate.bound.life().became_upgraded();
    let (_, text) = world.metrics(READER).await;
    for line in ["egret_draining_certificates 0", "egret_draining_ends_in_seconds 0", "egret_retired_forgotten_total 0"]
    {
        has(&text, line);
    }
    let mut body = world.material("next");
    body["origin"] = "https://a.test".into();
    world.send(ADMIN, "POST", "/v1/projects/payments/client-cert", &body).await;
    let (_, text) = world.metrics(READER).await;
    for line in [
        "egret_draining_certificates 1",
        r#"egret_draining_connections{state="exchange"} 2"#,
        r#"egret_draining_connections{state="upgraded"} 1"#,
    ] {
        has(&text, line);
    }
    let left: i64 =
        text.lines().find_map(|l| l.strip_prefix("egret_draining_ends_in_seconds ")).unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&left), "{left}");
}

#[tokio::test]
async fn speaks_the_text_that_is_asked_for() {
    let world = world().await;
    let ask = |accept| {
        let token = format!("Bearer {READER}");
        let router = world.router.clone();
        async move {
            let fields = [("host", "localhost"), ("authorization", token.as_str()), ("accept", accept)];
            ask(router, "GET", "/metrics", &fields).await
        }
    };
    let (head, text) = ask("*/*").await;
    assert_eq!(head.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(text.ends_with("# EOF\n"));
    let (head, text) = ask("text/plain").await;
    assert_eq!(head.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(text.contains("# TYPE egret_resent_total counter\n") && !text.contains("# EOF"));
}

#[tokio::test]
async fn serves_probes_and_metrics_without_a_token_and_nothing_else() {
    let world = world().await;
    let router = || super::super::health::router(world.management.clone());
    world.management.info.reach(Stage::Running);
    // By whatever name a kubelet has for the pod.
    let named = [("host", "10.1.2.3.pods.cluster.local:9091")];
    for (path, part) in [("/healthz", "ready"), ("/readyz", "ready"), ("/metrics", "egret_build_info")] {
        let (head, text) = ask(router(), "GET", path, &named).await;
        assert_eq!(head.status(), 200, "{path}");
        assert_eq!(head.headers()["cache-control"], "no-store");
        assert!(text.contains(part), "{path}: {text}");
        let (head, text) = ask(router(), "HEAD", path, &named).await;
        assert_eq!((head.status().as_u16(), text.as_str()), (200, ""), "{path}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let (head, _) = ask(router(), method, path, &named).await;
            assert_eq!((head.status().as_u16(), &head.headers()["allow"]), (405, &"GET,HEAD".parse().unwrap()));
        }
    }
    let token = format!("Bearer {ADMIN}");
    for path in ["/", "/v1/status", "/v1/tokens", "/v1/projects", "/v1/ca", "/metrics/", "/healthz/x"] {
        let (head, text) = ask(router(), "GET", path, &[("host", "localhost"), ("authorization", &token)]).await;
        assert_eq!(head.status(), 404, "{path}");
        assert!(text.contains("not_found"), "{text}");
    }
    world.management.info.reach(Stage::Draining);
    assert_eq!(ask(router(), "GET", "/readyz", &named).await.0.status(), 503);
    assert_eq!(ask(router(), "GET", "/healthz", &named).await.0.status(), 200);
    has(&ask(router(), "GET", "/metrics", &named).await.1, "egret_ready 0");
}
