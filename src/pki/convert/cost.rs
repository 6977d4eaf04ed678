//! What a file wants its reader to pay for deriving keys, read before anything is derived.

use super::super::der::{self, BIT_STRING, OCTET_STRING, OID, SEQUENCE, Value};
use super::ConvertError;

/// Most PBKDF2 or PKCS#12 iterations of a key file. RFC 8018 section 4.2 calls ten million fit for very critical keys.
pub(super) const MAX_ITERATIONS: u64 = 10_000_000;
/// The same for one encrypted part of a PKCS#12 file: that is where its reader stops.
const MAX_PART: u64 = 1_000_000;
/// Most memory of scrypt (128 * N * r), in bytes. OpenSSL's default needs 16 MiB.
pub(super) const MAX_SCRYPT_MEMORY: u64 = 256 * 1024 * 1024;
/// Most of scrypt's parallelism, which is paid one after the other.
pub(super) const MAX_SCRYPT_PARALLELISM: u64 = 16;

/// Writes a PKCS#12 file again; `-legacy` lets openssl 3 read the old ciphers as well.
pub(super) const PKCS12_ANEW: &str =
    "write it anew: openssl pkcs12 -in old.p12 -legacy -nodes | openssl pkcs12 -export -out new.p12";
/// Writes an encrypted key again.
pub(super) const PKCS8_ANEW: &str = "write it anew: openssl pkcs8 -topk8 -in client.key -out client-new.key";

const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c];
const SCRYPT: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x04, 0x0b];
/// `1.2.840.113549.1.12.1`: the schemes of PKCS#12 itself.
const PKCS12_PBE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01];
const INTEGER: u8 = der::INTEGER;
/// Deeper than any PKCS#12 file.
const MAX_DEPTH: usize = 24;

/// What was found in a PKCS#12 file.
#[derive(Default)]
struct Found {
    iterations: u64,
    largest: u64,
    scrypt: Option<(u64, u64)>,
}

/// Refuses a PKCS#12 file that costs too much. Sees every part that is not itself encrypted; inside those, the reader's
/// own limits hold.
pub(super) fn check_pkcs12(bytes: &[u8]) -> Result<(), ConvertError> {
    let mut found = Found::default();
    walk(bytes, 0, &mut found);
    if let Some((memory, parallelism)) = found.scrypt {
        check_scrypt(memory, parallelism)?;
    }
    check_iterations(found.largest, MAX_PART, PKCS12_ANEW)?;
    check_iterations(found.iterations, MAX_ITERATIONS, PKCS12_ANEW)
}

/// `anew` is the command that writes such a file again.
pub(super) fn check_iterations(iterations: u64, most: u64, anew: &str) -> Result<(), ConvertError> {
    if iterations <= most {
        return Ok(());
    }
    Err(ConvertError::refused(
        format!("opening this file takes {iterations} iterations of its key derivation; egret pays for at most {most}"),
        format!("if you trust who made it, {anew}"),
    ))
}

/// `memory` is 128 * N * r.
pub(super) fn check_scrypt(memory: u64, parallelism: u64) -> Result<(), ConvertError> {
    if memory <= MAX_SCRYPT_MEMORY && parallelism <= MAX_SCRYPT_PARALLELISM {
        return Ok(());
    }
    Err(ConvertError::refused(
        format!(
            "opening this file takes more of scrypt (128 * N * r = {memory} bytes, p = {parallelism}) than egret pays for \
             (256 MiB, p = {MAX_SCRYPT_PARALLELISM})"
        ),
        format!("if you trust who made it, {PKCS8_ANEW}"),
    ))
}

fn walk(mut input: &[u8], depth: usize, found: &mut Found) {
    while let Some((value, rest)) = der::read(input) {
        input = rest;
        if value.tag == SEQUENCE {
            note(&value, found);
        }
        let constructed = value.tag & 0x20 != 0;
        if depth < MAX_DEPTH && (constructed || matches!(value.tag, OCTET_STRING | BIT_STRING)) {
            walk(value.content, depth + 1, found);
        }
    }
}

/// A SEQUENCE that says how a key is derived.
fn note(sequence: &Value<'_>, found: &mut Found) {
    let Some(values) = der::children(sequence.content) else { return };
    let number = |values: &[Value<'_>], at: usize| {
        values
            .get(at)
            .filter(|v| v.tag == INTEGER)
            .map(|v| v.content.iter().fold(0_u64, |n, b| n.saturating_mul(256).saturating_add(u64::from(*b))))
    };
    let mut pay = |iterations: u64| {
        found.iterations = found.iterations.saturating_add(iterations);
        found.largest = found.largest.max(iterations);
    };
    // MacData: {DigestInfo, salt, iterations}; without the last one it is 1.
    if let [SEQUENCE, OCTET_STRING, INTEGER] = values.iter().map(|v| v.tag).collect::<Vec<_>>()[..] {
        pay(number(&values, 2).unwrap_or(1));
        return;
    }
    let Some((oid, parameters)) = values.first().zip(values.get(1)).filter(|(oid, _)| oid.tag == OID) else { return };
    let Some(parameters) = der::children(parameters.content) else { return };
    if oid.content == PBKDF2 || oid.content.starts_with(PKCS12_PBE) {
        pay(number(&parameters, 1).unwrap_or(0));
    } else if oid.content == SCRYPT
        && let (Some(n), Some(r), Some(p)) = (number(&parameters, 1), number(&parameters, 2), number(&parameters, 3))
    {
        let memory = n.saturating_mul(r).saturating_mul(128);
        let (most, widest) = found.scrypt.unwrap_or_default();
        found.scrypt = Some((most.max(memory), widest.max(p)));
    }
}
