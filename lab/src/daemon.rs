//! The daemon under test, and its command line.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::netns::Netns;
use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::sweep::PINS;
use crate::{command, wait};

/// How long a daemon may take to serve, and to end.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The `steerage` binary: `STEERAGE_BIN`, or the one that was built beside this program.
///
/// # Errors
/// If there is none, with the command that builds it.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("STEERAGE_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    // A test runs from target/PROFILE/deps, a program from target/PROFILE.
    let beside = own.ancestors().skip(1).take(2).map(|directory| directory.join("steerage"));
    let found = beside.into_iter().find(|path| path.is_file());
    found.context("no steerage binary beside this program: `cargo build` makes one")
}

/// The `[global]` table of a daemon that shares nothing with any other on this machine; more keys
/// may follow it.
#[must_use]
pub fn global(scratch: &Scratch) -> String {
    let directory = scratch.path().display();
    let instance = instance(scratch);
    format!(
        "[global]\ninstance = \"{instance}\"\nadmin = \"{directory}/admin.sock\"\n\
         pid_file = \"{directory}/steerage.pid\"\nmetrics = \"127.0.0.1:9900\"\nuser = \"nobody\"\n"
    )
}

/// The instance's name that [`global`] gives.
#[must_use]
pub fn instance(scratch: &Scratch) -> String {
    scratch.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The directory of an instance's pins.
#[must_use]
pub fn pins(instance: &str) -> PathBuf {
    Path::new(PINS).join(instance)
}

/// A running daemon; dropping it stops it with its workers and removes its pins.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    binary: PathBuf,
    config: PathBuf,
    detaches: bool,
    /// The supervisor that an upgrade put in the place of `process`.
    follower: Option<u32>,
}

impl Daemon {
    /// Starts `steerage run -c CONFIG`, inside `netns` if one is given.
    ///
    /// # Errors
    /// If it can't start.
    pub fn start(netns: Option<&Netns>, binary: &Path, config: &Path, log: &Path) -> Result<Self> {
        let command = match netns {
            Some(netns) => netns.command(binary),
            None => Command::new(binary),
        };
        Self::spawn(command, binary, config, log)
    }

    /// As [`start`](Self::start), with a command that runs `binary` in a way of its own.
    ///
    /// # Errors
    /// If it can't start.
    pub fn spawn(mut command: Command, binary: &Path, config: &Path, log: &Path) -> Result<Self> {
        command.arg("run").arg("-c").arg(config);
        let process = Process::spawn("steerage", command, log)?;
        let (binary, config) = (binary.to_owned(), config.to_owned());
        Ok(Self { process, binary, config, detaches: true, follower: None })
    }

    /// As [`start`](Self::start), and waits until it serves.
    ///
    /// # Errors
    /// If it ends or does not serve in time, with its log.
    pub fn serving(netns: &Netns, binary: &Path, config: &Path, log: &Path) -> Result<Self> {
        let mut daemon = Self::start(Some(netns), binary, config, log)?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Waits until it answers its admin socket, which it does when all workers serve.
    ///
    /// # Errors
    /// If it ends or does not serve in time, with its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        let ready = wait::until("the daemon to be ready", PATIENCE, || {
            if self.process.exited().is_some() {
                return Some(false);
            }
            // Another daemon of the same configuration may still answer.
            let pid = self.status().ok()?["pid"].as_u64()?;
            (pid == u64::from(self.pid())).then_some(true)
        });
        match ready {
            Ok(true) => Ok(()),
            Ok(false) => bail!("the daemon ended at its start:\n{}", self.process.log_tail(20)),
            Err(error) => Err(error.context(format!("its log:\n{}", self.process.log_tail(20)))),
        }
    }

    /// The supervisor's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.follower.unwrap_or_else(|| self.process.pid())
    }

    /// `steerage upgrade`, to another binary if one is given. The daemon is the one that follows from then
    /// on.
    ///
    /// # Errors
    /// As the command: the former one serves on.
    pub fn upgrade(&mut self, binary: Option<&Path>) -> Result<u32> {
        let mut command = Command::new(&self.binary);
        command.args(["upgrade", "--json", "-c"]).arg(&self.config);
        if let Some(binary) = binary {
            command.arg("--binary").arg(binary);
        }
        let told: Value = serde_json::from_str(&command::output(&mut command)?)?;
        let pid = told["pid"].as_u64().context("no process is named")?.try_into()?;
        self.follower = Some(pid);
        Ok(pid)
    }

    /// The supervisor that followed by itself, at a signal, is this daemon from now on.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn find_follower(&mut self) -> Result<u32> {
        let pid = self.status()?["pid"].as_u64().context("status has no pid")?.try_into()?;
        self.follower = Some(pid);
        Ok(pid)
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// `steerage status --json`.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&self) -> Result<Value> {
        let mut command = Command::new(&self.binary);
        let text = command::output(command.args(["status", "--json", "-c"]).arg(&self.config))?;
        serde_json::from_str(&text).context("status is no JSON")
    }

    /// `steerage status` for people.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status_text(&self) -> Result<String> {
        command::output(Command::new(&self.binary).args(["status", "-c"]).arg(&self.config))
    }

    /// `steerage backend` with these arguments.
    ///
    /// # Errors
    /// As the command.
    pub fn backend(&self, arguments: &[&str]) -> Result<String> {
        self.ask(&[&["backend"], arguments].concat())
    }

    /// `steerage` with these arguments, about this daemon.
    ///
    /// # Errors
    /// As the command.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        command::output(Command::new(&self.binary).args(arguments).arg("-c").arg(&self.config))
    }

    /// Its workers that take connections.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn workers(&self) -> Result<Vec<u32>> {
        let status = self.status()?;
        let workers = status["workers"].as_array().context("status has no workers")?;
        let live = workers.iter().filter(|worker| worker["live"] == true);
        Ok(live.filter_map(|worker| worker["pid"].as_u64()?.try_into().ok()).collect())
    }

    /// Waits until so many backends of its first service take new work.
    ///
    /// # Errors
    /// If that does not come true, with the last status.
    pub fn wait_available(&self, backends: u64) -> Result<()> {
        let mut last = Value::Null;
        let available = wait::for_condition(format!("{backends} backends up"), PATIENCE, || {
            last = self.status().unwrap_or_default();
            last["services"][0]["available"].as_u64() == Some(backends)
        });
        available.with_context(|| format!("status: {}", last["services"]))
    }

    /// Asks it to end with SIGTERM and waits; its pins stay.
    ///
    /// # Errors
    /// If it runs on.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.terminate(PATIENCE)
    }

    /// Leaves the pins when the value is dropped: for a successor.
    pub fn leave_pins(&mut self) {
        self.detaches = false;
    }

    /// `steerage detach`: removes the pins.
    ///
    /// # Errors
    /// As the command.
    pub fn detach(&self) -> Result<String> {
        command::output(Command::new(&self.binary).args(["detach", "-c"]).arg(&self.config))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Not `terminate`: its wait ends early after a signal. SIGTERM twice stops at once.
        let has_ended = |daemon: &mut Self| {
            daemon.process.exited().is_some() && !daemon.follower.is_some_and(process::alive)
        };
        if !has_ended(self) {
            let _ = self.process.signal(Signal::TERM);
            if let Some(follower) = self.follower.and_then(|id| process::pid(id).ok()) {
                let _ = kill_process(follower, Signal::TERM);
            }
            let deadline = std::time::Instant::now() + Duration::from_secs(3);
            while !has_ended(self) && std::time::Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            // What is left of the group dies when `process` is dropped, right after this.
        }
        if self.detaches {
            if let Err(error) = self.detach() {
                eprintln!("pins may be left behind: {error:#}");
            }
            // Empty unless another instance runs.
            let _ = std::fs::remove_dir(PINS);
        }
    }
}
