//! From the answer to an upload or a delete on, no request uses the certificate that was there before: not on
//! kept-alive connections, not on resumed ones, in no mode.

use serde_json::json;

use crate::harness::certificates::Pair;
use crate::harness::clients::{Client, Job};
use crate::harness::egret::{Setup, upload_body};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::origin::Next;
use crate::harness::partner::{Partner, Way};
use crate::harness::world::World;

fn say_subject(conversation: &mut crate::harness::origin::Conversation) -> std::io::Result<Next> {
    let subject = conversation.subject.clone().unwrap_or_default();
    conversation.answer("200 OK", "", &subject)
}

#[test]
fn on_open_connections_of_every_way_in() {
    let partner = Partner::start(|conversation, _| say_subject(conversation));
    let origin = partner.origin.origin(crate::harness::partner::NAME);
    let mut doors: Vec<_> = Way::ALL.into_iter().map(|way| (way, partner.open(way))).collect();
    let mut last = partner.client.clone();
    for round in 0..5 {
        for (way, door) in &mut doors {
            for _ in 0..2 {
                let reply = door.exchange("GET", "/", "");
                assert_eq!((reply.status, reply.text()), (200, last.name.clone()), "round {round}, {way:?}");
            }
        }
        last = partner.world.client(&format!("client-{round}"));
        let path = "/v1/projects/default/client-cert";
        let (status, answer) = partner.egret.api("POST", path, Some(&upload_body(Some(&origin), &last)));
        assert_eq!((status, &answer["updated"]), (200, &json!(true)), "{answer}");
    }
    let (_, list) = partner.egret.api("GET", "/v1/projects/default/client-cert", None);
    let id = list["clientCerts"][0]["id"].as_str().expect("one certificate").to_owned();
    partner.egret.delete("default", &id);
    let before = partner.origin.heads().len();
    for (way, door) in &mut doors {
        door.head("GET", "/", "");
        match (way, door.wire.try_reply("GET")) {
            // Not lifted any more: plain http to a TLS port, which the origin cannot read.
            (Way::Lifted, Ok(reply)) => assert!(reply.status >= 400, "{reply:?}"),
            (_, Ok(reply)) => reply.assert_failure(502, "mtls.required_none_registered"),
            // egret may end an intercepted connection whose reason is gone.
            (way, Err(_)) => assert_eq!(*way, Way::Intercepted),
        }
    }
    assert_eq!(partner.origin.heads().len(), before, "no request reached the origin");
    let (status, _) = partner.egret.api("DELETE", &format!("/v1/projects/default/client-cert/{id}"), None);
    assert_eq!(status, 404, "the second delete");
}

#[test]
fn through_clients_that_keep_their_connections() {
    let world = World::new();
    let name = "api.partner.test";
    let nginx = Nginx::start(&[Site::demanding(&[name], &world.server(&[name]), &world.partner.pem())]);
    let egret = Setup::new(&world).hosts(&[name]).start();
    let (first, second, wide) = (world.client("first"), world.client("second"), world.client("project-wide"));
    egret.upload("default", None, &wide);
    egret.upload("default", Some(&nginx.origin(name)), &first);
    let https = Job::get(format!("{}/", nginx.origin(name))).through(egret.proxy()).trusting(&egret.ca());
    let http = Job::get(format!("http://{name}:{}/", nginx.port())).through(egret.proxy());
    let mut clients = [
        ("curl", Client::Curl),
        ("requests", Client::python("requests")),
        ("urllib", Client::python("urllib")),
        ("node http", Client::node("http")),
        ("undici", Client::node("undici")),
    ];
    let mut all_see = |pair: &Pair, lifted: bool| {
        for (client_name, client) in &mut clients {
            assert_eq!(client.send(&https).seen("serial"), pair.serial, "{client_name}, https");
            if lifted {
                assert_eq!(client.send(&http).seen("serial"), pair.serial, "{client_name}, http");
            }
        }
    };
    all_see(&first, true);
    let id = egret.upload("default", Some(&nginx.origin(name)), &second);
    all_see(&second, true);
    // Without the exact binding the project-wide certificate is next in line.
    egret.delete("default", &id);
    all_see(&wide, false);
}
