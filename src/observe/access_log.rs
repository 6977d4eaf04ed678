//! One line per exchange and per tunnel, under the tracing target `egret::access`.
//!
//! No path, no query, no header value: a line says who spoke to whom with which identity, and how it went.
//! Field names are those of [`Exchange`]; durations are in milliseconds.

use std::fmt;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::rand;

/// The tracing target of the access log; a log filter can name it.
pub const TARGET: &str = "egret::access";

/// Names one exchange in logs and error bodies: 8 hex digits of this process, then a number that grows.
/// Taken only when something is to be said, so that a silent exchange touches nothing shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    process: u32,
    number: u64,
}

impl RequestId {
    /// The next one.
    ///
    /// # Panics
    /// If the system gives no random numbers, without which no TLS works either.
    #[must_use]
    pub fn next() -> Self {
        static PROCESS: OnceLock<u32> = OnceLock::new();
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let process = *PROCESS.get_or_init(|| {
            let mut bytes = [0; 4];
            rand::fill(&mut bytes).expect("the system gives random numbers");
            u32::from_ne_bytes(bytes)
        });
        Self { process, number: NUMBER.fetch_add(1, Ordering::Relaxed) }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:x}", self.process, self.number)
    }
}

/// Whether anyone listens: whoever would gather facts only for the line asks first.
#[must_use]
pub fn enabled() -> bool {
    tracing::enabled!(target: "egret::access", tracing::Level::INFO)
}

/// One exchange or one tunnel, as its line says it.
#[derive(Debug, Clone)]
pub struct Exchange<'a> {
    /// Also in the body of an error that egret answered.
    pub request_id: RequestId,
    /// The listener's name.
    pub listener: &'a str,
    /// How it came: `absolute`, `lifted`, `plain`, `intercepted`, `sidecar`, `connect`, `tunnelled`.
    pub way: &'a str,
    /// The client's address.
    pub peer: IpAddr,
    /// The caller's project id; `None` if the caller is unknown.
    pub project: Option<&'a str>,
    /// The method; clients may send any token, so it is cut at 32 bytes.
    pub method: &'a str,
    /// `https://host[:port]`, `http://…`, or `host:port` for a tunnel; `None` if none could be read.
    pub origin: Option<&'a str>,
    /// The rule that chose the identity.
    pub rule: Option<&'a str>,
    /// The certificate that was chosen.
    pub certificate: Option<&'a str>,
    /// Whether the upstream connection was used before.
    pub reused: Option<bool>,
    /// Whether its TLS session was resumed.
    pub resumed: Option<bool>,
    /// What the client got.
    pub status: u16,
    /// The code, if egret itself answered.
    pub code: Option<&'a str>,
    /// Why, in words: why a tunnel is blind, what failed.
    pub reason: Option<&'a str>,
    /// Body bytes from the client (all bytes, for a tunnel).
    pub bytes_up: u64,
    /// Body bytes to the client (all bytes, for a tunnel).
    pub bytes_down: u64,
    /// From the request's head to the end of the answer.
    pub total: Duration,
    /// Until the upstream connection stood, if one was opened.
    pub connect: Option<Duration>,
    /// Until the answer's head had come.
    pub first_byte: Option<Duration>,
}

impl<'a> Exchange<'a> {
    /// A line with nothing known but this; the rest is filled in by field.
    #[must_use]
    pub fn new(listener: &'a str, way: &'a str, peer: IpAddr, method: &'a str) -> Self {
        Self {
            request_id: RequestId::next(),
            listener,
            way,
            peer,
            project: None,
            method,
            origin: None,
            rule: None,
            certificate: None,
            reused: None,
            resumed: None,
            status: 0,
            code: None,
            reason: None,
            bytes_up: 0,
            bytes_down: 0,
            total: Duration::ZERO,
            connect: None,
            first_byte: None,
        }
    }

    /// Writes the line, if anyone listens.
    pub fn emit(&self) {
        if !enabled() {
            return;
        }
        let method = self.method.get(..32).unwrap_or(self.method);
        tracing::info!(
            target: "egret::access",
            request_id = %self.request_id,
            listener = self.listener,
            way = self.way,
            peer = %self.peer,
            project = self.project,
            method,
            origin = self.origin,
            rule = self.rule,
            certificate = self.certificate,
            reused = self.reused,
            resumed = self.resumed,
            status = self.status,
            code = self.code,
            reason = self.reason,
            bytes_up = self.bytes_up,
            bytes_down = self.bytes_down,
            total_ms = milliseconds(self.total),
            connect_ms = self.connect.map(milliseconds),
            first_byte_ms = self.first_byte.map(milliseconds),
        );
    }
}

/// Milliseconds with three decimals, which is all that a clock can say.
fn milliseconds(duration: Duration) -> f64 {
    let micros = u32::try_from(duration.as_micros()).map_or_else(|_| duration.as_secs_f64() * 1e6, f64::from);
    micros.round() / 1000.0
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let mut line = Exchange::new("dev", "sidecar", IpAddr::from([127, 0, 0, 1]), "GET");
            line.origin = Some("https://api.test");
            line.certificate = Some("cert_1");
            line.reused = Some(true);
            line.status = 200;
            line.bytes_down = 7;
            line.total = Duration::from_micros(1500);
            line.emit();
        });
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn writes_one_line_with_what_is_known_and_nothing_else() {
        let text = logged("info");
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["target"], TARGET);
        let fields = &line["fields"];
        assert_eq!(fields["origin"], "https://api.test");
        assert_eq!(fields["certificate"], "cert_1");
        assert_eq!(fields["reused"], true);
        assert_eq!(fields["status"], 200);
        assert_eq!(fields["bytes_down"], 7);
        assert_eq!(fields["total_ms"], 1.5);
        assert!(fields.get("code").is_none());
        assert!(fields.get("first_byte_ms").is_none());
    }

    #[test]
    fn is_silent_when_nobody_listens() {
        assert_eq!(logged("egret::access=off"), "");
    }

    #[test]
    fn counts_requests() {
        let (a, b) = (RequestId::next(), RequestId::next());
        assert_ne!(a, b);
        assert_eq!(a.to_string().split('-').next(), b.to_string().split('-').next());
    }
}
