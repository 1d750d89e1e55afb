//! A service's seats in the region, as far as its backends decide something together.
//!
//! Whoever changes a backend's state does it here, so that what follows for the service is published
//! with it: whether it panics ([`steerage_common::census`]). The word that says so is what packets and
//! requests go by. It is derived as the bitmap is: written after a change, by a swap, and looked at
//! again until it agrees with the states; so the last writer is right whoever it is, and the ticks of
//! prober and workers mend what a killed process left behind.

use std::sync::atomic::Ordering;

use steerage_common::census::{Census, Member, ejected_max};
use steerage_common::health::{Cause, Event, Policy, Ticks};
use steerage_common::publish::Change;
use steerage_common::publish::eject::{self, Wanted};

use super::{Region, Tenant};
use crate::clock;
use crate::config::model;

/// A service's backends and its rules about all of them.
#[derive(Debug)]
pub struct Group {
    name: String,
    line: u16,
    seats: Vec<Seat>,
    panic_percent: u8,
    ejected_max: u32,
    /// Whether it has no say over its line.
    is_aside: bool,
}

#[derive(Debug)]
struct Seat {
    tenant: Tenant,
    weight: u16,
    tier: u8,
}

impl Group {
    /// The group of a service. `tenants` is parallel to its backends, `line` its line in the region.
    #[must_use]
    pub fn new(service: &model::Service, tenants: &[Tenant], line: u16) -> Self {
        let seats = service.backends.iter().zip(tenants).map(|(backend, tenant)| Seat {
            tenant: *tenant,
            weight: backend.weight,
            tier: backend.tier,
        });
        Self {
            name: service.name.clone(),
            line,
            seats: seats.collect(),
            panic_percent: service.panic_percent,
            ejected_max: ejected_max(service.backends.len(), service.ejection.max_percent),
            is_aside: false,
        }
    }

    /// For backends that are not in their service yet, or not any more: their states are theirs alone.
    #[must_use]
    pub fn aside(service: &str) -> Self {
        Self { is_aside: true, ..Self::without_rules(service, &[], 0) }
    }

    /// A group without rules, for what measures and tests the prober alone.
    #[must_use]
    pub fn without_rules(name: &str, tenants: &[Tenant], line: u16) -> Self {
        Self {
            name: name.into(),
            line,
            seats: tenants
                .iter()
                .map(|tenant| Seat { tenant: *tenant, weight: 1, tier: 0 })
                .collect(),
            panic_percent: 0,
            ejected_max: u32::MAX,
            is_aside: false,
        }
    }

    /// The service's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The service's line in the region.
    #[must_use]
    pub fn line(&self) -> u16 {
        self.line
    }

    /// [`Region::apply_at`], and what follows from it for the service.
    pub fn apply(
        &self,
        region: &Region,
        tenant: Tenant,
        event: Event,
        now: Ticks,
        policy: &Policy,
    ) -> Option<Change> {
        let change = region.apply_at(tenant, event, now, policy)?;
        self.follow(region, change);
        Some(change)
    }

    fn follow(&self, region: &Region, change: Change) {
        let counts =
            |word: steerage_common::health::Word| (word.accepts_new(), word.serves_in_panic());
        if !self.is_aside && counts(change.from) != counts(change.to) {
            self.publish_panic(region);
        }
    }

    /// Ejects a backend if the service has room for one more. `ejected` hears, by its place among the
    /// backends, of each ejection that this brought about: another one's may have been under way.
    pub fn eject(
        &self,
        region: &Region,
        tenant: Tenant,
        (cause, jitter): (Cause, u8),
        policy: &Policy,
        mut ejected: impl FnMut(usize, Change),
    ) {
        let now = clock::now_ticks();
        let wanted = Wanted { slot: tenant.slot(), epoch: tenant.epoch, cause, jitter };
        eject::eject(
            &region.service(self.line).ejection,
            |slot| region.slot_cells(slot),
            &wanted,
            || self.census(region, now).may_eject(self.ejected_max),
            now,
            policy,
            |slot, change| {
                self.follow(region, change);
                let index = self.seats.iter().position(|seat| seat.tenant.slot() == slot);
                if let Some(index) = index {
                    ejected(index, change);
                }
            },
        );
    }

    /// The tier whose health is ignored, if there is one.
    #[inline]
    #[must_use]
    pub fn panicking(&self, region: &Region) -> Option<u8> {
        let word = region.service(self.line).panicking.load(Ordering::Acquire);
        word.checked_sub(1).map(|tier| tier as u8)
    }

    /// Makes the service's word agree with its backends' states; gives what it says.
    pub fn publish_panic(&self, region: &Region) -> Option<u8> {
        let word = &region.service(self.line).panicking;
        let mut tier = self.panics(region);
        loop {
            let was = word.swap(tier.map_or(0, |tier| u64::from(tier) + 1), Ordering::AcqRel) != 0;
            let again = self.panics(region);
            if again == tier {
                if was != tier.is_some() {
                    self.tell(tier.is_some());
                }
                return tier;
            }
            tier = again;
        }
    }

    /// As [`publish_panic`](Self::publish_panic), for regular calls: writes only what is wrong.
    pub fn mend(&self, region: &Region) {
        if !self.is_aside && self.panicking(region) != self.panics(region) {
            self.publish_panic(region);
        }
    }

    fn panics(&self, region: &Region) -> Option<u8> {
        // Ejections that run are of no account here, and so the time is not.
        self.census(region, Ticks::from_ms(0)).panicking(self.panic_percent)
    }

    fn census(&self, region: &Region, now: Ticks) -> Census {
        let members = self.seats.iter().map(|seat| Member {
            word: region.word(seat.tenant.slot()),
            weight: seat.weight,
            tier: seat.tier,
        });
        Census::take(members, now)
    }

    #[cold]
    fn tell(&self, is_panicking: bool) {
        if is_panicking {
            tracing::warn!(service = self.name, "too few backends are healthy: health is ignored");
        } else {
            tracing::info!(service = self.name, "enough backends are healthy: health counts again");
        }
    }
}
