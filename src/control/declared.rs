//! Certificates declared in files: read once at start. The file is the writer; the API only shows them.

use std::path::Path;

use aws_lc_rs::digest;
use time::OffsetDateTime;

use crate::config::DeclaredCertificate;
use crate::domain::{CertificateId, time as clock};
use crate::pki::files;
use crate::pki::validate::{Field, Material, ValidCertificate, validate};

/// A declared certificate, as it was found.
pub(super) struct Declared {
    pub(super) certificate: DeclaredCertificate,
    pub(super) id: CertificateId,
    /// Material, chain and `ca` as read; or a sentence that names file and fault.
    pub(super) found: Result<(ValidCertificate, String, String), String>,
}

/// Reads and validates one. Blocks.
pub(super) fn read(certificate: DeclaredCertificate) -> Declared {
    let found = material(&certificate);
    let digest = found.as_ref().map(|(valid, _, _)| valid.digest).unwrap_or_default();
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(b"egret declared certificate\0");
    hash.update(certificate.project.as_str().as_bytes());
    hash.update(b"\0");
    hash.update(certificate.pattern.to_string().as_bytes());
    hash.update(b"\0");
    hash.update(&digest);
    let hash = hash.finish();
    let bits = hash.as_ref()[..16].try_into().expect("SHA-256 has 32 bytes");
    Declared { certificate, id: CertificateId::from_bits(bits), found }
}

fn material(declared: &DeclaredCertificate) -> Result<(ValidCertificate, String, String), String> {
    let text = |path: &Path| files::mounted_text(path).map_err(|what| format!("{}: {what}", path.display()));
    let cert = text(&declared.cert)?;
    let key = text(&declared.key)?;
    let ca = text(&declared.ca)?;
    warn_if_exposed(&declared.key);
    let material = Material { cert: &cert, key: &key, ca: &ca, skip_validation: declared.skip_validation };
    let now = clock::now();
    let valid = validate(material, now).or_else(|faults| outlived(material, now).ok_or(faults)).map_err(|faults| {
        let sentences = faults.iter().map(|fault| {
            let path = match fault.field {
                Field::Cert => &declared.cert,
                Field::Key => &declared.key,
                Field::Ca => &declared.ca,
            };
            format!("{}: {}; {}", path.display(), fault.what, fault.remedy_in_files())
        });
        sentences.collect::<Vec<_>>().join(" | ")
    })?;
    Ok((valid, String::clone(&cert), String::clone(&ca)))
}

/// A certificate whose only fault is that it is not valid right now is loaded all the same: its requests are then
/// refused as expired (or sent, where the project says so), which tells more than a certificate that is missing.
fn outlived(material: Material<'_>, now: OffsetDateTime) -> Option<ValidCertificate> {
    let lenient = validate(Material { skip_validation: true, ..material }, now).ok()?;
    let within = now.clamp(lenient.not_before, lenient.not_after);
    if within == now { None } else { validate(material, within).ok() }
}

#[cfg(unix)]
fn warn_if_exposed(key: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if std::fs::metadata(key).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0) {
        let path = key.display();
        tracing::warn!("the private key {path} can be read by every user of this machine; run: chmod o-r {path}");
    }
}

#[cfg(not(unix))]
fn warn_if_exposed(_key: &Path) {}
