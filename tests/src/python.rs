//! Clients in Python, with the libraries that `cargo xtask setup --all` installed for them.

use std::path::{Path, PathBuf};

/// The interpreter.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn interpreter() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| directory().join("../../target"));
    let python = target.join("python/bin/python");
    assert!(python.exists(), "{} is missing: run `cargo xtask setup --all`", python.display());
    python
}

/// A client's script.
#[must_use]
pub fn client(name: &str) -> PathBuf {
    directory().join(name)
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}
