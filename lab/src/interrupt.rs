//! SIGINT, SIGTERM and SIGHUP as a flag that every wait looks at.
//!
//! The signal ends no process by itself: the wait under way returns [`Interrupted`], the error
//! travels up, and on its way every `Drop` removes what was made.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};

static RAISED: AtomicBool = AtomicBool::new(false);

/// The error of a wait that a signal ended.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted by a signal")
    }
}

impl std::error::Error for Interrupted {}

/// Turns the signals into the flag, for the rest of the process.
///
/// # Errors
/// If the handler can't be installed.
pub fn install() -> Result<()> {
    ctrlc::set_handler(|| RAISED.store(true, Ordering::SeqCst)).context("signal handler")
}

/// Whether a signal came.
#[must_use]
pub fn raised() -> bool {
    RAISED.load(Ordering::SeqCst)
}

/// An error once a signal came.
///
/// # Errors
/// [`Interrupted`].
pub fn check() -> Result<()> {
    if raised() { Err(Interrupted.into()) } else { Ok(()) }
}
