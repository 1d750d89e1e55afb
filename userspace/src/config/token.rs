//! The token that orders on the metrics address are given with: it is in a file of its own, so it is in no
//! configuration that is shown.

use std::io;
use std::path::Path;

use zeroize::Zeroizing;

/// A token that could be guessed is none.
const BYTES_MIN: usize = 16;

/// What a header field takes easily.
const BYTES_MAX: usize = 1024;

/// Why a file gives no token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// What it holds is none.
    #[error(
        "holds no token: write {BYTES_MIN} to {BYTES_MAX} characters in one line, as \
         `openssl rand -hex 32` does"
    )]
    Content,
}

/// Reads a token.
///
/// # Errors
/// If there is none in the file.
pub fn read(path: &Path) -> Result<Zeroizing<String>, Error> {
    let text = Zeroizing::new(std::fs::read_to_string(path)?);
    let token = text.trim();
    let is_plain = token.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_plain || !(BYTES_MIN..=BYTES_MAX).contains(&token.len()) {
        return Err(Error::Content);
    }
    Ok(Zeroizing::new(token.to_owned()))
}
