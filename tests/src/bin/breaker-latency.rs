//! From a breaker's trip to the first packet elsewhere, in microseconds.
//!
//! One thread hands the XDP program the same client's SYN over and over (`BPF_PROG_TEST_RUN`) and
//! notes when the backend in its output changes. Another one is a worker's breaker: it reports the
//! request failures that eject the backend in use, through the mapped region as a worker does. The
//! time runs from just before the failure that trips to the end of the first run that sent the packet
//! elsewhere; so it holds the transition, the store, the way of the cache line to the other core, and
//! one system call with its run of the program. `floor` is the time of such a call alone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use aya::{TestRun as _, TestRunOptions};
use clap::Parser;
use steerage_common::health::{Event, Policy};
use steerage_tests::xdp::packet::{Packet, SYN};
use steerage_tests::xdp::{Plane, client_socket, vip_socket};

/// Measures breaker trips.
#[derive(Parser)]
struct Options {
    /// How many trips.
    #[arg(long, default_value_t = 1000)]
    trips: usize,
    /// Also write rows of `case`, `value`, `unit` to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<std::path::PathBuf>,
}

/// Where the destination address is in an Ethernet frame without IP options.
const DESTINATION: std::ops::Range<usize> = 30..34;

/// What the two threads tell each other.
#[derive(Default)]
struct Shared {
    /// Runs so far.
    runs: AtomicU64,
    /// The backend that the latest run sent the packet to.
    backend: AtomicU64,
    /// When that changed last, in nanoseconds.
    changed_ns: AtomicU64,
    is_over: AtomicBool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.trips > 0, "--trips: at least one");
    let plane = Plane::new(&[1, 1])?;
    let shared = Shared::default();
    let begun = Instant::now();
    let (floor_ns, latencies_ns) = std::thread::scope(|scope| {
        let packets = scope.spawn(|| plane.host.enter(|| send(&plane, &shared, begun)));
        let latencies = trip(&plane, &shared, begun, options.trips);
        shared.is_over.store(true, Ordering::Release);
        let floor = packets.join().map_err(|_| anyhow::anyhow!("the packets' thread panicked"))?;
        anyhow::Ok((floor?, latencies?))
    })?;
    let rows = [
        ("floor", floor_ns),
        ("median", percentile(&latencies_ns, 50)),
        ("p90", percentile(&latencies_ns, 90)),
        ("p99", percentile(&latencies_ns, 99)),
    ];
    println!("breaker trip to first packet elsewhere, {} trips, µs:", latencies_ns.len());
    for (case, ns) in rows {
        println!("  {case:<8} {:8.2}", ns as f64 / 1000.0);
    }
    if let Some(path) = options.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(case, ns)| {
                let value = *ns as f64 / 1000.0;
                serde_json::json!({ "case": case, "value": value, "unit": "us" })
            })
            .collect();
        std::fs::write(&path, serde_json::to_vec_pretty(&rows)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Runs the program until all is over; gives the median time of a run.
fn send(plane: &Plane, shared: &Shared, begun: Instant) -> Result<u64> {
    let program = plane.kernel.program()?;
    let frame = Packet::tcp(client_socket(40_000), vip_socket(), SYN).frame();
    let mut context = [0; 24];
    context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
    context[12..16].copy_from_slice(&plane.host.client_ifindex.to_ne_bytes());
    let mut out = vec![0; frame.len() + 256];
    let mut times_ns = Vec::with_capacity(1 << 20);
    let mut last = 0;
    while !shared.is_over.load(Ordering::Acquire) {
        let before = begun.elapsed();
        program.test_run(TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        })?;
        let after = begun.elapsed();
        let address = u64::from(u32::from_be_bytes(out[DESTINATION].try_into()?));
        if address != last {
            last = address;
            shared.changed_ns.store(after.as_nanos() as u64, Ordering::Relaxed);
            shared.backend.store(address, Ordering::Release);
        }
        shared.runs.fetch_add(1, Ordering::Release);
        if times_ns.len() < times_ns.capacity() {
            times_ns.push((after - before).as_nanos() as u64);
        }
    }
    Ok(percentile(&times_ns, 50))
}

/// Trips the breaker of the backend in use, waits for the packets to leave it, mends it; so many
/// times. Gives each trip's time.
fn trip(plane: &Plane, shared: &Shared, begun: Instant, trips: usize) -> Result<Vec<u64>> {
    let mut latencies = Vec::with_capacity(trips);
    for _ in 0..trips {
        // Both backends are up, and some packets have seen it.
        let seen = shared.runs.load(Ordering::Acquire);
        spin(|| shared.runs.load(Ordering::Acquire) >= seen + 3)?;
        let backend = shared.backend.load(Ordering::Acquire);
        let slot = u16::from(backend.to_be_bytes()[7]);
        for _ in 1..Policy::DEFAULT.consecutive {
            plane.fail(slot);
        }
        let tripped = begun.elapsed().as_nanos() as u64;
        plane.fail(slot);
        spin(|| shared.backend.load(Ordering::Acquire) != backend)?;
        latencies.push(shared.changed_ns.load(Ordering::Relaxed).saturating_sub(tripped));
        plane.tell(slot, Event::Maintain);
        plane.tell(slot, Event::Enable);
    }
    Ok(latencies)
}

/// Waits for another core, without giving this one up.
fn spin(done: impl Fn() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !done() {
        ensure!(begun.elapsed().as_secs() < 10, "no packet changed its way within 10 s");
        std::hint::spin_loop();
    }
    Ok(())
}

fn percentile(values: &[u64], percent: usize) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0)
}
