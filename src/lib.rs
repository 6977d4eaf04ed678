//! egret, an egress mTLS forward proxy: applications send their outgoing HTTP(S) requests through it, and each
//! request carries the client certificate that is registered for its origin.
//!
//! # The nouns
//!
//! - [`domain::Origin`]: an `https` origin in its one canonical form; [`domain::Pattern`]: what a binding covers.
//! - [`identity::UpstreamTls`]: what egret presents and whom it believes, with everything that was authenticated
//!   by it: configuration, session tickets and, by its never-reused serial, pooled connections.
//! - [`registry::Snapshot`]: what a project means right now; immutable, replaced whole.
//! - [`backend::Backend`]: where sealed records rest; three methods over opaque bytes.
//! - [`control::Control`]: the only writer. [`upstream::Upstreams`]: the only dialler.
//! - [`proxy::Forwarder`]: the waist that every request passes.
//!
//! # The floors
//!
//! ```text
//! 7  app  cli  demo                wiring sees all
//! 6  api            proxy          never each other
//! 5  control        upstream       never each other
//! 4        registry                the only meeting point
//! 3  identity   backend
//! 2  pki   policy   observe   net
//! 1  config
//! 0  domain
//! ```
//!
//! A module imports strictly lower floors, or its own folder; `tests/floors.rs` checks it.
//!
//! # Example
//!
//! A whole egret in a test, on free ports:
//!
//! ```
//! use egret::config::{self, Overlay};
//!
//! # fn main() -> anyhow::Result<()> {
//! let file = "profile = 'local'\n[store]\nbackend = 'memory'\n[management]\nlisten = '127.0.0.1:0'\n\
//!             [[listeners]]\nname = 'dev'\nlisten = '127.0.0.1:0'\nmode = 'forward'\nproject = 'default'\n";
//! let path = std::env::temp_dir().join("egret.toml");
//! let loaded = config::load_text(file, &path, &Overlay::default(), &|_| None)?;
//! tokio::runtime::Runtime::new()?.block_on(async {
//!     let egret = egret::app::build(loaded.settings).await?;
//!     assert_ne!(egret.listeners()[0].address.tcp().map_or(0, |a| a.port()), 0);
//!     egret.shut_down().await;
//!     Ok(())
//! })
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod api;
pub mod app;
pub mod backend;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod domain;
pub mod identity;
pub mod net;
pub mod observe;
pub mod pki;
pub mod policy;
pub mod proxy;
pub mod registry;
pub mod upstream;

pub use app::{Bound, build};
