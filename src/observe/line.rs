//! How a line of the access log is written. Hot: once per exchange, so no formatting machinery and no
//! allocation where plain bytes will do.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::access_log::{Exchange, Format, RequestId};
use crate::domain::{self, Peer};

/// The time of a line, whose first 19 characters are made once a second.
#[derive(Default)]
pub(super) struct Clock {
    second: i64,
    text: String,
}

impl Clock {
    fn write(&mut self, out: &mut Vec<u8>) {
        let now = domain::time::now();
        let second = now.unix_timestamp();
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = domain::time::rfc3339_millis(now);
            self.text.truncate("2026-01-01T00:00:00".len());
        }
        out.extend_from_slice(self.text.as_bytes());
        out.push(b'.');
        three_digits(out, u32::from(now.millisecond()));
        out.push(b'Z');
    }
}

impl Exchange<'_> {
    fn method(&self) -> &str {
        self.method.get(..32).unwrap_or(self.method)
    }

    pub(super) fn write_to(&self, out: &mut Vec<u8>, format: Format, clock: &mut Clock) {
        match format {
            Format::Json => self.write_json(out, clock),
            Format::Human => self.write_human(out, clock),
        }
        out.push(b'\n');
    }

    fn write_json(&self, out: &mut Vec<u8>, clock: &mut Clock) {
        out.extend_from_slice(b"{\"timestamp\":\"");
        clock.write(out);
        out.extend_from_slice(b"\",\"level\":\"INFO\",\"target\":\"egret::access\",\"request_id\":\"");
        request_id(out, self.request_id);
        out.push(b'"');
        text(out, "listener", self.listener);
        text(out, "way", self.way);
        key(out, "peer");
        out.push(b'"');
        peer(out, self.peer);
        out.push(b'"');
        optional(out, "project", self.project);
        text(out, "method", self.method());
        if let Some(origin) = self.origin {
            // Canonical hosts, ports and schemes: nothing in them needs an escape.
            key(out, "origin");
            let _ = write!(out, "\"{origin}\"");
        }
        optional(out, "rule", self.rule);
        optional(out, "certificate", self.certificate);
        flag(out, "reused", self.reused);
        flag(out, "resumed", self.resumed);
        number(out, "status", u64::from(self.status));
        optional(out, "code", self.code);
        optional(out, "reason", self.reason);
        flag(out, "complete", Some(self.complete));
        number(out, "bytes_up", self.bytes_up);
        number(out, "bytes_down", self.bytes_down);
        key(out, "ms");
        millis(out, self.total);
        for (name, spent) in [("connect_ms", self.connect), ("first_byte_ms", self.first_byte)] {
            if let Some(spent) = spent {
                key(out, name);
                millis(out, spent);
            }
        }
        if let Some(at) = self.address {
            key(out, "address");
            out.push(b'"');
            socket_address(out, at);
            out.push(b'"');
        }
        optional(out, "parent", self.parent);
        out.push(b'}');
    }

    fn write_human(&self, out: &mut Vec<u8>, clock: &mut Clock) {
        clock.write(out);
        let _ = write!(out, " {} {}", self.status, self.method());
        if let Some(origin) = self.origin {
            let _ = write!(out, " {origin}");
        }
        let _ = write!(out, " {}", self.way);
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
        if let Some(parent) = self.parent {
            let _ = write!(out, " parent={parent}");
        }
        if !self.complete {
            out.extend_from_slice(b" INCOMPLETE");
        }
        let _ = write!(out, " up={} down={} ", self.bytes_up, self.bytes_down);
        millis(out, self.total);
        out.extend_from_slice(b"ms");
        if let Some(reason) = self.reason {
            let _ = write!(out, " - {reason}");
        }
    }
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    key(out, name);
    if value.bytes().any(|b| b < b' ' || matches!(b, b'"' | b'\\' | 0x7f)) {
        // Writing to a Vec cannot fail.
        let _ = serde_json::to_writer(out, value);
        return;
    }
    out.push(b'"');
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

fn optional(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        text(out, name, value);
    }
}

fn flag(out: &mut Vec<u8>, name: &str, value: Option<bool>) {
    if let Some(value) = value {
        key(out, name);
        out.extend_from_slice(if value { b"true" } else { b"false" });
    }
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    key(out, name);
    decimal(out, value);
}

fn decimal(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn three_digits(out: &mut Vec<u8>, value: u32) {
    for unit in [100, 10, 1] {
        out.push(b'0' + u8::try_from(value / unit % 10).unwrap_or_default());
    }
}

/// Milliseconds; microseconds are as fine as anyone reads.
fn millis(out: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    decimal(out, micros / 1000);
    out.push(b'.');
    three_digits(out, u32::try_from(micros % 1000).unwrap_or_default());
}

fn request_id(out: &mut Vec<u8>, id: RequestId) {
    hex(out, u64::from(id.process), 8);
    out.push(b'-');
    hex(out, id.number, (64 - id.number.leading_zeros()).div_ceil(4).max(1));
}

fn hex(out: &mut Vec<u8>, value: u64, digits: u32) {
    for nibble in (0..digits).rev() {
        let digit = usize::try_from(value >> (nibble * 4) & 15).unwrap_or_default();
        out.push(b"0123456789abcdef"[digit]);
    }
}

fn peer(out: &mut Vec<u8>, peer: Peer) {
    match peer {
        Peer::Ip(ip) => address(out, ip),
        Peer::Unix(uid) => {
            out.extend_from_slice(b"unix");
            if let Some(uid) = uid {
                out.extend_from_slice(b":uid=");
                decimal(out, u64::from(uid));
            }
        }
    }
}

fn address(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => {
            for (at, octet) in v4.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                decimal(out, u64::from(octet));
            }
        }
        IpAddr::V6(v6) => {
            let _ = write!(out, "{v6}");
        }
    }
}

fn socket_address(out: &mut Vec<u8>, at: SocketAddr) {
    if at.is_ipv6() {
        let _ = write!(out, "{at}");
        return;
    }
    address(out, at.ip());
    out.push(b':');
    decimal(out, u64::from(at.port()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_the_formatting_machinery_would_write() {
        for duration in [0, 1, 999, 1000, 1500, 61_234_567] {
            let mut out = Vec::new();
            millis(&mut out, Duration::from_micros(duration));
            assert_eq!(String::from_utf8(out).unwrap(), format!("{}.{:03}", duration / 1000, duration % 1000));
        }
        for _ in 0..20 {
            let id = RequestId::next();
            let mut out = Vec::new();
            request_id(&mut out, id);
            assert_eq!(String::from_utf8(out).unwrap(), id.to_string());
        }
        for who in [Peer::Unix(None), Peer::Unix(Some(1000)), Peer::Ip("2001:db8::1".parse().unwrap())] {
            let mut out = Vec::new();
            peer(&mut out, who);
            assert_eq!(String::from_utf8(out).unwrap(), who.to_string());
        }
        for at in ["127.0.0.1:80", "255.0.10.200:65535", "[2001:db8::1]:443"] {
            let at: SocketAddr = at.parse().unwrap();
            let mut out = Vec::new();
            socket_address(&mut out, at);
            assert_eq!(String::from_utf8(out).unwrap(), at.to_string());
        }
    }

    #[test]
    fn escapes_what_needs_it() {
        let mut line = Exchange::new("dev", "absolute", Peer::Unix(None), "GET");
        line.reason = Some("a \"quoted\" \\ back\u{7}slash\nline");
        line.origin = Some(&"https://api.example.com");
        line.parent = Some("http://proxy.corp:3128");
        let mut out = Vec::new();
        line.write_to(&mut out, Format::Json, &mut Clock::default());
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["reason"], line.reason.unwrap());
        assert_eq!(json["origin"], "https://api.example.com");
        assert_eq!(json["parent"], "http://proxy.corp:3128");
    }
}
