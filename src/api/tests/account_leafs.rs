//! A leaf of an account as the projects' own API shows it: bound, listed, told of, and not deleted there.

use super::*;
use crate::control::AccountUpload;
use crate::domain::CertificateId;

const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";

async fn held(world: &World, upload: AccountUpload) -> CertificateId {
    let held = world.management.control.account_upload(ACCOUNT, upload).await;
    held.expect("uploaded").info.id.clone()
}

/// A project that carries the account, and a leaf and a CA bundle in it.
async fn carrying() -> (World, CertificateId, CertificateId) {
    let world = world().await;
    let wanted = json!({"name": "shared", "accountId": ACCOUNT});
    assert_eq!(world.send(ADMIN, "POST", "/v1/projects", &wanted).await.status, 200);
    let material = world.material("of the account");
    let text = |field: &str| Zeroizing::new(material[field].as_str().unwrap().to_owned());
    let by = Arc::new(Token::declared("t", Role::Admin, TokenScope::All, &[1; 32], "a file"));
    let leaf = AccountUpload {
        ca: false,
        name: None,
        certificates: text("cert"),
        key: Some(text("key")),
        by: by.clone(),
        retry: false,
    };
    let bundle = AccountUpload { ca: true, name: None, certificates: text("ca"), key: None, by, retry: false };
    let (leaf, bundle) = (held(&world, leaf).await, held(&world, bundle).await);
    (world, leaf, bundle)
}

#[tokio::test]
async fn is_bound_listed_and_told_of_where_it_is_presented_and_stays_in_the_account() {
    let (world, id, _) = carrying().await;
    let id = id.as_str();
    for (origin, updated) in [("https://a.test", false), ("*", false), ("https://a.test", true)] {
        let wanted = json!({"origin": origin, "certId": id});
        let reply = world.send(ADMIN, "PUT", "/v1/projects/shared/bindings", &wanted).await;
        assert_eq!((reply.status.as_u16(), &reply.body["updated"]), (200, &json!(updated)), "{}", reply.body);
        let elsewhere = world.send(ADMIN, "PUT", "/v1/projects/payments/bindings", &wanted).await;
        assert_eq!((elsewhere.status.as_u16(), elsewhere.code()), (404, "not_found"));
    }
    let bindings = world.get(ADMIN, "/v1/projects/shared/bindings").await.body;
    let listed: Vec<_> =
        bindings["bindings"].as_array().unwrap().iter().map(|b| (&b["origin"], &b["certId"])).collect();
    assert_eq!(listed, [(&json!("*"), &json!(id)), (&json!("https://a.test"), &json!(id))]);
    let certs = world.get(ADMIN, "/v1/projects/shared/client-cert").await.body;
    assert_eq!(certs["clientCerts"], json!([{"origin": "*", "id": id}, {"origin": "https://a.test", "id": id}]));

    let details = world.get(ADMIN, &format!("/v1/projects/shared/certificates/{id}")).await.body;
    assert_eq!((&details["holder"], &details["status"]), (&json!("account"), &json!("active")));
    assert_eq!(details["bindings"], json!(["*", "https://a.test"]));
    let own = world.uploaded("shared", "https://b.test").await;
    let details = world.get(ADMIN, &format!("/v1/projects/shared/certificates/{own}")).await.body;
    assert_eq!(details["holder"], "project");

    let refused = world.delete(ADMIN, &format!("/v1/projects/shared/client-cert/{id}")).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (403, "forbidden"));
    assert!(refused.message().contains("belongs to the account"), "{}", refused.message());
    for origin in ["*", "https://a.test"] {
        let reply = world.delete(ADMIN, &format!("/v1/projects/shared/bindings?origin={origin}")).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
    for path in ["certificates", "client-cert"] {
        let method = if path == "certificates" { "GET" } else { "DELETE" };
        let gone = world.send(ADMIN, method, &format!("/v1/projects/shared/{path}/{id}"), &Value::Null).await;
        assert_eq!(gone.status, 404, "the project has nothing of it any more: {}", gone.body);
    }
    let deleted = world.management.control.account_delete(ACCOUNT, &CertificateId::parse(id).unwrap()).await;
    assert!(deleted.is_ok(), "nothing names it any more");
}

#[tokio::test]
async fn a_bundle_is_not_presented() {
    let (world, _, bundle) = carrying().await;
    let wanted = json!({"origin": "https://a.test", "certId": bundle.as_str(), "lift": false});
    let reply = world.send(ADMIN, "PUT", "/v1/projects/shared/bindings", &wanted).await;
    assert_eq!(reply.status, 400, "{}", reply.body);
    assert!(
        world.get(ADMIN, "/v1/projects/shared/client-cert").await.body["clientCerts"].as_array().unwrap().is_empty()
    );
}
