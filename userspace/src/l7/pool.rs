//! Idle connections to one backend, of one worker.
//!
//! Last in, first out: the connection used last is the one least likely to have been closed by the
//! backend, and the others get the chance to grow old. A connection leaves the pool when it has been
//! idle too long, is too old, has carried its number of requests (the last two ± 10 %, so that those
//! opened together are not closed together), when the pool is full, when the backend stops taking new
//! work, and in the moment in which the backend closes it: its task ends then and takes it out.
//!
//! A lent connection that is not given back is closed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use steerage_common::abi::PoolClose;
use steerage_common::slot::Slot;
use tokio::task::AbortHandle;

use super::RESPONSE_BUFFER_BYTES_MAX;
use super::body::RequestBody;
use crate::config::model;
use crate::net::{self, Stream};
use crate::region::{self, Region, add};
use crate::service::Random;

/// The idle connections to one backend.
#[derive(Debug)]
pub(super) struct Pool {
    limits: model::Pool,
    region: Rc<Region>,
    worker: usize,
    slot: Slot,
    random: Random,
    next_id: Cell<u64>,
    /// Used last comes last.
    idle: RefCell<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    since_ms: u64,
    connection: Connection,
}

/// A connection to a backend, for one request at a time. Dropped, it is closed.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: SendRequest<RequestBody>,
    task: AbortHandle,
    id: u64,
    expires_ms: u64,
    requests_left: u64,
    is_reused: bool,
}

impl Connection {
    /// Whether it has carried a request before.
    pub(super) fn is_reused(&self) -> bool {
        self.is_reused
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pool {
    pub(super) fn new(
        limits: model::Pool,
        region: Rc<Region>,
        worker: usize,
        slot: Slot,
        seed: u64,
    ) -> Self {
        Self {
            limits,
            region,
            worker,
            slot,
            random: Random::new(seed),
            next_id: Cell::new(0),
            idle: RefCell::new(Vec::new()),
        }
    }

    fn cell(&self) -> &region::Cell {
        self.region.cell(self.worker, self.slot)
    }

    /// The connection used last, if one is idle and still good.
    pub(super) fn lend(&self) -> Option<Connection> {
        let now = net::clock::now_ms();
        let mut idle = self.idle.borrow_mut();
        let mut at = idle.len();
        let mut lent = None;
        while let Some(before) = at.checked_sub(1) {
            at = before;
            if let Some(reason) = self.expiry(&idle[at], now) {
                self.closed(reason);
                idle.remove(at);
            } else if idle[at].connection.sender.is_ready() {
                lent = Some(idle.remove(at).connection);
                break;
            }
            // Else it is still busy with the end of its last request.
        }
        self.show(idle.len());
        let mut connection = lent?;
        connection.is_reused = true;
        add(&self.cell().connections_reused, 1);
        Some(connection)
    }

    /// Takes a connection back after a whole response.
    pub(super) fn take_back(&self, mut connection: Connection) {
        connection.requests_left = connection.requests_left.saturating_sub(1);
        let now = net::clock::now_ms();
        let mut idle = self.idle.borrow_mut();
        let is_full = idle.len() >= self.limits.max_idle;
        let entry = Idle { since_ms: now, connection };
        match self.expiry(&entry, now) {
            Some(reason) => self.closed(reason),
            None if !self.region.accepts_new(self.slot) => self.closed(PoolClose::Ejected),
            None if is_full => self.closed(PoolClose::Full),
            None => idle.push(entry),
        }
        self.show(idle.len());
    }

    /// Closes what is past its time, and everything if the backend takes no new work.
    pub(super) fn sweep(&self, accepts_new: bool) {
        let now = net::clock::now_ms();
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            return;
        }
        idle.retain(|entry| {
            let expiry = self.expiry(entry, now);
            let reason = expiry.or((!accepts_new).then_some(PoolClose::Ejected));
            if let Some(reason) = reason {
                self.closed(reason);
            }
            reason.is_none()
        });
        self.show(idle.len());
    }

    /// Takes a connection out that the backend has closed.
    fn evict(&self, id: u64) {
        let mut idle = self.idle.borrow_mut();
        if let Some(at) = idle.iter().position(|entry| entry.connection.id == id) {
            self.closed(PoolClose::Peer);
            idle.remove(at);
            self.show(idle.len());
        }
    }

    /// Why a connection may not be used any more.
    fn expiry(&self, entry: &Idle, now: u64) -> Option<PoolClose> {
        let connection = &entry.connection;
        if connection.sender.is_closed() {
            Some(PoolClose::Peer)
        } else if connection.requests_left == 0 {
            Some(PoolClose::Requests)
        } else if now >= connection.expires_ms {
            Some(PoolClose::Age)
        } else if now >= entry.since_ms + ms(self.limits.idle) {
            Some(PoolClose::Idle)
        } else {
            None
        }
    }

    fn closed(&self, reason: PoolClose) {
        add(&self.cell().pool_closed[reason as usize], 1);
    }

    /// Publishes how many connections are idle.
    fn show(&self, idle: usize) {
        self.cell().idle.store(idle as u32, Ordering::Relaxed);
    }

    /// Makes a fresh HTTP connection of a stream to the backend.
    pub(super) async fn open(self: &Rc<Self>, stream: Stream) -> hyper::Result<Connection> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(RESPONSE_BUFFER_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let pool = self.clone();
        let task = net::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to backend broke");
            }
            pool.evict(id);
        });
        add(&self.cell().connections_created, 1);
        Ok(Connection {
            sender,
            task: task.abort_handle(),
            id,
            expires_ms: net::clock::now_ms() + self.random.spread(ms(self.limits.max_age)),
            requests_left: self.random.spread(self.limits.max_requests),
            is_reused: false,
        })
    }
}

fn ms(duration: Duration) -> u64 {
    // 1,000 years are enough, and leave room to add.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(1 << 45)
}
