//! The server over small routers: no registry is needed to see that it bounds and ends.

use std::net::SocketAddr;

use axum::extract::Request as Asked;
use axum::routing::{any, get};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::config::Limits;

const SOON: Duration = Duration::from_secs(10);

struct Running {
    address: SocketAddr,
    limits: LiveLimits,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

async fn start(router: Router, limits: Limits) -> Running {
    let listener = crate::net::listen::Listening::bind(&"127.0.0.1:0".parse().unwrap(), 0, false).unwrap();
    let address = listener.endpoint().tcp().unwrap();
    let listener = listener.accepting().unwrap();
    let limits = LiveLimits::new(&limits);
    let (stop, stopped) = oneshot::channel();
    let shutdown = async { stopped.await.unwrap_or(()) };
    let task = tokio::spawn(run(
        listener,
        None,
        router,
        (limits.clone(), LiveLimits::max_api_connections),
        Arc::default(),
        shutdown,
    ));
    Running { address, limits, stop: Some(stop), task }
}

async fn send(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// All that comes until the server closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    timeout(SOON, stream.read_to_end(&mut text)).await.expect("the server closes in time").unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn tells_handlers_both_ends() {
    let router = Router::new().route(
        "/",
        get(|request: Asked| async move {
            let (peer, local) = request.extensions().get::<Ends>().unwrap().socket.unwrap();
            format!("{peer} {local}")
        }),
    );
    let running = start(router, Limits::default()).await;
    let mut stream = send(running.address, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let answer = rest(&mut stream).await;
    let ends = format!("{} {}", stream.local_addr().unwrap(), running.address);
    assert!(answer.ends_with(&ends), "{answer}");
}

#[tokio::test]
async fn finishes_what_runs_and_then_ends() {
    let (reached, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (r, g) = (reached.clone(), gate.clone());
    let router = Router::new().route(
        "/",
        get(move || async move {
            r.notify_one();
            g.notified().await;
            "done"
        }),
    );
    let mut running = start(router, Limits::default()).await;
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    let mut busy = send(running.address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    timeout(SOON, reached.notified()).await.unwrap();
    running.stop.take().unwrap().send(()).unwrap();
    assert_eq!(rest(&mut idle).await, "", "an idle connection closes at once");
    assert!(!running.task.is_finished());
    gate.notify_one();
    assert!(rest(&mut busy).await.ends_with("done"));
    timeout(SOON, running.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn cuts_what_does_not_end() {
    let limits = Limits { drain_timeout: Duration::from_millis(20), ..Limits::default() };
    let router = Router::new().route("/", get(std::future::pending::<()>));
    let mut running = start(router, limits).await;
    let mut stuck = send(running.address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    running.stop.take().unwrap().send(()).unwrap();
    timeout(SOON, running.task).await.unwrap().unwrap();
    let mut text = Vec::new();
    // End or reset: either way it is over.
    let _ = timeout(SOON, stuck.read_to_end(&mut text)).await.unwrap();
    assert!(text.is_empty());
}

#[tokio::test]
async fn who_follows_a_stream_and_reads_nothing_holds_up_no_end() {
    let more = || futures_util::stream::repeat_with(|| Ok::<_, std::convert::Infallible>("x".repeat(64 << 10)));
    let router = Router::new()
        .route("/", get(move || async move { ([(CONTENT_TYPE, EVENT_STREAM)], Body::from_stream(more())) }));
    let mut running = start(router, Limits { drain_timeout: SOON * 100, ..Limits::default() }).await;
    let mut stream = send(running.address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    stream.read_exact(&mut [0; 15]).await.unwrap();
    running.stop.take().unwrap().send(()).unwrap();
    timeout(SOON, running.task).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn drops_who_says_nothing_and_who_says_half() {
    let limits = Limits { head_timeout: Duration::from_millis(30), ..Limits::default() };
    let running = start(Router::new(), limits).await;
    for text in ["", "GET / HTTP/1.1\r\nho"] {
        let mut stream = send(running.address, text).await;
        let answer = rest(&mut stream).await;
        assert!(!answer.contains("200"), "{answer}");
    }
}

#[tokio::test]
async fn drops_who_stands_still_in_the_middle() {
    let limits = Limits { keep_alive_timeout: Duration::from_millis(50), ..Limits::default() };
    let router = Router::new().route(
        "/",
        any(|request: Asked| async move {
            let _ = axum::body::to_bytes(request.into_body(), 100).await;
        }),
    );
    let running = start(router, limits).await;
    let mut stream = send(running.address, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf").await;
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn keeps_who_waits_for_an_answer_that_takes_long() {
    let limits = Limits { keep_alive_timeout: Duration::from_millis(20), ..Limits::default() };
    let (reached, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (r, g) = (reached.clone(), gate.clone());
    let router = Router::new().route(
        "/",
        any(move |request: Asked| async move {
            let body = axum::body::to_bytes(request.into_body(), 100).await.unwrap();
            r.notify_one();
            g.notified().await;
            body
        }),
    );
    let running = start(router, limits).await;
    for (head, body) in
        [("GET / HTTP/1.1\r\nhost: x\r\n\r\n", ""), ("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n", "done")]
    {
        let mut stream = send(running.address, &format!("{head}{body}")).await;
        timeout(SOON, reached.notified()).await.unwrap();
        let cut = timeout(Duration::from_millis(200), stream.read(&mut [0; 1])).await;
        assert!(cut.is_err(), "{head}: cut while it waited: {cut:?}");
        gate.notify_one();
        // And once it is answered, as ever.
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(body), "{answer}");
    }
}

#[tokio::test]
async fn lets_a_refusal_overtake_a_large_upload() {
    let router = Router::new().route("/", any(|| async { (http::StatusCode::PAYLOAD_TOO_LARGE, "too large") }));
    let running = start(router, Limits::default()).await;
    let body = "x".repeat(4 << 20);
    let request = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut stream = timeout(SOON, send(running.address, &request)).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.ends_with("too large"), "{answer}");
}

#[tokio::test]
async fn serves_no_more_connections_than_allowed() {
    let limits = Limits { max_api_connections: 1, ..Limits::default() };
    let running = start(Router::new().route("/", get(|| async { "done" })), limits).await;
    let mut first = send(running.address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut answer = [0; 15];
    timeout(SOON, first.read_exact(&mut answer)).await.unwrap().unwrap();
    let mut second = send(running.address, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let early = timeout(Duration::from_millis(50), second.read(&mut answer)).await;
    assert!(early.is_err(), "served although the first is still open");
    running.limits.replace(Limits { max_api_connections: 2, ..Limits::default() });
    assert!(rest(&mut second).await.ends_with("done"));
    running.limits.replace(Limits { max_api_connections: 1, ..Limits::default() });
    let mut third = send(running.address, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let early = timeout(Duration::from_millis(50), third.read(&mut answer)).await;
    assert!(early.is_err(), "served although the first is still open");
    drop(first);
    assert!(rest(&mut third).await.ends_with("done"));
}

#[tokio::test]
async fn who_asks_once_more_when_it_ends_is_answered_and_told_to_close() {
    let mut running = start(Router::new().route("/", get(|| async { "done" })), Limits::default()).await;
    let mut stream = send(running.address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut answer = [0; 4096];
    let first = stream.read(&mut answer).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer[..first]).contains("close"));
    running.stop.take().unwrap().send(()).unwrap();
    timeout(SOON, async { while TcpStream::connect(running.address).await.is_ok() {} }).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let last = rest(&mut stream).await;
    assert!(last.contains("connection: close") && last.ends_with("done"), "{last}");
    timeout(SOON, running.task).await.unwrap().unwrap();
}
