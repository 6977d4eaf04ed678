//! What a record says once it is opened: JSON, versioned by the store's schema.
//!
//! A private key crosses this file as base64 in JSON: without an escape in it, serde hands it on by reference and
//! leaves no copy behind. All other buffers that held it are wiped.

mod account;
mod roster;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use zeroize::{Zeroize as _, Zeroizing};

use crate::domain::{
    CertificateId, DefaultScope, Lift, OnExpiry, Origin, Pattern, ProjectId, ProjectInfo, ProjectState, Role, Rollback,
    ServerTrust, Team,
};
pub(super) use account::AccountRecord;
pub(super) use roster::{roster_of, roster_to_bytes};

use crate::registry::{Association, Binding, Token, TokenScope, TokenSource};

/// Why an opened record means nothing to this egret. Never says anything of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record was opened, but its content is not understood")]
pub(super) struct NotUnderstood;

/// A certificate with its key.
pub(super) struct CertificateRecord {
    /// Chain as uploaded.
    pub(super) cert: String,
    /// CA bundle as uploaded.
    pub(super) ca: String,
    /// Key as uploaded, PEM.
    pub(super) key: Zeroizing<String>,
    /// As in the upload.
    pub(super) skip_validation: bool,
    /// Whole seconds.
    pub(super) uploaded_at: OffsetDateTime,
    /// What validation said then.
    pub(super) warnings: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateJson<'a> {
    #[serde(borrow)]
    cert: Cow<'a, str>,
    #[serde(borrow)]
    ca: Cow<'a, str>,
    key: &'a str,
    skip_validation: bool,
    uploaded_at: i64,
    #[serde(borrow)]
    warnings: Vec<Cow<'a, str>>,
}

impl CertificateRecord {
    pub(super) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let key = to_base64(self.key.as_bytes());
        let json = CertificateJson {
            cert: Cow::Borrowed(&self.cert),
            ca: Cow::Borrowed(&self.ca),
            key: &key,
            skip_validation: self.skip_validation,
            uploaded_at: self.uploaded_at.unix_timestamp(),
            warnings: self.warnings.iter().map(|w| Cow::Borrowed(w.as_str())).collect(),
        };
        // Room for the worst case (every byte escaped), so that no grown-out-of buffer with the key is left behind.
        let texts = self.cert.len() + self.ca.len() + self.warnings.iter().map(String::len).sum::<usize>();
        to_json(&json, key.len() + 6 * texts + 1024)
    }

    pub(super) fn parse(plain: &[u8]) -> Result<Self, NotUnderstood> {
        let json: CertificateJson<'_> = serde_json::from_slice(plain).map_err(|_| NotUnderstood)?;
        Ok(Self {
            cert: json.cert.into_owned(),
            ca: json.ca.into_owned(),
            key: from_base64(json.key)?,
            skip_validation: json.skip_validation,
            uploaded_at: time_of(json.uploaded_at)?,
            warnings: json.warnings.into_iter().map(Cow::into_owned).collect(),
        })
    }
}

fn to_base64(secret: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(vec![0; base64::encoded_len(secret.len(), true).unwrap_or_default()]);
    let written = STANDARD.encode_slice(secret, &mut text).expect("the buffer has the length that base64 names");
    text.truncate(written);
    Zeroizing::new(String::from_utf8(std::mem::take(&mut *text)).expect("base64 is ASCII"))
}

fn from_base64(text: &str) -> Result<Zeroizing<String>, NotUnderstood> {
    let mut secret = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let written = STANDARD.decode_slice(text, &mut secret).map_err(|_| NotUnderstood)?;
    secret.truncate(written);
    String::from_utf8(std::mem::take(&mut *secret)).map(Zeroizing::new).map_err(|error| {
        error.into_bytes().zeroize();
        NotUnderstood
    })
}

pub(super) fn to_json<T: Serialize>(value: &T, room: usize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    serde_json::to_writer(&mut *bytes, value)
        .expect("a record is text, numbers and lists; writing to memory cannot fail");
    bytes
}

pub(super) fn time_of(seconds: i64) -> Result<OffsetDateTime, NotUnderstood> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| NotUnderstood)
}

fn micros(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}

fn at(micros: i64) -> Result<OffsetDateTime, NotUnderstood> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).map_err(|_| NotUnderstood)
}

fn milliseconds(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// A binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BindingRecord {
    /// Where.
    pub(super) pattern: Pattern,
    /// What; `None` = *none*.
    pub(super) certificate: Option<CertificateId>,
    /// When it was written, whole microseconds.
    pub(super) since: OffsetDateTime,
    /// Whether plain http is lifted by it.
    pub(super) lift: bool,
    /// Whether its certificate is presented over TLS 1.3 only.
    pub(super) tls13_only: bool,
    /// What it can go back to.
    pub(super) previous: Option<PreviousRecord>,
    /// The hostname association that it stands for.
    pub(super) association: Option<Association>,
}

/// The certificate before, whose own record lies where it lay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PreviousRecord {
    pub(super) certificate: CertificateId,
    /// Whole milliseconds.
    pub(super) until: OffsetDateTime,
    /// Nothing but such records names it.
    pub(super) alone: bool,
    pub(super) promoted: Option<Origin>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PreviousJson {
    certificate: String,
    /// Milliseconds.
    until: i64,
    alone: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    promoted: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BindingJson {
    pattern: String,
    certificate: Option<String>,
    since: i64,
    /// What is beyond the whole second. Left out where there is none, as in records of earlier versions.
    #[serde(default, skip_serializing_if = "is_zero")]
    since_micros: u32,
    /// Left out where it is true: records of earlier versions have none.
    #[serde(default = "lifts", skip_serializing_if = "is_lifting")]
    lift: bool,
    /// Left out where it is false, for the same reason.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    tls13_only: bool,
    /// Left out where there is none, as in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<PreviousJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    association: Option<AssociationJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AssociationJson {
    /// Left out once it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    created_at: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(micros: &u32) -> bool {
    *micros == 0
}

fn lifts() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_lifting(lift: &bool) -> bool {
    *lift
}

impl BindingRecord {
    /// What rests of a binding.
    pub(super) fn of(binding: &Binding) -> Self {
        let previous = binding.previous.as_ref().map(|previous| PreviousRecord {
            certificate: previous.certificate.info.id.clone(),
            until: previous.until,
            alone: previous.alone,
            promoted: previous.promoted.clone(),
        });
        Self {
            pattern: binding.pattern.clone(),
            certificate: binding.target.certificate_id().cloned(),
            since: binding.since,
            lift: binding.lift,
            tls13_only: binding.tls13_only,
            previous,
            association: binding.association.clone(),
        }
    }

    pub(super) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let json = BindingJson {
            pattern: self.pattern.to_string(),
            certificate: self.certificate.as_ref().map(|id| id.as_str().to_owned()),
            since: self.since.unix_timestamp(),
            since_micros: self.since.microsecond(),
            lift: self.lift,
            tls13_only: self.tls13_only,
            previous: self.previous.as_ref().map(|previous| PreviousJson {
                certificate: previous.certificate.as_str().to_owned(),
                until: milliseconds(previous.until),
                alone: previous.alone,
                promoted: previous.promoted.as_ref().map(Origin::to_string),
            }),
            association: self.association.as_ref().map(|association| AssociationJson {
                certificate: association.certificate.as_ref().map(CertificateId::to_string),
                created_at: association.created_at.unix_timestamp(),
            }),
        };
        to_json(&json, 512)
    }

    pub(super) fn parse(plain: &[u8]) -> Result<Self, NotUnderstood> {
        let json: BindingJson = serde_json::from_slice(plain).map_err(|_| NotUnderstood)?;
        let certificate = match json.certificate {
            Some(id) => Some(CertificateId::parse(&id).ok_or(NotUnderstood)?),
            None => None,
        };
        let pattern = Pattern::parse(&json.pattern).map_err(|_| NotUnderstood)?;
        let previous = match json.previous {
            Some(PreviousJson { certificate, until, alone, promoted }) => {
                let certificate = CertificateId::parse(&certificate).ok_or(NotUnderstood)?;
                let promoted = promoted.map(|at| Origin::parse(&at)).transpose().map_err(|_| NotUnderstood)?;
                let until = OffsetDateTime::from_unix_timestamp_nanos(i128::from(until) * 1_000_000);
                Some(PreviousRecord { certificate, until: until.map_err(|_| NotUnderstood)?, alone, promoted })
            }
            None => None,
        };
        let association = match json.association {
            Some(AssociationJson { certificate, created_at }) => {
                let certificate = certificate.map(|id| CertificateId::parse(&id).ok_or(NotUnderstood)).transpose()?;
                Some(Association { certificate, created_at: time_of(created_at)? })
            }
            None => None,
        };
        let since = time_of(json.since)?.replace_microsecond(json.since_micros).map_err(|_| NotUnderstood)?;
        let (lift, tls13_only) = (json.lift, json.tls13_only);
        Ok(Self { pattern, certificate, since, lift, tls13_only, previous, association })
    }
}

/// What is known of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProjectRecord {
    id: String,
    name: String,
    team: Option<Team>,
    account_id: Option<String>,
    zone_id: Option<String>,
    state: ProjectState,
    default_scope: ScopeJson,
    on_expiry: OnExpiry,
    /// Left out where it is the default: records of earlier versions have none.
    #[serde(default, skip_serializing_if = "Lift::is_registered")]
    lift: Lift,
    #[serde(default, skip_serializing_if = "Rollback::is_auto")]
    rollback: Rollback,
    servers: ServerTrust,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ScopeJson {
    Any,
    Hinted,
    Listed(Vec<String>),
}

impl ProjectRecord {
    pub(super) fn of(info: &ProjectInfo) -> Self {
        Self {
            id: info.id.as_str().to_owned(),
            name: info.name.clone(),
            team: info.team.clone(),
            account_id: info.account_id.clone(),
            zone_id: info.zone_id.clone(),
            state: info.state,
            default_scope: match &info.default_scope {
                DefaultScope::Any => ScopeJson::Any,
                DefaultScope::Hinted => ScopeJson::Hinted,
                DefaultScope::Listed(list) => ScopeJson::Listed(list.iter().map(Pattern::to_string).collect()),
            },
            on_expiry: info.on_expiry,
            lift: info.lift,
            rollback: info.rollback,
            servers: info.servers,
        }
    }

    pub(super) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        to_json(self, 512)
    }

    /// The project as it is when no file declares it.
    pub(super) fn parse(plain: &[u8]) -> Result<ProjectInfo, NotUnderstood> {
        let json: Self = serde_json::from_slice(plain).map_err(|_| NotUnderstood)?;
        let default_scope = match json.default_scope {
            ScopeJson::Any => DefaultScope::Any,
            ScopeJson::Hinted => DefaultScope::Hinted,
            ScopeJson::Listed(list) => {
                let patterns = list.iter().map(|p| Pattern::parse(p)).collect::<Result<_, _>>();
                DefaultScope::Listed(patterns.map_err(|_| NotUnderstood)?)
            }
        };
        Ok(ProjectInfo {
            id: ProjectId::parse(&json.id).ok_or(NotUnderstood)?,
            name: json.name,
            team: json.team,
            account_id: json.account_id,
            zone_id: json.zone_id,
            state: json.state,
            default_scope,
            on_expiry: json.on_expiry,
            lift: json.lift,
            rollback: json.rollback,
            servers: json.servers,
            declared: false,
        })
    }
}

/// A token made through the API. Its text is nowhere in it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenJson {
    name: String,
    /// Base64.
    sha256: String,
    email: Option<String>,
    role: Role,
    /// Ids; `None` = all.
    projects: Option<Vec<String>>,
    created_at: i64,
    expires_at: Option<i64>,
}

/// The record of a token with this digest.
pub(super) fn token_to_bytes(token: &Token, sha256: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    let json = TokenJson {
        name: token.name.clone(),
        sha256: STANDARD.encode(sha256),
        email: token.email.clone(),
        role: token.role,
        projects: match &token.scope {
            TokenScope::All => None,
            TokenScope::Projects(ids) => Some(ids.clone()),
        },
        created_at: token.created_at.unwrap_or(OffsetDateTime::UNIX_EPOCH).unix_timestamp(),
        expires_at: token.expires_at.map(OffsetDateTime::unix_timestamp),
    };
    to_json(&json, 512)
}

/// The token of the record with this id, and its digest.
pub(super) fn token_of(id: &str, plain: &[u8]) -> Result<([u8; 32], Token), NotUnderstood> {
    let json: TokenJson = serde_json::from_slice(plain).map_err(|_| NotUnderstood)?;
    let sha256 = STANDARD.decode(json.sha256).map_err(|_| NotUnderstood)?;
    let token = Token {
        id: id.to_owned(),
        name: json.name,
        email: json.email,
        role: json.role,
        scope: json.projects.map_or(TokenScope::All, TokenScope::Projects),
        source: TokenSource::Api,
        created_at: Some(time_of(json.created_at)?),
        expires_at: json.expires_at.map(time_of).transpose()?,
    };
    Ok((sha256.try_into().map_err(|_| NotUnderstood)?, token))
}
