//! The configuration: one TOML file in, one validated [`Model`] out, or every error with its place.
//!
//! [`schema`] is the file as written, names and types only; unknown keys are errors. [`resolve`]
//! turns it into the [`model`], in which every reference is an index, every default is filled in and
//! nothing contradicts anything. The rest of the program sees the model alone.

pub mod edit;
pub mod error;
pub mod model;
pub mod pattern;
pub mod plan;
mod resolve;
mod schema;
pub mod template;

use std::path::Path;

pub use error::{Error, Problem};
pub use model::Model;

/// Reads, parses and validates the configuration file.
///
/// # Errors
/// [`Error::Unreadable`] if the file can't be read, otherwise all problems found in it.
pub fn load(path: &Path) -> Result<Model, Error> {
    parse(path, &read(path)?)
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
mod tests;
