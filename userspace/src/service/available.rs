//! Which backends may be picked now.
//!
//! Those whose bit in the bitmap is set, of the lowest tier that has any. If too few are left
//! (`panic_percent`), the few would break down under the work of all; then health is ignored, and every
//! backend that no operator took out is picked.

use steerage_common::health::State;

use super::{Backend, smooth};
use crate::region::Region;

/// The backends that take new work, as of the bitmap words that were read last.
///
/// Rebuilt when one of the service's bits differs from what was seen; to find that out costs a load
/// and a mask for each word that the service's slots stand in: mostly one.
#[derive(Debug)]
pub(super) struct Available {
    words: Vec<Seen>,
    panic_percent: usize,
    is_built: bool,
    /// Whether health is ignored.
    pub(super) is_panicking: bool,
    /// Indices of available backends with a weight.
    pub(super) backends: Vec<u16>,
    /// Sum of their weights.
    pub(super) weight: u64,
    /// Indices of backends in the order of their turns.
    pub(super) sequence: Vec<u16>,
    /// By index of the backend: whether it stands in `backends`.
    has: Vec<bool>,
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
    pub(super) fn new(backends: &[Backend], panic_percent: u8) -> Self {
        let mut words: Vec<Seen> = Vec::new();
        for backend in backends.iter().filter(|backend| backend.weight > 0) {
            let slot = backend.tenant.slot();
            match words.iter_mut().find(|seen| seen.word == slot.word()) {
                Some(seen) => seen.mask |= slot.mask(),
                None => words.push(Seen { word: slot.word(), mask: slot.mask(), bits: 0 }),
            }
        }
        Self {
            words,
            panic_percent: panic_percent.into(),
            is_built: false,
            is_panicking: false,
            backends: Vec::new(),
            weight: 0,
            sequence: Vec::new(),
            has: vec![false; backends.len()],
        }
    }

    /// Whether the backend of this index may be picked.
    pub(super) fn has(&self, backend: usize) -> bool {
        self.has[backend]
    }

    /// Looks at the bitmap again. Gives whether that changed what `is_panicking` says.
    #[inline]
    pub(super) fn refresh(&mut self, region: &Region, backends: &[Backend]) -> bool {
        let mut changed = !self.is_built;
        for seen in &mut self.words {
            let bits = region.health_word(seen.word) & seen.mask;
            changed |= bits != seen.bits;
            seen.bits = bits;
        }
        changed && self.rebuild(region, backends)
    }

    /// Looks at every state anew at the next refresh: in a panic an operator's wish shows in no bit.
    pub(super) fn forget(&mut self) {
        self.is_built = false;
    }

    #[cold]
    fn rebuild(&mut self, region: &Region, backends: &[Backend]) -> bool {
        self.is_built = true;
        let is_healthy = |backend: &Backend| backend.weight > 0 && self.has_seen(backend);
        let is_in_service = |backend: &Backend| {
            let state = region.word(backend.tenant.slot()).state();
            let is_out = matches!(state, State::Unused | State::Draining | State::Maintenance);
            backend.weight > 0 && !is_out
        };
        let working = backends.iter().filter(|backend| is_healthy(backend)).count();
        let all = backends.iter().filter(|backend| is_in_service(backend)).count();
        let was_panicking = self.is_panicking;
        let is_panicking = working < all && working * 100 < all * self.panic_percent;
        let may_be_picked = |backend| match is_panicking {
            true => is_in_service(backend),
            false => is_healthy(backend),
        };
        self.has = backends.iter().map(may_be_picked).collect();
        self.is_panicking = is_panicking;
        let tier =
            backends.iter().zip(&self.has).filter(|(_, has)| **has).map(|(b, _)| b.tier).min();
        for (has, backend) in self.has.iter_mut().zip(backends) {
            *has &= Some(backend.tier) == tier;
        }
        let weight = |(backend, has): (&Backend, &bool)| if *has { backend.weight } else { 0 };
        let weights: Vec<u16> = backends.iter().zip(&self.has).map(weight).collect();
        self.weight = weights.iter().map(|weight| u64::from(*weight)).sum();
        self.backends.clear();
        let with_weight = (0u16..).zip(&weights).filter(|(_, weight)| **weight > 0);
        self.backends.extend(with_weight.map(|(index, _)| index));
        self.sequence = smooth::sequence(&weights);
        self.is_panicking != was_panicking
    }

    fn has_seen(&self, backend: &Backend) -> bool {
        let slot = backend.tenant.slot();
        self.words.iter().any(|seen| seen.word == slot.word() && seen.bits & slot.mask() != 0)
    }
}
