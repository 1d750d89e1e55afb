//! The less loaded of two random backends (Mitzenmacher, "The power of two choices", 1996).

use std::sync::atomic::Ordering;

use super::Service;
use super::round_robin::Available;

impl Service {
    /// Of two random backends, the one with fewer requests in flight for its weight, all workers
    /// together.
    pub(super) fn less_loaded(&self, available: &Available, tried: &[usize]) -> Option<usize> {
        let all = &available.backends;
        if !tried.is_empty() {
            let left: Vec<u16> =
                all.iter().copied().filter(|index| !tried.contains(&usize::from(*index))).collect();
            return self.less_loaded_of(&left);
        }
        self.less_loaded_of(all)
    }

    fn less_loaded_of(&self, candidates: &[u16]) -> Option<usize> {
        let (first, second) = match candidates {
            [] => return None,
            [only] => return Some(usize::from(*only)),
            _ => {
                let first = self.random.below(candidates.len());
                let other = self.random.below(candidates.len() - 1);
                (candidates[first], candidates[other + usize::from(other >= first)])
            }
        };
        let (first, second) = (usize::from(first), usize::from(second));
        // (active + 1) / weight, without the division.
        let load = |index: usize, against: usize| {
            (self.active(index) + 1) * u64::from(self.backends[against].weight)
        };
        Some(if load(second, first) < load(first, second) { second } else { first })
    }

    /// Requests in flight at a backend, of all workers.
    fn active(&self, backend: usize) -> u64 {
        let slot = self.backends[backend].tenant.slot();
        (0..self.region.cell_workers())
            .map(|worker| u64::from(self.region.cell(worker, slot).active.load(Ordering::Relaxed)))
            .sum()
    }
}
