//! A request that asks to become something else: always HTTP/1.1, on a connection of its own.

use std::sync::Arc;

use http::Request;
use tokio::time::{Instant, timeout};

use super::checkout::Carrier;
use super::prepare::{self, Second};
use super::send::{Lease, Lost, Spared, explained, is_rejection, with_facts};
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
        let spared = request.extensions().get::<Spared>().is_some();
        let mut conn = match self.open_upgradable(project, &bucket).await {
            Ok(Some(conn)) => conn,
            Ok(None) => return Err(Refusal::Retired(Box::new(request))),
            Err(failure) if spared && is_rejection(&failure) => {
                return Err(Refusal::rejected(failure, Some(request)));
            }
            Err(failure) => return Err(Refusal::Failed(failure)),
        };
        let connecting = began.elapsed();
        prepare::http1(&mut request, &bucket).map_err(Refusal::Failed)?;
        let second = spared.then(|| Second::new(&request));
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
                let failure = with_facts(failure, &carrier, true);
                match second.filter(|_| silent && is_rejection(&failure)) {
                    Some(second) => Err(Refusal::rejected(failure, second.request())),
                    None => Err(Refusal::Failed(failure)),
                }
            }
            Err(_) => {
                let failure = Failure::new(Code::NetTimeout, format!("{to} sent no response within {limit:?}"));
                Err(Refusal::Failed(with_facts(failure, &carrier, true)))
            }
        }
    }
}
