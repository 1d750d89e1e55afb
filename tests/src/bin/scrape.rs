//! What a scrape costs with all that a host can have: 4,096 backends, 512 vips, 8 workers. Needs root.
//!
//! Each worker's figures for each backend are written to, as if every worker had asked every backend, and
//! so is every histogram: nothing is left out for never having counted. Two services hold the backends,
//! most of which nobody probes. Measured are the time to the last byte, the supervisor's processor time
//! and memory, the series and bytes, and how long a reload takes while scrapes follow one another without
//! pause, against one that nobody disturbs.
//!
//! `cargo xtask bench scrape [--rounds N] [--json FILE]`

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser;
use serde_json::json;
use steerage::region::{Region, add};
use steerage_common::latency::Timer;
use steerage_common::limits::{SLOTS, VIPS};
use steerage_common::slot::Slot;
use steerage_lab::client::Connection;
use steerage_lab::topology::CLIENT_LINK;
use steerage_lab::{interrupt, sweep};
use steerage_tests::pinned;
use steerage_tests::stand::{Choices, PREFIX, Stand};

const WORKERS: usize = 8;
/// Backends that serve.
const SERVING: usize = 2;

/// Scrapes a daemon that has all it can have.
#[derive(Debug, Parser)]
struct Options {
    /// Scrapes that are measured.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Also write rows of `case`, `impl`, `value`, `unit` to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.rounds > 0, "at least one round");
    interrupt::install()?;
    let _ = sweep::leftovers(PREFIX);
    let choices = Choices {
        workers: WORKERS,
        weights: vec![1; SERVING],
        global: "watch = false",
        service: "balance = \"round_robin\"\n",
        more: many(),
        ..Choices::default()
    };
    let stand = Stand::start(&choices)?;
    let pid = stand.daemon.pid();
    let before_kib = memory_kib(pid, "VmRSS")?;
    let empty = scrape(&stand)?;
    count_everywhere(&stand, pid)?;
    scrape(&stand)?;
    let undisturbed = reload_ms(&stand)?;
    let (cpu, mut times, mut last) = (cpu_ms(pid)?, Vec::new(), String::new());
    for _ in 0..options.rounds {
        let began = Instant::now();
        last = scrape(&stand)?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let cpu = (cpu_ms(pid)? - cpu) / options.rounds as f64;
    let (disturbed, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let busy = std::thread::scope(|scope| {
        let scraper = scope.spawn(|| -> Result<()> {
            while !is_over.load(Ordering::Relaxed) {
                scrape(&stand)?;
                disturbed.store(true, Ordering::Relaxed);
            }
            Ok(())
        });
        let reload = reload_ms(&stand);
        is_over.store(true, Ordering::Relaxed);
        scraper.join().map_err(|_| anyhow!("the scraper panicked"))??;
        reload
    })?;
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count() as f64;
    let rows = [
        ("time", median(times), "ms"),
        ("supervisor CPU", cpu, "ms"),
        ("series, nothing counted", series(&empty), ""),
        ("series, everything counted", series(&last), ""),
        ("bytes", last.len() as f64 / 1e6, "MB"),
        ("supervisor memory before", before_kib / 1024.0, "MiB"),
        ("supervisor memory, peak", memory_kib(pid, "VmHWM")? / 1024.0, "MiB"),
        ("reload", undisturbed, "ms"),
        ("reload under scrapes", busy, "ms"),
    ];
    println!("a scrape of {SLOTS} backends, {VIPS} vips, {WORKERS} workers:");
    for (case, value, unit) in rows {
        println!("{case:<28} {value:>10.1} {unit}");
    }
    if let Some(path) = &options.json {
        let row = |(case, value, unit)| json!({ "case": case, "impl": "steerage", "value": value, "unit": unit });
        let text = serde_json::to_string_pretty(&rows.map(row))?;
        fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// All other backends and the vips.
fn many() -> String {
    let mut text = String::from("[[service]]\nname = \"many\"\n");
    for number in 0..SLOTS - SERVING {
        let (high, low) = (number / 250, number % 250 + 1);
        let _ = writeln!(text, "[[service.backend]]\naddress = \"10.99.{high}.{low}:80\"");
    }
    for number in 0..VIPS {
        let (high, low) = (number / 250, number % 250 + 1);
        let _ = write!(
            text,
            "[[vip]]\nname = \"vip-{number}\"\naddress = \"198.18.{high}.{low}:80\"\n\
             protocol = \"tcp\"\nmode = \"nat\"\ninterface = \"{CLIENT_LINK}\"\nservice = \"app\"\n",
        );
    }
    text
}

/// Has every worker have counted everything that histograms show, at every backend.
fn count_everywhere(stand: &Stand, pid: u32) -> Result<()> {
    let fds = pinned::fds(&stand.pins(), pinned::figures(pid)?)?;
    let region = Region::map(&fds, 2 * WORKERS).context("cannot map the tables")?;
    for worker in 0..WORKERS {
        for slot in (0..SLOTS as u16).filter_map(Slot::new) {
            let cell = region.cell(worker, slot);
            for counter in cell.responses.iter().chain(&cell.failures).chain(&cell.ends) {
                add(counter, 1);
            }
            for (us, timer) in [80, 900, 7_000, 2_000_000].into_iter().zip(Timer::ALL) {
                region.note_time(worker, slot, timer, us);
            }
        }
    }
    Ok(())
}

fn scrape(stand: &Stand) -> Result<String> {
    let address = SocketAddr::from(([127, 0, 0, 1], 9900));
    let connection = Connection::open(Some(&stand.topology.balancer), address)?;
    let mut stream = connection.into_stream();
    let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.get_mut().set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.get_mut().write_all(request)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(body.to_owned())
}

fn reload_ms(stand: &Stand) -> Result<f64> {
    let began = Instant::now();
    stand.reload()?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// A line of the process's status, in KiB.
fn memory_kib(pid: u32, name: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.context("no such line")?.parse().context("no number")
}

/// The process's time in user space and in the kernel.
fn cpu_ms(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let mut total = text.split(' ').next().context("no time")?.parse::<f64>()?;
    // That of its threads is apart.
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        if task.file_name().to_string_lossy() != pid.to_string() {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            total += text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0);
        }
    }
    Ok(total / 1e6)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
