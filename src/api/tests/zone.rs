//! What a zone holds, as the other dialect and egret's own endpoints show it.

use super::explain::{explained, explaining};
use super::*;
use crate::api::problem::Problem;
use crate::control::{HeldUpload, Wanted};
use crate::domain::{CertificateId, Holder, Host, time as clock};
use crate::registry::Project;

impl World {
    fn payments(&self) -> Arc<Project> {
        self.management.registry.find("payments", None, None).unwrap()
    }

    async fn held(&self, holder: Holder, name: &str) -> String {
        let material = self.material(name);
        let text = |field: &str| Zeroizing::new(material[field].as_str().unwrap().to_owned());
        let by = self.management.registry.token(ADMIN.as_bytes()).unwrap();
        let upload = HeldUpload { cert: text("cert"), key: text("key"), by, retry: false };
        let held = self.management.control.hold(&self.payments(), holder, upload).await.unwrap();
        held.info.id.to_string()
    }

    async fn zone(&self, enabled: bool) {
        self.management.control.set_zone(&self.payments(), enabled).await.unwrap();
    }

    async fn associated(&self, hostname: &str, id: &str, enabled: Option<bool>) {
        let hostname = Host::parse(hostname).unwrap();
        let wanted = vec![Wanted { hostname, certificate: CertificateId::parse(id), enabled }];
        self.management.control.associate(&self.payments(), wanted).await.unwrap();
    }

    async fn details(&self, id: &str) -> Value {
        let reply = self.get(READER, &format!("/v1/projects/payments/certificates/{id}")).await;
        assert_eq!(reply.status, 200, "{id}: {}", reply.body);
        reply.body
    }

    async fn bindings(&self) -> Vec<Value> {
        let body = self.get(READER, "/v1/projects/payments/bindings").await.body;
        body["bindings"].as_array().unwrap().clone()
    }

    async fn listed(&self) -> Value {
        self.get(READER, "/v1/projects/payments/client-cert").await.body["clientCerts"].clone()
    }
}

#[tokio::test]
async fn both_layers_are_shown_and_which_of_them_is_presented() {
    let world = world().await;
    world.zone(true).await;
    let zone = world.held(Holder::Zone, "zone").await;
    assert_eq!(world.listed().await, json!([{"origin": "*", "id": zone}]));
    let bindings = world.bindings().await;
    assert_eq!((bindings.len(), &bindings[0]["derived"], bindings[0].get("inForce")), (1, &json!(true), None));
    let details = world.details(&zone).await;
    assert_eq!(
        (&details["holder"], &details["bindings"], &details["status"]),
        (&json!("zone"), &json!(["*"]), &json!("active"))
    );
    assert_eq!(details.get("coveredBy"), None);

    let own = world.uploaded("payments", "*").await;
    assert_eq!(world.listed().await, json!([{"origin": "*", "id": own}]), "the zone's is not presented any more");
    let bindings = world.bindings().await;
    let said =
        |binding: &Value| (binding["certId"].clone(), binding.get("derived").cloned(), binding.get("inForce").cloned());
    assert_eq!(said(&bindings[0]), (json!(own), None, None));
    assert_eq!(said(&bindings[1]), (json!(zone), Some(json!(true)), Some(json!(false))));
    let covered = &world.details(&zone).await["coveredBy"];
    assert_eq!((&covered["certId"], &covered["source"]), (&json!(own), &json!("api")));
    assert_eq!(covered["since"], bindings[0]["since"]);

    let later = world.held(Holder::Zone, "later").await;
    for id in [&own, &zone] {
        assert_eq!(world.details(id).await["coveredBy"]["certId"], json!(later), "{id}");
    }
    assert_eq!(world.details(&own).await["holder"], "project");
    assert_eq!(world.listed().await, json!([{"origin": "*", "id": later}, {"origin": "*", "id": own}]));
    world.zone(false).await;
    for id in [&own, &zone, &later] {
        let details = world.details(id).await;
        assert_eq!((details.get("coveredBy"), &details["status"]), (None, &json!("active")), "{id}");
    }
    let none = json!({"origin": "*", "certId": null});
    world.send(PAYMENTS, "PUT", "/v1/projects/payments/bindings", &none).await;
    world.zone(true).await;
    assert_eq!(world.details(&later).await["coveredBy"]["certId"], Value::Null);

    let reply = world.delete(PAYMENTS, "/v1/projects/payments/bindings?origin=*").await;
    assert_eq!(reply.status, 200);
    let reply = world.delete(PAYMENTS, "/v1/projects/payments/bindings?origin=*").await;
    assert_eq!(reply.status, 400);
    assert!(reply.message().contains("follows from the certificates of the zone"), "{}", reply.message());
    let reply = world.delete(PAYMENTS, &format!("/v1/projects/payments/client-cert/{later}")).await;
    assert_eq!((reply.status.as_u16(), &reply.body["origin"]), (200, &json!("*")));
    assert_eq!(world.listed().await, json!([{"origin": "*", "id": zone}]));
}

#[tokio::test]
async fn hostname_associations_are_bindings_that_say_what_they_stand_for() {
    let world = world().await;
    let id = world.held(Holder::Hostnames, "h").await;
    let details = world.details(&id).await;
    assert_eq!(
        (&details["holder"], &details["status"], &details["bindings"]),
        (&json!("hostnames"), &json!("active"), &json!([]))
    );
    world.associated("on.test", &id, Some(true)).await;
    world.associated("off.test", &id, Some(false)).await;
    let bindings = world.bindings().await;
    let expected = [("https://off.test:*", Value::Null, false), ("https://on.test:*", json!(id), true)];
    for (binding, (origin, presented, enabled)) in bindings.iter().zip(expected) {
        assert_eq!((&binding["origin"], &binding["certId"]), (&json!(origin), &presented));
        let association = &binding["association"];
        assert_eq!((&association["certId"], &association["enabled"]), (&json!(id), &json!(enabled)));
        assert_eq!(association["createdAt"], binding["since"]);
    }
    assert_eq!(world.listed().await, json!([{"origin": "https://on.test:*", "id": id}]), "what is off is not listed");
}

#[tokio::test]
async fn explanations_say_what_goes_before_what_and_why() {
    let world = explaining(&[]).await;
    world.zone(true).await;
    let first = world.held(Holder::Zone, "z1").await;
    let url = "https://any.test";
    let told = explained(&world, url).await;
    let summary = format!(
        "https://any.test:443 -> certificate {first} (the project default: the zone's certificate), expires in 30 days"
    );
    assert_eq!(told["summary"], summary);
    let own = world.uploaded("payments", "*").await;
    let since = |id: &str| {
        let snapshot = world.payments().snapshot();
        let named = |binding: &Arc<crate::registry::Binding>| {
            binding.target.certificate_id().is_some_and(|other| other.as_str() == id)
        };
        clock::rfc3339(snapshot.bindings().into_iter().find(named).unwrap().since)
    };
    let told = explained(&world, url).await;
    assert!(told["summary"].as_str().unwrap().contains(&format!("{own} (the project default),")), "{told}");
    assert_eq!(
        told["notes"][0],
        format!("it goes before the zone certificate of {}, {first}, because it is later", since(&first))
    );

    let second = world.held(Holder::Zone, "z2").await;
    let told = explained(&world, url).await;
    let chosen = format!("{second} (the project default: zone certificate, the most recent of 2)");
    assert!(told["summary"].as_str().unwrap().contains(&chosen), "{told}");
    assert_eq!(
        told["notes"][0],
        format!("it goes before the project-wide upload of {}, {own}, because it is later", since(&own))
    );
    assert_eq!(told["trace"][4]["why"], "matched: the zone's most recent certificate");

    let id = world.held(Holder::Hostnames, "h").await;
    world.associated("off.test", &id, Some(false)).await;
    let told = explained(&world, "https://off.test").await;
    let summary = "https://off.test:443 -> no certificate: the hostname's association is switched off (exact binding https://off.test:*)";
    assert_eq!((&told["outcome"], &told["summary"]), (&json!("none"), &json!(summary)));
    assert!(!told["notes"].to_string().contains("goes before"), "what is project-wide has no say there");
}

#[tokio::test]
async fn nothing_of_the_zone_reaches_other_dialects_errors_as_a_conflict() {
    use crate::control::ControlError;
    let id = || CertificateId::bare([1; 16]);
    for error in [
        ControlError::Duplicate(id()),
        ControlError::InUse("in use".to_owned()),
        ControlError::Ending(id(), 1, clock::now()),
        ControlError::WrongList { held: Holder::Zone, wanted: Holder::Hostnames },
        ControlError::Entries(Vec::new()),
        ControlError::Full { limit: "max_associations", most: 1, what: "associations" },
    ] {
        let text = error.to_string();
        assert_eq!(Problem::from(error).status(), 400, "{text}: 409 is tried again by clients");
    }
}

#[tokio::test]
async fn an_explanation_says_that_the_zone_is_switched_off() {
    let world = explaining(&[]).await;
    world.held(Holder::Zone, "zone").await;
    let is_told = async || explained(&world, "https://a.test").await["notes"].to_string().contains("is switched off");
    assert!(is_told().await);
    world.zone(true).await;
    assert!(!is_told().await);
    world.zone(false).await;
    world.associated("a.test", &world.held(Holder::Hostnames, "own").await, Some(true)).await;
    assert!(!is_told().await, "where a hostname has its own that is no matter");
}
