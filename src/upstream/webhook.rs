//! A receiver of warnings: small JSON texts, posted one after the other, tried again within bounds.
//!
//! What must stay true: it presents no client certificate; its path and token are shown to it alone; whoever hands over
//! a text never waits for it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use super::connect::{Handshake, Offer, server_name};
use super::route::secret_value;
use super::{Destination, Upstreams};
use crate::config::{WebhookSettings, WebhookTarget};
use crate::domain::{Code, ProjectId};
use crate::identity::UpstreamTls;

/// Tries for one text.
const TRIES: u32 = 5;
/// The pause after the first try; each further one is twice as long.
const PAUSE: Duration = Duration::from_secs(1);
/// One try, from the lookup of the name to the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// All tries for one text.
const DEADLINE: Duration = Duration::from_secs(60);
/// Of an answer's body so much is read, so that the receiver is not cut off while it says it.
const MAX_ANSWER: usize = 64 * 1024;

/// A receiver, with what is needed to reach it.
pub struct Webhook {
    upstreams: Arc<Upstreams>,
    /// Whose caches of names it uses: no project's.
    caches: ProjectId,
    to: Destination,
    host: HeaderValue,
    path: Zeroizing<String>,
    authorization: Option<HeaderValue>,
    tls: Arc<UpstreamTls>,
}

/// Why a try failed.
struct Unheard {
    why: String,
    again: bool,
}

impl Unheard {
    fn again(why: impl Into<String>) -> Self {
        Self { why: why.into(), again: true }
    }
}

impl Webhook {
    /// The receiver that `settings` name. `tls` says who vouches for it and presents nothing.
    #[must_use]
    pub fn new(settings: &WebhookSettings, tls: Arc<UpstreamTls>, upstreams: Arc<Upstreams>) -> Self {
        let (to, host) = match &settings.to {
            WebhookTarget::Https(origin) => (Destination::Tls(origin.clone()), origin.authority()),
            WebhookTarget::Http(target) => (Destination::Plain(target.clone()), target.authority()),
        };
        Self {
            upstreams,
            caches: ProjectId::derived("\0expiry_webhook", None),
            to,
            host: HeaderValue::from_str(&host).expect("an authority is visible ASCII"),
            path: settings.path.clone(),
            authorization: settings.token.as_ref().map(|token| secret_value("Bearer ", token)),
            tls,
        }
    }

    /// Posts what comes out of the queue, one after the other, until nobody can put anything into it any more.
    pub async fn deliver(self, mut queue: Receiver<Bytes>) {
        while let Some(json) = queue.recv().await {
            let metrics = &self.upstreams.pool.metrics;
            match self.post(&json).await {
                Ok(()) => metrics.webhook_delivered.add(),
                Err(why) => {
                    metrics.webhook_failed.add();
                    // Never its path: with many receivers that is the password.
                    tracing::warn!(to = %self.to, why, "telemetry.expiry_webhook did not take a warning");
                }
            }
        }
    }

    /// Posts one text, and tries again where that may help.
    async fn post(&self, json: &Bytes) -> Result<(), String> {
        let deadline = Instant::now() + DEADLINE;
        let (mut tried, mut pause) = (1, PAUSE);
        loop {
            let left = PATIENCE.min(deadline.saturating_duration_since(Instant::now()));
            let unheard = match timeout(left, self.once(json)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(unheard)) => unheard,
                Err(_) => Unheard::again(format!("no answer within {} s", left.as_secs())),
            };
            if !unheard.again || tried == TRIES || Instant::now() + pause > deadline {
                return Err(format!("{} (tries: {tried})", unheard.why));
            }
            sleep(pause).await;
            (tried, pause) = (tried + 1, pause * 2);
        }
    }

    async fn once(&self, json: &Bytes) -> Result<(), Unheard> {
        let dialer = &self.upstreams.dialer;
        let (host, port) = (self.to.host(), self.to.port());
        let via = self.upstreams.way(&self.to).parent();
        // Whom nobody vouches for now, nobody vouches for in a minute.
        let hopeless = |code: Code| matches!(code.as_str().split_once('.'), Some(("trust" | "policy" | "mtls", _)));
        let failed = |failure: super::Failure| Unheard { again: !hopeless(failure.code), why: failure.detail };
        match &self.to {
            Destination::Plain(_) => {
                let reached = dialer.reach(&self.caches, via.as_ref(), host, port).await;
                self.speak(reached.map_err(failed)?.0, json).await
            }
            Destination::Tls(origin) => {
                let name = server_name(host).map_err(failed)?;
                let how = (Handshake::Any, Offer::Http1);
                let secured = dialer.tls(&self.caches, &self.tls, via.as_ref(), origin, &name, how).await;
                self.speak(secured.map_err(failed)?.stream, json).await
            }
        }
    }

    async fn speak(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        json: &Bytes,
    ) -> Result<(), Unheard> {
        let lost = |error: hyper::Error| Unheard::again(format!("the connection broke: {error}"));
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.path.as_str())
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("egret/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close");
        let request = match &self.authorization {
            Some(token) => request.header(header::AUTHORIZATION, token),
            None => request,
        };
        let request = request.body(Full::new(json.clone())).map_err(|error| Unheard::again(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(lost)?;
            let status = response.status();
            // Whatever it says, and whether it says all of it: the status counts.
            let _ = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            Ok(status)
        };
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        let status = tokio::select! {
            biased;
            status = &mut exchange => status,
            // What it ended with is what the exchange fails with, or has come already.
            _ = &mut connection => exchange.await,
        }?;
        judge(status)
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("to", &self.to).finish_non_exhaustive()
    }
}

/// Redirects are followed nowhere: what they lead to is not what the operator named.
fn judge(status: StatusCode) -> Result<(), Unheard> {
    let again =
        status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT || status == StatusCode::TOO_MANY_REQUESTS;
    match status.is_success() {
        true => Ok(()),
        false => Err(Unheard { why: format!("it answered with status {}", status.as_u16()), again }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_again_only_where_that_may_help() {
        let outcome = |code: u16| judge(StatusCode::from_u16(code).unwrap()).map_err(|unheard| unheard.again);
        assert_eq!([200, 202, 204].map(outcome), [Ok(()); 3]);
        assert_eq!([500, 502, 503, 408, 429].map(outcome), [Err(true); 5]);
        assert_eq!([301, 307, 400, 401, 404, 410].map(outcome), [Err(false); 6]);
    }
}
