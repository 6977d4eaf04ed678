//! Why a selection came out as it did: every place that was looked at, in order, and what is bound close by.
//!
//! [`Snapshot::select`] decides; this only tells. A property test holds the two together.

use std::sync::Arc;

use super::{Binding, Snapshot};
use crate::domain::{Host, Origin, Pattern, PortRule};

/// Near misses that are told at most.
const MAX_NEAR: usize = 8;

/// A place that a selection looks at.
#[derive(Debug, Clone)]
pub struct Step {
    /// The pattern of the place; `None` where the host can have none (an address, a name directly below a public suffix).
    pub pattern: Option<Pattern>,
    /// Which place it is.
    pub place: Place,
    /// What was found there.
    pub outcome: Outcome,
}

/// The places, in the order in which they are looked at (product.md section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// This host, this port.
    HostPort,
    /// This host, every port.
    HostAnyPort,
    /// A wildcard above this host, this port.
    WildcardPort,
    /// A wildcard above this host, every port.
    WildcardAnyPort,
    /// The project-wide slot.
    Default,
}

/// What was found in a place.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// A binding, and it is the one.
    Chosen(Arc<Binding>),
    /// A binding, but one further up was chosen already.
    Overruled(Arc<Binding>),
    /// A binding that `default.scope` keeps from this origin.
    OutOfScope(Arc<Binding>),
    /// Nothing is bound there.
    Unbound,
    /// There is no such place for this host.
    Impossible,
}

impl Snapshot {
    /// Every place that [`Snapshot::select`] looks at, in its order. At most one is [`Outcome::Chosen`], and it is the
    /// binding that `select` answers with; none is if it answers with nothing.
    #[must_use]
    pub fn trace(&self, origin: &Origin) -> Vec<Step> {
        let selected = self.select(origin).binding;
        let host = origin.host();
        let rules = [PortRule::Exact(origin.port()), PortRule::Any];
        let exact = rules.map(|port| Some(Pattern::Host(host.clone(), port)));
        // Not above a public suffix: no binding can have such a pattern.
        let can_be = |pattern: &Pattern| Pattern::parse(&pattern.to_string()).is_ok();
        let wildcard =
            rules.map(|port| host.parent().map(|suffix| Pattern::Wildcard(suffix.into(), port)).filter(can_be));
        let places = [Place::HostPort, Place::HostAnyPort, Place::WildcardPort, Place::WildcardAnyPort, Place::Default];
        let patterns = exact.into_iter().chain(wildcard).chain([Some(Pattern::Default)]);
        places
            .into_iter()
            .zip(patterns)
            .map(|(place, pattern)| {
                let outcome = match &pattern {
                    None => Outcome::Impossible,
                    Some(pattern) => self.outcome(pattern, origin, selected.as_ref()),
                };
                Step { pattern, place, outcome }
            })
            .collect()
    }

    fn outcome(&self, pattern: &Pattern, origin: &Origin, selected: Option<&Arc<Binding>>) -> Outcome {
        if let Some(selected) = selected.filter(|s| s.pattern == *pattern) {
            // A damaged record stands where its binding would; `select` made the one that says so.
            return Outcome::Chosen(selected.clone());
        }
        match self.in_force(pattern) {
            None => Outcome::Unbound,
            Some(binding) if *pattern == Pattern::Default && self.info().default_scope.excludes(origin) => {
                Outcome::OutOfScope(binding)
            }
            Some(binding) => Outcome::Overruled(binding),
        }
    }

    /// Bindings that a person may have meant, and that do not match: the same host on other ports, wildcards over other
    /// numbers of labels, hosts above this one, and all of these on any port. At most 8, the closest first.
    #[must_use]
    pub fn near_misses(&self, origin: &Origin) -> Vec<Arc<Binding>> {
        let host = origin.host();
        let mut near: Vec<Arc<Binding>> = Vec::new();
        let mut add = |bindings: Vec<Arc<Binding>>| {
            for binding in bindings {
                if near.len() < MAX_NEAR && !binding.pattern.covers(origin) {
                    near.push(binding);
                }
            }
        };
        add(self.on_any_port(host));
        // The apex: `*.example.com` does not cover `example.com`.
        add(self.below(host.as_str()));
        let mut above = host.parent();
        while let Some(name) = above {
            add(self.below(name));
            let parent = Host::parse(name).ok();
            add(parent.map(|host| self.on_any_port(&host)).unwrap_or_default());
            above = name.split_once('.').map(|(_, rest)| rest);
        }
        near
    }
}
