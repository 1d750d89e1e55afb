//! How much of a service's work may be retries.
//!
//! A retry of what may have been executed is extra work, and comes when a backend has too much of it
//! already. So at a time no more than a share of the requests in flight may be such retries, and a few
//! beside that, so that a quiet service can retry at all.

use std::cell::Cell;

use crate::net::clock;

/// Retries that are allowed whatever the share says, in each window.
const FREE_RETRIES: u32 = 3;

/// The window of the free retries, in milliseconds.
const WINDOW_MS: u64 = 10_000;

/// A service's budget, in one worker.
#[derive(Debug)]
pub(super) struct Budget {
    percent: u32,
    in_flight: Cell<u32>,
    retrying: Cell<u32>,
    window_ends_ms: Cell<u64>,
    free_left: Cell<u32>,
}

/// A request in flight, as the budget counts it.
#[derive(Debug)]
pub(super) struct Share<'a> {
    budget: &'a Budget,
    is_retrying: bool,
}

impl Budget {
    /// A budget of `percent` of the requests in flight.
    pub(super) const fn new(percent: u32) -> Self {
        Self {
            percent,
            in_flight: Cell::new(0),
            retrying: Cell::new(0),
            window_ends_ms: Cell::new(0),
            free_left: Cell::new(0),
        }
    }

    /// Counts a request until the share is dropped.
    pub(super) fn enter(&self) -> Share<'_> {
        self.in_flight.set(self.in_flight.get() + 1);
        Share { budget: self, is_retrying: false }
    }

    fn has_free(&self) -> bool {
        let now = clock::now_ms();
        if self.window_ends_ms.get() <= now {
            self.window_ends_ms.set(now + WINDOW_MS);
            self.free_left.set(FREE_RETRIES);
        }
        self.free_left.get() > 0
    }

    fn has_share(&self) -> bool {
        u64::from(self.retrying.get() + 1) * 100
            <= u64::from(self.in_flight.get()) * u64::from(self.percent)
    }
}

impl Share<'_> {
    /// Whether the request may be one that is retried.
    pub(super) fn may_retry(&self) -> bool {
        self.is_retrying || self.budget.has_share() || self.budget.has_free()
    }

    /// Makes the request one that is retried.
    pub(super) fn retry(&mut self) {
        if self.is_retrying {
            return;
        }
        if !self.budget.has_share() && self.budget.has_free() {
            self.budget.free_left.set(self.budget.free_left.get() - 1);
        }
        self.is_retrying = true;
        self.budget.retrying.set(self.budget.retrying.get() + 1);
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.in_flight.set(self.budget.in_flight.get() - 1);
        if self.is_retrying {
            self.budget.retrying.set(self.budget.retrying.get() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_requests_and_a_few_more_may_be_retries() {
        let budget = Budget::new(20);
        let mut shares: Vec<Share<'_>> = (0..20).map(|_| budget.enter()).collect();
        let mut retries = 0;
        for share in &mut shares {
            if share.may_retry() {
                share.retry();
                retries += 1;
            }
        }
        assert_eq!(retries, 4 + FREE_RETRIES, "20 % of 20, and the free ones");
        drop(shares);
        let mut shares: Vec<Share<'_>> = (0..20).map(|_| budget.enter()).collect();
        let allowed = shares.iter_mut().map(|share| {
            let may = share.may_retry();
            may.then(|| share.retry())
        });
        assert_eq!(allowed.flatten().count(), 4, "the free ones of this window are used up");
    }

    #[test]
    fn a_lone_request_may_be_retried() {
        let budget = Budget::new(0);
        assert!(budget.enter().may_retry());
    }
}
