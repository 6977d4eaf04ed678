//! Floor 3: where sealed records rest.
//!
//! A backend never sees a key and never answers queries: it gets bytes that are sealed already, and
//! gives all of them back at start. What a record means is floor 5's business.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use futures_util::Stream;

mod feed;
mod memory;
mod sqlite;

pub use memory::MemoryBackend;
pub use sqlite::SqliteBackend;

/// A position in the history of a backend. Grows with every commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// A project made through the API.
    Project,
    /// A certificate with its key.
    Certificate,
    /// A binding.
    Binding,
    /// The interception CA.
    LocalCa,
    /// A token made through the API: the SHA-256 of its text, and what its holder may do.
    Token,
    /// A page of a project's disclosure ledger.
    Disclosures,
    /// What the lists of a project's zone hold, and which CA bundles vouch for its servers.
    Roster,
    /// A client certificate with its key, or a CA bundle, of an account.
    AccountCertificate,
}

impl RecordKind {
    /// Every kind there is.
    pub const ALL: [Self; 8] = [
        Self::Project,
        Self::Certificate,
        Self::Binding,
        Self::LocalCa,
        Self::Token,
        Self::Disclosures,
        Self::Roster,
        Self::AccountCertificate,
    ];

    /// The word under which it is stored and sealed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Certificate => "certificate",
            Self::Binding => "binding",
            Self::LocalCa => "local-ca",
            Self::Token => "token",
            Self::Disclosures => "disclosures",
            Self::Roster => "roster",
            Self::AccountCertificate => "account-certificate",
        }
    }

    /// The kind that [`RecordKind::as_str`] names.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }
}

/// The name of a record. Holds nothing secret: a binding's `id` is a keyed hash of its pattern.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// What it is.
    pub kind: RecordKind,
    /// The project it belongs to; empty for the local CA and for tokens, which may reach several; `account/` and an
    /// account's id for what several projects share.
    pub project: String,
    /// Unique within kind and project.
    pub id: String,
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.id)?;
        match self.project.strip_prefix("account/") {
            Some(account) => write!(f, " of account {account}"),
            None if self.project.is_empty() => Ok(()),
            None => write!(f, " of project {}", self.project),
        }
    }
}

/// A record as it rests: a version that grows with every put of this key, and opaque bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRecord {
    /// Its name.
    pub key: RecordKey,
    /// 1 for the first put of this key, then one more each time. Part of what is sealed.
    pub version: u64,
    /// The envelope.
    pub sealed: Vec<u8>,
}

/// What a commit expects of a key before it is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// No such record.
    Absent,
    /// The record at this version.
    Version(u64),
    /// Anything.
    Any,
}

/// One operation of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes the record.
    Put(SealedRecord, Expect),
    /// Writes another envelope around the same content: the record has to be there at this very version, which stays.
    /// For a change of the key-encryption key.
    Rewrap(SealedRecord),
    /// Removes it (nothing happens if it is absent and [`Expect::Any`]).
    Delete(RecordKey, Expect),
}

/// What changed in a backend that others write too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The position after it.
    pub revision: Revision,
    /// The operations, in order.
    pub ops: Vec<Op>,
}

/// All records and the position they were read at.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The records that could be read.
    pub records: Vec<SealedRecord>,
    /// Rows that could not even be read as records; each a sentence naming the row.
    pub damaged: Vec<String>,
    /// Those of `damaged` whose key is known: committed once, and now damaged or missing. For a commit they are absent.
    pub lost: Vec<RecordKey>,
    /// The position.
    pub revision: Revision,
}

/// Why a backend could not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// An [`Expect`] did not hold; nothing was changed.
    #[error("{0} was changed meanwhile")]
    Conflict(RecordKey),
    /// A newer egret wrote it.
    #[error(
        "the store was written by a newer egret (schema {found}, this one knows {known}); start that version, or restore a backup"
    )]
    Newer {
        /// Schema found.
        found: i64,
        /// Newest schema known.
        known: i64,
    },
    /// Others may read it.
    #[error("{path} may be read or written by others (mode {mode:o}); run: chmod {want:o} {path}")]
    Permissions {
        /// Which file or folder.
        path: String,
        /// Mode found.
        mode: u32,
        /// Mode wanted.
        want: u32,
    },
    /// The disk, the file system or the database said no.
    #[error("the store cannot be {doing}: {cause}")]
    Unavailable {
        /// `opened`, `read`, `written`.
        doing: &'static str,
        /// What it said; no record's content.
        cause: String,
    },
}

/// A boxed future: backends are on the cold path, so `dyn` is right.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// The feed of [`Backend::watch`].
pub type Changes = Pin<Box<dyn Stream<Item = Result<Change, BackendError>> + Send>>;

/// Where sealed records rest.
pub trait Backend: Send + Sync + 'static {
    /// All records.
    fn load(&self) -> BoxFuture<'_, Result<Loaded, BackendError>>;
    /// Does all of `ops` or none. When it has answered `Ok`, the change survives power loss.
    fn commit(&self, ops: Vec<Op>) -> BoxFuture<'_, Result<Revision, BackendError>>;
    /// What others change after `after`. Never ends while the backend lives.
    fn watch(&self, after: Revision) -> Changes;
}
