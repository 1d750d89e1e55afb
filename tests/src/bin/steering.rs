//! What becomes of the others while some requests hold their worker, with the accept program and with
//! plain `SO_REUSEPORT`; and what becomes of connections when a worker is stopped. Needs root.
//!
//! Four workers, a connection for each request, at fixed times ([`steerage_tests::load`]), timed from when
//! they were due. Of all requests some (5 %) hold their worker: they carry a header that the route's
//! regular expression needs about 5 ms of CPU time for, which is a thing that a configuration can do to
//! a worker; its length is found by trying at the start. Workers share this machine's cores
//! with the clients and the backend, and a held worker takes its core from whoever else is on it; that
//! is the same for both. Only requests without the header count.
//!
//! Then one worker is stopped (SIGSTOP) under the same load, with `worker_hang` as it comes: requests lost
//! that were due after it had stopped, and the time until it was taken out.
//!
//! `cargo xtask bench steering [--rate N] [--seconds N] [--rounds N] [--json FILE]`

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use steerage_lab::client::Connection;
use steerage_lab::poller::Reuse;
use steerage_lab::{interrupt, process, sweep, wait};
use steerage_tests::load::{Load, Plan, Shot};
use steerage_tests::stand::{Choices, PREFIX, Stand, l7};

/// Measures how new connections are given to workers.
#[derive(Parser)]
struct Options {
    /// Requests a second.
    #[arg(long, default_value_t = 1500)]
    rate: u32,
    /// For how long each way is measured in a round, after one second that is not.
    #[arg(long, default_value_t = 8, value_name = "N")]
    seconds: u64,
    /// Both ways, so many times in turn.
    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: usize,
    /// Also write rows of `case`, `impl`, `value`, `unit` to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const WORKERS: usize = 4;
const HELD_PER_CENT: u32 = 5;
const HOLD: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(15);
/// An expression of so many states that no automaton of it is kept.
const EXPRESSION: &str = "(?:a|b)*a(?:a|b){500}c";
/// Bytes of the header: within what a head may have.
const HEADER_BYTES_MAX: usize = 24 * 1024;

/// How connections come to workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Hash,
    Program,
}

impl Way {
    const ALL: [Self; 2] = [Self::Hash, Self::Program];

    const fn name(self) -> &'static str {
        match self {
            Self::Hash => "SO_REUSEPORT hash",
            Self::Program => "accept program",
        }
    }

    fn start(self) -> Result<Stand> {
        let global = match self {
            // No BPF file system there: no eBPF.
            Self::Hash => "bpf_dir = \"/tmp/steerage-no-bpffs\"",
            Self::Program => "",
        };
        let choices = Choices { workers: WORKERS, weights: vec![1], global, ..Choices::default() };
        let stand = Stand::start(&choices)?;
        let route = format!(
            "[[listener.route]]\nheaders = {{ X-Hold = {{ regex = \"{EXPRESSION}\" }} }}\n\
             service = \"app\"\n[[listener.route]]"
        );
        let text = choices.config(&stand.scratch).replacen("[[listener.route]]", &route, 1);
        stand.reconfigure(&text)?;
        Ok(stand)
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.rate > 0 && options.seconds > 0 && options.rounds > 0, "at least one of each");
    interrupt::install()?;
    let _ = sweep::leftovers(PREFIX);
    let mut rows: Vec<Value> = Vec::new();
    let mut times: [Vec<Duration>; 2] = Default::default();
    let mut failed = [0; 2];
    let mut held_for = Vec::new();
    for _ in 0..options.rounds {
        for (way, (times, failed)) in Way::ALL.into_iter().zip(times.iter_mut().zip(&mut failed)) {
            let stand = way.start()?;
            let length = calibrate(&stand)?;
            held_for.push(hold(&stand, length)?);
            let shots = measure(&stand, &options, length)?;
            *failed += shots.iter().filter(|shot| shot.answer.is_err()).count();
            times.extend(shots.into_iter().map(|shot| shot.took));
        }
    }
    held_for.sort_unstable();
    println!(
        "{WORKERS} workers, {} requests/s, {HELD_PER_CENT} % of them hold a worker for {:.1} ms (idle machine); \
         {} rounds of {} s; the others' times in ms from when they were due\n",
        options.rate,
        held_for[held_for.len() / 2].as_secs_f64() * 1e3,
        options.rounds,
        options.seconds
    );
    println!(
        "{:<20} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7}",
        "", "requests", "p50", "p90", "p99", "p99.9", "failed"
    );
    for (way, (times, failed)) in Way::ALL.into_iter().zip(times.iter_mut().zip(failed)) {
        times.sort_unstable();
        let mut line = format!("{:<20} {:>8}", way.name(), times.len());
        for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)] {
            let at = ((times.len() as f64 * share) as usize).min(times.len() - 1);
            let ms = times[at].as_secs_f64() * 1e3;
            let _ = write!(line, " {ms:>8.2}");
            rows.push(json!({ "case": format!("held {name}"), "impl": way.name(), "value": ms, "unit": "ms" }));
        }
        println!("{line} {failed:>7}");
    }
    println!();
    for way in Way::ALL {
        let stop = stop(way, &options)?;
        println!("a worker stopped, {:<20} {stop}", way.name());
        let taken_out = stop.taken_out.as_secs_f64();
        for (case, value, unit) in [
            ("stopped: lost", stop.lost as f64, "requests"),
            ("stopped: taken out after", taken_out, "s"),
            ("stopped: slower than 1 s", stop.slow as f64, "requests"),
        ] {
            rows.push(json!({ "case": case, "impl": way.name(), "value": value, "unit": unit }));
        }
    }
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&rows)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// A request with a header of this length: another one each time, as the expression remembers where
/// known ones led it.
fn request(length: usize) -> Vec<u8> {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let mut state = SEED.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut letter = || {
        // xorshift (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state >> 40 & 1 == 0 { 'a' } else { 'b' }
    };
    let value: String = (0..length).map(|_| letter()).collect();
    format!("GET / HTTP/1.1\r\nHost: a\r\nX-Hold: {value}\r\nConnection: close\r\n\r\n")
        .into_bytes()
}

fn ask(stand: &Stand, request: &[u8]) -> Result<Duration> {
    let mut connection = stand.connect(l7())?;
    let began = Instant::now();
    connection.send(request)?;
    let status = connection.response()?.status;
    ensure!(status == 200, "status {status}");
    Ok(began.elapsed())
}

/// How much longer a request of this length takes than one without the header: the median of several.
fn hold(stand: &Stand, length: usize) -> Result<Duration> {
    let median = |request: &dyn Fn() -> Vec<u8>| -> Result<Duration> {
        let mut times = (0..25).map(|_| ask(stand, &request())).collect::<Result<Vec<_>>>()?;
        times.sort_unstable();
        Ok(times[times.len() / 2])
    };
    let plain = || b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec();
    Ok(median(&|| request(length))?.saturating_sub(median(&plain)?))
}

/// The length of a header that holds a worker for [`HOLD`].
fn calibrate(stand: &Stand) -> Result<usize> {
    let (mut low, mut high) = (0, HEADER_BYTES_MAX);
    while high - low > 64 {
        let middle = usize::midpoint(low, high);
        if hold(stand, middle)? < HOLD { low = middle } else { high = middle }
    }
    ensure!(high < HEADER_BYTES_MAX, "no header is long enough to hold a worker of this machine");
    Ok(high)
}

/// The requests without the header.
fn measure(stand: &Stand, options: &Options, length: usize) -> Result<Vec<Shot>> {
    let held = options.rate * HELD_PER_CENT / 100;
    let load = start(stand, options.rate - held)?;
    let is_over = AtomicBool::new(false);
    let shots = std::thread::scope(|scope| -> Result<Vec<Shot>> {
        // Each asks in turn: enough of them that none is late.
        let holders = held.div_ceil(20);
        for number in 0..holders {
            let is_over = &is_over;
            let period = Duration::from_secs(1) * holders / held;
            let first = Instant::now() + period * number / holders;
            scope.spawn(move || {
                let mut due = first;
                while !is_over.load(Ordering::Relaxed) {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let _ =
                        stand.topology.client.enter(|| Connection::open_here(l7(), PATIENCE)).map(
                            |connection| {
                                let mut connection = connection?;
                                connection.send(&request(length))?;
                                connection.response().map(drop)
                            },
                        );
                    due += period;
                }
            });
        }
        std::thread::sleep(Duration::from_secs(1));
        let from = Instant::now();
        std::thread::sleep(Duration::from_secs(options.seconds));
        let until = Instant::now();
        is_over.store(true, Ordering::Relaxed);
        let shots = load.stop();
        Ok(shots.into_iter().filter(|shot| (from..until).contains(&shot.due)).collect())
    })?;
    Ok(shots)
}

fn start(stand: &Stand, rate: u32) -> Result<Load> {
    let plan = Plan { address: l7(), rate, reuse: Reuse::Never, patience: PATIENCE, from: None };
    Load::start(&stand.topology.client, plan)
}

/// What became of requests when a worker was stopped.
struct Stop {
    due: usize,
    lost: usize,
    slow: usize,
    slowest: Duration,
    taken_out: Duration,
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} lost of {} due after it, {} took more than 1 s (at most {:.2} s); taken out after {:.2} s",
            self.lost,
            self.due,
            self.slow,
            self.slowest.as_secs_f64(),
            self.taken_out.as_secs_f64()
        )
    }
}

fn stop(way: Way, options: &Options) -> Result<Stop> {
    let stand = way.start()?;
    let load = start(&stand, options.rate)?;
    std::thread::sleep(Duration::from_secs(1));
    let victim = *stand.daemon.workers()?.first().context("no worker")?;
    kill_process(process::pid(victim).context("a pid")?, Signal::STOP)?;
    wait::for_condition("the worker to have stopped", PATIENCE, || {
        let stat = std::fs::read_to_string(format!("/proc/{victim}/stat")).unwrap_or_default();
        stat.rsplit(')').next().unwrap_or_default().trim().starts_with('T')
    })?;
    let stopped = Instant::now();
    wait::for_condition("the worker to be taken out", PATIENCE, || {
        stand.daemon.workers().is_ok_and(|workers| !workers.contains(&victim))
    })?;
    let taken_out = stopped.elapsed();
    std::thread::sleep(Duration::from_secs(2));
    let shots = load.stop();
    let after: Vec<_> = shots.iter().filter(|shot| shot.due >= stopped).collect();
    Ok(Stop {
        due: after.len(),
        lost: after.iter().filter(|shot| shot.answer.is_err()).count(),
        slow: after.iter().filter(|shot| shot.took > Duration::from_secs(1)).count(),
        slowest: after.iter().map(|shot| shot.took).max().unwrap_or_default(),
        taken_out,
    })
}
