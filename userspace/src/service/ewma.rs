//! A backend's latest latency: a moving average that follows a rise at once and a fall slowly.
//!
//! "Peak EWMA" as in Finagle: a sample above the average becomes the average; one below moves it by how
//! much time has passed. Read, it decays with the time since the last sample, so that a backend that was
//! slow is tried again. A failure counts as a very long latency: a backend that fails fast would
//! otherwise look like the fastest of all and attract every request.

use std::cell::Cell;

/// Time in which an old sample loses all but 1/e of its weight, in microseconds.
const DECAY_US: f64 = 10e6;

/// What a failed request counts as.
const FAILURE_US: f64 = 5e6;

/// What a response that tells of an error inside the backend counts as, at least.
const ERROR_US: f64 = 1e5;

/// No latency counts as less: below, differences are noise.
pub(super) const LEAST_US: f64 = 50.0;

/// A latency in microseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Ewma {
    average_us: Cell<f64>,
    /// Of the last sample; 0 before the first.
    at_us: Cell<u64>,
}

impl Ewma {
    /// The average at `now_us`; `None` without a sample.
    pub(super) fn at(&self, now_us: u64) -> Option<f64> {
        let elapsed_us = now_us.saturating_sub(self.at_us.get());
        match (self.at_us.get(), elapsed_us) {
            (0, _) => None,
            // The common case under load needs no exponential.
            (_, 0..1000) => Some(self.average_us.get()),
            _ => Some(self.average_us.get() * weight(elapsed_us)),
        }
    }

    /// A response's head came after `latency_us`.
    pub(super) fn observe(&self, latency_us: u64, now_us: u64) {
        let sample = latency_us as f64;
        let average = match self.at_us.get() {
            0 => sample,
            _ if sample >= self.average_us.get() => sample,
            at_us => {
                let old = weight(now_us.saturating_sub(at_us));
                self.average_us.get() * old + sample * (1.0 - old)
            }
        };
        self.average_us.set(average);
        self.at_us.set(now_us.max(1));
    }

    /// A request failed.
    pub(super) fn observe_failure(&self, now_us: u64) {
        self.observe(FAILURE_US as u64, now_us);
    }

    /// A response told of an error inside the backend.
    pub(super) fn observe_error(&self, now_us: u64) {
        let worse = 4.0 * self.at(now_us).unwrap_or(0.0);
        self.observe(worse.clamp(ERROR_US, FAILURE_US) as u64, now_us);
    }
}

fn weight(elapsed_us: u64) -> f64 {
    (-(elapsed_us as f64) / DECAY_US).exp()
}

/// The median of what is known at `now_us`: what a backend without a sample is taken for.
pub(super) fn median(all: &[Ewma], now_us: u64) -> f64 {
    let mut known: Vec<f64> = all.iter().filter_map(|ewma| ewma.at(now_us)).collect();
    if known.is_empty() {
        return LEAST_US;
    }
    let middle = known.len() / 2;
    *known.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rise_counts_at_once_and_a_fall_with_time() {
        let ewma = Ewma::default();
        assert_eq!(ewma.at(5), None);
        ewma.observe(1000, 10);
        ewma.observe(8000, 20);
        assert_eq!(ewma.at(20), Some(8000.0));
        ewma.observe(1000, 30);
        assert!(ewma.at(30).unwrap() > 7990.0, "10 µs are no time");
        ewma.observe(1000, 10_000_030);
        let after = ewma.at(10_000_030).unwrap();
        assert!((3500.0..3650.0).contains(&after), "{after}");
    }

    #[test]
    fn what_is_not_used_is_forgiven() {
        let ewma = Ewma::default();
        ewma.observe_failure(1);
        assert_eq!(ewma.at(1), Some(FAILURE_US));
        assert!(ewma.at(100_000_000).unwrap() < 250.0);
    }

    #[test]
    fn an_error_is_dear_and_repeated_ones_are_dearer() {
        let ewma = Ewma::default();
        ewma.observe(200, 1);
        ewma.observe_error(2);
        assert_eq!(ewma.at(2), Some(ERROR_US));
        ewma.observe_error(3);
        assert_eq!(ewma.at(3), Some(4.0 * ERROR_US));
        (0..9).for_each(|at| ewma.observe_error(at + 4));
        assert_eq!(ewma.at(13), Some(FAILURE_US));
    }

    #[test]
    fn the_unknown_are_taken_for_the_middle() {
        let all: Vec<Ewma> = (0..5).map(|_| Ewma::default()).collect();
        assert_eq!(median(&all, 9).to_bits(), LEAST_US.to_bits());
        for (ewma, latency) in all.iter().zip([100, 900, 300]) {
            ewma.observe(latency, 9);
        }
        assert_eq!(median(&all, 9).to_bits(), 300f64.to_bits());
    }
}
