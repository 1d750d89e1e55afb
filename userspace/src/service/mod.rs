//! Services: which backend gets a request, and what became of it.
//!
//! Nothing here has an opinion about health: a pick reads the shared bitmap, an outcome is an event
//! for the shared state machine. So every worker, the prober and the packet program agree.
//!
//! - [`smooth`]: the cyclic sequence of weighted round robin, a pure function.
//! - `round_robin`, `least_requests`: the picks.
//! - `outlier`: outcomes of requests, and how many backends they may take out.
//! - `trial`: the one request that decides over a backend in probation.

mod least_requests;
mod outlier;
mod random;
mod round_robin;
pub mod smooth;
mod trial;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use steerage_common::health::Policy;

use crate::config::model::{self, Balance};
use crate::region::{Region, Tenant};

pub use random::Random;
use round_robin::Available;

/// One backend of a service, as a worker sees it.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share of the work; 0 takes none.
    pub weight: u16,
    /// Its hold on a slot of the shared region.
    pub tenant: Tenant,
}

/// A group of backends with one policy. Backends go by their index in [`Service::backends`].
#[derive(Debug)]
pub struct Service {
    name: String,
    line: u16,
    worker: usize,
    balance: Balance,
    policy: Policy,
    ejected_max: usize,
    backends: Vec<Backend>,
    region: Rc<Region>,
    available: RefCell<Available>,
    /// A backend in probation that awaits its trial request.
    trial: Cell<Option<usize>>,
    random: Random,
}

/// A picked backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Index in [`Service::backends`].
    pub backend: usize,
    /// Whether the request is the trial of a backend in probation.
    pub is_trial: bool,
}

impl Service {
    /// A service of this worker. `tenants` is parallel to the model's backends, `line` the service's
    /// line in the region.
    #[must_use]
    pub fn new(
        model: &model::Service,
        tenants: &[Tenant],
        line: u16,
        worker: usize,
        region: Rc<Region>,
        seed: u64,
    ) -> Self {
        let backends: Vec<Backend> = model
            .backends
            .iter()
            .zip(tenants)
            .map(|(backend, tenant)| Backend {
                address: backend.address,
                weight: backend.weight,
                tenant: *tenant,
            })
            .collect();
        let percent = usize::from(model.ejection.max_percent);
        Self {
            name: model.name.clone(),
            line,
            worker,
            balance: model.balance,
            policy: model.policy(),
            ejected_max: outlier::ejected_max(backends.len(), percent),
            available: RefCell::new(Available::new(&backends)),
            backends,
            region,
            trial: Cell::new(None),
            random: Random::new(seed),
        }
    }

    /// The service's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its backends, in the order of the configuration.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// Whether a backend takes new work, by its health.
    #[must_use]
    pub fn accepts_new(&self, backend: usize) -> bool {
        self.region.accepts_new(self.backends[backend].tenant.slot())
    }

    /// A backend that takes new work and is not among those `tried`; `None` if there is none.
    pub fn pick(&self, tried: &[usize]) -> Option<Pick> {
        if self.trial.get().is_some()
            && let Some(backend) = self.start_trial(tried)
        {
            return Some(Pick { backend, is_trial: true });
        }
        let mut available = self.available.borrow_mut();
        available.refresh(&self.region, &self.backends);
        let backend = match self.balance {
            Balance::RoundRobin => self.next_in_turn(&available, tried),
            Balance::LeastRequests => self.less_loaded(&available, tried),
        }?;
        Some(Pick { backend, is_trial: false })
    }
}

#[cfg(test)]
mod tests;
