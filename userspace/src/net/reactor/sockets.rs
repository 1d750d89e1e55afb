//! Connections, listening sockets, and whatever else can be waited for, on the ring.

use std::io::{self, ErrorKind, IoSlice, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd as _};
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;

use super::{Arrived, Place, Source};
use crate::net::Pipe;
use crate::sys;
use crate::sys::ring::{BUFFER_BYTES, Operation, Ring};

/// A connection on the ring.
#[derive(Debug)]
pub(in crate::net) struct Connection {
    /// `None` once it is closed.
    tcp: Option<TcpStream>,
    place: Place,
}

impl Connection {
    /// Takes a connected socket, which must not block.
    pub(in crate::net) fn new(tcp: TcpStream) -> io::Result<Self> {
        let source = Source { is_writable: true, is_fresh: true, ..Source::default() };
        Ok(Self { tcp: Some(tcp), place: Place::new(source)? })
    }

    /// Takes a socket that connects: done when it can be written to.
    pub(in crate::net) fn connecting(tcp: TcpStream) -> io::Result<Self> {
        Ok(Self { tcp: Some(tcp), place: Place::new(Source::default())? })
    }

    fn tcp(&self) -> io::Result<&TcpStream> {
        self.tcp.as_ref().ok_or_else(|| ErrorKind::NotConnected.into())
    }

    /// The error that connecting ended with.
    pub(in crate::net) fn connected(&self) -> io::Result<()> {
        self.tcp()?.take_error()?.map_or(Ok(()), Err)
    }

    pub(in crate::net) fn poll_read(
        &self,
        cx: &Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let fd = self.tcp()?.as_fd();
        self.place.with(|ring, source| source.poll_read(ring, self.place.0, fd, cx, buffer))?
    }

    pub(in crate::net) fn poll_write_ready(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let fd = self.tcp()?.as_fd();
        self.place.with(|ring, source| {
            if source.is_writable {
                return Poll::Ready(Ok(()));
            }
            if !source.is_writing {
                source.is_writing = true;
                ring.writable(fd, self.place.0);
            }
            remember(&mut source.writer, cx);
            Poll::Pending
        })?
    }

    pub(in crate::net) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut tcp = self.tcp()?;
        let written = match slices {
            [slice] => tcp.write(slice),
            _ => tcp.write_vectored(slices),
        };
        if let Err(error) = &written
            && error.kind() == ErrorKind::WouldBlock
        {
            self.place.with(|_, source| source.is_writable = false)?;
        }
        written
    }

    pub(in crate::net) fn poll_splice_in(
        &self,
        cx: &Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        let fd = self.tcp()?.as_fd();
        self.place.with(|ring, source| source.poll_splice_in(ring, self.place.0, fd, cx, pipe))?
    }

    pub(in crate::net) fn try_splice_out(&self, pipe: &mut Pipe) -> io::Result<usize> {
        let drained = pipe.drain(self.tcp()?);
        if let Err(error) = &drained
            && error.kind() == ErrorKind::WouldBlock
        {
            self.place.with(|_, source| source.is_writable = false)?;
        }
        drained
    }

    pub(in crate::net) fn shutdown(&self) -> io::Result<()> {
        match self.tcp()?.shutdown(Shutdown::Write) {
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    /// The socket, unless it is closed.
    pub(in crate::net) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.tcp.as_ref().map(AsFd::as_fd)
    }

    /// Ends the wait of a reader that is gone: it would keep the connection open.
    pub(in crate::net) fn stop_reading(&self) {
        self.place.stop_reading();
    }

    /// Notes that the kernel has closed the connection.
    pub(in crate::net) fn closed(&mut self) {
        if let Some(tcp) = self.tcp.take() {
            // Not ours any more.
            let _ = tcp.into_raw_fd();
            self.place.leave(None);
        }
    }

    /// Closes the connection with the next submission.
    pub(in crate::net) fn close(&mut self) {
        if let Some(tcp) = self.tcp.take() {
            self.place.leave(Some(tcp.into()));
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

impl Source {
    fn poll_read(
        &mut self,
        ring: &mut Ring,
        key: usize,
        fd: BorrowedFd<'_>,
        cx: &Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.arrived {
            Some(Arrived::Bytes(arrived, from)) => {
                let bytes = &ring.bytes(arrived)[*from..];
                let count = bytes.len().min(buffer.remaining());
                buffer.put_slice(&bytes[..count]);
                *from += count;
                self.read += count;
                if *from == arrived.len() {
                    let was_full = arrived.len() == BUFFER_BYTES;
                    if let Some(Arrived::Bytes(arrived, _)) = self.arrived.take() {
                        ring.give_back(arrived);
                    }
                    if was_full {
                        self.is_readable = true;
                        self.read_on(fd, buffer);
                    }
                }
                return Poll::Ready(Ok(()));
            }
            Some(Arrived::End) => return Poll::Ready(Ok(())),
            Some(Arrived::Failed(_)) => {
                if let Some(Arrived::Failed(error)) = self.arrived.take() {
                    return Poll::Ready(Err(error));
                }
            }
            None => {}
        }
        if self.is_readable {
            let before = buffer.filled().len();
            match self.receive(fd, buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                received => {
                    self.read += buffer.filled().len() - before;
                    return Poll::Ready(received.map(|_| ()));
                }
            }
        }
        self.wait(ring, key, fd);
        remember(&mut self.reader, cx);
        Poll::Pending
    }

    /// Moves what has come into the empty pipe, by the kernel or, of what has been received already, by a
    /// copy.
    fn poll_splice_in(
        &mut self,
        ring: &mut Ring,
        key: usize,
        fd: BorrowedFd<'_>,
        cx: &Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        match self.arrived.take() {
            Some(Arrived::Bytes(arrived, from)) => {
                let put = pipe.put(&ring.bytes(&arrived)[from..]);
                let end = from + put.as_ref().map_or(0, |put| *put);
                if end < arrived.len() {
                    self.arrived = Some(Arrived::Bytes(arrived, end));
                } else {
                    self.is_readable |= arrived.len() == BUFFER_BYTES;
                    ring.give_back(arrived);
                }
                return Poll::Ready(put);
            }
            Some(Arrived::End) => {
                self.arrived = Some(Arrived::End);
                return Poll::Ready(Ok(0));
            }
            Some(Arrived::Failed(error)) => return Poll::Ready(Err(error)),
            None => {}
        }
        if self.is_readable {
            match pipe.fill(fd) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_readable = false,
                filled => return Poll::Ready(filled),
            }
        }
        // Much comes this way: nothing is to be received into a buffer.
        self.read = usize::MAX;
        self.wait(ring, key, fd);
        remember(&mut self.reader, cx);
        Poll::Pending
    }

    /// Reads what there may be more, behind what is in the buffer already.
    fn read_on(&mut self, fd: BorrowedFd<'_>, buffer: &mut ReadBuf<'_>) {
        if buffer.remaining() == 0 {
            return;
        }
        match self.receive(fd, buffer) {
            Ok(0) => self.arrived = Some(Arrived::End),
            Ok(received) => self.read += received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.arrived = Some(Arrived::Failed(error)),
        }
    }

    /// A plain read. If it gives less than there was room for, there is nothing left for now.
    fn receive(&mut self, fd: BorrowedFd<'_>, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
        let room = buffer.remaining();
        loop {
            let received = sys::receive(fd, buffer);
            match &received {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(received) if *received == room => {}
                _ => self.is_readable = false,
            }
            return received;
        }
    }

    fn wait(&mut self, ring: &mut Ring, key: usize, fd: BorrowedFd<'_>) {
        if self.reading.is_some() {
            return;
        }
        if self.read > BUFFER_BYTES {
            ring.readable(fd, key);
            self.reading = Some(Operation::Readable);
        } else {
            ring.receive(fd, key, !self.is_fresh);
            self.reading = Some(Operation::Receive);
        }
        self.is_fresh = false;
        self.read = 0;
    }
}

fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

/// A listening socket on the ring.
#[derive(Debug)]
pub(in crate::net) struct Acceptor {
    tcp: TcpListener,
    place: Place,
}

impl Acceptor {
    /// Takes a listening socket, which must not block.
    pub(in crate::net) fn new(tcp: TcpListener) -> io::Result<Self> {
        Ok(Self { tcp, place: Place::new(Source::default())? })
    }

    pub(in crate::net) fn poll_accept(
        &self,
        cx: &Context<'_>,
    ) -> Poll<io::Result<(Connection, SocketAddr)>> {
        let accepted = self.place.with(|ring, source| {
            if let Some(tcp) = source.accepted.pop_front() {
                return Poll::Ready(Ok(tcp));
            }
            if let Some(Arrived::Failed(error)) = source.arrived.take() {
                return Poll::Ready(Err(error));
            }
            if source.reading.is_none() {
                source.reading = Some(Operation::Accept);
                ring.accept(self.tcp.as_fd(), self.place.0);
            }
            remember(&mut source.reader, cx);
            Poll::Pending
        })?;
        accepted.map(|tcp| prepare(tcp?))
    }

    /// Accepts no more, until asked again.
    pub(in crate::net) fn pause(&self) {
        let _ = self.place.with(|ring, source| {
            if source.reading.is_some() {
                ring.cancel(Operation::Accept, self.place.0);
            }
        });
    }

    /// Accepts no more; when this is done, nothing leaves the kernel's queue any more.
    pub(in crate::net) fn stop(&self) {
        self.pause();
        // The operation ends within the first call, or a few later ones if much else happens.
        while self.place.with(|_, source| source.reading.is_some()).unwrap_or(false) {
            super::enter(&mut [], false);
        }
    }

    pub(in crate::net) fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }

    pub(in crate::net) fn has_accepted(&self) -> bool {
        self.place.with(|_, source| !source.accepted.is_empty()).unwrap_or(false)
    }

    /// What has been accepted, then what waits in the kernel's queue.
    pub(in crate::net) fn accept_waiting(&self) -> io::Result<Option<(Connection, SocketAddr)>> {
        if let Some(tcp) = self.place.with(|_, source| source.accepted.pop_front())? {
            return prepare(tcp).map(Some);
        }
        match self.tcp.accept() {
            Ok((tcp, _)) => {
                tcp.set_nonblocking(true)?;
                prepare(tcp).map(Some)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// An accepted connection and its other end, which the kernel does not tell when it accepts many.
fn prepare(tcp: TcpStream) -> io::Result<(Connection, SocketAddr)> {
    let peer = tcp.peer_addr()?;
    Ok((Connection::new(tcp)?, peer))
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.place.leave(None);
    }
}

/// Something that can be waited for, on the ring.
#[derive(Debug)]
pub(in crate::net) struct Watch {
    place: Place,
}

impl Watch {
    pub(in crate::net) fn new() -> io::Result<Self> {
        Ok(Self { place: Place::new(Source { is_readable: true, ..Source::default() })? })
    }

    /// Ready when `io` may have something to read.
    pub(in crate::net) fn poll_readable(
        &self,
        io: BorrowedFd<'_>,
        cx: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.place.with(|ring, source| {
            if source.is_readable {
                return Poll::Ready(Ok(()));
            }
            if source.reading.is_none() {
                source.reading = Some(Operation::Readable);
                ring.readable(io, self.place.0);
            }
            remember(&mut source.reader, cx);
            Poll::Pending
        })?
    }

    /// Notes that there was nothing to read.
    pub(in crate::net) fn wait_again(&self) {
        let _ = self.place.with(|_, source| source.is_readable = false);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.place.leave(None);
    }
}
