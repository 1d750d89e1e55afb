//! Rings and vips: what the supervisor publishes to the L4 programs.

use aya::maps::{Array, MapError};
use steerage_common::abi::{RING_LINES, RingLine, Vip, VipKey};
use steerage_common::limits::{RING_ENTRIES, SERVICES};
use steerage_common::ring::{Entry, member_place, place};
use steerage_common::slot::Slot;
use zerocopy::FromBytes as _;

use super::{Error, InnerRing, Kernel, LINE_BYTES};

impl Kernel {
    /// Fills one half of a service's pair of rings: `ring` has the slot of each position, or is
    /// empty for a service that has nobody; `members` may take flows whose positions are all dead.
    ///
    /// The half must not be the one in force.
    ///
    /// # Errors
    /// If `service_line` is out of range, or the kernel refuses (no memory).
    ///
    /// # Panics
    /// If `ring` has another length than zero or [`RING_ENTRIES`].
    pub fn set_ring(
        &mut self,
        service_line: u16,
        half: u32,
        ring: &[u16],
        members: &[Slot],
    ) -> Result<(), Error> {
        let lines = lines_of(ring, members);
        let mut map = self.ring_map(service_line, half)?;
        for (index, line) in lines.iter().enumerate() {
            set_line(&mut map, index as u32, line)?;
        }
        Ok(())
    }

    /// The inner map of a ring; made when it is first needed.
    fn ring_map(&mut self, service_line: u16, half: u32) -> Result<InnerRing, Error> {
        if usize::from(service_line) >= SERVICES {
            return Err(Error::OutOfRange { what: "service line", index: service_line.into() });
        }
        let index = u32::from(service_line) * 2 + (half & 1);
        match self.rings.get(&index, 0) {
            Ok(map) => Ok(map),
            Err(MapError::KeyNotFound) => {
                let map = Array::create(RING_LINES as u32, 0).map_err(Error::map("RINGS"))?;
                self.rings.set(index, &map, 0).map_err(Error::map("RINGS"))?;
                Ok(map)
            }
            Err(error) => Err(Error::map("RINGS")(error)),
        }
    }

    /// Adds a vip, or changes it.
    ///
    /// # Errors
    /// If the table is full, or the kernel refuses.
    pub fn set_vip(&mut self, key: &VipKey, vip: &Vip) -> Result<(), Error> {
        let (key, vip) = (bytes_of(key), bytes_of(vip));
        self.vips.insert(key, vip, 0).map_err(Error::map("VIPS"))
    }

    /// Removes a vip, if it is there.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_vip(&mut self, key: &VipKey) -> Result<(), Error> {
        match self.vips.remove(&bytes_of(key)) {
            Err(error) if super::error::os_error(&error) == Some(libc::ENOENT) => Ok(()),
            outcome => outcome.map_err(Error::map("VIPS")),
        }
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

fn set_line(map: &mut InnerRing, index: u32, line: &RingLine) -> Result<(), Error> {
    map.set(index, bytes_of::<_, LINE_BYTES>(line), 0).map_err(Error::map("RINGS"))
}

/// The bytes of a plain value, as aya's maps take them.
fn bytes_of<T: zerocopy::IntoBytes + zerocopy::Immutable, const N: usize>(value: &T) -> [u8; N] {
    const { assert!(size_of::<T>() == N) };
    let mut bytes = [0; N];
    bytes.copy_from_slice(value.as_bytes());
    bytes
}

/// A ring as its map holds it.
fn lines_of(ring: &[u16], members: &[Slot]) -> Vec<RingLine> {
    assert!(ring.is_empty() || ring.len() == RING_ENTRIES, "a ring is whole or empty");
    let mut lines = vec![RingLine::default(); RING_LINES];
    for index in 0..RING_ENTRIES as u32 {
        let slot = ring.get(index as usize).and_then(|slot| Slot::new(*slot));
        let (line, word) = place(index);
        lines[line as usize].words[word] = slot.map_or(Entry::EMPTY, Entry::settled).to_raw();
    }
    for member in members {
        let (line, word) = member_place(u32::from(member.raw()) / 32);
        lines[line as usize].words[word] |= 1 << (member.raw() % 32);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_and_every_member_has_its_place() {
        let slots: Vec<u16> = (0..RING_ENTRIES).map(|index| (index % 7) as u16).collect();
        let members = [Slot::new(3).unwrap(), Slot::new(4095).unwrap()];
        let lines = lines_of(&slots, &members);
        for index in [0, 15, 16, RING_ENTRIES - 1] {
            let (line, word) = place(index as u32);
            let entry = Entry::from_raw(lines[line as usize].words[word]);
            assert_eq!(entry.current(), Slot::new(slots[index]));
        }
        let set: u32 =
            lines[RING_LINES - 8..].iter().flat_map(|line| line.words).map(u32::count_ones).sum();
        assert_eq!(set, 2);
    }

    #[test]
    fn a_ring_of_nobody_names_nobody() {
        let lines = lines_of(&[], &[]);
        let (line, word) = place(RING_ENTRIES as u32 - 1);
        assert_eq!(Entry::from_raw(lines[line as usize].words[word]).current(), None);
    }
}
