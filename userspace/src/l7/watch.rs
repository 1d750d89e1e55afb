//! A backend's stream while hyper has it: every byte passes the [`ResponseGuard`] first.
//!
//! What is no HTTP is an error of the stream, and so is what follows a response: hyper gets the response,
//! and not one byte more. Whoever has the connection learns from its [`Watch`] which of them it was.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::header::UPGRADE;
use http::{Method, Request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::{Asked, Limits, Opinion, ResponseGuard};
use crate::net::Stream;

/// What a response's head may have. More header lines would cost hyper an allocation each time.
const LIMITS: Limits = Limits { head_bytes: 64 * 1024, fields: 100, ..Limits::DEFAULT };

/// What a backend's connection sent, as far as it matters who asked for it.
#[derive(Debug)]
pub(super) struct Watch(RefCell<ResponseGuard>);

impl Watch {
    /// Announces a request.
    pub(super) fn ask<B>(&self, request: &Request<B>) {
        let asked = match *request.method() {
            Method::HEAD => Asked::Head,
            Method::CONNECT => Asked::Connect,
            _ if request.headers().contains_key(UPGRADE) => Asked::Upgrade,
            _ => Asked::Plain,
        };
        self.0.borrow_mut().ask(asked);
    }

    /// Whether the backend sent what is no HTTP.
    pub(super) fn is_malformed(&self) -> bool {
        self.0.borrow().is_malformed()
    }

    /// Whether the backend sent what nobody had asked for.
    pub(super) fn is_poisoned(&self) -> bool {
        self.0.borrow().is_poisoned()
    }
}

/// The stream with its guard.
#[derive(Debug)]
pub(super) struct Watched {
    stream: Stream,
    watch: Rc<Watch>,
}

impl Watched {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, watch: Rc::new(Watch(RefCell::new(ResponseGuard::new(LIMITS)))) }
    }

    pub(super) fn watch(&self) -> Rc<Watch> {
        self.watch.clone()
    }

    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.watch.is_poisoned() {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let opinion = self.watch.0.borrow_mut().inspect(&buffer.filled()[before..]);
        let passed = match opinion {
            Opinion::Pass => return Poll::Ready(Ok(())),
            Opinion::Excess(passed) => passed,
            Opinion::Malformed => 0,
        };
        buffer.set_filled(before + passed);
        // Nothing would be the end of the stream.
        Poll::Ready(if passed == 0 { Err(io::ErrorKind::InvalidData.into()) } else { Ok(()) })
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
