//! The HTTP proxy of one worker.
//!
//! ```text
//! connection ─► exchange: route ─► pick ─► attempt: pool or connect ─► send ─► response
//!     │             │ reply or redirect, if nothing is forwarded  │
//!     └─ deadline   └─ forward, headers, rewrite           body: both ways, as they come
//! ```
//!
//! hyper parses and frames what the [`guard`] lets pass; what is decided is decided here. Bodies are
//! never held: hyper reads from one side only as fast as the other side takes (back-pressure), so memory
//! per connection is bounded by hyper's buffers ([`REQUEST_BUFFER_BYTES_MAX`],
//! [`RESPONSE_BUFFER_BYTES_MAX`]). Everything is of one thread: no lock, no atomic but the shared
//! region's.
//!
//! A request that asks for a tunnel ([`upgrade`]) becomes one when the backend says so, and what passes
//! then is looked at by nobody ([`tunnel`]).

mod access;
mod affinity;
mod attempt;
mod body;
mod budget;
mod complaint;
mod connection;
mod crowd;
mod driver;
mod exchange;
mod expect;
pub mod explain;
pub mod forward;
mod frames;
mod gate;
pub mod guard;
mod handshake;
mod headers;
mod hold;
mod host;
mod house;
mod http2;
mod lent;
mod multiplex;
mod offences;
mod pace;
mod pool;
mod preface;
mod prepare;
mod queue;
mod redirect;
mod reply;
mod rewrite;
pub mod route;
mod succession;
mod tally;
mod ttl;
mod tunnel;
mod upgrade;
mod upload;
mod version;
mod via;
mod watch;

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use steerage_common::abi::Report;
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use steerage_common::handshake::Handshake;
use steerage_common::replay;

use crate::access::Log;
use crate::config::model::{
    Http2, ListenerTimeouts, Model, Offenders, UpstreamProtocol, table_address,
};
use crate::l4::Entry;
use crate::l4::proxy_protocol::Version;
use crate::region::{Region, WorkerLine, add};
use crate::service::{Placed, Random, Service};
use crate::tls::rate::Buckets;
use crate::tls::ticket::KeyRing;
use crate::tls::upstream::Dialer;

use crate::tls::{Shelf, Terminator};
pub(crate) use upgrade::base64;

pub(crate) use access::{Passed, Unheard, now_us};
use affinity::Affinity;
pub use body::Body;
use budget::Budget;
use complaint::Complaints;
pub(crate) use connection::part;
pub use connection::serve;
use crowd::Crowd;
pub(crate) use hold::Hold;
use house::Latest;
pub use house::{Door, House};
use multiplex::Multiplex;
use offences::Offences;
pub(crate) use pool::Meter;
use pool::Pool;
pub(crate) use queue::Place;
use queue::Queue;
pub(crate) use reply::of_failure;
pub(crate) use tally::{Open as OpenClient, Tally};
pub(crate) use tunnel::Open as OpenTunnel;

/// hyper's buffer of a client's connection: what a request body in transit may occupy. What a turn of
/// many uploads reads is still in the core's second-level cache when it is written: a MiB costs 281 µs
/// with this size, 341 with 64 KiB, 400 with 128 KiB, and 366 with 40 KiB (`cargo xtask bench`,
/// 16 connections, 1 MiB of cache).
const REQUEST_BUFFER_BYTES_MAX: usize = 56 * 1024;

/// hyper's buffer of a backend's connection, for the bodies that it frames: those of a known length go
/// past it ([`watch`]).
const RESPONSE_BUFFER_BYTES_MAX: usize = 128 * 1024;

/// What one configuration makes of requests. Nothing of it changes; see [`House`].
#[derive(Debug)]
pub struct Proxy {
    placed: Placed,
    worker: usize,
    workers: usize,
    region: Rc<Region>,
    /// Parallel to the model's listeners.
    fronts: Vec<Rc<Front>>,
    /// Parallel to the model's services.
    targets: Vec<Rc<Target>>,
    random: Random,
    /// The worker's, and what the configuration says of it: `None` for no line.
    log: Rc<Log>,
    access: Option<Rc<access::Rule>>,
    complaints: Rc<Complaints>,
    latest: Rc<Latest>,
    certificates: Shelf,
    /// What opens the tickets of all listeners.
    ring: Arc<KeyRing>,
    /// Headers that tell who a client is by its certificate, of all listeners.
    identity_headers: Vec<HeaderName>,
}

/// A listener's rules.
#[derive(Debug)]
pub(crate) struct Front {
    name: String,
    /// Whether requests have lines in the access log.
    is_logged: bool,
    pub(crate) entry: Entry,
    /// How handshakes are made; `None` for plain HTTP.
    tls: Option<Terminator>,
    pub(crate) tally: Rc<Tally>,
    handshakes: Rc<Buckets>,
    pub(crate) timeouts: ListenerTimeouts,
    limits: guard::Limits,
    body_rate: u32,
    pub(crate) crowd: Rc<Crowd>,
    offences: Rc<Offences>,
    offenders: Offenders,
    http2: Http2,
    routes: route::Table,
    marks: headers::Marks,
    replies: reply::Replies,
}

/// A service and the connections to its backends.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) service: Service,
    /// The backends' addresses as logs have them.
    names: Vec<String>,
    /// By index of the backend.
    pub(crate) pools: Vec<Rc<Pool>>,
    /// The same if the backends are, or may be, spoken to by HTTP/2.
    multiplexes: Option<Vec<Rc<Multiplex>>>,
    /// The same if connections to them are secret.
    dialers: Option<Vec<Rc<Dialer>>>,
    protocol: UpstreamProtocol,
    /// How backends are told who the client is.
    pub(crate) proxy_protocol: Option<Version>,
    pub(crate) replay: replay::Policy,
    budget: Budget,
    pub(crate) queue: Rc<Queue>,
    pub(crate) queue_timeout: Duration,
    pub(crate) affinity: Affinity,
    /// Whether every 5xx is a failure.
    server_errors: bool,
    /// Whether the configuration in force has another one in its place, or none.
    pub(crate) is_retired: Cell<bool>,
}

impl Proxy {
    /// What it is made of.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.placed.model
    }

    /// Work that time brings, to be called every [`crate::net::TICK`].
    pub fn tick(&self) {
        self.complaints.sweep(crate::net::clock::now_ms());
        for target in &self.targets {
            target.service.tick();
            if target.service.has_tunnels_to_end() {
                crate::net::wake_all();
            }
            target.queue.call();
            for (backend, pool) in target.pools.iter().enumerate() {
                let accepts_new = target.service.accepts_new(backend);
                pool.sweep(accepts_new);
                if let Some(multiplexes) = &target.multiplexes {
                    multiplexes[backend].sweep(accepts_new);
                }
            }
        }
    }

    /// Whether backends are told how their clients' TLS is.
    fn tells_of_tls(&self) -> bool {
        self.targets.iter().any(|target| target.proxy_protocol == Some(Version::V2))
    }

    /// A listener's rules.
    pub(crate) fn front(&self, index: usize) -> &Rc<Front> {
        &self.fronts[index]
    }

    /// A service and the connections to its backends.
    pub(crate) fn target(&self, index: usize) -> Rc<Target> {
        self.targets[index].clone()
    }

    /// This worker's line in the region.
    #[must_use]
    pub fn line(&self) -> &WorkerLine {
        self.region.worker(self.worker)
    }

    /// Notes that a request was answered here.
    fn count_error(&self, front: &Front, class: ErrorClass) {
        add(&self.line().errors[class as usize], 1);
        front.tally.erred(class);
    }

    /// Notes that a client's connection ended.
    fn count_end(&self, front: usize, cause: Cause) {
        add(&self.line().ends[cause as usize], 1);
        self.fronts[front].tally.ended(cause);
    }

    /// Notes that a stream or a tunnel of a client's connection, which goes on, was cut off.
    fn count_stream_end(&self, front: usize, cause: Cause) {
        tracing::debug!(cause = cause.name(), "cut off");
        add(&self.line().stream_ends[cause as usize], 1);
        self.fronts[front].tally.stream_ended(cause);
    }

    /// Notes that a client broke a listener's limits; one that does so again and again is told of.
    pub(crate) fn note_offence(&self, front: usize, address: IpAddr) {
        let front = &self.fronts[front];
        // What comes through a proxy that is trusted is not its own doing.
        if self.trusts(address) || !front.offences.strike(address, crate::clock::now_ms()) {
            return;
        }
        tracing::info!(%address, "an offender: the packets' guard is told");
        let Offenders { hold, packet_rate: packets, .. } = front.offenders;
        let (address, family) = table_address(address);
        let hold_ms = hold.as_millis() as u64;
        let report = Report { address, family: family.into(), packets, hold_ms };
        self.region.reports(self.worker).write(&report);
    }

    /// Notes how a handshake ended.
    fn count_handshake(&self, front: usize, end: Handshake) {
        add(&self.line().handshakes[end.index()], 1);
        self.fronts[front].tally.shook(end);
    }

    fn trusts(&self, peer: IpAddr) -> bool {
        self.model().global.trusted_proxies.iter().any(|net| net.contains(&peer))
    }
}
