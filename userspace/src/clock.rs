//! Monotonic time as the shared region holds it, and the time of calendars.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use steerage_common::health::Ticks;

/// Milliseconds of the monotonic clock: the same in all processes of the host.
#[must_use]
pub fn now_ms() -> u64 {
    crate::sys::monotonic().as_millis() as u64
}

/// The coarse time of health deadlines.
#[must_use]
pub fn now_ticks() -> Ticks {
    Ticks::from_ms(now_ms())
}

/// The time since 1970; zero on a host whose clock is set before that.
#[must_use]
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
