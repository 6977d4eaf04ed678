//! The tokens of file and environment, and the administrator's token of an egret that was given none.

use std::path::Path;

use anyhow::{Context, ensure};
use aws_lc_rs::digest;
use zeroize::Zeroizing;

use crate::config::{ADMIN_TOKEN, Settings, StoreBackend, TOKEN_VARIABLE, TokenSettings};
use crate::domain::{Role, hex};
use crate::pki::files;
use crate::registry::{Token, TokenScope};

/// Longest token file that is read.
const MAX: usize = 1024;

/// All tokens that the API only reads, with the SHA-256 of their texts.
///
/// # Errors
/// The file of the administrator's token can neither be read nor made.
pub(super) fn declared(settings: &Settings) -> anyhow::Result<Vec<([u8; 32], Token)>> {
    let declare = |token: &TokenSettings| {
        let scope = token.projects.clone().map_or(TokenScope::All, TokenScope::Projects);
        let place = match &settings.config_file {
            Some(file) if token.name != TOKEN_VARIABLE => file.display().to_string(),
            _ => format!("the environment variable {TOKEN_VARIABLE}"),
        };
        let made = Token::declared(&token.name, token.role, scope, &token.sha256, &place);
        (token.sha256, Token { email: token.email.clone(), ..made })
    };
    let mut all: Vec<_> = settings.tokens.iter().map(declare).collect();
    if all.is_empty()
        && let Some(text) = administrator(settings)?
    {
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        let sha256 = hash.as_ref().try_into().expect("SHA-256 has 32 bytes");
        let place = settings.data_dir.join(ADMIN_TOKEN).display().to_string();
        all.push((sha256, Token::declared(ADMIN_TOKEN, Role::Admin, TokenScope::All, &sha256, &place)));
    }
    Ok(all)
}

/// Read from its file, or made and written there once; the log names the file, never the token.
/// With the memory store nothing may be written, so there is none.
fn administrator(settings: &Settings) -> anyhow::Result<Option<Zeroizing<String>>> {
    if settings.store.backend == StoreBackend::Memory {
        tracing::warn!("no token is configured, and the memory store keeps none: set EGRET_TOKEN to use the API");
        return Ok(None);
    }
    files::private_folder(&settings.data_dir)?;
    let path = settings.data_dir.join(ADMIN_TOKEN);
    match files::open_private(&path, false) {
        Ok(file) => {
            let bytes = files::read_bounded(&file, MAX)?.context("the administrator's token is too long")?;
            let token = std::str::from_utf8(&bytes).map(str::trim_end).unwrap_or_default();
            ensure!(
                token.len() >= 32,
                "{} holds no token; delete it, and the next start makes a new one",
                path.display()
            );
            Ok(Some(Zeroizing::new(token.to_owned())))
        }
        Err(error) if error.is_not_found() => make(&path).map(Some),
        Err(error) => Err(error.into()),
    }
}

fn make(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let mut bits = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *bits).map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    let token = Zeroizing::new(hex(&*bits));
    // Whole or not at all: an empty file, left by a kill between two writes, would keep every later start from working.
    files::create_whole(path, &Zeroizing::new([token.as_bytes(), b"\n"].concat()))?;
    tracing::info!(path = %path.display(), "made an administrator token; egret's commands find it there");
    Ok(token)
}
