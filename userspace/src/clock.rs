//! Monotonic time as the shared region holds it.

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
