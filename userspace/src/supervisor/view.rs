//! The snapshot, taken from the region and the kernel's counters.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use steerage_common::abi::{FailureClass, Handshake, Reason, Traffic};
use steerage_common::cause;
use steerage_common::health::{Cause, State, Word};
use steerage_common::latency::Timer;
use steerage_common::replay::{Refusal, Rule};

use tokio::sync::mpsc;

use super::access::Tap;
use super::figures::{self, Reloads};
use super::hooks::{self, Moment};
use super::leavers;
use super::publish::Published;
use super::steward::Wish;
use crate::clock;
use crate::config::Model;
use crate::config::model::{self, CertificateFiles};
use crate::health::{Lag, Prober, Report};
use crate::kernel::Kernel;
use crate::region::{Region, Tenant};
use crate::stats::status::{self, Count, L4, L7, Status};
use crate::tls::pair::Facts;
use crate::tls::shelf::Stock;
use crate::tls::upstream::Keyring;

/// A configuration in force, and what was made of it.
#[derive(Debug)]
pub struct InForce {
    /// The configuration.
    pub model: Model,
    /// Its seats.
    pub published: Published,
    /// Where each listener really listens.
    pub addresses: Vec<Vec<SocketAddr>>,
    /// The links that carry the program, with its mode.
    pub links: BTreeMap<String, String>,
    /// Keys that it names the files of.
    pub ring: Arc<Keyring>,
}

/// Everything that a snapshot is taken from, and that orders are given to.
#[derive(Debug)]
pub struct View {
    /// What is in force.
    pub in_force: RwLock<Arc<InForce>>,
    /// The shared words.
    pub region: Arc<Region>,
    /// The kernel half.
    pub kernel: Option<Arc<Mutex<Kernel>>>,
    /// What probes said.
    pub prober: Prober,
    /// When the supervisor started.
    pub started: Instant,
    /// The epoch of this supervisor's workers.
    pub supervisor_epoch: u32,
    /// The certificates in force.
    pub stock: RwLock<Arc<Stock>>,
    /// Backends that left the configuration and have something left to do.
    pub leaving: RwLock<Vec<leavers::Shown>>,
    /// Who changes the configuration.
    pub steward: mpsc::Sender<Wish>,
    /// The access log.
    pub access: Tap,
    /// What came of attempts to put another configuration in force.
    pub reloads: Mutex<Reloads>,
}

impl View {
    /// What is in force now.
    #[must_use]
    pub fn in_force(&self) -> Arc<InForce> {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The certificates in force now.
    #[must_use]
    pub fn stock(&self) -> Arc<Stock> {
        self.stock.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What came of attempts to put another configuration in force.
    #[must_use]
    pub fn reloads(&self) -> Reloads {
        self.reloads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is in force, in a line.
    #[must_use]
    pub fn summary(&self) -> String {
        let model = &self.in_force().model;
        let backends: usize = model.services.iter().map(|service| service.backends.len()).sum();
        let (listeners, vips) = (model.listeners.len(), model.vips.len());
        let generation = self.region.generation();
        format!("generation {generation}: listeners {listeners}, vips {vips}, backends {backends}")
    }

    /// Runs an operator's command, if there is one for this moment.
    pub async fn run_hook(&self, moment: Moment) {
        let now = self.in_force();
        hooks::run(&now.model.global, moment, self.region.generation()).await;
    }

    /// Takes a snapshot.
    #[must_use]
    pub fn status(&self) -> Status {
        let kernel = self
            .kernel
            .as_ref()
            .map(|kernel| kernel.lock().unwrap_or_else(PoisonError::into_inner));
        let kernel = kernel.as_deref();
        let now = self.in_force();
        let (workers, former_workers) = self.workers();
        let reloads = self.reloads();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            instance: now.model.global.instance.clone(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: self.region.generation(),
            reloads: vec![count("taken", reloads.taken), count("refused", reloads.refused)],
            reload_refused: reloads.is_refused,
            config_since: reloads.taken_at,
            plane: if kernel.is_some() { "ebpf" } else { "memory" }.into(),
            probe_lag: lag(&self.prober.lag()),
            listeners: self.listeners(&now),
            certificates: certificates(&now.model, &self.stock()),
            workers,
            former_workers,
            services: self.services(&now, kernel),
            leaving: self.leaving(),
            vips: now.vips(kernel),
            l4_reasons: reasons(kernel),
            access_log_lost: self.access.lost(),
        }
    }

    fn leaving(&self) -> Vec<status::Leaving> {
        let leaving = self.leaving.read().unwrap_or_else(PoisonError::into_inner).clone();
        let shown = leaving.into_iter().map(|shown| {
            let l7 = self.l7(shown.leaving.tenant);
            status::Leaving {
                service: shown.service,
                address: shown.leaving.address,
                slot: shown.leaving.tenant.slot().raw(),
                state: "leaving".into(),
                seconds: shown.since.elapsed().as_secs(),
                requests: l7.active,
                connections: l7.connections,
                tunnels: l7.tunnels,
                flows: shown.flows,
            }
        });
        shown.collect()
    }

    fn services(&self, now: &InForce, kernel: Option<&Kernel>) -> Vec<status::Service> {
        let services = now.model.services.iter().zip(&now.published.tenants);
        services
            .zip(&now.published.lines)
            .map(|((service, tenants), line)| {
                let backends = service.backends.iter().zip(tenants);
                let backends: Vec<_> = backends
                    .map(|(backend, tenant)| self.backend(service, backend, *tenant, kernel))
                    .collect();
                status::Service {
                    name: service.name.clone(),
                    balance: service.balance.name().into(),
                    panicking: self.region.service(*line).panicking.load(Ordering::Relaxed) != 0,
                    available: backends.iter().filter(|backend| backend.accepts_new).count(),
                    backends,
                }
            })
            .collect()
    }

    fn backend(
        &self,
        service: &model::Service,
        backend: &model::Backend,
        tenant: Tenant,
        kernel: Option<&Kernel>,
    ) -> status::Backend {
        let slot = tenant.slot();
        let word = self.region.word(slot);
        let check = service.check_of(backend);
        let report = check.and_then(|check| self.prober.report(backend.address, &check));
        status::Backend {
            address: backend.address,
            slot: slot.raw(),
            epoch: tenant.epoch,
            weight: backend.weight,
            state: word.state().name().into(),
            why: why(service, report.as_ref(), word),
            seconds: self.prober.held(tenant, word.state()).as_secs(),
            probe: report.map(|report| status::Probe {
                ok: report.ok,
                failed: report.failed,
                seconds: report.took.as_secs_f64(),
            }),
            accepts_new: self.region.accepts_new(slot),
            keeps_flows: self.region.keeps_flows(slot),
            l7: self.l7(tenant),
            l4: kernel
                .and_then(|kernel| kernel.backend_traffic(slot).ok())
                .map(l4)
                .unwrap_or_default(),
        }
    }

    fn l7(&self, tenant: Tenant) -> L7 {
        let mut l7 = L7 {
            responses: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| count(class, 0)).into(),
            failures: FailureClass::ALL.map(|class| count(class.name(), 0)).into(),
            ends: cause::Cause::ALL.iter().map(|cause| count(cause.name(), 0)).collect(),
            replays: Rule::ALL.map(|rule| count(rule.name(), 0)).into(),
            refusals: Refusal::ALL.map(|refusal| count(refusal.name(), 0)).into(),
            handshakes: Handshake::ALL.map(|kind| count(kind.name(), 0)).into(),
            ..L7::default()
        };
        for line in 0..self.region.cell_workers() {
            let cell = self.region.cell(line, tenant.slot());
            let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let lists: [(&mut Vec<Count>, &[AtomicU64]); 6] = [
                (&mut l7.responses, &cell.responses),
                (&mut l7.failures, &cell.failures),
                (&mut l7.ends, &cell.ends),
                (&mut l7.replays, &cell.replays),
                (&mut l7.refusals, &cell.refusals),
                (&mut l7.handshakes, &cell.handshakes),
            ];
            for (sums, counters) in lists {
                for (sum, counter) in sums.iter_mut().zip(counters) {
                    sum.count += get(counter);
                }
            }
            l7.connections_created += get(&cell.connections_created);
            l7.connections_reused += get(&cell.connections_reused);
            l7.request_body_bytes += get(&cell.request_body_bytes);
            l7.response_body_bytes += get(&cell.response_body_bytes);
            l7.active += u64::from(cell.active.load(Ordering::Relaxed));
            l7.idle += u64::from(cell.idle.load(Ordering::Relaxed));
            l7.connections += u64::from(cell.connections.load(Ordering::Relaxed));
            l7.tunnels += u64::from(cell.tunnels.load(Ordering::Relaxed));
            l7.ejections += get(&cell.ejections);
        }
        let times = |timer| figures::times(&self.region, tenant.slot(), timer);
        L7 {
            queue: times(Timer::Queue),
            connect: times(Timer::Connect),
            first_byte: times(Timer::FirstByte),
            total: times(Timer::Total),
            ..l7
        }
    }
}

impl InForce {
    fn vips(&self, kernel: Option<&Kernel>) -> Vec<status::Vip> {
        let links: Vec<String> =
            self.links.iter().map(|(link, mode)| format!("{link} ({mode})")).collect();
        let vips = self.model.vips.iter().zip(&self.published.vip_indices);
        vips.map(|(vip, index)| status::Vip {
            name: vip.name.clone(),
            address: vip.address,
            protocol: match vip.protocol {
                model::Protocol::Tcp => "tcp",
                model::Protocol::Udp => "udp",
                model::Protocol::Quic => "quic",
            }
            .into(),
            service: self.model.services[vip.service].name.clone(),
            interfaces: links.clone(),
            l4: kernel
                .and_then(|kernel| kernel.vip_traffic(*index).ok())
                .map(l4)
                .unwrap_or_default(),
        })
        .collect()
    }
}

fn certificates(model: &Model, stock: &Stock) -> Vec<status::Certificate> {
    let of = |(files, facts): (&CertificateFiles, &Facts)| {
        let shows = |listener: &&model::Listener| {
            listener.tls.as_ref().is_some_and(|tls| tls.certificates.contains(files))
        };
        let listeners = model.listeners.iter().filter(shows);
        status::Certificate {
            cert: files.cert.display().to_string(),
            listeners: listeners.map(|listener| listener.name.clone()).collect(),
            names: facts.names.all().to_vec(),
            subject: facts.subject.clone(),
            issuer: facts.issuer.clone(),
            serial: facts.serial.clone(),
            fingerprint: facts.fingerprint.clone(),
            not_before: facts.not_before,
            not_after: facts.not_after,
            ocsp: files.ocsp.is_some(),
            fault: stock.faults.get(files).map(ToString::to_string),
        }
    };
    stock.facts.iter().map(of).collect()
}

/// Why a backend is in its state.
fn why(service: &model::Service, report: Option<&Report>, word: Word) -> String {
    let probe = match report {
        None => "not probed".to_owned(),
        Some(report) => match &report.failure {
            Some(failure) => format!("probe: {failure}"),
            None => format!("probe ok in {:.1} ms", report.took.as_secs_f64() * 1000.0),
        },
    };
    match word.state() {
        State::Ejected => {
            let ticks = clock::now_ticks().until(word.deadline());
            format!(
                "{}, ejection {}, {:.1} s left; {probe}",
                cause(&service.ejection, word.cause()),
                word.ejections(),
                f64::from(ticks) / 10.0
            )
        }
        State::Probation => format!("ejection over, a trial decides; {probe}"),
        State::Up if word.request_failures() > 0 => {
            format!("{} failed requests in a row; {probe}", word.request_failures())
        }
        _ => probe,
    }
}

fn cause(rule: &model::Ejection, cause: Cause) -> String {
    match cause {
        Cause::InARow => format!("{} failed requests in a row", rule.consecutive),
        Cause::Share => format!(
            "{:.0} % of the requests in {:?} or more of them failed",
            rule.ratio * 100.0,
            rule.window
        ),
        Cause::Trial => "the trial request failed".into(),
        Cause::None => "failed requests".into(),
    }
}

fn lag(lag: &Lag) -> status::Histogram {
    let (bounds, total) = lag.cumulative();
    let bounds = bounds.into_iter().map(|(bound, count)| (bound.as_secs_f64(), count)).collect();
    status::Histogram { bounds, total, sum: lag.sum.as_secs_f64() }
}

fn reasons(kernel: Option<&Kernel>) -> Vec<Count> {
    let Some(counts) = kernel.and_then(|kernel| kernel.reasons().ok()) else { return Vec::new() };
    Reason::ALL.into_iter().zip(counts).map(|(reason, n)| count(reason.name(), n)).collect()
}

fn l4(traffic: Traffic) -> L4 {
    L4 {
        in_packets: traffic.in_packets,
        in_bytes: traffic.in_bytes,
        out_packets: traffic.out_packets,
        out_bytes: traffic.out_bytes,
        flows: traffic.flows,
        remembered: traffic.remembered,
        misses: traffic.misses,
    }
}

pub(super) fn count(name: &str, count: u64) -> Count {
    Count { name: name.into(), count }
}
