//! How late checks begin: the prober's own health.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in microseconds. The timers have steps of a millisecond; a prober
/// that is seconds late is useless.
const BOUNDS_US: [u64; 12] =
    [500, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000, 20_000, 50_000, 100_000, 500_000, 2_000_000];

/// The histogram: written by the prober's thread alone.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// A check began so late.
    pub fn add(&self, lag: Duration) {
        let us = lag.as_micros() as u64;
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// A copy.
    pub fn lag(&self) -> Lag {
        Lag {
            counts: self.counts.each_ref().map(|count| count.load(Ordering::Relaxed)),
            sum: Duration::from_micros(self.sum_us.load(Ordering::Relaxed)),
        }
    }
}

/// How late checks began, beyond the first one of each target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    counts: [u64; BOUNDS_US.len() + 1],
    /// All lateness together.
    pub sum: Duration,
}

impl Lag {
    /// Upper bounds, each with the number of checks that began at most so late, as far as there are
    /// bounds; and the number of all.
    #[must_use]
    pub fn cumulative(&self) -> (Vec<(Duration, u64)>, u64) {
        let mut total = 0;
        let bounds = BOUNDS_US.iter().zip(&self.counts).map(|(bound, count)| {
            total += count;
            (Duration::from_micros(*bound), total)
        });
        let bounds = bounds.collect();
        (bounds, total + self.counts[BOUNDS_US.len()])
    }

    /// What came to an `earlier` copy since.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut counts = self.counts;
        for (count, before) in counts.iter_mut().zip(earlier.counts) {
            *count = count.saturating_sub(before);
        }
        Self { counts, sum: self.sum.saturating_sub(earlier.sum) }
    }

    /// A bound that `share` of the checks kept to; `None` if there were none, or if no bound held.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let (bounds, total) = self.cumulative();
        let wanted = share * total as f64;
        let (bound, _) = bounds.into_iter().find(|(_, count)| *count as f64 >= wanted)?;
        (total > 0).then_some(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_falls_into_its_bucket() {
        let histogram = Histogram::default();
        assert_eq!(histogram.lag().quantile(0.5), None);
        for us in [400, 500, 501, 2_500, 9_000_000] {
            histogram.add(Duration::from_micros(us));
        }
        let lag = histogram.lag();
        let (bounds, total) = lag.cumulative();
        assert_eq!(total, 5);
        assert_eq!(bounds[0], (Duration::from_micros(500), 2));
        assert_eq!(bounds[1], (Duration::from_millis(1), 3));
        assert_eq!(bounds[11], (Duration::from_secs(2), 4));
        assert_eq!(lag.quantile(0.4), Some(Duration::from_micros(500)));
        assert_eq!(lag.quantile(0.8), Some(Duration::from_millis(3)));
        assert_eq!(lag.quantile(0.99), None);
        assert_eq!(lag.sum, Duration::from_micros(9_003_901));
        histogram.add(Duration::from_millis(1));
        let since = histogram.lag().since(&lag);
        assert_eq!(
            (since.quantile(1.0), since.sum),
            (Some(Duration::from_millis(1)), Duration::from_millis(1))
        );
    }
}
