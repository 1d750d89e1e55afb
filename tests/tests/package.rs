//! What operators install: a package that can be installed, upgraded under load and purged.
//!
//! Done on a copy of this host's root (an overlay over it, in a mount namespace and a network namespace of
//! its own), by `dpkg` itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::Command;

use steerage_lab::command;
use steerage_lab::daemon;
use steerage_lab::netns::Netns;
use steerage_lab::scratch::Scratch;
use steerage_tests::stand::PREFIX;

/// Makes the package of a version, of the binary under test.
fn package(version: &str, out: &Path) -> String {
    let mut xtask = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    xtask.args(["run", "--quiet", "--package", "xtask", "--", "dist", "--release", version]);
    xtask.arg("--binary").arg(daemon::binary().unwrap()).arg("--out").arg(out);
    let made = command::output(&mut xtask).unwrap();
    made.lines().find(|line| line.ends_with(".deb")).expect("a package").to_owned()
}

#[test]
fn a_package_is_installed_upgraded_under_load_and_purged() {
    let scratch = Scratch::new(PREFIX).unwrap();
    let netns = Netns::create(format!("{PREFIX}-package-{}", std::process::id())).unwrap();
    let packages = ["1.0.0", "1.0.1"].map(|version| package(version, &scratch.join(version)));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/package.sh");
    let mut journey = netns.command("unshare");
    journey.args(["--mount", "sh", "-eu"]).arg(script).arg(scratch.path()).args(&packages);
    let told = command::output(&mut journey).unwrap();
    println!("{told}");
    assert!(told.contains("requests failed: 0\n"), "{told}");
    assert!(told.ends_with("nothing is left\n"), "{told}");
}
