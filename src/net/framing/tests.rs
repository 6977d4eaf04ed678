use proptest::prelude::*;

use super::*;

/// The verdict on a stream that arrives whole, and how much of it may be acted on.
fn judge(stream: &[u8]) -> Result<u64, (&'static str, usize)> {
    let mut gate = Gate::default();
    gate.feed(stream).map(|()| gate.messages()).map_err(|refused| (refused.why.0, refused.whole))
}

/// The same for a stream that arrives in pieces which end at `cuts`.
fn judge_in_pieces(stream: &[u8], cuts: &[usize]) -> Result<u64, (&'static str, usize)> {
    let mut gate = Gate::default();
    let (mut from, mut whole) = (0, 0);
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).chain([stream.len()]).collect();
    ends.sort_unstable();
    for end in ends {
        let before = gate.messages();
        match gate.feed(&stream[from..end]) {
            Ok(()) if gate.state == State::Start && gate.messages() > before => whole = end,
            Ok(()) => {}
            Err(refused) if refused.whole > 0 => return Err((refused.why.0, from + refused.whole)),
            // What was handed on earlier is not taken back; only its whole messages are compared.
            Err(refused) => return Err((refused.why.0, whole)),
        }
        from = end;
    }
    Ok(gate.messages())
}

fn judge_bytewise(stream: &[u8]) -> Result<u64, (&'static str, usize)> {
    judge_in_pieces(stream, &(0..stream.len()).collect::<Vec<_>>())
}

/// A head with `fields`, then `rest`.
fn post(fields: &str, rest: &str) -> Vec<u8> {
    format!("POST /x HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n{rest}").into_bytes()
}

fn chunked(rest: &str) -> Vec<u8> {
    post("Transfer-Encoding: chunked\r\n", rest)
}

#[track_caller]
fn passes(stream: &[u8], messages: u64) {
    let text = String::from_utf8_lossy(stream);
    assert_eq!(judge(stream), Ok(messages), "{text}");
    assert_eq!(judge_bytewise(stream), Ok(messages), "{text}");
}

/// Refused for a reason that has `why` in it, however it arrives.
#[track_caller]
fn refused(stream: &[u8], why: &str) {
    let text = String::from_utf8_lossy(stream);
    for verdict in [judge(stream), judge_bytewise(stream)] {
        let (reason, _) = verdict.expect_err(&text);
        assert!(reason.contains(why), "{text:?} was refused because {reason}");
    }
}

#[test]
fn lets_ordinary_requests_pass() {
    passes(b"GET / HTTP/1.1\r\n\r\n", 1);
    passes(b"GET http://a.test/%20?q=\xc3\xa4#x HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n", 1);
    passes(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 2);
    passes(b"M-SEARCH * HTTP/1.1\r\nhost:a\r\nX-Empty:\r\nX-Tab:\ta\tb \xe4\r\nX!#$%&'*+-.^_`|~: 1\r\n\r\n", 1);
    passes(b"get / HTTP/1.1\r\nX: a-value-that-is-longer-than-one-block-of-sixteen\tbytes\r\n\r\n", 1);
    passes(&post("content-LENGTH: \t4 \t\r\n", "abcdGET / HTTP/1.1\r\n\r\n"), 2);
    passes(&post("Content-Length: 4\r\n", "\0\r\n\x7f"), 1);
    passes(&post("Content-Length: 0\r\n", "GET / HTTP/1.1\r\n\r\n"), 2);
    passes(&post("Content-Length: 4\r\n", "abc"), 0);
    passes(&post("Content-Length: 9223372036854775807\r\n", "a"), 0);
    passes(&post("Content-Lengths: x\r\nContent-Lengt: x\r\nTransfer-Encodings: x\r\nHosts: x\r\nHos: x\r\n", ""), 1);
    passes(&post(&format!("{}: x\r\n", "Transfer-Encoding".repeat(40)), ""), 1);
}

#[test]
fn lets_chunked_bodies_pass() {
    passes(&chunked("0\r\n\r\nGET / HTTP/1.1\r\n\r\n"), 2);
    passes(&chunked("5\r\nab\r\n0\r\n000A\r\n0123456789\r\n000\r\n\r\n"), 1);
    passes(&post("TRANSFER-encoding: \tCHUNKED\t \r\n", "1;a;b=c;d=\"e \\\" \\\\ ;\t\"\r\nx\r\n0;last\r\n\r\n"), 1);
    passes(&chunked("0\r\nX-Sum: 1\r\nX-Other:\r\n\r\n"), 1);
    passes(&chunked("ffffffffffffffff\r\nabc"), 0);
    passes(&chunked(&format!("1;{}\r\nx\r\n0\r\nX: {}\r\n\r\n", "e".repeat(255), "t".repeat(8000))), 1);
}

#[test]
fn reads_nothing_behind_a_connect() {
    passes(b"CONNECT a.test:443 HTTP/1.0\r\n\r\n\x16\x03\x01\0\r\n\n\n: \0", 0);
    passes(b"GET / HTTP/1.1\r\n\r\nCONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n\0", 1);
    // Methods are case-sensitive: to hyper this one is no CONNECT either.
    refused(b"connect a.test:443 HTTP/1.1\r\n\r\n\x16\x03", "method");
    refused(b"CONNECTS a.test:443 HTTP/1.1\r\n\r\n\x16\x03", "method");
}

#[test]
fn refuses_ambiguous_lengths() {
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "transfer-encoding: chunked\r\nX: y\r\nCONTENT-LENGTH: 4\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    ] {
        refused(&post(fields, "0\r\n\r\n"), "both");
    }
    refused(&post("Content-Length: 4\r\nContent-Length: 4\r\n", "abcd"), "more than one Content-Length");
    refused(&post("Content-Length: 0\r\nx: y\r\ncontent-length: 1\r\n", "a"), "more than one Content-Length");
    for value in ["4, 4", "4,4", "+4", "-4", "0x4", "4a", "4 4", "4.0", "\"4\"", "\u{664}", "1e3", "4;", "4\x0b"] {
        refused(&post(&format!("Content-Length: {value}\r\n"), "abcd"), "not one decimal");
    }
    for value in ["9223372036854775808", "18446744073709551616", "99999999999999999999999"] {
        refused(&post(&format!("Content-Length: {value}\r\n"), ""), "out of range");
    }
    for value in ["010", "00", "0000000000000000000000000000000004"] {
        refused(&post(&format!("Content-Length: {value}\r\n"), "01234567"), "leading zero");
    }
    refused(&post("Content-Length:\r\n", ""), "empty");
    refused(&post("Content-Length: \t \r\n", ""), "empty");
}

#[test]
fn refuses_every_coding_but_chunked() {
    for value in [
        "",
        " ",
        "identity",
        "chunked, identity",
        "identity, chunked",
        "chunked,",
        ",chunked",
        "chunked, chunked",
        "xchunked",
        "chunkedx",
        "chunke",
        "chunked;q=1",
        "\"chunked\"",
        "chun ked",
        "chunked\x0b",
        "\x0bchunked",
        "gzip",
    ] {
        refused(&post(&format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n"), "not just chunked");
    }
    refused(&post("Transfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n", ""), "more than one Transfer");
    refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.0");
}

#[test]
fn refuses_more_than_one_host() {
    refused(&post("hOST: a.test\r\n", ""), "more than one Host");
    refused(&post("Host:\r\n", ""), "more than one Host");
}

#[test]
fn refuses_lines_that_do_not_end_with_crlf() {
    for stream in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost\n: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /\nHTTP/1.1\r\n\r\n",
        "\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\n\r\na",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\n\r\n0\r\n\r\n",
    ] {
        refused(stream.as_bytes(), "bare LF");
    }
    for stream in [
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\rx",
        "\rGET / HTTP/1.1\r\n\r\n",
        "GE\rT / HTTP/1.1\r\n\r\n",
    ] {
        refused(stream.as_bytes(), "CR stands alone");
    }
}

#[test]
fn refuses_malformed_fields() {
    for control in (0..0x20_u8).chain([0x7f]).filter(|b| !matches!(b, b'\t' | b'\r' | b'\n')) {
        for place in [0, 7, 15, 16, 40] {
            let mut stream = b"GET / HTTP/1.1\r\nX: ".to_vec();
            stream.extend_from_slice(&b"x".repeat(place));
            stream.push(control);
            stream.extend_from_slice(b"yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n\r\n");
            refused(&stream, if control == 0 { "NUL" } else { "control character" });
        }
    }
    refused(&post("X: one\r\n two\r\n", ""), "begins with white space");
    refused(&post("X: one\r\n\ttwo\r\n", ""), "begins with white space");
    refused(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "begins with white space");
    refused(&post(" \r\n", ""), "begins with white space");
    refused(&post("X : y\r\n", ""), "white space between");
    refused(&post("Content-Length\t: 4\r\n", "abcd"), "white space between");
    refused(&post(": y\r\n", ""), "no name");
    for name in ["X\0", "X\x0b", "X(", "X/", "X@", "X[", "X\"", "X,", "X;", "X{", "X\u{e4}", "\u{e4}", "\x7f"] {
        let stream = post(&format!("{name}: y\r\n"), "");
        assert!(judge(&stream).is_err() && judge_bytewise(&stream).is_err(), "{name:?}");
    }
    refused(&post("nothing but a name\r\n", ""), "white space between");
    refused(&post("name\r\n", ""), "CR stands alone");
}

#[test]
fn refuses_malformed_request_lines() {
    for stream in [
        "GET  / HTTP/1.1\r\n\r\n",
        "GET /  HTTP/1.1\r\n\r\n",
        "GET\t/ HTTP/1.1\r\n\r\n",
        "GET /\tHTTP/1.1\r\n\r\n",
        "GET / x HTTP/1.1\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / \r\n\r\n",
        "GET\r\n\r\n",
        " GET / HTTP/1.1\r\n\r\n",
        "G(T / HTTP/1.1\r\n\r\n",
        "GET /\0 HTTP/1.1\r\n\r\n",
        "GET /\x7f HTTP/1.1\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "\x16\x03\x01\x02",
    ] {
        assert!(judge(stream.as_bytes()).is_err() && judge_bytewise(stream.as_bytes()).is_err(), "{stream:?}");
    }
    for version in
        ["HTTP/1.2", "HTTP/3.0", "HTTP/0.9", "http/1.1", "HTTP/1.1 ", "HTTP/1.10", "HTTP/01.1", "HTTP/1,1", "XTTP/1.1"]
    {
        refused(format!("GET / {version}\r\n\r\n").as_bytes(), "HTTP/1.1 or HTTP/1.0");
    }
    refused(b"GET / HTTP/2.0\r\n\r\n", "this connection speaks HTTP/1.1");
    refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "this connection speaks HTTP/1.1");
}

#[test]
fn refuses_malformed_chunks() {
    for size in ["", " 1", "1 ", "0x1", "+1", "-1", "g", "1\t", "\"1\"", "1\u{b}", " "] {
        refused(&chunked(&format!("{size}\r\nx\r\n0\r\n\r\n")), "not a hexadecimal");
    }
    refused(&chunked("00000000000000001\r\nx\r\n0\r\n\r\n"), "out of range");
    for line in ["1\n", "1;a\n", "1;a=\"b\n"] {
        refused(&chunked(&format!("{line}x\r\n0\r\n\r\n")), "bare LF");
    }
    refused(&chunked("1\rx\r\n0\r\n\r\n"), "CR stands alone");
    for extension in
        ["", ";", " a", "a ", "a=", "a= b", "a =b", "=b", "a=b\"", "a=\"b\"c", "a=\"\x01\"", "a\0b", "(", "\t"]
    {
        let stream = chunked(&format!("1;{extension}\r\nx\r\n0\r\n\r\n"));
        assert!(judge(&stream).is_err() && judge_bytewise(&stream).is_err(), "{extension:?}");
    }
    refused(&chunked(&format!("1;{}\r\n", "e".repeat(256))), "too long");
    for after in ["xy\r\n", "x\n", "x\r\r\n", "x0\r\n", "xGET"] {
        refused(&chunked(&format!("1\r\n{after}0\r\n\r\n")), "do not end with CRLF");
    }
}

#[test]
fn refuses_malformed_trailers() {
    for field in ["Content-Length: 1", "Transfer-Encoding: chunked", "HOST: a"] {
        let stream = chunked(&format!("0\r\n{field}\r\n\r\n"));
        assert!(judge(&stream).is_err() && judge_bytewise(&stream).is_err(), "{field}");
    }
    let late = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: a\r\n\r\n";
    refused(late.as_bytes(), "belongs in the head");
    refused(&chunked("0\r\nX: a\n\r\n"), "bare LF");
    refused(&chunked("0\r\nX: a\r\n b\r\n\r\n"), "begins with white space");
    refused(&chunked("0\r\nX : a\r\n\r\n"), "white space between");
    refused(&chunked("0\r\n\n"), "bare LF");
    refused(&chunked(&format!("0\r\nX: {}\r\n\r\n", "t".repeat(8200))), "too long");
    refused(&chunked(&format!("0\r\n{}\r\n", "X: y\r\n".repeat(1400))), "too long");
}

#[test]
fn says_what_may_be_acted_on() {
    let good = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let both = [&good[..], b"GET / HTTP/1.1\nHost: a\r\n\r\n"].concat();
    assert_eq!(Gate::default().feed(&both).map_err(|r| (r.whole, r.within)), Err((good.len(), false)));
    // A head that only the chunk after it makes bad is not acted on either.
    let chunk = chunked("zz\r\n");
    assert_eq!(Gate::default().feed(&chunk).map_err(|r| (r.whole, r.within)), Err((0, false)));
    let mut gate = Gate::default();
    gate.feed(&chunked("1\r\nx")).unwrap();
    assert_eq!(gate.feed(b"y").map_err(|r| (r.whole, r.within)), Err((0, true)));
    assert!(gate.feed(b"\r\n").is_err(), "a refusal is final");
    // The body ended well, what follows did not.
    let mut gate = Gate::default();
    gate.feed(&chunked("1\r\nx")).unwrap();
    assert_eq!(gate.feed(b"\r\n0\r\n\r\n\n").map_err(|r| (r.whole, r.within)), Err((7, false)));
    assert_eq!(gate.messages(), 1);
    let mut gate = Gate::default();
    gate.feed(b"GET / HT").unwrap();
    assert_eq!(gate.feed(b"TP/1.1\r\nX\r").map_err(|r| (r.whole, r.within)), Err((0, false)));
}

/// Valid requests of every framing.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let field = ("[A-Za-z!#$%&'*+.^_`|~0-9-]{1,24}", "[ -~\t]{0,40}").prop_filter_map("framing", |(name, value)| {
        let framing = ["host", "content-length", "transfer-encoding"];
        (!framing.contains(&name.to_ascii_lowercase().as_str())).then(|| format!("{name}:{value}\r\n"))
    });
    let fields = prop::collection::vec(field, 0..5).prop_map(|fields| fields.concat());
    let extension = prop_oneof!["", ";[a-z]{1,5}", ";[a-z]{1,5}=[a-z0-9]{1,5}", ";a=\"[ !#-Z]{0,9}\""];
    let chunk = (prop::collection::vec(any::<u8>(), 1..40), extension)
        .prop_map(|(data, extension)| [format!("{:X}{extension}\r\n", data.len()).as_bytes(), &data, b"\r\n"].concat());
    let coded = (prop::collection::vec(chunk, 0..4), fields.clone(), "0{1,3}").prop_map(|(chunks, trailers, last)| {
        let body = [&chunks.concat(), format!("{last}\r\n{trailers}\r\n").as_bytes()].concat();
        ("Transfer-Encoding: Chunked\r\n".to_owned(), body)
    });
    let sized = prop::collection::vec(any::<u8>(), 0..60)
        .prop_map(|body| (format!("Content-Length:  {}\r\n", body.len()), body));
    let body = prop_oneof![Just((String::new(), Vec::new())), sized, coded];
    let line = ("(\r\n)?", "(GET|POST|PATCH|X-Y)", "/[a-z0-9%?&=.~:@!_-]{0,30}")
        .prop_map(|(e, m, t)| format!("{e}{m} {t} HTTP/1.1\r\n"));
    (line, fields.clone(), fields, body).prop_map(|(line, before, after, (framing, body))| {
        [format!("{line}{before}Host: a\r\n{framing}{after}\r\n").as_bytes(), &body].concat()
    })
}

/// What hyper makes of the stream: the number of messages that it read to their end.
fn read_by_hyper(stream: &[u8]) -> u64 {
    use http_body_util::{BodyExt as _, Empty};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let read = std::cell::Cell::new(0);
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(stream).await.unwrap();
        client.shutdown().await.unwrap();
        let service = hyper::service::service_fn(async |request: http::Request<hyper::body::Incoming>| {
            if request.into_body().collect().await.is_ok() {
                read.set(read.get() + 1);
            }
            Ok::<_, std::convert::Infallible>(http::Response::new(Empty::<bytes::Bytes>::new()))
        });
        let io = hyper_util::rt::TokioIo::new(server);
        let serving = hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(io, service);
        let mut answers = Vec::new();
        let (_, _) = tokio::join!(serving, client.read_to_end(&mut answers));
        read.get()
    })
}

proptest! {
    #[test]
    fn hyper_ends_messages_where_the_gate_does(
        requests in prop::collection::vec(request(), 1..5),
        damage in prop::option::of((any::<usize>(), prop::sample::select(b"\r\n\0 \t:;,0a".to_vec()))),
    ) {
        let mut stream = requests.concat();
        if let Some((place, byte)) = damage {
            let place = place % stream.len();
            stream[place] = byte;
        }
        if let Ok(messages) = judge(&stream) {
            let read = read_by_hyper(&stream);
            // hyper may refuse what is framed well (a target that is no URI), and end the connection early.
            prop_assert!(read == messages || damage.is_some() && read < messages, "{} and {}", read, messages);
        }
    }

    #[test]
    fn valid_streams_pass_in_whatever_pieces(
        requests in prop::collection::vec(request(), 1..5),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let stream = requests.concat();
        prop_assert_eq!(judge(&stream), Ok(requests.len() as u64));
        prop_assert_eq!(judge_in_pieces(&stream, &cuts), Ok(requests.len() as u64));
        prop_assert_eq!(judge_bytewise(&stream), Ok(requests.len() as u64));
    }

    #[test]
    fn a_damaged_stream_gets_one_verdict_in_whatever_pieces(
        requests in prop::collection::vec(request(), 1..4),
        damage in prop::collection::vec((any::<usize>(), prop_oneof![any::<u8>(), prop::sample::select(b"\r\n\0 \t:;,0a".to_vec())]), 1..4),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let mut stream = requests.concat();
        for (place, byte) in damage {
            let place = place % stream.len();
            stream[place] = byte;
        }
        let verdict = judge(&stream);
        prop_assert_eq!(judge_in_pieces(&stream, &cuts).map_err(|e| e.0), verdict.map_err(|e| e.0));
        prop_assert_eq!(judge_bytewise(&stream), verdict);
    }

    #[test]
    fn garbage_is_judged_without_a_panic(
        head in prop_oneof![Just(""), Just("POST / HTTP/1.1\r\n"), Just("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")],
        garbage in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\r\n :;0123456789abcdef".to_vec())], 0..200),
    ) {
        let stream = [head.as_bytes(), &garbage].concat();
        prop_assert_eq!(judge(&stream), judge_bytewise(&stream));
    }
}
