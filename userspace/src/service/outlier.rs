//! Outcomes of requests: what the breaker hears, and how far it may go.
//!
//! Each failure of the gateway class is an event for the backend's shared state; the state machine
//! ejects after so many in a row. Failures that successes interrupt count by their share of the requests
//! in a sliding window, of all workers. Before an ejection the service is looked at as a whole: no
//! more than `ejection.max_percent` of its backends may be out at a time (but one always may, else a
//! small service could not eject at all), and the last one that takes work is never ejected. Then
//! the failure is not told, and the next one asks again.
//!
//! Two workers that eject two backends in the same microsecond can pass the limit by one: both looked
//! before either swapped. Nothing worse follows than one ejection too many, for its time.

use steerage_common::abi::FailureClass;
use steerage_common::health::{Event, State};

use super::Service;
use crate::config::model::Balance;
use crate::net::clock;
use crate::region::add;

/// How many of `backends` may be ejected at a time.
pub(super) fn ejected_max(backends: usize, percent: usize) -> usize {
    if percent == 0 { 0 } else { (backends * percent / 100).max(1) }
}

impl Service {
    /// A response's head came after `latency_us`.
    #[inline]
    pub fn responded(&self, backend: usize, latency_us: u64, is_error: bool) {
        if self.balance != Balance::PeakEwma {
            return;
        }
        let now_us = clock::now_us();
        if is_error {
            self.latencies[backend].observe_error(now_us);
        } else {
            self.latencies[backend].observe(latency_us, now_us);
        }
    }

    /// A request was answered by the backend.
    #[inline]
    pub fn succeeded(&self, backend: usize) {
        let tenant = self.backends[backend].tenant;
        self.window.count(self.cell(backend), false, clock::now_ms());
        if self.region.word(tenant.slot()).awaits_success() {
            self.region.apply(tenant, Event::RequestOk, &self.policy);
        }
    }

    /// An attempt at the backend failed, by its fault.
    #[cold]
    pub fn failed(&self, backend: usize, class: FailureClass) {
        let tenant = self.backends[backend].tenant;
        self.latencies[backend].observe_failure(clock::now_us());
        self.window.count(self.cell(backend), true, clock::now_ms());
        let word = self.region.word(tenant.slot());
        let would_eject = word.state() == State::Up
            && self.policy.consecutive > 0
            && word.request_failures().saturating_add(1) >= self.policy.consecutive;
        let too_many = word.state() == State::Up && self.has_too_many_failures(backend);
        if (would_eject || too_many) && !self.may_eject() {
            return;
        }
        let jitter = self.random.next() as u8;
        let event = match too_many {
            true => Event::TooManyFailed { jitter },
            false => Event::RequestFailed { jitter },
        };
        let Some(change) = self.region.apply(tenant, event, &self.policy) else { return };
        if change.is_of_state() && change.to.state() == State::Ejected {
            add(&self.region.cell(self.worker, tenant.slot()).ejections, 1);
            tracing::warn!(
                service = self.name,
                backend = %self.backends[backend].address,
                class = class.name(),
                times = change.to.ejections(),
                "backend ejected"
            );
        }
    }

    /// Whether too great a share of the latest requests failed.
    fn has_too_many_failures(&self, backend: usize) -> bool {
        let (requests, failures) = self.window.sum(self.cells(backend), clock::now_ms());
        let (ratio, least) = self.ratio;
        requests >= least && failures as f64 >= ratio * requests as f64
    }

    /// Whether one more backend may go out.
    fn may_eject(&self) -> bool {
        let (mut out, mut working) = (0, 0);
        for backend in &self.backends {
            match self.region.word(backend.tenant.slot()).state() {
                State::Ejected | State::Probation => out += 1,
                State::Up if backend.weight > 0 => working += 1,
                _ => {}
            }
        }
        working > 1 && out < self.ejected_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_may_always_be_ejected_unless_none_may() {
        assert_eq!(ejected_max(10, 50), 5);
        assert_eq!(ejected_max(3, 50), 1);
        assert_eq!(ejected_max(3, 10), 1);
        assert_eq!(ejected_max(3, 0), 0);
    }
}
