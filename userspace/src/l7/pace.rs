//! How fast a request body must come.
//!
//! Only the time counts in which the client is waited for: a backend that takes nothing holds the client
//! back, and that is not the client's fault. So the rate is looked at in windows of waiting, each on its
//! own: what came before does not excuse a client that sends a byte now and then.

/// The window that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    began_ms: u64,
    /// Bytes received until then.
    received: u64,
}

/// How slow is too slow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Least {
    /// Bytes a second; 0 for any.
    pub(super) rate: u32,
    /// Length of a window.
    pub(super) window_ms: u64,
}

impl Pace {
    /// A window that begins now.
    pub(super) fn new(now_ms: u64, received: u64) -> Self {
        Self { began_ms: now_ms, received }
    }

    /// Looks at the clock; whether the client is too slow.
    pub(super) fn is_too_slow(
        &mut self,
        now_ms: u64,
        received: u64,
        is_waited_for: bool,
        least: Least,
    ) -> bool {
        let waited_ms = now_ms.saturating_sub(self.began_ms);
        if is_waited_for && waited_ms < least.window_ms {
            return false;
        }
        let came = received.saturating_sub(self.received);
        let due = u64::from(least.rate).saturating_mul(waited_ms) / 1000;
        *self = Self::new(now_ms, received);
        is_waited_for && came < due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Least = Least { rate: 500, window_ms: 10_000 };

    /// Whether a client that sends `bytes` each second for `seconds` is found too slow, and when.
    fn found(bytes: u64, seconds: u64, is_waited_for: impl Fn(u64) -> bool) -> Option<u64> {
        let mut pace = Pace::new(0, 0);
        (1..=seconds).find(|second| {
            pace.is_too_slow(second * 1000, bytes * second, is_waited_for(*second), LEAST)
        })
    }

    #[test]
    fn a_trickle_ends_after_one_window_and_the_least_rate_never() {
        assert_eq!(found(1, 100, |_| true), Some(10));
        assert_eq!(found(499, 100, |_| true), Some(10));
        assert_eq!(found(500, 100, |_| true), None);
    }

    #[test]
    fn who_is_not_waited_for_cannot_be_slow() {
        assert_eq!(found(0, 100, |_| false), None);
        assert_eq!(found(0, 100, |second| second % 9 != 0), None);
        assert_eq!(found(0, 100, |second| second > 30), Some(40));
    }

    #[test]
    fn a_burst_excuses_nothing_that_follows() {
        let mut pace = Pace::new(0, 0);
        assert!(!pace.is_too_slow(10_000, 1_000_000, true, LEAST));
        assert!(pace.is_too_slow(20_000, 1_000_100, true, LEAST));
    }

    #[test]
    fn no_rate_is_no_limit() {
        let mut pace = Pace::new(0, 0);
        assert!(!pace.is_too_slow(60_000, 0, true, Least { rate: 0, ..LEAST }));
    }
}
