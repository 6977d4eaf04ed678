//! Who is calling: the listener's fixed project, or the one that the caller's credential names.
//!
//! A client certificate was verified in the handshake; which project it names is looked up anew whenever projects have
//! come or gone. A token comes in `Proxy-Authorization`, on a sidecar too, because `Authorization` belongs to the
//! origin there: `Bearer TOKEN`, or `Basic` with the project as user and the token as password. A connection
//! remembers the digest of the last one, so that an unchanged credential costs one comparison; what it remembers ends
//! with the token. An intercepted tunnel has no credential inside, so its [`Pass`] is looked at with every request.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::{constant_time, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::domain::{Code, Peer, time as clock};
use crate::pki::caller::CallerNames;
use crate::registry::{Project, Registry, Token, TokenScope};
use crate::upstream::Failure;

/// The project of a bearer token that reaches several.
const DEFAULT_PROJECT: &str = "default";
/// Longer credentials are nobody's: a project's name and 256 bits of token fit many times.
const LONGEST_CREDENTIAL: usize = 4096;

/// What a connection remembers of its caller.
#[derive(Default)]
pub(super) struct Memo(Mutex<Option<Remembered>>);

struct Remembered {
    /// SHA-256 of the field's value; the value itself is not kept. Zeros for a certificate: a connection has one.
    digest: [u8; 32],
    /// The registry's generation at that time: tokens and projects have not changed while it is the same.
    generation: u64,
    admitted: Admitted,
}

/// Who was let in.
#[derive(Clone)]
pub(super) struct Admitted {
    /// The caller's project.
    pub(super) project: Arc<Project>,
    /// Where it was a token: for what comes later without it.
    pub(super) pass: Option<Arc<Pass>>,
}

/// That a token was good, for what comes later on the strength of it. It holds until the token is revoked or expires.
pub struct Pass {
    /// SHA-256 of the token's text.
    sha256: [u8; 32],
    /// [`Token::expires_at`].
    until: Option<OffsetDateTime>,
    /// The registry's generation when it was last found to hold.
    generation: AtomicU64,
}

impl Pass {
    /// Whether the token still lets its holder into `project`. Costs one atomic while nothing changes.
    pub(super) fn holds(&self, registry: &Registry, project: &Project) -> bool {
        if !self.is_in_time() {
            return false;
        }
        let generation = registry.token_generation();
        if self.generation.load(Ordering::Relaxed) == generation {
            return true;
        }
        let token = registry.token_by_digest(&self.sha256, None);
        let holds = token.is_some_and(|t| t.role.may_proxy() && t.reaches(project.id(), &project.load().info().name));
        if holds {
            self.generation.store(generation, Ordering::Relaxed);
        }
        holds
    }

    fn is_in_time(&self) -> bool {
        self.until.is_none_or(|end| clock::now() < end)
    }
}

impl Memo {
    fn recall(&self, hash: &[u8; 32], generation: u64) -> Option<Admitted> {
        let remembered = self.0.lock().expect("nothing panics while holding it");
        let last = remembered.as_ref()?;
        let same = last.generation == generation && constant_time::verify_slices_are_equal(&last.digest, hash).is_ok();
        let in_time = last.admitted.pass.as_ref().is_none_or(|pass| pass.is_in_time());
        (same && in_time).then(|| last.admitted.clone())
    }

    fn keep(&self, digest: [u8; 32], generation: u64, admitted: &Admitted) {
        *self.0.lock().expect("nothing panics while holding it") =
            Some(Remembered { digest, generation, admitted: admitted.clone() });
    }
}

/// The project that a verified client certificate names; `names` is `None` if it is not valid any more.
///
/// # Errors
/// `caller.forbidden`, with one answer for no project and for several: nobody learns other projects' names.
pub(super) fn by_certificate(
    names: Option<&CallerNames>,
    memo: &Memo,
    registry: &Registry,
) -> Result<Admitted, Failure> {
    // With every request: a connection may outlive the certificate, and what it remembers knows no clock.
    let Some(names) = names.filter(|names| names.is_in_time(clock::now())) else {
        return Err(Failure::new(
            Code::CallerForbidden,
            "the client certificate has expired since it was verified, or its names cannot be read",
        ));
    };
    let generation = registry.token_generation();
    if let Some(admitted) = memo.recall(&[0; 32], generation) {
        return Ok(admitted);
    }
    let mut found: Option<Arc<Project>> = None;
    for project in names.iter().flat_map(|name| registry.called(name)) {
        if found.as_ref().is_some_and(|other| other.id() != project.id()) {
            found = None;
            break;
        }
        found = Some(project);
    }
    let project = found.ok_or_else(|| {
        Failure::new(Code::CallerForbidden, "the client certificate does not name exactly one project")
            .fix("issue it with the URI urn:egret:project:NAME_OR_ID among its subject alternative names")
    })?;
    let admitted = Admitted { project, pass: None };
    memo.keep([0; 32], generation, &admitted);
    Ok(admitted)
}

/// The caller's project by its token.
///
/// # Errors
/// `caller.unauthenticated`, `caller.forbidden`, `limit.authentication`.
pub(super) fn by_token(
    headers: &HeaderMap,
    memo: &Memo,
    registry: &Registry,
    throttle: &Throttle,
    peer: Peer,
) -> Result<Admitted, Failure> {
    let mut values = headers.get_all(PROXY_AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err(unauthenticated("no credential was sent"));
    };
    if values.next().is_some() {
        return Err(Failure::new(Code::RequestMalformed, "the request has several Proxy-Authorization fields"));
    }
    let hash: [u8; 32] =
        digest::digest(&digest::SHA256, value.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes");
    let generation = registry.token_generation();
    if let Some(admitted) = memo.recall(&hash, generation) {
        return Ok(admitted);
    }
    let admitted = Credential::parse(value.as_bytes()).and_then(|credential| credential.admit(registry, generation));
    match admitted {
        Ok(admitted) => {
            memo.keep(hash, generation, &admitted);
            Ok(admitted)
        }
        // A valid token always passes: whoever shares an address with someone who guesses is not locked out by him, and
        // 256-bit tokens are not found by guessing.
        Err(failure) if failure.code == Code::CallerUnauthenticated => {
            let now = Instant::now();
            if !throttle.may_try(peer, now) {
                return Err(Failure::new(
                    Code::LimitAuthentication,
                    "too many failed attempts to authenticate came from this address; wait a second",
                ));
            }
            throttle.failed(peer, now);
            Err(failure)
        }
        Err(failure) => Err(failure),
    }
}

fn unauthenticated(what: &str) -> Failure {
    Failure::new(Code::CallerUnauthenticated, what).fix(
        "send Proxy-Authorization: Bearer TOKEN, or set HTTPS_PROXY=http://PROJECT:TOKEN@HOST:PORT (Basic, with \
         the project as user)",
    )
}

/// A credential as it was sent. Wiped when dropped.
struct Credential {
    /// Id or name; `None` for a bearer token, or an empty user.
    project: Option<String>,
    token: Zeroizing<Vec<u8>>,
}

impl Credential {
    fn parse(value: &[u8]) -> Result<Self, Failure> {
        if value.len() > LONGEST_CREDENTIAL {
            return Err(unauthenticated("the credential is too long to be one"));
        }
        let value = value.trim_ascii();
        let (scheme, rest) = value.split_at(value.iter().position(|b| *b == b' ').unwrap_or(value.len()));
        let rest = rest.trim_ascii();
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return Ok(Self { project: None, token: Zeroizing::new(rest.to_vec()) });
        }
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return Err(unauthenticated("only the schemes Basic and Bearer are understood"));
        }
        let decoded = STANDARD.decode(rest).or_else(|_| STANDARD_NO_PAD.decode(rest));
        let decoded = Zeroizing::new(decoded.map_err(|_| unauthenticated("the Basic credential is not base64"))?);
        let Some(colon) = decoded.iter().position(|b| *b == b':') else {
            return Err(unauthenticated("the Basic credential is not user:password"));
        };
        let user =
            std::str::from_utf8(&decoded[..colon]).map_err(|_| unauthenticated("the user is not valid UTF-8"))?;
        Ok(Self {
            project: (!user.is_empty()).then(|| user.to_owned()),
            token: Zeroizing::new(decoded[colon + 1..].to_vec()),
        })
    }

    /// `generation` was read before anything that this looks at.
    fn admit(&self, registry: &Registry, generation: u64) -> Result<Admitted, Failure> {
        let hash = digest::digest(&digest::SHA256, &self.token);
        let sha256: [u8; 32] = hash.as_ref().try_into().expect("SHA-256 has 32 bytes");
        let token = registry.token_by_digest(&sha256, None);
        let token = token.ok_or_else(|| unauthenticated("the token is not known, or it has expired"))?;
        let pass = Pass { sha256, until: token.expires_at, generation: AtomicU64::new(generation) };
        Ok(Admitted { project: self.project(&token, registry)?, pass: Some(Arc::new(pass)) })
    }

    fn project(&self, token: &Token, registry: &Registry) -> Result<Arc<Project>, Failure> {
        if !token.role.may_proxy() {
            return Err(Failure::new(Code::CallerForbidden, "the token's role does not allow requests"));
        }
        match &self.project {
            // One answer for what does not exist and what is out of reach: nobody learns other projects' names.
            Some(name) => reached(token, registry.find(name, None, None)).ok_or_else(|| {
                Failure::new(Code::CallerForbidden, "the token does not reach the project that the user name says")
                    .fix("use a token that reaches it, or another project as user")
            }),
            None => implied(token, registry),
        }
    }
}

/// A bearer token's project: its only one, else `default`.
fn implied(token: &Token, registry: &Registry) -> Result<Arc<Project>, Failure> {
    let only = match &token.scope {
        TokenScope::Projects(list) if list.len() == 1 => list[0].as_str(),
        _ => DEFAULT_PROJECT,
    };
    reached(token, registry.find(only, None, None)).ok_or_else(|| {
        Failure::new(Code::CallerForbidden, "the token does not say which project it speaks for")
            .fix("use Basic with the project as user and the token as password (http://PROJECT:TOKEN@HOST:PORT)")
    })
}

fn reached(token: &Token, project: Option<Arc<Project>>) -> Option<Arc<Project>> {
    project.filter(|p| {
        let snapshot = p.load();
        token.reaches(p.id(), &snapshot.info().name)
    })
}

/// Counts failed attempts per source, so that tokens cannot be guessed at speed.
#[derive(Default)]
pub(super) struct Throttle(Mutex<HashMap<Peer, (Instant, u32)>>);

impl Throttle {
    /// Failed attempts that a source has per [`Throttle::WINDOW`].
    const ALLOWED: u32 = 10;
    const WINDOW: Duration = Duration::from_secs(1);
    /// Sources remembered at once.
    const SOURCES: usize = 4096;

    fn may_try(&self, peer: Peer, now: Instant) -> bool {
        let sources = self.0.lock().expect("nothing panics while holding it");
        sources
            .get(&source(peer))
            .is_none_or(|(since, count)| now.duration_since(*since) >= Self::WINDOW || *count < Self::ALLOWED)
    }

    fn failed(&self, peer: Peer, now: Instant) {
        let mut sources = self.0.lock().expect("nothing panics while holding it");
        if sources.len() >= Self::SOURCES {
            sources.retain(|_, (since, _)| now.duration_since(*since) < Self::WINDOW);
            // Still full: a flood from very many sources. Forgetting all is better than growing, and than
            // locking out everyone.
            if sources.len() >= Self::SOURCES {
                sources.clear();
            }
        }
        let entry = sources.entry(source(peer)).or_insert((now, 0));
        if now.duration_since(entry.0) >= Self::WINDOW {
            *entry = (now, 0);
        }
        entry.1 += 1;
    }
}

/// One customer has a whole /64 of IPv6, so that is one source; on a Unix socket each user is one.
fn source(peer: Peer) -> Peer {
    match peer {
        Peer::Ip(IpAddr::V6(a)) => {
            let [b0, b1, b2, b3, ..] = a.segments();
            Peer::Ip(IpAddr::V6(Ipv6Addr::new(b0, b1, b2, b3, 0, 0, 0, 0)))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests;
