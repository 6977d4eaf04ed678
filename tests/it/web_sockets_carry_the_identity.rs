//! WebSocket as Python's `websockets` speaks it, on both sides: the partner's certificate is presented by `wss://` and
//! by `ws://` under `egret run --`, and through a sidecar; to nginx in front of the server, and to a server that
//! demands it itself.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::laptop::{Laptop, NAME, Served, client, python};
use crate::harness::stdout_of;
use crate::harness::world::World;

/// A conversation under `egret run --`.
#[track_caller]
fn talk(laptop: &Laptop, url: &str) {
    let said = stdout_of(&mut laptop.run(&[&python(), &client("websocket_talk.py"), url]));
    let said: Value = serde_json::from_str(&said).expect("JSON");
    let subject = laptop.client.subject();
    assert_eq!(said["texts"], json!([format!("{subject} first"), format!("{subject} second")]), "{url}: {said}");
    assert_eq!(said["bytes"], true, "{url}: 3 MB came back as they were");
    assert_eq!((&said["code"], &said["reason"]), (&json!(4001), &json!("as you say")), "{url}: the close crosses");
}

/// nginx offers HTTP/2 as well: an upgrade goes to it by HTTP/1.1 all the same.
#[test]
fn to_nginx_in_front_of_the_server() {
    let server = Served::start("websocket_echo.py", &[Path::new("plain")]);
    let address = ([127, 0, 0, 1], server.port).into();
    let laptop = Laptop::among(World::new(), |site| site.http2().web_socket(address), |setup| setup);
    let (wss, ws) =
        (laptop.https("/socket").replacen("https", "wss", 1), laptop.http("/socket").replacen("http", "ws", 1));
    talk(&laptop, &wss);
    talk(&laptop, &ws);
    // With the credential that an egret of `egret run`'s own asks for.
    let laptop = laptop.stop();
    talk(&laptop, &wss);
    talk(&laptop, &ws);
    for request in laptop.nginx.seen() {
        assert_eq!(
            (request.subject, request.http.as_str(), request.status.as_str()),
            (laptop.client.subject(), "HTTP/1.1", "101"),
        );
    }
}

#[test]
fn to_a_server_that_demands_the_certificate() {
    let world = World::new();
    let [cert, key, _] = world.server(&[NAME]).write(world.path("").as_path());
    let clients = world.write("clients.pem", &world.partner.pem());
    let server = Served::start("websocket_echo.py", &[&cert, &key, &clients]);
    let url = format!("https://{NAME}:{}", server.port);
    let laptop = Laptop::among(
        world,
        |site| site,
        |setup| {
            setup.listener("dev", "forward", "project = \"default\"").listener(
                "partner",
                "sidecar",
                &format!("project = \"default\"\norigin = \"{url}\""),
            )
        },
    );
    laptop.egret().upload("default", Some(&url), &laptop.client);
    talk(&laptop, &format!("wss://{NAME}:{}/", server.port));
    talk(&laptop, &format!("ws://{NAME}:{}/", server.port));
    talk(&laptop, &format!("ws://{}/", laptop.egret().listener("partner")));
}
