//! Builds the kernel programs from `../ebpf` and leaves the object where `kernel::loader` embeds it.
//!
//! The object is a build of its own: another target, another toolchain (the standard library's
//! sources are needed), and none of the settings of the build that this script is part of. All
//! profiles share one target directory, so that the object is compiled once.
//!
//! - `STEERAGE_EBPF_OBJECT=path` embeds a prebuilt object instead.
//! - `STEERAGE_EBPF_TOOLCHAIN` names a rustup toolchain, or the root of an installation (`/usr`).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// Objects of the ebpf crate: the balancer's programs, the backends' program, and the wrapper that the
/// benchmark measures with.
const PROGRAMS: &str = "steerage";
const DECAP: &str = "decap";
const BENCH: &str = "bench";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for variable in ["STEERAGE_EBPF_OBJECT", "STEERAGE_EBPF_TOOLCHAIN", "STEERAGE_BUILD"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    describe();
    let out = PathBuf::from(variable("OUT_DIR"));
    let objects = match env::var_os("STEERAGE_EBPF_OBJECT") {
        Some(path) => prebuilt(Path::new(&path)),
        None => build(&out),
    };
    for (object, name) in [(&objects.programs, "steerage.o"), (&objects.decap, "decap.o")] {
        let embedded = out.join(name);
        if let Err(error) = fs::copy(object, &embedded) {
            fail(&format!("cannot copy {} to {}: {error}", object.display(), embedded.display()));
        }
    }
    // For the build script of the benchmark (`DEP_STEERAGE_EBPF_BENCH_OBJECT`).
    println!("cargo:bench_object={}", objects.bench.display());
}

/// What `steerage --version` says of the build.
fn describe() {
    let build = env::var("STEERAGE_BUILD")
        .unwrap_or_else(|_| format!("{}, a developer's build", variable("CARGO_PKG_VERSION")));
    let compiler = Command::new(variable("RUSTC")).arg("--version").output();
    let compiler = compiler.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    println!("cargo:rustc-env=STEERAGE_BUILD={build}");
    println!("cargo:rustc-env=STEERAGE_COMPILER={}", compiler.unwrap_or_default());
    println!("cargo:rustc-env=STEERAGE_TARGET={}", variable("TARGET"));
}

struct Objects {
    programs: PathBuf,
    decap: PathBuf,
    bench: PathBuf,
}

fn prebuilt(path: &Path) -> Objects {
    println!("cargo:rerun-if-changed={}", path.display());
    if !path.is_file() {
        fail(&format!("STEERAGE_EBPF_OBJECT names no file: {}", path.display()));
    }
    let beside = |name| path.with_file_name(name);
    let (decap, bench) = (beside(DECAP), beside(BENCH));
    if !decap.is_file() {
        fail(&format!("there is no {} beside the object", decap.display()));
    }
    Objects { programs: path.to_owned(), decap, bench }
}

fn build(out: &Path) -> Objects {
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")).join("..");
    for path in ["ebpf/Cargo.toml", "ebpf/src", "common/Cargo.toml", "common/src"] {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    let linker = find_linker().unwrap_or_else(|| {
        fail("bpf-linker is in neither PATH nor cargo's bin directory");
    });
    let toolchain = Toolchain::find().unwrap_or_else(|| {
        fail("no Rust toolchain here has the standard library's sources (rust-src)");
    });
    let target = match variable("CARGO_CFG_TARGET_ENDIAN").as_str() {
        "big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    // <target>/<profile>/build/<package>/out
    let target_dir = out.ancestors().nth(4).unwrap_or(out).join("ebpf");
    let flags = [
        "-Cdebuginfo=2".to_owned(),
        // Since Linux 5.12: 32-bit registers, atomics.
        "-Ctarget-cpu=v3".to_owned(),
        format!("-Clinker={}", linker.display()),
        "-Clink-arg=--btf".to_owned(),
        // Addresses in packets are not aligned; where the hardware copes, plain loads are faster.
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".to_owned(),
        // Copies and fills of a few bytes become stores, not calls of a loop over bytes.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        format!("--cfg=bpf_target_arch=\"{}\"", variable("CARGO_CFG_TARGET_ARCH")),
    ];
    let mut cargo = toolchain.cargo();
    cargo
        .current_dir(root.join("ebpf"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .args(["build", "--quiet", "--release", "--locked", "--bins", "-Zbuild-std=core"])
        .args(["--target", target, "--target-dir"])
        .arg(&target_dir);
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("building the kernel programs failed ({status}): {cargo:?}")),
        Err(error) => fail(&format!("cannot run {cargo:?}: {error}")),
    }
    let built = target_dir.join(target).join("release");
    Objects { programs: built.join(PROGRAMS), decap: built.join(DECAP), bench: built.join(BENCH) }
}

/// A compiler with the sources that `-Zbuild-std` needs.
enum Toolchain {
    /// By its name in rustup.
    Rustup(String),
    /// By the paths of its programs.
    Programs { cargo: PathBuf, rustc: PathBuf },
}

impl Toolchain {
    fn find() -> Option<Self> {
        if let Ok(chosen) = env::var("STEERAGE_EBPF_TOOLCHAIN") {
            return Some(match Path::new(&chosen) {
                root if root.is_absolute() => Self::installed(root),
                _ => Self::Rustup(chosen),
            });
        }
        Self::nightly().or_else(Self::current).or_else(|| {
            let root = Path::new("/usr");
            has_sources(root).then(|| Self::installed(root))
        })
    }

    fn installed(root: &Path) -> Self {
        Self::Programs { cargo: root.join("bin/cargo"), rustc: root.join("bin/rustc") }
    }

    /// A nightly of rustup's, if it has the sources.
    fn nightly() -> Option<Self> {
        let list = output(clean("rustup").args(["toolchain", "list"]))?;
        let names = list.lines().filter_map(|line| line.split_whitespace().next());
        let with_sources = |name: &&str| {
            let sysroot = output(clean("rustup").args(["run", name, "rustc", "--print=sysroot"]));
            sysroot.is_some_and(|path| has_sources(Path::new(path.trim())))
        };
        names
            .filter(|name| name.starts_with("nightly"))
            .find(with_sources)
            .map(|name| Self::Rustup(name.to_owned()))
    }

    /// The toolchain of this very build, if it has the sources.
    fn current() -> Option<Self> {
        let rustc = PathBuf::from(env::var_os("RUSTC")?);
        let sysroot = output(Command::new(&rustc).arg("--print=sysroot"))?;
        let root = Path::new(sysroot.trim());
        has_sources(root).then(|| Self::installed(root))
    }

    fn cargo(&self) -> Command {
        let mut command = match self {
            Self::Rustup(name) => {
                let mut command = clean("rustup");
                command.args(["run", name, "cargo"]);
                command
            }
            Self::Programs { cargo, rustc } => {
                let mut command = clean(cargo);
                command.env("RUSTC", rustc);
                command
            }
        };
        // Harmless on a nightly; on a stable compiler it allows what this target needs.
        command.env("RUSTC_BOOTSTRAP", "1");
        command
    }
}

fn has_sources(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
}

/// A command that inherits nothing of this build: no flags, wrappers, target or toolchain.
fn clean(program: impl AsRef<std::ffi::OsStr>) -> Command {
    const KEPT: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "RUSTUP_HOME",
    ];
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let is_of_a_build = ["CARGO", "RUST", "CLIPPY", "MAKEFLAGS", "MFLAGS", "__CARGO"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if is_of_a_build && !KEPT.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

fn find_linker() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    env::split_paths(&path)
        .chain(cargo_home.into_iter().chain(home).map(|home| home.join("bin")))
        .map(|directory| directory.join("bpf-linker"))
        .find(|file| file.is_file())
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| fail(&format!("cargo set no {name}")))
}

fn fail(what: &str) -> ! {
    eprintln!(
        "{what}\n\n\
         The kernel programs need a Rust toolchain with rust-src and bpf-linker.\n\
         `cargo xtask setup` installs them or says what is missing;\n\
         STEERAGE_EBPF_OBJECT=path uses an object that was built elsewhere."
    );
    exit(1)
}
