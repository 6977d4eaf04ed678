//! Whether plain http goes on over TLS, and why: one decision, for requests and for those who ask about them.

use std::sync::Arc;

use super::{Binding, Selection, Snapshot};
use crate::domain::{Lift, Origin, Rule};

/// What becomes of a plain http request that names an origin (its port 80 already made 443), and why.
#[derive(Debug, Clone)]
pub enum Lifting {
    /// Lifted: an exact or wildcard binding is for the origin.
    Bound,
    /// Lifted with whatever is selected: the project says `lift = "always"`.
    Always,
    /// Not lifted: the project says `lift = "never"`.
    Never,
    /// Not lifted: this binding is *none*.
    Nothing(Arc<Binding>),
    /// Not lifted: this binding, which applies, says `lift = false`.
    Declined(Arc<Binding>),
    /// Not lifted: no exact or wildcard binding is for the origin.
    Unbound,
}

impl Lifting {
    /// Whether it goes on over TLS.
    #[must_use]
    pub fn is_lifted(&self) -> bool {
        matches!(self, Self::Bound | Self::Always)
    }

    /// Why, in words; `to` is the origin that was decided about.
    #[must_use]
    pub fn why(&self, to: &Origin) -> String {
        match self {
            Self::Bound => format!("{to} is bound, so plain http to it is lifted to TLS"),
            Self::Always => format!("the project says lift = \"always\", so plain http is lifted to {to}"),
            Self::Never => "the project says lift = \"never\"".to_owned(),
            Self::Nothing(_) => format!("a binding says that nothing is presented to {to}, so it is not lifted"),
            Self::Declined(binding) => format!("the binding of {} says lift = false", binding.pattern),
            Self::Unbound => format!("no exact or wildcard binding of a certificate covers {to}, so it is not lifted"),
        }
    }
}

impl Snapshot {
    /// Whether a plain http request that names `origin` (its port 80 already made 443) goes on over TLS: as
    /// [`ProjectInfo::lift`](crate::domain::ProjectInfo::lift) says, unless the binding that applies is *none* or says no.
    #[must_use]
    pub fn lifting(&self, origin: &Origin) -> Lifting {
        let lift = self.info().lift;
        if lift == Lift::Never {
            return Lifting::Never;
        }
        let Selection { rule, binding, .. } = self.select(origin);
        match (rule, binding) {
            (Rule::None, Some(binding)) => Lifting::Nothing(binding),
            (Rule::Exact | Rule::Wildcard, Some(binding)) if !binding.lift => Lifting::Declined(binding),
            (Rule::Exact | Rule::Wildcard, _) => Lifting::Bound,
            (Rule::Default | Rule::Nothing | Rule::None, _) if lift != Lift::Always => Lifting::Unbound,
            (_, Some(binding)) if !binding.lift => Lifting::Declined(binding),
            _ => Lifting::Always,
        }
    }

    /// Whether [`Snapshot::lifting`] lifts it.
    #[must_use]
    pub fn lifts(&self, origin: &Origin) -> bool {
        self.lifting(origin).is_lifted()
    }
}
