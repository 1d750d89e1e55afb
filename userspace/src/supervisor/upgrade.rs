//! Another binary in this one's place, and nobody notices.
//!
//! This daemon starts the other one and hands over ([`super::handover`]); it goes on with everything until
//! the other one's workers serve, and then has its own workers finish what they are at. If the other one
//! does not get ready, what it may have changed in the kernel is put right again.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use steerage_common::abi::SCHEMA_VERSION;
use tokio::process::{Child, Command};
use tracing::{error, info, warn};

use super::Error;
use super::claim::Claim;
use super::handover::{self, GO, Inheritance, Memory, Open, READY, State, Word};
use super::plane::Plane;
use super::steward::Steward;
use crate::config::Model;
use crate::region::Fds;

/// How long a daemon that did not get ready may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Copies of what the daemon that follows is given, beside the listening sockets.
#[derive(Debug)]
pub struct Doors {
    pid_file: File,
    admin: UnixListener,
    region: Arc<Fds>,
    worker_lines: usize,
    is_memory: bool,
}

impl Doors {
    /// Makes the copies.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn copy(claim: &Claim, admin: &UnixListener, plane: &Plane) -> io::Result<Self> {
        Ok(Self {
            pid_file: claim.file().try_clone()?,
            admin: admin.try_clone()?,
            region: plane.fds.clone(),
            worker_lines: plane.region.cell_workers(),
            is_memory: plane.kernel.is_none(),
        })
    }
}

/// A daemon that is ready to follow.
#[derive(Debug)]
pub struct Succession {
    /// Its process.
    pub pid: u32,
    channel: UnixStream,
}

impl Succession {
    /// Lets it go: this daemon does nothing any more that it does.
    pub fn go(&self) {
        // If it is gone nobody serves new clients: the workers that finish are the last.
        if let Err(error) = (&self.channel).write_all(&[GO]) {
            error!(pid = self.pid, %error, "the daemon that follows is gone");
        }
        info!(pid = self.pid, "followed: workers finish what they have begun");
    }
}

impl Steward {
    /// Starts `binary`, or the one that this daemon was started from, and waits until it is ready.
    pub(super) async fn upgrade(&mut self, binary: Option<PathBuf>) -> Result<Succession, Error> {
        let binary = binary.unwrap_or_else(|| self.binary.clone());
        info!(binary = %binary.display(), "upgrade");
        let generation = self.view.region.generation();
        match self.start_next(&binary).await {
            Ok(succession) => Ok(succession),
            Err(why) => {
                error!(binary = %binary.display(), why, "upgrade failed: this daemon serves on");
                self.restore(generation).await;
                Err(Error::Upgrade { binary, why })
            }
        }
    }

    async fn start_next(&self, binary: &Path) -> Result<Succession, String> {
        let failed = |error: io::Error| format!("cannot be handed over to: {error}");
        let timeout = self.view.in_force().model.global.upgrade_timeout;
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_read_timeout(Some(timeout)).map_err(failed)?;
        ours.set_write_timeout(Some(timeout)).map_err(failed)?;
        let channel = ours.try_clone().map_err(failed)?;
        let mut command = Command::new(binary);
        command.args(["run", "--inherit", "-c"]).arg(&self.source.path);
        command.args(self.source.overrides.arguments());
        command.stdin(Stdio::from(OwnedFd::from(theirs))).kill_on_drop(false);
        // The watchdog is for whichever process serves.
        command.env_remove("WATCHDOG_PID");
        let mut child = command.spawn().map_err(|error| format!("cannot be started: {error}"))?;
        // Its end of the channel is its own now: it ends with it.
        drop(command);
        let (state, sockets) = self.will().map_err(failed)?;
        let doors = self.doors.clone();
        let metrics = self.metrics.borrow().clone();
        let talk = tokio::task::spawn_blocking(move || {
            let open = Open {
                pid_file: doors.pid_file.as_fd(),
                admin: doors.admin.as_fd(),
                metrics: metrics.as_deref().map(TcpListener::as_fd),
                region: &doors.region,
                sockets: sockets.iter().map(TcpListener::as_fd).collect(),
            };
            // Who does not listen says why.
            let _ = handover::send(&ours, &state, &open);
            handover::hear(&ours)
        });
        let why = match talk.await {
            Ok(Word::Ready) => {
                let pid = child.id().unwrap_or(0);
                return Ok(Succession { pid, channel });
            }
            Ok(Word::Failed(why)) => why,
            Ok(Word::Silent) => format!("not ready after {timeout:?}"),
            Ok(Word::Gone) | Err(_) => match tokio::time::timeout(END_PATIENCE, child.wait()).await
            {
                Ok(Ok(status)) => {
                    format!("ended ({status}) before it was ready; the log has what it said")
                }
                _ => "broke off before it was ready".to_owned(),
            },
        };
        self.end(&mut child).await;
        Err(why)
    }

    /// What the next daemon is told, and copies of the listening sockets.
    fn will(&self) -> io::Result<(State, Vec<TcpListener>)> {
        let now = self.view.in_force();
        let global = &now.model.global;
        let passed = self.handouts.borrow().listening.pass_on(&now.model)?;
        let (told, sockets) = passed.into_iter().unzip();
        let state = State {
            version: env!("CARGO_PKG_VERSION").into(),
            schema_version: SCHEMA_VERSION,
            instance: global.instance.clone(),
            pid: std::process::id(),
            pid_file: global.pid_file.clone(),
            admin: global.admin.clone(),
            metrics: global.metrics,
            worker_lines: self.doors.worker_lines,
            is_memory: self.doors.is_memory,
            seats: self.seats.clone(),
            reloads: self.view.reloads(),
            sockets: told,
        };
        Ok((state, sockets))
    }

    /// Ends a daemon that did not get ready, and the workers that it may have.
    async fn end(&self, child: &mut Child) {
        if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid as i32)) {
            // The second one ends it at once, together with its workers.
            for _ in 0..2 {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        if tokio::time::timeout(END_PATIENCE, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
        let region = &self.view.region;
        for line in 0..region.cell_workers() {
            let worker = region.worker(line);
            let epoch = worker.supervisor_epoch.load(Ordering::Relaxed);
            let pid = worker.pid.load(Ordering::Relaxed);
            let is_theirs = epoch == self.view.supervisor_epoch.wrapping_add(1);
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if is_theirs && comm.trim() == "steerage-worker" {
                region.set_live(line, false);
                if let Some(pid) = Pid::from_raw(pid as i32) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
        }
    }

    /// Puts right what a daemon that did not get ready may have changed. It publishes before it touches
    /// anything else.
    async fn restore(&mut self, generation: u64) {
        let view = self.view.clone();
        if view.region.generation() == generation {
            return;
        }
        view.region.control().supervisor_pid.store(std::process::id(), Ordering::Relaxed);
        let now = view.in_force();
        if let Some(kernel) = &view.kernel {
            let mut locked = kernel.lock().unwrap_or_else(PoisonError::into_inner);
            for interface in now.links.keys() {
                if let Err(error) = locked.attach(interface, &[]) {
                    warn!(interface, %error, "the program of the failed upgrade may be on this link");
                }
            }
            drop(locked);
            let listening = self.handouts.borrow().listening.clone();
            listening.unsteer();
            listening.steer(kernel, &self.seats);
        }
        if let Err(error) = self.put_in_force(&view, &now, now.model.clone(), &view.stock()).await {
            error!(%error, "the tables are those of the failed upgrade until the next reload");
        }
    }
}

impl Inheritance {
    /// The claim to the instance.
    ///
    /// # Errors
    /// If `model` is of another instance, or names another PID file which somebody holds.
    pub fn claim(&self, model: &Model) -> Result<Claim, Error> {
        let global = &model.global;
        if global.instance != self.state.instance {
            let (asked, running) = (global.instance.clone(), self.state.instance.clone());
            return Err(Error::OtherInstance { asked, running });
        }
        if global.pid_file != self.state.pid_file {
            return Claim::take(&global.pid_file);
        }
        let file = self.pid_file.try_clone().map_err(|source| Error::Handover { source })?;
        Ok(Claim::inherited(file, &global.pid_file))
    }

    /// What of the region is plain memory, if that has so many lines for workers.
    pub fn memory(&mut self, worker_lines: usize) -> Option<Memory> {
        self.memory.take().filter(|_| self.state.worker_lines == worker_lines)
    }

    /// Says that this daemon is ready, and waits until the former one has let go, or is gone.
    pub async fn follow(&self) {
        info!(pid = self.state.pid, version = self.state.version, "ready to follow");
        let Ok(channel) = self.channel.try_clone() else { return };
        let wait = tokio::task::spawn_blocking(move || {
            let mut channel = &channel;
            channel.write_all(&[READY])?;
            let mut byte = [0];
            io::Read::read(&mut channel, &mut byte)
        });
        let _ = wait.await;
    }

    /// Removes what the former daemon has at other places than this one.
    pub fn remove_others(&self, model: &Model) {
        let global = &model.global;
        for (theirs, ours) in
            [(&self.state.pid_file, &global.pid_file), (&self.state.admin, &global.admin)]
        {
            if theirs != ours {
                let _ = std::fs::remove_file(theirs);
            }
        }
    }
}

/// The admin socket's name, removed when the daemon that holds it ends.
#[derive(Debug)]
pub struct AdminPath {
    path: PathBuf,
    is_held: bool,
}

impl AdminPath {
    /// The name that the model gives; still another's, if it is that of the daemon that is followed.
    #[must_use]
    pub fn new(model: &Model, former: Option<&Inheritance>) -> Self {
        let path = model.global.admin.clone();
        let is_held = former.is_none_or(|former| former.state.admin != path);
        Self { path, is_held }
    }

    /// Makes it this daemon's.
    pub fn hold(&mut self) {
        self.is_held = true;
    }

    /// Leaves it to the daemon that follows.
    pub fn pass_on(&mut self) {
        self.is_held = false;
    }
}

impl Drop for AdminPath {
    fn drop(&mut self) {
        if self.is_held {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
