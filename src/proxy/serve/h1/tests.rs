use http::{Request, Response};
use http_body_util::Empty;
use tokio::io::{AsyncReadExt as _, DuplexStream};

use tokio_util::task::TaskTracker;

use super::super::{Protocol, serve};
use super::*;
use crate::config::Limits;

fn limits() -> LiveLimits {
    LiveLimits::new(&Limits {
        head_timeout: Duration::from_secs(10),
        keep_alive_timeout: Duration::from_secs(60),
        response_timeout: Duration::from_secs(900),
        download_idle_timeout: Duration::from_secs(900),
        ..Limits::default()
    })
}

fn seen(now: Instant, busy: bool, done: u64, head_begun: bool, idle: u64) -> Seen {
    Seen { busy, done, head_begun, idle: Duration::from_secs(idle), now }
}

#[test]
fn gives_a_new_connection_the_head_timeout_for_its_first_byte() {
    let now = Instant::now();
    let mut watch = Watch::default();
    assert_eq!(watch.look(seen(now, false, 0, false, 4), &limits()), Verdict::Wait(Duration::from_secs(6)));
    assert_eq!(watch.look(seen(now, false, 0, false, 10), &limits()), Verdict::Idle);
}

#[test]
fn gives_an_idle_connection_the_keep_alive_timeout() {
    let now = Instant::now();
    let mut watch = Watch::default();
    assert_eq!(watch.look(seen(now, false, 3, false, 10), &limits()), Verdict::Wait(Duration::from_secs(10)));
    assert_eq!(watch.look(seen(now, false, 3, false, 57), &limits()), Verdict::Wait(Duration::from_secs(3)));
    assert_eq!(watch.look(seen(now, false, 3, false, 60), &limits()), Verdict::Idle);
}

#[test]
fn ends_a_head_that_drips() {
    let now = Instant::now();
    let mut watch = Watch::default();
    // Bytes keep coming, so the meter is never idle; the head's age counts.
    assert_eq!(watch.look(seen(now, false, 0, true, 0), &limits()), Verdict::Wait(Duration::from_secs(10)));
    let later = now + Duration::from_secs(10);
    assert_eq!(watch.look(seen(later, false, 0, true, 0), &limits()), Verdict::SlowHead);
}

#[test]
fn does_not_take_two_heads_for_one() {
    let now = Instant::now();
    let mut watch = Watch::default();
    watch.look(seen(now, false, 0, true, 0), &limits());
    let later = now + Duration::from_secs(10);
    assert_eq!(watch.look(seen(later, false, 1, true, 0), &limits()), Verdict::Wait(Duration::from_secs(10)));
    watch.look(seen(later, true, 1, false, 0), &limits());
    let last = later + Duration::from_secs(10);
    assert_eq!(watch.look(seen(last, false, 1, true, 0), &limits()), Verdict::Wait(Duration::from_secs(10)));
}

#[test]
fn lets_an_exchange_be_as_slow_as_the_waist_allows() {
    let now = Instant::now();
    let mut watch = Watch::default();
    assert_eq!(watch.look(seen(now, true, 0, true, 1799), &limits()), Verdict::Wait(Duration::from_secs(10)));
    assert_eq!(watch.look(seen(now, true, 0, true, 1800), &limits()), Verdict::Stalled);
}

/// A served connection whose answers are empty; for what happens between the exchanges.
struct Served {
    client: DuplexStream,
    serving: Arc<Serving>,
    task: tokio::task::JoinHandle<()>,
}

fn served(limits: Limits) -> Served {
    let serving = Serving::new(limits.into(), Arc::default(), TaskTracker::new());
    let (client, server) = tokio::io::duplex(4096);
    let meter = Meter::new();
    let io = crate::net::Io::new(server, meter.clone());
    let task = tokio::spawn(serve(io, Protocol::Http1, meter, serving.clone(), |_| -> Answering<Empty<Bytes>> {
        Box::pin(async {
            let mut response = Response::new(Empty::new());
            *response.status_mut() = http::StatusCode::NO_CONTENT;
            response
        })
    }));
    Served { client, serving, task }
}

async fn exchange(client: &mut DuplexStream) -> String {
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\n") {
        got.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(got).unwrap()
}

async fn rest(client: &mut DuplexStream) -> String {
    let mut got = String::new();
    client.read_to_string(&mut got).await.unwrap();
    got
}

#[tokio::test]
async fn keeps_a_connection_alive_between_exchanges() {
    let mut served = served(Limits::default());
    for _ in 0..3 {
        assert!(exchange(&mut served.client).await.starts_with("HTTP/1.1 204"));
    }
    drop(served.client);
    served.task.await.unwrap();
}

#[tokio::test]
async fn closes_an_idle_connection() {
    let short = Duration::from_millis(50);
    let mut served = served(Limits { keep_alive_timeout: short, head_timeout: short, ..Limits::default() });
    exchange(&mut served.client).await;
    assert_eq!(rest(&mut served.client).await, "");
    served.task.await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_time_that_is_in_force_by_now() {
    let short = Duration::from_millis(50);
    let mut served = served(Limits { head_timeout: short, ..Limits::default() });
    exchange(&mut served.client).await;
    served.serving.limits.replace(Limits { head_timeout: short, keep_alive_timeout: short, ..Limits::default() });
    assert_eq!(rest(&mut served.client).await, "");
    served.task.await.unwrap();
}

#[tokio::test]
async fn tells_a_client_whose_head_does_not_end() {
    let mut served = served(Limits { head_timeout: Duration::from_millis(50), ..Limits::default() });
    served.client.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    let answer = rest(&mut served.client).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("\"code\":\"limit.request_timeout\""), "{answer}");
    served.task.await.unwrap();
    assert_eq!(served.serving.metrics.client_timeouts.get(), 1);
}

#[tokio::test]
async fn closes_a_silent_connection() {
    let mut served = served(Limits { head_timeout: Duration::from_millis(50), ..Limits::default() });
    assert_eq!(rest(&mut served.client).await, "");
    served.task.await.unwrap();
}

#[tokio::test]
async fn closes_idle_connections_when_draining() {
    let mut served = served(Limits::default());
    exchange(&mut served.client).await;
    served.serving.drain.cancel();
    assert_eq!(rest(&mut served.client).await, "");
    served.task.await.unwrap();
}

#[tokio::test]
async fn counts_what_the_parser_refuses() {
    let mut served = served(Limits::default());
    // Framed well, and no URI.
    served.client.write_all(b"GET /< HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(rest(&mut served.client).await.starts_with("HTTP/1.1 400"));
    served.task.await.unwrap();
    assert_eq!(served.serving.metrics.client_malformed.get(), 1);
}

/// The gate's refusal as a client sees it: one whole answer, and the end.
fn assert_refusal(answer: &str, why: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    for field in ["connection: close", "content-type: application/problem+json"] {
        assert!(head.lines().any(|line| line == field), "{answer}");
    }
    assert!(head.contains("proxy-status: egret; error=http_request_error"), "{answer}");
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{answer}");
    assert!(body.contains("\"code\":\"request.malformed\"") && body.contains(why), "{answer}");
}

#[tokio::test]
async fn answers_what_the_gate_refuses_and_closes() {
    for (pieces, why) in [
        (&["GET / HTTP/1.1\r\nhost: a\n\r\n"][..], "bare LF"),
        (&["\n"], "bare LF"),
        (&["POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 1\r\n", "Transfer-Encoding: chunked\r\n\r\n"], "both"),
        (&["POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"], "hexadecimal"),
    ] {
        let mut served = served(Limits::default());
        for piece in pieces {
            served.client.write_all(piece.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_refusal(&rest(&mut served.client).await, why);
        drop(served.client);
        served.task.await.unwrap();
        assert_eq!(served.serving.metrics.client_malformed.get(), 1);
    }
}

#[tokio::test]
async fn answers_what_came_before_a_refusal_first() {
    let good = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut served = served(Limits::default());
    served.client.write_all(format!("{good}{good}GET / HTTP/1.1\r\nhost : a\r\n\r\n").as_bytes()).await.unwrap();
    let answers = rest(&mut served.client).await;
    let (first, refusal) = answers.split_at(answers.find("HTTP/1.1 400").expect("a refusal"));
    assert_eq!(first.matches("HTTP/1.1 204").count(), 2, "{answers}");
    assert_refusal(refusal, "white space");
}

#[tokio::test]
async fn does_not_answer_a_refusal_before_its_turn() {
    let (mut client, server) = tokio::io::duplex(4096);
    let meter = Meter::new();
    let io = crate::net::Io::new(server, meter.clone());
    let (answer, answered) = tokio::sync::watch::channel(false);
    let serving = Serving::new(LiveLimits::default(), Arc::default(), TaskTracker::new());
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let handle = move |_: Request<Incoming>| -> Answering<Empty<Bytes>> {
        let mut answered = answered.clone();
        begun.send(()).unwrap();
        Box::pin(async move {
            answered.wait_for(|yes| *yes).await.unwrap();
            Response::new(Empty::new())
        })
    };
    let metrics = serving.metrics.clone();
    let task = tokio::spawn(serve(io, Protocol::Http1, meter.clone(), serving, handle));
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    begins.recv().await.unwrap();
    let before = meter.read();
    client.write_all(b"\0").await.unwrap();
    while meter.read() == before {
        tokio::task::yield_now().await;
    }
    assert_eq!((meter.written(), metrics.client_malformed.get()), (0, 0));
    answer.send(true).unwrap();
    let answers = rest(&mut client).await;
    assert!(answers.starts_with("HTTP/1.1 200 OK\r\n"), "{answers}");
    assert_refusal(&answers[answers.find("HTTP/1.1 400").expect("a refusal")..], "NUL");
    drop(client);
    task.await.unwrap();
    assert_eq!(metrics.client_malformed.get(), 1);
}

/// An exchange with a body is held by its answer and by its upload, and still is one.
#[tokio::test]
async fn counts_an_exchange_with_a_body_once() {
    let (mut client, server) = tokio::io::duplex(4096);
    let meter = Meter::new();
    let io = crate::net::Io::new(server, meter.clone());
    let (answer, answered) = tokio::sync::watch::channel(false);
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let handle = move |request: Request<Incoming>| -> Answering<Empty<Bytes>> {
        let mut answered = answered.clone();
        let begun = begun.clone();
        Box::pin(async move {
            use http_body_util::BodyExt as _;
            let get = request.method() == http::Method::GET;
            request.into_body().collect().await.unwrap();
            if get {
                begun.send(()).unwrap();
                answered.wait_for(|yes| *yes).await.unwrap();
            }
            Response::new(Empty::new())
        })
    };
    let task = tokio::spawn(serve(
        io,
        Protocol::Http1,
        meter,
        Serving::new(LiveLimits::default(), Arc::default(), TaskTracker::new()),
        handle,
    ));
    let post = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
    let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(format!("{post}{get}\0").as_bytes()).await.unwrap();
    begins.recv().await.unwrap();
    answer.send(true).unwrap();
    let answers = rest(&mut client).await;
    let (first, refusal) = answers.split_at(answers.find("HTTP/1.1 400").expect("a refusal"));
    assert_eq!(first.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert_refusal(refusal, "NUL");
    drop(client);
    task.await.unwrap();
}

#[tokio::test]
async fn fails_a_body_that_is_refused_in_the_middle() {
    use http_body_util::BodyExt as _;

    let (mut client, server) = tokio::io::duplex(4096);
    let meter = Meter::new();
    let io = crate::net::Io::new(server, meter.clone());
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let handle = move |mut request: Request<Incoming>| -> Answering<Empty<Bytes>> {
        let tell = tell.clone();
        Box::pin(async move {
            while let Some(frame) = request.body_mut().frame().await {
                tell.send(frame.map(|f| f.into_data().unwrap())).unwrap();
            }
            Response::new(Empty::new())
        })
    };
    let serving = Serving::new(LiveLimits::default(), Arc::default(), TaskTracker::new());
    let metrics = serving.metrics.clone();
    let task = tokio::spawn(serve(io, Protocol::Http1, meter, serving, handle));
    client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab").await.unwrap();
    assert_eq!(told.recv().await.unwrap().unwrap(), "ab");
    client.write_all(b"\n0\r\n\r\n").await.unwrap();
    assert!(told.recv().await.unwrap().is_err());
    assert!(rest(&mut client).await.starts_with("HTTP/1.1 200"), "the handler had the last word");
    drop(client);
    task.await.unwrap();
    assert_eq!(metrics.client_malformed.get(), 1);
}

#[tokio::test]
async fn hands_a_tunnel_over_with_the_bytes_that_came_behind_its_head() {
    use tokio::net::{TcpListener, TcpStream};

    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(socket.local_addr().unwrap()).await.unwrap();
    let (stream, _) = socket.accept().await.unwrap();
    let meter = Meter::new();
    let io = crate::net::Io::new(stream, meter.clone());
    let (tell, told) = std::sync::mpsc::channel();
    let handle = move |mut request: Request<Incoming>| -> Answering<Empty<Bytes>> {
        tell.send(hyper::upgrade::on(&mut request)).unwrap();
        Box::pin(async { Response::new(Empty::new()) })
    };
    let task = tokio::spawn(serve(
        io,
        Protocol::Http1,
        meter,
        Serving::new(LiveLimits::default(), Arc::default(), TaskTracker::new()),
        handle,
    ));
    client.write_all(b"CONNECT a.test:443 HTTP/1.1\r\n\r\nearly").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200") && !head.contains("content-length") && !head.contains("transfer-"));
    task.await.unwrap();
    let upgraded = told.recv().unwrap().await.unwrap();
    let parts = upgraded.downcast::<TokioIo<Guarded<crate::net::Io<TcpStream>>>>().expect("it is what was served");
    assert_eq!(&parts.read_buf[..], b"early");
    let mut io = parts.io.into_inner();
    client.write_all(b"late").await.unwrap();
    let mut late = [0; 4];
    io.read_exact(&mut late).await.unwrap();
    assert_eq!(&late, b"late");
}

#[tokio::test]
async fn drops_an_exchange_whose_client_has_gone() {
    struct Dropped(tokio::sync::mpsc::UnboundedSender<()>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let (mut client, server) = tokio::io::duplex(4096);
    let meter = Meter::new();
    let io = crate::net::Io::new(server, meter.clone());
    let handle = move |_: Request<Incoming>| -> Answering<Empty<Bytes>> {
        let dropped = Dropped(tell.clone());
        Box::pin(async move {
            let _dropped = dropped;
            std::future::pending().await
        })
    };
    let task = tokio::spawn(serve(
        io,
        Protocol::Http1,
        meter,
        Serving::new(LiveLimits::default(), Arc::default(), TaskTracker::new()),
        handle,
    ));
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    drop(client);
    told.recv().await.unwrap();
    task.await.unwrap();
}
