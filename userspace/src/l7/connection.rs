//! A client's connection: its requests one after another, its time limit, its end.
//!
//! The time limit (`timeouts.header_read`) runs from the connection's beginning, or the last
//! response's end, to the end of a request's headers; while bytes of a response still go out it begins
//! anew. A client that let it pass within a request is told so (408), an idle one is not.
//!
//! The end: a connection whose request body was not read whole (an answer came first) is closed in two
//! steps, because closing a socket with unread bytes resets it, and the reset can destroy the answer
//! before the client has read it (RFC 9112, 9.6).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use steerage_common::error::ErrorClass;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::exchange::respond;
use super::forward::Sender;
use super::reply;
use super::{HEAD_BYTES_MAX, Proxy, REQUEST_BUFFER_BYTES_MAX};
use crate::net::{Deadline, Progress, Stream, clock, within};

/// How long a client may go on sending a body that nobody reads, before it is cut off.
const LINGER: Duration = Duration::from_secs(5);

/// What the requests of one connection share.
#[derive(Debug)]
pub(super) struct Client {
    front: usize,
    sender: Sender,
    header_read: Duration,
    /// Set between requests.
    deadline: Deadline,
    is_between_requests: Cell<bool>,
    /// Bytes received before the wait for the next request.
    received_before: Cell<u64>,
    progress: Progress,
    left_unread: Cell<bool>,
}

impl Client {
    fn new(proxy: &Proxy, front: usize, peer: SocketAddr, progress: Progress) -> Self {
        // A dual-stack socket shows IPv4 clients as mapped addresses.
        let ip = peer.ip().to_canonical();
        let address = HeaderValue::from_str(&ip.to_string());
        let header_read = proxy.fronts[front].header_read;
        Self {
            front,
            sender: Sender {
                address: address.unwrap_or(HeaderValue::from_static("unknown")),
                is_trusted: proxy.trusts(ip),
                scheme: HeaderValue::from_static("http"),
            },
            header_read,
            deadline: Deadline::after(header_read),
            is_between_requests: Cell::new(true),
            received_before: Cell::new(0),
            progress,
            left_unread: Cell::new(false),
        }
    }

    pub(super) fn front(&self) -> usize {
        self.front
    }

    pub(super) fn sender(&self) -> &Sender {
        &self.sender
    }

    pub(super) fn request_began(&self) {
        self.is_between_requests.set(false);
        self.deadline.unset_again();
    }

    pub(super) fn request_ended(&self) {
        self.is_between_requests.set(true);
        self.received_before.set(self.progress.received());
        self.deadline.set(self.header_read);
    }

    /// Notes that a request body was dropped before its end.
    pub(super) fn leave_unread(&self) {
        self.left_unread.set(true);
    }

    /// Ready when the client's time is over.
    fn poll_overdue(&self, cx: &Context<'_>) -> Poll<()> {
        while self.deadline.poll_reached(cx).is_ready() {
            let until = self.progress.sent_ms() + self.header_read.as_millis() as u64;
            if until <= clock::now_ms() {
                return Poll::Ready(());
            }
            self.deadline.set_at_ms(until);
        }
        Poll::Pending
    }
}

/// How a connection ended.
enum End {
    /// By HTTP's rules, or by the client.
    Closed,
    /// By the time limit.
    Overdue,
}

/// Serves a client until one side ends the connection.
pub async fn serve(proxy: Rc<Proxy>, front: usize, stream: Stream, peer: SocketAddr) {
    let client = Rc::new(Client::new(&proxy, front, peer, stream.progress()));
    let lent = Rc::new(RefCell::new(stream));
    let end = drive(&proxy, &client, Lent(lent.clone())).await;
    // hyper has given its half back.
    let Ok(stream) = Rc::try_unwrap(lent) else { return };
    let mut stream = stream.into_inner();
    if matches!(end, End::Overdue)
        && client.is_between_requests.get()
        && client.progress.received() > client.received_before.get()
    {
        proxy.count_error(ErrorClass::HeaderTimeout);
        let _ = stream.write_all(&reply::bytes(ErrorClass::HeaderTimeout)).await;
        client.leave_unread();
    }
    if client.left_unread.get() {
        let _ = within(LINGER, linger(&mut stream)).await;
    }
    // Dropping it sends what is deferred and closes.
}

async fn drive(proxy: &Rc<Proxy>, client: &Rc<Client>, io: Lent) -> End {
    let service = service_fn(|request| respond(proxy.clone(), client.clone(), request));
    let connection = http1::Builder::new()
        .max_buf_size(REQUEST_BUFFER_BYTES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let mut is_told = false;
    poll_fn(|cx| {
        if proxy.is_draining.get() && !is_told {
            is_told = true;
            connection.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(outcome) = connection.as_mut().poll(cx) {
            if let Err(error) = outcome {
                tracing::debug!(%error, "client connection broke");
            }
            return Poll::Ready(End::Closed);
        }
        client.poll_overdue(cx).map(|()| End::Overdue)
    })
    .await
}

/// Ends our half and reads away what the client still sends.
async fn linger(stream: &mut Stream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut sink = vec![0; 16 * 1024];
    while stream.read(&mut sink).await? != 0 {}
    Ok(())
}

/// The stream while hyper has it. A shutdown merely flushes: what ends the connection is [`serve`],
/// which mostly closes it at once and so saves the system call.
struct Lent(Rc<RefCell<Stream>>);

impl AsyncRead for Lent {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
