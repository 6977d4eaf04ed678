//! `[limits]` as written: counts, sizes (`"64KiB"` or bytes) and durations (`"10s"`), each with its range; and as they
//! are in force ([`LiveLimits`]).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::de::{Deserializer, Error, Unexpected, Visitor};
use tokio::sync::watch;

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

/// What a limit of a kind is in code.
macro_rules! plain {
    (Time) => {
        Duration
    };
    ($count:ident) => {
        usize
    };
}

// `at_start` behind a range: it sizes something that is made at the start, and only a restart changes it.
macro_rules! limits {
    ($($name:ident: $kind:ident[$min:expr, $max:expr] $($mark:ident)?,)*) => {
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

        impl Limits {
            /// The keys of `[limits]` that differ between `self` and `new` and that only a restart changes.
            #[must_use]
            pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
                let mut keys = Vec::new();
                $(if is_fixed(stringify!($($mark)?)) && self.$name != new.$name {
                    keys.push(stringify!($name));
                })*
                keys
            }
        }

        #[derive(Debug)]
        struct Cells {
            $($name: AtomicU64,)*
        }

        impl Cells {
            fn new(limits: &Limits) -> Self {
                Self { $($name: AtomicU64::new($kind(limits.$name).bits()),)* }
            }

            fn replace(&self, limits: &Limits) {
                $(if !is_fixed(stringify!($($mark)?)) {
                    self.$name.store($kind(limits.$name).bits(), Ordering::Relaxed);
                })*
            }
        }

        impl LiveLimits {
            $(#[doc = concat!("[`Limits::", stringify!($name), "`], as it is now.")]
            #[must_use]
            pub fn $name(&self) -> plain!($kind) {
                $kind::from_bits(self.0.cells.$name.load(Ordering::Relaxed)).0
            })*

            /// All of them, as they are now.
            #[must_use]
            pub fn now(&self) -> Limits {
                Limits { $($name: self.$name(),)* }
            }
        }
    };
}

/// Whether a limit bears the mark of those that are fixed at the start.
const fn is_fixed(mark: &str) -> bool {
    !mark.is_empty()
}

/// The limits in force, replaced while egret runs; clones are one. Each is read where it is applied, for the price of a
/// plain load, so what begins after [`LiveLimits::replace`] follows the new ones. Limits are independent of each other:
/// who reads two of them in the instant of a change may see one old and one new, each within its range.
#[derive(Debug, Clone)]
pub struct LiveLimits(Arc<Live>);

#[derive(Debug)]
struct Live {
    cells: Cells,
    changed: watch::Sender<()>,
}

impl LiveLimits {
    /// These, until they are replaced.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self(Arc::new(Live { cells: Cells::new(limits), changed: watch::Sender::new(()) }))
    }

    /// Puts `limits` in force, but for those that only a restart changes: these stay, and [`Limits::needs_restart`]
    /// names them.
    pub fn replace(&self, limits: Limits) {
        self.0.cells.replace(&limits);
        self.0.changed.send_replace(());
    }

    /// Wakes whoever sizes something by a limit, at each change from now on.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }
}

impl From<Limits> for LiveLimits {
    fn from(limits: Limits) -> Self {
        Self::new(&limits)
    }
}

impl Default for LiveLimits {
    fn default() -> Self {
        Self::new(&Limits::default())
    }
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
    upgraded_grace: Time[Duration::ZERO, DAY],
    max_retired: Count[1, 1_000_000],
    expiry_drain: Time[Duration::ZERO, DAY],
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
    max_leafs: Count[1, 1_000_000] at_start,
    max_asked: Count[1, 10_000_000] at_start,
    max_disclosures: Count[16, 1_000_000] at_start,
    asked_ttl: Time[Duration::ZERO, DAY],
    max_api_body: Size[4 * KIB, 64 * MIB],
    max_pem: Size[KIB, 16 * MIB],
    max_api_connections: Count[1, 100_000],
    max_declared_certificates: Count[1, 1_000_000],
    reload_poll: Time[ms(100), DAY],
    max_zone_certificates: Count[1, 10_000],
    max_associations: Count[1, 1_000_000],
    max_account_certificates: Count[1, 100_000],
    create_retry_window: Time[Duration::ZERO, DAY],
    max_ca_bindings: Count[1, 10_000],
    max_tokens: Count[1, 100_000],
    max_metric_certificates: Count[0, 100_000],
    max_event_listeners: Count[1, 10_000],
    max_webhook_queue: Count[1, 100_000] at_start,
    max_health_connections: Count[1, 10_000],
    max_events: Count[1, 100_000] at_start,
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

// One word holds any of them: durations in nanoseconds, of which a day has fewer than 2^47.
macro_rules! bits {
    ($($kind:ident)*) => {$(
        impl $kind {
            fn bits(self) -> u64 {
                self.0 as u64
            }

            fn from_bits(bits: u64) -> Self {
                Self(usize::try_from(bits).unwrap_or(usize::MAX))
            }
        }
    )*};
}
bits!(Count Size);

impl Time {
    fn bits(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    fn from_bits(bits: u64) -> Self {
        Self(Duration::from_nanos(bits))
    }
}

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

    #[tokio::test]
    async fn replaced_limits_are_in_force_at_once_and_those_of_the_start_stay() {
        let live = LiveLimits::default();
        let (held, mut changes) = (live.clone(), live.changes());
        let new = Limits { head_timeout: ms(123), max_idle: 7, max_asked: 9, ..Limits::default() };
        live.replace(new.clone());
        changes.changed().await.unwrap();
        assert_eq!((held.head_timeout(), held.max_idle()), (ms(123), 7));
        assert_eq!(held.now(), Limits { max_asked: Limits::default().max_asked, ..new.clone() });
        assert_eq!(held.now().needs_restart(&new), ["max_asked"]);
        assert_eq!(new.needs_restart(&new), [""; 0]);
    }

    #[test]
    fn the_shipped_file_names_all_that_takes_a_restart() {
        let shipped = include_str!("../../config/egret.toml");
        let words = shipped.split_once("# Caps and deadlines.").and_then(|(_, rest)| rest.split_once("[limits]"));
        let (words, _) = words.expect("the words before [limits]");
        let with = |n: usize| Limits {
            max_leafs: n,
            max_asked: n,
            max_disclosures: n,
            max_webhook_queue: n,
            max_events: n,
            ..Limits::default()
        };
        let fixed = with(16).needs_restart(&with(17));
        assert_eq!(fixed.len(), 5, "what is made at the start stays: {fixed:?}");
        assert!(fixed.iter().all(|name| words.contains(name)), "{fixed:?}: {words}");
    }
}
