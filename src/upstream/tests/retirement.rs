//! What is under way when an identity is retired: handshakes, waiters, upgraded connections, keys and tickets.

use std::sync::Weak;

use super::*;
use crate::identity::Until;
use crate::upstream::Failure;
use crate::upstream::bucket::{Bucket, Spoken};
use crate::upstream::tests::script::Script;

const HOUR: Duration = Duration::from_secs(3600);

/// A minute in which the condition may come true, polled.
async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let wait = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect(what);
}

#[tokio::test]
async fn a_handshake_under_way_is_dropped_at_once_with_its_key_and_those_who_wait_for_it_select_again() {
    let world = World::start(Behaviour::default()).await;
    let (listener, origin) = mute().await;
    let client = Client::new(&Limits { max_connections_per_origin: 2, ..Limits::default() });
    let tls = world.tls("alice");
    let (key, config) = (Arc::downgrade(&tls), Arc::downgrade(&tls.config()));
    let send = || client.send(&tls, &origin, Method::GET);
    let retire = async {
        // The origin has a connection, and is never going to say anything on it.
        let _held = listener.accept().await.unwrap();
        eventually("the others wait", || client.upstreams.pool_state().waiting == 2).await;
        let before = Instant::now();
        tls.life().retire(before + HOUR);
        before
    };
    let (a, b, c, before) = tokio::join!(send(), send(), send(), retire);
    assert!(before.elapsed() < Limits::default().handshake_timeout, "nobody waited for the handshake to end by itself");
    for outcome in [a, b, c] {
        assert!(matches!(outcome, Err(Refusal::Retired(_))));
    }
    assert_eq!(client.metrics.retired_handshakes.get(), 1);
    drop(tls);
    let gone = |weak: &Weak<_>| weak.strong_count() == 0;
    tokio::time::timeout(Duration::from_secs(5), eventually("the key goes", || gone(&key))).await.expect("within 5 s");
    assert_eq!(config.strong_count(), 0, "the key and the tickets are in the configuration");
}

#[tokio::test]
async fn a_handshake_that_fails_after_the_retirement_is_no_failure_of_the_request() {
    let world = World::start(Behaviour::default()).await;
    let client = Client::new(&Limits::default());
    let tls = world.tls("alice");
    let bucket = bucket(&client, &tls, &world.origin);
    let refused = async {
        tls.life().retire(Instant::now() + HOUR);
        Err::<(), _>(Failure::new(Code::MtlsRejectedRevoked, "the origin had heard of it, too"))
    };
    assert!(client.upstreams.while_active(&bucket, refused).await.ok().unwrap().is_none());
}

#[tokio::test]
async fn a_retired_identity_leaves_no_bucket_behind() {
    let world = World::start(Behaviour::default()).await;
    let client = Client::new(&Limits::default());
    let tls = world.tls("alice");
    tls.life().retire(Instant::now() + HOUR);
    assert!(matches!(client.send(&tls, &world.origin, Method::GET).await, Err(Refusal::Retired(_))));
    assert_eq!(Arc::strong_count(&tls), 1);
}

#[tokio::test]
async fn the_first_connections_after_a_replacement_serve_all_who_want_one() {
    let world = World::start(Behaviour::default()).await;
    let client = Client::new(&Limits { max_dials_per_origin: 1, ..Limits::default() });
    let tls = world.tls("alice");
    let all = futures_util::future::join_all((0..60).map(|_| client.get(&tls, &world.origin))).await;
    assert!(all.iter().all(|(text, _)| text.starts_with("alice ")), "{all:?}");
    let made = world.seen().connections;
    assert!(made < 60, "each of 60 waited for a handshake of its own, though connections came free meanwhile");
}

#[tokio::test]
async fn who_gets_no_turn_for_a_handshake_waits_as_long_as_one_may_take() {
    let world = World::start(Behaviour::default()).await;
    let client = Client::new(&Limits {
        max_dials_per_origin: 1,
        connect_timeout: Duration::from_millis(50),
        handshake_timeout: Duration::from_millis(400),
        ..Limits::default()
    });
    let (_listener, origin) = mute().await;
    let tls = world.tls("alice");
    // It is known to speak HTTP/1.1, so each may make a connection.
    client.upstreams.pool.speaks(&client.project, &bucket(&client, &tls, &origin), Spoken::Http1);
    let send = || client.send(&tls, &origin, Method::GET);
    let (a, b) = tokio::join!(send(), send());
    assert_eq!([a, b].map(code), [Code::NetTimeout; 2], "not limit.connections after 50 ms");
    assert_eq!(client.metrics.upstream_connections_full.get(), 0);
}

fn bucket(client: &Client, tls: &Arc<UpstreamTls>, origin: &Origin) -> Arc<Bucket> {
    let to = Destination::Tls(origin.clone());
    client.upstreams.pool.bucket(&client.project, tls, client.upstreams.way(&to), &to).ok().unwrap()
}

#[tokio::test]
async fn what_was_upgraded_is_counted_apart_and_has_a_deadline_of_its_own() {
    let world = World::start(Behaviour { stall_body: true, ..Behaviour::default() }).await;
    let client = Client::new(&Limits::default());
    let tls = world.tls("alice");
    let life = tls.life();
    let to = Destination::Tls(world.origin.clone());
    let ask = || client.upstreams.upgrade(&client.project, &tls, &to, Request::new(RequestBody::empty()));
    let mut ties = Vec::new();
    for _ in 0..2 {
        let reply = ask().await.ok().expect("an answer");
        ties.push((reply.lease.upgraded().expect("made for it"), reply.response));
    }
    let exchange = client.send(&tls, &world.origin, Method::GET).await.ok().expect("a head");
    assert_eq!((life.connections(), life.upgraded()), (3, 2));

    // The exchange's deadline has come; that of the others is far away.
    life.retire_until(Until { exchanges: Instant::now(), upgraded: Instant::now() + HOUR });
    read(exchange).await.expect_err("cut in the middle of its body");
    eventually("the exchange is gone", || life.connections() == 2).await;
    assert_eq!((life.upgraded(), client.metrics.retired_cut.get()), (2, 1));

    // One ends by itself; the other when its deadline is brought nearer.
    drop(ties.pop());
    eventually("one is closed", || life.upgraded() == 1).await;
    assert_eq!(life.connections(), 1);
    life.retire(Instant::now());
    tokio::time::timeout(Duration::from_secs(60), ties[0].0.cut()).await.expect("it is cut");
    eventually("nothing is left", || life.connections() == 0).await;
    assert_eq!((life.upgraded(), client.metrics.retired_cut.get()), (0, 2));
}

#[tokio::test]
async fn what_was_upgraded_is_cut_before_exchanges_where_its_deadline_is_nearer() {
    let world = World::start(Behaviour { stall_body: true, ..Behaviour::default() }).await;
    let client = Client::new(&Limits::default());
    let tls = world.tls("alice");
    let to = Destination::Tls(world.origin.clone());
    let ask = client.upstreams.upgrade(&client.project, &tls, &to, Request::new(RequestBody::empty()));
    let reply = ask.await.ok().expect("an answer");
    let mut tie = reply.lease.upgraded().expect("made for it");
    let exchange = client.send(&tls, &world.origin, Method::GET).await.ok().expect("a head");
    tls.life().retire_until(Until { exchanges: Instant::now() + HOUR, upgraded: Instant::now() });
    tokio::time::timeout(Duration::from_secs(60), tie.cut()).await.expect("it is cut");
    eventually("it is counted no more", || tls.life().connections() == 1).await;
    assert!(!exchange.meter.is_cut());
    tls.life().end();
    read(exchange).await.expect_err("cut now");
}

#[tokio::test]
async fn a_deadline_comes_only_nearer_each_for_itself() {
    let world = World::start(Behaviour::default()).await;
    let tls = world.tls("alice");
    let life = tls.life();
    let now = Instant::now();
    let until = |exchanges, upgraded| Until { exchanges: now + exchanges * HOUR, upgraded: now + upgraded * HOUR };
    life.retire_until(until(3, 3));
    life.retire_until(until(2, 9));
    assert_eq!(life.until(), Some(until(2, 3)));
    life.retire(now + 5 * HOUR);
    assert_eq!(life.until(), Some(until(2, 3)));
    life.end();
    assert!(life.until().unwrap().last() < now + HOUR, "an end is now");
    life.retire(now + HOUR);
    assert!(life.is_gone(), "nothing comes back");
}

#[tokio::test]
async fn tickets_end_with_the_identity_and_not_with_its_last_exchange() {
    let world = World::start(Behaviour { close_after_each: true, ..Behaviour::default() }).await;
    let client = Client::new(&Limits::default());
    let tls = world.tls("alice");
    client.get(&tls, &world.origin).await;
    let tickets = Arc::downgrade(&tls.config());
    tls.life().retire(Instant::now() + HOUR);
    drop(tls);
    eventually("the store of tickets is gone", || tickets.strong_count() == 0).await;
    // The same certificate again begins from nothing.
    client.get(&world.tls("alice"), &world.origin).await;
    assert_eq!((world.seen().full, world.seen().resumed), (2, 0));
}

#[tokio::test]
async fn http_2_is_never_coalesced_across_origins_or_identities() {
    // One address, one certificate that is valid for both names: a browser would share the connection.
    let world = World::start(Behaviour { h2: Some(Script::Limit(0)), ..Behaviour::default() }).await;
    let client = Client::new(&Limits::default());
    let twin = Origin::parse(&format!("https://twin.localhost:{}", world.origin.port())).unwrap();
    let (alice, again) = (world.tls("alice"), world.tls("alice"));
    for _ in 0..2 {
        for (tls, origin, expected) in
            [(&alice, &world.origin, "alice #1"), (&alice, &twin, "alice #2"), (&again, &world.origin, "alice #3")]
        {
            assert_eq!(client.get(tls, origin).await.0, expected);
        }
    }
    assert_eq!((world.seen().connections, world.seen().requests), (3, 6));
}

#[tokio::test]
async fn streams_that_run_when_the_origin_goes_away_and_the_identity_too_are_finished_or_selected_again() {
    // The origin answers one request of each connection and is not looking at the others.
    let world = World::start(Behaviour { h2: Some(Script::GoAwayAfter(1)), ..Behaviour::default() }).await;
    let client = Client::new(&Limits::default());
    for _ in 0..20 {
        let tls = world.tls("alice");
        let send = || client.send(&tls, &world.origin, Method::POST);
        let retire = async {
            eventually("a connection is made", || tls.life().connections() > 0).await;
            tls.life().retire(Instant::now() + HOUR);
        };
        let (a, b, c, ()) = tokio::join!(send(), send(), send(), retire);
        for outcome in [a, b, c] {
            match outcome {
                Ok(reply) => assert!(read(reply).await.unwrap().starts_with("alice ")),
                Err(Refusal::Retired(_)) => {}
                Err(Refusal::Failed(failure) | Refusal::Rejected(failure, _)) => {
                    panic!("{} {}", failure.code, failure.detail)
                }
            }
        }
    }
}

#[tokio::test]
async fn who_waits_for_a_turn_has_it_when_the_handshake_of_an_upgrade_is_over() {
    let world = World::start(Behaviour { stall_body: true, ..Behaviour::default() }).await;
    let client = Client::new(&Limits { max_dials_per_origin: 1, ..Limits::default() });
    let tls = world.tls("alice");
    let bucket = bucket(&client, &tls, &world.origin);
    let to = Destination::Tls(world.origin.clone());
    // It has the one turn, and what it makes serves nobody else.
    let mut upgrade =
        Box::pin(client.upstreams.upgrade(&client.project, &tls, &to, Request::new(RequestBody::empty())));
    assert!(futures_util::poll!(&mut upgrade).is_pending());
    assert!(bucket.try_turn().is_none());
    let both = async { tokio::join!(client.send(&tls, &world.origin, Method::GET), upgrade) };
    let (plain, upgraded) = tokio::time::timeout(Duration::from_secs(10), both).await.expect("nobody is forgotten");
    assert!(plain.is_ok() && upgraded.is_ok());
}

#[tokio::test]
async fn who_waits_for_others_is_not_kept_waiting_by_an_origin_that_is_silent() {
    let world = World::start(Behaviour::default()).await;
    let client = Client::new(&Limits { handshake_timeout: Duration::from_secs(2), ..Limits::default() });
    let (_listener, origin) = mute().await;
    let tls = world.tls("alice");
    client.upstreams.pool.speaks(&client.project, &bucket(&client, &tls, &origin), Spoken::Http1);
    let began = Instant::now();
    let all = futures_util::future::join_all((0..40).map(|_| client.send(&tls, &origin, Method::GET))).await;
    assert!(all.into_iter().all(|outcome| code(outcome) == Code::NetTimeout));
    // Eight at a time, each for itself, would take five times as long.
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}
