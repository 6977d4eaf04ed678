//! From what is uploaded to an account, or rests there, to what the registry holds of it.

use std::sync::Arc;

use aws_lc_rs::digest;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::AccountUpload;
use crate::backend::RecordKey;
use crate::control::ControlError;
use crate::control::apply::Facts;
use crate::control::quietly::judged;
use crate::control::records::AccountRecord;
use crate::control::store::{ACCOUNT_HOME, Store};
use crate::domain::{CertificateId, CertificateInfo, Holder, Source, time as clock};
use crate::identity::ClientIdentity;
use crate::pki::pem;
use crate::pki::validate::{Fault, Material, ValidBundle, ValidCertificate, describe, validate, validate_bundle};
use crate::registry::{AccountCertificate, Accounts, LostOfAccount};

/// Material that can be used.
pub(super) struct Valid {
    what: What,
    /// See [`AccountCertificate::chain`].
    chain: [u8; 32],
}

enum What {
    Leaf(Box<ValidCertificate>),
    Bundle(Box<ValidBundle>),
}

/// What the material itself does not say.
pub(super) struct Given {
    pub(super) id: CertificateId,
    pub(super) name: Option<String>,
    pub(super) pem: String,
    pub(super) by: String,
    pub(super) updated_at: OffsetDateTime,
}

/// An upload whose material can be used, and what it is.
pub(super) async fn validated(upload: AccountUpload) -> Result<(AccountUpload, Valid), ControlError> {
    judged(move || {
        let key = upload.key.as_ref().map_or("", |key| key.as_str());
        let valid = Valid::judge(upload.ca, &upload.certificates, key, false, clock::now())?;
        Ok((upload, valid))
    })
    .await
}

impl Valid {
    fn judge(ca: bool, pem: &str, key: &str, skip_validation: bool, now: OffsetDateTime) -> Result<Self, Vec<Fault>> {
        let what = if ca {
            What::Bundle(Box::new(validate_bundle(pem, now)?))
        } else {
            let material = Material { cert: pem, key, ca: None, skip_validation };
            What::Leaf(Box::new(validate(material, now)?))
        };
        Ok(Self { what, chain: chain(pem) })
    }

    pub(super) fn chain(&self) -> &[u8; 32] {
        &self.chain
    }

    pub(super) fn digest(&self) -> &[u8; 32] {
        match &self.what {
            What::Leaf(leaf) => &leaf.digest,
            What::Bundle(bundle) => &bundle.digest,
        }
    }

    pub(super) fn warnings(&self) -> &[String] {
        match &self.what {
            What::Leaf(leaf) => &leaf.warnings,
            What::Bundle(bundle) => &bundle.warnings,
        }
    }

    /// `warnings`: what validation said when it was uploaded; `None` = what it says now.
    pub(super) fn certificate(self, given: Given, warnings: Option<Vec<String>>) -> Result<AccountCertificate, String> {
        let (chain, digest) = (self.chain, *self.digest());
        let Given { id, name, pem, by, updated_at } = given;
        let uploaded_at = updated_at.replace_nanosecond(0).unwrap_or(updated_at);
        let (info, identity, certificates) = match self.what {
            What::Leaf(valid) => {
                let facts = Facts {
                    id,
                    cert_pem: String::new(),
                    ca_pem: String::new(),
                    uploaded_at,
                    skip_validation: false,
                    warnings,
                    source: Source::Api,
                    holder: Holder::Account,
                };
                let info = Arc::new(facts.describe(&valid));
                let identity = ClientIdentity::new(info.clone(), valid.certified, valid.issuer_names);
                (info, Some(Arc::new(identity)), Vec::new())
            }
            What::Bundle(valid) => {
                let described = describe(&pem, id, false, Source::Api, uploaded_at)?;
                let warnings = warnings.unwrap_or(valid.warnings);
                let info = CertificateInfo { warnings, holder: Holder::Account, ..described };
                (Arc::new(info), None, valid.certificates)
            }
        };
        let ca = identity.is_none();
        Ok(AccountCertificate { info, ca, name, pem, digest, chain, by, updated_at, identity, certificates })
    }
}

/// SHA-256 over the certificates of what was understood as PEM, each with its length.
fn chain(text: &str) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    for certificate in pem::certificates(text).expect("it was understood when it was validated") {
        hash.update(&u64::try_from(certificate.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(&certificate);
    }
    hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// A record of an account, opened, or why it could not be.
pub(in crate::control) type Opened = (RecordKey, Result<Zeroizing<Vec<u8>>, String>);

/// What accounts hold, from their opened records; of those that could not be opened, why. What cannot be used is named,
/// and set aside.
pub(in crate::control) fn restored(store: &Store, records: Vec<Opened>) -> Accounts {
    let accounts = Accounts::default();
    for (key, opened) in records {
        let Some(account) = key.project.strip_prefix(ACCOUNT_HOME).map(str::to_owned) else {
            let sentence = format!("{key}: it belongs to no account");
            store.note_damage(Some(key), sentence);
            continue;
        };
        let Some(id) = CertificateId::parse(&key.id) else {
            let sentence = format!("{key}: the record's name is no certificate id");
            store.note_damage(Some(key), sentence);
            continue;
        };
        let why = match opened {
            Ok(plain) => match stored(id.clone(), &plain) {
                Ok(certificate) => {
                    accounts.insert(&account, Arc::new(certificate));
                    continue;
                }
                Err(why) => {
                    let sentence = format!("{key}: {why}");
                    store.note_damage(Some(key), sentence);
                    why
                }
            },
            // It is named already.
            Err(why) => why,
        };
        accounts.set_aside(&account, LostOfAccount { id, why });
    }
    accounts
}

/// It was judged when it was uploaded. Dates have passed since: of a leaf, what ended is said when it is presented; those of a
/// bundle are not looked at again, as of a time before all of them, for `updated_at` may be ahead of the clock.
fn stored(id: CertificateId, plain: &[u8]) -> Result<AccountCertificate, String> {
    let record = AccountRecord::parse(plain).map_err(|error| error.to_string())?;
    let AccountRecord { ca, name, certificates, key, by, updated_at, warnings } = record;
    let (key, now) = (key.unwrap_or_default(), if ca { OffsetDateTime::UNIX_EPOCH } else { clock::now() });
    let valid = Valid::judge(ca, &certificates, &key, true, now).map_err(|faults| {
        let words: Vec<_> = faults.iter().map(|fault| format!("{}; {}", fault.what, fault.remedy)).collect();
        words.join(" | ")
    })?;
    valid.certificate(Given { id, name, pem: certificates, by, updated_at }, Some(warnings))
}
