//! The parts of a request that handlers take: path, query, origin.

use axum::extract::{FromRequestParts, Path};
use http::Method;
use http::request::Parts;
use http::uri::PathAndQuery;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::control::Drain;
use crate::domain::{Origin, Pattern, Team};

/// Characters of the path that a probe asks for.
const MAX_PROBE_PATH: usize = 2048;

/// The parameters of the path, percent-decoded after it was split: `..%2F` is one segment.
pub(super) struct Segments<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(values) = Path::<T>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::bad_request("the path is not UTF-8 after percent-decoding"))?;
        Ok(Self(values))
    }
}

/// Every query parameter that an endpoint of this API takes; others are ignored, as the SDKs' users expect.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Query {
    /// The id of the project's team.
    pub(super) team_id: Option<String>,
    /// The slug of the project's team.
    pub(super) slug: Option<String>,
    /// `now`: what runs under the old certificate is cut at once.
    drain: Option<String>,
    /// `probe`: what is uploaded is tried out first.
    stage: Option<String>,
    /// The origin where it is tried out.
    probe: Option<String>,
    /// With what request.
    probe_path: Option<String>,
    probe_method: Option<String>,
    /// The pattern of a binding.
    origin: Option<String>,
    /// What is bound there.
    pub(super) cert_id: Option<String>,
    /// What an upload makes of its binding.
    tls13_only: Option<String>,
    /// The project, where the path does not name it.
    pub(super) project: Option<String>,
    /// What is to be explained.
    pub(super) url: Option<String>,
    /// Of this certificate only.
    pub(super) certificate: Option<String>,
    /// Of this host only.
    pub(super) host: Option<String>,
    /// The last event that is known, or a time.
    pub(super) since: Option<String>,
    /// `false`: nothing is waited for.
    wait: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let axum::extract::Query(query) = axum::extract::Query::<Self>::try_from_uri(&parts.uri)
            .map_err(|_| Problem::bad_request("the query is malformed, or names a parameter twice"))?;
        let given = |value: Option<String>| value.filter(|v| !v.is_empty());
        Ok(Self {
            team_id: given(query.team_id),
            slug: given(query.slug),
            project: given(query.project),
            cert_id: given(query.cert_id),
            ..query
        })
    }
}

impl Query {
    /// How long what runs may go on.
    ///
    /// # Errors
    /// 400 for anything but `now`.
    pub(super) fn drain(&self) -> Result<Drain, Problem> {
        match self.drain.as_deref() {
            None => Ok(Drain::Grace),
            Some("now") => Ok(Drain::Now),
            Some(_) => Err(Problem::bad_request("drain: only now can be asked for; leave it out for the usual grace")),
        }
    }

    /// Whether the certificate is to be presented over TLS 1.3 only; `None`: as it was.
    ///
    /// # Errors
    /// 400 for anything but `true` and `false`.
    pub(super) fn tls13_only(&self) -> Result<Option<bool>, Problem> {
        match self.tls13_only.as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => {
                Err(Problem::bad_request("tls13Only: write true or false, or leave it out to leave it as it is"))
            }
        }
    }

    /// Whether what is yet to happen is waited for.
    ///
    /// # Errors
    /// 400 for anything but `true` and `false`.
    pub(super) fn wait(&self) -> Result<bool, Problem> {
        match self.wait.as_deref() {
            None | Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(Problem::bad_request("wait: give true or false")),
        }
    }

    /// How an upload is to be tried out before it is put in force; `None`: it is not.
    ///
    /// # Errors
    /// 400 for what cannot be meant, and for a word about a probe where none is asked for.
    pub(super) fn probe(&self) -> Result<Option<Probe>, Problem> {
        let refused = |what: &str| Err(Problem::bad_request(what));
        match self.stage.as_deref() {
            None if self.probe.is_none() && self.probe_path.is_none() && self.probe_method.is_none() => {
                return Ok(None);
            }
            None => return refused("probe, probePath and probeMethod go with stage=probe; add it, or leave them out"),
            Some("probe") => {}
            Some(_) => {
                return refused("stage: only probe can be asked for; leave it out to put the upload in force at once");
            }
        }
        let origin = match self.probe.as_deref().map(Origin::parse) {
            None => None,
            Some(Ok(origin)) => Some(origin),
            Some(Err(why)) => return refused(&format!("probe: {why}")),
        };
        let method = match self.probe_method.as_deref() {
            None | Some("GET") => Method::GET,
            Some("HEAD") => Method::HEAD,
            Some("OPTIONS") => Method::OPTIONS,
            Some(_) => return refused("probeMethod: takes GET, HEAD or OPTIONS, which change nothing at the origin"),
        };
        let path = self.probe_path.as_deref().unwrap_or("/");
        let plain = path.starts_with('/') && path.len() <= MAX_PROBE_PATH && path.bytes().all(|b| b.is_ascii_graphic());
        match path.parse() {
            Ok(path) if plain && !self.probe_path.as_deref().is_some_and(|p| p.contains('#')) => {
                Ok(Some(Probe { origin, method, path }))
            }
            _ => refused(
                "probePath: takes a path, with or without a query, of at most 2048 characters; begin it with a slash",
            ),
        }
    }

    /// The pattern that `origin` names.
    ///
    /// # Errors
    /// 400 without it, or when it is none.
    pub(super) fn origin(&self) -> Result<Pattern, Problem> {
        let origin = self.origin.as_deref();
        let origin = origin.ok_or_else(|| Problem::bad_request("missing query parameter: origin"))?;
        Pattern::parse(origin).map_err(|why| Problem::bad_request(format!("origin: {why}")))
    }
}

/// How an upload is tried out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// Where, if that is said.
    pub(super) origin: Option<Origin>,
    pub(super) method: Method,
    pub(super) path: PathAndQuery,
}

/// A project's name: 1 to 100 printable characters that can stand in a path.
///
/// # Errors
/// What is wrong, and what to do.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    let odd = |c: char| c.is_control() || c == '/' || c == '\\' || (c.is_whitespace() && c != ' ');
    match name {
        "" => Err("is empty; give 1 to 100 characters"),
        "." | ".." => Err("cannot stand in a path; choose another name"),
        n if n.chars().count() > 100 => Err("is longer than 100 characters; shorten it"),
        n if n.contains(odd) => Err("has a control character or a slash; remove it"),
        n if n.trim() != n => Err("begins or ends with a space; remove it"),
        _ => Ok(()),
    }
}

/// A Cloudflare account or zone id.
///
/// # Errors
/// What is wrong.
pub(super) fn check_hex_id(id: &str) -> Result<(), &'static str> {
    let ok = id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if ok { Ok(()) } else { Err("must be 32 lower-case hex digits") }
}

/// A team's id and slug.
///
/// # Errors
/// What is wrong.
pub(super) fn check_team(team: &Team) -> Result<(), &'static str> {
    if team.id.is_none() && team.slug.is_none() {
        return Err("needs an id or a slug");
    }
    let ok = |text: &str| {
        (1..=100).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    if team.id.iter().chain(&team.slug).all(|t| ok(t)) {
        Ok(())
    } else {
        Err("takes an id and a slug of 1 to 100 letters, digits, dots, dashes and underscores")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn query(text: &str) -> Result<Query, u16> {
        let (mut parts, ()) = http::Request::builder().uri(format!("/x?{text}")).body(()).unwrap().into_parts();
        Query::from_request_parts(&mut parts, &()).await.map_err(|p| p.status().as_u16())
    }

    #[tokio::test]
    async fn reads_the_query_and_ignores_what_it_does_not_know() {
        let read = query("slug=a%20b&teamId=team_1&later=1&drain=now&origin=%2A").await.unwrap();
        assert_eq!((read.team_id.as_deref(), read.slug.as_deref()), (Some("team_1"), Some("a b")));
        assert_eq!(read.drain().unwrap(), Drain::Now);
        assert_eq!(read.origin().unwrap(), Pattern::Default);
        let empty = query("teamId=&slug=").await.unwrap();
        assert_eq!(empty, Query::default());
        assert_eq!(empty.drain().unwrap(), Drain::Grace);
        assert_eq!(empty.origin().unwrap_err().status(), 400);
    }

    #[tokio::test]
    async fn refuses_what_it_cannot_mean() {
        assert_eq!(query("slug=a&slug=b").await.unwrap_err(), 400);
        assert_eq!(query("drain=later").await.unwrap().drain().unwrap_err().status(), 400);
        assert_eq!(query("tls13Only=1").await.unwrap().tls13_only().unwrap_err().status(), 400);
        assert_eq!(query("tls13Only=true").await.unwrap().tls13_only().unwrap(), Some(true));
        let problem = query("origin=http%3A%2F%2Fa.test").await.unwrap().origin().unwrap_err();
        assert!(format!("{problem:?}").contains("origin: plain http has no TLS"));
    }

    #[test]
    fn takes_names_that_can_stand_in_a_path() {
        for name in ["payments", "Zahlungen \u{fc}ber", "a.b", "x".repeat(100).as_str()] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a\\b", "a\nb", "a\u{7f}", " a", "a\u{2028}b", "x".repeat(101).as_str()] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn checks_ids_and_teams() {
        assert!(check_hex_id("0123456789abcdef0123456789abcdef").is_ok());
        for id in ["", "0123456789ABCDEF0123456789ABCDEF", "0123456789abcdef", "g123456789abcdef0123456789abcdef"] {
            assert!(check_hex_id(id).is_err(), "{id}");
        }
        let team = |id: Option<&str>, slug: Option<&str>| {
            check_team(&Team { id: id.map(Into::into), slug: slug.map(Into::into) })
        };
        assert!(team(Some("team_1"), None).is_ok() && team(None, Some("acme-inc")).is_ok());
        assert!(team(None, None).is_err() && team(Some(""), None).is_err() && team(None, Some("a b")).is_err());
    }
}
