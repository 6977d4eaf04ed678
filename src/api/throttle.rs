//! Guessing tokens is slow: ten failures per second and source, then 429 until the second is over.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::problem::Limit;
use crate::domain::Peer;
use crate::domain::time::now;

/// Failures that a source may have within a window.
const FAILURES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(1);
/// Sources remembered at once.
const MAX_SOURCES: usize = 4096;

/// Counts failed authentications by source: an address (IPv6: a /64, which one host may own whole), or a user on a Unix
/// socket.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    sources: Mutex<HashMap<Peer, Window>>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    failures: u32,
}

impl Window {
    fn age(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.since)
    }
}

impl Throttle {
    /// Whether a failure of `source`, `at` this instant, is answered as one. A limited source learns nothing of its
    /// wrong tokens; a valid one is never held back.
    ///
    /// # Errors
    /// The facts of the limit that was reached.
    pub(super) fn check(&self, source: Peer, at: Instant) -> Result<(), Limit> {
        let sources = self.sources.lock().expect("nothing panics while holding it");
        let Some(window) = sources.get(&network(source)) else { return Ok(()) };
        let age = window.age(at);
        if age >= WINDOW || window.failures < FAILURES {
            return Ok(());
        }
        let left = i64::try_from((WINDOW - age).as_millis()).unwrap_or(1000);
        let reset_ms = i64::try_from(now().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX).saturating_add(left);
        Err(Limit { total: FAILURES, remaining: 0, reset: reset_ms.saturating_add(999) / 1000, reset_ms })
    }

    /// Counts a failure of `source`.
    pub(super) fn failed(&self, source: Peer, at: Instant) {
        let source = network(source);
        let mut sources = self.sources.lock().expect("nothing panics while holding it");
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&source) {
            sources.retain(|_, window| window.age(at) < WINDOW);
            // Still full: more sources than that fail within one second. The oldest gets a fresh start.
            if sources.len() >= MAX_SOURCES
                && let Some(oldest) = sources.iter().min_by_key(|(_, w)| w.since).map(|(s, _)| *s)
            {
                sources.remove(&oldest);
            }
        }
        let window = sources.entry(source).or_insert_with(|| Window { since: at, failures: 0 });
        if window.age(at) >= WINDOW {
            *window = Window { since: at, failures: 0 };
        }
        window.failures = window.failures.saturating_add(1);
    }
}

fn network(source: Peer) -> Peer {
    match source {
        Peer::Ip(IpAddr::V6(v6)) if !v6.is_loopback() => {
            Peer::Ip(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Peer {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn refuses_the_eleventh_failure_of_a_second() {
        let (throttle, at) = (Throttle::default(), Instant::now());
        let guesser = address("192.0.2.1");
        for _ in 0..FAILURES {
            assert_eq!(throttle.check(guesser, at), Ok(()));
            throttle.failed(guesser, at);
        }
        let limit = throttle.check(guesser, at).unwrap_err();
        assert_eq!((limit.total, limit.remaining), (10, 0));
        assert!(limit.reset * 1000 >= limit.reset_ms && limit.reset * 1000 - limit.reset_ms < 1000);
        assert_eq!(throttle.check(address("192.0.2.2"), at), Ok(()), "others are not held to account");
        let at = at + WINDOW;
        assert_eq!(throttle.check(guesser, at), Ok(()));
        throttle.failed(guesser, at);
        assert_eq!(throttle.check(guesser, at), Ok(()), "the count starts again");
    }

    #[test]
    fn takes_one_ipv6_network_for_one_source() {
        let (throttle, at) = (Throttle::default(), Instant::now());
        for host in 0..10 {
            throttle.failed(address(&format!("2001:db8::{host:x}")), at);
        }
        assert!(throttle.check(address("2001:db8::ffff"), at).is_err());
        assert!(throttle.check(address("2001:db8:0:1::1"), at).is_ok());
    }

    #[test]
    fn remembers_a_bounded_number_of_sources() {
        let (throttle, at) = (Throttle::default(), Instant::now());
        for n in 0..u32::try_from(MAX_SOURCES).unwrap() + 100 {
            throttle.failed(IpAddr::V4(n.into()).into(), at);
        }
        assert_eq!(throttle.sources.lock().unwrap().len(), MAX_SOURCES);
        let at = at + WINDOW;
        throttle.failed(address("192.0.2.1"), at);
        assert_eq!(throttle.sources.lock().unwrap().len(), 1, "what is over is forgotten");
    }
}
