//! Smooth weighted round robin, exact over all workers together.

use std::sync::atomic::Ordering;

use super::{Backend, Service, smooth};
use crate::region::Region;

/// The backends that take new work, as of the bitmap words that were read last.
///
/// Rebuilt when one of the service's bits differs from what was seen; to find that out costs a load
/// and a mask for each word that the service's slots stand in: mostly one.
#[derive(Debug)]
pub(super) struct Available {
    words: Vec<Seen>,
    is_built: bool,
    /// Indices of available backends with a weight.
    pub(super) backends: Vec<u16>,
    /// Indices of backends in the order of their turns.
    pub(super) sequence: Vec<u16>,
}

#[derive(Debug)]
struct Seen {
    /// Index of the bitmap word.
    word: usize,
    /// The service's slots in it.
    mask: u64,
    bits: u64,
}

impl Available {
    pub(super) fn new(backends: &[Backend]) -> Self {
        let mut words: Vec<Seen> = Vec::new();
        for backend in backends.iter().filter(|backend| backend.weight > 0) {
            let slot = backend.tenant.slot();
            match words.iter_mut().find(|seen| seen.word == slot.word()) {
                Some(seen) => seen.mask |= slot.mask(),
                None => words.push(Seen { word: slot.word(), mask: slot.mask(), bits: 0 }),
            }
        }
        Self { words, is_built: false, backends: Vec::new(), sequence: Vec::new() }
    }

    /// Looks at the bitmap again.
    #[inline]
    pub(super) fn refresh(&mut self, region: &Region, backends: &[Backend]) {
        let mut changed = !self.is_built;
        for seen in &mut self.words {
            let bits = region.health_word(seen.word) & seen.mask;
            changed |= bits != seen.bits;
            seen.bits = bits;
        }
        if changed {
            self.rebuild(backends);
        }
    }

    #[cold]
    fn rebuild(&mut self, backends: &[Backend]) {
        self.is_built = true;
        let weights: Vec<u16> = backends
            .iter()
            .map(|backend| if self.has_seen(backend) { backend.weight } else { 0 })
            .collect();
        self.backends.clear();
        let with_weight = (0u16..).zip(&weights).filter(|(_, weight)| **weight > 0);
        self.backends.extend(with_weight.map(|(index, _)| index));
        self.sequence = smooth::sequence(&weights);
    }

    fn has_seen(&self, backend: &Backend) -> bool {
        let slot = backend.tenant.slot();
        self.words.iter().any(|seen| seen.word == slot.word() && seen.bits & slot.mask() != 0)
    }
}

impl Service {
    /// The backend whose turn it is.
    pub(super) fn next_in_turn(&self, available: &Available, tried: &[usize]) -> Option<usize> {
        let sequence = &available.sequence;
        if sequence.is_empty() {
            return None;
        }
        let position = &self.region.service(self.line).position;
        if tried.is_empty() {
            let turn = position.fetch_add(1, Ordering::Relaxed);
            return Some(usize::from(sequence[(turn % sequence.len() as u64) as usize]));
        }
        // A second attempt takes nobody's turn.
        let turn = (position.load(Ordering::Relaxed) % sequence.len() as u64) as usize;
        let (before, after) = sequence.split_at(turn);
        let mut upcoming = after.iter().chain(before).map(|index| usize::from(*index));
        upcoming.find(|index| !tried.contains(index))
    }
}
