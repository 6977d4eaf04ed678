//! The access log: one line per exchange, off the hot path.
//!
//! A worker formats its line into a shared buffer; one thread writes what has gathered every few
//! milliseconds. A sink that does not keep up costs lines (counted), never requests. No path and no
//! query is ever logged: they carry secrets.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use super::Metrics;
use crate::domain;

/// Lines gather for this long before they are written.
const GATHER: Duration = Duration::from_millis(20);
/// Bytes that may wait; further lines are dropped and counted.
const MAX_WAITING: usize = 4 * 1024 * 1024;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For a person at a terminal.
    Human,
    /// One JSON object a line.
    Json,
}

/// Everything that one line says. Field names of the JSON form are these, durations in milliseconds.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    /// The request's number.
    pub request_id: u64,
    /// The caller's project.
    pub project: &'a str,
    /// The listener's name.
    pub listener: &'a str,
    /// `absolute`, `lifted`, `plain`, `intercepted`, `sidecar`, `tunnelled`.
    pub way: &'a str,
    /// The client's address.
    pub peer: IpAddr,
    /// The method; `CONNECT` for a tunnel.
    pub method: &'a str,
    /// The destination's host.
    pub host: &'a str,
    /// The destination's port.
    pub port: u16,
    /// Whether egret spoke TLS to it.
    pub tls: bool,
    /// The rule that selected.
    pub rule: Option<&'a str>,
    /// The certificate that was selected.
    pub certificate: Option<&'a str>,
    /// Whether the upstream connection had served before.
    pub reused: Option<bool>,
    /// Whether its TLS session was resumed.
    pub resumed: Option<bool>,
    /// The status that the client got.
    pub status: u16,
    /// egret's own failure code.
    pub code: Option<&'a str>,
    /// What happened, in words.
    pub detail: Option<&'a str>,
    /// Whether the whole body went through.
    pub complete: bool,
    /// Body bytes from the client.
    pub bytes_up: u64,
    /// Body bytes to the client.
    pub bytes_down: u64,
    /// From the request's head to the end of the response.
    pub total: Duration,
    /// Spent on getting a new connection.
    pub connecting: Duration,
    /// From the request's head to the response's head.
    pub first_byte: Option<Duration>,
    /// The address that was connected to.
    pub address: Option<SocketAddr>,
}

#[derive(Serialize)]
struct Json<'a> {
    time: &'a str,
    level: &'static str,
    target: &'static str,
    request_id: String,
    project: &'a str,
    listener: &'a str,
    way: &'a str,
    peer: IpAddr,
    method: &'a str,
    origin: Origin<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    certificate: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reused: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed: Option<bool>,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    complete: bool,
    bytes_up: u64,
    bytes_down: u64,
    ms: f64,
    connect_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
}

/// `https://host[:port]`, written without a buffer of its own.
struct Origin<'a> {
    host: &'a str,
    port: u16,
    tls: bool,
}

impl std::fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (scheme, default) = if self.tls { ("https", domain::HTTPS_PORT) } else { ("http", domain::HTTP_PORT) };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port == default { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl Serialize for Origin<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn ms(duration: Duration) -> f64 {
    // Microseconds are as fine as anyone reads.
    f64::from(u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)) / 1000.0
}

impl Line<'_> {
    fn origin(&self) -> Origin<'_> {
        Origin { host: self.host, port: self.port, tls: self.tls }
    }

    fn write_to(&self, out: &mut Vec<u8>, format: Format) {
        let time = domain::time::rfc3339_millis(domain::time::now());
        match format {
            Format::Json => {
                let json = Json {
                    time: &time,
                    level: "INFO",
                    target: "egret::access",
                    request_id: format!("{:016x}", self.request_id),
                    project: self.project,
                    listener: self.listener,
                    way: self.way,
                    peer: self.peer,
                    method: self.method,
                    origin: self.origin(),
                    rule: self.rule,
                    certificate: self.certificate,
                    reused: self.reused,
                    resumed: self.resumed,
                    status: self.status,
                    code: self.code,
                    detail: self.detail,
                    complete: self.complete,
                    bytes_up: self.bytes_up,
                    bytes_down: self.bytes_down,
                    ms: ms(self.total),
                    connect_ms: ms(self.connecting),
                    first_byte_ms: self.first_byte.map(ms),
                    address: self.address,
                };
                // Writing to a Vec cannot fail, and every field is plain data.
                let _ = serde_json::to_writer(&mut *out, &json);
            }
            Format::Human => self.write_human(out, &time),
        }
        out.push(b'\n');
    }

    fn write_human(&self, out: &mut Vec<u8>, time: &str) {
        let _ = write!(out, "{time} {} {} {} {}", self.status, self.method, self.origin(), self.way);
        if let Some(code) = self.code {
            let _ = write!(out, " {code}");
        }
        match (self.certificate, self.rule) {
            (Some(id), Some(rule)) => {
                let _ = write!(out, " certificate={id} ({rule})");
            }
            (None, Some(rule)) => {
                let _ = write!(out, " no certificate ({rule})");
            }
            _ => {}
        }
        for (word, said) in [("reused", self.reused), ("resumed", self.resumed)] {
            if said == Some(true) {
                let _ = write!(out, " {word}");
            }
        }
        if !self.complete {
            let _ = write!(out, " INCOMPLETE");
        }
        let _ = write!(out, " up={} down={} {:.1}ms", self.bytes_up, self.bytes_down, ms(self.total));
        if let Some(detail) = self.detail {
            let _ = write!(out, " - {detail}");
        }
    }
}

struct Shared {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    closed: bool,
}

/// The access log of one egret. Dropping it writes what is left.
pub struct AccessLog {
    shared: Arc<Shared>,
    format: Format,
    metrics: Arc<Metrics>,
    writer: Option<JoinHandle<()>>,
}

impl AccessLog {
    /// A log that writes to `sink` from a thread of its own.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(sink: Box<dyn Write + Send>, format: Format, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { waiting: Mutex::default(), more: Condvar::new() });
        let theirs = shared.clone();
        let writer = std::thread::Builder::new().name("egret-access".to_owned()).spawn(move || drain(&theirs, sink))?;
        Ok(Self { shared, format, metrics, writer: Some(writer) })
    }

    /// A log that writes nothing.
    #[must_use]
    pub fn off(metrics: Arc<Metrics>) -> Self {
        let shared = Arc::new(Shared { waiting: Mutex::default(), more: Condvar::new() });
        Self { shared, format: Format::Json, metrics, writer: None }
    }

    /// Whether lines are worth gathering.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.writer.is_some()
    }

    /// Writes a line, soon.
    pub fn write(&self, line: &Line<'_>) {
        if self.writer.is_none() {
            return;
        }
        let mut waiting = self.shared.waiting.lock().expect("nothing panics while holding it");
        if waiting.bytes.len() > MAX_WAITING {
            drop(waiting);
            self.metrics.access_log_dropped.add();
            return;
        }
        let first = waiting.bytes.is_empty();
        line.write_to(&mut waiting.bytes, self.format);
        drop(waiting);
        if first {
            self.shared.more.notify_one();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.shared.waiting.lock().expect("nothing panics while holding it").closed = true;
        self.shared.more.notify_one();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn drain(shared: &Shared, mut sink: Box<dyn Write + Send>) {
    let mut out = Vec::new();
    loop {
        let mut waiting = shared.waiting.lock().expect("nothing panics while holding it");
        while waiting.bytes.is_empty() && !waiting.closed {
            waiting = shared.more.wait(waiting).expect("nothing panics while holding it");
        }
        let closed = waiting.closed;
        if !closed {
            // Lines that come meanwhile share the write.
            drop(waiting);
            std::thread::sleep(GATHER);
            waiting = shared.waiting.lock().expect("nothing panics while holding it");
        }
        std::mem::swap(&mut waiting.bytes, &mut out);
        drop(waiting);
        // A sink that is gone (a closed pipe) must not end the proxy.
        let _ = sink.write_all(&out).and_then(|()| sink.flush());
        out.clear();
        if closed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn line() -> Line<'static> {
        Line {
            request_id: 255,
            project: "prj_1",
            listener: "dev",
            way: "intercepted",
            peer: IpAddr::from([127, 0, 0, 1]),
            method: "GET",
            host: "api.example.com",
            port: 8443,
            tls: true,
            rule: Some("exact"),
            certificate: Some("cert_1"),
            reused: Some(true),
            resumed: Some(false),
            status: 200,
            code: None,
            detail: None,
            complete: true,
            bytes_up: 1,
            bytes_down: 2,
            total: Duration::from_micros(1500),
            connecting: Duration::ZERO,
            first_byte: None,
            address: None,
        }
    }

    fn written(format: Format) -> String {
        let sink = Sink::default();
        let log = AccessLog::new(Box::new(sink.clone()), format, Arc::default()).unwrap();
        log.write(&line());
        drop(log);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn writes_one_json_object_a_line_before_it_is_dropped() {
        let json: serde_json::Value = serde_json::from_str(&written(Format::Json)).unwrap();
        assert_eq!(json["origin"], "https://api.example.com:8443");
        assert_eq!(json["request_id"], "00000000000000ff");
        assert_eq!(json["ms"], 1.5);
        assert_eq!(json["certificate"], "cert_1");
    }

    #[test]
    fn writes_for_a_person() {
        let text = written(Format::Human);
        assert!(
            text.ends_with(
                "200 GET https://api.example.com:8443 intercepted certificate=cert_1 (exact) reused up=1 down=2 1.5ms\n"
            ),
            "{text}"
        );
    }
}
