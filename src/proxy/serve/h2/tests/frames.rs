//! What a client would not send that keeps the rules: frames written by hand.

use super::*;

/// A frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// HPACK without compression: a literal field, not indexed.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0, u8::try_from(name.len()).unwrap()];
    out.extend(name.as_bytes());
    out.push(u8::try_from(value.len()).unwrap());
    out.extend(value.as_bytes());
    out
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

const PLAIN: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "a.test")];

/// A client that writes frames and reads frames.
struct Raw(DuplexStream);

impl Raw {
    async fn open(mut io: DuplexStream) -> Self {
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut raw = Self(io);
        raw.send(&frame(4, 0, 0, &[])).await;
        raw
    }

    async fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
    }

    /// Kind, stream and payload of the next frame; `None` at the end.
    async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    /// The first frame of this kind.
    async fn frame(&mut self, kind: u8) -> Option<(u32, Vec<u8>)> {
        loop {
            let (is, stream, payload) = self.next().await?;
            if is == kind {
                return Some((stream, payload));
            }
        }
    }
}

#[tokio::test]
async fn ends_a_client_that_begins_and_resets_without_end() {
    let (io, served, mut handled, mut drops) = silent(Limits::default());
    let mut raw = Raw::open(io).await;
    let mut begun = 0;
    // One after the other, so that h2 never holds a stream that nobody has seen.
    for stream in (1..).step_by(2) {
        raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&PLAIN))).await;
        if handled.recv().await.is_none() {
            break;
        }
        begun += 1;
        assert!(begun <= 2 * GIVEN_UP + 2, "{begun} requests were begun");
        raw.send(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())).await;
        drops.recv().await.unwrap();
    }
    assert!(begun > GIVEN_UP, "{begun}");
    assert_eq!(served.ended().await.metrics.client_rapid_resets.get(), 1);
}

#[tokio::test]
async fn ends_a_client_that_resets_what_nobody_has_seen() {
    let (io, served, mut handled, _drops) = silent(Limits::default());
    let mut raw = Raw::open(io).await;
    let flood: Vec<u8> = (0..1000)
        .map(|n| 2 * n + 1)
        .flat_map(|stream| {
            let begin = frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&PLAIN));
            [begin, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
        })
        .collect();
    raw.send(&flood).await;
    let (_, goaway) = raw.frame(GOAWAY).await.expect("a last word");
    assert_eq!(goaway[7], 11, "ENHANCE_YOUR_CALM");
    assert_eq!(served.ended().await.metrics.client_malformed.get(), 1);
    let mut begun = 0;
    while handled.try_recv().is_ok() {
        begun += 1;
    }
    assert!(begun <= 2 * GIVEN_UP, "{begun} of 1000 were acted on");
}

/// What reaches no handler: its stream is reset, or its connection ends.
#[tokio::test]
async fn never_acts_on_a_malformed_request() {
    let swap = |at: usize, with: Option<(&'static str, &'static str)>| {
        let mut fields = PLAIN.to_vec();
        fields.remove(at);
        fields.extend(with);
        fields
    };
    let more = |name, value| [&PLAIN[..], &[(name, value)]].concat();
    let after = |pseudo| [&PLAIN[..3], &[("x", "y"), pseudo]].concat();
    for (fields, end) in [
        (more("connection", "close"), true),
        (more("keep-alive", "1"), true),
        (more("proxy-connection", "close"), true),
        (more("transfer-encoding", "chunked"), false),
        (more("upgrade", "h2c"), true),
        (more("te", "gzip"), true),
        (more("X-Upper", "a"), true),
        (more("x y", "a"), true),
        (more("x", "a\r\nb: c"), true),
        (more("x", "a\0"), true),
        (more(":method", "GET"), true),
        (more(":authority", "b.test"), true),
        (more(":status", "200"), true),
        (more(":unknown", "x"), true),
        (more(":protocol", "websocket"), true),
        (more("content-length", "5"), true),
        (more("content-length", "+0"), true),
        ([&PLAIN[..], &[("content-length", "0"), ("content-length", "1")]].concat(), false),
        (after((":authority", "a.test")), true),
        (swap(0, None), true),
        (swap(1, None), true),
        (swap(2, Some((":path", ""))), true),
        (swap(2, Some((":path", "/a b"))), true),
        (swap(3, Some((":authority", ""))), true),
        (swap(3, Some((":authority", "a b"))), true),
        (swap(0, Some((":method", "CONNECT"))), true),
        (vec![(":method", "CONNECT"), (":authority", "a.test:443"), (":path", "/")], false),
        (vec![(":method", "CONNECT"), (":authority", "a.test:443"), (":scheme", "https")], false),
        (vec![(":method", "CONNECT"), (":authority", "a.test:443"), (":protocol", "websocket")], false),
    ] {
        let (io, served, mut handled, _drops) = silent(Limits::default());
        let mut raw = Raw::open(io).await;
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        raw.send(&frame(HEADERS, flags, 1, &block(&fields))).await;
        loop {
            match raw.next().await {
                Some((RST_STREAM, 1, _) | (GOAWAY, ..)) | None => break,
                Some((HEADERS, ..)) => panic!("{fields:?} was answered"),
                Some(_) => {}
            }
        }
        drop(raw);
        served.ended().await;
        assert!(handled.recv().await.is_none(), "{fields:?}");
    }
}

#[tokio::test]
async fn fails_a_body_that_is_not_as_long_as_it_was_said_to_be() {
    for (payload, flags) in [(&b"123"[..], END_STREAM), (b"12345678", 0)] {
        let (tell, mut told) = unbounded_channel();
        let (io, _served) = serve_with(Limits::default(), move |request| -> Answering<Empty<Bytes>> {
            let tell = tell.clone();
            Box::pin(async move {
                tell.send(request.into_body().collect().await.is_err()).unwrap();
                no_content()
            })
        });
        let mut raw = Raw::open(io).await;
        let fields = [&PLAIN[..], &[("content-length", "5")]].concat();
        raw.send(&frame(HEADERS, END_HEADERS, 1, &block(&fields))).await;
        raw.send(&frame(0, flags, 1, payload)).await;
        assert!(told.recv().await.unwrap(), "{payload:?}");
    }
}

#[tokio::test]
async fn cuts_an_idle_client_that_does_not_take_its_leave() {
    let (io, served) = polite(Limits { head_timeout: SHORT, ..Limits::default() });
    let mut raw = Raw::open(io).await;
    assert!(raw.frame(GOAWAY).await.is_some());
    // No PING is answered.
    assert!(raw.next().await.is_none_or(|(kind, ..)| kind == 6));
    assert_eq!(served.ended().await.metrics.client_timeouts.get(), 1);
}
