//! What certificates and associations look like in this dialect: fields of the vendor's SDKs, from facts of the registry.
//! PEM is what was uploaded, byte for byte; a private key is in none of them.

use serde::Serialize;
use utoipa::ToSchema;

use crate::control::{Associated, Deployment, Released, Shown};
use crate::domain::time::rfc3339;
use crate::domain::{CertificateId, CertificateInfo, Holder};

/// How far a certificate or an association is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CloudflareStatus)]
pub(in crate::api) enum Status {
    /// It is stored and not in force yet, or a file declares what goes before it.
    PendingDeployment,
    /// Every worker of the proxy selects it.
    Active,
    /// It could not be loaded.
    DeploymentTimedOut,
    /// It was deleted, and connections of it are finishing.
    PendingDeletion,
    /// It was deleted, and nothing of it runs.
    Deleted,
}

impl From<Deployment> for Status {
    fn from(deployment: Deployment) -> Self {
        match deployment {
            Deployment::Pending => Self::PendingDeployment,
            Deployment::Active => Self::Active,
            Deployment::Failed => Self::DeploymentTimedOut,
            Deployment::Ending(_) => Self::PendingDeletion,
        }
    }
}

/// What can be told of a certificate; nothing of one that could not be loaded.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = CloudflareCertificateFacts)]
pub(in crate::api) struct Facts {
    /// End of validity.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    expires_on: Option<String>,
    /// The distinguished name of its issuer, RFC 4514.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "CN=Example Issuing CA,O=Example,C=US")]
    issuer: Option<String>,
    /// In decimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        nullable = false,
        pattern = "^(-?[0-9]+|-?0x[0-9A-F]+)$",
        example = "235217144297995885180570755458463043449861756659"
    )]
    serial_number: Option<String>,
    /// The algorithm that its issuer signed it with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "ECDSAWithSHA256")]
    signature: Option<&'static str>,
}

impl Facts {
    pub(super) fn of(info: &CertificateInfo) -> Self {
        Self {
            expires_on: Some(rfc3339(info.not_after)),
            issuer: Some(info.issuer.clone()),
            serial_number: Some(info.serial_decimal()),
            signature: Some(info.signature),
        }
    }

    fn of_some(info: Option<&CertificateInfo>) -> Self {
        info.map(Self::of).unwrap_or_default()
    }
}

/// A certificate of a zone's hostnames. Of one that could not be loaded, only id, status and date are known; once it is
/// deleted, not the date either.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CloudflareHostnameCertificate)]
pub(in crate::api) struct HostnameCertificate {
    /// 32 hex digits.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "0123456789abcdef0123456789abcdef")]
    id: String,
    /// As uploaded, byte for byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    certificate: Option<String>,
    #[serde(flatten)]
    facts: Facts,
    status: Status,
    /// When it was uploaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    uploaded_on: Option<String>,
}

/// A certificate of a zone. As [`HostnameCertificate`].
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CloudflareZoneCertificate)]
pub(in crate::api) struct ZoneCertificate {
    #[serde(flatten)]
    certificate: HostnameCertificate,
    /// Whether the zone presents its newest certificate. Always true for one that was bound to the whole project by
    /// another way of the API, which the setting does not concern.
    enabled: bool,
}

/// The id in this dialect: hex digits, or the whole of one that nobody here made.
pub(super) fn id_of(id: &CertificateId) -> String {
    id.hex().unwrap_or(id.as_str()).to_owned()
}

impl HostnameCertificate {
    pub(super) fn of(shown: &Shown) -> Self {
        Self {
            id: id_of(&shown.id),
            certificate: shown.pem.clone(),
            facts: Facts::of_some(shown.info.as_deref()),
            status: shown.deployment.into(),
            uploaded_on: Some(rfc3339(shown.info.as_ref().map_or(shown.since, |info| info.uploaded_at))),
        }
    }

    pub(super) fn deleted(released: &Released) -> Self {
        let uploaded = released.certificate.as_ref().map(|certificate| certificate.info.uploaded_at);
        Self {
            id: id_of(&released.id),
            certificate: released.certificate.as_ref().map(|certificate| certificate.cert_pem.clone()),
            facts: Facts::of_some(released.certificate.as_ref().map(|certificate| &*certificate.info)),
            status: if released.connections > 0 { Status::PendingDeletion } else { Status::Deleted },
            uploaded_on: uploaded.map(rfc3339),
        }
    }
}

impl ZoneCertificate {
    /// `enabled`: the setting of the zone.
    pub(super) fn of(shown: &Shown, enabled: bool) -> Self {
        let is_of_zone = shown.info.as_ref().is_none_or(|info| info.holder == Holder::Zone);
        Self { certificate: HostnameCertificate::of(shown), enabled: enabled || !is_of_zone }
    }

    /// As [`ZoneCertificate::of`].
    pub(super) fn deleted(released: &Released, enabled: bool) -> Self {
        let info = released.certificate.as_ref().map(|certificate| &certificate.info);
        let is_of_zone = info.is_none_or(|info| info.holder == Holder::Zone);
        Self { certificate: HostnameCertificate::deleted(released), enabled: enabled || !is_of_zone }
    }
}

/// A hostname, and the certificate that it presents or does without.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CloudflareAssociation)]
pub(in crate::api) struct Association {
    /// In its canonical form; it stands for every port of it.
    #[schema(min_length = 1, example = "api.example.com")]
    hostname: String,
    /// The certificate that is named; left out where none is, or nobody knows any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[A-Za-z0-9_-]{1,64}$", example = "0123456789abcdef0123456789abcdef")]
    cert_id: Option<String>,
    /// `true`: the certificate is presented; `false`: none is; `null`: the association has ended (only in the answer that
    /// ends it).
    #[schema(required)]
    enabled: Option<bool>,
    status: Status,
    /// When the hostname was first associated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    created_at: Option<String>,
    /// When that last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    updated_at: Option<String>,
    /// How far the certificate is; left out where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    cert_status: Option<Status>,
    /// When the certificate was uploaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    cert_uploaded_on: Option<String>,
    /// The same: a certificate never changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    cert_updated_at: Option<String>,
    /// The certificate as uploaded, byte for byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    certificate: Option<String>,
    #[serde(flatten)]
    facts: Facts,
}

impl Association {
    pub(super) fn of(associated: &Associated) -> Self {
        let certificate = associated.certificate.as_ref();
        let uploaded_on = certificate.map(|certificate| rfc3339(certificate.info.uploaded_at));
        let cert_status = match (&associated.id, certificate) {
            (None, _) => None,
            (Some(_), Some(_)) => Some(Status::Active),
            (Some(_), None) => Some(Status::DeploymentTimedOut),
        };
        Self {
            hostname: associated.hostname.as_str().to_owned(),
            cert_id: associated.id.as_ref().map(id_of),
            enabled: Some(associated.enabled),
            status: associated.deployment.into(),
            created_at: Some(rfc3339(associated.created_at)),
            updated_at: Some(rfc3339(associated.updated_at)),
            cert_status,
            cert_uploaded_on: uploaded_on.clone(),
            cert_updated_at: uploaded_on,
            certificate: certificate.map(|certificate| certificate.cert_pem.clone()),
            facts: Facts::of_some(certificate.map(|certificate| &*certificate.info)),
        }
    }

    /// One that was ended by the request that this answers.
    pub(super) fn ended(hostname: &str) -> Self {
        Self {
            hostname: hostname.to_owned(),
            cert_id: None,
            enabled: None,
            status: Status::Deleted,
            created_at: None,
            updated_at: None,
            cert_status: None,
            cert_uploaded_on: None,
            cert_updated_at: None,
            certificate: None,
            facts: Facts::default(),
        }
    }
}
