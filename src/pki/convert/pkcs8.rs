//! Encrypted PKCS#8 (RFC 5958 section 3): PBES2 with PBKDF2 or scrypt, AES or 3DES.

use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::pkcs5::pbes2::Kdf;
use pkcs8::pkcs5::{EncryptionScheme, Error};
use zeroize::Zeroizing;

use super::super::der::{self, Kind};
use super::{ConvertError, cost};

/// The PKCS#8 key inside.
pub(super) fn decrypt(der: &[u8], passphrase: Option<&[u8]>) -> Result<Zeroizing<Vec<u8>>, ConvertError> {
    let info = EncryptedPrivateKeyInfoRef::try_from(der).map_err(|_| unreadable())?;
    let EncryptionScheme::Pbes2(scheme) = &info.encryption_algorithm else { return Err(unreadable()) };
    match &scheme.kdf {
        Kdf::Pbkdf2(parameters) => {
            cost::check_iterations(u64::from(parameters.iteration_count), cost::MAX_ITERATIONS, cost::PKCS8_ANEW)?;
        }
        Kdf::Scrypt(parameters) => {
            let memory = parameters.cost_parameter.saturating_mul(u64::from(parameters.block_size)).saturating_mul(128);
            cost::check_scrypt(memory, u64::from(parameters.parallelization))?;
        }
        _ => return Err(unreadable()),
    }
    let passphrase = passphrase.ok_or(ConvertError::PassphraseNeeded)?;
    let mut buffer = Zeroizing::new(info.encrypted_data.as_bytes().to_vec());
    let length = match scheme.decrypt_in_place(passphrase, &mut buffer) {
        Ok(plain) => plain.len(),
        Err(Error::DecryptFailed) => return Err(ConvertError::WrongPassphrase),
        Err(_) => return Err(unreadable()),
    };
    buffer.truncate(length);
    // One wrong passphrase in 256 leaves padding that looks right.
    if der::kind(&buffer) == Some(Kind::Pkcs8Key) { Ok(buffer) } else { Err(ConvertError::WrongPassphrase) }
}

fn unreadable() -> ConvertError {
    ConvertError::refused(
        "this private key is encrypted in a way that egret does not read (it reads PBES2: PBKDF2 or scrypt, with AES or \
         3DES)",
        format!("{} (what is very old needs -provider default -provider legacy as well)", cost::PKCS8_ANEW),
    )
}
