//! A TCP connection whose sends wait for the end of the loop turn.
//!
//! - Small writes are copied into the stream's buffer and the stream is put on the turn's list
//!   ([`super::turn`]). Once [`DEFERRED_MAX`] bytes would stand in the buffer, buffer and new bytes go
//!   out together at once, by one `writev`.
//! - `flush` says "done" while bytes are merely deferred: they go out by themselves. Once the kernel
//!   refuses bytes, `flush` waits, and writes wait: that is the back-pressure.
//! - An error of a deferred send surfaces at the next write or flush; the task is woken for it.
//! - `shutdown` sends all bytes first. A dropped stream's bytes are sent as well, for up to
//!   [`ABANDONED_TIMEOUT`] if the other end does not take them at once.
//! - A read that gave less than there was room for has emptied the socket: the read that would say so
//!   is saved.
//!
//! A stream has no buffer while it has nothing to send.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use socket2::SockRef;
use steerage_common::cause::Cause;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::socket::Socket;
use super::{Pipe, clock, reactor, turn};
use crate::sys::ring::Outgoing;
use crate::sys::{self, InFlight};

/// Bytes that a stream may hold back. Copying so many costs less than a system call.
const DEFERRED_MAX: usize = 16 * 1024;

/// Slices in one `writev`: what hyper passes at most, and the buffer.
const SLICES_MAX: usize = 65;

/// How long a dropped stream may take to send its last bytes.
const ABANDONED_TIMEOUT: Duration = Duration::from_secs(10);

/// A TCP connection of this thread.
#[derive(Debug)]
pub struct Tcp {
    inner: Rc<RefCell<Inner>>,
}

/// What a stream and the turn's list share.
#[derive(Debug)]
pub(super) struct Inner {
    socket: Socket,
    /// Deferred bytes, from `sent` on.
    buffer: Vec<u8>,
    sent: usize,
    /// Whether the stream is on the turn's list.
    is_listed: bool,
    /// Whether the kernel refused bytes when they were last offered.
    is_blocked: bool,
    /// Whether nobody holds the stream any more.
    is_abandoned: bool,
    /// An error of a deferred send that nobody was told of yet.
    error: Option<io::Error>,
    /// The task that wrote last.
    writer: Option<Waker>,
    /// When the kernel last took bytes.
    sent_ms: u64,
    /// Bytes that the kernel took.
    taken: u64,
    /// Bytes that have come; of TLS, those that it carried.
    received: u64,
    /// Whether the other end has said that it sends nothing more.
    is_ended: bool,
    /// How the other end has ended the connection, if it has.
    end: Option<Cause>,
    /// Whether it is left to [`Tcp::carried`] to say what has come.
    is_carrier: bool,
    /// Whether what was written has been taken back.
    is_withdrawn: bool,
    /// Bytes that were read and put back: the next to be read.
    unread: Bytes,
}

/// A view of a stream's progress that outlives its move into an HTTP connection.
#[derive(Clone, Debug)]
pub struct Progress {
    inner: Rc<RefCell<Inner>>,
}

impl Progress {
    /// When bytes last left, or the connection was made, by [`clock::now_ms`].
    #[must_use]
    pub fn sent_ms(&self) -> u64 {
        self.inner.borrow().sent_ms
    }

    /// Bytes that have come; over TLS, those that it carried.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.inner.borrow().received
    }

    /// Bytes that the kernel took to send.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.inner.borrow().taken
    }

    /// Bytes that were written, taken by the kernel or still deferred.
    #[must_use]
    pub fn written(&self) -> u64 {
        let inner = self.inner.borrow();
        inner.taken + inner.waiting().len() as u64
    }

    /// Whether the other end has said that it sends nothing more: by its FIN or by TLS's `close_notify`.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.inner.borrow().is_ended
    }

    /// How the other end has ended the connection; `None` while it has not, as far as was read.
    #[must_use]
    pub fn end(&self) -> Option<Cause> {
        self.inner.borrow().end
    }

    /// Bytes that the other end's TCP has acknowledged: a system call. `None` if the kernel does not
    /// tell.
    #[must_use]
    pub fn acknowledged(&self) -> Option<u64> {
        sys::bytes_acknowledged(self.inner.borrow().socket.fd()?).ok()
    }

    /// What the other end's TCP has not acknowledged of what the kernel took: a system call. `None` if
    /// that is nothing, or the kernel does not tell.
    #[must_use]
    pub fn in_flight(&self) -> Option<InFlight> {
        sys::in_flight(self.inner.borrow().socket.fd()?).ok().flatten()
    }

    /// Where the connection ends on this host: a system call.
    ///
    /// # Errors
    /// If it is closed.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let inner = self.inner.borrow();
        let fd = inner.socket.fd().ok_or(io::ErrorKind::NotConnected)?;
        let address = SockRef::from(&fd).local_addr()?;
        address.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Takes back what was written and has not left: deferred bytes are forgotten, and the connection
    /// will be reset when it is closed, so that the kernel sends none of those it still has.
    pub fn withdraw(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.is_withdrawn = true;
        let unsent = inner.waiting().len();
        if unsent != 0 {
            inner.advance(unsent);
        }
        if let Some(fd) = inner.socket.fd() {
            // It fails for a connection that is over already.
            let _ = SockRef::from(&fd).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Tcp {
    pub(super) fn new(socket: Socket) -> Self {
        let inner = Inner {
            socket,
            buffer: Vec::new(),
            sent: 0,
            is_listed: false,
            is_blocked: false,
            is_abandoned: false,
            error: None,
            writer: None,
            sent_ms: clock::now_ms(),
            taken: 0,
            received: 0,
            is_ended: false,
            end: None,
            is_carrier: false,
            is_withdrawn: false,
            unread: Bytes::new(),
        };
        Self { inner: Rc::new(RefCell::new(inner)) }
    }

    /// A view of the stream's progress.
    pub(super) fn progress(&self) -> Progress {
        Progress { inner: self.inner.clone() }
    }

    /// Whether [`Progress::withdraw`] was called.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.inner.borrow().is_withdrawn
    }

    /// From now on it is told what has come: what is read is records.
    pub(super) fn is_carrier(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.is_carrier = true;
        inner.received = 0;
    }

    /// Bytes came that the stream carried.
    pub(super) fn carried(&self, bytes: usize) {
        self.inner.borrow_mut().received += bytes as u64;
    }

    /// The other end has ended what the stream carries.
    pub(super) fn ended(&self, cause: Cause) {
        let mut inner = self.inner.borrow_mut();
        inner.is_ended |= cause == Cause::CloseNotify;
        inner.note_end(cause);
    }

    /// Puts bytes back that were read last: they are read again.
    pub(super) fn unread(&self, bytes: Bytes) {
        let mut inner = self.inner.borrow_mut();
        inner.received -= bytes.len() as u64;
        inner.unread = match inner.unread.is_empty() {
            true => bytes,
            false => [bytes, inner.unread.clone()].concat().into(),
        };
    }

    /// Has bytes sent with those that are deferred, however many there are.
    pub(super) fn append(&self, bytes: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        if inner.buffer.capacity() == 0 {
            inner.buffer = turn::take_buffer();
        }
        inner.buffer.extend_from_slice(bytes);
        if !inner.is_listed && !inner.is_blocked {
            inner.is_listed = true;
            drop(inner);
            turn::defer(&self.inner);
        }
    }

    /// Moves what has come into an empty pipe; 0 at the end.
    pub(super) fn poll_splice_in(
        &self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        turn::count_operation();
        let mut inner = self.inner.borrow_mut();
        let moved = if inner.unread.is_empty() {
            match ready!(inner.socket.poll_splice_in(cx, pipe)) {
                Ok(moved) => moved,
                Err(error) => {
                    inner.note_end(Cause::Reset);
                    return Poll::Ready(Err(error));
                }
            }
        } else {
            let put = pipe.put(&inner.unread)?;
            inner.unread.advance(put);
            put
        };
        if moved == 0 {
            inner.is_ended = true;
            inner.note_end(Cause::Eof);
        }
        inner.note_received(moved);
        Poll::Ready(Ok(moved))
    }

    /// Sends what is deferred, then what is in the pipe; ready with how many bytes of that went.
    pub(super) fn poll_splice_out(
        &self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        turn::count_operation();
        let mut inner = self.inner.borrow_mut();
        if let Some(error) = inner.error.take() {
            return Poll::Ready(Err(error));
        }
        ready!(inner.poll_send(cx, &[]))?;
        loop {
            ready!(inner.socket.poll_write_ready(cx))?;
            match inner.socket.try_splice_out(pipe) {
                Ok(sent) => {
                    inner.sent_ms = clock::now_ms();
                    inner.taken += sent as u64;
                    return Poll::Ready(Ok(sent));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(inner.fail(error))),
            }
        }
    }

    fn write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        turn::count_operation();
        let mut inner = self.inner.borrow_mut();
        if let Some(error) = inner.error.take() {
            return Poll::Ready(Err(error));
        }
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        if inner.is_blocked || inner.waiting().len() + bytes > DEFERRED_MAX {
            return inner.poll_send(cx, slices);
        }
        if inner.buffer.capacity() == 0 {
            inner.buffer = turn::take_buffer();
        }
        for slice in slices {
            inner.buffer.extend_from_slice(slice);
        }
        if bytes != 0 && !inner.is_listed {
            inner.is_listed = true;
            inner.remember_writer(cx);
            drop(inner);
            turn::defer(&self.inner);
        }
        Poll::Ready(Ok(bytes))
    }
}

impl Inner {
    /// The bytes that are still to be sent.
    fn waiting(&self) -> &[u8] {
        &self.buffer[self.sent..]
    }

    fn remember_writer(&mut self, cx: &Context<'_>) {
        match &self.writer {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => self.writer = Some(cx.waker().clone()),
        }
    }

    /// Marks `bytes` of the buffer as sent.
    fn advance(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.buffer.len() {
            self.sent = 0;
            turn::give_buffer(std::mem::take(&mut self.buffer));
        }
    }

    /// Sends the buffer, then `slices`; ready with how many bytes of `slices` went, or when the
    /// buffer is empty if there are none.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = slices.iter().any(|slice| !slice.is_empty());
        loop {
            if self.waiting().is_empty() && !wanted {
                self.is_blocked = false;
                return Poll::Ready(Ok(0));
            }
            self.is_blocked = true;
            ready!(self.socket.poll_write_ready(cx))?;
            match self.try_send(slices) {
                Ok(sent) => {
                    self.is_blocked = false;
                    self.sent_ms = clock::now_ms();
                    self.taken += sent as u64;
                    let buffered = self.waiting().len();
                    if sent > buffered {
                        self.advance(buffered);
                        return Poll::Ready(Ok(sent - buffered));
                    }
                    self.advance(sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(self.fail(error))),
            }
        }
    }

    /// One `writev` of the buffer and `slices`.
    fn try_send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let waiting = self.waiting();
        if waiting.is_empty() {
            return self.socket.try_write(slices);
        }
        if slices.is_empty() {
            return self.socket.try_write(&[IoSlice::new(waiting)]);
        }
        let mut all = [IoSlice::new(&[]); SLICES_MAX];
        all[0] = IoSlice::new(waiting);
        let count = slices.len().min(SLICES_MAX - 1);
        all[1..=count].copy_from_slice(&slices[..count]);
        self.socket.try_write(&all[..=count])
    }

    /// The first cause stays. Who does not take what there is for it has hung up, whatever way that was,
    /// and whether or not it first said that it sends no more.
    fn note_end(&mut self, cause: Cause) {
        const LAST_WORDS: [Cause; 3] =
            [Cause::Eof, Cause::CloseNotify, Cause::EofWithoutCloseNotify];
        let has_parted = self.end.is_some_and(|end| LAST_WORDS.contains(&end));
        match self.end {
            _ if has_parted && cause == Cause::Reset => self.end = Some(Cause::HungUp),
            None if self.is_blocked => self.end = Some(Cause::HungUp),
            None => self.end = Some(cause),
            Some(_) => {}
        }
    }

    fn note_received(&mut self, bytes: usize) {
        if !self.is_carrier {
            self.received += bytes as u64;
        }
    }

    /// Forgets what can't be sent any more.
    fn fail(&mut self, error: io::Error) -> io::Error {
        self.note_end(Cause::Reset);
        let unsent = self.waiting().len();
        if unsent != 0 {
            self.advance(unsent);
        }
        self.is_blocked = false;
        error
    }

    /// Sends what is deferred, at the end of the turn.
    pub(super) fn send_deferred(this: &Rc<RefCell<Self>>) {
        let mut inner = this.borrow_mut();
        inner.is_listed = false;
        while !inner.waiting().is_empty() {
            match inner.try_send(&[]) {
                Ok(sent) => {
                    inner.sent_ms = clock::now_ms();
                    inner.taken += sent as u64;
                    inner.advance(sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    inner.is_blocked = true;
                    break;
                }
                Err(error) => {
                    let error = inner.fail(error);
                    inner.error = Some(error);
                    break;
                }
            }
        }
        drop(inner);
        Self::tell(this);
    }

    /// Has somebody take care of bytes that did not go.
    fn tell(this: &Rc<RefCell<Self>>) {
        let mut inner = this.borrow_mut();
        if !inner.is_blocked && inner.error.is_none() {
            return;
        }
        if !inner.is_abandoned {
            // The task learns of it by its next write or flush.
            if let Some(writer) = inner.writer.take() {
                reactor::note_runnable();
                writer.wake();
            }
        } else if inner.is_blocked {
            drop(inner);
            finish_abandoned(this.clone());
        }
    }
}

/// How a turn's send on the ring begins and ends.
impl Inner {
    /// Gives the bytes out for the send. The socket is closed with the last of them if nobody knows
    /// the stream any more.
    pub(super) fn lend(this: &Rc<RefCell<Self>>) -> Outgoing {
        let is_unknown = Rc::strong_count(this) == 1;
        let mut inner = this.borrow_mut();
        let inner = &mut *inner;
        let Socket::Ring(connection) = &mut inner.socket else { return Outgoing::default() };
        if inner.sent == inner.buffer.len() {
            if is_unknown {
                connection.close();
            }
            return Outgoing::default();
        }
        let Some(fd) = connection.fd() else { return Outgoing::default() };
        let fd = fd.as_raw_fd();
        if is_unknown {
            connection.stop_reading();
        }
        let bytes = std::mem::take(&mut inner.buffer);
        Outgoing::new(fd, bytes, inner.sent, is_unknown)
    }

    /// Takes the bytes back after the send.
    pub(super) fn settle(this: &Rc<RefCell<Self>>, outgoing: Outgoing, at_ms: u64) {
        let mut inner = this.borrow_mut();
        inner.is_listed = false;
        let Some(result) = outgoing.result else { return };
        inner.buffer = outgoing.bytes;
        match result {
            Ok(sent) => {
                inner.sent_ms = at_ms;
                inner.taken += sent as u64;
                inner.advance(sent);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                let error = inner.fail(error);
                inner.error = Some(error);
            }
        }
        if !inner.waiting().is_empty() {
            drop(inner);
            // Says that it is blocked.
            return Self::send_deferred(this);
        }
        if inner.error.is_some() {
            drop(inner);
            return Self::tell(this);
        }
        if outgoing.closes
            && let Socket::Ring(connection) = &mut inner.socket
        {
            connection.closed();
        }
    }
}

/// Sends a dropped stream's last bytes to a slow reader.
fn finish_abandoned(inner: Rc<RefCell<Inner>>) {
    // Outside of the event loop there is nobody left to do it.
    if tokio::runtime::Handle::try_current().is_err() {
        return;
    }
    super::spawn(async move {
        let send = std::future::poll_fn(|cx| inner.borrow_mut().poll_send(cx, &[]));
        let _ = super::within(ABANDONED_TIMEOUT, send).await;
    });
}

impl Drop for Tcp {
    fn drop(&mut self) {
        let mut inner = self.inner.borrow_mut();
        inner.is_abandoned = true;
        inner.writer = None;
        // On the list, it is sent at the end of the turn.
        if !inner.waiting().is_empty() && !inner.is_listed {
            drop(inner);
            Inner::send_deferred(&self.inner);
        }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        turn::count_operation();
        let mut inner = self.inner.borrow_mut();
        if !inner.unread.is_empty() {
            let count = inner.unread.len().min(buffer.remaining());
            buffer.put_slice(&inner.unread.split_to(count));
            inner.note_received(count);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        if let Err(error) = ready!(inner.socket.poll_read(cx, buffer)) {
            inner.note_end(Cause::Reset);
            return Poll::Ready(Err(error));
        }
        let received = buffer.filled().len() - before;
        if received == 0 && buffer.remaining() != 0 {
            inner.is_ended = true;
            if !inner.is_carrier {
                inner.note_end(Cause::Eof);
            }
        }
        inner.note_received(received);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        if let Some(error) = inner.error.take() {
            return Poll::Ready(Err(error));
        }
        if inner.is_blocked {
            return inner.poll_send(cx, &[]).map_ok(|_| ());
        }
        if inner.is_listed {
            inner.remember_writer(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        if let Some(error) = inner.error.take() {
            return Poll::Ready(Err(error));
        }
        ready!(inner.poll_send(cx, &[]))?;
        inner.socket.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
