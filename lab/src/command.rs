//! Running one command to its end.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs the command and gives its standard output.
///
/// # Errors
/// With the command line and what it wrote to stderr, if it can't start or fails.
pub fn output(command: &mut Command) -> Result<String> {
    let output = finish(command)?;
    if !output.status.success() {
        bail!(
            "`{}` failed ({}): {}",
            line(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs the command and gives all it wrote, whether it succeeded or not.
///
/// # Errors
/// With the command line, if it can't start.
pub fn finish(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("`{}` cannot be started", line(command)))
}

/// Runs a program with arguments; see [`output`].
///
/// # Errors
/// As [`output`].
pub fn run<A: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<String> {
    output(Command::new(program).args(arguments))
}

/// Runs `ip` with the words of `arguments`.
///
/// # Errors
/// As [`output`].
pub fn ip(arguments: &str) -> Result<String> {
    run("ip", arguments.split_whitespace())
}

/// The command line as one would type it.
#[must_use]
pub fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
