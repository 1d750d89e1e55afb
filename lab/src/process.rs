//! A process under test: started, watched, ended.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{command, wait};

/// A child process in a process group of its own, with its output in a file.
///
/// The group of its own keeps a terminal's Ctrl-C away from it: its owner decides in what order
/// things end. Dropping it kills the whole group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    name: String,
}

impl Process {
    /// Starts `command`, with stdout and stderr appended to `log`.
    ///
    /// # Errors
    /// If it can't start.
    pub fn spawn(name: impl Into<String>, mut command: Command, log: &Path) -> Result<Self> {
        let name = name.into();
        let open = || File::options().create(true).append(true).open(log);
        let output = open().with_context(|| format!("cannot write {}", log.display()))?;
        let errors = output.try_clone()?;
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("{name}: `{}` cannot start", command::line(&command)))?;
        Ok(Self { child, log: log.to_owned(), name })
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// The last `lines` of what it wrote.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// How it ended, if it did.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(pid(self.child.id())?, signal)
            .with_context(|| format!("{}: cannot be signalled", self.name))
    }

    /// Kills it alone, not its children, and takes its status.
    ///
    /// # Errors
    /// If it can't be waited for.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it runs on, with the end of its log.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        let ended = wait::until(format!("{name} to end"), within, || self.exited());
        ended.with_context(|| format!("{name} wrote last:\n{}", self.log_tail(20)))
    }

    /// Asks it to end with SIGTERM and waits.
    ///
    /// # Errors
    /// If it runs on.
    pub fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.exited() {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        self.wait(within)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(group) = pid(self.child.id()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// The id as the kernel's interfaces take it.
///
/// # Errors
/// For 0, which is no process.
pub fn pid(id: u32) -> Result<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw).with_context(|| format!("{id} is no process id"))
}

/// Whether a process of this id exists, a zombie included.
#[must_use]
pub fn alive(id: u32) -> bool {
    Path::new("/proc").join(id.to_string()).exists()
}

/// The processes that were started by this one.
#[must_use]
pub fn children(of: u32) -> Vec<u32> {
    let path = format!("/proc/{of}/task/{of}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// Resident memory of a process in bytes.
///
/// # Errors
/// If it is gone.
pub fn resident_bytes(id: u32) -> Result<u64> {
    let path = format!("/proc/{id}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{path} has no VmRSS"))? * 1024)
}

/// How it ended, in words.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

/// CPU time that a process has used, all threads, in nanoseconds.
///
/// # Errors
/// If it is gone, or the kernel does not account for it.
pub fn cpu_ns(id: u32) -> Result<u64> {
    let directory = format!("/proc/{id}/task");
    let mut total = 0;
    let tasks = fs::read_dir(&directory).with_context(|| format!("cannot read {directory}"))?;
    for task in tasks.flatten() {
        let path = task.path().join("schedstat");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let time = text.split(' ').next().and_then(|field| field.parse::<u64>().ok());
        total += time.with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(total)
}
