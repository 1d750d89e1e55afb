//! A client's stream while hyper has it.
//!
//! Two things differ from the stream itself. A shutdown merely flushes: what ends the connection is
//! [`super::serve`], which mostly closes it at once and so saves the system call. And the first bytes
//! decide the version ([`super::preface`]): hyper's HTTP/1 side reads straight into its own buffer, and
//! only if what came is (the beginning of) HTTP/2's preface is it taken out of there and kept for
//! the HTTP/2 side. An HTTP/1 connection pays for this with one look at its first bytes.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::preface::{self, PREFACE, Version};
use crate::net::Stream;

/// A stream that can be lent to hyper more than once.
#[derive(Debug)]
pub(super) struct Line {
    stream: RefCell<Stream>,
    version: Cell<Version>,
    /// Bytes that were read and that hyper has not got yet.
    held: RefCell<Vec<u8>>,
}

impl Line {
    pub(super) fn new(stream: Stream) -> Rc<Self> {
        Rc::new(Self {
            stream: RefCell::new(stream),
            version: Cell::new(Version::Unsure),
            held: RefCell::default(),
        })
    }

    /// The half that hyper gets.
    pub(super) fn lend(self: &Rc<Self>) -> Lent {
        Lent(self.clone())
    }

    /// Whether the client speaks HTTP/2, as far as that is known.
    pub(super) fn is_http2(&self) -> bool {
        self.version.get() == Version::Http2
    }

    /// The stream itself, once hyper has given its half back.
    pub(super) fn into_stream(self) -> Stream {
        self.stream.into_inner()
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, buffer)
    }

    /// Reads while the version is not known: pending for ever once it is HTTP/2.
    #[cold]
    fn poll_first(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut held = self.held.borrow_mut();
        if held.is_empty() {
            let before = buffer.filled().len();
            ready!(self.poll_read(cx, buffer))?;
            let first = &buffer.filled()[before..];
            // An end of the stream is hyper's to see.
            let version = if first.is_empty() { Version::Http1 } else { preface::judge(first) };
            self.version.set(version);
            if version == Version::Http1 {
                return Poll::Ready(Ok(()));
            }
            held.extend_from_slice(first);
            buffer.set_filled(before);
        }
        while self.version.get() == Version::Unsure {
            let mut space = [0; PREFACE.len()];
            let mut more = ReadBuf::new(&mut space[..PREFACE.len() - held.len()]);
            ready!(self.poll_read(cx, &mut more))?;
            held.extend_from_slice(more.filled());
            let is_end = more.filled().is_empty();
            self.version.set(if is_end { Version::Http1 } else { preface::judge(&held) });
        }
        if self.version.get() == Version::Http2 {
            return Poll::Pending;
        }
        give(&mut held, buffer);
        Poll::Ready(Ok(()))
    }
}

/// Moves held bytes to a reader.
fn give(held: &mut Vec<u8>, buffer: &mut ReadBuf<'_>) {
    let count = held.len().min(buffer.remaining());
    buffer.put_slice(&held[..count]);
    held.drain(..count);
    if held.is_empty() {
        *held = Vec::new();
    }
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
        match self.0.version.get() {
            Version::Unsure => return self.0.poll_first(cx, buffer),
            // Those of a connection that began like the preface, and of the preface itself.
            _ if !self.0.held.borrow().is_empty() => {
                give(&mut self.0.held.borrow_mut(), buffer);
                return Poll::Ready(Ok(()));
            }
            _ => {}
        }
        self.0.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
