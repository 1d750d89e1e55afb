//! `cargo xtask check`, and the steps that it shares with `cargo xtask test`.
//!
//! Every step runs, whatever the ones before it said, and the end names every failure at once.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use steerage_lab::command;

use crate::setup::{self, Purpose};
use crate::shell::{self, cargo};

/// Which steps to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Run only this step; may be given several times.
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// Only name the steps.
    #[arg(long)]
    list: bool,
}

/// One step: a command, and how to read what it says.
pub struct Step {
    pub name: &'static str,
    pub command: Command,
}

/// `cargo xtask check`.
///
/// # Errors
/// If a step fails.
pub fn command(options: &Options) -> Result<()> {
    run(steps(), options)
}

/// The steps that run no test.
pub fn steps() -> Vec<Step> {
    let ebpf = ["clippy", "--package", "steerage-ebpf", "--bins", "--", "-D", "warnings"];
    let mut ebpf = cargo(&ebpf);
    // The programs have a panic handler of their own, which the host's unwinding would not allow.
    ebpf.args(["-C", "panic=abort"]);
    vec![
        Step { name: "fmt", command: cargo(&["fmt", "--all", "--check"]) },
        Step {
            name: "clippy",
            command: cargo(&["clippy", "--all-targets", "--", "-D", "warnings"]),
        },
        Step { name: "clippy-ebpf", command: ebpf },
        // The advisory database is not part of this repository; `cargo deny check advisories`
        // fetches it.
        Step {
            name: "deny",
            command: cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"]),
        },
    ]
}

/// Runs the chosen steps and reports.
///
/// # Errors
/// If a step fails, or none of that name exists.
pub fn run(steps: Vec<Step>, options: &Options) -> Result<()> {
    let names: Vec<&str> = steps.iter().map(|step| step.name).collect();
    if options.list {
        println!("{}", names.join("\n"));
        return Ok(());
    }
    if let Some(unknown) = options.only.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("there is no step {unknown:?}; there are: {}", names.join(", "));
    }
    setup::ensure(Purpose::Check)?;
    let chosen =
        |step: &Step| options.only.is_empty() || options.only.iter().any(|n| n == step.name);
    let mut outcomes = Vec::new();
    for step in steps.into_iter().filter(chosen) {
        outcomes.push(step.run()?);
    }
    report(&outcomes)
}

/// How a step went.
struct Outcome {
    name: &'static str,
    good: bool,
    time: Duration,
    tests: Tests,
    /// The end of the output of a failed step that ran no test.
    tail: Vec<String>,
}

/// What test runners said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tests {
    passed: u64,
    failed: u64,
    /// Names of failed tests.
    failures: Vec<String>,
}

/// Lines of a failed step that are shown again at the end.
const TAIL: usize = 25;

impl Step {
    /// Runs it with its output shown and read.
    fn run(mut self) -> Result<Outcome> {
        println!("\n━━━ {}: {}", self.name, command::line(&self.command));
        let started = Instant::now();
        let (reader, writer) = std::io::pipe()?;
        self.command.stdout(writer.try_clone()?).stderr(writer);
        let mut child =
            self.command.spawn().with_context(|| format!("{} cannot start", self.name))?;
        // The command holds the pipe's write ends; they must go for the reading to end.
        drop(self.command);
        let (mut tests, mut tail) = (Tests::default(), Vec::new());
        for line in BufReader::new(reader).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            println!("{line}");
            tests.read(&line);
            if tail.len() == TAIL {
                tail.remove(0);
            }
            tail.push(line);
        }
        let good = child.wait()?.success();
        Ok(Outcome { name: self.name, good, time: started.elapsed(), tests, tail })
    }
}

impl Tests {
    fn read(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("test ").and_then(|l| l.strip_suffix(" ... FAILED")) {
            self.failures.push(name.to_owned());
        }
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let count = |what: &str| {
            let part = counts.split(['.', ';']).map(str::trim).find(|part| part.ends_with(what));
            part.and_then(|part| part.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        self.passed += count(" passed");
        self.failed += count(" failed");
    }

    fn any(&self) -> bool {
        self.passed + self.failed > 0
    }
}

impl Outcome {
    /// Passed and failed: its tests, or itself where it ran none. A step that failed though none of
    /// its tests did (it could not be built, it died) is a failure of its own.
    fn counts(&self) -> (u64, u64) {
        let own = u64::from(!self.good && self.tests.failed == 0);
        match (self.tests.any(), self.good) {
            (true, _) => (self.tests.passed, self.tests.failed + own),
            (false, good) => (u64::from(good), own),
        }
    }
}

/// Prints everything that matters once more; the last line sums all up.
fn report(outcomes: &[Outcome]) -> Result<()> {
    for outcome in outcomes.iter().filter(|outcome| !outcome.good) {
        println!("\n━━━ failed: {}", outcome.name);
        if outcome.tests.failures.is_empty() {
            println!("{}", outcome.tail.join("\n"));
        }
        for name in &outcome.tests.failures {
            println!("  test {name}");
        }
    }
    println!("\n{:<12} {:<7} {:>6} {:>7} {:>7}", "step", "result", "time", "passed", "failed");
    let (mut passed, mut failed) = (0, 0);
    for outcome in outcomes {
        let counts = outcome.counts();
        passed += counts.0;
        failed += counts.1;
        let (word, time) = (if outcome.good { "ok" } else { "FAILED" }, outcome.time.as_secs());
        println!("{:<12} {word:<7} {time:>4} s {:>7} {:>7}", outcome.name, counts.0, counts.1);
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed\n");
    println!("{passed} passed, {failed} failed");
    std::io::stdout().flush()?;
    if failed > 0 {
        // Nothing more to say: the line above is the last one.
        std::process::exit(1);
    }
    Ok(())
}

/// Fails unless this is root, as the tests of the whole system need.
///
/// # Errors
/// If it is not.
pub fn need_root() -> Result<()> {
    shell::need_root("the tests make network namespaces and load eBPF programs, which", "test")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(good: bool, tests: Tests) -> Outcome {
        Outcome { name: "step", good, time: Duration::ZERO, tests, tail: Vec::new() }
    }

    #[test]
    fn results_of_several_runners_are_summed() {
        let mut tests = Tests::default();
        for line in [
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
            "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out",
        ] {
            tests.read(line);
        }
        let expected = Tests { passed: 13, failed: 1, failures: vec!["a::c".to_owned()] };
        assert_eq!(tests, expected);
        assert_eq!(outcome(false, tests).counts(), (13, 1));
    }

    #[test]
    fn a_step_without_tests_counts_once() {
        assert_eq!(outcome(true, Tests::default()).counts(), (1, 0));
        assert_eq!(outcome(false, Tests::default()).counts(), (0, 1));
    }

    #[test]
    fn a_step_that_dies_after_good_tests_has_failed() {
        let tests = Tests { passed: 4, ..Tests::default() };
        assert_eq!(outcome(false, tests).counts(), (4, 1));
    }
}
