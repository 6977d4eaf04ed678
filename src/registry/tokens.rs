//! Tokens: who may do what where, and until when.

use time::OffsetDateTime;

use crate::domain::{ProjectId, Role};

/// Which projects a token reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenScope {
    /// All.
    All,
    /// These: ids, and of tokens in the file also names that no declared project bears, as written.
    Projects(Vec<String>),
}

/// Where a token was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// Outside of egret, which only reads it: the words for the place (a file, a variable).
    File(String),
    /// Through the API; it rests in the store.
    Api,
}

impl TokenSource {
    /// The word of the API.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Api => "api",
        }
    }
}

/// A token, without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// `tok_` and 32 hex digits.
    pub id: String,
    /// Name for people, logs and the audit.
    pub name: String,
    /// For `X-Auth-Email`.
    pub email: Option<String>,
    /// What its holder may do.
    pub role: Role,
    /// Where.
    pub scope: TokenScope,
    /// Where it was made.
    pub source: TokenSource,
    /// When, whole seconds; unknown of those that egret only reads.
    pub created_at: Option<OffsetDateTime>,
    /// From then on it is as good as revoked; `None` = never.
    pub expires_at: Option<OffsetDateTime>,
}

impl Token {
    /// A token that egret only reads, from `place`. Its id follows from name and digest, so that it is the same after
    /// a restart and another one when the text has changed.
    #[must_use]
    pub fn declared(name: &str, role: Role, scope: TokenScope, sha256: &[u8; 32], place: &str) -> Self {
        use aws_lc_rs::digest;
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"egret declared token\0");
        hash.update(name.as_bytes());
        hash.update(b"\0");
        hash.update(sha256);
        Self {
            id: format!("tok_{}", crate::domain::hex(&hash.finish().as_ref()[..16])),
            name: name.to_owned(),
            email: None,
            role,
            scope,
            source: TokenSource::File(place.to_owned()),
            created_at: None,
            expires_at: None,
        }
    }

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

    /// Whether it has ended by itself at that time.
    #[must_use]
    pub fn is_expired(&self, now: OffsetDateTime) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(projects: &[&str]) -> TokenScope {
        TokenScope::Projects(projects.iter().map(|p| (*p).to_owned()).collect())
    }

    fn token(scope: TokenScope) -> Token {
        Token::declared("ci", Role::Admin, scope, &[7; 32], "egret.toml")
    }

    #[test]
    fn ends_on_the_second() {
        let end = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(1);
        let token = Token { expires_at: Some(end), ..token(TokenScope::All) };
        assert!(!token.is_expired(end - time::Duration::nanoseconds(1)));
        assert!(token.is_expired(end));
        assert!(!Token { expires_at: None, ..token }.is_expired(end + time::Duration::days(36500)));
    }

    #[test]
    fn has_an_id_that_follows_its_text() {
        let other = Token::declared("ci", Role::Admin, TokenScope::All, &[8; 32], "egret.toml");
        assert_eq!(token(TokenScope::All).id, token(limited(&[])).id);
        assert_ne!(token(TokenScope::All).id, other.id);
        assert_eq!(other.id.len(), "tok_".len() + 32);
    }
}
