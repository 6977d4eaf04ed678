//! The front ends over HTTP/2, as a listener with TLS has them: absolute form and CONNECT.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Version;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::{EgressSettings, Limits, LiveLimits};
use crate::domain::{Endpoint, Host, Pattern, ProjectId, ProjectInfo};
use crate::observe::{AccessLog, Format};
use crate::policy::EgressPolicy;
use crate::proxy::headers::Via;
use crate::proxy::{Forwarder, LeafFuture, Leafs, Parts};
use crate::registry::{Project, Registry, testing};
use crate::upstream::{Upstreams, WaysOut};

struct NoLeafs;

impl Leafs for NoLeafs {
    fn server_config<'a>(&'a self, _: &'a str, _: &'a Host) -> LeafFuture<'a> {
        Box::pin(async { Err::<Arc<ServerConfig>, _>("nothing is intercepted here".to_owned()) })
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The line that has this text, once it is written.
    async fn line(&self, text: &str) -> serde_json::Value {
        loop {
            let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            if let Some(line) = log.lines().find(|line| line.contains(text) && line.ends_with('}')) {
                return serde_json::from_str(line).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Scene {
    proxy: Arc<Proxy>,
    sender: SendRequest<Bytes>,
    log: Log,
}

/// A proxy with one project, before it listens.
fn world(limits: LiveLimits) -> (Arc<Proxy>, ProjectId, Log) {
    let metrics: Arc<Metrics> = Arc::default();
    let egress = EgressSettings { allow: vec![Pattern::Default], ..EgressSettings::default() };
    let policy = Arc::new(EgressPolicy::new(&egress));
    let upstreams = Upstreams::new(WaysOut::default(), policy.clone(), limits.clone(), metrics.clone());
    let log = Log::default();
    let access = Arc::new(AccessLog::new(Box::new(log.clone()), Format::Json, metrics.clone()).unwrap());
    let registry: Arc<Registry> = Arc::default();
    let project = Project::new(testing::empty(ProjectInfo::named("default")));
    let id = project.id().clone();
    registry.insert(project);
    let forwarder =
        Forwarder::new(upstreams.clone(), policy.clone(), metrics.clone(), access, Via::random(), limits.clone());
    let forwarder = Arc::new(forwarder);
    let proxy = Proxy::new(Parts { registry, forwarder, upstreams, policy, leafs: Arc::new(NoLeafs), limits, metrics });
    (proxy, id, log)
}

/// A client that speaks HTTP/2 to a forward listener which intercepts nothing.
async fn scene() -> Scene {
    let limits = Limits { max_headers: 8, max_request_line: 2048, ..Limits::default() };
    let (proxy, id, log) = world(limits.into());
    let entry = Arc::new(Entry {
        name: "tls".into(),
        mode: ListenerMode::Forward,
        caller: CallerSettings::Project(id),
        intercept: Intercept::Never,
    });
    let seat = proxy.seats.take().await;
    let seat = Seat::new(seat, &proxy.serving.metrics);
    let peer = Peer::Ip(IpAddr::from([127, 0, 0, 1]));
    let client = Arc::new(Client::new(Arrived { proxy: proxy.clone(), entry, peer, seat }, None));
    let (near, far) = duplex(1 << 16);
    let handle = move |request| Client::answer(client.clone(), request);
    proxy.tasks.spawn(serve(far, Protocol::Http2, Meter::new(), proxy.serving.clone(), handle));
    let (sender, connection) = h2::client::handshake(near).await.unwrap();
    tokio::spawn(connection);
    Scene { proxy, sender: sender.ready().await.unwrap(), log }
}

impl Scene {
    async fn send(&mut self, request: http::request::Builder) -> (u16, http::HeaderMap, String) {
        let request = request.version(Version::HTTP_2).body(()).unwrap();
        let (response, _) = self.sender.send_request(request, true).unwrap();
        let (head, mut body) = response.await.unwrap().into_parts();
        let mut text = Vec::new();
        while let Some(data) = body.data().await {
            text.extend(data.unwrap());
        }
        (head.status.as_u16(), head.headers, String::from_utf8(text).unwrap())
    }

    async fn connect(&mut self, authority: &str) -> (h2::SendStream<Bytes>, h2::RecvStream) {
        let connect = Request::connect(authority).version(Version::HTTP_2).body(()).unwrap();
        let (response, send) = self.sender.send_request(connect, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        (send, response.into_body())
    }

    fn connections(&self) -> u64 {
        self.proxy.serving.metrics.client_connections.get()
    }
}

/// Reads until the client's end, answers `again: ` and what it read, and ends.
async fn echo() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let mut got = Vec::new();
                stream.read_to_end(&mut got).await.unwrap();
                stream.write_all(&[b"again: ", &got[..]].concat()).await.unwrap();
            });
        }
    });
    address
}

async fn rest(receive: &mut h2::RecvStream) -> String {
    let mut got = Vec::new();
    while let Some(data) = receive.data().await {
        got.extend(data.unwrap());
    }
    String::from_utf8(got).unwrap()
}

#[tokio::test]
async fn tunnels_share_a_connection_and_have_their_own_ends_and_bytes() {
    let (mut scene, origin) = (scene().await, echo().await);
    let (mut one, mut from_one) = scene.connect(&origin.to_string()).await;
    let (mut two, mut from_two) = scene.connect(&origin.to_string()).await;
    two.send_data(Bytes::from_static(b"second"), true).unwrap();
    assert_eq!(rest(&mut from_two).await, "again: second");
    one.send_data(Bytes::from_static(b"the first"), true).unwrap();
    assert_eq!(rest(&mut from_one).await, "again: the first");
    for (up, down) in [(6, 13), (9, 16)] {
        let line = scene.log.line(&format!("\"bytes_up\":{up},")).await;
        assert_eq!((&line["bytes_down"], &line["complete"]), (&down.into(), &true.into()), "{line}");
    }
}

#[tokio::test]
async fn a_refused_connect_leaves_the_connection_and_what_runs_on_it() {
    let (mut scene, origin) = (scene().await, echo().await);
    let (mut send, mut receive) = scene.connect(&origin.to_string()).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (connect, status, code) in [
        (Request::connect("api.test"), 400, "request.malformed"),
        (Request::connect("api.test:0"), 400, "request.malformed"),
        (Request::connect("u@api.test:443"), 400, "request.malformed"),
        (Request::connect("api.test:443").header("host", "other.test:443"), 400, "request.malformed"),
        (Request::connect(nobody.to_string()), 502, "net.refused"),
    ] {
        let (got, headers, body) = scene.send(connect).await;
        assert_eq!(got, status, "{body}");
        assert!(body.contains(&format!("\"code\":\"{code}\"")), "{body}");
        assert!(!headers.contains_key("connection"));
    }
    send.send_data(Bytes::from_static(b"still here"), true).unwrap();
    assert_eq!(rest(&mut receive).await, "again: still here");
}

#[tokio::test]
async fn a_tunnel_keeps_the_seat_and_is_cut_with_the_proxy() {
    let (mut scene, origin) = (scene().await, echo().await);
    let (_send, mut receive) = scene.connect(&origin.to_string()).await;
    assert_eq!((scene.connections(), scene.proxy.serving.metrics.tunnels.get()), (1, 1));
    let proxy = scene.proxy.clone();
    let ending = tokio::spawn(async move { proxy.finish(Duration::from_millis(50)).await });
    // What runs may finish; then it is cut, and nothing is left.
    assert!(receive.data().await.is_none_or(|end| end.is_err()));
    ending.await.unwrap();
    assert_eq!((scene.connections(), scene.proxy.serving.metrics.tunnels.get()), (0, 0));
}

#[tokio::test]
async fn absolute_form_is_scheme_and_authority() {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = origin.local_addr().unwrap().to_string();
    let seen = tokio::spawn(async move {
        let (mut stream, _) = origin.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok")
            .await
            .unwrap();
        String::from_utf8(head).unwrap()
    });
    let mut scene = scene().await;
    let (status, headers, body) = scene.send(Request::get(format!("http://{authority}/x?y"))).await;
    assert_eq!((status, body.as_str()), (200, "ok"));
    assert!(!headers.contains_key("x-hop") && !headers.contains_key("connection"));
    let head = seen.await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /x?y http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: {authority}\r\n")), "{head}");
    assert!(head.contains("\r\nvia: 2 egret-"), "{head}");
}

#[tokio::test]
async fn what_h2_lets_pass_is_refused_here() {
    let mut scene = scene().await;
    let many = (0..9).fold(Request::get("https://a.test/"), |r, n| r.header(format!("x-{n}"), "1"));
    for (request, status, code) in [
        (Request::get("https://a.test/").header("host", "b.test"), 400, "request.malformed"),
        (Request::get("https://a.test/").header("host", "a.test").header("host", "a.test"), 400, "request.malformed"),
        (Request::get("https://u:p@a.test/"), 400, "request.malformed"),
        (Request::get("https://a.test/").header("x", " y"), 400, "request.malformed"),
        (Request::get("ftp://a.test/"), 400, "request.malformed"),
        (many, 431, "limit.head"),
        (Request::get(format!("https://a.test/{}", "x".repeat(3000))), 414, "limit.head"),
    ] {
        let (got, headers, body) = scene.send(request).await;
        assert_eq!(got, status, "{body}");
        assert!(body.contains(&format!("\"code\":\"{code}\"")), "{body}");
        assert!(!headers.contains_key("connection"));
    }
}

#[tokio::test]
async fn a_running_listener_follows_the_limits_as_they_change() {
    let limits = LiveLimits::new(&Limits { max_connections: 1, ..Limits::default() });
    let (proxy, id, _log) = world(limits.clone());
    let socket = Listening::bind(&Endpoint::Tcp("127.0.0.1:0".parse().unwrap()), 0, false).unwrap();
    let address = socket.endpoint().tcp().unwrap();
    let settings = ListenerSettings {
        name: "dev".to_owned(),
        listen: socket.endpoint().clone(),
        mode: ListenerMode::Forward,
        caller: CallerSettings::Project(id),
        intercept: Intercept::Never,
        tls: None,
        socket_mode: 0o600,
    };
    Listener::on(socket, None, &settings, proxy.clone()).unwrap().start();
    let refused = b"GET /no-proxy-request HTTP/1.1\r\nhost: a.test\r\n\r\n";
    let first = TcpStream::connect(address).await.unwrap();

    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(refused).await.unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(100), second.read(&mut [0; 4096])).await;
    assert!(waits.is_err(), "there is one seat, and it is taken");
    let short = Duration::from_millis(50);
    limits.replace(Limits { max_connections: 2, head_timeout: short, ..Limits::default() });
    assert!(second.read(&mut [0; 4096]).await.unwrap() > 0);

    drop((first, second));
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET http://a.test/ HTTP/1.1\r\n").await.unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    proxy.cut();
}
