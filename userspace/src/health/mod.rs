//! Active checks: one prober for the whole host.
//!
//! The prober runs on a thread of its own, so that no load delays it, and asks each (address, check)
//! once however many services share it ([`targets`]). What it learns goes into the same state words
//! that the workers' request outcomes go into ([`crate::region::Region::apply`]); it has no view of
//! its own.
//!
//! It is also the clock of the state machine: every 100 ms it gives each backend a tick (`ticker`),
//! which ends ejections and trials, and mends a bitmap bit that a killed process left behind its
//! word. By the way it sees whose requests have failed since the last tick, and has those backends
//! checked at once: workers tell by the word alone, without a system call.

mod check;
mod lag;
mod prober;
mod record;
mod schedule;
mod since;
mod target;
mod ticker;
mod watch;

pub use lag::Lag;
pub use prober::{FirstRound, Prober};
pub use record::Report;
pub use target::{Subscriber, Target, targets};

use std::net::SocketAddr;

use steerage_common::publish::Change;
use tracing::{info, warn};

/// Logs a change of state.
fn report(service: &str, backend: SocketAddr, change: Change, why: &str) {
    if !change.is_of_state() {
        return;
    }
    let (from, to) = (change.from.state().name(), change.to.state().name());
    if change.from.accepts_new() && !change.to.accepts_new() {
        warn!(service, %backend, from, to, why, "backend taken out of service");
    } else {
        info!(service, %backend, from, to, why, "backend changed state");
    }
}
