//! Floor 5: the data plane.
pub mod error;
mod forward;
pub mod headers;
pub use forward::{Forwarder, Inbound, Way};
