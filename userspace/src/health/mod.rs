//! Active checks: one prober for the whole host.
//!
//! The prober runs on a thread of its own, so that no load delays it, and asks each (address, check)
//! once however many services share it. What it learns goes into the same state words that the
//! workers' request outcomes go into ([`crate::region::Region::apply`]); it has no view of its own.
//! It is also the clock of the state machine: every 100 ms it gives each backend a tick, which ends
//! ejections and trials, and mends a bitmap bit that a killed process left behind its word.

mod check;
mod prober;
mod schedule;

pub use check::Failure;
pub use prober::{Last, Prober, Subscriber, Target, targets};
