//! A URL as a person pastes it.

use crate::domain::{HTTPS_PORT, HttpTarget, Origin, OriginError};

/// What an explanation is wanted of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// `https://…`, `wss://…`, or a bare `host[:port]`.
    Https(Origin),
    /// `http://…` or `ws://…`.
    Http(HttpTarget),
}

impl Wanted {
    /// Parses a URL. Path, query and fragment are ignored: people paste whole URLs. User info is refused: it may be a
    /// password, and an origin has none.
    ///
    /// # Errors
    /// Says what is wrong; never repeats the text.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let text = text.trim_matches(' ');
        if text.is_empty() {
            return Err(OriginError::Empty);
        }
        let (scheme, rest) = match text.split_once("://") {
            // What looks like a scheme behind a path or a query is part of these.
            Some((scheme, rest)) if !scheme.contains(['/', '?', '#']) => (Some(scheme.to_ascii_lowercase()), rest),
            _ => (None, text),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        match scheme.as_deref() {
            None | Some("https" | "wss") => Origin::from_authority(authority, HTTPS_PORT).map(Self::Https),
            Some("http" | "ws") => HttpTarget::from_authority(authority).map(Self::Http),
            Some(_) => Err(OriginError::Scheme),
        }
    }

    /// The origin that decides: for plain http the one that it would be lifted to.
    #[must_use]
    pub fn origin(&self) -> Origin {
        match self {
            Self::Https(origin) => origin.clone(),
            Self::Http(target) => target.lifted(),
        }
    }

    /// The plain http server, if it is one.
    #[must_use]
    pub fn plain(&self) -> Option<&HttpTarget> {
        match self {
            Self::Https(_) => None,
            Self::Http(target) => Some(target),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, OriginError> {
        Wanted::parse(text).map(|wanted| match wanted {
            Wanted::Https(origin) => origin.to_string(),
            Wanted::Http(target) => target.to_string(),
        })
    }

    #[test]
    fn takes_urls_as_people_paste_them() {
        for (text, expected) in [
            ("https://API.Example.com.:443/v1/orders?since=https://x.test/#top", "https://api.example.com"),
            ("api.example.com:8443/x", "https://api.example.com:8443"),
            ("api.example.com/redirect?to=http://b.test", "https://api.example.com"),
            ("WSS://api.example.com?x", "https://api.example.com"),
            ("http://api.example.com/x", "http://api.example.com"),
            ("ws://api.example.com:8080", "http://api.example.com:8080"),
            (" https://[2001:DB8::1]/ ", "https://[2001:db8::1]"),
            ("https://a.test#@b", "https://a.test"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(Wanted::parse("http://a.test").unwrap().origin().to_string(), "https://a.test");
        assert_eq!(Wanted::parse("http://a.test:8080").unwrap().origin().to_string(), "https://a.test:8080");
    }

    #[test]
    fn refuses_user_info_and_what_is_no_origin() {
        for (text, expected) in [
            ("https://user:secret@a.test/", OriginError::UserInfo),
            ("user@a.test", OriginError::UserInfo),
            ("", OriginError::Empty),
            ("https:///x", OriginError::Empty),
            ("ftp://a.test", OriginError::Scheme),
            ("https://a.test:0", OriginError::Port),
            ("https://*.a.test", OriginError::Wildcard),
            ("https://0x7f.1", OriginError::Ipv4),
        ] {
            assert_eq!(parse(text), Err(expected), "{text}");
        }
    }
}
