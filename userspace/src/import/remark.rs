//! What is to be said of a directive: that it has no counterpart, or another meaning, and what to do.

use std::fmt;
use std::sync::Arc;

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// How much a remark matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// The directive has no effect here, and had one there.
    LeftOut,
    /// It is there, and means something else in some case.
    Differs,
    /// What it asks for is so anyway, or is nobody's business here.
    Unneeded,
}

impl Weight {
    /// In a remark's text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeftOut => "left out",
            Self::Differs => "differs",
            Self::Unneeded => "not needed",
        }
    }
}

/// A remark on one directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Where it is.
    pub place: Place,
    /// The directive, as it is written, or its beginning.
    pub directive: String,
    /// How much that matters.
    pub weight: Weight,
    /// Why, and what to do instead.
    pub why: String,
}

/// A directive that is longer is cut off in remarks.
const DIRECTIVE_CHARS_MAX: usize = 60;

impl Remark {
    /// A remark; words are those of the directive.
    #[must_use]
    pub fn new(place: &Place, words: &[&str], weight: Weight, why: impl Into<String>) -> Self {
        let mut directive = words.join(" ").replace(char::is_control, " ");
        if let Some((end, _)) = directive.char_indices().nth(DIRECTIVE_CHARS_MAX) {
            directive.truncate(end);
            directive.push('…');
        }
        let why = why.into().replace(char::is_control, " ");
        Self { place: place.clone(), directive, weight, why }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, directive, weight, why } = self;
        write!(f, "{place}: {directive}: {}: {why}", weight.name())
    }
}
