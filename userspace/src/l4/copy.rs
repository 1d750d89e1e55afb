//! Bytes between a client and a backend, both ways, unlooked at: what tunnels, tcp and tls listeners do.
//!
//! What one side sends is read only when the other has taken what came before. A way begins by copying: it
//! holds one read ([`SCRATCH_BYTES`]) at most, and nothing while it is quiet. Once [`SPLICE_AFTER_BYTES`] have
//! passed between plain connections the kernel moves the rest through a pipe ([`Pipe`]): the way holds what
//! the pipe does, and no pipe while it is quiet. An end of one side's stream is passed on as that, and the
//! other way goes on; an error of one side resets the other.
//!
//! Time limits: `tunnel` runs while nothing moves at all, `half_closed` instead of it once one way has
//! ended. While bytes wait for a side to take them, here or in the kernel, only `tunnel` runs: a slow reader
//! is not idle, and what it acknowledges is movement. A drain waits for tunnels, and cuts them off at its
//! deadline.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use steerage_common::cause::Cause;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::{Deadline, Pipe, Stream, clock};

/// What is read at a time.
const SCRATCH_BYTES: usize = 64 * 1024;

/// Bytes of one way from which on a pipe costs less than copying.
const SPLICE_AFTER_BYTES: u64 = 64 * 1024;

/// Reads of one way before the other gets its turn.
const ROUNDS_MAX: usize = 8;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One end.
#[derive(Debug)]
pub(crate) enum Side {
    /// The whole connection.
    Connection(Stream),
    /// A stream of an HTTP/2 connection.
    Stream(TokioIo<Upgraded>),
}

impl Side {
    /// Whether its connection has broken, and not merely ended. Of a stream nothing more is known than that
    /// the tunnel broke.
    fn is_lost(&self) -> bool {
        match self {
            Self::Connection(stream) => {
                let end = stream.progress().end();
                end.is_some_and(|end| end != Cause::Eof && end != Cause::CloseNotify)
            }
            Self::Stream(_) => true,
        }
    }
}

/// A side, and what was read of it before.
pub(crate) type End = (Side, Bytes);

/// How long nothing may move.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) tunnel: Duration,
    /// Once one way has ended.
    pub(crate) half_closed: Duration,
}

/// Who answers for what passes.
pub(crate) trait Account {
    /// So many bytes have passed to the backend, and so many from it.
    fn passed(&self, up: u64, down: u64);

    /// Why it must end now, if it must.
    fn cut(&self) -> Option<Cause>;

    /// It has ended by this: [`Cause::Done`] if both ways have.
    fn ended(&self, _cause: Cause) {}
}

/// Passes bytes on until both ways have ended; gives why it was cut off, if it was.
pub(crate) async fn run(
    account: &impl Account,
    client: End,
    backend: End,
    limits: Limits,
) -> Option<Cause> {
    let ((client, early), (backend, late)) = (client, backend);
    let mut copy = Copy { client, backend, up: Way::new(early), down: Way::new(late) };
    let deadline = Deadline::after(limits.tunnel);
    let mut before = copy.state();
    let mut moved = Moved { at_ms: clock::now_ms(), acknowledged: [0; 2] };
    let outcome = poll_fn(|cx| {
        let polled = copy.poll(cx);
        let now = copy.state();
        if now != before {
            account.passed(now.up_bytes - before.up_bytes, now.down_bytes - before.down_bytes);
            deadline.set(now.limit(limits));
            moved.at_ms = clock::now_ms();
            before = now;
        }
        if let Poll::Ready(ended) = polled {
            return Poll::Ready(ended.map_or_else(Outcome::Broke, |()| Outcome::Passed));
        }
        if let Some(cut) = account.cut() {
            return Poll::Ready(Outcome::Cut(cut));
        }
        while deadline.poll_reached(cx).is_ready() {
            match moved.patience(copy.in_flight(), now.limit(limits), limits.tunnel) {
                Some(patience) => deadline.set(patience),
                None => return Poll::Ready(Outcome::Late(now.cause())),
            }
        }
        Poll::Pending
    })
    .await;
    let cut = match &outcome {
        Outcome::Passed => {
            account.ended(Cause::Done);
            return None;
        }
        Outcome::Broke(error) => {
            tracing::debug!(%error, "tunnel broke");
            account.ended(if copy.client.is_lost() { Cause::Reset } else { Cause::BackendBroke });
            None
        }
        Outcome::Late(cut) | Outcome::Cut(cut) => Some(*cut),
    };
    if let Some(cut) = cut {
        account.ended(cut);
    }
    if !matches!(outcome, Outcome::Late(_)) {
        copy.client.reset();
        copy.backend.reset();
    }
    cut
}

/// How it ended.
enum Outcome {
    /// Both ways have.
    Passed,
    Broke(io::Error),
    /// By a time limit: whatever was sent has been passed on.
    Late(Cause),
    /// From outside.
    Cut(Cause),
}

/// When something moved last, as far as the kernel knows.
struct Moved {
    at_ms: u64,
    /// Bytes that each side has acknowledged, when it was looked at.
    acknowledged: [u64; 2],
}

impl Moved {
    /// How long is to be waited after a limit has passed; `None` if no longer. `in_flight` is what is still
    /// under way to each side: the bytes that it has acknowledged before.
    fn patience(
        &mut self,
        in_flight: [Option<u64>; 2],
        limit: Duration,
        tunnel: Duration,
    ) -> Option<Duration> {
        let now_ms = clock::now_ms();
        if in_flight == [None; 2] {
            return None;
        }
        for (side, acknowledged) in in_flight.into_iter().enumerate() {
            let Some(acknowledged) = acknowledged else { continue };
            if std::mem::replace(&mut self.acknowledged[side], acknowledged) != acknowledged {
                self.at_ms = now_ms;
            }
        }
        let until_ms = self.at_ms + tunnel.as_millis() as u64;
        let left = Duration::from_millis(until_ms.saturating_sub(now_ms));
        (!left.is_zero()).then(|| left.min(limit))
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
    fn limit(self, limits: Limits) -> Duration {
        match self.cause() {
            Cause::TunnelHalfClosed => limits.half_closed,
            _ => limits.tunnel,
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

    fn in_flight(&self) -> [Option<u64>; 2] {
        [&self.client, &self.backend].map(Side::in_flight)
    }
}

/// One way.
struct Way {
    /// Read and not yet written.
    pending: Bytes,
    /// What the kernel moves bytes through; `None` while it holds none.
    pipe: Option<Pipe>,
    /// Whether this host has no pipe to give.
    has_no_pipe: bool,
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
        Self {
            pending: early,
            pipe: None,
            has_no_pipe: false,
            stage: Stage::Open,
            is_waiting: false,
            bytes: 0,
        }
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
            ready!(self.poll_pass(cx, to))?;
            self.is_waiting = false;
            if self.stage == Stage::Ending {
                ready!(to.poll_shutdown(cx))?;
                self.stage = Stage::Ended;
                return Poll::Ready(Ok(()));
            }
            match (from.plain(), to.plain()) {
                (Some(from), Some(_)) if self.is_for_a_pipe() => {
                    ready!(self.poll_pipe(cx, from))?;
                }
                _ => ready!(self.poll_piece(cx, from, to))?,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Passes on what was read before.
    fn poll_pass(&mut self, cx: &mut Context<'_>, to: &mut Side) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(to.poll_write(cx, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let _ = self.pending.split_to(written);
            self.bytes += written as u64;
        }
        if let (Some(pipe), Some(to)) = (&mut self.pipe, to.plain()) {
            while !pipe.is_empty() {
                let moved = ready!(to.poll_splice_out(cx, pipe))?;
                if moved == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.bytes += moved as u64;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_for_a_pipe(&self) -> bool {
        self.bytes >= SPLICE_AFTER_BYTES && !self.has_no_pipe
    }

    /// Has the kernel move what there is into a pipe.
    fn poll_pipe(&mut self, cx: &mut Context<'_>, from: &Stream) -> Poll<io::Result<()>> {
        let Some(mut pipe) = self.pipe.take().or_else(Pipe::take) else {
            self.has_no_pipe = true;
            return Poll::Ready(Ok(()));
        };
        // Dropped while there is nothing: somebody else may need it.
        match ready!(from.poll_splice_in(cx, &mut pipe))? {
            0 => self.stage = Stage::Ending,
            _ => self.pipe = Some(pipe),
        }
        Poll::Ready(Ok(()))
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

    /// The connection, if bytes go over it as they are.
    fn plain(&self) -> Option<&Stream> {
        match self {
            Self::Connection(stream) => Some(stream).filter(|stream| stream.is_plain()),
            Self::Stream(_) => None,
        }
    }

    /// What the other end has acknowledged, if something is still under way to it.
    fn in_flight(&self) -> Option<u64> {
        match self {
            Self::Connection(stream) => stream.progress().in_flight().map(|now| now.acknowledged),
            Self::Stream(_) => None,
        }
    }

    /// Makes the end a reset. Of an HTTP/2 stream it is one when the stream is dropped before its end.
    fn reset(&self) {
        if let Self::Connection(stream) = self {
            stream.progress().withdraw();
        }
    }
}
