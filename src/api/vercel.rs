//! Vercel's dialect: a project's client certificates, as `@vercel/sdk` up to 1.18.5 calls them.
//!
//! Answers hold the fields of the vendor's documents and no others.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Management;
use super::auth::{Caller, Need};
use super::body;
use super::fields::Fields;
use super::openapi::{CertificatePath, DrainQuery, ProjectPath, StageQuery, TeamQuery, Tls13Query};
use super::problem::{Answer, ErrorBody, Problem};
use super::request::{Probe, Query, Segments};
use crate::control::{Promoted, Upload, trial_origin};
use crate::domain::{CertificateId, Pattern};
use crate::registry::Trial;

/// What an upload holds. Only documented here: [`read_upload`] reads it, so that no key is copied where it is not wiped.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ClientCertUpload)]
#[expect(dead_code, reason = "the schema of a body that is read by hand")]
struct UploadBody {
    /// The client certificate, PEM, with its chain behind it if it has one.
    #[schema(min_length = 1, max_length = 65536, example = "-----BEGIN CERTIFICATE-----\n…")]
    cert: String,
    /// Its private key, PEM: PKCS#8, PKCS#1 or SEC1, not encrypted.
    #[schema(min_length = 1, max_length = 65536, write_only)]
    key: String,
    /// The certificate authority that it leads to, PEM. For an origin it also vouches for that server.
    #[schema(min_length = 1, max_length = 65536, example = "-----BEGIN CERTIFICATE-----\n…")]
    ca: String,
    /// Where it is presented: an origin (`https://host[:port]`, `https://host:*`), a wildcard (`https://*.example.com`),
    /// or `*` for every origin of the project that asks, which is also what it means to leave it out.
    #[schema(nullable = false, min_length = 1, max_length = 2048, example = "https://api.example.com")]
    origin: Option<String>,
    /// Leaves out the checks of chain, dates and usage; the certificate is then sent even when expired.
    #[schema(nullable = false, default = false)]
    skip_validation: Option<bool>,
}

/// What an upload answers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ClientCertUploaded)]
pub(super) struct Uploaded {
    /// Whether there was a certificate in this place before.
    updated: bool,
    /// Where it is presented; `*`: project-wide.
    #[schema(pattern = r"^(\*|https://.+)$", example = "https://api.example.com")]
    origin: String,
    /// Its id; new with every upload of other material.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "cert_0123456789abcdef0123456789abcdef")]
    cert_id: String,
    /// How trying it out went; only with `stage=probe`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    probe: Option<Probed>,
}

/// What the origin made of a certificate that was tried out.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ClientCertProbed)]
struct Probed {
    /// Where it was tried out.
    #[schema(pattern = "^https://.+$", example = "https://api.example.com")]
    origin: String,
    /// The status of the answer.
    #[schema(minimum = 200, maximum = 999)]
    status: u16,
    /// `TLSv1.2` or `TLSv1.3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = r"^TLSv1\.[23]$")]
    tls_version: Option<&'static str>,
    /// What is worth knowing all the same, such as a 403 of the application.
    warnings: Vec<String>,
}

impl Uploaded {
    fn of(uploaded: &crate::control::Uploaded, probe: Option<Probed>) -> Self {
        Self {
            updated: uploaded.updated,
            origin: uploaded.pattern.to_string(),
            cert_id: uploaded.certificate.info.id.to_string(),
            probe,
        }
    }
}

/// What a list answers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ClientCerts)]
pub(super) struct Listed {
    /// One entry per binding.
    client_certs: Vec<ListedCertificate>,
}

/// A certificate and a place where it is presented.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ClientCert)]
struct ListedCertificate {
    /// Where it is presented; `*`: project-wide.
    #[schema(pattern = r"^(\*|https://.+)$", example = "https://api.example.com")]
    origin: String,
    /// Its id.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "cert_0123456789abcdef0123456789abcdef")]
    id: String,
}

/// What a delete answers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ClientCertDeleted)]
pub(super) struct Deleted {
    /// Where it was presented, the first place of several; empty if it was bound nowhere.
    #[schema(pattern = r"^(\*|https://.+)?$", example = "https://api.example.com")]
    origin: String,
    /// Its id.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "cert_0123456789abcdef0123456789abcdef")]
    cert_id: String,
}

/// Upload a client certificate
///
/// Replaces the one that is bound to the same place: no request that begins after the answer uses the old one. With
/// `stage=probe` only if an origin takes it: 400 says why it does not, and nothing has changed.
#[utoipa::path(
    post, path = "/v1/projects/{idOrName}/client-cert", operation_id = "uploadProjectClientCert", tag = "client-cert",
    params(ProjectPath, TeamQuery, DrainQuery, StageQuery, Tls13Query), request_body = UploadBody,
    responses(
        (status = 200, description = "Bound, and in use from now on.", body = Uploaded),
        (status = 400, description = "The request, or the certificate, cannot be used; every fault is named.", body = ErrorBody),
        (status = 402, description = "The project is blocked.", body = ErrorBody),
        (status = 403, description = "The token does not allow it, or a configuration file declares this place.", body = ErrorBody),
        (status = 404, description = "No such project.", body = ErrorBody),
        (status = 409, description = "The project is being transferred.", body = ErrorBody),
        (status = 500, description = "It could not be encrypted or stored; nothing was changed.", body = ErrorBody),
        (status = 503, description = "With `stage=probe`: too many certificates are being tried out; try again in a moment.", body = ErrorBody),
    )
)]
pub(super) async fn upload(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(id_or_name): Segments<String>,
    query: Query,
    request: Request,
) -> Answer<Uploaded> {
    let project = caller.project(&management.registry, &id_or_name, &query, Need::Write)?;
    let (drain, probe, tls13_only) = (query.drain()?, query.probe()?, query.tls13_only()?);
    let body = body::read(request, &management.limits).await?;
    caller.still_in(&management.registry)?;
    let upload = read_upload(&body, management.limits.max_pem())?;
    drop(body);
    let upload = Upload { tls13_only, ..upload };
    let Some(Probe { origin, method, path }) = probe else {
        let uploaded = management.control.upload(&project, upload, drain).await?;
        return Ok(Json(Uploaded::of(&uploaded, None)));
    };
    let origin = trial_origin(&project.load(), &upload.pattern, origin)?;
    let Promoted { uploaded, origin, proof } = management
        .control
        .stage(&project, upload, drain, Trial { origin, method, path }, Some(caller.token().clone()))
        .await?;
    let probed = Probed {
        origin: origin.to_string(),
        status: proof.status,
        tls_version: proof.tls_version,
        warnings: proof.warnings,
    };
    Ok(Json(Uploaded::of(&uploaded, Some(probed))))
}

/// List a project's client certificates
#[utoipa::path(
    get, path = "/v1/projects/{idOrName}/client-cert", operation_id = "getProjectClientCerts", tag = "client-cert",
    params(ProjectPath, TeamQuery),
    responses(
        (status = 200, description = "All of them, the project-wide one first.", body = Listed),
        (status = 404, description = "No such project.", body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(id_or_name): Segments<String>,
    query: Query,
) -> Answer<Listed> {
    let project = caller.project(&management.registry, &id_or_name, &query, Need::Read)?;
    let snapshot = project.snapshot();
    let covered = snapshot.covered();
    let bindings = snapshot.bindings();
    // A zone's certificate is this dialect's as long as it is presented; what was uploaded here is always.
    let is_listed =
        |binding: &&Arc<_>| covered.is_none_or(|covered| !(covered.derived && Arc::ptr_eq(covered, binding)));
    let listed = bindings.iter().filter(is_listed).filter_map(|binding| {
        let id = binding.target.certificate_id()?.to_string();
        Some(ListedCertificate { origin: binding.pattern.to_string(), id })
    });
    Ok(Json(Listed { client_certs: listed.collect() }))
}

/// Delete a client certificate
///
/// With all its bindings. No request that begins after the answer uses it.
#[utoipa::path(
    delete, path = "/v1/projects/{idOrName}/client-cert/{certId}", operation_id = "deleteProjectClientCert", tag = "client-cert",
    params(ProjectPath, CertificatePath, TeamQuery, DrainQuery),
    responses(
        (status = 200, description = "Deleted.", body = Deleted),
        (status = 403, description = "The token does not allow it, a configuration file declares the certificate, or it is the account's.", body = ErrorBody),
        (status = 404, description = "No such project or certificate.", body = ErrorBody),
        (status = 409, description = "The project is being transferred.", body = ErrorBody),
        (status = 500, description = "It could not be stored; nothing was changed.", body = ErrorBody),
    )
)]
pub(super) async fn remove(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments((id_or_name, certificate)): Segments<(String, String)>,
    query: Query,
) -> Answer<Deleted> {
    let project = caller.project(&management.registry, &id_or_name, &query, Need::Write)?;
    let drain = query.drain()?;
    let id = CertificateId::parse(&certificate).ok_or_else(|| Problem::not_found("certificate"))?;
    let patterns = management.control.delete(&project, &id, drain).await?;
    // The SDK insists on a string, also for a certificate that was bound nowhere.
    let origin = patterns.first().map(Pattern::to_string).unwrap_or_default();
    Ok(Json(Deleted { origin, cert_id: id.to_string() }))
}

/// Reads the body of an upload; `max_pem` bounds `cert`, `key` and `ca` each, in bytes.
fn read_upload(body: &[u8], max_pem: usize) -> Result<Upload, Problem> {
    let mut fields = Fields::parse(body)?;
    let (cert, key, ca) = (fields.text("cert"), fields.text("key"), fields.text("ca"));
    let pattern = match fields.optional_text("origin").map(|origin| Pattern::parse(&origin)) {
        None => Pattern::Default,
        Some(Ok(pattern)) => pattern,
        Some(Err(why)) => {
            fields.fault("origin", why);
            Pattern::Default
        }
    };
    let skip_validation = fields.flag("skipValidation");
    fields.finish()?;
    let sizes = [("cert", cert.len()), ("key", key.len()), ("ca", ca.len())];
    let large: Vec<_> = sizes.iter().filter(|(_, size)| *size > max_pem).map(|(name, _)| *name).collect();
    if !large.is_empty() {
        let message =
            format!("{}: larger than {}; send only what belongs there", large.join(", "), body::size(max_pem));
        return Err(Problem::too_large(message));
    }
    Ok(Upload { cert, key, ca, pattern, skip_validation, tls13_only: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> String {
        match read_upload(body.as_bytes(), 64) {
            Err(problem) => format!("{} {problem:?}", problem.status().as_u16()),
            Ok(_) => panic!("must be refused"),
        }
    }

    #[test]
    fn reads_an_upload() {
        let body =
            br#"{"cert":"c\nc","key":"k","ca":"a","origin":"HTTPS://API.Example.com:443/","skipValidation":true}"#;
        let upload = read_upload(body, 64).unwrap();
        assert_eq!((upload.cert.as_str(), upload.key.as_str(), upload.ca.as_str()), ("c\nc", "k", "a"));
        assert_eq!(upload.pattern.to_string(), "https://api.example.com");
        assert!(upload.skip_validation);
    }

    #[test]
    fn takes_no_origin_and_a_star_for_the_whole_project() {
        for body in [&br#"{"cert":"c","key":"k","ca":"a"}"#[..], br#"{"cert":"c","key":"k","ca":"a","origin":"*"}"#] {
            let upload = read_upload(body, 64).unwrap();
            assert_eq!(upload.pattern, Pattern::Default);
            assert!(!upload.skip_validation);
        }
    }

    #[test]
    fn refuses_with_every_fault_and_nothing_of_the_input() {
        let said =
            refused(r#"{"key":"SECRET","origin":"http://SECRET.test","skipValidation":null,"passphrase":"SECRET"}"#);
        for part in [
            "400",
            "missing fields: cert, ca",
            "origin: plain http has no TLS",
            "skipValidation must be true or false, not null",
            "unknown field passphrase",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert!(!said.contains("SECRET"), "{said}");
        assert!(
            refused(r#"{"cert":"c","key":"k","ca":"a","origin":null}"#).contains("origin must be a string, not null")
        );
    }

    #[test]
    fn names_the_fields_that_are_too_large() {
        let large = "x".repeat(65);
        let said = refused(&format!(r#"{{"cert":"{large}","key":"k","ca":"{large}"}}"#));
        assert!(said.starts_with("413") && said.contains("cert, ca: larger than 64 bytes"), "{said}");
    }
}
