//! The configuration: one TOML file in, one validated [`Model`] out, or every error with its place.
//!
//! [`schema`] is the file as written, names and types only; unknown keys are errors. [`resolve`]
//! turns it into the [`model`], in which every reference is an index, every default is filled in and
//! nothing contradicts anything. The rest of the program sees the model alone.
//! What command line and environment say ([`overrides`]) is put into the text before that.

pub mod edit;
pub mod error;
mod keys;
pub mod model;
pub mod overrides;
pub mod pattern;
pub mod plan;
mod resolve;
mod schema;
pub mod schema_json;
pub mod template;
pub mod token;

use std::path::{Path, PathBuf};

pub use error::{Error, Problem};
pub use model::Model;
pub use overrides::Overrides;

use overrides::ApplyError;

/// Where a configuration comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// What holds whatever it says.
    pub overrides: Overrides,
}

impl Source {
    /// Reads, parses and validates the configuration.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if the file can't be read, otherwise all problems found in it.
    pub fn load(&self) -> Result<Model, Error> {
        self.parse(&read(&self.path)?)
    }

    /// Parses and validates a text as if the file held it.
    ///
    /// # Errors
    /// All problems found in `text`, or the first one that an override makes.
    pub fn parse(&self, text: &str) -> Result<Model, Error> {
        let all = self.overrides.len();
        match self.overrides.apply(text, all) {
            Err(ApplyError::Text) => parse(&self.path, text),
            Err(ApplyError::Override(error)) => Err(error.into()),
            Ok(overridden) => parse(&self.path, &overridden).or_else(|error| {
                // The file's own mistakes have lines in it; if it has none, an override makes one.
                parse(&self.path, text)?;
                Err(self.blame(text).unwrap_or(error))
            }),
        }
    }

    /// The error of the first override with which the text is wrong.
    fn blame(&self, text: &str) -> Option<Error> {
        (0..self.overrides.len()).find_map(|index| {
            let overridden = self.overrides.apply(text, index + 1).ok()?;
            let Err(Error::Invalid { problems, .. }) = parse(&self.path, &overridden) else {
                return None;
            };
            let told: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
            Some(self.overrides.error(index, told.join("; ")).into())
        })
    }
}

/// Reads the configuration file.
///
/// # Errors
/// [`Error::Unreadable`].
pub fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path)
        .map_err(|source| Error::Unreadable { path: path.to_owned(), source })
}

/// Parses and validates a configuration; `path` is for messages.
///
/// # Errors
/// All problems found in `text`.
pub fn parse(path: &Path, text: &str) -> Result<Model, Error> {
    let invalid = |problems| Error::Invalid { path: path.to_owned(), problems };
    let file: schema::File =
        toml::from_str(text).map_err(|error| invalid(vec![Problem::from_toml(text, &error)]))?;
    // What the file names is beside it.
    let directory = path.parent().unwrap_or(Path::new(""));
    resolve::resolve(text, directory, file).map_err(invalid)
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
