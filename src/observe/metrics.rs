//! Counters and gauges, in one table: hot paths add to plain atomics here, and nothing else happens until someone asks.
//!
//! A new counter is one line of the table below: its comment is its help text, and `/metrics` and the `counters` of
//! `/v1/status` have it at once. `name;` is a counter, `name: gauge;` a gauge, and
//! `name => family { label = "value" };` is a line of a labelled family, whose help stands in `FAMILIES`.
//!
//! # What `/metrics` shows
//!
//! Every line of the table is a series `egret_NAME` (a counter with `_total`), and beside them there are those that
//! have labels, or that are read when they are asked for. All labels are from closed sets, or ids that egret gave; never
//! an origin, a path, a name of a host or of a caller.
//!
//! | series | labels | what it says |
//! | --- | --- | --- |
//! | `egret_requests_total` | `side`: `origin`, `egret`; `class`: `1xx` to `5xx`, `other`; `code` | requests answered, by who answered; `code` is the failure code where egret did (product section 7), else empty |
//! | `egret_upstream_handshakes_total` | `result`: `full`, `resumed`, `failed` | TLS handshakes with origins |
//! | `egret_certificate_probes_total` | `result`: `accepted`, `refused` | certificates tried out before they were put in force |
//! | `egret_certificate_rollbacks_total` | `how`: `manual`, `automatic` | certificates put back in force in place of the one after them |
//! | `egret_upstream_idle_connections` | | of `egret_upstream_connections`, those that wait for a request |
//! | `egret_upstream_waiting_requests` | | requests that wait for a connection |
//! | `egret_certificates` | `state`: `valid`, `expired`, `not_yet_valid` | certificates by their dates |
//! | `egret_certificate_expires_in_seconds` | `project`, `certificate`: ids | seconds until notAfter, negative afterwards; of the `limits.max_metric_certificates` that expire first |
//! | `egret_certificates_expiring` | `days`: `30`, `14`, `7`, `1`, `0` | bound certificates that have at most so many days left; `0`: expired |
//! | `egret_expiry_warnings_total` | `days`: the same | warnings, by the threshold that was reached |
//! | `egret_certificates_not_listed` | | certificates beyond that limit |
//! | `egret_draining_certificates` | | retired certificates that still have connections |
//! | `egret_draining_connections` | `state`: `exchange`, `upgraded` | their connections; `upgraded` are those that became WebSockets |
//! | `egret_draining_ends_in_seconds` | | until the last of them is cut; 0 if there is none |
//! | `egret_retired_forgotten_total` | | retired certificates no longer shown, at `limits.max_retired`, although connections of them were open |
//! | `egret_unloaded_certificates` | | declared certificates that could not be loaded |
//! | `egret_projects`, `egret_tokens` | | how many there are |
//! | `egret_ready` | | 1 if `/readyz` answers 200, else 0 |
//! | `egret_build_info` | `version` | 1 |
//! | `egret_store_info` | `backend`: `embedded`, `memory` | 1 |
//! | `process_start_time_seconds` | | when egret was started, Unix time |

use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;

use super::export::{Family, Kind};
use crate::domain::Code;

/// Help of the families of which the table has several lines.
const FAMILIES: &[(&str, &str)] = &[
    ("upstream_handshakes", "TLS handshakes with origins, by how they ended"),
    ("expiry_warnings", "Warnings that bound certificates expire, by the days left at most; 0: it has expired"),
    ("certificate_probes", "Certificates tried out at an origin before they were put in force, by how that ended"),
    ("certificate_rollbacks", "Certificates put back in force in place of the one after them, by whose word"),
];

/// One line of the table.
struct Line {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    /// Family, label, value.
    family: Option<(&'static str, &'static str, &'static str)>,
}

macro_rules! kind {
    () => {
        Kind::Counter
    };
    (gauge) => {
        Kind::Gauge
    };
}

macro_rules! family {
    () => {
        None
    };
    ($family:ident $label:ident $value:literal) => {
        Some((stringify!($family), stringify!($label), $value))
    };
}

macro_rules! table {
    ($($(#[doc = $doc:literal])* $name:ident $(: $kind:ident)? $(=> $family:ident { $label:ident = $value:literal })?;)*) => {
        /// All counters and gauges of one egret.
        #[derive(Debug, Default)]
        pub struct Metrics {
            answers: Answers,
            $($(#[doc = $doc])* pub $name: Count,)*
        }

        const LINES: &[Line] = &[$(Line {
            name: stringify!($name),
            help: concat!($($doc),*),
            kind: kind!($($kind)?),
            family: family!($($family $label $value)?),
        },)*];

        impl Metrics {
            /// The value of every line, in order.
            fn values(&self) -> Vec<u64> {
                vec![$(self.$name.get(),)*]
            }
        }
    };
}

/// A number that threads add to.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    /// One less (gauges).
    pub fn sub(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
    /// Sets it (gauges that one place alone keeps).
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Requests answered. One atomic each.
#[derive(Debug)]
struct Answers {
    /// By the hundreds of the status, 1 to 5; the rest, which no standard knows, in front.
    origin: [Count; CLASSES.len()],
    /// By index of the code.
    egret: [Count; Code::ALL.len()],
}

const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

fn class(status: StatusCode) -> usize {
    let class = usize::from(status.as_u16() / 100);
    if class < CLASSES.len() { class } else { 0 }
}

impl Default for Answers {
    fn default() -> Self {
        Self { origin: Default::default(), egret: std::array::from_fn(|_| Count::default()) }
    }
}

impl Metrics {
    /// Counts a request that an origin answered, with this status.
    pub fn answered(&self, status: StatusCode) {
        self.answers.origin[class(status)].add();
    }

    /// Counts a request that egret itself answered, with this code.
    pub fn refused(&self, code: Code) {
        self.answers.egret[code as usize].add();
    }

    /// Every name with its value, in the order of the table: the `counters` of `/v1/status`.
    #[must_use]
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        let sum = |counts: &[Count]| counts.iter().map(Count::get).sum::<u64>();
        let failed = sum(&self.answers.egret);
        let mut all = vec![("exchanges", sum(&self.answers.origin) + failed), ("exchanges_failed", failed)];
        all.extend(LINES.iter().map(|line| line.name).zip(self.values()));
        all
    }

    /// All of it as series, those with labels first.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let mut families = vec![self.requests()];
        for (line, value) in LINES.iter().zip(self.values()) {
            let Some((name, label, of)) = line.family else {
                families.push(Family::new(&format!("egret_{}", line.name), line.help, line.kind).with(&[], value));
                continue;
            };
            let full = format!("egret_{name}");
            let labels = [(label, of.to_owned())];
            match families.iter_mut().find(|f| f.name == full) {
                Some(family) => family.push(&labels, value),
                None => {
                    let help = FAMILIES.iter().find(|(of, _)| *of == name).map_or(line.help, |(_, help)| help);
                    families.push(Family::new(&full, help, line.kind).with(&labels, value));
                }
            }
        }
        families
    }

    fn requests(&self) -> Family {
        let mut family = Family::new(
            "egret_requests",
            "Requests answered, by who answered, class of the status, and failure code where egret did",
            Kind::Counter,
        );
        let labels = |side: &str, class: &str, code: &str| {
            [("side", side.to_owned()), ("class", class.to_owned()), ("code", code.to_owned())]
        };
        for (class, count) in CLASSES.iter().zip(&self.answers.origin) {
            family.push(&labels("origin", class, ""), count.get());
        }
        for (code, count) in Code::ALL.iter().zip(&self.answers.egret) {
            family.push(&labels("egret", CLASSES[class(code.status())], code.as_str()), count.get());
        }
        family
    }
}

table! {
    /// Client connections open.
    client_connections: gauge;
    /// Times that accepting paused at `limits.max_connections`.
    client_connections_full;
    /// Requests that the framing gate (400) or the HTTP parser (400, 414 or 431 without a body) refused, and HTTP/2
    /// connections that ended because their client broke its rules.
    client_malformed;
    /// Client connections that ended at a deadline (first byte, head, idle, stalled), and streams of HTTP/2 that stalled.
    client_timeouts;
    /// TLS handshakes of clients with a listener that failed, or did not end in time.
    client_handshakes_failed;
    /// HTTP/2 connections closed because their client gave up one request after the other as soon as it had begun.
    client_rapid_resets;
    /// Failed attempts to authenticate at a listener.
    client_unauthenticated;
    /// Tunnels open.
    tunnels: gauge;
    /// Tunnels opened.
    tunnels_opened;
    /// WebSockets open.
    websockets: gauge;
    /// Upstream connections open, idle ones included.
    upstream_connections: gauge;
    /// Upstream connections opened.
    upstream_connections_opened;
    /// Full upstream handshakes.
    handshakes_full => upstream_handshakes { result = "full" };
    /// Resumed upstream handshakes.
    handshakes_resumed => upstream_handshakes { result = "resumed" };
    /// Failed upstream handshakes.
    handshakes_failed => upstream_handshakes { result = "failed" };
    /// Requests on a reused upstream connection.
    upstream_reused;
    /// Requests refused at `limits.max_connections_per_origin`.
    upstream_connections_full;
    /// Idle upstream connections closed at `limits.max_idle` or `limits.max_idle_per_origin`.
    upstream_idle_full;
    /// Interim responses (1xx) of origins that went no further.
    interim_dropped;
    /// Requests sent again because nothing of the first try was accepted.
    resent;
    /// Handshakes thrown away because the identity was retired meanwhile.
    retired_handshakes;
    /// Connections cut at the end of an identity's grace.
    retired_cut;
    /// Certificates whose connections were ended because the end of their validity came near, or was there.
    expiry_retired;
    /// Warnings that a bound certificate has at most 30 days left.
    expiry_warnings_30 => expiry_warnings { days = "30" };
    /// Warnings that a bound certificate has at most 14 days left.
    expiry_warnings_14 => expiry_warnings { days = "14" };
    /// Warnings that a bound certificate has at most 7 days left.
    expiry_warnings_7 => expiry_warnings { days = "7" };
    /// Warnings that a bound certificate has at most a day left.
    expiry_warnings_1 => expiry_warnings { days = "1" };
    /// Warnings that a bound certificate has expired.
    expiry_warnings_0 => expiry_warnings { days = "0" };
    /// Warnings that `telemetry.expiry_webhook` took.
    webhook_delivered;
    /// Warnings that it did not take, whatever was tried.
    webhook_failed;
    /// Warnings that were not sent to it because too many waited (`limits.max_webhook_queue`).
    webhook_dropped;
    /// Listeners to `/v1/events`.
    event_listeners: gauge;
    /// Listeners refused at `limits.max_event_listeners`.
    event_listeners_full;
    /// Events that listeners missed because they were too slow, or came back too late.
    events_missed;
    /// Connections made through parent proxies.
    parent_connections;
    /// Connections through parent proxies that could not be made.
    parent_failures;
    /// Names asked of the resolver.
    dns_lookups;
    /// Leafs minted.
    leafs_minted;
    /// *Ask first* handshakes.
    asked;
    /// A project showed a certificate to an origin that it had shown none before.
    first_disclosures;
    /// Entries of the disclosure ledger: certificates that were shown to origins.
    disclosures: gauge;
    /// Entries of the disclosure ledger that made room for others at `limits.max_disclosures`.
    disclosures_forgotten;
    /// Certificates that an origin took when they were tried out (`?stage=probe`).
    probes_accepted => certificate_probes { result = "accepted" };
    /// Certificates that were tried out and not taken, or for which nothing was proven.
    probes_refused => certificate_probes { result = "refused" };
    /// Uploads turned away because `limits.max_pending` certificates were being tried out.
    probes_full;
    /// Certificates put back in force because somebody said so.
    rollbacks_manual => certificate_rollbacks { how = "manual" };
    /// Certificates put back in force because an origin refused, by a TLS alert, what was promoted in their place.
    rollbacks_automatic => certificate_rollbacks { how = "automatic" };
    /// Access-log lines dropped because the sink did not keep up.
    access_log_dropped;
    /// Management requests.
    api_requests;
    /// TLS handshakes with the management API that failed, or did not end in time.
    api_handshakes_failed;
    /// Management requests with a bad token.
    api_unauthorized;
    /// Times that the configuration, or files that it names, had changed and what they say came into force.
    reloads;
    /// Times that they had changed and not all of it could be used.
    reload_failures;
    /// Whether not all of what they say is in force: 1, else 0.
    config_stale: gauge;
    /// Declared certificates that stay in force because their new files are not whole.
    declared_certificates_kept: gauge;
    /// Changes that could not be stored.
    store_failures;
    /// Uploads, bindings and associations refused because there are as many as a limit allows.
    store_limits_reached;
    /// Records quarantined at start.
    store_quarantined;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_every_answer_once_by_who_gave_it() {
        let metrics = Metrics::default();
        for status in [200, 204, 404, 101, 700] {
            metrics.answered(StatusCode::from_u16(status).unwrap());
        }
        for code in Code::ALL {
            metrics.refused(*code);
        }
        metrics.refused(Code::NetRefused);
        let family = metrics.requests();
        let value = |side: &str, class: &str, code: &str| {
            let wanted = [("side", side), ("class", class), ("code", code)];
            let is_it = |labels: &[(&'static str, String)]| labels.iter().map(|(k, v)| (*k, v.as_str())).eq(wanted);
            family.samples.iter().find(|s| is_it(&s.labels)).map(|s| s.value)
        };
        assert_eq!(value("origin", "2xx", ""), Some(2));
        assert_eq!([value("origin", "1xx", ""), value("origin", "other", "")], [Some(1), Some(1)]);
        assert_eq!(value("origin", "5xx", ""), Some(0), "there from the start");
        assert_eq!(value("egret", "5xx", "net.refused"), Some(2));
        assert_eq!(value("egret", "4xx", "caller.unauthenticated"), Some(1));
        let failed = Code::ALL.len() as u64 + 1;
        assert_eq!(metrics.all()[..2], [("exchanges", 5 + failed), ("exchanges_failed", failed)]);
    }

    #[test]
    fn finds_a_code_by_its_index() {
        for (index, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, index);
        }
    }

    #[test]
    fn names_every_line_once_and_explains_it() {
        let metrics = Metrics::default();
        metrics.handshakes_resumed.add();
        metrics.client_connections.add();
        let families = metrics.families();
        let mut names: Vec<_> = families.iter().map(|f| f.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), families.len(), "a name twice");
        for family in &families {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(family.name.starts_with("egret_") && family.name.chars().all(plain), "{}", family.name);
            assert!(!family.name.ends_with("_total"), "the exporter adds it: {}", family.name);
            assert!(!family.help.is_empty() && !family.help.contains('\n'), "{}", family.name);
        }
        let of = |name: &str| families.iter().find(|f| f.name == name).unwrap();
        assert_eq!(of("egret_upstream_handshakes").samples.iter().map(|s| s.value).collect::<Vec<_>>(), [0, 1, 0]);
        assert_eq!((of("egret_client_connections").kind, of("egret_resent").kind), (Kind::Gauge, Kind::Counter));
        assert_eq!(metrics.all().len(), LINES.len() + 2);
    }
}
