//! A server that nobody vouches for, although a CA bundle of the project's account could.

use std::sync::Arc;

use super::{Forwarder, Inbound};
use crate::domain::ServerTrust;
use crate::registry::Accounts;
use crate::upstream::{Destination, Failure};

impl Forwarder {
    /// Says where the CA bundles are that may be bound to servers; the first word counts.
    pub fn vouched_for_by(&self, accounts: Arc<Accounts>) {
        let _ = self.accounts.set(accounts);
    }

    /// Names the bundle that has the issuer, with the command that binds it. Only the name of the issuer was compared:
    /// whether the bundle vouches is shown once it is bound.
    pub(super) fn name_voucher(&self, inbound: &Inbound, to: &Destination, failure: &mut Failure) {
        if failure.facts.unknown_issuers.is_empty() {
            return;
        }
        let (Some(accounts), Destination::Tls(origin)) = (self.accounts.get(), to) else { return };
        let snapshot = inbound.project.load();
        let info = snapshot.info();
        let Some(account) = info.account_id.as_deref().filter(|_| info.servers != ServerTrust::System) else { return };
        let issuers = failure.facts.unknown_issuers.iter();
        let mut bundles = issuers.filter_map(|issuer| accounts.bundle_with(account, issuer));
        let Some(id) = bundles.find(|id| snapshot.vouching().of(origin).all(|(bound, _)| bound != id)) else { return };
        failure.detail.push_str(&format!("; its issuer stands in CA bundle {id}, which is not bound to it"));
        let project = match info.name.as_str() {
            "default" => String::new(),
            name => format!(" --project '{name}'"),
        };
        failure.fix = Some(format!("egret certs bind{project} {origin} {id}"));
    }
}
