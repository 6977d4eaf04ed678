//! The wall clock enters egret here and nowhere else.

use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;

/// Now, UTC.
#[must_use]
pub fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// RFC 3339 in UTC with whole seconds, as all answers and logs print a time.
#[must_use]
pub fn rfc3339(at: OffsetDateTime) -> String {
    at.to_offset(::time::UtcOffset::UTC)
        .replace_nanosecond(0)
        .unwrap_or(at)
        .format(&Rfc3339)
        .unwrap_or_else(|_| "unknown".to_owned())
}
