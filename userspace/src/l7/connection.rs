//! A client's connection: its version of HTTP, its requests, its time limit, its end.
//!
//! It is served as HTTP/1 until its first bytes turn out to be HTTP/2's preface ([`Line`]); what is
//! HTTP/2's own stands in [`super::http2`].
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
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use steerage_common::error::ErrorClass;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::exchange::respond;
use super::forward::Sender;
use super::lent::Line;
use super::tunnel::{Side, Tunnel};
use super::{HEAD_BYTES_MAX, Proxy, REQUEST_BUFFER_BYTES_MAX, http2};
use crate::net::{self, Deadline, Progress, Stream, clock, within};

/// How long a client may go on sending a body that nobody reads, before it is cut off.
const LINGER: Duration = Duration::from_secs(5);

/// What the requests of one connection share.
#[derive(Debug)]
pub(super) struct Client {
    front: usize,
    ip: IpAddr,
    sender: Sender,
    /// How long the connection may be without a request.
    idle: Cell<Duration>,
    /// Set while no request is open.
    deadline: Deadline,
    open_requests: Cell<u32>,
    /// Bytes received before the wait for the next request.
    received_before: Cell<u64>,
    progress: Progress,
    left_unread: Cell<bool>,
    /// Follows the response that is being sent.
    tunnel: RefCell<Option<Box<Tunnel>>>,
}

impl Client {
    fn new(proxy: &Proxy, front: usize, peer: SocketAddr, progress: Progress) -> Self {
        // A dual-stack socket shows IPv4 clients as mapped addresses.
        let ip = peer.ip().to_canonical();
        let address = HeaderValue::from_str(&ip.to_string());
        let header_read = proxy.fronts[front].header_read;
        Self {
            front,
            ip,
            sender: Sender {
                address: address.unwrap_or(HeaderValue::from_static("unknown")),
                is_trusted: proxy.trusts(ip),
                scheme: HeaderValue::from_static("http"),
            },
            idle: Cell::new(header_read),
            deadline: Deadline::after(header_read),
            open_requests: Cell::new(0),
            received_before: Cell::new(0),
            progress,
            left_unread: Cell::new(false),
            tunnel: RefCell::default(),
        }
    }

    pub(super) fn front(&self) -> usize {
        self.front
    }

    /// The client's address.
    pub(super) fn ip(&self) -> IpAddr {
        self.ip
    }

    pub(super) fn sender(&self) -> &Sender {
        &self.sender
    }

    pub(super) fn request_began(&self) {
        self.open_requests.set(self.open_requests.get() + 1);
        self.deadline.unset_again();
    }

    pub(super) fn request_ended(&self) {
        let left = self.open_requests.get().saturating_sub(1);
        self.open_requests.set(left);
        if left == 0 {
            self.received_before.set(self.progress.received());
            self.deadline.set(self.idle.get());
        }
    }

    /// Allows another time without a request, from now on.
    pub(super) fn may_idle(&self, idle: Duration) {
        self.idle.set(idle);
        if self.open_requests.get() == 0 {
            self.deadline.set(idle);
        }
    }

    /// Opens a tunnel after the response: over the whole connection, or over a stream of it.
    pub(super) fn open(&self, tunnel: Box<Tunnel>, stream: Option<OnUpgrade>) {
        let Some(stream) = stream else {
            self.tunnel.replace(Some(tunnel));
            return;
        };
        net::spawn(async move {
            if let Ok(upgraded) = stream.await {
                tunnel.run(Side::Stream(TokioIo::new(upgraded)), Bytes::new()).await;
            }
        });
    }

    /// Notes that a request body was dropped before its end.
    pub(super) fn leave_unread(&self) {
        self.left_unread.set(true);
    }

    /// Ready when the client was without a request for too long.
    pub(super) fn poll_idle(&self, cx: &Context<'_>) -> Poll<()> {
        self.deadline.poll_reached(cx)
    }

    /// As [`Client::poll_idle`], but the last response's way to the client does not count.
    fn poll_overdue(&self, cx: &Context<'_>) -> Poll<()> {
        while self.deadline.poll_reached(cx).is_ready() {
            let until = self.progress.sent_ms() + self.idle.get().as_millis() as u64;
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
    /// By a response that opened a tunnel; and what the client has sent after its request.
    Tunnel(Box<Tunnel>, Bytes),
    /// Not at all: the client began with HTTP/2's preface.
    IsHttp2,
}

/// Serves a client until one side ends the connection.
pub async fn serve(proxy: Rc<Proxy>, front: usize, stream: Stream, peer: SocketAddr) {
    let client = Rc::new(Client::new(&proxy, front, peer, stream.progress()));
    let line = Line::new(stream);
    let mut end = serve_http1(&proxy, &client, &line).await;
    if matches!(end, End::IsHttp2) {
        // Boxed: large beside what an HTTP/1 connection needs.
        Box::pin(http2::serve(&proxy, &client, &line)).await;
        end = End::Closed;
        // A stream that is not read to its end is none of the connection's.
        client.left_unread.set(false);
    }
    // hyper has given its half back.
    let Ok(line) = Rc::try_unwrap(line) else { return };
    let mut stream = line.into_stream();
    let end = match end {
        End::Tunnel(tunnel, early) => {
            Box::pin(tunnel.run(Side::Connection(stream), early)).await;
            return;
        }
        end => end,
    };
    if matches!(end, End::Overdue)
        && client.open_requests.get() == 0
        && client.progress.received() > client.received_before.get()
    {
        proxy.count_error(ErrorClass::HeaderTimeout);
        let replies = &proxy.fronts[front].replies;
        let _ = stream.write_all(&replies.bytes(ErrorClass::HeaderTimeout)).await;
        client.leave_unread();
    }
    if client.left_unread.get() {
        let _ = within(LINGER, linger(&mut stream)).await;
    }
    // Dropping it sends what is deferred and closes.
}

async fn serve_http1(proxy: &Rc<Proxy>, client: &Rc<Client>, line: &Rc<Line>) -> End {
    let service = service_fn(|request| respond(proxy.clone(), client.clone(), request));
    let mut connection = http1::Builder::new()
        .max_buf_size(REQUEST_BUFFER_BYTES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(line.lend()), service);
    let mut is_told = false;
    let end = poll_fn(|cx| {
        if proxy.is_draining.get() && !is_told {
            is_told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if let Poll::Ready(outcome) = Pin::new(&mut connection).poll(cx) {
            if let Err(error) = outcome {
                tracing::debug!(%error, "client connection broke");
                // A tunnel that was to follow does not.
                client.tunnel.take();
            }
            return Poll::Ready(End::Closed);
        }
        if line.is_http2() {
            return Poll::Ready(End::IsHttp2);
        }
        client.poll_overdue(cx).map(|()| End::Overdue)
    })
    .await;
    match client.tunnel.take() {
        Some(tunnel) if matches!(end, End::Closed) => {
            End::Tunnel(tunnel, connection.into_parts().read_buf)
        }
        _ => end,
    }
}

/// Ends our half and reads away what the client still sends.
async fn linger(stream: &mut Stream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut sink = vec![0; 16 * 1024];
    while stream.read(&mut sink).await? != 0 {}
    Ok(())
}
