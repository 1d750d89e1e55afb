//! What counters gained lately: about the last ten seconds, the latest of them weighing the most.

use steerage_common::latency::{BUCKETS, quantile_us};

/// Seconds after which what was gained weighs a third.
const MEMORY_SECONDS: f64 = 10.0;

/// What has faded to less than this is nothing.
pub const LEAST: f64 = 0.05;

/// The time between two looks.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    seconds: f64,
    /// How much weighs what was gained before.
    fading: f64,
}

impl Step {
    /// Of so many seconds.
    #[must_use]
    pub fn new(seconds: f64) -> Self {
        Self { seconds, fading: (-seconds / MEMORY_SECONDS).exp() }
    }
}

/// A counter that is looked at now and then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    last: u64,
    gained: f64,
    seconds: f64,
}

impl Meter {
    /// A counter that stands at `value`: what came before was not seen.
    #[must_use]
    pub fn new(value: u64) -> Self {
        Self { last: value, gained: 0.0, seconds: 0.0 }
    }

    /// It stands at `value`, a step after the last look. One that goes backwards was begun anew.
    pub fn look(&mut self, value: u64, step: Step) {
        self.gained = self.gained * step.fading + value.saturating_sub(self.last) as f64;
        self.seconds = self.seconds * step.fading + step.seconds;
        self.last = value;
    }

    /// What was gained, weighted.
    #[must_use]
    pub fn gained(&self) -> f64 {
        self.gained
    }

    /// How much a second; `None` before the second look.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.gained / self.seconds)
    }
}

/// How often something took how long, of late.
#[derive(Clone, Debug)]
pub struct Times {
    last: [u64; BUCKETS],
    gained: [f64; BUCKETS],
}

impl Times {
    /// Times that were counted as often before, which was not seen. No counts are zeros.
    #[must_use]
    pub fn new(counts: &[u64]) -> Self {
        let last = std::array::from_fn(|at| counts.get(at).copied().unwrap_or(0));
        Self { last, gained: [0.0; BUCKETS] }
    }

    /// They were counted as often a step after the last look.
    pub fn look(&mut self, counts: &[u64], step: Step) {
        for (at, (last, gained)) in self.last.iter_mut().zip(&mut self.gained).enumerate() {
            let count = counts.get(at).copied().unwrap_or(0);
            *gained = *gained * step.fading + count.saturating_sub(*last) as f64;
            *last = count;
        }
    }
}

/// The seconds that half of these times, and 99 of a hundred, did not pass; `None` of hardly any.
#[must_use]
pub fn quantiles<'a>(all: impl Iterator<Item = &'a Times>) -> [Option<f64>; 2] {
    /// What has faded counts in parts.
    const PARTS: f64 = 1024.0;
    let mut counts = [0; BUCKETS];
    for times in all {
        for (count, gained) in counts.iter_mut().zip(times.gained) {
            *count += (gained * PARTS) as u64;
        }
    }
    if counts.iter().sum::<u64>() < (LEAST * PARTS) as u64 {
        return [None; 2];
    }
    [500, 990].map(|permille| Some(quantile_us(&counts, permille)? as f64 / 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_counter_has_its_rate_from_the_second_look_on() {
        let mut meter = Meter::new(1_000);
        assert_eq!(meter.rate(), None);
        for look in 1..50 {
            meter.look(1_000 + 20 * look, Step::new(2.0));
            assert!((meter.rate().unwrap() - 10.0).abs() < 1e-9, "{meter:?}");
        }
    }

    #[test]
    fn a_change_shows_at_once_and_is_forgotten() {
        let mut meter = Meter::new(0);
        for _ in 0..60 {
            meter.look(0, Step::new(1.0));
        }
        meter.look(100, Step::new(1.0));
        assert!((9.0..12.0).contains(&meter.rate().unwrap()), "{meter:?}");
        for _ in 0..60 {
            meter.look(100, Step::new(1.0));
        }
        assert!(meter.rate().unwrap() < 0.1, "{meter:?}");
        // Another daemon's counter.
        meter.look(3, Step::new(1.0));
        assert!(meter.rate().unwrap() < 0.1, "{meter:?}");
    }

    #[test]
    fn quantiles_are_those_of_the_last_times() {
        let mut counts = [0; BUCKETS];
        counts[30] = 1_000_000;
        let mut times = Times::new(&counts);
        assert_eq!(quantiles([&times].into_iter()), [None; 2], "what came before was not seen");
        // 90 of up to 1 ms, 10 of 2 to 3 ms.
        (counts[8], counts[11]) = (90, 10);
        times.look(&counts, Step::new(1.0));
        let [half, most] = quantiles([&times, &times].into_iter()).map(Option::unwrap);
        assert!(half <= 0.001 && (0.002..=0.003).contains(&most), "{half} {most}");
        for _ in 0..120 {
            times.look(&counts, Step::new(1.0));
        }
        assert_eq!(quantiles([&times].into_iter()), [None; 2], "they are forgotten");
        assert_eq!(quantiles([&Times::new(&[])].into_iter()), [None; 2]);
    }
}
