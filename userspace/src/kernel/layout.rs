//! Whether pinned maps are what the programs were compiled for.
//!
//! aya opens a pinned map by its path and takes whatever it finds there. A map of another layout would
//! be read as if it were ours, so every pin is compared with the object's definition before it is
//! used. Names and sizes of the values are part of the pin directory's version; this check is what
//! catches a version that was not raised, a foreign map, and tables whose size is configured.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use aya::maps::{Array, Map, MapData, MapInfo};
use aya_obj::{Object, generated::bpf_map_type};
use steerage_common::abi::{Control, SCHEMA_VERSION};
use tracing::warn;
use zerocopy::FromBytes as _;

use super::Error;

/// Tables whose size follows the configuration: a pin of another size is replaced, not refused. The
/// flow tables' contents are found again by hash, sources prove themselves again, the cells' counters
/// and the numbers of clients' connections start anew.
const RESIZED: [&str; 5] = ["CELLS", "CLIENTS", "FLOWS", "NATS", "SOURCES"];

/// Maps that belong to one load of the programs, as their data sections do, and are not pinned.
const PRIVATE: [&str; 8] =
    [super::log::MAP, "ARRIVAL", "COPY", "GUEST", "HOPS", "KNOWN_VIPS", "PIECE", "QUERY"];

/// What two maps must have in common to be used as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match bpf_map_type::try_from(self.kind) {
            Ok(kind) => {
                let name = format!("{kind:?}").to_lowercase();
                write!(f, "a {}", name.trim_start_matches("bpf_map_type_"))?;
            }
            Err(_) => write!(f, "a map of type {}", self.kind)?,
        }
        write!(
            f,
            " of {} entries (key {} bytes, value {} bytes, flags {:#x})",
            self.max_entries, self.key_size, self.value_size, self.flags
        )
    }
}

/// The maps of an object, with the sizes that the configuration asks for.
#[derive(Debug)]
pub struct Expected(BTreeMap<String, Layout>);

impl Expected {
    /// The maps that `object` defines and that are pinned.
    pub fn of(object: &[u8], sizes: &[(&str, u32)]) -> Result<Self, Error> {
        let object = Object::parse(object).map_err(Error::load)?;
        let mut maps = BTreeMap::new();
        for (name, map) in &object.maps {
            if name.starts_with('.') || PRIVATE.contains(&name.as_str()) {
                continue;
            }
            let size = sizes.iter().find(|(sized, _)| sized == name);
            let is_ring_buffer = map.map_type() == bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32;
            let layout = Layout {
                kind: map.map_type(),
                key_size: map.key_size(),
                value_size: if is_ring_buffer { 0 } else { map.value_size() },
                max_entries: size.map_or(map.max_entries(), |(_, size)| *size),
                flags: map.map_flags(),
            };
            maps.insert(name.clone(), layout);
        }
        Ok(Self(maps))
    }

    /// The maps' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Compares the pins in `directory`; those of tables with another configured size are removed.
    pub fn check(&self, directory: &Path) -> Result<(), Error> {
        for (name, expected) in &self.0 {
            let path = directory.join(name);
            if !path.exists() {
                continue;
            }
            let what = || format!("opening the pinned map {}", path.display());
            let map = MapData::from_pin(&path).map_err(|error| opening(what(), error))?;
            let info = map.info().map_err(|error| opening(what(), error))?;
            let found = Layout::of(&info, expected);
            if found == *expected {
                if name == "CONTROL" {
                    check_schema(map, &path)?;
                }
                continue;
            }
            let resized = Layout { max_entries: expected.max_entries, ..found };
            if !RESIZED.contains(&name.as_str()) || resized != *expected {
                return Err(Error::Layout {
                    map: name.clone(),
                    path,
                    found: Box::new(found),
                    expected: Box::new(*expected),
                });
            }
            warn!(
                map = name,
                from = found.max_entries,
                to = expected.max_entries,
                "table replaced: the configuration asks for another size"
            );
            fs::remove_file(&path).map_err(Error::io(format!("removing {}", path.display())))?;
        }
        Ok(())
    }
}

impl Layout {
    /// The layout of a map in the kernel; sizes that the kernel rounds up are those asked for.
    fn of(info: &MapInfo, expected: &Self) -> Self {
        let max_entries = info.max_entries();
        // A table with lists per CPU is rounded up to a multiple of the CPUs.
        let rounded = max_entries.saturating_sub(expected.max_entries) < possible_cpus();
        Self {
            kind: info.map_type().map_or(u32::MAX, |kind| kind as u32),
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: if rounded && max_entries >= expected.max_entries {
                expected.max_entries
            } else {
                max_entries
            },
            flags: info.map_flags(),
        }
    }
}

fn possible_cpus() -> u32 {
    aya::util::nr_cpus().map_or(1, |cpus| cpus as u32)
}

/// A map with all zeros is new; otherwise its writer says which schema it followed.
fn check_schema(control: MapData, path: &Path) -> Result<(), Error> {
    let map = Map::Array(control);
    let array =
        Array::<_, [u8; size_of::<Control>()]>::try_from(map).map_err(Error::map("CONTROL"))?;
    let bytes = array.get(&0, 0).map_err(Error::map("CONTROL"))?;
    let found = Control::read_from_bytes(&bytes).map_or(0, |control| control.schema_version);
    match found {
        0 | SCHEMA_VERSION => Ok(()),
        found => Err(Error::Schema { path: path.to_owned(), found, expected: SCHEMA_VERSION }),
    }
}

fn opening(what: String, error: aya::maps::MapError) -> Error {
    let number = super::error::os_error(&error).unwrap_or(libc::EIO);
    Error::io(what)(io::Error::from_raw_os_error(number))
}
