//! The API's own description, OpenAPI 3.1, made from the handlers.
//!
//! It holds no secrets and is the same for everybody, so it takes no token; the checks of `Host` and `Origin` apply.

use std::sync::LazyLock;

use axum::response::IntoResponse;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::json;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    ContentBuilder, Header, HeaderBuilder, ObjectBuilder, OpenApi as Document, Ref, RefOr, Response, ResponseBuilder,
    Type,
};
use utoipa::{IntoParams, OpenApi};

use super::{cloudflare, paths};

const JSON: &str = "application/json";
const BEARER: &str = "bearer";
/// The two halves of the other way to authenticate, in Cloudflare's dialect.
const EMAIL_AND_KEY: [(&str, &str, &str); 2] = [
    ("authEmail", "X-Auth-Email", "The email that the token in X-Auth-Key has."),
    ("authKey", "X-Auth-Key", "A token of this egret that has an email, together with X-Auth-Email."),
];

/// What the document says beside the operations.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "egret management API",
        description = "Client certificates of an egress mTLS forward proxy: the dialects of Vercel and Cloudflare, and egret's own.\n\n\
            Success is 200. Every refusal has the body `Error` (below `/client/v4` `CloudflareError`), whose message names the field, \
            the fault and the remedy, and never repeats the request. A method that a path does not take answers 405 with `Allow`; a path \
            that does not exist answers 404. What is no HTTP request, or has too large a head, is answered without a body.\n\n\
            A token limited to projects gets 403 for everything outside them, existing or not. Unknown query parameters \
            are ignored, unknown fields of a body are refused (below `/client/v4` they are ignored). Below `/client/v4` JSON is also taken as \
            `text/plain`, as some clients of the vendor's send it.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    servers((url = "/", description = "the egret that serves this document")),
    security(("bearer" = [])),
    components(schemas(super::events::Told, cloudflare::envelope::Refusal)),
    tags(
        (name = "client-cert", description = "Vercel's dialect: a project's client certificates"),
        (name = "cloudflare", description = "Cloudflare's dialect: account mTLS certificates and origin pulls"),
        (name = "egret", description = "egret's own: projects, bindings, certificates, tokens, and how it all is"),
        (name = "health", description = "For orchestrators; no token, whatever the Host"),
        (name = "meta", description = "The API about itself"),
    ),
)]
pub(super) struct ApiDoc;

/// This document
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "getOpenApi", tag = "meta", security(()),
    responses((status = 200, description = "The description of this API, OpenAPI 3.1.", body = serde_json::Value, content_type = "application/json"))
)]
pub(super) async fn document() -> impl IntoResponse {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        complete(paths::all().into_openapi()).to_json().expect("a tree of text, numbers and lists is JSON")
    });
    ([(CONTENT_TYPE, JSON)], TEXT.as_str())
}

/// The document with what every operation has in common: refusals that come before the handler, and headers.
pub(super) fn complete(mut document: Document) -> Document {
    // Derived from Cargo.toml, which names nobody.
    document.info.contact = None;
    let components = document.components.get_or_insert_default();
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
        "A token of this egret: EGRET_TOKEN, one of [[tokens]], or the one in <data_dir>/admin.token.",
    ));
    components.security_schemes.insert(BEARER.to_owned(), RefOr::T(SecurityScheme::Http(scheme.build())));
    for (name, header, description) in EMAIL_AND_KEY {
        let scheme = ApiKey::Header(ApiKeyValue::with_description(header, description));
        components.security_schemes.insert(name.to_owned(), RefOr::T(SecurityScheme::ApiKey(scheme)));
    }
    for common in COMMON {
        for dialect in [Dialect::Own, Dialect::Cloudflare] {
            components.responses.insert(common.name_in(dialect), RefOr::T(common.response(dialect)));
        }
    }
    for (path, item) in &mut document.paths.paths {
        let dialect = if cloudflare::is_asked(path) { Dialect::Cloudflare } else { Dialect::Own };
        for operation in operations(item) {
            supply(operation, dialect);
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch].into_iter().flatten()
}

/// In whose words an operation refuses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Own,
    Cloudflare,
}

/// Gives an operation the answers that it shares with others; what it says itself of a status goes first.
fn supply(operation: &mut Operation, dialect: Dialect) {
    let open = operation.security.is_some();
    // Probes come under whatever name an orchestrator has for this machine: nothing is checked that could fail.
    let probe = operation.tags.as_ref().is_some_and(|tags| tags.iter().any(|tag| tag == "health"));
    for common in COMMON {
        let applies = match common.to {
            To::All => !probe,
            To::Tokens => !open,
            To::Bodies => operation.request_body.is_some(),
        };
        if applies {
            let reference = RefOr::Ref(Ref::from_response_name(common.name_in(dialect)));
            operation.responses.responses.entry(common.status.to_owned()).or_insert(reference);
        }
    }
    if dialect == Dialect::Cloudflare && !open {
        let none = Vec::<String>::new();
        let pair =
            EMAIL_AND_KEY.iter().fold(SecurityRequirement::default(), |both, (name, ..)| both.add(*name, none.clone()));
        operation.security = Some(vec![SecurityRequirement::new(BEARER, none.clone()), pair]);
    }
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        body.required = Some(utoipa::openapi::Required::True);
    }
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            response.headers.insert("X-Request-Id".to_owned(), RefOr::T(request_id()));
        }
    }
}

/// Which operations may answer so.
enum To {
    All,
    Tokens,
    Bodies,
}

/// An answer that many operations share.
struct Common {
    name: &'static str,
    status: &'static str,
    to: To,
    description: &'static str,
    code: &'static str,
    message: &'static str,
}

const COMMON: &[Common] = &[
    Common {
        name: "BadRequest",
        status: "400",
        to: To::All,
        description: "Host, path, query or body cannot be used.",
        code: "bad_request",
        message: "the query is malformed, or names a parameter twice",
    },
    Common {
        name: "Unauthorized",
        status: "401",
        to: To::Tokens,
        description: "No token, or an unknown one.",
        code: "unauthorized",
        message: "the token is unknown; send a valid one as Authorization: Bearer TOKEN",
    },
    Common {
        name: "Forbidden",
        status: "403",
        to: To::All,
        description: "The token does not allow it, or the request names another host or comes from a page of another origin.",
        code: "forbidden",
        message: "the token does not reach this project",
    },
    Common {
        name: "RequestTimeout",
        status: "408",
        to: To::Bodies,
        description: "The body did not arrive in time.",
        code: "request_timeout",
        message: "the body did not arrive in time; send it again",
    },
    Common {
        name: "PayloadTooLarge",
        status: "413",
        to: To::Bodies,
        description: "The body, or one of its PEM fields, is too large.",
        code: "payload_too_large",
        message: "the body is larger than 1 MiB",
    },
    Common {
        name: "UnsupportedMediaType",
        status: "415",
        to: To::Bodies,
        description: "The body does not say that it is JSON.",
        code: "unsupported_media_type",
        message: "send the body as JSON, with content-type: application/json",
    },
    Common {
        name: "RateLimited",
        status: "429",
        to: To::Tokens,
        description: "Too many failed authentications from this address. A valid token always passes.",
        code: "rate_limited",
        message: "too many failed authentications from this address; wait a second, then send a valid token",
    },
];

impl Common {
    fn name_in(&self, dialect: Dialect) -> String {
        match dialect {
            Dialect::Own => self.name.to_owned(),
            Dialect::Cloudflare => format!("Cloudflare{}", self.name),
        }
    }

    fn response(&self, dialect: Dialect) -> Response {
        let mut error = json!({"code": self.code, "message": self.message});
        let mut response = ResponseBuilder::new().description(self.description).header("X-Request-Id", request_id());
        match self.status {
            "401" => {
                response = response.header("WWW-Authenticate", text("The way to authenticate (RFC 6750).", "^Bearer$"))
            }
            "429" => {
                error["limit"] =
                    json!({"total": 10, "remaining": 0, "reset": 1_800_000_001, "resetMs": 1_800_000_000_250_i64});
                response = response.header("Retry-After", text("Seconds to wait.", "^[0-9]+$"));
            }
            _ => {}
        }
        let (schema, example) = match dialect {
            Dialect::Own => ("Error", json!({ "error": error })),
            Dialect::Cloudflare => {
                let status: u16 = self.status.parse().expect("the statuses of the table are numbers");
                let code = cloudflare::codes::of(StatusCode::from_u16(status).expect("and statuses"));
                let errors = json!([{"code": code, "message": self.message}]);
                ("CloudflareError", json!({"success": false, "errors": errors, "messages": [], "result": null}))
            }
        };
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).example(Some(example)).build();
        response.content(JSON, content).build()
    }
}

fn request_id() -> Header {
    text("Names the request in egret's log.", "^[0-9a-f]{16}$")
}

fn text(description: &str, pattern: &str) -> Header {
    let schema = ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).build();
    HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
}

/// The project of a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documentation; handlers read `request::Segments`")]
pub(super) struct ProjectPath {
    /// Id or name of the project
    #[param(rename = "idOrName", min_length = 1, example = "default")]
    id_or_name: String,
}

/// The certificate of a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documentation; handlers read `request::Segments`")]
pub(super) struct CertificatePath {
    /// Id of the certificate
    #[param(rename = "certId", min_length = 1, example = "cert_0123456789abcdef0123456789abcdef")]
    certificate: String,
}

/// The account of a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documentation; handlers read `request::Segments`")]
pub(super) struct AccountPath {
    /// The account id that projects carry
    #[param(min_length = 1, example = "0123456789abcdef0123456789abcdef")]
    account_id: String,
}

/// The zone of a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documentation; handlers read `request::Segments`")]
pub(super) struct ZonePath {
    /// The zone id of a project
    #[param(min_length = 1, example = "fedcba9876543210fedcba9876543210")]
    zone_id: String,
}

/// The token of a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documentation; handlers read `request::Segments`")]
pub(super) struct TokenPath {
    /// Name or id of the token
    #[param(min_length = 1, example = "ci")]
    token: String,
}

/// The team of the project.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documentation; handlers read `request::Query`")]
pub(super) struct TeamQuery {
    /// The id of the project's team; ignored on a project without one
    #[param(rename = "teamId", nullable = false)]
    team_id: Option<String>,
    /// The slug of the project's team; ignored on a project without one
    #[param(nullable = false)]
    slug: Option<String>,
}

/// How long what runs may go on.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documentation; handlers read `request::Query`")]
pub(super) struct DrainQuery {
    /// `now`: what runs under the old certificate is cut at once, and not after its grace
    #[param(nullable = false, pattern = "^now$")]
    drain: Option<String>,
}

/// What an upload makes of its binding, beside what the body says.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documentation; handlers read `request::Query`")]
pub(super) struct Tls13Query {
    /// Whether the certificate is presented over TLS 1.3 only, since TLS 1.2 sends it in the clear. Left out: as it was,
    /// and false for a new binding
    #[param(rename = "tls13Only", nullable = false)]
    tls13_only: Option<bool>,
}

/// Whether what is uploaded is tried out first, and how.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documentation; handlers read `request::Query`")]
pub(super) struct StageQuery {
    /// `probe`: a handshake and one request with the certificate are made to the origin first, and only if the origin
    /// takes it is it put in force. What was in force stays so meanwhile.
    #[param(nullable = false, pattern = "^probe$")]
    stage: Option<String>,
    /// With `stage=probe`: the origin where it is tried out, one that the upload's `origin` covers. Needed where that is
    /// a wildcard, has port `*`, or is `*`.
    #[param(nullable = false, min_length = 1, max_length = 2048, example = "https://api.example.com")]
    probe: Option<String>,
    /// With `stage=probe`: the path of the request, `/` if left out
    #[param(rename = "probePath", nullable = false, pattern = "^/", max_length = 2048, example = "/healthz")]
    probe_path: Option<String>,
    /// With `stage=probe`: the method of the request, `GET` if left out
    #[param(rename = "probeMethod", nullable = false, pattern = "^(GET|HEAD|OPTIONS)$")]
    probe_method: Option<String>,
}

/// The pattern of a binding.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documentation; handlers read `request::Query`")]
pub(super) struct OriginQuery {
    /// The pattern of the binding, as the list shows it
    #[param(min_length = 1, max_length = 2048, example = "https://api.example.com")]
    origin: String,
}

/// What of a pattern is meant.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documentation; handlers read `request::Query`")]
pub(super) struct BoundQuery {
    /// What is bound there: a certificate, or one of the CA bundles
    #[param(
        rename = "certId",
        nullable = false,
        pattern = "^[A-Za-z0-9_-]{1,64}$",
        example = "0123456789abcdef0123456789abcdef"
    )]
    cert_id: Option<String>,
}

#[cfg(test)]
mod tests;
