//! `cargo xtask`: everything a developer of Steerage runs.
//!
//! Each command sees to its own prerequisites ([`setup`]), so that any of them is the first thing
//! one can do on a fresh machine.

mod bench;
mod check;
mod dist;
mod run;
mod setup;
mod shell;
mod test;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use steerage_lab::interrupt::Interrupted;

/// Everything a developer of Steerage runs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find or install what the eBPF build needs; on Debian as root by itself.
    Setup {
        /// Also what demo, tests and benchmarks need.
        #[arg(long)]
        all: bool,
    },
    /// Show the product at work: client, balancer and backends as network namespaces (as root).
    ///
    /// With arguments after `--`, run the daemon with them in the foreground on this host instead,
    /// as in `cargo xtask run -- -c steerage.toml`.
    Run {
        /// End after the tour, with status 0 if all went as it should.
        #[arg(long)]
        once: bool,
        /// Arguments of `steerage run`.
        #[arg(last = true)]
        daemon: Vec<OsString>,
    },
    /// Formatting, lints and licences.
    Check(check::Options),
    /// Everything that is checked, and every test (as root).
    Test(check::Options),
    /// CPU and throughput beside nginx, haproxy and no proxy at all (as root).
    Bench(bench::Options),
    /// The packages that operators install: .deb, archive, bill of materials.
    Dist(dist::Options),
    /// The backend of the demo.
    #[command(hide = true)]
    Backend {
        #[arg(long)]
        name: String,
        #[arg(long)]
        listen: std::net::SocketAddr,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Setup { all } => setup::command(all),
        Command::Run { once, daemon } => run::command(once, &daemon),
        Command::Check(options) => check::command(&options),
        Command::Test(options) => test::command(&options),
        Command::Bench(options) => bench::command(&options),
        Command::Dist(options) => dist::command(&options),
        Command::Backend { name, listen } => run::backend(&name, listen),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("\ninterrupted; all that was made is removed");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
