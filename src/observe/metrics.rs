//! Counters and gauges, in one table.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! table {
    ($($(#[doc = $doc:literal])* $name:ident;)*) => {
        /// All counters and gauges of one egret. `/v1/status` shows them under `counters`.
        #[derive(Debug, Default)]
        pub struct Metrics { $($(#[doc = $doc])* pub $name: Count,)* }

        impl Metrics {
            /// Every name with its value, in the order of the table.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
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
    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

table! {
    /// Client connections open.
    client_connections;
    /// Times that accepting paused at `limits.max_connections`.
    client_connections_full;
    /// Requests that the framing gate (400) or the HTTP parser (400, 414 or 431 without a body) refused, and HTTP/2
    /// connections that ended because their client broke its rules.
    client_malformed;
    /// Client connections that ended at a deadline (first byte, head, idle, stalled), and streams of HTTP/2 that stalled.
    client_timeouts;
    /// HTTP/2 connections closed because their client gave up one request after the other as soon as it had begun.
    client_rapid_resets;
    /// Failed attempts to authenticate at a listener.
    client_unauthenticated;
    /// Exchanges answered, by the origin or by egret.
    exchanges;
    /// Of them answered by egret itself.
    exchanges_failed;
    /// Tunnels open.
    tunnels;
    /// Upstream connections open.
    upstream_connections;
    /// Full upstream handshakes.
    handshakes_full;
    /// Resumed upstream handshakes.
    handshakes_resumed;
    /// Failed upstream handshakes.
    handshakes_failed;
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
    /// Names resolved by the system.
    dns_lookups;
    /// Leafs minted.
    leafs_minted;
    /// *Ask first* handshakes.
    asked;
    /// The project-wide certificate was shown to a host for the first time.
    first_disclosures;
    /// Access-log lines dropped because the sink did not keep up.
    access_log_dropped;
    /// Management requests.
    api_requests;
    /// Management requests with a bad token.
    api_unauthorized;
    /// Changes that could not be stored.
    store_failures;
    /// Records quarantined at start.
    store_quarantined;
}
