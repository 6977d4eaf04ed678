//! A request that asks to become something else: always HTTP/1.1, on a connection of its own.

use std::sync::Arc;

use http::Request;
use tokio::time::{Instant, timeout};

use super::checkout::Carrier;
use super::prepare;
use super::send::{Lease, Lost, explained, with_facts};
use super::{Destination, Failure, Refusal, Reply, RequestBody, Upstreams};
use crate::domain::{Code, ProjectId};
use crate::identity::UpstreamTls;

impl Upstreams {
    /// Sends a request for an upgrade, whose head says so already. A 101 comes back with hyper's `OnUpgrade` among its
    /// extensions, and [`Lease::upgraded`] is the hold on what it becomes; any other answer is an ordinary one. It is
    /// sent once.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn upgrade(
        &self,
        project: &ProjectId,
        tls: &Arc<UpstreamTls>,
        to: &Destination,
        mut request: Request<RequestBody>,
    ) -> Result<Reply, Refusal> {
        let bucket = self.pool.bucket(project, tls, self.way(to), to).map_err(Refusal::Failed)?;
        bucket.touch();
        let began = Instant::now();
        let Some(mut conn) = self.open_upgradable(project, &bucket).await.map_err(Refusal::Failed)? else {
            return Err(Refusal::Retired(Box::new(request)));
        };
        let connecting = began.elapsed();
        prepare::http1(&mut request, &bucket).map_err(Refusal::Failed)?;
        let (about, meter) = (conn.about.clone(), conn.meter.clone());
        let received = meter.read();
        let interim = self.watch_interim(&mut request, &meter);
        let limit = self.pool.limits.response_timeout();
        let outcome = timeout(limit, conn.sender.try_send_request(request)).await;
        let carrier = Carrier::One(conn);
        match outcome {
            Ok(Ok(response)) => {
                drop(interim);
                about.answered();
                Ok(Reply {
                    response,
                    lease: Lease::new(self.pool.clone(), bucket, carrier, None),
                    reused: false,
                    resumed: about.resumed,
                    address: about.address,
                    tls_version: about.version,
                    asked: about.asked.clone(),
                    connecting,
                    upload: None,
                    meter,
                })
            }
            Ok(Err(error)) => {
                let silent = meter.read() == received;
                let lost = Lost { to, carrier: &carrier, reused: false, silent, first: true };
                let failure = explained(&error.into_error(), &lost, None).await;
                Err(Refusal::Failed(with_facts(failure, &carrier, true)))
            }
            Err(_) => {
                let failure = Failure::new(Code::NetTimeout, format!("{to} sent no response within {limit:?}"));
                Err(Refusal::Failed(with_facts(failure, &carrier, true)))
            }
        }
    }
}
