//! Smooth weighted round robin, exact over all workers together; and picks by weight alone.

use std::sync::atomic::Ordering;

use super::available::Available;
use super::{Criteria, Service};

impl Service {
    /// The backend whose turn it is.
    pub(super) fn next_in_turn(
        &self,
        available: &Available,
        criteria: &Criteria<'_>,
    ) -> Option<usize> {
        let sequence = &available.sequence;
        let length = sequence.len() as u64;
        if length == 0 {
            return None;
        }
        let position = &self.region.service(self.group.line()).position;
        if criteria.tried.is_empty() {
            let turn = position.fetch_add(1, Ordering::Relaxed);
            let backend = usize::from(sequence[(turn % length) as usize]);
            if !self.is_excluded(criteria, backend) {
                return Some(backend);
            }
        }
        // A second attempt takes nobody's turn.
        self.first_from(sequence, (position.load(Ordering::Relaxed) % length) as usize, criteria)
    }

    /// A random backend, by weight.
    pub(super) fn at_random(
        &self,
        available: &Available,
        criteria: &Criteria<'_>,
    ) -> Option<usize> {
        let sequence = &available.sequence;
        if sequence.is_empty() {
            return None;
        }
        // The sequence has each backend as often as its weight says.
        self.first_from(sequence, self.random.below(sequence.len()), criteria)
    }

    /// Another one than `first`, if there is one.
    pub(super) fn another_at_random(
        &self,
        available: &Available,
        criteria: &Criteria<'_>,
        first: usize,
    ) -> Option<usize> {
        let sequence = &available.sequence;
        if available.backends.len() < 2 {
            return None;
        }
        let (before, after) = sequence.split_at(self.random.below(sequence.len()));
        let mut upcoming = after.iter().chain(before).map(|index| usize::from(*index));
        upcoming.find(|index| *index != first && !self.is_excluded(criteria, *index))
    }

    /// The first of the sequence, from `turn` on, that is not excluded.
    fn first_from(&self, sequence: &[u16], turn: usize, criteria: &Criteria<'_>) -> Option<usize> {
        let (before, after) = sequence.split_at(turn);
        let mut upcoming = after.iter().chain(before).map(|index| usize::from(*index));
        upcoming.find(|index| !self.is_excluded(criteria, *index))
    }
}
