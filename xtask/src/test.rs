//! `cargo xtask test`: everything.
//!
//! The host steps share one target directory and profile, so that most is compiled once; only loom
//! has its own, because its `--cfg` would make every other step start anew.

use anyhow::Result;

use crate::check::{self, Options, Step};
use crate::setup::{self, Purpose};
use crate::shell::{self, cargo};

/// `cargo xtask test`.
///
/// # Errors
/// If it is not root, or a step fails.
pub fn command(options: &Options) -> Result<()> {
    check::need_root()?;
    setup::ensure(Purpose::Test)?;
    check::run(steps(), options)
}

fn steps() -> Vec<Step> {
    let mut loom = cargo(&["test", "--release", "--package", "steerage-common", "--lib"]);
    loom.arg("--target-dir").arg(shell::target().join("loom")).env("RUSTFLAGS", "--cfg loom");
    loom.args(["--", "publish", "crowd"]);
    let mut unit = cargo(&["test", "--no-fail-fast", "--workspace"]);
    unit.args(["--exclude", "steerage-ebpf", "--exclude", SYSTEM]);
    let mut steps = check::steps();
    steps.push(Step { name: "unit", command: unit });
    steps.push(Step { name: "loom", command: loom });
    // The binary under test has its own step, so that a failure to build it is told apart.
    steps.push(Step { name: "build", command: cargo(&["build", "--package", "steerage"]) });
    steps.push(Step { name: "xdp", command: system(&["--test", "xdp*"]) });
    steps.push(Step { name: "system", command: system(&["--lib", "--bins", "--test", "[!x]*"]) });
    steps
}

/// The package of tests that need root.
const SYSTEM: &str = "steerage-tests";

/// Tests of the whole system, one at a time: they measure, and the machine is small.
fn system(targets: &[&str]) -> std::process::Command {
    let mut command = cargo(&["test", "--no-fail-fast", "--package", SYSTEM]);
    command.args(targets).args(["--", "--test-threads", "1"]);
    command
}
