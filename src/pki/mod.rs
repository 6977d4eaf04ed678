//! Floor 1: certificates and keys as data.
//!
//! What is uploaded is read ([`pem`]), judged ([`validate`]) and sealed ([`seal`]); servers are vouched for by
//! [`anchors`]; the leafs of intercepted tunnels come from [`issuer`].

pub mod anchors;
mod der;
pub mod issuer;
mod names;
pub mod pem;
pub mod seal;
#[cfg(test)]
mod testing;
pub mod validate;
