//! Floor 1: who may be reached.

use crate::domain::{Code, Host};

/// Why something may not be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// `policy.*`.
    pub code: Code,
    /// In words, with the remedy.
    pub why: String,
}

/// Which origins may be reached.
#[derive(Debug, Default)]
pub struct EgressPolicy {}

impl EgressPolicy {
    /// Judges a name before anything is resolved.
    ///
    /// # Errors
    /// Says which rule denies it.
    pub fn judge_origin(&self, _host: &Host, _port: u16, _tls: bool) -> Result<(), Denied> {
        Ok(())
    }
}
