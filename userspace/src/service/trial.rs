//! Probation: one request decides whether an ejected backend comes back.
//!
//! A timer looks through the states ([`Service::look_for_trials`]); requests only see a note that a
//! trial is wanted. Whoever wins the swap sends its request there; everyone else picks as usual.
//! The timer also ends ejections whose time has come, so that backends come back while no supervisor
//! runs.

use steerage_common::health::{Event, State};

use super::Service;

impl Service {
    /// Moves ejections on whose time is over, and notes a backend that awaits its trial, and whether one
    /// warms up.
    pub(super) fn look_for_trials(&self) {
        let (mut wanted, mut is_warming) = (None, false);
        for (index, backend) in self.backends.iter().enumerate() {
            let slot = backend.tenant.slot();
            let word = self.region.word(slot);
            is_warming |= word.is_warming();
            if !matches!(word.state(), State::Ejected | State::Probation) {
                continue;
            }
            let word = match self.tell(index, Event::Tick) {
                Some(change) => change.to,
                None => continue,
            };
            if word.state() == State::Probation && !word.trial_is_out() && backend.weight > 0 {
                wanted = wanted.or(Some(index));
            }
        }
        self.trial.set(wanted);
        self.is_warming.set(is_warming);
    }

    /// The backend that this request shall try, if no other request was faster.
    #[cold]
    pub(super) fn start_trial(&self, tried: &[usize]) -> Option<usize> {
        let index = self.trial.take()?;
        if tried.contains(&index) {
            return None;
        }
        let change = self.tell(index, Event::TrialStarted)?;
        (change.from != change.to).then_some(index)
    }
}
