//! Floor 2: the sockets that clients connect to, the one IO type under every connection, on both sides, and the framing
//! gate before the HTTP parser.

mod framing;
mod guarded;
mod held;
mod io;
pub mod listen;
mod permits;
mod stream;

pub use framing::{Gate, Malformed, Refused};
pub use guarded::{Guarded, Verdict};
pub use held::Held;
pub use io::{HangUp, Io, Meter, ticks};
pub use permits::{Permit, Permits};
pub use stream::{Duplex, Stream};
