//! Outcomes of requests: what the breaker hears, and how far it may go.
//!
//! Each failure of the gateway class is an event for the backend's shared state; the state machine
//! counts so many in a row. Failures that successes interrupt count by their share of the requests in a
//! sliding window, of all workers. Either way the service is asked for the ejection: no more than
//! `ejection.max_percent` of its backends may be out at a time (but one always may, else a small service
//! could not eject at all), and the last one that takes work is never ejected. That holds over all
//! workers ([`Group::eject`](crate::region::Group::eject)); a failure that finds no room changes nothing,
//! and the next one asks again.

use steerage_common::abi::FailureClass;
use steerage_common::health::{Cause, Event, State};
use steerage_common::publish::Change;

use super::Service;
use crate::config::model::Balance;
use crate::net::clock;
use crate::region::add;

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
            self.tell(backend, Event::RequestOk);
        }
    }

    /// Feeds an event to a backend's state.
    pub(super) fn tell(&self, backend: usize, event: Event) -> Option<Change> {
        let (tenant, now) = (self.backends[backend].tenant, crate::clock::now_ticks());
        self.group.apply(&self.region, tenant, event, now, &self.policy)
    }

    /// An attempt at the backend failed, by its fault.
    #[cold]
    pub fn failed(&self, backend: usize, class: FailureClass) {
        self.latencies[backend].observe_failure(clock::now_us());
        self.window.count(self.cell(backend), true, clock::now_ms());
        let jitter = self.random.next() as u8;
        let Some(change) = self.tell(backend, Event::RequestFailed { jitter }) else { return };
        if change.is_of_state() {
            self.note_ejection(backend, class, change);
        } else if change.to.state() == State::Up {
            self.eject(backend, class, change.to.request_failures(), jitter);
        }
    }

    /// Asks for an ejection, if the failures are enough for one.
    fn eject(&self, backend: usize, class: FailureClass, in_a_row: u8, jitter: u8) {
        let cause = match self.policy.consecutive {
            1.. if in_a_row >= self.policy.consecutive => Cause::InARow,
            _ if self.has_too_many_failures(backend) => Cause::Share,
            _ => return,
        };
        let tenant = self.backends[backend].tenant;
        let note = |backend, change| self.note_ejection(backend, class, change);
        self.group.eject(&self.region, tenant, (cause, jitter), &self.policy, note);
    }

    fn note_ejection(&self, backend: usize, class: FailureClass, change: Change) {
        add(&self.cell(backend).ejections, 1);
        tracing::warn!(
            service = self.name(),
            backend = %self.backends[backend].address,
            class = class.name(),
            cause = ?change.to.cause(),
            times = change.to.ejections(),
            "backend ejected"
        );
    }

    /// Whether too great a share of the latest requests failed.
    fn has_too_many_failures(&self, backend: usize) -> bool {
        let (requests, failures) = self.window.sum(self.cells(backend), clock::now_ms());
        let (ratio, least) = self.ratio;
        requests >= least && failures as f64 >= ratio * requests as f64
    }
}
