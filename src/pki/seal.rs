//! Envelope encryption of records: what leaves this module may lie on a stolen disk.
//!
//! Every record has a random 256-bit data key of its own (AES-256-GCM); the data key is wrapped under a key derived
//! from the key-encryption key (AES-256-GCM again). Both authenticate the record's [`Place`], so a record that was
//! changed, moved or swapped does not open. The payload does not depend on the key-encryption key, so changing that
//! one means wrapping data keys anew and nothing else.
//!
//! Version 1 of an envelope, byte for byte:
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | `EGR` and the format version, `0x01` |
//! | 16 | id of the key-encryption key, derived from it by HKDF |
//! | 12, 48 | nonce and ciphertext with tag of the data key |
//! | 12, n + 16 | nonce and ciphertext with tag of the content |
//!
//! What an envelope cannot tell: that a whole record, its version number included, was put back to an earlier state.
//! The backend keeps a ledger against that (see `backend::SqliteBackend`).

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hkdf, hmac, rand};
use zeroize::Zeroizing;

use crate::domain::hex;

/// Format version 1, after three letters that tell an envelope from anything else.
const MAGIC: [u8; 4] = *b"EGR\x01";
const KEK_ID: usize = 16;
const NONCE: usize = 12;
const TAG: usize = 16;
const DATA_KEY: usize = 32;
/// Everything but the content itself.
const OVERHEAD: usize = MAGIC.len() + KEK_ID + NONCE + DATA_KEY + TAG + NONCE + TAG;

/// The key-encryption key and what is sealed with it.
///
/// Only keys derived from it are kept (HKDF-SHA-256, one label each), so none of them tells of another.
pub struct Sealer {
    kek_id: [u8; KEK_ID],
    wrap: RandomizedNonceKey,
    names: hmac::Key,
}

/// The parts of an envelope behind its version and the id of its key.
struct Envelope<'a> {
    wrap_nonce: &'a [u8; NONCE],
    wrapped: &'a [u8],
    nonce: &'a [u8; NONCE],
    content: &'a [u8],
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

impl Sealer {
    /// A sealer over 32 bytes of key. The key itself is wiped.
    #[must_use]
    pub fn new(key: Zeroizing<[u8; 32]>) -> Self {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"egret key-encryption key").extract(&*key);
        let mut kek_id = [0; KEK_ID];
        derive(&root, b"v1 id", &mut kek_id);
        let mut wrap = Zeroizing::new([0; 32]);
        derive(&root, b"v1 wrap data keys, AES-256-GCM", &mut *wrap);
        let mut names = Zeroizing::new([0; 32]);
        derive(&root, b"v1 names, HMAC-SHA-256", &mut *names);
        Self {
            kek_id,
            wrap: cipher(&*wrap).expect("AES-256 takes a key of 32 bytes"),
            names: hmac::Key::new(hmac::HMAC_SHA256, &*names),
        }
    }

    /// Seals `plain`, bound to kind, project, id and version. The result is 124 bytes longer than `plain`.
    ///
    /// # Errors
    /// [`SealError::Seal`].
    pub fn seal(&self, plain: &[u8], place: Place<'_>) -> Result<Vec<u8>, SealError> {
        let mut data_key = Zeroizing::new([0; DATA_KEY]);
        rand::fill(&mut *data_key).map_err(|_| SealError::Seal)?;

        // Encrypted in place, and wiped should the cipher fail half-way.
        let mut content = Zeroizing::new(plain.to_vec());
        let payload = cipher(&*data_key).ok_or(SealError::Seal)?;
        let (nonce, tag) = payload
            .seal_in_place_separate_tag(Aad::from(payload_aad(place)), &mut content)
            .map_err(|_| SealError::Seal)?;
        let mut out = Vec::with_capacity(OVERHEAD + content.len());
        self.wrap_key(&mut *data_key, place, &mut out)?;
        out.extend_from_slice(nonce.as_ref());
        out.extend_from_slice(&content);
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Opens what [`Sealer::seal`] made for the same place.
    ///
    /// # Errors
    /// All but [`SealError::Seal`]. A change within the id of the key-encryption key reads as
    /// [`SealError::OtherKey`], any other one behind the first four bytes as [`SealError::Damaged`].
    pub fn open(&self, sealed: &[u8], place: Place<'_>) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let envelope = self.parse(sealed)?;
        let data_key = self.unwrap_key(&envelope, place)?;
        let mut plain = Zeroizing::new(envelope.content.to_vec());
        let length = cipher(&data_key[..DATA_KEY])
            .ok_or(SealError::Damaged)?
            .open_in_place(Nonce::assume_unique_for_key(*envelope.nonce), Aad::from(payload_aad(place)), &mut plain)
            .map_err(|_| SealError::Damaged)?
            .len();
        plain.truncate(length);
        Ok(plain)
    }

    /// Wraps the data key of an envelope anew, under the key of `to`; the payload stays as it is, byte for byte.
    ///
    /// # Errors
    /// Those of [`Sealer::open`] with this sealer's key, but for the payload, which is not looked at;
    /// [`SealError::Seal`].
    pub fn rewrap(&self, sealed: &[u8], place: Place<'_>, to: &Self) -> Result<Vec<u8>, SealError> {
        let envelope = self.parse(sealed)?;
        let mut data_key = self.unwrap_key(&envelope, place)?;
        data_key.truncate(DATA_KEY);
        let mut out = Vec::with_capacity(sealed.len());
        to.wrap_key(&mut data_key, place, &mut out)?;
        out.extend_from_slice(envelope.nonce);
        out.extend_from_slice(envelope.content);
        Ok(out)
    }

    /// Whether both seal with the same key-encryption key.
    #[must_use]
    pub fn is_same_key(&self, other: &Self) -> bool {
        // Ids are no secret, and 128 bits of HKDF: equal ids are equal keys.
        self.kek_id == other.kek_id
    }

    /// A keyed hash in hex (HMAC-SHA-256 under a key derived from the key-encryption key): names a binding's record
    /// without telling its origin. 64 digits, the same for the same text and key.
    #[must_use]
    pub fn keyed_name(&self, text: &str) -> String {
        hex(hmac::sign(&self.names, text.as_bytes()).as_ref())
    }

    /// Takes an envelope of this key apart.
    fn parse<'a>(&self, sealed: &'a [u8]) -> Result<Envelope<'a>, SealError> {
        let rest = sealed.strip_prefix(&MAGIC).ok_or(SealError::Malformed)?;
        let (kek_id, rest) = rest.split_at_checked(KEK_ID).ok_or(SealError::Malformed)?;
        let (wrap_nonce, rest) = rest.split_first_chunk::<NONCE>().ok_or(SealError::Malformed)?;
        let (wrapped, rest) = rest.split_at_checked(DATA_KEY + TAG).ok_or(SealError::Malformed)?;
        let (nonce, content) = rest.split_first_chunk::<NONCE>().ok_or(SealError::Malformed)?;
        if content.len() < TAG {
            return Err(SealError::Malformed);
        }
        // Not a secret: it stands in every record.
        if kek_id != self.kek_id {
            return Err(SealError::OtherKey);
        }
        Ok(Envelope { wrap_nonce, wrapped, nonce, content })
    }

    /// The data key, in the first 32 bytes.
    fn unwrap_key(&self, envelope: &Envelope<'_>, place: Place<'_>) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let mut data_key = Zeroizing::new(envelope.wrapped.to_vec());
        self.wrap
            .open_in_place(
                Nonce::assume_unique_for_key(*envelope.wrap_nonce),
                Aad::from(self.wrap_aad(place)),
                &mut data_key,
            )
            .map_err(|_| SealError::Damaged)?;
        Ok(data_key)
    }

    /// Writes everything in front of the payload. `data_key` is encrypted in place.
    fn wrap_key(&self, data_key: &mut [u8], place: Place<'_>, out: &mut Vec<u8>) -> Result<(), SealError> {
        let (nonce, tag) = self
            .wrap
            .seal_in_place_separate_tag(Aad::from(self.wrap_aad(place)), data_key)
            .map_err(|_| SealError::Seal)?;
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.kek_id);
        out.extend_from_slice(nonce.as_ref());
        out.extend_from_slice(data_key);
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// What the wrapped data key is bound to: the key-encryption key's id as well, which the payload is not.
    fn wrap_aad(&self, place: Place<'_>) -> Vec<u8> {
        aad(&[b"egret data key", &MAGIC, &self.kek_id], place)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("kek_id", &hex(&self.kek_id)).finish_non_exhaustive()
    }
}

fn payload_aad(place: Place<'_>) -> Vec<u8> {
    aad(&[b"egret record", &MAGIC], place)
}

/// Every part with its length in front: no two places, and no two purposes, give the same bytes.
fn aad(purpose: &[&[u8]], place: Place<'_>) -> Vec<u8> {
    let place = [place.kind.as_bytes(), place.project.as_bytes(), place.id.as_bytes(), &place.version.to_be_bytes()];
    let mut out = Vec::new();
    for part in purpose.iter().chain(&place) {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

fn cipher(key: &[u8]) -> Option<RandomizedNonceKey> {
    RandomizedNonceKey::new(&AES_256_GCM, key).ok()
}

fn derive(root: &hkdf::Prk, label: &[u8], out: &mut [u8]) {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    root.expand(&[label], Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("HKDF-SHA-256 gives up to 8160 bytes, in the length asked for");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealer(byte: u8) -> Sealer {
        Sealer::new(Zeroizing::new([byte; 32]))
    }

    const HERE: Place<'static> = Place { kind: "certificate", project: "prj_1", id: "cert_1", version: 3 };

    #[test]
    fn opens_what_it_sealed_and_nothing_of_it_shows() {
        let plain = b"-----BEGIN PRIVATE KEY----- prj_1";
        let sealed = sealer(1).seal(plain, HERE).unwrap();
        assert_eq!(sealed.len(), plain.len() + OVERHEAD);
        assert!(!sealed.windows(8).any(|w| plain.windows(8).any(|p| p == w)));
        assert_eq!(&**sealer(1).open(&sealed, HERE).unwrap(), plain);
        assert_eq!(&**sealer(1).open(&sealer(1).seal(b"", HERE).unwrap(), HERE).unwrap(), b"");
    }

    #[test]
    fn seals_the_same_content_differently_each_time() {
        assert_ne!(sealer(1).seal(b"x", HERE).unwrap()[20..], sealer(1).seal(b"x", HERE).unwrap()[20..]);
    }

    #[test]
    fn refuses_every_single_flipped_bit_and_every_cut() {
        let sealer = sealer(1);
        let sealed = sealer.seal(b"a private key", HERE).unwrap();
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << bit;
                let expected = match at {
                    0..4 => SealError::Malformed,
                    4..20 => SealError::OtherKey,
                    _ => SealError::Damaged,
                };
                assert_eq!(sealer.open(&changed, HERE).unwrap_err(), expected, "byte {at} bit {bit}");
            }
            assert!(sealer.open(&sealed[..at], HERE).is_err(), "cut at {at}");
        }
        let longer = [&sealed[..], b"\0"].concat();
        assert_eq!(sealer.open(&longer, HERE).unwrap_err(), SealError::Damaged);
    }

    #[test]
    fn tells_another_key_from_damage() {
        let sealed = sealer(1).seal(b"x", HERE).unwrap();
        assert_eq!(sealer(2).open(&sealed, HERE).unwrap_err(), SealError::OtherKey);
    }

    #[test]
    fn refuses_a_data_key_of_one_envelope_under_the_content_of_another() {
        let (one, two) = (sealer(1).seal(b"old", HERE).unwrap(), sealer(1).seal(b"new", HERE).unwrap());
        let split = MAGIC.len() + KEK_ID + NONCE + DATA_KEY + TAG;
        let mixed = [&one[..split], &two[split..]].concat();
        assert_eq!(sealer(1).open(&mixed, HERE).unwrap_err(), SealError::Damaged);
    }

    #[test]
    fn names_are_keyed_and_stable() {
        let name = sealer(1).keyed_name("https://a.test");
        assert_eq!(name.len(), 64);
        assert_eq!(name, sealer(1).keyed_name("https://a.test"));
        assert_ne!(name, sealer(1).keyed_name("https://b.test"));
        assert_ne!(name, sealer(2).keyed_name("https://a.test"));
    }

    #[test]
    fn opens_what_the_first_version_wrote() {
        // Should this fail, every store in the world has become unreadable.
        let sealed: Vec<u8> = concat!(
            "45475201001334216a74215104f8b57b0ca01d07c6dba8377b53c4302da042ab2a65c628851a6a55",
            "a86e16eb740005bccdd7f5abb9dc37d838319ad6eb5bc32bebdf949859484fcef4ab8472e7d1f141",
            "157b5f57b65996adee98403cacd9b2a347a6dcafbb9d44ea053985e9387c02040a"
        )
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
        assert_eq!(&**sealer(7).open(&sealed, HERE).unwrap(), b"first");
        let name = "cc33d7b886e2fde26d246b40697ce2af6dcb047c31b19c2f052d2aa83a25dc94";
        assert_eq!(sealer(7).keyed_name("https://a.test"), name);
    }

    #[test]
    fn rewrapping_changes_the_wrapping_and_nothing_else() {
        let (old, new) = (sealer(1), sealer(2));
        let sealed = old.seal(b"content", HERE).unwrap();
        let moved = old.rewrap(&sealed, HERE, &new).unwrap();
        assert_eq!(&**new.open(&moved, HERE).unwrap(), b"content");
        assert_eq!(old.open(&moved, HERE).unwrap_err(), SealError::OtherKey);
        let payload = MAGIC.len() + KEK_ID + NONCE + DATA_KEY + TAG;
        assert_eq!(moved[payload..], sealed[payload..]);
        assert_ne!(moved[..payload], sealed[..payload]);
        let elsewhere = Place { version: 4, ..HERE };
        assert_eq!(new.open(&moved, elsewhere).unwrap_err(), SealError::Damaged);
        assert_eq!(old.rewrap(&sealed, elsewhere, &new).unwrap_err(), SealError::Damaged);
        assert_eq!(new.rewrap(&sealed, HERE, &old).unwrap_err(), SealError::OtherKey);
    }

    #[test]
    fn shows_no_key() {
        assert_eq!(format!("{:?}", sealer(7)), r#"Sealer { kek_id: "001334216a74215104f8b57b0ca01d07", .. }"#);
    }

    proptest! {
        #[test]
        fn opens_only_at_the_place_it_was_sealed_for(
            plain in proptest::collection::vec(any::<u8>(), 0..300),
            a in ("[a-z]{0,3}", "[a-z]{0,3}", "[a-z]{0,3}", 0_u64..3),
            b in ("[a-z]{0,3}", "[a-z]{0,3}", "[a-z]{0,3}", 0_u64..3),
        ) {
            let sealer = sealer(1);
            let here = Place { kind: &a.0, project: &a.1, id: &a.2, version: a.3 };
            let there = Place { kind: &b.0, project: &b.1, id: &b.2, version: b.3 };
            let (one, two) = (sealer.seal(&plain, here).unwrap(), sealer.seal(b"other", there).unwrap());
            prop_assert_eq!(&**sealer.open(&one, here).unwrap(), &plain[..]);
            if a != b {
                // Two records swapped.
                prop_assert_eq!(sealer.open(&one, there).unwrap_err(), SealError::Damaged);
                prop_assert_eq!(sealer.open(&two, here).unwrap_err(), SealError::Damaged);
            }
        }

        #[test]
        fn borders_between_the_parts_of_a_place_count(text in "[a-z]{2,9}", cut in 0_usize..10) {
            let sealer = sealer(1);
            let (left, right) = text.split_at(cut.min(text.len()));
            let sealed = sealer.seal(b"x", Place { kind: left, project: right, id: "", version: 1 }).unwrap();
            for at in 0..=text.len() {
                let (kind, project) = text.split_at(at);
                let opened = sealer.open(&sealed, Place { kind, project, id: "", version: 1 });
                prop_assert_eq!(opened.is_ok(), at == left.len());
            }
        }

        #[test]
        fn never_panics_on_what_is_no_envelope(tail in proptest::collection::vec(any::<u8>(), 0..200), ours in any::<bool>()) {
            let sealer = sealer(1);
            let mut bytes = if ours { [&MAGIC[..], &sealer.kek_id].concat() } else { Vec::new() };
            bytes.extend(tail);
            prop_assert!(sealer.open(&bytes, HERE).is_err());
        }
    }
}
