//! Tokens made through the API. The registry is what they mean, the store is what outlives the process; the text of a
//! token is made here, handed out once, and kept nowhere.
//!
//! What must stay true: what was acknowledged is in the store; from the answer to a revocation on the token is good
//! for nothing new; a token never reaches a project that it was not made for, namesakes included.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::certificates::whole;
use super::records::token_to_bytes;
use super::store::{Store, Write};
use super::{Control, ControlError, Inner};
use crate::domain::{ProjectId, Role, hex, time as clock};
use crate::registry::{Registry, Token, TokenScope, TokenSource};

/// By this people and secret scanners know a token when they see one.
const PREFIX: &str = "egret_";
/// Bytes of randomness in a token.
const SECRET: usize = 32;
/// How often expired tokens are swept from the store. They are good for nothing from the second on at which they expire.
const SWEEP: Duration = Duration::from_secs(60);
/// How often it is looked for certificates that were kept long enough. A look costs a few comparisons for each.
const KEPT_SWEEP: Duration = Duration::from_secs(1);

/// A token to be made.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Unique among all tokens, those of the file included.
    pub name: String,
    /// For `X-Auth-Email`.
    pub email: Option<String>,
    /// What its holder may do.
    pub role: Role,
    /// Which projects it reaches; `None` = all.
    pub projects: Option<Vec<ProjectId>>,
    /// From then on it is as good as revoked, whole seconds; `None` = never.
    pub expires_at: Option<OffsetDateTime>,
    /// The token of who asks for it, which has to be in force still; `None`: nobody's.
    pub maker: Option<Arc<Token>>,
}

/// A token that was made. This is the only place where its text ever is.
pub struct CreatedToken {
    /// What is kept of it.
    pub token: Token,
    /// What its holder sends. Wiped when dropped.
    pub text: Zeroizing<String>,
}

/// A token with the SHA-256 of its text.
type Digested = ([u8; 32], Token);

impl Control {
    /// Makes a token of 256 random bits.
    ///
    /// # Errors
    /// Its maker was revoked meanwhile; the name is taken; `limits.max_tokens`; a project that was deleted meanwhile; sealing and storing.
    pub async fn create_token(&self, new: NewToken) -> Result<CreatedToken, ControlError> {
        let inner = self.inner.clone();
        whole(async move { inner.create_token(new).await }).await
    }

    /// Ends a token by its name or its id. From then on nobody gets in with it; what runs goes on. `by` is the token of
    /// who asks for it: one that reaches more than `by` does is unknown to its holder.
    ///
    /// # Errors
    /// [`ControlError::Declared`] for one that egret only reads; an unknown one; storing.
    pub async fn revoke_token(&self, name_or_id: &str, by: Arc<Token>) -> Result<(), ControlError> {
        let (inner, name) = (self.inner.clone(), name_or_id.to_owned());
        whole(async move { inner.revoke_token(&name, &by).await }).await
    }

    /// What is done from time to time and for ever: sweeps expired tokens from registry and store, lets go of certificates
    /// that were kept to go back to, and keeps the disclosure ledger. Drop it to end it.
    pub async fn tend(self: Arc<Self>) {
        tokio::join!(self.sweep_for_ever(), self.keep_disclosures(super::disclosures::Pace::default()));
    }

    async fn sweep_for_ever(&self) {
        let every = |period| {
            let mut tick = tokio::time::interval(period);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            tick
        };
        let (mut tokens, mut kept) = (every(SWEEP), every(KEPT_SWEEP));
        loop {
            tokio::select! {
                _ = tokens.tick() => self.sweep(clock::now()).await,
                _ = kept.tick() => self.let_go_of_ended(clock::now()).await,
            }
        }
    }

    /// Sweeps what has expired at that time. A store that cannot be written now is asked again the next time.
    pub(super) async fn sweep(&self, now: OffsetDateTime) {
        let inner = self.inner.clone();
        let swept = whole(async move {
            let _membership = inner.membership.lock().await;
            let expired = inner.expired(now);
            inner.store.write(expired.iter().map(delete_of).collect()).await?;
            inner.forget(&expired);
            Ok(())
        });
        if let Err(error) = swept.await {
            tracing::warn!(%error, "expired tokens could not be swept from the store; they are good for nothing all the same");
        }
    }
}

impl Inner {
    async fn create_token(&self, new: NewToken) -> Result<CreatedToken, ControlError> {
        let _membership = self.membership.lock().await;
        let now = clock::now();
        // Its request may have been on the way for a while. Asked under the lock that a revocation takes as well: who
        // was told that a token is gone need not look for tokens that it makes afterwards.
        if new.maker.as_ref().is_some_and(|maker| !self.registry.is_in_force(maker)) {
            return Err(ControlError::Revoked);
        }
        let expired = self.expired(now);
        let mut others = self.registry.tokens();
        others.retain(|(sha256, _)| !expired.iter().any(|(ended, _)| ended == sha256));
        if others.iter().any(|(_, t)| t.name == new.name || t.id == new.name) {
            let what = "a token with this name exists; choose another name, or revoke that token first";
            return Err(ControlError::Exists(what.to_owned()));
        }
        if others.iter().filter(|(_, t)| t.source == TokenSource::Api).count() >= self.limits.max_tokens() {
            return Err(ControlError::Exists(format!(
                "there are as many tokens as limits.max_tokens allows, {}; revoke one that nobody needs, or raise the limit",
                self.limits.max_tokens()
            )));
        }
        let mut writes: Vec<Write> = expired.iter().map(delete_of).collect();
        for id in new.projects.iter().flatten() {
            let Some(project) = self.registry.project(id) else {
                let what = "one of these projects was deleted meanwhile; leave it out".to_owned();
                return Err(ControlError::Field { field: "projects", what });
            };
            // A project that left the file without a trace would leave its id to a namesake.
            writes.extend(self.store.project_record(project.load().info()));
        }
        let (id, secret) = (random::<16>()?, random::<SECRET>()?);
        // Sized before the first byte: a buffer that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 2 * SECRET));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(secret.as_slice(), &mut text);
        let token = Token {
            id: format!("tok_{}", hex(&*id)),
            name: new.name,
            email: new.email,
            role: new.role,
            scope: match new.projects {
                None => TokenScope::All,
                Some(ids) => TokenScope::Projects(ids.iter().map(|id| id.as_str().to_owned()).collect()),
            },
            source: TokenSource::Api,
            created_at: Some(now.replace_nanosecond(0).unwrap_or(now)),
            expires_at: new.expires_at,
        };
        let sha256 = sha256(text.as_bytes());
        writes.push(write_of(&sha256, &token));
        self.store.write(writes).await?;
        self.forget(&expired);
        self.registry.insert_token(sha256, token.clone());
        tracing::info!(token = token.name, id = token.id, "token created");
        Ok(CreatedToken { token, text })
    }

    async fn revoke_token(&self, name_or_id: &str, by: &Token) -> Result<(), ControlError> {
        let _membership = self.membership.lock().await;
        let mut named = self.registry.tokens();
        named.retain(|(_, t)| (t.name == name_or_id || t.id == name_or_id) && self.registry.covers(by, &t.scope));
        // One of the store first: where the file took its name later, it must not become irrevocable.
        let stored = named.iter().position(|(_, t)| t.source == TokenSource::Api);
        if let Some(at) = stored {
            let (sha256, token) = &named[at];
            let ended = [(*sha256, Token::clone(token))];
            self.store.write(ended.iter().map(delete_of).collect()).await?;
            self.forget(&ended);
            tracing::info!(token = token.name, id = token.id, "token revoked");
            return Ok(());
        }
        if let Some((_, token)) = named.first()
            && let TokenSource::File(place) = &token.source
        {
            return Err(ControlError::Declared(format!("token {}", token.name), place.clone()));
        }
        // A damaged record says nothing of its token, but it can be cleared away by its id.
        let key = Store::token_key(name_or_id);
        if by.scope == TokenScope::All && self.store.version(&key).is_some() {
            return self.store.write(vec![Write::Delete(key)]).await;
        }
        Err(ControlError::NotFound("token"))
    }

    /// Stored tokens that have ended by themselves.
    fn expired(&self, now: OffsetDateTime) -> Vec<Digested> {
        let all = self.registry.tokens().into_iter();
        all.filter(|(_, t)| t.source == TokenSource::Api && t.is_expired(now))
            .map(|(sha256, token)| (sha256, Token::clone(&token)))
            .collect()
    }

    fn forget(&self, ended: &[Digested]) {
        for (sha256, _) in ended {
            self.registry.remove_token(sha256);
        }
    }

    /// What the stored tokens that name this project become when it is gone. One that is left without any project
    /// reaches nothing.
    pub(super) fn tokens_without(&self, project: &ProjectId) -> Vec<Digested> {
        let without = |(sha256, token): ([u8; 32], Arc<Token>)| {
            let TokenScope::Projects(ids) = &token.scope else { return None };
            if token.source != TokenSource::Api || !ids.iter().any(|id| id == project.as_str()) {
                return None;
            }
            let left = ids.iter().filter(|id| *id != project.as_str()).cloned().collect();
            Some((sha256, Token { scope: TokenScope::Projects(left), ..Token::clone(&token) }))
        };
        self.registry.tokens().into_iter().filter_map(without).collect()
    }

    /// Puts changed tokens into force, once they are stored; those that reach nothing are gone.
    pub(super) fn put_tokens(&self, changed: Vec<Digested>) {
        for (sha256, token) in changed {
            if reaches_nothing(&token) {
                tracing::info!(token = token.name, id = token.id, "token ended with the last project that it reached");
                self.registry.remove_token(&sha256);
            } else {
                self.registry.insert_token(sha256, token);
            }
        }
    }
}

fn reaches_nothing(token: &Token) -> bool {
    matches!(&token.scope, TokenScope::Projects(ids) if ids.is_empty())
}

/// What a changed token writes.
pub(super) fn write_of(sha256: &[u8; 32], token: &Token) -> Write {
    if reaches_nothing(token) {
        Write::Delete(Store::token_key(&token.id))
    } else {
        Write::Put(Store::token_key(&token.id), token_to_bytes(token, sha256))
    }
}

fn delete_of((_, token): &Digested) -> Write {
    Write::Delete(Store::token_key(&token.id))
}

/// Puts the stored tokens into the registry; gives back those whose text is declared too. Expired ones are swept later.
pub(super) fn load(registry: &Registry, stored: Vec<Digested>) -> HashMap<[u8; 32], Token> {
    let declared = registry.tokens();
    let mut covered = HashMap::new();
    for (sha256, token) in stored {
        let name = &token.name;
        if declared.iter().any(|(digest, _)| *digest == sha256) {
            tracing::warn!(
                id = token.id,
                "the text of token {name} also stands in the configuration, which goes first"
            );
            covered.insert(sha256, token);
            continue;
        }
        if declared.iter().any(|(_, other)| other.name == *name) {
            let id = &token.id;
            tracing::warn!("the configuration has a token named {name} as well; the stored one goes by its id, {id}");
        }
        registry.insert_token(sha256, token);
    }
    covered
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, ControlError> {
    let mut bytes = Zeroizing::new([0; N]);
    rand::fill(&mut *bytes).map_err(|_| ControlError::Storing("the system gives no random numbers".to_owned()))?;
    Ok(bytes)
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}
