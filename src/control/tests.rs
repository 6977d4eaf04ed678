//! The writers against a store that can be stopped, broken and looked into.

mod accounts;
mod changes;
mod disclosures;
mod expiry;
mod folders;
mod hostnames;
mod layers;
mod projects;
mod reload;
mod shown;
mod staging;
mod start;
mod support;
mod tls13;
mod tokens;
mod vouching;
mod zone;
