//! `/v1/events`: what happens, as server-sent events (WHATWG HTML section 9.2), filtered by what the token reaches.
//!
//! What must stay true:
//! - whoever listens slows nobody: nothing is queued for a listener but what the feed keeps for all, and who falls
//!   behind is told how much was missed;
//! - a listener is let go of when its token ends, and when egret does;
//! - an id is good for this start of egret alone, and says so: `<start>-<n>`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};

use super::Management;
use super::auth::Caller;
use super::problem::{ErrorBody, Problem};
use super::request::Query;
use crate::domain::time::{now, rfc3339};
use crate::net::Permit;
use crate::observe::{Event, Followed};

const LAST_EVENT_ID: &str = "last-event-id";
pub(super) const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
/// How often a listener's token is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A comment is sent after this long without an event, so that proxies and listeners know that all is well.
const QUIET: Duration = Duration::from_secs(15);

/// Of either number in an id.
const MAX_DIGITS: usize = 18;

/// Where `serve` leaves the word that the server ends.
#[derive(Clone, Default)]
pub(super) struct Ending(pub(super) CancellationToken);

/// `data` of an event.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Event)]
pub(super) struct Told {
    /// `<start>-<n>`: which start of egret, and which of its events.
    #[schema(pattern = "^[0-9]{1,18}-[0-9]{1,18}$")]
    id: String,
    /// When.
    #[schema(format = DateTime)]
    at: String,
    /// What happened, as `event` says it: `certificate.expiring`, `config.reloaded`, …
    #[serde(rename = "type")]
    kind: &'static str,
    /// Id of the project whose certificate it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    project: Option<String>,
    /// Id of that certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    certificate: Option<String>,
    /// Where it is presented (`*`: project-wide), or who saw it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    origins: Vec<String>,
    /// Whole days that it has left, where it expires; negative afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    days_left: Option<i64>,
    /// The command, or the act, that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    remedy: Option<String>,
    /// A sentence for people.
    message: String,
}

/// One event of the stream.
#[derive(ToSchema)]
#[schema(as = StreamedEvent)]
#[expect(dead_code, reason = "documentation; `written` and its like write the text")]
pub(super) struct Streamed {
    /// That of an `Event`; `missed` and `end` have none.
    #[schema(nullable = false, pattern = "^[0-9]+-[0-9]+$")]
    id: Option<String>,
    /// The type of the event: `certificate.expiring`, `config.reloaded`, …, `missed`, `end`.
    #[schema(pattern = "^[a-z_]+([.][a-z_]+)?$")]
    event: String,
    /// JSON: an `Event`; of `missed` its `count`, of `end` the `reason`.
    data: String,
}

/// Whence, and how long.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documentation; handlers read `request::Query`")]
pub(super) struct EventsQuery {
    /// The id of the last event that is known, as `Last-Event-ID` says it too (which goes first), or a time (RFC 3339):
    /// what came later is sent. Left out: all that is kept
    #[param(nullable = false, pattern = "^([0-9]{1,18}-[0-9]{1,18}|[0-9]{4}-[0-9]{2}-[0-9]{2}T.+)$")]
    since: Option<String>,
    /// `false`: what is kept is sent, and nothing waited for
    #[param(nullable = false, pattern = "^(true|false)$")]
    wait: Option<String>,
}

/// What happens, as it happens
///
/// Server-sent events: uploads, deletes, certificates that expire, reloads. Each has an id, a type (`event`) and `data`
/// of one JSON object (`Event`). An event of type `missed` says in its `data` how many were missed (`null`: since another
/// start of egret, nobody knows), one of type `end` why the stream ends. A token limited to projects hears of these
/// alone. The last `limits.max_events` are kept.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "getEvents", tag = "egret", params(EventsQuery),
    responses(
        (status = 200, description = "The events, until the token or egret ends.", content(
            (Streamed = "text/event-stream", example = "id: 1764331200000-7\nevent: config.reloaded\ndata: {\"id\":\"1764331200000-7\",\"at\":\"2026-11-28T12:00:00Z\",\"type\":\"config.reloaded\",\"message\":\"the configuration was read again\"}\n\n"),
        )),
        (status = 503, description = "`limits.max_event_listeners` listen already.", body = ErrorBody),
    )
)]
pub(super) async fn events(
    State(management): State<Arc<Management>>,
    caller: Caller,
    query: Query,
    headers: HeaderMap,
    ending: Option<Extension<Ending>>,
) -> Result<Response, Problem> {
    let wait = query.wait()?;
    let since = match headers.get(LAST_EVENT_ID) {
        // What EventSource sends that was told no id yet.
        Some(id) if id.is_empty() => Ok(Since::Ever),
        Some(id) => Since::parse(id.to_str().unwrap_or("?")),
        None => query.since.as_deref().map_or(Ok(Since::Ever), Since::parse),
    }?;
    let place = match wait {
        true => Some(Place::take(&management)?),
        false => None,
    };
    let ending = ending.map(|Extension(ending)| ending.0).unwrap_or_default();
    let listener = Listener::new(management, caller, &since, place, ending);
    let body = Body::from_stream(futures_util::stream::unfold(listener, |mut listener| async move {
        let bytes = listener.next().await?;
        Some((Ok::<_, Infallible>(bytes), listener))
    }));
    Ok(([(CONTENT_TYPE, EVENT_STREAM)], body).into_response())
}

/// What a listener knows already.
#[derive(Debug, PartialEq, Eq)]
enum Since {
    Ever,
    Event { start: u64, id: u64 },
    Time(OffsetDateTime),
}

impl Since {
    fn parse(text: &str) -> Result<Self, Problem> {
        let is_number = |text: &str| text.len() <= MAX_DIGITS && text.bytes().all(|b| b.is_ascii_digit());
        let number = |text: &str| text.parse().ok().filter(|_: &u64| is_number(text));
        if let Some((start, id)) = text.split_once('-')
            && let (Some(start), Some(id)) = (number(start), number(id))
        {
            return Ok(Self::Event { start, id });
        }
        OffsetDateTime::parse(text, &Rfc3339).map(Self::Time).map_err(|_| {
            Problem::bad_request("since, or Last-Event-ID: give the id of an event, or a time as 2026-11-28T12:00:00Z")
        })
    }
}

/// One of `limits.max_event_listeners`; given back when dropped.
struct Place {
    management: Arc<Management>,
    _permit: Permit,
}

impl Place {
    fn take(management: &Arc<Management>) -> Result<Self, Problem> {
        management.listeners.resize(management.limits.max_event_listeners());
        let Some(permit) = management.listeners.try_take() else {
            management.metrics.event_listeners_full.add();
            let what = "as many listen to the events as limits.max_event_listeners allows; end one, or raise the limit";
            return Err(Problem::unavailable(what));
        };
        management.metrics.event_listeners.add();
        Ok(Self { management: management.clone(), _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.management.metrics.event_listeners.sub();
    }
}

/// Someone who listens.
struct Listener {
    management: Arc<Management>,
    caller: Caller,
    /// The caller's token is as it was when this was the generation of tokens.
    generation: u64,
    /// `None`: who does not wait.
    place: Option<Place>,
    /// What is kept, and not sent yet.
    before: VecDeque<Arc<Event>>,
    /// Written already, to be sent first.
    first: Option<Bytes>,
    feed: Receiver<Arc<Event>>,
    ending: CancellationToken,
    quiet_since: Instant,
    ended: bool,
}

/// What comes next to a listener.
enum Next {
    Event(Arc<Event>),
    Missed(u64),
    /// Nothing came; whether all is well is to be looked at.
    Silence,
    End(&'static str),
}

impl Listener {
    fn new(
        management: Arc<Management>,
        caller: Caller,
        since: &Since,
        place: Option<Place>,
        ending: CancellationToken,
    ) -> Self {
        let events = management.control.events().clone();
        let all = || {
            let (before, feed) = events.follow(0);
            Followed { before, missed: 0, feed }
        };
        let (followed, first) = match *since {
            Since::Ever => (all(), None),
            Since::Time(at) => {
                let mut followed = all();
                followed.before.retain(|event| event.at > at);
                (followed, None)
            }
            Since::Event { start, id } => match events.resume(start, id) {
                Some(followed) if followed.missed == 0 => (followed, None),
                Some(followed) => {
                    let missed = missed(Some(followed.missed));
                    add(&management, followed.missed);
                    (followed, Some(missed))
                }
                // It comes from another start of egret.
                None => (all(), Some(missed(None))),
            },
        };
        Self {
            generation: management.registry.token_generation(),
            management,
            caller,
            place,
            before: followed.before.into(),
            // Something at once, so that whoever waits knows that it listens.
            first: Some(first.unwrap_or_else(|| Bytes::from_static(b": egret\n\n"))),
            feed: followed.feed,
            ending,
            quiet_since: Instant::now(),
            ended: false,
        }
    }

    /// What is to be sent next; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            let next = self.await_next().await?;
            // Before anything is told: whoever revoked the token was promised that.
            let next = if self.may_listen() { next } else { Next::End("the token was revoked, or has expired") };
            let bytes = match next {
                Next::Event(event) => match self.reaches(&event) {
                    true => written(self.management.control.events().start(), &event),
                    false => continue,
                },
                Next::Missed(count) => {
                    add(&self.management, count);
                    missed(Some(count))
                }
                Next::Silence if self.quiet_since.elapsed() < self.patience() => continue,
                Next::Silence => Bytes::from_static(b": all is well\n\n"),
                Next::End(why) => {
                    self.ended = true;
                    let why = serde_json::json!({ "reason": why });
                    Bytes::from(format!("event: end\ndata: {why}\n\n"))
                }
            };
            self.quiet_since = Instant::now();
            return Some(bytes);
        }
    }

    /// `None`: there is nothing more, and nobody waits.
    async fn await_next(&mut self) -> Option<Next> {
        if let Some(event) = self.before.pop_front() {
            return Some(Next::Event(event));
        }
        if self.place.is_none() {
            return match self.feed.try_recv() {
                Ok(event) => Some(Next::Event(event)),
                Err(TryRecvError::Lagged(count)) => Some(Next::Missed(count)),
                Err(TryRecvError::Empty | TryRecvError::Closed) => None,
            };
        }
        Some(tokio::select! {
            () = self.ending.cancelled() => Next::End("egret ends"),
            heard = self.feed.recv() => match heard {
                Ok(event) => Next::Event(event),
                Err(RecvError::Lagged(count)) => Next::Missed(count),
                Err(RecvError::Closed) => Next::End("egret ends"),
            },
            () = tokio::time::sleep(LOOK) => Next::Silence,
        })
    }

    /// Comments come well before the server takes a silent connection for dead.
    fn patience(&self) -> Duration {
        QUIET.min(self.management.limits.keep_alive_timeout() / 3)
    }

    fn may_listen(&mut self) -> bool {
        let generation = self.management.registry.token_generation();
        if generation != self.generation {
            let Some(caller) = self.caller.renewed(&self.management.registry) else { return false };
            (self.caller, self.generation) = (caller, generation);
        }
        let token = self.caller.token();
        token.expires_at.is_none() || !token.is_expired(now())
    }

    fn reaches(&self, event: &Event) -> bool {
        let Some(id) = &event.project else { return self.caller.is_unlimited() };
        match self.management.registry.project(id) {
            Some(project) => self.caller.reaches(id, &project.load().info().name),
            // It was deleted meanwhile; its name may be another's by now.
            None => self.caller.reaches(id, id.as_str()),
        }
    }
}

fn add(management: &Management, count: u64) {
    (0..count).for_each(|_| management.metrics.events_missed.add());
}

fn missed(count: Option<u64>) -> Bytes {
    Bytes::from(format!("event: missed\ndata: {}\n\n", serde_json::json!({ "count": count })))
}

/// JSON has no line end outside of strings, and escapes those within: `data` is one line.
fn written(start: u64, event: &Event) -> Bytes {
    let id = format!("{start}-{}", event.id);
    let kind = event.kind.as_str();
    let told = Told {
        id: id.clone(),
        at: rfc3339(event.at),
        kind,
        project: event.project.as_ref().map(ToString::to_string),
        certificate: event.certificate.as_ref().map(ToString::to_string),
        origins: match event.origins.is_empty() {
            true => event.origin.iter().cloned().collect(),
            false => event.origins.clone(),
        },
        days_left: event.days_left,
        remedy: event.remedy.clone(),
        message: event.message.clone(),
    };
    let data = serde_json::to_string(&told).expect("texts and numbers are JSON");
    Bytes::from(format!("id: {id}\nevent: {kind}\ndata: {data}\n\n"))
}
