//! Floor 1: what an operator writes ([`file`]) and what egret means by it ([`Settings`]).
//!
//! Two types on purpose: `File` is the text of the TOML, unchecked; `Settings` can only be made by
//! [`check`], so nothing above looks at a value twice.

mod settings;

pub use settings::*;
