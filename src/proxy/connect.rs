//! Front end: CONNECT (RFC 9110 section 9.3.6, RFC 9113 section 8.5), the table of product.md section 3.
//!
//! Judged before the 200: the caller, the form of the target, the policy on its name, and, for what will be a
//! blind tunnel in any case, whether it can be reached. After the 200 the first bytes decide. Bytes that came
//! behind the request's head are held until then, and dropped with the connection after a refusal. On HTTP/2 that is
//! the stream: the connection, and what else runs on it, goes on.

mod first;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use dashmap::DashMap;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response, Uri, Version};
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::TokioIo;
use moka::Expiry;
use moka::sync::Cache;

use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use self::first::{First, Speaker, peek, who_speaks};
use super::explicit::malformed;
use super::headers::only_host;
use super::intercept::{self, Inside};
use super::listener::{Client, Refused};
use super::serve::{self, Busy};
use super::tunnel;
use super::{Inbound, target, tunnel_opened};
use crate::config::{Intercept, LiveLimits};
use crate::domain::{Code, HTTP_PORT, HTTPS_PORT, HttpTarget, Origin, ProjectId, Rule};
use crate::identity::Asked;
use crate::net::{Guarded, Held, Io, Meter, Stream};
use crate::registry::{Selection, Snapshot, Target};
use crate::upstream::{Destination, Failure, ReplyBody, RequestBody};

/// What was found out of an origin: its CertificateRequest, or that none came. `None` = it could not be found out.
type Learned = Option<Option<Arc<Asked>>>;

/// What *ask first* learned, per project, host and port; bounded in number and time.
pub(super) struct AskedBefore {
    known: Cache<(ProjectId, Origin), Option<Arc<Asked>>>,
    /// Questions under way, at most one per key: whoever comes meanwhile waits for its answer. No more of them than
    /// client connections.
    running: DashMap<(ProjectId, Origin), Arc<OnceCell<Learned>>>,
}

impl AskedBefore {
    pub(super) fn new(limits: LiveLimits) -> Self {
        let most = limits.max_asked() as u64;
        Self {
            known: Cache::builder().max_capacity(most).expire_after(Believed(limits)).build(),
            running: DashMap::new(),
        }
    }

    /// What is known of this origin. `Some(None)` = it did not ask.
    pub(super) fn get(&self, project: &ProjectId, origin: &Origin) -> Option<Option<Arc<Asked>>> {
        self.known.get(&(project.clone(), origin.clone()))
    }

    /// What is known, else what `question` finds out; an answer that could not be had is not remembered.
    async fn learn(&self, project: &ProjectId, origin: &Origin, question: impl Future<Output = Learned>) -> Learned {
        let key = (project.clone(), origin.clone());
        if let Some(known) = self.known.get(&key) {
            return Some(known);
        }
        let cell = self.running.entry(key.clone()).or_default().value().clone();
        let asking = Asking { running: &self.running, key, cell: Some(cell) };
        // If the one who asks goes away, one of those who wait takes over.
        let cell = asking.cell.as_deref().expect("taken only by the drop");
        let learned = cell.get_or_init(|| question).await.clone();
        if let Some(asked) = &learned {
            self.known.insert(asking.key.clone(), asked.clone());
        }
        learned
    }
}

/// How long an answer is believed.
struct Believed(LiveLimits);

impl Expiry<(ProjectId, Origin), Option<Arc<Asked>>> for Believed {
    fn expire_after_create(
        &self,
        _: &(ProjectId, Origin),
        _: &Option<Arc<Asked>>,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(self.0.asked_ttl())
    }
}

/// A question under way; the last who lets go of it, or the first who has the answer, takes it off the list.
struct Asking<'a> {
    running: &'a DashMap<(ProjectId, Origin), Arc<OnceCell<Learned>>>,
    key: (ProjectId, Origin),
    /// Until dropped.
    cell: Option<Arc<OnceCell<Learned>>>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        // Let go of under the list's lock, where nobody joins: of several who go at once, one sees that it is the last.
        let Self { running, key, cell } = self;
        running.remove_if(key, |_, listed| {
            let mine = cell.take().is_some_and(|cell| Arc::ptr_eq(listed, &cell));
            mine && (listed.initialized() || Arc::strong_count(listed) == 1)
        });
    }
}

/// What is to become of a CONNECT, as far as it is known before its first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// TLS is intercepted if `tls`; plain HTTP is served if there is a destination for it; all else is tunnelled.
    Intercept { tls: bool, plain: Option<Destination> },
    /// Only the project default applies: before TLS is intercepted, the origin is asked whether it wants a certificate
    /// at all. Plain HTTP as above.
    Ask { plain: Option<Destination> },
    /// Bytes only, and why.
    Tunnel(&'static str),
}

/// Answers a CONNECT.
pub(super) async fn answer(client: Arc<Client>, mut request: Request<RequestBody>) -> Response<ReplyBody> {
    let started = Instant::now();
    let version = request.version();
    let refuse = |failure: &Failure, origin: Option<&Origin>, inbound: Option<&Inbound>| {
        let origin = origin.map(|o| format!("{}:{}", o.host(), o.port()));
        let refused = Refused { way: "connect", method: "CONNECT", origin: origin.as_deref(), inbound };
        let mut response = client.refuse(failure, refused);
        if version != Version::HTTP_2 {
            // What follows may be meant for the tunnel that there is not.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    };
    if let Err(failure) = client.check_target(&request) {
        return refuse(&failure, None, None);
    }
    let inbound = match client.inbound(&request) {
        Ok(inbound) => inbound.into_owned(),
        Err(failure) => return refuse(&failure, None, None),
    };
    let origin = match target(&request) {
        Ok(origin) => origin,
        Err(failure) => return refuse(&failure, None, Some(&inbound)),
    };
    if let Err(denied) = client.proxy.policy.judge_origin(origin.host(), origin.port(), true) {
        return refuse(&Failure::new(denied.code, denied.why), Some(&origin), Some(&inbound));
    }
    let plan = {
        let snapshot = inbound.project.load();
        if snapshot.is_removed() {
            let failure = Failure::new(Code::CallerForbidden, "the project was removed");
            return refuse(&failure, Some(&origin), Some(&inbound));
        }
        let before = || client.proxy.asked.get(inbound.project.id(), &origin);
        plan(client.entry.intercept, &snapshot, &origin, before)
    };
    // A tunnel that cannot be dialled is refused in the open; afterwards nobody could be told.
    let dialled = match &plan {
        Plan::Tunnel(_) => {
            match client.proxy.upstreams.dial(inbound.project.id(), origin.host(), origin.port()).await {
                Ok(upstream) => Some((upstream, started.elapsed())),
                Err(failure) => return refuse(&failure, Some(&origin), Some(&inbound)),
            }
        }
        Plan::Intercept { .. } | Plan::Ask { .. } => None,
    };
    let busy = request.extensions_mut().remove::<Busy>();
    let opened = Opened { upgrade: hyper::upgrade::on(&mut request), busy, inbound, origin, plan, dialled, started };
    let tasks = client.proxy.tasks.clone();
    tasks.spawn(opened.run(client));
    tunnel_opened()
}

/// The strict authority form: `host:port`, nothing else; and a head that frames no body.
fn target<B>(request: &Request<B>) -> Result<Origin, Failure> {
    let headers = request.headers();
    if headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING) {
        return Err(Failure::new(
            Code::RequestMalformed,
            "CONNECT has no body; remove Content-Length and Transfer-Encoding",
        ));
    }
    if target::protocol(request).is_some() {
        return Err(Failure::new(
            Code::RequestMalformed,
            "extended CONNECT (RFC 8441) is for the origin: send it inside a tunnel to it, or to a sidecar",
        ));
    }
    if request.version() == Version::HTTP_2 {
        target::authority(request)?;
    } else {
        // The authority is in the target, so a missing Host says nothing else; several contradict.
        only_host(headers)?;
    }
    authority(request.uri())
}

fn authority(uri: &Uri) -> Result<Origin, Failure> {
    let bare = uri.scheme().is_none() && uri.path_and_query().is_none_or(|p| p.as_str().is_empty());
    let Some(authority) = uri.authority().filter(|a| bare && a.port().is_some()) else {
        return Err(Failure::new(Code::RequestMalformed, "the target of CONNECT is host:port, both written out"));
    };
    Origin::from_authority(authority.as_str(), HTTPS_PORT).map_err(|e| malformed(&e))
}

/// The table of product.md section 3. `before` = what is known of the origin.
pub(super) fn plan(
    intercept: Intercept,
    snapshot: &Snapshot,
    origin: &Origin,
    before: impl FnOnce() -> Option<Option<Arc<Asked>>>,
) -> Plan {
    if intercept == Intercept::Never {
        return Plan::Tunnel("interception is off at this listener");
    }
    let selection = snapshot.select(origin);
    let lifted = lifted(origin);
    let lift = snapshot.lifts(&lifted).then_some(Destination::Tls(lifted));
    let or_tunnel = |plain: Option<Destination>, why| match plain {
        Some(_) => Plan::Intercept { tls: false, plain },
        None => Plan::Tunnel(why),
    };
    if selection.rule == Rule::None {
        // Another port may be bound all the same, and plain HTTP is lifted to it, as in absolute form.
        return or_tunnel(lift, "a binding says that nothing is presented to this origin");
    }
    if intercept == Intercept::Always {
        return Plan::Intercept { tls: true, plain: lift.or_else(|| plain(origin).map(Destination::Plain)) };
    }
    if is_chosen(&selection) {
        return Plan::Intercept { tls: true, plain: lift };
    }
    match selection.rule {
        Rule::Default => match before() {
            None => Plan::Ask { plain: lift },
            Some(asked) if is_wanted(&selection, asked.as_deref()) => Plan::Intercept { tls: true, plain: lift },
            Some(asked) => or_tunnel(lift, why_not(asked.as_deref())),
        },
        Rule::Exact | Rule::Wildcard | Rule::None | Rule::Nothing => {
            or_tunnel(lift, "no identity applies to this origin")
        }
    }
}

/// Whether an exact or wildcard binding other than *none* chose.
fn is_chosen(selection: &Selection) -> bool {
    matches!(selection.rule, Rule::Exact | Rule::Wildcard)
        && selection.binding.as_ref().is_some_and(|b| !matches!(b.target, Target::None))
}

/// Whether the project default would be shown to an origin that asked so; then its tunnel is intercepted. An
/// identity that cannot be loaded counts, so that the failure can be told.
pub(super) fn is_wanted(selection: &Selection, asked: Option<&Asked>) -> bool {
    let Some(asked) = asked else { return false };
    match selection.tls.identity() {
        // Of very many CA names only the first were kept; then the handshake itself decides.
        Some(identity) => {
            asked.ca_count > asked.cas.len()
                || selection.tls.show().allows(identity, asked.cas.iter().map(Vec::as_slice))
        }
        None => selection.binding.as_ref().is_some_and(|b| matches!(b.target, Target::Unavailable(_))),
    }
}

fn why_not(asked: Option<&Asked>) -> &'static str {
    match asked {
        Some(_) => "the origin asks for a certificate, and the scope of the project default withholds it",
        None => "the origin does not ask for a certificate",
    }
}

/// Where plain HTTP to this authority is lifted to.
fn lifted(origin: &Origin) -> Origin {
    let port = if origin.port() == HTTP_PORT { HTTPS_PORT } else { origin.port() };
    Origin::new(origin.host().clone(), port)
}

fn plain(origin: &Origin) -> Option<HttpTarget> {
    HttpTarget::from_authority(&format!("{}:{}", origin.host(), origin.port())).ok()
}

/// A CONNECT that was answered with 200.
struct Opened {
    upgrade: OnUpgrade,
    /// On HTTP/2: its stream.
    busy: Option<Busy>,
    inbound: Inbound,
    origin: Origin,
    plan: Plan,
    /// The upstream of a tunnel that was certain from the start, and how long it took.
    dialled: Option<(Stream, Duration)>,
    started: Instant,
}

type ClientIo = Held<Io<Stream>>;

/// What the first bytes led to.
enum Next {
    Inside(Box<Inside>, ClientIo),
    Tunnel {
        io: ClientIo,
        upstream: Stream,
        busy: Option<Busy>,
        connect: Duration,
        why: &'static str,
    },
    /// The client has gone, or what failed has been logged.
    End,
}

impl Opened {
    /// Deciding is boxed, so that its space is free again while the tunnel runs.
    /// Belongs to the proxy's tasks; what runs long (tunnel, inner connection) ends by itself when it is cut.
    async fn run(self, client: Arc<Client>) {
        let Self { inbound, origin, started, .. } = &self;
        let (inbound, origin, started) = (inbound.clone(), origin.clone(), *started);
        let next = tokio::select! {
            next = Box::pin(self.decide(&client)) => next,
            () = client.proxy.serving.abort.cancelled() => Next::End,
        };
        match next {
            Next::Inside(inside, io) => intercept::serve(client, *inside, io).await,
            Next::Tunnel { io, upstream, busy, connect, why } => {
                let facts = tunnel::Facts { inbound: &inbound, origin: &origin, started, connect, why };
                tunnel::run(&client, io, upstream, busy, facts).await;
            }
            Next::End => {}
        }
    }

    async fn decide(self, client: &Arc<Client>) -> Next {
        let Self { upgrade, busy, inbound, origin, plan, dialled, started } = self;
        let Ok(upgraded) = upgrade.await else { return Next::End };
        let (mut io, mut held) = match upgraded.downcast::<TokioIo<Guarded<Io<Stream>>>>() {
            Ok(Parts { io, read_buf, .. }) => (io.into_inner().into_inner(), BytesMut::from(read_buf)),
            // Not a connection, but a stream of one that others share: it has bytes and idle times of its own.
            Err(upgraded) => (Io::new(serve::carried(upgraded, busy.clone()), Meter::new()), BytesMut::new()),
        };
        if let (Some((upstream, connect)), Plan::Tunnel(why)) = (dialled, &plan) {
            return Next::Tunnel { io: Held::new(held.freeze(), io), upstream, busy, connect, why };
        }
        let mut first = peek(&mut io, &mut held).await;
        let mut reached = None;
        if first == First::Silent && held.is_empty() {
            // Perhaps the server speaks first, perhaps the client only is slow: whoever speaks first decides.
            let began = Instant::now();
            let mut dialled = reach(client, &inbound, &origin).await;
            let mut ahead = BytesMut::new();
            let limit = client.proxy.serving.limits.tunnel_idle_timeout();
            match timeout(limit, who_speaks(&mut io, &mut held, dialled.as_mut().ok(), &mut ahead)).await {
                Ok(Speaker::Client) => first = peek(&mut io, &mut held).await,
                Ok(Speaker::Server) => {}
                Err(_) => return Next::End,
            }
            let upstream = dialled.map(|upstream| match ahead.is_empty() {
                true => upstream,
                false => Stream::boxed(Held::new(ahead.freeze(), upstream)),
            });
            reached = Some((upstream, began.elapsed()));
        }
        if first == First::Closed {
            return Next::End;
        }
        let io = Held::new(held.freeze(), io);
        let inside = |destination, secure| Inside::new(inbound.clone(), origin.clone(), destination, secure);
        let why = match (plan, first) {
            (Plan::Intercept { tls: true, .. }, First::Tls) => {
                return Next::Inside(Box::new(inside(Destination::Tls(origin.clone()), true)), io);
            }
            (
                Plan::Intercept { plain: Some(destination), .. } | Plan::Ask { plain: Some(destination) },
                First::Http,
            ) => {
                return Next::Inside(Box::new(inside(destination, false)), io);
            }
            (Plan::Ask { .. }, First::Tls) => match ask(client, &inbound, &origin).await {
                Ok(()) => return Next::Inside(Box::new(inside(Destination::Tls(origin.clone()), true)), io),
                Err(why) => why,
            },
            (_, First::Silent) => "the client waits for the server to speak first",
            (_, First::Tls) => "no identity is shown to this origin; only plain HTTP to it would be lifted",
            (_, First::Http) => "plain HTTP in a tunnel, and nothing lifts it",
            (_, First::Other | First::Closed) => "neither TLS nor HTTP",
        };
        if inbound.project.load().is_removed() || client.admits(&inbound).is_err() {
            // Removed, or the token revoked, since the CONNECT was judged: a silent client may have waited long.
            return Next::End;
        }
        let (upstream, connect) = match reached {
            Some(reached) => reached,
            None => {
                let began = Instant::now();
                (reach(client, &inbound, &origin).await, began.elapsed())
            }
        };
        match upstream {
            Ok(upstream) => Next::Tunnel { io, upstream, busy, connect, why },
            Err(failure) => {
                let facts = tunnel::Facts { inbound: &inbound, origin: &origin, started, connect, why };
                tunnel::failed(client, &failure, facts);
                Next::End
            }
        }
    }
}

async fn reach(client: &Client, inbound: &Inbound, origin: &Origin) -> Result<Stream, Failure> {
    client.proxy.upstreams.dial(inbound.project.id(), origin.host(), origin.port()).await
}

/// *Ask first*: whether the origin wants a certificate that we would show. An error says why not.
async fn ask(client: &Client, inbound: &Inbound, origin: &Origin) -> Result<(), &'static str> {
    let proxy = &client.proxy;
    let anonymous = inbound.project.load().anonymous().clone();
    let question = async {
        match proxy.upstreams.ask(inbound.project.id(), &anonymous, origin).await {
            Ok(asked) => Some(asked.map(Arc::new)),
            Err(failure) => {
                tracing::debug!(code = failure.code.as_str(), %origin, "asking first failed");
                None
            }
        }
    };
    let Some(asked) = proxy.asked.learn(inbound.project.id(), origin, question).await else {
        return Err("whether the origin asks for a certificate could not be found out");
    };
    // Selected now, not before the question: the identity may have been replaced meanwhile.
    let selection = inbound.project.load().select(origin);
    if is_chosen(&selection) || (selection.rule == Rule::Default && is_wanted(&selection, asked.as_deref())) {
        return Ok(());
    }
    Err(why_not(asked.as_deref()))
}

#[cfg(test)]
mod tests;
