//! Records come back as they went.

use super::*;
use crate::domain::Holder;
use crate::registry::{Held, Roster, Vouch};

#[test]
fn brings_a_certificate_back_byte_for_byte() {
    let record = CertificateRecord {
        cert: "-----BEGIN\r\n\"ü\u{1}\\".to_owned(),
        ca: "\u{feff}x".to_owned(),
        key: Zeroizing::new("-----BEGIN PRIVATE KEY-----\nMC4C\n".to_owned()),
        skip_validation: true,
        uploaded_at: OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("a time"),
        warnings: vec!["\"quoted\"\n".to_owned()],
    };
    let bytes = record.to_bytes();
    assert!(bytes.len() < bytes.capacity(), "grown out of a buffer that held the key");
    let back = CertificateRecord::parse(&bytes).expect("its own bytes");
    assert_eq!((&back.cert, &back.ca, &*back.key), (&record.cert, &record.ca, &*record.key));
    assert_eq!((back.skip_validation, back.uploaded_at, back.warnings), (true, record.uploaded_at, record.warnings));
}

#[test]
fn brings_bindings_back() {
    for (pattern, certificate, lift, tls13_only) in
        [("*", Some("cert_1"), true, true), ("https://*.example.com:*", None, false, false)]
    {
        let record = BindingRecord {
            pattern: Pattern::parse(pattern).expect("valid"),
            certificate: certificate.and_then(CertificateId::parse),
            since: OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_000_456_000).expect("a time"),
            lift,
            tls13_only,
            previous: certificate.map(|_| PreviousRecord {
                certificate: CertificateId::parse("cert_0").expect("an id"),
                until: OffsetDateTime::from_unix_timestamp_nanos(1_800_000_000_123_000_000).expect("a time"),
                alone: true,
                promoted: lift.then(|| Origin::parse("https://a.test:8443").expect("an origin")),
            }),
            association: (!lift).then(|| Association {
                certificate: tls13_only.then(|| CertificateId::parse("0123").expect("an id")),
                created_at: OffsetDateTime::UNIX_EPOCH,
            }),
        };
        assert_eq!(BindingRecord::parse(&record.to_bytes()), Ok(record));
    }
    let earlier = br#"{"pattern":"*","certificate":"cert_1","since":0}"#;
    let record = BindingRecord::parse(earlier).expect("a record of an earlier version");
    assert!(record.lift && !record.tls13_only);
    assert_eq!(record.to_bytes().as_slice(), earlier, "and an earlier version reads it back");
}

#[test]
fn brings_projects_back() {
    let listed = DefaultScope::Listed(vec![Pattern::parse("https://a.test").expect("valid")]);
    for default_scope in [DefaultScope::Any, DefaultScope::Hinted, listed] {
        let info = ProjectInfo {
            default_scope,
            team: Some(Team { id: Some("team_1".to_owned()), slug: None }),
            state: ProjectState::Blocked,
            servers: ServerTrust::Ca,
            lift: Lift::Always,
            rollback: Rollback::Off,
            ..ProjectInfo::named("payments")
        };
        let bytes = ProjectRecord::of(&info).to_bytes();
        assert_eq!(ProjectRecord::parse(&bytes), Ok(info));
        let plain = ProjectRecord::of(&ProjectInfo::named("payments")).to_bytes();
        let plain = String::from_utf8_lossy(&plain);
        assert!(!plain.contains("lift") && !plain.contains("rollback"), "as earlier versions write it");
    }
}

#[test]
fn brings_tokens_back() {
    let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).expect("a time");
    for (scope, expires_at) in
        [(TokenScope::All, None), (TokenScope::Projects(vec!["prj_1".to_owned()]), Some(at(1_900_000_000)))]
    {
        let token = Token {
            id: "tok_1".to_owned(),
            name: "ci".to_owned(),
            email: Some("ci@example.com".to_owned()),
            role: Role::Write,
            scope,
            source: TokenSource::Api,
            created_at: Some(at(1_800_000_000)),
            expires_at,
        };
        let bytes = token_to_bytes(&token, &[9; 32]);
        assert_eq!(token_of("tok_1", &bytes), Ok(([9; 32], token)));
    }
    let short =
        br#"{"name":"a","sha256":"AAAA","email":null,"role":"read","projects":null,"created_at":0,"expires_at":null}"#;
    assert_eq!(token_of("tok_1", short), Err(NotUnderstood));
}

#[test]
fn understands_nothing_else() {
    for bytes in [&b""[..], b"{}", b"[]", b"{\"pattern\":\"*\",\"certificate\":null,\"since\":0,\"more\":1}", b"\xff"] {
        assert_eq!(BindingRecord::parse(bytes), Err(NotUnderstood));
        assert!(CertificateRecord::parse(bytes).is_err());
        assert_eq!(ProjectRecord::parse(bytes), Err(NotUnderstood));
    }
    let wide = br#"{"pattern":"https://*.co.uk","certificate":null,"since":0}"#;
    assert_eq!(BindingRecord::parse(wide), Err(NotUnderstood));
}

#[test]
fn brings_the_lists_of_a_project_back() {
    let id = |text: &str| CertificateId::parse(text).expect("an id");
    let since = OffsetDateTime::from_unix_timestamp_nanos(1_800_000_000_000_123_000).expect("a time");
    let held = |of: &str, holder| Held { id: id(of), holder, since, by: "tok_1".to_owned() };
    let pattern = Pattern::parse("https://*.example.com:*").expect("valid");
    let roster = Roster {
        zone_enabled: true,
        held: vec![held("1", Holder::Zone), held("2", Holder::Hostnames)],
        vouching: vec![Vouch { pattern, certificate: id("3"), since }],
        damaged: false,
    };
    assert_eq!(roster_of(&roster_to_bytes(&roster)), Ok(roster));
    assert_eq!(roster_of(&roster_to_bytes(&Roster::default())), Ok(Roster::default()));
    assert!(roster_of(b"{}").is_err());
}
