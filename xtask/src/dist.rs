//! `cargo xtask dist`: what operators install.
//!
//! - `steerage_VERSION_ARCH.deb`: the binary, the systemd unit, the default configuration, manual pages,
//!   completions, documents. The maintainer scripts in `packaging/debian` make the workers' user, and put
//!   a new version in the running one's place without closing a connection.
//! - `steerage-VERSION-ARCH.tar.gz`: the same files without the scripts.
//! - `steerage-VERSION.cdx.json`: every crate that is inside, with version, licence and checksum
//!   (CycloneDX 1.6).
//!
//! Packages are made by `dpkg-deb`, what they depend on is found by `dpkg-shlibdeps`. Manual pages and
//! completions are written by the binary itself, from the definitions that parse its command line.

mod bom;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use steerage_lab::command;

use crate::setup::{self, Purpose};
use crate::shell;

/// What to make.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Package this binary instead of building one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// The packages' version; by default the crate's.
    #[arg(long)]
    release: Option<String>,
    /// Where to put them; by default `target/dist`.
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

/// Files of the repository and where they are installed.
const FILES: &[(&str, &str, u32)] = &[
    ("packaging/steerage.service", "usr/lib/systemd/system/steerage.service", 0o644),
    ("packaging/steerage.sysusers", "usr/lib/sysusers.d/steerage.conf", 0o644),
    ("packaging/steerage.tmpfiles", "usr/lib/tmpfiles.d/steerage.conf", 0o644),
    ("packaging/steerage.toml", CONFIGURATION, 0o640),
    ("packaging/grafana/steerage.json", "usr/share/steerage/grafana/steerage.json", 0o644),
    (
        "packaging/prometheus/steerage.rules.yml",
        "usr/share/steerage/prometheus/steerage.rules.yml",
        0o644,
    ),
    ("README.md", "usr/share/doc/steerage/README.md", 0o644),
    ("LICENSE-MIT", "usr/share/doc/steerage/LICENSE-MIT", 0o644),
    ("LICENSE-APACHE", "usr/share/doc/steerage/LICENSE-APACHE", 0o644),
];

/// What an upgrade of the package leaves as the operator has written it.
const CONFIGURATION: &str = "etc/steerage/steerage.toml";

/// What the files need that no library is.
const TOOLS: &str = "adduser | systemd";

/// `cargo xtask dist`.
///
/// # Errors
/// If something can't be built or written.
pub fn command(options: &Options) -> Result<()> {
    setup::ensure(Purpose::Dist)?;
    let version = options.release.clone().unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned());
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => build(&version)?,
    };
    let out = options.out.clone().unwrap_or_else(|| shell::target().join("dist"));
    fs::create_dir_all(&out)?;
    let architecture = said(Command::new("dpkg").arg("--print-architecture"))?;
    let tree = out.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    fill(&tree, &binary)?;
    let archive = out.join(format!("steerage-{version}-{architecture}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args(["--owner=root", "--group=root", "--sort=name", "-czf"]).arg(&archive);
    command::output(tar.arg("-C").arg(&tree).arg("."))?;
    let package = out.join(format!("steerage_{version}_{architecture}.deb"));
    control(&tree, &version, &architecture)?;
    let mut deb = Command::new("dpkg-deb");
    command::output(
        deb.args(["--root-owner-group", "-Zzstd", "--build"]).arg(&tree).arg(&package),
    )?;
    let bom = out.join(format!("steerage-{version}.cdx.json"));
    bom::write(&bom, &version)?;
    fs::remove_dir_all(&tree)?;
    for made in [package, archive, bom] {
        println!("{}", made.display());
    }
    Ok(())
}

fn build(version: &str) -> Result<PathBuf> {
    let commit = said(Command::new("git").args(["rev-parse", "--short=12", "HEAD"]))?;
    let mut cargo = shell::cargo(&["build", "--release", "--package", "steerage", "--locked"]);
    shell::run(cargo.env("STEERAGE_BUILD", format!("{version}, commit {commit}")))?;
    Ok(shell::target().join("release/steerage"))
}

/// Puts everything where it is installed.
fn fill(tree: &Path, binary: &Path) -> Result<()> {
    let place = |from: &Path, to: &str, mode: u32| {
        let to = tree.join(to);
        fs::create_dir_all(to.parent().unwrap_or(tree))?;
        fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
        anyhow::Ok(to)
    };
    let installed = place(binary, "usr/bin/steerage", 0o755)?;
    command::output(Command::new("strip").arg("--strip-debug").arg(&installed))?;
    for (from, to, mode) in FILES {
        place(&shell::root().join(from), to, *mode)?;
    }
    for document in fs::read_dir(shell::root().join("docs"))? {
        let path = document?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        place(&path, &format!("usr/share/doc/steerage/{name}"), 0o644)?;
    }
    let mut generate = Command::new(&installed);
    generate.args(["generate", "--into"]).arg(tree.join("usr/share"));
    command::output(&mut generate)?;
    for page in fs::read_dir(tree.join("usr/share/man/man8"))? {
        command::output(Command::new("gzip").arg("-9n").arg(page?.path()))?;
    }
    Ok(())
}

/// Writes what `dpkg-deb` wants to know.
fn control(tree: &Path, version: &str, architecture: &str) -> Result<()> {
    let debian = tree.join("DEBIAN");
    fs::create_dir_all(&debian)?;
    for script in ["postinst", "prerm", "postrm"] {
        let to = debian.join(script);
        fs::copy(shell::root().join("packaging/debian").join(script), &to)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(debian.join("conffiles"), format!("/{CONFIGURATION}\n"))?;
    let libraries = libraries(tree)?;
    let size = said(Command::new("du").args(["-sk", "--exclude=DEBIAN"]).arg(tree))?;
    let size = size.split_whitespace().next().unwrap_or("0").to_owned();
    let text = format!(
        "Package: steerage\nVersion: {version}\nArchitecture: {architecture}\n\
         Maintainer: The Steerage developers <steerage@localhost>\nInstalled-Size: {size}\n\
         Depends: {libraries}, {TOOLS}\nSection: net\nPriority: optional\n\
         Description: L4 and L7 load balancer on eBPF/XDP\n \
         Steers the packets of L4 services in XDP, terminates HTTP and TLS for L7 services in\n \
         worker processes, and decides for both by one shared health bitmap.\n"
    );
    fs::write(debian.join("control"), text)?;
    Ok(())
}

/// The packages of the libraries that the binary was linked with.
fn libraries(tree: &Path) -> Result<String> {
    let scratch = tree.with_file_name("shlibdeps");
    fs::create_dir_all(scratch.join("debian"))?;
    fs::write(
        scratch.join("debian/control"),
        "Source: steerage\n\nPackage: steerage\nArchitecture: any\n",
    )?;
    let mut tool = Command::new("dpkg-shlibdeps");
    tool.arg("-O").arg(fs::canonicalize(tree.join("usr/bin/steerage"))?);
    let said = said(tool.current_dir(&scratch));
    fs::remove_dir_all(&scratch)?;
    match said?.lines().find_map(|line| line.strip_prefix("shlibs:Depends=")) {
        Some(libraries) => Ok(libraries.to_owned()),
        None => bail!("dpkg-shlibdeps names no library that the binary needs"),
    }
}

/// What a command says, without the line's end.
fn said(command: &mut Command) -> Result<String> {
    Ok(command::output(command)?.trim().to_owned())
}
