//! The access log: one line per exchange, off the hot path.
//!
//! A worker formats its line into a shared buffer; one thread writes what has gathered every few
//! milliseconds. A sink that does not keep up costs lines (counted), never requests. No path and no
//! query is ever logged: they carry secrets.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use aws_lc_rs::rand;

use super::Metrics;
use super::line::Clock;
use crate::domain::Peer;

/// Lines gather for this long before they are written.
const GATHER: Duration = Duration::from_millis(20);
/// The last lines have this long to be written.
const FAREWELL: Duration = Duration::from_secs(1);
/// Bytes that may wait; further lines are dropped and counted.
const MAX_WAITING: usize = 4 * 1024 * 1024;

/// Names one exchange in logs and error bodies: 8 hex digits of this process, then a number that grows.
/// Taken only when something is to be said, so that a silent exchange touches nothing shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    pub(super) process: u32,
    pub(super) number: u64,
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

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For a person at a terminal.
    Human,
    /// One JSON object a line.
    Json,
}

/// One exchange or one tunnel, as its line says it. The JSON form has these names, durations in milliseconds.
#[derive(Clone)]
pub struct Exchange<'a> {
    /// Also in the body of an error that egret answered.
    pub request_id: RequestId,
    /// The listener's name.
    pub listener: &'a str,
    /// How it came: `absolute`, `lifted`, `plain`, `intercepted`, `sidecar`, `connect`, `tunnelled`.
    pub way: &'a str,
    /// The client.
    pub peer: Peer,
    /// The caller's project id; `None` if the caller is unknown.
    pub project: Option<&'a str>,
    /// The method; clients may send any token, so it is cut at 32 bytes.
    pub method: &'a str,
    /// `https://host[:port]`, `http://…`, or `host:port` for a tunnel; `None` if none could be read.
    pub origin: Option<&'a (dyn fmt::Display + Sync)>,
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
    /// Whether the whole answer went through.
    pub complete: bool,
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
    /// The address that was connected to: the origin's, or its parent proxy's.
    pub address: Option<SocketAddr>,
    /// The parent proxy on the way, `http://proxy.corp:3128`.
    pub parent: Option<&'a str>,
}

impl<'a> Exchange<'a> {
    /// A line with nothing known but this; the rest is filled in by field.
    #[must_use]
    pub fn new(listener: &'a str, way: &'a str, peer: Peer, method: &'a str) -> Self {
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
            complete: true,
            bytes_up: 0,
            bytes_down: 0,
            total: Duration::ZERO,
            connect: None,
            first_byte: None,
            address: None,
            parent: None,
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
    clock: Clock,
    closed: bool,
    /// The writer has written everything after `closed`.
    done: bool,
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
    pub fn write(&self, line: &Exchange<'_>) {
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
        let Waiting { bytes, clock, .. } = &mut *waiting;
        line.write_to(bytes, self.format, clock);
        drop(waiting);
        if first {
            self.shared.more.notify_one();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        if self.writer.take().is_none() {
            return;
        }
        let mut waiting = self.shared.waiting.lock().expect("nothing panics while holding it");
        waiting.closed = true;
        self.shared.more.notify_all();
        // A sink that takes nothing (a pipe that nobody reads) must not hold up the end.
        let _ = self.shared.more.wait_timeout_while(waiting, FAREWELL, |waiting| !waiting.done);
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
            shared.waiting.lock().expect("nothing panics while holding it").done = true;
            shared.more.notify_all();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PEER: Peer = Peer::Ip(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST));

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

    fn written(format: Format) -> String {
        let sink = Sink::default();
        let log = AccessLog::new(Box::new(sink.clone()), format, Arc::default()).unwrap();
        let mut line = Exchange::new("dev", "intercepted", PEER, "GET");
        line.origin = Some(&"https://api.example.com:8443");
        line.rule = Some("exact");
        line.certificate = Some("cert_1");
        line.reused = Some(true);
        line.resumed = Some(false);
        line.status = 200;
        (line.bytes_up, line.bytes_down) = (1, 2);
        line.total = Duration::from_micros(1500);
        log.write(&line);
        drop(log);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn writes_one_json_object_a_line_before_it_is_dropped() {
        let json: serde_json::Value = serde_json::from_str(&written(Format::Json)).unwrap();
        assert_eq!(json["origin"], "https://api.example.com:8443");
        assert_eq!(json["ms"], 1.5);
        assert_eq!(json["certificate"], "cert_1");
        assert!(json.get("code").is_none());
    }

    #[test]
    fn writes_for_a_person() {
        let text = written(Format::Human);
        let said =
            "200 GET https://api.example.com:8443 intercepted certificate=cert_1 (exact) reused up=1 down=2 1.500ms\n";
        assert!(text.ends_with(said), "{text}");
    }

    #[test]
    fn a_sink_that_takes_nothing_does_not_hold_up_the_end() {
        struct Stuck(std::sync::mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (release, stuck) = std::sync::mpsc::channel();
        let log = AccessLog::new(Box::new(Stuck(stuck)), Format::Json, Arc::default()).unwrap();
        log.write(&Exchange::new("dev", "intercepted", PEER, "GET"));
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(log);
            let _ = ended.send(());
        });
        let outcome = end.recv_timeout(FAREWELL * 10);
        drop(release);
        assert!(outcome.is_ok(), "the end waits for the sink");
    }

    #[test]
    fn numbers_never_repeat() {
        let (a, b) = (RequestId::next(), RequestId::next());
        assert_ne!(a, b);
        assert_ne!(a.to_string(), b.to_string());
    }
}
