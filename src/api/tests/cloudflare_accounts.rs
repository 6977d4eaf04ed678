//! Cloudflare's dialect: an account's mTLS certificates.

use super::cloudflare::*;
use super::cloudflare_zones::zone_list;
use super::*;

fn list() -> String {
    format!("/client/v4/accounts/{ACCOUNT}/mtls_certificates")
}

impl World {
    fn leaf(&self, name: &str) -> Value {
        let made = self.material(name);
        json!({"ca": false, "certificates": made["cert"], "private_key": made["key"], "name": name})
    }

    async fn of_account(&self, body: &Value) -> Value {
        result(self.send(TENANT, "POST", &list(), body).await)
    }

    /// egret's own way of binding.
    async fn bind(&self, project: &str, origin: &str, id: &Value) {
        let body = json!({"origin": origin, "certId": id});
        let reply = self.send(TENANT, "PUT", &format!("/v1/projects/{project}/bindings"), &body).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    }

    async fn unbind(&self, project: &str, query: &str) {
        let reply = self.delete(TENANT, &format!("/v1/projects/{project}/bindings?{query}")).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
}

#[tokio::test]
async fn uploads_lists_shows_and_deletes() {
    let world = zoned().await;
    assert_eq!(result(world.get(TENANT, &list()).await), json!([]));
    let body = world.leaf("one");
    let made = world.of_account(&body).await;
    let id = made["id"].as_str().unwrap();
    assert_eq!(id.len(), 32);
    assert_eq!(
        (&made["certificates"], &made["ca"], &made["name"]),
        (&body["certificates"], &json!(false), &json!("one"))
    );
    assert_eq!((&made["type"], &made["signature"]), (&json!("custom"), &json!("ECDSAWithSHA256")));
    assert_eq!(made["updated_at"], made["uploaded_on"]);
    assert!(made["serial_number"].as_str().unwrap().bytes().all(|b| b.is_ascii_digit()) && made["issuer"].is_string());
    assert!(made.get("private_key").is_none());
    let mut shown = made.clone();
    shown.as_object_mut().unwrap().remove("updated_at");
    assert_eq!(result(world.get(READER, &format!("{}/{id}", list())).await), shown);
    assert_eq!(result(world.get(READER, &list()).await), json!([shown]));
    assert_eq!(result(world.get(READER, &format!("{}/{id}/associations", list())).await), json!([]));
    assert_eq!(result(world.delete(TENANT, &format!("{}/{id}", list())).await), shown);
    for reply in [
        world.get(TENANT, &format!("{}/{id}", list())).await,
        world.delete(TENANT, &format!("{}/{id}", list())).await,
        world.get(TENANT, &format!("{}/{id}/associations", list())).await,
        world.get(TENANT, &format!("{}/x", list())).await,
        world.delete(TENANT, &format!("{}/{}", list(), "a".repeat(37))).await,
    ] {
        assert_eq!((refusal(&reply).0, refusal(&reply).1), (404, 1472));
    }
}

#[tokio::test]
async fn filters_by_type_name_and_kind() {
    let world = zoned().await;
    world.of_account(&world.leaf("one")).await;
    let mut twin = world.leaf("two");
    twin["name"] = "one".into();
    world.of_account(&twin).await;
    world.of_account(&json!({"ca": true, "certificates": world.ca, "name": "roots"})).await;
    let count =
        async |query: &str| result(world.get(TENANT, &format!("{}?{query}", list())).await).as_array().unwrap().len();
    for (query, found) in [
        ("", 3),
        ("ca=false", 2),
        ("ca=true", 1),
        ("name=one", 2),
        ("name=One", 0),
        ("ca=true&name=one", 0),
        ("ca=false&name=one", 2),
        ("type=custom", 3),
        ("type=custom&type=gateway_managed", 3),
        ("type=custom,access_managed", 3),
        ("type=gateway_managed", 0),
        ("per_page=2&page=2", 1),
        ("page=2", 0),
    ] {
        assert_eq!(count(query).await, found, "{query}");
    }
    for wrong in ["type=other", "ca=maybe", "name=a&name=b", "page=x"] {
        assert_eq!(refusal(&world.get(TENANT, &format!("{}?{wrong}", list())).await).0, 400, "{wrong}");
    }
}

#[tokio::test]
async fn is_not_deleted_while_a_project_binds_it() {
    let world = zoned().await;
    let leaf = world.of_account(&world.leaf("one")).await["id"].clone();
    let roots = world.of_account(&json!({"ca": true, "certificates": world.ca})).await["id"].clone();
    let one = |id: &Value| format!("{}/{}", list(), id.as_str().unwrap());
    world.bind("pay.example", "https://a.example", &leaf).await;
    world.bind("web.example", "*", &leaf).await;
    world.bind("web.example", "*", &roots).await;
    let active = json!({"service": "egress", "status": "active"});
    assert_eq!(result(world.get(TENANT, &format!("{}/associations", one(&leaf))).await), json!([active, active]));
    assert_eq!(result(world.get(TENANT, &format!("{}/associations", one(&roots))).await), json!([active]));
    for id in [&leaf, &roots] {
        let (status, number, said) = refusal(&world.delete(TENANT, &one(id)).await);
        assert_eq!((status, number), (400, 1433));
        assert!(said.starts_with("Certificate cannot be deleted while in use."), "{said}");
        assert!(said.contains("web.example"), "{said}");
    }
    // Letting go is seen at once.
    world.unbind("pay.example", "origin=https://a.example").await;
    assert_eq!(refusal(&world.delete(TENANT, &one(&leaf)).await).1, 1433);
    world.unbind("web.example", &format!("origin=*&certId={}", roots.as_str().unwrap())).await;
    assert_eq!(world.delete(TENANT, &one(&roots)).await.status, 200);
    world.unbind("web.example", "origin=*").await;
    assert_eq!(world.delete(TENANT, &one(&leaf)).await.status, 200);
}

#[tokio::test]
async fn the_same_certificates_again_are_refused_unless_it_is_a_second_try() {
    let world = zoned().await;
    for body in [world.leaf("one"), json!({"ca": true, "certificates": world.ca})] {
        let first = world.of_account(&body).await;
        let (status, number, said) = refusal(&world.send(TENANT, "POST", &list(), &body).await);
        assert_eq!((status, number), (400, 1471));
        assert!(said.contains(first["id"].as_str().unwrap()), "{said}");
        assert_eq!(result(world.retried(&list(), "2", &body).await), first);
    }
}

#[tokio::test]
async fn says_what_is_wrong_with_an_upload() {
    let world = zoned().await;
    let (one, other) = (world.leaf("one"), world.leaf("other"));
    let with = |field: &str, value: Value| {
        let mut body = one.clone();
        body[field] = value;
        body
    };
    let text = |field: &str| one[field].as_str().unwrap().to_owned();
    let both = format!("{}{}", text("certificates"), text("private_key"));
    for (body, number, pointer, says) in [
        (with("private_key", other["private_key"].clone()), 2200, "/private_key", "does not belong"),
        (with("certificates", world.ca.clone().into()), 2101, "/certificates", "there is no leaf in it"),
        (with("certificates", both.into()), 1408, "/certificates", "private key"),
        (with("ca", true.into()), 1411, "/certificates", "certificates: "),
        (with("private_key", Value::Null), 10400, "/private_key", "is missing; a client certificate"),
        (
            json!({"ca": false, "certificates": one["certificates"]}),
            10400,
            "/private_key",
            "is missing; a client certificate",
        ),
        (json!({"certificates": one["certificates"]}), 10400, "/ca", "is missing"),
        (json!({"ca": true, "certificates": "x"}), 1408, "/certificates", "certificates: "),
        (with("name", "x".repeat(256).into()), 10400, "/name", "longer than 255"),
    ] {
        let reply = world.send(TENANT, "POST", &list(), &body).await;
        assert_eq!(reply.status, 400, "{says}: {}", reply.body);
        let found = reply.body["errors"].as_array().unwrap().iter().find(|e| e["source"]["pointer"] == pointer);
        let found = found.unwrap_or_else(|| panic!("{pointer}: {}", reply.body));
        assert_eq!(found["code"], number, "{says}: {}", reply.body);
        assert!(found["message"].as_str().unwrap().contains(says), "{says} in {found}");
    }
    assert_eq!(result(world.get(TENANT, &list()).await), json!([]), "a refusal changes nothing");
    // A bundle has no use for a key; that is said, and it is not kept.
    let reply = world
        .send(TENANT, "POST", &list(), &json!({"ca": true, "certificates": world.ca, "private_key": "SECRET"}))
        .await;
    assert_eq!(
        reply.body["messages"],
        json!([{"code": 1000, "message": "private_key: a CA bundle has no use for it; it was not kept"}])
    );
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn reading_takes_one_project_of_the_account_and_writing_all() {
    let world = zoned().await;
    let id = world.of_account(&world.leaf("one")).await["id"].as_str().unwrap().to_owned();
    let one = format!("{}/{id}", list());
    for target in [list(), one.clone(), format!("{one}/associations")] {
        assert_eq!(world.get(PAY, &target).await.status, 200, "{target}");
        assert_eq!(refusal(&world.get(PAYMENTS, &target).await).0, 403, "{target}");
        assert_eq!(refusal(&world.get(PAYMENTS, &target.replace(ACCOUNT, NOBODYS)).await).0, 403, "{target}");
        assert_eq!(refusal(&world.get(ADMIN, &target.replace(ACCOUNT, NOBODYS)).await).1, 7003, "{target}");
    }
    for token in [PAY, PAYMENTS, READER] {
        assert_eq!(refusal(&world.send(token, "POST", &list(), &world.leaf("two")).await).0, 403, "{token}");
        assert_eq!(refusal(&world.delete(token, &one).await).0, 403, "{token}");
    }
    assert!(refusal(&world.delete(PAY, &one).await).2.contains("every project of this account"));
    assert_eq!(world.delete(TENANT, &one).await.status, 200);
}

/// What may bind an account's certificates reads them, and presents them as its own.
#[tokio::test]
async fn nobody_gets_into_an_account_by_making_a_project_of_it() {
    let world = zoned().await;
    let id = world.of_account(&world.leaf("one")).await["id"].clone();
    let reply = world.delete(ADMIN, "/v1/projects/payments").await;
    assert_eq!(reply.status, 403, "it is declared");
    let rent = |account: &str| json!({"name": "payments", "team": {"slug": "rent"}, "accountId": account});
    let refused = world.send(LANDLORD, "POST", "/v1/projects", &rent(ACCOUNT)).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (403, "forbidden"));
    let nobodys = world.send(LANDLORD, "POST", "/v1/projects", &rent(NOBODYS)).await;
    assert_eq!((nobodys.status, nobodys.body), (refused.status, refused.body), "existing or not");
    for target in [list(), format!("{}/{}", list(), id.as_str().unwrap())] {
        assert_eq!(refusal(&world.get(LANDLORD, &target).await).0, 403, "{target}");
    }
    let plain =
        world.send(LANDLORD, "POST", "/v1/projects", &json!({"name": "payments", "team": {"slug": "rent"}})).await;
    assert_eq!(plain.status, 200, "{}", plain.body);
    assert_eq!(
        world.send(ADMIN, "POST", "/v1/projects", &json!({"name": "new", "accountId": ACCOUNT})).await.status,
        200
    );
}

#[tokio::test]
async fn says_where_a_certificate_is_that_is_looked_for_in_the_wrong_list() {
    let world = zoned().await;
    let of_account = world.of_account(&world.leaf("one")).await["id"].as_str().unwrap().to_owned();
    let of_zone = world.listed_in(&zone_list(ZONE), "zone").await["id"].as_str().unwrap().to_owned();
    for reply in [
        world.get(TENANT, &format!("{}/{of_zone}", list())).await,
        world.delete(TENANT, &format!("{}/{of_zone}", list())).await,
    ] {
        let (status, number, said) = refusal(&reply);
        assert_eq!((status, number), (404, 1472));
        assert!(said.contains("one of the zone's own certificates"), "{said}");
    }
    for target in [zone_list(ZONE), format!("{}/hostnames/certificates", zone_list(ZONE))] {
        let (status, _, said) = refusal(&world.get(TENANT, &format!("{target}/{of_account}")).await);
        assert_eq!(status, 404);
        assert!(said.contains("one of the account's mTLS certificates"), "{said}");
    }
    let config = json!({"config": [{"hostname": "a.example", "cert_id": of_account, "enabled": true}]});
    let reply = world.send(TENANT, "PUT", &format!("{}/hostnames", zone_list(ZONE)), &config).await;
    assert_eq!((refusal(&reply).0, refusal(&reply).1), (400, 1415));
    assert!(refusal(&reply).2.contains("one of the account's mTLS certificates"), "{}", reply.body);
}
