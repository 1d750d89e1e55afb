//! `cargo xtask run`: the product's front door.
//!
//! Without arguments a demo on the real kernel: hosts as network namespaces, the daemon on
//! `examples/demo.toml`, a guided [`tour`], then it stays up with hints until Ctrl-C. All that it
//! makes belongs to one [`Demo`] value, so that it goes away at the end, on an error, and on a signal
//! at any moment.

mod record;
mod tour;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use steerage_lab::daemon::{self, Daemon};
use steerage_lab::process::Process;
use steerage_lab::scratch::Scratch;
use steerage_lab::topology::{self, Topology};
use steerage_lab::{interrupt, netns, sweep, wait};

use crate::setup::{self, Purpose};
use crate::shell;

/// First part of every name that the demo gives.
const PREFIX: &str = "steerage-demo";

/// Backends of the demo, as many as `examples/demo.toml` has.
const BACKENDS: u8 = 3;

/// `cargo xtask run`.
///
/// # Errors
/// If the build fails, or something in the demo does not go as it should.
pub fn command(once: bool, arguments: &[OsString]) -> Result<()> {
    if !arguments.is_empty() {
        return on_host(arguments);
    }
    shell::need_root("the demo makes network namespaces and loads eBPF programs, which", "run")?;
    interrupt::install()?;
    setup::ensure(Purpose::Demo)?;
    println!("building (release)");
    let binary = shell::build_release()?;
    let removed = sweep::leftovers(PREFIX);
    if removed > 0 {
        println!("removed {removed} things that a killed demo had left");
    }
    let mut demo = Demo::start(binary)?;
    if let Err(error) = tour::walk(&mut demo) {
        if !interrupt::raised() {
            eprintln!("\nthe daemon's log:\n{}", demo.daemon.process().log_tail(30));
        }
        return Err(error);
    }
    if once {
        drop(demo);
        println!("\nAll went as it should; everything that was made is removed.");
        return Ok(());
    }
    stay(demo)
}

/// `cargo xtask run -- …`: the daemon in the foreground, in place of this process.
fn on_host(arguments: &[OsString]) -> Result<()> {
    setup::ensure(Purpose::Build)?;
    let binary = shell::build_release()?;
    let error = Command::new(&binary).arg("run").args(arguments).exec();
    Err(error).with_context(|| format!("{} cannot be started", binary.display()))
}

/// The demo's backend process.
///
/// # Errors
/// If it can't listen.
pub fn backend(name: &str, listen: SocketAddr) -> Result<()> {
    let _backend = steerage_lab::backend::Backend::start(name, None, listen)?;
    loop {
        std::thread::park();
    }
}

/// Everything that the demo made. Fields are dropped in this order.
struct Demo {
    daemon: Daemon,
    /// By number, from backend 1.
    backends: Vec<Process>,
    topology: Topology,
    scratch: Scratch,
    config: PathBuf,
    binary: PathBuf,
    /// The instance's directory of pinned tables.
    pins: PathBuf,
}

impl Demo {
    /// Builds the hosts and starts backends and daemon.
    fn start(binary: PathBuf) -> Result<Self> {
        let scratch = Scratch::new(PREFIX)?;
        let topology = Topology::build(PREFIX, BACKENDS)?;
        let mut backends = Vec::new();
        for number in 1..=BACKENDS {
            backends.push(start_backend(&topology, &scratch, number)?);
        }
        let instance = daemon::instance(&scratch);
        let config = scratch.write("demo.toml", &config(&scratch, &instance)?)?;
        let log = scratch.join("steerage.log");
        let daemon = Daemon::serving(&topology.balancer, &binary, &config, &log)?;
        daemon.wait_available(u64::from(BACKENDS))?;
        // The version of the layout is part of the path; there is one.
        let instance = daemon::pins(&instance);
        let versions = std::fs::read_dir(&instance)
            .with_context(|| format!("no pinned tables in {}", instance.display()))?;
        let pins = versions
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.join("HEALTH").exists())
            .with_context(|| format!("no HEALTH table under {}", instance.display()))?;
        Ok(Self { daemon, backends, topology, scratch, config, binary, pins })
    }

    /// Starts a backend again, as number `number`.
    fn revive(&mut self, number: u8) -> Result<()> {
        let process = start_backend(&self.topology, &self.scratch, number)?;
        self.backends[usize::from(number) - 1] = process;
        Ok(())
    }
}

/// The shipped configuration with names of this demo's own.
fn config(scratch: &Scratch, instance: &str) -> Result<String> {
    let path = shell::root().join("examples/demo.toml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text
        .replace("\"demo\"", &format!("\"{instance}\""))
        .replace("/run/steerage-demo/", &format!("{}/", scratch.path().display())))
}

fn start_backend(topology: &Topology, scratch: &Scratch, number: u8) -> Result<Process> {
    let name = format!("backend-{number}");
    let netns = &topology.backends[usize::from(number) - 1];
    let address = topology::backend_socket(number);
    let mut command = netns.command(std::env::current_exe()?);
    command.args(["backend", "--name", &name, "--listen", &address.to_string()]);
    let process = Process::spawn(&name, command, &scratch.join(&format!("{name}.log")))?;
    netns::wait_for_port(netns, address, Duration::from_secs(5))?;
    Ok(process)
}

/// Keeps the demo up until a signal, with hints for hands.
fn stay(demo: Demo) -> Result<()> {
    let client = demo.topology.client.path();
    let balancer = demo.topology.balancer.path();
    let (client, balancer) = (client.display(), balancer.display());
    let (steerage, config) = (demo.binary.display(), demo.config.display());
    println!(
        "
The demo stays up; the hosts are network namespaces. Try, in another terminal:

  # L7: a worker picks a backend for each request
  nsenter --net={client} curl http://10.80.0.1:8080/
  # L4: XDP picks a backend for each connection
  nsenter --net={client} curl http://192.0.2.10/
  # the daemon's view
  {steerage} status -c {config}
  nsenter --net={balancer} curl -s http://127.0.0.1:9900/metrics
  # the kernel's view: the bitmap and the tables that both planes read
  bpftool map dump pinned {pins}/HEALTH | head -8
  bpftool map dump pinned {pins}/FLOWS | head -20
  nsenter --net={balancer} bpftool net list
  # make it hurt: kill a backend or a worker and ask again
  kill -9 {backend}    # backend-3
  kill -9 {worker}    # a worker; the supervisor starts another
  tail -f {log}

Ctrl-C ends it and removes everything.",
        pins = demo.pins.display(),
        backend = demo.backends.last().map_or(0, Process::pid),
        worker = demo.daemon.workers()?.first().copied().unwrap_or(0),
        log = demo.scratch.join("steerage.log").display(),
    );
    let forever = Duration::from_secs(u64::from(u32::MAX));
    let ended = wait::for_condition("a signal", forever, || {
        std::thread::sleep(Duration::from_millis(50));
        false
    });
    drop(demo);
    match ended {
        Err(_) if interrupt::raised() => {
            println!("\nstopped; everything that was made is removed");
            Ok(())
        }
        other => other,
    }
}
