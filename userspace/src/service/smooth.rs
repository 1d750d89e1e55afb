//! The cyclic sequence of weighted round robin.
//!
//! Each backend stands in it as often as its weight says, so that any window of the sequence's length
//! is exact; and as evenly as can be: within the first `n` entries, a backend of share `s` stands
//! more than `s·n − 1` and fewer than `s·n + 1` times. That is the schedule of unit jobs by earliest
//! deadline (Baruah et al., "Proportionate progress", 1996): the `k`-th turn of a backend may not
//! come before `⌊k/s⌋` and is due before `⌈(k+1)/s⌉`, which can always be met as the shares add up
//! to one.
//!
//! The sequence is a function of the weights alone: all workers compute the same one and take turns
//! in it by one shared counter.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The sequence for backends of these weights: indices into `weights`, of length Σweights divided by
/// their greatest common divisor. Empty if all weights are 0.
#[must_use]
pub fn sequence(weights: &[u16]) -> Vec<u16> {
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight));
    if divisor == 0 {
        return Vec::new();
    }
    let weights: Vec<u64> = weights.iter().map(|weight| u64::from(weight / divisor)).collect();
    let length: u64 = weights.iter().sum();

    // What may have its turn now, by the time it is due; and what may later, by when.
    let mut ready = BinaryHeap::new();
    let mut later: Vec<Vec<u32>> = vec![Vec::new(); length as usize];
    for (index, weight) in weights.iter().enumerate() {
        if *weight > 0 {
            later[0].push(index as u32);
        }
    }
    let mut turns = vec![0u64; weights.len()];
    let mut sequence = Vec::with_capacity(length as usize);
    for position in 0..length {
        for index in std::mem::take(&mut later[position as usize]) {
            let (turn, weight) = (turns[index as usize], weights[index as usize]);
            let due = ((turn + 1) * length).div_ceil(weight);
            ready.push(Reverse((due, index)));
        }
        let Some(Reverse((_, index))) = ready.pop() else { break };
        sequence.push(index as u16);
        let turn = &mut turns[index as usize];
        *turn += 1;
        let weight = weights[index as usize];
        if *turn < weight {
            let from = (*turn * length / weight).max(position + 1);
            later[from as usize].push(index);
        }
    }
    debug_assert_eq!(sequence.len() as u64, length);
    sequence
}

const fn gcd(mut a: u16, mut b: u16) -> u16 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_cases_are_as_one_would_write_them() {
        assert_eq!(sequence(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(sequence(&[256, 256]), [0, 1]);
        assert_eq!(sequence(&[0, 7, 0]), [1]);
        assert_eq!(sequence(&[2, 1]), [0, 0, 1]);
        assert_eq!(sequence(&[5, 1, 1]), [0, 0, 0, 1, 0, 0, 2]);
        assert!(sequence(&[]).is_empty());
        assert!(sequence(&[0, 0]).is_empty());
    }

    #[test]
    fn the_largest_tables_take_no_time() {
        let weights: Vec<u16> = (0..4096).map(|index| 256 - index % 2).collect();
        assert_eq!(sequence(&weights).len(), 2048 * 256 + 2048 * 255);
    }

    proptest! {
        #[test]
        fn every_window_is_exact(
            weights in prop::collection::vec(0u16..=256, 1..12),
            start in 0usize..100_000,
        ) {
            let total: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
            let sequence = sequence(&weights);
            let mut counts = vec![0u16; weights.len()];
            if total > 0 {
                for position in start..start + total {
                    counts[usize::from(sequence[position % sequence.len()])] += 1;
                }
            }
            prop_assert_eq!(counts, weights);
        }

        #[test]
        fn every_beginning_is_within_one_of_the_ideal(
            weights in prop::collection::vec(0u16..=256, 1..12),
        ) {
            let sequence = sequence(&weights);
            let total: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
            let mut counts = vec![0i64; weights.len()];
            for (position, index) in sequence.iter().enumerate() {
                counts[usize::from(*index)] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let error = count * total - (position as i64 + 1) * i64::from(*weight);
                    prop_assert!(error.abs() < total, "at {position}: {counts:?} of {weights:?}");
                }
            }
        }
    }
}
