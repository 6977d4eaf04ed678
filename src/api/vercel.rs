//! Vercel's dialect: a project's client certificates, as `@vercel/sdk` up to 1.18.5 calls them.
//!
//! Answers hold the fields of the vendor's documents and no others.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use serde::Serialize;

use super::Management;
use super::auth::{Caller, Need};
use super::body;
use super::fields::Fields;
use super::problem::{Answer, Problem};
use super::request::{Query, Segments};
use crate::control::Upload;
use crate::domain::{CertificateId, Pattern};

/// What an upload answers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Uploaded {
    updated: bool,
    origin: String,
    cert_id: String,
}

/// What a list answers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    client_certs: Vec<ListedCertificate>,
}

#[derive(Debug, Serialize)]
struct ListedCertificate {
    origin: String,
    id: String,
}

/// What a delete answers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Deleted {
    origin: String,
    cert_id: String,
}

/// `POST /v1/projects/{idOrName}/client-cert`
pub(super) async fn upload(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(id_or_name): Segments<String>,
    query: Query,
    request: Request,
) -> Answer<Uploaded> {
    let project = caller.project(&management.registry, &id_or_name, &query, Need::Write)?;
    let drain = query.drain()?;
    let body = body::read(request, &management.limits).await?;
    let upload = read_upload(&body, management.limits.max_pem)?;
    drop(body);
    let uploaded = management.control.upload(&project, upload, drain).await?;
    Ok(Json(Uploaded {
        updated: uploaded.updated,
        origin: uploaded.pattern.to_string(),
        cert_id: uploaded.certificate.info.id.to_string(),
    }))
}

/// `GET /v1/projects/{idOrName}/client-cert`
pub(super) async fn list(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(id_or_name): Segments<String>,
    query: Query,
) -> Answer<Listed> {
    let project = caller.project(&management.registry, &id_or_name, &query, Need::Read)?;
    let bindings = project.snapshot().bindings();
    let listed = bindings.iter().filter_map(|binding| {
        let id = binding.target.certificate_id()?.to_string();
        Some(ListedCertificate { origin: binding.pattern.to_string(), id })
    });
    Ok(Json(Listed { client_certs: listed.collect() }))
}

/// `DELETE /v1/projects/{idOrName}/client-cert/{certId}`
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
    Ok(Upload { cert, key, ca, pattern, skip_validation })
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
