//! Floor 5: the data plane.
mod forward;
pub use forward::{Forwarder, Inbound, Way};
