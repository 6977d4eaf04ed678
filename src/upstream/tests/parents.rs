//! The ways through parent proxies, with proxies that record what they were told.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use http::{Method, Request};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::origin::{Behaviour, World};
use super::proxies::{Answer, ESTABLISHED, Proxy};
use super::{Client, code, read};
use crate::config::{Limits, ParentProtocol, ParentSettings, SourceAddresses};
use crate::domain::{Code, Host, HttpTarget, Origin};
use crate::upstream::{Destination, Failure, Parents, Refusal, Reply, RequestBody, WaysOut, check_sources};

fn through(world: &World, parents: &[ParentSettings]) -> Client {
    impatient(world, parents, &Limits::default())
}

fn impatient(world: &World, parents: &[ParentSettings], limits: &Limits) -> Client {
    Client::by(WaysOut { parents: world.parents(parents), ..WaysOut::default() }, limits)
}

fn failed(outcome: Result<Reply, Refusal>) -> Failure {
    match outcome {
        Ok(_) => panic!("an answer came"),
        Err(Refusal::Retired(_)) => panic!("retired"),
        Err(Refusal::Failed(failure) | Refusal::Rejected(failure, _)) => failure,
    }
}

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

#[tokio::test]
async fn the_identity_goes_through_a_connect_tunnel_end_to_end() {
    let world = World::start(Behaviour::default()).await;
    let proxy = Proxy::http(vec![ESTABLISHED]).await;
    let client = through(&world, &[proxy.parent(ParentProtocol::Http, &[])]);
    let (alice, bob) = (world.tls("alice"), world.tls("bob"));
    let origin = world.abroad();
    assert_eq!(client.get(&alice, &origin).await, ("alice #1".to_owned(), false));
    assert_eq!(client.get(&alice, &origin).await, ("alice #1".to_owned(), true));
    assert_eq!(client.get(&bob, &origin).await, ("bob #2".to_owned(), false));
    let authority = format!("origin.test:{}", origin.port());
    let head =
        format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: Basic bWU6czNjcmV0\r\n\r\n");
    assert_eq!(proxy.told(), [head.clone(), head], "one tunnel for each identity, and nothing else is shown");
    // Asking first takes the same way.
    assert!(client.upstreams.ask(&client.project, &world.anonymous(), &origin).await.ok().flatten().is_some());
    assert_eq!(proxy.told().len(), 3);
    assert_eq!((client.metrics.parent_connections.get(), client.metrics.parent_failures.get()), (3, 0));
    let reply = client.send(&alice, &origin, Method::GET).await.ok().expect("an answer");
    assert_eq!(reply.address.port(), proxy.port, "the address that was dialled");
}

#[tokio::test]
async fn loopback_and_no_proxy_go_direct() {
    let world = World::start(Behaviour::default()).await;
    let proxy = Proxy::http(vec![ESTABLISHED]).await;
    let parents = world.parents(&[proxy.parent(ParentProtocol::Http, &["origin.test"])]);
    let hosts = HashMap::from([(host("origin.test"), vec!["127.0.0.1".parse().unwrap()])]);
    let client = Client::by(WaysOut { parents, hosts, ..WaysOut::default() }, &Limits::default());
    let tls = world.tls("alice");
    for origin in [&world.origin, &world.abroad()] {
        assert!(client.get(&tls, origin).await.0.starts_with("alice"));
    }
    assert_eq!(proxy.told(), [""; 0]);
    let describe = |origin: &str| client.upstreams.route(&Destination::Tls(Origin::parse(origin).unwrap())).to_string();
    assert_eq!(describe("origin.test:8443"), "direct (egress.parent[0]: no_proxy names it)");
    assert_eq!(describe("127.9.9.9"), "direct (loopback is never reached through a parent)");
    assert_eq!(
        describe("elsewhere.test"),
        format!("through http://localhost:{} (egress.parent[0]: it is for everything)", proxy.port)
    );
    let none = Client::new(&Limits::default());
    assert_eq!(none.upstreams.parent(&Destination::Tls(world.abroad())), None);
}

#[tokio::test]
async fn the_first_parent_whose_origins_cover_decides() {
    let world = World::start(Behaviour::default()).await;
    let (first, second) = (Proxy::http(vec![ESTABLISHED]).await, Proxy::http(vec![ESTABLISHED]).await);
    let origins = |parent: ParentSettings, text: &str| ParentSettings {
        origins: Some(vec![crate::domain::HostPattern::parse_origin(text).unwrap()]),
        ..parent
    };
    let parents = [
        origins(first.parent(ParentProtocol::Http, &["direct.a.test"]), ".a.test"),
        origins(second.parent(ParentProtocol::Http, &[]), "https://*.test:*"),
        second.parent(ParentProtocol::Socks5, &["*"]),
    ];
    let client = through(&world, &parents);
    let rule = |origin: &str| {
        let route = client.upstreams.route(&Destination::Tls(Origin::parse(origin).unwrap()));
        (route.parent.is_some(), route.rule)
    };
    assert_eq!(rule("x.y.a.test:7"), (true, Some(0)));
    assert_eq!(rule("direct.a.test"), (false, Some(0)), "no later parent is looked at");
    assert_eq!(rule("b.test:7"), (true, Some(1)));
    assert_eq!(rule("b.example"), (false, Some(2)));
}

#[tokio::test]
async fn says_whether_the_parent_resolves_the_name() {
    let world = World::start(Behaviour::default()).await;
    let proxy = Proxy::http(vec![ESTABLISHED]).await;
    let own: Vec<IpAddr> = vec!["192.0.2.7".parse().unwrap()];
    let tls = |origin: &str| Destination::Tls(Origin::parse(origin).unwrap());
    let plain = |target: &str| Destination::Plain(HttpTarget::from_authority(target).unwrap());
    use ParentProtocol::{Http, Https, Socks5, Socks5h};
    for (protocol, unknown, known, in_the_clear) in [
        (Http, true, false, true),
        (Https, true, false, true),
        (Socks5, false, false, false),
        (Socks5h, true, false, false),
    ] {
        let parents = world.parents(&[proxy.parent(protocol, &[])]);
        let resolves = |to: Destination, own: &[IpAddr]| parents.route(&to, own).resolved_by_parent;
        assert_eq!(resolves(tls("a.test"), &[]), unknown, "{protocol:?}");
        assert_eq!(resolves(tls("a.test"), &own), known, "[dns] hosts answers: {protocol:?}");
        assert!(!resolves(tls("192.0.2.9"), &[]), "an address is no name: {protocol:?}");
        // In absolute form the name is handed on whatever egret knows of it.
        assert_eq!(resolves(plain("a.test"), &own), in_the_clear, "{protocol:?}");
    }
}

#[tokio::test]
async fn connections_and_sessions_never_cross_from_one_way_to_another() {
    let world = World::start(Behaviour { close_after_each: true, ..Behaviour::default() }).await;
    // Another port of the same server: rustls keeps tickets by name.
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (there, here) = (world.origin.port(), relay.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((mut near, _)) = relay.accept().await {
            tokio::spawn(async move {
                let mut far = TcpStream::connect(("127.0.0.1", there)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let proxy = Proxy::http(vec![ESTABLISHED]).await;
    let parents = world.parents(&[proxy.parent(ParentProtocol::Http, &[&format!("origin.test:{here}")])]);
    let hosts = HashMap::from([(host("origin.test"), vec!["127.0.0.1".parse().unwrap()])]);
    let client = Client::by(WaysOut { parents, hosts, ..WaysOut::default() }, &Limits::default());
    let tls = world.tls("alice");
    let direct = Origin::parse(&format!("https://origin.test:{here}")).unwrap();
    for (origin, full, resumed) in
        [(&world.abroad(), 1, 0), (&world.abroad(), 1, 1), (&direct, 2, 1), (&direct, 2, 2), (&world.abroad(), 2, 3)]
    {
        client.get(&tls, origin).await;
        assert_eq!((world.seen().full, world.seen().resumed), (full, resumed));
    }
    // A name that egret answers itself is handed on as the address that was judged.
    assert!(proxy.told().iter().all(|head| head.starts_with(&format!("CONNECT 127.0.0.1:{there} "))));
}

#[tokio::test]
async fn bytes_behind_the_head_are_the_origins_and_a_length_in_it_means_nothing() {
    let world = World::start(Behaviour::default()).await;
    for head in [
        &b"HTTP/1.1 200 OK\r\n\r\n220 ready"[..],
        b"HTTP/1.0 200 OK\r\n\r\n220 ready",
        b"HTTP/1.1 299 Odd\r\nContent-Length: 3\r\n\r\n220 ready",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n220 ready",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n220 ready",
    ] {
        let proxy = Proxy::http(vec![Answer::Bytes(head.to_vec())]).await;
        let client = through(&world, &[proxy.parent(ParentProtocol::Http, &[])]);
        let mut stream = client.upstreams.dial(&client.project, &host("a.test"), 25).await.expect("a tunnel");
        let mut got = [0; 9];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"220 ready", "{}", String::from_utf8_lossy(head));
    }
}

#[tokio::test]
async fn a_refusal_of_an_http_parent_says_what_it_means() {
    let world = World::start(Behaviour::default()).await;
    let answer =
        |status: &str, more: &str| format!("HTTP/1.1 {status}\r\n{more}Content-Length: 2\r\n\r\nno").into_bytes();
    let squid = "X-Squid-Error: ERR_DNS_FAIL 0\r\n";
    let basic = "Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: Basic realm=x\r\n";
    for (bytes, expected, said) in [
        (answer("407 Who", basic), Code::NetRefused, "does not accept the credential"),
        (answer("407 Who", "Proxy-Authenticate: NTLM\r\n"), Code::NetRefused, "offers no Basic"),
        (answer("403 No", ""), Code::NetRefused, "does not allow a.test:443"),
        (answer("503 Oh", squid), Code::DnsFailed, "could not resolve a.test:443: it answered 503 (ERR_DNS_FAIL)"),
        (answer("502 Oh", "Proxy-Status: p; error=connection_refused\r\n"), Code::NetUnreachable, "connection_refused"),
        (answer("504 Oh", ""), Code::NetTimeout, "in time"),
        (answer("405 No", ""), Code::NetRefused, "does not take CONNECT"),
        (answer("302 There", "Location: http://s3cret/\r\n"), Code::NetRefused, "it answered 302"),
        (b"SSH-2.0-OpenSSH\r\n".to_vec(), Code::UpstreamMalformed, "not valid HTTP"),
        ([b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 100_000]].concat(), Code::UpstreamMalformed, "not valid HTTP"),
    ] {
        let proxy = Proxy::http(vec![Answer::Bytes(bytes)]).await;
        let client = through(&world, &[proxy.parent(ParentProtocol::Http, &[])]);
        let failure = client.upstreams.dial(&client.project, &host("a.test"), 443).await.expect_err("refused");
        assert_eq!(failure.code, expected, "{}", failure.detail);
        assert!(failure.detail.contains(said), "{said}: {}", failure.detail);
        assert!(failure.detail.contains(&format!("http://localhost:{}", proxy.port)), "{}", failure.detail);
        assert_eq!(failure.facts.parent.as_deref(), Some(&*format!("http://localhost:{}", proxy.port)));
        let all = format!("{failure:?}");
        assert!(!all.contains("s3cret") && !all.contains("bWU6") && failure.fix.is_some(), "{all}");
    }
}

#[tokio::test]
async fn a_parent_that_is_not_there_or_says_nothing() {
    let world = World::start(Behaviour::default()).await;
    let limits = Limits { connect_timeout: Duration::from_millis(300), ..Limits::default() };
    let silent = Proxy::http(vec![Answer::Silence]).await;
    for protocol in [ParentProtocol::Http, ParentProtocol::Socks5h] {
        let client = impatient(&world, &[silent.parent(protocol, &[])], &limits);
        let failure = failed(client.send(&world.tls("alice"), &world.abroad(), Method::GET).await);
        assert_eq!(failure.code, Code::NetTimeout, "{}", failure.detail);
    }
    let mut gone = silent.parent(ParentProtocol::Https, &[]);
    gone.port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let failure =
        failed(through(&world, &[gone.clone()]).send(&world.tls("alice"), &world.abroad(), Method::GET).await);
    assert_eq!(failure.code, Code::NetRefused);
    assert!(failure.detail.contains("the parent proxy https://localhost:"), "{}", failure.detail);
    gone.host = host("proxy.invalid");
    let failure = failed(through(&world, &[gone]).send(&world.tls("alice"), &world.abroad(), Method::GET).await);
    assert_eq!(failure.code, Code::DnsNotFound);
    assert!(failure.fix.expect("a remedy").contains("[egress] parent"));
}

#[tokio::test]
async fn another_address_of_the_origin_is_tried_when_the_parent_does_not_reach_the_first() {
    let world = World::start(Behaviour::default()).await;
    let down = Answer::Bytes(b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n".to_vec());
    let proxy = Proxy::http(vec![down, ESTABLISHED]).await;
    let parents = world.parents(&[proxy.parent(ParentProtocol::Http, &[])]);
    let addresses = ["127.0.0.9", "127.0.0.1"].map(|ip| ip.parse().unwrap());
    let hosts = HashMap::from([(host("origin.test"), addresses.to_vec())]);
    let client = Client::by(WaysOut { parents, hosts, ..WaysOut::default() }, &Limits::default());
    assert_eq!(client.get(&world.tls("alice"), &world.abroad()).await.0, "alice #1");
    let asked: Vec<_> = proxy.told().iter().map(|head| head.split(':').next().unwrap().to_owned()).collect();
    assert_eq!(asked, ["CONNECT 127.0.0.9", "CONNECT 127.0.0.1"]);
}

#[tokio::test]
async fn a_parents_own_certificate_is_verified() {
    let world = World::start(Behaviour::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, world.ca_pem()).unwrap();
    let proxy = Proxy::https(vec![ESTABLISHED], world.acceptor("localhost")).await;
    let parent = proxy.parent(ParentProtocol::Https, &[]);
    let untrusted = through(&world, std::slice::from_ref(&parent));
    let failure = failed(untrusted.send(&world.tls("alice"), &world.abroad(), Method::GET).await);
    assert_eq!(failure.code, Code::TrustUnknownIssuer);
    assert!(failure.detail.contains("the parent proxy https://localhost:"), "{}", failure.detail);
    assert!(proxy.told().iter().all(|told| !told.contains("CONNECT")), "no credential was shown");
    let trusted = ParentSettings { ca: Some(ca.clone()), ..parent.clone() };
    let client = through(&world, &[trusted]);
    assert_eq!(client.get(&world.tls("alice"), &world.abroad()).await.0, "alice #1");
    let other = ParentSettings { ca: Some(ca.clone()), host: host("127.0.0.1"), ..parent.clone() };
    let failure = failed(through(&world, &[other]).send(&world.tls("alice"), &world.abroad(), Method::GET).await);
    assert_eq!(failure.code, Code::TrustNameMismatch);
    let plain = Proxy::http(vec![Answer::Bytes(b"HTTP/1.1 400 x\r\n\r\n".to_vec())]).await;
    let confused = ParentSettings { port: plain.port, ..parent.clone() };
    let limits = Limits { handshake_timeout: Duration::from_millis(500), ..Limits::default() };
    let confused = impatient(&world, &[confused], &limits);
    let failure = failed(confused.send(&world.tls("alice"), &world.abroad(), Method::GET).await);
    assert!(matches!(failure.code, Code::NetTimeout | Code::TlsProtocol), "{}", failure.code);
    std::fs::write(&ca, "no certificate").unwrap();
    let anchors = crate::pki::anchors::SharedAnchors::load(
        &[],
        crate::identity::TlsFactory::new(crate::config::PostQuantum::Prefer).provider(),
    );
    let tls = crate::identity::TlsFactory::new(crate::config::PostQuantum::Prefer);
    let broken = ParentSettings { ca: Some(ca), ..parent };
    let error = Parents::load(&[broken], &anchors.unwrap(), &tls).unwrap_err();
    assert!(error.to_string().starts_with("egress.parent[0].ca: "), "{error}");
}

#[tokio::test]
async fn plain_http_goes_to_an_http_parent_in_absolute_form() {
    let world = World::start(Behaviour::default()).await;
    let ok = Answer::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec());
    let proxy = Proxy::http(vec![ok]).await;
    let client = through(&world, &[proxy.parent(ParentProtocol::Http, &[])]);
    let send = async |client: &Client, target: &str, path: &str| {
        let to = Destination::Plain(HttpTarget::from_authority(target).unwrap());
        let mut request = Request::new(RequestBody::empty());
        *request.uri_mut() = path.parse().unwrap();
        client.upstreams.send(&client.project, &world.anonymous(), &to, request).await
    };
    let reply = send(&client, "plain.test:8000", "/x?y=1").await.ok().expect("an answer");
    assert_eq!(read(reply).await.unwrap(), "ok");
    assert_eq!(
        proxy.told(),
        [
            "GET http://plain.test:8000/x?y=1 HTTP/1.1\r\nhost: plain.test:8000\r\nproxy-authorization: Basic bWU6czNjcmV0\r\n\r\n"
        ]
    );
    assert_eq!(failed(send(&client, "plain.test", "*").await).code, Code::RequestMalformed);
    let who = Answer::Bytes(b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n".to_vec());
    let strict = Proxy::http(vec![who]).await;
    let client = through(&world, &[strict.parent(ParentProtocol::Http, &[])]);
    let failure = failed(send(&client, "plain.test", "/").await);
    assert_eq!(failure.code, Code::NetRefused, "{}", failure.detail);
    assert!(failure.facts.parent.is_some() && failure.detail.contains("credential"), "{}", failure.detail);
}

#[tokio::test]
async fn socks_resolves_here_or_there() {
    let world = World::start(Behaviour::default()).await;
    let there = Proxy::socks(vec![Answer::Reply(0)], Some("me:s3cret")).await;
    let client = through(&world, &[there.parent(ParentProtocol::Socks5h, &[])]);
    assert_eq!(client.get(&world.tls("alice"), &world.abroad()).await.0, "alice #1");
    let port = world.origin.port();
    assert_eq!(there.told(), [format!("name origin.test {port}")]);
    let here = Proxy::socks(vec![Answer::Reply(0)], None).await;
    let parents = world.parents(&[here.parent(ParentProtocol::Socks5, &[])]);
    let hosts = HashMap::from([(host("origin.test"), vec!["127.0.0.1".parse().unwrap()])]);
    let client = Client::by(WaysOut { parents, hosts, ..WaysOut::default() }, &Limits::default());
    assert_eq!(client.get(&world.tls("bob"), &world.abroad()).await.0, "bob #2");
    assert_eq!(here.told(), [format!("127.0.0.1 {port}")]);
    let client = through(&world, &[here.parent(ParentProtocol::Socks5, &[])]);
    let failure = failed(client.send(&world.tls("bob"), &Origin::parse("nobody.invalid").unwrap(), Method::GET).await);
    assert_eq!(failure.code, Code::DnsNotFound, "egret resolves, and the parent is not asked");
    assert_eq!(here.told().len(), 1);
}

#[tokio::test]
async fn a_refusal_of_a_socks_parent_says_what_it_means() {
    let world = World::start(Behaviour::default()).await;
    for (reply, expected, said) in [
        (1, Code::NetUnreachable, "reply 1"),
        (2, Code::NetRefused, "does not allow a.test:443"),
        (3, Code::NetUnreachable, "no route"),
        (4, Code::NetUnreachable, "cannot resolve its name"),
        (5, Code::NetRefused, "a.test:443 refused the connection"),
        (6, Code::NetTimeout, "in time"),
        (7, Code::NetRefused, "CONNECT"),
        (8, Code::NetUnreachable, "kind of address"),
        (9, Code::UpstreamMalformed, "not valid SOCKS5"),
    ] {
        let proxy = Proxy::socks(vec![Answer::Reply(reply)], None).await;
        let client = through(&world, &[proxy.parent(ParentProtocol::Socks5h, &[])]);
        let failure = client.upstreams.dial(&client.project, &host("a.test"), 443).await.expect_err("refused");
        assert_eq!(failure.code, expected, "{reply}: {}", failure.detail);
        let text = format!("{} {:?}", failure.detail, failure.fix);
        assert!(text.contains(said) && text.contains("socks5h://localhost:"), "{reply}: {text}");
    }
    let strict = Proxy::socks(vec![Answer::Reply(0)], Some("me:another")).await;
    let mut nobody = strict.parent(ParentProtocol::Socks5h, &[]);
    nobody.credentials = None;
    for (parent, said) in
        [(strict.parent(ParentProtocol::Socks5h, &[]), "does not accept"), (nobody, "wants a credential")]
    {
        let failure = failed(through(&world, &[parent]).send(&world.tls("a"), &world.abroad(), Method::GET).await);
        assert_eq!(failure.code, Code::NetRefused);
        assert!(failure.detail.contains(said) && !format!("{failure:?}").contains("s3cret"), "{}", failure.detail);
    }
}

#[tokio::test]
async fn the_guard_judges_what_is_handed_on_before_anything_is_dialled() {
    let world = World::start(Behaviour::default()).await;
    for protocol in [ParentProtocol::Http, ParentProtocol::Socks5, ParentProtocol::Socks5h] {
        let proxy = Proxy::http(vec![Answer::Silence]).await;
        let parents = world.parents(&[proxy.parent(protocol, &[])]);
        let hosts = HashMap::from([(host("inside.test"), vec!["169.254.169.254".parse().unwrap()])]);
        let client = Client::by(WaysOut { parents, hosts, ..WaysOut::default() }, &Limits::default());
        for origin in ["169.254.169.254", "[fe80::1]", "inside.test"] {
            let origin = Origin::parse(origin).unwrap();
            assert_eq!(code(client.send(&world.tls("a"), &origin, Method::GET).await), Code::PolicyAddressDenied);
            let plain = Destination::Plain(HttpTarget::from_authority(origin.host().as_str()).unwrap());
            let request = Request::new(RequestBody::empty());
            let outcome = client.upstreams.send(&client.project, &world.anonymous(), &plain, request).await;
            assert_eq!(code(outcome), Code::PolicyAddressDenied, "{origin}");
        }
        assert_eq!(proxy.told(), [""; 0]);
    }
}

#[tokio::test]
async fn connections_come_from_the_source_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sources = SourceAddresses { v4: Some("127.0.0.7".parse().unwrap()), v6: None };
    check_sources(sources).expect("all of 127.0.0.0/8 is this machine's");
    let client = Client::by(WaysOut { sources, ..WaysOut::default() }, &Limits::default());
    let _stream = client.upstreams.dial(&client.project, &host("localhost"), port).await.expect("a connection");
    assert_eq!(listener.accept().await.unwrap().1.ip().to_string(), "127.0.0.7");
    // TEST-NET-1: no machine has it.
    let sources = SourceAddresses { v4: Some("192.0.2.1".parse().unwrap()), v6: None };
    assert_eq!(check_sources(sources).unwrap_err().0.to_string(), "192.0.2.1");
    let client = Client::by(WaysOut { sources, ..WaysOut::default() }, &Limits::default());
    let failure = client.upstreams.dial(&client.project, &host("127.0.0.1"), port).await.expect_err("no such source");
    assert!(failure.fix.expect("a remedy").contains("source_addresses"), "{}", failure.detail);
}
