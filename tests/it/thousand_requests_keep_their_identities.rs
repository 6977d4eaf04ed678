//! A thousand requests at once, to fifty origins with fifty identities: each is answered with its own subject.

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

const ORIGINS: usize = 50;
const REQUESTS: usize = 1_000;

#[test]
fn heavy_thousand_requests_to_fifty_origins() {
    allow_descriptors(8_192);
    let world = World::new();
    let names: Vec<String> = (0..ORIGINS).map(|n| format!("n{n}.many.test")).collect();
    let sites: Vec<Site> =
        names.iter().map(|name| Site::demanding(&[name], &world.server(&[name]), &world.partner.pem())).collect();
    let nginx = Nginx::start(&sites);
    let egret = Setup::new(&world).hosts(&names).start();
    for name in &names {
        egret.upload("default", Some(&nginx.origin(name)), &world.client(name));
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let answers = runtime.block_on(async {
        let together = Arc::new(Barrier::new(REQUESTS));
        let tasks: Vec<_> = (0..REQUESTS)
            .map(|n| {
                let (together, name, proxy) = (Arc::clone(&together), names[n % ORIGINS].clone(), egret.proxy());
                let authority = format!("{name}:{}", nginx.port());
                tokio::spawn(async move {
                    let answer = tokio::time::timeout(Duration::from_secs(90), get(proxy, &authority, &together)).await;
                    (name, answer.expect("an answer within 90 s").expect("an answer"))
                })
            })
            .collect();
        let mut answers = Vec::new();
        for task in tasks {
            answers.push(task.await.expect("no task panics"));
        }
        answers
    });
    assert_eq!(answers.len(), REQUESTS);
    for (name, answer) in answers {
        assert!(answer.contains(&format!("\"subject\":\"CN={name}\"")), "{name}: {answer}");
        assert!(answer.contains(&format!("\"server\":\"{name}\"")), "{name}: {answer}");
    }
}

/// Connects, waits until everybody is connected, and sends one request.
async fn get(proxy: SocketAddr, authority: &str, together: &Barrier) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(proxy).await?;
    together.wait().await;
    let head = format!("GET https://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
