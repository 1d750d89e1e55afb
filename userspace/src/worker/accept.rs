//! Accepting connections.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use super::permit::{Permit, Permits};
use crate::l4;
use crate::l7::{Door, House};
use crate::net::{self, Listener, Stream};
use crate::region::add;

/// How long accepting pauses when this host has no descriptors or memory left.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// Connections that are accepted before other tasks have their turn.
const ACCEPTS_IN_A_ROW: u32 = 16;

/// How long a drain waits for permits while connections are still queued.
const QUEUE_PATIENCE: Duration = Duration::from_millis(500);

/// Accepts the connections of one listening socket.
pub(super) struct Acceptor {
    pub(super) house: Rc<House>,
    /// Where its connections come in; another one when the address passes to another listener.
    pub(super) door: RefCell<Rc<Door>>,
    pub(super) listener: Listener,
    pub(super) permits: Permits,
    /// Whether it waits for a permit.
    pub(super) is_paused: Cell<bool>,
}

impl Acceptor {
    /// Accepts until the task is aborted. It holds no connection whenever it waits.
    pub(super) async fn run(self: Rc<Self>) {
        let in_a_row = Cell::new(0);
        let mut relief = pin!(self.relieve());
        loop {
            let accept = |cx: &mut Context<'_>| {
                let accepted = self.poll_accept(cx);
                in_a_row.set(if accepted.is_pending() { 0 } else { in_a_row.get() + 1 });
                accepted
            };
            let (permit, accepted) = tokio::select! {
                biased;
                accepted = self.permits.take_for(accept, || self.pause()) => accepted,
                never = &mut relief => match never {},
            };
            match accepted {
                Ok((stream, peer)) => self.serve(stream, peer, permit),
                Err(error) => self.refused(&error).await,
            }
            // Those who are served already are not to wait until a burst is over.
            if in_a_row.get() >= ACCEPTS_IN_A_ROW {
                in_a_row.set(0);
                tokio::task::yield_now().await;
            }
        }
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, SocketAddr)>> {
        self.is_paused.set(false);
        let accepted = self.listener.poll_accept(cx);
        self.house.with_line(|line| {
            line.full.store(0, Ordering::Relaxed);
            // Whatever was sent here has been accepted, or, on the ring, will be before the loop waits.
            if accepted.is_pending() {
                line.pending.store(0, Ordering::Relaxed);
            }
        });
        accepted
    }

    /// While nothing is accepted for want of permits, has idle connections end for those that wait.
    async fn relieve(&self) -> Infallible {
        loop {
            net::sleep(net::TICK).await;
            if self.is_paused.get() {
                self.house.make_room(self.listener.queued());
            }
        }
    }

    fn pause(&self) {
        self.is_paused.set(true);
        self.listener.pause();
        self.house.with_line(|line| line.full.store(1, Ordering::Relaxed));
    }

    /// Accepts the connections that wait in the queue: closing the socket would reset them. Those
    /// past the limit stay; they would wait for a permit that drain gives to nobody. What has left
    /// the kernel's queue already can't stay.
    pub(super) async fn accept_queued(&self) {
        self.listener.stop();
        loop {
            let permit = if self.listener.has_accepted() {
                self.permits.take_anyway()
            } else {
                let permit = self.permits.take_for(|_| Poll::Ready(()), || {});
                let Ok((permit, ())) = net::within(QUEUE_PATIENCE, permit).await else { return };
                permit
            };
            if !self.accept_one(permit).await {
                return;
            }
        }
    }

    /// Accepts no more, but for the connections that have left the kernel's queue already.
    pub(super) async fn accept_taken(&self) {
        self.listener.stop();
        while self.listener.has_accepted() && self.accept_one(self.permits.take_anyway()).await {}
    }

    /// Serves a connection that waits; gives whether there may be more.
    async fn accept_one(&self, permit: Permit) -> bool {
        match self.listener.accept_waiting().await {
            Ok(Some((stream, peer))) => self.serve(stream, peer, permit),
            Err(error) if !net::is_local_shortage(&error) => {}
            Ok(None) | Err(_) => return false,
        }
        true
    }

    fn serve(&self, stream: Stream, peer: SocketAddr, permit: Permit) {
        self.house.with_line(|line| add(&line.accepted, 1));
        let guard = Guard::new(self.house.clone(), permit);
        let door = self.door.borrow().clone();
        net::spawn(async move {
            l4::serve(door, stream, peer).await;
            drop(guard);
        });
    }

    async fn refused(&self, error: &io::Error) {
        if net::is_local_shortage(error) {
            tracing::warn!(%error, "can't accept connections: pausing");
            net::sleep(SHORTAGE_PAUSE).await;
        } else {
            // The connection was gone before it could be accepted.
            tracing::debug!(%error, "connection not accepted");
        }
    }
}

/// An open connection, as the worker's line counts it.
struct Guard {
    house: Rc<House>,
    _permit: Permit,
}

impl Guard {
    fn new(house: Rc<House>, permit: Permit) -> Self {
        house.with_line(|line| {
            let connections = line.connections.load(Ordering::Relaxed);
            line.connections.store(connections + 1, Ordering::Relaxed);
        });
        Self { house, _permit: permit }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.house.with_line(|line| {
            let left = line.connections.load(Ordering::Relaxed).saturating_sub(1);
            line.connections.store(left, Ordering::Relaxed);
        });
    }
}
