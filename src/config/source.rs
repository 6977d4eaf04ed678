//! Text to [`File`], with every complaint and the line of every key.
//!
//! serde stops at its first error. Here what it stumbled over is noted and taken out, and reading begins
//! again, until nothing is left to complain of: an operator mends a file in one go.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::File;
use super::{Complaint, Refused};

/// More complaints than this help nobody, and each costs one pass.
const MAX_COMPLAINTS: usize = 100;

/// Where the keys of a file stand.
#[derive(Debug)]
pub(super) struct Source {
    file: Option<PathBuf>,
    places: Vec<Place>,
    /// The same by path: ten thousand tables ask for their lines.
    lines: HashMap<String, usize>,
    /// Every path that was resolved.
    named: RefCell<Vec<PathBuf>>,
    /// What reading complained of already.
    pub(super) complaints: Vec<Complaint>,
}

#[derive(Debug)]
struct Place {
    /// `listeners[0].listen`
    path: String,
    /// Of the key; none for an element of an array.
    key: Option<Range<usize>>,
    value: Range<usize>,
    line: usize,
}

impl Source {
    /// No file: the defaults.
    pub(super) fn none() -> Self {
        Self {
            file: None,
            places: Vec::new(),
            lines: HashMap::new(),
            named: RefCell::default(),
            complaints: Vec::new(),
        }
    }

    /// The file, if there is one.
    pub(super) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Relative paths start at the file's folder.
    pub(super) fn resolve(&self, path: &Path) -> PathBuf {
        let path = match self.file.as_deref().and_then(Path::parent) {
            Some(folder) => folder.join(path),
            None => path.to_owned(),
        };
        self.named.borrow_mut().push(path.clone());
        path
    }

    /// Every file and folder that was named so far.
    pub(super) fn named(self) -> Vec<PathBuf> {
        self.named.into_inner()
    }

    /// The line of a key; that of its table if the key is not there.
    pub(super) fn line(&self, key: &str) -> Option<usize> {
        std::iter::successors(Some(key), |key| key.rfind(['.', '[']).map(|end| &key[..end]))
            .find_map(|key| self.lines.get(key))
            .copied()
    }

    /// A complaint about a key of the file.
    pub(super) fn complaint(&self, key: &str, what: impl Into<String>, remedy: impl Into<String>) -> Complaint {
        Complaint {
            file: self.file.clone(),
            line: self.line(key),
            key: key.to_owned(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// Whether reading complained of this key or of one inside it.
    pub(super) fn complained_of(&self, key: &str) -> bool {
        self.complaints
            .iter()
            .any(|c| c.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])))
    }

    /// The key or array element that an error points at: the exact one, else the innermost around it.
    fn place_at(&self, span: &Range<usize>) -> Option<&Place> {
        let exact = self.places.iter().find(|p| p.key.as_ref() == Some(span) || p.value == *span);
        exact.or_else(|| {
            let around = |p: &&Place| p.value.start <= span.start && span.end <= p.value.end;
            self.places.iter().filter(around).min_by_key(|p| p.value.len())
        })
    }

    fn index_table(&mut self, table: &DeTable<'_>, prefix: &str, text: &Text) {
        for (key, value) in table {
            let path =
                if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
            self.index_value(value, path, Some(key.span()), text);
        }
    }

    fn index_value(&mut self, value: &Spanned<DeValue<'_>>, path: String, key: Option<Range<usize>>, text: &Text) {
        let at = key.as_ref().map_or(value.span().start, |key| key.start);
        let line = text.line(at);
        self.lines.entry(path.clone()).or_insert(line);
        self.places.push(Place { path: path.clone(), key, value: value.span(), line });
        match value.get_ref() {
            DeValue::Table(table) => self.index_table(table, &path, text),
            DeValue::Array(array) => {
                for (i, element) in array.iter().enumerate() {
                    self.index_value(element, format!("{path}[{i}]"), None, text);
                }
            }
            _ => {}
        }
    }
}

/// Where the lines of a text end.
struct Text(Vec<usize>);

impl Text {
    fn new(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect())
    }

    /// The line, from 1, in which this byte stands.
    fn line(&self, offset: usize) -> usize {
        1 + self.0.partition_point(|end| *end < offset)
    }
}

/// Reads the text of `path`. What serde refuses is in [`Source::complaints`], and left out of the [`File`].
///
/// # Errors
/// Only where the text is not TOML: every such place.
pub(super) fn read(text: &str, path: &Path) -> Result<(File, Source), Refused> {
    let mut source = Source { file: Some(path.to_owned()), ..Source::none() };
    let lines = Text::new(text);
    let (mut document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let mut complaints: Vec<Complaint> = Vec::new();
        for error in errors.iter().take(MAX_COMPLAINTS) {
            let line = error.span().map(|span| lines.line(span.start));
            // What follows the first error of a line is mostly its echo.
            if complaints.iter().any(|c| c.line == line) {
                continue;
            }
            complaints.push(Complaint {
                file: source.file.clone(),
                line,
                key: String::new(),
                what: format!("this is not TOML: {}", error.message()),
                remedy: "mend the line; strings stand in quotes, tables in [brackets]".to_owned(),
            });
        }
        return Err(Refused(complaints));
    }
    source.index_table(document.get_ref(), "", &lines);
    while source.complaints.len() < MAX_COMPLAINTS {
        let error = match File::deserialize(toml::de::Deserializer::from(document.clone())) {
            Ok(file) => return Ok((file, source)),
            Err(error) => error,
        };
        let (what, remedy) = explain(error.message());
        let Some(place) = error.span().and_then(|span| source.place_at(&span)) else {
            source.complaints.push(source.complaint("", what, remedy));
            break;
        };
        let (key, value) = (place.key.clone(), place.value.clone());
        let complaint = Complaint { line: Some(place.line), ..source.complaint(&place.path, what, remedy) };
        source.complaints.push(complaint);
        if !remove(document.get_mut(), key.as_ref(), &value) {
            break;
        }
    }
    Err(Refused(source.complaints))
}

/// Takes the key out (for an element of an array, the key that holds the array: elements keep their numbers).
fn remove(table: &mut DeTable<'_>, key: Option<&Range<usize>>, value: &Range<usize>) -> bool {
    let here = table.iter().find(|(k, v)| match key {
        Some(key) => k.span() == *key,
        None => v.get_ref().as_array().is_some_and(|array| array.iter().any(|e| e.span() == *value)),
    });
    if let Some(found) = here.map(|(k, _)| k.clone()) {
        return table.remove(&found).is_some();
    }
    table.iter_mut().any(|(_, v)| remove_below(v, key, value))
}

fn remove_below(item: &mut Spanned<DeValue<'_>>, key: Option<&Range<usize>>, value: &Range<usize>) -> bool {
    match item.get_mut() {
        DeValue::Table(table) => remove(table, key, value),
        DeValue::Array(array) => array.iter_mut().any(|element| remove_below(element, key, value)),
        _ => false,
    }
}

/// serde's words as what is wrong and what to do; the value that was written is left out.
fn explain(message: &str) -> (String, String) {
    let (found, expected) = message.rsplit_once(", expected ").unwrap_or((message, ""));
    let words = || expected.trim_start_matches("one of ").replace('`', "");
    if found.starts_with("unknown field") {
        return ("unknown key".to_owned(), format!("the keys known here are: {}", words()));
    }
    if found.starts_with("unknown variant") {
        return ("unknown value".to_owned(), format!("write one of: {}", words()));
    }
    let what = match found.strip_prefix("invalid type: ") {
        // The first words name the type, the value follows in quotes or back-ticks.
        Some(found) => format!("is of the wrong type ({})", found.split(['`', '"']).next().unwrap_or_default().trim()),
        None if found.starts_with("invalid value") => "is not a value that can be used".to_owned(),
        None => return ("cannot be read".to_owned(), "see config/egret.toml for every key and its form".to_owned()),
    };
    let remedy = match expected {
        "a sequence" => "write an array, as in [\"…\"]",
        "a map" => "write a table, as in { … }",
        "a boolean" => "write true or false",
        "a string" | "path string" => "write a string in quotes",
        "usize" | "u16" => "write a whole number",
        other if other.starts_with("struct ") => "write a table, as in { … }",
        other => return (what, format!("write {other}")),
    };
    (what, remedy.to_owned())
}
