//! One exchange with an origin: a connection from the pool or a new one, the request, the head of the response.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout, timeout_at};

use super::body::Gate;
use super::connect::Handshake;
use super::connection::{self, About, Conn};
use super::pool::{Bucket, Place, Pool};
use super::{Destination, Failure, RequestBody, Upload, Upstreams, explain};
use crate::domain::{Code, ProjectId};
use crate::identity::{Asked, UpstreamTls};
use crate::net::Meter;

/// Connections that may die under an unsent request before a new one is dialled.
const MAX_STALE: u32 = 4;
/// Interim responses that an origin may send before its answer.
const MAX_INTERIM: u32 = 8;

/// Marks a request that was sent a second time: there is no third, whatever is selected for it meanwhile.
#[derive(Clone)]
struct Resent;

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
}

/// A hold on a connection. Dropped, the connection closes; given back, it may serve again.
pub struct Lease {
    pool: Arc<Pool>,
    bucket: Arc<Bucket>,
    conn: Conn,
    upload: Option<Arc<Upload>>,
}

impl Lease {
    /// The exchange is over and the response was read to its end.
    pub fn give_back(self) {
        // An upload that the origin did not wait for still occupies the connection.
        if self.upload.is_none_or(|u| u.is_finished()) {
            self.pool.put_back(&self.bucket, self.conn);
        }
    }
}

enum Checkout {
    Ready(Conn, bool),
    Retired,
}

impl Upstreams {
    /// Sends a request. Its URI must be in origin form and its headers clean; the Host header is set here,
    /// from the same destination that the connection is made to.
    ///
    /// It is sent a second time only as product.md section 3 allows: never dequeued, or once on a reused
    /// connection that ended before a byte of response, idempotent and without a body.
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
        let bucket = self.pool.bucket(tls, self.way(to), to).map_err(Refusal::Failed)?;
        bucket.touch();
        request.headers_mut().insert(header::HOST, bucket.authority.clone());
        if let Some(parent) = bucket.absolute() {
            parent.address(&bucket.authority, &mut request).map_err(Refusal::Failed)?;
        }
        if !request.body().is_empty() && !request.headers().contains_key(header::CONTENT_LENGTH) {
            // Written out, because hyper takes a GET or HEAD without it for one without a body.
            request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let idempotent = is_idempotent(request.method());
        let upload = request.body().upload().cloned();
        let mut stale = 0;
        let mut resent = request.extensions().get::<Resent>().is_some();
        loop {
            let reused = if stale < MAX_STALE { self.reuse(&bucket) } else { None };
            let (mut conn, reused, connecting) = match reused {
                Some(conn) => (conn, true, Duration::ZERO),
                None => {
                    let began = Instant::now();
                    // Boxed: the state of a dial is large, and most requests never need it.
                    match Box::pin(self.checkout(project, &bucket, stale < MAX_STALE)).await {
                        Ok(Checkout::Ready(conn, true)) => (conn, true, Duration::ZERO),
                        Ok(Checkout::Ready(conn, false)) => (conn, false, began.elapsed()),
                        Ok(Checkout::Retired) => return Err(Refusal::Retired(Box::new(request))),
                        Err(failure) => return Err(Refusal::Failed(failure)),
                    }
                }
            };
            let spare = (reused && !resent && idempotent && request.body().is_empty()).then(|| copy_of(&request));
            let received = conn.meter.read();
            let interim = self.watch_interim(&mut request, &conn.meter);
            let sending = conn.sender.try_send_request(request);
            let error = match self.answered(sending, &conn.meter, upload.as_deref()).await {
                Some(Ok(response)) => {
                    if let Some(why) = unacceptable(&response, &interim) {
                        let mut failure = Failure::new(Code::UpstreamMalformed, format!("{to} {why}"));
                        failure.retry_safe = idempotent;
                        return Err(Refusal::Failed(with_facts(failure, &conn, true)));
                    }
                    if let Some(failure) = bucket.absolute().and_then(|parent| parent.refused_plain(&response)) {
                        return Err(Refusal::Failed(with_facts(failure, &conn, true)));
                    }
                    if reused {
                        self.pool.metrics.upstream_reused.add();
                    }
                    conn.exchanges += 1;
                    let (about, meter) = (conn.about.clone(), conn.meter.clone());
                    let lease = Lease { pool: self.pool.clone(), bucket, conn, upload: upload.clone() };
                    return Ok(Reply {
                        response,
                        lease,
                        reused,
                        resumed: about.resumed,
                        address: about.address,
                        tls_version: about.version,
                        asked: about.asked.clone(),
                        connecting,
                        upload,
                        meter,
                    });
                }
                Some(Err(error)) => error,
                None => {
                    let mut failure = Failure::new(
                        Code::NetTimeout,
                        format!("{to} sent no response within {:?}", self.pool.limits.response_timeout),
                    );
                    failure.retry_safe = idempotent;
                    return Err(Refusal::Failed(with_facts(failure, &conn, true)));
                }
            };
            let mut error = error;
            let back = error.take_message();
            let error = error.into_error();
            let silent = conn.meter.read() == received;
            match (back, spare) {
                // Nothing of it was accepted: hyper hands it back only if it was never dequeued.
                (Some(back), _) if reused => {
                    stale += 1;
                    self.pool.metrics.resent.add();
                    request = back;
                }
                (None, Some(spare)) if silent && !error.is_parse() && !error.is_user() => {
                    resent = true;
                    // The second try must not meet another connection that the origin gave up at the same moment.
                    stale = MAX_STALE;
                    self.pool.metrics.resent.add();
                    request = spare;
                    request.extensions_mut().insert(Resent);
                }
                (back, _) => {
                    let sent = back.is_none();
                    let mut failure = if interim.load(Ordering::Relaxed) > MAX_INTERIM {
                        Failure::new(Code::UpstreamMalformed, format!("{to} {ENDLESS}"))
                    } else {
                        explained(&error, &conn, to, silent).await
                    };
                    failure.retry_safe = !sent || idempotent;
                    return Err(Refusal::Failed(with_facts(failure, &conn, sent)));
                }
            }
        }
    }

    /// Waits for the head of the answer; `None` if it does not come. The limit counts from the end of the upload: as
    /// long as that moves, the origin need not answer.
    async fn answered<F: Future>(&self, sending: F, meter: &Meter, upload: Option<&Upload>) -> Option<F::Output> {
        let limit = self.pool.limits.response_timeout;
        let mut sending = pin!(sending);
        let mut left = limit;
        let mut sent = upload.is_none();
        loop {
            if let Ok(outcome) = timeout(left, sending.as_mut()).await {
                return Some(outcome);
            }
            left = limit.saturating_sub(meter.idle());
            if sent || left.is_zero() {
                return None;
            }
            sent = upload.is_none_or(Upload::is_finished);
        }
    }

    /// Counts the interim responses to a request, and ends the connection when they do not end. They are dropped, but
    /// for the effect of `100 Continue` on an upload that waits for it.
    fn watch_interim(&self, request: &mut Request<RequestBody>, meter: &Arc<Meter>) -> Arc<AtomicU32> {
        let gate = hold_for_continue(request);
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

    /// An idle connection of an identity that lives. Looking at its life after the connection was taken is the
    /// linearisation point: whoever passes here began before a retirement.
    fn reuse(&self, bucket: &Bucket) -> Option<Conn> {
        self.pool.pop(bucket).filter(|_| bucket.tls.life().is_active())
    }

    /// A connection: idle or new. Ends in time: permits are waited for no longer than a connect may take.
    async fn checkout(&self, project: &ProjectId, bucket: &Arc<Bucket>, pooled: bool) -> Result<Checkout, Failure> {
        let life = bucket.tls.life();
        let deadline = Instant::now() + self.pool.limits.connect_timeout;
        let mut waiting = None;
        let place = loop {
            if pooled && let Some(conn) = self.reuse(bucket) {
                return Ok(Checkout::Ready(conn, true));
            }
            if !life.is_active() {
                return Ok(Checkout::Retired);
            }
            if let Some(place) = bucket.try_open() {
                break place;
            }
            // At the cap. One that was given back a moment ago will do, as soon as hyper has it ready.
            if pooled && let Some(mut conn) = self.pool.pop_unready(bucket) {
                if let Ok(Ok(())) = timeout_at(deadline, conn.sender.ready()).await
                    && life.is_active()
                {
                    return Ok(Checkout::Ready(conn, true));
                }
                continue;
            }
            let Some(turn) = waiting.take() else {
                // Looked once more after that, so that nothing which is freed meanwhile is missed.
                waiting = Some(bucket.wait());
                continue;
            };
            if timeout_at(deadline, turn.freed()).await.is_err() {
                self.pool.metrics.upstream_connections_full.add();
                return Err(Failure::new(
                    Code::LimitConnections,
                    format!(
                        "all {} connections to {} are busy",
                        self.pool.limits.max_connections_per_origin, bucket.to
                    ),
                )
                .fix("raise limits.max_connections_per_origin, or send fewer requests at once"));
            }
        };
        drop(waiting);
        let conn = self.open(project, bucket, place).await?;
        // Checked again after the handshake: the identity may have been retired while we were dialling.
        if life.is_active() {
            Ok(Checkout::Ready(conn, false))
        } else {
            self.pool.metrics.retired_handshakes.add();
            Ok(Checkout::Retired)
        }
    }

    async fn open(&self, project: &ProjectId, bucket: &Arc<Bucket>, place: Place) -> Result<Conn, Failure> {
        let _dial = timeout(self.pool.limits.connect_timeout, bucket.dials.acquire())
            .await
            .map_err(|_| {
                Failure::new(Code::LimitConnections, format!("too many handshakes with {} are under way", bucket.to))
            })?
            .expect("the semaphore is never closed");
        let metrics = &self.pool.metrics;
        let started = match (&bucket.to, &bucket.name) {
            (Destination::Tls(origin), Some(name)) => {
                let secured =
                    self.dialer.tls(project, &bucket.tls, bucket.via.as_ref(), origin, name, Handshake::Any).await?;
                let asked = if secured.resumed {
                    bucket.tls.last_asked(origin.host())
                } else {
                    bucket.tls.remember_asked(origin.host(), secured.asked.as_ref());
                    secured.asked
                };
                let about = About::new(secured.address, Some(secured.version), secured.resumed, asked);
                connection::start(secured.stream, about, bucket, place, metrics).await
            }
            _ => {
                let (host, port) = (bucket.to.host(), bucket.to.port());
                let (stream, address) = self.dialer.reach_plain(project, bucket.via.as_ref(), host, port).await?;
                connection::start(stream, About::new(address, None, false, None), bucket, place, metrics).await
            }
        };
        started.map_err(|e| Failure::new(Code::Internal, format!("the connection could not be started: {e}")))
    }
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

/// The same request without its (empty) body.
fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// `Expect: 100-continue`: the client's body is not asked for (which is what makes egret say 100 to the
/// client) until the origin said so.
fn hold_for_continue(request: &mut Request<RequestBody>) -> Option<Arc<Gate>> {
    let expects =
        request.headers().get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if !expects || request.body().is_empty() {
        return None;
    }
    let gate = Arc::new(Gate::default());
    request.body_mut().wait_for(gate.clone());
    Some(gate)
}

const ENDLESS: &str = "sends interim responses without end";

/// Why an answer that hyper understood is none that may be passed on.
fn unacceptable(response: &Response<Incoming>, interim: &AtomicU32) -> Option<&'static str> {
    if interim.load(Ordering::Relaxed) > MAX_INTERIM {
        return Some(ENDLESS);
    }
    // Nothing is asked to upgrade, so what follows a 101 would be taken for something that it is not.
    (response.status() == StatusCode::SWITCHING_PROTOCOLS).then_some("switches to a protocol that was not asked for")
}

fn with_facts(mut failure: Failure, conn: &Conn, sent: bool) -> Failure {
    let about = &conn.about;
    failure.facts.address = Some(about.address);
    failure.facts.tls_version = about.version;
    failure.facts.asked.clone_from(&about.asked);
    failure.facts.request_sent = sent;
    failure
}

/// Why a request that was on a connection has no response.
async fn explained(error: &hyper::Error, conn: &Conn, to: &Destination, silent: bool) -> Failure {
    if error.is_user() {
        return match explain::io_kind(error) {
            Some(std::io::ErrorKind::TimedOut) => {
                Failure::new(Code::LimitRequestTimeout, "the request's body stopped coming")
            }
            Some(std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput) => {
                Failure::new(Code::RequestMalformed, "the request's body is not framed as HTTP/1.1 demands")
            }
            _ => Failure::new(Code::RequestMalformed, "the request's body ended before its announced end"),
        };
    }
    if error.is_parse() {
        return Failure::new(Code::UpstreamMalformed, format!("the answer of {to} is not valid HTTP: {error}"));
    }
    if conn.meter.is_cut() {
        return Failure::new(
            Code::NetReset,
            format!("the connection to {to} was cut: its certificate was retired, or egret is ending"),
        );
    }
    let ended = conn.about.error().await;
    let cause: &(dyn std::error::Error + 'static) = match &ended {
        Some(error) => &**error,
        None => error,
    };
    if let Some(error) = &ended
        && error.is_parse()
    {
        return Failure::new(Code::UpstreamMalformed, format!("the answer of {to} is not valid HTTP: {error}"));
    }
    let Destination::Tls(origin) = to else {
        return Failure::new(Code::NetReset, format!("{to} closed the connection before it answered"));
    };
    // The first exchange is where a refusal of the client certificate shows in TLS 1.3.
    if silent && conn.exchanges == 0 {
        return explain::tls(cause, conn.about.asked.as_ref(), origin);
    }
    match explain::tls_error(cause) {
        Some(_) => explain::tls(cause, conn.about.asked.as_ref(), origin),
        None if silent => Failure::new(Code::NetReset, format!("{to} closed the connection before it answered")),
        None => Failure::new(Code::NetReset, format!("{to} closed the connection in the middle of its answer's head")),
    }
}
