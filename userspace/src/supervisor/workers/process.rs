//! One worker process: started, heard, handed configurations, ended.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use steerage_common::start::Start;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Child;
use tokio::sync::watch;
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use super::pulse::{self, Pulse};
use super::wear::{self, Wear};
use super::{Phase, Post, lines};
use crate::config::model::Global;
use crate::region;
use crate::supervisor::handout::{Given, Handout};
use crate::sys::confine::confine;
use crate::sys::sealed_memory;
use crate::worker::{self, Setup};

/// Between two looks at a worker's age and memory.
const WEAR_INTERVAL: Duration = Duration::from_secs(1);

/// How long a worker is left as it is after its successor did not get to serve.
const REST: Duration = Duration::from_secs(60);

/// A worker process of a post.
#[derive(Debug)]
pub struct Process {
    /// Its line in the region.
    pub line: usize,
    /// When it was started.
    pub started: Instant,
    child: Child,
    control: tokio::net::UnixStream,
    has_hung_up: bool,
    given: Given,
    handouts: watch::Receiver<Arc<Handout>>,
    pulse: Pulse,
    looked: Instant,
    next_wear: Instant,
}

/// What happens to a worker process.
#[derive(Debug)]
pub enum Event {
    /// It serves.
    Serves,
    /// It has ended.
    Ended(ExitStatus),
    /// It can't be given its configuration: it would serve what nobody wants any more.
    Useless,
    /// Nothing has been heard of it for so long.
    Hung(Duration),
    /// It has served long enough.
    Worn(Wear),
}

impl Process {
    /// Starts a process at a post, with a line that nobody else has, for this cause.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn start(post: &Post, line: usize, cause: Start) -> io::Result<Self> {
        let mut handouts = post.handouts.clone();
        let handout = handouts.borrow_and_update().clone();
        let (child, control) = spawn(post, line, &handout)?;
        // The line is its own from now on, before it has come to say so itself.
        let own = post.region.worker(line);
        own.pid.store(child.id().unwrap_or(0), Ordering::Relaxed);
        own.started_ms.store(crate::clock::now_ms(), Ordering::Relaxed);
        region::add(&own.starts[cause as usize], 1);
        let (started, given) = (Instant::now(), Given::at_start(post.number, &handout));
        // A configuration that is replaced must not hold its sockets open.
        drop(handout);
        Ok(Self {
            line,
            started,
            child,
            control,
            has_hung_up: false,
            given,
            handouts,
            pulse: Pulse::default(),
            looked: started,
            next_wear: started,
        })
    }

    /// Hands the worker each new configuration until something happens.
    ///
    /// # Errors
    /// If the system does not tell how the process ended.
    pub async fn attend(&mut self, post: &Post) -> io::Result<Event> {
        let mut byte = [0; 1];
        loop {
            let hang = self.global(|global| global.worker_hang);
            let interval = pulse::interval(hang.unwrap_or_default());
            tokio::select! {
                status = self.child.wait() => return Ok(Event::Ended(status?)),
                heard = self.control.read(&mut byte), if !self.has_hung_up => {
                    if !matches!(heard, Ok(1)) {
                        // The process's own end follows.
                        self.has_hung_up = true;
                        continue;
                    }
                    if let Some(number) = self.given.answered() {
                        post.served.send_modify(|served| *served = number.max(*served));
                    }
                    if byte[0] == worker::READY {
                        info!(worker = post.number, "worker serves");
                        return Ok(Event::Serves);
                    }
                }
                Ok(()) = self.handouts.changed() => {
                    let handout = self.handouts.borrow_and_update().clone();
                    if let Err(error) = self.given.give(&self.control, &handout).await {
                        error!(worker = post.number, %error, "worker cannot be given its configuration");
                        return Ok(Event::Useless);
                    }
                }
                () = tokio::time::sleep_until((self.looked + interval).into()), if hang.is_some() => {
                    let beat = post.region.worker(self.line).heartbeat_ms.load(Ordering::Relaxed);
                    let silent = self.pulse.look(beat, self.looked.elapsed(), interval);
                    self.looked = Instant::now();
                    if hang.is_some_and(|hang| silent >= hang) {
                        return Ok(Event::Hung(silent));
                    }
                }
                () = tokio::time::sleep_until(self.next_wear.into()) => {
                    self.next_wear = Instant::now() + WEAR_INTERVAL;
                    if let Some(wear) = self.wear(post) {
                        return Ok(Event::Worn(wear));
                    }
                }
            }
        }
    }

    fn global<T>(&self, read: impl FnOnce(&Global) -> T) -> T {
        read(&self.handouts.borrow().plan.placed.model.global)
    }

    fn wear(&self, post: &Post) -> Option<Wear> {
        let limits = self.global(|global| wear::Limits {
            lifetime: global.worker_lifetime,
            memory: global.worker_memory,
        });
        let memory = limits.memory.and(self.child.id()).and_then(wear::memory).unwrap_or(0);
        limits.exceeded((post.number, post.workers), self.started.elapsed(), memory)
    }

    /// Does not ask whether it has served long enough for a while.
    pub fn rest(&mut self) {
        self.next_wear = Instant::now() + REST;
    }

    /// Ends the process at once. The kernel sends it nothing from before that.
    ///
    /// # Errors
    /// If the system does not tell how it ended.
    pub async fn kill(&mut self, post: &Post) -> io::Result<ExitStatus> {
        post.region.set_live(self.line, false);
        let _ = self.child.start_kill();
        self.child.wait().await
    }

    /// Has the worker finish what it is at, and clears its line. `order` is [`worker::DRAIN`] or
    /// [`worker::RETIRE`].
    pub async fn finish(mut self, order: u8, post: &Post, phase: &mut watch::Receiver<Phase>) {
        post.region.set_live(self.line, false);
        let _ = self.control.write_all(&[order]).await;
        // The worker keeps the time itself; this is for one that hangs.
        let patience = self.global(|global| global.drain) + Duration::from_secs(1);
        let has_ended = tokio::select! {
            _ = self.child.wait() => true,
            () = tokio::time::sleep(patience) => {
                warn!(worker = post.number, "worker did not finish in time: killed");
                false
            }
            _ = phase.wait_for(|phase| *phase == Phase::Killing) => false,
        };
        if !has_ended {
            let _ = self.child.kill().await;
        }
        lines::clear(&post.region, self.line);
    }
}

fn spawn(
    post: &Post,
    line: usize,
    handout: &Handout,
) -> io::Result<(Child, tokio::net::UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let setup = Setup {
        id: line,
        seat: post.seat,
        workers: post.workers,
        cell_workers: post.region.cell_workers(),
        plan: handout.plan.clone(),
        supervisor_epoch: post.epoch,
    };
    // It holds keys.
    let setup = Zeroizing::new(serde_json::to_vec(&setup)?);
    let setup = sealed_memory("steerage-setup", &setup)?;
    let sockets = handout.listening.of_worker(post.number, |_| true)?;
    let log = post.access.connect()?;
    let mut keep: Vec<BorrowedFd<'_>> = vec![setup.as_fd(), theirs.as_fd(), log.as_fd()];
    keep.extend(post.fds.all());
    keep.extend(sockets.iter().map(AsFd::as_fd));
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(format!("steerage worker {}", post.number))
        .arg("worker")
        .arg(format!("--setup={}", setup.as_raw_fd()))
        .arg(format!("--control={}", theirs.as_raw_fd()))
        .arg(format!("--log={}", log.as_raw_fd()))
        .arg(format!("--region={}", joined(post.fds.all().iter().map(AsRawFd::as_raw_fd))));
    if !sockets.is_empty() {
        command.arg(format!("--sockets={}", joined(sockets.iter().map(AsRawFd::as_raw_fd))));
    }
    confine(&mut command, post.account, post.cpu, &keep);
    let child = tokio::process::Command::from(command).kill_on_drop(false).spawn()?;
    Ok((child, tokio::net::UnixStream::from_std(ours)?))
}

fn joined(items: impl Iterator<Item = impl ToString>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}
