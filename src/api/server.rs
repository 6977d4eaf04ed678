//! The management server: accepts (TCP or a Unix socket, in the clear or in TLS), bounds, and ends gracefully.
//!
//! What must stay true: no more connections at once than its limit says; none lives without moving
//! a byte for longer than `limits.keep_alive_timeout`, but while its request is worked on; an answer that was sent before the request was read
//! to its end still arrives (see [`linger`]); every task ends with [`run`].

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Request};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::events::{EVENT_STREAM, Ending};
use super::host::Ends;
use crate::config::LiveLimits;
use crate::net::listen::{Accepted, Accepting, is_of_the_connection};
use crate::net::{Io, Meter, Permit, Permits, Stream};
use crate::observe::Metrics;
use crate::pki::server::ServerTls;

/// hyper refuses smaller buffers.
const MIN_BUFFER: usize = 8192;
/// Pause after a failed accept: mostly no descriptors are left, and they come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long an idle client has to send what is on its way when egret ends.
const LAST_CALL: Duration = Duration::from_secs(1);
/// Who has the marks of a request while there is none: the connection, and the service that hands them on.
const IDLE_HOLDERS: usize = 2;
/// How long, and for how much, a closing connection still reads.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 8 << 20;

/// Serves `router`, to as many clients at once as `most` of the limits says, until `shutdown` resolves and what runs has ended, or `limits.drain_timeout` has passed.
/// Dropping the future cuts every connection.
pub(super) async fn run(
    listener: Accepting,
    tls: Option<Arc<ServerTls>>,
    router: Router,
    (limits, most): (LiveLimits, fn(&LiveLimits) -> usize),
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) {
    let permits = Permits::new(most(&limits));
    let mut changes = limits.changes();
    let ending = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let one = |accepted: Accepted, permit: Permit| {
        let (router, limits, ending) = (router.clone(), limits.clone(), ending.clone());
        let (tls, metrics) = (tls.clone(), metrics.clone());
        async move {
            let ends = Ends { peer: accepted.peer, socket: accepted.ends, tls: tls.clone() };
            match tls {
                None => serve(accepted.stream, ends, router, &limits, &ending).await,
                Some(tls) => {
                    if let Some(stream) = secure(accepted, &tls, &limits, &metrics, &ending).await {
                        serve(stream, ends, router, &limits, &ending).await;
                    }
                }
            }
            drop(permit);
        }
    };
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Ok(()) = changes.changed() => {
                permits.resize(most(&limits));
                continue;
            }
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((accepted, permit)) => {
                connections.spawn(one(accepted, permit));
            }
            Err(error) => {
                tracing::warn!(%error, "a management connection could not be accepted");
                tokio::select! {
                    () = &mut shutdown => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
        // Forget those that have ended; the permits bound how many there are.
        while connections.try_join_next().is_some() {}
    }
    ending.cancel();
    // They connected before the end began; whoever finds no place in time is let go.
    for accepted in listener.close() {
        accepted.stream.set_nodelay();
        let Ok(permit) = tokio::time::timeout(limits.drain_timeout(), permits.take()).await else { break };
        connections.spawn(one(accepted, permit));
    }
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain_timeout(), all).await.is_err() {
        tracing::warn!(cut = connections.len(), "management connections were cut at the end of limits.drain_timeout");
        connections.shutdown().await;
    }
}

async fn accept(listener: &Accepting, permits: &Permits) -> io::Result<(Accepted, Permit)> {
    // The permit first: what cannot be served stays in the kernel's queue.
    let permit = permits.take().await;
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                accepted.stream.set_nodelay(); // a hint; answers arrive all the same
                return Ok((accepted, permit));
            }
            // The client gave up while it was queued.
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The connection inside TLS; `None` if the handshake failed, took too long, or egret ends.
async fn secure(
    accepted: Accepted,
    tls: &ServerTls,
    limits: &LiveLimits,
    metrics: &Metrics,
    ending: &CancellationToken,
) -> Option<Stream> {
    let handshake = TlsAcceptor::from(tls.config().clone()).accept(accepted.stream);
    let finished = tokio::select! {
        finished = tokio::time::timeout(limits.handshake_timeout(), handshake) => finished,
        () = last_call(ending) => return None,
    };
    let why = match finished {
        Ok(Ok(stream)) => return Some(Stream::boxed(stream)),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "limits.handshake_timeout passed".to_owned(),
    };
    metrics.api_handshakes_failed.add();
    tracing::debug!(peer = %accepted.peer, why, "a TLS handshake with the management API failed");
    None
}

/// One connection, to its end.
async fn serve(stream: Stream, ends: Ends, router: Router, limits: &LiveLimits, ending: &CancellationToken) {
    let meter = Meter::new();
    let io = TokioIo::new(Io::new(stream, meter.clone()));
    let router = TowerToHyperService::new(router);
    let ended = ending.clone();
    // Held by what is being answered, and by what of it is still to be read from the client.
    let marks = (Arc::new(()), Arc::new(()));
    let (answering, arriving) = marks.clone();
    // The last answer is a stream that only the end of egret ends.
    let follows = Arc::new(AtomicBool::new(false));
    let following = follows.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ends.clone());
        request.extensions_mut().insert(Ending(ended.clone()));
        let unread = arriving.clone();
        let request = request.map(|body| {
            let held = move |frame| {
                let _ = &unread;
                frame
            };
            Body::new(body.map_frame(held))
        });
        let (answer, ended, unanswered) = (router.call(request), ended.clone(), answering.clone());
        let following = following.clone();
        Box::pin(async move {
            let mut response = answer.await;
            drop(unanswered);
            let follows =
                response.as_ref().is_ok_and(|answer| answer.headers().get(CONTENT_TYPE) == Some(&EVENT_STREAM));
            following.store(follows, Ordering::Relaxed);
            if let Ok(response) = &mut response
                && ended.is_cancelled()
            {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Runs from the moment a head is awaited: it also ends connections that say nothing.
        .header_read_timeout(limits.head_timeout())
        .max_buf_size(limits.max_head_bytes().max(MIN_BUFFER))
        .max_headers(limits.max_headers())
        .serve_connection(io, service);
    let mut told = false;
    let mut last_call = pin!(last_call(ending));
    let mut no_reader = pin!(async {
        ending.cancelled().await;
        tokio::time::sleep(LAST_CALL * 2).await;
    });
    loop {
        // Whoever moves no byte for so long neither reads its answer nor sends its request. Who has sent all of it waits
        // for the answer, which bounds itself: a probe may take longer.
        let is_held = |mark: &Arc<()>| Arc::strong_count(mark) > IDLE_HOLDERS;
        let waits = || is_held(&marks.0) && !is_held(&marks.1);
        let idle = if waits() { Duration::ZERO } else { meter.idle() };
        let patience = limits.keep_alive_timeout().saturating_sub(idle);
        tokio::select! {
            // Its errors are the client's: a broken request was answered, a broken connection has no one to tell.
            _ = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break,
            () = &mut last_call, if !told => {
                told = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
            // Whoever reads what it follows has read its end by now; the end of egret waits for nobody else.
            () = &mut no_reader, if follows.load(Ordering::Relaxed) => return,
            () = tokio::time::sleep(patience) => {
                if !waits() && meter.idle() >= limits.keep_alive_timeout() {
                    return;
                }
            }
        }
    }
    let mut stream = connection.into_parts().io.into_inner();
    // An error or a time-out here means that there is no one left to answer.
    let _ = tokio::time::timeout(LINGER, linger(&mut stream)).await;
}

/// Resolves when the end has begun and nothing can be on its way any more.
async fn last_call(ending: &CancellationToken) {
    ending.cancelled().await;
    tokio::time::sleep(LAST_CALL).await;
}

/// Closes our side, then reads what the client still sends. Closing with unread bytes makes the kernel reset
/// the connection, and the reset overtakes the answer: a refused upload would look like a broken network.
async fn linger(stream: &mut Io<Stream>) -> io::Result<()> {
    stream.shutdown().await?;
    let mut sink = vec![0; MIN_BUFFER];
    let mut left = LINGER_BYTES;
    while left > 0 {
        match stream.read(&mut sink).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
