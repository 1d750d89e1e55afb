//! A network namespace: one host of the laboratory.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{command, wait};

/// Where `ip netns` keeps its handles.
const DIRECTORY: &str = "/run/netns";

/// How long processes may take to end after SIGKILL.
const KILL_WITHIN: Duration = Duration::from_secs(5);

/// A named network namespace; dropping it kills what runs inside and removes it.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace with its loopback up.
    ///
    /// # Errors
    /// If `ip netns add` fails: most often because the caller is not root.
    pub fn create(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        command::ip(&format!("netns add {name}"))?;
        let netns = Self { name };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Takes over a namespace that somebody left, so that dropping the value removes it.
    pub(crate) fn adopt(name: String) -> Self {
        Self { name }
    }

    /// Its name for `ip netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its handle, for `nsenter --net=…`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(DIRECTORY).join(&self.name)
    }

    /// A command that will run inside; its process id is that of the program itself.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs `ip` on it with the words of `arguments`.
    ///
    /// # Errors
    /// As [`command::output`].
    pub fn ip(&self, arguments: &str) -> Result<String> {
        command::ip(&format!("-n {} {arguments}", self.name))
    }

    /// Sets a key of `/proc/sys/net`, such as `ipv4/ip_forward`.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = PathBuf::from("/proc/sys/net").join(key);
        self.enter(|| std::fs::write(&path, value))?
            .with_context(|| format!("cannot set {} in {}", path.display(), self.name))
    }

    /// Runs `work` on a thread inside the namespace. Sockets made there, and threads begun there,
    /// belong to the namespace for good.
    ///
    /// # Errors
    /// If the namespace can't be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        let handle =
            File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let inside = || {
            move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("cannot enter {}", path.display()))?;
            anyhow::Ok(work())
        };
        match std::thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The processes inside.
    ///
    /// # Errors
    /// If `ip netns pids` fails.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        let text = command::ip(&format!("netns pids {}", self.name))?;
        Ok(text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect())
    }

    fn remove(&self) -> Result<()> {
        let deadline = std::time::Instant::now() + KILL_WITHIN;
        loop {
            let pids = self.pids()?;
            // A thread of this very process inside the namespace does not count.
            let others = pids.iter().filter(|pid| pid.as_raw_nonzero().get() != own_pid());
            let mut left = 0;
            for pid in others {
                left += 1;
                let _ = kill_process(*pid, Signal::KILL);
            }
            if left == 0 {
                break;
            }
            if std::time::Instant::now() > deadline {
                bail!("{left} processes in {} do not end", self.name);
            }
            // Not `wait::until`: removal goes on after a signal.
            std::thread::sleep(Duration::from_millis(1));
        }
        command::ip(&format!("netns del {}", self.name)).map(drop)
    }
}

#[allow(clippy::cast_possible_wrap, reason = "Linux has process ids below 2^22")]
fn own_pid() -> i32 {
    std::process::id() as i32
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("network namespace {} is left behind: {error:#}", self.name);
        }
    }
}

/// Waits until a TCP port answers inside the namespace.
///
/// # Errors
/// If it does not within the time.
pub fn wait_for_port(netns: &Netns, address: std::net::SocketAddr, within: Duration) -> Result<()> {
    wait::for_condition(format!("{address} to accept connections"), within, || {
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1));
        matches!(netns.enter(connect), Ok(Ok(_)))
    })
}
