//! JSON bodies, read so that every fault is told at once and no value is ever copied where it is not wiped.
//!
//! serde's own messages hold pieces of the input, and its string decoder keeps a scratch copy of every
//! string with an escape in it, which is every PEM. So serde_json only finds the values here; the text of a
//! value is decoded by [`unescape`], straight into memory that is wiped.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::problem::{Detail, Problem};

/// No body of this API has more.
const MAX_FIELDS: usize = 64;
/// A longer name is not repeated: it may be a value in the wrong place (a line of PEM has 64 characters).
const MAX_NAME: usize = 40;

/// The fields of one JSON object. Take what the endpoint knows, then [`Fields::finish`].
pub(super) struct Fields<'a> {
    entries: Vec<(String, &'a RawValue)>,
    known: Vec<String>,
    missing: Vec<Detail>,
    faults: Vec<Detail>,
    /// `team.` in a nested object, `config[3].` in one of a list.
    prefix: String,
    /// The same as a JSON pointer: `/team`, `/config/3`.
    place: String,
    /// Whether fields that nobody asks for are ignored.
    lenient: bool,
}

impl<'a> Fields<'a> {
    /// Finds the fields of a body.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Problem> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(Problem::bad_request("the body is empty; send a JSON object"));
        }
        let Entries(entries) = serde_json::from_slice(body).map_err(|error| {
            Problem::bad_request(match error.classify() {
                Category::Syntax | Category::Eof | Category::Io => {
                    format!("the body is not valid JSON; look at line {}, column {}", error.line(), error.column())
                }
                Category::Data => format!("the body must be a JSON object with at most {MAX_FIELDS} fields"),
            })
        })?;
        Ok(Self::of(entries, String::new(), String::new(), false))
    }

    fn of(entries: Vec<(String, &'a RawValue)>, prefix: String, place: String, lenient: bool) -> Self {
        Self { entries, known: Vec::new(), missing: Vec::new(), faults: Vec::new(), prefix, place, lenient }
    }

    /// The same, in which fields that nobody asks for are no fault.
    pub(super) fn lenient(self) -> Self {
        Self { lenient: true, ..self }
    }

    /// Whether the field is there and not taken yet.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(n, _)| n == name)
    }

    /// Whether it is there, not taken yet, and a string.
    pub(super) fn has_text(&self, name: &str) -> bool {
        self.entries.iter().any(|(n, raw)| n == name && is_text(raw.get()))
    }

    /// Whether it is there, not taken yet, and `null`.
    pub(super) fn is_null(&self, name: &str) -> bool {
        self.entries.iter().any(|(n, raw)| n == name && raw.get() == "null")
    }

    /// A string that must be there. What is given back without it is empty and never gets past [`Fields::finish`].
    pub(super) fn text(&mut self, name: &str) -> Zeroizing<String> {
        self.must_have(name);
        self.optional_text(name).unwrap_or_default()
    }

    /// A string that may be left out; `null` is not a string.
    pub(super) fn optional_text(&mut self, name: &str) -> Option<Zeroizing<String>> {
        let raw = self.take(name)?;
        let text = is_text(raw).then(|| unescape(raw)).flatten();
        if text.is_none() {
            self.wrong(name, raw, "a string");
        }
        text
    }

    /// A string or `null`, one of which must be there.
    pub(super) fn text_or_null(&mut self, name: &str) -> Option<Zeroizing<String>> {
        match self.entries.iter().find(|(n, _)| n == name) {
            Some((_, raw)) if raw.get() == "null" => {
                self.take(name);
                None
            }
            Some((_, raw)) if !is_text(raw.get()) => {
                let raw = self.take(name)?;
                self.wrong(name, raw, "a string or null");
                None
            }
            _ => Some(self.text(name)),
        }
    }

    /// A string that may be left out or `null`, which is the same.
    pub(super) fn optional_text_or_null(&mut self, name: &str) -> Option<Zeroizing<String>> {
        if self.has(name) { self.text_or_null(name) } else { self.optional_text(name) }
    }

    /// `true` or `false`; `false` if left out.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        self.optional_flag(name).unwrap_or(false)
    }

    /// `true` or `false`, if it is there.
    pub(super) fn optional_flag(&mut self, name: &str) -> Option<bool> {
        match self.take(name)? {
            "false" => Some(false),
            "true" => Some(true),
            raw => {
                self.wrong(name, raw, "true or false");
                None
            }
        }
    }

    /// `true` or `false`, one of which must be there. What is given back without it never gets past [`Fields::finish`].
    pub(super) fn required_flag(&mut self, name: &str) -> bool {
        self.must_have(name);
        self.flag(name)
    }

    /// `true`, `false` or `null`, one of which must be there; as [`Fields::required_flag`] without it.
    pub(super) fn flag_or_null(&mut self, name: &str) -> Option<bool> {
        self.must_have(name);
        match self.take(name)? {
            "false" => Some(false),
            "true" => Some(true),
            "null" => None,
            raw => {
                self.wrong(name, raw, "true, false or null");
                None
            }
        }
    }

    /// A list of at most `most` objects, which must be there. Their faults come back through [`Fields::absorb`].
    pub(super) fn objects(&mut self, name: &str, most: usize) -> Vec<Fields<'a>> {
        self.must_have(name);
        let Some(raw) = self.take(name) else { return Vec::new() };
        let Ok(list) = serde_json::from_str::<Vec<&'a RawValue>>(raw) else {
            self.wrong(name, raw, "an array");
            return Vec::new();
        };
        if list.len() > most {
            self.fault(name, format_args!("has more than {most} entries"));
            return Vec::new();
        }
        let mut objects = Vec::with_capacity(list.len());
        for (at, raw) in list.into_iter().enumerate() {
            let (prefix, place) = (format!("{}{name}[{at}].", self.prefix), format!("{}/{name}/{at}", self.place));
            match serde_json::from_str::<Entries<'a>>(raw.get()) {
                Ok(Entries(entries)) if raw.get().starts_with('{') => {
                    objects.push(Fields::of(entries, prefix, place, self.lenient));
                }
                _ => self.wrong_at(&format!("{name}[{at}]"), &format!("{name}/{at}"), raw.get(), "an object"),
            }
        }
        objects
    }

    /// A list of at most `most` strings that may be left out.
    pub(super) fn optional_texts(&mut self, name: &str, most: usize) -> Option<Vec<String>> {
        let raw = self.take(name)?;
        match serde_json::from_str::<Vec<&RawValue>>(raw) {
            Ok(list) if list.len() > most => self.fault(name, format_args!("has more than {most} entries")),
            Ok(list) if list.iter().all(|text| is_text(text.get())) => {
                let texts: Option<Vec<_>> = list.iter().map(|text| unescape(text.get())).collect();
                match texts {
                    Some(texts) => return Some(texts.iter().map(|text| text.to_string()).collect()),
                    None => self.fault(name, "has a string that is not valid Unicode"),
                }
            }
            Ok(_) => {
                let message = format!("{}{name} must be an array of strings and nothing else", self.prefix);
                self.note(name, None, message);
            }
            Err(_) => self.wrong(name, raw, "an array of strings"),
        }
        None
    }

    /// A whole number of `unit` from `least` to `most` that may be left out.
    pub(super) fn optional_number(&mut self, name: &str, least: u64, most: u64, unit: &str) -> Option<u64> {
        let raw = self.take(name)?;
        if !raw.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            self.wrong(name, raw, "a number");
            return None;
        }
        let number = raw.parse().ok().filter(|n| (least..=most).contains(n));
        if number.is_none() {
            self.fault(name, format_args!("must be {least} to {most} {unit}"));
        }
        number
    }

    /// An object that may be left out. Its faults come back through [`Fields::absorb`].
    pub(super) fn object(&mut self, name: &str) -> Option<Fields<'a>> {
        let raw = self.take(name)?;
        match serde_json::from_str::<Entries<'a>>(raw) {
            Ok(Entries(entries)) if raw.starts_with('{') => {
                let (prefix, place) = (format!("{}{name}.", self.prefix), format!("{}/{name}", self.place));
                Some(Fields::of(entries, prefix, place, self.lenient))
            }
            _ => {
                self.wrong(name, raw, "an object");
                None
            }
        }
    }

    /// Takes over what was wrong in a nested object.
    pub(super) fn absorb(&mut self, mut inner: Fields<'_>) {
        inner.note_unknown();
        self.missing.append(&mut inner.missing);
        self.faults.append(&mut inner.faults);
    }

    /// Notes a fault of a value that was taken.
    pub(super) fn fault(&mut self, name: &str, what: impl fmt::Display) {
        let message = format!("{}{name}: {what}", self.prefix);
        self.note(name, None, message);
    }

    /// As [`Fields::fault`], under a number of the dialect.
    pub(super) fn numbered_fault(&mut self, name: &str, number: u16, what: impl fmt::Display) {
        let message = format!("{}{name}: {what}", self.prefix);
        self.note(name, Some(number), message);
    }

    /// Where a field stands, as a JSON pointer.
    pub(super) fn pointer(&self, name: &str) -> String {
        format!("{}/{name}", self.place)
    }

    /// All that is wrong, in one refusal.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        self.note_unknown();
        let mut parts = Vec::new();
        if !self.missing.is_empty() {
            let plural = if self.missing.len() == 1 { "" } else { "s" };
            let names: Vec<_> = self.missing.iter().map(|missing| missing.message.as_str()).collect();
            parts.push(format!("missing field{plural}: {}", names.join(", ")));
        }
        parts.extend(self.faults.iter().map(|fault| fault.message.clone()));
        if parts.is_empty() {
            return Ok(());
        }
        let missing = self.missing.into_iter().map(|detail| {
            let message = format!("{}: is missing; the body needs it", detail.message);
            Detail { message, ..detail }
        });
        Err(Problem::faulty(parts.join("; "), missing.chain(self.faults).collect()))
    }

    fn note_unknown(&mut self) {
        for (name, _) in std::mem::take(&mut self.entries) {
            let plain = name.len() <= MAX_NAME && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let fault = if self.known.contains(&name) {
                format!("{}{name} is given twice", self.prefix)
            } else if self.lenient {
                continue;
            } else if plain && !name.is_empty() {
                format!("unknown field {}{name} (known: {})", self.prefix, self.known.join(", "))
            } else {
                format!("there is an unknown field (known: {})", self.known.join(", "))
            };
            if !self.faults.iter().any(|noted| noted.message == fault) {
                self.faults.push(Detail { message: fault, number: None, pointer: None });
            }
        }
    }

    fn must_have(&mut self, name: &str) {
        if !self.has(name) {
            let missing = format!("{}{name}", self.prefix);
            self.missing.push(Detail { message: missing, number: None, pointer: Some(self.pointer(name)) });
        }
    }

    fn note(&mut self, name: &str, number: Option<u16>, message: String) {
        self.faults.push(Detail { message, number, pointer: Some(self.pointer(name)) });
    }

    fn take(&mut self, name: &str) -> Option<&'a str> {
        self.known.push(name.to_owned());
        let at = self.entries.iter().position(|(n, _)| n == name)?;
        Some(self.entries.remove(at).1.get())
    }

    fn wrong(&mut self, name: &str, raw: &str, wanted: &str) {
        self.wrong_at(name, name, raw, wanted);
    }

    fn wrong_at(&mut self, name: &str, place: &str, raw: &str, wanted: &str) {
        let found = match raw.as_bytes().first() {
            Some(b'"') => "a string",
            Some(b'{') => "an object",
            Some(b'[') => "an array",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            _ => "a number",
        };
        let fault =
            if found == wanted { "is not valid Unicode".to_owned() } else { format!("must be {wanted}, not {found}") };
        let message = format!("{}{name} {fault}", self.prefix);
        self.note(place, None, message);
    }
}

fn is_text(raw: &str) -> bool {
    raw.starts_with('"')
}

/// The text of a JSON string (RFC 8259 section 7) whose syntax serde_json has checked already.
/// `None` for half a surrogate pair.
fn unescape(raw: &str) -> Option<Zeroizing<String>> {
    let mut rest = raw.strip_prefix('"')?.strip_suffix('"')?;
    // No text is longer than its escaped form: the buffer never moves, so no copy stays behind.
    let mut text = Zeroizing::new(String::with_capacity(rest.len()));
    while let Some(at) = rest.find('\\') {
        let (plain, escape) = rest.split_at(at);
        text.push_str(plain);
        let kind = *escape.as_bytes().get(1)?;
        let mut used = 2;
        text.push(match kind {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = |at: usize| u16::from_str_radix(escape.get(at..at + 4)?, 16).ok();
                let first = unit(2)?;
                used = 6;
                match char::from_u32(first.into()) {
                    Some(c) => c,
                    None => {
                        if escape.get(6..8)? != "\\u" {
                            return None;
                        }
                        used = 12;
                        char::decode_utf16([first, unit(8)?]).next()?.ok()?
                    }
                }
            }
            other => char::from(other),
        });
        rest = escape.get(used..)?;
    }
    text.push_str(rest);
    Some(text)
}

/// Names and values of an object, in order, doubles included.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Entries<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    if entries.len() == MAX_FIELDS {
                        return Err(A::Error::custom("too many fields"));
                    }
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests;
