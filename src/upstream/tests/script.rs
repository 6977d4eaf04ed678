//! An HTTP/2 origin in raw frames, so that it can misbehave in ways that a library would not.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::origin::Seen;

const HOLD: Duration = Duration::from_millis(20);
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;
const HTTP_1_1_REQUIRED: u32 = 13;

/// How an HTTP/2 origin behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum Script {
    /// Answers each request; takes so many at once (0 = says nothing).
    Limit(u32),
    /// Answers so many requests of each connection, and looks at none after them: GOAWAY names the last one.
    GoAwayAfter(usize),
    /// Refuses the first request that it ever sees, after its first bytes of body.
    RefuseFirst,
    /// Refuses everything until it is asked over HTTP/1.1.
    RequireHttp1,
    /// Sends heads and one chunk of body, and no end.
    Stall,
    /// Reads requests and never answers.
    Silent,
    /// Answers with interim responses, and with nothing else.
    Interim,
    /// Reads a request, says GOAWAY because there were too many, and goes.
    Calm,
    /// Answers with what is no HTTP/2.
    Garbage,
}

pub(super) struct Connection<S> {
    io: S,
    script: Script,
    text: String,
    /// Streams whose request is not complete, with the body so far.
    open: BTreeMap<u32, Vec<u8>>,
    /// The very first connection of the origin.
    first: bool,
    /// Streams whose request is complete and not answered yet.
    whole: Vec<u32>,
    requests: usize,
    seen: Arc<Mutex<Seen>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(io: S, script: Script, text: String, first: bool, seen: Arc<Mutex<Seen>>) -> Self {
        Self { io, script, text, open: BTreeMap::new(), whole: Vec::new(), first, requests: 0, seen }
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.io.write_all(&bytes).await
    }

    /// Serves until the client goes away, or this is through with it.
    pub(super) async fn serve(&mut self) -> io::Result<()> {
        let mut preface = [0; 24];
        self.io.read_exact(&mut preface).await?;
        let mut settings = Vec::new();
        if let Script::Limit(limit) = self.script
            && limit > 0
        {
            settings.extend(3u16.to_be_bytes());
            settings.extend(limit.to_be_bytes());
        }
        self.frame(SETTINGS, 0, 0, &settings).await?;
        self.io.flush().await?;
        loop {
            let mut head = [0; 9];
            if let Script::Limit(limit) = self.script
                && limit > 0
            {
                // Holds its answers back, so that streams have the time to become too many.
                match tokio::time::timeout(HOLD, self.io.read_u8()).await {
                    Ok(byte) => head[0] = byte?,
                    Err(_) => {
                        for stream in std::mem::take(&mut self.whole) {
                            self.complete(stream).await?;
                        }
                        self.io.flush().await?;
                        head[0] = self.io.read_u8().await?;
                    }
                }
            } else {
                head[0] = self.io.read_u8().await?;
            }
            self.io.read_exact(&mut head[1..]).await?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.io.read_exact(&mut payload).await?;
            let stream = u32::from_be_bytes(stream);
            match kind {
                SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]).await?,
                PING if flags & ACK == 0 => self.frame(PING, ACK, 0, &payload).await?,
                HEADERS => {
                    self.open.insert(stream, Vec::new());
                    self.opened();
                    if flags & END_STREAM != 0 {
                        match self.script {
                            Script::Limit(1..) => self.whole.push(stream),
                            _ => self.complete(stream).await?,
                        }
                    }
                }
                DATA => {
                    if let Some(body) = self.open.get_mut(&stream) {
                        body.extend(&payload);
                    }
                    if self.script == Script::RefuseFirst && self.first && self.requests == 0 {
                        self.requests += 1;
                        self.open.remove(&stream);
                        self.frame(RST_STREAM, 0, stream, &REFUSED_STREAM.to_be_bytes()).await?;
                    } else if flags & END_STREAM != 0 {
                        self.complete(stream).await?;
                    }
                }
                RST_STREAM => drop(self.open.remove(&stream)),
                GOAWAY => {}
                _ => {}
            }
            self.io.flush().await?;
        }
    }

    fn opened(&self) {
        let mut seen = self.seen.lock().unwrap();
        seen.most_streams = seen.most_streams.max(self.open.len());
    }

    async fn complete(&mut self, stream: u32) -> io::Result<()> {
        if let Script::GoAwayAfter(answered) = self.script
            && self.requests >= answered
        {
            // The streams are odd numbers from 1.
            let last = u32::try_from(2 * answered - 1).unwrap();
            let payload = [last.to_be_bytes(), 0u32.to_be_bytes()].concat();
            self.frame(GOAWAY, 0, 0, &payload).await?;
            self.io.flush().await?;
            self.io.shutdown().await?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let Some(body) = self.open.remove(&stream) else { return Ok(()) };
        self.requests += 1;
        self.seen.lock().unwrap().requests += 1;
        if self.script == Script::RequireHttp1 {
            return self.frame(RST_STREAM, 0, stream, &HTTP_1_1_REQUIRED.to_be_bytes()).await;
        }
        if self.script == Script::Silent {
            return Ok(());
        }
        if self.script == Script::Calm {
            let payload = [stream.to_be_bytes(), ENHANCE_YOUR_CALM.to_be_bytes()].concat();
            self.frame(GOAWAY, 0, 0, &payload).await?;
            self.io.flush().await?;
            self.io.shutdown().await?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if self.script == Script::Garbage {
            return self.io.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
        if self.script == Script::Interim {
            // `:status: 103`, a literal with the eighth entry's name.
            let head = [0x08, 3, b'1', b'0', b'3'];
            loop {
                self.frame(HEADERS, END_HEADERS, stream, &head).await?;
                self.io.flush().await?;
            }
        }
        // `:status: 200`, the eighth entry of HPACK's static table.
        self.frame(HEADERS, END_HEADERS, stream, &[0x88]).await?;
        let mut text = self.text.clone();
        if !body.is_empty() {
            text.push(' ');
            text.push_str(&String::from_utf8(body).unwrap());
        }
        let end = if self.script == Script::Stall { 0 } else { END_STREAM };
        self.frame(DATA, end, stream, text.as_bytes()).await
    }
}
