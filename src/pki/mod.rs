//! Floor 1: certificates and keys as data.
pub mod anchors;
pub mod files;
pub mod issuer;
pub mod kek;
pub mod pem;
pub mod seal;
pub mod validate;
