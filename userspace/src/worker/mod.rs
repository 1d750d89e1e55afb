//! A worker process: one thread, one event loop, its share of the clients.
//!
//! What it is told comes from the supervisor: a [`Setup`] at its start, and afterwards orders over one
//! control socket, a byte each. [`SOCKETS`] brings listening sockets (their descriptors come with it),
//! [`PLAN`] a new configuration ([`Plan`], in memory whose descriptor comes with it), which the worker
//! puts in force in its own process and answers with [`TAKEN`]. [`DRAIN`] ends it, after the requests and
//! tunnels it is at or `global.drain`; [`RETIRE`] does so when its successor has the same sockets. The socket's end means that the supervisor died: the worker goes on serving,
//! until another supervisor's workers are ready, which it sees by the epoch in the control line.
//!
//! Accepting stops while all permits are taken (`global.max_connections`, split evenly over the
//! workers), so that connections wait in the kernel's queue or go to another worker.

mod accept;
mod permit;
mod plan;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use steerage_common::latency::bucket;

use crate::access::Log;
use crate::l7::House;
use crate::net;
use crate::region::{Region, add};
use crate::sys::confine::{Otherwise, forbid};

pub use plan::{Plan, Socket};
use plan::{Queue, Serving};

/// What a worker says when it accepts connections.
pub const READY: u8 = b'R';

/// What a worker says when a new configuration is in force.
pub const TAKEN: u8 = b'T';

/// What a worker is told to make it drain.
pub const DRAIN: u8 = b'D';

/// What a worker is told to make it drain when its successor accepts from the same sockets.
pub const RETIRE: u8 = b'E';

/// Brings listening sockets for the next [`PLAN`].
pub const SOCKETS: u8 = b'S';

/// Brings a new configuration.
pub const PLAN: u8 = b'P';

/// How often a worker looks whether another supervisor has taken over.
const SUCCESSION_INTERVAL: Duration = Duration::from_secs(1);

/// What becomes of a system call that a worker does not need.
const OTHERWISE: Otherwise = if cfg!(test) { Otherwise::Kills } else { Otherwise::Fails };

/// What a worker is told at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// The worker's line in the region.
    pub id: usize,
    /// Its place in the kernel's table of listening sockets.
    pub seat: usize,
    /// How many workers share the limits of the configuration.
    pub workers: usize,
    /// How many workers the region's cells have room for.
    pub cell_workers: usize,
    /// The configuration.
    pub plan: Plan,
    /// The supervisor's epoch.
    pub supervisor_epoch: u32,
}

/// Serves until it is told to end. `listeners` are parallel to the plan's sockets, `log` takes the lines of
/// the access log.
///
/// # Errors
/// If the event loop can't be made or can't take the sockets, or an order is not understood.
pub fn serve(
    setup: Setup,
    region: Region,
    listeners: Vec<std::net::TcpListener>,
    control: UnixStream,
    log: OwnedFd,
) -> anyhow::Result<()> {
    let io = setup.plan.placed.model.global.io;
    net::run(io, work(setup, Rc::new(region), listeners, control, Log::new(log)))
        .context("the worker's event loop can't be made")?
}

async fn work(
    setup: Setup,
    region: Rc<Region>,
    listeners: Vec<std::net::TcpListener>,
    control: UnixStream,
    log: Log,
) -> anyhow::Result<()> {
    let Setup { id, seat, workers, plan, supervisor_epoch: epoch, .. } = setup;
    if plan.placed.model.global.worker_seccomp
        && let Err(error) = forbid(OTHERWISE)
    {
        tracing::warn!(%error, "the worker's system calls are not limited");
    }
    show_turns(id, &region);
    let mut serving = Serving::start(id, workers, region.clone(), plan, listeners, log)?;
    let house = serving.house().clone();
    house.with_line(|line| {
        line.pid.store(std::process::id(), Ordering::Relaxed);
        line.supervisor_epoch.store(epoch, Ordering::Relaxed);
        line.seat.store(seat as u32, Ordering::Relaxed);
        line.heartbeat_ms.store(crate::clock::now_ms(), Ordering::Relaxed);
    });
    region.set_live(id, true);
    let ticker = net::spawn(tick(house.clone()));

    let control = net::Control::new(control)?;
    let queue = tokio::select! {
        outcome = orders(control, &mut serving) => outcome?,
        () = succession(&region, epoch) => Queue::Own,
    };
    region.set_live(id, false);
    serving.drain(id, queue).await;
    ticker.abort();
    Ok(())
}

/// Says that the worker serves, and does what it is told until that is to drain. Never done if the
/// supervisor dies.
async fn orders(mut control: net::Control, serving: &mut Serving) -> anyhow::Result<Queue> {
    // Without a supervisor there is nobody to tell.
    let _ = control.send(READY).await;
    let mut sockets = Vec::new();
    while let Ok(Some((order, fds))) = control.receive().await {
        match order {
            DRAIN => return Ok(Queue::Own),
            RETIRE => return Ok(Queue::Shared),
            SOCKETS => sockets.extend(fds.into_iter().map(std::net::TcpListener::from)),
            PLAN => {
                let [memory] = <[_; 1]>::try_from(fds)
                    .map_err(|_| anyhow::anyhow!("a configuration came without its memory"))?;
                serving.take(Plan::read(memory)?, std::mem::take(&mut sockets))?;
                let _ = control.send(TAKEN).await;
            }
            other => anyhow::bail!("the supervisor's order {other} is unknown"),
        }
    }
    tracing::warn!("the supervisor is gone: serving on until another one takes over");
    std::future::pending().await
}

/// Waits until another supervisor's workers serve.
async fn succession(region: &Region, epoch: u32) {
    loop {
        let in_force = region.control().supervisor_epoch.load(Ordering::Acquire);
        // Before the first epoch is announced, the one in force is older.
        if in_force > epoch {
            tracing::info!(epoch, in_force, "another supervisor's workers serve");
            return;
        }
        net::sleep(SUCCESSION_INTERVAL).await;
    }
}

/// Tells the kernel since when this thread has been at the turn of its loop that it is at.
fn show_turns(line: usize, region: &Rc<Region>) {
    let region = region.clone();
    net::watch_turns(move |began_us| {
        region.worker(line).busy_since_us.store(began_us, Ordering::Relaxed);
    });
}

async fn tick(house: Rc<House>) {
    let mut due_us = net::clock::now_us();
    loop {
        // By the beginning of the turn: what this turn does is the next one's lag.
        let lag_us = net::clock::now_us().saturating_sub(due_us);
        house.with_line(|line| {
            add(&line.lag_counts[bucket(lag_us)], 1);
            add(&line.lag_sum_us, lag_us);
        });
        house.tick();
        house.with_line(|line| {
            line.heartbeat_ms.store(crate::clock::now_ms(), Ordering::Relaxed);
            // Those that were sent here and never came: handshakes that nobody finished.
            if line.full.load(Ordering::Relaxed) == 0 {
                line.pending.store(0, Ordering::Relaxed);
            }
        });
        due_us = net::clock::now_us() + net::TICK.as_micros() as u64;
        net::sleep(net::TICK).await;
    }
}

#[cfg(test)]
mod tests;
