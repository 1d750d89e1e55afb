//! A connection that is passed on to a backend as it is.
//!
//! The backend is picked as for a request, and whatever becomes of the attempt to connect is told to the
//! same breaker: a connection that can't be made is a failure, one that is made a success, and its time
//! is what `peak_ewma` learns from. Nothing of the client's has been sent by then, so the next attempt goes
//! to another backend without asking whether it may ([`replay::decide`] says so too). A connection counts
//! at its backend as a request does, and as long as it lasts: against `max_connections` and `max_requests`,
//! with the same line of those who wait.
//!
//! A client that no backend takes is reset: an end in order would look like an empty answer.

use std::cell::Cell;
use std::rc::Rc;

use steerage_common::abi::FailureClass;
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use steerage_common::latency::Timer;
use steerage_common::replay::{self, Evidence, Stage};

use tokio::io::AsyncWriteExt as _;

use super::copy::{self, Account, Limits, Side};
use super::{Caller, Route};
use crate::config::model::{StreamEnd, StreamTimeouts};
use crate::l7::{
    Door, Hold, Meter, OpenTunnel, Passed, Place, Proxy, Tally, Target, now_us, of_failure,
};
use crate::net::{self, Elapsed, Stream, clock};
use crate::region::add;
use crate::service::Criteria;

/// Passes a client's connection on, by the listener's route of this index.
pub(super) async fn serve(door: Rc<Door>, stream: Stream, caller: Caller, route: usize) {
    let began_us = now_us();
    let (proxy, front) = door.inside();
    let refuse = |class, cause| refuse(&door, &stream, &caller, (began_us, class, cause));
    let address = caller.address.ip().to_canonical();
    let Ok(_member) = proxy.front(front).crowd.admit(address) else {
        proxy.note_offence(front, address);
        return refuse(ErrorClass::TooManyConnections, Cause::TooMany);
    };
    let streams = proxy.front(front).entry.streams.as_ref();
    // A listener that has become another one meanwhile has other routes.
    let route = streams.and_then(|streams| streams.routes.get(route));
    let Some(&Route { end: StreamEnd::Service(service), timeouts }) = route else {
        return refuse(ErrorClass::NoRoute, Cause::NoRoute);
    };
    let dialed = Dial::new(proxy, service, timeouts, &caller).run().await;
    let (line, mut backend) = match dialed {
        Ok(dialed) => dialed,
        Err(class) => return refuse(class, Cause::NotTaken),
    };
    if let Some(version) = line.hold.target().proxy_protocol {
        let header = caller.header(&stream.progress(), version);
        // Deferred: it leaves with the client's first bytes, or with the turn. An error comes again.
        let _ = backend.write_all(&header).await;
    }
    let StreamTimeouts { tunnel, half_closed, .. } = timeouts;
    let limits = Limits { tunnel, half_closed };
    let tally = door.front().tally.clone();
    let mut connected = Connected { line, door, tally, passed: Cell::default() };
    let (near, far) = (stream.progress(), backend.progress());
    let end = |stream| (Side::Connection(stream), bytes::Bytes::new());
    let cut = copy::run(&connected, end(stream), end(backend), limits).await;
    connected.line.end = cut.or(far.end());
    let cause = cut.or(near.end()).unwrap_or(Cause::Abandoned);
    connected.door.count_end(cause);
    let (up_bytes, down_bytes) = connected.passed.get();
    let Line { hold, attempts, connect_us, .. } = &connected.line;
    let passed = Passed {
        backend: Some((hold.target(), hold.backend())),
        attempts: *attempts,
        connect_us: Some(*connect_us),
        up_bytes,
        down_bytes,
        sni: caller.sni(),
        ..Passed::nothing(began_us)
    };
    let (proxy, front) = connected.door.inside();
    proxy.log_passed(front, caller.address, &passed, cause);
}

/// Ends a connection that nobody takes.
fn refuse(
    door: &Door,
    stream: &Stream,
    caller: &Caller,
    (began_us, class, cause): (u64, ErrorClass, Cause),
) {
    let passed = Passed { error: Some(class), sni: caller.sni(), ..Passed::nothing(began_us) };
    let (proxy, front) = door.inside();
    proxy.log_passed(front, caller.address, &passed, cause);
    door.count_error(class);
    door.count_end(cause);
    stream.progress().withdraw();
}

/// The way to a backend.
struct Dial {
    proxy: Rc<Proxy>,
    target: Rc<Target>,
    timeouts: StreamTimeouts,
    /// For consistent hashing.
    hash: u64,
    attempts: u32,
    /// Backends that failed.
    tried: Vec<usize>,
    /// Its place among those that wait for a backend.
    place: Option<Place>,
}

impl Dial {
    fn new(proxy: Rc<Proxy>, service: usize, timeouts: StreamTimeouts, caller: &Caller) -> Self {
        let target = proxy.target(service);
        let hash = target.affinity.hash_of(caller.address.ip().to_canonical());
        Self { proxy, target, timeouts, hash, attempts: 0, tried: Vec::new(), place: None }
    }

    /// Connects to one backend after another, as far as the service allows.
    async fn run(mut self) -> Result<(Line, Stream), ErrorClass> {
        let mut last = ErrorClass::NoBackend;
        // Bounded: the decision allows `retry.attempts`, and the line has its timeout.
        loop {
            let (hold, is_trial) = self.begin(last).await?;
            self.attempts += 1;
            let target = self.target.clone();
            let (service, backend) = (&target.service, hold.backend());
            let (began_us, fresh_us) = (clock::now_us(), now_us());
            let class = match self.connect(service.backends()[backend].address).await {
                Ok(stream) => {
                    let took_us = clock::now_us().saturating_sub(began_us);
                    service.responded(backend, took_us, false);
                    service.note_time(backend, Timer::Connect, took_us);
                    service.succeeded(backend);
                    let connect_us = now_us().saturating_sub(fresh_us);
                    return Ok((Line::new(hold, self.attempts, connect_us), stream));
                }
                Err(Unmade::Ours) => return Err(ErrorClass::Exhausted),
                Err(Unmade::Backend(class)) => class,
            };
            tracing::debug!(is_trial, class = class.name(), "connecting failed");
            let cell = service.cell(backend);
            add(&cell.failures[class as usize], 1);
            service.failed(backend, class);
            match replay::decide(&self.evidence(), &target.replay) {
                Ok(rule) => add(&cell.replays[rule as usize], 1),
                Err(refusal) => {
                    add(&cell.refusals[refusal as usize], 1);
                    return Err(of_failure(class));
                }
            }
            self.tried.push(backend);
            last = of_failure(class);
        }
    }

    /// A place at a backend, when it is this connection's turn and one has room. Gives `last` if there is
    /// none.
    async fn begin(&mut self, last: ErrorClass) -> Result<(Hold, bool), ErrorClass> {
        let mut stands = !self.target.queue.is_empty();
        let mut stood_us = None;
        loop {
            if stands {
                stood_us.get_or_insert_with(clock::now_us);
                let target = &self.target;
                self.place.get_or_insert_with(|| target.queue.stand(target.queue_timeout));
            }
            if let Some(place) = &self.place {
                place.called().await.map_err(|Elapsed| ErrorClass::QueueTimeout)?;
            }
            if self.target.is_retired.get() && !self.follow() {
                return Err(last);
            }
            let service = &self.target.service;
            let criteria = Criteria { tried: &self.tried, hash: self.hash, sticky: None };
            let pick = service.pick(&criteria);
            if let Some(pick) = pick
                && let Some(hold) = Hold::begin(&self.target, pick.backend)
            {
                self.place = None;
                if let Some(stood_us) = stood_us {
                    let us = clock::now_us().saturating_sub(stood_us);
                    self.target.service.note_time(pick.backend, Timer::Queue, us);
                }
                return Ok((hold, pick.is_trial));
            }
            if pick.is_none() && !service.has_only_full(&criteria) {
                return Err(last);
            }
            stands = true;
        }
    }

    /// Goes on with the service as it is in the configuration in force. False if it is not.
    #[cold]
    fn follow(&mut self) -> bool {
        let former = self.target.clone();
        let Some(target) = self.proxy.in_force(former.service.name()) else { return false };
        let tenant = |backend: &usize| former.service.backends()[*backend].tenant;
        let moved = self.tried.iter().filter_map(|tried| target.service.index_of(tenant(tried)));
        self.tried = moved.collect();
        self.target = target;
        true
    }

    async fn connect(&self, address: std::net::SocketAddr) -> Result<Stream, Unmade> {
        match net::within(self.timeouts.connect, net::connect(address)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if net::is_local_shortage(&error) => {
                tracing::warn!(backend = %address, %error, "no connection can be opened");
                Err(Unmade::Ours)
            }
            Ok(Err(_)) => Err(Unmade::Backend(FailureClass::Connect)),
            Err(Elapsed) => Err(Unmade::Backend(FailureClass::ConnectTimeout)),
        }
    }

    /// What is known of an attempt that failed: nothing was sent.
    fn evidence(&self) -> Evidence {
        Evidence {
            stage: Stage::Unconnected,
            is_reused: false,
            is_idempotent: false,
            holds_body: true,
            is_client_there: true,
            is_late: false,
            attempts: self.attempts,
            stale_replays: 0,
            is_in_budget: true,
        }
    }
}

/// Why there is no connection.
enum Unmade {
    /// This host has no ports, descriptors or memory left.
    Ours,
    Backend(FailureClass),
}

/// A connection to a backend that belongs to one client; counted until it is dropped.
struct Line {
    meter: Rc<Meter>,
    /// Why it ended, if that is known.
    end: Option<Cause>,
    /// How often a backend was asked for it.
    attempts: u32,
    /// How long the last one took.
    connect_us: u64,
    hold: Hold,
    _open: OpenTunnel,
}

impl Line {
    fn new(hold: Hold, attempts: u32, connect_us: u64) -> Self {
        let meter = hold.target().pools[hold.backend()].meter();
        add(&meter.cell().connections_created, 1);
        meter.count(1);
        let open = OpenTunnel::new(meter.clone());
        Self { hold, end: None, attempts, connect_us, _open: open, meter }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let end = self.end.unwrap_or(Cause::Abandoned);
        add(&self.meter.cell().ends[end as usize], 1);
        self.meter.count(-1);
    }
}

/// A line, and where its client came in.
struct Connected {
    line: Line,
    door: Rc<Door>,
    tally: Rc<Tally>,
    /// Bytes to the backend and from it.
    passed: Cell<(u64, u64)>,
}

impl Account for Connected {
    fn passed(&self, up: u64, down: u64) {
        let cell = self.line.meter.cell();
        add(&cell.request_body_bytes, up);
        add(&cell.response_body_bytes, down);
        self.tally.passed(None, up, down);
        let (before_up, before_down) = self.passed.get();
        self.passed.set((before_up + up, before_down + down));
    }

    fn cut(&self) -> Option<Cause> {
        self.door.cut(self.line.hold.target(), self.line.hold.backend())
    }
}
