//! Accepting connections.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use super::permit::{Permit, Permits};
use crate::l7::{self, Proxy};
use crate::net::{self, Listener, Stream};
use crate::region::add;

/// How long accepting pauses when this host has no descriptors or memory left.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// How long a drain waits for permits while connections are still queued.
const QUEUE_PATIENCE: Duration = Duration::from_millis(500);

/// Accepts the connections of one listening socket.
pub(super) struct Acceptor {
    pub(super) proxy: Rc<Proxy>,
    /// Index of the listener in the configuration.
    pub(super) front: usize,
    pub(super) listener: Listener,
    pub(super) permits: Permits,
}

impl Acceptor {
    /// Accepts until the task is aborted.
    pub(super) async fn run(self: Rc<Self>) {
        loop {
            let accepted =
                self.permits.take_for(|cx| self.listener.poll_accept(cx), || self.listener.pause());
            let (permit, accepted) = accepted.await;
            match accepted {
                Ok((stream, peer)) => self.serve(stream, peer, permit),
                Err(error) => self.refused(&error).await,
            }
        }
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
            match self.listener.accept_waiting().await {
                Ok(Some((stream, peer))) => self.serve(stream, peer, permit),
                Err(error) if !net::is_local_shortage(&error) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn serve(&self, stream: Stream, peer: SocketAddr, permit: Permit) {
        add(&self.proxy.line().accepted, 1);
        let guard = Guard::new(self.proxy.clone(), permit);
        let (proxy, front) = (self.proxy.clone(), self.front);
        net::spawn(async move {
            l7::serve(proxy, front, stream, peer).await;
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
    proxy: Rc<Proxy>,
    _permit: Permit,
}

impl Guard {
    fn new(proxy: Rc<Proxy>, permit: Permit) -> Self {
        let connections = &proxy.line().connections;
        connections.store(connections.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Self { proxy, _permit: permit }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let connections = &self.proxy.line().connections;
        let left = connections.load(Ordering::Relaxed).saturating_sub(1);
        connections.store(left, Ordering::Relaxed);
    }
}
