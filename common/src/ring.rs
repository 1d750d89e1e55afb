//! How a ring is laid out in its map and which positions a packet's hash names.

use crate::abi::{RING_ENTRY_LINES, RING_LINE_ENTRIES};
use crate::hash::mix;
use crate::life::IdleLimits;
use crate::limits::{RING_ENTRIES, SLOTS};
use crate::slot::Slot;

/// One entry of a ring: the slot that serves this position, the one that did before, and whether
/// that changed lately. Packed into 32 bits; all ones in a slot field means none.
///
/// While an entry is *changed*, every flow that begins at it is remembered in the flow table, and so is
/// every older flow as soon as it sends. Whoever is not remembered therefore began with the slot
/// before the *first* of all changes, which is why [`Entry::former`] stays the same however often an
/// entry changes before it settles. A changed entry is *young* until no datagram that nobody remembers
/// can belong to a flow from before the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(u32);

const SLOT_BITS: u32 = 15;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;
const YOUNG: u32 = 1 << 30;
const CHANGED: u32 = 1 << 31;

/// What a slot field holds for nobody: no index of a slot.
pub const NONE: u16 = SLOT_MASK as u16;
const _: () = assert!(SLOTS <= NONE as usize);

impl Entry {
    /// The entry of a ring without members.
    pub const EMPTY: Self = Self(SLOT_MASK | SLOT_MASK << SLOT_BITS);

    /// An entry that was always `slot`'s.
    #[must_use]
    pub const fn settled(slot: Slot) -> Self {
        Self(slot.raw() as u32 | (slot.raw() as u32) << SLOT_BITS)
    }

    /// The entry after its position passes to `current`, or to nobody.
    #[must_use]
    pub const fn passed_to(self, current: Option<Slot>) -> Self {
        let to = match current {
            Some(slot) => slot.raw() as u32,
            None => SLOT_MASK,
        };
        let from = self.0 & SLOT_MASK;
        if self.is_changed() {
            Self(self.0 & !SLOT_MASK | to)
        } else if to == from || from == SLOT_MASK {
            // Nobody's flows can be at a position that was nobody's.
            Self(to | to << SLOT_BITS)
        } else {
            Self(to | from << SLOT_BITS | YOUNG | CHANGED)
        }
    }

    /// The entry when its former slot has passed to another tenant: nobody is left there.
    #[must_use]
    pub const fn without_former(self) -> Self {
        Self(self.0 | SLOT_MASK << SLOT_BITS)
    }

    /// The entry some time after its first change. `has_strays` says whether an active flow of this
    /// position is remembered that is not with the current slot.
    #[must_use]
    pub const fn aged(self, age: u32, idle: &IdleLimits, has_strays: bool) -> Self {
        let to = self.0 & SLOT_MASK;
        match self.is_changed() {
            true if age > idle.segments && age > idle.datagrams && !has_strays => {
                Self(to | to << SLOT_BITS)
            }
            true if age > idle.datagrams => Self(self.0 & !YOUNG),
            _ => self,
        }
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

    /// [`Entry::current`] as it is stored, [`NONE`] for nobody.
    #[inline(always)]
    #[must_use]
    pub const fn current_raw(self) -> u16 {
        (self.0 & SLOT_MASK) as u16
    }

    /// [`Entry::former`] as it is stored, [`NONE`] for nobody.
    #[inline(always)]
    #[must_use]
    pub const fn former_raw(self) -> u16 {
        (self.0 >> SLOT_BITS & SLOT_MASK) as u16
    }

    /// Whether datagrams that nobody remembers may belong to flows from before the change.
    #[inline(always)]
    #[must_use]
    pub const fn is_young(self) -> bool {
        self.0 & YOUNG != 0
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

    #[test]
    fn entries_keep_their_slots() {
        for index in [0, 1, 63, 64, SLOTS as u16 - 1] {
            let (a, b) = (Slot::new(index).unwrap(), Slot::new(7).unwrap());
            let entry = Entry::from_raw(Entry::settled(b).passed_to(Some(a)).to_raw());
            assert_eq!((entry.current(), entry.former()), (Some(a), Some(b)));
            assert_eq!(entry.is_changed(), a != b);
            assert!(!Entry::settled(a).is_changed());
            assert_eq!(Entry::settled(a).former(), Some(a));
        }
        assert_eq!(Entry::EMPTY.current(), None);
        assert_eq!(Entry::EMPTY.former(), None);
        assert_eq!(Entry::EMPTY.current_raw(), NONE);
    }

    #[test]
    fn the_former_slot_is_that_before_the_first_change() {
        let slots: Vec<Slot> = (0..3).map(|index| Slot::new(index).unwrap()).collect();
        let once = Entry::settled(slots[0]).passed_to(Some(slots[1]));
        let twice = once.passed_to(Some(slots[2]));
        assert_eq!((twice.current(), twice.former()), (Some(slots[2]), Some(slots[0])));
        let back = twice.passed_to(Some(slots[0]));
        assert!(back.is_changed() && back.is_young(), "flows of the others are remembered");
        let nobody = Entry::settled(slots[0]).passed_to(None);
        assert_eq!((nobody.current(), nobody.former()), (None, Some(slots[0])));
        assert_eq!(Entry::EMPTY.passed_to(Some(slots[1])), Entry::settled(slots[1]));
        let orphan = twice.without_former();
        assert_eq!((orphan.current(), orphan.former()), (Some(slots[2]), None));
    }

    #[test]
    fn entries_settle_when_nobody_from_before_can_be_left() {
        let idle = IdleLimits { segments: 100, datagrams: 10 };
        let slot = |index| Slot::new(index).unwrap();
        let entry = Entry::settled(slot(0)).passed_to(Some(slot(1)));
        assert_eq!(entry.aged(10, &idle, false), entry);
        let older = entry.aged(11, &idle, false);
        assert!(older.is_changed() && !older.is_young());
        assert_eq!(entry.aged(101, &idle, true), older);
        assert_eq!(entry.aged(101, &idle, false), Entry::settled(slot(1)));
        assert_eq!(Entry::settled(slot(1)).aged(500, &idle, false), Entry::settled(slot(1)));
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
