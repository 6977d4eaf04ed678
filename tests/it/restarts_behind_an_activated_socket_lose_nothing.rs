//! Sockets that outlive egret: a restart under load refuses and resets nothing, and the service manager hears what goes on.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use http::{Request, Version};
use tokio_rustls::TlsConnector;

use crate::harness::egret::{Egret, Setup};
use crate::harness::origin::{Next, Origin, Wants};
use crate::harness::wire::{Reply, Wire, client_config};
use crate::harness::world::World;
use crate::harness::{PATIENCE, allow_descriptors, eventually, run_within};
use crate::listeners_speak_tls::tls;

const NAME: &str = "api.partner.test";
const RESTARTS: usize = 10;
/// Clients of each kind.
const CLIENTS: usize = 3;
/// What a client does between two requests.
const PAUSE: Duration = Duration::from_millis(5);

fn free() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

fn address(socket: &TcpListener) -> SocketAddr {
    socket.local_addr().expect("bound")
}

/// What a service manager hears.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
        Self { socket, folder }
    }

    fn is_told_by(&self, setup: Setup) -> Setup {
        setup.variable("NOTIFY_SOCKET", &self.folder.path().join("notify").display().to_string())
    }

    /// The next message that holds `line`; others before it are let go by.
    #[track_caller]
    fn hears(&self, line: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {line}: {error}"));
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if message.lines().any(|l| l == line) {
                return message;
            }
        }
    }
}

/// What the clients under load did: each request has a number of its own in its path.
#[derive(Default)]
struct Load {
    over: AtomicBool,
    answered: Mutex<Vec<String>>,
    failed: Mutex<Vec<String>>,
}

impl Load {
    fn goes_on(&self) -> bool {
        thread::sleep(PAUSE);
        !self.over.load(Ordering::Relaxed)
    }

    fn note(&self, path: String, outcome: Result<(u16, Vec<u8>), String>) {
        match outcome {
            Ok((200, body)) if body == b"the-client" => self.answered.lock().unwrap().push(path),
            Ok((status, body)) => {
                self.failed.lock().unwrap().push(format!("{path}: {status} {}", String::from_utf8_lossy(&body)));
            }
            Err(error) => self.failed.lock().unwrap().push(format!("{path}: {error}")),
        }
    }

    fn answered(&self) -> usize {
        self.answered.lock().unwrap().len()
    }
}

fn whole(reply: io::Result<Reply>) -> Result<(u16, Vec<u8>), String> {
    let reply = reply.map_err(|error| error.to_string())?;
    if reply.whole { Ok((reply.status, reply.body)) } else { Err("the answer broke off".to_owned()) }
}

fn ask(wire: &mut Wire, authority: &str, path: &str, fields: &str) -> io::Result<Reply> {
    wire.try_send(format!("GET https://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n"))?;
    wire.try_reply("GET")
}

/// A connection for each request.
fn new_connections(load: &Load, client: usize, proxy: SocketAddr, authority: &str) {
    for n in 0.. {
        if !load.goes_on() {
            return;
        }
        let path = format!("/new-{client}-{n}");
        let reply = Wire::try_connect(proxy, PATIENCE)
            .and_then(|mut wire| ask(&mut wire, authority, &path, "Connection: close\r\n"));
        load.note(path, whole(reply));
    }
}

/// A connection for as long as egret does not say that it closes.
fn kept_connections(load: &Load, client: usize, proxy: SocketAddr, authority: &str) {
    let mut wire: Option<Wire> = None;
    for n in 0.. {
        if !load.goes_on() {
            return;
        }
        let path = format!("/kept-{client}-{n}");
        let kept = wire.take().map_or_else(|| Wire::try_connect(proxy, PATIENCE), Ok);
        let reply = kept.and_then(|mut kept| ask(&mut kept, authority, &path, "").map(|reply| (kept, reply)));
        let outcome = match reply {
            Ok((kept, reply)) => {
                wire = (reply.header("connection") != Some("close")).then_some(kept);
                whole(Ok(reply))
            }
            Err(error) => Err(error.to_string()),
        };
        load.note(path, outcome);
    }
}

/// HTTP/2 in TLS: streams on a connection for as long as it takes them.
async fn streams(load: Arc<Load>, client: usize, proxy: SocketAddr, authority: String, root: String) {
    let mut sender: Option<h2::client::SendRequest<bytes::Bytes>> = None;
    for n in 0.. {
        tokio::time::sleep(PAUSE).await;
        if load.over.load(Ordering::Relaxed) {
            return;
        }
        let path = format!("/stream-{client}-{n}");
        let outcome = async {
            loop {
                let ready = match sender.take() {
                    Some(kept) => kept.ready().await.ok(),
                    None => None,
                };
                let mut ready = match ready {
                    Some(ready) => ready,
                    None => connected(proxy, &root).await.map_err(|error| format!("connecting: {error}"))?,
                };
                let request = Request::get(format!("https://{authority}{path}")).version(Version::HTTP_2).body(());
                // Refused before it was sent: the connection takes no more.
                let Ok((response, _)) = ready.send_request(request.expect("a request"), true) else { continue };
                sender = Some(ready);
                let (head, mut body) = response.await.map_err(|error| format!("the answer: {error}"))?.into_parts();
                let mut whole = Vec::new();
                while let Some(data) = body.data().await {
                    let data = data.map_err(|error| format!("the body: {error}"))?;
                    let _ = body.flow_control().release_capacity(data.len());
                    whole.extend(data);
                }
                return Ok::<_, String>((head.status.as_u16(), whole));
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, outcome).await.unwrap_or_else(|_| Err("no answer".to_owned()));
        load.note(path, outcome);
    }
}

async fn connected(
    proxy: SocketAddr,
    root: &str,
) -> Result<h2::client::SendRequest<bytes::Bytes>, Box<dyn std::error::Error + Send + Sync>> {
    let mut config = client_config(root, None);
    Arc::make_mut(&mut config).alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio::net::TcpStream::connect(proxy).await?;
    let stream = TlsConnector::from(config).connect("localhost".try_into()?, stream).await?;
    let (sender, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    Ok(sender.ready().await?)
}

#[test]
fn heavy_a_restart_under_load_refuses_and_resets_nothing() {
    allow_descriptors(4096);
    let world = World::new();
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let origin = Origin::start(
        &world.server(&[NAME]),
        &Wants::CertificateOf(&world.partner.pem()),
        move |conversation, head| {
            if head.target().starts_with("/download") {
                conversation.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")?;
                wait.lock().expect("no test panics with it").recv().map_err(io::Error::other)?;
                conversation.write("other")?;
                return Ok(Next::KeepAlive);
            }
            let subject = conversation.subject.clone().unwrap_or_default();
            conversation.answer("200 OK", "", &subject)
        },
    );
    let sockets = [free(), free(), free()];
    let [clear, secure, management] = sockets.each_ref().map(address);
    let manager = Manager::new();
    let setup = Setup::new(&world)
        .listener("clear", "forward", "project = \"default\"")
        .listener("secure", "forward", &format!("project = \"default\"\n{}", tls(&world, None)))
        .hosts(&[NAME])
        .handed_over("management", &sockets[2])
        .handed_over("secure", &sockets[1])
        .handed_over("clear", &sockets[0]);
    let mut egret = manager.is_told_by(setup).start();
    assert!(manager.hears("READY=1").contains(&format!("clear on {clear}")));
    assert_eq!((egret.listener("clear"), egret.listener("secure"), egret.management), (clear, secure, management));
    egret.upload("default", Some(&origin.origin(NAME)), &world.client("the-client"));

    let authority = format!("{NAME}:{}", origin.port());
    let load = Arc::new(Load::default());
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        for run in [new_connections, kept_connections] {
            let (load, authority) = (load.clone(), authority.clone());
            clients.push(thread::spawn(move || run(&load, client, clear, &authority)));
        }
    }
    let (all, root) = (load.clone(), world.root.pem());
    let many = authority.clone();
    clients.push(thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let each = (0..CLIENTS).map(|c| tokio::spawn(streams(all.clone(), c, secure, many.clone(), root.clone())));
            for client in each.collect::<Vec<_>>() {
                client.await.expect("no client panics");
            }
        });
    }));

    for restart in 0..RESTARTS {
        let before = load.answered();
        eventually("every client is served", || (load.answered() > before + 10 * CLIENTS).then_some(()));
        let mut download = Wire::connect(clear);
        download.send(format!("GET https://{authority}/download-{restart} HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
        assert_eq!(download.head().expect("a head").0, 200);
        assert_eq!(download.raw(5), b"first");
        egret.terminate();
        assert!(manager.hears("STOPPING=1").contains("EXTEND_TIMEOUT_USEC="));
        go.send(()).expect("the origin waits");
        assert_eq!(download.raw(5), b"other", "what runs is finished");
        drop(download);
        egret = egret.gone().start();
        manager.hears("READY=1");
    }
    let before = load.answered();
    eventually("every client is served", || (load.answered() > before + 10 * CLIENTS).then_some(()));
    load.over.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("no client panics"));

    let failed = load.failed.lock().unwrap();
    let answered = load.answered.lock().unwrap();
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), failed.len() + answered.len());
    let mut received: HashMap<String, usize> = HashMap::new();
    for head in origin.heads() {
        *received.entry(head.split(' ').nth(1).unwrap_or_default().to_owned()).or_default() += 1;
    }
    for path in &*answered {
        assert_eq!(received.get(path), Some(&1), "{path}");
    }
}

/// An egret with a long `drain_delay`, and what its probe says.
fn delayed() -> (World, Egret, SocketAddr) {
    let world = World::new();
    let socket = free();
    let probe = address(&socket);
    let setup = Setup::new(&world)
        .section("[limits]\ndrain_delay = \"1h\"")
        .section(&format!("[health]\nlisten = \"{probe}\""))
        .handed_over("health", &socket);
    (world, setup.start(), probe)
}

#[test]
fn during_the_delay_new_connections_are_served_while_readyz_says_draining() {
    let (_world, mut egret, probe) = delayed();
    let readyz = || Wire::connect(probe).request("GET", "/readyz", "localhost");
    assert_eq!(readyz().status, 200);
    let mut kept = Wire::connect(egret.proxy());
    egret.terminate();
    let draining = eventually("it says that it drains", || Some(readyz()).filter(|reply| reply.status == 503));
    assert!(draining.text().contains("draining"), "{}", draining.text());
    // Refused by egret itself, which needs no origin: it was served.
    for wire in [&mut Wire::connect(egret.proxy()), &mut kept] {
        let reply = wire.request("GET", "https://nobody.invalid/", "nobody.invalid");
        reply.assert_failure(502, "dns.not_found");
        assert_eq!(reply.header("connection"), None, "nobody is sent away yet");
    }
    assert!(egret.ended().is_none());
    egret.terminate();
    eventually("a second signal ends it", || egret.ended());
}

#[test]
fn an_idle_client_is_answered_once_more_and_told_that_it_was_the_last_time() {
    let world = World::new();
    let manager = Manager::new();
    let egret = manager.is_told_by(Setup::new(&world)).start();
    let mut kept = Wire::connect(egret.proxy());
    let ask = |wire: &mut Wire| wire.request("GET", "https://nobody.invalid/", "nobody.invalid");
    assert_eq!(ask(&mut kept).header("connection"), None);
    egret.terminate();
    manager.hears("STOPPING=1");
    let proxy = egret.proxy();
    eventually("nothing new is taken", || std::net::TcpStream::connect(proxy).is_err().then_some(()));
    let last = ask(&mut kept);
    last.assert_failure(502, "dns.not_found");
    assert_eq!(last.header("connection"), Some("close"));
    assert!(kept.is_closed());
    egret.gone();
}

#[test]
fn the_manager_is_told_that_egret_lives_as_often_as_it_asks() {
    let world = World::new();
    let manager = Manager::new();
    let egret = manager.is_told_by(Setup::new(&world).variable("WATCHDOG_USEC", "200000")).start();
    manager.hears("READY=1");
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    egret.stop();
}

#[test]
fn a_socket_that_is_for_nobody_is_named() {
    let world = World::new();
    let (mine, other) = (free(), free());
    let setup = Setup::new(&world).handed_over("dev", &mine).handed_over("typo", &other);
    let output = run_within(PATIENCE, &mut setup.serve());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("named typo") && said.contains(&address(&other).to_string()), "{said}");

    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let output = run_within(PATIENCE, &mut Setup::new(&world).handed_over("dev", &datagrams).serve());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("named dev") && said.contains("listens"), "{said}");
}

#[test]
fn a_socket_without_a_name_is_found_by_its_address() {
    let world = World::new();
    let socket = free();
    let at = address(&socket);
    let egret = Setup::new(&world)
        .listener("first", "forward", "project = \"default\"")
        .listener_at(&at.to_string(), "second", "forward", "project = \"default\"")
        .handed_over("egret.socket", &socket)
        .start();
    assert_eq!(egret.listener("second"), at);
    assert_ne!(egret.listener("first"), at);
    Wire::connect(at).request("GET", "https://nobody.invalid/", "nobody.invalid").assert_failure(502, "dns.not_found");
    egret.stop();
    // It is not egret's to close.
    assert!(std::net::TcpStream::connect(at).is_ok());
}

#[test]
fn sockets_that_are_for_another_process_are_left_alone() {
    let world = World::new();
    let socket = free();
    let egret = Setup::new(&world).handed_over("dev", &socket).variable("LISTEN_PID", "1").start();
    assert_ne!(egret.listener("dev"), address(&socket));
}

#[test]
fn the_file_of_a_unix_socket_that_was_handed_over_stays() {
    let world = World::new();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("way-in.sock");
    let socket = UnixListener::bind(&path).expect("a socket");
    let setup = Setup::new(&world).handed_over("dev", &socket);
    let mut setup = Some(setup);
    for _ in 0..2 {
        let egret = setup.take().expect("put back below").start();
        assert_eq!(egret.socket("dev"), path);
        let reply = Wire::connect_unix(&path).request("GET", "https://nobody.invalid/", "nobody.invalid");
        reply.assert_failure(502, "dns.not_found");
        setup = Some(egret.stop());
        assert!(path.exists());
    }
}

#[test]
fn a_command_is_not_told_of_sockets_that_are_for_egret() {
    let world = World::new();
    let egret = Setup::new(&world).start();
    let mut run = egret.cli(&["run", "--", "env"]);
    for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
        run.env(name, "1");
    }
    let output = run_within(PATIENCE, &mut run);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("HTTPS_PROXY="), "{said}");
    assert!(!said.contains("LISTEN_"), "{said}");
}
