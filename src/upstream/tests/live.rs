//! Rules and limits that are replaced while connections are kept.

use std::collections::HashMap;

use super::script::Script;
use super::*;

/// Only with this exception is the origin reached: 0.0.0.0 leads to this machine, and the guard refuses it.
fn excepted() -> EgressSettings {
    let exception = ("0.0.0.0/32".parse().unwrap(), None);
    EgressSettings { allow: vec![Pattern::Default], allow_addresses: vec![exception], ..EgressSettings::default() }
}

fn guarded() -> EgressSettings {
    EgressSettings { allow_addresses: Vec::new(), ..excepted() }
}

async fn scene(behaviour: Behaviour) -> (World, Client) {
    let world = World::start(behaviour).await;
    let hosts = HashMap::from([(world.origin.host().clone(), vec!["0.0.0.0".parse().unwrap()])]);
    let client = Client::by(WaysOut { hosts, ..WaysOut::default() }, &Limits::default());
    client.policy.replace(&excepted());
    (world, client)
}

/// Over HTTP/1.1 and over HTTP/2.
fn both() -> [Behaviour; 2] {
    [Behaviour::default(), Behaviour { h2: Some(Script::Limit(100)), ..Behaviour::default() }]
}

impl Client {
    async fn eventually(&self, holds: impl Fn(super::super::PoolState) -> bool) {
        let all = async {
            while !holds(self.upstreams.pool_state()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), all).await.expect("the pool comes to it");
    }

    async fn idles(&self, connections: usize) {
        self.eventually(|pool| pool.idle == connections).await;
    }
}

#[tokio::test]
async fn a_kept_connection_to_an_address_that_is_refused_by_now_takes_no_request() {
    for behaviour in both() {
        let (world, client) = scene(behaviour).await;
        let tls = world.tls("alice");
        client.get(&tls, &world.origin).await;
        assert!(client.get(&tls, &world.origin).await.1, "the connection is kept");
        client.policy.replace(&guarded());
        assert_eq!(code(client.send(&tls, &world.origin, Method::GET).await), Code::PolicyAddressDenied);
        assert_eq!(world.seen().requests, 2);

        client.policy.replace(&excepted());
        assert!(!client.get(&tls, &world.origin).await.1, "the connection was closed");
        assert_eq!(world.seen().connections, 2);
    }
}

#[tokio::test]
async fn a_kept_connection_to_an_origin_that_is_denied_by_now_takes_no_request() {
    for behaviour in both() {
        let (world, client) = scene(behaviour).await;
        let tls = world.tls("alice");
        client.get(&tls, &world.origin).await;
        client
            .policy
            .replace(&EgressSettings { deny: vec![Pattern::parse(&world.origin.to_string()).unwrap()], ..excepted() });
        assert_eq!(code(client.send(&tls, &world.origin, Method::GET).await), Code::PolicyOriginDenied);
        assert_eq!(world.seen().requests, 1);
    }
}

#[tokio::test]
async fn rules_that_still_permit_a_kept_connection_keep_it() {
    for behaviour in both() {
        let (world, client) = scene(behaviour).await;
        let tls = world.tls("alice");
        client.get(&tls, &world.origin).await;
        let other = Pattern::parse("https://other.test").unwrap();
        client.policy.replace(&EgressSettings { deny: vec![other], ..excepted() });
        assert!(client.get(&tls, &world.origin).await.1);
    }
}

#[tokio::test]
async fn an_idle_connection_to_a_refused_address_is_closed_without_a_request() {
    let (world, client) = scene(Behaviour::default()).await;
    client.get(&world.tls("alice"), &world.origin).await;
    assert_eq!(client.upstreams.pool_state().idle, 1);
    client.policy.replace(&guarded());
    client.idles(0).await;
}

#[tokio::test]
async fn a_tunnel_is_opened_by_the_rules_of_that_moment() {
    let (world, client) = scene(Behaviour::default()).await;
    let (host, port) = (world.origin.host(), world.origin.port());
    client.upstreams.dial(&client.project, host, port).await.unwrap();
    client
        .policy
        .replace(&EgressSettings { deny: vec![Pattern::parse(&world.origin.to_string()).unwrap()], ..excepted() });
    let denied = client.upstreams.dial(&client.project, host, port).await.unwrap_err();
    assert_eq!(denied.code, Code::PolicyOriginDenied);
}

#[tokio::test]
async fn fewer_idle_connections_are_kept_as_soon_as_the_limit_says_so() {
    let (world, client) = scene(Behaviour::default()).await;
    let tls = world.tls("alice");
    let send = || async { client.send(&tls, &world.origin, Method::GET).await.ok().unwrap() };
    for reply in [send().await, send().await, send().await] {
        read(reply).await.unwrap();
    }
    client.idles(3).await;
    client.limits.replace(Limits { max_idle_per_origin: 1, ..Limits::default() });
    client.idles(1).await;
    client.limits.replace(Limits { max_idle_per_origin: 0, ..Limits::default() });
    client.idles(0).await;
}

#[tokio::test]
async fn who_waits_at_the_cap_goes_on_when_it_is_raised() {
    let (world, client) = scene(Behaviour { stall_body: true, ..Behaviour::default() }).await;
    let client = Arc::new(client);
    let limits = |most| Limits { max_connections_per_origin: most, ..Limits::default() };
    client.limits.replace(limits(1));
    let tls = world.tls("alice");
    let _busy = client.send(&tls, &world.origin, Method::GET).await.ok().unwrap();
    let second = tokio::spawn({
        let (client, tls, origin) = (client.clone(), tls.clone(), world.origin.clone());
        async move { client.send(&tls, &origin, Method::GET).await.ok().unwrap() }
    });
    client.eventually(|pool| pool.waiting == 1).await;
    client.limits.replace(limits(2));
    tokio::time::timeout(Duration::from_secs(10), second).await.expect("it goes on").unwrap();
}
