//! The writers against a store that can be stopped, broken and looked into.

mod changes;
mod projects;
mod staging;
mod start;
mod support;
mod tokens;
