//! How the rules of one configuration follow from those of the one before: what is the same in both is
//! shared, and of what differs what was learned is kept.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::HeaderName;
use steerage_common::slot::Slot;

use super::affinity::Affinity;
use super::budget::Budget;
use super::crowd::Crowd;
use super::house::Latest;
use super::multiplex::Multiplex;
use super::pool::Pool;
use super::{Front, Proxy, Tally, Target, access, headers, reply, route};
use crate::access::Log;
use crate::config::model::{self, Balance, Global, Listener, Model, UpstreamProtocol};
use crate::l4::Entry;
use crate::region::{Region, Tenant};
use crate::service::identity::listener_identity;
use crate::service::{Placed, Random, Service};
use crate::tls::ticket::KeyRing;
use crate::tls::upstream::{Dialer, Identity, Keyring};
use crate::tls::{Shelf, Terminator};

impl Proxy {
    /// What comes before the first configuration, with what of it never changes.
    pub(super) fn nothing(
        model: &Model,
        (worker, workers): (usize, usize),
        region: Rc<Region>,
        latest: Rc<Latest>,
        log: Rc<Log>,
    ) -> Self {
        let nothing = Model {
            global: model.global.clone(),
            guard: model.guard.clone(),
            listeners: Vec::new(),
            vips: Vec::new(),
            services: Vec::new(),
        };
        let ring = Arc::new(KeyRing::new(region.tickets().clone()));
        Self {
            placed: Placed { model: nothing, tenants: Vec::new(), lines: Vec::new() },
            worker,
            workers,
            region,
            fronts: Vec::new(),
            targets: Vec::new(),
            random: Random::new(Random::fresh_seed()),
            access: None,
            log,
            complaints: Rc::default(),
            latest,
            certificates: Shelf::default(),
            ring,
            identity_headers: Vec::new(),
        }
    }

    /// The next configuration's; what is the same in both is shared.
    pub(super) fn succeed(&self, placed: Placed, certificates: Shelf, keyring: &Keyring) -> Self {
        let targets = self.next_targets(&placed, keyring);
        let fronts = self.next_fronts(&placed.model, &certificates);
        let identity_headers = identity_headers(&fronts);
        let access = access::Rule::new(&placed.model.global.access_log, &self.log);
        Self {
            placed,
            worker: self.worker,
            workers: self.workers,
            region: self.region.clone(),
            fronts,
            targets,
            random: Random::new(self.random.next()),
            access,
            log: self.log.clone(),
            complaints: self.complaints.clone(),
            latest: self.latest.clone(),
            certificates,
            ring: self.ring.clone(),
            identity_headers,
        }
    }

    fn next_fronts(&self, model: &Model, certificates: &Shelf) -> Vec<Rc<Front>> {
        let former = &self.placed.model;
        // Routes name services by index.
        let names = |model: &Model| -> Vec<String> {
            model.services.iter().map(|service| service.name.clone()).collect()
        };
        let is_same_order = names(former) == names(model);
        let is_same_rotation = former.global.ticket_rotation == model.global.ticket_rotation;
        let shows_same = |listener: &Listener| {
            listener.tls.as_ref().is_none_or(|tls| {
                let is_same = |files| self.certificates.get(files) == certificates.get(files);
                is_same_rotation && tls.certificates.iter().all(is_same)
            })
        };
        let host = headers::Host::here();
        let next = |listener: &Listener| {
            let at = former.listeners.iter().position(|before| before.name == listener.name);
            match at {
                Some(at)
                    if is_same_order
                        && former.listeners[at] == *listener
                        && shows_same(listener) =>
                {
                    self.fronts[at].clone()
                }
                at => {
                    let former = at.map(|at| &*self.fronts[at]);
                    Rc::new(self.next_front(listener, &model.global, certificates, &host, former))
                }
            }
        };
        model.listeners.iter().map(next).collect()
    }

    fn next_front(
        &self,
        listener: &Listener,
        global: &Global,
        certificates: &Shelf,
        host: &headers::Host,
        former: Option<&Front>,
    ) -> Front {
        let crowd = match former {
            Some(former) => former.crowd.clone(),
            None => {
                let identity = listener_identity(&listener.name);
                Rc::new(Crowd::new(self.region.clone(), self.worker, identity))
            }
        };
        crowd.limit(listener.limits.connections_per_address, self.workers);
        let offences = former.map(|former| former.offences.clone()).unwrap_or_default();
        let rule = Some(&listener.offenders).filter(|rule| rule.strikes != 0);
        offences.set(rule, self.workers);
        let handshakes = former.map(|former| former.handshakes.clone()).unwrap_or_default();
        handshakes.set(listener.tls.as_ref().and_then(|tls| tls.handshake_rate), self.workers);
        let terminator = |tls| {
            let rotation = global.ticket_rotation;
            Terminator::new(&listener.name, tls, certificates, &self.ring, rotation)
        };
        Front {
            name: listener.name.clone(),
            is_logged: listener.access_log,
            entry: Entry::new(listener),
            tally: Rc::new(Tally::new(listener, self.region.clone(), self.worker)),
            tls: listener.tls.as_ref().map(terminator),
            handshakes,
            timeouts: listener.timeouts,
            limits: listener.limits.into(),
            body_rate: listener.limits.body_rate,
            crowd,
            offences,
            offenders: listener.offenders,
            http2: listener.http2,
            routes: route::Table::new(&listener.routes),
            marks: headers::Marks::new(listener, &global.instance, host),
            replies: reply::Replies::new(listener),
        }
    }

    fn next_targets(&self, placed: &Placed, ring: &Keyring) -> Vec<Rc<Target>> {
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
                    let seats = (&placed.tenants[at][..], placed.lines[at]);
                    Rc::new(self.next_target(former, model, seats, ring))
                }
            }
        };
        placed.model.services.iter().enumerate().map(next).collect()
    }

    fn places(&self) -> HashMap<&str, usize> {
        let services = self.placed.model.services.iter().enumerate();
        services.map(|(at, service)| (service.name.as_str(), at)).collect()
    }

    fn next_target(
        &self,
        former: Option<&Target>,
        model: &model::Service,
        (tenants, line): (&[Tenant], u16),
        ring: &Keyring,
    ) -> Target {
        let (worker, region, random) = (self.worker, &self.region, &self.random);
        let seed = random.next();
        let service = match former {
            Some(former) => former.service.succeed(model, tenants, line, seed),
            None => Service::new(model, tenants, line, worker, region.clone(), seed),
        };
        let identity = model.upstream_tls.as_ref().map(|tls| {
            // The supervisor has made the same of the same before it handed them out.
            Identity::new(tls, model.upstream.protocol, ring).expect("the keyring fits its model")
        });
        let known = former.map(Target::connections).unwrap_or_default();
        let mut links = Vec::with_capacity(tenants.len());
        for (at, (tenant, backend)) in tenants.iter().zip(&model.backends).enumerate() {
            let known = known.get(tenant);
            let link = self.link(known, model, identity.as_ref(), (backend, tenant.slot()));
            if let Some(multiplex) = &link.multiplex {
                service.note_multiplexed(at, multiplex.is_spoken());
            }
            links.push(link);
        }
        let of = |link: &Link| (link.multiplex.clone(), link.dialer.clone());
        let (multiplexes, dialers): (Vec<_>, Vec<_>) = links.iter().map(of).unzip();
        let half = |half: usize| region.control().hash_key[half].load(Ordering::Relaxed);
        Target {
            names: model.backends.iter().map(|backend| backend.address.to_string()).collect(),
            service,
            multiplexes: (model.upstream.protocol != UpstreamProtocol::Http1)
                .then(|| multiplexes.into_iter().flatten().collect()),
            dialers: identity.is_some().then(|| dialers.into_iter().flatten().collect()),
            protocol: model.upstream.protocol,
            proxy_protocol: model.upstream.proxy_protocol,
            pools: links.into_iter().map(|link| link.pool).collect(),
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

    /// The connections to a backend. Those that are `known` go on if they are made as those to come: of
    /// TLS each belongs to who it was made as.
    fn link(
        &self,
        known: Option<&Link>,
        model: &model::Service,
        identity: Option<&Rc<Identity>>,
        (backend, slot): (&model::Backend, Slot),
    ) -> Link {
        let (region, random) = (&self.region, &self.random);
        let former = known.and_then(|known| known.dialer.as_ref());
        let dialer = identity.map(|identity| identity.dialer(backend, former));
        let is_same = match (former, &dialer) {
            (None, None) => true,
            (Some(former), Some(dialer)) => Rc::ptr_eq(former, dialer),
            _ => false,
        };
        let known = known.filter(|_| is_same);
        let pool = match known {
            Some(Link { pool, .. }) => {
                pool.limit(model.pool);
                pool.clone()
            }
            None => {
                let seed = random.next();
                Rc::new(Pool::new(model.pool, region.clone(), self.worker, slot, seed))
            }
        };
        let multiplex = || {
            let multiplex = match known.and_then(|known| known.multiplex.as_ref()) {
                Some(multiplex) => {
                    multiplex.limit(model.upstream, model.pool);
                    multiplex.clone()
                }
                None => {
                    let seed = random.next();
                    Rc::new(Multiplex::new(model.upstream, model.pool, pool.meter(), seed))
                }
            };
            // A connection is kept for the next request, so each worker has its share of them.
            let share = |most: u32| (most as usize / region.cell_workers()).max(1);
            multiplex.limit_connections(backend.max_connections.map_or(usize::MAX, share));
            multiplex
        };
        let multiplex = (model.upstream.protocol != UpstreamProtocol::Http1).then(multiplex);
        Link { pool, multiplex, dialer }
    }

    /// Ends what this configuration has and `next` has not.
    pub(super) fn retire(&self, next: &Self) {
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
    pub(crate) fn in_force(&self, service: &str) -> Option<Rc<Target>> {
        let proxy = self.latest.proxy()?;
        let at = proxy.placed.model.services.iter().position(|known| known.name == service)?;
        Some(proxy.targets[at].clone())
    }
}

/// The headers that tell who clients are, of all listeners: on none may a client say it itself.
fn identity_headers(fronts: &[Rc<Front>]) -> Vec<HeaderName> {
    let tls = fronts.iter().filter_map(|front| front.tls.as_ref());
    let mut names: Vec<HeaderName> = tls.flat_map(|tls| tls.headers().names().cloned()).collect();
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    names
}

/// What leads to one backend.
struct Link {
    pool: Rc<Pool>,
    multiplex: Option<Rc<Multiplex>>,
    dialer: Option<Rc<Dialer>>,
}

impl Target {
    /// The connections to each backend.
    fn connections(&self) -> HashMap<Tenant, Link> {
        let backends = self.service.backends().iter().enumerate();
        let of = |at: usize| Link {
            pool: self.pools[at].clone(),
            multiplex: self.multiplexes.as_ref().map(|multiplexes| multiplexes[at].clone()),
            dialer: self.dialers.as_ref().map(|dialers| dialers[at].clone()),
        };
        backends.map(|(at, backend)| (backend.tenant, of(at))).collect()
    }

    /// Lets go of idle connections that `successor` has no use for.
    fn leave(&self, successor: Option<&Self>) {
        let kept = successor.map(Self::connections).unwrap_or_default();
        for (tenant, Link { pool, multiplex, .. }) in self.connections() {
            let keeps = kept.get(&tenant);
            if keeps.is_none_or(|keeps| !Rc::ptr_eq(&keeps.pool, &pool)) {
                pool.retire();
            }
            let is_kept = |multiplex: &Rc<Multiplex>| {
                let kept = keeps.and_then(|keeps| keeps.multiplex.as_ref());
                kept.is_some_and(|kept| Rc::ptr_eq(kept, multiplex))
            };
            if let Some(multiplex) = multiplex.filter(|multiplex| !is_kept(multiplex)) {
                multiplex.retire();
            }
        }
    }
}
