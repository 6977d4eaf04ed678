//! RFC 9110 section 7.6.1: what belongs to one connection never crosses to the next, in either direction, and egret
//! says in `Via` that it was there.

use crate::harness::egret::TOKEN;
use crate::harness::origin::header;
use crate::harness::partner::{NAME, Partner, Way};

#[test]
fn towards_the_origin() {
    let partner = Partner::start(|conversation, _| conversation.answer("200 OK", "", ""));
    for way in Way::ALL {
        let fields = "Connection: keep-alive, X-Named, x-also-named, HTTP2-Settings\r\nX-Named: secret\r\nX-Also-Named: secret\r\n\
                      Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic c2VjcmV0\r\n\
                      Proxy-Made-Up: secret\r\nTE: trailers, deflate\r\nUpgrade: h2c\r\nHTTP2-Settings: secret\r\n\
                      Authorization: Bearer for-the-origin\r\nX-End-To-End: kept\r\nVia: 1.0 before\r\n";
        let reply = partner.open(way).exchange("GET", "/", fields);
        assert_eq!(reply.status, 200, "{way:?}: {}", reply.text());
        let heads = partner.origin.heads();
        let head = heads.last().expect("a request arrived");
        let lower = head.to_ascii_lowercase();
        for gone in
            ["x-named", "x-also-named", "keep-alive:", "proxy-", "upgrade", "http2-settings", "deflate", "secret"]
        {
            assert!(!lower.contains(gone), "{way:?}: {gone} went on to the origin:\n{head}");
        }
        assert_eq!(header(head, "authorization"), Some("Bearer for-the-origin"), "{way:?}");
        assert_eq!(header(head, "x-end-to-end"), Some("kept"), "{way:?}");
        let via: Vec<_> = head.lines().filter(|line| line.to_ascii_lowercase().starts_with("via:")).collect();
        let via = via.join(",").to_ascii_lowercase();
        assert!(via.contains("1.0 before") && via.contains("1.1 egret"), "{way:?}: {via}");
        assert_eq!(header(head, "host"), Some(format!("{NAME}:{}", partner.origin.port()).as_str()), "{way:?}");
        assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{way:?}: {head}");
        assert_eq!(lower.matches("\r\nhost:").count(), 1, "{way:?}: {head}");
        assert!(!lower.contains("x-forwarded-"), "{way:?}: {head}");
    }
}

#[test]
fn towards_the_client() {
    let partner = Partner::start(|conversation, _| {
        let fields = "Connection: keep-alive, X-Named\r\nX-Named: secret\r\nKeep-Alive: timeout=5\r\n\
                      Proxy-Authenticate: Basic realm=\"secret\"\r\nProxy-Connection: keep-alive\r\n\
                      Proxy-Authentication-Info: secret\r\nUpgrade: h2c\r\nX-End-To-End: kept\r\n\
                      Strict-Transport-Security: max-age=1\r\nAlt-Svc: h3=\":443\"\r\n";
        conversation.answer("200 OK", fields, "")
    });
    for way in Way::ALL {
        let reply = partner.open(way).exchange("GET", "/", "");
        assert_eq!(reply.status, 200, "{way:?}");
        assert_eq!(reply.header("x-end-to-end"), Some("kept"), "{way:?}");
        let proxied =
            ["x-named", "keep-alive", "proxy-authenticate", "proxy-connection", "proxy-authentication-info", "upgrade"];
        for gone in proxied {
            assert_eq!(reply.header(gone), None, "{way:?}");
        }
        assert!(reply.header("via").is_some_and(|via| via.contains("egret")), "{way:?}: {reply:?}");
        // A client that asked over plain http must not be told to pin https.
        if way == Way::Lifted {
            assert_eq!((reply.header("strict-transport-security"), reply.header("alt-svc")), (None, None));
        }
        assert!(!format!("{reply:?}").contains("secret"), "{way:?}: {reply:?}");
    }
}

#[test]
fn a_connection_field_may_not_name_what_the_message_needs() {
    let partner = Partner::start(|conversation, _| conversation.answer("200 OK", "", ""));
    for way in Way::ALL {
        for named in ["Host", "Content-Length", "Transfer-Encoding"] {
            let reply = partner.open(way).exchange("GET", "/", &format!("Connection: close, {named}\r\n"));
            reply.assert_failure(400, "request.malformed");
        }
    }
    assert_eq!(partner.origin.heads().len(), 0);
}

#[test]
fn the_management_token_stays_here() {
    let partner = Partner::start(|conversation, _| conversation.answer("200 OK", "", ""));
    for way in Way::ALL {
        partner.open(way).exchange("GET", "/", &format!("Proxy-Authorization: Bearer {TOKEN}\r\n"));
    }
    assert!(partner.origin.heads().iter().all(|head| !head.contains(TOKEN)));
    assert!(!partner.egret.log().contains(TOKEN));
}
