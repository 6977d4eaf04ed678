use super::*;
use crate::domain::Role;

fn basic(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

fn parsed(value: &str) -> Result<(Option<String>, String), Code> {
    Credential::parse(value.as_bytes())
        .map(|c| (c.project.clone(), String::from_utf8(c.token.to_vec()).unwrap()))
        .map_err(|f| f.code)
}

#[test]
fn reads_both_schemes_in_any_case() {
    for scheme in ["Bearer", "bearer", "BEARER"] {
        assert_eq!(parsed(&format!("{scheme} t0ken")), Ok((None, "t0ken".into())));
    }
    assert_eq!(parsed("Bearer   t0ken  "), Ok((None, "t0ken".into())));
    assert_eq!(parsed(&basic("payments:t:0ken")), Ok((Some("payments".into()), "t:0ken".into())));
    assert_eq!(parsed(&basic("payments:t").replace("Basic", "bAsIc")), Ok((Some("payments".into()), "t".into())));
    assert_eq!(parsed(basic("p:t").trim_end_matches('=')), Ok((Some("p".into()), "t".into())));
    assert_eq!(parsed(&basic(":t")), Ok((None, "t".into())));
}

#[test]
fn refuses_what_is_no_credential_without_repeating_it() {
    let long = format!("Bearer {}", "x".repeat(LONGEST_CREDENTIAL));
    for bad in ["", "Bearer-x", "Digest username=x", "Basic ***", &basic("no-colon"), &long] {
        assert_eq!(parsed(bad), Err(Code::CallerUnauthenticated), "{bad}");
    }
    let failure = Credential::parse(b"Secret s3cret").err().unwrap();
    assert!(!failure.detail.contains("s3cret") && !failure.fix.unwrap().contains("s3cret"));
}

#[test]
fn asks_for_a_credential_before_anything_is_looked_up() {
    let (memo, registry, throttle) = (Memo::default(), Registry::default(), Throttle::default());
    let peer = Peer::from(IpAddr::from([192, 0, 2, 1]));
    let mut headers = HeaderMap::new();
    for _ in 0..100 {
        let failure = by_token(&headers, &memo, &registry, &throttle, peer).err().unwrap();
        assert_eq!(failure.code, Code::CallerUnauthenticated, "a missing credential is no guess");
    }
    headers.append(PROXY_AUTHORIZATION, "Basic a".parse().unwrap());
    headers.append(PROXY_AUTHORIZATION, "Basic b".parse().unwrap());
    let failure = by_token(&headers, &memo, &registry, &throttle, peer).err().unwrap();
    assert_eq!(failure.code, Code::RequestMalformed);
}

#[test]
fn slows_down_who_guesses() {
    let (memo, registry, throttle) = (Memo::default(), Registry::default(), Throttle::default());
    let peer = Peer::from(IpAddr::from([192, 0, 2, 1]));
    let mut headers = HeaderMap::new();
    headers.append(PROXY_AUTHORIZATION, "Digest x".parse().unwrap());
    let codes: Vec<_> =
        (0..12).map(|_| by_token(&headers, &memo, &registry, &throttle, peer).err().unwrap().code).collect();
    assert!(codes[..10].iter().all(|c| *c == Code::CallerUnauthenticated));
    assert!(codes[10..].iter().all(|c| *c == Code::LimitAuthentication));
    // Who shares the address and has a valid token is not locked out.
    let digest = digest::digest(&digest::SHA256, b"right").as_ref().try_into().unwrap();
    let token = Token::declared("t", Role::Read, TokenScope::All, &digest, "egret.toml");
    registry.insert_token(digest, token);
    let mut valid = HeaderMap::new();
    valid.append(PROXY_AUTHORIZATION, "Bearer right".parse().unwrap());
    let failure = by_token(&valid, &memo, &registry, &throttle, peer).err().unwrap();
    assert_eq!(failure.code, Code::CallerForbidden, "known, and judged by its role");
    let other = Peer::from(IpAddr::from([192, 0, 2, 2]));
    assert_eq!(by_token(&headers, &memo, &registry, &throttle, other).err().unwrap().code, Code::CallerUnauthenticated);
}

#[test]
fn forgives_after_a_second_and_stays_bounded() {
    let throttle = Throttle::default();
    let (peer, now) = (Peer::from(IpAddr::from([192, 0, 2, 1])), Instant::now());
    for _ in 0..Throttle::ALLOWED {
        assert!(throttle.may_try(peer, now));
        throttle.failed(peer, now);
    }
    assert!(!throttle.may_try(peer, now));
    assert!(throttle.may_try(peer, now + Throttle::WINDOW));
    for n in 0..20_000_u32 {
        throttle.failed(IpAddr::from(n.to_be_bytes()).into(), now);
    }
    assert!(throttle.0.lock().unwrap().len() <= Throttle::SOURCES);
}

#[test]
fn counts_a_network_as_one_source() {
    let of = |text: &str| source(text.parse::<IpAddr>().unwrap().into());
    assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
    assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    assert_eq!(of("::ffff:192.0.2.1"), Peer::Ip(IpAddr::from([192, 0, 2, 1])));
    assert_ne!(source(Peer::Unix(Some(1))), source(Peer::Unix(Some(2))), "each user of this machine for himself");
}

/// A registry with project `payments`, and a token for it that ends then.
fn with_token(expires_at: Option<OffsetDateTime>) -> (Registry, [u8; 32], Arc<Project>) {
    let registry = Registry::default();
    let info = crate::domain::ProjectInfo::named("payments");
    let project = Project::new(crate::registry::testing::empty(info));
    registry.insert(project.clone());
    let sha256: [u8; 32] = digest::digest(&digest::SHA256, b"secret").as_ref().try_into().unwrap();
    let scope = TokenScope::Projects(vec![project.id().as_str().to_owned()]);
    let token = Token::declared("t", Role::Proxy, scope, &sha256, "egret.toml");
    registry.insert_token(sha256, Token { expires_at, ..token });
    (registry, sha256, project)
}

#[test]
fn what_is_remembered_ends_with_the_token() {
    let (memo, throttle) = (Memo::default(), Throttle::default());
    let peer = Peer::Ip(IpAddr::from([192, 0, 2, 1]));
    let (registry, sha256, project) = with_token(None);
    let mut headers = HeaderMap::new();
    headers.append(PROXY_AUTHORIZATION, "Bearer secret".parse().unwrap());
    let ask = || by_token(&headers, &memo, &registry, &throttle, peer).map_err(|f| f.code);
    let pass = ask().unwrap().pass.expect("a token has one");
    assert!(Arc::ptr_eq(&ask().unwrap().pass.unwrap(), &pass), "remembered");
    assert!(pass.holds(&registry, &project));
    // Another token comes: this one is judged again and found good.
    let other = Token::declared("other", Role::Read, TokenScope::All, &[1; 32], "egret.toml");
    registry.insert_token([1; 32], other);
    assert!(pass.holds(&registry, &project) && ask().is_ok());
    // It is limited to another project now.
    let token = Token::clone(&registry.token(b"secret").unwrap());
    let elsewhere = Token { scope: TokenScope::Projects(vec!["prj_other".to_owned()]), ..token.clone() };
    registry.insert_token(sha256, elsewhere);
    assert!(!pass.holds(&registry, &project));
    assert_eq!(ask().err(), Some(Code::CallerForbidden));
    registry.insert_token(sha256, token);
    assert!(pass.holds(&registry, &project) && ask().is_ok());
    registry.remove_token(&sha256);
    assert!(!pass.holds(&registry, &project));
    assert_eq!(ask().err(), Some(Code::CallerUnauthenticated));
}

#[test]
fn what_is_remembered_ends_at_the_hour_of_the_token() {
    let (memo, throttle) = (Memo::default(), Throttle::default());
    let (registry, sha256, project) = with_token(Some(clock::now() + time::Duration::hours(1)));
    let mut headers = HeaderMap::new();
    headers.append(PROXY_AUTHORIZATION, "Bearer secret".parse().unwrap());
    let ask =
        || by_token(&headers, &memo, &registry, &throttle, Peer::Ip(IpAddr::from([192, 0, 2, 1]))).map_err(|f| f.code);
    assert!(ask().unwrap().pass.unwrap().holds(&registry, &project));
    // What was remembered an hour ago, with the registry unchanged since.
    let generation = registry.token_generation();
    let late = Some(clock::now() - time::Duration::seconds(1));
    let pass = Arc::new(Pass { sha256, until: late, generation: AtomicU64::new(generation) });
    assert!(!pass.holds(&registry, &project));
    memo.0.lock().unwrap().as_mut().unwrap().admitted.pass = Some(pass.clone());
    assert!(!Arc::ptr_eq(&ask().unwrap().pass.unwrap(), &pass), "judged anew");
}

#[test]
fn a_certificate_that_expires_ends_what_is_remembered_of_it() {
    use crate::domain::SKEW;
    let (registry, _, project) = with_token(None);
    let hour = time::Duration::hours(1);
    let of = |not_after| {
        let mut params = rcgen::CertificateParams::new(vec!["payments".to_owned()]).unwrap();
        params.not_after = not_after;
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        CallerNames::of(certificate.der(), clock::now() - 2 * hour).expect("valid then")
    };
    let memo = Memo::default();
    let ask = |names: &CallerNames| by_certificate(Some(names), &memo, &registry).map_err(|f| f.code);
    let admitted = ask(&of(clock::now() + hour)).unwrap();
    assert_eq!(admitted.project.id(), project.id());
    // The same connection, later.
    assert_eq!(ask(&of(clock::now() - SKEW - hour)).err(), Some(Code::CallerForbidden));
}
