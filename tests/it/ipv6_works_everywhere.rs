//! IPv6 from end to end: listeners, origins by literal and by name, the management API, and the guard of egret's own
//! ports.

use crate::harness::clients::curl_command;
use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::stdout_of;
use crate::harness::wire::{Wire, absolute};
use crate::harness::world::World;

const NAME: &str = "api.partner.test";

fn scene() -> (World, Nginx, Egret) {
    let world = World::new();
    let pair = world.server(&["::1", NAME]);
    let nginx = Nginx::start_on("[::1]", &[Site::demanding(&[NAME], &pair, &world.partner.pem())]);
    let sidecar = format!("project = \"default\"\norigin = \"https://[::1]:{}\"", nginx.port());
    let egret = Setup::new(&world)
        .listener_at("[::1]:0", "six", "forward", "project = \"default\"")
        .listener("four", "forward", "project = \"default\"")
        .listener_at("[::1]:0", "side", "sidecar", &sidecar)
        .management("listen = \"[::1]:0\"")
        .host(NAME, "::1")
        .start();
    for origin in [format!("https://[::1]:{}", nginx.port()), nginx.origin(NAME)] {
        egret.upload("default", Some(&origin), &world.client("the-client"));
    }
    (world, nginx, egret)
}

#[test]
fn every_way_in_reaches_an_ipv6_origin() {
    let (_world, nginx, egret) = scene();
    let ca = egret.ca_pem();
    assert!(egret.announced("six").starts_with("[::1]:"));
    for listener in ["six", "four"] {
        let proxy = egret.listener(listener);
        for host in ["[::1]", "[0:0:0:0:0:0:0:1]", NAME] {
            let authority = format!("{host}:{}", nginx.port());
            for scheme in ["https", "http"] {
                let reply = absolute(proxy, "GET", &format!("{scheme}://{authority}/"));
                assert_eq!(reply.seen("subject"), "CN=the-client", "{listener} {scheme} {host}");
                if host == "[::1]" {
                    assert_eq!(reply.seen("host"), authority);
                }
            }
            let tunnel = Wire::tunnel(proxy, &authority).expect("accepted");
            let name = if host == NAME { NAME } else { "::1" };
            let mut inside = tunnel.tls(name, &ca).expect("a leaf for the address");
            assert_eq!(inside.request("GET", "/", &authority).seen("subject"), "CN=the-client", "{listener} {host}");
        }
    }
    let reply = Wire::connect(egret.listener("side")).request("GET", "/", "localhost");
    assert_eq!(reply.seen("host"), format!("[::1]:{}", nginx.port()));
}

#[test]
fn curl_and_the_commands_find_it() {
    let (_world, nginx, egret) = scene();
    let mut curl = curl_command();
    curl.args(["--fail", "--globoff", "--proxy", &format!("http://{}", egret.listener("six")), "--cacert"])
        .arg(egret.ca());
    let seen = stdout_of(curl.arg(format!("https://[::1]:{}/", nginx.port())));
    assert!(seen.contains("CN=the-client"), "{seen}");
    assert!(egret.management_url.starts_with("http://[::1]:"), "{}", egret.management_url);
    let listed = stdout_of(&mut egret.cli(&["certs", "list"]));
    assert!(listed.contains(&format!("https://[::1]:{}", nginx.port())), "{listed}");
}

#[test]
fn a_blind_tunnel_goes_there_too() {
    let world = World::new();
    let nginx = Nginx::start_on("[::1]", &[Site::open(&[NAME], &world.server(&[NAME]))]);
    let egret =
        Setup::new(&world).listener_at("[::1]:0", "six", "forward", "project = \"default\"").host(NAME, "::1").start();
    let authority = format!("{NAME}:{}", nginx.port());
    let tunnel = Wire::tunnel(egret.proxy(), &authority).expect("accepted");
    let mut inside = tunnel.tls(NAME, &world.root.pem()).expect("the origin's own certificate");
    assert_eq!(inside.request("GET", "/", &authority).seen("server"), NAME);
}

#[test]
fn egrets_own_ports_are_out_of_reach_however_they_are_spelled() {
    let (_world, _nginx, egret) = scene();
    for port in [egret.management.port(), egret.listener("six").port(), egret.listener("four").port()] {
        for host in ["[::1]", "[::]", "[::ffff:127.0.0.1]", "127.0.0.1", "localhost"] {
            let reply = absolute(egret.listener("six"), "GET", &format!("http://{host}:{port}/"));
            reply.assert_failure(403, "policy.address_denied");
            let refused = Wire::tunnel(egret.listener("four"), &format!("{host}:{port}")).err();
            assert_eq!(refused.map(|reply| reply.status), Some(403), "{host}:{port}");
        }
    }
}
