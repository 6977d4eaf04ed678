//! Floor 1: certificates and keys as data.
pub mod anchors;
pub mod issuer;
pub mod pem;
pub mod seal;
pub mod validate;
