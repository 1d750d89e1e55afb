//! What the programs ask of userspace, through a ring buffer.

use std::future::Future;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use aya::maps::{MapData, RingBuf};
use steerage_common::abi::NeighborEvent;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::{debug, warn};
use zerocopy::FromBytes as _;

use super::log::Logger;
use super::{Error, Kernel, neighbor};

/// The reading end. Readable when there are events.
pub struct Events(RingBuf<MapData>);

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self(ring)
    }
}

impl Iterator for Events {
    type Item = NeighborEvent;

    /// The next event, if there is one now.
    fn next(&mut self) -> Option<NeighborEvent> {
        loop {
            let record = self.0.next()?;
            // A record of another length is not one of ours.
            if let Ok(event) = NeighborEvent::read_from_bytes(&record) {
                return Some(event);
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Serves the programs' wishes and writes their log, for ever. To be called once.
///
/// # Errors
/// If the buffers are being followed already, or can't be waited for.
pub fn follow(kernel: &Mutex<Kernel>) -> Result<impl Future<Output = ()> + Send + 'static, Error> {
    let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
    let watch = || Error::io("waiting for the programs' events");
    let events = kernel.events()?;
    let logger = kernel.logger()?;
    let mut events = readable(events).map_err(watch())?;
    let mut logger = readable(logger).map_err(watch())?;
    Ok(async move {
        loop {
            tokio::select! {
                ready = events.readable_mut() => match ready {
                    Ok(mut ready) => {
                        ready.get_inner_mut().for_each(|event| resolve(&event));
                        ready.clear_ready();
                    }
                    Err(_) => return,
                },
                ready = logger.readable_mut() => match ready {
                    Ok(mut ready) => {
                        ready.get_inner_mut().flush();
                        ready.clear_ready();
                    }
                    Err(_) => return,
                },
            }
        }
    })
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, and these types keep one descriptor for life"
)]
fn readable<T: AsRawFd>(buffer: T) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(buffer, Interest::READABLE)
}

fn resolve(event: &NeighborEvent) {
    let address = neighbor::address_of(event);
    match neighbor::resolve(event.ifindex, address) {
        Ok(()) => debug!(%address, ifindex = event.ifindex, "asked for a neighbour"),
        // The link may have gone since.
        Err(error) => warn!(%error, "a next hop stays unknown"),
    }
}

/// Keeps [`Logger`] and [`Events`] sendable, which [`follow`] relies on.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Events>();
    is_send::<Logger>();
};
