//! A backend's stream while hyper has it: every byte passes the [`ResponseGuard`] first.
//!
//! What is no HTTP is an error of the stream, and so is what follows a response: hyper gets the response,
//! and not one byte more. Whoever has the connection learns from its [`Watch`] which of them it was.
//!
//! **Bodies past hyper.** A body of known length needs no framing, and hyper's way with it costs: a
//! channel for each body, and a buffer for each connection that has left the core's cache when it is
//! used again. So hyper gets the head of such a response with a length of zero, and its body goes to
//! whoever has the request ([`Watch::poll_body`]). It is read into one space of the worker, which is still
//! in the cache. Until the body has ended hyper gets nothing.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::UPGRADE;
use http::{Method, Request};
use hyper::body::Body;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::guard::{Asked, Limits, Measured, Opinion, ResponseGuard};
use crate::net::Stream;

/// What a response's head may have. More header lines would cost hyper an allocation each time.
const LIMITS: Limits = Limits { head_bytes: 64 * 1024, fields: 100, ..Limits::DEFAULT };

/// What is read at a time: a response of 64 KiB with its head is one read and one write.
const SPACE_BYTES: usize = 128 * 1024;

/// Pieces that are copied out of the space. A longer one keeps the whole space while a client is slow
/// to take it, which is worth it from here on.
const COPIED_BYTES_MAX: usize = 16 * 1024;

thread_local! {
    /// Where responses are read to. A long piece takes the space with it, and gives it back when it
    /// has been sent.
    static SPACE: RefCell<BytesMut> = RefCell::default();
}

/// A backend's connection under hyper, as whoever has the connection sees it.
#[derive(Debug)]
pub(super) struct Watch {
    guard: RefCell<ResponseGuard>,
    /// `None` once a tunnel has it.
    stream: RefCell<Option<Stream>>,
    /// What has come, passed, and not been taken yet.
    came: RefCell<Bytes>,
    /// Whether a body of the response that comes may go past hyper.
    may_pass_hyper: Cell<bool>,
    /// Bytes of such a body that have not been taken yet.
    body_left: Cell<u64>,
}

impl Watch {
    /// Announces a request.
    pub(super) fn ask<B: Body>(&self, request: &Request<B>) {
        let asked = match *request.method() {
            Method::HEAD => Asked::Head,
            Method::CONNECT => Asked::Connect,
            _ if request.headers().contains_key(UPGRADE) => Asked::Upgrade,
            _ => Asked::Plain,
        };
        self.guard.borrow_mut().ask(asked);
        // A request's body is hyper's to send, whatever comes of the response.
        self.may_pass_hyper.set(request.body().is_end_stream());
    }

    /// Whether the backend sent what is no HTTP.
    pub(super) fn is_malformed(&self) -> bool {
        self.guard.borrow().is_malformed()
    }

    /// Whether the backend sent what nobody had asked for.
    pub(super) fn is_poisoned(&self) -> bool {
        self.guard.borrow().is_poisoned()
    }

    /// Bytes of the body that goes past hyper; 0 if none does.
    pub(super) fn body_left(&self) -> u64 {
        self.body_left.get()
    }

    /// The next piece of the body that goes past hyper.
    ///
    /// # Errors
    /// The stream's, and its end before that of the body.
    pub(super) fn poll_body(&self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let mut piece = self.came.take();
        if piece.is_empty() {
            piece = ready!(SPACE.with_borrow_mut(|space| self.poll_piece(cx, space)))?;
        }
        self.body_left.set(self.body_left.get().saturating_sub(piece.len() as u64));
        Poll::Ready(Ok(piece))
    }

    fn poll_piece(&self, cx: &mut Context<'_>, space: &mut BytesMut) -> Poll<io::Result<Bytes>> {
        ready!(self.poll_space(cx, space))?;
        if space.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        let opinion = self.guard.borrow_mut().inspect(space);
        space.truncate(passed(opinion, space.len()));
        Poll::Ready(Ok(take(space)))
    }

    /// Reads into the empty space.
    fn poll_space(&self, cx: &mut Context<'_>, space: &mut BytesMut) -> Poll<io::Result<()>> {
        space.clear();
        space.reserve(SPACE_BYTES);
        let mut stream = self.stream.borrow_mut();
        let stream = stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        pin!(stream.read_buf(space)).poll(cx).map_ok(|_| ())
    }

    /// Reads the beginning of a response for hyper.
    fn poll_beginning(
        &self,
        cx: &mut Context<'_>,
        space: &mut BytesMut,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_space(cx, space))?;
        if space.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let (opinion, measured) = self.guard.borrow_mut().inspect_and_measure(space);
        space.truncate(passed(opinion, space.len()));
        let head = measured.filter(|head| head.head_bytes <= buffer.remaining());
        let count = match head.and_then(|head| Some((head, digits(space, &head)?))) {
            Some((head, digits)) => {
                space[digits].fill(b'0');
                self.body_left.set(head.body_bytes);
                head.head_bytes
            }
            None => space.len().min(buffer.remaining()),
        };
        buffer.put_slice(&space[..count]);
        space.advance(count);
        *self.came.borrow_mut() = take(space);
        // Nothing would be the end of the stream.
        Poll::Ready(if count == 0 { Err(io::ErrorKind::InvalidData.into()) } else { Ok(()) })
    }

    /// Reads for hyper.
    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.body_left.get() != 0 {
            // Whoever reads the body is woken; hyper is polled again when it has ended.
            return Poll::Pending;
        }
        let mut came = self.came.borrow_mut();
        if !came.is_empty() {
            let count = came.len().min(buffer.remaining());
            buffer.put_slice(&came[..count]);
            came.advance(count);
            return Poll::Ready(Ok(()));
        }
        drop(came);
        if self.is_poisoned() {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        if self.may_pass_hyper.get() && self.guard.borrow().is_at_plain_beginning() {
            return SPACE.with_borrow_mut(|space| self.poll_beginning(cx, space, buffer));
        }
        let before = buffer.filled().len();
        ready!(self.with_stream(|stream| stream.poll_read(cx, buffer)))?;
        let came = &buffer.filled()[before..];
        let passed = passed(self.guard.borrow_mut().inspect(came), came.len());
        let is_end = came.is_empty();
        buffer.set_filled(before + passed);
        // Nothing would be the end of the stream.
        Poll::Ready(if passed == 0 && !is_end {
            Err(io::ErrorKind::InvalidData.into())
        } else {
            Ok(())
        })
    }

    fn with_stream<T>(
        &self,
        poll: impl FnOnce(Pin<&mut Stream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match self.stream.borrow_mut().as_mut() {
            Some(stream) => poll(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

/// How many of `came` bytes may pass.
fn passed(opinion: Opinion, came: usize) -> usize {
    match opinion {
        Opinion::Pass => came,
        Opinion::Excess(passed) => passed,
        Opinion::Malformed => 0,
    }
}

/// Where the digits of the `Content-Length` stand. `None` if they are not the shortest ones, which the
/// client is to get as they are.
fn digits(bytes: &[u8], head: &Measured) -> Option<Range<usize>> {
    let value = bytes.get(..head.length_end)?;
    let end = value.trim_ascii_end().len();
    let count = value[..end].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let digits = end - count..end;
    let is_shortest = bytes.get(digits.start).is_some_and(|first| *first != b'0');
    (is_shortest && count != 0).then_some(digits)
}

/// What the space holds, out of it.
fn take(space: &mut BytesMut) -> Bytes {
    match space.len() {
        0 => Bytes::new(),
        1..=COPIED_BYTES_MAX => Bytes::copy_from_slice(space),
        _ => space.split().freeze(),
    }
}

/// The stream with its guard.
#[derive(Debug)]
pub(super) struct Watched(Rc<Watch>);

impl Watched {
    pub(super) fn new(stream: Stream) -> Self {
        Self(Rc::new(Watch {
            guard: RefCell::new(ResponseGuard::new(LIMITS)),
            stream: RefCell::new(Some(stream)),
            came: RefCell::default(),
            may_pass_hyper: Cell::new(false),
            body_left: Cell::new(0),
        }))
    }

    pub(super) fn watch(&self) -> Rc<Watch> {
        self.0.clone()
    }

    /// The stream, for a tunnel.
    pub(super) fn into_stream(self) -> Option<Stream> {
        self.0.stream.take()
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.with_stream(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.with_stream(|stream| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with_stream(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with_stream(|stream| stream.poll_shutdown(cx))
    }
}
