//! Floor 1: certificates and keys as data, and the files that hold egret's own.
pub mod anchors;
pub mod files;
pub mod issuer;
pub mod kek;
pub mod pem;
pub mod seal;
pub mod validate;
