//! Guards of vips: what the supervisor publishes of them to the packet programs, and whom L7 reports.
//!
//! A guard in force is never changed: the programs would see half of it. Another one takes its place, vip by
//! vip, and the former goes when no vip leads to it any more.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap as BpfHashMap, MapData};
use ipnet::IpNet;
use steerage_common::abi::{self, Offender, OffenderKey, Source, SourceKey};
use steerage_common::limits::GUARDS;

use super::{Error, Kernel, bytes_of, take};
use crate::config::model::table_address;

const GUARD_BYTES: usize = size_of::<abi::Guard>();
const V4_BYTES: usize = 8;
const V6_BYTES: usize = 20;
type SourceMap = BpfHashMap<MapData, [u8; size_of::<SourceKey>()], [u8; size_of::<Source>()]>;
type OffenderMap = BpfHashMap<MapData, [u8; size_of::<OffenderKey>()], [u8; size_of::<Offender>()]>;

/// A guard as the programs are to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarding {
    /// All but its lists.
    pub guard: abi::Guard,
    /// Its lists, in order, and what each prefix is listed as.
    pub prefixes: Vec<(IpNet, u32)>,
}

/// The programs' tables of guards.
pub struct Tables {
    guards: Array<MapData, [u8; GUARD_BYTES]>,
    v4: LpmTrie<MapData, [u8; V4_BYTES], u32>,
    v6: LpmTrie<MapData, [u8; V6_BYTES], u32>,
    sources: SourceMap,
    offenders: OffenderMap,
}

impl Tables {
    pub(super) fn of(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            guards: take(ebpf, "GUARDS")?,
            v4: take(ebpf, "ACL_V4")?,
            v6: take(ebpf, "ACL_V6")?,
            sources: take(ebpf, "SOURCES")?,
            offenders: take(ebpf, "OFFENDERS")?,
        })
    }

    /// All lists, by guard.
    fn lists(&self) -> HashMap<u16, Vec<(IpNet, u32)>> {
        let mut lists: HashMap<u16, Vec<(IpNet, u32)>> = HashMap::new();
        // Nobody else writes them: an entry can't go while they are walked.
        for (key, listed) in self.v4.iter().flatten() {
            let data = key.data();
            let (guard, address) = data.split_at(4);
            let address: [u8; 4] = address.try_into().unwrap_or_default();
            add(&mut lists, guard, address.into(), key.prefix_len(), listed);
        }
        for (key, listed) in self.v6.iter().flatten() {
            let data = key.data();
            let (guard, address) = data.split_at(4);
            let address: [u8; 16] = address.try_into().unwrap_or_default();
            add(&mut lists, guard, address.into(), key.prefix_len(), listed);
        }
        for list in lists.values_mut() {
            list.sort_unstable();
        }
        lists
    }

    fn list(&mut self, index: u16, net: &IpNet, listed: u32) -> Result<(), Error> {
        match net.addr() {
            IpAddr::V4(_) => {
                self.v4.insert(&key(index, net), listed, 0).map_err(Error::map("ACL_V4"))
            }
            IpAddr::V6(_) => {
                self.v6.insert(&key(index, net), listed, 0).map_err(Error::map("ACL_V6"))
            }
        }
    }

    fn unlist(&mut self, index: u16, net: &IpNet) -> Result<(), Error> {
        match net.addr() {
            IpAddr::V4(_) => self.v4.remove(&key(index, net)).map_err(Error::map("ACL_V4")),
            IpAddr::V6(_) => self.v6.remove(&key(index, net)).map_err(Error::map("ACL_V6")),
        }
    }
}

fn add(
    lists: &mut HashMap<u16, Vec<(IpNet, u32)>>,
    guard: &[u8],
    address: IpAddr,
    bits: u32,
    listed: u32,
) {
    let guard = u32::from_ne_bytes(guard.try_into().unwrap_or_default());
    let bits = bits.saturating_sub(u32::BITS) as u8;
    if let Ok(net) = IpNet::new(address, bits) {
        lists.entry(guard as u16).or_default().push((net, listed));
    }
}

/// The key of a guard's prefix; the prefix must be of the family that `N` bytes are of.
fn key<const N: usize>(index: u16, net: &IpNet) -> Key<[u8; N]> {
    let mut data = [0; N];
    let (address, _) = table_address(net.network());
    data[..4].copy_from_slice(&u32::from(index).to_ne_bytes());
    data[4..].copy_from_slice(&address[..N - 4]);
    Key::new(u32::BITS + u32::from(net.prefix_len()), data)
}

impl Kernel {
    /// Puts guards beside those that vips lead to; gives the index of each. One that is in force already
    /// is not written again.
    ///
    /// # Errors
    /// If there is no room, or the kernel refuses.
    pub fn set_guards(&mut self, wanted: &[Guarding]) -> Result<Vec<u16>, Error> {
        let in_force: BTreeSet<u16> = self.vips()?.iter().map(|(_, vip)| vip.guard).collect();
        let mut lists = self.guards.lists();
        let mut known: Vec<(u16, Guarding)> = Vec::new();
        for index in in_force.iter().copied().filter(|index| *index != 0) {
            let bytes = self.guards.guards.get(&index.into(), 0).map_err(Error::map("GUARDS"))?;
            let guard = zerocopy::transmute!(bytes);
            let prefixes = lists.remove(&index).unwrap_or_default();
            known.push((index, Guarding { guard, prefixes }));
        }
        // What a daemon that died has left behind.
        for (index, list) in lists {
            list.iter().try_for_each(|(net, _)| self.guards.unlist(index, net))?;
        }
        let mut free = (1..GUARDS as u16).filter(|index| !in_force.contains(index));
        let mut indices = Vec::with_capacity(wanted.len());
        for guarding in wanted {
            if let Some((index, _)) = known.iter().find(|(_, known)| known == guarding) {
                indices.push(*index);
                continue;
            }
            let out_of_range = Error::OutOfRange { what: "guard", index: GUARDS };
            let index = free.next().ok_or(out_of_range)?;
            for (net, listed) in &guarding.prefixes {
                self.guards.list(index, net, *listed)?;
            }
            let bytes = bytes_of(&guarding.guard);
            self.guards.guards.set(index.into(), bytes, 0).map_err(Error::map("GUARDS"))?;
            indices.push(index);
        }
        Ok(indices)
    }

    /// Forgets the lists of all guards but these.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn keep_guards(&mut self, indices: &[u16]) -> Result<(), Error> {
        let lists = self.guards.lists();
        for (index, list) in lists.into_iter().filter(|(index, _)| !indices.contains(index)) {
            list.iter().try_for_each(|(net, _)| self.guards.unlist(index, net))?;
        }
        Ok(())
    }

    /// Sources that the programs know: a walk over their whole table.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn sources(&self) -> Result<usize, Error> {
        let keys = self.guards.sources.keys().collect::<Result<Vec<_>, _>>();
        Ok(keys.map_err(Error::map("SOURCES"))?.len())
    }

    /// Holds an address back.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn hold_back(&mut self, address: IpAddr, offender: &Offender) -> Result<(), Error> {
        let (address, family) = table_address(address);
        let key = OffenderKey { address, family: family.into(), reserved: 0 };
        let offenders = &mut self.guards.offenders;
        offenders.insert(bytes_of(&key), bytes_of(offender), 0).map_err(Error::map("OFFENDERS"))
    }
}
