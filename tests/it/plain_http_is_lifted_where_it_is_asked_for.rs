//! `lift` of a project and of a binding: which plain http requests go on over TLS, and with what.

use serde_json::json;

use crate::harness::certificates::Pair;
use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::origin::{Origin, header};
use crate::harness::wire::{Reply, Wire, absolute};
use crate::harness::world::World;

const NAME: &str = "api.partner.test";
/// An origin that speaks no TLS waits for the rest of what it takes for a request; so egret does not wait long for it.
const IMPATIENT: &str = "[limits]\nhandshake_timeout = \"300ms\"";

/// A project with these keys, and an origin that asks for certificates and serves without one.
fn scene(keys: &str) -> (World, Origin, Egret) {
    let world = World::new();
    let partner = world.partner.pem();
    let wants = crate::harness::origin::Wants::PerhapsCertificateOf(&partner);
    let origin = Origin::start(&world.server(&[NAME]), &wants, |conversation, _| {
        let subject = conversation.subject.clone().unwrap_or_else(|| "nobody".to_owned());
        conversation.answer("200 OK", "Strict-Transport-Security: max-age=9\r\nAlt-Svc: h3=\":443\"\r\n", &subject)
    });
    let egret = Setup::new(&world)
        .listener("forward", "forward", "project = \"mine\"")
        .section(&format!("[[projects]]\nname = \"mine\"\n{keys}"))
        .hosts(&[NAME])
        .start();
    (world, origin, egret)
}

fn get(egret: &Egret, origin: &Origin) -> Reply {
    absolute(egret.proxy(), "GET", &format!("http://{NAME}:{}/", origin.port()))
}

/// The same inside a tunnel, as Node's agents do it.
fn get_in_tunnel(egret: &Egret, origin: &Origin) -> Reply {
    let authority = format!("{NAME}:{}", origin.port());
    let mut tunnel = Wire::tunnel(egret.proxy(), &authority).expect("accepted");
    tunnel.request("GET", "/", &authority)
}

fn bind(egret: &Egret, origin: &str, id: Option<&str>, lift: Option<bool>) {
    let mut body = json!({ "origin": origin, "certId": id });
    if let Some(lift) = lift {
        body["lift"] = json!(lift);
    }
    let (status, answer) = egret.api("PUT", "/v1/projects/mine/bindings", Some(&body));
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn always_lifts_with_whatever_applies() {
    let (world, origin, egret) = scene("lift = \"always\"");
    for reply in [get(&egret, &origin), get_in_tunnel(&egret, &origin)] {
        assert_eq!((reply.status, reply.text()), (200, "nobody".to_owned()), "without any certificate");
        assert_eq!(reply.header("strict-transport-security").or(reply.header("alt-svc")), None, "{reply:?}");
    }
    egret.upload("mine", None, &world.client("the-default"));
    assert_eq!(get(&egret, &origin).text(), "the-default");
    assert_eq!(get_in_tunnel(&egret, &origin).text(), "the-default");
    // TLS in a tunnel is as without `lift`: the origin asks, so the default is shown to it.
    let authority = format!("{NAME}:{}", origin.port());
    let tunnel = Wire::tunnel(egret.proxy(), &authority).expect("accepted");
    let mut inside = tunnel.tls(NAME, &egret.ca_pem()).expect("intercepted");
    assert_eq!(inside.request("GET", "/", &authority).text(), "the-default");
    egret.upload("mine", Some(&origin.origin(NAME)), &world.client("its-own"));
    assert_eq!(get(&egret, &origin).text(), "its-own");
}

#[test]
fn always_does_not_make_a_tunnel_of_tls_any_less_blind() {
    let world = World::new();
    let nginx = Nginx::start(&[Site::open(&[NAME], &world.server(&[NAME]))]);
    let egret =
        Setup::new(&world).section("[[projects]]\nname = \"default\"\nlift = \"always\"").hosts(&[NAME]).start();
    egret.upload("default", None, &world.client("the-default"));
    let authority = format!("{NAME}:{}", nginx.port());
    for _ in 0..2 {
        // The second time the answer of the first is remembered.
        let tunnel = Wire::tunnel(egret.proxy(), &authority).expect("accepted");
        let mut inside = tunnel.tls(NAME, &world.root.pem()).expect("the origin's own certificate, not egret's");
        assert_eq!(inside.request("GET", "/", &authority).seen("server"), NAME);
        let mut plain = Wire::tunnel(egret.proxy(), &authority).expect("accepted");
        assert_eq!(plain.request("GET", "/", &authority).seen("protocol"), "TLSv1.3");
    }
}

#[test]
fn a_none_binding_and_a_binding_that_says_no_go_plain() {
    let world = World::new();
    let origin = Origin::plain(|conversation, _| conversation.answer("200 OK", "", "in the clear"));
    let egret = Setup::new(&world)
        .listener("forward", "forward", "project = \"mine\"")
        .section("[[projects]]\nname = \"mine\"\nlift = \"always\"")
        .section(IMPATIENT)
        .hosts(&[NAME])
        .start();
    let https = origin.origin(NAME);
    assert!(https.starts_with("https://"), "{https}");
    let plain = |what: &str| {
        for reply in [get(&egret, &origin), get_in_tunnel(&egret, &origin)] {
            assert_eq!((reply.status, reply.text()), (200, "in the clear".to_owned()), "{what}");
        }
    };
    assert_eq!(get(&egret, &origin).status, 504, "lifted to an origin that speaks no TLS");
    egret.bind_none("mine", &https);
    plain("none");
    let id = egret.upload("mine", Some(&https), &world.client("first"));
    bind(&egret, &https, Some(&id), Some(false));
    plain("lift = false");
    // A new certificate for the same origin changes nothing else; nor does a PUT that does not speak of it.
    let id = egret.upload("mine", Some(&https), &world.client("second"));
    plain("after an upload");
    bind(&egret, &https, Some(&id), None);
    plain("after a PUT");
    let (_, answer) = egret.api("GET", "/v1/projects/mine/bindings", None);
    assert_eq!((&answer["bindings"][0]["lift"], &answer["bindings"][0]["certId"]), (&json!(false), &json!(id)));
    bind(&egret, &https, Some(&id), Some(true));
    assert_eq!(get(&egret, &origin).status, 504);
    assert!(origin.heads().iter().all(|head| header(head, "host").is_some_and(|host| host.starts_with(NAME))));
}

#[test]
fn never_lifts_nothing_and_what_is_bound_stays_so_after_a_restart() {
    let world = World::new();
    let origin = Origin::plain(|conversation, _| conversation.answer("200 OK", "", "in the clear"));
    let https = origin.origin(NAME);
    let never = Setup::new(&world).section("[[projects]]\nname = \"default\"\nlift = \"never\"").hosts(&[NAME]).start();
    never.upload("default", Some(&https), &world.client("bound"));
    assert_eq!(get(&never, &origin).text(), "in the clear");

    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let id = egret.upload("default", Some(&https), &world.client("bound"));
    let body = json!({ "origin": https, "certId": id, "lift": false });
    assert_eq!(egret.api("PUT", "/v1/projects/default/bindings", Some(&body)).0, 200);
    let egret = egret.stop().start();
    assert_eq!(get(&egret, &origin).text(), "in the clear", "the store kept it");
}

#[test]
fn a_declared_certificate_may_say_no() {
    let world = World::new();
    let origin = Origin::plain(|conversation, _| conversation.answer("200 OK", "", "in the clear"));
    let declare = |pair: &Pair, lift: &str| {
        let [cert, key, ca] = pair.write(&world.path(""));
        let keys = format!(
            "[[certificates]]\norigin = \"{}\"\ncert = {cert:?}\nkey = {key:?}\nca = {ca:?}\n{lift}",
            origin.origin(NAME)
        );
        Setup::new(&world).section(&keys).section(IMPATIENT).hosts(&[NAME]).start()
    };
    let egret = declare(&world.client("declared"), "lift = false");
    assert_eq!(get(&egret, &origin).text(), "in the clear");
    let egret = declare(&world.client("declared"), "");
    assert_eq!(get(&egret, &origin).status, 504);
}
