use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<String, OriginError> {
    Pattern::parse(text).map(|pattern| pattern.to_string())
}

#[test]
fn has_one_spelling() {
    let table = [
        ("*", "*"),
        (" * ", "*"),
        ("api.example.com", "https://api.example.com"),
        ("https://API.example.com.:443/", "https://api.example.com"),
        ("https://api.example.com:*", "https://api.example.com:*"),
        ("https://[2001:DB8::1]:*", "https://[2001:db8::1]:*"),
        ("192.0.2.1:*", "https://192.0.2.1:*"),
        ("https://*.Example.com", "https://*.example.com"),
        ("*.example.com.:443", "https://*.example.com"),
        ("*.example.com:8443", "https://*.example.com:8443"),
        ("wss://*.example.com:*/", "https://*.example.com:*"),
        ("*.bücher.example", "https://*.xn--bcher-kva.example"),
    ];
    for (text, canonical) in table {
        assert_eq!(parse(text).as_deref(), Ok(canonical), "{text}");
    }
}

#[test]
fn takes_wildcards_above_names_that_are_nobodys_registry() {
    for text in
        ["*.corp", "*.internal", "*.localhost", "*.test", "*.example.com", "*.a.co.uk", "*.www.ck", "*.me.github.io"]
    {
        assert_eq!(parse(text), Ok(format!("https://{text}")), "{text}");
    }
}

#[test]
fn refuses_wildcards_directly_above_a_public_suffix() {
    let table = [
        "*.com",
        "*.uk",
        "*.co.uk",
        "*.CO.UK.:*",
        "*.github.io",
        // `*.ck` and `*.kawasaki.jp` are rules: every name below is a registry of its own.
        "*.ck",
        "*.foo.ck",
        "*.kawasaki.jp",
        "*.foo.kawasaki.jp",
        "*.xn--p1ai",
        "*.рф",
        "*.公司.cn",
        "*.xn--55qx5d.cn",
    ];
    for text in table {
        assert_eq!(parse(text), Err(OriginError::PublicSuffix), "{text}");
    }
}

#[test]
fn refuses_what_is_no_pattern() {
    use OriginError as E;
    let table = [
        ("", E::Empty),
        ("**", E::Wildcard),
        ("*example.com", E::Wildcard),
        ("a.*.example.com", E::Wildcard),
        ("*.*.example.com", E::Wildcard),
        ("api-*.example.com", E::Wildcard),
        ("＊.example.com", E::Wildcard),
        ("*:443", E::Wildcard),
        ("https://*", E::Wildcard),
        ("*.", E::Empty),
        ("*..", E::EmptyLabel),
        ("*.192.0.2.1", E::WildcardIp),
        ("*.[2001:db8::1]", E::WildcardIp),
        ("*.0.2.1", E::Ipv4),
        ("http://*.example.com", E::PlainHttp),
        ("https://*.example.com/v1", E::Path),
        ("https://me@*.example.com", E::UserInfo),
        ("*.example.com:0", E::Port),
        ("*.example.com:65536", E::Port),
        ("*.example.com:**", E::Port),
        ("*.example.com:", E::Port),
    ];
    for (text, error) in table {
        assert_eq!(parse(text), Err(error), "{text}");
    }
}

#[test]
fn covers_exactly_one_label_and_never_the_apex() {
    let pattern = Pattern::parse("*.example.com").expect("valid");
    let covers = |text: &str| pattern.covers(&Origin::parse(text).expect(text));
    assert!(covers("a.example.com"));
    assert!(!covers("example.com"));
    assert!(!covers("a.b.example.com"));
    assert!(!covers("a.example.com:8443"));
    assert!(!covers("aexample.com"));
    assert!(!covers("a.example.com.evil.test"));
}

#[test]
fn covers_every_port_with_a_star() {
    let pattern = Pattern::parse("https://[2001:db8::1]:*").expect("valid");
    assert!(pattern.covers(&Origin::parse("https://[2001:db8::1]:8443").expect("valid")));
    assert!(!pattern.covers(&Origin::parse("https://[2001:db8::2]").expect("valid")));
}

proptest! {
    #[test]
    fn is_idempotent_on_anything_it_accepts(text in "(\\*\\.)?[a-zA-Z0-9.-]{1,20}(:[0-9*]{1,5})?|\\PC{0,30}") {
        if let Ok(pattern) = Pattern::parse(&text) {
            let again = Pattern::parse(&pattern.to_string()).expect("its own text");
            prop_assert_eq!(&again, &pattern);
            prop_assert_eq!(again.to_string(), pattern.to_string());
        }
    }

    #[test]
    fn covers_the_origin_it_was_made_of(host in "[a-z]{1,5}(\\.[a-z]{1,5}){0,3}", port in 1..=u16::MAX) {
        let origin = Origin::parse(&format!("{host}:{port}")).expect("valid");
        let pattern = Pattern::from(&origin);
        prop_assert!(pattern.covers(&origin));
        prop_assert_eq!(Pattern::parse(&origin.to_string()).expect("an origin is a pattern"), pattern);
    }
}
