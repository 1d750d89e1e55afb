//! Finding or installing what the build, the demo, the tests and the benchmarks need.
//!
//! A requirement is looked for in the file system alone, so that a machine that has everything is
//! told apart in milliseconds and without a network. On Debian as root what is missing is installed;
//! anywhere else the exact commands are printed.
//!
//! The eBPF compiler is chosen as `userspace/build.rs` does it: `STEERAGE_EBPF_TOOLCHAIN`; a rustup
//! nightly with `rust-src`; the active toolchain with `rust-src`; the distribution's in `/usr` with
//! its library's source. With `STEERAGE_EBPF_OBJECT` no compiler is needed at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// The bpf-linker that is known to work with LLVM 22.
const LINKER_VERSION: &str = "0.13.0";
/// The cargo-deny that the lints of licences and sources were written for.
const DENY_VERSION: &str = "0.20.2";
/// Where the kernel shows pinned maps.
const BPFFS: &str = "/sys/fs/bpf";

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Build the daemon.
    Build,
    /// Build and show it.
    Demo,
    /// Build and check it.
    Check,
    /// Build, check and test it.
    Test,
    /// Build and measure it.
    Bench,
    /// Build and package it.
    Dist,
}

/// One thing that is needed.
struct Requirement {
    what: &'static str,
    purposes: &'static [Purpose],
    found: Found,
    remedy: Remedy,
}

/// How to see whether it is there.
enum Found {
    /// A program of this name is on PATH.
    OnPath,
    By(fn() -> bool),
}

/// How it comes here.
enum Remedy {
    /// A package of this name.
    Package(&'static str),
    /// On Debian packages, then a step of our own; elsewhere a command to type.
    Steps {
        packages: &'static [&'static str],
        install: Option<fn() -> Result<()>>,
        by_hand: &'static str,
    },
}

use Purpose::{Bench, Build, Check, Demo, Dist, Test};

const REQUIREMENTS: &[Requirement] = &[
    Requirement {
        what: "a Rust compiler with its library's source (for eBPF)",
        purposes: &[Build, Demo, Check, Test, Bench, Dist],
        found: Found::By(|| compiler().is_some()),
        remedy: Remedy::Steps {
            packages: &["rustc-web", "cargo-web", "rust-web-src"],
            install: None,
            by_hand: "rustup toolchain install nightly --component rust-src",
        },
    },
    Requirement {
        what: "bpf-linker (of the same LLVM as that compiler)",
        purposes: &[Build, Demo, Check, Test, Bench, Dist],
        found: Found::By(has_linker),
        remedy: Remedy::Steps {
            packages: &["llvm-22-dev", "libzstd-dev", "zlib1g-dev"],
            install: Some(install_linker),
            by_hand: "cargo install bpf-linker --version 0.13.0",
        },
    },
    program("ip", "iproute2", &[Demo, Test, Bench]),
    program("ethtool", "ethtool", &[Demo, Test, Bench]),
    program("curl", "curl", &[Demo, Test]),
    program("ping", "iputils-ping", &[Test]),
    program("dig", "bind9-dnsutils", &[Test]),
    program("traceroute", "traceroute", &[Test]),
    program("bpftool", "bpftool", &[Demo, Test]),
    program("tcpdump", "tcpdump", &[Test]),
    program("tshark", "tshark", &[Test]),
    program("nsenter", "util-linux", &[Demo, Test, Bench]),
    program("dpkg-shlibdeps", "dpkg-dev", &[Test, Dist]),
    program("taskset", "util-linux", &[Bench]),
    program("wrk", "wrk", &[Bench]),
    program("h2load", "nghttp2-client", &[Test, Bench]),
    program("nginx", "nginx-light", &[Test, Bench]),
    program("haproxy", "haproxy", &[Test, Bench]),
    program("bird", "bird2", &[Test]),
    program("openssl", "openssl", &[Test, Bench]),
    program("node", "nodejs", &[Test]),
    program("chromium", "chromium", &[Test]),
    program("promtool", "prometheus", &[Test]),
    program("prometheus", "prometheus", &[Test]),
    Requirement {
        what: "Python with the clients that tests use",
        purposes: &[Test],
        found: Found::By(has_python_clients),
        remedy: Remedy::Steps {
            packages: &["python3-venv"],
            install: Some(install_python_clients),
            by_hand: "python3 -m venv target/python && \
                      target/python/bin/pip install -r tests/clients/requirements.txt",
        },
    },
    Requirement {
        what: "cargo-deny",
        purposes: &[Check, Test],
        found: Found::By(|| cargo_program("cargo-deny").is_some()),
        remedy: Remedy::Steps {
            packages: &[],
            install: Some(install_deny),
            by_hand: "cargo install cargo-deny --locked",
        },
    },
    Requirement {
        what: "the BPF filesystem on /sys/fs/bpf",
        purposes: &[Demo, Test],
        found: Found::By(has_bpffs),
        remedy: Remedy::Steps {
            packages: &[],
            install: Some(mount_bpffs),
            by_hand: "mount -t bpf bpf /sys/fs/bpf",
        },
    },
];

const fn program(
    what: &'static str,
    package: &'static str,
    purposes: &'static [Purpose],
) -> Requirement {
    Requirement { what, purposes, found: Found::OnPath, remedy: Remedy::Package(package) }
}

impl Requirement {
    fn is_met(&self) -> bool {
        match self.found {
            Found::OnPath => shell::find(self.what).is_some(),
            Found::By(look) => look(),
        }
    }

    fn packages(&self) -> Vec<&'static str> {
        match &self.remedy {
            Remedy::Package(name) => vec![name],
            Remedy::Steps { packages, .. } => packages.to_vec(),
        }
    }

    /// What to type where it is not installed by itself.
    fn by_hand(&self) -> String {
        match &self.remedy {
            Remedy::Package(name) => format!("{}: package {name}", self.what),
            Remedy::Steps { by_hand, .. } => format!("{}: `{by_hand}`", self.what),
        }
    }
}

/// `cargo xtask setup`.
///
/// # Errors
/// If something is missing and can't be installed.
pub fn command(all: bool) -> Result<()> {
    let started = Instant::now();
    ensure(Build)?;
    if all {
        for purpose in [Demo, Test, Bench] {
            ensure(purpose)?;
        }
    }
    let what = if all { "everything" } else { "all that the build needs" };
    let compiler = compiler().unwrap_or_default();
    println!(
        "{what} is here ({:.1} s); eBPF compiler: {compiler}",
        started.elapsed().as_secs_f32()
    );
    Ok(())
}

/// Sees to it that all is there for `purpose`.
///
/// # Errors
/// With the commands to type, if something is missing and can't be installed here.
pub fn ensure(purpose: Purpose) -> Result<()> {
    let missing: Vec<&Requirement> = REQUIREMENTS
        .iter()
        .filter(|need| need.purposes.contains(&purpose) && !need.is_met())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|need| need.what).collect();
    println!("missing: {}", names.join("; "));
    let debian = Path::new("/etc/debian_version").exists() && shell::find("apt-get").is_some();
    let root = rustix::process::geteuid().is_root();
    if !(debian && root) {
        bail!("{}", by_hand(&missing, debian));
    }
    install_packages(missing.iter().flat_map(|need| need.packages()).collect())?;
    for need in &missing {
        if let Remedy::Steps { install: Some(install), .. } = need.remedy {
            install()?;
        }
        if !need.is_met() {
            bail!("{} was installed and still is not found; is its directory on PATH?", need.what);
        }
    }
    Ok(())
}

/// What to type, one line a thing.
fn by_hand(missing: &[&Requirement], debian: bool) -> String {
    let mut lines = vec!["install what is missing:".to_owned()];
    lines.extend(missing.iter().map(|need| format!("  {}", need.by_hand())));
    if debian {
        lines.push("or let `cargo xtask setup --all` do it as root".to_owned());
    }
    lines.join("\n")
}

fn install_packages(mut packages: Vec<&str>) -> Result<()> {
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    println!("installing: {}", packages.join(" "));
    apt(&["update", "-q"])?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    // Run level 1 keeps packages from starting their services on this machine.
    command.env("RUNLEVEL", "1");
    shell::run(&mut command)
}

/// A program of cargo's, which may have just been installed to a directory that is not on PATH.
fn cargo_program(name: &str) -> Option<PathBuf> {
    let installed = cargo_home().join("bin").join(name);
    shell::find(name).or_else(|| installed.is_file().then_some(installed))
}

fn cargo_home() -> PathBuf {
    home_of("CARGO_HOME", ".cargo")
}

fn home_of(variable: &str, directory: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    std::env::var_os(variable).map_or_else(|| home().join(directory), PathBuf::from)
}

fn set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// Which compiler the eBPF build will take, if there is one.
fn compiler() -> Option<String> {
    if set("STEERAGE_EBPF_OBJECT") {
        return Some("not needed, STEERAGE_EBPF_OBJECT is set".into());
    }
    if let Ok(toolchain) = std::env::var("STEERAGE_EBPF_TOOLCHAIN") {
        return Some(toolchain);
    }
    let toolchains = fs::read_dir(home_of("RUSTUP_HOME", ".rustup").join("toolchains"));
    let nightly = toolchains.into_iter().flatten().flatten().find(|entry| {
        entry.file_name().to_string_lossy().starts_with("nightly") && has_source(&entry.path())
    });
    if let Some(nightly) = nightly {
        return Some(nightly.file_name().to_string_lossy().into_owned());
    }
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().ok();
    let sysroot = sysroot.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    if let Some(active) = sysroot.filter(|path| has_source(Path::new(path))) {
        return Some(active);
    }
    let usr = Path::new("/usr");
    let whole = usr.join("bin/cargo").exists() && usr.join("bin/rustc").exists() && has_source(usr);
    whole.then(|| "/usr".into())
}

fn has_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
}

fn has_linker() -> bool {
    set("STEERAGE_EBPF_OBJECT")
        || set("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER")
        || cargo_program("bpf-linker").is_some()
}

fn install_linker() -> Result<()> {
    println!("building bpf-linker {LINKER_VERSION} (about a minute)");
    const LLVM: &str = "/usr/lib/llvm-22";
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = shell::cargo(&["install", "--locked", "bpf-linker", "--version"]);
    command.args([LINKER_VERSION, "--no-default-features", "--features", "llvm-22"]);
    command.env("PATH", format!("{LLVM}/bin:{path}"));
    command.env("LLVM_PREFIX", LLVM).env("LLVM_SYS_221_PREFIX", LLVM);
    shell::run(&mut command)
}

fn install_deny() -> Result<()> {
    println!("building cargo-deny {DENY_VERSION} (some minutes)");
    let mut command = shell::cargo(&["install", "--locked", "cargo-deny", "--version"]);
    command.arg(DENY_VERSION);
    // Its own speed does not matter, that of its compilation does.
    command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1").env("CARGO_PROFILE_RELEASE_LTO", "off");
    command.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    shell::run(&mut command)
}

/// What the clients in Python need.
fn python_requirements() -> PathBuf {
    shell::root().join("tests/clients/requirements.txt")
}

/// The copy that says what is installed.
fn python_installed() -> PathBuf {
    shell::target().join("python/installed.txt")
}

fn has_python_clients() -> bool {
    let wanted = fs::read(python_requirements());
    wanted.is_ok_and(|wanted| fs::read(python_installed()).is_ok_and(|there| there == wanted))
}

fn install_python_clients() -> Result<()> {
    let environment = shell::target().join("python");
    shell::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    shell::run(pip.arg(python_requirements()))?;
    fs::copy(python_requirements(), python_installed())
        .context("what was installed cannot be noted")?;
    Ok(())
}

fn has_bpffs() -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some(BPFFS) && words.next() == Some("bpf")
    })
}

fn mount_bpffs() -> Result<()> {
    println!("mounting the BPF filesystem on {BPFFS}");
    shell::run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]))
        .context("the BPF filesystem cannot be mounted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_names_every_missing_thing() {
        let all: Vec<&Requirement> = REQUIREMENTS.iter().collect();
        let text = by_hand(&all, false);
        for need in REQUIREMENTS {
            assert!(text.contains(need.what), "{text}");
        }
        assert!(text.contains("package iproute2") && text.contains("rust-src"), "{text}");
    }
}
