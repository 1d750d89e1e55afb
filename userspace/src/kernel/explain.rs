//! Which backend a flow gets, and why: the programs' own rules on the programs' own tables.
//!
//! Everything is read from the pins, so that it can be asked while no daemon runs. Nothing is written, and
//! no packet is sent: what is told holds for the next packet, if nothing changes before it.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

use aya::maps::{ArrayOfMaps, Map, MapData, MapError};
use serde::Serialize;
use steerage_common::abi::{
    self, Flow, FlowKey, MODE_LOCAL, MODE_NAT, MODE_TUNNEL, PROTOCOL_TCP, VIP_PASSES,
    VIP_REMEMBERS, Vip, VipKey, active_half, ring_index,
};
use steerage_common::candidates::{self, ATTEMPTS};
use steerage_common::hash::flow_hash;
use steerage_common::health::{EPOCH_MASK, Ticks};
use steerage_common::life::{Life, age, unit};
use steerage_common::limits::{SLOTS, TIERS};
use steerage_common::ring::{Entry, position};
use steerage_common::slot::Slot;
use steerage_common::steer::{self, Kind, NOBODY, Standing};
use zerocopy::FromBytes as _;

use super::flows::FlowMap;
use super::{Error, VipMap, loader};
use crate::clock;
use crate::config::model::{address_of, table_address};
use crate::region::rings::Ring;
use crate::region::{Fds, Region, figures};

/// Backends of a flow's sequence that are told.
const SEQUENCE_MAX: usize = 8;

/// The tables of an instance.
#[derive(Debug)]
pub struct Tables {
    region: Region,
    vips: VipMap,
    rings: ArrayOfMaps<MapData, MapData>,
    flows: FlowMap,
}

/// A flow, as its client begins it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// The client.
    pub client: SocketAddr,
    /// What it talks to.
    pub vip: SocketAddr,
    /// [`abi::PROTOCOL_TCP`] or [`abi::PROTOCOL_UDP`].
    pub protocol: u8,
}

/// Who gets a flow's packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The client.
    pub client: SocketAddr,
    /// The vip, with the port that the client talks to.
    pub vip: SocketAddr,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// How the vip's packets reach backends.
    pub mode: &'static str,
    /// The generation in force.
    pub generation: u64,
    /// The flow's hash, in hexadecimal digits.
    pub hash: String,
    /// The flow's position on the ring.
    pub position: u32,
    /// The position's slot: the flow's home.
    pub home: Option<u16>,
    /// The slot that had the position before, if it changed lately.
    pub former: Option<u16>,
    /// Whether the position changed lately.
    pub is_changed: bool,
    /// Whether that was so lately that a datagram that nobody remembers counts as older.
    pub is_young: bool,
    /// What the flow table has.
    pub remembered: Option<Remembered>,
    /// What becomes of the flow's next packet, by its kind.
    pub choices: Vec<Chosen>,
    /// The backends that have a part in this, and those that follow in the flow's sequence.
    pub backends: Vec<Seen>,
}

/// An entry of the flow table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remembered {
    /// Where the flow was sent.
    pub slot: u16,
    /// Whether the slot has the tenant still that the flow was sent to.
    pub is_valid: bool,
    /// Seconds since its last packet, nearly.
    pub idle_seconds: u32,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Chosen {
    /// `syn`, `segment` or `datagram`.
    pub packet: &'static str,
    /// The slot that gets it; `None` if no backend does.
    pub slot: Option<u16>,
    /// The backend there.
    pub backend: Option<SocketAddr>,
    /// Whether the flow table would hold the flow from then on.
    pub is_remembered: bool,
    /// Whether the flow leaves a backend for it that it may have been with.
    pub is_move: bool,
    /// The reason.
    pub why: &'static str,
}

/// A backend as the programs see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Its slot.
    pub slot: u16,
    /// Where it listens; `None` if nobody has the slot.
    pub address: Option<SocketAddr>,
    /// Its tier.
    pub tier: u8,
    /// Its weight.
    pub weight: u16,
    /// Its state.
    pub state: &'static str,
    /// Whether it takes new flows.
    pub accepts_new: bool,
    /// Whether its flows stay.
    pub keeps_flows: bool,
    /// Whether the flow table is asked about flows whose home it is.
    pub has_strays: bool,
    /// Whether it is warm enough for this flow.
    pub admits: bool,
}

impl Tables {
    /// Opens the pinned tables of an instance.
    ///
    /// # Errors
    /// If there are none, or the kernel refuses.
    pub fn open(instance_dir: &Path) -> Result<Self, Error> {
        let open = |name| fd(instance_dir, name);
        let (cells, workers) = cells(instance_dir)?;
        let fds = Fds {
            control: open("CONTROL")?,
            backends: open("BACKENDS")?,
            health: open("HEALTH")?,
            state: open("STATE")?,
            services: open("SERVICES")?,
            crew: open("CREW")?,
            workers: open("WORKERS")?,
            reports: open("REPORTS")?,
            cells,
            tickets: open("TICKETS")?,
            clients: open("CLIENTS")?,
            // The daemon's own are in its memory; nobody looks at these.
            figures: figures::memory(workers).map_err(Error::io("making memory"))?,
        };
        Ok(Self {
            region: Region::map(&fds, workers).map_err(Error::io("mapping the tables"))?,
            vips: loader::open(instance_dir, "VIPS", Map::HashMap)?,
            rings: loader::open(instance_dir, "RINGS", Map::ArrayOfMaps)?,
            flows: loader::open(instance_dir, "FLOWS", Map::LruHashMap)?,
        })
    }

    /// Who gets the packets of a flow, and why; `None` if there is no such vip.
    ///
    /// # Errors
    /// If the kernel refuses to show a table.
    pub fn explain(&self, tuple: &Tuple) -> Result<Option<Explanation>, Error> {
        let Some(vip) = self.vip(tuple)? else { return Ok(None) };
        let rings = self.rings(vip.service)?;
        let control = self.region.control();
        let key = [0, 1].map(|half: usize| control.hash_key[half].load(Ordering::Relaxed));
        let (client, family) = table_address(tuple.client.ip());
        let (address, _) = table_address(tuple.vip.ip());
        let ports = (tuple.client.port(), tuple.vip.port());
        let hash = flow_hash(key, family, words(client), words(address), ports, tuple.protocol);
        let position = position(hash, 0);
        let entry = rings.first().map_or(Entry::EMPTY, |ring| ring.entry(position));
        let asked = Asked { tables: self, vip: &vip, rings: &rings, hash, entry };
        let (memory, remembered) = self.recall(tuple, &vip)?;
        let kinds: &[(Kind, &str)] = if tuple.protocol == PROTOCOL_TCP {
            &[(Kind::Opening, "syn"), (Kind::Segment, "segment")]
        } else {
            &[(Kind::Datagram, "datagram")]
        };
        let choices: Vec<Chosen> =
            kinds.iter().map(|(kind, packet)| asked.choose(*kind, packet, memory)).collect();
        let former = entry.former().filter(|_| entry.is_changed()).map(Slot::raw);
        let home = entry.current().map(Slot::raw);
        let mut slots: Vec<u16> = home.into_iter().chain(former).collect();
        slots.extend(remembered.as_ref().map(|remembered| remembered.slot));
        slots.extend(choices.iter().filter_map(|choice| choice.slot));
        slots.extend(asked.sequence());
        let mut backends: Vec<Seen> = Vec::new();
        for slot in slots.into_iter().filter_map(Slot::new) {
            if backends.len() < SEQUENCE_MAX && backends.iter().all(|b| b.slot != slot.raw()) {
                backends.push(asked.seen(slot));
            }
        }
        Ok(Some(Explanation {
            client: tuple.client,
            vip: tuple.vip,
            protocol: if tuple.protocol == PROTOCOL_TCP { "tcp" } else { "udp" },
            mode: match vip.mode {
                MODE_NAT => "nat",
                MODE_TUNNEL => "tunnel",
                _ => "l2",
            },
            generation: self.region.generation(),
            hash: format!("{hash:016x}"),
            position,
            home,
            former,
            is_changed: entry.is_changed(),
            is_young: entry.is_young(),
            remembered,
            choices,
            backends,
        }))
    }

    /// The vip that packets of the flow are for: one of its port, or one of all ports.
    fn vip(&self, tuple: &Tuple) -> Result<Option<Vip>, Error> {
        let (address, family) = table_address(tuple.vip.ip());
        for port in [tuple.vip.port(), 0] {
            let protocol = tuple.protocol;
            let key = VipKey { address, port_be: port.to_be(), protocol, family };
            let bytes: [u8; size_of::<VipKey>()] = zerocopy::transmute!(key);
            match self.vips.get(&bytes, 0) {
                Ok(vip) => {
                    let vip = Vip::read_from_bytes(&vip).ok();
                    // A guarded listener's packets go to no backend.
                    return Ok(vip.filter(|vip| vip.mode != MODE_LOCAL));
                }
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(Error::map("VIPS")(error)),
            }
        }
        Ok(None)
    }

    /// The rings of a service's tiers in force.
    fn rings(&self, service: u16) -> Result<Vec<Ring>, Error> {
        let half = active_half(self.region.generation());
        let mut rings = Vec::new();
        for rank in 0..TIERS as u32 {
            match self.rings.get(&ring_index(service, rank, half), 0) {
                Ok(map) => {
                    rings.push(Ring::map(map.fd()).map_err(Error::io("mapping a ring"))?);
                }
                Err(MapError::KeyNotFound) => break,
                Err(error) => return Err(Error::map("RINGS")(error)),
            }
        }
        Ok(rings)
    }

    /// What the flow table has, as the programs would take it.
    fn recall(
        &self,
        tuple: &Tuple,
        vip: &Vip,
    ) -> Result<(steer::Memory, Option<Remembered>), Error> {
        let key = FlowKey {
            client: table_address(tuple.client.ip()).0,
            vip_generation: vip.generation,
            vip_port_be: tuple.vip.port().to_be(),
            client_port_be: tuple.client.port().to_be(),
        };
        let bytes: [u8; size_of::<FlowKey>()] = zerocopy::transmute!(key);
        let flow = match self.flows.get(&bytes, 0) {
            Ok(flow) => Flow::read_from_bytes(&flow).ok(),
            Err(MapError::KeyNotFound) => None,
            Err(error) => return Err(Error::map("FLOWS")(error)),
        };
        let Some(flow) = flow else { return Ok((steer::Memory::NONE, None)) };
        let entry = Slot::new(flow.slot).map(|slot| self.region.entry(slot));
        let is_valid = entry.is_some_and(|entry| entry.epoch == flow.epoch);
        let has_weight = entry.is_some_and(|entry| entry.weight > 0);
        let now = unit(crate::sys::monotonic().as_nanos() as u64);
        let idle = age(now, Life::from_raw(flow.life).to_raw());
        let remembered = Remembered { slot: flow.slot, is_valid, idle_seconds: idle };
        let memory = steer::Memory { slot: flow.slot, has_weight };
        Ok((if is_valid { memory } else { steer::Memory::NONE }, Some(remembered)))
    }

    fn standing(&self, service: u16, slot: u16) -> Standing {
        let Some(slot) = Slot::new(slot) else { return Standing::default() };
        self.region.standing(service, slot)
    }

    fn admits(&self, service: u16, slot: u16, hash: u64) -> bool {
        let Some(slot) = Slot::new(slot) else { return true };
        let slow_start = self.region.service(service).slow_start_ticks.load(Ordering::Relaxed);
        let now: Ticks = clock::now_ticks();
        self.region.word(slot).admits(hash, now, slow_start as u32)
    }
}

/// One question.
struct Asked<'a> {
    tables: &'a Tables,
    vip: &'a Vip,
    rings: &'a [Ring],
    hash: u64,
    entry: Entry,
}

impl Asked<'_> {
    fn choose(&self, kind: Kind, packet: &'static str, memory: steer::Memory) -> Chosen {
        let Self { tables, vip, hash, entry, .. } = *self;
        let mut is_asked = false;
        let choice = steer::decide(
            entry,
            kind,
            vip.flags & VIP_REMEMBERS != 0,
            |slot| tables.standing(vip.service, slot),
            || {
                is_asked = true;
                memory
            },
            |slot| tables.admits(vip.service, slot, hash),
        );
        let home = entry.current_raw();
        let why = match choice.slot {
            NOBODY if tables.standing(vip.service, home).accepts_new => {
                "its home has just recovered and does not take this one yet: the next candidate"
            }
            NOBODY => "its home takes nothing new: the next candidate",
            slot if slot == home && !is_asked => "its home, the table is not asked",
            slot if slot == memory.slot => "the flow table has it",
            slot if slot == home && choice.is_move => "its home, as where it was can't keep it",
            slot if slot == home => "its home, the table knows nothing else",
            _ => "the former home: nobody remembers it, so it began before the change",
        };
        let slot = if choice.slot == NOBODY { self.next() } else { choice.slot };
        let why = match slot {
            NOBODY if vip.flags & VIP_PASSES != 0 => "no backend takes it: passed to this host",
            NOBODY => "no backend takes it: dropped",
            _ => why,
        };
        let at = Slot::new(slot);
        Chosen {
            packet,
            slot: at.map(Slot::raw),
            backend: at.and_then(|slot| socket(&tables.region.entry(slot))),
            is_remembered: choice.remember && at.is_some(),
            is_move: choice.is_move,
            why,
        }
    }

    /// The next candidate, tier by tier.
    fn next(&self) -> u16 {
        let pick = |tier: Tier<'_>| match candidates::next(self.hash, &tier) {
            NOBODY => candidates::any(self.hash, |word| tier.takers(word)),
            slot => slot,
        };
        let slots = self.rings.iter().map(|ring| pick(Tier { asked: self, ring }));
        slots.into_iter().find(|slot| *slot != NOBODY).unwrap_or(NOBODY)
    }

    /// Who would follow, on the first tier's ring and then on the next ones'.
    fn sequence(&self) -> impl Iterator<Item = u16> {
        let of = |ring: &Ring| {
            let hash = self.hash;
            let at = |attempt| ring.entry(position(hash, attempt)).current().map(Slot::raw);
            (0..ATTEMPTS).filter_map(at).collect::<Vec<u16>>()
        };
        self.rings.iter().flat_map(of).collect::<Vec<u16>>().into_iter()
    }

    fn seen(&self, slot: Slot) -> Seen {
        let Self { tables, vip, .. } = self;
        let entry = tables.region.entry(slot);
        let word = tables.region.word(slot);
        let standing = tables.standing(vip.service, slot.raw());
        let is_held = word.epoch() == entry.epoch & EPOCH_MASK;
        Seen {
            slot: slot.raw(),
            address: socket(&entry).filter(|_| is_held),
            tier: entry.tier,
            weight: entry.weight,
            state: word.state().name(),
            accepts_new: standing.accepts_new,
            keeps_flows: standing.keeps_flows,
            has_strays: standing.has_strays,
            admits: tables.admits(vip.service, slot.raw(), self.hash),
        }
    }
}

/// A tier's ring, as the programs walk it.
struct Tier<'a> {
    asked: &'a Asked<'a>,
    ring: &'a Ring,
}

impl candidates::Tier for Tier<'_> {
    fn at(&self, position: u32) -> u16 {
        self.ring.entry(position).current().map_or(NOBODY, Slot::raw)
    }

    fn takes(&self, slot: u16) -> bool {
        let Asked { tables, vip, .. } = self.asked;
        tables.standing(vip.service, slot).accepts_new
    }

    fn is_eager(&self, slot: u16) -> bool {
        let Asked { tables, vip, hash, .. } = self.asked;
        tables.admits(vip.service, slot, *hash)
    }
}

impl Tier<'_> {
    fn takers(&self, word: u32) -> u64 {
        self.ring.members(word) & self.asked.tables.region.health_word(word as usize)
    }
}

/// An address of the tables as the hash takes it.
fn words(address: [u8; 16]) -> [u64; 2] {
    let words: [[u8; 8]; 2] = zerocopy::transmute!(address);
    words.map(u64::from_be_bytes)
}

fn socket(entry: &abi::Backend) -> Option<SocketAddr> {
    let ip = address_of(&entry.address, entry.family)?;
    Some(SocketAddr::new(ip, u16::from_be(entry.port_be)))
}

fn pinned(instance_dir: &Path, name: &'static str) -> Result<MapData, Error> {
    let path = loader::map_directory(instance_dir).join(name);
    MapData::from_pin(path).map_err(Error::map(name))
}

fn fd(instance_dir: &Path, name: &'static str) -> Result<OwnedFd, Error> {
    let map = pinned(instance_dir, name)?;
    map.fd().as_fd().try_clone_to_owned().map_err(Error::io(format!("sharing {name}")))
}

/// `CELLS`, and how many workers it has room for.
fn cells(instance_dir: &Path) -> Result<(OwnedFd, usize), Error> {
    let map = pinned(instance_dir, "CELLS")?;
    let info = map.info().map_err(Error::map("CELLS"))?;
    Ok((fd(instance_dir, "CELLS")?, info.max_entries() as usize / SLOTS))
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |slot: u16| {
            let seen = self.backends.iter().find(|seen| seen.slot == slot);
            match seen.and_then(|seen| seen.address) {
                Some(address) => format!("{address} (slot {slot})"),
                None => format!("slot {slot}, which nobody has"),
            }
        };
        let Self { client, vip, protocol, mode, generation, hash, position, .. } = self;
        writeln!(f, "{client} to {vip} ({protocol}, {mode}), generation {generation}")?;
        let home = self.home.map_or("nobody".into(), name);
        writeln!(f, "hash {hash}, position {position}: at home with {home}")?;
        if self.is_changed {
            let former = self.former.map_or("nobody".into(), name);
            let young = if self.is_young { ", datagrams count as older" } else { "" };
            writeln!(f, "the position changed lately: it was that of {former}{young}")?;
        }
        match &self.remembered {
            None => writeln!(f, "the flow table does not have it")?,
            Some(Remembered { slot, is_valid, idle_seconds }) => {
                let gone = if *is_valid { "" } else { ", whose tenant has gone since" };
                let slot = name(*slot);
                writeln!(
                    f,
                    "the flow table has it at {slot}{gone}, heard of {idle_seconds} s ago"
                )?;
            }
        }
        for choice in &self.choices {
            let to = choice.slot.map_or("nobody".into(), name);
            let remembered = if choice.is_remembered { ", remembered from then on" } else { "" };
            let moved = if choice.is_move { ", a move" } else { "" };
            writeln!(f, "a {} goes to {to}: {}{remembered}{moved}", choice.packet, choice.why)?;
        }
        for seen in &self.backends {
            let says = |is, what: &'static str| if is { what } else { "" };
            writeln!(
                f,
                "  {}: tier {}, weight {}, {}{}{}{}{}",
                name(seen.slot),
                seen.tier,
                seen.weight,
                seen.state,
                says(seen.accepts_new, ", takes new flows"),
                says(seen.keeps_flows, ", keeps its own"),
                says(seen.has_strays, ", the table is asked"),
                says(!seen.admits, ", too cold for this one"),
            )?;
        }
        Ok(())
    }
}
