//! The snapshot in motion: what one shows beside another, rates and shares of late. It is what the page and
//! `steerage top` show.
//!
//! [`Follower`] is told one snapshot after the other and remembers what counters stood at, by what they
//! count for: a backend by its seat in the tables, everything else by its name.

use std::collections::HashMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::meter::{LEAST, Meter, Step, Times, quantiles};
use super::status::{self, Status};

/// What is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Board {
    /// Version of the daemon.
    pub version: String,
    /// `global.instance`.
    pub instance: String,
    /// Process id of the supervisor.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The generation in force.
    pub generation: u64,
    /// `ebpf` or `memory`.
    pub plane: String,
    /// Work of all services.
    pub work: Work,
    /// The services.
    pub services: Vec<Service>,
    /// Backends that left the configuration.
    pub leaving: Vec<status::Leaving>,
    /// The listeners.
    pub listeners: Vec<status::Listener>,
    /// The vips.
    pub vips: Vec<Vip>,
    /// Packets by reason: those reasons that there were.
    pub reasons: Vec<Reason>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// The certificates.
    pub certificates: Vec<status::Certificate>,
    /// Lines of the access log that were lost, on whatever way.
    pub log_lines_lost: u64,
}

/// Requests that backends had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Requests a second; `None` before the second snapshot.
    pub rate: Option<f64>,
    /// The share of them that failed, or were answered with a status of 500 or more; `None` without any.
    pub errors: Option<f64>,
    /// Requests in flight.
    pub active: u64,
    /// The seconds that half of the responses did not pass until they began; `None` without any.
    pub p50: Option<f64>,
    /// The seconds that 99 of a hundred did not pass.
    pub p99: Option<f64>,
}

/// A service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// How backends are picked.
    pub balance: String,
    /// How many backends take new work.
    pub available: usize,
    /// Whether so few do that health is ignored.
    pub panicking: bool,
    /// How many backends there are.
    pub size: usize,
    /// What they have to do.
    pub work: Work,
    /// Packets a second, both ways.
    pub packets: Option<f64>,
    /// The backends; they are told apart from it.
    #[serde(skip)]
    pub backends: Vec<Backend>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// What is known of it.
    pub now: status::Backend,
    /// What it has to do.
    pub work: Work,
    /// Packets a second, both ways.
    pub packets: Option<f64>,
}

/// A vip.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Vip {
    /// What is known of it.
    #[serde(flatten)]
    pub now: status::Vip,
    /// Packets a second from clients.
    pub packets: Option<f64>,
    /// Bits a second from clients.
    pub bits: Option<f64>,
    /// Flows begun a second.
    pub flow_rate: Option<f64>,
}

/// A reason that packets had.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reason {
    /// Its name.
    pub name: String,
    /// How many there were.
    pub count: u64,
    /// How many a second.
    pub rate: Option<f64>,
}

/// A worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Worker {
    /// Its line.
    pub line: usize,
    /// Its process.
    pub pid: u32,
    /// Whether it serves: `live`, `full`, `draining`, `former`.
    pub state: String,
    /// Open client connections.
    pub connections: u32,
    /// Requests being served.
    pub active: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// How many a second.
    pub accept_rate: Option<f64>,
    /// Connections that it has not accepted yet.
    pub pending: u32,
    /// Requests a second that it answered itself.
    pub error_rate: Option<f64>,
    /// Milliseconds since its last sign of life.
    pub heartbeat_age_ms: u64,
}

/// Makes boards of snapshots.
#[derive(Debug, Default)]
pub struct Follower {
    last: Option<Instant>,
    backends: HashMap<(u16, u32), BackendMeters>,
    vips: HashMap<String, [Meter; 3]>,
    reasons: HashMap<String, Meter>,
    workers: HashMap<(usize, u32), [Meter; 2]>,
}

#[derive(Clone, Debug)]
struct BackendMeters {
    requests: Meter,
    errors: Meter,
    packets: Meter,
    /// Until the response began; `None` while there was none.
    times: Option<Box<Times>>,
}

impl BackendMeters {
    /// Those of a backend that is looked at a step later, or of one that is not `known`.
    fn looked(known: Option<Self>, now: &status::Backend, pace: Pace) -> Self {
        let (served, failed) = served_and_failed(&now.l7);
        let packets = now.l4.in_packets + now.l4.out_packets;
        let before = known.as_ref().map(|known| [known.requests, known.errors, known.packets]);
        let is_known = known.is_some();
        let [requests, errors, packets] = pace.looked(before, [served, failed, packets]);
        let buckets = &now.l7.first_byte.buckets;
        let times = match (known.and_then(|known| known.times), pace.0) {
            (Some(mut times), Some(step)) => {
                times.look(buckets, step);
                Some(times)
            }
            _ if buckets.is_empty() => None,
            (_, Some(step)) if is_known => {
                let mut times = Box::new(Times::new(&[]));
                times.look(buckets, step);
                Some(times)
            }
            _ => Some(Box::new(Times::new(buckets))),
        };
        Self { requests, errors, packets, times }
    }
}

/// The work that backends with these meters have, `active` requests of it in flight.
fn work<'a>(meters: impl Iterator<Item = &'a BackendMeters> + Clone, active: u64) -> Work {
    let sum = |meter: fn(&BackendMeters) -> &Meter| -> f64 {
        meters.clone().map(|meters| meter(meters).gained()).sum()
    };
    let [p50, p99] = quantiles(meters.clone().filter_map(|meters| meters.times.as_deref()));
    Work {
        rate: total(meters.clone().map(|meters| meters.requests.rate())),
        errors: share(sum(|meters| &meters.errors), sum(|meters| &meters.requests)),
        active,
        p50,
        p99,
    }
}

impl Follower {
    /// The board that this snapshot makes, which was taken now.
    pub fn follow(&mut self, status: Status, now: Instant) -> Board {
        let passed = self.last.map(|last| now.saturating_duration_since(last));
        self.last = Some(now);
        let pace = Pace(passed.map(|passed| Step::new(passed.as_secs_f64())));
        let mut meters = HashMap::with_capacity(self.backends.len());
        let services: Vec<Service> = status
            .services
            .into_iter()
            .map(|service| self.service(service, pace, &mut meters))
            .collect();
        self.backends = meters;
        let log_lines_lost = status.access_log_lost
            + status.workers.iter().map(|worker| worker.log_dropped).sum::<u64>();
        let active = services.iter().map(|service| service.work.active).sum();
        let work = work(self.backends.values(), active);
        Board {
            version: status.version,
            instance: status.instance,
            pid: status.pid,
            uptime_seconds: status.uptime_seconds,
            generation: status.generation,
            plane: status.plane,
            work,
            services,
            leaving: status.leaving,
            listeners: status.listeners,
            vips: self.vips(status.vips, pace),
            reasons: self.reasons(status.l4_reasons, pace),
            workers: self.workers(&status.workers, pace),
            certificates: status.certificates,
            log_lines_lost,
        }
    }

    fn service(
        &mut self,
        service: status::Service,
        pace: Pace,
        meters: &mut HashMap<(u16, u32), BackendMeters>,
    ) -> Service {
        let seats: Vec<_> = service.backends.iter().map(|now| (now.slot, now.epoch)).collect();
        let backends: Vec<Backend> = service
            .backends
            .into_iter()
            .map(|now| {
                let seat = (now.slot, now.epoch);
                let looked = BackendMeters::looked(self.backends.remove(&seat), &now, pace);
                let looked = meters.entry(seat).insert_entry(looked);
                let of_one = std::iter::once(looked.get());
                let work = work(of_one, now.l7.active);
                Backend { work, packets: rate(&looked.get().packets), now }
            })
            .collect();
        let active = backends.iter().map(|backend| backend.work.active).sum();
        Service {
            name: service.name,
            balance: service.balance,
            available: service.available,
            panicking: service.panicking,
            size: backends.len(),
            work: work(seats.iter().filter_map(|seat| meters.get(seat)), active),
            packets: total(backends.iter().map(|backend| backend.packets)),
            backends,
        }
    }

    fn vips(&mut self, vips: Vec<status::Vip>, pace: Pace) -> Vec<Vip> {
        let values = |vip: &status::Vip| [vip.l4.in_packets, vip.l4.in_bytes * 8, vip.l4.flows];
        let known = &self.vips;
        let (meters, vips) = vips
            .into_iter()
            .map(|now| {
                let meters = pace.looked(known.get(&now.name).copied(), values(&now));
                let [packets, bits, flow_rate] = meters.each_ref().map(rate);
                ((now.name.clone(), meters), Vip { now, packets, bits, flow_rate })
            })
            .unzip();
        self.vips = meters;
        vips
    }

    fn reasons(&mut self, reasons: Vec<status::Count>, pace: Pace) -> Vec<Reason> {
        let known = &self.reasons;
        let (meters, reasons) = reasons
            .into_iter()
            .filter(|reason| reason.count > 0)
            .map(|status::Count { name, count }| {
                let before = known.get(&name).map(|meter| [*meter]);
                let [meter] = pace.looked(before, [count]);
                ((name.clone(), meter), Reason { name, count, rate: rate(&meter) })
            })
            .unzip();
        self.reasons = meters;
        reasons
    }

    fn workers(&mut self, workers: &[status::Worker], pace: Pace) -> Vec<Worker> {
        let known = &self.workers;
        let (meters, workers) = workers
            .iter()
            .map(|worker| {
                let who = (worker.line, worker.pid);
                let errors = worker.errors.iter().map(|class| class.count).sum();
                let meters = pace.looked(known.get(&who).copied(), [worker.accepted, errors]);
                let [accept_rate, error_rate] = meters.each_ref().map(rate);
                let shown = Worker {
                    line: worker.line,
                    pid: worker.pid,
                    state: state_of(worker).into(),
                    connections: worker.connections,
                    active: worker.active_requests,
                    accepted: worker.accepted,
                    accept_rate,
                    pending: worker.pending,
                    error_rate,
                    heartbeat_age_ms: worker.heartbeat_age_ms,
                };
                ((who, meters), shown)
            })
            .unzip();
        self.workers = meters;
        workers
    }
}

/// The step from the last snapshot; `None` at the first one.
#[derive(Clone, Copy)]
struct Pace(Option<Step>);

impl Pace {
    /// Meters that have seen these values; new ones for what was not `known`.
    fn looked<const N: usize>(self, known: Option<[Meter; N]>, values: [u64; N]) -> [Meter; N] {
        let (Some(mut meters), Some(step)) = (known, self.0) else {
            return values.map(Meter::new);
        };
        for (meter, value) in meters.iter_mut().zip(values) {
            meter.look(value, step);
        }
        meters
    }
}

/// Requests that a backend had, and those of them that failed or were answered with a status of 500 or more.
fn served_and_failed(l7: &status::L7) -> (u64, u64) {
    // That status is among the responses already.
    let is_alone = |class: &&status::Count| class.name != "gateway_status";
    let lost: u64 = l7.failures.iter().filter(is_alone).map(|class| class.count).sum();
    let of_servers = l7.responses.iter().filter(|class| class.name == "5xx");
    let answered: u64 = of_servers.map(|class| class.count).sum();
    (l7.requests() + lost, answered + lost)
}

/// What a worker does.
#[must_use]
pub fn state_of(worker: &status::Worker) -> &'static str {
    match (worker.live, worker.current) {
        (_, false) => "former",
        (true, true) if worker.full => "full",
        (true, true) => "live",
        (false, true) => "draining",
    }
}

fn rate(meter: &Meter) -> Option<f64> {
    meter.rate().map(rounded)
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole >= LEAST).then(|| ((part / whole).min(1.0) * 1e4).round() / 1e4)
}

/// The sum; `None` while nothing is known.
fn total(rates: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    rates.flatten().reduce(|sum, rate| sum + rate).map(rounded)
}

/// Nobody reads more digits.
fn rounded(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::table::tests::sample;
    use super::*;

    /// The sample, in which the one backend has had so many responses of these classes, and packets.
    fn after(ok: u64, failed: u64, lost: u64, packets: u64) -> Status {
        let count = |name: &str, count| status::Count { name: name.into(), count };
        let mut status = sample();
        let backend = &mut status.services[0].backends[0];
        backend.l7.responses = vec![count("2xx", ok), count("5xx", failed)];
        // A gateway's status is a response and a failure.
        backend.l7.failures = vec![count("connect", lost), count("gateway_status", failed)];
        backend.l4.in_packets = packets;
        status
    }

    #[test]
    fn rates_and_shares_are_those_of_late() {
        let (mut follower, start) = (Follower::default(), Instant::now());
        let first = follower.follow(after(1_000_000, 900_000, 0, 50), start);
        let work = &first.services[0].work;
        assert_eq!((work.rate, work.errors), (None, None), "what came before was not seen");
        let status = after(1_000_080, 900_010, 10, 250);
        let board = follower.follow(status, start + Duration::from_secs(2));
        let Service { work, packets, backends, .. } = &board.services[0];
        assert_eq!((work.rate, work.errors, *packets), (Some(50.0), Some(0.2), Some(100.0)));
        assert_eq!(backends[0].work, *work);
        assert_eq!(board.work, *work);
    }

    #[test]
    fn another_tenant_of_a_seat_begins_anew() {
        let (mut follower, start) = (Follower::default(), Instant::now());
        follower.follow(after(10, 0, 0, 0), start);
        let mut next = after(900, 0, 0, 0);
        next.services[0].backends[0].epoch += 1;
        let board = follower.follow(next, start + Duration::from_secs(1));
        assert_eq!(board.services[0].work.rate, None);
        let empty = Status { services: Vec::new(), ..sample() };
        let board = follower.follow(empty, start + Duration::from_secs(2));
        assert_eq!((board.work.rate, board.work.errors), (None, None));
        assert!(follower.backends.is_empty(), "what is gone is forgotten");
    }

    #[test]
    fn vips_reasons_and_workers_have_rates_too() {
        let (mut follower, start) = (Follower::default(), Instant::now());
        follower.follow(sample(), start);
        let mut next = sample();
        next.vips[0].l4.in_packets = 30;
        next.vips[0].l4.in_bytes = 1_000;
        next.l4_reasons[0].count += 5;
        next.workers[0].accepted += 4;
        let board = follower.follow(next, start + Duration::from_secs(1));
        let vip = &board.vips[0];
        assert_eq!((vip.packets, vip.bits, vip.flow_rate), (Some(30.0), Some(8_000.0), Some(0.0)));
        let [reason] = &*board.reasons else { panic!("{:?}", board.reasons) };
        assert_eq!((&*reason.name, reason.count, reason.rate), ("no_backend", 9, Some(5.0)));
        let worker = &board.workers[0];
        assert_eq!((&*worker.state, worker.accept_rate), ("live", Some(4.0)));
    }
}
