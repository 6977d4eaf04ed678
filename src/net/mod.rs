//! Floor 1: the one IO type under every connection, on both sides.

mod io;

pub use io::{Io, Meter};
