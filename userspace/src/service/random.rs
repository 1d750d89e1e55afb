//! A fast generator of random numbers, seeded once per worker: for spreading, not for secrets.

use std::cell::Cell;

use steerage_common::hash::mix;

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014) with the
/// house's mixer.
#[derive(Debug)]
pub struct Random {
    state: Cell<u64>,
}

impl Random {
    /// The sequence that `seed` stands for.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: Cell::new(mix(seed)) }
    }

    /// A seed that no other process has.
    #[must_use]
    pub fn fresh_seed() -> u64 {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one(std::process::id())
    }

    /// Any 64 bits.
    #[inline]
    pub fn next(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        mix(state)
    }

    /// A number below `bound`, which must not be 0.
    #[inline]
    pub fn below(&self, bound: usize) -> usize {
        // The high word of the product: no division, and a bias under bound / 2⁶⁴.
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// `value`, more or less by up to a tenth.
    pub fn spread(&self, value: u64) -> u64 {
        let tenth = value / 10;
        value - tenth + self.next() % (2 * tenth + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_range_and_reach_its_ends() {
        let random = Random::new(7);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[random.below(5)] += 1;
            assert!((900..=1100).contains(&random.spread(1000)));
            assert_eq!(random.spread(9), 9);
        }
        assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
    }
}
