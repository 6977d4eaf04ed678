//! The first bytes of a tunnel: what the client speaks, or that it waits for the server.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use crate::net::Stream;

/// A client that has said nothing for so long waits for the server to speak first.
pub(super) const SILENCE: Duration = Duration::from_millis(300);
/// The longest method that is taken for HTTP.
const LONGEST_METHOD: usize = 24;
/// A ClientHello with a hybrid key share fits.
const FIRST_READ: usize = 4096;

/// What a client speaks, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    Tls,
    Http,
    Other,
    /// Nothing came, or too little to tell.
    Silent,
    /// The client closed without a word.
    Closed,
}

/// Reads into `held` until it is clear what the client speaks.
pub(super) async fn peek(io: &mut (impl AsyncRead + Unpin), held: &mut BytesMut) -> First {
    loop {
        if let Some(first) = classify(held) {
            return first;
        }
        held.reserve(FIRST_READ);
        match timeout(SILENCE, io.read_buf(held)).await {
            Ok(Ok(0)) => return if held.is_empty() { First::Closed } else { First::Other },
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return First::Closed,
            Err(_) => return First::Silent,
        }
    }
}

/// `None`: more bytes are needed.
pub(super) fn classify(bytes: &[u8]) -> Option<First> {
    match bytes {
        [] | [0x16] => None,
        // A TLS record of type handshake, major version 3 (RFC 8446 section 5.1).
        [0x16, 0x03, ..] => Some(First::Tls),
        [b'A'..=b'Z', ..] => classify_method(bytes),
        _ => Some(First::Other),
    }
}

/// An upper-case method, a space, and the beginning of a target. HTTP/2's preface is not HTTP/1.1.
pub(super) fn classify_method(bytes: &[u8]) -> Option<First> {
    let end = bytes.iter().take(LONGEST_METHOD).position(|b| !matches!(b, b'A'..=b'Z' | b'-' | b'_'));
    let Some(end) = end else { return (bytes.len() >= LONGEST_METHOD).then_some(First::Other) };
    if bytes[end] != b' ' || &bytes[..end] == b"PRI" {
        return Some(First::Other);
    }
    match bytes.get(end + 1) {
        None => None,
        Some(b'/' | b'*' | b'h' | b'H') => Some(First::Http),
        Some(_) => Some(First::Other),
    }
}

/// Who spoke first.
pub(super) enum Speaker {
    Client,
    /// Or it closed without a word.
    Server,
}

/// Waits until one side sends something or closes; what it sent stands in `held` or `ahead` then. Without a server only the
/// client can speak.
pub(super) async fn who_speaks(
    io: &mut (impl AsyncRead + Unpin),
    held: &mut BytesMut,
    server: Option<&mut Stream>,
    ahead: &mut BytesMut,
) -> Speaker {
    held.reserve(FIRST_READ);
    let Some(server) = server else {
        let _ = io.read_buf(held).await;
        return Speaker::Client;
    };
    ahead.reserve(FIRST_READ);
    tokio::select! {
        // An error shows again with the next read.
        _ = io.read_buf(held) => Speaker::Client,
        _ = server.read_buf(ahead) => Speaker::Server,
    }
}
