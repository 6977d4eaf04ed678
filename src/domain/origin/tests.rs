use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<String, OriginError> {
    Origin::parse(text).map(|origin| origin.to_string())
}

#[test]
fn has_one_spelling() {
    let table = [
        ("https://api.example.com", "https://api.example.com"),
        ("api.example.com", "https://api.example.com"),
        ("api.example.com:443", "https://api.example.com"),
        ("api.example.com:0443", "https://api.example.com"),
        ("HTTPS://API.Example.COM.:443/", "https://api.example.com"),
        ("wss://api.example.com/", "https://api.example.com"),
        ("  https://api.example.com  ", "https://api.example.com"),
        ("api.example.com:8443", "https://api.example.com:8443"),
        ("api.example.com:80", "https://api.example.com:80"),
        ("api.example.com:65535", "https://api.example.com:65535"),
        ("localhost", "https://localhost"),
        ("my_service.internal:1", "https://my_service.internal:1"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://BÜCHER.example", "https://xn--bcher-kva.example"),
        ("https://bu\u{308}cher.example", "https://xn--bcher-kva.example"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("https://XN--BCHER-KVA.example", "https://xn--bcher-kva.example"),
        ("https://faß.de", "https://xn--fa-hia.de"),
        ("https://ａｐｉ。example．com", "https://api.example.com"),
        ("https://exam\u{ad}ple.com", "https://example.com"),
        ("https://192.0.2.1", "https://192.0.2.1"),
        ("https://192.0.2.1:8443", "https://192.0.2.1:8443"),
        ("https://[2001:DB8:0:0:0:0:0:1]", "https://[2001:db8::1]"),
        ("https://[2001:db8::1]:443", "https://[2001:db8::1]"),
        ("[::1]:8443", "https://[::1]:8443"),
        ("https://[::ffff:192.0.2.1]", "https://[::ffff:192.0.2.1]"),
        ("https://[::ffff:c000:201]", "https://[::ffff:192.0.2.1]"),
        ("https://1.example", "https://1.example"),
        ("https://0x1.example", "https://0x1.example"),
    ];
    for (text, canonical) in table {
        assert_eq!(parse(text).as_deref(), Ok(canonical), "{text}");
    }
}

#[test]
fn refuses_what_is_no_origin() {
    use OriginError as E;
    let label = "a".repeat(64);
    let long = format!("{0}.{0}.{0}.{0}", "a".repeat(63));
    let endless = "a".repeat(3000);
    let table = [
        ("", E::Empty),
        ("   ", E::Empty),
        ("https://", E::Empty),
        ("https:///", E::Empty),
        (":443", E::Empty),
        ("http://api.example.com", E::PlainHttp),
        ("ws://api.example.com", E::PlainHttp),
        ("ftp://api.example.com", E::Scheme),
        ("://api.example.com", E::Scheme),
        ("https://user@api.example.com", E::UserInfo),
        ("https://user:password@api.example.com", E::UserInfo),
        ("user@api.example.com", E::UserInfo),
        ("https://api.example.com/v1", E::Path),
        ("https://api.example.com//", E::Path),
        ("https:///api.example.com", E::Path),
        ("https://api.example.com\\evil", E::Path),
        ("https://api.example.com?x", E::Query),
        ("https://api.example.com/?x=1", E::Query),
        ("https://api.example.com#x", E::Fragment),
        ("https://api.example.com:", E::Port),
        ("https://api.example.com:0", E::Port),
        ("https://api.example.com:00000", E::Port),
        ("https://api.example.com:65536", E::Port),
        ("https://api.example.com:000443", E::Port),
        ("https://api.example.com:+443", E::Port),
        ("https://api.example.com:-1", E::Port),
        ("https://api.example.com: 443", E::Port),
        ("https://api.example.com:４４３", E::Port),
        ("https://api.example.com:*", E::Port),
        ("https:api.example.com", E::Port),
        ("https://[::1", E::Ipv6),
        ("https://::1", E::Ipv6),
        ("https://[::1]x", E::Ipv6),
        ("https://[192.0.2.1]", E::Ipv6),
        ("https://[]", E::Ipv6),
        ("https://[::1]:", E::Port),
        ("https://[fe80::1%eth0]", E::ZoneId),
        ("https://[fe80::1%25eth0]", E::ZoneId),
        ("https://0177.0.0.1", E::Ipv4),
        ("https://0x7f.0.0.1", E::Ipv4),
        ("https://0X7F000001", E::Ipv4),
        ("https://0x7f.1", E::Ipv4),
        ("https://127.1", E::Ipv4),
        ("https://2130706433", E::Ipv4),
        ("https://192.0.2.1.", E::Ipv4),
        ("https://192.0.2.256", E::Ipv4),
        ("https://192.0.2.01", E::Ipv4),
        ("https://1.2.3.4.5", E::Ipv4),
        ("https://example.0x", E::Ipv4),
        ("https://example.1", E::Ipv4),
        ("https://１２７.０.０.１", E::Ipv4),
        ("https://127。0。0。1", E::Ipv4),
        ("https://②.0.0.1", E::Ipv4),
        ("https://.", E::EmptyLabel),
        ("https://.example.com", E::EmptyLabel),
        ("https://a..example.com", E::EmptyLabel),
        ("https://example.com..", E::EmptyLabel),
        ("https://\u{ad}", E::EmptyLabel),
        ("https://api example.com", E::Character),
        ("https://api\texample.com", E::Character),
        ("https://api\nexample.com", E::Character),
        ("https://api\0.example.com", E::Character),
        ("https://api%2eexample.com", E::Character),
        ("https://api!.example.com", E::Character),
        ("https://a,b", E::Character),
        ("https://xn--a.example", E::Character),
        ("https://xn--.example", E::Character),
        ("https://a\u{fffd}b.example", E::Character),
        ("https://*.example.com", E::Wildcard),
        ("https://a*.example.com", E::Wildcard),
        ("*", E::Wildcard),
        (&label, E::LongLabel),
        (&long, E::LongName),
        (&endless, E::TooLong),
    ];
    for (text, error) in table {
        assert_eq!(parse(text), Err(error), "{text}");
    }
}

#[test]
fn takes_the_longest_name_there_is() {
    let name = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
    assert_eq!(name.len(), 253);
    assert_eq!(parse(&format!("https://{name}.")), Ok(format!("https://{name}")));
    assert_eq!(parse(&format!("{name}b")), Err(OriginError::LongName));
}

#[test]
fn keeps_errors_free_of_the_input() {
    for text in ["https://secret@h", "https://h/secret", "https://secret!", "secret://h"] {
        let error = Origin::parse(text).expect_err(text);
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn writes_an_authority_without_the_default_port() {
    let origin = Origin::parse("https://a.test:8443").expect("valid");
    assert_eq!(origin.authority(), "a.test:8443");
    assert_eq!(Origin::parse("a.test").expect("valid").authority(), "a.test");
    assert_eq!(Origin::parse("a.test:80").expect("valid").authority(), "a.test:80");
}

#[test]
fn lifts_port_80_and_leaves_others() {
    let lifted = |text: &str| HttpTarget::from_authority(text).expect("valid").lifted().to_string();
    assert_eq!(lifted("a.test"), "https://a.test");
    assert_eq!(lifted("a.test:80"), "https://a.test");
    assert_eq!(lifted("a.test:8080"), "https://a.test:8080");
    assert_eq!(HttpTarget::from_authority("a.test:443").expect("valid").authority(), "a.test:443");
}

#[test]
fn knows_loopback_names() {
    for (text, expected) in
        [("localhost", true), ("a.LOCALHOST.", true), ("notlocalhost", false), ("localhost.example.com", false)]
    {
        assert_eq!(Host::parse(text).expect(text).is_localhost(), expected, "{text}");
    }
}

#[test]
fn has_a_parent_only_if_it_is_a_name_of_two_labels() {
    let parent = |text: &str| Host::parse(text).expect(text).parent().map(str::to_owned);
    assert_eq!(parent("a.b.example").as_deref(), Some("b.example"));
    assert_eq!(parent("localhost"), None);
    assert_eq!(parent("192.0.2.1"), None);
    assert_eq!(parent("[2001:db8::1.2.3.4]"), None);
}

/// A name, its port, and one of its many spellings.
fn spelled() -> impl Strategy<Value = (String, u16, String)> {
    let label = "[a-z_]([a-z0-9_-]{0,8}[a-z0-9_])?"
        .prop_filter("an A-label has rules of its own", |l| !l.contains("--") && !l.starts_with("0x"));
    let name = proptest::collection::vec(label, 1..5).prop_map(|labels| labels.join("."));
    (name, 1..=u16::MAX, any::<u64>(), any::<[bool; 5]>()).prop_map(
        |(name, port, cases, [scheme, wide, dot, slash, tail])| {
            let mut text = if scheme { "hTTps://".to_owned() } else { String::new() };
            for (n, c) in name.chars().enumerate() {
                match (cases >> (n % 64) & 1 == 1, wide) {
                    (true, false) => text.push(c.to_ascii_uppercase()),
                    // The full-width forms of printable ASCII are U+FF01 to U+FF5E, in the same order.
                    (true, true) => text.push(char::from_u32(u32::from(c) - 0x21 + 0xff01).expect("printable")),
                    (false, _) => text.push(c),
                }
            }
            if dot {
                text.push('.');
            }
            if port != 443 || tail {
                text.push_str(&format!(":{port}"));
            }
            if slash {
                text.push('/');
            }
            (name, port, text)
        },
    )
}

proptest! {
    #[test]
    fn gives_every_spelling_one_form((name, port, text) in spelled()) {
        let origin = Origin::parse(&text).expect("a spelling of an origin");
        prop_assert_eq!(origin.host().as_str(), &name);
        prop_assert_eq!(origin.port(), port);
        prop_assert_eq!(&origin, &Origin::parse(&format!("{name}:{port}")).expect("plain spelling"));
    }

    #[test]
    fn is_idempotent_on_anything_it_accepts(text in "\\PC{0,40}|[a-zA-Z0-9.:/@\\[\\]%*x-]{0,30}") {
        if let Ok(origin) = Origin::parse(&text) {
            let again = Origin::parse(&origin.to_string()).expect("its own text");
            prop_assert_eq!(&again, &origin);
            prop_assert_eq!(again.to_string(), origin.to_string());
            prop_assert_eq!(again.host().kind(), origin.host().kind());
            let authority = Origin::from_authority(&origin.authority(), HTTPS_PORT).expect("its own authority");
            prop_assert_eq!(&authority, &origin);
            let canonical = origin.host().as_str();
            prop_assert!(canonical.is_ascii() && canonical == canonical.to_ascii_lowercase() && !canonical.ends_with('.'));
        }
    }

    #[test]
    fn writes_addresses_as_the_standard_library_does(v4 in any::<Ipv4Addr>(), v6 in any::<Ipv6Addr>(), port in 1..=u16::MAX) {
        let origin = Origin::parse(&format!("https://{v4}:{port}")).expect("IPv4");
        prop_assert_eq!(origin.host().ip(), Some(IpAddr::V4(v4)));
        let origin = Origin::parse(&format!("https://[{v6}]:{port}")).expect("IPv6");
        prop_assert_eq!(origin.host().ip(), Some(IpAddr::V6(v6)));
        prop_assert_eq!(origin.host(), &Host::from(IpAddr::V6(v6)));
    }

    #[test]
    fn never_panics(text in any::<String>()) {
        let _ = (Origin::parse(&text), Host::parse(&text), HttpTarget::from_authority(&text));
    }
}
