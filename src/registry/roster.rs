//! What the lists of a project's zone hold, and which CA bundles vouch for its servers: all that a project means beside
//! its bindings.

use time::OffsetDateTime;

use crate::domain::{CertificateId, Holder, Pattern};

/// The lists of a project.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roster {
    /// Whether the newest certificate of [`Holder::Zone`] is presented project-wide.
    pub zone_enabled: bool,
    /// The certificates that lists hold, in the order in which they were uploaded.
    pub held: Vec<Held>,
    /// CA bundles that vouch for servers, in the order in which they were bound.
    pub vouching: Vec<Vouch>,
    /// Its record could not be read, and since then nobody has said whether the zone is on. The certificates that the lists
    /// held are counted among those for hostnames, where none is presented by itself.
    pub damaged: bool,
}

/// A certificate that a list of the project holds, whether or not anything names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its id.
    pub id: CertificateId,
    /// Which list: [`Holder::Zone`] or [`Holder::Hostnames`].
    pub holder: Holder,
    /// When it was uploaded, whole microseconds. Of two project-wide ones the later is presented.
    pub since: OffsetDateTime,
    /// The id of the token that uploaded it.
    pub by: String,
}

/// A CA bundle of the project's account that vouches for the servers that a pattern covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouch {
    /// Which servers; [`Pattern::Default`]: all that the project talks to.
    pub pattern: Pattern,
    /// The bundle.
    pub certificate: CertificateId,
    /// Since when, whole microseconds.
    pub since: OffsetDateTime,
}

impl Roster {
    /// What is held in one list, oldest first.
    pub fn of(&self, holder: Holder) -> impl DoubleEndedIterator<Item = &Held> {
        self.held.iter().filter(move |held| held.holder == holder)
    }

    /// The entry of a certificate.
    #[must_use]
    pub fn entry(&self, id: &CertificateId) -> Option<&Held> {
        self.held.iter().find(|held| held.id == *id)
    }

    /// The zone certificate that is presented project-wide, unless something newer is.
    #[must_use]
    pub fn newest_of_zone(&self) -> Option<&Held> {
        self.of(Holder::Zone).next_back().filter(|_| self.zone_enabled)
    }

    /// Whether there is nothing in it, as of a project that never had a list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
