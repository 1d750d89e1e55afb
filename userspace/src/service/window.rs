//! The share of failed requests in a sliding window, of all workers together.
//!
//! Each worker counts into ten buckets of its own cell, by plain stores. Whoever sees a failure adds up
//! the buckets of all: failures are rare, so that is where the work is.

use std::sync::atomic::{AtomicU64, Ordering};

use steerage_common::abi::WINDOW_BUCKETS;

use crate::region::Cell;

/// A bucket: which one it is (16 bits), requests (24), failures (24). Counts stop at their maximum.
#[derive(Clone, Copy)]
struct Bucket(u64);

const COUNT_MAX: u64 = (1 << 24) - 1;

impl Bucket {
    const fn empty(number: u64) -> Self {
        Self((number & 0xffff) << 48)
    }

    const fn is(self, number: u64) -> bool {
        self.0 >> 48 == number & 0xffff
    }

    const fn requests(self) -> u64 {
        self.0 >> 24 & COUNT_MAX
    }

    const fn failures(self) -> u64 {
        self.0 & COUNT_MAX
    }

    const fn with(self, is_failure: bool) -> Self {
        if self.requests() == COUNT_MAX {
            return self;
        }
        Self(self.0 + (1 << 24) + is_failure as u64)
    }
}

/// A service's window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    bucket_ms: u64,
}

impl Window {
    pub(super) fn new(window: std::time::Duration) -> Self {
        Self { bucket_ms: (window.as_millis() as u64 / WINDOW_BUCKETS as u64).max(1) }
    }

    /// Counts a request's outcome in this worker's cell.
    #[inline]
    pub(super) fn count(self, cell: &Cell, is_failure: bool, now_ms: u64) {
        let number = now_ms / self.bucket_ms;
        let bucket: &AtomicU64 = &cell.window[(number % WINDOW_BUCKETS as u64) as usize];
        let mut value = Bucket(bucket.load(Ordering::Relaxed));
        if !value.is(number) {
            value = Bucket::empty(number);
        }
        bucket.store(value.with(is_failure).0, Ordering::Relaxed);
    }

    /// Requests and failures in the window, by the cells of all workers.
    pub(super) fn sum<'a>(self, cells: impl Iterator<Item = &'a Cell>, now_ms: u64) -> (u64, u64) {
        let number = now_ms / self.bucket_ms;
        let (mut requests, mut failures) = (0, 0);
        for cell in cells {
            for back in 0..WINDOW_BUCKETS as u64 {
                let Some(number) = number.checked_sub(back) else { continue };
                let bucket = &cell.window[(number % WINDOW_BUCKETS as u64) as usize];
                let bucket = Bucket(bucket.load(Ordering::Relaxed));
                if bucket.is(number) {
                    requests += bucket.requests();
                    failures += bucket.failures();
                }
            }
        }
        (requests, failures)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let window = Window::new(Duration::from_secs(10));
        let cells = [Cell::new(), Cell::new()];
        let sum = |now_ms| window.sum(cells.iter(), now_ms);
        window.count(&cells[0], true, 1_000_000);
        window.count(&cells[0], false, 1_000_400);
        window.count(&cells[1], true, 1_003_000);
        assert_eq!(sum(1_003_000), (3, 2));
        assert_eq!(sum(1_009_999), (3, 2));
        assert_eq!(sum(1_010_000), (1, 1), "the first second is over the edge");
        assert_eq!(sum(1_013_000), (0, 0));
        window.count(&cells[0], false, 1_020_000);
        assert_eq!(sum(1_020_000), (1, 0), "the bucket was used again");
    }

    #[test]
    fn a_full_bucket_stays_full() {
        let bucket = Bucket(COUNT_MAX << 24 | 7);
        assert_eq!(bucket.with(true).failures(), 7);
    }
}
