//! `/v1/explain` as a client sees it. What the data plane would say is played here.

use super::*;
use crate::domain::{Code, DefaultScope, HttpTarget, Lift, OnExpiry, Origin, Pattern, ProjectInfo};
use crate::policy::EgressPolicy;
use crate::registry::{Foresight, Refused, Remembered, Snapshot, Treatment, WayIn};
use crate::upstream::{Destination, Route};

/// Remembers of one origin that it did not ask.
struct Played;

impl Foresight for Played {
    fn ways(&self, _: &Snapshot, origin: &Origin, plain: Option<&HttpTarget>) -> Vec<WayIn> {
        let request = format!("{} {origin}", if plain.is_some() { "GET" } else { "CONNECT" });
        vec![WayIn { listener: "dev".to_owned(), request, treatment: Treatment::AskFirst, why: "played".to_owned() }]
    }
    fn refuses(&self, snapshot: &Snapshot, origin: &Origin) -> Option<Refused> {
        let selection = snapshot.select(origin);
        let expired = selection.tls.identity()?.info().subject.contains("old");
        let refused =
            Refused { code: Code::MtlsIdentityExpired, detail: "it expired".to_owned(), fix: Some("mend".to_owned()) };
        (expired && snapshot.info().on_expiry == OnExpiry::Refuse).then_some(refused)
    }
    fn remembers(&self, _: &Snapshot, origin: &Origin) -> Option<Remembered> {
        let known = Remembered { asked: false, cas: Vec::new(), ca_count: 0, presented: None, shown: false };
        (origin.host().as_str() == "known.test").then_some(known)
    }
}

pub(super) async fn explaining(deny: &[&str]) -> World {
    let world = world().await;
    let egress = EgressSettings {
        allow: vec![Pattern::Default],
        deny: deny.iter().map(|p| Pattern::parse(p).unwrap()).collect(),
        ..EgressSettings::default()
    };
    let policy = Arc::new(EgressPolicy::new(&egress));
    world.management.info.set_explainer(Explainer::new(policy, Arc::new(Played)));
    world
}

pub(super) async fn explained(world: &World, url: &str) -> Value {
    let reply = world.get(READER, &format!("/v1/explain?project=payments&url={url}")).await;
    assert_eq!(reply.status, 200, "{url}: {}", reply.body);
    reply.body
}

#[tokio::test]
async fn says_which_certificate_and_why() {
    let world = explaining(&[]).await;
    let id = world.uploaded("payments", "https://a.test").await;
    let told = explained(&world, "https://a.test/path?query").await;
    assert_eq!(
        (&told["outcome"], &told["rule"], &told["live"]),
        (&json!("certificate"), &json!("exact"), &json!(true))
    );
    assert_eq!(told["certificate"]["id"], id);
    assert_eq!((&told["certificate"]["status"], &told["certificate"]["daysLeft"]), (&json!("usable"), &json!(30)));
    assert_eq!(told["binding"], json!({"pattern": "https://a.test", "source": "api", "tls13Only": false}));
    let summary = format!("https://a.test:443 -> certificate {id} (exact binding https://a.test), expires in 30 days");
    assert_eq!(told["summary"], summary);
    let chosen: Vec<bool> = told["trace"].as_array().unwrap().iter().map(|s| s["chosen"] == true).collect();
    assert_eq!(chosen, [true, false, false, false, false, false]);
    assert_eq!(told["ways"][0]["treatment"], "askedFirst");
    assert!(told["fix"].is_null() && told["refusal"].is_null() && told["remembered"].is_null());

    let lifted = explained(&world, "http://a.test").await;
    assert_eq!((&lifted["outcome"], &lifted["origin"]), (&json!("certificate"), &json!("https://a.test")));
    assert!(
        lifted["summary"].as_str().unwrap().starts_with("http://a.test:80 -> lifted to https://a.test:443 -> cert")
    );
}

#[tokio::test]
async fn says_why_there_is_none() {
    let world = explaining(&["https://denied.test"]).await;
    let outcome = async |url: &str| {
        let told = explained(&world, url).await;
        (told["outcome"].as_str().unwrap().to_owned(), told)
    };
    let (nothing, told) = outcome("https://b.test").await;
    assert_eq!((nothing.as_str(), &told["rule"]), ("nothing", &json!("nothing")));
    assert!(told["notes"][0].as_str().unwrap().contains("payments has no bindings at all"));
    assert_eq!(
        told["fix"],
        "egret certs upload --project 'payments' --origin 'https://b.test' --cert FILE --key FILE --ca FILE"
    );

    world.uploaded("payments", "https://b.test:8443").await;
    let (nothing, told) = outcome("https://b.test").await;
    assert_eq!((nothing.as_str(), &told["nearMisses"][0]["pattern"]), ("nothing", &json!("https://b.test:8443")));
    assert!(told["notes"][0].as_str().unwrap().contains("it is for port 8443, and this is port 443"));
    assert_eq!(outcome("http://b.test").await.0, "plain");

    let body = json!({"origin": "https://none.test", "certId": null});
    assert_eq!(world.send(PAYMENTS, "PUT", "/v1/projects/payments/bindings", &body).await.status, 200);
    let (none, told) = outcome("none.test").await;
    assert_eq!((none.as_str(), &told["rule"], &told["certificate"]), ("none", &json!("none"), &Value::Null));

    let (denied, told) = outcome("denied.test").await;
    assert_eq!((denied.as_str(), &told["policy"]["code"]), ("denied", &json!("policy.origin_denied")));
    assert_eq!(told["ways"][0]["treatment"], "refused");
    // An address is judged where the URL has one.
    assert_eq!(outcome("169.254.169.254").await.1["policy"]["code"], "policy.address_denied");

    let mut body = world.material("old");
    body["origin"] = "https://old.test".into();
    assert_eq!(world.send(PAYMENTS, "POST", "/v1/projects/payments/client-cert", &body).await.status, 200);
    let (refused, told) = outcome("old.test").await;
    assert_eq!((refused.as_str(), &told["refusal"]["code"]), ("refused", &json!("mtls.identity_expired")));
    assert_eq!(told["fix"], "mend");
}

#[tokio::test]
async fn says_to_whom_the_project_default_is_shown() {
    let world = explaining(&[]).await;
    world.uploaded("payments", "*").await;
    let told = explained(&world, "any.test").await;
    assert_eq!(
        (&told["rule"], &told["scope"]["applies"], &told["scope"]["scope"]),
        (&json!("default"), &json!(true), &json!("any"))
    );
    assert_eq!(explained(&world, "http://any.test").await["outcome"], "plain", "the default lifts nothing");
    let known = explained(&world, "known.test").await;
    assert_eq!(
        known["remembered"],
        json!({"asked": false, "acceptableCas": [], "acceptableCaCount": 0, "shown": false})
    );
    assert!(known["notes"][0].as_str().unwrap().contains("did not ask for a certificate"));

    let project = world.management.registry.find("payments", None, None).unwrap();
    let info = project.snapshot().info().clone();
    let listed = DefaultScope::Listed(vec![Pattern::parse("https://in.test").unwrap()]);
    let mut edit = project.snapshot().edit();
    edit.set_info(Arc::new(ProjectInfo { default_scope: listed, ..ProjectInfo::clone(&info) }));
    project.publish(edit.finish());
    assert_eq!(explained(&world, "in.test").await["outcome"], "certificate");
    let out = explained(&world, "out.test").await;
    assert_eq!((&out["outcome"], &out["scope"]["withheld"]), (&json!("withheld"), &json!(true)));
    assert_eq!(out["fix"], "add \"https://out.test\" to default.origins of the project");
}

#[tokio::test]
async fn explains_only_what_the_caller_reaches_and_repeats_nothing() {
    let world = explaining(&[]).await;
    let status =
        async |token: &str, query: &str| world.get(token, &format!("/v1/explain{query}")).await.status.as_u16();
    assert_eq!(status("", "?url=a.test").await, 401);
    assert_eq!(status(PROXY, "?url=a.test").await, 403);
    assert_eq!(status(READER, "?url=a.test").await, 200, "project default");
    assert_eq!(status(PAYMENTS, "?url=a.test").await, 403, "not its project");
    assert_eq!(status(PAYMENTS, "?url=a.test&project=unknown").await, 403);
    assert_eq!(status(PAYMENTS, "?url=a.test&project=payments").await, 200);
    assert_eq!(status(READER, "?url=a.test&project=unknown").await, 404);
    assert_eq!(status(READER, "").await, 400);
    for bad in ["https://user:SECRET@a.test", "ftp://SECRET.test", "https://SECRET..test"] {
        let reply = world.get(READER, &format!("/v1/explain?url={bad}")).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (400, "bad_request"), "{bad}");
        assert!(reply.message().starts_with("url: ") && !reply.message().contains("SECRET"), "{}", reply.body);
    }
    let early = super::world().await;
    assert_eq!(early.get(READER, "/v1/explain?url=a.test").await.status, 503, "before everything is wired");
}

/// Changes what the project says.
fn change(world: &World, change: impl FnOnce(&mut ProjectInfo)) {
    let project = world.management.registry.find("payments", None, None).unwrap();
    let mut info = ProjectInfo::clone(project.snapshot().info());
    change(&mut info);
    let mut edit = project.snapshot().edit();
    edit.set_info(Arc::new(info));
    project.publish(edit.finish());
}

#[tokio::test]
async fn says_why_plain_http_is_lifted_or_not() {
    let world = explaining(&[]).await;
    let id = world.uploaded("payments", "https://no.test").await;
    let bind = async |certificate: &Value, lift: bool| {
        let body = json!({"origin": "https://no.test", "certId": certificate, "lift": lift});
        assert_eq!(world.send(PAYMENTS, "PUT", "/v1/projects/payments/bindings", &body).await.status, 200);
    };
    let told = async |url: &str| {
        let told = explained(&world, url).await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&told["outcome"]), text(&told["summary"]), text(&told["notes"][0]), told["fix"].clone())
    };
    let (outcome, summary, ..) = told("http://no.test").await;
    assert!(outcome == "certificate" && summary.contains("lifted to https://no.test:443"), "{summary}");

    bind(&json!(id), false).await;
    let (outcome, summary, note, fix) = told("http://no.test").await;
    assert_eq!((outcome.as_str(), &fix), ("plain", &json!("request https://no.test instead")));
    assert!(summary.ends_with(": its binding says lift = false"), "{summary}");
    assert!(note.ends_with("the binding of https://no.test says lift = false"), "{note}");
    assert_eq!(told("https://no.test").await.0, "certificate", "https is no matter of lifting");

    bind(&Value::Null, true).await;
    let (outcome, summary, _, fix) = told("http://no.test").await;
    assert_eq!((outcome.as_str(), fix), ("plain", Value::Null), "somebody decided that");
    assert!(summary.ends_with(": a binding says that nothing is presented there"), "{summary}");

    change(&world, |info| info.lift = Lift::Always);
    assert_eq!(told("http://no.test").await.0, "plain", "none is never lifted");
    let lifted = explained(&world, "http://other.test").await;
    assert_eq!((&lifted["outcome"], &lifted["origin"]), (&json!("nothing"), &json!("https://other.test")));
    assert!(
        lifted["summary"].as_str().unwrap().starts_with("http://other.test:80 -> lifted to https://other.test:443")
    );
    assert_eq!(lifted["notes"][0], "it is lifted because the project says lift = \"always\"");

    bind(&json!(id), true).await;
    change(&world, |info| info.lift = Lift::Never);
    let (outcome, summary, _, fix) = told("http://no.test").await;
    assert_eq!((outcome.as_str(), fix), ("plain", json!("request https://no.test instead")));
    assert!(summary.ends_with(": the project says lift = \"never\""), "{summary}");
}

#[tokio::test]
async fn says_which_way_leads_there() {
    let world = world().await;
    let egress = EgressSettings {
        allow: vec![Pattern::Default],
        deny: vec![Pattern::parse("https://denied.test").unwrap()],
        ..EgressSettings::default()
    };
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let route = {
        let asked = asked.clone();
        move |to: &Destination| {
            asked.lock().unwrap().push(to.to_string());
            Route {
                parent: Some("http://proxy.test:3128".into()),
                rule: Some(1),
                resolved_by_parent: to.host().as_str() == "far.test",
                why: "its origins name it",
            }
        }
    };
    let explainer = Explainer::new(Arc::new(EgressPolicy::new(&egress)), Arc::new(Played)).with_route(route);
    world.management.info.set_explainer(explainer);
    let far = explained(&world, "far.test:8443").await;
    assert_eq!(
        far["route"],
        json!({"summary": "through http://proxy.test:3128 (egress.parent[1]: its origins name it)",
            "parent": "http://proxy.test:3128", "rule": 1, "resolvedByParent": true, "why": "its origins name it"})
    );
    assert!(far["notes"].to_string().contains("http://proxy.test:3128 resolves the name"), "{far}");
    let near = explained(&world, "http://near.test").await;
    assert!(near["notes"].to_string().contains("no name was resolved"), "{near}");
    world.uploaded("payments", "https://near.test").await;
    explained(&world, "http://near.test").await;
    assert!(explained(&world, "denied.test").await["route"].is_null(), "nothing goes there");
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked, ["https://far.test:8443", "http://near.test", "https://near.test"], "where it really goes");
}
