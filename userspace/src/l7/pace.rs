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

/// The pace of one body among others of a connection, which is asked for piece by piece.
#[derive(Debug)]
pub(super) struct Waited {
    least: Least,
    /// How long the client was waited for, in this window, and what came.
    waited_ms: u64,
    bytes: u64,
    since_ms: Option<u64>,
}

impl Waited {
    pub(super) fn new(least: Least) -> Self {
        Self { least, waited_ms: 0, bytes: 0, since_ms: None }
    }

    /// Notes a piece of the body, or its end.
    pub(super) fn came(&mut self, now_ms: u64, bytes: usize) {
        if let Some(since_ms) = self.since_ms.take() {
            self.waited_ms += now_ms.saturating_sub(since_ms);
        }
        self.bytes += bytes as u64;
    }

    /// Notes that there is nothing to be had; when to look again, unless the client is too slow.
    pub(super) fn waits(&mut self, now_ms: u64) -> Option<u64> {
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        let waited_ms = self.waited_ms + now_ms.saturating_sub(since_ms);
        if waited_ms >= self.least.window_ms {
            let due = u64::from(self.least.rate).saturating_mul(waited_ms) / 1000;
            let is_too_slow = self.bytes < due;
            *self = Self { since_ms: Some(now_ms), ..Self::new(self.least) };
            return (!is_too_slow).then_some(now_ms + self.least.window_ms);
        }
        Some(now_ms + self.least.window_ms - waited_ms)
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

    /// When a client that is waited for `waited` of each `of` milliseconds, and then sends `bytes`, is
    /// found too slow.
    fn found_by_pieces(bytes: usize, waited: u64, of: u64) -> Option<u64> {
        let mut pace = Waited::new(LEAST);
        (0..1000).map(|round| round * of).find(|now| {
            if pace.waits(*now).is_none() || pace.waits(now + waited).is_none() {
                return true;
            }
            pace.came(now + waited, bytes);
            false
        })
    }

    #[test]
    fn only_the_time_counts_in_which_a_piece_is_waited_for() {
        assert_eq!(found_by_pieces(499, 1000, 1000), Some(9000));
        // The last piece of the first window comes in the moment in which it is over.
        assert_eq!(found_by_pieces(556, 1000, 1000), None);
        assert_eq!(found_by_pieces(49, 100, 1000), Some(99_000), "a tenth of the time");
        assert_eq!(found_by_pieces(0, 0, 1000), None);
        assert_eq!(found_by_pieces(1, 10, 10), Some(9_990), "a byte every hundredth");
    }

    #[test]
    fn it_says_when_to_look_again() {
        let mut pace = Waited::new(LEAST);
        assert_eq!(pace.waits(5), Some(10_005));
        pace.came(4005, 10_000);
        assert_eq!(pace.waits(6000), Some(12_000));
        assert_eq!(pace.waits(12_000), Some(22_000), "it was fast enough");
        assert_eq!(pace.waits(22_000), None, "but a burst excuses nothing that follows");
    }

    #[test]
    fn no_rate_is_no_limit() {
        let mut pace = Pace::new(0, 0);
        assert!(!pace.is_too_slow(60_000, 0, true, Least { rate: 0, ..LEAST }));
    }
}
