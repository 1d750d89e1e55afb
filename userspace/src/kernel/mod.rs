//! The kernel half: loading the programs, their maps, their links.
//!
//! All maps but the log's buffer are pinned under `<instance>/v<schema>/`, all links under
//! `<instance>/links/`; the programs live as long as their links. A daemon that starts finds the maps
//! of the one before, checks that they are laid out as it expects ([`layout`]) and goes on with them:
//! vips, flows and counters survive it. `unsafe` is nowhere here; maps that are mapped into memory
//! are [`crate::region`]'s.

mod attach;
pub mod capture;
mod counters;
pub mod decap;
mod error;
mod events;
pub mod explain;
pub mod flows;
mod guard;
pub mod layout;
mod loader;
mod log;
pub mod neighbor;
mod netlink;
mod ring;
mod server_ids;
mod settle;
mod steering;

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use aya::Ebpf;
use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData, PerCpuArray, ProgramArray, RingBuf};
use aya::programs::Xdp;
use steerage_common::abi::{AddressKey, RingLine, Vip, VipKey};

pub use attach::{Mode, check_forwarding, detach, program_on};
pub use error::Error;
pub use events::{Events, follow};
pub use guard::Guarding;
pub use loader::check_kernel;
pub use log::Logger;
pub use ring::Filling;
pub use settle::{Settler, settle};

use crate::config::model::LogLevel;
use crate::region::Fds;
use counters::TrafficMap;
use steering::Seats;

/// The XDP program's name in the object.
const PROGRAM: &str = "steerage_xdp";
/// The name of the program that it hands over to.
const REST_PROGRAM: &str = "steerage_rest";

const LINE_BYTES: usize = size_of::<RingLine>();
type InnerRing = Array<MapData, [u8; LINE_BYTES]>;
type VipMap = HashMap<MapData, [u8; size_of::<VipKey>()], [u8; size_of::<Vip>()]>;
type AddressMap = HashMap<MapData, [u8; size_of::<AddressKey>()], u32>;

/// What to load, and where its pins are.
#[derive(Clone, Debug)]
pub struct Options {
    /// The instance's directory on the BPF file system.
    pub instance_dir: PathBuf,
    /// Entries of `CELLS` and `CLIENTS`: workers × slots.
    pub cells: u32,
    /// Flows that the L4 tables remember.
    pub max_flows: u32,
    /// Sources that the guards tell apart.
    pub max_sources: u32,
    /// The least important level that the programs log.
    pub log_level: LogLevel,
}

/// The loaded programs and their maps. Dropping it leaves pins and links as they are.
pub struct Kernel {
    instance_dir: PathBuf,
    ebpf: Ebpf,
    vips: VipMap,
    addresses: AddressMap,
    vip_filter: Array<MapData, u64>,
    rings: ArrayOfMaps<MapData, InnerRing>,
    /// The same table, giving descriptors to be mapped.
    ring_tables: ArrayOfMaps<MapData, MapData>,
    vip_counters: TrafficMap,
    backend_counters: TrafficMap,
    reason_counters: PerCpuArray<MapData, u64>,
    seats: Seats,
    guards: guard::Tables,
    server_ids: server_ids::ServerIdMap,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("instance_dir", &self.instance_dir).finish_non_exhaustive()
    }
}

impl Kernel {
    /// Opens the instance's maps, making those there are none of yet, and loads the programs.
    ///
    /// # Errors
    /// If there is no BPF file system, no privilege, too old a kernel, or a pinned map of another
    /// layout: see [`Error`].
    pub fn load(options: &Options) -> Result<Self, Error> {
        let mut ebpf = loader::load(options)?;
        program_of(&mut ebpf)?.load().map_err(Error::load)?;
        steering::load(&mut ebpf)?;
        load_rest(&mut ebpf)?;
        Ok(Self {
            instance_dir: options.instance_dir.clone(),
            vips: take(&mut ebpf, "VIPS")?,
            addresses: take(&mut ebpf, "ADDRESSES")?,
            vip_filter: take(&mut ebpf, "VIP_FILTER")?,
            rings: take(&mut ebpf, "RINGS")?,
            ring_tables: loader::open(&options.instance_dir, "RINGS", Map::ArrayOfMaps)?,
            vip_counters: take(&mut ebpf, "VIP_COUNTERS")?,
            backend_counters: take(&mut ebpf, "BACKEND_COUNTERS")?,
            reason_counters: take(&mut ebpf, "REASON_COUNTERS")?,
            seats: Seats::take(&mut ebpf)?,
            guards: guard::Tables::of(&mut ebpf)?,
            server_ids: take(&mut ebpf, "SERVER_IDS")?,
            ebpf,
        })
    }

    /// Descriptors of the shared region's maps, and of the memory that goes with them.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn region_fds(&self, figures: OwnedFd) -> Result<Fds, Error> {
        Ok(Fds {
            control: self.fd("CONTROL")?,
            backends: self.fd("BACKENDS")?,
            health: self.fd("HEALTH")?,
            state: self.fd("STATE")?,
            services: self.fd("SERVICES")?,
            crew: self.fd("CREW")?,
            workers: self.fd("WORKERS")?,
            reports: self.fd("REPORTS")?,
            cells: self.fd("CELLS")?,
            tickets: self.fd("TICKETS")?,
            clients: self.fd("CLIENTS")?,
            figures,
        })
    }

    /// The events of the programs. To be called once.
    ///
    /// # Errors
    /// If it was called before.
    pub fn events(&mut self) -> Result<Events, Error> {
        take::<RingBuf<MapData>>(&mut self.ebpf, "EVENTS").map(Events::new)
    }

    /// The log of the programs. To be called once, after the daemon's own log was set up.
    ///
    /// # Errors
    /// If it was called before.
    pub fn logger(&mut self) -> Result<Logger, Error> {
        Logger::of(&mut self.ebpf)
    }

    /// The XDP program, to run it on packets of one's own (`aya::TestRun`).
    ///
    /// # Errors
    /// If the object has none.
    pub fn program(&self) -> Result<&Xdp, Error> {
        let program = self.ebpf.program(PROGRAM).ok_or(Error::Missing(PROGRAM))?;
        program.try_into().map_err(Error::load)
    }

    fn program_mut(&mut self) -> Result<&mut Xdp, Error> {
        program_of(&mut self.ebpf)
    }

    /// The XDP program that [`Kernel::program`] hands over to.
    ///
    /// # Errors
    /// If the object has none.
    pub fn rest_program(&self) -> Result<&Xdp, Error> {
        let program = self.ebpf.program(REST_PROGRAM).ok_or(Error::Missing(REST_PROGRAM))?;
        program.try_into().map_err(Error::load)
    }

    /// The kernel's number for the loaded program.
    fn program_id(&self) -> Result<u32, Error> {
        Ok(self.program()?.info().map_err(Error::load)?.id())
    }

    fn fd(&self, name: &'static str) -> Result<OwnedFd, Error> {
        let Some(Map::Array(map)) = self.ebpf.map(name) else { return Err(Error::Missing(name)) };
        map.fd().as_fd().try_clone_to_owned().map_err(Error::io(format!("sharing {name}")))
    }
}

/// Loads the program that the first one hands over to, and puts it there.
///
/// The table is pinned and shared with the program that is in force: two programs of one schema go on
/// from each other.
fn load_rest(ebpf: &mut Ebpf) -> Result<(), Error> {
    let program = ebpf.program_mut(REST_PROGRAM).ok_or(Error::Missing(REST_PROGRAM))?;
    let program: &mut Xdp = program.try_into().map_err(Error::load)?;
    program.load().map_err(Error::load)?;
    let fd = program.fd().map_err(Error::load)?.try_clone();
    let fd = fd.map_err(Error::io("sharing a program"))?;
    let mut table: ProgramArray<MapData> = take(ebpf, "REST")?;
    table.set(0, &fd, 0).map_err(Error::map("REST"))
}

fn program_of(ebpf: &mut Ebpf) -> Result<&mut Xdp, Error> {
    let program = ebpf.program_mut(PROGRAM).ok_or(Error::Missing(PROGRAM))?;
    program.try_into().map_err(Error::load)
}

/// Takes a map out of the object, by its type.
fn take<T: TryFrom<Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Missing(name))?;
    T::try_from(map).map_err(Error::map(name))
}

/// The bytes of a plain value, as aya's maps take them.
fn bytes_of<T: zerocopy::IntoBytes + zerocopy::Immutable, const N: usize>(value: &T) -> [u8; N] {
    const { assert!(size_of::<T>() == N) };
    let mut bytes = [0; N];
    bytes.copy_from_slice(value.as_bytes());
    bytes
}
