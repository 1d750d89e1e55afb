//! What a reload costs with 10, 1,000 and 4,096 backends, and what clients notice of it. Needs root.
//!
//! Clients ask without pause on connections of their own. Again and again a route and the weight of one
//! backend change: measured are the publication itself, the reload, the time from the write of the file to
//! the first answer by the new route, and what clients get in the second of the reload against the second
//! before it.
//!
//! `cargo xtask bench reload [--rounds N] [--json FILE]`

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser;
use serde_json::{Value, json};
use steerage_lab::{interrupt, sweep, wait};
use steerage_tests::stand::{Choices, PREFIX, Stand, l7};

/// Backends of all services: the last is all that a host can have.
const BACKENDS: [usize; 3] = [10, 1_000, 4_096];

/// Those that serve.
const SERVING: usize = 2;

/// Clients that ask without pause.
const CLIENTS: usize = 8;

/// What is compared: a second before the file is written, and the one from then on.
const SPAN: Duration = Duration::from_secs(1);

const PATIENCE: Duration = Duration::from_secs(20);

/// Reloads again and again under load.
#[derive(Debug, Parser)]
struct Options {
    /// Reloads of each number of backends.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Also write rows of `case`, `impl`, `value`, `unit` to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// An answer: when it was there, and how long it took.
type Sample = (Instant, Duration);

/// One reload.
#[derive(Clone, Copy, Debug)]
struct Reload {
    written: Instant,
    publish_us: f64,
    took_ms: f64,
    effect_ms: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.rounds > 0, "at least one round");
    interrupt::install()?;
    let _ = sweep::leftovers(PREFIX);
    println!("{CLIENTS} clients without pause, 2 workers, medians of {} reloads\n", options.rounds);
    println!(
        "{:>8} {:>10} {:>9} {:>16}  {:>19}  {:>15}  {:>15}  {:>6}",
        "backends",
        "publish µs",
        "reload ms",
        "write→effect ms",
        "requests/s",
        "p99 ms",
        "longest ms",
        "failed"
    );
    let mut rows: Vec<Value> = Vec::new();
    for count in BACKENDS {
        report(count, &measure(count, options.rounds)?, &mut rows);
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// What came of it.
struct Measured {
    reloads: Vec<Reload>,
    samples: Vec<Sample>,
    failed: usize,
}

fn measure(count: usize, rounds: usize) -> Result<Measured> {
    let choices = Choices {
        weights: vec![1; SERVING],
        global: "watch = false",
        service: "balance = \"round_robin\"\nprobe = { kind = \"http\", path = \"/health\" }\n",
        ..Choices::default()
    };
    let stand = Stand::start(&choices)?;
    let text = |round: usize| config(&choices, &stand, count, round);
    stand.reconfigure(&text(0))?;
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| ask(&stand, &stopped))).collect();
        let reloads: Result<Vec<Reload>> = (1..=rounds)
            .map(|round| {
                // Nothing else happens in what is compared.
                std::thread::sleep(2 * SPAN);
                reload(&stand, &text(round), round)
            })
            .collect();
        std::thread::sleep(2 * SPAN);
        stopped.store(true, Ordering::Relaxed);
        let (mut samples, mut failed) = (Vec::new(), 0);
        for client in clients {
            let (answered, lost) = client.join().map_err(|_| anyhow!("a client panicked"))??;
            samples.extend(answered);
            failed += lost;
        }
        Ok(Measured { reloads: reloads?, samples, failed })
    })
}

fn config(choices: &Choices, stand: &Stand, count: usize, round: usize) -> String {
    let route = format!(
        "[[listener.route]]\npath = \"/who\"\nredirect = {{ to = \"/{round}\" }}\n[[listener.route]]"
    );
    let mut text = choices.config(&stand.scratch).replacen("[[listener.route]]", &route, 1);
    text.push_str("[[service]]\nname = \"many\"\n");
    for number in 0..count - SERVING {
        let (high, low) = (number / 250, number % 250 + 1);
        let weight = if number == 0 { 1 + round % 200 } else { 1 };
        let _ = writeln!(
            text,
            "[[service.backend]]\naddress = \"10.99.{high}.{low}:80\"\nweight = {weight}"
        );
    }
    text
}

fn ask(stand: &Stand, stopped: &AtomicBool) -> Result<(Vec<Sample>, usize)> {
    let (mut samples, mut failed) = (Vec::new(), 0);
    let mut connection = stand.connect(l7())?;
    while !stopped.load(Ordering::Relaxed) {
        let began = Instant::now();
        match connection.get("/") {
            Ok(answer) if answer.status == 200 => samples.push((Instant::now(), began.elapsed())),
            _ => {
                failed += 1;
                connection = stand.connect(l7())?;
            }
        }
    }
    Ok((samples, failed))
}

fn reload(stand: &Stand, text: &str, round: usize) -> Result<Reload> {
    let mut asking = stand.connect(l7())?;
    let place = format!("/{round}");
    let written = Instant::now();
    stand.write_config(text)?;
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| stand.reload());
        let is_new = |head: Option<&str>| head.is_some_and(|to| to.ends_with(&place));
        wait::for_condition("the route to be in force", PATIENCE, || {
            asking.get("/who").is_ok_and(|answer| is_new(answer.head.header("location")))
        })?;
        let effect_ms = written.elapsed().as_secs_f64() * 1e3;
        let answer = reload.join().map_err(|_| anyhow!("the reload panicked"))??;
        let number = |key: &str| answer[key].as_f64().with_context(|| format!("no {key}"));
        Ok(Reload {
            written,
            publish_us: number("publish_us")?,
            took_ms: number("took_ms")?,
            effect_ms,
        })
    })
}

fn report(count: usize, measured: &Measured, rows: &mut Vec<Value>) {
    let Measured { reloads, samples, failed } = measured;
    let of = |value: fn(&Reload) -> f64| median(reloads.iter().map(value).collect());
    let window = |from: Instant| {
        let mut times: Vec<f64> = samples
            .iter()
            .filter(|(at, _)| *at >= from && *at < from + SPAN)
            .map(|(_, took)| took.as_secs_f64() * 1e3)
            .collect();
        times.sort_by(f64::total_cmp);
        let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or(0.0);
        (times.len() as f64 / SPAN.as_secs_f64(), p99, times.last().copied().unwrap_or(0.0))
    };
    let both = [SPAN, Duration::ZERO].map(|before| {
        let windows: Vec<_> =
            reloads.iter().map(|reload| window(reload.written - before)).collect();
        let rate = median(windows.iter().map(|window| window.0).collect());
        let p99 = median(windows.iter().map(|window| window.1).collect());
        (rate, p99, median(windows.iter().map(|window| window.2).collect()))
    });
    let [before, during] = both;
    let pair = |one: f64, other: f64| format!("{one:.2} → {other:.2}");
    println!(
        "{count:>8} {:>10.0} {:>9.1} {:>16.1}  {:>19}  {:>15}  {:>15}  {failed:>6}",
        of(|reload| reload.publish_us),
        of(|reload| reload.took_ms),
        of(|reload| reload.effect_ms),
        format!("{:.0} → {:.0}", before.0, during.0),
        pair(before.1, during.1),
        pair(before.2, during.2),
    );
    for (case, value, unit) in [
        ("publish", of(|reload| reload.publish_us), "us"),
        ("write to effect", of(|reload| reload.effect_ms), "ms"),
        ("requests/s before", before.0, "1/s"),
        ("requests/s in the second of the reload", during.0, "1/s"),
        ("p99 before", before.1, "ms"),
        ("p99 in the second of the reload", during.1, "ms"),
    ] {
        let name = format!("{count} backends");
        rows.push(json!({ "case": case, "impl": name, "value": value, "unit": unit }));
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
