//! A worker's connection, to a client or to a backend: TCP, or TLS over it.
//!
//! All that reads and writes has this type, and so need not know which of both it is. What TLS adds:
//!
//! - A stream becomes one of TLS by a handshake: as the server in two steps ([`Stream::hello`], then
//!   [`Hello::accept`] with what suits the name that the client asks for), as the client in one
//!   ([`Stream::connect_tls`]). What was put back by [`Stream::unread`] is part of it.
//! - [`Progress`] counts what came as it was meant, without records, tickets and alerts; what was
//!   written as TCP has it. `close_notify` ends a stream as a FIN does.
//! - A FIN without `close_notify` is an error for who reads ([`io::ErrorKind::UnexpectedEof`]): whether
//!   something was cut off is for the protocol above to say (RFC 8446, 6.1).
//! - What came before an alert is read before the alert is an error.
//! - A stream that is dropped says `close_notify`, behind all that was written; one that was
//!   [withdrawn](Progress::withdraw) does not.

use std::io::{self, IoSlice, Read as _, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustls::pki_types::ServerName;
use rustls::server::{Acceptor, ClientHello};
use rustls::{
    ClientConfig, CommonState, ConnectionCommon, ServerConfig, ServerConnection, SideData,
};
use steerage_common::cause::Cause;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsConnector, TlsStream};

use super::Pipe;
use super::socket::Socket;
use super::tcp::{Progress, Tcp};

/// A connection of this thread.
#[derive(Debug)]
pub struct Stream {
    layer: Layer,
}

#[derive(Debug)]
enum Layer {
    Plain(Tcp),
    /// Boxed: a plain stream is to be no larger for it.
    Tls(Box<Tls>),
}

/// Says `close_notify` when it is dropped.
#[derive(Debug)]
struct Tls {
    inner: TlsStream<Tcp>,
    /// What ended it, while there is something to read that came before.
    error: Option<io::Error>,
}

/// A handshake that failed, and the connection: the other end may still have to read why.
#[derive(Debug)]
pub struct Broken {
    /// Why. What TLS has against the other end is a [`rustls::Error`] inside.
    pub error: io::Error,
    /// What the handshake was on.
    pub stream: Stream,
}

/// A handshake with a client that has said what it wants.
#[derive(Debug)]
pub struct Hello {
    start: StartHandshake<Tcp>,
}

impl Hello {
    /// What the client wants.
    #[must_use]
    pub fn client(&self) -> ClientHello<'_> {
        self.start.client_hello()
    }

    /// Goes on with the handshake.
    ///
    /// # Errors
    /// If it fails. An alert is on its way then.
    pub async fn accept(self, config: Arc<ServerConfig>) -> Result<Stream, Broken> {
        match self.start.into_stream(config).into_fallible().await {
            Ok(tls) => Ok(Stream::tls(tls.into())),
            Err((error, tcp)) => Err(Broken { error, stream: Stream::of(tcp) }),
        }
    }
}

impl Stream {
    pub(super) fn plain(socket: Socket) -> Self {
        Self::of(Tcp::new(socket))
    }

    fn of(tcp: Tcp) -> Self {
        Self { layer: Layer::Plain(tcp) }
    }

    fn tls(tls: TlsStream<Tcp>) -> Self {
        tls.get_ref().0.is_carrier();
        Self { layer: Layer::Tls(Box::new(Tls { inner: tls, error: None })) }
    }

    pub(super) fn tcp(&self) -> &Tcp {
        match &self.layer {
            Layer::Plain(tcp) => tcp,
            Layer::Tls(tls) => tls.inner.get_ref().0,
        }
    }

    /// A view of the stream's progress.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.tcp().progress()
    }

    /// Puts bytes back that were read of a plain stream: they are read again, by a handshake too.
    pub fn unread(&self, bytes: Bytes) {
        debug_assert!(matches!(self.layer, Layer::Plain(_)), "bytes of TLS can't be put back");
        self.tcp().unread(bytes);
    }

    /// Whether bytes can go from or to it without being looked at: by [`Stream::poll_splice_in`] and
    /// [`Stream::poll_splice_out`].
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(self.layer, Layer::Plain(_))
    }

    /// Moves what has come on a plain stream into an empty pipe; 0 at the end.
    ///
    /// # Errors
    /// As `splice(2)`.
    pub fn poll_splice_in(&self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_plain(), "records are no bytes to pass on");
        self.tcp().poll_splice_in(cx, pipe)
    }

    /// Sends what a plain stream has to send, then what is in the pipe; ready with how many bytes of that
    /// went.
    ///
    /// # Errors
    /// As `splice(2)`.
    pub fn poll_splice_out(
        &self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_plain(), "bytes are no records");
        self.tcp().poll_splice_out(cx, pipe)
    }

    /// Begins TLS as the server: waits until the client has said what it wants.
    ///
    /// # Errors
    /// If that can't be understood. An alert is on its way then.
    ///
    /// # Panics
    /// If it is one of TLS already.
    pub async fn hello(self) -> Result<Hello, Broken> {
        let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), self.into_tcp());
        match Pin::new(&mut acceptor).await {
            Ok(start) => Ok(Hello { start }),
            Err(error) => {
                let tcp = acceptor.take_io().expect("it was not accepted");
                Err(Broken { error, stream: Self::of(tcp) })
            }
        }
    }

    /// Makes it one of TLS as the client of `name`.
    ///
    /// # Errors
    /// If the handshake fails. An alert is on its way then.
    ///
    /// # Panics
    /// If it is one of TLS already.
    pub async fn connect_tls(
        self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Broken> {
        let connect = TlsConnector::from(config).connect(name, self.into_tcp());
        match connect.into_fallible().await {
            Ok(tls) => Ok(Self::tls(tls.into())),
            Err((error, tcp)) => Err(Broken { error, stream: Self::of(tcp) }),
        }
    }

    fn into_tcp(self) -> Tcp {
        match self.layer {
            Layer::Plain(tcp) => tcp,
            Layer::Tls(_) => panic!("a stream of TLS becomes no other one"),
        }
    }

    /// What the handshake agreed on; `None` of a plain stream.
    #[must_use]
    pub fn session(&self) -> Option<&CommonState> {
        match &self.layer {
            Layer::Plain(_) => None,
            Layer::Tls(tls) => Some(tls.inner.get_ref().1),
        }
    }

    /// The session with a client, which knows the name that was asked for; `None` of other streams.
    #[must_use]
    pub fn server_session(&self) -> Option<&ServerConnection> {
        match &self.layer {
            Layer::Tls(tls) => match &tls.inner {
                TlsStream::Server(tls) => Some(tls.get_ref().1),
                TlsStream::Client(_) => None,
            },
            Layer::Plain(_) => None,
        }
    }
}

/// What TLS writes, behind what the stream is to send anyway.
struct Appended<'a>(&'a Tcp);

impl Write for Appended<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        match &mut self.inner {
            TlsStream::Client(tls) => {
                let (tcp, session) = tls.get_mut();
                close(tcp, session);
            }
            TlsStream::Server(tls) => {
                let (tcp, session) = tls.get_mut();
                close(tcp, session);
            }
        }
    }
}

/// Says that nothing more is sent, behind what the session still has.
fn close<Side: SideData>(tcp: &Tcp, session: &mut ConnectionCommon<Side>) {
    if tcp.is_withdrawn() {
        return;
    }
    // It is said once, however often it is asked for.
    session.send_close_notify();
    while session.wants_write()
        && session.write_tls(&mut Appended(tcp)).is_ok_and(|bytes| bytes != 0)
    {}
}

/// How the other end ended a session that broke with `error`.
fn cause_of(error: &io::Error) -> Cause {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::AlertReceived(_)) => Cause::TlsAlert,
        Some(_) => Cause::TlsProtocol,
        None if error.kind() == io::ErrorKind::UnexpectedEof => Cause::EofWithoutCloseNotify,
        None => Cause::Reset,
    }
}

impl Tls {
    /// Reads what TLS carries, and has the stream's progress know of it.
    fn poll_carried(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        let mut read = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer));
        if let Err(error) = &mut read
            && error.kind() == io::ErrorKind::InvalidData
        {
            // What came before the alert, or before what is none of TLS, was meant to come.
            self.take_rest(buffer);
            if buffer.filled().len() != before {
                // Known from now on, whether anybody reads to the end or not.
                self.inner.get_ref().0.ended(cause_of(error));
                self.error = Some(std::mem::replace(error, io::ErrorKind::Other.into()));
                read = Ok(());
            }
        }
        let tcp = self.inner.get_ref().0;
        let came = buffer.filled().len() - before;
        tcp.carried(came);
        match &read {
            Ok(()) if came == 0 && buffer.remaining() != 0 => tcp.ended(Cause::CloseNotify),
            Ok(()) => {}
            Err(error) => tcp.ended(cause_of(error)),
        }
        Poll::Ready(read)
    }

    /// Reads what is open already.
    fn take_rest(&mut self, buffer: &mut ReadBuf<'_>) {
        let space = buffer.initialize_unfilled();
        // An error here is the one that is known, or says that there is nothing.
        let count = match &mut self.inner {
            TlsStream::Client(tls) => tls.get_mut().1.reader().read(space),
            TlsStream::Server(tls) => tls.get_mut().1.reader().read(space),
        };
        buffer.advance(count.unwrap_or(0));
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().layer {
            Layer::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Layer::Tls(tls) => tls.poll_carried(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().layer {
            Layer::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Layer::Tls(tls) => Pin::new(&mut tls.inner).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().layer {
            Layer::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Layer::Tls(tls) => Pin::new(&mut tls.inner).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().layer {
            Layer::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Layer::Tls(tls) => Pin::new(&mut tls.inner).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().layer {
            Layer::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Layer::Tls(tls) => Pin::new(&mut tls.inner).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
