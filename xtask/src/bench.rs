//! `cargo xtask bench`: Steerage beside nginx, HAProxy and no proxy at all.
//!
//! All run at once in a network namespace of their own, each with one worker on the same core; the
//! origin and the load generator have the other core. Of the four only the one under load does
//! anything. A round puts each case on each of them in turn, in an order that moves from round to
//! round, and the median over rounds is reported: a slow phase of the machine hits all alike.
//!
//! The figure to trust is the proxy's CPU time per request, which the kernel counts in nanoseconds
//! (`/proc/PID/task/*/schedstat`): requests per second also depend on who shares the other core.

mod load;
mod peers;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use steerage_lab::{interrupt, sweep};

use self::load::{CASES, Case};
use self::peers::{Kind, Peers};
use self::report::Results;
use crate::setup::{self, Purpose};
use crate::shell;

/// What to measure.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    what: Option<What>,
    /// Also write rows of `case`, `impl`, `value`, `unit` to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure only this case; may be given several times.
    #[arg(long, value_name = "CASE")]
    only: Vec<String>,
    /// How often each case is put on each proxy.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each time.
    #[arg(long, default_value_t = 3, value_name = "N")]
    seconds: u64,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Nanoseconds per packet of the XDP program, net of the measuring wrapper.
    Xdp {
        /// Options of the runner; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Requests lost and doubled when the backend closes kept connections under them.
    Race {
        /// Options of the runner; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// What it costs to probe 4,096 backends every 2 s.
    Probes {
        /// Options of the runner; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// What becomes of requests and connections while backends misbehave, in ten ways.
    Scenarios {
        /// Options of the runner; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Tail latency with one slow backend of ten, and the share of one that fails fast, by balance.
    Balance {
        /// Options of the runner; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// What clients lose while Steerage, HAProxy and nginx are upgraded under load.
    Upgrades {
        /// Options of the runner; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// What a reload of 10, 1,000 and 4,096 backends costs, and what clients notice of it.
    Reload {
        /// Options of the runner; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// What becomes of real clients beside a SYN flood, with the guard and without.
    Flood {
        /// Options of the runner; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Tail latency while some requests hold their worker, with the accept program and without.
    Steering {
        /// Options of the runner; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// What a scrape of the metrics costs with 4,096 backends, 512 vips and 8 workers.
    Scrape {
        /// Options of the runner; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Microseconds from a breaker's trip to the first packet elsewhere.
    Breaker {
        /// Options of the runner; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// Runners that run the daemon.
const RUN_DAEMON: [&str; 8] =
    ["race", "scenarios", "balance", "flood", "steering", "reloads", "upgrades", "scrape"];

/// `cargo xtask bench`.
///
/// # Errors
/// If the build fails, or a request fails under load.
pub fn command(options: &Options) -> Result<()> {
    shell::need_root("benchmarks make a network namespace or load eBPF programs, which", "bench")?;
    interrupt::install()?;
    let runner = match &options.what {
        Some(What::Xdp { arguments }) => Some(("xdp-bench", arguments)),
        Some(What::Race { arguments }) => Some(("race", arguments)),
        Some(What::Probes { arguments }) => Some(("probe-load", arguments)),
        Some(What::Breaker { arguments }) => Some(("breaker-latency", arguments)),
        Some(What::Scenarios { arguments }) => Some(("scenarios", arguments)),
        Some(What::Balance { arguments }) => Some(("balance", arguments)),
        Some(What::Steering { arguments }) => Some(("steering", arguments)),
        Some(What::Flood { arguments }) => Some(("flood", arguments)),
        Some(What::Reload { arguments }) => Some(("reloads", arguments)),
        Some(What::Upgrades { arguments }) => Some(("upgrades", arguments)),
        Some(What::Scrape { arguments }) => Some(("scrape", arguments)),
        None => None,
    };
    if let Some((name, arguments)) = runner {
        if RUN_DAEMON.contains(&name) {
            setup::ensure(Purpose::Bench)?;
            // It runs the daemon that was built beside it.
            shell::build_release()?;
        } else {
            setup::ensure(Purpose::Build)?;
        }
        let mut runner = shell::cargo(&["run", "--release", "--package", "steerage-tests"]);
        return shell::run(runner.args(["--bin", name, "--"]).args(arguments));
    }
    let cases = chosen(&options.only)?;
    setup::ensure(Purpose::Bench)?;
    let binary = shell::build_release()?;
    shell::run(&mut shell::cargo(&[
        "build",
        "--release",
        "--package",
        "steerage-tests",
        "--bin",
        "handshakes",
    ]))?;
    let _ = sweep::leftovers(peers::PREFIX);
    let mut peers = Peers::start(&binary)?;
    println!("{}", peers.describe());
    let span = Duration::from_secs(options.seconds.max(1));
    let mut results = Results::default();
    for round in 0..options.rounds.max(1) {
        for case in &cases {
            for turn in 0..Kind::ALL.len() {
                let kind = Kind::ALL[(turn + round) % Kind::ALL.len()];
                let run = peers.measure(kind, case, span)?;
                results.add(case.name, kind, run);
            }
            println!("round {}: {}", round + 1, case.name);
        }
    }
    println!("\n{}", results.table());
    if let Some(path) = &options.json {
        results.write_json(path)?;
    }
    Ok(())
}

fn chosen(only: &[String]) -> Result<Vec<&'static Case>> {
    let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
    if let Some(unknown) = only.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("there is no case {unknown:?}; there are: {}", names.join(", "));
    }
    let wanted = |case: &&Case| only.is_empty() || only.iter().any(|name| name == case.name);
    Ok(CASES.iter().filter(wanted).collect())
}
