//! What it costs to probe as many backends as a host can have: probes per second, the share of a core
//! that the prober's thread takes, and how late probes begin.
//!
//! The prober is the daemon's own, on a region in memory; each backend is an address of 127/8 with a
//! slot of its own, and one thread answers for all of them. The CPU time is that of the prober's
//! thread alone (`/proc/self/task/TID/schedstat`), the kernel's work for its sockets included; over
//! loopback that has in it most of what the kernel does for the other end as well.

use std::borrow::Cow;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use steerage::config::model::{Check, CheckKind, GrpcCheck, HttpCheck, ProbeMethod};
use steerage::health::{Prober, Subscriber, targets};
use steerage::region::{Group, Region, Tenant};
use steerage_common::health::{Event, Policy};
use steerage_common::limits::SLOTS;
use steerage_common::slot::Slot;
use steerage_tests::probed::{Kind, Probed};

/// Measures the prober.
#[derive(Parser)]
struct Options {
    /// How many backends.
    #[arg(long, default_value_t = SLOTS as u16)]
    backends: u16,
    /// Between two probes of one, in milliseconds.
    #[arg(long, default_value_t = 2000, value_name = "MS")]
    interval: u64,
    /// How long to measure each kind.
    #[arg(long, default_value_t = 20, value_name = "N")]
    seconds: u64,
    /// Threads that compute all the while, to be in the way.
    #[arg(long, default_value_t = 0, value_name = "N")]
    busy: usize,
    /// Only this kind; may be given several times.
    #[arg(long, value_name = "KIND")]
    only: Vec<Kind>,
    /// Also write rows of `case`, `impl`, `value`, `unit` to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<std::path::PathBuf>,
}

/// What was measured of one kind.
struct Figures {
    per_second: f64,
    failed: u64,
    cpu_percent: f64,
    cpu_us: f64,
    lag_p50: Option<Duration>,
    lag_p99: Option<Duration>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!((1..=SLOTS).contains(&usize::from(options.backends)), "--backends: from 1 to {SLOTS}");
    let is_over = Arc::new(AtomicBool::new(false));
    for _ in 0..options.busy {
        let is_over = Arc::clone(&is_over);
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
    }
    println!(
        "{} backends every {} ms for {} s, {} busy threads on {} cores",
        options.backends,
        options.interval,
        options.seconds,
        options.busy,
        std::thread::available_parallelism()?
    );
    println!("kind   probes/s  failed  CPU %  CPU µs/probe  lag p50 ≤  lag p99 ≤");
    let mut rows = Vec::new();
    for (kind, name) in [(Kind::Tcp, "tcp"), (Kind::Http, "http"), (Kind::Grpc, "grpc")] {
        if !options.only.is_empty() && !options.only.contains(&kind) {
            continue;
        }
        let figures = measure(&options, kind)?;
        let lag = |lag: Option<Duration>| lag.map_or("beyond".into(), |lag| format!("{lag:?}"));
        println!(
            "{name:<5} {:9.0} {:7} {:6.1} {:13.1}  {:>9}  {:>9}",
            figures.per_second,
            figures.failed,
            figures.cpu_percent,
            figures.cpu_us,
            lag(figures.lag_p50),
            lag(figures.lag_p99)
        );
        for (case, value, unit) in [
            ("probes", figures.per_second, "1/s"),
            ("cpu", figures.cpu_percent, "%"),
            ("cpu-per-probe", figures.cpu_us, "us"),
        ] {
            rows.push(
                serde_json::json!({ "case": case, "impl": name, "value": value, "unit": unit }),
            );
        }
    }
    is_over.store(true, Ordering::Relaxed);
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_vec_pretty(&rows)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn measure(options: &Options, kind: Kind) -> Result<Figures> {
    let probed = Probed::start(None, kind)?;
    let check = Check {
        kind: asks(kind),
        address: None,
        port: None,
        proxy_protocol: None,
        interval: Duration::from_millis(options.interval),
        timeout: Duration::from_millis(options.interval.min(1000)),
    };
    let region = Arc::new(Region::in_memory(1)?);
    let addresses: Vec<SocketAddr> = (0..options.backends).map(|n| probed.address(n)).collect();
    let mut subscribers = Vec::with_capacity(addresses.len());
    for (number, backend) in (0..).zip(&addresses) {
        let slot = Slot::new(number).context("a slot for each")?;
        let (tenant, policy) = (Tenant::new(slot, 0), Policy::DEFAULT);
        region.apply(tenant, Event::Assigned, &policy).context("a fresh region")?;
        subscribers.push((*backend, tenant, policy));
    }
    let tenants: Vec<Tenant> = subscribers.iter().map(|(_, tenant, _)| *tenant).collect();
    let group = Arc::new(Group::without_rules("api", &tenants, 0));
    let all = subscribers.into_iter().map(|(backend, tenant, policy)| {
        (
            Some(Cow::Borrowed(&check)),
            Subscriber { group: Arc::clone(&group), backend, tenant, policy },
        )
    });
    let prober = Prober::start(Arc::clone(&region), targets(all), Arc::default())?;
    let up = addresses.len() - (0..).zip(&addresses).filter(|(n, _)| !is_up(&region, *n)).count();
    ensure!(
        up == addresses.len(),
        "{up} of {} backends are up after the first round",
        addresses.len()
    );
    // Over their phases, to the even course.
    std::thread::sleep(Duration::from_millis(options.interval));
    let (begun, lag) = (Instant::now(), prober.lag());
    let (cpu, before) = (cpu_of("prober")?, totals(&prober, &addresses, &check));
    std::thread::sleep(Duration::from_secs(options.seconds));
    let (cpu, after) = (cpu_of("prober")? - cpu, totals(&prober, &addresses, &check));
    let (seconds, probes) = (begun.elapsed().as_secs_f64(), after.0 - before.0);
    let lag = prober.lag().since(&lag);
    Ok(Figures {
        per_second: probes as f64 / seconds,
        failed: after.1 - before.1,
        cpu_percent: cpu.as_secs_f64() / seconds * 100.0,
        cpu_us: cpu.as_secs_f64() * 1e6 / probes.max(1) as f64,
        lag_p50: lag.quantile(0.5),
        lag_p99: lag.quantile(0.99),
    })
}

fn asks(kind: Kind) -> CheckKind {
    match kind {
        Kind::Tcp => CheckKind::Tcp,
        Kind::Http => CheckKind::Http(HttpCheck {
            method: ProbeMethod::Get,
            path: "/health".into(),
            host: None,
            headers: Vec::new(),
            statuses: vec![200..=299],
            body: Some("ok".into()),
            tls: None,
        }),
        Kind::Grpc => CheckKind::Grpc(GrpcCheck {
            service: "api.v1.Api".into(),
            host: None,
            headers: Vec::new(),
            tls: None,
        }),
    }
}

fn is_up(region: &Region, number: u16) -> bool {
    Slot::new(number).is_some_and(|slot| region.accepts_new(slot))
}

/// Probes, and those among them that failed.
fn totals(prober: &Prober, addresses: &[SocketAddr], check: &Check) -> (u64, u64) {
    let reports = addresses.iter().filter_map(|address| prober.report(*address, check));
    reports.fold((0, 0), |(all, failed), report| {
        (all + report.ok + report.failed, failed + report.failed)
    })
}

/// The CPU time of this process's thread of that name.
fn cpu_of(name: &str) -> Result<Duration> {
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.trim() == name {
            let schedstat = fs::read_to_string(task.join("schedstat"))?;
            let ns = schedstat.split(' ').next().context("schedstat is empty")?.parse()?;
            return Ok(Duration::from_nanos(ns));
        }
    }
    anyhow::bail!("there is no thread {name}")
}
