//! When an origin refuses a certificate that was promoted, the one before goes back in force.

use std::sync::Arc;

use super::{Forwarder, Inbound};
use crate::registry::{Binding, FallBack};
use crate::upstream::{Destination, Failure};

impl Forwarder {
    /// Says whom to ask when an origin refuses a certificate that was promoted; the first word counts.
    pub fn fall_back_by(&self, fall_back: Arc<dyn FallBack>) {
        let _ = self.fall_back.set(fall_back);
    }

    /// Whether something else than the certificate that was refused is in force by now. No lock is held meanwhile.
    pub(super) async fn fell_back(
        &self,
        inbound: &Inbound,
        to: &Destination,
        promoted: Option<&Binding>,
        failure: &Failure,
    ) -> bool {
        let (Some(fall_back), Some(binding), Destination::Tls(origin)) = (self.fall_back.get(), promoted, to) else {
            return false;
        };
        fall_back.fall_back(&inbound.project, binding, origin, failure.facts.alert.unwrap_or_default()).await
    }
}
