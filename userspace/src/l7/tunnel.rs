//! A tunnel: bytes between a client and a backend, both ways, unlooked at.
//!
//! What one side sends is read only when the other has taken what came before, so a tunnel holds at most
//! one read ([`SCRATCH_BYTES`]) for each way, and nothing while it is quiet. An end of one side's stream is
//! passed on as that, and the other way goes on; an error of one side resets the other.
//!
//! Time limits: `tunnel` runs while nothing moves at all, `half_closed` instead of it once one way has
//! ended. While bytes wait for a side to take them, only `tunnel` runs: a slow reader is not idle. A drain
//! waits for tunnels, and cuts them off at its deadline.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use steerage_common::cause::Cause;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::attempt::Attempt;
use super::multiplex::Lane;
use super::pool::Connection;
use crate::config::model::RouteTimeouts;
use crate::net::{Deadline, Stream};

/// What is read at a time.
const SCRATCH_BYTES: usize = 64 * 1024;

/// Reads of one way before the other gets its turn.
const ROUNDS_MAX: usize = 8;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A tunnel that the backend has opened; counted until it is dropped.
#[derive(Debug)]
pub(super) struct Tunnel {
    attempt: Attempt,
    backend: Far,
    timeouts: Rc<RouteTimeouts>,
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

/// One end of a tunnel.
#[derive(Debug)]
pub(super) enum Side {
    /// The whole connection.
    Connection(Stream),
    /// A stream of an HTTP/2 connection.
    Stream(TokioIo<Upgraded>),
}

impl Tunnel {
    pub(super) fn new(attempt: Attempt, backend: Far, timeouts: Rc<RouteTimeouts>) -> Self {
        let tunnels = &attempt.cell().tunnels;
        tunnels.store(tunnels.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Self { attempt, backend, timeouts }
    }

    /// Passes bytes on until both ways have ended; `early` came from the client already. Gives why it
    /// was cut off, if it was.
    pub(super) async fn run(mut self, client: Side, early: Bytes) -> Option<Cause> {
        let (backend, late) = self.backend.open().await?;
        let mut copy = Copy { client, backend, up: Way::new(early), down: Way::new(late) };
        let deadline = Deadline::after(self.timeouts.tunnel);
        let mut before = copy.state();
        let end = poll_fn(|cx| {
            let polled = copy.poll(cx);
            let now = copy.state();
            if now != before {
                self.attempt
                    .passed(now.up_bytes - before.up_bytes, now.down_bytes - before.down_bytes);
                deadline.set(now.limit(&self.timeouts));
                before = now;
            }
            match polled {
                Poll::Ready(ended) => Poll::Ready(ended.map_or_else(End::Broke, |()| End::Passed)),
                Poll::Pending => match self.attempt.cut() {
                    Some(cut) => Poll::Ready(End::Cut(cut)),
                    None => deadline.poll_reached(cx).map(|()| End::Late(now.cause())),
                },
            }
        })
        .await;
        let cut = match &end {
            End::Passed => return None,
            End::Broke(error) => {
                tracing::debug!(%error, "tunnel broke");
                None
            }
            End::Late(cut) | End::Cut(cut) => Some(*cut),
        };
        if !matches!(end, End::Late(_)) {
            copy.client.reset();
            copy.backend.reset();
        }
        if let (Far::Connection(connection), Some(cut)) = (&mut self.backend, cut) {
            connection.ends(cut);
        }
        cut
    }
}

/// How a tunnel ended.
enum End {
    /// Both ways have.
    Passed,
    Broke(io::Error),
    /// By a time limit: whatever was sent has been passed on.
    Late(Cause),
    /// From outside.
    Cut(Cause),
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let tunnels = &self.attempt.cell().tunnels;
        tunnels.store(tunnels.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }
}

/// The two ways.
struct Copy {
    client: Side,
    backend: Side,
    up: Way,
    down: Way,
}

/// What the time limit depends on; it begins anew when this changes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    up_bytes: u64,
    down_bytes: u64,
    is_half_closed: bool,
    is_waiting: bool,
}

impl State {
    fn limit(self, timeouts: &RouteTimeouts) -> Duration {
        match self.cause() {
            Cause::TunnelHalfClosed => timeouts.half_closed,
            _ => timeouts.tunnel,
        }
    }

    /// Which limit that is.
    fn cause(self) -> Cause {
        if self.is_half_closed && !self.is_waiting {
            Cause::TunnelHalfClosed
        } else {
            Cause::TunnelIdle
        }
    }
}

impl Copy {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let up = self.up.poll(cx, &mut self.client, &mut self.backend)?;
        let down = self.down.poll(cx, &mut self.backend, &mut self.client)?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn state(&self) -> State {
        let (up, down) = (&self.up, &self.down);
        State {
            up_bytes: up.bytes,
            down_bytes: down.bytes,
            is_half_closed: up.stage == Stage::Ended || down.stage == Stage::Ended,
            is_waiting: up.is_waiting || down.is_waiting,
        }
    }
}

/// One way.
struct Way {
    /// Read and not yet written.
    pending: Bytes,
    stage: Stage,
    /// Whether the receiver does not take what there is for it.
    is_waiting: bool,
    /// Bytes that the receiver took.
    bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// The sender has ended; the receiver is to be told.
    Ending,
    Ended,
}

impl Way {
    fn new(early: Bytes) -> Self {
        Self { pending: early, stage: Stage::Open, is_waiting: false, bytes: 0 }
    }

    /// Ready once the end was passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Side,
        to: &mut Side,
    ) -> Poll<io::Result<()>> {
        if self.stage == Stage::Ended {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..ROUNDS_MAX {
            self.is_waiting = true;
            // Done while bytes are merely deferred; pending while the kernel takes no more.
            ready!(to.poll_flush(cx))?;
            while !self.pending.is_empty() {
                let written = ready!(to.poll_write(cx, &self.pending))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                let _ = self.pending.split_to(written);
                self.bytes += written as u64;
            }
            self.is_waiting = false;
            if self.stage == Stage::Ending {
                ready!(to.poll_shutdown(cx))?;
                self.stage = Stage::Ended;
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_piece(cx, from, to))?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once and writes what the receiver takes at once; the rest is kept.
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Side,
        to: &mut Side,
    ) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(SCRATCH_BYTES, 0);
            let mut buffer = ReadBuf::new(scratch);
            ready!(from.poll_read(cx, &mut buffer))?;
            let piece = buffer.filled();
            if piece.is_empty() {
                self.stage = Stage::Ending;
                return Poll::Ready(Ok(()));
            }
            let written = match to.poll_write(cx, piece) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            self.bytes += written as u64;
            self.pending = Bytes::copy_from_slice(&piece[written..]);
            Poll::Ready(Ok(()))
        })
    }
}

impl Side {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Connection(stream) => match ready!(Pin::new(stream).poll_read(cx, buffer)) {
                // Of TLS, a FIN without `close_notify`: an end to pass on as it came, not a reset that
                // would take from the other side what it has not read yet.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                read => Poll::Ready(read),
            },
            Self::Stream(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Connection(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Stream(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Connection(stream) => Pin::new(stream).poll_flush(cx),
            Self::Stream(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Connection(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Stream(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    /// Makes the end a reset. Of an HTTP/2 stream it is one when the stream is dropped before its end.
    fn reset(&self) {
        if let Self::Connection(stream) = self {
            stream.progress().withdraw();
        }
    }
}
