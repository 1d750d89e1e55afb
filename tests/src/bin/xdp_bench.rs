//! Prints what the XDP program costs per packet, case by case. Needs root.
//!
//! `cargo run --release -p steerage-tests --bin xdp-bench -- [CASE…] [--json FILE]`

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;
use serde_json::{Value, json};
use steerage_tests::xdp::measure;

/// What the XDP program costs per packet.
#[derive(Debug, Parser)]
struct Arguments {
    /// Cases to measure; all if none is named.
    cases: Vec<String>,
    /// Also write the rows to this file, as a JSON array.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut rows: Vec<Value> = Vec::new();
    println!("{:<16} {:>8} {:>8}", "case", "ns_net", "ns_floor");
    measure::run(&arguments.cases, |cost| {
        println!("{:<16} {:>8} {:>8}", cost.case, cost.ns_net, cost.ns_floor);
        let (case, ns_net, ns_floor) = (cost.case, cost.ns_net, cost.ns_floor);
        rows.push(json!({ "case": case, "ns_net": ns_net, "ns_floor": ns_floor }));
    })?;
    if let Some(path) = arguments.json {
        let text = serde_json::to_string_pretty(&rows)?;
        fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
