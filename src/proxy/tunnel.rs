//! Blind tunnels: bytes both ways, no certificate. A certificate *cannot* be applied here, so every tunnel says
//! in the log why it is one.
//!
//! One side's end is passed on and the other direction goes on (half-close). A tunnel in which nothing has moved
//! for `limits.tunnel_idle_timeout` is closed; the timer looks at the meter, so a chunk costs it nothing.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

use tokio::time::Instant;

use super::Inbound;
use super::listener::Client;
use super::serve::{Busy, Gate};
use crate::domain::Origin;
use crate::net::{Held, Io, Meter, Stream};
use crate::observe::{Exchange, Metrics};
use crate::upstream::{Destination, Failure};

/// Bytes that a direction holds at most.
const BUFFER: usize = 16 * 1024;

/// What a tunnel's line says.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) inbound: &'a Inbound,
    pub(super) origin: &'a Origin,
    pub(super) started: Instant,
    /// How long dialling took.
    pub(super) connect: Duration,
    /// Why it is blind.
    pub(super) why: &'a str,
}

/// How a tunnel ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Failed,
    Idle,
    Cut,
}

/// Copies until both sides have ended, one fails or is reset, it idles too long, or the proxy ends.
/// `busy` is that of its client's request.
pub(super) async fn run(
    client: &Arc<Client>,
    io: Held<Io<Stream>>,
    upstream: Stream,
    busy: Option<Busy>,
    facts: Facts<'_>,
) {
    let serving = &client.proxy.serving;
    let _open = Open::new(&serving.metrics);
    upstream.set_nodelay();
    let meter = io.meter().clone();
    let (read, written) = (meter.read() - io.waiting() as u64, meter.written());
    let cut = async {
        tokio::select! {
            () = Busy::gone(busy) => {}
            () = serving.abort.cancelled() => {}
        }
    };
    let end = copy(io, upstream, &meter, serving.limits.tunnel_idle_timeout(), cut).await;
    let origin = format!("{}:{}", facts.origin.host(), facts.origin.port());
    let parent = parent(client, facts);
    let mut line = line(client, facts, &origin);
    line.parent = parent.as_deref();
    line.complete = end == End::Closed;
    line.bytes_up = meter.read() - read;
    line.bytes_down = meter.written() - written;
    client.proxy.forwarder.access().write(&line);
    tracing::debug!(?end, origin = %facts.origin, "tunnel ended");
}

/// A tunnel that was answered with 200 and whose origin could not be reached afterwards.
pub(super) fn failed(client: &Client, failure: &Failure, facts: Facts<'_>) {
    let metrics = &client.proxy.serving.metrics;
    metrics.refused(failure.code);
    let origin = format!("{}:{}", facts.origin.host(), facts.origin.port());
    let parent = parent(client, facts);
    let mut line = line(client, facts, &origin);
    line.parent = parent.as_deref();
    line.complete = false;
    line.code = Some(failure.code.as_str());
    line.reason = Some(&failure.detail);
    client.proxy.forwarder.access().write(&line);
}

/// The parent proxy on the way of a tunnel.
fn parent(client: &Client, facts: Facts<'_>) -> Option<Arc<str>> {
    client.proxy.upstreams.parent(&Destination::Tls(facts.origin.clone()))
}

#[expect(clippy::ptr_arg, reason = "a str has no size, so a reference to one is no dyn Display")]
fn line<'a>(client: &'a Client, facts: Facts<'a>, origin: &'a String) -> Exchange<'a> {
    let mut line = Exchange::new(&client.entry.name, "tunnelled", client.peer, "CONNECT");
    line.project = Some(facts.inbound.project.id().as_str());
    line.origin = Some(origin);
    line.status = 200;
    line.reason = Some(facts.why);
    line.total = facts.started.elapsed();
    line.connect = Some(facts.connect);
    line
}

pub(super) async fn copy(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    mut upstream: impl AsyncRead + AsyncWrite + Unpin,
    meter: &Meter,
    idle: Duration,
    aborted: impl Future<Output = ()>,
) -> End {
    let mut copying = pin!(copy_bidirectional_with_sizes(&mut io, &mut upstream, BUFFER, BUFFER));
    let mut aborted = pin!(aborted);
    let mut sleep = pin!(tokio::time::sleep(idle));
    let mut gate = Gate::default();
    std::future::poll_fn(|cx| {
        if let Poll::Ready(result) = copying.as_mut().poll(cx) {
            return Poll::Ready(if result.is_ok() { End::Closed } else { End::Failed });
        }
        if !gate.opened(cx) {
            return Poll::Pending;
        }
        let cx = &mut gate.context();
        if aborted.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Cut);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            let left = idle.saturating_sub(meter.idle());
            if left.is_zero() {
                return Poll::Ready(End::Idle);
            }
            sleep.as_mut().reset(Instant::now() + left);
        }
        Poll::Pending
    })
    .await
}

/// Counts an open tunnel while it lives.
struct Open<'a>(&'a Metrics);

impl<'a> Open<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.tunnels.add();
        metrics.tunnels_opened.add();
        Self(metrics)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.tunnels.sub();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn passes_the_end_of_one_side_on_and_keeps_the_other_open() {
        let (mut client, near) = duplex(64);
        let (mut server, far) = duplex(64);
        let meter = Meter::new();
        let io = Io::new(near, meter.clone());
        let task = tokio::spawn(async move { copy(io, far, &meter, LONG, pending()).await });
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = String::new();
        server.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "question");
        server.write_all(b"answer").await.unwrap();
        server.shutdown().await.unwrap();
        let mut got = String::new();
        client.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "answer");
        assert_eq!(task.await.unwrap(), End::Closed);
    }

    #[tokio::test]
    async fn closes_a_tunnel_in_which_nothing_moves() {
        let (_client, near) = duplex(64);
        let (_server, far) = duplex(64);
        let meter = Meter::new();
        let io = Io::new(near, meter.clone());
        assert_eq!(copy(io, far, &meter, Duration::from_millis(30), pending()).await, End::Idle);
    }

    #[tokio::test]
    async fn is_cut_when_the_proxy_ends() {
        let (_client, near) = duplex(64);
        let (_server, far) = duplex(64);
        let meter = Meter::new();
        let io = Io::new(near, meter.clone());
        let abort = tokio_util::sync::CancellationToken::new();
        let token = abort.clone();
        let task = tokio::spawn(async move { copy(io, far, &meter, LONG, token.cancelled()).await });
        abort.cancel();
        assert_eq!(task.await.unwrap(), End::Cut);
    }
}
