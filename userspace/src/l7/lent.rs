//! A client's stream, and how its bytes come to hyper.
//!
//! An idle client costs little: hyper has its connection, with buffers for reading and writing, only
//! from the moment in which the head of a request is whole. Until then what comes is kept here, as it
//! comes, and is no longer than a head may be. The very first bytes also decide the version
//! ([`super::preface`]).
//!
//! While hyper has the connection it reads straight into its own buffer. Either way every byte of HTTP/1
//! passes the [`Gate`] before hyper sees it; what is refused it never sees, nor the end of the stream.
//!
//! For hyper a shutdown merely flushes: what ends the connection is [`super::serve`], which mostly closes
//! it at once and so saves the system call.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;
use super::gate::Gate;
use super::guard::Place;
use super::preface::{self, Version};
use crate::net::{Stream, clock};

/// What is read at a time while hyper does not read.
const READ_BYTES: usize = 4096;

/// Bytes that are kept for another protocol while the backend has not agreed to it.
const HELD_BYTES_MAX: usize = 16 * 1024;

/// What a client begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// A request's head, whole.
    Http1,
    /// HTTP/2's preface.
    Http2,
    /// What the gate refuses.
    Refused(ErrorClass),
    /// Nothing: the client has closed.
    End,
}

/// A stream that can be lent to hyper more than once.
#[derive(Debug)]
pub(super) struct Line {
    stream: RefCell<Stream>,
    gate: Rc<Gate>,
    version: Cell<Version>,
    /// Bytes that hyper may have and has not got yet.
    passed: RefCell<Vec<u8>>,
    /// Bytes that the gate is still to judge.
    held: RefCell<Vec<u8>>,
    /// Whether hyper has written all that it had.
    is_flushed: Cell<bool>,
    /// Whether hyper waits for bytes that have not come.
    is_waiting: Cell<bool>,
    /// Of HTTP/2, what passes.
    frames: RefCell<Frames>,
}

impl Line {
    pub(super) fn new(stream: Stream, gate: Rc<Gate>) -> Rc<Self> {
        Rc::new(Self {
            stream: RefCell::new(stream),
            gate,
            version: Cell::new(Version::Unsure),
            passed: RefCell::default(),
            held: RefCell::default(),
            is_flushed: Cell::new(true),
            is_waiting: Cell::new(false),
            frames: RefCell::new(Frames::new(clock::now_ms())),
        })
    }

    /// The half that hyper gets.
    pub(super) fn lend(self: &Rc<Self>) -> Lent {
        Lent(self.clone())
    }

    /// Takes back what hyper had read and not used.
    pub(super) fn give_back(&self, unused: &[u8]) {
        self.passed.borrow_mut().splice(..0, unused.iter().copied());
    }

    /// Whether part of a head has come.
    pub(super) fn has_begun(&self) -> bool {
        self.gate.place() != Place::Between || !self.held.borrow().is_empty()
    }

    /// Whether hyper waits for the client.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting.get()
    }

    /// Whether an HTTP/2 client, which was sent so many bytes, floods.
    pub(super) fn flood(&self, sent: u64) -> Option<Cause> {
        self.frames.borrow_mut().flood(clock::now_ms(), sent)
    }

    /// Which flood an HTTP/2 client's is that h2 has ended.
    pub(super) fn worst_flood(&self) -> Option<Cause> {
        self.frames.borrow().worst()
    }

    /// Whether hyper has nothing left to write.
    pub(super) fn is_flushed(&self) -> bool {
        self.is_flushed.get()
    }

    /// The stream itself, once hyper has given its half back, and what came and nobody has had.
    pub(super) fn into_parts(self) -> (Stream, Bytes) {
        let mut unused = self.passed.into_inner();
        unused.append(&mut self.held.into_inner());
        (self.stream.into_inner(), unused.into())
    }

    /// Reads until there is something for hyper to do.
    pub(super) fn poll_beginning(&self, cx: &mut Context<'_>) -> Poll<io::Result<Beginning>> {
        loop {
            if self.gate.has_more() {
                return Poll::Ready(Ok(Beginning::Http1));
            }
            if let Some(refusal) = self.gate.refusal() {
                return Poll::Ready(Ok(Beginning::Refused(refusal.class)));
            }
            let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
            let mut came = ReadBuf::uninit(&mut space);
            ready!(self.poll_read(cx, &mut came))?;
            if came.filled().is_empty() {
                return Poll::Ready(Ok(Beginning::End));
            }
            let mut bytes = self.held.take();
            bytes.extend_from_slice(came.filled());
            if self.version.get() == Version::Unsure {
                self.version.set(preface::judge(&bytes));
            }
            match self.version.get() {
                Version::Http1 => self.admit(bytes),
                Version::Unsure => *self.held.borrow_mut() = bytes,
                Version::Http2 => {
                    *self.passed.borrow_mut() = bytes;
                    return Poll::Ready(Ok(Beginning::Http2));
                }
            }
        }
    }

    /// Lets the gate judge bytes: they may pass, or are held.
    fn admit(&self, mut bytes: Vec<u8>) {
        let rest = bytes.split_off(self.gate.inspect(&bytes));
        if self.gate.refusal().is_none() {
            self.held.borrow_mut().extend_from_slice(&rest);
        }
        let mut passed = self.passed.borrow_mut();
        if passed.is_empty() {
            *passed = bytes;
        } else {
            passed.extend_from_slice(&bytes);
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, buffer);
        self.is_waiting.set(polled.is_pending());
        polled
    }

    /// Reads what may pass.
    fn poll_gated(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            if self.gate.refusal().is_some() {
                // An end would make hyper drop the requests that it is at.
                return Poll::Pending;
            }
            if self.gate.is_undecided(cx) {
                let mut held = self.held.borrow_mut();
                if held.len() >= HELD_BYTES_MAX {
                    return Poll::Pending;
                }
                ready!(self.poll_read(cx, buffer))?;
                let came = &buffer.filled()[before..];
                if came.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                held.extend_from_slice(came);
                buffer.set_filled(before);
                continue;
            }
            let held = self.held.take();
            if !held.is_empty() {
                self.admit(held);
                if give(&mut self.passed.borrow_mut(), buffer) {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            ready!(self.poll_read(cx, buffer))?;
            let came = &buffer.filled()[before..];
            let passed = self.gate.inspect(came);
            if passed == came.len() {
                return Poll::Ready(Ok(()));
            }
            if self.gate.refusal().is_none() {
                self.held.borrow_mut().extend_from_slice(&came[passed..]);
            }
            buffer.set_filled(before + passed);
            if passed != 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Moves bytes to a reader; whether there were any.
fn give(bytes: &mut Vec<u8>, buffer: &mut ReadBuf<'_>) -> bool {
    let count = bytes.len().min(buffer.remaining());
    buffer.put_slice(&bytes[..count]);
    if count == bytes.len() {
        // An idle connection keeps no allocation.
        *bytes = Vec::new();
    } else {
        bytes.drain(..count);
    }
    count != 0
}

/// The half of a [`Line`] that hyper has.
#[derive(Debug)]
pub(super) struct Lent(Rc<Line>);

impl AsyncRead for Lent {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let is_http2 = self.0.version.get() == Version::Http2;
        let before = buffer.filled().len();
        if !self.0.passed.borrow().is_empty() {
            give(&mut self.0.passed.borrow_mut(), buffer);
        } else if is_http2 {
            ready!(self.0.poll_read(cx, buffer))?;
        } else {
            return self.0.poll_gated(cx, buffer);
        }
        if is_http2 {
            self.0.frames.borrow_mut().note(&buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.is_flushed.set(false);
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.is_flushed.set(false);
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut *self.0.stream.borrow_mut()).poll_flush(cx))?;
        // hyper flushes when its own buffer is empty.
        self.0.is_flushed.set(true);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
