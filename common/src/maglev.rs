//! Filling a ring: Maglev hashing with exact weights.
//!
//! The population of Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer"
//! (NSDI 2016, section 3.4), with two changes. Each member has a quota, its share of the ring by
//! weight to within one entry (largest remainder), and members take turns in proportion to their
//! quotas, so that weights are exact and not only approached. And members are ordered and permuted by
//! identity, not by slot, so that every host of a group fills the same ring whatever its slots are.

use crate::hash::sip13;
use crate::limits::RING_ENTRIES;
use crate::slot::Slot;

const M: u64 = RING_ENTRIES as u64;
const FREE: u16 = u16::MAX;

/// A member of a service, for its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Hash of (service, address, port), the same on every host.
    pub identity: u64,
    /// The member's slot on this host.
    pub slot: Slot,
    /// Its weight; 0 leaves it out of the ring.
    pub weight: u16,
}

/// Working memory of [`populate`], one a member.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    position: u64,
    skip: u64,
    quota: u64,
    filled: u64,
    remainder: u64,
}

/// Fills `ring` with the slots of `members`, which are sorted by identity on return.
///
/// Returns false, with `ring` untouched, if no member has any weight.
///
/// # Panics
/// If `ring` is not [`RING_ENTRIES`] long or `cursors` is shorter than `members`.
pub fn populate(
    key: [u64; 2],
    members: &mut [Member],
    cursors: &mut [Cursor],
    ring: &mut [u16],
) -> bool {
    assert!(ring.len() == RING_ENTRIES, "a ring has {RING_ENTRIES} entries");
    let cursors = &mut cursors[..members.len()];
    members.sort_unstable_by_key(|member| member.identity);
    if !set_quotas(members, cursors) {
        return false;
    }
    for (member, cursor) in members.iter().zip(cursors.iter_mut()) {
        cursor.position = sip13(key, &[member.identity, 0]) % M;
        cursor.skip = sip13(key, &[member.identity, 1]) % (M - 1) + 1;
        cursor.filled = 0;
    }
    ring.fill(FREE);
    let quota_max = cursors.iter().map(|cursor| cursor.quota).max().unwrap_or(1);
    let mut left = RING_ENTRIES;
    // Round r: a member may hold r/quota_max of its quota, rounded up. The greatest one takes an
    // entry a round, the others take theirs evenly spread over the rounds.
    let mut round = 1;
    while left > 0 {
        for (member, cursor) in members.iter().zip(cursors.iter_mut()) {
            let due = (round * cursor.quota).div_ceil(quota_max).min(cursor.quota);
            if cursor.filled < due {
                take_next(cursor, member.slot.raw(), ring);
                left -= 1;
            }
        }
        round += 1;
    }
    true
}

/// Shares of the ring in proportion to weight, summing to its size.
fn set_quotas(members: &[Member], cursors: &mut [Cursor]) -> bool {
    let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    if total == 0 {
        return false;
    }
    let mut left = M;
    for (member, cursor) in members.iter().zip(cursors.iter_mut()) {
        let share = M * u64::from(member.weight);
        cursor.quota = share / total;
        cursor.remainder = share % total;
        left -= cursor.quota;
    }
    // Fewer than members.len() entries are left; they go to the greatest remainders.
    for _ in 0..left {
        let greatest = (0..cursors.len()).max_by_key(|i| (cursors[*i].remainder, usize::MAX - i));
        if let Some(cursor) = greatest.and_then(|i| cursors.get_mut(i)) {
            cursor.quota += 1;
            cursor.remainder = 0;
        }
    }
    true
}

/// Gives the next free position of the member's permutation to it.
fn take_next(cursor: &mut Cursor, slot: u16, ring: &mut [u16]) {
    loop {
        let position = cursor.position as usize;
        cursor.position = (cursor.position + cursor.skip) % M;
        if ring[position] == FREE {
            ring[position] = slot;
            cursor.filled += 1;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(weights: &[u16]) -> Vec<Member> {
        weights
            .iter()
            .enumerate()
            .map(|(i, weight)| Member {
                identity: crate::hash::mix(i as u64 + 1),
                slot: Slot::new(i as u16).unwrap(),
                weight: *weight,
            })
            .collect()
    }

    fn ring_of(mut members: Vec<Member>) -> Vec<u16> {
        let mut ring = vec![0; RING_ENTRIES];
        let mut cursors = vec![Cursor::default(); members.len()];
        assert!(populate([3, 4], &mut members, &mut cursors, &mut ring));
        ring
    }

    fn entries_of(ring: &[u16], slot: u16) -> usize {
        ring.iter().filter(|entry| **entry == slot).count()
    }

    #[test]
    fn weights_are_exact() {
        let ring = ring_of(members(&[5, 1, 0]));
        assert!(entries_of(&ring, 0).abs_diff(RING_ENTRIES * 5 / 6) <= 1);
        assert!(entries_of(&ring, 1).abs_diff(RING_ENTRIES / 6) <= 1);
        assert_eq!(entries_of(&ring, 2), 0);
    }

    #[test]
    fn no_weight_no_ring() {
        let mut ring = vec![9; RING_ENTRIES];
        let mut none = members(&[0, 0]);
        let mut cursors = vec![Cursor::default(); 2];
        assert!(!populate([0, 0], &mut none, &mut cursors, &mut ring));
        assert!(!populate([0, 0], &mut [], &mut [], &mut ring));
        assert!(ring.iter().all(|entry| *entry == 9));
    }

    #[test]
    fn order_and_slots_do_not_matter_to_the_group() {
        let here = members(&[1, 2, 3]);
        let mut there = here.clone();
        there.reverse();
        for (i, member) in there.iter_mut().enumerate() {
            member.slot = Slot::new(100 + i as u16).unwrap();
        }
        let renamed = |slot: u16| 100 + (2 - slot);
        let (a, b) = (ring_of(here), ring_of(there));
        assert!(a.iter().zip(&b).all(|(a, b)| renamed(*a) == *b));
    }

    /// Of the entries that were not the lost member's, hardly any changes hands; and no member has more
    /// than its share, or less.
    #[test]
    fn losing_one_moves_little_else_whatever_their_number() {
        for count in [3, 8, 100, 1000] {
            let all = members(&vec![1; count]);
            let before = ring_of(all.clone());
            let mut entries = vec![0; count];
            before.iter().for_each(|slot| entries[usize::from(*slot)] += 1);
            let share = RING_ENTRIES / count;
            assert!(entries.iter().all(|entries| *entries == share || *entries == share + 1));
            let lost: Vec<usize> = (0..count).step_by((count / 4).max(1)).collect();
            let mut moved = 0;
            for gone in &lost {
                let mut rest = all.clone();
                rest.remove(*gone);
                let after = ring_of(rest);
                let kept = before.iter().zip(&after).filter(|(b, _)| usize::from(**b) != *gone);
                moved += kept.filter(|(before, after)| before != after).count();
            }
            let moved = moved as f64 / (lost.len() * RING_ENTRIES) as f64;
            assert!(moved <= 0.006, "{count}: {moved} of the entries moved needlessly");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_entry_has_a_weighted_owner(weights in proptest::collection::vec(0u16..=256, 1..60)) {
            let total: usize = weights.iter().map(|w| usize::from(*w)).sum();
            prop_assume!(total > 0);
            let ring = ring_of(members(&weights));
            for (slot, weight) in weights.iter().enumerate() {
                let share = RING_ENTRIES * usize::from(*weight) / total;
                let count = entries_of(&ring, slot as u16);
                prop_assert!(count == share || count == share + 1);
                prop_assert!(*weight > 0 || count == 0);
            }
        }
    }
}
