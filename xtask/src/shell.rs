//! Commands of the workspace.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use steerage_lab::{command, interrupt, process};

/// The workspace's directory.
pub fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// `cargo` with arguments, in the workspace.
///
/// Flags that `cargo run` set for this very program are taken out: they would make every other build
/// start anew.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        let inherited = name.starts_with("CARGO_PKG_")
            || matches!(&*name, "CARGO_MANIFEST_DIR" | "CARGO_MANIFEST_PATH" | "CARGO_CRATE_NAME");
        if inherited {
            command.env_remove(key);
        }
    }
    command
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs a command to its end with its output shown; a signal ends it too.
///
/// # Errors
/// If it can't start, fails, or a signal came.
pub fn run(command: &mut Command) -> Result<()> {
    let line = command::line(command);
    let mut child = command.spawn().with_context(|| format!("`{line}` cannot be started"))?;
    loop {
        if let Some(status) = child.try_wait()? {
            interrupt::check()?;
            if status.success() {
                return Ok(());
            }
            bail!("`{line}` failed ({})", process::describe(status));
        }
        if let Err(interrupted) = interrupt::check() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(interrupted);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Builds the daemon with full optimisation and gives its path.
///
/// # Errors
/// If it can't be built.
pub fn build_release() -> Result<PathBuf> {
    run(&mut cargo(&["build", "--release", "--package", "steerage", "--bin", "steerage"]))?;
    Ok(target().join("release/steerage"))
}

/// The path of a program on `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where administrators' programs live may be missing from a user's PATH.
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(program)).find(|p| p.is_file())
}

/// Fails unless this is root, with the command to type instead.
///
/// # Errors
/// If it is not.
pub fn need_root(what: &str, command: &str) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("{what} needs root; run `sudo -E env \"PATH=$PATH\" cargo xtask {command}`")
}
