//! Two projects, one origin, different certificates, interleaved on kept-alive and resumed connections: no crossing.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::origin::{Next, Origin, Wants};
use crate::harness::wire::{Wire, absolute};
use crate::harness::world::World;

const NAME: &str = "api.shared.test";
const PROJECTS: [&str; 2] = ["alpha", "beta"];

fn egret(world: &World) -> Egret {
    Setup::new(world)
        .listener("alpha", "forward", "project = \"alpha\"")
        .listener("beta", "forward", "project = \"beta\"")
        .project("alpha")
        .project("beta")
        .hosts(&[NAME])
        .start()
}

fn interleave_on(protocols: &'static str) {
    let world = World::new();
    let nginx =
        Nginx::start(&[Site::demanding(&[NAME], &world.server(&[NAME]), &world.partner.pem()).protocols(protocols)]);
    let egret = egret(&world);
    for project in PROJECTS {
        egret.upload(project, Some(&nginx.origin(NAME)), &world.client(project));
    }
    let authority = format!("{NAME}:{}", nginx.port());
    let mut wires: Vec<_> = PROJECTS
        .iter()
        .flat_map(|&project| {
            let listener = egret.listener(project);
            let tunnel = Wire::tunnel(listener, &authority).expect("a tunnel");
            let tunnel = tunnel.tls(NAME, &egret.ca_pem()).expect("our leaf");
            [(project, Wire::connect(listener), format!("https://{authority}/")), (project, tunnel, "/".to_owned())]
        })
        .collect();
    let mut connections: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for _ in 0..50 {
        for (project, wire, target) in &mut wires {
            let reply = wire.request("GET", target, &authority);
            assert_eq!(reply.seen("subject"), format!("CN={project}"));
            connections.entry(project).or_default().insert(reply.seen("connection"));
        }
    }
    assert!(connections["alpha"].is_disjoint(&connections["beta"]), "{connections:?}");
    assert!(connections.values().all(|used| used.len() < 10), "connections are kept alive: {connections:?}");
}

#[test]
fn on_kept_alive_connections_over_tls_1_3() {
    interleave_on("TLSv1.3");
}

#[test]
fn on_kept_alive_connections_over_tls_1_2() {
    interleave_on("TLSv1.2");
}

#[test]
fn on_resumed_connections() {
    let world = World::new();
    let wants = world.partner.pem();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::CertificateOf(&wants), |conversation, _| {
        let subject = conversation.subject.clone().unwrap_or_default();
        conversation.answer("200 OK", "Connection: close\r\n", &subject)?;
        Ok(Next::Close)
    });
    let egret = egret(&world);
    for project in PROJECTS {
        egret.upload(project, Some(&origin.origin(NAME)), &world.client(project));
    }
    for _ in 0..20 {
        for project in PROJECTS {
            let reply = absolute(egret.listener(project), "GET", &format!("{}/", origin.origin(NAME)));
            assert_eq!(reply.text(), project);
        }
    }
    for project in PROJECTS {
        let resumed =
            origin.seen().iter().filter(|seen| seen.resumed && seen.subject.as_deref() == Some(project)).count();
        assert!(resumed > 0, "{project}: tickets are used at all");
    }
}
