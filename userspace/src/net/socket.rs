//! Sockets of either engine: connections, listening, connecting.

use std::future::poll_fn;
use std::io::{self, IoSlice, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};
use tokio::io::{AsyncWrite as _, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{Pipe, Stream, pass, reactor};

/// A connection.
#[derive(Debug)]
pub(super) enum Socket {
    /// On tokio's epoll.
    Epoll(TcpStream),
    /// On the ring.
    Ring(reactor::Connection),
}

impl Socket {
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Epoll(tcp) => {
                use tokio::io::AsyncRead as _;
                Pin::new(tcp).poll_read(cx, buffer)
            }
            Self::Ring(connection) => {
                // A task that never runs out of bytes lets others have their turn.
                let budget = ready!(tokio::task::coop::poll_proceed(cx));
                let polled = connection.poll_read(cx, buffer);
                if polled.is_ready() {
                    budget.made_progress();
                }
                polled
            }
        }
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Epoll(tcp) => tcp.poll_write_ready(cx),
            Self::Ring(connection) => connection.poll_write_ready(cx),
        }
    }

    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Epoll(tcp) => match slices {
                [slice] => tcp.try_write(slice),
                _ => tcp.try_write_vectored(slices),
            },
            Self::Ring(connection) => connection.try_write(slices),
        }
    }

    /// Moves what has come into an empty pipe; 0 at the end.
    pub(super) fn poll_splice_in(
        &self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Epoll(tcp) => loop {
                ready!(tcp.poll_read_ready(cx))?;
                match tcp.try_io(Interest::READABLE, || pipe.fill(tcp)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    filled => return Poll::Ready(filled),
                }
            },
            Self::Ring(connection) => {
                let budget = ready!(tokio::task::coop::poll_proceed(cx));
                let polled = connection.poll_splice_in(cx, pipe);
                if polled.is_ready() {
                    budget.made_progress();
                }
                polled
            }
        }
    }

    /// Sends what is in a pipe.
    pub(super) fn try_splice_out(&self, pipe: &mut Pipe) -> io::Result<usize> {
        match self {
            Self::Epoll(tcp) => tcp.try_io(Interest::WRITABLE, || pipe.drain(tcp)),
            Self::Ring(connection) => connection.try_splice_out(pipe),
        }
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Epoll(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Ring(connection) => Poll::Ready(connection.shutdown()),
        }
    }

    /// The socket, unless it is closed.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Epoll(tcp) => Some(tcp.as_fd()),
            Self::Ring(connection) => connection.fd(),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    tcp: ListenerOf,
}

#[derive(Debug)]
enum ListenerOf {
    Epoll(TcpListener),
    Ring(reactor::Acceptor),
}

impl Listener {
    /// Takes over a socket that listens already.
    ///
    /// `TCP_NODELAY` is set on the listening socket: Linux hands it down to every connection, so that
    /// none of them needs the system call.
    ///
    /// # Errors
    /// If the socket is none or the event loop can't take it.
    pub fn new(socket: std::net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        SockRef::from(&socket).set_tcp_nodelay(true)?;
        let tcp = if reactor::is_running() {
            ListenerOf::Ring(reactor::Acceptor::new(socket)?)
        } else {
            ListenerOf::Epoll(TcpListener::from_std(socket)?)
        };
        Ok(Self { tcp })
    }

    /// The next connection and its other end.
    ///
    /// # Errors
    /// As `accept(2)`.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, SocketAddr)>> {
        match &self.tcp {
            ListenerOf::Epoll(tcp) => {
                tcp.poll_accept(cx).map_ok(|(tcp, peer)| (Stream::plain(Socket::Epoll(tcp)), peer))
            }
            ListenerOf::Ring(tcp) => {
                tcp.poll_accept(cx).map_ok(|(tcp, peer)| (Stream::plain(Socket::Ring(tcp)), peer))
            }
        }
    }

    /// Leaves further connections in the kernel's queue until the next is asked for. A few may have
    /// left it already; they are given out first then.
    pub fn pause(&self) {
        if let ListenerOf::Ring(tcp) = &self.tcp {
            tcp.pause();
        }
    }

    /// Leaves further connections in the kernel's queue for good; [`Listener::accept_waiting`] takes
    /// them from there.
    pub fn stop(&self) {
        if let ListenerOf::Ring(tcp) = &self.tcp {
            tcp.stop();
        }
    }

    /// How many connections wait in the kernel's queue; 0 if it does not tell.
    pub fn queued(&self) -> u32 {
        let socket = match &self.tcp {
            ListenerOf::Epoll(tcp) => tcp.as_fd(),
            ListenerOf::Ring(tcp) => tcp.as_fd(),
        };
        crate::sys::queued(socket).unwrap_or(0)
    }

    /// Whether a connection has left the kernel's queue that nobody has taken.
    pub fn has_accepted(&self) -> bool {
        match &self.tcp {
            ListenerOf::Epoll(_) => false,
            ListenerOf::Ring(tcp) => tcp.has_accepted(),
        }
    }

    /// The next connection that waits, if there is one, after [`Listener::stop`].
    ///
    /// # Errors
    /// As `accept(2)`.
    pub async fn accept_waiting(&self) -> io::Result<Option<(Stream, SocketAddr)>> {
        match &self.tcp {
            ListenerOf::Epoll(tcp) => {
                // The event loop learns of connections that came since its last look.
                tokio::task::yield_now().await;
                let accepted = poll_fn(|cx| Poll::Ready(tcp.poll_accept(cx))).await;
                let Poll::Ready(accepted) = accepted else { return Ok(None) };
                let (tcp, peer) = accepted?;
                Ok(Some((Stream::plain(Socket::Epoll(tcp)), peer)))
            }
            ListenerOf::Ring(tcp) => {
                let accepted = tcp.accept_waiting()?;
                Ok(accepted.map(|(tcp, peer)| (Stream::plain(Socket::Ring(tcp)), peer)))
            }
        }
    }
}

/// Connects to `address`.
///
/// # Errors
/// As `socket(2)` and `connect(2)`.
pub async fn connect(address: SocketAddr) -> io::Result<Stream> {
    if reactor::is_running() {
        return Ok(Stream::plain(Socket::Ring(connect_on_ring(address).await?)));
    }
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    Ok(Stream::plain(Socket::Epoll(socket.connect(address).await?)))
}

async fn connect_on_ring(address: SocketAddr) -> io::Result<reactor::Connection> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = RawSocket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let connection = reactor::Connection::connecting(socket.into())?;
    poll_fn(|cx| connection.poll_write_ready(cx)).await?;
    connection.connected()?;
    Ok(connection)
}

/// The other end of a pair of local sockets: few bytes, seldom.
#[derive(Debug)]
pub struct Control {
    socket: ControlOf,
}

#[derive(Debug)]
enum ControlOf {
    Epoll(tokio::net::UnixStream),
    Ring(std::os::unix::net::UnixStream, reactor::Watch),
}

impl Control {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// If the event loop can't take it.
    pub fn new(socket: std::os::unix::net::UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = if reactor::is_running() {
            ControlOf::Ring(socket, reactor::Watch::new()?)
        } else {
            ControlOf::Epoll(tokio::net::UnixStream::from_std(socket)?)
        };
        Ok(Self { socket })
    }

    /// Sends a byte.
    ///
    /// # Errors
    /// If there is no other end, or nobody has read for long.
    pub async fn send(&mut self, byte: u8) -> io::Result<()> {
        match &mut self.socket {
            ControlOf::Epoll(socket) => socket.write_all(&[byte]).await,
            ControlOf::Ring(socket, _) => (&*socket).write_all(&[byte]),
        }
    }

    /// The next byte, and the descriptors that came with it; `None` at the end.
    ///
    /// # Errors
    /// As `recvmsg(2)`.
    pub async fn receive(&mut self) -> io::Result<Option<(u8, Vec<OwnedFd>)>> {
        match &mut self.socket {
            ControlOf::Epoll(socket) => {
                socket.async_io(Interest::READABLE, || pass::receive(socket.as_fd())).await
            }
            ControlOf::Ring(socket, watch) => {
                poll_fn(|cx| {
                    loop {
                        ready!(watch.poll_readable(socket.as_fd(), cx))?;
                        match pass::receive(socket.as_fd()) {
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                                watch.wait_again();
                            }
                            received => return Poll::Ready(received),
                        }
                    }
                })
                .await
            }
        }
    }
}

/// Whether a connection failed because this host lacks something: not the other end's fault.
#[must_use]
pub fn is_local_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EADDRNOTAVAIL
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EACCES
                | libc::EPERM
                | libc::EAGAIN
        )
    )
}

/// Whether it failed for something that comes back when others end: descriptors, memory, ports.
#[must_use]
pub fn is_passing_shortage(error: &io::Error) -> bool {
    // What may not be done now may not be done later.
    let is_forbidden = matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM));
    is_local_shortage(error) && !is_forbidden
}

#[cfg(test)]
mod tests;
