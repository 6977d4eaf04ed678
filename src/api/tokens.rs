//! egret's own: tokens. The text of a token is in the answer that makes it, and nowhere else.
//!
//! Nobody gets more than they have: an administrator limited to projects makes, sees and ends only tokens that reach
//! none but these, and a token that expires makes none that outlives it.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::Management;
use super::auth::{Caller, Need, out_of_reach};
use super::body;
use super::fields::Fields;
use super::openapi::TokenPath;
use super::problem::{Answer, ErrorBody, Problem};
use super::request::Segments;
use crate::control::{ControlError, NewToken};
use crate::domain::time::{now, rfc3339};
use crate::domain::{ProjectId, Role};
use crate::registry::{Registry, Token, TokenScope};

/// Ten years, in seconds.
const MAX_TTL: u64 = 10 * 365 * 24 * 60 * 60;
/// Projects that one token names.
const MAX_PROJECTS: usize = 256;
/// RFC 5321 section 4.5.3.1.3, without the angle brackets.
const MAX_EMAIL: usize = 254;

/// A token as the API shows it: never its text.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Token)]
pub(super) struct ShownToken {
    /// Its id.
    #[schema(pattern = "^tok_[0-9a-f]{32}$", example = "tok_0123456789abcdef0123456789abcdef")]
    id: String,
    /// Its name.
    #[schema(min_length = 1, example = "ci")]
    name: String,
    role: Role,
    /// What it is compared with in `X-Auth-Email`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "ci@example.com")]
    email: Option<String>,
    /// Ids; of tokens in the file also names of projects that do not exist yet. Left out: all projects.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    projects: Option<Vec<String>>,
    /// `api`, or `file` for those that egret only reads.
    #[schema(pattern = "^(api|file)$")]
    source: &'static str,
    /// Of a token made through the API.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    created_at: Option<String>,
    /// From then on it is good for nothing. Left out: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    expires_at: Option<String>,
}

/// What a new token is. Only documented here: [`read_token`] reads it.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TokenWanted)]
#[expect(dead_code, reason = "the schema of a body that is read by hand")]
struct TokenBody {
    /// Its name, unique among all tokens, those of the file included; not dots alone.
    #[schema(max_length = 100, pattern = r"^[A-Za-z0-9._-]*[A-Za-z0-9_-][A-Za-z0-9._-]*$", example = "ci")]
    name: String,
    role: Role,
    /// What it is compared with in `X-Auth-Email`.
    #[schema(nullable = false, max_length = 254, pattern = "^[!-?A-~]+@[!-~]+$", example = "ci@example.com")]
    email: Option<String>,
    /// Names or ids of the projects that it reaches. Left out: all, which takes a token without limits.
    #[schema(nullable = false, min_items = 1, max_items = 256, example = json!(["payments"]))]
    projects: Option<Vec<String>>,
    /// Seconds until it expires. Left out: never, which takes a token that does not expire.
    #[schema(nullable = false, minimum = 1, maximum = 315_360_000, example = 28_800)]
    ttl: Option<u64>,
}

/// What a list answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tokens)]
pub(super) struct Listed {
    /// By name; those that reach no more than the caller's token.
    tokens: Vec<ShownToken>,
}

/// What the making of a token answers.
#[derive(Serialize, ToSchema)]
#[schema(as = TokenCreated)]
pub(super) struct Created {
    #[serde(flatten)]
    shown: ShownToken,
    /// What its holder sends. It is in this answer and nowhere else.
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String, pattern = "^egret_[A-Za-z0-9_-]{43}$")]
    token: Zeroizing<String>,
}

/// What a revocation answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TokenRevoked)]
pub(super) struct Revoked {}

fn as_text<S: serde::Serializer>(text: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl ShownToken {
    fn of(token: &Token) -> Self {
        Self {
            id: token.id.clone(),
            name: token.name.clone(),
            role: token.role,
            email: token.email.clone(),
            projects: match &token.scope {
                TokenScope::All => None,
                TokenScope::Projects(list) => Some(list.clone()),
            },
            source: token.source.as_str(),
            created_at: token.created_at.map(rfc3339),
            expires_at: token.expires_at.map(rfc3339),
        }
    }
}

impl IntoResponse for Created {
    /// JSON out of a buffer that is wiped once it was sent.
    fn into_response(self) -> Response {
        // Sized for every byte escaped, so that it never grows and leaves a copy behind.
        let room = 6 * (self.token.len() + self.shown.name.len() + MAX_EMAIL) + 100 * MAX_PROJECTS + 1024;
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        if serde_json::to_writer(&mut *bytes, &self).is_err() {
            return Problem::internal("the answer could not be written; revoke the token and make another")
                .into_response();
        }
        let mut response = Response::new(Body::from(Bytes::from_owner(bytes)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// List tokens
///
/// Never their text. For administrators; one limited to projects sees those that reach no others.
#[utoipa::path(
    get, path = "/v1/tokens", operation_id = "listTokens", tag = "egret",
    responses((status = 200, description = "Those that have not expired, of the file and of the API.", body = Listed))
)]
pub(super) async fn list(State(management): State<Arc<Management>>, caller: Caller) -> Answer<Listed> {
    caller.require(Need::Administer)?;
    let (registry, now) = (&management.registry, now());
    let mut tokens = registry.tokens();
    tokens.retain(|(_, token)| !token.is_expired(now) && registry.covers(caller.token(), &token.scope));
    Ok(Json(Listed { tokens: tokens.iter().map(|(_, token)| ShownToken::of(token)).collect() }))
}

/// Make a token
///
/// In force at once. Nobody makes one that reaches more, or lasts longer, than their own.
#[utoipa::path(
    post, path = "/v1/tokens", operation_id = "createToken", tag = "egret", request_body = TokenBody,
    responses(
        (status = 200, description = "Made. Its text is in this answer and nowhere else.", body = Created),
        (status = 409, description = "A token of this name exists, or there are as many as limits.max_tokens allows.", body = ErrorBody),
        (status = 500, description = "It could not be stored; nothing was changed.", body = ErrorBody),
    )
)]
pub(super) async fn create(
    State(management): State<Arc<Management>>,
    caller: Caller,
    request: Request,
) -> Result<Created, Problem> {
    caller.require(Need::Administer)?;
    let body = body::read(request, &management.limits).await?;
    let asked = read_token(&body)?;
    let projects = reached(&management.registry, &caller, asked.projects)?;
    let expires_at = ending(caller.token(), asked.ttl, now())?;
    let maker = Some(caller.token().clone());
    let new = NewToken { name: asked.name, email: asked.email, role: asked.role, projects, expires_at, maker };
    let created = management.control.create_token(new).await?;
    Ok(Created { shown: ShownToken::of(&created.token), token: created.text })
}

/// Revoke a token
///
/// From then on it is good for nothing, on connections that are open too. What runs goes on.
#[utoipa::path(
    delete, path = "/v1/tokens/{token}", operation_id = "deleteToken", tag = "egret", params(TokenPath),
    responses(
        (status = 200, description = "Revoked.", body = Revoked),
        (status = 403, description = "The token does not allow it, or the one to be revoked stands in a file or in the environment.", body = ErrorBody),
        (status = 404, description = "No such token.", body = ErrorBody),
        (status = 500, description = "It could not be stored; nothing was changed.", body = ErrorBody),
    )
)]
pub(super) async fn remove(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(name): Segments<String>,
) -> Answer<Revoked> {
    caller.require(Need::Administer)?;
    match management.control.revoke_token(&name, caller.token().clone()).await {
        Ok(()) => Ok(Json(Revoked {})),
        // As with projects: whoever is limited does not learn what else there is.
        Err(ControlError::NotFound(_)) if !caller.is_unlimited() => {
            Err(Problem::forbidden("your token does not reach this token"))
        }
        Err(error) => Err(error.into()),
    }
}

/// What a body asks for.
#[derive(Debug)]
struct Asked {
    name: String,
    role: Role,
    email: Option<String>,
    /// Names or ids, as written.
    projects: Option<Vec<String>>,
    /// Seconds.
    ttl: Option<u64>,
}

/// `{name, role, email?, projects?, ttl?}`
fn read_token(body: &[u8]) -> Result<Asked, Problem> {
    let mut fields = Fields::parse(body)?;
    let named = fields.has("name");
    let name = fields.text("name").to_string();
    if named && !is_name(&name) {
        fields.fault("name", "use 1 to 100 of the characters A-Z a-z 0-9 . _ -, and not dots alone");
    }
    let has_role = fields.has("role");
    let role = match fields.text("role").as_str() {
        "admin" => Role::Admin,
        "write" => Role::Write,
        "read" => Role::Read,
        "proxy" => Role::Proxy,
        _ => {
            if has_role {
                fields.fault("role", "must be admin, write, read or proxy");
            }
            Role::Proxy
        }
    };
    let email = fields.optional_text("email").map(|t| t.to_string());
    if email.as_deref().is_some_and(|e| !is_email(e)) {
        fields.fault("email", "is no address; write it as name@example.com");
    }
    let projects = fields.optional_texts("projects", MAX_PROJECTS);
    if projects.as_ref().is_some_and(Vec::is_empty) {
        fields.fault("projects", "names no project; leave the field out for all projects");
    }
    let ttl = fields.optional_number("ttl", 1, MAX_TTL, "seconds");
    fields.finish()?;
    Ok(Asked { name, role, email, projects, ttl })
}

/// Names stand in logs, paths and answers, so they need no quoting anywhere.
fn is_name(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && text.bytes().any(|b| b != b'.')
}

/// It is only ever compared with `X-Auth-Email`, so this keeps out what cannot stand in a header.
fn is_email(text: &str) -> bool {
    let parts = text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty());
    parts && text.len() <= MAX_EMAIL && text.bytes().all(|b| b.is_ascii_graphic())
}

/// The ids of these projects, all of them within the caller's reach.
fn reached(
    registry: &Registry,
    caller: &Caller,
    named: Option<Vec<String>>,
) -> Result<Option<Vec<ProjectId>>, Problem> {
    let Some(named) = named else {
        return match caller.is_unlimited() {
            true => Ok(None),
            false => Err(Problem::forbidden(
                "your token is limited to projects; name in projects which of them the new one reaches",
            )),
        };
    };
    let mut ids = Vec::with_capacity(named.len());
    for (i, name) in named.iter().enumerate() {
        match registry.find(name, None, None) {
            Some(project) if caller.reaches(project.id(), &project.load().info().name) => {
                if !ids.contains(project.id()) {
                    ids.push(project.id().clone());
                }
            }
            None if caller.is_unlimited() => {
                return Err(Problem::bad_request(format!(
                    "projects[{i}]: there is no project of this id, and not exactly one of this name; GET /v1/projects lists them"
                )));
            }
            _ => return Err(out_of_reach()),
        }
    }
    Ok(Some(ids))
}

/// When a token with this `ttl` ends, in whole seconds and never early; not after the token that makes it.
fn ending(maker: &Token, ttl: Option<u64>, now: OffsetDateTime) -> Result<Option<OffsetDateTime>, Problem> {
    let end = ttl.map(|seconds| {
        let end = now + std::time::Duration::from_secs(seconds);
        let whole = end.replace_nanosecond(0).unwrap_or(end);
        if whole == end { end } else { whole + time::Duration::SECOND }
    });
    let outlives = maker.expires_at.is_some_and(|limit| end.is_none_or(|end| end > limit));
    if outlives {
        return Err(Problem::forbidden(
            "your token expires, and none that it makes may outlive it; give a ttl that ends before it does",
        ));
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(body: &str) -> String {
        format!("{:?}", read_token(body.as_bytes()).expect_err("must be refused"))
    }

    #[test]
    fn reads_a_token() {
        let asked = read_token(
            br#"{"name":"ci","role":"write","email":"ci@example.com","projects":["payments","prj_1"],"ttl":28800}"#,
        )
        .expect("fine");
        assert_eq!((asked.name.as_str(), asked.role, asked.ttl), ("ci", Role::Write, Some(28_800)));
        assert_eq!(asked.email.as_deref(), Some("ci@example.com"));
        assert_eq!(asked.projects.expect("limited"), ["payments", "prj_1"]);
        let least = read_token(br#"{"name":"a","role":"proxy"}"#).expect("fine");
        assert!(least.email.is_none() && least.projects.is_none() && least.ttl.is_none());
    }

    #[test]
    fn names_every_fault_and_echoes_none() {
        let body = r#"{"name":"a/SECRET","role":"SECRET","email":"SECRET","projects":[],"ttl":0,"x":1}"#;
        let said_ = said(body);
        for part in [
            "name: use 1 to 100 of the characters",
            "role: must be admin, write, read or proxy",
            "email: is no address",
            "projects: names no project",
            "ttl: must be 1 to 315360000 seconds",
            "unknown field x",
        ] {
            assert!(said_.contains(part), "{part} in {said_}");
        }
        assert!(!said_.contains("SECRET"), "{said_}");
        assert!(said("{}").contains("missing fields: name, role"));
        for (body, part) in [
            (r#"{"name":"a","role":"read","projects":"p"}"#, "projects must be an array of strings, not a string"),
            (r#"{"name":"a","role":"read","projects":[1]}"#, "projects must be an array of strings"),
            (r#"{"name":"a","role":"read","ttl":"8h"}"#, "ttl must be a number, not a string"),
            (r#"{"name":"a","role":"read","ttl":1.5}"#, "ttl: must be 1 to 315360000 seconds"),
            (r#"{"name":"a","role":"read","ttl":-1}"#, "ttl: must be 1 to 315360000 seconds"),
            (r#"{"name":"a","role":"read","ttl":315360001}"#, "ttl: must be 1 to 315360000 seconds"),
            (r#"{"name":"..","role":"read"}"#, "not dots alone"),
        ] {
            assert!(said(body).contains(part), "{part} in {}", said(body));
        }
        let many = vec!["p"; MAX_PROJECTS + 1];
        let body = format!(r#"{{"name":"a","role":"read","projects":{}}}"#, serde_json::to_string(&many).unwrap());
        assert!(said(&body).contains("projects: has more than 256 entries"), "{}", said(&body));
    }

    #[test]
    fn ends_no_earlier_than_asked_and_no_later_than_its_maker() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(10_500);
        let at = |seconds| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds);
        let maker = Token::declared("a", Role::Admin, TokenScope::All, &[0; 32], "egret.toml");
        assert_eq!(ending(&maker, Some(1), now), Ok(Some(at(12))));
        assert_eq!(ending(&maker, Some(1), at(10)), Ok(Some(at(11))));
        assert_eq!(ending(&maker, None, now), Ok(None));
        let maker = Token { expires_at: Some(at(20)), ..maker };
        assert_eq!(ending(&maker, Some(9), now), Ok(Some(at(20))));
        assert_eq!(ending(&maker, Some(10), now).unwrap_err().status(), 403);
        assert_eq!(ending(&maker, None, now).unwrap_err().status(), 403);
    }
}
