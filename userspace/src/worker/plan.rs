//! The configuration that a worker serves, and how another one takes its place.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::accept::Acceptor;
use super::permit::Permits;
use crate::access::Log;
use crate::l7::House;
use crate::net;
use crate::region::Region;
use crate::service::Placed;
use crate::tls::Shelf;
use crate::tls::upstream::Keyring;

/// What cutting off what has not drained may take; the supervisor kills a worker that is a second late.
const CUT_OFF: Duration = Duration::from_millis(500);

/// A configuration as workers are told it; the same for all of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// What it says, and where everything sits.
    pub placed: Placed,
    /// The certificates that it names. They stand beside it, so that who is shown the configuration is not
    /// shown them.
    pub certificates: Shelf,
    /// Keys that it names the files of, and that are in no model.
    pub ring: Keyring,
    /// The listening sockets that are to be open. Each worker has its own of each number.
    pub sockets: Vec<Socket>,
}

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// Its number; it keeps it over configurations.
    pub number: u32,
    /// Index of the listener in the configuration.
    pub listener: usize,
}

impl Plan {
    /// Reads what the supervisor wrote.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(memory: OwnedFd) -> anyhow::Result<Self> {
        let file = File::from(memory);
        // Read at a place, and not from one on: all workers have the same open file.
        // It holds keys.
        let mut json = Zeroizing::new(vec![0; file.metadata()?.len() as usize]);
        file.read_exact_at(&mut json, 0)?;
        serde_json::from_slice(&json).context("the supervisor's configuration is not understood")
    }
}

/// Whose connections wait in the sockets of a worker that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// Its own: nobody else accepts them.
    Own,
    /// Its successor's, who has the same sockets.
    Shared,
}

/// A worker at its work.
pub(super) struct Serving {
    house: Rc<House>,
    workers: usize,
    permits: Permits,
    /// By their sockets' numbers.
    acceptors: BTreeMap<u32, (JoinHandle<()>, Rc<Acceptor>)>,
}

impl Serving {
    /// Begins to accept on all of the plan's sockets.
    pub(super) fn start(
        worker: usize,
        workers: usize,
        region: Rc<Region>,
        plan: Plan,
        listeners: Vec<TcpListener>,
        log: Log,
    ) -> anyhow::Result<Self> {
        let permits = Permits::new(plan.placed.model.global.max_connections / workers.max(1));
        let (placed, certificates) = (plan.placed, plan.certificates);
        let house = House::new(placed, certificates, &plan.ring, (worker, workers), region, log);
        let house = Rc::new(house);
        let mut serving = Self { house, workers, permits, acceptors: BTreeMap::new() };
        serving.listen(&plan.sockets, listeners)?;
        Ok(serving)
    }

    pub(super) fn house(&self) -> &Rc<House> {
        &self.house
    }

    /// Puts another configuration in force. `listeners` are those of its sockets that are new here, in
    /// its order.
    pub(super) fn take(&mut self, plan: Plan, listeners: Vec<TcpListener>) -> anyhow::Result<()> {
        crate::log::set_level(plan.placed.model.global.log.level);
        self.permits.limit(plan.placed.model.global.max_connections / self.workers.max(1));
        self.house.take(plan.placed, plan.certificates, &plan.ring);
        self.listen(&plan.sockets, listeners)
    }

    fn listen(&mut self, sockets: &[Socket], listeners: Vec<TcpListener>) -> anyhow::Result<()> {
        let mut former = std::mem::take(&mut self.acceptors);
        let mut listeners = listeners.into_iter();
        for socket in sockets {
            let door = self.house.door(socket.listener).context("a socket has no listener")?;
            let open = match former.remove(&socket.number) {
                Some(open) => {
                    open.1.door.replace(door);
                    open
                }
                None => {
                    let listener = listeners.next().context("a listening socket is missing")?;
                    let listener = net::Listener::new(listener)
                        .context("a listening socket can't be taken over")?;
                    let (house, permits) = (self.house.clone(), self.permits.clone());
                    let door = RefCell::new(door);
                    let acceptor = Rc::new(Acceptor {
                        house,
                        door,
                        listener,
                        permits,
                        is_paused: Cell::new(false),
                    });
                    (net::spawn(acceptor.clone().run()), acceptor)
                }
            };
            self.acceptors.insert(socket.number, open);
        }
        ensure!(listeners.next().is_none(), "a listening socket came that no listener has");
        for (task, acceptor) in former.into_values() {
            task.abort();
            net::spawn(async move { acceptor.accept_queued().await });
        }
        Ok(())
    }

    /// Takes no more connections and ends, after the requests that it is at.
    pub(super) async fn drain(self, worker: usize, queue: Queue) {
        let Self { house, permits, acceptors, .. } = self;
        tracing::info!(worker, connections = permits.taken(), "draining");
        for (task, acceptor) in acceptors.into_values() {
            task.abort();
            match queue {
                Queue::Own => acceptor.accept_queued().await,
                Queue::Shared => acceptor.accept_taken().await,
            }
        }
        house.drain();
        let patience = house.proxy().model().global.drain;
        if net::within(patience, permits.all_returned()).await.is_err() {
            tracing::warn!(worker, connections = permits.taken(), "drain time is over");
            house.cut_off();
            let _ = net::within(CUT_OFF, permits.all_returned()).await;
        }
        house.finish();
    }
}
