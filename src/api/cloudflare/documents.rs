//! The bodies and parameters of this dialect, as documented. Handlers read the bodies by hand (`bodies`), so that no key is
//! copied where it is not wiped.

use utoipa::{IntoParams, ToSchema};

/// The certificate of a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documentation; handlers read `Segments`")]
pub(in crate::api) struct CertificatePath {
    /// Id of the certificate: 32 hex digits, or the same as a UUID
    #[param(min_length = 1, example = "0123456789abcdef0123456789abcdef")]
    certificate_id: String,
}

/// A client certificate with its key.
#[derive(ToSchema)]
#[schema(as = CloudflareCertificateUpload)]
#[expect(dead_code, reason = "the schema of a body that is read by hand")]
pub(super) struct ZoneUploadBody {
    /// The client certificate, PEM, with its chain behind it if it has one.
    #[schema(min_length = 1, max_length = 65536, example = "-----BEGIN CERTIFICATE-----\n…")]
    certificate: String,
    /// Its private key, PEM: PKCS#8, PKCS#1 or SEC1, not encrypted.
    #[schema(min_length = 1, max_length = 65536, write_only)]
    private_key: String,
}

/// A client certificate with its key, or a CA bundle.
#[derive(ToSchema)]
#[schema(as = CloudflareMtlsUpload)]
#[expect(dead_code, reason = "the schema of a body that is read by hand")]
pub(super) struct AccountUploadBody {
    /// true: `certificates` are CA certificates, which vouch for servers where a project binds them; false: a client
    /// certificate.
    ca: bool,
    /// PEM: CA certificates, or a client certificate with its chain behind it if it has one.
    #[schema(min_length = 1, max_length = 65536, example = "-----BEGIN CERTIFICATE-----\n…")]
    certificates: String,
    /// For people; several may bear one.
    #[schema(nullable, max_length = 255, example = "partner")]
    name: Option<String>,
    /// The private key of a client certificate, PEM: PKCS#8, PKCS#1 or SEC1, not encrypted. Of a CA bundle it is not kept.
    #[schema(nullable, max_length = 65536, write_only)]
    private_key: Option<String>,
}

/// What the setting of a zone is to be.
#[derive(ToSchema)]
#[schema(as = CloudflareZoneSettingsWanted)]
#[expect(dead_code, reason = "the schema of a body that is read by hand")]
pub(super) struct SettingsBody {
    /// Whether the zone's newest certificate is presented project-wide.
    enabled: bool,
}

/// What hostnames are to have.
#[derive(ToSchema)]
#[schema(as = CloudflareHostnamesWanted)]
#[expect(dead_code, reason = "the schema of a body that is read by hand")]
pub(super) struct HostnamesBody {
    /// One entry per hostname.
    config: Vec<HostnameWanted>,
}

/// What a hostname is to have.
#[derive(ToSchema)]
#[schema(as = CloudflareHostnameWanted)]
#[expect(dead_code, reason = "the schema of a body that is read by hand")]
struct HostnameWanted {
    /// A name alone, without scheme and port; no wildcard.
    #[schema(min_length = 1, max_length = 255, example = "api.example.com")]
    hostname: String,
    /// A certificate of `hostnames/certificates`. Not needed where `enabled` is null.
    #[schema(nullable, max_length = 36, example = "0123456789abcdef0123456789abcdef")]
    cert_id: Option<String>,
    /// true: present the certificate; false: present none; null: end the association. It must be there.
    #[schema(required)]
    enabled: Option<bool>,
}
