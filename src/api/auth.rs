//! Who calls, and what they may do: tokens, roles, projects.
//!
//! The order is fixed: who are you (401, 429), what does your role allow (403), which projects do you reach
//! (403, existing or not), and only then what exists (404).

mod credential;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::FromRequestParts;
use http::request::Parts;

use self::credential::Credential;
use super::host::Ends;
use super::problem::Problem;
use super::request::Query;
use super::throttle::Throttle;
use super::{Management, cloudflare};
use crate::control::ControlError;
use crate::domain::{Peer, ProjectId, Role};
use crate::registry::{Project, Registry, Token, TokenScope};

/// Where the name of the caller's token is left for the log line.
#[derive(Debug, Clone, Default)]
pub(super) struct Signature(Arc<OnceLock<String>>);

impl Signature {
    /// The token's name, once the caller is known.
    pub(super) fn name(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// A caller with a valid token of a role that may use the API.
#[derive(Debug, Clone)]
pub(super) struct Caller(Arc<Token>);

/// What a request needs its caller to be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// To read.
    Read,
    /// To change certificates and bindings.
    Write,
    /// To change projects and tokens.
    Administer,
}

impl FromRequestParts<Arc<Management>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, management: &Arc<Management>) -> Result<Self, Problem> {
        let source = parts.extensions.get::<Ends>().cloned().unwrap_or_default().peer;
        let lookup = |token: &[u8]| management.registry.token(token);
        let shown = Credential::of(&parts.headers, cloudflare::is_asked(parts.uri.path()));
        let checked = authenticate(shown, source, &management.throttle, Instant::now(), lookup);
        let token = checked.inspect_err(|_| management.metrics.api_unauthorized.add())?;
        if let Some(Signature(name)) = parts.extensions.get() {
            let _ = name.set(token.name.clone());
        }
        let caller = Self(token);
        // No endpoint takes less.
        caller.require(Need::Read)?;
        Ok(caller)
    }
}

/// Finds the token that the request presents.
///
/// # Errors
/// 401 for none or an unknown one, 429 for a source that failed too often.
fn authenticate(
    shown: Result<Credential<'_>, &'static str>,
    source: Peer,
    throttle: &Throttle,
    at: Instant,
    lookup: impl FnOnce(&[u8]) -> Option<Arc<Token>>,
) -> Result<Arc<Token>, Problem> {
    let found = shown
        .and_then(|shown| lookup(shown.token()).filter(|token| shown.is_for(token)).ok_or_else(|| shown.refusal()));
    // A valid token always passes: whoever shares a source with someone who guesses is not locked out by him, and
    // 256-bit tokens are not found by guessing.
    found.or_else(|why| {
        throttle.check(source, at).map_err(Problem::rate_limited)?;
        throttle.failed(source, at);
        Err(Problem::unauthorized(why))
    })
}

impl Caller {
    /// Checks the role.
    ///
    /// # Errors
    /// 403 naming the role that it takes.
    pub(super) fn require(&self, need: Need) -> Result<(), Problem> {
        let role = self.0.role;
        let (allowed, wanted) = match need {
            Need::Read => (role.may_read(), Role::Read),
            Need::Write => (role.may_write(), Role::Write),
            Need::Administer => (role.may_administer(), Role::Admin),
        };
        if allowed {
            return Ok(());
        }
        let message = format!("the token's role is {}; this takes {}", word(role), word(wanted));
        Err(Problem::forbidden(message))
    }

    /// Asks again, once the body has arrived: a body may take its time, and a token that was revoked meanwhile must
    /// change nothing any more.
    ///
    /// # Errors
    /// 401.
    pub(super) fn still_in(&self, registry: &Registry) -> Result<(), Problem> {
        if registry.is_in_force(&self.0) { Ok(()) } else { Err(ControlError::Revoked.into()) }
    }

    /// The caller as of now, for what goes on for long: the token may have lost a project. `None` once it has ended.
    pub(super) fn renewed(&self, registry: &Registry) -> Option<Self> {
        registry.current(&self.0).map(Self)
    }

    /// The caller's token.
    pub(super) fn token(&self) -> &Arc<Token> {
        &self.0
    }

    /// Whether no project is out of reach, those that do not exist included.
    pub(super) fn is_unlimited(&self) -> bool {
        self.0.scope == TokenScope::All
    }

    /// Whether the token reaches this project.
    pub(super) fn reaches(&self, id: &ProjectId, name: &str) -> bool {
        self.0.reaches(id, name)
    }

    /// The projects within reach, by name.
    pub(super) fn projects(&self, registry: &Registry) -> Vec<Arc<Project>> {
        let mut projects = registry.projects();
        projects.retain(|p| self.reaches(p.id(), &p.load().info().name));
        projects
    }

    /// The project that a path names, for a caller who may do what it `need`s.
    ///
    /// # Errors
    /// 403 for a role that is too low and for everything out of reach, existing or not; else 404.
    pub(super) fn project(
        &self,
        registry: &Registry,
        id_or_name: &str,
        query: &Query,
        need: Need,
    ) -> Result<Arc<Project>, Problem> {
        self.require(need)?;
        let reached = |p: &Arc<Project>| self.reaches(p.id(), &p.load().info().name);
        let found = registry.find(id_or_name, query.team_id.as_deref(), query.slug.as_deref());
        match found {
            Some(project) if reached(&project) => Ok(project),
            // A wrong team is "not found" only for those who reach the project under its right one.
            None if self.0.reaches_name(id_or_name)
                || registry.find(id_or_name, None, None).is_some_and(|p| reached(&p)) =>
            {
                Err(Problem::not_found("project"))
            }
            _ => Err(out_of_reach()),
        }
    }
}

/// What is said of every project out of reach.
pub(super) fn out_of_reach() -> Problem {
    Problem::forbidden("the token does not reach this project")
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::Write => "write",
        Role::Read => "read",
        Role::Proxy => "proxy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(role: Role) -> Arc<Token> {
        Arc::new(Token::declared("t", role, TokenScope::All, &[0; 32], "egret.toml"))
    }

    #[test]
    fn limits_who_guesses_and_nobody_else() {
        let (throttle, source) = (Throttle::default(), Peer::from(std::net::IpAddr::from([192, 0, 2, 1])));
        let first = Instant::now();
        let ask_at = |text: &str, at| {
            let lookup = |t: &[u8]| (t == b"right").then(|| token(Role::Read));
            authenticate(Ok(Credential::Bearer(text.as_bytes())), source, &throttle, at, lookup)
                .map_err(|p| p.status().as_u16())
        };
        let ask = |text: &str| ask_at(text, first);
        assert_eq!(ask("right").unwrap().name, "t");
        for _ in 0..10 {
            assert_eq!(ask("wrong").unwrap_err(), 401);
        }
        assert_eq!(ask("wrong").unwrap_err(), 429);
        assert!(ask("right").is_ok());
        assert_eq!(ask_at("wrong", first + std::time::Duration::from_secs(1)).unwrap_err(), 401);
    }

    #[test]
    fn wants_the_role_that_the_request_takes() {
        let may = |role, need| Caller(token(role)).require(need).is_ok();
        let all = |role| [Need::Read, Need::Write, Need::Administer].map(|need| may(role, need));
        assert_eq!(all(Role::Admin), [true, true, true]);
        assert_eq!(all(Role::Write), [true, true, false]);
        assert_eq!(all(Role::Read), [true, false, false]);
        assert_eq!(all(Role::Proxy), [false, false, false]);
    }
}
