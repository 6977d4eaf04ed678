//! Whether a request says that the same was sent before.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::HeaderName;
use http::request::Parts;

const RETRY_COUNT: HeaderName = HeaderName::from_static("x-stainless-retry-count");

/// The vendor's SDKs send a create again whose answer they did not get or did not like, without a key of idempotency, and
/// count how often: above 0, the certificate that is there already may well be this one's.
pub(in crate::api) struct Retried(pub(super) bool);

impl<S: Send + Sync> FromRequestParts<S> for Retried {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let count = parts.headers.get(RETRY_COUNT).and_then(|value| value.to_str().ok()?.trim().parse::<u32>().ok());
        Ok(Self(count.is_some_and(|count| count > 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_sent_again_when_its_count_is_above_zero() {
        for (value, retried) in
            [(Some("1"), true), (Some("2"), true), (Some("0"), false), (Some("x"), false), (None, false)]
        {
            let mut request = http::Request::builder();
            if let Some(value) = value {
                request = request.header(RETRY_COUNT, value);
            }
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            let Ok(Retried(got)) = Retried::from_request_parts(&mut parts, &()).await;
            assert_eq!(got, retried, "{value:?}");
        }
    }
}
