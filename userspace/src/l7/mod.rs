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
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ipnet::IpNet;
use steerage_common::error::ErrorClass;
use steerage_common::replay;

use crate::config::model::{Balance, Http2, ListenerTimeouts, Model, UpstreamProtocol};
use crate::region::{Region, Tenant, WorkerLine, add};
use crate::service::{Random, Service};

use affinity::Affinity;
pub use body::Body;
use budget::Budget;
pub use connection::serve;
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

/// What all connections of a worker share.
#[derive(Debug)]
pub struct Proxy {
    worker: usize,
    region: Rc<Region>,
    fronts: Vec<Front>,
    targets: Vec<Target>,
    trusted: Vec<IpNet>,
    random: Random,
    is_draining: Cell<bool>,
}

/// A listener's rules.
#[derive(Debug)]
struct Front {
    timeouts: ListenerTimeouts,
    limits: guard::Limits,
    body_rate: u32,
    crowd: Rc<crowd::Crowd>,
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
    multiplexes: Option<Vec<Multiplex>>,
    replay: replay::Policy,
    budget: Budget,
    queue: Queue,
    queue_timeout: Duration,
    affinity: Affinity,
    /// Whether every 5xx is a failure.
    server_errors: bool,
}

impl Proxy {
    /// The proxy of worker `worker` of `workers`. `tenants` and `lines` are parallel to the model's services.
    #[must_use]
    pub fn new(
        model: &Model,
        tenants: &[Vec<Tenant>],
        lines: &[u16],
        worker: usize,
        workers: usize,
        region: Rc<Region>,
    ) -> Self {
        let random = Random::new(Random::fresh_seed());
        let host = headers::Host::here();
        let half = |half: usize| region.control().hash_key[half].load(Ordering::Relaxed);
        let key = [half(0), half(1)];
        let target = |((service, tenants), line): ((_, &Vec<Tenant>), &u16)| {
            let model: &crate::config::model::Service = service;
            let seed = random.next();
            let service = Service::new(model, tenants, *line, worker, region.clone(), seed);
            let pools = service.backends().iter().map(|backend| {
                let slot = backend.tenant.slot();
                Rc::new(Pool::new(model.pool, region.clone(), worker, slot, random.next()))
            });
            let pools: Vec<Rc<Pool>> = pools.collect();
            let multiplex = |pool: &Rc<Pool>| {
                Multiplex::new(model.upstream, model.pool, pool.meter(), random.next())
            };
            let is_http2 = model.upstream.protocol == UpstreamProtocol::Http2;
            Target {
                service,
                multiplexes: is_http2.then(|| pools.iter().map(multiplex).collect()),
                pools,
                replay: model.replay_policy(),
                budget: Budget::new(model.retry.budget_percent.into()),
                queue: Queue::default(),
                queue_timeout: model.queue_timeout,
                affinity: Affinity::new(
                    (model.balance == Balance::Maglev).then_some(&model.hash_key),
                    key,
                    model.sticky_cookie.clone(),
                ),
                server_errors: model.ejection.server_errors,
            }
        };
        Self {
            worker,
            fronts: model
                .listeners
                .iter()
                .map(|listener| Front {
                    timeouts: listener.timeouts,
                    limits: listener.limits.into(),
                    body_rate: listener.limits.body_rate,
                    crowd: crowd::Crowd::new(listener.limits.connections_per_address, workers),
                    http2: listener.http2,
                    routes: route::Table::new(&listener.routes),
                    marks: headers::Marks::new(listener, &model.global.instance, &host),
                    replies: reply::Replies::new(listener),
                })
                .collect(),
            targets: model.services.iter().zip(tenants).zip(lines).map(target).collect(),
            trusted: model.global.trusted_proxies.clone(),
            is_draining: Cell::new(false),
            random,
            region,
        }
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

    /// Lets every connection end with the request that it is at, idle ones at once.
    pub fn drain(&self) {
        self.is_draining.set(true);
        crate::net::wake_all();
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
        self.trusted.iter().any(|net| net.contains(&peer))
    }
}
