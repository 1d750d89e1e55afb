//! Idle connections to one backend, of one worker.
//!
//! Last in, first out: the connection used last is the one least likely to have been closed by the
//! backend, and the others get the chance to grow old. A connection leaves the pool when it has been
//! idle too long ([`IdleLimit`] learns how long that is), is too old, has carried its number of requests
//! (the last two ± 10 %, so that those opened together are not closed together), when the pool is full
//! (it holds `max_idle`, or as many as were in use at a time lately: what the load needs is kept),
//! when the backend stops taking new work, and in the moment in which the backend closes it or sends
//! bytes that nobody asked for ([`Watch`]): its task ends then and takes it out.
//!
//! Where backends are told who the client is (PROXY protocol), a connection is one client's alone
//! ([`Owner`]).
//!
//! A lent connection that is not given back is closed. Every connection's end is counted once, with its
//! reason.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use steerage_common::cause::Cause;
use steerage_common::slot::Slot;
use tokio::task::JoinHandle;

use super::RESPONSE_BUFFER_BYTES_MAX;
use super::driver::Driver;
use super::ttl::IdleLimit;
use super::upload::RequestBody;
use super::watch::{Watch, Watched};
use crate::config::model;
use crate::net::{self, Progress, Stream};
use crate::region::{self, Region, add};
use crate::service::Random;

/// The idle connections to one backend.
#[derive(Debug)]
pub(crate) struct Pool {
    limits: Cell<model::Pool>,
    idle_limit: IdleLimit,
    meter: Rc<Meter>,
    random: Random,
    next_id: Cell<u64>,
    /// Used last comes last.
    idle: RefCell<Vec<Idle>>,
    /// The most connections that were in use lately.
    in_use_lately: Cell<usize>,
    /// Whether the configuration has its backend no more, or reaches it otherwise: nothing is kept then.
    is_retired: Cell<bool>,
}

#[derive(Debug)]
struct Idle {
    since_ms: u64,
    connection: Connection,
}

/// Sweeps after which little is left of what was in use once: three seconds.
const LATELY_SWEEPS: usize = 32;

/// Where the connections to one backend are counted.
#[derive(Debug)]
pub(crate) struct Meter {
    region: Rc<Region>,
    worker: usize,
    slot: Slot,
}

impl Meter {
    pub(crate) fn cell(&self) -> &region::Cell {
        self.region.cell(self.worker, self.slot)
    }

    /// Adds to the number of open connections.
    pub(crate) fn count(&self, more: i32) {
        let connections = &self.cell().connections;
        let now = connections.load(Ordering::Relaxed).saturating_add_signed(more);
        connections.store(now, Ordering::Relaxed);
    }
}

/// Whose requests a connection may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner(u64);

impl Owner {
    /// Everybody's.
    pub(super) const NOBODY: Self = Self(0);

    /// A client's alone: the backend was told of it.
    pub(super) fn next() -> Self {
        thread_local! {
            static LAST: Cell<u64> = const { Cell::new(0) };
        }
        LAST.set(LAST.get() + 1);
        Self(LAST.get())
    }
}

/// A connection to a backend, for one request at a time. Dropped, it is closed.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: SendRequest<RequestBody>,
    /// What the stream under it did.
    pub(super) progress: Progress,
    meter: Rc<Meter>,
    /// What came over it.
    pub(super) watch: Rc<Watch>,
    /// Who drives it: whoever holds it, unless it is idle.
    pub(super) driver: Rc<Driver>,
    /// Drives it while it is idle.
    task: JoinHandle<()>,
    id: u64,
    owner: Owner,
    expires_ms: u64,
    requests_left: u64,
    /// When it was last put into the pool; `None` for a fresh one.
    idle_since_ms: Option<u64>,
    /// Why Steerage closes it, if it does.
    close: Option<Cause>,
}

impl Connection {
    /// Whether it has carried a request before.
    pub(super) fn is_reused(&self) -> bool {
        self.idle_since_ms.is_some()
    }

    /// The stream under it, once a response has ended HTTP on it; and what was read after that response.
    pub(super) async fn take_stream(&mut self) -> Option<(Stream, Bytes)> {
        self.driver.take();
        let parts = self.driver.end().await?;
        Some((parts.io.into_inner().into_stream()?, parts.read_buf))
    }

    /// Notes that the backend had closed it before the request that was sent on it.
    pub(super) fn is_stale(&mut self) {
        self.ends(Cause::Stale);
    }

    /// Notes that the backend will close it after this response.
    pub(super) fn is_announced_to_close(&mut self) {
        self.ends(Cause::Announced);
    }

    /// Notes why it is closed, unless that is known.
    pub(super) fn ends(&mut self, cause: Cause) {
        self.close.get_or_insert(cause);
    }

    /// Why it ends, if it ends now.
    fn cause(&self) -> Cause {
        if self.watch.is_poisoned() {
            Cause::Poison
        } else if self.watch.is_malformed() {
            Cause::HttpProtocol
        } else {
            self.close.or(self.progress.end()).unwrap_or(Cause::Abandoned)
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
        add(&self.meter.cell().ends[self.cause() as usize], 1);
        self.meter.count(-1);
    }
}

impl Idle {
    fn close(mut self, reason: Cause) {
        self.connection.ends(reason);
    }
}

impl Pool {
    /// Where the backend's connections are counted.
    pub(crate) fn meter(&self) -> Rc<Meter> {
        self.meter.clone()
    }

    pub(super) fn new(
        limits: model::Pool,
        region: Rc<Region>,
        worker: usize,
        slot: Slot,
        seed: u64,
    ) -> Self {
        Self {
            limits: Cell::new(limits),
            idle_limit: IdleLimit::new(limits.idle),
            meter: Rc::new(Meter { region, worker, slot }),
            random: Random::new(seed),
            next_id: Cell::new(0),
            idle: RefCell::new(Vec::new()),
            in_use_lately: Cell::new(0),
            is_retired: Cell::new(false),
        }
    }

    /// Heeds other limits from now on.
    pub(super) fn limit(&self, limits: model::Pool) {
        self.limits.set(limits);
        self.idle_limit.configure(limits.idle);
    }

    /// Closes what is idle, and whatever comes back.
    pub(super) fn retire(&self) {
        self.sweep(false);
        self.is_retired.set(true);
    }

    fn cell(&self) -> &region::Cell {
        self.meter.cell()
    }

    /// The connection of this owner's that was used last, if one is idle and still good.
    pub(super) fn lend(&self, owner: Owner) -> Option<Connection> {
        let now = net::clock::now_ms();
        let mut idle = self.idle.borrow_mut();
        let mut at = idle.len();
        let mut lent = None;
        while let Some(before) = at.checked_sub(1) {
            at = before;
            if idle[at].connection.owner != owner {
                continue;
            }
            if let Some(reason) = self.expiry(&idle[at], now) {
                idle.remove(at).close(reason);
            } else if idle[at].connection.sender.is_ready() {
                let Idle { since_ms, mut connection } = idle.remove(at);
                connection.driver.take();
                connection.idle_since_ms = Some(since_ms);
                lent = Some(connection);
                break;
            }
            // Else it is still busy with the end of its last request.
        }
        self.show(idle.len());
        let connection = lent?;
        add(&self.cell().connections_reused, 1);
        Some(connection)
    }

    /// The same, if that was no longer ago than `idle_max`.
    pub(super) fn lend_used_within(&self, owner: Owner, idle_max: Duration) -> Option<Connection> {
        let is_its = |entry: &&Idle| entry.connection.owner == owner;
        let since_ms = self.idle.borrow().iter().rfind(is_its).map(|entry| entry.since_ms)?;
        let idle_ms = net::clock::now_ms().saturating_sub(since_ms);
        if idle_ms <= ms(idle_max) { self.lend(owner) } else { None }
    }

    /// Takes a connection back after a whole response.
    pub(super) fn take_back(&self, mut connection: Connection) {
        connection.requests_left = connection.requests_left.saturating_sub(1);
        connection.driver.leave();
        let now = net::clock::now_ms();
        let mut idle = self.idle.borrow_mut();
        let in_use = self.in_use(idle.len());
        self.in_use_lately.set(self.in_use_lately.get().max(in_use));
        let is_full = idle.len() >= self.room();
        let entry = Idle { since_ms: now, connection };
        match self.expiry(&entry, now) {
            Some(reason) => entry.close(reason),
            None if self.is_retired.get() || !self.meter.region.accepts_new(self.meter.slot) => {
                entry.close(Cause::BackendOut);
            }
            None if is_full => entry.close(Cause::PoolFull),
            None => idle.push(entry),
        }
        self.show(idle.len());
    }

    /// Connections that carry a request, with `idle` in the pool.
    fn in_use(&self, idle: usize) -> usize {
        let open = self.cell().connections.load(Ordering::Relaxed) as usize;
        open.saturating_sub(idle)
    }

    /// Closes what is past its time, and everything if the backend takes no new work.
    pub(super) fn sweep(&self, accepts_new: bool) {
        let now = net::clock::now_ms();
        let mut idle = self.idle.borrow_mut();
        let lately = self.in_use_lately.get();
        let less = lately - lately.div_ceil(LATELY_SWEEPS);
        self.in_use_lately.set(less.max(self.in_use(idle.len())));
        if idle.is_empty() {
            return;
        }
        idle.retain_mut(|entry| {
            let expiry = self.expiry(entry, now);
            let reason = expiry.or((!accepts_new).then_some(Cause::BackendOut));
            if let Some(reason) = reason {
                entry.connection.ends(reason);
            }
            reason.is_none()
        });
        // Those used longest ago come first.
        let surplus = idle.len().saturating_sub(self.room());
        idle.drain(..surplus).for_each(|entry| entry.close(Cause::PoolFull));
        self.show(idle.len());
    }

    /// How many connections may be idle; with `max_idle = 0`, none ever.
    fn room(&self) -> usize {
        match self.limits.get().max_idle {
            0 => 0,
            max => max.max(self.in_use_lately.get()),
        }
    }

    /// Closes the connections that have been idle for longer than `stale`, which the backend had closed:
    /// it has closed them too, or is about to.
    pub(super) fn evict_older(&self, stale: &Connection) {
        let Some(since_ms) = stale.idle_since_ms else { return };
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|entry| {
            let is_newer = entry.since_ms > since_ms;
            if !is_newer {
                entry.connection.ends(Cause::Stale);
            }
            is_newer
        });
        self.show(idle.len());
    }

    /// Learns from a response's `Keep-Alive` header.
    pub(super) fn announced(&self, keep_alive: &[u8]) {
        self.idle_limit.announced(keep_alive);
    }

    /// Takes a connection out whose task has ended while it was idle.
    fn evict(&self, id: u64) {
        let mut idle = self.idle.borrow_mut();
        if let Some(at) = idle.iter().position(|entry| entry.connection.id == id) {
            let entry = idle.remove(at);
            self.show(idle.len());
            if !entry.connection.watch.is_poisoned() {
                let now = net::clock::now_ms();
                self.idle_limit.closed_after(now.saturating_sub(entry.since_ms), now);
            }
        }
    }

    /// Why a connection may not be used any more.
    fn expiry(&self, entry: &Idle, now: u64) -> Option<Cause> {
        let connection = &entry.connection;
        if connection.watch.is_poisoned() {
            Some(Cause::Poison)
        } else if connection.close.is_some() {
            connection.close
        } else if connection.sender.is_closed() {
            Some(connection.cause())
        } else if connection.requests_left == 0 {
            Some(Cause::Requests)
        } else if now >= connection.expires_ms {
            Some(Cause::Age)
        } else if now >= entry.since_ms + self.idle_limit.ms(now) {
            Some(Cause::Idle)
        } else {
            None
        }
    }

    /// Publishes how many connections are idle.
    fn show(&self, idle: usize) {
        // The backend may have another pool, whose figure it is then.
        if !self.is_retired.get() {
            self.cell().idle.store(idle as u32, Ordering::Relaxed);
        }
    }

    /// Makes a fresh HTTP connection of a stream to the backend.
    pub(super) async fn open(
        self: &Rc<Self>,
        stream: Stream,
        owner: Owner,
    ) -> hyper::Result<Connection> {
        let progress = stream.progress();
        let stream = Watched::new(stream);
        let watch = stream.watch();
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(RESPONSE_BUFFER_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let driver = Driver::new(connection);
        driver.take();
        let (pool, idle) = (self.clone(), driver.clone());
        let task = net::spawn(async move {
            idle.run().await;
            pool.evict(id);
        });
        add(&self.cell().connections_created, 1);
        self.meter.count(1);
        Ok(Connection {
            sender,
            progress,
            watch,
            meter: self.meter.clone(),
            driver,
            task,
            id,
            owner,
            expires_ms: net::clock::now_ms() + self.random.spread(ms(self.limits.get().max_age)),
            requests_left: self.random.spread(self.limits.get().max_requests),
            idle_since_ms: None,
            close: None,
        })
    }
}

/// A time in milliseconds.
pub(super) fn ms(duration: Duration) -> u64 {
    // 1,000 years are enough, and leave room to add.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(1 << 45)
}
