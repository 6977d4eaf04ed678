use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Answers each request on one connection with the next of `answers`; gives back what it was sent.
async fn server(answers: &'static [&'static str]) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        for answer in answers {
            let start = seen.len();
            loop {
                let mut chunk = [0; 4096];
                let n = stream.read(&mut chunk).await.unwrap();
                assert!(n > 0, "the client closed early");
                seen.extend_from_slice(&chunk[..n]);
                let text = String::from_utf8_lossy(&seen[start..]).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length =
                    head.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |l| l.parse().unwrap());
                if body.len() >= length {
                    break;
                }
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        String::from_utf8(seen).unwrap()
    });
    (url, task)
}

fn api(url: &str, token: Token) -> Api {
    Api { place: parse_url(url).unwrap(), token, connection: None }
}

fn secret() -> Token {
    Token::Environment(Zeroizing::new("s3cret\n".to_owned()))
}

#[tokio::test]
async fn one_connection_serves_several_calls_with_the_token() {
    let (url, seen) = server(&[
        "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{\"a\": 1}",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    ])
    .await;
    let mut api = api(&url, secret());
    assert_eq!(api.get("/v1/x").await.unwrap(), json!({"a": 1}));
    let body = Zeroizing::new(b"{\"key\": 1}".to_vec());
    api.post("/v1/y", body).await.unwrap();
    let seen = seen.await.unwrap();
    assert!(seen.starts_with("GET /v1/x HTTP/1.1\r\n"), "{seen}");
    assert_eq!(seen.matches("authorization: Bearer s3cret\r\n").count(), 2, "{seen}");
    assert!(seen.contains("content-type: application/json\r\n") && seen.ends_with("{\"key\": 1}"), "{seen}");
}

#[tokio::test]
async fn the_apis_own_words_are_passed_on_without_escapes() {
    let (url, _seen) = server(&[
        "HTTP/1.1 400 Bad Request\r\ncontent-length: 70\r\n\r\n{\"error\": {\"code\": \"bad_request\", \"message\": \"key: \\u001b[31m wrong\"}}    ",
    ])
    .await;
    let error = api(&url, secret()).get("/").await.unwrap_err();
    assert_eq!(error.to_string(), "the API refused (HTTP 400): key: \u{fffd}[31m wrong");
}

#[tokio::test]
async fn a_refused_token_is_named_by_its_origin_never_by_its_text() {
    for (token, origin) in [
        (secret(), "EGRET_TOKEN"),
        (Token::File(Zeroizing::new("s3cret".to_owned()), "/data/admin.token".into()), "/data/admin.token"),
        (Token::Missing("/data/admin.token".into(), std::io::ErrorKind::NotFound.into()), "there was none"),
    ] {
        let (url, _seen) = server(&["HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}"]).await;
        let error = api(&url, token).get("/").await.unwrap_err().to_string();
        assert!(error.contains(origin) && !error.contains("s3cret"), "{error}");
    }
}

#[tokio::test]
async fn where_nothing_listens_the_remedy_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = api(&url, secret()).get("/").await.unwrap_err();
    assert!(matches!(error, ApiError::NotListening { .. }) && error.to_string().contains("egret serve"), "{error}");
}

#[tokio::test]
async fn what_is_not_egret_is_said_to_be_foreign() {
    for answer in ["HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n<ok>", "SSH-2.0-OpenSSH\r\n\r\n"] {
        let (url, _seen) = server(Box::leak(Box::new([answer]))).await;
        let error = api(&url, secret()).get("/").await.unwrap_err();
        assert!(matches!(error, ApiError::Foreign { .. }), "{error}");
    }
}

#[test]
fn urls_name_a_place_and_nothing_more() {
    for (text, place) in [
        ("http://127.0.0.1:9090", Place::Http("127.0.0.1:9090".to_owned())),
        ("http://[::1]:9090/", Place::Http("[::1]:9090".to_owned())),
        ("https://egret.corp", Place::Https("egret.corp".to_owned())),
        ("unix:/run/egret.sock", Place::Unix("/run/egret.sock".into())),
        ("unix:egret.sock", Place::Unix("egret.sock".into())),
    ] {
        let parsed = parse_url(text).unwrap();
        assert_eq!(parsed, place);
        assert_eq!(parsed.to_string(), text.trim_end_matches('/'));
    }
    for bad in [
        "ftp://a",
        "unix:",
        "unix:/",
        "unix:@a",
        "127.0.0.1:9090",
        "http://u@a",
        "http://a/v1",
        "http://a/?q",
        "",
        "http://",
    ] {
        assert!(parse_url(bad).unwrap_err().is::<Usage>(), "{bad}");
    }
    assert_eq!(with_port("[::1]", 80), "[::1]:80");
    assert_eq!(with_port("localhost:1", 80), "localhost:1");
    assert_eq!(with_port("egret.corp", 443), "egret.corp:443");
}

#[test]
fn only_this_machine_is_loopback() {
    for yes in ["127.0.0.1:9090", "[::1]", "localhost:1", "LOCALHOST"] {
        assert!(is_loopback(yes), "{yes}");
    }
    for no in ["10.0.0.1:9090", "egret.example", "localhost.example"] {
        assert!(!is_loopback(no), "{no}");
    }
}

#[test]
fn segments_cannot_leave_their_place() {
    assert_eq!(segment("../../x y?é"), "..%2F..%2Fx%20y%3F%C3%A9");
    assert_eq!(segment("prj_1.a-b~"), "prj_1.a-b~");
}
