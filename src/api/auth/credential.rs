//! What a caller shows: a bearer token; in Cloudflare's dialect also a token as `X-Auth-Key`, with its `X-Auth-Email`.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use crate::registry::Token;

/// No token is longer.
const MAX_TOKEN: usize = 1024;

const EMAIL: HeaderName = HeaderName::from_static("x-auth-email");
const KEY: HeaderName = HeaderName::from_static("x-auth-key");
const USER_SERVICE_KEY: HeaderName = HeaderName::from_static("x-auth-user-service-key");

/// What a request shows of its caller.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Credential<'a> {
    /// `Authorization: Bearer`.
    Bearer(&'a [u8]),
    /// `X-Auth-Key`, which is a token, and `X-Auth-Email`, which must be that token's.
    Key { email: &'a [u8], key: &'a [u8] },
}

impl<'a> Credential<'a> {
    /// What a request with these headers shows. `Authorization` goes first; the other way is Cloudflare's alone.
    ///
    /// # Errors
    /// What to send.
    pub(super) fn of(headers: &'a HeaderMap, in_cloudflares: bool) -> Result<Self, &'static str> {
        if !in_cloudflares {
            return bearer(headers).map(Self::Bearer);
        }
        if headers.contains_key(AUTHORIZATION) {
            return bearer(headers).map(Self::Bearer);
        }
        match (headers.contains_key(EMAIL), headers.contains_key(KEY)) {
            (true, true) => {
                let (email, key) = (only(headers, &EMAIL)?, only(headers, &KEY)?);
                is_token(key).then_some(Self::Key { email, key }).ok_or(
                    "X-Auth-Key is not a token; send a token of this egret there, and in X-Auth-Email the email that the \
                     token has",
                )
            }
            (false, true) => Err("X-Auth-Key comes with X-Auth-Email; send both, or Authorization: Bearer TOKEN"),
            (true, false) => Err("X-Auth-Email comes with X-Auth-Key; send both, or Authorization: Bearer TOKEN"),
            (false, false) if headers.contains_key(USER_SERVICE_KEY) => Err(
                "X-Auth-User-Service-Key is not taken; send Authorization: Bearer TOKEN, or X-Auth-Email with X-Auth-Key",
            ),
            (false, false) => {
                Err("no token; send one as Authorization: Bearer TOKEN, or as X-Auth-Key with the token's X-Auth-Email")
            }
        }
    }

    /// The text of the token.
    pub(super) fn token(&self) -> &'a [u8] {
        match *self {
            Self::Bearer(token) | Self::Key { key: token, .. } => token,
        }
    }

    /// Whether it speaks for this token, whose text is the one shown.
    pub(super) fn is_for(&self, token: &Token) -> bool {
        match self {
            Self::Bearer(_) => true,
            Self::Key { email, .. } => {
                token.email.as_ref().is_some_and(|held| held.as_bytes().eq_ignore_ascii_case(email))
            }
        }
    }

    /// What is said when it speaks for nobody. Of a pair never which half is wrong: a key that is known to be right would
    /// be good as a bearer token.
    pub(super) fn refusal(&self) -> &'static str {
        match self {
            Self::Bearer(_) => {
                "the token is unknown, or it has expired; send a valid one as Authorization: Bearer TOKEN"
            }
            Self::Key { .. } => {
                "this pair of X-Auth-Email and X-Auth-Key is unknown, or it has expired: the key must be a token of this \
                 egret, and the email the one that the token was given (email in [[tokens]] or in POST /v1/tokens); a \
                 token without an email goes as Authorization: Bearer TOKEN"
            }
        }
    }
}

/// The value of a header that may be sent once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a [u8], &'static str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value.as_bytes().trim_ascii()),
        _ => Err("X-Auth-Email or X-Auth-Key is sent twice; send each once"),
    }
}

/// The token of exactly one `Authorization: Bearer` (RFC 6750 section 2.1; the scheme in any case).
fn bearer(headers: &HeaderMap) -> Result<&[u8], &'static str> {
    const MISSING: &str = "no token; send one as Authorization: Bearer TOKEN";
    const MALFORMED: &str = "the Authorization header is not one bearer token; send Authorization: Bearer TOKEN";
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Err(MISSING),
        (Some(value), None) => value.as_bytes(),
        (Some(_), Some(_)) => return Err(MALFORMED),
    };
    let (scheme, token) = value.split_at_checked("bearer ".len()).ok_or(MALFORMED)?;
    let token = token.trim_ascii();
    let ok = scheme.eq_ignore_ascii_case(b"bearer ") && is_token(token);
    ok.then_some(token).ok_or(MALFORMED)
}

/// Whether a text can be a token.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.len() <= MAX_TOKEN && text.iter().all(|b| (b'!'..=b'~').contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Role;
    use crate::registry::TokenScope;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|v| (AUTHORIZATION, v.parse().unwrap())).collect()
    }

    fn named(values: &[(HeaderName, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in values {
            map.append(name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn reads_exactly_one_bearer_token() {
        assert_eq!(bearer(&headers(&["Bearer abc"])), Ok(&b"abc"[..]));
        assert_eq!(bearer(&headers(&["bEARER  abc.~+/="])), Ok(&b"abc.~+/="[..]));
        let long = format!("Bearer {}", "x".repeat(MAX_TOKEN + 1));
        for wrong in [
            &[][..],
            &["Bearer"],
            &["Bearer "],
            &["Basic abc"],
            &["Bearer a b"],
            &["abc"],
            &["Bearer a", "Bearer a"],
            &[&long],
        ] {
            assert!(bearer(&headers(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn reads_a_key_with_its_email_in_cloudflares_dialect_alone() {
        let pair = named(&[(EMAIL, "a@example.com"), (KEY, " abc ")]);
        let read = Credential::of(&pair, true);
        assert!(read == Ok(Credential::Key { email: b"a@example.com", key: b"abc" }));
        assert!(Credential::of(&pair, false).is_err());
        let both = named(&[(AUTHORIZATION, "Bearer abc"), (EMAIL, "a@example.com"), (KEY, "other")]);
        assert!(Credential::of(&both, true) == Ok(Credential::Bearer(b"abc")), "a bearer token goes first");
        let broken = named(&[(AUTHORIZATION, "Basic abc"), (EMAIL, "a@example.com"), (KEY, "other")]);
        assert!(Credential::of(&broken, true).is_err(), "also one that is none");
    }

    #[test]
    fn says_what_to_send() {
        let said = |values: &[(HeaderName, &str)]| Credential::of(&named(values), true).err().expect("is refused");
        assert!(said(&[]).starts_with("no token"));
        assert!(said(&[(KEY, "abc")]).contains("comes with X-Auth-Email"));
        assert!(said(&[(EMAIL, "a@b.c")]).contains("comes with X-Auth-Key"));
        assert!(said(&[(USER_SERVICE_KEY, "abc")]).contains("is not taken; send Authorization: Bearer"));
        assert!(said(&[(KEY, "abc"), (KEY, "abc"), (EMAIL, "a@b.c")]).contains("sent twice"));
        assert!(said(&[(KEY, "a b"), (EMAIL, "a@b.c")]).contains("not a token"));
    }

    #[test]
    fn an_email_is_compared_without_case_and_must_be_there() {
        let token = |email: Option<&str>| Token {
            email: email.map(str::to_owned),
            ..Token::declared("t", Role::Read, TokenScope::All, &[0; 32], "egret.toml")
        };
        let is_for =
            |email: &'static str, held| Credential::Key { email: email.as_bytes(), key: b"k" }.is_for(&token(held));
        assert!(is_for("CI@Example.com", Some("ci@example.COM")));
        assert!(!is_for("ci@example.com", Some("ci@example.co")) && !is_for("", Some("ci@example.com")));
        assert!(!is_for("", None) && !is_for("ci@example.com", None));
        assert!(Credential::Bearer(b"k").is_for(&token(None)));
    }
}
