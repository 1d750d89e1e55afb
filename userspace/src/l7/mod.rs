//! The HTTP proxy of one worker.
//!
//! ```text
//! connection ─► exchange: route ─► pick ─► attempt: pool or connect ─► send ─► response
//!     │             │ reply or redirect, if nothing is forwarded  │
//!     └─ deadline   └─ forward, headers, rewrite           body: both ways, as they come
//! ```
//!
//! hyper parses and frames what the [`guard`] lets pass; what is decided is decided here. Bodies are
//! never held: hyper reads from one side only as fast as the other side takes (back-pressure), so memory
//! per connection is bounded by hyper's buffers ([`REQUEST_BUFFER_BYTES_MAX`],
//! [`RESPONSE_BUFFER_BYTES_MAX`]). Everything is of one thread: no lock, no atomic but the shared
//! region's.
//!
//! A request that asks for a tunnel ([`upgrade`]) becomes one when the backend says so, and what passes
//! then is looked at by nobody ([`tunnel`]).

mod affinity;
mod attempt;
mod body;
mod budget;
mod connection;
mod crowd;
mod exchange;
mod expect;
pub mod explain;
pub mod forward;
mod gate;
pub mod guard;
mod headers;
mod host;
mod house;
mod http2;
mod lent;
mod multiplex;
mod pace;
mod pool;
mod preface;
mod prepare;
mod queue;
mod redirect;
mod reply;
mod rewrite;
pub mod route;
mod ttl;
mod tunnel;
mod upgrade;
mod upload;
mod version;
mod via;
mod watch;

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use steerage_common::error::ErrorClass;
use steerage_common::replay;

use crate::config::model::{
    self, Balance, Http2, Listener, ListenerTimeouts, Model, UpstreamProtocol,
};
use crate::region::{Region, Tenant, WorkerLine, add};
use crate::service::{Placed, Random, Service};

use affinity::Affinity;
pub use body::Body;
use budget::Budget;
pub use connection::serve;
use crowd::Crowd;
use house::Latest;
pub use house::{Door, House};
use multiplex::Multiplex;
use pool::Pool;
use queue::Queue;

/// hyper's buffer of a client's connection: what a request body in transit may occupy. What a turn of
/// many uploads reads is still in the core's second-level cache when it is written: a MiB costs 281 µs
/// with this size, 341 with 64 KiB, 400 with 128 KiB, and 366 with 40 KiB (`cargo xtask bench`,
/// 16 connections, 1 MiB of cache).
const REQUEST_BUFFER_BYTES_MAX: usize = 56 * 1024;

/// hyper's buffer of a backend's connection: a response of 64 KiB with its head is one read and one
/// write.
const RESPONSE_BUFFER_BYTES_MAX: usize = 128 * 1024;

/// What one configuration makes of requests. Nothing of it changes; see [`House`].
#[derive(Debug)]
pub struct Proxy {
    placed: Placed,
    worker: usize,
    workers: usize,
    region: Rc<Region>,
    /// Parallel to the model's listeners.
    fronts: Vec<Rc<Front>>,
    /// Parallel to the model's services.
    targets: Vec<Rc<Target>>,
    random: Random,
    latest: Rc<Latest>,
}

/// A listener's rules.
#[derive(Debug)]
struct Front {
    timeouts: ListenerTimeouts,
    limits: guard::Limits,
    body_rate: u32,
    crowd: Rc<Crowd>,
    http2: Http2,
    routes: route::Table,
    marks: headers::Marks,
    replies: reply::Replies,
}

/// A service and the connections to its backends.
#[derive(Debug)]
struct Target {
    service: Service,
    /// By index of the backend.
    pools: Vec<Rc<Pool>>,
    /// The same if the backends are spoken to by HTTP/2.
    multiplexes: Option<Vec<Rc<Multiplex>>>,
    replay: replay::Policy,
    budget: Budget,
    queue: Rc<Queue>,
    queue_timeout: Duration,
    affinity: Affinity,
    /// Whether every 5xx is a failure.
    server_errors: bool,
    /// Whether the configuration in force has another one in its place, or none.
    is_retired: Cell<bool>,
}

impl Proxy {
    fn new(
        placed: Placed,
        worker: usize,
        workers: usize,
        region: Rc<Region>,
        latest: Rc<Latest>,
    ) -> Self {
        let nothing = Model {
            global: placed.model.global.clone(),
            listeners: Vec::new(),
            vips: Vec::new(),
            services: Vec::new(),
        };
        let first = Self {
            placed: Placed { model: nothing, tenants: Vec::new(), lines: Vec::new() },
            worker,
            workers,
            region,
            fronts: Vec::new(),
            targets: Vec::new(),
            random: Random::new(Random::fresh_seed()),
            latest,
        };
        first.succeed(placed)
    }

    /// The next configuration's; what is the same in both is shared.
    fn succeed(&self, placed: Placed) -> Self {
        let targets = self.next_targets(&placed);
        let fronts = self.next_fronts(&placed.model);
        Self {
            placed,
            worker: self.worker,
            workers: self.workers,
            region: self.region.clone(),
            fronts,
            targets,
            random: Random::new(self.random.next()),
            latest: self.latest.clone(),
        }
    }

    fn next_fronts(&self, model: &Model) -> Vec<Rc<Front>> {
        let former = &self.placed.model;
        // Routes name services by index.
        let names = |model: &Model| -> Vec<String> {
            model.services.iter().map(|service| service.name.clone()).collect()
        };
        let is_same_order = names(former) == names(model);
        let host = headers::Host::here();
        let next = |listener: &Listener| {
            let at = former.listeners.iter().position(|before| before.name == listener.name);
            match at {
                Some(at) if is_same_order && former.listeners[at] == *listener => {
                    self.fronts[at].clone()
                }
                at => {
                    let crowd = at.map(|at| self.fronts[at].crowd.clone());
                    Rc::new(self.front(listener, &model.global.instance, &host, crowd))
                }
            }
        };
        model.listeners.iter().map(next).collect()
    }

    fn front(
        &self,
        listener: &Listener,
        instance: &str,
        host: &headers::Host,
        crowd: Option<Rc<Crowd>>,
    ) -> Front {
        let crowd = crowd.unwrap_or_default();
        crowd.limit(listener.limits.connections_per_address, self.workers);
        Front {
            timeouts: listener.timeouts,
            limits: listener.limits.into(),
            body_rate: listener.limits.body_rate,
            crowd,
            http2: listener.http2,
            routes: route::Table::new(&listener.routes),
            marks: headers::Marks::new(listener, instance, host),
            replies: reply::Replies::new(listener),
        }
    }

    fn next_targets(&self, placed: &Placed) -> Vec<Rc<Target>> {
        let before = &self.placed;
        let is_same = |former: usize, at: usize| {
            before.model.services[former] == placed.model.services[at]
                && before.tenants[former] == placed.tenants[at]
                && before.lines[former] == placed.lines[at]
        };
        let places: HashMap<&str, usize> = self.places();
        let next = |(at, model): (usize, &model::Service)| {
            let former = places.get(model.name.as_str()).copied();
            match former {
                Some(former) if is_same(former, at) => self.targets[former].clone(),
                former => {
                    let former = former.map(|former| &*self.targets[former]);
                    Rc::new(self.target(former, model, &placed.tenants[at], placed.lines[at]))
                }
            }
        };
        placed.model.services.iter().enumerate().map(next).collect()
    }

    fn places(&self) -> HashMap<&str, usize> {
        let services = self.placed.model.services.iter().enumerate();
        services.map(|(at, service)| (service.name.as_str(), at)).collect()
    }

    fn target(
        &self,
        former: Option<&Target>,
        model: &model::Service,
        tenants: &[Tenant],
        line: u16,
    ) -> Target {
        let (worker, region, random) = (self.worker, &self.region, &self.random);
        let seed = random.next();
        let service = match former {
            Some(former) => former.service.succeed(model, tenants, line, seed),
            None => Service::new(model, tenants, line, worker, region.clone(), seed),
        };
        let known = former.map(Target::connections).unwrap_or_default();
        let pool = |tenant: &Tenant| match known.get(tenant) {
            Some((pool, _)) => {
                pool.limit(model.pool);
                pool.clone()
            }
            None => {
                let slot = tenant.slot();
                Rc::new(Pool::new(model.pool, region.clone(), worker, slot, random.next()))
            }
        };
        let pools: Vec<Rc<Pool>> = tenants.iter().map(pool).collect();
        let multiplex = |(tenant, pool): (&Tenant, &Rc<Pool>)| match known.get(tenant) {
            Some((_, Some(multiplex))) => {
                multiplex.limit(model.upstream, model.pool);
                multiplex.clone()
            }
            _ => {
                let seed = random.next();
                Rc::new(Multiplex::new(model.upstream, model.pool, pool.meter(), seed))
            }
        };
        let is_http2 = model.upstream.protocol == UpstreamProtocol::Http2;
        let half = |half: usize| region.control().hash_key[half].load(Ordering::Relaxed);
        Target {
            service,
            multiplexes: is_http2.then(|| tenants.iter().zip(&pools).map(multiplex).collect()),
            pools,
            replay: model.replay_policy(),
            budget: Budget::new(model.retry.budget_percent.into()),
            queue: former.map(|former| former.queue.clone()).unwrap_or_default(),
            queue_timeout: model.queue_timeout,
            affinity: Affinity::new(
                (model.balance == Balance::Maglev).then_some(&model.hash_key),
                [half(0), half(1)],
                model.sticky_cookie.clone(),
            ),
            server_errors: model.ejection.server_errors,
            is_retired: Cell::new(false),
        }
    }

    /// Ends what this configuration has and `next` has not.
    fn retire(&self, next: &Self) {
        let places = next.places();
        for target in &self.targets {
            let successor = places.get(target.service.name()).map(|at| &next.targets[*at]);
            if successor.is_some_and(|successor| Rc::ptr_eq(successor, target)) {
                continue;
            }
            target.is_retired.set(true);
            // Those that wait look for a backend in the new configuration.
            target.queue.call();
            target.leave(successor.map(|successor| &**successor));
        }
    }

    /// A service of the configuration in force.
    fn in_force(&self, service: &str) -> Option<Rc<Target>> {
        let proxy = self.latest.proxy()?;
        let at = proxy.placed.model.services.iter().position(|known| known.name == service)?;
        Some(proxy.targets[at].clone())
    }

    /// What it is made of.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.placed.model
    }

    /// Work that time brings, to be called every [`crate::net::TICK`].
    pub fn tick(&self) {
        for target in &self.targets {
            target.service.tick();
            if target.service.has_tunnels_to_end() {
                crate::net::wake_all();
            }
            target.queue.call();
            for (backend, pool) in target.pools.iter().enumerate() {
                let accepts_new = target.service.accepts_new(backend);
                pool.sweep(accepts_new);
                if let Some(multiplexes) = &target.multiplexes {
                    multiplexes[backend].sweep(accepts_new);
                }
            }
        }
    }

    /// This worker's line in the region.
    #[must_use]
    pub fn line(&self) -> &WorkerLine {
        self.region.worker(self.worker)
    }

    /// Notes that a request was answered here.
    fn count_error(&self, class: ErrorClass) {
        add(&self.line().errors[class as usize], 1);
    }

    fn trusts(&self, peer: IpAddr) -> bool {
        self.model().global.trusted_proxies.iter().any(|net| net.contains(&peer))
    }
}

impl Target {
    /// The connections to each backend.
    fn connections(&self) -> HashMap<Tenant, (Rc<Pool>, Option<Rc<Multiplex>>)> {
        let backends = self.service.backends().iter().enumerate();
        let of = |at: usize| {
            let multiplex = self.multiplexes.as_ref().map(|multiplexes| multiplexes[at].clone());
            (self.pools[at].clone(), multiplex)
        };
        backends.map(|(at, backend)| (backend.tenant, of(at))).collect()
    }

    /// Lets go of idle connections that `successor` has no use for.
    fn leave(&self, successor: Option<&Self>) {
        let kept = successor.map(Self::connections).unwrap_or_default();
        for (tenant, (pool, multiplex)) in self.connections() {
            let keeps = kept.get(&tenant);
            if keeps.is_none() {
                pool.retire();
            }
            if let Some(multiplex) = multiplex.filter(|_| keeps.is_none_or(|(_, m)| m.is_none())) {
                multiplex.retire();
            }
        }
    }
}
