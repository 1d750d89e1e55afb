//! Upgrades under load, of this daemon and of its peers: what clients lose.
//!
//! Each proxy is put in its own place ten times, in the way that its manual gives: `steerage upgrade`;
//! HAProxy in master-worker mode by SIGUSR2, which hands its sockets on; nginx by SIGUSR2 to the master and
//! SIGQUIT to the former one. Clients ask without pause: on kept connections (a request on a connection
//! that was closed meanwhile is made again, as every client does), on a new connection for each, and with
//! uploads on kept connections that nobody may repeat.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Signal, kill_process};
use steerage_lab::backend::Backend;
use steerage_lab::daemon::{self, Daemon};
use steerage_lab::poller::{Poller, Reuse};
use steerage_lab::process::{self, Process};
use steerage_lab::scratch::Scratch;
use steerage_lab::topology::{self, Topology};
use steerage_lab::{command, netns, wait};

use crate::race::Retry;
use crate::race::proxy::{haproxy, nginx};
use crate::stand::{PREFIX, l7};
use crate::year::{Client, Kind};

/// Between two upgrades.
const PAUSE: Duration = Duration::from_millis(700);

/// By its path: nginx starts its next master by the name that it was called by.
const NGINX: &str = "/usr/sbin/nginx";

/// Who is upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// This daemon.
    Steerage,
    /// Debian's HAProxy.
    Haproxy,
    /// Debian's nginx.
    Nginx,
}

impl Who {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Steerage, Self::Haproxy, Self::Nginx];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steerage => "steerage",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }
}

/// What clients of one kind did.
#[derive(Clone, Debug)]
pub struct Row {
    /// The kind.
    pub kind: &'static str,
    /// Requests that were answered.
    pub done: u64,
    /// Those that were not.
    pub lost: u64,
    /// How the first of those was lost.
    pub first: Option<String>,
}

/// Upgrades `who` so many times under load.
///
/// # Errors
/// If it can't be started or upgraded.
pub fn run(who: Who, times: usize) -> Result<Vec<Row>> {
    let scratch = Scratch::new(PREFIX)?;
    let topology = Topology::build(PREFIX, 1)?;
    let address = topology::backend_socket(1);
    let _backend = Backend::start("one", Some(&topology.backends[0]), address)?;
    let mut proxy = Proxy::start(who, &topology, &scratch)?;
    let poller = |reuse| Poller::start(&topology.client, l7(), reuse);
    let kept = [poller(Reuse::KeepAlive)?, poller(Reuse::KeepAlive)?];
    let fresh = [poller(Reuse::Never)?, poller(Reuse::Never)?, poller(Reuse::Never)?];
    let uploads = [
        Client::start(&topology.client, Kind::Upload, l7())?,
        Client::start(&topology.client, Kind::Upload, l7())?,
    ];
    for _ in 0..times {
        std::thread::sleep(PAUSE);
        proxy.upgrade()?;
    }
    std::thread::sleep(PAUSE);
    let mut rows = Vec::new();
    for (kind, pollers) in [("kept connections", &kept[..]), ("new connections", &fresh)] {
        let samples: Vec<_> = pollers.iter().flat_map(Poller::samples).collect();
        let failed: Vec<_> = samples.iter().filter_map(|s| s.answer.as_ref().err()).collect();
        rows.push(Row {
            kind,
            done: (samples.len() - failed.len()) as u64,
            lost: failed.len() as u64,
            first: failed.first().map(ToString::to_string),
        });
    }
    let mut row = Row { kind: "uploads", done: 0, lost: 0, first: None };
    for client in uploads {
        let record = client.stop();
        row.done += record.done;
        row.lost += record.losses.len() as u64;
        row.first = row.first.or_else(|| Some(record.losses.first()?.why.clone()));
    }
    rows.push(row);
    Ok(rows)
}

/// A proxy that can be upgraded.
enum Proxy {
    Steerage(Daemon),
    Haproxy(Process),
    Nginx(Nginx),
}

/// nginx's masters, which go by their PID file: one that is not a daemon takes no upgrade.
struct Nginx(PathBuf);

impl Nginx {
    fn master(&self) -> Option<u32> {
        fs::read_to_string(&self.0).ok()?.trim().parse().ok()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let Some(master) = self.master() else { return };
        if let Ok(pid) = process::pid(master) {
            let _ = kill_process(pid, Signal::TERM);
            let ended = || !process::alive(master);
            let _ = wait::for_condition("nginx to end", daemon::PATIENCE, ended);
        }
    }
}

impl Proxy {
    fn start(who: Who, topology: &Topology, scratch: &Scratch) -> Result<Self> {
        let host = &topology.balancer;
        let backend = topology::backend_socket(1);
        let start = |program: &str, arguments: &[&str], file: &str, text: &str| -> Result<_> {
            let mut command = host.command(program);
            command.args(arguments).arg(scratch.write(file, text)?);
            let process = Process::spawn(program, command, &scratch.join("proxy.log"))?;
            netns::wait_for_port(host, l7(), daemon::PATIENCE)
                .with_context(|| format!("{program}: {}", process.log_tail(10)))?;
            Ok(process)
        };
        Ok(match who {
            Who::Steerage => {
                let text = format!(
                    "{}workers = 2\n[[listener]]\nname = \"web\"\nbind = [\"{}\"]\n\
                     protocol = \"http\"\n[[listener.route]]\nservice = \"app\"\n\
                     [[service]]\nname = \"app\"\n[[service.backend]]\naddress = \"{backend}\"\n",
                    daemon::global(scratch),
                    l7()
                );
                let config = scratch.write("steerage.toml", &text)?;
                let log = scratch.join("proxy.log");
                Self::Steerage(Daemon::serving(host, &daemon::binary()?, &config, &log)?)
            }
            Who::Haproxy => {
                let text = haproxy(Retry::Default, backend);
                Self::Haproxy(start("haproxy", &["-W", "-db", "-f"], "haproxy.cfg", &text)?)
            }
            Who::Nginx => {
                let text = nginx(Retry::Default, scratch, backend);
                let text = text.replace("daemon off;", "worker_processes 2;");
                let mut command = host.command(NGINX);
                command.arg("-c").arg(scratch.write("nginx.conf", &text)?);
                command::output(&mut command)?;
                let nginx = Nginx(scratch.join("nginx.pid"));
                netns::wait_for_port(host, l7(), daemon::PATIENCE)?;
                Self::Nginx(nginx)
            }
        })
    }

    fn upgrade(&mut self) -> Result<()> {
        match self {
            Self::Steerage(daemon) => daemon.upgrade(None).map(drop),
            Self::Haproxy(process) => {
                let workers = || process::children(process.pid());
                let former = workers();
                process.signal(Signal::USR2)?;
                wait::for_condition("another worker of haproxy's", daemon::PATIENCE, || {
                    workers().iter().any(|worker| !former.contains(worker))
                })
            }
            Self::Nginx(nginx) => {
                let former = nginx.master().context("nginx has no master")?;
                kill_process(process::pid(former)?, Signal::USR2)?;
                wait::for_condition("another master of nginx's", daemon::PATIENCE, || {
                    nginx
                        .master()
                        .is_some_and(|pid| pid != former && process::children(pid).len() == 2)
                })?;
                Ok(kill_process(process::pid(former)?, Signal::QUIT)?)
            }
        }
    }
}
