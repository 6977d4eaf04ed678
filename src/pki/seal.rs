//! Envelope encryption of records.

use zeroize::Zeroizing;

/// The key-encryption key and what is sealed with it.
pub struct Sealer {
    _p: (),
}

/// Why something could not be sealed or opened. Never says anything of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Random numbers or the cipher failed.
    #[error("the record could not be encrypted")]
    Seal,
    /// Not an envelope, or of an unknown version.
    #[error("the record is not an envelope this egret knows")]
    Malformed,
    /// Sealed with another key-encryption key.
    #[error("the record is sealed with another key-encryption key")]
    OtherKey,
    /// Changed, or moved from another place.
    #[error("the record is damaged, or was moved from another place")]
    Damaged,
}

impl Sealer {
    /// A sealer over 32 bytes of key.
    #[must_use]
    pub fn new(_key: Zeroizing<[u8; 32]>) -> Self {
        todo!()
    }
    /// Seals `plain`, bound to kind, project, id and version.
    ///
    /// # Errors
    /// [`SealError::Seal`].
    pub fn seal(&self, _plain: &[u8], _place: Place<'_>) -> Result<Vec<u8>, SealError> {
        todo!()
    }
    /// Opens what [`Sealer::seal`] made for the same place.
    ///
    /// # Errors
    /// All but [`SealError::Seal`].
    pub fn open(&self, _sealed: &[u8], _place: Place<'_>) -> Result<Zeroizing<Vec<u8>>, SealError> {
        todo!()
    }
    /// A keyed hash in hex (HMAC-SHA-256 under a key derived from the key-encryption key): names a binding's record without telling its origin.
    #[must_use]
    pub fn keyed_name(&self, _text: &str) -> String {
        todo!()
    }
}

/// Where a record stands; all of it is authenticated.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Kind of record.
    pub kind: &'a str,
    /// Project.
    pub project: &'a str,
    /// Record id.
    pub id: &'a str,
    /// Version.
    pub version: u64,
}
