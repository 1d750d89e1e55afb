//! How a ring is laid out in its map and which positions a packet's hash names.

use crate::abi::{RING_ENTRY_LINES, RING_LINE_ENTRIES};
use crate::hash::mix;
use crate::limits::RING_ENTRIES;
use crate::slot::Slot;

/// One entry of a ring: the slot that serves this position, the one that did before, and whether
/// that changed lately. Packed into 32 bits; all ones in a slot field means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(u32);

const SLOT_BITS: u32 = 15;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;
const CHANGED: u32 = 1 << 31;

impl Entry {
    /// The entry of a ring without members.
    pub const EMPTY: Self = Self(SLOT_MASK | SLOT_MASK << SLOT_BITS);

    /// An entry that was always `slot`'s.
    #[must_use]
    pub const fn settled(slot: Slot) -> Self {
        Self(slot.raw() as u32 | (slot.raw() as u32) << SLOT_BITS)
    }

    /// An entry that passes from `former` to `current`.
    #[must_use]
    pub const fn changed(current: Slot, former: Slot) -> Self {
        Self(current.raw() as u32 | (former.raw() as u32) << SLOT_BITS | CHANGED)
    }

    /// The entry as a ring line stores it.
    #[inline(always)]
    #[must_use]
    pub const fn to_raw(self) -> u32 {
        self.0
    }

    /// The entry that a ring line stores.
    #[inline(always)]
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The slot that serves this position now.
    #[inline(always)]
    #[must_use]
    pub const fn current(self) -> Option<Slot> {
        Slot::new((self.0 & SLOT_MASK) as u16)
    }

    /// The slot that served this position before the last change.
    #[inline(always)]
    #[must_use]
    pub const fn former(self) -> Option<Slot> {
        Slot::new((self.0 >> SLOT_BITS & SLOT_MASK) as u16)
    }

    /// Whether the position changed hands lately.
    #[inline(always)]
    #[must_use]
    pub const fn is_changed(self) -> bool {
        self.0 & CHANGED != 0
    }
}

/// The line and the word in it that hold entry `index` of a ring.
#[inline(always)]
#[must_use]
pub const fn place(index: u32) -> (u32, usize) {
    (index / RING_LINE_ENTRIES as u32, index as usize % RING_LINE_ENTRIES)
}

/// The line and the word in it that hold the membership bits of slots `32 * group` and up.
#[inline(always)]
#[must_use]
pub const fn member_place(group: u32) -> (u32, usize) {
    (RING_ENTRY_LINES as u32 + group / RING_LINE_ENTRIES as u32, group as usize % RING_LINE_ENTRIES)
}

/// The ring position that `hash` names at its nth attempt.
///
/// Attempt 0 is the flow's home; the next ones are where it goes while that backend takes no new
/// work. Every host and both planes walk the same sequence.
#[inline(always)]
#[must_use]
pub const fn position(hash: u64, attempt: u32) -> u32 {
    let hash = if attempt == 0 { hash } else { mix(hash.wrapping_add(attempt as u64)) };
    // Multiply and shift instead of a division: exact bounds that the verifier can see.
    (((hash >> 32) * RING_ENTRIES as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SLOTS;

    #[test]
    fn entries_keep_their_slots() {
        for index in [0, 1, 63, 64, SLOTS as u16 - 1] {
            let (a, b) = (Slot::new(index).unwrap(), Slot::new(7).unwrap());
            let entry = Entry::from_raw(Entry::changed(a, b).to_raw());
            assert_eq!((entry.current(), entry.former()), (Some(a), Some(b)));
            assert!(entry.is_changed());
            assert!(!Entry::settled(a).is_changed());
            assert_eq!(Entry::settled(a).former(), Some(a));
        }
        assert_eq!(Entry::EMPTY.current(), None);
        assert_eq!(Entry::EMPTY.former(), None);
    }

    #[test]
    fn positions_stay_in_the_ring_and_spread() {
        let mut seen = std::collections::HashSet::new();
        for i in 0..200_000u64 {
            let index = position(mix(i), (i % 9) as u32);
            assert!((index as usize) < RING_ENTRIES);
            seen.insert(index);
        }
        assert_eq!(position(u64::MAX, 0) as usize, RING_ENTRIES - 1);
        assert!(seen.len() > 60_000, "{} of 65537 positions seen", seen.len());
    }
}
