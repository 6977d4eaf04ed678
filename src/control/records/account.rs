//! The record of what an account holds: a leaf with its key, or a CA bundle.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{NotUnderstood, at, from_base64, micros, to_base64, to_json};

/// A certificate of an account, with its key if it is a leaf.
pub(in crate::control) struct AccountRecord {
    /// A CA bundle; else a leaf.
    pub(in crate::control) ca: bool,
    pub(in crate::control) name: Option<String>,
    /// As uploaded.
    pub(in crate::control) certificates: String,
    /// As uploaded, PEM; of a leaf only.
    pub(in crate::control) key: Option<Zeroizing<String>>,
    /// The id of the token.
    pub(in crate::control) by: String,
    /// Whole microseconds.
    pub(in crate::control) updated_at: OffsetDateTime,
    /// What validation said then.
    pub(in crate::control) warnings: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountJson<'a> {
    ca: bool,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    certificates: Cow<'a, str>,
    /// Base64, so that no parser has to unescape it into a buffer of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(borrow)]
    by: Cow<'a, str>,
    /// Microseconds.
    updated_at: i64,
    #[serde(borrow)]
    warnings: Vec<Cow<'a, str>>,
}

impl AccountRecord {
    pub(in crate::control) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let key = self.key.as_ref().map(|key| to_base64(key.as_bytes()));
        let json = AccountJson {
            ca: self.ca,
            name: self.name.as_deref().map(Cow::Borrowed),
            certificates: Cow::Borrowed(&self.certificates),
            key: key.as_ref().map(|key| key.as_str()),
            by: Cow::Borrowed(&self.by),
            updated_at: micros(self.updated_at),
            warnings: self.warnings.iter().map(|w| Cow::Borrowed(w.as_str())).collect(),
        };
        // Room for the worst case (every byte escaped), so that no grown-out-of buffer with the key is left behind.
        let texts = [&self.certificates, &self.by].into_iter().chain(&self.name).chain(&self.warnings);
        let texts: usize = texts.map(String::len).sum();
        to_json(&json, key.as_ref().map_or(0, |key| key.len()) + 6 * texts + 8 * self.warnings.len() + 1024)
    }

    pub(in crate::control) fn parse(plain: &[u8]) -> Result<Self, NotUnderstood> {
        let json: AccountJson<'_> = serde_json::from_slice(plain).map_err(|_| NotUnderstood)?;
        Ok(Self {
            ca: json.ca,
            name: json.name.map(Cow::into_owned),
            certificates: json.certificates.into_owned(),
            key: json.key.map(from_base64).transpose()?,
            by: json.by.into_owned(),
            updated_at: at(json.updated_at)?,
            warnings: json.warnings.into_iter().map(Cow::into_owned).collect(),
        })
    }
}
