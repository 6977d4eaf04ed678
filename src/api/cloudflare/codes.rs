//! The numbers of the envelope's errors, in one place; none is below 1000.
//!
//! Where the vendor's number is known, it is that one. Marks: O = seen at the live service by others, D = the vendor's
//! documents, A = by analogy with the vendor's custom certificates. What the vendor has no known number for is 10000 + the
//! status, which is how it numbers some itself (10405).

use http::StatusCode;

/// 401, 403: who calls, or what the token does not reach (O).
pub(in crate::api) const AUTHENTICATION: u16 = 10000;
/// No such path; no such zone or account, or an id of another form (D).
pub(in crate::api) const NO_ROUTE: u16 = 7003;

/// The number of a refusal with this status that has none of its own.
pub(in crate::api) fn of(status: StatusCode) -> u16 {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => AUTHENTICATION,
        StatusCode::NOT_FOUND => NO_ROUTE,
        other => 10_000 + other.as_u16(),
    }
}
