//! HTTP/2 to origins: streams within their limit, GOAWAY, refusals, retirement.

use std::convert::Infallible;

use bytes::Bytes;
use http::Response;
use http_body_util::Empty;
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::upstream::tests::script::Script;

async fn start(script: Script) -> (World, Client) {
    let world = World::start(Behaviour { h2: Some(script), ..Behaviour::default() }).await;
    (world, Client::new(&Limits::default()))
}

/// A request's body as a client's connection gives it.
async fn upload(pieces: [&'static [u8]; 2]) -> RequestBody {
    let length: usize = pieces.iter().map(|p| p.len()).sum();
    received(&format!("content-length: {length}"), &pieces.concat()).await
}

/// The body of a request that a client sends with this field.
async fn received(field: &str, body: &[u8]) -> RequestBody {
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let (give, got) = tokio::sync::oneshot::channel();
    let give = std::sync::Mutex::new(Some(give));
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        if let Some(give) = give.lock().unwrap().take() {
            let _ = give.send(request.into_body());
        }
        // The connection stays busy for as long as the test runs.
        std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    });
    tokio::spawn(async move {
        let io = hyper_util::rt::TokioIo::new(far);
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    });
    near.write_all(format!("POST / HTTP/1.1\r\nhost: x\r\n{field}\r\n\r\n").as_bytes()).await.unwrap();
    near.write_all(body).await.unwrap();
    let body = got.await.unwrap();
    // Kept open: the body is whole already.
    tokio::spawn(async move {
        let _near = near;
        std::future::pending::<()>().await;
    });
    RequestBody::new(body, Duration::from_secs(10), false)
}

async fn next(body: &mut RequestBody) -> Option<Bytes> {
    body.frame().await.map(|frame| frame.unwrap().into_data().unwrap_or_default())
}

async fn post(client: &Client, tls: &Arc<UpstreamTls>, origin: &Origin, body: RequestBody) -> String {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = "/".parse().unwrap();
    match client.upstreams.send(&client.project, tls, &Destination::Tls(origin.clone()), request).await {
        Ok(reply) => read(reply).await.expect("a whole body"),
        Err(Refusal::Failed(failure) | Refusal::Rejected(failure, _)) => panic!("{} {}", failure.code, failure.detail),
        Err(Refusal::Retired(_)) => panic!("retired"),
    }
}

#[tokio::test]
async fn many_requests_share_a_connection_and_present_the_identity() {
    let (world, client) = start(Script::Limit(0)).await;
    let tls = world.tls("alice");
    let all = futures_util::future::join_all((0..50).map(|_| client.get(&tls, &world.origin))).await;
    assert!(all.iter().all(|(text, _)| text == "alice #1"), "{all:?}");
    assert_eq!(world.seen().connections, 1);
    assert_eq!(world.seen().requests, 50);
}

#[tokio::test]
async fn never_opens_more_streams_than_the_origin_takes() {
    let (world, client) = start(Script::Limit(4)).await;
    let tls = world.tls("alice");
    let all = futures_util::future::join_all((0..100).map(|_| client.get(&tls, &world.origin))).await;
    assert_eq!(all.len(), 100);
    assert_eq!(world.seen().most_streams, 4, "{:?}", world.seen());
    assert!(world.seen().connections <= 26, "{:?}", world.seen());
    assert_eq!(world.seen().requests, 100);
}

#[tokio::test]
async fn two_identities_share_no_connection() {
    let (world, client) = start(Script::Limit(0)).await;
    let (alice, bob) = (world.tls("alice"), world.tls("bob"));
    for _ in 0..3 {
        assert!(client.get(&alice, &world.origin).await.0.starts_with("alice "));
        assert!(client.get(&bob, &world.origin).await.0.starts_with("bob "));
    }
    assert_eq!((world.seen().full, world.seen().resumed), (2, 0));
}

#[tokio::test]
async fn a_request_above_the_last_stream_of_a_goaway_is_sent_again() {
    let (world, client) = start(Script::GoAwayAfter(3)).await;
    let tls = world.tls("alice");
    for turn in 0..20 {
        let body = upload([b"hello ", b"world"]).await;
        let text = post(&client, &tls, &world.origin, body).await;
        assert!(text.starts_with("alice #") && text.ends_with(" hello world"), "{turn}: {text}");
    }
    assert_eq!(world.seen().requests, 20, "each was answered once");
    assert!(client.metrics.resent.get() >= 6);
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_with_the_whole_body() {
    let (world, client) = start(Script::RefuseFirst).await;
    let tls = world.tls("alice");
    let body = upload([b"once ", b"more"]).await;
    assert_eq!(post(&client, &tls, &world.origin, body).await, "alice #1 once more");
    assert_eq!(client.metrics.resent.get(), 1);
}

#[tokio::test]
async fn an_origin_that_demands_http_1_1_gets_it() {
    let (world, client) = start(Script::RequireHttp1).await;
    let tls = world.tls("alice");
    assert_eq!(client.get(&tls, &world.origin).await.0, "alice #2");
    assert_eq!(client.get(&tls, &world.origin).await, ("alice #2".to_owned(), true));
    // Remembered: another identity need not find out again.
    assert_eq!(client.get(&world.tls("bob"), &world.origin).await.0, "bob #3");
}

#[tokio::test]
async fn names_a_missing_and_a_refused_certificate() {
    let (world, client) = start(Script::Limit(0)).await;
    let refused = client.send(&world.anonymous(), &world.origin, Method::GET).await;
    assert_eq!(code(refused), Code::MtlsRequiredNoneRegistered);
    let stranger = client.send(&world.stranger(), &world.origin, Method::POST).await;
    assert_eq!(code(stranger), Code::MtlsRejectedUnknownCa);
}

#[tokio::test]
async fn a_retired_identity_opens_no_stream_and_its_running_ones_finish() {
    let (world, client) = start(Script::Limit(0)).await;
    let tls = world.tls("alice");
    let reply = client.send(&tls, &world.origin, Method::GET).await.ok().expect("a head");
    tls.life().retire(Instant::now() + Duration::from_secs(3600));
    assert!(matches!(client.send(&tls, &world.origin, Method::GET).await, Err(Refusal::Retired(_))));
    assert_eq!(read(reply).await.unwrap(), "alice #1");
    world.closed(1).await;
}

#[tokio::test]
async fn what_still_runs_at_the_deadline_is_cut_and_shows_as_truncated() {
    let (world, client) = start(Script::Stall).await;
    let tls = world.tls("alice");
    let reply = client.send(&tls, &world.origin, Method::GET).await.ok().expect("a head");
    tls.life().end();
    read(reply).await.expect_err("a body without its end is not whole");
    world.closed(1).await;
}

#[tokio::test]
async fn a_grpc_call_to_an_origin_of_http_1_1_says_what_it_lacks() {
    let world = World::start(Behaviour::default()).await;
    let client = Client::new(&Limits::default());
    let tls = world.tls("alice");
    let mut request = Request::new(RequestBody::empty());
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let to = Destination::Tls(world.origin.clone());
    assert_eq!(code(client.upstreams.send(&client.project, &tls, &to, request).await), Code::TlsProtocol);
    assert_eq!(world.seen().requests, 0);
    assert!(client.get(&tls, &world.origin).await.0.starts_with("alice "));
}

#[tokio::test]
async fn a_body_that_is_sent_again_is_whole_although_the_answer_comes_early() {
    let body = received("transfer-encoding: chunked", b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n1\r\nd\r\n0\r\n\r\n").await;
    let (mut first, spare) = body.keep();
    let spare = spare.expect("little of it was read");
    for _ in 0..3 {
        next(&mut first).await;
    }
    let mut second = spare.again().expect("it is still there");
    assert_eq!(next(&mut second).await.as_deref(), Some(&b"a"[..]));
    spare.let_go();
    assert!(spare.again().is_none(), "it was answered");
    let mut rest = Vec::new();
    while let Some(piece) = next(&mut second).await {
        rest.extend_from_slice(&piece);
    }
    assert_eq!(rest, b"bcd");
    first.frame().await.expect("an error").expect_err("it is read elsewhere");
}

#[tokio::test]
async fn many_small_pieces_of_a_body_are_not_kept() {
    let body = "1\r\na\r\n".repeat(4096) + "0\r\n\r\n";
    let (mut first, spare) = received("transfer-encoding: chunked", body.as_bytes()).await.keep();
    while next(&mut first).await.is_some() {}
    assert!(spare.expect("nothing was read").again().is_none());
}

#[tokio::test]
async fn an_upload_with_trailers_ends_with_them() {
    let body = received("trailer: x-sum\r\ntransfer-encoding: chunked", b"1\r\na\r\n0\r\nx-sum: 7\r\n\r\n").await;
    let upload = body.upload().expect("a body").clone();
    let (mut first, spare) = body.keep();
    assert_eq!(next(&mut first).await.as_deref(), Some(&b"a"[..]));
    assert!(first.frame().await.expect("a frame").unwrap().is_trailers());
    assert!(upload.is_finished());
    let mut second = spare.expect("little of it was read").again().expect("it is still there");
    assert_eq!(next(&mut second).await.as_deref(), Some(&b"a"[..]));
    assert!(second.frame().await.expect("a frame").unwrap().is_trailers());
    assert!(second.frame().await.is_none());
}

#[tokio::test]
async fn lets_go_of_a_retired_key_with_its_last_stream() {
    lets_go_of_a_retired_key(Behaviour { h2: Some(Script::Limit(0)), ..Behaviour::default() }).await;
}

#[tokio::test]
async fn names_a_missing_and_a_refused_certificate_in_tls_1_2() {
    let behaviour = Behaviour { h2: Some(Script::Limit(0)), tls12: true, ..Behaviour::default() };
    let world = World::start(behaviour).await;
    let client = Client::new(&Limits::default());
    let refused = client.send(&world.anonymous(), &world.origin, Method::GET).await;
    assert_eq!(code(refused), Code::MtlsRequiredNoneRegistered);
    let stranger = client.send(&world.stranger(), &world.origin, Method::POST).await;
    assert_eq!(code(stranger), Code::MtlsRejectedUnknownCa);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_waited_for_a_connection_is_refused_with_it() {
    let (world, _) = start(Script::Limit(0)).await;
    let client = Client::new(&Limits { connect_timeout: Duration::from_millis(250), ..Limits::default() });
    let tls = world.stranger();
    let all = (0..100).map(|_| client.send(&tls, &world.origin, Method::GET));
    for outcome in futures_util::future::join_all(all).await {
        assert_eq!(code(outcome), Code::MtlsRejectedUnknownCa);
    }
}

#[tokio::test]
async fn a_connection_made_for_an_upgrade_serves_nobody_else() {
    let (world, client) = start(Script::Limit(0)).await;
    let tls = world.tls("alice");
    let to = Destination::Tls(world.origin.clone());
    let ask = || Request::new(RequestBody::empty());
    let Ok(reply) = client.upstreams.upgrade(&client.project, &tls, &to, ask()).await else { panic!("an answer") };
    assert_eq!(read(reply).await.unwrap(), "alice #1");
    let mut call = ask();
    call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let Ok(reply) = client.upstreams.send(&client.project, &tls, &to, call).await else { panic!("an answer") };
    assert_eq!(read(reply).await.unwrap(), "alice #2");
}

#[tokio::test]
async fn idle_connections_make_room_for_an_upgrade() {
    for h2 in [None, Some(Script::Limit(0))] {
        let world = World::start(Behaviour { h2, ..Behaviour::default() }).await;
        let client = Client::new(&Limits { max_connections_per_origin: 1, ..Limits::default() });
        let tls = world.tls("alice");
        client.get(&tls, &world.origin).await;
        let to = Destination::Tls(world.origin.clone());
        let ask = Request::new(RequestBody::empty());
        match client.upstreams.upgrade(&client.project, &tls, &to, ask).await {
            Ok(reply) => assert_eq!(read(reply).await.unwrap(), "alice #2"),
            Err(Refusal::Failed(failure) | Refusal::Rejected(failure, _)) => panic!("{h2:?}: {}", failure.detail),
            Err(Refusal::Retired(_)) => panic!("retired"),
        }
    }
}

#[tokio::test]
async fn interim_responses_without_end_are_malformed() {
    let (world, client) = start(Script::Interim).await;
    let tls = world.tls("alice");
    let outcome = client.send(&tls, &world.origin, Method::GET);
    let outcome = tokio::time::timeout(Duration::from_secs(10), outcome).await.expect("it is given up");
    assert_eq!(code(outcome), Code::UpstreamMalformed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_goes_away_under_a_request_is_quoted() {
    for (script, expected, words) in [
        (Script::Calm, Code::NetReset, "excessive load"),
        (Script::Garbage, Code::UpstreamMalformed, "not valid HTTP/2"),
    ] {
        let (world, client) = start(script).await;
        let Err(Refusal::Failed(failure)) = client.send(&world.tls("alice"), &world.origin, Method::POST).await else {
            panic!("{script:?}: a failure")
        };
        assert_eq!(failure.code, expected, "{}", failure.detail);
        assert!(failure.detail.contains(words), "{}", failure.detail);
    }
}

#[tokio::test]
async fn a_spared_request_whose_certificate_is_refused_comes_back_whole_in_either_protocol() {
    for (h2, tls12) in [(None, false), (None, true), (Some(Script::Limit(0)), false)] {
        let world = World::start(Behaviour { h2, tls12, ..Behaviour::default() }).await;
        let client = Client::new(&Limits::default());
        let to = Destination::Tls(world.origin.clone());
        let ask = |body, spared: bool| {
            let mut request = Request::new(body);
            *request.method_mut() = Method::POST;
            *request.uri_mut() = "/path?query".parse().unwrap();
            if spared {
                request.extensions_mut().insert(crate::upstream::Spared);
            }
            request
        };
        let body = upload([b"first", b"second"]).await;
        let outcome = client.upstreams.send(&client.project, &world.stranger(), &to, ask(body, true)).await;
        let Err(Refusal::Rejected(failure, Some(back))) = outcome else { panic!("{h2:?} {tls12}: rejected") };
        assert_eq!((failure.code, failure.facts.alert), (Code::MtlsRejectedUnknownCa, Some(48)), "{h2:?} {tls12}");
        assert_eq!(back.method(), Method::POST);
        assert_eq!(back.uri().path_and_query().map(|p| p.as_str()), Some("/path?query"));
        let again = client.upstreams.send(&client.project, &world.tls("alice"), &to, *back).await;
        let reply = again.ok().expect("an answer to the same request");
        assert!(read(reply).await.unwrap().starts_with("alice "));

        // One that asks to become something else goes over HTTP/1.1 in any case.
        let outcome =
            client.upstreams.upgrade(&client.project, &world.stranger(), &to, ask(RequestBody::empty(), true)).await;
        let Err(Refusal::Rejected(failure, Some(_))) = outcome else { panic!("{h2:?} {tls12}: rejected") };
        assert_eq!(failure.facts.alert, Some(48));

        // Unmarked, it fails as ever.
        let body = upload([b"first", b"second"]).await;
        let outcome = client.upstreams.send(&client.project, &world.stranger(), &to, ask(body, false)).await;
        assert!(matches!(outcome, Err(Refusal::Failed(_))), "{h2:?} {tls12}");
    }
}
