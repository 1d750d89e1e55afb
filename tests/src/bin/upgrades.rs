//! What clients lose while Steerage, HAProxy and nginx are upgraded under load
//! ([`steerage_tests::upgrades`]). Needs root.
//!
//! `cargo xtask bench upgrades [--times N] [--json FILE]`

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;
use serde_json::{Value, json};
use steerage_lab::sweep;
use steerage_tests::stand::PREFIX;
use steerage_tests::upgrades::{self, Row, Who};

/// Upgrades each proxy again and again under load.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often each is upgraded.
    #[arg(long, default_value_t = 10)]
    times: usize,
    /// Also write rows of `case`, `impl`, `value`, `unit` to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let _ = sweep::leftovers(PREFIX);
    println!("{} upgrades of each\n", arguments.times);
    println!("{:<10} {:<18} {:>8} {:>6}  first loss", "proxy", "requests", "done", "lost");
    let mut rows: Vec<Value> = Vec::new();
    for who in Who::ALL {
        for Row { kind, done, lost, first } in upgrades::run(who, arguments.times)? {
            let name = who.name();
            println!("{name:<10} {kind:<18} {done:>8} {lost:>6}  {}", first.unwrap_or_default());
            rows.push(json!({ "case": kind, "impl": name, "value": lost, "unit": "1" }));
        }
    }
    if let Some(path) = arguments.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(&path, text + "\n")
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
