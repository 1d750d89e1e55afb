//! One half of a service's pair of rings, mapped: what the packet programs read by lookups.
//!
//! A half that is not in force is written whole and titled last, so that a writer who dies leaves no
//! half that looks complete. In the half in force only single entries change, each by one swap.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use steerage_common::abi::{self, RING_LINE_ENTRIES, RING_LINES, RING_TITLE_LINE};
use steerage_common::limits::RING_ENTRIES;
use steerage_common::ring::{Entry, member_place, place};
use steerage_common::slot::Slot;

use super::segment::{Segment, Shareable};

/// [`abi::RingLine`].
#[derive(Debug)]
#[repr(C)]
struct RingLine {
    words: [AtomicU32; RING_LINE_ENTRIES],
}

// SAFETY: atomics only; any bits are valid.
unsafe impl Shareable for RingLine {}

const _: () = assert!(size_of::<RingLine>() == size_of::<abi::RingLine>());

/// Whose ring it is, and which generation it was written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Title {
    /// Hash of the service's name.
    pub identity: u64,
    /// The generation.
    pub generation: u64,
}

impl Title {
    /// Of a ring that is nobody's.
    pub const NONE: Self = Self { identity: 0, generation: 0 };
}

/// A mapped ring.
#[derive(Debug)]
pub struct Ring(Segment<RingLine>);

impl Ring {
    /// Maps a ring's table.
    ///
    /// # Errors
    /// If it is no mmapable map, or not of this layout.
    pub fn map(fd: &impl AsFd) -> io::Result<Self> {
        Segment::map(fd, RING_LINES).map(Self)
    }

    fn word(&self, (line, word): (u32, usize)) -> &AtomicU32 {
        &self.0.get(line as usize).words[word]
    }

    /// The entry at `position`.
    #[must_use]
    pub fn entry(&self, position: u32) -> Entry {
        Entry::from_raw(self.word(place(position)).load(Ordering::Relaxed))
    }

    /// The members among the slots `64 * word` and up.
    #[must_use]
    pub fn members(&self, word: u32) -> u64 {
        let group = |group| u64::from(self.word(member_place(group)).load(Ordering::Relaxed));
        group(word * 2) | group(word * 2 + 1) << 32
    }

    /// Changes the entry at `position` from one value to another; false if it is no longer that one.
    pub fn replace(&self, position: u32, from: Entry, to: Entry) -> bool {
        let word = self.word(place(position));
        let order = Ordering::Relaxed;
        word.compare_exchange(from.to_raw(), to.to_raw(), order, order).is_ok()
    }

    /// Whose it is; zeros while it is being written.
    #[must_use]
    pub fn title(&self) -> Title {
        let word =
            |index| u64::from(self.word((RING_TITLE_LINE as u32, index)).load(Ordering::Acquire));
        Title { identity: word(0) | word(1) << 32, generation: word(2) | word(3) << 32 }
    }

    fn set_title(&self, title: Title) {
        let halves = |value: u64| [value as u32, (value >> 32) as u32];
        let [a, b] = halves(title.identity);
        let [c, d] = halves(title.generation);
        for (index, half) in [a, b, c, d].into_iter().enumerate() {
            self.word((RING_TITLE_LINE as u32, index)).store(half, Ordering::Release);
        }
    }

    /// Writes all of it: the entry of each position, and who may take flows whose positions are all
    /// dead. It must not be in force.
    pub fn write(&self, title: Title, entry: impl Fn(u32) -> Entry, members: &[Slot]) {
        self.set_title(Title::NONE);
        for position in 0..RING_ENTRIES as u32 {
            self.word(place(position)).store(entry(position).to_raw(), Ordering::Relaxed);
        }
        let mut groups = [0u32; abi::RING_MEMBER_LINES * RING_LINE_ENTRIES];
        for member in members {
            groups[member.index() / 32] |= 1 << (member.raw() % 32);
        }
        for (group, bits) in (0..).zip(groups) {
            self.word(member_place(group)).store(bits, Ordering::Relaxed);
        }
        self.set_title(title);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_and_every_member_has_its_place() {
        let bytes = super::super::segment::page_rounded(RING_LINES * size_of::<RingLine>());
        let ring = Ring::map(&crate::sys::shared_memory("ring", bytes).unwrap()).unwrap();
        let title = Title { identity: u64::MAX - 1, generation: 1 << 40 };
        let slot = |position: u32| Slot::new((position % 7) as u16).unwrap();
        let members = [Slot::new(3).unwrap(), Slot::new(4095).unwrap()];
        ring.write(title, |position| Entry::settled(slot(position)), &members);
        for position in [0, 15, 16, RING_ENTRIES as u32 - 1] {
            assert_eq!(ring.entry(position).current(), Some(slot(position)));
        }
        let groups = 0..(abi::RING_MEMBER_LINES * RING_LINE_ENTRIES) as u32;
        let bits = |group| ring.word(member_place(group)).load(Ordering::Relaxed);
        assert_eq!(groups.map(|group| bits(group).count_ones()).sum::<u32>(), 2);
        assert_eq!((bits(0), bits(127)), (1 << 3, 1 << 31));
        assert_eq!(ring.title(), title);
        let entry = ring.entry(5);
        assert!(ring.replace(5, entry, Entry::EMPTY));
        assert!(!ring.replace(5, entry, Entry::EMPTY), "it is another by now");
    }
}
