//! A CA bundle of an account, bound to servers of a project, vouches for these servers: for that project, at these
//! origins, from the answer of the bind until the answer of the unbind, on kept connections and with tickets too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};

use serde_json::{Value, json};

use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::origin::{Next, Origin, Wants};
use crate::harness::wire::{Reply, Wire, absolute};
use crate::harness::world::World;
use crate::harness::{PATIENCE, eventually, stdout_of};

const NAME: &str = "internal.partner.test";
const OTHER: &str = "other.partner.test";
const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";

/// Two projects of one account, each with a listener of its name.
fn two_projects(world: &World) -> Setup {
    let project = |name: &str| format!("[[projects]]\nname = \"{name}\"\naccount_id = \"{ACCOUNT}\"");
    Setup::new(world)
        .section(&project("shop"))
        .section(&project("bank"))
        .listener("shop", "forward", "project = \"shop\"")
        .listener("bank", "forward", "project = \"bank\"")
        .hosts(&[NAME, OTHER])
}

fn get(egret: &Egret, project: &str, origin: &str) -> Reply {
    absolute(egret.listener(project), "GET", &format!("{origin}/"))
}

#[track_caller]
fn assert_unknown(reply: &Reply) {
    reply.assert_failure(502, "trust.unknown_issuer");
}

/// Makes a CA bundle of the account; its id.
#[track_caller]
fn bundle(egret: &Egret, pem: &str) -> String {
    let path = format!("/client/v4/accounts/{ACCOUNT}/mtls_certificates");
    let (status, answer) = egret.api("POST", &path, Some(&json!({"ca": true, "certificates": pem})));
    assert_eq!(status, 200, "{answer}");
    answer["result"]["id"].as_str().expect("an id").to_owned()
}

#[track_caller]
fn bind(egret: &Egret, project: &str, origin: &str, id: &str) {
    let body = json!({"origin": origin, "certId": id});
    let (status, answer) = egret.api("PUT", &format!("/v1/projects/{project}/bindings"), Some(&body));
    assert_eq!((status, &answer["ca"]), (200, &json!(true)), "{answer}");
}

#[track_caller]
fn unbind(egret: &Egret, project: &str, origin: &str, id: &str) {
    let path = format!("/v1/projects/{project}/bindings?origin={origin}&certId={id}");
    let (status, answer) = egret.api("DELETE", &path, None);
    assert_eq!((status, &answer["certId"]), (200, &json!(id)), "{answer}");
}

#[test]
fn a_server_of_a_private_ca_is_reached_by_the_project_that_has_bound_its_bundle_and_only_while_it_has() {
    let world = World::new();
    let nginx = Nginx::start(&[Site::open(&[NAME], &world.stranger.server(&[NAME])).logged()]);
    let egret = two_projects(&world).start();
    let origin = nginx.origin(NAME);
    assert_unknown(&get(&egret, "shop", &origin));
    let id = bundle(&egret, &world.stranger.pem());
    let refused = get(&egret, "shop", &origin);
    assert_unknown(&refused);
    let fix = format!("egret certs bind --project 'shop' {origin} {id}");
    assert_eq!(refused.json()["fix"], json!(fix), "it names the bundle that could vouch");
    assert!(nginx.seen().is_empty(), "no request went to a server that nobody vouched for");

    let said = stdout_of(&mut egret.cli(&["certs", "bind", "--project", "shop", &origin, &id]));
    assert!(said.contains(&format!("CA bundle {id} vouches for the servers there")), "{said}");
    let first = get(&egret, "shop", &origin);
    assert_eq!(get(&egret, "shop", &origin).seen("connection"), first.seen("connection"), "it is kept");
    let refused = get(&egret, "bank", &origin);
    assert_unknown(&refused);
    assert!(refused.json()["detail"].to_string().contains(&id), "{}", refused.text());
    let listed = egret.api("GET", "/v1/projects/shop/bindings", None).1["bindings"].clone();
    assert_eq!((&listed[0]["certId"], &listed[0]["ca"]), (&json!(id), &json!(true)), "{listed}");
    let told = stdout_of(&mut egret.cli(&["explain", "--project", "shop", &origin]));
    assert!(told.contains(&format!("a CA bundle vouches for the server of this origin: {id}")), "{told}");

    // It is in use, and says where.
    let path = format!("/client/v4/accounts/{ACCOUNT}/mtls_certificates/{id}");
    assert_eq!(egret.api("DELETE", &path, None).0, 400);
    let associations = egret.api("GET", &format!("{path}/associations"), None).1;
    assert_eq!(associations["result"].as_array().map(Vec::len), Some(1), "{associations}");

    // After a restart as well; and what configuration and store say without a running egret.
    let setup = egret.stop();
    let told = stdout_of(&mut setup.cli(&["explain", "--project", "shop", &origin]));
    assert!(told.contains(&id), "{told}");
    let egret = setup.start();
    get(&egret, "shop", &origin).seen("connection");
    assert_unknown(&get(&egret, "bank", &origin));

    let before = nginx.seen().len();
    let said = stdout_of(&mut egret.cli(&["certs", "unbind", "--project", "shop", &origin, &id]));
    assert!(said.contains(&id), "{said}");
    assert_unknown(&get(&egret, "shop", &origin));
    assert_eq!(nginx.seen().len(), before, "nothing went over the connection that was kept");
    let associations = egret.api("GET", &format!("{path}/associations"), None).1;
    assert_eq!(associations["result"], json!([]));
    assert_eq!(egret.api("DELETE", &path, None).0, 200, "it is in use no more");
}

#[test]
fn a_bundle_vouches_for_the_origins_that_its_pattern_covers_and_for_no_others() {
    let world = World::new();
    let pair = world.stranger.server(&[NAME, OTHER]);
    let [first, second] = [(), ()].map(|()| Nginx::start(&[Site::open(&[NAME, OTHER], &pair)]));
    let egret = two_projects(&world).start();
    let id = bundle(&egret, &world.stranger.pem());
    let (here, port, host) = (first.origin(NAME), second.origin(NAME), first.origin(OTHER));
    let reached = || [&here, &port, &host].map(|origin| get(&egret, "shop", origin).status == 200);
    for (pattern, expected) in [
        (here.clone(), [true, false, false]),
        (format!("https://{NAME}:*"), [true, true, false]),
        (format!("https://*.partner.test:{}", first.port()), [true, false, true]),
        ("*".to_owned(), [true, true, true]),
    ] {
        bind(&egret, "shop", &pattern, &id);
        assert_eq!(reached(), expected, "{pattern}");
        unbind(&egret, "shop", &pattern, &id);
        assert_eq!(reached(), [false; 3], "{pattern}, and no more");
    }
    // Whoever trusts the system alone trusts no bundle.
    bind(&egret, "shop", "*", &id);
    assert_eq!(reached(), [true; 3]);
    egret.reconfigure(|text| {
        text.replace("name = \"shop\"\naccount_id", "name = \"shop\"\nservers = \"system\"\naccount_id")
    });
    eventually("the change is in force", || (reached() == [false; 3]).then_some(()));
    egret.reconfigure(|text| text.replace("\nservers = \"system\"", ""));
    eventually("the bundle vouches again", || (reached() == [true; 3]).then_some(()));
}

#[test]
fn whatever_a_project_presents_the_bundle_vouches_for_the_server() {
    let world = World::new();
    let server = world.stranger.server(&[NAME, OTHER]);
    let nginx = Nginx::start(&[Site::asking(&[NAME, OTHER], &server, &world.partner.pem())]);
    let egret = two_projects(&world).start();
    let id = bundle(&egret, &world.stranger.pem());
    let origin = nginx.origin(NAME);
    bind(&egret, "shop", &origin, &id);
    assert_eq!(get(&egret, "shop", &origin).seen("subject"), "", "nothing");
    egret.upload("shop", None, &world.client("wide"));
    assert_eq!(get(&egret, "shop", &origin).seen("subject"), "CN=wide");
    let bound = egret.upload("shop", Some(&origin), &world.client("bound"));
    assert_eq!(get(&egret, "shop", &origin).seen("subject"), "CN=bound");
    let strict = json!({"origin": origin, "certId": bound, "tls13Only": true});
    assert_eq!(egret.api("PUT", "/v1/projects/shop/bindings", Some(&strict)).0, 200);
    let reply = get(&egret, "shop", &origin);
    assert_eq!((reply.seen("subject"), reply.seen("protocol")), ("CN=bound".to_owned(), "TLSv1.3".to_owned()));
    // It says nothing of what is presented: the binding of the certificate is another thing.
    unbind(&egret, "shop", &origin, &id);
    assert_unknown(&get(&egret, "shop", &origin));
    let bindings = egret.api("GET", "/v1/projects/shop/bindings", None).1;
    let ids: Vec<&Value> = bindings["bindings"].as_array().expect("a list").iter().map(|row| &row["certId"]).collect();
    assert!(ids.contains(&&json!(bound)) && !ids.contains(&&json!(id)), "{bindings}");
}

#[test]
fn no_ticket_and_no_request_outlives_the_bundle_and_what_runs_is_finished() {
    let world = World::new();
    let pair = world.stranger.server(&[NAME]);
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let origin = Origin::start(&pair, &Wants::Nothing, move |conversation, head| {
        if head.target() == "/slow" {
            conversation.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nbegun")?;
            let _ = wait.lock().expect("no thread panics with it").recv_timeout(PATIENCE);
            conversation.write(" ends")?;
        } else {
            conversation.answer("200 OK", "", "")?;
        }
        Ok(Next::Close)
    });
    let egret = two_projects(&world).start();
    let id = bundle(&egret, &world.stranger.pem());
    let at = origin.origin(NAME);
    bind(&egret, "shop", &at, &id);
    for _ in 0..2 {
        assert_eq!(get(&egret, "shop", &at).status, 200);
    }
    let seen = origin.seen();
    assert_eq!(seen.iter().map(|seen| seen.resumed).collect::<Vec<_>>(), [false, true], "there is a ticket");
    let mut slow = Wire::connect(egret.listener("shop"));
    slow.send(format!("GET {at}/slow HTTP/1.1\r\nHost: {NAME}:{}\r\n\r\n", origin.port()));
    let requests = || origin.seen().iter().map(|seen| seen.heads.len()).sum::<usize>();
    eventually("the slow request is under way", || (requests() == 3).then_some(()));
    unbind(&egret, "shop", &at, &id);
    assert_unknown(&get(&egret, "shop", &at));
    assert_eq!(requests(), 3, "and it is of no use");
    go_on.send(()).expect("the origin waits");
    assert_eq!(slow.reply("GET").text(), "begun ends");
    // Bound again it begins anew.
    bind(&egret, "shop", &at, &id);
    assert_eq!(get(&egret, "shop", &at).status, 200);
    assert!(!origin.seen().last().expect("a connection").resumed);
    assert_eq!(requests(), 4);
}

#[test]
fn not_one_request_fails_while_bundles_of_other_servers_come_and_go() {
    let world = World::new();
    let nginx = Nginx::start(&[Site::demanding(&[NAME], &world.server(&[NAME]), &world.partner.pem())]);
    let egret = two_projects(&world).start();
    let id = bundle(&egret, &world.stranger.pem());
    let origin = nginx.origin(NAME);
    egret.upload("shop", Some(&origin), &world.client("busy"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answered = 0_usize;
                    while !done.load(Ordering::Relaxed) {
                        let reply = get(&egret, "shop", &origin);
                        if reply.status != 200 {
                            return Err(format!("{} {}", reply.status, reply.text()));
                        }
                        assert_eq!(reply.seen("subject"), "CN=busy");
                        answered += 1;
                    }
                    Ok(answered)
                })
            })
            .collect();
        for _ in 0..10 {
            bind(&egret, "shop", &format!("https://{OTHER}"), &id);
            unbind(&egret, "shop", &format!("https://{OTHER}"), &id);
        }
        done.store(true, Ordering::Relaxed);
        for client in clients {
            let answered = client.join().expect("no panic").expect("no failure");
            assert!(answered > 0);
        }
    });
}
