//! An account's certificate is bound in two projects: both present it, each on connections and tickets of its own, and
//! it is deleted only when neither names it any more.

use serde_json::{Value, json};

use crate::harness::certificates::Pair;
use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::origin::{Next, Origin, Wants};
use crate::harness::wire::{Reply, Wire, absolute};
use crate::harness::world::World;
use crate::harness::{command, eventually, repository, stdout_of};

const NAME: &str = "api.shared.test";
const OTHER: &str = "other.shared.test";
const PROJECTS: [&str; 2] = ["alpha", "beta"];
const OURS: &str = "0123456789abcdef0123456789abcdef";
const THEIRS: &str = "fedcba9876543210fedcba9876543210";

/// Two projects of our account, and one of another, each with a way in.
fn egret(world: &World) -> Egret {
    let mut setup = Setup::new(world).hosts(&[NAME, OTHER]);
    for (project, account) in [("alpha", OURS), ("beta", OURS), ("gamma", THEIRS)] {
        setup = setup
            .listener(project, "forward", &format!("project = \"{project}\""))
            .section(&format!("[[projects]]\nname = \"{project}\"\naccount_id = \"{account}\""));
    }
    setup.start()
}

fn nginx(world: &World) -> Nginx {
    Nginx::start(&[Site::demanding(&[NAME, OTHER], &world.server(&[NAME, OTHER]), &world.partner.pem())])
}

fn path(rest: &str) -> String {
    format!("/client/v4/accounts/{OURS}/mtls_certificates{rest}")
}

/// Uploads a client certificate to our account; its id.
#[track_caller]
fn hold(egret: &Egret, pair: &Pair) -> String {
    let body = json!({ "ca": false, "name": pair.name, "certificates": pair.chain, "private_key": pair.key });
    let (status, answer) = egret.api("POST", &path(""), Some(&body));
    assert_eq!(status, 200, "{answer}");
    answer["result"]["id"].as_str().expect("an id").to_owned()
}

fn bind(egret: &Egret, project: &str, origin: &str, id: &str) -> (u16, Value) {
    egret.api("PUT", &format!("/v1/projects/{project}/bindings"), Some(&json!({ "origin": origin, "certId": id })))
}

#[track_caller]
fn unbind(egret: &Egret, project: &str, origin: &str) {
    let (status, answer) = egret.api("DELETE", &format!("/v1/projects/{project}/bindings?origin={origin}"), None);
    assert_eq!(status, 200, "{answer}");
}

fn ask(egret: &Egret, project: &str, origin: &str) -> Reply {
    absolute(egret.listener(project), "GET", &format!("{origin}/"))
}

#[track_caller]
fn is_not_presented(reply: &Reply) {
    assert!(reply.text().contains("No required SSL certificate was sent"), "{} {}", reply.status, reply.text());
}

#[test]
fn two_projects_present_one_certificate_on_connections_of_their_own() {
    let world = World::new();
    let nginx = nginx(&world);
    let egret = egret(&world);
    let id = hold(&egret, &world.client("shared"));
    is_not_presented(&ask(&egret, "alpha", &nginx.origin(NAME)));
    // As a person binds it, and as a program does.
    stdout_of(&mut egret.cli(&["certs", "bind", &nginx.origin(NAME), &id, "--project", "alpha"]));
    let (status, answer) = bind(&egret, "beta", &nginx.origin(NAME), &id);
    assert_eq!((status, &answer["updated"]), (200, &json!(false)), "{answer}");
    let authority = format!("{NAME}:{}", nginx.port());
    let mut wires: Vec<_> =
        PROJECTS.map(|project| (project, Wire::connect(egret.listener(project)), Vec::new())).into();
    for _ in 0..30 {
        for (_, wire, connections) in &mut wires {
            let reply = wire.request("GET", &format!("https://{authority}/"), &authority);
            assert_eq!(reply.seen("subject"), "CN=shared");
            connections.push(reply.seen("connection"));
        }
    }
    let [(_, _, alpha), (_, _, beta)] = &wires[..] else { unreachable!("two projects") };
    assert!(alpha.iter().all(|connection| !beta.contains(connection)), "{alpha:?} {beta:?}");
    for used in [alpha, beta] {
        let first = used.iter().filter(|connection| **connection == used[0]).count();
        assert!(first > 20, "connections are kept alive: {used:?}");
    }
    // Not for a project of another account, nor for one of none.
    for project in ["gamma", "default"] {
        let (status, answer) = bind(&egret, project, &nginx.origin(NAME), &id);
        assert_eq!(status, 404, "{answer}");
    }
    is_not_presented(&ask(&egret, "gamma", &nginx.origin(NAME)));

    for project in PROJECTS {
        let (_, details) = egret.api("GET", &format!("/v1/projects/{project}/certificates/{id}"), None);
        assert_eq!((&details["holder"], &details["bindings"]), (&json!("account"), &json!([nginx.origin(NAME)])));
        let (_, listed) = egret.api("GET", &format!("/v1/projects/{project}/client-cert"), None);
        assert_eq!(listed["clientCerts"], json!([{ "origin": nginx.origin(NAME), "id": id }]));
        let (status, refused) = egret.api("DELETE", &format!("/v1/projects/{project}/client-cert/{id}"), None);
        assert!(status == 403 && refused.to_string().contains("belongs to the account"), "{refused}");
        let explained = |more: &[&str]| {
            let told = stdout_of(egret.cli(&["explain", &nginx.origin(NAME), "--project", project]).args(more));
            (told.contains("of the account's mTLS certificates"), told)
        };
        let (is_said, told) = explained(&[]);
        assert!(is_said, "{told}");
    }
}

#[test]
fn no_ticket_of_one_project_is_used_by_the_other() {
    let world = World::new();
    let wants = world.partner.pem();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::CertificateOf(&wants), |conversation, _| {
        let subject = conversation.subject.clone().unwrap_or_default();
        conversation.answer("200 OK", "Connection: close\r\n", &subject)?;
        Ok(Next::Close)
    });
    let egret = egret(&world);
    let id = hold(&egret, &world.client("shared"));
    for project in PROJECTS {
        assert_eq!(bind(&egret, project, &origin.origin(NAME), &id).0, 200);
    }
    // Alpha has tickets in hand when beta comes for the first time.
    let resumed = |project: &str, round: usize| {
        assert_eq!(ask(&egret, project, &origin.origin(NAME)).text(), "shared");
        eventually("it was seen", || origin.seen().get(round).map(|seen| seen.resumed))
    };
    let alpha: Vec<_> = (0..5).map(|round| resumed("alpha", round)).collect();
    assert!(!alpha[0] && alpha[1..].contains(&true), "tickets are used at all: {alpha:?}");
    let beta: Vec<_> = (5..10).map(|round| resumed("beta", round)).collect();
    assert!(!beta[0] && beta[1..].contains(&true), "the first has none that it could use: {beta:?}");
}

#[test]
fn it_is_deleted_when_no_binding_names_it_any_more_and_not_before() {
    let world = World::new();
    let nginx = nginx(&world);
    let egret = egret(&world);
    let id = hold(&egret, &world.client("shared"));
    let at = nginx.origin(NAME);
    for project in PROJECTS {
        assert_eq!(bind(&egret, project, &at, &id).0, 200);
    }
    let delete = || egret.api("DELETE", &path(&format!("/{id}")), None);
    let associations = || {
        let (status, answer) = egret.api("GET", &path(&format!("/{id}/associations")), None);
        assert_eq!(status, 200, "{answer}");
        answer["result"].clone()
    };
    let one = json!({ "service": "egress", "status": "active" });
    assert_eq!(associations(), json!([one, one]));
    let (status, refused) = delete();
    let said = refused["errors"][0]["message"].as_str().expect("a message");
    assert!(status == 400 && said.starts_with("Certificate cannot be deleted while in use."), "{refused}");
    assert!(PROJECTS.iter().all(|project| said.contains(&format!("{at} in project {project}"))), "{said}");

    unbind(&egret, "alpha", &at);
    is_not_presented(&ask(&egret, "alpha", &at));
    assert_eq!(ask(&egret, "beta", &at).seen("subject"), "CN=shared");
    assert_eq!(associations(), json!([one]));
    assert_eq!(delete().0, 400);
    unbind(&egret, "beta", &at);
    assert_eq!(associations(), json!([]));
    let (status, deleted) = delete();
    assert_eq!((status, &deleted["result"]["id"]), (200, &json!(id)), "{deleted}");
    is_not_presented(&ask(&egret, "beta", &at));
    assert_eq!(egret.api("GET", &path(&format!("/{id}")), None).0, 404);
    assert_eq!(bind(&egret, "beta", &at, &id).0, 404);
    assert_eq!(egret.api("GET", &path(""), None).1["result"], json!([]));
}

#[test]
fn a_restart_keeps_it_and_a_damaged_record_makes_its_bindings_fail() {
    let world = World::new();
    let nginx = nginx(&world);
    let egret = egret(&world);
    let (shared, sound) = (hold(&egret, &world.client("shared")), hold(&egret, &world.client("sound")));
    for (project, name, id) in [("alpha", NAME, &shared), ("beta", NAME, &shared), ("alpha", OTHER, &sound)] {
        assert_eq!(bind(&egret, project, &nginx.origin(name), id).0, 200);
    }
    let held = egret.api("GET", &path(""), None);
    let home = egret.stop();
    let told =
        stdout_of(home.cli(&["explain", &nginx.origin(NAME), "--project", "alpha", "--json"]).env_remove("EGRET_URL"));
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((&told["certificate"]["id"], &told["certificate"]["holder"]), (&json!(shared), &json!("account")));
    assert_eq!((&told["live"], &told["certificate"]["status"]), (&json!(false), &json!("sealed")), "{told}");
    let egret = home.start();
    assert_eq!(egret.api("GET", &path(""), None), held);
    for (project, name, subject) in
        [("alpha", NAME, "CN=shared"), ("beta", NAME, "CN=shared"), ("alpha", OTHER, "CN=sound")]
    {
        assert_eq!(ask(&egret, project, &nginx.origin(name)).seen("subject"), subject);
    }

    let data_dir = egret.data_dir().clone();
    let home = egret.stop();
    let damage = repository("tests/clients/damage_record.py");
    let damaged = stdout_of(command("python3").arg(damage).arg(&data_dir).arg(&shared));
    assert!(!damaged.trim().is_empty(), "something was damaged");
    let egret = home.start();
    for project in PROJECTS {
        ask(&egret, project, &nginx.origin(NAME)).assert_failure(403, "mtls.identity_unavailable");
    }
    assert_eq!(ask(&egret, "alpha", &nginx.origin(OTHER)).seen("subject"), "CN=sound");
    let quarantined = egret.api("GET", "/v1/status", None).1["store"]["quarantined"].to_string();
    assert!(quarantined.contains(&shared) && quarantined.contains(OURS), "{quarantined}");
    let delete = || egret.api("DELETE", &path(&format!("/{shared}")), None);
    assert_eq!(delete().0, 400, "two bindings name it");
    for project in PROJECTS {
        unbind(&egret, project, &nginx.origin(NAME));
    }
    assert_eq!(delete().0, 200);
    assert_eq!(delete().0, 404);
    assert_eq!(egret.api("GET", "/v1/status", None).1["store"]["quarantined"], json!([]));
    let (_, held) = egret.api("GET", &path(""), None);
    assert_eq!((held["result"].as_array().map(Vec::len), &held["result"][0]["id"]), (Some(1), &json!(sound)));
}

#[test]
fn a_project_that_leaves_the_account_loses_it_and_gets_it_back() {
    let world = World::new();
    let nginx = nginx(&world);
    let egret = egret(&world);
    let id = hold(&egret, &world.client("shared"));
    let at = nginx.origin(NAME);
    for project in PROJECTS {
        assert_eq!(bind(&egret, project, &at, &id).0, 200);
    }
    let alpha = |account: &str| format!("name = \"alpha\"\naccount_id = \"{account}\"");
    egret.reconfigure(|text| text.replace(&alpha(OURS), &alpha(THEIRS)));
    egret.hang_up();
    let lost = eventually("it is another account's", || Some(ask(&egret, "alpha", &at)).filter(|r| r.status != 200));
    lost.assert_failure(403, "mtls.identity_unavailable");
    assert!(lost.text().contains("egret certs upload --project 'alpha' --origin"), "{}", lost.text());
    assert_eq!(ask(&egret, "beta", &at).seen("subject"), "CN=shared");
    let (_, details) = egret.api("GET", &format!("/v1/projects/alpha/certificates/{id}"), None);
    assert!(details["reason"].to_string().contains("another account"), "{details}");
    egret.reconfigure(|text| text.replace(&alpha(THEIRS), &alpha(OURS)));
    egret.hang_up();
    let back = eventually("it is its account again", || Some(ask(&egret, "alpha", &at)).filter(|r| r.status == 200));
    assert_eq!(back.seen("subject"), "CN=shared");
}
