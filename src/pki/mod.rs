//! Floor 2: certificates and keys as data, and the files that hold egret's own.
//!
//! What people are handed becomes PEM on their own machine ([`convert`]). What is uploaded is read ([`pem`]), judged
//! ([`validate`]) and sealed ([`seal`]) under the key-encryption key ([`kek`]); servers are vouched for by [`anchors`]; one file with
//! everything in it is taken apart by [`bundle`]; the
//! leafs of intercepted tunnels come from [`issuer`]; what egret's own listeners present is read by [`server`], and whom a
//! client certificate speaks for by [`caller`].

pub mod anchors;
pub mod bundle;
pub mod caller;
pub mod convert;
mod der;
pub mod files;
pub mod issuer;
pub mod kek;
pub mod names;
pub mod pem;
pub mod seal;
pub mod server;
#[cfg(test)]
mod testing;
pub mod validate;
