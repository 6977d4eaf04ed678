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

use super::problem::Problem;

/// No body of this API has more.
const MAX_FIELDS: usize = 64;
/// A longer name is not repeated: it may be a value in the wrong place (a line of PEM has 64 characters).
const MAX_NAME: usize = 40;

/// The fields of one JSON object. Take what the endpoint knows, then [`Fields::finish`].
pub(super) struct Fields<'a> {
    entries: Vec<(String, &'a RawValue)>,
    known: Vec<String>,
    missing: Vec<String>,
    faults: Vec<String>,
    /// `team.` in a nested object.
    prefix: &'static str,
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
        Ok(Self { entries, known: Vec::new(), missing: Vec::new(), faults: Vec::new(), prefix: "" })
    }

    /// Whether the field is there and not taken yet.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(n, _)| n == name)
    }

    /// A string that must be there. What is given back without it is empty and never gets past [`Fields::finish`].
    pub(super) fn text(&mut self, name: &str) -> Zeroizing<String> {
        if !self.has(name) {
            self.missing.push(format!("{}{name}", self.prefix));
        }
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
            Ok(_) => self.faults.push(format!("{}{name} must be an array of strings and nothing else", self.prefix)),
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
    pub(super) fn object(&mut self, name: &str, prefix: &'static str) -> Option<Fields<'a>> {
        let raw = self.take(name)?;
        match serde_json::from_str::<Entries<'a>>(raw) {
            Ok(Entries(entries)) if raw.starts_with('{') => {
                Some(Fields { entries, known: Vec::new(), missing: Vec::new(), faults: Vec::new(), prefix })
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
        self.faults.push(format!("{}{name}: {what}", self.prefix));
    }

    /// All that is wrong, in one refusal.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        self.note_unknown();
        let mut faults = Vec::new();
        if !self.missing.is_empty() {
            let plural = if self.missing.len() == 1 { "" } else { "s" };
            faults.push(format!("missing field{plural}: {}", self.missing.join(", ")));
        }
        faults.append(&mut self.faults);
        if faults.is_empty() { Ok(()) } else { Err(Problem::bad_request(faults.join("; "))) }
    }

    fn note_unknown(&mut self) {
        for (name, _) in &self.entries {
            let plain = name.len() <= MAX_NAME && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let fault = if self.known.contains(name) {
                format!("{}{name} is given twice", self.prefix)
            } else if plain && !name.is_empty() {
                format!("unknown field {}{name} (known: {})", self.prefix, self.known.join(", "))
            } else {
                format!("there is an unknown field (known: {})", self.known.join(", "))
            };
            if !self.faults.contains(&fault) {
                self.faults.push(fault);
            }
        }
    }

    fn take(&mut self, name: &str) -> Option<&'a str> {
        self.known.push(name.to_owned());
        let at = self.entries.iter().position(|(n, _)| n == name)?;
        Some(self.entries.remove(at).1.get())
    }

    fn wrong(&mut self, name: &str, raw: &str, wanted: &str) {
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
        self.faults.push(format!("{}{name} {fault}", self.prefix));
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
mod tests {
    use super::*;

    fn said(result: Result<(), Problem>) -> String {
        format!("{:?}", result.expect_err("must be refused"))
    }

    #[test]
    fn takes_what_is_known() {
        let body = br#"{"a": "x\ny\u00e9\ud83d\ude00\\\"\/", "b": true, "c": null, "t": {"id": "team_1"}}"#;
        let mut fields = Fields::parse(body).unwrap();
        assert_eq!(*fields.text("a"), "x\ny\u{e9}\u{1f600}\\\"/");
        assert!(fields.flag("b"));
        assert!(fields.text_or_null("c").is_none());
        assert!(fields.optional_text("d").is_none());
        let mut team = fields.object("t", "t.").unwrap();
        assert_eq!(*team.text("id"), "team_1");
        fields.absorb(team);
        fields.finish().unwrap();
    }

    #[test]
    fn names_every_missing_field_at_once() {
        let mut fields = Fields::parse(b"{}").unwrap();
        let _ = (fields.text("cert"), fields.text("key"), fields.text_or_null("certId"));
        let said = said(fields.finish());
        assert!(said.contains("missing fields: cert, key, certId"), "{said}");
    }

    #[test]
    fn names_every_fault_and_no_value() {
        let body = br#"{"cert": 1234567, "skip": "SECRET", "origin": null, "t": [1], "half": "SECRET\ud800", "extra": "SECRET",
            "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7": 1, "cert": "SECRET"}"#;
        let mut fields = Fields::parse(body).unwrap();
        let _ = (fields.text("cert"), fields.flag("skip"), fields.optional_text("origin"), fields.text("half"));
        assert!(fields.object("t", "t.").is_none());
        let said = said(fields.finish());
        for part in [
            "cert must be a string, not a number",
            "skip must be true or false, not a string",
            "origin must be a string, not null",
            "t must be an object, not an array",
            "half is not valid Unicode",
            "unknown field extra (known: cert, skip, origin, half, t)",
            "there is an unknown field",
            "cert is given twice",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
        for value in ["SECRET", "1234567", "MII", "missing"] {
            assert!(!said.contains(value), "{value} in {said}");
        }
    }

    #[test]
    fn says_where_the_json_breaks_and_shows_none_of_it() {
        for (body, place) in [
            (&b"{\"key\":\n \"SECRET"[..], "line 2, column"),
            (b"SECRET", "line 1, column 1"),
            (b"{\"a\": \"\xff\"}", "line 1, column"),
            (b"{} {}", "line 1, column 4"),
            (b"{\"a\": \"\n\"}", "line 1, column 7"),
            (b"[1]", "must be a JSON object"),
            (b"\"SECRET\"", "must be a JSON object"),
            (b" \n", "the body is empty"),
        ] {
            let said = format!("{:?}", Fields::parse(body).err().expect("must be refused"));
            assert!(said.contains(place) && !said.contains("SECRET"), "{place} in {said}");
        }
    }

    #[test]
    fn bounds_the_number_of_fields() {
        let many: Vec<String> = (0..=MAX_FIELDS).map(|n| format!("\"f{n}\":1")).collect();
        assert!(Fields::parse(format!("{{{}}}", many.join(",")).as_bytes()).is_err());
    }
}
