//! THE WAIST: every front end ends here. (project, destination, request) in, response out.
//!
//! The order of the steps is the promise of the product: policy on the name, then the snapshot, then
//! the selection, then the identity's validity, and only then the pool. A request whose identity was
//! retired between selection and checkout is selected again.

mod fall_back;
mod remedy;
mod voucher;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::time::Instant;

use remedy::allowing_tls12;
pub(super) use remedy::name_project;

use super::caller::Pass;
use super::error;
use super::headers::{self, Via};
use super::target::origin_form;
use super::websocket::{Ask, Bridges};
use crate::config::LiveLimits;
use crate::domain::{self, CertificateInfo, Code, OnExpiry, Origin, Pattern, Peer, Rule, Validity};
use crate::identity::{Presented, UpstreamTls};
use crate::observe::{AccessLog, Exchange, Metrics, RequestId};
use crate::policy::EgressPolicy;
use crate::registry::{Accounts, Binding, FallBack, Previous, Project, Selection, Target, UNREADABLE_ID};
use crate::upstream::{
    Destination, Ended, Failure, Lease, Refusal, Reply, ReplyBody, RequestBody, Spared, Upload, Upstreams, is_grpc,
};

/// How often the same object may be selected although it was retired. A retirement is published first, so this is never
/// needed; it keeps a mistake there from becoming an endless loop here.
const MAX_STALE_SELECTIONS: u32 = 8;

/// Which front end a request came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Absolute form, `https://`.
    Absolute,
    /// Absolute form, `http://`, or plain http in a tunnel: lifted to TLS by a binding.
    Lifted,
    /// Absolute form, plain http.
    Plain,
    /// Inside an intercepted tunnel.
    Intercepted,
    /// A sidecar listener.
    Sidecar,
}

impl Way {
    /// The word of the access log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absolute => "absolute",
            Self::Lifted => "lifted",
            Self::Plain => "plain",
            Self::Intercepted => "intercepted",
            Self::Sidecar => "sidecar",
        }
    }
}

/// Who sends a request, and how it came.
#[derive(Clone)]
pub struct Inbound {
    /// The caller's project.
    pub project: Arc<Project>,
    /// The listener's name.
    pub listener: Arc<str>,
    /// How it came.
    pub way: Way,
    /// The client.
    pub peer: Peer,
    /// An authenticated or local caller: problem bodies carry facts.
    pub trusted: bool,
    /// Where a token named the project: what says that it still does.
    pub pass: Option<Arc<Pass>>,
}

/// See [`Forwarder::select`].
type Selected = (Arc<UpstreamTls>, Option<Arc<Binding>>);

/// The waist.
pub struct Forwarder {
    upstreams: Arc<Upstreams>,
    policy: Arc<EgressPolicy>,
    metrics: Arc<Metrics>,
    access: Arc<AccessLog>,
    via: Via,
    limits: LiveLimits,
    /// Set once, by the proxy that it belongs to.
    bridges: OnceLock<Bridges>,
    /// Who puts back in force what was there before a promotion.
    fall_back: OnceLock<Arc<dyn FallBack>>,
    /// Whose CA bundles could vouch for servers.
    accounts: OnceLock<Arc<Accounts>>,
}

impl Forwarder {
    /// A waist over these.
    #[must_use]
    pub fn new(
        upstreams: Arc<Upstreams>,
        policy: Arc<EgressPolicy>,
        metrics: Arc<Metrics>,
        access: Arc<AccessLog>,
        via: Via,
        limits: LiveLimits,
    ) -> Self {
        let (bridges, fall_back, accounts) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { upstreams, policy, metrics, access, via, limits, bridges, fall_back, accounts }
    }

    /// Says who owns the connections that become WebSockets. Without it none does.
    pub(super) fn own_bridges(&self, bridges: Bridges) {
        let _ = self.bridges.set(bridges);
    }

    /// The access log, also for what does not reach the waist.
    #[must_use]
    pub fn access(&self) -> &AccessLog {
        &self.access
    }

    /// Sends a request to its destination and gives back whatever the client is to see: the origin's
    /// answer, or egret's own with code, `Proxy-Status` and problem body. Policy on the name, selection,
    /// header rules, loop detection and the access-log line all happen here. The request's URI may be in
    /// absolute form; its Host header is replaced by the destination's authority.
    pub async fn forward(
        &self,
        inbound: &Inbound,
        to: Destination,
        mut request: Request<RequestBody>,
    ) -> Response<ReplyBody> {
        let mut record = Record::begin(inbound, &to, &request);
        record.parent = self.upstreams.parent(&to);
        let ask = if self.bridges.get().is_some() { Ask::take(&mut request) } else { None };
        let outcome = match self.attempt(inbound, &to, request, ask.as_ref(), &mut record).await {
            Ok(reply) => self.answer(inbound, &to, reply, ask, record).map_err(|(f, record)| (f, *record)),
            Err(failure) => Err((failure, record)),
        };
        match outcome {
            Ok(response) => response,
            Err((mut failure, record)) => {
                if failure.code == Code::MtlsRequiredNoneRegistered && is_withheld_by_scope(inbound, &to) {
                    failure = withheld(failure, &to);
                }
                if failure.facts.tls13_only {
                    failure.fix = allowing_tls12(inbound, &to);
                }
                name_project(&mut failure, &inbound.project.load().info().name);
                self.name_voucher(inbound, &to, &mut failure);
                failure.facts.origin.get_or_insert_with(|| to.to_string());
                failure.facts.rule = failure.facts.rule.or(record.rule);
                failure.facts.parent = failure.facts.parent.take().or_else(|| record.parent.clone());
                failure.facts.identity = failure.facts.identity.take().or_else(|| record.identity.clone());
                self.refuse(inbound, &failure, record)
            }
        }
    }

    /// egret's own answer to a request, with its log line.
    fn refuse(&self, inbound: &Inbound, failure: &Failure, record: Record) -> Response<ReplyBody> {
        self.metrics.refused(failure.code);
        let sidecar = inbound.way == Way::Sidecar;
        let id = record.id.to_string();
        let response = if record.grpc {
            error::grpc(failure, inbound.trusted, &id)
        } else {
            error::answer(failure, inbound.trusted, sidecar, &id)
        };
        if self.access.is_enabled() {
            let status = response.status().as_u16();
            self.access.write(&record.line(status, Some(failure), true, 0));
        }
        response
    }

    async fn attempt(
        &self,
        inbound: &Inbound,
        to: &Destination,
        request: Request<RequestBody>,
        ask: Option<&Ask>,
        record: &mut Record,
    ) -> Result<Reply, Failure> {
        let (mut parts, body) = request.into_parts();
        let tls = matches!(to, Destination::Tls(_));
        self.policy.judge_origin(to.host(), to.port(), tls)?;
        headers::clean_request(&mut parts.headers, parts.version, &self.via)?;
        parts.uri = origin_form(parts.uri)?;
        parts.version = http::Version::HTTP_11;
        // Nothing that the server side attached may reach the client side of hyper.
        parts.extensions.clear();
        if let Some(ask) = ask {
            ask.put(&mut parts);
        } else if parts.method == http::Method::CONNECT {
            return Err(Failure::new(
                Code::RequestMalformed,
                "the only protocol that CONNECT can ask for here is websocket",
            ));
        }
        record.upload = body.upload().cloned();
        let mut request = Request::from_parts(parts, body);
        let (mut last, mut stale) = (None, 0);
        loop {
            let (tls, promoted) = self.select(inbound, to, record)?;
            stale = if last.replace(tls.serial()) == Some(tls.serial()) { stale + 1 } else { 0 };
            if stale == MAX_STALE_SELECTIONS {
                let why = "the certificate for this origin is retired, and nothing has taken its place";
                return Err(Failure::new(Code::MtlsIdentityUnavailable, why));
            }
            let project = inbound.project.id();
            if promoted.is_some() {
                request.extensions_mut().insert(Spared);
            }
            let sent = match ask {
                None => self.upstreams.send(project, &tls, to, request).await,
                // Boxed: rare, and its state would lie in every exchange.
                Some(_) => Box::pin(self.upstreams.upgrade(project, &tls, to, request)).await,
            };
            match sent {
                Ok(reply) => return Ok(reply),
                Err(Refusal::Retired(back)) => request = *back,
                Err(Refusal::Failed(failure)) => return Err(failure),
                Err(Refusal::Rejected(failure, back)) => {
                    let fell_back = self.fell_back(inbound, to, promoted.as_deref(), &failure).await;
                    request = match back {
                        Some(back) if fell_back => *back,
                        // Too large to have been kept; the next request finds the certificate before in force.
                        _ => return Err(failure),
                    };
                    self.metrics.resent.add();
                }
            }
            // However often the certificate is replaced, the request waits for a connection under the newest one, as
            // long as it may wait for an answer. Every turn of this loop costs whoever replaces one change.
            if record.began.elapsed() >= self.limits.response_timeout() {
                let mut failure = Failure::new(
                    Code::NetTimeout,
                    format!(
                        "the certificate for {to} was replaced faster than a connection could be made, for {:?}",
                        self.limits.response_timeout()
                    ),
                );
                failure.retry_safe = true;
                return Err(failure);
            }
        }
    }

    /// What is presented to `to` right now, or why nothing may be sent; and the binding, if its certificate was promoted
    /// and the one before is still kept.
    fn select(&self, inbound: &Inbound, to: &Destination, record: &mut Record) -> Result<Selected, Failure> {
        let snapshot = inbound.project.load();
        if snapshot.is_removed() {
            return Err(Failure::new(Code::CallerForbidden, "the project was removed"));
        }
        let Destination::Tls(origin) = to else {
            // Another type than an origin: it cannot select anything.
            return Ok((snapshot.anonymous().clone(), None));
        };
        let selection = snapshot.select(origin);
        record.rule = Some(selection.rule);
        record.identity = selection.tls.identity().map(|i| i.info().clone());
        check_usable(&selection, snapshot.info().on_expiry, origin)?;
        let promoted = selection.binding.filter(|binding| {
            let falls_back =
                |previous: &Arc<Previous>| previous.falls_back(&binding.pattern, origin, domain::time::now());
            // Hardly ever is there one, and then no clock is asked.
            binding.previous.as_ref().is_some_and(falls_back)
        });
        Ok((selection.tls, promoted))
    }

    fn answer(
        &self,
        inbound: &Inbound,
        to: &Destination,
        reply: Reply,
        ask: Option<Ask>,
        mut record: Record,
    ) -> Result<Response<ReplyBody>, (Failure, Box<Record>)> {
        let switching = reply.response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if let Some(ask) = &ask
            && let Err(mut failure) = ask.check(&reply.response)
        {
            failure.facts.request_sent = true;
            failure.facts.address = Some(reply.address);
            return Err((failure, Box::new(record)));
        }
        let (mut parts, body) = reply.response.into_parts();
        self.metrics.answered(parts.status);
        let version = parts.version;
        headers::clean_response(&mut parts.headers, version, &self.via, inbound.way == Way::Lifted);
        parts.version = http::Version::HTTP_11;
        if let Some(asked) = &reply.asked
            && parts.status.is_client_error()
        {
            // The origin's own words pass unchanged; this says what egret knows of the reason.
            let id = record.identity.as_ref().map(|i| &i.id).filter(|_| inbound.trusted);
            let presented = match asked.presented {
                Presented::NothingRegistered if is_withheld_by_scope(inbound, to) => Presented::Withheld,
                presented => presented,
            };
            let value = error::proxy_status_passed_on(parts.status, presented, id);
            parts.headers.append(error::PROXY_STATUS, value);
        }
        record.reused = Some(reply.reused);
        record.resumed = reply.tls_version.map(|_| reply.resumed);
        record.connecting = reply.connecting;
        record.address = Some(reply.address);
        record.first_byte = Some(record.began.elapsed());
        let log = self.access.is_enabled().then(|| self.access.clone());
        if let (Some(ask), true, Some(bridges)) = (ask, switching, self.bridges.get()) {
            parts.status = ask.tell(&mut parts.headers);
            let mut switched = Response::new(());
            std::mem::swap(switched.extensions_mut(), &mut parts.extensions);
            let upstream = hyper::upgrade::on(switched);
            let status = parts.status.as_u16();
            bridges.join(ask, upstream, reply.lease.upgraded(), move |whole, up, down| {
                if let Some(access) = log {
                    let line = Exchange { bytes_up: up, ..record.line(status, None, whole, down) };
                    access.write(&line);
                }
            });
            return Ok(Response::from_parts(parts, ReplyBody::empty()));
        }
        parts.extensions.clear();
        let log = log.map(|access| (access, record, parts.status.as_u16()));
        let ended = Box::new(Finish { lease: reply.lease, log });
        let body = ReplyBody::stream(body, reply.meter, self.limits.download_idle_timeout(), ended);
        Ok(Response::from_parts(parts, body))
    }
}

/// Whether the project has a certificate that its `default.scope` rules out for this origin: then nothing was
/// selected, and yet something was withheld.
fn is_withheld_by_scope(inbound: &Inbound, to: &Destination) -> bool {
    let Destination::Tls(origin) = to else { return false };
    let snapshot = inbound.project.load();
    let default = snapshot.in_force(&Pattern::Default);
    snapshot.info().default_scope.excludes(origin)
        && default.is_some_and(|binding| !matches!(binding.target, Target::None))
        && snapshot.select(origin).rule == Rule::Nothing
}

/// The same failure, said as what it is: a certificate is there, and the scope held it back.
fn withheld(failure: Failure, to: &Destination) -> Failure {
    let detail = format!(
        "{to} demands a client certificate; the project-wide one was withheld, because default.scope lists the origins that may see it and this is none of them"
    );
    Failure { code: Code::MtlsRequiredWithheld, detail, ..failure }
        .fix(format!("add \"{to}\" to default.origins of the project"))
}

/// Whether what was selected may be sent; never falls back to another certificate.
pub(super) fn check_usable(selection: &Selection, on_expiry: OnExpiry, origin: &Origin) -> Result<(), Failure> {
    let fix = || {
        let flag = match selection.binding.as_ref().map(|b| &b.pattern) {
            None | Some(Pattern::Default) => String::new(),
            // In quotes: a shell would read the star of a wildcard.
            Some(pattern) => format!(" --origin '{pattern}'"),
        };
        format!("egret certs upload{flag} --cert FILE --key FILE --ca FILE")
    };
    if let Some(binding) = &selection.binding
        && let Target::Unavailable(unavailable) = &binding.target
    {
        let failure = Failure::new(
            Code::MtlsIdentityUnavailable,
            format!(
                "the certificate {} that is registered for {origin} cannot be used: {}",
                unavailable.id, unavailable.why
            ),
        );
        // Of damaged lists nothing is mended by an upload of one certificate.
        let is_lists = binding.derived && unavailable.id.as_str() == UNREADABLE_ID;
        let switch = || "switch the zone on or off: PUT /client/v4/zones/ID/origin_tls_client_auth/settings".to_owned();
        return Err(failure.fix(if is_lists { switch() } else { fix() }));
    }
    let Some(identity) = selection.tls.identity() else { return Ok(()) };
    let info = identity.info();
    if info.skip_validation || on_expiry == OnExpiry::Send {
        return Ok(());
    }
    let what = match info.validity(domain::time::now()) {
        Validity::Valid => return Ok(()),
        Validity::NotYet(from) => format!("is not valid before {}", domain::time::rfc3339(from)),
        Validity::Expired(since) => format!("expired {}", domain::time::rfc3339(since)),
    };
    Err(Failure::new(
        Code::MtlsIdentityExpired,
        format!("certificate {} for {origin} {what}; it was not sent", info.id),
    )
    .fix(fix()))
}

/// What is gathered on the way, for the log line and the failure's facts.
struct Record {
    id: RequestId,
    began: Instant,
    inbound: Inbound,
    to: Destination,
    method: http::Method,
    /// Its errors are told in gRPC's own words.
    grpc: bool,
    rule: Option<Rule>,
    identity: Option<Arc<CertificateInfo>>,
    upload: Option<Arc<Upload>>,
    reused: Option<bool>,
    resumed: Option<bool>,
    connecting: Duration,
    first_byte: Option<Duration>,
    address: Option<SocketAddr>,
    parent: Option<Arc<str>>,
}

impl Record {
    fn begin(inbound: &Inbound, to: &Destination, request: &Request<RequestBody>) -> Self {
        Self {
            id: RequestId::next(),
            began: Instant::now(),
            inbound: inbound.clone(),
            to: to.clone(),
            method: request.method().clone(),
            grpc: is_grpc(request.headers()),
            rule: None,
            identity: None,
            upload: None,
            reused: None,
            resumed: None,
            connecting: Duration::ZERO,
            first_byte: None,
            address: None,
            parent: None,
        }
    }

    fn line<'a>(&'a self, status: u16, failure: Option<&'a Failure>, complete: bool, down: u64) -> Exchange<'a> {
        Exchange {
            request_id: self.id,
            listener: &self.inbound.listener,
            way: self.inbound.way.as_str(),
            peer: self.inbound.peer,
            project: Some(self.inbound.project.id().as_str()),
            method: self.method.as_str(),
            origin: Some(&self.to),
            rule: self.rule.map(Rule::as_str),
            certificate: self.identity.as_ref().map(|i| i.id.as_str()),
            reused: self.reused,
            resumed: self.resumed,
            status,
            code: failure.map(|f| f.code.as_str()),
            reason: failure.map(|f| f.detail.as_str()),
            complete,
            bytes_up: self.upload.as_ref().map_or(0, |u| u.bytes()),
            bytes_down: down,
            total: self.began.elapsed(),
            connect: (!self.connecting.is_zero()).then_some(self.connecting),
            first_byte: self.first_byte,
            address: self.address.or_else(|| failure.and_then(|f| f.facts.address)),
            parent: self.parent.as_deref(),
        }
    }
}

/// What happens when a response body has ended.
struct Finish {
    lease: Lease,
    log: Option<(Arc<AccessLog>, Record, u16)>,
}

impl Ended for Finish {
    fn ended(self: Box<Self>, complete: bool, bytes: u64) {
        let Self { lease, log } = *self;
        if complete {
            lease.give_back();
        } else {
            drop(lease);
        }
        if let Some((access, record, status)) = log {
            access.write(&record.line(status, None, complete, bytes));
        }
    }
}
