mod frames;

use std::sync::atomic::Ordering;

use http::{Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::task::TaskTracker;

use super::super::{carried, taken};
use super::streams::GIVEN_UP;
use super::*;
use crate::config::Limits;
use crate::net::{HangUp as _, Stream};
use crate::observe::Metrics;

const SHORT: Duration = Duration::from_millis(50);

/// What a handler is given, one after the other.
type Handled = UnboundedReceiver<Request<Incoming>>;

/// A served connection.
struct Served {
    serving: Arc<Serving>,
    task: task::JoinHandle<()>,
}

impl Served {
    fn metrics(&self) -> &Metrics {
        &self.serving.metrics
    }

    /// No task of the connection is left.
    async fn ended(self) -> Arc<Serving> {
        self.task.await.unwrap();
        self.serving.tasks.close();
        self.serving.tasks.wait().await;
        self.serving
    }
}

fn serve_with<B>(
    limits: Limits,
    handle: impl Fn(Request<Incoming>) -> Answering<B> + Send + 'static,
) -> (DuplexStream, Served)
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let serving = Serving::new(limits.into(), Arc::default(), TaskTracker::new());
    let (client, server) = duplex(1 << 20);
    let task = tokio::spawn(serve(server, serving.clone(), handle));
    (client, Served { serving, task })
}

/// Answers with 204 at once.
fn polite(limits: Limits) -> (DuplexStream, Served) {
    serve_with(limits, |_| -> Answering<Empty<Bytes>> { Box::pin(async { no_content() }) })
}

fn no_content() -> Response<Empty<Bytes>> {
    Response::builder().status(StatusCode::NO_CONTENT).body(Empty::new()).unwrap()
}

/// Never answers; tells what it was given, and when that was dropped.
fn silent(limits: Limits) -> (DuplexStream, Served, Handled, UnboundedReceiver<()>) {
    struct Dropped(UnboundedSender<()>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let ((tell, told), (dropped, drops)) = (unbounded_channel(), unbounded_channel());
    let (client, served) = serve_with(limits, move |request| -> Answering<Empty<Bytes>> {
        let dropped = Dropped(dropped.clone());
        let _ = tell.send(request);
        Box::pin(async move {
            let _dropped = dropped;
            std::future::pending().await
        })
    });
    (client, served, told, drops)
}

type Sender = h2::client::SendRequest<Bytes>;

async fn client(io: DuplexStream) -> (Sender, task::JoinHandle<Result<(), h2::Error>>) {
    // Large enough that one stream does not starve the others.
    let (sender, connection) =
        h2::client::Builder::new().initial_connection_window_size(1 << 20).handshake(io).await.unwrap();
    (sender.ready().await.unwrap(), tokio::spawn(connection))
}

fn get() -> Request<()> {
    Request::get("https://a.test/").version(Version::HTTP_2).body(()).unwrap()
}

#[test]
fn looks_at_what_runs_and_at_how_long_nothing_did() {
    let limits = LiveLimits::default();
    let seen = |busy, fresh, rested| Seen { busy, fresh, rested: Duration::from_secs(rested) };
    let mut watch = Watch::default();
    assert_eq!(watch.look(seen(false, true, 4), &limits), Verdict::Wait(Duration::from_secs(6)));
    assert_eq!(watch.look(seen(true, true, 100), &limits), Verdict::Busy);
    assert_eq!(watch.look(seen(false, false, 10), &limits), Verdict::Wait(Duration::from_secs(50)));
    assert_eq!(watch.look(seen(false, false, 60), &limits), Verdict::Idle);
    // One that crossed our GOAWAY is served.
    assert_eq!(watch.look(seen(true, false, 0), &limits), Verdict::Busy);
    assert_eq!(watch.look(seen(false, false, 0), &limits), Verdict::Over);
    assert_eq!(Watch::default().look(seen(false, true, 10), &limits), Verdict::Idle);
}

#[test]
fn calls_it_haste_when_most_exchanges_are_given_up_at_once() {
    let activity = Arc::new(Activity::new());
    let exchange = |answered: bool| Running::begin(&activity).answered.store(answered, Ordering::Relaxed);
    let forget = || activity.next.lock().unwrap().take();
    for _ in 0..GIVEN_UP {
        exchange(true);
        exchange(false);
    }
    forget();
    exchange(false);
    forget();
    assert_eq!(activity.haste(), Haste::Much);
    // As many that were answered make up for it.
    exchange(true);
    forget();
    assert_eq!(activity.haste(), Haste::None);
    for _ in 0..2 * GIVEN_UP {
        exchange(false);
    }
    forget();
    assert_eq!(activity.haste(), Haste::TooMuch);
    assert!(!activity.seen().busy);
}

#[tokio::test]
async fn serves_many_at_once_and_says_how_many() {
    let (io, served) = polite(Limits { max_streams_per_client: 7, ..Limits::default() });
    let (mut sender, connection) = client(io).await;
    for _ in 0..3 {
        let (response, _) = sender.send_request(get(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 204);
        sender = sender.ready().await.unwrap();
    }
    assert_eq!(sender.current_max_send_streams(), 7);
    assert!(sender.is_extended_connect_protocol_enabled());
    drop(sender);
    connection.await.unwrap().unwrap();
    served.ended().await;
}

#[tokio::test]
async fn passes_bodies_and_trailers_both_ways() {
    let (io, served) = serve_with(Limits::default(), |request| -> Answering<_> {
        let request = taken(request, &LiveLimits::default());
        Box::pin(async move {
            let sent = request.into_body().collect().await.unwrap();
            let trailers = sent.trailers().cloned().unwrap();
            Response::new(Full::new(sent.to_bytes()).with_trailers(async move { Some(Ok(trailers)) }).boxed())
        })
    });
    let (mut sender, _connection) = client(io).await;
    let (response, mut body) = sender.send_request(get(), false).unwrap();
    body.send_data(Bytes::from_static(b"hello"), false).unwrap();
    body.send_trailers([("x-sum".parse().unwrap(), "5".parse().unwrap())].into_iter().collect()).unwrap();
    let mut answer = response.await.unwrap().into_body();
    assert_eq!(answer.data().await.unwrap().unwrap(), "hello");
    assert_eq!(answer.trailers().await.unwrap().unwrap()["x-sum"], "5");
    drop((sender, body, answer));
    served.ended().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_reset() {
    let (io, _served) = serve_with(Limits::default(), |_| -> Answering<_> {
        let frames = [Ok(Frame::data(Bytes::from_static(b"half"))), Err(std::io::Error::other("gone"))];
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        Box::pin(async move { Response::new(body) })
    });
    let (mut sender, _connection) = client(io).await;
    let (response, _) = sender.send_request(get(), true).unwrap();
    // What h2 had not sent yet goes with the reset, even the head.
    let error = match response.await {
        Err(error) => error,
        Ok(response) => {
            let mut body = response.into_body();
            loop {
                if let Err(error) = body.data().await.expect("not an end") {
                    break error;
                }
            }
        }
    };
    assert!(error.is_reset(), "{error}");
}

#[tokio::test]
async fn says_goodbye_to_an_idle_client() {
    for requests in [0, 1] {
        let (io, served) = polite(Limits { head_timeout: SHORT, keep_alive_timeout: SHORT, ..Limits::default() });
        let (mut sender, connection) = client(io).await;
        for _ in 0..requests {
            sender.send_request(get(), true).unwrap().0.await.unwrap();
        }
        // GOAWAY without an error.
        connection.await.unwrap().unwrap();
        drop(sender);
        assert_eq!(served.ended().await.metrics.client_timeouts.get(), 0);
    }
}

#[tokio::test]
async fn cuts_a_client_that_says_nothing() {
    let (_io, served) = polite(Limits { head_timeout: SHORT, ..Limits::default() });
    assert_eq!(served.ended().await.metrics.client_timeouts.get(), 1);
}

#[tokio::test]
async fn counts_a_client_that_breaks_the_rules() {
    let (mut io, served) = polite(Limits::default());
    io.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await.unwrap();
    assert_eq!(served.ended().await.metrics.client_malformed.get(), 1);
}

#[tokio::test]
async fn finishes_what_runs_when_draining() {
    let (answer, answered) = tokio::sync::watch::channel(false);
    let (begun, mut begins) = unbounded_channel();
    let (io, served) = serve_with(Limits::default(), move |_| -> Answering<Empty<Bytes>> {
        let mut answered = answered.clone();
        begun.send(()).unwrap();
        Box::pin(async move {
            answered.wait_for(|yes| *yes).await.unwrap();
            no_content()
        })
    });
    let (mut sender, connection) = client(io).await;
    let (response, _) = sender.send_request(get(), true).unwrap();
    begins.recv().await.unwrap();
    served.serving.drain.cancel();
    // GOAWAY has come: nothing new.
    while sender.clone().ready().await.is_ok() {
        task::yield_now().await;
    }
    answer.send(true).unwrap();
    assert_eq!(response.await.unwrap().status(), 204);
    connection.await.unwrap().unwrap();
    served.ended().await;
}

#[tokio::test]
async fn cuts_all_when_the_proxy_ends() {
    let (io, served, mut handled, mut drops) = silent(Limits::default());
    let (mut sender, _connection) = client(io).await;
    let responses: Vec<_> = (0..3).map(|_| sender.send_request(get(), true).unwrap().0).collect();
    for _ in 0..3 {
        handled.recv().await.unwrap();
    }
    served.serving.abort.cancel();
    served.ended().await;
    for response in responses {
        drops.recv().await.unwrap();
        assert!(response.await.is_err());
    }
}

#[tokio::test]
async fn drops_an_exchange_whose_client_gave_it_up() {
    let (io, _served, mut handled, mut drops) = silent(Limits::default());
    let (mut sender, _connection) = client(io).await;
    let (response, mut body) = sender.send_request(get(), false).unwrap();
    handled.recv().await.unwrap();
    body.send_reset(h2::Reason::CANCEL);
    drop(response);
    drops.recv().await.unwrap();
    assert!(sender.ready().await.is_ok(), "the connection goes on");
}

#[tokio::test]
async fn answers_a_head_that_is_too_large_with_431() {
    let (io, _served, mut handled, _drops) = silent(Limits { max_head_bytes: 8 * 1024, ..Limits::default() });
    let (mut sender, _connection) = client(io).await;
    let mut request = get();
    for n in 0..60 {
        let name: http::HeaderName = format!("x-{n}").parse().unwrap();
        request.headers_mut().insert(name, "y".repeat(200).parse().unwrap());
    }
    let (response, _) = sender.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 431);
    assert!(handled.try_recv().is_err());
}

#[tokio::test]
async fn cuts_a_stream_whose_client_takes_nothing_and_leaves_the_others() {
    let limits = Limits {
        head_timeout: SHORT,
        keep_alive_timeout: Duration::from_secs(60),
        response_timeout: SHORT,
        download_idle_timeout: SHORT,
        ..Limits::default()
    };
    let (io, served) = serve_with(limits, |request| -> Answering<_> {
        let chunks = if request.uri().path() == "/large" { 16 } else { 1 };
        let frames = (0..chunks).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024]))));
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        Box::pin(async move { Response::new(body) })
    });
    let (mut sender, _connection) = client(io).await;
    let mut large = get();
    *large.uri_mut() = "https://a.test/large".parse().unwrap();
    let mut body = sender.send_request(large, true).unwrap().0.await.unwrap().into_body();
    // The client's window is 65535; nothing is given back.
    let mut got = 0;
    let error = loop {
        // All the while others are served, and bytes move on the connection.
        let (response, _) = sender.send_request(get(), true).unwrap();
        let mut other = response.await.unwrap().into_body();
        while let Some(data) = other.data().await {
            let bytes = data.unwrap().len();
            other.flow_control().release_capacity(bytes).unwrap();
        }
        sender = sender.ready().await.unwrap();
        match futures_util::poll!(std::pin::pin!(body.data())) {
            Poll::Ready(Some(Ok(data))) => got += data.len(),
            Poll::Ready(Some(Err(error))) => break error,
            Poll::Ready(None) => panic!("an end after {got}"),
            Poll::Pending => task::yield_now().await,
        }
    };
    assert!(error.is_reset() && got <= 65_535, "{error} after {got}");
    assert_eq!(served.metrics().client_timeouts.get(), 1);
}

/// CONNECT, and its far end as a connection of its own.
async fn tunnel(limits: Limits) -> (Sender, h2::SendStream<Bytes>, h2::RecvStream, Stream, Served) {
    let (tell, mut told) = unbounded_channel();
    let (io, served) = serve_with(limits, move |mut request| -> Answering<Empty<Bytes>> {
        let busy = request.extensions_mut().remove::<Busy>();
        tell.send((hyper::upgrade::on(&mut request), busy)).unwrap();
        Box::pin(async { Response::new(Empty::new()) })
    });
    let (mut sender, _connection) = client(io).await;
    let connect = Request::connect("a.test:443").version(Version::HTTP_2).body(()).unwrap();
    let (response, send) = sender.send_request(connect, false).unwrap();
    let receive = response.await.unwrap().into_body();
    let (upgrade, busy) = told.recv().await.unwrap();
    assert!(busy.is_some());
    let stream = carried(upgrade.await.unwrap(), busy);
    (sender.ready().await.unwrap(), send, receive, stream, served)
}

#[tokio::test]
async fn a_tunnel_carries_bytes_and_the_end_of_either_side() {
    let limits = Limits { head_timeout: SHORT, keep_alive_timeout: SHORT, ..Limits::default() };
    let (sender, mut send, mut receive, mut stream, served) = tunnel(limits).await;
    // Longer than an idle connection would live.
    tokio::time::sleep(6 * SHORT).await;
    send.send_data(Bytes::from_static(b"question"), true).unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "question");
    stream.write_all(b"answer").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    while let Some(data) = receive.data().await {
        got.extend(data.unwrap());
    }
    assert_eq!(got, b"answer");
    drop((stream, sender, send, receive));
    served.ended().await;
}

#[tokio::test]
async fn a_tunnel_that_is_hung_up_is_reset() {
    let (sender, send, mut receive, mut stream, served) = tunnel(Limits::default()).await;
    stream.write_all(b"half").await.unwrap();
    assert_eq!(receive.data().await.unwrap().unwrap(), "half");
    stream.hang_up();
    drop(stream);
    assert!(receive.data().await.expect("not an end").unwrap_err().is_reset());
    drop((sender, send, receive));
    served.ended().await;
}

#[tokio::test]
async fn a_tunnel_leaves_nothing_behind_when_its_client_takes_nothing() {
    let limits =
        Limits { head_timeout: SHORT, response_timeout: SHORT, download_idle_timeout: SHORT, ..Limits::default() };
    let (_sender, _send, _receive, mut stream, served) = tunnel(limits).await;
    // Fills the client's window, and what lies before it.
    let full = async { while stream.write_all(&[0; 16 * 1024]).await.is_ok() {} };
    assert!(tokio::time::timeout(4 * SHORT, full).await.is_err(), "an open tunnel is not cut for being silent");
    drop(stream);
    while served.metrics().client_timeouts.get() == 0 {
        tokio::time::sleep(SHORT / 5).await;
    }
}

#[tokio::test]
async fn hands_an_extended_connect_on_with_its_protocol() {
    let (io, _served, mut handled, _drops) = silent(Limits::default());
    let (mut sender, _connection) = client(io).await;
    while !sender.is_extended_connect_protocol_enabled() {
        sender = sender.ready().await.unwrap();
        task::yield_now().await;
    }
    let mut connect = Request::connect("https://a.test/chat?x").version(Version::HTTP_2).body(()).unwrap();
    connect.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let _response = sender.send_request(connect, false).unwrap();
    let request = taken(handled.recv().await.unwrap(), &LiveLimits::default());
    assert_eq!(request.method(), Method::CONNECT);
    assert_eq!(request.uri(), "https://a.test/chat?x");
    assert_eq!(request.extensions().get::<hyper::ext::Protocol>().unwrap().as_str(), "websocket");
    assert!(request.extensions().get::<hyper::upgrade::OnUpgrade>().is_some());
    assert!(request.extensions().get::<Busy>().is_some());
}
