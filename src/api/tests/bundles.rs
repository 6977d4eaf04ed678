//! CA bundles of an account, bound to servers of a project.

use super::explain::explaining;
use super::*;
use crate::domain::CertificateId;
use crate::pki::pem;
use crate::registry::AccountCertificate;
use crate::registry::testing::certificate;

const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";
const FIRST: &str = "b0000000000000000000000000000001";
const SECOND: &str = "b0000000000000000000000000000002";
const TARGET: &str = "/v1/projects/shop/bindings";

/// A project `shop` of an account that holds two bundles.
async fn shop(world: World) -> World {
    let made = world.send(ADMIN, "POST", "/v1/projects", &json!({"name": "shop", "accountId": ACCOUNT})).await;
    assert_eq!(made.status, 200, "{}", made.body);
    for name in [FIRST, SECOND] {
        let held = AccountCertificate {
            info: certificate(name).info.clone(),
            ca: true,
            name: None,
            pem: world.ca.clone(),
            digest: [0; 32],
            chain: [0; 32],
            by: String::new(),
            updated_at: time::OffsetDateTime::UNIX_EPOCH,
            identity: None,
            certificates: pem::certificates(&world.ca).unwrap(),
        };
        world.management.control.accounts().insert(ACCOUNT, Arc::new(held));
    }
    world
}

impl World {
    async fn vouch(&self, origin: &str, id: &str) -> Reply {
        self.send(ADMIN, "PUT", TARGET, &json!({"origin": origin, "certId": id})).await
    }

    async fn drop_bundle(&self, query: &str) -> Reply {
        self.delete(ADMIN, &format!("{TARGET}?{query}")).await
    }

    /// `ORIGIN ID` of each, CA bundles with a mark.
    async fn bound(&self) -> Vec<String> {
        let listed = self.get(READER, TARGET).await.body;
        let shown = |row: &Value| {
            let mark = if row.get("ca") == Some(&json!(true)) { " ca" } else { "" };
            format!("{} {}{mark}", row["origin"].as_str().unwrap(), row["certId"].as_str().unwrap_or("none"))
        };
        listed["bindings"].as_array().unwrap().iter().map(shown).collect()
    }
}

#[tokio::test]
async fn a_bundle_is_bound_beside_what_is_presented_there() {
    let world = shop(world().await).await;
    let id = world.uploaded("shop", "https://a.test").await;
    let bound = world.vouch("A.test", FIRST).await;
    let wanted = json!({"updated": false, "origin": "https://a.test", "certId": FIRST, "ca": true});
    assert_eq!((bound.status.as_u16(), bound.body), (200, wanted));
    assert_eq!(world.vouch("https://a.test", FIRST).await.body["updated"], true);
    let shown = world.get(READER, &format!("/v1/projects/shop/certificates/{FIRST}")).await;
    let told = shown.body["error"]["message"].as_str().unwrap();
    assert!(shown.status == 404 && told.contains("it is a CA bundle") && told.contains("mtls_certificates"), "{told}");
    for (origin, bundle) in [("https://a.test", SECOND), ("*", FIRST)] {
        assert_eq!(world.vouch(origin, bundle).await.status, 200);
    }
    let all = [
        format!("* {FIRST} ca"),
        format!("https://a.test {id}"),
        format!("https://a.test {FIRST} ca"),
        format!("https://a.test {SECOND} ca"),
    ];
    assert_eq!(world.bound().await, all);
    let certs = world.get(READER, "/v1/projects/shop/client-cert").await.body;
    assert_eq!(certs["clientCerts"].as_array().unwrap().len(), 1, "no bundle is a client certificate");

    // Without an id it is what is presented; then there are two, and it has to be said which; then the one that is left.
    assert_eq!(world.drop_bundle("origin=a.test").await.body, json!({"origin": "https://a.test"}));
    let which = world.drop_bundle("origin=a.test").await;
    assert_eq!(which.status, 400);
    assert!(which.message().contains("say with certId which one"), "{}", which.message());
    let unbound = world.drop_bundle(&format!("origin=a.test&certId={FIRST}")).await;
    assert_eq!(unbound.body, json!({"origin": "https://a.test", "certId": FIRST}));
    assert_eq!(world.drop_bundle(&format!("origin=a.test&certId={FIRST}")).await.status, 404);
    assert_eq!(world.drop_bundle("origin=a.test").await.body, json!({"origin": "https://a.test", "certId": SECOND}));
    assert_eq!(world.drop_bundle("origin=a.test").await.status, 404);
    assert_eq!(world.bound().await, [format!("* {FIRST} ca")]);

    // With its id what is presented can be named, too.
    let put = world.send(ADMIN, "PUT", TARGET, &json!({"origin": "b.test", "certId": id})).await;
    assert_eq!(put.body, json!({"updated": false, "origin": "https://b.test", "certId": id}));
    assert_eq!(
        world.drop_bundle(&format!("origin=b.test&certId={id}")).await.body,
        json!({"origin": "https://b.test"})
    );
}

#[tokio::test]
async fn what_means_nothing_for_a_bundle_and_what_is_no_bundle_of_the_account_is_refused() {
    let world = shop(world().await).await;
    for (field, value) in [("lift", json!(true)), ("tls13Only", json!(false))] {
        let mut body = json!({"origin": "a.test", "certId": FIRST});
        body[field] = value;
        let refused = world.send(ADMIN, "PUT", TARGET, &body).await;
        assert_eq!(refused.status, 400, "{field}");
        assert!(refused.message().contains(field), "{}", refused.message());
    }
    let other = json!({"origin": "a.test", "certId": FIRST});
    assert_eq!(world.send(ADMIN, "PUT", "/v1/projects/payments/bindings", &other).await.status, 404);
    assert_eq!(world.vouch("a.test", "b0000000000000000000000000000009").await.status, 404);
    assert_eq!(world.send(READER, "PUT", TARGET, &other).await.status, 403);
    assert!(world.bound().await.is_empty());
}

#[tokio::test]
async fn an_explanation_names_the_bundles_that_vouch() {
    let world = shop(explaining(&[]).await).await;
    let told = async |url: &str| world.get(READER, &format!("/v1/explain?project=shop&url={url}")).await.body;
    assert_eq!(told("https://a.test").await["vouchedBy"], json!([]));
    world.vouch("a.test", FIRST).await;
    world.vouch("*.test:*", SECOND).await;
    let vouched = |list: &[(&str, &str)]| {
        Value::Array(list.iter().map(|(id, pattern)| json!({"certId": id, "pattern": pattern})).collect())
    };
    let both = told("https://a.test").await;
    let wanted = [(FIRST, "https://a.test"), (SECOND, "https://*.test:*")];
    assert_eq!(both["vouchedBy"], vouched(&wanted));
    let notes = both["notes"].to_string();
    assert!(notes.contains(&format!("CA bundles vouch for the server of this origin: {FIRST}")), "{notes}");
    assert!(!notes.contains("no bindings at all"), "{notes}");
    assert_eq!(told("https://a.test:8443").await["vouchedBy"], vouched(&wanted[1..]));
    assert_eq!(told("http://a.test").await["vouchedBy"], json!([]), "plain http has no server to vouch for");

    // One that the project's account has no more.
    let control = &world.management.control;
    control.accounts().remove(ACCOUNT, &CertificateId::parse(FIRST).unwrap());
    world.vouch("b.test", SECOND).await;
    let told = told("https://a.test").await;
    assert_eq!(told["vouchedBy"], vouched(&wanted[1..]));
    let in_vain = format!("CA bundle {FIRST} is bound here and vouches for nothing");
    assert!(told["notes"].to_string().contains(&in_vain), "{}", told["notes"]);
}
