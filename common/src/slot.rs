//! A backend's stable index in the shared region.

use crate::limits::{SLOTS, SLOTS_PER_WORD};

/// The index of a backend in every table of the shared region, below [`SLOTS`].
///
/// A slot is given by identity (service, address, port) and kept over reloads and restarts.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u16);

impl Slot {
    /// The slot with this index, or `None` past the end of the tables.
    #[inline(always)]
    #[must_use]
    pub const fn new(index: u16) -> Option<Self> {
        if (index as usize) < SLOTS { Some(Self(index)) } else { None }
    }

    /// The index, below [`SLOTS`].
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The index as the tables store it.
    #[inline(always)]
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// Which word of the health bitmap holds this slot's bit.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> usize {
        self.index() / SLOTS_PER_WORD
    }

    /// This slot's bit within its word of the health bitmap.
    #[inline(always)]
    #[must_use]
    pub const fn mask(self) -> u64 {
        1 << (self.index() % SLOTS_PER_WORD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_past_the_tables_cannot_be_made() {
        assert_eq!(Slot::new(SLOTS as u16), None);
        assert_eq!(Slot::new(SLOTS as u16 - 1).unwrap().index(), SLOTS - 1);
    }

    #[test]
    fn every_slot_has_a_bit_of_its_own() {
        let mut words = [0u64; crate::limits::HEALTH_WORDS];
        for index in 0..SLOTS as u16 {
            let slot = Slot::new(index).unwrap();
            assert_eq!(words[slot.word()] & slot.mask(), 0);
            words[slot.word()] |= slot.mask();
        }
        assert!(words.iter().all(|word| *word == u64::MAX));
    }
}
