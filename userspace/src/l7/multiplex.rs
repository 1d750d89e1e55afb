//! HTTP/2 connections to one backend, of one worker: many requests on each.
//!
//! A request goes to the first connection with room: fewer streams than its peer allows, and than
//! `upstream.streams`. If there is none, one more is made, by one request at a time: the others wait for
//! it instead of making as many, and share its failure. With as many connections as the backend may have
//! (`max_connections`) requests wait in line for a stream.
//!
//! A connection takes no new requests once it is too old, has carried its number of requests, or is going
//! away (GOAWAY, or the end of its task); it is closed with its last stream. Idle ones are closed after
//! `upstream.idle`, or when the backend takes no new work. A ping every `upstream.ping` finds those
//! whose backend is gone.
//!
//! A connection is made when its backend's SETTINGS have come: only then is it known that the backend
//! speaks HTTP/2, how many streams it takes, and whether one of them may become a tunnel.
//!
//! How a stream ends without a response is evidence ([`Loss`]): the errors of the crate h2 tell a stream
//! that the backend refused (RST_STREAM with REFUSED_STREAM), or did not see (GOAWAY with a lower last
//! stream), from one that it may have seen.

mod greeting;
mod trunk;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use steerage_common::abi::FailureClass;
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use tokio::sync::Notify;

use self::greeting::{Executor, Greeting, STREAMS_UNTOLD};
use self::trunk::{Crowd, Trunk};
pub(super) use self::trunk::{Lane, Loss, tls_cause};
use super::pool::{Meter, ms};
use crate::config::model::{self, UpstreamProtocol};
use crate::net::{self, Stream};
use crate::region::add;
use crate::service::Random;
use crate::tls::upstream::Agreed;

/// What a backend may send on one stream before the client takes it. All streams together may have that:
/// clients that read slowly must not take the window of the others.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// What h2 holds of one request body that the backend does not take.
const SEND_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Length of a response's headers, as HTTP/2 counts them.
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;

/// How long the answer to a ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The HTTP/2 connections to one backend.
#[derive(Debug)]
pub(super) struct Multiplex {
    upstream: Cell<model::Upstream>,
    limits: Cell<model::Pool>,
    meter: Rc<Meter>,
    random: Random,
    open: RefCell<Vec<Rc<Trunk>>>,
    /// The connection that is being made.
    flight: RefCell<Option<Rc<Flight>>>,
    /// How many connections there may be.
    connections_max: Cell<usize>,
    crowd: Rc<Crowd>,
    /// What the backend agreed to last, where that is up to it.
    agreed: Cell<Option<Agreed>>,
}

/// A connection that is being made, for all that wait for it.
#[derive(Debug, Default)]
struct Flight {
    landed: Notify,
    outcome: Cell<Option<Crash>>,
}

/// Why a connection could not be made.
#[derive(Clone, Copy, Debug)]
pub(super) enum Crash {
    /// This host lacks something.
    Ours,
    Backend(ErrorClass),
}

/// The duty to make a connection. Dropped, the others look again.
pub(super) struct Pilot<'a> {
    multiplex: &'a Multiplex,
    flight: Rc<Flight>,
}

impl Pilot<'_> {
    /// Tells those who wait why there is no connection.
    pub(super) fn crash(self, crash: Crash) {
        self.flight.outcome.set(Some(crash));
    }
}

impl Drop for Pilot<'_> {
    fn drop(&mut self) {
        self.multiplex.flight.take();
        self.flight.landed.notify_waiters();
    }
}

/// What a request does next to get its lane.
pub(super) enum Turn<'a> {
    Go(Lane),
    /// Make a connection.
    Fly(Pilot<'a>),
    /// Look again: another's connection was made.
    Look,
    /// Stand in line ([`Multiplex::line`]), and look again when called.
    Wait,
    Crashed(Crash),
}

impl Multiplex {
    pub(super) fn new(
        upstream: model::Upstream,
        limits: model::Pool,
        meter: Rc<Meter>,
        seed: u64,
    ) -> Self {
        Self {
            upstream: Cell::new(upstream),
            limits: Cell::new(limits),
            meter,
            random: Random::new(seed),
            open: RefCell::default(),
            flight: RefCell::default(),
            connections_max: Cell::new(usize::MAX),
            crowd: Rc::default(),
            agreed: Cell::new(None),
        }
    }

    /// Notes what the backend agreed to.
    pub(super) fn note(&self, agreed: Agreed) {
        self.agreed.set(Some(agreed));
    }

    /// Whether the backend, when it was asked last, chose HTTP/1.1.
    pub(super) fn is_declined(&self) -> bool {
        self.agreed.get() == Some(Agreed::Http1)
    }

    /// Whether the backend speaks HTTP/2 for certain.
    pub(super) fn is_spoken(&self) -> bool {
        let is_up_to_it = self.upstream.get().protocol == UpstreamProtocol::Auto;
        !is_up_to_it || self.agreed.get() == Some(Agreed::Http2)
    }

    /// Heeds other limits from now on; connections that are open keep theirs.
    pub(super) fn limit(&self, upstream: model::Upstream, limits: model::Pool) {
        self.upstream.set(upstream);
        self.limits.set(limits);
    }

    /// Makes no more connections than `most`; those that there are stay.
    pub(super) fn limit_connections(&self, most: usize) {
        self.connections_max.set(most);
        self.crowd.room.notify_waiters();
    }

    /// Lets no connection outlive its streams.
    pub(super) fn retire(&self) {
        self.open.borrow_mut().drain(..).for_each(|trunk| trunk.end(Cause::BackendOut));
    }

    /// A lane if there is one; else what to do to get one. Whoever was not in line stands behind those
    /// who are.
    pub(super) async fn turn(&self, is_called: bool) -> Turn<'_> {
        if !is_called && self.crowd.waiting.get() > 0 {
            return Turn::Wait;
        }
        if let Some(lane) = self.lane() {
            return Turn::Go(lane);
        }
        let flight = self.flight.borrow().clone();
        if flight.is_none() && self.crowd.connections.get() >= self.connections_max.get() {
            return Turn::Wait;
        }
        let Some(flight) = flight else {
            let flight = Rc::new(Flight::default());
            self.flight.replace(Some(flight.clone()));
            return Turn::Fly(Pilot { multiplex: self, flight });
        };
        flight.landed.notified().await;
        flight.outcome.get().map_or(Turn::Look, Turn::Crashed)
    }

    /// Waits until there may be room.
    pub(super) async fn line(&self) {
        let waiting = &self.crowd.waiting;
        waiting.set(waiting.get() + 1);
        let _end = Leave(waiting);
        self.crowd.room.notified().await;
    }

    fn lane(&self) -> Option<Lane> {
        let now = net::clock::now_ms();
        let most = self.upstream.get().streams as usize;
        let open = self.open.borrow();
        let lane = Lane::on(open.iter().find(|trunk| trunk.has_room(now, most))?);
        if lane.is_reused() {
            add(&self.meter.cell().connections_reused, 1);
        }
        Some(lane)
    }

    /// Makes an HTTP/2 connection of a stream to the backend.
    pub(super) async fn open(&self, stream: Stream) -> Result<(), FailureClass> {
        let (upstream, limits) = (self.upstream.get(), self.limits.get());
        let greeting = Greeting::default();
        let progress = stream.progress();
        let handshake = http2::Builder::new(Executor(greeting.clone()))
            .timer(net::Timer)
            .initial_max_send_streams(STREAMS_UNTOLD)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(STREAM_WINDOW_BYTES.saturating_mul(upstream.streams))
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
            .keep_alive_interval(upstream.ping)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, mut connection) = handshake.map_err(|error| class_of(&error))?;
        greeting.wait(&mut connection).await?;
        let connection = Rc::new(RefCell::new(Some(connection)));
        let polled = connection.clone();
        net::spawn(async move {
            let end = poll_fn(|cx| match polled.borrow_mut().as_mut() {
                Some(connection) => Pin::new(connection).poll(cx),
                None => Poll::Ready(Ok(())),
            });
            if let Err(error) = end.await {
                tracing::debug!(%error, "connection to backend broke");
            }
            // With it go the requests that it has not sent: back to where they came from.
            let ended = polled.take();
            drop(ended);
        });
        add(&self.meter.cell().connections_created, 1);
        self.meter.count(1);
        self.crowd.connections.set(self.crowd.connections.get() + 1);
        let now = net::clock::now_ms();
        self.open.borrow_mut().push(Rc::new(Trunk {
            progress,
            sender,
            connection,
            meter: self.meter.clone(),
            crowd: self.crowd.clone(),
            streams: Cell::new(0),
            expires_ms: now + self.random.spread(ms(limits.max_age)),
            requests_left: Cell::new(self.random.spread(limits.max_requests)),
            is_proven: Cell::new(false),
            idle_since_ms: Cell::new(now),
            close: Cell::new(None),
        }));
        // It has room for more than the one that made it.
        self.crowd.room.notify_waiters();
        Ok(())
    }

    /// Lets go of what takes no new requests, and of what is idle for too long.
    pub(super) fn sweep(&self, accepts_new: bool) {
        let now = net::clock::now_ms();
        let idle_ms = ms(self.upstream.get().idle);
        self.open.borrow_mut().retain(|trunk| {
            trunk.has_room(now, usize::MAX);
            if trunk.streams.get() == 0 {
                if !accepts_new {
                    trunk.end(Cause::BackendOut);
                } else if now >= trunk.idle_since_ms.get() + idle_ms {
                    trunk.end(Cause::Idle);
                }
            }
            // Its lanes keep it until their end.
            trunk.close.get().is_none()
        });
    }
}

/// Takes one off a number when dropped.
struct Leave<'a>(&'a Cell<usize>);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Why there is no connection.
fn class_of(error: &hyper::Error) -> FailureClass {
    match Loss::of(error) {
        _ if tls_cause(error).is_some() => FailureClass::Tls,
        Loss::Protocol => FailureClass::Protocol,
        _ => FailureClass::Connect,
    }
}
