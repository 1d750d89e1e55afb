//! The scenarios ([`steerage_tests::scenarios`]) as a table. Needs root.
//!
//! `cargo xtask bench scenarios [--only NAME] [--l7 RATE] [--l4 RATE] [--json FILE]`

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use serde_json::json;
use steerage_lab::{interrupt, sweep};
use steerage_tests::scenarios::{Outcome, PlaneOutcome, Rates, Scenario, Setting};
use steerage_tests::stand::PREFIX;

/// Lets backends misbehave, and prints what became of requests and connections.
#[derive(Parser)]
struct Options {
    /// Only the scenarios whose names begin so.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Requests a second to the listener.
    #[arg(long, default_value_t = 500)]
    l7: u32,
    /// Connections a second to the vip.
    #[arg(long, default_value_t = 300)]
    l4: u32,
    /// Also write rows of `case`, `impl`, `value`, `unit` to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Backends of the setting.
const BACKENDS: u8 = 4;

fn main() -> Result<()> {
    let options = Options::parse();
    interrupt::install()?;
    let wanted = |scenario: &Scenario| {
        options.only.as_ref().is_none_or(|name| scenario.name().starts_with(&**name))
    };
    let chosen: Vec<Scenario> = Scenario::ALL.into_iter().filter(wanted).collect();
    if chosen.is_empty() {
        bail!("--only: there are {}", Scenario::ALL.map(Scenario::name).join(", "));
    }
    let _ = sweep::leftovers(PREFIX);
    let rates = Rates { l7: options.l7, l4: options.l4 };
    println!(
        "{BACKENDS} backends, {} requests/s and {} connections/s; probes every 500 ms (fall 2, rise 2, \
         timeout 200 ms), ejection after 5 failures for 1 s, 2 s, …; times in ms\n",
        rates.l7, rates.l4
    );
    println!(
        "{:<31} {:>6} {:>6} {:>5} | {:>6} {:>6} {:>12} | {:>6} {:>6} {:>12}",
        "scenario", "out", "in", "flips", "away", "back", "failed L7", "away", "back", "failed L4"
    );
    let mut rows = Vec::new();
    for (panic_percent, is_of) in
        [(0, (|s| s != Scenario::AllDown) as fn(Scenario) -> bool), (50, |s| s.panics())]
    {
        if !chosen.iter().any(|scenario| is_of(*scenario)) {
            continue;
        }
        let mut setting = Setting::build(BACKENDS, panic_percent, rates)?;
        for scenario in chosen.iter().copied().filter(|scenario| is_of(*scenario)) {
            let outcome = scenario.play(&mut setting)?;
            let name = match panic_percent {
                0 => scenario.name().to_owned(),
                _ => format!("{}, panic", scenario.name()),
            };
            println!("{}", line(&name, &outcome));
            rows.extend(figures(&name, &outcome));
        }
    }
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&rows)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn line(name: &str, outcome: &Outcome) -> String {
    let plane = |plane: &PlaneOutcome| {
        let failed = format!("{}/{}", plane.failures(), plane.asked);
        format!("{:>6} {:>6} {failed:>12}", plane.away.as_millis(), plane.back.as_millis())
    };
    let time = |time: Option<Duration>| {
        time.map_or("-".to_owned(), |time| format!("{:.1}", time.as_secs_f64() * 1000.0))
    };
    let kinds = [("L7", &outcome.l7), ("L4", &outcome.l4)].into_iter().flat_map(|(name, plane)| {
        plane.failed.iter().map(move |(fault, count)| format!("{name} {count} {fault:?}"))
    });
    format!(
        "{name:<31} {:>6} {:>6} {:>5} | {} | {}   {}",
        time(outcome.out),
        time(outcome.back),
        outcome.transitions,
        plane(&outcome.l7),
        plane(&outcome.l4),
        kinds.collect::<Vec<_>>().join(", ")
    )
}

fn figures(name: &str, outcome: &Outcome) -> Vec<serde_json::Value> {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let row = |plane: &str, what: &str, value: f64, unit: &str| json!({ "case": format!("{name}: {what}"), "impl": plane, "value": value, "unit": unit });
    let mut rows = vec![row("tables", "transitions", outcome.transitions as f64, "1")];
    for (what, time) in [("out", outcome.out), ("in", outcome.back)] {
        rows.extend(time.map(|time| row("tables", what, ms(time), "ms")));
    }
    for (name, plane) in [("l7", &outcome.l7), ("l4", &outcome.l4)] {
        rows.extend([
            row(name, "away", ms(plane.away), "ms"),
            row(name, "back", ms(plane.back), "ms"),
            row(name, "failed", plane.failures() as f64, "1"),
            row(name, "asked", plane.asked as f64, "1"),
        ]);
    }
    rows
}
