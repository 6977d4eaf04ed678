//! Cloudflare's dialect: zone-level origin pulls, and what is wrong with an upload.

use super::cloudflare::*;
use super::*;

pub(super) fn zone_list(zone: &str) -> String {
    format!("/client/v4/zones/{zone}/origin_tls_client_auth")
}

impl World {
    /// A new client certificate, as the body of an upload to a zone.
    pub(super) fn zone_material(&self, name: &str) -> Value {
        let made = self.material(name);
        json!({"certificate": made["cert"], "private_key": made["key"]})
    }

    /// Uploads to a list of a zone, and gives back what is told of it.
    pub(super) async fn listed_in(&self, target: &str, name: &str) -> Value {
        result(self.send(TENANT, "POST", target, &self.zone_material(name)).await)
    }

    pub(super) async fn retried(&self, target: &str, count: &str, body: &Value) -> Reply {
        let request = Request::builder()
            .method("POST")
            .uri(target)
            .header("host", "localhost")
            .header("authorization", format!("Bearer {TENANT}"))
            .header("content-type", "application/json")
            .header("x-stainless-retry-count", count)
            .body(Body::from(body.to_string()))
            .unwrap();
        self.ask(request).await
    }

    /// The certificate that egret's own list of bindings has first at this pattern, and whether there is one.
    pub(super) async fn bound_to(&self, pattern: &str) -> Option<Value> {
        let listed = self.get(ADMIN, "/v1/projects/pay.example/bindings").await.body;
        let listed = listed["bindings"].as_array().unwrap();
        listed.iter().find(|binding| binding["origin"] == pattern).map(|binding| binding["certId"].clone())
    }
}

#[tokio::test]
async fn the_newest_zone_certificate_is_presented_while_the_setting_is_on() {
    let world = zoned().await;
    let list = zone_list(ZONE);
    let settings = format!("{list}/settings");
    assert_eq!(result(world.get(TENANT, &list).await), json!([]));
    assert_eq!(result(world.get(TENANT, &settings).await), json!({"enabled": false}));

    let mut body = world.zone_material("first");
    body["certificate"] = format!("{}\n# kept\n", body["certificate"].as_str().unwrap()).into();
    let first = result(world.send(TENANT, "POST", &list, &body).await);
    let id = first["id"].as_str().unwrap();
    assert!(id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{id}");
    assert_eq!(first["certificate"], body["certificate"], "byte for byte");
    assert_eq!((&first["status"], &first["enabled"]), (&json!("active"), &json!(false)));
    assert_eq!(first["signature"], "ECDSAWithSHA256");
    assert!(first["serial_number"].as_str().unwrap().bytes().all(|b| b.is_ascii_digit()), "{first}");
    assert!(first["issuer"].is_string() && first["expires_on"].as_str().unwrap().ends_with('Z'), "{first}");
    assert!(first.get("private_key").is_none());
    assert_eq!(world.bound_to("*").await, None, "off");

    assert_eq!(result(world.send(TENANT, "PUT", &settings, &json!({"enabled": true})).await), json!({"enabled": true}));
    assert_eq!(result(world.get(TENANT, &settings).await), json!({"enabled": true}));
    assert_eq!(world.bound_to("*").await, Some(json!(id)));
    let second = world.listed_in(&list, "second").await;
    assert_eq!((&second["enabled"], world.bound_to("*").await), (&json!(true), Some(second["id"].clone())));
    let listed = result(world.get(TENANT, &list).await);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!((&listed[0]["id"], &listed[1]), (&first["id"], &second), "oldest first");
    assert_eq!(result(world.get(TENANT, &format!("{list}?per_page=1&page=2")).await), json!([second]));

    let one = format!("{list}/{}", second["id"].as_str().unwrap());
    assert_eq!(result(world.get(TENANT, &one).await), second);
    let deleted = result(world.delete(TENANT, &one).await);
    assert_eq!((&deleted["id"], &deleted["status"]), (&second["id"], &json!("deleted")));
    assert_eq!(world.bound_to("*").await, Some(json!(id)), "the next newest takes over");
    for reply in [world.get(TENANT, &one).await, world.delete(TENANT, &one).await] {
        assert_eq!((refusal(&reply).0, refusal(&reply).1), (404, 1552));
    }
    result(world.send(TENANT, "PUT", &settings, &json!({"enabled": false})).await);
    assert_eq!(world.bound_to("*").await, None);
}

#[tokio::test]
async fn the_same_certificate_again_is_refused_unless_it_is_a_second_try() {
    let world = zoned().await;
    for list in [zone_list(ZONE), format!("{}/hostnames/certificates", zone_list(ZONE))] {
        let body = world.zone_material("once");
        let first = result(world.send(TENANT, "POST", &list, &body).await);
        for reply in [world.send(TENANT, "POST", &list, &body).await, world.retried(&list, "0", &body).await] {
            let (status, number, said) = refusal(&reply);
            assert_eq!((status, number), (400, 1406));
            assert!(said.contains(first["id"].as_str().unwrap()), "{said}");
        }
        assert_eq!(result(world.retried(&list, "1", &body).await), first);
        assert_eq!(result(world.get(TENANT, &list).await).as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn says_what_is_wrong_with_an_upload_where_and_under_which_number() {
    let world = zoned().await;
    let (one, other) = (world.zone_material("one"), world.zone_material("other"));
    let with = |field: &str, value: Value| {
        let mut body = one.clone();
        body[field] = value;
        body
    };
    let text = |field: &str| one[field].as_str().unwrap().to_owned();
    let both = format!("{}{}", text("certificate"), text("private_key"));
    for list in [zone_list(ZONE), format!("{}/hostnames/certificates", zone_list(ZONE))] {
        for (body, status, number, pointer, says) in [
            (with("private_key", other["private_key"].clone()), 400, 2200, "/private_key", "does not belong"),
            (with("certificate", world.ca.clone().into()), 400, 2101, "/certificate", "there is no leaf in it"),
            (with("certificate", both.clone().into()), 400, 1408, "/certificate", "private key"),
            (with("certificate", "x".into()), 400, 1408, "/certificate", "certificate: "),
            (with("certificate", "".into()), 400, 1408, "/certificate", "certificate: "),
            (with("private_key", text("certificate").into()), 400, 2106, "/private_key", "private_key: "),
            (with("private_key", "".into()), 400, 2106, "/private_key", "private_key: "),
            (with("certificate", Value::Null), 400, 10400, "/certificate", "must be a string, not null"),
            (json!({"private_key": "k"}), 400, 10400, "/certificate", "certificate: is missing"),
            (with("certificate", "x".repeat(65 * 1024).into()), 413, 10413, "/certificate", "larger than 64 KiB"),
        ] {
            let reply = world.send(TENANT, "POST", &list, &body).await;
            let found = reply.body["errors"].as_array().unwrap().iter().find(|e| e["source"]["pointer"] == pointer);
            let found = found.unwrap_or_else(|| panic!("{pointer}: {}", reply.body));
            assert_eq!((refusal(&reply).0, &found["code"]), (status, &json!(number)), "{says}: {}", reply.body);
            let said = found["message"].as_str().unwrap();
            assert!(said.contains(says), "{says} in {said}");
            assert!(!said.contains("skipValidation"), "not of this dialect: {said}");
            for line in text("private_key").lines().filter(|line| !line.starts_with("-----")) {
                assert!(!reply.body.to_string().contains(line), "{}", reply.body);
            }
        }
        for (raw, says) in [("", "the body is empty"), ("{", "not valid JSON"), ("[]", "must be a JSON object")] {
            let reply = world.send(TENANT, "POST", &list, &Value::String(raw.to_owned())).await;
            let (status, number, said) = refusal(&reply);
            assert_eq!((status, number), (400, 10400));
            assert!(said.contains(says) || raw.is_empty(), "{said}");
        }
        let large = Value::String(" ".repeat((1 << 20) + 1));
        assert_eq!(refusal(&world.send(TENANT, "POST", &list, &large).await).0, 413);
        assert_eq!(result(world.get(TENANT, &list).await), json!([]), "a refusal changes nothing");
    }
    let settings = format!("{}/settings", zone_list(ZONE));
    for body in [json!({}), json!({"enabled": "on"}), json!({"enabled": null})] {
        let reply = world.send(TENANT, "PUT", &settings, &body).await;
        assert_eq!((refusal(&reply).0, &reply.body["errors"][0]["source"]["pointer"]), (400, &json!("/enabled")));
    }
}

#[tokio::test]
async fn what_is_in_another_list_is_not_in_this_one() {
    let world = zoned().await;
    let zones = zone_list(ZONE);
    let hostnames = format!("{zones}/hostnames/certificates");
    let of_zone = world.listed_in(&zones, "zone").await["id"].as_str().unwrap().to_owned();
    let of_hostnames = world.listed_in(&hostnames, "hostnames").await["id"].as_str().unwrap().to_owned();
    for (list, id, number, held) in [
        (&zones, &of_hostnames, 1552, "one of the zone's hostname certificates"),
        (&hostnames, &of_zone, 1551, "one of the zone's own certificates"),
    ] {
        let (status, got, said) = refusal(&world.get(TENANT, &format!("{list}/{id}")).await);
        assert_eq!((status, got), (404, number));
        assert!(said.contains(held), "{said}");
        let (status, got, said) = refusal(&world.delete(TENANT, &format!("{list}/{id}")).await);
        assert_eq!((status, got), (400, 1415));
        assert!(said.contains(held), "{said}");
    }
    for (list, number) in [(&zones, 1552), (&hostnames, 1551)] {
        for id in [NOBODYS, "x", &"a".repeat(37), "cert_x", "..%2Fsettings"] {
            for reply in
                [world.get(TENANT, &format!("{list}/{id}")).await, world.delete(TENANT, &format!("{list}/{id}")).await]
            {
                assert_eq!((refusal(&reply).0, refusal(&reply).1), (404, number), "{id}");
            }
        }
    }
    // The same digits as a UUID.
    let (a, b) = of_zone.split_at(8);
    let uuid = format!("{a}-{}-{}-{}-{}", &b[..4], &b[4..8], &b[8..12], &b[12..]);
    assert_eq!(result(world.get(TENANT, &format!("{zones}/{uuid}")).await)["id"], json!(of_zone));
}

#[tokio::test]
async fn tokens_change_what_they_reach_and_no_more() {
    let world = zoned().await;
    let body = world.zone_material("a");
    for list in [zone_list(ZONE), format!("{}/hostnames/certificates", zone_list(ZONE))] {
        assert_eq!(world.get(READER, &list).await.status, 200);
        for token in [READER, PAYMENTS, PROXY] {
            assert_eq!(refusal(&world.send(token, "POST", &list, &body).await).0, 403, "{token}");
        }
        assert_eq!(refusal(&world.get(PAYMENTS, &list).await).0, 403);
        assert_eq!(refusal(&world.get(PAY, &list.replace(ZONE, WEB_ZONE)).await).0, 403, "another tenant's");
        assert_eq!(refusal(&world.get(PAY, &list.replace(ZONE, NOBODYS)).await).0, 403);
        assert_eq!(refusal(&world.get(ADMIN, &list.replace(ZONE, NOBODYS)).await).1, 7003);
        assert_eq!(world.send(PAY, "POST", &list, &body).await.status, 200);
    }
}

#[tokio::test]
async fn heeds_the_state_of_the_project_without_a_409() {
    let world = zoned().await;
    for (state, zone, upload, change) in [("blocked", "8", 402, 404), ("transferring", "9", 400, 400)] {
        let zone = zone.repeat(32);
        let made =
            world.send(ADMIN, "POST", "/v1/projects", &json!({"name": state, "state": state, "zoneId": zone})).await;
        assert_eq!(made.status, 200, "{}", made.body);
        for list in [zone_list(&zone), format!("{}/hostnames/certificates", zone_list(&zone))] {
            assert_eq!(
                refusal(&world.send(ADMIN, "POST", &list, &world.zone_material("a")).await).0,
                upload,
                "{state}"
            );
            assert_eq!(refusal(&world.delete(ADMIN, &format!("{list}/{NOBODYS}")).await).0, change, "{state}");
            assert_eq!(world.get(ADMIN, &list).await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_list_holds_no_more_than_its_limit() {
    let world = zoned().await;
    for list in [zone_list(ZONE), format!("{}/hostnames/certificates", zone_list(ZONE))] {
        for n in 0..10 {
            world.listed_in(&list, &format!("c{n}")).await;
        }
        let (status, number, said) = refusal(&world.send(TENANT, "POST", &list, &world.zone_material("more")).await);
        assert_eq!((status, number), (400, 2005));
        assert!(said.contains("limits.max_zone_certificates"), "{said}");
    }
    assert_eq!(world.management.metrics.store_limits_reached.get(), 2);
}

#[tokio::test]
async fn what_the_other_dialect_bound_project_wide_is_in_the_list() {
    let world = zoned().await;
    let list = zone_list(ZONE);
    let mut material = world.material("vercel");
    let uploaded = world.send(ADMIN, "POST", "/v1/projects/pay.example/client-cert", &material).await.body;
    let id = uploaded["certId"].as_str().unwrap().strip_prefix("cert_").unwrap().to_owned();
    let listed = result(world.get(TENANT, &list).await);
    assert_eq!((&listed[0]["id"], &listed[0]["enabled"]), (&json!(id), &json!(true)), "in force without the setting");
    assert_eq!(listed[0]["certificate"], material["cert"]);
    assert_eq!(result(world.get(TENANT, &format!("{list}/{id}")).await), listed[0]);
    material["origin"] = "https://one.example:8443".into();
    world.send(ADMIN, "POST", "/v1/projects/pay.example/client-cert", &material).await;
    assert_eq!(
        result(world.get(TENANT, &list).await).as_array().unwrap().len(),
        1,
        "one port is no place of this list"
    );
    assert_eq!(result(world.delete(TENANT, &format!("{list}/{id}")).await)["status"], "deleted");
    assert_eq!(world.bound_to("*").await, None);
}
