//! Cloudflare's dialect: which certificate each hostname presents.

use super::cloudflare::*;
use super::cloudflare_zones::zone_list;
use super::*;

fn hostnames() -> String {
    format!("{}/hostnames", zone_list(ZONE))
}

fn certificates() -> String {
    format!("{}/certificates", hostnames())
}

impl World {
    async fn put(&self, config: Value) -> Reply {
        self.send(TENANT, "PUT", &hostnames(), &json!({ "config": config })).await
    }

    async fn hostname_certificate(&self, name: &str) -> String {
        self.listed_in(&certificates(), name).await["id"].as_str().unwrap().to_owned()
    }

    async fn delete_certificate(&self, id: &str) -> Reply {
        self.delete(TENANT, &format!("{}/{id}", certificates())).await
    }
}

fn entry(hostname: &str, id: &str, enabled: Value) -> Value {
    json!({"hostname": hostname, "cert_id": id, "enabled": enabled})
}

#[tokio::test]
async fn a_hostname_goes_through_its_whole_life() {
    let world = zoned().await;
    assert_eq!(result(world.get(TENANT, &certificates()).await), json!([]));
    let made = world.listed_in(&certificates(), "one").await;
    let id = made["id"].as_str().unwrap();
    assert_eq!(result(world.get(TENANT, &certificates()).await), json!([made]));
    assert_eq!(result(world.get(TENANT, &format!("{}/{id}", certificates())).await), made);

    let reply = world.put(json!([entry("API.Example.com", id, true.into())])).await;
    assert_eq!(reply.body["result_info"]["count"], 1);
    let shown = result(reply)[0].clone();
    for (field, value) in [
        ("hostname", &json!("api.example.com")),
        ("cert_id", &made["id"]),
        ("enabled", &json!(true)),
        ("status", &json!("active")),
        ("cert_status", &json!("active")),
        ("certificate", &made["certificate"]),
        ("serial_number", &made["serial_number"]),
        ("issuer", &made["issuer"]),
        ("signature", &made["signature"]),
        ("expires_on", &made["expires_on"]),
        ("cert_uploaded_on", &made["uploaded_on"]),
        ("cert_updated_at", &made["uploaded_on"]),
    ] {
        assert_eq!(&shown[field], value, "{field}");
    }
    assert!(shown["created_at"].is_string() && shown["updated_at"].is_string() && shown.get("private_key").is_none());
    let one = format!("{}/api.example.com", hostnames());
    assert_eq!(result(world.get(TENANT, &one).await), shown);
    assert_eq!(result(world.get(TENANT, &one.replace("api", "API")).await), shown);
    assert_eq!(world.bound_to("https://api.example.com:*").await, Some(json!(id)));

    // Off: nothing is presented, and the certificate is in use all the same.
    let off = result(world.put(json!([entry("api.example.com", id, false.into())])).await)[0].clone();
    assert_eq!(
        (&off["enabled"], &off["cert_id"], &off["created_at"]),
        (&json!(false), &json!(id), &shown["created_at"])
    );
    assert_eq!(world.bound_to("https://api.example.com:*").await, Some(Value::Null));
    for enabled in [false, true] {
        world.put(json!([entry("api.example.com", id, enabled.into())])).await;
        let (status, number, said) = refusal(&world.delete_certificate(id).await);
        assert_eq!((status, number), (400, 1433));
        assert!(
            said.starts_with("Certificate cannot be deleted while in use: ")
                && said.contains("hostname api.example.com"),
            "{said}"
        );
    }
    // Another certificate for it frees the first one.
    let next = world.hostname_certificate("next").await;
    result(world.put(json!([entry("api.example.com", &next, true.into())])).await);
    assert_eq!(result(world.delete_certificate(id).await)["status"], "deleted");
    assert_eq!(
        (refusal(&world.delete_certificate(id).await).0, refusal(&world.delete_certificate(id).await).1),
        (404, 1551)
    );

    let void = result(world.put(json!([{"hostname": "api.example.com", "enabled": null}])).await);
    assert_eq!(void, json!([{"hostname": "api.example.com", "enabled": null, "status": "deleted"}]));
    let (status, number, _) = refusal(&world.get(TENANT, &one).await);
    assert_eq!((status, number), (404, 1553));
    assert_eq!(world.bound_to("https://api.example.com:*").await, None);
    assert_eq!(result(world.delete_certificate(&next).await)["status"], "deleted");
    // Ended twice, and with a certificate that is gone: nobody is locked out.
    for config in [
        json!([{"hostname": "api.example.com", "enabled": null}]),
        json!([entry("api.example.com", &next, Value::Null)]),
    ] {
        assert_eq!(world.put(config).await.status, 200);
    }
}

#[tokio::test]
async fn the_requested_hostnames_come_first_in_their_order_and_once() {
    let world = zoned().await;
    let id = world.hostname_certificate("one").await;
    let put = async |config: Value| {
        let shown = result(world.put(config).await);
        shown.as_array().unwrap().iter().map(|a| a["hostname"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        put(json!([entry("m.example", &id, true.into()), entry("a.example", &id, true.into())])).await,
        ["m.example", "a.example"]
    );
    let config = json!([
        entry("z.example", &id, true.into()),
        entry("b.example", &id, false.into()),
        entry("Z.example.", &id, true.into()),
    ]);
    assert_eq!(put(config).await, ["z.example", "b.example", "a.example", "m.example"]);
    assert_eq!(put(json!([])).await, ["a.example", "b.example", "m.example", "z.example"]);
    assert_eq!(
        put(json!([entry("b.example", &id, Value::Null)])).await,
        ["b.example", "a.example", "m.example", "z.example"]
    );
}

#[tokio::test]
async fn one_bad_entry_of_many_changes_nothing() {
    let world = zoned().await;
    let id = world.hostname_certificate("one").await;
    let of_zone = world.listed_in(&zone_list(ZONE), "zone").await["id"].as_str().unwrap().to_owned();
    let other = world.hostname_certificate("other").await;
    let many = |of: &dyn Fn(usize) -> String| -> Vec<Value> {
        (0..199).map(|n| entry(&format!("h{n}.example"), &of(n), (n % 4 < 2).into())).collect()
    };
    let fine = many(&|n| if n % 2 == 0 { id.clone() } else { other.clone() });
    for (bad, number, at, says) in [
        (entry("*.example.com", &id, true.into()), 10400, "hostname", "wildcard"),
        (entry("https://x.example", &id, true.into()), 10400, "hostname", "URL"),
        (entry("bad.example", NOBODYS, true.into()), 1415, "cert_id", "no hostname certificate with this id"),
        (entry("bad.example", &of_zone, true.into()), 1415, "cert_id", "one of the zone's own certificates"),
        (json!({"hostname": "bad.example", "enabled": true}), 1404, "cert_id", "missing"),
        (entry("h0.example", &id, false.into()), 10400, "hostname", "more than once"),
        (json!({"hostname": "bad.example", "cert_id": id}), 10400, "enabled", "missing"),
    ] {
        let mut config = fine.clone();
        config.push(bad.clone());
        let reply = world.put(config.into()).await;
        assert_eq!(reply.status, 400, "{bad}");
        let pointer = format!("/config/199/{at}");
        let error =
            reply.body["errors"].as_array().unwrap().iter().find(|e| e["source"]["pointer"] == pointer.as_str());
        let error = error.unwrap_or_else(|| panic!("{bad}: {}", reply.body));
        assert_eq!(error["code"], number, "{bad}: {error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{bad}: {error}");
        assert_eq!(result(world.put(json!([])).await), json!([]), "{bad}");
    }
    // 199 of one certificate are more than it may have, and that, too, is told per entry.
    let reply = world.put(many(&|_| id.clone()).into()).await;
    assert_eq!((refusal(&reply).0, refusal(&reply).1), (400, 2005));
    assert_eq!(reply.body["errors"].as_array().unwrap().len(), 21, "no more than a person reads");
    assert_eq!(result(world.put(json!([])).await), json!([]));
    assert_eq!(result(world.put(fine.into()).await).as_array().unwrap().len(), 199);
}

#[tokio::test]
async fn says_what_is_no_hostname() {
    let world = zoned().await;
    for (hostname, says) in [
        ("%2A.example.com", "wildcard"),
        ("a.example:443", "port"),
        (&*"a".repeat(256), "longer than 255"),
        ("a%20b", "not allowed"),
    ] {
        let (status, _, said) = refusal(&world.get(TENANT, &format!("{}/{hostname}", hostnames())).await);
        assert_eq!(status, 400, "{hostname}");
        assert!(said.contains(says), "{said}");
    }
    for hostname in ["unknown.example", "[::1]", "[x]"] {
        let (status, number, _) = refusal(&world.get(TENANT, &format!("{}/{hostname}", hostnames())).await);
        assert_eq!((status, number), (404, 1553), "{hostname}");
    }
}

#[tokio::test]
async fn what_the_other_dialect_bound_to_a_host_is_an_association() {
    let world = zoned().await;
    let id = world.uploaded("pay.example", "https://v.example:*").await;
    let hex = id.strip_prefix("cert_").unwrap();
    let shown = result(world.get(TENANT, &format!("{}/v.example", hostnames())).await);
    assert_eq!((&shown["cert_id"], &shown["enabled"], &shown["status"]), (&json!(hex), &json!(true), &json!("active")));
    assert_eq!(shown["created_at"], shown["updated_at"]);
    let listed = result(world.get(TENANT, &certificates()).await);
    assert_eq!((&listed[0]["id"], listed.as_array().unwrap().len()), (&json!(hex), 1));
    assert_eq!(result(world.get(TENANT, &zone_list(ZONE)).await), json!([]));
    // And it can be named for another hostname, and be let go of.
    result(world.put(json!([entry("w.example", hex, true.into())])).await);
    assert_eq!(world.bound_to("https://w.example:*").await, Some(json!(id)));
    assert_eq!(refusal(&world.delete_certificate(hex).await).1, 1433);
    let none = json!({"origin": "https://n.example:*", "certId": null});
    world.send(ADMIN, "PUT", "/v1/projects/pay.example/bindings", &none).await;
    let shown = result(world.get(TENANT, &format!("{}/n.example", hostnames())).await);
    assert_eq!((&shown["enabled"], shown.get("cert_id"), shown.get("cert_status")), (&json!(false), None, None));
}
