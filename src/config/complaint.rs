//! What is wrong with a configuration, said so that it can be mended.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong (or worth saying): where, what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The file; none for a flag, an environment variable or a default.
    pub file: Option<PathBuf>,
    /// Its line, from 1.
    pub line: Option<usize>,
    /// The key with its path (`listeners[0].listen`), or the flag.
    pub key: String,
    /// What is wrong. Never the value that was written.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// A configuration that egret does not start with; every complaint, one per line when displayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct Refused(pub Vec<Complaint>);

fn lines(complaints: &[Complaint]) -> String {
    complaints.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
