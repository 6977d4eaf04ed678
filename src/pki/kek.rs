//! The key-encryption key: where it comes from, and what makes it unusable.
//!
//! - A key is never replaced by a new one while there is something sealed with the old.
//! - No message repeats any of it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::files::{self, FileError};
use crate::config::{KeySource, StoreBackend};

/// Name of the generated key within the data directory.
pub const KEY_FILE: &str = "key-encryption-key";
/// Name of a key that `egret store rekey` is about to put in force in its place.
pub const PENDING_FILE: &str = "key-encryption-key.new";
/// Name of the embedded store, whose presence forbids making a new key.
pub const STORE_FILE: &str = "egret.db";
/// More than any spelling of 32 bytes; a certificate or an archive named by mistake is not read in.
const MAX_FILE: usize = 1024;
/// What a person runs to get a key.
const MAKE_ONE: &str = "openssl rand -hex 32";

/// Why there is no key-encryption key. Never says anything of the key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KekError {
    /// The environment variable is not there.
    #[error(
        "the environment variable {0}, which should hold the key-encryption key, is not set; set it to the output of: {MAKE_ONE}"
    )]
    NoVariable(String),
    /// What was found is not a key.
    #[error("the key-encryption key in {place} is not {wanted}; make one with: {MAKE_ONE}")]
    Malformed {
        /// The file or variable.
        place: String,
        /// The forms that are understood there.
        wanted: &'static str,
    },
    /// There is a store, but not the key that it was sealed with.
    #[error(
        "the store {} is sealed with the key-encryption key in {}, which is missing; put that file back from a backup, \
         or move the store away to begin with an empty one", store.display(), key.display()
    )]
    KeyMissing {
        /// The store.
        store: PathBuf,
        /// Where the key should be.
        key: PathBuf,
    },
    /// A file of egret's own is not as it must be.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that the operator named cannot be read.
    #[error("the key-encryption key {} cannot be read: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The system has no random numbers.
    #[error("the system gave no random numbers for a key-encryption key")]
    Random,
}

/// The key-encryption key that `source` names.
///
/// - [`KeySource::File`]: 32 raw bytes, 64 hex digits or base64; the file is read as it is, links followed, with a
///   warning if the whole machine may read it.
/// - [`KeySource::Env`]: 64 hex digits or base64.
/// - [`KeySource::Generated`]: `<data_dir>/key-encryption-key`, made on first start (durable before this returns);
///   with [`StoreBackend::Memory`] a random key that ends with the process, and nothing is written.
///
/// # Errors
/// [`KekError`].
pub fn load(source: &KeySource, data_dir: &Path, backend: StoreBackend) -> Result<Zeroizing<[u8; 32]>, KekError> {
    match (source, backend) {
        (KeySource::File(path), _) => mounted(path),
        (KeySource::Env(name), _) => {
            let value = std::env::var_os(name).ok_or_else(|| KekError::NoVariable(name.clone()))?;
            let value = Zeroizing::new(value.into_encoded_bytes());
            decode_text(&value).ok_or_else(|| KekError::Malformed {
                place: format!("the environment variable {name}"),
                wanted: "64 hex digits or base64 of 32 bytes",
            })
        }
        (KeySource::Generated, StoreBackend::Memory) => random(),
        (KeySource::Generated, StoreBackend::Embedded) => generated(data_dir),
    }
}

/// A new random key, which is nowhere but in memory.
///
/// # Errors
/// [`KekError::Random`].
pub fn random() -> Result<Zeroizing<[u8; 32]>, KekError> {
    let mut key = Zeroizing::new([0; 32]);
    rand::fill(&mut *key).map_err(|_| KekError::Random)?;
    Ok(key)
}

/// Writes a key into a new file (0600, 64 hex digits), durably. Killed at any instant, there is the whole file or none.
///
/// # Errors
/// [`KekError::File`]; with `AlreadyExists` if anything is there already, which stays as it is.
pub fn write_new(path: &Path, key: &[u8; 32]) -> Result<(), KekError> {
    Ok(files::create_whole(path, &as_text(key))?)
}

/// The key that a change left behind before it was done, or just after.
///
/// # Errors
/// [`KekError`]: the file is there, but is no key or not for its owner alone.
pub fn pending(data_dir: &Path) -> Result<Option<Zeroizing<[u8; 32]>>, KekError> {
    match read_own(&data_dir.join(PENDING_FILE)) {
        Ok(key) => Ok(Some(key)),
        Err(KekError::File(e)) if e.is_not_found() => Ok(None),
        Err(other) => Err(other),
    }
}

/// Puts the pending key in the place of the old one, which is gone then; durable, and in one step.
///
/// # Errors
/// [`KekError::File`].
pub fn adopt_pending(data_dir: &Path) -> Result<(), KekError> {
    let (from, path) = (data_dir.join(PENDING_FILE), data_dir.join(KEY_FILE));
    std::fs::rename(&from, &path).map_err(|source| FileError::Io { path, doing: "replaced", source })?;
    Ok(files::sync_folder(data_dir)?)
}

/// Removes the pending key.
///
/// # Errors
/// [`KekError::File`].
pub fn discard_pending(data_dir: &Path) -> Result<(), KekError> {
    let path = data_dir.join(PENDING_FILE);
    std::fs::remove_file(&path).map_err(|source| FileError::Io { path, doing: "removed", source })?;
    Ok(files::sync_folder(data_dir)?)
}

/// The key-encryption key of a store that is there. Makes nothing.
///
/// # Errors
/// [`KekError`].
pub fn existing(source: &KeySource, data_dir: &Path) -> Result<Zeroizing<[u8; 32]>, KekError> {
    let key = data_dir.join(KEY_FILE);
    match source {
        KeySource::File(_) | KeySource::Env(_) => load(source, data_dir, StoreBackend::Embedded),
        KeySource::Generated => match read_own(&key) {
            Err(KekError::File(e)) if e.is_not_found() => {
                Err(KekError::KeyMissing { store: data_dir.join(STORE_FILE), key })
            }
            other => other,
        },
    }
}

/// A key file of the operator's: Secrets are links, and 0440 or 0644.
fn mounted(path: &Path) -> Result<Zeroizing<[u8; 32]>, KekError> {
    let unreadable = |source| KekError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let bytes = files::read_bounded(&file, MAX_FILE).map_err(unreadable)?;
    if files::is_world_readable(&file) {
        tracing::warn!(path = %path.display(), "everybody on this machine may read the key-encryption key; run: chmod o-r on it");
    }
    let key = bytes.as_ref().and_then(|bytes| match <&[u8; 32]>::try_from(&bytes[..]) {
        Ok(raw) => {
            if raw.iter().all(u8::is_ascii_graphic) {
                tracing::warn!(path = %path.display(), "the key-encryption key is 32 characters of text, which holds less than 256 bits; make a better one with: {MAKE_ONE}");
            }
            Some(Zeroizing::new(*raw))
        }
        Err(_) => decode_text(bytes),
    });
    key.ok_or_else(|| KekError::Malformed {
        place: path.display().to_string(),
        wanted: "32 raw bytes, 64 hex digits or base64 of 32 bytes",
    })
}

/// egret's own key file.
fn generated(data_dir: &Path) -> Result<Zeroizing<[u8; 32]>, KekError> {
    files::private_folder(data_dir)?;
    let path = data_dir.join(KEY_FILE);
    match read_own(&path) {
        Err(KekError::File(e)) if e.is_not_found() => {}
        other => return other,
    }
    let store = data_dir.join(STORE_FILE);
    // A store that cannot even be looked at counts as one.
    if !matches!(store.symlink_metadata(), Err(e) if e.kind() == io::ErrorKind::NotFound) {
        return Err(KekError::KeyMissing { store, key: path });
    }
    let key = random()?;
    match write_new(&path, &key) {
        Ok(()) => {
            tracing::info!(path = %path.display(), "made a key-encryption key; whoever has this file and the store can read the private keys in it, so back them up apart");
            Ok(key)
        }
        // Another egret that starts at the same moment was faster: its key is the key.
        Err(KekError::File(FileError::Io { source, .. })) if source.kind() == io::ErrorKind::AlreadyExists => {
            read_own(&path)
        }
        Err(other) => Err(other),
    }
}

fn read_own(path: &Path) -> Result<Zeroizing<[u8; 32]>, KekError> {
    let file = files::open_private(path, false)?;
    let bytes = files::read_bounded(&file, MAX_FILE).map_err(|source| FileError::Io {
        path: path.to_owned(),
        doing: "read",
        source,
    })?;
    bytes.and_then(|bytes| decode_text(&bytes)).ok_or_else(|| KekError::Malformed {
        place: path.display().to_string(),
        wanted: "64 hex digits, as egret wrote it (put it back from a backup)",
    })
}

/// 64 hex digits and a line feed, in a buffer that does not grow.
fn as_text(key: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Zeroizing::new(Vec::with_capacity(65));
    for byte in key {
        text.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    text.push(b'\n');
    text
}

/// 64 hex digits, or base64 (standard or URL-safe, padded or not), of exactly 32 bytes; white space at the end is trimmed.
fn decode_text(text: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let text = text.trim_ascii_end();
    let mut key = Zeroizing::new([0; 32]);
    if text.len() == 64 {
        for (byte, pair) in key.iter_mut().zip(text.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        return Some(key);
    }
    // 32 bytes are 43 characters and one of padding; the estimate of the decoder wants room for 33.
    let mut buffer = Zeroizing::new([0; 36]);
    if text.len() > 44 {
        return None;
    }
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let length = [&alphabet::STANDARD, &alphabet::URL_SAFE]
        .into_iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode_slice(text, &mut *buffer).ok())?;
    key.copy_from_slice(buffer.get(..length).filter(|b| b.len() == 32)?);
    Some(key)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(all(test, unix))]
mod tests;
