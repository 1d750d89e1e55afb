//! A worker process: one thread, one event loop, its share of the clients.
//!
//! What it is told comes from the supervisor at its start ([`Setup`]); afterwards it reads the shared
//! region and answers to one control socket: a byte [`DRAIN`] ends it, after the requests it is at or
//! `global.drain`. The socket's end means that the supervisor died: the worker goes on serving, until
//! another supervisor's workers are ready, which it sees by the epoch in the control line.
//!
//! Accepting stops while all permits are taken (`global.max_connections`, split evenly over the
//! workers), so that connections wait in the kernel's queue or go to another worker.

mod accept;
mod permit;

use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::config::model::Model;
use crate::l7::Proxy;
use crate::net;
use crate::region::{Region, Tenant};

use accept::Acceptor;
use permit::Permits;

/// What a worker says when it accepts connections.
pub const READY: u8 = b'R';

/// What a worker is told to make it drain.
pub const DRAIN: u8 = b'D';

/// How often a worker shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What a worker is told at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// The worker's line in the region.
    pub id: usize,
    /// How many workers share the limits of the configuration.
    pub workers: usize,
    /// How many workers the region's cells have room for.
    pub cell_workers: usize,
    /// The configuration.
    pub model: Model,
    /// Parallel to the model's services and their backends.
    pub tenants: Vec<Vec<Tenant>>,
    /// Parallel to the model's services: their lines in the region.
    pub service_lines: Vec<u16>,
    /// The supervisor's epoch.
    pub supervisor_epoch: u32,
}

/// Serves until it is told to end.
///
/// # Errors
/// If the event loop can't be made or can't take the sockets.
pub fn serve(
    setup: Setup,
    region: Region,
    listeners: Vec<(usize, std::net::TcpListener)>,
    control: UnixStream,
) -> anyhow::Result<()> {
    net::run(setup.model.global.io, work(setup, Rc::new(region), listeners, control))
        .context("the worker's event loop can't be made")?
}

async fn work(
    setup: Setup,
    region: Rc<Region>,
    listeners: Vec<(usize, std::net::TcpListener)>,
    control: UnixStream,
) -> anyhow::Result<()> {
    let permits = Permits::new(setup.model.global.max_connections / setup.workers.max(1));
    let proxy = Rc::new(Proxy::new(
        &setup.model,
        &setup.tenants,
        &setup.service_lines,
        setup.id,
        setup.workers,
        region.clone(),
    ));
    let mut acceptors = Vec::new();
    for (front, socket) in listeners {
        let listener = net::Listener::new(socket)
            .with_context(|| format!("worker {} can't take a listening socket over", setup.id))?;
        let acceptor = Acceptor { proxy: proxy.clone(), front, listener, permits: permits.clone() };
        let acceptor = Rc::new(acceptor);
        acceptors.push((net::spawn(acceptor.clone().run()), acceptor));
    }

    let line = proxy.line();
    line.pid.store(std::process::id(), Ordering::Relaxed);
    line.supervisor_epoch.store(setup.supervisor_epoch, Ordering::Relaxed);
    line.heartbeat_ms.store(crate::clock::now_ms(), Ordering::Relaxed);
    line.live.store(1, Ordering::Release);
    let ticker = net::spawn(tick(proxy.clone()));

    let control = net::Control::new(control)?;
    tokio::select! {
        () = orders(control) => {}
        () = succession(&proxy, &region, setup.supervisor_epoch) => {}
    }

    tracing::info!(worker = setup.id, connections = permits.taken(), "draining");
    line.live.store(0, Ordering::Release);
    for (task, acceptor) in acceptors {
        task.abort();
        acceptor.accept_queued().await;
    }
    proxy.drain();
    if net::within(setup.model.global.drain, permits.all_returned()).await.is_err() {
        tracing::warn!(worker = setup.id, connections = permits.taken(), "drain time is over");
    }
    ticker.abort();
    Ok(())
}

/// Says that the worker serves, and waits for the order to drain. Never done if the supervisor dies.
async fn orders(mut control: net::Control) {
    // Without a supervisor there is nobody to tell.
    let _ = control.send(READY).await;
    while let Ok(Some(order)) = control.receive().await {
        if order == DRAIN {
            return;
        }
    }
    tracing::warn!("the supervisor is gone: serving on until another one takes over");
    std::future::pending::<()>().await;
}

/// Shows signs of life, until another supervisor's workers serve.
async fn succession(proxy: &Proxy, region: &Region, epoch: u32) {
    loop {
        proxy.line().heartbeat_ms.store(crate::clock::now_ms(), Ordering::Relaxed);
        let in_force = region.control().supervisor_epoch.load(Ordering::Acquire);
        // Before the first epoch is announced, the one in force is older.
        if in_force > epoch {
            tracing::info!(epoch, in_force, "another supervisor's workers serve");
            return;
        }
        net::sleep(HEARTBEAT).await;
    }
}

async fn tick(proxy: Rc<Proxy>) {
    loop {
        proxy.tick();
        net::sleep(net::TICK).await;
    }
}

#[cfg(test)]
mod tests;
