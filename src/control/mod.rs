//! Floor 5: the only writers.
//!
//! Invariants:
//! - what was acknowledged is in the store, and what is in the store is what memory means: one commit per change,
//!   then one snapshot, under the project's writer lock;
//! - when a change that ends a certificate has answered, no new request can use that certificate;
//! - a private key leaves this floor only sealed.

mod accounts;
mod apply;
mod associate;
mod certificates;
mod declared;
mod disclosures;
mod expiry;
mod held;
mod layers;
mod load;
mod making_way;
mod outline;
mod plan;
mod projects;
mod quietly;
mod records;
pub mod rekey;
mod reload;
mod rollback;
mod shown;
mod stage;
mod store;
#[cfg(test)]
mod tests;
mod tokens;
mod vouching;

pub use accounts::{AccountUpload, AccountUse};
pub use associate::{EntryFault, EntryKind, Wanted};
pub use declared::{Depth, Entry, Files, Listing, examine, list};
pub use expiry::Warning;
pub use held::{Deploying, HeldUpload, Released};
pub use outline::{Outline, Unread, outline};
pub use reload::{ReloadReport, TRUST};
pub use shown::{Associated, Deployment, Shown};
pub use stage::{Pending, Promoted, Refused, trial_origin};

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::backend::SealedRecord;
use crate::config::LiveLimits;
use crate::domain::{CertificateId, Holder, Pattern, time as clock};
use crate::observe::{Events, Metrics};
use crate::pki::validate::Fault;
use crate::registry::{Accounts, Certificate, Disclosures, Registry, Token};

pub use tokens::{CreatedToken, NewToken};

/// An upload, dialect-free. Wiped when dropped.
pub struct Upload {
    /// Client chain, PEM.
    pub cert: Zeroizing<String>,
    /// Private key, PEM.
    pub key: Zeroizing<String>,
    /// CA bundle, PEM.
    pub ca: Zeroizing<String>,
    /// Where it is presented.
    pub pattern: Pattern,
    /// Leaves out chain, dates and EKU.
    pub skip_validation: bool,
    /// As [`Properties::tls13_only`] of its binding.
    pub tls13_only: Option<bool>,
}

/// What a binding says beside pattern and certificate; what is left out stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Properties {
    /// Whether plain http is lifted by it; true for a new binding.
    pub lift: Option<bool>,
    /// Whether its certificate is presented over TLS 1.3 only; false for a new binding.
    pub tls13_only: Option<bool>,
}

/// What became of an upload.
#[derive(Debug)]
pub struct Uploaded {
    /// The slot was occupied.
    pub updated: bool,
    /// Where it is presented.
    pub pattern: Pattern,
    /// The certificate (the old one if the material was identical).
    pub certificate: Arc<Certificate>,
}

/// How long what runs under a retired certificate may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// `limits.replace_grace` (for what was upgraded `limits.upgraded_grace`), or `limits.delete_grace`.
    Grace,
    /// `?drain=now`.
    Now,
}

/// Why a change was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Faults in the material.
    #[error("{}", faults_text(.0))]
    Invalid(Vec<Fault>),
    /// Another field is wrong: which, and what to do.
    #[error("{field}: {what}")]
    Field {
        /// JSON name.
        field: &'static str,
        /// What is wrong and what to do.
        what: String,
    },
    /// The slot or certificate is declared in this file.
    #[error("{0} is declared in {1}; change it there")]
    Declared(String, String),
    /// No such certificate, binding or project.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// The binding has no certificate that it could go back to.
    #[error(
        "there is no certificate to go back to: after an upload the one before is kept for limits.rollback_window, but not with drain=now, rollback = \"off\", or once it has expired; one of the zone's or the account's lists is still in its list: bind that one again"
    )]
    NoneKept,
    /// Something is in the way: a project of this name, id or zone, a token of this name, a full house.
    #[error("{0}")]
    Exists(String),
    /// The same certificate stands in this list already, under that id.
    #[error(
        "the same certificate is there already, as {0}; use that one, or delete it first if its key or its name is to be another"
    )]
    Duplicate(CertificateId),
    /// Something names it, in the words of the one who asks: what, and how to end that.
    #[error("{0}")]
    InUse(String),
    /// There are as many as a limit allows.
    #[error(
        "there are {most} {what}, as many as limits.{limit} allows; delete one that nothing needs, or raise the limit"
    )]
    Full {
        /// The key in `[limits]`.
        limit: &'static str,
        /// What it says.
        most: usize,
        /// Of what, and where.
        what: &'static str,
    },
    /// It belongs to the account, which several projects may share.
    #[error(
        "certificate {0} belongs to the account; remove its bindings (egret's DELETE …/bindings?origin=), or delete it among the account's mTLS certificates"
    )]
    OfAccount(CertificateId),
    /// A certificate was deleted before, and connections of it are finishing: how many, and until when at most.
    #[error(
        "certificate {0} was deleted; {1} of its connections are finishing, until {until} at most",
        until = clock::rfc3339(*.2)
    )]
    Ending(CertificateId, usize, OffsetDateTime),
    /// The certificate is in another list than the one that was asked.
    #[error("the certificate is one of {}, and this asks for one of {}", held.list(), wanted.list())]
    WrongList {
        /// Where it is.
        held: Holder,
        /// What was asked for.
        wanted: Holder,
    },
    /// Associations that were not made, each with its fault; nothing was changed.
    #[error("{}", associate::faults_text(.0))]
    Entries(Vec<EntryFault>),
    /// The token of who asks for it ended while the request was on its way.
    #[error("your token was revoked or has expired meanwhile; nothing was changed")]
    Revoked,
    /// The project is being transferred.
    #[error("the project is being transferred; its certificates cannot be changed until that has ended")]
    Transferring,
    /// The project is blocked.
    #[error("the project is blocked; uploads are not taken")]
    Blocked,
    /// A certificate was tried out and not put in force.
    #[error("{0}")]
    Unproven(Box<Refused>),
    /// Too much of this kind is under way; the same may be tried again.
    #[error("{0}")]
    Busy(String),
    /// The private key could not be encrypted.
    #[error("the private key could not be encrypted; nothing was changed")]
    Encrypting,
    /// It could not be stored; nothing was changed.
    #[error("the change could not be stored; nothing was changed: {0}")]
    Storing(String),
}

fn faults_text(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join(" | ")
}

/// The only writer of registry and store.
pub struct Control {
    inner: Arc<Inner>,
}

/// What a change needs; shared with the task that runs it.
struct Inner {
    registry: Arc<Registry>,
    /// What accounts hold.
    accounts: Arc<Accounts>,
    /// Each held while something of an account is added, deleted or bound. Taken after `membership` and before a
    /// project's writer lock.
    account_locks: accounts::Locks,
    store: store::Store,
    /// Changes with whom egret trusts.
    maker: ArcSwap<apply::Maker>,
    /// The configuration file, for those who must change something there.
    file: PathBuf,
    /// In force for all of egret; replaced when the file changes.
    limits: LiveLimits,
    /// Held while projects and tokens are made and deleted. Taken before a project's writer lock, never after.
    membership: tokio::sync::Mutex<()>,
    /// The interception CA as it rests. Held while it is made.
    local_ca: Arc<tokio::sync::Mutex<Option<SealedRecord>>>,
    /// Stored bindings that a declared one covers: kept in the store, in force again once the file lets go.
    shadowed: Mutex<load::Shadowed>,
    /// Stored tokens whose text is declared too.
    covered_tokens: Mutex<HashMap<[u8; 32], Token>>,
    /// What was read for the declared certificates in force. Held while the files are read again: one reading at a time.
    declared: tokio::sync::Mutex<HashMap<declared::Slot, declared::Held>>,
    /// What the last reading of the files found.
    findings: Mutex<reload::Findings>,
    /// The ends of certificates.
    ends: expiry::Ends,
    /// What happened, for whoever listens.
    events: Arc<Events>,
    /// Who was shown which certificate.
    disclosures: Arc<Disclosures>,
    /// Held while a part of that is written.
    ledger: tokio::sync::Mutex<()>,
    /// What replaced certificates are kept.
    keeping: rollback::Keeping,
    /// What is being tried out before it is put in force.
    staging: stage::Staging,
    /// What is stored and not published yet.
    deploying: held::Deployment,
    metrics: Arc<Metrics>,
}

/// What [`Control::load`] found.
#[derive(Debug, Default, Clone)]
pub struct LoadReport {
    /// Records that could not be opened; each a sentence that names the record.
    pub quarantined: Vec<String>,
    /// Declared certificates that could not be loaded; each a sentence that names file and fault.
    pub unloaded: Vec<String>,
    /// Those of which an older one stays in force, because the files are not whole.
    pub kept: Vec<String>,
    /// What else lies in the files and folders and could not be made sense of.
    pub faults: Vec<String>,
}

impl Control {
    /// What happens: the feed of changes, expiries and failures.
    #[must_use]
    pub fn events(&self) -> &Arc<Events> {
        &self.inner.events
    }

    /// What accounts hold.
    #[must_use]
    pub fn accounts(&self) -> &Arc<Accounts> {
        &self.inner.accounts
    }

    /// Who was shown which certificate: written by the dialler, kept in the store by [`Control::tend`].
    #[must_use]
    pub fn disclosures(&self) -> &Arc<Disclosures> {
        &self.inner.disclosures
    }

    /// The limits in force. Clones of them are what everything else reads.
    #[must_use]
    pub fn limits(&self) -> &LiveLimits {
        &self.inner.limits
    }

    /// What load found, and what is still so.
    #[must_use]
    pub fn report(&self) -> LoadReport {
        let findings = self.inner.findings.lock().expect("nothing panics while holding it").clone();
        let reload::Findings { kept, unloaded, faults } = findings;
        LoadReport { quarantined: self.inner.store.damage(), unloaded, kept, faults }
    }
}
