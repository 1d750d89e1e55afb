//! The worker processes: started, watched, started again, drained.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use steerage_common::limits::{SLOTS, WORKERS};
use steerage_common::slot::Slot;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use super::Error;
use super::handout::{Given, Handout};
use crate::region::{Fds, Region};
use crate::sys::{Account, confine, sealed_memory};
use crate::worker::Setup;

/// A worker that lives at least this long did not die of its start.
const STEADY: Duration = Duration::from_millis(5500);

/// Deaths in a row, each within [`STEADY`] of the start, after which a worker is given up.
const DEATHS_MAX: u32 = 5;

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// Finishing what is begun.
    Draining,
    /// Stopping at once.
    Killing,
}

/// One worker's place, kept for its successors.
#[derive(Debug)]
pub struct Post {
    /// The worker's number, from 0.
    pub number: usize,
    /// Its line in the region.
    pub line: usize,
    /// How many workers there are.
    pub workers: usize,
    /// The supervisor's epoch.
    pub epoch: u32,
    /// What it is to serve.
    pub handouts: watch::Receiver<Arc<Handout>>,
    /// The latest that it said it serves.
    pub served: watch::Sender<u64>,
    /// The region.
    pub fds: Arc<Fds>,
    /// The region, to clear the line of a dead worker.
    pub region: Arc<Region>,
    /// Who it runs as.
    pub account: Option<Account>,
    /// Where it runs.
    pub cpu: Option<usize>,
}

/// Keeps one post filled until the phase says otherwise. Sends the number when its worker serves for
/// the first time; ends early, with an error, if the first worker dies before that.
///
/// # Errors
/// If no worker can be started, or the first one dies before it serves.
pub async fn keep(
    mut post: Post,
    mut phase: watch::Receiver<Phase>,
    ready: mpsc::Sender<usize>,
) -> Result<(), Error> {
    let mut ready = Some(ready);
    let mut early_deaths = 0;
    loop {
        let started = Instant::now();
        let number = post.number;
        let failed = |source| Error::Spawn { worker: number, source };
        let handout = post.handouts.borrow_and_update().clone();
        let (mut child, mut control) = spawn(&post, &handout).map_err(failed)?;
        let given = Given::at_start(post.number, &handout);
        // A configuration that is replaced must not hold its sockets open.
        drop(handout);
        let end = tokio::select! {
            status = child.wait() => End::Death(status.map_err(failed)?),
            () = serve(&mut control, &mut ready, &mut post, given) => End::Useless,
            _ = phase.wait_for(|phase| *phase > Phase::Running) => End::Phase,
        };
        let status = match end {
            End::Death(status) => status,
            End::Useless => {
                // It would serve what nobody wants any more; its successor starts with the latest.
                let _ = child.start_kill();
                child.wait().await.map_err(failed)?
            }
            End::Phase => {
                // The worker's copies are the last then: it empties their queues and closes them.
                post.handouts.borrow().listening.leave(post.number);
                stop(&mut child, &mut control, &post, &mut phase).await;
                vacate(&post);
                return Ok(());
            }
        };
        vacate(&post);
        if ready.is_some() {
            return Err(Error::WorkerStart { worker: post.number, status: status.to_string() });
        }
        early_deaths = if started.elapsed() < STEADY { early_deaths + 1 } else { 0 };
        if early_deaths >= DEATHS_MAX {
            error!(
                worker = post.number,
                %status,
                "worker died {DEATHS_MAX} times right after its start: given up; the others serve on"
            );
            return Ok(());
        }
        report_death(&post, status);
        // At once for the first time, then with growing pauses.
        let pause = Duration::from_millis(50) * (early_deaths.saturating_sub(1));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = phase.wait_for(|phase| *phase > Phase::Running) => return Ok(()),
        }
    }
}

/// Why a worker is served no longer.
enum End {
    Death(ExitStatus),
    /// It can't be given its configuration.
    Useless,
    Phase,
}

fn report_death(post: &Post, status: ExitStatus) {
    warn!(worker = post.number, %status, "worker died: its successor takes its sockets over");
}

/// Hears the worker and hands it each new configuration, until that is impossible.
async fn serve(
    control: &mut tokio::net::UnixStream,
    ready: &mut Option<mpsc::Sender<usize>>,
    post: &mut Post,
    mut given: Given,
) {
    let mut byte = [0; 1];
    loop {
        tokio::select! {
            heard = control.read(&mut byte) => {
                if !matches!(heard, Ok(1)) {
                    // The end of the control socket is followed by the process's own end.
                    return std::future::pending().await;
                }
                if let Some(number) = given.answered() {
                    post.served.send_replace(number);
                }
                if byte[0] == crate::worker::READY {
                    info!(worker = post.number, "worker serves");
                    if let Some(ready) = ready.take() {
                        // The receiver is gone only when the daemon stops.
                        let _ = ready.send(post.number).await;
                    }
                }
            }
            Ok(()) = post.handouts.changed() => {
                let handout = post.handouts.borrow_and_update().clone();
                if let Err(error) = given.give(control, &handout).await {
                    error!(worker = post.number, %error, "worker cannot be given its configuration");
                    return;
                }
            }
        }
    }
}

async fn stop(
    child: &mut Child,
    control: &mut tokio::net::UnixStream,
    post: &Post,
    phase: &mut watch::Receiver<Phase>,
) {
    let _ = control.write_all(&[crate::worker::DRAIN]).await;
    // The worker keeps the time itself; this is for one that hangs.
    let drain = post.handouts.borrow().plan.placed.model.global.drain;
    let patience = drain + Duration::from_secs(1);
    tokio::select! {
        _ = child.wait() => return,
        () = tokio::time::sleep(patience) => {
            warn!(worker = post.number, "worker did not finish in time: killed");
        }
        _ = phase.wait_for(|phase| *phase == Phase::Killing) => {}
    }
    let _ = child.kill().await;
}

/// Clears what a dead worker left in its line: it has no connections and no requests any more.
fn vacate(post: &Post) {
    clear_line(&post.region, post.line);
}

/// Clears a worker's line and gauges; counters stay. From the first store on the kernel sends the
/// worker no more connections.
pub fn clear_line(region: &Region, line: usize) {
    region.set_live(line, false);
    let worker = region.worker(line);
    worker.connections.store(0, Ordering::Relaxed);
    worker.active_requests.store(0, Ordering::Relaxed);
    worker.busy_since_us.store(0, Ordering::Relaxed);
    worker.full.store(0, Ordering::Relaxed);
    worker.pending.store(0, Ordering::Relaxed);
    for slot in (0..SLOTS as u16).filter_map(Slot::new) {
        let cell = region.cell(line, slot);
        cell.active.store(0, Ordering::Relaxed);
        cell.idle.store(0, Ordering::Relaxed);
        cell.connections.store(0, Ordering::Relaxed);
        cell.tunnels.store(0, Ordering::Relaxed);
    }
    worker.pid.store(0, Ordering::Release);
}

/// `count` lines that no living worker of an earlier daemon uses; if there are not so many, as when
/// several daemons died in quick succession, the last ones are shared with workers that drain.
#[must_use]
pub fn free_lines(region: &Region, count: usize) -> Vec<usize> {
    let is_used = |line: &usize| {
        let pid = region.worker(*line).pid.load(Ordering::Relaxed);
        pid != 0 && std::path::Path::new(&format!("/proc/{pid}")).exists()
    };
    let (used, free): (Vec<_>, Vec<_>) = (0..region.cell_workers().min(WORKERS)).partition(is_used);
    free.into_iter().chain(used).take(count).collect()
}

/// Starts one worker process.
fn spawn(post: &Post, handout: &Handout) -> io::Result<(Child, tokio::net::UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let setup = Setup {
        id: post.line,
        seat: post.line,
        workers: post.workers,
        cell_workers: post.region.cell_workers(),
        plan: handout.plan.clone(),
        supervisor_epoch: post.epoch,
    };
    let setup = sealed_memory("steerage-setup", &serde_json::to_vec(&setup)?)?;
    let sockets = handout.listening.of_worker(post.number, |_| true)?;
    let mut keep: Vec<BorrowedFd<'_>> = vec![setup.as_fd(), theirs.as_fd()];
    keep.extend(post.fds.all());
    keep.extend(sockets.iter().map(AsFd::as_fd));
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(format!("steerage worker {}", post.number))
        .arg("worker")
        .arg(format!("--setup={}", setup.as_raw_fd()))
        .arg(format!("--control={}", theirs.as_raw_fd()))
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
