//! Who takes work that its home can't take.
//!
//! A service has a ring for each of its tiers. Whose home takes nothing new goes on along its own
//! sequence of positions, on the ring of the first tier that has anybody for it; where that sequence
//! misses the few who are left, all of them are counted. Packets and requests ask here, each with their
//! own reasons for passing somebody over.

use crate::crew::nth_bit;
use crate::limits::{HEALTH_WORDS, SLOTS_PER_WORD};
use crate::ring::position;
use crate::steer::NOBODY;

/// Positions of a sequence to try before all members are looked through. With a tenth of the backends
/// alive one flow in thirty gets there; with all of them alive none ever does.
pub const ATTEMPTS: u32 = 32;

/// The ring of a tier, and who of it takes work. Backends go by their slots here, or by other numbers below
/// [`NOBODY`].
pub trait Tier {
    /// Who has a position; [`NOBODY`] if the ring has no members.
    fn at(&self, position: u32) -> u16;

    /// Whether a backend takes this work.
    fn takes(&self, backend: u16) -> bool;

    /// Whether it takes it while others would: it has not just begun to warm up, say.
    fn is_eager(&self, backend: u16) -> bool;
}

/// Who is the next along the sequence of `hash`; one who is not eager only if nobody else is found.
/// [`NOBODY`] if the sequence finds none at all: then [`any`] does, if there is any.
#[inline(always)]
pub fn next(hash: u64, tier: &impl Tier) -> u16 {
    let mut reluctant = NOBODY;
    for attempt in 0..ATTEMPTS {
        let backend = tier.at(position(hash, attempt));
        if backend == NOBODY {
            return NOBODY;
        }
        if tier.takes(backend) {
            if tier.is_eager(backend) {
                return backend;
            }
            if reluctant == NOBODY {
                reluctant = backend;
            }
        }
    }
    reluctant
}

/// The nth of all slots that take work, n by hash; [`NOBODY`] if there is none. `takers` gives those
/// among slots `64 * word` and up.
#[inline(always)]
pub fn any(hash: u64, takers: impl Fn(u32) -> u64) -> u16 {
    let mut count = 0;
    for word in 0..HEALTH_WORDS as u32 {
        count += takers(word).count_ones();
    }
    let mut left = (((hash & 0xffff_ffff) * u64::from(count)) >> 32) as u32;
    let (mut found, mut first) = (0, 0);
    for word in 0..HEALTH_WORDS as u32 {
        let bits = takers(word);
        let here = bits.count_ones();
        if left < here {
            // Its place is found after the loop: the kernel looks at that once.
            (found, first) = (bits, word * SLOTS_PER_WORD as u32);
            break;
        }
        left -= here;
    }
    // Nobody takes work, or health changed between the two passes and the sender tries again.
    if found == 0 { NOBODY } else { first as u16 + nth_bit(found, left) }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::hash::mix;

    /// Eight backends that take turns on the ring.
    struct Eight {
        takes: [bool; 8],
        eager: [bool; 8],
    }

    impl Tier for Eight {
        fn at(&self, position: u32) -> u16 {
            (position % 8) as u16
        }

        fn takes(&self, backend: u16) -> bool {
            self.takes[usize::from(backend)]
        }

        fn is_eager(&self, backend: u16) -> bool {
            self.eager[usize::from(backend)]
        }
    }

    fn only(backends: &[usize]) -> [bool; 8] {
        core::array::from_fn(|index| backends.contains(&index))
    }

    #[test]
    fn the_sequence_finds_whoever_takes_work_and_the_eager_first() {
        let all = [true; 8];
        for hash in (0..1000).map(mix) {
            let home = (position(hash, 0) % 8) as u16;
            assert_eq!(next(hash, &Eight { takes: all, eager: all }), home);
            let one = next(hash, &Eight { takes: only(&[3, 5]), eager: only(&[5, 7]) });
            assert!(one == 5 || one == 3 || one == NOBODY, "{one}");
            assert_eq!(next(hash, &Eight { takes: all, eager: [false; 8] }), home);
            assert_eq!(next(hash, &Eight { takes: [false; 8], eager: all }), NOBODY);
        }
        let eager = (0..1000)
            .map(mix)
            .filter(|hash| next(*hash, &Eight { takes: only(&[3, 5]), eager: only(&[5, 7]) }) == 5);
        assert!(eager.count() > 950, "of 32 attempts some find the eager one");
    }

    #[test]
    fn an_empty_ring_has_nobody() {
        struct Empty;
        impl Tier for Empty {
            fn at(&self, _: u32) -> u16 {
                NOBODY
            }
            fn takes(&self, _: u16) -> bool {
                true
            }
            fn is_eager(&self, _: u16) -> bool {
                true
            }
        }
        assert_eq!(next(7, &Empty), NOBODY);
    }

    #[test]
    fn any_finds_whoever_is_left_and_shares_evenly() {
        assert_eq!(any(7, |_| 0), NOBODY);
        let left = [0u16, 63, 64, 1000, 4095];
        let takers = |word: u32| {
            let here = left.iter().filter(|slot| u32::from(**slot) / 64 == word);
            here.fold(0, |bits, slot| bits | 1 << (slot % 64))
        };
        let found: Vec<u16> = (0..5000).map(|i| any(mix(i), takers)).collect();
        for slot in left {
            let count = found.iter().filter(|found| **found == slot).count();
            assert!((900..1100).contains(&count), "slot {slot} got {count}");
        }
    }
}
