//! One HTTP/2 connection, a request's place on it, and how that ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use steerage_common::cause::Cause;
use tokio::sync::Notify;

use super::greeting::Executor;
use crate::l7::pool::Meter;
use crate::l7::upload::RequestBody;
use crate::net::{self, Progress, Stream};
use crate::region::add;
use crate::tls::alert;

/// The connections that there are, and who waits because there may be no more.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    pub(super) connections: Cell<usize>,
    pub(super) waiting: Cell<usize>,
    pub(super) room: Notify,
}

pub(super) type Http2 = http2::Connection<TokioIo<Stream>, RequestBody, Executor>;

/// A connection.
#[derive(Debug)]
pub(super) struct Trunk {
    pub(super) sender: SendRequest<RequestBody>,
    /// Polled by its task, and gone with its end; knows what the peer allows.
    pub(super) connection: Rc<RefCell<Option<Http2>>>,
    pub(super) meter: Rc<Meter>,
    pub(super) crowd: Rc<Crowd>,
    pub(super) streams: Cell<usize>,
    pub(super) expires_ms: u64,
    pub(super) requests_left: Cell<u64>,
    /// Whether it has brought a response.
    pub(super) is_proven: Cell<bool>,
    pub(super) idle_since_ms: Cell<u64>,
    /// Why it takes no new requests.
    pub(super) close: Cell<Option<Cause>>,
    /// What the stream under it did.
    pub(super) progress: Progress,
}

impl Drop for Trunk {
    fn drop(&mut self) {
        let cause = self.close.get().or(self.progress.end()).unwrap_or(Cause::Abandoned);
        add(&self.meter.cell().ends[cause as usize], 1);
        self.meter.count(-1);
        self.crowd.connections.set(self.crowd.connections.get() - 1);
        self.crowd.room.notify_one();
    }
}

/// One request's place on a connection, until it is dropped.
#[derive(Debug)]
pub(in crate::l7) struct Lane {
    trunk: Rc<Trunk>,
    is_reused: bool,
}

/// How a request on a lane ended without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::l7) enum Loss {
    /// The backend did not and will not look at it.
    Refused,
    /// The same, and it takes no others on this connection.
    GoneAway,
    /// Its stream was reset.
    Reset,
    /// The connection ended.
    Connection,
    /// What came is no HTTP/2.
    Protocol,
}

impl Loss {
    /// What hyper's error means.
    pub(in crate::l7) fn of(error: &hyper::Error) -> Self {
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if let Some(error) = cause.downcast_ref::<h2::Error>() {
                return Self::of_h2(error);
            }
            source = cause.source();
        }
        Self::Connection
    }

    fn of_h2(error: &h2::Error) -> Self {
        let is_refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
        // h2 gives a received GOAWAY as the error of those streams alone that are above its last one,
        // and of those that were to be opened after it; the others go on.
        if error.is_remote() && error.is_go_away() {
            Self::GoneAway
        } else if error.is_remote() && is_refused {
            Self::Refused
        } else if error.is_remote() {
            Self::Reset
        } else if error.is_library() {
            Self::Protocol
        } else if error.is_reset() {
            // Ours: the request's body broke off.
            Self::Reset
        } else {
            Self::Connection
        }
    }
}

impl Lane {
    pub(super) fn on(trunk: &Rc<Trunk>) -> Self {
        trunk.streams.set(trunk.streams.get() + 1);
        trunk.requests_left.set(trunk.requests_left.get().saturating_sub(1));
        Self { trunk: trunk.clone(), is_reused: trunk.is_proven.get() }
    }

    pub(in crate::l7) fn sender(&self) -> SendRequest<RequestBody> {
        self.trunk.sender.clone()
    }

    /// Whether its connection has brought a response before.
    pub(in crate::l7) fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Whether the backend takes extended `CONNECT`.
    pub(in crate::l7) fn takes_tunnels(&self) -> bool {
        let connection = self.trunk.connection.borrow();
        connection.as_ref().is_some_and(Http2::is_extended_connect_protocol_enabled)
    }

    /// Notes that a response came.
    pub(in crate::l7) fn is_answered(&self) {
        self.trunk.is_proven.set(true);
    }

    /// Notes what a loss says of the connection.
    pub(in crate::l7) fn lost(&self, loss: Option<Loss>) {
        let reason = match loss {
            // A single stream's end says nothing of the others.
            Some(Loss::Reset | Loss::Refused) => return,
            Some(Loss::GoneAway) => Cause::Announced,
            Some(Loss::Protocol) => Cause::Http2Protocol,
            Some(Loss::Connection) | None => self.trunk.far_end(),
        };
        self.trunk.end(reason);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.trunk.streams.set(self.trunk.streams.get().saturating_sub(1));
        self.trunk.idle_since_ms.set(net::clock::now_ms());
        self.trunk.crowd.room.notify_one();
    }
}

impl Trunk {
    pub(super) fn end(&self, reason: Cause) {
        if self.close.get().is_none() {
            self.close.set(Some(reason));
        }
    }

    /// How the backend has ended it.
    fn far_end(&self) -> Cause {
        self.progress.end().unwrap_or(Cause::Abandoned)
    }

    /// Streams that the peer allows.
    fn peer_allows(&self) -> usize {
        self.connection.borrow().as_ref().map_or(0, Http2::current_max_send_streams)
    }

    /// Whether it takes one more request.
    pub(super) fn has_room(&self, now: u64, most: usize) -> bool {
        if self.close.get().is_none() {
            if self.sender.is_closed() {
                self.end(self.far_end());
            } else if self.requests_left.get() == 0 {
                self.end(Cause::Requests);
            } else if now >= self.expires_ms {
                self.end(Cause::Age);
            }
        }
        let streams = self.streams.get();
        self.close.get().is_none() && streams < most && streams < self.peer_allows()
    }
}

/// What TLS has to say of an error.
pub(in crate::l7) fn tls_cause(error: &hyper::Error) -> Option<&rustls::Error> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        // What h2 has inside it does not give as its source.
        if let Some(io) = cause.downcast_ref::<h2::Error>().and_then(h2::Error::get_io) {
            return alert::cause_of(io);
        }
        source = cause.source();
    }
    alert::cause_of(error)
}
