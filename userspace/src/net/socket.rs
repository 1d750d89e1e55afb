//! Listening and connecting.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};

use super::Stream;

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
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
        Ok(Self { tcp: TcpListener::from_std(socket)? })
    }

    /// The next connection and its other end.
    ///
    /// # Errors
    /// As `accept(2)`.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, SocketAddr)>> {
        self.tcp.poll_accept(cx).map_ok(|(tcp, peer)| (Stream::new(tcp), peer))
    }
}

/// Connects to `address`.
///
/// # Errors
/// As `socket(2)` and `connect(2)`.
pub async fn connect(address: SocketAddr) -> io::Result<Stream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    Ok(Stream::new(socket.connect(address).await?))
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
