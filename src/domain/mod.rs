//! Floor 0: the words of the field. No I/O, no locks, no TLS.
//!
//! Everything here is a plain value. What is parsed here is never checked again above:
//! an [`Origin`] *is* canonical, a [`Pattern`] *is* allowed.

mod certificate;
mod code;
mod endpoint;
mod expiry;
mod host_pattern;
mod origin;
mod pattern;
mod project;
pub mod time;

pub(crate) use certificate::hex;
pub use certificate::{
    CertificateId, CertificateInfo, Fingerprint, Holder, KeyKind, SKEW, Source, Validity, serial_decimal,
};
pub use code::Code;
pub use endpoint::{Endpoint, EndpointError, Peer};
pub use expiry::{Ending, Threshold};
pub use host_pattern::{HostPattern, holds, parse_network};
pub use origin::{HTTP_PORT, HTTPS_PORT, Host, HostKind, HttpTarget, Origin, OriginError};
pub use pattern::{Pattern, PortRule, Rule};
pub use project::{
    DefaultScope, Lift, OnExpiry, ProjectId, ProjectInfo, ProjectState, Role, Rollback, ServerTrust, Team,
};
