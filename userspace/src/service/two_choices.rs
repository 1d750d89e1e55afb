//! The better of two random backends (Mitzenmacher, "The power of two choices", 1996): nearly as good as
//! the best of all, at the price of looking at two; and unlike the best of all it does not send every
//! worker's next request to the same one.
//!
//! The two are drawn by weight, so that shares are right when nothing else tells them apart; and what
//! they have in hand counts by weight, so that they stay right under load.

use super::available::Available;
use super::{Criteria, Service, ewma};

impl Service {
    /// Of two random backends, the one with fewer requests in flight for its weight, all workers
    /// together.
    pub(super) fn less_loaded(
        &self,
        available: &Available,
        criteria: &Criteria<'_>,
    ) -> Option<usize> {
        self.better(available, criteria, |backend| self.load(available, backend))
    }

    /// Of two random backends, the one whose latest latency times what it has in hand is less.
    pub(super) fn sooner(&self, available: &Available, criteria: &Criteria<'_>) -> Option<usize> {
        let now_us = crate::net::clock::now_us();
        self.better(available, criteria, |backend| {
            let latency = self.latencies[backend].at(now_us).unwrap_or(self.median_us.get());
            latency.max(ewma::LEAST_US) * (self.load(available, backend) + 1.0)
        })
    }

    /// Requests in flight, of all workers, as a backend of mean weight would have them.
    fn load(&self, available: &Available, backend: usize) -> f64 {
        let mean = available.weight as f64 / available.backends.len() as f64;
        self.active(backend) as f64 * mean / f64::from(self.backends[backend].weight)
    }

    fn better(
        &self,
        available: &Available,
        criteria: &Criteria<'_>,
        cost: impl Fn(usize) -> f64,
    ) -> Option<usize> {
        let first = self.at_random(available, criteria)?;
        let Some(second) = self.another_at_random(available, criteria, first) else {
            return Some(first);
        };
        Some(if cost(second) < cost(first) { second } else { first })
    }
}
