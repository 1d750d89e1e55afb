//! Ten backends, one of them odd: what the balance makes of it. Needs root.
//!
//! First one is twenty times as slow as the others, then one fails at once, with ejections off, so that
//! only the balance keeps requests away from it. Requests come at fixed times ([`steerage_tests::load`])
//! and are timed from when they were due.
//!
//! `cargo xtask bench balance [--rate N] [--seconds N] [--json FILE]`

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde_json::{Value, json};
use steerage_lab::daemon::{self, Daemon};
use steerage_lab::netns::Netns;
use steerage_lab::poller::Reuse;
use steerage_lab::scratch::Scratch;
use steerage_lab::{interrupt, sweep};
use steerage_tests::load::{Load, Plan, Shot};
use steerage_tests::stand::PREFIX;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Puts an odd backend among nine others, under each balance.
#[derive(Parser)]
struct Options {
    /// Requests a second.
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// For how long each balance is measured, after two seconds that are not.
    #[arg(long, default_value_t = 10, value_name = "N")]
    seconds: u64,
    /// How long nine of the backends take for an answer, in milliseconds.
    #[arg(long, default_value_t = 2, value_name = "N")]
    service_ms: u64,
    /// Also write rows of `case`, `impl`, `value`, `unit` to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const BALANCES: [&str; 3] = ["round_robin", "least_requests", "peak_ewma"];
const BACKENDS: usize = 10;
/// Slower than the others by so much.
const SLOWER: u32 = 20;
const WARM_UP: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(10);
const LISTENER: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 8080);

/// What is odd about the first backend.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Odd {
    Slow,
    Failing,
}

impl Odd {
    const fn name(self) -> &'static str {
        match self {
            Self::Slow => "one of ten 20x slower",
            Self::Failing => "one of ten fails at once",
        }
    }
}

/// What one balance made of it.
struct Figures {
    times: Vec<Duration>,
    failed: usize,
    odd_share: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.rate > 0 && options.seconds > 0, "--rate, --seconds: at least one");
    interrupt::install()?;
    let _ = sweep::leftovers(PREFIX);
    println!(
        "{} requests/s, {} s each, service time {} ms, one worker; times in ms from when a request was due",
        options.rate, options.seconds, options.service_ms
    );
    let mut rows: Vec<Value> = Vec::new();
    for odd in [Odd::Slow, Odd::Failing] {
        println!(
            "\n{:<26} {:>8} {:>8} {:>8} {:>8} {:>9} {:>8}",
            odd.name(),
            "p50",
            "p99",
            "p99.9",
            "max",
            "odd one",
            "failed"
        );
        for balance in BALANCES {
            let figures = measure(&options, odd, balance)?;
            let at = |share: f64| quantile(&figures.times, share).as_secs_f64() * 1000.0;
            let values = [
                ("p50", at(0.5), "ms"),
                ("p99", at(0.99), "ms"),
                ("p99.9", at(0.999), "ms"),
                ("max", at(1.0), "ms"),
                ("odd one's share", figures.odd_share * 100.0, "%"),
                ("failed", figures.failed as f64, "1"),
            ];
            let [p50, p99, p999, max, share, failed] = values.map(|(_, value, _)| value);
            println!(
                "{balance:<26} {p50:>8.2} {p99:>8.2} {p999:>8.2} {max:>8.2} {share:>7.2} % {failed:>8}"
            );
            rows.extend(values.map(|(what, value, unit)| {
                let case = format!("{}: {what}", odd.name());
                json!({ "case": case, "impl": balance, "value": value, "unit": unit })
            }));
        }
    }
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&rows)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn measure(options: &Options, odd: Odd, balance: &str) -> Result<Figures> {
    let scratch = Scratch::new(PREFIX)?;
    let netns = Netns::create(format!("{PREFIX}-{}-balance", std::process::id()))?;
    let service = Duration::from_millis(options.service_ms);
    let backends = Backends::start(&netns, |number| match (number, odd) {
        (0, Odd::Slow) => Manner { takes: service * SLOWER, status: 200 },
        (0, Odd::Failing) => Manner { takes: Duration::ZERO, status: 503 },
        _ => Manner { takes: service, status: 200 },
    })?;
    let config = scratch.write("steerage.toml", &config(&scratch, balance, &backends))?;
    let log = scratch.join("steerage.log");
    let daemon = Daemon::serving(&netns, &daemon::binary()?, &config, &log)?;
    daemon.wait_available(BACKENDS as u64)?;
    let plan = Plan {
        address: LISTENER.into(),
        rate: options.rate,
        reuse: Reuse::KeepAlive,
        patience: PATIENCE,
        from: None,
    };
    let load = Load::start(&netns, plan)?;
    std::thread::sleep(WARM_UP);
    let (begun, before) = (Instant::now(), backends.counts());
    std::thread::sleep(Duration::from_secs(options.seconds));
    let after = backends.counts();
    let shots: Vec<Shot> = load.stop().into_iter().filter(|shot| shot.due >= begun).collect();
    let asked: u64 = after.iter().zip(&before).map(|(after, before)| after - before).sum();
    ensure!(asked > 0, "nothing came through:\n{}", daemon.log());
    let mut times: Vec<Duration> = shots.iter().map(|shot| shot.took).collect();
    times.sort_unstable();
    Ok(Figures {
        times,
        failed: shots.iter().filter(|shot| shot.answer.is_err()).count(),
        odd_share: (after[0] - before[0]) as f64 / asked as f64,
    })
}

fn config(scratch: &Scratch, balance: &str, backends: &Backends) -> String {
    let mut text = daemon::global(scratch);
    let _ = write!(
        text,
        "workers = 1\n[[listener]]\nname = \"web\"\nbind = [\"{}:{}\"]\nprotocol = \"http\"\n\
         [[listener.route]]\nservice = \"app\"\n[[service]]\nname = \"app\"\n\
         balance = \"{balance}\"\nejection = {{ max_percent = 0 }}\n",
        LISTENER.0, LISTENER.1
    );
    for address in &backends.addresses {
        let _ = writeln!(text, "[[service.backend]]\naddress = \"{address}\"");
    }
    text
}

fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let index = (sorted.len() as f64 * share) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// How a backend answers.
#[derive(Clone, Copy)]
struct Manner {
    takes: Duration,
    status: u16,
}

/// Backends on one thread; dropping it ends them.
struct Backends {
    addresses: Vec<SocketAddr>,
    counts: Vec<Arc<AtomicU64>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Backends {
    fn start(netns: &Netns, manner: impl Fn(usize) -> Manner) -> Result<Self> {
        let addresses: Vec<SocketAddr> = (1..=BACKENDS as u8)
            .map(|number| SocketAddr::from(([127, 1, 0, number], 8080)))
            .collect();
        let counts: Vec<Arc<AtomicU64>> = addresses.iter().map(|_| Arc::default()).collect();
        let bind = || addresses.iter().map(bind).collect::<Result<Vec<_>>>();
        let listeners = netns.enter(bind)??;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let each: Vec<_> = listeners
            .into_iter()
            .zip(counts.clone())
            .enumerate()
            .map(|(number, (listener, count))| (listener, count, manner(number)))
            .collect();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                for (listener, count, manner) in each {
                    tokio::spawn(accept(listener, count, manner));
                }
                let _ = stopped.await;
            });
        });
        Ok(Self { addresses, counts, stop: Some(stop), thread: Some(thread) })
    }

    /// Requests that each has had.
    fn counts(&self) -> Vec<u64> {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn bind(address: &SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    rustix::net::listen(&listener, 4096)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn accept(listener: TcpListener, count: Arc<AtomicU64>, manner: Manner) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let count = Arc::clone(&count);
        // That the peer has gone is no error of the backend.
        tokio::spawn(async move { serve(stream, &count, manner).await });
    }
}

async fn serve(mut stream: TcpStream, count: &AtomicU64, manner: Manner) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let Manner { takes, status } = manner;
    let answer = format!("HTTP/1.1 {status} So\r\nContent-Length: 3\r\n\r\nok\n");
    let mut asked = Vec::with_capacity(1024);
    loop {
        while !asked.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut asked).await? == 0 {
                return Ok(());
            }
        }
        asked.clear();
        count.fetch_add(1, Ordering::Relaxed);
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        stream.write_all(answer.as_bytes()).await?;
    }
}
