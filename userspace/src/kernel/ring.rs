//! Rings and vips: what the supervisor publishes to the L4 programs.
//!
//! A service has a ring for each rank of its tiers that has members ([`ring_index`]). Flows are at home on
//! that of rank 0; whoever is sent to one of the others is remembered, so those know of no former slots.
//!
//! A new ring builds on the one in force: each entry knows who served its position before
//! ([`steerage_common::ring::Entry`]). Which ring that is says its title: a service that had none in the
//! last generation begins with settled entries.

use std::collections::{BTreeSet, HashMap};

use aya::maps::{Array, MapError};
use aya_obj::generated::BPF_F_MMAPABLE;
use steerage_common::abi::{
    AddressKey, MODE_L2, MODE_LOCAL, MODE_TUNNEL, RING_LINES, VIP_FILTER_STAMP, VIP_FILTER_WORDS,
    Vip, VipKey, active_half, filter_bit, ring_index, serves,
};
use steerage_common::limits::{RING_ENTRIES, SERVICES, TIERS};
use steerage_common::ring::Entry;
use steerage_common::slot::Slot;
use zerocopy::FromBytes as _;

use super::{Error, InnerRing, Kernel, bytes_of};
use crate::region::rings::{Ring, Title};

/// What a ring is filled with.
#[derive(Clone, Copy)]
pub struct Filling<'a> {
    /// The slot of each position, empty for a service that has nobody; `None` for what the ring in
    /// force has.
    pub slots: Option<&'a [u16]>,
    /// Who may take flows whose positions are all dead.
    pub members: &'a [Slot],
    /// Whether a slot has the tenant that it had in the generation in force.
    pub is_held: &'a dyn Fn(Slot) -> bool,
}

impl Kernel {
    /// Fills the ring of a service's tier for the generation in `title`, which is to come next; false if
    /// it was to be that in force, and there is none.
    ///
    /// # Errors
    /// If `service_line` or `rank` is out of range, or the kernel refuses (no memory).
    ///
    /// # Panics
    /// If the slots are neither none nor [`RING_ENTRIES`].
    pub fn set_ring(
        &mut self,
        service_line: u16,
        rank: u32,
        title: Title,
        filling: Filling<'_>,
    ) -> Result<bool, Error> {
        let Filling { slots, members, is_held } = filling;
        let is_whole = |slots: &[u16]| slots.is_empty() || slots.len() == RING_ENTRIES;
        assert!(slots.is_none_or(is_whole), "a ring is whole or empty");
        let before = title.generation.wrapping_sub(1);
        let former = self.ring_in_force(service_line, rank, before)?;
        let mut former = former.filter(|ring| ring.title().identity == title.identity);
        if former.is_none() && slots.is_none() {
            return Ok(false);
        }
        if rank > 0 && slots.is_some() {
            former = None;
        }
        let ring = self.ring(index_of(service_line, rank, active_half(title.generation))?)?;
        let entry = |position: u32| {
            let before = former.as_ref().map_or(Entry::EMPTY, |ring| ring.entry(position));
            let entry = match slots {
                None => before,
                Some(slots) => {
                    let slot = slots.get(position as usize);
                    before.passed_to(slot.and_then(|slot| Slot::new(*slot)))
                }
            };
            let is_orphan = entry.former().is_some_and(|former| !is_held(former));
            if is_orphan && entry.is_changed() { entry.without_former() } else { entry }
        };
        ring.write(title, entry, members);
        Ok(true)
    }

    /// Says that no tier of the service has this rank or a higher one in the generation to come.
    ///
    /// # Errors
    /// If `service_line` is out of range, or the kernel refuses.
    pub fn clear_rings(&self, service_line: u16, rank: u32, generation: u64) -> Result<(), Error> {
        for rank in rank..TIERS as u32 {
            let index = index_of(service_line, rank, active_half(generation))?;
            if let Some(ring) = self.existing_ring(index)?
                && ring.title() != Title::NONE
            {
                ring.write(Title::NONE, |_| Entry::EMPTY, &[]);
            }
        }
        Ok(())
    }

    /// The ring of a service's tier in the generation in force, if it has one.
    ///
    /// # Errors
    /// If `service_line` or `rank` is out of range, or the kernel refuses.
    pub fn ring_in_force(
        &self,
        service_line: u16,
        rank: u32,
        generation: u64,
    ) -> Result<Option<Ring>, Error> {
        let ring = self.existing_ring(index_of(service_line, rank, active_half(generation))?)?;
        Ok(ring.filter(|ring| ring.title().generation == generation))
    }

    /// Adds the positions that each slot had before they changed, on rings of vips whose flows nobody
    /// here sees the end of: the slot may have flows that nobody remembers. Gives those vips'
    /// generations.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn count_former(
        &self,
        generation: u64,
        counts: &mut HashMap<Slot, u64>,
    ) -> Result<Vec<u32>, Error> {
        let mut vips: Vec<Vip> = self.vips()?.into_iter().map(|(_, vip)| vip).collect();
        vips.retain(|vip| matches!(vip.mode, MODE_TUNNEL | MODE_L2));
        for line in vips.iter().map(|vip| vip.service).collect::<BTreeSet<u16>>() {
            let Some(ring) = self.ring_in_force(line, 0, generation)? else { continue };
            let entries = (0..RING_ENTRIES as u32).map(|position| ring.entry(position));
            for slot in entries.filter(|entry| entry.is_changed()).filter_map(Entry::former) {
                *counts.entry(slot).or_default() += 1;
            }
        }
        Ok(vips.iter().map(|vip| vip.generation).collect())
    }

    /// The table of a ring, mapped; made when it is first needed.
    fn ring(&mut self, index: u32) -> Result<Ring, Error> {
        if let Some(ring) = self.existing_ring(index)? {
            return Ok(ring);
        }
        let map: InnerRing =
            Array::create(RING_LINES as u32, BPF_F_MMAPABLE).map_err(Error::map("RINGS"))?;
        self.rings.set(index, &map, 0).map_err(Error::map("RINGS"))?;
        self.existing_ring(index)?.ok_or(Error::Missing("RINGS"))
    }

    fn existing_ring(&self, index: u32) -> Result<Option<Ring>, Error> {
        match self.ring_tables.get(&index, 0) {
            Ok(map) => Ring::map(map.fd()).map(Some).map_err(Error::io("mapping a ring")),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(Error::map("RINGS")(error)),
        }
    }

    /// Adds a vip, or changes it.
    ///
    /// # Errors
    /// If the table is full, or the kernel refuses.
    pub fn set_vip(&mut self, key: &VipKey, vip: &Vip) -> Result<(), Error> {
        let (key, vip) = (bytes_of(key), bytes_of(vip));
        self.vips.insert(key, vip, 0).map_err(Error::map("VIPS"))?;
        self.count_change()
    }

    /// Removes a vip, if it is there.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_vip(&mut self, key: &VipKey) -> Result<(), Error> {
        match self.vips.remove(&bytes_of(key)) {
            Err(error) if super::error::os_error(&error) == Some(libc::ENOENT) => {}
            outcome => outcome.map_err(Error::map("VIPS"))?,
        }
        self.count_change()
    }

    /// Lets packets to the addresses of these vips be looked at, and no others; says what each address
    /// serves.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_vip_filter(&mut self, vips: &[VipKey]) -> Result<(), Error> {
        self.set_addresses(vips)?;
        let mut words = [0u64; VIP_FILTER_WORDS];
        for vip in vips {
            let [first, second] = zerocopy::transmute!(vip.address);
            let bit = filter_bit(first, second);
            words[bit as usize / 64] |= 1 << (bit % 64);
        }
        for (index, word) in (0..).zip(words) {
            self.vip_filter.set(index, word, 0).map_err(Error::map("VIP_FILTER"))?;
        }
        self.count_change()
    }

    /// Voids what CPUs remember of the vips.
    fn count_change(&mut self) -> Result<(), Error> {
        let changes =
            self.vip_filter.get(&VIP_FILTER_STAMP, 0).map_err(Error::map("VIP_FILTER"))?;
        let next = changes.wrapping_add(1);
        self.vip_filter.set(VIP_FILTER_STAMP, next, 0).map_err(Error::map("VIP_FILTER"))
    }

    /// Says of every address of these vips which protocols it serves; the host's own serve none here.
    fn set_addresses(&mut self, vips: &[VipKey]) -> Result<(), Error> {
        let mut wanted: HashMap<[u8; size_of::<AddressKey>()], u32> = HashMap::new();
        for (key, vip) in self.vips()? {
            if vip.mode != MODE_LOCAL && vips.contains(&key) {
                let VipKey { address, family, protocol, .. } = key;
                let key = AddressKey { address, family, reserved: [0; 3] };
                *wanted.entry(bytes_of(&key)).or_default() |= serves(protocol);
            }
        }
        let there: Result<Vec<_>, _> = self.addresses.keys().collect();
        for key in there.map_err(Error::map("ADDRESSES"))? {
            if !wanted.contains_key(&key) {
                self.addresses.remove(&key).map_err(Error::map("ADDRESSES"))?;
            }
        }
        for (key, serves) in wanted {
            self.addresses.insert(key, serves, 0).map_err(Error::map("ADDRESSES"))?;
        }
        Ok(())
    }

    /// All vips.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn vips(&self) -> Result<Vec<(VipKey, Vip)>, Error> {
        let mut vips = Vec::new();
        for entry in self.vips.iter() {
            let (key, vip) = entry.map_err(Error::map("VIPS"))?;
            if let (Ok(key), Ok(vip)) = (VipKey::read_from_bytes(&key), Vip::read_from_bytes(&vip))
            {
                vips.push((key, vip));
            }
        }
        Ok(vips)
    }
}

fn index_of(service_line: u16, rank: u32, half: u32) -> Result<u32, Error> {
    if usize::from(service_line) >= SERVICES {
        return Err(Error::OutOfRange { what: "service line", index: service_line.into() });
    }
    if rank as usize >= TIERS {
        return Err(Error::OutOfRange { what: "rank of a tier", index: rank as usize });
    }
    Ok(ring_index(service_line, rank, half))
}
