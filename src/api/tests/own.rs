//! egret's own endpoints.

use super::*;

#[tokio::test]
async fn binds_one_certificate_to_many_patterns_and_none() {
    let world = world().await;
    let id = world.uploaded("payments", "https://a.test").await;
    let target = "/v1/projects/payments/bindings";
    let put = |origin: &str, certificate: Value| {
        let body = json!({"origin": origin, "certId": certificate});
        let world = &world;
        async move { world.send(PAYMENTS, "PUT", target, &body).await }
    };
    let bound = put("B.test", id.clone().into()).await;
    assert_eq!(bound.body, json!({"updated": false, "origin": "https://b.test", "certId": id}));
    let none = put("https://b.test", Value::Null).await;
    assert_eq!(none.body, json!({"updated": true, "origin": "https://b.test", "certId": null}));
    assert_eq!(put("https://c.test", "cert_unknown".into()).await.status, 404);

    let listed = world.get(READER, target).await.body;
    let listed = listed["bindings"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    for (at, origin, certificate) in [(0, "https://a.test", json!(id)), (1, "https://b.test", Value::Null)] {
        assert_eq!(listed[at]["origin"], origin);
        assert_eq!(listed[at]["certId"], certificate);
        assert_eq!(listed[at]["source"], "api");
        assert_eq!(listed[at]["lift"], true);
        assert!(listed[at]["since"].as_str().unwrap().ends_with('Z'));
    }
    let certs = world.get(READER, "/v1/projects/payments/client-cert").await.body;
    assert_eq!(certs, json!({"clientCerts": [{"origin": "https://a.test", "id": id}]}), "none is no certificate");

    let plain = json!({"origin": "https://a.test", "certId": id, "lift": false});
    assert_eq!(world.send(PAYMENTS, "PUT", target, &plain).await.body["updated"], true);
    let lift = || async { world.get(READER, target).await.body["bindings"][0]["lift"].clone() };
    assert_eq!(lift().await, false);
    put("https://a.test", id.clone().into()).await;
    assert_eq!(lift().await, false, "left out, it stays as it is");

    assert_eq!(world.delete(PAYMENTS, target).await.status, 400);
    let unbound = world.delete(PAYMENTS, &format!("{target}?origin=b.test")).await;
    assert_eq!(unbound.body, json!({"origin": "https://b.test"}));
    assert_eq!(world.delete(PAYMENTS, &format!("{target}?origin=b.test")).await.status, 404);
    assert_eq!(world.send(READER, "PUT", target, &json!({})).await.status, 403);
}

#[tokio::test]
async fn tells_everything_of_a_certificate_but_its_key() {
    let world = world().await;
    let id = world.uploaded("payments", "https://a.test").await;
    let details = world.get(READER, &format!("/v1/projects/payments/certificates/{id}")).await;
    assert_eq!(details.status, 200);
    let body = details.body;
    assert_eq!(body["id"], id);
    assert_eq!(body["status"], "active");
    assert_eq!(body["bindings"], json!(["https://a.test"]));
    assert_eq!(body["daysLeft"], 30);
    assert_eq!(body["keyType"], "P-256");
    assert_eq!(body["fingerprint"].as_str().unwrap().len(), 64);
    assert_eq!(body["spkiFingerprint"].as_str().unwrap().len(), 64);
    assert_eq!((&body["chainLength"], &body["connections"]), (&json!(1), &json!(0)));
    assert_eq!((&body["source"], &body["retired"]), (&json!("api"), &json!([])));
    assert!(body["subject"].as_str().unwrap().contains("CN=client"));
    for field in ["issuer", "serialNumber", "notBefore", "notAfter", "uploadedAt", "warnings"] {
        assert!(!body[field].is_null(), "{field}");
    }
    let unknown = world.get(READER, "/v1/projects/payments/certificates/cert_unknown").await;
    assert_eq!((unknown.status.as_u16(), unknown.code()), (404, "not_found"));
}

#[tokio::test]
async fn shows_a_replaced_certificate_until_its_last_connection_is_gone() {
    let world = world().await;
    let old = world.uploaded("payments", "https://a.test").await;
    let project = world.management.registry.find("payments", None, None).unwrap();
    let certificate = project.snapshot().certificates().pop().unwrap();
    certificate.bound.life().opened();
    certificate.bound.life().opened();
    certificate.bound.life().became_upgraded();

    let mut body = world.material("next");
    body["origin"] = "https://a.test".into();
    let reply = world.send(ADMIN, "POST", "/v1/projects/payments/client-cert?drain=now", &body).await;
    let new = reply.body["certId"].as_str().unwrap();
    let target = format!("/v1/projects/payments/certificates/{old}");
    let draining = world.get(READER, &target).await.body;
    assert_eq!(draining["status"], "draining");
    assert_eq!(draining["supersededBy"], new);
    assert_eq!((&draining["connections"], &draining["upgraded"]), (&json!(2), &json!(1)));
    assert!(draining["deadline"].is_string() && draining["upgradedDeadline"].is_string());
    assert_eq!(draining["bindings"], json!([]));
    let after = world.get(READER, &format!("/v1/projects/payments/certificates/{new}")).await.body;
    assert_eq!((&after["retired"][0]["id"], &after["retired"][0]["connections"]), (&json!(old), &json!(2)));
    assert!(after["retired"][0]["deadline"].is_string());
    assert_eq!(after["retired"][0]["upgraded"], 1);
    assert!(after["retired"][0]["upgradedDeadline"].is_string());

    // Also after the certificate that took its place was replaced in turn, and has no connection of its own.
    let mut body = world.material("last");
    body["origin"] = "https://a.test".into();
    let reply = world.send(ADMIN, "POST", "/v1/projects/payments/client-cert", &body).await;
    let last = reply.body["certId"].as_str().unwrap();
    let details = world.get(READER, &format!("/v1/projects/payments/certificates/{last}")).await.body;
    assert_eq!(details["retired"][0]["id"], json!(old), "{details}");

    certificate.bound.life().closed();
    certificate.bound.life().closed();
    certificate.bound.life().upgraded_closed();
    assert_eq!(world.get(READER, &target).await.status, 404);
}

#[tokio::test]
async fn shows_what_drains_of_a_certificate_that_lost_its_last_binding_and_stays() {
    let world = world().await;
    let id = world.uploaded("payments", "https://a.test").await;
    let project = world.management.registry.find("payments", None, None).unwrap();
    let life = project.snapshot().certificates().pop().unwrap();
    life.bound.life().opened();
    let unbind = "/v1/projects/payments/bindings?origin=https://a.test";
    assert_eq!(world.send(ADMIN, "DELETE", unbind, &json!(null)).await.status, 200);
    let details = world.get(READER, &format!("/v1/projects/payments/certificates/{id}")).await.body;
    assert_eq!((&details["status"], &details["connections"]), (&json!("active"), &json!(0)), "{details}");
    assert_eq!((&details["retired"][0]["id"], &details["retired"][0]["connections"]), (&json!(id), &json!(1)));
}

#[tokio::test]
async fn makes_lists_and_deletes_projects() {
    let world = world().await;
    let made = world.send(ADMIN, "POST", "/v1/projects", &json!({"name": "web", "id": "prj_web"})).await;
    let web = json!({"id": "prj_web", "name": "web", "state": "active", "declared": false, "bindings": 0});
    assert_eq!((made.status.as_u16(), &made.body), (200, &web));
    let twice = world.send(ADMIN, "POST", "/v1/projects", &json!({"name": "web"})).await;
    assert_eq!((twice.status.as_u16(), twice.code()), (409, "conflict"));

    let names = |reply: Reply| -> Vec<String> {
        let projects = reply.body["projects"].as_array().unwrap().clone();
        projects.iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(world.get(READER, "/v1/projects").await), ["default", "payments", "web"]);
    assert_eq!(names(world.get(PAYMENTS, "/v1/projects").await), ["payments"]);

    assert_eq!(world.send(PAYMENTS, "POST", "/v1/projects", &json!({"name": "x"})).await.status, 403);
    assert_eq!(world.send(LANDLORD, "POST", "/v1/projects", &json!({"name": "x"})).await.status, 403);
    assert_eq!(world.delete(LANDLORD, "/v1/projects/web").await.status, 403);
    assert_eq!(world.delete(ADMIN, "/v1/projects/payments").await.status, 403, "declared in a file");
    let deleted = world.delete(ADMIN, "/v1/projects/web").await;
    assert_eq!(deleted.body, json!({"id": "prj_web", "name": "web"}));
    assert_eq!(world.delete(ADMIN, "/v1/projects/web").await.status, 404);
    let method = world.get(ADMIN, "/v1/projects/web").await;
    assert_eq!((method.code(), &method.headers["allow"]), ("method_unknown", &"DELETE".parse().unwrap()));
}

#[tokio::test]
async fn reports_how_it_is_to_each_as_far_as_they_reach() {
    let world = world().await;
    world.uploaded("default", "*").await;
    let id = world.uploaded("payments", "https://a.test").await;
    world.management.info.set_management("http://127.0.0.1:9090".to_owned());
    world.management.info.reach(Stage::Running);
    let all = world.get(READER, "/v1/status").await.body;
    assert_eq!((&all["version"], &all["state"]), (&json!(env!("CARGO_PKG_VERSION")), &json!("ready")));
    assert_eq!(all["management"], "http://127.0.0.1:9090");
    assert_eq!(all["certificates"].as_array().unwrap().len(), 2);
    assert_eq!(all["reload"], json!({"state": "ok", "error": null, "succeededAt": null}));
    assert_eq!(all["store"], json!({"backend": "memory", "quarantined": []}));
    assert!(all["counters"]["api_requests"].as_u64().unwrap() >= 3);

    let limited = world.get(PAYMENTS, "/v1/status").await.body;
    let project = world.management.registry.find("payments", None, None).unwrap().id().to_string();
    assert_eq!(limited["projects"], json!([{"id": project, "name": "payments"}]));
    let certificates = limited["certificates"].as_array().unwrap();
    assert_eq!(certificates.len(), 1);
    assert_eq!(certificates[0]["id"], id);
    assert_eq!(certificates[0]["origin"], "https://a.test");
    assert_eq!((&certificates[0]["project"], &certificates[0]["daysLeft"]), (&json!(project), &json!(30)));
    assert!(limited["counters"].is_null() && limited["unloaded"].is_null());
    assert_eq!(limited["store"], json!({"backend": "memory"}));
}

#[tokio::test]
async fn is_ready_only_between_start_and_end() {
    let world = world().await;
    let ready = async || world.get("", "/readyz").await;
    let starting = ready().await;
    assert_eq!((starting.status.as_u16(), starting.code()), (503, "service_unavailable"));
    assert_eq!(world.get("", "/healthz").await.body, json!({"state": "starting"}));
    world.management.info.reach(Stage::Running);
    assert_eq!(ready().await.body, json!({"state": "ready"}));
    world.management.info.reach(Stage::Draining);
    assert_eq!(ready().await.status, 503);
    assert_eq!(world.get("", "/healthz").await.status, 200);
}

#[tokio::test]
async fn shows_the_interception_ca_to_readers() {
    let world = world().await;
    assert_eq!(world.get(READER, "/v1/ca").await.code(), "not_found");
    let ca = CaCertificate { pem: world.ca.clone(), path: Some("ca.crt".to_owned()) };
    world.management.info.set_ca(move || std::future::ready(Ok(ca.clone())));
    assert_eq!(world.get(PAYMENTS, "/v1/ca").await.body, json!({"pem": world.ca, "path": "ca.crt"}));
    assert_eq!(world.get(PROXY, "/v1/ca").await.status, 403);
}
