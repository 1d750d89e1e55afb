//! Configurations of nginx and HAProxy, as far as they have a counterpart here.
//!
//! A file is read by its own grammar ([`nginx`], [`haproxy`]), and becomes a [`draft::Draft`]: tables of
//! this configuration, with remarks where something is left out or means something else. Rules of which
//! the first one counts become routes of which the most specific one does ([`rules`]). Nothing is
//! dropped in silence, and what was refused there is not let through here: a location whose content
//! can't be had answers 501.

mod draft;
mod expression;
mod haproxy;
mod nginx;
mod remark;
mod route;
mod rules;

use std::path::{Path, PathBuf};

use remark::Place;
pub use remark::{Remark, Weight};

/// Whose configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// `nginx.conf`.
    Nginx,
    /// `haproxy.cfg`.
    Haproxy,
}

/// What became of a file.
#[derive(Debug)]
pub struct Imported {
    /// The configuration, remarks as comments in it.
    pub text: String,
    /// The remarks, by their places.
    pub remarks: Vec<Remark>,
}

/// Why a file is none that can be imported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It, or one that it includes, could not be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It breaks the grammar.
    #[error("{place}: {what}")]
    Syntax {
        /// Where.
        place: Place,
        /// How.
        what: String,
    },
    /// It serves nothing.
    #[error("{}: serves nothing that could be imported", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Whose file this seems to be.
#[must_use]
pub fn kind_of(path: &Path) -> Kind {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.contains("haproxy") || name.ends_with(".cfg") { Kind::Haproxy } else { Kind::Nginx }
}

/// Imports a file.
///
/// # Errors
/// If it can't be read, is none of that kind, or serves nothing.
pub fn import(path: &Path, kind: Kind) -> Result<Imported, Error> {
    let draft = match kind {
        Kind::Nginx => nginx::import(path)?,
        Kind::Haproxy => haproxy::import(path)?,
    };
    if draft.listeners.is_empty() {
        return Err(Error::Empty { path: path.to_owned() });
    }
    Ok(Imported { text: draft.text(), remarks: draft.remarks() })
}

/// Milliseconds as a time of the configuration; it has limits of its own.
fn millis(ms: u64) -> String {
    const WEEK_MS: u64 = 7 * 24 * 3600 * 1000;
    match ms.clamp(1, WEEK_MS) {
        ms if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

/// A file that another one names, from wherever the configuration will be.
fn file_beside(directory: &Path, file: &str) -> String {
    let path = directory.join(file);
    std::path::absolute(&path).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests;
