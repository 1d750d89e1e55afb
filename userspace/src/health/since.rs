//! Since when each backend has been in its state, as far as this daemon has seen: looked at with every tick.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use steerage_common::health::State;
use steerage_common::limits::SLOTS;

use crate::region::{Region, Tenant};

/// By slot.
#[derive(Debug)]
pub struct Since(Mutex<Vec<Option<Held>>>);

#[derive(Clone, Copy, Debug)]
struct Held {
    tenant: Tenant,
    state: State,
    since: Instant,
}

impl Default for Since {
    fn default() -> Self {
        Self(Mutex::new(vec![None; SLOTS]))
    }
}

impl Since {
    /// Looks at these backends.
    pub fn look(&self, region: &Region, tenants: impl Iterator<Item = Tenant>, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for tenant in tenants {
            let state = region.word(tenant.slot()).state();
            let held = &mut all[tenant.slot().index()];
            if held.is_none_or(|held| held.tenant != tenant || held.state != state) {
                *held = Some(Held { tenant, state, since: now });
            }
        }
    }

    /// For how long a backend has been in `state`; no time if it was in another one at the last look.
    pub fn held(&self, tenant: Tenant, state: State) -> Duration {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all[tenant.slot().index()] {
            Some(held) if held.tenant == tenant && held.state == state => held.since.elapsed(),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steerage_common::slot::Slot;

    #[test]
    fn the_time_begins_with_the_state_and_with_the_tenant() {
        let region = Region::in_memory(1).unwrap();
        let tenant = Tenant::new(Slot::new(3).unwrap(), 0);
        let since = Since::default();
        let state = region.word(tenant.slot()).state();
        let ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        since.look(&region, [tenant].into_iter(), ago);
        since.look(&region, [tenant].into_iter(), Instant::now());
        assert!(since.held(tenant, state) >= Duration::from_secs(60));
        assert_eq!(since.held(tenant, State::Draining), Duration::ZERO);
        let next = Tenant::new(tenant.slot(), 1);
        assert_eq!(since.held(next, state), Duration::ZERO);
        since.look(&region, [next].into_iter(), Instant::now());
        assert!(since.held(next, state) < Duration::from_secs(60));
    }
}
