//! What workers counted, summed for the status: by worker, by listener, by route, and times.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use steerage_common::handshake::{self, HANDSHAKES};
use steerage_common::latency::{BUCKETS, Timer, quantile_us};
use steerage_common::limits::WORKERS;
use steerage_common::slot::Slot;
use steerage_common::start::Start;
use tracing::warn;

use super::view::{InForce, View, count};
use super::workers::usage;
use crate::clock;
use crate::config::Model;
use crate::config::model::{self, Action, titles};
use crate::region::{Region, WorkerLine};
use crate::service::identity::{listener_identity, route_identity};
use crate::stats::status::{self, Count, Latency};

/// Status classes.
pub const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What came of attempts to put another configuration in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloads {
    /// How many were put in force, or were no other.
    pub taken: u64,
    /// How many were refused.
    pub refused: u64,
    /// Whether the last one was.
    pub is_refused: bool,
    /// When the last one was taken, in seconds since 1970; when the daemon was started, if none was.
    pub taken_at: u64,
}

impl Reloads {
    /// Those of a daemon that follows another one, if it does.
    #[must_use]
    pub fn after(former: Option<&Self>) -> Self {
        // It has just read the configuration, whatever the former one could make of it.
        Self {
            is_refused: false,
            taken_at: clock::since_epoch().as_secs(),
            ..former.cloned().unwrap_or_default()
        }
    }

    /// Notes another one.
    pub fn note(&mut self, is_taken: bool) {
        self.is_refused = !is_taken;
        match is_taken {
            true => {
                self.taken += 1;
                self.taken_at = clock::since_epoch().as_secs();
            }
            false => self.refused += 1,
        }
    }
}

/// Sees to it that the listeners and routes of a configuration have lines, before a worker looks for them.
pub fn seat(model: &Model, region: &Region) {
    let listeners: Vec<u64> =
        model.listeners.iter().map(|listener| listener_identity(&listener.name)).collect();
    let routes = model.listeners.iter().flat_map(|listener| {
        let titles = titles(&listener.routes).into_iter();
        titles.map(|title| route_identity(&listener.name, &title))
    });
    let uncounted = region.seat_figures(&listeners, &routes.collect::<Vec<_>>());
    if uncounted > 0 {
        warn!(uncounted, "more listeners or routes than there are figures for");
    }
}

impl View {
    /// The workers, and what those counted whose lines nobody has now.
    pub(super) fn workers(&self) -> (Vec<status::Worker>, Vec<status::Worker>) {
        let lines = 0..WORKERS.min(self.region.cell_workers());
        let all = lines
            .map(|line| self.worker(line))
            .filter(|worker| worker.pid != 0 || worker.starts.iter().any(|start| start.count > 0));
        all.partition(|worker| worker.pid != 0)
    }

    fn worker(&self, line: usize) -> status::Worker {
        let worker: &WorkerLine = self.region.worker(line);
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let pid = worker.pid.load(Ordering::Relaxed);
        let now_ms = clock::now_ms();
        let usage = if pid == 0 { None } else { usage(pid) }.unwrap_or_default();
        status::Worker {
            line,
            pid,
            live: self.region.is_live(line),
            current: worker.supervisor_epoch.load(Ordering::Relaxed) == self.supervisor_epoch,
            connections: worker.connections.load(Ordering::Relaxed),
            active_requests: get(&worker.active_requests),
            accepted: get(&worker.accepted),
            pending: worker.pending.load(Ordering::Relaxed),
            full: worker.full.load(Ordering::Relaxed) != 0,
            heartbeat_age_ms: now_ms.saturating_sub(get(&worker.heartbeat_ms)),
            age_ms: now_ms.saturating_sub(get(&worker.started_ms)),
            memory_bytes: usage.memory_bytes,
            cpu_seconds: usage.cpu.as_secs_f64(),
            starts: named(Start::ALL.iter().map(|start| start.name()), [&worker.starts]),
            lag: latency([(&worker.lag_counts, &worker.lag_sum_us)]),
            errors: errors([&worker.errors]),
            ends: ends([&worker.ends]),
            stream_ends: ends([&worker.stream_ends]),
            handshakes: handshakes([&worker.handshakes]),
            log_lines: get(&worker.log_lines),
            log_dropped: get(&worker.log_dropped),
        }
    }

    pub(super) fn listeners(&self, now: &InForce) -> Vec<status::Listener> {
        let listeners = now.model.listeners.iter().zip(&now.addresses);
        let all = listeners.map(|(listener, addresses)| {
            let line = self.region.listener_line(listener_identity(&listener.name));
            let lines = || {
                let workers = 0..self.region.cell_workers();
                line.into_iter()
                    .flat_map(move |line| workers.clone().map(move |worker| (worker, line)))
                    .filter(|(worker, _)| self.has_served(*worker))
                    .map(|(worker, line)| self.region.listener(worker, line))
            };
            status::Listener {
                name: listener.name.clone(),
                addresses: addresses.clone(),
                connections: sum(lines().map(|line| &line.connections)),
                accepted: sum(lines().map(|line| &line.accepted)),
                responses: named(CLASSES, lines().map(|line| &line.responses)),
                request_body_bytes: sum(lines().map(|line| &line.request_body_bytes)),
                response_body_bytes: sum(lines().map(|line| &line.response_body_bytes)),
                errors: errors(lines().map(|line| &line.errors)),
                ends: ends(lines().map(|line| &line.ends)),
                stream_ends: ends(lines().map(|line| &line.stream_ends)),
                handshakes: handshakes(lines().map(|line| &line.handshakes)),
                total: latency(lines().map(|line| (&line.counts, &line.sum_us))),
                routes: self.routes(now, listener),
            }
        });
        all.collect()
    }

    fn routes(&self, now: &InForce, listener: &model::Listener) -> Vec<status::Route> {
        let routes = titles(&listener.routes).into_iter().zip(&listener.routes);
        let all = routes.map(|(name, route)| {
            let line = self.region.route_line(route_identity(&listener.name, &name));
            let lines = || {
                let workers = 0..self.region.cell_workers();
                line.into_iter()
                    .flat_map(move |line| workers.clone().map(move |worker| (worker, line)))
                    .filter(|(worker, _)| self.has_served(*worker))
                    .map(|(worker, line)| self.region.route(worker, line))
            };
            status::Route {
                name,
                service: match route.action {
                    Action::Forward(service) => Some(now.model.services[service].name.clone()),
                    Action::Redirect(_) | Action::Answer(_) => None,
                },
                responses: named(CLASSES, lines().map(|line| &line.responses)),
                request_body_bytes: sum(lines().map(|line| &line.request_body_bytes)),
                response_body_bytes: sum(lines().map(|line| &line.response_body_bytes)),
                total: latency(lines().map(|line| (&line.counts, &line.sum_us))),
            }
        });
        all.collect()
    }

    /// Whether a worker may have counted anything: what nobody wrote to is not looked at.
    fn has_served(&self, worker: usize) -> bool {
        worker < WORKERS && self.region.worker(worker).accepted.load(Ordering::Relaxed) > 0
    }
}

/// What all workers together took for something at a backend.
pub fn times(region: &Region, slot: Slot, timer: Timer) -> Latency {
    let all = (0..region.cell_workers()).filter_map(|line| region.times(line, slot));
    latency(all.map(|times| (&times.counts[timer as usize], &times.sums_us[timer as usize])))
}

fn latency<'a>(
    all: impl IntoIterator<Item = (&'a [AtomicU64; BUCKETS], &'a AtomicU64)>,
) -> Latency {
    let mut counts = [0; BUCKETS];
    let mut sum_us = 0_u64;
    for (some, some_us) in all {
        for (sum, count) in counts.iter_mut().zip(some) {
            *sum += count.load(Ordering::Relaxed);
        }
        sum_us = sum_us.wrapping_add(some_us.load(Ordering::Relaxed));
    }
    let count = counts.iter().sum();
    if count == 0 {
        return Latency::default();
    }
    Latency {
        count,
        seconds: sum_us as f64 / 1e6,
        p50_us: quantile_us(&counts, 500),
        p99_us: quantile_us(&counts, 990),
        buckets: counts.to_vec(),
    }
}

fn sum<'a>(counters: impl Iterator<Item = &'a AtomicU64>) -> u64 {
    counters.map(|counter| counter.load(Ordering::Relaxed)).sum()
}

/// Sums of lists of counters, by name.
fn named<'a, const N: usize>(
    names: impl IntoIterator<Item = &'static str>,
    lists: impl IntoIterator<Item = &'a [AtomicU64; N]>,
) -> Vec<Count> {
    let mut sums = [0; N];
    for list in lists {
        for (sum, counter) in sums.iter_mut().zip(list) {
            *sum += counter.load(Ordering::Relaxed);
        }
    }
    names.into_iter().zip(sums).map(|(name, sum)| count(name, sum)).collect()
}

fn errors<'a, const N: usize>(lists: impl IntoIterator<Item = &'a [AtomicU64; N]>) -> Vec<Count> {
    named(ErrorClass::ALL.iter().map(|class| class.name()), lists)
}

fn ends<'a, const N: usize>(lists: impl IntoIterator<Item = &'a [AtomicU64; N]>) -> Vec<Count> {
    named(Cause::ALL.iter().map(|cause| cause.name()), lists)
}

fn handshakes<'a, const N: usize>(
    lists: impl IntoIterator<Item = &'a [AtomicU64; N]>,
) -> Vec<Count> {
    named((0..HANDSHAKES).map(handshake::name), lists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reloads_are_counted_over_upgrades() {
        let mut reloads = Reloads::after(None);
        reloads.note(true);
        reloads.note(false);
        assert!(reloads.is_refused);
        let next = Reloads::after(Some(&reloads));
        assert_eq!((next.taken, next.refused, next.is_refused), (1, 1, false));
    }
}
