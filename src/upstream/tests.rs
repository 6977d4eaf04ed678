//! The pool and the dialler against a real TLS origin that demands a client certificate and records what it received.

mod live;
mod multiplexed;
mod origin;
mod parents;
mod proxies;
mod retirement;
mod script;
mod vouched;

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::{Destination, Ended, Refusal, Reply, ReplyBody, RequestBody, Upstreams, WaysOut};
use crate::config::{EgressSettings, Limits, LiveLimits};
use crate::domain::{Code, Origin, Pattern, ProjectId};
use crate::identity::{Asked, Presented, UpstreamTls};
use crate::observe::Metrics;
use crate::policy::EgressPolicy;
use origin::{Behaviour, World};

struct Client {
    upstreams: Arc<Upstreams>,
    project: ProjectId,
    metrics: Arc<Metrics>,
    policy: Arc<EgressPolicy>,
    limits: LiveLimits,
}

impl Client {
    fn new(limits: &Limits) -> Self {
        Self::by(WaysOut::default(), limits)
    }

    fn by(ways: WaysOut, limits: &Limits) -> Self {
        let metrics: Arc<Metrics> = Arc::default();
        let egress = EgressSettings { allow: vec![Pattern::Default], ..EgressSettings::default() };
        let policy = Arc::new(EgressPolicy::new(&egress));
        let limits = LiveLimits::new(limits);
        let upstreams = Upstreams::new(ways, policy.clone(), limits.clone(), metrics.clone());
        Self { upstreams, project: ProjectId::parse("prj_1").unwrap(), metrics, policy, limits }
    }

    async fn send(&self, tls: &Arc<UpstreamTls>, origin: &Origin, method: Method) -> Result<Reply, Refusal> {
        let mut request = Request::new(RequestBody::empty());
        *request.method_mut() = method;
        *request.uri_mut() = "/".parse().unwrap();
        self.upstreams.send(&self.project, tls, &Destination::Tls(origin.clone()), request).await
    }

    /// Body of the answer, read to its end, and whether the connection was reused.
    async fn get(&self, tls: &Arc<UpstreamTls>, origin: &Origin) -> (String, bool) {
        let reply = match self.send(tls, origin, Method::GET).await {
            Ok(reply) => reply,
            Err(Refusal::Failed(failure) | Refusal::Rejected(failure, _)) => {
                panic!("{} {}", failure.code, failure.detail)
            }
            Err(Refusal::Retired(_)) => panic!("retired"),
        };
        let reused = reply.reused;
        (read(reply).await.expect("a whole body"), reused)
    }
}

struct GiveBack(super::Lease);

impl Ended for GiveBack {
    fn ended(self: Box<Self>, complete: bool, _: u64) {
        if complete {
            self.0.give_back();
        }
    }
}

async fn read(reply: Reply) -> std::io::Result<String> {
    let body = reply.response.into_body();
    let body = ReplyBody::stream(body, reply.meter, Duration::from_secs(10), Box::new(GiveBack(reply.lease)));
    Ok(String::from_utf8(body.collect().await?.to_bytes().to_vec()).unwrap())
}

fn code(outcome: Result<Reply, Refusal>) -> Code {
    match outcome {
        Ok(_) => panic!("an answer came"),
        Err(Refusal::Retired(_)) => panic!("retired"),
        Err(Refusal::Failed(failure) | Refusal::Rejected(failure, _)) => failure.code,
    }
}

#[tokio::test]
async fn reuses_a_connection_and_presents_the_identity() {
    let world = World::start(Behaviour::default()).await;
    let client = Client::new(&Limits::default());
    let tls = world.tls("alice");
    assert_eq!(client.get(&tls, &world.origin).await, ("alice #1".to_owned(), false));
    assert_eq!(client.get(&tls, &world.origin).await, ("alice #1".to_owned(), true));
}

#[tokio::test]
async fn two_identities_never_share_a_connection_or_a_session() {
    let world = World::start(Behaviour::default()).await;
    let client = Client::new(&Limits::default());
    let (alice, bob) = (world.tls("alice"), world.tls("bob"));
    for _ in 0..3 {
        assert!(client.get(&alice, &world.origin).await.0.starts_with("alice "));
        assert!(client.get(&bob, &world.origin).await.0.starts_with("bob "));
    }
    assert_eq!(world.seen().full, 2, "one full handshake each");
    assert_eq!(world.seen().resumed, 0);
}

#[tokio::test]
async fn resumes_a_session_of_its_own_identity_only() {
    let world = World::start(Behaviour { close_after_each: true, ..Behaviour::default() }).await;
    let client = Client::new(&Limits::default());
    let (alice, again) = (world.tls("alice"), world.tls("alice"));
    client.get(&alice, &world.origin).await;
    client.get(&alice, &world.origin).await;
    assert_eq!((world.seen().full, world.seen().resumed), (1, 1));
    // The same certificate in another object is another identity: its first handshake is full.
    client.get(&again, &world.origin).await;
    assert_eq!((world.seen().full, world.seen().resumed), (2, 1));
}

#[tokio::test]
async fn a_retired_identity_takes_no_request_and_its_idle_connections_close() {
    let world = World::start(Behaviour::default()).await;
    let client = Client::new(&Limits::default());
    let tls = world.tls("alice");
    client.get(&tls, &world.origin).await;
    assert_eq!(client.upstreams.pool.idle_count(), 1);
    tls.life().retire(Instant::now() + Duration::from_secs(3600));
    assert!(matches!(client.send(&tls, &world.origin, Method::GET).await, Err(Refusal::Retired(_))));
    world.closed(1).await;
    assert_eq!(tls.life().connections(), 0);
    assert_eq!(client.upstreams.pool.idle_count(), 0);
}

#[tokio::test]
async fn a_retired_identity_without_connections_is_let_go_long_before_its_deadline() {
    let world = World::start(Behaviour::default()).await;
    let client = Client::new(&Limits::default());
    let tls = world.tls("alice");
    client.get(&tls, &world.origin).await;
    tls.life().retire(Instant::now() + Duration::from_secs(3600));
    let key = Arc::downgrade(&tls);
    drop(tls);
    let gone = async {
        while key.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("a deleted key is out of memory within 5 s");
}

#[tokio::test]
async fn a_busy_connection_of_a_retired_identity_finishes_and_is_not_put_back() {
    let world = World::start(Behaviour::default()).await;
    let client = Client::new(&Limits::default());
    let tls = world.tls("alice");
    let reply = client.send(&tls, &world.origin, Method::GET).await.ok().expect("an answer");
    tls.life().retire(Instant::now() + Duration::from_secs(3600));
    assert_eq!(read(reply).await.unwrap(), "alice #1");
    world.closed(1).await;
    assert_eq!(client.upstreams.pool.idle_count(), 0);
}

#[tokio::test]
async fn what_still_runs_at_the_deadline_is_cut_and_shows_as_truncated() {
    let world = World::start(Behaviour { stall_body: true, ..Behaviour::default() }).await;
    let client = Client::new(&Limits::default());
    let tls = world.tls("alice");
    let reply = client.send(&tls, &world.origin, Method::GET).await.ok().expect("a head");
    tls.life().end();
    read(reply).await.expect_err("a chunked body without its last chunk is not whole");
    world.closed(1).await;
}

#[tokio::test]
async fn what_is_cut_before_its_answer_is_not_blamed_on_the_client() {
    for h2 in [None, Some(script::Script::Silent)] {
        let world = World::start(Behaviour { silent: true, h2, ..Behaviour::default() }).await;
        let client = Client::new(&Limits::default());
        let tls = world.tls("alice");
        let end = async {
            while world.seen().requests == 0 {
                tokio::task::yield_now().await;
            }
            tls.life().end();
        };
        let (outcome, ()) = tokio::join!(client.send(&tls, &world.origin, Method::POST), end);
        assert_eq!(code(outcome), Code::NetReset, "{h2:?}");
    }
}

/// An origin that accepts connections and says nothing.
async fn mute() -> (tokio::net::TcpListener, Origin) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("https://{}", listener.local_addr().unwrap());
    (listener, Origin::parse(&origin).unwrap())
}

#[tokio::test]
async fn who_waits_for_a_connection_that_cannot_be_made_learns_why() {
    let world = World::start(Behaviour::default()).await;
    let (_listener, origin) = mute().await;
    let short = Duration::from_millis(200);
    let limits = Limits { connect_timeout: short, handshake_timeout: 2 * short, ..Limits::default() };
    let client = Client::new(&limits);
    let tls = world.tls("alice");
    let send = || client.send(&tls, &origin, Method::GET);
    let (a, b, c) = tokio::join!(send(), send(), send());
    assert_eq!([a, b, c].map(code), [Code::NetTimeout; 3]);
    assert_eq!(client.metrics.upstream_connections_full.get(), 0);
}

#[tokio::test]
async fn sends_an_idempotent_request_again_when_a_reused_connection_died_silently() {
    let world = World::start(Behaviour { drop_second_request: true, ..Behaviour::default() }).await;
    let client = Client::new(&Limits::default());
    let tls = world.tls("alice");
    client.get(&tls, &world.origin).await;
    assert_eq!(client.get(&tls, &world.origin).await, ("alice #2".to_owned(), false));
    assert_eq!(world.seen().requests, 3, "the one that was dropped was read by the origin");
    assert_eq!(client.metrics.resent.get(), 1);
}

#[tokio::test]
async fn never_sends_a_post_again_that_the_origin_may_have_read() {
    let world = World::start(Behaviour { drop_second_request: true, ..Behaviour::default() }).await;
    let client = Client::new(&Limits::default());
    let tls = world.tls("alice");
    client.get(&tls, &world.origin).await;
    assert_eq!(code(client.send(&tls, &world.origin, Method::POST).await), Code::NetReset);
    assert_eq!(world.seen().requests, 2);
}

#[tokio::test]
async fn names_a_missing_and_a_refused_certificate_in_tls_1_3_and_1_2() {
    for tls12 in [false, true] {
        let world = World::start(Behaviour { tls12, ..Behaviour::default() }).await;
        let client = Client::new(&Limits::default());
        let refused = client.send(&world.anonymous(), &world.origin, Method::GET).await;
        assert_eq!(code(refused), Code::MtlsRequiredNoneRegistered, "tls 1.2: {tls12}");
        let stranger = client.send(&world.stranger(), &world.origin, Method::GET).await;
        assert_eq!(code(stranger), Code::MtlsRejectedUnknownCa, "tls 1.2: {tls12}");
        let withheld = client.send(&world.default_of_stranger(), &world.origin, Method::GET).await;
        assert_eq!(code(withheld), Code::MtlsRequiredWithheld, "tls 1.2: {tls12}");
    }
}

#[tokio::test]
async fn asks_without_presenting_anything() {
    let world = World::start(Behaviour::default()).await;
    let client = Client::new(&Limits::default());
    let asked = client.upstreams.ask(&client.project, &world.anonymous(), &world.origin).await;
    let asked = asked.ok().flatten().expect("it asks");
    assert_eq!(asked.ca_count, 1);
    assert_eq!(world.seen().requests, 0);
}

#[tokio::test]
async fn verifies_the_servers_issuer_and_name() {
    let world = World::start(Behaviour::default()).await;
    let client = Client::new(&Limits::default());
    let untrusting = world.untrusting();
    assert_eq!(code(client.send(&untrusting, &world.origin, Method::GET).await), Code::TrustUnknownIssuer);
    let other = Origin::parse(&format!("https://other.localhost:{}", world.origin.port())).unwrap();
    assert_eq!(code(client.send(&world.tls("alice"), &other, Method::GET).await), Code::TrustNameMismatch);
}

#[tokio::test]
async fn waits_for_a_busy_connection_at_the_cap_and_then_gives_up() {
    let world = World::start(Behaviour::default()).await;
    let limits =
        Limits { max_connections_per_origin: 1, connect_timeout: Duration::from_millis(300), ..Limits::default() };
    let client = Client::new(&limits);
    let tls = world.tls("alice");
    let held = client.send(&tls, &world.origin, Method::GET).await.ok().expect("an answer");
    assert_eq!(code(client.send(&tls, &world.origin, Method::GET).await), Code::LimitConnections);
    let (second, _) = tokio::join!(client.get(&tls, &world.origin), async { read(held).await.unwrap() });
    assert_eq!(second, ("alice #1".to_owned(), true));
}

#[tokio::test]
async fn names_a_refused_port_and_an_unknown_name() {
    let client = Client::new(&Limits::default());
    let world = World::start(Behaviour::default()).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (origin, expected) in [
        (format!("https://127.0.0.1:{closed}"), Code::NetRefused),
        ("https://nobody.invalid".to_owned(), Code::DnsNotFound),
    ] {
        let origin = Origin::parse(&origin).unwrap();
        assert_eq!(code(client.send(&world.anonymous(), &origin, Method::GET).await), expected);
    }
}

#[tokio::test]
async fn asks_again_although_it_could_resume_a_session() {
    let world = World::start(Behaviour { tls12: true, optional: true, ..Behaviour::default() }).await;
    let client = Client::new(&Limits::default());
    let anonymous = world.anonymous();
    client.get(&anonymous, &world.origin).await;
    for _ in 0..2 {
        let asked = client.upstreams.ask(&client.project, &anonymous, &world.origin).await;
        assert!(asked.ok().flatten().is_some(), "an abbreviated handshake was taken for an origin that does not ask");
    }
}

#[tokio::test]
async fn lets_go_of_a_retired_key_with_its_last_connection() {
    lets_go_of_a_retired_key(Behaviour::default()).await;
}

/// The key of a retired identity stays in memory as long as an exchange runs under it, and no longer.
async fn lets_go_of_a_retired_key(behaviour: Behaviour) {
    let world = World::start(behaviour).await;
    let client = Client::new(&Limits::default());
    let tls = world.tls("alice");
    client.get(&tls, &world.origin).await;
    let held = client.send(&tls, &world.origin, Method::GET).await.ok().expect("an answer");
    tls.life().retire(Instant::now() + Duration::from_secs(3600));
    let key = Arc::downgrade(&tls);
    drop(tls);
    tokio::task::yield_now().await;
    assert!(key.upgrade().is_some(), "an exchange still runs");
    read(held).await.unwrap();
    let gone = async {
        while key.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the key goes long before the deadline");
}

#[tokio::test]
async fn who_waits_for_a_connection_selects_again_when_the_identity_is_retired() {
    let world = World::start(Behaviour::default()).await;
    let client = Client::new(&Limits { max_connections_per_origin: 1, ..Limits::default() });
    let tls = world.tls("alice");
    let held = client.send(&tls, &world.origin, Method::GET).await.ok().expect("an answer");
    let send = || client.send(&tls, &world.origin, Method::GET);
    let retire = async {
        tokio::task::yield_now().await;
        tls.life().retire(Instant::now() + Duration::from_secs(3600));
    };
    let (a, b, c, ()) = tokio::join!(send(), send(), send(), retire);
    for outcome in [a, b, c] {
        assert!(matches!(outcome, Err(Refusal::Retired(_))));
    }
    drop(held);
}

#[tokio::test]
async fn a_connection_that_could_not_be_made_leaves_its_place_to_the_next() {
    let world = World::start(Behaviour::default()).await;
    let client = Client::new(&Limits { max_connections_per_origin: 1, ..Limits::default() });
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let origin = Origin::parse(&format!("https://127.0.0.1:{closed}")).unwrap();
    let tls = world.anonymous();
    let send = || client.send(&tls, &origin, Method::GET);
    let (a, b, c) = tokio::join!(send(), send(), send());
    assert_eq!([a, b, c].map(code), [Code::NetRefused; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_share_one_connection_and_none_is_forgotten() {
    let world = World::start(Behaviour::default()).await;
    let client = Arc::new(Client::new(&Limits { max_connections_per_origin: 1, ..Limits::default() }));
    let tls = world.tls("alice");
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (client, tls, origin) = (client.clone(), tls.clone(), world.origin.clone());
            tokio::spawn(async move {
                for _ in 0..50 {
                    assert_eq!(client.get(&tls, &origin).await.0, "alice #1");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[test]
fn only_what_really_went_out_can_have_been_refused() {
    let told = |presented, signed, alert| {
        let mut failure = super::Failure::new(Code::MtlsRejectedUnknownCa, "an alert");
        failure.facts.alert = Some(alert);
        failure.facts.asked = Some(Asked { cas: Vec::new(), ca_count: 0, presented, signed });
        super::send::is_rejection(&failure)
    };
    assert!(told(Presented::Sent, true, 48));
    assert!(!told(Presented::Sent, false, 48), "the alert came before the certificate was sent");
    assert!(!told(Presented::Sent, true, 40), "handshake_failure is not about the certificate");
    assert!(!told(Presented::Withheld, false, 48));
}
