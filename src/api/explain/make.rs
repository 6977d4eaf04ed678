//! How an explanation is put together: selection, validity, scope, policy, memory, ways in.

use std::collections::HashMap;
use std::sync::Arc;

use time::OffsetDateTime;

use super::super::bindings::file_of;
use super::words::{self, Facts};
use super::{
    ExplainedBinding, ExplainedCertificate, ExplainedFacts, ExplainedMemory, ExplainedPolicy, ExplainedProject,
    ExplainedRoute, ExplainedScope, ExplainedTreatment, ExplainedVouch, ExplainedWay, Explanation, Refusal, Scheme,
    Usability, Verdict, Wanted,
};
use crate::control::Unread;
use crate::domain::time::rfc3339;
use crate::domain::{
    CertificateId, CertificateInfo, DefaultScope, Holder, OnExpiry, Origin, Pattern, Rule, ServerTrust, Validity,
};
use crate::identity::Presented;
use crate::policy::{Denied, EgressPolicy};
use crate::registry::{
    Binding, Foresight, Lifting, Refused, Remembered, Selection, Snapshot, Target, Treatment, Vouch, WayIn,
};
use crate::upstream::{Destination, Route};

/// Knows the way to a destination.
type Router = Box<dyn Fn(&Destination) -> Route + Send + Sync>;

/// Explains.
pub struct Explainer {
    policy: Arc<EgressPolicy>,
    foresight: Arc<dyn Foresight>,
    route: Option<Router>,
    /// `None`: egret runs, and every certificate is loaded.
    unread: Option<HashMap<CertificateId, Unread>>,
}

impl Explainer {
    /// Of a running egret.
    #[must_use]
    pub fn new(policy: Arc<EgressPolicy>, foresight: Arc<dyn Foresight>) -> Self {
        Self { policy, foresight, route: None, unread: None }
    }

    /// Without a running egret: `unread` are the certificates that stand in the snapshots as unavailable, though they
    /// merely were not loaded.
    #[must_use]
    pub fn offline(mut self, unread: HashMap<CertificateId, Unread>) -> Self {
        self.unread = Some(unread);
        self
    }

    /// Says who knows the way to a destination: direct, or through a parent proxy. Without it no way is told.
    #[must_use]
    pub fn with_route(mut self, route: impl Fn(&Destination) -> Route + Send + Sync + 'static) -> Self {
        self.route = Some(Box::new(route));
        self
    }

    /// What happens with `wanted` in the project that means `snapshot`.
    #[must_use]
    pub fn explain(&self, snapshot: &Snapshot, wanted: &Wanted, now: OffsetDateTime) -> Explanation {
        let (origin, plain) = (wanted.origin(), wanted.plain());
        let selection = snapshot.select(&origin);
        let lifting = plain.map(|_| snapshot.lifting(&origin));
        // Plain http that stays plain has no TLS: nothing that is selected matters.
        let secure = lifting.as_ref().is_none_or(Lifting::is_lifted);
        let certificate = selection.binding.as_deref().and_then(|b| self.certificate(snapshot, b, now));
        let denied = self.judge(wanted, secure, &origin);
        let refused = if secure { self.refused(snapshot, &selection, &origin, now) } else { None };
        let excluded = snapshot.info().default_scope.excludes(&origin);
        let has_default = snapshot.in_force(&Pattern::Default).is_some_and(|b| !matches!(b.target, Target::None));
        let outcome = if denied.is_some() {
            Verdict::Denied
        } else if !secure {
            Verdict::Plain
        } else if refused.is_some() {
            Verdict::Refused
        } else {
            match selection.rule {
                Rule::Exact | Rule::Wildcard | Rule::Default => Verdict::Certificate,
                Rule::None => Verdict::None,
                Rule::Nothing if excluded && has_default => Verdict::Withheld,
                Rule::Nothing => Verdict::Nothing,
            }
        };
        let remembered = self.foresight.remembers(snapshot, &origin).filter(|_| secure);
        let trace = words::trace(&snapshot.trace(&origin));
        let near_misses = words::near_misses(&snapshot.near_misses(&origin), &origin);
        let destination = match plain {
            Some(target) if !secure => Destination::Plain(target.clone()),
            _ => Destination::Tls(origin.clone()),
        };
        let route = self.route.as_ref().filter(|_| denied.is_none()).map(|route| route(&destination));
        let (vouched_by, vouching_nothing) =
            if secure { self.vouched_by(snapshot, &origin) } else { (Vec::new(), Vec::new()) };
        let facts = Facts {
            wanted,
            origin: &origin,
            snapshot,
            outcome,
            selection: &selection,
            certificate: certificate.as_ref(),
            denied: denied.as_ref(),
            refused: refused.as_ref(),
            remembered: remembered.as_ref(),
            lifting: lifting.as_ref(),
            route: route.as_ref(),
            near: &near_misses,
            vouched_by: &vouched_by,
            vouching_nothing: &vouching_nothing,
        };
        Explanation {
            summary: words::summary(&facts),
            notes: words::notes(&facts),
            fix: words::fix(&facts),
            outcome,
            scheme: if plain.is_some() { Scheme::Http } else { Scheme::Https },
            project: ExplainedProject { id: snapshot.info().id.to_string(), name: snapshot.info().name.clone() },
            rule: selection.rule.as_str(),
            binding: selection.binding.as_deref().map(binding),
            certificate,
            refusal: refused.map(|refused| Refusal { code: refused.code.as_str(), message: refused.detail }),
            scope: scope(snapshot, selection.rule, excluded, has_default),
            ways: self.ways(snapshot, wanted, &origin, denied.is_some()),
            vouched_by,
            policy: policy(denied),
            remembered: remembered.map(memory),
            route: route.map(way_out),
            trace,
            near_misses,
            live: self.unread.is_none(),
            origin: origin.to_string(),
        }
    }

    /// The name; and the address, where the host is one.
    fn judge(&self, wanted: &Wanted, secure: bool, origin: &Origin) -> Option<Denied> {
        let port = match wanted.plain() {
            Some(target) if !secure => target.port(),
            _ => origin.port(),
        };
        let host = origin.host();
        let judged = self.policy.judge_origin(host, port, secure);
        judged.and_then(|()| host.ip().map_or(Ok(()), |ip| self.policy.judge_address((ip, port).into()))).err()
    }

    fn certificate(&self, snapshot: &Snapshot, binding: &Binding, now: OffsetDateTime) -> Option<ExplainedCertificate> {
        let on_expiry = match snapshot.info().on_expiry {
            OnExpiry::Refuse => "refuse",
            OnExpiry::Send => "send",
        };
        let of = |info: &CertificateInfo| ExplainedCertificate {
            id: Some(info.id.to_string()),
            status: match info.validity(now) {
                Validity::Valid => Usability::Usable,
                Validity::NotYet(_) => Usability::NotYetValid,
                Validity::Expired(_) => Usability::Expired,
            },
            why: None,
            on_expiry,
            holder: Some(info.holder.as_str()),
            facts: Some(ExplainedFacts {
                fingerprint: info.fingerprint.to_string(),
                subject: info.subject.clone(),
                issuer: info.issuer.clone(),
                not_before: rfc3339(info.not_before),
                not_after: rfc3339(info.not_after),
                days_left: info.days_left(now),
            }),
        };
        Some(match &binding.target {
            Target::None => return None,
            Target::Certificate(certificate) => of(&certificate.info),
            Target::Unavailable(unavailable) => {
                let unread = self.unread(&unavailable.id);
                let (status, why) = match unread {
                    Some(Unread::Declared(info)) => return Some(ExplainedCertificate { id: None, ..of(info) }),
                    Some(Unread::Sealed | Unread::SealedInAccount(_)) => (
                        Usability::Sealed,
                        "it lies in the store with its key, which is not opened for this; a running egret tells its dates",
                    ),
                    None => (Usability::Unavailable, unavailable.why.as_str()),
                };
                let is_of_account = matches!(unread, Some(Unread::SealedInAccount(_)));
                ExplainedCertificate {
                    id: Some(unavailable.id.to_string()),
                    status,
                    why: Some(why.to_owned()),
                    on_expiry,
                    holder: is_of_account.then(|| Holder::Account.as_str()),
                    facts: None,
                }
            }
        })
    }

    /// The CA bundles that vouch for the server of an origin, and the ids of those that are bound to it in vain.
    fn vouched_by(&self, snapshot: &Snapshot, origin: &Origin) -> (Vec<ExplainedVouch>, Vec<String>) {
        let of = |(id, pattern): (&CertificateId, &Pattern)| ExplainedVouch {
            cert_id: id.to_string(),
            pattern: pattern.to_string(),
        };
        let covers = |vouch: &&Vouch| vouch.pattern.covers(origin);
        let bound =
            snapshot.roster().vouching.iter().filter(covers).map(|vouch| of((&vouch.certificate, &vouch.pattern)));
        if snapshot.info().servers == ServerTrust::System {
            return (Vec::new(), bound.map(|vouch| vouch.cert_id).collect());
        }
        if self.unread.is_some() {
            // What is in the bundles was not read.
            return (bound.collect(), Vec::new());
        }
        let vouching: Vec<_> = snapshot.vouching().of(origin).map(of).collect();
        let in_vain = bound.filter(|vouch| !vouching.contains(vouch)).map(|vouch| vouch.cert_id).collect();
        (vouching, in_vain)
    }

    fn unread(&self, id: &CertificateId) -> Option<&Unread> {
        self.unread.as_ref()?.get(id)
    }

    /// What the data plane says; of a certificate that merely was not loaded, what it would say if it were.
    fn refused(
        &self,
        snapshot: &Snapshot,
        selection: &Selection,
        origin: &Origin,
        now: OffsetDateTime,
    ) -> Option<Refused> {
        let id = selection.binding.as_deref().and_then(|b| b.target.certificate_id());
        match id.and_then(|id| self.unread(id)) {
            None => self.foresight.refuses(snapshot, origin),
            Some(Unread::Sealed | Unread::SealedInAccount(_)) => None,
            Some(Unread::Declared(info)) => {
                let sent_anyway = info.skip_validation || snapshot.info().on_expiry == OnExpiry::Send;
                words::outlived(info, origin, now).filter(|_| !sent_anyway)
            }
        }
    }

    fn ways(&self, snapshot: &Snapshot, wanted: &Wanted, origin: &Origin, denied: bool) -> Vec<ExplainedWay> {
        let of = |way: WayIn| ExplainedWay {
            listener: way.listener,
            request: way.request,
            treatment: if denied { ExplainedTreatment::Refused } else { way.treatment.into() },
            why: if denied { "[egress] does not let it be reached".to_owned() } else { way.why },
        };
        self.foresight.ways(snapshot, origin, wanted.plain()).into_iter().map(of).collect()
    }
}

impl From<Treatment> for ExplainedTreatment {
    fn from(treatment: Treatment) -> Self {
        match treatment {
            Treatment::Tls => Self::Tls,
            Treatment::Lift => Self::Lifted,
            Treatment::Plain => Self::Plain,
            Treatment::Intercept => Self::Intercepted,
            Treatment::AskFirst => Self::AskedFirst,
            Treatment::Tunnel => Self::Tunnelled,
            Treatment::Refuse => Self::Refused,
        }
    }
}

fn binding(binding: &Binding) -> ExplainedBinding {
    ExplainedBinding {
        pattern: binding.pattern.to_string(),
        source: binding.source.as_str(),
        tls13_only: binding.tls13_only,
        file: file_of(&binding.source),
    }
}

fn scope(snapshot: &Snapshot, rule: Rule, excluded: bool, has_default: bool) -> ExplainedScope {
    let (scope, why) = match &snapshot.info().default_scope {
        DefaultScope::Any => {
            ("any", "shown to every origin that asks, unless it lists CAs and none of ours is among them")
        }
        DefaultScope::Hinted => ("hinted", "shown only where the origin lists one of the certificate's issuers"),
        DefaultScope::Listed(_) if excluded => ("listed", "default.origins of the project does not list this origin"),
        DefaultScope::Listed(_) => ("listed", "default.origins of the project lists this origin"),
    };
    let why = match rule {
        Rule::Exact | Rule::Wildcard => {
            "exact and wildcard bindings are always shown to an origin that asks".to_owned()
        }
        Rule::None => "a binding says that nothing is presented here".to_owned(),
        Rule::Nothing if !has_default => "the project has no project-wide certificate".to_owned(),
        Rule::Nothing | Rule::Default => why.to_owned(),
    };
    let applies = matches!(rule, Rule::Default | Rule::Nothing) && has_default;
    ExplainedScope { scope, applies, withheld: applies && excluded, why }
}

fn policy(denied: Option<Denied>) -> ExplainedPolicy {
    ExplainedPolicy {
        allowed: denied.is_none(),
        code: denied.as_ref().map(|denied| denied.code.as_str()),
        why: denied.map(|denied| denied.why),
    }
}

fn way_out(route: Route) -> ExplainedRoute {
    ExplainedRoute {
        summary: route.to_string(),
        parent: route.parent.map(|parent| parent.to_string()),
        rule: route.rule,
        resolved_by_parent: route.resolved_by_parent,
        why: route.why,
    }
}

fn memory(remembered: Remembered) -> ExplainedMemory {
    ExplainedMemory {
        asked: remembered.asked,
        acceptable_cas: remembered.cas,
        acceptable_ca_count: remembered.ca_count,
        presented: remembered.presented.map(|presented| match presented {
            Presented::Sent => "sent",
            Presented::NothingRegistered => "nothingRegistered",
            Presented::Withheld => "withheld",
            Presented::NoCommonScheme => "noCommonScheme",
        }),
        shown: remembered.shown,
    }
}
