//! An origin that takes four streams at once under two hundred requests at once: further connections are made, nothing is
//! refused, nothing is lost, and every request carries the identity.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use crate::harness::allow_descriptors;
use crate::harness::egret::Setup;
use crate::harness::nginx::{Nginx, Site};
use crate::harness::world::World;

const NAME: &str = "narrow.test";
const STREAMS: u32 = 4;
const CLIENTS: usize = 200;
const EACH: usize = 5;

#[test]
fn heavy_200_at_once_over_connections_of_4_streams() {
    allow_descriptors(4_096);
    let world = World::new();
    let site = Site::demanding(&[NAME], &world.server(&[NAME]), &world.partner.pem()).streams(STREAMS).logged();
    let nginx = Nginx::start(&[site]);
    let egret = Setup::new(&world)
        .listener("narrow", "sidecar", &format!("project = \"default\"\norigin = \"{}\"", nginx.origin(NAME)))
        .hosts(&[NAME])
        .start();
    egret.upload("default", Some(&nginx.origin(NAME)), &world.client("narrow"));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let answers = runtime.block_on(async {
        let together = Arc::new(Barrier::new(CLIENTS));
        let sidecar = egret.listener("narrow");
        let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(client(sidecar, Arc::clone(&together)))).collect();
        let mut answers = String::new();
        for client in clients {
            let answer = tokio::time::timeout(Duration::from_secs(60), client).await.expect("answers within 60 s");
            answers.push_str(&answer.expect("no client panics").expect("answers"));
        }
        answers
    });
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), CLIENTS * EACH);
    assert_eq!(answers.matches("\"subject\":\"CN=narrow\"").count(), CLIENTS * EACH);
    let seen = nginx.seen();
    assert_eq!(seen.len(), CLIENTS * EACH, "each of them once");
    assert!(seen.iter().all(|request| request.http == "HTTP/2.0" && request.status == "200"));
    // nginx refuses a stream too many; then it would have been sent again.
    let (_, status) = egret.api("GET", "/v1/status", None);
    assert_eq!(status["counters"]["resent"], 0, "{status}");
    let connections = status["counters"]["upstream_connections_opened"].as_u64().expect("a number");
    assert!(connections >= 2, "{connections} connections for {CLIENTS} at once");
    assert!(connections <= (CLIENTS / 2) as u64, "{connections} connections, where some fifty would do");
}

/// Connects, waits until everybody is connected, and sends requests one after the other.
async fn client(sidecar: SocketAddr, together: Arc<Barrier>) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(sidecar).await?;
    together.wait().await;
    for last in (0..EACH).rev() {
        let connection = if last == 0 { "Connection: close\r\n" } else { "" };
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n{connection}\r\n").as_bytes()).await?;
    }
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await?;
    Ok(answers)
}
