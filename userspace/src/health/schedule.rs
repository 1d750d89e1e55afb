//! When the next check is due: pure functions of time, state and a random number.

use std::time::Duration;

use tokio::time::Instant;

/// Between checks while a backend is on its way up or down.
pub const TRANSITION_INTERVAL: Duration = Duration::from_millis(500);

/// How long to wait before the next check: the interval ± 10 %, or [`TRANSITION_INTERVAL`] (if that
/// is shorter) while results contradict the state. `random` is uniform over its range.
pub fn next_delay(interval: Duration, in_transition: bool, random: u32) -> Duration {
    let base = if in_transition { interval.min(TRANSITION_INTERVAL) } else { interval };
    let spread = 0.9 + 0.2 * (f64::from(random) / f64::from(u32::MAX));
    base.mul_f64(spread)
}

/// When the first regular check after the start's is due: anywhere in the interval, so that the
/// checks of many backends spread over it.
pub fn phase(interval: Duration, random: u32) -> Duration {
    interval.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// The least time from a check's begin to that of one that a failed request calls for.
const WOKEN_INTERVAL: Duration = Duration::from_millis(500);

/// When the next check is due after requests failed: at once, but not within [`WOKEN_INTERVAL`] of the
/// last one, and never later than it was.
pub fn woken(due: Instant, last_begun: Instant, now: Instant) -> Instant {
    due.min(now.max(last_begun + WOKEN_INTERVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_request_pulls_the_next_check_forward() {
        let begun = Instant::now();
        let after = |ms| begun + Duration::from_millis(ms);
        assert_eq!(woken(after(2000), begun, after(1000)), after(1000));
        assert_eq!(woken(after(2000), begun, after(100)), after(500));
        assert_eq!(woken(after(300), begun, after(100)), after(300));
    }

    #[test]
    fn checks_keep_within_a_tenth_of_their_interval() {
        let interval = Duration::from_secs(2);
        assert_eq!(next_delay(interval, false, 0), Duration::from_millis(1800));
        assert_eq!(next_delay(interval, false, u32::MAX), Duration::from_millis(2200));
        assert_eq!(next_delay(interval, true, 0), Duration::from_millis(450));
        let short = Duration::from_millis(100);
        assert_eq!(next_delay(short, true, 0), Duration::from_millis(90));
    }

    #[test]
    fn first_checks_spread_over_the_interval() {
        let interval = Duration::from_secs(2);
        assert_eq!(phase(interval, 0), Duration::ZERO);
        assert_eq!(phase(interval, u32::MAX), interval);
    }
}
