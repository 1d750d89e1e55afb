//! How long a connection to a backend may stay idle: learned from the backend.
//!
//! A connection that the backend closes while it is idle may be closed in the moment in which the next
//! request is sent on it. So it should be closed by us, before. When that is, a backend says
//! (`Keep-Alive: timeout=N`, RFC 2068, 19.7.1) or shows: the least idle time after which it was seen to
//! close one. What was seen is forgotten after a while, for it may have been a restart.

use std::cell::Cell;
use std::time::Duration;

/// What a backend says, less this, is how long we wait.
const MARGIN_MS: u64 = 1000;

/// No limit is shorter or longer, whatever the backend says or does.
const LEAST_MS: u64 = 1000;
const MOST_MS: u64 = 90_000;

/// How long an observation counts.
const MEMORY_MS: u64 = 600_000;

/// The idle limit of the connections to one backend.
#[derive(Debug)]
pub(super) struct IdleLimit {
    configured_ms: Cell<u64>,
    /// From `Keep-Alive`; 0 for unknown.
    announced_ms: Cell<u64>,
    /// From closes; 0 for unknown.
    observed_ms: Cell<u64>,
    observed_at_ms: Cell<u64>,
}

impl IdleLimit {
    /// A limit of `configured` until something is learned.
    pub(super) fn new(configured: Duration) -> Self {
        Self {
            configured_ms: Cell::new(whole_ms(configured)),
            announced_ms: Cell::new(0),
            observed_ms: Cell::new(0),
            observed_at_ms: Cell::new(0),
        }
    }

    /// Makes `configured` the limit until something is learned.
    pub(super) fn configure(&self, configured: Duration) {
        self.configured_ms.set(whole_ms(configured));
    }

    /// The limit in milliseconds, at `now_ms`.
    pub(super) fn ms(&self, now_ms: u64) -> u64 {
        if self.observed_ms.get() != 0 && now_ms >= self.observed_at_ms.get() + MEMORY_MS {
            self.observed_ms.set(0);
        }
        match (self.announced_ms.get(), self.observed_ms.get()) {
            (0, 0) => self.configured_ms.get(),
            (0, learned) | (learned, 0) => learned,
            (announced, observed) => announced.min(observed),
        }
    }

    /// The backend's `Keep-Alive` header.
    pub(super) fn announced(&self, value: &[u8]) {
        if let Some(seconds) = timeout(value) {
            let ms = seconds.saturating_mul(1000).saturating_sub(MARGIN_MS);
            self.announced_ms.set(ms.clamp(LEAST_MS, MOST_MS));
        }
    }

    /// The backend closed a connection that had been idle for `idle_ms`.
    pub(super) fn closed_after(&self, idle_ms: u64, now_ms: u64) {
        let limit = (idle_ms / 5 * 4).clamp(LEAST_MS, MOST_MS);
        if self.observed_ms.get() == 0 || limit <= self.observed_ms.get() {
            self.observed_ms.set(limit);
            self.observed_at_ms.set(now_ms);
        }
    }
}

/// The seconds of `timeout=N` in a `Keep-Alive` value.
fn timeout(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    text.split(',').find_map(|parameter| {
        let (name, seconds) = parameter.split_once('=')?;
        let seconds = seconds.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("timeout").then(|| seconds.parse().ok())?
    })
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit() -> IdleLimit {
        IdleLimit::new(Duration::from_millis(4500))
    }

    #[test]
    fn a_backend_that_says_its_timeout_is_believed_less_a_second() {
        let limit = limit();
        assert_eq!(limit.ms(0), 4500);
        for (value, ms) in [
            ("timeout=15", 14_000),
            ("max=100, Timeout = \"30\"", 29_000),
            ("timeout=1", 1000),
            ("timeout=3600", 90_000),
            ("timeout=99999999999999999999", 90_000),
            ("timeout=soon", 90_000),
            ("max=5", 90_000),
        ] {
            limit.announced(value.as_bytes());
            assert_eq!(limit.ms(0), ms, "{value}");
        }
    }

    #[test]
    fn the_least_time_after_which_it_closed_counts_and_is_forgotten() {
        let limit = limit();
        limit.closed_after(60_000, 0);
        assert_eq!(limit.ms(1), 48_000);
        limit.closed_after(10_000, 5);
        limit.closed_after(20_000, 6);
        assert_eq!(limit.ms(7), 8000);
        limit.announced(b"timeout=5");
        assert_eq!(limit.ms(8), 4000, "the less of both");
        limit.announced(b"timeout=60");
        assert_eq!(limit.ms(9), 8000);
        assert_eq!(limit.ms(5 + MEMORY_MS), 59_000);
        limit.closed_after(10, 0);
        assert_eq!(limit.ms(0), 1000, "no less than a second");
    }
}
