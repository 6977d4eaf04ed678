//! CA bundles that vouch for an origin, and for no other port of its host: not by a handshake, not by a ticket.

use http::Method;

use super::origin::{Behaviour, World};
use super::{Client, code};
use crate::config::Limits;
use crate::domain::{Code, Origin, PortRule};

#[tokio::test]
async fn a_ticket_of_a_port_that_a_bundle_vouches_for_is_of_no_use_at_another_port_of_the_host() {
    for tls12 in [false, true] {
        let world = World::start(Behaviour { close_after_each: true, tls12, ..Behaviour::default() }).await;
        let other = world.another_port().await;
        let client = Client::new(&Limits::default());
        let tls = world.vouched_for(PortRule::Exact(world.origin.port()));
        for _ in 0..2 {
            client.get(&tls, &world.origin).await;
        }
        let seen = world.seen();
        assert_eq!((seen.full, seen.resumed), (1, 1), "its own port resumes (TLS 1.2: {tls12})");
        let refused = client.send(&tls, &other, Method::GET).await;
        assert_eq!(code(refused), Code::TrustUnknownIssuer, "TLS 1.2: {tls12}");
        assert_eq!(world.seen().requests, 2, "no request went there");
        // And back: what happened there spoilt nothing.
        client.get(&tls, &world.origin).await;
        assert_eq!(world.seen().resumed, 2);
    }
}

/// Without this the test above could not fail: the origin does resume its sessions on both ports.
#[tokio::test]
async fn a_ticket_serves_every_port_of_a_host_where_the_bundle_vouches_for_all_of_them() {
    for tls12 in [false, true] {
        let world = World::start(Behaviour { close_after_each: true, tls12, ..Behaviour::default() }).await;
        let other = world.another_port().await;
        let client = Client::new(&Limits::default());
        let tls = world.vouched_for(PortRule::Any);
        client.get(&tls, &world.origin).await;
        client.get(&tls, &other).await;
        assert_eq!((world.seen().full, world.seen().resumed), (1, 1), "TLS 1.2: {tls12}");
    }
}

#[tokio::test]
async fn asking_first_trusts_whom_a_request_would_trust() {
    let world = World::start(Behaviour::default()).await;
    let other = world.another_port().await;
    let client = Client::new(&Limits::default());
    let tls = world.vouched_for(PortRule::Exact(world.origin.port())).over_tls13_only();
    let ask = async |origin: &Origin| client.upstreams.ask(&client.project, &tls, origin).await;
    assert!(ask(&world.origin).await.ok().flatten().is_some());
    // The question comes before the certificate is verified, so it is an answer there, too; no handshake succeeds.
    assert!(ask(&other).await.ok().flatten().is_some());
    assert_eq!(code(client.send(&tls, &other, Method::GET).await), Code::TrustUnknownIssuer);
    client.get(&tls, &world.origin).await;
    assert_eq!(world.seen().requests, 1);
}
