//! The checks of one target, one after another.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use steerage_common::health::Event;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::check::Prepared;
use super::lag::Histogram;
use super::record::Record;
use super::report;
use super::schedule::{next_delay, phase, woken};
use super::target::Subscriber;
use crate::clock;
use crate::region::Region;

/// What all watches have in common.
pub struct Common {
    /// Where results go.
    pub region: Arc<Region>,
    /// Checks that may run at the same time.
    pub permits: Semaphore,
    /// How late they begin.
    pub lag: Arc<Histogram>,
}

/// A target that is checked.
pub struct Watch {
    /// The address that is asked.
    pub address: SocketAddr,
    /// What is asked.
    pub prepared: Arc<Prepared>,
    /// All who want to know.
    pub subscribers: Arc<Mutex<Vec<Subscriber>>>,
    /// What came of it, for others to read.
    pub record: Arc<Record>,
    /// Told when the next check shall be immediate.
    pub wake: Arc<Notify>,
    /// What it shares with the other watches.
    pub common: Arc<Common>,
}

impl Watch {
    /// Checks for ever; drops `ready` after the first time.
    pub async fn run(self, ready: mpsc::Sender<()>) {
        let (mut begun, in_transition) = self.check_once(None).await;
        drop(ready);
        let random = crate::sys::random_u32();
        let first = if in_transition {
            next_delay(self.prepared.check.interval, true, random)
        } else {
            phase(self.prepared.check.interval, random)
        };
        let mut due = Instant::now() + first;
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due) => {}
                () = self.wake.notified() => {
                    due = woken(due, begun, Instant::now());
                    continue;
                }
            }
            let in_transition;
            (begun, in_transition) = self.check_once(Some(due)).await;
            let random = crate::sys::random_u32();
            due = Instant::now() + next_delay(self.prepared.check.interval, in_transition, random);
        }
    }

    /// Checks and tells all subscribers. Gives the check's begin, and whether any of them is on its way
    /// up or down.
    async fn check_once(&self, due: Option<Instant>) -> (Instant, bool) {
        // The semaphore is never closed.
        let _permit = self.common.permits.acquire().await;
        let begun = Instant::now();
        if let Some(due) = due {
            self.common.lag.add(begun - due);
        }
        let outcome = self.prepared.ask(self.address).await;
        self.record.add(begun.elapsed(), &outcome);
        let failure = outcome.err().map(|failure| failure.to_string());
        let subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        let in_transition = tell(subscribers.iter(), &self.common.region, failure.as_deref());
        (begun, in_transition)
    }
}

/// Tells subscribers what came of a check: `failure` is why it failed. Gives whether any of them is on its
/// way up or down.
pub fn tell<'a>(
    subscribers: impl Iterator<Item = &'a Subscriber>,
    region: &Region,
    failure: Option<&str>,
) -> bool {
    let (event, why) = match failure {
        None => (Event::ProbeOk, "probe ok".to_owned()),
        Some(failure) => (Event::ProbeFailed, format!("probe: {failure}")),
    };
    let now = clock::now_ticks();
    let mut in_transition = false;
    for Subscriber { group, backend, tenant, policy } in subscribers {
        if let Some(change) = group.apply(region, *tenant, event, now, policy) {
            report(group.name(), *backend, change, &why);
            in_transition |= change.to.probe_streak() != 0;
        }
    }
    in_transition
}
