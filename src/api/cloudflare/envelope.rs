//! The envelope around every answer of this dialect, successes and refusals alike.

use axum::Json;
use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use http::header::CONTENT_LENGTH;
use serde::Serialize;
use utoipa::ToSchema;

use super::codes;
use crate::api::problem::{Detail, Problem};

/// What a handler of this dialect answers with.
pub(in crate::api) type Answer<T> = Result<Json<Enveloped<T>>, Problem>;
/// What a list of this dialect answers with.
pub(in crate::api) type ListAnswer<T> = Result<Json<EnvelopedList<T>>, Problem>;

/// More of one request are counted, not told.
const MAX_ERRORS: usize = 20;

/// An error, or something worth saying beside a success.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CloudflareMessage)]
pub(in crate::api) struct Message {
    /// What kind it is of.
    #[schema(minimum = 1000, example = 10000)]
    pub(super) code: u16,
    /// For people: the field, the fault and the remedy. Never a piece of the request.
    #[schema(min_length = 1)]
    pub(super) message: String,
    /// Where in the body it is, if it is in one place.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) source: Option<Place>,
}

/// Where in the body something is wrong.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CloudflareErrorSource)]
pub(in crate::api) struct Place {
    /// A JSON pointer (RFC 6901).
    #[schema(pattern = "^(/[^/]*)+$", example = "/config/3/hostname")]
    pointer: String,
}

/// One thing, and that it went well.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CloudflareAnswer)]
pub(in crate::api) struct Enveloped<T: ToSchema> {
    /// Always true: an error never comes with a 2xx status.
    success: bool,
    /// Empty.
    #[schema(max_items = 0)]
    errors: Vec<Message>,
    /// What else is worth saying.
    messages: Vec<Message>,
    /// What was asked for.
    result: T,
}

/// A list, and that it went well.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CloudflareList)]
pub(in crate::api) struct EnvelopedList<T: ToSchema> {
    /// Always true: an error never comes with a 2xx status.
    success: bool,
    /// Empty.
    #[schema(max_items = 0)]
    errors: Vec<Message>,
    /// What else is worth saying.
    messages: Vec<Message>,
    /// What was asked for; an empty list if there is nothing.
    result: Vec<T>,
    /// How much of it this is.
    result_info: ResultInfo,
}

/// How much of a list an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = CloudflareResultInfo)]
pub(in crate::api) struct ResultInfo {
    /// Entries of this answer.
    #[schema(minimum = 0)]
    pub(super) count: usize,
    /// Which page it is, from 1.
    #[schema(minimum = 1)]
    pub(super) page: usize,
    /// Entries of a page.
    #[schema(minimum = 1)]
    pub(super) per_page: usize,
    /// All entries.
    #[schema(minimum = 0)]
    pub(super) total_count: usize,
    /// All pages.
    #[schema(minimum = 0)]
    pub(super) total_pages: usize,
}

/// The body of every refusal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CloudflareError)]
pub(in crate::api) struct Refusal {
    /// Always false.
    success: bool,
    /// What is wrong, each by itself.
    #[schema(min_items = 1)]
    errors: Vec<Message>,
    /// Empty.
    #[schema(max_items = 0)]
    messages: Vec<Message>,
    /// Always null.
    #[schema(required, value_type = Option<Object>)]
    result: Option<()>,
}

impl<T: ToSchema> Enveloped<T> {
    pub(super) fn of(result: T) -> Json<Self> {
        Json(Self { success: true, errors: Vec::new(), messages: Vec::new(), result })
    }

    /// The same with something to say.
    pub(super) fn saying(result: T, code: u16, message: &str) -> Json<Self> {
        let said = Message { code, message: message.to_owned(), source: None };
        Json(Self { success: true, errors: Vec::new(), messages: vec![said], result })
    }
}

impl<T: ToSchema> EnvelopedList<T> {
    pub(super) fn of(result: Vec<T>, result_info: ResultInfo) -> Json<Self> {
        Json(Self { success: true, errors: Vec::new(), messages: Vec::new(), result, result_info })
    }
}

impl Refusal {
    fn of(status: StatusCode, problem: Problem) -> Self {
        let default = problem.number().unwrap_or_else(|| codes::of(status));
        let mut details = problem.into_details();
        let untold = details.len().saturating_sub(MAX_ERRORS);
        if untold > 0 {
            details.truncate(MAX_ERRORS);
            let message = format!("and {untold} more; mend these first");
            details.push(Detail { message, number: None, pointer: None });
        }
        let told = |Detail { message, number, pointer }| Message {
            code: number.unwrap_or(default),
            message,
            source: pointer.map(|pointer| Place { pointer }),
        };
        Self { success: false, errors: details.into_iter().map(told).collect(), messages: Vec::new(), result: None }
    }
}

/// An answer to a request in this dialect: what was refused is refused in the envelope, under its own status, but that 409
/// is 400: the SDKs take it for something that passes, and try again.
pub(in crate::api) fn around(mut response: Response) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let (mut parts, _) = response.into_parts();
    if parts.status == StatusCode::CONFLICT {
        parts.status = StatusCode::BAD_REQUEST;
    }
    let body = serde_json::to_vec(&Refusal::of(parts.status, problem)).expect("text and numbers are JSON");
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(body))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use serde_json::{Value, json};

    use super::*;
    use crate::control::ControlError;

    async fn told(problem: Problem) -> (u16, Value) {
        let response = around(problem.into_response());
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn a_refusal_names_every_fault_with_its_number_and_its_place() {
        let detail = |message: &str, number, pointer: Option<&str>| Detail {
            message: message.to_owned(),
            number,
            pointer: pointer.map(str::to_owned),
        };
        let details = vec![detail("a: wrong", Some(1404), Some("/config/3/a")), detail("b: wrong", None, None)];
        let (status, body) = told(Problem::faulty("both", details).numbered(1415)).await;
        assert_eq!(status, 400);
        assert_eq!(
            body,
            json!({
                "success": false, "messages": [], "result": null,
                "errors": [
                    {"code": 1404, "message": "a: wrong", "source": {"pointer": "/config/3/a"}},
                    {"code": 1415, "message": "b: wrong"},
                ],
            })
        );
    }

    #[tokio::test]
    async fn no_refusal_looks_like_a_success_or_like_something_that_passes() {
        let exists = ControlError::Exists("it exists".to_owned());
        for (problem, status, number) in [
            (Problem::from(ControlError::Transferring), 400, 10400),
            (Problem::from(exists), 400, 10400),
            (Problem::from(ControlError::Blocked), 402, 10402),
            (Problem::from(ControlError::Revoked), 401, 10000),
            (Problem::forbidden("x"), 403, 10000),
            (Problem::not_found("path"), 404, 7003),
            (Problem::method(), 405, 10405),
            (Problem::too_large("x"), 413, 10413),
        ] {
            let (got, body) = told(problem).await;
            assert_eq!((got, &body["errors"][0]["code"], &body["success"]), (status, &json!(number), &json!(false)));
            assert_eq!(body["errors"].as_array().unwrap().len(), 1);
        }
    }

    #[tokio::test]
    async fn tells_no_more_faults_than_a_person_reads() {
        let details = (0..200).map(|n| Detail { message: format!("fault {n}"), number: None, pointer: None });
        let (_, body) = told(Problem::faulty("many", details.collect())).await;
        let errors = body["errors"].as_array().unwrap();
        assert_eq!(errors.len(), MAX_ERRORS + 1);
        assert_eq!(errors[MAX_ERRORS]["message"], "and 180 more; mend these first");
    }

    #[tokio::test]
    async fn a_success_is_left_as_it_is() {
        let response = around(Enveloped::of(Vec::<String>::new()).into_response());
        assert_eq!(response.status(), 200);
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        assert_eq!(&bytes[..], br#"{"success":true,"errors":[],"messages":[],"result":[]}"#);
    }
}
