//! Every 100 ms, every backend: time passes, and who failed is asked at once, as is one whose ejection
//! is over: the probe may be the trial, where no request is.

use std::sync::Arc;
use std::time::Duration;

use steerage_common::health::{Event, State, Word};
use tokio::sync::Notify;

use super::report;
use super::since::Since;
use super::target::Subscriber;
use crate::clock;
use crate::region::{Group, Region, Tenant};

/// Between two ticks of the state machine: the unit of its deadlines.
const TICK: Duration = Duration::from_millis(100);

/// A backend that gets ticks.
pub struct Ticked {
    subscriber: Subscriber,
    /// Makes its target's next check immediate; `None` without a check.
    wake: Option<Arc<Notify>>,
    /// Its word after the last tick.
    last: Word,
}

impl Ticked {
    /// A backend from now on; `last` is what [`Ticked::last`] gave, if it had ticks before.
    pub fn new(
        region: &Region,
        subscriber: Subscriber,
        wake: Option<Arc<Notify>>,
        last: Option<Word>,
    ) -> Self {
        let last = last.unwrap_or_else(|| region.word(subscriber.tenant.slot()));
        Self { subscriber, wake, last }
    }

    /// Who it is, and its word after the last tick.
    pub fn last(self) -> (Tenant, Word) {
        (self.subscriber.tenant, self.last)
    }
}

/// Gives every backend its ticks, for ever.
pub async fn tick(region: &Region, all: &mut [Ticked], since: &Since) {
    let groups = groups(all);
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        let now = clock::now_ticks();
        for ticked in &mut *all {
            let Subscriber { group, backend, tenant, policy } = &ticked.subscriber;
            let change = group.apply(region, *tenant, Event::Tick, now, policy);
            region.publish(tenant.slot());
            // The slot may have passed to somebody else.
            let Some(change) = change else { continue };
            report(group.name(), *backend, change, "time");
            let is_due = has_failed(ticked.last, change.from) || is_free(ticked.last, change.to);
            if let Some(wake) = ticked.wake.as_ref().filter(|_| is_due) {
                wake.notify_one();
            }
            ticked.last = change.to;
        }
        for group in &groups {
            group.mend(region);
        }
        let tenants = all.iter().map(|ticked| ticked.subscriber.tenant);
        since.look(region, tenants, std::time::Instant::now());
    }
}

/// Whether requests failed between two looks at a word.
fn has_failed(before: Word, now: Word) -> bool {
    let out = |word: Word| matches!(word.state(), State::Ejected | State::Down);
    now.request_failures() > before.request_failures()
        || (now.state() == State::Ejected && !out(before))
}

/// Whether an ejection ended between two looks at a word. A worker may have ended it.
fn is_free(before: Word, now: Word) -> bool {
    now.state() == State::Probation && before.state() != State::Probation
}

/// Each service once.
fn groups(all: &[Ticked]) -> Vec<Arc<Group>> {
    let mut groups: Vec<Arc<Group>> =
        all.iter().map(|ticked| ticked.subscriber.group.clone()).collect();
    groups.sort_by_key(Arc::as_ptr);
    groups.dedup_by(|one, other| Arc::ptr_eq(one, other));
    groups
}

#[cfg(test)]
mod tests {
    use steerage_common::health::{Cause, Policy, Ticks, transition};

    use super::*;

    #[test]
    fn failed_requests_and_ejections_call_for_a_check_and_nothing_else_does() {
        let policy = Policy { consecutive: 2, ..Policy::DEFAULT };
        let failed = Event::RequestFailed { jitter: 128 };
        let eject = Event::Eject { cause: Cause::InARow, jitter: 128 };
        let after = |word: Word, events: &[Event]| {
            events
                .iter()
                .fold(word, |word, event| transition(word, *event, Ticks::from_ms(1_000), &policy))
        };
        let up = after(Word::default(), &[Event::Assigned, Event::ProbeOk]);
        for (before, events, expected) in [
            (up, &[failed][..], true),
            (up, &[failed, failed, eject], true),
            (after(up, &[failed]), &[failed, eject], true),
            (up, &[Event::Eject { cause: Cause::Share, jitter: 0 }], true),
            (up, &[], false),
            (up, &[failed, Event::RequestOk], false),
            (after(up, &[failed]), &[Event::RequestOk], false),
            (up, &[Event::ProbeFailed], false),
            (up, &[Event::ProbeFailed; 3], false),
            (after(up, &[failed, failed, eject]), &[Event::ProbeOk], false),
            (after(up, &[failed, failed, eject]), &[Event::ProbeFailed; 3], false),
            // Back from the dead within its ejection: probes did that.
            (
                after(after(up, &[failed, failed, eject]), &[Event::ProbeFailed; 3]),
                &[Event::ProbeOk, Event::ProbeOk],
                false,
            ),
        ] {
            let now = after(before, events);
            assert_eq!(has_failed(before, now), expected, "{before:?} {events:?} {now:?}");
        }
    }
}
