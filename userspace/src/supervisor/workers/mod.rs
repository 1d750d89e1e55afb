//! The worker processes: started, watched, started again, replaced, drained.
//!
//! A worker that ends is followed by another one on the same sockets, with the connections that wait in
//! them. In every case the worker's live bit is cleared first, so that the kernel sends it nothing
//! more. One that hangs is killed. One that has served long enough ([`wear`]) is followed before it ends:
//! its successor accepts from the same sockets, and only then it finishes what it is at. One that dies
//! again and again right after its start is given up, and its sockets with it, so that what waits in
//! them moves to the other workers.

mod lines;
mod process;
mod pulse;
mod usage;
mod wear;

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use steerage_common::start::Start;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::Error;
use super::access::Tap;
use super::handout::Handout;
use crate::region::{Fds, Region};
use crate::sys::Account;
use crate::worker::{DRAIN, RETIRE};

pub use lines::{Lines, seats};
use process::{Event, Process};
pub use usage::usage;
use wear::Wear;

/// A worker that lives at least this long did not die of its start.
const STEADY: Duration = Duration::from_millis(5500);

/// Deaths in a row, each within [`STEADY`] of the start, after which a worker is given up.
const DEATHS_MAX: u32 = 5;

/// What each of those adds to the pause before the next start.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a successor may take to serve.
const START_PATIENCE: Duration = Duration::from_secs(10);

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

/// Between two looks for dead workers of former daemons.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Clears what workers of former daemons leave as they end, for ever.
pub async fn sweep(lines: Arc<Lines>) {
    let mut looks = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        looks.tick().await;
        lines.sweep();
    }
}

/// One worker's place, kept for its successors.
#[derive(Debug)]
pub struct Post {
    /// The worker's number, from 0.
    pub number: usize,
    /// The first worker's line in the region.
    pub line: usize,
    /// The place of its sockets in the kernel's table.
    pub seat: usize,
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
    /// Lines for successors.
    pub lines: Arc<Lines>,
    /// Held while a successor starts beside its predecessor: one at a time.
    pub turnover: Arc<Semaphore>,
    /// Takes its workers' lines about requests.
    pub access: Tap,
    /// Who it runs as.
    pub account: Option<Account>,
    /// Where it runs.
    pub cpu: Option<usize>,
}

/// Keeps one post filled until the phase says otherwise. Sends the number when its worker serves for
/// the first time; ends early, with an error, if the first worker dies before that, and without one if
/// workers die again and again.
///
/// # Errors
/// If the first worker can't be started, or dies before it serves.
pub async fn keep(
    post: Arc<Post>,
    mut phase: watch::Receiver<Phase>,
    ready: mpsc::Sender<usize>,
) -> Result<(), Error> {
    let mut ready = Some(ready);
    let mut line = post.line;
    let mut deaths = Deaths::default();
    let mut cause = Start::First;
    // Those who finish what they are at while their successor serves.
    let mut retired = JoinSet::new();
    loop {
        let tried = Instant::now();
        let (end, started) = match Process::start(&post, line, cause) {
            Ok(process) => serve(&post, process, &mut retired, &mut phase, &mut ready).await,
            Err(source) => (Err(source), tried),
        };
        let why = match end {
            Ok(End::Phase(process)) => {
                // The worker's copies are the last then: it empties their queues and closes them.
                post.handouts.borrow().listening.leave(post.number);
                process.finish(DRAIN, &post, &mut phase).await;
                break;
            }
            Ok(End::Death { line: last, death }) => {
                (line, cause) = (last, death.next);
                death.why
            }
            Err(source) => {
                let worker = post.number;
                if ready.is_some() {
                    return Err(Error::Spawn { worker, source });
                }
                format!("cannot be started: {source}")
            }
        };
        lines::clear(&post.region, line);
        if ready.is_some() {
            return Err(Error::WorkerStart { worker: post.number, status: why });
        }
        let Some(pause) = deaths.note(started.elapsed()) else {
            error!(
                worker = post.number,
                why,
                "worker died {DEATHS_MAX} times right after its start: given up until the daemon is \
                 restarted; the others serve on"
            );
            // What waits in them moves to the others.
            post.handouts.borrow().listening.leave(post.number);
            break;
        };
        warn!(worker = post.number, why, "worker died: its successor takes its sockets over");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = phase.wait_for(|phase| *phase > Phase::Running) => break,
        }
    }
    while retired.join_next().await.is_some() {}
    Ok(())
}

/// How a process ended.
struct Death {
    /// Why the next one is started.
    next: Start,
    why: String,
}

/// How serving ends.
enum End {
    /// The line is free for the next one.
    Death { line: usize, death: Death },
    /// The daemon stops.
    Phase(Box<Process>),
}

/// Attends to a worker, and to its successors, until one ends; gives when that one was started, too.
async fn serve(
    post: &Arc<Post>,
    mut process: Process,
    retired: &mut JoinSet<()>,
    phase: &mut watch::Receiver<Phase>,
    ready: &mut Option<mpsc::Sender<usize>>,
) -> (std::io::Result<End>, Instant) {
    loop {
        let event = tokio::select! {
            event = process.attend(post) => event,
            _ = phase.wait_for(|phase| *phase > Phase::Running) => {
                let started = process.started;
                return (Ok(End::Phase(Box::new(process))), started);
            }
        };
        let death = match event {
            Ok(Event::Serves) => {
                if let Some(ready) = ready.take() {
                    // The receiver is gone only when the daemon stops.
                    let _ = ready.send(post.number).await;
                }
                continue;
            }
            Ok(Event::Worn(wear)) => {
                while retired.try_join_next().is_some() {}
                if retired.is_empty() {
                    process = turn_over(post, process, wear, retired, phase).await;
                }
                continue;
            }
            other => end(post, &mut process, other).await,
        };
        let end = death.map(|death| End::Death { line: process.line, death });
        return (end, process.started);
    }
}

/// Sees to it that a process that serves no longer is gone; gives why.
async fn end(
    post: &Post,
    process: &mut Process,
    event: std::io::Result<Event>,
) -> std::io::Result<Death> {
    let (next, why) = match event? {
        Event::Ended(status) if status.signal().is_some() => (Start::Killed, told(status)),
        Event::Ended(status) => (Start::Exited, told(status)),
        Event::Hung(silent) => {
            let status = process.kill(post).await?;
            let silent = silent.as_secs_f64();
            (Start::Hung, format!("hung: nothing was heard of it for {silent:.1} s ({status})"))
        }
        Event::Useless | Event::Serves | Event::Worn(_) => {
            (Start::Unconfigured, process.kill(post).await?.to_string())
        }
    };
    Ok(Death { next, why })
}

/// How a process ended, with what only a worker's end can mean.
fn told(status: ExitStatus) -> String {
    let why = match status.signal().map(Signal::from_named_raw) {
        Some(Some(Signal::SYS)) => {
            "; it was ended for a system call that a filter on this host forbids: the container's or the \
             service manager's, as its own filter only refuses"
        }
        Some(Some(Signal::KILL)) => {
            "; somebody killed it, or the kernel did for want of memory: `dmesg` tells"
        }
        _ => "",
    };
    format!("{status}{why}")
}

/// Starts a successor beside a worker, and has the worker finish when the successor serves. Gives the one
/// that serves the post from now on.
async fn turn_over(
    post: &Arc<Post>,
    mut old: Process,
    wear: Wear,
    retired: &mut JoinSet<()>,
    phase: &mut watch::Receiver<Phase>,
) -> Process {
    // Asked again in a second.
    let Ok(_turn) = post.turnover.try_acquire() else { return old };
    let Some(line) = post.lines.claim() else { return old };
    info!(worker = post.number, %wear, "worker is replaced");
    let started = Process::start(post, line, wear.start());
    let patience = tokio::time::sleep(START_PATIENCE);
    tokio::pin!(patience);
    let mut next = match started {
        Ok(next) => next,
        Err(error) => {
            warn!(worker = post.number, %error, "no successor can be started: the worker stays");
            post.lines.give_back(line);
            old.rest();
            return old;
        }
    };
    let failure = loop {
        let turn = tokio::select! {
            event = next.attend(post) => Turn::Next(event),
            event = old.attend(post) => Turn::Old(event),
            () = &mut patience => Turn::Late,
            _ = phase.wait_for(|phase| *phase > Phase::Running) => Turn::Stop,
        };
        match turn {
            Turn::Next(Ok(Event::Serves)) => break None,
            Turn::Next(Ok(Event::Worn(_))) | Turn::Old(Ok(Event::Worn(_) | Event::Serves)) => {}
            Turn::Next(event) => {
                let death = end(post, &mut next, event).await;
                break Some(death.map_or_else(|error| error.to_string(), |death| death.why));
            }
            Turn::Old(event) => {
                let _ = end(post, &mut old, event).await;
                post.lines.give_back(old.line);
                return next;
            }
            Turn::Late => break Some(format!("not ready after {START_PATIENCE:?}")),
            Turn::Stop => break Some("the daemon stops".into()),
        }
    };
    if let Some(why) = failure {
        warn!(worker = post.number, why, "its successor does not serve: the worker stays");
        let _ = next.kill(post).await;
        post.lines.give_back(line);
        old.rest();
        return old;
    }
    let (post, mut phase) = (post.clone(), phase.clone());
    retired.spawn(async move {
        let line = old.line;
        old.finish(RETIRE, &post, &mut phase).await;
        post.lines.give_back(line);
    });
    next
}

/// What happens while a successor starts.
enum Turn {
    Next(std::io::Result<Event>),
    Old(std::io::Result<Event>),
    Late,
    Stop,
}

/// Deaths of a post's workers in a row, each right after the start.
#[derive(Debug, Default)]
struct Deaths(u32);

impl Deaths {
    /// Notes the death of a worker that lived so long; gives the pause before the next start, none for the
    /// first. `None` if there is to be no next one.
    fn note(&mut self, lived: Duration) -> Option<Duration> {
        self.0 = if lived < STEADY { self.0 + 1 } else { 0 };
        (self.0 < DEATHS_MAX).then(|| PAUSE * self.0.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_deaths_in_a_row_are_enough_and_a_steady_worker_forgives_them() {
        let soon = Duration::from_millis(5499);
        let mut deaths = Deaths::default();
        for _ in 0..3 {
            for pause in [0, 50, 100, 150] {
                assert_eq!(deaths.note(soon), Some(Duration::from_millis(pause)));
            }
            assert_eq!(deaths.note(STEADY), Some(Duration::ZERO));
        }
        for _ in 0..4 {
            assert!(deaths.note(soon).is_some());
        }
        assert_eq!(deaths.note(soon), None);
    }
}
