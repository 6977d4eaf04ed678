//! Tokens: who may do what where.
use crate::domain::{ProjectId, Role};

/// Which projects a token reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenScope {
    /// All.
    All,
    /// These names or ids, as written.
    Projects(Vec<String>),
}

/// A token, without its text.
#[derive(Debug, Clone)]
pub struct Token {
    /// Name for logs and the audit.
    pub name: String,
    /// For `X-Auth-Email`.
    pub email: Option<String>,
    /// What its holder may do.
    pub role: Role,
    /// Where.
    pub scope: TokenScope,
}

impl Token {
    /// Whether it reaches a project with this id and name.
    #[must_use]
    pub fn reaches(&self, id: &ProjectId, name: &str) -> bool {
        match &self.scope {
            TokenScope::All => true,
            TokenScope::Projects(list) => list.iter().any(|p| p == id.as_str() || p == name),
        }
    }

    /// Whether a project that does not exist, named like this, would be within reach (403 or 404).
    #[must_use]
    pub fn reaches_name(&self, id_or_name: &str) -> bool {
        match &self.scope {
            TokenScope::All => true,
            TokenScope::Projects(list) => list.iter().any(|p| p == id_or_name),
        }
    }
}
