//! A tunnel that a request has opened: bytes between a client and a backend, unlooked at
//! ([`crate::l4::copy`]).

use std::rc::Rc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use steerage_common::cause::Cause;

use super::attempt::Attempt;
use super::multiplex::Lane;
use super::pool::{Connection, Meter};
use crate::config::model::RouteTimeouts;
use crate::l4::copy::{self, Account as _, Limits, Side};

/// A tunnel that the backend has opened; counted until it is dropped.
#[derive(Debug)]
pub(super) struct Tunnel {
    attempt: Attempt,
    backend: Far,
    timeouts: Rc<RouteTimeouts>,
    _open: Open,
}

/// The backend's side before it is one.
#[derive(Debug)]
pub(super) enum Far {
    /// The whole connection.
    Connection(Connection),
    /// A stream of a shared one.
    Stream {
        stream: OnUpgrade,
        /// Its place there, until the end.
        _lane: Lane,
    },
}

impl Far {
    /// The side, and what was read of it; `None` if it broke before.
    async fn open(&mut self) -> Option<(Side, Bytes)> {
        match self {
            Self::Connection(connection) => {
                let (stream, late) = connection.take_stream().await?;
                Some((Side::Connection(stream), late))
            }
            Self::Stream { stream, .. } => {
                let stream = stream.await.ok()?;
                Some((Side::Stream(TokioIo::new(stream)), Bytes::new()))
            }
        }
    }
}

impl Tunnel {
    pub(super) fn new(attempt: Attempt, backend: Far, timeouts: Rc<RouteTimeouts>) -> Self {
        let open = Open::new(attempt.meter());
        Self { attempt, backend, timeouts, _open: open }
    }

    /// Passes bytes on until both ways have ended; `early` came from the client already. Gives why it
    /// was cut off, if it was.
    pub(super) async fn run(mut self, client: Side, early: Bytes) -> Option<Cause> {
        let Some(backend) = self.backend.open().await else {
            self.attempt.ended(Cause::BackendBroke);
            return None;
        };
        let cut = copy::run(&self.attempt, (client, early), backend, self.limits()).await;
        if let (Far::Connection(connection), Some(cut)) = (&mut self.backend, cut) {
            connection.ends(cut);
        }
        cut
    }

    fn limits(&self) -> Limits {
        Limits { tunnel: self.timeouts.tunnel, half_closed: self.timeouts.half_closed }
    }
}

/// One of the tunnels to a backend.
#[derive(Debug)]
pub(crate) struct Open(Rc<Meter>);

impl Open {
    pub(crate) fn new(meter: Rc<Meter>) -> Self {
        let tunnels = &meter.cell().tunnels;
        tunnels.store(tunnels.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Self(meter)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let tunnels = &self.0.cell().tunnels;
        tunnels.store(tunnels.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }
}
