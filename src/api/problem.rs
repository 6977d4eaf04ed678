//! Refusals: one shape for every error of the API, `{"error":{"code","message"}}`; below `/client/v4` it is the envelope
//! of that dialect, which the shell makes of the same [`Problem`] (`cloudflare::envelope`).
//!
//! A message names the field, the fault and the remedy. It never holds a piece of the request: the
//! clients that read it put it whole into logs.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::control::{ControlError, Refused};
use crate::registry::Unproven;

/// What a handler answers with.
pub(super) type Answer<T> = Result<Json<T>, Problem>;

/// A refusal or a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Number of a dialect that has numbers, where it is not that of the status.
    number: Option<u16>,
    /// What is wrong, each by itself; empty: `message` is all of it.
    details: Vec<Detail>,
    limit: Option<Limit>,
    probe: Option<Box<Diagnosis>>,
}

/// One of several things that are wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Detail {
    /// The field, the fault and the remedy.
    pub(super) message: String,
    /// As [`Problem::number`].
    pub(super) number: Option<u16>,
    /// Where in the body: a JSON pointer (RFC 6901).
    pub(super) pointer: Option<String>,
}

/// The body of every refusal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub(super) struct ErrorBody {
    error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ErrorDetail)]
struct ErrorDetail {
    /// A stable word for programs.
    #[schema(pattern = "^[a-z_]+$", example = "bad_request")]
    code: &'static str,
    /// For people: the field, the fault and the remedy. Never a piece of the request.
    #[schema(min_length = 1)]
    message: String,
    /// Only with `rate_limited`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    limit: Option<Limit>,
    /// Only where a certificate was tried out and not put in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    probe: Option<Box<Diagnosis>>,
}

/// Why a certificate that was tried out is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProbeDiagnosis)]
struct Diagnosis {
    /// The code that a request would fail with, or `mtls.not_asked`.
    #[schema(pattern = r"^[a-z]+(\.[a-z_]+)?$", example = "mtls.rejected_unknown_ca")]
    code: &'static str,
    /// Where it was tried out.
    #[schema(pattern = "^https://.+$", example = "https://api.example.com")]
    origin: String,
    /// What happened.
    #[schema(min_length = 1)]
    detail: String,
    /// The TLS alert that came (RFC 8446 section 6).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0, maximum = 255)]
    alert: Option<u8>,
    /// The first of the CAs that the origin names as those it accepts, RFC 4514; left out if it did not ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    asked_for: Option<Vec<String>>,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    fix: Option<String>,
}

impl From<Refused> for Diagnosis {
    fn from(Refused { origin, why }: Refused) -> Self {
        let Unproven { code, detail, fix, alert, asked_for } = why;
        Self { code, origin: origin.to_string(), detail, alert, asked_for, fix }
    }
}

/// `error.limit` of a 429.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RateLimit)]
pub(super) struct Limit {
    /// Tries per second.
    #[schema(minimum = 1)]
    pub(super) total: u32,
    /// Tries left.
    #[schema(minimum = 0)]
    pub(super) remaining: u32,
    /// When tries are taken again: Unix time, seconds, rounded up.
    pub(super) reset: i64,
    /// The same in milliseconds.
    pub(super) reset_ms: i64,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), number: None, details: Vec::new(), limit: None, probe: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }
    /// 400 for all of these, of which `message` is the whole.
    pub(super) fn faulty(message: impl Into<String>, details: Vec<Detail>) -> Self {
        Self::bad_request(message).of(details)
    }
    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }
    pub(super) fn not_found(what: &str) -> Self {
        Self::missing(format!("{what} not found"))
    }
    /// 404 in these words.
    pub(super) fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }
    /// The router adds `Allow` (RFC 9110 section 15.5.6): it knows the methods.
    pub(super) fn method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_unknown",
            "this path does not take this method; the Allow header names those it takes",
        )
    }
    pub(super) fn timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the body did not arrive in time; send it again")
    }
    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message)
    }
    pub(super) fn media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send the body as JSON, with content-type: application/json",
        )
    }
    pub(super) fn rate_limited(limit: Limit) -> Self {
        let message = "too many failed authentications from this address; wait a second, then send a valid token";
        Self { limit: Some(limit), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message) }
    }
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_server_error", message)
    }
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", message)
    }

    /// The same under this number.
    pub(super) fn numbered(self, number: u16) -> Self {
        Self { number: Some(number), ..self }
    }

    /// The same in another status.
    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The same, being all of these.
    pub(super) fn of(self, details: Vec<Detail>) -> Self {
        Self { details, ..self }
    }

    /// The status that it answers with.
    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// The number of all that have none of their own.
    pub(super) fn number(&self) -> Option<u16> {
        self.number
    }

    /// What is wrong, each by itself; at least one.
    pub(super) fn into_details(self) -> Vec<Detail> {
        if self.details.is_empty() {
            return vec![Detail { message: self.message, number: None, pointer: None }];
        }
        self.details
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let text = error.to_string();
        match error {
            ControlError::Invalid(_)
            | ControlError::Field { .. }
            | ControlError::Duplicate(_)
            | ControlError::InUse(_)
            | ControlError::Full { .. }
            | ControlError::Ending(..)
            | ControlError::WrongList { .. }
            | ControlError::Entries(_) => Self::bad_request(text),
            ControlError::Unproven(refused) => {
                Self { probe: Some(Box::new((*refused).into())), ..Self::bad_request(text) }
            }
            ControlError::Busy(_) => Self::unavailable(text),
            ControlError::Declared(..) | ControlError::OfAccount(_) => Self::forbidden(text),
            ControlError::NotFound(what) => Self::not_found(what),
            ControlError::NoneKept => Self::missing(text),
            ControlError::Revoked => Self::unauthorized(text),
            ControlError::Exists(_) | ControlError::Transferring => Self::new(StatusCode::CONFLICT, "conflict", text),
            ControlError::Blocked => Self::new(StatusCode::PAYMENT_REQUIRED, "payment_required", text),
            ControlError::Encrypting => Self::internal(text),
            // The cause (a path, a full disk) is the operator's business: it is in the log.
            ControlError::Storing(_) => {
                Self::internal("the change could not be stored; nothing was changed; egret's log says why")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, code, message, limit, probe, .. } = self.clone();
        let body = ErrorBody { error: ErrorDetail { code, message, limit, probe } };
        let mut response = (status, Json(body)).into_response();
        // For the shell, which knows what dialect the request is in.
        response.extensions_mut().insert(self);
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // The window of the limiter is one second.
            StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::validate::{Fault, FaultKind, Field};

    async fn parts(problem: Problem) -> (StatusCode, http::HeaderMap, serde_json::Value) {
        let response = problem.into_response();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 64 * 1024).await.unwrap();
        (parts.status, parts.headers, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn has_one_shape_for_every_refusal() {
        let (status, headers, body) = parts(Problem::not_found("project")).await;
        assert_eq!(status, 404);
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(body, serde_json::json!({"error": {"code": "not_found", "message": "project not found"}}));
    }

    #[tokio::test]
    async fn challenges_who_sends_no_valid_token() {
        let (status, headers, body) = parts(Problem::unauthorized("x")).await;
        assert_eq!((status.as_u16(), &headers["www-authenticate"]), (401, &HeaderValue::from_static("Bearer")));
        assert_eq!(body["error"]["code"], "unauthorized");
    }

    #[tokio::test]
    async fn says_when_a_limited_caller_may_come_back() {
        let limit = Limit { total: 10, remaining: 0, reset: 8, reset_ms: 7001 };
        let (status, headers, body) = parts(Problem::rate_limited(limit)).await;
        assert_eq!((status.as_u16(), &headers["retry-after"]), (429, &HeaderValue::from_static("1")));
        assert_eq!(
            body["error"]["limit"],
            serde_json::json!({"total": 10, "remaining": 0, "reset": 8, "resetMs": 7001})
        );
    }

    #[tokio::test]
    async fn tells_programs_why_a_certificate_that_was_tried_out_is_not_in_force() {
        let why = Unproven {
            code: "mtls.rejected_unknown_ca",
            detail: "it does not know the CA".to_owned(),
            fix: Some("upload another".to_owned()),
            alert: Some(48),
            asked_for: Some(vec!["CN=a".to_owned(), "CN=b".to_owned()]),
        };
        let refused = Refused { origin: crate::domain::Origin::parse("https://a.test").unwrap(), why };
        let (status, _, body) = parts(ControlError::Unproven(Box::new(refused)).into()).await;
        assert_eq!((status.as_u16(), &body["error"]["code"]), (400, &serde_json::json!("bad_request")));
        assert_eq!(
            body["error"]["message"],
            "the certificate was tried out and not put in force: mtls.rejected_unknown_ca: it does not know the CA; \
             TLS alert 48; it names as CAs: CN=a | CN=b; what was in force stays in force; upload another"
        );
        assert_eq!(
            body["error"]["probe"],
            serde_json::json!({
                "code": "mtls.rejected_unknown_ca", "origin": "https://a.test", "detail": "it does not know the CA",
                "alert": 48, "askedFor": ["CN=a", "CN=b"], "fix": "upload another",
            })
        );
    }

    #[tokio::test]
    async fn maps_what_the_control_floor_says() {
        let fault = |field| Fault::new(field, FaultKind::Unusable, "what", "remedy");
        for (error, status, code, message) in [
            (
                ControlError::Invalid(vec![fault(Field::Cert), fault(Field::Key), fault(Field::Ca)]),
                400,
                "bad_request",
                "cert: what; remedy | key: what; remedy | ca: what; remedy",
            ),
            (ControlError::Field { field: "certId", what: "w".to_owned() }, 400, "bad_request", "certId: w"),
            (
                ControlError::Declared("https://a.test".to_owned(), "egret.toml".to_owned()),
                403,
                "forbidden",
                "https://a.test is declared in egret.toml; change it there",
            ),
            (ControlError::NotFound("certificate"), 404, "not_found", "certificate not found"),
            (ControlError::NoneKept, 404, "not_found", &ControlError::NoneKept.to_string()),
            (ControlError::Busy("later".to_owned()), 503, "service_unavailable", "later"),
            (ControlError::Exists("it exists".to_owned()), 409, "conflict", "it exists"),
            (ControlError::Transferring, 409, "conflict", &ControlError::Transferring.to_string()),
            (ControlError::Blocked, 402, "payment_required", &ControlError::Blocked.to_string()),
            (
                ControlError::Encrypting,
                500,
                "internal_server_error",
                "the private key could not be encrypted; nothing was changed",
            ),
            (
                ControlError::Storing("/secret/path".to_owned()),
                500,
                "internal_server_error",
                "the change could not be stored; nothing was changed; egret's log says why",
            ),
        ] {
            let (got, _, body) = parts(error.into()).await;
            assert_eq!(got.as_u16(), status);
            assert_eq!(body["error"]["code"], code);
            assert_eq!(body["error"]["message"], message);
        }
    }
}
