//! What carries one request to a backend: a connection for itself, or a lane of a shared one.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::upgrade::OnUpgrade;
use steerage_common::abi::FailureClass;
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use steerage_common::replay::{End, Stage as Reached};

use super::multiplex::{Lane, Loss, tls_cause};
use super::pool::{Connection, Pool};
use super::tunnel::Far;
use super::upgrade::Wish;
use super::upload::RequestBody;
use crate::net::Progress;
use crate::tls::upstream::Failure;

/// The carrier of one request.
#[derive(Debug)]
pub(super) enum Via {
    /// HTTP/1.1.
    Connection(Connection),
    /// HTTP/2.
    Lane(Lane),
}

/// What is known of a request that got no response.
pub(super) struct Lost {
    pub(super) stage: Reached,
    pub(super) is_reused: bool,
    /// What kind of failure it is.
    pub(super) class: FailureClass,
    /// Whether it is the backend's fault.
    pub(super) is_fault: bool,
    /// What TLS has to say of it.
    pub(super) tls: Option<Failure>,
}

/// Where a connection of its own stood before the request.
#[derive(Clone, Copy, Default)]
pub(super) struct Mark {
    written: u64,
    received: u64,
}

impl Via {
    /// Whether what carries it has carried a request before.
    pub(super) fn is_reused(&self) -> bool {
        match self {
            Self::Connection(connection) => connection.is_reused(),
            Self::Lane(lane) => lane.is_reused(),
        }
    }

    pub(super) fn mark(&self) -> Mark {
        match self {
            Self::Connection(connection) => Mark::of(&connection.progress),
            Self::Lane(_) => Mark::default(),
        }
    }

    /// What of a wish the backend can be asked for.
    pub(super) fn ask_for<'a>(
        &self,
        wish: Option<&'a Wish>,
    ) -> Result<Option<&'a Wish>, ErrorClass> {
        match (self, wish) {
            (Self::Lane(lane), Some(wish)) if !wish.is_connect() && !lane.takes_tunnels() => {
                wish.give_up().map(|()| None)
            }
            (_, wish) => Ok(wish),
        }
    }

    /// Sends the request and waits for the response's head.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Self::Connection(connection) => {
                connection.watch.ask(&request);
                let response = connection.sender.try_send_request(request);
                connection.driver.until(response).await
            }
            Self::Lane(lane) => {
                let response = lane.sender().try_send_request(request).await?;
                lane.is_answered();
                Ok(response)
            }
        }
    }

    /// The backend's side of the tunnel that a response opens.
    pub(super) fn into_far(self, response: &mut Response<Incoming>) -> Option<Far> {
        match self {
            Self::Connection(connection) => Some(Far::Connection(connection)),
            Self::Lane(lane) => {
                let stream = response.extensions_mut().remove::<OnUpgrade>()?;
                Some(Far::Stream { stream, _lane: lane })
            }
        }
    }

    /// Notes that the backend will close the connection after this response.
    pub(super) fn is_announced_to_close(&mut self) {
        if let Self::Connection(connection) = self {
            connection.is_announced_to_close();
        }
    }

    /// Notes why the connection ends, if it is the request's own.
    pub(super) fn ends(&mut self, cause: Cause) {
        if let Self::Connection(connection) = self {
            connection.ends(cause);
        }
    }

    /// What it means that there was no response.
    pub(super) fn lost(
        &mut self,
        mark: Mark,
        mut error: TrySendError<Request<RequestBody>>,
        pool: &Pool,
    ) -> Lost {
        match self {
            Self::Connection(connection) => lost_connection(connection, mark, error.error(), pool),
            Self::Lane(lane) => {
                let is_unsent = error.take_message().is_some();
                let tls = tls_failure(error.error());
                lost_lane(lane, (!is_unsent).then(|| Loss::of(error.error())), tls)
            }
        }
    }

    /// What kind of failure ended a response before it was whole.
    pub(super) fn broke(&self, error: &hyper::Error) -> FailureClass {
        let is_malformed = match self {
            Self::Connection(connection) => connection.watch.is_malformed(),
            Self::Lane(lane) => {
                let loss = Loss::of(error);
                lane.lost(Some(loss));
                loss == Loss::Protocol
            }
        };
        if is_malformed { FailureClass::Protocol } else { FailureClass::Reset }
    }

    /// Bytes of the response's body that have not been taken, if they come by [`Self::poll_body`].
    pub(super) fn body_left(&self) -> u64 {
        match self {
            Self::Connection(connection) => connection.watch.body_left(),
            Self::Lane(_) => 0,
        }
    }

    /// The next piece of a body that goes past hyper.
    pub(super) fn poll_body(&self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        match self {
            Self::Connection(connection) => connection.watch.poll_body(cx),
            Self::Lane(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    /// Whether a response comes only while its reader drives the connection.
    pub(super) fn is_driven_by_holder(&self) -> bool {
        matches!(self, Self::Connection(connection) if connection.driver.is_taken())
    }

    /// Moves the connection on.
    pub(super) fn drive(&self, cx: &mut Context<'_>) {
        if let Self::Connection(connection) = self {
            let _ = connection.driver.poll(cx);
        }
    }

    /// Has the connection drive itself: the request's body goes on whether the response is read or not.
    pub(super) fn leave(&self) {
        if let Self::Connection(connection) = self {
            connection.driver.leave();
        }
    }

    /// Gives the carrier back after a whole exchange.
    pub(super) fn give_back(self, pool: &Pool) {
        if let Self::Connection(connection) = self {
            pool.take_back(connection);
        }
    }
}

fn lost_connection(
    connection: &mut Connection,
    mark: Mark,
    error: &hyper::Error,
    pool: &Pool,
) -> Lost {
    connection.progress.withdraw();
    let stage = mark.reached(&connection.progress);
    let is_reused = connection.is_reused();
    let is_malformed = error.is_parse() || connection.watch.is_malformed();
    let tls = tls_failure(error);
    let class = class_of(is_malformed, tls.as_ref());
    let is_fault = !is_reused || stage == Reached::Answered;
    if !is_fault {
        connection.is_stale();
        pool.evict_older(connection);
    }
    Lost { stage, is_reused, class, is_fault, tls }
}

/// `None` if the request was not sent at all.
fn lost_lane(lane: &Lane, loss: Option<Loss>, tls: Option<Failure>) -> Lost {
    lane.lost(loss);
    let (stage, is_fault) = match loss {
        None => (Reached::Unwritten, false),
        Some(Loss::Refused) => (Reached::Refused, false),
        Some(Loss::GoneAway) => (Reached::GoneAway, false),
        // Of a connection that worked until now nothing is known but its end.
        Some(Loss::Connection) => (Reached::Lost(End::Reset), !lane.is_reused()),
        Some(Loss::Reset | Loss::Protocol) => (Reached::Lost(End::Reset), true),
    };
    let class = class_of(loss == Some(Loss::Protocol), tls.as_ref());
    // A stream that the backend ended by itself is no stale connection.
    Lost { stage, is_reused: lane.is_reused() && !is_fault, class, is_fault, tls }
}

/// What TLS has to say of an error. That the other end was not there to say its `close_notify` is said of
/// plain connections too.
fn tls_failure(error: &hyper::Error) -> Option<Failure> {
    tls_cause(error).map(Failure::from_cause)
}

fn class_of(is_malformed: bool, tls: Option<&Failure>) -> FailureClass {
    match tls {
        _ if is_malformed => FailureClass::Protocol,
        Some(_) => FailureClass::Tls,
        None => FailureClass::Reset,
    }
}

impl Mark {
    fn of(progress: &Progress) -> Self {
        Self { written: progress.written(), received: progress.received() }
    }

    /// How far the request came, now that the connection is over.
    fn reached(self, progress: &Progress) -> Reached {
        if progress.received() > self.received {
            Reached::Answered
        } else if progress.taken() <= self.written {
            Reached::Unwritten
        } else if progress.is_ended() {
            let acked = progress.acknowledged().map(|acked| acked.saturating_sub(self.written));
            Reached::Lost(End::Fin { acked })
        } else {
            Reached::Lost(End::Reset)
        }
    }
}
