//! Services: which backend gets a request, and what became of it.
//!
//! Nothing here has an opinion about health: a pick reads the shared bitmap, an outcome is an event
//! for the shared state machine. So every worker, the prober and the packet program agree.
//!
//! - `available`: who may be picked; tiers and panic.
//! - [`smooth`]: the cyclic sequence of weighted round robin, a pure function.
//! - `round_robin`, `two_choices` (with `ewma`), `consistent`: the picks.
//! - `outlier` (with `window`): outcomes of requests, and how many backends they may take out.
//! - `trial`: the one request that decides over a backend in probation.
//! - `sticky`: the token of a backend in a cookie.
//! - [`identity`]: what outlives indices; `kept`: what a service takes over from its former configuration.

mod available;
mod consistent;
mod ewma;
pub mod identity;
mod kept;
mod outlier;
mod random;
mod round_robin;
pub mod smooth;
mod sticky;
mod trial;
mod two_choices;
mod window;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use serde::{Deserialize, Serialize};
use steerage_common::health::{EPOCH_MASK, Policy, State};
use steerage_common::latency::Timer;

use crate::config::model::{self, Balance, Model, UpstreamProtocol};
use crate::region::{self, Group, Region, Tenant};

use available::Available;
use consistent::Rings;
use ewma::Ewma;
use kept::Kept;
pub use random::Random;
use window::Window;

/// How often a pick is made again because a backend warms up.
const WARMING_ATTEMPTS: u32 = 8;

/// A configuration, and where all that it names sits in the shared region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placed {
    /// The configuration.
    pub model: Model,
    /// Parallel to the model's services and their backends.
    pub tenants: Vec<Vec<Tenant>>,
    /// Parallel to the model's services: their lines.
    pub lines: Vec<u16>,
}

/// One backend of a service, as a worker sees it.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share of the work; 0 takes none.
    pub weight: u16,
    /// It serves while no lower tier has any backend.
    pub tier: u8,
    /// Requests in flight that it may have, of all workers.
    pub requests_max: Option<u32>,
    /// Connections that it may have, of all workers.
    pub connections_max: Option<u32>,
    /// Its hold on a slot of the shared region.
    pub tenant: Tenant,
    /// What it is, on every host.
    pub identity: u64,
}

/// A group of backends with one policy. Backends go by their index in [`Service::backends`].
#[derive(Debug)]
pub struct Service {
    group: Group,
    worker: usize,
    balance: Balance,
    policy: Policy,
    /// Share and least number of requests in the window that eject.
    ratio: (f64, u64),
    window: Window,
    backends: Vec<Backend>,
    region: Rc<Region>,
    available: RefCell<Available>,
    /// A backend in probation that awaits its trial request.
    trial: Cell<Option<usize>>,
    /// Whether a backend warms up.
    is_warming: Cell<bool>,
    has_limits: bool,
    /// Parallel to `backends`: whether requests share connections there.
    is_multiplexed: Vec<Cell<bool>>,
    /// This worker's requests in flight; those of the service's former configurations too.
    in_flight: Rc<Cell<u32>>,
    /// Parallel to `backends`, for `peak_ewma`.
    latencies: Vec<Ewma>,
    median_us: Cell<f64>,
    ring: Option<Rc<Rings>>,
    tokens: Vec<u64>,
    random: Random,
}

/// What a pick must heed.
#[derive(Clone, Copy, Debug)]
pub struct Criteria<'a> {
    /// Backends that failed this request already.
    pub tried: &'a [usize],
    /// The request's hash, for `maglev`.
    pub hash: u64,
    /// The backend that the client's cookie names.
    pub sticky: Option<usize>,
}

impl Criteria<'_> {
    /// Any backend.
    pub const ANY: Criteria<'static> = Criteria { tried: &[], hash: 0, sticky: None };
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
        Self::after(None, model, tenants, line, worker, region, seed)
    }

    /// The same service under another configuration: what is known of backends that stay is kept.
    #[must_use]
    pub fn succeed(
        &self,
        model: &model::Service,
        tenants: &[Tenant],
        line: u16,
        seed: u64,
    ) -> Self {
        Self::after(Some(self), model, tenants, line, self.worker, self.region.clone(), seed)
    }

    fn after(
        former: Option<&Self>,
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
                tier: backend.tier,
                requests_max: backend.max_requests,
                connections_max: backend.max_connections,
                tenant: *tenant,
                identity: identity::backend_identity(&model.name, backend.address),
            })
            .collect();
        let key = [0, 1].map(|half: usize| region.control().hash_key[half].load(Ordering::Relaxed));
        let kept = Kept::of(former, &backends);
        Self {
            group: Group::new(model, tenants, line),
            worker,
            balance: model.balance,
            policy: model.policy(),
            ratio: (model.ejection.ratio, model.ejection.least_requests.into()),
            window: Window::new(model.ejection.window),
            available: RefCell::new(Available::new(&backends)),
            region,
            trial: Cell::new(None),
            is_warming: Cell::new(false),
            has_limits: backends
                .iter()
                .any(|backend| backend.requests_max.or(backend.connections_max).is_some()),
            is_multiplexed: backends
                .iter()
                .map(|_| Cell::new(model.upstream.protocol == UpstreamProtocol::Http2))
                .collect(),
            in_flight: former.map(|former| former.in_flight.clone()).unwrap_or_default(),
            latencies: kept.latencies(),
            median_us: Cell::new(former.map_or(ewma::LEAST_US, |former| former.median_us.get())),
            ring: (model.balance == Balance::Maglev).then(|| kept.ring(key)),
            tokens: if model.sticky_cookie.is_some() { kept.tokens(key) } else { Vec::new() },
            backends,
            random: Random::new(seed),
        }
    }

    /// The service's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.group.name()
    }

    /// The index of a tenant among its backends.
    #[must_use]
    pub fn index_of(&self, tenant: Tenant) -> Option<usize> {
        self.backends.iter().position(|backend| backend.tenant == tenant)
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

    /// Whether an operator has taken the backend out, together with what it has begun.
    #[must_use]
    pub fn is_put_out(&self, backend: usize) -> bool {
        let tenant = self.backends[backend].tenant;
        let word = self.region.word(tenant.slot());
        word.state() == State::Maintenance || word.epoch() != tenant.epoch & EPOCH_MASK
    }

    /// Whether a backend that was put out has tunnels of this worker left.
    #[must_use]
    pub fn has_tunnels_to_end(&self) -> bool {
        (0..self.backends.len()).any(|backend| {
            self.cell(backend).tunnels.load(Ordering::Relaxed) > 0 && self.is_put_out(backend)
        })
    }

    /// A backend that takes new work and suits the criteria; `None` if there is none.
    pub fn pick(&self, criteria: &Criteria<'_>) -> Option<Pick> {
        let pick = |backend, is_trial| Some(Pick { backend, is_trial });
        if let Some(backend) = criteria.sticky.filter(|backend| self.may_stick(criteria, *backend))
        {
            return pick(backend, false);
        }
        if self.trial.get().is_some()
            && let Some(backend) = self.start_trial(criteria.tried)
        {
            return pick(backend, true);
        }
        let mut available = self.available.borrow_mut();
        available.refresh(&self.region, &self.group, &self.backends);
        let mut backend = self.choose(&available, criteria)?;
        if self.is_warming.get() {
            // Its share is small by being passed over; the last choice stands, so that somebody is
            // chosen. The ring sees to it itself, by hash.
            let mut attempts = WARMING_ATTEMPTS;
            while attempts > 0 && self.balance != Balance::Maglev && !self.is_warm_enough(backend) {
                backend = self.choose(&available, criteria)?;
                attempts -= 1;
            }
        }
        pick(backend, false)
    }

    fn choose(&self, available: &Available, criteria: &Criteria<'_>) -> Option<usize> {
        match self.balance {
            Balance::RoundRobin => self.next_in_turn(available, criteria),
            Balance::LeastRequests => self.less_loaded(available, criteria),
            Balance::PeakEwma => self.sooner(available, criteria),
            Balance::Random => self.at_random(available, criteria),
            Balance::Maglev => self.named(available, criteria),
        }
    }

    /// Whether a backend may not be picked for this request.
    fn is_excluded(&self, criteria: &Criteria<'_>, backend: usize) -> bool {
        criteria.tried.contains(&backend) || (self.has_limits && self.is_full(backend))
    }

    /// Whether a backend that would be picked has as many requests as it may.
    #[must_use]
    pub fn is_full(&self, backend: usize) -> bool {
        let limit = self.limit(backend);
        limit.is_some_and(|limit| self.active(backend) >= u64::from(limit))
    }

    /// Requests that a backend may have at a time. Over HTTP/1.1 each takes a connection; how many there
    /// may be of HTTP/2 is for those to heed who make them.
    fn limit(&self, backend: usize) -> Option<u32> {
        let Backend { requests_max, connections_max, .. } = &self.backends[backend];
        let connections_max = connections_max.filter(|_| !self.is_multiplexed[backend].get());
        requests_max.iter().copied().chain(connections_max).min()
    }

    /// Notes whether a backend takes many requests on a connection.
    pub fn note_multiplexed(&self, backend: usize, is_multiplexed: bool) {
        self.is_multiplexed[backend].set(is_multiplexed);
    }

    /// Whether nobody can be picked only because those who could are full.
    #[must_use]
    pub fn has_only_full(&self, criteria: &Criteria<'_>) -> bool {
        let available = self.available.borrow();
        let mut all = available.backends.iter().map(|index| usize::from(*index));
        self.has_limits
            && all.any(|backend| !criteria.tried.contains(&backend) && self.is_full(backend))
    }

    /// Counts a request at a backend. False, and not counted, if that is more than it may have: another
    /// worker was faster.
    #[must_use]
    pub fn begin(&self, backend: usize) -> bool {
        let active = self.active_here(backend);
        active.store(active.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        if let Some(limit) = self.limit(backend) {
            // Of two workers that count at the same time at least one sees the other's: each counts
            // before it looks.
            fence(Ordering::SeqCst);
            if self.active(backend) > u64::from(limit) {
                active.store(active.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
                return false;
            }
        }
        self.in_flight.set(self.in_flight.get() + 1);
        true
    }

    /// The request is over.
    pub fn end(&self, backend: usize) {
        let active = self.active_here(backend);
        active.store(active.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    fn active_here(&self, backend: usize) -> &AtomicU32 {
        &self.cell(backend).active
    }

    /// This worker's line in the region.
    #[must_use]
    pub fn worker_line(&self) -> &region::WorkerLine {
        self.region.worker(self.worker)
    }

    /// This worker's counters for a backend.
    #[must_use]
    pub fn cell(&self, backend: usize) -> &region::Cell {
        self.region.cell(self.worker, self.backends[backend].tenant.slot())
    }

    /// Notes how long something took this worker at a backend.
    #[inline]
    pub fn note_time(&self, backend: usize, timer: Timer, us: u64) {
        self.region.note_time(self.worker, self.backends[backend].tenant.slot(), timer, us);
    }

    /// The cells of all workers for a backend.
    fn cells(&self, backend: usize) -> impl Iterator<Item = &region::Cell> {
        let slot = self.backends[backend].tenant.slot();
        (0..self.region.cell_workers()).map(move |worker| self.region.cell(worker, slot))
    }

    /// Requests in flight at a backend, of all workers.
    fn active(&self, backend: usize) -> u64 {
        self.cells(backend).map(|cell| u64::from(cell.active.load(Ordering::Relaxed))).sum()
    }

    /// Work that time brings, to be called every [`crate::net::TICK`].
    pub fn tick(&self) {
        self.look_for_trials();
        self.group.mend(&self.region);
        if self.balance == Balance::PeakEwma {
            self.median_us.set(ewma::median(&self.latencies, crate::net::clock::now_us()));
        }
        let mut available = self.available.borrow_mut();
        if available.panicking.is_some() {
            available.forget();
        }
    }

    /// Whether a backend that warms up takes work of this hash.
    fn admits(&self, backend: usize, hash: u64) -> bool {
        let word = self.region.word(self.backends[backend].tenant.slot());
        !word.is_warming()
            || word.admits(hash, crate::clock::now_ticks(), self.policy.slow_start_ticks)
    }

    fn is_warm_enough(&self, backend: usize) -> bool {
        let word = self.region.word(self.backends[backend].tenant.slot());
        let warmth = word.warmth(crate::clock::now_ticks(), self.policy.slow_start_ticks);
        self.random.below(256) < warmth as usize
    }
}

#[cfg(test)]
mod tests;
