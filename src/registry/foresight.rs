//! What the data plane would do with a request that has not come: the view that explanations need of it.
//!
//! Floor 6 has two halves that never import each other. The proxy fills this in with the very functions that decide
//! about requests, so that what is explained cannot differ from what is done.

use super::Snapshot;
use crate::domain::{Code, HttpTarget, Origin};
use crate::identity::Presented;

/// What becomes of a request on its way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// Sent over TLS with whatever is selected.
    Tls,
    /// Plain http that is lifted to TLS with what is selected.
    Lift,
    /// Sent on over plain http, without any certificate.
    Plain,
    /// The tunnel is intercepted, and what is inside goes out with the identity.
    Intercept,
    /// The origin is asked first whether it wants a certificate; only then is the tunnel intercepted.
    AskFirst,
    /// A blind tunnel: no certificate can be applied.
    Tunnel,
    /// Refused before anything is sent: `[egress]` does not let it be reached.
    Refuse,
}

/// A way in and what happens there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayIn {
    /// The listener's name.
    pub listener: String,
    /// What a client sends there, such as `CONNECT api.example.com:443`.
    pub request: String,
    /// What becomes of it.
    pub treatment: Treatment,
    /// Why, in words.
    pub why: String,
}

/// Why a selected certificate is not sent, and the request fails at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The code that the request is answered with.
    pub code: Code,
    /// In words.
    pub detail: String,
    /// The one command that mends it.
    pub fix: Option<String>,
}

/// What is remembered of an origin's wish for a certificate. Gone with the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Whether it asked for one.
    pub asked: bool,
    /// The CAs that it listed, RFC 4514; the first of them.
    pub cas: Vec<String>,
    /// How many it listed.
    pub ca_count: usize,
    /// What was done about it in the last full handshake; `None` where it was only asked.
    pub presented: Option<Presented>,
    /// Whether what is selected now would be shown to an origin that asks so.
    pub shown: bool,
}

/// See the module.
pub trait Foresight: Send + Sync {
    /// What would happen at each listener that the project's callers can use. `plain` = it is an `http://` request, and
    /// `origin` is where it would be lifted to.
    fn ways(&self, snapshot: &Snapshot, origin: &Origin, plain: Option<&HttpTarget>) -> Vec<WayIn>;

    /// Why what is selected for `origin` would not be sent; `None` if it would.
    fn refuses(&self, snapshot: &Snapshot, origin: &Origin) -> Option<Refused>;

    /// What is remembered of `origin`.
    fn remembers(&self, snapshot: &Snapshot, origin: &Origin) -> Option<Remembered>;
}
