//! Prints what becomes of real clients beside a SYN flood, with the guard and without. Needs root.
//!
//! `cargo run --release -p steerage-tests --bin flood -- [--rate N] [--real N] [--seconds N]`

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use serde_json::{Value, json};
use steerage_tests::flooded::{Case, Rates, play};

/// Real clients beside a SYN flood.
#[derive(Debug, Parser)]
struct Arguments {
    /// SYNs a second of the flood.
    #[arg(long, default_value_t = 100_000)]
    rate: u32,
    /// Real connections a second.
    #[arg(long, default_value_t = 1000)]
    real: u32,
    /// SYNs a second that make a flood.
    #[arg(long, default_value_t = 5000)]
    above: u32,
    /// How long each case takes.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Also write the rows to this file, as a JSON array.
    #[arg(long, value_name = "FILE")]
    json: Option<std::path::PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let Arguments { rate: flood, real, above, seconds, .. } = arguments;
    let rates = Rates { real, flood, above, span: Duration::from_secs(seconds) };
    println!(
        "{:<22} {:>6} {:>8} {:>8} {:>8} {:>9} {:>9} {:>8} {:>8} {:>10}",
        "case",
        "ok %",
        "p50 ms",
        "p99 ms",
        "max ms",
        "flood/s",
        "flows",
        "before",
        "after",
        "dropped"
    );
    let mut rows: Vec<Value> = Vec::new();
    for case in Case::ALL {
        let outcome = play(case, &rates)?;
        let failed: usize = outcome.failed.values().sum();
        let asked = outcome.asked.max(1);
        let ok = 100.0 * (asked - failed) as f64 / asked as f64;
        let ms = |share: f64| outcome.quantile(share).as_secs_f64() * 1e3;
        let per_second = (outcome.flooded as f64 / outcome.flooded_for.as_secs_f64()) as u64;
        let dropped: u64 =
            ["challenged", "syn_rate", "no_port"].iter().map(|reason| outcome.reason(reason)).sum();
        let (before, after) = outcome.table;
        println!(
            "{:<22} {ok:>6.2} {:>8.2} {:>8.2} {:>8.2} {per_second:>9} {:>9} {before:>8} {after:>8} \
             {dropped:>10}",
            case.name(),
            ms(0.5),
            ms(0.99),
            ms(1.0),
            outcome.flows,
        );
        for (fault, count) in &outcome.failed {
            println!("  {count} of {asked}: {fault:?}");
        }
        for (reason, count) in outcome.reasons.iter().filter(|(_, count)| **count > 0) {
            println!("  {reason}: {count}");
        }
        rows.push(json!({
            "case": case.name(), "asked": asked, "failed": failed, "p50_ms": ms(0.5),
            "p99_ms": ms(0.99), "max_ms": ms(1.0), "flood_syns": outcome.flooded,
            "flows": outcome.flows, "table_before": before, "table_after": after,
            "reasons": outcome.reasons,
        }));
    }
    if let Some(path) = arguments.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(&path, text + "\n")
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
