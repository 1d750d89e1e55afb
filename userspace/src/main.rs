//! The `steerage` command.

mod backend;
mod capture;
mod configuration;
mod decap;
mod flows;
mod generate;
mod importing;
mod logs;
mod top;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Parser as _;
use steerage::cli::{Cli, Command, Daemon, Request, Set};
use steerage::config::{self, Model};
use steerage::doctor::{self, Verdict};
use steerage::l7::explain::{Subject, explain};
use steerage::stats::table;
use steerage::supervisor::inherit;
use steerage::tls::shelf::{Occasion, Stock};
use steerage::{admin, kernel, log, supervisor, sys, worker};

/// Workers allocate buffers of all sizes in quick succession: a new client connection costs 1.5 µs less
/// than with glibc's allocator (`cargo xtask bench`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("steerage: {}", said_once(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, without those that the text before them has told already.
fn said_once(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Run { config, inherit } => {
            let channel = inherit
                .then(sys::take_input)
                .transpose()
                .context("standard input is no daemon that hands over: use `steerage upgrade`")?;
            Ok(supervisor::run(config.source()?, channel)?)
        }
        Command::Doctor { json, config, overrides } => examine(json, config, &overrides),
        Command::Upgrade { binary, json, daemon } => upgrade(binary, json, &daemon),
        Command::Check { file, json, overrides, request } => {
            check(&file, json, &overrides, &request)
        }
        Command::Import { file, from, output } => importing::run(&file, from, output),
        Command::Status { json, daemon } => status(json, &daemon),
        Command::Logs { follow: _, daemon } => logs::run(&admin_socket(&daemon)?),
        Command::Top { daemon } => top::run(&admin_socket(&daemon)?),
        Command::Reload { json, daemon } => configuration::reload(json, &daemon),
        Command::RotateTickets { daemon } => {
            ask(admin::client::rotate_tickets(&admin_socket(&daemon)?))
        }
        Command::Config { what } => configuration::run(what),
        Command::Backend { what } => backend::run(what),
        Command::Decap(options) => decap::run(&options),
        Command::Capture(options) => capture::run(&options),
        Command::Flows(options) => flows::run(&options),
        Command::Detach { config } => {
            let instance = supervisor::instance_dir(&config.source()?.load()?);
            kernel::detach(&instance)?;
            println!("{}: detached", instance.display());
            Ok(())
        }
        Command::Completions { shell } => {
            generate::completions(shell, &mut std::io::stdout());
            Ok(())
        }
        Command::Generate { into } => generate::all(&into),
        Command::Worker(numbers) => {
            let inheritance = inherit::take(&inherit::Numbers {
                setup: numbers.setup,
                control: numbers.control,
                log: numbers.log,
                region: numbers.region,
                sockets: numbers.sockets,
            })
            .context("workers are started by `steerage run`, not by hand")?;
            // Started through /proc/self/exe, it would be called "exe".
            sys::name_process("steerage-worker")?;
            sys::confine::seal()?;
            log::start(inheritance.setup.plan.placed.model.global.log);
            worker::serve(
                inheritance.setup,
                inheritance.region,
                inheritance.sockets,
                inheritance.control,
                inheritance.log,
            )
        }
    }
}

fn check(file: &Path, json: bool, overrides: &Set, request: &Request) -> anyhow::Result<()> {
    let loaded = overrides.source(file)?.load();
    if json {
        println!("{:#}", checked(&loaded));
    }
    let model = loaded?;
    check_certificates(&model)?;
    match &request.explain {
        None if json => {}
        None => println!("{}: ok, {}", file.display(), summary(&model)),
        Some(url) => {
            let subject = Subject::new(url, &request.method, &request.header)?;
            let (name, listener) = (file.display().to_string(), request.listener.as_deref());
            print!("{}", explain(&model, &name, &subject, listener)?);
        }
    }
    Ok(())
}

/// What a file holds, or what is wrong with it.
fn checked(loaded: &Result<Model, config::Error>) -> serde_json::Value {
    match loaded {
        Ok(model) => serde_json::json!({
            "listeners": model.listeners.len(),
            "vips": model.vips.len(),
            "services": model.services.len(),
            "backends": backends(model),
            "problems": [],
        }),
        Err(config::Error::Invalid { problems, .. }) => {
            let problem = |problem: &config::Problem| {
                serde_json::json!({
                    "line": problem.line, "column": problem.column, "message": problem.message,
                })
            };
            serde_json::json!({ "problems": problems.iter().map(problem).collect::<Vec<_>>() })
        }
        Err(error) => serde_json::json!({ "problems": [{ "message": error.to_string() }] }),
    }
}

/// Reads certificates and keys as the daemon would, for nobody.
fn check_certificates(model: &Model) -> anyhow::Result<()> {
    let now = steerage::clock::since_epoch().as_secs().cast_signed();
    let Err(faults) = Stock::read(model, Occasion::Check, now) else { return Ok(()) };
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    bail!("{}", lines.join("\n"))
}

fn status(json: bool, daemon: &Daemon) -> anyhow::Result<()> {
    let socket = admin_socket(daemon)?;
    let status = ask(admin::client::status(&socket))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", table::render(&status));
    }
    Ok(())
}

fn examine(json: bool, file: Option<PathBuf>, overrides: &Set) -> anyhow::Result<()> {
    let usual = PathBuf::from("/etc/steerage/steerage.toml");
    let file = file.or_else(|| usual.exists().then_some(usual));
    let model = match &file {
        Some(file) => Some(overrides.source(file)?.load()?),
        None => None,
    };
    let findings = doctor::examine(model.as_ref());
    if json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print!("{}", doctor::render(&findings));
    }
    let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Fail).count();
    match failed {
        0 => Ok(()),
        1 => bail!("one thing does not work"),
        _ => bail!("{failed} things do not work"),
    }
}

fn upgrade(binary: Option<PathBuf>, json: bool, daemon: &Daemon) -> anyhow::Result<()> {
    // The daemon's directory may be another.
    let binary = binary.map(std::path::absolute).transpose()?;
    let upgraded = ask(admin::client::upgrade(&admin_socket(daemon)?, binary))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&upgraded)?);
    } else {
        println!(
            "process {} serves; the former one's workers finish what they are at",
            upgraded.pid
        );
    }
    Ok(())
}

/// Whether what goes to the terminal may have colours (<https://no-color.org>).
fn is_coloured() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// Where the daemon listens.
fn admin_socket(daemon: &Daemon) -> anyhow::Result<PathBuf> {
    match &daemon.admin {
        Some(socket) => Ok(socket.clone()),
        None => Ok(daemon.config.source()?.load()?.global.admin),
    }
}

/// Runs a conversation with the daemon.
fn ask<T>(
    conversation: impl Future<Output = Result<T, admin::client::Error>>,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(conversation)?)
}

/// What a configuration holds, in one line.
fn summary(model: &Model) -> String {
    format!(
        "listeners {}, vips {}, services {}, backends {}",
        model.listeners.len(),
        model.vips.len(),
        model.services.len(),
        backends(model)
    )
}

fn backends(model: &Model) -> usize {
    model.services.iter().map(|service| service.backends.len()).sum()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = || std::io::Error::other("disk on fire");
        let told = anyhow::anyhow!(cause()).context("cannot write: disk on fire; buy a new one");
        assert_eq!(said_once(&told), "cannot write: disk on fire; buy a new one");
        let untold = Err::<(), _>(cause()).context("cannot write").unwrap_err();
        assert_eq!(said_once(&untold), "cannot write: disk on fire");
    }
}
