//! What can be wrong with a configuration, and where.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// Why no configuration could be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("{}: cannot be read: {source}; check the path and its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file was read and is wrong.
    #[error("{}", display_all(path, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// At least one problem, in the order of their lines.
        problems: Vec<Problem>,
    },
    /// An option or a variable is wrong.
    #[error(transparent)]
    Override(#[from] super::overrides::Error),
}

fn display_all(path: &std::path::Path, problems: &[Problem]) -> String {
    let lines: Vec<String> =
        problems.iter().map(|problem| format!("{}:{problem}", path.display())).collect();
    lines.join("\n")
}

/// One problem: its place, what is wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1.
    pub line: usize,
    /// Column in the line, in characters from 1.
    pub column: usize,
    /// What is wrong, with the key's name, and what would be right.
    pub message: String,
}

impl Problem {
    /// A problem at a byte range of `text`.
    #[must_use]
    pub fn at(text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let before = &text[..text.floor_char_boundary(span.start.min(text.len()))];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
        }
    }

    /// A problem that the TOML reader found: syntax, a type, an unknown key or value.
    #[must_use]
    pub fn from_toml(text: &str, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or(0..0);
        let said = error.message();
        let message = match key_at(text, span.start) {
            Some(key) if !said.starts_with(&format!("{key}:")) => format!("{key}: {said}"),
            _ => said.to_owned(),
        };
        Self::at(text, span, message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// The key to the left of the value at `offset`, if the line has one.
fn key_at(text: &str, offset: usize) -> Option<&str> {
    let before = text.get(..offset)?;
    let start = before.rfind(['\n', '{', ',']).map_or(0, |at| at + 1);
    let key = before[start..].trim().strip_suffix('=')?.trim();
    (!key.is_empty()).then_some(key)
}
