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

/// RFC 3339 in UTC with milliseconds, for log lines.
#[must_use]
pub fn rfc3339_millis(at: OffsetDateTime) -> String {
    let at = at.to_offset(::time::UtcOffset::UTC);
    let (date, clock) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        clock.millisecond()
    )
}
