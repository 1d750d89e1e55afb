//! Which backends may be picked now.
//!
//! Those whose bit in the bitmap is set, of the lowest tier that has any. If too few of it are left
//! (`panic_percent`), the few would break down under the work of all; then health is ignored, and every
//! backend of that tier that no operator took out is picked. Whether that is so the service's line says
//! ([`Group::publish_panic`]), to packets as to requests.

use super::{Backend, smooth};
use crate::region::{Group, Region};

/// The backends that take new work, as of the bitmap words that were read last.
///
/// Rebuilt when one of the service's bits differs from what was seen; to find that out costs a load
/// and a mask for each word that the service's slots stand in: mostly one.
#[derive(Debug)]
pub(super) struct Available {
    words: Vec<Seen>,
    is_built: bool,
    /// The tier whose health is ignored, as the service's line said last.
    pub(super) panicking: Option<u8>,
    /// The tier that serves.
    pub(super) tier: Option<u8>,
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
    pub(super) fn new(backends: &[Backend]) -> Self {
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
            is_built: false,
            panicking: None,
            tier: None,
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

    /// Looks at the bitmap and the service's line again.
    #[inline]
    pub(super) fn refresh(&mut self, region: &Region, group: &Group, backends: &[Backend]) {
        let mut changed = !self.is_built || group.panicking(region) != self.panicking;
        for seen in &mut self.words {
            let bits = region.health_word(seen.word) & seen.mask;
            changed |= bits != seen.bits;
            seen.bits = bits;
        }
        if changed {
            self.rebuild(region, group, backends);
        }
    }

    /// Looks at every state anew at the next refresh: in a panic an operator's wish shows in no bit.
    pub(super) fn forget(&mut self) {
        self.is_built = false;
    }

    #[cold]
    fn rebuild(&mut self, region: &Region, group: &Group, backends: &[Backend]) {
        self.is_built = true;
        // Whoever changed a bit says so a moment later; this worker need not wait for it.
        self.panicking = group.publish_panic(region);
        let serves = |backend: &Backend| region.word(backend.tenant.slot()).serves_in_panic();
        let may_be_picked = |backend: &Backend| {
            backend.weight > 0
                && (self.has_seen(backend)
                    || self.panicking == Some(backend.tier) && serves(backend))
        };
        self.has = backends.iter().map(may_be_picked).collect();
        self.tier =
            backends.iter().zip(&self.has).filter(|(_, has)| **has).map(|(b, _)| b.tier).min();
        for (has, backend) in self.has.iter_mut().zip(backends) {
            *has &= Some(backend.tier) == self.tier;
        }
        let weight = |(backend, has): (&Backend, &bool)| if *has { backend.weight } else { 0 };
        let weights: Vec<u16> = backends.iter().zip(&self.has).map(weight).collect();
        self.weight = weights.iter().map(|weight| u64::from(*weight)).sum();
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
