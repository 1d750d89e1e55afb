//! The stale-connection race ([`steerage_tests::race`]) with Steerage, HAProxy and nginx. Needs root.
//!
//! `cargo xtask bench race [--requests N] [--clients N] [--only NAME] [--json FILE]`

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use serde_json::{Value, json};
use steerage_lab::sweep;
use steerage_tests::race::{self, DELAY, Kind, Outcome, Plan};
use steerage_tests::stand::PREFIX;

/// Posts through each proxy to a backend that closes its connections under way.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many requests are posted through each.
    #[arg(long, default_value_t = 10_000)]
    requests: u64,
    /// Over how many connections at once.
    #[arg(long, default_value_t = 64)]
    clients: u64,
    /// How long each request's body is.
    #[arg(long, default_value_t = 16)]
    body_bytes: usize,
    /// Seed of the backend's and the clients' choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this one: steerage, steerage-epoll, steerage-tls, haproxy, nginx, haproxy-retry, nginx-retry.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Also write rows of `case`, `impl`, `value`, `unit` to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let Arguments { requests, clients, body_bytes, seed, .. } = arguments;
    let wanted = |kind: &Kind| arguments.only.as_ref().is_none_or(|name| name == kind.name());
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(wanted).collect();
    if kinds.is_empty() {
        bail!("--only: there are {}", Kind::ALL.map(Kind::name).join(", "));
    }
    let _ = sweep::leftovers(PREFIX);
    println!(
        "{requests} POSTs of {body_bytes} bytes over {clients} connections, seed {seed}; backend {} ms \
         away, each way",
        DELAY.as_millis()
    );
    let mut rows: Vec<Value> = Vec::new();
    for kind in kinds {
        let outcome = race::run(kind, Plan { requests, clients, body_bytes, seed })?;
        println!("\n{}", kind.name());
        for (case, value) in lines(&outcome) {
            println!("  {case:<36} {value:>7}");
            rows.push(json!({ "case": case, "impl": kind.name(), "value": value, "unit": "1" }));
        }
    }
    if let Some(path) = arguments.json {
        std::fs::write(&path, serde_json::to_string_pretty(&rows)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn lines(outcome: &Outcome) -> Vec<(String, u64)> {
    let heard = outcome.heard.iter().map(|(what, count)| (format!("heard {what}"), *count));
    let own = [
        ("failed", outcome.failed()),
        ("executed twice", outcome.doubled),
        ("executed, yet failed", outcome.executed_yet_failed),
        ("answered, not executed", outcome.not_executed),
        ("backend connections", outcome.connections),
        ("closed after a response", outcome.closed_at_once),
        ("closed idle", outcome.closed_idle),
        ("closed on a received request", outcome.closed_on_request),
        ("closed on an executed request", outcome.closed_on_executed),
    ];
    let counts = outcome.counts.iter().map(|(name, count)| (name.clone(), *count));
    heard.chain(own.map(|(name, count)| (name.to_owned(), count))).chain(counts).collect()
}
