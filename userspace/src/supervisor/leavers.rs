//! Backends that left the configuration and have something left to do.
//!
//! They take no new work, like one that an operator drains, and are still probed: what they have begun
//! stays with them while they live. Whoever has no request, no tunnel, no connection and no flow left is
//! gone: the slot is freed, its tenancy rises, and its counters begin anew for the next tenant.
//!
//! A worker that still serves the former configuration may pick them, so they are told to drain only when
//! every worker serves the new one, and freed after that.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use steerage_common::health::{Event, Policy, State};
use steerage_common::slot::Slot;
use tracing::info;

use super::publish::Leaving;
use super::view::InForce;
use crate::config::model::Check;
use crate::health::Subscriber;
use crate::kernel::Kernel;
use crate::region::{Group, Region};

/// All who leave.
#[derive(Debug, Default)]
pub struct Leavers(Vec<Leaver>);

#[derive(Debug)]
struct Leaver {
    leaving: Leaving,
    /// Since when this daemon knows that it leaves.
    since: Instant,
    /// Its flows, as they were counted last.
    flows: Option<u64>,
    /// How it is probed; `None` for one that a former daemon let go.
    subscriber: Option<(Option<Check>, Subscriber)>,
}

impl Leavers {
    /// Those who leave now, with what `former`, the configuration that had them, says of them. Who is not
    /// among them any more is wanted again.
    #[must_use]
    pub fn next(&self, leaving: impl Iterator<Item = Leaving>, former: Option<&InForce>) -> Self {
        let leavers = leaving.map(|leaving| {
            let known = self.0.iter().find(|known| known.leaving.tenant == leaving.tenant);
            match known {
                Some(Leaver { since, flows, subscriber, .. }) => {
                    Leaver { leaving, since: *since, flows: *flows, subscriber: subscriber.clone() }
                }
                None => {
                    let subscriber = former.and_then(|former| former.subscriber(leaving));
                    Leaver { leaving, since: Instant::now(), flows: None, subscriber }
                }
            }
        });
        Self(leavers.collect())
    }

    /// Whether nobody leaves.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them may have flows.
    #[must_use]
    pub fn may_have_flows(&self) -> bool {
        self.0.iter().any(|leaver| leaver.leaving.has_flows)
    }

    /// All of them, for operators.
    #[must_use]
    pub fn list(&self) -> Vec<Shown> {
        let shown = |leaver: &Leaver| Shown {
            service: leaver.subscriber.as_ref().map(|(_, known)| known.group.name().to_owned()),
            leaving: leaver.leaving,
            since: leaver.since,
            flows: leaver.flows,
        };
        self.0.iter().map(shown).collect()
    }

    /// How they are probed.
    pub fn subscribers(&self) -> impl Iterator<Item = (Option<Cow<'_, Check>>, Subscriber)> {
        let subscribers = self.0.iter().filter_map(|leaver| leaver.subscriber.as_ref());
        subscribers
            .map(|(check, subscriber)| (check.as_ref().map(Cow::Borrowed), subscriber.clone()))
    }

    /// Lets them take no new work.
    pub fn drain(&self, region: &Region) {
        for Leaver { leaving, subscriber, .. } in &self.0 {
            let policy = subscriber.as_ref().map_or(&Policy::DEFAULT, |(_, known)| &known.policy);
            let state = region.word(leaving.tenant.slot()).state();
            if !matches!(state, State::Draining | State::Maintenance) {
                region.apply(leaving.tenant, Event::Drain, policy);
            }
        }
    }

    /// Frees the slots of those who have nothing left to do; `flows` are the live ones of each slot, if
    /// that is known. Gives whether there were any.
    pub fn free_idle(
        &mut self,
        region: &Region,
        kernel: Option<&Mutex<Kernel>>,
        flows: Option<&HashMap<Slot, u64>>,
    ) -> bool {
        let before = self.0.len();
        let lines: Vec<usize> =
            (0..region.cell_workers()).filter(|l| is_alive(region, *l)).collect();
        self.0.retain_mut(|leaver| {
            let leaving = &leaver.leaving;
            let slot = leaving.tenant.slot();
            if let Some(flows) = flows.filter(|_| leaving.has_flows) {
                leaver.flows = Some(flows.get(&slot).copied().unwrap_or(0));
            }
            let may_have_flows = leaving.has_flows && region.keeps_flows(slot);
            let has_flows = may_have_flows
                && flows.is_none_or(|flows| flows.get(&slot).is_some_and(|count| *count > 0));
            let has_work = lines.iter().any(|line| {
                let cell = region.cell(*line, slot);
                let counts = [&cell.active, &cell.connections, &cell.tunnels];
                counts.iter().any(|count| count.load(Ordering::Relaxed) > 0)
            });
            if has_flows || has_work {
                return true;
            }
            region.apply(leaving.tenant, Event::Removed, &Policy::DEFAULT);
            region.clear_cells(slot);
            if let Some(kernel) = kernel {
                let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = kernel.clear_backend_traffic(slot) {
                    tracing::warn!(%error, "the counters of a backend that is gone stay");
                }
            }
            info!(backend = %leaving.address, slot = slot.raw(), "removed backend has finished");
            false
        });
        self.0.len() < before
    }
}

/// A backend that leaves, as operators see it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The service that had it; `None` if a former daemon let it go.
    pub service: Option<String>,
    /// Who it is.
    pub leaving: Leaving,
    /// Since when this daemon knows that it leaves.
    pub since: Instant,
    /// Its flows, as they were counted last.
    pub flows: Option<u64>,
}

/// Whether the worker of a line lives: what a dead one left in its gauges counts for nothing.
fn is_alive(region: &Region, line: usize) -> bool {
    let pid = region.worker(line).pid.load(Ordering::Relaxed);
    pid != 0 && std::path::Path::new(&format!("/proc/{pid}")).exists()
}

impl InForce {
    /// How a backend is probed.
    fn subscriber(&self, leaving: Leaving) -> Option<(Option<Check>, Subscriber)> {
        let services = self.model.services.iter().zip(&self.published.tenants);
        let (service, backend) = services.into_iter().find_map(|(service, tenants)| {
            let at = tenants.iter().position(|tenant| *tenant == leaving.tenant)?;
            Some((service, service.backends.get(at)?))
        })?;
        let subscriber = Subscriber {
            group: Arc::new(Group::aside(&service.name)),
            backend: leaving.address,
            tenant: leaving.tenant,
            policy: service.policy(),
        };
        Some((service.check_of(backend).map(Cow::into_owned), subscriber))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Tenant;

    #[test]
    fn a_slot_is_freed_with_its_last_work_and_not_before() {
        let region = Region::in_memory(2).unwrap();
        let slot = Slot::new(5).unwrap();
        let tenant = Tenant::new(slot, 0);
        let policy = Policy { probed: false, ..Policy::DEFAULT };
        region.apply(tenant, Event::Assigned, &policy);
        let leaving = Leaving { tenant, address: "10.0.0.1:80".parse().unwrap(), has_flows: true };
        let mut leavers = Leavers::default().next([leaving].into_iter(), None);
        leavers.drain(&region);
        assert_eq!(region.word(slot).state(), State::Draining);

        region.worker(0).pid.store(std::process::id(), Ordering::Relaxed);
        region.cell(0, slot).active.store(1, Ordering::Relaxed);
        // Nobody's: the worker of this line is dead.
        region.cell(1, slot).active.store(1, Ordering::Relaxed);
        region.cell(0, slot).responses[1].store(9, Ordering::Relaxed);
        let flows = HashMap::from([(slot, 1)]);
        assert!(!leavers.free_idle(&region, None, Some(&HashMap::new())));
        region.cell(0, slot).active.store(0, Ordering::Relaxed);
        assert!(!leavers.free_idle(&region, None, Some(&flows)));
        assert!(!leavers.free_idle(&region, None, None), "nobody has looked");
        assert!(leavers.free_idle(&region, None, Some(&HashMap::new())));
        assert!(leavers.is_empty());
        let word = region.word(slot);
        assert_eq!((word.state(), word.epoch()), (State::Unused, 1));
        assert_eq!(region.cell(0, slot).responses[1].load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_flows_of_a_dead_backend_keep_nothing() {
        let region = Region::in_memory(1).unwrap();
        let slot = Slot::new(5).unwrap();
        let tenant = Tenant::new(slot, 0);
        let policy = Policy { fall: 1, ..Policy::DEFAULT };
        region.apply(tenant, Event::Assigned, &policy);
        region.apply(tenant, Event::ProbeFailed, &policy);
        let leaving = Leaving { tenant, address: "10.0.0.1:80".parse().unwrap(), has_flows: true };
        let mut leavers = Leavers::default().next([leaving].into_iter(), None);
        leavers.drain(&region);
        assert!(leavers.free_idle(&region, None, None));
    }
}
