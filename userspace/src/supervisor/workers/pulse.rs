//! Whether a worker hangs.
//!
//! A worker writes the time into its line several times a second. What counts here is not that time but
//! for how long it has not changed, by looks that come regularly: a look that comes late, because this
//! process itself was stopped or the whole machine was, counts as one.

use std::time::Duration;

/// What was seen of one worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pulse {
    heartbeat_ms: u64,
    silent: Duration,
}

/// How often to look for a worker that may be silent for `limit`.
#[must_use]
pub fn interval(limit: Duration) -> Duration {
    limit / 10
}

impl Pulse {
    /// Notes what the line says, `since_last` after the last look; tells for how long the worker has been
    /// silent, at most `interval` a look.
    pub fn look(
        &mut self,
        heartbeat_ms: u64,
        since_last: Duration,
        interval: Duration,
    ) -> Duration {
        if heartbeat_ms == self.heartbeat_ms {
            self.silent += since_last.min(interval);
        } else {
            *self = Self { heartbeat_ms, silent: Duration::ZERO };
        }
        self.silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[test]
    fn only_a_heart_that_stands_still_counts() {
        let every = interval(LIMIT);
        let mut pulse = Pulse::default();
        for beat in 1..100 {
            assert_eq!(pulse.look(beat, every, every), Duration::ZERO);
        }
        let silent: Vec<_> = (0..10).map(|_| pulse.look(99, every, every)).collect();
        assert!(silent[8] < LIMIT && silent[9] >= LIMIT, "{silent:?}");
        assert_eq!(pulse.look(100, every, every), Duration::ZERO);
    }

    #[test]
    fn a_pause_of_the_one_who_looks_is_not_held_against_the_worker() {
        let every = interval(LIMIT);
        let mut pulse = Pulse::default();
        pulse.look(1, every, every);
        assert!(pulse.look(1, 100 * LIMIT, every) < LIMIT);
        assert_eq!(pulse.look(2, every, every), Duration::ZERO);
    }
}
