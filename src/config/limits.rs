//! `[limits]` as written: counts, sizes (`"64KiB"` or bytes) and durations (`"10s"`), each with its range.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, Error, Unexpected, Visitor};

use super::Limits;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const GIB: usize = 1024 * MIB;
const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}
const DAY: Duration = minutes(24 * 60);
const MONTH: Duration = minutes(30 * 24 * 60);

macro_rules! limits {
    ($($name:ident: $kind:ident[$min:expr, $max:expr],)*) => {
        /// `[limits]`: every field of [`Limits`], each optional.
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct LimitsTable {
            $(#[doc = concat!("[`Limits::", stringify!($name), "`]")] pub $name: Option<$kind>,)*
        }

        impl LimitsTable {
            /// The defaults with what was written in their place; `complain` hears of every value out of range.
            pub(super) fn apply(&self, mut complain: impl FnMut(&'static str, String)) -> Limits {
                let default = Limits::default();
                // A literal, so that a limit without a key does not compile.
                Limits { $($name: match self.$name {
                    None => default.$name,
                    Some($kind(value)) if ($min..=$max).contains(&value) => value,
                    Some(_) => {
                        complain(stringify!($name), format!("write {} to {}", $kind($min), $kind($max)));
                        default.$name
                    }
                },)* }
            }
        }
    };
}

limits! {
    max_connections: Count[1, 1_000_000],
    max_streams_per_client: Count[1, 100_000],
    max_head_bytes: Size[8 * KIB, MIB],
    max_headers: Count[1, 1000],
    max_request_line: Size[KIB, MIB],
    head_timeout: Time[ms(10), DAY],
    keep_alive_timeout: Time[ms(10), DAY],
    handshake_timeout: Time[ms(10), DAY],
    connect_timeout: Time[ms(10), DAY],
    dns_timeout: Time[ms(10), DAY],
    dns_concurrency: Count[1, 10_000],
    response_timeout: Time[ms(10), DAY],
    upload_idle_timeout: Time[ms(10), DAY],
    download_idle_timeout: Time[ms(10), DAY],
    tunnel_idle_timeout: Time[ms(10), DAY],
    drain_timeout: Time[Duration::ZERO, DAY],
    drain_delay: Time[Duration::ZERO, DAY],
    replace_grace: Time[Duration::ZERO, DAY],
    delete_grace: Time[Duration::ZERO, DAY],
    rollback_window: Time[Duration::ZERO, MONTH],
    probe_timeout: Time[ms(10), DAY],
    max_pending: Count[1, 10_000],
    max_connections_per_origin: Count[1, 1_000_000],
    max_idle_per_origin: Count[0, 1_000_000],
    max_idle: Count[0, 1_000_000],
    max_dials_per_origin: Count[1, 100_000],
    max_streams_per_connection: Count[1, 100_000],
    h2_stream_window: Size[64 * KIB, GIB],
    h2_connection_window: Size[64 * KIB, GIB],
    pool_idle_timeout: Time[ms(10), DAY],
    pool_max_age: Time[ms(10), DAY],
    max_leafs: Count[1, 1_000_000],
    max_asked: Count[1, 10_000_000],
    asked_ttl: Time[Duration::ZERO, DAY],
    max_api_body: Size[4 * KIB, 64 * MIB],
    max_pem: Size[KIB, 16 * MIB],
    max_api_connections: Count[1, 100_000],
    max_tokens: Count[1, 100_000],
    max_metric_certificates: Count[0, 100_000],
    max_health_connections: Count[1, 10_000],
    max_events: Count[1, 100_000],
}

/// A number of things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct Count(pub usize);

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub usize);

/// A stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub Duration);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= MIB && n % MIB == 0 => write!(f, "{}MiB", n / MIB),
            n if n >= KIB && n % KIB == 0 => write!(f, "{}KiB", n / KIB),
            n => write!(f, "{n}"),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl<'de> serde::Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"64KiB\", \"1MiB\" or a number of bytes")
            }
            fn visit_i64<E: Error>(self, n: i64) -> Result<Size, E> {
                usize::try_from(n).map(Size).map_err(|_| E::invalid_value(Unexpected::Signed(n), &self))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                parse_size(text).map(Size).ok_or_else(|| E::invalid_value(Unexpected::Other("text"), &self))
            }
        }
        deserializer.deserialize_any(Bytes)
    }
}

fn parse_size(text: &str) -> Option<usize> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let unit = match unit.trim() {
        "" | "B" => 1,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => GIB,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

impl<'de> serde::Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Time;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, such as \"500ms\", \"10s\" or \"15min\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Time, E> {
                humantime::parse_duration(text)
                    .map(Time)
                    .map_err(|_| E::invalid_value(Unexpected::Other("text"), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_and_never_wrap() {
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size("1 MiB"), Some(MIB));
        assert_eq!(parse_size("17"), Some(17));
        for bad in ["", "KiB", "1kb", "-1", "99999999999999999999", "99999999999999GiB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_default_is_within_its_own_range() {
        let text = |limits: &Limits| format!("{limits:?}");
        let mut complaints = Vec::new();
        let table =
            LimitsTable { max_head_bytes: Some(Size(1)), drain_delay: Some(Time(DAY * 2)), ..Default::default() };
        let limits = table.apply(|name, range| complaints.push((name, range)));
        assert_eq!(text(&limits), text(&Limits::default()));
        assert_eq!(
            complaints,
            [("max_head_bytes", "write 8KiB to 1MiB".to_owned()), ("drain_delay", "write 0s to 1day".to_owned())]
        );
    }
}
