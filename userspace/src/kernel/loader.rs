//! Loading the object: first everything that could be wrong is looked at, then maps are opened or
//! made, then the programs are loaded. Nothing is attached here.

use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, MapError};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use steerage_common::abi::SCHEMA_VERSION;

use super::layout::Expected;
use super::{Error, Options};
use crate::config::model::LogLevel;

/// The kernel programs, built by the build script or given by `STEERAGE_EBPF_OBJECT`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steerage.o"));

/// `BPF_F_MMAPABLE`, ring buffers, links, 32-bit atomics, `bpf_ktime_get_coarse_ns`, and the
/// `bpf_fib_lookup` that checks lengths.
const KERNEL_NEEDED: (u8, u8, &str) = (5, 15, "5.15");

/// Where the maps of an instance are pinned.
pub fn map_directory(instance_dir: &Path) -> PathBuf {
    instance_dir.join(format!("v{SCHEMA_VERSION}"))
}

/// Opens a pinned map of an instance, apart from the programs.
pub fn open<T: TryFrom<Map, Error = MapError>>(
    instance_dir: &Path,
    name: &'static str,
    kind: impl FnOnce(MapData) -> Map,
) -> Result<T, Error> {
    let map = MapData::from_pin(map_directory(instance_dir).join(name));
    T::try_from(kind(map.map_err(Error::map(name))?)).map_err(Error::map(name))
}

/// Opens or makes the maps of the instance, and loads the programs.
pub fn load(options: &Options) -> Result<Ebpf, Error> {
    check_kernel()?;
    let sizes = [
        ("CELLS", options.cells.max(1)),
        ("CLIENTS", options.cells.max(1)),
        ("FLOWS", options.max_flows.max(1)),
        ("NATS", options.max_flows.max(1)),
        ("SOURCES", options.max_sources.max(1)),
    ];
    let expected = Expected::of(OBJECT, &sizes)?;
    let directory = map_directory(&options.instance_dir);
    check_bpffs(&directory)?;
    fs::create_dir_all(&directory)
        .map_err(Error::io(format!("creating {}", directory.display())))?;
    expected.check(&directory)?;
    let level = aya_level(options.log_level);
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, &level, false);
    for (name, size) in sizes {
        loader.map_max_entries(name, size);
    }
    for name in expected.names() {
        loader.map_pin_path(name, directory.join(name));
    }
    loader.load(OBJECT).map_err(Error::load)
}

/// Whether the kernel is new enough for the programs.
///
/// # Errors
/// If it is not, with both versions.
pub fn check_kernel() -> Result<(), Error> {
    let (major, minor, needed) = KERNEL_NEEDED;
    match KernelVersion::current() {
        Ok(version) if version < KernelVersion::new(major, minor, 0) => {
            let found = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
            Err(Error::OldKernel { found: found.trim().to_owned(), needed })
        }
        _ => Ok(()),
    }
}

/// Pins need a BPF file system: the nearest existing parent of `directory` must be on one.
fn check_bpffs(directory: &Path) -> Result<(), Error> {
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(directory);
    let kind = nix::sys::statfs::statfs(existing).map(|stat| stat.filesystem_type());
    match kind {
        Ok(nix::sys::statfs::BPF_FS_MAGIC) => Ok(()),
        _ => Err(Error::NoBpffs { path: directory.to_owned() }),
    }
}

/// The level up to which the programs log: levels above are cut out when they are loaded.
fn aya_level(level: LogLevel) -> u8 {
    match level {
        LogLevel::Error => aya_log::Level::Error as u8,
        LogLevel::Warn => aya_log::Level::Warn as u8,
        LogLevel::Info => aya_log::Level::Info as u8,
        LogLevel::Debug => aya_log::Level::Debug as u8,
        LogLevel::Trace => aya_log::Level::Trace as u8,
    }
}
