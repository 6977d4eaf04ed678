//! Floor 3: what rustls needs, owned per certificate.
//!
//! Everything that a TLS identity authenticated hangs off one object with a serial that is never
//! used twice: its rustls configuration, its session tickets, its pooled connections. "The wrong
//! certificate on a reused connection" is then not a comparison in which a field can be forgotten.

mod asked;
mod client;
mod life;
mod upstream_tls;

pub use asked::{Asked, Presented, recorded};
pub use client::ClientIdentity;
pub use life::{Life, Phase, Until};
pub use upstream_tls::{RouteId, Serial, Show, TlsFactory, UpstreamTls};
