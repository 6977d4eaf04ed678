//! The framing gate: follows a client's byte stream and refuses what two parsers could read in two ways.
//!
//! It stands in front of hyper's parser, which takes a bare LF for a line end, joins equal lengths, and drops a
//! length beside a transfer coding before anyone else sees either. The gate is as strict as RFC 9112 lets a
//! recipient be, has no switches, and does no I/O. It keeps a few words per connection and no copy of the head.
//!
//! What it lets pass ends where hyper says that it ends; what a target, a Host or a header *means* is judged
//! later, and how long a head may be is hyper's business.

mod scan;

use std::fmt;

use scan::{is_token, plain_run, token_run};

/// Longest extension of one chunk, in bytes. hyper bounds their sum.
const MAX_EXTENSION: u32 = 256;
/// Longest trailer section, in bytes.
const MAX_TRAILERS: u32 = 8 * 1024;
/// Digits of a chunk's size: more could not be counted.
const MAX_SIZE_DIGITS: u8 = 16;
/// Longest body that is believed. Whoever reads the length after us may count with a sign.
const MAX_LENGTH: u64 = i64::MAX as u64;

const CHUNKED: &[u8] = b"chunked";
const VERSION: &[u8] = b"HTTP/1.";
/// The longest name that matters is `transfer-encoding`; one byte more tells a longer one from it.
const NAME: usize = 18;

/// What is wrong with a stream. Says nothing of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// A refusal: from here on the stream means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub why: Malformed,
    /// How many of the bytes at hand end messages that are whole; 0 if none does. Only these may be acted on.
    pub whole: usize,
    /// The offending message's head had been let pass before these bytes, so someone acts on it already.
    pub within: bool,
}

/// Where in a message the next byte stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a request line; one empty line is skipped (RFC 9112 section 2.2).
    #[default]
    Start,
    SkippedLf,
    Skipped,
    Method,
    TargetStart,
    Target,
    Version,
    VersionEnd,
    LineStart,
    Name,
    Value,
    LengthStart,
    Length,
    LengthEnd,
    CodingStart,
    Coding,
    CodingEnd,
    /// The LF of a request line or field line.
    LineLf,
    /// The LF of the empty line.
    EndLf,
    Body,
    SizeStart,
    Size,
    SizeLf,
    ExtensionStart,
    ExtensionName,
    ExtensionValueStart,
    ExtensionValue,
    Quoted,
    QuotedPair,
    QuotedEnd,
    Data,
    DataCr,
    DataLf,
    /// After the head of a CONNECT: whatever follows is not ours to read.
    Opaque,
    Refused,
}

/// Judges the bytes of one client connection, in the order and in the pieces in which they are read.
#[derive(Debug, Default)]
pub struct Gate {
    state: State,
    /// Bytes of the body, or of the chunk, that are still to come; or the number that is being read.
    left: u64,
    /// The method, then the beginning of each field name.
    name: [u8; NAME],
    /// Bytes in `name`; elsewhere a position in a fixed text.
    filled: u8,
    /// Bytes that a chunk's extension, or the trailer section, may still have.
    budget: u32,
    length: Option<u64>,
    coded: bool,
    host: bool,
    http_10: bool,
    connect: bool,
    /// The fields are trailers.
    trailers: bool,
    /// The head of the current message is complete.
    acting: bool,
    messages: u64,
}

/// Why `byte` may not stand where a line or a piece of text was to go on.
fn stray(byte: u8, otherwise: &'static str) -> Malformed {
    Malformed(match byte {
        b'\n' => "a line ends with a bare LF",
        b'\r' => "a CR stands alone",
        0 => "there is a NUL",
        _ => otherwise,
    })
}

impl Gate {
    /// Judges the next bytes. One read gives the same verdict as the same bytes one by one.
    ///
    /// # Errors
    /// They are, or lead to, no unambiguous HTTP/1.1. Every later call fails too.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let acting = self.acting;
        let (mut at, mut whole) = (0, 0);
        while at < bytes.len() {
            match self.step(&bytes[at..]) {
                Ok(taken) => at += taken,
                Err(why) => {
                    self.state = State::Refused;
                    return Err(Refused { why, whole, within: acting && whole == 0 });
                }
            }
            if self.state == State::Start {
                whole = at;
            }
        }
        Ok(())
    }

    /// Messages that were let pass to their end. The head of a CONNECT never ends one.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Takes one or more bytes of `rest`, which is not empty; or none, and changes the state.
    fn step(&mut self, rest: &[u8]) -> Result<usize, Malformed> {
        let byte = rest[0];
        let taken = match self.state {
            State::Start | State::Skipped | State::SkippedLf | State::Method | State::TargetStart | State::Target => {
                self.request_line(rest)?
            }
            State::Version | State::VersionEnd => self.version(byte)?,
            State::LineStart => match byte {
                b'\r' => self.go(State::EndLf),
                b' ' | b'\t' => return Err(Malformed("a field line begins with white space")),
                b':' => return Err(Malformed("a field has no name")),
                _ if is_token(byte) => {
                    self.filled = 0;
                    self.state = State::Name;
                    0
                }
                _ => return Err(stray(byte, "a field name has a character that it may not have")),
            },
            State::Name => self.name(rest)?,
            State::Value => match plain_run(rest, b' ') {
                0 if byte == b'\t' => 1,
                0 => self.line_end(byte, "a field value has a control character")?,
                run => run,
            },
            State::LengthStart | State::Length | State::LengthEnd => self.length(byte)?,
            State::CodingStart | State::Coding | State::CodingEnd => self.coding(byte)?,
            State::LineLf => self.lf(byte, State::LineStart)?,
            State::EndLf => {
                let taken = self.lf(byte, State::EndLf)?;
                self.section_ended()?;
                taken
            }
            State::Body => {
                let taken = self.skip(rest);
                if self.left == 0 {
                    self.message_ended();
                }
                taken
            }
            State::SizeStart | State::Size => self.size(byte)?,
            State::SizeLf => {
                let next = if self.left == 0 { State::LineStart } else { State::Data };
                self.trailers = self.left == 0;
                self.budget = MAX_TRAILERS;
                self.lf(byte, next)?
            }
            State::Data => {
                let taken = self.skip(rest);
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                taken
            }
            State::DataCr if byte == b'\r' => self.go(State::DataLf),
            State::DataLf if byte == b'\n' => self.go(State::SizeStart),
            State::DataCr | State::DataLf => return Err(Malformed("a chunk's data do not end with CRLF")),
            State::Opaque => rest.len(),
            State::Refused => return Err(Malformed("the stream was refused before")),
            _ => self.extension(byte)?,
        };
        if self.trailers {
            self.spend(taken, "the trailer section is too long")?;
        }
        Ok(taken)
    }

    /// Takes one byte.
    fn go(&mut self, next: State) -> usize {
        self.state = next;
        1
    }

    fn lf(&mut self, byte: u8, next: State) -> Result<usize, Malformed> {
        if byte == b'\n' { Ok(self.go(next)) } else { Err(Malformed("a CR stands alone")) }
    }

    /// A CR, which ends the line.
    fn line_end(&mut self, byte: u8, otherwise: &'static str) -> Result<usize, Malformed> {
        if byte == b'\r' { Ok(self.go(State::LineLf)) } else { Err(stray(byte, otherwise)) }
    }

    fn skip(&mut self, rest: &[u8]) -> usize {
        let taken = usize::try_from(self.left).map_or(rest.len(), |left| left.min(rest.len()));
        self.left -= taken as u64;
        taken
    }

    fn spend(&mut self, bytes: usize, otherwise: &'static str) -> Result<(), Malformed> {
        let left = u32::try_from(bytes).ok().and_then(|bytes| self.budget.checked_sub(bytes));
        self.budget = left.ok_or(Malformed(otherwise))?;
        Ok(())
    }

    /// Keeps as much of a name as is needed to know it.
    fn keep(&mut self, part: &[u8]) {
        let free = &mut self.name[usize::from(self.filled)..];
        let kept = part.len().min(free.len());
        free[..kept].copy_from_slice(&part[..kept]);
        self.filled += kept as u8; // at most NAME
    }

    fn kept(&self) -> &[u8] {
        &self.name[..usize::from(self.filled)]
    }

    fn request_line(&mut self, rest: &[u8]) -> Result<usize, Malformed> {
        const METHOD: &str = "the request line does not begin with a method";
        const TARGET: &str = "the request line is not a method, a target and a version with one space between";
        let byte = rest[0];
        Ok(match self.state {
            State::Start if byte == b'\r' => self.go(State::SkippedLf),
            State::SkippedLf => self.lf(byte, State::Skipped)?,
            State::Method => {
                let run = token_run(rest);
                self.keep(&rest[..run]);
                match rest.get(run) {
                    None => run,
                    Some(b' ') => {
                        self.connect = self.kept() == b"CONNECT";
                        self.state = State::TargetStart;
                        run + 1
                    }
                    Some(byte) => return Err(stray(*byte, METHOD)),
                }
            }
            State::TargetStart | State::Target => match plain_run(rest, b'!') {
                0 if byte == b' ' && self.state == State::Target => {
                    self.filled = 0;
                    self.go(State::Version)
                }
                0 => return Err(stray(byte, TARGET)),
                run => {
                    self.state = State::Target;
                    run
                }
            },
            // Start, or after the one empty line that is skipped.
            _ if is_token(byte) => {
                self.head_begins();
                0
            }
            _ => return Err(stray(byte, METHOD)),
        })
    }

    fn head_begins(&mut self) {
        self.state = State::Method;
        (self.filled, self.length) = (0, None);
        (self.coded, self.host, self.http_10, self.connect) = (false, false, false, false);
    }

    fn version(&mut self, byte: u8) -> Result<usize, Malformed> {
        const WRONG: &str = "the request line does not end with HTTP/1.1 or HTTP/1.0";
        if self.state == State::VersionEnd {
            return self.line_end(byte, WRONG);
        }
        match VERSION.get(usize::from(self.filled)) {
            Some(expected) if *expected == byte => {
                self.filled += 1;
                Ok(1)
            }
            None if matches!(byte, b'0' | b'1') => {
                self.http_10 = byte == b'0';
                Ok(self.go(State::VersionEnd))
            }
            Some(b'1') if byte == b'2' => Err(Malformed(
                "HTTP/2 is spoken over TLS, and on sidecars with prior knowledge; this connection speaks HTTP/1.1",
            )),
            _ => Err(stray(byte, WRONG)),
        }
    }

    fn name(&mut self, rest: &[u8]) -> Result<usize, Malformed> {
        let run = token_run(rest);
        self.keep(&rest[..run]);
        match rest.get(run) {
            None => return Ok(run),
            Some(b':') => {}
            Some(b' ' | b'\t') => return Err(Malformed("there is white space between a field's name and its colon")),
            Some(byte) => return Err(stray(*byte, "a field name has a character that it may not have")),
        }
        let name = self.kept();
        // By length first: nearly every name is told from these three by that.
        self.state = match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                if std::mem::replace(&mut self.host, true) {
                    return Err(Malformed("there is more than one Host"));
                }
                State::Value
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(Malformed("there is more than one Content-Length"));
                }
                self.left = 0;
                State::LengthStart
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if std::mem::replace(&mut self.coded, true) {
                    return Err(Malformed("there is more than one Transfer-Encoding"));
                }
                self.filled = 0;
                State::CodingStart
            }
            _ => return Ok(self.value_follows(run)),
        };
        if self.trailers {
            return Err(Malformed("a trailer section has a field that belongs in the head"));
        }
        Ok(run + 1)
    }

    fn value_follows(&mut self, run: usize) -> usize {
        self.state = State::Value;
        run + 1
    }

    fn length(&mut self, byte: u8) -> Result<usize, Malformed> {
        Ok(match (self.state, byte) {
            // It is sent on as it came, and there are recipients for whom 010 is eight.
            (State::Length, b'0'..=b'9') if self.left == 0 => {
                return Err(Malformed("the Content-Length has a leading zero"));
            }
            (State::LengthStart | State::Length, b'0'..=b'9') => {
                let longer = self.left.checked_mul(10).and_then(|n| n.checked_add(u64::from(byte - b'0')));
                self.left =
                    longer.filter(|n| *n <= MAX_LENGTH).ok_or(Malformed("the Content-Length is out of range"))?;
                self.go(State::Length)
            }
            (State::LengthStart, b' ' | b'\t') => 1,
            (State::Length | State::LengthEnd, b' ' | b'\t') => self.go(State::LengthEnd),
            (State::Length | State::LengthEnd, b'\r') => {
                self.length = Some(self.left);
                self.go(State::LineLf)
            }
            (State::LengthStart, b'\r') => return Err(Malformed("the Content-Length is empty")),
            _ => return Err(stray(byte, "the Content-Length is not one decimal number")),
        })
    }

    fn coding(&mut self, byte: u8) -> Result<usize, Malformed> {
        let at = usize::from(self.filled);
        Ok(match (self.state, byte) {
            (State::CodingStart | State::CodingEnd, b' ' | b'\t') => 1,
            (State::CodingStart | State::Coding, _)
                if CHUNKED.get(at).is_some_and(|b| b.eq_ignore_ascii_case(&byte)) =>
            {
                self.filled += 1;
                self.go(State::Coding)
            }
            (State::Coding, b' ' | b'\t') if at == CHUNKED.len() => self.go(State::CodingEnd),
            (State::Coding | State::CodingEnd, b'\r') if at == CHUNKED.len() => self.go(State::LineLf),
            (_, b'\n' | 0) => return Err(stray(byte, "")),
            _ => return Err(Malformed("the Transfer-Encoding is not just chunked")),
        })
    }

    /// After the empty line.
    fn section_ended(&mut self) -> Result<(), Malformed> {
        if self.trailers {
            self.message_ended();
            return Ok(());
        }
        if self.coded && self.length.is_some() {
            return Err(Malformed("there are both a Content-Length and a Transfer-Encoding"));
        }
        if self.coded && self.http_10 {
            return Err(Malformed("a request of HTTP/1.0 has a Transfer-Encoding"));
        }
        self.acting = true;
        match self.length {
            _ if self.connect => self.state = State::Opaque,
            _ if self.coded => self.state = State::SizeStart,
            Some(length @ 1..) => {
                self.left = length;
                self.state = State::Body;
            }
            Some(0) | None => self.message_ended(),
        }
        Ok(())
    }

    fn message_ended(&mut self) {
        self.state = State::Start;
        self.messages += 1;
        (self.acting, self.trailers) = (false, false);
    }

    fn size(&mut self, byte: u8) -> Result<usize, Malformed> {
        if self.state == State::SizeStart {
            (self.left, self.filled) = (0, 0);
        }
        let digit = (byte as char).to_digit(16);
        Ok(match (digit, byte) {
            (Some(_), _) if self.filled == MAX_SIZE_DIGITS => {
                return Err(Malformed("a chunk's size is out of range"));
            }
            (Some(digit), _) => {
                self.left = self.left << 4 | u64::from(digit);
                self.filled += 1;
                self.go(State::Size)
            }
            (None, b'\r') if self.filled > 0 => self.go(State::SizeLf),
            (None, b';') if self.filled > 0 => {
                self.budget = MAX_EXTENSION;
                self.go(State::ExtensionStart)
            }
            (None, b'\n') => return Err(stray(byte, "")),
            _ => return Err(Malformed("a chunk's size is not a hexadecimal number")),
        })
    }

    /// `;name`, `;name=token` or `;name="quoted"`, without the white space that RFC 9112 section 7.1.1 calls bad.
    fn extension(&mut self, byte: u8) -> Result<usize, Malformed> {
        self.spend(1, "a chunk's extension is too long")?;
        let next = match (self.state, byte) {
            (State::ExtensionStart | State::ExtensionName, _) if is_token(byte) => State::ExtensionName,
            (State::ExtensionName, b'=') => State::ExtensionValueStart,
            (State::ExtensionValueStart | State::ExtensionValue, _) if is_token(byte) => State::ExtensionValue,
            (State::ExtensionValueStart, b'"') | (State::QuotedPair, b'\t' | b' '..=b'~' | 0x80..) => State::Quoted,
            (State::Quoted, b'"') => State::QuotedEnd,
            (State::Quoted, b'\\') => State::QuotedPair,
            (State::Quoted, b'\t' | b' '..=b'~' | 0x80..) => State::Quoted,
            (State::ExtensionName | State::ExtensionValue | State::QuotedEnd, b';') => State::ExtensionStart,
            (State::ExtensionName | State::ExtensionValue | State::QuotedEnd, b'\r') => State::SizeLf,
            _ => return Err(stray(byte, "a chunk's extension is malformed")),
        };
        Ok(self.go(next))
    }
}

#[cfg(test)]
mod tests;
