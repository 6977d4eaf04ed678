//! One exchange with an origin: a connection from the pool or a new one, the request, the head of the response.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::{Instant, timeout};

use super::bucket::Bucket;
use super::checkout::{Carrier, Checkout};
use super::pool::Pool;
use super::prepare::{self, Second};
use super::{Destination, Failure, RequestBody, Tie, Upload, Upstreams, explain};
use crate::domain::{Code, ProjectId};
use crate::identity::{Asked, Presented, UpstreamTls};
use crate::net::Meter;

/// Connections that may die under an unsent request before a new one is dialled; and how often an HTTP/2 origin may
/// say that it has not looked at a request.
const MAX_STALE: u32 = 4;
/// Interim responses that an origin may send before its answer.
pub(super) const MAX_INTERIM: u32 = 8;

/// Marks a request that was sent a second time: there is no third, whatever is selected for it meanwhile.
#[derive(Clone)]
struct Resent;

/// Marks a request whose certificate may be refused at no cost: its body is kept from the beginning, whatever the protocol,
/// so that it can come back in [`Refusal::Rejected`].
#[derive(Debug, Clone, Copy)]
pub struct Spared;

/// The head of an answer, and the hold on the connection that its body still comes from.
pub struct Reply {
    /// Head and body.
    pub response: Response<Incoming>,
    /// Give it back when the body has ended.
    pub lease: Lease,
    /// The connection had served another request before.
    pub reused: bool,
    /// The connection's TLS session was resumed.
    pub resumed: bool,
    /// The address it is connected to.
    pub address: std::net::SocketAddr,
    /// `TLSv1.2`, `TLSv1.3`; `None` for plain http.
    pub tls_version: Option<&'static str>,
    /// What the origin asked for when the session began.
    pub asked: Option<Asked>,
    /// What was spent on getting a connection.
    pub connecting: Duration,
    /// What becomes of the upload; `None` without a body.
    pub upload: Option<Arc<Upload>>,
    /// The connection's meter: a body whose connection was cut has not ended.
    pub meter: Arc<Meter>,
}

/// Why there is no answer.
pub enum Refusal {
    /// The identity was retired before the request went out: select again. The request comes back untouched.
    Retired(Box<Request<RequestBody>>),
    /// It failed.
    Failed(Failure),
    /// The origin refused the certificate with an alert, so it did not look at the request. That was marked as [`Spared`]
    /// and comes back, unless too much of its body was sent.
    Rejected(Failure, Option<Box<Request<RequestBody>>>),
}

impl Refusal {
    /// The request does not come back if its body is larger than what is kept: whether it does must not depend on how much
    /// of it was read before the alert came.
    pub(super) fn rejected(failure: Failure, back: Option<Request<RequestBody>>) -> Self {
        Self::Rejected(failure, back.filter(|r| !r.body().is_too_large_to_keep()).map(Box::new))
    }
}

/// A hold on a connection. Dropped, an HTTP/1.1 connection closes; given back, it may serve again. Of an HTTP/2
/// connection it is one stream.
pub struct Lease {
    pool: Arc<Pool>,
    bucket: Arc<Bucket>,
    carrier: Carrier,
    upload: Option<Arc<Upload>>,
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, bucket: Arc<Bucket>, carrier: Carrier, upload: Option<Arc<Upload>>) -> Self {
        Self { pool, bucket, carrier, upload }
    }

    /// The exchange is over and the response was read to its end.
    pub fn give_back(self) {
        // An upload that the origin did not wait for still occupies the connection.
        if let Carrier::One(conn) = self.carrier
            && !conn.is_for_upgrade()
            && self.upload.is_none_or(|u| u.is_finished())
        {
            self.pool.put_back(&self.bucket, conn);
        }
    }

    /// The hold on a connection that has become something else.
    pub fn upgraded(self) -> Option<Tie> {
        match self.carrier {
            Carrier::One(conn) => conn.into_tie(&self.bucket),
            Carrier::Many(_) => None,
        }
    }
}

/// What has been tried with a request.
struct Tries {
    idempotent: bool,
    upload: Option<Arc<Upload>>,
    /// Sent twice already.
    resent: bool,
    /// See [`Spared`].
    spared: bool,
    /// How often nothing of it was accepted.
    stale: u32,
}

/// A request on its way.
struct Sent {
    /// `None`: no answer in time.
    outcome: Option<Result<Response<Incoming>, TrySendError<Request<RequestBody>>>>,
    second: Option<Second>,
    /// HTTP/1.1 only: hyper's HTTP/2 drops interim responses unseen.
    interim: Option<Arc<AtomicU32>>,
}

/// A request that came to nothing.
pub(super) struct Lost<'a> {
    pub(super) to: &'a Destination,
    pub(super) carrier: &'a Carrier,
    pub(super) reused: bool,
    /// Not a byte came meanwhile.
    pub(super) silent: bool,
    /// Nothing was ever answered over the connection.
    pub(super) first: bool,
}

impl Upstreams {
    /// Sends a request. Its URI must be in origin form and its headers clean; what names the origin in it (Host,
    /// `:authority`) is set here, from the same destination that the connection is made to.
    ///
    /// It is sent a second time only if nothing of it was accepted (product.md section 3): never dequeued; above a
    /// GOAWAY's last stream or refused with REFUSED_STREAM, if its body is still there from the beginning; or once on a
    /// reused connection that ended before a byte of response, idempotent and without a body.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn send(
        &self,
        project: &ProjectId,
        tls: &Arc<UpstreamTls>,
        to: &Destination,
        mut request: Request<RequestBody>,
    ) -> Result<Reply, Refusal> {
        if !tls.life().is_active() {
            // Overtaken since it was selected: no bucket is made for it any more.
            return Err(Refusal::Retired(Box::new(request)));
        }
        let bucket = self.pool.bucket(project, tls, self.way(to), to).map_err(Refusal::Failed)?;
        bucket.touch();
        let mut tries = Tries {
            idempotent: prepare::is_idempotent(request.method()),
            upload: request.body().upload().cloned(),
            resent: request.extensions().get::<Resent>().is_some(),
            spared: request.extensions().get::<Spared>().is_some(),
            stale: 0,
        };
        loop {
            let found = if tries.stale < MAX_STALE { self.reuse(&bucket) } else { None };
            let (mut carrier, reused, connecting) = match found {
                Some((carrier, reused)) => (carrier, reused, Duration::ZERO),
                None => {
                    let began = Instant::now();
                    // Boxed: the state of a dial is large, and most requests never need it.
                    match Box::pin(self.checkout(project, &bucket, tries.stale < MAX_STALE)).await {
                        Ok(Checkout::Ready(carrier, true)) => (carrier, true, Duration::ZERO),
                        Ok(Checkout::Ready(carrier, false)) => (carrier, false, began.elapsed()),
                        Ok(Checkout::Retired) => return Err(Refusal::Retired(Box::new(request))),
                        Err(failure) if tries.spared && is_rejection(&failure) => {
                            return Err(Refusal::rejected(failure, Some(request)));
                        }
                        Err(failure) => return Err(Refusal::Failed(failure)),
                    }
                }
            };
            if matches!(carrier, Carrier::One(_)) && prepare::is_grpc(request.headers()) {
                // Nothing was sent on it: it serves others as well as before.
                let failure = with_facts(needs_http2(to), &carrier, false);
                Lease::new(self.pool.clone(), bucket, carrier, None).give_back();
                return Err(Refusal::Failed(failure));
            }
            let (about, meter) = (carrier.about().clone(), carrier.meter().clone());
            let (received, first) = (meter.read(), !about.has_answered());
            let Sent { outcome, second, interim } =
                self.transmit(request, &mut carrier, &bucket, reused, &tries).await?;
            let error = match outcome {
                Some(Ok(response)) => {
                    about.answered();
                    if let Some(why) = unacceptable(&response, interim.as_deref()) {
                        let mut failure = Failure::new(Code::UpstreamMalformed, format!("{to} {why}"));
                        failure.retry_safe = tries.idempotent;
                        return Err(Refusal::Failed(with_facts(failure, &carrier, true)));
                    }
                    if let Some(second) = second {
                        second.let_go();
                    }
                    if let Some(failure) = bucket.absolute().and_then(|parent| parent.refused_plain(&response)) {
                        return Err(Refusal::Failed(with_facts(failure, &carrier, true)));
                    }
                    if reused {
                        self.pool.metrics.upstream_reused.add();
                    }
                    let lease = Lease::new(self.pool.clone(), bucket, carrier, tries.upload.clone());
                    return Ok(Reply {
                        response,
                        lease,
                        reused,
                        resumed: about.resumed,
                        address: about.address,
                        tls_version: about.version,
                        asked: about.asked.clone(),
                        connecting,
                        upload: tries.upload,
                        meter,
                    });
                }
                Some(Err(error)) => error,
                None => {
                    let mut failure = Failure::new(
                        Code::NetTimeout,
                        format!("{to} sent no response within {:?}", self.pool.limits.response_timeout()),
                    );
                    failure.retry_safe = tries.idempotent;
                    return Err(Refusal::Failed(with_facts(failure, &carrier, true)));
                }
            };
            if about.is_endless() || interim.is_some_and(|i| i.load(Ordering::Relaxed) > MAX_INTERIM) {
                let mut failure = Failure::new(Code::UpstreamMalformed, format!("{to} {ENDLESS}"));
                failure.retry_safe = tries.idempotent;
                return Err(Refusal::Failed(with_facts(failure, &carrier, true)));
            }
            let lost = Lost { to, carrier: &carrier, reused, silent: meter.read() == received, first };
            request = self.again(project, &bucket, error, second, &lost, &mut tries).await?;
            self.pool.metrics.resent.add();
        }
    }

    /// Puts the request on the connection, and waits for the head of its answer.
    async fn transmit(
        &self,
        mut request: Request<RequestBody>,
        carrier: &mut Carrier,
        bucket: &Bucket,
        reused: bool,
        tries: &Tries,
    ) -> Result<Sent, Refusal> {
        let upload = tries.upload.as_deref();
        match carrier {
            Carrier::One(conn) => {
                prepare::http1(&mut request, bucket).map_err(Refusal::Failed)?;
                let again = reused && !tries.resent && tries.idempotent && request.body().is_empty();
                let mut second = (again || tries.spared).then(|| Second::new(&request));
                let interim = Some(self.watch_interim(&mut request, &conn.meter));
                if tries.spared {
                    let (parts, body) = request.into_parts();
                    let (body, spare) = body.keep();
                    second = second.map(|second| second.with(spare));
                    request = Request::from_parts(parts, body);
                }
                let outcome = self.answered(conn.sender.try_send_request(request), upload).await;
                Ok(Sent { outcome, second, interim })
            }
            Carrier::Many(slot) => {
                prepare::http2(&mut request, bucket);
                let second = Second::new(&request);
                let (parts, body) = request.into_parts();
                let (mut body, spare) = body.keep();
                let second = (body.is_empty() || spare.is_some()).then(|| second.with(spare));
                if !body.is_empty() {
                    body.on(slot.clone());
                }
                let mut sender = slot.sender();
                let outcome = self.answered(sender.try_send_request(Request::from_parts(parts, body)), upload).await;
                Ok(Sent { outcome, second, interim: None })
            }
        }
    }

    /// The request once more, if nothing of it was accepted; else why it failed.
    async fn again(
        &self,
        project: &ProjectId,
        bucket: &Bucket,
        mut error: TrySendError<Request<RequestBody>>,
        second: Option<Second>,
        lost: &Lost<'_>,
        tries: &mut Tries,
    ) -> Result<Request<RequestBody>, Refusal> {
        let mut back = error.take_message();
        let error = error.into_error();
        let multiplexed = matches!(lost.carrier, Carrier::Many(_));
        let untouched = multiplexed && explain::is_untouched(&error);
        let sent = back.is_none();
        // hyper hands it back only if it was never dequeued. On a connection that never answered it would meet the
        // same fate again, unless the origin only wants no more streams there.
        if (lost.reused || (multiplexed && !lost.first))
            && tries.stale < MAX_STALE
            && let Some(back) = back.take()
        {
            tries.stale += 1;
            return Ok(back);
        }
        let mut second = second.filter(|_| sent);
        if second.is_some() {
            if untouched && tries.stale < MAX_STALE {
                if explain::wants_http1(&error) {
                    self.pool.demote(project, bucket);
                }
                if let Some(mut request) = second.take().and_then(Second::request) {
                    tries.stale += 1;
                    if tries.resent {
                        request.extensions_mut().insert(Resent);
                    }
                    return Ok(request);
                }
            } else if lost.reused
                && !tries.resent
                && tries.idempotent
                && tries.upload.is_none()
                && explain::is_silent_end(&error, lost.silent, multiplexed)
                && let Some(mut request) = second.take().and_then(Second::request)
            {
                tries.resent = true;
                // The second try must not meet another connection that the origin gave up at the same moment.
                tries.stale = MAX_STALE;
                request.extensions_mut().insert(Resent);
                return Ok(request);
            }
        }
        let mut failure = explained(&error, lost, tries.upload.as_deref()).await;
        failure.retry_safe = !sent || tries.idempotent || untouched;
        // An alert is about the connection and not about this request: who waited for the connection has its answer.
        if multiplexed && lost.first && failure.facts.alert.is_some() {
            let unsent = Failure { retry_safe: true, ..failure.clone() };
            bucket.failed(&with_facts(unsent, lost.carrier, false));
            bucket.wake_all();
        }
        let failure = with_facts(failure, lost.carrier, sent);
        // Nothing ever came but the alert: the handshake was not over for the origin, and it has looked at no request.
        if tries.spared && lost.first && (lost.silent || multiplexed) && is_rejection(&failure) {
            return Err(Refusal::rejected(failure, back.or_else(|| second.and_then(Second::request))));
        }
        Err(Refusal::Failed(failure))
    }

    /// Waits for the head of the answer; `None` if it does not come. The limit counts from the end of the upload: as
    /// long as that moves, the origin need not answer.
    async fn answered<F: Future>(&self, sending: F, upload: Option<&Upload>) -> Option<F::Output> {
        let limit = self.pool.limits.response_timeout();
        let mut sending = pin!(sending);
        let mut left = limit;
        let mut sent = upload.is_none();
        loop {
            if let Ok(outcome) = timeout(left, sending.as_mut()).await {
                return Some(outcome);
            }
            left = upload.and_then(Upload::idle).map_or(Duration::ZERO, |idle| limit.saturating_sub(idle));
            if sent || left.is_zero() {
                return None;
            }
            sent = upload.is_none_or(Upload::is_finished);
        }
    }

    /// Counts the interim responses to a request, and ends the connection when they do not end. They are dropped, but
    /// for the effect of `100 Continue` on an upload that waits for it.
    pub(super) fn watch_interim(&self, request: &mut Request<RequestBody>, meter: &Arc<Meter>) -> Arc<AtomicU32> {
        let gate = prepare::hold_for_continue(request);
        let seen: Arc<AtomicU32> = Arc::default();
        let (count, meter, metrics) = (seen.clone(), meter.clone(), self.pool.metrics.clone());
        hyper::ext::on_informational(request, move |response| {
            match &gate {
                Some(gate) if response.status() == StatusCode::CONTINUE => gate.open(),
                _ => metrics.interim_dropped.add(),
            }
            if count.fetch_add(1, Ordering::Relaxed) >= MAX_INTERIM {
                meter.cut();
            }
        });
        seen
    }
}

/// Whether the origin says that it does not accept the certificate that it was sent.
pub(super) fn is_rejection(failure: &Failure) -> bool {
    failure.facts.alert.is_some_and(explain::is_about_the_certificate)
        // It was, and not only meant to be: before that the origin cannot have an opinion of it.
        && failure.facts.asked.as_ref().is_some_and(|asked| asked.presented == Presented::Sent && asked.signed)
}

const ENDLESS: &str = "sends interim responses without end";

/// Why an answer that hyper understood is none that may be passed on.
fn unacceptable(response: &Response<Incoming>, interim: Option<&AtomicU32>) -> Option<&'static str> {
    if interim.is_some_and(|i| i.load(Ordering::Relaxed) > MAX_INTERIM) {
        return Some(ENDLESS);
    }
    // Nothing is asked to upgrade, so what follows a 101 would be taken for something that it is not.
    (response.status() == StatusCode::SWITCHING_PROTOCOLS).then_some("switches to a protocol that was not asked for")
}

/// gRPC to an origin that has only HTTP/1.1.
fn needs_http2(to: &Destination) -> Failure {
    Failure::new(Code::TlsProtocol, format!("gRPC needs HTTP/2, and {to} speaks only HTTP/1.1"))
        .fix("turn on HTTP/2 at the origin (ALPN h2), or let this request go to another one")
}

pub(super) fn with_facts(mut failure: Failure, carrier: &Carrier, sent: bool) -> Failure {
    let about = carrier.about();
    failure.facts.address = Some(about.address);
    failure.facts.tls_version = about.version;
    failure.facts.asked.clone_from(&about.asked);
    failure.facts.request_sent = sent;
    failure
}

/// Why a request that was on a connection has no response.
pub(super) async fn explained(error: &hyper::Error, lost: &Lost<'_>, upload: Option<&Upload>) -> Failure {
    let Lost { to, carrier, silent, first, .. } = lost;
    // hyper also calls it the user's fault when the task that drove the connection was ended. On HTTP/2 a body that
    // broke off shows as a stream reset by ourselves.
    let unfinished = matches!(carrier, Carrier::One(_)) && upload.is_some() && !carrier.meter().is_cut();
    let user = || (unfinished && error.is_user()).then(|| user_fault(error));
    if let Some(kind) = upload.and_then(Upload::fault).or_else(user) {
        return match kind {
            std::io::ErrorKind::TimedOut => {
                Failure::new(Code::LimitRequestTimeout, "the request's body stopped coming")
            }
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput => {
                Failure::new(Code::RequestMalformed, "the request's body is not framed as HTTP/1.1 demands")
            }
            _ => Failure::new(Code::RequestMalformed, "the request's body ended before its announced end"),
        };
    }
    if let Some(failure) = explain::http(error, to) {
        return failure;
    }
    if carrier.meter().is_cut() {
        return Failure::new(
            Code::NetReset,
            format!("the connection to {to} was cut: its certificate was retired, or egret is ending"),
        );
    }
    let about = carrier.about();
    let ended = about.error().await;
    if let Some(failure) = ended.as_deref().and_then(|error| explain::http(error, to)) {
        return failure;
    }
    let Destination::Tls(origin) = to else {
        return Failure::new(Code::NetReset, format!("{to} closed the connection before it answered"));
    };
    let cause: &(dyn std::error::Error + 'static) = match (about.fault(), &ended) {
        (Some(fault), _) => fault,
        (None, Some(error)) => &**error,
        (None, None) => error,
    };
    // The first exchange is where a refusal of the client certificate shows in TLS 1.3. An HTTP/2 origin may have sent
    // its SETTINGS before it looked at the certificate.
    if *first && (*silent || matches!(carrier, Carrier::Many(_))) {
        return explain::tls(cause, about.asked.as_ref(), origin);
    }
    match explain::tls_error(cause) {
        Some(_) => explain::tls(cause, about.asked.as_ref(), origin),
        None if *silent || matches!(carrier, Carrier::Many(_)) => {
            Failure::new(Code::NetReset, format!("{to} closed the connection before it answered"))
        }
        None => Failure::new(Code::NetReset, format!("{to} closed the connection in the middle of its answer's head")),
    }
}

fn user_fault(error: &hyper::Error) -> std::io::ErrorKind {
    explain::io_kind(error).unwrap_or(std::io::ErrorKind::Other)
}
