//! The access log, as far as the supervisor writes it.
//!
//! ```text
//! worker ─ batches ─► task: reads the worker's socket ─► channel ─► one thread: file, stdout, syslog, journal
//! ```
//!
//! A task follows each worker's socket until its end, also when the worker is long replaced. When the thread
//! is held up (a full pipe, a slow disk) the channel fills, then the sockets, and then the workers drop
//! lines and count them; nobody waits but the thread.
//!
//! Orders to the thread (another destination, to open the file anew) do not stand in that line: they are done
//! before the next batch.

mod follow;
mod target;
mod writer;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::Error;
use crate::access::{BATCH_BYTES, SOCKET_BYTES};
use crate::config::model::Destination;
use crate::net::TICK;
use target::Target;
use writer::{Order, Shared, Writer};

/// Batches between the workers' sockets and the thread.
const BATCHES_MAX: usize = 32;

/// How long a daemon that ends waits for its last lines to be written.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// Room for a batch; one line may be longer than a batch is meant to be.
const ROOM_BYTES: usize = 4 * BATCH_BYTES;

/// The log of this daemon.
#[derive(Debug)]
pub struct AccessLog {
    batches: mpsc::Sender<Vec<u8>>,
    tap: Tap,
    /// Told when the thread has ended.
    end: oneshot::Receiver<()>,
}

/// Where workers' sockets are put, and orders given.
#[derive(Clone, Debug)]
pub struct Tap {
    /// Does not keep the thread from its end.
    batches: mpsc::WeakSender<Vec<u8>>,
    shared: Arc<Shared>,
}

/// A destination that has been opened and is not in use yet.
#[derive(Debug)]
pub struct Prepared(Option<(Destination, Option<Target>)>);

impl AccessLog {
    /// Opens the destination and starts the thread.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn start(destination: &Destination) -> Result<Self, Error> {
        let target = open(destination)?;
        let (batches, waiting) = mpsc::channel(BATCHES_MAX);
        let (ended, end) = oneshot::channel();
        let shared = Arc::new(Shared::new(destination.clone()));
        let writer = Writer::new(target, shared.clone());
        let thread = std::thread::Builder::new().name("access-log".into());
        let run = move || {
            writer.run(waiting);
            // Whoever waits for it may have given up.
            let _ = ended.send(());
        };
        thread.spawn(run).map_err(Error::system("cannot start the access log's thread"))?;
        let tap = Tap { batches: batches.downgrade(), shared };
        Ok(Self { batches, tap, end })
    }

    /// Where workers' sockets are put.
    #[must_use]
    pub fn tap(&self) -> Tap {
        self.tap.clone()
    }

    /// Waits until all that workers have said is written; they must have ended.
    pub async fn finish(self) {
        let Self { batches, end, .. } = self;
        drop(batches);
        if tokio::time::timeout(END_PATIENCE, end).await.is_err() {
            warn!("the access log takes no more: its last lines are lost");
        }
    }
}

impl Tap {
    /// Makes the way of a worker's lines; gives the worker's end of it.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn connect(&self) -> io::Result<OwnedFd> {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
        widen(&theirs);
        rustix::io::ioctl_fionbio(&ours, true)?;
        let ours = UnixStream::from_std(ours.into())?;
        let batches = self.batches.upgrade().ok_or(io::ErrorKind::BrokenPipe)?;
        let shared = self.shared.clone();
        tokio::spawn(async move {
            while let Ok(batch) = read(&ours).await
                && !batch.is_empty()
            {
                shared.followers.show(&batch);
                if batches.send(batch).await.is_err() {
                    return;
                }
            }
        });
        Ok(theirs)
    }

    /// Opens a destination, if it is another one than before.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn prepare(&self, destination: &Destination) -> Result<Prepared, Error> {
        if self.shared.destination() == *destination {
            return Ok(Prepared(None));
        }
        Ok(Prepared(Some((destination.clone(), open(destination)?))))
    }

    /// Writes to what has been prepared from now on.
    pub fn turn_to(&self, prepared: Prepared) {
        if let Some((destination, target)) = prepared.0 {
            self.shared.set_destination(destination);
            if target.is_some() {
                return self.order(Order::Target(target));
            }
            // Lines of requests under way are still to come.
            let tap = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(3 * TICK).await;
                if tap.shared.destination() == Destination::Off {
                    tap.order(Order::Target(None));
                }
            });
        }
    }

    /// Opens the destination anew whenever the signal comes.
    pub async fn follow(self, mut signal: Signal) {
        while signal.recv().await.is_some() {
            info!(path = %self.shared.destination(), "the access log is opened anew");
            self.order(Order::Reopen);
        }
    }

    /// Lines from now on, for one who looks on; `None` if none are written.
    #[must_use]
    pub fn follow_lines(&self) -> Option<mpsc::Receiver<Bytes>> {
        (self.shared.destination() != Destination::Off).then(|| self.shared.followers.join())
    }

    /// Lines that the destination did not take.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    fn order(&self, order: Order) {
        self.shared.order(order);
        // Wakes the thread if it waits; if there is no room it does not.
        let _ = self.batches.upgrade().map(|batches| batches.try_send(Vec::new()));
    }
}

fn open(destination: &Destination) -> Result<Option<Target>, Error> {
    Target::open(destination).map_err(|source| {
        let destination = destination.to_string();
        Error::AccessLog { destination, source }
    })
}

/// Makes room in a worker's socket, as far as this process may.
fn widen(socket: &OwnedFd) {
    use nix::sys::socket::{setsockopt, sockopt};
    if setsockopt(socket, sockopt::SndBufForce, &SOCKET_BYTES).is_err()
        && let Err(error) = setsockopt(socket, sockopt::SndBuf, &SOCKET_BYTES)
    {
        warn!(%error, "lines of the access log have little room");
    }
}

/// The next batch; empty at the end.
async fn read(socket: &UnixStream) -> io::Result<Vec<u8>> {
    // Not by its own reads: for them little read means that nothing is left.
    let receive = || {
        let mut batch = Vec::with_capacity(ROOM_BYTES);
        let room = rustix::buffer::spare_capacity(&mut batch);
        rustix::net::recv(socket, room, RecvFlags::empty())?;
        Ok(batch)
    };
    socket.async_io(Interest::READABLE, receive).await
}

#[cfg(test)]
mod tests;
