use http::Version;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::*;

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn lines(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut all: Vec<_> =
        headers.iter().map(|(n, v)| (n.as_str().to_owned(), v.to_str().unwrap().to_owned())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn cleaned(input: &[(&str, &str)]) -> Result<Vec<(String, String)>, Failure> {
    let via = Via::with_tag([7; 8]);
    let mut headers = map(input);
    clean_request(&mut headers, Version::HTTP_11, &via)?;
    headers.remove(VIA);
    Ok(lines(&headers))
}

fn refused(input: &[(&str, &str)]) -> Code {
    cleaned(input).expect_err("is refused").code
}

fn own(lines: &[(&str, &str)]) -> Vec<(String, String)> {
    lines.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn keeps_end_to_end_fields_and_their_multiplicity() {
    let got = cleaned(&[("accept", "a"), ("x-many", "1"), ("x-many", "2"), ("cookie", "c=1")]).unwrap();
    assert_eq!(got, own(&[("accept", "a"), ("cookie", "c=1"), ("x-many", "1"), ("x-many", "2")]));
}

#[test]
fn removes_hop_by_hop_fields_of_a_request() {
    let got = cleaned(&[
        ("connection", "keep-alive, X-Secret"),
        ("connection", "x-other ,, "),
        ("x-secret", "1"),
        ("x-other", "2"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic eDp5"),
        ("proxy-authenticate", "Basic"),
        ("proxy-authentication-info", "x"),
        ("proxy-status", "forged; error=x"),
        ("proxy-features", "x"),
        ("upgrade", "websocket"),
        ("http2-settings", "AAMAAABk"),
        ("transfer-encoding", "chunked"),
        ("accept", "*/*"),
    ])
    .unwrap();
    assert_eq!(got, own(&[("accept", "*/*")]));
}

#[test]
fn never_removes_the_announcement_of_trailers() {
    let got = cleaned(&[("connection", "Trailer, close"), ("trailer", "x-sum")]).unwrap();
    assert_eq!(got, own(&[("trailer", "x-sum")]));
}

#[test]
fn lets_te_say_trailers_and_nothing_else() {
    let got = cleaned(&[("connection", "TE"), ("te", "gzip;q=0.5, Trailers")]).unwrap();
    assert_eq!(got, own(&[("connection", "te"), ("te", "trailers")]));
    assert_eq!(cleaned(&[("connection", "TE"), ("te", "gzip")]).unwrap(), own(&[]));
}

#[test]
fn refuses_a_connection_that_names_what_it_may_not() {
    for name in ["Host", "content-length", "Transfer-Encoding", "VIA", "egret-project", "X-Egret-Id", "expect"] {
        assert_eq!(refused(&[("connection", &format!("close, {name}"))]), Code::RequestMalformed, "{name}");
    }
}

#[test]
fn removes_authorization_when_connection_names_it() {
    assert_eq!(cleaned(&[("connection", "authorization"), ("authorization", "x")]).unwrap(), own(&[]));
}

#[test]
fn refuses_ambiguous_framing() {
    for input in [
        &[("content-length", "3"), ("transfer-encoding", "chunked")][..],
        &[("content-length", "3"), ("content-length", "3")],
        &[("content-length", "3"), ("content-length", "4")],
        &[("content-length", "3, 3")],
        &[("content-length", "+3")],
        &[("content-length", "")],
        &[("transfer-encoding", "gzip, chunked")],
        &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        &[("transfer-encoding", "identity")],
        &[("transfer-encoding", "xchunked")],
    ] {
        assert_eq!(refused(input), Code::RequestMalformed, "{input:?}");
    }
    assert_eq!(cleaned(&[("content-length", "3")]).unwrap(), own(&[("content-length", "3")]));
}

#[test]
fn sees_a_loop_by_its_own_mark_only() {
    let (own, other) = (Via::with_tag([1; 8]), Via::with_tag([2; 8]));
    let mut headers = map(&[("via", "1.1 upstream.example")]);
    clean_request(&mut headers, Version::HTTP_11, &other).unwrap();
    clean_request(&mut headers, Version::HTTP_10, &own).unwrap();
    let via: Vec<_> = headers.get_all(VIA).iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(via, ["1.1 upstream.example", "1.1 egret-0202020202020202", "1.0 egret-0101010101010101"]);
    assert_eq!(clean_request(&mut headers, Version::HTTP_11, &own).unwrap_err().code, Code::RequestLoop);
}

#[test]
fn gives_every_instance_its_own_mark() {
    assert_ne!(Via::random().pseudonym, Via::random().pseudonym);
}

#[test]
fn ignores_an_expectation_of_http_1_0() {
    let via = Via::random();
    let mut headers = map(&[("expect", "100-continue")]);
    assert!(expects_continue(&headers, Version::HTTP_11));
    assert!(!expects_continue(&headers, Version::HTTP_10));
    clean_request(&mut headers, Version::HTTP_11, &via).unwrap();
    assert!(headers.contains_key(EXPECT));
    let mut headers = map(&[("expect", "100-continue")]);
    clean_request(&mut headers, Version::HTTP_10, &via).unwrap();
    assert!(!headers.contains_key(EXPECT));
}

#[test]
fn cleans_a_response() {
    let via = Via::with_tag([7; 8]);
    let input = [
        ("connection", "close, x-hop, content-length, trailer"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authenticate", "Basic"),
        ("proxy-authorization", "x"),
        ("proxy-authentication-info", "x"),
        ("proxy-connection", "x"),
        ("proxy-status", "other; error=dns_error"),
        ("upgrade", "h2c"),
        ("trailer", "x-sum"),
        ("content-length", "5"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("strict-transport-security", "max-age=1"),
        ("alt-svc", "h3=\":443\""),
    ];
    let kept = own(&[
        ("alt-svc", "h3=\":443\""),
        ("content-length", "5"),
        ("proxy-status", "other; error=dns_error"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("strict-transport-security", "max-age=1"),
        ("trailer", "x-sum"),
        ("via", "1.1 egret-0707070707070707"),
    ]);
    let mut headers = map(&input);
    clean_response(&mut headers, Version::HTTP_11, &via, false);
    assert_eq!(lines(&headers), kept);

    let mut headers = map(&input);
    clean_response(&mut headers, Version::HTTP_11, &via, true);
    let lifted: Vec<_> = kept.into_iter().filter(|(n, _)| n != "alt-svc" && n != "strict-transport-security").collect();
    assert_eq!(lines(&headers), lifted);
}

#[test]
fn drops_the_length_beside_a_transfer_coding_of_a_response() {
    let via = Via::with_tag([7; 8]);
    let mut headers = map(&[("content-length", "5"), ("transfer-encoding", "chunked")]);
    clean_response(&mut headers, Version::HTTP_11, &via, false);
    headers.remove(VIA);
    assert!(headers.is_empty());
}

#[test]
fn takes_exactly_one_host() {
    assert_eq!(only_host(&map(&[])).unwrap(), None);
    assert_eq!(only_host(&map(&[("host", "a.test:8443")])).unwrap(), Some("a.test:8443"));
    for bad in [&[("host", "a.test"), ("host", "a.test")][..], &[("host", "")]] {
        assert_eq!(only_host(&map(bad)).unwrap_err().code, Code::RequestMalformed);
    }
}
