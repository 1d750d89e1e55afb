//! The time of the current loop turn.
//!
//! Read from the kernel once a turn, when the thread comes back with events; everything that happens
//! within one turn happens at one time. The clock is the monotonic one that the shared region uses.

use std::cell::Cell;

thread_local! {
    static NOW_US: Cell<u64> = const { Cell::new(0) };
}

/// Microseconds of the monotonic clock at the beginning of the turn.
#[inline]
#[must_use]
pub fn now_us() -> u64 {
    match NOW_US.get() {
        0 => refresh(),
        now => now,
    }
}

/// Milliseconds of the monotonic clock at the beginning of the turn.
#[inline]
#[must_use]
pub fn now_ms() -> u64 {
    now_us() / 1000
}

/// Reads the clock anew.
pub fn refresh() -> u64 {
    let now = crate::sys::monotonic().as_micros() as u64;
    NOW_US.set(now);
    now
}

/// Makes it this time on the calling thread, until it is set or read anew.
#[cfg(test)]
pub fn set_us(now_us: u64) {
    NOW_US.set(now_us);
}
